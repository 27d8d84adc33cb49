/* SPDX-License-Identifier: MIT */
/*
 * Another base for a clone, with something happening at a chosen moment: between two pieces of the
 * work it is written to, cut, cloned, removed; or the power is lost when it was told to be done.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/sizes.h"
#include "core/promote.h"
#include "goldfs/format.h"
#include "image/image.h"
#include "simdisk.h"
#include "workload.h"

enum { BLOCK = 4096, BLOCKS = 1024, SIZE = BLOCKS * BLOCK, IMAGES = 3 };

static struct simdisk *disk;
static struct fs *fs;
static uint8_t bytes[IMAGES][SIZE];
static struct image *images[IMAGES];
static uint8_t want[2 * SIZE]; /* what the clone that a test works with shows */

static struct image *golden_test(void *arg, uint64_t id)
{
	return id && id <= IMAGES ? images[id - 1] : NULL;
}

static int open_store(void)
{
	struct fs_options options = {.journal_size = MIB, .reserve = 64 * KIB, .no_background = true,
		.dedup = FS_DEDUP_OFF, .store_fd = -1, .golden_test = golden_test};

	return fs_open(&fs, simdisk_io(disk), &options);
}

static void reopen(struct simdisk *other)
{
	fs_abandon(steal_pointer(&fs));
	simdisk_free(disk);
	disk = other;
	assert_int_equal(open_store(), 0);
}

/* All of the images is data; every fourth block of the second is another one, and every third of the
 * last. */
static int setup_with(uint64_t capacity)
{
	for (size_t i = 0; i < SIZE; i++)
		bytes[0][i] = bytes[1][i] = bytes[2][i] = (uint8_t)(1 + i % 251 + i / BLOCK);
	for (size_t b = 0; b < BLOCKS; b += 4)
		memset(bytes[1] + b * BLOCK, (int)(1 + b % 200), BLOCK);
	for (size_t b = 0; b < BLOCKS; b += 3)
		memset(bytes[2] + b * BLOCK, (int)(1 + b % 100), BLOCK);
	for (int i = 0; i < IMAGES; i++)
		assert_int_equal(image_memory_new(&images[i], bytes[i], SIZE), 0);
	disk = simdisk_new(capacity);
	assert_int_equal(open_store(), 0);
	return 0;
}

static int setup(void **state)
{
	return setup_with(GIB);
}

static int teardown(void **state)
{
	if (fs)
		fs_abandon(steal_pointer(&fs));
	simdisk_free(disk);
	for (int i = 0; i < IMAGES; i++)
		image_free(images[i]);
	return 0;
}

/* ---- files ---- */

static uint64_t lookup(uint64_t folder, const char *name)
{
	struct fs_attr attr;

	assert_int_equal(fs_lookup(fs, folder, name, &attr), 0);
	fs_forget(fs, attr.ino, 1);
	return attr.ino;
}

static uint64_t golden(int i)
{
	char name[8];

	snprintf(name, sizeof(name), "%d", i);
	return lookup(FS_INO_GOLDEN, name);
}

static uint64_t clone_of(uint64_t source, const char *name)
{
	struct fs_clone_target target = {FS_INO_ROOT, name};
	size_t failed;

	assert_int_equal(fs_clone(fs, source, &target, 1, (struct fs_owner){0, 0}, 0600, false, false,
				 NULL, &failed),
		0);
	return lookup(FS_INO_ROOT, name);
}

static void put(uint64_t ino, uint64_t off, size_t len, const void *from)
{
	assert_int_equal(fs_write(fs, ino, from, len, off), (ssize_t)len);
	memcpy(want + off, from, len);
}

static void fill(uint64_t ino, uint64_t block, uint64_t count, int c)
{
	CLEANUP_FREE uint8_t *buf = malloc(count * BLOCK);

	memset(buf, c, count * BLOCK);
	put(ino, block * BLOCK, count * BLOCK, buf);
}

static void assert_shows(uint64_t ino, size_t size)
{
	CLEANUP_FREE uint8_t *buf = calloc(1, size + 1);

	assert_int_equal(fs_read(fs, ino, buf, size + 1, 0), (ssize_t)size);
	for (size_t i = 0; i < size; i++)
		if (buf[i] != want[i])
			fail_msg("byte %zu of block %zu is 0x%02x, not 0x%02x", i % BLOCK, i / BLOCK,
				buf[i], want[i]);
}

static void assert_is(uint64_t ino, const char *mode, const char *base)
{
	struct fs_info info;

	assert_int_equal(fs_info(fs, ino, FS_NOW, &info), 0);
	assert_string_equal(info.mode, mode);
	assert_string_equal(info.base, base);
	assert_string_equal(info.state, "ok");
	fs_info_release(&info);
}

