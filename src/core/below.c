/* SPDX-License-Identifier: MIT */
/*
 * What a block that is about to be stored is compared with: the content below it, which it need not
 * repeat.
 *
 * Most of what guests write is new, and reading what stands below to learn that costs as much as
 * writing it; where a golden image is cold, a disk that seeks. The content index of the image knows
 * better: what it does not list is not there. So only the rest is read. An index forgets nothing but
 * what is damaged, and then somebody stores a block that he could have left out, until the store
 * settles and has it share the image's.
 */
#include "core/fs_internal.h"

#include <string.h>

#include "base/sizes.h"

/* The golden image at the end of the chain below a layer; 0: none. fs.sharing held. */
static uint64_t bottom_golden(const struct layer *layer)
{
	layer = layer_bottom(layer);
	return layer->image ? layer->golden : 0;
}

/* Blocks [i, end) stand below at x. */
static void ask_extent(struct fs *fs, const struct below *b, uint64_t golden,
	const struct extent *x, size_t i, size_t end)
{
	if (x->kind == EXTENT_ZERO) {
		for (; i < end; i++)
			b->may[i] &= is_zero(b->data + i * GF_BLOCK_SIZE, GF_BLOCK_SIZE);
	} else if (x->kind == EXTENT_IMAGE) {
		/* A block that is cut is not what the index has. */
		size_t whole = min_u64(end, less_u64(x->limit / GF_BLOCK_SIZE, b->block));

		golden_index_rule_out(fs, golden,
			&(struct golden_question){.data = b->data + i * GF_BLOCK_SIZE,
				.hashes = b->hashes + i, .may = b->may + i,
				.count = whole > i ? whole - i : 0});
	}
}

bool below_may_be_same(struct fs *fs, struct layer *layer, const struct below *b)
{
	unsigned token = drain_enter(&fs->readers);
	uint64_t golden = bottom_golden(layer);

	for (size_t i = 0; i < b->count;) {
		struct extent x;

		/* Whoever reads it will meet the error. */
		if (layer_resolve(layer, b->block + i, b->count - i, true, &x))
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
