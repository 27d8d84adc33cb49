/* SPDX-License-Identifier: MIT */
/*
 * The pool, against a model that keeps every reference.
 *
 * Random operations with mounts in between: after each step all figures are counted from nothing
 * and every slot's state is compared. Then single things: what is exclusive to a layer, counting in
 * any order, space that really comes back, syncs that are owed, an error at every call below, and
 * several threads. SEED=number repeats a random run.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../crash/rng.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/sizes.h"
#include "goldfs/format.h"
#include "store/pool_internal.h"
#include "store_dir.h"

/* ---- a table that watches what is owed, and fails ---- */

enum call { OPEN, PWRITE, FDATASYNC, TRUNCATE, PUNCH, MKDIR, SYNCDIR, LIST, STAT, CALLS };

static const char *const call_names[CALLS] = {
	"open", "pwritev", "fdatasync", "truncate", "punch", "mkdir", "syncdir", "list", "stat"};

#define FDS 256

static struct watch {
	const struct io_ops *below;
	unsigned calls[CALLS];
	/* The nth call from now on fails, with half of it done. */
	unsigned fail_in;
	int fail_err;
	enum call fail_call; /* CALLS: any */
	bool failed;
	enum call failed_call;
	/* What a loss of power would take. */
	bool bytes_owed[FDS];
	bool names_owed, folder_owed;
	bool sync_failed;
	void (*on_punch)(void);
	void (*on_truncate)(void);
} watch;

static int note_call(enum call call)
{
	watch.calls[call]++;
	if (!watch.fail_in || (watch.fail_call != CALLS && watch.fail_call != call) ||
		--watch.fail_in)
		return 0;
	watch.failed = true;
	watch.failed_call = call;
	return watch.fail_err;
}

static int watched_open(struct io *io, const char *path, int flags)
{
	int e = note_call(OPEN), fd;

	if (e)
		return e;
	fd = watch.below->open(io, path, flags);
	if (fd >= 0)
		assert_true(fd < FDS);
	if (flags & O_CREAT)
		watch.names_owed = true;
	return fd;
}

static int watched_pwritev(struct io *io, int fd, const struct iovec *iov, int count, uint64_t off)
{
	struct iovec half = {.iov_base = iov->iov_base, .iov_len = iov->iov_len / 2};
	int e = note_call(PWRITE);

	__atomic_store_n(&watch.bytes_owed[fd], true, __ATOMIC_SEQ_CST);
	if (e)
		watch.below->pwritev(io, fd, &half, 1, off);
	return e ? e : watch.below->pwritev(io, fd, iov, count, off);
}

/* Power is not lost here: the disk is spared. */
static int watched_fdatasync(struct io *io, int fd)
{
	int e = note_call(FDATASYNC);

	assert_false(watch.sync_failed);
	watch.sync_failed = e != 0;
	if (!e)
		__atomic_store_n(&watch.bytes_owed[fd], false, __ATOMIC_SEQ_CST);
	return e;
}

static int watched_syncdir(struct io *io, const char *path)
{
	int e = note_call(SYNCDIR);

	if (!e && strcmp(path, "pool") == 0)
		watch.names_owed = false;
	else if (!e)
		watch.folder_owed = false;
	return e;
}

static int watched_truncate(struct io *io, int fd, uint64_t size)
{
	int e = note_call(TRUNCATE);

	if (watch.on_truncate)
		watch.on_truncate();
	return e ? e : watch.below->truncate(io, fd, size);
}

static int watched_punch(struct io *io, int fd, uint64_t off, uint64_t len)
{
	int e = note_call(PUNCH);

	if (watch.on_punch)
		watch.on_punch();
	return e ? e : watch.below->punch(io, fd, off, len);
}

static int watched_mkdir(struct io *io, const char *path)
{
	int e = note_call(MKDIR);

	if (e)
		return e;
	watch.folder_owed = true;
	return watch.below->mkdir(io, path);
}

static int watched_list(struct io *io, const char *path, int (*cb)(void *arg, const char *name),
	void *arg)
{
	int e = note_call(LIST);

	return e ? e : watch.below->list(io, path, cb, arg);
}

static int watched_stat(struct io *io, int fd, struct io_stat *st)
{
	int e = note_call(STAT);

	return e ? e : watch.below->stat(io, fd, st);
}

static void fail_at(enum call call, unsigned nth, int err)
{
	watch.fail_call = call;
	watch.fail_in = nth;
	watch.fail_err = err;
	watch.failed = false;
}

static bool anything_is_owed(void)
{
	for (int fd = 0; fd < FDS; fd++)
		if (watch.bytes_owed[fd])
			return true;
	return watch.names_owed || watch.folder_owed;
}

static unsigned all_calls(void)
{
	unsigned sum = 0;

	for (int i = 0; i < CALLS; i++)
		sum += watch.calls[i];
	return sum;
}

/* ---- a pool on it ---- */

struct bench {
	struct store_dir dir;
	struct io_ops ops;
	struct io *io;
	struct pool *pool;
	struct rng rng;
	uint64_t seed;
	bool punches; /* the file system below does, block by block */
};

static struct pool *the_pool; /* for hooks */

static void open_pool(struct bench *b)
{
	assert_int_equal(pool_open(&b->pool, b->io), 0);
	the_pool = b->pool;
}

/* As a process that was killed leaves it, without having synced anything perhaps. */
static void reopen(struct bench *b)
{
	pool_free(b->pool);
	open_pool(b);
	memset(watch.bytes_owed, 0, sizeof(watch.bytes_owed));
	for (int i = 0; i < POOL_FILES; i++)
		if (b->pool->files[i])
			watch.bytes_owed[atomic_load(&b->pool->files[i]->fd)] = true;
	watch.names_owed = watch.folder_owed = true;
}

static int setup(void **state)
{
	struct bench *b = calloc(1, sizeof(*b));

	store_dir_init(&b->dir);
	b->io = b->dir.io;
	b->punches = store_dir_can_punch(&b->dir);
	memset(&watch, 0, sizeof(watch));
	watch.below = b->io->ops;
	b->ops = *b->io->ops;
	b->ops.open = watched_open;
	b->ops.pwritev = watched_pwritev;
	b->ops.fdatasync = watched_fdatasync;
	b->ops.syncdir = watched_syncdir;
	b->ops.truncate = watched_truncate;
	b->ops.punch = watched_punch;
	b->ops.mkdir = watched_mkdir;
	b->ops.list = watched_list;
	b->ops.stat = watched_stat;
	b->io->ops = &b->ops;
	b->seed = seed_from_environment(2025);
	rng_seed(&b->rng, b->seed);
	open_pool(b);
	*state = b;
	return 0;
}

