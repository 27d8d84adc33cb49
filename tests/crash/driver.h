/* SPDX-License-Identifier: MIT */
/*
 * One workload, crashed at its I/O calls.
 *
 * The workload runs once to count its crash points (I/O calls that change the disk, and
 * acknowledgements), then again with a hook: at a crash point the disk is forked and taken through
 * one or more kinds of crash; the store on the fork is recovered and compared with the model as it
 * stands at that moment. Some forks are taken further: recovered twice, recovered with a crash
 * inside of recovery, written to, closed and opened again, crashed again. Everything must show the
 * same.
 *
 * Every workload has a process of its own (drive_spawn), so that a crash of the engine is one
 * failure; the result is in shared memory.
 */
#ifndef GOLDFS_TESTS_DRIVER_H
#define GOLDFS_TESTS_DRIVER_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "simdisk.h"

#define DRIVE_DEATH SIMDISK_POLICIES /* one more than the policies: the process dies */

struct drive_options {
	uint64_t first, last; /* seeds */
	int ops;
	uint64_t states; /* distinct disk images, of all workloads together */
	int policy;	 /* -1: all */
	int jobs;
	bool verbose;
	bool reduce;
	bool list;
	bool mutations;
	const char *mutation; /* only those with this in their name; "": all */
	const char *hints;    /* file that tells who notices which; NULL: none */
	bool quick;	      /* ask nobody but who is named there */
	bool brief;	      /* ask each workload once, and no slow program */
	bool update;	      /* write it anew */
	unsigned seconds;     /* after which a workload's process is ended; 0: never */
	const char *workload; /* only those; "": all */
	bool every; /* all kinds of crash at every point */
};

/* What one workload's process tells. */
struct drive_result {
	uint64_t seed;
	uint64_t points;
	uint64_t states;   /* checked */
	uint64_t distinct; /* by the disk's hash */
	uint64_t deep;	   /* taken further */
	uint64_t recoveries;
	uint64_t checks; /* of the whole store */
	uint64_t kinds[DRIVE_DEATH + 1];
	bool failed;
	char where[512]; /* also when the process dies */
	char reason[1200];
};

const char *drive_kind_name(int kind);
/* keep: per operation, 0 leaves it out; NULL: all are done. result is shared memory. */
pid_t drive_spawn(const struct drive_options *options, struct drive_result *result, uint64_t seed,
	const uint8_t *keep);
/* The process ended with this status of waitpid(). Whether it failed. */
bool drive_finish(struct drive_result *result, int status);
void drive_print_failure(const struct drive_options *options, const struct drive_result *result);

/* mutations.c: each mutation is turned on in turn, and must be noticed. Exit status. */
int mutations_run(const struct drive_options *options, struct drive_result *results);

#endif
