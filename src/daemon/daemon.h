/* SPDX-License-Identifier: MIT */
#ifndef GOLDFS_DAEMON_DAEMON_H
#define GOLDFS_DAEMON_DAEMON_H

#include "daemon/config.h"
#include "daemon/failure.h"

/*
 * Mounts and serves what config asks for. In the foreground returns when the mount is over, in the
 * background, in the process that called it, as soon as the mount serves; the daemon itself never
 * returns from here. config's paths are made absolute. 0, or -errno with failure set.
 */
int daemon_run(struct mount_config *config, struct failure *failure);

#endif
