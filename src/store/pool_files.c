/* SPDX-License-Identifier: MIT */
/*
 * The files of the pool: pool/N.data, as sparse as the slots that are free, and pool/N.sum with the
 * checksum of each slot's bytes, written with them and made durable together.
 *
 * The folder and a file are made by the first write to them, and their names made durable by the
 * next sync. What earlier processes left is synced once, names too: one that was killed may have
 * written without it. Whoever syncs holds io_lock all the while, so that nobody is told that there
 * is nothing to do while the sync that decides so may still fail.
 *
 * Space is given back twice over: each run is punched, and a tail in which nothing is in use is cut
 * off, so that an empty pool is empty files also where the file system below cannot punch. While a
 * tail is being cut its slots are in a state of their own, or somebody could write there meanwhile.
 * Neither has to be durable: what comes back after a loss of power has no references, and dies
 * again when it was counted.
 */
#include "store/pool_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/invariant.h"
#include "base/log.h"
#include "base/mutation.h"
#include "base/sizes.h"
#include "goldfs/format.h"

static void file_path(char path[40], uint64_t number)
{
	snprintf(path, 40, "pool/%" PRIu64 ".data", number);
}

static void sum_path(char path[40], uint64_t number)
{
	snprintf(path, 40, "pool/%" PRIu64 ".sum", number);
}

static struct pool_file *file_of(struct pool *pool, uint64_t number)
{
	MUTEX_GUARD(&pool->lock);
	return pool->files[number];
}

/* The part of a run that is in the first slot's file. */
static uint64_t in_one_file(uint64_t slot, uint64_t count)
{
	return min_u64(count, POOL_FILE_SLOTS - slot % POOL_FILE_SLOTS);
}

static uint64_t offset_of(uint64_t slot)
{
	return slot % POOL_FILE_SLOTS * GF_BLOCK_SIZE;
}

static uint64_t sum_offset_of(uint64_t slot)
{
	return slot % POOL_FILE_SLOTS * sizeof(uint32_t);
}

/* O_CREAT is for who may write. */
static int open_path(struct io *io, const char *path, int flags)
{
	int fd = io->ops->open(io, path, O_RDWR | flags);

	if (fd == -EROFS || fd == -EACCES)
		fd = io->ops->open(io, path, O_RDONLY);
	return fd;
}

/* ---- opening ---- */

/* Whether it is the name of one of our files, of either sort. */
static bool parse_name(const char *name, uint64_t *number)
{
	char path[40], sums[40];
	char *end;

	*number = strtoull(name, &end, 10);
	if (end == name || *number >= POOL_FILES)
		return false;
	file_path(path, *number);
	sum_path(sums, *number);
	return strcmp(path + strlen("pool/"), name) == 0 ||
	       strcmp(sums + strlen("pool/"), name) == 0;
}

/* All that the file has room for may be known to the disk. */
static int note_slots_locked(struct pool *pool, uint64_t number, uint64_t slots)
{
	uint64_t first = number * POOL_FILE_SLOTS, whole = round_down(slots, CHUNK_SLOTS);

	pool_set_state_locked(pool, first, whole, SLOT_LIVE);
	if (slots > whole) {
		if (pool_fill_head_locked(pool_head_locked(pool, first + whole)))
			return -ENOMEM;
		pool_set_state_locked(pool, first + whole, slots - whole, SLOT_LIVE);
	}
	pool->files[number]->slots = slots;
	if (slots)
		pool->lowest = max_u64(pool->lowest, first + slots);
	return 0;
}

struct room {
	uint64_t found; /* slots whose bytes are there */
	uint64_t slots; /* that either file has room for */
	bool shortened;
};

/* What the bytes end before was lost, or never durable. In the first case maps name it still, and
 * nobody else may come to stand there, nor behind it, which would make a hole of it: not before a
 * checkpoint has written them anew (pool_release_dying()). */