static int teardown(void **state)
{
	struct bench *b = *state;

	pool_assert(b->pool);
	pool_free(b->pool);
	store_dir_release(&b->dir);
	free(b);
	return 0;
}

static uint64_t tag_of(uint64_t slot, uint64_t tag)
{
	return (slot + 1) * UINT64_C(0x9e3779b97f4a7c15) + tag;
}

static int put(struct bench *b, uint64_t slot, uint64_t count, uint64_t tag)
{
	CLEANUP_FREE uint8_t *buf = calloc(count, GF_BLOCK_SIZE);

	CLEANUP_FREE uint32_t *sums = calloc(count, sizeof(*sums));

	for (uint64_t i = 0; i < count; i++) {
		memcpy(buf + i * GF_BLOCK_SIZE, (uint64_t[]){tag_of(slot + i, tag)}, 8);
		sums[i] = (uint32_t)tag_of(slot + i, tag);
	}
	return pool_write(b->pool, slot, buf, sums, count);
}

static bool has(struct bench *b, uint64_t slot, uint64_t tag)
{
	uint64_t buf[GF_BLOCK_SIZE / 8];
	uint32_t sum;

	assert_int_equal(pool_read(b->pool, slot, buf, 1), 0);
	assert_int_equal(pool_read_sums(b->pool, slot, &sum, 1), 0);
	assert_int_equal(sum, (uint32_t)buf[0]);
	return buf[0] == tag_of(slot, tag) && buf[GF_BLOCK_SIZE / 8 - 1] == 0;
}

static uint64_t allocate(struct bench *b, uint64_t count)
{
	uint64_t slot, got;

	assert_int_equal(pool_allocate(b->pool, count, &slot, &got), 0);
	assert_int_equal(got, count);
	return slot;
}

/* Slots with bytes, each referred to once. */
static uint64_t fill(struct bench *b, uint64_t count, uint64_t layer)
{
	uint64_t slot = allocate(b, count);

	assert_int_equal(put(b, slot, count, layer), 0);
	for (uint64_t i = 0; i < count; i++)
		assert_true(pool_ref(b->pool, slot + i, layer));
	return slot;
}

static void unref_all(struct bench *b, uint64_t slot, uint64_t count, uint64_t layer)
{
	for (uint64_t i = 0; i < count; i++)
		pool_unref(b->pool, slot + i, layer);
}

static void checkpoint(struct bench *b)
{
	pool_release_dying(b->pool, pool_take_dying(b->pool));
}

static uint64_t bytes_below(struct bench *b)
{
	unsigned files;

	return store_dir_data(&b->dir, "pool", ".data", &files);
}

static struct io_stat stat_of(struct bench *b, const char *path)
{
	int fd = watch.below->open(b->io, path, O_RDONLY);
	struct io_stat st;

	assert_true(fd >= 0);
	assert_int_equal(watch.below->stat(b->io, fd, &st), 0);
	watch.below->close(b->io, fd);
	return st;
}

static void check_figures(struct bench *b, uint64_t live, uint64_t dying, uint64_t refs)
{
	struct pool_figures f;

	pool_figures(b->pool, &f);
	assert_int_equal(f.live_slots, live);
	assert_int_equal(f.dying_slots, dying);
	assert_int_equal(f.refs, refs);
	pool_assert(b->pool);
}

static void check_layer(struct bench *b, uint64_t layer, uint64_t refs, uint64_t exclusive,
	uint64_t self_refs)
{
	struct pool_layer_figures f;

	pool_layer_figures(b->pool, layer, &f);
	assert_int_equal(f.refs, refs);
	assert_int_equal(f.exclusive, exclusive);
	assert_int_equal(f.self_refs, self_refs);
}

static void check_slot(struct bench *b, uint64_t slot, uint32_t refs, bool one, uint64_t layer)
{
	uint64_t got = 0;
	bool got_one;

	assert_int_equal(pool_slot_refs(b->pool, slot, &got_one, &got), refs);
	assert_int_equal(got_one, one);
	if (one)
		assert_true(got == layer);
}

/* ---- random, against a model ---- */

#define SLOTS 4500 /* more than a chunk */
#define LAYERS 4
#define MOST 12 /* slots at once */

static const uint64_t layer_ids[LAYERS] = {1, 2, 77, UINT64_C(1) << 40};

struct model_slot {
	enum slot_state state;
	uint64_t tag;
	bool space;		/* its bytes were written, and not punched since */
	int refs[LAYERS];	/* on the disk */
	int uncounted[LAYERS];	/* of these: the pool was not told yet */
};

struct model {
	struct bench *b;
	struct model_slot slots[SLOTS];
	uint64_t mark; /* counting: slots from here on are new */
	bool counting;
	struct pool_dying *list;
	uint64_t next_tag;
	unsigned step, mounts, released; /* how much of it happened */
};

static int known_refs(const struct model_slot *s, int layer)
{
	return s->refs[layer] - s->uncounted[layer];
}

static int sum_of(const int values[LAYERS])
{
	int sum = 0;

	for (int l = 0; l < LAYERS; l++)
		sum += values[l];
	return sum;
}

/* The layer that is the only one to refer, or -1; *refs as far as the pool knows. */
static int only_layer(const struct model_slot *s, int *refs)
{
	int only = -1, others = 0;

	*refs = 0;
	for (int l = 0; l < LAYERS; l++) {
		int n = known_refs(s, l);

		*refs += n;
		others += n && only >= 0;
		if (n)
			only = l;
	}
	return *refs > 0 && !others ? only : -1;
}

static void check_model(const struct model *m)
{
	int64_t live = 0, dying = 0, refs = 0, of[LAYERS] = {0};
	int64_t exclusive[LAYERS] = {0}, self_refs[LAYERS] = {0};

	for (uint64_t i = 0; i < SLOTS; i++) {
		const struct model_slot *s = &m->slots[i];
		int n, only = only_layer(s, &n);

		if (pool_state_locked(m->b->pool, i) != s->state)
			fail_msg("SEED=%" PRIu64 ", step %u: slot %" PRIu64
				" is in state %d, not %d", m->b->seed, m->step, i,
				pool_state_locked(m->b->pool, i), s->state);
		live += n > 0;
		refs += n;
		dying += s->state == SLOT_DYING || s->state == SLOT_TAKEN;
		for (int l = 0; l < LAYERS; l++)
			of[l] += known_refs(s, l);
		if (only >= 0) {
			exclusive[only]++;
			self_refs[only] += n - 1;
		}
	}
	check_figures(m->b, (uint64_t)live, (uint64_t)dying, refs > 0 ? (uint64_t)refs : 0);
	for (int l = 0; l < LAYERS; l++)
		check_layer(m->b, layer_ids[l], of[l] > 0 ? (uint64_t)of[l] : 0,
			(uint64_t)exclusive[l], (uint64_t)self_refs[l]);
}

