/* SPDX-License-Identifier: MIT */
/* Content dedup: finding a block's bytes before they are stored once more; see dedup.c. */
#ifndef GOLDFS_CORE_DEDUP_H
#define GOLDFS_CORE_DEDUP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/hash.h"
#include "store/layer.h"

struct fs;

#define DEDUP_MEMORY_DEFAULT (UINT64_C(256) << 20)

int dedup_start(struct fs *fs);
void dedup_stop(struct fs *fs);

/* For tests and benchmarks; NULL: there is none. */
struct content_table *dedup_table(struct fs *fs);

/* One look at blocks [first, last] of a layer, whose range the caller holds. On the stack. */
struct dedup {
	struct fs *fs;
	struct layer *layer;
	uint64_t first, last;
	bool enabled;
	bool all;	 /* not in golden images only */
	uint64_t domain; /* in which it is looked for (domain.c) */
	uint64_t slot, claimed; /* slots that are claimed and not used yet */
	uint64_t *room;		/* bytes that the pool may take below; NULL: what there is */
	bool full;		/* something was found, and the pool had no room for it */
};
void dedup_begin(struct dedup *d, struct fs *fs, struct layer *layer, uint64_t first, uint64_t last);
/*
 * Whether the bytes of one block, with this hash_block128(), stand somewhere already. If so, *place
 * says where, and the layer has one reference more, for layer_set_shared() or layer_unref_place().
 */
bool dedup_find(
	struct dedup *d, const void *bytes, const struct hash128 *hash, uint64_t *place);
/* Before the i-th of so many is looked for, in this order: now and then it has fetched what the next
 * ones need of memory, all at once. */
void dedup_expect(struct dedup *d, const struct hash128 *hashes, size_t i, size_t count);
void dedup_end(struct dedup *d);

/* Blocks that are SHARED with these places now, the references for which dedup_find() took. */
int dedup_set_shared(struct fs *fs, struct layer *layer, uint64_t block, uint64_t count,
	const uint64_t *places);

/* Blocks that are in place now, for others to find. */
void dedup_note(struct fs *fs, struct layer *layer, uint64_t block,
	const struct hash128 *hashes, uint64_t count);

/* Checkpoint, before the picture: blocks of which the pool has the bytes now become SHARED, unless
 * a record from number tail on may say something else of them. */
void dedup_move(struct fs *fs, uint64_t tail);
/* The checkpoint had a block share this place, to be remembered for dedup_moved(). -ENOMEM. */
int dedup_remember_moved(struct fs *fs, const struct layer *layer, uint64_t block, uint64_t place);
/* The end of both, on any way: the checkpoint counts, or the blocks are where they were. */
void dedup_moved(struct fs *fs, bool durable);
bool dedup_has_moves(struct fs *fs);

/* They may come to be known elsewhere later, and are to be looked at again. */
void dedup_owe(struct fs *fs, struct layer *layer, uint64_t block, uint64_t count);
void dedup_owe_all(struct fs *fs, struct layer *layer);
/* With dedup=all, blocks of all layers after a process that did not end cleanly: which ones it owed a look,
 * it alone knew. */
void dedup_owe_lost(struct fs *fs);
/* Whether content with this checksum was seen in a domain, or was seen elsewhere than in this block.
 * Hints. */
bool dedup_is_known(struct fs *fs, uint64_t domain, uint32_t sum);
bool dedup_is_known_elsewhere(struct fs *fs, struct layer *layer, uint64_t block, uint32_t sum);
/* Before that is asked; as dedup_expect(). */
void dedup_expect_known(
	struct fs *fs, const struct layer *layer, const uint32_t *sums, size_t i, size_t count);
/* Has the table of content know what stands in layers and in the pool, by its checksums. Layers that
 * are to be examined come last: where the table has not room for all, they are what it knows. stop is
 * asked after each region. */
void dedup_fill_table(struct fs *fs, bool (*stop)(void *arg), void *arg);
/* The same as far as there is room for more: a part of some 50 ms, or what is left. false: that is nothing. */
bool dedup_fill_some(struct fs *fs);
void dedup_fill_rest(struct fs *fs);

/* ---- dedup_examine.c: looking once more at what stands in layers ---- */

/* Somebody may want no more of what takes long. */
struct stop {
	bool (*asked)(void *arg); /* NULL: never */
	void *arg;
};
static inline bool is_stopped(const struct stop *stop)
{
	return stop->asked && stop->asked(stop->arg);
}
/* Around a checkpoint that is to do so: images that may be of use get an index, which is waited for until
 * stop. NULL: there is nothing to look at. No lock is held. */
struct dedup_images;
struct dedup_images *dedup_examine_begin(struct fs *fs, const struct stop *stop);
void dedup_examine_end(struct fs *fs, struct dedup_images *images);
/* The checkpoint's part: as dedup_move(). 0 or -errno. fs.examine is set again: the next one has to go
 * on with it. */
int dedup_examine(struct fs *fs, uint64_t tail);

/* What dead layers still refer to is given up: nobody sees it any more, and it is free with the next
 * checkpoint. Done by checkpoints, and before somebody asks for exact figures. */
void dedup_drop_dead(struct fs *fs);

/* What is not known of domains, after a mount or a change of them, is found out. No lock is held. */
void dedup_find_domains(struct fs *fs);

/* After a mount: counts all references. Until that is done nothing shared is freed. 0 or -errno. */
int dedup_count(struct fs *fs);
/* The same, from *at on, which begins as zeros, until a time of CLOCK_MONOTONIC: 1: there are more. */
struct dedup_counted {
	uint64_t before;  /* all layers up to this one, */
	uint64_t layer;	  /* and of this one, */
	uint32_t regions; /* so many */
};
int dedup_count_some(struct fs *fs, struct dedup_counted *at, int64_t until_ns);

#endif
