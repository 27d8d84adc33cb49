/* SPDX-License-Identifier: MIT */
/*
 * Two calls at once, of which one stops in the middle.
 *
 * The first is stopped at one I/O call of its own, before or after it is carried out. Meanwhile the
 * second runs in a thread: to its end, or until it has to wait for the first, which goes on after a
 * moment in any case. How long that moment is decides only whether a mistake is seen.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "base/log.h"
#include "base/sizes.h"
#include "core/check.h"
#include "core/dedup.h"
#include "core/fs_internal.h"
#include "core/scrub.h"
#include "simdisk.h"
#include "workload.h"

enum { PATIENCE_MS = 400, LARGE = 128 * KIB, FDS = 1024, BLOCK = 4096 };

static enum fs_dedup dedup;
static bool background;
static struct simdisk *disk;
static struct fs *fs;
static struct io_ops ops;
static const struct io_ops *below;
static char paths[FDS][SIMDISK_PATH];
static uint8_t bytes[LARGE], other_bytes[LARGE];

/* Where the first call stops, and what the second one is. */
static struct {
	pthread_t first, second;
	enum simdisk_op op;
	const char *path;
	bool after;
	atomic_int nth; /* 0: not armed */
	void (*other)(void);
	bool started, ended;
	/* Afterwards the first stops once more, for this one; NULL: no. */
	void (*then)(void);
	enum simdisk_op then_op;
	const char *then_path;
	/* The second one stops, too, at a write to this file, until the first is at the catalog. */
	const char *stall;
	bool stall_after, at_catalog;
	pthread_mutex_t lock;
	pthread_cond_t cond;
} meeting = {.lock = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER};

/* ---- the meeting ---- */

static void *run_other(void *arg)
{
	meeting.other();
	pthread_mutex_lock(&meeting.lock);
	meeting.ended = true;
	pthread_cond_broadcast(&meeting.cond);
	pthread_mutex_unlock(&meeting.lock);
	return NULL;
}

static struct timespec in_ms(long ms)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	t.tv_nsec += ms * 1000000L;
	t.tv_sec += t.tv_nsec / 1000000000;
	t.tv_nsec %= 1000000000;
	return t;
}

static void stall(int fd, bool after)
{
	struct timespec until = in_ms(2 * PATIENCE_MS);

	pthread_mutex_lock(&meeting.lock);
	if (strstr(paths[fd % FDS], "catalog")) {
		meeting.at_catalog = true;
		pthread_cond_broadcast(&meeting.cond);
	} else if (meeting.stall && after == meeting.stall_after &&
		   !pthread_equal(pthread_self(), meeting.first) &&
		   strstr(paths[fd % FDS], meeting.stall)) {
		meeting.stall = NULL;
		while (!meeting.at_catalog &&
			pthread_cond_timedwait(&meeting.cond, &meeting.lock, &until) != ETIMEDOUT)
			;
	}
	pthread_mutex_unlock(&meeting.lock);
}

static void arm_again(void)
{
	pthread_join(meeting.second, NULL);
	meeting.op = meeting.then_op;
	meeting.path = meeting.then_path;
	meeting.after = false;
	meeting.nth = 1;
	meeting.other = meeting.then;
	meeting.then = NULL;
	meeting.started = meeting.ended = false;
}

static void meet(enum simdisk_op op, int fd, bool after)
{
	struct timespec until;

	if (!meeting.nth || meeting.op != op || meeting.after != after ||
		!pthread_equal(pthread_self(), meeting.first) ||
		!strstr(paths[fd % FDS], meeting.path) || --meeting.nth)
		return;
	meeting.started = true;
	pthread_create(&meeting.second, NULL, run_other, NULL);
	until = in_ms(PATIENCE_MS);
	pthread_mutex_lock(&meeting.lock);
	while (!meeting.ended &&
		pthread_cond_timedwait(&meeting.cond, &meeting.lock, &until) != ETIMEDOUT)
		;
	pthread_mutex_unlock(&meeting.lock);
	if (meeting.then)
		arm_again();
}

static void arm(enum simdisk_op op, const char *path, bool after, int nth, void (*other)(void))
{
	meeting.first = pthread_self();
	meeting.op = op;
	meeting.path = path;
	meeting.after = after;
	meeting.nth = nth;
	meeting.other = other;
	meeting.started = meeting.ended = meeting.at_catalog = false;
	meeting.stall = NULL;
	meeting.stall_after = false;
	meeting.then = NULL;
}

static void part(void)
{
	if (!meeting.started)
		fail_msg("the first call did not come to \"%s\"", meeting.path);
	pthread_join(meeting.second, NULL);
}

/* ---- in front of the disk ---- */

static int front_open(struct io *io, const char *path, int flags)
{
	int fd = below->open(io, path, flags);

	if (fd >= 0)
		snprintf(paths[fd % FDS], SIMDISK_PATH, "%s", path);
	return fd;
}

static ssize_t front_pread(struct io *io, int fd, void *buf, size_t len, uint64_t off)
{
	ssize_t n;

	meet(SIMDISK_PREAD, fd, false);
	n = below->pread(io, fd, buf, len, off);
	meet(SIMDISK_PREAD, fd, true);
	return n;
}