/* One slot more closely. */
static void check_one(const struct model *m, uint64_t slot)
{
	const struct model_slot *s = &m->slots[slot];
	int refs, only = only_layer(s, &refs);

	check_slot(m->b, slot, refs > 0 ? (uint32_t)refs : 0, only >= 0,
		only >= 0 ? layer_ids[only] : 0);
	if (sum_of(s->refs) && !has(m->b, slot, s->tag))
		fail_msg("SEED=%" PRIu64 ", step %u: bytes of slot %" PRIu64, m->b->seed, m->step,
			slot);
}

/* A slot in one of these states from a random place on; SLOTS: none. */
static uint64_t find_slot(struct model *m, enum slot_state a, enum slot_state b)
{
	uint64_t start = rng_below(&m->b->rng, SLOTS);

	for (uint64_t i = 0; i < SLOTS; i++) {
		uint64_t slot = (start + i) % SLOTS;

		if (m->slots[slot].state == a || m->slots[slot].state == b)
			return slot;
	}
	return SLOTS;
}

static void do_allocate(struct model *m)
{
	uint64_t want = 1 + rng_below(&m->b->rng, MOST), slot, got;

	/* Not beyond what the model knows. */
	for (slot = SLOTS - 2 * MOST; slot < SLOTS; slot++)
		if (m->slots[slot].state != SLOT_FREE)
			return;
	assert_int_equal(pool_allocate(m->b->pool, want, &slot, &got), 0);
	assert_in_range(got, 1, want);
	assert_true(slot + got <= SLOTS);
	if (m->counting)
		assert_true(slot >= m->mark);
	for (uint64_t i = 0; i < got; i++) {
		assert_int_equal(m->slots[slot + i].state, SLOT_FREE);
		m->slots[slot + i].state = SLOT_CLAIMED;
	}
}

static void do_write(struct model *m)
{
	uint64_t slot = find_slot(m, SLOT_CLAIMED, SLOT_CLAIMED), tag = m->next_tag++, n = 0;

	while (n < 8 && slot + n < SLOTS && m->slots[slot + n].state == SLOT_CLAIMED) {
		struct model_slot *s = &m->slots[slot + n++];

		s->state = SLOT_WRITTEN;
		s->space = true;
		s->tag = tag;
	}
	if (n)
		assert_int_equal(put(m->b, slot, n, tag), 0);
}

static void do_ref(struct model *m)
{
	enum slot_state kind = rng_below(&m->b->rng, 3) ? SLOT_LIVE : SLOT_WRITTEN;
	uint64_t slot = find_slot(m, kind, kind);
	int l = (int)rng_below(&m->b->rng, LAYERS);
	struct model_slot *s = &m->slots[slot % SLOTS];

	/* Nobody has a reason to refer to what the disk does not refer to. */
	if (slot == SLOTS || (kind == SLOT_LIVE && !sum_of(s->refs)))
		return;
	assert_true(pool_ref(m->b->pool, slot, layer_ids[l]));
	s->state = SLOT_LIVE;
	s->refs[l]++;
}

static void do_unref(struct model *m)
{
	uint64_t slot = find_slot(m, SLOT_LIVE, SLOT_LIVE);
	struct model_slot *s = &m->slots[slot % SLOTS];
	int l = (int)rng_below(&m->b->rng, LAYERS);

	if (slot == SLOTS || !s->refs[l])
		return;
	pool_unref(m->b->pool, slot, layer_ids[l]);
	s->refs[l]--;
	if (!m->counting && !sum_of(s->refs))
		s->state = SLOT_DYING;
}

static void do_unclaim(struct model *m)
{
	uint64_t slot = find_slot(m, SLOT_CLAIMED, SLOT_WRITTEN);

	if (slot == SLOTS)
		return;
	pool_unclaim(m->b->pool, slot, 1);
	m->slots[slot].state =
		m->slots[slot].state == SLOT_CLAIMED ? SLOT_FREE : SLOT_DYING;
}

static void do_ref_what_is_gone(struct model *m)
{
	uint64_t slot = find_slot(m, SLOT_DYING, SLOT_TAKEN);

	if (slot != SLOTS)
		assert_false(pool_ref(m->b->pool, slot, 1));
	slot = find_slot(m, SLOT_FREE, SLOT_FREE);
	if (slot != SLOTS)
		assert_false(pool_ref(m->b->pool, slot, 1));
}

static void set_all(struct model *m, enum slot_state from, enum slot_state to)
{
	for (uint64_t i = 0; i < SLOTS; i++) {
		if (m->slots[i].state != from)
			continue;
		m->slots[i].state = to;
		if (to == SLOT_FREE)
			m->slots[i].space = false;
	}
}

static void check_space(struct model *m)
{
	uint64_t slots = 0;

	for (uint64_t i = 0; i < SLOTS; i++)
		slots += m->slots[i].space;
	if (m->b->punches)
		assert_int_equal(bytes_below(m->b), slots * GF_BLOCK_SIZE);
}

static void do_checkpoint(struct model *m)
{
	if (!m->list) {
		m->list = pool_take_dying(m->b->pool);
		if (m->counting)
			assert_null(m->list);
		else
			set_all(m, SLOT_DYING, SLOT_TAKEN);
	} else if (rng_below(&m->b->rng, 3)) {
		pool_release_dying(m->b->pool, m->list);
		m->list = NULL;
		set_all(m, SLOT_TAKEN, SLOT_FREE);
		check_space(m);
		m->released++;
	} else {
		pool_give_back_dying(m->b->pool, m->list);
		m->list = NULL;
		set_all(m, SLOT_TAKEN, SLOT_DYING);
	}
}

static void do_count_some(struct model *m)
{
	uint64_t start = rng_below(&m->b->rng, SLOTS);
	int left = 1000;

	for (uint64_t i = 0; i < SLOTS; i++) {
		uint64_t slot = (start + i) % SLOTS;
		struct model_slot *s = &m->slots[slot];

		for (int l = 0; l < LAYERS; l++) {
			for (; s->uncounted[l] && left; left--, s->uncounted[l]--)
				assert_true(pool_ref(m->b->pool, slot, layer_ids[l]));
		}
	}
}

