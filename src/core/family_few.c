/* SPDX-License-Identifier: MIT */
/* Counting where few blocks stand, block by block; see the header. */
#include "core/family_few.h"

#include <stdlib.h>
#include <string.h>

#include "base/array.h"
#include "base/sizes.h"
#include "core/family.h"
#include "store/region.h"

/* So many blocks of a region cost as much as a layer's planes do. */
#define BLOCKS_LAYER 300
#define BLOCKS_MOST (1 << 17) /* 12 MiB */
/* Each takes memory for all layers until the walk has ended (figures_pool.c). */
#define STRETCHES_MOST 256

struct few_node {
	uint32_t first; /* place in the order */
	uint32_t end;	/* and that behind all that stand on it */
	uint32_t room;	/* the next place for one that stands on it */
	long parent;	/* -1: nothing below shows */
	struct seers seers; /* all files above it, and its own */
};

struct found {
	uint64_t place;
	uint32_t node;
	uint16_t block;
	bool data;
};

struct family_few {
	struct family *family;
	struct few_node *nodes;
	uint32_t *order; /* the nodes, by place */
	uint32_t until; /* the first region of the next stretch; 0: there was none yet */
	bool cut;	/* something ends within its first region */
	bool shows_image;
	unsigned stretches;
	struct found *found;
	size_t found_count, found_capacity;
	struct few_block *list;
	size_t list_capacity;
	uint32_t starts[GF_REGION_BLOCKS + 1]; /* of each block, in the list */
};

/* ---- sums ---- */

/* Spreads numbers that are near each other over 64 bits. */
static uint64_t hash_group(uint64_t group)
{
	group *= UINT64_C(0x9e3779b97f4a7c15);
	group = (group ^ group >> 32) * UINT64_C(0xd6e8feb86659fd93);
	return group ^ group >> 32;
}

static void seers_add(struct seers *s, const struct seers *more)
{
	s->files += more->files;
	s->marked += more->marked;
	s->numbers += more->numbers;
	s->groups += more->groups;
	s->hashes += more->hashes;
}

static void seers_take_off(struct seers *s, const struct seers *fewer)
{
	s->files -= fewer->files;
	s->marked -= fewer->marked;
	s->numbers -= fewer->numbers;
	s->groups -= fewer->groups;
	s->hashes -= fewer->hashes;
}

bool seers_are_one_group(const struct seers *s)
{
	return s->files && s->groups % s->files == 0 &&
	       s->hashes == s->files * hash_group(s->groups / s->files);
}

/* ---- a stretch ---- */

/*
 * Whether something that ends at `end` (bytes) reaches over the family's region, with which the stretch
 * begins. All that follows from an end follows from one look at it: a file may be cut at any time.
 */
static bool reaches(struct family_few *few, uint64_t end)
{
	uint64_t region = end / GF_REGION_SIZE;

	if (region < few->family->region)
		return false;
	if (region == few->family->region) {
		few->cut |= end % GF_REGION_SIZE != 0;
		return false;
	}
	few->until = min_u64(few->until, region);
	return true;
}

struct family_few *family_few_new(struct family *f)
{
	struct family_few *few;

	for (size_t i = 0; i < f->count; i++)
		if (f->nodes[i].file && atomic_load(&f->nodes[i].file->copy_task))
			return NULL;
	few = calloc(1, sizeof(*few));
	if (!few)
		return NULL;
	few->family = f;
	few->nodes = malloc(f->count * sizeof(*few->nodes));
	few->order = malloc(f->count * sizeof(*few->order));
	if (few->nodes && few->order)
		return few;
	family_few_free(few);
	return NULL;
}

void family_few_free(struct family_few *few)
{
	if (!few)
		return;
	free(few->nodes);
	free(few->order);
	free(few->found);
	free(few->list);
	free(few);
}

bool family_few_is_new_stretch(const struct family_few *few)
{
	return few->family->region >= few->until;
}

static void put_in_order(struct family_few *few)
{
	uint32_t room = 0;

	/* Children stand behind their parents; `end` is how many places each needs. */
	for (size_t i = few->family->count; i-- > 0;) {
		struct few_node *n = &few->nodes[i];

		if (n->parent < 0)
			continue;
		few->nodes[n->parent].end += n->end;
		seers_add(&few->nodes[n->parent].seers, &n->seers);
	}
	for (size_t i = 0; i < few->family->count; i++) {
		struct few_node *n = &few->nodes[i];
		uint32_t *place = n->parent < 0 ? &room : &few->nodes[n->parent].room;

		n->first = *place;
		*place += n->end;
		n->end += n->first;
		n->room = n->first + 1;
		few->order[n->first] = i;
	}
}

void family_few_begin_stretch(struct family_few *few)
{
	const struct family *f = few->family;

	few->until = LAYER_NO_REGION;
	few->cut = false;
	few->stretches++;
	for (size_t i = 0; i < f->count; i++) {
		const struct family_node *n = &f->nodes[i];
		bool shows = reaches(few, atomic_load(&n->layer->bound));

		few->nodes[i] = (struct few_node){.end = 1, .parent = shows ? n->parent : -1};
		if (i == 0)
			few->shows_image = shows && f->image;
		if (n->file && reaches(few, file_end(n->file)))
			few->nodes[i].seers = (struct seers){.files = 1, .marked = n->marked,
				.numbers = i, .groups = n->group, .hashes = hash_group(n->group)};
	}
	if (few->cut)
		few->until = f->region + 1;
	put_in_order(few);
}

struct inode *family_few_file(const struct family_few *few, size_t place)
{
	uint32_t i = few->order[place];

	/* Nothing stands on the layer of a file. */
	return few->nodes[i].seers.files ? few->family->nodes[i].file : NULL;
}

