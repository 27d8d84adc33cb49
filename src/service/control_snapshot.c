/* SPDX-License-Identifier: MIT */
/*
 * The verbs about snapshots: snapshot-create, -list, -rollback, -delete, -rename; remove (a clone and
 * its snapshots) and refresh.
 *
 * What each takes, as system calls of the caller would:
 *   create              read the clone, and make files in its folder, as cp does
 *   rollback, refresh   write the clone, and read the snapshot or the image
 *   delete, rename      remove files from the clone's folder
 *   remove              the same for the clone and all its snapshots
 * To make, delete and rename snapshots it is also enough to be the owner of the file: it does to
 * nobody's names anything.
 *
 * A clone is named by its path, also when it was removed and only its snapshots are left; its path in
 * .snapshots does as well. All is resolved to numbers with the caller's rights first, so what is done
 * is done to what was looked at.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/sizes.h"
#include "base/times.h"
#include "service/control.h"
#include "service/internal.h"
#include "service/names.h"
#include "service/report.h"

#define TOP ".snapshots"

/* ---- a clone and its snapshots ---- */

struct subject {
	char *path;	    /* of the clone, below the root */
	bool by_snapshots;  /* it was named by its folder in .snapshots */
	struct node file;   /* not held: it was removed */
	struct node folder; /* that it lies in, or its counterpart in .snapshots; not held: the root */
	struct node group;  /* its folder in .snapshots; not held: there is none */
	struct fs_snapshot *list;
	size_t count;
};

static void subject_release(struct fs *fs, struct subject *s)
{
	node_release(fs, &s->file);
	node_release(fs, &s->folder);
	node_release(fs, &s->group);
	free(s->path);
	free(s->list);
}

static char *in_snapshots(const char *path)
{
	char *text;

	return asprintf(&text, "%s%s%s", TOP, *path ? "/" : "", path) < 0 ? NULL : text;
}

/* path is taken over. */
static void set_path(struct subject *s, char *path)
{
	size_t top = strlen(TOP), skip = strspn(path, "/"), len;

	s->by_snapshots = strncmp(path + skip, TOP, top) == 0 && path[skip + top] == '/';
	if (s->by_snapshots)
		skip += top + 1;
	skip += strspn(path + skip, "/");
	memmove(path, path + skip, strlen(path + skip) + 1);
	for (len = strlen(path); len && path[len - 1] == '/'; len--)
		path[len - 1] = '\0';
	s->path = path;
}

/* Nothing there is no error: node is not held then. */
static int walk_if_there(struct request *rq, const char *path, struct node *node)
{
	int r = node_walk(rq->service->fs, &rq->access, path, node);

	return r == -ENOENT || r == -ENOTDIR ? 0 : r;
}

static int find_folder(struct request *rq, struct subject *s)
{
	CLEANUP_FREE char *folder = NULL;
	CLEANUP_FREE char *name = NULL;
	CLEANUP_FREE char *there = NULL;
	int r = path_split(s->path, &folder, &name);

	if (r < 0)
		return r;
	r = walk_if_there(rq, folder, &s->folder);
	if (r || s->folder.held || !*folder)
		return r;
	there = in_snapshots(folder);
	return there ? walk_if_there(rq, there, &s->folder) : -ENOMEM;
}

static int find_subject(struct request *rq, struct subject *s)
{
	CLEANUP_FREE char *there = in_snapshots(s->path);
	int r = walk_if_there(rq, s->path, &s->file);

	if (!there)
		return -ENOMEM;
	if (!r && s->file.held && !S_ISREG(s->file.attr.mode))
		return S_ISDIR(s->file.attr.mode) ? -EISDIR : S_ISLNK(s->file.attr.mode) ? -ELOOP : -EINVAL;
	if (!r)
		r = walk_if_there(rq, there, &s->group);
	/* A folder that holds folders is none of snapshots. */
	if (!r && s->group.held)
		r = fs_snapshot_list(rq->service->fs, s->group.attr.ino, &s->list, &s->count);
	if (!r && !s->file.held && !s->count)
		r = -ENOENT;
	return r ? r : find_folder(rq, s);
}

