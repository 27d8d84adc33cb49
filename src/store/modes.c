/* SPDX-License-Identifier: MIT */
/*
 * See modes.h. Looks at folders first: where all of them are closed nobody reaches the files, and a
 * store of a hundred thousand layers costs no more than six system calls. Whatever is changed is
 * changed by descriptor, and only when it is ours, so that no planted link makes us change another
 * file.
 */
#include "store/modes.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/sizes.h"

#define GOLDEN "golden" /* links in it keep their image's mode */

static const char *const folders[] = {".", GOLDEN, "layer", "pool", "journal", "index"};

static int open_entry(int dirfd, const char *name)
{
	return openat(dirfd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
}

/* Takes from a file or folder what group and others may do. Returns whether there was something. */
static bool close_to_others(int fd)
{
	struct stat st;

	if (fstat(fd, &st) < 0 || !(st.st_mode & 077) || st.st_uid != geteuid())
		return false;
	if (S_ISREG(st.st_mode) && st.st_nlink > 1)
		return false; /* somebody else's file as well */
	return fchmod(fd, st.st_mode & 0700) == 0;
}

static void close_files(int dirfd)
{
	int copy = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = copy >= 0 ? fdopendir(copy) : NULL;
	struct dirent *entry;

	if (!dir) {
		if (copy >= 0)
			close(copy);
		return;
	}
	while ((entry = readdir(dir))) {
		CLEANUP_CLOSE int fd = -1;
		struct stat st;

		if (entry->d_name[0] == '.' ||
			fstatat(dirfd, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0 ||
			!S_ISREG(st.st_mode))
			continue;
		fd = open_entry(dirfd, entry->d_name);
		if (fd >= 0)
			close_to_others(fd);
	}
	closedir(dir);
}

void store_modes_tighten(int store_fd, const char *path)
{
	struct stat st;

	if (fstat(store_fd, &st) == 0 && st.st_uid != geteuid())
		log_warning("store \"%s\" belongs to user %u, who can read and change all that is in it",
			path, (unsigned)st.st_uid);
	for (size_t i = 0; i < ARRAY_SIZE(folders); i++) {
		CLEANUP_CLOSE int fd = open_entry(store_fd, folders[i]);

		if (fd < 0 || fstat(fd, &st) < 0 || !S_ISDIR(st.st_mode) || !close_to_others(fd))
			continue;
		if (strcmp(folders[i], GOLDEN) != 0)
			close_files(fd);
		log_info("folder \"%s%s%s\" was open to others (mode %04o); it is not any more", path,
			i ? "/" : "", i ? folders[i] : "", (unsigned)st.st_mode & 07777);
	}
}

bool store_modes_are_foreign(int store_fd)
{
	for (size_t i = 0; i < ARRAY_SIZE(folders); i++) {
		struct stat st;

		if (fstatat(store_fd, folders[i], &st, AT_SYMLINK_NOFOLLOW) < 0)
			continue;
		if (st.st_uid != geteuid() || (S_ISDIR(st.st_mode) && (st.st_mode & 0700) != 0700))
			return true;
	}
	return false;
}
