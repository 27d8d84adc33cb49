/* SPDX-License-Identifier: MIT */
/* Whether what is observed may be: the questions of model.h. */
#include "model_internal.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/sizes.h"

#define SMALL_FILE (8 * MIB) /* up to here all is read, not only what was touched */
#define SAMPLES 4

static int __attribute__((format(printf, 2, 3))) wrong(struct model *model, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(model->reason, sizeof(model->reason), fmt, ap);
	va_end(ap);
	return -1;
}

/* Which value the first n bytes of a sector show; false: none that may be. */
static bool find_value(struct model *model, const struct model_object *object, uint64_t sector,
	const uint8_t *buf, size_t n, enum model_mode mode, model_value *found)
{
	const struct model_chunk *chunk = model_chunk(object, sector);
	model_value cur = chunk ? chunk->cur[sector % MODEL_CHUNK] : object->origin;
	model_value base = chunk ? chunk->base[sector % MODEL_CHUNK] : object->origin;

	*found = cur;
	if (model_matches(model, cur, sector, buf, n))
		return true;
	*found = base;
	if (mode == MODEL_POWER && base != cur && model_matches(model, base, sector, buf, n))
		return true;
	for (size_t i = object->write_count; i-- > 0;) {
		const struct model_write *write = &object->writes[i];

		if (sector < write->first || sector - write->first >= write->count)
			continue;
		if (mode == MODEL_EXACT && !write->open && !write->maybe)
			continue;
		*found = write->value;
		if (model_matches(model, write->value, sector, buf, n))
			return true;
	}
	return false;
}

static bool size_may_be(const struct model_object *object, uint64_t size, enum model_mode mode)
{
	if (size == object->size || (mode == MODEL_POWER && size == object->base_size))
		return true;
	for (size_t i = 0; i < object->size_count; i++) {
		const struct model_size *s = &object->sizes[i];

		if (mode == MODEL_EXACT && !s->open && !s->maybe)
			continue;
		if (size >= s->low && size <= s->high)
			return true;
	}
	return false;
}

/* A sector that is no value as a whole: the oldest and newest values that each part agrees with. */
static void describe_parts(struct model *model, uint64_t sector, const uint8_t *buf, size_t n,
	char *out, size_t size)
{
	int last[2] = {-2, -2}, at = snprintf(out, size, "a mixture");
	uint8_t want[MODEL_SECTOR];

	for (size_t i = 0; i + 8 <= n && at + 24 < (int)size; i += 8) {
		int found[2] = {-1, -1};

		for (int v = 0; v < (int)model->value_count; v++) {
			model_fill(model, (model_value)v, sector, want);
			if (memcmp(want + i, buf + i, 8) != 0)
				continue;
			found[0] = found[0] < 0 ? v : found[0];
			found[1] = v;
		}
		if (memcmp(found, last, sizeof(found)) != 0)
			at += snprintf(out + at, size - (size_t)at, " %zu:%d..%d", i, found[0],
				found[1]);
		memcpy(last, found, sizeof(last));
	}
}

/* Who else wrote what is seen there: helps to understand a failure. */
static void describe(struct model *model, uint64_t sector, const uint8_t *buf, size_t n, char *out,
	size_t size)
{
	for (model_value v = 0; v < model->value_count; v++) {
		if (model_matches(model, v, sector, buf, n)) {
			snprintf(out, size, "value %u", v);
			return;
		}
	}
	describe_parts(model, sector, buf, n, out, size);
}

