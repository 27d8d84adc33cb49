/* SPDX-License-Identifier: MIT */
/* Walking families of layers; see the header. */
#include "core/family.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/sizes.h"
#include "base/times.h"
#include "core/snapshot.h"
#include "store/region.h"

/* ---- planes ---- */

uint64_t plane_count(const struct plane *p)
{
	uint64_t n = 0;

	for (int i = 0; i < REGION_WORDS; i++)
		if (p->words[i])
			n += __builtin_popcountll(p->words[i]);
	return n;
}

void plane_limit(struct plane *p, uint32_t region, uint64_t limit)
{
	uint64_t base = (uint64_t)region * GF_REGION_BLOCKS;
	uint64_t n = limit > base ? min_u64(limit - base, GF_REGION_BLOCKS) : 0;

	memset(p->words, 0xff, n / 64 * sizeof(p->words[0]));
	memset(p->words + n / 64, 0, (REGION_WORDS - n / 64) * sizeof(p->words[0]));
	if (n % 64)
		p->words[n / 64] = (UINT64_C(1) << (n % 64)) - 1;
}

static void plane_set(struct plane *p, uint64_t i)
{
	p->words[i / 64] |= UINT64_C(1) << (i % 64);
}

int plane_image(struct plane *p, struct image *image, uint32_t region)
{
	uint64_t base = (uint64_t)region * GF_REGION_SIZE, stop = base + GF_REGION_SIZE;
	uint64_t at = base, start, end;
	int r;

	memset(p, 0, sizeof(*p));
	stop = min_u64(stop, image->size);
	while (at < stop && (r = image->ops->next_data(image, at, &start, &end)) != -ENXIO) {
		uint64_t last;

		if (r)
			return r;
		last = round_up(min_u64(end, stop), GF_BLOCK_SIZE);
		for (uint64_t b = round_down(max_u64(start, base), GF_BLOCK_SIZE);
			b < last && b < stop; b += GF_BLOCK_SIZE)
			plane_set(p, (b - base) / GF_BLOCK_SIZE);
		at = end;
	}
	return 0;
}

uint64_t file_end(struct inode *inode)
{
	uint64_t size = atomic_load(&inode->size);

	/* Long after the copy it may have become longer than what was copied. */
	return atomic_load(&inode->copy_task) ? max_u64(size, inode->copy_limit) : size;
}

uint64_t file_limit(struct inode *inode)
{
	return round_up(file_end(inode), GF_BLOCK_SIZE) / GF_BLOCK_SIZE;
}

long family_owner(const struct family *f, long k, uint32_t i)
{
	while (k >= 0 && plane_get(&f->nodes[k].below, i))
		k = f->nodes[k].parent;
	return k;
}

uint64_t family_shown(const struct family *f, long k, uint32_t i)
{
	uint64_t start = ((uint64_t)f->region * GF_REGION_BLOCKS + i) * GF_BLOCK_SIZE, most = 0;

	for (size_t m = 0; m < f->count && most < GF_BLOCK_SIZE; m++) {
		const struct family_node *n = &f->nodes[m];

		if (n->file && n->marked && file_end(n->file) > start && family_owner(f, (long)m, i) == k)
			most = max_u64(most, min_u64(file_end(n->file) - start, GF_BLOCK_SIZE));
	}
	return most;
}

/* ---- one region of one family ---- */

static uint64_t shown_limit(const struct family_node *n)
{
	uint64_t bound = n->layer->bound;

	if (n->file && atomic_load(&n->file->copy_task))
		bound = n->file->copy_bound;
	return round_up(bound, GF_BLOCK_SIZE) / GF_BLOCK_SIZE;
}

static void plane_clear(struct plane *p, uint64_t i)
{
	p->words[i / 64] &= ~(UINT64_C(1) << (i % 64));
}

