/* SPDX-License-Identifier: MIT */
/*
 * The accounting, to the byte, after random work (ledger.h says how it is computed from nothing).
 *
 * A seed is a mix of operations (workload_mixes.c), every other one with repeated content. Every
 * few dozens of operations the store settles, and then
 *   the figures of every file are those of the ledger, and st_blocks is
 *   what removing some files would free is, for several sets; now and then one is really removed,
 *     and the layers' and the pool's files shrink by as much
 *   a copy that is still growing counts as what it will be, for others
 *   all content is as the model has it
 *   the store's totals are the sums, the files below hold the blocks that the maps name and nothing
 *     else, and physical bytes are what the files take
 * The same is true of what a crash at some I/O call leaves, once that is recovered and settled.
 * In between the figures are asked as well: their identities hold at any time, and what was kept of
 * them must not be told after a settling. At the end everything is removed, and nothing is left.
 *
 *   test_ledger [--seeds A[-B]] [--ops N] [--jobs N] [--mix NAME] [--verbose] [--reduce]
 *
 * Environment: SEED (first seed), SEEDS (how many), OPS, JOBS.
 */
#include <errno.h>
#include <inttypes.h>
#include <malloc.h>
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
#include "core/fs_internal.h"
#include "goldfs/format.h"
#include "ledger.h"
#include "workload_internal.h"

#define CHECK_EVERY 40	/* operations, about */
#define CRASH_EVERY 300 /* calls that change the disk, about */
#define MAX_SET 64
#define MAX_JOBS 16

/* What one seed's process tells. */
struct result {
	uint64_t checks, crashes, figures, sets, removals, freed_bytes;
	/* Blocks, and files of mode full, that were met, so that it is known that some were. */
	uint64_t slots, golden, self, shared, snapshot, placed;
	bool failed;
	int op;
	char text[256];
	char reason[1024];
};

struct book {
	struct run run;
	struct rng rng;
	struct result *result;
	uint64_t seed;
	struct rng calls; /* which I/O calls are looked at */
	bool inside;	  /* of one */
	bool foreign;	  /* there is something that the model does not know */
	struct ledger_growing growing[1];
	size_t growing_count;
};

/* ---- one look at a settled store ---- */

static int open_ledger(struct book *b, struct ledger **ledger)
{
	char reason[300];

	if (ledger_take(ledger, simdisk_io(b->run.disk), b->run.images, RUN_IMAGES, b->growing,
		    b->growing_count, reason, sizeof(reason)))
		return run_fail(&b->run, "ledger: %s", reason);
	return 0;
}

static int check_file(struct book *b, const struct ledger_file *want)
{
	uint64_t snapshots;
	struct fs_figures got;
	struct fs_info info;
	int r = fs_info(b->run.fs, want->ino, FS_NOW, &info);

	if (r)
		return run_fail(&b->run, "fs_info(%" PRIu64 "): %s", want->ino, strerror(-r));
	got = info.figures;
	snapshots = info.snapshots;
	fs_info_release(&info);
	b->result->figures++;
	b->result->self += want->shared_self / GF_BLOCK_SIZE;
	b->result->shared += want->shared_clone / GF_BLOCK_SIZE;
	b->result->snapshot += want->shared_snapshot / GF_BLOCK_SIZE;
	if (got.virtual_bytes == want->size && got.data_bytes == want->data &&
		got.zero_bytes == want->zero && got.unique_bytes == want->unique &&
		got.shared_golden_bytes == want->shared_golden &&
		got.shared_clone_bytes == want->shared_clone &&
		got.shared_self_bytes == want->shared_self &&
		got.shared_snapshot_bytes == want->shared_snapshot && snapshots == want->snapshots &&
		!got.pinned_golden_bytes)
		return 0;
#define PAIR "%" PRIu64 "/%" PRIu64
	return run_fail(&b->run,
		"file %" PRIu64 " (told/true): virtual " PAIR " data " PAIR " zero " PAIR
		" unique " PAIR " golden " PAIR " clone " PAIR " self " PAIR " snapshot " PAIR
		" snapshots " PAIR,
		want->ino, got.virtual_bytes, want->size, got.data_bytes, want->data,
		got.zero_bytes, want->zero, got.unique_bytes, want->unique, got.shared_golden_bytes,
		want->shared_golden, got.shared_clone_bytes, want->shared_clone,
		got.shared_self_bytes, want->shared_self, got.shared_snapshot_bytes,
		want->shared_snapshot, snapshots, want->snapshots);
#undef PAIR
}

