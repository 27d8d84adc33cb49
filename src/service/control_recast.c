/* SPDX-License-Identifier: MIT */
/*
 * The verbs rebase, convert and upgrade-base: jobs that give clones another base or mode.
 *
 * Who may: what they change of a file is how it is stored, and that needs as much as writing to it
 * does; the image has to be readable, as for a clone of it. upgrade-base takes all clones of the
 * old image that the caller can reach and write to, as a walk over the tree finds them.
 *
 * What was begun stands in the store. When the process ends in the middle its successor, or the
 * next mount, goes on with it as a job of its own (recast_tick()); the same request once more waits
 * for that and finds everything done. A job that is cancelled leaves the file on which it was at
 * work as it was, and those that it had done before as they are.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/times.h"
#include "service/internal.h"
#include "service/names.h"
#include "service/walk.h"

#define REST_NS INT64_C(10000000000)	/* between two jobs of the tick */
#define FAILED_NS INT64_C(300000000000) /* after one that failed */

enum what { REBASE, CONVERT, TRY };

struct item {
	uint64_t ino;
	char *path; /* owned */
};

/* What a job works on; it owns this. */
struct work {
	struct service *service;
	struct item *items;
	size_t count, room;
	enum what what;
	enum fs_mode mode;
	struct fs_gains *gains; /* TRY */
	uint64_t golden; /* ino, held by `onto`; 0: none */
	struct node onto;
	char *base; /* only clones that stand on this; NULL: any */
	uint64_t rate;
	struct job *job;
	size_t at; /* the item that is being worked on */
	json_t *report;
};

static void work_free(struct work *w)
{
	if (!w)
		return;
	for (size_t i = 0; i < w->count; i++)
		free(w->items[i].path);
	node_release(w->service->fs, &w->onto);
	json_decref(w->report);
	fs_gains_free(w->gains);
	free(w->items);
	free(w->base);
	free(w);
}

/* ---- the job ---- */

/* Each file counts alike, as how large the next ones are is not known. */
static bool tell_progress(void *arg, uint64_t done, uint64_t total)
{
	struct work *w = arg;

	if (w->count == 1)
		return job_progress(w->job, done, total);
	return job_progress(w->job, total * w->at + done, total * w->count);
}

static bool is_put_off(void *arg)
{
	return job_is_put_off(((struct work *)arg)->job);
}

static uint64_t unique_bytes(struct fs *fs, uint64_t ino)
{
	struct fs_info info;
	uint64_t unique;

	if (fs_info(fs, ino, FS_NOW, &info) < 0)
		return 0;
	unique = info.figures.unique_bytes;
	fs_info_release(&info);
	return unique;
}

static const char *reason(int r)
{
	if (r == -ESTALE)
		return "It was rolled back, refreshed or replaced meanwhile";
	return r ? strerror(-r) : "";
}

static void note(struct work *w, const struct item *item, uint64_t before, int64_t gain, int r)
{
	json_t *path = name_json(item->path);
	json_t *row = json_pack("{s:o, s:I, s:I, s:s}", "path", path, "unique_bytes",
		(json_int_t)before, "gain_bytes", (json_int_t)gain, "error", reason(r));

	if (row)
		json_array_append_new(w->report, row);
}

static int do_item(struct work *w, const struct item *item)
{
	struct fs_recast_options options = {
		.progress = tell_progress, .is_put_off = is_put_off, .arg = w, .rate = w->rate};
	struct fs *fs = w->service->fs;
	uint64_t before = unique_bytes(fs, item->ino);
	int64_t gain = 0;
	int r;

	if (w->what == TRY)
		r = fs_rebase_gain(fs, item->ino, w->golden, w->gains, &gain, &options);
	else if (w->what == REBASE)
		r = fs_rebase(fs, item->ino, w->golden, &options);
	else
		r = fs_convert(fs, item->ino, w->mode, w->golden, &options);
	if (w->what != TRY)
		gain = (int64_t)before - (int64_t)unique_bytes(fs, item->ino);
	note(w, item, before, gain, r);
	return r;
}

static bool is_gone(struct fs *fs, const struct item *item)
{
	struct fs_attr attr;

	return fs_getattr(fs, item->ino, &attr) == -ESTALE;
}

