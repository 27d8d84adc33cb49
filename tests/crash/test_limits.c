/* SPDX-License-Identifier: MIT */
/* Limits on what a folder or a clone holds of its own (core/limit.c). */
#include <errno.h>
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
#include "core/fs.h"
#include "core/fs_internal.h"
#include "simdisk.h"

static struct simdisk *disk;
static struct fs *fs;

static void open_store(void)
{
	struct fs_options options = {.journal_size = MIB, .reserve = 64 * KIB,
		.no_background = true, .store_fd = -1};

	assert_int_equal(fs_open(&fs, simdisk_io(disk), &options), 0);
}

static int setup(void **state)
{
	disk = simdisk_new(TIB);
	open_store();
	return 0;
}

static int teardown(void **state)
{
	fs_abandon(fs);
	simdisk_free(disk);
	return 0;
}

static uint64_t make(uint64_t parent, const char *name, uint32_t type)
{
	struct fs_attr attr;

	assert_int_equal(fs_make(fs, parent, name, type | 0755, (struct fs_owner){0, 0}, &attr), 0);
	return attr.ino;
}

/* 0 or -errno. */
static int put(uint64_t ino, uint64_t block, uint64_t count)
{
	CLEANUP_FREE uint8_t *buf = malloc(count * 4096);
	ssize_t n;

	memset(buf, (int)ino + 1, count * 4096);
	n = fs_write(fs, ino, buf, count * 4096, block * 4096);
	return n < 0 ? (int)n : 0;
}

/* Blocks that can be written from `from` on, one by one or many at once. */
static uint64_t fill(uint64_t ino, uint64_t from, uint64_t step)
{
	uint64_t n = 0;
	int r;

	while ((r = put(ino, from + n, step)) == 0 && n < 100000)
		n += step;
	assert_int_equal(r, -ENOSPC);
	return n;
}

static uint64_t used(uint64_t ino)
{
	uint64_t bytes, sum;

	assert_int_equal(fs_limit(fs, ino, &bytes, &sum), 0);
	return sum;
}

static void test_folder(void **state)
{
	uint64_t dir = make(FS_INO_ROOT, "d", S_IFDIR), other = make(FS_INO_ROOT, "o", S_IFREG);
	uint64_t a = make(dir, "a", S_IFREG), b = make(dir, "b", S_IFREG);
	struct fs_statfs st;

	assert_int_equal(fs_set_limit(fs, dir, 8 * MIB), 0);
	assert_int_equal(put(a, 0, 1024), 0);
	assert_int_equal(fill(b, 0, 1), 1024);
	assert_int_equal(used(dir), 8 * MIB);
	/* What is owned goes on, and so does everybody else. */
	assert_int_equal(put(a, 0, 1024), 0);
	assert_int_equal(put(b, 0, 100), 0);
	assert_int_equal(put(b, 1000, 100), -ENOSPC);
	assert_int_equal(put(other, 0, 4096), 0);
	assert_int_equal(fs_statfs_of(fs, a, &st), 0);
	assert_int_equal(st.total_bytes, 8 * MIB);
	assert_int_equal(st.free_bytes, 0);
	assert_int_equal(fs_statfs_of(fs, other, &st), 0);
	assert_true(st.free_bytes > GIB);
	/* Freed space can be used at once. */
	assert_int_equal(fs_fallocate(fs, a, 3, 0, MIB), 0);
	assert_int_equal(fill(b, 2000, 16), 256);
	assert_int_equal(fs_setattr(fs, a, FS_SET_SIZE, &(struct fs_attr){.size = 2 * MIB}), 0);
	assert_int_equal(fill(b, 3000, 1), 512);
	fs_forget(fs, a, 1);
	assert_int_equal(fs_unlink(fs, dir, "a"), 0);
	assert_int_equal(fill(b, 4000, 1), 256);
	assert_int_equal(fs_set_limit(fs, dir, 0), 0);
	assert_int_equal(put(b, 9000, 1024), 0);
}

static void test_nested_and_moved(void **state)
{
	uint64_t top = make(FS_INO_ROOT, "top", S_IFDIR), in = make(top, "in", S_IFDIR);
	uint64_t a = make(in, "a", S_IFREG), b = make(top, "b", S_IFREG);

	assert_int_equal(fs_set_limit(fs, top, 4 * MIB), 0);
	assert_int_equal(fs_set_limit(fs, in, 2 * MIB), 0);
	assert_int_equal(fs_set_limit(fs, b, 3 * MIB), 0);
	assert_int_equal(fill(a, 0, 8), 512);
	assert_int_equal(fill(b, 0, 8), 512);
	assert_int_equal(fs_rename(fs, in, "a", FS_INO_ROOT, "a", 0), 0);
	assert_int_equal(used(top), 2 * MIB);
	assert_int_equal(fill(b, 1000, 8), 256);
	assert_int_equal(put(a, 1000, 512), 0);
	/* Moving is not refused; writing is, then. */
	assert_int_equal(fs_rename(fs, FS_INO_ROOT, "a", in, "a", 0), 0);
	assert_int_equal(used(in), 4 * MIB);
	assert_int_equal(put(a, 5000, 1), -ENOSPC);
	assert_int_equal(put(a, 1000, 512), 0);
}

