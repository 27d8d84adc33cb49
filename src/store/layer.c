/* SPDX-License-Identifier: MIT */
/*
 * Layers in memory: regions, states, counters, and resolving a block through the chain of layers.
 * Pages on disk are in layer_pages.c, bytes in layer_data.c.
 *
 * Regions hang in leaves of 16 (512 MiB of guest data), so that an untouched layer costs nothing
 * and a 16 TiB one finds a region in two steps.
 */
#include "store/layer.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/hash.h"
#include "base/invariant.h"
#include "base/log.h"
#include "base/sizes.h"
#include "image/image.h"
#include "store/chain.h"
#include "store/layer_internal.h"

int layer_new(struct layer **layer, const struct layer_env *env, uint64_t id,
	struct layer *parent, struct image *image, uint64_t golden, uint64_t bound)
{
	struct layer *l = calloc(1, sizeof(*l));

	if (!l)
		return -ENOMEM;
	l->env = env;
	l->id = id;
	l->parent = parent;
	l->image = image;
	l->golden = golden;
	l->bound = bound;
	l->data_fd = -1;
	l->sum_fd = -1;
	pthread_mutex_init(&l->lock, NULL);
	pthread_mutex_init(&l->sync_lock, NULL);
	pthread_cond_init(&l->large_ended, NULL);
	rangelock_init(&l->ranges);
	*layer = l;
	return 0;
}

/* Blocks that stand in the ring and have no place yet. */
static uint32_t count_fresh(const struct region *r, uint32_t first, uint32_t count)
{
	uint32_t n = 0;

	for (uint32_t i = first; r->journaled && i < first + count; i++)
		n += region_journaled(r, i) && region_state(r, i) != GF_OVERLAY;
	return n;
}

static void add_fresh(struct layer *l, uint64_t n)
{
	if (l->env->fresh)
		atomic_fetch_add(l->env->fresh, n);
}

static void forget_region(struct layer *l, uint32_t number, struct region *r)
{
	uint64_t first = (uint64_t)number * GF_REGION_BLOCKS;

	add_fresh(l, -(uint64_t)count_fresh(r, 0, GF_REGION_BLOCKS));
	for (uint32_t i = 0; r->journaled && i < GF_REGION_BLOCKS; i++) {
		if (region_journaled(r, i)) {
			jindex_remove(l->env->jindex, l->id, first + i);
			region_clear_journaled(r, i);
		}
	}
	region_release(r);
}

static void punches_free(struct punch *list)
{
	while (list) {
		struct punch *next = list->next;

		free(list);
		list = next;
	}
}

/* lock held, or nobody else there */
static void free_marks(struct layer *l)
{
	free(l->marks);
	free(l->used_marks);
	free(l->old_marks);
	l->marks = l->used_marks = l->old_marks = NULL;
	l->mark_count = 0;
}

void layer_free(struct layer *l)
{
	if (!l)
		return;
	chain_forget(l->env->chains, l);
	for (uint32_t i = 0; i < l->leaf_count; i++) {
		for (uint32_t k = 0; l->leaves[i] && k < LEAF_REGIONS; k++)
			forget_region(l, i * LEAF_REGIONS + k, &l->leaves[i][k]);
		free(l->leaves[i]);
	}
	free(l->leaves);
	layer_forget_large_failures(l, UINT64_MAX);
	free_marks(l);
	free(l->uses);
	free(l->suspects);
	pages_free(l->spare_pages);
	free(l->page_list.names);
	punches_free(l->punches);
	punches_free(l->due);
	layer_forget_noted_sums(l);
	if (l->data_fd >= 0)
		l->env->io->ops->close(l->env->io, l->data_fd);
	if (l->sum_fd >= 0)
		l->env->io->ops->close(l->env->io, l->sum_fd);
	rangelock_release(&l->ranges);
	pthread_cond_destroy(&l->large_ended);
	pthread_mutex_destroy(&l->sync_lock);
	pthread_mutex_destroy(&l->lock);
	free(l);
}

/* ---- regions ---- */

