/* SPDX-License-Identifier: MIT */
/*
 * The content index of a golden image: it finds every distinct block at its first place, and with
 * damage, errors and other images' files it finds less, and never what is not there.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../crash/rng.h"
#include "base/log.h"
#include "base/sizes.h"
#include "store/content_index.h"
#include "store_dir.h"

#define ID 7
#define BLOCK 4096u
#define PAGE 4096u

/* ---- a table of I/O calls that counts them, fails one, and notes those whose order matters ---- */

static struct {
	const struct io_ops *real;
	struct io_ops ops;
	unsigned calls; /* that may fail */
	unsigned fail;	/* the number of the one that does, 0: none */
	unsigned preads;
	char order[1000];
} table;

static int next_call(void)
{
	return ++table.calls == table.fail ? -EIO : 0;
}

static int note_call(const char *what, const char *path)
{
	size_t n = strlen(table.order);

	snprintf(table.order + n, sizeof(table.order) - n, "%s%s%s|", what, *path ? " " : "", path);
	return next_call();
}

static int table_open(struct io *io, const char *path, int flags)
{
	int r = next_call();

	return r ? r : table.real->open(io, path, flags);
}

static ssize_t table_pread(struct io *io, int fd, void *buf, size_t len, uint64_t off)
{
	int r = next_call();

	table.preads++;
	return r ? r : table.real->pread(io, fd, buf, len, off);
}

static int table_pwritev(struct io *io, int fd, const struct iovec *iov, int count, uint64_t off)
{
	int r = next_call();

	return r ? r : table.real->pwritev(io, fd, iov, count, off);
}

static int table_fdatasync(struct io *io, int fd)
{
	return note_call("sync", "");
}

static int table_syncdir(struct io *io, const char *path)
{
	return note_call("syncdir", path);
}

static int table_rename(struct io *io, const char *from, const char *to)
{
	int r = note_call("rename", from);

	return r ? r : table.real->rename(io, from, to);
}

static int table_mkdir(struct io *io, const char *path)
{
	int r = note_call("mkdir", path);

	return r ? r : table.real->mkdir(io, path);
}

static int table_stat(struct io *io, int fd, struct io_stat *st)
{
	int r = next_call();

	return r ? r : table.real->stat(io, fd, st);
}

static void table_reset(unsigned fail)
{
	table.calls = table.preads = 0;
	table.fail = fail;
	table.order[0] = '\0';
}

static int setup(void **state)
{
	struct store_dir *dir = calloc(1, sizeof(*dir));

	store_dir_init(dir);
	table.real = dir->io->ops;
	table.ops = *table.real;
	table.ops.open = table_open;
	table.ops.pread = table_pread;
	table.ops.pwritev = table_pwritev;
	table.ops.fdatasync = table_fdatasync;
	table.ops.syncdir = table_syncdir;
	table.ops.rename = table_rename;
	table.ops.mkdir = table_mkdir;
	table.ops.stat = table_stat;
	dir->io->ops = &table.ops;
	table_reset(0);
	*state = dir;
	return 0;
}

static int teardown(void **state)
{
	struct store_dir *dir = *state;

	dir->io->ops = table.real;
	store_dir_release(dir);
	free(dir);
	return 0;
}

/* ---- images and their indexes ---- */

static uint8_t secret[HASH_SECRET_LEN];

/* blocks of random bytes, no two alike */
static uint8_t *random_blocks(uint64_t count, uint64_t seed)
{
	uint64_t *words = malloc(count * BLOCK + 1);
	struct rng rng;

	rng_seed(&rng, seed);
	for (uint64_t i = 0; i < count * BLOCK / 8; i++)
		words[i] = rng_next(&rng);
	return (uint8_t *)words;
}

static struct pin_print print_of(uint64_t size)
{
	return (struct pin_print){.size = size, .mtime_ns = -5, .sample = 99};
}

static int build(struct store_dir *dir, const void *bytes, uint64_t size, size_t run_entries)
{
	const struct pin_print print = print_of(size);
	struct image *image;
	int r;

	assert_int_equal(image_memory_new(&image, bytes, size), 0);
	r = content_index_build(&(struct content_index_source){.io = dir->io, .secret = secret,
		.golden = ID, .print = &print, .image = image, .fd = -1,
		.run_entries = run_entries});
	image_free(image);
	return r;
}

