/* SPDX-License-Identifier: MIT */
/*
 * The disk below fails or is full, and the machine stays up.
 *
 * First, one thing at a time: what happens to a clone whose files cannot be synced, to the others,
 * and to a store that others fill. Then every I/O call of random workloads is made to fail in turn,
 * once with an I/O error (a write then leaves half of itself) and once for want of space. Errors
 * are allowed from then on, but nothing that was claimed durable may be lost: not in the running
 * store, not after it was closed, not after power was lost. If the call was about a file of a
 * layer, the store goes on for new files. Every I/O call of recovery fails in turn, too; the next
 * recovery must find everything.
 *
 * Environment: SEED (of the first workload), FAULTS (how many calls are tried per workload and
 * error, 0: all), AT (only this call of the first workload), VERBOSE.
 */
#include <errno.h>
#include <inttypes.h>
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
#include "core/in_flight.h"
#include "workload_internal.h"

/* ---- one thing at a time ---- */

struct store {
	struct simdisk *disk;
	struct fs *fs;
};

static struct fs_options store_options(void)
{
	return (struct fs_options){.journal_size = MIB, .reserve = 256 * KIB,
		.no_background = true, .verify_reads = true, .dedup = FS_DEDUP_OFF,
		.store_fd = -1};
}

static void open_store(struct store *s)
{
	struct fs_options options = store_options();

	assert_int_equal(fs_open(&s->fs, simdisk_io(s->disk), &options), 0);
}

static void start(struct store *s, uint64_t capacity)
{
	s->disk = simdisk_new(capacity);
	open_store(s);
}

static void end(struct store *s)
{
	fs_abandon(s->fs);
	simdisk_free(s->disk);
}

/* The process is gone, and that is what the disk holds. Not open yet. */
static void die(struct store *s, struct simdisk *left)
{
	assert_non_null(left);
	end(s);
	s->disk = left;
}

/* The machine loses power; the disk works again. */
static void lose_power(struct store *s)
{
	die(s, simdisk_crash(s->disk, SIMDISK_DROP, 1));
	open_store(s);
}

static uint64_t make_file(struct store *s, const char *name)
{
	struct fs_attr attr;

	assert_int_equal(fs_make(s->fs, FS_INO_ROOT, name, S_IFREG | 0600, (struct fs_owner){0, 0},
				 &attr), 0);
	return attr.ino;
}

static int put(struct store *s, uint64_t ino, uint64_t block, uint64_t count, unsigned tag)
{
	CLEANUP_FREE uint8_t *buf = malloc(count * 4096);
	ssize_t n;

	for (uint64_t i = 0; i < count * 4096; i += 4)
		memcpy(buf + i, (uint32_t[]){tag * 1000003 + (uint32_t)(block * 4096 + i)}, 4);
	n = fs_write(s->fs, ino, buf, count * 4096, block * 4096);
	return n == (ssize_t)count * 4096 ? 0 : (int)n;
}

static bool shows(struct store *s, uint64_t ino, uint64_t block, uint64_t count, unsigned tag)
{
	CLEANUP_FREE uint8_t *buf = malloc(count * 4096);

	if (fs_read(s->fs, ino, buf, count * 4096, block * 4096) != (ssize_t)count * 4096)
		return false;
	for (uint64_t i = 0; i < count * 4096; i += 4)
		if (memcmp(buf + i, (uint32_t[]){tag * 1000003 + (uint32_t)(block * 4096 + i)}, 4))
			return false;
	return true;
}

static const char *state_of(struct store *s, uint64_t ino, bool *reason)
{
	struct fs_info info;
	const char *state;

	assert_int_equal(fs_info(s->fs, ino, FS_NOW, &info), 0);
	state = info.state;
	*reason = info.reason && *info.reason;
	fs_info_release(&info);
	return state;
}

static void assert_state(struct store *s, uint64_t ino, const char *want)
{
	bool reason;

	assert_string_equal(state_of(s, ino, &reason), want);
	assert_int_equal(reason, strcmp(want, "ok") != 0);
}

/* Several laps of the ring, by small writes that are synced. */
static void write_laps(struct store *s, uint64_t ino, unsigned tag)
{
	for (unsigned i = 0; i < 1200; i++) {
		assert_int_equal(put(s, ino, i % 64, 1, tag + i), 0);
		if (i % 50 == 0)
			assert_int_equal(sync_file(s->fs, ino), 0);
	}
	assert_int_equal(sync_file(s->fs, ino), 0);
}

