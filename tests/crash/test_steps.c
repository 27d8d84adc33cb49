/* SPDX-License-Identifier: MIT */
/*
 * One step of the store at a time: it is brought to the call that a step is there for, and then the
 * power is lost, or the process dies, or a call fails. Nothing here is random; what the workloads
 * of test_crash.c come by only once in a long while has its place here.
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
#include "core/fs_internal.h"
#include "core/in_flight.h"
#include "goldfs/format.h"
#include "simdisk.h"
#include "store/catalog_file.h"
#include "workload.h"

enum { BLOCK = 4096, LARGE = 128 * KIB, RESERVE = 256 * KIB };

static struct simdisk *disk;
static struct simdisk *at_the_hook; /* what a hook made of it */
static struct fs *fs;
static struct io_ops ops; /* what some tests put in front of the disk's */
static const struct io_ops *below;

static struct fs_options usual(void)
{
	return (struct fs_options){.journal_size = MIB, .reserve = RESERVE, .no_background = true,
		.dedup = FS_DEDUP_OFF, .store_fd = -1};
}

static int open_with(bool accept_lost)
{
	struct fs_options options = usual();

	options.accept_lost = accept_lost;
	return fs_open(&fs, simdisk_io(disk), &options);
}

/* Goes on with what a crash made of the disk. */
static void replace_disk(struct simdisk *other)
{
	if (fs)
		fs_abandon(steal_pointer(&fs));
	simdisk_free(disk);
	disk = other;
}

static void lose_power(enum simdisk_policy policy)
{
	replace_disk(simdisk_crash(disk, policy, 1));
	assert_int_equal(open_with(false), 0);
}

static int setup(void **state)
{
	disk = simdisk_new(GIB);
	assert_int_equal(open_with(false), 0);
	return 0;
}

static int teardown(void **state)
{
	if (fs)
		fs_abandon(steal_pointer(&fs));
	simdisk_free(disk);
	simdisk_free(steal_pointer(&at_the_hook));
	return 0;
}

/* The table of functions may be changed from then on. */
static void stand_in_front(void)
{
	struct io *io = simdisk_io(disk);

	below = io->ops;
	ops = *below;
	io->ops = &ops;
}

/* ---- files ---- */

static uint64_t make(const char *name)
{
	struct fs_attr attr;

	assert_int_equal(fs_make(fs, FS_INO_ROOT, name, S_IFREG | 0600, (struct fs_owner){0, 0},
				 &attr), 0);
	return attr.ino;
}

/* No two blocks are alike. 0 or -errno. */
static int put(uint64_t ino, uint64_t block, uint64_t count, char c)
{
	CLEANUP_FREE uint8_t *buf = malloc(count * BLOCK);
	ssize_t n;

	memset(buf, c, count * BLOCK);
	for (uint64_t i = 0; i < count; i++)
		memcpy(buf + i * BLOCK, (uint64_t[]){block + i}, sizeof(uint64_t));
	n = fs_write(fs, ino, buf, count * BLOCK, block * BLOCK);
	return n < 0 ? (int)n : 0;
}

static void assert_shows(uint64_t ino, uint64_t block, uint64_t count, char c)
{
	CLEANUP_FREE uint8_t *buf = malloc(count * BLOCK);

	assert_int_equal(fs_read(fs, ino, buf, count * BLOCK, block * BLOCK), count * BLOCK);
	for (uint64_t i = 0; i < count * BLOCK; i++)
		if (i % BLOCK >= sizeof(uint64_t) && buf[i] != (uint8_t)c)
			fail_msg("byte %u of block %u is 0x%02x", (unsigned)(i % BLOCK),
				(unsigned)(block + i / BLOCK), buf[i]);
}

static void put_and_sync(uint64_t ino, uint64_t block, uint64_t count, char c)
{
	assert_int_equal(put(ino, block, count, c), 0);
	assert_int_equal(sync_file(fs, ino), 0);
}

/* ---- writes that fail ---- */

static unsigned large_writes;
static int64_t taken;

/* When the second large write goes to its place, the ring has no room left. */
static void take_the_room(void *arg, struct simdisk *changed, const struct simdisk_call *call)
{
	int64_t room;

	if (call->op != SIMDISK_PWRITE || !strstr(call->path, ".data") || call->len < 16 * BLOCK ||
		++large_writes != 2)
		return;
	while ((room = journal_try_reserve(fs->journal, 256, JOURNAL_CARRY)) > 0)
		taken += room;
}

/* A large write that does not begin with a block fails when its first one is in the journal, and there is
 * no room to say that it is what it was. Once the file is synced no recovery makes it anything else. */
