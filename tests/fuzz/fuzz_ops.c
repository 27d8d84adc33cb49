/* SPDX-License-Identifier: MIT */
/* The stream of ops of a record or a catalog, decoded; every byte that an op covers is read. */
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"
#include "store/catalog_file.h"
#include "store/ops.h"

static volatile uint8_t sink;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct gf_disk_op *op;
	struct catalog_head head;
	uint64_t len, sum;
	size_t pos = 0;
	int error;

	while ((op = ops_next(data, size, &pos, &error)) != NULL)
		for (uint32_t i = 0; i < op->length; i++)
			sink ^= ((const uint8_t *)op)[i];
	if (!error && pos != size)
		abort();
	catalog_head_decode(data, size, &head, &len, &sum);
	return 0;
}