/* Where the SHARED blocks of a region stand; those that are lost count as the layer's own. */
static int load_places(struct family *f, struct family_node *n)
{
	int r;

	n->places = malloc(GF_REGION_BLOCKS * sizeof(*n->places));
	if (!n->places)
		return -ENOMEM;
	r = layer_read_places(n->layer, (uint64_t)f->region * GF_REGION_BLOCKS, n->places,
		GF_REGION_BLOCKS);
	for (uint32_t i = 0; i < GF_REGION_BLOCKS && !r; i++) {
		if (!n->places[i])
			continue;
		plane_clear(&n->own, i);
		plane_set(place_is_pool(n->places[i]) ? &n->pooled : &n->golden, i);
	}
	return r;
}

/* What the layer itself says. */
static int load_node(struct family *f, struct family_node *n, bool *any)
{
	uint8_t states[GF_STATE_BYTES];
	bool has, shared = false;
	int r = layer_region_states(n->layer, f->region, states, &has);

	if (r)
		return r;
	memset(&n->own, 0, sizeof(n->own));
	memset(&n->pooled, 0, sizeof(n->pooled));
	memset(&n->golden, 0, sizeof(n->golden));
	plane_limit(&n->below, f->region, shown_limit(n));
	if (!has)
		return 0;
	*any = true;
	for (int i = 0; i < REGION_WORDS; i++) {
		uint64_t low, high;

		states_planes(states, (uint32_t)i * 64, &low, &high);
		n->below.words[i] &= ~(low | high); /* not PARENT */
		n->own.words[i] = low;		    /* OVERLAY or SHARED */
		f->held.words[i] |= low;
		shared |= (low & high) != 0;
	}
	return shared ? load_places(f, n) : 0;
}

static void start_planes(struct family *f, struct family_node *n, bool by_set)
{
	struct plane all;

	memset(&n->first, 0, sizeof(n->first));
	memset(&n->second, 0, sizeof(n->second));
	memset(&n->apart, 0, sizeof(n->apart));
	if (!n->file)
		return;
	plane_limit(&all, f->region, file_limit(n->file));
	if (by_set && !n->marked)
		n->second = all;
	else
		n->first = all;
}

/* Whose the blocks are that come through a layer is noted for the one below, of those that some layer has. */
static int pass_holders(const struct family *f, const struct family_node *n, struct family_node *to)
{
	if (to->group != FAMILY_MIXED || !n->group)
		return 0;
	if (!to->holders)
		to->holders = calloc(GF_REGION_BLOCKS, sizeof(*to->holders));
	if (!to->holders)
		return -ENOMEM;
	for (int w = 0; w < REGION_WORDS; w++) {
		uint64_t left = n->first.words[w] & n->below.words[w] & f->held.words[w];

		for (; left; left &= left - 1) {
			uint32_t i = (uint32_t)w * 64 + (uint32_t)__builtin_ctzll(left);
			uint64_t holder = n->group == FAMILY_MIXED ? n->holders[i] : n->group;

			if (!to->holders[i])
				to->holders[i] = holder;
			else if (to->holders[i] != holder)
				to->holders[i] = FAMILY_MIXED;
			if (to->holders[i] == FAMILY_MIXED)
				plane_set(&to->apart, i);
		}
	}
	return 0;
}

/* What comes through a layer is added to those who come to the one below. */
static void pass_down(struct family_node *n, struct family_node *to, bool by_set)
{
	for (int i = 0; i < REGION_WORDS; i++) {
		uint64_t first = n->first.words[i] & n->below.words[i];
		uint64_t second = n->second.words[i] & n->below.words[i];

		if (!by_set)
			second |= to->first.words[i] & first;
		to->first.words[i] |= first;
		to->second.words[i] |= second;
	}
}

