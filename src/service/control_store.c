/* SPDX-License-Identifier: MIT */
/* The verbs about the store as a whole, df and settle, and those about jobs. */
#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "service/internal.h"
#include "service/names.h"
#include "service/report.h"

int control_df(struct request *rq)
{
	struct fs_store_figures figures;
	int r = fs_store_figures(rq->service->fs, &figures);

	if (r < 0)
		return request_fail_path(rq, r, "cannot look at", "");
	return request_reply(rq, "store", report_store(&figures));
}

/* Only root and the mount's owner: whoever is under a limit must not be able to lift it. */
int control_limit(struct request *rq)
{
	CLEANUP_FREE char *path = NULL;
	uint64_t bytes = 0;
	struct node node;
	int r;

	if (request_owner_only(rq) < 0 || request_path(rq, "path", &path) < 0 ||
		request_number(rq, "bytes", false, INT64_MAX, &bytes) < 0 ||
		request_walk(rq, path, &node) < 0)
		return rq->error;
	r = fs_set_limit(rq->service->fs, node.attr.ino, bytes);
	node_release(rq->service->fs, &node);
	return r < 0 ? request_fail_path(rq, r, "cannot limit", path) : 0;
}

/*
 * Work on the whole store is a job, so that others see it and its starter may leave; a request that
 * does not ask for the background waits for it.
 */
int request_store_job(struct request *rq, const char *verb,
	int (*run)(void *service, struct job *job), int finding)
{
	struct job_spec spec = {
		.kind = verb,
		.target = rq->service->info.mountpoint,
		.uid = rq->access.uid,
		.gid = rq->access.gid,
		.run = run,
		.arg = rq->service,
	};
	struct job_view view = {.error = 0};
	bool background = false;
	char what[32];
	uint64_t id;
	int r;

	if (request_owner_only(rq) < 0 || request_bool(rq, "background", &background) < 0)
		return rq->error;
	r = jobs_start(rq->service->jobs, &spec, &id);
	if (r < 0)
		return request_fail(rq, r, "too many jobs run already, wait for one of them");
	if (!background && jobs_wait(rq->service->jobs, id, UINT64_MAX, &view) == 0) {
		r = view.error;
		job_view_release(&view);
		snprintf(what, sizeof(what), "cannot %s", verb);
		if (r < 0 && r != finding)
			return request_fail_path(rq, r, what, "");
	}
	return request_reply(rq, "job", json_integer((json_int_t)id));
}

static bool is_cancelled(void *job)
{
	return job_progress(job, 0, 0);
}

static int run_settle(void *arg, struct job *job)
{
	struct service *service = arg;

	return fs_settle_until(service->fs, is_cancelled, job);
}

int control_settle(struct request *rq)
{
	return request_store_job(rq, "settle", run_settle, 0);
}

static int check_program(struct request *rq, const char *key, const char *path)
{
	if ((*path && *path != '/') || strchr(path, '\n') || strlen(path) >= PATH_MAX)
		return request_fail(rq, -EINVAL, "\"%s\" of the request is not an absolute path",
			key);
	return 0;
}

int control_upgrade(struct request *rq)
{
	const struct service_info *info = &rq->service->info;
	const char *binary = "", *own = "";
	uint64_t ticket = 0;
	int r;

	if (request_owner_only(rq) < 0 ||
		request_number(rq, "ticket", false, INT64_MAX, &ticket) < 0 || request_string(rq, "binary", true, &binary) < 0 ||
		request_string(rq, "own", true, &own) < 0 ||
		check_program(rq, "binary", binary) < 0 || check_program(rq, "own", own) < 0)
		return rq->error;
	r = info->upgrade ? info->upgrade(info->arg, binary, own, ticket) : -ESRCH;
	if (r == -EBUSY)
		return request_fail(rq, r, "another upgrade of \"%s\" is under way", info->mountpoint);
	if (r == -ESRCH)
		return request_fail(rq, r,
			"\"%s\" has no supervisor any more; unmount, and mount it again",
			info->mountpoint);
	if (r < 0)
		return request_fail_path(rq, r, "cannot upgrade", "");
	return request_reply(rq, "ticket", json_integer((json_int_t)ticket));
}

/* As messages are written: lower case. */
static void error_text(const struct job_view *view, char *text, size_t room)
{
	snprintf(text, room, "%s", view->state == JOB_FAILED ? strerror(-view->error) : "");
	text[0] = (char)tolower((unsigned char)text[0]);
}

