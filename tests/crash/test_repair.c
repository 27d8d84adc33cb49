/* SPDX-License-Identifier: MIT */
/*
 * Power loss during a repair (core/check_repair.c).
 *
 * At any moment of it: what the repair replaced has a whole copy in its folder, and another repair
 * gets as far as one that nothing interrupted. Once it has said that something is mended, it is.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/sizes.h"
#include "core/check.h"
#include "core/fs.h"
#include "simdisk.h"

enum { MAX_BYTES = 4 * MIB, SEEDS = 3 };

/* What one repair is watched for. */
struct watch {
	const char *path;  /* whose copy must be there once it is changed */
	const char *saved; /* its name among the copies */
	uint8_t *bytes;	   /* what it was; NULL: it was not there */
	uint64_t size;
	uint64_t damaged; /* what a repair that nothing interrupts leaves */
	bool inside;
	uint64_t seed;
	unsigned states;
};

static struct simdisk *base; /* a store that was closed, with nothing unsynced */

static struct simdisk *new_store(void)
{
	struct fs_options options = {.journal_size = MIB, .reserve = 64 * KIB,
		.no_background = true, .store_fd = -1};
	struct simdisk *disk = simdisk_new(TIB), *quiet;
	CLEANUP_FREE uint8_t *buf = malloc(MIB);
	struct fs_attr attr;
	struct fs *fs;

	memset(buf, 0x5a, MIB);
	assert_int_equal(fs_open(&fs, simdisk_io(disk), &options), 0);
	for (int i = 0; i < 3; i++) {
		char name[8] = {(char)('a' + i), 0};

		assert_int_equal(fs_make(fs, FS_INO_ROOT, name, S_IFREG | 0600,
					 (struct fs_owner){0, 0}, &attr), 0);
		buf[i]++;
		assert_int_equal(fs_write(fs, attr.ino, buf, MIB / 4, 0), MIB / 4);
		assert_int_equal(fs_write(fs, attr.ino, buf, 5000, 9 * MIB), 5000);
	}
	assert_int_equal(fs_settle(fs), 0);
	assert_int_equal(fs_close(fs), 0);
	quiet = simdisk_crash(disk, SIMDISK_KEEP, 1);
	simdisk_free(disk);
	return quiet;
}

/* All of a file, NULL when it is not there. */
static uint8_t *read_all(struct simdisk *disk, const char *path, uint64_t *size)
{
	struct io *io = simdisk_io(disk);
	int fd = io->ops->open(io, path, O_RDONLY);
	struct io_stat st;
	uint8_t *bytes;

	if (fd < 0)
		return NULL;
	assert_int_equal(io->ops->stat(io, fd, &st), 0);
	assert_true(st.size < MAX_BYTES);
	bytes = calloc(1, st.size + 1);
	assert_int_equal(io_pread_full(io, fd, bytes, st.size, 0), 0);
	io->ops->close(io, fd);
	*size = st.size;
	return bytes;
}

static bool same(struct simdisk *disk, const char *path, const struct watch *w)
{
	uint64_t size = 0;
	CLEANUP_FREE uint8_t *bytes = read_all(disk, path, &size);

	if (!bytes || !w->bytes)
		return !bytes && !w->bytes;
	return size == w->size && memcmp(bytes, w->bytes, size) == 0;
}

static bool exists(struct simdisk *disk, const char *path)
{
	uint64_t size;
	CLEANUP_FREE uint8_t *bytes = read_all(disk, path, &size);

	return bytes;
}

static int find_folder(void *arg, const char *name)
{
	char *found = arg;

	if (strncmp(name, "repair.", 7) == 0)
		snprintf(found, 64, "%s", name);
	return 0;
}

/* -1: the store is not there, or could not be looked at. */
static int64_t check(struct simdisk *disk, bool repair, uint64_t *orphans)
{
	struct check_options options = {.io = simdisk_io(disk), .store_fd = -1, .repair = repair};
	struct check_report report;
	int r = check_store(&options, &report);
	int64_t damaged = r ? -1 : (int64_t)report.damaged;

	if (orphans)
		*orphans = report.orphaned_files;
	check_report_release(&report);
	return damaged;
}

static void assert_recoverable(struct watch *w, struct simdisk *disk)
{
	char folder[64] = "", copy[200];

	w->states++;
	if (!same(disk, w->path, w) && w->bytes) {
		simdisk_io(disk)->ops->list(simdisk_io(disk), ".", find_folder, folder);
		snprintf(copy, sizeof(copy), "%s/%s", folder, w->saved);
		if (!*folder || !same(disk, copy, w))
			fail_msg("\"%s\" was changed and its copy \"%s\" is not whole", w->path, copy);
	}
	assert_int_equal(check(disk, true, NULL), w->damaged);
}

