/* SPDX-License-Identifier: MIT */
/*
 * Slots of the pool and what state they are in. Who refers to them is in pool_refs.c, their bytes
 * are in pool_files.c.
 *
 * Slots are kept in chunks of 4096, 25 bytes each: a state, and what is known of the references. A
 * chunk has memory only while its slots differ: one that is wholly free, wholly unknown after a
 * mount or wholly dying is a state in its head. So a pool with large holes costs next to nothing,
 * and what was not referred to since a mount dies without memory for it.
 *
 * Low slots are given out first, so that the end of a file comes to be free and can be cut off. A
 * run that is as long as was asked for is worth looking a few chunks further, though: what was
 * written together is read together.
 */
#include "store/pool_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/invariant.h"
#include "base/sizes.h"

/* Chunks that are looked at for a run that is long enough, before a shorter one has to do. */
#define LOOK_AHEAD 4

/* ---- states ---- */

struct chunk_head *pool_head_locked(const struct pool *pool, uint64_t slot)
{
	uint64_t number = slot / POOL_FILE_SLOTS;

	if (number >= POOL_FILES || !pool->files[number])
		return NULL;
	return &pool->files[number]->heads[slot % POOL_FILE_SLOTS / CHUNK_SLOTS];
}

enum slot_state pool_state_locked(const struct pool *pool, uint64_t slot)
{
	const struct chunk_head *head = pool_head_locked(pool, slot);

	return head ? pool_state_in(head, slot) : SLOT_FREE;
}

struct pool_file *pool_make_file_locked(struct pool *pool, uint64_t number)
{
	struct pool_file *f = pool->files[number];

	if (!f) {
		f = calloc(1, sizeof(*f));
		if (!f)
			return NULL;
		atomic_init(&f->fd, -1);
		atomic_init(&f->sum_fd, -1);
		pool->files[number] = f;
	}
	return f;
}

int pool_fill_head_locked(struct chunk_head *head)
{
	if (head->chunk)
		return 0;
	head->chunk = calloc(1, sizeof(*head->chunk));
	if (!head->chunk)
		return -ENOMEM;
	memset(head->chunk->states, head->state, CHUNK_SLOTS);
	return 0;
}

void pool_account_locked(struct pool *pool, struct chunk_head *head, enum slot_state state,
	int64_t count)
{
	if (state != SLOT_FREE)
		head->used += count;
	if (state == SLOT_DYING)
		head->dying += count;
	if (state == SLOT_DYING || state == SLOT_TAKEN)
		pool->dying += (uint64_t)count;
}

static void set_in_chunk_locked(struct pool *pool, struct chunk_head *head, uint64_t slot,
	uint64_t count, enum slot_state state)
{
	if (!head->chunk) {
		INVARIANT(INVARIANT_POOL, count == CHUNK_SLOTS);
		pool_account_locked(pool, head, head->state, -CHUNK_SLOTS);
		pool_account_locked(pool, head, state, CHUNK_SLOTS);
		head->state = state;
		return;
	}
	for (uint64_t i = slot % CHUNK_SLOTS; count--; i++) {
		pool_account_locked(pool, head, head->chunk->states[i], -1);
		pool_account_locked(pool, head, state, 1);
		head->chunk->states[i] = state;
	}
	if (!head->used) {
		free(steal_pointer(&head->chunk));
		head->state = SLOT_FREE;
	}
}

void pool_set_state_locked(struct pool *pool, uint64_t slot, uint64_t count, enum slot_state state)
{
	if (state == SLOT_FREE)
		pool->lowest = min_u64(pool->lowest, slot);
	while (count) {
		uint64_t n = min_u64(count, CHUNK_SLOTS - slot % CHUNK_SLOTS);

		set_in_chunk_locked(pool, pool_head_locked(pool, slot), slot, n, state);
		slot += n;
		count -= n;
	}
}

/* ---- allocating ---- */

/* The first run of `want` free slots from `slot` on in its chunk, else the longest one. */
static struct pool_run longest_run_locked(const struct pool *pool, uint64_t slot, uint64_t want,
	uint64_t *first_free)
{
	uint64_t end = min_u64(round_down(slot, CHUNK_SLOTS) + CHUNK_SLOTS, pool->cut_from);
	const struct chunk_head *head = pool_head_locked(pool, slot);
	struct pool_run best = {0}, run = {0};

	*first_free = end;
	if (head && head->used == CHUNK_SLOTS)
		return best;
	for (; slot < end && best.count < want; slot++) {
		if (head && pool_state_in(head, slot) != SLOT_FREE) {
			run.count = 0;
			continue;
		}
		*first_free = min_u64(*first_free, slot);
		if (!run.count++)
			run.slot = slot;
		if (run.count > best.count)
			best = run;
	}
	return best;
}

