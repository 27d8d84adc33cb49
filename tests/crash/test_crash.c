/* SPDX-License-Identifier: MIT */
/*
 * Power loss and process death at every I/O call of random workloads.
 *
 * Each workload runs once to count its crash points (I/O calls that change the disk, and
 * acknowledgements), then again with the hook below: at a crash point the disk is forked and taken
 * through one or more kinds of crash; the store on the fork is recovered and compared with the
 * model as it stands at that moment. Some forks are taken further: recovered twice, recovered with
 * a crash inside of recovery, written to, closed and opened again, crashed again. Everything must
 * show the same.
 *
 * Every workload has its own process, so that a crash of the engine is one failure and both
 * processors have something to do. A failure prints what is needed to see it again:
 *
 *   test_crash --seeds 17 [--ops N] [--states N] [--policy NAME] [--verbose]
 *   test_crash --seeds 17 --reduce     leaves out operations as long as it still fails
 *
 * Environment: STATES (distinct disk images in all), SEED (first seed), JOBS.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "base/sizes.h"
#include "workload.h"

#define DEATH SIMDISK_POLICIES /* one more than the policies: the process dies */

struct options {
	uint64_t first, last;
	int ops;
	uint64_t states; /* of all workloads */
	int policy;	 /* -1: all */
	int jobs;
	bool verbose;
	bool reduce;
	bool every; /* all kinds of crash at every point */
};

/* What one workload's process tells, in shared memory. */
struct result {
	uint64_t seed;
	uint64_t points;
	uint64_t states;   /* checked */
	uint64_t distinct; /* by the disk's hash */
	uint64_t deep;	   /* taken further */
	uint64_t recoveries;
	uint64_t kinds[SIMDISK_POLICIES + 1];
	bool failed;
	char where[512]; /* also when the process dies */
	char reason[1200];
};

struct driver {
	const struct options *options;
	struct result *result;
	struct run run;
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

/* ---- a set of numbers ---- */

static bool set_add(uint64_t **set, size_t *count, size_t *room, uint64_t key)
{
	size_t i;

	key |= 1;
	if (*count * 2 >= *room) {
		uint64_t *old = *set;
		size_t old_room = *room, n = 0;

		*room = old_room ? old_room * 2 : 1024;
		*set = calloc(*room, sizeof(**set));
		*count = 0;
		for (; n < old_room; n++) {
			if (old[n])
				set_add(set, count, room, old[n]);
		}
		free(old);
	}
	for (i = rng_scramble(key) % *room; (*set)[i]; i = (i + 1) % *room) {
		if ((*set)[i] == key)
			return false;
	}
	(*set)[i] = key;
	(*count)++;
	return true;
}

/* ---- one state ---- */

static const char *kind_name(int kind)
{
	return kind == DEATH ? "process death" :
			       simdisk_policy_name((enum simdisk_policy)kind);
}

static int fail_state(struct driver *d, const char *step, const char *what)
{
	return run_fail(&d->run, "%s: %s", step, what);
}

static struct fs *open_store(struct driver *d, struct simdisk *disk, const char *step)
{
	struct fs_options options = run_options(&d->run);
	struct fs *fs = NULL;
	char text[64];
	int r;

