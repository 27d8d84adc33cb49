/* SPDX-License-Identifier: MIT */
/*
 * A process that works on one pin for the daemon: a copy, or the sums of a linked image.
 *
 * Gigabytes that are read once should neither fill the daemon's turn with work nor show up as what
 * the daemon did for its clients, so they are read by a child at idle priority. It is a fork without
 * a new program: the daemon may not run programs (daemon/privileges.h). Of the parent's threads it
 * has none, so it may take no lock that one of them could have held: it uses image/pin.h, the
 * allocator and the log, which both know of forks, and nothing else.
 */
#ifndef GOLDFS_CORE_PIN_PROCESS_H
#define GOLDFS_CORE_PIN_PROCESS_H

#include <stdint.h>
#include <sys/types.h>

enum pin_process_work { PIN_PROCESS_COPY, PIN_PROCESS_SUMS };

/*
 * Starts it; descriptors are lent. It ends with the calling thread. Returns the process, whose exit
 * status is 0 or an errno, or -errno.
 */
pid_t pin_process_start(enum pin_process_work work, int store_fd, uint64_t id, int source_fd);

#endif
