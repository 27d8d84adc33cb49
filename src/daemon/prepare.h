/* SPDX-License-Identifier: MIT */
#ifndef GOLDFS_DAEMON_PREPARE_H
#define GOLDFS_DAEMON_PREPARE_H

#include "daemon/config.h"
#include "daemon/failure.h"

/*
 * Checks all that can be checked before anything is made or started, and makes the paths of config
 * absolute. The one thing it changes: a dead mount at the mount point is cleaned up, last of all.
 * 0 or -errno with failure set.
 */
int prepare_mount(struct mount_config *config, struct failure *failure);
/* Makes the store's folder when there is none. Returns a descriptor of it, or -errno. */
int prepare_store(const struct mount_config *config, struct failure *failure);

#endif
