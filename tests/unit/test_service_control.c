/* SPDX-License-Identifier: MIT */
/*
 * Control requests that must be refused before anything is looked at (there is no file system
 * here to look at), and jobs with their files.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <jansson.h>
#include <semaphore.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/fs.h"
#include "service/control.h"
#include "service/jobs.h"
#include "service/service.h"

static struct service *service;

static int start(void **state)
{
	const struct service_info info = {
		.mountpoint = "/mnt/vms", .images = "/srv/gi", .owner_uid = 1000, .owner_gid = 100};

	return service_new(&service, NULL, &info);
}

static int stop(void **state)
{
	service_free(service);
	return 0;
}

static json_t *ask(uint32_t uid, const char *request, size_t len)
{
	const struct service_caller caller = {.uid = uid, .gid = uid, .pid = 0};
	json_t *json;
	size_t reply_len;
	char *reply;

	assert_int_equal(service_control(service, &caller, request, len, &reply, &reply_len), 0);
	assert_int_equal(strlen(reply), reply_len);
	json = json_loadb(reply, reply_len, JSON_REJECT_DUPLICATES, NULL);
	assert_true(json_is_object(json));
	free(reply);
	return json;
}

static void refused_with(const char *request, size_t len, const char *errno_name)
{
	json_t *reply = ask(0, request, len);

	assert_int_equal(json_integer_value(json_object_get(reply, "status")), 1);
	assert_string_equal(json_string_value(json_object_get(reply, "errno")), errno_name);
	assert_true(json_string_length(json_object_get(reply, "error")) > 0);
	json_decref(reply);
}

static void test_garbage(void **state)
{
	static const char *const requests[] = {
		"", " ", "{", "}", "[]", "null", "1", "\"clone\"", "{}", "{\"verb\":1}",
		"{\"verb\":null}", "{\"verb\":[\"df\"]}", "{\"verb\":\"df\"", "{\"verb\":\"df\"}x",
		"{\"verb\":\"df\",\"verb\":\"df\"}", "{\"verb\":\"df\",\"unknown\":1}", "{\"verb\":\"top\",\"all\":1}",
		"{\"verb\":\"df\",\"client\":1}", "{\"verb\":\"settle\",\"background\":1}",
		"{\"verb\":\"job-show\"}", "{\"verb\":\"job-show\",\"id\":\"1\"}",
		"{\"verb\":\"job-show\",\"id\":-1}", "{\"verb\":\"job-show\",\"id\":1.5}",
		"{\"verb\":\"job-show\",\"id\":99999999999999999999}",
		"{\"verb\":\"clone\"}", "{\"verb\":\"clone\",\"source\":1}",
		"{\"verb\":\"clone\",\"source\":{\"escaped\":1}}",
		"{\"verb\":\"clone\",\"source\":{\"escaped\":\"%0\"}}",
		"{\"verb\":\"clone\",\"source\":{\"escaped\":\"%00\"}}",
		"{\"verb\":\"clone\",\"source\":{\"escaped\":\"a\",\"b\":1}}",
		"{\"verb\":\"clone\",\"source\":\"a\\u0000b\"}",
		"{\"verb\":\"clone\",\"mode\":\"quick\"}",
		"{\"verb\":\"clone\",\"replace\":\"yes\"}",
		"{\"verb\":\"clone\",\"umask\":512}", "{\"verb\":\"stat\",\"paths\":[]}",
		"{\"verb\":\"stat\",\"paths\":\"a\"}", "{\"verb\":\"stat\",\"paths\":[1]}",
		"{\"verb\":\"list\",\"types\":[\"x\"]}", "{\"verb\":\"list\",\"types\":[1]}",
		"{\"verb\":\"d\\u0066\",\"x\":1}", "{\"verb\":\"df\",\"\":1}",
		"{\"verb\":\"clone\",\"targets folder\":1}", "\xff\xfe{}", "{\"verb\":\"\xff\"}",
	};

	for (size_t i = 0; i < sizeof(requests) / sizeof(*requests); i++)
		refused_with(requests[i], strlen(requests[i]), "EINVAL");
	refused_with("{\"verb\":\"df\0\"}", 14, "EINVAL");
	refused_with("{\"verb\":\"fly\"}", 14, "EOPNOTSUPP");
	refused_with("{\"verb\":\"\"}", 11, "EOPNOTSUPP");
	refused_with("{\"verb\":\"job-show\",\"id\":1}", 26, "ENOENT");
	refused_with("{\"verb\":\"clone\",\"mode\":\"mean\"}", 30, "EINVAL");
}

static char *repeat(const char *text, size_t times)
{
	size_t len = strlen(text);
	char *all = malloc(len * times + 1);

	for (size_t i = 0; i < times; i++)
		memcpy(all + i * len, text, len);
	all[len * times] = '\0';
	return all;
}

static void test_huge(void **state)
{
	char *spaces = repeat(" ", CONTROL_REQUEST_MAX + 1);
	char *brackets = repeat("[", CONTROL_REQUEST_MAX);
	char *objects = repeat("{\"a\":", 100000);
	char *name = repeat("a", 5000);
	char *request;
	int len;

	refused_with(spaces, strlen(spaces), "E2BIG");
	refused_with(brackets, strlen(brackets), "EINVAL");
	refused_with(objects, strlen(objects), "EINVAL");
	len = asprintf(&request, "{\"verb\":\"clone\",\"source\":\"%s\"}", name);
	refused_with(request, (size_t)len, "ENAMETOOLONG");
	free(request);
	len = asprintf(&request, "{\"verb\":\"%s\",\"client\":\"%s\"}", name, name);
	refused_with(request, (size_t)len, "EINVAL");
	free(request);
	len = asprintf(&request, "{\"verb\":\"df\",\"%s\":1}", name);
	refused_with(request, (size_t)len, "EINVAL");
	free(request);
	free(spaces);
	free(brackets);
	free(objects);
	free(name);
}

/* Every request cut short, and with each byte changed, gets a reply. */
static void test_mangled(void **state)
{
	static const char request[] =
		"{\"verb\":\"job-wait\",\"id\":7,\"timeout_ms\":0,\"client\":\"a\\u00fc\"}";
	char copy[sizeof(request)];

	for (size_t len = 0; len < sizeof(request); len++)
		json_decref(ask(0, request, len));
	for (size_t i = 0; i + 1 < sizeof(request); i++) {
		for (int bit = 0; bit < 8; bit++) {
			memcpy(copy, request, sizeof(copy));
			copy[i] ^= (char)(1 << bit);
			json_decref(ask(0, copy, strlen(request)));
		}
	}
}

