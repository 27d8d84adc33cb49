/* SPDX-License-Identifier: MIT */
/*
 * What test_ledger found, each as a case of a few operations: figures of files that share blocks by
 * content, against the ledger (ledger.h); and what recovery made of a write it had not seen.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/sizes.h"
#include "core/fs.h"
#include "goldfs/format.h"
#include "ledger.h"
#include "rng.h"
#include "simdisk.h"

#define BLOCK GF_BLOCK_SIZE

static struct simdisk *disk;
static struct fs *fs;

static struct image *no_golden(void *arg, uint64_t id)
{
	return NULL;
}

static struct fs_options options(void)
{
	struct fs_options o = {
		.journal_size = MIB,
		.reserve = 64 * KIB,
		.no_background = true,
		.verify_reads = true,
		.dedup = FS_DEDUP_ALL,
		.store_fd = -1,
		.golden_test = no_golden,
	};

	return o;
}

static int setup(void **state)
{
	struct fs_options o = options();

	disk = simdisk_new(TIB);
	return fs_open(&fs, simdisk_io(disk), &o);
}

static int teardown(void **state)
{
	fs_abandon(fs);
	simdisk_free(disk);
	return 0;
}

static uint64_t make(const char *name)
{
	struct fs_attr attr;

	assert_int_equal(
		fs_make(fs, FS_INO_ROOT, name, S_IFREG | 0644, (struct fs_owner){0}, &attr), 0);
	fs_forget(fs, attr.ino, 1);
	return attr.ino;
}

static uint64_t clone(uint64_t ino, const char *name)
{
	struct fs_clone_target target = {FS_INO_ROOT, name};
	size_t failed;

	assert_int_equal(fs_clone(fs, ino, &target, 1, (struct fs_owner){0}, 0644, false, false,
				 NULL, &failed),
		0);
	assert_int_equal(fs_resolve(fs, name, &ino), 0);
	return ino;
}

/* count blocks of content, which is its own for each of them. */
static void fill(uint8_t *bytes, int content, uint64_t count)
{
	struct rng rng;

	rng_seed(&rng, (uint64_t)content);
	for (uint64_t at = 0; at < count * BLOCK; at += 8) {
		uint64_t word = rng_next(&rng);

		memcpy(bytes + at, &word, 8);
	}
}

static void write_blocks(uint64_t ino, int content, uint64_t block, uint64_t count)
{
	uint8_t *bytes = malloc(count * BLOCK);

	fill(bytes, content, count);
	assert_int_equal(fs_write(fs, ino, bytes, count * BLOCK, block * BLOCK), count * BLOCK);
	free(bytes);
}

/* A block of which only the first len bytes are not zero; to its end, or the file ends with them.
 */
static void write_part(uint64_t ino, int content, uint64_t block, uint64_t len, bool to_end)
{
	uint8_t bytes[BLOCK];

	fill(bytes, content, 1);
	memset(bytes + len, 0, sizeof(bytes) - len);
	len = to_end ? BLOCK : len;
	assert_int_equal(fs_write(fs, ino, bytes, len, block * BLOCK), len);
}

static void settle(void)
{
	assert_int_equal(fs_settle(fs), 0);
}

static struct fs_figures figures(uint64_t ino)
{
	struct fs_figures f;
	struct fs_info info;

	assert_int_equal(fs_info(fs, ino, FS_NOW, &info), 0);
	f = info.figures;
	fs_info_release(&info);
	assert_int_equal(f.virtual_bytes, f.data_bytes + f.zero_bytes);
	assert_int_equal(f.data_bytes, f.unique_bytes + f.shared_clone_bytes +
					       f.shared_golden_bytes + f.shared_self_bytes);
	return f;
}

