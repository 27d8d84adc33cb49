/* SPDX-License-Identifier: MIT */
/*
 * A chained hash table in shards. Each shard has its own lock and grows on its own, so that an
 * insert never holds up writers of other shards for longer than a rehash of one of them.
 */
#include "store/jindex.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "goldfs/format.h"

#define SHARDS 64
#define FIRST_BUCKETS 64

/* An entry in as little as it takes: a block's number has 32 bits at most (GF_MAX_SIZE). */
struct node {
	uint64_t layer;
	uint64_t pos;
	uint64_t seq;
	uint32_t block;
	uint32_t sum;
	struct node *next;
};
_Static_assert((GF_MAX_SIZE >> GF_BLOCK_SHIFT) - 1 <= UINT32_MAX, "number of a block");

struct shard {
	pthread_mutex_t lock;
	struct node **buckets; /* lock */
	size_t bucket_count;   /* lock; a power of two */
	size_t count;	       /* lock */
};

struct jindex {
	struct shard shards[SHARDS];
};

static void put_entry(struct node *n, const struct jentry *entry)
{
	n->layer = entry->layer;
	n->pos = entry->pos;
	n->seq = entry->seq;
	n->block = (uint32_t)entry->block;
	n->sum = entry->sum;
}

static struct jentry get_entry(const struct node *n)
{
	return (struct jentry){.layer = n->layer, .block = n->block, .pos = n->pos, .seq = n->seq,
		.sum = n->sum};
}

static uint64_t hash_key(uint64_t layer, uint64_t block)
{
	/* Odd multipliers spread both halves; guests cannot choose layer ids. */
	uint64_t h = layer * UINT64_C(0x9e3779b97f4a7c15) + block;

	h ^= h >> 32;
	h *= UINT64_C(0xd6e8feb86659fd93);
	h ^= h >> 32;
	return h;
}

static struct shard *shard_of(struct jindex *index, uint64_t hash)
{
	return &index->shards[hash % SHARDS];
}

static struct node **bucket_locked(struct shard *shard, uint64_t hash)
{
	return &shard->buckets[(hash / SHARDS) & (shard->bucket_count - 1)];
}

/* The link that points to the entry, or to where it would be appended. */
static struct node **find_locked(struct shard *shard, uint64_t hash, uint64_t layer, uint64_t block)
{
	struct node **p = bucket_locked(shard, hash);

	while (*p && ((*p)->layer != layer || (*p)->block != block))
		p = &(*p)->next;
	return p;
}

int jindex_new(struct jindex **index)
{
	struct jindex *ix = calloc(1, sizeof(*ix));

	if (!ix)
		return -ENOMEM;
	for (int i = 0; i < SHARDS; i++) {
		struct shard *shard = &ix->shards[i];

		pthread_mutex_init(&shard->lock, NULL);
		shard->bucket_count = FIRST_BUCKETS;
		shard->buckets = calloc(FIRST_BUCKETS, sizeof(*shard->buckets));
		if (!shard->buckets) {
			jindex_free(ix);
			return -ENOMEM;
		}
	}
	*index = ix;
	return 0;
}

void jindex_free(struct jindex *index)
{
	if (!index)
		return;
	for (int i = 0; i < SHARDS; i++) {
		struct shard *shard = &index->shards[i];

		for (size_t b = 0; shard->buckets && b < shard->bucket_count; b++) {
			while (shard->buckets[b]) {
				struct node *next = shard->buckets[b]->next;

				free(shard->buckets[b]);
				shard->buckets[b] = next;
			}
		}
		free(shard->buckets);
		pthread_mutex_destroy(&shard->lock);
	}
	free(index);
}

/* Failing to grow only makes chains longer. */
static void grow_locked(struct shard *shard)
{
	size_t old_count = shard->bucket_count;
	struct node **old = shard->buckets;
	struct node **buckets = calloc(old_count * 2, sizeof(*buckets));

	if (!buckets)
		return;
	shard->buckets = buckets;
	shard->bucket_count = old_count * 2;
	for (size_t b = 0; b < old_count; b++) {
		struct node *next;

		for (struct node *n = old[b]; n; n = next) {
			struct node **p = bucket_locked(shard, hash_key(n->layer, n->block));

			next = n->next;
			n->next = *p;
			*p = n;
		}
	}
	free(old);
}

int jindex_set(struct jindex *index, const struct jentry *entry)
{
	uint64_t hash = hash_key(entry->layer, entry->block);
	struct shard *shard = shard_of(index, hash);
	struct node **p, *n;

	MUTEX_GUARD(&shard->lock);
	p = find_locked(shard, hash, entry->layer, entry->block);
	if (*p) {
		put_entry(*p, entry);
		return 0;
	}
	n = malloc(sizeof(*n));
	if (!n)
		return -ENOMEM;
	put_entry(n, entry);
	n->next = NULL;
	*p = n;
	if (++shard->count > shard->bucket_count)
		grow_locked(shard);
	return 0;
}

bool jindex_get(struct jindex *index, uint64_t layer, uint64_t block, struct jentry *entry)
{
	uint64_t hash = hash_key(layer, block);
	struct shard *shard = shard_of(index, hash);
	struct node **p;

	MUTEX_GUARD(&shard->lock);
	p = find_locked(shard, hash, layer, block);
	if (*p)
		*entry = get_entry(*p);
	return *p != NULL;
}

void jindex_remove(struct jindex *index, uint64_t layer, uint64_t block)
{
	uint64_t hash = hash_key(layer, block);
	struct shard *shard = shard_of(index, hash);
	struct node **p, *n;

	MUTEX_GUARD(&shard->lock);
	p = find_locked(shard, hash, layer, block);
	n = *p;
	if (n) {
		*p = n->next;
		free(n);
		shard->count--;
	}
}

size_t jindex_count(struct jindex *index)
{
	size_t count = 0;

	for (int i = 0; i < SHARDS; i++) {
		MUTEX_GUARD(&index->shards[i].lock);
		count += index->shards[i].count;
	}
	return count;
}

static int compare_entries(const void *a, const void *b)
{
	const struct jentry *x = a, *y = b;

	if (x->layer != y->layer)
		return x->layer < y->layer ? -1 : 1;
	return x->block < y->block ? -1 : x->block > y->block;
}

int jindex_collect(struct jindex *index, uint64_t upto, struct jentry **entries, size_t *count)
{
	struct jentry *list = NULL;
	size_t n = 0, capacity = 0;

	for (int i = 0; i < SHARDS; i++) {
		struct shard *shard = &index->shards[i];

		MUTEX_GUARD(&shard->lock);
		if (n + shard->count > capacity) {
			struct jentry *bigger;

			capacity = 2 * (n + shard->count);
			bigger = realloc(list, capacity * sizeof(*list));
			if (!bigger) {
				free(list);
				return -ENOMEM;
			}
			list = bigger;
		}
		for (size_t b = 0; b < shard->bucket_count; b++)
			for (struct node *nd = shard->buckets[b]; nd; nd = nd->next)
				if (nd->seq <= upto)
					list[n++] = get_entry(nd);
	}
	if (n)
		qsort(list, n, sizeof(*list), compare_entries);
	*entries = list;
	*count = n;
	return 0;
}
