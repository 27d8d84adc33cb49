/* SPDX-License-Identifier: MIT */
/* The operations of the random workloads that sync, restart and break; and the mixes of all. */
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/sizes.h"
#include "core/fs_internal.h"
#include "workload_internal.h"

static int sync_one(struct run *run, const char *what, int (*sync)(struct fs *fs, uint64_t ino))
{
	struct model_entry *entry = pick_entry(run, MODEL_FILE);
	struct model_object *object;
	uint64_t mark;
	int r;

	if (!entry)
		return 0;
	object = object_of(run, entry);
	say(run, "%s \"%s\"", what, entry->path);
	mark = model_tree_mark(run->model);
	r = UNLOCKED(run, sync(run->fs, object->ino));
	if (!r)
		model_synced(run->model, object, mark);
	return verdict(run, r);
}

int op_fsync(struct run *run)
{
	return sync_one(run, "fsync", sync_file);
}

/* As a verb does that has changed the file. */
int op_sync_file(struct run *run)
{
	return sync_one(run, "sync", fs_sync_file);
}

int op_sync_names(struct run *run)
{
	uint64_t mark = model_tree_mark(run->model);
	int r;

	say(run, "sync names");
	r = fs_sync_journal(run->fs);
	if (!r)
		model_tree_synced(run->model, mark);
	return verdict(run, r);
}

int op_sync(struct run *run)
{
	int r;

	say(run, "sync all");
	r = fs_sync(run->fs);
	if (!r)
		model_synced_all(run->model);
	return verdict(run, r);
}

int op_settle(struct run *run)
{
	say(run, "settle");
	return verdict(run, fs_settle(run->fs));
}

static int check_now(struct run *run, enum model_mode mode, bool thorough)
{
	struct model_view view;
	const char *figures;
	int r = view_take(&view, run->fs);

	if (r)
		run_fail(run, "%s: the tree cannot be listed: %s", run->text, strerror(-r));
	else if (model_check(run->model, &view, mode, thorough))
		run_fail(run, "%s: %s", run->text, model_reason(run->model));
	else if (mode == MODEL_POWER && model_adopt(run->model, &view))
		run_fail(run, "%s: adopting: %s", run->text, model_reason(run->model));
	else if ((figures = view_figures(&view, run->fs)))
		run_fail(run, "%s: figures: %s", run->text, figures);
	view_release(&view);
	return *run->reason ? -1 : 0;
}

int op_check(struct run *run)
{
	say(run, "compare everything");
	return check_now(run, MODEL_EXACT, below(run, 4) == 0);
}

static int reopen(struct run *run, bool takeover)
{
	int r;

	run->failing = false;
	r = run_open(run, run->disk, &run->board, takeover, &run->fs);
	return r ? run_fail(run, "%s: fs_open: %s", run->text, strerror(-r)) : 0;
}

int op_power(struct run *run)
{
	enum simdisk_policy policy = (enum simdisk_policy)below(run, SIMDISK_POLICIES);
	struct simdisk *old = run->disk;
	say(run, "power loss, %s", simdisk_policy_name(policy));
	fs_abandon(steal_pointer(&run->fs));
	simdisk_set_hook(old, NULL, NULL);
	run->disk = simdisk_crash(old, policy, rng_next(&run->rng));
	simdisk_free(old);
	if (reopen(run, false) || check_now(run, MODEL_POWER, false))
		return -1;
	simdisk_set_hook(run->disk, run->hook, run);
	return 0;
}

/*
 * A process dies, and another one takes over or mounts anew. Some have a large write of somebody else's on
 * its way all the time, so that whoever takes over from them has nobody's word for what they wrote.
 */
int op_kill(struct run *run)
{
	bool takeover = below(run, 3) > 0, held_up = below(run, 2) == 0;

	if (run->failing)
		return op_power(run);
	say(run, "process death%s%s", takeover ? ", taken over" : "", held_up ? ", a write is held up" : "");
	fs_abandon(steal_pointer(&run->fs));
	if (reopen(run, takeover))
		return -1;
	if (held_up)
		in_flight_begin(&run->board, journal_last_seq(run->fs->journal) + 1);
	return check_now(run, MODEL_EXACT, false);
}

int op_remount(struct run *run)
{
	int r;

	if (run->failing)
		return op_power(run);
	say(run, "remount");
	/* Without space the rest stays in the journal. */
	r = fs_close(steal_pointer(&run->fs));
	if (verdict(run, r) || reopen(run, false))
		return -1;
	if (!r)
		model_synced_all(run->model);
	return check_now(run, MODEL_EXACT, false);
}