/* A snapshot has none itself. */
static int is_snapshot_itself(struct request *rq, const char *path)
{
	struct node node = {.held = false};
	int r = walk_if_there(rq, path, &node);
	bool file = !r && node.held && S_ISREG(node.attr.mode);

	node_release(rq->service->fs, &node);
	return file ? -EROFS : -ENOENT;
}

/* Takes path over. A failure is recorded. */
static int take_subject(struct request *rq, char *path, struct subject *s)
{
	CLEANUP_FREE char *typed = strdup(path);
	int r;

	*s = (struct subject){0};
	set_path(s, path);
	r = !typed ? -ENOMEM : !*s->path ? -EISDIR : find_subject(rq, s);
	if (r == -ENOENT)
		r = is_snapshot_itself(rq, typed);
	return r < 0 ? request_fail_path(rq, r, "cannot use", typed ? typed : s->path) : 0;
}

static int take_subject_key(struct request *rq, const char *key, struct subject *s)
{
	char *path;

	*s = (struct subject){0};
	if (request_path(rq, key, &path) < 0)
		return rq->error;
	return take_subject(rq, path, s);
}

static int need_file(struct request *rq, const struct subject *s)
{
	if (s->file.held)
		return 0;
	return request_fail_path(rq, -ENOENT, "cannot use", s->path);
}

static const struct fs_snapshot *find_snapshot(const struct subject *s, const char *name)
{
	for (size_t i = 0; i < s->count; i++)
		if (strcmp(s->list[i].name, name) == 0)
			return &s->list[i];
	return NULL;
}

static int no_snapshot(struct request *rq, const struct subject *s, const char *name)
{
	CLEANUP_FREE char *text = name_text(name);
	CLEANUP_FREE char *path = request_name(rq, s->path);

	return request_fail(rq, -ENOENT, "\"%s\" has no snapshot \"%s\", see goldfs snapshot list",
		path ? path : "", text ? text : "");
}

/* Takes the name of one of its snapshots from the request. */
static int take_snapshot(struct request *rq, const struct subject *s, const char *key,
	const struct fs_snapshot **snapshot)
{
	CLEANUP_FREE char *name = NULL;

	if (request_path(rq, key, &name) < 0)
		return rq->error;
	*snapshot = find_snapshot(s, name);
	return *snapshot ? 0 : no_snapshot(rq, s, name);
}

/* ---- rights ---- */

static int folder_attr(struct request *rq, const struct subject *s, struct fs_attr *attr)
{
	if (!s->folder.held)
		return fs_getattr(rq->service->fs, FS_INO_ROOT, attr);
	*attr = s->folder.attr;
	return 0;
}

static bool is_owner(const struct request *rq, const struct fs_attr *attr)
{
	return rq->access.fowner || rq->access.uid == attr->uid;
}

/* May the caller make, or remove, something in the clone's folder? entry: what is removed, or NULL. */
static bool may_change(struct request *rq, const struct subject *s, const struct fs_attr *entry)
{
	struct fs_attr folder;

	return folder_attr(rq, s, &folder) == 0 && access_may(&rq->access, &folder, W_OK | X_OK) &&
	       (!entry || access_may_replace(&rq->access, &folder, entry));
}

static bool may_delete(struct request *rq, const struct subject *s, uint64_t ino)
{
	struct fs_attr attr;

	return fs_getattr(rq->service->fs, ino, &attr) == 0 &&
	       (is_owner(rq, &attr) || may_change(rq, s, &attr));
}

static int refuse(struct request *rq, int err, const char *what, const struct subject *s)
{
	return request_fail_path(rq, err, what, s->path);
}

/* ---- create ---- */

static int may_create(struct request *rq, const struct subject *s)
{
	if (need_file(rq, s) < 0)
		return rq->error;
	if (!access_may(&rq->access, &s->file.attr, R_OK))
		return refuse(rq, -EACCES, "cannot read", s);
	if (!is_owner(rq, &s->file.attr) && !may_change(rq, s, NULL))
		return refuse(rq, -EACCES, "cannot make a snapshot of", s);
	return 0;
}

static int take_subjects(struct request *rq, struct subject **list, size_t *count)
{
	json_t *paths, *value;
	size_t i;

	*list = NULL;
	*count = 0;
	if (request_list(rq, "paths", &paths) < 0)
		return rq->error;
	*list = calloc(json_array_size(paths), sizeof(**list));
	if (!*list)
		return request_fail(rq, -ENOMEM, "out of memory");
	json_array_foreach(paths, i, value) {
		char *path;

		if (request_path_value(rq, "paths", value, &path) < 0)
			return rq->error;
		if (take_subject(rq, path, &(*list)[(*count)++]) < 0)
			return rq->error;
	}
	return 0;
}

