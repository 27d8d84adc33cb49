/* SPDX-License-Identifier: MIT */
#ifndef GOLDFS_DAEMON_UNMOUNT_H
#define GOLDFS_DAEMON_UNMOUNT_H

#include <stdbool.h>

#include "daemon/config.h"

/*
 * Unmounts what is ours: the mount of this id. While it is in use that fails, and guests would get
 * errors from a forced one, so the users are named in the log and have ten seconds to go; then, or
 * at once with now set, the mount is detached and they see ENOTCONN. Waits as long as that takes;
 * returns when the mount is gone or was not there, or not ours, any more.
 */
void unmount_ours(const struct mount_config *config, int mount_id, bool now);

#endif
