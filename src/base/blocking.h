/* SPDX-License-Identifier: MIT */
/*
 * A thread that is about to wait (for a disk, for room in the journal, for a lock that is held for
 * long) says so first.
 *
 * The threads that serve requests take turns at taking one from the kernel, and the one whose turn
 * it was comes for the next one itself when it answers from memory: to wake another for every request
 * would cost more than the answer. Before it waits for anything it has to hand over; this is how the
 * layers below, which know nothing of requests, let it.
 */
#ifndef GOLDFS_BASE_BLOCKING_H
#define GOLDFS_BASE_BLOCKING_H

#include <stddef.h>

/* Set by a thread for itself; NULL: nothing to do. */
extern __thread void (*blocking_hook)(void *arg);
extern __thread void *blocking_hook_arg;

static inline void about_to_block(void)
{
	if (blocking_hook)
		blocking_hook(blocking_hook_arg);
}

#endif
