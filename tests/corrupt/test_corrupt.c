/* SPDX-License-Identifier: MIT */
/*
 * The corruption campaign: thousands of stores with one wrong bit or block each (see corrupt.h).
 *
 * For each of them:
 *   - when a mount shows anything else than before (any name, attribute, byte, figure, or error),
 *     the check has found something, and so does a scrub of that mount; both name the files whose
 *     content differs
 *   - a mount with verify=read never shows a wrong byte: what is read is right, or an error
 *   - after a repair the files that the check did not name read as before; when the check says that
 *     nothing is damaged any more, everything is as before
 *   - nothing crashes
 * And on the intact stores the check finds nothing.
 *
 * SEED, BITS and BLOCKS in the environment: first seed, trials with a bit and with a block; JOBS;
 * TRIAL=n runs one and tells what it does.
 */
#include "corrupt.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/processors.h"
#include "base/sizes.h"
#include "core/check.h"
#include "core/fs.h"
#include "core/scrub.h"

enum { CLASSES = 16 };

struct counts {
	uint64_t trials;
	uint64_t harmless; /* nothing differs and nothing is found */
	uint64_t found;
	uint64_t differs;
	uint64_t repaired; /* all of it */
	uint64_t remains;
	uint64_t failed;
};

struct shared {
	uint64_t current; /* trial of this job */
	char what[400];
	struct counts sum;
	struct counts class[CLASSES];
	char class_name[CLASSES][24];
};

struct campaign {
	uint64_t seed, bits, blocks;
	bool verbose;
	char root[PATH_ROOM];
	struct world worlds[WORLD_KINDS];
	char stale[WORLD_KINDS][PATH_ROOM + 20];
	struct view reference[WORLD_KINDS];
	struct shared *shared; /* of this job */
	int job;
};

static void below(char path[PATH_ROOM], const char *root, const char *name, int number)
{
	int n = snprintf(path, PATH_ROOM, "%s/%s%d", root, name, number);

	if (n >= PATH_ROOM)
		abort();
}

/* ---- looking at one store ---- */

static int run_check(const char *root, bool repair, struct check_report *report)
{
	struct mount files;
	struct check_options options = {.repair = repair};
	int r = files_begin(&files, root);

	memset(report, 0, sizeof(*report));
	if (!r) {
		options.io = files.io;
		options.store_fd = files.store_fd;
		options.images = files.images;
		r = check_store(&options, report);
	}
	mount_end(&files, false);
	return r;
}

/* scrubbed: what a scrub of that mount finds afterwards; NULL: none is made. */
static int see(const char *root, struct mount_how how, struct view *view,
	struct check_report *scrubbed)
{
	struct mount m;
	int r = mount_begin(&m, root, how);

	memset(view, 0, sizeof(*view));
	if (!r)
		r = view_take(view, m.fs);
	if (!r && scrubbed)
		r = scrub_run(m.fs, &(struct scrub_options){.arg = NULL}, scrubbed);
	mount_end(&m, false);
	return r;
}

static void print_report(const struct check_report *report)
{
	for (size_t i = 0; i < report->count; i++) {
		const struct check_finding *f = &report->findings[i];

		printf("    %s: %s %s at %" PRIu64 ": %s%s%s", f->severity == CHECK_DAMAGE ? "damage" : "note",
			f->structure, f->place, f->offset, f->text,
			f->repairable ? " (repairable)" : "", f->repaired ? " (repaired)" : "");
		for (size_t k = 0; k < f->path_count; k++)
			printf(" [%s]", f->paths[k]);
		printf("\n");
	}
	fflush(stdout);
}

static bool names(const struct check_report *report, const char *path)
{
	for (size_t i = 0; i < report->count; i++)
		for (size_t k = 0; k < report->findings[i].path_count; k++)
			if (strcmp(report->findings[i].paths[k], path) == 0)
				return true;
	return false;
}

static bool finds_in(const struct check_report *report, const char *structure)
{
	for (size_t i = 0; i < report->count; i++)
		if (strcmp(report->findings[i].structure, structure) == 0)
			return true;
	return false;
}

/* An image of which nothing is served. */
static bool is_fenced(const struct check_report *report)
{
	for (size_t i = 0; i < report->count; i++)
		if (strstr(report->findings[i].text, "clones are not served"))
			return true;
	return false;
}