static bool region_is_empty(const struct region *r)
{
	return !r->states && !r->journal && r->loaded && r->uniform == GF_PARENT &&
	       r->generation == 0 && !r->dirty;
}

struct region *layer_find_region_locked(struct layer *l, uint32_t number)
{
	uint32_t leaf = number / LEAF_REGIONS;
	struct region *r;

	if (leaf >= l->leaf_count || !l->leaves[leaf])
		return NULL;
	r = &l->leaves[leaf][number % LEAF_REGIONS];
	return region_is_empty(r) ? NULL : r;
}

struct region *layer_make_region_locked(struct layer *l, uint32_t number)
{
	uint32_t leaf = number / LEAF_REGIONS;

	if (leaf >= l->leaf_count) {
		uint32_t count = max_u64(leaf + 1, 2 * (uint64_t)l->leaf_count);
		struct region **leaves = realloc(l->leaves, count * sizeof(*leaves));

		if (!leaves)
			return NULL;
		memset(leaves + l->leaf_count, 0, (count - l->leaf_count) * sizeof(*leaves));
		l->leaves = leaves;
		l->leaf_count = count;
	}
	if (!l->leaves[leaf]) {
		struct region *regions = calloc(LEAF_REGIONS, sizeof(*regions));

		if (!regions)
			return NULL;
		for (int i = 0; i < LEAF_REGIONS; i++)
			regions[i].loaded = true;
		l->leaves[leaf] = regions;
	}
	return &l->leaves[leaf][number % LEAF_REGIONS];
}

int layer_writable_region_locked(struct layer *l, uint32_t number, struct region **region)
{
	struct region *r = layer_make_region_locked(l, number);

	if (!r)
		return -ENOMEM;
	*region = r;
	return layer_load_region_locked(l, number, r);
}

/* ---- resolving ---- */

/*
 * What this layer alone says of blocks from `block` on: *count blocks (<= max) in one place.
 * loads: how many pages may be read for it, counted down; NULL: as many as it takes.
 * Returns whether the layer owns them; < 0 on error.
 */
static int run_locked(struct layer *l, uint64_t block, uint64_t max, struct extent *x, unsigned *loads)
{
	uint32_t number = block / GF_REGION_BLOCKS, i = block % GF_REGION_BLOCKS;
	struct region *r = layer_find_region_locked(l, number);
	struct jentry entry, next;
	uint32_t run;
	int e;

	run = min_u64(max, GF_REGION_BLOCKS - i);
	x->count = run;
	if (!r)
		return 0;
	if (!r->loaded && loads) {
		if (!*loads)
			return -EAGAIN;
		--*loads;
	}
	e = layer_load_region_locked(l, number, r);
	if (e)
		return e;
	run = region_run(r, i, run);
	x->count = run;
	x->layer = l;
	if (!region_journaled(r, i)) {
		switch (region_state(r, i)) {
		case GF_PARENT:
			return 0;
		case GF_OVERLAY:
			x->kind = EXTENT_DATA;
			return 1;
		case GF_ZERO:
			x->kind = EXTENT_ZERO;
			return 1;
		case GF_SHARED:
			return layer_shared_run_locked(l, number, r, i, x);
		}
	}
	if (!jindex_get(l->env->jindex, l->id, block, &entry))
		return log_error(-EUCLEAN, "layer %" PRIu64 " lost a journaled block", l->id);
	x->kind = EXTENT_JOURNAL;
	x->pos = entry.pos;
	for (x->count = 1; x->count < run; x->count++)
		if (!jindex_get(l->env->jindex, l->id, block + x->count, &next) ||
			next.pos != entry.pos + x->count * GF_BLOCK_SIZE)
			break;
	return 1;
}

/* What a layer stands on, at one moment together with what it owns. */
struct base {
	struct layer *parent;
	struct image *image;
	uint64_t bound;
};

static struct base base_locked(const struct layer *l)
{
	return (struct base){l->parent, l->image, atomic_load(&l->bound)};
}

