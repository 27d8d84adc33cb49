/* SPDX-License-Identifier: MIT */
/* Images in memory, for tests: what the simulated disk stands on, with exact holes. */
#include "image/image.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/sizes.h"
#include "goldfs/format.h"

struct image_memory {
	struct image image; /* first */
	const uint8_t *bytes;
	uint8_t *holes; /* bit per block */
};

static const uint8_t *bytes_of(struct image *img)
{
	return ((struct image_memory *)img)->bytes;
}

static int memory_read(struct image *img, void *buf, size_t len, uint64_t off)
{
	size_t want = off < img->size ? (size_t)min_u64(len, img->size - off) : 0;

	if (want)
		memcpy(buf, bytes_of(img) + off, want);
	memset((char *)buf + want, 0, len - want);
	return 0;
}

/* off is below the size and at the start of a block. */
static int is_zeros(struct image *img, uint64_t off)
{
	const uint8_t *p = bytes_of(img) + off;
	size_t len = (size_t)min_u64(GF_BLOCK_SIZE, img->size - off);

	if (len == GF_BLOCK_SIZE)
		return is_zero(p, len);
	while (len && *p == 0) {
		p++;
		len--;
	}
	return len == 0;
}

/* Once: tests ask often, and a big image is mostly holes. */
static int find_holes(struct image_memory *mem)
{
	uint64_t blocks = round_up(mem->image.size, GF_BLOCK_SIZE) / GF_BLOCK_SIZE;

	mem->holes = calloc(1, blocks / 8 + 1);
	for (uint64_t i = 0; mem->holes && i < blocks; i++)
		if (is_zeros(&mem->image, i * GF_BLOCK_SIZE))
			mem->holes[i / 8] |= 1u << (i % 8);
	return mem->holes ? 0 : -ENOMEM;
}

static bool is_hole(struct image *img, uint64_t off)
{
	uint64_t block = off / GF_BLOCK_SIZE;

	return ((struct image_memory *)img)->holes[block / 8] >> (block % 8) & 1;
}

static int memory_next_data(struct image *img, uint64_t off, uint64_t *start, uint64_t *end)
{
	uint64_t pos = round_down(off, GF_BLOCK_SIZE);

	while (pos < img->size && is_hole(img, pos))
		pos += GF_BLOCK_SIZE;
	if (pos >= img->size || off >= img->size)
		return -ENXIO;
	*start = max_u64(pos, off);
	while (pos < img->size && !is_hole(img, pos))
		pos += GF_BLOCK_SIZE;
	*end = min_u64(pos, img->size);
	return 0;
}

static void memory_free(struct image *img)
{
	free(((struct image_memory *)img)->holes);
	free(img);
}

static const struct image_ops memory_ops = {
	.read = memory_read,
	.next_data = memory_next_data,
	.free = memory_free,
};

int image_memory_new(struct image **img, const void *bytes, uint64_t size)
{
	struct image_memory *mem = calloc(1, sizeof(*mem));

	if (!mem)
		return -ENOMEM;
	mem->image.ops = &memory_ops;
	mem->image.size = size;
	mem->bytes = bytes;
	if (find_holes(mem)) {
		free(mem);
		return -ENOMEM;
	}
	*img = &mem->image;
	return 0;
}