static void test_failed_write_stays_failed_when_synced(void **state)
{
	uint8_t other[40 * BLOCK];
	uint64_t a = make("a");

	memset(other, 7, sizeof(other));
	assert_int_equal(put(a, 2, 1, 'A'), 0);
	assert_int_equal(put(a, 60, 1, 'A'), 0);
	large_writes = 0;
	taken = 0;
	simdisk_fail(disk, SIMDISK_PWRITE, 1, -ENOSPC, true, ".data");
	simdisk_set_hook(disk, take_the_room, NULL);
	assert_int_equal(fs_write(fs, a, other, sizeof(other), 2 * BLOCK + 50), -ENOSPC);
	simdisk_set_hook(disk, NULL, NULL);
	assert_true(taken > 0);
	journal_unreserve(fs->journal, taken);
	simdisk_heal(disk);
	assert_shows(a, 2, 1, 'A');
	assert_int_equal(sync_file(fs, a), 0);
	lose_power(SIMDISK_DROP);
	assert_shows(a, 2, 1, 'A');
}

/* ---- what stands elsewhere, or was left by somebody else ---- */

/* The last block of the largest disk stands in another file than the others. */
static void test_flush_syncs_the_last_block(void **state)
{
	const uint64_t blocks = LARGE / BLOCK, first = GF_MAX_SIZE / BLOCK - blocks;
	uint64_t a = make("a");

	put_and_sync(a, first, blocks, 'A');
	lose_power(SIMDISK_DROP);
	assert_shows(a, first, blocks, 'A');
}

static void die_at_sync_of_data(void *arg, struct simdisk *busy, const struct simdisk_call *call)
{
	if (!at_the_hook && call->op == SIMDISK_FDATASYNC && strstr(call->path, ".data"))
		at_the_hook = simdisk_clone(busy);
}

static void go_on_from_the_hook(void)
{
	simdisk_set_hook(disk, NULL, NULL);
	assert_non_null(at_the_hook);
	replace_disk(steal_pointer(&at_the_hook));
}

/* The destager of a dead process made the file, and nothing says that its name is durable. */
static void test_flush_covers_names_of_a_dead_process(void **state)
{
	uint64_t a = make("a");

	put_and_sync(a, 100, 1, 'a');
	simdisk_set_hook(disk, die_at_sync_of_data, NULL);
	assert_int_equal(fs_settle(fs), 0);
	go_on_from_the_hook();
	assert_int_equal(open_with(false), 0);
	put_and_sync(a, 0, LARGE / BLOCK, 'A');
	lose_power(SIMDISK_DROP);
	assert_shows(a, 0, LARGE / BLOCK, 'A');
	assert_shows(a, 100, 1, 'a');
}

/* What recovery finds in place was acknowledged, and perhaps never synced. */
static void flush_of_what_was_found(bool takeover)
{
	struct fs_options options = usual();
	uint64_t a = make(takeover ? "a" : "b");

	assert_int_equal(put(a, 0, LARGE / BLOCK, 'A'), 0);
	replace_disk(simdisk_clone(disk));
	options.takeover = takeover;
	assert_int_equal(fs_open(&fs, simdisk_io(disk), &options), 0);
	assert_int_equal(sync_file(fs, a), 0);
	lose_power(SIMDISK_DROP);
	assert_shows(a, 0, LARGE / BLOCK, 'A');
}

static void test_flush_covers_bytes_of_a_dead_process(void **state)
{
	flush_of_what_was_found(true);
	flush_of_what_was_found(false);
}

static void die_at_sync_of_journal(void *arg, struct simdisk *busy, const struct simdisk_call *call)
{
	if (!at_the_hook && call->op == SIMDISK_FDATASYNC && strstr(call->path, "journal"))
		at_the_hook = simdisk_clone(busy);
}

/*
 * Block 3 was 'E', and was overwritten in place by a write that nobody synced and a power loss left there.
 * The process that found it died between a commit record and the sync of that. Whatever its successor writes
 * over it: the next power loss shows what was found or what came then, never what was before.
 */
static void test_found_by_a_dead_process(void **state)
{
	struct in_flight board = {0};
	struct fs_options options = usual();
	const uint64_t count = LARGE / BLOCK;
	uint64_t a = make("a");

	put_and_sync(a, 0, count, 'D');
	assert_int_equal(fs_settle(fs), 0);
	put_and_sync(a, 3, 1, 'E');
	assert_int_equal(put(a, 0, count, 'F'), 0);
	replace_disk(simdisk_crash(disk, SIMDISK_KEEP, 1));
	options.in_flight = &board;
	assert_int_equal(fs_open(&fs, simdisk_io(disk), &options), 0);
	assert_shows(a, 0, count, 'F');
	simdisk_set_hook(disk, die_at_sync_of_journal, NULL);
	assert_int_equal(sync_file(fs, a), 0);
	go_on_from_the_hook();
	options.takeover = true;
	assert_int_equal(fs_open(&fs, simdisk_io(disk), &options), 0);
	assert_int_equal(put(a, 0, count, 'G'), 0);
	for (uint64_t seed = 1; seed <= 200; seed++) {
		struct simdisk *crashed = simdisk_crash(disk, SIMDISK_FILES, seed);
		struct fs_options anew = usual();
		uint8_t bytes[BLOCK];
		struct fs *after;

		assert_int_equal(fs_open(&after, simdisk_io(crashed), &anew), 0);
		assert_int_equal(fs_read(after, a, bytes, BLOCK, 3 * BLOCK), BLOCK);
		assert_true(bytes[100] == 'F' || bytes[100] == 'G');
		fs_abandon(after);
		simdisk_free(crashed);
	}
}

