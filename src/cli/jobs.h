/* SPDX-License-Identifier: MIT */
/* Waiting for a job of a mount, for all verbs that start one. */
#ifndef GOLDFS_CLI_JOBS_H
#define GOLDFS_CLI_JOBS_H

#include <jansson.h>
#include <stdint.h>

enum job_wait {
	JOB_DETACHED, /* prints the job's number and does not wait */
	JOB_FOLLOWED, /* EXIT_FAILED, with a word about it, when the job did not do its work */
	JOB_AWAITED,  /* JOB_UNDONE when it did not: the caller says why */
};
/* Statuses, without a word: the process that ran the job died; it failed or was cancelled. */
enum { JOB_LOST = -1, JOB_UNDONE = -2 };
/* Waits for a job, with progress, and says how it ended when that was not well; or JOB_LOST. */
int job_follow(const char *mountpoint, uint64_t id);
/*
 * Starts a job by this request, which is released, and waits until it ends, with a progress line when
 * stderr is a terminal. When the process that ran it died it is started again. *id: the job's number.
 * Returns an exit status.
 */
int job_run(const char *mountpoint, json_t *request, enum job_wait wait, uint64_t *id);

#endif
