/* SPDX-License-Identifier: MIT */
/*
 * System calls on descriptors of real files, as whole operations: short results and interruptions
 * are gone on with, errors are negative errno. The I/O table for real files and the code that
 * handles golden images (which are outside the store, so outside that table) share them.
 */
#ifndef GOLDFS_BASE_FD_H
#define GOLDFS_BASE_FD_H

#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

/* Returns bytes read; fewer than len only at the end of the file. */
ssize_t fd_pread(int fd, void *buf, size_t len, uint64_t off);
/* Reads exactly len bytes; what lies behind the end of the file reads as zeros. 0 or -errno. */
int fd_pread_full(int fd, void *buf, size_t len, uint64_t off);
/* The same, without leaving the bytes in the page cache where the kernel can do that: for those who
 * read a whole image once and must not push out what guests use. */
int fd_pread_past_cache(int fd, void *buf, size_t len, uint64_t off);
/* Writes everything or fails. 0 or -errno. */
int fd_pwritev(int fd, const struct iovec *iov, int count, uint64_t off);
int fd_pwrite(int fd, const void *buf, size_t len, uint64_t off);
/* First data at or after off as [*start, *end) in bytes. -ENXIO: none. Moves the file offset. */
int fd_next_data(int fd, uint64_t off, uint64_t *start, uint64_t *end);
/* Makes the names in a folder durable; path is relative to dirfd, "" being dirfd itself. */
int fd_syncdir(int dirfd, const char *path);

#endif
