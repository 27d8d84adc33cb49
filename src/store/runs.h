/* SPDX-License-Identifier: MIT */
/*
 * Where the SHARED blocks of one region stand: runs of blocks that follow each other in their place
 * as they do in the region. Sorted, without overlap, and joined where they fit. No locks and no
 * I/O here: the layer's lock covers it.
 */
#ifndef GOLDFS_STORE_RUNS_H
#define GOLDFS_STORE_RUNS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "goldfs/format.h"

struct run {
	uint64_t place; /* of the first block, as in struct gf_disk_run */
	uint16_t first; /* block in the region */
	uint16_t count;
};

/* All zero: empty. */
struct runs {
	struct run *list;
	uint32_t count;
	uint32_t room;
};

void runs_release(struct runs *runs);
/* Makes room for so many more runs. 0 or -ENOMEM. */
int runs_reserve(struct runs *runs, uint32_t more);
/* Room for what there is only. */
int runs_copy(struct runs *to, const struct runs *from);

/* Where block i stands, 0: nowhere; *count (<= max) blocks from it on are alike: they follow it in its
 * place, or stand nowhere. */
uint64_t runs_find(const struct runs *runs, uint32_t i, uint32_t max, uint32_t *count);
/* Calls cb for each piece of a run within [first, first + count). */
void runs_each(const struct runs *runs, uint32_t first, uint32_t count,
	void (*cb)(void *arg, uint64_t place, uint32_t first, uint32_t count), void *arg);
/* Those blocks stand nowhere any more. Needs room for one more run. */
void runs_remove(struct runs *runs, uint32_t first, uint32_t count);
/* Those blocks, which stand nowhere, stand there. Needs room for one more run. */
void runs_add(struct runs *runs, uint32_t first, uint32_t count, uint64_t place);

/* Whether a block at `next` follows one at `place`. */
static inline bool place_follows(uint64_t place, uint64_t next)
{
	return next == place + 1 && next << (64 - GF_PLACE_SHIFT);
}

/* Whether there can be so many blocks from this place on, all in one file of the pool or in one image. */
bool place_is_possible(uint64_t place, uint32_t count);

/* ---- on disk ---- */

/* Bytes of a region's runs there. */
static inline size_t runs_length(uint32_t count)
{
	return sizeof(struct gf_disk_runs) + count * sizeof(struct gf_disk_run);
}
/* Of its number of runs, into a buffer of runs_length(). */
void runs_encode(const struct runs *runs, uint64_t layer, uint32_t region, uint32_t generation,
	void *buf);
/* Pure. Checks everything, also that each block of a run is SHARED in states. -EUCLEAN, -ENOMEM. */
int runs_decode(struct runs *runs, const void *buf, size_t len, uint64_t layer, uint32_t region,
	uint32_t generation, uint32_t count, const uint8_t *states);

#endif
