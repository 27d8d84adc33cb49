/* SPDX-License-Identifier: MIT */
/*
 * What files cost: every figure of interface.md, derived from the maps.
 *
 * A file whose layer stands directly on a golden image, or on nothing, owns exactly what its layer
 * owns; that counter is always current. Where layers are shared, a walk over the families
 * (family.h) finds who sees what; its results are kept with the inodes and made anew when
 * something changed since, but not more often than a twentieth of the time.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/array.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/mutation.h"
#include "base/sizes.h"
#include "base/times.h"
#include "core/dedup.h"
#include "core/domain.h"
#include "core/family.h"
#include "core/figures_pool.h"
#include "core/snapshot.h"
#include "core/recast.h"
#include "image/folder.h"
#include "store/pool.h"

/* ---- golden data ---- */

/* Blocks of data in the image before block `limit`. */
static uint64_t image_data_blocks(struct image *image, uint64_t limit)
{
	struct golden *g = (struct golden *)image;
	uint64_t regions = limit / GF_REGION_BLOCKS, n;
	struct plane bits, mask;

	pthread_mutex_lock(&g->sums_lock);
	if (!g->data_sums) {
		uint64_t count = round_up(image->size, GF_REGION_SIZE) / GF_REGION_SIZE;
		uint64_t sum = 0;

		g->data_sums = calloc(count + 1, sizeof(*g->data_sums));
		for (uint64_t i = 0; g->data_sums && i < count; i++) {
			if (plane_image(&bits, image, i) == 0)
				sum += plane_count(&bits);
			g->data_sums[i + 1] = sum;
		}
		g->data_regions = g->data_sums ? count : 0;
	}
	n = g->data_sums ? g->data_sums[min_u64(regions, g->data_regions)] : 0;
	pthread_mutex_unlock(&g->sums_lock);
	if (regions >= g->data_regions || limit % GF_REGION_BLOCKS == 0)
		return n;
	if (plane_image(&bits, image, regions))
		return n;
	plane_limit(&mask, regions, limit);
	for (int i = 0; i < REGION_WORDS; i++)
		bits.words[i] &= mask.words[i];
	return n + plane_count(&bits);
}

static uint64_t blocks_of(uint64_t bytes)
{
	return round_up(bytes, GF_BLOCK_SIZE) / GF_BLOCK_SIZE;
}

/* Up to which block a file may show the image: every layer on the way limits it. */
static uint64_t image_limit(struct inode *inode)
{
	uint64_t limit = atomic_load(&inode->size);

	for (struct layer *l = atomic_load(&inode->layer); l; l = l->parent)
		limit = min_u64(limit, l->bound);
	return blocks_of(limit);
}

/* ---- shared layers: one walk for all files ---- */

/* What one walk gathers. */
struct account {
	struct slot_list slots;
	bool pool; /* slots are wanted */
};

/* What reaches a file of one class of blocks, in the region being looked at. For others a copy
 * that is growing counts as what it will be, for itself as far as it has come. */
static void count_for_file(struct family *f, struct inode *inode, const struct plane *bits,
	enum tail_class class)
{
	uint64_t size = atomic_load(&inode->size), last = size / GF_BLOCK_SIZE, count;
	struct plane mask;

	plane_limit(&mask, f->region, blocks_of(size));
	for (int i = 0; i < REGION_WORDS; i++)
		mask.words[i] &= bits->words[i];
	count = plane_count(&mask);
	if (class == TAIL_UNIQUE)
		inode->counting.frozen_unique += count;
	else if (class == TAIL_CLONE)
		inode->counting.shared_clone += count;
	else if (class == TAIL_SNAPSHOT)
		inode->counting.shared_snapshot += count;
	else
		inode->counting.golden += count;
	if (size % GF_BLOCK_SIZE && last / GF_REGION_BLOCKS == f->region &&
		plane_get(bits, last % GF_REGION_BLOCKS))
		inode->counting.tail = class;
}

/* Whether no block starts anywhere: mostly so, of some class. */
static bool is_dry(const struct family *f, const struct plane *flow)
{
	uint64_t any = 0;

	for (size_t k = 0; k < f->count && !any; k++)
		for (int i = 0; i < REGION_WORDS; i++)
			any |= flow[k].words[i];
	return !any;
}

/*
 * From the root to the files: blocks of a class that start at a layer (source, by node) go to
 * every file above whose lookups come through to it. A layer owns what it does not pass on, so
 * one pass serves the blocks of all layers.
 */
static void attribute(struct family *f, struct plane *flow, enum tail_class class)
{
	if (is_dry(f, flow))
		return;
	for (size_t k = 0; k < f->count; k++) {
		struct family_node *n = &f->nodes[k];
		struct plane part = {{0}};

		for (int i = 0; n->parent >= 0 && i < REGION_WORDS; i++)
			part.words[i] = flow[n->parent].words[i] & n->first.words[i] &
					n->below.words[i];
		if (n->file)
			count_for_file(f, n->file, &part, class);
		for (int i = 0; i < REGION_WORDS; i++)
			flow[k].words[i] |= part.words[i];
	}
}

static uint64_t parent_id(const struct layer *layer)
{
	return layer->parent ? layer->parent->id : 0;
}

static void begin_family(void *arg, struct family *f)
{
	for (size_t i = 0; i < f->count; i++) {
		struct inode *file = f->nodes[i].file;

		if (file)
			file->counting = (struct walked_figures){.layer = f->nodes[i].layer->id,
				.parent = parent_id(f->nodes[i].layer),
				.bound = atomic_load(&f->nodes[i].layer->bound),
				.size = atomic_load(&file->size)};
	}
}

/* What the touched regions of the image would show to each file if no layer hid anything. */
static void count_untouched(struct family *f, const struct plane *bits)
{
	for (size_t i = 0; i < f->count; i++) {
		struct inode *inode = f->nodes[i].file;
		struct plane mask;

		if (!inode)
			continue;
		plane_limit(&mask, f->region, image_limit(inode));
		for (int k = 0; k < REGION_WORDS; k++)
			mask.words[k] &= bits->words[k];
		inode->counting.golden_off += plane_count(&mask);
	}
}

/* The image's blocks that show through the root. */
static void attribute_image(struct family *f, struct plane *flow)
{
	struct family_node *root = &f->nodes[0];
	struct plane bits;

	if (!f->image || plane_image(&bits, f->image, f->region))
		return;
	count_untouched(f, &bits);
	memset(flow, 0, f->count * sizeof(*flow));
	for (int i = 0; i < REGION_WORDS; i++)
		flow[0].words[i] = bits.words[i] & root->first.words[i] & root->below.words[i];
	attribute(f, flow, TAIL_GOLDEN);
}