static uint64_t unique(uint64_t ino)
{
	struct fs_info info;
	uint64_t n;

	assert_int_equal(fs_info(fs, ino, FS_NOW, &info), 0);
	n = info.figures.unique_bytes;
	fs_info_release(&info);
	return n;
}

static int count_file(void *arg, const char *name)
{
	const char *dot = strrchr(name, '.');

	*(unsigned *)arg += dot && strcmp(dot, ".data") == 0;
	return 0;
}

/* Layers that have data. */
static unsigned data_files(void)
{
	struct io *io = simdisk_io(disk);
	unsigned n = 0;

	io->ops->list(io, "layer", count_file, &n);
	return n;
}

/* Bytes that the data files of layers take. */
static int add_file(void *arg, const char *name)
{
	struct io *io = simdisk_io(disk);
	const char *dot = strrchr(name, '.');
	struct io_stat st;
	char path[300];
	int fd;

	if (!dot || strcmp(dot, ".data") != 0)
		return 0;
	snprintf(path, sizeof(path), "layer/%s", name);
	fd = io->ops->open(io, path, O_RDONLY);
	assert_true(fd >= 0);
	assert_int_equal(io->ops->stat(io, fd, &st), 0);
	io->ops->close(io, fd);
	*(uint64_t *)arg += st.allocated;
	return 0;
}

static uint64_t allocated(void)
{
	struct io *io = simdisk_io(disk);
	uint64_t n = 0;

	io->ops->list(io, "layer", add_file, &n);
	return n;
}

/* A clone of the first image, with some of its own, and some of the second image's. */
static uint64_t a_clone(void)
{
	uint64_t ino = clone_of(golden(1), "a");

	memset(want, 0, sizeof(want));
	memcpy(want, bytes[0], SIZE);
	fill(ino, 5, 2, 0xaa);
	fill(ino, 300, 40, 0xab);
	put(ino, 400 * BLOCK, 100 * BLOCK, bytes[1] + 400 * BLOCK);
	return ino;
}

/* ---- something happens in the middle ---- */

struct moment {
	int calls; /* before it comes */
	uint64_t ino;
	void (*what)(uint64_t ino);
	bool put_off; /* the work ends there, for now */
};

static bool come(void *arg, uint64_t done, uint64_t total)
{
	struct moment *m = arg;

	if (m->calls-- != 0)
		return false;
	if (m->what)
		m->what(m->ino);
	return !m->what;
}

static bool is_put_off(void *arg)
{
	return ((struct moment *)arg)->put_off;
}

static struct fs_recast_options at(struct moment *m)
{
	return (struct fs_recast_options){.progress = come, .is_put_off = is_put_off, .arg = m};
}

/* ---- what is done stays done ---- */

static void test_rebase_is_durable(void **state)
{
	uint64_t ino = a_clone(), before;

	assert_int_equal(fs_settle(fs), 0);
	before = unique(ino);
	assert_int_equal(fs_rebase(fs, ino, golden(2), NULL), 0);
	assert_is(ino, "snapshot", "golden/2");
	assert_shows(ino, SIZE);
	reopen(simdisk_crash(disk, SIMDISK_DROP, 1));
	assert_is(ino, "snapshot", "golden/2");
	assert_shows(ino, SIZE);
	assert_int_equal(fs_settle(fs), 0);
	/* A quarter of the image is different, but for what it has from the other one. */
	assert_in_range(unique(ino), before + 100 * BLOCK, before + 256 * BLOCK);
	assert_int_equal(fs_rebase(fs, ino, golden(1), NULL), 0);
	assert_int_equal(fs_settle(fs), 0);
	assert_int_equal(unique(ino), (2 + 40 + 25) * BLOCK);
	assert_shows(ino, SIZE);
}

/* What was found of two images is remembered, and says nothing of others. */
static void test_rebase_onto_several(void **state)
{
	uint64_t a = clone_of(golden(1), "a"), b = clone_of(golden(1), "b");

	assert_int_equal(fs_rebase(fs, a, golden(2), NULL), 0);
	assert_int_equal(fs_rebase(fs, b, golden(3), NULL), 0);
	memcpy(want, bytes[0], SIZE);
	assert_shows(a, SIZE);
	assert_shows(b, SIZE);
}

