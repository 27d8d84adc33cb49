/* SPDX-License-Identifier: MIT */
/*
 * Content dedup: a block that is about to be stored is looked for first.
 *
 *   same as below, zero   found by those who call this (volume.c, checkpoint.c); not stored
 *   in a golden image     its content index says where (golden_index.c): SHARED with the image
 *   in the pool           SHARED with the slot
 *   in a layer            the bytes go to a slot of the pool, the block is SHARED with that, and
 *                         the other one is noted to be moved there by the next checkpoint
 *
 * All hints are hints: what they name is read and compared before anything refers to it. A slot is
 * compared after a reference to it was taken, so that it cannot become another one in between. The
 * other layer's block may change while it is read, which is of no concern: if it was equal once, it
 * is our bytes that go to the pool.
 *
 * What is found is of the same domain, or of a golden image (domain.c).
 *
 * Moving a block of a layer to the pool changes where it stands without any record. That is only
 * right when no record in the ring speaks of that block: replayed, it would say that the block is
 * in place. So a block is moved when its layer's newest large write is behind the new tail, and the
 * block is at rest; until then it stays noted. When the checkpoint fails the next one may not come
 * as far with the tail: what was moved goes back to where it still stands.
 */
#include "core/fs_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/array.h"
#include "base/cleanup.h"
#include "base/invariant.h"
#include "base/log.h"
#include "base/mutation.h"
#include "base/sizes.h"
#include "base/times.h"
#include "core/dedup.h"
#include "core/domain.h"
#include "store/content_table.h"
#include "store/pool.h"
#include "store/region.h"

#define SLOTS_AT_ONCE 64
#define MAX_CANDIDATES 4
#define SUMS_AT_ONCE 1024
#define FILL_NS INT64_C(50000000) /* at a time */
#define MAX_MOVES (1u << 20) /* noted blocks; what comes after stays where it is */

struct move {
	uint64_t layer;
	uint64_t block;
	uint64_t slot;
};

struct moved {
	uint64_t layer;
	uint64_t block;
	uint64_t place;
};

struct dedup_state {
	struct content_table *table;
	pthread_mutex_t lock;
	struct move *moves;    /* lock */
	size_t count;	       /* lock */
	size_t capacity;       /* lock */
	struct moved *moved;   /* checkpoint_lock; by the checkpoint that runs */
	size_t moved_count;    /* checkpoint_lock */
	size_t moved_capacity; /* checkpoint_lock */
	/* Up to where the table was filled from the disk. */
	pthread_mutex_t fill_lock;
	uint64_t fill_layer;  /* fill_lock */
	uint32_t fill_region; /* fill_lock */
	bool filled;	      /* fill_lock */
};

int dedup_start(struct fs *fs)
{
	struct dedup_state *d;
	int r;

	if (fs->options.dedup == FS_DEDUP_OFF)
		return 0;
	d = calloc(1, sizeof(*d));
	if (!d)
		return -ENOMEM;
	r = content_table_new(&d->table,
		fs->options.dedup_memory ? fs->options.dedup_memory : DEDUP_MEMORY_DEFAULT);
	if (r) {
		free(d);
		return r;
	}
	pthread_mutex_init(&d->lock, NULL);
	pthread_mutex_init(&d->fill_lock, NULL);
	fs->dedup = d;
	return 0;
}

void dedup_stop(struct fs *fs)
{
	struct dedup_state *d = fs->dedup;

	if (!d)
		return;
	content_table_free(d->table);
	pthread_mutex_destroy(&d->lock);
	pthread_mutex_destroy(&d->fill_lock);
	free(d->moves);
	free(d->moved);
	free(d);
	fs->dedup = NULL;
}

/* ---- the table of content ---- */

/* What content is known by: by fewer bits in tests of what happens then. */
static uint32_t known_as(const struct fs *fs, uint32_t sum)
{
	unsigned bits = fs->options.hash_bits;

	return bits && sum ? (sum & ((UINT32_C(1) << bits) - 1)) + 1 : sum;
}

static void table_put(
	struct fs *fs, uint64_t domain, uint32_t sum, const struct content_place *place)
{
	struct content_place at = *place;

