/* SPDX-License-Identifier: MIT */
/*
 * SHARED blocks of a layer: where they stand, and the references that they are.
 *
 * The runs of a region (runs.h) are written by checkpoints together with its map page, in the same
 * generation, so the two always fit each other, and an older page finds its older runs. What they
 * name must be durable before: checkpoints sync the pool first.
 *
 * References: whoever makes a block SHARED has taken one to its place, and whoever makes it
 * something else gives it up. After a mount they are counted region by region (`uncounted`), in the
 * background or when a region is first changed; until all are, the pool frees nothing, so it does
 * not matter what the others see meanwhile.
 *
 * A block that is SHARED and in no run is lost: its page, or the list of its region's runs, was
 * damaged, or a repair gave it up.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/mutation.h"
#include "base/sizes.h"
#include "image/image.h"
#include "store/layer_internal.h"
#include "store/pool.h"

uint64_t place_to_slot(uint64_t place)
{
	uint64_t file = (place & ~GF_PLACE_POOL) >> GF_PLACE_SHIFT;

	return file * POOL_FILE_SLOTS + place_to_block(place);
}

uint64_t place_from_slot(uint64_t slot)
{
	return GF_PLACE_POOL | (slot / POOL_FILE_SLOTS) << GF_PLACE_SHIFT | slot % POOL_FILE_SLOTS;
}

/* ---- looking ---- */

static int lost(struct layer *l, uint64_t block)
{
	return log_error(-EUCLEAN,
		"block %" PRIu64 " of layer %" PRIu64 " is lost to damage; write it "
		"anew, or restore the clone",
		block, l->id);
}

int layer_shared_run_locked(
	struct layer *l, uint32_t number, const struct region *r, uint32_t i, struct extent *x)
{
	uint64_t block = (uint64_t)number * GF_REGION_BLOCKS + i;
	uint32_t count;
	uint64_t place = runs_find(&r->runs, i, x->count, &count);

	x->count = count;
	if (!place)
		return lost(l, block);
	if (place_is_pool(place)) {
		x->kind = EXTENT_POOL;
		x->pos = place_to_slot(place);
		return 1;
	}
	x->kind = EXTENT_GOLDEN;
	x->pos = place_to_block(place);
	x->image = l->env->golden(l->env->arg, place_to_golden(place));
	return x->image ? 1 : lost(l, block);
}

static bool is_shared(const struct region *r, uint32_t i)
{
	return region_state(r, i) == GF_SHARED && !region_journaled(r, i);
}

static void read_places_locked(
	const struct region *r, uint32_t first, uint64_t *places, uint32_t count)
{
	for (uint32_t i = 0, n; i < count; i += n) {
		uint64_t place = runs_find(&r->runs, first + i, count - i, &n);

		for (uint32_t k = i; k < i + n; k++)
			places[k] = place && is_shared(r, first + k) ? place + (k - i) : 0;
	}
}

int layer_read_places(struct layer *l, uint64_t block, uint64_t *places, uint64_t count)
{
	MUTEX_GUARD(&l->lock);
	while (count) {
		uint32_t number = block / GF_REGION_BLOCKS, first = block % GF_REGION_BLOCKS;
		uint32_t n = min_u64(count, GF_REGION_BLOCKS - first);
		struct region *r = layer_find_region_locked(l, number);
		int e = r ? layer_load_region_locked(l, number, r) : 0;

		if (e)
			return e;
		memset(places, 0, n * sizeof(*places));
		if (r)
			read_places_locked(r, first, places, n);
		block += n;
		places += n;
		count -= n;
	}
	return 0;
}

bool layer_is_lost(struct layer *l, uint64_t block)
{
	uint32_t number = block / GF_REGION_BLOCKS, i = block % GF_REGION_BLOCKS, n;
	struct region *r;

	MUTEX_GUARD(&l->lock);
	r = layer_find_region_locked(l, number);
	return r && !l->dropped && layer_load_region_locked(l, number, r) == 0 && is_shared(r, i) &&
	       !runs_find(&r->runs, i, 1, &n);
}

/* ---- references ---- */

bool layer_ref_place(struct layer *l, uint64_t place)
{
	if (place_is_pool(place))
		return pool_ref_live(l->env->pool, place_to_slot(place), l->id);
	l->env->golden_ref(l->env->arg, place_to_golden(place), 1);
	return true;
}

void layer_unref_place(struct layer *l, uint64_t place)
{
	if (place_is_pool(place))
		pool_unref(l->env->pool, place_to_slot(place), l->id);
	else
		l->env->golden_ref(l->env->arg, place_to_golden(place), -1);
}

static struct golden_use *find_use_locked(struct layer *l, uint64_t golden)
{
	for (unsigned i = 0; i < l->use_count; i++)
		if (l->uses[i].golden == golden)
			return &l->uses[i];
	return NULL;
}

