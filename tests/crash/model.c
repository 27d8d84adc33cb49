/* SPDX-License-Identifier: MIT */
#include "model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/sizes.h"
#include "image/image.h"
#include "model_internal.h"
#include "rng.h"

void *model_alloc(void *p, size_t size)
{
	p = realloc(p, size ? size : 1);
	if (!p)
		abort();
	return p;
}

struct model *model_new(void)
{
	struct model *model = model_alloc(NULL, sizeof(*model));

	memset(model, 0, sizeof(*model));
	model->value_room = 64;
	model->values = model_alloc(NULL, model->value_room * sizeof(*model->values));
	model->values[0] = (struct value){.kind = VALUE_ZERO};
	model->value_count = 1;
	model->tree_room = 16;
	model->trees = model_alloc(NULL, model->tree_room * sizeof(*model->trees));
	model->trees[0] = (struct model_tree){0};
	model->tree_count = 1;
	/* No object has the number 0. */
	model->object_count = model->object_room = 1;
	model->objects = model_alloc(NULL, sizeof(*model->objects));
	model->objects[0] = NULL;
	return model;
}

static void object_free(struct model_object *object)
{
	if (!object)
		return;
	for (size_t i = 0; i < object->chunk_count; i++)
		free(object->chunks[i]);
	free(object->chunks);
	free(object->writes);
	free(object->sizes);
	free(object);
}

void model_free(struct model *model)
{
	if (!model)
		return;
	for (size_t i = 0; i < model->object_count; i++)
		object_free(model->objects[i]);
	for (size_t i = 0; i < model->value_count; i++)
		free(model->values[i].bytes);
	for (size_t i = 0; i < model->tree_count; i++)
		free(model->trees[i].list);
	free(model->values);
	free(model->objects);
	free(model->trees);
	free(model);
}

const char *model_reason(const struct model *model)
{
	return model->reason;
}

uint64_t model_generation(const struct model *model)
{
	return model->generation;
}

/* ---- values ---- */

static model_value add_value(struct model *model, struct value value)
{
	if (model->value_count == model->value_room) {
		model->value_room *= 2;
		model->values = model_alloc(model->values,
			model->value_room * sizeof(*model->values));
	}
	model->values[model->value_count] = value;
	return (model_value)model->value_count++;
}

model_value model_random(struct model *model, uint64_t seed)
{
	return add_value(model, (struct value){.kind = VALUE_RANDOM, .seed = seed});
}

model_value model_golden(struct model *model, struct image *image)
{
	return add_value(model, (struct value){.kind = VALUE_GOLDEN, .image = image});
}

model_value model_bytes(struct model *model, const uint8_t bytes[MODEL_SECTOR])
{
	struct value value = {.kind = VALUE_BYTES};

	if (is_zero(bytes, MODEL_SECTOR))
		return 0;
	value.bytes = model_alloc(NULL, MODEL_SECTOR);
	memcpy(value.bytes, bytes, MODEL_SECTOR);
	return add_value(model, value);
}

/* Every word differs from its neighbours, and from the same word in other sectors and values. */
static uint64_t random_word(uint64_t seed, uint64_t sector)
{
	return rng_scramble(seed * UINT64_C(0x9e3779b97f4a7c15) + sector + 1);
}

#define WORD_STEP UINT64_C(0xd1342543de82ef95)

void model_fill(struct model *model, model_value v, uint64_t sector, uint8_t *out)
{
	const struct value *value = &model->values[v];
	uint64_t word, i;

	switch (value->kind) {
	case VALUE_ZERO:
		memset(out, 0, MODEL_SECTOR);
		break;
	case VALUE_RANDOM:
		word = random_word(value->seed, sector);
		for (i = 0; i < MODEL_SECTOR / 8; i++, word += WORD_STEP)
			memcpy(out + i * 8, &word, 8);
		break;
	case VALUE_GOLDEN:
		if (value->image->ops->read(value->image, out, MODEL_SECTOR, sector * MODEL_SECTOR))
			abort();
		break;
	case VALUE_BYTES:
		memcpy(out, value->bytes, MODEL_SECTOR);
		break;
	}
}