static bool all_counted(const struct model *m)
{
	for (uint64_t i = 0; i < SLOTS; i++)
		if (sum_of(m->slots[i].uncounted))
			return false;
	return true;
}

static void do_counted(struct model *m)
{
	if (!m->counting || !all_counted(m))
		return;
	assert_true(pool_is_counting(m->b->pool));
	pool_counted(m->b->pool);
	assert_false(pool_is_counting(m->b->pool));
	m->counting = false;
	for (uint64_t i = 0; i < SLOTS; i++)
		if (m->slots[i].state == SLOT_LIVE && !sum_of(m->slots[i].refs))
			m->slots[i].state = SLOT_DYING;
}

static void do_sync(struct model *m)
{
	assert_int_equal(pool_sync(m->b->pool), 0);
	assert_false(anything_is_owed());
}

/* The maps are what is left. */
static void do_reopen(struct model *m)
{
	if (m->counting)
		return;
	free(m->list);
	m->list = NULL;
	reopen(m->b);
	m->mark = stat_of(m->b, "pool/0.data").size / GF_BLOCK_SIZE;
	m->counting = m->mark > 0;
	m->mounts++;
	for (uint64_t i = 0; i < SLOTS; i++) {
		struct model_slot *s = &m->slots[i];

		assert_true(i < m->mark || !s->space);
		s->state = i < m->mark ? SLOT_LIVE : SLOT_FREE;
		memcpy(s->uncounted, s->refs, sizeof(s->refs));
	}
}

static void random_steps(struct model *m, unsigned steps)
{
	for (; steps--; m->step++) {
		uint64_t dice = rng_below(&m->b->rng, 100);

		if (dice < 14)
			do_allocate(m);
		else if (dice < 28)
			do_write(m);
		else if (dice < 46)
			do_ref(m);
		else if (dice < 75)
			do_unref(m);
		else if (dice < 79)
			do_unclaim(m);
		else if (dice < 85)
			do_ref_what_is_gone(m);
		else if (dice < 91)
			do_checkpoint(m);
		else if (dice < 93)
			do_sync(m);
		else if (dice < 97)
			do_count_some(m);
		else if (dice < 99)
			do_counted(m);
		else
			do_reopen(m);
		check_model(m);
		for (int i = 0; i < 4; i++)
			check_one(m, rng_below(&m->b->rng, SLOTS));
	}
}

/* Nearly a chunk, so that what follows is on both sides of its end. */
static void fill_a_chunk(struct model *m)
{
	uint64_t count = CHUNK_SLOTS - 100;

	assert_int_equal(fill(m->b, count, layer_ids[0]), 0);
	for (uint64_t i = 0; i < count; i++) {
		m->slots[i].state = SLOT_LIVE;
		m->slots[i].space = true;
		m->slots[i].tag = layer_ids[0];
		m->slots[i].refs[0] = 1;
	}
}

static void empty_it(struct model *m)
{
	while (!all_counted(m))
		do_count_some(m);
	do_counted(m);
	for (uint64_t i = 0; i < SLOTS; i++) {
		struct model_slot *s = &m->slots[i];

		if (s->state == SLOT_CLAIMED || s->state == SLOT_WRITTEN)
			pool_unclaim(m->b->pool, i, 1);
		for (int l = 0; l < LAYERS; l++)
			while (s->refs[l]--)
				pool_unref(m->b->pool, i, layer_ids[l]);
	}
	pool_release_dying(m->b->pool, m->list);
	checkpoint(m->b);
	check_figures(m->b, 0, 0, 0);
	assert_int_equal(stat_of(m->b, "pool/0.data").size, 0);
	assert_null(m->b->pool->layers);
}

static void random_changes_agree_with_a_model(void **state)
{
	struct model *m = calloc(1, sizeof(*m));

	m->b = *state;
	print_message("SEED=%" PRIu64 "\n", m->b->seed);
	fill_a_chunk(m);
	random_steps(m, 6000);
	print_message("%u mounts, %u lists released\n", m->mounts, m->released);
	assert_true(m->mounts > 3 && m->released > 10);
	empty_it(m);
	free(m);
}

/* ---- allocation ---- */

static void low_slots_and_long_runs_are_given_out_first(void **state)
{
	struct bench *b = *state;
	uint64_t slot, got;

	assert_int_equal(allocate(b, 10), 0);
	assert_int_equal(allocate(b, 10), 10);
	pool_unclaim(b->pool, 3, 2);
	/* Two are too few, but enough for two. */
	assert_int_equal(allocate(b, 10), 20);
	assert_int_equal(allocate(b, 1), 3);
	assert_int_equal(allocate(b, 1), 4);
	assert_int_equal(allocate(b, 1), 30);
	pool_unclaim(b->pool, 0, 3);
	assert_int_equal(allocate(b, 3), 0);
	/* A chunk is left as it is for want of a few slots, but not for ever. */
	assert_int_equal(pool_allocate(b->pool, UINT64_MAX, &slot, &got), 0);
	assert_true(slot == CHUNK_SLOTS && got == CHUNK_SLOTS);
	pool_unclaim(b->pool, 0, 31);
	pool_unclaim(b->pool, CHUNK_SLOTS, CHUNK_SLOTS);
	check_figures(b, 0, 0, 0);
	assert_null(b->pool->files[0]->heads[0].chunk);
	assert_int_equal(allocate(b, 1), 0);
	pool_unclaim(b->pool, 0, 1);
}

static void a_short_run_does_when_longer_ones_are_far(void **state)
{
	struct bench *b = *state;
	uint64_t chunks = 20, slot, got;

	for (uint64_t i = 0; i < chunks; i++)
		allocate(b, CHUNK_SLOTS);
	pool_unclaim(b->pool, 7, 2);
	pool_unclaim(b->pool, 100, 1);
	assert_int_equal(pool_allocate(b->pool, 16, &slot, &got), 0);
	assert_true(slot == 7 && got == 2);
	assert_int_equal(pool_allocate(b->pool, 16, &slot, &got), 0);
	assert_true(slot == 100 && got == 1);
	assert_int_equal(allocate(b, 16), chunks * CHUNK_SLOTS);
}

/* ---- references ---- */

