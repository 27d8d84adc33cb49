/* SPDX-License-Identifier: MIT */
/* See publish.h. */
#include "image/publish.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/hash.h"
#include "base/mutation.h"
#include "base/sizes.h"
#include "base/times.h"
#include "image/folder.h"

#define PIECE (1 * MIB)

static void staging_name(char name[40], uint64_t id)
{
	snprintf(name, 40, "promoted/%" PRIu64, id);
}

static int open_dir(struct publish *p, struct folder *folder, const char *path)
{
	const char *slash = strrchr(path, '/');
	CLEANUP_FREE char *dir = strndup(path, slash ? (size_t)(slash - path) : 0);

	if (!dir)
		return -ENOMEM;
	p->name = slash ? slash + 1 : path;
	p->dir_fd = folder_open_folder(folder, dir);
	return p->dir_fd < 0 ? p->dir_fd : 0;
}

static int open_staged(struct publish *p)
{
	char name[40];
	struct stat st;

	if (mkdirat(p->store_fd, "promoted", 0700) < 0 && errno != EEXIST)
		return -errno;
	staging_name(name, p->id);
	p->fd = openat(p->store_fd, name, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (p->fd < 0 || fstat(p->fd, &st) < 0)
		return -errno;
	p->found = (uint64_t)st.st_size;
	return 0;
}

/* Whether the name is there: 0, 1: as this very file, or -EEXIST. */
static int look_at_name(struct publish *p)
{
	struct stat there, own;

	if (fstatat(p->dir_fd, p->name, &there, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 0 : -errno;
	if (fstat(p->fd, &own) < 0)
		return -errno;
	return there.st_dev == own.st_dev && there.st_ino == own.st_ino ? 1 : -EEXIST;
}

int publish_begin(struct publish *p, struct folder *folder, const char *path, int store_fd, uint64_t id)
{
	struct stat dir, store;
	int r;

	*p = (struct publish)PUBLISH_INIT;
	p->store_fd = store_fd;
	p->id = id;
	r = open_dir(p, folder, path);
	if (r)
		return r;
	if (fstat(p->dir_fd, &dir) < 0 || fstat(store_fd, &store) < 0)
		return -errno;
	p->staged = dir.st_dev == store.st_dev;
	if (p->staged) {
		r = open_staged(p);
	} else {
		p->fd = openat(p->dir_fd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
		r = p->fd < 0 ? -errno : 0;
	}
	return r ? r : look_at_name(p);
}

static bool is_there(struct publish *p, const void *buf, size_t len, uint64_t off)
{
	CLEANUP_FREE void *old = NULL;

	if (off >= p->found)
		return false;
	old = malloc(len);
	return old && fd_pread_full(p->fd, old, len, off) == 0 && memcmp(old, buf, len) == 0;
}

int publish_put(struct publish *p, const void *buf, size_t len, uint64_t off)
{
	return is_there(p, buf, len, off) ? 0 : fd_pwrite(p->fd, buf, len, off);
}

/* Where holes cannot be made. */
static int write_zeros(struct publish *p, uint64_t off, uint64_t end)
{
	CLEANUP_FREE void *zeros = calloc(1, PIECE);
	int r = zeros ? 0 : -ENOMEM;

	for (; off < end && !r; off += PIECE)
		r = publish_put(p, zeros, min_u64(PIECE, end - off), off);
	return r;
}

int publish_hole(struct publish *p, uint64_t off, uint64_t end)
{
	end = min_u64(end, p->found);
	if (off >= end)
		return 0;
	if (fallocate(p->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)off,
		    (off_t)(end - off)) == 0)
		return 0;
	return errno == EOPNOTSUPP ? write_zeros(p, off, end) : -errno;
}

int publish_write_back(struct publish *p, bool wait)
{
	const unsigned all = SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE |
			     SYNC_FILE_RANGE_WAIT_AFTER;

	/* Some file systems cannot. */
	if (sync_file_range(p->fd, 0, 0, wait ? all : SYNC_FILE_RANGE_WRITE) == 0 || errno == ENOSYS || errno == EINVAL)
		return 0;
	return -errno;
}

static int give_name(struct publish *p)
{
	char name[40];

	if (p->staged) {
		/* Nobody can clone an image that is open for writing. */
		close(p->fd);
		p->fd = -1;
		staging_name(name, p->id);
		return linkat(p->store_fd, name, p->dir_fd, p->name, 0) < 0 ? -errno : 0;
	}
	snprintf(name, sizeof(name), "/proc/self/fd/%d", p->fd);
	return linkat(AT_FDCWD, name, p->dir_fd, p->name, AT_SYMLINK_FOLLOW) < 0 ? -errno : 0;
}

int publish_finish(struct publish *p, uint64_t size, uint32_t mode, int64_t mtime_ns)
{
	struct timespec times[2] = {{.tv_nsec = UTIME_NOW},
		{.tv_sec = mtime_ns / 1000000000, .tv_nsec = mtime_ns % 1000000000}};
	int r;

	if (ftruncate(p->fd, (off_t)size) < 0 || fchmod(p->fd, mode) < 0 ||
		futimens(p->fd, times) < 0)
		return -errno;
	if (SITE("promote: sync the image before it gets its name", fsync(p->fd)) < 0)
		return -errno;
	r = give_name(p);
	return r ? r : SITE("promote: sync the image's name", fd_syncdir(p->dir_fd, ""));
}

void publish_release(struct publish *p)
{
	if (p->fd >= 0)
		close(p->fd);
	if (p->dir_fd >= 0)
		close(p->dir_fd);
	*p = (struct publish)PUBLISH_INIT;
}

void publish_drop(int store_fd, uint64_t id)
{
	char name[40];

	staging_name(name, id);
	unlinkat(store_fd, name, 0);
}