	d->result->recoveries++;
	r = fs_open(&fs, simdisk_io(disk), &options);
	if (!r)
		return fs;
	snprintf(text, sizeof(text), "fs_open: %s", strerror(-r));
	fail_state(d, step, text);
	return NULL;
}

/* The hash of everything shown by fs, which is abandoned. -1: failed. */
static int hash_store(struct driver *d, struct fs *fs, const char *step, uint64_t *hash)
{
	struct model_view view;
	int r = view_take(&view, fs);

	if (!r)
		r = view_hash(&view, fs, "zz", hash);
	view_release(&view);
	return r ? fail_state(d, step, strerror(-r)) : 0;
}

/* What the next recovery must show: one hash, or anything that the model allows after power loss. */
struct expected {
	uint64_t hash;
	bool loose;
};

static int compare_model(struct driver *d, struct fs *fs, enum model_mode mode, const char *step)
{
	struct model_view view;
	const char *figures = NULL;
	int r = view_take(&view, fs);

	if (r)
		r = fail_state(d, step, strerror(-r));
	else if (model_check(d->run.model, &view, mode, false))
		r = fail_state(d, step, model_reason(d->run.model));
	if (!r && rng_below(&d->rng, 4) == 0)
		figures = view_figures(&view, fs);
	if (figures)
		r = fail_state(d, step, figures);
	view_release(&view);
	return r;
}

static int expect_same(struct driver *d, struct simdisk *disk, struct expected want,
	const char *step)
{
	struct fs *fs = open_store(d, disk, step);
	uint64_t got = 0;
	int r;

	if (!fs)
		return -1;
	if (want.loose)
		r = compare_model(d, fs, MODEL_POWER, step);
	else
		r = hash_store(d, fs, step, &got);
	fs_abandon(fs);
	if (!r && !want.loose && got != want.hash)
		r = fail_state(d, step, "the files differ from those of the first recovery");
	return r;
}

/* ---- taking a state further ---- */

struct interrupter {
	struct driver *driver;
	uint64_t at; /* call */
	uint64_t seed;
	bool death;
	struct simdisk *fork;
};

static void interrupt(void *arg, struct simdisk *disk, const struct simdisk_call *call)
{
	struct interrupter *in = arg;

	if (call->number != in->at)
		return;
	if (in->death)
		in->fork = simdisk_clone(disk);
	else
		in->fork = simdisk_crash(disk, (enum simdisk_policy)(in->seed % SIMDISK_POLICIES),
			in->seed);
}

/* Recovery ends at its call number `at`; the next one must show the same. */
static int recover_interrupted(struct driver *d, struct simdisk *crashed, uint64_t at,
	struct expected want, bool death_before)
{
	struct interrupter in = {.driver = d, .at = at, .seed = rng_next(&d->rng)};
	struct simdisk *disk = simdisk_clone(crashed);
	struct fs *fs;
	int r = 0;