/* Of the blocks that a frozen layer has, those of a class. */
static uint64_t frozen_word(const struct family_node *n, int i, enum tail_class class)
{
	if (class == TAIL_CLONE)
		return n->apart.words[i];
	if (class == TAIL_SNAPSHOT)
		return n->second.words[i] & ~n->apart.words[i];
	return n->first.words[i] & ~n->second.words[i];
}

/* Blocks of frozen layers that one file sees, or several of one group, or of several. */
static void attribute_frozen(struct family *f, struct plane *flow, enum tail_class class)
{
	memset(flow, 0, f->count * sizeof(*flow));
	for (size_t k = 0; k < f->count; k++) {
		struct family_node *n = &f->nodes[k];

		if (n->file)
			continue; /* its counter says what it owns */
		for (int i = 0; i < REGION_WORDS; i++)
			flow[k].words[i] = n->own.words[i] & frozen_word(n, i, class);
	}
	attribute(f, flow, class);
}

/* SHARED with a golden image, whoever's. */
static void attribute_golden(struct family *f, struct plane *flow)
{
	memset(flow, 0, f->count * sizeof(*flow));
	for (size_t k = 0; k < f->count; k++) {
		struct family_node *n = &f->nodes[k];

		if (n->file)
			count_for_file(f, n->file, &n->golden, TAIL_GOLDEN);
		for (int i = 0; !n->file && i < REGION_WORDS; i++)
			flow[k].words[i] = n->golden.words[i] & n->first.words[i];
	}
	attribute(f, flow, TAIL_GOLDEN);
}

static int account_region(void *arg, struct family *f)
{
	CLEANUP_FREE struct plane *flow = malloc(f->count * sizeof(*flow));
	struct account *a = arg;

	if (!flow)
		return -ENOMEM;
	attribute_image(f, flow);
	attribute_frozen(f, flow, TAIL_UNIQUE);
	if (f->grouped)
		attribute_frozen(f, flow, TAIL_SNAPSHOT);
	attribute_frozen(f, flow, TAIL_CLONE);
	attribute_golden(f, flow);
	return a->pool ? pool_figures_region(f, flow, &a->slots) : 0;
}

/* What is counted where few blocks stand, for all files above a layer at once. */
enum spread {
	SPREAD_NONE = -1,
	SPREAD_CLONE,
	SPREAD_SNAPSHOT,
	SPREAD_GOLDEN,
	SPREAD_POOL,
	SPREAD_HIDDEN,
	SPREAD_COUNT
};

_Static_assert(SPREAD_COUNT == FAMILY_SPREADS, "a sum for each");

/* What a frozen layer's block is for all who see it, as far as it is the same for each and known now. */
static enum spread spread_of(const struct family *f, const struct few_block *b)
{
	if (f->nodes[b->node].file || !b->seers.files)
		return SPREAD_NONE;
	if (b->place && !place_is_pool(b->place))
		return SPREAD_GOLDEN;
	if (b->place)
		return seers_are_one_group(&b->seers) ? SPREAD_NONE : SPREAD_POOL;
	if (!b->data || b->seers.files == 1)
		return SPREAD_NONE;
	return seers_are_one_group(&b->seers) ? SPREAD_SNAPSHOT : SPREAD_CLONE;
}

static void spread_block(struct family *f, const struct few_block *b, uint32_t node, int64_t count)
{
	enum spread kind = spread_of(f, b);

	if (kind != SPREAD_NONE)
		f->nodes[node].spread[kind] += count;
}

/* What only one file sees, and what its own layer has. */
static void count_few(struct family *f, const struct few_block *b)
{
	struct family_node *n = &f->nodes[b->node];

	if (!b->seers.files)
		return;
	if (n->file && b->place && !place_is_pool(b->place))
		n->file->counting.golden++;
	if (!n->file && b->data && b->seers.files == 1)
		f->nodes[b->seers.numbers].file->counting.frozen_unique++;
}

static int account_few(void *arg, struct family *f, const struct few_block *list, size_t count)
{
	struct plane image = {{0}};
	struct account *a = arg;
	bool looked = false;
	int r = 0;

	for (size_t i = 0; i < count && !r; i++) {
		const struct few_block *b = &list[i];

		if (b->over_image && !looked) {
			looked = true;
			if (plane_image(&image, f->image, f->region))
				memset(&image, 0, sizeof(image));
		}
		if (b->over_image && plane_get(&image, b->block))
			f->nodes[b->node].spread[SPREAD_HIDDEN]++;
		if (b->below != FEW_NONE)
			spread_block(f, &list[b->below], b->node, -1);
		spread_block(f, b, b->node, 1);
		count_few(f, b);
		if (a->pool && b->place && place_is_pool(b->place))
			r = slot_list_add_few(&a->slots, f, list, i);
	}
	return r;
}

static void begin_stretch(void *arg, struct family *f)
{
	struct account *a = arg;

	slot_list_new_files(&a->slots);
}

static void spread_few(void *arg, struct inode *file, const int64_t blocks[FAMILY_SPREADS])
{
	file->counting.shared_clone += blocks[SPREAD_CLONE];
	file->counting.shared_snapshot += blocks[SPREAD_SNAPSHOT];
	file->counting.golden += blocks[SPREAD_GOLDEN];
	file->counting.pool_shared += blocks[SPREAD_POOL];
	file->counting.golden_off += blocks[SPREAD_HIDDEN];
}

/* ---- blocks that nobody sees any more ---- */

static int forget(struct forgotten *list, struct layer *layer, uint64_t block)
{
	struct forgotten_block *blocks =
		array_with_room(list->blocks, list->count, &list->capacity, sizeof(*blocks));
	int r;

	if (!blocks)
		return -ENOMEM;
	list->blocks = blocks;
	list->blocks[list->count] = (struct forgotten_block){.layer = layer, .block = block};
	r = layer_forget_block(layer, block, &list->blocks[list->count].place);
	list->count += r > 0;
	return r < 0 ? r : 0;
}

/*
 * No record says what is forgotten. So none in the ring may say that the block is in place: replayed,
 * it would bring back a block whose bytes are gone. And who gives the layer another base has looked at
 * what is PARENT already.
 */
static bool may_forget(const struct forgotten *list, struct layer *layer)
{
	if (atomic_load(&layer->recast_busy) &&
		!MUTATED("what nobody sees is given up by a layer that gets another base"))
		return false;
	if (atomic_load(&layer->large_seq) >= list->tail &&
		!MUTATED("forget what the ring says to be in place"))
		return false;
	return !atomic_load(&layer->poison_seq);
}