/* While there is no data a file may have 8 all the same: nobody is misled by that. */
static int check_blocks(struct book *b, const struct ledger_file *want)
{
	struct fs_attr attr;
	int r = fs_getattr(b->run.fs, want->ino, &attr);

	if (r)
		return run_fail(&b->run, "fs_getattr(%" PRIu64 "): %s", want->ino, strerror(-r));
	if (attr.blocks == max_u64(8, want->unique_blocks * 8) || (!want->data && !attr.blocks))
		return 0;
	return run_fail(&b->run,
		"file %" PRIu64 ": st_blocks is %" PRIu64 ", of %" PRIu64 " unique blocks",
		want->ino, attr.blocks, want->unique_blocks);
}

static int check_files(struct book *b, const struct ledger *ledger)
{
	const struct ledger_file *files;
	size_t count = ledger_files(ledger, &files);
	bool blocks_first = rng_below(&b->rng, 2);

	for (int turn = 0; turn < 2; turn++)
		for (size_t i = 0; i < count; i++)
			if ((turn != 0) == blocks_first ? check_file(b, &files[i])
							: check_blocks(b, &files[i]))
				return -1;
	return 0;
}

static size_t pick_set(struct book *b, const struct ledger *ledger, uint64_t *inos)
{
	const struct ledger_file *files;
	size_t count = ledger_files(ledger, &files), n = 0;
	uint64_t chance = 1 + rng_below(&b->rng, 4);

	for (size_t i = 0; i < count && n < MAX_SET; i++)
		if (rng_below(&b->rng, 4) < chance)
			inos[n++] = files[i].ino;
	return n;
}

static int check_sets(struct book *b, const struct ledger *ledger)
{
	for (int i = 0; i < 6; i++) {
		uint64_t inos[MAX_SET], got, want, blocks;
		size_t n = pick_set(b, ledger, inos);
		int r = fs_if_removed(b->run.fs, inos, n, &got);

		if (r)
			return run_fail(&b->run, "fs_if_removed: %s", strerror(-r));
		ledger_freed(ledger, inos, n, &want, &blocks);
		b->result->sets++;
		if (got != want)
			return run_fail(&b->run,
				"removing %zu files would free %" PRIu64 ", not %" PRIu64, n, want,
				got);
	}
	return 0;
}