bool model_matches(struct model *model, model_value v, uint64_t sector, const uint8_t *buf, size_t n)
{
	const struct value *value = &model->values[v];
	uint8_t want[MODEL_SECTOR];
	uint64_t word;

	if (value->kind == VALUE_RANDOM && n >= 8) {
		word = random_word(value->seed, sector);
		if (memcmp(buf, &word, 8) != 0)
			return false;
	}
	model_fill(model, v, sector, want);
	return memcmp(want, buf, n) == 0;
}

void model_fill_range(struct model *model, model_value value, uint64_t off, size_t len, uint8_t *out)
{
	uint8_t sector[MODEL_SECTOR];

	while (len) {
		size_t at = off % MODEL_SECTOR;
		size_t n = (size_t)min_u64(len, MODEL_SECTOR - at);

		model_fill(model, value, off / MODEL_SECTOR, sector);
		memcpy(out, sector + at, n);
		out += n;
		off += n;
		len -= n;
	}
}

/* ---- objects ---- */

struct model_object *model_object(struct model *model, uint32_t id)
{
	return id < model->object_count ? model->objects[id] : NULL;
}

static struct model_object *new_object(struct model *model, enum model_kind kind)
{
	struct model_object *object = model_alloc(NULL, sizeof(*object));

	if (model->object_count == model->object_room) {
		model->object_room = model->object_room * 2 + 16;
		model->objects = model_alloc(model->objects,
			model->object_room * sizeof(*model->objects));
	}
	*object = (struct model_object){.id = (uint32_t)model->object_count, .kind = kind};
	object->state = ++model->next_state;
	model->objects[model->object_count++] = object;
	return object;
}

struct model_chunk *model_chunk(const struct model_object *object, uint64_t sector)
{
	uint64_t index = sector / MODEL_CHUNK;

	return index < object->chunk_count ? object->chunks[index] : NULL;
}

struct model_chunk *model_own_chunk(struct model_object *object, uint64_t sector)
{
	size_t index = (size_t)(sector / MODEL_CHUNK);
	struct model_chunk *chunk;

	if (index >= object->chunk_count) {
		object->chunks = model_alloc(object->chunks, (index + 1) * sizeof(chunk));
		memset(object->chunks + object->chunk_count, 0,
			(index + 1 - object->chunk_count) * sizeof(chunk));
		object->chunk_count = index + 1;
	}
	chunk = object->chunks[index];
	if (!chunk) {
		chunk = object->chunks[index] = model_alloc(NULL, sizeof(*chunk));
		for (unsigned i = 0; i < MODEL_CHUNK; i++)
			chunk->base[i] = chunk->cur[i] = object->origin;
	}
	return chunk;
}

static model_value current_value(const struct model_object *object, uint64_t sector)
{
	struct model_chunk *chunk = model_chunk(object, sector);

	return chunk ? chunk->cur[sector % MODEL_CHUNK] : object->origin;
}

static void copy_content(struct model_object *to, const struct model_object *from)
{
	to->origin = from->origin;
	to->size = from->size;
	to->base_size = from->base_size;
	to->chunk_count = from->chunk_count;
	to->chunks = model_alloc(NULL, from->chunk_count * sizeof(*to->chunks));
	for (size_t i = 0; i < from->chunk_count; i++) {
		to->chunks[i] = NULL;
		if (from->chunks[i]) {
			to->chunks[i] = model_alloc(NULL, sizeof(**to->chunks));
			memcpy(to->chunks[i], from->chunks[i], sizeof(**to->chunks));
		}
	}
	to->write_count = to->write_room = from->write_count;
	to->writes = model_alloc(NULL, from->write_count * sizeof(*to->writes));
	if (from->write_count)
		memcpy(to->writes, from->writes, from->write_count * sizeof(*to->writes));
	to->size_count = to->size_room = from->size_count;
	to->sizes = model_alloc(NULL, from->size_count * sizeof(*to->sizes));
	if (from->size_count)
		memcpy(to->sizes, from->sizes, from->size_count * sizeof(*to->sizes));
}