static int free_unseen(void *arg, struct family *f)
{
	uint64_t base = (uint64_t)f->region * GF_REGION_BLOCKS;
	int r = 0;

	for (size_t k = 0; k < f->count && !r; k++) {
		struct family_node *n = &f->nodes[k];

		if (n->file || !may_forget(arg, n->layer))
			continue;
		for (uint32_t i = 0; i < GF_REGION_BLOCKS && !r; i++)
			if ((plane_get(&n->own, i) || plane_get(&n->pooled, i) ||
				    plane_get(&n->golden, i)) && !plane_get(&n->first, i))
				r = forget(arg, n->layer, base + i);
	}
	return r;
}

static int free_unseen_few(void *arg, struct family *f, const struct few_block *list, size_t count)
{
	uint64_t base = (uint64_t)f->region * GF_REGION_BLOCKS;
	int r = 0;

	for (size_t i = 0; i < count && !r; i++) {
		const struct few_block *b = &list[i];
		struct family_node *n = &f->nodes[b->node];

		if ((b->data || b->place) && !b->seers.files && !n->file &&
			may_forget(arg, n->layer))
			r = forget(arg, n->layer, base + b->block);
	}
	return r;
}

int figures_free_unseen(struct fs *fs, struct forgotten *forgotten)
{
	struct family_walk walk = {
		.region = free_unseen, .few = free_unseen_few, .arg = forgotten};

	return family_walk(fs, &walk);
}

/* Nothing was punched yet: the bytes are where they were. */
void figures_remember(struct fs *fs, struct forgotten *list)
{
	for (size_t i = 0; i < list->count; i++) {
		const struct forgotten_block *f = &list->blocks[i];
		int r;

		if (f->place)
			r = layer_set_shared(f->layer, f->block, 1, &f->place);
		else
			r = layer_set_state(f->layer, f->block, 1, GF_OVERLAY);
		if (r)
			fs_fail(fs, r);
	}
}

void figures_forgotten(struct forgotten *list)
{
	for (size_t i = 0; i < list->count; i++)
		if (list->blocks[i].place)
			layer_unref_place(list->blocks[i].layer, list->blocks[i].place);
}

void figures_changed(struct fs *fs)
{
	atomic_fetch_add(&fs->change_count, 1);
}

/* ---- when it is counted anew ---- */

/* A walk that somebody who only looks may be made to wait for; longer where there is nothing yet to show. */
#define INLINE_NS 4000000
#define INLINE_FIRST_NS 10000000
#define TIMES_GIVEN_WAY 10
/* What a command may be held up for after that. */
#define UNYIELDING_NS 50000000

/* Whether what was counted is of the file as it stands. One that only became longer shows no more of what
 * is below than before. */
static bool is_of_locked(struct fs *fs, const struct inode *inode)
{
	const struct layer *layer = atomic_load(&inode->layer);
	const struct walked_figures *fig = &inode->fig;

	if (pool_figure_is_walked(fs, layer) && !fs->figures_pool)
		return false;
	return fig->layer == layer->id && fig->parent == parent_id(layer) &&
	       fig->bound == atomic_load(&layer->bound) && fig->size <= atomic_load(&inode->size);
}

/* Whether what is known is too old. since_ns: since when it must have been counted, 0: who only looks;
 * of this file, or NULL. figures_lock held. */
static bool is_old_locked(struct fs *fs, const struct inode *inode, int64_t since_ns)
{
	if (!fs->figures_valid)
		return true;
	if (fs->figures_count == atomic_load(&fs->change_count))
		return false;
	if (since_ns)
		return fs->figures_start_ns < since_ns || !inode ||
		       !(fs->figures_failed || is_of_locked(fs, inode));
	return times_now(CLOCK_MONOTONIC) - fs->figures_time_ns >= 20 * fs->figures_cost_ns;
}

/* Shows what was counted. figures_lock, walk_lock and tree held, shared or by tree_hold(). */
static void publish_locked(struct fs *fs)
{
	struct inode *inode, *next;

	HASH_ITER (by_ino, fs->inodes, inode, next)
		if (inode->kind != GF_KIND_GOLDEN)
			inode->fig = inode->counting;
}

/* walk_lock and tree held as there. -EAGAIN: it gave way, or took longer than most_ns (0: as long as it
 * takes). */
static int walk_all(struct fs *fs, bool gives_way, int64_t most_ns)
{
	struct account account = {.pool = pool_needs_walk(fs)};
	struct family_walk walk = {.begin = begin_family, .region = account_region,
		.few = account_few, .stretch = begin_stretch, .spread = spread_few,
		.singles = account.pool, .arg = &account, .gives_way = gives_way};
	uint64_t now_count = atomic_load(&fs->change_count);
	int64_t start = times_now(CLOCK_MONOTONIC);
	int r;

	walk.until_ns = most_ns ? start + most_ns : 0;
	r = family_walk(fs, &walk);
	if (r == 0 && account.pool)
		r = slot_list_account(fs, &account.slots);
	slot_list_release(&account.slots);
	if (r == -EAGAIN)
		return r;
	if (r)
		log_warning("cannot compute what clones share");
	MUTEX_GUARD(&fs->figures_lock);
	fs->figures_wanted = false;
	fs->figures_time_ns = times_now(CLOCK_MONOTONIC);
	fs->figures_cost_ns = fs->figures_time_ns - start;
	/* What failed is not tried again for each question. */
	fs->figures_failed = r != 0;
	fs->figures_count = now_count;
	fs->figures_start_ns = start;
	/* Half a count is better than none, but than no whole one. */
	if (r && fs->figures_valid)
		return r;
	publish_locked(fs);
	fs->figures_pool = account.pool;
	fs->figures_valid = true;
	return r;
}

/* The next tick counts. */
static void want_figures(struct fs *fs)
{
	MUTEX_GUARD(&fs->figures_lock);
	fs->figures_wanted = true;
	fs->figures_cost_ns = max_u64((uint64_t)fs->figures_cost_ns, INLINE_NS + 1);
}

/* Whether to count here and now. Who is in haste leaves what takes long to the tick. */
static bool is_due(struct fs *fs, const struct inode *inode, int64_t since_ns, bool in_haste)
{
	bool old;

	MUTEX_GUARD(&fs->figures_lock);
	old = is_old_locked(fs, inode, since_ns);
	if (!old || !in_haste || fs->figures_cost_ns <= INLINE_NS)
		return old;
	fs->figures_wanted = true;
	return false;
}

static int lock_in_time(pthread_mutex_t *lock, int64_t ns)
{
	struct timespec until = times_spec(times_now(CLOCK_REALTIME) + ns);

	return pthread_mutex_timedlock(lock, &until);
}