static const char *watched; /* a path */
static int watched_fd;

/* As open() of a table that stands in front: which descriptor is that of the file that is watched. */
static int open_and_watch(struct io *io, const char *path, int flags)
{
	int fd = below->open(io, path, flags);

	if (strcmp(path, watched) == 0)
		watched_fd = fd;
	return fd;
}

static void watch(const char *path)
{
	watched = path;
	watched_fd = -1;
	ops.open = open_and_watch;
}

static struct {
	uint64_t first, end; /* blocks */
} asked[8];
static unsigned asked_count;

static void note_asked(struct io *io, int fd, uint64_t off, uint64_t len)
{
	if (fd != watched_fd)
		return;
	assert_true(asked_count < 8);
	asked[asked_count].first = off / BLOCK;
	asked[asked_count++].end = (off + len) / BLOCK;
}

static void count_asked_at_mount(void)
{
	replace_disk(simdisk_crash(disk, SIMDISK_KEEP, 1));
	stand_in_front();
	watch("layer/1.data");
	ops.will_read = note_asked;
	asked_count = 0;
	assert_int_equal(open_with(false), 0);
}

/* The disk is asked for what recovery will read, in the order of places and not of records, and for nothing
 * that a commit record vouches for. */
static void test_recovery_reads_ahead(void **state)
{
	const uint64_t count = LARGE / BLOCK;
	uint64_t a = make("a");

	put_and_sync(a, 0, 4 * count, 'D');
	assert_int_equal(fs_settle(fs), 0);
	assert_int_equal(put(a, 3 * count, count, 'E'), 0);
	assert_int_equal(put(a, count, count, 'F'), 0);
	assert_int_equal(put(a, 0, count, 'G'), 0);
	count_asked_at_mount();
	assert_int_equal(asked_count, 2);
	assert_int_equal(asked[0].first, 0);
	assert_int_equal(asked[0].end, 2 * count);
	assert_int_equal(asked[1].first, 3 * count);
	assert_int_equal(asked[1].end, 4 * count);
	assert_shows(a, 0, count, 'G');
	assert_shows(a, count, count, 'F');
	assert_shows(a, 2 * count, count, 'D');
	assert_shows(a, 3 * count, count, 'E');
	assert_int_equal(fs_settle(fs), 0);
	put_and_sync(a, count, count, 'H');
	count_asked_at_mount();
	assert_int_equal(asked_count, 0);
	assert_shows(a, count, count, 'H');
}

/* Whatever the power loss left of what is not synced, the checksums are no reason to say damaged. */
static void assert_no_damage_after_power_loss(uint64_t ino)
{
	for (uint64_t seed = 1; seed <= 16; seed++) {
		struct simdisk *crashed = simdisk_crash(disk, SIMDISK_FILES, seed);
		CLEANUP_FREE uint8_t *buf = malloc(LARGE);
		struct fs_options options = usual();
		struct fs *after;

		options.verify_reads = true;
		assert_int_equal(fs_open(&after, simdisk_io(crashed), &options), 0);
		assert_int_equal(fs_read(after, ino, buf, LARGE, 0), LARGE);
		fs_abandon(after);
		simdisk_free(crashed);
	}
}

/* Without the announcement only the mark tells why the bytes do not have their sums. */
static void test_mark_is_durable_before_the_bytes(void **state)
{
	uint64_t a = make("a");

	put_and_sync(a, 0, LARGE / BLOCK, 'A');
	/* More than one checkpoint: the first keeps the mark that a new layer has as a whole. */
	assert_int_equal(fs_settle(fs), 0);
	assert_int_equal(put(a, 0, LARGE / BLOCK, 'B'), 0);
	assert_no_damage_after_power_loss(a);
}

/* That of a new layer, which its first record makes, and later that of a region. */
static void test_kept_marks_are_durable_before_the_bytes(void **state)
{
	uint64_t a = make("a");

	put_and_sync(a, 0, LARGE / BLOCK, 'A');
	assert_int_equal(put(a, 0, LARGE / BLOCK, 'B'), 0);
	assert_no_damage_after_power_loss(a);
	for (char c = 'C'; c < 'G'; c++) {
		assert_int_equal(checkpoint_run(fs), 0);
		assert_int_equal(put(a, 0, LARGE / BLOCK, c), 0);
		assert_no_damage_after_power_loss(a);
	}
}

static int syncs_of_journal;

