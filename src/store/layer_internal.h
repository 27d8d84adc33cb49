/* SPDX-License-Identifier: MIT */
/* What the files of the layer module share; nobody else includes this. */
#ifndef GOLDFS_STORE_LAYER_INTERNAL_H
#define GOLDFS_STORE_LAYER_INTERNAL_H

#include "store/layer.h"
#include "store/region.h"

#define LEAF_REGIONS 16

/* The region, or NULL when the layer has nothing there. Not necessarily loaded. */
struct region *layer_find_region_locked(struct layer *layer, uint32_t number);
/* The region, made when it is not there. NULL: out of memory. */
struct region *layer_make_region_locked(struct layer *layer, uint32_t number);
/* A region ready to be changed: made and loaded. */
int layer_writable_region_locked(struct layer *layer, uint32_t number, struct region **region);
/* Blocks get a state, whatever they were; what was journaled of them is forgotten, and what was
 * OVERLAY and no longer is will be punched. -ENOMEM: nothing changed; not when `states` is there. */
int layer_put_state_locked(struct layer *layer, uint32_t number, struct region *region,
	uint32_t first, uint32_t count, enum gf_state state);
/* Reads the region's page when that was not done yet. 0 or -errno. */
int layer_load_region_locked(struct layer *layer, uint32_t number, struct region *region);

/* Remembers blocks to be punched once their state is durable. */
void layer_note_punch_locked(struct layer *layer, uint64_t block, uint64_t count);

void layer_forget_noted_sums(struct layer *layer);
/* These were written. */
void layer_forget_noted(struct layer *layer, uint64_t block, uint64_t count);

/* ---- layer_shared.c ---- */

/* Takes away runs that cannot be, of a region that is being loaded. Whether there was any. */
bool layer_trim_runs_locked(struct layer *layer, struct region *region);
/* What run_locked() says of a run of SHARED blocks. 1, or -EUCLEAN: their content is lost. */
int layer_shared_run_locked(struct layer *layer, uint32_t number, const struct region *region,
	uint32_t i, struct extent *x);
/* Of a list of runs that was just read: what names slots that are not there is lost. */
/* Those of the blocks that are SHARED will not be any more: gives their references up. -ENOMEM, or
 * the region's page cannot be read: nothing has changed. */
int layer_leave_shared_locked(struct layer *layer, uint32_t number, struct region *region,
	uint32_t first, uint32_t count);

enum layer_file { LAYER_DATA, LAYER_MAP, LAYER_SUM, LAYER_LOC };
void layer_path(char path[40], uint64_t id, enum layer_file file);
/* Opens *fd, a descriptor of the layer, when that was not done yet, and returns it. */
int layer_open_file(struct layer *layer, int *fd, enum layer_file file, bool create);

#endif