/* Frozen layers count, once, and not where others see them too. */
static void test_clones(void **state)
{
	uint64_t dir = make(FS_INO_ROOT, "d", S_IFDIR), outside = make(FS_INO_ROOT, "t", S_IFREG);
	struct fs_clone_target in = {dir, "c"}, again = {dir, "c2"};
	uint64_t c, c2;
	size_t failed;

	assert_int_equal(put(outside, 0, 1024), 0);
	assert_int_equal(fs_clone(fs, outside, &in, 1, (struct fs_owner){0, 0}, 0600, false, false,
				 NULL,
				 &failed), 0);
	assert_int_equal(fs_resolve(fs, "d/c", &c), 0);
	assert_int_equal(fs_set_limit(fs, dir, 4 * MIB), 0);
	/* The template's 4 MiB are not the folder's. */
	assert_int_equal(put(c, 0, 512), 0);
	assert_int_equal(fs_clone(fs, c, &again, 1, (struct fs_owner){0, 0}, 0600, false, false,
				 NULL,
				 &failed), 0);
	assert_int_equal(fs_resolve(fs, "d/c2", &c2), 0);
	assert_int_equal(used(dir), 2 * MIB);
	assert_int_equal(put(c2, 2000, 256), 0);
	assert_int_equal(fill(c, 3000, 16), 256);
	assert_int_equal(put(c, 5000, 16), -ENOSPC);
}

/* Removed while open: still counted where it was. */
static void test_removed_while_open(void **state)
{
	uint64_t dir = make(FS_INO_ROOT, "d", S_IFDIR), a = make(dir, "a", S_IFREG);

	assert_int_equal(fs_set_limit(fs, dir, 2 * MIB), 0);
	assert_int_equal(put(a, 0, 256), 0);
	assert_int_equal(fs_unlink(fs, dir, "a"), 0);
	assert_int_equal(used(dir), MIB);
	assert_int_equal(fill(a, 1000, 16), 256);
	fs_forget(fs, a, 1);
	assert_int_equal(used(dir), 0);
}

static void test_stays(void **state)
{
	uint64_t dir = make(FS_INO_ROOT, "d", S_IFDIR), a = make(dir, "a", S_IFREG);
	uint64_t bytes, sum;

	assert_int_equal(fs_set_limit(fs, dir, 2 * MIB), 0);
	assert_int_equal(fs_set_limit(fs, a, MIB), 0);
	for (int i = 0; i < 3; i++) {
		struct simdisk *old = disk;

		assert_int_equal(fs_limit(fs, dir, &bytes, &sum), 0);
		assert_int_equal(bytes, i == 2 ? 0 : 2 * MIB);
		assert_int_equal(fs_limit(fs, a, &bytes, &sum), 0);
		assert_int_equal(bytes, MIB);
		if (i == 1) {
			assert_int_equal(fs_settle(fs), 0);
			assert_int_equal(fs_set_limit(fs, dir, 0), 0);
		}
		fs_abandon(fs);
		disk = simdisk_crash(old, SIMDISK_DROP, 1);
		simdisk_free(old);
		open_store();
	}
	assert_int_equal(fs_set_limit(fs, FS_INO_GOLDEN, MIB), -EPERM);
	assert_int_equal(fs_set_limit(fs, a, UINT64_MAX), -EINVAL);
}

static void test_levels(void **state)
{
	assert_int_equal(space_level(0, 79, 100), 0);
	assert_int_equal(space_level(0, 80, 100), 80);
	assert_int_equal(space_level(80, 79, 100), 80);
	assert_int_equal(space_level(80, 77, 100), 0);
	assert_int_equal(space_level(80, 95, 100), 95);
	assert_int_equal(space_level(95, 93, 100), 95);
	assert_int_equal(space_level(95, 92, 100), 90);
	assert_int_equal(space_level(0, 0, 0), 95);
	assert_int_equal(space_level(0, UINT64_MAX, UINT64_MAX), 95);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_folder, setup, teardown),
		cmocka_unit_test_setup_teardown(test_nested_and_moved, setup, teardown),
		cmocka_unit_test_setup_teardown(test_clones, setup, teardown),
		cmocka_unit_test_setup_teardown(test_removed_while_open, setup, teardown),
		cmocka_unit_test_setup_teardown(test_stays, setup, teardown),
		cmocka_unit_test(test_levels),
	};

	if (!getenv("VERBOSE"))
		log_open(LOG_TO_FILE, "/dev/null");
	return cmocka_run_group_tests(tests, NULL, NULL);
}
