/* SPDX-License-Identifier: MIT */
/* What an image looks like: head and tail of a file that may be anything. */
#include <string.h>

#include "fuzz.h"
#include "image/probe.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	size_t head = size < 4096 ? size : 4096;
	size_t tail = size < 512 ? size : 512;

	image_format_name(image_probe(data, head, data + size - tail, tail));
	image_format_name(image_probe(data, size, data, 0));
	image_format_name(image_probe(data, size / 2, data + size / 2, size - size / 2));
	return 0;
}
