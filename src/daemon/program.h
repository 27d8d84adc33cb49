/* SPDX-License-Identifier: MIT */
/*
 * A program file held open, so that it can be started whatever happens to its name: after an
 * upgrade of the package the old one has none any more, and may still be what a mount goes back to.
 *
 * How a worker is called is the interface between programs of different versions:
 *
 *	goldfs mount-worker [-f] [--takeover] --fuse-fd N --lock-fd N --handover-fd N
 *		--channel-fd N [--option NAME[=VALUE]]... -- IMAGES MOUNTPOINT
 *	goldfs mount-worker --probe [-f] [--option NAME[=VALUE]]... -- IMAGES MOUNTPOINT
 *
 * with the options as they were typed behind -o, one by one, and all paths absolute. An argument
 * that it does not know makes a worker end with status 2 before it touched anything. A probe starts
 * nothing: it says whether this program could serve this mount, "goldfs-worker 1 VERSION" and
 * status 0, or one line why not.
 */
#ifndef GOLDFS_DAEMON_PROGRAM_H
#define GOLDFS_DAEMON_PROGRAM_H

#include <limits.h>
#include <stdbool.h>
#include <sys/types.h>

#include "daemon/config.h"

#define WORKER_VERB "mount-worker"
#define WORKER_INTERFACE "goldfs-worker 1 " /* what a probe says, then the version */

struct program {
	int fd; /* -1: none */
	char path[PATH_MAX];
};

/* What a worker is handed; descriptors are lent. */
struct worker_link {
	int fuse_fd;
	int lock_fd;
	int handover_fd;
	int channel_fd;
	bool takeover; /* of a connection that another worker has served */
};

/* 0; -errno; -EPERM: somebody else than root and us owns it or may write to it. */
int program_open(struct program *program, const char *path);
/* The one that runs. */
int program_open_own(struct program *program);
void program_close(struct program *program);
/* Whether it lies below folder (absolute, without links) now. */
bool program_is_below(const struct program *program, const char *folder);
bool program_same(const struct program *a, const struct program *b);

/* Starts a worker of it. The process, or -errno. */
pid_t program_start_worker(const struct program *program, const struct mount_config *config,
	const struct worker_link *link);
/* Starts a probe in a process group of its own, with what it says in output. */
pid_t program_start_probe(const struct program *program, const struct mount_config *config,
	int output);

#endif
