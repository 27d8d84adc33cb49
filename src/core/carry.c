/* SPDX-License-Identifier: MIT */
/*
 * Records that a checkpoint cannot make superfluous: carrying them on, and taking them back.
 *
 * The tail of the ring may pass a record only when its effects are durable elsewhere. There are
 * two sorts for which that cannot be brought about now: small blocks for which the file system
 * below has no space, and everything about the blocks of a layer whose files can no longer be
 * synced (failing.c). They must not stop the ring for all others: they are carried on, which is to
 * say appended again at its head, so that the tail can pass the old ones.
 *
 *   - of a healthy layer, the blocks that are still the newest version, under their range lock, so
 *     that no newer one comes between; all else about it is in its pages
 *   - of a layer that is left out, all of its ops in their order; only older versions are dropped
 *     over which a newer small write stands in the ring. A large write that was committed says so
 *     in its copy, since the commit record names the old number. A change of size that cut blocks
 *     off becomes a clear of those blocks: its other effects are in the catalog
 *
 * The copies have no inode: sizes and times are in the catalog. Replayed in order they come to
 * what the old ones came to.
 *
 * Taking back is what follows a failed sync: what was destaged since the last good one may not be
 * on the disk. The records are all still in the ring, so applying those of the layer once more to
 * the maps in memory makes their blocks journaled again, as recovery would.
 */
#include "core/fs_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mutation.h"
#include "base/sizes.h"

struct carry {
	struct fs *fs;
	uint64_t copy_below; /* records from this number on stay, and the tail stops there */
	uint64_t seq; /* of the record */
	struct journal_mark reached;
	uint64_t copied; /* bytes */
	uint64_t origin; /* of the op's record: what it is a copy of, or itself */
};

/* The op is to stay where it is: the tail cannot pass it. */
enum { STOP = 1 };

static uint64_t layer_of(const struct gf_disk_op *op)
{
	const void *p = op;

	switch ((enum gf_op_type)op->type) {
	case GF_OP_WRITE:
	case GF_OP_LARGE:
	case GF_OP_SHARE:
		return ((const struct gf_op_blocks *)p)->layer;
	case GF_OP_CLEAR:
		return ((const struct gf_op_clear *)p)->layer;
	case GF_OP_SIZE:
		return ((const struct gf_op_size *)p)->layer;
	case GF_OP_INTENT:
		return ((const struct gf_op_intent *)p)->layer;
	default:
		return 0;
	}
}

/* Whether the bytes of a block at pos are its newest version, or may be needed all the same. */
static bool is_wanted(struct fs *fs, struct layer *layer, uint64_t block, uint64_t pos)
{
	struct jentry now;

	if (!jindex_get(fs->jindex, layer->id, block, &now))
		return layer->left_out; /* under a large write that may not have arrived */
	return now.pos == pos;
}

/*
 * Copies of a layer that is left out do not come in one piece, and older versions are among them: a
 * crash must find each in the place of what it is a copy of. Those of a healthy one are the newest
 * version, wherever they stand.
 */
static void begin_copy(const struct carry *c, const struct layer *layer, struct opbuf *buf)
{
	struct gf_op_carried *op;

	opbuf_init(buf);
	if (layer->left_out && OPBUF_ADD(buf, GF_OP_CARRIED, 0, op, 0))
		op->seq = c->origin;
}

/* Appends buf, one op with bytes that stood at old_pos; the new place of those that are the newest
 * version is remembered. */
