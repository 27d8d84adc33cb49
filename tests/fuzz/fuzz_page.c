/* SPDX-License-Identifier: MIT */
/* A map page: as it is, with its checksum made right, and under a layer that is then used. */
#include <stdlib.h>
#include <string.h>

#include "../crash/simdisk.h"
#include "fuzz.h"
#include "goldfs/format.h"
#include "store/layer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t bytes[sizeof(struct gf_disk_page)];
	uint8_t states[GF_STATE_BYTES];
	struct gf_disk_page page;
	struct simdisk *disk;
	uint8_t *map;
	uint32_t runs;
	size_t len;

	memset(bytes, 0, sizeof(bytes));
	if (size)
		memcpy(bytes, data, size < sizeof(bytes) ? size : sizeof(bytes));
	memcpy(&page, bytes, sizeof(page));
	page_decode(bytes, page.layer, page.region, page.generation, states, &runs);
	resum_map(bytes, sizeof(bytes));
	page_decode(bytes, page.layer, page.region, page.generation, states, &runs);

	/* The states of a page that counts: its header stays. */
	disk = store_disk(TEMPLATE_KILLED);
	map = store_peek(disk, "layer/1.map", &len);
	for (size_t at = 0; map && at + sizeof(page) <= len; at += sizeof(page)) {
		memcpy(map + at + offsetof(struct gf_disk_page, states), page.states,
			sizeof(page.states));
		if (size & 2)
			memcpy(map + at + offsetof(struct gf_disk_page, runs), &page.runs,
				sizeof(page.runs));
	}
	if (map) {
		resum_map(map, len);
		store_poke(disk, "layer/1.map", 0, map, len);
		store_use(disk, size & 1);
	}
	free(map);
	simdisk_free(disk);
	return 0;
}
