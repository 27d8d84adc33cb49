/* SPDX-License-Identifier: MIT */
/* Waiting for a job of a mount, for all verbs that start one. */
#ifndef GOLDFS_CLI_JOBS_H
#define GOLDFS_CLI_JOBS_H

#include <stdint.h>

/*
 * Waits until job id ends, with a progress line when stderr is a terminal, and returns its status:
 * EXIT_DONE, or EXIT_FAILED with a word about it; or JOB_LOST, without a word, when the process
 * that ran it died: whoever knows what it was starts it again.
 */
enum { JOB_LOST = -1 };
int job_follow(const char *mountpoint, uint64_t id);
/* The same, but EXIT_DONE however it ended: who waits asks for that. */
int job_await(const char *mountpoint, uint64_t id);

#endif
