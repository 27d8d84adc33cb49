/* SPDX-License-Identifier: MIT */
/*
 * Power loss and process death at every I/O call of random workloads (driver.h says how).
 *
 *   test_crash [--seeds A-B] [--ops N] [--states N] [--jobs N]
 *   test_crash --seeds 17 [--policy NAME] [--every] [--verbose]     what a failure prints
 *   test_crash --seeds 17 --reduce     leaves out operations as long as it still fails
 *   test_crash --list                  the workloads by name
 *   test_crash --workload NAME         only this one; a word of the name is enough
 *   test_crash --mutations [--mutation WORD] [--hints FILE] [--quick] [--brief]
 *              [--update]              breaks one thing after the other, which must be noticed
 *
 * A workload is a mix of operations and a seed; seed S belongs to workload S modulo their number.
 * Environment: STATES (distinct disk images in all), SEED (first seed), JOBS.
 */
#include <inttypes.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "base/processors.h"
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

/* ---- running all ---- */

struct line {
	uint64_t seeds, failed;
	double seconds;
	struct drive_result sum;
};

struct pool {
	const struct drive_options *options;
	struct drive_result *results;
	pid_t *pids;
	double *started;
	struct line *lines; /* per workload */
	struct line total;
};

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static void add_up(struct line *line, const struct drive_result *res, double seconds)
{
	line->seeds++;
	line->failed += res->failed;
	line->seconds += seconds;
	line->sum.points += res->points;
	line->sum.states += res->states;
	line->sum.distinct += res->distinct;
	line->sum.deep += res->deep;
	line->sum.checks += res->checks;
	line->sum.recoveries += res->recoveries;
	for (int i = 0; i <= DRIVE_DEATH; i++)
		line->sum.kinds[i] += res->kinds[i];
}

static void collect(struct pool *pool, int slot, int status)
{
	struct drive_result *res = &pool->results[slot];
	double seconds = now() - pool->started[slot];

	if (drive_finish(res, status))
		drive_print_failure(pool->options, res);
	add_up(&pool->lines[res->seed % (uint64_t)profile_count], res, seconds);
	add_up(&pool->total, res, seconds);
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

static void print_line(const char *name, const struct line *line)
{
	printf("%-22s %6" PRIu64 " %9" PRIu64 " %9" PRIu64 " %9" PRIu64 " %11" PRIu64 " %8.1f\n",
		name, line->seeds, line->sum.points, line->sum.states, line->sum.distinct,
		line->failed, line->seconds);
}

static void print_table(const struct pool *pool, double seconds)
{
	printf("%-22s %6s %9s %9s %9s %11s %8s\n", "workload", "seeds", "points", "states",
		"distinct", "violations", "seconds");
	for (int i = 0; i < profile_count; i++)
		if (pool->lines[i].seeds)
			print_line(profiles[i].name, &pool->lines[i]);
	print_line("all", &pool->total);
	for (int i = 0; i <= DRIVE_DEATH; i++)
		printf("    %-14s %" PRIu64 "\n", drive_kind_name(i), pool->total.sum.kinds[i]);
	printf("%" PRIu64 " recoveries, %" PRIu64 " states taken further, %" PRIu64
	       " checks of the whole store, %.0f s\n",
		pool->total.sum.recoveries, pool->total.sum.deep, pool->total.sum.checks, seconds);
}

static bool is_wanted(const struct drive_options *options, uint64_t seed)
{
	return !*options->workload ||
	       strstr(profiles[seed % (uint64_t)profile_count].name, options->workload);
}

/* The seeds share the states. */
static uint64_t count_wanted(const struct drive_options *options)
{
	uint64_t n = 0;

	for (uint64_t seed = options->first; seed <= options->last; seed++)
		n += is_wanted(options, seed);
	return n;
}

static int run_all(const struct drive_options *options, struct drive_result *results)
{
	struct line lines[PROFILES_MAX] = {0};
	double started[64], t0 = now();
	pid_t pids[64] = {0};
	struct pool pool = {.options = options, .results = results, .pids = pids,
		.started = started, .lines = lines};
	int busy = 0;

	for (uint64_t seed = options->first; seed <= options->last; seed++) {
		int slot = 0;

		if (!is_wanted(options, seed))
			continue;
		if (busy == options->jobs) {
			wait_one(&pool);
			busy--;
		}
		while (pids[slot])
			slot++;
		started[slot] = now();
		pids[slot] = drive_spawn(options, &results[slot], seed, NULL);
		busy++;
	}
	for (; busy; busy--)
		wait_one(&pool);
	print_table(&pool, now() - t0);
	printf("%" PRIu64 " passed, %" PRIu64 " failed (seeds %" PRIu64 "-%" PRIu64 ")\n",
		pool.total.seeds - pool.total.failed, pool.total.failed, options->first,
		options->last);
	return pool.total.failed || !pool.total.seeds;
}

/* ---- main ---- */

static int usage(void)
{
	fprintf(stderr, "usage: test_crash [--list] [--workload NAME] [--seeds A[-B]] [--ops N]\n"
			"                  [--states N] [--jobs N] [--policy NAME] [--every]\n"
			"                  [--verbose] [--reduce] [--mutations [--mutation NAME]\n"
			"                  [--hints FILE] [--quick] [--brief]\n"
			"                  [--update]]\n");
	return 2;
}

static int parse_policy(const char *name)
{
	for (int i = 0; i <= DRIVE_DEATH; i++) {
		if (strcmp(name, drive_kind_name(i)) == 0 ||
			(i == DRIVE_DEATH && strcmp(name, "death") == 0))
			return i;
	}
	fprintf(stderr, "no policy \"%s\"\n", name);
	exit(2);
}

static bool parse_flag(struct drive_options *o, const char *arg)
{
	const struct {
		const char *name;
		bool *flag;
	} flags[] = {{"--verbose", &o->verbose}, {"--reduce", &o->reduce},
		{"--mutations", &o->mutations}, {"--every", &o->every}, {"--quick", &o->quick},
		{"--update", &o->update}, {"--list", &o->list}, {"--brief", &o->brief}};

	for (size_t i = 0; i < sizeof(flags) / sizeof(*flags); i++) {
		if (strcmp(arg, flags[i].name) == 0) {
			*flags[i].flag = true;
			return true;
		}
	}
	return false;
}

static bool parse_value(struct drive_options *o, const char *arg, const char *value)
{
	char *end;

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
	} else if (strcmp(arg, "--workload") == 0) {
		o->workload = value;
	} else if (strcmp(arg, "--mutation") == 0) {
		o->mutation = value;
	} else if (strcmp(arg, "--hints") == 0) {
		o->hints = value;
	} else {
		return false;
	}
	return true;
}

