/* SPDX-License-Identifier: MIT */
/*
 * The blocks of a layer that is being recast (recast.c): two passes.
 *
 *   pull  blocks that would show something else over the new base become the layer's own: stored,
 *         ZERO, or SHARED with what has the same content
 *   drop  blocks of its own that are equal to what is below become PARENT
 *
 * Both look at up to a MiB at a time: once without any lock, to see whether there is anything to do
 * and how much space that takes; then again with the blocks' range held, and what is to be done is
 * one large write of what the blocks show already (volume_rewrite()). So it is recovered as any
 * write is, and a client that writes to the same blocks comes before or after it.
 *
 * Cost: holes are passed over by what images and maps say; the rest of what is PARENT is compared
 * with the new base. Of two images that is remembered, so that a fleet costs one comparison.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/invariant.h"
#include "base/mutation.h"
#include "base/sizes.h"
#include "base/times.h"
#include "core/recast.h"

#define PIECE 256 /* blocks looked at under one range */
#define KEEP 0xff /* a kind: nothing is to be done */
/* In the journal: every other block may be a record of its own. */
#define ROOM (volume_rewrite_room(PIECE) + PIECE / 2 * 128)

struct piece {
	uint64_t block;
	uint32_t count;
	bool held; /* the caller has the range */
	struct region_view view;
	uint64_t places[PIECE]; /* of its SHARED blocks */
	uint64_t below[PIECE];	/* of blocks that are to be SHARED as what is below is */
	uint8_t kinds[PIECE];
	uint32_t changes;		      /* kinds that are not KEEP */
	uint32_t stored;		      /* of them, those that take space */
	uint8_t data[PIECE * GF_BLOCK_SIZE];  /* what it shows, where a kind is not KEEP */
	uint8_t other[PIECE * GF_BLOCK_SIZE]; /* what is, or will be, below */
};

/* ---- what two images have in common ---- */

struct recast_equal {
	uint64_t from, to; /* ids */
	uint64_t blocks;
	pthread_mutex_t lock;
	uint8_t *same; /* lock; a bit per block that is known to be equal */
};

struct recast_equal *recast_equal_new(uint64_t from, uint64_t to, uint64_t blocks)
{
	struct recast_equal *e = calloc(1, sizeof(*e));

	if (!e)
		return NULL;
	*e = (struct recast_equal){
		.from = from, .to = to, .blocks = blocks, .same = calloc(1, blocks / 8 + 1)};
	pthread_mutex_init(&e->lock, NULL);
	if (!e->same) {
		recast_equal_free(e);
		return NULL;
	}
	return e;
}

bool recast_equal_is_of(const struct recast_equal *e, uint64_t from, uint64_t to)
{
	return e && ((e->from == from && e->to == to) ||
			    MUTATED("what two images have in common is what any two have"));
}

void recast_equal_free(struct recast_equal *e)
{
	if (!e)
		return;
	pthread_mutex_destroy(&e->lock);
	free(e->same);
	free(e);
}

/* Blocks from this one on that are known to be equal. */
static uint64_t equal_run(struct recast_equal *e, uint64_t block, uint64_t max)
{
	uint64_t n = 0;

	if (!e)
		return 0;
	MUTEX_GUARD(&e->lock);
	while (n < max && block + n < e->blocks &&
		(e->same[(block + n) / 8] >> (block + n) % 8 & 1))
		n++;
	return n;
}

/* What is below may have come to stand on another image since. */
static bool is_from(const struct recast_equal *e, const struct image *image)
{
	return e && ((const struct golden *)image)->id == e->from;
}

static void equal_note(struct recast_equal *e, uint64_t block)
{
	if (!e || block >= e->blocks)
		return;
	MUTEX_GUARD(&e->lock);
	e->same[block / 8] |= 1 << block % 8;
}

/* ---- what is below, and what will be ---- */

static uint64_t blocks_of(uint64_t bytes)
{
	return round_up(bytes, GF_BLOCK_SIZE) / GF_BLOCK_SIZE;
}

static uint64_t new_bound(const struct recast *rc)
{
	return rc->trial ? rc->trial_bound : atomic_load(&rc->layer->recast_bound);
}

/* Blocks from this one on that are a hole of the image; max when there is no image. */
static uint64_t image_hole(struct image *image, uint64_t block, uint64_t max)
{
	uint64_t start, end;
	int r;

	if (!image)
		return max;
	r = image->ops->next_data(image, block * GF_BLOCK_SIZE, &start, &end);
	if (r)
		return r == -ENXIO ? max : 0;
	start /= GF_BLOCK_SIZE;
	return start > block ? min_u64(start - block, max) : 0;
}

