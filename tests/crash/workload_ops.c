/* SPDX-License-Identifier: MIT */
/*
 * The operations of the random workloads, and the mixes of them.
 *
 * Each announces itself to the model, calls the file system, and confirms. An error is a failure
 * of the test unless the run has faults armed; then the model takes back what can be taken back
 * and looks at the rest.
 */
#include "workload.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/falloc.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/sizes.h"
#include "image/image.h"

#define MAX_SIZE (1280 * KIB) /* of files that are no clones of the large image */
#define MAX_FILES 9

static const char *const all_paths[] = {
	"f0", "f1", "f2", "f3", "f4", "d0", "d1", "d0/a", "d0/b", "d1/a", "d1/b", "d0/s", "d1/s"};

static const struct fs_owner owner = {0, 0};

static uint64_t below(struct run *run, uint64_t n)
{
	return rng_below(&run->rng, n);
}

static int __attribute__((format(printf, 2, 3))) say(struct run *run, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(run->text, sizeof(run->text), fmt, ap);
	va_end(ap);
	if (run->verbose)
		printf("  op %d: %s\n", run->op, run->text);
	return 0;
}

/* An error that must not be: the run ends. One that faults explain: 0. */
static int verdict(struct run *run, int64_t r)
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

static struct model_entry *pick_entry(struct run *run, enum model_kind kind)
{
	struct model_tree *tree = model_tree(run->model);
	struct model_entry *list[64];
	size_t n = 0;

	for (size_t i = 0; i < ARRAY_SIZE(all_paths); i++) {
		struct model_entry *entry = model_find(run->model, all_paths[i]);

		if (entry && model_object(run->model, entry->object)->kind == kind)
			list[n++] = entry;
	}
	(void)tree;
	return n ? list[below(run, n)] : NULL;
}

static struct model_object *object_of(struct run *run, const struct model_entry *entry)
{
	return model_object(run->model, entry->object);
}

static size_t file_count(struct run *run)
{
	struct model_tree *tree = model_tree(run->model);
	size_t n = 0;

	for (size_t i = 0; i < tree->count; i++)
		n += model_object(run->model, tree->list[i].object)->kind == MODEL_FILE;
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

/* The inode of the folder that holds path, 0 when there is none. */
static uint64_t place_of(struct run *run, const char *path, const char **name)
{
	char folder[MODEL_NAME];
	struct model_entry *entry;

	split(path, folder, name);
	if (!*folder)
		return FS_INO_ROOT;
	entry = model_find(run->model, folder);
	return entry ? object_of(run, entry)->ino : 0;
}

/* Where nothing stands yet, in a folder that is there. NULL: none. */
static const char *pick_free(struct run *run, bool folder)
{
	const char *list[ARRAY_SIZE(all_paths)], *name;
	size_t n = 0;

	for (size_t i = 0; i < ARRAY_SIZE(all_paths); i++) {
		const char *path = all_paths[i];
		bool is_folder = path[strlen(path) - 2] == 'd' || strchr(path, 's');

		if (is_folder == folder && !model_find(run->model, path) &&
			place_of(run, path, &name))
			list[n++] = path;
	}
	return n ? list[below(run, n)] : NULL;
}

/* ---- writing ---- */

/* A change of content failed: what of it is to be seen is the truth. */
static int failed_change(struct run *run, struct model_object *object, int64_t r)
{
	struct model_view view = {0};
	struct fs_attr attr;

	if (verdict(run, r))
		return -1;
	if (fs_getattr(run->fs, object->ino, &attr) || view_take(&view, run->fs))
		run_fail(run, "%s: nothing can be read after its failure", run->text);
	else if (model_settle_object(run->model, object, &view, attr.size))
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
	n = fs_write(run->fs, object->ino, buf, len, off);
	if (n == (ssize_t)len) {
		model_change_end(run->model, object);
		return 0;
	}
	if (n >= 0)
		return run_fail(run, "%s: wrote only %zd", run->text, n);
	return failed_change(run, object, n);
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
	}
	return round_down(off, align);
}