static int measure(struct pool *pool, int fd, int sum_fd, struct room *room)
{
	struct io *io = pool->io;
	struct io_stat data = {0}, sums = {0};
	uint64_t begun;
	int e = fd < 0 ? 0 : io->ops->stat(io, fd, &data);

	if (!e && sum_fd >= 0)
		e = io->ops->stat(io, sum_fd, &sums);
	begun = round_up(data.size, GF_BLOCK_SIZE) / GF_BLOCK_SIZE;
	room->found = min_u64(data.size / GF_BLOCK_SIZE, POOL_FILE_SLOTS);
	room->slots = min_u64(max_u64(begun, sums.size / sizeof(uint32_t)), POOL_FILE_SLOTS);
	room->shortened = room->slots > begun &&
			  !MUTATED("slots that the pool lost are given to others");
	return e;
}

static int note_file(struct pool *pool, uint64_t number, int fd, int sum_fd)
{
	struct pool_file *f;
	struct room room;
	int e = measure(pool, fd, sum_fd, &room);

	MUTEX_GUARD(&pool->lock);
	f = e ? NULL : pool_make_file_locked(pool, number);
	if (!f)
		return e ? e : -ENOMEM;
	f->found = room.found;
	pool->shortened |= room.shortened;
	e = note_slots_locked(pool, number, room.slots);
	if (e)
		return e;
	atomic_store(&f->sum_fd, sum_fd);
	atomic_store(&f->fd, fd);
	atomic_store(&f->dirty, fd >= 0);
	return 0;
}

static int open_file(void *arg, const char *name)
{
	struct pool *pool = arg;
	struct io *io = pool->io;
	uint64_t number;
	char path[40];
	int fd, sum_fd, e;

	if (!parse_name(name, &number) || file_of(pool, number))
		return 0;
	file_path(path, number);
	fd = open_path(io, path, 0);
	if (fd < 0 && fd != -ENOENT)
		return log_error(fd, "cannot open '%s'", path);
	sum_path(path, number);
	sum_fd = open_path(io, path, 0);
	fd = fd < 0 ? -1 : fd;
	sum_fd = sum_fd < 0 ? -1 : sum_fd;
	e = note_file(pool, number, fd, sum_fd);
	if (e && fd >= 0)
		io->ops->close(io, fd);
	if (e && sum_fd >= 0)
		io->ops->close(io, sum_fd);
	return e;
}

int pool_open(struct pool **pool, struct io *io)
{
	struct pool *p = calloc(1, sizeof(*p));
	int e;

	if (!p)
		return -ENOMEM;
	p->io = io;
	p->cut_from = POOL_END;
	pthread_mutex_init(&p->lock, NULL);
	pthread_mutex_init(&p->io_lock, NULL);
	e = io->ops->list(io, "pool", open_file, p);
	if (e && e != -ENOENT) {
		pool_free(p);
		return e;
	}
	p->names_owed = p->folder_owed = e == 0;
	if (!p->lowest)
		p->counted_upto = UINT64_MAX;
	*pool = p;
	return 0;
}

static void free_file(struct pool *pool, struct pool_file *f)
{
	int fd = atomic_load(&f->fd), sum_fd = atomic_load(&f->sum_fd);

	if (fd >= 0)
		pool->io->ops->close(pool->io, fd);
	if (sum_fd >= 0)
		pool->io->ops->close(pool->io, sum_fd);
	for (size_t i = 0; i < FILE_CHUNKS; i++)
		free(f->heads[i].chunk);
	free(f);
}

void pool_free(struct pool *pool)
{
	struct pool_layer *l, *next;

	if (!pool)
		return;
	for (int i = 0; i < POOL_FILES; i++)
		if (pool->files[i])
			free_file(pool, pool->files[i]);
	HASH_ITER (hh, pool->layers, l, next) {
		HASH_DEL(pool->layers, l);
		free(l);
	}
	pthread_mutex_destroy(&pool->lock);
	pthread_mutex_destroy(&pool->io_lock);
	free(pool);
}

