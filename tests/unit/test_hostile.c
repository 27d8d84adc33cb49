/* SPDX-License-Identifier: MIT */
/*
 * Guests and users that mean no good: requests at the edges of what numbers hold, storms of
 * discards and of sparse writes, deep chains of clones, attributes and names of all sorts. Each
 * must be answered, and what it costs the daemon must stay in proportion: bounds are asserted on
 * memory and on the journal, never on time.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>

#include "base/sizes.h"
#include "core/fs.h"
#include "goldfs/format.h"
#include "store_dir.h"

#define JOURNAL (4 * MIB)

/* A sanitizer has memory of its own, and no time. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { SANITIZED = 1, FEWER = 10 };
#else
enum { SANITIZED = 0, FEWER = 1 };
#endif

struct hostile {
	struct store_dir dir;
	struct fs *fs;
	uint64_t disk; /* the guest's */
};

static const struct fs_owner nobody = {65534, 65534};

static struct fs_options options_of(void)
{
	return (struct fs_options){.journal_size = JOURNAL, .reserve = MIB, .store_fd = -1};
}

static uint64_t make_file(struct fs *fs, const char *name)
{
	struct fs_attr attr;

	assert_int_equal(fs_make(fs, FS_INO_ROOT, name, S_IFREG | 0600, nobody, &attr), 0);
	fs_forget(fs, attr.ino, 1);
	return attr.ino;
}

static int setup(void **state)
{
	struct hostile *h = calloc(1, sizeof(*h));
	struct fs_options options = options_of();
	struct fs_attr attr = {.size = GF_MAX_SIZE};

	store_dir_init(&h->dir);
	store_dir_skip_syncs(&h->dir);
	assert_int_equal(fs_open(&h->fs, h->dir.io, &options), 0);
	h->disk = make_file(h->fs, "disk");
	assert_int_equal(fs_setattr(h->fs, h->disk, FS_SET_SIZE, &attr), 0);
	*state = h;
	return 0;
}

static int teardown(void **state)
{
	struct hostile *h = *state;

	if (h->fs)
		fs_close(h->fs);
	store_dir_release(&h->dir);
	free(h);
	return 0;
}

static size_t heap(void)
{
	struct mallinfo2 info = mallinfo2();

	return info.uordblks + info.hblkhd;
}

/* ---- numbers ---- */

static void test_edges(void **state)
{
	struct hostile *h = *state;
	static const uint64_t places[] = {0, 1, 511, 4095, 4097, GF_MAX_SIZE - 4096,
		GF_MAX_SIZE - 1, GF_MAX_SIZE, GF_MAX_SIZE + 1, INT64_MAX - 4095, INT64_MAX,
		(uint64_t)INT64_MAX + 1, UINT64_MAX - 1, UINT64_MAX};
	static const size_t lengths[] = {0, 1, 511, 4095, 4096, 4097, 70001, 1 << 20};
	static uint8_t buf[1 << 20];

	memset(buf, 0x5a, sizeof(buf));
	for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
		for (size_t k = 0; k < ARRAY_SIZE(lengths); k++) {
			uint64_t off = places[i];
			size_t len = lengths[k];
			bool fits = off <= GF_MAX_SIZE && len <= GF_MAX_SIZE - off;
			ssize_t n = fs_write(h->fs, h->disk, buf, len, off);

			/* Of nothing, beyond the end: the kernel does not ask. */
			if (len || n)
				assert_int_equal(n, fits ? (ssize_t)len : -EFBIG);
			n = fs_read(h->fs, h->disk, buf, len, off);
			if (off >= GF_MAX_SIZE)
				assert_int_equal(n, 0);
			else
				assert_int_equal(n, min_u64(len, GF_MAX_SIZE - off));
			for (ssize_t b = 0; fits && b < n; b++)
				assert_int_equal(buf[b], 0x5a);
		}
	}
}

static void test_edges_of_ranges(void **state)
{
	struct hostile *h = *state;
	static const uint64_t numbers[] = {0, 1, 4095, 4096, GF_MAX_SIZE - 1, GF_MAX_SIZE,
		GF_MAX_SIZE + 1, INT64_MAX, (uint64_t)INT64_MAX + 1, UINT64_MAX};
	static const int modes[] = {0, FALLOC_FL_KEEP_SIZE,
		FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE,
		FALLOC_FL_ZERO_RANGE, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE,
		FALLOC_FL_COLLAPSE_RANGE, -1};
	uint64_t other = make_file(h->fs, "other");
	struct fs_attr attr;

	for (size_t i = 0; i < ARRAY_SIZE(numbers); i++) {
		for (size_t k = 0; k < ARRAY_SIZE(numbers); k++) {
			for (size_t m = 0; m < ARRAY_SIZE(modes); m++)
				fs_fallocate(h->fs, h->disk, modes[m], numbers[i], numbers[k]);
			fs_copy_range(h->fs, h->disk, numbers[i], other, numbers[k],
				numbers[(i + k) % ARRAY_SIZE(numbers)], 1);
			fs_seek(h->fs, h->disk, numbers[i], k % 2 ? SEEK_DATA : SEEK_HOLE);
		}
		attr.size = numbers[i];
		assert_int_equal(fs_setattr(h->fs, other, FS_SET_SIZE, &attr),
			numbers[i] > GF_MAX_SIZE ? -EFBIG : 0);
	}
	assert_int_equal(fs_getattr(h->fs, h->disk, &attr), 0);
	assert_int_equal(attr.size, GF_MAX_SIZE);
	assert_int_equal(fs_settle(h->fs), 0);
}