static void test_modes_are_durable(void **state)
{
	uint64_t ino = a_clone();

	assert_int_equal(fs_convert(fs, ino, FS_MODE_THIN, 0, NULL), 0);
	reopen(simdisk_crash(disk, SIMDISK_DROP, 2));
	assert_is(ino, "thin", "");
	assert_shows(ino, SIZE);
	assert_int_equal(fs_settle(fs), 0);
	assert_int_equal(unique(ino), SIZE);
	assert_int_equal(fs_convert(fs, ino, FS_MODE_SNAPSHOT, 0, NULL), 0);
	reopen(simdisk_crash(disk, SIMDISK_DROP, 3));
	assert_is(ino, "snapshot", "");
	assert_int_equal(fs_convert(fs, ino, FS_MODE_SNAPSHOT, golden(1), NULL), 0);
	assert_int_equal(fs_settle(fs), 0);
	assert_is(ino, "snapshot", "golden/1");
	assert_shows(ino, SIZE);
	assert_in_range(unique(ino), 1, (2 + 40 + 100) * BLOCK);
}

/* ---- in the middle ---- */

/* What is equal to the image that it leaves must not be left to that. */
static void write_old_bytes(uint64_t ino)
{
	put(ino, 0, 128 * BLOCK, bytes[0]);
	put(ino, 600 * BLOCK, 4 * BLOCK, bytes[0] + 600 * BLOCK);
	put(ino, 800 * BLOCK, 64 * BLOCK, bytes[0] + 800 * BLOCK);
}

static void discard(uint64_t ino)
{
	for (uint64_t block = 20; block < BLOCKS; block += 300) {
		assert_int_equal(fs_fallocate(fs, ino, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
					 block * BLOCK, 60 * BLOCK),
			0);
		memset(want + block * BLOCK, 0, 60 * BLOCK);
	}
}

static void set_size(uint64_t ino, uint64_t size)
{
	struct fs_attr attr = {.size = size};

	assert_int_equal(fs_setattr(fs, ino, FS_SET_SIZE, &attr), 0);
}

/* Shorter than it was, and as long again. */
static void cut(uint64_t ino)
{
	set_size(ino, 700 * BLOCK + 100);
	set_size(ino, SIZE);
	memset(want + 700 * BLOCK + 100, 0, SIZE - 700 * BLOCK - 100);
}

static void settle(uint64_t ino)
{
	assert_int_equal(fs_settle(fs), 0);
}

static void clone_it(uint64_t ino)
{
	uint8_t buf[BLOCK] = {0x11};

	assert_int_equal(fs_write(fs, clone_of(ino, "b"), buf, sizeof(buf), 900 * BLOCK), BLOCK);
}

static void test_anything_in_the_middle(void **state)
{
	static void (*const whats[])(uint64_t) = {write_old_bytes, discard, cut, settle, clone_it};
	uint64_t ino = a_clone();

	for (size_t i = 0; i < ARRAY_SIZE(whats); i++) {
		for (int calls = 0; calls < 5; calls += 2) {
			struct moment m = {.calls = calls, .ino = ino, .what = whats[i]};
			struct fs_recast_options options = at(&m);
			int to = 1 + (int)(i + (size_t)calls / 2) % 2;

			if (whats[i] == clone_it && calls)
				continue;
			assert_int_equal(fs_rebase(fs, ino, golden(to), &options), 0);
			assert_shows(ino, SIZE);
			reopen(simdisk_clone(disk));
			assert_shows(ino, SIZE);
			assert_int_equal(fs_settle(fs), 0);
			assert_shows(ino, SIZE);
		}
	}
}

static void test_thin_in_the_middle(void **state)
{
	static void (*const whats[])(uint64_t) = {write_old_bytes, discard, cut, settle};

	for (size_t i = 0; i < ARRAY_SIZE(whats); i++) {
		uint64_t ino = a_clone();
		struct moment m = {.calls = 1, .ino = ino, .what = whats[i]};
		struct fs_recast_options options = at(&m);

		assert_int_equal(fs_convert(fs, ino, FS_MODE_THIN, 0, &options), 0);
		assert_is(ino, "thin", "");
		reopen(simdisk_crash(disk, SIMDISK_KEEP, 4));
		assert_shows(ino, SIZE);
		assert_int_equal(fs_settle(fs), 0);
		assert_shows(ino, SIZE);
		assert_int_equal(fs_unlink(fs, FS_INO_ROOT, "a"), 0);
	}
	assert_int_equal(fs_settle(fs), 0);
	assert_int_equal(data_files(), 0);
}

static void remove_it(uint64_t ino)
{
	assert_int_equal(fs_unlink(fs, FS_INO_ROOT, "a"), 0);
}

