/* SPDX-License-Identifier: MIT */
/*
 * The bytes of a layer: its sparse data file, the checksums beside it, large writes in flight, and
 * giving space back.
 *
 * Checksums are written in place, four bytes per block: a sector of them never changes but for
 * blocks whose own records are still in the journal or whose region carries an intent mark, so a
 * torn write is healed by replay.
 *
 * A commit record makes every large write up to a number authoritative, so that number must not
 * pass one that is still on its way or that failed: tickets of those in flight tell.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/blocking.h"
#include "base/cleanup.h"
#include "base/invariant.h"
#include "base/log.h"
#include "base/mutation.h"
#include "base/sizes.h"
#include "base/times.h"
#include "store/layer_internal.h"

#define SYNC_AHEAD_WRITES 1024 /* since the last sync; a few dozen milliseconds of a disk that does not seek */
#define SYNC_AHEAD_BYTES (8 * MIB)

int layer_open_file(struct layer *l, int *fd, enum layer_file file, bool create)
{
	const struct io_ops *ops = l->env->io->ops;
	char path[40];

	MUTEX_GUARD(&l->lock);
	if (*fd >= 0)
		return *fd;
	layer_path(path, l->id, file);
	*fd = ops->open(l->env->io, path, O_RDWR);
	if (*fd == -EROFS || *fd == -EACCES)
		*fd = ops->open(l->env->io, path, O_RDONLY);
	if (*fd == -ENOENT && create) {
		*fd = ops->open(l->env->io, path, O_RDWR | O_CREAT);
		if (*fd >= 0)
			l->name_unsynced = true;
	}
	return *fd;
}

static int sync_names(struct layer *l)
{
	atomic_bool *owed = l->env->names_owed;
	bool unsynced, all;
	int e;

	all = owed && atomic_load(owed);
	pthread_mutex_lock(&l->lock);
	unsynced = l->name_unsynced || all;
	l->name_unsynced = false;
	pthread_mutex_unlock(&l->lock);
	if (!unsynced)
		return 0;
	e = SITE("sync the names of a layer's files",
		l->env->io->ops->syncdir(l->env->io, "layer"));
	if (e) {
		pthread_mutex_lock(&l->lock);
		l->name_unsynced = true;
		pthread_mutex_unlock(&l->lock);
	} else if (all) {
		atomic_store(owed, false);
	}
	return e;
}

/*
 * The last block of a 16 TiB disk stands behind the checksums: ext4's largest file ends one block
 * before it. Nothing else of a layer is anywhere but at its own offset.
 */
#define LAST_BLOCK_OFF (GF_MAX_SIZE - GF_BLOCK_SIZE)
#define LAST_BLOCK_PLACE (GF_MAX_SIZE / GF_BLOCK_SIZE * sizeof(uint32_t)) /* in the sum file */

static int write_last_block(struct layer *l, const void *buf)
{
	int fd = layer_open_file(l, &l->sum_fd, LAYER_SUM, true), e;

	if (fd < 0)
		return fd;
	e = io_pwrite(l->env->io, fd, buf, GF_BLOCK_SIZE, LAST_BLOCK_PLACE);
	atomic_store(&l->sums_dirty, true);
	atomic_store(&l->last_block_used, true);
	return e;
}

static int read_last_block(struct layer *l, void *buf)
{
	int fd = layer_open_file(l, &l->sum_fd, LAYER_SUM, false);

	if (fd == -ENOENT)
		return log_error(-EUCLEAN, "layer %" PRIu64 " lost its checksums", l->id);
	return fd < 0 ? fd :
		io_pread_full(l->env->io, fd, buf, GF_BLOCK_SIZE, LAST_BLOCK_PLACE);
}

int layer_write_data(struct layer *l, const void *buf, size_t len, uint64_t off)
{
	struct iovec iov = {.iov_base = (void *)buf, .iov_len = len};
	int fd, e;

	if (off + len > LAST_BLOCK_OFF) {
		e = write_last_block(l, (const uint8_t *)buf + (LAST_BLOCK_OFF - off));
		iov.iov_len -= GF_BLOCK_SIZE;
		if (e || !iov.iov_len)
			return e;
	}
	fd = layer_open_file(l, &l->data_fd, LAYER_DATA, true);
	if (fd < 0)
		return fd;
	e = l->env->io->ops->pwritev(l->env->io, fd, &iov, 1, off);
	/* Not before: a sync that runs meanwhile would take the mark and miss the bytes. */
	atomic_store(&l->data_dirty, true);
	atomic_fetch_add(&l->written, 1);
	return e;
}

