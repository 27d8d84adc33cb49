/* SPDX-License-Identifier: MIT */
/*
 * index/ID: how (1 byte), the header, then what stands behind its page. Decoded piece by piece, and
 * as a file that is opened and asked. how: 1 checksums are made right, 2 so are the first hashes of
 * pages, 4 the file has the length that its header says.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "../crash/simdisk.h"
#include "base/sizes.h"
#include "fuzz.h"
#include "store/content_index.h"

#define PAGE 4096u
#define FILE_MAX (64 * KIB)

static const uint8_t secret[HASH_SECRET_LEN];

static void try_pages(const struct content_head *head, const uint8_t *file, size_t len)
{
	struct content_entry entries[GF_INDEX_PAGE_ENTRIES];

	for (uint64_t i = 0; (i + 2) * PAGE <= len; i++) {
		int n = content_page_decode(file + (i + 1) * PAGE, head, i, entries);

		if (n > (int)GF_INDEX_PAGE_ENTRIES || n == 0)
			abort();
		for (int k = 0; k < n; k++)
			if (entries[k].block >= head->print.size / GF_BLOCK_SIZE ||
				(k && entries[k].hash <= entries[k - 1].hash))
				abort();
	}
}

/* Whatever is in the pages is asked for, and more. */
static void ask(struct content_index *index, const struct content_head *head, const uint8_t *file,
	size_t len)
{
	const int whole = content_index_verify(index) == 0;

	for (size_t at = PAGE; at + 8 <= len; at += at < 3 * PAGE ? 12 : 500) {
		struct hash128 hash = {.low = 0};
		uint64_t block;

		memcpy(&hash.high, file + at, 8);
		if (content_index_lookup(index, &hash, &block) == 1 &&
			block >= head->print.size / GF_BLOCK_SIZE)
			abort();
	}
	if (whole && content_index_is_damaged(index))
		abort();
}

static void try_file(const struct content_head *head, const uint8_t *file, size_t len)
{
	struct simdisk *disk = simdisk_new(16 * MIB);
	struct content_index *index = NULL;
	char path[CONTENT_PATH_MAX];
	struct io *io = simdisk_io(disk);
	int fd;

	content_path(path, head->golden, CONTENT_FILE);
	if (io->ops->mkdir(io, "index"))
		abort();
	fd = io->ops->open(io, path, O_RDWR | O_CREAT);
	if (fd < 0 || io_pwrite(io, fd, file, len, 0))
		abort();
	io->ops->close(io, fd);
	if (content_index_open(&index, io, secret, head->golden, &head->print) == 0)
		ask(index, head, file, len);
	content_index_free(index);
	simdisk_free(disk);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const size_t head_len = sizeof(struct gf_disk_index);
	struct content_head head;
	uint8_t how, *file;
	size_t len;

	if (size < 1 + head_len || size > FILE_MAX)
		return 0;
	quiet();
	how = *data++;
	size--;
	len = PAGE + size - head_len;
	file = calloc(1, 2 * FILE_MAX);
	if (!file)
		return 0;
	memcpy(file, data, head_len);
	memcpy(file + PAGE, data + head_len, size - head_len);
	content_head_decode(file, head_len, secret, &head);
	if (how & 1)
		resum_index(file, len, secret, how & 2);
	if (content_head_decode(file, len, secret, &head) == 0) {
		try_pages(&head, file, len);
		if (how & 4 && content_file_size(&head) <= 2 * FILE_MAX)
			len = content_file_size(&head);
		if (how & 1)
			resum_index(file, len, secret, how & 2);
		if (content_head_decode(file, len, secret, &head) == 0)
			try_file(&head, file, len);
	}
	free(file);
	return 0;
}