/* Without memory it is not known: only figures and messages need it. */
static void count_use_locked(struct layer *l, uint64_t golden, int64_t count)
{
	struct golden_use *use = find_use_locked(l, golden), *more;

	if (!use && count > 0) {
		more = realloc(l->uses, (l->use_count + 1) * sizeof(*more));
		if (!more)
			return;
		l->uses = more;
		use = &l->uses[l->use_count++];
		*use = (struct golden_use){.golden = golden};
	}
	if (!use)
		return;
	use->blocks = use->blocks + (uint64_t)count;
	if (!use->blocks)
		*use = l->uses[--l->use_count];
}

bool layer_uses_golden(struct layer *l, uint64_t golden)
{
	if (!atomic_load(&l->golden_blocks))
		return false;
	MUTEX_GUARD(&l->lock);
	return find_use_locked(l, golden) != NULL;
}

struct search {
	uint64_t place, count;
	bool found;
};

static void look_for_place(void *arg, uint64_t place, uint32_t first, uint32_t count)
{
	struct search *s = arg;

	(void)first;
	s->found |= place < s->place + s->count && s->place < place + count;
}

bool layer_shows_golden(struct layer *l, uint64_t golden, uint64_t block, uint64_t count)
{
	struct search search = {.place = place_from_golden(golden, block), .count = count};

	if (!layer_uses_golden(l, golden))
		return false;
	MUTEX_GUARD(&l->lock);
	for (uint32_t n = 0; n < l->leaf_count * LEAF_REGIONS && !search.found; n++) {
		struct region *r = layer_find_region_locked(l, n);

		if (r && layer_load_region_locked(l, n, r) == 0)
			runs_each(&r->runs, 0, GF_REGION_BLOCKS, look_for_place, &search);
	}
	return search.found;
}

static void count_blocks_locked(struct layer *l, uint64_t place, int64_t count)
{
	if (!count)
		return;
	atomic_fetch_add(&l->shared_blocks, (uint64_t)count);
	if (place_is_pool(place))
		return;
	atomic_fetch_add(&l->golden_blocks, (uint64_t)count);
	count_use_locked(l, place_to_golden(place), count);
}

static void give_up_references(void *arg, uint64_t place, uint32_t first, uint32_t count)
{
	struct layer *l = arg;

	for (uint32_t i = 0; i < count; i++)
		layer_unref_place(l, place + i);
	count_blocks_locked(l, place, -(int64_t)count);
}

static void take_references(void *arg, uint64_t place, uint32_t first, uint32_t count)
{
	struct layer *l = arg;

	/* What was there at the mount is live while counting (layer_trim_runs_locked()). */
	for (uint32_t i = 0; i < count; i++)
		layer_ref_place(l, place + i);
	count_blocks_locked(l, place, count);
}

static int count_region_locked(struct layer *l, uint32_t number, struct region *r)
{
	int e;

	if (!r->uncounted || !l->env->pool)
		return 0;
	e = layer_load_region_locked(l, number, r);
	if (e)
		return e;
	runs_each(&r->runs, 0, GF_REGION_BLOCKS, take_references, l);
	r->uncounted = false;
	return 0;
}

/* Before anybody sees them: what stood behind the end of the pool at the mount is lost, on the disk
 * too with the next checkpoint, since somebody else's bytes come to stand there. */
bool layer_trim_runs_locked(struct layer *l, struct region *r)
{
	uint32_t kept = 0;
	bool trimmed = false;

	if (!r->uncounted || !l->env->pool || MUTATED("slots that are not there may be another's"))
		return false;
	for (uint32_t i = 0; i < r->runs.count; i++) {
		struct run run = r->runs.list[i];
		uint64_t there =
			place_is_pool(run.place)
				? pool_found(l->env->pool, place_to_slot(run.place), run.count)
				: run.count;

		trimmed |= there < run.count;
		run.count = min_u64(run.count, there);
		if (run.count)
			r->runs.list[kept++] = run;
	}
	r->runs.count = kept;
	r->dirty |= trimmed;
	l->dirty |= trimmed;
	return trimmed;
}

int layer_count_shared(struct layer *l, uint32_t *region)
{
	MUTEX_GUARD(&l->lock);
	while (l->may_share && *region < l->leaf_count * LEAF_REGIONS) {
		struct region *r = layer_find_region_locked(l, *region);
		uint32_t n = (*region)++;
		int e;

		if (!r || !r->uncounted)
			continue;
		e = count_region_locked(l, n, r);
		return e ? e : 1;
	}
	return 0;
}

int layer_leave_shared_locked(
	struct layer *l, uint32_t number, struct region *r, uint32_t first, uint32_t count)
{
	int e = count_region_locked(l, number, r);

	if (e || !r->runs.count)
		return e;
	e = runs_reserve(&r->runs, 1);
	if (e)
		return e;
	runs_each(&r->runs, first, count, give_up_references, l);
	runs_remove(&r->runs, first, count);
	return 0;
}

bool layer_lost_places(struct layer *l)
{
	MUTEX_GUARD(&l->lock);
	return l->places_lost;
}