	if (fs->options.hash_bits)
		at.tag = 0;
	content_table_put(fs->dedup->table, domain, known_as(fs, sum), &at);
}

static unsigned table_find(struct fs *fs, uint64_t domain, uint32_t sum,
	struct content_place *places, unsigned max)
{
	return content_table_find(fs->dedup->table, domain, known_as(fs, sum), places, max);
}

static void table_expect(struct fs *fs, uint64_t domain, uint32_t sum)
{
	content_table_expect(fs->dedup->table, domain, known_as(fs, sum));
}

/* How many are to be fetched before the i-th: a batch, or 0 within one. */
static size_t batch_at(size_t i, size_t count)
{
	return i % EXPECTED_AT_ONCE ? 0 : min_u64(EXPECTED_AT_ONCE, count - i);
}

static void table_expect_hashes(
	struct fs *fs, uint64_t domain, const struct hash128 *hashes, size_t count)
{
	for (size_t i = 0; i < count; i++)
		table_expect(fs, domain, hash_sum(&hashes[i]));
}

struct content_table *dedup_table(struct fs *fs)
{
	return fs->dedup ? fs->dedup->table : NULL;
}

/* ---- looking for one block ---- */

void dedup_begin(struct dedup *d, struct fs *fs, struct layer *layer, uint64_t first, uint64_t last)
{
	const enum fs_dedup dedup = FS_DEDUP_ALL - atomic_load(&layer->dedup);

	*d = (struct dedup){.fs = fs, .layer = layer, .first = first, .last = last};
	d->domain = atomic_load(&layer->domain);
	d->all = fs->options.dedup == FS_DEDUP_ALL && dedup == FS_DEDUP_ALL &&
		 d->domain != DOMAIN_NONE;
	d->enabled = fs->options.dedup != FS_DEDUP_OFF && !fs->options.read_only &&
		     !atomic_load(&layer->failed) && !atomic_load(&layer->apart) &&
		     (dedup != FS_DEDUP_OFF || MUTATED("a folder's dedup=off is not heeded"));
}

void dedup_end(struct dedup *d)
{
	if (d->claimed)
		pool_unclaim(d->fs->pool, d->slot, d->claimed);
	d->claimed = 0;
}

static bool is_equal(const void *a, const void *b)
{
	return memcmp(a, b, GF_BLOCK_SIZE) == 0 || MUTATED("share without comparing");
}

static bool find_in_golden(
	struct dedup *d, const void *bytes, const struct hash128 *hash, uint64_t *out)
{
	uint8_t there[GF_BLOCK_SIZE];
	uint64_t id, block, place;
	struct hash128 cut = *hash;
	struct image *image;
	bool found;

	hash_cut(&cut, d->fs->options.hash_bits);
	if (golden_index_find(d->fs, &cut, d->layer, &id, &block) <= 0 ||
		id >> (63 - GF_PLACE_SHIFT))
		return false;
	place = place_from_golden(id, block);
	/* With a reference the image stays. */
	layer_ref_place(d->layer, place);
	image = d->fs->env.golden(d->fs->env.arg, id);
	found = image &&
		image->ops->read(image, there, GF_BLOCK_SIZE, block * GF_BLOCK_SIZE) == 0 &&
		is_equal(bytes, there);
	if (!found) {
		layer_unref_place(d->layer, place);
		return false;
	}
	COUNT(d->fs, dedup_golden_blocks, 1);
	*out = place;
	return true;
}

static bool try_slot(struct dedup *d, uint64_t slot, const void *bytes)
{
	uint8_t there[GF_BLOCK_SIZE];

	if (!pool_ref_live(d->fs->pool, slot, d->layer->id))
		return false;
	/* With a reference it does not become another's. */
	if (domain_may_share(d->fs, slot, d->domain) &&
		pool_read(d->fs->pool, slot, there, 1) == 0 && is_equal(bytes, there))
		return true;
	pool_unref(d->fs->pool, slot, d->layer->id);
	return false;
}