static int front_pwritev(struct io *io, int fd, const struct iovec *iov, int count, uint64_t off)
{
	int r;

	meet(SIMDISK_PWRITE, fd, false);
	stall(fd, false);
	r = below->pwritev(io, fd, iov, count, off);
	meet(SIMDISK_PWRITE, fd, true);
	stall(fd, true);
	return r;
}

static int front_fdatasync(struct io *io, int fd)
{
	int r;

	meet(SIMDISK_FDATASYNC, fd, false);
	r = below->fdatasync(io, fd);
	meet(SIMDISK_FDATASYNC, fd, true);
	return r;
}

static int front_punch(struct io *io, int fd, uint64_t off, uint64_t len)
{
	meet(SIMDISK_PUNCH, fd, false);
	return below->punch(io, fd, off, len);
}

static void open_store(void)
{
	struct fs_options options = {.journal_size = MIB, .reserve = 64 * KIB,
		.no_background = !background, .dedup = dedup, .store_fd = -1};
	struct io *io = simdisk_io(disk);

	below = io->ops;
	ops = *below;
	ops.open = front_open;
	ops.pread = front_pread;
	ops.pwritev = front_pwritev;
	ops.fdatasync = front_fdatasync;
	ops.punch = front_punch;
	io->ops = &ops;
	assert_int_equal(fs_open(&fs, io, &options), 0);
}

static void end(bool power)
{
	struct simdisk *old = disk;

	fs_abandon(fs);
	disk = power ? simdisk_crash(old, SIMDISK_DROP, 1) : simdisk_clone(old);
	simdisk_free(old);
}

/* Power is lost, or only the process. */
static void crash(bool power)
{
	end(power);
	open_store();
}

static int setup(void **state)
{
	disk = simdisk_new(TIB);
	dedup = FS_DEDUP_OFF;
	background = false;
	open_store();
	return 0;
}

static int teardown(void **state)
{
	meeting.nth = 0;
	fs_abandon(fs);
	simdisk_free(disk);
	return 0;
}

/* ---- files ---- */

static uint64_t a, b;

static uint64_t make(const char *name)
{
	struct fs_attr attr;

	assert_int_equal(fs_make(fs, FS_INO_ROOT, name, S_IFREG | 0600, (struct fs_owner){0, 0},
				 &attr), 0);
	return attr.ino;
}

/* From any thread: abort() instead of cmocka's jump. */
static void put(uint64_t ino, char c, size_t len, uint64_t off)
{
	uint8_t *buf = malloc(len);

	memset(buf, c, len);
	if (fs_write(fs, ino, buf, len, off) != (ssize_t)len)
		abort();
	free(buf);
}

static void get(uint64_t ino, uint8_t *buf, size_t len, uint64_t off)
{
	if (fs_read(fs, ino, buf, len, off) != (ssize_t)len)
		abort();
}

/* Each byte is one of these characters. */
static void assert_only(const uint8_t *buf, size_t len, const char *allowed)
{
	for (size_t i = 0; i < len; i++)
		if (!buf[i] || !strchr(allowed, buf[i]))
			fail_msg("byte %zu is 0x%02x, not of \"%s\"", i, buf[i], allowed);
}

static void assert_reads(uint64_t ino, size_t len, uint64_t off, const char *allowed)
{
	get(ino, bytes, len, off);
	assert_only(bytes, len, allowed);
}

static void settle(void)
{
	if (fs_settle(fs))
		abort();
}

static uint64_t clone_of(uint64_t ino, const char *name)
{
	struct fs_clone_target target = {.parent = FS_INO_ROOT, .name = name};
	uint64_t clone;
	size_t failed;

	assert_int_equal(fs_clone(fs, ino, &target, 1, (struct fs_owner){0, 0}, 0600, false, false,
				 NULL, &failed), 0);
	assert_int_equal(fs_resolve(fs, name, &clone), 0);
	return clone;
}

/* ---- who must wait for whom ---- */

static void fill_ring(void)
{
	for (int i = 0; i < 600; i++)
		put(b, 'B', BLOCK, (uint64_t)i * BLOCK);
}

static void test_ring_waits_for_readers(void **state)
{
	a = make("a");
	b = make("b");
	put(a, 'A', BLOCK, 0);
	arm(SIMDISK_PREAD, "journal/0", false, 1, fill_ring);
	assert_reads(a, BLOCK, 0, "A");
	part();
}

/* Whoever found places of a layer before it was dead may be on the way to them. */
static void *give_a_up(void *arg)
{
	if (fs_unlink(fs, FS_INO_ROOT, "a"))
		abort();
	fs_forget(fs, a, 1);
	settle();
	pthread_mutex_lock(&meeting.lock);
	meeting.ended = true;
	pthread_cond_broadcast(&meeting.cond);
	pthread_mutex_unlock(&meeting.lock);
	return NULL;
}