static int wrong_sector(struct model *model, const struct model_object *object, const char *path,
	uint64_t sector, const uint8_t *buf, size_t n)
{
	const struct model_chunk *chunk = model_chunk(object, sector);
	char seen[160], list[160] = "";
	size_t at = 0;

	describe(model, sector, buf, n, seen, sizeof(seen));
	for (size_t i = 0; i < object->write_count && at + 24 < sizeof(list); i++) {
		const struct model_write *write = &object->writes[i];

		if (sector >= write->first && sector - write->first < write->count)
			at += (size_t)snprintf(list + at, sizeof(list) - at, " %u%s", write->value,
				write->open ? "?" : "");
	}
	return wrong(model,
		"\"%s\" (ino %" PRIu64 ") sector %" PRIu64 " (block %" PRIu64 "): reads %s; "
		"synced %u, acknowledged %u, written since:%s",
		path, object->ino, sector, sector / 8, seen,
		chunk ? chunk->base[sector % MODEL_CHUNK] : object->origin,
		chunk ? chunk->cur[sector % MODEL_CHUNK] : object->origin, *list ? list : " -");
}

/* When values is not NULL it gets what was found. */
static int check_range(struct model *model, const struct model_object *object,
	const struct model_view *view, const struct model_seen *seen, enum model_mode mode,
	uint64_t off, uint64_t len, model_value *values)
{
	uint8_t buf[MODEL_CHUNK_BYTES];
	ssize_t got;

	if (off >= seen->size)
		return 0;
	len = min_u64(len, seen->size - off);
	memset(buf, 0xa5, sizeof(buf));
	got = view->read(view->arg, seen->ino, buf, len, off);
	if (got != (ssize_t)len)
		return wrong(model,
			"\"%s\" (ino %" PRIu64 "): read of %" PRIu64 " at %" PRIu64 " gives %zd",
			seen->path, seen->ino, len, off, got);
	for (uint64_t at = 0; at < len; at += MODEL_SECTOR) {
		uint64_t sector = (off + at) / MODEL_SECTOR;
		size_t n = (size_t)min_u64(MODEL_SECTOR, len - at);
		model_value found;

		if (!find_value(model, object, sector, buf + at, n, mode, &found))
			return wrong_sector(model, object, seen->path, sector, buf + at, n);
		if (values)
			values[at / MODEL_SECTOR] = found;
	}
	return 0;
}

int model_check_object(struct model *model, const struct model_object *object,
	const struct model_view *view, const struct model_seen *seen, enum model_mode mode,
	bool thorough)
{
	bool all = thorough || seen->size <= SMALL_FILE;
	uint64_t chunks = round_up(seen->size, MODEL_CHUNK_BYTES) / MODEL_CHUNK_BYTES;
	int rc = 0;

	if (!size_may_be(object, seen->size, mode))
		return wrong(model,
			"\"%s\" (ino %" PRIu64 "): size %" PRIu64 "; synced %" PRIu64
			", acknowledged %" PRIu64,
			seen->path, seen->ino, seen->size, object->base_size, object->size);
	for (uint64_t i = 0; i < chunks && !rc; i++) {
		bool sample = chunks < SAMPLES || i % (chunks / SAMPLES) == object->id % 3;

		if (all || sample || model_chunk(object, i * MODEL_CHUNK))
			rc = check_range(model, object, view, seen, mode, i * MODEL_CHUNK_BYTES,
				MODEL_CHUNK_BYTES, NULL);
	}
	return rc;
}

/* ---- trees ---- */

static const struct model_seen *find_seen(const struct model_view *view, const char *path)
{
	for (size_t i = 0; i < view->count; i++) {
		if (strcmp(view->list[i].path, path) == 0)
			return &view->list[i];
	}
	return NULL;
}

/* A file whose number is not known yet is not one of those that are. */
static bool is_known(const struct model *model, uint64_t ino)
{
	for (size_t i = 0; i < model->object_count; i++) {
		if (model->objects[i] && model->objects[i]->ino == ino)
			return true;
	}
	return false;
}

/* UINT64_MAX: its number is not known yet. */
static uint64_t base_of(const struct model *model, const struct model_entry *entry)
{
	uint64_t ino = entry->base ? model->objects[entry->base]->ino : 0;

	return entry->base && !ino ? UINT64_MAX : ino;
}

