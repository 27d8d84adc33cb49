/* SPDX-License-Identifier: MIT */
/*
 * A hash table in which an entry has its bucket and no other place: eight of them, and which is the
 * newest. A put takes the place of the oldest, so that what is forgotten is always the oldest of
 * its bucket.
 *
 * With millions of entries each touch of a bucket is a miss of all the processor's caches, which is
 * most of what this costs those whose data is new. So what says whether content is known is one
 * line of the cache, where an entry stands never changes, and a put writes one line more. Large
 * tables ask for huge pages, and a caller that has several look-ups to do can have the lines
 * fetched first. They are mapped by themselves: from the heap of each thread that has a shard grow,
 * what the shard had before would stay in that heap, and come to half the budget on top.
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
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/cleanup.h"
#include "base/sizes.h"

#define SHARDS 64
#define WAYS 8
#define GROW_AT 3	/* entries a bucket, on average */
#define PLACES_OF_ONE 2 /* for one checksum */
#define LEAST_BUDGET (64 * KIB)
#define FIRST_BUCKETS 4
#define IN_POOL (UINT64_C(1) << 63)
#define LINE 64 /* of the processor's cache, bytes */
#define HUGE_PAGE (2 * MIB)
#define MAPPED (64 * KIB) /* from so many bytes on; pages are no larger */

/* What an entry names, and for whom. */
struct named {
	uint64_t owner; /* the layer, or IN_POOL and the slot */
	uint32_t domain;
	uint32_t block; /* of the layer */
};

struct bucket {
	_Alignas(LINE) uint32_t sums[WAYS]; /* 0: no entry. A block's checksum never is */
	uint16_t tags[WAYS];		    /* 0: not known */
	uint8_t order[WAYS];		    /* the ways, the newest first, then empty ones */
	_Alignas(LINE) struct named named[WAYS];
};
_Static_assert(sizeof(struct bucket) == 3 * LINE, "bucket of the content table");

struct entry {
	struct named named;
	uint32_t sum;
	uint16_t tag;
};

