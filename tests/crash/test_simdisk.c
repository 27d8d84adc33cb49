/* SPDX-License-Identifier: MIT */
/*
 * The simulated disk and the model, tested before they test anything else: a disk that forgave a
 * missing sync, or a model that accepted anything, would make every crash test pass.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/sizes.h"
#include "image/image.h"
#include "model.h"
#include "pagemap.h"
#include "rng.h"
#include "simdisk.h"

#define SEEDS 200

static struct io *io_of(struct simdisk *disk)
{
	return simdisk_io(disk);
}

static int open_at(struct simdisk *disk, const char *path, int flags)
{
	return io_of(disk)->ops->open(io_of(disk), path, flags);
}

static void write_at(struct simdisk *disk, int fd, int c, size_t len, uint64_t off)
{
	void *buf = malloc(len);

	memset(buf, c, len);
	assert_int_equal(io_pwrite(io_of(disk), fd, buf, len, off), 0);
	free(buf);
}

static void sync_at(struct simdisk *disk, int fd)
{
	assert_int_equal(io_of(disk)->ops->fdatasync(io_of(disk), fd), 0);
}

static void sync_names(struct simdisk *disk, const char *path)
{
	assert_int_equal(io_of(disk)->ops->syncdir(io_of(disk), path), 0);
}

/* The byte at off; -1 past the end. */
static int byte_at(struct simdisk *disk, const char *path, uint64_t off)
{
	int fd = open_at(disk, path, O_RDONLY);
	uint8_t c = 0;
	ssize_t n;

	assert_true(fd >= 0);
	n = io_of(disk)->ops->pread(io_of(disk), fd, &c, 1, off);
	io_of(disk)->ops->close(io_of(disk), fd);
	return n == 1 ? c : -1;
}

static bool exists(struct simdisk *disk, const char *path)
{
	int fd = open_at(disk, path, O_RDONLY);

	if (fd >= 0)
		io_of(disk)->ops->close(io_of(disk), fd);
	else
		assert_int_equal(fd, -ENOENT);
	return fd >= 0;
}

/* A disk with a synced file "a" of 16 KiB of 'o'. */
static struct simdisk *with_file(int *fd)
{
	struct simdisk *disk = simdisk_new(GIB);

	*fd = open_at(disk, "a", O_RDWR | O_CREAT | O_EXCL);
	assert_true(*fd >= 0);
	write_at(disk, *fd, 'o', 16384, 0);
	sync_at(disk, *fd);
	sync_names(disk, "");
	return disk;
}

/* ---- page maps ---- */

static void test_pagemap_against_array(void **state)
{
	enum { SIZE = 1 << 18 };
	uint8_t *plain = calloc(1, SIZE), *got = malloc(SIZE);
	struct pagemap map = {0}, copies[8] = {{0}};
	uint8_t *plains[8] = {0};
	struct rng rng = {1};

	(void)state;
	for (int i = 0; i < 3000; i++) {
		uint64_t off = rng_below(&rng, SIZE), len = rng_below(&rng, min_u64(SIZE - off, 20000));
		uint64_t what = rng_below(&rng, 4), slot = rng_below(&rng, 8);

		if (what == 0) {
			pagemap_clear(&map, off, off + len);
			memset(plain + off, 0, len);
		} else {
			memset(plain + off, what == 1 ? 0 : i, len);
			pagemap_write(&map, what == 1 ? NULL : plain + off, len, off);
		}
		if (i % 50 == 0) {
			pagemap_release(&copies[slot]);
			pagemap_clone(&copies[slot], &map);
			free(plains[slot]);
			plains[slot] = memcpy(malloc(SIZE), plain, SIZE);
		}
	}
	pagemap_read(&map, got, SIZE, 0);
	assert_memory_equal(got, plain, SIZE);
	for (int i = 0; i < 8; i++) {
		if (plains[i]) {
			pagemap_read(&copies[i], got, SIZE, 0);
			assert_memory_equal(got, plains[i], SIZE);
		}
		pagemap_release(&copies[i]);
		free(plains[i]);
	}
	pagemap_clear(&map, 0, PAGEMAP_MAX);
	assert_int_equal(pagemap_pages(&map), 0);
	assert_null(map.root);
	free(plain);
	free(got);
}