/* Whether a block of a layer, which is of this domain, has these bytes, in place. */
static bool has_bytes(struct fs *fs, const struct content_place *at, uint64_t domain,
	const void *bytes)
{
	struct layer *layer = layer_hold(fs, at->owner);
	uint8_t there[GF_BLOCK_SIZE];
	bool found;

	if (!layer)
		return false;
	found = (atomic_load(&layer->domain) == domain ||
			MUTATED("blocks of layers of other domains are shared")) &&
		!atomic_load(&layer->failed) && !atomic_load(&layer->apart) &&
		layer_is_at_rest(layer, at->block) == 1 &&
		layer_read_data(layer, there, GF_BLOCK_SIZE, at->block * GF_BLOCK_SIZE) == 0 &&
		is_equal(bytes, there);
	atomic_fetch_sub(&layer->users, 1);
	return found;
}

/* The bytes go to a slot, of which the layer has a reference then. */
static bool store_in_pool(struct dedup *d, const void *bytes, uint32_t sum, uint64_t *slot)
{
	struct pool *pool = d->fs->pool;
	int r = d->room && *d->room < GF_BLOCK_SIZE ? -ENOSPC : 0;

	if (!r && !d->claimed)
		r = pool_allocate(pool, SLOTS_AT_ONCE, &d->slot, &d->claimed);
	if (!r)
		r = domain_slot_made(d->fs, d->slot, d->domain);
	if (!r)
		r = pool_write(pool, d->slot, bytes, &sum, 1);
	d->full |= r == -ENOSPC;
	if (r)
		return false;
	if (!pool_ref(pool, d->slot, d->layer->id))
		return false;
	*slot = d->slot++;
	d->claimed--;
	if (d->room)
		*d->room -= GF_BLOCK_SIZE;
	return true;
}

static void note_move(struct fs *fs, const struct move *move)
{
	struct dedup_state *d = fs->dedup;

	MUTEX_GUARD(&d->lock);
	if (d->count == d->capacity) {
		size_t capacity = max_u64(256, 2 * d->capacity);
		struct move *moves;

		if (d->count >= MAX_MOVES)
			return;
		moves = realloc(d->moves, capacity * sizeof(*moves));
		if (!moves)
			return;
		d->moves = moves;
		d->capacity = capacity;
	}
	d->moves[d->count++] = *move;
	atomic_store(&fs->changed, true);
}

static bool is_held(const struct dedup *d, const struct content_place *at)
{
	return at->owner == d->layer->id && at->block >= d->first && at->block <= d->last;
}

static bool find_in_layer(struct dedup *d, const struct content_place *at, const void *bytes,
	const struct hash128 *hash, uint64_t *out)
{
	struct content_place pooled = {.pool = true, .tag = hash_tag(hash)};
	uint32_t sum = hash_sum(hash);

	if (is_held(d, at) || !has_bytes(d->fs, at, d->domain, bytes) ||
		!store_in_pool(d, bytes, sum, &pooled.block))
		return false;
	note_move(d->fs,
		&(struct move){.layer = at->owner, .block = at->block, .slot = pooled.block});
	/* One place is enough, and that block is about to leave it. */
	content_table_drop(d->fs->dedup->table, d->domain, known_as(d->fs, sum), at);
	table_put(d->fs, d->domain, sum, &pooled);
	*out = place_from_slot(pooled.block);
	return true;
}

/* Leaves out what is another content by more bits of its hash. */
static unsigned drop_others(
	struct content_place *places, unsigned n, const struct hash128 *hash)
{
	unsigned kept = 0;

	for (unsigned i = 0; i < n; i++)
		if (!places[i].tag || places[i].tag == hash_tag(hash))
			places[kept++] = places[i];
	return kept;
}

static bool find_in_table(
	struct dedup *d, const void *bytes, const struct hash128 *hash, uint64_t *out)
{
	struct content_place places[MAX_CANDIDATES];
	unsigned n = table_find(d->fs, d->domain, hash_sum(hash), places, MAX_CANDIDATES);

	n = drop_others(places, n, hash);
	if (!n || pool_failed(d->fs->pool))
		return false;
	for (unsigned i = 0; i < n; i++) {
		if (!places[i].pool || !try_slot(d, places[i].block, bytes))
			continue;
		*out = place_from_slot(places[i].block);
		return true;
	}
	for (unsigned i = 0; i < n; i++)
		if (!places[i].pool && find_in_layer(d, &places[i], bytes, hash, out))
			return true;
	return false;
}