static int op_small(struct run *run)
{
	struct model_entry *entry = pick_entry(run, MODEL_FILE);
	uint64_t len = 4096 * (1 + below(run, 4));

	if (!entry)
		return 0;
	return do_write(run, entry, model_random(run->model, rng_next(&run->rng)),
		pick_place(run, object_of(run, entry), len, 4096), len);
}

/* The same few blocks again and again. */
static int op_hot(struct run *run)
{
	struct model_entry *entry = pick_entry(run, MODEL_FILE);
	uint64_t len = 4096 * (1 + below(run, 2));

	if (!entry)
		return 0;
	return do_write(run, entry, model_random(run->model, rng_next(&run->rng)),
		4096 * below(run, 6), len);
}

static int op_sectors(struct run *run)
{
	struct model_entry *entry = pick_entry(run, MODEL_FILE);
	uint64_t len = 512 * (1 + below(run, 20));

	if (!entry)
		return 0;
	return do_write(run, entry, model_random(run->model, rng_next(&run->rng)),
		pick_place(run, object_of(run, entry), len, 512), len);
}

static int op_bytes(struct run *run)
{
	struct model_entry *entry = pick_entry(run, MODEL_FILE);
	uint64_t len = 1 + below(run, 9000);

	if (!entry)
		return 0;
	return do_write(run, entry, model_random(run->model, rng_next(&run->rng)),
		pick_place(run, object_of(run, entry), len, 1), len);
}

static int op_large(struct run *run)
{
	struct model_entry *entry = pick_entry(run, MODEL_FILE);
	uint64_t len = 64 * KIB + 4096 * below(run, below(run, 4) ? 16 : 200);

	if (!entry)
		return 0;
	return do_write(run, entry, model_random(run->model, rng_next(&run->rng)),
		pick_place(run, object_of(run, entry), len, 4096), len);
}

static int op_large_odd(struct run *run)
{
	struct model_entry *entry = pick_entry(run, MODEL_FILE);
	uint64_t align = below(run, 2) ? 512 : 1;
	uint64_t len = 68 * KIB + round_down(below(run, 140 * KIB), align);

	if (!entry)
		return 0;
	return do_write(run, entry, model_random(run->model, rng_next(&run->rng)),
		pick_place(run, object_of(run, entry), len, align), len);
}

static uint64_t some_length(struct run *run, uint64_t align)
{
	uint64_t len = below(run, 3) ? 1 + below(run, 20 * KIB) : 1 + below(run, 200 * KIB);

	return round_up(len, align);
}

static int op_zeros(struct run *run)
{
	struct model_entry *entry = pick_entry(run, MODEL_FILE);
	uint64_t align = below(run, 2) ? 4096 : 512, len = some_length(run, align);

	if (!entry)
		return 0;
	return do_write(run, entry, 0, pick_place(run, object_of(run, entry), len, align), len);
}

/* What the golden image has at the same place. */
static int op_golden_bytes(struct run *run)
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
	if (below(run, 8) == 0)
		len = max_u64(round_up(object->size, 4096), 4096);
	off = pick_place(run, object, min_u64(len, 256 * KIB), align);
	if (object->size <= MAX_SIZE)
		len = min_u64(len, MAX_SIZE - off);
	say(run, "fallocate \"%s\" mode %d %" PRIu64 "+%" PRIu64, entry->path, mode, off, len);
	model_write_begin(run->model, object, 0, off, len, grow);
	r = fs_fallocate(run->fs, object->ino, mode, off, len);
	if (r)
		return failed_change(run, object, r);
	model_change_end(run->model, object);
	return 0;
}

static int op_punch(struct run *run)
{
	return do_range(run, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE);
}

static int op_zero_range(struct run *run)
{
	return do_range(run, FALLOC_FL_ZERO_RANGE | (below(run, 2) ? FALLOC_FL_KEEP_SIZE : 0));
}

static int op_truncate(struct run *run)
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
	say(run, "truncate \"%s\" %" PRIu64 " -> %" PRIu64, entry->path, object->size, attr.size);
	model_truncate_begin(run->model, object, attr.size);
	r = fs_setattr(run->fs, object->ino, FS_SET_SIZE, &attr);
	if (r)
		return failed_change(run, object, r);
	model_change_end(run->model, object);
	return 0;
}

