/* SPDX-License-Identifier: MIT */
/*
 * The I/O table on real files: each function is one system call, or as few as its contract needs.
 *
 * Handles are plain descriptors. Everything is opened relative to the store's folder, so that the
 * daemon may change its working directory and the folder may be renamed while it is mounted. The
 * last component of a path is never followed when it is a symbolic link: the store writes its own
 * files only, and a planted link in it must not lead a root daemon elsewhere. Nothing is retried
 * after an error; above all fdatasync is not, whatever it says.
 */
#include "base/io.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/hash.h"
#include "base/io_map.h"
#include "base/sizes.h"

struct io_posix {
	struct io io; /* first */
	int dirfd;
};

static int dirfd_of(struct io *io)
{
	return ((struct io_posix *)io)->dirfd;
}

static const char *or_dot(const char *path)
{
	return *path ? path : ".";
}

static int result(int rc)
{
	return rc < 0 ? -errno : 0;
}

/* A quota and the largest size of a file are walls like the end of the disk. */
static int space_result(int r)
{
	return r == -EDQUOT || r == -EFBIG ? -ENOSPC : r;
}

static int posix_open(struct io *io, const char *path, int flags)
{
	int fd;

	do {
		fd = openat(dirfd_of(io), path, flags | O_CLOEXEC | O_NOFOLLOW, 0600);
	} while (fd < 0 && errno == EINTR);
	return fd < 0 ? space_result(-errno) : fd;
}

static void posix_close(struct io *io, int fd)
{
	io_map_forget(fd);
	close(fd);
}

static ssize_t posix_pread(struct io *io, int fd, void *buf, size_t len, uint64_t off)
{
	return fd_pread(fd, buf, len, off);
}

static int posix_pwritev(struct io *io, int fd, const struct iovec *iov, int count, uint64_t off)
{
	return space_result(fd_pwritev(fd, iov, count, off));
}

static int posix_poke(struct io *io, int fd, const void *buf, size_t len, uint64_t off)
{
	return io_map_write(fd, buf, len, off) ? 0 : io_pwrite(io, fd, buf, len, off);
}

static int posix_fdatasync(struct io *io, int fd)
{
	int r = space_result(result(fdatasync(fd)));

	io_map_synced(fd);
	return r;
}

/* Without a flag for waiting an error is left for the sync to find. */
static void posix_write_back(struct io *io, int fd, uint64_t off, uint64_t len)
{
	sync_file_range(fd, (off_t)off, (off_t)len, SYNC_FILE_RANGE_WRITE);
}

/* A write of nothing does nothing else than wait for a frozen file system. */
static void posix_await_writable(struct io *io, int fd)
{
	while (pwrite(fd, "", 0, 0) < 0 && errno == EINTR)
		;
}

static int posix_truncate(struct io *io, int fd, uint64_t size)
{
	int rc;

	io_map_forget(fd);
	do {
		rc = ftruncate(fd, (off_t)size);
	} while (rc < 0 && errno == EINTR);
	return result(rc);
}

static int posix_allocate(struct io *io, int fd, uint64_t off, uint64_t len)
{
	int rc;

	do {
		rc = fallocate(fd, 0, (off_t)off, (off_t)len);
	} while (rc < 0 && errno == EINTR);
	return space_result(rc < 0 && errno == ENOSYS ? -EOPNOTSUPP : result(rc));
}

static int posix_punch(struct io *io, int fd, uint64_t off, uint64_t len)
{
	int rc;

	do {
		rc = fallocate(
			fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)off, (off_t)len);
	} while (rc < 0 && errno == EINTR);
	return result(rc);
}

static int posix_next_data(struct io *io, int fd, uint64_t off, uint64_t *start, uint64_t *end)
{
	return fd_next_data(fd, off, start, end);
}

static int posix_stat(struct io *io, int fd, struct io_stat *st)
{
	struct stat s;

	if (fstat(fd, &s) < 0)
		return -errno;
	st->size = (uint64_t)s.st_size;
	st->allocated = (uint64_t)s.st_blocks * 512;
	return 0;
}

static int posix_rename(struct io *io, const char *from, const char *to)
{
	return space_result(result(renameat(dirfd_of(io), from, dirfd_of(io), to)));
}

static int posix_unlink(struct io *io, const char *path)
{
	return result(unlinkat(dirfd_of(io), path, 0));
}

static int posix_mkdir(struct io *io, const char *path)
{
	struct stat st;

	if (mkdirat(dirfd_of(io), path, 0700) == 0)
		return 0;
	if (errno != EEXIST)
		return space_result(-errno);
	if (fstatat(dirfd_of(io), path, &st, 0) < 0)
		return -errno;
	return S_ISDIR(st.st_mode) ? 0 : -ENOTDIR;
}

static int posix_syncdir(struct io *io, const char *path)
{
	return fd_syncdir(dirfd_of(io), path);
}

