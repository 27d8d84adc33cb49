/* SPDX-License-Identifier: MIT */
/* golden/ID.sums: as it is, then with its checksums made right. */
#include "image/pin_sums.c"

#include <stdlib.h>

#include "fuzz.h"

static void try(const uint8_t *bytes, size_t len, uint64_t id)
{
	struct pin_sums sums = {0};

	if (decode(bytes, len, id, &sums) == 0 && sums.count)
		if (sums.sum[sums.count - 1] == 1 && sums.size > GF_MAX_SIZE * 2)
			abort();
	pin_sums_release(&sums);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct gf_disk_sums disk;
	uint8_t *bytes = calloc(1, size + 1);

	if (!bytes)
		return 0;
	if (size)
		memcpy(bytes, data, size);
	try(bytes, size, 1);
	if (size >= sizeof(disk)) {
		memcpy(&disk, bytes, sizeof(disk));
		disk.sums_sum = hash_struct(bytes + sizeof(disk), size - sizeof(disk));
		disk.sum = hash_struct(&disk, offsetof(struct gf_disk_sums, sum));
		memcpy(bytes, &disk, sizeof(disk));
		try(bytes, size, disk.golden);
	}
	free(bytes);
	return 0;
}
