/* SPDX-License-Identifier: MIT */
/*
 * Least privilege for the process that serves a mount.
 *
 * It reads what guests, users and strangers wrote: requests, images, a store. Should one of them
 * find a way to make it run his code, that code is to have as little as possible. So before it
 * looks at any of it, the process gives up, for ever and for all its threads and children:
 *
 *   capabilities  all but those that golden images of other owners need (privileges.c), also from
 *		   the bounding set, and the gain of others by running a program (no_new_privs)
 *   files	   all but the store, the images, and a few of /proc and /sys (privileges_files.c)
 *   system calls  all but those that serving takes (privileges_calls.c)
 *
 * Mounting and unmounting is the business of the supervisor, which reads none of that.
 */
#ifndef GOLDFS_DAEMON_PRIVILEGES_H
#define GOLDFS_DAEMON_PRIVILEGES_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/config.h"
#include "daemon/failure.h"

/*
 * To be called by the only thread of the process, with the log open and store_fd the store's
 * folder. What the kernel does not offer is left out, with a line in the log. 0, or -errno with
 * failure set.
 */
int privileges_drop(const struct mount_config *config, int store_fd, struct failure *failure);

/* privileges.c: which capabilities root's worker keeps, a bit for each. foreign_store: see
 * store/modes.h. Pure. */
uint64_t privileges_capabilities(bool foreign_store);

/* privileges_files.c. 0; -EOPNOTSUPP: the kernel cannot; -errno. */
int privileges_confine_files(const struct mount_config *config, int store_fd);

/* privileges_calls.c. 0 or -errno. */
int privileges_filter_calls(void);

#endif
