/* SPDX-License-Identifier: MIT */
/* A whole store from somewhere, mounted and used; see store_spoil(). */
#include "../crash/simdisk.h"
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {data, size};
	uint8_t how = input_u8(&in);
	struct simdisk *disk = store_disk(how & 1);

	store_spoil(disk, &in, how & 2);
	store_use(disk, how & 4);
	simdisk_free(disk);
	return 0;
}
