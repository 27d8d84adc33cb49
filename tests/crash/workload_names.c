/* SPDX-License-Identifier: MIT */
/* The operations of the random workloads on names: making, cloning, renaming, removing. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/sizes.h"
#include "image/image.h"
#include "workload_internal.h"

#define XATTR_MASK ((1u << MODE_SHIFT) - 1)

static const struct fs_owner owner = {0, 0};

static size_t max_files(const struct run *run)
{
	return run->profile->files ? run->profile->files : MAX_FILES;
}

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

	if (!path || (!folder && file_count(run) >= max_files(run)))
		return 0;
	parent = place_of(run, path, &name);
	say(run, "make %s \"%s\"", folder ? "folder" : "file", path);
	model_tree_begin(run->model);
	if (folder)
		snaps_mkdir(run, path);
	model_add(run->model, path, folder ? MODEL_FOLDER : MODEL_FILE);
	r = fs_make(run->fs, parent, name, folder ? S_IFDIR | 0755 : S_IFREG | 0644, owner, &attr);
	model_tree_end(run->model, !r);
	if (r)
		return verdict(run, r);
	fs_forget(run->fs, attr.ino, 1);
	return learn_ino(run, path);
}

int op_create(struct run *run)
{
	return do_make(run, pick_free(run, false), false);
}

int op_mkdir(struct run *run)
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

int op_rmdir(struct run *run)
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

	snaps_unlink(run, path);
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

enum { BATCH = 12 };

/* Several targets where nothing stands; some of those that there are. */
static size_t pick_batch(struct run *run, const char *paths[BATCH])
{
	size_t count = 0, room = max_files(run) - min_u64(file_count(run), max_files(run));

	for (int tries = 0; tries < 4 * BATCH && count < BATCH && count < room; tries++) {
		const char *path = pick_free(run, false);
		bool known = !path;

		for (size_t i = 0; i < count && !known; i++)
			known = strcmp(paths[i], path) == 0;
		if (!known)
			paths[count++] = path;
	}
	return count;
}

/* source NULL: of a golden image. */
static int do_clone(struct run *run, const struct model_entry *from, bool replace)
{
	const struct model_object *source = from ? object_of(run, from) : NULL;
	uint64_t golden = below(run, 100) < run->profile->big ? 3 : 1 + below(run, 2), ino = 0;
	struct model_entry *over = replace ? pick_entry(run, MODEL_FILE) : NULL;
	struct fs_clone_target targets[BATCH];
	const char *paths[BATCH];
	char path[MODEL_NAME], text[MODEL_NAME];
	size_t count = 1, failed = 0;
	int r = 0;

	paths[0] = over ? strcpy(path, over->path) : pick_free(run, false);
	if (!paths[0] || (!over && file_count(run) >= max_files(run)) || (replace && !over) ||
		(source && over && object_of(run, over) == source))
		return 0;
	if (!over && below(run, run->profile->files ? 2 : 4) == 0)
		count = max_u64(1, pick_batch(run, paths));
	if (!over && count > 2 && !run->profile->files)
		count = 2;
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
		r = fs_clone(run->fs, ino, targets, count, owner, 0644, replace, false, NULL,
			&failed);
	model_tree_end(run->model, !r);
	if (r)
		return verdict(run, r);
	for (size_t i = 0; i < count; i++) {
		if (learn_ino(run, paths[i]))
			return -1;
	}
	return 0;
}

int op_clone_golden(struct run *run)
{
	return do_clone(run, NULL, false);
}

int op_clone_file(struct run *run)
{
	struct model_entry *entry = pick_entry(run, MODEL_FILE);

	return entry ? do_clone(run, entry, false) : 0;
}

int op_clone_snapshot(struct run *run)
{
	struct model_entry *entry = pick_source(run);

	return entry ? do_clone(run, entry, below(run, 3) == 0) : 0;
}

