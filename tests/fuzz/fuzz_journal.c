/* SPDX-License-Identifier: MIT */
/*
 * Recovery from a hostile ring. The input is records, each a length of 16 bits and that many bytes
 * of ops, which are put behind the store's own records as one good chain; or, without its checksums
 * made right, bytes of the ring from the tail on.
 */
#include <stdlib.h>
#include <string.h>

#include "../crash/simdisk.h"
#include "base/hash.h"
#include "base/sizes.h"
#include "fuzz.h"
#include "goldfs/format.h"

#define RING MIB

/* Where the chain ends that is in the ring: after the records that are whole. */
static size_t end_of_chain(const uint8_t *ring, struct gf_disk_record *last)
{
	size_t at = 0;

	memset(last, 0, sizeof(*last));
	while (at + sizeof(*last) <= RING) {
		struct gf_disk_record rec;

		memcpy(&rec, ring + at, sizeof(rec));
		if (rec.magic != GF_RECORD_MAGIC || (at && rec.prev != last->sum) ||
			rec.length < sizeof(rec) || rec.length > RING - at)
			break;
		*last = rec;
		at += rec.length;
	}
	return at;
}

static size_t append(uint8_t *ring, size_t at, struct gf_disk_record *last, const uint8_t *ops,
	size_t len)
{
	struct gf_disk_record rec = {
		.magic = GF_RECORD_MAGIC,
		.length = (uint32_t)round_up(sizeof(rec) + len, 64),
		.epoch = last->epoch,
		.seq = last->seq + 1,
		.prev = last->sum,
		.used = (uint32_t)len,
	};

	if (rec.length > RING - at)
		return at;
	rec.ops_sum = hash_struct(ops, len);
	rec.sum = hash_content(store_secret(), &rec, offsetof(struct gf_disk_record, sum));
	memcpy(ring + at, &rec, sizeof(rec));
	memcpy(ring + at + sizeof(rec), ops, len);
	*last = rec;
	return at + rec.length;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {data, size};
	uint8_t how = input_u8(&in);
	struct simdisk *disk = store_disk(how & 1);
	struct gf_disk_record last;
	const uint8_t *bytes;
	size_t len = 0, at;
	uint8_t *ring = store_peek(disk, "journal/0", &len);

	if (!ring || len != RING)
		abort();
	at = end_of_chain(ring, &last);
	if (how & 2) {
		len = in.left < RING - at ? in.left : RING - at;
		bytes = input_bytes(&in, &len);
		memcpy(ring + (how & 8 ? 0 : at), bytes, len);
		if (how & 16)
			resum_ring(ring, RING);
	}
	while (in.left && !(how & 2)) {
		len = input_int(&in, 2);
		bytes = input_bytes(&in, &len);
		at = append(ring, at, &last, bytes, len);
	}
	store_poke(disk, "journal/0", 0, ring, RING);
	store_use(disk, how & 4);
	free(ring);
	simdisk_free(disk);
	return 0;
}