static void count_journal_syncs(void *arg, struct simdisk *busy, const struct simdisk_call *call)
{
	syncs_of_journal += call->op == SIMDISK_FDATASYNC && strcmp(call->path, "journal/0") == 0;
}

/* That many are waited for by a write over what stands in the file. */
static int syncs_of_overwriting(uint64_t ino, char c)
{
	syncs_of_journal = 0;
	simdisk_set_hook(disk, count_journal_syncs, NULL);
	assert_int_equal(put(ino, 0, LARGE / BLOCK, c), 0);
	simdisk_set_hook(disk, NULL, NULL);
	return syncs_of_journal;
}

/* Of a new file, after a snapshot and after a checkpoint; a mark that nobody used is waited for. */
static void test_overwriting_in_a_new_layer_waits_for_no_mark(void **state)
{
	uint64_t a = make("a");
	size_t failed;

	assert_int_equal(put(a, 0, LARGE / BLOCK, 'A'), 0);
	assert_int_equal(syncs_of_overwriting(a, 'B'), 0);
	assert_int_equal(fs_snapshot_create(fs, &a, 1, "s", &failed), 0);
	assert_int_equal(put(a, 0, LARGE / BLOCK, 'C'), 0);
	assert_int_equal(syncs_of_overwriting(a, 'D'), 0);
	for (char c = 'E'; c < 'H'; c++) {
		assert_int_equal(checkpoint_run(fs), 0);
		assert_int_equal(syncs_of_overwriting(a, c), 0);
	}
	assert_int_equal(fs_settle(fs), 0);
	assert_int_equal(syncs_of_overwriting(a, 'H'), 1);
	assert_int_equal(syncs_of_overwriting(a, 'I'), 0);
}

/* The power fails when the bytes of a write are on the disk and its announcement is not: the file is as
 * long as it was, and when it becomes longer zeros follow. */
static void test_lost_write_behind_the_end(void **state)
{
	const uint64_t size = LARGE - 1000;
	struct fs_attr attr = {.size = size};
	uint8_t buf[BLOCK];
	uint64_t a = make("a");
	struct simdisk *crashed;

	put_and_sync(a, 0, LARGE / BLOCK, 'A');
	assert_int_equal(fs_setattr(fs, a, FS_SET_SIZE, &attr), 0);
	assert_int_equal(fs_settle(fs), 0);
	/* Somewhere else first, so that the mark is there: then bytes go out and records do not. */
	assert_int_equal(put(a, 0, 16, 'B'), 0);
	assert_int_equal(sync_file(fs, a), 0);
	assert_int_equal(put(a, 8, LARGE / BLOCK, 'C'), 0);
	for (uint64_t seed = 1; seed <= 32; seed++) {
		crashed = simdisk_crash(disk, SIMDISK_FILES, seed);
		struct fs_options options = usual();
		struct fs *after;

		assert_int_equal(fs_open(&after, simdisk_io(crashed), &options), 0);
		assert_int_equal(fs_getattr(after, a, &attr), 0);
		if (attr.size == size) {
			attr.size = 2 * LARGE;
			assert_int_equal(fs_setattr(after, a, FS_SET_SIZE, &attr), 0);
			assert_int_equal(fs_read(after, a, buf, BLOCK, LARGE - BLOCK), BLOCK);
			for (size_t i = BLOCK - 1000; i < BLOCK; i++)
				assert_int_equal(buf[i], 0);
		}
		fs_abandon(after);
		simdisk_free(crashed);
	}
}

/* A power loss took the name of one of the two files in which the last blocks stand. What recovery finds
 * of a write to them stays so when both are there again. */
static void test_last_blocks_after_power_loss(void **state)
{
	const uint64_t blocks = LARGE / BLOCK, first = GF_MAX_SIZE / BLOCK - blocks;
	CLEANUP_FREE uint8_t *before = malloc(LARGE), *after = malloc(LARGE);
	uint64_t a = make("a");

	assert_int_equal(sync_file(fs, a), 0);
	assert_int_equal(put(a, first, blocks, 'A'), 0);
	replace_disk(simdisk_crash(disk, SIMDISK_KEEP, 1));
	assert_int_equal(simdisk_io(disk)->ops->unlink(simdisk_io(disk), "layer/1.sum"), 0);
	assert_int_equal(open_with(false), 0);
	assert_int_equal(fs_read(fs, a, before, LARGE, first * BLOCK), LARGE);
	assert_int_equal(before[LARGE - BLOCK - 1], 'A');
	assert_int_equal(put(a, 0, blocks, 'B'), 0);
	replace_disk(simdisk_clone(disk));
	assert_int_equal(open_with(false), 0);
	assert_int_equal(fs_read(fs, a, after, LARGE, first * BLOCK), LARGE);
	assert_memory_equal(before, after, LARGE);
}