	in.death = in.seed >> 40 & 1;
	want.loose = death_before && !in.death;
	simdisk_set_hook(disk, interrupt, &in);
	fs = open_store(d, disk, "second recovery");
	simdisk_set_hook(disk, NULL, NULL);
	if (!fs)
		r = -1;
	else
		fs_abandon(fs);
	if (!r && in.fork)
		r = expect_same(d, in.fork, want,
			in.death ? "recovery after the death of one" :
				   "recovery after power loss in one");
	simdisk_free(in.fork);
	simdisk_free(disk);
	return r;
}

/* Something new is written beside the recovered files, and survives with them. */
static int write_and_close(struct driver *d, struct simdisk *disk, struct fs *fs, uint64_t want)
{
	static const char step[] = "writing after recovery";
	struct fs_owner owner = {0, 0};
	uint8_t out[5000], in[5000];
	struct fs_attr attr;
	uint64_t got = 0, ino;
	int r;

	memset(out, 0x77, sizeof(out));
	r = fs_make(fs, FS_INO_ROOT, "zz", S_IFREG | 0600, owner, &attr);
	if (!r)
		r = fs_write(fs, attr.ino, out, sizeof(out), 3000) == (ssize_t)sizeof(out) ? 0 : -EIO;
	if (r) {
		fs_abandon(fs);
		return fail_state(d, step, strerror(-r));
	}
	r = fs_close(fs);
	if (r)
		return fail_state(d, "fs_close after recovery", strerror(-r));
	fs = open_store(d, disk, "opening again after recovery");
	if (!fs)
		return -1;
	r = hash_store(d, fs, step, &got);
	if (!r && got != want)
		r = fail_state(d, step, "the files differ after close and open");
	if (!r && (fs_resolve(fs, "zz", &ino) || ino != attr.ino ||
			  fs_read(fs, ino, in, sizeof(in), 3000) != (ssize_t)sizeof(in) ||
			  memcmp(in, out, sizeof(in)) != 0))
		r = fail_state(d, step, "the new file is not what was written");
	fs_abandon(fs);
	return r;
}

/* Power is lost (again) after recovery, perhaps after a sync or a settling. */
static int lose_power(struct driver *d, struct simdisk *disk, struct fs *fs, struct expected want)
{
	uint64_t seed = rng_next(&d->rng), choice = rng_below(&d->rng, 3);
	struct simdisk *again;
	int r = 0;

	if (choice == 1) {
		r = fs_sync(fs) ? fail_state(d, "fs_sync after recovery", "fails") : 0;
		want.loose = false;
	} else if (choice == 2) {
		r = fs_settle(fs) ? fail_state(d, "fs_settle after recovery", "fails") : 0;
		want.loose = false;
	}
	fs_abandon(fs);
	if (r)
		return r;
	again = simdisk_crash(disk, (enum simdisk_policy)(seed % SIMDISK_POLICIES), seed);
	r = expect_same(d, again, want,
		choice == 1   ? "power loss after recovery and sync" :
		choice == 2 ? "power loss after recovery and settling" :
			      "power loss after recovery");
	simdisk_free(again);
	return r;
}

/* fs: recovered from a clone of crashed, on disk, by so many calls. Is used up. */
static int go_deep(struct driver *d, struct simdisk *crashed, struct simdisk *disk, struct fs *fs,
	uint64_t calls, bool death)
{
	struct expected want = {.loose = death};
	int r = hash_store(d, fs, "hashing", &want.hash);

	d->result->deep++;
	if (r) {
		fs_abandon(fs);
		return r;
	}
	switch (rng_below(&d->rng, 3)) {
	case 0:
		return lose_power(d, disk, fs, want);
	case 1:
		return write_and_close(d, disk, fs, want.hash);
	default:
		fs_abandon(fs);
	}
	if (!d->options->every)
		return recover_interrupted(
			d, crashed, 1 + rng_below(&d->rng, calls), want, death);
	for (uint64_t at = 1; at <= calls && !r; at++)
		r = recover_interrupted(d, crashed, at, want, death);
	return r;
}

static int check_state(struct driver *d, struct simdisk *crashed, enum model_mode mode)
{
	struct simdisk *disk = simdisk_clone(crashed);
	struct fs *fs = open_store(d, disk, "recovery");
	uint64_t calls = simdisk_calls(disk);
	int r = fs ? compare_model(d, fs, mode, "after recovery") : -1;

	if (!r && rng_below(&d->rng, 4) == 0)
		r = go_deep(d, crashed, disk, fs, calls, mode == MODEL_EXACT);
	else if (fs)
		fs_abandon(fs);
	simdisk_free(disk);
	return r;
}

/* ---- crash points ---- */

static void try_crash(struct driver *d, struct simdisk *disk, int kind)
{
	uint64_t seed = rng_next(&d->rng), hash;
	enum model_mode mode = kind == DEATH ? MODEL_EXACT : MODEL_POWER;
	struct simdisk *crashed;
	struct result *res = d->result;

	crashed = kind == DEATH ? simdisk_clone(disk) :
				  simdisk_crash(disk, (enum simdisk_policy)kind, seed);
	hash = simdisk_hash(crashed);
	if (!set_add(&d->seen, &d->seen_count, &d->seen_room,
		    hash ^ rng_scramble(model_generation(d->run.model) * 2 + mode))) {
		simdisk_free(crashed);
		return;
	}
	res->distinct += set_add(&d->hashes, &d->hash_count, &d->hash_room, hash);
	res->states++;
	res->kinds[kind]++;
	snprintf(res->where, sizeof(res->where),
		"op %d (%.200s), crash point %" PRIu64 " %s %s \"%.80s\" %" PRIu64 "+%" PRIu64 ": %s",
		d->run.op, d->run.text, d->points, d->call.op == SIMDISK_OPS ? "after" : "before",
		d->call.op == SIMDISK_OPS ? "it" : simdisk_op_name(d->call.op),
		d->call.op == SIMDISK_OPS ? "" : d->call.path, d->call.off, d->call.len,
		kind_name(kind));
	check_state(d, crashed, mode);
	simdisk_free(crashed);
}

static void crash_point(struct driver *d, struct simdisk *disk)
{
	uint64_t left, points_left, tries;

	d->points++;
	if (d->counting || *d->run.reason)
		return;
	d->inside = true;
	if (d->options->every) {
		for (int kind = 0; kind <= DEATH && !*d->run.reason; kind++)
			try_crash(d, disk, kind);
		d->inside = false;
		return;
	}
	left = d->budget > d->result->distinct ? d->budget - d->result->distinct : 0;
	points_left = d->points_expected > d->points ? d->points_expected - d->points : 1;
	/* Some tries show a state that was there before. */
	tries = left * 5 / 4 / points_left;
	tries += rng_below(&d->rng, points_left) < left * 5 / 4 % points_left;
	for (; tries && !*d->run.reason; tries--) {
		int kind = (int)rng_below(&d->rng, DEATH + 1);

		try_crash(d, disk, d->options->policy < 0 ? kind : d->options->policy);
	}
	d->inside = false;
}

static bool changes_disk(const struct simdisk_call *call)
{
	return call->op != SIMDISK_PREAD && call->op != SIMDISK_OPEN;
}

static void hook(void *arg, struct simdisk *disk, const struct simdisk_call *call)
{
	struct run *run = arg;
	struct driver *d = run->arg;

	if (d->inside || !changes_disk(call))
		return;
	d->call = *call;
	crash_point(d, disk);
}

static int after_op(struct run *run)
{
	struct driver *d = run->arg;

	d->call = (struct simdisk_call){.op = SIMDISK_OPS};
	crash_point(d, run->disk);
	return *run->reason ? -1 : 0;
}

/* ---- a workload ---- */

static void start(struct driver *d, uint64_t seed, const uint8_t *keep)
{
	if (run_init(&d->run, seed, d->options->ops))
		abort();
	d->run.keep = keep;
	d->run.hook = hook;
	d->run.after_op = after_op;
	d->run.arg = d;
	d->points = 0;
	rng_seed(&d->rng, rng_scramble(seed));
}

static int run_seed(const struct options *options, struct result *res, uint64_t seed,
	const uint8_t *keep)
{
	struct driver d = {.options = options, .result = res, .counting = true};
	uint64_t seeds = options->last - options->first + 1;

	d.budget = options->states / seeds + 1;
	start(&d, seed, keep);
	run_work(&d.run);
	d.points_expected = d.points;
	if (!*d.run.reason) {
		run_release(&d.run);
		d.counting = false;
		start(&d, seed, keep);
		d.run.verbose = options->verbose;
		run_work(&d.run);
	} else {
		snprintf(res->where, sizeof(res->where), "op %d (%.200s), without any crash",
			d.run.op, d.run.text);
	}
	res->points = d.points;
	res->failed = *d.run.reason;
	memcpy(res->reason, d.run.reason, sizeof(d.run.reason));
	run_release(&d.run);
	free(d.seen);
	free(d.hashes);
	return res->failed ? 1 : 0;
}

static pid_t spawn(const struct options *options, struct result *res, uint64_t seed,
	const uint8_t *keep)
{
	pid_t pid;

	memset(res, 0, sizeof(*res));
	res->seed = seed;
	fflush(NULL);
	pid = fork();
	if (pid == 0) {
		int rc = run_seed(options, res, seed, keep);

		fflush(NULL);
		_exit(rc);
	}
	return pid;
}

/* A process that ended: 0, or 1 with a reason. */
static int finish(struct result *res, int status)
{
	if (WIFSIGNALED(status) || (WIFEXITED(status) && WEXITSTATUS(status) > 1)) {
		snprintf(res->reason, sizeof(res->reason), "the process died: %s",
			WIFSIGNALED(status) ? strsignal(WTERMSIG(status)) : "sanitizer");
		res->failed = true;
	}
	return res->failed;
}

static void print_failure(const struct options *options, const struct result *res)
{
	printf("FAILED: seed %" PRIu64 " (%s), %s\n    %s\n", res->seed,
		profiles[res->seed % (uint64_t)profile_count].name, res->where, res->reason);
	printf("    again: test_crash --seeds %" PRIu64 " --ops %d --states %" PRIu64
	       "%s%s --verbose\n",
		res->seed, options->ops, options->states / (options->last - options->first + 1),
		options->policy >= 0 ? " --policy " : "",
		options->policy >= 0 ? kind_name(options->policy) : "");
}

/* ---- reducing ---- */

static bool still_fails(const struct options *options, struct result *res, const uint8_t *keep)
{
	int status;
	pid_t pid = spawn(options, res, options->first, keep);

	waitpid(pid, &status, 0);
	return finish(res, status);
}

/* Leaves out ever smaller stretches of operations while the workload fails without them. */
static int reduce(struct options options, struct result *res)
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
	print_failure(&options, res);
	return 0;
}

