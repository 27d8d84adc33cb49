/* SPDX-License-Identifier: MIT */
/* See the header. */
#include "core/freeze.h"

#include <errno.h>
#include <string.h>

#include "base/mutation.h"
#include "base/sizes.h"

bool frozen_equal(const struct frozen *a, const struct frozen *b)
{
	/* What shows nothing of what is below stands on it as well as on anything else. */
	bool same_ground = a->parent == b->parent && a->golden == b->golden;

	return a->size == b->size && a->bound == b->bound && (same_ground || !a->bound);
}

int op_add_layer(struct opbuf *buf, const struct frozen *at, uint64_t *next_layer, uint64_t *id)
{
	struct gf_op_intent *mark;
	struct gf_op_layer *op;

	if (!OPBUF_ADD(buf, GF_OP_LAYER, 0, op, 0))
		return -ENOMEM;
	*id = (*next_layer)++;
	op->layer = *id;
	op->parent = at->parent;
	op->golden = at->golden;
	op->bound = at->bound;
	/* After a snapshot a guest that overwrites would wait for a sync of the journal otherwise, behind all
	 * that the disk is busy with, and the next snapshot for the guest. */
	if (MUTATED("a new layer is not marked"))
		return 0;
	if (!OPBUF_ADD(buf, GF_OP_INTENT, 0, mark, 0))
		return -ENOMEM;
	mark->layer = *id;
	return 0;
}

int op_add_head(struct opbuf *buf, uint64_t ino, uint64_t layer)
{
	struct gf_op_pair *op;

	if (!OPBUF_ADD(buf, GF_OP_HEAD, 0, op, 0))
		return -ENOMEM;
	op->id = ino;
	op->value = layer;
	return 0;
}

int file_freeze(struct inode *inode, struct frozen *at, bool *fresh)
{
	struct layer *top = atomic_load(&inode->layer);

	*at = (struct frozen){.size = atomic_load(&inode->size)};
	*fresh = false;
	/* What stands there is not known to be durable, and could not be made so. */
	if (failing_layer(top))
		return -EIO;
	if (layer_next_region(top, 0) == LAYER_NO_REGION) {
		at->parent = top->parent ? top->parent->id : 0;
		at->golden = top->parent ? 0 : top->golden;
		at->bound = min_u64(top->bound, at->size);
		return 0;
	}
	*fresh = true;
	at->parent = top->id;
	at->bound = at->size;
	/* A copy into the file cannot grow a frozen layer: its next call moves bytes. */
	inode->copy_task = 0;
	return 0;
}

int file_go_on(struct opbuf *buf, struct inode *inode, const struct frozen *at, uint64_t *next_layer)
{
	uint64_t head;
	int r = op_add_layer(buf, at, next_layer, &head);

	return r ? r : SITE("clone: the source goes on in a layer of its own",
		op_add_head(buf, inode->ino, head));
}

/* ---- a source of clones ---- */

int source_freeze(struct fs *fs, struct source *src, struct opbuf *buf)
{
	bool fresh;
	int r;

	src->next_layer = fs->next_layer;
	if (src->inode->kind != GF_KIND_GOLDEN) {
		pthread_rwlock_wrlock(&src->inode->io);
		r = file_freeze(src->inode, &src->at, &fresh);
		return !r && fresh ? file_go_on(buf, src->inode, &src->at, &src->next_layer) : r;
	}
	/* Found without the lock; gone meanwhile when its last clone was removed. */
	if (!src->pinned.fresh && !tree_find_golden(fs, src->pinned.id) && !buf->len)
		return -EAGAIN;
	src->at = (struct frozen){.golden = src->pinned.id, .bound = src->pinned.size,
		.size = src->pinned.size};
	return 0;
}

void source_thaw(struct source *src)
{
	if (src->inode->kind != GF_KIND_GOLDEN)
		pthread_rwlock_unlock(&src->inode->io);
}

int source_begin(struct fs *fs, uint64_t ino, bool opaque, struct opbuf *buf, struct source *src)
{
	int r = 0;

	memset(src, 0, sizeof(*src));
	pthread_mutex_lock(&fs->pin_lock);
	/* A reference of our own: whoever asks may have none. */
	pthread_rwlock_rdlock(&fs->tree);
	src->inode = tree_find(fs, ino);
	if (!src->inode)
		r = -ESTALE;
	else if (!S_ISREG(src->inode->mode))
		r = S_ISDIR(src->inode->mode) ? -EISDIR : -EINVAL;
	else
		atomic_fetch_add(&src->inode->lookups, 1);
	pthread_rwlock_unlock(&fs->tree);
	if (!r && src->inode->kind == GF_KIND_GOLDEN)
		r = golden_pin(fs, src->inode, opaque, buf, &src->pinned);
	if (r)
		pthread_mutex_unlock(&fs->pin_lock);
	if (r && src->inode && S_ISREG(src->inode->mode))
		fs_forget(fs, ino, 1);
	return r;
}

void source_end(struct fs *fs, struct source *src, int result)
{
	if (src->inode->kind == GF_KIND_GOLDEN)
		golden_pinned(fs, &src->pinned, result);
	pthread_mutex_unlock(&fs->pin_lock);
}