static void die_at_data(void *arg, struct simdisk *d, const struct simdisk_call *call)
{
	if (!at_the_hook && call->op == SIMDISK_PWRITE && strstr(call->path, ".data"))
		at_the_hook = simdisk_clone(d);
}

/* The same bytes stood there once, and their checksums still do when the process dies between the
 * announcement and the bytes: that is no damage. */
static void test_checksums_of_what_was_discarded(void **state)
{
	struct fs_options options = usual();
	CLEANUP_FREE uint8_t *buf = malloc(LARGE);
	uint64_t a = make("a");

	put_and_sync(a, 0, LARGE / BLOCK, 'A');
	assert_int_equal(fs_settle(fs), 0);
	assert_int_equal(fs_fallocate(fs, a, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, LARGE), 0);
	assert_int_equal(fs_settle(fs), 0);
	simdisk_set_hook(disk, die_at_data, NULL);
	assert_int_equal(put(a, 0, LARGE / BLOCK, 'A'), 0);
	go_on_from_the_hook();
	options.verify_reads = true;
	assert_int_equal(fs_open(&fs, simdisk_io(disk), &options), 0);
	assert_int_equal(fs_read(fs, a, buf, LARGE, 0), LARGE);
	assert_true(buf[LARGE - 1] == 0);
}

/* ---- catalogs ---- */

static uint64_t newest_generation(struct simdisk *of)
{
	struct catalog_head head;
	CLEANUP_FREE void *bytes = NULL;
	bool fallback;
	size_t len;

	assert_int_equal(catalog_file_read(simdisk_io(of), &head, &bytes, &len, &fallback), 0);
	return head.generation;
}

static void assert_has_both_copies(struct simdisk *of)
{
	for (unsigned copy = 0; copy <= 1; copy++) {
		struct catalog_head head;
		CLEANUP_FREE void *bytes = NULL;
		size_t len;

		assert_int_equal(catalog_file_read_copy(simdisk_io(of), copy, &head, &bytes, &len),
			0);
	}
}

/* A copy that somebody removed is made anew, and is there from then on. */
static void test_new_copy_of_the_catalog_stays(void **state)
{
	uint64_t a = make("a");

	for (int copy = 0; copy <= 1; copy++) {
		struct io *io = simdisk_io(disk);
		struct simdisk *crashed;

		put_and_sync(a, 0, 4, 'A');
		assert_int_equal(fs_close(steal_pointer(&fs)), 0);
		assert_int_equal(io->ops->unlink(io, copy ? "catalog.1" : "catalog.0"), 0);
		replace_disk(simdisk_crash(disk, SIMDISK_KEEP, 1));
		assert_int_equal(open_with(false), 0);
		put_and_sync(a, 0, 4, 'B');
		assert_int_equal(fs_settle(fs), 0);
		crashed = simdisk_crash(disk, SIMDISK_DROP, 1);
		assert_has_both_copies(crashed);
		simdisk_free(crashed);
		assert_shows(a, 0, 4, 'B');
	}
}

static int catalog_fd, catalog_failures;

static int remember_catalog(struct io *io, const char *path, int flags)
{
	int fd = below->open(io, path, flags);

	if (strncmp(path, "catalog.", 8) == 0)
		catalog_fd = fd;
	return fd;
}

/* All of it went out, but that is not known. */
static int fail_although_written(struct io *io, int fd)
{
	int r = below->fdatasync(io, fd);

	return !r && fd == catalog_fd && catalog_failures++ == 0 ? -EIO : r;
}

static void test_failed_catalog_does_not_count(void **state)
{
	struct simdisk *crashed;
	uint64_t before;

	put_and_sync(make("a"), 0, 4, 'A');
	assert_int_equal(fs_settle(fs), 0);
	before = newest_generation(disk);
	stand_in_front();
	ops.open = remember_catalog;
	ops.fdatasync = fail_although_written;
	catalog_fd = -1;
	catalog_failures = 0;
	make("b");
	assert_int_equal(fs_settle(fs), -EIO);
	assert_true(catalog_failures > 0);
	crashed = simdisk_crash(disk, SIMDISK_DROP, 1);
	assert_int_equal(newest_generation(crashed), before);
	simdisk_free(crashed);
}

/* ---- giving up what follows a damaged record ---- */

static void lose_power_at_synced(void *arg, struct simdisk *busy, const struct simdisk_call *call)
{
	if (!at_the_hook && call->op == SIMDISK_PWRITE &&
		strcmp(call->path, "journal/0.synced") == 0)
		at_the_hook = simdisk_crash(busy, SIMDISK_DROP, 1);
}

