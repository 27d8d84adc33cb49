/* SPDX-License-Identifier: MIT */
/*
 * Map pages, the blocks at rest with their checksums, and space that nothing refers to.
 */
#include "core/check_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/sizes.h"
#include "store/region.h"
#include "store/runs.h"

#define READ_BLOCKS 256
#define MEND_LIST_BYTES (64 * KIB) /* longer ones take too long to try all bits of */

static const char lost_advice[] =
	"restore the file from a backup, or write these blocks anew in the guest; nothing else is concerned";

struct layer_check {
	struct check *c;
	struct layer *layer;
	uint8_t *data;	  /* READ_BLOCKS * 4096 */
	uint64_t bad;	  /* a run of blocks that are not what was written, not told yet */
	uint64_t bad_count;
	uint64_t overlay; /* counted */
	uint64_t owned;
	bool lost;	  /* a region is, so that counters cannot be right */
	uint64_t unused;
};

static void file_name(char path[64], const struct layer *layer, const char *ending)
{
	snprintf(path, 64, "layer/%" PRIu64 ".%s", layer->id, ending);
}

/* ---- damage, run by run ---- */

static int lose_blocks(struct layer_check *lc, uint64_t block, uint64_t count)
{
	struct mend *m = check_mend(lc->c, MEND_LOSE);

	if (!m)
		return -ENOMEM;
	m->layer = lc->layer->id;
	m->block = block;
	m->count = count;
	return 0;
}

static int tell_bad(struct layer_check *lc)
{
	char path[64];
	uint64_t block = lc->bad, count = lc->bad_count;
	int r;

	lc->bad_count = 0;
	if (!count)
		return 0;
	r = lose_blocks(lc, block, count);
	if (r)
		return r;
	file_name(path, lc->layer, "data");
	return check_find(lc->c, &(struct about){.severity = CHECK_DAMAGE, .structure = "data",
		.place = path, .offset = block * GF_BLOCK_SIZE, .length = count * GF_BLOCK_SIZE,
		.layer = lc->layer, .block = block, .count = count,
		.advice = "restore the file from a backup; --repair makes reading these blocks an "
			  "error instead of a wrong answer"},
		"%" PRIu64 " block%s do%s not have the checksum that was recorded", count,
		count == 1 ? "" : "s", count == 1 ? "es" : "");
}

static int add_bad(struct layer_check *lc, uint64_t block)
{
	int r = 0;

	if (lc->bad_count && lc->bad + lc->bad_count != block)
		r = tell_bad(lc);
	if (!lc->bad_count)
		lc->bad = block;
	lc->bad_count++;
	return r;
}

static int tell_bad_sum(struct layer_check *lc, uint64_t block, uint32_t right)
{
	struct mend *m = check_mend(lc->c, MEND_FILE_BYTES);
	char path[64];

	file_name(path, lc->layer, "sum");
	if (m) {
		snprintf(m->path, sizeof(m->path), "%s", path);
		m->off = block * sizeof(right);
		m->len = sizeof(right);
		m->bytes = malloc(sizeof(right));
		if (m->bytes)
			memcpy(m->bytes, &right, sizeof(right));
	}
	return check_find(lc->c, &(struct about){.severity = CHECK_DAMAGE, .structure = "checksum",
		.place = path, .offset = block * sizeof(right), .length = sizeof(right),
		.layer = lc->layer, .block = block, .count = 1, .repairable = true,
		.advice = "--repair writes it anew"},
		"one bit of the checksum of a block is wrong, its bytes are right");
}

/* ---- blocks at rest ---- */

static int check_block(struct layer_check *lc, uint64_t block, const uint8_t *bytes, uint32_t sum)
{
	uint32_t is;

	/* No checksum is 0: one that is was damaged or lost. */
	lc->c->report->blocks++;
	is = hash_block(lc->c->fs->super.secret, bytes);
	if (is == sum)
		return 0;
	if (layer_is_suspect(lc->layer, block / GF_REGION_BLOCKS)) {
		lc->c->report->suspect_blocks++;
		return 0;
	}
	return mend_is_flipped(sum, is) ? tell_bad_sum(lc, block, is) : add_bad(lc, block);
}

static int unreadable(struct layer_check *lc, uint64_t block, uint64_t count, int why)
{
	char path[64];

	file_name(path, lc->layer, "data");
	if (why == -EUCLEAN) { /* the file is not there */
		for (uint64_t i = 0; i < count; i++) {
			int r = add_bad(lc, block + i);

			if (r)
				return r;
		}
		return 0;
	}
	return check_find(lc->c, &(struct about){.severity = CHECK_DAMAGE, .structure = "data",
		.place = path, .offset = block * GF_BLOCK_SIZE, .length = count * GF_BLOCK_SIZE,
		.layer = lc->layer, .block = block, .count = count, .advice = lost_advice},
		"%" PRIu64 " blocks cannot be read: %s", count, strerror(-why));
}