/*
 * Makes the figures of files that share new when they are old. Who only looks gets those of a moment ago
 * when counting takes long: then figures_tick() does it, since whoever holds the tree that long has
 * guests wait behind the next one who changes it. tree held, shared or by tree_hold().
 */
static void refresh(struct fs *fs, const struct inode *inode, int64_t since_ns)
{
	const bool in_haste = !since_ns && atomic_load(&fs->worker_runs);
	int64_t most_ns = INLINE_NS;
	bool now, first;

	if (!is_due(fs, inode, since_ns, in_haste))
		return;
	if (!in_haste) {
		pthread_mutex_lock(&fs->walk_lock);
	} else if (lock_in_time(&fs->walk_lock, INLINE_FIRST_NS)) {
		want_figures(fs);
		return;
	}
	/* Somebody may have counted meanwhile, or found that it takes long. */
	now = is_due(fs, inode, since_ns, in_haste);
	pthread_mutex_lock(&fs->figures_lock);
	first = !fs->figures_valid;
	pthread_mutex_unlock(&fs->figures_lock);
	if (first)
		most_ns = INLINE_FIRST_NS;
	if (now && walk_all(fs, in_haste && !first, in_haste ? most_ns : 0) == -EAGAIN)
		want_figures(fs);
	pthread_mutex_unlock(&fs->walk_lock);
}

void figures_renew(struct fs *fs)
{
	tree_hold(fs);
	refresh(fs, NULL, FS_NOW);
	tree_let(fs);
}

void figures_tick(struct fs *fs)
{
	bool wanted, valid;

	pthread_mutex_lock(&fs->figures_lock);
	wanted = fs->figures_wanted && is_old_locked(fs, NULL, 0);
	valid = fs->figures_valid;
	pthread_mutex_unlock(&fs->figures_lock);
	if (!wanted)
		return;
	tree_hold(fs);
	/* Whoever counts already does it for all. */
	if (pthread_mutex_trylock(&fs->walk_lock) == 0) {
		/* Beside commands without a pause older figures are told rather than one of them held up for
		 * seconds. Where there are none yet, one may be held up for a moment now and then. */
		const bool gives_way = valid || fs->gave_way < TIMES_GIVEN_WAY;

		if (walk_all(fs, gives_way, gives_way ? 0 : UNYIELDING_NS) != -EAGAIN || !gives_way)
			fs->gave_way = 0;
		else
			fs->gave_way++;
		pthread_mutex_unlock(&fs->walk_lock);
	}
	tree_let(fs);
}

/* Before the first count: what stands in layers on which nobody else does, hidden or not. */
static struct walked_figures guessed(struct inode *inode)
{
	struct walked_figures fig = {0};

	for (struct layer *l = atomic_load(&inode->layer)->parent; l && l->refs == 1; l = l->parent)
		fig.frozen_unique += layer_kept_blocks(l);
	fig.frozen_unique = min_u64(fig.frozen_unique, blocks_of(atomic_load(&inode->size)));
	return fig;
}

/* What was counted of a file, as it stands. tree held as there. */
static struct walked_figures walked(struct fs *fs, struct inode *inode, bool *pool)
{
	MUTEX_GUARD(&fs->figures_lock);
	*pool = fs->figures_pool;
	return fs->figures_valid ? inode->fig : guessed(inode);
}

/* ---- one file ---- */

/* A layer of its own on an image: what of the image its own blocks hide. */
static uint64_t simple_golden(struct layer *layer, uint64_t limit)
{
	uint64_t visible = image_data_blocks(layer->image, limit);
	uint32_t region = layer_next_region(layer, 0);

	for (; region != LAYER_NO_REGION; region = layer_next_region(layer, region + 1)) {
		uint8_t states[GF_STATE_BYTES];
		struct plane bits, mask;
		bool any;

		if (layer_region_states(layer, region, states, &any) || !any ||
			plane_image(&bits, layer->image, region))
			continue;
		plane_limit(&mask, region, limit);
		for (uint32_t i = 0; i < GF_REGION_BLOCKS; i++)
			if ((states[i / 4] >> (i % 4 * 2) & 3) != GF_PARENT &&
				plane_get(&bits, i) && plane_get(&mask, i))
				visible--;
	}
	return visible;
}

/*
 * The same for who looks every second. A count is kept until something changed, and made anew when
 * this file's turn has come: all files together take a twentieth of the time, and one caller what
 * his budget has left, which is counted down.
 */
static uint64_t simple_golden_quick(
	struct fs *fs, struct inode *inode, struct layer *layer, uint64_t limit, int64_t *budget_ns)
{
	uint64_t change = atomic_load(&fs->change_count), golden;
	int64_t start = times_now(CLOCK_MONOTONIC), cost_ns, turn_ns;
	bool valid;

	pthread_mutex_lock(&inode->lock);
	valid = inode->seen.valid && inode->seen.limit == limit;
	golden = inode->seen.golden;
	turn_ns = 20 * inode->seen.cost_ns * (int64_t)HASH_CNT(by_ino, fs->inodes);
	if (valid && (inode->seen.change == change || start - inode->seen.time_ns < turn_ns))
		budget_ns = NULL;
	pthread_mutex_unlock(&inode->lock);
	if (!budget_ns || (valid && *budget_ns <= 0))
		return golden;
	/* Never counted, and no time to do it: as if each block of its own hid one of the image's. */
	if (*budget_ns <= 0)
		return less_u64(image_data_blocks(layer->image, limit), layer->owned_blocks);
	golden = simple_golden(layer, limit);
	cost_ns = times_now(CLOCK_MONOTONIC) - start;
	*budget_ns -= cost_ns;
	MUTEX_GUARD(&inode->lock);
	inode->seen.valid = true;
	inode->seen.golden = golden;
	inode->seen.limit = limit;
	inode->seen.change = change;
	inode->seen.time_ns = start;
	inode->seen.cost_ns = cost_ns;
	return golden;
}

struct block_figures {
	uint64_t unique, shared_clone, shared_snapshot, golden, self;
	enum tail_class tail;
};

/* What of the file stands in the pool. Makes the figures of a file that shares layers new first. */
static void count_pooled(struct fs *fs, struct inode *inode, int64_t since_ns, struct block_figures *b)
{
	struct layer *layer = atomic_load(&inode->layer);
	struct pool_layer_figures f;
	struct walked_figures fig;
	bool pool;

	if (layer->parent || pool_figure_is_walked(fs, layer)) {
		refresh(fs, inode, since_ns);
		fig = walked(fs, inode, &pool);
		if (!pool)
			return;
		b->unique += fig.pool_unique;
		b->self += fig.pool_self;
		b->shared_clone += fig.pool_shared;
		b->shared_snapshot += fig.pool_snapshot;
	} else if (layer->may_share) {
		/* With a layer of its own, and no frozen one with anything in the pool, the pool's
		 * own counts are right at any moment. */
		pool_layer_figures(fs->pool, layer->id, &f);
		b->unique += f.exclusive;
		b->self += f.self_refs;
		b->shared_clone += f.refs - f.exclusive - f.self_refs;
	}
}

