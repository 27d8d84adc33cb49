/* SPDX-License-Identifier: MIT */
/*
 * Damage where blocks are shared, on real files: whoever shows it is named, with where, by check and
 * scrub; nobody else is taken along; what can be mended is; and what may come to light again is kept.
 *
 * Files a, b and c have the same 20 blocks, each elsewhere, b twice; d has content of its own.
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
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "base/sizes.h"
#include "core/check.h"
#include "core/fs.h"
#include "core/fs_internal.h"
#include "core/scrub.h"
#include "store/pool.h"
#include "store_dir.h"

#define BLOCKS 20u
#define LEN (BLOCKS * GF_BLOCK_SIZE)

static const struct {
	const char *name;
	uint64_t off;
} common[] = {
	{"a", 40 * GF_BLOCK_SIZE},
	{"b", 33 * MIB},
	{"b", 3 * MIB},
	{"c", 32 * MIB - 10 * GF_BLOCK_SIZE}, /* in two regions */
};

struct world {
	struct store_dir dir;
	struct fs *fs;
	struct check_report report;
	uint8_t bytes[LEN];
};

static void open_fs(struct world *w, bool verify)
{
	const struct fs_options options = {.no_background = true, .store_fd = -1,
		.dedup = FS_DEDUP_ALL, .verify_reads = verify, .journal_size = MIB};

	assert_int_equal(fs_open(&w->fs, w->dir.io, &options), 0);
}

static void close_fs(struct world *w)
{
	assert_int_equal(fs_close(w->fs), 0);
	w->fs = NULL;
}

static uint64_t ino_of(struct world *w, const char *name)
{
	uint64_t ino = 0;

	assert_int_equal(fs_resolve(w->fs, name, &ino), 0);
	return ino;
}

static void put(struct world *w, const char *name, uint64_t off, unsigned seed)
{
	for (size_t i = 0; i < LEN; i++)
		w->bytes[i] = scratch_byte(i, seed);
	assert_int_equal(fs_write(w->fs, ino_of(w, name), w->bytes, LEN, off), LEN);
}

static int setup(void **state)
{
	struct world *w = calloc(1, sizeof(*w));

	store_dir_init(&w->dir);
	store_dir_skip_syncs(&w->dir);
	open_fs(w, false);
	for (char name[2] = "a"; *name <= 'd'; ++*name) {
		struct fs_attr attr;

		assert_int_equal(fs_make(w->fs, FS_INO_ROOT, name, S_IFREG | 0600,
					 (struct fs_owner){0}, &attr), 0);
		fs_forget(w->fs, attr.ino, 1);
		put(w, name, 50 * MIB, (unsigned)*name);
	}
	for (size_t i = 0; i < ARRAY_SIZE(common); i++) {
		put(w, common[i].name, common[i].off, 7);
		assert_int_equal(fs_settle(w->fs), 0);
	}
	close_fs(w);
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;

	check_report_release(&w->report);
	if (w->fs)
		fs_abandon(w->fs);
	store_dir_release(&w->dir);
	free(w);
	return 0;
}

/* ---- looking ---- */

static void check(struct world *w, bool repair)
{
	check_report_release(&w->report);
	assert_int_equal(check_store(&(struct check_options){.io = w->dir.io, .store_fd = -1,
				 .repair = repair}, &w->report), 0);
}

static void scrub(struct world *w)
{
	check_report_release(&w->report);
	assert_int_equal(scrub_run(w->fs, &(struct scrub_options){.arg = NULL}, &w->report), 0);
}

/* Whether damage of this file, whose own offsets findings in data have, is told there. */
static bool is_told(const struct world *w, const char *name, uint64_t off)
{
	for (size_t i = 0; i < w->report.count; i++) {
		const struct check_finding *f = &w->report.findings[i];

		for (size_t k = 0; k < f->path_count; k++)
			if (strcmp(f->structure, "data") == 0 && strcmp(f->paths[k], name) == 0 &&
				f->offset <= off && off < f->offset + f->length)
				return true;
	}
	return false;
}

