/* SPDX-License-Identifier: MIT */
/*
 * Which domain each slot of the pool is of (domain.c): that of all layers that refer to it.
 *
 * Nothing of it is kept where nobody has set a domain or a policy. Otherwise there are 8 bytes for
 * each slot, in chunks of 4096 that are made when one of them is noted. It is derived: after a mount,
 * and when the first setting comes, the places of all layers are walked through; when a layer changes
 * its domain, those of that layer are. Until that is done nothing more is shared with what is in the
 * pool (it is found later, when the store settles), so it does not matter what others see meanwhile.
 *
 * What is noted only ever comes to be DOMAIN_NONE, until all is forgotten or a slot is filled anew: so
 * notes may come in any order, and twice. A note of a slot that became free in between costs a few
 * hits.
 */
#include "core/domain.h"
#include "core/fs_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/mutation.h"
#include "base/sizes.h"

#define CHUNK_SLOTS 4096

struct chunk {
	uint64_t number;
	uint64_t domains[CHUNK_SLOTS]; /* 0: nobody refers to it; else one more than the domain */
	UT_hash_handle hh;
};

struct domains {
	pthread_mutex_t lock;
	struct chunk *chunks; /* lock */
	bool incomplete;      /* lock; memory or the disk failed: nothing is shared any more */
	pthread_mutex_t walk_lock;
	atomic_bool all;	/* all layers are to be walked through, not only those that moved */
	_Atomic uint64_t owed;	/* counts what makes a walk needed */
	_Atomic uint64_t paid;	/* what `owed` was when the last walk that is done began */
};

struct domains *domains_new(void)
{
	struct domains *d = calloc(1, sizeof(*d));

	if (!d)
		return NULL;
	pthread_mutex_init(&d->lock, NULL);
	pthread_mutex_init(&d->walk_lock, NULL);
	return d;
}

static void forget_locked(struct domains *d)
{
	struct chunk *chunk, *next;

	HASH_ITER (hh, d->chunks, chunk, next) {
		HASH_DEL(d->chunks, chunk);
		free(chunk);
	}
	d->incomplete = false;
}

void domain_stop(struct fs *fs)
{
	struct domains *d = fs->domains;

	if (!d)
		return;
	forget_locked(d);
	pthread_mutex_destroy(&d->lock);
	pthread_mutex_destroy(&d->walk_lock);
	free(d);
	fs->domains = NULL;
}

void domain_slots_reset(struct fs *fs)
{
	struct domains *d = fs->domains;

	atomic_store(&d->all, true);
	atomic_fetch_add(&d->owed, 1);
	MUTEX_GUARD(&d->lock);
	forget_locked(d);
}

void domain_layer_moved(struct fs *fs, struct layer *layer)
{
	atomic_store(&layer->domain_moved, true);
	atomic_fetch_add(&fs->domains->owed, 1);
	/* A checkpoint finds out, and shares what waits for it. */
	atomic_store(&fs->changed, true);
}

bool domain_is_known(struct fs *fs)
{
	struct domains *d = fs->domains;

	return !domain_is_used(fs) || (d && atomic_load(&d->paid) == atomic_load(&d->owed));
}

/* ---- noting ---- */

static uint64_t *entry_locked(struct domains *d, uint64_t slot, bool make)
{
	uint64_t number = slot / CHUNK_SLOTS;
	struct chunk *chunk;

	HASH_FIND(hh, d->chunks, &number, sizeof(number), chunk);
	if (!chunk && make) {
		chunk = calloc(1, sizeof(*chunk));
		if (!chunk)
			return NULL;
		chunk->number = number;
		HASH_ADD(hh, d->chunks, number, sizeof(chunk->number), chunk);
	}
	return chunk ? &chunk->domains[slot % CHUNK_SLOTS] : NULL;
}

static uint64_t encode(uint64_t domain)
{
	return domain == DOMAIN_NONE ? DOMAIN_NONE : domain + 1;
}

