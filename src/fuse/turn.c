/* SPDX-License-Identifier: MIT */
/*
 * Nobody is lost between going to sleep and giving the turn back: who goes to sleep first stops
 * being active and then looks once more whether the turn is free; who gives it back first frees it
 * and then looks whether anybody is active. In whatever order these four happen (they are all
 * sequentially consistent), one of the two sees the other.
 */
#include "fuse/turn.h"

#include <errno.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/sizes.h"
#include "base/times.h"

#define LOOKS 64      /* before going to sleep: some microseconds */
/* When there is work for more than one. Taking a request is a quarter of serving it. */
#define LEAST_ACTIVE 2u
#define MOST_ACTIVE 4u

void turn_init(struct turn *turn, unsigned processors)
{
	*turn = (struct turn){0};
	turn->most = (unsigned)min_u64(max_u64(processors, LEAST_ACTIVE), MOST_ACTIVE);
	pthread_mutex_init(&turn->lock, NULL);
}

void turn_release(struct turn *turn)
{
	pthread_mutex_destroy(&turn->lock);
}

void turn_waiter_init(struct turn *turn, struct turn_waiter *waiter)
{
	*waiter = (struct turn_waiter){0};
	times_cond_init(&waiter->cond);
	MUTEX_GUARD(&turn->lock);
	waiter->next_of_all = turn->all;
	turn->all = waiter;
}

void turn_waiter_release(struct turn *turn, struct turn_waiter *waiter)
{
	struct turn_waiter **p = &turn->all;

	pthread_mutex_lock(&turn->lock);
	while (*p != waiter)
		p = &(*p)->next_of_all;
	*p = waiter->next_of_all;
	pthread_mutex_unlock(&turn->lock);
	pthread_cond_destroy(&waiter->cond);
}

static void wake_one_locked(struct turn *turn)
{
	struct turn_waiter *waiter = turn->sleepers;

	if (!waiter)
		return;
	turn->sleepers = waiter->next;
	atomic_fetch_sub(&turn->sleeping, 1);
	/* From now on: it need not be woken once more. */
	atomic_fetch_add(&turn->active, 1);
	waiter->woken = true;
	pthread_cond_signal(&waiter->cond);
}

static void wake_one(struct turn *turn)
{
	if (!atomic_load(&turn->sleeping))
		return;
	MUTEX_GUARD(&turn->lock);
	wake_one_locked(turn);
}

static void relax(void)
{
#if defined(__x86_64__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("isb");
#endif
}

/* The caller is active. */
static bool try_take(struct turn *turn, struct turn_waiter *waiter)
{
	bool held = false;

	if (atomic_load_explicit(&turn->held, memory_order_relaxed) ||
		!atomic_compare_exchange_strong(&turn->held, &held, true))
		return false;
	atomic_fetch_sub(&turn->active, 1);
	atomic_store(&waiter->state, TURN_HELD);
	return true;
}

static void leave_sleepers_locked(struct turn *turn, struct turn_waiter *waiter)
{
	struct turn_waiter **p = &turn->sleepers;

	while (*p != waiter)
		p = &(*p)->next;
	*p = waiter->next;
	atomic_fetch_sub(&turn->sleeping, 1);
}

/* The caller is active, and afterwards, too. false: it was not woken in that time. */
static bool sleep_locked(struct turn *turn, struct turn_waiter *waiter, const struct timespec *until)
{
	int r = 0;

	waiter->woken = false;
	waiter->next = turn->sleepers;
	turn->sleepers = waiter;
	atomic_fetch_add(&turn->sleeping, 1);
	atomic_fetch_sub(&turn->active, 1);
	/* Who freed it may have counted on this one. */
	if (atomic_load(&turn->held))
		while (!waiter->woken && r != ETIMEDOUT)
			r = until ? pthread_cond_timedwait(&waiter->cond, &turn->lock, until)
				  : pthread_cond_wait(&waiter->cond, &turn->lock);
	if (waiter->woken)
		return true;
	leave_sleepers_locked(turn, waiter);
	atomic_fetch_add(&turn->active, 1);
	return r != ETIMEDOUT;
}

static bool sleep_until(struct turn *turn, struct turn_waiter *waiter, const struct timespec *until)
{
	MUTEX_GUARD(&turn->lock);
	return sleep_locked(turn, waiter, until);
}

bool turn_take(struct turn *turn, struct turn_waiter *waiter, unsigned seconds)
{
	struct timespec until;

	if (atomic_load(&waiter->state) == TURN_HELD)
		return true;
	if (atomic_exchange(&waiter->state, TURN_LOOKING) == TURN_AWAY)
		atomic_fetch_add(&turn->active, 1);
	if (seconds) {
		clock_gettime(CLOCK_MONOTONIC, &until);
		until.tv_sec += seconds;
	}
	for (;;) {
		for (int i = 0; i < LOOKS; i++) {
			if (try_take(turn, waiter))
				return true;
			relax();
		}
		if (!sleep_until(turn, waiter, seconds ? &until : NULL)) {
			turn_leave(turn, waiter);
			return false;
		}
	}
}

bool turn_wants_more(const struct turn *turn)
{
	return atomic_load(&turn->active) + 1 < turn->most;
}

bool turn_is_wanted(const struct turn *turn)
{
	return atomic_load(&turn->active) != 0;
}

void turn_pass(struct turn *turn, struct turn_waiter *waiter, bool more)
{
	atomic_fetch_add_explicit(&waiter->passes, 1, memory_order_relaxed);
	/* In this order: who finds it ACTIVE may take it off the count. */
	atomic_fetch_add(&turn->active, 1);
	atomic_store(&waiter->state, TURN_ACTIVE);
	atomic_store(&turn->held, false);
	if (more && atomic_load(&turn->active) < turn->most)
		wake_one(turn);
}

void turn_leave(struct turn *turn, struct turn_waiter *waiter)
{
	const enum turn_state state = atomic_exchange(&waiter->state, TURN_AWAY);

	if (state == TURN_AWAY)
		return;
	if (state == TURN_HELD)
		atomic_store(&turn->held, false);
	else
		atomic_fetch_sub(&turn->active, 1);
	if (!atomic_load(&turn->held) && !atomic_load(&turn->active))
		wake_one(turn);
}

/* Still at the same request? It passes for away then, as if it had said so. */
static bool is_overdue_locked(struct turn_waiter *waiter)
{
	enum turn_state state = TURN_ACTIVE;
	unsigned passes = atomic_load(&waiter->passes);

	if (passes != waiter->passes_seen) {
		waiter->passes_seen = passes;
		return false;
	}
	return atomic_compare_exchange_strong(&waiter->state, &state, TURN_AWAY);
}

bool turn_look(struct turn *turn)
{
	bool serving = false;

	MUTEX_GUARD(&turn->lock);
	for (struct turn_waiter *w = turn->all; w; w = w->next_of_all) {
		if (atomic_load(&w->state) != TURN_ACTIVE)
			continue;
		serving = true;
		if (is_overdue_locked(w))
			atomic_fetch_sub(&turn->active, 1);
	}
	if (serving && !atomic_load(&turn->held) && !atomic_load(&turn->active))
		wake_one_locked(turn);
	return serving;
}