void layer_set_base(struct layer *l, struct layer *parent, struct image *image, uint64_t golden,
	uint64_t bound)
{
	/* Before and after: nothing that is remembered mixes the two. */
	chain_changed(l->env->chains);
	pthread_mutex_lock(&l->lock);
	l->parent = parent;
	l->image = image;
	l->golden = golden;
	l->bound = bound;
	pthread_mutex_unlock(&l->lock);
	chain_changed(l->env->chains);
}

/* What shows of the extent's blocks is cut at what a layer lets through; false: nothing does. */
static bool cut_at(struct extent *x, uint64_t block, uint64_t limit)
{
	x->limit = min_u64(x->limit, limit);
	if (block * GF_BLOCK_SIZE >= x->limit)
		return false;
	x->count = min_u64(
		x->count, round_up(x->limit, GF_BLOCK_SIZE) / GF_BLOCK_SIZE - block);
	return true;
}

/* What is below a layer that does not own the blocks; true: another layer. */
static bool goes_on(const struct base *base, uint64_t block, struct extent *x)
{
	x->layer = NULL;
	if (!cut_at(x, block, base->bound))
		return false; /* zeros: nothing shows through from here on */
	if (base->parent)
		return true;
	x->kind = base->image ? EXTENT_IMAGE : EXTENT_ZERO;
	x->image = base->image;
	return false;
}

/* On from `top`, the first layer below the one that was asked. Returns how many were looked at. */
static unsigned walk_down(
	struct layer *top, uint64_t block, struct extent *x, unsigned *loads, int *result)
{
	struct layer *l = top;
	struct chain_hop hop;
	unsigned steps = 0;
	struct base base;
	int owned;

	if (chain_find(l->env->chains, l, block, x->count, &hop)) {
		INVARIANT(INVARIANT_LAYER, chain_hop_is_right(l->env->chains, l, block, &hop));
		x->count = hop.count;
		*result = 0;
		if (!cut_at(x, block, hop.limit))
			return 0;
		l = hop.layer;
	}
	for (;; l = base.parent) {
		steps++;
		pthread_mutex_lock(&l->lock);
		owned = run_locked(l, block, x->count, x, loads);
		base = base_locked(l);
		pthread_mutex_unlock(&l->lock);
		*result = owned < 0 ? owned : 0;
		if (owned || !goes_on(&base, block, x))
			return steps;
	}
}

static int resolve(
	struct layer *l, uint64_t block, uint64_t max, bool below, unsigned *loads, struct extent *x)
{
	struct base base;
	unsigned steps;
	int owned = 0;

	*x = (struct extent){.kind = EXTENT_ZERO, .count = max, .limit = GF_MAX_SIZE};
	pthread_mutex_lock(&l->lock);
	if (!below)
		owned = run_locked(l, block, x->count, x, loads);
	base = base_locked(l);
	pthread_mutex_unlock(&l->lock);
	if (owned)
		return owned < 0 ? owned : 0;
	if (!goes_on(&base, block, x))
		return 0;
	l = base.parent;
	steps = walk_down(l, block, x, loads, &owned);
	if (owned != -EAGAIN)
		chain_walked(l->env->chains, l, block, steps, !loads);
	return owned;
}

int layer_resolve(struct layer *l, uint64_t block, uint64_t max, bool below, struct extent *x)
{
	return resolve(l, block, max, below, NULL, x);
}

int layer_resolve_below(struct layer *l, uint64_t block, uint64_t max, unsigned *loads, struct extent *x)
{
	return resolve(l, block, max, true, loads, x);
}

/* ---- changing states ---- */

/* A block that shows what is below will not any more: who relies on that is told. */
static void note_owned_locked(struct layer *l, const struct region *r, uint32_t first, uint32_t count)
{
	if (!l->passed)
		return;
	for (uint32_t i = first; i < first + count; i++) {
		if (region_state(r, i) != GF_PARENT || region_journaled(r, i))
			continue;
		l->passed = false;
		chain_changed(l->env->chains);
		return;
	}
}

void layer_set_bound(struct layer *l, uint64_t bound)
{
	MUTEX_GUARD(&l->lock);
	atomic_store(&l->bound, bound);
	if (!l->passed)
		return;
	l->passed = false;
	chain_changed(l->env->chains);
}

