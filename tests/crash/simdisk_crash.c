/* SPDX-License-Identifier: MIT */
/*
 * Power loss on the simulated disk: which of the unsynced changes made it.
 *
 * Each policy answers two questions: how much of a change survives, and whether a name operation
 * does. Survivors are applied in the order in which they were made, so that a sector holds any of
 * the versions it ever had since the last sync, and neighbours hold versions of different times.
 */
#include "simdisk_internal.h"

#include <stdlib.h>
#include <string.h>

#include "base/sizes.h"
#include "rng.h"

enum survival { NONE, PART, WHOLE };

struct chooser {
	enum simdisk_policy policy;
	struct rng rng;
	uint64_t bound;	 /* a moment, or the change that is different from all others */
	unsigned chance; /* of a sector, per cent */
	bool only;	 /* ONE: nothing but the chosen change; otherwise all but it */
};

static int compare_seq(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

/* The order numbers of everything unsynced, sorted; malloc'ed. */
static uint64_t *all_seqs(struct simdisk *disk, size_t *count)
{
	uint64_t *seqs = NULL;
	size_t n = 0, room = 0;

	for (size_t i = 0; i <= disk->file_count; i++) {
		bool names = i == disk->file_count;
		struct change *c = names ? NULL : disk->files[i]->changes;
		size_t k = 0;

		while (names ? k < disk->nameop_count : c != NULL) {
			if (n == room) {
				room = room * 2 + 64;
				seqs = sim_alloc(seqs, room * sizeof(*seqs));
			}
			seqs[n++] = names ? disk->nameops[k++].seq : c->seq;
			c = c ? c->prev : NULL;
		}
	}
	if (n)
		qsort(seqs, n, sizeof(*seqs), compare_seq);
	*count = n;
	return seqs;
}

static void chooser_init(struct chooser *ch, struct simdisk *disk, enum simdisk_policy policy,
	uint64_t seed)
{
	static const unsigned chances[] = {2, 10, 50, 90, 98};
	uint64_t *seqs, pick;
	size_t count;

	memset(ch, 0, sizeof(*ch));
	ch->policy = policy;
	rng_seed(&ch->rng, seed);
	ch->chance = chances[rng_below(&ch->rng, ARRAY_SIZE(chances))];
	ch->only = rng_below(&ch->rng, 2);
	seqs = all_seqs(disk, &count);
	if (count) {
		pick = policy == SIMDISK_LAST ? count - 1 - rng_below(&ch->rng, min_u64(count, 8)) :
						rng_below(&ch->rng, count);
		ch->bound = seqs[pick];
	}
	free(seqs);
}

/* bound: of this file, for the policies that have one. */
static enum survival choose(struct chooser *ch, uint64_t seq, uint64_t bound)
{
	switch (ch->policy) {
	case SIMDISK_DROP:
		return NONE;
	case SIMDISK_KEEP:
		return WHOLE;
	case SIMDISK_SECTORS:
		return PART;
	case SIMDISK_LAST:
		return seq < bound ? WHOLE : NONE;
	case SIMDISK_PREFIX:
	case SIMDISK_FILES:
		return seq < bound ? WHOLE : seq == bound ? PART : NONE;
	case SIMDISK_ONE:
		return (seq == bound) == ch->only ? WHOLE : NONE;
	default:
		abort();
	}
}

/* A name operation survives or not; never in part. */
static bool choose_name(struct chooser *ch, uint64_t seq)
{
	if (ch->policy == SIMDISK_FILES)
		return rng_below(&ch->rng, 2);
	switch (choose(ch, seq, ch->bound)) {
	case NONE:
		return false;
	case WHOLE:
		return true;
	default:
		return rng_below(&ch->rng, 2);
	}
}

static void copy_sector(const struct pagemap *full, struct pagemap *map, uint64_t off)
{
	uint8_t sector[SIMDISK_SECTOR];

	off = round_down(off, SIMDISK_SECTOR);
	pagemap_read(full, sector, sizeof(sector), off);
	pagemap_write(map, sector, sizeof(sector), off);
}

/* Some sectors of a write, each with all that the cache (full) held in it just then. File systems give
 * space back by blocks: never a part of one. */
static void keep_sectors(struct chooser *ch, const struct change *change,
	const struct pagemap *full, struct pagemap *map, uint64_t *size)
{
	const uint64_t unit = change->kind == CHANGE_PUNCH ? 4096 : SIMDISK_SECTOR;
	uint64_t end = change->off + change->len, kept = 0;

	for (uint64_t at = round_down(change->off, unit); at < end; at += unit) {
		if (rng_below(&ch->rng, 100) >= ch->chance)
			continue;
		kept = min_u64(at + unit, end);
		if (change->kind == CHANGE_PUNCH)
			pagemap_write(map, NULL, kept - max_u64(at, change->off), max_u64(at, change->off));
		else
			copy_sector(full, map, at);
	}
	if (change->kind != CHANGE_WRITE || end <= *size)
		return;
	/* The size may be ahead of the data, behind it, or not written at all. */
	switch (rng_below(&ch->rng, 3)) {
	case 0:
		*size = end;
		break;
	case 1:
		*size = max_u64(*size, kept);
		break;
	default:
		break;
	}
}

/* All of a change, and what the cache held beside it in the sectors at its ends. */
static void keep_all(const struct change *change, const struct pagemap *full, struct pagemap *map,
	uint64_t *size)
{
	uint64_t end = change->off + change->len;

	change_apply(change, map, size);
	if (change->kind != CHANGE_WRITE)
		return;
	if (change->off % SIMDISK_SECTOR)
		copy_sector(full, map, change->off);
	if (end % SIMDISK_SECTOR)
		copy_sector(full, map, end);
}

static void crash_file(struct chooser *ch, const struct simfile *file, struct simfile *out)
{
	struct pagemap full;
	uint64_t full_size = file->durable_size, bound = ch->bound;
	const struct change **list;
	size_t count;

	pagemap_clone(&full, &file->durable);
	pagemap_clone(&out->durable, &file->durable);
	out->durable_size = file->durable_size;
	list = changes_in_order(file, &count);
	if (ch->policy == SIMDISK_FILES && count) {
		size_t pick = rng_below(&ch->rng, count + 1);

		bound = pick < count ? list[pick]->seq : UINT64_MAX;
	}
	for (size_t i = 0; i < count; i++) {
		enum survival how = choose(ch, list[i]->seq, bound);

		change_apply(list[i], &full, &full_size);
		if (how == PART && (list[i]->kind == CHANGE_TRUNCATE ||
					   list[i]->kind == CHANGE_ALLOCATE || list[i]->len > 8 * MIB))
			how = rng_below(&ch->rng, 2) ? WHOLE : NONE;
		if (how == WHOLE)
			keep_all(list[i], &full, &out->durable, &out->durable_size);
		else if (how == PART)
			keep_sectors(ch, list[i], &full, &out->durable, &out->durable_size);
	}
	free(list);
	pagemap_release(&full);
	pagemap_clear(&out->durable, out->durable_size, PAGEMAP_MAX);
	pagemap_clone(&out->cached, &out->durable);
	out->size = out->durable_size;
}

/* Names whose folder is lost are lost with it. */
static void drop_orphans(struct simnames *names)
{
	for (size_t i = 0; i < names->count;) {
		char folder[SIMDISK_PATH];
		char *slash;

		strcpy(folder, names->list[i].path);
		slash = strrchr(folder, '/');
		if (slash)
			*slash = 0;
		if (slash && !names_find(names, folder)) {
			names->list[i] = names->list[--names->count];
			i = 0;
		} else {
			i++;
		}
	}
}

struct simdisk *simdisk_crash(struct simdisk *disk, enum simdisk_policy policy, uint64_t seed)
{
	struct simdisk *out = simdisk_new(disk->capacity);
	struct chooser ch;

	pthread_mutex_lock(&disk->lock);
	chooser_init(&ch, disk, policy, seed);
	out->next_seq = disk->next_seq;
	out->next_file = disk->next_file;
	out->lives = disk->lives + 1;
	names_copy(&out->durable, &disk->durable);
	for (size_t i = 0; i < disk->nameop_count; i++) {
		if (choose_name(&ch, disk->nameops[i].seq))
			names_apply(&out->durable, &disk->nameops[i]);
	}
	drop_orphans(&out->durable);
	for (size_t i = 0; i < disk->file_count; i++)
		crash_file(&ch, disk->files[i], simdisk_add_file(out, disk->files[i]->id));
	pthread_mutex_unlock(&disk->lock);
	names_copy(&out->names, &out->durable);
	simdisk_collect(out);
	return out;
}
