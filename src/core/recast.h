/* SPDX-License-Identifier: MIT */
/*
 * An equal layer in another's place: what recast.c and its parts share; see there.
 */
#ifndef GOLDFS_CORE_RECAST_H
#define GOLDFS_CORE_RECAST_H

#include <stdbool.h>
#include <stdint.h>

#include "core/fs_internal.h"
#include "core/pace.h"

struct recast_equal;

/* One layer while somebody works on it. */
struct recast {
	struct fs *fs;
	struct layer *layer; /* held */
	struct inode *inode; /* for which file, with a reference; NULL: not known */
	enum gf_recast_kind kind;
	uint64_t golden;      /* the new base, 0: none, or FOLD */
	struct image *image;  /* of it; NULL: none */
	struct layer *fold;   /* FOLD: the layer that goes, which is held */
	struct fs_gains *trial; /* nothing is changed: these say what it would come to. NULL: no trial */
	uint64_t trial_bound; /* bytes of the new base that would show */
	uint64_t would_store, would_drop; /* blocks */
	struct recast_equal *equal; /* what two images are known to have in common; may be NULL */
	const struct fs_recast_options *options;
	uint64_t done, total; /* bytes, of the pass that runs */
	uint64_t rate;	      /* bytes that are stored in a second at most, 0: no limit */
	struct pace pace;
	uint64_t unsynced; /* bytes stored since the last sync */
};

/* ---- recast.c ---- */

/* The layer, which is held, begins to be folded with what it stands on, or goes on with what was
 * begun: for recast_work(). -EAGAIN: not any more, or somebody does so already. */
int recast_begin_fold(struct recast *rc, struct layer *layer);
int recast_resume(struct recast *rc, struct layer *layer);
/* All that is to be done with a layer that has begun. */
int recast_work(struct recast *rc);
/* The op that gives a file a mode, enum gf_mode. */
int op_add_mode(struct opbuf *buf, uint64_t ino, uint32_t mode);
/* What is told as the state of a file: "copying", "rebasing" or "ok". tree held. */
const char *recast_state(struct inode *inode);
bool recast_is_stopped(const struct fs_recast_options *options);

/* ---- recast_gain.c ---- */

/* A reference to the slot would go: 1 when it is the last one of all, 0, or -ENOMEM. */
int gains_drop(struct fs_gains *gains, struct pool *pool, uint64_t slot);

/* ---- recast_place.c ---- */

/* Gives all blocks before this byte a place. -ENOSPC: nothing changed. */
int recast_place(struct fs *fs, struct layer *layer, uint64_t end);
/* Before a file of mode full ends there; nothing else has to be done for others. No lock is held.
 */
int recast_grow(struct fs *fs, struct inode *inode, uint64_t end);
/* A layer that came to stand on nothing: its file, if it is of mode full, has places again as far as
 * there is space; the log says when not. No lock is held. */
void recast_place_again(struct fs *fs, struct layer *layer);
/* What is told as the mode of a file: what it is, whatever it is to be. tree held. */
const char *recast_mode(struct inode *inode);
/* Blocks from this one on are given back, as far as they are not used. */
void recast_unplace(struct layer *layer, uint64_t from);
/* After recovery: which layers have a place for each block. */
void recast_find_places(struct fs *fs);

/* ---- recast_blocks.c ---- */

/* What would change with the base becomes the layer's own. 0, -ECANCELED, -ENOSPC, -EUCLEAN: what
 * is to be moved is damaged, or another -errno. */
int recast_pull(struct recast *rc);
/* What is equal to what is below now is not kept any more. */
int recast_drop(struct recast *rc);

/* Room for a bit per block of the smaller of two images. NULL: without memory, nothing is
 * remembered. */
struct recast_equal *recast_equal_new(uint64_t from, uint64_t to, uint64_t blocks);
bool recast_equal_is_of(const struct recast_equal *equal, uint64_t from, uint64_t to);
void recast_equal_free(struct recast_equal *equal);

#endif