/* Part of one file into another, or into itself. */
static int op_copy_range(struct run *run)
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
		ssize_t n = fs_copy_range(run->fs, src->ino, src_off + done, dst->ino,
			dst_off + done, len - done, 1000 + run->seed);

		if (n <= 0)
			return n ? failed_change(run, dst, n) :
				   run_fail(run, "%s: nothing is copied", run->text);
		done += (uint64_t)n;
	}
	model_change_end(run->model, dst);
	return 0;
}

/* ---- names ---- */

/* The new inode's number, and no reference of it held. */
static int learn_ino(struct run *run, const char *path)
{
	struct model_entry *entry = model_find(run->model, path);
	uint64_t ino = 0;
	int r = fs_resolve(run->fs, path, &ino);

	if (r || !entry)
		return run_fail(run, "%s: \"%s\" does not resolve: %d", run->text, path, r);
	object_of(run, entry)->ino = ino;
	return 0;
}

static int do_make(struct run *run, const char *path, bool folder)
{
	const char *name;
	struct fs_attr attr;
	uint64_t parent;
	int r;

	if (!path || (!folder && file_count(run) >= MAX_FILES))
		return 0;
	parent = place_of(run, path, &name);
	say(run, "make %s \"%s\"", folder ? "folder" : "file", path);
	model_tree_begin(run->model);
	model_add(run->model, path, folder ? MODEL_FOLDER : MODEL_FILE);
	r = fs_make(run->fs, parent, name, folder ? S_IFDIR | 0755 : S_IFREG | 0644, owner, &attr);
	model_tree_end(run->model, !r);
	if (r)
		return verdict(run, r);
	fs_forget(run->fs, attr.ino, 1);
	return learn_ino(run, path);
}

static int op_create(struct run *run)
{
	return do_make(run, pick_free(run, false), false);
}

static int op_mkdir(struct run *run)
{
	return do_make(run, pick_free(run, true), true);
}

static bool is_empty(struct run *run, const char *folder)
{
	struct model_tree *tree = model_tree(run->model);
	size_t len = strlen(folder);

	for (size_t i = 0; i < tree->count; i++) {
		if (strncmp(tree->list[i].path, folder, len) == 0 && tree->list[i].path[len] == '/')
			return false;
	}
	return true;
}

static int op_rmdir(struct run *run)
{
	struct model_entry *entry = pick_entry(run, MODEL_FOLDER);
	char path[MODEL_NAME];
	const char *name;
	uint64_t parent;
	int r;

	if (!entry)
		return 0;
	strcpy(path, entry->path);
	parent = place_of(run, path, &name);
	say(run, "rmdir \"%s\"", path);
	if (!is_empty(run, path)) {
		r = fs_rmdir(run->fs, parent, name);
		if (r == -ENOTEMPTY)
			return 0;
		return r && run->failing ? verdict(run, r) :
					   run_fail(run, "%s, not empty: gives %d", run->text, r);
	}
	model_tree_begin(run->model);
	model_remove(run->model, path);
	r = fs_rmdir(run->fs, parent, name);
	model_tree_end(run->model, !r);
	return verdict(run, r);
}

/* The source's inode and what a clone of it holds, added at path to the open tree. */
static int add_clone(struct run *run, const char *path, const struct model_object *source,
	uint64_t golden, uint64_t *ino)
{
	char name[32];
	struct fs_attr attr;
	int r;

	if (source) {
		model_add_clone(run->model, path, source);
		*ino = source->ino;
		return 0;
	}
	model_add_golden(run->model, path, run->golden[golden - 1], run->images[golden - 1]->size);
	snprintf(name, sizeof(name), "%" PRIu64, golden);
	r = fs_lookup(run->fs, FS_INO_GOLDEN, name, &attr);
	if (r)
		return r;
	fs_forget(run->fs, attr.ino, 1);
	*ino = attr.ino;
	return 0;
}