static void test_removed_in_the_middle(void **state)
{
	for (int calls = 0; calls < 4; calls++) {
		uint64_t ino = a_clone();
		struct moment m = {.calls = calls, .ino = ino, .what = remove_it};
		struct fs_recast_options options = at(&m);
		int r = calls % 2 ? fs_rebase(fs, ino, golden(2), &options)
				  : fs_convert(fs, ino, FS_MODE_THIN, 0, &options);

		assert_true(r == -ESTALE || r == 0);
		assert_int_equal(fs_settle(fs), 0);
		assert_int_equal(data_files(), 0);
	}
}

static void test_given_up(void **state)
{
	uint64_t ino = a_clone(), before;
	struct moment m = {.calls = 3, .ino = ino};
	struct fs_recast_options options = at(&m);

	assert_int_equal(fs_settle(fs), 0);
	before = unique(ino);
	assert_int_equal(fs_convert(fs, ino, FS_MODE_THIN, 0, &options), -ECANCELED);
	assert_is(ino, "snapshot", "golden/1");
	assert_int_equal(fs_settle(fs), 0);
	/* What was equal to the image before is given up, too. */
	assert_in_range(unique(ino), 1, before);
	assert_shows(ino, SIZE);
}

static void test_put_off(void **state)
{
	uint64_t ino = a_clone(), owed;
	struct moment m = {.calls = 2, .ino = ino, .put_off = true};
	struct fs_recast_options options = at(&m);
	const char *kind;

	assert_int_equal(fs_rebase(fs, ino, golden(2), &options), -EINTR);
	assert_int_equal(fs_convert(fs, ino, FS_MODE_THIN, 0, NULL), -EALREADY);
	assert_int_equal(fs_close(steal_pointer(&fs)), 0);
	assert_int_equal(open_store(), 0);
	assert_int_equal(fs_recast_owed(fs, &owed, &kind), 1);
	assert_int_equal(owed, ino);
	assert_string_equal(kind, "rebase");
	assert_int_equal(fs_recast_go_on(fs, NULL), 0);
	assert_int_equal(fs_recast_owed(fs, &owed, &kind), 0);
	assert_is(ino, "snapshot", "golden/2");
	assert_shows(ino, SIZE);
}

/* The record that it begins is lost with the power: so is all that came after it. (Of the
 * first piece: from the second on there are intent marks, with which the journal is synced.) */
static void test_begin_is_lost(void **state)
{
	static const enum fs_mode modes[] = {FS_MODE_THIN, FS_MODE_FULL};

	for (size_t i = 0; i < ARRAY_SIZE(modes); i++) {
		uint64_t ino = clone_of(golden(1), "a"), owed, space;
		struct moment m = {.calls = 1, .ino = ino, .put_off = true};
		struct fs_recast_options options = at(&m);
		const char *kind;

		memcpy(want, bytes[0], SIZE);
		assert_int_equal(fs_settle(fs), 0);
		space = allocated();
		assert_int_equal(fs_convert(fs, ino, modes[i], 0, &options), -EINTR);
		assert_true(allocated() > space);
		reopen(simdisk_crash(disk, SIMDISK_DROP, 14));
		assert_int_equal(fs_recast_owed(fs, &owed, &kind), 0);
		assert_is(ino, "snapshot", "golden/1");
		assert_shows(ino, SIZE);
		assert_int_equal(fs_settle(fs), 0);
		assert_int_equal(allocated(), space);
		assert_shows(ino, SIZE);
		assert_int_equal(fs_unlink(fs, FS_INO_ROOT, "a"), 0);
		assert_int_equal(fs_settle(fs), 0);
	}
}

/* ---- promotions ---- */

/* How fast it is to be written is known to whoever goes on with it, and can be changed. */
static void test_rate_of_a_promotion(void **state)
{
	uint64_t ino = a_clone(), promoted;

	assert_int_equal(fs_promote(fs, ino, "new.img", 3 * MIB, &promoted), 0);
	reopen(simdisk_crash(disk, SIMDISK_DROP, 12));
	assert_int_equal(promote_rate(fs, promoted), 3 * MIB);
	assert_int_equal(fs_promote_set_rate(fs, promoted, 5 * MIB), 0);
	assert_int_equal(fs_close(steal_pointer(&fs)), 0);
	assert_int_equal(open_store(), 0);
	assert_int_equal(promote_rate(fs, promoted), 5 * MIB);
	assert_int_equal(fs_promote_undo(fs, promoted), 0);
	assert_int_equal(fs_promote_set_rate(fs, promoted, 6 * MIB), -ENOENT);
	assert_int_equal(fs_promote_set_rate(fs, ino, 6 * MIB), -ENOENT);
	assert_int_equal(fs_promote(fs, ino, "other.img", 0, &promoted), 0);
	assert_int_equal(promote_rate(fs, promoted), 0);
}