void layer_note_punch_locked(struct layer *l, uint64_t block, uint64_t count)
{
	struct punch *p = l->punches;

	if (l->env->given_up)
		atomic_fetch_add(l->env->given_up, 1);
	if (p && p->block + p->count == block) {
		p->count += count;
		return;
	}
	p = malloc(sizeof(*p));
	if (!p)
		return; /* the space comes back with the next layer_reclaim() */
	*p = (struct punch){.block = block, .count = count, .next = l->punches};
	l->punches = p;
}

void layer_note_punch(struct layer *l, uint64_t block, uint64_t count)
{
	MUTEX_GUARD(&l->lock);
	layer_note_punch_locked(l, block, count);
}


static uint32_t count_owned(const struct region *r, uint32_t first, uint32_t count)
{
	uint32_t n = 0;

	if (!r->journal)
		return region_count(r, first, count, GF_OVERLAY);
	for (uint32_t i = first; i < first + count; i++)
		n += region_journaled(r, i) || region_state(r, i) == GF_OVERLAY;
	return n;
}

/* Blocks that are OVERLAY now and will not be: their bytes are to be punched. */
static void note_given_up_locked(struct layer *l, const struct region *r, uint64_t base,
	uint32_t first, uint32_t count)
{
	for (uint32_t i = first; i < first + count;) {
		uint32_t run = region_run(r, i, first + count - i);

		if (region_state(r, i) == GF_OVERLAY)
			layer_note_punch_locked(l, base + i, run);
		i += run;
	}
}

int layer_put_state_locked(struct layer *l, uint32_t number, struct region *r, uint32_t first,
	uint32_t count, enum gf_state state)
{
	uint64_t base = (uint64_t)number * GF_REGION_BLOCKS;
	uint32_t owned = count_owned(r, first, count);
	uint32_t overlay = region_count(r, first, count, GF_OVERLAY);
	uint32_t fresh = count_fresh(r, first, count);
	int e;

	if (state != GF_OVERLAY && overlay)
		note_given_up_locked(l, r, base, first, count);
	if (state != GF_PARENT)
		note_owned_locked(l, r, first, count);
	e = region_put(r, first, count, state);
	if (e)
		return e;
	for (uint32_t i = first; r->journal && i < first + count; i++) {
		if (region_journaled(r, i)) {
			jindex_remove(l->env->jindex, l->id, base + i);
			region_clear_journaled(r, i);
		}
	}
	l->overlay_blocks += (state == GF_OVERLAY ? count : 0) - (uint64_t)overlay;
	l->owned_blocks += (state == GF_OVERLAY ? count : 0) - (uint64_t)owned;
	add_fresh(l, -(uint64_t)fresh);
	r->dirty = true;
	l->dirty = true;
	return 0;
}

static int set_state_in_region_locked(struct layer *l, uint32_t number, uint32_t first,
	uint32_t count, enum gf_state state)
{
	struct region *r;
	int e;

	if (state == GF_PARENT && !layer_find_region_locked(l, number))
		return 0;
	e = layer_writable_region_locked(l, number, &r);
	if (!e)
		e = layer_leave_shared_locked(l, number, r, first, count);
	return e ? e : layer_put_state_locked(l, number, r, first, count, state);
}

int layer_set_state(struct layer *l, uint64_t block, uint64_t count, enum gf_state state)
{
	MUTEX_GUARD(&l->lock);
	while (count) {
		uint32_t first = block % GF_REGION_BLOCKS;
		uint32_t n = min_u64(count, GF_REGION_BLOCKS - first);
		int e = set_state_in_region_locked(l, block / GF_REGION_BLOCKS, first, n, state);

		if (e)
			return e;
		block += n;
		count -= n;
	}
	return 0;
}

/*
 * Blocks that are SHARED and get a newer version in the ring give their references up now: figures
 * would count both. Whatever a page says of them from now on, the ring covers it until they are
 * destaged; and the old place stays until a checkpoint has made the record durable.
 */