/* Damage that is not of one file only. */
static bool names_all(const struct check_report *report)
{
	for (size_t i = 0; i < report->count; i++)
		if (report->findings[i].severity == CHECK_DAMAGE && !report->findings[i].repaired &&
			(!report->findings[i].path_count || report->findings[i].incomplete))
			return true;
	return false;
}

/* ---- one trial ---- */

struct trial {
	struct campaign *c;
	uint64_t number;
	struct damage_done done;
	const struct view *right;
	char damaged[PATH_ROOM]; /* world */
	char copy[PATH_ROOM];
	struct check_report report;
	bool differs, failed;
};

static void fail_trial(struct trial *t, const char *what, const char *detail)
{
	t->failed = true;
	printf("FAILED: trial %" PRIu64 " (SEED=%" PRIu64 " TRIAL=%" PRIu64 "), %s of \"%s\": %s%s%s\n",
		t->number, t->c->seed, t->number, t->done.what, t->done.path, what,
		*detail ? ": " : "", detail);
	print_report(&t->report);
}

/* What was named may differ; the rest may not. */
static const char *unnamed_differs(struct trial *t, const struct check_report *report,
	const struct view *seen)
{
	static char text[PATH_ROOM + 60];

	for (size_t i = 0; i < t->right->count; i++) {
		const struct view_file *f = &t->right->files[i], *g = view_find(seen, f->path);

		if (names(report, f->path) || (g && same_file(f, g, true)))
			continue;
		snprintf(text, sizeof(text), "\"%s\" %s", f->path,
			g ? "has other content" : "is gone");
		return text;
	}
	return NULL;
}

/* Whose content differs is named, by the check before and by a scrub afterwards. */
static void look_at_names(struct trial *t, const struct view *seen, const struct check_report *scrubbed)
{
	const char *unnamed = names_all(&t->report) ? NULL : unnamed_differs(t, &t->report, seen);

	if (unnamed)
		fail_trial(t, "the check does not name who is concerned", unnamed);
	/* See below. */
	if (!t->report.damaged || finds_in(&t->report, "journal") ||
		finds_in(&t->report, "catalog") || is_fenced(&t->report))
		return;
	unnamed = names_all(scrubbed) ? NULL : unnamed_differs(t, scrubbed, seen);
	if (unnamed)
		fail_trial(t, "a scrub does not name who is concerned", unnamed);
}

static void look_as_mount(struct trial *t)
{
	struct check_report scrubbed = {.count = 0};
	const char *differs = NULL;
	struct view seen;
	int r = copy_world(t->damaged, t->copy);

	if (!r)
		r = see(t->copy, (struct mount_how){.verify = false}, &seen, &scrubbed);
	else
		memset(&seen, 0, sizeof(seen));
	if (r)
		differs = strerror(-r);
	else
		differs = view_differs(t->right, &seen);
	t->differs = differs != NULL;
	if (t->c->verbose)
		printf("  a mount shows: %s\n", differs ? differs : "the same");
	if (differs && !t->report.count)
		fail_trial(t, "the check found nothing, and a mount shows something else", differs);
	/* What the end of the journal lost before the mount is nothing that it could find. */
	if (!r && differs && t->report.damaged && !scrubbed.count)
		fail_trial(t, "a scrub found nothing, and its mount shows something else", differs);
	if (!r)
		look_at_names(t, &seen, &scrubbed);
	check_report_release(&scrubbed);
	view_release(&seen);
	remove_tree(t->copy);
}

static void look_verified(struct trial *t)
{
	struct view seen;
	int r = see(t->damaged, (struct mount_how){.verify = true, .read_only = true}, &seen, NULL);
	const char *lie = r ? NULL : view_lies(t->right, &seen);

	if (lie)
		fail_trial(t, "with verify=read", lie);
	view_release(&seen);
}

static void look_repaired(struct trial *t)
{
	struct check_report after;
	const char *differs = NULL;
	struct view seen;
	int r = run_check(t->damaged, true, &after), mounted;

	if (r) {
		fail_trial(t, "the repair failed", strerror(-r));
		check_report_release(&after);
		return;
	}
	if (t->c->verbose) {
		printf("  after a repair:\n");
		print_report(&after);
	}
	mounted = see(t->damaged, (struct mount_how){.verify = false}, &seen, NULL);
	if (mounted && !after.damaged)
		fail_trial(t, "no mount is possible after a repair that found nothing left",
			strerror(-mounted));
	else if (!mounted && !after.damaged)
		differs = view_differs(t->right, &seen);
	else if (!mounted && !names_all(&after))
		differs = unnamed_differs(t, &t->report, &seen);
	if (differs)
		fail_trial(t, after.damaged ? "a repair touched what was not damaged" :
					      "after a repair that found nothing left", differs);
	t->c->shared->sum.repaired += t->report.damaged && !after.damaged;
	t->c->shared->sum.remains += after.damaged != 0;
	view_release(&seen);
	check_report_release(&after);
}