/*
 * Blocks from this one on, all PARENT, that show the same over the new base, as can be told without
 * reading them. fs.readers is entered.
 */
static uint64_t same_run(const struct recast *rc, uint64_t block, uint64_t max)
{
	uint64_t bound = blocks_of(new_bound(rc)), hole;
	struct extent x;

	if (layer_resolve(rc->layer, block, max, true, &x))
		return 0; /* whoever reads it meets the error */
	if (rc->kind == GF_RECAST_FOLD)
		return x.layer == rc->fold ? 0 : x.count;
	if (x.kind == EXTENT_IMAGE &&
		(block + x.count) * GF_BLOCK_SIZE <= min_u64(x.limit, new_bound(rc))) {
		if (x.image == rc->image)
			return x.count;
		hole = is_from(rc->equal, x.image) ? equal_run(rc->equal, block, x.count) : 0;
		if (hole)
			return hole;
	}
	if (x.kind != EXTENT_ZERO && x.kind != EXTENT_IMAGE)
		return 0;
	hole = x.kind == EXTENT_ZERO ? x.count : image_hole(x.image, block, x.count);
	/* Beyond the new bound, and without a new base, there will be zeros. */
	if (!hole || block >= bound)
		return hole;
	return rc->image ? image_hole(rc->image, block, min_u64(hole, bound - block)) : hole;
}

/* What the new base shows there. */
static int read_new(const struct recast *rc, uint8_t *to, uint64_t block, uint64_t count)
{
	uint64_t off = block * GF_BLOCK_SIZE, len = count * GF_BLOCK_SIZE, bound = new_bound(rc);
	int r = 0;

	if (rc->fold)
		r = volume_read_blocks(rc->fs, rc->fold, to, block, count, READ_BELOW);
	else if (rc->image && off < bound)
		r = rc->image->ops->read(rc->image, to, len, off);
	else
		bound = 0;
	if (!r && off + len > bound)
		memset(to + (bound > off ? bound - off : 0), 0,
			len - (bound > off ? bound - off : 0));
	return r;
}

/* ---- what is to be done with a piece ---- */

static bool is_at_rest(const struct piece *p, uint32_t i, enum gf_state state)
{
	return region_view_is(&p->view, p->block % GF_REGION_BLOCKS + i, state);
}

/* A SHARED block that must not be what it is. */
static bool leaves_place(const struct recast *rc, const struct piece *p, uint32_t i)
{
	uint64_t leaving = atomic_load(&rc->layer->leaving);

	if (rc->kind == GF_RECAST_THIN || rc->kind == GF_RECAST_FULL)
		return true;
	return leaving && p->places[i] && !place_is_pool(p->places[i]) &&
	       place_to_golden(p->places[i]) == leaving;
}

static bool is_pulled(const struct recast *rc, const struct piece *p, uint32_t i)
{
	if (is_at_rest(p, i, GF_PARENT))
		return p->kinds[i] != KEEP;
	return is_at_rest(p, i, GF_SHARED) && leaves_place(rc, p, i);
}

/* Blocks of which it can be told without reading are left out of the others. */
static void find_candidates(const struct recast *rc, struct piece *p)
{
	uint64_t end = blocks_of(max_u64(rc->layer->bound, new_bound(rc)));
	uint32_t i = 0, n;

	memset(p->kinds, KEEP, sizeof(p->kinds));
	while (i < p->count && p->block + i < end) {
		n = 1;
		if (is_at_rest(p, i, GF_PARENT)) {
			while (i + n < p->count && is_at_rest(p, i + n, GF_PARENT))
				n++;
			n = same_run(rc, p->block + i, n);
			if (!n)
				p->kinds[i] = GF_PARENT;
			n = max_u64(n, 1);
		}
		i += n;
	}
}

/* An image's block that is compared with the same one of the other. */
static bool compares_images(const struct recast *rc, uint64_t block, const struct extent *x)
{
	return x->kind == EXTENT_IMAGE && is_from(rc->equal, x->image) &&
	       (block + 1) * GF_BLOCK_SIZE <= min_u64(x->limit, new_bound(rc));
}

/* Where a block below stands that others may share; 0: nowhere, or where this layer must not. */
static uint64_t place_below(const struct recast *rc, uint64_t block, const struct extent *x)
{
	uint64_t id;

	if (atomic_load(&rc->layer->apart) || (block + 1) * GF_BLOCK_SIZE > x->limit)
		return 0;
	if (x->kind == EXTENT_POOL)
		return place_from_slot(x->pos);
	if (x->kind != EXTENT_GOLDEN)
		return 0;
	id = ((const struct golden *)x->image)->id;
	return id == atomic_load(&rc->layer->leaving) ? 0 : place_from_golden(id, x->pos);
}