static int check_store(struct book *b, const struct ledger *ledger)
{
	uint64_t data = 0, unique = 0, zero = 0, virtual = 0, snapshots = 0, stored, dedup;
	const struct ledger_file *files;
	size_t count = ledger_files(ledger, &files);
	struct fs_store_figures f;
	struct ledger_totals t;

	ledger_totals(ledger, &t);
	b->result->slots += t.slots;
	b->result->golden += t.golden_refs;
	b->result->placed += t.placed_files;
	for (size_t i = 0; i < count; i++) {
		data += files[i].data;
		unique += files[i].unique;
		zero += files[i].zero;
		snapshots += files[i].is_snapshot;
		virtual += files[i].size;
	}
	if (t.unseen)
		return run_fail(
			&b->run, "%" PRIu64 " blocks are kept that no file shows", t.unseen);
	if (t.layer_bytes != (t.layer_blocks + t.spare_blocks) * GF_BLOCK_SIZE ||
		t.pool_bytes != t.slots * GF_BLOCK_SIZE)
		return run_fail(&b->run,
			"the files of layers and pool take %" PRIu64 " and %" PRIu64
			" bytes for %" PRIu64 " blocks and %" PRIu64 " slots",
			t.layer_bytes, t.pool_bytes, t.layer_blocks + t.spare_blocks, t.slots);
	fs_store_figures(b->run.fs, &f);
	stored = (t.layer_blocks + t.spare_blocks + t.last_blocks + t.slots) * GF_BLOCK_SIZE;
	dedup = (t.golden_refs + t.slot_refs - t.slots) * GF_BLOCK_SIZE;
	if (f.virtual_bytes != virtual || f.data_bytes != data || f.unique_bytes != unique ||
		f.saved_zero_bytes != zero || f.clones != count - snapshots - t.promoted ||
		f.snapshots != snapshots || f.pool_bytes != t.pool_bytes ||
		f.saved_dedup_bytes != dedup ||
		f.saved_clone_bytes != less_u64(less_u64(data, stored), dedup))
		return run_fail(&b->run,
			"the store's totals are not the sums: data %" PRIu64 " of %" PRIu64
			", unique %" PRIu64 " of %" PRIu64 ", pool %" PRIu64 " of %" PRIu64
			", saved by content %" PRIu64 " of %" PRIu64 ", by clones %" PRIu64
			" of %" PRIu64,
			f.data_bytes, data, f.unique_bytes, unique, f.pool_bytes, t.pool_bytes,
			f.saved_dedup_bytes, dedup, f.saved_clone_bytes,
			less_u64(less_u64(data, stored), dedup));
	if (max_u64(f.physical_bytes, t.store_bytes) - min_u64(f.physical_bytes, t.store_bytes) >
		t.store_bytes / 100)
		return run_fail(&b->run,
			"physical bytes are %" PRIu64 ", the store's files take %" PRIu64,
			f.physical_bytes, t.store_bytes);
	return 0;
}

/* 0: settled; 1: it cannot be. */
static int settle(struct book *b)
{
	int r = b->run.failing ? -EIO : fs_settle(b->run.fs);

	if (r && !b->run.failing && !(r == -ENOSPC && b->run.profile->capacity < GIB))
		return run_fail(&b->run, "fs_settle: %s", strerror(-r));
	return r != 0;
}

/* ---- removing ---- */

static int remove_snapshot(struct book *b, const char *path)
{
	uint64_t ino = model_object(b->run.model, model_find(b->run.model, path)->object)->ino;
	int r;

	model_tree_begin(b->run.model);
	snaps_drop(&b->run, path);
	r = fs_snapshot_delete(b->run.fs, &ino, 1);
	model_tree_end(b->run.model, !r);
	return r ? run_fail(&b->run, "deleting \"%s\": %s", path, strerror(-r)) : 0;
}

/* One file; the model knows its name. Its automatic snapshots stay out of it: they go first. */
static int remove_file(struct book *b, const char *path)
{
	uint64_t folder = FS_INO_ROOT;
	bool promoted = strncmp(path, "golden/", 7) == 0;
	uint64_t ino;
	char text[MODEL_NAME], *slash;
	int r;

	if (strncmp(path, ".snapshots/", 11) == 0)
		return remove_snapshot(b, path);
	ino = model_object(b->run.model, model_find(b->run.model, path)->object)->ino;
	strcpy(text, path);
	slash = strrchr(text, '/');
	if (slash && !promoted) {
		*slash = 0;
		folder = model_object(b->run.model, model_find(b->run.model, text)->object)->ino;
	}
	model_tree_begin(b->run.model);
	snaps_unlink(&b->run, path);
	model_remove(b->run.model, path);
	r = promoted ? fs_promote_undo(b->run.fs, ino) :
		       fs_unlink(b->run.fs, folder, slash ? slash + 1 : text);
	model_tree_end(b->run.model, !r);
	return r ? run_fail(&b->run, "removing \"%s\": %s", path, strerror(-r)) : 0;
}

