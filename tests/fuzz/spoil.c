/* SPDX-License-Identifier: MIT */
#include <fcntl.h>
#include <stdlib.h>

#include "../crash/simdisk.h"
#include "base/sizes.h"
#include "fuzz.h"

static void resum_index_file(uint8_t *bytes, size_t len)
{
	resum_index(bytes, len, store_secret(), true);
}

static const struct {
	const char *path;
	void (*resum)(uint8_t *bytes, size_t len);
} files[] = {
	{"superblock", resum_super},
	{"catalog.0", resum_catalog},
	{"catalog.1", resum_catalog},
	{"journal/0", resum_ring},
	{"layer/1.map", resum_map},
	{"layer/2.map", resum_map},
	{"layer/3.map", resum_map},
	{"layer/1.data", NULL},
	{"layer/2.data", NULL},
	{"layer/3.data", NULL},
	{"layer/1.sum", NULL},
	{"layer/2.sum", NULL},
	{"layer/1.loc", resum_runs},
	{"layer/2.loc", resum_runs},
	{"layer/3.loc", resum_runs},
	{"pool/0.data", NULL},
	{"pool/0.sum", NULL},
	{"index/1", resum_index_file},
};

static void cut(struct simdisk *disk, const char *path, uint64_t size)
{
	struct io *io = simdisk_io(disk);
	int fd = io->ops->open(io, path, O_RDWR);

	if (fd < 0)
		return;
	io->ops->truncate(io, fd, size);
	io->ops->close(io, fd);
}

static void patch(struct simdisk *disk, struct input *in)
{
	uint8_t what = input_u8(in);
	const char *path = files[what % 32 % ARRAY_SIZE(files)].path;
	/* Most of what counts stands in the first pages. */
	uint64_t off = input_int(in, what & 128 ? 3 : 2);
	size_t len = input_u8(in);
	const uint8_t *bytes;

	if (what & 64) {
		cut(disk, path, off);
		return;
	}
	if (what & 32)
		len *= 64;
	bytes = input_bytes(in, &len);
	store_poke(disk, path, off, bytes, len);
}

void store_spoil(struct simdisk *disk, struct input *in, bool resum)
{
	for (int i = 0; i < 64 && in->left; i++)
		patch(disk, in);
	for (size_t i = 0; i < ARRAY_SIZE(files) && resum; i++) {
		size_t len = 0;
		uint8_t *bytes = files[i].resum ? store_peek(disk, files[i].path, &len) : NULL;

		if (!bytes)
			continue;
		files[i].resum(bytes, len);
		store_poke(disk, files[i].path, 0, bytes, len);
		free(bytes);
	}
}
