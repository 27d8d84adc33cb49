/* SPDX-License-Identifier: MIT */
/*
 * What recovery found of blocks in place.
 *
 * Many records may announce the same block: a guest that writes a GiB over and over leaves sixteen of
 * them. The block is read once, and its checksum compared with that of each. It is written again once,
 * too (apply.c says why). What no record explains in the end is in doubt (heal.c).
 *
 * Kept by pieces of 64 KiB, large enough for large writes and small enough for small ones: a million
 * blocks that stand alone, about as many as there can be, take 185 MB for as long as recovery takes.
 */
#include "core/fs_internal.h"

#include <errno.h>
#include <stdlib.h>

#include "base/mutation.h"
#include "base/sizes.h"

#define BLOCKS 16 /* of a piece */

enum {
	KNOWN = 1, /* it was read, and its checksum is `sum` */
	EMPTY = 2, /* zeros */
	AGAIN = 4, /* it was written again */
	DOUBT = 8,
};

struct found {
	struct found_key {
		uint64_t layer;
		uint64_t piece;
	} key;
	struct layer *layer; /* lives: nothing is freed during recovery */
	uint32_t sum[BLOCKS];
	uint8_t flags[BLOCKS];
	UT_hash_handle hh;
};

static struct found *find(const struct fs *fs, const struct layer *layer, uint64_t block)
{
	const struct found_key key = {layer->id, block / BLOCKS};
	struct found *found;

	HASH_FIND(hh, fs->found, &key, sizeof(key), found);
	return found;
}

/* NULL: no memory. */
static struct found *find_or_add(struct fs *fs, struct layer *layer, uint64_t block)
{
	struct found *found = find(fs, layer, block);

	if (found)
		return found;
	found = calloc(1, sizeof(*found));
	if (!found)
		return NULL;
	found->key = (struct found_key){layer->id, block / BLOCKS};
	found->layer = layer;
	HASH_ADD(hh, fs->found, key, sizeof(found->key), found);
	return found;
}

bool found_tells(struct fs *fs, const struct layer *layer, uint64_t block, const uint32_t *sums,
	uint32_t count, bool *there, bool *empty)
{
	const struct found *found = NULL;

	for (uint32_t i = 0; i < count; i++) {
		unsigned at = (block + i) % BLOCKS;

		if (!i || !at)
			found = find(fs, layer, block + i);
		if (!found || !(found->flags[at] & KNOWN))
			return false;
		there[i] = found->sum[at] == sums[i];
		empty[i] = found->flags[at] & EMPTY;
		/* What is to be written again has to be read. */
		if (there[i] && !(found->flags[at] & AGAIN) &&
			!MUTATED("recovery writes only what it found at first again"))
			return false;
	}
	return true;
}

void found_note(struct fs *fs, struct layer *layer, uint64_t block, uint32_t sum, bool again, bool empty)
{
	struct found *found = find_or_add(fs, layer, block);

	if (!found)
		return; /* it is read again */
	found->sum[block % BLOCKS] = sum;
	found->flags[block % BLOCKS] |= KNOWN | (empty ? EMPTY : 0) | (again ? AGAIN : 0);
}

int found_doubt(struct fs *fs, struct layer *layer, uint64_t block, uint64_t count)
{
	struct found *found = NULL;

	for (uint64_t i = 0; i < count; i++) {
		unsigned at = (block + i) % BLOCKS;

		if (!i || !at)
			found = find_or_add(fs, layer, block + i);
		if (!found)
			return -ENOMEM;
		found->flags[at] |= DOUBT;
	}
	return 0;
}

void found_explained(struct fs *fs, const struct layer *layer, uint64_t block, uint64_t count)
{
	struct found *found = NULL;

	for (uint64_t i = 0; i < count; i++) {
		unsigned at = (block + i) % BLOCKS;

		if (!i || !at)
			found = find(fs, layer, block + i);
		if (found)
			found->flags[at] &= (uint8_t)~DOUBT;
	}
}

int found_end(struct fs *fs, int r)
{
	struct found *found, *next;

	HASH_ITER (hh, fs->found, found, next) {
		for (unsigned i = 0; i < BLOCKS && !r; i++)
			if (found->flags[i] & DOUBT)
				r = doubt_end(fs, found->layer, found->key.piece * BLOCKS + i);
		HASH_DELETE(hh, fs->found, found);
		free(found);
	}
	return r;
}