static int end_sharing_locked(struct layer *l, uint32_t number, struct region *r, uint32_t first,
	uint32_t count)
{
	int e;

	if (!region_count(r, first, count, GF_SHARED))
		return 0;
	e = region_materialize(r);
	if (!e)
		e = layer_leave_shared_locked(l, number, r, first, count);
	for (uint32_t i = first; i < first + count && !e; i++)
		if (region_state(r, i) == GF_SHARED)
			region_put(r, i, 1, GF_ZERO);
	r->dirty = true;
	l->dirty = true;
	return e;
}

static int set_journaled_in_region_locked(struct layer *l, uint32_t number, uint32_t first,
	uint32_t count, uint64_t pos, uint64_t seq, const uint8_t *bytes)
{
	struct jentry entry = {.layer = l->id, .seq = seq};
	struct region *r;
	uint64_t fresh;
	uint32_t owned;
	int e = layer_writable_region_locked(l, number, &r);

	if (!e)
		e = end_sharing_locked(l, number, r, first, count);
	if (e)
		return e;
	note_owned_locked(l, r, first, count);
	for (uint32_t i = 0; i < count; i++) {
		entry.block = (uint64_t)number * GF_REGION_BLOCKS + first + i;
		entry.pos = pos + (uint64_t)i * GF_BLOCK_SIZE;
		if (bytes)
			entry.sum = hash_block(
				l->env->secret, bytes + (size_t)i * GF_BLOCK_SIZE);
		e = jindex_set(l->env->jindex, &entry);
		if (e)
			return e;
		owned = count_owned(r, first + i, 1);
		fresh = count_fresh(r, first + i, 1);
		e = region_set_journaled(r, first + i, 1);
		if (e)
			return e;
		l->owned_blocks += 1 - owned;
		add_fresh(l, count_fresh(r, first + i, 1) - fresh);
	}
	return 0;
}

int layer_set_journaled(struct layer *l, uint64_t block, uint64_t count, uint64_t pos,
	uint64_t seq, const void *bytes)
{
	const uint8_t *at = bytes;

	MUTEX_GUARD(&l->lock);
	while (count) {
		uint32_t first = block % GF_REGION_BLOCKS;
		uint32_t n = min_u64(count, GF_REGION_BLOCKS - first);
		int e = set_journaled_in_region_locked(
			l, block / GF_REGION_BLOCKS, first, n, pos, seq, at);

		if (e)
			return e;
		block += n;
		count -= n;
		pos += (uint64_t)n * GF_BLOCK_SIZE;
		if (at)
			at += (size_t)n * GF_BLOCK_SIZE;
	}
	return 0;
}

int layer_forget_block(struct layer *l, uint64_t block, uint64_t *place)
{
	uint32_t number = block / GF_REGION_BLOCKS, i = block % GF_REGION_BLOCKS;
	struct range range;
	struct region *r;
	uint32_t one;
	bool owned;
	int e = 0;

	rangelock_lock(&l->ranges, &range, block, block);
	pthread_mutex_lock(&l->lock);
	r = layer_find_region_locked(l, number);
	if (r)
		e = layer_load_region_locked(l, number, r);
	owned = r && !e && !atomic_load(&l->failed) && !region_journaled(r, i) &&
		(region_state(r, i) == GF_OVERLAY || region_state(r, i) == GF_SHARED);
	*place = 0;
	/* What is lost stays so. */
	if (owned && region_state(r, i) == GF_SHARED) {
		*place = runs_find(&r->runs, i, 1, &one);
		owned = *place && layer_ref_place(l, *place);
	}
	pthread_mutex_unlock(&l->lock);
	if (owned)
		e = layer_set_state(l, block, 1, GF_PARENT);
	rangelock_unlock(&l->ranges, &range);
	return e ? e : owned;
}

void layer_set_unsynced(struct layer *l)
{
	atomic_store(&l->data_dirty, true);
	atomic_fetch_add(&l->written, 1);
	atomic_store(&l->sums_dirty, true);
	atomic_store(&l->last_block_used, true);
	MUTEX_GUARD(&l->lock);
	l->name_unsynced = true;
}