static int try_open(struct store_dir *dir, uint64_t size, struct content_index **index)
{
	const struct pin_print print = print_of(size);

	return content_index_open(index, dir->io, secret, ID, &print);
}

static struct content_index *open_index(struct store_dir *dir, uint64_t size)
{
	struct content_index *index = NULL;

	assert_int_equal(try_open(dir, size, &index), 0);
	return index;
}

static struct content_index *build_and_open(struct store_dir *dir, const void *bytes, uint64_t size)
{
	assert_int_equal(build(dir, bytes, size, 0), 0);
	return open_index(dir, size);
}

/* The place of a block's content, -1: it is not found. */
static int64_t find(struct content_index *index, const void *block)
{
	const struct hash128 hash = hash_block128(secret, block);
	uint64_t place = 0;
	int r = content_index_lookup(index, &hash, &place);

	assert_true(r == 0 || r == 1);
	return r ? (int64_t)place : -1;
}

static void assert_finds_all(struct content_index *index, const uint8_t *bytes, uint64_t blocks)
{
	for (uint64_t i = 0; i < blocks; i++)
		assert_int_equal(find(index, bytes + i * BLOCK), (int64_t)i);
}

static int count_name(void *arg, const char *name)
{
	++*(unsigned *)arg;
	return 0;
}

/* Files in index/, and whether that of ID is one of them. */
static void assert_files(struct store_dir *dir, unsigned files, bool has_index)
{
	unsigned found = 0;
	int r = dir->io->ops->list(dir->io, "index", count_name, &found);

	assert_true(r == 0 || (r == -ENOENT && files == 0));
	assert_int_equal(found, files);
	assert_int_equal(faccessat(dir->scratch.dirfd, "index/7", F_OK, 0), has_index ? 0 : -1);
}

static uint8_t *slurp(struct store_dir *dir, const char *path, size_t *len)
{
	int fd = scratch_open(&dir->scratch, path, O_RDONLY);
	uint8_t *bytes;
	struct stat st;

	assert_int_equal(fstat(fd, &st), 0);
	bytes = malloc(st.st_size + 1);
	assert_int_equal(pread(fd, bytes, st.st_size, 0), st.st_size);
	close(fd);
	*len = st.st_size;
	return bytes;
}

static void spit(struct store_dir *dir, const char *path, const void *bytes, size_t len)
{
	int fd = scratch_open(&dir->scratch, path, O_RDWR | O_CREAT | O_TRUNC);

	assert_int_equal(pwrite(fd, bytes, len, 0), (ssize_t)len);
	close(fd);
}

/* ---- what it finds ---- */

static void every_block_is_found(void **state)
{
	const uint64_t blocks = 1500;
	uint8_t *bytes = random_blocks(blocks, 1);
	struct content_index *index = build_and_open(*state, bytes, blocks * BLOCK);

	assert_int_equal(content_index_count(index), blocks);
	assert_finds_all(index, bytes, blocks);
	assert_int_equal(content_index_verify(index), 0);
	assert_false(content_index_is_damaged(index));
	content_index_free(index);
	assert_files(*state, 1, true);
	free(bytes);
}

/* The borders of pages, and what is less or more than all. */
static void pages_are_full_to_the_last_entry(void **state)
{
	static const uint64_t counts[] = {1, 2, 339, 340, 341, 679, 680, 681};
	uint8_t *bytes = random_blocks(700, 2);

	for (size_t i = 0; i < ARRAY_SIZE(counts); i++) {
		struct content_index *index = build_and_open(*state, bytes, counts[i] * BLOCK);
		uint64_t place;

		assert_finds_all(index, bytes, counts[i]);
		for (uint64_t k = counts[i]; k < 700; k++)
			assert_int_equal(find(index, bytes + k * BLOCK), -1);
		for (int k = 0; k < 2; k++)
			assert_int_equal(content_index_lookup(index,
						 &(struct hash128){.high = k ? UINT64_MAX : 0},
						 &place), 0);
		content_index_free(index);
	}
	free(bytes);
}

