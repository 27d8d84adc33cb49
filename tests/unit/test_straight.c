/* SPDX-License-Identifier: MIT */
/* Which small writes go past the ring, and that content is right whichever way it went. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/sizes.h"
#include "core/fs.h"
#include "goldfs/format.h"
#include "../crash/rng.h"
#include "store_dir.h"

#define BLOCKS 4096 /* of the file */
#define AFTER 2048  /* writes that are not synced */
#define IN_RING 128 /* blocks that the last of them leave in the ring, less than half of it */
#define RING (2 * MIB)

static struct store_dir dir;
static struct fs *fs;
static uint64_t ino;
static uint8_t model[BLOCKS]; /* each block is full of one value */

static int open_store(bool background)
{
	const struct fs_options options = {.journal_size = RING, .reserve = 64 * KIB,
		.no_background = !background, .verify_reads = true, .store_fd = -1};

	return fs_open(&fs, dir.io, &options);
}

/* All of it is in place. */
static void make_file(void)
{
	static uint8_t bytes[64 * KIB];
	struct fs_attr attr;

	assert_int_equal(fs_make(fs, FS_INO_ROOT, "disk", S_IFREG | 0600, (struct fs_owner){0}, &attr), 0);
	ino = attr.ino;
	attr.size = BLOCKS * GF_BLOCK_SIZE;
	assert_int_equal(fs_setattr(fs, ino, FS_SET_SIZE, &attr), 0);
	memset(model, 'i', sizeof(model));
	memset(bytes, 'i', sizeof(bytes));
	for (uint64_t off = 0; off < BLOCKS * GF_BLOCK_SIZE; off += sizeof(bytes))
		assert_int_equal(fs_write(fs, ino, bytes, sizeof(bytes), off), sizeof(bytes));
	assert_int_equal(fs_settle(fs), 0);
}

static int make_store(bool background)
{
	store_dir_init(&dir);
	store_dir_skip_syncs(&dir);
	return open_store(background);
}

static int start(void **state)
{
	return make_store(false);
}

static int start_with_threads(void **state)
{
	return make_store(true);
}

static int stop(void **state)
{
	int r = fs_close(fs);

	store_dir_release(&dir);
	return r;
}

static uint64_t went_straight(void)
{
	struct fs_counters counters;

	fs_counters(fs, &counters);
	return counters.straight_writes;
}

static void put(uint64_t block, uint8_t value)
{
	uint8_t bytes[GF_BLOCK_SIZE];

	memset(bytes, value, sizeof(bytes));
	assert_int_equal(fs_write(fs, ino, bytes, sizeof(bytes), block * GF_BLOCK_SIZE), GF_BLOCK_SIZE);
	model[block] = value;
}

static void assert_content(void)
{
	uint8_t bytes[GF_BLOCK_SIZE];

	for (uint64_t b = 0; b < BLOCKS; b++) {
		assert_int_equal(fs_read(fs, ino, bytes, sizeof(bytes), b * GF_BLOCK_SIZE), GF_BLOCK_SIZE);
		for (size_t i = 0; i < sizeof(bytes); i++)
			if (bytes[i] != model[b])
				fail_msg("byte %zu of block %u is %u, not %u", i, (unsigned)b, bytes[i],
					model[b]);
	}
}

static void synced(void *arg, int result)
{
	*(int *)arg = result;
}

static void sync_file(void)
{
	int result = 1;

	fs_fsync(fs, ino, synced, &result);
	assert_int_equal(result, 0);
}

/* As many as it takes. Some are still in the ring then. */
static void write_unsynced(void)
{
	for (uint64_t i = 0; i < AFTER; i++) {
		if (i % IN_RING == 0)
			assert_int_equal(fs_settle(fs), 0);
		put(i % IN_RING, 'r');
	}
}

/* The intent mark that straight writes of all of the file need. */
static void mark(void)
{
	put(1000, 'm');
	assert_int_equal(fs_sync_journal(fs), 0);
}

static void write_and_mark(void)
{
	write_unsynced();
	mark();
}

static void test_few_writes_stay_in_the_ring(void **state)
{
	make_file();
	for (uint64_t b = 0; b < 400; b++) {
		put(b, 'a');
		assert_int_equal(fs_sync_journal(fs), 0); /* a mark would not keep them there */
	}
	assert_int_equal(went_straight(), 0);
	assert_content();
}

/* The first one asks for a mark, the next ones find it. What waits in the ring is overwritten there. */
static void test_many_writes_pass_the_ring(void **state)
{
	make_file();
	write_unsynced();
	put(1000, 'b');
	assert_int_equal(went_straight(), 0);
	assert_int_equal(fs_sync_journal(fs), 0);
	put(1001, 'c');
	put(1001, 'd');
	assert_int_equal(went_straight(), 2);
	put(1000, 'c');
	put(3, 'c');
	assert_int_equal(went_straight(), 2);
	assert_content();
	assert_int_equal(fs_settle(fs), 0);
	assert_content();
}

/* The file system below may take its time to find a place. */
static void test_new_blocks_stay_in_the_ring(void **state)
{
	struct fs_attr attr = {.size = 2 * BLOCKS * GF_BLOCK_SIZE};
	uint8_t bytes[GF_BLOCK_SIZE] = {'n'};

	make_file();
	assert_int_equal(fs_setattr(fs, ino, FS_SET_SIZE, &attr), 0);
	write_and_mark();
	for (uint64_t b = BLOCKS; b < BLOCKS + 20; b++)
		assert_int_equal(
			fs_write(fs, ino, bytes, sizeof(bytes), b * GF_BLOCK_SIZE), sizeof(bytes));
	assert_int_equal(went_straight(), 0);
	put(1001, 'c');
	assert_int_equal(went_straight(), 1);
	assert_content();
}

