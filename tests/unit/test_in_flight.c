/* SPDX-License-Identifier: MIT */
#include "core/in_flight.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

static void assert_vouches(const struct in_flight *board, uint64_t first, uint64_t end, bool vouches)
{
	for (uint64_t seq = first; seq < end; seq++)
		assert_int_equal(in_flight_vouches(board, seq), vouches);
}

static void test_nothing_is_said_without_memory_or_in_memory_of_zeros(void **state)
{
	struct in_flight board = {0};

	assert_false(in_flight_vouches(NULL, 7));
	assert_true(in_flight_may_predate(NULL, 7));
	assert_true(in_flight_may_predate(&board, 7));
	assert_vouches(&board, 0, 9, false);
	in_flight_end(NULL, in_flight_begin(NULL, 3), false, 4);
	in_flight_take_over(NULL, 1, 4);
	in_flight_start(NULL, 4);
}

static void test_what_had_ended_is_vouched_for(void **state)
{
	struct in_flight board = {0};
	unsigned first, second;

	in_flight_start(&board, 10);
	assert_true(in_flight_may_predate(&board, 9));
	assert_false(in_flight_may_predate(&board, 10));
	assert_vouches(&board, 0, 10, false);
	assert_vouches(&board, 10, 30, true);
	first = in_flight_begin(&board, 12);
	second = in_flight_begin(&board, 15);
	assert_vouches(&board, 10, 12, true);
	assert_vouches(&board, 12, 30, false);
	in_flight_end(&board, first, true, 20);
	assert_vouches(&board, 10, 15, true);
	assert_vouches(&board, 15, 30, false);
	in_flight_end(&board, second, true, 20);
	assert_vouches(&board, 10, 30, true);
}

static void test_a_failure_takes_all_before_it_away(void **state)
{
	struct in_flight board = {0};
	unsigned entry;

	in_flight_start(&board, 10);
	entry = in_flight_begin(&board, 12);
	in_flight_end(&board, entry, false, 20);
	assert_vouches(&board, 0, 20, false);
	assert_vouches(&board, 20, 30, true);
}

static void test_what_a_takeover_looked_at_stays_in_doubt(void **state)
{
	struct in_flight board = {0};

	in_flight_start(&board, 10);
	in_flight_begin(&board, 14);
	in_flight_take_over(&board, 10, 20);
	assert_vouches(&board, 10, 14, true);
	assert_vouches(&board, 14, 20, false);
	assert_vouches(&board, 20, 40, true);
	/* Nothing was on its way: nothing new is in doubt. */
	in_flight_take_over(&board, 10, 25);
	assert_vouches(&board, 20, 40, true);
	/* The old ones are still in the ring. */
	in_flight_begin(&board, 30);
	in_flight_take_over(&board, 10, 33);
	assert_vouches(&board, 10, 14, true);
	assert_vouches(&board, 14, 33, false);
	assert_vouches(&board, 33, 40, true);
	/* And are not any more. */
	in_flight_begin(&board, 36);
	in_flight_take_over(&board, 33, 40);
	assert_vouches(&board, 33, 36, true);
	assert_vouches(&board, 36, 40, false);
	assert_vouches(&board, 40, 50, true);
}

static void test_who_knows_nothing_starts_anew(void **state)
{
	struct in_flight board = {0};

	in_flight_take_over(&board, 1, 20);
	assert_vouches(&board, 0, 20, false);
	assert_vouches(&board, 20, 30, true);
}

static void test_without_room_nothing_is_vouched_for(void **state)
{
	struct in_flight board = {0};
	unsigned entry[IN_FLIGHT_MAX + 1];

	in_flight_start(&board, 10);
	for (unsigned i = 0; i < IN_FLIGHT_MAX; i++)
		entry[i] = in_flight_begin(&board, 20);
	assert_vouches(&board, 10, 20, true);
	entry[IN_FLIGHT_MAX] = in_flight_begin(&board, 20);
	for (unsigned i = 0; i <= IN_FLIGHT_MAX; i++)
		in_flight_end(&board, entry[i], true, 90);
	assert_vouches(&board, 0, 200, false);
	in_flight_take_over(&board, 10, 100);
	assert_vouches(&board, 0, 100, false);
	assert_vouches(&board, 100, 200, true);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_nothing_is_said_without_memory_or_in_memory_of_zeros),
		cmocka_unit_test(test_what_had_ended_is_vouched_for),
		cmocka_unit_test(test_a_failure_takes_all_before_it_away),
		cmocka_unit_test(test_what_a_takeover_looked_at_stays_in_doubt),
		cmocka_unit_test(test_who_knows_nothing_starts_anew),
		cmocka_unit_test(test_without_room_nothing_is_vouched_for),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