/* Something below breaks soon. */
int op_fault(struct run *run)
{
	static const enum simdisk_op ops[] = {SIMDISK_FDATASYNC, SIMDISK_FDATASYNC, SIMDISK_PWRITE,
		SIMDISK_PUNCH, SIMDISK_SYNCDIR, SIMDISK_RENAME, SIMDISK_OPEN};
	enum simdisk_op op = ops[below(run, ARRAY_SIZE(ops))];
	int err = op == SIMDISK_PWRITE && below(run, 2) ? -ENOSPC : -EIO;
	uint64_t nth = 1 + below(run, 6);
	bool sticky = below(run, 4) == 0;

	say(run, "fault: %s number %" PRIu64 " gives %s%s", simdisk_op_name(op), nth,
		strerror(-err), sticky ? ", and all later ones" : "");
	simdisk_fail(run->disk, op, nth, err, sticky, NULL);
	run->failing = true;
	return 0;
}

/* ---- mixes ---- */

/* Designated, so that what a mix does not say is zero. */
#define MIX(name_, journal, capacity_, faults_, big_, ...) \
	{.name = name_, .journal_size = journal, .capacity = capacity_, .faults = faults_, \
		.big = big_, .weights = __VA_ARGS__}

const struct profile profile_threads =
	MIX("threads", MIB, TIB, 0, 4, "sssshhhh555bbbLLLLllllzgpprrttyfffffffcCRux113");
const struct profile profile_threads_dedup =
	MIX("threads, repeated", MIB, TIB, 0, 4, "sssshhh55bLLLLLLllEEEEEEzgpprttyfffffffcCRuxe11223366",
		.dedup = true);

/* Files that go on and on in layers of their own, while others read through those below. */
const struct profile profile_threads_deep =
	MIX("threads, deep", MIB, TIB, 0, 4, "sLCsLChCCsRhLlzptrCCubCfffeC");

static const struct {
	char letter;
	int (*run)(struct run *run);
} op_table[] = {
#define ENTRY(letter, name) {letter, name},
	CONTENT_OPS(ENTRY) NAME_OPS(ENTRY) SNAPSHOT_OPS(ENTRY) RESTART_OPS(ENTRY) RECAST_OPS(ENTRY)
#undef ENTRY
};

