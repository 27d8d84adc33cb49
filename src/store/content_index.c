/* SPDX-License-Identifier: MIT */
/*
 * The format of a content index, and asking one; content_index_build.c makes it.
 *
 * The filter is the split block Bloom filter of Parquet, Impala and others: eight bits in one block
 * of 32 bytes, so that a question touches one line of the processor's cache. Fingerprint filters
 * need a bit or two less, but have to be built in memory as a whole and may fail to be; this one is
 * written from the first block to the last while the sorted entries go by, because the block comes
 * from the bits by which they are sorted. At 12 bits per entry about 0.6 % of what is absent passes.
 *
 * Everything in struct content_index but `damaged` never changes, so there are no locks.
 */
#include "store/content_index.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/mutation.h"
#include "base/sizes.h"

#define PAGE sizeof(struct gf_disk_index_page)

/* ---- names ---- */

void content_path(char path[CONTENT_PATH_MAX], uint64_t golden, enum content_file file)
{
	static const char *const suffix[] = {"", ".tmp", ".runs.tmp"};

	snprintf(path, CONTENT_PATH_MAX, "index/%" PRIu64 "%s", golden, suffix[file]);
}

uint64_t content_index_name(const char *name, bool *unfinished)
{
	uint64_t id = 0;
	char *end = (char *)name;

	if (*name >= '1' && *name <= '9')
		id = strtoull(name, &end, 10);
	*unfinished = strcmp(end, ".tmp") == 0 || strcmp(end, ".runs.tmp") == 0;
	return *end == '\0' || *unfinished ? id : 0;
}

/* ---- the header ---- */

static uint64_t blocks_of(const struct content_head *head)
{
	return head->print.size / GF_BLOCK_SIZE;
}

void content_head_count(struct content_head *head, uint64_t count)
{
	const uint64_t block_bits = CONTENT_FILTER_BLOCK * 8;

	head->count = count;
	head->pages = round_up(count, GF_INDEX_PAGE_ENTRIES) / GF_INDEX_PAGE_ENTRIES;
	head->filter_blocks = round_up(count * GF_INDEX_FILTER_BITS, block_bits) / block_bits;
}

uint64_t content_filter_offset(const struct content_head *head)
{
	return (1 + head->pages) * PAGE;
}

uint64_t content_firsts_offset(const struct content_head *head)
{
	return content_filter_offset(head) + head->filter_blocks * CONTENT_FILTER_BLOCK;
}

uint64_t content_file_size(const struct content_head *head)
{
	return content_firsts_offset(head) + head->pages * sizeof(uint64_t);
}

static uint64_t key_of(const struct gf_disk_index *disk, const uint8_t *secret)
{
	return hash_content(secret, disk, offsetof(struct gf_disk_index, key));
}

void content_head_encode(const struct content_head *head, const uint8_t *secret,
	struct gf_disk_index *disk)
{
	*disk = (struct gf_disk_index){
		.version = 1,
		.golden = head->golden,
		.size = head->print.size,
		.mtime_ns = head->print.mtime_ns,
		.sample = head->print.sample,
		.count = head->count,
		.pages = head->pages,
		.filter_blocks = head->filter_blocks,
		.filter_sum = head->filter_sum,
		.firsts_sum = head->firsts_sum,
	};
	memcpy(disk->magic, GF_INDEX_MAGIC, sizeof(disk->magic));
	disk->key = key_of(disk, secret);
	disk->sum = hash_struct(disk, offsetof(struct gf_disk_index, sum));
}

int content_head_decode(const void *buf, size_t len, const uint8_t *secret,
	struct content_head *head)
{
	struct content_head counts = {0};
	struct gf_disk_index disk;

	if (len < sizeof(disk))
		return -EUCLEAN;
	memcpy(&disk, buf, sizeof(disk));
	if (memcmp(disk.magic, GF_INDEX_MAGIC, sizeof(disk.magic)) != 0 || disk.version != 1 ||
		disk.sum != hash_struct(&disk, offsetof(struct gf_disk_index, sum)) ||
		disk.key != key_of(&disk, secret))
		return -EUCLEAN;
	if (disk.size > GF_MAX_SIZE || disk.count > disk.size / GF_BLOCK_SIZE)
		return -EUCLEAN;
	content_head_count(&counts, disk.count);
	if (disk.pages != counts.pages || disk.filter_blocks != counts.filter_blocks)
		return -EUCLEAN;
	*head = (struct content_head){
		.golden = disk.golden,
		.print = {.size = disk.size, .mtime_ns = disk.mtime_ns, .sample = disk.sample},
		.count = disk.count,
		.pages = disk.pages,
		.filter_blocks = disk.filter_blocks,
		.filter_sum = disk.filter_sum,
		.firsts_sum = disk.firsts_sum,
	};
	return 0;
}

