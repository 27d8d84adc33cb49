/* SPDX-License-Identifier: MIT */
/* What long chains of layers show, remembered; see the header. */
#include "store/chain.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include <uthash.h>

#include "base/cleanup.h"
#include "base/mutation.h"
#include "base/sizes.h"
#include "store/layer_internal.h"

#define PARTS 16	/* of the table, each with a lock */
#define WORTH_STEPS 4	/* a look-up that passes fewer layers is cheap enough */
#define WORTH_WALKS 16	/* so many walks cost about what looking at all of a region does */
#define WORD_BLOCKS 32u /* of region_owned() */
#define WORDS (GF_REGION_BLOCKS / WORD_BLOCKS)
#define GROUP_BLOCKS 64u /* looking for a run begins at that of the group's first block */

struct chain_key {
	uint64_t layer; /* id */
	uint64_t region;
};

/* Blocks from `first` on, up to the next run or the end of the region, go on at `owner`. */
struct owner_run {
	uint16_t first;
	uint16_t owner;
};

struct owner {
	struct layer *layer;
	uint64_t limit;
};

/* What is known of one region of one chain. Never changes but for `used`. */
struct chain_region {
	struct chain_key key;
	uint64_t epoch; /* of the cache, when it was begun */
	size_t bytes;	/* that all this takes */
	bool used;	/* part's lock; since it was last looked at for being dropped */
	uint32_t run_count;
	uint16_t group_runs[GF_REGION_BLOCKS / GROUP_BLOCKS]; /* where each group begins */
	struct owner_run *runs;
	struct owner *owners;
	UT_hash_handle hh;
};

struct part {
	pthread_mutex_t lock;
	struct chain_region *regions; /* lock; those that came or were spared last are last */
	size_t bytes;		      /* lock */
};

struct chain_cache {
	size_t part_memory;
	unsigned worth_steps, worth_walks;
	_Atomic uint64_t epoch;
	_Atomic uint64_t builds;
	struct part parts[PARTS];
};

int chain_cache_new(struct chain_cache **cache, size_t memory)
{
	struct chain_cache *c = calloc(1, sizeof(*c));

	if (!c)
		return -ENOMEM;
	c->part_memory = memory / PARTS;
	c->worth_steps = WORTH_STEPS;
	c->worth_walks = WORTH_WALKS;
	for (int i = 0; i < PARTS; i++)
		pthread_mutex_init(&c->parts[i].lock, NULL);
	*cache = c;
	return 0;
}

void chain_cache_be_eager(struct chain_cache *c)
{
	c->worth_steps = 2;
	c->worth_walks = 1;
}

static void drop_locked(struct part *p, struct chain_region *r)
{
	HASH_DEL(p->regions, r);
	p->bytes -= r->bytes;
	free(r->runs);
	free(r->owners);
	free(r);
}

void chain_cache_free(struct chain_cache *c)
{
	if (!c)
		return;
	for (int i = 0; i < PARTS; i++) {
		while (c->parts[i].regions)
			drop_locked(&c->parts[i], c->parts[i].regions);
		pthread_mutex_destroy(&c->parts[i].lock);
	}
	free(c);
}

/* Neighbours are apart, so that clones of one layer seldom wait for each other. */
static struct part *part_of(struct chain_cache *c, const struct chain_key *key)
{
	return &c->parts[(key->layer * 7 + key->region) % PARTS];
}

/* ---- asking ---- */

/* The run that block i of the region is in. */
static uint32_t find_run(const struct chain_region *r, uint32_t i)
{
	uint32_t run = r->group_runs[i / GROUP_BLOCKS];

	while (run + 1 < r->run_count && r->runs[run + 1].first <= i)
		run++;
	return run;
}

static void hop_of(const struct chain_region *r, uint32_t i, uint64_t max, struct chain_hop *hop)
{
	uint32_t run = find_run(r, i);
	uint32_t end = run + 1 < r->run_count ? r->runs[run + 1].first : GF_REGION_BLOCKS;
	const struct owner *owner = &r->owners[r->runs[run].owner];

	hop->layer = owner->layer;
	hop->limit = owner->limit;
	hop->count = min_u64(max, end - i);
	hop->epoch = r->epoch;
}

bool chain_find(struct chain_cache *c, const struct layer *from, uint64_t block, uint64_t max,
	struct chain_hop *hop)
{
	struct chain_key key = {.layer = from->id, .region = block / GF_REGION_BLOCKS};
	struct chain_region *r;
	struct part *p;

