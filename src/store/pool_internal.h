/* SPDX-License-Identifier: MIT */
/* What the files of the pool share; nobody else includes this. */
#ifndef GOLDFS_STORE_POOL_INTERNAL_H
#define GOLDFS_STORE_POOL_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>

#include <uthash.h>

#include "store/pool.h"

#define POOL_FILES 1024 /* 256 TiB */
#define CHUNK_SLOTS 4096
#define FILE_CHUNKS (POOL_FILE_SLOTS / CHUNK_SLOTS)

enum slot_state {
	SLOT_FREE,
	SLOT_CLAIMED,
	SLOT_WRITTEN, /* claimed, and takes space perhaps */
	SLOT_LIVE,    /* while counting: known to the disk, whatever refs is */
	SLOT_DYING,
	SLOT_TAKEN   /* dying, and on a checkpoint's list */
};

struct slot {
	int64_t refs;
	uint64_t sum;	 /* of the layers' numbers, each as often as it refers; modulo 2^64 */
	uint64_t mixsum; /* the same of their hashes */
};

struct chunk {
	struct slot slots[CHUNK_SLOTS];
	uint8_t states[CHUNK_SLOTS]; /* enum slot_state */
};

struct chunk_head {
	struct chunk *chunk; /* NULL: all are in `state`, and no reference is known */
	uint16_t used;	     /* slots that are not free */
	uint16_t dying;	     /* slots that are SLOT_DYING */
	uint8_t state;
};

struct pool_file {
	atomic_int fd;	    /* -1: not there yet */
	atomic_int sum_fd;  /* of the checksums; there when fd is, or none is known */
	atomic_bool dirty;  /* written since its last sync */
	bool sync_failed;   /* pool.io_lock */
	uint64_t slots;	    /* pool.lock; its size */
	uint64_t found;	    /* slots of which the mount found the bytes; does not change */
	struct chunk_head heads[FILE_CHUNKS]; /* pool.lock */
};

struct pool_layer {
	uint64_t id;
	int64_t refs; /* below 0 only while counting */
	int64_t exclusive;
	int64_t self_refs;
	int64_t counted_exclusive; /* by pool_assert() */
	int64_t counted_self_refs;
	UT_hash_handle hh;
};

#define POOL_END (POOL_FILES * POOL_FILE_SLOTS)

struct pool {
	struct io *io;

	pthread_mutex_t lock;
	struct pool_file *files[POOL_FILES]; /* lock; made and never removed */
	/* lock; no slot below it is free. While counting: none below it is allocated. */
	uint64_t lowest;
	uint64_t cut_from;	   /* lock; none from it on is allocated: the tail of a file is being truncated */
	uint64_t counted_upto;	   /* lock; slots below it have all their references */
	bool miscounted;	   /* lock; memory was short: counting never ends */
	bool shortened;		   /* lock; maps on the disk may name slots that are lost */
	uint64_t live, dying;	   /* lock; slots */
	int64_t refs;		   /* lock */
	struct pool_layer *layers; /* lock; those of which any figure is not 0 */

	pthread_mutex_t io_lock; /* before lock; held while files are made and synced */
	atomic_int error;	 /* of the first sync that failed; written under io_lock */
	bool names_owed;	 /* io_lock; of files in the folder "pool" */
	bool folder_owed;	 /* io_lock; the name of that folder */
};

struct pool_run {
	uint64_t slot, count;
};

struct pool_dying {
	size_t count;
	struct pool_run runs[];
};

static inline enum slot_state pool_state_in(const struct chunk_head *head, uint64_t slot)
{
	return head->chunk ? head->chunk->states[slot % CHUNK_SLOTS] : head->state;
}

static inline bool pool_all_counted_locked(const struct pool *pool)
{
	return pool->counted_upto == UINT64_MAX;
}

struct chunk_head *pool_head_locked(const struct pool *pool, uint64_t slot);
enum slot_state pool_state_locked(const struct pool *pool, uint64_t slot);
/* Sets `count` slots from `slot` on, which are in one file. A chunk that has no memory yet can be
 * set as a whole only. */
void pool_set_state_locked(struct pool *pool, uint64_t slot, uint64_t count, enum slot_state state);
/* Adds `count` slots of a state to the sums of them. */
void pool_account_locked(struct pool *pool, struct chunk_head *head, enum slot_state state,
	int64_t count);
/* Gives a chunk its memory. 0 or -ENOMEM. */
int pool_fill_head_locked(struct chunk_head *head);
/* The file's struct, made when it is not there. NULL: out of memory. */
struct pool_file *pool_make_file_locked(struct pool *pool, uint64_t number);

#endif
