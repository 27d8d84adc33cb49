/* SPDX-License-Identifier: MIT */
/*
 * The list of a region's runs: as it is, with its checksum made right, and as the list of a layer that
 * is then used. The first byte says how; then come the states of the first blocks, all others are
 * SHARED, then the list.
 */
#include <stdlib.h>
#include <string.h>

#include "../crash/simdisk.h"
#include "fuzz.h"
#include "goldfs/format.h"
#include "store/region.h"
#include "store/runs.h"

#define STATES 64
#define ROOM (64 + 256 * sizeof(struct gf_disk_run))

/* What was decoded keeps its promises: sorted, without overlap, all SHARED; and nothing is lost by
 * writing it again. */
static void look(struct runs *runs, const struct gf_disk_runs *head, const uint8_t *states)
{
	static uint8_t again[64 + GF_REGION_BLOCKS * sizeof(struct gf_disk_run)];
	struct runs copy;
	uint32_t end = 0;

	for (uint32_t i = 0; i < runs->count; i++) {
		const struct run *run = &runs->list[i];

		if (run->first < end || !run->count || run->first + run->count > GF_REGION_BLOCKS)
			abort();
		for (end = run->first; end < (uint32_t)run->first + run->count; end++)
			if (states_get(states, end) != GF_SHARED)
				abort();
	}
	runs_encode(runs, head->layer, head->region, (uint32_t)head->generation, again);
	if (runs_decode(&copy, again, sizeof(again), head->layer, head->region,
		    (uint32_t)head->generation, runs->count, states))
		abort();
	if (copy.count != runs->count)
		abort();
	runs_release(&copy);
	/* And can be changed. */
	if (runs_reserve(runs, 2))
		abort();
	runs_remove(runs, 5, 3);
	runs_add(runs, 5, 3, GF_PLACE_POOL | 77);
	runs_remove(runs, 0, GF_REGION_BLOCKS);
	if (runs->count)
		abort();
}

static void decode(const uint8_t *list, size_t len, const uint8_t *states)
{
	struct gf_disk_runs head;
	struct runs runs;

	memcpy(&head, list, sizeof(head));
	if (runs_decode(&runs, list, len, head.layer, head.region, (uint32_t)head.generation,
		    head.count, states) == 0)
		look(&runs, &head, states);
	runs_release(&runs);
}

/* The runs of each list that counts; its header stays but for their number. */
static void use(const uint8_t *list, size_t len, bool read_only)
{
	static const char *const layers[] = {"1", "2", "3"};
	struct simdisk *disk = store_disk(TEMPLATE_KILLED);

	for (size_t i = 0; i < 3; i++) {
		char path[32] = "layer/";
		size_t file_len = 0;
		uint8_t *file;

		strcat(strcat(path, layers[i]), ".loc");
		file = store_peek(disk, path, &file_len);
		for (size_t at = 0; file && at + ROOM <= file_len; at += GF_RUNS_SLOT)
			memcpy(file + at + 64, list + 64, len - 64);
		if (file) {
			resum_runs(file, file_len);
			store_poke(disk, path, 0, file, file_len);
		}
		free(file);
	}
	store_use(disk, read_only);
	simdisk_free(disk);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t list[ROOM], states[GF_STATE_BYTES];
	struct input in = {data, size};
	uint8_t how = input_u8(&in);
	size_t len = STATES;
	const uint8_t *bytes = input_bytes(&in, &len);

	memset(states, GF_SHARED * 0x55, sizeof(states));
	for (size_t i = 0; i < len; i++)
		states[i] ^= bytes[i];
	memset(list, 0, sizeof(list));
	len = in.left < ROOM ? in.left : ROOM;
	bytes = input_bytes(&in, &len);
	memcpy(list, bytes, len);
	decode(list, sizeof(list), states);
	resum_runs(list, sizeof(list));
	decode(list, sizeof(list), states);
	if (len > 64 && how & 2)
		use(list, len, how & 1);
	return 0;
}
