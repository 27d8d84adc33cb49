/* SPDX-License-Identifier: MIT */
/*
 * Where the daemon's log goes: the place asked for with -o log=, else stderr in the foreground and
 * the system log in the background. Where no system log listens, or cannot be reached, it is the
 * file `log` in the store; what a dying process prints to stderr ends up there in any case. The
 * file is renamed to log.1 when it has grown to a few MiB, so that two of them are the most; all
 * processes of the mount go over to the new one.
 */
#ifndef GOLDFS_DAEMON_LOGGING_H
#define GOLDFS_DAEMON_LOGGING_H

#include "daemon/config.h"

/* For the process that serves, once the store is there. 0 or -errno: the file asked for. */
int logging_start(const struct mount_config *config);
/* Renames a log that has grown; call it every now and then. */
void logging_tick(const struct mount_config *config);
/* Where to look, as it stands in messages: "the system log", a path. */
const char *logging_place(void);

#endif
