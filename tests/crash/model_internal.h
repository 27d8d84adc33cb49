/* SPDX-License-Identifier: MIT */
/* What model.c (what was done) and model_check.c (what may be seen) share. */
#ifndef GOLDFS_TESTS_MODEL_INTERNAL_H
#define GOLDFS_TESTS_MODEL_INTERNAL_H

#include "model.h"

enum value_kind { VALUE_ZERO, VALUE_RANDOM, VALUE_GOLDEN, VALUE_BYTES };

struct value {
	enum value_kind kind;
	uint64_t seed;
	struct image *image;
	uint8_t *bytes;
};

struct model {
	struct value *values;
	size_t value_count, value_room;
	struct model_object **objects; /* by id; NULL: gone */
	size_t object_count, object_room;
	struct model_tree *trees;
	size_t tree_count, tree_room;
	uint64_t next_tree;
	uint64_t generation;
	uint32_t next_state;
	char reason[512];
};

void *model_alloc(void *p, size_t size);
model_value model_bytes(struct model *model, const uint8_t bytes[MODEL_SECTOR]);
/* The first n bytes of a sector. */
bool model_matches(struct model *model, model_value value, uint64_t sector, const uint8_t *buf,
	size_t n);
struct model_chunk *model_chunk(const struct model_object *object, uint64_t sector);
struct model_chunk *model_own_chunk(struct model_object *object, uint64_t sector);
/* Objects that no tree knows are freed. */
void model_collect(struct model *model);

#endif