/* A last block in the pool, where nobody sees blocks of other files' layers. */
static enum tail_class class_of_slot(struct fs *fs, uint64_t slot, uint64_t layer)
{
	uint64_t id;
	bool one;
	uint32_t refs = pool_slot_refs(fs->pool, slot, &one, &id);

	if (!refs || !one || id != layer)
		return TAIL_CLONE;
	return refs == 1 ? TAIL_UNIQUE : TAIL_SELF;
}

/* Whether the file ends within a block of its own layer. */
static bool owns_tail(struct inode *inode, struct layer *layer)
{
	struct extent x;

	if (inode->size % GF_BLOCK_SIZE == 0)
		return false;
	if (inode->size / GF_BLOCK_SIZE < atomic_load(&layer->whole_blocks))
		return true;
	return layer_resolve(layer, inode->size / GF_BLOCK_SIZE, 1, false, &x) == 0 &&
	       (x.kind == EXTENT_DATA || x.kind == EXTENT_JOURNAL) && x.layer == layer;
}

static enum tail_class class_of_tail(
	struct fs *fs, struct inode *inode, struct layer *layer, enum tail_class walked_tail)
{
	uint64_t block = inode->size / GF_BLOCK_SIZE, start, end;
	struct extent x;

	if (inode->size % GF_BLOCK_SIZE == 0 || layer_resolve(layer, block, 1, false, &x))
		return TAIL_NONE;
	if (x.kind == EXTENT_ZERO)
		return TAIL_NONE;
	if (x.kind == EXTENT_GOLDEN)
		return TAIL_GOLDEN;
	if (x.kind == EXTENT_POOL && !layer->parent && !pool_figure_is_walked(fs, layer))
		return class_of_slot(fs, x.pos, layer->id);
	if (x.kind == EXTENT_POOL)
		return walked_tail;
	if (x.kind != EXTENT_IMAGE)
		return x.layer == layer ? TAIL_UNIQUE : walked_tail;
	if (x.image->ops->next_data(x.image, block * GF_BLOCK_SIZE, &start, &end) ||
		start >= (block + 1) * GF_BLOCK_SIZE)
		return TAIL_NONE;
	return TAIL_GOLDEN;
}

/* budget_ns NULL: as it is now, or was since_ns at the earliest; else see simple_golden_quick(). */
static void count_blocks(struct fs *fs, struct inode *inode, int64_t since_ns, int64_t *budget_ns,
	struct block_figures *b)
{
	struct layer *layer = atomic_load(&inode->layer);
	uint64_t limit = image_limit(inode);
	struct walked_figures fig;
	bool pool;

	*b = (struct block_figures){.unique = layer_kept_blocks(layer)};
	count_pooled(fs, inode, since_ns, b);
	fig = walked(fs, inode, &pool);
	if (layer->parent) {
		struct layer *root = layer;

		while (root->parent)
			root = root->parent;
		b->unique += fig.frozen_unique;
		b->shared_clone += fig.shared_clone;
		b->shared_snapshot += fig.shared_snapshot;
		b->golden = fig.golden;
		if (root->image)
			b->golden += image_data_blocks(root->image, limit);
		b->golden = less_u64(b->golden, fig.golden_off);
	} else {
		b->golden = layer->golden_blocks;
		if (layer->image && budget_ns)
			b->golden += simple_golden_quick(fs, inode, layer, limit, budget_ns);
		else if (layer->image)
			b->golden += simple_golden(layer, limit);
	}
	b->tail = class_of_tail(fs, inode, layer, (enum tail_class)fig.tail);
}

/* Up to `bytes` of what is left of a file's size. */
static uint64_t part_of(uint64_t *left, uint64_t bytes)
{
	bytes = min_u64(bytes, *left);
	*left -= bytes;
	return bytes;
}

/*
 * Figures that are not of one instant may come to more than there can be, and so may blocks on their
 * way from the journal to where they are SHARED, or in the journal over one that is. Nothing of that
 * may show: a file is not more than its size.
 */
static void file_figures(struct fs *fs, struct inode *inode, int64_t since_ns, int64_t *budget_ns,
	struct fs_figures *out)
{
	uint64_t size = atomic_load(&inode->size), left = size;
	uint64_t cut = size % GF_BLOCK_SIZE ? GF_BLOCK_SIZE - size % GF_BLOCK_SIZE : 0;
	struct block_figures b;
	uint64_t cuts[TAIL_SELF + 1] = {0};

	count_blocks(fs, inode, since_ns, budget_ns, &b);
	cuts[b.tail] = cut;
	*out = (struct fs_figures){.virtual_bytes = size};
	out->unique_bytes = part_of(&left, less_u64(b.unique * GF_BLOCK_SIZE, cuts[TAIL_UNIQUE]));
	out->shared_golden_bytes =
		part_of(&left, less_u64(b.golden * GF_BLOCK_SIZE, cuts[TAIL_GOLDEN]));
	out->shared_clone_bytes =
		part_of(&left, less_u64(b.shared_clone * GF_BLOCK_SIZE, cuts[TAIL_CLONE]));
	out->shared_snapshot_bytes = part_of(
		&left, less_u64(b.shared_snapshot * GF_BLOCK_SIZE, cuts[TAIL_SNAPSHOT]));
	out->shared_self_bytes = part_of(&left, less_u64(b.self * GF_BLOCK_SIZE, cuts[TAIL_SELF]));
	out->data_bytes = size - left;
	out->zero_bytes = left;
}

uint64_t figures_blocks(struct fs *fs, struct inode *inode)
{
	struct layer *layer = atomic_load(&inode->layer);
	uint64_t blocks = layer_kept_blocks(layer);
	struct block_figures b = {0};
	bool pool;

	count_pooled(fs, inode, 0, &b);
	blocks += b.unique;
	if (layer->parent)
		blocks += walked(fs, inode, &pool).frozen_unique;
	if (!blocks && inode->size && (layer->parent || layer->image || layer->shared_blocks))
		blocks = 1;
	return blocks * (GF_BLOCK_SIZE / 512);
}

/* ---- golden images ---- */

static struct golden *golden_below(struct fs *fs, struct inode *inode)
{
	const struct layer *layer = layer_bottom(atomic_load(&inode->layer));

	return layer && layer->golden ? tree_find_golden(fs, layer->golden) : NULL;
}