void model_collect(struct model *model)
{
	for (size_t i = 0; i < model->object_count; i++) {
		bool used = false;

		if (!model->objects[i])
			continue;
		for (size_t t = 0; t < model->tree_count && !used; t++) {
			for (size_t k = 0; k < model->trees[t].count && !used; k++)
				used = model->trees[t].list[k].object == i;
		}
		if (!used) {
			object_free(model->objects[i]);
			model->objects[i] = NULL;
		}
	}
}

/* ---- the tree ---- */

struct model_tree *model_tree(struct model *model)
{
	return &model->trees[model->tree_count - 1];
}

struct model_entry *model_find(struct model *model, const char *path)
{
	struct model_tree *tree = model_tree(model);

	for (size_t i = 0; i < tree->count; i++) {
		if (strcmp(tree->list[i].path, path) == 0)
			return &tree->list[i];
	}
	return NULL;
}

void model_tree_begin(struct model *model)
{
	struct model_tree *old, *tree;

	if (model->tree_count == model->tree_room) {
		model->tree_room *= 2;
		model->trees = model_alloc(model->trees, model->tree_room * sizeof(*model->trees));
	}
	old = &model->trees[model->tree_count - 1];
	tree = &model->trees[model->tree_count++];
	tree->open = true;
	tree->number = ++model->next_tree;
	tree->count = old->count;
	tree->list = model_alloc(NULL, old->count * sizeof(*tree->list));
	if (old->count)
		memcpy(tree->list, old->list, old->count * sizeof(*tree->list));
	model->generation++;
}

void model_tree_end(struct model *model, bool ok)
{
	struct model_tree *tree = model_tree(model);

	tree->open = false;
	if (!ok) {
		free(tree->list);
		model->tree_count--;
	}
	model->generation++;
}

static struct model_entry *add_entry(struct model *model, const char *path, uint32_t object)
{
	struct model_tree *tree = model_tree(model);
	struct model_entry *entry;

	model_remove(model, path);
	tree->list = model_alloc(tree->list, (tree->count + 1) * sizeof(*tree->list));
	entry = &tree->list[tree->count++];
	*entry = (struct model_entry){.object = object};
	snprintf(entry->path, sizeof(entry->path), "%s", path);
	return entry;
}

struct model_object *model_add(struct model *model, const char *path, enum model_kind kind)
{
	struct model_object *object = new_object(model, kind);

	add_entry(model, path, object->id);
	return object;
}

struct model_object *model_add_clone(struct model *model, const char *path,
	const struct model_object *source)
{
	struct model_object *object = new_object(model, MODEL_FILE);

	copy_content(object, source);
	add_entry(model, path, object->id);
	return object;
}

struct model_object *model_add_golden(struct model *model, const char *path, model_value golden,
	uint64_t size)
{
	struct model_object *object = new_object(model, MODEL_FILE);

	object->origin = golden;
	object->size = object->base_size = size;
	add_entry(model, path, object->id);
	return object;
}

void model_replace(struct model *model, const char *path, const struct model_object *source)
{
	struct model_entry *entry = model_find(model, path);
	struct model_object *object = new_object(model, MODEL_FILE);

	copy_content(object, source);
	object->state = source->state;
	object->ino = model_object(model, entry->object)->ino;
	entry->object = object->id;
}

void model_remove(struct model *model, const char *path)
{
	struct model_entry *entry = model_find(model, path);

	if (entry)
		*entry = model_tree(model)->list[--model_tree(model)->count];
}

void model_move(struct model *model, const char *path, const char *to)
{
	struct model_tree *tree = model_tree(model);
	size_t len = strlen(path);

	model_remove(model, to);
	for (size_t i = 0; i < tree->count; i++) {
		char *p = tree->list[i].path, rest[MODEL_NAME];

		if (strncmp(p, path, len) != 0 || (p[len] && p[len] != '/'))
			continue;
		strcpy(rest, p + len);
		if (snprintf(p, MODEL_NAME, "%s%s", to, rest) >= (int)MODEL_NAME)
			abort();
	}
}

