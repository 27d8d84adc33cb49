/* SPDX-License-Identifier: MIT */
/* See the header. */
#include "core/figures_pool.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/array.h"
#include "base/cleanup.h"
#include "base/sizes.h"
#include "store/pool.h"

/* ---- the list ---- */

void slot_list_release(struct slot_list *list)
{
	free(list->list);
	free(list->spans);
	free(list->files);
	*list = (struct slot_list){0};
}

static int add(struct slot_list *list, uint64_t place, struct slot_seen seen)
{
	struct slot_seen *more = array_with_room(list->list, list->count, &list->capacity, sizeof(*more));

	if (!more)
		return -ENOMEM;
	list->list = more;
	seen.slot = place_to_slot(place);
	list->list[list->count++] = seen;
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

/* Bytes of a block that lie behind the end of a file which ends within it. */
static uint64_t cut_of(uint64_t size, uint64_t block)
{
	return size / GF_BLOCK_SIZE == block && size % GF_BLOCK_SIZE ?
		GF_BLOCK_SIZE - size % GF_BLOCK_SIZE : 0;
}

/* Blocks that come to a file, and to no other or to others of its group. */
static int add_seen(struct family *f, size_t m, const struct plane *bits, struct slot_list *list)
{
	struct inode *file = f->nodes[m].file;
	uint64_t base = (uint64_t)f->region * GF_REGION_BLOCKS, size = atomic_load(&file->size);
	struct plane mask;
	int r = 0;

	plane_limit(&mask, f->region, file_limit(file));
	for (int w = 0; w < REGION_WORDS && !r; w++) {
		uint64_t left = bits->words[w] & mask.words[w];

		for (; left && !r; left &= left - 1) {
			uint32_t i = (uint32_t)w * 64 + (uint32_t)__builtin_ctzll(left);
			long k = family_owner(f, (long)m, i);
			struct slot_seen seen = {.file = file, .group = f->nodes[m].group,
				.cut = cut_of(size, base + i),
				.future = (base + i) * GF_BLOCK_SIZE >= size};

			if (k >= 0 && f->nodes[k].places)
				r = add(list, f->nodes[k].places[i], seen);
		}
	}
	return r;
}

static int add_many(const struct family_node *n, struct slot_list *list)
{
	int r = 0;

	for (uint32_t i = 0; i < GF_REGION_BLOCKS && !r; i++)
		if (plane_get(&n->pooled, i) && plane_get(&n->apart, i))
			r = add(list, n->places[i], (struct slot_seen){0});
	return r;
}

/* Blocks that come to a file, and to others of other groups. */
static void count_many(const struct family *f, struct inode *file, const struct plane *bits)
{
	uint64_t size = atomic_load(&file->size), last = size / GF_BLOCK_SIZE;
	struct plane mask;

	plane_limit(&mask, f->region, round_up(size, GF_BLOCK_SIZE) / GF_BLOCK_SIZE);
	for (int i = 0; i < REGION_WORDS; i++)
		mask.words[i] &= bits->words[i];
	file->counting.pool_shared += plane_count(&mask);
	if (size % GF_BLOCK_SIZE && last / GF_REGION_BLOCKS == f->region &&
		plane_get(&mask, last % GF_REGION_BLOCKS))
		file->counting.tail = TAIL_CLONE;
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
			count_many(f, n->file, &part);
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
			flow[k].words[i] = n->pooled.words[i] & (many ? n->apart.words[i] :
				n->first.words[i] & ~n->apart.words[i]);
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

/* ---- the same where few blocks stand ---- */

void slot_list_new_files(struct slot_list *list)
{
	list->files_start = list->file_count;
}

/* The files of the stretch, by their places in its order. */
static int add_files(struct slot_list *list, const struct family *f)
{
	for (size_t i = 0; i < f->count; i++) {
		struct inode **files = array_with_room(
			list->files, list->file_count, &list->file_capacity, sizeof(*files));

		if (!files)
			return -ENOMEM;
		list->files = files;
		list->files[list->file_count++] = family_few_file(f->few, i);
	}
	return 0;
}

static int add_span(struct slot_list *list, uint32_t first, uint32_t end)
{
	struct slot_span *spans;

	if (first == end)
		return 0;
	spans = array_with_room(list->spans, list->span_count, &list->span_capacity, sizeof(*spans));
	if (!spans)
		return -ENOMEM;
	list->spans = spans;
	list->spans[list->span_count++] = (struct slot_span){
		.first = list->files_start + first, .end = list->files_start + end};
	return 0;
}

/* All above the owner, but for those above the owners that stand next over it. */
static int add_spans(struct slot_list *list, const struct few_block *blocks, const struct few_block *b)
{
	uint32_t first = b->first;
	int r = 0;

	for (uint32_t k = b->over; k != FEW_NONE && !r; k = blocks[k].next) {
		r = add_span(list, first, blocks[k].first);
		first = blocks[k].end;
	}
	return r ? r : add_span(list, first, b->end);
}

int slot_list_add_few(struct slot_list *list, const struct family *f, const struct few_block *blocks,
	size_t i)
{
	const struct few_block *b = &blocks[i];
	struct slot_seen seen = {.span = list->span_count};
	int r = 0;

	if (!b->seers.files)
		return 0;
	if (b->seers.files == 1) {
		seen.file = f->nodes[b->seers.numbers].file;
		seen.group = f->nodes[b->seers.numbers].group;
	} else if (seers_are_one_group(&b->seers)) {
		seen.group = b->seers.groups / b->seers.files;
		if (list->file_count == list->files_start)
			r = add_files(list, f);
		if (!r)
			r = add_spans(list, blocks, b);
		seen.spans = list->span_count - seen.span;
	}
	return r ? r : add(list, b->place, seen);
}

/* ---- what of it is whose ---- */

/* The file that is the only one to see all of these; NULL: there are several. */
static struct inode *only_file(const struct slot_seen *seen, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (seen[i].file != seen[0].file)
			return NULL;
	return seen[0].file;
}

/* Whether all files that see these are of one group. */
static bool is_of_group(const struct slot_seen *seen, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if ((!seen[i].file && !seen[i].spans) || seen[i].group != seen[0].group)
			return false;
	return true;
}

/* Blocks of one slot, which only one file shows. */
static void account_one(const struct slot_seen *seen, size_t n)
{
	size_t count = 0;
	bool cut = false;

	for (size_t i = 0; i < n; i++) {
		count += !seen[i].future;
		cut |= seen[i].cut != 0;
	}
	if (!count)
		return;
	seen->file->counting.pool_unique++;
	seen->file->counting.pool_self += count - 1;
	/* What is unique is one that it shows to the end. */
	if (cut)
		seen->file->counting.tail = count > 1 ? TAIL_SELF : TAIL_UNIQUE;
}

static void account_seen(const struct slot_seen *seen, bool own)
{
	if (seen->future)
		return;
	if (own)
		seen->file->counting.pool_snapshot++;
	else
		seen->file->counting.pool_shared++;
	if (seen->cut)
		seen->file->counting.tail = own ? TAIL_SNAPSHOT : TAIL_CLONE;
}

/* One more for the files of spans: noted where they begin and end, and summed up at last. */
static void note_spans(const struct slot_list *list, const struct slot_seen *seen, int64_t *notes)
{
	for (uint32_t i = seen->span; i < seen->span + seen->spans; i++) {
		notes[list->spans[i].first]++;
		notes[list->spans[i].end]--;
	}
}

static void account_spans(const struct slot_list *list, const int64_t *own, const int64_t *others)
{
	int64_t own_sum = 0, others_sum = 0;

	for (size_t i = 0; i < list->file_count; i++) {
		own_sum += own[i];
		others_sum += others[i];
		if (!list->files[i])
			continue;
		list->files[i]->counting.pool_snapshot += own_sum;
		list->files[i]->counting.pool_shared += others_sum;
	}
}

int slot_list_account(struct fs *fs, struct slot_list *list)
{
	CLEANUP_FREE int64_t *own = calloc(list->file_count + 1, sizeof(*own));
	CLEANUP_FREE int64_t *others = calloc(list->file_count + 1, sizeof(*others));
	size_t n;

	if (!own || !others)
		return -ENOMEM;
	sort(list);
	for (size_t i = 0; i < list->count; i += n) {
		bool of_group;

		n = slot_run(list, i);
		of_group = is_of_group(list->list + i, n);
		if (only_file(list->list + i, n)) {
			account_one(list->list + i, n);
			continue;
		}
		for (size_t k = i; k < i + n; k++) {
			const struct slot_seen *seen = &list->list[k];

			if (seen->file)
				account_seen(seen, of_group);
			else
				note_spans(list, seen, of_group ? own : others);
		}
	}
	account_spans(list, own, others);
	return 0;
}

/* ---- for a set of files ---- */

/* Blocks of this region within which a file of the set ends. */
static void find_tails(const struct family *f, struct plane *tails)
{
	memset(tails, 0, sizeof(*tails));
	for (size_t m = 0; m < f->count; m++) {
		uint64_t end, block;

		if (!f->nodes[m].file || !f->nodes[m].marked)
			continue;
		end = file_end(f->nodes[m].file);
		block = end / GF_BLOCK_SIZE;
		if (end % GF_BLOCK_SIZE && block / GF_REGION_BLOCKS == f->region)
			tails->words[block % GF_REGION_BLOCKS / 64] |= UINT64_C(1) << (block % 64);
	}
}

int slot_list_add_set(struct slot_list *list, struct family *f)
{
	struct plane tails;
	int r = 0;

	find_tails(f, &tails);
	for (size_t k = 0; k < f->count; k++) {
		struct family_node *n = &f->nodes[k];

		for (uint32_t i = 0; n->places && i < GF_REGION_BLOCKS && !r; i++) {
			struct slot_seen seen = {0};

			if (!plane_get(&n->pooled, i) || plane_get(&n->second, i))
				continue;
			/* Any file of the set will do to tell its blocks from those that nobody sees. */
			if (plane_get(&n->first, i))
				seen.file = f->fs->root;
			if (seen.file && plane_get(&tails, i))
				seen.cut = GF_BLOCK_SIZE - family_shown(f, (long)k, i);
			r = add(list, n->places[i], seen);
		}
	}
	return r;
}

int slot_list_add_few_of_set(struct slot_list *list, const struct family *f, const struct few_block *b)
{
	return add(list, b->place, (struct slot_seen){.file = b->seers.files ? f->fs->root : NULL});
}

void slot_list_freed(struct fs *fs, struct slot_list *list, uint64_t *slots, uint64_t *cut)
{
	size_t n;

	*slots = *cut = 0;
	sort(list);
	for (size_t i = 0; i < list->count; i += n) {
		uint64_t least = GF_BLOCK_SIZE;
		bool seen = false, one;
		uint64_t layer;

		n = slot_run(list, i);
		for (size_t k = i; k < i + n; k++) {
			seen |= list->list[k].file != NULL;
			if (list->list[k].file)
				least = min_u64(least, list->list[k].cut);
		}
		if (!seen || pool_slot_refs(fs->pool, list->list[i].slot, &one, &layer) != n)
			continue;
		++*slots;
		*cut += least;
	}
}
