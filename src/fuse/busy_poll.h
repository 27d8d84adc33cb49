/* SPDX-License-Identifier: MIT */
/*
 * Whether the thread that waits for the next request looks for it a moment before it goes to sleep.
 *
 * A guest that does one thing at a time sends its next request a few microseconds after an answer. To put
 * a thread and the processor under it to sleep for those and to wake both again costs more than the
 * request: in a virtual machine, half of it. So it pays to look again and again for up to BUSY_POLL_NS.
 * Where the next request comes later, or others want the processor, it pays nothing, so what came of it is
 * counted: a find is credit, a try in vain costs some, and who was put aside by the scheduler meanwhile has
 * lost all of it. Without credit one wait in 64 is tried.
 *
 * Threads: one at a time, the one that holds the turn.
 */
#ifndef GOLDFS_FUSE_BUSY_POLL_H
#define GOLDFS_FUSE_BUSY_POLL_H

#include <stdbool.h>
#include <stdint.h>

/*
 * Enough for a client whose processor went to sleep as well: a virtual machine that does not poll when it is
 * idle (Linux's guest_halt_poll_ns is 0) wakes one in 35 microseconds.
 */
#define BUSY_POLL_NS 80000

struct busy_poll {
	bool off;
	unsigned credit;
	unsigned skipped; /* waits since the last try */
};

/* Before each wait: whether to look for a moment. */
bool busy_poll_is_due(struct busy_poll *poll);
/* What came of it, and how long it took. */
void busy_poll_note(struct busy_poll *poll, bool found, int64_t ns);

#endif
