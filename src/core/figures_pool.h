/* SPDX-License-Identifier: MIT */
/*
 * Who holds which slots of the pool.
 *
 * The pool knows of each slot how many layers' blocks refer to it, and whether all are of one layer.
 * For a file with a layer of its own that says everything, at any moment. Where frozen layers have
 * blocks in the pool, who sees them decides: then a walk over the families lists the slots with the
 * one file that sees the block, or "many", and sorting the list tells which slots are whose.
 */
#ifndef GOLDFS_CORE_FIGURES_POOL_H
#define GOLDFS_CORE_FIGURES_POOL_H

#include "core/family.h"

struct slot_seen {
	uint64_t slot;
	struct inode *file; /* the only one that sees this block; NULL: many, or (of a set) nobody */
};

struct slot_list {
	struct slot_seen *list; /* malloc'ed */
	size_t count;
	size_t capacity;
};

void slot_list_release(struct slot_list *list);

/* Whether a frozen layer has blocks in the pool. tree held. */
bool pool_needs_walk(struct fs *fs);
/* Whether this layer's figures come from such a walk: it has blocks in the pool, and is needed. */
bool pool_figure_is_walked(struct fs *fs, const struct layer *layer);

/* One region of a family in the walk for all files; flow is room for a plane per layer. Counts what
 * several files see for each of them, and lists everything. */
int pool_figures_region(struct family *f, struct plane *flow, struct slot_list *list);
/* After the walk: what of it is whose. */
void slot_list_account(struct fs *fs, struct slot_list *list);

/* One region in the walk by a set: lists blocks that the others do not see. */
int slot_list_add_set(struct slot_list *list, struct family *f);
/* How many slots go with the set: nothing but what is listed refers to them. */
uint64_t slot_list_freed(struct fs *fs, struct slot_list *list);

#endif
