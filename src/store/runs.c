/* SPDX-License-Identifier: MIT */
/* See the header. */
#include "store/runs.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/sizes.h"
#include "store/pool.h"
#include "store/region.h"

void runs_release(struct runs *runs)
{
	free(runs->list);
	*runs = (struct runs){0};
}

int runs_reserve(struct runs *runs, uint32_t more)
{
	uint32_t need = runs->count + more, room = max_u64(8, runs->room);
	struct run *list;

	if (need <= runs->room)
		return 0;
	while (room < need)
		room *= 2;
	list = realloc(runs->list, room * sizeof(*list));
	if (!list)
		return -ENOMEM;
	runs->list = list;
	runs->room = room;
	return 0;
}

int runs_copy(struct runs *to, const struct runs *from)
{
	*to = (struct runs){0};
	if (!from->count)
		return 0;
	to->list = malloc(from->count * sizeof(*to->list));
	if (!to->list)
		return -ENOMEM;
	memcpy(to->list, from->list, from->count * sizeof(*to->list));
	to->count = to->room = from->count;
	return 0;
}

static uint32_t run_end(const struct run *run)
{
	return (uint32_t)run->first + run->count;
}

/* The first run that ends behind block i. */
static uint32_t index_of(const struct runs *runs, uint32_t i)
{
	uint32_t low = 0, high = runs->count;

	while (low < high) {
		uint32_t mid = (low + high) / 2;

		if (run_end(&runs->list[mid]) <= i)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

uint64_t runs_find(const struct runs *runs, uint32_t i, uint32_t max, uint32_t *count)
{
	uint32_t at = index_of(runs, i);
	const struct run *run;

	*count = max;
	if (at == runs->count)
		return 0;
	run = &runs->list[at];
	if (run->first > i) {
		*count = min_u64(max, run->first - i);
		return 0;
	}
	*count = min_u64(max, run_end(run) - i);
	return run->place + (i - run->first);
}

void runs_each(const struct runs *runs, uint32_t first, uint32_t count,
	void (*cb)(void *arg, uint64_t place, uint32_t first, uint32_t count), void *arg)
{
	for (uint32_t at = index_of(runs, first); at < runs->count; at++) {
		const struct run *run = &runs->list[at];
		uint32_t from = max_u64(first, run->first), to = min_u64(first + count, run_end(run));

		if (from >= to)
			break;
		cb(arg, run->place + (from - run->first), from, to - from);
	}
}

static void insert(struct runs *runs, uint32_t at, struct run run)
{
	memmove(runs->list + at + 1, runs->list + at, (runs->count - at) * sizeof(run));
	runs->list[at] = run;
	runs->count++;
}

static void erase(struct runs *runs, uint32_t at, uint32_t n)
{
	memmove(runs->list + at, runs->list + at + n,
		(runs->count - at - n) * sizeof(*runs->list));
	runs->count -= n;
}

void runs_remove(struct runs *runs, uint32_t first, uint32_t count)
{
	uint32_t end = first + count, at = index_of(runs, first), n;
	struct run *run;

	if (at == runs->count || runs->list[at].first >= end)
		return;
	run = &runs->list[at];
	/* What is before the hole stays, and of the same run what is behind it. */
	if (run->first < first) {
		struct run rest = {.place = run->place + (end - run->first), .first = end,
			.count = run_end(run) - end};
		bool split = run_end(run) > end;

		run->count = first - run->first;
		at++;
		if (split) {
			insert(runs, at, rest);
			return;
		}
	}
	for (n = 0; at + n < runs->count && run_end(&runs->list[at + n]) <= end; n++)
		;
	erase(runs, at, n);
	run = &runs->list[at];
	if (at < runs->count && run->first < end) {
		run->place += end - run->first;
		run->count = run_end(run) - end;
		run->first = end;
	}
}

/* Whether b goes on where a ends, in the region and in its place. */
static bool joins(const struct run *a, const struct run *b)
{
	return run_end(a) == b->first && place_follows(a->place + a->count - 1, b->place);
}

void runs_add(struct runs *runs, uint32_t first, uint32_t count, uint64_t place)
{
	struct run run = {.place = place, .first = first, .count = count};
	uint32_t at = index_of(runs, first);

	if (at && joins(&runs->list[at - 1], &run))
		runs->list[--at].count += count;
	else
		insert(runs, at, run);
	if (at + 1 < runs->count && joins(&runs->list[at], &runs->list[at + 1])) {
		runs->list[at].count += runs->list[at + 1].count;
		erase(runs, at + 1, 1);
	}
}

/* ---- on disk ---- */

static uint64_t runs_sum(const struct gf_disk_runs *head, const void *entries)
{
	struct gf_disk_runs copy = *head;
	uint64_t parts[2];

	copy.sum = 0;
	parts[0] = hash_struct(&copy, sizeof(copy));
	parts[1] = hash_struct(entries, head->count * sizeof(struct gf_disk_run));
	return hash_struct(parts, sizeof(parts));
}

void runs_encode(const struct runs *runs, uint64_t layer, uint32_t region, uint32_t generation,
	void *buf)
{
	struct gf_disk_runs head = {
		.magic = GF_RUNS_MAGIC,
		.region = region,
		.layer = layer,
		.generation = generation,
		.count = runs->count,
	};
	struct gf_disk_run *entry = (struct gf_disk_run *)((uint8_t *)buf + sizeof(head));

	for (uint32_t i = 0; i < runs->count; i++)
		entry[i] = (struct gf_disk_run){.place = runs->list[i].place,
			.first = runs->list[i].first, .count = runs->list[i].count};
	head.sum = runs_sum(&head, entry);
	memcpy(buf, &head, sizeof(head));
}

bool place_is_possible(uint64_t place, uint32_t count)
{
	const uint64_t max = (UINT64_C(1) << GF_PLACE_SHIFT) - 1;
	uint64_t block = place & max;

	if (place & GF_PLACE_POOL)
		return block + count <= POOL_FILE_SLOTS;
	return place >> GF_PLACE_SHIFT && block + count <= max;
}

/* Behind block `from` of the region, and all of it SHARED. */
static bool run_is_possible(const struct gf_disk_run *run, uint32_t from, const uint8_t *states)
{
	if (run->first < from || !run->count || run->count > GF_REGION_BLOCKS ||
		run->first > GF_REGION_BLOCKS - run->count ||
		!place_is_possible(run->place, run->count))
		return false;
	for (uint32_t i = run->first; i < (uint32_t)run->first + run->count; i++)
		if (states_get(states, i) != GF_SHARED)
			return false;
	return true;
}

int runs_decode(struct runs *runs, const void *buf, size_t len, uint64_t layer, uint32_t region,
	uint32_t generation, uint32_t count, const uint8_t *states)
{
	const struct gf_disk_run *entry =
		(const struct gf_disk_run *)((const uint8_t *)buf + sizeof(struct gf_disk_runs));
	struct gf_disk_runs head;
	uint32_t end = 0;
	int r;

	*runs = (struct runs){0};
	if (count > GF_REGION_BLOCKS || len < runs_length(count))
		return -EUCLEAN;
	memcpy(&head, buf, sizeof(head));
	if (head.magic != GF_RUNS_MAGIC || head.region != region || head.layer != layer ||
		head.generation != generation || head.count != count ||
		head.sum != runs_sum(&head, entry))
		return -EUCLEAN;
	r = runs_reserve(runs, count);
	for (uint32_t i = 0; i < count && !r; i++) {
		if (!run_is_possible(&entry[i], end, states)) {
			r = -EUCLEAN;
			break;
		}
		runs->list[runs->count++] = (struct run){.place = entry[i].place,
			.first = entry[i].first, .count = entry[i].count};
		end = (uint32_t)entry[i].first + entry[i].count;
	}
	if (r)
		runs_release(runs);
	return r;
}