static struct pool_run find_run_locked(struct pool *pool, uint64_t want)
{
	struct pool_run best = {0};
	uint64_t slot = pool->lowest;

	for (int looked = 0; best.count < want && slot < pool->cut_from; looked++) {
		struct pool_run run;
		uint64_t first_free;

		if (best.count && looked >= LOOK_AHEAD)
			break;
		run = longest_run_locked(pool, slot, want, &first_free);
		if (!best.count)
			pool->lowest = first_free;
		if (run.count > best.count)
			best = run;
		slot = round_down(slot, CHUNK_SLOTS) + CHUNK_SLOTS;
	}
	return best;
}

int pool_allocate(struct pool *pool, uint64_t want, uint64_t *slot, uint64_t *got)
{
	struct pool_run run;

	MUTEX_GUARD(&pool->lock);
	if (pool->shortened)
		return -ENOSPC;
	run = find_run_locked(pool, want);
	if (!run.count)
		return pool->cut_from < POOL_END ? -EAGAIN : -ENOSPC;
	if (!pool_make_file_locked(pool, run.slot / POOL_FILE_SLOTS) ||
		pool_fill_head_locked(pool_head_locked(pool, run.slot)))
		return -ENOMEM;
	pool_set_state_locked(pool, run.slot, run.count, SLOT_CLAIMED);
	if (pool->lowest == run.slot)
		pool->lowest += run.count;
	*slot = run.slot;
	*got = run.count;
	return 0;
}

void pool_unclaim(struct pool *pool, uint64_t slot, uint64_t count)
{
	MUTEX_GUARD(&pool->lock);
	for (; count; slot++, count--) {
		enum slot_state state = pool_state_locked(pool, slot);

		INVARIANT(INVARIANT_POOL, state == SLOT_CLAIMED || state == SLOT_WRITTEN);
		if (state == SLOT_CLAIMED)
			pool_set_state_locked(pool, slot, 1, SLOT_FREE);
		else if (state == SLOT_WRITTEN)
			pool_set_state_locked(pool, slot, 1, SLOT_DYING);
	}
}

/* ---- what is dying ---- */

struct run_list {
	struct pool_run *runs; /* NULL: they are counted only */
	size_t count;
	struct pool_run last;
};

static void add_run(struct run_list *list, uint64_t slot, uint64_t count)
{
	struct pool_run *last = &list->last;

	/* A run is in one file. */
	if (list->count && last->slot + last->count == slot && slot % POOL_FILE_SLOTS != 0) {
		last->count += count;
	} else {
		*last = (struct pool_run){slot, count};
		list->count++;
	}
	if (list->runs)
		list->runs[list->count - 1] = *last;
}

static void list_chunk_locked(const struct chunk_head *head, uint64_t slot, struct run_list *list)
{
	if (!head->dying)
		return;
	if (!head->chunk)
		add_run(list, slot, CHUNK_SLOTS);
	for (uint64_t i = 0; head->chunk && i < CHUNK_SLOTS; i++)
		if (head->chunk->states[i] == SLOT_DYING)
			add_run(list, slot + i, 1);
}

static size_t list_dying_locked(const struct pool *pool, struct pool_run *runs)
{
	struct run_list list = {.runs = runs};

	for (uint64_t n = 0; n < POOL_FILES; n++)
		for (uint64_t i = 0; pool->files[n] && i < FILE_CHUNKS; i++)
			list_chunk_locked(&pool->files[n]->heads[i],
				n * POOL_FILE_SLOTS + i * CHUNK_SLOTS, &list);
	return list.count;
}

static void set_runs_locked(struct pool *pool, const struct pool_dying *list, enum slot_state state)
{
	for (size_t i = 0; i < list->count; i++)
		pool_set_state_locked(pool, list->runs[i].slot, list->runs[i].count, state);
}

struct pool_dying *pool_take_dying(struct pool *pool)
{
	struct pool_dying *list;
	size_t count;

	MUTEX_GUARD(&pool->lock);
	if (!pool_all_counted_locked(pool) || !pool->dying)
		return NULL;
	count = list_dying_locked(pool, NULL);
	/* Without memory they wait for the next checkpoint. */
	list = count ? malloc(sizeof(*list) + count * sizeof(*list->runs)) : NULL;
	if (!list)
		return NULL;
	list->count = list_dying_locked(pool, list->runs);
	set_runs_locked(pool, list, SLOT_TAKEN);
	return list;
}

void pool_give_back_dying(struct pool *pool, struct pool_dying *list)
{
	if (!list)
		return;
	pthread_mutex_lock(&pool->lock);
	set_runs_locked(pool, list, SLOT_DYING);
	pthread_mutex_unlock(&pool->lock);
	free(list);
}