/* source NULL: of a golden image. */
static int do_clone(struct run *run, const struct model_entry *from, bool replace)
{
	const struct model_object *source = from ? object_of(run, from) : NULL;
	uint64_t golden = below(run, 100) < run->profile->big ? 3 : 1 + below(run, 2), ino = 0;
	struct model_entry *over = replace ? pick_entry(run, MODEL_FILE) : NULL;
	struct fs_clone_target targets[2];
	const char *paths[2];
	char path[MODEL_NAME], text[MODEL_NAME];
	size_t count = 1, failed = 0;
	int r = 0;

	paths[0] = over ? strcpy(path, over->path) : pick_free(run, false);
	if (!paths[0] || (!over && file_count(run) >= MAX_FILES) || (replace && !over) ||
		(source && over && object_of(run, over) == source))
		return 0;
	if (!over && below(run, 4) == 0) {
		paths[1] = pick_free(run, false);
		count = paths[1] && strcmp(paths[1], paths[0]) != 0 ? 2 : 1;
	}
	snprintf(text, sizeof(text), from ? "\"%.50s\"" : "golden %.50s",
		from ? from->path : (char[]){(char)('0' + golden), 0});
	say(run, "clone %s -> \"%s\"%s%s%s", text, paths[0], count > 1 ? " and " : "",
		count > 1 ? paths[1] : "", replace ? ", replacing" : "");
	model_tree_begin(run->model);
	for (size_t i = 0; i < count && !r; i++) {
		targets[i].parent = place_of(run, paths[i], &targets[i].name);
		r = add_clone(run, paths[i], source, golden, &ino);
	}
	if (!r)
		r = fs_clone(run->fs, ino, targets, count, owner, 0644, replace, false, &failed);
	model_tree_end(run->model, !r);
	if (r)
		return verdict(run, r);
	for (size_t i = 0; i < count; i++) {
		if (learn_ino(run, paths[i]))
			return -1;
	}
	return 0;
}

static int op_clone_golden(struct run *run)
{
	return do_clone(run, NULL, false);
}

static int op_clone_file(struct run *run)
{
	struct model_entry *entry = pick_entry(run, MODEL_FILE);

	return entry ? do_clone(run, entry, false) : 0;
}

static int op_clone_replace(struct run *run)
{
	struct model_entry *entry = below(run, 2) ? pick_entry(run, MODEL_FILE) : NULL;

	return do_clone(run, entry, true);
}

/* cp: a new file, and a copy of everything into it. */
static int op_copy_whole(struct run *run)
{
	struct model_entry *from = pick_entry(run, MODEL_FILE), *entry;
	const char *path = pick_free(run, false);
	struct model_object *src, *dst;
	uint64_t done = 0;

	if (!from || !path)
		return 0;
	src = object_of(run, from);
	if (do_make(run, path, false))
		return -1;
	entry = model_find(run->model, path);
	if (!entry)
		return 0;
	dst = object_of(run, entry);
	say(run, "copy all %" PRIu64 " bytes of ino %" PRIu64 " to \"%s\"", src->size, src->ino,
		path);
	model_attach_begin(run->model, dst, src);
	for (;;) {
		ssize_t n = fs_copy_range(run->fs, src->ino, done, dst->ino, done, GIB,
			2000 + run->seed);

		if (n < 0)
			return failed_change(run, dst, n);
		if (!n)
			break;
		done += (uint64_t)n;
	}
	if (done != src->size)
		return run_fail(run, "%s: copied %" PRIu64, run->text, done);
	model_change_end(run->model, dst);
	return 0;
}

static int op_unlink(struct run *run)
{
	struct model_entry *entry = pick_entry(run, MODEL_FILE);
	char path[MODEL_NAME];
	const char *name;
	uint64_t parent;
	int r;

	if (!entry || file_count(run) < 3)
		return 0;
	strcpy(path, entry->path);
	parent = place_of(run, path, &name);
	say(run, "unlink \"%s\"", path);
	model_tree_begin(run->model);
	model_remove(run->model, path);
	r = fs_unlink(run->fs, parent, name);
	model_tree_end(run->model, !r);
	return verdict(run, r);
}

