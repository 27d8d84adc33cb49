/* SPDX-License-Identifier: MIT */
/*
 * Changes of whole ranges of a clone that carry no bytes: truncate, punch, zero, preallocate; and
 * finding data and holes over all layers merged.
 *
 * Whole blocks change their state only; what a range covers of a block at its edges is written as
 * zeros, in the same record. Nothing is ever preallocated: a clone takes space when it is written.
 */
#include "core/fs_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mutation.h"
#include "base/sizes.h"
#include "core/recast.h"

/* Ops that may come in one record: two edges with their bytes, a clear, a size. */
#define RANGE_OPS_BOUND (2 * (sizeof(struct gf_op_blocks) + GF_BLOCK_SIZE) + 256)

/* Adds a WRITE of the block with [from, to) of it zeroed. Nothing when it is zero there already. */
static int add_zeroed_edge(struct fs *fs, struct inode *inode, struct opbuf *buf, uint64_t block,
	size_t from, size_t to, uint64_t size)
{
	struct layer *layer = atomic_load(&inode->layer);
	uint8_t bytes[GF_BLOCK_SIZE];
	struct gf_op_blocks *op;
	unsigned token = drain_enter(&fs->readers);
	int r = volume_read_blocks(fs, layer, bytes, block, 1, READ_HELD | READ_CHECKED);

	drain_leave(&fs->readers, token);
	if (r)
		return r;
	memset(bytes + from, 0, to - from);
	if (!OPBUF_ADD(buf, GF_OP_WRITE, 0, op, GF_BLOCK_SIZE))
		return -ENOMEM;
	op->ino = inode->ino;
	op->layer = layer->id;
	op->block = block;
	op->count = 1;
	op->size = size;
	op->time_ns = now_ns();
	memcpy(op + 1, bytes, GF_BLOCK_SIZE);
	return 0;
}

int op_add_size(struct opbuf *buf, uint64_t ino, uint64_t layer, uint64_t size)
{
	struct gf_op_size *op;

	if (!OPBUF_ADD(buf, GF_OP_SIZE, 0, op, 0))
		return -ENOMEM;
	op->ino = ino;
	op->layer = layer;
	op->size = size;
	op->time_ns = now_ns();
	return 0;
}

/* Nothing of the layer may be destaged or read half while its end moves. */
static int truncate_locked(struct fs *fs, struct inode *inode, uint64_t size)
{
	struct layer *layer = atomic_load(&inode->layer);
	struct opbuf buf;
	int r = 0;

	opbuf_init(&buf);
	/* The block that keeps its first bytes must not show its old end when the file grows
	 * again: the bound hides what is below, own bytes have to be zeroed. */
	if (size < inode->size && size % GF_BLOCK_SIZE &&
		!MUTATED("truncation leaves the end of the last block")) {
		unsigned token = drain_enter(&fs->readers);
		struct extent x;

		r = layer_resolve(layer, size / GF_BLOCK_SIZE, 1, false, &x);
		drain_leave(&fs->readers, token);
		if (!r && x.layer == layer && x.kind != EXTENT_ZERO)
			r = add_zeroed_edge(fs, inode, &buf, size / GF_BLOCK_SIZE,
				size % GF_BLOCK_SIZE, GF_BLOCK_SIZE, size);
	}
	if (!r)
		r = op_add_size(&buf, inode->ino, layer->id, size);
	if (!r)
		r = record_commit(fs, &buf, NULL);
	opbuf_release(&buf);
	return r;
}

int volume_truncate(struct fs *fs, struct inode *inode, uint64_t size)
{
	struct range range;
	struct layer *layer;
	int64_t room;
	int r;

	if (size > GF_MAX_SIZE)
		return -EFBIG;
	r = recast_grow(fs, inode, size);
	if (r)
		return r;
	room = record_reserve_urgent(fs, RANGE_OPS_BOUND);
	if (room < 0)
		return room;
	pthread_rwlock_wrlock(&inode->io);
	layer = atomic_load(&inode->layer);
	rangelock_lock(&layer->ranges, &range, 0, UINT64_MAX);
	inode->copy_task = 0;
	r = volume_writable(inode);
	if (!r)
		r = truncate_locked(fs, inode, size);
	rangelock_unlock(&layer->ranges, &range);
	pthread_rwlock_unlock(&inode->io);
	journal_unreserve(fs->journal, room);
	return r ? volume_error(fs, r) : 0;
}

/* Whether zeros show through where the layer owns nothing: then PARENT says it as well as ZERO. */
static enum gf_state zero_state(const struct layer *layer)
{
	return layer->parent || layer->image || atomic_load(&layer->keeps) ? GF_ZERO : GF_PARENT;
}

static int add_clear(struct opbuf *buf, struct inode *inode, uint64_t first, uint64_t end)
{
	struct layer *layer = atomic_load(&inode->layer);
	struct gf_op_clear *op;

	if (first >= end)
		return 0;
	if (!OPBUF_ADD(buf, GF_OP_CLEAR, zero_state(layer), op, 0))
		return -ENOMEM;
	op->ino = inode->ino;
	op->layer = layer->id;
	op->block = first;
	op->count = end - first;
	op->time_ns = now_ns();
	return 0;
}