json_t *job_json(const struct job_view *view)
{
	char started[TIME_TEXT_LEN], error[128];

	time_text(view->started_ns, started);
	error_text(view, error, sizeof(error));
	return json_pack("{s:I, s:s, s:o, s:s, s:I, s:I, s:I, s:s, s:s}", "id",
		(json_int_t)view->id, "kind", view->kind, "target", name_json(view->target),
		"state", job_state_name(view->state), "done_bytes", (json_int_t)view->done_bytes,
		"total_bytes", (json_int_t)view->total_bytes, "rate", (json_int_t)view->rate,
		"error", error, "started", started);
}

static bool may_see(const struct request *rq, const struct job_view *view)
{
	return request_is_owner(rq) || rq->access.uid == view->uid;
}

unsigned int request_jobs_running(const struct request *rq)
{
	unsigned int running = 0;
	struct job_view view;

	for (unsigned int slot = 0; slot < JOBS_MAX; slot++) {
		if (jobs_slot(rq->service->jobs, slot, &view) < 0)
			continue;
		running += view.state == JOB_RUNNING && may_see(rq, &view);
		job_view_release(&view);
	}
	return running;
}

/* By their numbers: slots are used again. */
static void insert_job(json_t *list, const struct job_view *view)
{
	size_t at = json_array_size(list);

	while (at && (uint64_t)json_integer_value(json_object_get(json_array_get(list, at - 1), "id")) > view->id)
		at--;
	json_array_insert_new(list, at, job_json(view));
}

int control_job_list(struct request *rq)
{
	json_t *list = json_array();
	struct job_view view;

	for (unsigned int slot = 0; slot < JOBS_MAX; slot++) {
		if (jobs_slot(rq->service->jobs, slot, &view) < 0)
			continue;
		if (may_see(rq, &view))
			insert_job(list, &view);
		job_view_release(&view);
	}
	return request_reply(rq, "jobs", list);
}

/* Takes "id" and copies that job. A job that the caller may not see is none to him. */
static int take_job(struct request *rq, uint64_t *id, struct job_view *view)
{
	int r;

	if (request_number(rq, "id", false, INT64_MAX, id) < 0)
		return rq->error;
	r = jobs_get(rq->service->jobs, *id, view);
	if (r == -EINTR)
		return request_fail(rq, r,
			"job %llu was interrupted by a restart of the daemon, run it again",
			(unsigned long long)*id);
	if (r == 0 && !may_see(rq, view)) {
		job_view_release(view);
		r = -ENOENT;
	}
	if (r < 0)
		return request_fail(rq, r, "there is no job %llu", (unsigned long long)*id);
	return 0;
}

static int reply_job(struct request *rq, struct job_view *view)
{
	json_t *json = job_json(view);

	job_view_release(view);
	return request_reply(rq, "job", json);
}

int control_job_show(struct request *rq)
{
	CLEANUP_FREE char *report = NULL;
	struct job_view view;
	uint64_t id;

	if (take_job(rq, &id, &view) < 0)
		return rq->error;
	report = jobs_report(rq->service->jobs, id);
	if (report)
		fprintf(rq->out, ",\"report\":%s", report);
	return reply_job(rq, &view);
}

int control_job_wait(struct request *rq)
{
	uint64_t timeout_ms = UINT64_MAX;
	struct job_view view;
	uint64_t id;
	int r;

	if (request_number(rq, "timeout_ms", true, INT64_MAX, &timeout_ms) < 0 ||
		take_job(rq, &id, &view) < 0)
		return rq->error;
	job_view_release(&view);
	r = jobs_wait(rq->service->jobs, id, timeout_ms, &view);
	if (r < 0)
		return request_fail(rq, r, "there is no job %llu", (unsigned long long)id);
	return reply_job(rq, &view);
}

int control_job_cancel(struct request *rq)
{
	struct job_view view;
	uint64_t id;
	int r;

	if (take_job(rq, &id, &view) < 0)
		return rq->error;
	job_view_release(&view);
	r = jobs_cancel(rq->service->jobs, id);
	if (r < 0)
		return request_fail(rq, r, "job %llu has ended already", (unsigned long long)id);
	r = jobs_get(rq->service->jobs, id, &view);
	if (r < 0)
		return request_fail(rq, r, "there is no job %llu", (unsigned long long)id);
	return reply_job(rq, &view);
}