static void what_is_of_one_layer_is_known(void **state)
{
	struct bench *b = *state;
	uint64_t s = fill(b, 3, 5);

	check_slot(b, s, 1, true, 5);
	check_layer(b, 5, 3, 3, 0);
	for (int i = 0; i < 1000; i++)
		assert_true(pool_ref(b->pool, s, 5));
	check_slot(b, s, 1001, true, 5);
	check_layer(b, 5, 1003, 3, 1000);
	assert_true(pool_ref(b->pool, s, 6));
	check_slot(b, s, 1002, false, 0);
	check_layer(b, 5, 1003, 2, 0);
	check_layer(b, 6, 1, 0, 0);
	/* The mean of the numbers is one that refers, too. */
	assert_true(pool_ref(b->pool, s + 1, 4));
	assert_true(pool_ref(b->pool, s + 1, 6));
	check_slot(b, s + 1, 3, false, 0);
	check_layer(b, 5, 1003, 1, 0);
	pool_unref(b->pool, s + 1, 5);
	pool_unref(b->pool, s + 1, 4);
	check_slot(b, s + 1, 1, true, 6);
	check_layer(b, 6, 2, 1, 0);
	for (int i = 0; i < 1001; i++)
		pool_unref(b->pool, s, 5);
	check_slot(b, s, 1, true, 6);
	check_layer(b, 5, 1, 1, 0);
	check_layer(b, 6, 2, 2, 0);
	check_figures(b, 3, 0, 3);
	pool_unref(b->pool, s, 6);
	pool_unref(b->pool, s + 1, 6);
	check_layer(b, 6, 0, 0, 0);
	pool_forget_layer(b->pool, 6);
	check_slot(b, s, 0, false, 0);
	check_figures(b, 1, 2, 1);
}

static unsigned lines;

static void count_line(void *arg, const char *text)
{
	(void)arg;
	(void)text;
	lines++;
}

static void references_that_nobody_has_change_nothing(void **state)
{
	struct bench *b = *state;
	uint64_t s = fill(b, 2, 5);

	lines = 0;
	log_divert(count_line, NULL);
	pool_unref(b->pool, s + 2, 5);
	pool_unref(b->pool, UINT64_C(1) << 47, 5);
	pool_unref(b->pool, s, 9);
	unref_all(b, s, 1, 5);
	pool_unref(b->pool, s, 5);
	assert_int_equal(lines, 4);
	check_figures(b, 1, 1, 1);
	assert_false(pool_ref(b->pool, UINT64_C(1) << 47, 5));
	assert_false(pool_ref(b->pool, UINT64_MAX, 5));
	check_slot(b, UINT64_MAX, 0, false, 0);
	pool_forget_layer(b->pool, 5);
	assert_int_equal(lines, 5);
	assert_int_equal(pool_read(b->pool, UINT64_C(1) << 47, (char[GF_BLOCK_SIZE]){0}, 1),
		-EUCLEAN);
	log_divert(NULL, NULL);
	check_layer(b, 5, 1, 1, 0);
}

/* ---- counting ---- */

static void nothing_is_free_before_all_is_counted(void **state)
{
	struct bench *b = *state;
	uint64_t s = fill(b, 8, 1), fresh;

	assert_false(pool_is_counting(b->pool));
	reopen(b);
	assert_true(pool_is_counting(b->pool));
	check_figures(b, 0, 0, 0);
	fresh = fill(b, 2, 3);
	assert_int_equal(fresh, s + 8);
	unref_all(b, fresh, 1, 3);
	/* Given up before it was counted. */
	pool_unref(b->pool, s, 1);
	pool_unref(b->pool, s + 1, 1);
	assert_true(pool_ref(b->pool, s + 1, 2));
	check_slot(b, s, 0, false, 0);
	check_slot(b, s + 1, 0, false, 0);
	assert_null(pool_take_dying(b->pool));
	for (uint64_t i = 0; i < 6; i++)
		assert_true(pool_ref(b->pool, s + i, 1));
	check_slot(b, s + 1, 1, true, 2);
	pool_forget_layer(b->pool, 77);
	assert_false(pool_ref(b->pool, fresh + 2, 1));
	pool_counted(b->pool);
	assert_false(pool_is_counting(b->pool));
	/* s, s + 6, s + 7, fresh. */
	check_figures(b, 6, 4, 6);
	check_layer(b, 1, 4, 4, 0);
	check_layer(b, 2, 1, 1, 0);
	check_layer(b, 3, 1, 1, 0);
	assert_false(pool_ref(b->pool, s, 1));
	checkpoint(b);
	check_figures(b, 6, 0, 6);
	assert_int_equal(allocate(b, 1), s);
	for (uint64_t i = 1; i < 6; i++)
		assert_true(has(b, s + i, 1));
	pool_counted(b->pool);
	check_figures(b, 6, 0, 6);
}

static void a_claim_outlasts_the_counting(void **state)
{
	struct bench *b = *state;
	uint64_t slot;

	fill(b, 1, 1);
	reopen(b);
	slot = allocate(b, 3);
	assert_int_equal(put(b, slot + 1, 2, 1), 0);
	pool_unclaim(b->pool, slot + 2, 1);
	assert_null(pool_take_dying(b->pool));
	pool_counted(b->pool);
	check_figures(b, 0, 2, 0);
	assert_true(pool_ref(b->pool, slot, 1));
	assert_true(pool_ref(b->pool, slot + 1, 1));
	checkpoint(b);
	check_figures(b, 2, 0, 2);
}

/* 256 GiB of holes: what was not referred to needs no memory, and a run ends with its file. */
static void a_large_pool_that_nobody_refers_to(void **state)
{
	struct bench *b = *state;
	uint64_t slot;
	int fd;

	fill(b, 1, 1);
	fd = watch.below->open(b->io, "pool/0.data", O_RDWR);
	if (watch.below->truncate(b->io, fd, POOL_FILE_SLOTS * GF_BLOCK_SIZE))
		skip();
	watch.below->close(b->io, fd);
	reopen(b);
	slot = fill(b, 2, 7);
	assert_int_equal(slot, POOL_FILE_SLOTS);
	assert_int_equal(stat_of(b, "pool/1.data").size, 2 * GF_BLOCK_SIZE);
	assert_true(pool_ref(b->pool, POOL_FILE_SLOTS - 1, 7));
	unref_all(b, slot, 1, 7);
	pool_counted(b->pool);
	check_figures(b, 2, POOL_FILE_SLOTS, 2);
	checkpoint(b);
	check_figures(b, 2, 0, 2);
	assert_int_equal(bytes_below(b), b->punches ? GF_BLOCK_SIZE : 3 * GF_BLOCK_SIZE);
	assert_int_equal(allocate(b, 1), 0);
	pool_unclaim(b->pool, 0, 1);
	unref_all(b, POOL_FILE_SLOTS - 1, 1, 7);
	checkpoint(b);
	assert_int_equal(stat_of(b, "pool/0.data").size, 0);
	assert_true(has(b, slot + 1, 7));
	unref_all(b, slot + 1, 1, 7);
	checkpoint(b);
	assert_int_equal(stat_of(b, "pool/1.data").size, 0);
	reopen(b);
	assert_false(pool_is_counting(b->pool));
}