static void test_places_of_the_dead_wait_for_readers(void **state)
{
	struct timespec until;
	struct layer *layer;
	uint64_t places[1];
	pthread_t remover;
	unsigned token;

	dedup = FS_DEDUP_ALL;
	crash(false);
	a = make("a");
	b = make("b");
	put(b, 'X', LARGE, 0);
	settle();
	put(a, 'X', LARGE, 0);
	settle();
	layer = atomic_load(&tree_find(fs, a)->layer);
	assert_int_equal(layer_read_places(layer, 0, places, 1), 0);
	assert_true(places[0] != 0);
	atomic_fetch_add(&layer->users, 1);
	token = drain_enter(&fs->readers);
	meeting.ended = false;
	pthread_create(&remover, NULL, give_a_up, NULL);
	until = in_ms(PATIENCE_MS);
	pthread_mutex_lock(&meeting.lock);
	while (!meeting.ended &&
		pthread_cond_timedwait(&meeting.cond, &meeting.lock, &until) != ETIMEDOUT)
		;
	pthread_mutex_unlock(&meeting.lock);
	assert_int_equal(layer_read_places(layer, 0, places, 1), 0);
	drain_leave(&fs->readers, token);
	pthread_join(remover, NULL);
	assert_true(places[0] != 0);
	atomic_fetch_sub(&layer->users, 1);
	settle();
	assert_reads(b, LARGE, 0, "X");
}

static void read_b(void)
{
	get(b, other_bytes, LARGE, 0);
}

static void test_large_write_is_not_seen_early(void **state)
{
	a = make("a");
	put(a, 'A', LARGE, 0);
	settle();
	b = clone_of(a, "b");
	arm(SIMDISK_PWRITE, ".data", false, 1, read_b);
	put(b, 'B', LARGE, 0);
	part();
	assert_only(other_bytes, LARGE, "AB");
	assert_reads(b, LARGE, 0, "B");
}

static void rewrite_a(void)
{
	put(a, 'B', LARGE, 0);
}

static void test_punch_waits_for_writers(void **state)
{
	a = make("a");
	put(a, 'A', LARGE, 0);
	settle();
	assert_int_equal(fs_fallocate(fs, a, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, LARGE),
		0);
	arm(SIMDISK_PUNCH, ".data", false, 1, rewrite_a);
	settle();
	part();
	assert_reads(a, LARGE, 0, "B");
}

static void test_destage_waits_for_writers(void **state)
{
	a = make("a");
	put(a, 'A', BLOCK, 3 * BLOCK);
	arm(SIMDISK_PWRITE, ".data", false, 1, rewrite_a);
	settle();
	part();
	assert_reads(a, LARGE, 0, "B");
	crash(false);
	assert_reads(a, LARGE, 0, "B");
}

static void rewrite_b(void)
{
	put(b, 'B', LARGE, 0);
}

/* What was to be destaged when the round began is not the newest any more. */
static void test_destage_leaves_newer_versions(void **state)
{
	a = make("a");
	b = make("b");
	put(a, 'A', BLOCK, 0);
	put(b, 'O', BLOCK, 0);
	arm(SIMDISK_PWRITE, ".data", false, 1, rewrite_b);
	settle();
	part();
	assert_reads(a, BLOCK, 0, "A");
	assert_reads(b, LARGE, 0, "B");
}

static void write_into_second(void)
{
	put(a, 'B', 1000, 7000);
}

static void test_merging_locks_all_blocks(void **state)
{
	for (int nth = 1; nth <= 2; nth++) {
		a = make(nth == 1 ? "a" : "b");
		put(a, 'A', LARGE, 0);
		settle();
		arm(SIMDISK_PREAD, ".data", true, nth, write_into_second);
		put(a, 'X', BLOCK, 2048);
		if (!meeting.started)
			break;
		part();
		assert_reads(a, 2048, 0, "A");
		assert_reads(a, BLOCK, 2048, "X");
		assert_reads(a, 7000 - 6144, 6144, "A");
		assert_reads(a, 1000, 7000, "B");
	}
}

static void test_picture_has_all_of_a_write(void **state)
{
	a = make("a");
	put(a, 'O', LARGE, 0);
	settle();
	for (int after = 0; after <= 1; after++) {
		arm(SIMDISK_PWRITE, "journal/0", after, 1, settle);
		put(a, 'A', BLOCK, 0);
		part();
		assert_int_equal(sync_file(fs, a), 0);
		crash(true);
		assert_reads(a, BLOCK, 0, "A");
		arm(SIMDISK_PWRITE, ".data", after, 1, settle);
		put(a, 'L', LARGE, 0);
		part();
		assert_int_equal(sync_file(fs, a), 0);
		crash(true);
		assert_reads(a, LARGE, 0, "L");
	}
}

static void extend_a(void)
{
	put(a, 'B', BLOCK, BLOCK);
}

static struct fs *open_after(struct simdisk *crashed)
{
	struct fs_options options = {.no_background = true, .store_fd = -1};
	struct fs *after;

	assert_int_equal(fs_open(&after, simdisk_io(crashed), &options), 0);
	return after;
}

static struct simdisk *lost;
static bool catalog_is_durable;