/* All files, alone and all together, are what the ledger says. */
static void compare(void)
{
	const struct ledger_file *files;
	uint64_t inos[16], told, bytes, blocks;
	struct ledger *ledger;
	char reason[300];
	size_t count;

	settle();
	if (ledger_take(&ledger, simdisk_io(disk), NULL, 0, NULL, 0, reason, sizeof(reason)))
		fail_msg("%s", reason);
	count = ledger_files(ledger, &files);
	assert_true(count <= ARRAY_SIZE(inos));
	for (size_t i = 0; i < count; i++) {
		struct fs_figures f = figures(files[i].ino);

		assert_int_equal(f.data_bytes, files[i].data);
		assert_int_equal(f.unique_bytes, files[i].unique);
		assert_int_equal(f.shared_clone_bytes, files[i].shared_clone);
		assert_int_equal(f.shared_self_bytes, files[i].shared_self);
		assert_int_equal(fs_if_removed(fs, &files[i].ino, 1, &told), 0);
		assert_int_equal(told, files[i].unique);
		inos[i] = files[i].ino;
	}
	assert_int_equal(fs_if_removed(fs, inos, count, &told), 0);
	ledger_freed(ledger, inos, count, &bytes, &blocks);
	assert_int_equal(told, bytes);
	ledger_free(ledger);
}

/* Shown twice, once to the end: that one is unique, what is cut off is the other's. */
static void last_block_is_shown_twice(void **state)
{
	uint64_t a = make("a");

	write_part(a, 1, 0, 100, true);
	settle();
	write_part(a, 1, 3, 100, false);
	compare();
	assert_int_equal(figures(a).unique_bytes, BLOCK);
	assert_int_equal(figures(a).shared_self_bytes, 100);
}

/* One file shows a slot through two of its layers, beside others that it shares with somebody. */
static void two_layers_of_one_file(void **state)
{
	uint64_t a = make("a"), b;

	write_part(a, 1, 0, 100, true);
	write_blocks(a, 2, 1, 2);
	settle();
	b = clone(a, "b");
	write_blocks(b, 3, 0, 1);
	write_part(a, 1, 6, 100, false);
	compare();
	assert_int_equal(figures(a).unique_bytes, BLOCK);
	assert_int_equal(figures(a).shared_self_bytes, 100);
	assert_int_equal(figures(a).shared_clone_bytes, 2 * BLOCK);
	assert_int_equal(fs_unlink(fs, FS_INO_ROOT, "b"), 0);
	compare();
	assert_int_equal(figures(a).shared_clone_bytes, 0);
}

/* The last block of a file stands in a slot that others show, too, to its end or not. */
static void last_block_in_the_pool(void **state)
{
	uint64_t a = make("a"), b = make("b"), c, told, set[2];

	write_blocks(a, 1, 0, 3);
	write_part(a, 2, 3, 100, true);
	settle();
	write_blocks(b, 1, 0, 3);
	write_part(b, 2, 3, 100, false);
	compare();
	assert_int_equal(figures(b).shared_clone_bytes, 3 * BLOCK + 100);
	assert_int_equal(fs_if_removed(fs, &b, 1, &told), 0);
	assert_int_equal(told, 0);
	c = clone(b, "c");
	compare();
	assert_int_equal(fs_unlink(fs, FS_INO_ROOT, "a"), 0);
	compare();
	set[0] = b;
	set[1] = c;
	assert_int_equal(fs_if_removed(fs, set, 2, &told), 0);
	assert_int_equal(told, 3 * BLOCK + 100);
	assert_int_equal(fs_unlink(fs, FS_INO_ROOT, "b"), 0);
	compare();
	assert_int_equal(figures(c).unique_bytes, 3 * BLOCK + 100);
}

/* A settling moves blocks to the pool, without a record that says so: what was kept of the figures
 * ends with it. */
static void kept_figures_end(void **state)
{
	uint64_t a = make("a"), b = make("b"), c;
	struct fs_attr attr;

	write_blocks(a, 1, 0, 8);
	settle();
	c = clone(a, "c");
	assert_int_equal(fs_unlink(fs, FS_INO_ROOT, "a"), 0);
	settle();
	write_blocks(b, 1, 0, 8);
	assert_int_equal(figures(c).unique_bytes, 8 * BLOCK);
	settle();
	assert_int_equal(fs_getattr(fs, c, &attr), 0);
	assert_int_equal(attr.blocks, 8);
	assert_int_equal(figures(c).unique_bytes, 0);
	compare();
	assert_int_equal(fs_unlink(fs, FS_INO_ROOT, "b"), 0);
	settle();
	assert_int_equal(fs_getattr(fs, c, &attr), 0);
	assert_int_equal(attr.blocks, 8 * 8);
}