static int compare_tree(struct model *model, const struct model_tree *tree,
	const struct model_view *view)
{
	for (size_t i = 0; i < tree->count; i++) {
		const struct model_entry *entry = &tree->list[i];
		const struct model_object *object = model->objects[entry->object];
		const struct model_seen *seen = find_seen(view, entry->path);

		if (!seen)
			return wrong(model, "\"%s\" (ino %" PRIu64 ") is missing", entry->path,
				object->ino);
		if (seen->kind != object->kind ||
			(object->ino ? seen->ino != object->ino : is_known(model, seen->ino)))
			return wrong(model, "\"%s\" is ino %" PRIu64 ", not %" PRIu64, entry->path,
				seen->ino, object->ino);
		if (seen->xattr != entry->xattr)
			return wrong(model, "\"%s\" has attribute %u, not %u", entry->path,
				seen->xattr, entry->xattr);
		if (seen->base != base_of(model, entry) && base_of(model, entry) != UINT64_MAX)
			return wrong(model, "\"%s\" stands on ino %" PRIu64 ", not %" PRIu64,
				entry->path, seen->base, base_of(model, entry));
	}
	for (size_t i = 0; i < view->count && tree->count != view->count; i++) {
		bool known = false;

		for (size_t k = 0; k < tree->count && !known; k++)
			known = strcmp(tree->list[k].path, view->list[i].path) == 0;
		if (!known)
			return wrong(model, "\"%s\" (ino %" PRIu64 ") should not be there",
				view->list[i].path, view->list[i].ino);
	}
	return 0;
}

static int check_content(struct model *model, const struct model_tree *tree,
	const struct model_view *view, enum model_mode mode, bool thorough)
{
	int rc = 0;

	for (size_t i = 0; i < tree->count && !rc; i++) {
		const struct model_object *object = model->objects[tree->list[i].object];

		if (object->kind == MODEL_FILE)
			rc = model_check_object(model, object, view,
				find_seen(view, tree->list[i].path), mode, thorough);
	}
	return rc;
}

/* The newest tree that the view shows and that may be seen, with its content: the same names may have
 * stood for other content before. NULL: none. */
static struct model_tree *find_tree(struct model *model, const struct model_view *view,
	enum model_mode mode, bool thorough)
{
	char first[sizeof(model->reason)], content[sizeof(model->reason)] = "";

	for (size_t i = model->tree_count; i-- > 0;) {
		struct model_tree *tree = &model->trees[i];

		if (compare_tree(model, tree, view) == 0) {
			if (check_content(model, tree, view, mode, thorough) == 0)
				return tree;
			if (!*content)
				memcpy(content, model->reason, sizeof(content));
		}
		if (i + 1 == model->tree_count)
			memcpy(first, model->reason, sizeof(first));
		if (mode == MODEL_EXACT && !tree->open)
			break;
	}
	if (*content)
		wrong(model, "%.500s", content);
	else
		wrong(model, "the tree is none of %zu: %.400s", model->tree_count, first);
	return NULL;
}

int model_check(struct model *model, const struct model_view *view, enum model_mode mode,
	bool thorough)
{
	return find_tree(model, view, mode, thorough) ? 0 : -1;
}

/* ---- making what is seen the truth ---- */

/* Nothing is left behind the end: what comes there later is zero until written. */
static void cut_tail(struct model *model, struct model_object *object, uint64_t size)
{
	uint64_t sector = size / MODEL_SECTOR;
	uint8_t buf[MODEL_SECTOR];
	struct model_chunk *chunk;

	if (size % MODEL_SECTOR) {
		chunk = model_own_chunk(object, sector);
		model_fill(model, chunk->cur[sector % MODEL_CHUNK], sector, buf);
		memset(buf + size % MODEL_SECTOR, 0, MODEL_SECTOR - size % MODEL_SECTOR);
		chunk->cur[sector % MODEL_CHUNK] = model_bytes(model, buf);
		sector++;
	}
	for (; sector % MODEL_CHUNK && model_chunk(object, sector); sector++)
		model_chunk(object, sector)->cur[sector % MODEL_CHUNK] = 0;
	sector = round_up(sector, MODEL_CHUNK);
	for (; model_chunk(object, sector) || sector / MODEL_CHUNK < object->chunk_count;
		sector += MODEL_CHUNK) {
		chunk = model_own_chunk(object, sector);
		memset(chunk->cur, 0, sizeof(chunk->cur));
	}
}

