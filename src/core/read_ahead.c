/* SPDX-License-Identifier: MIT */
/*
 * Recovery reads what uncommitted records announce in place, one block after the other in the order of the
 * records: after a power loss that is one request to the disk at a time, anywhere on it. So a stretch of
 * records is looked at before its first one is replayed, and the disk is asked for all that they announce,
 * in the order of places; and for the checksums, of which a few bytes of a page are to be written. Only a
 * hint: nothing depends on what comes of it.
 */
#include "core/fs_internal.h"

#include <errno.h>
#include <stdlib.h>

#include "base/array.h"
#include "base/sizes.h"

/* They are in the page cache at the same time: 256 MiB, three times that where they stand apart. */
#define STRETCH_BLOCKS 65536
/* Blocks. What lies between costs less than another request. */
#define DATA_GAP 2
#define SUMS_GAP (GF_BLOCK_SIZE / sizeof(uint32_t))

static int compare_pieces(const void *a, const void *b)
{
	const struct ahead_piece *x = a, *y = b;

	if (x->layer != y->layer)
		return x->layer < y->layer ? -1 : 1;
	return x->block < y->block ? -1 : x->block > y->block;
}

static int add_piece(struct read_ahead *ahead, const struct gf_op_blocks *op, bool committed)
{
	struct ahead_piece *pieces =
		array_with_room(ahead->pieces, ahead->count, &ahead->capacity, sizeof(*pieces));

	if (!pieces)
		return -ENOMEM;
	ahead->pieces = pieces;
	ahead->pieces[ahead->count++] = (struct ahead_piece){
		.layer = op->layer, .block = op->block, .count = op->count, .committed = committed};
	ahead->blocks += op->count;
	return 0;
}

static int note_record(void *arg, const struct journal_mark *next, uint64_t seq, uint64_t ops_pos,
	const void *ops, size_t len)
{
	struct read_ahead *ahead = arg;
	const struct apply how = {.seq = seq, .commits = ahead->commits};
	const struct gf_disk_op *op;
	size_t pos = 0;
	int r;

	ahead->next = *next;
	if (carried_origin(ops, len))
		return 0;
	while ((op = ops_next(ops, len, &pos, &r)) != NULL)
		if (op->type == GF_OP_LARGE &&
			add_piece(ahead, (const void *)op, apply_is_committed(&how, op)))
			return -ENOMEM;
	return r ? r : ahead->blocks >= STRETCH_BLOCKS;
}

/* One request for what lies no further apart than `gap` blocks. */
static void ask(const struct read_ahead *ahead, bool committed, uint64_t gap,
	void (*will_read)(struct layer *layer, uint64_t block, uint64_t count))
{
	const struct ahead_piece *first = NULL;
	uint64_t end = 0;

	for (size_t i = 0; i <= ahead->count; i++) {
		const struct ahead_piece *p = i < ahead->count ? &ahead->pieces[i] : NULL;
		struct layer *layer;

		if (p && p->committed && !committed)
			continue;
		if (p && first && p->layer == first->layer && p->block <= end + gap) {
			end = max_u64(end, p->block + p->count);
			continue;
		}
		layer = first ? tree_find_layer(ahead->fs, first->layer) : NULL;
		if (layer) /* or one of these records makes it */
			will_read(layer, first->block, end - first->block);
		first = p;
		end = p ? p->block + p->count : 0;
	}
}

void read_ahead(struct read_ahead *ahead, uint64_t seq)
{
	if (seq < ahead->next.seq)
		return;
	ahead->count = 0;
	ahead->blocks = 0;
	if (journal_walk_scanned(ahead->fs->journal, ahead->next, note_record, ahead) < 0)
		ahead->next.seq = UINT64_MAX;
	if (!ahead->count)
		return;
	qsort(ahead->pieces, ahead->count, sizeof(*ahead->pieces), compare_pieces);
	ask(ahead, false, DATA_GAP, layer_will_read_data);
	if (!ahead->fs->options.read_only) /* then they stay as they are */
		ask(ahead, true, SUMS_GAP, layer_will_read_sums);
}

void read_ahead_release(struct read_ahead *ahead)
{
	free(ahead->pieces);
}