static void other_names_are_none_of_ours(void **state)
{
	struct bench *b = *state;
	static const char *const names[] = {"pool/00.data", "pool/0.dat", "pool/x.data",
		"pool/.data", "pool/-1.data", "pool/4096.data", "pool/18446744073709551616.data"};

	assert_int_equal(mkdirat(b->dir.scratch.dirfd, "pool", 0700), 0);
	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		scratch_fill(&b->dir.scratch, names[i], 5 * GF_BLOCK_SIZE, 1);
	reopen(b);
	assert_false(pool_is_counting(b->pool));
	assert_int_equal(allocate(b, 1), 0);
	/* Half a block is one. */
	scratch_fill(&b->dir.scratch, "pool/1.data", GF_BLOCK_SIZE + 1, 1);
	reopen(b);
	assert_true(pool_is_counting(b->pool));
	assert_int_equal(allocate(b, 1), POOL_FILE_SLOTS + 2);
	/* There is no such file. */
	assert_false(pool_ref(b->pool, 0, 1));
	assert_true(pool_ref(b->pool, POOL_FILE_SLOTS + 1, 1));
}

/* ---- space ---- */

static void space_comes_back(void **state)
{
	struct bench *b = *state;
	uint64_t s = fill(b, 100, 1);
	struct pool_dying *list;

	if (!b->punches)
		skip();
	assert_int_equal(bytes_below(b), 100 * GF_BLOCK_SIZE);
	unref_all(b, s + 10, 30, 1);
	check_figures(b, 70, 30, 70);
	list = pool_take_dying(b->pool);
	assert_non_null(list);
	assert_int_equal(list->count, 1);
	assert_null(pool_take_dying(b->pool));
	/* Dies too late for this one. */
	unref_all(b, s + 40, 1, 1);
	pool_give_back_dying(b->pool, list);
	assert_int_equal(bytes_below(b), 100 * GF_BLOCK_SIZE);
	assert_int_equal(allocate(b, 1), s + 100);
	list = pool_take_dying(b->pool);
	unref_all(b, s + 41, 1, 1);
	pool_release_dying(b->pool, list);
	check_figures(b, 68, 1, 68);
	assert_int_equal(bytes_below(b), 69 * GF_BLOCK_SIZE);
	assert_true(stat_of(b, "pool/0.data").allocated <= 80 * GF_BLOCK_SIZE);
	assert_int_equal(stat_of(b, "pool/0.data").size, 100 * GF_BLOCK_SIZE);
	assert_int_equal(allocate(b, 31), s + 10);
	pool_release_dying(b->pool, NULL);
	pool_give_back_dying(b->pool, NULL);
}

static void an_empty_pool_takes_no_space(void **state)
{
	struct bench *b = *state;
	uint64_t s = fill(b, 5000 - CHUNK_SLOTS, 1), t = fill(b, CHUNK_SLOTS, 1);

	assert_int_equal(t, CHUNK_SLOTS);
	unref_all(b, t + 10, CHUNK_SLOTS - 10, 1);
	checkpoint(b);
	assert_int_equal(stat_of(b, "pool/0.data").size, (t + 10) * GF_BLOCK_SIZE);
	unref_all(b, s, 5000 - CHUNK_SLOTS, 1);
	unref_all(b, t, 10, 1);
	checkpoint(b);
	assert_int_equal(stat_of(b, "pool/0.data").size, 0);
	assert_int_equal(stat_of(b, "pool/0.data").allocated, 0);
	check_figures(b, 0, 0, 0);
	/* And is used again. */
	assert_int_equal(fill(b, 1, 1), 0);
	assert_true(has(b, 0, 1));
}

/* The power took the name of the one file and not of the other. */
static void checksums_of_nothing_take_no_space(void **state)
{
	struct bench *b = *state;

	fill(b, 10, 1);
	pool_free(b->pool);
	assert_int_equal(unlinkat(b->dir.scratch.dirfd, "pool/0.data", 0), 0);
	open_pool(b);
	pool_counted(b->pool);
	checkpoint(b);
	assert_int_equal(stat_of(b, "pool/0.sum").size, 0);
	assert_int_equal(fill(b, 1, 1), 0);
	assert_true(has(b, 0, 1));
}

static void what_was_claimed_in_vain_comes_back(void **state)
{
	struct bench *b = *state;
	uint64_t s = allocate(b, 4);

	pool_unclaim(b->pool, s, 2);
	check_figures(b, 0, 0, 0);
	assert_int_equal(put(b, s + 2, 2, 1), 0);
	pool_unclaim(b->pool, s + 2, 2);
	check_figures(b, 0, 2, 0);
	assert_false(pool_ref(b->pool, s + 2, 1));
	checkpoint(b);
	check_figures(b, 0, 0, 0);
	assert_int_equal(stat_of(b, "pool/0.data").size, 0);
}

/* A hint may name a slot that somebody is about to fill: that is his alone until he refers to it. */
static void what_is_claimed_is_not_found(void **state)
{
	struct bench *b = *state;
	uint64_t s = allocate(b, 1);

	assert_false(pool_ref_live(b->pool, s, 2));
	assert_int_equal(put(b, s, 1, 1), 0);
	assert_false(pool_ref_live(b->pool, s, 2));
	assert_true(pool_ref(b->pool, s, 1));
	assert_true(pool_ref_live(b->pool, s, 2));
	check_figures(b, 1, 0, 2);
	pool_unref(b->pool, s, 1);
	pool_unref(b->pool, s, 2);
	check_figures(b, 0, 1, 0);
	assert_false(pool_ref_live(b->pool, s, 2));
	checkpoint(b);
	assert_false(pool_ref_live(b->pool, s, 2));
	check_figures(b, 0, 0, 0);
}

static uint64_t met;
static int met_result;

static void allocate_meanwhile(void)
{
	uint64_t got;

	met_result = pool_allocate(the_pool, 1, &met, &got);
	watch.on_punch = watch.on_truncate = NULL;
}

