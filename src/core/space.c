/* SPDX-License-Identifier: MIT */
/*
 * Space below: whether a write of new data may be taken, what is kept back, and saying so in time.
 *
 * A write that needs new blocks is refused with -ENOSPC before it is acknowledged. What counts as
 * free is what the file system below says, less the reserve, less the blocks that wait in the ring
 * and have no place yet. That file system is asked a few times a second at most; in between what
 * was let through is subtracted, and near the end it is asked each time.
 *
 * The reserve is there for what must go on when everything is full: maps, checksums and catalog of
 * a checkpoint, so that discards, removals and overwrites reach the disk. Others fill that file
 * system too, so three quarters of the reserve are blocks that the store holds in a file of its
 * own, "reserve". It is emptied when a checkpoint finds no space, and filled again when there is
 * enough for others: two thirds when blocks have no place that fill half of the ring, the last
 * third only for maps and catalog. The rest of the reserve is only not given to clones.
 *
 * If others fill the file system below, acknowledged blocks stay in the ring, which has room for
 * them; carry.c keeps the ring moving. Nothing waits for space: who needs some and finds none gets
 * the error, after the checkpoint that gives back what was discarded or removed before.
 */
#include "core/fs_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <time.h>

#include "base/blocking.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/mutation.h"
#include "base/sizes.h"
#include "base/times.h"

#define SPACE_INTERVAL_NS 200000000 /* how long a look at the free space below is believed */
#define TIGHT_BYTES (64 * MIB)	    /* below that, large writes get their blocks beforehand */
#define MAX_TRIES 3		    /* checkpoints that one who needs space lets make it */
#define RESERVE_PATH "reserve"

/* ---- warnings ---- */

/* Per cent at which a word is due; it is taken back two per cent below. */
static const unsigned levels[] = {80, 90, 95};

unsigned space_level(unsigned level, uint64_t used, uint64_t total)
{
	/* In a way that cannot overflow: it errs by less than one per cent. */
	uint64_t percent = total < 100 ? (total ? min_u64(used, total) * 100 / total : 100) :
		min_u64(used / (total / 100), 100);
	unsigned now = 0;

	for (size_t i = 0; i < ARRAY_SIZE(levels); i++)
		if (percent >= levels[i] || (level >= levels[i] && percent + 2 >= levels[i]))
			now = levels[i];
	return now;
}

static void warn_if_full(struct fs *fs, uint64_t available)
{
	uint64_t total = atomic_load(&fs->space_total), used;
	unsigned level = atomic_load(&fs->space_level), now;

	total -= min_u64(total, fs->reserve_bytes);
	used = total - min_u64(total, available);
	now = space_level(level, used, total);
	if (now == level || !atomic_compare_exchange_strong(&fs->space_level, &level, now))
		return;
	if (now > level)
		log_warning("the file system of the store is %u %% full, %llu MiB are left; remove "
			    "clones, discard in the guests (fstrim), or make it larger",
			now, (unsigned long long)(available / MIB));
	else
		log_info("the file system of the store is below %u %% again, %llu MiB are left",
			level, (unsigned long long)(available / MIB));
}

const char *space_state(struct fs *fs, uint64_t left)
{
	unsigned level = atomic_load(&fs->space_level);

	if (!left)
		return "full";
	return level >= 95 ? "95% full" : level >= 90 ? "90% full" : level ? "80% full" : "ok";
}

/* ---- what is free ---- */

/* Bytes of blocks that stand in the ring only, checksums included. */
static uint64_t waiting_bytes(struct fs *fs)
{
	uint64_t bytes = atomic_load(&fs->fresh_blocks) * GF_BLOCK_SIZE;

	return bytes + bytes / 64;
}

/* What clones may still take, when the file system below has so many bytes free. */
static uint64_t available(struct fs *fs, uint64_t free)
{
	return less_u64(free + atomic_load(&fs->reserve_held),
		fs->reserve_bytes + waiting_bytes(fs));
}

int space_look(struct fs *fs, uint64_t *total, uint64_t *left)
{
	struct io_space space;
	int r = fs->io->ops->space(fs->io, &space);

	if (r)
		return r;
	atomic_store(&fs->space_total, space.total);
	atomic_store(&fs->space_free, space.free);
	atomic_store(&fs->space_time_ns, times_now(CLOCK_MONOTONIC_COARSE));
	*total = space.total;
	*left = available(fs, space.free);
	warn_if_full(fs, *left);
	return 0;
}

int space_check(struct fs *fs, uint64_t len)
{
	uint64_t free = atomic_load(&fs->space_free), total, left = available(fs, free);

	if (times_now(CLOCK_MONOTONIC_COARSE) - atomic_load(&fs->space_time_ns) >
			SPACE_INTERVAL_NS || left < len + MIB) {
		/* Without an answer the write itself will tell. */
		if (space_look(fs, &total, &left))
			return 0;
	}
	if (left < len)
		return -ENOSPC;
	/* What others take away meanwhile is seen by the next look. */
	free = atomic_load(&fs->space_free);
	while (!atomic_compare_exchange_weak(&fs->space_free, &free, less_u64(free, len)))
		;
	return 0;
}

