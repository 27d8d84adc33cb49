/* SPDX-License-Identifier: MIT */
/*
 * Descriptor I/O without short results.
 *
 * A read or write of a regular file may stop early: a signal, a file system that is full, the 2 GiB
 * limit of one call. Callers of this file never see that. A write that stopped early is simply
 * continued, so that the kernel itself says on the next call why it could not go on (ENOSPC, EIO);
 * a write that makes no progress without an error is called an I/O error rather than looped on.
 */
#include "base/fd.h"

#include "base/blocking.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"

#ifndef RWF_DONTCACHE /* Linux 6.14 */
#define RWF_DONTCACHE 0x80
#endif

#define WINDOW 64 /* iovecs per call; far below IOV_MAX, small enough for the stack */

__thread void (*blocking_hook)(void *arg);
__thread void *blocking_hook_arg;

/* Reads what is in memory; when the disk has to be waited for, that is said first. */
static ssize_t pread_once(int fd, void *buf, size_t len, uint64_t off)
{
	struct iovec iov = {.iov_base = buf, .iov_len = len};
	ssize_t n;

	if (!blocking_hook)
		return pread(fd, buf, len, (off_t)off);
	n = preadv2(fd, &iov, 1, (off_t)off, RWF_NOWAIT);
	if (n >= 0 || errno == EINTR)
		return n;
	about_to_block();
	return pread(fd, buf, len, (off_t)off);
}

ssize_t fd_pread(int fd, void *buf, size_t len, uint64_t off)
{
	size_t done = 0;

	while (done < len) {
		ssize_t n = pread_once(fd, (char *)buf + done, len - done, off + done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		done += (size_t)n;
	}
	return (ssize_t)done;
}

int fd_pread_full(int fd, void *buf, size_t len, uint64_t off)
{
	ssize_t n = fd_pread(fd, buf, len, off);

	if (n < 0)
		return (int)n;
	memset((char *)buf + n, 0, len - (size_t)n);
	return 0;
}

int fd_pread_past_cache(int fd, void *buf, size_t len, uint64_t off)
{
	struct iovec iov = {.iov_base = buf, .iov_len = len};
	ssize_t n = len ? preadv2(fd, &iov, 1, (off_t)off, RWF_DONTCACHE) : 0;

	if (n < 0)
		n = 0; /* not supported, or an error that the plain read will meet again */
	if ((size_t)n == len)
		return 0;
	return fd_pread_full(fd, (char *)buf + n, len - (size_t)n, off + (uint64_t)n);
}

/* Fills window with what is left of iov after its first skip bytes; returns how many it took. */
static int take_window(struct iovec *window, const struct iovec *iov, int count, size_t skip)
{
	int n = 0;

	for (; n < count && n < WINDOW; n++)
		window[n] = iov[n];
	window[0].iov_base = (char *)window[0].iov_base + skip;
	window[0].iov_len -= skip;
	return n;
}

int fd_pwritev(int fd, const struct iovec *iov, int count, uint64_t off)
{
	struct iovec window[WINDOW];
	size_t skip = 0; /* bytes of iov[0] that are written already */

	for (;;) {
		ssize_t n;

		while (count > 0 && skip >= iov->iov_len) {
			skip -= iov->iov_len;
			iov++;
			count--;
		}
		if (count == 0)
			return 0;
		n = pwritev(fd, window, take_window(window, iov, count, skip), (off_t)off);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			return -EIO;
		skip += (size_t)n;
		off += (uint64_t)n;
	}
}

int fd_pwrite(int fd, const void *buf, size_t len, uint64_t off)
{
	struct iovec iov = {.iov_base = (void *)buf, .iov_len = len};

	return fd_pwritev(fd, &iov, 1, off);
}

int fd_next_data(int fd, uint64_t off, uint64_t *start, uint64_t *end)
{
	off_t data = lseek(fd, (off_t)off, SEEK_DATA);
	off_t hole;

	if (data < 0)
		return -errno;
	hole = lseek(fd, data, SEEK_HOLE);
	if (hole < 0)
		return -errno; /* cut short between the two calls: ENXIO, which is the truth */
	*start = (uint64_t)data;
	*end = (uint64_t)hole;
	return hole > data ? 0 : -ENXIO;
}

int fd_syncdir(int dirfd, const char *path)
{
	CLEANUP_CLOSE int fd = -1;

	fd = openat(dirfd, *path ? path : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	return fsync(fd) < 0 ? -errno : 0;
}
