/* SPDX-License-Identifier: MIT */
/*
 * Checksums of blocks at rest, on real files: which blocks are right, damaged, moved or old-or-new,
 * and that looking changes nothing but what it may.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/hash.h"
#include "base/log.h"
#include "base/sizes.h"
#include "store/layer.h"
#include "store_dir.h"

#define FIRST 100
#define COUNT 300
#define LAST (GF_MAX_SIZE / GF_BLOCK_SIZE - 1)

struct bench {
	struct store_dir dir;
	struct layer_env env;
	uint8_t secret[HASH_SECRET_LEN];
	struct layer *layer;
	uint8_t bytes[COUNT * GF_BLOCK_SIZE];
};

static void fill(uint8_t *block, uint64_t number)
{
	for (size_t i = 0; i < GF_BLOCK_SIZE; i++)
		block[i] = (uint8_t)(number * 7 + i * 31 + i / 256 + 1);
}

/* A block in place with its checksum, as writers leave it. */
static void place(struct bench *b, uint64_t block)
{
	uint8_t bytes[GF_BLOCK_SIZE];
	uint32_t sum;

	fill(bytes, block);
	sum = hash_block(b->secret, bytes);
	assert_int_equal(layer_write_data(b->layer, bytes, sizeof(bytes), block * GF_BLOCK_SIZE), 0);
	assert_int_equal(layer_write_sums(b->layer, block, &sum, 1), 0);
	assert_int_equal(layer_set_state(b->layer, block, 1, GF_OVERLAY), 0);
}

static int setup(void **state)
{
	struct bench *b = calloc(1, sizeof(*b));

	store_dir_init(&b->dir);
	store_dir_skip_syncs(&b->dir);
	b->env = (struct layer_env){.io = b->dir.io, .secret = b->secret};
	memset(b->secret, 0x5a, sizeof(b->secret));
	assert_int_equal(jindex_new(&b->env.jindex), 0);
	assert_int_equal(layer_new(&b->layer, &b->env, 3, NULL, NULL, 0, 0), 0);
	for (uint64_t i = 0; i < COUNT; i++) {
		place(b, FIRST + i);
		fill(b->bytes + i * GF_BLOCK_SIZE, FIRST + i);
	}
	*state = b;
	return 0;
}

static int teardown(void **state)
{
	struct bench *b = *state;

	layer_free(b->layer);
	jindex_free(b->env.jindex);
	store_dir_release(&b->dir);
	free(b);
	return 0;
}

static void flip_data(struct bench *b, uint64_t block, uint64_t bit)
{
	store_dir_flip(&b->dir, "layer/3.data", block * GF_BLOCK_SIZE * 8 + bit);
}

static int judge(struct bench *b, uint64_t block)
{
	uint8_t bytes[GF_BLOCK_SIZE];

	return layer_judge_block(b->layer, bytes, block, false);
}

static void what_was_written_is_right(void **state)
{
	struct bench *b = *state;

	assert_int_equal(layer_compare_sums(b->layer, b->bytes, FIRST, COUNT), COUNT);
	for (uint64_t i = FIRST; i < FIRST + COUNT; i++)
		assert_int_equal(judge(b, i), VERDICT_RIGHT);
	b->bytes[17 * GF_BLOCK_SIZE + 4095] ^= 1;
	assert_int_equal(layer_compare_sums(b->layer, b->bytes, FIRST, COUNT), 17);
}