/* ---- bytes ---- */

/* The descriptor of a file that was allocated from; makes the file. */
static int make_file(struct pool *pool, struct pool_file *f, uint64_t number)
{
	struct io *io = pool->io;
	char path[40];
	int fd = atomic_load(&f->fd), sum_fd, e;

	if (fd >= 0 && atomic_load(&f->sum_fd) >= 0)
		return fd;
	MUTEX_GUARD(&pool->io_lock);
	fd = atomic_load(&f->fd);
	sum_fd = atomic_load(&f->sum_fd);
	if (fd >= 0 && sum_fd >= 0)
		return fd;
	e = io->ops->mkdir(io, "pool");
	if (e)
		return e;
	pool->folder_owed = true;
	pool->names_owed = true;
	sum_path(path, number);
	if (sum_fd < 0)
		sum_fd = io->ops->open(io, path, O_RDWR | O_CREAT);
	if (sum_fd < 0)
		return sum_fd;
	atomic_store(&f->sum_fd, sum_fd);
	file_path(path, number);
	if (fd < 0)
		fd = io->ops->open(io, path, O_RDWR | O_CREAT);
	if (fd >= 0)
		atomic_store(&f->fd, fd);
	return fd;
}

/* Before the bytes are written: a part of them may be there after an error, too. */
static void note_written(struct pool *pool, struct pool_file *f, uint64_t slot, uint64_t count)
{
	MUTEX_GUARD(&pool->lock);
	f->slots = max_u64(f->slots, slot % POOL_FILE_SLOTS + count);
	for (uint64_t i = 0; i < count; i++) {
		INVARIANT(3, pool_state_locked(pool, slot + i) == SLOT_CLAIMED ||
			     pool_state_locked(pool, slot + i) == SLOT_WRITTEN);
		pool_set_state_locked(pool, slot + i, 1, SLOT_WRITTEN);
	}
}

static int write_both(struct pool *pool, struct pool_file *f, uint64_t slot, const void *bytes,
	const uint32_t *sums, uint64_t count)
{
	int e = io_pwrite(pool->io, atomic_load(&f->fd), bytes, count * GF_BLOCK_SIZE, offset_of(slot));

	if (!e)
		e = SITE("checksums of the pool", io_pwrite(pool->io, atomic_load(&f->sum_fd), sums,
			count * sizeof(*sums), sum_offset_of(slot)));
	/* Not before: a sync that runs meanwhile would take the mark and miss the bytes. */
	atomic_store(&f->dirty, true);
	return e;
}

static int write_in_file(struct pool *pool, uint64_t slot, const void *bytes, const uint32_t *sums,
	uint64_t count)
{
	struct pool_file *f = file_of(pool, slot / POOL_FILE_SLOTS);
	int fd = make_file(pool, f, slot / POOL_FILE_SLOTS);

	if (fd < 0)
		return fd;
	note_written(pool, f, slot, count);
	return write_both(pool, f, slot, bytes, sums, count);
}

int pool_write(struct pool *pool, uint64_t slot, const void *bytes, const uint32_t *sums,
	uint64_t count)
{
	while (count) {
		uint64_t n = in_one_file(slot, count);
		int e = write_in_file(pool, slot, bytes, sums, n);

		if (e)
			return e;
		slot += n;
		count -= n;
		bytes = (const uint8_t *)bytes + n * GF_BLOCK_SIZE;
		sums += n;
	}
	return 0;
}

int pool_write_again(struct pool *pool, uint64_t slot, const void *bytes, uint32_t sum)
{
	uint64_t number = slot / POOL_FILE_SLOTS;
	struct pool_file *f = number < POOL_FILES ? file_of(pool, number) : NULL;

	if (!f || atomic_load(&f->fd) < 0 || make_file(pool, f, number) < 0)
		return -ENOENT;
	return write_both(pool, f, slot, bytes, &sum, 1);
}