/* Journaled over a block that is SHARED in place: it counts once. */
static void journaled_over_shared(void **state)
{
	uint64_t a = make("a"), b = make("b");

	write_blocks(a, 1, 0, 4);
	settle();
	write_blocks(b, 1, 0, 4);
	settle();
	write_blocks(b, 2, 0, 4);
	assert_int_equal(figures(b).data_bytes, 4 * BLOCK);
	assert_int_equal(figures(b).zero_bytes, 0);
	compare();
}

static struct simdisk *fork_at_write;

static void fork_once(void *arg, struct simdisk *from, const struct simdisk_call *call)
{
	if (!fork_at_write && call->op == SIMDISK_PWRITE && strstr(call->path, ".data"))
		fork_at_write = simdisk_clone(from);
}

/* The same bytes stood here once and their checksum still does: what a dead process had announced
 * only is not in place because of that. */
static void checksum_of_old_bytes(void **state)
{
	uint64_t a = make("a"), size = 32 * BLOCK;
	uint8_t *bytes = malloc(size);
	struct fs_options o = options();

	write_blocks(a, 1, 0, 32);
	settle();
	assert_int_equal(
		fs_fallocate(fs, a, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, size), 0);
	settle();
	fork_at_write = NULL;
	simdisk_set_hook(disk, fork_once, NULL);
	write_blocks(a, 1, 0, 32);
	simdisk_set_hook(disk, NULL, NULL);
	assert_non_null(fork_at_write);
	fs_abandon(fs);
	simdisk_free(disk);
	disk = fork_at_write;
	assert_int_equal(fs_open(&fs, simdisk_io(disk), &o), 0);
	assert_int_equal(fs_read(fs, a, bytes, size, 0), size);
	for (uint64_t i = 0; i < size; i++)
		assert_int_equal(bytes[i], 0);
	compare();
	free(bytes);
}

/* A copy that is complete has become longer than its source. */
static void copy_that_grew_afterwards(void **state)
{
	uint64_t a = make("a"), b = make("b");

	write_blocks(a, 1, 0, 1);
	write_part(a, 2, 1, 100, false);
	assert_int_equal(fs_copy_range(fs, a, 0, b, 0, GIB, 1), BLOCK + 100);
	write_blocks(b, 3, 4, 1);
	compare();
}

static void reopen(void)
{
	struct fs_options o = options();

	assert_int_equal(fs_open(&fs, simdisk_io(disk), &o), 0);
}

/* A process gave space back and died; the next one ended cleanly, so that nobody looks again. */
static void space_of_a_dead_process(void **state)
{
	uint64_t a = make("a");
	struct ledger_totals t;
	struct simdisk *old;

	write_blocks(a, 1, 0, 32);
	settle();
	assert_int_equal(
		fs_fallocate(fs, a, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 16 * BLOCK), 0);
	settle();
	fs_abandon(fs);
	reopen();
	settle();
	assert_int_equal(fs_close(fs), 0);
	old = disk;
	disk = simdisk_crash(old, SIMDISK_DROP, 1);
	simdisk_free(old);
	reopen();
	settle();
	ledger_measure(simdisk_io(disk), &t);
	assert_int_equal(t.layer_bytes, 16 * BLOCK);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(last_block_is_shown_twice),
		TEST(two_layers_of_one_file),
		TEST(last_block_in_the_pool),
		TEST(kept_figures_end),
		TEST(journaled_over_shared),
		TEST(checksum_of_old_bytes),
		TEST(copy_that_grew_afterwards),
		TEST(space_of_a_dead_process),
	};

	if (!getenv("VERBOSE"))
		log_open(LOG_TO_FILE, "/dev/null");
	return cmocka_run_group_tests(tests, NULL, NULL);
}