static int remove_files(struct book *b, const uint64_t *inos, size_t count)
{
	for (size_t k = 0; k < count; k++) {
		struct model_tree *tree = model_tree(b->run.model);
		char path[MODEL_NAME] = "";

		for (size_t i = 0; i < tree->count; i++)
			if (model_object(b->run.model, tree->list[i].object)->ino == inos[k])
				strcpy(path, tree->list[i].path);
		if (b->run.verbose)
			printf("    removed: \"%s\"\n", path);
		if (!*path)
			continue; /* an automatic snapshot that went with its file */
		if (remove_file(b, path))
			return -1;
	}
	return 0;
}

/* The path of a file, "" without. */
static const char *path_of(struct book *b, uint64_t ino)
{
	struct model_tree *tree = model_tree(b->run.model);

	for (size_t i = 0; i < tree->count; i++)
		if (model_object(b->run.model, tree->list[i].object)->ino == ino)
			return tree->list[i].path;
	return "";
}

/* Automatic snapshots go with their file. */
static size_t with_automatic(struct book *b, uint64_t *inos, size_t count)
{
	size_t n = count;

	for (size_t i = 0; i < count; i++)
		n += snaps_automatic(&b->run, path_of(b, inos[i]), inos + n, MAX_SET - n);
	return n;
}

static int remove_some(struct book *b, const struct ledger *ledger)
{
	struct ledger_totals before, after;
	uint64_t inos[MAX_SET], told, bytes, blocks, fell;
	size_t n = min_u64(pick_set(b, ledger, inos), 1 + rng_below(&b->rng, 3));

	n = with_automatic(b, inos, n);
	ledger_totals(ledger, &before);
	ledger_freed(ledger, inos, n, &bytes, &blocks);
	if (fs_if_removed(b->run.fs, inos, n, &told))
		return run_fail(&b->run, "fs_if_removed");
	if (remove_files(b, inos, n))
		return -1;
	if (settle(b))
		return *b->run.reason ? -1 : 0;
	ledger_measure(simdisk_io(b->run.disk), &after);
	fell = before.layer_bytes + before.pool_bytes - after.layer_bytes - after.pool_bytes;
	b->result->removals++;
	b->result->freed_bytes += fell;
	/* The last block of 16 TiB stands elsewhere. */
	if (fell / GF_BLOCK_SIZE > blocks || fell / GF_BLOCK_SIZE + before.last_blocks < blocks ||
		told > blocks * GF_BLOCK_SIZE || told + n * GF_BLOCK_SIZE < blocks * GF_BLOCK_SIZE)
		return run_fail(&b->run,
			"removing %zu files was to free %" PRIu64 " bytes (%" PRIu64
			" blocks), and freed %" PRIu64,
			n, told, blocks, fell);
	return 0;
}

/* ---- a run ---- */

/* All files and snapshots read as the model says. */
static int check_content(struct book *b)
{
	struct model_view view;
	int r = view_take(&view, b->run.fs);

	if (r)
		run_fail(&b->run, "the tree cannot be listed: %s", strerror(-r));
	else if (model_check(b->run.model, &view, MODEL_EXACT, false))
		run_fail(&b->run, "settled: %s", model_reason(b->run.model));
	view_release(&view);
	return *b->run.reason ? -1 : 0;
}

/* remove: some files may go. */
static int check(struct book *b, bool remove)
{
	bool known = !b->inside && !b->foreign;
	struct ledger *ledger;
	int r = settle(b);

	if (r)
		return *b->run.reason ? -1 : 0;
	if ((known && check_content(b)) || open_ledger(b, &ledger))
		return -1;
	/* The same figures, whichever way they are counted. */
	b->run.fs->few = b->result->checks++ % (FEW_NOWHERE + 1);
	if (check_files(b, ledger) || check_sets(b, ledger) || check_store(b, ledger) ||
		(remove && remove_some(b, ledger)))
		r = -1;
	ledger_free(ledger);
	return r;
}