static void release_subjects(struct fs *fs, struct subject *list, size_t count)
{
	for (size_t i = 0; i < count; i++)
		subject_release(fs, &list[i]);
	free(list);
}

static int created(struct request *rq, uint64_t count)
{
	return request_reply(rq, "snapshots", json_integer((json_int_t)count));
}

static bool is_name(const char *name)
{
	return *name && !strchr(name, '/') && strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
}

static int explain_name(struct request *rq, int err, const struct subject *s, const char *name,
	const char *what)
{
	CLEANUP_FREE char *path = request_name(rq, s->path);
	CLEANUP_FREE char *text = name_text(name);

	if (err == -EEXIST)
		return request_fail(rq, err, "\"%s\" has a snapshot \"%s\" already", path ? path : "",
			text ? text : "");
	if (err == -EINVAL && is_name(name))
		return request_fail(rq, err, "\"%s\" is named twice", path ? path : "");
	if (err == -EINVAL)
		return request_fail(rq, err, "\"%s\" is no name of a snapshot", text ? text : "");
	return request_fail_path(rq, err, what, s->path);
}

/* One that was removed meanwhile has nothing to lose. */
static int sync_file(struct request *rq, uint64_t ino)
{
	int r = fs_sync_file(rq->service->fs, ino);

	return r == -ESTALE ? 0 : r;
}

/* What the frozen layers hold is made durable after the instant, so that no guest waits for it. */
static int create(struct request *rq, const struct subject *list, size_t count, const char *name)
{
	CLEANUP_FREE uint64_t *inos = calloc(count, sizeof(*inos));
	size_t failed = 0;
	int r;

	if (!inos)
		return request_fail(rq, -ENOMEM, "out of memory");
	for (size_t i = 0; i < count; i++) {
		inos[i] = list[i].file.attr.ino;
		if (may_create(rq, &list[i]) < 0)
			return rq->error;
	}
	r = fs_snapshot_create(rq->service->fs, inos, count, name, &failed);
	if (r < 0)
		return explain_name(rq, r, &list[failed], name, "cannot make a snapshot of");
	r = fs_sync_soon(rq->service->fs);
	if (r < 0)
		return request_fail(rq, r,
			"the snapshot is made, but may not survive a power loss: %s", strerror(-r));
	return created(rq, count);
}

int control_snapshot_create(struct request *rq)
{
	CLEANUP_FREE char *name = NULL;
	struct subject *list;
	uint64_t done;
	size_t count;

	if (fs_request_is_done(rq->service->fs, &done))
		return created(rq, done);
	if (request_path(rq, "name", &name) < 0)
		return rq->error;
	if (take_subjects(rq, &list, &count) == 0)
		create(rq, list, count, name);
	release_subjects(rq->service->fs, list, count);
	return rq->error;
}

/* ---- list ---- */

static const char *name_of(const struct subject *s, uint64_t ino)
{
	for (size_t i = 0; i < s->count; i++)
		if (s->list[i].ino == ino)
			return s->list[i].name;
	return "";
}

static char *snapshot_path(const struct subject *s, const struct fs_snapshot *one)
{
	char *path;

	return asprintf(&path, "%s/%s/%s", TOP, s->path, one->name) < 0 ? NULL : path;
}

static json_t *snapshot_json(struct request *rq, const struct subject *s, const struct fs_snapshot *one)
{
	CLEANUP_FREE char *path = snapshot_path(s, one);
	struct fs_info info;
	json_t *object;

	if (!path)
		return NULL;
	if (fs_info(rq->service->fs, one->ino, rq->began_ns, &info))
		return json_null(); /* it is gone */
	object = report_file(path, &info);
	fs_info_release(&info);
	if (!object)
		return NULL;
	json_object_set_new(object, "name", name_json(one->name));
	json_object_set_new(object, "parent", name_json(name_of(s, one->base)));
	json_object_set_new(object, "automatic", json_boolean(one->automatic));
	json_object_set_new(object, "current", json_boolean(one->current));
	return object;
}