static void the_first_place_counts(void **state)
{
	const uint64_t blocks = 900;
	uint8_t *bytes = random_blocks(blocks, 3);

	for (uint64_t i = 300; i < 600; i++)
		memcpy(bytes + i * BLOCK, bytes + (i - 300) * BLOCK, BLOCK);
	for (uint64_t i = 600; i < blocks; i++)
		memset(bytes + i * BLOCK, 0xff, BLOCK);
	for (size_t run = 0; run < 400; run = run * 2 + 7) {
		struct content_index *index;

		assert_int_equal(build(*state, bytes, blocks * BLOCK, run), 0);
		index = open_index(*state, blocks * BLOCK);
		assert_int_equal(content_index_count(index), 301);
		assert_finds_all(index, bytes, 300);
		assert_int_equal(find(index, bytes + 700 * BLOCK), 600);
		content_index_free(index);
	}
	free(bytes);
}

static void zeros_and_a_partial_block_are_left_out(void **state)
{
	const uint64_t size = 9 * BLOCK + 100;
	static const uint8_t zeros[BLOCK];
	uint8_t *bytes = random_blocks(10, 4), last[BLOCK] = {0};
	struct content_index *index;

	memset(bytes + 2 * BLOCK, 0, 3 * BLOCK);
	memcpy(last, bytes + 9 * BLOCK, 100);
	index = build_and_open(*state, bytes, size);
	assert_int_equal(content_index_count(index), 6);
	assert_int_equal(find(index, zeros), -1);
	assert_int_equal(find(index, last), -1);
	assert_int_equal(find(index, bytes + 9 * BLOCK), -1);
	assert_int_equal(find(index, bytes + 8 * BLOCK), 8);
	content_index_free(index);
	free(bytes);
}

static void small_images_have_small_indexes(void **state)
{
	static const uint64_t sizes[] = {0, 1, BLOCK - 1, BLOCK, BLOCK + 1};
	static const uint8_t zeros[2 * BLOCK];
	uint8_t *bytes = random_blocks(2, 5);

	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		struct content_index *index = build_and_open(*state, bytes, sizes[i]);

		assert_int_equal(content_index_count(index), sizes[i] / BLOCK);
		assert_int_equal(find(index, bytes), sizes[i] >= BLOCK ? 0 : -1);
		content_index_free(index);
		index = build_and_open(*state, zeros, sizes[i]);
		assert_int_equal(content_index_count(index), 0);
		assert_int_equal(find(index, bytes), -1);
		content_index_free(index);
	}
	free(bytes);
}

/* However many runs there are, it is the same file. */
static void many_runs_make_the_same_file(void **state)
{
	static const size_t runs[] = {1, 2, 3, 16, 100, 1000, 2999, 3000, 5000};
	const uint64_t blocks = 3000;
	uint8_t *bytes = random_blocks(blocks, 6), *want, *is;
	size_t want_len, len;

	for (uint64_t i = 0; i < 500; i++)
		memcpy(bytes + (blocks - 1 - i) * BLOCK, bytes + i * 3 * BLOCK, BLOCK);
	assert_int_equal(build(*state, bytes, blocks * BLOCK, 0), 0);
	want = slurp(*state, "index/7", &want_len);
	for (size_t i = 0; i < ARRAY_SIZE(runs); i++) {
		assert_int_equal(build(*state, bytes, blocks * BLOCK, runs[i]), 0);
		is = slurp(*state, "index/7", &len);
		assert_int_equal(len, want_len);
		assert_memory_equal(is, want, len);
		assert_files(*state, 1, true);
		free(is);
	}
	free(want);
	free(bytes);
}