/* Before the next checkpoint makes up for a wrong picture, and after the second call. */
static void lose_power_after_catalog(void *arg, struct simdisk *busy,
	const struct simdisk_call *call)
{
	struct timespec until = in_ms(PATIENCE_MS);

	if (lost || !pthread_equal(pthread_self(), meeting.first))
		return;
	if (!catalog_is_durable) {
		catalog_is_durable =
			call->op == SIMDISK_FDATASYNC && strstr(call->path, "catalog");
		return;
	}
	pthread_mutex_lock(&meeting.lock);
	while (!meeting.ended &&
		pthread_cond_timedwait(&meeting.cond, &meeting.lock, &until) != ETIMEDOUT)
		;
	pthread_mutex_unlock(&meeting.lock);
	lost = simdisk_crash(busy, SIMDISK_KEEP, 1);
}

/* Its record is there, and memory does not know it yet, when the picture is due. */
static void test_picture_waits_for_a_record(void **state)
{
	struct fs_attr attr;
	struct fs *after;

	a = make("a");
	put(a, 'A', BLOCK, 0);
	lost = NULL;
	catalog_is_durable = false;
	simdisk_set_hook(disk, lose_power_after_catalog, NULL);
	arm(SIMDISK_PWRITE, ".data", false, 1, extend_a);
	meeting.stall = "journal/0";
	meeting.stall_after = true;
	settle();
	part();
	simdisk_set_hook(disk, NULL, NULL);
	assert_non_null(lost);
	after = open_after(lost);
	assert_int_equal(fs_getattr(after, a, &attr), 0);
	fs_abandon(after);
	simdisk_free(lost);
	assert_int_equal(attr.size, 2 * BLOCK);
	assert_int_equal(sync_file(fs, a), 0);
	crash(true);
	assert_int_equal(fs_getattr(fs, a, &attr), 0);
	assert_int_equal(attr.size, 2 * BLOCK);
	assert_reads(a, BLOCK, 0, "A");
	assert_reads(a, BLOCK, BLOCK, "B");
}

static void scrub(struct fs *after)
{
	struct scrub_options how = {0};
	struct check_report report;

	assert_int_equal(scrub_run(after, &how, &report), 0);
	if (report.damaged)
		fail_msg("scrub: %s", report.findings[0].text);
	check_report_release(&report);
}

/* After a power loss that left some sectors of what was not synced, and not others. */
static void scrub_torn(struct simdisk *busy)
{
	for (uint64_t seed = 1; seed <= 16; seed++) {
		struct simdisk *crashed = simdisk_crash(busy, SIMDISK_SECTORS, seed);
		struct fs *after = open_after(crashed);

		scrub(after);
		fs_abandon(after);
		simdisk_free(crashed);
	}
}

static void overwrite_a(void)
{
	put(a, 'C', LARGE, 0);
}

/* A large write in place has its mark from an earlier one, which the picture would take away. */
static void test_picture_leaves_marks_in_use(void **state)
{
	a = make("a");
	b = make("b");
	put(a, 'A', LARGE, 0);
	settle();
	put(a, 'B', LARGE, 0);
	put(b, 'B', BLOCK, 0);
	arm(SIMDISK_PWRITE, "2.data", false, 1, overwrite_a);
	meeting.stall = "1.data";
	settle();
	part();
	scrub_torn(disk);
}

static void overwrite_behind_a(void)
{
	put(a, 'C', LARGE, LARGE);
}

/* In the middle of whatever the first call does, once the second one is through. */
static void scrub_after_power_loss(void *arg, struct simdisk *busy, const struct simdisk_call *call)
{
	if (!meeting.ended || call->op == SIMDISK_PREAD || call->op == SIMDISK_OPEN)
		return;
	scrub_torn(busy);
}

/* Who finds the mark that another one has just recorded waits for its sync, too. */
static void test_marks_count_when_durable(void **state)
{
	a = make("a");
	put(a, 'A', LARGE, 0);
	put(a, 'A', LARGE, LARGE);
	settle();
	simdisk_set_hook(disk, scrub_after_power_loss, NULL);
	arm(SIMDISK_FDATASYNC, "journal/0", false, 1, overwrite_behind_a);
	put(a, 'B', LARGE, 0);
	part();
	simdisk_set_hook(disk, NULL, NULL);
	assert_reads(a, LARGE, 0, "B");
	assert_reads(a, LARGE, LARGE, "C");
}

/* ---- several that overwrite at once ---- */

enum { FAR_MARKS = 512, SMALLEST_LARGE = 64 * KIB };

static atomic_bool overwriting;

static void *overwrite_a_all_the_time(void *arg)
{
	const uint64_t at = *(const uint64_t *)arg;

	for (char c = 'B'; atomic_load(&overwriting); c = c == 'Y' ? 'B' : c + 1)
		put(a, c, SMALLEST_LARGE, at);
	return NULL;
}

