/* SPDX-License-Identifier: MIT */
/*
 * What a successor is told beside what stands in the store: that a sync failed, which the kernel
 * says once only, and the numbers of golden images that could not be recorded.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/sizes.h"
#include "core/fs.h"
#include "image/image.h"
#include "simdisk.h"

struct mount {
	struct simdisk *disk;
	struct fs *fs;
	struct image *images[3];
	char kept[65536];
	size_t kept_len;
	bool read_only;
};

static int keep(void *arg, const void *bytes, size_t len, bool urgent)
{
	struct mount *m = arg;

	assert_true(m->kept_len + len <= sizeof(m->kept));
	memcpy(m->kept + m->kept_len, bytes, len);
	m->kept_len += len;
	return 0;
}

static struct image *image(void *arg, uint64_t id)
{
	struct mount *m = arg;

	return id <= 3 ? m->images[id - 1] : NULL;
}

static void open_it(struct mount *m, bool takeover)
{
	struct fs_options options = {
		.journal_size = 1 * MIB,
		.reserve = 64 * KIB,
		.no_background = true,
		.takeover = takeover,
		.read_only = m->read_only,
		.kept = m->kept,
		.kept_len = takeover ? m->kept_len : 0,
		.connection = 5,
		.store_fd = -1,
		.golden_test = image,
		.golden_test_arg = m,
		.hooks = {.keep = keep, .arg = m},
	};

	assert_int_equal(fs_open(&m->fs, simdisk_io(m->disk), &options), 0);
}

/* The process dies, and another one goes on; or, without a takeover, mounts anew. */
static void die(struct mount *m, bool takeover)
{
	struct simdisk *left = simdisk_clone(m->disk);

	fs_abandon(m->fs);
	simdisk_free(m->disk);
	m->disk = left;
	open_it(m, takeover);
}

static int setup(void **state)
{
	struct mount *m = calloc(1, sizeof(*m));

	log_open(LOG_TO_FILE, "/dev/null");
	for (int i = 0; i < 3; i++)
		assert_int_equal(image_memory_new(&m->images[i], "golden bytes", 12), 0);
	m->disk = simdisk_new(64 * MIB);
	open_it(m, false);
	*state = m;
	return 0;
}

static int teardown(void **state)
{
	struct mount *m = *state;

	fs_abandon(m->fs);
	simdisk_free(m->disk);
	for (int i = 0; i < 3; i++)
		image_free(m->images[i]);
	free(m);
	return 0;
}

static uint64_t make(struct mount *m, const char *name)
{
	struct fs_attr attr;

	assert_int_equal(fs_make(m->fs, FS_INO_ROOT, name, S_IFREG | 0644, (struct fs_owner){0, 0},
				 &attr), 0);
	return attr.ino;
}

static void synced(void *arg, int result)
{
	*(int *)arg = result;
}

static int sync_it(struct mount *m, uint64_t ino)
{
	int result = 1;

	fs_fsync(m->fs, ino, synced, &result);
	assert_int_not_equal(result, 1);
	return result;
}

static ssize_t write_it(struct mount *m, uint64_t ino, size_t len)
{
	char *bytes = malloc(len);
	ssize_t r;

	memset(bytes, 'x', len);
	r = fs_write(m->fs, ino, bytes, len, 0);
	free(bytes);
	return r;
}

static void journal_that_failed(void **state)
{
	struct mount *m = *state;
	uint64_t ino = make(m, "a");
	char byte;

	assert_int_equal(write_it(m, ino, 4096), 4096);
	simdisk_fail(m->disk, SIMDISK_FDATASYNC, 1, -EIO, false, "journal/0");
	assert_int_equal(sync_it(m, ino), -EIO);
	for (int i = 0; i < 2; i++) {
		die(m, true);
		assert_int_equal(sync_it(m, ino), -EIO);
		assert_int_equal(write_it(m, ino, 4096), -EIO);
		assert_int_equal(fs_read(m->fs, ino, &byte, 1, 0), 1);
		assert_int_equal(byte, 'x');
	}
	die(m, false);
	assert_int_equal(write_it(m, ino, 4096), 4096);
	assert_int_equal(sync_it(m, ino), 0);
}

static void layer_that_failed(void **state)
{
	struct mount *m = *state;
	uint64_t bad = make(m, "bad"), good = make(m, "good");

	assert_int_equal(write_it(m, bad, MIB), MIB);
	assert_int_equal(write_it(m, good, MIB), MIB);
	simdisk_fail(m->disk, SIMDISK_FDATASYNC, 1, -EIO, false, "layer/");
	assert_int_equal(sync_it(m, bad), -EIO);
	for (int i = 0; i < 2; i++) {
		die(m, true);
		assert_int_equal(sync_it(m, bad), -EIO);
		assert_int_equal(write_it(m, bad, 4096), -EIO);
		assert_int_equal(write_it(m, good, 4096), 4096);
		assert_int_equal(sync_it(m, good), 0);
	}
}

static uint64_t number(struct mount *m, const char *name)
{
	struct fs_attr attr;

	assert_int_equal(fs_lookup(m->fs, FS_INO_GOLDEN, name, &attr), 0);
	return attr.ino;
}

static void numbers_on_a_read_only_mount(void **state)
{
	struct mount *m = *state;
	uint64_t first = number(m, "1"), second, third;

	assert_int_equal(fs_sync(m->fs), 0);
	m->read_only = true;
	die(m, false);
	third = number(m, "3");
	second = number(m, "2");
	for (int i = 0; i < 2; i++) {
		die(m, true);
		assert_true(number(m, "2") == second);
		assert_true(number(m, "3") == third);
		assert_true(number(m, "1") == first);
	}
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(journal_that_failed),
		T(layer_that_failed),
		T(numbers_on_a_read_only_mount),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