/* A sync that fails once costs nothing: the bytes are written again. */
static void test_sync_fails_once(void **state)
{
	static const char *const files[] = {".data", ".sum", ".map"};
	struct store s;
	uint64_t a;

	for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
		start(&s, GIB);
		a = make_file(&s, "a");
		assert_int_equal(put(&s, a, 0, 10, 1), 0);
		assert_int_equal(sync_file(s.fs, a), 0);
		simdisk_fail(s.disk, SIMDISK_FDATASYNC, 1, -EIO, false, files[i]);
		assert_int_equal(fs_settle(s.fs), 0);
		assert_int_equal(simdisk_faults(s.disk), 1);
		assert_state(&s, a, "ok");
		assert_true(shows(&s, a, 0, 10, 1));
		assert_int_equal(put(&s, a, 5, 1, 2), 0);
		assert_int_equal(sync_file(s.fs, a), 0);
		lose_power(&s);
		assert_true(shows(&s, a, 0, 5, 1));
		assert_true(shows(&s, a, 5, 1, 2));
		end(&s);
	}
}

/*
 * A sync of the journal fails and the process dies. The next one finds the records, and syncs: that
 * must be a sync of them, although the kernel has forgotten that they were never written.
 */
static void test_journal_sync_fails_and_process_dies(void **state)
{
	struct simdisk *old;
	struct store s;
	uint64_t a;

	start(&s, GIB);
	a = make_file(&s, "a");
	assert_int_equal(put(&s, a, 0, 10, 1), 0);
	assert_int_equal(sync_file(s.fs, a), 0);
	assert_int_equal(put(&s, a, 0, 10, 2), 0);
	simdisk_fail(s.disk, SIMDISK_FDATASYNC, 1, -EIO, false, "journal");
	assert_int_equal(sync_file(s.fs, a), -EIO);
	assert_int_equal(simdisk_faults(s.disk), 1);
	fs_abandon(s.fs);
	old = s.disk;
	s.disk = simdisk_clone(old);
	simdisk_free(old);
	open_store(&s);
	assert_true(shows(&s, a, 0, 10, 2));
	assert_int_equal(put(&s, a, 20, 1, 3), 0);
	assert_int_equal(sync_file(s.fs, a), 0);
	lose_power(&s);
	assert_true(shows(&s, a, 0, 10, 2));
	assert_true(shows(&s, a, 20, 1, 3));
	end(&s);
}

/* A process that dies when the first call fails, before it does anything about it. */
static void die_of_it(void *arg, struct simdisk *disk, const struct simdisk_call *call)
{
	struct simdisk **left = arg;

	if (simdisk_faults(disk) && !*left)
		*left = simdisk_clone(disk);
}

/*
 * The same of a sync of checksums. The next process finds those of an uncommitted large write as they
 * were announced; that says nothing of the disk.
 */
static void test_checksums_fail_and_process_dies(void **state)
{
	struct simdisk *left = NULL;
	struct store s;
	uint64_t a;

	start(&s, GIB);
	a = make_file(&s, "a");
	assert_int_equal(put(&s, a, 0, 64, 1), 0);
	simdisk_set_hook(s.disk, die_of_it, &left);
	simdisk_fail(s.disk, SIMDISK_FDATASYNC, 1, -EIO, false, ".sum");
	fs_settle(s.fs);
	die(&s, left);
	open_store(&s);
	assert_int_equal(fs_settle(s.fs), 0);
	lose_power(&s);
	assert_true(shows(&s, a, 0, 64, 1));
	end(&s);
}

/* A write that fails after it was announced does not make the file longer, for the next process
 * neither. */
static void test_failed_write_does_not_grow(void **state)
{
	struct fs_attr attr;
	struct simdisk *old;
	struct store s;
	uint64_t a;

	start(&s, GIB);
	a = make_file(&s, "a");
	assert_int_equal(put(&s, a, 0, 3, 1), 0);
	simdisk_fail(s.disk, SIMDISK_PWRITE, 1, -ENOSPC, true, ".data");
	assert_int_equal(put(&s, a, 10, 40, 2), -ENOSPC);
	assert_true(simdisk_faults(s.disk) > 0);
	simdisk_heal(s.disk);
	for (int again = 0; again < 2; again++) {
		assert_int_equal(fs_getattr(s.fs, a, &attr), 0);
		assert_int_equal(attr.size, 3 * 4096);
		fs_abandon(s.fs);
		old = s.disk;
		s.disk = simdisk_clone(old);
		simdisk_free(old);
		open_store(&s);
	}
	assert_true(shows(&s, a, 0, 3, 1));
	assert_int_equal(put(&s, a, 10, 40, 2), 0);
	assert_true(shows(&s, a, 10, 40, 2));
	end(&s);
}