/* Marks of other regions come while somebody relies on his, which is durable. */
static void test_marks_of_others_come_all_the_time(void **state)
{
	static const uint64_t places[] = {0, SMALLEST_LARGE, 2 * SMALLEST_LARGE};
	const uint64_t apart = 16 * (uint64_t)GF_REGION_BLOCKS * BLOCK;
	pthread_t threads[ARRAY_SIZE(places)];

	a = make("a");
	for (uint64_t i = 0; i < ARRAY_SIZE(places); i++)
		put(a, 'A', SMALLEST_LARGE, places[i]);
	for (uint64_t i = 1; i <= FAR_MARKS; i++)
		put(a, 'A', SMALLEST_LARGE, i * apart);
	settle();
	atomic_store(&overwriting, true);
	for (size_t i = 0; i < ARRAY_SIZE(places); i++)
		pthread_create(&threads[i], NULL, overwrite_a_all_the_time, (void *)&places[i]);
	for (uint64_t i = 1; i <= FAR_MARKS; i++)
		put(a, 'Z', SMALLEST_LARGE, i * apart);
	atomic_store(&overwriting, false);
	for (size_t i = 0; i < ARRAY_SIZE(places); i++)
		pthread_join(threads[i], NULL);
	for (uint64_t i = 1; i <= FAR_MARKS; i++)
		assert_reads(a, SMALLEST_LARGE, i * apart, "Z");
}

static void remove_a(void)
{
	if (fs_unlink(fs, FS_INO_ROOT, "a"))
		abort();
	fs_forget(fs, a, 1);
}

static void discard_a(void)
{
	if (fs_fallocate(fs, a, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, LARGE))
		abort();
}

static void make_late(void)
{
	struct fs_attr attr;

	put(a, 'L', BLOCK, LARGE);
	if (fs_make(fs, FS_INO_ROOT, "late", S_IFREG | 0600, (struct fs_owner){0, 0}, &attr))
		abort();
}

static bool inside;

/* Whoever still sees the name sees the bytes; they are discarded or they are not. */
static void look_at_a(struct fs *after)
{
	uint64_t ino;

	if (fs_resolve(after, "a", &ino))
		return;
	assert_int_equal(fs_read(after, ino, other_bytes, LARGE, 0), LARGE);
	for (size_t i = 0; i < LARGE; i++)
		if (other_bytes[i] && other_bytes[i] != 'A')
			fail_msg("byte %zu is 0x%02x", i, other_bytes[i]);
}

/* What is made now is there after the next power loss, too. */
static void make_more(struct simdisk *crashed, struct fs *after)
{
	struct simdisk *again;
	struct fs_attr attr;
	uint64_t ino;

	assert_int_equal(fs_make(after, FS_INO_ROOT, "new", S_IFREG | 0600,
				 (struct fs_owner){0, 0}, &attr), 0);
	assert_int_equal(sync_file(after, attr.ino), 0);
	fs_abandon(after);
	again = simdisk_crash(crashed, SIMDISK_DROP, 1);
	after = open_after(again);
	assert_int_equal(fs_resolve(after, "new", &ino), 0);
	fs_abandon(after);
	simdisk_free(again);
}

static void look_after_power_loss(void *arg, struct simdisk *busy, const struct simdisk_call *call)
{
	if (inside || !meeting.ended || call->op == SIMDISK_PREAD || call->op == SIMDISK_OPEN)
		return;
	inside = true;
	for (int policy = 0; policy < SIMDISK_POLICIES; policy++)
		for (uint64_t seed = 1; seed <= 4; seed++) {
			struct simdisk *crashed =
				simdisk_crash(busy, (enum simdisk_policy)policy, seed);
			struct fs *after = open_after(crashed);

			look_at_a(after);
			scrub(after);
			make_more(crashed, after);
			simdisk_free(crashed);
		}
	inside = false;
}

/* The second call comes when the journal was synced and the picture is not yet taken. */
static void change_before_the_picture(void (*change)(void))
{
	a = make("a");
	b = make("b");
	put(a, 'A', LARGE, 0);
	settle();
	put(b, 'B', BLOCK, 0);
	simdisk_set_hook(disk, look_after_power_loss, NULL);
	arm(SIMDISK_PWRITE, ".data", false, 1, change);
	settle();
	part();
	simdisk_set_hook(disk, NULL, NULL);
}

static void test_files_outlive_their_names(void **state)
{
	change_before_the_picture(remove_a);
}

static void test_space_outlives_its_blocks(void **state)
{
	change_before_the_picture(discard_a);
}

static void test_picture_is_not_ahead_of_the_journal(void **state)
{
	change_before_the_picture(make_late);
}

static void write_and_sync_b(void)
{
	put(b, 'B', BLOCK, 0);
	if (sync_file(fs, b))
		abort();
}

/* What comes while a sync runs is not synced by it. */
static void test_sync_during_a_sync(void **state)
{
	a = make("a");
	b = make("b");
	put(b, 'O', BLOCK, 0);
	put(a, 'A', BLOCK, 0);
	arm(SIMDISK_FDATASYNC, "journal/0", true, 1, write_and_sync_b);
	assert_int_equal(sync_file(fs, a), 0);
	part();
	crash(true);
	assert_reads(a, BLOCK, 0, "A");
	assert_reads(b, BLOCK, 0, "B");
}

static void write_b(void)
{
	put(b, 'B', BLOCK, 0);
}

static void test_write_during_a_sync(void **state)
{
	a = make("a");
	b = make("b");
	put(b, 'O', BLOCK, 0);
	put(a, 'A', BLOCK, 0);
	arm(SIMDISK_FDATASYNC, "journal/0", true, 1, write_b);
	assert_int_equal(sync_file(fs, a), 0);
	part();
	assert_int_equal(sync_file(fs, b), 0);
	crash(true);
	assert_reads(a, BLOCK, 0, "A");
	assert_reads(b, BLOCK, 0, "B");
}