int layer_read_data(struct layer *l, void *buf, size_t len, uint64_t off)
{
	int fd, e;

	if (off + len > LAST_BLOCK_OFF) {
		e = read_last_block(l, (uint8_t *)buf + (LAST_BLOCK_OFF - off));
		len -= GF_BLOCK_SIZE;
		if (e || !len)
			return e;
	}
	fd = layer_open_file(l, &l->data_fd, LAYER_DATA, false);
	if (fd == -ENOENT)
		return log_error(-EUCLEAN, "layer %" PRIu64 " lost its data file", l->id);
	return fd < 0 ? fd : io_pread_full(l->env->io, fd, buf, len, off);
}

static void will_read(struct layer *l, int *file_fd, enum layer_file file, uint64_t off, uint64_t len)
{
	const struct io_ops *ops = l->env->io->ops;
	int fd;

	if (!ops->will_read)
		return;
	fd = layer_open_file(l, file_fd, file, false);
	if (fd >= 0)
		ops->will_read(l->env->io, fd, off, len);
}

void layer_will_read_data(struct layer *l, uint64_t block, uint64_t count)
{
	will_read(l, &l->data_fd, LAYER_DATA, block * GF_BLOCK_SIZE, count * GF_BLOCK_SIZE);
}

void layer_will_read_sums(struct layer *l, uint64_t block, uint64_t count)
{
	will_read(l, &l->sum_fd, LAYER_SUM, block * sizeof(uint32_t), count * sizeof(uint32_t));
}

int layer_allocate(struct layer *l, uint64_t block, uint64_t count)
{
	const struct io_ops *ops = l->env->io->ops;
	uint64_t last = min_u64(block + count, LAST_BLOCK_OFF / GF_BLOCK_SIZE);
	int fd = layer_open_file(l, &l->data_fd, LAYER_DATA, true);
	int sum_fd = layer_open_file(l, &l->sum_fd, LAYER_SUM, true), e = 0;

	if (fd < 0 || sum_fd < 0)
		return fd < 0 ? fd : sum_fd;
	if (last > block)
		e = ops->allocate(l->env->io, fd, block * GF_BLOCK_SIZE,
			(last - block) * GF_BLOCK_SIZE);
	if (!e)
		e = ops->allocate(l->env->io, sum_fd, block * sizeof(uint32_t),
			count * sizeof(uint32_t));
	/* A place is one when the file is synced. */
	atomic_store(&l->sums_dirty, true);
	atomic_store(&l->data_dirty, true);
	if (e == -ENOSPC)
		layer_note_punch(l, block, count);
	return e == -EOPNOTSUPP ? 0 : e;
}

int layer_write_sums(struct layer *l, uint64_t block, const uint32_t *sums, uint64_t count)
{
	int fd = layer_open_file(l, &l->sum_fd, LAYER_SUM, true), e;

	if (fd < 0)
		return fd;
	e = (count == 1 ? io_poke : io_pwrite)(
		l->env->io, fd, sums, count * sizeof(*sums), block * sizeof(*sums));
	atomic_store(&l->sums_dirty, true);
	if (!e)
		layer_forget_noted(l, block, count);
	return e;
}

/*
 * A process that is killed ends when its system calls do, and its successor waits for that: a sync of a
 * few hundred megabytes in small pieces takes a second. So where many writes are to be synced the disk is
 * given most of it before, a part of the file at a time.
 */
static void sync_ahead(struct layer *l, int fd)
{
	const struct io_ops *ops = l->env->io->ops;
	uint64_t off = 0, end, start;

	if (!ops->write_back || atomic_load(&l->written) - atomic_load(&l->synced) < SYNC_AHEAD_WRITES)
		return;
	/* Only what is long is passed over: between random blocks there are as many holes. */
	while (ops->next_data(l->env->io, fd, off, &start, &end) == 0) {
		ops->write_back(l->env->io, fd, start, SYNC_AHEAD_BYTES);
		off = start + SYNC_AHEAD_BYTES;
	}
}

