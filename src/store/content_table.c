/* SPDX-License-Identifier: MIT */
/*
 * A hash table in which an entry has its bucket and no other place: eight entries of 24 bytes, the
 * newest first. A put shifts the older ones back and drops the last, so that what is forgotten is
 * always the oldest of its bucket, and finding the newest first costs nothing.
 *
 * Each shard has a lock and grows on its own, to twice its buckets when one overflows and three
 * eighths of all places are used, until its part of the budget is spent. (A bucket that overflows
 * before that forgets its oldest entry; about one in 300 is lost so.)
 *
 * Two places are kept for one checksum, so that two contents which have it by chance do not drive
 * each other out, and a content that is everywhere leaves room for others.
 */
#include "store/content_table.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/sizes.h"

#define SHARDS 64
#define WAYS 8
#define GROW_AT 3	/* entries a bucket, on average */
#define PLACES_OF_ONE 2 /* for one checksum */
#define LEAST_BUDGET (64 * KIB)
#define FIRST_BUCKETS 4
#define IN_POOL (UINT64_C(1) << 63)

struct entry {
	uint64_t owner; /* the layer, or IN_POOL and the slot */
	uint32_t domain;
	uint32_t block; /* of the layer */
	uint32_t sum;	/* 0: no entry. A block's checksum never is */
	uint32_t tag;	/* 0: not known */
};
_Static_assert(sizeof(struct entry) == 24, "entry of the content table");

struct bucket {
	struct entry entries[WAYS]; /* the newest first, then empty ones */
};

struct shard {
	pthread_mutex_t lock;
	struct bucket *buckets; /* lock */
	uint64_t bucket_count;	/* lock; below 2^32 */
	uint64_t count;		/* lock; entries */
};

struct content_table {
	uint64_t most_buckets; /* of a shard */
	struct shard shards[SHARDS];
};

int content_table_new(struct content_table **table, uint64_t budget)
{
	struct content_table *t = calloc(1, sizeof(*t));

	if (!t)
		return -ENOMEM;
	t->most_buckets = max_u64(budget, LEAST_BUDGET) / SHARDS / sizeof(struct bucket);
	t->most_buckets = min_u64(t->most_buckets, UINT32_MAX);
	for (int i = 0; i < SHARDS; i++)
		pthread_mutex_init(&t->shards[i].lock, NULL);
	*table = t;
	return 0;
}

void content_table_free(struct content_table *table)
{
	if (!table)
		return;
	for (int i = 0; i < SHARDS; i++) {
		free(table->shards[i].buckets);
		pthread_mutex_destroy(&table->shards[i].lock);
	}
	free(table);
}

/* Spreads what is close together. The sum is keyed: nobody can aim at a bucket. */
static uint64_t hash_key(uint64_t domain, uint32_t sum)
{
	uint64_t h = (domain * UINT64_C(0x9e3779b97f4a7c15)) ^ sum;

	h ^= h >> 32;
	h *= UINT64_C(0xd6e8feb86659fd93);
	h ^= h >> 32;
	h *= UINT64_C(0xd6e8feb86659fd93);
	return h ^ (h >> 32);
}

static struct shard *shard_of(struct content_table *table, uint64_t hash)
{
	return &table->shards[hash % SHARDS];
}

/* The upper half of the hash as a fraction of all buckets, whose number is no power of 2. */
static struct bucket *bucket_of(struct bucket *buckets, uint64_t count, uint64_t hash)
{
	return &buckets[((hash >> 32) * count) >> 32];
}

static bool is_of(const struct entry *e, uint64_t domain, uint32_t sum)
{
	return e->sum == sum && e->domain == domain;
}

static bool is_same(const struct entry *a, const struct entry *b)
{
	return is_of(a, b->domain, b->sum) && a->owner == b->owner && a->block == b->block;
}

/* false: it cannot be said in an entry. */
static bool entry_init(struct entry *e, uint64_t domain, uint32_t sum,
	const struct content_place *place)
{
	*e = (struct entry){.domain = (uint32_t)domain, .sum = sum, .tag = place->tag};
	e->owner = place->pool ? IN_POOL | place->block : place->owner;
	e->block = place->pool ? 0 : (uint32_t)place->block;
	return sum && domain <= UINT32_MAX && (place->pool ? place->block < IN_POOL :
				     place->owner < IN_POOL && place->block <= UINT32_MAX);
}

static struct content_place place_of(const struct entry *e)
{
	if (e->owner & IN_POOL)
		return (struct content_place){
			.pool = true, .block = e->owner & ~IN_POOL, .tag = e->tag};
	return (struct content_place){.owner = e->owner, .block = e->block, .tag = e->tag};
}

/* The others move up. */
static void remove_at(struct bucket *b, unsigned i)
{
	memmove(&b->entries[i], &b->entries[i + 1], (WAYS - 1 - i) * sizeof(*b->entries));
	b->entries[WAYS - 1] = (struct entry){0};
}

/* The others move back. False: there was no room but for the oldest one's. */
static bool insert_first(struct bucket *b, const struct entry *e)
{
	bool room = !b->entries[WAYS - 1].sum;

	memmove(&b->entries[1], &b->entries[0], (WAYS - 1) * sizeof(*b->entries));
	b->entries[0] = *e;
	return room;
}