static int look_at_loaded(struct family *f, const struct family_walk *walk)
{
	bool by_set = walk->set != NULL, any = false;
	int r;

	memset(&f->held, 0, sizeof(f->held));
	for (size_t i = 0; i < f->count; i++) {
		r = load_node(f, &f->nodes[i], &any);
		if (r)
			return r;
		start_planes(f, &f->nodes[i], by_set);
	}
	if (!any)
		return 0;
	/* Children stand behind their parents. */
	for (size_t i = f->count; i-- > 1;) {
		struct family_node *n = &f->nodes[i], *to = &f->nodes[n->parent];

		pass_down(n, to, by_set);
		r = f->grouped ? pass_holders(f, n, to) : 0;
		free(n->holders);
		n->holders = NULL;
		if (r)
			return r;
	}
	for (size_t i = 0; i < f->count && !f->grouped && !by_set; i++)
		f->nodes[i].apart = f->nodes[i].second;
	return walk->region(walk->arg, f);
}

/* 1: done. 0: by planes. */
static int look_at_few(struct family *f, const struct family_walk *walk)
{
	const struct few_block *list;
	size_t count;
	int r;

	if (!f->few)
		return 0;
	if (family_few_is_new_stretch(f->few)) {
		family_few_spread(f->few);
		family_few_begin_stretch(f->few);
		if (walk->stretch)
			walk->stretch(walk->arg, f);
	}
	r = family_few_list(f->few, &list, &count);
	if (r > 0)
		r = walk->few(walk->arg, f, list, count);
	else if (r == 0)
		return 0;
	return r ? r : 1;
}

static int look_at_region(struct family *f, const struct family_walk *walk)
{
	int r = look_at_few(f, walk);

	if (r)
		return r < 0 ? r : 0;
	r = look_at_loaded(f, walk);
	for (size_t i = 0; i < f->count; i++) {
		free(f->nodes[i].places);
		free(f->nodes[i].holders);
		f->nodes[i].places = f->nodes[i].holders = NULL;
	}
	return r;
}

/* The next region in which some layer of the family has something. */
static uint32_t next_region(struct family *f)
{
	uint32_t next = LAYER_NO_REGION;

	for (size_t i = 0; i < f->count; i++)
		next = min_u64(next, f->nodes[i].next);
	return next;
}

static int walk_family(struct family *f, const struct family_walk *walk)
{
	int r = 0;

	for (size_t i = 0; i < f->count; i++)
		f->nodes[i].next = layer_next_region(f->nodes[i].layer, 0);
	if (walk->begin)
		walk->begin(walk->arg, f);
	if (walk->few && f->fs->few != FEW_NOWHERE)
		f->few = family_few_new(f);
	while (!r && (f->region = next_region(f)) != LAYER_NO_REGION) {
		r = look_at_region(f, walk);
		for (size_t i = 0; i < f->count; i++)
			if (f->nodes[i].next == f->region)
				f->nodes[i].next =
					layer_next_region(f->nodes[i].layer, f->region + 1);
		if (!r && walk->gives_way && atomic_load(&f->fs->tree_wanted))
			r = -EAGAIN;
		if (!r && walk->until_ns && times_now(CLOCK_MONOTONIC) > walk->until_ns)
			r = -EAGAIN;
	}
	if (!r && f->few)
		family_few_spread(f->few);
	family_few_free(f->few);
	return r;
}

/* ---- finding the families ---- */

/* All layers, which the table keeps in ascending order of id: what is below comes first. */
struct layer_list {
	struct layer **layers;
	size_t *root;	  /* index of the root of each one's family */
	size_t *members;  /* of a root: layers in its family */
	size_t *position; /* of each one in its family */
	size_t count;
};

static void layer_list_free(struct layer_list *l)
{
	free(l->layers);
	free(l->root);
	free(l->members);
	free(l->position);
}

