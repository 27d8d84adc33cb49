/* SPDX-License-Identifier: MIT */
/* Figures as JSON and as metrics: the keys are a promise. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "service/report.h"
#include "service/service.h"

/* All keys of an object in their order, with spaces between. */
static void check_keys(json_t *object, const char *expected)
{
	char keys[1024] = "";
	const char *key;
	json_t *value;

	json_object_foreach(object, key, value) {
		if (*keys)
			strcat(keys, " ");
		strcat(keys, key);
	}
	assert_string_equal(keys, expected);
}

static void test_file(void **state)
{
	struct fs_info info = {
		.kind = FS_KIND_CLONE,
		.mode = "snapshot",
		.format = "raw",
		.base = (char *)"golden/d\xff.img",
		.snapshots = 2,
		.created_ns = 1000000000,
		.state = "ok",
		.figures = {.virtual_bytes = 1, .pinned_golden_bytes = UINT64_MAX},
	};
	json_t *json = report_file("a/b.img", &info);

	check_keys(json, "path kind mode format base virtual_bytes data_bytes zero_bytes "
			 "unique_bytes shared_golden_bytes shared_clone_bytes "
			 "shared_snapshot_bytes shared_self_bytes pinned_golden_bytes snapshots "
			 "created state");
	assert_string_equal(json_string_value(json_object_get(json, "kind")), "clone");
	assert_string_equal(json_string_value(json_object_get(json, "base")), "golden/d%FF.img");
	assert_string_equal(
		json_string_value(json_object_get(json, "created")), "1970-01-01T00:00:01Z");
	assert_int_equal(json_integer_value(json_object_get(json, "virtual_bytes")), 1);
	assert_int_equal(
		json_integer_value(json_object_get(json, "pinned_golden_bytes")), INT64_MAX);
	json_decref(json);
}

/* What the core leaves out is there all the same. */
static void test_file_empty(void **state)
{
	struct fs_info info = {.kind = FS_KIND_FOLDER};
	json_t *json = report_file("", &info);

	assert_string_equal(json_string_value(json_object_get(json, "kind")), "folder");
	assert_string_equal(json_string_value(json_object_get(json, "base")), "");
	assert_string_equal(json_string_value(json_object_get(json, "state")), "");
	json_decref(json);
}

static void test_store(void **state)
{
	struct fs_store_figures figures = {.pool_bytes = 7, .ratio = INFINITY, .clones = 3};
	json_t *json = report_store(&figures);

	check_keys(json, "virtual_bytes data_bytes unique_bytes pool_bytes golden_bytes "
			 "journal_bytes metadata_bytes physical_bytes free_bytes saved_clone_bytes "
			 "saved_dedup_bytes saved_zero_bytes ratio clones snapshots "
			 "state");
	assert_int_equal(json_integer_value(json_object_get(json, "pool_bytes")), 7);
	assert_true(json_is_number(json_object_get(json, "ratio")));
	json_decref(json);
}

static void test_daemon(void **state)
{
	struct service_daemon daemon = {.worker_pid = 5, .supervisor_pid = 6, .restarts = 7,
		.uptime_seconds = 8};
	json_t *json = report_daemon(&daemon);

	check_keys(json, "worker_pid supervisor_pid restarts last_pause_ms uptime_seconds");
	assert_int_equal(json_integer_value(json_object_get(json, "uptime_seconds")), 8);
	json_decref(json);
	daemon.upgrade = (struct service_upgrade){.ticket = 3, .state = "done"};
	json = report_daemon(&daemon);
	check_keys(json_object_get(json, "last_upgrade"), "ticket state version message");
	json_decref(json);
}

/* The classes of a folder still add up to its data, whatever removing it frees. */
static void test_fold(void **state)
{
	static const uint64_t freed[] = {0, 10, 25, 30, 45, 100};

	for (size_t i = 0; i < sizeof(freed) / sizeof(*freed); i++) {
		struct fs_figures one = {.data_bytes = 50, .unique_bytes = 10,
			.shared_golden_bytes = 5, .shared_clone_bytes = 20,
			.shared_snapshot_bytes = 12, .shared_self_bytes = 3};
		struct fs_figures sum = {.data_bytes = 0};

		report_add(&sum, &one);
		report_add(&sum, &one);
		report_fold(&sum, freed[i]);
		assert_int_equal(sum.data_bytes, 100);
		assert_int_equal(sum.unique_bytes + sum.shared_golden_bytes +
				sum.shared_clone_bytes + sum.shared_snapshot_bytes +
				sum.shared_self_bytes,
			100);
		if (freed[i] >= 20)
			assert_int_equal(sum.unique_bytes + sum.pinned_golden_bytes, freed[i]);
	}
}

