/* SPDX-License-Identifier: MIT */
/* Looking for the next request is given up where it finds nothing, and found again where it does. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "fuse/busy_poll.h"

#define LATE (2 * BUSY_POLL_NS)

/* Of so many waits, how many were tried. gap_ns: when the next request comes. */
static unsigned tries(struct busy_poll *poll, unsigned waits, int64_t gap_ns)
{
	unsigned tried = 0;

	for (unsigned i = 0; i < waits; i++) {
		bool found = gap_ns <= BUSY_POLL_NS;

		if (!busy_poll_is_due(poll))
			continue;
		tried++;
		busy_poll_note(poll, found, found ? gap_ns : BUSY_POLL_NS);
	}
	return tried;
}

static void test_one_after_the_other_is_waited_for(void **state)
{
	struct busy_poll poll = {0};

	assert_in_range(tries(&poll, 1000, 5000), 900, 1000);
}

static void test_who_comes_late_costs_little(void **state)
{
	struct busy_poll poll = {0};

	assert_in_range(tries(&poll, 6400, LATE), 1, 100);
}

static void test_a_change_is_noticed_in_both_directions(void **state)
{
	struct busy_poll poll = {0};

	tries(&poll, 1000, 5000);
	assert_in_range(tries(&poll, 640, LATE), 1, 20);
	assert_in_range(tries(&poll, 1000, 5000), 900, 1000);
}

/* Mostly in vain is in vain. */
static void test_a_find_now_and_then_is_not_enough(void **state)
{
	struct busy_poll poll = {0};
	unsigned tried = 0;

	tries(&poll, 1000, 5000);
	for (int i = 0; i < 1000; i++)
		tried += tries(&poll, 3, LATE) + tries(&poll, 1, 5000);
	assert_in_range(tried, 1, 400);
}

static void test_others_need_the_processor(void **state)
{
	struct busy_poll poll = {0};

	tries(&poll, 1000, 5000);
	assert_true(busy_poll_is_due(&poll));
	busy_poll_note(&poll, true, 10 * BUSY_POLL_NS);
	assert_int_equal(tries(&poll, 63, 5000), 0);
	assert_int_equal(tries(&poll, 1, 5000), 1);
}

static void test_off_is_off(void **state)
{
	struct busy_poll poll = {.off = true};

	assert_int_equal(tries(&poll, 1000, 5000), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_one_after_the_other_is_waited_for),
		cmocka_unit_test(test_who_comes_late_costs_little),
		cmocka_unit_test(test_a_change_is_noticed_in_both_directions),
		cmocka_unit_test(test_a_find_now_and_then_is_not_enough),
		cmocka_unit_test(test_others_need_the_processor),
		cmocka_unit_test(test_off_is_off),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
