/* SPDX-License-Identifier: MIT */
/*
 * A catalog whose ops are the input, under a header that fits it, and a store mounted with it. The
 * first byte says over which store, and whether the header's numbers are the input's too.
 */
#include <stdlib.h>
#include <string.h>

#include "../crash/simdisk.h"
#include "fuzz.h"
#include "goldfs/format.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {data, size};
	uint8_t how = input_u8(&in);
	struct simdisk *disk = store_disk(how & 1);
	struct gf_disk_catalog head;
	const uint8_t *from;
	size_t len = 0, ops_len;
	uint8_t *old = store_peek(disk, "catalog.0", &len), *bytes;

	if (!old || len < 4096)
		abort();
	memcpy(&head, old, sizeof(head));
	head.generation = 1000;
	if (how & 2) {
		size_t n = sizeof(head) - offsetof(struct gf_disk_catalog, tail_pos) - 24;

		from = input_bytes(&in, &n);
		memcpy(&head.tail_pos, from, n);
	}
	ops_len = in.left;
	head.length = ops_len;
	bytes = calloc(1, 4096 + ops_len);
	if (!bytes)
		abort();
	memcpy(bytes, &head, sizeof(head));
	from = input_bytes(&in, &ops_len);
	memcpy(bytes + 4096, from, ops_len);
	resum_catalog(bytes, 4096 + ops_len);
	store_poke(disk, "catalog.0", 0, bytes, 4096 + ops_len);
	store_use(disk, how & 4);
	free(bytes);
	free(old);
	simdisk_free(disk);
	return 0;
}