static int posix_list(
	struct io *io, const char *path, int (*cb)(void *arg, const char *name), void *arg)
{
	CLEANUP_CLOSE int fd = -1;
	struct dirent *entry;
	DIR *dir;
	int rc = 0;

	fd = openat(dirfd_of(io), or_dot(path), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	dir = fdopendir(fd);
	if (!dir)
		return -errno;
	steal_fd(&fd);
	while (rc == 0) {
		errno = 0;
		entry = readdir(dir);
		if (!entry) {
			rc = -errno;
			break;
		}
		if (entry->d_name[0] != '.')
			rc = cb(arg, entry->d_name);
	}
	closedir(dir);
	return rc;
}

static int posix_space(struct io *io, struct io_space *space)
{
	struct statvfs vfs;

	if (fstatvfs(dirfd_of(io), &vfs) < 0)
		return -errno;
	space->total = (uint64_t)vfs.f_blocks * vfs.f_frsize;
	space->free = (uint64_t)vfs.f_bavail * vfs.f_frsize;
	return 0;
}

static void posix_free(struct io *io)
{
	close(dirfd_of(io));
	free(io);
}

#define WILL_READ (128 * KIB)

static void posix_will_read(struct io *io, int fd, uint64_t off, uint64_t len)
{
	/* Of more at once Linux reads the beginning only: what the disk takes in one request, or reads ahead. */
	for (uint64_t at = 0; at < len; at += WILL_READ)
		posix_fadvise(fd, (off_t)(off + at), (off_t)min_u64(len - at, WILL_READ), POSIX_FADV_WILLNEED);
}

static void posix_drop_cache(struct io *io, int fd)
{
	posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
}

#ifndef STATX_MNT_ID_UNIQUE /* Linux 6.8 */
#define STATX_MNT_ID_UNIQUE 0x4000U
#endif

/* Which mount of which file system the folder is on. A number that is given out again would not do:
 * a disk that was pulled out and mounted again has lost what was not synced. */
static int mount_identity(int dirfd, uint64_t *identity)
{
	struct statx stx = {0};
	uint64_t of[3];

	if (statx(dirfd, "", AT_EMPTY_PATH, STATX_MNT_ID_UNIQUE, &stx) < 0)
		return -errno;
	if (!(stx.stx_mask & STATX_MNT_ID_UNIQUE))
		return -EOPNOTSUPP;
	of[0] = stx.stx_mnt_id;
	of[1] = stx.stx_dev_major;
	of[2] = stx.stx_dev_minor;
	*identity = hash_struct(of, sizeof(of));
	return 0;
}

/* The machine may go on while the file system below was away (a disk that lost power, an image of a
 * disk that was copied): so it is the life of both. */
static int posix_boot(struct io *io, uint8_t id[16])
{
	char text[64] = "";
	uint64_t identity = 0;
	size_t n = 0;
	int r = mount_identity(dirfd_of(io), &identity);
	FILE *f = r ? NULL : fopen("/proc/sys/kernel/random/boot_id", "re");

	memset(id, 0, 16);
	if (!f)
		return r ? r : -errno;
	if (!fgets(text, sizeof(text), f))
		text[0] = '\0';
	fclose(f);
	for (const char *p = text; *p && n < 32; p++) {
		const char *hex = "0123456789abcdef";
		const char *digit = strchr(hex, *p);

		if (*p == '-' || !digit)
			continue;
		id[n / 2] |= (digit - hex) << (n % 2 ? 0 : 4);
		n++;
	}
	for (size_t i = 0; i < sizeof(identity); i++)
		id[i] ^= (uint8_t)(identity >> (8 * i));
	return n == 32 ? 0 : -EIO;
}

static const struct io_ops posix_ops = {
	.open = posix_open,
	.close = posix_close,
	.pread = posix_pread,
	.pwritev = posix_pwritev,
	.poke = posix_poke,
	.fdatasync = posix_fdatasync,
	.write_back = posix_write_back,
	.await_writable = posix_await_writable,
	.truncate = posix_truncate,
	.allocate = posix_allocate,
	.punch = posix_punch,
	.next_data = posix_next_data,
	.stat = posix_stat,
	.rename = posix_rename,
	.unlink = posix_unlink,
	.mkdir = posix_mkdir,
	.syncdir = posix_syncdir,
	.list = posix_list,
	.space = posix_space,
	.will_read = posix_will_read,
	.drop_cache = posix_drop_cache,
	.boot = posix_boot,
	.free = posix_free,
};

int io_posix_new(struct io **io, int dirfd)
{
	struct io_posix *px;
	struct stat st;

	if (fstat(dirfd, &st) < 0)
		return -errno;
	if (!S_ISDIR(st.st_mode))
		return -ENOTDIR;
	px = calloc(1, sizeof(*px));
	if (!px)
		return -ENOMEM;
	px->io.ops = &posix_ops;
	px->dirfd = dirfd;
	*io = &px->io;
	return 0;
}

int io_posix_dirfd(struct io *io)
{
	return dirfd_of(io);
}
