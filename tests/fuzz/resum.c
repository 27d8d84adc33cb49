/* SPDX-License-Identifier: MIT */
#include <stddef.h>
#include <string.h>

#include "base/hash.h"
#include "fuzz.h"
#include "goldfs/format.h"

void resum_super(uint8_t *bytes, size_t len)
{
	struct gf_disk_super super;

	if (len < sizeof(super))
		return;
	memcpy(&super, bytes, sizeof(super));
	super.sum = hash_struct(&super, offsetof(struct gf_disk_super, sum));
	memcpy(bytes, &super, sizeof(super));
}

void resum_catalog(uint8_t *bytes, size_t len)
{
	struct gf_disk_catalog head;

	if (len < 4096)
		return;
	memcpy(&head, bytes, sizeof(head));
	if (head.length <= len - 4096)
		head.ops_sum = hash_struct(bytes + 4096, head.length);
	head.sum = hash_struct(&head, offsetof(struct gf_disk_catalog, sum));
	memcpy(bytes, &head, sizeof(head));
}

void resum_map(uint8_t *bytes, size_t len)
{
	struct gf_disk_page page;

	for (; len >= sizeof(page); bytes += sizeof(page), len -= sizeof(page)) {
		memcpy(&page, bytes, sizeof(page));
		if (page.magic != GF_PAGE_MAGIC)
			continue;
		page.sum = 0;
		page.sum = hash_struct(&page, sizeof(page));
		memcpy(bytes, &page, sizeof(page));
	}
}

void resum_runs(uint8_t *bytes, size_t len)
{
	struct gf_disk_runs head;
	uint64_t parts[2];

	for (size_t at = 0; at + sizeof(head) <= len; at += GF_RUNS_SLOT) {
		memcpy(&head, bytes + at, sizeof(head));
		if (head.count > (len - at - sizeof(head)) / sizeof(struct gf_disk_run))
			continue;
		head.sum = 0;
		parts[0] = hash_struct(&head, sizeof(head));
		parts[1] = hash_struct(bytes + at + sizeof(head),
			head.count * sizeof(struct gf_disk_run));
		head.sum = hash_struct(parts, sizeof(parts));
		memcpy(bytes + at, &head, sizeof(head));
	}
}

/* The counts are left alone: what they point to behind the end is not there. */
void resum_index(uint8_t *bytes, size_t len, const uint8_t *secret, bool firsts)
{
	struct gf_disk_index_page page;
	struct gf_disk_index disk;
	uint64_t at = sizeof(page), filter, end;

	if (len < sizeof(page))
		return;
	memcpy(&disk, bytes, sizeof(disk));
	if (disk.pages > len / sizeof(page) - 1 || disk.filter_blocks > len / 32)
		return;
	filter = (1 + disk.pages) * sizeof(page);
	end = filter + disk.filter_blocks * 32;
	for (uint64_t i = 0; i < disk.pages; i++, at += sizeof(page)) {
		memcpy(&page, bytes + at, sizeof(page));
		page.sum = hash_struct(&page, offsetof(struct gf_disk_index_page, sum));
		memcpy(bytes + at, &page, sizeof(page));
		if (firsts && end + (i + 1) * 8 <= len)
			memcpy(bytes + end + i * 8, &page.entries[0].hash, 8);
	}
	if (end + disk.pages * 8 <= len) {
		disk.filter_sum = hash_struct(bytes + filter, disk.filter_blocks * 32);
		disk.firsts_sum = hash_struct(bytes + end, disk.pages * 8);
	}
	disk.key = hash_content(secret, &disk, offsetof(struct gf_disk_index, key));
	disk.sum = hash_struct(&disk, offsetof(struct gf_disk_index, sum));
	memcpy(bytes, &disk, sizeof(disk));
}

void resum_ring(uint8_t *bytes, size_t len)
{
	struct gf_disk_record rec, before;
	bool first = true;

	while (len >= sizeof(rec)) {
		memcpy(&rec, bytes, sizeof(rec));
		if (rec.magic != GF_RECORD_MAGIC || rec.length < sizeof(rec) ||
			rec.length % 64 || rec.length > len ||
			rec.used > rec.length - sizeof(rec))
			return;
		if (!first) {
			rec.prev = before.sum;
			rec.seq = before.seq + 1;
		}
		rec.ops_sum = hash_struct(bytes + sizeof(rec), rec.used);
		rec.sum = hash_content(store_secret(), &rec, offsetof(struct gf_disk_record, sum));
		memcpy(bytes, &rec, sizeof(rec));
		before = rec;
		first = false;
		bytes += rec.length;
		len -= rec.length;
	}
}
