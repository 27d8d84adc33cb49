/* SPDX-License-Identifier: MIT */
/*
 * After a large write that failed half way: what the next recovery makes of it.
 *
 * Its record is in the journal, and some of its bytes may be in place. Recovery would take up every
 * block whose bytes match the announcement, and so change what was read ever since the failure. So
 * one more record says again what the blocks of the range are: those in the journal with their
 * bytes, the others as clear. Blocks that were overwritten in place are what is there now, old or
 * new; only their checksums have to be made true. The edges of the write stand in its record with
 * their bytes, so they are said again in any case. A file that its record made larger is as long as it
 * was, unless another write made it larger meanwhile: who writes up to the same end has to wait for the
 * range.
 */
#include "core/fs_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/sizes.h"

static int add_block(struct fs *fs, struct layer *layer, uint64_t block, struct opbuf *buf)
{
	struct gf_op_blocks *op;

	if (!OPBUF_ADD(buf, GF_OP_WRITE, 0, op, GF_BLOCK_SIZE))
		return -ENOMEM;
	op->layer = layer->id;
	op->block = block;
	op->count = 1;
	return volume_read_blocks(fs, layer, (uint8_t *)(op + 1), block, 1, false);
}

static int add_clear(struct layer *layer, uint64_t block, uint64_t count, enum gf_state state,
	struct opbuf *buf)
{
	struct gf_op_clear *op;

	if (!OPBUF_ADD(buf, GF_OP_CLEAR, state, op, 0))
		return -ENOMEM;
	op->layer = layer->id;
	op->block = block;
	op->count = count;
	return 0;
}

static void mend_sums(struct fs *fs, struct layer *layer, uint64_t block, uint64_t count)
{
	uint8_t bytes[GF_BLOCK_SIZE];

	for (uint64_t i = 0; i < count; i++) {
		uint32_t sum;

		if (layer_read_data(layer, bytes, sizeof(bytes), (block + i) * GF_BLOCK_SIZE))
			continue;
		sum = hash_block(fs->super.secret, bytes);
		layer_write_sums(layer, block + i, &sum, 1);
	}
}

/* What is said again with its bytes, block by block: all but what is in place or nowhere. */
static bool needs_bytes(const struct extent *x, const struct layer *layer)
{
	return x->layer == layer && (x->kind == EXTENT_JOURNAL || x->kind == EXTENT_POOL ||
					    x->kind == EXTENT_GOLDEN);
}

/* What one run of blocks is, as ops. */
static int add_run(struct fs *fs, struct layer *layer, uint64_t block, const struct extent *x,
	bool placed, struct opbuf *buf)
{
	if (x->layer != layer)
		return add_clear(layer, block, x->count, GF_PARENT, buf);
	if (x->kind == EXTENT_ZERO)
		return add_clear(layer, block, x->count, GF_ZERO, buf);
	if (needs_bytes(x, layer) || !placed)
		return add_block(fs, layer, block, buf);
	mend_sums(fs, layer, block, x->count);
	return 0;
}

/* Appends what was gathered, and remembers the new places of journaled blocks. */
static int say_again(struct fs *fs, struct layer *layer, struct opbuf *buf)
{
	struct iovec iov = {.iov_base = buf->bytes, .iov_len = buf->len};
	const struct gf_disk_op *op;
	size_t pos = 0, at = 0;
	uint64_t seq, ops_pos;
	int64_t room;
	int r, error;

	if (buf->failed)
		return -ENOMEM;
	room = journal_try_reserve(fs->journal, buf->len, JOURNAL_CARRY);
	if (room < 0)
		return room;
	r = journal_append(fs->journal, &iov, 1, &seq, &ops_pos);
	while (!r && (op = ops_next(buf->bytes, buf->len, &pos, &error)) != NULL) {
		const struct gf_op_blocks *write = (const void *)op;

		if (op->type == GF_OP_WRITE)
			r = layer_set_journaled(
				layer, write->block, 1, ops_pos + at + sizeof(*write), seq,
				write + 1);
		at = pos;
	}
	journal_unreserve(fs->journal, room);
	return r;
}

static void add_ungrow(struct opbuf *buf, uint64_t ino, uint64_t grown, uint64_t size)
{
	struct gf_op_ungrow *op;

	if (grown <= size || !OPBUF_ADD(buf, GF_OP_UNGROW, 0, op, 0))
		return;
	op->ino = ino;
	op->grown = grown;
	op->size = size;
}

void undo_large(struct fs *fs, const struct undo *undo)
{
	uint64_t block = undo->block, count = undo->end - block;
	struct layer *layer = undo->layer;
	struct opbuf buf;
	int r = 0;

	opbuf_init(&buf);
	add_ungrow(&buf, undo->ino, undo->grown, undo->size);
	while (count && !r) {
		bool placed = block >= undo->large_first && block < undo->large_last;
		struct extent x;

		r = layer_resolve(layer, block, count, false, &x);
		/* A record has room for some blocks only; and edges are not like the rest. */
		if (!r && (needs_bytes(&x, layer) || !placed))
			x.count = 1;
		else if (!r)
			x.count = min_u64(x.count, undo->large_last - block);
		if (!r)
			r = add_run(fs, layer, block, &x, placed, &buf);
		if (!r && buf.len > 16 * GF_BLOCK_SIZE) {
			r = say_again(fs, layer, &buf);
			opbuf_release(&buf);
			opbuf_init(&buf);
		}
		block += x.count;
		count -= x.count;
	}
	if (!r && buf.len)
		r = say_again(fs, layer, &buf);
	/* The next recovery may show new bytes of some blocks, but not once the file was synced. */
	if (r)
		layer_note_not_undone(layer, undo->seq);
	opbuf_release(&buf);
}