static int list_snapshots(struct request *rq, const struct subject *s)
{
	json_t *list = json_array();

	for (size_t i = 0; i < s->count; i++) {
		json_t *object = snapshot_json(rq, s, &s->list[i]);

		if (!object) {
			json_decref(list);
			return request_fail(rq, -ENOMEM, "out of memory");
		}
		if (json_is_null(object))
			json_decref(object);
		else
			json_array_append_new(list, object);
	}
	return request_reply(rq, "goldfs", list);
}

int control_snapshot_list(struct request *rq)
{
	struct subject s;

	if (take_subject_key(rq, "path", &s) == 0)
		list_snapshots(rq, &s);
	subject_release(rq->service->fs, &s);
	return rq->error;
}

/* ---- rollback ---- */

/* The snapshot of a file by its number. false: there is none. */
static bool find_kept(struct request *rq, const struct subject *s, uint64_t ino, struct fs_snapshot *found)
{
	struct fs_snapshot *list = NULL;
	size_t count = 0;
	bool there = false;

	if (ino && s->file.held && fs_snapshot_list(rq->service->fs, s->file.attr.ino, &list, &count) < 0)
		count = 0;
	for (size_t i = 0; i < count; i++) {
		if (list[i].ino != ino)
			continue;
		*found = list[i];
		there = true;
	}
	free(list);
	return there;
}

/* Says what was is kept as; ino 0: nothing. */
static int went(struct request *rq, const struct subject *s, uint64_t kept)
{
	struct fs_snapshot found = {0};
	int r = fs_sync_soon(rq->service->fs);

	if (r < 0)
		return request_fail(rq, r,
			"it is done, but may not survive a power loss: %s", strerror(-r));
	find_kept(rq, s, kept, &found);
	r = request_reply(rq, "kept", name_json(found.name));
	return r ? r : request_reply(rq, "automatic", json_boolean(found.automatic));
}

static int is_open(struct request *rq, const struct subject *s)
{
	CLEANUP_FREE char *path = request_name(rq, s->path);

	return request_fail(rq, -EBUSY, "\"%s\" is open for writing, stop who uses it; --force does it "
		"all the same", path ? path : "");
}

static int may_rollback(struct request *rq, const struct subject *s, const struct fs_snapshot *to)
{
	struct fs_attr attr;

	if (need_file(rq, s) < 0)
		return rq->error;
	if (!access_may(&rq->access, &s->file.attr, W_OK))
		return refuse(rq, -EACCES, "cannot write", s);
	if (fs_getattr(rq->service->fs, to->ino, &attr) < 0 || !access_may(&rq->access, &attr, R_OK))
		return refuse(rq, -EACCES, "cannot read a snapshot of", s);
	return 0;
}

static int rollback(struct request *rq, const struct subject *s, bool force)
{
	const struct fs_snapshot *to;
	uint64_t kept;
	int r;

	if (need_file(rq, s) < 0 || take_snapshot(rq, s, "name", &to) < 0 ||
		may_rollback(rq, s, to) < 0)
		return rq->error;
	r = fs_snapshot_rollback(rq->service->fs, s->file.attr.ino, to->ino, force, NULL, &kept);
	if (r == -EBUSY)
		return is_open(rq, s);
	return r < 0 ? refuse(rq, r, "cannot roll back", s) : went(rq, s, kept);
}

int control_snapshot_rollback(struct request *rq)
{
	bool force = false;
	struct subject s;
	uint64_t kept;

	if (take_subject_key(rq, "path", &s) == 0 && request_bool(rq, "force", &force) == 0) {
		if (fs_request_is_done(rq->service->fs, &kept))
			went(rq, &s, kept);
		else
			rollback(rq, &s, force);
	}
	subject_release(rq->service->fs, &s);
	return rq->error;
}

/* ---- delete ---- */

struct chosen {
	const struct fs_snapshot **list;
	uint64_t *inos;
	size_t count;
};

static void add_chosen(struct chosen *c, const struct fs_snapshot *one)
{
	for (size_t i = 0; i < c->count; i++)
		if (c->list[i] == one)
			return; /* named twice it goes once */
	c->inos[c->count] = one->ino;
	c->list[c->count++] = one;
}

