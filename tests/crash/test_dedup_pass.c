/* SPDX-License-Identifier: MIT */
/*
 * A pass over what is already there (core/dedup_examine.c): it works with a table of content that has
 * room for little, does not keep the ring from being emptied, and ends when somebody wants it to.
 */
#include <errno.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "base/sizes.h"
#include "core/fs_internal.h"
#include "goldfs/format.h"
#include "simdisk.h"

enum {
	BLOCK = 4096,
	COUNT = 256,  /* blocks in a region */
	REGIONS = 12, /* with data, of a file */
	RING = 1 << 20,
	SPACE = 2 << 20, /* a sixth of a file */
};

static struct simdisk *disk;
static struct fs *fs;

static void open_store(enum fs_dedup dedup, uint64_t memory)
{
	const struct fs_options options = {.journal_size = RING, .reserve = 8 * MIB,
		.no_background = true, .dedup = dedup, .dedup_memory = memory, .store_fd = -1};

	assert_int_equal(fs_open(&fs, simdisk_io(disk), &options), 0);
}

static void remount(enum fs_dedup dedup, uint64_t memory)
{
	assert_int_equal(fs_close(steal_pointer(&fs)), 0);
	open_store(dedup, memory);
}

static int setup(void **state)
{
	disk = simdisk_new(GIB);
	open_store(FS_DEDUP_OFF, 0);
	return 0;
}

static int teardown(void **state)
{
	if (fs)
		fs_abandon(steal_pointer(&fs));
	simdisk_free(disk);
	return 0;
}

/* A file with some blocks in each of several regions, which are others for each content. */
static uint64_t file(const char *name, uint32_t content)
{
	static uint8_t bytes[COUNT * BLOCK];
	struct fs_attr attr;

	assert_int_equal(fs_make(fs, FS_INO_ROOT, name, S_IFREG | 0644, (struct fs_owner){0, 0},
				 &attr), 0);
	fs_forget(fs, attr.ino, 1);
	for (uint32_t region = 0; region < REGIONS; region++) {
		for (uint32_t i = 0; i < COUNT; i++) {
			const uint32_t says[] = {content, region, i};

			memcpy(bytes + (size_t)i * BLOCK, says, sizeof(says));
		}
		assert_int_equal(fs_write(fs, attr.ino, bytes, sizeof(bytes),
					 (uint64_t)region * GF_REGION_BLOCKS * BLOCK), sizeof(bytes));
	}
	return attr.ino;
}

static uint64_t unique(uint64_t ino)
{
	struct fs_info info;

	assert_int_equal(fs_info(fs, ino, FS_NOW, &info), 0);
	fs_info_release(&info);
	return info.figures.unique_bytes;
}

/* What else there is, and comes later, does not drive out what is asked for. */
static void test_little_memory(void **state)
{
	const uint64_t files[] = {file("one", 1), file("two", 1)};

	for (uint32_t i = 0; i < 4; i++)
		file((char[]){'a' + (char)i, 0}, 2 + i);
	assert_int_equal(fs_settle(fs), 0);
	remount(FS_DEDUP_ALL, 4 * REGIONS * COUNT * 24);
	assert_int_equal(fs_dedup(fs, files, 2, NULL, NULL), 0);
	assert_true(unique(files[0]) < REGIONS * COUNT * BLOCK / 10);
	assert_true(unique(files[1]) < REGIONS * COUNT * BLOCK / 10);
}

struct watch {
	uint64_t tail; /* number of a record */
	uint64_t since, most; /* bytes looked at while the tail stood */
	uint64_t stop_at;
	uint64_t done;
};

/* Called from within a checkpoint. */
static bool watch(void *arg, uint64_t done, uint64_t total)
{
	struct watch *w = arg;

	assert_true(done <= total);
	if (fs->tail.seq != w->tail)
		w->since = w->done;
	w->tail = fs->tail.seq;
	w->done = done;
	w->most = max_u64(w->most, done - w->since);
	return done >= w->stop_at;
}

/* While it runs the tail of the ring moves on, or those who write would have to wait. */
static void test_in_pieces(void **state)
{
	const uint64_t files[] = {file("one", 1), file("two", 1)};
	struct watch w = {.stop_at = UINT64_MAX};

	assert_int_equal(fs_settle(fs), 0);
	remount(FS_DEDUP_ALL, 0);
	assert_int_equal(fs_dedup(fs, files, 2, watch, &w), 0);
	assert_true(w.done >= REGIONS * COUNT * BLOCK);
	assert_true(w.most <= 5 * RING);
	assert_true(unique(files[0]) + unique(files[1]) < REGIONS * COUNT * BLOCK / 50);
}