static void sync_another_part(void)
{
	put(b, 'C', LARGE, MIB);
	if (sync_file(fs, b))
		abort();
	lost = simdisk_crash(disk, SIMDISK_DROP, 1);
}

/* The sync may wait for the write on its way or leave it out, but not vouch for it. */
static void test_sync_during_a_large_write(void **state)
{
	struct simdisk *old;

	a = make("a");
	put(a, 'A', LARGE, 0);
	settle();
	b = clone_of(a, "b");
	arm(SIMDISK_PWRITE, ".data", false, 1, sync_another_part);
	put(b, 'B', LARGE, 0);
	part();
	fs_abandon(fs);
	old = disk;
	disk = lost;
	open_store();
	simdisk_free(old);
	assert_reads(b, LARGE, 0, "AB");
	assert_reads(b, LARGE, MIB, "C");
}

/* ---- what nobody sees ---- */

/* A frozen layer gets blocks that both who stand on it hide. */
static void hide_what_is_new(void)
{
	uint64_t c;

	put(b, 'B', LARGE, 0);
	c = clone_of(b, "c");
	put(c, 'C', LARGE, 0);
	put(b, 'D', LARGE, 0);
	if (fs_sync(fs))
		abort();
}

/* Equal to what is below what was hidden. */
static void stop_hiding(void)
{
	put(b, 'A', LARGE, 0);
	if (fs_sync(fs))
		abort();
	lost = simdisk_crash(disk, SIMDISK_DROP, 1);
}

/* What nobody sees is not given up while the ring says that it is in place. */
static void test_unseen_waits_for_the_tail(void **state)
{
	struct simdisk *old = disk;

	a = make("a");
	put(a, 'A', LARGE, 0);
	settle();
	b = clone_of(a, "b");
	put(a, 'E', BLOCK, 0);
	arm(SIMDISK_PWRITE, "catalog.", false, 1, hide_what_is_new);
	meeting.then = stop_hiding;
	meeting.then_op = SIMDISK_PUNCH;
	meeting.then_path = ".data";
	settle();
	part();
	fs_abandon(fs);
	disk = lost;
	open_store();
	simdisk_free(old);
	assert_reads(b, LARGE, 0, "A");
}

/* ---- another base ---- */

static void make_thin_b(void)
{
	if (fs_convert(fs, b, FS_MODE_THIN, 0, NULL))
		abort();
}

/* Who found a block to be equal to what is below says so before that is to be another. */
static void test_recast_waits_for_destage(void **state)
{
	a = make("a");
	put(a, 'A', BLOCK, 0);
	settle();
	b = clone_of(a, "b");
	put(b, 'A', BLOCK, 0);
	arm(SIMDISK_PREAD, ".data", false, 1, make_thin_b);
	settle();
	part();
	assert_reads(b, BLOCK, 0, "A");
}

static void remove_b(void)
{
	if (fs_unlink(fs, FS_INO_ROOT, "b"))
		abort();
}

/* The layer goes after it was looked at, and before it is marked. */
static void test_recast_of_what_is_removed(void **state)
{
	a = make("a");
	put(a, 'A', LARGE, 0);
	b = clone_of(a, "b");
	remove_a();
	put(b, 'B', LARGE, MIB);
	settle();
	arm(SIMDISK_PREAD, ".data", false, 2, remove_b);
	assert_int_equal(fs_fold(fs, NULL), 0);
	part();
	settle();
	a = make("a");
	put(a, 'C', LARGE, 0);
	assert_int_equal(sync_file(fs, a), 0);
	crash(true);
	assert_reads(a, LARGE, 0, "C");
}

/* ---- space ---- */

static void write_anew(void)
{
	put(b, 'B', BLOCK, 0);
}

/* What a checkpoint is about to give back counts for who needs space meanwhile. */
static void test_full_disk_waits_for_a_checkpoint(void **state)
{
	struct fs_statfs st;

	a = make("a");
	b = make("b");
	put(a, 'A', MIB, 0);
	settle();
	simdisk_set_capacity(disk, simdisk_used(disk));
	assert_int_equal(fs_statfs(fs, &st), 0); /* looks how much is left */
	assert_int_equal(
		fs_fallocate(fs, a, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, MIB), 0);
	arm(SIMDISK_PWRITE, "catalog.", true, 1, write_anew);
	settle();
	part();
	assert_reads(b, BLOCK, 0, "B");
}

/* ---- who does not wait ---- */

static struct {
	pthread_mutex_t lock;
	pthread_cond_t cond;
	bool stopped, released, waited_for;
} stop = {.lock = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER};

/* As a file system below that takes its time, until somebody waits for it. */
static void stop_here(void)
{
	struct timespec until = in_ms(50 * PATIENCE_MS);

	pthread_mutex_lock(&stop.lock);
	stop.stopped = true;
	pthread_cond_broadcast(&stop.cond);
	while (!stop.released && !stop.waited_for)
		stop.waited_for = pthread_cond_timedwait(&stop.cond, &stop.lock, &until) == ETIMEDOUT;
	pthread_mutex_unlock(&stop.lock);
}