static int choose_named(struct request *rq, const struct subject *s, struct chosen *c)
{
	json_t *names, *value;
	size_t i;

	if (request_list(rq, "names", &names) < 0)
		return rq->error;
	json_array_foreach(names, i, value) {
		CLEANUP_FREE char *name = NULL;
		const struct fs_snapshot *one;

		if (request_path_value(rq, "names", value, &name) < 0)
			return rq->error;
		one = find_snapshot(s, name);
		if (!one)
			return no_snapshot(rq, s, name);
		add_chosen(c, one);
	}
	return 0;
}

static int choose(struct request *rq, const struct subject *s, struct chosen *c)
{
	bool automatic = false;
	uint64_t older = 0;
	int64_t before;

	c->list = calloc(s->count + 1, sizeof(*c->list));
	c->inos = calloc(s->count + 1, sizeof(*c->inos));
	if (!c->list || !c->inos)
		return request_fail(rq, -ENOMEM, "out of memory");
	if (request_bool(rq, "automatic", &automatic) < 0 ||
		request_number(rq, "older_than", true, INT64_MAX / 1000000000, &older) < 0)
		return rq->error;
	if (!automatic)
		return choose_named(rq, s, c);
	if (json_object_get(rq->args, "names"))
		return request_fail(rq, -EINVAL, "either names or all automatic ones");
	before = times_now(CLOCK_REALTIME) - (int64_t)older * 1000000000;
	for (size_t i = 0; i < s->count; i++)
		if (s->list[i].automatic && s->list[i].created_ns <= before)
			add_chosen(c, &s->list[i]);
	return 0;
}

static int tell_deleted(struct request *rq, const struct subject *s, const struct chosen *c)
{
	json_t *list = json_array();
	uint64_t bytes = 0;
	int r = c->count ? fs_if_removed(rq->service->fs, c->inos, c->count, &bytes) : 0;

	for (size_t i = 0; i < c->count && !r; i++) {
		json_t *object = snapshot_json(rq, s, c->list[i]);

		if (!object)
			r = -ENOMEM;
		else if (json_is_null(object))
			json_decref(object);
		else
			json_array_append_new(list, object);
	}
	if (r < 0) {
		json_decref(list);
		return request_fail(rq, r, "cannot tell what deleting these frees: %s", strerror(-r));
	}
	r = request_reply(rq, "goldfs", list);
	return r ? r : request_reply(rq, "if_removed_bytes", json_integer((json_int_t)bytes));
}

/* "gone" tells names that are: the kernel may know them until somebody asks for them once more, and holds what
 * they named as long. gone: an array, or NULL without memory. */
static void add_gone(json_t *gone, const struct subject *s, const struct fs_snapshot *one)
{
	CLEANUP_FREE char *path = snapshot_path(s, one);

	json_array_append_new(gone, path ? name_json(path) : NULL);
}

static int durable(struct request *rq, const char *key, uint64_t count)
{
	int r = fs_sync_journal(rq->service->fs);

	if (r < 0)
		return request_fail(rq, r, "it is done, but may not survive a power loss: %s",
			strerror(-r));
	return request_reply(rq, key, json_integer((json_int_t)count));
}

static int delete_chosen(struct request *rq, const struct subject *s, const struct chosen *c)
{
	json_t *gone;
	int r = 0;

	for (size_t i = 0; i < c->count; i++)
		if (!may_delete(rq, s, c->inos[i]))
			return refuse(rq, -EACCES, "cannot delete a snapshot of", s);
	if (c->count)
		r = fs_snapshot_delete(rq->service->fs, c->inos, c->count);
	if (r < 0)
		return refuse(rq, r, "cannot delete a snapshot of", s);
	gone = json_array();
	for (size_t i = 0; i < c->count; i++)
		add_gone(gone, s, c->list[i]);
	r = request_reply(rq, "gone", gone);
	return r ? r : durable(rq, "deleted", c->count);
}

int control_snapshot_delete(struct request *rq)
{
	struct chosen c = {0};
	bool dry_run = false;
	struct subject s;
	uint64_t done;

	if (fs_request_is_done(rq->service->fs, &done))
		return durable(rq, "deleted", done);
	if (take_subject_key(rq, "path", &s) == 0 && request_bool(rq, "dry_run", &dry_run) == 0 &&
		choose(rq, &s, &c) == 0) {
		if (dry_run)
			tell_deleted(rq, &s, &c);
		else
			delete_chosen(rq, &s, &c);
	}
	free(c.list);
	free(c.inos);
	subject_release(rq->service->fs, &s);
	return rq->error;
}