/* A layer that cannot be written any more: what was synced stays for good, others go on. */
static void fails_for_good(enum simdisk_op op, const char *file)
{
	struct store s;
	uint64_t a, b;
	char match[32];

	start(&s, GIB);
	a = make_file(&s, "a");
	b = make_file(&s, "b");
	assert_int_equal(put(&s, a, 0, 20, 1), 0);
	assert_int_equal(put(&s, a, 1000, 64, 2), 0);
	assert_int_equal(fs_settle(s.fs), 0);
	/* Of every sort since the checkpoint: large and committed, small, discarded. */
	assert_int_equal(put(&s, a, 1000, 32, 3), 0);
	assert_int_equal(put(&s, a, 2000, 32, 4), 0);
	assert_int_equal(put(&s, a, 2010, 2, 5), 0);
	assert_int_equal(fs_fallocate(s.fs, a, 3, 2020 * 4096, 4096), 0);
	assert_int_equal(put(&s, a, 3, 4, 6), 0);
	assert_int_equal(sync_file(s.fs, a), 0);
	snprintf(match, sizeof(match), "layer/1%s", file);
	simdisk_fail(s.disk, op, 1, -EIO, true, match);
	assert_int_equal(fs_settle(s.fs), 0);
	assert_state(&s, a, "read-only");
	assert_state(&s, b, "ok");
	assert_int_equal(put(&s, a, 0, 1, 9), -EIO);
	assert_int_equal(fs_fallocate(s.fs, a, 3, 0, 4096), -EIO);
	assert_int_equal(sync_file(s.fs, a), -EIO);
	write_laps(&s, b, 100);
	for (int i = 0; i < 2; i++) {
		assert_true(shows(&s, a, 0, 3, 1));
		assert_true(shows(&s, a, 3, 4, 6));
		assert_true(shows(&s, a, 1000, 32, 3));
		assert_true(shows(&s, a, 1032, 32, 2));
		assert_true(shows(&s, a, 2000, 10, 4));
		assert_true(shows(&s, a, 2010, 2, 5));
		assert_false(shows(&s, a, 2020, 1, 4));
		assert_true(shows(&s, a, 2021, 11, 4));
		assert_true(shows(&s, b, 63, 1, 100 + 1151 + 64 - 64));
		if (i == 0)
			lose_power(&s);
	}
	/* The next mount is a new beginning. */
	assert_state(&s, a, "ok");
	assert_int_equal(put(&s, a, 0, 1, 9), 0);
	assert_int_equal(sync_file(s.fs, a), 0);
	assert_int_equal(fs_settle(s.fs), 0);
	lose_power(&s);
	assert_true(shows(&s, a, 0, 1, 9));
	assert_true(shows(&s, a, 2000, 10, 4));
	end(&s);
}

static void test_sync_fails_for_good(void **state)
{
	fails_for_good(SIMDISK_FDATASYNC, ".data");
	fails_for_good(SIMDISK_FDATASYNC, ".sum");
}

static void test_map_fails_for_good(void **state)
{
	fails_for_good(SIMDISK_FDATASYNC, ".map");
	fails_for_good(SIMDISK_PWRITE, ".map");
}

static void test_write_fails_for_good(void **state)
{
	fails_for_good(SIMDISK_PWRITE, ".data");
}

/* Large writes that nobody flushed may be lost: the flush says so, and never anything else. */
static void test_flush_fails(void **state)
{
	struct store s;
	uint64_t a, b;

	start(&s, GIB);
	a = make_file(&s, "a");
	b = make_file(&s, "b");
	assert_int_equal(put(&s, a, 0, 64, 1), 0);
	assert_int_equal(sync_file(s.fs, a), 0);
	assert_int_equal(put(&s, a, 200, 64, 2), 0);
	simdisk_fail(s.disk, SIMDISK_FDATASYNC, 1, -EIO, false, "layer/1.data");
	assert_int_equal(sync_file(s.fs, a), -EIO);
	assert_int_equal(sync_file(s.fs, a), -EIO);
	assert_state(&s, a, "read-only");
	assert_int_equal(put(&s, b, 0, 64, 3), 0);
	assert_int_equal(sync_file(s.fs, b), 0);
	assert_int_equal(fs_sync(s.fs), -EIO);
	assert_int_equal(fs_sync_others(s.fs), 0);
	write_laps(&s, b, 100);
	lose_power(&s);
	assert_true(shows(&s, a, 0, 64, 1));
	assert_false(shows(&s, a, 200, 64, 2));
	assert_state(&s, a, "ok");
	end(&s);
}

/* Removing the clone ends the matter. */
static void test_failed_clone_is_removed(void **state)
{
	struct store s;
	uint64_t a, b;

	start(&s, GIB);
	a = make_file(&s, "a");
	b = make_file(&s, "b");
	assert_int_equal(put(&s, a, 0, 64, 1), 0);
	simdisk_fail(s.disk, SIMDISK_FDATASYNC, 1, -EIO, true, "layer/1.data");
	assert_int_equal(sync_file(s.fs, a), -EIO);
	fs_forget(s.fs, a, 1);
	assert_int_equal(fs_unlink(s.fs, FS_INO_ROOT, "a"), 0);
	assert_int_equal(fs_settle(s.fs), 0);
	write_laps(&s, b, 100);
	lose_power(&s);
	assert_int_equal(fs_resolve(s.fs, "a", &a), -ENOENT);
	end(&s);
}