void dedup_expect(struct dedup *d, const struct hash128 *hashes, size_t i, size_t count)
{
	size_t n = batch_at(i, count);

	if (!d->enabled || !n)
		return;
	golden_index_expect(d->fs, hashes + i, n);
	if (d->all)
		table_expect_hashes(d->fs, d->domain, hashes + i, n);
}

bool dedup_find(struct dedup *d, const void *bytes, const struct hash128 *hash, uint64_t *out)
{
	unsigned token;
	bool found;

	if (!d->enabled)
		return false;
	token = drain_enter(&d->fs->readers);
	found = find_in_golden(d, bytes, hash, out);
	if (!found && d->all && find_in_table(d, bytes, hash, out)) {
		COUNT(d->fs, dedup_pool_blocks, 1);
		found = true;
	}
	drain_leave(&d->fs->readers, token);
	return found;
}

int dedup_set_shared(struct fs *fs, struct layer *layer, uint64_t block, uint64_t count,
	const uint64_t *places)
{
	int r = layer_set_shared(layer, block, count, places);

	/* Afterwards: see set_layer(), domain.c. */
	if (!r)
		domain_places_shared(fs, layer, places, count);
	return r;
}

void dedup_note(struct fs *fs, struct layer *layer, uint64_t block,
	const struct hash128 *hashes, uint64_t count)
{
	uint64_t domain = atomic_load(&layer->domain);

	if (atomic_load(&layer->apart))
		return;
	for (uint64_t i = 0; fs->dedup && domain != DOMAIN_NONE && i < count; i++) {
		table_expect_hashes(fs, domain, hashes + i, batch_at(i, count));
		table_put(fs, domain, hash_sum(&hashes[i]),
			&(struct content_place){.owner = layer->id,
				.block = block + i,
				.tag = hash_tag(&hashes[i])});
	}
}

/* asked: as for layer_set_unexamined(). */
static void owe_regions(
	struct fs *fs, struct layer *layer, uint32_t first, uint32_t count, uint64_t asked)
{
	if (fs->options.dedup != FS_DEDUP_OFF && !atomic_load(&layer->apart))
		layer_set_unexamined(layer, first, count, asked);
}

void dedup_owe(struct fs *fs, struct layer *layer, uint64_t block, uint64_t count)
{
	uint32_t first = block / GF_REGION_BLOCKS, last = (block + count - 1) / GF_REGION_BLOCKS;

	owe_regions(fs, layer, first, last - first + 1, atomic_load(&fs->indexes_opened));
}

void dedup_owe_all(struct fs *fs, struct layer *layer)
{
	owe_regions(fs, layer, 0, LAYER_NO_REGION, 0);
}

void dedup_owe_lost(struct fs *fs)
{
	const struct layer_entry *entry;

	if (fs->options.dedup != FS_DEDUP_ALL || !atomic_exchange(&fs->marks_lost, false))
		return;
	pthread_rwlock_rdlock(&fs->tree);
	/* By what the table knows of them, and not for images that get an index: nobody waits for all
	 * bytes of the store to be read. */
	for (entry = fs->layers; entry; entry = entry->hh.next)
		owe_regions(fs, entry->layer, 0, LAYER_NO_REGION, UINT64_MAX);
	pthread_rwlock_unlock(&fs->tree);
}

bool dedup_is_known(struct fs *fs, uint64_t domain, uint32_t sum)
{
	struct content_place place;

	return fs->dedup && table_find(fs, domain, sum, &place, 1);
}

void dedup_expect_known(
	struct fs *fs, const struct layer *layer, const uint32_t *sums, size_t i, size_t count)
{
	uint64_t domain = atomic_load(&layer->domain);
	size_t n = fs->dedup && domain != DOMAIN_NONE ? batch_at(i, count) : 0;

	for (size_t k = i; k < i + n; k++)
		table_expect(fs, domain, sums[k]);
}