static void lose_power(void *arg, struct simdisk *disk, const struct simdisk_call *call)
{
	struct watch *w = arg;

	if (w->inside || call->op == SIMDISK_PREAD || call->op == SIMDISK_OPEN)
		return;
	w->inside = true;
	for (int policy = 0; policy < SIMDISK_POLICIES; policy++)
		for (int i = 0; i < (policy < SIMDISK_SECTORS ? 1 : SEEDS); i++) {
			struct simdisk *crashed =
				simdisk_crash(disk, (enum simdisk_policy)policy, w->seed++);

			assert_recoverable(w, crashed);
			simdisk_free(crashed);
		}
	w->inside = false;
}

/* disk has the damage; it is used up. */
static void watch_repair(struct simdisk *disk, const char *path, const char *saved)
{
	struct simdisk *damaged = simdisk_crash(disk, SIMDISK_KEEP, 1), *trial, *after;
	struct watch w = {.path = path, .saved = saved, .seed = 1};
	uint64_t orphans = 0;
	int64_t left;

	simdisk_free(disk);
	w.bytes = read_all(damaged, path, &w.size);
	trial = simdisk_clone(damaged);
	left = check(trial, true, NULL);
	assert_true(left >= 0);
	w.damaged = (uint64_t)left;
	/* What it said is so, also without power; and what it removed is gone. */
	after = simdisk_crash(trial, SIMDISK_DROP, 1);
	assert_int_equal(check(after, false, NULL), left);
	assert_true(exists(after, path));
	simdisk_free(after);
	assert_int_equal(check(trial, false, &orphans), left);
	assert_int_equal(orphans, 0);
	simdisk_free(trial);

	simdisk_set_hook(damaged, lose_power, &w);
	assert_int_equal(check(damaged, true, NULL), left);
	simdisk_set_hook(damaged, NULL, NULL);
	assert_true(w.states > 0);
	simdisk_free(damaged);
	free(w.bytes);
}

static void flip(struct simdisk *disk, const char *path, uint64_t off)
{
	struct io *io = simdisk_io(disk);
	int fd = io->ops->open(io, path, O_RDWR);
	uint8_t byte;

	assert_true(fd >= 0);
	assert_int_equal(io_pread_full(io, fd, &byte, 1, off), 0);
	byte ^= 4;
	assert_int_equal(io_pwrite(io, fd, &byte, 1, off), 0);
	io->ops->close(io, fd);
}

static void test_superblock(void **state)
{
	struct simdisk *disk = simdisk_clone(base);
	struct io *io = simdisk_io(disk);
	int fd = io->ops->open(io, "superblock", O_RDWR);

	/* A hole at its end is to be in the copy, too. */
	assert_int_equal(io->ops->truncate(io, fd, 16384), 0);
	io->ops->close(io, fd);
	flip(disk, "superblock", 20);
	watch_repair(disk, "superblock", "superblock");
}

static void test_copy_of_superblock_is_missing(void **state)
{
	struct simdisk *disk = simdisk_clone(base);

	assert_int_equal(simdisk_io(disk)->ops->unlink(simdisk_io(disk), "superblock.copy"), 0);
	watch_repair(disk, "superblock.copy", "superblock.copy");
}

static void test_catalog(void **state)
{
	struct simdisk *disk = simdisk_clone(base);

	flip(disk, "catalog.1", 80);
	watch_repair(disk, "catalog.1", "catalog.1");
}

static void test_map(void **state)
{
	struct simdisk *disk = simdisk_clone(base);

	flip(disk, "layer/1.map", 4096 + 100);
	watch_repair(disk, "layer/1.map", "layer-1.map");
}

static void test_data(void **state)
{
	struct simdisk *disk = simdisk_clone(base);

	flip(disk, "layer/1.data", 5000);
	watch_repair(disk, "layer/1.map", "layer-1.map");
}

static void test_orphan(void **state)
{
	struct simdisk *disk = simdisk_clone(base);
	struct io *io = simdisk_io(disk);
	int fd = io->ops->open(io, "layer/99.data", O_RDWR | O_CREAT);

	assert_int_equal(io_pwrite(io, fd, "x", 1, 8192), 0);
	io->ops->close(io, fd);
	watch_repair(disk, "superblock", "superblock");
}

static int setup(void **state)
{
	base = new_store();
	return 0;
}

static int teardown(void **state)
{
	simdisk_free(base);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_superblock),
		cmocka_unit_test(test_copy_of_superblock_is_missing),
		cmocka_unit_test(test_catalog),
		cmocka_unit_test(test_map),
		cmocka_unit_test(test_data),
		cmocka_unit_test(test_orphan),
	};

	if (!getenv("VERBOSE"))
		log_open(LOG_TO_FILE, "/dev/null");
	return cmocka_run_group_tests(tests, setup, teardown);
}