int layer_clear_from(struct layer *l, uint64_t block)
{
	MUTEX_GUARD(&l->lock);
	for (uint32_t leaf = 0; leaf < l->leaf_count; leaf++) {
		for (uint32_t k = 0; l->leaves[leaf] && k < LEAF_REGIONS; k++) {
			uint32_t number = leaf * LEAF_REGIONS + k;
			uint64_t base = (uint64_t)number * GF_REGION_BLOCKS;
			uint32_t first;
			int e;

			if (base + GF_REGION_BLOCKS <= block)
				continue;
			first = block > base ? block - base : 0;
			e = set_state_in_region_locked(
				l, number, first, GF_REGION_BLOCKS - first, GF_PARENT);
			if (e)
				return e;
		}
	}
	return 0;
}

int layer_any_overlay(struct layer *l, uint64_t block, uint64_t count)
{
	MUTEX_GUARD(&l->lock);
	while (count) {
		uint32_t number = block / GF_REGION_BLOCKS, first = block % GF_REGION_BLOCKS;
		uint32_t n = min_u64(count, GF_REGION_BLOCKS - first);
		struct region *r = layer_find_region_locked(l, number);
		int e = r ? layer_load_region_locked(l, number, r) : 0;

		if (e)
			return e;
		if (r && region_count(r, first, n, GF_OVERLAY))
			return 1;
		block += n;
		count -= n;
	}
	return 0;
}

int layer_is_at_rest(struct layer *l, uint64_t block)
{
	uint32_t number = block / GF_REGION_BLOCKS, i = block % GF_REGION_BLOCKS;
	struct region *r;
	int e;

	MUTEX_GUARD(&l->lock);
	r = layer_find_region_locked(l, number);
	if (!r)
		return 0;
	e = layer_load_region_locked(l, number, r);
	return e ? e : region_state(r, i) == GF_OVERLAY && !region_journaled(r, i);
}

bool layer_may_be_in_place(struct layer *l, uint64_t block, uint64_t count)
{
	uint32_t last = (block + count - 1) / GF_REGION_BLOCKS;

	MUTEX_GUARD(&l->lock);
	for (uint32_t number = block / GF_REGION_BLOCKS; number <= last; number++) {
		struct region *r = layer_find_region_locked(l, number);

		if (r && (r->generation || r->dirty))
			return true;
	}
	return false;
}

/* ---- looking at whole regions ---- */

uint32_t layer_next_region(struct layer *l, uint32_t from)
{
	MUTEX_GUARD(&l->lock);
	for (uint32_t leaf = from / LEAF_REGIONS; leaf < l->leaf_count; leaf++) {
		uint32_t first = leaf == from / LEAF_REGIONS ? from % LEAF_REGIONS : 0;

		for (uint32_t k = first; l->leaves[leaf] && k < LEAF_REGIONS; k++)
			if (!region_is_empty(&l->leaves[leaf][k]))
				return leaf * LEAF_REGIONS + k;
	}
	return LAYER_NO_REGION;
}

int layer_region_states(struct layer *l, uint32_t number, uint8_t states[GF_STATE_BYTES], bool *any)
{
	struct region *r;
	int e;

	MUTEX_GUARD(&l->lock);
	r = layer_find_region_locked(l, number);
	*any = r != NULL;
	if (!r) {
		memset(states, 0, GF_STATE_BYTES);
		return 0;
	}
	e = layer_load_region_locked(l, number, r);
	if (e)
		return e;
	if (r->states)
		memcpy(states, r->states, GF_STATE_BYTES);
	else
		memset(states, r->uniform * 0x55, GF_STATE_BYTES);
	/* Byte by byte: mostly few are journaled, and whoever counts asks for thousands of regions. */
	for (uint32_t i = 0; r->journal && i < GF_REGION_BLOCKS; i += 8)
		for (uint32_t k = i; r->journal[i / 8] && k < i + 8; k++)
			if (region_journaled(r, k))
				states_put(states, k, GF_OVERLAY);
	return 0;
}

/* ---- intent marks ---- */

static bool bit_is_set(const uint8_t *bits, uint32_t room, uint32_t i)
{
	return i < room && (bits[i / 8] >> (i % 8) & 1);
}

