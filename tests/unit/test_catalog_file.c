/* SPDX-License-Identifier: MIT */
/*
 * The two copies of the catalog: the newest whole one counts, the other is left alone, and who has
 * to fall back is told so.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../crash/rng.h"
#include "base/hash.h"
#include "base/log.h"
#include "goldfs/format.h"
#include "store/catalog_file.h"
#include "store_dir.h"

static int setup(void **state)
{
	struct store_dir *dir = calloc(1, sizeof(*dir));

	store_dir_init(dir);
	store_dir_skip_syncs(dir);
	*state = dir;
	return 0;
}

static int teardown(void **state)
{
	store_dir_release(*state);
	free(*state);
	return 0;
}

static struct catalog_head head_of(uint64_t generation)
{
	struct catalog_head head = {
		.generation = generation,
		.tail = {.pos = generation * 128, .seq = generation * 10, .prev = generation << 40},
		.epoch = generation + 1,
		.meta_seq = generation + 2,
		.next_ino = generation + 3,
		.next_layer = generation + 4,
		.next_golden = generation + 5,
	};

	memset(head.uuid, (int)(generation + 6), sizeof(head.uuid));
	return head;
}

/* Longer and shorter ones by turns. */
static size_t len_of(uint64_t generation)
{
	return generation % 4 < 2 ? 10000 + generation : generation;
}

static void write_generation(struct store_dir *dir, uint64_t generation)
{
	struct catalog_head head = head_of(generation);
	size_t len = len_of(generation);
	uint8_t *ops = malloc(len + 1);

	memset(ops, (int)generation, len);
	assert_int_equal(catalog_file_write(dir->io, &head, ops, len), 0);
	free(ops);
}

static void assert_heads(const struct catalog_head *a, const struct catalog_head *b)
{
	assert_true(a->generation == b->generation && a->epoch == b->epoch);
	assert_true(a->tail.pos == b->tail.pos && a->tail.seq == b->tail.seq);
	assert_true(a->tail.prev == b->tail.prev && a->meta_seq == b->meta_seq);
	assert_true(a->next_ino == b->next_ino && a->next_layer == b->next_layer);
	assert_true(a->next_golden == b->next_golden);
	assert_memory_equal(a->uuid, b->uuid, sizeof(a->uuid));
}

static void assert_reads(struct store_dir *dir, uint64_t generation, bool fallback)
{
	struct catalog_head head, want = head_of(generation);
	uint8_t *ops = NULL;
	bool fell = !fallback;
	size_t len;

	assert_int_equal(catalog_file_read(dir->io, &head, (void **)&ops, &len, &fell), 0);
	assert_heads(&head, &want);
	assert_int_equal(len, len_of(generation));
	for (size_t i = 0; i < len; i++)
		assert_int_equal(ops[i], (uint8_t)generation);
	assert_int_equal(fell, fallback);
	free(ops);
}

static void assert_unreadable(struct store_dir *dir)
{
	struct catalog_head head;
	void *ops;
	bool fallback;
	size_t len;

	assert_int_equal(catalog_file_read(dir->io, &head, &ops, &len, &fallback), -EUCLEAN);
}

static const char *copy_of(uint64_t generation)
{
	return generation % 2 ? "catalog.1" : "catalog.0";
}

static void cut(struct store_dir *dir, uint64_t generation, off_t size)
{
	int fd = scratch_open(&dir->scratch, copy_of(generation), O_RDWR);

	assert_int_equal(ftruncate(fd, size), 0);
	close(fd);
}

static void copies_alternate(void **state)
{
	struct store_dir *dir = *state;

	assert_unreadable(dir); /* there is none */
	write_generation(dir, 1);
	assert_reads(dir, 1, true); /* no other copy: told, for it cannot be known why */
	for (uint64_t g = 2; g < 30; g++) {
		write_generation(dir, g);
		assert_reads(dir, g, false);
	}
}

static void a_torn_copy_leaves_the_older_one(void **state)
{
	static const uint64_t bits[] = {
		0, 17 * 8 + 1, 32 * 8, 127 * 8 + 7, 4096 * 8, 4096 * 8 + 79};
	struct store_dir *dir = *state;

	write_generation(dir, 9);
	write_generation(dir, 10); /* 10 bytes of ops */
	for (size_t i = 0; i < sizeof(bits) / sizeof(*bits); i++) {
		store_dir_flip(dir, copy_of(10), bits[i]);
		assert_reads(dir, 9, true);
		store_dir_flip(dir, copy_of(10), bits[i]);
		assert_reads(dir, 10, false);
		/* Damage of the older one costs nothing, and is told. */
		store_dir_flip(dir, copy_of(9), bits[i]);
		assert_reads(dir, 10, true);
		store_dir_flip(dir, copy_of(9), bits[i]);
	}
	/* Between head and ops nothing counts. */
	store_dir_flip(dir, copy_of(10), 200 * 8);
	assert_reads(dir, 10, false);
}

