/* SPDX-License-Identifier: MIT */
#include "driver.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/sizes.h"
#include "core/check.h"
#include "core/fs_internal.h"
#include "core/scrub.h"
#include "driver_internal.h"

#define CHECK_EVERY 16 /* of so many states one is looked at by the offline check, too */

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

const char *drive_kind_name(int kind)
{
	return kind == DRIVE_DEATH ? "process death" :
			       simdisk_policy_name((enum simdisk_policy)kind);
}

static int fail_state(struct driver *d, const char *step, const char *what)
{
	return run_fail(&d->run, "%s: %s", step, what);
}

static struct fs *open_as(struct driver *d, struct simdisk *disk, bool takeover, const char *step)
{
	struct fs *fs = NULL;
	char text[64];
	int r;

	d->result->recoveries++;
	r = run_open(&d->run, disk, &d->board, takeover, &fs);
	if (!r)
		return fs;
	snprintf(text, sizeof(text), "fs_open: %s", strerror(-r));
	fail_state(d, step, text);
	return NULL;
}

static struct fs *open_store(struct driver *d, struct simdisk *disk, const char *step)
{
	return open_as(d, disk, false, step);
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

/*
 * What `goldfs check` says of the disk: never damage, and of a store that was settled and closed
 * after the crash, no space that nothing refers to.
 */
static int check_whole(struct driver *d, struct simdisk *disk, const char *step, bool settled)
{
	struct check_options options = {.io = simdisk_io(disk), .store_fd = -1};
	struct fs_options fs_options = run_options(&d->run);
	struct check_report report;
	const char *what = NULL;
	char text[600];
	int r;

	options.golden_test = fs_options.golden_test;
	options.golden_test_arg = fs_options.golden_test_arg;
	d->result->checks++;
	r = check_store(&options, &report);
	/* One that was not made yet, or half. */
	if (r && !(r == -ENOENT && !settled && !d->run.fs))
		what = strerror(-r);
	for (size_t i = 0; i < report.count && !what; i++) {
		const struct check_finding *f = &report.findings[i];

		if (f->severity != CHECK_DAMAGE)
			continue;
		snprintf(text, sizeof(text), "check: %s \"%s\" at %" PRIu64 "+%" PRIu64 ": %.300s",
			f->structure, f->place, f->offset, f->length, f->text);
		what = text;
	}
	if (!what && settled && report.orphaned_bytes) {
		snprintf(text, sizeof(text), "check: %" PRIu64 " bytes of %" PRIu64
			" files are not given back: %.300s", report.orphaned_bytes,
			report.orphaned_files, report.count ? report.findings[0].text : "");
		what = text;
	}
	check_report_release(&report);
	return what ? fail_state(d, step, what) : 0;
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

/* Whether the disk may be full: then what needs space may fail. */
static bool is_full(const struct driver *d)
{
	return d->run.profile->capacity < GIB;
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
		r = (int)fs_write(fs, attr.ino, out, sizeof(out), 3000);
	if (r != (int)sizeof(out)) {
		fs_abandon(fs);
		return r == -ENOSPC && is_full(d) ? 0 : fail_state(d, step, strerror(-r));
	}
	r = fs_close(fs);
	if (r && !(r == -ENOSPC && is_full(d)))
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

	if (choice)
		r = choice == 1 ? fs_sync(fs) : fs_settle(fs);
	want.loose = want.loose && (!choice || r);
	fs_abandon(fs);
	if (r && !(r == -ENOSPC && is_full(d)))
		return fail_state(d,
			choice == 1 ? "fs_sync after recovery" : "fs_settle after recovery",
			strerror(-r));
	again = simdisk_crash(disk, (enum simdisk_policy)(seed % SIMDISK_POLICIES), seed);
	r = expect_same(d, again, want,
		choice == 1   ? "power loss after recovery and sync" :
		choice == 2 ? "power loss after recovery and settling" :
			      "power loss after recovery");
	simdisk_free(again);
	return r;
}

/* Everything goes to its place, and what nobody needs is given back. */
static int settle_and_close(struct driver *d, struct simdisk *disk, struct fs *fs, uint64_t want)
{
	static const char step[] = "settling and closing after recovery";
	uint64_t got = 0;
	int r = fs_settle(fs), closed;

	closed = fs_close(fs);
	if (r || closed)
		return (r == -ENOSPC || closed == -ENOSPC) && is_full(d) ? 0 :
			fail_state(d, step, strerror(r ? -r : -closed));
	if (check_whole(d, disk, step, true))
		return -1;
	fs = open_store(d, disk, step);
	if (!fs)
		return -1;
	r = hash_store(d, fs, step, &got);
	if (!r && got != want)
		r = fail_state(d, step, "the files differ");
	fs_abandon(fs);
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
	switch (d->run.profile->recovery ? 9 : rng_below(&d->rng, 4)) {
	case 0:
		return lose_power(d, disk, fs, want);
	case 1:
		return write_and_close(d, disk, fs, want.hash);
	case 2:
		return settle_and_close(d, disk, fs, want.hash);
	default:
		fs_abandon(fs);
	}
	for (int i = d->options->every ? 0 : d->run.profile->recovery ? 4 : 1; i > 0 && !r; i--)
		r = recover_interrupted(d, crashed, 1 + rng_below(&d->rng, calls), want, death);
	if (!d->options->every)
		return r;
	for (uint64_t at = 1; at <= calls && !r; at++)
		r = recover_interrupted(d, crashed, at, want, death);
	return r;
}

/* Every checksum is true or its region suspect, and a scrub of what a crash left finds nothing. */
static int audit(struct driver *d, struct fs *fs)
{
	struct scrub_options options = {0};
	struct check_report report;
	char text[256] = "";
	int r = scrub_run(fs, &options, &report);

	if (r)
		snprintf(text, sizeof(text), "scrub_run: %s", strerror(-r));
	for (size_t i = 0; i < report.count && !*text; i++)
		if (report.findings[i].severity == CHECK_DAMAGE)
			snprintf(text, sizeof(text), "%s at %" PRIu64 ": %s", report.findings[i].place,
				report.findings[i].offset, report.findings[i].text);
	check_report_release(&report);
	return *text ? fail_state(d, "scrub after recovery", text) : 0;
}

static int check_state(struct driver *d, struct simdisk *crashed, enum model_mode mode)
{
	/* Of a failing store a successor would have to be told more (test_notes.c). */
	bool takeover = mode == MODEL_EXACT && d->board_fits && !d->run.failing && rng_below(&d->rng, 2);
	struct simdisk *disk = simdisk_clone(crashed);
	struct fs *fs = open_as(d, disk, takeover, takeover ? "takeover" : "recovery");
	uint64_t calls = simdisk_calls(disk);
	bool check = d->result->states % CHECK_EVERY == 0;
	int r = fs ? compare_model(d, fs, mode, takeover ? "after a takeover" : "after recovery") : -1;

	if (!r && check)
		r = drive_check_store(d, crashed, "before recovery");
	if (!r && (d->run.profile->recovery || rng_below(&d->rng, 4) == 0))
		r = go_deep(d, crashed, disk, fs, calls, mode == MODEL_EXACT);
	else if (fs) {
		if (!r)
			r = audit(d, fs);
		fs_abandon(fs);
	}
	if (!r && check)
		r = drive_check_store(d, disk, "after recovery");
	simdisk_free(disk);
	return r;
}

/* ---- crash points ---- */

/* The disk as this kind of crash leaves it; now and then in the middle of a write. */
static struct simdisk *fork_disk(struct driver *d, struct simdisk *disk, int kind, uint64_t seed)
{
	struct simdisk *fork = simdisk_clone(disk), *crashed;

	if (d->call.op == SIMDISK_PWRITE && d->call.len > 1 && rng_below(&d->rng, 3) == 0) {
		uint64_t end = d->call.off + 1 + rng_below(&d->rng, d->call.len - 1);

		/* A kernel that is told to kill stops between pages. */
		end = round_down(end, 4096);
		if (end > d->call.off)
			simdisk_poke(fork, &d->call, end - d->call.off);
	}
	if (kind == DRIVE_DEATH)
		return fork;
	crashed = simdisk_crash(fork, (enum simdisk_policy)kind, seed);
	simdisk_free(fork);
	return crashed;
}

/* Others write to it. */
static void copy_board(struct in_flight *to, const struct in_flight *from)
{
	atomic_store(&to->since, atomic_load(&from->since));
	atomic_store(&to->doubt_first, atomic_load(&from->doubt_first));
	atomic_store(&to->doubt_end, atomic_load(&from->doubt_end));
	for (size_t i = 0; i < IN_FLIGHT_MAX; i++)
		atomic_store(&to->lower[i], atomic_load(&from->lower[i]));
}

static uint64_t last_record(const struct driver *d)
{
	return d->run.fs ? journal_last_seq(d->run.fs->journal) : 0;
}

void drive_try(struct driver *d, struct simdisk *disk, int kind)
{
	uint64_t seed = rng_next(&d->rng), last = last_record(d), hash;
	enum model_mode mode = kind == DRIVE_DEATH ? MODEL_EXACT : MODEL_POWER;
	struct simdisk *crashed;
	struct drive_result *res = d->result;

	copy_board(&d->board, &d->run.board);
	crashed = fork_disk(d, disk, kind, seed);
	/* What other threads began meanwhile, it does not have. */
	d->board_fits = last && last == last_record(d);
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
		drive_kind_name(kind));
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
		for (int kind = 0; kind <= DRIVE_DEATH && !*d->run.reason; kind++)
			drive_try(d, disk, kind);
		d->inside = false;
		return;
	}
	left = d->budget > d->result->distinct ? d->budget - d->result->distinct : 0;
	points_left = d->points_expected > d->points ? d->points_expected - d->points : 1;
	/* Some tries show a state that was there before. */
	tries = left * 5 / 4 / points_left;
	tries += rng_below(&d->rng, points_left) < left * 5 / 4 % points_left;
	for (; tries && !*d->run.reason; tries--) {
		int kind = (int)rng_below(&d->rng, DRIVE_DEATH + 1);

		drive_try(d, disk, d->options->policy < 0 ? kind : d->options->policy);
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

void drive_result_take(struct driver *d)
{
	d->result->points = d->points;
	d->result->failed = *d->run.reason;
	memcpy(d->result->reason, d->run.reason, sizeof(d->run.reason));
	run_release(&d->run);
	free(d->seen);
	free(d->hashes);
}

static int run_seed(const struct drive_options *options, struct drive_result *res, uint64_t seed,
	const uint8_t *keep)
{
	struct driver d = {.options = options, .result = res, .counting = true};
	uint64_t seeds = options->last - options->first + 1;
	bool fails;

	d.budget = options->states / seeds + 1;
	start(&d, seed, keep);
	run_work(&d.run);
	d.points_expected = d.points;
	fails = *d.run.reason;
	d.counting = fails;
	if (!fails || options->verbose) {
		run_release(&d.run);
		start(&d, seed, keep);
		d.run.verbose = options->verbose;
		run_work(&d.run);
	}
	if (fails)
		snprintf(res->where, sizeof(res->where), "op %d (%.200s), without any crash",
			d.run.op, d.run.text);
	drive_result_take(&d);
	return res->failed ? 1 : 0;
}

pid_t drive_spawn(const struct drive_options *options, struct drive_result *res, uint64_t seed,
	const uint8_t *keep)
{
	pid_t pid;

	memset(res, 0, sizeof(*res));
	res->seed = seed;
	fflush(NULL);
	pid = fork();
	if (pid == 0) {
		int rc;

		alarm(options->seconds);
		rc = run_seed(options, res, seed, keep);

		fflush(NULL);
		_exit(rc);
	}
	return pid;
}

/* A process that ended: 0, or 1 with a reason. */
bool drive_finish(struct drive_result *res, int status)
{
	if (WIFSIGNALED(status) || (WIFEXITED(status) && WEXITSTATUS(status) > 1)) {
		snprintf(res->reason, sizeof(res->reason), "the process died: %s",
			WIFSIGNALED(status) ? strsignal(WTERMSIG(status)) : "sanitizer");
		res->failed = true;
	}
	return res->failed;
}

void drive_print_failure(const struct drive_options *options, const struct drive_result *res)
{
	printf("FAILED: seed %" PRIu64 " (%s), %s\n    %s\n", res->seed,
		profiles[res->seed % (uint64_t)profile_count].name, res->where, res->reason);
	printf("    again: test_crash --seeds %" PRIu64 " --ops %d --states %" PRIu64
	       "%s%s --verbose\n",
		res->seed, options->ops, options->states / (options->last - options->first + 1),
		options->policy >= 0 ? " --policy " : "",
		options->policy >= 0 ? drive_kind_name(options->policy) : "");
}