/* A copy that comes half way, which the model does not hear of. */
static int check_growing(struct book *b)
{
	struct fs_owner owner = {0, 0};
	struct model_view view;
	struct model_seen src = {0};
	struct fs_attr attr;
	uint64_t part;
	int r = view_take(&view, b->run.fs);

	if (!r && view.count)
		src = view.list[rng_below(&b->rng, view.count)];
	view_release(&view);
	if (r || src.kind != MODEL_FILE || src.size < 2 * GF_BLOCK_SIZE || b->run.profile->shift)
		return 0;
	/* A power loss later on is not to bring it back. */
	if (fs_sync(b->run.fs) ||
		fs_make(b->run.fs, FS_INO_ROOT, "zz", S_IFREG | 0600, owner, &attr))
		return run_fail(&b->run, "a copy cannot be made");
	model_synced_all(b->run.model);
	b->foreign = true;
	part = GF_BLOCK_SIZE * (1 + rng_below(&b->rng, (src.size - 1) / GF_BLOCK_SIZE));
	if (b->run.verbose)
		printf("    %" PRIu64 " bytes of \"%s\" are copied\n", part, src.path);
	if (fs_copy_range(b->run.fs, src.ino, 0, attr.ino, 0, part, 3000) == (ssize_t)part) {
		b->growing[0] = (struct ledger_growing){attr.ino, src.ino};
		b->growing_count = 1;
		r = check(b, false);
		b->growing_count = 0;
		if (!r && rng_below(&b->rng, 2) &&
			fs_copy_range(b->run.fs, src.ino, part, attr.ino, part, GIB, 3000) > 0)
			r = check(b, false);
	}
	if (!r && (fs_unlink(b->run.fs, FS_INO_ROOT, "zz") || fs_sync(b->run.fs)))
		r = run_fail(&b->run, "a copy cannot be removed");
	fs_forget(b->run.fs, attr.ino, 1);
	b->foreign = false;
	return r;
}

/* Figures of a store that is not settled. */
static int look(struct book *b)
{
	struct model_view view;
	const char *wrong = NULL;
	int r = view_take(&view, b->run.fs);

	if (r && !b->run.failing)
		run_fail(&b->run, "the tree cannot be listed: %s", strerror(-r));
	else if (!r && !b->run.failing)
		wrong = view_figures(&view, b->run.fs);
	if (wrong)
		run_fail(&b->run, "not settled: %s", wrong);
	view_release(&view);
	return *b->run.reason ? -1 : 0;
}

static int after_op(struct run *run)
{
	struct book *b = run->arg;

	/* Of its own for each operation, so that leaving one out changes nothing else. */
	rng_seed(&b->rng, rng_scramble(b->seed * 7919 + (uint64_t)run->op));
	b->result->op = run->op;
	strcpy(b->result->text, run->text);
	rng_seed(&b->calls, rng_next(&b->rng));
	if (rng_below(&b->rng, CHECK_EVERY) == 0)
		return check(b, rng_below(&b->rng, 5) == 0);
	if (rng_below(&b->rng, 4 * CHECK_EVERY) == 0 && !run->failing &&
		run->profile->capacity > GIB)
		return check_growing(b);
	return rng_below(&b->rng, 8) == 0 ? look(b) : 0;
}

