/* SPDX-License-Identifier: MIT */
/* How long background work rests: for guests, for a rate, and never for ever. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "core/pace.h"

#define MS INT64_C(1000000)
#define NOBODY INT64_MAX

static int64_t rest(int64_t took_ns, int64_t quiet_ns, uint64_t bytes, uint64_t rate)
{
	return pace_rest_ns(&(struct pace_step){
		.took_ns = took_ns, .quiet_ns = quiet_ns, .bytes = bytes, .rate = rate});
}

static void test_nobody_asks(void **state)
{
	assert_int_equal(rest(0, NOBODY, 1 << 20, 0), 0);
	assert_int_equal(rest(10 * MS, NOBODY, 1 << 20, 0), 0);
	assert_int_equal(rest(60000 * MS, NOBODY, 1 << 20, 0), 0);
	assert_int_equal(rest(10 * MS, PACE_QUIET_NS, 1 << 20, 0), 0);
}

static void test_guests_have_most_of_the_time(void **state)
{
	assert_int_equal(rest(10 * MS, 0, 1 << 20, 0), 30 * MS);
	assert_int_equal(rest(10 * MS, PACE_QUIET_NS - 1, 0, 0), 30 * MS);
	assert_int_equal(rest(1, 0, 1 << 20, 0), 3);
	assert_int_equal(rest(0, 0, 1 << 20, 0), 0);
}

static void test_it_is_not_starved(void **state)
{
	assert_int_equal(rest(66 * MS, 0, 0, 0), 198 * MS);
	assert_int_equal(rest(67 * MS, 0, 0, 0), PACE_REST_MAX_NS);
	assert_int_equal(rest(3600000 * MS, 0, 0, 0), PACE_REST_MAX_NS);
	assert_int_equal(rest(INT64_MAX, 0, 0, 0), PACE_REST_MAX_NS);
}

static void test_rate(void **state)
{
	/* A MB at 10 MB a second is a tenth of one; what the step took is part of that. */
	assert_int_equal(rest(0, NOBODY, 1000000, 10000000), 100 * MS);
	assert_int_equal(rest(40 * MS, NOBODY, 1000000, 10000000), 60 * MS);
	assert_int_equal(rest(100 * MS, NOBODY, 1000000, 10000000), 0);
	assert_int_equal(rest(300 * MS, NOBODY, 1000000, 10000000), 0);
	assert_int_equal(rest(40 * MS, NOBODY, 0, 10000000), 0);
	/* Whichever is more. */
	assert_int_equal(rest(10 * MS, 0, 1000000, 10000000), 90 * MS);
	assert_int_equal(rest(40 * MS, 0, 1000000, 10000000), 120 * MS);
	/* More than guests are given at once, and more than can be said. */
	assert_int_equal(rest(0, 0, 1 << 20, 1 << 10), 1024000 * MS);
	assert_int_equal(rest(0, NOBODY, UINT64_MAX, 1), INT64_MAX);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_nobody_asks),
		cmocka_unit_test(test_guests_have_most_of_the_time),
		cmocka_unit_test(test_it_is_not_starved),
		cmocka_unit_test(test_rate),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