static void test_pagemap_is_sparse(void **state)
{
	struct pagemap map = {0}, other = {0};
	uint64_t start, end;

	(void)state;
	pagemap_write(&map, "x", 1, 400 * GIB + 5000);
	assert_int_equal(pagemap_pages(&map), 1);
	assert_int_equal(pagemap_next(&map, 0, &start, &end), 0);
	assert_int_equal(start, 400 * GIB + 4096);
	assert_int_equal(end, 400 * GIB + 8192);
	assert_int_equal(pagemap_missing(&map, 400 * GIB, 8192), 1);
	assert_int_not_equal(pagemap_next(&map, end, &start, &end), 0);
	/* zeros that are allocated hash as a hole does; other places hash differently */
	pagemap_write(&other, NULL, 100000, 0);
	assert_int_equal(pagemap_pages(&other), 25);
	assert_int_equal(pagemap_hash(&other), 0);
	pagemap_write(&other, "x", 1, 5000);
	assert_int_not_equal(pagemap_hash(&other), 0);
	assert_int_not_equal(pagemap_hash(&other), pagemap_hash(&map));
	pagemap_release(&map);
	pagemap_release(&other);
}

/* ---- what is durable ---- */

static void test_unsynced_data_is_lost_or_kept(void **state)
{
	int fd;
	struct simdisk *disk = with_file(&fd), *after;

	(void)state;
	write_at(disk, fd, 'n', 4096, 4096);
	write_at(disk, fd, 'x', 4096, 16384);
	after = simdisk_crash(disk, SIMDISK_DROP, 1);
	assert_int_equal(byte_at(after, "a", 5000), 'o');
	assert_int_equal(byte_at(after, "a", 16384), -1);
	simdisk_free(after);
	after = simdisk_crash(disk, SIMDISK_KEEP, 1);
	assert_int_equal(byte_at(after, "a", 5000), 'n');
	assert_int_equal(byte_at(after, "a", 20479), 'x');
	simdisk_free(after);
	after = simdisk_clone(disk);
	assert_int_equal(byte_at(after, "a", 5000), 'n');
	assert_int_equal(simdisk_unsynced(after), 2);
	simdisk_free(after);
	sync_at(disk, fd);
	after = simdisk_crash(disk, SIMDISK_DROP, 1);
	assert_int_equal(byte_at(after, "a", 5000), 'n');
	assert_int_equal(byte_at(after, "a", 20479), 'x');
	simdisk_free(after);
	simdisk_free(disk);
}

static void test_sync_is_of_one_file(void **state)
{
	int fd, other;
	struct simdisk *disk = with_file(&fd), *after;

	(void)state;
	other = open_at(disk, "b", O_RDWR | O_CREAT);
	sync_names(disk, ".");
	write_at(disk, fd, 'n', 512, 0);
	write_at(disk, other, 'n', 512, 0);
	sync_at(disk, other);
	after = simdisk_crash(disk, SIMDISK_DROP, 1);
	assert_int_equal(byte_at(after, "a", 0), 'o');
	assert_int_equal(byte_at(after, "b", 0), 'n');
	simdisk_free(after);
	simdisk_free(disk);
}

