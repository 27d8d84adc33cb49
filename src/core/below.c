/* SPDX-License-Identifier: MIT */
/*
 * What a block that is about to be stored is compared with: the content below it, which it need not
 * repeat.
 *
 * Most of what guests write is new, and reading what stands below to learn that costs as much as
 * writing it; where a golden image is cold, a disk that seeks. The content index of the image knows
 * better: what it does not list is not there. So only the rest is read. An index forgets nothing but
 * what is damaged, and then somebody stores a block that he could have left out, until the store
 * settles and has it share the image's. Of what stands in a layer, in the ring or in the pool the checksum
 * tells the same: four bytes are read instead of a block, which after a snapshot may be anywhere on a cold
 * disk.
 *
 * Nor is it worth reading the maps of a long chain of snapshots after a mount, which may be hundreds of
 * reads for one block: each question reads a few, and so they come to be known.
 */
#include "core/fs_internal.h"

#include <errno.h>
#include <string.h>

#include "base/sizes.h"
#include "store/pool.h"

#define SUMS 64 /* at a time */
/* Map pages that a question may read: with more, what it finds is not worth it. And where nothing finds
 * later that the block stands below. */
#define LOADS 2
#define LOADS_FOR_GOOD 16

/* The golden image at the end of the chain below a layer; 0: none. fs.sharing held. */
static uint64_t bottom_golden(const struct layer *layer)
{
	layer = layer_bottom(layer);
	return layer->image ? layer->golden : 0;
}

/* Checksums of blocks that stand at x, the first of them block `block`; 0: not known. */
static int sums_of(struct fs *fs, const struct extent *x, uint64_t block, uint64_t skip, uint32_t *sums,
	size_t count)
{
	struct jentry entry;

	if (x->kind == EXTENT_DATA)
		return layer_read_sums(x->layer, block, sums, count);
	if (x->kind == EXTENT_POOL)
		return pool_read_sums(fs->pool, x->pos + skip, sums, count);
	for (size_t i = 0; i < count; i++)
		sums[i] = jindex_get(fs->jindex, x->layer->id, block + i, &entry) ? entry.sum : 0;
	return 0;
}

static uint32_t sum_of(struct fs *fs, const struct below *b, size_t i)
{
	const struct hash128 *hash = &b->hashes[i];

	/* Of zeros there may be none. */
	return hash->low || hash->high ? hash_sum(hash) :
		hash_block(fs->super.secret, b->data + i * GF_BLOCK_SIZE);
}

/* An error, or a checksum that is not that of what is there any more, costs a read or sharing. */
static void ask_sums(struct fs *fs, const struct below *b, const struct extent *x, size_t i, size_t end)
{
	const size_t first = i;
	uint32_t sums[SUMS];
	size_t n;

	for (; i < end; i += n) {
		n = min_u64(end - i, SUMS);
		if (!memchr(b->may + i, true, n) || sums_of(fs, x, b->block + i, i - first, sums, n))
			continue;
		for (size_t k = i; k < i + n; k++)
			if (sums[k - i] && sums[k - i] != sum_of(fs, b, k))
				b->may[k] = false;
	}
}

/* Blocks [i, end) stand below at x. */
static void ask_extent(struct fs *fs, const struct below *b, uint64_t golden,
	const struct extent *x, size_t i, size_t end)
{
	if (x->kind == EXTENT_ZERO) {
		for (; i < end; i++)
			b->may[i] &= is_zero(b->data + i * GF_BLOCK_SIZE, GF_BLOCK_SIZE);
		return;
	}
	/* A block that is cut is not what index or checksum tell of. */
	end = min_u64(end, less_u64(x->limit / GF_BLOCK_SIZE, b->block));
	if (x->kind == EXTENT_IMAGE)
		golden_index_rule_out(fs, golden,
			&(struct golden_question){.data = b->data + i * GF_BLOCK_SIZE,
				.hashes = b->hashes + i, .may = b->may + i,
				.count = end > i ? end - i : 0});
	else if (x->kind != EXTENT_GOLDEN && x->layer)
		ask_sums(fs, b, x, i, end);
}

bool below_may_be_same(struct fs *fs, struct layer *layer, const struct below *b)
{
	unsigned loads = fs->options.dedup == FS_DEDUP_ALL ? LOADS : LOADS_FOR_GOOD;
	uint64_t golden = bottom_golden(layer);
	unsigned token;

	if (!memchr(b->may, true, b->count))
		return false;
	token = drain_enter(&fs->readers);
	for (size_t i = 0; i < b->count;) {
		struct extent x;
		int r = layer_resolve_below(layer, b->block + i, b->count - i, &loads, &x);

		if (r == -EAGAIN) {
			memset(b->may + i, 0, b->count - i);
			break;
		}
		/* Whoever reads it will meet the error. */
		if (r)
			x = (struct extent){.kind = EXTENT_DATA, .count = b->count - i};
		ask_extent(fs, b, golden, &x, i, i + x.count);
		i += x.count;
	}
	drain_leave(&fs->readers, token);
	return memchr(b->may, true, b->count);
}

int below_read(struct fs *fs, struct layer *layer, const struct below *b, uint8_t *to)
{
	unsigned token = drain_enter(&fs->readers);
	int r = 0;

	for (size_t i = 0, n; i < b->count && !r; i += n) {
		for (n = 0; i + n < b->count && b->may[i + n]; n++)
			;
		if (n)
			r = volume_read_blocks(fs, layer, to + i * GF_BLOCK_SIZE, b->block + i, n,
				READ_BELOW);
		n += i + n < b->count; /* one that is not asked for */
	}
	drain_leave(&fs->readers, token);
	return r;
}