/* ---- rename ---- */

static int rename_one(struct request *rq, const struct subject *s)
{
	const struct fs_snapshot *one;
	CLEANUP_FREE char *to = NULL;
	int r;

	if (take_snapshot(rq, s, "name", &one) < 0 || request_path(rq, "to", &to) < 0)
		return rq->error;
	if (!may_delete(rq, s, one->ino))
		return refuse(rq, -EACCES, "cannot rename a snapshot of", s);
	r = fs_snapshot_rename(rq->service->fs, one->ino, to);
	return r < 0 ? explain_name(rq, r, s, to, "cannot rename a snapshot of") : durable(rq, "renamed", 1);
}

int control_snapshot_rename(struct request *rq)
{
	struct subject s;
	uint64_t done;

	if (fs_request_is_done(rq->service->fs, &done))
		return durable(rq, "renamed", 1);
	if (take_subject_key(rq, "path", &s) == 0)
		rename_one(rq, &s);
	subject_release(rq->service->fs, &s);
	return rq->error;
}

/* ---- a clone with its snapshots ---- */

static int remove_snapshots_alone(struct request *rq, const struct subject *s)
{
	CLEANUP_FREE uint64_t *inos = calloc(s->count + 1, sizeof(*inos));
	int r;

	if (!inos)
		return request_fail(rq, -ENOMEM, "out of memory");
	for (size_t i = 0; i < s->count; i++)
		inos[i] = s->list[i].ino;
	r = fs_snapshot_delete(rq->service->fs, inos, s->count);
	return r < 0 ? refuse(rq, r, "cannot remove", s) : 0;
}

static int remove_all(struct request *rq, const struct subject *s)
{
	CLEANUP_FREE char *folder = NULL;
	CLEANUP_FREE char *name = NULL;
	struct fs_attr attr;
	json_t *gone;
	int r = path_split(s->path, &folder, &name);

	if (r == 0)
		r = folder_attr(rq, s, &attr);
	if (r == 0 && s->file.held && !may_change(rq, s, &s->file.attr))
		r = -EACCES;
	for (size_t i = 0; i < s->count && r == 0; i++)
		r = may_delete(rq, s, s->list[i].ino) ? 0 : -EACCES;
	if (r == 0 && !s->file.held)
		r = remove_snapshots_alone(rq, s);
	else if (r == 0)
		r = fs_unlink_snapshots(rq->service->fs, attr.ino, name);
	if (r < 0)
		return refuse(rq, r, "cannot remove", s);
	gone = json_array();
	json_array_append_new(gone, name_json(s->path));
	for (size_t i = 0; i < s->count; i++)
		add_gone(gone, s, &s->list[i]);
	r = request_reply(rq, "gone", gone);
	return r ? r : durable(rq, "removed", 1 + s->count);
}

/* Who names the folder may want the snapshots to go and the clone to stay. */
static int refuse_folder(struct request *rq, const struct subject *s)
{
	CLEANUP_FREE char *name = request_name(rq, s->path);

	return request_fail(rq, -EEXIST, "\"%s\" is there and would be removed with its snapshots: name it itself, "
		"or delete them by goldfs snapshot delete", name ? name : "");
}

int control_remove(struct request *rq)
{
	struct subject s;
	uint64_t done;

	if (fs_request_is_done(rq->service->fs, &done))
		return durable(rq, "removed", 1);
	if (take_subject_key(rq, "path", &s) == 0) {
		if (s.by_snapshots && s.file.held)
			refuse_folder(rq, &s);
		else
			remove_all(rq, &s);
	}
	subject_release(rq->service->fs, &s);
	return rq->error;
}

/* ---- refresh ---- */

static int explain_refresh(struct request *rq, int err, const struct subject *s, const char *image)
{
	CLEANUP_FREE char *name = request_name(rq, image);

	switch (err) {
	case -EBUSY:
		return is_open(rq, s);
	case -EMEDIUMTYPE:
		return request_fail(rq, err, "\"%s\" is no raw image (--opaque takes its bytes as they "
			"are)", name ? name : "");
	default:
		return refuse(rq, err, "cannot refresh", s);
	}
}

