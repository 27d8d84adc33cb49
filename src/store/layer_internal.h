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
/* Reads the region's page when that was not done yet. 0 or -errno. */
int layer_load_region_locked(struct layer *layer, uint32_t number, struct region *region);

/* Remembers blocks to be punched once their state is durable. */
void layer_note_punch_locked(struct layer *layer, uint64_t block, uint64_t count);

void layer_forget_noted_sums(struct layer *layer);
/* These were written. */
void layer_forget_noted(struct layer *layer, uint64_t block, uint64_t count);

enum layer_file { LAYER_DATA, LAYER_MAP, LAYER_SUM };
void layer_path(char path[40], uint64_t id, enum layer_file file);
/* Opens *fd, a descriptor of the layer, when that was not done yet, and returns it. */
int layer_open_file(struct layer *layer, int *fd, enum layer_file file, bool create);

#endif
