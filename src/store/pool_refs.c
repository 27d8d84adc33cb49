/* SPDX-License-Identifier: MIT */
/*
 * Who refers to the slots of the pool.
 *
 * A slot has the number of its references and two sums over the layers that refer, of their numbers
 * and of hashes of these. n references of one layer L give the sums n * L and n * mix(L), and no
 * other set of layers does but by a chance of 2^-64: layers' numbers are given out one after the
 * other, so nobody can choose them. (n * L must stay below 2^64. If it does not, a slot counts as
 * shared.)
 *
 * What a layer's figures are made of is looked at before and after each change of a slot: one that
 * is exclusive to a layer with n references adds 1 to its `exclusive` and n - 1 to its `self_refs`.
 *
 * While counting, SLOT_LIVE says that the disk may know the slot. pool_counted() goes through all
 * of them chunk by chunk and lets go of the lock in between; slots below `counted_upto` are as
 * always meanwhile. If memory is short while counting, the counts are wrong from then on, and
 * nothing may become free because of them: counting does not end until the next mount.
 */
#include "store/pool_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "base/invariant.h"
#include "base/log.h"
#include "base/mutation.h"
#include "base/sizes.h"

/* The finaliser of splitmix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators,
 * 2014; constants by D. Stafford, Mix13). */
static uint64_t mix(uint64_t z)
{
	z += UINT64_C(0x9e3779b97f4a7c15); /* 0 would stay 0 */
	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return z ^ (z >> 31);
}

/* ---- references ---- */

static bool is_of_one_layer(const struct slot *s, uint64_t *layer)
{
	uint64_t refs = (uint64_t)s->refs;

	if (s->refs <= 0 || s->sum % refs != 0)
		return false;
	*layer = s->sum / refs;
	return refs * mix(*layer) == s->mixsum;
}

static bool is_unused(const struct slot *s)
{
	return !s->refs && !s->sum && !s->mixsum;
}

static struct pool_layer *find_layer_locked(struct pool *pool, uint64_t id)
{
	struct pool_layer *l;

	HASH_FIND(hh, pool->layers, &id, sizeof(id), l);
	return l;
}

static struct pool_layer *make_layer_locked(struct pool *pool, uint64_t id)
{
	struct pool_layer *l = find_layer_locked(pool, id);

	if (l)
		return l;
	l = calloc(1, sizeof(*l));
	if (!l)
		return NULL;
	l->id = id;
	HASH_ADD(hh, pool->layers, id, sizeof(l->id), l);
	return l;
}

/* Adds to a layer's figures; one that is 0 all over is forgotten. */
static void add_to_layer_locked(struct pool *pool, uint64_t id, int64_t refs, int64_t exclusive,
	int64_t self_refs)
{
	struct pool_layer *l = make_layer_locked(pool, id);

	if (!l) {
		pool->miscounted = true;
		return;
	}
	l->refs += refs;
	l->exclusive += exclusive;
	l->self_refs += self_refs;
	if (!l->refs && !l->exclusive && !l->self_refs) {
		HASH_DEL(pool->layers, l);
		free(l);
	}
}

/* Adds a reference, or takes one away. */
static void change_locked(struct pool *pool, struct slot *s, uint64_t layer, int by)
{
	uint64_t only;

	/* First what may need memory: afterwards the layer is there. */
	if (by > 0)
		add_to_layer_locked(pool, layer, by, 0, 0);
	if (is_of_one_layer(s, &only))
		add_to_layer_locked(pool, only, 0, -1, 1 - s->refs);
	pool->live -= s->refs > 0;
	s->refs += by;
	s->sum += (uint64_t)by * layer;
	s->mixsum += (uint64_t)by * mix(layer);
	pool->refs += by;
	pool->live += s->refs > 0;
	if (is_of_one_layer(s, &only))
		add_to_layer_locked(pool, only, 0, 1, s->refs - 1);
	if (by < 0)
		add_to_layer_locked(pool, layer, by, 0, 0);
}

static bool is_counted_locked(const struct pool *pool, uint64_t slot)
{
	return slot < pool->counted_upto;
}

static bool can_be_referred_to(enum slot_state state, bool claimed)
{
	return state == SLOT_LIVE || (claimed && (state == SLOT_CLAIMED || state == SLOT_WRITTEN)) ||
	       ((state == SLOT_DYING || state == SLOT_TAKEN) &&
		       MUTATED("a dying slot of the pool is used again"));
}