int pool_read_sums(struct pool *pool, uint64_t slot, uint32_t *sums, uint64_t count)
{
	while (count) {
		uint64_t n = in_one_file(slot, count), number = slot / POOL_FILE_SLOTS;
		struct pool_file *f = number < POOL_FILES ? file_of(pool, number) : NULL;
		int fd = f ? atomic_load(&f->sum_fd) : -1, e;

		memset(sums, 0, n * sizeof(*sums));
		e = fd < 0 ? 0 : io_pread_full(pool->io, fd, sums, n * sizeof(*sums),
			sum_offset_of(slot));
		if (e)
			return e;
		slot += n;
		count -= n;
		sums += n;
	}
	return 0;
}

static int read_in_file(struct pool *pool, uint64_t slot, void *bytes, uint64_t count)
{
	uint64_t number = slot / POOL_FILE_SLOTS;
	struct pool_file *f = number < POOL_FILES ? file_of(pool, number) : NULL;
	int fd = f ? atomic_load(&f->fd) : -1;

	ssize_t n;

	if (fd < 0)
		return log_error(-EUCLEAN, "the pool lost its file %" PRIu64, number);
	n = pool->io->ops->pread(pool->io, fd, bytes, count * GF_BLOCK_SIZE, offset_of(slot));
	if (n < 0)
		return (int)n;
	/* Behind the end is nothing that anybody may refer to. */
	return (uint64_t)n == count * GF_BLOCK_SIZE ? 0 : -EUCLEAN;
}

int pool_read(struct pool *pool, uint64_t slot, void *bytes, uint64_t count)
{
	while (count) {
		uint64_t n = in_one_file(slot, count);
		int e = read_in_file(pool, slot, bytes, n);

		if (e)
			return e;
		slot += n;
		count -= n;
		bytes = (uint8_t *)bytes + n * GF_BLOCK_SIZE;
	}
	return 0;
}

uint64_t pool_found(struct pool *pool, uint64_t slot, uint64_t count)
{
	uint64_t number = slot / POOL_FILE_SLOTS, first = slot % POOL_FILE_SLOTS;
	const struct pool_file *f = number < POOL_FILES ? file_of(pool, number) : NULL;

	return !f || first >= f->found ? 0 : min_u64(count, f->found - first);
}

/* ---- syncing ---- */

static int sync_file_locked(struct pool *pool, struct pool_file *f)
{
	struct io *io = pool->io;
	int e;

	if (!atomic_exchange(&f->dirty, false))
		return 0;
	INVARIANT(6, !f->sync_failed);
	e = SITE("sync a file of the pool", io->ops->fdatasync(io, atomic_load(&f->fd)));
	if (!e && atomic_load(&f->sum_fd) >= 0)
		e = SITE("sync checksums of the pool", io->ops->fdatasync(io, atomic_load(&f->sum_fd)));
	f->sync_failed = e != 0;
	return e;
}

static int sync_names_locked(struct pool *pool)
{
	struct io *io = pool->io;
	int e = 0;

	if (pool->names_owed)
		e = SITE("sync the names of the pool's files", io->ops->syncdir(io, "pool"));
	pool->names_owed = e != 0;
	if (!e && pool->folder_owed) {
		e = SITE("sync the name of the pool's folder", io->ops->syncdir(io, "."));
		pool->folder_owed = e != 0;
	}
	return e;
}

/* A failure stays: the pages may be gone, and the next sync would find nothing to write. */
int pool_sync(struct pool *pool)
{
	int e;

	MUTEX_GUARD(&pool->io_lock);
	e = atomic_load(&pool->error);
	for (uint64_t n = 0; n < POOL_FILES && !e; n++) {
		struct pool_file *f = file_of(pool, n);

		if (f)
			e = sync_file_locked(pool, f);
	}
	if (!e)
		e = sync_names_locked(pool);
	if (!MUTATED("try a failed sync of the pool again"))
		atomic_store(&pool->error, e);
	return e;
}

