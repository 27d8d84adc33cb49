/* SPDX-License-Identifier: MIT */
/* See the header. */
#include "core/figures_pool.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/sizes.h"
#include "store/pool.h"

/* ---- the list ---- */

void slot_list_release(struct slot_list *list)
{
	free(list->list);
	*list = (struct slot_list){0};
}

static int add(struct slot_list *list, uint64_t place, struct inode *file)
{
	if (list->count == list->capacity) {
		size_t capacity = max_u64(1024, 2 * list->capacity);
		struct slot_seen *more = realloc(list->list, capacity * sizeof(*more));

		if (!more)
			return -ENOMEM;
		list->list = more;
		list->capacity = capacity;
	}
	list->list[list->count++] = (struct slot_seen){place_to_slot(place), file};
	return 0;
}

static int compare_slots(const void *a, const void *b)
{
	const struct slot_seen *x = a, *y = b;

	return x->slot < y->slot ? -1 : x->slot > y->slot;
}

/* How many entries from i on are of one slot. */
static size_t slot_run(const struct slot_list *list, size_t i)
{
	size_t n = 1;

	while (i + n < list->count && list->list[i + n].slot == list->list[i].slot)
		n++;
	return n;
}

static void sort(struct slot_list *list)
{
	if (list->count)
		qsort(list->list, list->count, sizeof(*list->list), compare_slots);
}

/* ---- for all files ---- */

/* The layer's own blocks may be seen through others, or others' through it. */
static bool is_in_family(const struct layer *layer)
{
	return layer->parent || !layer->head_of;
}

bool pool_needs_walk(struct fs *fs)
{
	const struct layer_entry *entry;

	for (entry = fs->layers; entry; entry = entry->hh.next)
		if (entry->layer->may_share && is_in_family(entry->layer))
			return true;
	return false;
}

bool pool_figure_is_walked(struct fs *fs, const struct layer *layer)
{
	return layer->may_share && pool_needs_walk(fs);
}

/* The layer of a family in which a file finds a block. */
static long owner_of(const struct family *f, long k, uint32_t i)
{
	while (k >= 0 && plane_get(&f->nodes[k].below, i))
		k = f->nodes[k].parent;
	return k;
}

/* Blocks that come to a file, and to no other. */
static int add_seen(struct family *f, size_t m, const struct plane *bits, struct slot_list *list)
{
	struct inode *file = f->nodes[m].file;
	struct plane mask;
	int r = 0;

	plane_limit(&mask, f->region,
		round_up(atomic_load(&file->size), GF_BLOCK_SIZE) / GF_BLOCK_SIZE);
	for (int w = 0; w < REGION_WORDS && !r; w++) {
		uint64_t left = bits->words[w] & mask.words[w];

		for (; left && !r; left &= left - 1) {
			uint32_t i = (uint32_t)w * 64 + (uint32_t)__builtin_ctzll(left);
			long k = owner_of(f, (long)m, i);

			if (k >= 0 && f->nodes[k].places)
				r = add(list, f->nodes[k].places[i], file);
		}
	}
	return r;
}

static int add_many(const struct family_node *n, struct slot_list *list)
{
	int r = 0;

	for (uint32_t i = 0; i < GF_REGION_BLOCKS && !r; i++)
		if (plane_get(&n->pooled, i) && plane_get(&n->second, i))
			r = add(list, n->places[i], NULL);
	return r;
}

/* From the root to the files, as in figures.c: what starts in frozen layers. */
static int pass_up(struct family *f, struct plane *flow, bool many, struct slot_list *list)
{
	int r = 0;

	for (size_t k = 0; k < f->count && !r; k++) {
		struct family_node *n = &f->nodes[k];
		struct plane part = {{0}};

		for (int i = 0; n->parent >= 0 && i < REGION_WORDS; i++)
			part.words[i] = flow[n->parent].words[i] & n->first.words[i] &
					n->below.words[i];
		for (int i = 0; i < REGION_WORDS; i++)
			flow[k].words[i] |= part.words[i];
		if (n->file && many)
			n->file->fig.pool_shared += plane_count(&part);
		else if (n->file)
			r = add_seen(f, k, &part, list);
	}
	return r;
}

static void start_flow(struct family *f, struct plane *flow, bool many)
{
	memset(flow, 0, f->count * sizeof(*flow));
	for (size_t k = 0; k < f->count; k++) {
		struct family_node *n = &f->nodes[k];

		for (int i = 0; !n->file && i < REGION_WORDS; i++)
			flow[k].words[i] = n->pooled.words[i] & (many ? n->second.words[i] :
				n->first.words[i] & ~n->second.words[i]);
	}
}

int pool_figures_region(struct family *f, struct plane *flow, struct slot_list *list)
{
	bool any = false;
	int r = 0;

	for (size_t k = 0; k < f->count && !r; k++) {
		struct family_node *n = &f->nodes[k];

		any |= n->places != NULL;
		if (n->places)
			r = n->file ? add_seen(f, k, &n->pooled, list) : add_many(n, list);
	}
	if (!any || r)
		return r;
	start_flow(f, flow, true);
	r = pass_up(f, flow, true, list);
	start_flow(f, flow, false);
	return r ? r : pass_up(f, flow, false, list);
}

/* The file that is the only one to see all of these; NULL: there are several. */
static struct inode *only_file(const struct slot_seen *seen, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (seen[i].file != seen[0].file)
			return NULL;
	return seen[0].file;
}

void slot_list_account(struct fs *fs, struct slot_list *list)
{
	size_t n;

	sort(list);
	for (size_t i = 0; i < list->count; i += n) {
		struct inode *only;

		n = slot_run(list, i);
		only = only_file(list->list + i, n);
		if (only) {
			only->fig.pool_unique++;
			only->fig.pool_self += n - 1;
			continue;
		}
		for (size_t k = i; k < i + n; k++)
			if (list->list[k].file)
				list->list[k].file->fig.pool_shared++;
	}
}

/* ---- for a set of files ---- */

int slot_list_add_set(struct slot_list *list, struct family *f)
{
	int r = 0;

	for (size_t k = 0; k < f->count; k++) {
		struct family_node *n = &f->nodes[k];

		for (uint32_t i = 0; n->places && i < GF_REGION_BLOCKS && !r; i++) {
			if (!plane_get(&n->pooled, i) || plane_get(&n->second, i))
				continue;
			/* Any file of the set will do to tell its blocks from those that nobody sees. */
			r = add(list, n->places[i], plane_get(&n->first, i) ? f->fs->root : NULL);
		}
	}
	return r;
}

uint64_t slot_list_freed(struct fs *fs, struct slot_list *list)
{
	uint64_t freed = 0;
	size_t n;

	sort(list);
	for (size_t i = 0; i < list->count; i += n) {
		bool seen = false, one;
		uint64_t layer;

		n = slot_run(list, i);
		for (size_t k = i; k < i + n; k++)
			seen |= list->list[k].file != NULL;
		freed += seen && pool_slot_refs(fs->pool, list->list[i].slot, &one, &layer) == n;
	}
	return freed;
}