/* A file that cannot be done, or is gone, is no reason to leave the others out. */
static int run(void *arg, struct job *job)
{
	struct work *w = arg;
	int r = 0, first = 0;

	w->job = job;
	for (w->at = 0; w->at < w->count; w->at++) {
		r = do_item(w, &w->items[w->at]);
		if (r == -ECANCELED || r == -EINTR)
			break;
		if (r && !is_gone(w->service->fs, &w->items[w->at]) && !first)
			first = r;
		r = 0;
	}
	job_set_report(job, json_dumps(w->report, JSON_COMPACT));
	work_free(w);
	return r ? r : first;
}

/* Takes w over. */
static int start(struct request *rq, struct work *w, const char *kind)
{
	const char *target = w->count == 1 ? w->items[0].path : rq->service->info.mountpoint;
	uint64_t id;
	int r;

	w->report = json_array();
	r = !w->report ? -ENOMEM
		       : jobs_start(rq->service->jobs,
				 &(struct job_spec){.kind = kind,
					 .target = target,
					 .uid = rq->access.uid,
					 .gid = rq->access.gid,
					 .run = run,
					 .arg = w},
				 &id);
	if (r < 0) {
		work_free(w);
		return request_fail(rq, r, "too many jobs run already, wait for one of them");
	}
	return request_reply(rq, "job", json_integer((json_int_t)id));
}

/* ---- what is asked for ---- */

static int add_item(struct work *w, uint64_t ino, const char *path)
{
	if (w->count == w->room) {
		size_t room = w->room ? 2 * w->room : 16;
		struct item *more = reallocarray(w->items, room, sizeof(*more));

		if (!more)
			return -ENOMEM;
		w->items = more;
		w->room = room;
	}
	w->items[w->count] = (struct item){.ino = ino, .path = strdup(path)};
	return w->items[w->count++].path ? 0 : -ENOMEM;
}

static int judge_clone(const struct request *rq, const struct fs_attr *attr)
{
	if (S_ISDIR(attr->mode))
		return -EISDIR;
	if (!S_ISREG(attr->mode))
		return -EINVAL;
	return access_may(&rq->access, attr, W_OK) ? 0 : -EACCES;
}

static int take_clone(struct request *rq, struct work *w, const char *path)
{
	enum fs_kind kind;
	struct node node;
	int r;

	/* Before there is a job, which would name the mount alone where there are several. */
	if (rq->service->info.read_only)
		return request_fail_path(rq, -EROFS, "cannot change", path);
	if (request_walk(rq, path, &node) < 0)
		return rq->error;
	r = judge_clone(rq, &node.attr);
	if (!r)
		r = fs_kind(rq->service->fs, node.attr.ino, &kind);
	if (!r)
		r = kind == FS_KIND_CLONE ? add_item(w, node.attr.ino, path) : -EROFS;
	node_release(rq->service->fs, &node);
	return r < 0 ? request_fail_path(rq, r, "cannot change", path) : 0;
}

static int take_clones(struct request *rq, struct work *w)
{
	json_t *paths, *value;
	size_t i;

	if (request_list(rq, "paths", &paths) < 0)
		return rq->error;
	json_array_foreach (paths, i, value) {
		CLEANUP_FREE char *path = NULL;

		if (request_path_value(rq, "paths", value, &path) < 0 ||
			take_clone(rq, w, path) < 0)
			return rq->error;
	}
	return w->count ? 0 : request_fail(rq, -EINVAL, "no clone is named");
}

/* Without slashes around it, as the paths that the store tells have none. */
static char *trim(const char *path)
{
	size_t len;

	path += strspn(path, "/");
	len = strlen(path);
	while (len && path[len - 1] == '/')
		len--;
	return strndup(path, len);
}

/* Whether it is one, and all of it is in its folder. */
static int judge_image(struct request *rq, const struct work *w, const char *path)
{
	CLEANUP_FREE char *name = request_name(rq, path);
	const char *format = fs_golden_format(rq->service->fs, w->onto.attr.ino);
	enum fs_kind kind;
	int r = fs_kind(rq->service->fs, w->onto.attr.ino, &kind);

	if (r)
		return request_fail_path(rq, r, "cannot put clones on", path);
	if (kind != FS_KIND_GOLDEN)
		return request_fail(rq, -EINVAL, "\"%s\" is no golden image", name ? name : "");
	if (fs_is_promotion(rq->service->fs, w->onto.attr.ino))
		return request_fail(rq, -EBUSY,
			"\"%s\" is being written, wait for its job: goldfs job list",
			name ? name : "");
	if (strcmp(format, "raw") != 0)
		return request_fail(rq, -EMEDIUMTYPE,
			"\"%s\" is a %s image and clones need a raw one", name ? name : "", format);
	return 0;
}

