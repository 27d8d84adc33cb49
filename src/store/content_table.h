/* SPDX-License-Identifier: MIT */
/*
 * Where content was seen last: from a block's checksum (hash_block(), keyed with the store's secret)
 * to a place that had these bytes: a slot of the pool, or a block of a layer.
 *
 * A hint in memory, within a budget: it starts empty, grows as it is filled, and when the budget is
 * used up a new entry takes the place of an old one. It may name places that hold something else by
 * now; whoever uses it compares the bytes. The checksum's 32 bits are what the disk has. With 2^24
 * entries one look-up of new data in 256 finds something by them that is another content, which costs
 * a read. So 16 more bits of the hash, the tag, stand in an entry where they were known.
 *
 * Keyed by domain, too: content is found in its own domain only (0: the store's common one). One of
 * 2^32 or more finds nothing.
 *
 * Threads: any, at any time; sharded locks inside, which are the last ones.
 */
#ifndef GOLDFS_STORE_CONTENT_TABLE_H
#define GOLDFS_STORE_CONTENT_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct content_table;

struct content_place {
	bool pool;
	uint64_t owner; /* layer; 0 in the pool */
	uint64_t block; /* of the layer (below 2^32), or slot of the pool (below 2^48) */
	uint16_t tag;	/* hash_tag(); 0: not known */
};

/* budget: bytes. Less than 64 KiB counts as that. */
int content_table_new(struct content_table **table, uint64_t budget);
void content_table_free(struct content_table *table);
/* The place for this content from now on. */
void content_table_put(struct content_table *table, uint64_t domain, uint32_t sum,
	const struct content_place *place);
/* The same, if it costs no other entry its place. */
bool content_table_offer(struct content_table *table, uint64_t domain, uint32_t sum,
	const struct content_place *place);
/* Up to `max` places that may have this content, the newest first; returns how many. */
unsigned content_table_find(struct content_table *table, uint64_t domain, uint32_t sum,
	struct content_place *places, unsigned max);
/* A find or a put of this follows soon: the memory for it is fetched meanwhile. */
void content_table_expect(struct content_table *table, uint64_t domain, uint32_t sum);
/* Forgets one. */
void content_table_drop(struct content_table *table, uint64_t domain, uint32_t sum,
	const struct content_place *place);
size_t content_table_memory(struct content_table *table); /* bytes */
uint64_t content_table_count(struct content_table *table);

#endif
