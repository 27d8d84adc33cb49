/* SPDX-License-Identifier: MIT */
/*
 * What long chains of layers show, remembered: which layer owns which blocks of a region.
 *
 * A look-up goes down from layer to layer, so it costs more the older a file's family is. Where
 * that has cost as much as looking at all of a region once, all of it is looked at once, and
 * from then on a look-up that comes to the top of the frozen part of the chain goes on at the
 * layer that owns the block. So nobody pays more than twice of what walking costs, and what is
 * read often costs the same at any depth.
 *
 * What is remembered is no more than "down to this layer nobody owns the block". The state of
 * the block is asked of its owner each time. So nothing needs to be said when a block of a
 * frozen layer moves from the journal to its place, becomes SHARED, or is given up: at worst the
 * walk goes on from a layer that does not own it any more. What must be told is the opposite, a
 * frozen layer in the chain that comes to own a block (what was given up is taken back, or
 * layers are joined), another order of the chain, another bound: all that is remembered is void
 * then (chain_changed()). Layers that were passed carry a mark (layer.passed), and the functions
 * that change a layer look at it.
 *
 * Memory: four bytes per run of blocks with the same owner, sixteen per owner, in all at most
 * what was given; what was not asked for longest goes first. Clones of the same frozen layer
 * share it. It can be dropped at any time.
 *
 * Locks: one per part of the table, taken last, with nothing held but what the caller holds.
 * Layers are named by pointers that are valid as long as the layer is that the chain begins
 * with, or as readers that found them are waited for: as parent pointers are.
 */
#ifndef GOLDFS_STORE_CHAIN_H
#define GOLDFS_STORE_CHAIN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct chain_cache;
struct layer;

#define CHAIN_MEMORY (32u << 20) /* bytes; usual */

/* memory: bytes at most. 0 or -ENOMEM. */
int chain_cache_new(struct chain_cache **cache, size_t memory);
void chain_cache_free(struct chain_cache *cache);
/* From now on a region is looked at when a look-up passes a layer for the first time (tests). */
void chain_cache_be_eager(struct chain_cache *cache);

struct chain_hop {
	struct layer *layer; /* those above it, from the first one on, own none of the blocks */
	uint64_t limit;	     /* guest offset from which on nothing shows through those */
	uint64_t count;	     /* of blocks, from the one that was asked for on */
	uint64_t epoch;	     /* for assertions */
};

/* Where a look-up that comes to layer `from` may go on for up to max blocks. false: not known.
 * cache may be NULL. */
bool chain_find(struct chain_cache *cache, const struct layer *from, uint64_t block, uint64_t max,
	struct chain_hop *hop);
/* A look-up for the block went from there down over so many layers. May look at all of its region,
 * and so reads pages. No lock is held. */
void chain_walked(struct chain_cache *cache, struct layer *from, uint64_t block, unsigned steps,
	bool may_read);
/* All that is remembered is void. Any lock may be held. */
void chain_changed(struct chain_cache *cache);
/* The layer is freed. */
void chain_forget(struct chain_cache *cache, const struct layer *layer);
/* Whether what a hop passes by owns none of its blocks, or was changed since (assertions). */
bool chain_hop_is_right(struct chain_cache *cache, struct layer *from, uint64_t block,
	const struct chain_hop *hop);
/* For tests: bytes held, and how many regions were looked at so far. */
size_t chain_memory(struct chain_cache *cache);
uint64_t chain_builds(struct chain_cache *cache);

#endif