static void test_sectors_tear(void **state)
{
	int fd, torn = 0, news = 0;
	struct simdisk *disk = with_file(&fd), *after;

	(void)state;
	write_at(disk, fd, 'n', 8192, 0);
	for (uint64_t seed = 0; seed < SEEDS; seed++) {
		int kinds = 0;

		after = simdisk_crash(disk, SIMDISK_SECTORS, seed);
		for (uint64_t s = 0; s < 16; s++) {
			int c = byte_at(after, "a", s * 512);

			assert_true(c == 'o' || c == 'n');
			assert_int_equal(byte_at(after, "a", s * 512 + 511), c);
			kinds |= c == 'n' ? 1 : 2;
			news += c == 'n';
		}
		assert_int_equal(byte_at(after, "a", 8192), 'o');
		torn += kinds == 3;
		simdisk_free(after);
	}
	assert_true(torn > SEEDS / 4);
	assert_true(news > SEEDS && news < 15 * SEEDS);
	simdisk_free(disk);
}

/* A sector goes to the disk with all that was in the cache, not only the bytes of one write. */
static void test_sectors_are_whole(void **state)
{
	int fd;
	struct simdisk *disk = with_file(&fd), *after;

	(void)state;
	write_at(disk, fd, '1', 100, 0);
	write_at(disk, fd, '2', 100, 100);
	for (uint64_t seed = 0; seed < SEEDS; seed++) {
		after = simdisk_crash(disk, SIMDISK_SECTORS, seed);
		if (byte_at(after, "a", 100) == '2')
			assert_int_equal(byte_at(after, "a", 0), '1');
		simdisk_free(after);
	}
	simdisk_free(disk);
}

static void test_files_are_reordered(void **state)
{
	int fd, other, later_only = 0;
	struct simdisk *disk = with_file(&fd), *after;

	(void)state;
	other = open_at(disk, "b", O_RDWR | O_CREAT);
	write_at(disk, other, 'o', 512, 0);
	sync_at(disk, other);
	sync_names(disk, "");
	write_at(disk, fd, 'n', 512, 0);
	write_at(disk, other, 'n', 512, 0);
	for (uint64_t seed = 0; seed < SEEDS; seed++) {
		after = simdisk_crash(disk, SIMDISK_FILES, seed);
		later_only += byte_at(after, "a", 0) == 'o' && byte_at(after, "b", 0) == 'n';
		simdisk_free(after);
		after = simdisk_crash(disk, SIMDISK_PREFIX, seed);
		assert_false(byte_at(after, "a", 0) == 'o' && byte_at(after, "b", 0) == 'n');
		simdisk_free(after);
	}
	assert_true(later_only > 10);
	simdisk_free(disk);
}

static void test_size_and_data_part(void **state)
{
	int fd, zeros = 0, absent = 0;
	struct simdisk *disk = with_file(&fd), *after;

	(void)state;
	write_at(disk, fd, 'n', 1024, 16384);
	for (uint64_t seed = 0; seed < SEEDS; seed++) {
		int c;

		after = simdisk_crash(disk, SIMDISK_SECTORS, seed);
		c = byte_at(after, "a", 16384);
		assert_true(c == -1 || c == 0 || c == 'n');
		zeros += c == 0;
		absent += c == -1;
		simdisk_free(after);
	}
	assert_true(zeros > 10 && absent > 10);
	simdisk_free(disk);
}

static void test_punch_and_truncate_are_changes(void **state)
{
	int fd;
	struct simdisk *disk = with_file(&fd), *after;
	struct io *io = io_of(disk);
	uint64_t start, end;

	(void)state;
	assert_int_equal(io->ops->punch(io, fd, 4096, 4096), 0);
	assert_int_equal(byte_at(disk, "a", 4096), 0);
	assert_int_equal(io->ops->next_data(io, fd, 4096, &start, &end), 0);
	assert_int_equal(start, 8192);
	assert_int_equal(end, 16384);
	assert_int_equal(io->ops->truncate(io, fd, 10000), 0);
	after = simdisk_crash(disk, SIMDISK_DROP, 1);
	assert_int_equal(byte_at(after, "a", 4096), 'o');
	assert_int_equal(byte_at(after, "a", 16383), 'o');
	simdisk_free(after);
	after = simdisk_crash(disk, SIMDISK_KEEP, 1);
	assert_int_equal(byte_at(after, "a", 4096), 0);
	assert_int_equal(byte_at(after, "a", 10000), -1);
	simdisk_free(after);
	simdisk_free(disk);
}