/* ---- storms ---- */

/* One block in each of many regions, as a guest with a huge disk can write them. What a region
 * costs is bounded (man/goldfs-architecture.7 names the figure). */
static void test_sparse_storm(void **state)
{
	struct hostile *h = *state;
	const unsigned regions = 4096 / FEWER;
	uint8_t block[4096];
	size_t before, after;

	memset(block, 7, sizeof(block));
	before = heap();
	for (unsigned i = 0; i < regions; i++) {
		uint64_t off = i * (GF_MAX_SIZE / regions);

		assert_int_equal(fs_write(h->fs, h->disk, block, sizeof(block), off), 4096);
	}
	assert_int_equal(fs_settle(h->fs), 0);
	after = heap();
	print_message("%zu bytes per region\n", (after - before) / regions);
	assert_true(SANITIZED || after - before < regions * (size_t)8192);
	for (unsigned i = 0; i < regions; i += 97) {
		assert_int_equal(fs_read(h->fs, h->disk, block, sizeof(block),
					 i * (GF_MAX_SIZE / regions)), 4096);
		assert_int_equal(block[4095], 7);
	}
}

static void test_discard_storm(void **state)
{
	struct hostile *h = *state;
	const int keep = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
	static uint8_t buf[1 << 20];
	size_t before;

	memset(buf, 9, sizeof(buf));
	for (uint64_t off = 0; off < 32 * MIB; off += sizeof(buf))
		assert_int_equal(fs_write(h->fs, h->disk, buf, sizeof(buf), off), sizeof(buf));
	assert_int_equal(fs_settle(h->fs), 0);
	before = heap();
	/* Every other block, so that nothing can be merged, in an order that helps nobody. */
	for (uint64_t i = 0; i < 4096; i++) {
		uint64_t block = (i * 1021) % 4096 * 2;

		assert_int_equal(fs_fallocate(h->fs, h->disk, keep, block * 4096, 4096), 0);
	}
	assert_true(SANITIZED || heap() < before + 2 * MIB);
	for (int i = 0; i < 100; i++)
		assert_int_equal(fs_fallocate(h->fs, h->disk, keep, 0, GF_MAX_SIZE), 0);
	assert_int_equal(fs_settle(h->fs), 0);
	assert_int_equal(fs_seek(h->fs, h->disk, 0, SEEK_DATA), -ENXIO);
	assert_true(SANITIZED || heap() < before + 2 * MIB);
}

/* ---- depth ---- */

static void test_deep_chain(void **state)
{
	struct hostile *h = *state;
	uint64_t top = make_file(h->fs, "0");
	const unsigned depth = 1000 / FEWER;
	struct fs_attr attr = {.size = 64 * MIB};
	uint8_t block[4096];
	char name[16];

	assert_int_equal(fs_setattr(h->fs, top, FS_SET_SIZE, &attr), 0);
	for (unsigned i = 0; i < depth; i++) {
		struct fs_clone_target target = {.parent = FS_INO_ROOT, .name = name};
		size_t failed;

		memset(block, (int)(i % 251 + 1), sizeof(block));
		assert_int_equal(fs_write(h->fs, top, block, sizeof(block), i * 4096), 4096);
		snprintf(name, sizeof(name), "%u", i + 1);
		assert_int_equal(fs_clone(h->fs, top, &target, 1, nobody, 0600, false, false, NULL,
					 &failed), 0);
		assert_int_equal(fs_resolve(h->fs, name, &top), 0);
	}
	for (int round = 0; round < 2; round++) {
		struct fs_options options = options_of();

		for (unsigned i = 0; i < depth; i += 37) {
			assert_int_equal(fs_read(h->fs, top, block, sizeof(block), i * 4096), 4096);
			assert_int_equal(block[100], i % 251 + 1);
		}
		assert_int_equal(fs_close(h->fs), 0);
		h->fs = NULL;
		assert_int_equal(fs_open(&h->fs, h->dir.io, &options), 0);
	}
	/* From the bottom up and from the top down: what is in between goes with the last. */
	for (unsigned i = 0; i <= depth; i++) {
		snprintf(name, sizeof(name), "%u", i % 2 ? depth - i / 2 : i / 2);
		assert_int_equal(fs_unlink(h->fs, FS_INO_ROOT, name), 0);
	}
	assert_int_equal(fs_settle(h->fs), 0);
}

