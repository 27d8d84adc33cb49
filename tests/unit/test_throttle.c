/* SPDX-License-Identifier: MIT */
/* How long who writes is held back: a ring that is filled faster than it is emptied never fills. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>

#include "base/sizes.h"
#include "base/times.h"
#include "fuse/later.h"
#include "store/throttle.h"

#define RING (256 * MIB)
#define RECORD 4288

static void test_nobody_waits_where_there_is_room(void **state)
{
	struct throttle t;

	throttle_init(&t);
	for (uint64_t used = 0; used <= RING / 100 * THROTTLE_FROM_PERCENT; used += MIB)
		assert_int_equal(throttle_wait(&t, 1000, used, RING, RECORD), 0);
}

static void test_the_fuller_the_longer(void **state)
{
	struct throttle t;
	int64_t before = 0;

	for (uint64_t used = RING / 100 * 72; used < RING; used += RING / 50) {
		int64_t ns;

		throttle_init(&t);
		ns = throttle_wait(&t, 1000, used, RING, RECORD);
		assert_true(ns > before);
		assert_true(ns <= THROTTLE_LONGEST_NS);
		before = ns;
	}
	assert_int_equal(throttle_wait(&t, 1000, RING, RING, RECORD), THROTTLE_LONGEST_NS);
	assert_int_equal(throttle_wait(&t, 1000, RING + 1, RING, RECORD), THROTTLE_LONGEST_NS);
}

static void test_one_after_the_other(void **state)
{
	struct throttle t;
	int64_t first, second;

	throttle_init(&t);
	first = throttle_wait(&t, 1000, RING / 10 * 9, RING, RECORD);
	second = throttle_wait(&t, 1000, RING / 10 * 9, RING, RECORD);
	assert_true(second > first);
	assert_true(second - first - first <= 1);
	/* What waited long enough waits for its own turn only. */
	assert_int_equal(
		throttle_wait(&t, 1000 + TIMES_NS_PER_SECOND, RING / 10 * 9, RING, RECORD), first);
}

/* A disk that takes so many bytes per second, in laps of a quarter, against a client that writes as
 * fast as it is let. Times are simulated. */
static void run_against(uint64_t disk, uint64_t client)
{
	uint64_t used = 0, lap = 0, total = 0, most = 0;
	int64_t now = 0, lap_began = 0, lap_ends = 0;
	struct throttle t;

	throttle_init(&t);
	while (now < 60 * TIMES_NS_PER_SECOND) {
		int64_t wait = throttle_wait(&t, now, used, RING, RECORD);

		now += max_u64((uint64_t)wait, RECORD * UINT64_C(1000000000) / client);
		used += RECORD;
		total += RECORD;
		if (lap && now >= lap_ends) {
			used -= lap;
			throttle_note(&t, lap, now - lap_began);
			throttle_lap(&t, 0, now);
			lap = 0;
		}
		if (!lap && used > RING / 4) {
			lap = RING / 4;
			lap_began = now;
			throttle_lap(&t, lap, now);
			lap_ends = now + (int64_t)(lap * UINT64_C(1000000000) / disk);
		}
		/* The first seconds are for finding out. */
		if (now > 10 * TIMES_NS_PER_SECOND)
			most = max_u64(most, used);
		assert_true(used < RING);
	}
	assert_true(most < RING / 100 * 98);
	/* Nobody is held back more than the disk asks for. */
	assert_true(total > min_u64(disk, client) * 60 / 10 * 9);
}

static void test_ring_never_fills(void **state)
{
	run_against(20 * MIB, 400 * MIB);
	run_against(60 * MIB, 400 * MIB);
	run_against(400 * MIB, 450 * MIB);
}

/* One lap takes twenty times as long as those before it; as slow laps go, six times is a lot. */
static void test_a_slow_lap_fills_no_ring(void **state)
{
	uint64_t used = RING / 10 * 7;
	int64_t now = 0, longest = 0;
	struct throttle t;

	throttle_init(&t);
	for (int i = 0; i < 20; i++)
		throttle_note(&t, RING / 4, TIMES_NS_PER_SECOND / 2);
	throttle_lap(&t, RING / 4, now);
	while (now < 10 * TIMES_NS_PER_SECOND) {
		int64_t wait = throttle_wait(&t, now, used, RING, RECORD);

		longest = max_u64((uint64_t)longest, (uint64_t)wait);
		now += max_u64((uint64_t)wait, 10000);
		used += RECORD;
		/* Of sixteen at a time none waits longer than 0.1 s. */
		if (now < 3 * TIMES_NS_PER_SECOND)
			assert_true(wait < 100000000 / 16);
	}
	assert_true(used < RING);
	assert_true(longest <= THROTTLE_LONGEST_NS);
	throttle_lap(&t, 0, now);
	used = throttle_wait(&t, now, RING / 10 * 9, RING, RECORD);
	throttle_note(&t, RING / 4, TIMES_NS_PER_SECOND / 2);
	assert_true(used < 200000); /* what came to nothing counts no more */
}

static void test_who_comes_slower_never_waits(void **state)
{
	run_against(100 * MIB, 50 * MIB);
}

static void test_a_rate_has_a_floor(void **state)
{
	struct throttle t;

	throttle_init(&t);
	for (int i = 0; i < 100; i++)
		throttle_note(&t, 0, TIMES_NS_PER_SECOND);
	assert_true(t.rate > 0);
	throttle_note(&t, RING, 0);
	assert_true(t.rate > 0);
}

/* ---- answers that come later ---- */

static size_t answered;
static int64_t answers[8];

static void note_answer(void *arg, uint64_t unique, int64_t n)
{
	assert_ptr_equal(arg, &answered);
	assert_int_equal(unique, 100 + n);
	answers[answered++ % ARRAY_SIZE(answers)] = n;
}

/* In the order in which they were put off, however long each was to wait; none is left out. */
static void test_answers_come_in_order(void **state)
{
	struct later *later;

	answered = 0;
	assert_int_equal(later_new(&later, note_answer, &answered), 0);
	assert_false(later_owes(later));
	assert_int_equal(later_add(later, 101, 1, 2000000), 0);
	assert_int_equal(later_add(later, 102, 2, 0), 0);
	assert_int_equal(later_add(later, 103, 3, 3600 * TIMES_NS_PER_SECOND), 0);
	assert_int_equal(later_add(later, 104, 4, 1), 0);
	assert_true(later_owes(later));
	later_free(later);
	assert_int_equal(answered, 4);
	for (int i = 0; i < 4; i++)
		assert_int_equal(answers[i], i + 1);
	later_free(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_nobody_waits_where_there_is_room),
		cmocka_unit_test(test_the_fuller_the_longer),
		cmocka_unit_test(test_one_after_the_other),
		cmocka_unit_test(test_ring_never_fills),
		cmocka_unit_test(test_a_slow_lap_fills_no_ring),
		cmocka_unit_test(test_who_comes_slower_never_waits),
		cmocka_unit_test(test_a_rate_has_a_floor),
		cmocka_unit_test(test_answers_come_in_order),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