int op_clone_replace(struct run *run)
{
	struct model_entry *entry = NULL;

	if (run->profile->no_golden || below(run, 2))
		entry = pick_entry(run, MODEL_FILE);
	return do_clone(run, entry, true);
}

/* ---- promotion: in the model, files that no other operation touches ---- */

static const char *const promoted[] = {"p0", "p1", "sub/p2"};

static uint64_t promoted_ino(struct run *run, const char *name)
{
	char path[MODEL_NAME];
	struct model_entry *entry;

	snprintf(path, sizeof(path), "golden/%s", name);
	entry = model_find(run->model, path);
	return entry ? object_of(run, entry)->ino : 0;
}

int op_promote(struct run *run)
{
	struct model_entry *from = pick_source(run);
	const char *name = promoted[below(run, ARRAY_SIZE(promoted))];
	const struct model_object *source;
	char path[MODEL_NAME];
	struct fs_attr attr;
	uint64_t ino = 0;
	int r;

	snprintf(path, sizeof(path), "golden/%s", name);
	if (!from || promoted_ino(run, name))
		return 0;
	source = object_of(run, from);
	if (fs_getattr(run->fs, source->ino, &attr))
		return verdict(run, -EIO);
	say(run, "promote \"%s\" to \"%s\"", from->path, path);
	model_tree_begin(run->model);
	model_add_clone(run->model, path, source);
	/* Who may read the source may read it. */
	model_set_xattr(run->model, path, mode_mark(MODEL_FILE, 0600 | (attr.mode & 0044)));
	r = fs_promote(run->fs, source->ino, name, 0, &ino);
	model_tree_end(run->model, !r);
	if (r)
		return verdict(run, r);
	object_of(run, model_find(run->model, path))->ino = ino;
	model_synced_all(run->model);
	return 0;
}

/* Written to its folder, or given up: for the store that is the same. Or it is cloned first. */
int op_promote_end(struct run *run)
{
	const char *name = promoted[below(run, ARRAY_SIZE(promoted))];
	uint64_t ino = promoted_ino(run, name);
	char path[MODEL_NAME];
	int r;

	snprintf(path, sizeof(path), "golden/%s", name);
	if (!ino)
		return 0;
	if (below(run, 2))
		return do_clone(run, model_find(run->model, path), below(run, 2));
	say(run, "promotion of \"%s\" ends", path);
	model_tree_begin(run->model);
	model_remove(run->model, path);
	if (below(run, 2))
		r = fs_promote_write(run->fs, ino, NULL, NULL);
	else
		r = fs_promote_undo(run->fs, ino);
	model_tree_end(run->model, !r);
	if (!r)
		model_synced_all(run->model);
	return verdict(run, r);
}

/* cp: a new file, and a copy of everything into it. */
int op_copy_whole(struct run *run)
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

int op_unlink(struct run *run)
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
	snaps_unlink(run, path);
	model_remove(run->model, path);
	r = fs_unlink(run->fs, parent, name);
	model_tree_end(run->model, !r);
	return verdict(run, r);
}

/* Unlinked while referenced: it must serve until it is forgotten. */
int op_unlink_open(struct run *run)
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
	snaps_unlink(run, path);
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

int op_rename(struct run *run)
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
	snaps_move(run, from, to, exchange);
	if (exchange)
		model_exchange(run->model, from, to);
	else
		model_move(run->model, from, to);
	r = fs_rename(run->fs, old_parent, old_name, new_parent, new_name,
		exchange ? RENAME_EXCHANGE : 0);
	model_tree_end(run->model, !r);
	return verdict(run, r);
}

int op_rename_folder(struct run *run)
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
	snaps_move(run, from, path, false);
	model_move(run->model, from, path);
	r = fs_rename(run->fs, parent, name, new_parent, new_name, 0);
	model_tree_end(run->model, !r);
	return verdict(run, r);
}