/* ---- pages ---- */

void content_page_encode(const struct content_entry *entries, unsigned count, uint64_t number,
	struct gf_disk_index_page *page)
{
	memset(page, 0, sizeof(*page));
	for (unsigned i = 0; i < count; i++) {
		page->entries[i].hash = entries[i].hash;
		page->entries[i].block = (uint32_t)entries[i].block;
	}
	page->number = (uint32_t)number;
	page->count = count;
	page->sum = hash_struct(page, offsetof(struct gf_disk_index_page, sum));
}

int content_page_decode(const void *buf, const struct content_head *head, uint64_t number,
	struct content_entry entries[GF_INDEX_PAGE_ENTRIES])
{
	const uint64_t before = number * GF_INDEX_PAGE_ENTRIES;
	struct gf_disk_index_page page;
	unsigned count;

	memcpy(&page, buf, sizeof(page));
	if (number >= head->pages || page.number != number ||
		page.sum != hash_struct(&page, offsetof(struct gf_disk_index_page, sum)))
		return -EUCLEAN;
	count = (unsigned)min_u64(GF_INDEX_PAGE_ENTRIES, head->count - before);
	if (page.count != count)
		return -EUCLEAN;
	for (unsigned i = 0; i < count; i++) {
		entries[i].hash = page.entries[i].hash;
		entries[i].block = page.entries[i].block;
		if (entries[i].block >= blocks_of(head) ||
			(i && entries[i].hash <= entries[i - 1].hash))
			return -EUCLEAN;
	}
	return (int)count;
}

/* ---- the filter ---- */

static const uint32_t salts[GF_INDEX_FILTER_WORDS] = GF_INDEX_FILTER_SALTS;

uint64_t content_filter_block(uint64_t hash, uint64_t blocks)
{
	return (hash >> 32) * blocks >> 32;
}

void content_filter_set(uint32_t block[GF_INDEX_FILTER_WORDS], uint64_t hash)
{
	for (unsigned i = 0; i < GF_INDEX_FILTER_WORDS; i++)
		block[i] |= 1u << (((uint32_t)hash * salts[i]) >> 27);
}

bool content_filter_has(const uint32_t block[GF_INDEX_FILTER_WORDS], uint64_t hash)
{
	uint32_t missing = 0;

	for (unsigned i = 0; i < GF_INDEX_FILTER_WORDS; i++)
		missing |= ~block[i] & 1u << (((uint32_t)hash * salts[i]) >> 27);
	return missing == 0;
}

/* ---- an open index ---- */

struct content_index {
	struct io *io;
	int fd;
	struct content_head head;
	uint32_t *filter; /* head.filter_blocks * GF_INDEX_FILTER_WORDS */
	uint64_t *firsts; /* head.pages */
	atomic_bool damaged;
};

static int read_head(struct content_index *index, const uint8_t *secret, uint64_t golden,
	const struct pin_print *print)
{
	struct gf_disk_index disk;
	struct io_stat st;
	int r = index->io->ops->stat(index->io, index->fd, &st);

	if (!r)
		r = io_pread_full(index->io, index->fd, &disk, sizeof(disk), 0);
	if (!r)
		r = content_head_decode(&disk, sizeof(disk), secret, &index->head);
	if (r)
		return r;
	if (index->head.golden != golden || index->head.print.size != print->size ||
		index->head.print.mtime_ns != print->mtime_ns ||
		index->head.print.sample != print->sample ||
		st.size != content_file_size(&index->head))
		return -EUCLEAN;
	return 0;
}

/* A part of the file that is held in memory; aligned to the processor's cache. */
static int read_part(struct content_index *index, uint64_t off, uint64_t len, uint64_t sum,
	void **part)
{
	int r;

	*part = aligned_alloc(64, round_up(len + 1, 64));
	if (!*part)
		return -ENOMEM;
	r = io_pread_full(index->io, index->fd, *part, len, off);
	if (r)
		return r;
	return hash_struct(*part, len) == sum ? 0 : -EUCLEAN;
}

static int read_memory(struct content_index *index)
{
	const struct content_head *head = &index->head;
	int r = read_part(index, content_filter_offset(head),
		head->filter_blocks * CONTENT_FILTER_BLOCK, head->filter_sum,
		(void **)&index->filter);

	if (!r)
		r = read_part(index, content_firsts_offset(head), head->pages * sizeof(uint64_t),
			head->firsts_sum, (void **)&index->firsts);
	for (uint64_t i = 1; !r && i < head->pages; i++)
		if (index->firsts[i] <= index->firsts[i - 1])
			r = -EUCLEAN;
	return r;
}