/* Whether the image is still the one in the folder. */
static bool is_live(struct fs *fs, const struct golden *g)
{
	struct stat st;

	return fs->options.golden_test ||
	       (fs->options.images && folder_stat(fs->options.images, g->path, &st) == 0 &&
		       g->dev == st.st_dev && g->node == st.st_ino);
}

static uint64_t pin_bytes(struct fs *fs, uint64_t id)
{
	struct io_stat st = {0};
	char path[40];
	int fd;

	snprintf(path, sizeof(path), "golden/%" PRIu64, id);
	fd = fs->io->ops->open(fs->io, path, O_RDONLY);
	if (fd < 0)
		return 0;
	fs->io->ops->stat(fs->io, fd, &st);
	fs->io->ops->close(fs->io, fd);
	return st.allocated;
}

/* Whether the image cannot go as long as the file is there: it stands on it, or some of its
 * blocks were found in it. */
static bool needs_golden(struct inode *inode, const struct golden *g)
{
	bool shared = atomic_load(&g->shared) != 0;
	struct layer *layer = atomic_load(&inode->layer);

	for (; layer; layer = layer->parent)
		if ((!layer->parent && layer->golden == g->id) ||
			(shared && layer_uses_golden(layer, g->id)))
			return true;
	return false;
}

static bool set_needs_golden(struct fs *fs, const uint64_t *set, size_t count,
	const struct golden *g)
{
	for (size_t i = 0; i < count; i++) {
		struct inode *inode = tree_find(fs, set[i]);

		if (inode && needs_golden(inode, g))
			return true;
	}
	return false;
}

static bool is_in_set(const uint64_t *set, size_t count, uint64_t ino)
{
	for (size_t i = 0; i < count; i++)
		if (set[i] == ino)
			return true;
	return false;
}

static bool others_need_golden(struct fs *fs, const uint64_t *set, size_t count,
	const struct golden *g)
{
	struct inode *inode, *next;

	HASH_ITER (by_ino, fs->inodes, inode, next)
		if (needs_golden(inode, g) && !is_in_set(set, count, inode->ino))
			return true;
	return false;
}

/* Bytes of images that go with this set: not in the folder any more, and no other file's. */
static uint64_t pinned_by_set(struct fs *fs, const uint64_t *set, size_t count)
{
	struct golden *g, *next;
	uint64_t bytes = 0;

	HASH_ITER (hh, fs->goldens, g, next)
		if (set_needs_golden(fs, set, count, g) &&
			!others_need_golden(fs, set, count, g) && !is_live(fs, g))
			bytes += pin_bytes(fs, g->id);
	return bytes;
}

static bool is_fenced(const struct golden *g)
{
	return g->failed || atomic_load(&g->pin) == GF_PIN_FENCED;
}

/* One whose bytes are not served any more, and which the file needs. */
static const struct golden *fenced_below(struct fs *fs, struct inode *inode)
{
	struct golden *g, *next;

	HASH_ITER (hh, fs->goldens, g, next)
		if (is_fenced(g) && needs_golden(inode, g))
			return g;
	return NULL;
}

static int fenced_state(const struct golden *g, struct fs_info *info)
{
	info->state = "fenced";
	if (info->reason)
		return 0;
	return asprintf(&info->reason, "golden image \"%s\", in which blocks of it are, has changed "
		"or is gone", g->path) < 0 ? -ENOMEM : 0;
}

static int golden_info(struct fs *fs, struct inode *inode, struct fs_info *info)
{
	struct fs_attr attr;
	int64_t at = 0;
	int r = golden_getattr(fs, inode, &attr);

	if (r)
		return r;
	info->kind = S_ISDIR(attr.mode) ? FS_KIND_FOLDER : FS_KIND_GOLDEN;
	info->created_ns = attr.mtime_ns;
	if (S_ISDIR(attr.mode))
		return 0;
	info->figures.virtual_bytes = attr.size;
	if (golden_open(fs, inode, NULL))
		return 0; /* not readable: its name and size are all there is to say */
	info->format = fs_golden_format(fs, inode->ino);
	while ((at = golden_seek(fs, inode, at, SEEK_DATA)) >= 0) {
		int64_t end = golden_seek(fs, inode, at, SEEK_HOLE);

		if (end <= at)
			break;
		info->figures.data_bytes += end - at;
		at = end;
	}
	golden_close(fs, inode);
	info->figures.shared_golden_bytes = info->figures.data_bytes;
	info->figures.zero_bytes = attr.size - info->figures.data_bytes;
	return 0;
}

/* ---- the interface ---- */

static int clone_info_locked(
	struct fs *fs, struct inode *inode, int64_t since_ns, struct fs_info *info)
{
	struct golden *g = golden_below(fs, inode);
	const struct golden *fenced = fenced_below(fs, inode);
	struct inode *group = is_snapshot(inode) ? NULL : snapshots_of(fs, inode);
	int r = 0;

	info->snapshots = group ? group->child_count : 0;
	info->mode = inode->kind == GF_KIND_PROMOTED ? "" : recast_mode(inode);
	info->created_ns = inode->btime_ns;
	failing_state(fs, atomic_load(&inode->layer), info);
	file_figures(fs, inode, since_ns, NULL, &info->figures);
	info->damaged_bytes = damage_count(fs, inode) * GF_BLOCK_SIZE;
	if (info->damaged_bytes && !info->reason)
		info->state = "damaged";
	info->figures.pinned_golden_bytes = pinned_by_set(fs, &inode->ino, 1);
	if (inode->kind == GF_KIND_PROMOTED && !info->reason && !info->damaged_bytes)
		info->state = "copying";
	if (strcmp(info->state, "ok") == 0)
		info->state = recast_state(inode);
	if (fenced)
		r = fenced_state(fenced, info);
	if (r || !g)
		return r;
	if (!fenced && g->pin == GF_PIN_COPYING && !info->damaged_bytes && !info->reason)
		info->state = "copying";
	free(info->base);
	return asprintf(&info->base, "golden/%s", g->path) < 0 ? -ENOMEM : 0;
}

/* Of what does not stand in the images' folder. */
static enum fs_kind kind_of(const struct inode *inode)
{
	if (S_ISDIR(inode->mode))
		return FS_KIND_FOLDER;
	if (S_ISLNK(inode->mode))
		return FS_KIND_SYMLINK;
	if (is_snapshot(inode))
		return FS_KIND_SNAPSHOT;
	return inode->kind == GF_KIND_PROMOTED ? FS_KIND_GOLDEN : FS_KIND_CLONE;
}