bool pool_failed(struct pool *pool)
{
	return atomic_load(&pool->error) != 0;
}

/* ---- giving space back ---- */

static bool is_taken(struct pool *pool, const struct pool_run *run)
{
	MUTEX_GUARD(&pool->lock);
	for (uint64_t i = 0; i < run->count; i++)
		if (pool_state_locked(pool, run->slot + i) != SLOT_TAKEN)
			return false;
	return true;
}

static void punch_run(struct pool *pool, const struct pool_run *run)
{
	struct io *io = pool->io;
	int fd = atomic_load(&file_of(pool, run->slot / POOL_FILE_SLOTS)->fd), e = 0;

	INVARIANT(3, is_taken(pool, run));
	if (fd >= 0)
		e = SITE("punch slots of the pool", io->ops->punch(io, fd, offset_of(run->slot),
			run->count * GF_BLOCK_SIZE));
	if (e && e != -EOPNOTSUPP)
		log_error(e, "cannot give back space of the pool");
}

static void set_free(struct pool *pool, const struct pool_run *run)
{
	MUTEX_GUARD(&pool->lock);
	pool_set_state_locked(pool, run->slot, run->count, SLOT_FREE);
}

/* Behind the last slot of the file that is in use, as slots of the file. */
static uint64_t used_slots_locked(const struct pool *pool, uint64_t number)
{
	const struct chunk_head *heads = pool->files[number]->heads;
	uint64_t slots = POOL_FILE_SLOTS;

	while (slots && !heads[slots / CHUNK_SLOTS - 1].used)
		slots -= CHUNK_SLOTS;
	while (slots && pool_state_locked(pool, number * POOL_FILE_SLOTS + slots - 1) == SLOT_FREE)
		slots--;
	return slots;
}

/* Keeps everybody out of a tail that is not in use, and out of what lies behind it: a truncation takes all. */
static bool close_tail(struct pool *pool, uint64_t number, uint64_t *slot)
{
	uint64_t first = number * POOL_FILE_SLOTS, used;

	MUTEX_GUARD(&pool->lock);
	used = used_slots_locked(pool, number);
	if (used >= pool->files[number]->slots)
		return false;
	*slot = first + used;
	if (!MUTATED("the end of the pool is used while it is cut off"))
		pool->cut_from = *slot;
	return true;
}

/* Of checksums alone, too: the power may have taken the name of the other file. */
static int shorten(struct pool *pool, const struct pool_file *f, uint64_t slot)
{
	int fd = atomic_load(&f->fd), sum_fd = atomic_load(&f->sum_fd), e = 0;
	struct io *io = pool->io;

	if (fd >= 0)
		e = SITE("cut off the end of the pool",
			io->ops->truncate(io, fd, offset_of(slot)));
	if (!e && sum_fd >= 0)
		e = SITE("cut off checksums of the pool",
			io->ops->truncate(io, sum_fd, sum_offset_of(slot)));
	return e;
}

static void cut_off_tail(struct pool *pool, uint64_t number)
{
	struct pool_file *f = file_of(pool, number);
	uint64_t slot;
	int e;

	if (!f || !close_tail(pool, number, &slot))
		return;
	e = shorten(pool, f, slot);
	pthread_mutex_lock(&pool->lock);
	if (!e)
		f->slots = slot % POOL_FILE_SLOTS;
	pool->cut_from = POOL_END;
	pthread_mutex_unlock(&pool->lock);
	if (e)
		log_error(e, "cannot shorten the pool");
}

void pool_release_dying(struct pool *pool, struct pool_dying *list)
{
	if (!list)
		return;
	for (size_t i = 0; i < list->count; i++) {
		bool early = MUTATED("slots of the pool are free before they are punched");

		if (early)
			set_free(pool, &list->runs[i]);
		punch_run(pool, &list->runs[i]);
		if (!early)
			set_free(pool, &list->runs[i]);
	}
	for (uint64_t n = 0; n < POOL_FILES; n++)
		cut_off_tail(pool, n);
	pthread_mutex_lock(&pool->lock);
	pool->shortened = false;
	pthread_mutex_unlock(&pool->lock);
	free(list);
}