static void test_below_goes_read_only(void **state)
{
	struct store s;
	uint64_t a, b;

	start(&s, GIB);
	a = make_file(&s, "a");
	b = make_file(&s, "b");
	assert_int_equal(put(&s, a, 0, 4, 1), 0);
	assert_int_equal(sync_file(s.fs, a), 0);
	simdisk_fail(s.disk, SIMDISK_PWRITE, 1, -EROFS, true, "layer/");
	fs_settle(s.fs);
	assert_state(&s, b, "read-only");
	assert_int_equal(put(&s, b, 0, 1, 1), -EIO);
	assert_true(shows(&s, a, 0, 4, 1));
	lose_power(&s);
	assert_true(shows(&s, a, 0, 4, 1));
	end(&s);
}

static void test_catalog_fails(void **state)
{
	struct store s;
	uint64_t a;

	start(&s, GIB);
	a = make_file(&s, "a");
	assert_int_equal(put(&s, a, 0, 4, 1), 0);
	simdisk_fail(s.disk, SIMDISK_FDATASYNC, 1, -EIO, false, "catalog");
	assert_int_equal(fs_settle(s.fs), -EIO);
	assert_state(&s, a, "ok");
	assert_int_equal(fs_settle(s.fs), 0);
	assert_int_equal(put(&s, a, 4, 4, 1), 0);
	assert_int_equal(sync_file(s.fs, a), 0);
	simdisk_fail(s.disk, SIMDISK_FDATASYNC, 1, -EIO, true, "catalog");
	fs_settle(s.fs);
	assert_state(&s, a, "read-only");
	lose_power(&s);
	assert_true(shows(&s, a, 0, 8, 1));
	end(&s);
}

/* ---- full ---- */

/* Others take all that is left while blocks wait in the ring: those that have a place are
 * overwritten for ever, new ones are refused, nothing is lost and nothing hangs. */
static void fill_from_outside(unsigned waiting)
{
	struct store s;
	uint64_t a, b, r = 0;

	start(&s, 32 * MIB);
	a = make_file(&s, "a");
	b = make_file(&s, "b");
	assert_int_equal(put(&s, a, 0, 64, 1), 0);
	assert_int_equal(fs_settle(s.fs), 0);
	for (unsigned i = 0; i < waiting; i++)
		assert_int_equal(put(&s, b, i * 3, 1, 2), 0);
	assert_int_equal(sync_file(s.fs, b), 0);
	simdisk_set_capacity(s.disk, simdisk_used(s.disk));
	fs_settle(s.fs);
	write_laps(&s, a, 100);
	assert_int_equal(fs_fallocate(s.fs, a, 3, 60 * 4096, 4 * 4096), 0);
	assert_int_equal(sync_file(s.fs, a), 0);
	for (unsigned i = 0; i < 1000 && !r; i++)
		r = (uint64_t)put(&s, a, 5000 + i, 1, 3);
	assert_int_equal((int)r, -ENOSPC);
	assert_int_equal(fs_rename(s.fs, FS_INO_ROOT, "a", FS_INO_ROOT, "c", 0), 0);
	for (int k = 0; k < 3; k++) {
		for (unsigned i = 0; i < waiting; i++)
			assert_true(shows(&s, b, i * 3, 1, 2));
		assert_true(shows(&s, a, 0, 1, 100 + 1152));
		if (k == 0)
			lose_power(&s);
		if (k == 1) {
			simdisk_set_capacity(s.disk, 64 * MIB);
			assert_int_equal(put(&s, b, 9000, 16, 4), 0);
			assert_int_equal(fs_settle(s.fs), 0);
			assert_true(shows(&s, b, 9000, 16, 4));
		}
	}
	assert_state(&s, a, "ok");
	end(&s);
}

static void test_filled_from_outside(void **state)
{
	fill_from_outside(0);
	fill_from_outside(20);
	fill_from_outside(80);
	fill_from_outside(180); /* nearly all of the ring */
}

/* What waits in the ring is overwritten there when there is no place for it, also by small writes that would
 * rather go past the ring. */