/* ---- names ---- */

static void test_names_need_syncdir(void **state)
{
	struct simdisk *disk = simdisk_new(GIB), *after;
	struct io *io = io_of(disk);
	int fd, found = 0;

	(void)state;
	assert_int_equal(io->ops->mkdir(io, "d"), 0);
	assert_int_equal(io->ops->mkdir(io, "d"), 0);
	fd = open_at(disk, "d/f", O_RDWR | O_CREAT);
	write_at(disk, fd, 'x', 512, 0);
	sync_at(disk, fd);
	after = simdisk_crash(disk, SIMDISK_DROP, 1);
	assert_false(exists(after, "d/f"));
	simdisk_free(after);
	sync_names(disk, "d"); /* but not the folder itself */
	after = simdisk_crash(disk, SIMDISK_DROP, 1);
	assert_false(exists(after, "d/f"));
	simdisk_free(after);
	for (uint64_t seed = 0; seed < SEEDS; seed++) {
		after = simdisk_crash(disk, SIMDISK_SECTORS, seed);
		found += exists(after, "d/f");
		simdisk_free(after);
	}
	assert_true(found > 10 && found < SEEDS - 10);
	sync_names(disk, ".");
	after = simdisk_crash(disk, SIMDISK_DROP, 1);
	assert_int_equal(byte_at(after, "d/f", 0), 'x');
	simdisk_free(after);
	simdisk_free(disk);
}

static void test_rename_is_atomic(void **state)
{
	int fd, other, olds = 0, news = 0;
	struct simdisk *disk = with_file(&fd), *after;
	struct io *io = io_of(disk);

	(void)state;
	other = open_at(disk, "a.new", O_RDWR | O_CREAT);
	write_at(disk, other, 'n', 512, 0);
	sync_at(disk, other);
	assert_int_equal(io->ops->rename(io, "a.new", "a"), 0);
	for (uint64_t seed = 0; seed < SEEDS; seed++) {
		int c;

		after = simdisk_crash(disk, (enum simdisk_policy)(seed % SIMDISK_POLICIES), seed);
		c = byte_at(after, "a", 0);
		assert_true(c == 'o' || c == 'n');
		olds += c == 'o';
		news += c == 'n';
		simdisk_free(after);
	}
	assert_true(olds > 10 && news > 10);
	sync_names(disk, "");
	after = simdisk_crash(disk, SIMDISK_DROP, 1);
	assert_int_equal(byte_at(after, "a", 0), 'n');
	assert_false(exists(after, "a.new"));
	simdisk_free(after);
	simdisk_free(disk);
}

static void test_unlink_comes_back(void **state)
{
	int fd;
	struct simdisk *disk = with_file(&fd), *after;
	struct io *io = io_of(disk);

	(void)state;
	write_at(disk, fd, 'n', 512, 0);
	assert_int_equal(io->ops->unlink(io, "a"), 0);
	assert_false(exists(disk, "a"));
	write_at(disk, fd, 'm', 512, 512); /* still open */
	after = simdisk_crash(disk, SIMDISK_DROP, 1);
	assert_int_equal(byte_at(after, "a", 0), 'o');
	simdisk_free(after);
	sync_names(disk, "");
	after = simdisk_crash(disk, SIMDISK_DROP, 1);
	assert_false(exists(after, "a"));
	simdisk_free(after);
	io->ops->close(io, fd);
	assert_int_equal(simdisk_used(disk), 0);
	simdisk_free(disk);
}

/* ---- faults ---- */