static size_t find_layer(const struct layer_list *l, uint64_t id)
{
	size_t low = 0, high = l->count;

	while (low < high) {
		size_t mid = (low + high) / 2;

		if (l->layers[mid]->id < id)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

static int layer_list_make(struct fs *fs, struct layer_list *l)
{
	size_t n = HASH_COUNT(fs->layers);
	struct layer_entry *entry, *next;

	memset(l, 0, sizeof(*l));
	l->layers = malloc((n + 1) * sizeof(*l->layers));
	l->root = malloc((n + 1) * sizeof(*l->root));
	l->members = calloc(n + 1, sizeof(*l->members));
	l->position = malloc((n + 1) * sizeof(*l->position));
	if (!l->layers || !l->root || !l->members || !l->position) {
		layer_list_free(l);
		return -ENOMEM;
	}
	HASH_ITER (hh, fs->layers, entry, next) {
		size_t i = l->count++;

		l->layers[i] = entry->layer;
		l->root[i] = entry->layer->parent ?
			l->root[find_layer(l, entry->layer->parent->id)] : i;
		l->position[i] = l->members[l->root[i]]++;
	}
	return 0;
}

static bool in_set(const struct family_walk *walk, const struct inode *file)
{
	for (size_t i = 0; file && i < walk->set_count; i++)
		if (walk->set[i] == file->ino)
			return true;
	return false;
}

uint64_t family_group(struct fs *fs, struct inode *file)
{
	struct inode *group;

	if (is_snapshot(file))
		return file->key ? file->parent : file->ino;
	group = snapshots_of(fs, file);
	return group ? group->ino : file->ino;
}

static int compare_groups(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

/* Of which group each file is, and what is above each layer. */
static int find_groups(struct family *f)
{
	CLEANUP_FREE uint64_t *list = malloc(f->count * sizeof(*list));
	size_t count = 0;

	if (!list)
		return -ENOMEM;
	for (size_t i = 0; i < f->count; i++) {
		struct family_node *n = &f->nodes[i];

		n->group = n->file ? family_group(f->fs, n->file) : 0;
		if (n->file)
			list[count++] = n->group;
	}
	if (count)
		qsort(list, count, sizeof(*list), compare_groups);
	for (size_t i = 1; i < count; i++)
		f->grouped |= list[i] == list[i - 1];
	for (size_t i = f->count; i-- > 1;) {
		struct family_node *n = &f->nodes[i], *to = &f->nodes[n->parent];

		if (!to->group)
			to->group = n->group;
		else if (n->group && to->group != n->group)
			to->group = FAMILY_MIXED;
	}
	return 0;
}

static int family_make(struct fs *fs, const struct layer_list *l, size_t root,
	const struct family_walk *walk, struct family *f)
{
	size_t at = 0;

	f->fs = fs;
	f->walk = walk;
	f->count = l->members[root];
	f->image = l->layers[root]->image;
	f->nodes = calloc(f->count, sizeof(*f->nodes));
	if (!f->nodes)
		return -ENOMEM;
	for (size_t i = root; i < l->count && at < f->count; i++) {
		struct family_node *n = &f->nodes[at];

		if (l->root[i] != root)
			continue;
		n->layer = l->layers[i];
		n->file = n->layer->head_of ? tree_find(fs, n->layer->head_of) : NULL;
		n->marked = in_set(walk, n->file);
		n->parent = -1;
		if (i != root)
			n->parent = l->position[find_layer(l, n->layer->parent->id)];
		at++;
	}
	return walk->set ? 0 : find_groups(f);
}

int family_walk(struct fs *fs, const struct family_walk *walk)
{
	struct layer_list l;
	int r = layer_list_make(fs, &l);

	for (size_t i = 0; i < l.count && !r; i++) {
		struct family f = {0};

		if (l.root[i] != i ||
			(l.members[i] < 2 && !(walk->singles && l.layers[i]->may_share)))
			continue;
		r = family_make(fs, &l, i, walk, &f);
		if (!r)
			r = walk_family(&f, walk);
		free(f.nodes);
	}
	if (l.layers)
		layer_list_free(&l);
	return r;
}
