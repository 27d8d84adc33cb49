/* SPDX-License-Identifier: MIT */
/*
 * Who keeps a mount busy.
 *
 * Open files, working and root folders and programs are told by the mount id behind the links in
 * /proc/PID, asked for with AT_STATX_DONT_SYNC: that is exactly what makes the kernel say EBUSY,
 * and it sends no request to the daemon, which may be hung. Mapped files have no such link that
 * everyone may read; /proc/PID/maps gives their device. Loop devices hold files without being
 * processes, and mounts below ours are in use too.
 */
#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "daemon/mountinfo.h"

#define USERS_SHOWN 16

struct users {
	FILE *out;
	unsigned count;
};

static void name_user(struct users *users, const char *name, const char *detail)
{
	if (users->count < USERS_SHOWN)
		fprintf(users->out, "%s%s (%s)", users->count ? ", " : "", name, detail);
	else if (users->count == USERS_SHOWN)
		fprintf(users->out, ", and others");
	users->count++;
}

/* Whether the link /proc/PID/NAME leads into the mount. */
static bool leads_into(int dirfd, const char *name, int mount_id)
{
	struct statx st;

	return statx(dirfd, name, AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT, STATX_MNT_ID, &st) == 0 &&
	       (st.stx_mask & STATX_MNT_ID) && st.stx_mnt_id == (uint64_t)mount_id;
}

static bool has_open_file(int piddir, int mount_id)
{
	int fd = openat(piddir, "fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
	bool found = false;
	struct dirent *entry;

	if (!dir) {
		if (fd >= 0)
			close(fd);
		return false;
	}
	while (!found && (entry = readdir(dir)))
		found = isdigit((unsigned char)entry->d_name[0]) &&
			leads_into(dirfd(dir), entry->d_name, mount_id);
	closedir(dir);
	return found;
}

static bool has_mapping(int piddir, const struct mount_entry *mount)
{
	int fd = openat(piddir, "maps", O_RDONLY | O_CLOEXEC);
	FILE *file = fd >= 0 ? fdopen(fd, "r") : NULL;
	CLEANUP_FREE char *line = NULL;
	size_t room = 0;
	bool found = false;

	if (!file) {
		if (fd >= 0)
			close(fd);
		return false;
	}
	while (!found && getline(&line, &room, file) > 0) {
		unsigned major, minor;

		found = sscanf(line, "%*s %*s %*s %x:%x", &major, &minor) == 2 &&
			major == mount->major && minor == mount->minor;
	}
	fclose(file);
	return found;
}

static void look_at_process(struct users *users, const char *pid, const struct mount_entry *mount)
{
	char path[64], name[64] = "?", detail[32];
	CLEANUP_CLOSE int dir = -1;
	CLEANUP_CLOSE int comm = -1;
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/%.20s", pid);
	dir = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0)
		return;
	if (!leads_into(dir, "cwd", mount->id) && !leads_into(dir, "root", mount->id) &&
		!leads_into(dir, "exe", mount->id) && !has_open_file(dir, mount->id) &&
		!has_mapping(dir, mount))
		return;
	comm = openat(dir, "comm", O_RDONLY | O_CLOEXEC);
	n = comm >= 0 ? read(comm, name, sizeof(name) - 1) : 0;
	if (n > 0)
		name[n] = '\0';
	name[strcspn(name, "\n")] = '\0';
	snprintf(detail, sizeof(detail), "pid %.20s", pid);
	name_user(users, name, detail);
}

static void look_at_processes(struct users *users, const struct mount_entry *mount)
{
	DIR *dir = opendir("/proc");
	struct dirent *entry;

	if (!dir)
		return;
	while ((entry = readdir(dir)))
		if (isdigit((unsigned char)entry->d_name[0]) && atoi(entry->d_name) != getpid())
			look_at_process(users, entry->d_name, mount);
	closedir(dir);
}

/* What of path lies below the mount's target, or NULL. */
static const char *below(const char *path, const char *target)
{
	size_t len = strlen(target);

	return strncmp(path, target, len) == 0 && path[len] == '/' ? path + len + 1 : NULL;
}

static void look_at_loop(struct users *users, const char *name, const struct mount_entry *mount)
{
	char path[300], file[4096] = "", device[64];
	CLEANUP_CLOSE int fd = -1;
	const char *rest;

	snprintf(path, sizeof(path), "/sys/block/%.200s/loop/backing_file", name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || read(fd, file, sizeof(file) - 1) <= 0)
		return;
	file[strcspn(file, "\n")] = '\0';
	rest = below(file, mount->target);
	snprintf(device, sizeof(device), "/dev/%.50s", name);
	if (rest)
		name_user(users, device, rest);
}

static void look_at_loops(struct users *users, const struct mount_entry *mount)
{
	DIR *dir = opendir("/sys/block");
	struct dirent *entry;

	if (!dir)
		return;
	while ((entry = readdir(dir)))
		if (strncmp(entry->d_name, "loop", 4) == 0)
			look_at_loop(users, entry->d_name, mount);
	closedir(dir);
}

static void look_at_mounts(struct users *users, const struct mount_entry *mount)
{
	FILE *file = fopen("/proc/self/mountinfo", "re");
	CLEANUP_FREE char *line = NULL;
	size_t room = 0;

	if (!file)
		return;
	while (getline(&line, &room, file) > 0) {
		struct mount_entry one;

		if (mount_entry_parse(line, &one) < 0)
			continue;
		if (below(one.target, mount->target))
			name_user(users, one.target, "mounted below it");
		mount_entry_release(&one);
	}
	fclose(file);
}

char *mount_users(const struct mount_entry *entry)
{
	char *text = NULL;
	size_t len;
	struct users users = {.out = open_memstream(&text, &len)};

	if (!users.out)
		return NULL;
	look_at_processes(&users, entry);
	look_at_loops(&users, entry);
	look_at_mounts(&users, entry);
	fclose(users.out);
	if (!users.count) {
		free(text);
		text = NULL;
	}
	return text;
}