/* ---- checking ---- */

static bool is_unused_locked(const struct pool *pool, uint64_t slot)
{
	enum slot_state state = pool_state_locked(pool, slot);

	return state == SLOT_FREE || state == SLOT_DYING;
}

/* How many slots from the first on are all in use, or all not. */
static uint64_t same_use(struct pool *pool, uint64_t slot, uint64_t count, bool *unused)
{
	uint64_t n = 1;

	MUTEX_GUARD(&pool->lock);
	*unused = is_unused_locked(pool, slot);
	while (n < count && is_unused_locked(pool, slot + n) == *unused)
		n++;
	return n;
}

static int each_unused_of(struct pool *pool, uint64_t slot, uint64_t count,
	int (*cb)(void *arg, uint64_t slot, uint64_t count), void *arg)
{
	int r = 0;

	while (count && !r) {
		bool unused;
		uint64_t n = same_use(pool, slot, min_u64(count, CHUNK_SLOTS), &unused);

		if (unused)
			r = cb(arg, slot, n);
		slot += n;
		count -= n;
	}
	return r;
}

static int each_unused_in_file(struct pool *pool, uint64_t number, int fd,
	int (*cb)(void *arg, uint64_t slot, uint64_t count), void *arg)
{
	struct io *io = pool->io;
	uint64_t off = 0, start, end;
	int r;

	while ((r = io->ops->next_data(io, fd, off, &start, &end)) == 0) {
		uint64_t slot = start / GF_BLOCK_SIZE;

		off = round_up(end, GF_BLOCK_SIZE);
		r = each_unused_of(pool, number * POOL_FILE_SLOTS + slot,
			off / GF_BLOCK_SIZE - slot, cb, arg);
		if (r)
			return r;
	}
	return r == -ENXIO ? 0 : r;
}

int pool_each_unused(struct pool *pool, int (*cb)(void *arg, uint64_t slot, uint64_t count),
	void *arg)
{
	int r = 0;

	for (uint64_t n = 0; n < POOL_FILES && !r; n++) {
		struct pool_file *f = file_of(pool, n);

		if (f && atomic_load(&f->fd) >= 0)
			r = each_unused_in_file(pool, n, atomic_load(&f->fd), cb, arg);
	}
	return r;
}

/* The first slot from this one on that is live, in its chunk; else the end of that. */
static uint64_t first_live_locked(const struct pool *pool, uint64_t slot)
{
	uint64_t end = round_down(slot, CHUNK_SLOTS) + CHUNK_SLOTS;
	const struct chunk_head *head = pool_head_locked(pool, slot);

	if (!head || !head->used)
		return end;
	while (slot < end && pool_state_in(head, slot) != SLOT_LIVE)
		slot++;
	return slot;
}

/* Of the file with this slot. */
static uint64_t next_live_locked(const struct pool *pool, uint64_t *slot, uint64_t end, uint64_t max)
{
	uint64_t n = 0;

	while (*slot < end && pool_state_locked(pool, *slot) != SLOT_LIVE)
		*slot = first_live_locked(pool, *slot);
	while (n < max && *slot + n < end && pool_state_locked(pool, *slot + n) == SLOT_LIVE)
		n++;
	return n;
}

uint64_t pool_next_live(struct pool *pool, uint64_t *slot, uint64_t max)
{
	uint64_t n = 0;

	while (!n && *slot < POOL_END) {
		uint64_t end = round_down(*slot, POOL_FILE_SLOTS) + POOL_FILE_SLOTS;

		MUTEX_GUARD(&pool->lock);
		if (pool->files[*slot / POOL_FILE_SLOTS])
			n = next_live_locked(pool, slot, end, max);
		if (!n)
			*slot = end;
	}
	return n;
}
