/* SPDX-License-Identifier: MIT */
/* The worker as a process: what the supervisor starts, see program.h. */
#ifndef GOLDFS_DAEMON_WORKER_MAIN_H
#define GOLDFS_DAEMON_WORKER_MAIN_H

#include "daemon/config.h"
#include "daemon/failure.h"
#include "daemon/program.h"

/* What a worker ends with. Any other status, 2 for arguments that it does not know among them, and
 * any signal mean that it died. */
enum {
	WORKER_DONE = 0,       /* the connection is over, the store is closed */
	WORKER_FAILED = 1,     /* it could not start, and said why over the channel */
	WORKER_NOT_CLOSED = 4, /* the connection is over, the next mount recovers the store */
	WORKER_HANDED_OVER = 5, /* it was told to make room for the next one */
};

/* Serves until the end. Takes ownership of the link's descriptors. Returns the exit status. */
int worker_main(const struct mount_config *config, const struct worker_link *link);
/* Whether this program could serve this mount: 0, or -errno with failure set. Changes nothing. */
int worker_probe(const struct mount_config *config, struct failure *failure);

#endif
