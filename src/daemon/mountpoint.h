/* SPDX-License-Identifier: MIT */
/* Mounting and unmounting: by system calls as root, through fusermount3 as anybody else. */
#ifndef GOLDFS_DAEMON_MOUNTPOINT_H
#define GOLDFS_DAEMON_MOUNTPOINT_H

#include <stdbool.h>

#include "daemon/config.h"
#include "daemon/failure.h"

/* Mounts config->mountpoint. Returns the connection's descriptor, or -errno with failure set. */
int mountpoint_mount(const struct mount_config *config, struct failure *failure);
/* -EBUSY: in use. lazy: taken out of the tree whether in use or not. 0 or -errno. */
int mountpoint_unmount(const char *target, bool lazy);
/* Takes dead goldfs mounts off target. 0 or -errno with failure set. */
int mountpoint_clean(const char *target, struct failure *failure);

/* fusermount.c */
int fusermount_mount(const char *target, const char *options, struct failure *failure);
int fusermount_unmount(const char *target, bool lazy);

#endif