static void every_flip_is_found(void **state)
{
	struct bench *b = *state;

	for (uint64_t bit = 0; bit < GF_BLOCK_SIZE * 8; bit += 509) {
		flip_data(b, FIRST + 5, bit);
		assert_int_equal(judge(b, FIRST + 5), VERDICT_DAMAGED);
		flip_data(b, FIRST + 5, bit);
		assert_int_equal(judge(b, FIRST + 5), VERDICT_RIGHT);
	}
	for (uint64_t bit = 0; bit < 32; bit++) {
		store_dir_flip(&b->dir, "layer/3.sum", (FIRST + 6) * 32 + bit);
		assert_int_equal(judge(b, FIRST + 6), VERDICT_DAMAGED);
		assert_int_equal(judge(b, FIRST + 5), VERDICT_RIGHT);
		store_dir_flip(&b->dir, "layer/3.sum", (FIRST + 6) * 32 + bit);
	}
	assert_int_equal(judge(b, FIRST + 6), VERDICT_RIGHT);
}

/* No checksum at all says nothing in favour of a block. */
static void a_lost_checksum_is_damage(void **state)
{
	struct bench *b = *state;
	uint32_t none = 0;

	assert_int_equal(layer_write_sums(b->layer, FIRST, &none, 1), 0);
	assert_int_equal(judge(b, FIRST), VERDICT_DAMAGED);
	assert_int_equal(b->dir.io->ops->unlink(b->dir.io, "layer/3.sum"), 0);
	layer_free(b->layer);
	assert_int_equal(layer_new(&b->layer, &b->env, 3, NULL, NULL, 0, 0), 0);
	assert_int_equal(layer_set_state(b->layer, FIRST, COUNT, GF_OVERLAY), 0);
	assert_int_equal(judge(b, FIRST + 1), VERDICT_DAMAGED);
}

static void blocks_that_stand_elsewhere_are_not_judged(void **state)
{
	struct bench *b = *state;
	uint8_t bytes[GF_BLOCK_SIZE];

	flip_data(b, FIRST, 0);
	assert_int_equal(layer_set_state(b->layer, FIRST, 1, GF_ZERO), 0);
	assert_int_equal(judge(b, FIRST), VERDICT_MOVED);
	flip_data(b, FIRST + 1, 0);
	fill(bytes, 1);
	assert_int_equal(layer_set_journaled(b->layer, FIRST + 1, 1, 4096, 1, bytes), 0);
	assert_int_equal(judge(b, FIRST + 1), VERDICT_MOVED);
	assert_int_equal(judge(b, LAST), VERDICT_MOVED);
}

/* Back to OVERLAY without its bytes and checksum written it would be damage: nobody does that. */
static void states_bring_no_old_checksum_back(void **state)
{
	struct bench *b = *state;
	uint8_t other[GF_BLOCK_SIZE];

	assert_int_equal(layer_set_state(b->layer, FIRST, 1, GF_PARENT), 0);
	fill(other, 999);
	assert_int_equal(layer_write_data(b->layer, other, sizeof(other), FIRST * GF_BLOCK_SIZE), 0);
	assert_int_equal(layer_set_state(b->layer, FIRST, 1, GF_OVERLAY), 0);
	assert_int_equal(judge(b, FIRST), VERDICT_DAMAGED);
	place(b, FIRST);
	assert_int_equal(judge(b, FIRST), VERDICT_RIGHT);
}