/* Where in the ring a block that put() filled with c begins; MIB: nowhere. */
static uint64_t find_block(struct simdisk *of, uint8_t c)
{
	const size_t len = BLOCK - sizeof(uint64_t);
	struct io *io = simdisk_io(of);
	CLEANUP_FREE uint8_t *ring = malloc(MIB), *want = malloc(len);
	int fd = io->ops->open(io, "journal/0", O_RDONLY);
	const uint8_t *found;

	assert_int_equal(io_pread_full(io, fd, ring, MIB, 0), 0);
	io->ops->close(io, fd);
	memset(want, c, len);
	found = memmem(ring, MIB, want, len);
	return found ? (uint64_t)(found - ring) : MIB;
}

static void damage_journal(uint64_t at)
{
	struct io *io = simdisk_io(disk);
	int fd = io->ops->open(io, "journal/0", O_RDWR);

	assert_int_equal(io_pwrite(io, fd, "damage", 6, at), 0);
	assert_int_equal(io->ops->fdatasync(io, fd), 0);
	io->ops->close(io, fd);
}

/* Before anything says that less was promised, nothing that was can come back. */
static void test_end_of_the_chain_is_durable(void **state)
{
	uint64_t a = make("a"), at;

	for (uint64_t i = 0; i < 8; i++)
		put_and_sync(a, i, 1, (char)('A' + i));
	replace_disk(simdisk_crash(disk, SIMDISK_KEEP, 1));
	at = find_block(disk, 'B');
	assert_true(at < MIB);
	damage_journal(at);
	assert_int_equal(open_with(false), -EUCLEAN);
	simdisk_set_hook(disk, lose_power_at_synced, NULL);
	assert_int_equal(open_with(true), 0);
	simdisk_set_hook(disk, NULL, NULL);
	assert_shows(a, 0, 1, 'A');
	assert_non_null(at_the_hook);
	for (char c = 'C'; c <= 'H'; c++)
		assert_int_equal(find_block(at_the_hook, (uint8_t)c), MIB);
	simdisk_free(steal_pointer(&at_the_hook));
	/* Who gave it up is not asked again. */
	for (int policy = 0; policy < SIMDISK_POLICIES; policy++)
		for (uint64_t seed = 1; seed <= 4; seed++) {
			struct fs_options options = usual();
			struct simdisk *crashed =
				simdisk_crash(disk, (enum simdisk_policy)policy, seed);
			struct fs *after;

			assert_int_equal(fs_open(&after, simdisk_io(crashed), &options), 0);
			fs_abandon(after);
			simdisk_free(crashed);
		}
}

/* ---- a sync that failed ---- */

static void test_failed_sync_of_the_journal_is_the_end(void **state)
{
	uint64_t a = make("a");

	put_and_sync(a, 0, 1, 'A');
	assert_int_equal(put(a, 0, 1, 'B'), 0);
	simdisk_fail(disk, SIMDISK_FDATASYNC, 1, -EIO, false, "journal/0");
	syncs_of_journal = 0;
	simdisk_set_hook(disk, count_journal_syncs, NULL);
	for (int i = 0; i < 3; i++)
		assert_int_equal(sync_file(fs, a), -EIO);
	assert_int_equal(put(a, 1, 1, 'C'), -EIO);
	simdisk_set_hook(disk, NULL, NULL);
	assert_int_equal(syncs_of_journal, 1);
	lose_power(SIMDISK_DROP);
	assert_shows(a, 0, 1, 'A');
}

/* That a disk makes nothing durable is told by the mount, before anybody is answered. */
static void test_mount_needs_a_sync_of_the_journal(void **state)
{
	uint64_t a = make("a");

	put_and_sync(a, 0, 1, 'A');
	assert_int_equal(put(a, 1, 1, 'B'), 0);
	replace_disk(simdisk_clone(disk));
	simdisk_fail(disk, SIMDISK_FDATASYNC, 1, -EIO, true, "journal/0");
	assert_int_equal(open_with(false), -EIO);
	assert_int_equal(simdisk_faults(disk), 1);
	simdisk_heal(disk);
	assert_int_equal(open_with(false), 0);
	assert_shows(a, 0, 1, 'A');
	assert_shows(a, 1, 1, 'B');
}

/* ---- records that are carried on ---- */

static void lose_power_at_catalog(void *arg, struct simdisk *busy, const struct simdisk_call *call)
{
	if (!at_the_hook && call->op == SIMDISK_PWRITE && strncmp(call->path, "catalog.", 8) == 0)
		at_the_hook = simdisk_crash(busy, SIMDISK_KEEP, 1);
}

/* Both the records of a layer that failed and their copies are found when the catalog that was to
 * come after the copies is not there. */
