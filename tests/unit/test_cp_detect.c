/* SPDX-License-Identifier: MIT */
/* Who is told that a file is fully allocated: cp inside the mount, once, and nobody else. The
 * sequences are what the programs were seen to do (strace), as requests reach the daemon. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "fuse/cp_detect.h"

#define MS INT64_C(1000000)
#define CP 100	 /* the thread */
#define OTHER 101
#define SOURCE 70
#define TARGET 71
#define THIRD 72

static struct cp_detect *cp;
static int64_t now;

static int setup(void **state)
{
	now = 1000 * MS;
	return cp_detect_new(&cp);
}

static int teardown(void **state)
{
	cp_detect_free(cp);
	return 0;
}

static void missing(uint64_t task)
{
	cp_saw_missing(cp, task, now += MS);
}

static void look(uint64_t task, uint64_t ino)
{
	cp_saw_file(cp, task, ino, now += MS);
}

static void open_source(uint64_t task, uint64_t ino)
{
	cp_saw_open_for_reading(cp, task, ino, now += MS);
}

static bool full(uint64_t task, uint64_t ino)
{
	return cp_wants_full(cp, task, ino, now += MS);
}

static void test_new_target(void **state)
{
	missing(CP);
	look(CP, SOURCE);
	assert_false(full(CP, SOURCE)); /* the stat before the open */
	look(CP, SOURCE);
	open_source(CP, SOURCE);
	assert_true(full(CP, SOURCE));
	assert_false(full(CP, SOURCE)); /* once only */
}

static void test_existing_target(void **state)
{
	look(CP, TARGET);
	look(CP, SOURCE);
	look(CP, TARGET);
	look(CP, SOURCE);
	open_source(CP, SOURCE);
	assert_true(full(CP, SOURCE));
}

static void test_existing_target_in_a_folder(void **state)
{
	look(CP, SOURCE);
	look(CP, TARGET);
	look(CP, TARGET); /* --remove-destination */
	look(CP, SOURCE);
	open_source(CP, SOURCE);
	assert_true(full(CP, SOURCE));
}

static void test_recursive(void **state)
{
	missing(CP); /* the new folder */
	look(CP, SOURCE);
	open_source(CP, SOURCE);
	assert_true(full(CP, SOURCE));
	cp_saw_target(cp, CP);
	cp_saw_copy(cp, CP, now += MS);
	look(CP, THIRD);
	open_source(CP, THIRD);
	assert_true(full(CP, THIRD));
}

static void test_copy_out(void **state)
{
	look(CP, SOURCE);
	look(CP, SOURCE);
	open_source(CP, SOURCE);
	assert_false(full(CP, SOURCE));
	look(CP, THIRD);
	look(CP, THIRD);
	open_source(CP, THIRD);
	assert_false(full(CP, THIRD));
}

static void test_tar_archive_inside(void **state)
{
	missing(CP);
	cp_saw_target(cp, CP);
	look(CP, SOURCE);
	look(CP, SOURCE);
	open_source(CP, SOURCE);
	assert_false(full(CP, SOURCE));
}

static void test_tar_incremental(void **state)
{
	look(CP, SOURCE); /* all of the folder first */
	look(CP, THIRD);
	look(CP, SOURCE); /* then each once more, and its open */
	look(CP, SOURCE);
	open_source(CP, SOURCE);
	assert_false(full(CP, SOURCE));
}

static void test_other_threads(void **state)
{
	missing(CP);
	look(CP, SOURCE);
	open_source(CP, SOURCE);
	assert_false(full(OTHER, SOURCE));
	assert_false(full(CP, THIRD));
	assert_true(full(CP, SOURCE));

	missing(OTHER);
	look(CP, SOURCE);
	open_source(CP, SOURCE);
	assert_false(full(CP, SOURCE));
}

static void test_moment_is_over(void **state)
{
	missing(CP);
	now += 3000 * MS;
	look(CP, SOURCE);
	open_source(CP, SOURCE);
	assert_false(full(CP, SOURCE));

	missing(CP);
	look(CP, SOURCE);
	open_source(CP, SOURCE);
	now += 3000 * MS;
	assert_false(full(CP, SOURCE));
}

static void test_something_else_between(void **state)
{
	missing(CP);
	look(CP, SOURCE);
	open_source(CP, SOURCE);
	look(CP, THIRD);
	assert_false(full(CP, SOURCE));
}

static void test_unknown_thread(void **state)
{
	missing(0);
	look(0, SOURCE);
	open_source(0, SOURCE);
	assert_false(full(0, SOURCE));
}

static void test_many_threads(void **state)
{
	for (uint64_t task = 1; task <= 10000; task++)
		missing(task);
	now -= 9000 * MS;
	missing(CP);
	open_source(CP, SOURCE);
	assert_true(full(CP, SOURCE));
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_new_target),
		T(test_existing_target),
		T(test_existing_target_in_a_folder),
		T(test_recursive),
		T(test_copy_out),
		T(test_tar_archive_inside),
		T(test_tar_incremental),
		T(test_other_threads),
		T(test_moment_is_over),
		T(test_something_else_between),
		T(test_unknown_thread),
		T(test_many_threads),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