static void test_owner_only(void **state)
{
	json_t *reply = ask(1001, "{\"verb\":\"settle\"}", 17);

	assert_string_equal(json_string_value(json_object_get(reply, "errno")), "EPERM");
	json_decref(reply);
}

/* ---- the virtual tree ---- */

static int count_entry(void *arg, const char *name, const struct fs_attr *attr, uint64_t next)
{
	struct fs_attr found;
	uint64_t *count = arg;

	assert_int_equal(service_lookup(service, FS_INO_VIRTUAL, name, &found), 0);
	assert_int_equal(found.ino, attr->ino);
	assert_int_equal(found.mode, attr->mode);
	assert_int_equal(service_parent(service, attr->ino), FS_INO_VIRTUAL);
	assert_int_equal(next, ++*count);
	return 0;
}

static void test_tree(void **state)
{
	const struct service_caller root = {.uid = 0, .gid = 0, .pid = 0};
	struct fs_attr attr;
	uint64_t count = 0;
	char *text;
	size_t len;

	assert_int_equal(service_lookup(service, FS_INO_ROOT, ".goldfs", &attr), 0);
	assert_int_equal(attr.ino, FS_INO_VIRTUAL);
	assert_int_equal(attr.mode, S_IFDIR | 0755);
	assert_int_equal(attr.uid, 1000);
	assert_int_equal(service_list(service, FS_INO_VIRTUAL, 0, count_entry, &count), 0);
	assert_int_equal(count, 4);
	assert_int_equal(service_lookup(service, FS_INO_VIRTUAL, "control", &attr), 0);
	assert_int_equal(attr.mode, S_IFREG | 0666);
	assert_true(service_is_control(service, attr.ino));
	assert_int_equal(service_read(service, &root, attr.ino, &text, &len), -EINVAL);
	assert_int_equal(service_lookup(service, FS_INO_VIRTUAL, "nothing", &attr), -ENOENT);
	assert_int_equal(service_getattr(service, 30, &attr), -ENOENT);
	assert_int_equal(service_getattr(service, 63, &attr), -ENOENT);
}