/* A block that is PARENT and shows something else over the new base. */
static enum gf_state judge_parent(const struct recast *rc, struct piece *p, uint32_t i, bool same)
{
	uint64_t block = p->block + i;
	struct extent x;

	if (layer_resolve(rc->layer, block, 1, true, &x))
		return same ? KEEP : GF_OVERLAY;
	if (same && compares_images(rc, block, &x))
		equal_note(rc->equal, block);
	p->below[i] = same ? 0 : place_below(rc, block, &x);
	return same ? KEEP : p->below[i] ? GF_SHARED : GF_OVERLAY;
}

static void judge_pulled(const struct recast *rc, struct piece *p, uint32_t i)
{
	const uint8_t *shown = p->data + (size_t)i * GF_BLOCK_SIZE;
	const uint8_t *next = p->other + (size_t)i * GF_BLOCK_SIZE;
	bool same = memcmp(shown, next, GF_BLOCK_SIZE) == 0;

	if (MUTATED("a base takes another's place without comparing"))
		same = true;
	if (is_at_rest(p, i, GF_PARENT))
		p->kinds[i] = judge_parent(rc, p, i, same);
	else
		p->kinds[i] = GF_OVERLAY;
	if (p->kinds[i] != KEEP && is_zero(shown, GF_BLOCK_SIZE))
		p->kinds[i] = GF_ZERO;
	INVARIANT(5, p->kinds[i] != KEEP || memcmp(shown, next, GF_BLOCK_SIZE) == 0);
}

static unsigned how_to_read(const struct piece *p)
{
	return READ_CHECKED | (p->held ? READ_HELD : 0);
}

static void count_changes(struct piece *p)
{
	p->changes = p->stored = 0;
	for (uint32_t i = 0; i < p->count; i++) {
		p->changes += p->kinds[i] != KEEP;
		p->stored += p->kinds[i] == GF_OVERLAY;
	}
}

static int look_for_pulls(const struct recast *rc, struct piece *p)
{
	uint32_t n;
	int r = 0;

	find_candidates(rc, p);
	for (uint32_t i = 0; i < p->count && !r; i += n) {
		size_t at = (size_t)i * GF_BLOCK_SIZE;

		n = 1;
		if (!is_pulled(rc, p, i))
			continue;
		while (i + n < p->count && is_pulled(rc, p, i + n))
			n++;
		r = volume_read_blocks(
			rc->fs, rc->layer, p->data + at, p->block + i, n, how_to_read(p));
		if (!r)
			r = read_new(rc, p->other + at, p->block + i, n);
		for (uint32_t k = i; k < i + n && !r; k++)
			judge_pulled(rc, p, k);
	}
	count_changes(p);
	return r;
}

/* What stands in the very block of the image that would show there. */
static bool is_below_itself(const struct recast *rc, const struct piece *p, uint32_t i)
{
	const struct layer *layer = rc->layer;

	return !layer->parent && layer->golden &&
	       (p->block + i + 1) * GF_BLOCK_SIZE <= layer->bound &&
	       p->places[i] == place_from_golden(layer->golden, p->block + i);
}

static bool is_own(const struct piece *p, uint32_t i)
{
	return is_at_rest(p, i, GF_OVERLAY) || is_at_rest(p, i, GF_ZERO) ||
	       (is_at_rest(p, i, GF_SHARED) && p->places[i]);
}

static int read_below(const struct recast *rc, uint8_t *to, uint64_t block, uint64_t count)
{
	if (rc->trial)
		return read_new(rc, to, block, count);
	return volume_read_blocks(rc->fs, rc->layer, to, block, count, READ_BELOW | READ_CHECKED);
}