/* Gives the shard more buckets if the budget has any; without memory it stays as it is. */
static void grow_locked(struct content_table *table, struct shard *shard)
{
	uint64_t count = min_u64(max_u64(2 * shard->bucket_count, FIRST_BUCKETS),
		table->most_buckets);
	struct bucket *buckets;

	if (count <= shard->bucket_count)
		return;
	buckets = calloc(count, sizeof(*buckets));
	if (!buckets)
		return;
	shard->count = 0;
	for (uint64_t i = 0; i < shard->bucket_count; i++) {
		for (int way = WAYS - 1; way >= 0; way--) {
			const struct entry *e = &shard->buckets[i].entries[way];

			if (e->sum)
				shard->count += insert_first(
					bucket_of(buckets, count, hash_key(e->domain, e->sum)), e);
		}
	}
	free(shard->buckets);
	shard->buckets = buckets;
	shard->bucket_count = count;
}

/* Removes the same entry, and the oldest one of the checksum if there are as many as may be. */
static void make_way_locked(struct shard *shard, struct bucket *b, const struct entry *e)
{
	unsigned same = 0;

	for (unsigned i = 0; i < WAYS && b->entries[i].sum;) {
		bool of_it = is_of(&b->entries[i], e->domain, e->sum);

		if (is_same(&b->entries[i], e) || (of_it && same == PLACES_OF_ONE - 1)) {
			remove_at(b, i);
			shard->count--;
		} else {
			same += of_it;
			i++;
		}
	}
}

void content_table_put(struct content_table *table, uint64_t domain, uint32_t sum,
	const struct content_place *place)
{
	uint64_t hash = hash_key(domain, sum);
	struct shard *shard = shard_of(table, hash);
	struct bucket *b;
	struct entry e;

	if (!entry_init(&e, domain, sum, place))
		return;
	MUTEX_GUARD(&shard->lock);
	if (!shard->buckets)
		grow_locked(table, shard);
	if (!shard->buckets)
		return;
	b = bucket_of(shard->buckets, shard->bucket_count, hash);
	make_way_locked(shard, b, &e);
	if (b->entries[WAYS - 1].sum && shard->count >= shard->bucket_count * GROW_AT) {
		grow_locked(table, shard);
		b = bucket_of(shard->buckets, shard->bucket_count, hash);
	}
	shard->count += insert_first(b, &e);
}

bool content_table_offer(struct content_table *table, uint64_t domain, uint32_t sum,
	const struct content_place *place)
{
	uint64_t hash = hash_key(domain, sum);
	struct shard *shard = shard_of(table, hash);
	struct bucket *b;
	unsigned i = 0, same = 0;
	struct entry e;

	if (!entry_init(&e, domain, sum, place))
		return false;
	MUTEX_GUARD(&shard->lock);
	if (!shard->buckets || shard->count >= shard->bucket_count * GROW_AT)
		grow_locked(table, shard);
	if (!shard->buckets)
		return false;
	b = bucket_of(shard->buckets, shard->bucket_count, hash);
	for (; i < WAYS && b->entries[i].sum; i++) {
		same += is_of(&b->entries[i], domain, sum);
		if (same == PLACES_OF_ONE || is_same(&b->entries[i], &e))
			return true;
	}
	if (i == WAYS)
		return false;
	b->entries[i] = e;
	shard->count++;
	return true;
}

unsigned content_table_find(struct content_table *table, uint64_t domain, uint32_t sum,
	struct content_place *places, unsigned max)
{
	uint64_t hash = hash_key(domain, sum);
	struct shard *shard = shard_of(table, hash);
	const struct bucket *b;
	unsigned found = 0;

	MUTEX_GUARD(&shard->lock);
	if (!shard->buckets || !sum)
		return 0;
	b = bucket_of(shard->buckets, shard->bucket_count, hash);
	for (unsigned i = 0; i < WAYS && b->entries[i].sum && found < max; i++)
		if (is_of(&b->entries[i], domain, sum))
			places[found++] = place_of(&b->entries[i]);
	return found;
}

void content_table_drop(struct content_table *table, uint64_t domain, uint32_t sum,
	const struct content_place *place)
{
	uint64_t hash = hash_key(domain, sum);
	struct shard *shard = shard_of(table, hash);
	struct bucket *b;
	struct entry e;

	if (!entry_init(&e, domain, sum, place))
		return;
	MUTEX_GUARD(&shard->lock);
	if (!shard->buckets)
		return;
	b = bucket_of(shard->buckets, shard->bucket_count, hash);
	for (unsigned i = 0; i < WAYS && b->entries[i].sum; i++) {
		if (is_same(&b->entries[i], &e)) {
			remove_at(b, i);
			shard->count--;
			return;
		}
	}
}

size_t content_table_memory(struct content_table *table)
{
	size_t bytes = sizeof(*table);

	for (int i = 0; i < SHARDS; i++) {
		MUTEX_GUARD(&table->shards[i].lock);
		bytes += table->shards[i].bucket_count * sizeof(struct bucket);
	}
	return bytes;
}

uint64_t content_table_count(struct content_table *table)
{
	uint64_t count = 0;

	for (int i = 0; i < SHARDS; i++) {
		MUTEX_GUARD(&table->shards[i].lock);
		count += table->shards[i].count;
	}
	return count;
}