static bool ref_locked(struct pool *pool, uint64_t slot, uint64_t layer, bool claimed)
{
	struct chunk_head *head = pool_head_locked(pool, slot);

	if (!head || !can_be_referred_to(pool_state_in(head, slot), claimed))
		return false;
	/* When all is counted it has its memory; the layer may not. */
	if (pool_fill_head_locked(head) || !make_layer_locked(pool, layer)) {
		if (is_counted_locked(pool, slot))
			return false;
		pool->miscounted = true;
		return true;
	}
	if (pool_state_in(head, slot) != SLOT_LIVE)
		pool_set_state_locked(pool, slot, 1, SLOT_LIVE);
	change_locked(pool, &head->chunk->slots[slot % CHUNK_SLOTS], layer, 1);
	return true;
}

bool pool_ref(struct pool *pool, uint64_t slot, uint64_t layer)
{
	MUTEX_GUARD(&pool->lock);
	return ref_locked(pool, slot, layer, true);
}

bool pool_ref_live(struct pool *pool, uint64_t slot, uint64_t layer)
{
	MUTEX_GUARD(&pool->lock);
	return ref_locked(pool, slot, layer, false);
}

/* Whether there may have been such a reference. */
static bool unref_locked(struct pool *pool, uint64_t slot, uint64_t layer)
{
	struct chunk_head *head = pool_head_locked(pool, slot);
	struct slot *s;

	if (!head || pool_state_in(head, slot) != SLOT_LIVE)
		return false;
	if (pool_fill_head_locked(head)) {
		pool->miscounted = true;
		return true;
	}
	s = &head->chunk->slots[slot % CHUNK_SLOTS];
	if (is_counted_locked(pool, slot) && (s->refs <= 0 || !find_layer_locked(pool, layer)))
		return false;
	change_locked(pool, s, layer, -1);
	if (is_counted_locked(pool, slot) && is_unused(s))
		pool_set_state_locked(pool, slot, 1, SLOT_DYING);
	return true;
}

void pool_unref(struct pool *pool, uint64_t slot, uint64_t layer)
{
	bool known;

	pthread_mutex_lock(&pool->lock);
	known = unref_locked(pool, slot, layer);
	pthread_mutex_unlock(&pool->lock);
	if (!known)
		log_error(0, "layer %" PRIu64 " gives up slot %" PRIu64
			" of the pool, to which it does not refer", layer, slot);
}

void pool_forget_layer(struct pool *pool, uint64_t layer)
{
	struct pool_layer *l;
	int64_t refs;

	pthread_mutex_lock(&pool->lock);
	l = pool_all_counted_locked(pool) ? find_layer_locked(pool, layer) : NULL;
	refs = l ? l->refs : 0;
	pthread_mutex_unlock(&pool->lock);
	if (refs)
		log_error(0, "layer %" PRIu64 " is gone, but not %" PRId64
			" of its references to the pool; the next mount gives up that space", layer,
			refs);
}

/* ---- counting ---- */

bool pool_is_counting(struct pool *pool)
{
	MUTEX_GUARD(&pool->lock);
	return !pool_all_counted_locked(pool);
}

/* What has no reference dies. What has a wrong number of them stays, and takes space for nothing:
 * nobody knows who refers to it. */
static void settle_chunk_locked(struct pool *pool, struct chunk_head *head, uint64_t slot)
{
	if (!head->chunk) {
		if (head->state == SLOT_LIVE)
			pool_set_state_locked(pool, slot, CHUNK_SLOTS, SLOT_DYING);
		return;
	}
	for (uint64_t i = 0; i < CHUNK_SLOTS; i++) {
		const struct slot *s = &head->chunk->slots[i];

		INVARIANT(INVARIANT_POOL, s->refs >= 0 && (s->refs || is_unused(s)));
		if (head->chunk->states[i] == SLOT_LIVE && is_unused(s))
			pool_set_state_locked(pool, slot + i, 1, SLOT_DYING);
	}
}

void pool_counted(struct pool *pool)
{
	bool miscounted = false;

	for (uint64_t slot = 0; slot < POOL_END && !miscounted;) {
		struct chunk_head *head;

		MUTEX_GUARD(&pool->lock);
		if (pool_all_counted_locked(pool))
			return;
		miscounted = pool->miscounted;
		head = miscounted ? NULL : pool_head_locked(pool, slot);
		if (head)
			settle_chunk_locked(pool, head, slot);
		slot += head ? CHUNK_SLOTS : POOL_FILE_SLOTS;
		/* Somebody else may do the same, and be further. */
		if (!miscounted)
			pool->counted_upto = max_u64(pool->counted_upto, slot);
	}
	if (miscounted) {
		log_error(-ENOMEM, "cannot count the references to the pool; "
				   "it gives no space back until the next mount");
		return;
	}
	MUTEX_GUARD(&pool->lock);
	pool->counted_upto = UINT64_MAX;
	pool->lowest = 0;
}

/* ---- figures ---- */

static uint64_t not_below_0(int64_t value)
{
	return value > 0 ? (uint64_t)value : 0;
}