struct shard {
	pthread_mutex_t lock;
	/* Changed under the lock; looked at without it by what only fetches ahead. */
	_Atomic(struct bucket *) buckets;
	_Atomic(uint64_t) bucket_count; /* below 2^32 */
	uint64_t count;			/* lock; entries */
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

/* Bytes of so many buckets. */
static size_t size_of(uint64_t count)
{
	size_t size = count * sizeof(struct bucket), whole = round_up(size, HUGE_PAGE);

	if (size < MAPPED)
		return size;
	/* A last page that would be nearly full may be huge, too: the budget is of memory in use.
	 */
	return whole - size <= size / 64 ? whole : round_up(size, MAPPED);
}

static void free_buckets(struct bucket *buckets, uint64_t count)
{
	size_t size = size_of(count);

	if (buckets && size >= MAPPED)
		munmap(buckets, size);
	else
		free(buckets);
}

void content_table_free(struct content_table *table)
{
	if (!table)
		return;
	for (int i = 0; i < SHARDS; i++) {
		free_buckets(table->shards[i].buckets, table->shards[i].bucket_count);
		pthread_mutex_destroy(&table->shards[i].lock);
	}
	free(table);
}

/* Zeros, on the border of a huge page if there can be any. NULL: no memory. */
static void *map(size_t size)
{
	size_t more = size < HUGE_PAGE ? 0 : HUGE_PAGE, before;
	uint8_t *bytes = mmap(
		NULL, size + more, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (bytes == MAP_FAILED)
		return NULL;
	if (!more)
		return bytes;
	before = round_up((uintptr_t)bytes, HUGE_PAGE) - (uintptr_t)bytes;
	if (before)
		munmap(bytes, before);
	if (before < more)
		munmap(bytes + before + size, more - before);
	madvise(bytes + before, round_down(size, HUGE_PAGE), MADV_HUGEPAGE);
	return bytes + before;
}

/* Empty ones. NULL: no memory. */
static struct bucket *new_buckets(uint64_t count)
{
	size_t size = size_of(count);
	struct bucket *buckets = NULL;

	if (size >= MAPPED)
		buckets = map(size);
	else if (posix_memalign((void **)&buckets, LINE, size) == 0)
		memset(buckets, 0, size);
	else
		buckets = NULL;
	for (uint64_t i = 0; buckets && i < count; i++)
		for (uint8_t way = 0; way < WAYS; way++)
			buckets[i].order[way] = way;
	return buckets;
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

static bool is_of(const struct bucket *b, unsigned way, uint64_t domain, uint32_t sum)
{
	return b->sums[way] == sum && b->named[way].domain == domain;
}

static bool is_same(const struct bucket *b, unsigned way, const struct entry *e)
{
	return is_of(b, way, e->named.domain, e->sum) && b->named[way].owner == e->named.owner &&
	       b->named[way].block == e->named.block;
}

/* false: it cannot be said in an entry. */
static bool entry_init(
	struct entry *e, uint64_t domain, uint32_t sum, const struct content_place *place)
{
	*e = (struct entry){.sum = sum, .tag = place->tag};
	e->named.domain = (uint32_t)domain;
	e->named.owner = place->pool ? IN_POOL | place->block : place->owner;
	e->named.block = place->pool ? 0 : (uint32_t)place->block;
	return sum && domain <= UINT32_MAX &&
	       (place->pool ? place->block < IN_POOL
			    : place->owner < IN_POOL && place->block <= UINT32_MAX);
}

static struct entry entry_at(const struct bucket *b, unsigned way)
{
	return (struct entry){.named = b->named[way], .sum = b->sums[way], .tag = b->tags[way]};
}

static struct content_place place_of(const struct bucket *b, unsigned way)
{
	const struct named *n = &b->named[way];

	if (n->owner & IN_POOL)
		return (struct content_place){
			.pool = true, .block = n->owner & ~IN_POOL, .tag = b->tags[way]};
	return (struct content_place){.owner = n->owner, .block = n->block, .tag = b->tags[way]};
}

/* Of the entry that is the i-th by age: the next one becomes that. */
static void remove_at(struct bucket *b, unsigned i)
{
	uint8_t way = b->order[i];

	memmove(&b->order[i], &b->order[i + 1], WAYS - 1 - i);
	b->order[WAYS - 1] = way;
	b->sums[way] = 0;
}

static bool is_full(const struct bucket *b)
{
	return b->sums[b->order[WAYS - 1]] != 0;
}

static void set_way(struct bucket *b, unsigned way, const struct entry *e)
{
	b->sums[way] = e->sum;
	b->tags[way] = e->tag;
	b->named[way] = e->named;
}

/* False: there was no room but the oldest one's. */
static bool insert_first(struct bucket *b, const struct entry *e)
{
	bool room = !is_full(b);
	uint8_t way = b->order[WAYS - 1];

	memmove(&b->order[1], &b->order[0], WAYS - 1);
	b->order[0] = way;
	set_way(b, way, e);
	return room;
}

/* Gives the shard more buckets if the budget has any; without memory it stays as it is. */
static void grow_locked(struct content_table *table, struct shard *shard)
{
	struct bucket *old = shard->buckets, *buckets;
	uint64_t old_count = shard->bucket_count;
	uint64_t count = min_u64(max_u64(2 * old_count, FIRST_BUCKETS), table->most_buckets);

	if (count <= old_count)
		return;
	buckets = new_buckets(count);
	if (!buckets)
		return;
	shard->count = 0;
	for (uint64_t i = 0; i < old_count; i++) {
		for (int age = WAYS - 1; age >= 0; age--) {
			struct entry e = entry_at(&old[i], old[i].order[age]);

			if (e.sum)
				shard->count += insert_first(
					bucket_of(buckets, count, hash_key(e.named.domain, e.sum)),
					&e);
		}
	}
	shard->buckets = buckets;
	shard->bucket_count = count;
	free_buckets(old, old_count);
}

static struct bucket *bucket_locked(const struct shard *shard, uint64_t hash)
{
	return bucket_of(shard->buckets, shard->bucket_count, hash);
}

/* Removes the same entry, and the oldest one of the checksum if there are as many as may be. */
static void make_way_locked(struct shard *shard, struct bucket *b, const struct entry *e)
{
	unsigned same = 0;

	for (unsigned i = 0; i < WAYS && b->sums[b->order[i]];) {
		bool of_it = is_of(b, b->order[i], e->named.domain, e->sum);

		if (of_it && (is_same(b, b->order[i], e) || same == PLACES_OF_ONE - 1)) {
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
	b = bucket_locked(shard, hash);
	make_way_locked(shard, b, &e);
	if (is_full(b) && shard->count >= shard->bucket_count * GROW_AT) {
		grow_locked(table, shard);
		b = bucket_locked(shard, hash);
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
	b = bucket_locked(shard, hash);
	for (; i < WAYS && b->sums[b->order[i]]; i++) {
		same += is_of(b, b->order[i], domain, sum);
		if (same == PLACES_OF_ONE || is_same(b, b->order[i], &e))
			return true;
	}
	if (i == WAYS)
		return false;
	/* The first of the empty ones: it is the oldest. */
	set_way(b, b->order[i], &e);
	shard->count++;
	return true;
}

void content_table_expect(struct content_table *table, uint64_t domain, uint32_t sum)
{
	uint64_t hash = hash_key(domain, sum);
	struct shard *shard = shard_of(table, hash);
	struct bucket *buckets = atomic_load_explicit(&shard->buckets, memory_order_relaxed);
	uint64_t count = atomic_load_explicit(&shard->bucket_count, memory_order_relaxed);

	/* Nothing is read: if they are replaced just now, the wrong line is fetched. */
	if (buckets)
		__builtin_prefetch(bucket_of(buckets, count, hash));
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
	b = bucket_locked(shard, hash);
	for (unsigned i = 0; i < WAYS && b->sums[b->order[i]] && found < max; i++)
		if (is_of(b, b->order[i], domain, sum))
			places[found++] = place_of(b, b->order[i]);
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
	b = bucket_locked(shard, hash);
	for (unsigned i = 0; i < WAYS && b->sums[b->order[i]]; i++) {
		if (is_same(b, b->order[i], &e)) {
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