/* A failure stays: the pages may be gone, and the next sync would find nothing to write. */
static int sync_file(struct layer *l, atomic_bool *dirty, int *file_fd, enum layer_file file)
{
	uint64_t written;
	int fd, e = 0;

	MUTEX_GUARD(&l->sync_lock);
	if (l->sync_error)
		return l->sync_error;
	written = atomic_load(&l->written);
	if (atomic_load(dirty)) {
		fd = layer_open_file(l, file_fd, file, true);
		if (fd < 0)
			return fd;
		atomic_store(dirty, false);
		INVARIANT(6, !l->sync_failed);
		if (file == LAYER_DATA)
			sync_ahead(l, fd);
		e = SITE("sync a layer's file", l->env->io->ops->fdatasync(l->env->io, fd));
		l->sync_failed = e != 0;
		l->sync_error = MUTATED("try a failed sync of a layer again") ? 0 : e;
	}
	if (!e)
		l->sync_error = e = sync_names(l);
	if (!e && file == LAYER_DATA)
		atomic_store(&l->synced, written);
	return e;
}

int layer_sync_data(struct layer *l)
{
	int e = sync_file(l, &l->data_dirty, &l->data_fd, LAYER_DATA);

	return e || !atomic_load(&l->last_block_used) ?
		e : SITE("sync the last block of 16 TiB", layer_sync_sums(l));
}

int layer_sync_sums(struct layer *l)
{
	return sync_file(l, &l->sums_dirty, &l->sum_fd, LAYER_SUM);
}

void layer_sync_punched(struct layer *l)
{
	if (atomic_exchange(&l->punched, false))
		atomic_store(&l->data_dirty, true);
}

void layer_sync_anew(struct layer *l)
{
	MUTEX_GUARD(&l->sync_lock);
	l->sync_error = 0;
	l->sync_failed = false;
	layer_set_unsynced(l);
}

void layer_list_files(uint64_t id, void (*cb)(void *arg, const char *path), void *arg)
{
	for (int file = LAYER_DATA; file <= LAYER_LOC; file++) {
		char path[40];

		layer_path(path, id, file);
		cb(arg, path);
	}
}

/* ---- large writes in flight ---- */

void layer_large_begin(struct layer *l, struct large_ticket *ticket, uint64_t lower)
{
	MUTEX_GUARD(&l->lock);
	ticket->lower = lower;
	ticket->next = l->large;
	l->large = ticket;
}

static void raise_to(_Atomic uint64_t *value, uint64_t to)
{
	uint64_t old = atomic_load(value);

	while (old < to && !atomic_compare_exchange_weak(value, &old, to))
		;
}

static void note_failure_locked(struct layer *l, struct large_failure what)
{
	struct large_failure *failure = malloc(sizeof(*failure));

	/* Without memory: a failing disk may then bring an older version of these blocks back. */
	if (!failure)
		return;
	*failure = what;
	failure->next = l->large_failures;
	l->large_failures = failure;
}

void layer_note_large_failure(struct layer *l, uint64_t seq, bool verify)
{
	MUTEX_GUARD(&l->lock);
	note_failure_locked(l, (struct large_failure){.seq = seq, .verify = verify});
}

void layer_note_missing(struct layer *l, uint64_t seq, uint64_t block)
{
	struct large_failure *last;

	MUTEX_GUARD(&l->lock);
	last = l->large_failures;
	if (last && last->seq == seq && last->count && last->block + last->count == block)
		last->count++;
	else
		note_failure_locked(l, (struct large_failure){
			.seq = seq, .verify = true, .block = block, .count = 1});
}

bool layer_is_missing(struct layer *l, uint64_t seq, uint64_t block)
{
	MUTEX_GUARD(&l->lock);
	for (const struct large_failure *f = l->large_failures; f; f = f->next)
		if (f->seq == seq && block >= f->block && block - f->block < f->count)
			return true;
	return false;
}

enum large_outcome layer_large_outcome(struct layer *l, uint64_t seq)
{
	MUTEX_GUARD(&l->lock);
	for (const struct large_failure *f = l->large_failures; f; f = f->next)
		if (f->seq == seq)
			return f->verify ? LARGE_IN_PART : LARGE_FAILED;
	return LARGE_IN_PLACE;
}

void layer_forget_large_failures(struct layer *l, uint64_t upto)
{
	struct large_failure **p = &l->large_failures;

	MUTEX_GUARD(&l->lock);
	while (*p) {
		struct large_failure *f = *p;

		if (f->seq < upto) {
			*p = f->next;
			free(f);
		} else {
			p = &f->next;
		}
	}
}