static void fill_while_writes_go_straight(uint64_t capacity)
{
	struct fs_options options = store_options();
	struct store s = {.disk = simdisk_new(capacity)};
	const unsigned waiting = 70; /* more than the reserve has room for */
	uint64_t a;

	options.straight = true;
	assert_int_equal(fs_open(&s.fs, simdisk_io(s.disk), &options), 0);
	a = make_file(&s, "a");
	for (unsigned i = 0; i < waiting; i++)
		assert_int_equal(fs_write(s.fs, a, "waits", 5, i * 3 * 4096), 5);
	simdisk_set_capacity(s.disk, simdisk_used(s.disk));
	for (unsigned i = 0; i < waiting; i++)
		assert_int_equal(put(&s, a, i * 3, 1, 2), 0);
	assert_int_equal(sync_file(s.fs, a), 0);
	lose_power(&s);
	for (unsigned i = 0; i < waiting; i++)
		assert_true(shows(&s, a, i * 3, 1, 2));
	end(&s);
}

static void test_filled_from_outside_while_writes_go_straight(void **state)
{
	fill_while_writes_go_straight(32 * MIB);
	fill_while_writes_go_straight(TIB); /* nobody looked since there was enough */
}

/* What is removed or discarded can be written at once. */
static void test_freed_space_is_used(void **state)
{
	struct store s;
	uint64_t a, b, c, n = 0;

	start(&s, 16 * MIB);
	a = make_file(&s, "a");
	b = make_file(&s, "b");
	c = make_file(&s, "c");
	assert_int_equal(put(&s, b, 0, 512, 1), 0);
	assert_int_equal(put(&s, c, 0, 512, 1), 0);
	while (put(&s, a, n * 32, 32, 2) == 0)
		n++;
	assert_int_equal(put(&s, a, n * 32, 32, 2), -ENOSPC);
	assert_int_equal(sync_file(s.fs, a), 0);
	assert_int_equal(fs_fallocate(s.fs, b, 3, 0, MIB), 0);
	assert_int_equal(put(&s, a, n * 32, 128, 2), 0);
	fs_forget(s.fs, c, 1);
	assert_int_equal(fs_unlink(s.fs, FS_INO_ROOT, "c"), 0);
	assert_int_equal(put(&s, a, n * 32 + 128, 256, 2), 0);
	assert_int_equal(sync_file(s.fs, a), 0);
	lose_power(&s);
	assert_true(shows(&s, a, 0, n * 32 + 384, 2));
	end(&s);
}

/* ---- torn, and announced once more ---- */

struct death {
	const char *before; /* the first write to such a file */
	struct simdisk *left;
	struct in_flight now, then; /* the memory that outlives the process, and what it was at its death */
};

static void die_before(void *arg, struct simdisk *disk, const struct simdisk_call *call)
{
	struct death *death = arg;

	if (!death->left && call->op == SIMDISK_PWRITE && strstr(call->path, death->before)) {
		death->left = simdisk_clone(disk);
		memcpy(&death->then, &death->now, sizeof(death->then));
	}
}

/* What a power loss left of a block that was new is no damage, when the same write begins anew and dies. */
static void tear_and_announce_again(uint64_t seed)
{
	struct death death = {.before = ".data"};
	uint8_t found[4096];
	struct store s;
	uint64_t a;

	start(&s, GIB);
	a = make_file(&s, "a");
	assert_int_equal(put(&s, a, 0, 16, 1), 0);
	assert_int_equal(fs_sync_journal(s.fs), 0);
	die(&s, simdisk_crash(s.disk, SIMDISK_SECTORS, seed));
	open_store(&s);
	simdisk_set_hook(s.disk, die_before, &death);
	assert_int_equal(put(&s, a, 0, 16, 1), 0);
	die(&s, death.left);
	open_store(&s);
	for (uint64_t b = 0; b < 16; b++)
		assert_int_equal(fs_read(s.fs, a, found, sizeof(found), b * 4096), sizeof(found));
	end(&s);
}

static void test_torn_and_announced_again(void **state)
{
	for (uint64_t seed = 1; seed <= 32; seed++)
		tear_and_announce_again(seed);
}

/* A process with memory that its successor gets, which dies before its next write to such a file. */
static void start_mortal(struct store *s, struct fs_options *options, struct death *death)
{
	s->disk = simdisk_new(GIB);
	options->in_flight = &death->now;
	assert_int_equal(fs_open(&s->fs, simdisk_io(s->disk), options), 0);
}

static void take_over(struct store *s, struct fs_options *options, struct death *death)
{
	simdisk_set_hook(s->disk, NULL, NULL);
	die(s, death->left);
	memcpy(&death->now, &death->then, sizeof(death->now));
	death->left = NULL;
	options->takeover = true;
	assert_int_equal(fs_open(&s->fs, simdisk_io(s->disk), options), 0);
}

