/* SPDX-License-Identifier: MIT */
/*
 * Which layers are folded, and going on with what was begun.
 *
 * A frozen layer F that no file has, and on which a single layer C stands, shows what it has to
 * nobody but through C. C is recast onto what F stands on, and F is gone. C takes over what F has
 * and C does not hide: that is copied, so it is done only where F is not much larger than C. Then
 * each block is copied a bounded number of times on its way up, and a chain that stays has sizes
 * that grow downwards by that factor: as many layers as that has digits.
 *
 * The upper layers of a chain come first: so the blocks of each are copied once.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "base/mutation.h"
#include "base/sizes.h"
#include "core/recast.h"
#include "core/snapshot.h"

#define FACTOR 4	   /* how much larger the lower layer may be */
#define SMALL_BLOCKS 1024u /* what is never too much to copy */

static uint64_t owned(struct layer *layer)
{
	return atomic_load(&layer->owned_blocks) + atomic_load(&layer->shared_blocks);
}

/* tree held. A snapshot owns nothing: it is what it stands on, which is what going back to it and
 * cloning it begin with. */
static bool is_of_snapshot(struct fs *fs, const struct layer *layer)
{
	const struct inode *head = layer->head_of ? tree_find(fs, layer->head_of) : NULL;

	return head && is_snapshot(head);
}

/* tree held. */
static bool is_foldable(struct fs *fs, const struct layer *upper)
{
	struct layer *lower = upper->parent;

	return lower && lower->refs == 1 && !lower->head_of &&
	       (!is_of_snapshot(fs, upper) || MUTATED("a snapshot is folded with what it stands on")) &&
	       lower->recast.kind == GF_RECAST_NONE && upper->recast.kind == GF_RECAST_NONE &&
	       !atomic_load(&lower->recast_busy) && !atomic_load(&upper->recast_busy) &&
	       !failing_layer(upper);
}

static bool is_worth_it(struct layer *upper)
{
	return owned(upper->parent) <= FACTOR * owned(upper) + SMALL_BLOCKS;
}

/* tree held. NULL: there is none. */
static struct layer *find_foldable(struct fs *fs, uint64_t below)
{
	struct layer_entry *entry, *next;
	struct layer *found = NULL;

	HASH_ITER (hh, fs->layers, entry, next)
		if (entry->id < below && is_foldable(fs, entry->layer) && is_worth_it(entry->layer) &&
			(!found || found->id < entry->id))
			found = entry->layer;
	return found;
}

/* *below: only layers with lower numbers. 1: one was folded, 0: there is none. */
static int fold_one(struct fs *fs, const struct fs_recast_options *options, uint64_t *below)
{
	struct recast rc = {.fs = fs,
		.kind = GF_RECAST_FOLD,
		.options = options,
		.rate = options ? options->rate : 0};
	struct layer *layer;
	int r = 0;

	pthread_rwlock_rdlock(&fs->tree);
	layer = find_foldable(fs, *below);
	if (layer) {
		*below = layer->id;
		atomic_fetch_add(&layer->users, 1);
	}
	pthread_rwlock_unlock(&fs->tree);
	if (!layer)
		return 0;
	r = recast_begin_fold(&rc, layer);
	if (!r)
		r = recast_work(&rc);
	atomic_fetch_sub(&layer->users, 1);
	/* The same layer may stand on another one that can be folded. */
	if (!r)
		*below += 1;
	/* Somebody came to stand there meanwhile, it is gone, or there is no space: the next one.
	 */
	return !r || r == -EAGAIN || r == -ESTALE || r == -EALREADY || r == -ENOSPC ||
			       (r == -ECANCELED && !recast_is_stopped(options))
		       ? 1
		       : r;
}

int fs_fold(struct fs *fs, const struct fs_recast_options *options)
{
	uint64_t below = UINT64_MAX;
	int r = fs_writable(fs);

	while (!r && (r = fold_one(fs, options, &below)) == 1)
		r = 0;
	return r;
}

/* ---- what was begun ---- */

const char *recast_state(struct inode *inode)
{
	const struct layer *layer = atomic_load(&inode->layer);

	for (; layer; layer = layer->parent) {
		if (layer->recast.kind == GF_RECAST_REBASE)
			return "rebasing";
		if (layer->recast.kind == GF_RECAST_THIN || layer->recast.kind == GF_RECAST_FULL)
			return "copying";
	}
	return "ok";
}

static const char *name_of(uint32_t kind)
{
	return kind == GF_RECAST_FOLD ? "fold" : kind == GF_RECAST_REBASE ? "rebase" : "convert";
}

/* A fold waits for what is done with the layer that is to go. */
static bool can_go_on(const struct layer *layer)
{
	if (layer->recast.kind == GF_RECAST_NONE || atomic_load(&layer->recast_busy))
		return false;
	return layer->recast.kind != GF_RECAST_FOLD || !layer->parent ||
	       !atomic_load(&layer->parent->recast_busy);
}

/* tree held. */
static struct layer *find_begun(struct fs *fs)
{
	struct layer_entry *entry, *next;

	HASH_ITER (hh, fs->layers, entry, next)
		if (can_go_on(entry->layer))
			return entry->layer;
	return NULL;
}

int fs_recast_owed(struct fs *fs, uint64_t *ino, const char **kind)
{
	struct layer *layer;
	int owed = 1;

	*ino = 0;
	if (fs_writable(fs))
		return 0;
	pthread_rwlock_rdlock(&fs->tree);
	layer = find_begun(fs);
	if (layer) {
		*kind = name_of(layer->recast.kind);
		*ino = layer->recast.ino;
	} else if (find_foldable(fs, UINT64_MAX)) {
		*kind = "fold";
	} else {
		owed = 0;
	}
	pthread_rwlock_unlock(&fs->tree);
	return owed;
}

int fs_recast_go_on(struct fs *fs, const struct fs_recast_options *options)
{
	struct recast rc = {.fs = fs, .options = options};
	struct layer *layer;
	int r = fs_writable(fs);

	if (r)
		return r;
	pthread_rwlock_rdlock(&fs->tree);
	layer = find_begun(fs);
	if (layer)
		atomic_fetch_add(&layer->users, 1);
	pthread_rwlock_unlock(&fs->tree);
	if (!layer)
		return fs_fold(fs, options);
	r = recast_resume(&rc, layer);
	if (!r)
		r = recast_work(&rc);
	atomic_fetch_sub(&layer->users, 1);
	return r == -EAGAIN || r == -ESTALE ? 0 : r;
}
