/* SPDX-License-Identifier: MIT */
#ifndef GOLDFS_DAEMON_SUPERVISOR_H
#define GOLDFS_DAEMON_SUPERVISOR_H

#include "daemon/config.h"
#include "daemon/failure.h"

/* What the supervisor holds for the workers; all of it is lent. */
struct supervision {
	const struct mount_config *config;
	int fuse_fd;
	int lock_fd;
	int mount_id; /* in mountinfo; 0: not known */
	int signals;  /* signalfd of SIGTERM, SIGINT, SIGHUP and SIGCHLD, which are blocked */
	/* Called once, when the first worker serves. resend: a later one can take over from it. */
	void (*serving)(void *arg, bool resend);
	void *arg;
};

/*
 * Starts a worker and, each time one dies, the next, until the connection is over. 0: it is, and
 * the store was closed in order; -errno otherwise, with failure set.
 */
int supervise(const struct supervision *supervision, struct failure *failure);

#endif
