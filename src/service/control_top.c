/* SPDX-License-Identifier: MIT */
/*
 * top: what every clone was asked so far and what it costs now, for who looks every second.
 *
 * The walk is that of list, but nothing is looked up for a clone that nobody has asked anything of,
 * unless all are wanted; no figure that is told starts a count of all that a clone shares. The
 * store as a whole costs a look at each of its files, so what was found is kept for twenty times as
 * long as the look took.
 */
#include <errno.h>

#include "base/cleanup.h"
#include "base/times.h"
#include "service/internal.h"
#include "service/report.h"
#include "service/walk.h"

#define COUNTING_NS INT64_C(50000000) /* that one request may spend on what clones share */

struct top {
	struct request *rq;
	bool all;
	bool comma;
	int64_t budget_ns;
};

static int top_clone(void *arg, const char *path, const struct fs_attr *attr,
	const struct fs_info *info)
{
	struct top *top = arg;
	struct fs *fs = top->rq->service->fs;
	struct fs_figures figures;
	struct fs_io io;
	json_t *object;
	int r;

	if (!fs_io(fs, attr->ino, &io) && !top->all)
		return 0;
	if (fs_figures_quick(fs, attr->ino, &top->budget_ns, &figures) < 0)
		return 0; /* gone meanwhile */
	object = report_top(path, attr->ino, &figures, &io);
	if (top->comma)
		putc(',', top->rq->out);
	top->comma = true;
	r = object && json_dumpf(object, top->rq->out, JSON_COMPACT) == 0 ? 0 : -ENOMEM;
	json_decref(object);
	return r;
}

static int store_figures(struct service *service, int64_t *budget_ns, struct fs_store_figures *out)
{
	int64_t now = times_now(CLOCK_MONOTONIC);
	int r;

	MUTEX_GUARD(&service->top_lock);
	if (!service->top_valid || now - service->top_time_ns > 20 * service->top_cost_ns) {
		r = fs_store_figures_quick(service->fs, budget_ns, &service->top_store);
		if (r < 0)
			return r;
		service->top_valid = true;
		service->top_time_ns = times_now(CLOCK_MONOTONIC);
		service->top_cost_ns = service->top_time_ns - now;
	}
	*out = service->top_store;
	return 0;
}

int control_top(struct request *rq)
{
	struct top top = {.rq = rq, .budget_ns = COUNTING_NS};
	struct fs_store_figures store;
	struct node root;
	int r;

	if (request_bool(rq, "all", &top.all) < 0 || request_walk(rq, "", &root) < 0)
		return rq->error;
	r = store_figures(rq->service, &top.budget_ns, &store);
	if (r == 0) {
		fputs(",\"goldfs\":[", rq->out);
		r = walk(rq->service->fs, &rq->access, &root, "", WALK_CLONE | WALK_BARE,
			top_clone, &top);
		putc(']', rq->out);
	}
	node_release(rq->service->fs, &root);
	if (r < 0)
		return request_fail_path(rq, r, "cannot look at", "");
	if (request_reply(rq, "store", report_store(&store)) < 0 ||
		request_reply(rq, "jobs", json_integer(request_jobs_running(rq))) < 0 ||
		request_reply(rq, "counting_since", json_integer(rq->service->started_ns)) < 0)
		return rq->error;
	return request_reply(rq, "time_ns", json_integer(times_now(CLOCK_MONOTONIC)));
}