static struct counts *class_counts(struct shared *s, const char *name)
{
	int i = 0;

	while (i < CLASSES - 1 && s->class_name[i][0] && strcmp(s->class_name[i], name) != 0)
		i++;
	snprintf(s->class_name[i], sizeof(s->class_name[i]), "%s", name);
	return &s->class[i];
}

static void count(struct trial *t)
{
	struct counts *of[] = {&t->c->shared->sum, class_counts(t->c->shared, t->done.class)};

	for (int i = 0; i < 2; i++) {
		of[i]->trials++;
		of[i]->found += t->report.count != 0;
		of[i]->differs += t->differs;
		of[i]->harmless += !t->differs && !t->report.count;
		of[i]->failed += t->failed;
	}
}

static void run_trial(struct campaign *c, uint64_t number)
{
	struct trial t = {.c = c, .number = number};
	enum world_kind kind = (enum world_kind)(number % WORLD_KINDS);
	struct rng rng;
	int r;

	rng_seed(&rng, c->seed * UINT64_C(1000003) + number);
	t.right = &c->reference[kind];
	below(t.damaged, c->root, "damaged", c->job);
	below(t.copy, c->root, "copy", c->job);
	r = copy_world(c->worlds[kind].root, t.damaged);
	if (!r)
		r = number < c->bits ? damage_bit(t.damaged, &rng, &t.done) :
				       damage_block(t.damaged, c->stale[kind], &rng, &t.done);
	if (r) {
		fail_trial(&t, "nothing could be damaged", strerror(-r));
		c->shared->sum.failed++;
		remove_tree(t.damaged);
		return;
	}
	snprintf(c->shared->what, sizeof(c->shared->what), "%.190s of \"%.190s\"", t.done.what,
		t.done.path);
	if (c->verbose)
		printf("trial %" PRIu64 ", world %d: %s\n", number, (int)kind, c->shared->what);
	r = run_check(t.damaged, false, &t.report);
	if (r)
		fail_trial(&t, "the check could not look at the store", strerror(-r));
	if (c->verbose)
		print_report(&t.report);
	look_as_mount(&t);
	look_verified(&t);
	if (t.report.count)
		look_repaired(&t);
	count(&t);
	check_report_release(&t.report);
	remove_tree(t.damaged);
}

/* ---- the campaign ---- */

static int prepare_world(struct campaign *c, enum world_kind kind)
{
	char root[PATH_ROOM], copy[PATH_ROOM];
	struct check_report report;
	const char *differs;
	struct view seen;
	int r;

	below(root, c->root, "world", (int)kind);
	below(copy, c->root, "prepare", (int)kind);
	below(c->stale[kind], c->root, "stale", (int)kind);
	r = world_make(&c->worlds[kind], root, c->stale[kind], kind, c->seed + kind);
	if (!r)
		r = copy_world(root, copy);
	if (!r)
		r = run_check(copy, false, &report);
	if (r) {
		printf("FAILED: world %d: %s\n", (int)kind, strerror(-r));
		return -1;
	}
	if (report.count) {
		printf("FAILED: false alarm in world %d\n", (int)kind);
		print_report(&report);
		r = -1;
	}
	check_report_release(&report);
	if (!r)
		r = see(copy, (struct mount_how){.verify = false}, &c->reference[kind], NULL);
	remove_tree(copy);
	/* A checked, read-only mount shows the same. */
	if (!r)
		r = copy_world(root, copy);
	if (!r)
		r = see(copy, (struct mount_how){.verify = true, .read_only = true}, &seen, NULL);
	differs = r ? strerror(-r) : view_differs(&c->reference[kind], &seen);
	if (differs)
		printf("FAILED: world %d: %s\n", (int)kind, differs);
	if (!r)
		view_release(&seen);
	remove_tree(copy);
	return differs ? -1 : 0;
}