/* ---- jobs ---- */

static sem_t proceed;

static int run_until_told(void *arg, struct job *job)
{
	int *result = arg;

	sem_wait(&proceed);
	return job_progress(job, 50, 100) ? -ECANCELED : *result;
}

static uint64_t start_job(struct jobs *jobs, int *result)
{
	struct job_spec spec = {.kind = "test", .target = "x", .uid = 7, .gid = 8,
		.run = run_until_told, .arg = result};
	uint64_t id = 0;
	int r = jobs_start(jobs, &spec, &id);

	return r < 0 ? 0 : id;
}

static void check_end(struct jobs *jobs, uint64_t id, enum job_state end, int error)
{
	struct job_view view;

	assert_int_equal(jobs_wait(jobs, id, UINT64_MAX, &view), 0);
	assert_int_equal(view.state, end);
	assert_int_equal(view.error, error);
	assert_int_equal(view.done_bytes, 50);
	assert_string_equal(view.target, "x");
	job_view_release(&view);
}

static void test_jobs(void **state)
{
	static int fine = 0;
	static int broken = -EIO;
	struct job_view view;
	struct jobs *jobs;
	uint64_t id;

	sem_init(&proceed, 0, 0);
	assert_int_equal(jobs_new(&jobs, NULL), 0);
	id = start_job(jobs, &fine);
	assert_int_equal(id, 1);
	assert_int_equal(jobs_wait(jobs, id, 1, &view), 0);
	assert_int_equal(view.state, JOB_RUNNING);
	job_view_release(&view);
	sem_post(&proceed);
	check_end(jobs, id, JOB_DONE, 0);
	assert_int_equal(jobs_cancel(jobs, id), -ESRCH);
	assert_int_equal(jobs_cancel(jobs, 99), -ENOENT);

	id = start_job(jobs, &broken);
	sem_post(&proceed);
	check_end(jobs, id, JOB_FAILED, -EIO);

	id = start_job(jobs, &fine);
	assert_int_equal(jobs_cancel(jobs, id), 0);
	sem_post(&proceed);
	check_end(jobs, id, JOB_CANCELLED, -ECANCELED);
	jobs_free(jobs);
	sem_destroy(&proceed);
}

/* All slots busy, then all used again: ids go on, old ones are forgotten. */
static void test_many_jobs(void **state)
{
	static int fine = 0;
	struct job_view view;
	struct jobs *jobs;
	uint64_t last = 0;

	sem_init(&proceed, 0, 0);
	assert_int_equal(jobs_new(&jobs, NULL), 0);
	for (int i = 0; i < JOBS_MAX; i++)
		last = start_job(jobs, &fine);
	assert_int_equal(last, JOBS_MAX);
	assert_int_equal(start_job(jobs, &fine), 0);
	for (int i = 0; i < JOBS_MAX; i++)
		sem_post(&proceed);
	for (uint64_t id = 1; id <= last; id++)
		check_end(jobs, id, JOB_DONE, 0);
	assert_int_equal(start_job(jobs, &fine), last + 1);
	assert_int_equal(jobs_get(jobs, 1, &view), -ENOENT);
	assert_int_equal(jobs_get(jobs, 2, &view), 0);
	job_view_release(&view);
	sem_post(&proceed);
	jobs_free(jobs);
	sem_destroy(&proceed);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_garbage, start, stop),
		cmocka_unit_test_setup_teardown(test_huge, start, stop),
		cmocka_unit_test_setup_teardown(test_mangled, start, stop),
		cmocka_unit_test_setup_teardown(test_owner_only, start, stop),
		cmocka_unit_test_setup_teardown(test_tree, start, stop),
		cmocka_unit_test(test_jobs),
		cmocka_unit_test(test_many_jobs),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
