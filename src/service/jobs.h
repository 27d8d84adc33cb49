/* SPDX-License-Identifier: MIT */
/*
 * Jobs: work that takes long, each on a thread of its own, seen in .goldfs/jobs/ID.json.
 *
 *	running --> done | failed | cancelled
 *
 * A registry holds at most JOBS_MAX jobs. Ids count from 1 and are never used twice by one mount;
 * job ID has the slot ID % JOBS_MAX, which gives its file a fixed inode number (service.c). A slot
 * whose job still runs is passed over together with its id. A finished job stays visible until its
 * slot is wanted again, so the last ones can always be asked how they ended.
 *
 * A job dies with the process that runs it. What it did so far stands, as each kind of work leaves
 * the store whole at any point, and a successor says "interrupted" of it: to run it again is right
 * in any case.
 *
 * Whoever started a job owns it; he, root and the owner of the mount may see and cancel it.
 */
#ifndef GOLDFS_SERVICE_JOBS_H
#define GOLDFS_SERVICE_JOBS_H

#include <stdbool.h>
#include <stdint.h>

enum { JOBS_MAX = 32 };

enum job_state { JOB_RUNNING, JOB_DONE, JOB_FAILED, JOB_CANCELLED };

struct jobs;
struct job;

struct job_spec {
	const char *kind;   /* the verb; a constant */
	const char *target; /* what it works on; copied */
	uint32_t uid;
	uint32_t gid;
	/* Does the work. 0, or a negative errno; -ECANCELED when job_progress() asked to stop. */
	int (*run)(void *arg, struct job *job);
	void *arg; /* must outlive the job */
};

/* How a job stands, copied at one instant. */
struct job_view {
	uint64_t id;
	const char *kind;
	char *target; /* malloc'ed: job_view_release() */
	enum job_state state;
	uint64_t done_bytes;
	uint64_t total_bytes; /* 0: not known */
	uint64_t rate;	      /* bytes per second */
	int error;	      /* negative errno of a failed one */
	uint32_t uid;
	uint32_t gid;
	int64_t started_ns;
	int64_t changed_ns;
};

/* last_id: where the highest id given out stands, in memory that outlives the process; NULL: there
 * is none. Ids up to what it says now belong to jobs of earlier processes. */
int jobs_new(struct jobs **jobs, _Atomic uint64_t *last_id);
/* Asks all jobs to stop and waits for them. */
void jobs_free(struct jobs *jobs);

/* 0 with *id, or -EAGAIN: as many run as there may be. */
int jobs_start(struct jobs *jobs, const struct job_spec *spec, uint64_t *id);
/* Copies job id into view. -ENOENT: no such job, or forgotten. -EINTR: it was of an earlier
 * process, which died, and whether it was done by then is not known. */
int jobs_get(struct jobs *jobs, uint64_t id, struct job_view *view);
/* The job in a slot. -ENOENT: none. */
int jobs_slot(struct jobs *jobs, unsigned int slot, struct job_view *view);
void job_view_release(struct job_view *view);
/* Waits at most timeout_ms (UINT64_MAX: for ever) for job id to end, then as jobs_get(). */
int jobs_wait(struct jobs *jobs, uint64_t id, uint64_t timeout_ms, struct job_view *view);
/* Asks job id to stop. -ENOENT; -ESRCH: it has ended already. */
int jobs_cancel(struct jobs *jobs, uint64_t id);

/* For the work itself: says how far it is. Returns true when it is to stop. */
bool job_progress(struct job *job, uint64_t done_bytes, uint64_t total_bytes);

/* Whether all jobs are told to stop since the process ends, and nobody asked this one to. */
bool job_is_put_off(struct job *job);

/* What came of it beyond its state, a JSON text, malloc'ed, which is taken over. */
void job_set_report(struct job *job, char *text);
/* A copy of that, malloc'ed; NULL: there is none. */
char *jobs_report(struct jobs *jobs, uint64_t id);

const char *job_state_name(enum job_state state);

#endif