static void slots_are_not_used_while_they_are_punched(void **state)
{
	struct bench *b = *state;
	uint64_t s = fill(b, 3, 1);

	unref_all(b, s + 1, 1, 1);
	watch.on_punch = allocate_meanwhile;
	checkpoint(b);
	assert_int_equal(met_result, 0);
	assert_int_equal(met, s + 3);
	assert_int_equal(allocate(b, 1), s + 1);
}

static void a_tail_is_not_used_while_it_is_cut_off(void **state)
{
	struct bench *b = *state;
	uint64_t s = fill(b, 10, 1);

	unref_all(b, s + 4, 6, 1);
	watch.on_truncate = allocate_meanwhile;
	checkpoint(b);
	/* Nor anything behind it: bytes that get there meanwhile are cut off, too. */
	assert_int_equal(met_result, -EAGAIN);
	assert_int_equal(stat_of(b, "pool/0.data").size, (s + 4) * GF_BLOCK_SIZE);
	assert_int_equal(allocate(b, 1), s + 4);
}

struct unused {
	uint64_t slot[10], count[10];
	unsigned n;
};

static int note_unused(void *arg, uint64_t slot, uint64_t count)
{
	struct unused *u = arg;

	u->slot[u->n] = slot;
	u->count[u->n++] = count;
	return u->n == 10 ? -ECANCELED : 0;
}

static void space_that_nobody_uses_is_found(void **state)
{
	struct bench *b = *state;
	struct unused u = {.n = 0};
	uint64_t s = fill(b, 20, 1);

	assert_int_equal(pool_each_unused(b->pool, note_unused, &u), 0);
	assert_int_equal(u.n, 0);
	unref_all(b, s + 3, 4, 1);
	unref_all(b, s + 10, 1, 1);
	/* As if the power had gone before the holes were there. */
	fail_at(PUNCH, 1, -EOPNOTSUPP);
	checkpoint(b);
	assert_true(watch.failed);
	assert_int_equal(pool_each_unused(b->pool, note_unused, &u), 0);
	if (!b->punches)
		skip();
	assert_int_equal(u.n, 1);
	assert_true(u.slot[0] == s + 3 && u.count[0] == 4);
	u.n = 9;
	assert_int_equal(pool_each_unused(b->pool, note_unused, &u), -ECANCELED);
}

/* ---- syncs and errors ---- */

static void what_was_written_is_synced_once(void **state)
{
	struct bench *b = *state;
	unsigned calls = all_calls();
	uint64_t s;

	/* Nothing there, nothing to do. */
	assert_int_equal(pool_sync(b->pool), 0);
	assert_int_equal(all_calls(), calls);
	s = fill(b, 2, 1);
	assert_true(watch.folder_owed && watch.names_owed);
	assert_int_equal(pool_sync(b->pool), 0);
	assert_false(anything_is_owed());
	assert_int_equal(watch.calls[SYNCDIR], 2);
	calls = all_calls();
	assert_int_equal(pool_sync(b->pool), 0);
	assert_int_equal(all_calls(), calls);
	fill(b, 1, 1);
	assert_int_equal(pool_sync(b->pool), 0);
	assert_false(anything_is_owed());
	assert_int_equal(watch.calls[SYNCDIR], 2);
	/* What another process left. */
	fill(b, 1, 1);
	reopen(b);
	assert_true(anything_is_owed());
	assert_int_equal(pool_sync(b->pool), 0);
	assert_false(anything_is_owed());
	calls = all_calls();
	assert_int_equal(pool_sync(b->pool), 0);
	assert_int_equal(all_calls(), calls);
	assert_true(has(b, s, 1));
}

static void an_error_of_a_sync_stays(void **state)
{
	struct bench *b = *state;
	unsigned calls;

	fill(b, 1, 1);
	fail_at(FDATASYNC, 1, -EIO);
	assert_false(pool_failed(b->pool));
	assert_int_equal(pool_sync(b->pool), -EIO);
	assert_true(pool_failed(b->pool));
	calls = all_calls();
	assert_int_equal(pool_sync(b->pool), -EIO);
	assert_int_equal(all_calls(), calls);
	fill(b, 1, 1);
	assert_int_equal(pool_sync(b->pool), -EIO);
	assert_int_equal(watch.calls[FDATASYNC], 1);
	assert_true(pool_failed(b->pool));
}

static void a_full_disk_is_no_failure(void **state)
{
	struct bench *b = *state;
	uint64_t s = allocate(b, 2);

	fail_at(PWRITE, 1, -ENOSPC);
	assert_int_equal(put(b, s, 2, 1), -ENOSPC);
	assert_false(pool_failed(b->pool));
	assert_int_equal(pool_sync(b->pool), 0);
	/* Half of it may be there. */
	pool_unclaim(b->pool, s, 2);
	check_figures(b, 0, 2, 0);
	checkpoint(b);
	assert_int_equal(stat_of(b, "pool/0.data").size, 0);
	assert_int_equal(fill(b, 2, 1), s);
	assert_int_equal(pool_sync(b->pool), 0);
}

/* One life of a pool. Whatever fails is told, and nothing is lost track of. */
static void live_through_an_error(struct bench *b)
{
	struct pool *pool;
	uint64_t slot, got;
	int e = pool_open(&pool, b->io);

	if (e) {
		assert_int_equal(e, watch.fail_err);
		return;
	}
	pool_free(b->pool);
	b->pool = pool;
	if (pool_is_counting(b->pool))
		pool_counted(b->pool);
	checkpoint(b);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(pool_allocate(b->pool, 4, &slot, &got), 0);
		e = put(b, slot, got, 1);
		if (e)
			assert_int_equal(e, watch.fail_err);
		e = pool_sync(b->pool) ? -1 : e;
		assert_int_equal(pool_failed(b->pool), e == -1);
		if (!e)
			assert_false(anything_is_owed());
		if (e) {
			pool_unclaim(b->pool, slot, got);
			continue;
		}
		for (uint64_t n = 0; n < got; n++)
			assert_true(pool_ref(b->pool, slot + n, 1) && has(b, slot + n, 1));
		unref_all(b, slot, got - 1 + i, 1);
		checkpoint(b);
		if (i)
			continue;
		assert_true(has(b, slot + got - 1, 1));
		unref_all(b, slot + got - 1, 1, 1);
	}
	checkpoint(b);
	check_figures(b, 0, 0, 0);
}