/* ---- attributes and names ---- */

static void test_many_attributes(void **state)
{
	struct hostile *h = *state;
	static uint8_t value[65536];
	int big = 0, small = 0, r = 0;
	char name[32];

	while (big < 1000 && r == 0) {
		snprintf(name, sizeof(name), "user.big%d", big++);
		r = fs_setxattr(h->fs, h->disk, name, value, sizeof(value), 0);
	}
	assert_int_equal(r, -ENOSPC);
	assert_true(big > 1);
	/* What is there can be made smaller, taken away and replaced. */
	assert_int_equal(fs_setxattr(h->fs, h->disk, "user.big0", "x", 1, XATTR_REPLACE), 0);
	assert_int_equal(fs_setxattr(h->fs, h->disk, "user.other", value, 1000, 0), 0);
	while (--big > 0) {
		snprintf(name, sizeof(name), "user.big%d", big - 1);
		assert_int_equal(fs_removexattr(h->fs, h->disk, name), 0);
	}
	for (r = 0; small < 100000 && r == 0; small++) {
		snprintf(name, sizeof(name), "user.%d", small);
		r = fs_setxattr(h->fs, h->disk, name, "", 0, 0);
	}
	assert_int_equal(r, -ENOSPC);
	/* The kernel passes lists of up to 64 KiB. */
	assert_true(fs_listxattr(h->fs, h->disk, NULL, 0) <= 65536);
}

static void test_strange_names(void **state)
{
	struct hostile *h = *state;
	char name[258];
	struct fs_attr attr;

	for (int c = 1; c < 256; c++) {
		if (c == '/')
			continue;
		memset(name, c, 255);
		name[255] = '\0';
		assert_int_equal(fs_make(h->fs, FS_INO_ROOT, name, S_IFREG | 0600, nobody, &attr), 0);
		fs_forget(h->fs, attr.ino, 1);
		assert_int_equal(fs_rename(h->fs, FS_INO_ROOT, name, FS_INO_ROOT, name + 1, 0), 0);
		assert_int_equal(fs_lookup(h->fs, FS_INO_ROOT, name + 1, &attr), 0);
		fs_forget(h->fs, attr.ino, 1);
	}
	name[255] = 'x';
	name[256] = '\0';
	assert_int_equal(fs_make(h->fs, FS_INO_ROOT, name, S_IFREG | 0600, nobody, &attr),
		-ENAMETOOLONG);
	assert_int_equal(fs_make(h->fs, FS_INO_ROOT, "", S_IFREG | 0600, nobody, &attr), -EINVAL);
}

/* A folder never comes to stand below itself, whichever way it is tried. */
static void test_rename_loops(void **state)
{
	struct hostile *h = *state;
	uint64_t parent = FS_INO_ROOT, folders[40];
	struct fs_attr attr;

	for (size_t i = 0; i < ARRAY_SIZE(folders); i++) {
		assert_int_equal(fs_make(h->fs, parent, "d", S_IFDIR | 0700, nobody, &attr), 0);
		fs_forget(h->fs, attr.ino, 1);
		parent = folders[i] = attr.ino;
	}
	for (size_t i = 0; i < ARRAY_SIZE(folders); i++) {
		assert_int_equal(fs_rename(h->fs, FS_INO_ROOT, "d", folders[i], "x", 0), -EINVAL);
		assert_int_equal(fs_rename(h->fs, FS_INO_ROOT, "disk", folders[i], "x", 0), 0);
		/* The file for a folder that it stands in. */
		assert_int_equal(fs_rename(h->fs, folders[i], "x", FS_INO_ROOT, "d", 2), -EINVAL);
		assert_int_equal(fs_rename(h->fs, folders[i], "x", FS_INO_ROOT, "disk", 0), 0);
	}
	assert_int_equal(fs_getattr(h->fs, folders[39], &attr), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_edges, setup, teardown),
		cmocka_unit_test_setup_teardown(test_edges_of_ranges, setup, teardown),
		cmocka_unit_test_setup_teardown(test_sparse_storm, setup, teardown),
		cmocka_unit_test_setup_teardown(test_discard_storm, setup, teardown),
		cmocka_unit_test_setup_teardown(test_deep_chain, setup, teardown),
		cmocka_unit_test_setup_teardown(test_many_attributes, setup, teardown),
		cmocka_unit_test_setup_teardown(test_strange_names, setup, teardown),
		cmocka_unit_test_setup_teardown(test_rename_loops, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