bool dedup_is_known_elsewhere(struct fs *fs, struct layer *layer, uint64_t block, uint32_t sum)
{
	struct content_place places[MAX_CANDIDATES];
	uint64_t domain = atomic_load(&layer->domain);
	unsigned n = 0, elsewhere = 0;
	uint16_t tag = 0;

	if (fs->options.dedup == FS_DEDUP_ALL && domain != DOMAIN_NONE)
		n = table_find(fs, domain, sum, places, MAX_CANDIDATES);
	for (unsigned i = 0; i < n; i++) {
		if (!places[i].pool && places[i].owner == layer->id && places[i].block == block)
			tag = places[i].tag;
		else
			places[elsewhere++] = places[i];
	}
	/* Another content with the same checksum: of millions of blocks some have one. */
	for (unsigned i = 0; i < elsewhere; i++)
		if (!tag || !places[i].tag || places[i].tag == tag)
			return true;
	return false;
}

/* ---- filling the table from the disk ---- */

struct filling {
	struct fs *fs;
	struct layer *layer;
	uint64_t domain;
	bool offer;	 /* only where there is room: what was seen since is newer */
	uint64_t refused;
};

static void fill_in(struct filling *f, uint32_t sum, const struct content_place *at)
{
	if (!f->offer)
		table_put(f->fs, f->domain, sum, at);
	else if (!content_table_offer(f->fs->dedup->table, f->domain, known_as(f->fs, sum), at))
		f->refused++;
}

/* One region of a layer, by the checksums of its blocks. */
static int fill_from_region(struct filling *f, uint32_t region)
{
	CLEANUP_FREE struct region_view *view = malloc(sizeof(*view));
	CLEANUP_FREE uint32_t *sums = malloc(GF_REGION_BLOCKS * sizeof(*sums));
	CLEANUP_FREE uint64_t *places = malloc(GF_REGION_BLOCKS * sizeof(*places));
	uint64_t base = (uint64_t)region * GF_REGION_BLOCKS;
	int r = view && sums && places ? layer_view_region(f->layer, region, view) : -ENOMEM;

	if (!r)
		r = layer_read_sums(f->layer, base, sums, GF_REGION_BLOCKS);
	if (!r)
		r = layer_read_places(f->layer, base, places, GF_REGION_BLOCKS);
	for (uint32_t i = 0; i < GF_REGION_BLOCKS && !r; i++) {
		struct content_place at = {.owner = f->layer->id, .block = base + i};

		if (place_is_pool(places[i])) {
			at = (struct content_place){
				.pool = true, .block = place_to_slot(places[i])};
			r = pool_read_sums(f->fs->pool, at.block, &sums[i], 1);
		} else if (!region_view_is(view, i, GF_OVERLAY)) {
			continue;
		}
		if (sums[i])
			fill_in(f, sums[i], &at);
	}
	return r;
}

static void fill_begin(struct filling *f, struct fs *fs, struct layer *layer, bool offer)
{
	*f = (struct filling){.fs = fs, .layer = layer, .offer = offer};
	f->domain = atomic_load(&layer->domain);
}

/* true: stopped. */
static bool fill_from_layer(struct fs *fs, struct layer *layer, bool (*stop)(void *arg), void *arg)
{
	struct filling f;
	uint32_t region = 0;
	bool stopped = false;

	fill_begin(&f, fs, layer, false);
	while (!stopped && f.domain != DOMAIN_NONE &&
		(region = layer_next_region(layer, region)) != LAYER_NO_REGION) {
		fill_from_region(&f, region++);
		stopped = stop(arg);
	}
	return stopped;
}

void dedup_fill_table(struct fs *fs, bool (*stop)(void *arg), void *arg)
{
	bool stopped = false;

	for (int wanted = 0; wanted < 2; wanted++) {
		struct layer *layer;
		uint64_t id = 0;

		while (!stopped && fs->dedup && (layer = layer_hold_next(fs, id)) != NULL) {
			id = layer->id;
			if (layer_has_unexamined(layer) == wanted)
				stopped = fill_from_layer(fs, layer, stop, arg);
			atomic_fetch_sub(&layer->users, 1);
		}
	}
}

/* The layer in which it goes on, held; NULL: all were seen. */
static struct layer *layer_to_fill_from(struct fs *fs)
{
	struct dedup_state *d = fs->dedup;
	struct layer *layer = d->fill_region ? layer_hold(fs, d->fill_layer) : NULL;

	if (layer)
		return layer;
	layer = layer_hold_next(fs, d->fill_layer);
	d->fill_region = 0;
	if (layer)
		d->fill_layer = layer->id;
	return layer;
}