static void stop_removal(void *arg, struct simdisk *busy, const struct simdisk_call *call)
{
	if ((call->op == SIMDISK_PUNCH || call->op == SIMDISK_UNLINK) && strstr(call->path, "layer/1."))
		stop_here();
}

static void stop_sync(void *arg, struct simdisk *busy, const struct simdisk_call *call)
{
	if (call->op == SIMDISK_FDATASYNC && strstr(call->path, "layer/1."))
		stop_here();
}

static void stop_at(void (*hook)(void *, struct simdisk *, const struct simdisk_call *))
{
	stop.stopped = stop.released = stop.waited_for = false;
	simdisk_set_hook(disk, hook, NULL);
}

static void wait_until_stopped(void)
{
	pthread_mutex_lock(&stop.lock);
	while (!stop.stopped)
		pthread_cond_wait(&stop.cond, &stop.lock);
	pthread_mutex_unlock(&stop.lock);
}

/* Returns in the middle of it. */
static void begin_removal(void)
{
	stop_at(stop_removal);
	remove_a();
	assert_int_equal(checkpoint_run(fs), 0);
	wait_until_stopped();
}

/* False: it went on by itself, for somebody waited for it. */
static bool release(void)
{
	bool in_time;

	pthread_mutex_lock(&stop.lock);
	in_time = !stop.waited_for;
	stop.released = true;
	pthread_cond_broadcast(&stop.cond);
	pthread_mutex_unlock(&stop.lock);
	return in_time;
}

/* A command asks before the slow sync and in the middle of it. */
static void test_commands_wait_for_no_slow_sync(void **state)
{
	background = true;
	crash(false);
	a = make("a");
	put(a, 'A', LARGE, 0);
	stop_at(stop_sync);
	assert_int_equal(fs_sync_soon(fs), 0);
	wait_until_stopped();
	assert_int_equal(fs_sync_soon(fs), 0);
	assert_true(release());
	assert_int_equal(sync_file(fs, a), 0);
	assert_int_equal(fs_sync_soon(fs), 0);
	crash(true);
	assert_reads(a, LARGE, 0, "A");
}

static int note_file_of_a(void *arg, const char *name)
{
	*(bool *)arg |= !strncmp(name, "1.", 2);
	return 0;
}

static bool has_files_of_a(struct io *io)
{
	bool any = false;

	assert_int_equal(io->ops->list(io, "layer", note_file_of_a, &any), 0);
	return any;
}

static void test_nobody_waits_for_removal(void **state)
{
	struct simdisk *copy;

	background = true;
	crash(false);
	a = make("a");
	b = make("b");
	put(a, 'A', LARGE, 0);
	settle();
	begin_removal();
	/* More than the ring holds, so checkpoints go on, too. */
	fill_ring();
	assert_int_equal(checkpoint_run(fs), 0);
	assert_reads(b, BLOCK, 0, "B");
	assert_true(has_files_of_a(fs->io));
	/* A process that dies now leaves it to the next one. */
	copy = simdisk_clone(disk);
	fs_abandon(open_after(copy));
	assert_false(has_files_of_a(simdisk_io(copy)));
	simdisk_free(copy);
	assert_true(release());
	settle();
	assert_false(has_files_of_a(fs->io));
}

enum { HOLES = 400, PAGES = 400 };

static atomic_bool slow;
static atomic_int slow_calls;
static enum simdisk_op slow_op;
static const char *slow_path;

static void slow_down(void *arg, struct simdisk *busy, const struct simdisk_call *call)
{
	const struct timespec pause = {.tv_nsec = 25000000};

	if (call->op != slow_op || !strstr(call->path, slow_path))
		return;
	atomic_fetch_add(&slow_calls, 1);
	if (atomic_load(&slow))
		nanosleep(&pause, NULL);
}

static void be_slow(enum simdisk_op op, const char *path)
{
	slow_op = op;
	slow_path = path;
	atomic_store(&slow, true);
	atomic_store(&slow_calls, 0);
	simdisk_set_hook(disk, slow_down, NULL);
}

/* A ring that has to be emptied does not wait until all of a discard is given back. */
static void test_nobody_waits_for_holes(void **state)
{
	background = true;
	crash(false);
	a = make("a");
	b = make("b");
	for (uint64_t i = 0; i < HOLES; i++)
		put(a, 'A', BLOCK, 2 * i * BLOCK);
	settle();
	be_slow(SIMDISK_PUNCH, "layer/1.");
	assert_int_equal(fs_fallocate(fs, a, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
				 2 * HOLES * BLOCK), 0);
	fill_ring();
	fill_ring();
	assert_true(atomic_load(&slow_calls) < HOLES);
	assert_reads(b, BLOCK, 0, "B");
	atomic_store(&slow, false);
	settle();
	assert_true(atomic_load(&slow_calls) >= HOLES);
}