/* ---- chains ---- */

static void test_fold(void **state)
{
	char name[8] = "a", next[8];
	uint64_t ino = a_clone(), owed;
	const char *kind;

	for (int i = 1; i < 12; i++) {
		snprintf(next, sizeof(next), "c%d", i);
		ino = clone_of(ino, next);
		fill(ino, (uint64_t)i * 7, 3, i);
		assert_int_equal(fs_unlink(fs, FS_INO_ROOT, name), 0);
		strcpy(name, next);
	}
	assert_int_equal(fs_settle(fs), 0);
	assert_true(data_files() > 6);
	assert_int_equal(fs_fold(fs, NULL), 0);
	assert_shows(ino, SIZE);
	reopen(simdisk_crash(disk, SIMDISK_DROP, 5));
	assert_shows(ino, SIZE);
	assert_int_equal(fs_fold(fs, NULL), 0);
	assert_int_equal(fs_recast_owed(fs, &owed, &kind), 0);
	assert_int_equal(fs_settle(fs), 0);
	assert_int_equal(data_files(), 1);
	assert_is(ino, "snapshot", "golden/1");
	assert_shows(ino, SIZE);
}

/* The clone goes on in a layer of its own; those below stay, and have no file. */
static uint64_t go_on_above(uint64_t ino, const char *name, const char *next)
{
	ino = clone_of(ino, next);
	assert_int_equal(fs_unlink(fs, FS_INO_ROOT, name), 0);
	return ino;
}

static void fold_all(uint64_t ino)
{
	assert_int_equal(fs_fold(fs, NULL), 0);
}

/* What was found not to be in the layer that is to go must not get there from below meanwhile. */
static void test_fold_in_a_fold(void **state)
{
	for (int calls = 0; calls < 6; calls++) {
		uint64_t ino = a_clone();
		struct moment m = {.calls = calls, .what = fold_all};
		struct fs_recast_options options = at(&m);

		ino = go_on_above(ino, "a", "b");
		fill(ino, 700, 40, 0xb1);
		ino = go_on_above(ino, "b", "c");
		fill(ino, 900, 40, 0xc1);
		ino = go_on_above(ino, "c", "d");
		fill(ino, 1000, 1, 0xd1);
		assert_int_equal(fs_fold(fs, &options), 0);
		assert_shows(ino, SIZE);
		reopen(simdisk_crash(disk, SIMDISK_DROP, 7));
		assert_int_equal(fs_fold(fs, NULL), 0);
		assert_shows(ino, SIZE);
		assert_int_equal(fs_unlink(fs, FS_INO_ROOT, "d"), 0);
	}
}

/* ---- snapshots ---- */

enum { SNAPSHOTS = 6 };
static uint8_t kept[SNAPSHOTS][SIZE]; /* what they show */

static void take(uint64_t ino, int i)
{
	char name[16];
	size_t failed;

	snprintf(name, sizeof(name), "s%d", i);
	assert_int_equal(fs_snapshot_create(fs, &ino, 1, name, &failed), 0);
	memcpy(kept[i], want, SIZE);
}

static uint64_t snapshot(uint64_t ino, int i)
{
	struct fs_snapshot *list;
	uint64_t found = 0;
	char name[16];
	size_t count;

	snprintf(name, sizeof(name), "s%d", i);
	assert_int_equal(fs_snapshot_list(fs, ino, &list, &count), 0);
	for (size_t k = 0; k < count; k++)
		if (!strcmp(list[k].name, name))
			found = list[k].ino;
	free(list);
	return found;
}

static void roll_back(uint64_t ino, int i)
{
	uint64_t was;

	assert_int_equal(fs_snapshot_rollback(fs, ino, snapshot(ino, i), false, NULL, &was), 0);
	memcpy(want, kept[i], SIZE);
}

static void drop(uint64_t ino, int i)
{
	uint64_t it = snapshot(ino, i);

	assert_int_equal(fs_snapshot_delete(fs, &it, 1), 0);
}

/* The clone, and all snapshots that are there. */
static void assert_all_show(uint64_t ino)
{
	CLEANUP_FREE uint8_t *now = malloc(SIZE);

	assert_shows(ino, SIZE);
	memcpy(now, want, SIZE);
	for (int i = 0; i < SNAPSHOTS; i++) {
		uint64_t it = snapshot(ino, i);

		memcpy(want, kept[i], SIZE);
		if (it)
			assert_shows(it, SIZE);
	}
	memcpy(want, now, SIZE);
}