/* Bytes without their checksums: whoever takes over writes those, and so does whoever follows him. */
static void test_takeover_between_bytes_and_checksums(void **state)
{
	struct fs_options options = store_options();
	struct death death = {.before = ".sum"};
	struct store s;
	uint64_t a;

	start_mortal(&s, &options, &death);
	a = make_file(&s, "a");
	assert_int_equal(put(&s, a, 0, 16, 1), 0);
	assert_int_equal(put(&s, a, 16, 16, 1), 0);
	simdisk_set_hook(s.disk, die_before, &death);
	assert_int_equal(put(&s, a, 0, 16, 2), 0);
	take_over(&s, &options, &death);
	assert_true(shows(&s, a, 0, 16, 2));
	assert_true(shows(&s, a, 16, 16, 1));
	simdisk_set_hook(s.disk, die_before, &death);
	assert_int_equal(put(&s, a, 16, 16, 3), 0);
	take_over(&s, &options, &death);
	assert_true(shows(&s, a, 0, 16, 2));
	assert_true(shows(&s, a, 16, 16, 3));
	end(&s);
}

struct data_calls {
	unsigned reads, writes;
};

static void count_data_calls(void *arg, struct simdisk *disk, const struct simdisk_call *call)
{
	struct data_calls *calls = arg;

	if (!strstr(call->path, ".data"))
		return;
	calls->reads += call->op == SIMDISK_PREAD;
	calls->writes += call->op == SIMDISK_PWRITE;
}

/* What had ended is not read by who takes over, only what had not. A new mount reads all of it. */
static void test_takeover_reads_what_was_on_its_way(void **state)
{
	struct fs_options options = store_options();
	struct death death = {.before = ".sum"};
	struct data_calls calls = {0};
	struct store s;
	uint64_t a;

	start_mortal(&s, &options, &death);
	a = make_file(&s, "a");
	for (uint64_t i = 0; i < 50; i++)
		assert_int_equal(put(&s, a, i * 16, 16, 1), 0);
	simdisk_set_hook(s.disk, die_before, &death);
	assert_int_equal(put(&s, a, 0, 16, 2), 0);
	simdisk_set_hook(death.left, count_data_calls, &calls);
	take_over(&s, &options, &death);
	assert_int_equal(calls.reads, 1);
	calls.reads = 0;
	simdisk_set_hook(s.disk, NULL, NULL);
	die(&s, simdisk_clone(s.disk));
	simdisk_set_hook(s.disk, count_data_calls, &calls);
	options.takeover = false;
	assert_int_equal(fs_open(&s.fs, simdisk_io(s.disk), &options), 0);
	assert_true(calls.reads >= 50);
	simdisk_set_hook(s.disk, NULL, NULL);
	assert_true(shows(&s, a, 0, 16, 2));
	assert_true(shows(&s, a, 16, 49 * 16, 1));
	end(&s);
}

/* However often the same blocks were written: they are compared with each announcement, and written again
 * once, but not before they are found to be what was announced. */
static void test_recovery_of_what_was_written_over_and_over(void **state)
{
	struct data_calls calls = {0};
	struct store s;
	uint64_t a;

	start(&s, GIB);
	a = make_file(&s, "a");
	for (unsigned i = 1; i <= 20; i++)
		assert_int_equal(put(&s, a, 0, 64, i), 0);
	for (unsigned i = 0; i < 20; i++)
		assert_int_equal(put(&s, a, 0, 64, 20), 0);
	die(&s, simdisk_clone(s.disk));
	simdisk_set_hook(s.disk, count_data_calls, &calls);
	open_store(&s);
	assert_int_equal(calls.writes, 1);
	assert_int_equal(calls.reads, 2);
	simdisk_set_hook(s.disk, NULL, NULL);
	assert_true(shows(&s, a, 0, 64, 20));
	end(&s);
}

/* ---- every call ---- */

static const struct profile mix = {.name = "faults", .journal_size = MIB, .capacity = TIB, .big = 4,
	.weights = "ssssshh55bbLLLLllzgprtyccCCRuumxnffffSee"};
static const struct profile mix_full = {.name = "full", .journal_size = MIB,
	.capacity = 2816 * KIB, .weights = "ssshhbbLLLLLzzpptccCCRuuffSee"};

struct fault {
	uint64_t at; /* call of the workload, 0: none fails */
	int err;
	bool sticky; /* all later calls of its sort on its file, too */
	/* Out: */
	bool struck;
	bool of_layer;
	struct simdisk_call call;
	char path[SIMDISK_PATH];
};

static bool can_fail(const struct simdisk_call *call, int err)
{
	if (err == -EIO)
		return true;
	return call->op == SIMDISK_PWRITE || call->op == SIMDISK_ALLOCATE ||
	       call->op == SIMDISK_OPEN;
}