static void every_call_fails_once(void **state)
{
	static const int errors[] = {-EIO, -ENOSPC};
	struct bench *b = *state;
	unsigned tried = 0, of[CALLS] = {0};

	lines = 0;
	log_divert(count_line, NULL);
	for (unsigned i = 0; i < 2 * ARRAY_SIZE(errors); i++) {
		watch.failed = true;
		for (unsigned n = 1; watch.failed; n++) {
			watch.sync_failed = false;
			/* With a file there, and without. */
			if (i % 2 == 0) {
				(void)unlinkat(b->dir.scratch.dirfd, "pool/0.data", 0);
				(void)unlinkat(b->dir.scratch.dirfd, "pool", AT_REMOVEDIR);
			} else {
				(void)mkdirat(b->dir.scratch.dirfd, "pool", 0700);
				scratch_fill(&b->dir.scratch, "pool/0.data", 9 * GF_BLOCK_SIZE, 1);
			}
			memset(watch.bytes_owed, 0, sizeof(watch.bytes_owed));
			fail_at(CALLS, n, errors[i / 2]);
			live_through_an_error(b);
			tried += watch.failed;
			if (watch.failed)
				of[watch.failed_call]++;
			pool_assert(b->pool);
			assert_true(n < 100);
		}
		watch.fail_in = 0;
	}
	log_divert(NULL, NULL);
	for (int i = 0; i < CALLS; i++)
		if (!of[i])
			fail_msg("%s never failed", call_names[i]);
	assert_true(tried > 40);
}

/* ---- threads ---- */

#define THREADS 3
#define OWN 64

struct worker {
	struct bench *b;
	pthread_t thread;
	struct rng rng;
	uint64_t layer;
	uint64_t slots[OWN];
	unsigned count;
};

static atomic_bool workers_end;

static void add_slots(struct worker *w)
{
	uint64_t slot, got;
	int r;

	do
		r = pool_allocate(w->b->pool, 1 + rng_below(&w->rng, 4), &slot, &got);
	while (r == -EAGAIN && sched_yield() == 0);
	assert_int_equal(r, 0);
	if (w->count + got > OWN || rng_below(&w->rng, 5) == 0) {
		if (got > 1)
			assert_int_equal(put(w->b, slot, 1, w->layer), 0);
		pool_unclaim(w->b->pool, slot, got);
		return;
	}
	assert_int_equal(put(w->b, slot, got, w->layer), 0);
	for (uint64_t i = 0; i < got; i++) {
		assert_true(pool_ref(w->b->pool, slot + i, w->layer));
		w->slots[w->count++] = slot + i;
	}
}

static void drop_slot(struct worker *w)
{
	unsigned i = (unsigned)rng_below(&w->rng, w->count);
	uint64_t slot = w->slots[i], layer = 100 + rng_below(&w->rng, 3);

	/* Somebody else's for a moment. */
	assert_true(pool_ref(w->b->pool, slot, layer));
	assert_true(has(w->b, slot, w->layer));
	pool_unref(w->b->pool, slot, w->layer);
	assert_true(has(w->b, slot, w->layer));
	pool_unref(w->b->pool, slot, layer);
	w->slots[i] = w->slots[--w->count];
}

static void *work(void *arg)
{
	struct worker *w = arg;

	for (int i = 0; i < 4000; i++) {
		struct pool_figures f;
		struct pool_layer_figures lf;

		if (!w->count || rng_below(&w->rng, 2))
			add_slots(w);
		else
			drop_slot(w);
		pool_figures(w->b->pool, &f);
		assert_true(f.refs >= w->count);
		pool_layer_figures(w->b->pool, w->layer, &lf);
		assert_int_equal(lf.refs, w->count);
		assert_int_equal(lf.exclusive, w->count);
	}
	while (w->count)
		drop_slot(w);
	return NULL;
}

static void *make_checkpoints(void *arg)
{
	struct bench *b = arg;

	for (int i = 0; !atomic_load(&workers_end); i++) {
		struct pool_dying *list = pool_take_dying(b->pool);

		assert_int_equal(pool_sync(b->pool), 0);
		if (i % 4)
			pool_release_dying(b->pool, list);
		else
			pool_give_back_dying(b->pool, list);
		pool_assert(b->pool);
		pool_is_counting(b->pool);
	}
	return NULL;
}

static void threads_do_not_get_into_each_others_way(void **state)
{
	struct bench *b = *state;
	struct worker workers[THREADS];
	pthread_t checkpointer;

	/* Without what watches: it is not made for threads. */
	b->io->ops = watch.below;
	store_dir_skip_syncs(&b->dir);
	fill(b, 50, 9);
	reopen(b);
	for (int i = 0; i < THREADS; i++) {
		workers[i] = (struct worker){.b = b, .layer = (uint64_t)i + 1};
		rng_seed(&workers[i].rng, b->seed + (uint64_t)i);
		assert_int_equal(
			pthread_create(&workers[i].thread, NULL, work, &workers[i]), 0);
	}
	assert_int_equal(pthread_create(&checkpointer, NULL, make_checkpoints, b), 0);
	for (uint64_t i = 0; i < 50; i++)
		assert_true(pool_ref(b->pool, i, 9));
	pool_counted(b->pool);
	for (int i = 0; i < THREADS; i++)
		pthread_join(workers[i].thread, NULL);
	atomic_store(&workers_end, true);
	pthread_join(checkpointer, NULL);
	check_layer(b, 9, 50, 50, 0);
	unref_all(b, 0, 50, 9);
	checkpoint(b);
	check_figures(b, 0, 0, 0);
	assert_int_equal(stat_of(b, "pool/0.data").size, 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(random_changes_agree_with_a_model),
		TEST(low_slots_and_long_runs_are_given_out_first),
		TEST(a_short_run_does_when_longer_ones_are_far),
		TEST(what_is_of_one_layer_is_known),
		TEST(references_that_nobody_has_change_nothing),
		TEST(nothing_is_free_before_all_is_counted),
		TEST(a_claim_outlasts_the_counting),
		TEST(a_large_pool_that_nobody_refers_to),
		TEST(other_names_are_none_of_ours),
		TEST(space_comes_back),
		TEST(an_empty_pool_takes_no_space),
		TEST(what_was_claimed_in_vain_comes_back),
		TEST(what_is_claimed_is_not_found),
		TEST(slots_are_not_used_while_they_are_punched),
		TEST(checksums_of_nothing_take_no_space),
		TEST(a_tail_is_not_used_while_it_is_cut_off),
		TEST(space_that_nobody_uses_is_found),
		TEST(what_was_written_is_synced_once),
		TEST(an_error_of_a_sync_stays),
		TEST(a_full_disk_is_no_failure),
		TEST(every_call_fails_once),
		TEST(threads_do_not_get_into_each_others_way),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
