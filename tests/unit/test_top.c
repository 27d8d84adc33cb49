/* SPDX-License-Identifier: MIT */
/* goldfs top without a mount: rates between replies, workers that count anew, columns, order. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/latency.h"
#include "cli/format.h"
#include "cli/top.h"

#define SECOND INT64_C(1000000000)

static json_t *reply_at(int64_t second, int64_t since)
{
	return json_pack("{s:i, s:[], s:{s:I, s:s}, s:i, s:I, s:I}", "status", 0, "goldfs", "store",
		"virtual_bytes", (json_int_t)4096, "state", "ok", "jobs", 1, "time_ns",
		(json_int_t)(second * SECOND), "counting_since", (json_int_t)since);
}

/* Adds a clone with so many writes of 1000 bytes that took a microsecond each. */
static void add_clone(json_t *reply, int ino, const char *path, int writes, int unique, int shared)
{
	json_array_append_new(json_object_get(reply, "goldfs"),
		json_pack("{s:i, s:s, s:i, s:i, s:i, s:i, s:i, s:[i, i]}", "ino", ino, "path",
			path, "unique_bytes", unique, "shared_bytes", shared, "write_ops", writes,
			"write_bytes", writes * 1000, "write_ns", writes * 1000, "write_latency",
			5, writes));
}

static void take(struct top *top, json_t *reply, bool all)
{
	assert_int_equal(top_take(top, reply, all), 0);
	json_decref(reply);
}

/* The row of a path, borrowed from rows; NULL: it is not there. */
static json_t *find(json_t *rows, const char *path)
{
	json_t *row;
	size_t i;

	json_array_foreach(rows, i, row)
		if (strcmp(json_string_value(json_object_get(row, "path")), path) == 0)
			return row;
	return NULL;
}

static void has(const struct top *top, const char *path, const char *key, double value)
{
	json_t *rows = top_rows(top, TOP_ALL);
	json_t *row = find(rows, path);

	assert_non_null(row);
	if (row_number(row, key) != value)
		fail_msg("%s of %s is %f and not %f", key, path, row_number(row, key), value);
	json_decref(rows);
}

static bool shows(const struct top *top, enum top_filter filter, const char *path)
{
	json_t *rows = top_rows(top, filter);
	bool found = find(rows, path);

	json_decref(rows);
	return found;
}

static void test_rates(void **state)
{
	struct top *top = top_new("/mnt");
	json_t *reply = reply_at(100, 7);

	assert_true(top_wants_all(top));
	add_clone(reply, 70, "a", 10, 50, 80);
	add_clone(reply, 71, "idle", 0, 0, 0);
	take(top, reply, true);
	assert_false(top_wants_all(top));
	/* What was before is no rate. */
	has(top, "/mnt/a", "write_ops", 0);
	has(top, "/mnt/a", "write_bytes_per_second", 0);
	assert_true(shows(top, TOP_USED, "/mnt/a"));
	assert_false(shows(top, TOP_USED, "/mnt/idle"));
	assert_false(shows(top, TOP_ACTIVE, "/mnt/a"));
	assert_true(shows(top, TOP_ALL, "/mnt/idle"));

	reply = reply_at(102, 7);
	add_clone(reply, 70, "a", 14, 60, 40);
	add_clone(reply, 72, "made", 3, 100, 30);
	take(top, reply, false);
	has(top, "/mnt/a", "write_ops", 4);
	has(top, "/mnt/a", "write_ops_per_second", 2);
	has(top, "/mnt/a", "write_bytes_per_second", 2000);
	has(top, "/mnt/a", "write_latency_ns", 1000);
	has(top, "/mnt/a", "write_latency_max_ns", (double)latency_bound(5));
	has(top, "/mnt/a", "read_latency_max_ns", 0);
	has(top, "/mnt/a", "unique_bytes_per_second", 5);
	has(top, "/mnt/a", "unique_growth_bytes", 10);
	has(top, "/mnt/a", "shared_bytes_per_second", -20);
	has(top, "/mnt/a", "shared_growth_bytes", -40);
	/* What was made meanwhile began with nothing of its own. */
	has(top, "/mnt/made", "write_ops", 3);
	has(top, "/mnt/made", "unique_growth_bytes", 100);
	has(top, "/mnt/made", "shared_growth_bytes", 0);
	assert_true(shows(top, TOP_ACTIVE, "/mnt/a"));
	assert_true(top_interval(top) == 2 && top_age(top) == 2 && top_jobs(top) == 1);

	/* Nothing happened, and one was renamed. */
	reply = reply_at(103, 7);
	add_clone(reply, 70, "b", 14, 60, 40);
	take(top, reply, false);
	has(top, "/mnt/b", "write_ops_per_second", 0);
	has(top, "/mnt/b", "write_latency_max_ns", 0);
	has(top, "/mnt/b", "write_latency_max_all_ns", (double)latency_bound(5));
	has(top, "/mnt/b", "write_ops", 4);
	assert_false(shows(top, TOP_ACTIVE, "/mnt/b"));
	/* A clone that was used and is not told of any more is gone. */
	assert_false(shows(top, TOP_ALL, "/mnt/made"));
	assert_true(shows(top, TOP_ALL, "/mnt/idle"));
	top_free(top);
}