static void suspect_blocks_become_right(void **state)
{
	struct bench *b = *state;
	uint64_t far = 3 * (uint64_t)GF_REGION_BLOCKS;
	uint32_t count = 0;

	place(b, far);
	flip_data(b, far, 9);
	flip_data(b, FIRST, 9);
	assert_int_equal(layer_mark(b->layer, 2, 16, 1), 0);
	assert_int_equal(layer_suspect_marked(b->layer), 0);
	/* Only what has anything in it. */
	assert_int_equal(layer_next_suspect(b->layer, 0, &count), 3);
	assert_int_equal(count, 1);
	assert_int_equal(layer_next_suspect(b->layer, 4, &count), LAYER_NO_REGION);
	assert_int_equal(judge(b, FIRST), VERDICT_DAMAGED);
	assert_int_equal(judge(b, far), VERDICT_HEALED);
	assert_int_equal(judge(b, far), VERDICT_RIGHT);
	layer_clear_suspect(b->layer, 3);
	assert_false(layer_is_suspect(b->layer, 3));
	flip_data(b, far, 10);
	assert_int_equal(judge(b, far), VERDICT_DAMAGED);
	layer_clear_marks(b->layer);
	layer_mark_new(b->layer);
	assert_int_equal(layer_suspect_marked(b->layer), 0);
	assert_int_equal(atomic_load(&b->layer->suspect_count), 2);
	assert_int_equal(judge(b, far), VERDICT_HEALED);
	layer_clear_suspect(b->layer, 0);
	layer_clear_suspect(b->layer, 3);
	/* Twice the same, then both. */
	assert_int_equal(layer_set_suspect(b->layer, 3, 2), 0);
	assert_int_equal(layer_set_suspect(b->layer, 4, 1), 0);
	assert_int_equal(atomic_load(&b->layer->suspect_count), 2);
	assert_int_equal(layer_next_suspect(b->layer, 0, &count), 3);
	assert_int_equal(count, 2);
}

static void noted_checksums_count_until_they_are_written(void **state)
{
	struct bench *b = *state;
	uint8_t other[GF_BLOCK_SIZE];
	uint32_t sum, is;

	fill(other, 999);
	sum = hash_block(b->secret, other);
	assert_int_equal(
		layer_write_data(b->layer, other, sizeof(other), FIRST * GF_BLOCK_SIZE), 0);
	assert_int_equal(layer_note_sums(b->layer, FIRST, &sum, 1), 0);
	assert_int_equal(judge(b, FIRST), VERDICT_RIGHT);
	assert_int_equal(layer_write_noted_sums(b->layer), 0);
	assert_null(b->layer->noted_sums);
	assert_int_equal(judge(b, FIRST), VERDICT_RIGHT);
	/* A newer one takes its place. */
	assert_int_equal(layer_note_sums(b->layer, FIRST, &sum, 1), 0);
	place(b, FIRST);
	assert_int_equal(judge(b, FIRST), VERDICT_RIGHT);
	assert_int_equal(layer_read_sums(b->layer, FIRST, &is, 1), 0);
	assert_true(is != sum);
}

static void the_last_block_is_checked_too(void **state)
{
	struct bench *b = *state;

	place(b, LAST);
	assert_int_equal(judge(b, LAST), VERDICT_RIGHT);
	store_dir_flip(&b->dir, "layer/3.sum", ((LAST + 1) * 4 + 77) * 8);
	assert_int_equal(judge(b, LAST), VERDICT_DAMAGED);
}

static void marks_are_needed_where_an_old_state_may_come_back(void **state)
{
	struct bench *b = *state;
	struct page_write *pages;

	assert_true(layer_may_be_in_place(b->layer, FIRST, 1));
	/* Discarded, but the record that says so may be lost. */
	assert_int_equal(layer_set_state(b->layer, FIRST, COUNT, GF_PARENT), 0);
	assert_true(layer_may_be_in_place(b->layer, FIRST, 1));
	assert_int_equal(layer_take_pages(b->layer, &pages), 0);
	pages_free(pages);
	assert_true(layer_may_be_in_place(b->layer, FIRST, 1));
	assert_false(layer_may_be_in_place(b->layer, GF_REGION_BLOCKS, GF_REGION_BLOCKS));
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(what_was_written_is_right),
		TEST(every_flip_is_found),
		TEST(a_lost_checksum_is_damage),
		TEST(blocks_that_stand_elsewhere_are_not_judged),
		TEST(states_bring_no_old_checksum_back),
		TEST(suspect_blocks_become_right),
		TEST(noted_checksums_count_until_they_are_written),
		TEST(the_last_block_is_checked_too),
		TEST(marks_are_needed_where_an_old_state_may_come_back),
	};

	alarm(120);
	if (log_open(LOG_TO_FILE, "/dev/null"))
		return 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
