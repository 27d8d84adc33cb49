/* SPDX-License-Identifier: MIT */
/*
 * Crashes while several threads work on several files and the destager runs beside them.
 *
 * Here nothing repeats exactly: the order of things is up to the scheduler, which is the point.
 * Each thread has files of its own, so that the model can say what each may hold; everything else
 * is shared: the ring, group commit, checkpoints, frozen layers. The disk's hook takes a picture
 * of disk and model at some I/O calls of whatever thread makes them, and the fork is crashed,
 * recovered and compared as in test_crash. What is outside of calls into the file system is under
 * one lock; the hook only tries to take it, since its caller holds locks of the engine.
 *
 *   test_threads [SEEDS [STATES-PER-SEED]]     environment: SEED (first), SECONDS (limit),
 *   TRACE (a failed run shows its operations)
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/sizes.h"
#include "driver_internal.h"

enum { THREADS = 4, OPS = 220, PATHS = 4 };

static const char *const paths[THREADS][PATHS] = {
	{"a0", "a1", "a2", "a3"},
	{"b0", "b1", "b2", "b3"},
	{"c0", "c1", "c2", "c3"},
	{"e0", "e1", "e2", "e3"},
};

struct crew {
	struct driver d;
	pthread_mutex_t lock; /* recursive: the hook of a thread that holds it may go on */
	uint64_t budget;
	FILE *trace; /* lock; what was done, in the order of its end */
	char *trace_text;
	size_t trace_len;
};

struct member {
	struct crew *crew;
	struct run run;
};

static void crew_hook(void *arg, struct simdisk *disk, const struct simdisk_call *call)
{
	struct crew *crew = arg;
	struct driver *d = &crew->d;

	if (call->op == SIMDISK_PREAD || call->op == SIMDISK_OPEN)
		return;
	if (pthread_mutex_trylock(&crew->lock))
		return;
	d->points++;
	if (!d->inside && !*d->run.reason && d->result->states < crew->budget &&
		rng_below(&d->rng, 12) == 0) {
		d->inside = true;
		d->call = *call;
		drive_try(d, disk, (int)rng_below(&d->rng, DRIVE_DEATH + 1));
		d->inside = false;
	}
	pthread_mutex_unlock(&crew->lock);
}

static void *member_main(void *arg)
{
	struct member *m = arg;
	struct crew *crew = m->crew;

	pthread_mutex_lock(&crew->lock);
	for (m->run.op = 0; m->run.op < OPS && !*crew->d.run.reason; m->run.op++) {
		if (run_one_op(&m->run)) {
			run_fail(&crew->d.run, "op %d of \"%s\": %s", m->run.op, m->run.paths[0],
				m->run.reason);
			break;
		}
		fprintf(crew->trace, "  op %d: %s\n", m->run.op, m->run.text);
		/* lets the others in */
		pthread_mutex_unlock(&crew->lock);
		pthread_mutex_lock(&crew->lock);
	}
	pthread_mutex_unlock(&crew->lock);
	return NULL;
}

static void start_member(struct crew *crew, struct member *m, int number)
{
	m->crew = crew;
	m->run = crew->d.run;
	m->run.seed = crew->d.run.seed * THREADS + (uint64_t)number;
	m->run.lock = &crew->lock;
	m->run.paths = paths[number];
	m->run.path_count = PATHS;
}

static int open_busy(struct crew *crew)
{
	struct fs_options options = run_options(&crew->d.run);
	int r;

	options.no_background = false;
	options.in_flight = &crew->d.run.board;
	r = fs_open(&crew->d.run.fs, simdisk_io(crew->d.run.disk), &options);
	return r ? run_fail(&crew->d.run, "fs_open: %s", strerror(-r)) : 0;
}

/* All have ended: nothing is in flight any more. */
static void check_end(struct crew *crew)
{
	struct run *run = &crew->d.run;
	struct model_view view = {0};
	const char *figures;

	crew->d.call = (struct simdisk_call){.op = SIMDISK_OPS, .path = ""};
	for (int kind = 0; kind <= DRIVE_DEATH && !*run->reason; kind++)
		drive_try(&crew->d, run->disk, kind);
	if (*run->reason)
		return;
	if (view_take(&view, run->fs) || model_check(run->model, &view, MODEL_EXACT, true))
		run_fail(run, "at the end: %s", model_reason(run->model));
	else if ((figures = view_figures(&view, run->fs)))
		run_fail(run, "at the end: figures: %s", figures);
	view_release(&view);
}

