/* SPDX-License-Identifier: MIT */
/*
 * Who takes the next request.
 *
 * Requests are taken one at a time, so that the order in which they came is known (order.h). The
 * thread that does it holds the turn. What comes after taking one, the work, is done by several at
 * once.
 *
 * To put a thread to sleep and wake it for each request costs as much as serving one from memory.
 * So threads are counted that are active: those that come for the turn again soon, because they serve
 * what waits for nothing, or look for the turn just now. As long as there are
 * enough of them nobody is woken, and who finds the turn taken looks again for a moment before it
 * goes to sleep. Whoever is about to wait for anything says so (turn_leave()), and is not counted
 * any more; who is held up without knowing is found by turn_look() (lookout.h).
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
	TURN_ACTIVE, /* serves a request, and comes again */
	TURN_LOOKING,
	TURN_HELD, /* by this one */
};

struct turn_waiter {
	_Atomic enum turn_state state; /* changed by its own thread; ACTIVE to AWAY by turn_look(), too */
	atomic_uint passes; /* how often it passed the turn; wraps round */
	unsigned passes_seen; /* lock; by turn_look() */
	pthread_cond_t cond;
	bool woken; /* lock */
	struct turn_waiter *next; /* lock; of those that sleep */
	struct turn_waiter *next_of_all; /* lock */
};

struct turn {
	atomic_bool held;
	atomic_uint active; /* ACTIVE or LOOKING, and those on their way to be */
	atomic_uint sleeping;
	pthread_mutex_t lock;
	struct turn_waiter *sleepers; /* lock; the one that went to sleep last comes first */
	struct turn_waiter *all; /* lock */
	unsigned most; /* threads that are active while there is work for more */
};

/* processors: this process may use. More threads than these only take them from each other and from the
 * clients; but one alone may be held up by somebody else's work. */
void turn_init(struct turn *turn, unsigned processors);
void turn_release(struct turn *turn);
void turn_waiter_init(struct turn *turn, struct turn_waiter *waiter);
void turn_waiter_release(struct turn *turn, struct turn_waiter *waiter);

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
/* Whether anybody serves a request. Who serves the same one as at the last look is not counted as active
 * any more, and somebody who sleeps is woken if he is needed now. */
bool turn_look(struct turn *turn);

#endif
