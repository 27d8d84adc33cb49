/* SPDX-License-Identifier: MIT */
/*
 * The operations of the random workloads on content, and what all operations share.
 *
 * Each announces itself to the model, calls the file system, and confirms. An error is a failure
 * of the test unless the run has faults armed or a full disk; then the model takes back what can
 * be taken back and looks at the rest.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/falloc.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/sizes.h"
#include "image/image.h"
#include "workload_internal.h"

int say(struct run *run, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(run->text, sizeof(run->text), fmt, ap);
	va_end(ap);
	if (run->verbose)
		printf("  op %d: %s\n", run->op, run->text);
	return 0;
}

int verdict(struct run *run, int64_t r)
{
	if (r >= 0)
		return 0;
	if ((run->failing && (r == -EIO || r == -ENOSPC || r == -EROFS)) ||
		(r == -ENOSPC && run->profile->capacity < GIB)) {
		if (run->verbose)
			printf("    fails: %s\n", strerror((int)-r));
		return 0;
	}
	return run_fail(run, "%s: %s", run->text, strerror((int)-r));
}

/* ---- choosing ---- */

struct model_entry *pick_entry(struct run *run, enum model_kind kind)
{
	struct model_entry *list[64];
	size_t n = 0;

	for (size_t i = 0; i < run->path_count; i++) {
		struct model_entry *entry = model_find(run->model, run->paths[i]);

		if (entry && model_object(run->model, entry->object)->kind == kind)
			list[n++] = entry;
	}
	return n ? list[below(run, n)] : NULL;
}

struct model_object *object_of(struct run *run, const struct model_entry *entry)
{
	return model_object(run->model, entry->object);
}

size_t file_count(struct run *run)
{
	size_t n = 0;

	for (size_t i = 0; i < run->path_count; i++) {
		struct model_entry *entry = model_find(run->model, run->paths[i]);

		n += entry && object_of(run, entry)->kind == MODEL_FILE;
	}
	return n;
}

/* "" for the root's own; otherwise the folder's part of path. */
static void split(const char *path, char folder[MODEL_NAME], const char **name)
{
	const char *slash = strrchr(path, '/');

	folder[0] = 0;
	*name = path;
	if (!slash)
		return;
	memcpy(folder, path, (size_t)(slash - path));
	folder[slash - path] = 0;
	*name = slash + 1;
}

uint64_t place_of(struct run *run, const char *path, const char **name)
{
	char folder[MODEL_NAME];
	struct model_entry *entry;

	split(path, folder, name);
	if (!*folder)
		return FS_INO_ROOT;
	entry = model_find(run->model, folder);
	return entry ? object_of(run, entry)->ino : 0;
}

const char *pick_free(struct run *run, bool folder)
{
	const char *list[64], *name;
	size_t n = 0;

	for (size_t i = 0; i < run->path_count; i++) {
		const char *path = run->paths[i], *slash = strrchr(path, '/');
		bool is_folder = (slash ? slash[1] : *path) == 'd';

		if (is_folder == folder && !model_find(run->model, path) &&
			place_of(run, path, &name))
			list[n++] = path;
	}
	return n ? list[below(run, n)] : NULL;
}

/* ---- writing ---- */

int failed_change(struct run *run, struct model_object *object, int64_t r)
{
	struct model_view view = {0};
	struct fs_attr attr;

	if (verdict(run, r))
		return -1;
	if (fs_getattr(run->fs, object->ino, &attr) || view_take(&view, run->fs))
		run_fail(run, "%s: nothing can be read after its failure", run->text);
	else if (model_settle_object(run->model, object, &view,
			 attr.size - min_u64(attr.size, run->profile->shift)))
		run_fail(run, "%s: after its failure %s", run->text, model_reason(run->model));
	view_release(&view);
	return *run->reason ? -1 : 0;
}