static void arm(void *arg, struct simdisk *disk, const struct simdisk_call *call)
{
	struct run *run = arg;
	struct fault *fault = run->arg;

	if (call->number != fault->at || !can_fail(call, fault->err))
		return;
	/* A place that can never be read again would hide the rest; and the workload itself reads
	 * what it copies. */
	if (call->op == SIMDISK_PREAD && (fault->sticky || strncmp(run->text, "copy", 4) == 0))
		return;
	fault->struck = true;
	fault->call = *call;
	snprintf(fault->path, sizeof(fault->path), "%s", call->path);
	fault->of_layer = strncmp(call->path, "layer/", 6) == 0;
	simdisk_fail(disk, call->op, 1, fault->err, fault->sticky, call->path);
	run->failing = true;
}

static int compare(struct run *run, struct fs *fs, enum model_mode mode)
{
	struct model_view view;
	int r = view_take(&view, fs);

	if (!r)
		r = model_check(run->model, &view, mode, false);
	view_release(&view);
	return r;
}

/* Opens what a disk became; it must show what is allowed after power loss. Takes the disk over. */
static int check_disk(struct run *run, struct simdisk *disk, const char *step)
{
	struct fs_options options = run_options(run);
	struct fs *fs;
	int r = fs_open(&fs, simdisk_io(disk), &options);

	if (r) {
		run_fail(run, "%s: fs_open: %s", step, strerror(-r));
	} else {
		if (compare(run, fs, MODEL_POWER))
			run_fail(run, "%s: %s", step, model_reason(run->model));
		fs_abandon(fs);
	}
	simdisk_free(disk);
	return *run->reason ? -1 : 0;
}

/* New files can be made, written and synced. */
static void check_goes_on(struct run *run)
{
	struct store s = {.disk = run->disk, .fs = run->fs};
	struct fs_attr attr;
	int r = fs_make(s.fs, FS_INO_ROOT, "zz", S_IFREG | 0600, (struct fs_owner){0, 0}, &attr);

	if (!r)
		r = put(&s, attr.ino, 0, 40, 1);
	if (!r)
		r = put(&s, attr.ino, 3, 1, 2);
	if (!r)
		r = sync_file(s.fs, attr.ino);
	if (r && !(r == -ENOSPC && run->profile->capacity < GIB))
		run_fail(run, "the store does not go on for others: %s", strerror(-r));
}

static void check_after(struct run *run, struct fault *fault)
{
	static const enum simdisk_policy policies[] = {SIMDISK_DROP, SIMDISK_KEEP, SIMDISK_SECTORS};

	simdisk_set_hook(run->disk, NULL, NULL);
	if (!fault->sticky)
		simdisk_heal(run->disk);
	if (compare(run, run->fs, MODEL_EXACT))
		run_fail(run, "in use: %s", model_reason(run->model));
	for (size_t i = 0; i < ARRAY_SIZE(policies) && !*run->reason; i++)
		check_disk(run, simdisk_crash(run->disk, policies[i], fault->at), "power loss");
	if (!*run->reason)
		check_disk(run, simdisk_clone(run->disk), "process death");
	if (*run->reason)
		return;
	if (fault->of_layer && fault->call.op != SIMDISK_PREAD)
		check_goes_on(run);
	fs_unlink(run->fs, FS_INO_ROOT, "zz");
	fs_close(steal_pointer(&run->fs));
	simdisk_heal(run->disk);
	if (!*run->reason)
		check_disk(run, simdisk_clone(run->disk), "remount");
}

/* The calls that the workload made; 0 with *struck false: there is no such call. */
static uint64_t run_with(uint64_t seed, const struct profile *profile, int ops, struct fault *fault)
{
	struct run run;
	uint64_t calls;

	if (run_init(&run, seed * (uint64_t)profile_count, ops))
		abort();
	run_set_profile(&run, profile);
	simdisk_set_capacity(run.disk, profile->capacity);
	run.hook = arm;
	run.arg = fault;
	run.verbose = getenv("VERBOSE");
	run_work(&run);
	calls = simdisk_calls(run.disk);
	if (!*run.reason && run.fs)
		check_after(&run, fault);
	/* Making the store may fail, of course. */
	if (*run.reason && !(fault->struck && strcmp(run.text, "make the store") == 0)) {
		print_error("seed %" PRIu64 " (%s), call %" PRIu64 " (%s \"%s\" %" PRIu64 "+%" PRIu64
			    ") fails with %s%s:\n    op %d: %s\n    %s\n",
			seed, profile->name, fault->at,
			fault->struck ? simdisk_op_name(fault->call.op) : "none", fault->path,
			fault->call.off, fault->call.len, strerror(-fault->err),
			fault->sticky ? " for good" : "", run.op, run.text, run.reason);
		run_release(&run);
		fail();
	}
	run_release(&run);
	return calls;
}

static uint64_t from_env(const char *name, uint64_t otherwise)
{
	const char *value = getenv(name);

	return value && *value ? strtoull(value, NULL, 10) : otherwise;
}