static void test_failed_sync_loses_for_good(void **state)
{
	int fd;
	struct simdisk *disk = with_file(&fd), *after;
	struct io *io = io_of(disk);

	(void)state;
	write_at(disk, fd, 'n', 512, 0);
	simdisk_fail(disk, SIMDISK_FDATASYNC, 1, -EIO, false, NULL);
	assert_int_equal(io->ops->fdatasync(io, fd), -EIO);
	assert_int_equal(byte_at(disk, "a", 0), 'n');
	write_at(disk, fd, 'm', 512, 512);
	sync_at(disk, fd);
	after = simdisk_crash(disk, SIMDISK_KEEP, 1);
	assert_int_equal(byte_at(after, "a", 0), 'o');
	assert_int_equal(byte_at(after, "a", 512), 'm');
	assert_int_equal(simdisk_faults(disk), 1);
	simdisk_free(after);
	simdisk_free(disk);
}

static void test_faults_are_counted(void **state)
{
	int fd;
	struct simdisk *disk = with_file(&fd);
	struct io *io = io_of(disk);

	(void)state;
	simdisk_fail(disk, SIMDISK_PWRITE, 3, -EIO, false, "a");
	write_at(disk, fd, 'n', 512, 0);
	write_at(disk, fd, 'n', 512, 0);
	assert_int_equal(io_pwrite(io, fd, "xy", 2, 0), -EIO);
	write_at(disk, fd, 'n', 512, 0);
	simdisk_fail(disk, SIMDISK_SYNCDIR, 1, -EIO, true, NULL);
	assert_int_equal(io->ops->syncdir(io, ""), -EIO);
	assert_int_equal(io->ops->syncdir(io, ""), -EIO);
	simdisk_heal(disk);
	assert_int_equal(io->ops->syncdir(io, ""), 0);
	simdisk_free(disk);
}

static void test_space_is_limited(void **state)
{
	struct simdisk *disk = simdisk_new(64 * KIB);
	struct io *io = io_of(disk);
	struct io_space space;
	char buf[8192] = "x";
	int fd = open_at(disk, "a", O_RDWR | O_CREAT);

	(void)state;
	for (uint64_t i = 0; i < 8; i++)
		assert_int_equal(io_pwrite(io, fd, buf, sizeof(buf), i * 8192), 0);
	assert_int_equal(io_pwrite(io, fd, buf, sizeof(buf), 8 * 8192), -ENOSPC);
	assert_int_equal(io_pwrite(io, fd, buf, sizeof(buf), 0), 0);
	assert_int_equal(io->ops->punch(io, fd, 0, 16384), 0);
	assert_int_equal(io->ops->space(io, &space), 0);
	assert_int_equal(space.free, 16384);
	assert_int_equal(io_pwrite(io, fd, buf, sizeof(buf), 8 * 8192), 0);
	simdisk_free(disk);
}

static void test_hash_is_of_content(void **state)
{
	int fd, other;
	struct simdisk *disk = with_file(&fd), *same = with_file(&other);

	(void)state;
	assert_int_equal(simdisk_hash(disk), simdisk_hash(same));
	write_at(disk, fd, 'n', 1, 16000);
	assert_int_not_equal(simdisk_hash(disk), simdisk_hash(same));
	write_at(same, other, 'n', 1, 16000);
	assert_int_equal(simdisk_hash(disk), simdisk_hash(same));
	simdisk_free(disk);
	simdisk_free(same);
}

/* ---- the model, against a store that is one plain file ---- */

/*
 * The simplest store there is: one file system file per model file, writes in place. It is right
 * when it syncs before it says so, and each way of being wrong must be noticed.
 */
struct fake {
	struct simdisk *disk;
	int fd;
	struct model *model;
	struct model_object *object;
};

static ssize_t fake_read(void *arg, uint64_t ino, void *buf, size_t len, uint64_t off)
{
	struct simdisk *disk = arg;
	int fd = open_at(disk, "a", O_RDONLY);
	ssize_t n = io_of(disk)->ops->pread(io_of(disk), fd, buf, len, off);

	(void)ino;
	io_of(disk)->ops->close(io_of(disk), fd);
	return n;
}