bool layer_has_uncommitted(struct layer *l)
{
	MUTEX_GUARD(&l->lock);
	return l->large || atomic_load(&l->poison_seq) ||
	       atomic_load(&l->large_seq) > atomic_load(&l->committed_seq);
}

void layer_large_end(struct layer *l, struct large_ticket *ticket, uint64_t seq, bool ok)
{
	MUTEX_GUARD(&l->lock);
	for (struct large_ticket **p = &l->large; *p; p = &(*p)->next) {
		if (*p == ticket) {
			*p = ticket->next;
			break;
		}
	}
	raise_to(ok ? &l->large_seq : &l->poison_seq, seq);
	if (!ok && seq)
		note_failure_locked(l, (struct large_failure){.seq = seq});
	pthread_cond_broadcast(&l->large_ended);
}

void layer_note_not_undone(struct layer *l, uint64_t seq)
{
	raise_to(&l->large_seq, seq);
}

static uint64_t settled_locked(const struct layer *l)
{
	uint64_t settled = atomic_load(&l->large_seq);

	for (const struct large_ticket *t = l->large; t; t = t->next)
		settled = min_u64(settled, t->lower - 1);
	return settled;
}

void layer_set_committed(struct layer *l, uint64_t upto)
{
	raise_to(&l->committed_seq, upto);
}

uint64_t layer_large_settled(struct layer *l)
{
	MUTEX_GUARD(&l->lock);
	return settled_locked(l);
}

uint64_t layer_large_wait(struct layer *l)
{
	uint64_t target;

	MUTEX_GUARD(&l->lock);
	target = atomic_load(&l->large_seq);
	/* Those that begin from now on have higher numbers: this ends. */
	while (settled_locked(l) < target) {
		about_to_block();
		pthread_cond_wait(&l->large_ended, &l->lock);
	}
	return settled_locked(l);
}

/* ---- giving space back ---- */

struct punch *layer_take_punches(struct layer *l)
{
	MUTEX_GUARD(&l->lock);
	return steal_pointer(&l->punches);
}

void layer_give_back_punches(struct layer *l, struct punch *list)
{
	MUTEX_GUARD(&l->lock);
	while (list) {
		struct punch *next = list->next;

		list->next = l->punches;
		l->punches = list;
		list = next;
	}
}

static int give_back(struct layer *l, int fd, uint64_t block, uint64_t count)
{
	uint64_t whole = atomic_load(&l->whole_blocks);

	if (block < whole) {
		count -= min_u64(count, whole - block);
		block = whole;
	}
	if (!count)
		return 0;
	if ((block + count) * GF_BLOCK_SIZE > LAST_BLOCK_OFF)
		count--; /* one block, which stands elsewhere: it stays */
	if (count)
		atomic_store(&l->punched, true);
	return !count ? 0 : SITE("punch blocks that were given up",
		l->env->io->ops->punch(l->env->io, fd, block * GF_BLOCK_SIZE,
			count * GF_BLOCK_SIZE));
}

/* Whether neither memory nor the page on disk needs what stands in place. */
static bool is_given_up(const struct region *r, uint32_t i, bool lost)
{
	return region_state(r, i) != GF_OVERLAY && !lost && !r->dirty &&
	       r->generation == r->disk_generation;
}

/*
 * Punches what is not OVERLAY of [block, block + count); the caller holds the range. Journaled
 * blocks are punched too: their bytes stand in the ring. In a region that changed since the last
 * checkpoint the durable state may still need the bytes: those wait for the next one.
 */
static int punch_unused(struct layer *l, int fd, uint64_t block, uint64_t count)
{
	INVARIANT(3, rangelock_covers(&l->ranges, block, block + count - 1));
	while (count) {
		uint32_t number = block / GF_REGION_BLOCKS, first = block % GF_REGION_BLOCKS;
		uint64_t n = min_u64(count, GF_REGION_BLOCKS - first);
		bool keep = false, lost;
		uint32_t alike;
		struct region *r;
		int e = 0;

		pthread_mutex_lock(&l->lock);
		r = layer_find_region_locked(l, number);
		if (r)
			e = layer_load_region_locked(l, number, r);
		if (r && !e) {
			n = region_run(r, first, n);
			/* What is lost may still be told by somebody from the bytes. */
			lost = region_state(r, first) == GF_SHARED &&
			       !runs_find(&r->runs, first, n, &alike);
			if (region_state(r, first) == GF_SHARED)
				n = alike;
			keep = ((region_state(r, first) == GF_OVERLAY || lost) &&
				       !MUTATED("punch blocks that are in use again")) ||
			       (r->dirty && !MUTATED("punch blocks of regions that changed since"));
			INVARIANT(3, keep || is_given_up(r, first, lost));
			if (r->dirty && region_state(r, first) != GF_OVERLAY)
				layer_note_punch_locked(l, block, n);
		}
		pthread_mutex_unlock(&l->lock);
		if (!e && !keep)
			e = give_back(l, fd, block, n);
		if (e)
			return e;
		block += n;
		count -= n;
	}
	return 0;
}

