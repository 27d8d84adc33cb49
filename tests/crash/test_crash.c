/* SPDX-License-Identifier: MIT */
/*
 * Power loss and process death at every I/O call of random workloads (driver.h says how).
 *
 *   test_crash [--seeds A-B] [--ops N] [--states N] [--jobs N]
 *   test_crash --seeds 17 [--policy NAME] [--every] [--verbose]     what a failure prints
 *   test_crash --seeds 17 --reduce     leaves out operations as long as it still fails
 *   test_crash --mutations             leaves out each sync in turn, which must fail
 *
 * Environment: STATES (distinct disk images in all), SEED (first seed), JOBS.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "base/sizes.h"
#include "driver.h"
#include "workload.h"

/* ---- reducing ---- */

static bool still_fails(const struct drive_options *options, struct drive_result *res, const uint8_t *keep)
{
	int status;
	pid_t pid = drive_spawn(options, res, options->first, keep);

	waitpid(pid, &status, 0);
	return drive_finish(res, status);
}

/* Leaves out ever smaller stretches of operations while the workload fails without them. */
static int reduce(struct drive_options options, struct drive_result *res)
{
	uint8_t keep[4096], trial[4096];
	int kept = options.ops;

	memset(keep, 1, sizeof(keep));
	options.verbose = false;
	if (options.ops > 4096 || !still_fails(&options, res, keep)) {
		printf("seed %" PRIu64 " does not fail\n", options.first);
		return 1;
	}
	for (int step = options.ops / 2; step; step /= 2) {
		for (int from = 0; from < options.ops; from += step) {
			int gone = 0;

			memcpy(trial, keep, sizeof(keep));
			for (int i = from; i < from + step && i < options.ops; i++) {
				gone += trial[i];
				trial[i] = 0;
			}
			if (!gone || !still_fails(&options, res, trial))
				continue;
			memcpy(keep, trial, sizeof(keep));
			kept -= gone;
		}
	}
	printf("%d operations are left:\n", kept);
	options.verbose = true;
	still_fails(&options, res, keep);
	drive_print_failure(&options, res);
	return 0;
}

/* ---- main ---- */

struct pool {
	const struct drive_options *options;
	struct drive_result *results;
	pid_t *pids;
	uint64_t total, failed;
	struct drive_result sum;
};

static void collect(struct pool *pool, int slot, int status)
{
	struct drive_result *res = &pool->results[slot];

	pool->total++;
	if (drive_finish(res, status)) {
		pool->failed++;
		drive_print_failure(pool->options, res);
	}
	if (pool->options->verbose)
		printf("seed %" PRIu64 " (%s): %" PRIu64 " crash points, %" PRIu64 " states, %" PRIu64
		       " distinct\n",
			res->seed, profiles[res->seed % (uint64_t)profile_count].name, res->points,
			res->states, res->distinct);
	pool->sum.points += res->points;
	pool->sum.states += res->states;
	pool->sum.distinct += res->distinct;
	pool->sum.deep += res->deep;
	pool->sum.recoveries += res->recoveries;
	pool->sum.checks += res->checks;
	for (int i = 0; i <= DRIVE_DEATH; i++)
		pool->sum.kinds[i] += res->kinds[i];
}

static void wait_one(struct pool *pool)
{
	int status;
	pid_t pid = waitpid(-1, &status, 0);

	for (int i = 0; i < pool->options->jobs; i++) {
		if (pool->pids[i] == pid) {
			pool->pids[i] = 0;
			collect(pool, i, status);
		}
	}
}