/* Zeroes [off, off + len), which lies within the file. */
static int zero_range_locked(struct fs *fs, struct inode *inode, uint64_t off, uint64_t len,
	uint64_t size, struct opbuf *buf)
{
	uint64_t end = off + len;
	uint64_t first = round_up(off, GF_BLOCK_SIZE) / GF_BLOCK_SIZE;
	uint64_t last = end / GF_BLOCK_SIZE;
	int r = 0;

	/* A range up to the end of the file takes the last block whole. */
	if (end >= size)
		last = round_up(end, GF_BLOCK_SIZE) / GF_BLOCK_SIZE;
	if (first > last) /* within one block */
		return add_zeroed_edge(fs, inode, buf, off / GF_BLOCK_SIZE, off % GF_BLOCK_SIZE,
			end % GF_BLOCK_SIZE, size);
	if (off % GF_BLOCK_SIZE)
		r = add_zeroed_edge(fs, inode, buf, off / GF_BLOCK_SIZE, off % GF_BLOCK_SIZE,
			GF_BLOCK_SIZE, size);
	if (!r)
		r = add_clear(buf, inode, first, last);
	if (!r && last * GF_BLOCK_SIZE < end)
		r = add_zeroed_edge(fs, inode, buf, last, 0, end % GF_BLOCK_SIZE, size);
	COUNT(fs, discard_bytes, len);
	return r;
}

static int change_range(struct fs *fs, struct inode *inode, uint64_t off, uint64_t len, bool zero,
	bool grow)
{
	uint64_t size = atomic_load(&inode->size), end = off + len;
	struct opbuf buf;
	int r = 0;

	opbuf_init(&buf);
	if (zero && off < size)
		r = zero_range_locked(fs, inode, off, min_u64(end, size) - off, size, &buf);
	if (!r && grow && end > size)
		r = op_add_size(&buf, inode->ino, atomic_load(&inode->layer)->id, end);
	if (!r && buf.len)
		r = record_commit(fs, &buf, NULL);
	opbuf_release(&buf);
	return r;
}

int fs_fallocate(struct fs *fs, uint64_t ino, int mode, uint64_t off, uint64_t len)
{
	bool punch = mode & FALLOC_FL_PUNCH_HOLE;
	bool zero = punch || (mode & FALLOC_FL_ZERO_RANGE);
	struct inode *inode;
	struct range range;
	struct layer *layer;
	int64_t room;
	int r;

	if (mode & ~(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE) ||
		(punch && !(mode & FALLOC_FL_KEEP_SIZE)))
		return -EOPNOTSUPP;
	if (!len)
		return -EINVAL;
	if (off > GF_MAX_SIZE || len > GF_MAX_SIZE - off)
		return -EFBIG;
	inode = volume_find(fs, ino, &r);
	if (!inode)
		return r;
	if (inode->kind != GF_KIND_USER)
		return -EROFS;
	if (!(mode & FALLOC_FL_KEEP_SIZE))
		r = recast_grow(fs, inode, off + len);
	if (r)
		return r;
	room = record_reserve_urgent(fs, RANGE_OPS_BOUND);
	if (room < 0)
		return room;
	/* Only a call that may grow the file has to keep writers out. */
	if (mode & FALLOC_FL_KEEP_SIZE)
		pthread_rwlock_rdlock(&inode->io);
	else
		pthread_rwlock_wrlock(&inode->io);
	layer = atomic_load(&inode->layer);
	rangelock_lock(&layer->ranges, &range, off / GF_BLOCK_SIZE, (off + len) / GF_BLOCK_SIZE);
	r = volume_writable(inode);
	if (!r)
		r = change_range(fs, inode, off, len, zero, !(mode & FALLOC_FL_KEEP_SIZE));
	rangelock_unlock(&layer->ranges, &range);
	pthread_rwlock_unlock(&inode->io);
	journal_unreserve(fs->journal, room);
	return r ? volume_error(fs, r) : 0;
}

/* ---- data and holes ---- */

/* Whether byte `at` holds data, and up to where the answer is the same. */
static int data_at(struct layer *layer, uint64_t at, uint64_t size, bool *data, uint64_t *until)
{
	uint64_t block = at / GF_BLOCK_SIZE;
	uint64_t blocks = round_up(size, GF_BLOCK_SIZE) / GF_BLOCK_SIZE - block;
	uint64_t start, end;
	struct extent x;
	int r;

	r = layer_resolve(layer, block, blocks, false, &x);
	if (r)
		return r;
	*until = min_u64((block + x.count) * GF_BLOCK_SIZE, size);
	*data = x.kind != EXTENT_ZERO;
	if (x.kind != EXTENT_IMAGE)
		return 0;
	if (x.limit < *until && at < x.limit)
		*until = x.limit;
	r = x.image->ops->next_data(x.image, at, &start, &end);
	if (r == -ENXIO) {
		*data = false;
		return 0;
	}
	if (r)
		return r;
	*data = start <= at;
	*until = min_u64(*until, *data ? end : start);
	return 0;
}

int64_t fs_seek(struct fs *fs, uint64_t ino, uint64_t off, int whence)
{
	struct inode *inode;
	unsigned token;
	uint64_t size;
	int r = 0;

	if (whence != SEEK_DATA && whence != SEEK_HOLE)
		return -EINVAL;
	inode = volume_find(fs, ino, &r);
	if (!inode)
		return r;
	if (inode->kind == GF_KIND_GOLDEN)
		return golden_seek(fs, inode, off, whence);
	size = atomic_load(&inode->size);
	token = drain_enter(&fs->readers);
	while (off < size) {
		uint64_t until;
		bool data;

		r = data_at(atomic_load(&inode->layer), off, size, &data, &until);
		if (r || data == (whence == SEEK_DATA))
			break;
		off = until;
	}
	drain_leave(&fs->readers, token);
	if (r)
		return r == -EUCLEAN || r == -ESTALE ? -EIO : r;
	if (off < size)
		return off;
	return whence == SEEK_HOLE && off == size ? (int64_t)size : -ENXIO;
}