static bool region_is_marked(const struct layer *l, uint32_t i)
{
	return l->whole_mark != WHOLE_NOT || bit_is_set(l->marks, l->mark_count, i);
}

bool layer_is_marked(struct layer *l, uint64_t block, uint64_t count)
{
	uint32_t first = block / GF_REGION_BLOCKS;
	uint32_t last = (block + count - 1) / GF_REGION_BLOCKS;

	MUTEX_GUARD(&l->lock);
	for (uint32_t i = first; i <= last; i++)
		if (!region_is_marked(l, i))
			return false;
	return true;
}

/* Has a bitmap have `count` bits at least, new ones 0; *room counts those that it has. */
static int grow_bits(uint8_t **bits, uint32_t *room, uint64_t count)
{
	uint32_t need = round_up(count, 64);
	uint8_t *more;

	if (need <= *room)
		return 0;
	more = realloc(*bits, need / 8);
	if (!more)
		return -ENOMEM;
	memset(more + *room / 8, 0, (need - *room) / 8);
	*bits = more;
	*room = need;
	return 0;
}

/* Sets bits [first, first + count) of a bitmap that grows. */
static int set_bits(uint8_t **bits, uint32_t *room, uint32_t first, uint32_t count)
{
	int e = grow_bits(bits, room, (uint64_t)first + count);

	if (e)
		return e;
	for (uint32_t i = first; i < first + count; i++)
		(*bits)[i / 8] |= 1u << (i % 8);
	return 0;
}

/* All three bitmaps have room for the same regions. */
static int grow_marks(struct layer *l, uint64_t count)
{
	uint32_t room = l->mark_count;
	int e = grow_bits(&l->used_marks, &room, count);

	room = l->mark_count;
	if (!e)
		e = grow_bits(&l->old_marks, &room, count);
	return e ? e : grow_bits(&l->marks, &l->mark_count, count);
}

int layer_mark(struct layer *l, uint32_t region, uint32_t count, uint64_t seq)
{
	int e;

	MUTEX_GUARD(&l->lock);
	/* One that is recorded again counts all the time: the older record is not passed before. */
	for (uint32_t i = region; i < region + count; i++)
		if (!region_is_marked(l, i) && atomic_load(&l->mark_seq) < seq)
			atomic_store(&l->mark_seq, seq);
	e = grow_marks(l, (uint64_t)region + count);
	if (!e)
		e = set_bits(&l->marks, &l->mark_count, region, count);
	for (uint32_t i = region; !e && i < region + count; i++)
		l->old_marks[i / 8] &= ~(1u << (i % 8));
	return e;
}

void layer_mark_new(struct layer *l)
{
	MUTEX_GUARD(&l->lock);
	if (l->whole_mark == WHOLE_NOT)
		l->whole_mark = WHOLE_NEW;
	l->whole_old = false;
}

void layer_use_marks(struct layer *l, uint64_t block, uint64_t count)
{
	uint32_t last = (block + count - 1) / GF_REGION_BLOCKS;

	MUTEX_GUARD(&l->lock);
	if (l->whole_mark == WHOLE_NEW || l->whole_mark == WHOLE_USED) {
		l->whole_mark = WHOLE_USED;
		return;
	}
	/* Without memory nothing is kept: who writes there next has it marked anew. */
	if (l->whole_mark == WHOLE_KEPT && grow_marks(l, (uint64_t)last + 1))
		return;
	for (uint32_t i = block / GF_REGION_BLOCKS; i <= last; i++)
		if (region_is_marked(l, i))
			l->used_marks[i / 8] |= 1u << (i % 8);
}

/* lock held. false: keep() could not. */
static bool keep_used_runs(struct layer *l, int (*keep)(void *arg, uint32_t region, uint32_t count), void *arg)
{
	bool kept = true;
	uint32_t n;

	for (uint32_t i = 0; i < l->mark_count && kept; i += n + 1) {
		for (n = 0; bit_is_set(l->used_marks, l->mark_count, i + n); n++)
			;
		kept = !n || keep(arg, i, n) == 0;
	}
	return kept;
}