static void test_top(void **state)
{
	const struct fs_figures figures = {.unique_bytes = 1, .shared_golden_bytes = 2,
		.shared_clone_bytes = 4, .shared_snapshot_bytes = 8};
	struct fs_io io = {.write_ops = 3};
	json_t *json, *latency;

	io.latency[FS_IO_WRITE][7] = 1;
	io.latency[FS_IO_WRITE][9] = 2;
	json = report_top("a\xff.img", 99, &figures, &io);
	check_keys(json, "ino path virtual_bytes unique_bytes shared_bytes read_ops read_bytes "
			 "read_ns write_ops write_bytes write_ns flush_ops flush_ns read_latency "
			 "write_latency flush_latency");
	assert_string_equal(json_string_value(json_object_get(json, "path")), "a%FF.img");
	assert_int_equal(json_integer_value(json_object_get(json, "shared_bytes")), 14);
	assert_int_equal(json_array_size(json_object_get(json, "read_latency")), 0);
	latency = json_object_get(json, "write_latency");
	assert_int_equal(json_array_size(latency), 4);
	assert_int_equal(json_integer_value(json_array_get(latency, 0)), 7);
	assert_int_equal(json_integer_value(json_array_get(latency, 1)), 1);
	assert_int_equal(json_integer_value(json_array_get(latency, 2)), 0);
	assert_int_equal(json_integer_value(json_array_get(latency, 3)), 2);
	json_decref(json);
}

static char *metrics_text(const struct service_daemon *daemon)
{
	struct fs_store_figures figures = {.physical_bytes = 123456789012, .ratio = 2.5};
	struct fs_counters counters = {.read_bytes = 42};
	const struct metrics_clone clone = {
		.name = (char *)"we\"b\\1\n.img",
		.figures = {.unique_bytes = 4096, .shared_golden_bytes = 1, .shared_clone_bytes = 2,
			.shared_snapshot_bytes = 4},
		.io = {.write_ops = 5, .flush_ns = 12000000034},
	};
	char *text = NULL;
	size_t len;
	FILE *out = open_memstream(&text, &len);

	metrics_write(out, daemon, &figures, &counters);
	metrics_clones_write(out, &clone, 1);
	fclose(out);
	return text;
}

static void test_metrics(void **state)
{
	struct service_daemon daemon = {.uptime_seconds = 9, .restarts = 2, .last_pause_ms = 1234};
	char *text = metrics_text(&daemon);

	assert_non_null(strstr(text, "# TYPE goldfs_store_physical_bytes gauge\n"
				     "goldfs_store_physical_bytes 123456789012\n"));
	assert_non_null(strstr(text, "# TYPE goldfs_read_bytes_total counter\n"
				     "goldfs_read_bytes_total 42\n"));
	assert_non_null(strstr(text, "\ngoldfs_store_ratio 2.5\n"));
	assert_non_null(strstr(text, "\ngoldfs_restarts_total 2\n"));
	assert_non_null(strstr(text, "\ngoldfs_last_pause_seconds 1.234\n"));
	assert_non_null(strstr(text, "\ngoldfs_clone_unique_bytes{clone=\"we\\\"b\\\\1\\n.img\"} "
				     "4096\n"));
	assert_non_null(strstr(text, "\ngoldfs_clone_shared_bytes{clone=\"we\\\"b\\\\1\\n.img\"} "
				     "7\n"));
	assert_non_null(strstr(text, "# TYPE goldfs_clone_write_ops_total counter\n"
				     "goldfs_clone_write_ops_total{clone=\"we\\\"b\\\\1\\n.img\"} "
				     "5\n"));
	assert_non_null(strstr(text, "\ngoldfs_clone_flush_seconds_total{clone="
				     "\"we\\\"b\\\\1\\n.img\"} 12.000000034\n"));
	free(text);
}

/* Every sample stands below a HELP and a TYPE of its own name, which come once. */
static void test_metrics_form(void **state)
{
	struct service_daemon daemon = {.restarts = 0};
	char *text = metrics_text(&daemon);
	char typed[128] = "";

	for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
		char name[128];

		if (sscanf(line, "# HELP %127s", name) == 1)
			continue;
		if (sscanf(line, "# TYPE %127s", name) == 1) {
			strcpy(typed, name);
			continue;
		}
		assert_int_equal(sscanf(line, "%127[a-z_]", name), 1);
		assert_string_equal(name, typed);
		assert_int_equal(strncmp(name, "goldfs_", 7), 0);
	}
	free(text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_file),
		cmocka_unit_test(test_file_empty),
		cmocka_unit_test(test_store),
		cmocka_unit_test(test_daemon),
		cmocka_unit_test(test_fold),
		cmocka_unit_test(test_top),
		cmocka_unit_test(test_metrics),
		cmocka_unit_test(test_metrics_form),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