static void a_cut_copy_leaves_the_older_one(void **state)
{
	static const off_t sizes[] = {4105, 4096, 4095, 128, 127, 1, 0};
	struct store_dir *dir = *state;

	write_generation(dir, 9);
	for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
		write_generation(dir, 10);
		cut(dir, 10, sizes[i]);
		assert_reads(dir, 9, true);
	}
	assert_int_equal(unlinkat(dir->scratch.dirfd, copy_of(10), 0), 0);
	assert_reads(dir, 9, true);
	write_generation(dir, 10);
	assert_reads(dir, 10, false);
}

static void two_damaged_copies_are_the_end(void **state)
{
	struct store_dir *dir = *state;

	write_generation(dir, 3);
	write_generation(dir, 4);
	store_dir_flip(dir, copy_of(3), 99);
	store_dir_flip(dir, copy_of(4), 8 * 4096);
	assert_unreadable(dir);
	assert_int_equal(unlinkat(dir->scratch.dirfd, copy_of(3), 0), 0);
	assert_unreadable(dir);
	/* The next checkpoint heals it. */
	write_generation(dir, 5);
	assert_reads(dir, 5, true);
	write_generation(dir, 6);
	assert_reads(dir, 6, false);
}

/* A write of generation G does not touch the copy of G - 1. */
static void the_other_copy_is_left_alone(void **state)
{
	struct store_dir *dir = *state;
	struct stat before, after;

	write_generation(dir, 7);
	write_generation(dir, 8);
	assert_int_equal(fstatat(dir->scratch.dirfd, copy_of(8), &before, 0), 0);
	write_generation(dir, 9);
	assert_int_equal(fstatat(dir->scratch.dirfd, copy_of(8), &after, 0), 0);
	assert_true(before.st_ino == after.st_ino && before.st_size == after.st_size);
	assert_true(before.st_mtim.tv_sec == after.st_mtim.tv_sec &&
		before.st_mtim.tv_nsec == after.st_mtim.tv_nsec);
	/* A shorter one leaves nothing of the longer one behind. */
	assert_int_equal(fstatat(dir->scratch.dirfd, copy_of(9), &after, 0), 0);
	assert_int_equal(after.st_size, 4096 + len_of(9));
	write_generation(dir, 11);
	assert_int_equal(fstatat(dir->scratch.dirfd, copy_of(11), &after, 0), 0);
	assert_int_equal(after.st_size, 4096 + len_of(11));
}

static int decode(const void *bytes, size_t len, struct catalog_head *head)
{
	void *exact = malloc(len ? len : 1);
	uint64_t ops_len, ops_sum;
	int r;

	memcpy(exact, bytes, len);
	r = catalog_head_decode(exact, len, head, &ops_len, &ops_sum);
	free(exact);
	return r;
}

static void heads_are_decoded_with_care(void **state)
{
	struct gf_disk_catalog disk = {.version = GF_FORMAT_VERSION, .generation = 3};
	struct catalog_head head;
	uint8_t bytes[4096];
	struct rng rng;

	memcpy(disk.magic, GF_CATALOG_MAGIC, sizeof(disk.magic));
	disk.sum = hash_struct(&disk, offsetof(struct gf_disk_catalog, sum));
	memcpy(bytes, &disk, sizeof(disk));
	assert_int_equal(decode(bytes, sizeof(disk), &head), 0);
	for (size_t len = 0; len < sizeof(disk); len++)
		assert_int_equal(decode(bytes, len, &head), -EUCLEAN);
	for (size_t bit = 0; bit < sizeof(disk) * 8; bit++) {
		bytes[bit / 8] ^= 1u << (bit % 8);
		assert_int_equal(decode(bytes, sizeof(disk), &head), -EUCLEAN);
		bytes[bit / 8] ^= 1u << (bit % 8);
	}
	/* Whole, but nothing that this version writes. */
	disk.length = UINT64_MAX;
	disk.sum = hash_struct(&disk, offsetof(struct gf_disk_catalog, sum));
	assert_int_equal(decode(&disk, sizeof(disk), &head), -EUCLEAN);
	disk.length = 0;
	disk.version++;
	disk.sum = hash_struct(&disk, offsetof(struct gf_disk_catalog, sum));
	assert_int_equal(decode(&disk, sizeof(disk), &head), -EUCLEAN);
	rng_seed(&rng, seed_from_environment(8));
	for (int i = 0; i < 5000; i++) {
		for (size_t k = 0; k < 256; k++)
			bytes[k] = (uint8_t)rng_next(&rng);
		if (i % 2)
			memcpy(bytes, &disk, 12);
		assert_int_equal(decode(bytes, rng_below(&rng, 256), &head), -EUCLEAN);
	}
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(copies_alternate),
		TEST(a_torn_copy_leaves_the_older_one),
		TEST(a_cut_copy_leaves_the_older_one),
		TEST(two_damaged_copies_are_the_end),
		TEST(the_other_copy_is_left_alone),
		cmocka_unit_test(heads_are_decoded_with_care),
	};

	if (log_open(LOG_TO_FILE, "/dev/null"))
		return 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