void layer_age_marks(struct layer *l, int (*keep)(void *arg, uint32_t region, uint32_t count), void *arg)
{
	bool whole, kept;

	MUTEX_GUARD(&l->lock);
	whole = l->whole_mark == WHOLE_USED;
	kept = whole ? keep(arg, 0, 0) == 0 : keep_used_runs(l, keep, arg);
	if (whole && kept)
		l->whole_mark = WHOLE_KEPT;
	l->whole_old = l->whole_mark != WHOLE_NOT && !(whole && kept);
	for (uint32_t i = 0; i < l->mark_count / 8; i++)
		l->old_marks[i] = l->marks[i] & (kept && !whole ? ~l->used_marks[i] : 0xff);
	if (l->mark_count)
		memset(l->used_marks, 0, l->mark_count / 8);
}

void layer_clear_old_marks(struct layer *l)
{
	uint8_t left = 0;

	MUTEX_GUARD(&l->lock);
	for (uint32_t i = 0; i < l->mark_count / 8; i++) {
		l->marks[i] &= ~l->old_marks[i];
		l->old_marks[i] = 0;
		left |= l->marks[i] | l->used_marks[i];
	}
	/* Frozen layers and those of idle files are many, and checkpoints ask each of them. */
	if (!left)
		free_marks(l);
	if (l->whole_old)
		l->whole_mark = WHOLE_NOT;
	l->whole_old = false;
}

uint32_t layer_count_marks(struct layer *l)
{
	uint32_t count = 0;

	MUTEX_GUARD(&l->lock);
	for (uint32_t i = 0; i < l->mark_count / 8; i++)
		count += (uint32_t)__builtin_popcount(l->marks[i]);
	return count;
}

void layer_clear_marks(struct layer *l)
{
	MUTEX_GUARD(&l->lock);
	free_marks(l);
	l->whole_mark = WHOLE_NOT;
	l->whole_old = false;
}

/* ---- suspect regions ---- */

static int set_suspect_locked(struct layer *l, uint32_t region, uint32_t count)
{
	uint32_t fresh = 0;
	int e;

	for (uint32_t i = region; i < region + count; i++)
		fresh += !bit_is_set(l->suspects, l->suspect_room, i);
	e = set_bits(&l->suspects, &l->suspect_room, region, count);
	if (!e)
		atomic_fetch_add(&l->suspect_count, fresh);
	return e;
}

int layer_set_suspect(struct layer *l, uint32_t region, uint32_t count)
{
	MUTEX_GUARD(&l->lock);
	return set_suspect_locked(l, region, count);
}

void layer_clear_suspect(struct layer *l, uint32_t region)
{
	MUTEX_GUARD(&l->lock);
	if (!bit_is_set(l->suspects, l->suspect_room, region))
		return;
	l->suspects[region / 8] &= ~(1u << (region % 8));
	atomic_fetch_sub(&l->suspect_count, 1);
}

bool layer_is_suspect(struct layer *l, uint32_t region)
{
	if (!atomic_load(&l->suspect_count))
		return false;
	MUTEX_GUARD(&l->lock);
	return bit_is_set(l->suspects, l->suspect_room, region);
}

/* Only regions that have anything: a mark covers more than what was written. */
int layer_suspect_marked(struct layer *l)
{
	uint32_t end;
	int e = 0;

	MUTEX_GUARD(&l->lock);
	end = l->whole_mark != WHOLE_NOT ? l->leaf_count * LEAF_REGIONS : l->mark_count;
	for (uint32_t i = 0; i < end && !e; i++)
		if (region_is_marked(l, i) && layer_find_region_locked(l, i))
			e = set_suspect_locked(l, i, 1);
	return e;
}

uint32_t layer_next_suspect(struct layer *l, uint32_t from, uint32_t *count)
{
	MUTEX_GUARD(&l->lock);
	while (from < l->suspect_room && !bit_is_set(l->suspects, l->suspect_room, from))
		from++;
	if (from >= l->suspect_room)
		return LAYER_NO_REGION;
	for (*count = 1; bit_is_set(l->suspects, l->suspect_room, from + *count);)
		++*count;
	return from;
}