static void fake_init(struct fake *f)
{
	f->disk = simdisk_new(GIB);
	f->fd = open_at(f->disk, "a", O_RDWR | O_CREAT);
	sync_names(f->disk, "");
	f->model = model_new();
	model_tree_begin(f->model);
	f->object = model_add(f->model, "a", MODEL_FILE);
	f->object->ino = 7;
	model_tree_end(f->model, true);
	model_synced_all(f->model);
}

static void fake_release(struct fake *f)
{
	model_free(f->model);
	simdisk_free(f->disk);
}

static void fake_write(struct fake *f, uint64_t seed, uint64_t off, size_t len)
{
	model_value value = model_random(f->model, seed);
	uint8_t *buf = malloc(len);

	model_fill_range(f->model, value, off, len, buf);
	model_write_begin(f->model, f->object, value, off, len, true);
	assert_int_equal(io_pwrite(io_of(f->disk), f->fd, buf, len, off), 0);
	model_change_end(f->model, f->object);
	free(buf);
}

static void fake_sync(struct fake *f, bool really)
{
	if (really)
		sync_at(f->disk, f->fd);
	model_synced(f->model, f->object, model_tree_mark(f->model));
}

static int ask(struct fake *f, struct simdisk *disk, enum model_mode mode)
{
	struct model_seen seen = {.path = "a", .kind = MODEL_FILE, .ino = 7};
	struct model_view view = {&seen, 1, fake_read, disk};
	struct io_stat st;
	int fd = open_at(disk, "a", O_RDONLY);

	io_of(disk)->ops->stat(io_of(disk), fd, &st);
	io_of(disk)->ops->close(io_of(disk), fd);
	seen.size = st.size;
	return model_check(f->model, &view, mode, false);
}

static int crash_and_ask(struct fake *f)
{
	int bad = 0;

	for (uint64_t seed = 0; seed < SEEDS; seed++) {
		struct simdisk *after = simdisk_crash(f->disk,
			(enum simdisk_policy)(seed % SIMDISK_POLICIES), seed);

		bad += ask(f, after, MODEL_POWER) != 0;
		simdisk_free(after);
	}
	return bad;
}

static void test_model_accepts_an_honest_store(void **state)
{
	struct rng rng = {5};
	struct fake f;

	(void)state;
	fake_init(&f);
	for (int i = 0; i < 60; i++) {
		fake_write(&f, (uint64_t)i, rng_below(&rng, 60000), 1 + rng_below(&rng, 9000));
		if (i % 7 == 0)
			fake_sync(&f, true);
		assert_int_equal(ask(&f, f.disk, MODEL_EXACT), 0);
		/* in-place writes that are not of whole sectors tear at 512 bytes only */
		assert_int_equal(crash_and_ask(&f), 0);
	}
	fake_release(&f);
}

static void test_model_catches_a_lying_sync(void **state)
{
	struct fake f;

	(void)state;
	fake_init(&f);
	fake_write(&f, 1, 0, 8192);
	fake_sync(&f, true);
	fake_write(&f, 2, 0, 4096);
	assert_int_equal(crash_and_ask(&f), 0);
	fake_sync(&f, false);
	assert_int_equal(ask(&f, f.disk, MODEL_EXACT), 0);
	assert_true(crash_and_ask(&f) > SEEDS / 10);
	fake_release(&f);
}

static void test_model_catches_wrong_bytes(void **state)
{
	struct fake f;

	(void)state;
	fake_init(&f);
	fake_write(&f, 1, 0, 20000);
	fake_sync(&f, true);
	assert_int_equal(ask(&f, f.disk, MODEL_EXACT), 0);
	write_at(f.disk, f.fd, 0, 1, 12345); /* one byte */
	assert_int_not_equal(ask(&f, f.disk, MODEL_EXACT), 0);
	assert_int_not_equal(ask(&f, f.disk, MODEL_POWER), 0);
	assert_non_null(strstr(model_reason(f.model), "sector 24 "));
	fake_release(&f);
}