static int punch_range(struct layer *l, int fd, uint64_t block, uint64_t count)
{
	struct range range;
	int e;

	if (MUTATED("punch without locking the blocks"))
		rangelock_lock(&l->ranges, &range, UINT64_MAX - 1, UINT64_MAX - 1);
	else
		rangelock_lock(&l->ranges, &range, block, block + count - 1);
	e = punch_unused(l, fd, block, count);
	rangelock_unlock(&l->ranges, &range);
	return e;
}

void layer_punch_later(struct layer *l, struct punch *list)
{
	struct punch **last = &list;

	while (*last)
		last = &(*last)->next;
	MUTEX_GUARD(&l->lock);
	*last = l->due;
	l->due = list;
}

static bool next_due(struct layer *l, uint64_t most, uint64_t *block, uint64_t *count)
{
	struct punch *due;

	MUTEX_GUARD(&l->lock);
	due = l->due;
	if (!due)
		return false;
	*block = due->block;
	*count = min_u64(due->count, most);
	due->block += *count;
	due->count -= *count;
	if (!due->count) {
		l->due = due->next;
		free(due);
	}
	return true;
}

bool layer_has_due(struct layer *l)
{
	MUTEX_GUARD(&l->lock);
	return l->due != NULL;
}

bool layer_punch_due(struct layer *l, struct punching *how)
{
	int fd = layer_has_due(l) ? layer_open_file(l, &l->data_fd, LAYER_DATA, false) : -1;
	uint64_t block, count;

	while (next_due(l, how->blocks.size, &block, &count)) {
		int64_t began = times_now(CLOCK_MONOTONIC), ended;
		int e = fd < 0 ? 0 : punch_range(l, fd, block, count);

		if (e && e != -EOPNOTSUPP)
			log_error(e, "cannot give back space of layer %" PRIu64, l->id);
		ended = times_now(CLOCK_MONOTONIC);
		portion_took(&how->blocks, count, ended - began);
		if (ended >= how->until_ns)
			return layer_has_due(l);
	}
	return false;
}

static int note_due(struct layer *l, uint64_t block, uint64_t end)
{
	struct punch *due;

	MUTEX_GUARD(&l->lock);
	due = l->due;
	if (due && due->block + due->count == block) {
		due->count += end - block;
		return 0;
	}
	due = malloc(sizeof(*due));
	if (!due)
		return -ENOMEM;
	*due = (struct punch){.block = block, .count = end - block, .next = l->due};
	l->due = due;
	return 0;
}

int layer_reclaim(struct layer *l)
{
	int fd = layer_open_file(l, &l->data_fd, LAYER_DATA, false);
	uint64_t start, end, off = 0;
	struct io_stat st;
	int e;

	if (fd < 0)
		return fd == -ENOENT ? 0 : fd;
	if (atomic_load(&l->failed))
		return 0;
	/* What the last process gave back looks given back, and may come back with a power loss. */
	atomic_store(&l->punched, true);
	e = l->env->io->ops->stat(l->env->io, fd, &st);
	/* A region at a time: of files in many pieces there are not too many. */
	while (!e && (e = l->env->io->ops->next_data(l->env->io, fd, off, &start, &end)) == 0) {
		uint64_t block = start / GF_BLOCK_SIZE;
		uint64_t last = round_down(block, GF_REGION_BLOCKS) + GF_REGION_BLOCKS;

		off = last * GF_BLOCK_SIZE;
		e = note_due(l, block, min_u64(last, round_up(max_u64(st.size, end), GF_BLOCK_SIZE) / GF_BLOCK_SIZE));
	}
	return e == -ENXIO ? 0 : e;
}
