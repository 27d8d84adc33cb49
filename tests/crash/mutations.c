/* SPDX-License-Identifier: MIT */
/*
 * Do the tests notice when something is done wrong?
 *
 * The list of what can be done wrong is in the program (base/mutation.h): every call that makes
 * something durable or gives something back, and every place that upholds an invariant. First all
 * workloads run as they are, which also tells which places each of them reaches. Then each mutation
 * is turned on alone, and the workloads that reach its place run, each in a process of its own,
 * until one fails; after them the programs of unit tests and the one with threads. What none of
 * them notices is missed, and fails the run.
 *
 * tests/crash/mutations.list remembers who noticed what, and which calls are there although leaving
 * them out breaks nothing, with the reason. Who is named there is asked first; the short form asks
 * nobody else.
 */
#include "driver.h"

#include <stdio.h>

#ifndef GF_MUTATIONS

int mutations_run(const struct drive_options *options, struct drive_result *results)
{
	(void)options;
	(void)results;
	fprintf(stderr, "test_crash: mutations are in the build of \"make check-mutations\" only\n");
	return 2;
}

#else

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libgen.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/mutation.h"
#include "workload.h"

enum {
	MAX_MUTATIONS = 512,
	MAX_PROFILES = PROFILES_MAX,
	ROUNDS = 2,
	PROGRAM_SECONDS = 150,
	DEFAULT_STATES = 1500,
};

static const struct {
	const char *path; /* from the folder of this program */
	const char *arguments[3];
	bool slow; /* is asked last */
} programs[] = {
	{.path = "test_meetings"},
	{.path = "test_repair"},
	{.path = "test_limits"},
	{.path = "test_domains"},
	{.path = "test_steps"},
	{.path = "test_shared"},
	{.path = "test_recast"},
	{.path = "test_restart"},
	{.path = "../unit/test_pin_order"},
	{.path = "../unit/test_publish"},
	{.path = "../unit/test_superblock"},
	{.path = "../unit/test_catalog_file"},
	{.path = "../unit/test_content_index"},
	{.path = "../unit/test_journal"},
	{.path = "../unit/test_layer"},
	{.path = "../unit/test_chain"},
	{.path = "../unit/test_pool"},
	{.path = "../unit/test_image"},
	{.path = "../unit/test_pin"},
	{.path = "../unit/test_figures"},
	{.path = "test_faults", .slow = true},
	{.path = "test_threads", .arguments = {"8", "150"}, .slow = true},
};
enum { PROGRAMS = sizeof(programs) / sizeof(programs[0]) };

/* What is known of a mutation before and found out in the run; shared memory. */
struct trial {
	char hint[64];	    /* who noticed it last time */
	uint64_t hint_seed; /* 0: a program */
	uint64_t hint_states;
	char redundant[200];
	bool caught, asked, done;
	char by[64];
	uint64_t by_seed, by_states;
	uint64_t states;
	double seconds;
	char reason[200];
};

struct shared {
	struct trial trials[MAX_MUTATIONS];
	unsigned reached[MAX_PROFILES][MAX_MUTATIONS];
	bool program_passes[PROGRAMS];
};

struct session {
	const struct drive_options *options;
	const struct mutation *const *list;
	unsigned count;
	struct shared *shared;
	const char *folder;
};

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static uint64_t seed_of(const struct session *s, int profile, int round)
{
	uint64_t count = (uint64_t)profile_count, first = s->options->first;

	return first + ((uint64_t)profile + count - first % count) % count + (uint64_t)round * count;
}

static int profile_named(const char *name)
{
	for (int i = 0; i < profile_count; i++)
		if (strcmp(profiles[i].name, name) == 0)
			return i;
	return -1;
}

/* ---- mutations.list: NAME | WHO | SEED/STATES, or NAME | redundant | REASON ---- */

