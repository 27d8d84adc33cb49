/* SPDX-License-Identifier: MIT */
/* See the header. */
#include "fuse/later.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "base/times.h"

#define EARLY_NS 50000 /* what is due so soon is not slept for again */

struct answer {
	uint64_t unique;
	int64_t n;
	int64_t due_ns; /* CLOCK_MONOTONIC */
	struct answer *next;
};

struct later {
	void (*answer)(void *arg, uint64_t unique, int64_t n);
	void *arg;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	atomic_uint owed;
	struct answer *first; /* lock */
	struct answer **last; /* lock; where the next one goes */
	bool stopping;	      /* lock */
};

/* Waits for the first to be due. NULL: the end. */
static struct answer *take(struct later *l)
{
	struct answer *a;

	MUTEX_GUARD(&l->lock);
	while ((a = l->first) != NULL || !l->stopping) {
		struct timespec until;

		if (!a) {
			pthread_cond_wait(&l->changed, &l->lock);
			continue;
		}
		if (l->stopping || a->due_ns <= times_now(CLOCK_MONOTONIC) + EARLY_NS)
			break;
		until = times_spec(a->due_ns);
		pthread_cond_timedwait(&l->changed, &l->lock, &until);
	}
	if (!a)
		return NULL;
	l->first = a->next;
	if (!l->first)
		l->last = &l->first;
	return a;
}

static void *later_main(void *arg)
{
	struct later *l = arg;
	struct answer *a;

	while ((a = take(l)) != NULL) {
		l->answer(l->arg, a->unique, a->n);
		atomic_fetch_sub(&l->owed, 1);
		free(a);
	}
	return NULL;
}

int later_new(struct later **later, void (*answer)(void *arg, uint64_t unique, int64_t n), void *arg)
{
	struct later *l = calloc(1, sizeof(*l));
	int r;

	if (!l)
		return -ENOMEM;
	l->answer = answer;
	l->arg = arg;
	l->last = &l->first;
	pthread_mutex_init(&l->lock, NULL);
	times_cond_init(&l->changed);
	r = pthread_create(&l->thread, NULL, later_main, l);
	if (r) {
		pthread_cond_destroy(&l->changed);
		pthread_mutex_destroy(&l->lock);
		free(l);
		return -r;
	}
	*later = l;
	return 0;
}

void later_free(struct later *l)
{
	if (!l)
		return;
	pthread_mutex_lock(&l->lock);
	l->stopping = true;
	pthread_cond_signal(&l->changed);
	pthread_mutex_unlock(&l->lock);
	pthread_join(l->thread, NULL);
	pthread_cond_destroy(&l->changed);
	pthread_mutex_destroy(&l->lock);
	free(l);
}

bool later_owes(const struct later *l)
{
	return atomic_load(&l->owed) != 0;
}

int later_add(struct later *l, uint64_t unique, int64_t n, int64_t ns)
{
	struct answer *a = malloc(sizeof(*a));
	bool wake;

	if (!a)
		return -ENOMEM;
	*a = (struct answer){
		.unique = unique, .n = n, .due_ns = times_now(CLOCK_MONOTONIC) + ns};
	MUTEX_GUARD(&l->lock);
	/* One that is due earlier than the last one waits for it: they were put off in this order. */
	wake = !l->first;
	atomic_fetch_add(&l->owed, 1);
	*l->last = a;
	l->last = &a->next;
	if (wake)
		pthread_cond_signal(&l->changed);
	return 0;
}