void layer_drop_shared(struct layer *l)
{
	MUTEX_GUARD(&l->lock);
	if (!l->env->pool || !l->may_share)
		return;
	for (uint32_t n = 0; n < l->leaf_count * LEAF_REGIONS; n++) {
		struct region *r = layer_find_region_locked(l, n);

		/* What was not counted never will be. */
		if (!r || r->uncounted || layer_load_region_locked(l, n, r))
			continue;
		runs_each(&r->runs, 0, GF_REGION_BLOCKS, give_up_references, l);
		runs_release(&r->runs);
	}
	atomic_store(&l->may_share, false);
	l->dropped = true;
	pool_forget_layer(l->env->pool, l->id);
}

/* ---- changing ---- */

/* How many of the places follow the first one. */
static uint32_t follow(const uint64_t *places, uint32_t count)
{
	uint32_t n = 1;

	while (n < count && place_follows(places[n - 1], places[n]))
		n++;
	return n;
}

/* Within one region; all of it or, when it fails, nothing. */
static int set_shared_locked(
	struct layer *l, uint64_t block, uint32_t count, const uint64_t *places)
{
	uint32_t number = block / GF_REGION_BLOCKS, first = block % GF_REGION_BLOCKS, n;
	struct region *r;
	int e = layer_writable_region_locked(l, number, &r);

	/* From here on nothing may fail: room for the worst. */
	if (!e)
		e = region_materialize(r);
	if (!e)
		e = runs_reserve(&r->runs, count + 2);
	if (!e)
		e = layer_leave_shared_locked(l, number, r, first, count);
	if (e)
		return e;
	layer_put_state_locked(l, number, r, first, count, GF_SHARED);
	for (uint32_t i = 0; i < count; i += n) {
		n = follow(places + i, count - i);
		runs_add(&r->runs, first + i, n, places[i]);
		count_blocks_locked(l, places[i], n);
	}
	atomic_store(&l->may_share, true);
	return 0;
}

int layer_set_shared(struct layer *l, uint64_t block, uint64_t count, const uint64_t *places)
{
	MUTEX_GUARD(&l->lock);
	while (count) {
		uint32_t n = min_u64(count, GF_REGION_BLOCKS - block % GF_REGION_BLOCKS);
		int e = set_shared_locked(l, block, n, places);

		if (e)
			return e;
		block += n;
		count -= n;
		places += n;
	}
	return 0;
}

/* ---- to be looked at once more ---- */

static void mark_locked(struct layer *l, struct region *r, uint64_t asked)
{
	r->unexamined = true;
	l->asked = l->unexamined ? min_u64(l->asked, asked) : asked;
	l->unexamined = true;
}

void layer_set_unexamined(struct layer *l, uint32_t region, uint32_t count, uint64_t asked)
{
	uint64_t end;

	MUTEX_GUARD(&l->lock);
	end = min_u64((uint64_t)region + count, (uint64_t)l->leaf_count * LEAF_REGIONS);
	for (; region < end; region++) {
		struct region *r = layer_find_region_locked(l, region);

		if (!r)
			continue;
		r->wished = false;
		mark_locked(l, r, asked);
	}
}

void layer_put_unexamined(struct layer *l, uint32_t region, uint64_t asked)
{
	struct region *r;

	MUTEX_GUARD(&l->lock);
	r = layer_find_region_locked(l, region);
	if (r)
		mark_locked(l, r, asked);
}

void layer_wish_examined(struct layer *l)
{
	MUTEX_GUARD(&l->lock);
	for (uint32_t n = 0; n < l->leaf_count * LEAF_REGIONS; n++) {
		struct region *r = layer_find_region_locked(l, n);

		if (!r)
			continue;
		r->wished |= !r->unexamined;
		mark_locked(l, r, 0);
	}
}

void layer_unwish_examined(struct layer *l)
{
	MUTEX_GUARD(&l->lock);
	for (uint32_t n = 0; n < l->leaf_count * LEAF_REGIONS; n++) {
		struct region *r = layer_find_region_locked(l, n);

		if (r && r->wished)
			r->unexamined = r->wished = false;
	}
}

bool layer_has_unexamined(struct layer *l)
{
	MUTEX_GUARD(&l->lock);
	return l->unexamined;
}

static struct region *find_unexamined_locked(struct layer *l, uint32_t from, uint32_t *number)
{
	for (uint32_t n = from; n < l->leaf_count * LEAF_REGIONS; n++) {
		struct region *r = layer_find_region_locked(l, n);

		if (!r || !r->unexamined)
			continue;
		*number = n;
		return r;
	}
	return NULL;
}

bool layer_take_unexamined(
	struct layer *l, uint32_t from, uint32_t *region, uint64_t *asked)
{
	struct region *r;
	uint32_t before;

	MUTEX_GUARD(&l->lock);
	r = l->unexamined ? find_unexamined_locked(l, from, region) : NULL;
	if (!r) {
		l->unexamined = l->unexamined && find_unexamined_locked(l, 0, &before);
		return false;
	}
	r->unexamined = false;
	*asked = l->asked;
	return true;
}
