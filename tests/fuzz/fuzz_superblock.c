/* SPDX-License-Identifier: MIT */
/* A superblock: first as it is, then with its checksum made right. */
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"
#include "store/superblock.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct superblock sb;
	uint8_t *bytes = malloc(size + 1), again[4096];

	if (!bytes)
		return 0;
	if (size)
		memcpy(bytes, data, size);
	superblock_decode(bytes, size, &sb);
	resum_super(bytes, size);
	/* What is understood is written as it was read. */
	if (superblock_decode(bytes, size, &sb) == 0 && superblock_encode(&sb, again) > size)
		abort();
	free(bytes);
	return 0;
}