/* ---- main ---- */

struct pool {
	const struct options *options;
	struct result *results;
	pid_t *pids;
	uint64_t total, failed;
	struct result sum;
};

static void collect(struct pool *pool, int slot, int status)
{
	struct result *res = &pool->results[slot];

	pool->total++;
	if (finish(res, status)) {
		pool->failed++;
		print_failure(pool->options, res);
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
	for (int i = 0; i <= DEATH; i++)
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

static int run_all(const struct options *options, struct result *results)
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
		pids[slot] = spawn(options, &results[slot], seed, NULL);
		busy++;
	}
	for (; busy; busy--)
		wait_one(&pool);
	clock_gettime(CLOCK_MONOTONIC, &t1);
	printf("%" PRIu64 " workloads (seeds %" PRIu64 "-%" PRIu64 ", %d operations): %" PRIu64
	       " crash points, %" PRIu64 " states, %" PRIu64 " distinct disk images, %" PRIu64
	       " recoveries, %" PRIu64 " taken further, %ld s\n",
		pool.total, options->first, options->last, options->ops, pool.sum.points,
		pool.sum.states, pool.sum.distinct, pool.sum.recoveries, pool.sum.deep,
		(long)(t1.tv_sec - t0.tv_sec));
	for (int i = 0; i <= DEATH; i++)
		printf("    %-14s %" PRIu64 "\n", kind_name(i), pool.sum.kinds[i]);
	printf("%" PRIu64 " passed, %" PRIu64 " failed\n", pool.total - pool.failed, pool.failed);
	return pool.failed ? 1 : 0;
}

static int usage(void)
{
	fprintf(stderr, "usage: test_crash [--seeds A[-B]] [--ops N] [--states N] [--jobs N]\n"
			"                  [--policy NAME] [--every] [--verbose] [--reduce]\n");
	return 2;
}

static int parse_policy(const char *name)
{
	for (int i = 0; i <= DEATH; i++) {
		if (strcmp(name, kind_name(i)) == 0 || (i == DEATH && strcmp(name, "death") == 0))
			return i;
	}
	fprintf(stderr, "no policy \"%s\"\n", name);
	exit(2);
}

static int parse(struct options *o, int argc, char **argv)
{
	for (int i = 1; i < argc; i++) {
		const char *arg = argv[i], *value = i + 1 < argc ? argv[i + 1] : NULL;
		char *end;

		if (strcmp(arg, "--verbose") == 0) {
			o->verbose = true;
		} else if (strcmp(arg, "--reduce") == 0) {
			o->reduce = true;
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
	struct options options = {.ops = 150, .policy = -1};
	struct result *results;
	int rc;

	options.first = from_env("SEED", 1);
	options.last = options.first + 35;
	options.states = from_env("STATES", 24000);
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
	return options.reduce ? reduce(options, results) : run_all(&options, results);
}
