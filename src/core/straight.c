/* SPDX-License-Identifier: MIT */
/*
 * Which small writes go straight to their place, past the ring.
 *
 * An append to the ring is the soonest answer there is, and the cheapest to sync; but what stands in the
 * ring has to be written a second time. While that happens behind a guest that pauses now and then it costs
 * nobody anything. Under a guest that writes without an end it costs as much as the first time, and the
 * guest waits for it. Announced by a record and written in place at once, as large writes are, such a block
 * costs more to begin with and nothing later. So small writes take that way when they overwrite what is in
 * place and
 *
 *   - the ring is half full: blocks do not get out of it as fast as they come in;
 *   - or several are under way at the same time: processors have enough to do then, and nobody waits for the
 *     single answer.
 *
 * Not where a place is to be found first: the file system below may be busy with its own journal for some
 * hundred milliseconds then, and nobody waits for that before the ring. And never for a file that is synced
 * now and then (STRAIGHT_AFTER): syncing the ring is one sequential write, whatever the blocks.
 */
#include "core/fs_internal.h"

#define STRAIGHT_AFTER 256 /* writes to a file since it was synced last; of 4 KiB: 1 MiB */

void straight_begin(struct inode *inode)
{
	bool alone = atomic_fetch_add(&inode->writing, 1) == 0;

	atomic_fetch_add_explicit(&inode->unsynced_writes, 1, memory_order_relaxed);
	if (!alone)
		atomic_fetch_add_explicit(&inode->crowded_writes, 1, memory_order_relaxed);
}

void straight_end(struct inode *inode, bool straight)
{
	atomic_fetch_sub(&inode->writing, 1);
	atomic_store_explicit(&inode->straight, straight, memory_order_relaxed);
}

void straight_synced(struct inode *inode)
{
	atomic_store_explicit(&inode->unsynced_writes, 0, memory_order_relaxed);
	atomic_store_explicit(&inode->crowded_writes, 0, memory_order_relaxed);
	atomic_store_explicit(&inode->pressing, false, memory_order_relaxed);
}

/* Several at a time is how most of them come. */
static bool is_crowded(const struct inode *inode)
{
	unsigned crowded = atomic_load_explicit(&inode->crowded_writes, memory_order_relaxed);

	return crowded >= STRAIGHT_AFTER &&
	       crowded > atomic_load_explicit(&inode->unsynced_writes, memory_order_relaxed) / 2;
}

bool straight_suits(struct fs *fs, struct inode *inode, struct layer *layer, uint64_t block)
{
	if (fs->options.straight)
		return true;
	/* Until it is synced: to and fro would have both costs. */
	if (atomic_load_explicit(&inode->unsynced_writes, memory_order_relaxed) >= STRAIGHT_AFTER &&
		journal_is_pressed(fs->journal))
		atomic_store_explicit(&inode->pressing, true, memory_order_relaxed);
	return (is_crowded(inode) || atomic_load_explicit(&inode->pressing, memory_order_relaxed)) &&
	       layer_is_at_rest(layer, block) == 1;
}
