/* SPDX-License-Identifier: MIT */
/*
 * Making checksums true again after a crash.
 *
 * A crash may leave a block in place that is new while its checksum is old, the other way round, or
 * some sectors of each: all right for who reads it, who was not promised more, but its checksum
 * says nothing. There are two sorts:
 *
 *   doubts    blocks that an uncommitted announcement in the ring touched and did not explain.
 *             They are known one by one (found.c), and their checksums are made true before
 *             anything is served.
 *   suspects  after power loss, blocks whose announcement was lost itself. Only regions with an
 *             intent mark have them, so these regions are suspect, in the catalog too, until all
 *             of their checksums were looked at: when somebody reads, by scrub, or here, a region
 *             a second.
 *
 * Everywhere else a block that does not match is damaged.
 */
#include "core/fs_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/sizes.h"
#include "store/region.h"

#define HEAL_BLOCKS 64 /* read at once */

/* ---- doubts ---- */

/*
 * Also where the block is not in place: what a power loss left there may be some sectors of what was
 * announced, beside the checksum of all. Announced once more, and not written before the process dies, it
 * would look like damage.
 */
int doubt_end(struct fs *fs, struct layer *layer, uint64_t block)
{
	uint8_t bytes[GF_BLOCK_SIZE];
	uint32_t sum;
	int64_t n;
	int in_place = layer_any_overlay(layer, block, 1), r;

	if (in_place < 0)
		return in_place;
	r = layer_read_data(layer, bytes, sizeof(bytes), block * GF_BLOCK_SIZE);
	if (r)
		return r == -EUCLEAN || r == -EIO ? 0 : r;
	n = layer_compare_sums(layer, bytes, block, 1);
	/* Nothing is owed where the block is not, and a checksum that is lost equals no other. */
	if (n)
		return n < 0 && in_place ? (int)n : 0;
	sum = hash_block(fs->super.secret, bytes);
	if (!fs->options.read_only)
		r = layer_write_sums(layer, block, &sum, 1);
	if (!in_place)
		return r == -ENOSPC || r == -EIO ? 0 : r;
	if (fs->options.read_only || r == -ENOSPC || r == -EIO)
		r = layer_note_sums(layer, block, &sum, 1);
	return r;
}

/* ---- suspects ---- */

int suspect_marked(struct fs *fs)
{
	struct layer_entry *entry, *next;
	int r = 0;

	HASH_ITER (hh, fs->layers, entry, next)
		if (!r)
			r = layer_suspect_marked(entry->layer);
	return r;
}

/* Blocks of one run that do not match become right; what cannot be read is left as it is. */
static int heal_run(struct fs *fs, struct layer *layer, uint8_t *buf, uint64_t block,
	uint64_t count)
{
	int r = layer_read_data(layer, buf, count * GF_BLOCK_SIZE, block * GF_BLOCK_SIZE);

	for (uint64_t i = 0; i < count && !r; i++) {
		int64_t n = layer_compare_sums(
			layer, buf + i * GF_BLOCK_SIZE, block + i, count - i);
		int verdict;

		if (n < 0)
			return (int)n;
		i += (uint64_t)n;
		if (i == count)
			break;
		verdict = layer_judge_block(layer, buf, block + i, false);
		if (verdict < 0)
			return verdict;
		if (verdict == VERDICT_HEALED)
			COUNT(fs, healed_blocks, 1);
	}
	return r;
}

int heal_region(struct fs *fs, struct layer *layer, uint32_t region)
{
	CLEANUP_FREE struct region_view *view = malloc(sizeof(*view));
	CLEANUP_FREE uint8_t *buf = malloc(HEAL_BLOCKS * GF_BLOCK_SIZE);
	uint64_t base = (uint64_t)region * GF_REGION_BLOCKS;
	int r;

	if (!view || !buf)
		return -ENOMEM;
	r = layer_view_region(layer, region, view);
	for (uint32_t i = 0, n; i < GF_REGION_BLOCKS && !r; i += n) {
		n = 1;
		if (!region_view_is(view, i, GF_OVERLAY))
			continue;
		while (n < HEAL_BLOCKS && i + n < GF_REGION_BLOCKS &&
			region_view_is(view, i + n, GF_OVERLAY))
			n++;
		r = heal_run(fs, layer, buf, base + i, n);
	}
	if (!r)
		layer_clear_suspect(layer, region);
	atomic_store(&fs->changed, true);
	return r;
}

/* A layer with something suspect, held. */
static struct layer *next_suspect(struct fs *fs)
{
	struct layer_entry *entry, *next;
	struct layer *found = NULL;

	pthread_rwlock_rdlock(&fs->tree);
	HASH_ITER (hh, fs->layers, entry, next)
		if (!found && atomic_load(&entry->layer->suspect_count))
			found = entry->layer;
	if (found)
		atomic_fetch_add(&found->users, 1);
	pthread_rwlock_unlock(&fs->tree);
	return found;
}

bool heal_some(struct fs *fs)
{
	struct layer *layer = fs->heal_failed || fs_writable(fs) ? NULL : next_suspect(fs);
	uint32_t region, count;

	if (!layer)
		return false;
	region = layer_next_suspect(layer, 0, &count);
	/* What cannot be read stays suspect; the next mount tries again. */
	if (region != LAYER_NO_REGION && heal_region(fs, layer, region))
		fs->heal_failed = true;
	atomic_fetch_sub(&layer->users, 1);
	return true;
}
