/* SPDX-License-Identifier: MIT */
/*
 * Golden images asked by content: all that are served are, the last one that had something first,
 * and none of which the bytes are not vouched for.
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
#include <unistd.h>

#include "base/log.h"
#include "base/sizes.h"
#include "core/fs.h"
#include "core/fs_internal.h"
#include "store/content_index.h"
#include "store_dir.h"

#define BLOCKS 400u
#define IMAGES 3u

struct world {
	struct store_dir dir;
	struct fs *fs;
	uint8_t *bytes[IMAGES];
	struct image *images[IMAGES];
};

static struct image *golden_test(void *arg, uint64_t id)
{
	struct world *w = arg;

	return id >= 1 && id <= IMAGES ? w->images[id - 1] : NULL;
}

static void open_fs(struct world *w, enum fs_dedup dedup)
{
	const struct fs_options options = {.no_background = true, .store_fd = -1, .dedup = dedup,
		.golden_test = golden_test, .golden_test_arg = w};

	assert_int_equal(fs_open(&w->fs, w->dir.io, &options), 0);
}

static void clone_image(struct world *w, unsigned i)
{
	const char source[] = {'1' + (char)i, 0}, name[] = {'a' + (char)i, 0};
	const struct fs_clone_target target = {.parent = FS_INO_ROOT, .name = name};
	struct fs_attr attr;
	size_t failed;

	assert_int_equal(fs_lookup(w->fs, FS_INO_GOLDEN, source, &attr), 0);
	assert_int_equal(fs_clone(w->fs, attr.ino, &target, 1, (struct fs_owner){0}, 0644, false,
		false, NULL, &failed), 0);
	fs_forget(w->fs, attr.ino, 1);
}

/* Image i has golden id i + 1: they are cloned in that order. */
static struct golden *golden(struct world *w, unsigned i)
{
	struct golden *g = golden_hold(w->fs, i + 1);

	assert_non_null(g);
	golden_hold_end(w->fs, g);
	return g;
}

static int setup(void **state)
{
	struct world *w = calloc(1, sizeof(*w));

	store_dir_init(&w->dir);
	store_dir_skip_syncs(&w->dir);
	for (unsigned i = 0; i < IMAGES; i++) {
		w->bytes[i] = malloc(BLOCKS * GF_BLOCK_SIZE);
		for (uint64_t k = 0; k < BLOCKS * GF_BLOCK_SIZE; k++)
			w->bytes[i][k] = scratch_byte(k, i + 1);
		/* Blocks that all of them have. */
		memset(w->bytes[i] + i * GF_BLOCK_SIZE, 0x77, GF_BLOCK_SIZE);
		assert_int_equal(image_memory_new(&w->images[i], w->bytes[i],
					 BLOCKS * GF_BLOCK_SIZE), 0);
	}
	open_fs(w, FS_DEDUP_GOLDEN);
	for (unsigned i = 0; i < IMAGES; i++)
		clone_image(w, i);
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;

	assert_int_equal(fs_close(w->fs), 0);
	for (unsigned i = 0; i < IMAGES; i++) {
		image_free(w->images[i]);
		free(w->bytes[i]);
	}
	store_dir_release(&w->dir);
	free(w);
	return 0;
}

static void make_all(struct world *w)
{
	for (unsigned i = 0; i < IMAGES; i++)
		assert_int_equal(golden_index_make(w->fs, golden(w, i)), 0);
}

/* The golden id that has this block, 0: none; *block is set then. */
static uint64_t find(struct world *w, const void *bytes, uint64_t *block)
{
	const struct hash128 hash = hash_block128(w->fs->super.secret, bytes);
	const struct layer layer = {.id = 1};
	uint64_t id = 0;
	int r = golden_index_find(w->fs, &hash, &layer, &id, block);

	assert_int_equal(r, id != 0);
	return id;
}

static void assert_found(struct world *w, unsigned i, uint64_t block)
{
	const uint8_t *bytes = w->bytes[i] + block * GF_BLOCK_SIZE;
	uint64_t found, id = find(w, bytes, &found);

	assert_int_equal(id, i + 1);
	assert_memory_equal(w->bytes[i] + found * GF_BLOCK_SIZE, bytes, GF_BLOCK_SIZE);
}

static void assert_not_found(struct world *w, unsigned i, uint64_t block)
{
	uint64_t found;

	assert_int_equal(find(w, w->bytes[i] + block * GF_BLOCK_SIZE, &found), 0);
}

