/* SPDX-License-Identifier: MIT */
/* The state of one workload's driver, for those that crash it in other ways than driver.c. */
#ifndef GOLDFS_TESTS_DRIVER_INTERNAL_H
#define GOLDFS_TESTS_DRIVER_INTERNAL_H

#include "driver.h"
#include "workload.h"

struct driver {
	const struct drive_options *options;
	struct drive_result *result;
	struct run run;
	struct in_flight board; /* the run's, as it was when its disk was forked */
	bool board_fits;
	struct rng rng;
	bool counting;
	uint64_t points, points_expected;
	uint64_t budget;
	bool inside; /* the hook forks nothing of its own forks */
	struct simdisk_call call; /* where we are; op SIMDISK_OPS: after an operation */
	uint64_t *seen;
	size_t seen_count, seen_room;
	uint64_t *hashes;
	size_t hash_count, hash_room;
};

/* Forks the disk, crashes it so, recovers and compares. Failures are in driver.run. */
void drive_try(struct driver *d, struct simdisk *disk, int kind);
void drive_result_take(struct driver *d);
/* The offline check finds no damage and writes nothing. */
int drive_check_store(struct driver *d, struct simdisk *disk, const char *step);

#endif