static void work(struct crew *crew)
{
	struct member members[THREADS];
	pthread_t threads[THREADS];
	struct run *run = &crew->d.run;

	if (open_busy(crew))
		return;
	for (int i = 0; i < THREADS; i++)
		start_member(crew, &members[i], i);
	simdisk_set_hook(run->disk, crew_hook, crew);
	for (int i = 0; i < THREADS; i++)
		pthread_create(&threads[i], NULL, member_main, &members[i]);
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	pthread_mutex_lock(&crew->lock);
	check_end(crew);
	pthread_mutex_unlock(&crew->lock);
	if (fs_close(steal_pointer(&run->fs)) && !*run->reason)
		run_fail(run, "fs_close fails");
	simdisk_set_hook(run->disk, NULL, NULL);
}

static int run_crew(uint64_t seed, uint64_t states, struct drive_result *result)
{
	static const struct drive_options options = {.policy = -1, .jobs = 1};
	static const struct profile *const mixes[] = {
		&profile_threads, &profile_threads_dedup, &profile_threads_deep};
	struct crew *crew = calloc(1, sizeof(*crew));
	pthread_mutexattr_t attr;
	int failed;

	pthread_mutexattr_init(&attr);
	pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_RECURSIVE);
	pthread_mutex_init(&crew->lock, &attr);
	pthread_mutexattr_destroy(&attr);
	crew->budget = states;
	crew->d.options = &options;
	crew->d.result = result;
	if (run_init(&crew->d.run, seed, OPS))
		abort();
	run_set_profile(&crew->d.run, mixes[seed % ARRAY_SIZE(mixes)]);
	simdisk_set_capacity(crew->d.run.disk, TIB);
	rng_seed(&crew->d.rng, rng_scramble(seed));
	crew->trace = open_memstream(&crew->trace_text, &crew->trace_len);
	work(crew);
	drive_result_take(&crew->d);
	failed = result->failed;
	fclose(crew->trace);
	if (failed && getenv("TRACE"))
		printf("%s", crew->trace_text);
	free(crew->trace_text);
	free(crew);
	return failed;
}

static int run_seed_apart(uint64_t seed, uint64_t states, struct drive_result *result)
{
	int status;
	pid_t pid;

	memset(result, 0, sizeof(*result));
	result->seed = seed;
	fflush(NULL);
	pid = fork();
	if (pid == 0) {
		alarm(120); /* a hang is a failure too */
		run_crew(seed, states, result);
		fflush(NULL);
		_exit(result->failed);
	}
	waitpid(pid, &status, 0);
	if (!drive_finish(result, status))
		return 0;
	printf("FAILED: seed %" PRIu64 ", %s\n    %s\n", seed, result->where, result->reason);
	return 1;
}

static uint64_t number_of(const char *text, uint64_t otherwise)
{
	return text && *text ? strtoull(text, NULL, 10) : otherwise;
}

int main(int argc, char **argv)
{
	uint64_t seeds = number_of(argc > 1 ? argv[1] : NULL, 8);
	uint64_t states = number_of(argc > 2 ? argv[2] : NULL, 200);
	uint64_t first = number_of(getenv("SEED"), 1), failed = 0, sum = 0, points = 0, done = 0;
	time_t stop = time(NULL) + (time_t)number_of(getenv("SECONDS"), 600);
	struct drive_result *result = mmap(NULL, sizeof(*result), PROT_READ | PROT_WRITE,
		MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (result == MAP_FAILED)
		return 1;
	log_open(LOG_TO_FILE, getenv("LOGTO") ? getenv("LOGTO") : "/dev/null");
	for (uint64_t seed = first; seed < first + seeds && time(NULL) < stop; seed++) {
		failed += (uint64_t)run_seed_apart(seed, states, result);
		sum += result->distinct;
		points += result->points;
		done++;
	}
	printf("%" PRIu64 " workloads of %d threads (seeds %" PRIu64 "-%" PRIu64 "): %" PRIu64
	       " crash points, %" PRIu64 " distinct disk images\n",
		done, THREADS, first, first + done - 1, points, sum);
	printf("%" PRIu64 " passed, %" PRIu64 " failed\n", done - failed, failed);
	return failed != 0;
}
