/* SPDX-License-Identifier: MIT */
/* See promoting.h. */
#include "service/promoting.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/times.h"
#include "service/internal.h"

#define RETRY_MIN_NS (30 * INT64_C(1000000000))
#define RETRY_MAX_NS (600 * INT64_C(1000000000))

/* One that was begun by this process; stays until it ends. All but the first three: promote_lock. */
struct promoting {
	struct service *service;
	uint64_t ino;
	char *path; /* below IMAGES */
	uint64_t job;
	bool running;
	bool undo; /* asked for, when it is to stop */
	int64_t pause_ns, due_ns; /* after a failure, CLOCK_MONOTONIC */
	int error;		  /* that was told last */
	struct promoting *next;
};

static bool progress(void *arg, uint64_t done, uint64_t total)
{
	return job_progress(arg, done, total);
}

/* It will be tried again. Each new reason is told once. */
static void note_failure_locked(struct promoting *p, int r)
{
	p->pause_ns = p->pause_ns ? 2 * p->pause_ns : RETRY_MIN_NS;
	if (p->pause_ns > RETRY_MAX_NS)
		p->pause_ns = RETRY_MAX_NS;
	p->due_ns = times_now(CLOCK_MONOTONIC) + p->pause_ns;
	if (r != p->error && r != -EROFS)
		log_error(r, "cannot write the golden image \"%s\"; it can be cloned, and writing it "
			     "is tried again; \"goldfs promote --cancel\" gives it up",
			p->path);
	p->error = r;
}

static int run(void *arg, struct job *job)
{
	struct promoting *p = arg;
	struct service *s = p->service;
	int r = fs_promote_write(s->fs, p->ino, progress, job), undone = 0;
	bool undo;

	pthread_mutex_lock(&s->promote_lock);
	undo = r == -ECANCELED && !s->promote_closing;
	pthread_mutex_unlock(&s->promote_lock);
	if (undo)
		undone = fs_promote_undo(s->fs, p->ino);
	MUTEX_GUARD(&s->promote_lock);
	p->running = false;
	if (undone)
		r = undone;
	if (r && r != -ECANCELED)
		note_failure_locked(p, r);
	return r;
}

static struct promoting *find_locked(struct service *s, uint64_t ino)
{
	struct promoting *p = s->promotions;

	while (p && p->ino != ino)
		p = p->next;
	return p;
}

static struct promoting *make_locked(struct service *s, uint64_t ino, const char *path)
{
	struct promoting *p = find_locked(s, ino);

	if (p)
		return p;
	p = calloc(1, sizeof(*p));
	if (p)
		p->path = strdup(path);
	if (!p || !p->path) {
		free(p);
		return NULL;
	}
	p->service = s;
	p->ino = ino;
	p->next = s->promotions;
	s->promotions = p;
	return p;
}

static int start_locked(struct promoting *p, uint32_t uid, uint32_t gid)
{
	CLEANUP_FREE char *target = NULL;
	struct job_spec spec = {.kind = "promote", .uid = uid, .gid = gid, .run = run, .arg = p};
	int r;

	if (p->running)
		return 0;
	if (asprintf(&target, "golden/%s", p->path) < 0)
		return -ENOMEM;
	spec.target = target;
	p->running = true;
	r = jobs_start(p->service->jobs, &spec, &p->job);
	if (r)
		p->running = false;
	return r;
}

int promoting_start(struct service *s, uint64_t ino, const char *path, uint32_t uid, uint32_t gid,
	uint64_t *job)
{
	struct promoting *p;
	int r;

	MUTEX_GUARD(&s->promote_lock);
	p = make_locked(s, ino, path);
	if (!p)
		return -ENOMEM;
	r = start_locked(p, uid, gid);
	*job = p->job;
	return r;
}

int promoting_undo(struct service *s, uint64_t ino)
{
	struct promoting *p;
	struct job_view view;
	uint64_t job = 0;
	int r;

	pthread_mutex_lock(&s->promote_lock);
	p = find_locked(s, ino);
	if (p && p->running)
		job = p->job;
	pthread_mutex_unlock(&s->promote_lock);
	if (!job || jobs_cancel(s->jobs, job) < 0)
		return fs_promote_undo(s->fs, ino);
	r = jobs_wait(s->jobs, job, UINT64_MAX, &view);
	if (r)
		return r;
	r = view.state == JOB_CANCELLED ? 0 : view.state == JOB_DONE ? -EALREADY : view.error;
	job_view_release(&view);
	/* It ended by itself before it was asked to: it is still there. */
	return r && r != -EALREADY ? fs_promote_undo(s->fs, ino) : r;
}

static void start_if_due(struct service *s, uint64_t ino, const char *path)
{
	struct promoting *p;

	MUTEX_GUARD(&s->promote_lock);
	p = make_locked(s, ino, path);
	if (p && !p->running && !s->promote_closing && times_now(CLOCK_MONOTONIC) >= p->due_ns)
		start_locked(p, s->info.owner_uid, s->info.owner_gid);
}

void promoting_tick(struct service *s)
{
	uint64_t ino = 0;
	char *path;

	if (s->info.read_only)
		return;
	while (fs_promotion_next(s->fs, &ino, &path) == 0) {
		start_if_due(s, ino, path);
		free(path);
	}
}

void promoting_close(struct service *s)
{
	MUTEX_GUARD(&s->promote_lock);
	s->promote_closing = true;
}

void promoting_free(struct service *s)
{
	while (s->promotions) {
		struct promoting *next = s->promotions->next;

		free(s->promotions->path);
		free(s->promotions);
		s->promotions = next;
	}
}
