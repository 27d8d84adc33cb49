/* SPDX-License-Identifier: MIT */
/*
 * What several clones would give back together (recast.h).
 *
 * A slot of the pool becomes free with the last reference to it. So the clones are asked in turn, as they
 * are moved in turn, and the one that would let go of the last one is told the slot as its gain: then the
 * gains of all are what is freed in the end. Numbers of slots that are shared lie close together, hence
 * counts for some thousand of them at once.
 */
#include <errno.h>
#include <stdlib.h>

#include <uthash.h>

#include "core/recast.h"
#include "store/pool.h"

#define CHUNK 4096u /* slots */

struct chunk {
	uint64_t number;
	UT_hash_handle hh;
	uint32_t dropped[CHUNK];
};

struct fs_gains {
	struct chunk *chunks;
};

struct fs_gains *fs_gains_new(void)
{
	return calloc(1, sizeof(struct fs_gains));
}

void fs_gains_free(struct fs_gains *gains)
{
	struct chunk *chunk, *next;

	if (!gains)
		return;
	HASH_ITER (hh, gains->chunks, chunk, next) {
		HASH_DELETE(hh, gains->chunks, chunk);
		free(chunk);
	}
	free(gains);
}

static struct chunk *find_chunk(struct fs_gains *gains, uint64_t number)
{
	struct chunk *chunk;

	HASH_FIND(hh, gains->chunks, &number, sizeof(number), chunk);
	if (chunk)
		return chunk;
	chunk = calloc(1, sizeof(*chunk));
	if (!chunk)
		return NULL;
	chunk->number = number;
	HASH_ADD(hh, gains->chunks, number, sizeof(chunk->number), chunk);
	return chunk;
}

int gains_drop(struct fs_gains *gains, struct pool *pool, uint64_t slot)
{
	struct chunk *chunk = find_chunk(gains, slot / CHUNK);
	uint64_t layer;
	bool one;

	if (!chunk)
		return -ENOMEM;
	return ++chunk->dropped[slot % CHUNK] == pool_slot_refs(pool, slot, &one, &layer);
}