static void read_hint(struct session *s, char *line)
{
	char *name = line, *who = strstr(line, " | "), *last;

	if (*line == '#' || !who)
		return;
	*who = 0;
	who += 3;
	last = strstr(who, " | ");
	if (!last)
		return;
	*last = 0;
	last += 3;
	last[strcspn(last, "\n")] = 0;
	for (unsigned i = 0; i < s->count; i++) {
		struct trial *t = &s->shared->trials[i];

		if (strcmp(s->list[i]->name, name) != 0)
			continue;
		if (strcmp(who, "redundant") == 0) {
			snprintf(t->redundant, sizeof(t->redundant), "%s", last);
		} else {
			snprintf(t->hint, sizeof(t->hint), "%s", who);
			t->hint_seed = strtoull(last, NULL, 10);
			t->hint_states = DEFAULT_STATES;
			if (strchr(last, '/'))
				t->hint_states = strtoull(strchr(last, '/') + 1, NULL, 10);
		}
	}
}

static void read_hints(struct session *s)
{
	char line[512];
	FILE *f = s->options->hints ? fopen(s->options->hints, "re") : NULL;

	while (f && fgets(line, sizeof(line), f))
		read_hint(s, line);
	if (f)
		fclose(f);
}

static void write_hints(const struct session *s)
{
	FILE *f = fopen(s->options->hints, "we");

	if (!f)
		return;
	fprintf(f, "# Written by \"make check-mutations UPDATE=1\": MUTATION | WHO NOTICES IT | SEED/STATES.\n"
		   "# By hand: MUTATION | redundant | WHY LEAVING IT OUT BREAKS NOTHING.\n");
	for (unsigned i = 0; i < s->count; i++) {
		const struct trial *t = &s->shared->trials[i];

		if (*t->redundant)
			fprintf(f, "%s | redundant | %s\n", s->list[i]->name, t->redundant);
		else if (t->caught)
			fprintf(f, "%s | %s | %" PRIu64 "/%" PRIu64 "\n", s->list[i]->name, t->by,
				t->by_seed, t->by_states);
		else if (!t->done && *t->hint)
			fprintf(f, "%s | %s | %" PRIu64 "/%" PRIu64 "\n", s->list[i]->name, t->hint,
				t->hint_seed, t->hint_states);
	}
	fclose(f);
}

/* ---- asking ---- */

/* A busy machine must not count as a test that noticed something. */
static bool ran_out_of_time(int status)
{
	return WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM;
}

/* Whether the workload fails. */
static bool ask_workload(const struct session *s, struct drive_result *result, uint64_t seed,
	uint64_t states)
{
	struct drive_options options = *s->options;
	int status;
	pid_t pid;

	options.first = options.last = seed;
	options.states = states;
	options.seconds = 60;
	pid = drive_spawn(&options, result, seed, NULL);
	waitpid(pid, &status, 0);
	return drive_finish(result, status) && !ran_out_of_time(status);
}

static void run_program(const struct session *s, int which, const char *mutation)
{
	char path[512];
	const char *argv[5] = {path};
	int null = open("/dev/null", O_RDWR);

	snprintf(path, sizeof(path), "%s/%s", s->folder, programs[which].path);
	for (int i = 0; i < 3 && programs[which].arguments[i]; i++)
		argv[i + 1] = programs[which].arguments[i];
	dup2(null, 0);
	dup2(null, 1);
	dup2(null, 2);
	if (mutation)
		setenv("GF_MUTATION", mutation, 1);
	else
		unsetenv("GF_MUTATION");
	alarm(PROGRAM_SECONDS);
	execv(path, (char *const *)argv);
	_exit(127);
}

/* Whether the program fails. */
static bool ask_program(const struct session *s, int which, const char *mutation)
{
	int status;
	pid_t pid = fork();

	if (pid == 0)
		run_program(s, which, mutation);
	waitpid(pid, &status, 0);
	return (!WIFEXITED(status) || WEXITSTATUS(status) != 0) && !ran_out_of_time(status);
}

static void note_workload(struct trial *t, const struct drive_result *result, uint64_t seed,
	uint64_t states)
{
	t->caught = true;
	t->by_seed = seed;
	t->by_states = states;
	snprintf(t->by, sizeof(t->by), "%s", profiles[seed % (uint64_t)profile_count].name);
	snprintf(t->reason, sizeof(t->reason), "%.199s", result->reason);
}