static int run_all(const struct drive_options *options, struct drive_result *results)
{
	pid_t pids[64] = {0};
	struct pool pool = {.options = options, .results = results, .pids = pids};
	struct timespec t0, t1;
	int busy = 0;

	clock_gettime(CLOCK_MONOTONIC, &t0);
	for (uint64_t seed = options->first; seed <= options->last; seed++) {
		int slot = 0;

		if (busy == options->jobs) {
			wait_one(&pool);
			busy--;
		}
		while (pids[slot])
			slot++;
		pids[slot] = drive_spawn(options, &results[slot], seed, NULL);
		busy++;
	}
	for (; busy; busy--)
		wait_one(&pool);
	clock_gettime(CLOCK_MONOTONIC, &t1);
	printf("%" PRIu64 " workloads (seeds %" PRIu64 "-%" PRIu64 ", %d operations): %" PRIu64
	       " crash points, %" PRIu64 " states, %" PRIu64 " distinct disk images, %" PRIu64
	       " recoveries, %" PRIu64 " taken further, %" PRIu64 " checks, %ld s\n",
		pool.total, options->first, options->last, options->ops, pool.sum.points,
		pool.sum.states, pool.sum.distinct, pool.sum.recoveries, pool.sum.deep, pool.sum.checks,
		(long)(t1.tv_sec - t0.tv_sec));
	for (int i = 0; i <= DRIVE_DEATH; i++)
		printf("    %-14s %" PRIu64 "\n", drive_kind_name(i), pool.sum.kinds[i]);
	printf("%" PRIu64 " passed, %" PRIu64 " failed\n", pool.total - pool.failed, pool.failed);
	return pool.failed ? 1 : 0;
}

static int usage(void)
{
	fprintf(stderr, "usage: test_crash [--seeds A[-B]] [--ops N] [--states N] [--jobs N]\n"
			"                  [--policy NAME] [--every] [--verbose] [--reduce] [--mutations]\n");
	return 2;
}

static int parse_policy(const char *name)
{
	for (int i = 0; i <= DRIVE_DEATH; i++) {
		if (strcmp(name, drive_kind_name(i)) == 0 || (i == DRIVE_DEATH && strcmp(name, "death") == 0))
			return i;
	}
	fprintf(stderr, "no policy \"%s\"\n", name);
	exit(2);
}

static int parse(struct drive_options *o, int argc, char **argv)
{
	for (int i = 1; i < argc; i++) {
		const char *arg = argv[i], *value = i + 1 < argc ? argv[i + 1] : NULL;
		char *end;

		if (strcmp(arg, "--verbose") == 0) {
			o->verbose = true;
		} else if (strcmp(arg, "--reduce") == 0) {
			o->reduce = true;
		} else if (strcmp(arg, "--mutations") == 0) {
			o->mutations = true;
		} else if (strcmp(arg, "--every") == 0) {
			o->every = true;
		} else if (!value) {
			return usage();
		} else {
			i++;
			if (strcmp(arg, "--seeds") == 0) {
				o->first = o->last = strtoull(value, &end, 10);
				if (*end == '-')
					o->last = strtoull(end + 1, NULL, 10);
			} else if (strcmp(arg, "--ops") == 0) {
				o->ops = atoi(value);
			} else if (strcmp(arg, "--states") == 0) {
				o->states = strtoull(value, NULL, 10);
			} else if (strcmp(arg, "--jobs") == 0) {
				o->jobs = atoi(value);
			} else if (strcmp(arg, "--policy") == 0) {
				o->policy = parse_policy(value);
			} else {
				return usage();
			}
		}
	}
	return o->last < o->first || o->ops < 1 || o->jobs < 1 || o->jobs > 64 ? usage() : 0;
}

static uint64_t from_env(const char *name, uint64_t otherwise)
{
	const char *value = getenv(name);

	return value && *value ? strtoull(value, NULL, 10) : otherwise;
}

int main(int argc, char **argv)
{
	struct drive_options options = {.ops = 150, .policy = -1};
	struct drive_result *results;
	int rc;

	options.first = from_env("SEED", 1);
	options.last = options.first + 35;
	options.states = from_env("STATES", 26000);
	/* Longer runs do not dig deeper in the same workloads only. */
	options.last = max_u64(options.last, options.first + options.states / 1000);
	options.jobs = (int)from_env("JOBS", (uint64_t)sysconf(_SC_NPROCESSORS_ONLN));
	rc = parse(&options, argc, argv);
	if (rc)
		return rc;
	if (!options.verbose)
		log_open(LOG_TO_FILE, "/dev/null");
	results = mmap(NULL, sizeof(*results) * 64, PROT_READ | PROT_WRITE,
		MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (results == MAP_FAILED)
		return 1;
	if (options.mutations)
		return mutations_run(&options, results);
	return options.reduce ? reduce(options, results) : run_all(&options, results);
}
