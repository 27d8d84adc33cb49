/* SPDX-License-Identifier: MIT */
/* See lock.h. */
#include "store/lock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"

#define LOCK_NAME "lock"
#define POLL_MS 20
#define GRACE_MS 2000 /* for a holder to notice that it was unmounted, and to say so */

/* Who the text says holds the lock, 0 for nobody; *closing when it says so. */
static pid_t read_holder(int fd, bool *closing)
{
	char text[64] = "";
	ssize_t n = pread(fd, text, sizeof(text) - 1, 0);

	*closing = n > 0 && strstr(text, "closing");
	return n > 0 ? (pid_t)atoi(text) : 0;
}

static void write_holder(int fd, pid_t holder, const char *state)
{
	char text[32];
	int n = snprintf(text, sizeof(text), "%d %-18s\n", (int)holder, state);

	/* In one write over what stood there, so that a reader never sees half of it. Only for
	 * messages: what fails here is not worth failing for. */
	if (pwrite(fd, text, (size_t)n, 0) < 0 || ftruncate(fd, n) < 0)
		return;
}

/* The lock file, made when there is none; the folder itself where nothing can be made. */
static int open_lock(int store_dirfd, bool *writable)
{
	int fd = openat(store_dirfd, LOCK_NAME, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);

	*writable = fd >= 0;
	if (fd < 0 && errno == EROFS)
		fd = openat(store_dirfd, LOCK_NAME, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0 && errno == ENOENT)
		fd = openat(store_dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

/* Waits while the holder says that it is closing. */
static int take(int fd, int how, int wait_seconds, pid_t *holder)
{
	const struct timespec pause = {.tv_nsec = POLL_MS * 1000000L};
	bool closing;

	for (int waited = 0; flock(fd, how | LOCK_NB) < 0; waited += POLL_MS) {
		if (errno != EWOULDBLOCK && errno != EINTR)
			return -errno;
		*holder = read_holder(fd, &closing);
		if (waited >= wait_seconds * 1000 || (!closing && waited >= GRACE_MS))
			return -EBUSY;
		nanosleep(&pause, NULL);
	}
	return 0;
}

int store_lock(int store_dirfd, int wait_seconds, pid_t *holder)
{
	CLEANUP_CLOSE int fd = -1;
	bool writable;
	int r;

	fd = open_lock(store_dirfd, &writable);
	if (fd < 0)
		return fd;
	r = take(fd, writable ? LOCK_EX : LOCK_SH, wait_seconds, holder);
	if (r)
		return r;
	if (writable)
		write_holder(fd, getpid(), "");
	return steal_fd(&fd);
}

int store_lock_shared(int store_dirfd, int wait_seconds, pid_t *holder)
{
	CLEANUP_CLOSE int fd =
		openat(store_dirfd, LOCK_NAME, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	int r;

	if (fd < 0)
		return -errno;
	r = take(fd, LOCK_SH, wait_seconds, holder);
	return r ? r : steal_fd(&fd);
}

void store_lock_closing(int lock_fd)
{
	bool closing;
	pid_t holder = read_holder(lock_fd, &closing);

	if ((fcntl(lock_fd, F_GETFL) & O_ACCMODE) == O_RDWR)
		write_holder(lock_fd, holder ? holder : getpid(), "closing");
}

bool store_lock_is_held(int lock_fd, pid_t *holder)
{
	bool closing;

	if (flock(lock_fd, LOCK_SH | LOCK_NB) == 0) {
		flock(lock_fd, LOCK_UN);
		return false;
	}
	*holder = read_holder(lock_fd, &closing);
	return true;
}
