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

void turn_waiter_init(struct turn_waiter *waiter)
{
	*waiter = (struct turn_waiter){0};
	times_cond_init(&waiter->cond);
}

void turn_waiter_release(struct turn_waiter *waiter)
{
	pthread_cond_destroy(&waiter->cond);
}

static void wake_one(struct turn *turn)
{
	struct turn_waiter *waiter;

	if (!atomic_load(&turn->sleeping))
		return;
	MUTEX_GUARD(&turn->lock);
	waiter = turn->sleepers;
	if (!waiter)
		return;
	turn->sleepers = waiter->next;
	atomic_fetch_sub(&turn->sleeping, 1);
	/* From now on: it need not be woken once more. */
	atomic_fetch_add(&turn->active, 1);
	waiter->woken = true;
	pthread_cond_signal(&waiter->cond);
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
	atomic_fetch_add_explicit(&turn->taken, 1, memory_order_relaxed);
	waiter->state = TURN_HELD;
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

	if (waiter->state == TURN_HELD)
		return true;
	if (waiter->state == TURN_AWAY)
		atomic_fetch_add(&turn->active, 1);
	waiter->state = TURN_ACTIVE;
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
	waiter->state = TURN_ACTIVE;
	atomic_fetch_add(&turn->active, 1);
	atomic_store(&turn->held, false);
	if (more && atomic_load(&turn->active) < turn->most)
		wake_one(turn);
}

void turn_leave(struct turn *turn, struct turn_waiter *waiter)
{
	const enum turn_state state = waiter->state;

	waiter->state = TURN_AWAY;
	if (state == TURN_HELD)
		atomic_store(&turn->held, false);
	else if (state == TURN_ACTIVE)
		atomic_fetch_sub(&turn->active, 1);
	else
		return;
	if (!atomic_load(&turn->held) && !atomic_load(&turn->active))
		wake_one(turn);
}

bool turn_look(struct turn *turn, unsigned *seen)
{
	unsigned taken = atomic_load(&turn->taken);
	bool moved = taken != *seen, free = !atomic_load(&turn->held);

	*seen = taken;
	if (free && !moved)
		wake_one(turn);
	return moved || free;
}