int domain_slot_made(struct fs *fs, uint64_t slot, uint64_t domain)
{
	uint64_t *entry;

	if (!domain_is_used(fs))
		return 0;
	MUTEX_GUARD(&fs->domains->lock);
	entry = entry_locked(fs->domains, slot, true);
	if (!entry)
		return -ENOMEM;
	*entry = encode(domain);
	return 0;
}

static void join_locked(struct domains *d, uint64_t slot, uint64_t domain)
{
	uint64_t *entry = entry_locked(d, slot, true);

	if (!entry)
		d->incomplete = true;
	else if (!*entry)
		*entry = encode(domain);
	else if (*entry != encode(domain) && !MUTATED("a slot keeps the domain of who filled it"))
		*entry = DOMAIN_NONE;
}

void domain_places_shared(
	struct fs *fs, const struct layer *layer, const uint64_t *places, uint64_t count)
{
	uint64_t domain;

	if (!domain_is_used(fs) || !fs->domains)
		return;
	domain = atomic_load(&layer->domain);
	MUTEX_GUARD(&fs->domains->lock);
	for (uint64_t i = 0; i < count; i++)
		if (place_is_pool(places[i]))
			join_locked(fs->domains, place_to_slot(places[i]), domain);
}

/* ---- asking ---- */

uint64_t domain_of_slot(struct fs *fs, uint64_t slot)
{
	uint64_t *entry;

	if (!domain_is_used(fs))
		return DOMAIN_COMMON;
	if (!domain_is_known(fs))
		return DOMAIN_NONE;
	MUTEX_GUARD(&fs->domains->lock);
	entry = fs->domains->incomplete ? NULL : entry_locked(fs->domains, slot, false);
	return !entry || !*entry || *entry == DOMAIN_NONE ? DOMAIN_NONE : *entry - 1;
}

bool domain_may_share(struct fs *fs, uint64_t slot, uint64_t domain)
{
	return domain_of_slot(fs, slot) == domain || MUTATED("slots of other domains are shared");
}

/* ---- finding out ---- */

static int walk_layer(struct fs *fs, struct layer *layer)
{
	CLEANUP_FREE uint64_t *places = malloc(GF_REGION_BLOCKS * sizeof(*places));
	uint32_t region = 0;
	int r = places ? 0 : -ENOMEM;

	if (!atomic_load(&layer->may_share))
		return 0;
	while (!r && (region = layer_next_region(layer, region)) != LAYER_NO_REGION) {
		r = layer_read_places(layer, (uint64_t)region * GF_REGION_BLOCKS, places,
			GF_REGION_BLOCKS);
		if (!r)
			domain_places_shared(fs, layer, places, GF_REGION_BLOCKS);
		region++;
	}
	return r;
}

static int walk_layers(struct fs *fs, bool all)
{
	struct layer *layer;
	uint64_t id = 0;
	int r = 0;

	while (!r && (layer = layer_hold_next(fs, id)) != NULL) {
		id = layer->id;
		if (atomic_exchange(&layer->domain_moved, false) || all)
			r = walk_layer(fs, layer);
		atomic_fetch_sub(&layer->users, 1);
	}
	return r;
}

bool domain_walk(struct fs *fs)
{
	struct domains *d = fs->domains;
	uint64_t owed;
	bool all;
	int r;

	if (domain_is_known(fs) || fs->options.dedup != FS_DEDUP_ALL)
		return false;
	MUTEX_GUARD(&d->walk_lock);
	owed = atomic_load(&d->owed);
	if (atomic_load(&d->paid) == owed)
		return false;
	all = atomic_exchange(&d->all, false);
	r = walk_layers(fs, all);
	if (r) {
		log_error(r, "cannot find out which domains blocks are shared in; nothing more is "
			     "shared but with golden images until the next mount");
		MUTEX_GUARD(&d->lock);
		d->incomplete = true;
	}
	atomic_store(&d->paid, owed);
	return all;
}
