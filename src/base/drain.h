/* SPDX-License-Identifier: MIT */
/*
 * Waiting until readers have left, without holding up new ones.
 *
 * A reader enters, looks a place up, reads it, and leaves. Whoever wants to reuse a place first
 * makes sure that no new lookup finds it, then calls drain_wait(): when that returns, every reader
 * that could have found it has left. Readers are counted in one of two phases; waiting flips the
 * phase, so that a stream of new readers never keeps it waiting. A reader that picked the old
 * phase but counted itself only after the check looks its place up later still, and so does not
 * find it any more. (The idea is that of sleepable read-copy-update.)
 */
#ifndef GOLDFS_BASE_DRAIN_H
#define GOLDFS_BASE_DRAIN_H

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <time.h>

struct drain {
	atomic_uint phase;
	atomic_long readers[2];
	pthread_mutex_t one; /* one waiter at a time */
};

static inline void drain_init(struct drain *d)
{
	atomic_init(&d->phase, 0);
	atomic_init(&d->readers[0], 0);
	atomic_init(&d->readers[1], 0);
	pthread_mutex_init(&d->one, NULL);
}

static inline void drain_release(struct drain *d)
{
	pthread_mutex_destroy(&d->one);
}

/* Returns a token for drain_leave(). */
static inline unsigned drain_enter(struct drain *d)
{
	unsigned phase = atomic_load(&d->phase) & 1;

	atomic_fetch_add(&d->readers[phase], 1);
	return phase;
}

static inline void drain_leave(struct drain *d, unsigned token)
{
	atomic_fetch_sub(&d->readers[token], 1);
}

/* Not to be called between enter and leave of the same thread. */
static inline void drain_wait(struct drain *d)
{
	struct timespec pause = {.tv_nsec = 50000};

	pthread_mutex_lock(&d->one);
	for (int i = 0; i < 2; i++) {
		unsigned old = atomic_fetch_add(&d->phase, 1) & 1;

		while (atomic_load(&d->readers[old]) > 0)
			nanosleep(&pause, NULL);
	}
	pthread_mutex_unlock(&d->one);
}

#endif
