/* SPDX-License-Identifier: MIT */
/*
 * Exclusive locks on ranges of blocks of one layer: writers and the destager take turns on a
 * block, writers of different places do not meet. Ranges are few at a time (one per request in
 * flight), so a list is enough.
 */
#ifndef GOLDFS_BASE_RANGELOCK_H
#define GOLDFS_BASE_RANGELOCK_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

/* Lives on the holder's stack. */
struct range {
	uint64_t first;
	uint64_t last; /* included */
	struct range *next;
};

struct rangelock {
	pthread_mutex_t lock;
	pthread_cond_t freed;
	struct range *held;
	unsigned waiting;
};

void rangelock_init(struct rangelock *rl);
void rangelock_release(struct rangelock *rl);
/* Waits until no held range overlaps. A thread must not take two ranges of one lock. */
void rangelock_lock(struct rangelock *rl, struct range *range, uint64_t first, uint64_t last);
void rangelock_unlock(struct rangelock *rl, struct range *range);
/* Whether one range that is held has all of it (for assertions). */
bool rangelock_covers(struct rangelock *rl, uint64_t first, uint64_t last);

#endif