static int append_copy(struct carry *c, struct layer *layer, struct opbuf *buf, uint64_t old_pos)
{
	struct iovec iov = {.iov_base = buf->bytes, .iov_len = buf->len};
	size_t at = layer->left_out ? sizeof(struct gf_op_carried) : 0;
	const struct gf_op_blocks *op = (const void *)(buf->bytes + at);
	struct fs *fs = c->fs;
	uint64_t seq, pos;
	int64_t room;
	int r;

	if (buf->failed)
		return -ENOMEM;
	room = journal_try_reserve(fs->journal, buf->len, JOURNAL_CARRY);
	if (room < 0)
		return room == -ENOSPC ? STOP : room;
	pthread_rwlock_rdlock(&fs->gate);
	r = journal_append(fs->journal, &iov, 1, &seq, &pos);
	if (!r)
		c->copied += buf->len;
	for (uint32_t i = 0; !r && op->op.type == GF_OP_WRITE && i < op->count; i++) {
		uint64_t off = (uint64_t)i * GF_BLOCK_SIZE;
		struct jentry now;

		if (jindex_get(fs->jindex, layer->id, op->block + i, &now) &&
			now.pos == old_pos + off)
			r = layer_set_journaled(
				layer, op->block + i, 1, pos + at + sizeof(*op) + off, seq,
				(const uint8_t *)(op + 1) + off);
	}
	pthread_rwlock_unlock(&fs->gate);
	journal_unreserve(fs->journal, room);
	return r == -ENOSPC ? STOP : r;
}

/* Blocks [i, i + n) of a WRITE op whose bytes stand at pos. */
static int carry_run(struct carry *c, struct layer *layer, const struct gf_op_blocks *op,
	uint32_t i, uint32_t n, uint64_t pos)
{
	struct gf_op_blocks *copy;
	struct opbuf buf;
	int r;

	begin_copy(c, layer, &buf);
	if (OPBUF_ADD(&buf, GF_OP_WRITE, 0, copy, (size_t)n * GF_BLOCK_SIZE)) {
		copy->layer = op->layer;
		copy->block = op->block + i;
		copy->count = n;
		memcpy(copy + 1, (const uint8_t *)(op + 1) + (size_t)i * GF_BLOCK_SIZE,
			(size_t)n * GF_BLOCK_SIZE);
	}
	r = append_copy(c, layer, &buf, pos + (uint64_t)i * GF_BLOCK_SIZE);
	opbuf_release(&buf);
	return r;
}

static int carry_write(struct carry *c, struct layer *layer, const struct gf_op_blocks *op,
	uint64_t pos)
{
	struct range range;
	uint32_t n;
	int r = 0;

	if (!op->count)
		return 0;
	rangelock_lock(&layer->ranges, &range, op->block, op->block + op->count - 1);
	for (uint32_t i = 0; i < op->count && !r; i += n) {
		bool wanted = is_wanted(
			c->fs, layer, op->block + i, pos + (uint64_t)i * GF_BLOCK_SIZE);

		for (n = 1; i + n < op->count; n++)
			if (is_wanted(c->fs, layer, op->block + i + n,
				    pos + (uint64_t)(i + n) * GF_BLOCK_SIZE) != wanted)
				break;
		if (wanted)
			r = c->seq < c->copy_below ? carry_run(c, layer, op, i, n, pos) : STOP;
	}
	rangelock_unlock(&layer->ranges, &range);
	return r;
}

/* The copy of an announcement says itself what a commit record says of the original. */
static unsigned synced_flag(const struct layer *layer, const struct gf_disk_op *op, uint64_t seq)
{
	bool committed = op->flags & GF_LARGE_SYNCED || seq <= atomic_load(&layer->committed_seq);

	return committed ? GF_LARGE_SYNCED : 0;
}

static void copy_large(struct opbuf *buf, const struct layer *layer,
	const struct gf_op_blocks *op, uint64_t seq)
{
	size_t tail = op->op.length - sizeof(*op);
	struct gf_op_blocks *copy;

	if (!OPBUF_ADD(buf, GF_OP_LARGE, synced_flag(layer, &op->op, seq), copy, tail))
		return;
	copy->layer = op->layer;
	copy->block = op->block;
	copy->count = op->count;
	memcpy(copy + 1, op + 1, tail);
}

/* Blocks [i, i + n) of a SHARE op. */
static void copy_shared_run(struct opbuf *buf, const struct gf_op_share *op, uint32_t i, uint32_t n,
	unsigned flag)
{
	const size_t size = sizeof(uint32_t); /* of a checksum */
	struct gf_op_share *copy;

	if (!OPBUF_ADD(buf, GF_OP_SHARE, flag, copy, n * size))
		return;
	copy->blocks.layer = op->blocks.layer;
	copy->blocks.block = op->blocks.block + i;
	copy->blocks.count = n;
	copy->place = op->place + i;
	memcpy(copy + 1, (const uint8_t *)(op + 1) + i * size, n * size);
}

