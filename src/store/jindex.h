/* SPDX-License-Identifier: MIT */
/*
 * The journal index: where in the ring the newest version of a journaled block stands.
 *
 * Bounded by the ring (one entry per 4 KiB of it), in memory only, rebuilt by recovery. Entries
 * are keyed by layer and block; the callers hold the layer's lock, the shards here only keep
 * different layers apart.
 */
#ifndef GOLDFS_STORE_JINDEX_H
#define GOLDFS_STORE_JINDEX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct jindex;

struct jentry {
	uint64_t layer;
	uint64_t block;
	uint64_t pos; /* ring position of the 4096 bytes */
	uint64_t seq; /* of the record */
	uint32_t sum; /* of the bytes, as hash_block() has it */
};

int jindex_new(struct jindex **index);
void jindex_free(struct jindex *index);
/* Inserts or replaces. 0 or -ENOMEM (never when replacing). */
int jindex_set(struct jindex *index, const struct jentry *entry);
bool jindex_get(struct jindex *index, uint64_t layer, uint64_t block, struct jentry *entry);
void jindex_remove(struct jindex *index, uint64_t layer, uint64_t block);
/* All entries with seq <= upto, sorted by layer and block; malloc'ed, owned by the caller. */
int jindex_collect(struct jindex *index, uint64_t upto, struct jentry **entries, size_t *count);
size_t jindex_count(struct jindex *index);

#endif