/* What the table has no room for is most of a region when it is full. */
static bool fill_one_region(struct fs *fs, struct layer *layer)
{
	struct dedup_state *d = fs->dedup;
	struct filling f;

	fill_begin(&f, fs, layer, true);
	d->fill_region = f.domain == DOMAIN_NONE ? LAYER_NO_REGION :
						   layer_next_region(layer, d->fill_region);
	if (d->fill_region == LAYER_NO_REGION) {
		d->fill_region = 0;
		return true;
	}
	fill_from_region(&f, d->fill_region++);
	return f.refused < GF_REGION_BLOCKS / 2;
}

/* Until that time. false: there is nothing left to do. */
static bool fill_until(struct fs *fs, int64_t until)
{
	struct dedup_state *d = fs->dedup;
	struct layer *layer;

	while (!d->filled && times_now(CLOCK_MONOTONIC) < until) {
		layer = layer_to_fill_from(fs);
		d->filled = !layer || !fill_one_region(fs, layer);
		if (layer)
			atomic_fetch_sub(&layer->users, 1);
	}
	return !d->filled;
}

bool dedup_fill_some(struct fs *fs)
{
	struct dedup_state *d = fs->dedup;
	bool more;

	if (!d || fs->options.dedup != FS_DEDUP_ALL)
		return false;
	/* Who fills all of it takes longer than a checkpoint may wait. */
	if (pthread_mutex_trylock(&d->fill_lock))
		return true;
	more = fill_until(fs, times_now(CLOCK_MONOTONIC) + FILL_NS);
	pthread_mutex_unlock(&d->fill_lock);
	return more;
}

void dedup_fill_rest(struct fs *fs)
{
	if (!fs->dedup || fs->options.dedup != FS_DEDUP_ALL)
		return;
	MUTEX_GUARD(&fs->dedup->fill_lock);
	fill_until(fs, INT64_MAX);
}

/* ---- moving the other block ---- */

/* Under the block's range. false: not yet; else it is done, or is not to be done any more. */
static bool move_locked(
	struct fs *fs, struct layer *layer, const struct move *m, uint64_t tail)
{
	uint64_t place = place_from_slot(m->slot);
	uint8_t in_layer[GF_BLOCK_SIZE], in_pool[GF_BLOCK_SIZE];

	if (layer_is_at_rest(layer, m->block) != 1 || atomic_load(&layer->apart))
		return true;
	/* A record that says the block is in place would be replayed. */
	if ((atomic_load(&layer->large_seq) >= tail || atomic_load(&layer->poison_seq)) &&
		!MUTATED("move blocks of which the ring says that they are in place"))
		return false;
	/* Its folder may be of another domain by now, or that is not known yet. */
	if (!domain_is_known(fs))
		return false;
	if (!domain_may_share(fs, m->slot, atomic_load(&layer->domain)))
		return true;
	if (!layer_ref_place(layer, place))
		return true;
	if (layer_read_data(layer, in_layer, GF_BLOCK_SIZE, m->block * GF_BLOCK_SIZE) == 0 &&
		pool_read(fs->pool, m->slot, in_pool, 1) == 0 && is_equal(in_layer, in_pool) &&
		dedup_remember_moved(fs, layer, m->block, place) == 0 &&
		dedup_set_shared(fs, layer, m->block, 1, &place) == 0) {
		COUNT(fs, dedup_pool_blocks, 1);
		return true;
	}
	layer_unref_place(layer, place);
	return true;
}

static bool move_one(struct fs *fs, const struct move *m, uint64_t tail)
{
	struct layer *layer = layer_hold(fs, m->layer);
	struct range range;
	bool over = true;

	if (!layer)
		return true;
	if (!atomic_load(&layer->failed) && !layer->left_out) {
		rangelock_lock(&layer->ranges, &range, m->block, m->block);
		over = move_locked(fs, layer, m, tail);
		rangelock_unlock(&layer->ranges, &range);
	}
	atomic_fetch_sub(&layer->users, 1);
	return over;
}