/* Without those that recovery did not find: who replays the copy might, if their places hold it since. */
static void copy_share(struct opbuf *buf, struct layer *layer, const struct gf_op_share *op,
	uint64_t seq)
{
	const unsigned flag = synced_flag(layer, &op->blocks.op, seq);
	uint32_t from = 0;

	for (uint32_t i = 0; i <= op->blocks.count; i++) {
		if (i < op->blocks.count && !layer_is_missing(layer, seq, op->blocks.block + i))
			continue;
		if (i > from)
			copy_shared_run(buf, op, from, i - from, flag);
		from = i + 1;
	}
}

static void copy_clear(struct opbuf *buf, uint64_t layer, unsigned state, uint64_t block,
	uint64_t count)
{
	struct gf_op_clear *copy;

	if (!count || !OPBUF_ADD(buf, GF_OP_CLEAR, state, copy, 0))
		return;
	copy->layer = layer;
	copy->block = block;
	copy->count = count;
}

/* Ops without bytes, of a layer that is left out. */
static int carry_other(struct carry *c, struct layer *layer, const struct gf_disk_op *op,
	uint64_t seq)
{
	const void *p = op;
	const struct gf_op_clear *clear = p;
	const struct gf_op_size *size = p;
	struct gf_op_intent *intent;
	struct opbuf buf;
	uint64_t first;
	int r = 0;

	if (seq >= c->copy_below)
		return STOP;
	begin_copy(c, layer, &buf);
	switch ((enum gf_op_type)op->type) {
	case GF_OP_LARGE:
		copy_large(&buf, layer, p, seq);
		break;
	case GF_OP_SHARE:
		copy_share(&buf, layer, p, seq);
		break;
	case GF_OP_CLEAR:
		copy_clear(&buf, layer->id, op->flags, clear->block, clear->count);
		break;
	case GF_OP_SIZE:
		first = round_up(size->size, GF_BLOCK_SIZE) / GF_BLOCK_SIZE;
		copy_clear(&buf, layer->id, GF_PARENT, first, GF_MAX_SIZE / GF_BLOCK_SIZE - first);
		break;
	case GF_OP_INTENT:
		if (OPBUF_ADD(&buf, GF_OP_INTENT, 0, intent, 0))
			memcpy(intent, p, sizeof(*intent));
		break;
	default:
		break;
	}
	if (buf.len > sizeof(struct gf_op_carried) || buf.failed)
		r = append_copy(c, layer, &buf, 0);
	opbuf_release(&buf);
	return r;
}

static int carry_op(struct carry *c, const struct gf_disk_op *op, uint64_t seq, uint64_t op_pos)
{
	uint64_t id = layer_of(op);
	struct layer *layer = id ? layer_hold(c->fs, id) : NULL;
	int r = 0;

	if (!layer)
		return 0;
	if (op->type == GF_OP_WRITE)
		r = carry_write(c, layer, (const void *)op, op_pos + sizeof(struct gf_op_blocks));
	else if (layer->left_out)
		r = carry_other(c, layer, op, seq);
	atomic_fetch_sub(&layer->users, 1);
	return r;
}

static int carry_record(void *arg, const struct journal_mark *next, uint64_t seq,
	uint64_t ops_pos, const void *ops, size_t len)
{
	struct carry *c = arg;
	const struct gf_disk_op *op;
	size_t pos = 0, at = 0;
	int r;

	c->seq = seq;
	c->origin = carried_origin(ops, len);
	if (!c->origin)
		c->origin = seq;
	while ((op = ops_next(ops, len, &pos, &r)) != NULL) {
		r = carry_op(c, op, seq, ops_pos + at);
		if (r)
			return r;
		at = pos;
	}
	c->reached = *next;
	return r;
}

