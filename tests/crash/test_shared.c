/* SPDX-License-Identifier: MIT */
/*
 * What becomes of blocks that are shared by content when the power is lost, the process dies or a
 * call fails: each order between pool, lists of runs, ring and layer files as a case of a few
 * steps. Nothing here is random; the workloads with repeated content do the rest.
 *
 * Contents are letters: block i of 'A' is another one than block j of it.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/sizes.h"
#include "core/fs_internal.h"
#include "goldfs/format.h"
#include "image/image.h"
#include "simdisk.h"
#include "store/superblock.h"
#include "workload.h"

enum { BLOCK = 4096, COUNT = 32 }; /* COUNT blocks are a large write */

static struct simdisk *disk;
static struct simdisk *at_the_hook; /* what a hook made of it */
static struct fs *fs;
static struct image *golden;
static bool golden_is_gone, is_unverified;
static unsigned hash_bits;

static struct image *golden_test(void *arg, uint64_t id)
{
	return id == 1 && !golden_is_gone ? golden : NULL;
}

static int open_store(void)
{
	struct fs_options options = {
		.journal_size = MIB,
		.reserve = 64 * KIB,
		.no_background = true,
		.verify_reads = !is_unverified,
		.dedup = FS_DEDUP_ALL,
		.hash_bits = hash_bits,
		.store_fd = -1,
		.golden_test = golden_test,
	};

	return fs_open(&fs, simdisk_io(disk), &options);
}

static void go_on_with(struct simdisk *other)
{
	assert_non_null(other);
	if (fs)
		fs_abandon(steal_pointer(&fs));
	simdisk_free(disk);
	disk = other;
	assert_int_equal(open_store(), 0);
}

static void lose_power(enum simdisk_policy policy)
{
	go_on_with(simdisk_crash(disk, policy, 1));
}

static void die(void)
{
	go_on_with(simdisk_clone(disk));
}

static void remount(void)
{
	assert_int_equal(fs_close(steal_pointer(&fs)), 0);
	assert_int_equal(open_store(), 0);
}