static void test_restart(void **state)
{
	struct top *top = top_new("/mnt");
	json_t *reply = reply_at(1, 7);

	add_clone(reply, 70, "a", 1000, 0, 0);
	add_clone(reply, 71, "b", 1000, 0, 0);
	take(top, reply, true);
	reply = reply_at(2, 7);
	add_clone(reply, 70, "a", 1500, 0, 0);
	add_clone(reply, 71, "b", 1500, 0, 0);
	take(top, reply, false);

	/* Another worker: one clone was used since, even more than before. */
	reply = reply_at(3, 8);
	add_clone(reply, 70, "a", 2000, 0, 0);
	take(top, reply, false);
	has(top, "/mnt/a", "write_ops_per_second", 2000);
	has(top, "/mnt/a", "write_ops", 2500);
	has(top, "/mnt/a", "write_latency_ns", 1000);
	has(top, "/mnt/b", "write_ops_per_second", 0);
	has(top, "/mnt/b", "write_ops", 500);
	assert_int_equal(top_restarts(top), 1);
	assert_true(shows(top, TOP_USED, "/mnt/b"));
	assert_true(top_wants_all(top));

	/* The other one goes on from nothing. */
	reply = reply_at(4, 8);
	add_clone(reply, 70, "a", 2000, 0, 0);
	add_clone(reply, 71, "b", 5, 0, 0);
	take(top, reply, true);
	has(top, "/mnt/b", "write_ops_per_second", 5);
	has(top, "/mnt/b", "write_ops", 505);
	has(top, "/mnt/a", "write_ops_per_second", 0);

	/* Counters that went back without a word. */
	reply = reply_at(5, 8);
	add_clone(reply, 70, "a", 10, 0, 0);
	take(top, reply, true);
	has(top, "/mnt/a", "write_ops_per_second", 10);
	has(top, "/mnt/a", "write_ops", 2510);
	assert_false(shows(top, TOP_ALL, "/mnt/b"));
	top_free(top);
}

/* A count of a bucket that passed 2^32, and replies that make no sense. */
static void test_odd_replies(void **state)
{
	static const char *const replies[] = {
		"{}", "{\"goldfs\":1}", "{\"goldfs\":[1,[],{},{\"ino\":1},{\"path\":\"x\"}]}",
		"{\"goldfs\":[{\"ino\":-1,\"path\":\"x\"}]}",
		"{\"goldfs\":[{\"ino\":1,\"path\":2}],\"store\":7,\"jobs\":[]}",
		"{\"goldfs\":[{\"ino\":1,\"path\":\"x\",\"write_latency\":[-1,5]}]}",
		"{\"goldfs\":[{\"ino\":1,\"path\":\"x\",\"write_latency\":[55,5,6,7]}]}",
		"{\"goldfs\":[{\"ino\":1,\"path\":\"x\",\"write_latency\":[1e9,\"a\",{}]}]}",
		"{\"goldfs\":[{\"ino\":1,\"path\":\"x\",\"write_ops\":-5,\"unique_bytes\":9e99}]}",
	};
	struct top *top = top_new("/");
	json_t *rows;

	take(top, json_loads("{\"goldfs\":[{\"ino\":9,\"path\":\"w\",\"read_latency\":"
			     "[3,4294967295]}]}", 0, NULL), true);
	take(top, json_loads("{\"goldfs\":[{\"ino\":9,\"path\":\"w\",\"read_latency\":[3,1]}],"
			     "\"time_ns\":1000000000}", 0, NULL), true);
	has(top, "/w", "read_latency_max_ns", (double)latency_bound(3));
	for (size_t i = 0; i < sizeof(replies) / sizeof(*replies); i++) {
		take(top, json_loads(replies[i], 0, NULL), true);
		rows = top_rows(top, TOP_ALL);
		assert_true(json_is_array(rows));
		json_decref(rows);
		free(top_store_text(top));
	}
	top_free(top);
}

