/* SPDX-License-Identifier: MIT */
/* The verbs that look at files: list, stat, and stat with what a removal would free. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/sizes.h"
#include "service/internal.h"
#include "service/names.h"
#include "service/report.h"
#include "service/walk.h"

#define FREED_TRIES 3

/* Files whose removal is asked about, or that a folder's figures are made of. */
struct set {
	uint64_t *ino;
	size_t count;
	size_t capacity;
	struct fs_figures sum;
};

static int set_add(void *arg, const char *path, const struct fs_attr *attr,
	const struct fs_info *info)
{
	struct set *set = arg;

	if (set->count == set->capacity) {
		size_t capacity = set->capacity ? set->capacity * 2 : 64;
		uint64_t *grown = reallocarray(set->ino, capacity, sizeof(*grown));

		if (!grown)
			return -ENOMEM;
		set->ino = grown;
		set->capacity = capacity;
	}
	set->ino[set->count++] = attr->ino;
	report_add(&set->sum, &info->figures);
	return 0;
}

/* ---- folders ---- */

/*
 * What removing the set frees. Files may vanish between the look and the question: then the core
 * does not know the number any more and the caller is to look again (-EAGAIN).
 */
static int freed(struct request *rq, const struct set *set, uint64_t *bytes)
{
	int r;

	*bytes = 0;
	if (set->count == 0)
		return 0;
	r = fs_if_removed(rq->service->fs, set->ino, set->count, bytes);
	return r == -ENOENT || r == -ESTALE ? -EAGAIN : r;
}

/* golden and what is below it: a name that nothing else can have. */
static bool is_golden(const char *path)
{
	return strncmp(path, "golden", 6) == 0 && (!path[6] || path[6] == '/');
}

/* .snapshots and what is below it. */
static bool is_snapshots(const char *path)
{
	return strncmp(path, ".snapshots", 10) == 0 && (!path[10] || path[10] == '/');
}

static int add_up(void *arg, const char *path, const struct fs_attr *attr,
	const struct fs_info *info)
{
	report_add(arg, &info->figures);
	return 0;
}

/* The clones below a folder: golden images and snapshots do not go when a folder is removed. Below
 * .snapshots, the snapshots. */
static int gather(struct request *rq, const struct fs_attr *attr, const char *path,
	struct set *set)
{
	const struct node top = {.attr = *attr};

	return walk(rq->service->fs, &rq->access, &top, path,
		is_snapshots(path) ? WALK_SNAPSHOT : WALK_CLONE, set_add, set);
}

static int folder_figures(struct request *rq, const struct fs_attr *attr, const char *path,
	struct fs_figures *figures)
{
	const struct node top = {.attr = *attr};
	uint64_t bytes;
	int r = -EAGAIN;

	/* Nobody removes these: there is only what they come to. */
	if (is_golden(path)) {
		*figures = (struct fs_figures){0};
		r = walk(rq->service->fs, &rq->access, &top, path, WALK_GOLDEN, add_up, figures);
	}
	for (int i = 0; i < FREED_TRIES && r == -EAGAIN; i++) {
		struct set set = {0};

		r = gather(rq, attr, path, &set);
		if (r == 0)
			r = freed(rq, &set, &bytes);
		if (r == 0) {
			report_fold(&set.sum, bytes);
			*figures = set.sum;
		}
		free(set.ino);
	}
	/* A folder that may be searched but not read is seen, what is in it is not. */
	return r == -EACCES ? 0 : r;
}

/*
 * A clone names the image it was made of. Where that lies in a folder which the caller may not
 * search, its name is not for him: the clone was given to him, the folder was not. info borrows.
 */
static void hide_base(struct request *rq, struct fs_info *info)
{
	static char nothing[] = "";
	struct node node;
	int r;

	if (!info->base || !*info->base || rq->access.override)
		return;
	r = node_walk(rq->service->fs, &rq->access, info->base, &node);
	node_release(rq->service->fs, &node);
	if (r == -EACCES)
		info->base = nothing;
}

/* ---- list ---- */

struct listing {
	struct request *rq;
	bool comma;
};

static int list_file(void *arg, const char *path, const struct fs_attr *attr,
	const struct fs_info *info)
{
	struct listing *listing = arg;
	struct fs_info shown = *info; /* borrows what info owns */
	json_t *object;
	int r = 0;

	if (info->kind == FS_KIND_FOLDER)
		r = folder_figures(listing->rq, attr, path, &shown.figures);
	if (r < 0)
		return r;
	hide_base(listing->rq, &shown);
	if (listing->comma)
		putc(',', listing->rq->out);
	listing->comma = true;
	object = report_file(path, &shown);
	if (!object || json_dumpf(object, listing->rq->out, JSON_COMPACT) < 0)
		r = -ENOMEM;
	json_decref(object);
	return r;
}