static uint64_t with_snapshots(void)
{
	uint64_t ino = a_clone();

	for (int i = 0; i < SNAPSHOTS; i++) {
		fill(ino, (uint64_t)i * 50, 20, 0x20 + i);
		fill(ino, 600 + (uint64_t)i, 30, 0x40 + i);
		take(ino, i);
	}
	fill(ino, 900, 1, 0x51);
	assert_int_equal(sync_file(fs, ino), 0);
	return ino;
}

static void take_one(uint64_t ino)
{
	drop(ino, 5);
	take(ino, 5);
}

/* Another base for a clone leaves its snapshots what they are, and it goes back to them. */
static void test_snapshots_stay(void **state)
{
	uint64_t ino = with_snapshots();

	assert_int_equal(fs_rebase(fs, ino, golden(2), NULL), 0);
	assert_is(ino, "snapshot", "golden/2");
	assert_all_show(ino);
	reopen(simdisk_crash(disk, SIMDISK_DROP, 8));
	assert_all_show(ino);
	roll_back(ino, 2);
	assert_is(ino, "snapshot", "golden/1");
	assert_int_equal(fs_convert(fs, ino, FS_MODE_THIN, 0, NULL), 0);
	assert_is(ino, "thin", "");
	assert_all_show(ino);
	take_one(ino);
	assert_int_equal(fs_settle(fs), 0);
	assert_all_show(ino);
}

/* What was written before a snapshot is there when the file is synced, whatever it stands on by then. */
static void test_fsync_reaches_snapshots_left_behind(void **state)
{
	static const enum fs_mode modes[] = {FS_MODE_SNAPSHOT, FS_MODE_THIN, FS_MODE_FULL};

	for (size_t i = 0; i < ARRAY_SIZE(modes); i++) {
		uint64_t ino = a_clone();

		assert_int_equal(fs_settle(fs), 0);
		fill(ino, 300, 40, 0xb0 + (int)i);
		take(ino, 0);
		assert_int_equal(fs_convert(fs, ino, modes[i],
					 modes[i] == FS_MODE_SNAPSHOT ? golden(2) : 0, NULL),
			0);
		assert_int_equal(sync_file(fs, ino), 0);
		reopen(simdisk_crash(disk, SIMDISK_DROP, 13));
		assert_all_show(ino);
		drop(ino, 0);
		assert_int_equal(fs_unlink(fs, FS_INO_ROOT, "a"), 0);
	}
}

static void go_back(uint64_t ino)
{
	roll_back(ino, 1);
}

static void test_snapshots_in_the_middle(void **state)
{
	static void (*const whats[])(uint64_t) = {take_one, go_back, settle};

	for (size_t i = 0; i < ARRAY_SIZE(whats); i++)
		for (int calls = 0; calls < 5; calls += 2) {
			uint64_t ino = with_snapshots();
			struct moment m = {.calls = calls, .ino = ino, .what = whats[i]};
			struct fs_recast_options options = at(&m);
			int r = fs_rebase(fs, ino, golden(2), &options);

			assert_true(r == 0 || (whats[i] == go_back && r == -ESTALE));
			assert_all_show(ino);
			reopen(simdisk_clone(disk));
			assert_all_show(ino);
			assert_int_equal(fs_fold(fs, NULL), 0);
			assert_all_show(ino);
			while (snapshot(ino, 5))
				for (int k = 0; k < SNAPSHOTS; k++)
					drop(ino, k);
			assert_int_equal(fs_unlink(fs, FS_INO_ROOT, "a"), 0);
			assert_int_equal(fs_settle(fs), 0);
		}
}

/* What a snapshot that is gone left between others is folded, and nothing else. */
static void test_fold_between_snapshots(void **state)
{
	uint64_t ino = with_snapshots();
	unsigned files;

	assert_int_equal(fs_settle(fs), 0);
	files = data_files();
	assert_int_equal(fs_fold(fs, NULL), 0);
	assert_int_equal(fs_settle(fs), 0);
	assert_int_equal(data_files(), files);
	drop(ino, 1);
	drop(ino, 3);
	assert_int_equal(fs_fold(fs, NULL), 0);
	assert_all_show(ino);
	reopen(simdisk_crash(disk, SIMDISK_DROP, 9));
	assert_all_show(ino);
	assert_int_equal(fs_fold(fs, NULL), 0);
	assert_int_equal(fs_settle(fs), 0);
	assert_int_equal(data_files(), files - 2);
	roll_back(ino, 0);
	fill(ino, 1000, 2, 0x52);
	assert_int_equal(fs_fold(fs, NULL), 0);
	assert_all_show(ino);
	roll_back(ino, 4);
	assert_all_show(ino);
}