static int do_write(struct run *run, struct model_entry *entry, model_value value, uint64_t off,
	uint64_t len)
{
	struct model_object *object = object_of(run, entry);
	CLEANUP_FREE uint8_t *buf = malloc(len);
	ssize_t n;

	say(run, "write \"%s\" %" PRIu64 "+%" PRIu64 " value %u", entry->path, off, len, value);
	model_fill_range(run->model, value, off, len, buf);
	model_write_begin(run->model, object, value, off, len, true);
	n = UNLOCKED(run, fs_write(run->fs, object->ino, buf, len, off + run->profile->shift));
	if (n == (ssize_t)len) {
		model_change_end(run->model, object);
		return 0;
	}
	if (n >= 0)
		return run_fail(run, "%s: wrote only %zd", run->text, n);
	return failed_change(run, object, n);
}

/* Where content is looked for, it is one of a few. */
static model_value some_value(struct run *run)
{
	uint64_t seed = rng_next(&run->rng);

	return model_random(run->model, run->profile->dedup && seed % 8 ? seed % 5 : seed);
}

/* A place for a write of len bytes, in units of align; large files mostly at region borders. */
static uint64_t pick_place(struct run *run, const struct model_object *object, uint64_t len,
	uint64_t align)
{
	uint64_t end = max_u64(object->size, 64 * KIB), off;

	if (object->size > MAX_SIZE) {
		uint64_t near = 32 * MIB * (1 + below(run, 1 + object->size / (32 * MIB)));

		if (below(run, 3) == 0)
			near = below(run, 2) ? 64 * KIB : object->size;
		off = near - min_u64(near, 96 * KIB) + below(run, 128 * KIB);
	} else {
		end = min_u64(end + 40 * KIB, MAX_SIZE - len);
		off = below(run, end);
		/* There the last block of the largest file is a thing of its own. */
		if (run->profile->shift && below(run, 3) == 0)
			off = MAX_SIZE - len;
	}
	return round_down(off, align);
}

int op_small(struct run *run)
{
	struct model_entry *entry = pick_entry(run, MODEL_FILE);
	uint64_t len = 4096 * (1 + below(run, 4));

	if (!entry)
		return 0;
	return do_write(run, entry, some_value(run),
		pick_place(run, object_of(run, entry), len, 4096), len);
}

/* The same few blocks again and again. */
int op_hot(struct run *run)
{
	struct model_entry *entry = pick_entry(run, MODEL_FILE);
	uint64_t len = 4096 * (1 + below(run, 2));

	if (!entry)
		return 0;
	return do_write(run, entry, some_value(run),
		4096 * below(run, 6), len);
}

int op_sectors(struct run *run)
{
	struct model_entry *entry = pick_entry(run, MODEL_FILE);
	uint64_t len = 512 * (1 + below(run, 20));

	if (!entry)
		return 0;
	return do_write(run, entry, some_value(run),
		pick_place(run, object_of(run, entry), len, 512), len);
}

int op_bytes(struct run *run)
{
	struct model_entry *entry = pick_entry(run, MODEL_FILE);
	uint64_t len = 1 + below(run, 9000);

	if (!entry)
		return 0;
	return do_write(run, entry, some_value(run),
		pick_place(run, object_of(run, entry), len, 1), len);
}

int op_large(struct run *run)
{
	struct model_entry *entry = pick_entry(run, MODEL_FILE);
	uint64_t len = 64 * KIB + 4096 * below(run, below(run, 4) ? 16 : 200);

	if (!entry)
		return 0;
	return do_write(run, entry, some_value(run),
		pick_place(run, object_of(run, entry), len, 4096), len);
}

int op_large_odd(struct run *run)
{
	struct model_entry *entry = pick_entry(run, MODEL_FILE);
	uint64_t align = below(run, 2) ? 512 : 1;
	uint64_t len = 68 * KIB + round_down(below(run, 140 * KIB), align);

	if (!entry)
		return 0;
	return do_write(run, entry, some_value(run),
		pick_place(run, object_of(run, entry), len, align), len);
}

static uint64_t some_length(struct run *run, uint64_t align)
{
	uint64_t len = below(run, 3) ? 1 + below(run, 20 * KIB) : 1 + below(run, 200 * KIB);

	return round_up(len, align);
}