/* Unlinked while referenced: it must serve until it is forgotten. */
static int op_unlink_open(struct run *run)
{
	struct model_entry *entry = pick_entry(run, MODEL_FILE);
	uint8_t out[6000], in[6000];
	struct fs_attr attr;
	const char *name;
	char path[MODEL_NAME];
	uint64_t parent;
	ssize_t n;
	int r;

	if (!entry || run->failing)
		return 0;
	strcpy(path, entry->path);
	parent = place_of(run, path, &name);
	say(run, "unlink \"%s\" while it is open", path);
	r = fs_lookup(run->fs, parent, name, &attr);
	if (r)
		return verdict(run, r);
	model_tree_begin(run->model);
	model_remove(run->model, path);
	r = fs_unlink(run->fs, parent, name);
	model_tree_end(run->model, !r);
	if (r)
		return verdict(run, r);
	memset(out, 0x5a, sizeof(out));
	n = fs_write(run->fs, attr.ino, out, sizeof(out), 1000);
	if (n < 0) {
		fs_forget(run->fs, attr.ino, 1);
		return verdict(run, n);
	}
	if (n == (ssize_t)sizeof(out))
		n = fs_read(run->fs, attr.ino, in, sizeof(in), 1000);
	if (n != (ssize_t)sizeof(in) || memcmp(in, out, sizeof(in)) != 0)
		return run_fail(run, "%s: it does not serve any more (%zd)", run->text, n);
	r = below(run, 2) ? sync_file(run->fs, attr.ino) : 0;
	fs_forget(run->fs, attr.ino, 1);
	return verdict(run, r);
}

static int op_rename(struct run *run)
{
	struct model_entry *entry = pick_entry(run, MODEL_FILE), *over;
	char from[MODEL_NAME], to[MODEL_NAME];
	const char *old_name, *new_name, *free_path;
	uint64_t old_parent, new_parent;
	bool exchange;
	int r;

	if (!entry)
		return 0;
	strcpy(from, entry->path);
	over = below(run, 2) ? pick_entry(run, MODEL_FILE) : NULL;
	free_path = pick_free(run, false);
	if ((!over && !free_path) || over == entry)
		return 0;
	exchange = over && below(run, 3) == 0;
	strcpy(to, over ? over->path : free_path);
	old_parent = place_of(run, from, &old_name);
	new_parent = place_of(run, to, &new_name);
	say(run, "rename \"%s\" -> \"%s\"%s", from, to,
		exchange ? ", exchanging" : over ? ", over it" : "");
	model_tree_begin(run->model);
	if (exchange)
		model_exchange(run->model, from, to);
	else
		model_move(run->model, from, to);
	r = fs_rename(run->fs, old_parent, old_name, new_parent, new_name,
		exchange ? RENAME_EXCHANGE : 0);
	model_tree_end(run->model, !r);
	return verdict(run, r);
}

static int op_rename_folder(struct run *run)
{
	const char *path = pick_free(run, true), *name, *new_name;
	struct model_entry *entry = pick_entry(run, MODEL_FOLDER);
	uint64_t parent, new_parent;
	char from[MODEL_NAME];
	int r;

	if (!entry || !path || strchr(path, '/') || strchr(entry->path, '/'))
		return 0;
	strcpy(from, entry->path);
	parent = place_of(run, from, &name);
	new_parent = place_of(run, path, &new_name);
	say(run, "rename folder \"%s\" -> \"%s\"", from, path);
	model_tree_begin(run->model);
	model_move(run->model, from, path);
	r = fs_rename(run->fs, parent, name, new_parent, new_name, 0);
	model_tree_end(run->model, !r);
	return verdict(run, r);
}

static int op_xattr(struct run *run)
{
	struct model_entry *entry = pick_entry(run, below(run, 4) ? MODEL_FILE : MODEL_FOLDER);
	bool drop = entry && entry->xattr && below(run, 3) == 0;
	char path[MODEL_NAME], value[300];
	uint32_t number = 1 + (uint32_t)below(run, 1000000);
	uint64_t ino;
	int r;

	if (!entry)
		return 0;
	strcpy(path, entry->path);
	ino = object_of(run, entry)->ino;
	say(run, "xattr of \"%s\": %u", path, drop ? 0 : number);
	model_tree_begin(run->model);
	model_set_xattr(run->model, path, drop ? 0 : number);
	snprintf(value, sizeof(value), "%u", number);
	r = drop ? fs_removexattr(run->fs, ino, "user.k") :
		   fs_setxattr(run->fs, ino, "user.k", value, strlen(value), 0);
	model_tree_end(run->model, !r);
	return verdict(run, r);
}

