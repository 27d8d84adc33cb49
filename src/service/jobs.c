/* SPDX-License-Identifier: MIT */
/*
 * One mutex protects the registry and every job in it; one condition is signalled at each change
 * of state, and whoever waits looks again at the job that he waits for. The threads are joined
 * when their slot is used again, and by jobs_free().
 */
#include "service/jobs.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/times.h"

struct job {
	struct jobs *jobs;
	int (*run)(void *arg, struct job *job);
	void *arg;
	pthread_t thread;
	/* Under the registry's lock: */
	struct job_view view; /* id 0: the slot is free */
	bool stop;
	bool cancelled; /* somebody asked for that */
	char *report;
};

struct jobs {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	uint64_t last_id; /* under lock */
	uint64_t foreign; /* ids up to here are of earlier processes */
	_Atomic uint64_t *shared_id; /* where last_id stands for successors, or NULL */
	struct job job[JOBS_MAX];
};

int jobs_new(struct jobs **jobs, _Atomic uint64_t *last_id)
{
	struct jobs *j = calloc(1, sizeof(*j));

	if (!j)
		return -ENOMEM;
	pthread_mutex_init(&j->lock, NULL);
	times_cond_init(&j->changed);
	for (size_t i = 0; i < JOBS_MAX; i++)
		j->job[i].jobs = j;
	j->shared_id = last_id;
	j->foreign = j->last_id = last_id ? atomic_load(last_id) : 0;
	*jobs = j;
	return 0;
}

void jobs_free(struct jobs *jobs)
{
	if (!jobs)
		return;
	pthread_mutex_lock(&jobs->lock);
	for (size_t i = 0; i < JOBS_MAX; i++)
		jobs->job[i].stop = true;
	pthread_mutex_unlock(&jobs->lock);
	for (size_t i = 0; i < JOBS_MAX; i++) {
		struct job *job = &jobs->job[i];

		if (job->view.id)
			pthread_join(job->thread, NULL);
		free(job->view.target);
		free(job->report);
	}
	pthread_cond_destroy(&jobs->changed);
	pthread_mutex_destroy(&jobs->lock);
	free(jobs);
}

static void *job_thread(void *arg)
{
	struct job *job = arg;
	int r = job->run(job->arg, job);

	MUTEX_GUARD(&job->jobs->lock);
	job->view.error = r;
	job->view.changed_ns = times_now(CLOCK_REALTIME);
	if (r == 0)
		job->view.state = JOB_DONE;
	else
		job->view.state = r == -ECANCELED ? JOB_CANCELLED : JOB_FAILED;
	pthread_cond_broadcast(&job->jobs->changed);
	return NULL;
}

/* The slot for the next id, emptied; NULL when all are busy. */
static struct job *free_slot_locked(struct jobs *jobs, uint64_t *id)
{
	for (unsigned int i = 1; i <= JOBS_MAX; i++) {
		struct job *job = &jobs->job[(jobs->last_id + i) % JOBS_MAX];

		if (job->view.id && job->view.state == JOB_RUNNING)
			continue;
		if (job->view.id)
			pthread_join(job->thread, NULL); /* it has left the lock behind it */
		free(job->view.target);
		free(steal_pointer(&job->report));
		job->view = (struct job_view){0};
		job->stop = false;
		job->cancelled = false;
		*id = jobs->last_id + i;
		return job;
	}
	return NULL;
}

int jobs_start(struct jobs *jobs, const struct job_spec *spec, uint64_t *id)
{
	CLEANUP_FREE char *target = strdup(spec->target);
	struct job *job;
	int r;

	MUTEX_GUARD(&jobs->lock);
	job = target ? free_slot_locked(jobs, id) : NULL;
	if (!job)
		return target ? -EAGAIN : -ENOMEM;
	job->run = spec->run;
	job->arg = spec->arg;
	/* Before anybody hears of it. */
	if (jobs->shared_id)
		atomic_store(jobs->shared_id, *id);
	r = pthread_create(&job->thread, NULL, job_thread, job);
	if (r != 0)
		return -r;
	job->view = (struct job_view){
		.id = *id,
		.kind = spec->kind,
		.target = steal_pointer(&target),
		.state = JOB_RUNNING,
		.uid = spec->uid,
		.gid = spec->gid,
		.started_ns = times_now(CLOCK_REALTIME),
		.changed_ns = times_now(CLOCK_REALTIME),
	};
	jobs->last_id = *id;
	return 0;
}