/* Read past the page cache by its descriptor, it is the same file, too; holes are not read. */
static void a_raw_image_makes_the_same_file(void **state)
{
	struct store_dir *dir = *state;
	const uint64_t blocks = 2000;
	uint8_t *bytes = random_blocks(blocks, 7), *want, *is;
	const struct pin_print print = print_of(blocks * BLOCK + 5);
	size_t want_len, len;

	bytes = realloc(bytes, print.size);
	memset(bytes + 10 * BLOCK, 0, 700 * BLOCK);
	memset(bytes + blocks * BLOCK, 1, 5);
	assert_int_equal(build(dir, bytes, print.size, 0), 0);
	want = slurp(dir, "index/7", &want_len);
	for (int by_fd = 0; by_fd < 2; by_fd++) {
		int fd = scratch_open(&dir->scratch, "image", O_RDWR | O_CREAT | O_TRUNC);
		struct image *image;

		assert_int_equal(pwrite(fd, bytes, 10 * BLOCK, 0), 10 * BLOCK);
		assert_true(pwrite(fd, bytes + 710 * BLOCK, print.size - 710 * BLOCK,
				    710 * BLOCK) > 0);
		close(fd);
		fd = scratch_open(&dir->scratch, "image", O_RDONLY);
		assert_int_equal(image_raw_new(&image, fd), 0);
		assert_int_equal(content_index_build(&(struct content_index_source){.io = dir->io,
			.secret = secret, .golden = ID, .print = &print, .image = image,
			.fd = by_fd ? fd : -1, .run_entries = 300}), 0);
		image_free(image);
		is = slurp(dir, "index/7", &len);
		assert_int_equal(len, want_len);
		assert_memory_equal(is, want, len);
		free(is);
	}
	free(want);
	free(bytes);
}

static void what_is_absent_costs_no_reading(void **state)
{
	const uint64_t blocks = 4000, asked = 100000;
	uint8_t *bytes = random_blocks(blocks, 8);
	struct content_index *index = build_and_open(*state, bytes, blocks * BLOCK);
	struct rng rng;

	table_reset(0);
	rng_seed(&rng, seed_from_environment(9));
	for (uint64_t i = 0; i < asked; i++) {
		struct hash128 hash = {.low = rng_next(&rng), .high = rng_next(&rng)};
		uint64_t place;

		assert_int_equal(content_index_lookup(index, &hash, &place), 0);
	}
	/* Expected are 0.6 %. */
	assert_true(table.preads < asked / 80);
	table_reset(0);
	assert_finds_all(index, bytes, blocks);
	assert_int_equal(table.preads, blocks);
	content_index_free(index);
	free(bytes);
}

static void bounds_of_disk_and_memory_hold(void **state)
{
	static const uint64_t counts[] = {1, 100, 340, 1000, 5000};
	uint8_t *bytes = random_blocks(5000, 10);

	for (size_t i = 0; i < ARRAY_SIZE(counts); i++) {
		struct content_index *index = build_and_open(*state, bytes, counts[i] * BLOCK);
		size_t len;

		free(slurp(*state, "index/7", &len));
		/* Beside the header, and what is rounded up. */
		assert_true(len <= 16 * counts[i] + 2 * PAGE + 64);
		assert_true(content_index_memory(index) <= 2 * counts[i] + 512);
		content_index_free(index);
	}
	/* With many entries, without exceptions. */
	for (uint64_t count = 5000; count < UINT64_C(1) << 32; count *= 3) {
		struct content_head head;

		content_head_count(&head, count);
		assert_true(content_file_size(&head) <= 16 * count);
		assert_true(head.filter_blocks * 32 + head.pages * 8 <= 2 * count);
	}
	free(bytes);
}

/* ---- damage ---- */

static void damage_of_what_is_held_in_memory_refuses_it(void **state)
{
	const uint64_t blocks = 700, size = blocks * BLOCK;
	uint8_t *bytes = random_blocks(blocks, 11);
	struct content_index *index = NULL;
	size_t len;

	assert_int_equal(build(*state, bytes, size, 0), 0);
	free(slurp(*state, "index/7", &len));
	for (uint64_t byte = 0; byte < len; byte++) {
		if (byte >= sizeof(struct gf_disk_index) && byte < 4 * PAGE)
			continue;
		store_dir_flip(*state, "index/7", byte * 8 + byte % 8);
		assert_int_equal(try_open(*state, size, &index), -EUCLEAN);
		store_dir_flip(*state, "index/7", byte * 8 + byte % 8);
	}
	/* Between header and pages nothing counts. */
	store_dir_flip(*state, "index/7", 8 * sizeof(struct gf_disk_index));
	index = open_index(*state, size);
	assert_finds_all(index, bytes, blocks);
	content_index_free(index);
	free(bytes);
}