static void test_model_catches_older_than_synced(void **state)
{
	uint8_t buf[4096];
	struct fake f;

	(void)state;
	fake_init(&f);
	fake_write(&f, 1, 0, 4096);
	fake_sync(&f, true);
	fake_write(&f, 2, 0, 4096);
	fake_sync(&f, true);
	model_fill_range(f.model, 1, 0, sizeof(buf), buf);
	assert_int_equal(io_pwrite(io_of(f.disk), f.fd, buf, 512, 512), 0);
	assert_int_not_equal(ask(&f, f.disk, MODEL_POWER), 0);
	fake_release(&f);
}

static void test_model_exact_allows_only_what_is_in_flight(void **state)
{
	uint8_t buf[4096];
	struct fake f;

	(void)state;
	fake_init(&f);
	fake_write(&f, 1, 0, 8192);
	model_fill_range(f.model, model_random(f.model, 9), 0, sizeof(buf), buf);
	model_write_begin(f.model, f.object, 2, 0, sizeof(buf), true);
	assert_int_equal(io_pwrite(io_of(f.disk), f.fd, buf, 1024, 0), 0);
	assert_int_equal(ask(&f, f.disk, MODEL_EXACT), 0);
	assert_int_equal(io_pwrite(io_of(f.disk), f.fd, buf, sizeof(buf), 0), 0);
	assert_int_equal(ask(&f, f.disk, MODEL_EXACT), 0);
	model_change_end(f.model, f.object);
	assert_int_equal(ask(&f, f.disk, MODEL_EXACT), 0);
	model_fill_range(f.model, 1, 0, sizeof(buf), buf);
	assert_int_equal(io_pwrite(io_of(f.disk), f.fd, buf, 512, 0), 0);
	assert_int_not_equal(ask(&f, f.disk, MODEL_EXACT), 0);
	assert_int_equal(ask(&f, f.disk, MODEL_POWER), 0);
	fake_release(&f);
}

static void test_model_sizes(void **state)
{
	struct fake f;
	struct io *io;

	(void)state;
	fake_init(&f);
	io = io_of(f.disk);
	fake_write(&f, 1, 0, 10000);
	fake_sync(&f, true);
	model_truncate_begin(f.model, f.object, 3000);
	assert_int_equal(io->ops->truncate(io, f.fd, 3000), 0);
	model_change_end(f.model, f.object);
	assert_int_equal(ask(&f, f.disk, MODEL_EXACT), 0);
	assert_int_equal(crash_and_ask(&f), 0);
	model_truncate_begin(f.model, f.object, 9000);
	assert_int_equal(io->ops->truncate(io, f.fd, 9000), 0);
	model_change_end(f.model, f.object);
	assert_int_equal(ask(&f, f.disk, MODEL_EXACT), 0); /* zeros from 3000 on */
	fake_sync(&f, true);
	assert_int_equal(crash_and_ask(&f), 0);
	assert_int_equal(io->ops->truncate(io, f.fd, 8999), 0);
	assert_int_not_equal(ask(&f, f.disk, MODEL_POWER), 0);
	fake_release(&f);
}

static void test_model_adopts_what_it_saw(void **state)
{
	struct model_seen seen = {.path = "a", .kind = MODEL_FILE, .ino = 7, .size = 8192};
	struct model_view view = {&seen, 1, fake_read, NULL};
	struct simdisk *after;
	struct fake f;

	(void)state;
	fake_init(&f);
	fake_write(&f, 1, 0, 8192);
	fake_sync(&f, true);
	fake_write(&f, 2, 0, 8192);
	after = simdisk_crash(f.disk, SIMDISK_DROP, 1);
	view.arg = after;
	assert_int_equal(model_check(f.model, &view, MODEL_POWER, false), 0);
	assert_int_equal(model_adopt(f.model, &view), 0);
	assert_int_equal(ask(&f, after, MODEL_EXACT), 0);
	assert_int_not_equal(ask(&f, f.disk, MODEL_POWER), 0); /* the newer value is gone */
	simdisk_free(after);
	fake_release(&f);
}