/* ---- durability, restarts ---- */

static int op_fsync(struct run *run)
{
	struct model_entry *entry = pick_entry(run, MODEL_FILE);
	struct model_object *object;
	int r;

	if (!entry)
		return 0;
	object = object_of(run, entry);
	say(run, "fsync \"%s\"", entry->path);
	r = sync_file(run->fs, object->ino);
	if (!r)
		model_synced(run->model, object);
	return verdict(run, r);
}

static int op_sync(struct run *run)
{
	int r;

	say(run, "sync all");
	r = fs_sync(run->fs);
	if (!r)
		model_synced_all(run->model);
	return verdict(run, r);
}

static int op_settle(struct run *run)
{
	say(run, "settle");
	return verdict(run, fs_settle(run->fs));
}

static int check_now(struct run *run, enum model_mode mode, bool thorough)
{
	struct model_view view;
	const char *figures;
	int r = view_take(&view, run->fs);

	if (r)
		run_fail(run, "%s: the tree cannot be listed: %s", run->text, strerror(-r));
	else if (model_check(run->model, &view, mode, thorough))
		run_fail(run, "%s: %s", run->text, model_reason(run->model));
	else if (mode == MODEL_POWER && model_adopt(run->model, &view))
		run_fail(run, "%s: adopting: %s", run->text, model_reason(run->model));
	else if ((figures = view_figures(&view, run->fs)))
		run_fail(run, "%s: figures: %s", run->text, figures);
	view_release(&view);
	return *run->reason ? -1 : 0;
}

static int op_check(struct run *run)
{
	say(run, "compare everything");
	return check_now(run, MODEL_EXACT, below(run, 4) == 0);
}

static int reopen(struct run *run)
{
	struct fs_options options = run_options(run);
	int r;

	run->failing = false;
	r = fs_open(&run->fs, simdisk_io(run->disk), &options);
	return r ? run_fail(run, "%s: fs_open: %s", run->text, strerror(-r)) : 0;
}

static int op_power(struct run *run)
{
	enum simdisk_policy policy = (enum simdisk_policy)below(run, SIMDISK_POLICIES);
	struct simdisk *old = run->disk;
	say(run, "power loss, %s", simdisk_policy_name(policy));
	fs_abandon(steal_pointer(&run->fs));
	simdisk_set_hook(old, NULL, NULL);
	run->disk = simdisk_crash(old, policy, rng_next(&run->rng));
	simdisk_free(old);
	if (reopen(run) || check_now(run, MODEL_POWER, false))
		return -1;
	simdisk_set_hook(run->disk, run->hook, run);
	return 0;
}

static int op_kill(struct run *run)
{
	if (run->failing)
		return op_power(run);
	say(run, "process death");
	fs_abandon(steal_pointer(&run->fs));
	if (reopen(run))
		return -1;
	return check_now(run, MODEL_EXACT, false);
}

static int op_remount(struct run *run)
{
	int r;

	if (run->failing)
		return op_power(run);
	say(run, "remount");
	r = fs_close(steal_pointer(&run->fs));
	if (r)
		return run_fail(run, "%s: fs_close: %s", run->text, strerror(-r));
	if (reopen(run))
		return -1;
	model_synced_all(run->model);
	return check_now(run, MODEL_EXACT, false);
}

/* Something below breaks soon. */
static int op_fault(struct run *run)
{
	static const enum simdisk_op ops[] = {SIMDISK_FDATASYNC, SIMDISK_FDATASYNC, SIMDISK_PWRITE,
		SIMDISK_PUNCH, SIMDISK_SYNCDIR, SIMDISK_RENAME, SIMDISK_OPEN};
	enum simdisk_op op = ops[below(run, ARRAY_SIZE(ops))];
	int err = op == SIMDISK_PWRITE && below(run, 2) ? -ENOSPC : -EIO;
	uint64_t nth = 1 + below(run, 6);
	bool sticky = below(run, 4) == 0;

	say(run, "fault: %s number %" PRIu64 " gives %s%s", simdisk_op_name(op), nth,
		strerror(-err), sticky ? ", and all later ones" : "");
	simdisk_fail(run->disk, op, nth, err, sticky, NULL);
	run->failing = true;
	return 0;
}

