/* SPDX-License-Identifier: MIT */
/*
 * Which small writes go straight to their place, past the ring.
 *
 * An append to the ring is the soonest answer there is, and the cheapest to sync; but what stands in the
 * ring has to be written a second time. While that happens behind a guest that pauses now and then it costs
 * nobody anything. Under a guest that writes without an end it costs as much as the first time, and the
 * guest waits for it. Announced by a record and written in place at once, as large writes are, such a block
 * costs more to begin with and nothing later. So small writes that overwrite what is in place take that way
 * once a file had STRAIGHT_AFTER writes, of any kind, since it was synced.
 *
 * Not before: whoever syncs now and then has to wait for what was written since, and a sync of the ring is
 * one sequential write, whatever the blocks (after 10,000 random writes 9 to 44 ms, in place 380 to 510). For
 * that reason a file that was synced in the last SYNCED_LATELY_NS keeps to the ring longer, until that is
 * half full. And not where a place is to be found first: the file system below may be busy with its own
 * journal for some hundred milliseconds then, and nobody waits for that before the ring.
 */
#include "core/fs_internal.h"

#include "base/times.h"

#define SYNCED_LATELY_NS (30 * TIMES_NS_PER_SECOND) /* what systems write back by themselves is not older */
#define STRAIGHT_AFTER 2048 /* of 4 KiB: 8 MiB */

void straight_note(struct inode *inode)
{
	atomic_fetch_add_explicit(&inode->unsynced_writes, 1, memory_order_relaxed);
}

void straight_synced(struct inode *inode)
{
	atomic_store_explicit(&inode->unsynced_writes, 0, memory_order_relaxed);
	atomic_store_explicit(&inode->synced_ns, times_now(CLOCK_MONOTONIC_COARSE), memory_order_relaxed);
}

/* Whether the next sync is to be expected soon. Once the ring is half full that counts no more, until it
 * came: to and fro would have the costs of both ways. */
static bool is_synced_lately(struct fs *fs, struct inode *inode)
{
	int64_t synced = atomic_load_explicit(&inode->synced_ns, memory_order_relaxed);

	if (!synced)
		return false;
	if (!journal_is_pressed(fs->journal) &&
		times_now(CLOCK_MONOTONIC_COARSE) - synced < SYNCED_LATELY_NS)
		return true;
	atomic_store_explicit(&inode->synced_ns, 0, memory_order_relaxed);
	return false;
}

bool straight_suits(struct fs *fs, struct inode *inode, struct layer *layer, uint64_t block)
{
	return fs->options.straight ||
	       (atomic_load_explicit(&inode->unsynced_writes, memory_order_relaxed) >= STRAIGHT_AFTER &&
		       !is_synced_lately(fs, inode) && layer_is_at_rest(layer, block) == 1);
}