static void test_stopped(void **state)
{
	const uint64_t files[] = {file("one", 1), file("two", 1)};
	struct watch w = {0};

	assert_int_equal(fs_settle(fs), 0);
	remount(FS_DEDUP_ALL, 0);
	/* Before anything is looked at, */
	assert_int_equal(fs_dedup(fs, files, 2, watch, &w), -ECANCELED);
	assert_int_equal(w.done, 0);
	assert_int_equal(unique(files[0]), REGIONS * COUNT * BLOCK);
	/* and in the middle of it: nothing more is begun. */
	w.stop_at = 6 * COUNT * BLOCK;
	assert_int_equal(fs_dedup(fs, files, 2, watch, &w), -ECANCELED);
	assert_int_equal(w.done, w.stop_at);
	assert_true(unique(files[0]) >= (REGIONS - 6) * COUNT * BLOCK);
	/* Nor does anybody else go on with it. */
	assert_int_equal(fs_settle(fs), 0);
	assert_true(unique(files[0]) >= (REGIONS - 6) * COUNT * BLOCK);
	assert_int_equal(fs_dedup(fs, files, 2, NULL, NULL), 0);
	assert_true(unique(files[0]) + unique(files[1]) < REGIONS * COUNT * BLOCK / 50);
}

/* ---- two at once ---- */

struct second {
	pthread_t thread;
	atomic_uint asked; /* how often it could have been stopped */
	const uint64_t *files;
	bool started;
	uint64_t done; /* by the first */
};

static bool note_second(void *arg, uint64_t done, uint64_t total)
{
	struct second *s = arg;

	atomic_fetch_add(&s->asked, 1);
	return false;
}

static void *run_second(void *arg)
{
	struct second *s = arg;

	assert_int_equal(fs_dedup(fs, s->files, 2, note_second, s), 0);
	return NULL;
}

/* Called within a checkpoint of the first. */
static bool start_second(void *arg, uint64_t done, uint64_t total)
{
	struct second *s = arg;

	if (!s->started && done) {
		s->started = true;
		assert_int_equal(pthread_create(&s->thread, NULL, run_second, s), 0);
		while (!atomic_load(&s->asked))
			sched_yield();
	}
	s->done = done;
	return false;
}

/* The second waits, and the first is told of all that it does. */
static void test_two_at_once(void **state)
{
	const uint64_t files[] = {file("one", 1), file("two", 1)};
	struct second s = {.files = files};

	assert_int_equal(fs_settle(fs), 0);
	remount(FS_DEDUP_ALL, 0);
	assert_int_equal(fs_dedup(fs, files, 2, start_second, &s), 0);
	assert_true(s.started);
	assert_true(s.done >= REGIONS * COUNT * BLOCK);
	pthread_join(s.thread, NULL);
	assert_true(unique(files[0]) + unique(files[1]) < REGIONS * COUNT * BLOCK / 50);
}

/* Where there is no space that is said; where there is a little, that is enough for all. */
static void test_little_space(void **state)
{
	const uint64_t files[] = {file("one", 1), file("two", 1)};

	assert_int_equal(fs_settle(fs), 0);
	remount(FS_DEDUP_ALL, 0);
	simdisk_fail(disk, SIMDISK_PWRITE, 1, -ENOSPC, true, "pool/");
	assert_int_equal(fs_dedup(fs, files, 2, NULL, NULL), -ENOSPC);
	assert_int_equal(unique(files[0]), REGIONS * COUNT * BLOCK);
	simdisk_heal(disk);
	simdisk_set_capacity(disk, simdisk_used(disk) + SPACE);
	assert_int_equal(fs_dedup(fs, files, 2, NULL, NULL), 0);
	assert_true(unique(files[0]) + unique(files[1]) < REGIONS * COUNT * BLOCK / 50);
}

static void kill_and_mount(void)
{
	fs_abandon(steal_pointer(&fs));
	open_store(FS_DEDUP_ALL, 0);
}

/* Stored by processes that were killed before they told the next one's table of content: settling
 * finds it all the same, as it would have in one life. */
static void test_killed_between(void **state)
{
	uint64_t one, two;

	kill_and_mount();
	one = file("one", 1);
	assert_int_equal(checkpoint_run(fs), 0);
	kill_and_mount();
	two = file("two", 1);
	assert_int_equal(checkpoint_run(fs), 0);
	kill_and_mount();
	assert_int_equal(unique(one) + unique(two), 2 * REGIONS * COUNT * BLOCK);
	assert_int_equal(fs_settle(fs), 0);
	assert_true(unique(one) + unique(two) < REGIONS * COUNT * BLOCK / 50);
}

/* It ended cleanly, but nothing filled the table since. */
static void test_settled_at_once(void **state)
{
	uint64_t one, two;

	remount(FS_DEDUP_ALL, 0);
	one = file("one", 1);
	remount(FS_DEDUP_ALL, 0);
	two = file("two", 1);
	assert_int_equal(fs_settle(fs), 0);
	assert_true(unique(one) + unique(two) < REGIONS * COUNT * BLOCK / 50);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_little_memory, setup, teardown),
		cmocka_unit_test_setup_teardown(test_in_pieces, setup, teardown),
		cmocka_unit_test_setup_teardown(test_stopped, setup, teardown),
		cmocka_unit_test_setup_teardown(test_two_at_once, setup, teardown),
		cmocka_unit_test_setup_teardown(test_little_space, setup, teardown),
		cmocka_unit_test_setup_teardown(test_killed_between, setup, teardown),
		cmocka_unit_test_setup_teardown(test_settled_at_once, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