void model_exchange(struct model *model, const char *a, const char *b)
{
	struct model_entry *x = model_find(model, a), *y = model_find(model, b);
	struct model_entry old = *x;

	x->object = y->object;
	x->xattr = y->xattr;
	x->base = y->base;
	y->object = old.object;
	y->xattr = old.xattr;
	y->base = old.base;
}

void model_set_xattr(struct model *model, const char *path, uint32_t value)
{
	model_find(model, path)->xattr = value;
}

/* ---- content ---- */

static void add_write(struct model_object *object, uint64_t first, uint64_t count, model_value value)
{
	if (!count)
		return;
	if (object->write_count == object->write_room) {
		object->write_room = object->write_room * 2 + 16;
		object->writes = model_alloc(object->writes,
			object->write_room * sizeof(*object->writes));
	}
	object->writes[object->write_count++] = (struct model_write){
		.first = first, .count = count, .value = value, .open = true};
}

static void add_size(struct model_object *object, uint64_t low, uint64_t high)
{
	if (object->size_count == object->size_room) {
		object->size_room = object->size_room * 2 + 8;
		object->sizes = model_alloc(object->sizes,
			object->size_room * sizeof(*object->sizes));
	}
	object->sizes[object->size_count++] = (struct model_size){low, high, true, false};
}

/* Part of one sector changes: the result is kept byte for byte. */
static void add_bytes(struct model *model, struct model_object *object, const uint8_t *bytes,
	uint64_t off, uint64_t len)
{
	uint64_t sector = off / MODEL_SECTOR;
	uint8_t buf[MODEL_SECTOR];

	model_fill(model, current_value(object, sector), sector, buf);
	memcpy(buf + off % MODEL_SECTOR, bytes, len);
	add_write(object, sector, 1, model_bytes(model, buf));
}

static void add_partial(struct model *model, struct model_object *object, model_value value,
	uint64_t off, uint64_t len)
{
	uint8_t new[MODEL_SECTOR];

	model_fill(model, value, off / MODEL_SECTOR, new);
	add_bytes(model, object, new + off % MODEL_SECTOR, off, len);
}

void model_write_begin(struct model *model, struct model_object *object, model_value value,
	uint64_t off, uint64_t len, bool grow)
{
	uint64_t end = off + len;

	model->generation++;
	object->state = ++model->next_state;
	if (grow && end > object->size)
		add_size(object, object->size, end);
	if (!grow)
		end = min_u64(end, object->size);
	while (off < end) {
		uint64_t n = min_u64(MODEL_SECTOR - off % MODEL_SECTOR, end - off);

		if (n < MODEL_SECTOR) {
			add_partial(model, object, value, off, n);
		} else {
			n = round_down(end - off, MODEL_SECTOR);
			add_write(object, off / MODEL_SECTOR, n / MODEL_SECTOR, value);
		}
		off += n;
	}
}

void model_rebased(struct model *model, struct model_object *object)
{
	object->state = ++model->next_state;
}

void model_bytes_begin(struct model *model, struct model_object *object, const uint8_t *bytes,
	uint64_t off, uint64_t len)
{
	model->generation++;
	object->state = ++model->next_state;
	if (off + len > object->size)
		add_size(object, object->size, off + len);
	while (len) {
		uint64_t n = min_u64(MODEL_SECTOR - off % MODEL_SECTOR, len);

		add_bytes(model, object, bytes, off, n);
		bytes += n;
		off += n;
		len -= n;
	}
}

/* Runs of equal values, durable ones or those seen. */
static void add_runs(struct model_object *object, const struct model_object *source, bool base)
{
	uint64_t end = (source->size + MODEL_SECTOR - 1) / MODEL_SECTOR, first = 0;
	model_value run = 0;

	for (uint64_t s = 0; s <= end; s++) {
		struct model_chunk *chunk = model_chunk(source, s);
		model_value *list = !chunk ? NULL : base ? chunk->base : chunk->cur;
		model_value v = list ? list[s % MODEL_CHUNK] : source->origin;

		if (s == 0)
			run = v;
		if (v == run && s < end)
			continue;
		add_write(object, first, s - first, run);
		first = s;
		run = v;
	}
}

