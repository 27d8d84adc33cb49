/* SPDX-License-Identifier: MIT */
/*
 * The operations of the random workloads on snapshots.
 *
 * The model has .snapshots as a part of its tree, by the rules of man/goldfs-architecture.7: folders
 * above a file stand there once more, then comes one that holds its snapshots. What a change of the
 * tree does there is done here (snaps_*), for the operations on names as well. Snapshots whose names
 * begin with an "a" are automatic ones.
 *
 * Whether a rollback keeps what it leaves depends on whether a snapshot shows that already. The model
 * knows that they surely are the same (model_object.state); where it does not, it first writes
 * something that was never there.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/sizes.h"
#include "image/image.h"
#include "workload_internal.h"

#define TOP ".snapshots/"
#define MAX_SNAPSHOTS 24 /* in the whole tree */

/* ---- paths ---- */

static void group_of(const char *path, char group[MODEL_NAME])
{
	if (snprintf(group, MODEL_NAME, TOP "%s", path) >= (int)MODEL_NAME)
		abort();
}

/* Of "folder/name", "folder"; false: it has none. */
static bool parent_of(const char *path, char folder[MODEL_NAME])
{
	const char *slash = strrchr(path, '/');

	if (!slash)
		return false;
	memcpy(folder, path, (size_t)(slash - path));
	folder[slash - path] = 0;
	return strcmp(folder, ".snapshots") != 0;
}

static bool is_in(const char *path, const char *folder)
{
	size_t len = strlen(folder);

	return strncmp(path, folder, len) == 0 && path[len] == '/' && !strchr(path + len + 1, '/');
}

static bool is_automatic(const struct model_entry *entry)
{
	return strrchr(entry->path, '/')[1] == 'a';
}

static enum model_kind kind_of(struct run *run, const char *path)
{
	return model_object(run->model, model_find(run->model, path)->object)->kind;
}

/* Whether a folder of .snapshots holds snapshots, and no folders. */
static bool is_group(struct run *run, const char *path)
{
	struct model_tree *tree = model_tree(run->model);

	for (size_t i = 0; i < tree->count; i++)
		if (is_in(tree->list[i].path, path))
			return kind_of(run, tree->list[i].path) == MODEL_FILE;
	return false;
}

/* The counterpart of a path, in .snapshots; false: there is none. */
static bool counterpart(struct run *run, const char *path, bool file, char at[MODEL_NAME])
{
	group_of(path, at);
	return model_find(run->model, at) && is_group(run, at) == file;
}

/* ---- what changes of the tree do ---- */

static void go_aside(struct run *run, const char *at)
{
	char name[MODEL_NAME];

	for (unsigned i = 1;; i++) {
		if (snprintf(name, sizeof(name), "%s~%u", at, i) >= (int)sizeof(name))
			abort();
		if (!model_find(run->model, name) && !model_find(run->model, name + strlen(TOP)))
			break;
	}
	model_move(run->model, at, name);
}

/* Folders that are empty go. */
static void prune(struct run *run, const char *path)
{
	char at[MODEL_NAME];

	for (bool more = parent_of(path, at); more; more = parent_of(at, at)) {
		struct model_tree *tree = model_tree(run->model);

		for (size_t i = 0; i < tree->count; i++)
			if (is_in(tree->list[i].path, at))
				return;
		model_remove(run->model, at);
	}
}

/* A snapshot goes; what stands on it stands on what it stands on. */
void snaps_drop(struct run *run, const char *path)
{
	struct model_entry gone = *model_find(run->model, path);
	struct model_tree *tree = model_tree(run->model);

	for (size_t i = 0; i < tree->count; i++)
		if (tree->list[i].base == gone.object)
			tree->list[i].base = gone.base;
	model_remove(run->model, path);
	prune(run, gone.path);
}

static void drop_all(struct run *run, const char *group, bool automatic)
{
	for (bool again = true; again;) {
		struct model_tree *tree = model_tree(run->model);

		again = false;
		for (size_t i = 0; i < tree->count && !again; i++) {
			char path[MODEL_NAME];

			strcpy(path, tree->list[i].path);
			if (!is_in(path, group) || (automatic && !is_automatic(&tree->list[i])))
				continue;
			snaps_drop(run, path);
			again = true;
		}
	}
}

size_t snaps_automatic(struct run *run, const char *path, uint64_t *inos, size_t room)
{
	struct model_tree *tree = model_tree(run->model);
	char group[MODEL_NAME];
	size_t n = 0;

	group_of(path, group);
	for (size_t i = 0; i < tree->count && n < room; i++)
		if (is_in(tree->list[i].path, group) && is_automatic(&tree->list[i]) &&
			kind_of(run, tree->list[i].path) == MODEL_FILE)
			inos[n++] = object_of(run, &tree->list[i])->ino;
	return n;
}