void pool_figures(struct pool *pool, struct pool_figures *out)
{
	MUTEX_GUARD(&pool->lock);
	out->live_slots = pool->live;
	out->dying_slots = pool->dying;
	out->refs = not_below_0(pool->refs);
}

void pool_layer_figures(struct pool *pool, uint64_t layer, struct pool_layer_figures *out)
{
	const struct pool_layer *l;

	MUTEX_GUARD(&pool->lock);
	l = find_layer_locked(pool, layer);
	out->refs = l ? not_below_0(l->refs) : 0;
	out->exclusive = l ? not_below_0(l->exclusive) : 0;
	out->self_refs = l ? not_below_0(l->self_refs) : 0;
}

uint32_t pool_slot_refs(struct pool *pool, uint64_t slot, bool *one_layer, uint64_t *layer)
{
	const struct chunk_head *head;
	const struct slot *s;

	MUTEX_GUARD(&pool->lock);
	*one_layer = false;
	head = pool_head_locked(pool, slot);
	if (!head || !head->chunk)
		return 0;
	s = &head->chunk->slots[slot % CHUNK_SLOTS];
	*one_layer = is_of_one_layer(s, layer);
	return (uint32_t)min_u64(not_below_0(s->refs), UINT32_MAX);
}

/* ---- what must be true ---- */

#ifdef GF_INVARIANTS

static void check_slot_locked(struct pool *pool, const struct slot *s, enum slot_state state)
{
	struct pool_layer *l;
	uint64_t only;

	INVARIANT(INVARIANT_POOL, state == SLOT_LIVE || is_unused(s));
	if (!is_of_one_layer(s, &only))
		return;
	l = find_layer_locked(pool, only);
	INVARIANT(INVARIANT_POOL, l || pool->miscounted);
	if (l) {
		l->counted_exclusive++;
		l->counted_self_refs += s->refs - 1;
	}
}

/* Adds what is found to the figures of `sum`. */
static void check_slots_locked(struct pool *pool, const struct chunk_head *head, uint64_t slot,
	struct chunk_head *counted, struct pool *sum)
{
	for (uint64_t i = 0; i < CHUNK_SLOTS; i++) {
		const struct slot *s = &head->chunk->slots[i];
		enum slot_state state = head->chunk->states[i];

		if (state == SLOT_FREE && pool_all_counted_locked(pool))
			INVARIANT(INVARIANT_POOL, slot + i >= pool->lowest);
		if (state == SLOT_LIVE && is_counted_locked(pool, slot + i))
			INVARIANT(INVARIANT_POOL, s->refs > 0);
		check_slot_locked(pool, s, state);
		pool_account_locked(sum, counted, state, 1);
		sum->live += s->refs > 0;
		sum->refs += s->refs;
	}
}

static void check_head_locked(struct pool *pool, const struct chunk_head *head, uint64_t slot,
	struct pool *sum)
{
	struct chunk_head counted = {0};

	if (head->chunk) {
		check_slots_locked(pool, head, slot, &counted, sum);
		INVARIANT(INVARIANT_POOL, counted.used);
	} else {
		INVARIANT(INVARIANT_POOL,
			head->state != SLOT_LIVE || !is_counted_locked(pool, slot));
		pool_account_locked(sum, &counted, head->state, CHUNK_SLOTS);
	}
	INVARIANT(INVARIANT_POOL, head->used == counted.used && head->dying == counted.dying);
}

static int64_t check_layers_locked(const struct pool *pool)
{
	int64_t refs = 0;

	for (const struct pool_layer *l = pool->layers; l; l = l->hh.next) {
		INVARIANT(INVARIANT_POOL, l->exclusive == l->counted_exclusive);
		INVARIANT(INVARIANT_POOL, l->self_refs == l->counted_self_refs);
		INVARIANT(INVARIANT_POOL, l->refs >= 0 || !pool_all_counted_locked(pool));
		refs += l->refs;
	}
	return refs;
}

void pool_assert(struct pool *pool)
{
	struct pool sum = {0};

	MUTEX_GUARD(&pool->lock);
	if (pool->miscounted)
		return;
	for (struct pool_layer *l = pool->layers; l; l = l->hh.next)
		l->counted_exclusive = l->counted_self_refs = 0;
	for (uint64_t n = 0; n < POOL_FILES; n++)
		for (uint64_t i = 0; pool->files[n] && i < FILE_CHUNKS; i++)
			check_head_locked(pool, &pool->files[n]->heads[i],
				n * POOL_FILE_SLOTS + i * CHUNK_SLOTS, &sum);
	INVARIANT(INVARIANT_POOL, sum.live == pool->live && sum.dying == pool->dying);
	INVARIANT(INVARIANT_POOL, sum.refs == pool->refs);
	INVARIANT(INVARIANT_POOL, check_layers_locked(pool) == pool->refs);
}

#else

void pool_assert(struct pool *pool)
{
	(void)pool;
}

#endif