static int take_image(struct request *rq, struct work *w, const char *key)
{
	CLEANUP_FREE char *path = NULL;
	int r = 0;

	if (request_path(rq, key, &path) < 0 || request_walk(rq, path, &w->onto) < 0)
		return rq->error;
	if (!S_ISREG(w->onto.attr.mode))
		r = S_ISDIR(w->onto.attr.mode) ? -EISDIR : -EINVAL;
	else if (!access_may(&rq->access, &w->onto.attr, R_OK))
		r = -EACCES;
	if (r)
		return request_fail_path(rq, r, "cannot put clones on", path);
	if (judge_image(rq, w, path) < 0)
		return rq->error;
	w->golden = w->onto.attr.ino;
	return 0;
}

static struct work *new_work(struct request *rq, enum what what)
{
	struct work *w = calloc(1, sizeof(*w));

	if (!w)
		request_fail(rq, -ENOMEM, "out of memory");
	else
		*w = (struct work){.service = rq->service, .what = what};
	return w;
}

static int take_rate(struct request *rq, struct work *w)
{
	return request_number(rq, "rate", true, INT64_MAX, &w->rate);
}

int control_rebase(struct request *rq)
{
	struct work *w = new_work(rq, REBASE);

	if (!w || take_rate(rq, w) < 0 || take_image(rq, w, "onto") < 0 || take_clones(rq, w) < 0) {
		work_free(w);
		return rq->error;
	}
	return start(rq, w, "rebase");
}

/* ---- modes ---- */

static int take_mode(struct request *rq, struct work *w, const char *mode)
{
	static const char *const names[] = {"snapshot", "thin", "full"};

	for (unsigned i = 0; i < 3; i++) {
		w->mode = (enum fs_mode)i;
		if (strcmp(mode, names[i]) == 0)
			return 0;
	}
	return request_fail(rq, -EINVAL, "\"%.64s\" is no mode of a clone", mode);
}

int control_convert(struct request *rq)
{
	struct work *w = new_work(rq, CONVERT);
	const char *mode;

	if (!w || request_string(rq, "mode", false, &mode) < 0 || take_mode(rq, w, mode) < 0 ||
		take_rate(rq, w) < 0 ||
		(json_object_get(rq->args, "onto") && take_image(rq, w, "onto") < 0))
		goto failed;
	if (w->golden && w->mode != FS_MODE_SNAPSHOT) {
		request_fail(rq, -EINVAL, "a clone of mode \"%s\" stands on no image", mode);
		goto failed;
	}
	if (take_clones(rq, w) < 0)
		goto failed;
	return start(rq, w, "convert");
failed:
	work_free(w);
	return rq->error;
}

int recast_clones(struct request *rq, const uint64_t *inos, size_t count, const char *mode)
{
	struct work *w = new_work(rq, CONVERT);

	if (!w || take_mode(rq, w, mode) < 0)
		goto failed;
	for (size_t i = 0; i < count; i++) {
		CLEANUP_FREE char *path = NULL;

		if (fs_path(rq->service->fs, inos[i], &path) == 0 &&
			add_item(w, inos[i], path) < 0) {
			request_fail(rq, -ENOMEM, "out of memory");
			goto failed;
		}
	}
	return start(rq, w, "convert");
failed:
	work_free(w);
	return rq->error;
}

/* ---- all clones of an image ---- */

struct search {
	struct request *rq;
	struct work *work;
};

static int add_based(
	void *arg, const char *path, const struct fs_attr *attr, const struct fs_info *info)
{
	struct search *s = arg;

	if (strcmp(info->base, s->work->base) != 0 || judge_clone(s->rq, attr))
		return 0;
	return add_item(s->work, attr->ino, path);
}