const struct profile profiles[] = {
	MIX("mixed", MIB, TIB, 0, 4, "sshh55bbLLllzgprtyndDcccCCCRwuUmMxxfffSe?PKO"),
	MIX("small", MIB, TIB, 0, 4, "ssssssssshhhhhh55555bbbbbzgcccCnfffSe?K"),
	MIX("hot", MIB, TIB, 0, 4, "hhhhhhhhhhhhhhLLlprccCffS?PK"),
	MIX("large over small", MIB, TIB, 0, 4, "sss555hhLLLLLLlllllzpccCfffffSe?PK"),
	MIX("other's flush", 2 * MIB, TIB, 0, 4, "LLLLLLllhhccCffffffffff?P"),
	MIX("clones", MIB, TIB, 0, 4, "shhbLLlcccCCCCCCCCCRRRwwuUfffSe?PKO"),
	MIX("names", MIB, TIB, 0, 4, "shLnnnndddDDcccCRRwuuUmmmmMMxxxxxfSe?PKO"),
	MIX("discard", MIB, TIB, 0, 4, "sshbLLlzzzggggpppppprrrrttttccCffSe?PK"),
	MIX("full ring", MIB, TIB, 0, 4, "sssssssssssssssssss5b5bhhhhLccC?f"),
	MIX("settling", MIB, TIB, 0, 4, "sshhbLLlzprtcCCRufSeeeeeeee?POOO"),
	MIX("regions", MIB, TIB, 0, 60, "ssss55bbLLllzgpprttycccCCCRwffSe?PKO"),
	MIX("full disk", MIB, 2816 * KIB, 0, 0, "ssshhbbLLLLLllzppttcccCCCCRuuufSeee?P"),
	MIX("faults", MIB, TIB, 25, 4, "sshhbbLLLllzprtcccCCRuumxffffSe?POKKK"),
	MIX("power", MIB, TIB, 0, 4, "sshhbbLLllzgprtcCCRumxfffSPPPPPKKKKO?"),
	MIX("sub-block", MIB, TIB, 0, 4, "555555555bbbbbbbblllhscCffSe?PK"),
	MIX("zero range", MIB, TIB, 0, 4, "sshLLlrrrrrrrrrzztcCffSe?PK"),
	MIX("clone being written", MIB, TIB, 0, 4, "shLlCsLhCllRCsLCuffeK"),
	MIX("freeze in flight", MIB, TIB, 0, 4, "LLLLLLlCCCCRhfff?PKe"),
	MIX("unlink while open", MIB, TIB, 0, 4, "sLUUUUUUcCCRufe?PK"),
	MIX("rename", MIB, TIB, 0, 4, "sLmmmmmmmmmMMddncCuRff?PKOe"),
	MIX("truncate", MIB, TIB, 0, 4, "shLLttttttttttpcCffe?PK"),
	MIX("recovery", MIB, TIB, 0, 4, "sshLLLlzprtcCRufSKe", .recovery = true),
	MIX("remount", MIB, TIB, 0, 4, "shLlptcCRuUmxfOOOOOOee"),
	MIX("deep chain", MIB, TIB, 0, 2, "sLCsCLChCuCsCffe?PK"),
	MIX("batches", MIB, TIB, 0, 2, "sLcCCCCcRuuuuuffe?PKO", .files = 24),
	MIX("growing copies", MIB, TIB, 0, 10, "sLhwwwwwwwywyuuutff?PKe"),
	MIX("attributes", MIB, TIB, 0, 4, "saaaaaaaxxxxxxnddcCRmuffSe?PKO"),
	MIX("links and folders", MIB, TIB, 0, 4, "kkkkkkjjjddddDDMMmnncuaxffSe?PKO"),
	MIX("ring wraps", MIB, TIB, 0, 4, "ssssssss5555hhhhhhbbbbLfffffffe?PK"),
	MIX("pressure", MIB, TIB, 0, 4, "ssssshhhhbbLLLLLLLLLLlllzcCCfe?P"),
	MIX("many clones", MIB, TIB, 0, 2, "sshLcccccCCCCCRufSe?PK", .files = 32),
	MIX("pins", MIB, TIB, 0, 8, "sLccccccRRRuuuuuuuuffeee?PKOO"),
	MIX("sparse disk", MIB, TIB, 0, 30, "TTTTsss5bbLLLlpprrzCcCuffSe?PK", .files = 5),
	MIX("last block", MIB, TIB, 0, 0, "sssshh5bbLLLLllzpprrttttnnCCCRufffSe?PKO", .no_golden = true,
		.files = 5, .shift = GF_MAX_SIZE - MAX_SIZE),
	MIX("unseen blocks", MIB, TIB, 0, 4, "ssshLLCCCCRRRuuptttfeeeeeeee?PK"),
	MIX("discard and rewrite", MIB, TIB, 0, 4, "LLLLssspppppppphhhrrrffeee?PK"),
	MIX("full disk, discards", MIB, 2560 * KIB, 0, 0, "sshbLLLlpppppprtttcCCuuufSeee?PO"),
	MIX("faults, large", MIB, TIB, 20, 0, "LLLLLLlllhpcCRuffff?POK"),
	MIX("sync all", MIB, TIB, 0, 4, "sLLLllhcCCRUumxSSSSSS?P"),
	MIX("repeated content", MIB, TIB, 0, 4, "sshh5LLLlEEEEEEzgprtcccCRufffSeee?PKO", .dedup = true),
	MIX("repeated, large", 2 * MIB, TIB, 0, 4, "LLLLLLLlEEEEEEphcCRufffSee?PK", .dedup = true),
	MIX("repeated, clones", MIB, TIB, 0, 4, "sLLEEEEhbcCCCCCRRuuuUptffeeee?PKO", .dedup = true),
	MIX("repeated, recovery", MIB, TIB, 0, 4, "ssLLEEEEphtcCRufSKeePO", .dedup = true,
		.recovery = true),
	MIX("repeated, faults", MIB, TIB, 25, 4, "sshLLLlEEEEEprtcCCRuuffffSeee?POKK", .dedup = true),
	MIX("repeated, full disk", MIB, 2816 * KIB, 0, 0, "sshhLLLLEEEEEppttcCCRuuufSeee?PO",
		.dedup = true),
	MIX("repeated, unseen", MIB, TIB, 0, 4, "ssLLEEEECCCCRRuupttfeeeeeee?PK", .dedup = true),
	MIX("repeated, collisions", MIB, TIB, 0, 4, "ssLLLLEEEEEEgprtccCCRufSeeee?PKO", .dedup = true,
		.hash_bits = 8),
	MIX("repeated, domains", MIB, TIB, 0, 4, "ssLLEEEEEEddnncCCRwuummMMooootfeeeee?PKO", .dedup = true),
	MIX("domains, faults", MIB, TIB, 25, 4, "sLLEEEEEddnncCRwummMooofeeee?PKO", .dedup = true),
	MIX("snapshots", MIB, TIB, 0, 4, "sshb5LLlzptqqqqQQQQvvNiVCcuBBJfSe?PKO"),
	MIX("snapshots, names", MIB, TIB, 0, 4, "sLddDDqqqqqQQvNXViuUmmmmmmMMMRnwJJfe?PKO"),
	MIX("snapshots, in flight", MIB, TIB, 0, 4, "LLLLLLLlsshqqqqQQQvVfBB?PK"),
	MIX("snapshots, recovery", MIB, TIB, 0, 4, "shLLlptqqqQQQvViuBJSKe", .recovery = true),
	MIX("snapshots, repeated", MIB, TIB, 0, 4, "sLLEEEEhbqqqQQQvvViCcRuptffeeee?PKO",
		.dedup = true),
	MIX("snapshots, unseen", MIB, TIB, 0, 10, "ssLLTrptqqqqQQQvvvvVViCuXfeeeeeee?PK"),
	MIX("snapshots, faults", MIB, TIB, 25, 4, "sshLLLlpqqqQQQvViCuufffSe?POKK"),
	MIX("snapshots, full disk", MIB, 2816 * KIB, 0, 0, "sshLLLlppttqqqQQQvvvViCXuufSeee?PO"),
	/* The life of images: what `make check-life` does. */
	MIX("life", MIB, TIB, 0, 6, "sshhb5LLLlzgppprttqqqqQQQQvvvNXiVVVVcCCRwuuUmdDMfBJSe?PKO1112223346644GGWW"),
	MIX("life, repeated", MIB, TIB, 0, 6, "ssLLLEEEEhbpprtqqqqQQQQvvvNXiVVVVcCCRuuUmffBJSe?PKO1112223346644GGWW",
		.dedup = true),
	MIX("promotion", MIB, TIB, 0, 4, "sshLLlzptcCCGGGGGGWWWWRuufffSee?PKO"),
	MIX("rebase", MIB, TIB, 0, 2, "sshLLl6666gprtcCCRu111114fffSee?PKO"),
	MIX("rebase, repeated", MIB, TIB, 0, 2, "sshLLl666EEgprtcCCRu111114fffSee?PKO", .dedup = true),
	MIX("another mode", MIB, TIB, 0, 2, "sshLLl66EEgprtcCCRu222224fffSee?PKO", .dedup = true),
	MIX("fold", MIB, TIB, 0, 2, "sLhLlpCsCL6Ch33uCsRC334ffSee?PKO"),
	MIX("fold, repeated", MIB, TIB, 0, 2, "sLhLEEpCsCLE6Ch33uCRC3341ffSee?PKO", .dedup = true),
	MIX("recast, faults", MIB, TIB, 25, 2, "sshLLl666EprtcCCRu112234ffffSe?POKK", .dedup = true),
	MIX("recast, full disk", MIB, 2816 * KIB, 0, 0, "sshLLl66EEpprttcCCRuu112234ffSee?PO",
		.dedup = true),
	MIX("recast, snapshots", MIB, TIB, 0, 2, "sLLl66hpqqqqQQvvViCRu11123344fSe?PKO"),
	MIX("recast, snapshots, repeated", MIB, TIB, 0, 2, "sLL666EhpqqqqQQvvViCRu11123344feee?PKO",
		.dedup = true),
	MIX("recast, snapshots, faults", MIB, TIB, 25, 2, "sLL66EhpqqqQQvvViCRu11123344ffSe?POKK",
		.dedup = true),
	MIX("recast, recovery", MIB, TIB, 0, 2, "sLL666EhpcCRu1112234fSKePO", .dedup = true,
		.recovery = true),
};
const int profile_count = (int)ARRAY_SIZE(profiles);
_Static_assert(ARRAY_SIZE(profiles) <= PROFILES_MAX, "tables of workloads are too small");

static int run_letter(struct run *run, char letter)
{
	for (size_t i = 0; i < ARRAY_SIZE(op_table); i++) {
		if (op_table[i].letter == letter)
			return op_table[i].run(run);
	}
	abort();
}

int run_one_op(struct run *run)
{
	const char *weights = run->profile->weights;

	rng_seed(&run->rng, rng_scramble(run->seed * 1000003 + (uint64_t)run->op));
	*run->text = 0;
	/* Something to work on. */
	if (file_count(run) < 2)
		return run->profile->no_golden ? op_create(run) : op_clone_golden(run);
	if (run->profile->faults && below(run, run->profile->faults) == 0)
		return op_fault(run);
	return run_letter(run, weights[below(run, strlen(weights))]);
}
