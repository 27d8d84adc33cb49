/* SPDX-License-Identifier: MIT */
/* Large writes of any size, whoever writes beside: content is right. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/sizes.h"
#include "core/fs.h"
#include "goldfs/format.h"
#include "../crash/rng.h"
#include "store_dir.h"

#define FILE_SIZE (24 * MIB)
#define MOST MIB /* bytes of one write */

static struct store_dir dir;
static struct fs *fs;

static int start(void **state)
{
	const struct fs_options options = {
		.journal_size = 8 * MIB, .reserve = 64 * KIB, .store_fd = -1};

	store_dir_init(&dir);
	store_dir_skip_syncs(&dir);
	return fs_open(&fs, dir.io, &options);
}

static int stop(void **state)
{
	int r = fs_close(fs);

	store_dir_release(&dir);
	return r;
}

static uint64_t make_file(const char *name, uint64_t size)
{
	const struct fs_owner owner = {0};
	struct fs_attr attr;
	uint64_t ino;

	assert_int_equal(fs_make(fs, FS_INO_ROOT, name, S_IFREG | 0600, owner, &attr), 0);
	ino = attr.ino;
	attr.size = size;
	assert_int_equal(fs_setattr(fs, ino, FS_SET_SIZE, &attr), 0);
	return ino;
}

/* A file and what it should hold, for one who writes to it. */
struct writer {
	uint64_t ino;
	uint8_t *model;
	uint64_t seed;
	bool right;
};

static void fill(struct rng *rng, uint8_t *to, size_t len)
{
	/* Now and then zeros, so that pieces are cut into different kinds. */
	bool zeros = rng_below(rng, 4) == 0;

	for (size_t i = 0; i < len; i++)
		to[i] = zeros && i > len / 3 && i < len / 2 ? 0 : (uint8_t)rng_next(rng);
}

static bool is_as_model(const struct writer *w)
{
	uint8_t *buf = malloc(FILE_SIZE);
	bool same = buf && fs_read(fs, w->ino, buf, FILE_SIZE, 0) == FILE_SIZE &&
		    memcmp(buf, w->model, FILE_SIZE) == 0;

	free(buf);
	return same;
}

static void *write_much(void *arg)
{
	struct writer *w = arg;
	struct rng rng;

	rng_seed(&rng, w->seed);
	w->right = true;
	for (int i = 0; i < 24 && w->right; i++) {
		size_t len = MOST / 4 + (size_t)rng_below(&rng, MOST * 3 / 4 + 1);
		uint64_t off = rng_below(&rng, FILE_SIZE - len + 1);

		if (rng_below(&rng, 2))
			off = round_down(off, GF_BLOCK_SIZE);
		fill(&rng, w->model + off, len);
		w->right = fs_write(fs, w->ino, w->model + off, len, off) == (ssize_t)len;
	}
	w->right = w->right && is_as_model(w);
	return NULL;
}

static void writer_init(struct writer *w, const char *name, uint64_t seed)
{
	*w = (struct writer){.ino = make_file(name, FILE_SIZE), .model = calloc(1, FILE_SIZE), .seed = seed};
	assert_non_null(w->model);
}

static void test_one_writer(void **state)
{
	uint64_t seed = seed_from_environment(5);
	struct writer w;

	writer_init(&w, "one", seed);
	write_much(&w);
	if (!w.right)
		fail_msg("seed %llu", (unsigned long long)seed);
	assert_int_equal(fs_sync(fs), 0);
	assert_true(is_as_model(&w));
	free(w.model);
}

static void test_many_writers(void **state)
{
	uint64_t seed = seed_from_environment(6);
	struct writer writers[3];
	pthread_t threads[3];
	char name[] = "many0";

	for (int i = 0; i < 3; i++) {
		name[4] = (char)('0' + i);
		writer_init(&writers[i], name, seed * 3 + (uint64_t)i);
		assert_int_equal(pthread_create(&threads[i], NULL, write_much, &writers[i]), 0);
	}
	for (int i = 0; i < 3; i++) {
		pthread_join(threads[i], NULL);
		if (!writers[i].right)
			fail_msg("seed %llu, writer %d", (unsigned long long)seed, i);
		free(writers[i].model);
	}
}

static void test_growing(void **state)
{
	uint64_t ino = make_file("grows", 0);
	uint8_t *data = calloc(1, MOST);
	struct fs_attr attr;

	assert_non_null(data);
	memset(data, 7, MOST);
	assert_int_equal(fs_write(fs, ino, data, MOST, 0), MOST);
	assert_int_equal(fs_write(fs, ino, data, MOST, MOST / 2), MOST);
	assert_int_equal(fs_write(fs, ino, data, MOST / 4, 4096), MOST / 4);
	assert_int_equal(fs_getattr(fs, ino, &attr), 0);
	assert_int_equal(attr.size, MOST + MOST / 2);
	assert_int_equal(fs_write(fs, ino, data, MOST, MOST / 2), MOST);
	free(data);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_one_writer),
		cmocka_unit_test(test_many_writers),
		cmocka_unit_test(test_growing),
	};

	return cmocka_run_group_tests(tests, start, stop);
}