static int look_for_drops(const struct recast *rc, struct piece *p)
{
	uint64_t end = blocks_of(rc->trial ? rc->trial_bound : rc->layer->bound);

	memset(p->kinds, KEEP, sizeof(p->kinds));
	for (uint32_t i = 0, n; i < p->count && p->block + i < end; i += n) {
		size_t at = (size_t)i * GF_BLOCK_SIZE;

		n = 1;
		if (!is_own(p, i))
			continue;
		while (i + n < p->count && p->block + i + n < end && is_own(p, i + n))
			n++;
		/* What is damaged stays what it is. */
		if (volume_read_blocks(
			    rc->fs, rc->layer, p->data + at, p->block + i, n, how_to_read(p)) ||
			read_below(rc, p->other + at, p->block + i, n))
			continue;
		for (uint32_t k = i; k < i + n; k++)
			if ((!rc->trial && is_below_itself(rc, p, k)) ||
				memcmp(p->data + (size_t)k * GF_BLOCK_SIZE,
					p->other + (size_t)k * GF_BLOCK_SIZE, GF_BLOCK_SIZE) == 0 ||
				MUTATED("a block of its own is dropped without comparing"))
				p->kinds[k] = GF_PARENT;
	}
	count_changes(p);
	return 0;
}

typedef int (*look_fn)(const struct recast *rc, struct piece *p);

/*
 * What is below a layer lives as long as the layer does, and then until readers have left that were
 * there before. So whoever enters while the layer is in the table may follow it.
 */
static bool enter(const struct recast *rc, unsigned *token)
{
	*token = drain_enter(&rc->fs->readers);
	if (tree_find_layer(rc->fs, rc->layer->id) == rc->layer)
		return true;
	drain_leave(&rc->fs->readers, *token);
	return false;
}

/* The layer gets references to the places that it is to share; what is gone is stored. */
static void take_places(const struct recast *rc, struct piece *p)
{
	for (uint32_t i = 0; i < p->count; i++)
		if (p->kinds[i] == GF_SHARED && !layer_ref_place(rc->layer, p->below[i]))
			p->kinds[i] = GF_OVERLAY;
}

static int look(const struct recast *rc, struct piece *p, look_fn fn)
{
	unsigned token;
	int r = layer_view_region(rc->layer, p->block / GF_REGION_BLOCKS, &p->view);

	if (!r)
		r = layer_read_places(rc->layer, p->block, p->places, p->count);
	if (r)
		return r;
	if (!enter(rc, &token))
		return -ESTALE;
	r = fn(rc, p);
	/* Before what is below can give them up, and they become others. */
	if (!r && p->held)
		take_places(rc, p);
	/* Of a layer that is gone anything may be missing. */
	if (r && tree_find_layer(rc->fs, rc->layer->id) != rc->layer)
		r = -ESTALE;
	drain_leave(&rc->fs->readers, token);
	return r;
}

/* ---- doing it ---- */

static void give_places(struct recast *rc, struct piece *p, uint32_t from)
{
	for (uint32_t i = from; i < p->count; i++)
		if (p->kinds[i] == GF_SHARED)
			layer_unref_place(rc->layer, p->below[i]);
}

static int rewrite(struct recast *rc, struct piece *p)
{
	int r = 0;

	for (uint32_t i = 0, n; i < p->count && !r; i += n) {
		n = 1;
		if (p->kinds[i] == KEEP)
			continue;
		while (i + n < p->count && p->kinds[i + n] != KEEP)
			n++;
		r = volume_rewrite(rc->fs, &(struct rewrite){.layer = rc->layer,
						   .block = p->block + i,
						   .count = n,
						   .data = p->data + (size_t)i * GF_BLOCK_SIZE,
						   .kinds = p->kinds + i,
						   .places = p->below + i,
						   .share = rc->kind == GF_RECAST_REBASE});
		if (r)
			give_places(rc, p, i + n);
	}
	return r;
}

static int change_held(struct recast *rc, struct piece *p, look_fn fn)
{
	struct fs *fs = rc->fs;
	struct range range;
	int r;

	pthread_rwlock_rdlock(&fs->sharing);
	rangelock_lock(&rc->layer->ranges, &range, p->block, p->block + p->count - 1);
	p->held = true;
	r = atomic_load(&rc->layer->failed) ? -EIO : look(rc, p, fn);
	if (!r)
		r = rewrite(rc, p);
	p->held = false;
	rangelock_unlock(&rc->layer->ranges, &range);
	pthread_rwlock_unlock(&fs->sharing);
	return r;
}

static int get_space(struct recast *rc, const struct piece *p)
{
	/* What has a place already, has. */
	if (p->block + p->count <= atomic_load(&rc->layer->whole_blocks))
		return 0;
	return space_get(rc->fs, rc->kind == GF_RECAST_FOLD ? NULL : rc->inode,
		(uint64_t)p->stored * GF_BLOCK_SIZE);
}

static bool is_told_to_stop(void *arg)
{
	const struct recast *rc = arg;
	const struct fs_recast_options *o = rc->options;

	return o && o->progress && o->progress(o->arg, rc->done, rc->total);
}