/* None of the file's has any block of its own. */
static void assert_own_nothing(uint64_t ino)
{
	struct fs_snapshot *list;
	size_t count;

	assert_int_equal(fs_snapshot_list(fs, ino, &list, &count), 0);
	for (size_t i = 0; i < count; i++) {
		struct layer *layer = atomic_load(&tree_find(fs, list[i].ino)->layer);

		assert_int_equal(layer_next_region(layer, 0), LAYER_NO_REGION);
	}
	free(list);
}

/* A snapshot is what it stands on: going back to it, or cloning it, begins with that. */
static void test_fold_below_a_snapshot(void **state)
{
	uint64_t ino = with_snapshots(), clone;

	roll_back(ino, 0);
	for (int i = 1; i < SNAPSHOTS; i += 2)
		drop(ino, i);
	assert_int_equal(fs_fold(fs, NULL), 0);
	assert_all_show(ino);
	assert_own_nothing(ino);
	assert_int_equal(fs_settle(fs), 0);
	clone = clone_of(snapshot(ino, 4), "b");
	memcpy(want, kept[4], SIZE);
	assert_shows(clone, SIZE);
	roll_back(ino, 4);
	assert_all_show(ino);
}

/* ---- a place for each block ---- */

static void test_full(void **state)
{
	uint64_t ino = a_clone();

	assert_int_equal(fs_convert(fs, ino, FS_MODE_FULL, 0, NULL), 0);
	assert_is(ino, "full", "");
	assert_int_equal(fs_settle(fs), 0);
	assert_int_equal(unique(ino), SIZE);
	discard(ino);
	assert_int_equal(fs_settle(fs), 0);
	assert_int_equal(unique(ino), SIZE);
	assert_int_equal(allocated(), SIZE);
	set_size(ino, SIZE + 10 * BLOCK);
	assert_int_equal(allocated(), SIZE + 10 * BLOCK);
	fill(ino, BLOCKS + 10, 5, 0x77);
	assert_int_equal(fs_close(steal_pointer(&fs)), 0);
	assert_int_equal(open_store(), 0);
	assert_int_equal(fs_settle(fs), 0);
	assert_int_equal(allocated(), SIZE + 15 * BLOCK);
	assert_int_equal(unique(ino), SIZE + 15 * BLOCK);
	assert_shows(ino, SIZE + 15 * BLOCK);
	set_size(ino, SIZE);
	assert_int_equal(fs_convert(fs, ino, FS_MODE_THIN, 0, NULL), 0);
	assert_int_equal(fs_settle(fs), 0);
	assert_int_equal(allocated(), unique(ino));
	assert_true(unique(ino) < SIZE);
	assert_shows(ino, SIZE);
	assert_int_equal(fs_convert(fs, ino, FS_MODE_FULL, 0, NULL), 0);
	set_size(ino, 0);
	set_size(ino, SIZE);
	assert_is(ino, "full", "");
	assert_int_equal(fs_settle(fs), 0);
	assert_int_equal(allocated(), SIZE);
}

static void assert_mode(uint64_t ino, const char *mode)
{
	struct fs_info info;

	assert_int_equal(fs_info(fs, ino, FS_NOW, &info), 0);
	assert_string_equal(info.mode, mode);
	fs_info_release(&info);
}

/* One that shares its blocks with a clone has places for none, and says so, until it stands alone. */
static void test_full_that_was_cloned(void **state)
{
	struct simdisk *before, *after;
	uint64_t ino = a_clone();

	assert_int_equal(fs_convert(fs, ino, FS_MODE_FULL, 0, NULL), 0);
	assert_mode(ino, "full");
	clone_of(ino, "b");
	assert_mode(ino, "thin");
	fill(ino, 0, 300, 0x33);
	reopen(simdisk_clone(disk));
	assert_mode(ino, "thin");
	assert_int_equal(fs_unlink(fs, FS_INO_ROOT, "b"), 0);
	discard(ino);
	assert_int_equal(fs_settle(fs), 0);
	assert_int_equal(fs_fold(fs, NULL), 0);
	assert_mode(ino, "full");
	before = disk;
	after = disk = simdisk_crash(before, SIMDISK_DROP, 11);
	/* And the layer that went, which is given back by a checkpoint. */
	assert_int_equal(allocated(), 2 * SIZE);
	disk = before;
	reopen(after);
	assert_mode(ino, "full");
	assert_int_equal(fs_settle(fs), 0);
	assert_int_equal(allocated(), SIZE);
	assert_int_equal(unique(ino), SIZE);
	reopen(simdisk_crash(disk, SIMDISK_DROP, 10));
	assert_mode(ino, "full");
	assert_int_equal(allocated(), SIZE);
	assert_shows(ino, SIZE);
}