static bool is_named(const struct world *w, const char *name)
{
	for (size_t i = 0; i < w->report.count; i++)
		for (size_t k = 0; k < w->report.findings[i].path_count; k++)
			if (strcmp(w->report.findings[i].paths[k], name) == 0)
				return true;
	return false;
}

/* Block `block` of the common ones is told of everybody, and nothing else of anybody. */
static void assert_told(const struct world *w, uint64_t block)
{
	for (size_t i = 0; i < ARRAY_SIZE(common); i++)
		for (uint64_t k = 0; k < BLOCKS; k++)
			assert_int_equal(is_told(w, common[i].name,
						 common[i].off + k * GF_BLOCK_SIZE), k == block);
	assert_false(is_named(w, "d"));
}

/* How reading a block of the common ones ends: 1 right, 0 wrong, or -errno. */
static int read_block(struct world *w, size_t i, uint64_t block)
{
	uint8_t is[GF_BLOCK_SIZE];
	ssize_t n = fs_read(w->fs, ino_of(w, common[i].name), is, sizeof(is),
		common[i].off + block * GF_BLOCK_SIZE);

	for (size_t k = 0; k < sizeof(is) && n > 0; k++)
		if (is[k] != scratch_byte(block * GF_BLOCK_SIZE + k, 7))
			return 0;
	return n < 0 ? (int)n : 1;
}

static void assert_reads(struct world *w, uint64_t bad, int how)
{
	for (size_t i = 0; i < ARRAY_SIZE(common); i++)
		for (uint64_t k = 0; k < BLOCKS; k++)
			assert_int_equal(read_block(w, i, k), k == bad ? how : 1);
}

static const char *state_of(struct world *w, const char *name)
{
	struct fs_info info;
	const char *state;

	assert_int_equal(fs_info(w->fs, ino_of(w, name), FS_NOW, &info), 0);
	state = info.state;
	fs_info_release(&info);
	return state;
}

/* Where block `block` of the common ones stands: all show the same slot. */
static uint64_t slot_of(struct world *w, uint64_t block)
{
	uint64_t slot = UINT64_MAX;

	open_fs(w, false);
	for (size_t i = 0; i < ARRAY_SIZE(common); i++) {
		struct inode *inode = tree_find(w->fs, ino_of(w, common[i].name));
		struct extent x;

		assert_int_equal(layer_resolve(atomic_load(&inode->layer),
			common[i].off / GF_BLOCK_SIZE + block, 1, false, &x), 0);
		assert_int_equal(x.kind, EXTENT_POOL);
		assert_true(slot == UINT64_MAX || slot == x.pos);
		slot = x.pos;
	}
	fs_abandon(w->fs);
	w->fs = NULL;
	return slot;
}

static void flip_slot(struct world *w, uint64_t slot)
{
	store_dir_flip(&w->dir, "pool/0.data", slot * GF_BLOCK_SIZE * 8 + 777);
}

static uint64_t pool_bytes(struct world *w)
{
	unsigned files;

	return store_dir_data(&w->dir, "pool", ".data", &files);
}

/* ---- slots ---- */

static void intact_is_no_damage(void **state)
{
	struct world *w = *state;

	slot_of(w, 3);
	check(w, false);
	assert_int_equal(w->report.count, 0);
	open_fs(w, true);
	scrub(w);
	assert_int_equal(w->report.count, 0);
	assert_reads(w, BLOCKS, 1);
}

static void everybody_with_a_damaged_slot_is_named(void **state)
{
	struct world *w = *state;
	uint64_t slot = slot_of(w, 5), before;

	flip_slot(w, slot);
	check(w, false);
	assert_int_equal(w->report.damaged, ARRAY_SIZE(common));
	assert_told(w, 5);
	open_fs(w, true);
	assert_reads(w, 5, -EIO);
	fs_abandon(w->fs);
	w->fs = NULL;

	/* Wrong bytes become errors, for these blocks only, and nobody needs the slot any more. */
	before = pool_bytes(w);
	check(w, true);
	assert_int_equal(w->report.damaged, ARRAY_SIZE(common));
	assert_told(w, 5);
	open_fs(w, false);
	assert_reads(w, 5, -EIO);
	close_fs(w);
	check(w, false);
	assert_int_equal(w->report.damaged, ARRAY_SIZE(common));
	assert_int_equal(w->report.count, w->report.damaged);
	if (store_dir_can_punch(&w->dir))
		assert_true(pool_bytes(w) < before);
}