static void ask_seed(const struct session *s, unsigned index, struct drive_result *result,
	uint64_t seed, uint64_t states)
{
	struct trial *t = &s->shared->trials[index];
	bool fails = ask_workload(s, result, seed, states);

	t->asked = true;
	t->states += result->states;
	if (fails)
		note_workload(t, result, seed, states);
}

static void ask_one_program(const struct session *s, unsigned index, int which)
{
	struct trial *t = &s->shared->trials[index];

	if (!s->shared->program_passes[which] || !ask_program(s, which, s->list[index]->name))
		return;
	t->caught = true;
	t->by_seed = 0;
	snprintf(t->by, sizeof(t->by), "%s", programs[which].path);
	strcpy(t->reason, "the program fails");
}

static void ask_hint(const struct session *s, unsigned index, struct drive_result *result)
{
	const struct trial *t = &s->shared->trials[index];

	if (!*t->hint)
		return;
	if (t->hint_seed && profile_named(t->hint) >= 0)
		ask_seed(s, index, result, t->hint_seed, t->hint_states);
	for (int i = 0; i < PROGRAMS && !t->hint_seed; i++)
		if (strcmp(programs[i].path, t->hint) == 0)
			ask_one_program(s, index, i);
}

/* The workloads that reach the place, those that do so most often first. */
static int order_profiles(const struct session *s, unsigned index, int *order)
{
	int n = 0;

	for (int p = 0; p < profile_count; p++) {
		unsigned times = s->shared->reached[p][index];
		int at = n;

		if (!times)
			continue;
		for (; at && s->shared->reached[order[at - 1]][index] < times; at--)
			order[at] = order[at - 1];
		order[at] = p;
		n++;
	}
	return n;
}

static void ask_programs(const struct session *s, unsigned index, bool slow)
{
	for (int i = 0; i < PROGRAMS && !s->shared->trials[index].caught; i++)
		if (programs[i].slow == slow)
			ask_one_program(s, index, i);
}

static void ask_everybody(const struct session *s, unsigned index, struct drive_result *result)
{
	const struct trial *t = &s->shared->trials[index];
	int order[MAX_PROFILES], n = order_profiles(s, index, order);

	for (int i = 0; i < n && !t->caught; i++)
		ask_seed(s, index, result, seed_of(s, order[i], 0), 250);
	ask_programs(s, index, false);
	if (s->options->brief)
		return;
	for (int round = 1; round < ROUNDS; round++)
		for (int i = 0; i < n && !t->caught; i++)
			ask_seed(s, index, result, seed_of(s, order[i], round), 1200);
	ask_programs(s, index, true);
}