int fs_kind(struct fs *fs, uint64_t ino, enum fs_kind *kind)
{
	struct inode *inode;
	struct fs_attr attr;
	bool golden;
	int r;

	*kind = FS_KIND_FOLDER;
	pthread_rwlock_rdlock(&fs->tree);
	inode = tree_find(fs, ino);
	golden = inode && inode->kind == GF_KIND_GOLDEN;
	if (inode && !golden)
		*kind = kind_of(inode);
	pthread_rwlock_unlock(&fs->tree);
	if (!golden)
		return !inode && ino >= FS_INO_FIRST ? -ESTALE : 0;
	r = golden_getattr(fs, inode, &attr);
	if (!r && !S_ISDIR(attr.mode))
		*kind = FS_KIND_GOLDEN;
	return r;
}

int fs_info(struct fs *fs, uint64_t ino, int64_t since_ns, struct fs_info *info)
{
	bool golden = false;
	struct inode *inode;
	int r = 0;

	*info = (struct fs_info){.kind = FS_KIND_FOLDER, .mode = "", .format = "raw",
		.base = strdup(""), .state = "ok", .dedup = "", .dedup_domain = strdup("")};
	failing_state(fs, NULL, info);
	dedup_drop_dead(fs);
	tree_hold(fs);
	inode = tree_find(fs, ino);
	if (inode && inode->kind != GF_KIND_GOLDEN) {
		info->kind = kind_of(inode);
		info->created_ns = inode->btime_ns;
		info->limit_bytes = inode->limit ? inode->limit->bytes : 0;
		if (S_ISREG(inode->mode))
			r = clone_info_locked(fs, inode, since_ns, info);
		if (!r && inode->kind == GF_KIND_USER && !S_ISLNK(inode->mode))
			r = domain_info(fs, inode, info);
	} else if (inode) {
		golden = true;
	} else if (ino >= FS_INO_FIRST) {
		r = -ESTALE;
	}
	tree_let(fs);
	if (!r && golden)
		r = golden_info(fs, inode, info);
	if (r)
		fs_info_release(info);
	return r;
}

void fs_info_release(struct fs_info *info)
{
	free(info->base);
	free(info->reason);
	free(info->dedup_domain);
	info->base = info->reason = info->dedup_domain = NULL;
}

int fs_figures_quick(struct fs *fs, uint64_t ino, int64_t *budget_ns, struct fs_figures *figures)
{
	struct inode *inode;
	bool found;

	tree_hold(fs);
	inode = tree_find(fs, ino);
	found = inode && atomic_load(&inode->layer);
	if (found)
		file_figures(fs, inode, 0, budget_ns, figures);
	tree_let(fs);
	return found ? 0 : -ESTALE;
}

struct freed {
	struct slot_list slots; /* of blocks that nobody but the set sees */
	uint64_t blocks;
	uint64_t cut; /* bytes of them that lie past the end of every file */
};

/* A block in which a file ends counts as far as it is shown, as it does in unique_bytes. */
static void cut_tail(struct family *f, size_t m, struct freed *freed)
{
	uint64_t end = file_end(f->nodes[m].file), block = end / GF_BLOCK_SIZE;
	uint32_t i = block % GF_REGION_BLOCKS;
	struct family_node *owner;
	long k;

	if (end % GF_BLOCK_SIZE == 0 || block / GF_REGION_BLOCKS != f->region)
		return;
	k = family_owner(f, (long)m, i);
	if (k < 0 || f->nodes[k].file)
		return;
	owner = &f->nodes[k];
	if (!plane_get(&owner->own, i) || !plane_get(&owner->first, i) || plane_get(&owner->second, i))
		return;
	freed->cut += GF_BLOCK_SIZE - family_shown(f, k, i);
	owner->first.words[i / 64] &= ~(UINT64_C(1) << (i % 64)); /* once */
}

static int freed_region(void *arg, struct family *f)
{
	struct freed *freed = arg;

	for (size_t k = 0; k < f->count; k++) {
		struct family_node *n = &f->nodes[k];

		if (n->file)
			continue;
		for (int i = 0; i < REGION_WORDS; i++)
			freed->blocks += __builtin_popcountll(n->own.words[i] &
				n->first.words[i] & ~n->second.words[i]);
	}
	for (size_t k = 0; k < f->count; k++)
		if (f->nodes[k].file && f->nodes[k].marked)
			cut_tail(f, k, freed);
	return slot_list_add_set(&freed->slots, f);
}

static int freed_few(void *arg, struct family *f, const struct few_block *list, size_t count)
{
	struct freed *freed = arg;
	int r = 0;

	for (size_t i = 0; i < count && !r; i++) {
		const struct few_block *b = &list[i];

		if (b->seers.files != b->seers.marked)
			continue;
		if (b->place && place_is_pool(b->place))
			r = slot_list_add_few_of_set(&freed->slots, f, b);
		else if (b->data && !f->nodes[b->node].file && b->seers.files)
			freed->blocks++;
	}
	return r;
}

