/* SPDX-License-Identifier: MIT */
/*
 * Looking at a layer as a whole, for those who verify it: states and journal told apart, checksums
 * of blocks at rest, and space that nothing refers to.
 */
#include <errno.h>
#include <string.h>

#include <stdlib.h>

#include "base/cleanup.h"
#include "base/invariant.h"
#include "base/sizes.h"
#include "store/layer_internal.h"

bool region_view_is(const struct region_view *view, uint32_t i, enum gf_state state)
{
	return states_get(view->states, i) == state && !(view->journaled[i / 8] >> (i % 8) & 1);
}

int layer_view_region(struct layer *l, uint32_t number, struct region_view *view)
{
	struct region *r;
	int e;

	memset(view, 0, sizeof(*view));
	MUTEX_GUARD(&l->lock);
	r = layer_find_region_locked(l, number);
	if (!r)
		return 0;
	e = layer_load_region_locked(l, number, r);
	if (e)
		return e;
	if (r->states)
		memcpy(view->states, r->states, GF_STATE_BYTES);
	else
		memset(view->states, r->uniform * 0x55, GF_STATE_BYTES);
	if (r->journal)
		memcpy(view->journaled, r->journal, GF_REGION_BLOCKS / 8);
	view->lost = r->lost;
	view->runs_lost = r->runs_lost;
	view->generation = r->generation;
	return 0;
}

int layer_recount(struct layer *l)
{
	uint64_t overlay = 0, owned = 0;

	MUTEX_GUARD(&l->lock);
	for (uint32_t n = 0; n < l->leaf_count * LEAF_REGIONS; n++) {
		struct region *r = layer_find_region_locked(l, n);
		int e = r ? layer_load_region_locked(l, n, r) : 0;

		if (e)
			return e;
		for (uint32_t i = 0; r && i < GF_REGION_BLOCKS; i++) {
			bool here = region_state(r, i) == GF_OVERLAY;

			overlay += here;
			owned += here || region_journaled(r, i);
		}
	}
	l->overlay_blocks = overlay;
	l->owned_blocks = owned;
	l->counts_given = false;
	return 0;
}

static bool is_indexed(struct layer *l, uint32_t number, const struct region *r)
{
	uint64_t base = (uint64_t)number * GF_REGION_BLOCKS;
	struct jentry entry;
	uint32_t left = r->journaled;

	for (uint32_t i = 0; r->journal && i < GF_REGION_BLOCKS; i++) {
		if (!region_journaled(r, i))
			continue;
		if (!left-- || !jindex_get(l->env->jindex, l->id, base + i, &entry))
			return false;
	}
	return left == 0;
}

void layer_assert(struct layer *l)
{
	uint64_t overlay = 0, owned = 0;
	bool whole;

	MUTEX_GUARD(&l->lock);
	/* What a catalog says may be wrong: that is damage, which others look for. */
	whole = !l->counts_given;
	for (uint32_t n = 0; n < l->leaf_count * LEAF_REGIONS; n++) {
		const struct region *r = layer_find_region_locked(l, n);

		if (!r)
			continue;
		INVARIANT(INVARIANT_LAYER, is_indexed(l, n, r));
		whole &= r->loaded;
		overlay += region_count(r, 0, GF_REGION_BLOCKS, GF_OVERLAY);
		owned += region_count(r, 0, GF_REGION_BLOCKS, GF_OVERLAY);
		for (uint32_t i = 0; r->journal && i < GF_REGION_BLOCKS; i++)
			owned += region_journaled(r, i) && region_state(r, i) != GF_OVERLAY;
	}
	INVARIANT(INVARIANT_LAYER, !whole || l->overlay_blocks == overlay);
	INVARIANT(INVARIANT_LAYER, !whole || atomic_load(&l->owned_blocks) == owned);
}

bool layer_is_newest(struct layer *l, uint64_t block, uint64_t count, uint64_t seq)
{
	struct jentry entry;

	for (uint64_t i = 0; i < count; i++)
		if (jindex_get(l->env->jindex, l->id, block + i, &entry) && entry.seq > seq)
			return false;
	return true;
}

/* ---- checksums ---- */

int layer_note_sums(struct layer *l, uint64_t block, const uint32_t *sums, uint64_t count)
{
	MUTEX_GUARD(&l->lock);
	for (uint64_t i = 0; i < count; i++) {
		uint64_t at = block + i;
		struct sum_note *note;

		HASH_FIND(hh, l->noted_sums, &at, sizeof(at), note);
		if (!note) {
			note = malloc(sizeof(*note));
			if (!note)
				return -ENOMEM;
			note->block = at;
			HASH_ADD(hh, l->noted_sums, block, sizeof(note->block), note);
		}
		memcpy(&note->sum, sums + i, sizeof(note->sum));
	}
	return 0;
}