static void fail_each(const struct profile *profile, int err, bool sticky)
{
	uint64_t first = from_env("SEED", 1), tries = from_env("FAULTS", 40);

	if (getenv("AT")) {
		struct fault fault = {.at = from_env("AT", 1), .err = err, .sticky = sticky};

		run_with(first, profile, 40, &fault);
		return;
	}
	for (uint64_t seed = first; seed < first + 3; seed++) {
		struct fault none = {.err = err};
		uint64_t calls = run_with(seed, profile, 40, &none), step;
		uint64_t struck = 0;

		step = tries && calls > tries ? calls / tries : 1;
		for (uint64_t at = 1 + seed % step; at <= calls; at += step) {
			struct fault fault = {.at = at, .err = err, .sticky = sticky};

			run_with(seed, profile, 40, &fault);
			struck += fault.struck;
		}
		assert_true(struck > 0);
	}
}

static void test_each_call_fails_once(void **state)
{
	fail_each(&mix, -EIO, false);
}

static void test_each_call_fails_for_good(void **state)
{
	fail_each(&mix, -EIO, true);
}

static void test_each_call_finds_no_space(void **state)
{
	fail_each(&mix, -ENOSPC, false);
	fail_each(&mix_full, -ENOSPC, false);
}

static void test_failing_and_full(void **state)
{
	fail_each(&mix_full, -EIO, false);
}

/* ---- every call of recovery ---- */

static void fail_at(void *arg, struct simdisk *disk, const struct simdisk_call *call)
{
	uint64_t *at = arg;

	if (call->number == *at)
		simdisk_fail(disk, call->op, 1, -EIO, false, NULL);
}

static void recovery_fails(uint64_t seed)
{
	struct fault none = {.err = -EIO};
	struct simdisk *crashed;
	struct run run;
	uint64_t calls = 1000;

	assert_int_equal(run_init(&run, seed * (uint64_t)profile_count, 60), 0);
	run_set_profile(&run, &mix);
	run.arg = &none;
	assert_int_equal(run_work(&run), 0);
	crashed = simdisk_crash(run.disk, SIMDISK_SECTORS, seed);
	for (uint64_t at = 1; at <= calls; at++) {
		struct simdisk *disk = simdisk_clone(crashed);
		struct fs_options options = run_options(&run);
		struct fs *fs;

		simdisk_set_hook(disk, fail_at, &at);
		if (fs_open(&fs, simdisk_io(disk), &options) == 0) {
			calls = simdisk_calls(disk);
			fs_settle(fs);
			fs_abandon(fs);
		}
		simdisk_set_hook(disk, NULL, NULL);
		simdisk_heal(disk);
		check_disk(&run, simdisk_crash(disk, SIMDISK_DROP, at), "power loss");
		if (!*run.reason)
			check_disk(&run, simdisk_clone(disk), "process death");
		simdisk_free(disk);
		if (*run.reason)
			print_error("seed %" PRIu64 ", call %" PRIu64 " of recovery: %s\n", seed, at,
				run.reason);
		assert_false(*run.reason);
	}
	simdisk_free(crashed);
	run_release(&run);
}

static void test_each_call_of_recovery_fails(void **state)
{
	uint64_t first = from_env("SEED", 1);

	for (uint64_t seed = first; seed < first + 4; seed++)
		recovery_fails(seed);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sync_fails_once),
		cmocka_unit_test(test_journal_sync_fails_and_process_dies),
		cmocka_unit_test(test_checksums_fail_and_process_dies),
		cmocka_unit_test(test_failed_write_does_not_grow),
		cmocka_unit_test(test_sync_fails_for_good),
		cmocka_unit_test(test_map_fails_for_good),
		cmocka_unit_test(test_write_fails_for_good),
		cmocka_unit_test(test_flush_fails),
		cmocka_unit_test(test_failed_clone_is_removed),
		cmocka_unit_test(test_below_goes_read_only),
		cmocka_unit_test(test_catalog_fails),
		cmocka_unit_test(test_filled_from_outside),
		cmocka_unit_test(test_filled_from_outside_while_writes_go_straight),
		cmocka_unit_test(test_freed_space_is_used),
		cmocka_unit_test(test_torn_and_announced_again),
		cmocka_unit_test(test_takeover_between_bytes_and_checksums),
		cmocka_unit_test(test_takeover_reads_what_was_on_its_way),
		cmocka_unit_test(test_recovery_of_what_was_written_over_and_over),
		cmocka_unit_test(test_each_call_fails_once),
		cmocka_unit_test(test_each_call_fails_for_good),
		cmocka_unit_test(test_each_call_finds_no_space),
		cmocka_unit_test(test_failing_and_full),
		cmocka_unit_test(test_each_call_of_recovery_fails),
	};

	if (!getenv("VERBOSE"))
		log_open(LOG_TO_FILE, "/dev/null");
	return cmocka_run_group_tests(tests, NULL, NULL);
}
