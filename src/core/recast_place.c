/* SPDX-License-Identifier: MIT */
/*
 * Files of mode full: there is a place for each of their blocks in the data file of their layer,
 * also for those that are zeros, so that no write to them ever lacks space.
 *
 * layer.whole_blocks says up to where. Below that nothing is punched, whatever becomes of a block,
 * and a write needs no space. It is not stored: the mode is, or that the layer is on its way there,
 * and whoever opens the store sees to it that the data file has that much. A file that grows gets its new places before it does. When
 * its layer is frozen, or its mode becomes another one, what is not used is given back.
 *
 * A file whose layer was frozen goes on in one that has no places: what they are for is below, and shared.
 * It is told as thin, since that is what it is, until it stands on nothing again: when those below
 * were folded into it, or it is converted once more, it gets its places back.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/mutation.h"
#include "base/sizes.h"
#include "core/recast.h"

#define LAST_BLOCK (GF_MAX_SIZE / GF_BLOCK_SIZE - 1) /* stands elsewhere */

static uint64_t blocks_of(uint64_t bytes)
{
	return round_up(bytes, GF_BLOCK_SIZE) / GF_BLOCK_SIZE;
}

/* Bytes that the layer's data file takes. */
static uint64_t allocated_bytes(struct fs *fs, const struct layer *layer)
{
	struct io_stat st = {0};
	char path[40];
	int fd;

	snprintf(path, sizeof(path), "layer/%llu.data", (unsigned long long)layer->id);
	fd = fs->io->ops->open(fs->io, path, O_RDONLY);
	if (fd < 0)
		return 0;
	if (fs->io->ops->stat(fs->io, fd, &st))
		st.allocated = 0;
	fs->io->ops->close(fs->io, fd);
	return st.allocated;
}

int recast_place(struct fs *fs, struct layer *layer, uint64_t end)
{
	uint64_t blocks = blocks_of(end), old = atomic_load(&layer->whole_blocks);
	uint64_t has = old ? old * GF_BLOCK_SIZE : allocated_bytes(fs, layer), bytes;
	int r;

	if (blocks <= old)
		return 0;
	bytes = less_u64(blocks * GF_BLOCK_SIZE, has);
	r = space_get(fs, NULL, bytes + bytes / 256);
	if (r)
		return r;
	/* First, so that nothing is punched any more. */
	atomic_store(&layer->whole_blocks, blocks);
	r = layer_allocate(layer, old, blocks - old);
	if (r) {
		atomic_store(&layer->whole_blocks, old);
		layer_note_punch(layer, old, blocks - old);
	}
	space_given_back(fs);
	return r;
}

/* Whether the file is to have them, as far as anybody promised. */
static bool is_promised(const struct inode *inode, const struct layer *layer)
{
	if (layer->recast.kind == GF_RECAST_FULL)
		return true;
	return inode->copy_mode == GF_MODE_FULL && !layer->parent && !layer->image;
}

/* What the file is whose layer this is and that is to have a place for each block; 0: there is none. */
static uint64_t owed_to(struct fs *fs, const struct layer *layer, uint64_t *size)
{
	struct inode *inode;
	uint64_t ino = 0;

	pthread_rwlock_rdlock(&fs->tree);
	inode = layer->head_of ? tree_find(fs, layer->head_of) : NULL;
	if (inode && is_promised(inode, layer)) {
		ino = inode->ino;
		*size = atomic_load(&inode->size);
	}
	pthread_rwlock_unlock(&fs->tree);
	return ino;
}

/* Whether all blocks that the file has have a place; an empty one has no block. */
static bool has_all(const struct inode *inode)
{
	return atomic_load(&atomic_load(&inode->layer)->whole_blocks) ||
	       (inode->copy_mode == GF_MODE_FULL && !atomic_load(&inode->size));
}

int recast_grow(struct fs *fs, struct inode *inode, uint64_t end)
{
	uint64_t size;
	struct layer *layer;
	int r = 0;

	if (end <= atomic_load(&inode->size) || !has_all(inode))
		return 0;
	pthread_rwlock_rdlock(&fs->tree);
	layer = atomic_load(&inode->layer);
	atomic_fetch_add(&layer->users, 1);
	pthread_rwlock_unlock(&fs->tree);
	pthread_mutex_lock(&fs->place_lock);
	if (atomic_load(&layer->whole_blocks) || owed_to(fs, layer, &size))
		r = recast_place(fs, layer, end);
	pthread_mutex_unlock(&fs->place_lock);
	atomic_fetch_sub(&layer->users, 1);
	return r;
}

void recast_place_again(struct fs *fs, struct layer *layer)
{
	uint64_t size, ino = owed_to(fs, layer, &size);
	int r;

	if (!ino)
		return;
	pthread_mutex_lock(&fs->place_lock);
	r = recast_place(fs, layer, size);
	/* Frozen meanwhile: it has no file to which that was promised. */
	if (!owed_to(fs, layer, &size))
		recast_unplace(layer, 0);
	pthread_mutex_unlock(&fs->place_lock);
	if (!r)
		r = SITE("recast: sync the places that a file has again", layer_sync_data(layer));
	if (r)
		log_warning("file %llu was to have a place for each block again, and has not: %s; "
			    "convert it once more",
			(unsigned long long)ino, strerror(-r));
}

const char *recast_mode(struct inode *inode)
{
	uint64_t blocks = blocks_of(atomic_load(&inode->size));
	enum gf_mode mode = inode->copy_mode;

	if (mode == GF_MODE_FULL && atomic_load(&atomic_load(&inode->layer)->whole_blocks) < blocks)
		mode = GF_MODE_THIN;
	return mode == GF_MODE_FULL ? "full" : mode == GF_MODE_THIN ? "thin" : "snapshot";
}

void recast_unplace(struct layer *layer, uint64_t from)
{
	uint64_t old = atomic_load(&layer->whole_blocks);

	if (from >= old)
		return;
	atomic_store(&layer->whole_blocks, from);
	/* What is in use stays, whatever is noted. */
	layer_note_punch(layer, from, old - from);
}

/*
 * What a dead process gave back may look as if it were there still, at other places. Where all is
 * there this changes nothing.
 */
static int find_places(struct fs *fs, struct layer *layer, uint64_t blocks)
{
	uint64_t bytes = min_u64(blocks, LAST_BLOCK) * GF_BLOCK_SIZE;
	uint64_t has = allocated_bytes(fs, layer);
	int r = 0;

	if (fs->options.read_only)
		return has < bytes ? -ENOSPC : 0;
	if (has < bytes)
		r = space_check(fs, bytes - has);
	return r ? r : layer_allocate(layer, 0, blocks);
}

void recast_find_places(struct fs *fs)
{
	struct inode *inode, *next;

	HASH_ITER (by_ino, fs->inodes, inode, next) {
		struct layer *layer = atomic_load(&inode->layer);
		uint64_t blocks = blocks_of(atomic_load(&inode->size));
		int r;

		if (!layer || !blocks || !is_promised(inode, layer))
			continue;
		r = find_places(fs, layer, blocks);
		if (!r)
			atomic_store(&layer->whole_blocks, blocks);
		else if (layer->recast.kind != GF_RECAST_FULL)
			log_warning("file %llu is to have a place for each block, and has not: %s; "
				    "convert it once more",
				(unsigned long long)inode->ino, strerror(-r));
	}
}