static int count_trial(struct recast *rc, const struct piece *p)
{
	int r = 0;

	rc->would_store += p->stored;
	for (uint32_t i = 0; i < p->count && r >= 0; i++) {
		if (p->kinds[i] != GF_PARENT)
			continue;
		r = is_at_rest(p, i, GF_OVERLAY);
		if (is_at_rest(p, i, GF_SHARED) && place_is_pool(p->places[i]))
			r = gains_drop(rc->trial, rc->fs->pool, place_to_slot(p->places[i]));
		rc->would_drop += r > 0;
	}
	return r < 0 ? r : 0;
}

/* While guests ask, what was stored goes to the disk as it comes, so that a step takes the time that it
 * costs them, and none of them has to wait for all of it. */
static int sync_some(struct recast *rc, const struct piece *p)
{
	rc->unsynced += (uint64_t)p->stored * GF_BLOCK_SIZE;
	if (rc->unsynced < PACE_SYNC_BYTES || !pace_gives_way(&rc->pace))
		return 0;
	rc->unsynced = 0;
	return flush_layer(rc->fs, rc->layer);
}

/* What look() found in the piece. */
static int change(struct recast *rc, struct piece *p, look_fn fn)
{
	int64_t room;
	int r = get_space(rc, p);

	if (!r && atomic_load(&rc->layer->recovered))
		r = flush_recovered_layer(rc->fs, rc->layer);
	if (r)
		return r;
	room = record_reserve(rc->fs, ROOM);
	if (room < 0)
		return (int)room;
	r = change_held(rc, p, fn);
	journal_unreserve(rc->fs->journal, room);
	return r ? r : sync_some(rc, p);
}

static int work_at_piece(struct recast *rc, struct piece *p, look_fn fn)
{
	int64_t start = times_now(CLOCK_MONOTONIC);
	int r;

	p->held = false;
	p->stored = 0;
	r = look(rc, p, fn);
	if (!r && rc->trial)
		r = count_trial(rc, p);
	else if (!r && p->changes)
		r = change(rc, p, fn);
	if (!r && pace_after(&rc->pace, start, rc->trial ? 0 : (uint64_t)p->stored * GF_BLOCK_SIZE,
			  is_told_to_stop, rc))
		r = -ECANCELED;
	return r;
}

/* ---- passes ---- */

/* Blocks from this one on, within its region, at which nothing has to be looked. */
static uint64_t skip(const struct recast *rc, uint64_t block, uint64_t max)
{
	uint32_t region = block / GF_REGION_BLOCKS;
	unsigned token;
	uint64_t n;

	if (layer_next_region(rc->layer, region) == region)
		return 0;
	/* Whoever looks at it is told that the layer is gone. */
	if (!enter(rc, &token))
		return 0;
	n = same_run(rc, block, max);
	drain_leave(&rc->fs->readers, token);
	return n;
}

/* The first block behind all that the layer has, or that is below or will be. */
static uint64_t pass_end(const struct recast *rc)
{
	uint64_t end = blocks_of(max_u64(rc->layer->bound, new_bound(rc)));
	uint32_t region = 0;

	while ((region = layer_next_region(rc->layer, region)) != LAYER_NO_REGION)
		end = max_u64(end, (uint64_t)++region * GF_REGION_BLOCKS);
	return end;
}

static int pass(struct recast *rc, look_fn fn, bool own_only)
{
	struct piece *p = malloc(sizeof(*p));
	uint64_t end = pass_end(rc), block = 0, n;
	int r = p ? 0 : -ENOMEM;

	rc->total = end * GF_BLOCK_SIZE;
	while (!r && block < end) {
		uint64_t left = GF_REGION_BLOCKS - block % GF_REGION_BLOCKS;
		uint32_t region = block / GF_REGION_BLOCKS;

		rc->done = block * GF_BLOCK_SIZE;
		if (is_told_to_stop(rc)) {
			r = -ECANCELED;
			break;
		}
		if (own_only && layer_next_region(rc->layer, region) != region) {
			block += left;
			continue;
		}
		n = own_only ? 0 : skip(rc, block, end - block);
		if (!n) {
			n = min_u64(PIECE, min_u64(left, end - block));
			p->block = block;
			p->count = n;
			r = work_at_piece(rc, p, fn);
		}
		block += n;
	}
	rc->done = r ? rc->done : rc->total;
	free(p);
	return r;
}

int recast_pull(struct recast *rc)
{
	return pass(rc, look_for_pulls, false);
}

int recast_drop(struct recast *rc)
{
	return pass(rc, look_for_drops, true);
}