	if (!c || !atomic_load(&from->chained))
		return false;
	p = part_of(c, &key);
	MUTEX_GUARD(&p->lock);
	HASH_FIND(hh, p->regions, &key, sizeof(key), r);
	if (!r || r->epoch != atomic_load(&c->epoch))
		return false;
	r->used = true;
	hop_of(r, block % GF_REGION_BLOCKS, max, hop);
	return true;
}

/* ---- looking at a region ---- */

struct build {
	bool may_read; /* pages that are not in memory */
	uint64_t open[WORDS];		  /* as region_owned(): blocks whose owner is not known yet */
	uint16_t owner[GF_REGION_BLOCKS]; /* of the others */
	struct owner *owners;
	uint32_t owner_count;
};

static int add_owner(struct build *b, struct layer *layer, uint64_t limit)
{
	struct owner *more;

	if (b->owner_count == UINT16_MAX)
		return -E2BIG;
	more = realloc(b->owners, (b->owner_count + 1) * sizeof(*more));
	if (!more)
		return -ENOMEM;
	b->owners = more;
	more[b->owner_count++] = (struct owner){.layer = layer, .limit = limit};
	return 0;
}

/* The blocks of a word, as bits, go on at the owner that was added last. */
static void settle_word(struct build *b, uint32_t word, uint64_t bits)
{
	b->open[word] &= ~bits;
	for (; bits; bits &= bits - 1) {
		uint32_t i = word * WORD_BLOCKS + (uint32_t)__builtin_ctzll(bits) / 2;

		b->owner[i] = (uint16_t)(b->owner_count - 1);
	}
}

static void settle_all(struct build *b)
{
	for (uint32_t w = 0; w < WORDS; w++)
		settle_word(b, w, b->open[w]);
}

/* What the layer owns of what is open. The layer has been passed from now on: whoever gives it a
 * block more has to say so. */
static int look_at(struct build *b, struct layer *l, uint32_t number, uint64_t limit,
	struct layer **below, bool *open)
{
	bool added = false;
	struct region *r;
	int e = 0;

	MUTEX_GUARD(&l->lock);
	l->passed = true;
	*below = l->parent;
	r = layer_find_region_locked(l, number);
	if (r && !r->loaded && !b->may_read)
		return -EAGAIN;
	if (r)
		e = layer_load_region_locked(l, number, r);
	if (e)
		return e;
	*open = false;
	for (uint32_t w = 0; w < WORDS; w++) {
		uint64_t found = r ? b->open[w] & region_owned(r, w) : 0;

		if (found && !added) {
			e = add_owner(b, l, limit);
			if (e)
				return e;
			added = true;
		}
		settle_word(b, w, found);
		*open |= b->open[w] != 0;
	}
	return 0;
}

/* Down the chain until each block has an owner, or until nothing below can show. */
static int look_down(struct build *b, struct layer *from, uint32_t number)
{
	uint64_t limit = GF_MAX_SIZE;
	bool open = true;
	int e;

	memset(b->open, 0x55, sizeof(b->open));
	for (struct layer *l = from, *below; open; l = below) {
		e = look_at(b, l, number, limit, &below, &open);
		if (e)
			return e;
		if (open && (!below || limit <= number * GF_REGION_SIZE)) {
			e = add_owner(b, l, limit);
			if (!e)
				settle_all(b);
			return e;
		}
		if (!MUTATED("what is remembered of a chain forgets its bounds"))
			limit = min_u64(limit, atomic_load(&l->bound));
	}
	return 0;
}

static uint32_t count_runs(const struct build *b)
{
	uint32_t n = 1;

	for (uint32_t i = 1; i < GF_REGION_BLOCKS; i++)
		n += b->owner[i] != b->owner[i - 1];
	return n;
}

/* Takes the owners over. */
static struct chain_region *make_region(
	struct build *b, const struct chain_key *key, uint64_t epoch)
{
	struct chain_region *r = calloc(1, sizeof(*r));
	uint32_t n = count_runs(b);

	if (r)
		r->runs = malloc(n * sizeof(*r->runs));
	if (!r || !r->runs) {
		free(r);
		return NULL;
	}
	for (uint32_t i = 0; i < GF_REGION_BLOCKS; i++) {
		if (i == 0 || b->owner[i] != b->owner[i - 1])
			r->runs[r->run_count++] = (struct owner_run){(uint16_t)i, b->owner[i]};
		if (i % GROUP_BLOCKS == 0)
			r->group_runs[i / GROUP_BLOCKS] = (uint16_t)(r->run_count - 1);
	}
	r->key = *key;
	r->epoch = epoch;
	r->owners = steal_pointer(&b->owners);
	r->bytes = sizeof(*r) + n * sizeof(*r->runs) + b->owner_count * sizeof(*r->owners);
	return r;
}