static void a_flipped_checksum_is_written_anew(void **state)
{
	struct world *w = *state;

	store_dir_flip(&w->dir, "pool/0.sum", slot_of(w, 5) * 32 + 9);
	check(w, false);
	assert_int_equal(w->report.damaged, 1);
	assert_string_equal(w->report.findings[0].place, "pool/0.sum");
	assert_true(w->report.findings[0].repairable);
	assert_int_equal(w->report.findings[0].path_count, 3);
	check(w, true);
	assert_int_equal(w->report.damaged, 0);
	open_fs(w, true);
	assert_reads(w, BLOCKS, 1);
}

static void a_scrub_finds_each_and_forgets_what_was_written_anew(void **state)
{
	struct world *w = *state;

	flip_slot(w, slot_of(w, 19));
	open_fs(w, true);
	scrub(w);
	assert_told(w, 19);
	for (char name[2] = "a"; *name <= 'd'; ++*name)
		assert_string_equal(state_of(w, name), *name == 'd' ? "ok" : "damaged");
	/* A checkpoint looks again, and it is as it was. */
	assert_int_equal(checkpoint_run(w->fs), 0);
	assert_string_equal(state_of(w, "a"), "damaged");
	scrub(w);
	assert_told(w, 19);
	for (size_t i = 0; i < ARRAY_SIZE(common); i++)
		put(w, common[i].name, common[i].off, 8);
	assert_int_equal(fs_settle(w->fs), 0);
	scrub(w);
	assert_int_equal(w->report.damaged, 0);
	for (char name[2] = "a"; *name <= 'd'; ++*name)
		assert_string_equal(state_of(w, name), "ok");
	close_fs(w);
	check(w, false);
	assert_int_equal(w->report.count, 0);
}

/* The slot of a block of d. */
static uint64_t slot_of_d(struct world *w, uint64_t off)
{
	struct extent x;

	assert_int_equal(layer_resolve(atomic_load(&tree_find(w->fs, ino_of(w, "d"))->layer),
		off / GF_BLOCK_SIZE, 1, false, &x), 0);
	assert_int_equal(x.kind, EXTENT_POOL);
	return x.pos;
}

/* Written before the process died, so what is wrong there is damage, and not older. */
static void what_a_record_announces_is_never_older(void **state)
{
	struct world *w = *state;
	uint8_t is[GF_BLOCK_SIZE];
	uint64_t slot;

	open_fs(w, false);
	put(w, "d", 10 * MIB, 11);
	put(w, "d", 20 * MIB, 12);
	assert_int_equal(fs_settle(w->fs), 0);
	put(w, "d", 20 * MIB, 11);
	slot = slot_of_d(w, 20 * MIB);
	fs_abandon(w->fs);
	flip_slot(w, slot);
	store_dir_flip(&w->dir, "pool/0.sum", (slot + 1) * 32);
	for (int round = 0; round < 2; round++) {
		open_fs(w, true);
		for (uint64_t k = 0; k < 3; k++)
			assert_int_equal(fs_read(w->fs, ino_of(w, "d"), is, sizeof(is),
						 20 * MIB + k * GF_BLOCK_SIZE),
				k < 2 ? -EIO : (int)sizeof(is));
		assert_int_equal(is[5], scratch_byte(2 * GF_BLOCK_SIZE + 5, 11));
		fs_abandon(w->fs);
		w->fs = NULL;
	}
	check(w, false);
	assert_int_equal(w->report.damaged, 2);
	assert_true(is_told(w, "d", 20 * MIB));
}

/* ---- lists ---- */

