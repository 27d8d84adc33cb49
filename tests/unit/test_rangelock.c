/* SPDX-License-Identifier: MIT */
/*
 * Range locks: ranges that share a block exclude each other, all others do not meet.
 *
 * That somebody waits is seen in the lock itself (`waiting`), so nothing depends on time; an alarm
 * ends the program if what must happen does not.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdatomic.h>
#include <time.h>
#include <unistd.h>

#include "../crash/rng.h"
#include "base/blocking.h"
#include "base/rangelock.h"
#include "store_dir.h"

static unsigned waiting(struct rangelock *rl)
{
	unsigned n;

	pthread_mutex_lock(&rl->lock);
	n = rl->waiting;
	pthread_mutex_unlock(&rl->lock);
	return n;
}

static void wait_until_waiting(struct rangelock *rl, unsigned n)
{
	struct timespec t = {.tv_nsec = 100000};

	while (waiting(rl) != n)
		nanosleep(&t, NULL);
}

struct taker {
	struct rangelock *rl;
	pthread_t thread;
	uint64_t first, last;
	atomic_bool has;
	atomic_bool keeps; /* gives it back when this is cleared */
	atomic_int announced;
};

static void announce(void *arg)
{
	atomic_fetch_add((atomic_int *)arg, 1);
}

static void *take(void *arg)
{
	struct timespec t = {.tv_nsec = 100000};
	struct taker *k = arg;
	struct range range;

	blocking_hook = announce;
	blocking_hook_arg = &k->announced;
	rangelock_lock(k->rl, &range, k->first, k->last);
	atomic_store(&k->has, true);
	while (atomic_load(&k->keeps))
		nanosleep(&t, NULL);
	rangelock_unlock(k->rl, &range);
	return NULL;
}

static void start(struct taker *k, struct rangelock *rl, uint64_t first, uint64_t last, bool keeps)
{
	k->rl = rl;
	k->first = first;
	k->last = last;
	atomic_init(&k->has, false);
	atomic_init(&k->keeps, keeps);
	atomic_init(&k->announced, 0);
	assert_int_equal(pthread_create(&k->thread, NULL, take, k), 0);
}

static void finish(struct taker *k)
{
	assert_int_equal(pthread_join(k->thread, NULL), 0);
	assert_true(atomic_load(&k->has));
}

/* Against [10, 19]: which ranges have to wait. */
static void overlapping_ranges_wait(void **state)
{
	static const struct {
		uint64_t first, last;
		bool waits;
	} cases[] = {{0, 9, false}, {20, 20, false}, {20, UINT64_MAX, false}, {0, 0, false},
		{10, 10, true}, {19, 19, true}, {19, 30, true}, {5, 10, true}, {12, 13, true},
		{10, 19, true}, {0, UINT64_MAX, true}};
	struct rangelock rl;
	struct range held;

	rangelock_init(&rl);
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct taker k;

		rangelock_lock(&rl, &held, 10, 19);
		start(&k, &rl, cases[i].first, cases[i].last, false);
		if (cases[i].waits) {
			wait_until_waiting(&rl, 1);
			assert_false(atomic_load(&k.has));
			/* Before it waited it said so. */
			assert_true(atomic_load(&k.announced) >= 1);
			rangelock_unlock(&rl, &held);
			finish(&k);
		} else {
			finish(&k);
			assert_int_equal(atomic_load(&k.announced), 0);
			rangelock_unlock(&rl, &held);
		}
		assert_null(rl.held);
		assert_int_equal(rl.waiting, 0);
	}
	rangelock_release(&rl);
}

static void all_that_are_in_the_way_count(void **state)
{
	struct rangelock rl;
	struct range first, second;
	struct taker k;

	rangelock_init(&rl);
	rangelock_lock(&rl, &first, 0, 4);
	rangelock_lock(&rl, &second, 10, 14);
	start(&k, &rl, 3, 12, false);
	wait_until_waiting(&rl, 1);
	rangelock_unlock(&rl, &first);
	/* It woke, saw the second one, and waits again. */
	while (atomic_load(&k.announced) < 2)
		usleep(100);
	wait_until_waiting(&rl, 1);
	assert_false(atomic_load(&k.has));
	rangelock_unlock(&rl, &second);
	finish(&k);
	rangelock_release(&rl);
}

static void waiters_on_different_blocks_do_not_meet(void **state)
{
	struct rangelock rl;
	struct range held;
	struct taker a, b;

	rangelock_init(&rl);
	rangelock_lock(&rl, &held, 0, 100);
	start(&a, &rl, 1, 2, true);
	start(&b, &rl, 3, 4, true);
	wait_until_waiting(&rl, 2);
	rangelock_unlock(&rl, &held);
	/* Both at once, though neither gives way. */
	while (!atomic_load(&a.has) || !atomic_load(&b.has))
		usleep(100);
	atomic_store(&a.keeps, false);
	atomic_store(&b.keeps, false);
	finish(&a);
	finish(&b);
	rangelock_release(&rl);
}

/* ---- many ---- */

#define BLOCKS 16

struct worker {
	struct rangelock *rl;
	pthread_t thread;
	uint64_t seed;
	unsigned failures;
};

static atomic_int owners[BLOCKS];
static uint64_t sums[BLOCKS]; /* plain: only the range protects them */

static void *work(void *arg)
{
	struct worker *w = arg;
	struct rng rng;

	rng_seed(&rng, w->seed);
	for (int i = 0; i < 3000; i++) {
		uint64_t first = rng_below(&rng, BLOCKS);
		uint64_t last = first + rng_below(&rng, BLOCKS - first);
		struct range range;

		rangelock_lock(w->rl, &range, first, last);
		for (uint64_t b = first; b <= last; b++) {
			w->failures += atomic_fetch_add(&owners[b], 1) != 0;
			sums[b]++;
		}
		for (uint64_t b = first; b <= last; b++)
			atomic_fetch_sub(&owners[b], 1);
		rangelock_unlock(w->rl, &range);
	}
	return NULL;
}

static void a_block_has_one_owner(void **state)
{
	uint64_t seed = seed_from_environment(12), want[BLOCKS] = {0};
	struct worker w[4];
	struct rangelock rl;

	print_message("SEED=%llu\n", (unsigned long long)seed);
	rangelock_init(&rl);
	for (int i = 0; i < 4; i++) {
		w[i] = (struct worker){.rl = &rl, .seed = seed + (uint64_t)i};
		assert_int_equal(pthread_create(&w[i].thread, NULL, work, &w[i]), 0);
	}
	for (int i = 0; i < 4; i++) {
		struct rng rng;

		assert_int_equal(pthread_join(w[i].thread, NULL), 0);
		assert_int_equal(w[i].failures, 0);
		rng_seed(&rng, w[i].seed);
		for (int n = 0; n < 3000; n++) {
			uint64_t first = rng_below(&rng, BLOCKS);
			uint64_t last = first + rng_below(&rng, BLOCKS - first);

			for (uint64_t b = first; b <= last; b++)
				want[b]++;
		}
	}
	assert_memory_equal(sums, want, sizeof(want));
	assert_null(rl.held);
	rangelock_release(&rl);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(overlapping_ranges_wait),
		cmocka_unit_test(all_that_are_in_the_way_count),
		cmocka_unit_test(waiters_on_different_blocks_do_not_meet),
		cmocka_unit_test(a_block_has_one_owner),
	};

	alarm(120);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