static int find_based(struct request *rq, struct work *w)
{
	struct search search = {rq, w};
	struct node root;
	int r;

	if (request_walk(rq, "", &root) < 0)
		return rq->error;
	r = walk(rq->service->fs, &rq->access, &root, "", WALK_CLONE, add_based, &search);
	node_release(rq->service->fs, &root);
	return r < 0 ? request_fail_path(rq, r, "cannot look at", "") : 0;
}

/* Without clones on it there has to be such an image at least. */
static int check_base(struct request *rq, const struct work *w)
{
	struct node node;

	if (w->count)
		return 0;
	if (request_walk(rq, w->base, &node) < 0)
		return rq->error;
	node_release(rq->service->fs, &node);
	return 0;
}

/* The old image may be gone from its folder: clones know where it was. */
static int take_base(struct request *rq, struct work *w)
{
	CLEANUP_FREE char *path = NULL, *onto = NULL, *to = NULL, *name = NULL;

	if (request_path(rq, "old", &path) < 0 || request_path(rq, "new", &onto) < 0)
		return rq->error;
	w->base = trim(path);
	to = trim(onto);
	name = request_name(rq, path);
	if (!w->base || !to || !name)
		return request_fail(rq, -ENOMEM, "out of memory");
	if (strncmp(w->base, "golden/", 7) != 0)
		return request_fail(rq, -EINVAL, "\"%s\" is no golden image", name);
	if (strcmp(w->base, to) == 0)
		return request_fail(rq, -EINVAL, "\"%s\" is the old image and the new one", name);
	return 0;
}

int control_upgrade_base(struct request *rq)
{
	struct work *w = new_work(rq, REBASE);
	bool dry_run = false;

	if (!w || take_base(rq, w) < 0 || take_image(rq, w, "new") < 0 ||
		request_bool(rq, "dry_run", &dry_run) < 0 || take_rate(rq, w) < 0 ||
		find_based(rq, w) < 0 || check_base(rq, w) < 0) {
		work_free(w);
		return rq->error;
	}
	if (dry_run) {
		w->what = TRY;
		w->gains = fs_gains_new();
		if (!w->gains) {
			work_free(w);
			return request_fail(rq, -ENOMEM, "out of memory");
		}
	} else if (rq->service->info.read_only) {
		request_fail_path(rq, -EROFS, "cannot change the clones of", w->base);
		work_free(w);
		return rq->error;
	}
	return start(rq, w, "upgrade-base");
}

/* ---- what was begun ---- */

static bool tick_progress(void *arg, uint64_t done, uint64_t total)
{
	return job_progress(arg, done, total);
}

static bool tick_is_put_off(void *arg)
{
	return job_is_put_off(arg);
}

static int go_on(void *arg, struct job *job)
{
	struct service *service = arg;
	struct fs_recast_options options = {
		.progress = tick_progress, .is_put_off = tick_is_put_off, .arg = job};

	return fs_recast_go_on(service->fs, &options);
}

/* Whether the last one ended, and long enough ago. */
static bool may_go_on(struct service *service, int64_t now)
{
	struct job_view view;
	bool failed;

	if (!service->recast_job)
		return now >= service->recast_after_ns;
	if (jobs_get(service->jobs, service->recast_job, &view) < 0)
		return true;
	if (view.state == JOB_RUNNING) {
		job_view_release(&view);
		return false;
	}
	failed = view.state != JOB_DONE;
	job_view_release(&view);
	service->recast_job = 0;
	service->recast_after_ns = now + (failed ? FAILED_NS : REST_NS);
	return false;
}

void recast_tick(struct service *service)
{
	int64_t now = times_now(CLOCK_MONOTONIC);
	CLEANUP_FREE char *path = NULL;
	struct job_spec spec;
	const char *kind;
	uint64_t ino, id;

	if (!may_go_on(service, now) || !fs_recast_owed(service->fs, &ino, &kind))
		return;
	if (ino)
		fs_path(service->fs, ino, &path);
	spec = (struct job_spec){
		.kind = kind,
		.target = path ? path : service->info.mountpoint,
		.uid = service->info.owner_uid,
		.gid = service->info.owner_gid,
		.run = go_on,
		.arg = service,
	};
	if (jobs_start(service->jobs, &spec, &id) == 0)
		service->recast_job = id;
}