/* Of the file's region, whichever slot counts: the number of lists that were there. */
static unsigned flip_lists_now(struct world *w, const char *name, uint32_t region, unsigned bits)
{
	char path[64];
	unsigned n = 0;

	snprintf(path, sizeof(path), "layer/%llu.loc",
		(unsigned long long)atomic_load(&tree_find(w->fs, ino_of(w, name))->layer)->id);
	for (unsigned parity = 0; parity < 2; parity++) {
		uint64_t off = (region * 2 + parity) * GF_RUNS_SLOT;
		int fd = w->dir.io->ops->open(w->dir.io, path, O_RDONLY);
		uint32_t magic = 0;

		assert_true(fd >= 0);
		io_pread_full(w->dir.io, fd, &magic, sizeof(magic), off);
		w->dir.io->ops->close(w->dir.io, fd);
		if (magic != GF_RUNS_MAGIC)
			continue;
		for (unsigned bit = 0; bit < bits; bit++)
			store_dir_flip(&w->dir, path, (off + 64) * 8 + bit * 5);
		n++;
	}
	return n;
}

static unsigned flip_lists(struct world *w, const char *name, uint32_t region, unsigned bits)
{
	unsigned n;

	open_fs(w, false);
	n = flip_lists_now(w, name, region, bits);
	fs_abandon(w->fs);
	w->fs = NULL;
	return n;
}

static void a_list_with_one_wrong_bit_is_mended(void **state)
{
	struct world *w = *state;
	uint64_t before = pool_bytes(w);

	assert_true(flip_lists(w, "b", 0, 1) > 0);
	check(w, false);
	assert_int_equal(w->report.damaged, 1);
	assert_true(w->report.findings[0].repairable);
	assert_true(is_named(w, "b"));
	assert_false(is_named(w, "a"));
	/* Mounted meanwhile: nothing may be freed that it may name. */
	open_fs(w, false);
	assert_int_equal(read_block(w, 1, 0), 1);
	assert_int_equal(read_block(w, 2, 0), -EIO);
	assert_int_equal(fs_unlink(w->fs, FS_INO_ROOT, "a"), 0);
	assert_int_equal(fs_unlink(w->fs, FS_INO_ROOT, "c"), 0);
	assert_int_equal(fs_settle(w->fs), 0);
	close_fs(w);
	assert_int_equal(pool_bytes(w), before);
	check(w, true);
	assert_int_equal(w->report.damaged, 0);
	open_fs(w, true);
	for (uint64_t k = 0; k < BLOCKS; k++)
		assert_int_equal(read_block(w, 2, k), 1);
}

static void a_lost_list_takes_its_region_only(void **state)
{
	struct world *w = *state;

	assert_true(flip_lists(w, "c", 0, 2) > 0);
	for (int round = 0; round < 3; round++) {
		check(w, round == 1);
		assert_true(w->report.damaged > 0);
		for (uint64_t k = 0; k < BLOCKS; k++)
			assert_int_equal(
				is_told(w, "c", common[3].off + k * GF_BLOCK_SIZE), k < 10);
		assert_false(is_named(w, "a") || is_named(w, "b") || is_named(w, "d"));
		open_fs(w, false);
		for (uint64_t k = 0; k < BLOCKS; k++) {
			assert_int_equal(read_block(w, 3, k), k < 10 ? -EIO : 1);
			assert_int_equal(read_block(w, 0, k), 1);
		}
		scrub(w);
		for (uint64_t k = 0; k < BLOCKS; k++)
			assert_int_equal(
				is_told(w, "c", common[3].off + k * GF_BLOCK_SIZE), k < 10);
		close_fs(w);
	}
	/* Written anew it is whole. */
	open_fs(w, true);
	put(w, "c", common[3].off, 7);
	assert_int_equal(fs_settle(w->fs), 0);
	assert_reads(w, BLOCKS, 1);
	close_fs(w);
	check(w, false);
	assert_int_equal(w->report.count, 0);
}

