/* SPDX-License-Identifier: MIT */
/*
 * Draining: whoever was there when the waiting began has left when it ends, and whoever comes
 * later does not hold it up. An alarm ends the program if a wait never ends.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdbool.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/drain.h"

struct waiter {
	struct drain *d;
	pthread_t thread;
	atomic_bool done;
};

static void *wait_for_readers(void *arg)
{
	struct waiter *w = arg;

	drain_wait(w->d);
	atomic_store(&w->done, true);
	return NULL;
}

/* Returns when the waiter has begun: then it waits for whoever was there before. */
static void start(struct waiter *w, struct drain *d)
{
	unsigned before = atomic_load(&d->phase);

	w->d = d;
	atomic_init(&w->done, false);
	assert_int_equal(pthread_create(&w->thread, NULL, wait_for_readers, w), 0);
	while (atomic_load(&d->phase) == before)
		usleep(100);
}

static void finish(struct waiter *w)
{
	assert_int_equal(pthread_join(w->thread, NULL), 0);
	assert_true(atomic_load(&w->done));
}

static void nobody_is_not_waited_for(void **state)
{
	struct drain d;

	drain_init(&d);
	for (int i = 0; i < 5; i++)
		drain_wait(&d);
	drain_leave(&d, drain_enter(&d));
	drain_wait(&d);
	assert_int_equal(atomic_load(&d.readers[0]), 0);
	assert_int_equal(atomic_load(&d.readers[1]), 0);
	drain_release(&d);
}

/* In whichever phase it came. */
static void a_reader_is_waited_for(void **state)
{
	struct drain d;

	drain_init(&d);
	for (int round = 0; round < 4; round++) {
		unsigned token = drain_enter(&d), nested = drain_enter(&d);
		struct waiter w;

		start(&w, &d);
		drain_leave(&d, nested);
		usleep(1000); /* long enough to see it end too early, were it wrong */
		assert_false(atomic_load(&w.done));
		drain_leave(&d, token);
		finish(&w);
		atomic_fetch_add(&d.phase, round == 1); /* the other phase, too */
	}
	drain_release(&d);
}

/* Those that come while it waits for the old phase are in the new one. At the second flip they are
 * waited for: they may have picked their phase before. New ones then no longer. */
static void later_readers_do_not_hold_it_up(void **state)
{
	struct drain d;
	struct waiter w;
	unsigned old, later, last;

	drain_init(&d);
	old = drain_enter(&d);
	start(&w, &d);
	later = drain_enter(&d);
	assert_int_not_equal(later, old);
	drain_leave(&d, old);
	while (atomic_load(&d.phase) < 2) /* the second flip */
		usleep(100);
	last = drain_enter(&d);
	assert_int_not_equal(last, later);
	drain_leave(&d, later);
	finish(&w); /* though `last` is still there */
	drain_leave(&d, last);
	drain_release(&d);
}

/* ---- places that are reused ---- */

/*
 * Readers look up the current place, and read it for a while; a writer moves the content to
 * another place, waits, and spoils the old one. No reader may see spoiled bytes. The stream of
 * readers never ends while the writer works.
 */
#define READERS 3
#define MOVES 150

struct place {
	atomic_int value;
};

static struct place places[2];
static atomic_uint current;
static atomic_bool stop;
static struct drain shared;

static void *read_places(void *arg)
{
	unsigned *failures = arg;

	while (!atomic_load(&stop)) {
		unsigned token = drain_enter(&shared);
		struct place *p = &places[atomic_load(&current)];

		for (int i = 0; i < 50; i++)
			*failures += atomic_load(&p->value) != 1;
		drain_leave(&shared, token);
	}
	return NULL;
}

static void places_are_reused_safely(void **state)
{
	unsigned failures[READERS] = {0};
	pthread_t threads[READERS];

	drain_init(&shared);
	atomic_store(&places[0].value, 1);
	for (int i = 0; i < READERS; i++)
		assert_int_equal(
			pthread_create(&threads[i], NULL, read_places, &failures[i]), 0);
	for (int i = 0; i < MOVES; i++) {
		unsigned old = atomic_load(&current);

		atomic_store(&places[!old].value, 1);
		atomic_store(&current, !old);
		drain_wait(&shared);
		atomic_store(&places[old].value, -1);
	}
	atomic_store(&stop, true);
	for (int i = 0; i < READERS; i++) {
		assert_int_equal(pthread_join(threads[i], NULL), 0);
		assert_int_equal(failures[i], 0);
	}
	drain_release(&shared);
}

static void *wait_often(void *arg)
{
	for (int i = 0; i < 50; i++)
		drain_wait(arg);
	return NULL;
}

static void waiters_take_turns(void **state)
{
	pthread_t threads[3];
	struct drain d;

	drain_init(&d);
	for (int i = 0; i < 3; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, wait_often, &d), 0);
	for (int i = 0; i < 2000; i++)
		drain_leave(&d, drain_enter(&d));
	for (int i = 0; i < 3; i++)
		assert_int_equal(pthread_join(threads[i], NULL), 0);
	/* Two flips for each wait, none lost. */
	assert_int_equal(atomic_load(&d.phase), 300);
	drain_release(&d);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nobody_is_not_waited_for),
		cmocka_unit_test(a_reader_is_waited_for),
		cmocka_unit_test(later_readers_do_not_hold_it_up),
		cmocka_unit_test(places_are_reused_safely),
		cmocka_unit_test(waiters_take_turns),
	};

	alarm(120);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