int dedup_remember_moved(struct fs *fs, const struct layer *layer, uint64_t block, uint64_t place)
{
	struct dedup_state *d = fs->dedup;
	struct moved *moved = array_with_room(d->moved, d->moved_count, &d->moved_capacity, sizeof(*moved));

	if (!moved)
		return -ENOMEM;
	d->moved = moved;
	d->moved[d->moved_count++] = (struct moved){layer->id, block, place};
	return 0;
}

void dedup_move(struct fs *fs, uint64_t tail)
{
	CLEANUP_FREE struct move *moves = NULL;
	struct dedup_state *d = fs->dedup;
	size_t count;

	if (!d)
		return;
	pthread_mutex_lock(&d->lock);
	moves = steal_pointer(&d->moves);
	count = d->count;
	d->count = d->capacity = 0;
	pthread_mutex_unlock(&d->lock);
	for (size_t i = 0; i < count; i++)
		if (!move_one(fs, &moves[i], tail))
			note_move(fs, &moves[i]);
	if (count)
		figures_changed(fs);
}

/* Whether the block reads as what stands in its layer. Somebody may have written to it since. */
static bool is_in_place(struct fs *fs, struct layer *layer, uint64_t block)
{
	uint8_t in_layer[GF_BLOCK_SIZE], seen[GF_BLOCK_SIZE];
	unsigned token = drain_enter(&fs->readers);
	int r = volume_read_blocks(fs, layer, seen, block, 1, READ_HELD);

	drain_leave(&fs->readers, token);
	return !r && layer_read_data(layer, in_layer, GF_BLOCK_SIZE, block * GF_BLOCK_SIZE) == 0 &&
	       is_equal(in_layer, seen);
}

/* The bytes are still in place: nothing is punched before the checkpoint counts. */
static void move_back(struct fs *fs, const struct moved *m)
{
	struct layer *layer = layer_hold(fs, m->layer);
	struct range range;
	uint64_t place;
	int r;

	if (!layer)
		return;
	pthread_rwlock_rdlock(&fs->sharing);
	rangelock_lock(&layer->ranges, &range, m->block, m->block);
	r = layer_read_places(layer, m->block, &place, 1);
	if (!r && place == m->place && is_in_place(fs, layer, m->block))
		r = layer_set_state(layer, m->block, 1, GF_OVERLAY);
	rangelock_unlock(&layer->ranges, &range);
	pthread_rwlock_unlock(&fs->sharing);
	if (r)
		fs_fail(fs, r);
	else if (place_is_pool(m->place))
		note_move(fs, &(struct move){m->layer, m->block, place_to_slot(m->place)});
	/* The slot is gone when all who shared it are back. */
	dedup_owe(fs, layer, m->block, 1);
	atomic_fetch_sub(&layer->users, 1);
}

void dedup_moved(struct fs *fs, bool durable)
{
	struct dedup_state *d = fs->dedup;

	if (!d)
		return;
	if (!durable && !MUTATED("what was moved stays when the checkpoint fails"))
		for (size_t i = 0; i < d->moved_count; i++)
			move_back(fs, &d->moved[i]);
	if (d->moved_count)
		figures_changed(fs);
	d->moved_count = d->moved_capacity = 0;
	free(steal_pointer(&d->moved));
}

bool dedup_has_moves(struct fs *fs)
{
	if (!fs->dedup)
		return false;
	MUTEX_GUARD(&fs->dedup->lock);
	return fs->dedup->count != 0;
}

/* ---- layers that are gone ---- */

/* Whether some of them share, and how many there were up to now. */
static bool dead_share(struct fs *fs, uint64_t *upto)
{
	bool any = false;

	pthread_rwlock_rdlock(&fs->tree);
	pthread_rwlock_rdlock(&fs->gate);
	*upto = fs->dead_count;
	for (const struct dead *d = fs->dead; d && !any; d = d->next)
		any = d->layer && d->layer->may_share;
	pthread_rwlock_unlock(&fs->gate);
	pthread_rwlock_unlock(&fs->tree);
	return any;
}

/* With the gate held nobody takes the list away. */
static void drop_dead(struct fs *fs, uint64_t upto)
{
	pthread_rwlock_rdlock(&fs->tree);
	pthread_rwlock_rdlock(&fs->gate);
	for (struct dead *d = fs->dead; d; d = d->next)
		if (d->layer && d->number <= upto)
			layer_drop_shared(d->layer);
	pthread_rwlock_unlock(&fs->gate);
	pthread_rwlock_unlock(&fs->tree);
	figures_changed(fs);
}

