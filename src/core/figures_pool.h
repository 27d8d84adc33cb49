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
	struct inode *file; /* one that sees this block; NULL: those of its spans, or without such
			       many of several groups, or (of a set) nobody */
	uint64_t group; /* of that file, or of all of the spans */
	uint32_t span, spans; /* in the list's, several files of one group */
	uint64_t slot : 48;
	uint64_t cut : 13;   /* bytes of it that lie behind the end of whoever sees it */
	uint64_t future : 1; /* a copy that is growing has not come there yet */
};

/* Files that follow each other in the order of a stretch (family_few.h). */
struct slot_span {
	uint32_t first, end; /* in the list's files */
};

struct slot_list {
	struct slot_seen *list; /* malloc'ed, as the others */
	size_t count;
	size_t capacity;
	struct slot_span *spans;
	size_t span_count, span_capacity;
	struct inode **files; /* of the stretches in which there are spans */
	size_t file_count, file_capacity;
	size_t files_start; /* of those of this stretch */
};

void slot_list_release(struct slot_list *list);

/* Whether a frozen layer has blocks in the pool. tree held. */
bool pool_needs_walk(struct fs *fs);
/* Whether this layer's figures come from such a walk: it has blocks in the pool, and is needed. */
bool pool_figure_is_walked(struct fs *fs, const struct layer *layer);

/* One region of a family in the walk for all files; flow is room for a plane per layer. Counts what
 * several files see for each of them, and lists everything. */
int pool_figures_region(struct family *f, struct plane *flow, struct slot_list *list);
/* The same for one owner of a block where few stand, the i-th of the region's. */
int slot_list_add_few(struct slot_list *list, const struct family *f, const struct few_block *blocks,
	size_t i);
/* A stretch begins. */
void slot_list_new_files(struct slot_list *list);
/* After the walk: what of it is whose. 0 or -ENOMEM, then it is not complete. */
int slot_list_account(struct fs *fs, struct slot_list *list);

/* One region in the walk by a set: lists blocks that the others do not see. */
int slot_list_add_set(struct slot_list *list, struct family *f);
/* One block that the others do not see. */
int slot_list_add_few_of_set(struct slot_list *list, const struct family *f, const struct few_block *b);
/* How many slots go with the set, as nothing but what is listed refers to them; and how many bytes
 * of these lie behind the end of every file. */
void slot_list_freed(struct fs *fs, struct slot_list *list, uint64_t *slots, uint64_t *cut);

#endif