/* What was asked for since it was last here is spared once. */
static void make_room_locked(struct chain_cache *c, struct part *p)
{
	while (p->bytes > c->part_memory && p->regions) {
		struct chain_region *r = p->regions;

		if (r->used && r->epoch == atomic_load(&c->epoch)) {
			HASH_DEL(p->regions, r);
			r->used = false;
			HASH_ADD(hh, p->regions, key, sizeof(r->key), r);
		} else {
			drop_locked(p, r);
		}
	}
}

static void keep(struct chain_cache *c, struct layer *from, struct chain_region *r)
{
	struct part *p = part_of(c, &r->key);
	struct chain_region *old;

	MUTEX_GUARD(&p->lock);
	HASH_FIND(hh, p->regions, &r->key, sizeof(r->key), old);
	if (old)
		drop_locked(p, old);
	HASH_ADD(hh, p->regions, key, sizeof(r->key), r);
	p->bytes += r->bytes;
	atomic_store(&from->chained, true);
	make_room_locked(c, p);
}

static void look_at_region(struct chain_cache *c, struct layer *from, uint32_t number, bool may_read)
{
	struct chain_key key = {.layer = from->id, .region = number};
	CLEANUP_FREE struct build *b = malloc(sizeof(*b));
	/* Before anything is looked at: what changes meanwhile makes all of it void. */
	uint64_t epoch = atomic_load(&c->epoch);
	struct chain_region *r = NULL;

	if (!b)
		return;
	b->may_read = may_read;
	b->owners = NULL;
	b->owner_count = 0;
	/* A page that cannot be read: whoever reads the block will be told. */
	if (look_down(b, from, number) == 0)
		r = make_region(b, &key, epoch);
	free(b->owners);
	if (!r)
		return;
	keep(c, from, r);
	atomic_fetch_add(&c->builds, 1);
}

void chain_walked(
	struct chain_cache *c, struct layer *from, uint64_t block, unsigned steps, bool may_read)
{
	uint32_t paid;

	if (!c || steps < c->worth_steps)
		return;
	paid = atomic_fetch_add(&from->walked, steps) + steps;
	if (paid / c->worth_walks < steps)
		return;
	atomic_store(&from->walked, 0);
	look_at_region(c, from, (uint32_t)(block / GF_REGION_BLOCKS), may_read);
}

/* ---- forgetting ---- */

void chain_changed(struct chain_cache *c)
{
	if (c && !MUTATED("what is remembered of a chain outlives its change"))
		atomic_fetch_add(&c->epoch, 1);
}

void chain_forget(struct chain_cache *c, const struct layer *layer)
{
	struct chain_region *r, *next;

	if (!c || !atomic_load(&layer->chained))
		return;
	for (int i = 0; i < PARTS; i++) {
		struct part *p = &c->parts[i];

		MUTEX_GUARD(&p->lock);
		HASH_ITER (hh, p->regions, r, next)
			if (r->key.layer == layer->id)
				drop_locked(p, r);
	}
}

/* ---- for assertions and tests ---- */

static bool owns_any(struct layer *l, uint64_t block, uint64_t count)
{
	uint32_t number = block / GF_REGION_BLOCKS, first = block % GF_REGION_BLOCKS;
	struct region *r;

	MUTEX_GUARD(&l->lock);
	r = layer_find_region_locked(l, number);
	for (uint32_t i = first; r && r->loaded && i < first + count; i++)
		if (region_state(r, i) != GF_PARENT || region_journaled(r, i))
			return true;
	return false;
}

bool chain_hop_is_right(struct chain_cache *c, struct layer *from, uint64_t block,
	const struct chain_hop *hop)
{
	for (struct layer *l = from; l != hop->layer; l = l->parent)
		if (!l || owns_any(l, block, hop->count))
			return atomic_load(&c->epoch) != hop->epoch;
	return true;
}

size_t chain_memory(struct chain_cache *c)
{
	size_t sum = 0;

	for (int i = 0; i < PARTS; i++) {
		MUTEX_GUARD(&c->parts[i].lock);
		sum += c->parts[i].bytes;
	}
	return sum;
}

uint64_t chain_builds(struct chain_cache *c)
{
	return atomic_load(&c->builds);
}