static int parse(struct drive_options *o, int argc, char **argv)
{
	for (int i = 1; i < argc; i++) {
		if (parse_flag(o, argv[i]))
			continue;
		if (i + 1 >= argc || !parse_value(o, argv[i], argv[i + 1]))
			return usage();
		i++;
	}
	return o->last < o->first || o->ops < 1 || o->jobs < 1 || o->jobs > 64 ? usage() : 0;
}

static uint64_t from_env(const char *name, uint64_t otherwise)
{
	const char *value = getenv(name);

	return value && *value ? strtoull(value, NULL, 10) : otherwise;
}

static int list_workloads(void)
{
	for (int i = 0; i < profile_count; i++)
		puts(profiles[i].name);
	return 0;
}

int main(int argc, char **argv)
{
	struct drive_options options = {.ops = 150, .policy = -1, .workload = "", .mutation = ""};
	struct drive_result *results;
	uint64_t count = (uint64_t)profile_count;
	int rc;

	options.first = from_env("SEED", 1);
	options.states = from_env("STATES", 12000);
	options.jobs = (int)from_env("JOBS", processors_usable());
	/* All workloads; longer runs do not only dig deeper in the same ones. */
	options.last = options.first +
		       max_u64(1, options.states / (1200 * count)) * count - 1;
	rc = parse(&options, argc, argv);
	if (rc)
		return rc;
	/* States come and go by the thousand: their memory need not go back to the kernel each time. */
	mallopt(M_MMAP_THRESHOLD, 64 * MIB);
	mallopt(M_TRIM_THRESHOLD, 512 * MIB);
	if (options.list)
		return list_workloads();
	if (!options.verbose)
		log_open(LOG_TO_FILE, "/dev/null");
	results = mmap(NULL, sizeof(*results) * 64, PROT_READ | PROT_WRITE,
		MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (results == MAP_FAILED)
		return 1;
	if (options.mutations)
		return mutations_run(&options, results);
	options.states = options.states / max_u64(1, count_wanted(&options)) *
			 (options.last - options.first + 1);
	return options.reduce ? reduce(options, results) : run_all(&options, results);
}
