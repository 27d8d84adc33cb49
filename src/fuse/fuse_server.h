/* SPDX-License-Identifier: MIT */
/*
 * Serves a goldfs to the kernel: requests in from /dev/fuse, answers out.
 *
 * The server knows nothing of mounting: it is given the descriptor of a mounted connection. Life
 * cycle: fuse_server_new() (before the file system is opened, which needs its hooks), then
 * fuse_server_start() once fs and service exist, then either the kernel ends the connection
 * (unmount) or fuse_server_stop() ends the threads. Then fs is closed, which calls back for the
 * last fsync requests, and fuse_server_free() comes last.
 *
 * What was agreed with the kernel at INIT stays in the handover memory, with the INIT request
 * itself: a successor process is told the same without asking the kernel again.
 */
#ifndef GOLDFS_FUSE_FUSE_SERVER_H
#define GOLDFS_FUSE_FUSE_SERVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "fuse/handover.h"

struct fs;
struct service;
struct fuse_server;

#define FUSE_SERVER_IO_MAX (1024 * 1024) /* bytes of one read or write; also mount's max_read */

struct fuse_server_options {
	unsigned threads; /* 0: max(16, 2 * processors), at most 32 */
	bool no_busy_poll; /* sleep whenever there is no request */
	/* Paths that the root's user.goldfs.store names; `goldfs umount` waits for its lock. */
	const char *store;
	/*
	 * Lent, the same for all workers of a mount; NULL: there will be no successor. takeover:
	 * another process served this connection before and is dead; what it did not answer is
	 * served first (takeover.c).
	 */
	struct handover *handover;
	bool takeover;
	/* Called once, when the answer to INIT is written, or what a dead process was asked is in
	 * our hands: the mount serves. Any thread. */
	void (*ready)(void *arg);
	/* Called once, when the last thread has seen the end of the connection, or when nothing
	 * could be agreed on with the kernel. Any thread. */
	void (*ended)(void *arg);
	void *arg;
};

/* options are copied, their strings too. */
int fuse_server_new(struct fuse_server **server, const struct fuse_server_options *options);
/* Takes ownership of fd (an open /dev/fuse that is mounted) on success. Returns at once, after a
 * takeover as soon as all that is to be served again has been read. -EOPNOTSUPP: this kernel does
 * not send requests again. */
int fuse_server_start(struct fuse_server *server, int fd, struct fs *fs, struct service *service);
/* Gives memory that idle threads keep back to the system, and asks the kernel about what a dead
 * process may have left open. Call it every second or so. */
void fuse_server_tick(struct fuse_server *server);
/* Ends the threads, in any case; requests that are being served are answered first. */
void fuse_server_stop(struct fuse_server *server);
/* Closes the descriptor too, which ends the connection unless somebody else holds it. */
void fuse_server_free(struct fuse_server *server);

/* Drops what the kernel has cached of ino. For struct fs_hooks: arg is the server. Any thread;
 * never blocks and never waits for a request. */
void fuse_server_invalidate(void *arg, uint64_t ino);
/* Whether the kernel holds ino: 1, 0, or a negative errno. For struct fs_hooks. Waits for the
 * kernel to finish with an inode that is going, so never from a thread that serves requests. */
int fuse_server_is_known(void *arg, uint64_t ino);
/* Keeps a note of the core in the handover memory. For struct fs_hooks. */
int fuse_server_keep(void *arg, const void *bytes, size_t len, bool urgent);

/* Requests by kind. The numbers are those of the protocol (linux/fuse.h). */
#define FUSE_OPS(X) \
	X(lookup, 1) \
	X(forget, 2) \
	X(getattr, 3) \
	X(setattr, 4) \
	X(readlink, 5) \
	X(symlink, 6) \
	X(mknod, 8) \
	X(mkdir, 9) \
	X(unlink, 10) \
	X(rmdir, 11) \
	X(rename, 12) \
	X(link, 13) \
	X(open, 14) \
	X(read, 15) \
	X(write, 16) \
	X(statfs, 17) \
	X(release, 18) \
	X(fsync, 20) \
	X(setxattr, 21) \
	X(getxattr, 22) \
	X(listxattr, 23) \
	X(removexattr, 24) \
	X(flush, 25) \
	X(init, 26) \
	X(opendir, 27) \
	X(readdir, 28) \
	X(releasedir, 29) \
	X(fsyncdir, 30) \
	X(create, 35) \
	X(interrupt, 36) \
	X(ioctl, 39) \
	X(poll, 40) \
	X(batch_forget, 42) \
	X(fallocate, 43) \
	X(readdirplus, 44) \
	X(rename2, 45) \
	X(lseek, 46) \
	X(copy_file_range, 47) \
	X(syncfs, 50) \
	X(statx, 52) \
	X(copy_file_range_64, 53)

#define FUSE_OP_COUNT 64

/* Requests received since the start, by number. Unknown kinds are counted under 0. */
void fuse_server_op_counts(struct fuse_server *server, uint64_t counts[FUSE_OP_COUNT]);
/* "getattr", or NULL for a number that is not in the table. */
const char *fuse_op_name(unsigned op);

#endif