void model_attach_begin(struct model *model, struct model_object *object,
	const struct model_object *source)
{
	model->generation++;
	object->state = ++model->next_state;
	add_size(object, 0, source->size);
	add_runs(object, source, true);
	for (size_t i = 0; i < source->write_count; i++)
		add_write(object, source->writes[i].first, source->writes[i].count,
			source->writes[i].value);
	add_runs(object, source, false);
}

/*
 * The end of a file moves into a sector. That is no write of the sector: after power loss the new
 * end may stand over any content that the sector may have, with zeros behind it.
 */
static void add_cut(struct model *model, struct model_object *object, uint64_t size)
{
	uint64_t sector = size / MODEL_SECTOR, at = size % MODEL_SECTOR;
	struct model_chunk *chunk = model_chunk(object, sector);
	size_t count = object->write_count;
	uint8_t buf[MODEL_SECTOR];

	for (size_t i = 0; i <= count; i++) {
		const struct model_write *write = i ? &object->writes[i - 1] : NULL;
		model_value v = chunk ? chunk->base[sector % MODEL_CHUNK] : object->origin;

		if (write && (sector < write->first || sector - write->first >= write->count))
			continue;
		model_fill(model, write ? write->value : v, sector, buf);
		memset(buf + at, 0, MODEL_SECTOR - at);
		add_write(object, sector, 1, model_bytes(model, buf));
	}
	add_partial(model, object, 0, size, MODEL_SECTOR - at);
}

void model_truncate_begin(struct model *model, struct model_object *object, uint64_t size)
{
	uint64_t old = object->size;

	model->generation++;
	object->state = ++model->next_state;
	add_size(object, size, size);
	if (size >= old)
		return;
	if (size % MODEL_SECTOR)
		add_cut(model, object, size);
	add_write(object, (size + MODEL_SECTOR - 1) / MODEL_SECTOR,
		(old + MODEL_SECTOR - 1) / MODEL_SECTOR - (size + MODEL_SECTOR - 1) / MODEL_SECTOR, 0);
}

void model_change_end(struct model *model, struct model_object *object)
{
	model->generation++;
	for (size_t i = 0; i < object->write_count; i++) {
		struct model_write *write = &object->writes[i];

		if (!write->open)
			continue;
		write->open = false;
		for (uint64_t s = write->first; s < write->first + write->count; s++)
			model_own_chunk(object, s)->cur[s % MODEL_CHUNK] = write->value;
	}
	for (size_t i = 0; i < object->size_count; i++) {
		if (object->sizes[i].open)
			object->size = object->sizes[i].high;
		object->sizes[i].open = false;
	}
}

uint64_t model_tree_mark(const struct model *model)
{
	size_t i = model->tree_count - 1;

	while (i && model->trees[i].open)
		i--;
	return model->trees[i].number;
}

/* Trees older than the one of that number can not come back. */
static void forget_trees(struct model *model, uint64_t mark)
{
	size_t gone = 0;

	while (gone + 1 < model->tree_count && model->trees[gone].number < mark)
		free(model->trees[gone++].list);
	model->tree_count -= gone;
	memmove(model->trees, model->trees + gone, model->tree_count * sizeof(*model->trees));
	model_collect(model);
	model->generation++;
}

static void object_synced(struct model_object *object)
{
	for (size_t i = 0; i < object->chunk_count; i++) {
		struct model_chunk *chunk = object->chunks[i];

		if (chunk)
			memcpy(chunk->base, chunk->cur, sizeof(chunk->base));
	}
	object->base_size = object->size;
	object->write_count = 0;
	object->size_count = 0;
}

void model_synced(struct model *model, struct model_object *object, uint64_t mark)
{
	object_synced(object);
	forget_trees(model, mark);
}

void model_tree_synced(struct model *model, uint64_t mark)
{
	forget_trees(model, mark);
}

void model_synced_all(struct model *model)
{
	for (size_t i = 0; i < model->object_count; i++) {
		if (model->objects[i])
			object_synced(model->objects[i]);
	}
	forget_trees(model, model_tree_mark(model));
}