int content_index_open(struct content_index **out, struct io *io, const uint8_t *secret,
	uint64_t golden, const struct pin_print *print)
{
	struct content_index *index = calloc(1, sizeof(*index));
	char path[CONTENT_PATH_MAX];
	int r;

	if (!index)
		return -ENOMEM;
	index->io = io;
	content_path(path, golden, CONTENT_FILE);
	index->fd = io->ops->open(io, path, O_RDONLY);
	r = index->fd < 0 ? index->fd : read_head(index, secret, golden, print);
	if (!r)
		r = read_memory(index);
	if (r) {
		content_index_free(index);
		return r;
	}
	*out = index;
	return 0;
}

void content_index_free(struct content_index *index)
{
	if (!index)
		return;
	if (index->fd >= 0)
		index->io->ops->close(index->io, index->fd);
	free(index->filter);
	free(index->firsts);
	free(index);
}

/* The page that would hold the hash; false: it is less than all. */
static bool find_page(const struct content_index *index, uint64_t hash, uint64_t *number)
{
	uint64_t low = 0, high = index->head.pages;

	/* All pages before low begin with no more than hash, and those from high on with more. */
	while (low < high) {
		uint64_t middle = low + (high - low) / 2;

		if (index->firsts[middle] <= hash)
			low = middle + 1;
		else
			high = middle;
	}
	*number = low - 1;
	return low > 0;
}

/* Reads a page. Returns its count of entries, -EUCLEAN, or another -errno. */
static int read_page(struct content_index *index, uint64_t number,
	struct content_entry entries[GF_INDEX_PAGE_ENTRIES])
{
	struct gf_disk_index_page page;
	int n = io_pread_full(index->io, index->fd, &page, sizeof(page), (1 + number) * PAGE);

	if (!n)
		n = content_page_decode(&page, &index->head, number, entries);
	/* A page of another index is not taken for this one's, nor one that runs into the next. */
	if (n > 0 && (entries[0].hash != index->firsts[number] ||
			     (number + 1 < index->head.pages &&
				     entries[n - 1].hash >= index->firsts[number + 1])))
		n = -EUCLEAN;
	if (n == -EUCLEAN && !atomic_exchange(&index->damaged, true))
		log_warning("the content index of golden image %" PRIu64
			    " is damaged: what it should find is stored once more",
			index->head.golden);
	return n;
}

void content_index_expect(const struct content_index *index, const struct hash128 *hash)
{
	__builtin_prefetch(index->filter + GF_INDEX_FILTER_WORDS * content_filter_block(hash->high,
					   index->head.filter_blocks));
}

int content_index_lookup(struct content_index *index, const struct hash128 *hash, uint64_t *block)
{
	struct content_entry entries[GF_INDEX_PAGE_ENTRIES];
	const uint64_t key = hash->high;
	uint64_t place, number;
	int low = 0, high;

	if (!index->head.count)
		return 0;
	place = content_filter_block(key, index->head.filter_blocks);
	if (!content_filter_has(index->filter + place * GF_INDEX_FILTER_WORDS, key) ||
		!find_page(index, key, &number))
		return 0;
	high = read_page(index, number, entries);
	if (high < 0)
		return high == -EUCLEAN ? 0 : high;
	while (low < high) {
		int middle = low + (high - low) / 2;

		if (entries[middle].hash == key) {
			*block = entries[middle].block;
			return 1;
		}
		if (entries[middle].hash < key)
			low = middle + 1;
		else
			high = middle;
	}
	return 0;
}

bool content_index_is_damaged(const struct content_index *index)
{
	return atomic_load_explicit(&index->damaged, memory_order_relaxed);
}

uint64_t content_index_count(const struct content_index *index)
{
	return index->head.count;
}

uint64_t content_index_memory(const struct content_index *index)
{
	return sizeof(*index) + index->head.filter_blocks * CONTENT_FILTER_BLOCK +
	       index->head.pages * sizeof(uint64_t);
}

int content_index_verify(struct content_index *index)
{
	struct content_entry entries[GF_INDEX_PAGE_ENTRIES];

	for (uint64_t i = 0; i < index->head.pages; i++) {
		int n = read_page(index, i, entries);

		if (n < 0)
			return n;
	}
	return 0;
}

/* ---- removing ---- */

static int remove_file(struct io *io, uint64_t golden, enum content_file file)
{
	char path[CONTENT_PATH_MAX];
	int r;

	content_path(path, golden, file);
	r = SITE("index: remove its files", io->ops->unlink(io, path));
	return r == -ENOENT ? 0 : r;
}

void content_index_drop_unfinished(struct io *io, uint64_t golden)
{
	remove_file(io, golden, CONTENT_FILE_TMP);
	remove_file(io, golden, CONTENT_FILE_RUNS);
}

int content_index_remove(struct io *io, uint64_t golden)
{
	content_index_drop_unfinished(io, golden);
	return remove_file(io, golden, CONTENT_FILE);
}