/* In a process of its own. */
static void try_mutation(const struct session *s, unsigned index)
{
	struct trial *t = &s->shared->trials[index];
	struct drive_result *result = mmap(NULL, sizeof(*result), PROT_READ | PROT_WRITE,
		MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	double start = now();

	mutation_count_in(NULL);
	mutation_turn_on(s->list[index]);
	if (*t->redundant)
		return;
	ask_hint(s, index, result);
	if (!t->caught && !s->options->quick)
		ask_everybody(s, index, result);
	t->seconds = now() - start;
	t->done = true;
	fprintf(stderr, "%s: %s%s, %" PRIu64 " states, %.1f s%s%s\n", s->list[index]->name,
		t->caught ? "caught by " : "missed", t->caught ? t->by : "", t->states, t->seconds,
		t->caught ? ": " : "", t->reason);
}

/* ---- the two passes ---- */

static void wait_for_room(int *busy, int jobs)
{
	while (*busy >= jobs) {
		wait(NULL);
		(*busy)--;
	}
}

/* Everything must pass as it is. */
static void baseline_profile(const struct session *s, int profile)
{
	struct drive_result *result = mmap(NULL, sizeof(*result), PROT_READ | PROT_WRITE,
		MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	mutation_count_in(s->shared->reached[profile]);
	if (ask_workload(s, result, seed_of(s, profile, 0), 60)) {
		drive_print_failure(s->options, result);
		fflush(stdout);
	}
	_exit(result->failed);
}

static void baseline(struct session *s)
{
	int busy = 0;

	for (int p = 0; p < profile_count && !s->options->quick; p++) {
		wait_for_room(&busy, s->options->jobs);
		fflush(NULL);
		if (fork() == 0)
			baseline_profile(s, p);
		busy++;
	}
	for (int i = 0; i < PROGRAMS; i++) {
		wait_for_room(&busy, s->options->jobs);
		fflush(NULL);
		if (fork() == 0) {
			bool fails = !s->options->quick &&
				     !(s->options->brief && programs[i].slow) &&
				     ask_program(s, i, NULL);

			s->shared->program_passes[i] = !fails;
			if (fails)
				printf("not used: %s fails as it is, or is not there\n",
					programs[i].path);
			fflush(stdout);
			_exit(0);
		}
		busy++;
	}
	wait_for_room(&busy, 1);
}

static void print_row(const struct session *s, unsigned i)
{
	const struct trial *t = &s->shared->trials[i];
	char place[64];

	snprintf(place, sizeof(place), "%s:%d", s->list[i]->file, s->list[i]->line);
	if (*t->redundant)
		printf("%-9s %-57s %-29s %s\n", "redundant", s->list[i]->name, place, t->redundant);
	else if (t->caught)
		printf("%-9s %-57s %-29s %s, %" PRIu64 " states, %.1f s\n", "caught",
			s->list[i]->name, place, t->by, t->states, t->seconds);
	else
		printf("%-9s %-57s %-29s %s, %" PRIu64 " states, %.1f s\n", "MISSED",
			s->list[i]->name, place, t->asked ? "nobody noticed" : "nobody reached it",
			t->states, t->seconds);
	if (s->options->verbose && t->caught)
		printf("          %s\n", t->reason);
	fflush(stdout);
}

static int compare_places(const void *a, const void *b)
{
	const struct mutation *x = *(const struct mutation *const *)a;
	const struct mutation *y = *(const struct mutation *const *)b;
	int r = strcmp(x->file, y->file);

	return r ? r : x->line - y->line;
}

static int print_table(const struct session *s, double seconds)
{
	const struct mutation *sorted[MAX_MUTATIONS];
	unsigned caught = 0, redundant = 0, calls = 0;

	memcpy(sorted, s->list, s->count * sizeof(*sorted));
	qsort(sorted, s->count, sizeof(*sorted), compare_places);
	for (unsigned i = 0; i < s->count; i++) {
		unsigned k = 0;

		while (s->list[k] != sorted[i])
			k++;
		if (!strstr(sorted[i]->name, s->options->mutation))
			continue;
		print_row(s, k);
		calls += sorted[i]->left_out;
		redundant += *s->shared->trials[k].redundant != 0;
		caught += s->shared->trials[k].caught;
	}
	printf("%u mutations (%u calls left out, %u invariants broken): %u caught, %u redundant, "
	       "%u missed, %.0f s\n",
		s->count, calls, s->count - calls, caught, redundant,
		s->count - caught - redundant, seconds);
	return caught + redundant == s->count || *s->options->mutation ? 0 : 1;
}

int mutations_run(const struct drive_options *options, struct drive_result *results)
{
	struct session s = {.options = options};
	char self[512] = "";
	int busy = 0, rc;
	double start = now();

	(void)results;
	if (readlink("/proc/self/exe", self, sizeof(self) - 1) < 0)
		return 1;
	s.folder = dirname(self);
	s.list = mutation_list(&s.count);
	s.shared = mmap(NULL, sizeof(*s.shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
		-1, 0);
	if (s.shared == MAP_FAILED || s.count > MAX_MUTATIONS || profile_count > MAX_PROFILES)
		return 1;
	read_hints(&s);
	baseline(&s);
	for (unsigned i = 0; i < s.count; i++) {
		if (!strstr(s.list[i]->name, options->mutation))
			continue;
		wait_for_room(&busy, options->jobs);
		if (options->update)
			write_hints(&s);
		fflush(NULL);
		if (fork() == 0) {
			try_mutation(&s, i);
			_exit(0);
		}
		busy++;
	}
	wait_for_room(&busy, 1);
	rc = print_table(&s, now() - start);
	if (options->update)
		write_hints(&s);
	return rc;
}

#endif