void dedup_drop_dead(struct fs *fs)
{
	uint64_t upto;

	if (!dead_share(fs, &upto))
		return;
	/* Who came upon them while they were somebody's may still be on the way to their blocks. */
	if (!MUTATED("places of a dead layer are given up while readers are there"))
		drain_wait(&fs->readers);
	drop_dead(fs, upto);
}

/* ---- counting references after a mount ---- */

/* Of blocks that are lost to damage nobody knows to what they refer. That may come to light again
 * (goldfs check --repair), so it must not be freed. */
static bool places_are_lost(struct fs *fs)
{
	const struct layer_entry *entry;
	bool lost = false;

	pthread_rwlock_rdlock(&fs->tree);
	for (entry = fs->layers; entry && !lost; entry = entry->hh.next)
		lost = layer_lost_places(entry->layer);
	pthread_rwlock_unlock(&fs->tree);
	if (lost && !atomic_exchange(&fs->places_lost, true))
		log_error(0,
			"what some blocks shared is lost to damage; nothing of the pool is freed "
			"until \"goldfs check --repair\" was run");
	return lost;
}

/* The table of content starts empty: what is shared already is what the next will have, too. */
static void note_pool(struct fs *fs)
{
	uint32_t sums[SUMS_AT_ONCE];
	uint64_t slot = 0, count;

	if (!fs->dedup || fs->options.dedup != FS_DEDUP_ALL || fs->options.read_only)
		return;
	while ((count = pool_next_live(fs->pool, &slot, SUMS_AT_ONCE)) != 0) {
		/* Without them the content is only not found. */
		if (pool_read_sums(fs->pool, slot, sums, count))
			memset(sums, 0, count * sizeof(*sums));
		for (uint64_t i = 0; i < count; i++) {
			uint64_t domain = domain_of_slot(fs, slot + i);

			if (sums[i] && domain != DOMAIN_NONE)
				table_put(fs, domain, sums[i],
					&(struct content_place){.pool = true, .block = slot + i});
		}
		slot += count;
	}
}

void dedup_find_domains(struct fs *fs)
{
	/* Entries stand under the domain. */
	if (domain_walk(fs) && !pool_is_counting(fs->pool))
		note_pool(fs);
}

static int count_layers(struct fs *fs, struct dedup_counted *at, int64_t until_ns)
{
	struct layer *layer;
	int r = 0;

	while (!r && (layer = layer_hold_next(fs, at->before)) != NULL) {
		/* The one that was begun may be gone. */
		if (at->layer != layer->id)
			*at = (struct dedup_counted){.before = at->before, .layer = layer->id};
		while ((r = layer_count_shared(layer, &at->regions)) > 0)
			if (times_now(CLOCK_MONOTONIC) >= until_ns)
				break;
		if (!r)
			at->before = layer->id;
		atomic_fetch_sub(&layer->users, 1);
	}
	return r;
}

int dedup_count_some(struct fs *fs, struct dedup_counted *at, int64_t until_ns)
{
	struct pool_figures figures;
	int r;

	if (!pool_is_counting(fs->pool) && !atomic_load(&fs->golden_counting))
		return 0;
	r = count_layers(fs, at, until_ns);
	if (r > 0)
		return r;
	if (r)
		return log_error(r,
			"cannot count what blocks are shared; nothing of the pool is freed "
			"until the next mount");
	if (places_are_lost(fs))
		return 0;
	if (pool_is_counting(fs->pool)) {
		pool_counted(fs->pool);
		domain_walk(fs);
		note_pool(fs);
	}
	atomic_store(&fs->golden_counting, false);
	/* Space to be given back, or images that nobody needs, make a checkpoint worth it. */
	pool_figures(fs->pool, &figures);
	if (figures.dying_slots || tree_has_idle_golden(fs, false))
		atomic_store(&fs->changed, true);
	figures_changed(fs);
	return 0;
}

int dedup_count(struct fs *fs)
{
	struct dedup_counted at = {0};

	return dedup_count_some(fs, &at, INT64_MAX);
}