/* Every column is a member of every row. */
static void test_columns(void **state)
{
	struct top *top = top_new("/mnt");
	json_t *reply = reply_at(1, 1);
	json_t *rows;

	add_clone(reply, 70, "a", 1, 1, 1);
	take(top, reply, true);
	rows = top_rows(top, TOP_ALL);
	for (const struct column *c = top_columns; c->name; c++) {
		assert_non_null(json_object_get(json_array_get(rows, 0), c->key));
		assert_ptr_equal(view_column(top_columns, c->name), c);
		assert_ptr_equal(view_column(top_columns, c->key), c);
	}
	json_decref(rows);
	top_free(top);
}

static void check_order(json_t *rows, const char *column, int direction, const char *expected)
{
	json_t *sorted = view_sorted(view_column(top_columns, column), direction, rows);
	char order[16] = "";
	json_t *row;
	size_t i;

	json_array_foreach(sorted, i, row)
		strcat(order, json_string_value(json_object_get(row, "path")));
	assert_string_equal(order, expected);
	json_decref(sorted);
}

static void test_order(void **state)
{
	json_t *rows = json_pack("[{s:s, s:f, s:i}, {s:s, s:f, s:i}, {s:s, s:f, s:i}]", "path", "b",
		"write_bytes_per_second", 10.5, "unique_growth_bytes", -5, "path", "a",
		"write_bytes_per_second", 9.5, "unique_growth_bytes", 7, "path", "c",
		"write_bytes_per_second", 10.5, "unique_growth_bytes", 0);

	check_order(rows, "write/s", 1, "abc");
	check_order(rows, "WRITE/s", -1, "bca");
	check_order(rows, "unique+", -1, "acb");
	check_order(rows, "path", -1, "cba");
	json_decref(rows);
}

static void test_formats(void **state)
{
	static const struct {
		void (*format)(double number, char *buf, size_t len);
		double number;
		const char *text;
	} cases[] = {
		{format_rate, 0, "0"}, {format_rate, -1, "0"}, {format_rate, 0.04, "0.0"},
		{format_rate, 9.94, "9.9"}, {format_rate, 9.96, "10"}, {format_rate, 9999, "9999"},
		{format_rate, 31234, "31k"}, {format_rate, 12345678, "12M"},
		{format_time, 0, "-"}, {format_time, 400, "0.4us"}, {format_time, 240e3, "240us"},
		{format_time, 1.26e6, "1.3ms"}, {format_time, 999.6e6, "1.0s"},
		{format_time, 12e9, "12s"}, {format_growth, 0, "0"}, {format_growth, 0.5, "0"},
		{format_growth, 1536, "+1.5K"}, {format_growth, -1048576, "-1M"},
	};
	static const double extremes[] = {1e308, -1e308, 0.0 / 1.0, 1e18, 1e-300};
	char buf[FORMAT_LEN];

	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		cases[i].format(cases[i].number, buf, sizeof(buf));
		assert_string_equal(buf, cases[i].text);
	}
	for (size_t i = 0; i < sizeof(extremes) / sizeof(*extremes); i++) {
		format_rate(extremes[i], buf, sizeof(buf));
		format_time(extremes[i], buf, sizeof(buf));
		format_growth(extremes[i], buf, sizeof(buf));
		assert_true(strlen(buf) < 20);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_rates),
		cmocka_unit_test(test_restart),
		cmocka_unit_test(test_odd_replies),
		cmocka_unit_test(test_columns),
		cmocka_unit_test(test_order),
		cmocka_unit_test(test_formats),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