int op_zeros(struct run *run)
{
	struct model_entry *entry = pick_entry(run, MODEL_FILE);
	uint64_t align = below(run, 2) ? 4096 : 512, len = some_length(run, align);

	if (!entry)
		return 0;
	return do_write(run, entry, 0, pick_place(run, object_of(run, entry), len, align), len);
}

/* What the golden image has at the same place. */
int op_golden_bytes(struct run *run)
{
	struct model_entry *entry = pick_entry(run, MODEL_FILE);
	uint64_t align = below(run, 2) ? 4096 : 512, len = some_length(run, align);
	struct model_object *object;
	model_value value;

	if (!entry)
		return 0;
	object = object_of(run, entry);
	value = object->origin ? object->origin : run->golden[below(run, RUN_IMAGES)];
	return do_write(run, entry, value, pick_place(run, object, len, align), len);
}

static int do_range(struct run *run, int mode)
{
	struct model_entry *entry = pick_entry(run, MODEL_FILE);
	uint64_t align = below(run, 2) ? 4096 : below(run, 2) ? 512 : 1;
	uint64_t len = some_length(run, align), off;
	struct model_object *object;
	bool grow = !(mode & FALLOC_FL_KEEP_SIZE);
	int r;

	if (!entry)
		return 0;
	object = object_of(run, entry);
	if (below(run, 8) == 0 && object->size <= 80 * MIB)
		len = max_u64(round_up(object->size, 4096), 4096);
	off = pick_place(run, object, min_u64(len, 256 * KIB), align);
	if (object->size <= MAX_SIZE)
		len = min_u64(len, MAX_SIZE - off);
	say(run, "fallocate \"%s\" mode %d %" PRIu64 "+%" PRIu64, entry->path, mode, off, len);
	model_write_begin(run->model, object, 0, off, len, grow);
	r = UNLOCKED(run, fs_fallocate(run->fs, object->ino, mode,
			     off + run->profile->shift, len));
	if (r)
		return failed_change(run, object, r);
	model_change_end(run->model, object);
	return 0;
}

int op_punch(struct run *run)
{
	return do_range(run, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE);
}

int op_zero_range(struct run *run)
{
	return do_range(run, FALLOC_FL_ZERO_RANGE | (below(run, 2) ? FALLOC_FL_KEEP_SIZE : 0));
}

int op_truncate(struct run *run)
{
	struct model_entry *entry = pick_entry(run, MODEL_FILE);
	struct model_object *object;
	struct fs_attr attr = {0};
	int r;

	if (!entry)
		return 0;
	object = object_of(run, entry);
	if (object->size > MAX_SIZE && below(run, 3))
		attr.size = object->size - 40 * MIB * below(run, 2) + below(run, 100 * KIB);
	else
		attr.size = below(run, 2) ? below(run, object->size + 1) : below(run, MAX_SIZE);
	if (below(run, 2))
		attr.size = round_down(attr.size, 4096);
	if (attr.size > 80 * MIB)
		attr.size = 80 * MIB;
	if (run->profile->shift)
		attr.size = min_u64(attr.size, MAX_SIZE);
	say(run, "truncate \"%s\" %" PRIu64 " -> %" PRIu64, entry->path, object->size, attr.size);
	model_truncate_begin(run->model, object, attr.size);
	attr.size += run->profile->shift;
	r = UNLOCKED(run, fs_setattr(run->fs, object->ino, FS_SET_SIZE, &attr));
	if (r)
		return failed_change(run, object, r);
	model_change_end(run->model, object);
	return 0;
}