static void test_who_syncs_keeps_the_ring(void **state)
{
	make_file();
	write_and_mark();
	put(1001, 'b');
	assert_int_equal(went_straight(), 1);
	sync_file();
	for (int i = 0; i < 20; i++) {
		put(1001 + i, 'c');
		sync_file();
	}
	assert_int_equal(went_straight(), 1);
	assert_content();
}

/* It will sync again; but not at the price of a full ring, nor then to and fro. */
static void test_who_synced_lately_keeps_half_of_the_ring(void **state)
{
	uint64_t before;

	make_file();
	sync_file();
	write_unsynced();
	assert_int_equal(fs_settle(fs), 0);
	mark();
	put(1001, 'b');
	assert_int_equal(went_straight(), 0);
	for (uint64_t b = 0; b < RING / 2 / GF_BLOCK_SIZE + 40; b++)
		put(b, 'r');
	assert_int_equal(fs_sync_journal(fs), 0); /* the mark that one of them asked for */
	put(1002, 'c');
	before = went_straight();
	assert_true(before > 0);
	assert_int_equal(fs_settle(fs), 0);
	mark();
	put(1003, 'd');
	assert_int_equal(went_straight(), before + 1);
	assert_content();
}

/* Parts of blocks are merged, and go through the ring beside the whole one. */
static void test_edges_go_through_the_ring(void **state)
{
	uint8_t bytes[3 * GF_BLOCK_SIZE], found[5 * GF_BLOCK_SIZE];

	make_file();
	write_and_mark();
	memset(bytes, 'e', sizeof(bytes));
	assert_int_equal(fs_write(fs, ino, bytes, sizeof(bytes), 2000 * GF_BLOCK_SIZE + 512), sizeof(bytes));
	assert_int_equal(went_straight(), 1);
	fs_abandon(fs);
	assert_int_equal(open_store(false), 0);
	assert_int_equal(fs_read(fs, ino, found, sizeof(found), 2000 * GF_BLOCK_SIZE), sizeof(found));
	for (size_t i = 0; i < sizeof(found); i++)
		assert_int_equal(found[i], i >= 512 && i < 512 + sizeof(bytes) ? 'e' : 'i');
}

/* A process that dies loses nothing of either way. */
static void test_death_of_the_process(void **state)
{
	make_file();
	write_and_mark();
	for (uint64_t b = 300; b < 700; b++)
		put(b, (uint8_t)b);
	assert_int_equal(went_straight(), 400);
	fs_abandon(fs);
	assert_int_equal(open_store(false), 0);
	assert_content();
}

/* What recovery found in place is made durable once, and not in the way of small writes from then on. */
static void test_straight_again_after_death(void **state)
{
	make_file();
	write_and_mark();
	put(1100, 'b');
	assert_int_equal(went_straight(), 1);
	fs_abandon(fs);
	assert_int_equal(open_store(false), 0);
	assert_int_equal(fs_settle(fs), 0);
	write_and_mark();
	put(1101, 'c');
	assert_true(went_straight() > 0);
	fs_abandon(fs);
	assert_int_equal(open_store(false), 0);
	assert_content();
}

struct writer {
	uint64_t first, seed;
	bool failed;
};

/* Its own quarter of the file. */
static void *write_much(void *arg)
{
	struct writer *w = arg;
	uint8_t bytes[GF_BLOCK_SIZE];
	struct rng rng;

	rng_seed(&rng, w->seed);
	for (int i = 0; i < 8000; i++) {
		uint64_t block = w->first + rng_below(&rng, BLOCKS / 4);

		model[block] = (uint8_t)rng_next(&rng);
		memset(bytes, model[block], sizeof(bytes));
		w->failed |= fs_write(fs, ino, bytes, sizeof(bytes), block * GF_BLOCK_SIZE) != GF_BLOCK_SIZE;
	}
	return NULL;
}

static void test_many_at_once(void **state)
{
	uint64_t seed = getenv("SEED") ? strtoull(getenv("SEED"), NULL, 10) : 1;
	struct writer writers[4];
	pthread_t threads[4];

	print_message("seed %llu\n", (unsigned long long)seed);
	make_file();
	for (int i = 0; i < 4; i++) {
		writers[i] = (struct writer){.first = (uint64_t)i * BLOCKS / 4, .seed = seed * 4 + (uint64_t)i};
		assert_int_equal(pthread_create(&threads[i], NULL, write_much, &writers[i]), 0);
	}
	for (int i = 0; i < 4; i++) {
		pthread_join(threads[i], NULL);
		assert_false(writers[i].failed);
	}
	assert_true(went_straight() > 0);
	assert_content();
	fs_abandon(fs);
	assert_int_equal(open_store(true), 0);
	assert_content();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_few_writes_stay_in_the_ring, start, stop),
		cmocka_unit_test_setup_teardown(test_many_writes_pass_the_ring, start, stop),
		cmocka_unit_test_setup_teardown(test_new_blocks_stay_in_the_ring, start, stop),
		cmocka_unit_test_setup_teardown(test_who_syncs_keeps_the_ring, start, stop),
		cmocka_unit_test_setup_teardown(test_who_synced_lately_keeps_half_of_the_ring, start, stop),
		cmocka_unit_test_setup_teardown(test_edges_go_through_the_ring, start, stop),
		cmocka_unit_test_setup_teardown(test_death_of_the_process, start, stop),
		cmocka_unit_test_setup_teardown(test_straight_again_after_death, start, stop),
		cmocka_unit_test_setup_teardown(test_many_at_once, start_with_threads, stop),
	};

	return cmocka_run_group_tests_name("straight", tests, NULL, NULL);
}