/* A failing disk fails somewhere: what can be read of a run is looked at block by block. */
static int check_one_by_one(struct layer_check *lc, uint64_t block, uint64_t count,
	const uint32_t *sums)
{
	int r = 0;

	for (uint64_t i = 0; i < count && !r; i++) {
		r = layer_read_data(lc->layer, lc->data, GF_BLOCK_SIZE,
			(block + i) * GF_BLOCK_SIZE);
		r = r ? unreadable(lc, block + i, 1, r) :
			check_block(lc, block + i, lc->data, sums[i]);
	}
	return r;
}

static int check_run(struct layer_check *lc, uint64_t block, uint64_t count)
{
	uint32_t sums[READ_BLOCKS];
	int r = layer_read_sums(lc->layer, block, sums, count);

	if (r) {
		char path[64];

		file_name(path, lc->layer, "sum");
		r = check_find(lc->c, &(struct about){.severity = CHECK_DAMAGE,
			.structure = "checksum", .place = path, .offset = block * sizeof(*sums),
			.length = count * sizeof(*sums), .layer = lc->layer, .block = block,
			.count = count, .advice = lost_advice},
			"checksums cannot be read: %s", strerror(-r));
		if (r)
			return r;
		memset(sums, 0, sizeof(sums));
	}
	r = layer_read_data(lc->layer, lc->data, count * GF_BLOCK_SIZE, block * GF_BLOCK_SIZE);
	if (r)
		r = check_one_by_one(lc, block, count, sums);
	else
		for (uint64_t i = 0; i < count && !r; i++)
			r = check_block(lc, block + i, lc->data + i * GF_BLOCK_SIZE, sums[i]);
	return r ? r : check_progress(lc->c, count * GF_BLOCK_SIZE);
}

/* ---- regions ---- */

struct page_id {
	uint64_t layer;
	uint32_t region, generation;
};

static bool page_is_whole(const void *arg, const uint8_t *bytes)
{
	const struct page_id *id = arg;
	uint8_t states[GF_STATE_BYTES];

	return page_decode(bytes, id->layer, id->region, id->generation, states, NULL) == 0;
}

/* A page that is not whole because of one bit. */
static bool mend_page(struct layer_check *lc, uint32_t region, uint32_t generation)
{
	struct page_id id = {lc->layer->id, region, generation};
	uint8_t page[sizeof(struct gf_disk_page)];
	struct mend *m;
	uint64_t place;

	if (layer_read_page(lc->layer, region, generation, page, &place) ||
		!mend_one_bit(page, sizeof(page), page_is_whole, &id))
		return false;
	m = check_mend(lc->c, MEND_FILE_BYTES);
	if (!m)
		return false;
	file_name(m->path, lc->layer, "map");
	m->off = place;
	m->len = sizeof(page);
	m->bytes = malloc(sizeof(page));
	if (m->bytes)
		memcpy(m->bytes, page, sizeof(page));
	return m->bytes != NULL;
}

static int tell_lost_page(struct layer_check *lc, uint32_t region, uint32_t generation)
{
	bool mendable = mend_page(lc, region, generation);
	char path[64];

	file_name(path, lc->layer, "map");
	return check_find(lc->c, &(struct about){.severity = CHECK_DAMAGE, .structure = "map",
		.place = path, .offset = region * UINT64_C(8192), .length = 8192,
		.layer = lc->layer, .block = (uint64_t)region * GF_REGION_BLOCKS,
		.count = GF_REGION_BLOCKS, .repairable = mendable,
		.advice = mendable ? "--repair writes it anew" : lost_advice},
		"the map page of region %u is damaged: nothing is known of the blocks there", region);
}

static int tell_lost_blocks(struct layer_check *lc, uint64_t block, uint64_t count)
{
	char path[64];

	file_name(path, lc->layer, "data");
	return check_find(lc->c, &(struct about){.severity = CHECK_DAMAGE, .structure = "data",
		.place = path, .offset = block * GF_BLOCK_SIZE, .length = count * GF_BLOCK_SIZE,
		.layer = lc->layer, .block = block, .count = count, .unseen_is_note = true,
		.advice = lost_advice},
		"%" PRIu64 " block%s lost to damage and read%s as an error", count,
		count == 1 ? " is" : "s are", count == 1 ? "s" : "");
}

static bool is_journaled(const struct region_view *view, uint32_t i)
{
	return view->journaled[i / 8] >> (i % 8) & 1;
}