static void a_damaged_page_finds_nothing(void **state)
{
	const uint64_t blocks = 700, size = blocks * BLOCK;
	uint8_t *bytes = random_blocks(blocks, 12);

	assert_int_equal(build(*state, bytes, size, 0), 0);
	for (uint64_t byte = PAGE; byte < 4 * PAGE; byte += 61) {
		struct content_index *index;
		unsigned found = 0;

		store_dir_flip(*state, "index/7", byte * 8 + byte % 8);
		index = open_index(*state, size);
		for (uint64_t i = 0; i < blocks; i++) {
			int64_t place = find(index, bytes + i * BLOCK);

			assert_true(place == -1 || place == (int64_t)i);
			found += place >= 0;
		}
		/* All but those of one page: the last one has 20. */
		assert_int_equal(found, byte < 3 * PAGE ? blocks - 340 : blocks - 20);
		assert_true(content_index_is_damaged(index));
		assert_int_equal(content_index_verify(index), -EUCLEAN);
		content_index_free(index);
		store_dir_flip(*state, "index/7", byte * 8 + byte % 8);
	}
	free(bytes);
}

static void pages_of_others_are_not_taken(void **state)
{
	const uint64_t blocks = 700, size = blocks * BLOCK;
	uint8_t *bytes = random_blocks(blocks, 13), *others = random_blocks(blocks, 14);
	struct content_index *index;
	uint8_t *one, *two;
	size_t len, other_len;

	assert_int_equal(build(*state, others, size, 0), 0);
	two = slurp(*state, "index/7", &other_len);
	assert_int_equal(build(*state, bytes, size, 0), 0);
	one = slurp(*state, "index/7", &len);
	assert_int_equal(len, other_len);
	for (int place = 1; place < 4; place++) {
		/* The same page of another image, then another page of this one. */
		for (int own = 0; own < 2; own++) {
			uint8_t *mixed = malloc(len);

			memcpy(mixed, one, len);
			memcpy(mixed + place * PAGE,
				own ? one + (place % 3 + 1) * PAGE : two + place * PAGE, PAGE);
			spit(*state, "index/7", mixed, len);
			index = open_index(*state, size);
			for (uint64_t i = 0; i < blocks; i++) {
				int64_t found = find(index, bytes + i * BLOCK);

				assert_true(found == -1 || found == (int64_t)i);
			}
			assert_true(content_index_is_damaged(index));
			content_index_free(index);
			free(mixed);
		}
	}
	free(one);
	free(two);
	free(bytes);
	free(others);
}

static void a_file_of_another_length_is_refused(void **state)
{
	const uint64_t blocks = 400, size = blocks * BLOCK;
	uint8_t *bytes = random_blocks(blocks, 15), *file;
	struct content_index *index = NULL;
	size_t len;

	assert_int_equal(build(*state, bytes, size, 0), 0);
	file = slurp(*state, "index/7", &len);
	file[len] = 0;
	spit(*state, "index/7", file, len + 1);
	assert_int_equal(try_open(*state, size, &index), -EUCLEAN);
	for (size_t cut = 0; cut < len; cut += cut < 200 ? 1 : 97) {
		spit(*state, "index/7", file, cut);
		assert_int_equal(try_open(*state, size, &index), -EUCLEAN);
	}
	unlinkat(((struct store_dir *)*state)->scratch.dirfd, "index/7", 0);
	assert_int_equal(try_open(*state, size, &index), -ENOENT);
	free(file);
	free(bytes);
}

static void what_is_of_others_is_refused(void **state)
{
	struct store_dir *dir = *state;
	const uint64_t size = 20 * BLOCK;
	uint8_t *bytes = random_blocks(20, 16), other[HASH_SECRET_LEN];
	struct pin_print print = print_of(size);
	struct content_index *index = NULL;

	assert_int_equal(build(dir, bytes, size, 0), 0);
	for (size_t i = 0; i < sizeof(other); i++)
		other[i] = secret[i] ^ 4;
	assert_int_equal(content_index_open(&index, dir->io, other, ID, &print), -EUCLEAN);
	print.mtime_ns++;
	assert_int_equal(content_index_open(&index, dir->io, secret, ID, &print), -EUCLEAN);
	print = print_of(size);
	print.sample++;
	assert_int_equal(content_index_open(&index, dir->io, secret, ID, &print), -EUCLEAN);
	print = print_of(size + 1);
	assert_int_equal(content_index_open(&index, dir->io, secret, ID, &print), -EUCLEAN);
	print = print_of(size);
	assert_int_equal(renameat(dir->scratch.dirfd, "index/7", dir->scratch.dirfd, "index/8"), 0);
	assert_int_equal(content_index_open(&index, dir->io, secret, 8, &print), -EUCLEAN);
	free(bytes);
}

