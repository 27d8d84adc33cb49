/* SPDX-License-Identifier: MIT */
/*
 * The notify protocol of systemd(1): lines of NAME=VALUE in one datagram to the socket named by
 * NOTIFY_SOCKET, a path or, behind an "@", an abstract name. See sd_notify(3). It is spoken here
 * rather than by libsystemd: forty lines against a library in the process that must not fail.
 */
#ifndef GOLDFS_DAEMON_SDNOTIFY_H
#define GOLDFS_DAEMON_SDNOTIFY_H

/* Remembers the socket and takes it out of the environment, so that no child speaks for us. */
void sdnotify_init(void);
/* Sends a message, when somebody listens; waits a second at most for one who is slow to. */
void sdnotify(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#endif
