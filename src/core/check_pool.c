/* SPDX-License-Identifier: MIT */
/*
 * The pool: each slot that somebody refers to is read once, whoever and how many that are. The walk
 * over the layers, which comes next, tells of each block that stands in one of those that are not
 * what was written, so that everybody who shows it is named, with where.
 */
#include "core/check_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/array.h"
#include "base/cleanup.h"
#include "base/sizes.h"
#include "store/pool.h"

#define READ_SLOTS 256

/* ---- sets of slots ---- */

int slot_set_add(struct slot_set *set, uint64_t slot)
{
	uint64_t *slots = array_with_room(set->slots, set->count, &set->capacity, sizeof(*slots));

	if (!slots)
		return -ENOMEM;
	set->slots = slots;
	set->slots[set->count++] = slot;
	return 0;
}

bool slot_set_has(const struct slot_set *set, uint64_t slot)
{
	size_t low = 0, high = set->count;

	while (low < high) {
		size_t mid = (low + high) / 2;

		if (set->slots[mid] < slot)
			low = mid + 1;
		else
			high = mid;
	}
	return low < set->count && set->slots[low] == slot;
}

void slot_set_release(struct slot_set *set)
{
	free(set->slots);
	*set = (struct slot_set){0};
}

const char *place_is_bad(struct fs *fs, const struct slot_set *bad_slots, uint64_t place, bool *lose)
{
	struct image *image;

	*lose = place_is_pool(place);
	if (place_is_pool(place))
		return slot_set_has(bad_slots, place_to_slot(place)) ?
			"not what was written to the pool" : NULL;
	image = tree_golden_image(fs, place_to_golden(place));
	return !image ? "in a golden image that is not there" :
	       place_to_block(place) * GF_BLOCK_SIZE >= image->size ?
			"behind the end of a golden image" : NULL;
}

/* ---- slots ---- */

static int tell_bad_sum(struct check *c, uint64_t slot, uint32_t right)
{
	struct mend *m = check_mend(c, MEND_FILE_BYTES);
	uint64_t off = slot % POOL_FILE_SLOTS * sizeof(right);
	char path[64];

	snprintf(path, sizeof(path), "pool/%" PRIu64 ".sum", slot / POOL_FILE_SLOTS);
	if (m) {
		snprintf(m->path, sizeof(m->path), "%s", path);
		m->off = off;
		m->len = sizeof(right);
		m->bytes = malloc(sizeof(right));
		if (m->bytes)
			memcpy(m->bytes, &right, sizeof(right));
	}
	return check_find(c, &(struct about){.severity = CHECK_DAMAGE, .structure = "checksum",
		.place = path, .offset = off, .length = sizeof(right),
		.shown_at = place_from_slot(slot), .repairable = true,
		.advice = "--repair writes it anew"},
		"one bit of the checksum of a shared block is wrong, its bytes are right");
}

static int check_slot(struct check *c, uint64_t slot, const uint8_t *bytes, uint32_t sum)
{
	uint32_t is = hash_block(c->fs->super.secret, bytes);

	if (is == sum)
		return 0;
	return mend_is_flipped(sum, is) ? tell_bad_sum(c, slot, is) : slot_set_add(&c->bad_slots, slot);
}

/* A failing disk fails somewhere: what can be read of a run is looked at slot by slot. */
static int check_one_by_one(struct check *c, uint8_t *data, uint64_t slot, uint64_t count)
{
	int r = 0;

	for (uint64_t i = 0; i < count && !r; i++) {
		uint32_t sum;

		if (pool_read(c->fs->pool, slot + i, data, 1) ||
			pool_read_sums(c->fs->pool, slot + i, &sum, 1))
			r = slot_set_add(&c->bad_slots, slot + i);
		else
			r = check_slot(c, slot + i, data, sum);
	}
	return r;
}

static int check_slots(struct check *c, uint8_t *data, uint64_t slot, uint64_t count)
{
	uint32_t sums[READ_SLOTS];
	int r = 0;

	c->report->blocks += count;
	if (pool_read(c->fs->pool, slot, data, count) ||
		pool_read_sums(c->fs->pool, slot, sums, count))
		r = check_one_by_one(c, data, slot, count);
	else
		for (uint64_t i = 0; i < count && !r; i++)
			r = check_slot(c, slot + i, data + i * GF_BLOCK_SIZE, sums[i]);
	return r ? r : check_progress(c, count * GF_BLOCK_SIZE);
}

/* ---- space ---- */

/* Bytes of one file that nothing refers to. */
struct unused {
	uint64_t file;
	uint64_t slots;
};

static int tell_unused(struct check *c, const struct unused *u)
{
	char path[64];

	if (!u->slots)
		return 0;
	snprintf(path, sizeof(path), "pool/%" PRIu64 ".data", u->file);
	c->report->orphaned_bytes += u->slots * GF_BLOCK_SIZE;
	check_mend(c, MEND_REWRITE);
	return check_find(c, &(struct about){.severity = CHECK_NOTE, .structure = "space",
		.place = path, .length = u->slots * GF_BLOCK_SIZE, .repairable = true,
		.advice = "the next mount, or --repair, frees it"},
		"%" PRIu64 " blocks take space and nothing refers to them", u->slots);
}

struct unused_walk {
	struct check *c;
	struct unused now;
};

static int add_unused(void *arg, uint64_t slot, uint64_t count)
{
	struct unused_walk *w = arg;
	uint64_t file = slot / POOL_FILE_SLOTS;
	int r = 0;

	if (file != w->now.file) {
		r = tell_unused(w->c, &w->now);
		w->now = (struct unused){.file = file};
	}
	w->now.slots += count;
	return r;
}

/* While there are records, what they replace is still there, and that is as it should be. */
static int check_unused(struct check *c)
{
	struct unused_walk w = {.c = c};
	struct fs *fs = c->fs;
	int r;

	if (pool_is_counting(fs->pool) || c->hole ||
		journal_head(fs->journal).seq != fs->tail.seq)
		return 0;
	r = pool_each_unused(fs->pool, add_unused, &w);
	/* A file system that cannot say it, or a disk that fails: the reads above told. */
	return r == -ENOMEM ? r : tell_unused(c, &w.now);
}

int check_pool(struct check *c)
{
	CLEANUP_FREE uint8_t *data = malloc(READ_SLOTS * GF_BLOCK_SIZE);
	uint64_t slot = 0, count;
	int r = data ? 0 : -ENOMEM;

	while (!r && (count = pool_next_live(c->fs->pool, &slot, READ_SLOTS)) != 0) {
		r = check_slots(c, data, slot, count);
		slot += count;
	}
	return r ? r : check_unused(c);
}