static int setup(void **state)
{
	golden_is_gone = is_unverified = false;
	hash_bits = 0;
	disk = simdisk_new(GIB);
	assert_int_equal(open_store(), 0);
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

/* ---- files ---- */

static uint64_t make(const char *name)
{
	struct fs_attr attr;

	assert_int_equal(fs_make(fs, FS_INO_ROOT, name, S_IFREG | 0600, (struct fs_owner){0, 0},
				 &attr), 0);
	fs_forget(fs, attr.ino, 1);
	return attr.ino;
}

static void fill(uint8_t *buf, char content, uint64_t first, uint64_t count)
{
	memset(buf, content, count * BLOCK);
	for (uint64_t i = 0; i < count; i++)
		memcpy(buf + i * BLOCK, (uint64_t[]){first + i}, sizeof(uint64_t));
}

/* 0 or -errno. */
static int try_put(uint64_t ino, uint64_t block, uint64_t count, char content)
{
	CLEANUP_FREE uint8_t *buf = malloc(count * BLOCK);
	ssize_t n;

	fill(buf, content, 0, count);
	n = fs_write(fs, ino, buf, count * BLOCK, block * BLOCK);
	return n < 0 ? (int)n : 0;
}

static void put(uint64_t ino, uint64_t block, uint64_t count, char content)
{
	assert_int_equal(try_put(ino, block, count, content), 0);
}

static void put_and_sync(uint64_t ino, uint64_t block, uint64_t count, char content)
{
	put(ino, block, count, content);
	assert_int_equal(sync_file(fs, ino), 0);
}

static void put_and_settle(uint64_t ino, uint64_t block, uint64_t count, char content)
{
	put(ino, block, count, content);
	assert_int_equal(fs_settle(fs), 0);
}

static void get(uint64_t ino, uint64_t block, uint64_t count, uint8_t *buf)
{
	memset(buf, 0xee, count * BLOCK);
	assert_int_equal(fs_read(fs, ino, buf, count * BLOCK, block * BLOCK), count * BLOCK);
}

static void assert_shows(uint64_t ino, uint64_t block, uint64_t count, char content)
{
	CLEANUP_FREE uint8_t *is = malloc(count * BLOCK), *want = malloc(count * BLOCK);

	get(ino, block, count, is);
	fill(want, content, 0, count);
	assert_memory_equal(is, want, count * BLOCK);
}

/* Each sector is that of one of the contents, or zero for '0'. */
static void assert_shows_any(uint64_t ino, uint64_t count, const char *contents)
{
	CLEANUP_FREE uint8_t *is = malloc(count * BLOCK), *want = malloc(count * BLOCK);

	get(ino, 0, count, is);
	for (uint64_t at = 0; at < count * BLOCK; at += SIMDISK_SECTOR) {
		const char *c = contents;

		for (; *c; c++) {
			fill(want, *c, 0, count);
			if (*c == '0')
				memset(want, 0, count * BLOCK);
			if (memcmp(is + at, want + at, SIMDISK_SECTOR) == 0)
				break;
		}
		if (!*c)
			fail_msg("byte %" PRIu64 " is 0x%02x", at + 8, is[at + 8]);
	}
}

static void assert_is_lost(uint64_t ino, uint64_t block)
{
	uint8_t buf[BLOCK];

	assert_int_equal(fs_read(fs, ino, buf, BLOCK, block * BLOCK), -EIO);
}

static uint64_t blocks_of_pool(void)
{
	struct io *io = simdisk_io(disk);
	int fd = io->ops->open(io, "pool/0.data", O_RDONLY);
	struct io_stat st;

	if (fd == -ENOENT)
		return 0;
	assert_true(fd >= 0);
	assert_int_equal(io->ops->stat(io, fd, &st), 0);
	io->ops->close(io, fd);
	return st.allocated / BLOCK;
}

static void overwrite(const char *path, uint64_t off, const void *bytes, size_t len)
{
	struct io *io = simdisk_io(disk);
	int fd = io->ops->open(io, path, O_RDWR);

	assert_true(fd >= 0);
	assert_int_equal(io_pwrite(io, fd, bytes, len, off), 0);
	assert_int_equal(io->ops->fdatasync(io, fd), 0);
	io->ops->close(io, fd);
}

static void cut(const char *path, uint64_t size)
{
	struct io *io = simdisk_io(disk);
	int fd = io->ops->open(io, path, O_RDWR);

	assert_true(fd >= 0);
	assert_int_equal(io->ops->truncate(io, fd, size), 0);
	assert_int_equal(io->ops->fdatasync(io, fd), 0);
	io->ops->close(io, fd);
}

/* ---- hooks: at the first such call ---- */

static enum simdisk_op hook_op;
static const char *hook_path;
static void (*hook_do)(void);

static void at_call(void *arg, struct simdisk *busy, const struct simdisk_call *call)
{
	void (*what)(void) = hook_do;

	if (!what || call->op != hook_op || !strstr(call->path, hook_path))
		return;
	hook_do = NULL;
	what();
}

static void when(enum simdisk_op op, const char *path, void (*what)(void))
{
	hook_op = op;
	hook_path = path;
	hook_do = what;
	simdisk_set_hook(disk, at_call, NULL);
}

static void assert_happened(void)
{
	simdisk_set_hook(disk, NULL, NULL);
	assert_null(hook_do);
}

static void fork_here(void)
{
	at_the_hook = simdisk_clone(disk);
}

static void crash_here(void)
{
	at_the_hook = simdisk_crash(disk, SIMDISK_KEEP, 1);
}

/* ---- what is durable before what ---- */

/* The bytes of a slot are as durable as a flush says, whoever brought them there. */
static void flush_covers_the_pool(void **state)
{
	uint64_t a = make("a"), b = make("b"), c = make("c");

	put_and_settle(a, 0, COUNT, 'A');
	put(b, 0, COUNT, 'A');
	put_and_sync(c, 0, COUNT, 'A');
	lose_power(SIMDISK_DROP);
	assert_shows(a, 0, COUNT, 'A');
	assert_shows(c, 0, COUNT, 'A');
	assert_int_equal(fs_settle(fs), 0);
	assert_shows(c, 0, COUNT, 'A');
}

/* The same for a checkpoint, which has small writes of which no flush knows the slot. */
static void checkpoint_covers_the_pool(void **state)
{
	uint64_t a = make("a"), b = make("b");

	put_and_settle(a, 0, 4, 'A');
	put_and_settle(b, 0, 4, 'A');
	assert_int_equal(blocks_of_pool(), 4);
	lose_power(SIMDISK_DROP);
	assert_shows(a, 0, 4, 'A');
	assert_shows(b, 0, 4, 'A');
}

/* Between the new lists of runs and the catalog that names them the old ones count. */
static void lists_that_count_stay(void **state)
{
	uint64_t a = make("a"), b = make("b");

	put_and_settle(a, 0, COUNT, 'A');
	put_and_settle(b, 0, COUNT, 'A');
	for (int i = 0; i < 3; i++) {
		put(b, 100 + 10 * (uint64_t)i, 4, 'A');
		when(SIMDISK_PWRITE, "catalog.", crash_here);
		assert_int_equal(fs_settle(fs), 0);
		assert_happened();
		go_on_with(steal_pointer(&at_the_hook));
		assert_shows(a, 0, COUNT, 'A');
		assert_shows(b, 0, COUNT, 'A');
		assert_shows(b, 100 + 10 * (uint64_t)i, 4, 'A');
		assert_int_equal(fs_settle(fs), 0);
	}
}

/* Acknowledged is acknowledged: the guest lives on when the process dies. */
static void shared_write_of_a_dead_process(void **state)
{
	uint64_t a = make("a"), b = make("b");

	put_and_settle(a, 0, COUNT, 'A');
	put(b, 0, COUNT, 'A');
	die();
	assert_shows(b, 0, COUNT, 'A');
	/* What it wrote was perhaps never synced: the next flush does it. */
	assert_int_equal(sync_file(fs, b), 0);
	lose_power(SIMDISK_DROP);
	assert_shows(b, 0, COUNT, 'A');
	assert_int_equal(fs_settle(fs), 0);
	assert_shows(b, 0, COUNT, 'A');
}

/* Nobody was told of a slot that has its bytes and not its checksum. */
static void death_between_bytes_and_checksum(void **state)
{
	uint64_t a = make("a"), b = make("b");

	put_and_settle(a, 0, COUNT, 'A');
	when(SIMDISK_PWRITE, "pool/0.sum", fork_here);
	put(b, 0, COUNT, 'A');
	assert_happened();
	go_on_with(steal_pointer(&at_the_hook));
	assert_shows(a, 0, COUNT, 'A');
	put(b, 0, COUNT, 'B');
	assert_int_equal(fs_settle(fs), 0);
	assert_int_equal(blocks_of_pool(), 0);
	assert_shows(b, 0, COUNT, 'B');
}

/* An uncommitted shared write may be there or not, sector by sector; older than synced is nothing. */
static void unsynced_shared_write(void **state)
{
	uint64_t a = make("a"), b = make("b");
	struct simdisk *before;

	put_and_settle(a, 0, COUNT, 'A');
	put_and_sync(b, 0, COUNT, 'B');
	put(b, 0, COUNT, 'A');
	before = simdisk_clone(disk);
	for (uint64_t seed = 1; seed <= 24; seed++)
		for (int policy = 0; policy < SIMDISK_POLICIES; policy++) {
			go_on_with(simdisk_crash(before, (enum simdisk_policy)policy, seed));
			assert_shows(a, 0, COUNT, 'A');
			assert_shows_any(b, COUNT, "AB");
			put(b, 0, COUNT, 'C');
			assert_int_equal(fs_settle(fs), 0);
			assert_shows(b, 0, COUNT, 'C');
		}
	simdisk_free(before);
}

/* ---- moving, freeing ---- */

static uint64_t one, two, three;

static void write_while_it_settles(void)
{
	put_and_sync(one, 0, COUNT, 'A');
	put(two, 0, COUNT, 'A');
}

/* What the ring will say of a block after the checkpoint is that it is in place. */
static void move_with_a_large_write_in_the_ring(void **state)
{
	one = make("a");
	two = make("b");
	three = make("c");
	put(three, 0, 1, 'C');
	when(SIMDISK_PWRITE, ".data", write_while_it_settles);
	assert_int_equal(checkpoint_run(fs), 0);
	assert_happened();
	lose_power(SIMDISK_KEEP);
	assert_shows(one, 0, COUNT, 'A');
	assert_int_equal(fs_settle(fs), 0);
	assert_shows(one, 0, COUNT, 'A');
	assert_shows(three, 0, 1, 'C');
}

/* A move is worth nothing when the checkpoint it belongs to fails: the next one may leave more
 * records in the ring than the first one meant to. */
static void move_of_a_failed_checkpoint(void **state)
{
	for (int policy = SIMDISK_DROP; policy <= SIMDISK_KEEP; policy++) {
		uint64_t a, b, c;

		teardown(NULL);
		setup(NULL);
		c = make("c");
		put(c, 0, 1, 'C');
		a = make("a");
		b = make("b");
		put_and_sync(a, 0, COUNT, 'A');
		put_and_sync(b, 0, COUNT, 'A');
		simdisk_fail(disk, SIMDISK_FDATASYNC, 1, -EIO, true, "layer/1.data");
		assert_int_equal(checkpoint_run(fs), 0);
		assert_true(simdisk_faults(disk) > 0);
		simdisk_heal(disk);
		lose_power((enum simdisk_policy)policy);
		for (int round = 0; round < 2; round++) {
			assert_shows(a, 0, COUNT, 'A');
			assert_shows(b, 0, COUNT, 'A');
			assert_shows(c, 0, 1, 'C');
			if (round == 0)
				assert_int_equal(fs_settle(fs), 0);
		}
		assert_int_equal(blocks_of_pool(), COUNT);
	}
}

/* Recovery replays what is committed as well, as long as the tail is held up: such blocks do not move, or
 * there would be holes where the ring says that they are in place. */
static void move_with_a_committed_write_in_the_ring(void **state)
{
	uint64_t c = make("c"), a = make("a"), b = make("b");

	put(c, 0, COUNT, 'C');
	put_and_sync(a, 0, COUNT, 'A');
	/* Who mounts anew does not know that this is in another file already. */
	lose_power(SIMDISK_KEEP);
	put_and_sync(b, 0, COUNT, 'A');
	lose_power(SIMDISK_KEEP);
	simdisk_fail(disk, SIMDISK_FDATASYNC, 1, -EIO, true, "layer/1.data");
	fs_settle(fs);
	assert_true(simdisk_faults(disk) > 0);
	simdisk_heal(disk);
	for (int round = 0; round < 2; round++) {
		die();
		assert_shows(a, 0, COUNT, 'A');
		assert_shows(b, 0, COUNT, 'A');
		assert_int_equal(fs_settle(fs), 0);
	}
	assert_int_equal(blocks_of_pool(), COUNT);
}

/* Taken from the ring once more, older records first, blocks find their slots again. */
static void shared_blocks_are_recalled(void **state)
{
	uint64_t a = make("a"), b = make("b");

	put_and_settle(a, 0, COUNT, 'A');
	put_and_settle(a, 100, COUNT, 'C');
	put(b, 0, COUNT, 'A');
	put(b, 0, COUNT, 'C');
	put(a, 100, COUNT, 'E');
	put_and_sync(b, 200, 1, 'B');
	simdisk_fail(disk, SIMDISK_FDATASYNC, 1, -EIO, false, "layer/2.data");
	assert_int_equal(checkpoint_run(fs), 0);
	assert_true(simdisk_faults(disk) > 0);
	for (int round = 0; round < 2; round++) {
		assert_shows(b, 0, COUNT, 'C');
		assert_shows(b, 200, 1, 'B');
		assert_shows(a, 100, COUNT, 'E');
		lose_power(SIMDISK_DROP);
	}
}

/* Where recovery did not find an announced block, its older version stays: also when records are taken
 * from the ring once more, and when a successor replays what of them was copied. */
static void missing_blocks_stay_missing(void **state)
{
	uint64_t a = make("a"), b = make("b"), c = make("c");
	uint8_t was[COUNT * BLOCK], is[COUNT * BLOCK];
	struct simdisk *before;

	put_and_settle(a, 0, COUNT, 'A');
	put_and_sync(b, 0, COUNT, 'B');
	put(b, 0, COUNT, 'A');
	/* The journal is synced with this one, the pool is not. */
	put_and_sync(c, 0, 1, 'C');
	before = simdisk_clone(disk);
	for (uint64_t seed = 1; seed <= 24; seed++)
		for (int policy = 0; policy < SIMDISK_POLICIES; policy++) {
			go_on_with(simdisk_crash(before, (enum simdisk_policy)policy, seed));
			assert_shows_any(b, COUNT, "AB");
			get(b, 0, COUNT, was);
			put(b, 200, 1, 'D');
			simdisk_fail(disk, SIMDISK_FDATASYNC, 1, -EIO, true, "layer/2.data");
			assert_int_equal(checkpoint_run(fs), 0);
			simdisk_heal(disk);
			/* Their places become what was announced. */
			put_and_sync(c, 0, COUNT, 'A');
			put_and_sync(a, 0, COUNT, 'A');
			/* What counts is copied, since the tail moves on. */
			atomic_store(&fs->move_tail, true);
			assert_int_equal(checkpoint_run(fs), 0);
			for (int round = 0; round < 3; round++) {
				get(b, 0, COUNT, is);
				assert_memory_equal(is, was, sizeof(is));
				die();
			}
		}
	simdisk_free(before);
}

/* What was overwritten meanwhile is not what the pool has. */
static void move_of_what_changed(void **state)
{
	uint64_t a = make("a"), b = make("b");

	put_and_settle(a, 0, COUNT, 'A');
	put(b, 0, COUNT, 'A');
	put(a, 3, 1, 'B');
	assert_int_equal(fs_settle(fs), 0);
	assert_shows(a, 3, 1, 'B');
	assert_shows(a, 0, 3, 'A');
	assert_shows(b, 0, COUNT, 'A');
}

static void share_and_overwrite(void)
{
	put_and_sync(two, 0, COUNT, 'A');
	put(two, 0, COUNT, 'B');
}

/* The slot that a record behind the tail names is nobody else's, although nothing in memory refers
 * to it: when what followed was torn, the record counts. */
static void slot_that_the_ring_refers_to(void **state)
{
	struct simdisk *before;
	uint64_t d, e;

	one = make("a");
	two = make("b");
	three = make("c");
	d = make("d");
	e = make("e");
	put_and_settle(one, 0, COUNT, 'A');
	put_and_settle(d, 0, COUNT, 'D');
	put(three, 0, 1, 'C');
	when(SIMDISK_PWRITE, ".data", share_and_overwrite);
	/* One, whose tail does not pass them. */
	assert_int_equal(checkpoint_run(fs), 0);
	assert_happened();
	put_and_sync(e, 0, COUNT, 'D');
	put(two, 0, COUNT, 'E');
	before = simdisk_clone(disk);
	for (uint64_t seed = 1; seed <= 32; seed++) {
		go_on_with(simdisk_crash(before, SIMDISK_FILES, seed));
		assert_shows_any(two, COUNT, "ABE");
		assert_shows(e, 0, COUNT, 'D');
	}
	simdisk_free(before);
}

/* Both files of the pool end where the last slot does. */
static void nothing_left_of_the_pool(void **state)
{
	static const char *const paths[] = {"pool/0.data", "pool/0.sum"};
	uint64_t a = make("a"), b = make("b");
	struct io *io = simdisk_io(disk);
	struct io_stat st;

	put_and_settle(a, 0, COUNT, 'A');
	put_and_settle(b, 0, COUNT, 'A');
	assert_int_equal(blocks_of_pool(), COUNT);
	assert_int_equal(fs_unlink(fs, FS_INO_ROOT, "a"), 0);
	assert_int_equal(fs_unlink(fs, FS_INO_ROOT, "b"), 0);
	assert_int_equal(fs_settle(fs), 0);
	for (size_t i = 0; i < ARRAY_SIZE(paths); i++) {
		int fd = io->ops->open(io, paths[i], O_RDONLY);

		assert_true(fd >= 0);
		assert_int_equal(io->ops->stat(io, fd, &st), 0);
		io->ops->close(io, fd);
		assert_int_equal(st.size, 0);
		assert_int_equal(st.allocated, 0);
	}
}

/* ---- damage ---- */

/* A slot's checksum is there after a loss of power, and is asked. */
static void damaged_slot(void **state)
{
	uint64_t a = make("a"), b = make("b");

	put_and_settle(a, 0, COUNT, 'A');
	put_and_settle(b, 0, COUNT, 'A');
	lose_power(SIMDISK_DROP);
	overwrite("pool/0.data", 5 * BLOCK + 100, "damage", 6);
	assert_is_lost(a, 5);
	assert_is_lost(b, 5);
	assert_shows(b, 0, 5, 'A');
}

/* Slots behind the pool's end are lost, also when others come to stand there. */
static void lose_end_of_the_pool(uint64_t left, bool sums_too)
{
	uint64_t a = make("a"), b = make("b"), c, d;

	put_and_settle(a, 0, COUNT, 'A');
	put_and_settle(b, 0, COUNT, 'A');
	/* Two holes in what b shares: more than one run is behind the end. */
	put(b, 20, 1, 'B');
	put_and_settle(b, 25, 1, 'B');
	assert_int_equal(fs_close(steal_pointer(&fs)), 0);
	is_unverified = true;
	if (sums_too)
		cut("pool/0.sum", left * sizeof(uint32_t));
	if (left)
		cut("pool/0.data", left * BLOCK);
	else
		assert_int_equal(simdisk_io(disk)->ops->unlink(simdisk_io(disk), "pool/0.data"), 0);
	assert_int_equal(open_store(), 0);
	c = make("c");
	d = make("d");
	/* While it counts; then another process looks at what that left on the disk. */
	put_and_sync(c, 0, COUNT, 'C');
	put_and_sync(d, 0, COUNT, 'C');
	for (int round = 0; round < 5; round++) {
		if (left) {
			assert_shows(b, 0, left, 'A');
			assert_shows(a, 0, left, 'A');
		}
		for (uint64_t i = left; i < COUNT; i++) {
			if (i != 20 && i != 25)
				assert_is_lost(b, i);
			assert_is_lost(a, i);
		}
		assert_shows(c, 0, COUNT, 'C');
		assert_shows(d, 0, COUNT, 'C');
		/* Without a trace of how long it was there is no time until a checkpoint. */
		if (round == 0 && !sums_too)
			lose_power(SIMDISK_DROP);
		else if (round < 2 || round % 2)
			assert_int_equal(fs_settle(fs), 0);
		else
			remount();
	}
	put_and_settle(b, 0, COUNT, 'A');
	assert_shows(b, 0, COUNT, 'A');
}

static void pool_that_became_shorter(void **state)
{
	lose_end_of_the_pool(10, false);
	teardown(NULL);
	setup(NULL);
	lose_end_of_the_pool(10, true);
}

static void pool_that_is_gone(void **state)
{
	lose_end_of_the_pool(0, false);
}

/* Of a region whose list is damaged the shared blocks are lost, and nothing else. */
static void damaged_list(void **state)
{
	uint64_t a = make("a"), b = make("b"), far = 2 * GF_REGION_BLOCKS;

	put_and_settle(a, 0, COUNT, 'A');
	put(b, 0, COUNT, 'A');
	put(b, 100, 4, 'B');
	put_and_settle(b, far, COUNT, 'A');
	assert_int_equal(fs_close(steal_pointer(&fs)), 0);
	for (uint64_t slot = 0; slot < 2; slot++)
		overwrite("layer/2.loc", slot * GF_RUNS_SLOT + 70, "damage", 6);
	assert_int_equal(open_store(), 0);
	for (int round = 0; round < 2; round++) {
		for (uint64_t i = 0; i < COUNT; i++)
			assert_is_lost(b, i);
		assert_shows(b, 100, 4, 'B');
		assert_shows(b, far, COUNT, 'A');
		assert_shows(a, 0, COUNT, 'A');
		if (round == 0)
			assert_int_equal(fs_settle(fs), 0);
	}
	put_and_settle(b, 0, COUNT, 'A');
	assert_shows(b, 0, COUNT, 'A');
}

/* ---- hints are hints ---- */

struct summed {
	uint32_t sum;
	uint32_t number;
};

static int compare_summed(const void *x, const void *y)
{
	const struct summed *a = x, *b = y;

	return a->sum < b->sum ? -1 : a->sum > b->sum;
}

static void fill_numbered(uint8_t block[BLOCK], uint32_t number)
{
	memset(block, 'N', BLOCK);
	memcpy(block, &number, sizeof(number));
}

/* Two blocks with the same checksum: there are some among 2^18. */
static void find_two_alike(uint8_t x[BLOCK], uint8_t y[BLOCK])
{
	const uint32_t count = 1u << 18;
	CLEANUP_FREE struct summed *list = malloc(count * sizeof(*list));
	struct superblock super;
	uint32_t i;

	assert_int_equal(superblock_read(simdisk_io(disk), &super), 0);
	for (i = 0; i < count; i++) {
		fill_numbered(x, i);
		list[i] = (struct summed){.sum = hash_block(super.secret, x), .number = i};
	}
	qsort(list, count, sizeof(*list), compare_summed);
	for (i = 1; i < count && list[i - 1].sum != list[i].sum; i++)
		;
	assert_true(i < count);
	fill_numbered(x, list[i - 1].number);
	fill_numbered(y, list[i].number);
}

static void same_checksum_other_bytes(void **state)
{
	uint64_t a = make("a"), b = make("b");
	uint8_t x[BLOCK], y[BLOCK], is[BLOCK];

	find_two_alike(x, y);
	assert_int_equal(fs_write(fs, a, x, BLOCK, 0), BLOCK);
	assert_int_equal(fs_settle(fs), 0);
	assert_int_equal(fs_write(fs, b, y, BLOCK, 0), BLOCK);
	assert_int_equal(fs_settle(fs), 0);
	get(a, 0, 1, is);
	assert_memory_equal(is, x, BLOCK);
	get(b, 0, 1, is);
	assert_memory_equal(is, y, BLOCK);
}

/* ---- calls that fail ---- */

struct fault {
	enum simdisk_op op;
	int error;
	const char *path;
};

static const struct fault faults[] = {
	{SIMDISK_PWRITE, -ENOSPC, "pool/0.data"},
	{SIMDISK_PWRITE, -EIO, "pool/0.data"},
	{SIMDISK_PWRITE, -ENOSPC, "pool/0.sum"},
	{SIMDISK_PWRITE, -EIO, "pool/0.sum"},
	{SIMDISK_OPEN, -EIO, "pool/0"},
	{SIMDISK_OPEN, -ENOSPC, "pool/0"},
	{SIMDISK_MKDIR, -ENOSPC, "pool"},
	{SIMDISK_FDATASYNC, -EIO, "pool/0.data"},
	{SIMDISK_FDATASYNC, -EIO, "pool/0.sum"},
	{SIMDISK_SYNCDIR, -EIO, "pool"},
	{SIMDISK_PUNCH, -EIO, "pool/0.data"},
	{SIMDISK_TRUNCATE, -EIO, "pool/0"},
	{SIMDISK_PREAD, -EIO, "pool/0.data"},
	{SIMDISK_PWRITE, -ENOSPC, ".loc"},
	{SIMDISK_PWRITE, -EIO, ".loc"},
	{SIMDISK_FDATASYNC, -EIO, ".loc"},
};

static bool keeps_the_write(const struct fault *f)
{
	return f->op == SIMDISK_PWRITE || f->op == SIMDISK_OPEN || f->op == SIMDISK_MKDIR ||
	       f->op == SIMDISK_PREAD;
}

/* The letter of what was synced last. */
static void write_under_a_fault(uint64_t ino, uint64_t count, bool settle, char content, char *synced)
{
	int r = try_put(ino, 0, count, content);

	if (!r && settle)
		fs_settle(fs);
	if (!r && sync_file(fs, ino) == 0)
		*synced = content;
}

/* A pool that cannot be written costs sharing; one that cannot be synced, the right to write. What
 * was synced is there afterwards. */
static void fault_at(const struct fault *f, uint64_t count, bool settle, uint64_t nth, bool sticky)
{
	char was = 'B';
	const char *may_be;
	uint64_t a = make("a"), b = make("b"), c = make("c");

	put_and_settle(a, 0, COUNT, 'A');
	put_and_settle(c, 0, COUNT, 'C');
	put_and_settle(b, 0, count, 'B');
	simdisk_fail(disk, f->op, nth, f->error, sticky, f->path);
	write_under_a_fault(b, count, settle, 'A', &was);
	if (count >= COUNT && keeps_the_write(f) && strstr(f->path, "pool"))
		assert_int_equal(was, 'A');
	if (was == 'A' && f->op != SIMDISK_PREAD)
		assert_shows(b, 0, count, 'A');
	write_under_a_fault(b, count, settle, 'C', &was);
	may_be = was == 'C' ? "C" : was == 'A' ? "AC" : "BAC";
	/* What gives slots back. */
	fs_settle(fs);
	fs_settle(fs);
	simdisk_heal(disk);
	lose_power(nth % 2 ? SIMDISK_DROP : SIMDISK_KEEP);
	for (int round = 0; round < 2; round++) {
		assert_shows(a, 0, COUNT, 'A');
		assert_shows(c, 0, COUNT, 'C');
		assert_shows_any(b, count, may_be);
		if (round == 0)
			assert_int_equal(fs_settle(fs), 0);
	}
	put_and_sync(b, 0, count, 'E');
	assert_shows(b, 0, count, 'E');
}

static void faults_of_the_pool(void **state)
{
	for (size_t i = 0; i < ARRAY_SIZE(faults); i++)
		for (int way = 0; way < 16; way++) {
			teardown(NULL);
			setup(NULL);
			if (getenv("VERBOSE"))
				fprintf(stderr, "fault %zu, way %d\n", i, way);
			fault_at(&faults[i], way & 1 ? COUNT : 4, way & 2, 1 + (way >> 3), way & 4);
		}
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

/* ---- contents that collide ---- */

/* Blocks that two files with the same content share, when it is known by so many bits. */
static uint64_t shared_by_bits(unsigned bits)
{
	enum { MANY = 2048 };
	CLEANUP_FREE uint8_t *buf = malloc(MANY * BLOCK), *is = malloc(MANY * BLOCK);
	uint64_t a, b;
	struct fs_info info;

	fs_abandon(steal_pointer(&fs));
	simdisk_free(disk);
	disk = simdisk_new(GIB);
	hash_bits = bits;
	assert_int_equal(open_store(), 0);
	a = make("a");
	b = make("b");
	fill(buf, 'A', 0, MANY);
	for (uint64_t at = 0; at < MANY; at += COUNT)
		assert_int_equal(fs_write(fs, a, buf + at * BLOCK, COUNT * BLOCK, at * BLOCK), COUNT * BLOCK);
	assert_int_equal(fs_settle(fs), 0);
	/* Small ones too, which are looked for at destage; first what was seen last. */
	for (uint64_t at = MANY; at-- > 0;)
		assert_int_equal(fs_write(fs, b, buf + at * BLOCK, BLOCK, at * BLOCK), BLOCK);
	assert_int_equal(fs_settle(fs), 0);
	for (int i = 0; i < 2; i++) {
		get(a, 0, MANY, is);
		assert_memory_equal(is, buf, MANY * BLOCK);
		get(b, 0, MANY, is);
		assert_memory_equal(is, buf, MANY * BLOCK);
		lose_power(SIMDISK_DROP);
	}
	assert_int_equal(fs_settle(fs), 0);
	assert_int_equal(fs_info(fs, b, FS_NOW, &info), 0);
	fs_info_release(&info);
	assert_int_equal(info.figures.data_bytes, MANY * BLOCK);
	return info.figures.shared_clone_bytes / BLOCK;
}

/* Data stays right, only less is shared: two contents are remembered for each of 256 hashes. */
static void forced_collisions(void **state)
{
	uint64_t all = shared_by_bits(0), few = shared_by_bits(8);

	print_message("%" PRIu64 " of 2048 blocks are shared by all bits, %" PRIu64 " by 8\n", all, few);
	/* Buckets of the table overflow. */
	assert_in_range(all, 2048 - 2048 / 20, 2048);
	assert_in_range(few, 1, 1024);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(flush_covers_the_pool),
		T(checkpoint_covers_the_pool),
		T(lists_that_count_stay),
		T(shared_write_of_a_dead_process),
		T(death_between_bytes_and_checksum),
		T(unsynced_shared_write),
		T(move_with_a_large_write_in_the_ring),
		T(move_of_a_failed_checkpoint),
		T(move_with_a_committed_write_in_the_ring),
		T(shared_blocks_are_recalled),
		T(missing_blocks_stay_missing),
		T(move_of_what_changed),
		T(slot_that_the_ring_refers_to),
		T(nothing_left_of_the_pool),
		T(damaged_slot),
		T(pool_that_became_shorter),
		T(pool_that_is_gone),
		T(damaged_list),
		T(same_checksum_other_bytes),
		T(faults_of_the_pool),
		T(forced_collisions),
	};

	alarm(120);
	if (!getenv("VERBOSE"))
		log_open(LOG_TO_FILE, "/dev/null");
	return cmocka_run_group_tests(tests, NULL, NULL);
}