bool space_is_tight(struct fs *fs)
{
	return available(fs, atomic_load(&fs->space_free)) < TIGHT_BYTES;
}

void space_given_back(struct fs *fs)
{
	atomic_store(&fs->space_time_ns, INT64_MIN / 2);
}

bool space_make(struct fs *fs, bool below)
{
	uint64_t before;
	bool buried;

	/* Others that needed space may have had it made while this one waited. */
	before = atomic_load(&fs->counters.checkpoints);
	about_to_block();
	MUTEX_GUARD(&fs->space_lock);
	if (atomic_load(&fs->given_up) || atomic_load(&fs->giving_back) || atomic_load(&fs->punches_due))
		checkpoint_run(fs);
	buried = below && bury_wait(fs);
	/* One that finds no space itself gives nothing back. */
	return buried || atomic_load(&fs->counters.checkpoints) != before;
}

int space_get(struct fs *fs, struct inode *inode, uint64_t bytes)
{
	bool made = true, below;
	int r = 0;

	/* Others may take what is given back, or hold what was to be. Where nothing is given back any
	 * more it may have been just now, after the look: so the last thing is a look. */
	for (int tries = 0; bytes; tries++) {
		r = space_check(fs, bytes);
		below = r != 0;
		if (!r && inode)
			r = limit_check(fs, inode, bytes, true);
		if (!r || tries == MAX_TRIES || !made)
			break;
		made = space_make(fs, below);
	}
	return r;
}

/* ---- the file that holds the reserve ---- */

/* What the file should have: most of the reserve, but not more than a checkpoint can use. */
static uint64_t wanted_bytes(struct fs *fs)
{
	uint64_t most = journal_size(fs->journal) + 16 * MIB;

	return round_down(min_u64(fs->reserve_bytes / 4 * 3, most), GF_BLOCK_SIZE);
}

static int resize_reserve(struct fs *fs, uint64_t bytes)
{
	const struct io_ops *ops = fs->io->ops;
	int fd = ops->open(fs->io, RESERVE_PATH, O_RDWR | O_CREAT), r;
	struct io_stat st;

	if (fd < 0)
		return fd;
	r = ops->stat(fs->io, fd, &st);
	if (!r && st.size > bytes)
		r = SITE("give the reserve back", ops->truncate(fs->io, fd, bytes));
	if (!r && bytes && st.allocated < bytes) {
		r = ops->allocate(fs->io, fd, 0, bytes);
		if (r)
			SITE("give a reserve back that is not whole", ops->truncate(fs->io, fd, 0));
	}
	ops->close(fs->io, fd);
	atomic_store(&fs->reserve_held, r ? 0 : bytes);
	space_given_back(fs);
	return r;
}

/* The part of the file that is for maps and catalog only. */
static uint64_t kept_for_maps(struct fs *fs)
{
	return round_down(wanted_bytes(fs) / 3, GF_BLOCK_SIZE);
}

uint64_t space_for_blocks(struct fs *fs)
{
	uint64_t held = atomic_load(&fs->reserve_held), kept = kept_for_maps(fs);
	struct io_space space;

	if (fs->io->ops->space(fs->io, &space))
		return UINT64_MAX;
	return less_u64(space.free, less_u64(kept, held));
}

void space_hold_reserve(struct fs *fs)
{
	uint64_t wanted = wanted_bytes(fs);
	struct io_space space = {0};
	int r;

	if (fs->options.read_only || atomic_load(&fs->reserve_held) == wanted)
		return;
	/* Clones come first: it must not take what they were told is theirs. */
	if (fs->io->ops->space(fs->io, &space) || !available(fs, space.free))
		return;
	r = resize_reserve(fs, wanted);
	if (r && r != -ENOSPC && r != -EOPNOTSUPP)
		log_warning("cannot hold the reserve of the store: %s", strerrordesc_np(-r));
}

bool space_give_reserve(struct fs *fs, bool for_data)
{
	uint64_t held = atomic_load(&fs->reserve_held);
	uint64_t kept = for_data ? kept_for_maps(fs) : 0;

	if (held <= kept || resize_reserve(fs, kept))
		return false;
	log_warning("the file system of the store is full; %llu MiB that were kept for this are "
		    "used now to write what is in the journal, make space soon",
		(unsigned long long)((held - kept) / MIB));
	return true;
}

void space_start(struct fs *fs)
{
	uint64_t total = 0, left;

	fs->reserve_bytes = 0;
	space_look(fs, &total, &left);
	fs->reserve_bytes =
		fs->options.reserve ? fs->options.reserve : max_u64(32 * MIB, total / 100);
	/* A small file system below (tests, trial runs) must not be all reserve. */
	if (!fs->options.reserve)
		fs->reserve_bytes = min_u64(fs->reserve_bytes, total / 10);
	if (!fs->options.read_only) {
		int fd = fs->io->ops->open(fs->io, RESERVE_PATH, O_RDONLY);
		struct io_stat st = {0};

		if (fd >= 0) {
			fs->io->ops->stat(fs->io, fd, &st);
			fs->io->ops->close(fs->io, fd);
			atomic_store(&fs->reserve_held, min_u64(st.size, st.allocated));
		}
		space_hold_reserve(fs);
	}
	space_given_back(fs);
}