static int adopt_content(struct model *model, struct model_object *object,
	const struct model_view *view, const struct model_seen *seen, enum model_mode mode)
{
	model_value values[MODEL_CHUNK];
	uint64_t high = max_u64(object->size, max_u64(object->base_size, seen->size));

	for (size_t i = 0; i < object->size_count; i++)
		high = max_u64(high, object->sizes[i].high);
	for (size_t i = 0; i < object->chunk_count; i++) {
		uint64_t off = i * MODEL_CHUNK_BYTES;
		struct model_chunk *chunk;

		if (!object->chunks[i] || off >= seen->size)
			continue;
		if (check_range(model, object, view, seen, mode, off, MODEL_CHUNK_BYTES, values))
			return -1;
		chunk = object->chunks[i];
		memcpy(chunk->cur, values,
			(size_t)min_u64(MODEL_CHUNK, (seen->size - off + MODEL_SECTOR - 1) / MODEL_SECTOR) *
				sizeof(*values));
	}
	/* Untouched chunks past the end of a file that grew once hold what it began with. */
	if (seen->size < high && object->origin)
		model_own_chunk(object, (high - 1) / MODEL_SECTOR);
	object->size = seen->size;
	cut_tail(model, object, seen->size);
	return 0;
}

/* Pending writes may be in chunks that were never touched. */
static void touch_pending(struct model_object *object)
{
	for (size_t i = 0; i < object->write_count; i++) {
		const struct model_write *write = &object->writes[i];

		for (uint64_t s = write->first; s < write->first + write->count; s++)
			model_own_chunk(object, s);
	}
}

int model_adopt(struct model *model, const struct model_view *view)
{
	struct model_tree *tree = find_tree(model, view, MODEL_POWER, false), keep;

	if (!tree)
		return -1;
	for (size_t i = 0; i < tree->count; i++) {
		struct model_object *object = model->objects[tree->list[i].object];
		const struct model_seen *seen = find_seen(view, tree->list[i].path);

		object->ino = seen->ino;
		if (object->kind != MODEL_FILE)
			continue;
		touch_pending(object);
		if (adopt_content(model, object, view, seen, MODEL_POWER))
			return -1;
	}
	/* The tree that was found becomes the only one. */
	keep = *tree;
	for (size_t i = 0; i < model->tree_count; i++) {
		if (&model->trees[i] != tree)
			free(model->trees[i].list);
	}
	model->trees[0] = keep;
	model->trees[0].open = false;
	model->tree_count = 1;
	model_synced_all(model);
	return 0;
}

int model_settle_object(struct model *model, struct model_object *object,
	const struct model_view *view, uint64_t size)
{
	struct model_seen seen = {.kind = MODEL_FILE, .ino = object->ino, .size = size};

	strcpy(seen.path, "?");
	touch_pending(object);
	if (!size_may_be(object, size, MODEL_EXACT))
		return wrong(model, "ino %" PRIu64 ": size %" PRIu64 " after a failed change",
			object->ino, size);
	if (adopt_content(model, object, view, &seen, MODEL_EXACT))
		return -1;
	for (size_t i = 0; i < object->write_count; i++) {
		object->writes[i].maybe |= object->writes[i].open;
		object->writes[i].open = false;
	}
	for (size_t i = 0; i < object->size_count; i++) {
		object->sizes[i].maybe |= object->sizes[i].open;
		object->sizes[i].open = false;
	}
	model->generation++;
	return 0;
}