static int has_file(struct world *w, const char *path)
{
	return faccessat(w->dir.scratch.dirfd, path, F_OK, 0) == 0;
}

static void all_images_are_asked(void **state)
{
	struct world *w = *state;

	assert_not_found(w, 0, 17);
	make_all(w);
	for (uint64_t block = 10; block < 50; block++)
		for (unsigned i = 0; i < IMAGES; i++)
			assert_found(w, i, block);
}

/* What an index does not list is not compared with what is below; what it lists is, wherever. */
static void what_an_index_lacks_is_not_below(void **state)
{
	enum { FIRST = 100, COUNT = 20, NEW = 3, SAME, ZEROS, MOVED };
	struct world *w = *state;
	uint8_t *data = malloc(COUNT * GF_BLOCK_SIZE), *below = malloc(COUNT * GF_BLOCK_SIZE);
	struct hash128 hashes[COUNT];
	bool may[COUNT];
	const struct below blocks = {.block = FIRST, .count = COUNT, .data = data,
		.hashes = hashes, .may = may};
	struct layer *layer;
	uint64_t ino;
	int r;

	assert_int_equal(fs_resolve(w->fs, "a", &ino), 0);
	layer = atomic_load(&volume_find(w->fs, ino, &r)->layer);
	for (size_t k = 0; k < COUNT * GF_BLOCK_SIZE; k++)
		data[k] = scratch_byte(k, 77);
	memcpy(data + SAME * GF_BLOCK_SIZE, w->bytes[0] + (FIRST + SAME) * GF_BLOCK_SIZE,
		GF_BLOCK_SIZE);
	memset(data + ZEROS * GF_BLOCK_SIZE, 0, GF_BLOCK_SIZE);
	memcpy(data + MOVED * GF_BLOCK_SIZE, w->bytes[0] + 7 * GF_BLOCK_SIZE, GF_BLOCK_SIZE);
	for (size_t i = 0; i < COUNT; i++)
		hashes[i] = hash_block128(w->fs->super.secret, data + i * GF_BLOCK_SIZE);

	memset(may, true, sizeof(may));
	assert_true(below_may_be_same(w->fs, layer, &blocks));
	for (size_t i = 0; i < COUNT; i++)
		assert_true(may[i]);
	make_all(w);
	assert_true(below_may_be_same(w->fs, layer, &blocks));
	for (size_t i = 0; i < COUNT; i++)
		assert_int_equal(may[i], i == SAME || i == ZEROS || i == MOVED);
	memset(below, 0xee, COUNT * GF_BLOCK_SIZE);
	assert_int_equal(below_read(w->fs, layer, &blocks, below), 0);
	for (size_t i = 0; i < COUNT; i++)
		if (may[i])
			assert_memory_equal(below + i * GF_BLOCK_SIZE,
				w->bytes[0] + (FIRST + i) * GF_BLOCK_SIZE, GF_BLOCK_SIZE);
		else
			assert_int_equal(below[i * GF_BLOCK_SIZE], 0xee);

	/* As a large write, and by way of the ring. */
	assert_int_equal(fs_write(w->fs, ino, data, COUNT * GF_BLOCK_SIZE, FIRST * GF_BLOCK_SIZE),
		COUNT * GF_BLOCK_SIZE);
	for (size_t i = 0; i < 8; i++)
		assert_int_equal(fs_write(w->fs, ino, data + i * GF_BLOCK_SIZE, GF_BLOCK_SIZE,
					 (FIRST + i) * GF_BLOCK_SIZE), GF_BLOCK_SIZE);
	assert_int_equal(fs_settle(w->fs), 0);
	/* One is as below, one is zeros, one is block 7 of the image. */
	assert_int_equal(layer_is_at_rest(layer, FIRST + NEW), 1);
	assert_int_equal(layer_is_at_rest(layer, FIRST + SAME), 0);
	assert_int_equal(atomic_load(&layer->owned_blocks), COUNT - 3);
	assert_int_equal(atomic_load(&layer->golden_blocks), 1);
	assert_int_equal(fs_read(w->fs, ino, below, COUNT * GF_BLOCK_SIZE, FIRST * GF_BLOCK_SIZE),
		COUNT * GF_BLOCK_SIZE);
	assert_memory_equal(below, data, COUNT * GF_BLOCK_SIZE);
	free(data);
	free(below);
}