static int take_types(struct request *rq, unsigned int *types)
{
	static const struct {
		const char *name;
		unsigned int type;
	} known[] = {
		{"golden", WALK_GOLDEN},
		{"clone", WALK_CLONE},
		{"snapshot", WALK_SNAPSHOT},
		{"folder", WALK_FOLDER},
	};
	json_t *list, *value;
	size_t i, k;

	*types = WALK_GOLDEN | WALK_CLONE | WALK_SNAPSHOT;
	if (!json_object_get(rq->args, "types"))
		return 0;
	if (request_list(rq, "types", &list) < 0)
		return rq->error;
	*types = 0;
	json_array_foreach(list, i, value) {
		const char *name = json_string_value(value);

		for (k = 0; name && k < ARRAY_SIZE(known); k++)
			if (strcmp(name, known[k].name) == 0)
				break;
		if (!name || k == ARRAY_SIZE(known))
			return request_fail(rq, -EINVAL, "\"types\" has something unknown");
		*types |= known[k].type;
	}
	return 0;
}

/* Without slashes at its ends: what the walk puts names behind. */
static void trim(char *path)
{
	size_t len;

	memmove(path, path + strspn(path, "/"), strlen(path + strspn(path, "/")) + 1);
	for (len = strlen(path); len && path[len - 1] == '/'; len--)
		path[len - 1] = '\0';
}

int control_list(struct request *rq)
{
	struct listing listing = {.rq = rq};
	CLEANUP_FREE char *path = NULL;
	unsigned int types;
	struct node node;
	int r;

	if (take_types(rq, &types) < 0)
		return rq->error;
	if (json_object_get(rq->args, "path") ? request_path(rq, "path", &path) < 0 :
						!(path = strdup("")))
		return request_fail(rq, -ENOMEM, "out of memory");
	trim(path);
	if (request_walk(rq, path, &node) < 0)
		return rq->error;
	fputs(",\"goldfs\":[", rq->out);
	r = walk(rq->service->fs, &rq->access, &node, path, types, list_file, &listing);
	putc(']', rq->out);
	node_release(rq->service->fs, &node);
	return r < 0 ? request_fail_path(rq, r, "cannot list", path) : 0;
}

/* ---- stat ---- */

static int stat_path(struct request *rq, const char *path, struct set *set, json_t *list)
{
	struct fs_info info = {0};
	struct node node;
	int r;

	if (request_walk(rq, path, &node) < 0)
		return rq->error;
	r = fs_info(rq->service->fs, node.attr.ino, rq->began_ns, &info);
	if (r == 0 && set && S_ISDIR(node.attr.mode))
		r = gather(rq, &node.attr, path, set);
	else if (r == 0 && set && (info.kind == FS_KIND_CLONE || info.kind == FS_KIND_SNAPSHOT))
		r = set_add(set, path, &node.attr, &info);
	if (r == 0 && S_ISDIR(node.attr.mode))
		r = folder_figures(rq, &node.attr, path, &info.figures);
	if (r == 0) {
		struct fs_info shown = info;

		hide_base(rq, &shown);
		if (json_array_append_new(list, report_file(path, &shown)) < 0)
			r = -ENOMEM;
	}
	fs_info_release(&info);
	node_release(rq->service->fs, &node);
	return r < 0 ? request_fail_path(rq, r, "cannot look at", path) : 0;
}

static int compare_numbers(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a;
	uint64_t y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

/* A file that is named twice, or by its folder too, goes once. */
static void set_distinct(struct set *set)
{
	size_t kept = 0;

	if (set->count)
		qsort(set->ino, set->count, sizeof(*set->ino), compare_numbers);
	for (size_t i = 0; i < set->count; i++)
		if (kept == 0 || set->ino[kept - 1] != set->ino[i])
			set->ino[kept++] = set->ino[i];
	set->count = kept;
}

static int stat_paths(struct request *rq, json_t *paths, struct set *set, json_t *list)
{
	json_t *value;
	size_t i;

	json_array_foreach(paths, i, value) {
		CLEANUP_FREE char *path = NULL;

		if (request_path_value(rq, "paths", value, &path) < 0)
			return rq->error;
		trim(path);
		if (stat_path(rq, path, set, list) < 0)
			return rq->error;
	}
	return 0;
}

int control_stat(struct request *rq)
{
	bool if_removed = false;
	struct set set = {0};
	json_t *paths;
	json_t *list;
	uint64_t bytes;
	int r;

	if (request_list(rq, "paths", &paths) < 0 ||
		request_bool(rq, "if_removed", &if_removed) < 0)
		return rq->error;
	list = json_array();
	r = stat_paths(rq, paths, if_removed ? &set : NULL, list);
	if (r == 0 && if_removed) {
		set_distinct(&set);
		r = freed(rq, &set, &bytes);
	}
	free(set.ino);
	if (r < 0) {
		json_decref(list);
		return request_fail(rq, r, "cannot tell what removing these frees: %s",
			strerror(-r));
	}
	if (request_reply(rq, "goldfs", list) < 0)
		return rq->error;
	if (if_removed)
		return request_reply(rq, "if_removed_bytes", json_integer((json_int_t)bytes));
	return 0;
}