/* Blocks from i on in the same state and alike journaled. */
static uint32_t run_length(const struct region_view *view, uint32_t i)
{
	uint32_t n = 1;

	while (i + n < GF_REGION_BLOCKS &&
		states_get(view->states, i + n) == states_get(view->states, i) &&
		is_journaled(view, i + n) == is_journaled(view, i))
		n++;
	return n;
}

static int check_overlay(struct layer_check *lc, uint64_t block, uint32_t count)
{
	int r = 0;

	while (count && !r) {
		uint32_t n = min_u64(count, READ_BLOCKS);

		r = check_run(lc, block, n);
		block += n;
		count -= n;
	}
	return r;
}

/* ---- blocks that stand elsewhere ---- */

static int tell_bad_shared(struct layer_check *lc, uint64_t block, uint64_t count, const char *why,
	bool lose)
{
	char path[64];
	int r = lose ? lose_blocks(lc, block, count) : 0;

	file_name(path, lc->layer, "data");
	return r ? r : check_find(lc->c, &(struct about){.severity = CHECK_DAMAGE,
		.structure = "data", .place = path, .offset = block * GF_BLOCK_SIZE,
		.length = count * GF_BLOCK_SIZE, .layer = lc->layer, .block = block,
		.count = count, .shared_only = true,
		.advice = lose ? "restore the file from a backup; --repair makes reading these "
				 "blocks an error instead of a wrong answer" : lost_advice},
		"%" PRIu64 " shared block%s %s", count, count == 1 ? " is" : "s are", why);
}

struct list_id {
	uint64_t layer;
	uint32_t region, generation, count;
	const uint8_t *states;
};

static bool list_is_whole(const void *arg, const uint8_t *bytes)
{
	const struct list_id *id = arg;
	struct runs runs;
	int r = runs_decode(&runs, bytes, runs_length(id->count), id->layer, id->region,
		id->generation, id->count, id->states);

	runs_release(&runs);
	return r == 0;
}

/* A list that is not whole because of one bit. */
static bool mend_list(struct layer_check *lc, uint32_t region, uint32_t generation)
{
	uint8_t page[sizeof(struct gf_disk_page)], states[GF_STATE_BYTES];
	struct list_id id = {lc->layer->id, region, generation, 0, states};
	CLEANUP_FREE uint8_t *list = NULL;
	struct mend *m;
	uint64_t place;
	size_t len;

	if (layer_read_page(lc->layer, region, generation, page, &place) ||
		page_decode(page, id.layer, region, generation, states, &id.count))
		return false;
	len = runs_length(id.count);
	list = len <= MEND_LIST_BYTES ? malloc(len) : NULL;
	if (!list || layer_read_list(lc->layer, region, generation, list, len, &place) ||
		!mend_one_bit(list, len, list_is_whole, &id))
		return false;
	m = check_mend(lc->c, MEND_FILE_BYTES);
	if (!m)
		return false;
	file_name(m->path, lc->layer, "loc");
	m->off = place;
	m->len = len;
	m->bytes = steal_pointer(&list);
	return true;
}

/* What stands in the list is lost with it, and told block by block; if it is. */
static int tell_lost_list(struct layer_check *lc, uint32_t region, uint32_t generation, bool *mendable)
{
	char path[64];

	*mendable = mend_list(lc, region, generation);
	file_name(path, lc->layer, "loc");
	return check_find(lc->c, &(struct about){.severity = CHECK_DAMAGE, .structure = "map",
		.place = path, .offset = (region * UINT64_C(2) + generation % 2) * GF_RUNS_SLOT,
		.layer = lc->layer, .block = (uint64_t)region * GF_REGION_BLOCKS,
		.count = GF_REGION_BLOCKS, .shared_only = true, .repairable = *mendable,
		.unseen_is_note = true,
		.advice = *mendable ? "--repair writes it anew" : lost_advice},
		"the list of region %u is damaged: nobody knows where its shared blocks stand",
		region);
}

/* Blocks that are SHARED: those without a place are lost, the places of the others must be good. */
static int check_shared(struct layer_check *lc, uint64_t block, uint32_t count, bool runs_lost)
{
	CLEANUP_FREE uint64_t *places = malloc(count * sizeof(*places));
	int r = places ? layer_read_places(lc->layer, block, places, count) : -ENOMEM;

	for (uint32_t i = 0, n; i < count && !r; i += n) {
		const struct slot_set *bad = &lc->c->bad_slots;
		bool lose, other;
		const char *why = places[i] ? place_is_bad(lc->c->fs, bad, places[i], &lose) : NULL;

		for (n = 1; i + n < count && !places[i + n] == !places[i]; n++)
			if (places[i] && place_is_bad(lc->c->fs, bad, places[i + n], &other) != why)
				break;
		if (!places[i])
			r = tell_lost_blocks(lc, block + i, n);
		else if (why)
			r = tell_bad_shared(lc, block + i, n, why, lose);
		/* So that the list is written anew, without them. */
		if (!places[i] && runs_lost && !r)
			r = lose_blocks(lc, block + i, n);
	}
	return r;
}

