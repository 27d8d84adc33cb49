/* SPDX-License-Identifier: MIT */
/*
 * One region of a layer's map in memory: the states of 8192 blocks and which of them have their
 * newest version in the journal. A region in one state throughout takes no array. No locks here:
 * the layer's lock covers it.
 */
#ifndef GOLDFS_STORE_REGION_H
#define GOLDFS_STORE_REGION_H

#include <stdbool.h>
#include <stdint.h>

#include "goldfs/format.h"
#include "store/runs.h"

struct region {
	struct runs runs;  /* where SHARED blocks stand; those in none are lost */
	uint8_t *states;   /* GF_STATE_BYTES, or NULL: all blocks are in state `uniform` */
	uint8_t *journal;  /* bit per block, or NULL: none is journaled */
	uint32_t generation; /* of its page on disk or on the way there, 0: it has none */
	uint32_t disk_generation; /* of the page that the last good catalog names */
	uint16_t journaled;  /* blocks with their bit set */
	uint8_t uniform;
	bool loaded; /* false: the page on disk has the states */
	bool dirty;
	bool lost; /* its page could not be used: all blocks were GF_SHARED when it was loaded */
	bool runs_lost; /* its list of runs could not be used: SHARED blocks are lost */
	bool unexamined; /* something was stored in it that may stand elsewhere, too */
	bool wished;	 /* unexamined: no, somebody asked for it */
	bool uncounted;	 /* the references of its SHARED blocks are not counted yet */
};

static inline enum gf_state states_get(const uint8_t *states, uint32_t i)
{
	return (states[i / 4] >> (i % 4 * 2)) & 3;
}

/* Of the 64 blocks from i on, a multiple of 64: the low bits of their states, and the high ones, one per block. */
void states_planes(const uint8_t *states, uint32_t i, uint64_t *low, uint64_t *high);

static inline void states_put(uint8_t *states, uint32_t i, enum gf_state state)
{
	states[i / 4] = (states[i / 4] & ~(3 << (i % 4 * 2))) | (state << (i % 4 * 2));
}

static inline enum gf_state region_state(const struct region *r, uint32_t i)
{
	return r->states ? states_get(r->states, i) : (enum gf_state)r->uniform;
}

static inline bool region_journaled(const struct region *r, uint32_t i)
{
	return r->journal && (r->journal[i / 8] >> (i % 8) & 1);
}

/* Blocks from i on, at most max, in the same state and alike journaled or not. */
uint32_t region_run(const struct region *r, uint32_t i, uint32_t max);
/* Gives it an array, so that region_put() cannot fail. 0 or -ENOMEM. */
int region_materialize(struct region *r);
/* 0 or -ENOMEM, then nothing changed. */
int region_put(struct region *r, uint32_t first, uint32_t count, enum gf_state state);
int region_set_journaled(struct region *r, uint32_t first, uint32_t count);
void region_clear_journaled(struct region *r, uint32_t i);
/* Of the 32 blocks from word * 32 on: bit 2 * i is set when block i is journaled or not PARENT. */
uint64_t region_owned(const struct region *r, uint32_t word);
/* Blocks in the given state. */
uint32_t region_count(const struct region *r, uint32_t first, uint32_t count, enum gf_state state);
void region_release(struct region *r);
/* Takes the array away when all states are alike. */
void region_compact(struct region *r);

#endif