/* Whole, but nothing that a build writes. */
static void heads_and_pages_are_decoded_with_care(void **state)
{
	struct content_head good = {.golden = 1, .print = {.size = 400 * BLOCK}}, head;
	struct content_entry entries[GF_INDEX_PAGE_ENTRIES];
	struct gf_disk_index disk, bad;
	struct gf_disk_index_page page;

	content_head_count(&good, 341);
	content_head_encode(&good, secret, &disk);
	assert_int_equal(content_head_decode(&disk, sizeof(disk), secret, &head), 0);
	assert_int_equal(content_head_decode(&disk, sizeof(disk) - 1, secret, &head), -EUCLEAN);
#define TRY(change) \
	do { \
		bad = disk; \
		change; \
		bad.key = hash_content(secret, &bad, offsetof(struct gf_disk_index, key)); \
		bad.sum = hash_struct(&bad, offsetof(struct gf_disk_index, sum)); \
		assert_int_equal(content_head_decode(&bad, sizeof(bad), secret, &head), -EUCLEAN); \
	} while (0)
	TRY(bad.version = 2);
	TRY(bad.magic[7] = 'Y');
	TRY(bad.size = GF_MAX_SIZE + 1);
	TRY(bad.size = 340 * BLOCK);
	TRY(bad.count = UINT64_MAX);
	TRY(bad.count = 340);
	TRY(bad.pages = 3);
	TRY(bad.filter_blocks++);
#undef TRY
	for (int i = 0; i < (int)GF_INDEX_PAGE_ENTRIES; i++)
		entries[i] = (struct content_entry){.hash = i * 10, .block = i};
	content_page_encode(entries, 340, 0, &page);
	assert_int_equal(content_page_decode(&page, &good, 0, entries), 340);
	assert_int_equal(content_page_decode(&page, &good, 1, entries), -EUCLEAN);
	entries[7].hash = entries[6].hash;
	content_page_encode(entries, 340, 0, &page);
	assert_int_equal(content_page_decode(&page, &good, 0, entries), -EUCLEAN);
	entries[7] = (struct content_entry){.hash = 70, .block = 400};
	content_page_encode(entries, 340, 0, &page);
	assert_int_equal(content_page_decode(&page, &good, 0, entries), -EUCLEAN);
	entries[7].block = 399;
	content_page_encode(entries, 339, 0, &page);
	assert_int_equal(content_page_decode(&page, &good, 0, entries), -EUCLEAN);
	content_page_encode(entries, 1, 1, &page);
	assert_int_equal(content_page_decode(&page, &good, 1, entries), 1);
	content_page_encode(entries, 2, 1, &page);
	assert_int_equal(content_page_decode(&page, &good, 1, entries), -EUCLEAN);
	content_page_encode(entries, 1, 2, &page);
	assert_int_equal(content_page_decode(&page, &good, 2, entries), -EUCLEAN);
}

/* ---- errors, and what is durable when ---- */

static void an_error_leaves_what_was_there(void **state)
{
	const uint64_t blocks = 600, size = blocks * BLOCK;
	uint8_t *old = random_blocks(blocks, 17), *bytes = random_blocks(blocks, 18);
	struct content_index *index = NULL;
	unsigned fail = 1;
	int r;

	/* Also the calls that make the folder. */
	for (;; fail++) {
		table_reset(fail);
		r = build(*state, bytes, size, 100);
		if (!r)
			break;
		assert_int_equal(r, -EIO);
		table_reset(0);
		unlinkat(((struct store_dir *)*state)->scratch.dirfd, "index/7", 0);
		assert_files(*state, 0, false);
	}
	assert_true(fail > 10);
	table_reset(0);
	assert_int_equal(build(*state, old, size, 0), 0);
	for (fail = 1;; fail++) {
		bool renamed;

		table_reset(fail);
		r = build(*state, bytes, size, 100);
		if (!r)
			break;
		assert_int_equal(r, -EIO);
		renamed = strstr(table.order, "syncdir");
		table_reset(0);
		assert_files(*state, 1, true);
		index = open_index(*state, size);
		assert_finds_all(index, renamed ? bytes : old, blocks);
		content_index_free(index);
	}
	free(old);
	free(bytes);
}