/* The counterparts of all folders above a path in .snapshots. */
static void make_above(struct run *run, const char *at)
{
	char folder[MODEL_NAME];

	if (!parent_of(at, folder))
		return;
	make_above(run, folder);
	if (model_find(run->model, folder) && is_group(run, folder))
		go_aside(run, folder);
	if (!model_find(run->model, folder))
		model_add(run->model, folder, MODEL_FOLDER);
}

static void make_group(struct run *run, const char *path, char group[MODEL_NAME])
{
	group_of(path, group);
	make_above(run, group);
	if (model_find(run->model, group) && !is_group(run, group))
		go_aside(run, group);
	if (!model_find(run->model, group))
		model_add(run->model, group, MODEL_FOLDER);
}

void snaps_unlink(struct run *run, const char *path)
{
	char group[MODEL_NAME];

	if (model_find(run->model, path) && kind_of(run, path) == MODEL_FILE &&
		counterpart(run, path, true, group))
		drop_all(run, group, true);
}

void snaps_mkdir(struct run *run, const char *path)
{
	char at[MODEL_NAME];

	group_of(path, at);
	if (model_find(run->model, at) && is_group(run, at))
		go_aside(run, at);
}

static void place_at(struct run *run, const char *from, const char *path)
{
	char to[MODEL_NAME], old[MODEL_NAME];

	strcpy(old, from);
	group_of(path, to);
	make_above(run, to);
	if (model_find(run->model, to))
		go_aside(run, to);
	model_move(run->model, old, to);
	prune(run, old);
}

void snaps_move(struct run *run, const char *path, const char *to, bool exchange)
{
	bool file = kind_of(run, path) == MODEL_FILE;
	char mine[MODEL_NAME], its[MODEL_NAME];
	bool have = counterpart(run, path, file, mine), other;

	if (!exchange)
		snaps_unlink(run, to);
	other = exchange && counterpart(run, to, file, its);
	if (have && other) {
		/* By way of a name that nothing has. */
		model_move(run->model, mine, TOP "|");
		model_move(run->model, its, mine);
		model_move(run->model, TOP "|", its);
	} else if (have) {
		place_at(run, mine, to);
	} else if (other) {
		place_at(run, its, path);
	} else if (!file) {
		snaps_mkdir(run, to);
	}
}

/* ---- choosing ---- */

static size_t snapshot_count(struct run *run)
{
	struct model_tree *tree = model_tree(run->model);
	size_t n = 0;

	for (size_t i = 0; i < tree->count; i++)
		n += strncmp(tree->list[i].path, TOP, strlen(TOP)) == 0 &&
		     kind_of(run, tree->list[i].path) == MODEL_FILE;
	return n;
}

/* group NULL: of any file. */
static struct model_entry *pick_snapshot(struct run *run, const char *group)
{
	struct model_tree *tree = model_tree(run->model);
	struct model_entry *found = NULL;
	uint64_t n = 0;

	for (size_t i = 0; i < tree->count; i++) {
		struct model_entry *entry = &tree->list[i];

		if (strncmp(entry->path, TOP, strlen(TOP)) != 0 ||
			kind_of(run, entry->path) != MODEL_FILE ||
			(group && !is_in(entry->path, group)))
			continue;
		if (below(run, ++n) == 0)
			found = entry;
	}
	return found;
}

/* A name that no snapshot has now. */
static void new_name(struct run *run, char letter, char name[16])
{
	snprintf(name, 16, "%c%" PRIu64, letter, rng_next(&run->rng) % 100000000);
}

static int learn(struct run *run, const char *path)
{
	uint64_t ino = 0;
	int r = fs_resolve(run->fs, path, &ino);

	if (r)
		return run_fail(run, "%s: \"%s\" does not resolve: %d", run->text, path, r);
	object_of(run, model_find(run->model, path))->ino = ino;
	return 0;
}

/* ---- taking them ---- */

/* The entry of a snapshot of the file, in the open tree. */
static void add_snapshot(struct run *run, const char *path, const char *name, char at[MODEL_NAME])
{
	struct model_entry *file;
	struct model_object *object;
	char group[MODEL_NAME];
	uint32_t mode, base;

	make_group(run, path, group);
	if (snprintf(at, MODEL_NAME, "%.40s/%.16s", group, name) >= (int)MODEL_NAME)
		abort();
	file = model_find(run->model, path);
	mode = (file->xattr >> MODE_SHIFT ^ 0644) & 07777;
	base = file->base;
	object = model_add_clone(run->model, at, object_of(run, file));
	object->state = object_of(run, model_find(run->model, path))->state;
	model_find(run->model, at)->base = base;
	model_set_xattr(run->model, at, mode_mark(MODEL_FILE, mode & 0555));
}

