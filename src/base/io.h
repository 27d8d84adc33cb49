/* SPDX-License-Identifier: MIT */
/*
 * The I/O table: every system call that goldfs makes on its store passes through here.
 *
 * One table of functions stands between the store and the file system below, so that the same
 * store code runs on real files (io_posix) and, in the crash tests, on a simulated disk that drops,
 * keeps or tears whatever was not synced (tests/crash/simdisk.c).
 *
 * Paths are relative to the store's folder, never absolute, without "..". A handle is a small
 * non-negative integer that belongs to the table which gave it. All functions may be called by
 * several threads at once, also on the same handle. Unless it says otherwise a function returns 0,
 * or a negative errno; it never retries and never writes less than it says: a short write is
 * reported as -EIO (or -ENOSPC), a read past the end returns fewer bytes. Whatever the reason why
 * there is no space (full, over a quota, a file too large for the file system), it is -ENOSPC.
 *
 * What counts as durable: data and size of a file after fdatasync() on any handle of it; a name
 * after syncdir() of its folder. A failed fdatasync must not be repeated: the pages may be gone.
 */
#ifndef GOLDFS_BASE_IO_H
#define GOLDFS_BASE_IO_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

struct io;

struct io_stat {
	uint64_t size;      /* bytes */
	uint64_t allocated; /* bytes that the file system below uses for it */
};

struct io_space {
	uint64_t total; /* bytes of the file system below */
	uint64_t free;  /* bytes that the store may still take */
};

struct io_ops {
	/* flags as open(2): O_RDONLY or O_RDWR, with O_CREAT, O_EXCL, O_TRUNC, O_DIRECT (-EINVAL:
	 * cannot). Mode is 0600. */
	int (*open)(struct io *io, const char *path, int flags);
	void (*close)(struct io *io, int fd);
	/* Returns bytes read; fewer than len only at the end of the file. */
	ssize_t (*pread)(struct io *io, int fd, void *buf, size_t len, uint64_t off);
	/* Writes all of iov or fails; what a failed write left behind is undefined. */
	int (*pwritev)(struct io *io, int fd, const struct iovec *iov, int count, uint64_t off);
	/* The same for a few bytes within what the file has already, cheaper where the same pages are written
	 * again and again before they are synced (io_map.h). May be NULL. */
	int (*poke)(struct io *io, int fd, const void *buf, size_t len, uint64_t off);
	int (*fdatasync)(struct io *io, int fd);
	int (*truncate)(struct io *io, int fd, uint64_t size);
	/* Gives the range its blocks, so that a write to it cannot fail for want of space; the file
	 * grows to hold it. -EOPNOTSUPP: cannot. After -ENOSPC a part may have them. */
	int (*allocate)(struct io *io, int fd, uint64_t off, uint64_t len);
	/* Gives the range back; it reads as zeros and the size stays. -EOPNOTSUPP: cannot. */
	int (*punch)(struct io *io, int fd, uint64_t off, uint64_t len);
	/* The first data at or after off, as [*start, *end). -ENXIO: none. */
	int (*next_data)(struct io *io, int fd, uint64_t off, uint64_t *start, uint64_t *end);
	int (*stat)(struct io *io, int fd, struct io_stat *st);
	int (*rename)(struct io *io, const char *from, const char *to);
	int (*unlink)(struct io *io, const char *path);
	/* An existing folder is no error. */
	int (*mkdir)(struct io *io, const char *path);
	int (*syncdir)(struct io *io, const char *path);
	/* Calls cb for every entry but dot ones; stops when cb returns non-zero, returns that. */
	int (*list)(struct io *io, const char *path, int (*cb)(void *arg, const char *name),
		void *arg);
	int (*space)(struct io *io, struct io_space *space);
	/* Has the disk begin with what the range holds unsynced, so that the next sync finds little to
	 * do; promises nothing, and that sync has its errors. May be NULL. */
	void (*write_back)(struct io *io, int fd, uint64_t off, uint64_t len);
	/* Has the disk begin to read what will be read soon; promises nothing. May be NULL. */
	void (*will_read)(struct io *io, int fd, uint64_t off, uint64_t len);
	/* Returns when the file system below takes writes: at once, unless it is frozen. May be NULL. */
	void (*await_writable)(struct io *io, int fd);
	/* Forgets what is cached of a file and not changed: reads come from the disk. May be NULL. */
	void (*drop_cache)(struct io *io, int fd);
	/* Names the time since which nothing written was lost, synced or not: the same bytes until
	 * the machine (or what plays it) goes down. -errno: not known. */
	int (*boot)(struct io *io, uint8_t id[16]);
	void (*free)(struct io *io);
};

/* Embedded as the first member by each implementation. */
struct io {
	const struct io_ops *ops;
};

/*
 * Real files below the folder that dirfd refers to. Takes ownership of dirfd on success.
 * io_posix_dirfd() lends the descriptor for what the table does not cover (locks, links).
 */
int io_posix_new(struct io **io, int dirfd);
int io_posix_dirfd(struct io *io);

/* One buffer instead of an iovec. */
static inline int io_pwrite(struct io *io, int fd, const void *buf, size_t len, uint64_t off)
{
	struct iovec iov = {.iov_base = (void *)buf, .iov_len = len};

	return io->ops->pwritev(io, fd, &iov, 1, off);
}

static inline int io_poke(struct io *io, int fd, const void *buf, size_t len, uint64_t off)
{
	return (io->ops->poke ? io->ops->poke : io_pwrite)(io, fd, buf, len, off);
}

/* Reads exactly len bytes; what lies behind the end of the file reads as zeros. */
int io_pread_full(struct io *io, int fd, void *buf, size_t len, uint64_t off);

#endif