/* At some I/O calls: what a crash leaves, recovered and settled, is accounted for as well. */
static void hook(void *arg, struct simdisk *disk, const struct simdisk_call *call)
{
	struct run *run = arg;
	struct book *b = run->arg;
	struct run outside = *run;
	struct fs_options options = run_options(run);
	size_t growing = b->growing_count;
	uint64_t kind;
	int r;

	if (b->inside || run->failing || call->op == SIMDISK_PREAD || call->op == SIMDISK_OPEN ||
		rng_below(&b->calls, CRASH_EVERY))
		return;
	b->inside = true;
	b->growing_count = 0; /* what grows there has nobody who goes on with it */
	kind = rng_below(&b->calls, SIMDISK_POLICIES + 1);
	if (kind == SIMDISK_POLICIES)
		run->disk = simdisk_clone(disk);
	else
		run->disk = simdisk_crash(disk, (enum simdisk_policy)kind, rng_next(&b->calls));
	r = fs_open(&run->fs, simdisk_io(run->disk), &options);
	if (r)
		run_fail(run, "fs_open: %s", strerror(-r));
	else
		check(b, false);
	if (*run->reason && strncmp(run->reason, "crash", 5) != 0) {
		char text[sizeof(run->reason)];

		snprintf(text, sizeof(text), "%.900s", run->reason);
		snprintf(run->reason, sizeof(run->reason), "crash before %s \"%.60s\", %s: %.800s",
			simdisk_op_name(call->op), call->path,
			kind == SIMDISK_POLICIES ? "death"
						 : simdisk_policy_name((enum simdisk_policy)kind),
			text);
	}
	if (!r)
		fs_abandon(run->fs);
	simdisk_free(run->disk);
	run->fs = outside.fs;
	run->disk = outside.disk;
	b->growing_count = growing;
	b->result->crashes++;
	b->inside = false;
}

static int remove_everything(struct book *b)
{
	struct ledger *ledger;
	const struct ledger_file *files;
	struct ledger_totals t;
	size_t count;
	int r;

	strcpy(b->result->text, "the end");
	if (settle(b))
		return *b->run.reason ? -1 : 0;
	if (open_ledger(b, &ledger))
		return -1;
	count = ledger_files(ledger, &files);
	r = 0;
	for (size_t i = 0; i < count && !r; i++)
		r = remove_files(b, &files[i].ino, 1);
	ledger_free(ledger);
	if (r || settle(b))
		return *b->run.reason ? -1 : 0;
	ledger_measure(simdisk_io(b->run.disk), &t);
	if (t.layer_bytes || t.pool_bytes)
		return run_fail(&b->run,
			"nothing is left, and layers take %" PRIu64 " bytes, the pool %" PRIu64,
			t.layer_bytes, t.pool_bytes);
	return 0;
}

/* ---- seeds ---- */

struct options {
	uint64_t first, last;
	int ops;
	int jobs;
	const char *mix;
	bool verbose;
	bool reduce;
};

/* Every other seed has a mix with repeated content. */
static uint64_t mix_of(const struct options *o, uint64_t seed)
{
	uint64_t list[64], n = 0;

	for (int i = 0; i < profile_count; i++)
		if (o->mix ? strstr(profiles[i].name, o->mix) != NULL
			   : profiles[i].dedup == seed % 2 && !profiles[i].faults)
			list[n++] = (uint64_t)i;
	if (!n) {
		fprintf(stderr, "no mix \"%s\"\n", o->mix);
		exit(2);
	}
	return list[seed / (o->mix ? 1 : 2) % n];
}

static void run_seed(
	const struct options *o, struct result *result, uint64_t seed, const uint8_t *keep)
{
	struct book b = {.result = result, .seed = seed};

	if (run_init(&b.run, seed * (uint64_t)profile_count + mix_of(o, seed), o->ops))
		abort();
	b.run.keep = keep;
	b.run.after_op = after_op;
	b.run.hook = hook;
	b.run.arg = &b;
	b.run.verbose = o->verbose;
	if (!run_work(&b.run))
		remove_everything(&b);
	result->failed = *b.run.reason;
	strcpy(result->reason, b.run.reason);
	run_release(&b.run);
}