/* Nor until all references are counted after a mount. */
static void test_nobody_waits_for_counting(void **state)
{
	dedup = FS_DEDUP_ALL;
	crash(false);
	a = make("a");
	b = make("b");
	for (uint64_t i = 0; i < PAGES; i++)
		put(a, 'A', BLOCK, i * GF_REGION_BLOCKS * BLOCK);
	settle();
	end(false);
	background = true;
	be_slow(SIMDISK_PREAD, "layer/1.map");
	open_store();
	fill_ring();
	fill_ring();
	assert_true(atomic_load(&slow_calls) < PAGES);
	atomic_store(&slow, false);
	settle();
	assert_true(atomic_load(&slow_calls) >= PAGES);
	assert_reads(a, BLOCK, (PAGES - 1) * (uint64_t)GF_REGION_BLOCKS * BLOCK, "A");
}

/* A layer that goes while it is being counted: the next one is counted from its beginning. */
static void test_counting_goes_on_behind_what_is_removed(void **state)
{
	struct dedup_counted at = {0};
	int r;

	dedup = FS_DEDUP_ALL;
	crash(false);
	a = make("a");
	b = make("b");
	for (uint64_t i = 0; i < 6; i++)
		put(a, 'A', BLOCK, i * GF_REGION_BLOCKS * BLOCK);
	put(b, 'B', BLOCK, 0);
	put(b, 'B', BLOCK, GF_REGION_BLOCKS * BLOCK);
	settle();
	settle();
	crash(false);
	for (int i = 0; i < 4; i++)
		assert_int_equal(dedup_count_some(fs, &at, 0), 1);
	remove_a();
	assert_int_equal(checkpoint_run(fs), 0);
	assert_int_equal(checkpoint_run(fs), 0);
	while ((r = dedup_count_some(fs, &at, 0)) > 0)
		;
	assert_int_equal(r, 0);
	/* What nobody refers to is given to others. */
	a = make("a");
	for (uint64_t i = 0; i < 8; i++) {
		put(a, 'c' + i, BLOCK, i * BLOCK);
		put(a, 'c' + i, BLOCK, (20 + i) * BLOCK);
		assert_int_equal(checkpoint_run(fs), 0);
	}
	assert_reads(b, BLOCK, 0, "B");
}

static void *release_soon(void *arg)
{
	const struct timespec pause = {.tv_nsec = 100000000};

	nanosleep(&pause, NULL);
	release();
	return NULL;
}

/* Space that an earlier checkpoint gave up, and that is on its way, is there for the one that needs it. */
static void test_full_disk_waits_for_removal(void **state)
{
	pthread_t other;

	background = true;
	crash(false);
	a = make("a");
	b = make("b");
	put(a, 'A', MIB, 0);
	settle();
	begin_removal();
	for (uint64_t i = 0; i < 50; i++)
		put(b, 'B', BLOCK, i * BLOCK);
	simdisk_set_capacity(disk, simdisk_used(disk));
	pthread_create(&other, NULL, release_soon, NULL);
	settle();
	pthread_join(other, NULL);
	assert_reads(b, BLOCK, 49 * BLOCK, "B");
	simdisk_set_capacity(disk, TIB);
}

/* A moment is one for all layers together, and many small holes do not make the next large one quick. */
static void test_moments_are_short(void **state)
{
	enum { FILES = 60 };
	uint64_t files[FILES];
	char name[16];

	background = true;
	crash(false);
	for (int i = 0; i < FILES; i++) {
		snprintf(name, sizeof(name), "f%d", i);
		files[i] = make(name);
		put(files[i], 'F', BLOCK, 0);
	}
	settle();
	be_slow(SIMDISK_PUNCH, ".data");
	for (int i = 0; i < FILES; i++)
		assert_int_equal(fs_fallocate(fs, files[i], FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
					 BLOCK), 0);
	assert_int_equal(checkpoint_make(fs), 0);
	assert_true(atomic_load(&slow_calls) < FILES);
	atomic_store(&slow, false);
	settle();
	assert_true(atomic_load(&slow_calls) >= FILES);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_ring_waits_for_readers),
		T(test_places_of_the_dead_wait_for_readers),
		T(test_large_write_is_not_seen_early),
		T(test_punch_waits_for_writers),
		T(test_destage_waits_for_writers),
		T(test_destage_leaves_newer_versions),
		T(test_merging_locks_all_blocks),
		T(test_picture_has_all_of_a_write),
		T(test_picture_waits_for_a_record),
		T(test_picture_leaves_marks_in_use),
		T(test_marks_count_when_durable),
		T(test_marks_of_others_come_all_the_time),
		T(test_files_outlive_their_names),
		T(test_space_outlives_its_blocks),
		T(test_picture_is_not_ahead_of_the_journal),
		T(test_full_disk_waits_for_a_checkpoint),
		T(test_sync_during_a_sync),
		T(test_write_during_a_sync),
		T(test_sync_during_a_large_write),
		T(test_unseen_waits_for_the_tail),
		T(test_recast_waits_for_destage),
		T(test_recast_of_what_is_removed),
		T(test_commands_wait_for_no_slow_sync),
		T(test_nobody_waits_for_removal),
		T(test_nobody_waits_for_holes),
		T(test_nobody_waits_for_counting),
		T(test_counting_goes_on_behind_what_is_removed),
		T(test_full_disk_waits_for_removal),
		T(test_moments_are_short),
	};

	if (!getenv("VERBOSE"))
		log_open(LOG_TO_FILE, "/dev/null");
	return cmocka_run_group_tests(tests, NULL, NULL);
}