static void the_last_that_had_something_is_first(void **state)
{
	uint8_t common[GF_BLOCK_SIZE];
	struct world *w = *state;
	uint64_t block;

	memset(common, 0x77, sizeof(common));
	make_all(w);
	for (unsigned i = 0; i < 3 * IMAGES; i++) {
		const unsigned want = i * 2 % IMAGES;

		assert_found(w, want, 100 + i);
		assert_int_equal(find(w, common, &block), want + 1);
		assert_int_equal(block, want);
	}
}

static void images_that_are_not_served_are_not_offered(void **state)
{
	struct world *w = *state;

	make_all(w);
	atomic_store(&golden(w, 1)->pin, GF_PIN_FENCED);
	assert_not_found(w, 1, 20);
	assert_found(w, 0, 20);
	atomic_store(&golden(w, 1)->pin, GF_PIN_COPYING);
	assert_not_found(w, 1, 20);
	atomic_store(&golden(w, 1)->pin, GF_PIN_COPY);
	assert_found(w, 1, 20);
	atomic_store(&golden(w, 1)->failed, -ESTALE);
	assert_not_found(w, 1, 20);
	atomic_store(&golden(w, 1)->failed, 0);
	golden_index_close(golden(w, 1));
	assert_not_found(w, 1, 20);
	assert_found(w, 2, 20);
	assert_int_equal(golden_index_open(w->fs, golden(w, 1)), 0);
	assert_found(w, 1, 20);
}

static void it_goes_with_the_last_clone(void **state)
{
	struct world *w = *state;

	make_all(w);
	assert_true(has_file(w, "index/2"));
	assert_int_equal(fs_unlink(w->fs, FS_INO_ROOT, "b"), 0);
	/* The image is gone with the clone, its files when that is durable. */
	assert_not_found(w, 1, 20);
	assert_int_equal(fs_settle(w->fs), 0);
	assert_false(has_file(w, "index/2"));
	assert_true(has_file(w, "index/1"));
	assert_not_found(w, 1, 20);
	assert_found(w, 0, 20);
}

static void it_is_opened_again(void **state)
{
	struct world *w = *state;

	make_all(w);
	assert_int_equal(fs_close(w->fs), 0);
	open_fs(w, FS_DEDUP_GOLDEN);
	assert_not_found(w, 2, 20);
	assert_true(golden_index_is_due(w->fs, golden(w, 2)));
	assert_int_equal(golden_index_open(w->fs, golden(w, 2)), 0);
	assert_found(w, 2, 20);
	assert_int_equal(fs_close(w->fs), 0);
	open_fs(w, FS_DEDUP_OFF);
	assert_false(golden_index_is_due(w->fs, golden(w, 2)));
}

static void a_damaged_one_is_due_again(void **state)
{
	struct world *w = *state;
	struct golden *g = golden(w, 0);

	make_all(w);
	g->index_looked = true;
	assert_false(golden_index_is_due(w->fs, g));
	for (uint64_t page = 1; page <= 2; page++)
		store_dir_flip(&w->dir, "index/1", page * GF_BLOCK_SIZE * 8 + 5);
	assert_not_found(w, 0, 20);
	assert_found(w, 1, 20);
	assert_true(golden_index_is_due(w->fs, g));
	assert_int_equal(golden_index_make(w->fs, g), 0);
	assert_false(golden_index_is_due(w->fs, g));
	assert_found(w, 0, 20);
}

static void what_nobody_needs_is_swept(void **state)
{
	static const char *const names[] = {
		"index/77", "index/1.tmp", "index/9.runs.tmp", "index/x"};
	struct world *w = *state;

	make_all(w);
	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		close(scratch_open(&w->dir.scratch, names[i], O_RDWR | O_CREAT));
	golden_index_sweep(w->fs);
	for (size_t i = 0; i < 3; i++)
		assert_false(has_file(w, names[i]));
	assert_true(has_file(w, "index/x"));
	assert_true(has_file(w, "index/1") && has_file(w, "index/2") && has_file(w, "index/3"));
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(all_images_are_asked),
		TEST(what_an_index_lacks_is_not_below),
		TEST(the_last_that_had_something_is_first),
		TEST(images_that_are_not_served_are_not_offered),
		TEST(it_goes_with_the_last_clone),
		TEST(it_is_opened_again),
		TEST(a_damaged_one_is_due_again),
		TEST(what_nobody_needs_is_swept),
	};

	if (log_open(LOG_TO_FILE, "/dev/null"))
		return 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