/* A disk that is large and almost empty. */
int op_grow(struct run *run)
{
	struct model_entry *entry = pick_entry(run, MODEL_FILE);
	struct fs_attr attr = {.size = 256 * MIB + 4096 * below(run, 65536)};
	struct model_object *object;
	int r;

	if (!entry || object_of(run, entry)->size > MAX_SIZE)
		return 0;
	object = object_of(run, entry);
	say(run, "grow \"%s\" to %" PRIu64, entry->path, attr.size);
	model_truncate_begin(run->model, object, attr.size);
	r = fs_setattr(run->fs, object->ino, FS_SET_SIZE, &attr);
	if (r)
		return failed_change(run, object, r);
	model_change_end(run->model, object);
	return 0;
}

/* What stands in one file, or in a golden image, written to another, or the same, elsewhere. */
int op_repeat(struct run *run)
{
	struct model_entry *from = pick_entry(run, MODEL_FILE), *to = pick_entry(run, MODEL_FILE);
	uint64_t len = 4096 * (1 + below(run, below(run, 2) ? 8 : 40)), src_off, dst_off;
	CLEANUP_FREE uint8_t *buf = calloc(1, len);
	struct image *image = run->images[below(run, RUN_IMAGES)];
	struct model_object *src, *dst;
	ssize_t n;

	if (!from)
		return 0;
	src = object_of(run, from);
	dst = object_of(run, to);
	src_off = round_down(below(run, min_u64(src->size, MAX_SIZE) + 1), 4096);
	dst_off = pick_place(run, dst, len, 4096);
	if (below(run, 4) == 0) {
		src_off = round_down(below(run, min_u64(image->size, MAX_SIZE)), 4096);
		n = image->ops->read(image, buf, len, src_off);
		say(run, "write golden bytes at %" PRIu64 " to \"%s\" %" PRIu64 "+%" PRIu64, src_off,
			to->path, dst_off, len);
	} else {
		n = fs_read(run->fs, src->ino, buf, len, src_off);
		say(run, "write what stands in \"%s\" at %" PRIu64 " to \"%s\" %" PRIu64 "+%" PRIu64,
			from->path, src_off, to->path, dst_off, len);
	}
	if (n < 0)
		return verdict(run, n);
	model_bytes_begin(run->model, dst, buf, dst_off, len);
	n = UNLOCKED(run, fs_write(run->fs, dst->ino, buf, len, dst_off + run->profile->shift));
	if (n != (ssize_t)len)
		return n < 0 ? failed_change(run, dst, n) :
			       run_fail(run, "%s: wrote only %zd", run->text, n);
	model_change_end(run->model, dst);
	return 0;
}

/* Part of one file into another, or into itself. */
int op_copy_range(struct run *run)
{
	struct model_entry *from = pick_entry(run, MODEL_FILE), *to = pick_entry(run, MODEL_FILE);
	uint64_t align = below(run, 2) ? 4096 : 1, len = round_up(1 + below(run, 48 * KIB), align);
	struct model_object *src, *dst;
	CLEANUP_FREE uint8_t *buf = malloc(len);
	uint64_t src_off, dst_off, done = 0;

	if (!from)
		return 0;
	src = object_of(run, from);
	dst = object_of(run, to);
	src_off = round_down(below(run, src->size + 1), align);
	len = min_u64(len, src->size - src_off);
	dst_off = 4096 + pick_place(run, dst, len + 8192, align);
	if (!len || (src == dst && src_off < dst_off + len && dst_off < src_off + len))
		return 0;
	say(run, "copy \"%s\" %" PRIu64 " -> \"%s\" %" PRIu64 "+%" PRIu64, from->path, src_off,
		to->path, dst_off, len);
	if (fs_read(run->fs, src->ino, buf, len, src_off) != (ssize_t)len)
		return run_fail(run, "%s: the source cannot be read", run->text);
	model_bytes_begin(run->model, dst, buf, dst_off, len);
	while (done < len) {
		ssize_t n = UNLOCKED(run, fs_copy_range(run->fs, src->ino, src_off + done,
			dst->ino, dst_off + done, len - done, 1000 + run->seed));

		if (n <= 0)
			return n ? failed_change(run, dst, n) :
				   run_fail(run, "%s: nothing is copied", run->text);
		done += (uint64_t)n;
	}
	model_change_end(run->model, dst);
	return 0;
}