/* Whether it is an image, and all of it is in its folder. */
static int judge_image(struct request *rq, const struct node *node, const char *path)
{
	CLEANUP_FREE char *name = request_name(rq, path);
	enum fs_kind kind;
	int r = fs_kind(rq->service->fs, node->attr.ino, &kind);

	if (r)
		return request_fail_path(rq, r, "cannot use", path);
	if (kind != FS_KIND_GOLDEN)
		return request_fail(rq, -EINVAL,
			"\"%s\" is no golden image; goldfs snapshot rollback goes to a snapshot",
			name ? name : "");
	if (fs_is_promotion(rq->service->fs, node->attr.ino))
		return request_fail(rq, -EBUSY,
			"\"%s\" is being written, wait for its job: goldfs job list",
			name ? name : "");
	return 0;
}

static int judge_distinct(struct request *rq, const struct subject *list, size_t count)
{
	for (size_t i = 1; i < count; i++)
		for (size_t k = 0; k < i; k++)
			if (list[i].file.attr.ino == list[k].file.attr.ino && list[i].file.held)
				return request_fail_path(
					rq, -EINVAL, "named twice, name it once:", list[i].path);
	return 0;
}

/* "kept" tells what the files were: the path and the name of a snapshot for each that was something. */
static int tell_kept(struct request *rq, const struct subject *list, size_t count, const uint64_t *kept)
{
	json_t *array = json_array();

	for (size_t i = 0; i < count; i++) {
		struct fs_snapshot found;

		if (find_kept(rq, &list[i], kept[i], &found))
			json_array_append_new(array, json_pack("{s:o, s:o}", "path",
				name_json(list[i].path), "name", name_json(found.name)));
	}
	return request_reply(rq, "kept", array);
}

static int refresh(struct request *rq, const struct subject *list, size_t count, const char *image,
	const struct node *golden)
{
	CLEANUP_FREE uint64_t *inos = calloc(count, sizeof(*inos));
	CLEANUP_FREE uint64_t *kept = calloc(count, sizeof(*kept));
	bool force = false, opaque = false;
	size_t failed = 0;
	int r;

	if (request_bool(rq, "force", &force) < 0 || request_bool(rq, "opaque", &opaque) < 0)
		return rq->error;
	if (!inos || !kept)
		return request_fail(rq, -ENOMEM, "out of memory");
	if (!S_ISREG(golden->attr.mode))
		return request_fail_path(rq, -EINVAL, "cannot use", image);
	if (!access_may(&rq->access, &golden->attr, R_OK))
		return request_fail_path(rq, -EACCES, "cannot read", image);
	if (judge_image(rq, golden, image) < 0 || judge_distinct(rq, list, count) < 0)
		return rq->error;
	for (size_t i = 0; i < count; i++) {
		inos[i] = list[i].file.attr.ino;
		if (need_file(rq, &list[i]) < 0)
			return rq->error;
		if (!access_may(&rq->access, &list[i].file.attr, W_OK))
			return refuse(rq, -EACCES, "cannot write", &list[i]);
	}
	r = fs_refresh(rq->service->fs, inos, count, golden->attr.ino, force, opaque, NULL, kept,
		&failed);
	if (r < 0)
		return explain_refresh(rq, r, &list[failed], image);
	for (size_t i = 0; i < count && !r; i++)
		r = sync_file(rq, inos[i]);
	if (r < 0)
		return refuse(rq, r, "cannot make durable", &list[0]);
	r = tell_kept(rq, list, count, kept);
	return r ? r : durable(rq, "refreshed", count);
}

int control_refresh(struct request *rq)
{
	CLEANUP_FREE char *image = NULL;
	struct node golden = {.held = false};
	struct subject *list = NULL;
	size_t count = 0;
	uint64_t done;

	if (fs_request_is_done(rq->service->fs, &done))
		return durable(rq, "refreshed", done);
	if (request_path(rq, "golden", &image) == 0 && request_walk(rq, image, &golden) == 0 &&
		take_subjects(rq, &list, &count) == 0)
		refresh(rq, list, count, image, &golden);
	release_subjects(rq->service->fs, list, count);
	node_release(rq->service->fs, &golden);
	return rq->error;
}
