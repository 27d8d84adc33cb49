/* SPDX-License-Identifier: MIT */
/*
 * Recovery reads what uncommitted records announce in place, one block after the other in the order of the
 * records: after a power loss that is one request to the disk at a time, anywhere on it. So a stretch of
 * records is looked at before its first one is replayed, and the disk is asked for all that they announce,
 * in the order of places. Only a hint: nothing depends on what comes of it.
 */
#include "core/fs_internal.h"

#include <errno.h>
#include <stdlib.h>

#include "base/sizes.h"

#define STRETCH_BLOCKS 65536  /* 256 MiB of page cache at most, read when the next stretch is asked for */
#define DATA_GAP 8	      /* blocks: what lies between costs less than another request */
#define SUMS_GAP (DATA_GAP * GF_BLOCK_SIZE / sizeof(uint32_t)) /* blocks, the same in the file of checksums */

static int compare_pieces(const void *a, const void *b)
{
	const struct ahead_piece *x = a, *y = b;

	if (x->layer != y->layer)
		return x->layer < y->layer ? -1 : 1;
	return x->block < y->block ? -1 : x->block > y->block;
}

static int add_piece(struct read_ahead *ahead, const struct gf_op_blocks *op)
{
	if (ahead->count == ahead->capacity) {
		size_t capacity = max_u64(256, 2 * ahead->capacity);
		struct ahead_piece *pieces = realloc(ahead->pieces, capacity * sizeof(*pieces));

		if (!pieces)
			return -ENOMEM;
		ahead->pieces = pieces;
		ahead->capacity = capacity;
	}
	ahead->pieces[ahead->count++] = (struct ahead_piece){
		.layer = op->layer, .block = op->block, .count = op->count};
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
	while ((op = ops_next(ops, len, &pos, &r)) != NULL)
		if (op->type == GF_OP_LARGE && !apply_is_committed(&how, op) &&
			add_piece(ahead, (const void *)op))
			return -ENOMEM;
	return r ? r : ahead->blocks >= STRETCH_BLOCKS;
}

/* One request for what lies no further apart than `gap` blocks. */
static void ask(const struct read_ahead *ahead, uint64_t gap,
	void (*will_read)(struct layer *layer, uint64_t block, uint64_t count))
{
	for (size_t i = 0, n; i < ahead->count; i += n) {
		const struct ahead_piece *first = &ahead->pieces[i];
		struct layer *layer = tree_find_layer(ahead->fs, first->layer);
		uint64_t end = first->block + first->count;

		for (n = 1; i + n < ahead->count; n++) {
			const struct ahead_piece *p = first + n;

			if (p->layer != first->layer || p->block > end + gap)
				break;
			end = max_u64(end, p->block + p->count);
		}
		if (layer) /* or one of these records makes it */
			will_read(layer, first->block, end - first->block);
	}
}

void read_ahead(struct read_ahead *ahead, uint64_t seq)
{
	if (seq < ahead->next.seq)
		return;
	ahead->count = 0;
	ahead->blocks = 0;
	if (journal_walk(ahead->fs->journal, ahead->next, ahead->upto, note_record, ahead) < 0)
		ahead->next.seq = ahead->upto;
	if (!ahead->count)
		return;
	qsort(ahead->pieces, ahead->count, sizeof(*ahead->pieces), compare_pieces);
	ask(ahead, DATA_GAP, layer_will_read_data);
	ask(ahead, SUMS_GAP, layer_will_read_sums);
}

void read_ahead_release(struct read_ahead *ahead)
{
	free(ahead->pieces);
}