static void run_job(struct campaign *c, uint64_t first, uint64_t step)
{
	for (uint64_t i = first; i < c->bits + c->blocks; i += step) {
		c->shared->current = i;
		run_trial(c, i);
	}
}

/* A job that dies goes on behind the trial that killed it. */
static void supervise(struct campaign *c, int jobs, struct shared *shared)
{
	pid_t pids[16] = {0};
	int running = 0;

	for (int j = 0; j < jobs; j++)
		shared[j].current = (uint64_t)j;
	for (int j = 0; j < jobs || running; j++) {
		int status, who = j;
		pid_t pid;

		if (j >= jobs) {
			pid = wait(&status);
			running--;
			for (who = 0; who < jobs && pids[who] != pid;)
				who++;
			if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
				continue;
			printf("FAILED: trial %" PRIu64 " (SEED=%" PRIu64 "), %s: the process died (status 0x%x)\n",
				shared[who].current, c->seed, shared[who].what, (unsigned)status);
			shared[who].sum.failed++;
			shared[who].current += (uint64_t)jobs;
		}
		fflush(stdout);
		pids[who] = fork();
		if (pids[who] == 0) {
			c->shared = &shared[who];
			c->job = who;
			run_job(c, shared[who].current, (uint64_t)jobs);
			fflush(stdout);
			_exit(0);
		}
		running++;
	}
}

static void print_counts(const char *name, const struct counts *n)
{
	printf("%-14s %8" PRIu64 " trials, %7" PRIu64 " found, %7" PRIu64 " change what a mount shows, %7" PRIu64
	       " harmless, %" PRIu64 " failed\n",
		name, n->trials, n->found, n->differs, n->harmless, n->failed);
}

static void add(struct counts *to, const struct counts *from)
{
	to->trials += from->trials;
	to->harmless += from->harmless;
	to->found += from->found;
	to->differs += from->differs;
	to->repaired += from->repaired;
	to->remains += from->remains;
	to->failed += from->failed;
}

static uint64_t summarize(const struct shared *shared, int jobs)
{
	static struct shared all;

	for (int j = 0; j < jobs; j++) {
		add(&all.sum, &shared[j].sum);
		for (int i = 0; i < CLASSES && shared[j].class_name[i][0]; i++)
			add(class_counts(&all, shared[j].class_name[i]), &shared[j].class[i]);
	}
	for (int i = 0; i < CLASSES && all.class_name[i][0]; i++)
		print_counts(all.class_name[i], &all.class[i]);
	print_counts("all", &all.sum);
	printf("%" PRIu64 " damaged stores were repaired wholly, in %" PRIu64 " damage remains and is named\n",
		all.sum.repaired, all.sum.remains);
	return all.sum.failed;
}

static uint64_t from_env(const char *name, uint64_t otherwise)
{
	const char *value = getenv(name);

	return value && *value ? strtoull(value, NULL, 10) : otherwise;
}

int main(void)
{
	static struct campaign c;
	int jobs = (int)min_u64(16, from_env("JOBS", processors_usable()));
	struct shared *shared = mmap(NULL, sizeof(*shared) * 16, PROT_READ | PROT_WRITE,
		MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	uint64_t failed = 0;
	int r = 0;

	c.seed = from_env("SEED", 1);
	c.bits = from_env("BITS", 300);
	c.blocks = from_env("BLOCKS", 100);
	c.verbose = getenv("TRIAL") != NULL;
	if (!c.verbose)
		log_open(LOG_TO_FILE, "/dev/null");
	scratch_root(c.root);
	if (!c.root[0] || shared == MAP_FAILED)
		return 1;
	for (int kind = 0; kind < WORLD_KINDS && !r; kind++)
		r = prepare_world(&c, (enum world_kind)kind);
	if (!r && c.verbose) {
		c.shared = shared;
		run_trial(&c, from_env("TRIAL", 0));
		failed = shared->sum.failed;
	} else if (!r) {
		supervise(&c, jobs, shared);
		printf("SEED=%" PRIu64 ", %" PRIu64 " bits, %" PRIu64 " blocks\n", c.seed, c.bits,
			c.blocks);
		failed = summarize(shared, jobs);
	}
	for (int kind = 0; kind < WORLD_KINDS; kind++)
		view_release(&c.reference[kind]);
	remove_tree(c.root);
	return r || failed ? 1 : 0;
}