static void test_copies_beside_their_originals(void **state)
{
	uint64_t a = make("a"), b = make("b");

	put_and_sync(a, 0, LARGE / BLOCK, 'A');
	assert_int_equal(fs_settle(fs), 0);
	put_and_sync(a, 0, LARGE / BLOCK, 'B');
	put_and_sync(a, 3, 1, 'C');
	simdisk_fail(disk, SIMDISK_FDATASYNC, 1, -EIO, true, "layer/1.data");
	assert_int_equal(fs_settle(fs), 0);
	/* More than a quarter of the ring: now they are copied. */
	for (uint64_t i = 0; i < 80; i++)
		put_and_sync(b, i, 1, 'b');
	simdisk_set_hook(disk, lose_power_at_catalog, NULL);
	assert_int_equal(fs_settle(fs), 0);
	go_on_from_the_hook();
	assert_int_equal(open_with(false), 0);
	assert_shows(a, 0, 3, 'B');
	assert_shows(a, 3, 1, 'C');
	assert_shows(a, 4, LARGE / BLOCK - 4, 'B');
	assert_shows(b, 0, 80, 'b');
}

/* ---- what stands below ---- */

static unsigned blocks_read;

static void count_reads_of_data(void *arg, struct simdisk *busy, const struct simdisk_call *call)
{
	if (call->op == SIMDISK_PREAD && strstr(call->path, ".data"))
		blocks_read += call->len / BLOCK;
}

/* What a snapshot holds is read only where a checksum says that the same was written again. */
static void test_checksums_rule_out_what_stands_below(void **state)
{
	const uint64_t large = LARGE / BLOCK;
	const struct fs_clone_target b = {FS_INO_ROOT, "b"};
	uint64_t a = make("a");
	struct fs_info info;
	size_t failed;

	put_and_sync(a, 0, large, 'A');
	assert_int_equal(fs_settle(fs), 0);
	put_and_sync(a, large, 4, 'J'); /* in the ring */
	assert_int_equal(fs_clone(fs, a, &b, 1, (struct fs_owner){0, 0}, 0600, false, false, NULL,
				 &failed), 0);
	simdisk_set_hook(disk, count_reads_of_data, NULL);
	blocks_read = 0;
	put_and_sync(a, 0, large, 'B');
	put_and_sync(a, 2, 3, 'C');
	put_and_sync(a, large, 4, 'D');
	assert_int_equal(fs_settle(fs), 0);
	assert_int_equal(blocks_read, 0);
	put_and_sync(a, 2, 2, 'A');
	assert_int_equal(fs_settle(fs), 0);
	assert_int_equal(blocks_read, 2);
	put_and_sync(a, 0, large, 'A');
	put_and_sync(a, large, 4, 'J');
	assert_int_equal(fs_settle(fs), 0);
	simdisk_set_hook(disk, NULL, NULL);
	assert_shows(a, 0, large, 'A');
	assert_int_equal(fs_info(fs, a, FS_NOW, &info), 0);
	assert_int_equal(info.figures.unique_bytes, 0);
	assert_int_equal(info.figures.shared_clone_bytes, (large + 4) * BLOCK);
	fs_info_release(&info);
}

static unsigned pages_read;

static void count_reads_of_maps(void *arg, struct simdisk *busy, const struct simdisk_call *call)
{
	pages_read += call->op == SIMDISK_PREAD && strstr(call->path, ".map");
}

/* After a mount the maps of many snapshots are not read for one block: a few are, each time. */
static void test_long_chain_comes_to_be_known(void **state)
{
	const uint64_t depth = 24;
	uint64_t a = make("a");
	unsigned writes = 0, read = 1;
	struct fs_info info;
	size_t failed;

	for (uint64_t i = 0; i < depth; i++) {
		const struct fs_clone_target target = {FS_INO_ROOT, (char[]){'b' + (char)i, '\0'}};

		put_and_sync(a, i, 1, 'A');
		assert_int_equal(fs_clone(fs, a, &target, 1, (struct fs_owner){0, 0}, 0600, false,
					 false, NULL, &failed), 0);
	}
	put_and_sync(a, depth, 1, 'A');
	assert_int_equal(fs_settle(fs), 0);
	assert_int_equal(fs_close(steal_pointer(&fs)), 0);
	assert_int_equal(open_with(false), 0);
	/* What the lowest layer has, written again. */
	for (; read && writes < 2 * depth; writes++) {
		put_and_sync(a, 0, 1, 'A');
		pages_read = 0;
		simdisk_set_hook(disk, count_reads_of_maps, NULL);
		assert_int_equal(checkpoint_run(fs), 0);
		simdisk_set_hook(disk, NULL, NULL);
		assert_in_range(pages_read, 0, 18);
		read = pages_read;
	}
	assert_in_range(writes, 3, 4);
	assert_int_equal(fs_info(fs, a, FS_NOW, &info), 0);
	assert_int_equal(info.figures.unique_bytes, BLOCK);
	fs_info_release(&info);
}

/* ---- space ---- */

static uint64_t reserve_bytes(void)
{
	struct io *io = simdisk_io(disk);
	int fd = io->ops->open(io, "reserve", O_RDONLY);
	struct io_stat st;

	assert_true(fd >= 0);
	assert_int_equal(io->ops->stat(io, fd, &st), 0);
	io->ops->close(io, fd);
	return st.allocated;
}