void family_few_spread(struct family_few *few)
{
	struct family *f = few->family;

	if (!few->until || !f->walk->spread)
		return;
	for (size_t i = 0; i < f->count; i++) {
		struct family_node *n = &f->nodes[i];
		long parent = few->nodes[i].parent;

		for (int c = 0; parent >= 0 && c < FAMILY_SPREADS; c++)
			n->spread[c] += f->nodes[parent].spread[c];
	}
	for (size_t i = 0; i < f->count; i++) {
		struct family_node *n = &f->nodes[few->order[i]];
		struct inode *file = family_few_file(few, i);

		if (file)
			f->walk->spread(f->walk->arg, file, n->spread);
		memset(n->spread, 0, sizeof(n->spread));
	}
}

/* ---- a region ---- */

static bool add_found(struct family_few *few, const struct found *block)
{
	struct found *list = array_with_room(
		few->found, few->found_count, &few->found_capacity, sizeof(*list));

	if (!list)
		return false;
	few->found = list;
	few->found[few->found_count++] = *block;
	few->starts[block->block + 1]++;
	return true;
}

/* 64 blocks of a layer, from 64 * w on. 1: done. 0: they become more than `most`, or than there is memory
 * for. -errno. */
static int find_in_word(
	struct family_few *few, uint32_t node, const uint8_t *states, uint32_t w, size_t most)
{
	struct layer *layer = few->family->nodes[node].layer;
	uint64_t base = (uint64_t)few->family->region * GF_REGION_BLOCKS;
	uint64_t low, high;
	int r = 0;

	memcpy(&low, states + w * 16, sizeof(low));
	memcpy(&high, states + w * 16 + sizeof(low), sizeof(high));
	if (!(low | high))
		return 1;
	states_planes(states, w * 64, &low, &high);
	for (uint64_t left = low | high; left && !r; left &= left - 1) {
		uint32_t i = (uint32_t)__builtin_ctzll(left);
		struct found found = {.node = node, .block = w * 64 + i};

		if (few->found_count == most)
			return 0;
		if (low & high & left & -left)
			r = layer_read_places(layer, base + found.block, &found.place, 1);
		found.data = (low >> i & 1) && !found.place;
		if (!r && !add_found(few, &found))
			return 0;
	}
	return r ? r : 1;
}

/* What the layers have in the region, layer by layer in their order. As above. */
static int find_blocks(struct family_few *few)
{
	const struct family *f = few->family;
	size_t most = BLOCKS_MOST;

	if (f->fs->few != FEW_EVERYWHERE)
		most = min_u64(f->count * BLOCKS_LAYER, BLOCKS_MOST);
	few->found_count = 0;
	memset(few->starts, 0, sizeof(few->starts));
	for (size_t i = 0; i < f->count; i++) {
		const struct family_node *n = &f->nodes[few->order[i]];
		uint8_t states[GF_STATE_BYTES];
		bool any = false;
		int r = 0;

		if (n->next == f->region)
			r = layer_region_states(n->layer, f->region, states, &any);
		if (r)
			return r;
		for (int w = 0; any && w < REGION_WORDS; w++) {
			r = find_in_word(few, few->order[i], states, (uint32_t)w, most);
			if (r <= 0)
				return r;
		}
	}
	return 1;
}

/* The same by block, and for each block in the order of layers. */
static bool sort_blocks(struct family_few *few)
{
	if (few->list_capacity < few->found_count) {
		free(few->list);
		few->list_capacity = few->found_capacity;
		few->list = malloc(few->list_capacity * sizeof(*few->list));
		if (!few->list) {
			few->list_capacity = 0;
			return false;
		}
	}
	for (uint32_t i = 0; i < GF_REGION_BLOCKS; i++)
		few->starts[i + 1] += few->starts[i];
	for (size_t i = 0; i < few->found_count; i++) {
		const struct found *found = &few->found[i];

		few->list[few->starts[found->block]++] = (struct few_block){
			.node = found->node, .block = found->block, .data = found->data,
			.place = found->place};
	}
	return true;
}

static void stand_on(struct few_block *list, uint32_t i, uint32_t below)
{
	struct few_block *b = &list[below];

	if (b->over == FEW_NONE)
		b->over = i;
	else
		list[b->last_over].next = i;
	b->last_over = i;
	seers_take_off(&b->seers, &list[i].seers);
}

/* Who hides what from whom, and who sees it. */
static void nest(struct family_few *few)
{
	struct few_block *list = few->list;
	uint32_t top = FEW_NONE;

	for (uint32_t i = 0; i < few->found_count; i++) {
		const struct few_node *n = &few->nodes[list[i].node];

		if (i && list[i].block != list[i - 1].block)
			top = FEW_NONE;
		while (top != FEW_NONE && few->nodes[list[top].node].end <= n->first)
			top = list[top].below;
		list[i].below = top;
		list[i].over = list[i].next = FEW_NONE;
		list[i].first = n->first;
		list[i].end = n->end;
		list[i].seers = n->seers;
		list[i].over_image =
			top == FEW_NONE && few->shows_image && n->first < few->nodes[0].end;
		if (top != FEW_NONE)
			stand_on(list, i, top);
		top = i;
	}
}

int family_few_list(struct family_few *few, const struct few_block **list, size_t *count)
{
	int r;

	*list = NULL;
	*count = 0;
	if (few->cut || few->stretches > STRETCHES_MOST)
		return 0;
	r = find_blocks(few);
	if (r <= 0)
		return r;
	if (!sort_blocks(few))
		return 0;
	nest(few);
	*list = few->list;
	*count = few->found_count;
	return 1;
}