static void errors_while_asking_are_errors(void **state)
{
	const uint64_t size = 400 * BLOCK;
	uint8_t *bytes = random_blocks(400, 19);
	const struct hash128 hash = hash_block128(secret, bytes);
	struct content_index *index = NULL;
	uint64_t place;

	assert_int_equal(build(*state, bytes, size, 0), 0);
	for (unsigned fail = 1;; fail++) {
		int r;

		table_reset(fail);
		r = try_open(*state, size, &index);
		if (!r)
			break;
		assert_int_equal(r, -EIO);
	}
	table_reset(1);
	assert_int_equal(content_index_lookup(index, &hash, &place), -EIO);
	assert_false(content_index_is_damaged(index));
	assert_int_equal(content_index_lookup(index, &hash, &place), 1);
	content_index_free(index);
	free(bytes);
}

static void it_is_durable_before_it_has_its_name(void **state)
{
	uint8_t *bytes = random_blocks(400, 20);

	assert_int_equal(build(*state, bytes, 400 * BLOCK, 0), 0);
	assert_string_equal(table.order,
		"mkdir index|syncdir .|sync|rename index/7.tmp|syncdir index|");
	table_reset(0);
	assert_int_equal(build(*state, bytes, 400 * BLOCK, 100), 0);
	assert_string_equal(table.order, "sync|rename index/7.tmp|syncdir index|");
	free(bytes);
}

struct asked {
	uint64_t done, total;
	unsigned times, cancel_at;
};

static int note_progress(void *arg, uint64_t done, uint64_t total)
{
	struct asked *asked = arg;

	assert_true(done >= asked->done && done <= total);
	asked->done = done;
	asked->total = total;
	return ++asked->times == asked->cancel_at;
}

static void it_tells_how_far_it_is_and_can_be_stopped(void **state)
{
	struct store_dir *dir = *state;
	const uint64_t blocks = 1000;
	const struct pin_print print = print_of(blocks * BLOCK);
	uint8_t *bytes = random_blocks(blocks, 21);
	struct asked asked = {0};
	struct image *image;
	unsigned times;

	memset(bytes + 100 * BLOCK, 0, 200 * BLOCK);
	assert_int_equal(image_memory_new(&image, bytes, blocks * BLOCK), 0);
	for (times = 0; times == 0 || asked.cancel_at < times; times = max_u64(times, asked.times)) {
		const unsigned next = times ? asked.cancel_at + 1 : 0;
		int r;

		asked = (struct asked){.cancel_at = next};
		r = content_index_build(&(struct content_index_source){.io = dir->io,
			.secret = secret, .golden = ID, .print = &print, .image = image,
			.fd = -1, .run_entries = 200, .progress = note_progress, .arg = &asked});
		assert_int_equal(r, next ? -ECANCELED : 0);
		assert_int_equal(asked.total, 800 * BLOCK);
		if (!next)
			assert_int_equal(asked.done, asked.total);
		if (!next)
			assert_int_equal(content_index_remove(dir->io, ID), 0);
		assert_files(dir, 0, false);
	}
	assert_true(times >= 4);
	image_free(image);
	free(bytes);
}