/* In the middle of it, and when it has grown, a crash takes no place away. */
static void test_full_after_a_crash(void **state)
{
	uint64_t ino = a_clone();
	struct moment m = {.ino = ino, .put_off = true};
	struct fs_recast_options options = at(&m);
	struct simdisk *before = disk, *after;

	assert_int_equal(fs_settle(fs), 0);
	assert_int_equal(fs_convert(fs, ino, FS_MODE_FULL, 0, &options), -EINTR);
	assert_int_equal(fs_sync_journal(fs), 0);
	after = disk = simdisk_crash(before, SIMDISK_DROP, 7);
	assert_int_equal(allocated(), SIZE);
	disk = before;
	reopen(after);
	assert_int_equal(fs_settle(fs), 0);
	assert_int_equal(allocated(), SIZE);
	assert_int_equal(fs_recast_go_on(fs, NULL), 0);
	assert_is(ino, "full", "");
	set_size(ino, SIZE + 10 * BLOCK);
	assert_int_equal(sync_file(fs, ino), 0);
	reopen(simdisk_crash(disk, SIMDISK_DROP, 8));
	assert_int_equal(fs_settle(fs), 0);
	assert_int_equal(allocated(), SIZE + 10 * BLOCK);
	assert_int_equal(unique(ino), SIZE + 10 * BLOCK);
	assert_shows(ino, SIZE + 10 * BLOCK);
}

static int setup_small(void **state)
{
	return setup_with(SIZE + 2 * MIB + 512 * KIB);
}

/* On a full disk it goes on, and what does not fit does not begin. */
static void test_full_disk(void **state)
{
	uint64_t ino = a_clone(), other;
	uint8_t buf[16 * BLOCK];
	struct fs_attr attr;
	ssize_t n = 0;

	assert_int_equal(fs_settle(fs), 0);
	set_size(ino, SIZE / 2);
	assert_int_equal(fs_convert(fs, ino, FS_MODE_FULL, 0, NULL), 0);
	other = clone_of(golden(1), "b");
	assert_int_equal(fs_convert(fs, other, FS_MODE_FULL, 0, NULL), -ENOSPC);
	assert_is(other, "snapshot", "golden/1");
	assert_int_equal(fs_make(fs, FS_INO_ROOT, "filler", S_IFREG | 0600, (struct fs_owner){0, 0},
				 &attr),
		0);
	for (uint64_t off = 0; n >= 0; off += sizeof(buf)) {
		for (size_t i = 0; i < sizeof(buf); i++)
			buf[i] = (uint8_t)(off / BLOCK * 7 + i * i);
		n = fs_write(fs, attr.ino, buf, sizeof(buf), off);
	}
	assert_int_equal(n, -ENOSPC);
	for (uint64_t block = 0; block + 8 <= BLOCKS / 2; block += 8)
		fill(ino, block, 8, (int)(1 + block % 100));
	for (uint64_t block = 0; block + 32 <= BLOCKS / 2; block += 32)
		fill(ino, block, 32, (int)(1 + block % 99));
	assert_shows(ino, SIZE / 2);
	assert_int_equal(sync_file(fs, ino), 0);
	reopen(simdisk_crash(disk, SIMDISK_DROP, 6));
	assert_shows(ino, SIZE / 2);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_rebase_is_durable),
		T(test_rebase_onto_several),
		T(test_modes_are_durable),
		T(test_anything_in_the_middle),
		T(test_thin_in_the_middle),
		T(test_removed_in_the_middle),
		T(test_given_up),
		T(test_put_off),
		T(test_begin_is_lost),
		T(test_rate_of_a_promotion),
		T(test_fold),
		T(test_fold_in_a_fold),
		T(test_snapshots_stay),
		T(test_fsync_reaches_snapshots_left_behind),
		T(test_snapshots_in_the_middle),
		T(test_fold_between_snapshots),
		T(test_fold_below_a_snapshot),
		T(test_full),
		T(test_full_that_was_cloned),
		T(test_full_after_a_crash),
		cmocka_unit_test_setup_teardown(test_full_disk, setup_small, teardown),
	};

	log_open(LOG_TO_FILE, "/dev/null");
	return cmocka_run_group_tests(tests, NULL, NULL);
}
