/* SPDX-License-Identifier: MIT */
/*
 * Who takes the next request.
 *
 * Requests are taken one at a time, so that the order in which they came is known (order.h). The
 * thread that does it holds the turn. What comes after taking one, the work, is done by several at
 * once.
 *
 * To put a thread to sleep and wake it for each request costs as much as serving one from memory.
 * So threads are counted that are active: those that come for the turn again in some microseconds,
 * because they serve what waits for nothing, or look for the turn just now. As long as there are
 * enough of them nobody is woken, and who finds the turn taken looks again for a moment before it
 * goes to sleep. Whoever is about to wait for anything says so (turn_leave()), and is not counted
 * any more.
 *
 * The promise: as long as threads sleep here the turn is held, or somebody is active.
 *
 * Threads: any; each with a waiter of its own.
 */
#ifndef GOLDFS_FUSE_TURN_H
#define GOLDFS_FUSE_TURN_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

enum turn_state {
	TURN_AWAY, /* at something that takes its time */
	TURN_ACTIVE,
	TURN_HELD, /* by this one */
};

struct turn_waiter {
	enum turn_state state; /* its own thread's */
	pthread_cond_t cond;
	bool woken; /* lock */
	struct turn_waiter *next; /* lock; of those that sleep */
};

struct turn {
	atomic_bool held;
	atomic_uint taken; /* how often; wraps round */
	atomic_uint active;
	atomic_uint sleeping;
	pthread_mutex_t lock;
	struct turn_waiter *sleepers; /* lock; the one that went to sleep last comes first */
	unsigned most; /* threads that are active while there is work for more */
};

/* processors: this process may use. More threads than these only take them from each other and from the
 * clients; but one alone may be held up by somebody else's work. */
void turn_init(struct turn *turn, unsigned processors);
void turn_release(struct turn *turn);
void turn_waiter_init(struct turn_waiter *waiter);
void turn_waiter_release(struct turn_waiter *waiter);

/* seconds: to sleep at most, 0: as long as it takes. True: the turn is held (or was, already). */
bool turn_take(struct turn *turn, struct turn_waiter *waiter, unsigned seconds);
/* Whether passing it on needs to know if more requests are waiting, see turn_pass(). */
bool turn_wants_more(const struct turn *turn);
/* Whether somebody is about to take it from the holder. */
bool turn_is_wanted(const struct turn *turn);
/* By the holder, who stays active: it comes again soon. more: there is work for another. */
void turn_pass(struct turn *turn, struct turn_waiter *waiter, bool more);
/* By the holder, or an active one: it does not come again soon. */
void turn_leave(struct turn *turn, struct turn_waiter *waiter);
/* Whether the turn was taken since the look that *seen is from, or is free. If nobody took it and it is
 * free, whoever is active does not keep its word: somebody who sleeps is woken. */
bool turn_look(struct turn *turn, unsigned *seen);

#endif
