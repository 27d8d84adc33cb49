/* SPDX-License-Identifier: MIT */
/*
 * The folders still to do stand on a stack of our own, each with the reference that its look-up
 * took, so that a number is not given to another file meanwhile. A folder's names are gathered
 * first and handled afterwards: fs_list() may hold a lock while it calls back.
 */
#include "service/walk.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/times.h"

#define WALK_PATH_MAX 65536u /* deeper folders are passed over */

struct pending {
	struct node node;
	char *path;
};

struct names {
	char **name;
	size_t count;
	size_t capacity;
};

struct walk {
	struct fs *fs;
	const struct access *access;
	unsigned int types;
	int64_t began_ns;
	walk_fn *cb;
	void *arg;
	struct pending *stack;
	size_t depth;
	size_t capacity;
};

static void names_release(struct names *names)
{
	for (size_t i = 0; i < names->count; i++)
		free(names->name[i]);
	free(names->name);
}

static int add_name(void *arg, const char *name, const struct fs_attr *attr, uint64_t next)
{
	struct names *names = arg;

	if (names->count == names->capacity) {
		size_t capacity = names->capacity ? names->capacity * 2 : 64;
		char **grown = reallocarray(names->name, capacity, sizeof(*grown));

		if (!grown)
			return -ENOMEM;
		names->name = grown;
		names->capacity = capacity;
	}
	names->name[names->count] = strdup(name);
	return names->name[names->count] ? (names->count++, 0) : -ENOMEM;
}

static int compare_names(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Takes node and path over, also when it fails. */
static int push(struct walk *w, struct node node, char *path)
{
	if (w->depth == w->capacity) {
		size_t capacity = w->capacity ? w->capacity * 2 : 16;
		struct pending *grown = reallocarray(w->stack, capacity, sizeof(*grown));

		if (!grown) {
			node_release(w->fs, &node);
			free(path);
			return -ENOMEM;
		}
		w->stack = grown;
		w->capacity = capacity;
	}
	w->stack[w->depth++] = (struct pending){.node = node, .path = path};
	return 0;
}

static char *join(const char *folder, const char *name)
{
	char *path;

	if (!*folder)
		return strdup(name);
	return asprintf(&path, "%s/%s", folder, name) < 0 ? NULL : path;
}

static bool gone(int error)
{
	return error == -ENOENT || error == -ESTALE || error == -EACCES;
}

static int report(struct walk *w, const char *path, const struct fs_attr *attr)
{
	struct fs_info info;
	int r;

	/* A file outside of golden and .snapshots, which are not entered, is a clone. */
	if (w->types & WALK_BARE)
		return w->cb(w->arg, path, attr, NULL);
	r = fs_info(w->fs, attr->ino, w->began_ns, &info);
	if (r < 0)
		return gone(r) ? 0 : r;
	if (w->types & 1u << info.kind)
		r = w->cb(w->arg, path, attr, &info);
	fs_info_release(&info);
	return r;
}

static bool may_enter(const struct walk *w, const struct fs_attr *attr)
{
	if (attr->ino == FS_INO_GOLDEN && !(w->types & WALK_GOLDEN))
		return false;
	if (attr->ino == FS_INO_SNAPSHOTS && !(w->types & WALK_SNAPSHOT))
		return false;
	return !w->access || access_may(w->access, attr, R_OK | X_OK);
}

/* One entry of a folder: a file is reported, a folder put off (and reported). */
static int visit(struct walk *w, const struct fs_attr *folder, const char *path, const char *name)
{
	struct node node = {.held = false};
	char *entry;
	int r;

	r = fs_lookup(w->fs, folder->ino, name, &node.attr);
	if (r < 0)
		return gone(r) ? 0 : r;
	node.held = true;
	entry = join(path, name);
	if (!entry) {
		node_release(w->fs, &node);
		return -ENOMEM;
	}
	if (S_ISREG(node.attr.mode) || (S_ISDIR(node.attr.mode) && w->types & WALK_FOLDER))
		r = report(w, entry, &node.attr);
	if (r == 0 && S_ISDIR(node.attr.mode) && may_enter(w, &node.attr) &&
		strlen(entry) < WALK_PATH_MAX)
		return push(w, node, entry);
	node_release(w->fs, &node);
	free(entry);
	return r;
}

static void reverse(struct pending *first, size_t count)
{
	for (size_t i = 0; i < count / 2; i++) {
		struct pending swap = first[i];

		first[i] = first[count - 1 - i];
		first[count - 1 - i] = swap;
	}
}

static int visit_folder(struct walk *w, const struct pending *top)
{
	const struct fs_attr *folder = &top->node.attr;
	struct names names = {0};
	size_t below = w->depth;
	int r = fs_list(w->fs, folder->ino, 0, add_name, &names);

	if (r < 0) {
		names_release(&names);
		return gone(r) ? 0 : r;
	}
	if (names.count)
		qsort(names.name, names.count, sizeof(*names.name), compare_names);
	for (size_t i = 0; i < names.count && r == 0; i++)
		r = visit(w, folder, top->path, names.name[i]);
	/* The first folder found is to be the next one popped. */
	if (w->depth > below)
		reverse(w->stack + below, w->depth - below);
	names_release(&names);
	return r;
}

int walk(struct fs *fs, const struct access *access, const struct node *top, const char *path,
	unsigned int types, walk_fn *cb, void *arg)
{
	struct walk w = {.fs = fs, .access = access, .types = types, .cb = cb, .arg = arg,
		.began_ns = times_now(CLOCK_MONOTONIC)};
	struct pending next = {.node = *top, .path = (char *)path};
	int r;

	if (!S_ISDIR(top->attr.mode))
		return S_ISREG(top->attr.mode) ? report(&w, path, &top->attr) : 0;
	if (access && !access_may(access, &top->attr, R_OK | X_OK))
		return -EACCES;
	r = visit_folder(&w, &next); /* top stays the caller's */
	while (w.depth > 0) {
		next = w.stack[--w.depth];
		if (r == 0)
			r = visit_folder(&w, &next);
		node_release(fs, &next.node);
		free(next.path);
	}
	free(w.stack);
	return r;
}