static void removing_takes_all_of_it(void **state)
{
	struct store_dir *dir = *state;
	uint8_t *bytes = random_blocks(4, 22);
	bool unfinished;

	assert_int_equal(build(dir, bytes, 4 * BLOCK, 0), 0);
	spit(dir, "index/7.tmp", "x", 1);
	spit(dir, "index/7.runs.tmp", "x", 1);
	spit(dir, "index/70", "x", 1);
	/* What an interrupted build left does not keep the next one from its work. */
	assert_int_equal(build(dir, bytes, 4 * BLOCK, 2), 0);
	assert_files(dir, 2, true);
	spit(dir, "index/7.tmp", "x", 1);
	content_index_drop_unfinished(dir->io, ID);
	assert_files(dir, 2, true);
	spit(dir, "index/7.runs.tmp", "x", 1);
	assert_int_equal(content_index_remove(dir->io, ID), 0);
	assert_files(dir, 1, false);
	assert_int_equal(content_index_remove(dir->io, ID), 0);
	assert_int_equal(content_index_name("7", &unfinished), 7);
	assert_false(unfinished);
	assert_int_equal(content_index_name("12.runs.tmp", &unfinished), 12);
	assert_true(unfinished);
	assert_int_equal(content_index_name("12.tmp", &unfinished), 12);
	assert_true(unfinished);
	assert_int_equal(content_index_name("07", &unfinished), 0);
	assert_int_equal(content_index_name("7.x", &unfinished), 0);
	assert_int_equal(content_index_name(".tmp", &unfinished), 0);
	assert_int_equal(content_index_name("", &unfinished), 0);
	free(bytes);
}

static void an_image_of_another_size_is_refused(void **state)
{
	struct store_dir *dir = *state;
	const struct pin_print print = print_of(3 * BLOCK);
	uint8_t *bytes = random_blocks(4, 23);
	struct image *image;

	assert_int_equal(image_memory_new(&image, bytes, 4 * BLOCK), 0);
	assert_int_equal(content_index_build(&(struct content_index_source){.io = dir->io,
		.secret = secret, .golden = ID, .print = &print, .image = image, .fd = -1}),
		-ESTALE);
	image_free(image);
	free(bytes);
}

/* ---- threads ---- */

struct asker {
	struct content_index *index;
	const uint8_t *bytes;
	unsigned wrong;
};

static void *ask(void *arg)
{
	struct asker *asker = arg;

	for (uint64_t i = 0; i < 1000; i++) {
		const struct hash128 hash = hash_block128(secret, asker->bytes + i * BLOCK);
		uint64_t place;

		if (content_index_lookup(asker->index, &hash, &place) != 1 || place != i)
			asker->wrong++;
	}
	return NULL;
}

static void many_may_ask_at_once(void **state)
{
	uint8_t *bytes = random_blocks(1000, 24);
	struct content_index *index = build_and_open(*state, bytes, 1000 * BLOCK);
	struct asker askers[4];
	pthread_t threads[4];

	((struct store_dir *)*state)->io->ops = table.real; /* which does not count */
	for (int i = 0; i < 4; i++) {
		askers[i] = (struct asker){.index = index, .bytes = bytes};
		assert_int_equal(pthread_create(&threads[i], NULL, ask, &askers[i]), 0);
	}
	for (int i = 0; i < 4; i++) {
		pthread_join(threads[i], NULL);
		assert_int_equal(askers[i].wrong, 0);
	}
	content_index_free(index);
	free(bytes);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(every_block_is_found),
		TEST(pages_are_full_to_the_last_entry),
		TEST(the_first_place_counts),
		TEST(zeros_and_a_partial_block_are_left_out),
		TEST(small_images_have_small_indexes),
		TEST(many_runs_make_the_same_file),
		TEST(a_raw_image_makes_the_same_file),
		TEST(what_is_absent_costs_no_reading),
		TEST(bounds_of_disk_and_memory_hold),
		TEST(damage_of_what_is_held_in_memory_refuses_it),
		TEST(a_damaged_page_finds_nothing),
		TEST(pages_of_others_are_not_taken),
		TEST(a_file_of_another_length_is_refused),
		TEST(what_is_of_others_is_refused),
		TEST(heads_and_pages_are_decoded_with_care),
		TEST(an_error_leaves_what_was_there),
		TEST(errors_while_asking_are_errors),
		TEST(it_is_durable_before_it_has_its_name),
		TEST(it_tells_how_far_it_is_and_can_be_stopped),
		TEST(removing_takes_all_of_it),
		TEST(an_image_of_another_size_is_refused),
		TEST(many_may_ask_at_once),
	};
	struct rng rng;

	rng_seed(&rng, 1000);
	for (size_t i = 0; i < sizeof(secret); i++)
		secret[i] = (uint8_t)rng_next(&rng);
	if (log_open(LOG_TO_FILE, "/dev/null"))
		return 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