static struct job *find_locked(struct jobs *jobs, uint64_t id)
{
	struct job *job = &jobs->job[id % JOBS_MAX];

	return id && job->view.id == id ? job : NULL;
}

static int copy_view_locked(const struct job *job, struct job_view *view)
{
	*view = job->view;
	view->target = strdup(job->view.target);
	return view->target ? 0 : -ENOMEM;
}

int jobs_get(struct jobs *jobs, uint64_t id, struct job_view *view)
{
	return jobs_wait(jobs, id, 0, view);
}

int jobs_slot(struct jobs *jobs, unsigned int slot, struct job_view *view)
{
	MUTEX_GUARD(&jobs->lock);
	if (slot >= JOBS_MAX || !jobs->job[slot].view.id)
		return -ENOENT;
	return copy_view_locked(&jobs->job[slot], view);
}

void job_view_release(struct job_view *view)
{
	free(view->target);
	view->target = NULL;
}

int jobs_wait(struct jobs *jobs, uint64_t id, uint64_t timeout_ms, struct job_view *view)
{
	int64_t now = times_now(CLOCK_MONOTONIC);
	int64_t end = INT64_MAX;
	struct timespec until;
	const struct job *job;

	if (timeout_ms < (uint64_t)(INT64_MAX - now) / 1000000)
		end = now + (int64_t)timeout_ms * 1000000;
	until = (struct timespec){.tv_sec = end / 1000000000, .tv_nsec = end % 1000000000};

	MUTEX_GUARD(&jobs->lock);
	while ((job = find_locked(jobs, id)) && job->view.state == JOB_RUNNING)
		if (timeout_ms == 0 ||
			pthread_cond_timedwait(&jobs->changed, &jobs->lock, &until) == ETIMEDOUT)
			break;
	job = find_locked(jobs, id); /* the wait gave the lock away */
	if (!job)
		return id && id <= jobs->foreign ? -EINTR : -ENOENT;
	return copy_view_locked(job, view);
}

int jobs_cancel(struct jobs *jobs, uint64_t id)
{
	struct job *job;

	MUTEX_GUARD(&jobs->lock);
	job = find_locked(jobs, id);
	if (!job)
		return id && id <= jobs->foreign ? -EINTR : -ENOENT;
	if (job->view.state != JOB_RUNNING)
		return -ESRCH;
	job->stop = true;
	job->cancelled = true;
	return 0;
}

bool job_is_put_off(struct job *job)
{
	MUTEX_GUARD(&job->jobs->lock);
	return job->stop && !job->cancelled;
}

bool job_progress(struct job *job, uint64_t done_bytes, uint64_t total_bytes)
{
	int64_t now = times_now(CLOCK_REALTIME);
	int64_t elapsed_ms;

	MUTEX_GUARD(&job->jobs->lock);
	elapsed_ms = (now - job->view.started_ns) / 1000000;
	job->view.done_bytes = done_bytes;
	job->view.total_bytes = total_bytes;
	job->view.changed_ns = now;
	if (elapsed_ms > 0)
		job->view.rate = (uint64_t)((double)done_bytes * 1000 / (double)elapsed_ms);
	return job->stop;
}

void job_set_report(struct job *job, char *text)
{
	MUTEX_GUARD(&job->jobs->lock);
	free(job->report);
	job->report = text;
}

char *jobs_report(struct jobs *jobs, uint64_t id)
{
	const struct job *job;

	MUTEX_GUARD(&jobs->lock);
	job = find_locked(jobs, id);
	return job && job->report ? strdup(job->report) : NULL;
}

const char *job_state_name(enum job_state state)
{
	static const char *const names[] = {"running", "done", "failed", "cancelled"};

	return names[state];
}