/* ---- a region ---- */

static int check_region(struct layer_check *lc, uint32_t region)
{
	uint64_t base = (uint64_t)region * GF_REGION_BLOCKS;
	CLEANUP_FREE struct region_view *view = malloc(sizeof(*view));
	bool list_mendable = false;
	int r = view ? layer_view_region(lc->layer, region, view) : -ENOMEM;

	if (r == -ENOMEM)
		return r;
	if (r) {
		char path[64];

		lc->lost = true;
		file_name(path, lc->layer, "map");
		return check_find(lc->c, &(struct about){.severity = CHECK_DAMAGE,
			.structure = "map", .place = path, .offset = region * UINT64_C(8192),
			.length = 8192, .layer = lc->layer, .block = base,
			.count = GF_REGION_BLOCKS, .advice = lost_advice},
			"the map page of region %u cannot be read: %s", region, strerror(-r));
	}
	if (view->lost) {
		lc->lost = true;
		r = tell_lost_page(lc, region, view->generation);
	} else if (view->runs_lost) {
		r = tell_lost_list(lc, region, view->generation, &list_mendable);
	}
	for (uint32_t i = 0, n; i < GF_REGION_BLOCKS && !r; i += n) {
		enum gf_state state = states_get(view->states, i);
		bool journaled = is_journaled(view, i);

		n = run_length(view, i);
		lc->overlay += state == GF_OVERLAY ? n : 0;
		lc->owned += state == GF_OVERLAY || journaled ? n : 0;
		lc->c->report->journaled_blocks += journaled ? n : 0;
		/* The newest version is in the journal, where it has a checksum of its own. */
		if (journaled)
			continue;
		if (state == GF_OVERLAY)
			r = check_overlay(lc, base + i, n);
		else if (state == GF_SHARED && !view->lost && !list_mendable)
			r = check_shared(lc, base + i, n, view->runs_lost);
	}
	return r;
}

static int add_unused(void *arg, uint64_t block, uint64_t count)
{
	struct layer_check *lc = arg;

	lc->unused += count;
	return 0;
}

static int check_unused(struct layer_check *lc)
{
	char path[64];
	int r = layer_each_unused(lc->layer, add_unused, lc);

	/* A file system that cannot say it, or a disk that fails: the reads above told. */
	if (r || !lc->unused)
		return 0;
	lc->c->report->orphaned_bytes += lc->unused * GF_BLOCK_SIZE;
	check_mend(lc->c, MEND_REWRITE);
	file_name(path, lc->layer, "data");
	return check_find(lc->c, &(struct about){.severity = CHECK_NOTE, .structure = "space",
		.place = path, .length = lc->unused * GF_BLOCK_SIZE, .repairable = true,
		.advice = check_advice_unused(lc->c)},
		"%" PRIu64 " blocks take space and nothing refers to them", lc->unused);
}

static int check_counters(struct layer_check *lc)
{
	struct mend *m;

	if (lc->overlay == lc->layer->overlay_blocks && lc->owned == lc->layer->owned_blocks)
		return 0;
	m = check_mend(lc->c, MEND_COUNTERS);
	if (m)
		m->layer = lc->layer->id;
	/* With a region lost nobody knows how many blocks it held: that finding stands for both. */
	if (lc->lost)
		return 0;
	return check_find(lc->c, &(struct about){.severity = CHECK_DAMAGE, .structure = "figures",
		.offset = lc->layer->id, .layer = lc->layer, .repairable = true,
		.advice = "--repair counts them anew"},
		"layer %" PRIu64 " holds %" PRIu64 " blocks, the catalog says %" PRIu64,
		lc->layer->id, lc->owned, (uint64_t)lc->layer->owned_blocks);
}

static int check_layer(struct check *c, struct layer *layer, uint8_t *data)
{
	struct layer_check lc = {.c = c, .layer = layer, .data = data};
	uint32_t region = 0;
	int r = 0;

	while (!r && (region = layer_next_region(layer, region)) != LAYER_NO_REGION) {
		r = check_region(&lc, region);
		region++;
	}
	if (!r)
		r = tell_bad(&lc);
	if (!r)
		r = check_unused(&lc);
	return r ? r : check_counters(&lc);
}

int check_layers(struct check *c)
{
	CLEANUP_FREE uint8_t *data = malloc(READ_BLOCKS * GF_BLOCK_SIZE);
	struct layer_entry *entry, *next;
	int r = data ? 0 : -ENOMEM;

	HASH_ITER (hh, c->fs->layers, entry, next)
		r = r ? r : check_layer(c, entry->layer, data);
	return r;
}