/* Others take all that is left while more than half of the ring waits for a place. */
static void test_reserve_is_given_back(void **state)
{
	uint64_t b = make("b"), held = reserve_bytes();

	assert_true(held >= RESERVE / 2);
	for (uint64_t i = 0; i < 150; i++)
		put_and_sync(b, i, 1, 'b');
	simdisk_set_capacity(disk, simdisk_used(disk));
	assert_int_equal(fs_settle(fs), -ENOSPC);
	assert_true(reserve_bytes() <= held / 3);
	assert_shows(b, 0, 150, 'b');
	lose_power(SIMDISK_DROP);
	assert_shows(b, 0, 150, 'b');
}

static int allocate_half(struct io *io, int fd, uint64_t off, uint64_t len)
{
	int r = below->allocate(io, fd, off, fd == watched_fd ? len / 2 : len);

	return !r && fd == watched_fd ? -ENOSPC : r;
}

/* What is held counts as a whole or not at all. */
static void test_half_a_reserve_is_not_kept(void **state)
{
	replace_disk(simdisk_new(GIB));
	stand_in_front();
	watch("reserve");
	ops.allocate = allocate_half;
	assert_int_equal(open_with(false), 0);
	assert_true(watched_fd >= 0);
	assert_int_equal(reserve_bytes(), 0);
}

static uint64_t used_at_unlink;

static void look_at_unlink(void *arg, struct simdisk *busy, const struct simdisk_call *call)
{
	if (call->op == SIMDISK_UNLINK && strcmp(call->path, "layer/1.data") == 0)
		used_at_unlink = simdisk_used(busy);
}

/* Some file systems give back the space of a removed file when they like. */
static void test_space_of_a_removed_clone_is_there_at_once(void **state)
{
	uint64_t a = make("a"), used;
	struct fs_statfs st;

	put_and_sync(a, 0, MIB / BLOCK, 'A');
	assert_int_equal(fs_settle(fs), 0);
	used = simdisk_used(disk);
	simdisk_set_capacity(disk, used + 2 * MIB);
	assert_int_equal(fs_statfs(fs, &st), 0); /* looks how much is left */
	assert_int_equal(fs_unlink(fs, FS_INO_ROOT, "a"), 0);
	fs_forget(fs, a, 1);
	used_at_unlink = UINT64_MAX;
	simdisk_set_hook(disk, look_at_unlink, NULL);
	assert_int_equal(fs_settle(fs), 0);
	simdisk_set_hook(disk, NULL, NULL);
	assert_true(used_at_unlink <= used - MIB);
}

/* There is something to be given back, and the checkpoint that would do it has no space itself. */
static void test_full_disk_is_an_answer(void **state)
{
	uint64_t a = make("a");

	put_and_sync(a, 0, MIB / BLOCK, 'A');
	assert_int_equal(fs_settle(fs), 0);
	assert_int_equal(fs_fallocate(fs, a, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, MIB / 2),
		0);
	simdisk_set_capacity(disk, simdisk_used(disk));
	simdisk_fail(disk, SIMDISK_ALLOCATE, 1, -ENOSPC, true, "catalog.");
	assert_int_equal(put(a, 1000, 1, 'B'), -ENOSPC);
	assert_int_equal(put(a, 1000, LARGE / BLOCK, 'B'), -ENOSPC);
	simdisk_heal(disk);
	assert_int_equal(put(a, 1000, 1, 'B'), 0);
	assert_shows(a, 1000, 1, 'B');
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_failed_write_stays_failed_when_synced),
		T(test_flush_syncs_the_last_block),
		T(test_flush_covers_names_of_a_dead_process),
		T(test_flush_covers_bytes_of_a_dead_process),
		T(test_found_by_a_dead_process),
		T(test_recovery_reads_ahead),
		T(test_mark_is_durable_before_the_bytes),
		T(test_kept_marks_are_durable_before_the_bytes),
		T(test_overwriting_in_a_new_layer_waits_for_no_mark),
		T(test_checksums_of_what_was_discarded),
		T(test_lost_write_behind_the_end),
		T(test_last_blocks_after_power_loss),
		T(test_new_copy_of_the_catalog_stays),
		T(test_failed_catalog_does_not_count),
		T(test_end_of_the_chain_is_durable),
		T(test_failed_sync_of_the_journal_is_the_end),
		T(test_mount_needs_a_sync_of_the_journal),
		T(test_copies_beside_their_originals),
		T(test_checksums_rule_out_what_stands_below),
		T(test_long_chain_comes_to_be_known),
		T(test_reserve_is_given_back),
		T(test_half_a_reserve_is_not_kept),
		T(test_space_of_a_removed_clone_is_there_at_once),
		T(test_full_disk_is_an_answer),
	};

	alarm(120);
	if (!getenv("VERBOSE"))
		log_open(LOG_TO_FILE, "/dev/null");
	return cmocka_run_group_tests(tests, NULL, NULL);
}