static void a_list_is_written_anew_from_memory(void **state)
{
	struct world *w = *state;

	open_fs(w, true);
	assert_reads(w, BLOCKS, 1);
	assert_true(flip_lists_now(w, "a", 0, 1) > 0);
	scrub(w);
	assert_int_equal(w->report.damaged, 0);
	assert_int_equal(w->report.repaired, 1);
	scrub(w);
	assert_int_equal(w->report.count, 0);
	close_fs(w);
	check(w, false);
	assert_int_equal(w->report.count, 0);
}

/* ---- what is not there, and what nobody needs ---- */

static void set_size(struct world *w, const char *path, int64_t by_slots, uint64_t slot_bytes)
{
	struct io *io = w->dir.io;
	int fd = io->ops->open(io, path, O_RDWR | O_CREAT);
	struct io_stat st;

	assert_true(fd >= 0);
	assert_int_equal(io->ops->stat(io, fd, &st), 0);
	if (by_slots > 0)
		assert_int_equal(io_pwrite(io, fd, w->bytes, (uint64_t)by_slots * slot_bytes, st.size), 0);
	else
		assert_int_equal(io->ops->truncate(io, fd,
			st.size - (uint64_t)-by_slots * slot_bytes), 0);
	io->ops->close(io, fd);
}

static void space_that_nothing_refers_to_is_freed(void **state)
{
	struct world *w = *state;
	uint64_t before = pool_bytes(w);

	set_size(w, "pool/0.data", 6, GF_BLOCK_SIZE);
	set_size(w, "layer/77.loc", 1, GF_BLOCK_SIZE);
	set_size(w, "pool/5.sum", 1, GF_BLOCK_SIZE);
	check(w, false);
	assert_int_equal(w->report.damaged, 0);
	assert_int_equal(w->report.count, 3);
	assert_true(w->report.orphaned_bytes >= 6 * GF_BLOCK_SIZE);
	assert_int_equal(w->report.orphaned_files, 2);
	check(w, true);
	assert_int_equal(w->report.damaged, 0);
	check(w, false);
	assert_int_equal(w->report.count, 0);
	assert_int_equal(pool_bytes(w), before);
}

static void slots_behind_the_end_are_lost(void **state)
{
	struct world *w = *state;

	set_size(w, "pool/0.data", -2, GF_BLOCK_SIZE);
	for (int round = 0; round < 2; round++) {
		unsigned lost = 0;

		check(w, round);
		assert_int_equal(w->report.damaged % ARRAY_SIZE(common), 0);
		assert_false(is_named(w, "d"));
		open_fs(w, false);
		for (uint64_t k = 0; k < BLOCKS; k++) {
			bool is_lost = is_told(w, "a", common[0].off + k * GF_BLOCK_SIZE);

			lost += is_lost;
			for (size_t i = 0; i < ARRAY_SIZE(common); i++)
				assert_int_equal(read_block(w, i, k), is_lost ? -EIO : 1);
		}
		assert_int_equal(lost, 2);
		/* Others come to stand there, which nobody sees who lost his. */
		put(w, "d", round * MIB, 9);
		put(w, "d", (2 + round) * MIB, 9);
		assert_int_equal(fs_settle(w->fs), 0);
		close_fs(w);
	}
	open_fs(w, true);
	for (uint64_t k = 0; k < BLOCKS; k++)
		assert_true(read_block(w, 0, k) != 0);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(intact_is_no_damage),
		TEST(everybody_with_a_damaged_slot_is_named),
		TEST(a_flipped_checksum_is_written_anew),
		TEST(a_scrub_finds_each_and_forgets_what_was_written_anew),
		TEST(what_a_record_announces_is_never_older),
		TEST(a_list_with_one_wrong_bit_is_mended),
		TEST(a_lost_list_takes_its_region_only),
		TEST(a_list_is_written_anew_from_memory),
		TEST(space_that_nothing_refers_to_is_freed),
		TEST(slots_behind_the_end_are_lost),
	};

	if (!getenv("VERBOSE"))
		log_open(LOG_TO_FILE, "/dev/null");
	return cmocka_run_group_tests(tests, NULL, NULL);
}