int op_snapshot(struct run *run)
{
	struct model_entry *entry = pick_entry(run, MODEL_FILE);
	char paths[3][MODEL_NAME], at[3][MODEL_NAME], name[16];
	size_t count = 0, failed, want = below(run, 3) ? 1 : 3;
	uint64_t inos[3];
	int r;

	if (!entry || snapshot_count(run) + want > MAX_SNAPSHOTS)
		return 0;
	for (size_t i = 0; i < want; i++) {
		bool known = false;

		entry = pick_entry(run, MODEL_FILE);
		for (size_t k = 0; k < count; k++)
			known |= strcmp(paths[k], entry->path) == 0;
		if (!known)
			strcpy(paths[count++], entry->path);
	}
	new_name(run, 's', name);
	say(run, "snapshot \"%s\" of \"%s\"%s%s%s%s", name, paths[0], count > 1 ? ", " : "",
		count > 1 ? paths[1] : "", count > 2 ? ", " : "", count > 2 ? paths[2] : "");
	model_tree_begin(run->model);
	for (size_t i = 0; i < count; i++) {
		inos[i] = object_of(run, model_find(run->model, paths[i]))->ino;
		add_snapshot(run, paths[i], name, at[i]);
		model_find(run->model, paths[i])->base = model_find(run->model, at[i])->object;
	}
	r = fs_snapshot_create(run->fs, inos, count, name, &failed);
	model_tree_end(run->model, !r);
	for (size_t i = 0; i < count && !r; i++)
		if (learn(run, at[i]))
			return -1;
	return verdict(run, r);
}

/* ---- going back and forth ---- */

static bool shows_already(struct run *run, const char *path, const char *group)
{
	uint32_t state = object_of(run, model_find(run->model, path))->state;
	struct model_tree *tree = model_tree(run->model);

	for (size_t i = 0; i < tree->count; i++)
		if (is_in(tree->list[i].path, group) && object_of(run, &tree->list[i])->state == state)
			return true;
	return false;
}

/* Content that no snapshot shows, unless one surely shows what there is. 1: it cannot be had. */
static int make_distinct(struct run *run, const char *path, const char *group)
{
	struct model_object *object = object_of(run, model_find(run->model, path));
	model_value value = model_random(run->model, rng_next(&run->rng) | UINT64_C(1) << 63);
	uint8_t buf[4096];
	ssize_t n;

	if (shows_already(run, path, group))
		return 0;
	model_fill_range(run->model, value, 0, sizeof(buf), buf);
	model_write_begin(run->model, object, value, 0, sizeof(buf), true);
	n = fs_write(run->fs, object->ino, buf, sizeof(buf), run->profile->shift);
	if (n == (ssize_t)sizeof(buf)) {
		model_change_end(run->model, object);
		return 0;
	}
	return failed_change(run, object, n < 0 ? n : -EIO) ? -1 : 1;
}

/* What the file is goes to an automatic snapshot, unless one shows it. at: "" then. */
static void keep(struct run *run, const char *path, const char *group, const char *name,
	char at[MODEL_NAME])
{
	*at = 0;
	if (!shows_already(run, path, group))
		add_snapshot(run, path, name, at);
}

int op_rollback(struct run *run)
{
	struct model_entry *snapshot, *entry;
	char path[MODEL_NAME], group[MODEL_NAME], target[MODEL_NAME], at[MODEL_NAME], name[16];
	struct model_object *object;
	uint64_t ino, kept = 0;
	int r;

	snapshot = pick_snapshot(run, NULL);
	if (!snapshot || snapshot_count(run) >= MAX_SNAPSHOTS)
		return 0;
	strcpy(target, snapshot->path);
	parent_of(target, group);
	strcpy(path, group + strlen(TOP));
	entry = model_find(run->model, path);
	if (!entry || kind_of(run, path) != MODEL_FILE)
		return 0; /* the file is gone */
	ino = object_of(run, entry)->ino;
	say(run, "rollback \"%s\" to \"%s\"", path, target);
	r = make_distinct(run, path, group);
	if (r)
		return r < 0 ? -1 : 0;
	new_name(run, 'a', name);
	model_tree_begin(run->model);
	keep(run, path, group, name, at);
	object = object_of(run, model_find(run->model, target));
	model_replace(run->model, path, object);
	model_find(run->model, path)->base = model_find(run->model, target)->object;
	r = fs_snapshot_rollback(run->fs, ino, object->ino, below(run, 2), name, &kept);
	model_tree_end(run->model, !r);
	if (!r && *at && learn(run, at))
		return -1;
	if (!r && *at && object_of(run, model_find(run->model, at))->ino != kept)
		return run_fail(run, "%s: what was is kept as %" PRIu64, run->text, kept);
	return verdict(run, r);
}

