/* SPDX-License-Identifier: MIT */
/*
 * The pool: blocks that several places of the store show, each kept once.
 *
 * A slot is one block of 4 KiB in pool/N.data. Its bytes are written once, before anybody refers to
 * it, and do not change as long as somebody does. A reference is a block of a layer whose location
 * names the slot; the maps and location files are the truth, the counts here are derived from them
 * and live in memory only.
 *
 *   free     nobody refers to it, on the disk neither: may be allocated, takes no space
 *   claimed  allocated, being filled; refs is 0
 *   live     refs > 0
 *   dying    refs fell to 0; a map on the disk may still name it. The first checkpoint whose
 *            picture was taken since makes it free. A dying slot is never revived
 *
 * After a mount the counts are unknown: pool_counting() until whoever walks the maps has called
 * pool_ref() for all of them and then pool_counted(). Meanwhile nothing becomes free, and slots are
 * allocated behind the end of what there is only. References to what is not known yet can be taken
 * (pool_ref() does not ask whether a slot is live then) and given up; the sum is right at the end,
 * since additions commute. (refs may be below 0 in between.)
 *
 * Who refers to a slot is known as far as figures need it: how many references there are, and
 * whether all of them are of one layer (sums of the layers' numbers and of their hashes tell).
 *
 * Threads: all functions may be called by any thread at any time, but those for checkpoints, which
 * one thread calls. One mutex; nothing is read or written under it. It is the last lock: nothing
 * else is taken under it. (A second one orders those who make files and those who sync.)
 * Errors: 0 or a negative errno.
 */
#ifndef GOLDFS_STORE_POOL_H
#define GOLDFS_STORE_POOL_H

#include <stdbool.h>
#include <stdint.h>

#include "base/io.h"

struct pool;
struct pool_dying; /* slots taken by a checkpoint's picture */

/*
 * Slots are numbered through all files: POOL_FILE_SLOTS of them are in pool/0.data, the next ones
 * in pool/1.data, and so on.
 */
#define POOL_FILE_SLOTS (UINT64_C(1) << 26) /* 256 GiB */

/* Looks what files there are; counting starts as pool_counting(), unless there are none. */
int pool_open(struct pool **pool, struct io *io);
void pool_free(struct pool *pool);

/* ---- slots ---- */

/* Claims up to `want` consecutive slots: *got >= 1 of them, from *slot on. -ENOMEM, or -ENOSPC when
 * the pool has 256 TiB; also when it lost slots, until no map on the disk names those any more. -EAGAIN: in
 * a moment, the end of a file is being cut off and there is nothing before it. */
int pool_allocate(struct pool *pool, uint64_t want, uint64_t *slot, uint64_t *got);
/* Gives back claimed slots to which no reference was made; they take no space afterwards. They are
 * dying if they were written, so that a crash does not find them in use. */
void pool_unclaim(struct pool *pool, uint64_t slot, uint64_t count);
/* Bytes of claimed slots, and their checksums (hash_block()). -ENOSPC: nothing changed but that they may take space. */
int pool_write(struct pool *pool, uint64_t slot, const void *bytes, const uint32_t *sums,
	uint64_t count);
int pool_read(struct pool *pool, uint64_t slot, void *bytes, uint64_t count);
/* Recovery: the bytes of a slot as they were found, once more: a sync of the process that wrote them
 * may have failed, and the kernel tells only once. */
int pool_write_again(struct pool *pool, uint64_t slot, const void *bytes, uint32_t sum);
/* Checksums of slots; 0: none is known. */
int pool_read_sums(struct pool *pool, uint64_t slot, uint32_t *sums, uint64_t count);
/* How many of these slots, which are in one file, the mount found, from the first one on. What a map
 * on the disk says of others is damage. */
uint64_t pool_found(struct pool *pool, uint64_t slot, uint64_t count);
/* Makes all bytes that were written durable, and the files' names. An error stays: every later call
 * returns it, and pool_failed() is true. Nothing to do: no call is made below. */
int pool_sync(struct pool *pool);
bool pool_failed(struct pool *pool);

/* One more reference from a block of this layer: to a claimed slot, or to a live one (and to any
 * while counting that was there at the mount). false: the slot is dying or free, and must not be
 * used; or there is no memory. */
bool pool_ref(struct pool *pool, uint64_t slot, uint64_t layer);
/* The same for a slot that somebody was told of: not to a claimed one, which is about to become
 * something else, and would be dying when the reference is given up. */
bool pool_ref_live(struct pool *pool, uint64_t slot, uint64_t layer);
/* One less. The last one makes it dying. */
void pool_unref(struct pool *pool, uint64_t slot, uint64_t layer);
/* All references that a layer has end (its files are gone): the caller has called pool_unref() for
 * each. What is left is told to the log. */
void pool_forget_layer(struct pool *pool, uint64_t layer);

/* ---- counting after a mount ---- */
bool pool_is_counting(struct pool *pool);
/* Everything is counted: what nobody refers to is dying from now on. Memory was short meanwhile:
 * counting goes on until the next mount. Not to be called if anything could not be counted. */
void pool_counted(struct pool *pool);

/* ---- checkpoints ---- */

/* With nothing changing: all slots that are dying now. NULL: none, or counting. */
struct pool_dying *pool_take_dying(struct pool *pool);
/* The picture is durable and its readers have left: punched, and free. Frees the list. */
void pool_release_dying(struct pool *pool, struct pool_dying *list);
/* The checkpoint failed: they go on dying. Frees the list. */
void pool_give_back_dying(struct pool *pool, struct pool_dying *list);

/* ---- figures ---- */

struct pool_figures {
	uint64_t live_slots;
	uint64_t dying_slots;
	uint64_t refs;
};
void pool_figures(struct pool *pool, struct pool_figures *out);

/* Of what one layer refers to. */
struct pool_layer_figures {
	uint64_t refs;	    /* blocks of it that stand in the pool */
	uint64_t exclusive; /* slots to which only this layer refers, each once */
	uint64_t self_refs; /* further references that it has to those */
};
void pool_layer_figures(struct pool *pool, uint64_t layer, struct pool_layer_figures *out);

/* References to one slot, and whether all are of one layer, whose number is then in *layer. */
uint32_t pool_slot_refs(struct pool *pool, uint64_t slot, bool *one_layer, uint64_t *layer);

/* The next slots from *slot on to which somebody refers, in one file: how many, at most max, with
 * *slot the first; 0: there are none. While counting, what the disk may know counts. */
uint64_t pool_next_live(struct pool *pool, uint64_t *slot, uint64_t max);

/* Calls cb for each run of slots that take space below although nothing refers to them: for a check
 * of a store in which all is counted, and of which the ring says nothing (then those are dying). */
int pool_each_unused(struct pool *pool, int (*cb)(void *arg, uint64_t slot, uint64_t count),
	void *arg);

/* Asserts the table at the head of this file. */
void pool_assert(struct pool *pool);

#endif
