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

/* What a file's partial last block counts as. */
enum tail_class { TAIL_NONE, TAIL_UNIQUE, TAIL_CLONE, TAIL_SNAPSHOT, TAIL_GOLDEN, TAIL_SELF };

struct slot_seen {
	struct inode *file; /* one that sees this block; NULL: many of several groups, or (of a set)
			       nobody */
	uint64_t group; /* of that file */
	uint64_t slot : 48;
	uint64_t cut : 13;   /* bytes of it that lie behind the end of whoever sees it */
	uint64_t future : 1; /* a copy that is growing has not come there yet */
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
/* How many slots go with the set, as nothing but what is listed refers to them; and how many bytes
 * of these lie behind the end of every file. */
void slot_list_freed(struct fs *fs, struct slot_list *list, uint64_t *slots, uint64_t *cut);

#endif