static pid_t spawn(
	const struct options *o, struct result *result, uint64_t seed, const uint8_t *keep)
{
	pid_t pid;

	memset(result, 0, sizeof(*result));
	fflush(NULL);
	pid = fork();
	if (pid == 0) {
		run_seed(o, result, seed, keep);
		fflush(NULL);
		_exit(0);
	}
	return pid;
}

static bool finish(struct result *result, int status)
{
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return result->failed;
	snprintf(result->reason, sizeof(result->reason), "the process died: %s",
		WIFSIGNALED(status) ? strsignal(WTERMSIG(status)) : "sanitizer");
	return result->failed = true;
}

static const char *mix_name(const struct options *o, uint64_t seed)
{
	return profiles[mix_of(o, seed)].name;
}

static void tell_failure(const struct options *o, const struct result *result, uint64_t seed)
{
	printf("FAILED: seed %" PRIu64 " (%s), op %d (%s)\n    %s\n", seed, mix_name(o, seed),
		result->op, result->text, result->reason);
	printf("    again: test_ledger --seeds %" PRIu64 " --ops %d%s%s%s --verbose, or --reduce\n",
		seed, o->ops, o->mix ? " --mix \"" : "", o->mix ? o->mix : "", o->mix ? "\"" : "");
}

struct tally {
	uint64_t seeds, failed;
	struct result sum;
};

static void add_up(struct tally *tally, const struct result *result)
{
	tally->seeds++;
	tally->failed += result->failed;
	tally->sum.checks += result->checks;
	tally->sum.crashes += result->crashes;
	tally->sum.figures += result->figures;
	tally->sum.sets += result->sets;
	tally->sum.removals += result->removals;
	tally->sum.freed_bytes += result->freed_bytes;
	tally->sum.slots += result->slots;
	tally->sum.golden += result->golden;
	tally->sum.self += result->self;
	tally->sum.shared += result->shared;
	tally->sum.snapshot += result->snapshot;
	tally->sum.placed += result->placed;
}

static int run_all(const struct options *o, struct result *results)
{
	uint64_t seeds[MAX_JOBS], next = o->first;
	pid_t pids[MAX_JOBS] = {0};
	struct tally tally = {0};

	for (int busy = 0; busy || next <= o->last;) {
		int slot = 0, status;
		pid_t pid;

		if (next <= o->last && busy < o->jobs) {
			while (pids[slot])
				slot++;
			seeds[slot] = next;
			pids[slot] = spawn(o, &results[slot], next++, NULL);
			busy++;
			continue;
		}
		pid = wait(&status);
		while (pids[slot] != pid)
			slot++;
		pids[slot] = 0;
		busy--;
		if (finish(&results[slot], status))
			tell_failure(o, &results[slot], seeds[slot]);
		add_up(&tally, &results[slot]);
	}
	printf("%" PRIu64 " times settled (%" PRIu64 " after crashes): %" PRIu64
	       " files and %" PRIu64 " sets; %" PRIu64 " removals of %" PRIu64 " MiB; %" PRIu64
	       " slots, %" PRIu64 " blocks found in images, %" PRIu64
	       " shared with others, %" PRIu64 " with snapshots, %" PRIu64
	       " with themselves; %" PRIu64 " full copies\n",
		tally.sum.checks, tally.sum.crashes, tally.sum.figures, tally.sum.sets,
		tally.sum.removals, tally.sum.freed_bytes / MIB, tally.sum.slots, tally.sum.golden,
		tally.sum.shared, tally.sum.snapshot, tally.sum.self, tally.sum.placed);
	printf("%" PRIu64 " passed, %" PRIu64 " failed (seeds %" PRIu64 "-%" PRIu64
	       ", %d operations)\n",
		tally.seeds - tally.failed, tally.failed, o->first, o->last, o->ops);
	return tally.failed || !tally.sum.checks;
}