int carry_over(struct fs *fs, uint64_t copy_below, struct journal_mark *tail, uint64_t *copied)
{
	struct carry c = {.fs = fs, .copy_below = copy_below, .reached = fs->tail};
	int r = journal_walk(fs->journal, fs->tail, tail->seq, carry_record, &c);

	if (r >= 0)
		*tail = c.reached;
	*copied += c.copied;
	return r < 0 ? r : 0;
}

/* ---- taking back ---- */

struct recall {
	struct apply how;
	struct carried_list carried;
	uint64_t *places; /* the layer has one reference more to each */
	size_t count;
	size_t capacity;
};

/* An older record comes first and makes the block something else: what it is now, and will be again,
 * would be nobody's in between, and a slot that is dying is not used again. */
static int hold_place(struct recall *recall, uint64_t place)
{
	struct layer *layer = recall->how.only;

	if (recall->count == recall->capacity) {
		size_t capacity = max_u64(256, 2 * recall->capacity);
		uint64_t *places = realloc(recall->places, capacity * sizeof(*places));

		if (!places)
			return -ENOMEM;
		recall->places = places;
		recall->capacity = capacity;
	}
	if (!MUTATED("recall gives up slots that it needs again") && layer_ref_place(layer, place))
		recall->places[recall->count++] = place;
	return 0;
}

static int hold_places(void *arg, const struct journal_mark *next, uint64_t seq, uint64_t ops_pos,
	const void *ops, size_t len)
{
	struct recall *recall = arg;
	const struct gf_disk_op *op;
	size_t pos = 0;
	int r;

	while ((op = ops_next(ops, len, &pos, &r)) != NULL) {
		const struct gf_op_share *share = (const void *)op;

		if (op->type != GF_OP_SHARE || share->blocks.layer != recall->how.only->id)
			continue;
		for (uint32_t i = 0; i < share->blocks.count && !r; i++)
			r = hold_place(recall, share->place + i);
		if (r)
			return r;
	}
	return r;
}

static void let_places_go(struct recall *recall)
{
	for (size_t i = 0; i < recall->count; i++)
		layer_unref_place(recall->how.only, recall->places[i]);
	free(recall->places);
}

static int recall_carried(void *arg, const struct journal_mark *next, uint64_t seq,
	uint64_t ops_pos, const void *ops, size_t len)
{
	struct recall *recall = arg;

	return carried_note(&recall->carried, seq, ops_pos, ops, len);
}

static int recall_record(void *arg, const struct journal_mark *next, uint64_t seq,
	uint64_t ops_pos, const void *ops, size_t len)
{
	struct recall *recall = arg;
	struct apply *how = &recall->how;

	/* Nothing of a write that failed counts, as it did not then. */
	if (carried_origin(ops, len) || layer_large_outcome(how->only, seq) == LARGE_FAILED)
		return 0;
	how->seq = seq;
	how->ops_pos = ops_pos;
	return apply_ops(how->fs, ops, len, how);
}

int carry_recall(struct fs *fs, struct layer *layer)
{
	struct recall recall = {
		.how = {.blocks = true, .recalling = true, .only = layer, .fs = fs}};
	struct range range;
	uint64_t upto;
	int r;

	/* Whoever changes blocks of the layer holds their range: none of its records is under way,
	 * and none is added. */
	rangelock_lock(&layer->ranges, &range, 0, UINT64_MAX);
	upto = journal_last_seq(fs->journal) + 1;
	r = journal_walk(fs->journal, fs->tail, upto, hold_places, &recall);
	if (!r)
		r = journal_walk(fs->journal, fs->tail, upto, recall_carried, &recall);
	if (!r)
		r = carried_apply(fs, &recall.carried, fs->tail.seq, &recall.how);
	if (!r)
		r = journal_walk(fs->journal, fs->tail, upto, recall_record, &recall);
	r = found_end(fs, r);
	let_places_go(&recall);
	rangelock_unlock(&layer->ranges, &range);
	carried_release(&recall.carried);
	return r;
}