int op_refresh(struct run *run)
{
	uint64_t golden = below(run, 100) < run->profile->big ? 3 : 1 + below(run, 2);
	struct model_entry *entry = pick_entry(run, MODEL_FILE);
	char path[MODEL_NAME], group[MODEL_NAME], at[MODEL_NAME], name[32], image[16];
	struct model_object *fresh;
	struct fs_attr attr;
	uint64_t ino;
	size_t failed;
	int r;

	if (!entry || snapshot_count(run) >= MAX_SNAPSHOTS)
		return 0;
	strcpy(path, entry->path);
	group_of(path, group);
	ino = object_of(run, entry)->ino;
	say(run, "refresh \"%s\" onto golden %" PRIu64, path, golden);
	r = make_distinct(run, path, group);
	if (r)
		return r < 0 ? -1 : 0;
	snprintf(image, sizeof(image), "%u", (unsigned)golden);
	r = fs_lookup(run->fs, FS_INO_GOLDEN, image, &attr);
	if (r)
		return verdict(run, r);
	new_name(run, 'a', name);
	model_tree_begin(run->model);
	keep(run, path, group, name, at);
	fresh = model_add_golden(run->model, TOP "|", run->golden[golden - 1],
		run->images[golden - 1]->size);
	model_replace(run->model, path, fresh);
	model_remove(run->model, TOP "|");
	model_find(run->model, path)->base = 0;
	r = fs_refresh(run->fs, &ino, 1, attr.ino, below(run, 2), false, name, NULL, &failed);
	model_tree_end(run->model, !r);
	fs_forget(run->fs, attr.ino, 1);
	if (!r && *at && learn(run, at))
		return -1;
	return verdict(run, r);
}

/* ---- the others ---- */

int op_snapshot_delete(struct run *run)
{
	struct model_entry *entry = pick_snapshot(run, NULL);
	uint64_t inos[2];
	char group[MODEL_NAME], path[2][MODEL_NAME];
	size_t count = 1;
	int r;

	if (!entry)
		return 0;
	strcpy(path[0], entry->path);
	parent_of(path[0], group);
	entry = pick_snapshot(run, group);
	if (below(run, 2) && strcmp(entry->path, path[0]) != 0)
		strcpy(path[count++], entry->path);
	say(run, "delete snapshot \"%s\"%s%s", path[0], count > 1 ? " and " : "",
		count > 1 ? path[1] : "");
	model_tree_begin(run->model);
	for (size_t i = 0; i < count; i++) {
		inos[i] = object_of(run, model_find(run->model, path[i]))->ino;
		snaps_drop(run, path[i]);
	}
	r = fs_snapshot_delete(run->fs, inos, count);
	model_tree_end(run->model, !r);
	return verdict(run, r);
}

int op_snapshot_rename(struct run *run)
{
	struct model_entry *entry = pick_snapshot(run, NULL);
	char path[MODEL_NAME], group[MODEL_NAME], to[MODEL_NAME], name[16];
	uint64_t ino;
	int r;

	if (!entry)
		return 0;
	strcpy(path, entry->path);
	parent_of(path, group);
	new_name(run, 's', name);
	snprintf(to, sizeof(to), "%.40s/%s", group, name);
	say(run, "rename snapshot \"%s\" to \"%s\"", path, name);
	ino = object_of(run, entry)->ino;
	model_tree_begin(run->model);
	model_move(run->model, path, to);
	r = fs_snapshot_rename(run->fs, ino, name);
	model_tree_end(run->model, !r);
	return verdict(run, r);
}

int op_unlink_snapshots(struct run *run)
{
	struct model_entry *entry = pick_entry(run, MODEL_FILE);
	char path[MODEL_NAME], group[MODEL_NAME];
	const char *name;
	uint64_t parent;
	int r;

	if (!entry || file_count(run) < 3)
		return 0;
	strcpy(path, entry->path);
	parent = place_of(run, path, &name);
	say(run, "unlink \"%s\" and its snapshots", path);
	model_tree_begin(run->model);
	if (counterpart(run, path, true, group))
		drop_all(run, group, false);
	model_remove(run->model, path);
	r = fs_unlink_snapshots(run->fs, parent, name);
	model_tree_end(run->model, !r);
	return verdict(run, r);
}

struct model_entry *pick_source(struct run *run)
{
	struct model_entry *entry = below(run, 2) ? pick_snapshot(run, NULL) : NULL;

	return entry ? entry : pick_entry(run, MODEL_FILE);
}