void layer_forget_noted_sums(struct layer *l)
{
	struct sum_note *note, *next;

	HASH_ITER (hh, l->noted_sums, note, next) {
		HASH_DELETE(hh, l->noted_sums, note);
		free(note);
	}
}

void layer_forget_noted(struct layer *l, uint64_t block, uint64_t count)
{
	MUTEX_GUARD(&l->lock);
	for (uint64_t i = 0; l->noted_sums && i < count; i++) {
		uint64_t at = block + i;
		struct sum_note *note;

		HASH_FIND(hh, l->noted_sums, &at, sizeof(at), note);
		if (note) {
			HASH_DELETE(hh, l->noted_sums, note);
			free(note);
		}
	}
}

static bool first_note(struct layer *l, uint64_t *block, uint32_t *sum)
{
	MUTEX_GUARD(&l->lock);
	if (!l->noted_sums)
		return false;
	*block = l->noted_sums->block;
	*sum = l->noted_sums->sum;
	return true;
}

int layer_write_noted_sums(struct layer *l)
{
	uint64_t block;
	uint32_t sum;
	int e = 0;

	while (!e && first_note(l, &block, &sum)) {
		struct range range;

		/* A writer may have written a newer one meanwhile. */
		rangelock_lock(&l->ranges, &range, block, block);
		e = layer_read_sums(l, block, &sum, 1);
		if (!e)
			e = layer_write_sums(l, block, &sum, 1);
		rangelock_unlock(&l->ranges, &range);
	}
	return e;
}

int layer_read_sums(struct layer *l, uint64_t block, uint32_t *sums, uint64_t count)
{
	int fd = layer_open_file(l, &l->sum_fd, LAYER_SUM, false), e = 0;

	memset(sums, 0, count * sizeof(*sums));
	if (fd != -ENOENT)
		e = fd < 0 ? fd : io_pread_full(l->env->io, fd, sums, count * sizeof(*sums),
			block * sizeof(*sums));
	MUTEX_GUARD(&l->lock);
	for (uint64_t i = 0; l->noted_sums && i < count && !e; i++) {
		uint64_t at = block + i;
		struct sum_note *note;

		HASH_FIND(hh, l->noted_sums, &at, sizeof(at), note);
		if (note)
			sums[i] = note->sum;
	}
	return e;
}

/* ---- space ---- */

struct unused {
	int (*cb)(void *arg, uint64_t block, uint64_t count);
	void *arg;
	uint64_t block, count; /* a run not told yet */
};

static int tell_run(struct unused *u)
{
	return u->count ? u->cb(u->arg, u->block, u->count) : 0;
}

/* Of blocks that take space, those that are not OVERLAY. What is lost keeps its bytes. */
static int each_unused_in_region(struct layer *l, struct unused *u, uint64_t block, uint64_t end)
{
	struct region_view view;
	int e = layer_view_region(l, block / GF_REGION_BLOCKS, &view);

	for (; block < end && !e; block++) {
		enum gf_state state = states_get(view.states, block % GF_REGION_BLOCKS);

		if (state == GF_OVERLAY || (state == GF_SHARED && layer_is_lost(l, block)))
			continue;
		if (u->count && u->block + u->count == block) {
			u->count++;
			continue;
		}
		e = tell_run(u);
		u->block = block;
		u->count = 1;
	}
	return e;
}

int layer_each_unused(struct layer *l, int (*cb)(void *arg, uint64_t block, uint64_t count),
	void *arg)
{
	struct unused u = {.cb = cb, .arg = arg};
	int fd = layer_open_file(l, &l->data_fd, LAYER_DATA, false);
	uint64_t start, end, off = atomic_load(&l->whole_blocks) * GF_BLOCK_SIZE;
	int e;

	if (fd < 0)
		return fd == -ENOENT ? 0 : fd;
	while ((e = l->env->io->ops->next_data(l->env->io, fd, off, &start, &end)) == 0) {
		uint64_t block = start / GF_BLOCK_SIZE;
		uint64_t last = round_up(end, GF_BLOCK_SIZE) / GF_BLOCK_SIZE;

		/* Bytes that no guest offset has. */
		if (start >= GF_MAX_SIZE)
			break;
		last = min_u64(last, round_down(block, GF_REGION_BLOCKS) + GF_REGION_BLOCKS);
		e = each_unused_in_region(l, &u, block, last);
		if (e)
			return e;
		off = last * GF_BLOCK_SIZE;
	}
	return e == -ENXIO || e == 0 ? tell_run(&u) : e;
}