int op_xattr(struct run *run)
{
	struct model_entry *entry = pick_entry(run, below(run, 4) ? MODEL_FILE : MODEL_FOLDER);
	bool drop = entry && (entry->xattr & XATTR_MASK) && below(run, 3) == 0;
	uint32_t mode_bits = entry ? entry->xattr & ~XATTR_MASK : 0;
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
	model_set_xattr(run->model, path, mode_bits | (drop ? 0 : number));
	snprintf(value, sizeof(value), "%u", number);
	r = drop ? fs_removexattr(run->fs, ino, "user.k") :
		   fs_setxattr(run->fs, ino, "user.k", value, strlen(value), 0);
	model_tree_end(run->model, !r);
	return verdict(run, r);
}

/* Where content is looked for: of no concern to what is seen. */
int op_domain(struct run *run)
{
	struct model_entry *entry = pick_entry(run, below(run, 3) ? MODEL_FOLDER : MODEL_FILE);
	int policy = below(run, 3) ? (int)below(run, 2) * FS_DEDUP_ALL : FS_DEDUP_INHERIT;
	enum fs_domain domain = (enum fs_domain)below(run, 3);
	bool both = below(run, 2);

	if (!entry)
		return 0;
	say(run, "dedup of \"%s\": %d, %d", entry->path, both ? policy : FS_DEDUP_INHERIT, domain);
	return verdict(run, fs_set_dedup(run->fs, object_of(run, entry)->ino, both ? &policy : NULL,
		&domain));
}

/* Mode and times. */
int op_attributes(struct run *run)
{
	struct model_entry *entry = pick_entry(run, below(run, 4) ? MODEL_FILE : MODEL_FOLDER);
	struct fs_attr attr = {.mode = (uint32_t)below(run, 07777), .uid = (uint32_t)below(run, 9),
		.mtime_ns = (int64_t)below(run, 1000000)};
	uint64_t ino;
	int r;

	if (!entry)
		return 0;
	ino = object_of(run, entry)->ino;
	say(run, "attributes of \"%s\": mode %o", entry->path, attr.mode);
	model_tree_begin(run->model);
	entry = model_find(run->model, entry->path);
	model_set_xattr(run->model, entry->path, (entry->xattr & XATTR_MASK) |
		mode_mark(object_of(run, entry)->kind, attr.mode));
	r = fs_setattr(run->fs, ino, FS_SET_MODE | FS_SET_UID | FS_SET_MTIME, &attr);
	model_tree_end(run->model, !r);
	return verdict(run, r);
}

int op_symlink(struct run *run)
{
	const char *path = pick_free(run, false), *name;
	char target[16];
	uint32_t number = 1 + (uint32_t)below(run, 100000);
	struct fs_attr attr;
	uint64_t parent;
	int r;

	if (!path)
		return 0;
	parent = place_of(run, path, &name);
	snprintf(target, sizeof(target), "%u", number);
	say(run, "symbolic link \"%s\" to %s", path, target);
	model_tree_begin(run->model);
	model_add(run->model, path, MODEL_LINK);
	model_set_xattr(run->model, path, number);
	r = fs_symlink(run->fs, parent, name, target, owner, &attr);
	model_tree_end(run->model, !r);
	if (r)
		return verdict(run, r);
	fs_forget(run->fs, attr.ino, 1);
	return learn_ino(run, path);
}

int op_unlink_symlink(struct run *run)
{
	struct model_entry *entry = pick_entry(run, MODEL_LINK);
	char path[MODEL_NAME];
	const char *name;
	uint64_t parent;
	int r;

	if (!entry)
		return 0;
	strcpy(path, entry->path);
	parent = place_of(run, path, &name);
	say(run, "unlink the symbolic link \"%s\"", path);
	model_tree_begin(run->model);
	snaps_unlink(run, path);
	model_remove(run->model, path);
	r = fs_unlink(run->fs, parent, name);
	model_tree_end(run->model, !r);
	return verdict(run, r);
}
