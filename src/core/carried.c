/* SPDX-License-Identifier: MIT */
/*
 * Replaying copies of records (carry.c) in the place of what they are copies of.
 *
 * Copies of a layer's records are appended one by one, and the tail may pass some of the originals
 * and not yet others. So in the ring a copy of something old may stand behind something newer that
 * is no copy. What counts is the order in which it happened: a copy whose original is still in the
 * ring says nothing; the others are applied before everything else, by the numbers of the
 * originals, since those came before all that is still there. The same original may have been
 * copied more than once: the last copy is where its bytes stand.
 */
#include "core/fs_internal.h"

#include <errno.h>
#include <stdlib.h>

#include "base/array.h"
#include "base/cleanup.h"
#include "base/invariant.h"
#include "base/mutation.h"

uint64_t carried_origin(const void *ops, size_t len)
{
	const struct gf_op_carried *op = ops;

	return len >= sizeof(*op) && op->op.type == GF_OP_CARRIED ? op->seq : 0;
}

int carried_note(struct carried_list *list, uint64_t seq, uint64_t ops_pos, const void *ops,
	size_t len)
{
	uint64_t origin = carried_origin(ops, len);
	struct carried *bigger;

	if (!origin)
		return 0;
	bigger = array_with_room(list->list, list->count, &list->capacity, sizeof(*bigger));
	if (!bigger)
		return -ENOMEM;
	list->list = bigger;
	list->list[list->count++] = (struct carried){origin, seq, ops_pos, len};
	return 0;
}

static int compare_origins(const void *a, const void *b)
{
	const struct carried *x = a, *y = b;

	if (x->origin != y->origin)
		return x->origin < y->origin ? -1 : 1;
	return x->seq < y->seq ? -1 : x->seq > y->seq;
}

int carried_apply(struct fs *fs, struct carried_list *list, uint64_t tail_seq,
	const struct apply *template)
{
	struct apply how = *template;
	int r = 0;

	if (list->count)
		qsort(list->list, list->count, sizeof(*list->list), compare_origins);
	for (size_t i = 0; i < list->count && !r; i++) {
		const struct carried *c = &list->list[i];
		CLEANUP_FREE void *ops = NULL;

		if (c->origin >= tail_seq && !MUTATED("copies of records count beside the originals"))
			continue;
		INVARIANT(4, c->origin < tail_seq);
		ops = malloc(c->len);
		if (!ops)
			return -ENOMEM;
		r = journal_read(fs->journal, c->pos, ops, c->len);
		how.seq = c->seq;
		how.ops_pos = c->pos;
		how.found = is_found(fs, c->origin);
		if (!r)
			r = apply_ops(fs, ops, c->len, &how);
	}
	return r;
}

void carried_release(struct carried_list *list)
{
	free(list->list);
	*list = (struct carried_list){0};
}