static int ask_tree(struct model *model, enum model_mode mode, size_t count, ...)
{
	struct model_seen seen[8];
	struct model_view view = {seen, count, fake_read, NULL};
	va_list ap;

	memset(seen, 0, sizeof(seen));
	va_start(ap, count);
	for (size_t i = 0; i < count; i++) {
		strcpy(seen[i].path, va_arg(ap, const char *));
		seen[i].ino = (uint64_t)va_arg(ap, int);
		seen[i].kind = MODEL_FOLDER;
	}
	va_end(ap);
	return model_check(model, &view, mode, false);
}

static void test_model_trees(void **state)
{
	struct model *m = model_new();

	(void)state;
	model_tree_begin(m);
	model_add(m, "x", MODEL_FOLDER)->ino = 1;
	model_tree_end(m, true);
	model_synced_all(m);
	model_tree_begin(m);
	model_add(m, "y", MODEL_FOLDER)->ino = 2;
	model_tree_end(m, true);
	model_tree_begin(m);
	model_move(m, "y", "z");
	assert_int_equal(ask_tree(m, MODEL_EXACT, 2, "x", 1, "y", 2), 0);
	assert_int_equal(ask_tree(m, MODEL_EXACT, 2, "z", 2, "x", 1), 0);
	model_tree_end(m, true);
	assert_int_not_equal(ask_tree(m, MODEL_EXACT, 2, "x", 1, "y", 2), 0);
	assert_int_equal(ask_tree(m, MODEL_POWER, 2, "x", 1, "y", 2), 0);
	assert_int_equal(ask_tree(m, MODEL_POWER, 1, "x", 1), 0);
	assert_int_not_equal(ask_tree(m, MODEL_POWER, 1, "z", 2), 0);
	assert_int_not_equal(ask_tree(m, MODEL_POWER, 3, "x", 1, "y", 2, "z", 2), 0);
	assert_int_not_equal(ask_tree(m, MODEL_POWER, 2, "x", 1, "z", 3), 0);
	model_synced_all(m);
	assert_int_not_equal(ask_tree(m, MODEL_POWER, 1, "x", 1), 0);
	assert_int_equal(ask_tree(m, MODEL_POWER, 2, "x", 1, "z", 2), 0);
	model_free(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_pagemap_against_array),
		cmocka_unit_test(test_pagemap_is_sparse),
		cmocka_unit_test(test_unsynced_data_is_lost_or_kept),
		cmocka_unit_test(test_sync_is_of_one_file),
		cmocka_unit_test(test_sectors_tear),
		cmocka_unit_test(test_sectors_are_whole),
		cmocka_unit_test(test_files_are_reordered),
		cmocka_unit_test(test_size_and_data_part),
		cmocka_unit_test(test_punch_and_truncate_are_changes),
		cmocka_unit_test(test_names_need_syncdir),
		cmocka_unit_test(test_rename_is_atomic),
		cmocka_unit_test(test_unlink_comes_back),
		cmocka_unit_test(test_failed_sync_loses_for_good),
		cmocka_unit_test(test_faults_are_counted),
		cmocka_unit_test(test_space_is_limited),
		cmocka_unit_test(test_hash_is_of_content),
		cmocka_unit_test(test_model_accepts_an_honest_store),
		cmocka_unit_test(test_model_catches_a_lying_sync),
		cmocka_unit_test(test_model_catches_wrong_bytes),
		cmocka_unit_test(test_model_catches_older_than_synced),
		cmocka_unit_test(test_model_exact_allows_only_what_is_in_flight),
		cmocka_unit_test(test_model_sizes),
		cmocka_unit_test(test_model_adopts_what_it_saw),
		cmocka_unit_test(test_model_trees),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