static int compare_inos(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static int freed_by(struct fs *fs, const uint64_t *inos, size_t count, bool pins, uint64_t *bytes)
{
	CLEANUP_FREE uint64_t *sorted = NULL;
	struct freed freed = {0};
	struct family_walk walk = {
		.set = inos, .set_count = count, .region = freed_region, .few = freed_few,
		.singles = true, .arg = &freed};
	uint64_t slots, cut;
	int r = 0;

	*bytes = 0;
	if (!count)
		return 0;
	sorted = malloc(count * sizeof(*sorted));
	if (!sorted)
		return -ENOMEM;
	memcpy(sorted, inos, count * sizeof(*sorted));
	qsort(sorted, count, sizeof(*sorted), compare_inos);
	dedup_drop_dead(fs);
	tree_hold(fs);
	for (size_t i = 0; i < count; i++) {
		struct inode *inode = tree_find(fs, sorted[i]);
		struct layer *layer = inode ? atomic_load(&inode->layer) : NULL;

		if (!layer || (i && sorted[i] == sorted[i - 1]))
			continue; /* named twice, it is freed once */
		freed.blocks += layer_kept_blocks(layer);
		if (owns_tail(inode, layer))
			freed.cut += GF_BLOCK_SIZE - inode->size % GF_BLOCK_SIZE;
	}
	r = family_walk(fs, &walk);
	slot_list_freed(fs, &freed.slots, &slots, &cut);
	slot_list_release(&freed.slots);
	*bytes = (freed.blocks + slots) * GF_BLOCK_SIZE - freed.cut - cut;
	if (pins)
		*bytes += pinned_by_set(fs, inos, count);
	tree_let(fs);
	return r;
}

int fs_if_removed(struct fs *fs, const uint64_t *inos, size_t count, uint64_t *bytes)
{
	return freed_by(fs, inos, count, true, bytes);
}

int figures_freed(struct fs *fs, const uint64_t *inos, size_t count, uint64_t *bytes)
{
	return freed_by(fs, inos, count, false, bytes);
}

/* ---- the whole store ---- */

struct usage {
	struct fs *fs;
	const char *folder;
	uint64_t data, metadata, pins, shared_pins, pool;
};

static uint64_t allocated(struct fs *fs, const char *path)
{
	struct io_stat st = {0};
	int fd = fs->io->ops->open(fs->io, path, O_RDONLY);

	if (fd < 0)
		return 0;
	fs->io->ops->stat(fs->io, fd, &st);
	fs->io->ops->close(fs->io, fd);
	return st.allocated;
}

static int add_layer_file(void *arg, const char *name)
{
	struct usage *u = arg;
	char path[300];
	const char *dot = strrchr(name, '.');

	snprintf(path, sizeof(path), "layer/%s", name);
	if (dot && !strcmp(dot, ".data"))
		u->data += allocated(u->fs, path);
	else
		u->metadata += allocated(u->fs, path);
	return 0;
}

static int add_pool_file(void *arg, const char *name)
{
	struct usage *u = arg;
	char path[300];

	snprintf(path, sizeof(path), "pool/%s", name);
	if (strstr(name, ".data"))
		u->pool += allocated(u->fs, path);
	else
		u->metadata += allocated(u->fs, path);
	return 0;
}

static int add_index_file(void *arg, const char *name)
{
	struct usage *u = arg;
	char path[300];

	snprintf(path, sizeof(path), "index/%s", name);
	u->metadata += allocated(u->fs, path);
	return 0;
}

/* An image on its way to its folder. */
static int add_promoted_file(void *arg, const char *name)
{
	struct usage *u = arg;
	char path[300];

	snprintf(path, sizeof(path), "promoted/%s", name);
	u->pins += allocated(u->fs, path);
	return 0;
}

static int add_top_file(void *arg, const char *name)
{
	struct usage *u = arg;

	if (strchr(name, '.') || !strcmp(name, "superblock") || !strcmp(name, "log") ||
		!strcmp(name, "reserve"))
		u->metadata += allocated(u->fs, name);
	return 0;
}

static void add_pins(struct usage *u)
{
	struct golden *g, *next;

	HASH_ITER (hh, u->fs->goldens, g, next) {
		uint64_t bytes = u->fs->options.golden_test ? 0 : pin_bytes(u->fs, g->id);
		char path[48];

		u->pins += bytes;
		/* A copy is the store's own, the others are while the folder has the image. */
		if (g->pin != GF_PIN_COPY && is_live(u->fs, g))
			u->shared_pins += bytes;
		snprintf(path, sizeof(path), "golden/%" PRIu64 ".sums", g->id);
		if (!u->fs->options.golden_test)
			u->metadata += allocated(u->fs, path);
	}
}

static void add_files(struct fs *fs, int64_t *budget_ns, struct fs_store_figures *out)
{
	const int64_t since_ns = budget_ns ? 0 : times_now(CLOCK_MONOTONIC);
	struct inode *inode, *next;

	HASH_ITER (by_ino, fs->inodes, inode, next) {
		struct fs_figures f;

		if (!atomic_load(&inode->layer))
			continue;
		file_figures(fs, inode, since_ns, budget_ns, &f);
		out->snapshots += is_snapshot(inode);
		out->clones += inode->kind == GF_KIND_USER;
		out->virtual_bytes += f.virtual_bytes;
		out->data_bytes += f.data_bytes;
		out->unique_bytes += f.unique_bytes;
		out->saved_zero_bytes += f.zero_bytes;
	}
}

/* Bytes that layers and the pool hold, each once; and those that did not have to be stored because
 * a block of a layer was found elsewhere. */
static uint64_t stored_bytes(struct fs *fs, uint64_t *saved)
{
	struct layer_entry *entry, *next;
	struct pool_figures pool;
	uint64_t blocks = 0, golden = 0;

	HASH_ITER (hh, fs->layers, entry, next) {
		blocks += layer_kept_blocks(entry->layer);
		golden += entry->layer->golden_blocks;
	}
	pool_figures(fs->pool, &pool);
	*saved = (golden + less_u64(pool.refs, pool.live_slots)) * GF_BLOCK_SIZE;
	return (blocks + pool.live_slots) * GF_BLOCK_SIZE;
}

int fs_store_figures(struct fs *fs, struct fs_store_figures *out)
{
	return fs_store_figures_quick(fs, NULL, out);
}

int fs_store_figures_quick(struct fs *fs, int64_t *budget_ns, struct fs_store_figures *out)
{
	struct usage u = {.fs = fs};
	uint64_t stored, total;

	memset(out, 0, sizeof(*out));
	dedup_drop_dead(fs);
	tree_hold(fs);
	add_files(fs, budget_ns, out);
	add_pins(&u);
	stored = stored_bytes(fs, &out->saved_dedup_bytes);
	tree_let(fs);
	fs->io->ops->list(fs->io, "layer", add_layer_file, &u);
	fs->io->ops->list(fs->io, "pool", add_pool_file, &u);
	fs->io->ops->list(fs->io, "index", add_index_file, &u);
	fs->io->ops->list(fs->io, "promoted", add_promoted_file, &u);
	fs->io->ops->list(fs->io, ".", add_top_file, &u);
	space_look(fs, &total, &out->free_bytes);
	out->state = !fs->options.read_only && fs_writable(fs) ? "read-only" :
		space_state(fs, out->free_bytes);
	out->journal_bytes = allocated(fs, "journal/0");
	out->golden_bytes = u.pins;
	out->metadata_bytes = u.metadata;
	out->pool_bytes = u.pool;
	out->physical_bytes = u.data + u.pool + u.metadata + out->journal_bytes + u.pins -
			      u.shared_pins;
	/* What is shown and not stored was found by content, or is seen through layers. */
	out->saved_clone_bytes = less_u64(less_u64(out->data_bytes, stored), out->saved_dedup_bytes);
	/* Nothing stored at all is not the same as nothing saved. */
	out->ratio = out->data_bytes ?
		(double)out->data_bytes / max_u64(stored, GF_BLOCK_SIZE) : 1.0;
	return 0;
}

int fs_statfs(struct fs *fs, struct fs_statfs *st)
{
	int r = space_look(fs, &st->total_bytes, &st->free_bytes);

	if (r)
		return r;
	pthread_rwlock_rdlock(&fs->tree);
	st->files = HASH_CNT(by_ino, fs->inodes);
	pthread_rwlock_unlock(&fs->tree);
	return 0;
}
