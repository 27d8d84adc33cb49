/* SPDX-License-Identifier: MIT */
/*
 * Between the last look and falling asleep nobody is missed: this one says first that it sleeps and then
 * looks once more; who passes the turn does that first and then looks whether this one sleeps.
 */
#include "fuse/lookout.h"

#include "base/cleanup.h"
#include "base/times.h"

#define QUIET_LOOKS 25 /* with nothing served, before it sleeps */

static void pause_locked(struct lookout *l)
{
	struct timespec until = times_spec(times_now(CLOCK_MONOTONIC) + LOOKOUT_MS * INT64_C(1000000));

	pthread_cond_timedwait(&l->wake, &l->lock, &until);
}

static void sleep_locked(struct lookout *l)
{
	atomic_store(&l->asleep, true);
	if (!turn_look(l->turn))
		while (atomic_load(&l->asleep) && !l->stopping)
			pthread_cond_wait(&l->wake, &l->lock);
	atomic_store(&l->asleep, false);
}

static void *lookout_main(void *arg)
{
	struct lookout *l = arg;
	unsigned quiet = 0;

	MUTEX_GUARD(&l->lock);
	while (!l->stopping) {
		if (quiet < QUIET_LOOKS) {
			pause_locked(l);
			quiet = turn_look(l->turn) ? 0 : quiet + 1;
		} else {
			sleep_locked(l);
			quiet = 0;
		}
	}
	return NULL;
}

int lookout_start(struct lookout *l, struct turn *turn)
{
	int r;

	*l = (struct lookout){.turn = turn};
	pthread_mutex_init(&l->lock, NULL);
	times_cond_init(&l->wake);
	r = pthread_create(&l->thread, NULL, lookout_main, l);
	l->started = r == 0;
	if (!l->started) {
		pthread_cond_destroy(&l->wake);
		pthread_mutex_destroy(&l->lock);
	}
	return -r;
}

void lookout_stop(struct lookout *l)
{
	if (!l->started)
		return;
	pthread_mutex_lock(&l->lock);
	l->stopping = true;
	pthread_cond_signal(&l->wake);
	pthread_mutex_unlock(&l->lock);
	pthread_join(l->thread, NULL);
	l->started = false;
	pthread_cond_destroy(&l->wake);
	pthread_mutex_destroy(&l->lock);
}

void lookout_wake(struct lookout *l)
{
	if (!atomic_load(&l->asleep) || !atomic_exchange(&l->asleep, false))
		return;
	MUTEX_GUARD(&l->lock);
	pthread_cond_signal(&l->wake);
}
