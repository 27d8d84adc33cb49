/* SPDX-License-Identifier: MIT */
/* What clones were asked and how long it took; figures for who asks every second. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <string.h>

#include "base/latency.h"
#include "base/sizes.h"
#include "core/fs.h"
#include "image/image.h"
#include "store_dir.h"

#define IMAGE_SIZE (1 * MIB)

static int image_read(struct image *img, void *buf, size_t len, uint64_t off)
{
	memset(buf, 1, len);
	return 0;
}

static int image_next_data(struct image *img, uint64_t off, uint64_t *start, uint64_t *end)
{
	if (off >= img->size)
		return -ENXIO;
	*start = off;
	*end = img->size;
	return 0;
}

static void image_no_free(struct image *img)
{
}

static const struct image_ops image_ops = {
	.read = image_read, .next_data = image_next_data, .free = image_no_free};
static struct image image = {.ops = &image_ops, .size = IMAGE_SIZE};

static struct image *golden_test(void *arg, uint64_t id)
{
	return id == 1 ? &image : NULL;
}

static struct store_dir dir;
static struct fs *fs;

static int start(void **state)
{
	const struct fs_options options = {
		.journal_size = 2 * MIB,
		.reserve = 64 * KIB,
		.no_background = true,
		.store_fd = -1,
		.golden_test = golden_test,
	};

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

static uint64_t make_clone(const char *name)
{
	const struct fs_clone_target target = {.parent = FS_INO_ROOT, .name = name};
	struct fs_owner owner = {0};
	uint64_t golden, ino;
	size_t failed;

	assert_int_equal(fs_resolve(fs, "golden/1", &golden), 0);
	assert_int_equal(
		fs_clone(fs, golden, &target, 1, owner, 0600, false, false, NULL, &failed), 0);
	assert_int_equal(fs_resolve(fs, name, &ino), 0);
	return ino;
}

static void test_buckets(void **state)
{
	uint64_t below = 0;

	for (unsigned bucket = 0; bucket < LATENCY_BUCKETS; bucket++) {
		uint64_t bound = latency_bound(bucket);

		assert_true(bound > below);
		assert_int_equal(latency_bucket(below), bucket);
		assert_int_equal(latency_bucket(bound - 1), bucket);
		/* Never more than half above. */
		assert_true(bucket == 0 || bound <= below + below / 2);
		below = bound;
	}
	assert_int_equal(latency_bucket(UINT64_MAX), LATENCY_BUCKETS - 1);
}

static uint32_t counted(const struct fs_io *io, enum fs_io_kind kind)
{
	uint32_t sum = 0;

	for (int i = 0; i < LATENCY_BUCKETS; i++)
		sum += io->latency[kind][i];
	return sum;
}

static int flushed;

static void flush_done(void *arg, int result)
{
	assert_ptr_equal(arg, &flushed);
	assert_int_equal(result, 0);
	__atomic_fetch_add(&flushed, 1, __ATOMIC_SEQ_CST);
}

static void test_counts(void **state)
{
	uint64_t idle = make_clone("idle"), busy = make_clone("busy");
	char buf[8192] = "x";
	struct fs_io io;

	assert_false(fs_io(fs, idle, &io));
	assert_false(fs_io(fs, busy, &io));
	assert_false(fs_io(fs, 123456, &io));
	assert_int_equal(fs_write(fs, busy, buf, 5000, 100), 5000);
	assert_int_equal(fs_read(fs, busy, buf, sizeof(buf), 0), sizeof(buf));
	assert_int_equal(fs_read(fs, busy, buf, sizeof(buf), IMAGE_SIZE - 10), 10);
	flushed = 0;
	fs_fsync(fs, busy, flush_done, &flushed);
	assert_int_equal(fs_sync(fs), 0);
	assert_int_equal(__atomic_load_n(&flushed, __ATOMIC_SEQ_CST), 1);

	assert_true(fs_io(fs, busy, &io));
	assert_int_equal(io.write_ops, 1);
	assert_int_equal(io.write_bytes, 5000);
	assert_int_equal(io.read_ops, 2);
	assert_int_equal(io.read_bytes, sizeof(buf) + 10);
	assert_int_equal(io.flush_ops, 1);
	assert_true(io.read_ns > 0 && io.write_ns > 0 && io.flush_ns > 0);
	assert_int_equal(counted(&io, FS_IO_READ), 2);
	assert_int_equal(counted(&io, FS_IO_WRITE), 1);
	assert_int_equal(counted(&io, FS_IO_FLUSH), 1);
	/* What fails was asked too. */
	assert_true(fs_write(fs, busy, buf, 1, UINT64_MAX / 2) < 0);
	assert_true(fs_io(fs, busy, &io));
	assert_int_equal(io.write_ops, 2);
	assert_int_equal(io.write_bytes, 5000);
	assert_false(fs_io(fs, idle, &io));
}

static struct fs_figures quick(uint64_t ino, int64_t *budget)
{
	struct fs_figures figures;

	assert_int_equal(fs_figures_quick(fs, ino, budget, &figures), 0);
	assert_int_equal(figures.unique_bytes + figures.shared_golden_bytes, figures.data_bytes);
	return figures;
}

static void test_figures(void **state)
{
	uint64_t ino = make_clone("figures");
	int64_t budget = 0, much = INT64_C(1) << 40;
	char block[4096] = "x";
	struct fs_figures figures;
	struct fs_store_figures store;

	/* Without time to count: an estimate, and what is its own exactly. */
	assert_int_equal(fs_write(fs, ino, block, sizeof(block), 0), sizeof(block));
	figures = quick(ino, &budget);
	assert_int_equal(figures.unique_bytes, sizeof(block));
	assert_int_equal(figures.shared_golden_bytes, IMAGE_SIZE - sizeof(block));
	/* A block of zeros hides one of the image's, too. */
	assert_int_equal(fs_fallocate(fs, ino, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 8192,
				 4096), 0);
	assert_int_equal(quick(ino, &budget).shared_golden_bytes, IMAGE_SIZE - 4096);
	assert_int_equal(quick(ino, &much).shared_golden_bytes, IMAGE_SIZE - 8192);
	assert_true(much < INT64_C(1) << 40);
	/* Kept from then on. */
	assert_int_equal(quick(ino, &budget).shared_golden_bytes, IMAGE_SIZE - 8192);
	assert_int_equal(fs_write(fs, ino, block, sizeof(block), 16384), sizeof(block));
	figures = quick(ino, &budget);
	assert_int_equal(figures.unique_bytes, 2 * sizeof(block));
	assert_true(figures.shared_golden_bytes == IMAGE_SIZE - 8192);

	assert_int_equal(fs_store_figures_quick(fs, &budget, &store), 0);
	assert_true(store.clones >= 1 && store.unique_bytes >= 2 * sizeof(block));
	assert_int_equal(fs_figures_quick(fs, FS_INO_ROOT, &budget, &figures), -ESTALE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_buckets),
		cmocka_unit_test(test_counts),
		cmocka_unit_test(test_figures),
	};

	return cmocka_run_group_tests(tests, start, stop);
}