/* Leaves out ever smaller stretches of operations while it fails without them. */
static int reduce(struct options o, struct result *result)
{
	CLEANUP_FREE uint8_t *keep = malloc((size_t)o.ops), *trial = malloc((size_t)o.ops);
	int kept = o.ops, status;

	memset(keep, 1, (size_t)o.ops);
	waitpid(spawn(&o, result, o.first, keep), &status, 0);
	if (!finish(result, status)) {
		printf("seed %" PRIu64 " does not fail\n", o.first);
		return 1;
	}
	o.ops = result->op + 1;
	for (int step = o.ops / 2; step; step /= 2) {
		for (int from = 0; from < o.ops; from += step) {
			int gone = 0;

			memcpy(trial, keep, (size_t)o.ops);
			for (int i = from; i < from + step && i < o.ops; i++) {
				gone += trial[i];
				trial[i] = 0;
			}
			if (!gone)
				continue;
			waitpid(spawn(&o, result, o.first, trial), &status, 0);
			if (finish(result, status))
				memcpy(keep, trial, (size_t)o.ops);
		}
	}
	for (int i = kept = 0; i < o.ops; i++)
		kept += keep[i];
	printf("%d operations are left:\n", kept);
	o.verbose = true;
	waitpid(spawn(&o, result, o.first, keep), &status, 0);
	finish(result, status);
	tell_failure(&o, result, o.first);
	return 0;
}

/* ---- main ---- */

static int usage(void)
{
	fprintf(stderr, "usage: test_ledger [--seeds A[-B]] [--ops N] [--jobs N] [--mix NAME]\n"
			"                   [--verbose] [--reduce]\n");
	return 2;
}

static int parse(struct options *o, int argc, char **argv)
{
	for (int i = 1; i < argc; i++) {
		const char *value = i + 1 < argc ? argv[i + 1] : "";
		char *end;

		if (strcmp(argv[i], "--verbose") == 0 || strcmp(argv[i], "--reduce") == 0) {
			*(argv[i][2] == 'v' ? &o->verbose : &o->reduce) = true;
			continue;
		}
		if (strcmp(argv[i], "--seeds") == 0) {
			o->first = o->last = strtoull(value, &end, 10);
			if (*end == '-')
				o->last = strtoull(end + 1, NULL, 10);
		} else if (strcmp(argv[i], "--ops") == 0) {
			o->ops = atoi(value);
		} else if (strcmp(argv[i], "--jobs") == 0) {
			o->jobs = atoi(value);
		} else if (strcmp(argv[i], "--mix") == 0) {
			o->mix = value;
		} else {
			return usage();
		}
		i++;
	}
	return o->last < o->first || o->ops < 1 || o->jobs < 1 || o->jobs > MAX_JOBS ? usage() : 0;
}

static uint64_t from_env(const char *name, uint64_t otherwise)
{
	const char *value = getenv(name);

	return value && *value ? strtoull(value, NULL, 10) : otherwise;
}

int main(int argc, char **argv)
{
	struct options options = {0};
	struct result *results;
	int rc;

	options.first = from_env("SEED", 1);
	options.last = options.first + from_env("SEEDS", 56) - 1;
	options.ops = (int)from_env("OPS", 400);
	options.jobs = (int)min_u64(from_env("JOBS", 1), MAX_JOBS);
	rc = parse(&options, argc, argv);
	if (rc)
		return rc;
	mallopt(M_MMAP_THRESHOLD, 64 * MIB);
	mallopt(M_TRIM_THRESHOLD, 512 * MIB);
	if (!options.verbose)
		log_open(LOG_TO_FILE, "/dev/null");
	results = mmap(NULL, sizeof(*results) * MAX_JOBS, PROT_READ | PROT_WRITE,
		MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (results == MAP_FAILED)
		return 1;
	return options.reduce ? reduce(options, results) : run_all(&options, results);
}