/* ---- mixes ---- */

static const struct {
	char letter;
	int (*run)(struct run *run);
} op_table[] = {
	{'s', op_small}, {'h', op_hot}, {'5', op_sectors}, {'b', op_bytes}, {'L', op_large},
	{'l', op_large_odd}, {'z', op_zeros}, {'g', op_golden_bytes}, {'p', op_punch},
	{'r', op_zero_range}, {'t', op_truncate}, {'y', op_copy_range}, {'n', op_create},
	{'d', op_mkdir}, {'D', op_rmdir}, {'c', op_clone_golden}, {'C', op_clone_file},
	{'R', op_clone_replace}, {'w', op_copy_whole}, {'u', op_unlink}, {'U', op_unlink_open},
	{'m', op_rename}, {'M', op_rename_folder}, {'x', op_xattr}, {'f', op_fsync},
	{'S', op_sync}, {'e', op_settle}, {'?', op_check}, {'P', op_power}, {'K', op_kill},
	{'O', op_remount}, {'F', op_fault},
};

const struct profile profiles[] = {
	{"mixed", MIB, TIB, 0, 4, "sshh55bbLLllzgprtyndDcccCCCRwuUmMxxfffSe?PKO"},
	{"small", MIB, TIB, 0, 4, "ssssssssshhhhhh55555bbbbbzgcccCnfffSe?K"},
	{"hot", MIB, TIB, 0, 4, "hhhhhhhhhhhhhhLLlprccCffS?PK"},
	{"large over small", MIB, TIB, 0, 4, "sss555hhLLLLLLlllllzpccCfffffSe?PK"},
	{"other's flush", 2 * MIB, TIB, 0, 4, "LLLLLLllhhccCffffffffff?P"},
	{"clones", MIB, TIB, 0, 4, "shhbLLlcccCCCCCCCCCRRRwwuUfffSe?PKO"},
	{"names", MIB, TIB, 0, 4, "shLnnnndddDDcccCRRwuuUmmmmMMxxxxxfSe?PKO"},
	{"discard", MIB, TIB, 0, 4, "sshbLLlzzzggggpppppprrrrttttccCffSe?PK"},
	{"full ring", MIB, TIB, 0, 4, "sssssssssssssssssss5b5bhhhhLccC?f"},
	{"settling", MIB, TIB, 0, 4, "sshhbLLlzprtcCCRufSeeeeeeee?POOO"},
	{"regions", MIB, TIB, 0, 60, "ssss55bbLLllzgpprttycccCCCRwffSe?PKO"},
	{"full disk", MIB, 2816 * KIB, 0, 0, "ssshhbbLLLLLllzppttcccCCCCRuuufSeee?P"},
	{"faults", MIB, TIB, 25, 4, "sshhbbLLLllzprtcccCCRuumxffffSe?POKKK"},
	{"power", MIB, TIB, 0, 4, "sshhbbLLllzgprtcCCRumxfffSPPPPPKKKKO?"},
};
const int profile_count = (int)ARRAY_SIZE(profiles);

static int run_letter(struct run *run, char letter)
{
	for (size_t i = 0; i < ARRAY_SIZE(op_table); i++) {
		if (op_table[i].letter == letter)
			return op_table[i].run(run);
	}
	abort();
}

int run_one_op(struct run *run)
{
	const char *weights = run->profile->weights;

	rng_seed(&run->rng, rng_scramble(run->seed * 1000003 + (uint64_t)run->op));
	*run->text = 0;
	/* Something to work on. */
	if (file_count(run) < 2)
		return op_clone_golden(run);
	if (run->profile->faults && below(run, run->profile->faults) == 0)
		return op_fault(run);
	return run_letter(run, weights[below(run, strlen(weights))]);
}
