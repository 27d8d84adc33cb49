/* SPDX-License-Identifier: MIT */
/*
 * The clone verb: one source, any number of targets, one commit.
 *
 * Everything is read and checked first: the source (a file that the caller may read), each target's
 * folder (search and write) and what stands at its name. Then fs_clone() makes all of them or none,
 * asking once more what may be replaced when nobody can change it any more (judge()), and fs_sync_soon()
 * has that made durable. When another image takes the
 * source's name on the way, all is looked at again.
 *
 * Owner and permissions are what cp would give: the caller's uid, his gid or that of a set-group-ID
 * folder, and the source's permission bits less his umask. A golden image that is read-only gives
 * read-only clones, as it would with cp.
 */
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/text.h"
#include "service/control.h"
#include "service/internal.h"
#include "service/names.h"
#include "service/pattern.h"

#define STALE_TRIES 5

struct target {
	struct fs_clone_target to; /* its name is owned */
	char *folder;		   /* path, for messages; owned by the folder list */
};

/* A folder that targets lie in, held. */
struct parent {
	struct node node;
	char *path;
};

struct clone {
	struct node source;
	char *source_path;
	struct target *targets;
	size_t count;
	struct parent *parents;
	size_t parent_count;
	bool replace;
	bool opaque;
	uint64_t umask;
	const char *mode; /* the request's */
	struct fs_owner owner;
};

static void clone_release(struct fs *fs, struct clone *clone)
{
	for (size_t i = 0; i < clone->count; i++)
		free((char *)clone->targets[i].to.name);
	for (size_t i = 0; i < clone->parent_count; i++) {
		node_release(fs, &clone->parents[i].node);
		free(clone->parents[i].path);
	}
	node_release(fs, &clone->source);
	free(clone->targets);
	free(clone->parents);
	free(clone->source_path);
}

/* ---- the source ---- */

static int check_mode(struct request *rq, struct clone *clone)
{
	const char *mode = "snapshot";

	if (request_string(rq, "mode", true, &mode) < 0)
		return rq->error;
	clone->mode = mode;
	if (strcmp(mode, "snapshot") != 0 && strcmp(mode, "thin") != 0 && strcmp(mode, "full") != 0)
		return request_fail(rq, -EINVAL, "\"%.64s\" is no mode of a clone", mode);
	return 0;
}

static int take_source(struct request *rq, struct clone *clone)
{
	const struct fs_attr *attr = &clone->source.attr;
	int err = 0;

	if (request_path(rq, "source", &clone->source_path) < 0 ||
		request_walk(rq, clone->source_path, &clone->source) < 0)
		return rq->error;
	if (S_ISDIR(attr->mode))
		err = -EISDIR;
	else if (S_ISLNK(attr->mode))
		err = -ELOOP;
	else if (!S_ISREG(attr->mode))
		err = -EINVAL;
	else if (!access_may(&rq->access, attr, R_OK))
		err = -EACCES;
	return err ? request_fail_path(rq, err, "cannot clone", clone->source_path) : 0;
}

/* ---- the targets ---- */

/* The group of new files in folder. All targets are made with one owner. */
static int check_group(struct request *rq, struct clone *clone, const struct fs_attr *folder)
{
	uint32_t gid = folder->mode & S_ISGID ? folder->gid : rq->access.gid;

	if (clone->parent_count == 1)
		clone->owner = (struct fs_owner){.uid = rq->access.uid, .gid = gid};
	if (clone->owner.gid != gid)
		return request_fail(rq, -EINVAL,
			"the targets' folders give different groups, clone into one at a time");
	return 0;
}

/* Adds the folder that path leads to, or finds it again. path is taken over. */
static int take_parent(struct request *rq, struct clone *clone, char *path)
{
	struct parent parent = {.path = path};
	const struct fs_attr *attr = &parent.node.attr;
	struct parent *grown;
	int err = 0;

	if (clone->parent_count &&
		strcmp(clone->parents[clone->parent_count - 1].path, path) == 0) {
		free(path);
		return 0;
	}
	grown = reallocarray(clone->parents, clone->parent_count + 1, sizeof(*grown));
	if (!grown) {
		free(path);
		return request_fail(rq, -ENOMEM, "out of memory");
	}
	clone->parents = grown;
	if (request_walk(rq, path, &parent.node) < 0) {
		free(path);
		return rq->error;
	}
	clone->parents[clone->parent_count++] = parent; /* released with clone from here on */
	if (!S_ISDIR(attr->mode))
		err = -ENOTDIR;
	else if (!access_may(&rq->access, attr, W_OK | X_OK))
		err = -EACCES;
	if (err)
		return request_fail_path(rq, err, "cannot make files in", path);
	return check_group(rq, clone, attr);
}

/* Adds name in the folder that was taken last. name is taken over. */
static void add_target(struct clone *clone, char *name)
{
	const struct parent *parent = &clone->parents[clone->parent_count - 1];

	clone->targets[clone->count++] = (struct target){
		.to = {.parent = parent->node.attr.ino, .name = name},
		.folder = parent->path,
	};
}

static char *target_path(const struct target *target)
{
	char *path;

	if (asprintf(&path, "%s/%s", target->folder, target->to.name) < 0)
		return NULL;
	return path;
}

static int take_listed(struct request *rq, struct clone *clone)
{
	json_t *list, *value;
	size_t i;

	if (request_list(rq, "targets", &list) < 0)
		return rq->error;
	if (json_array_size(list) > CONTROL_CLONES_MAX)
		return request_fail(rq, -E2BIG, "more than %u clones at once", CONTROL_CLONES_MAX);
	clone->targets = calloc(json_array_size(list), sizeof(*clone->targets));
	if (!clone->targets)
		return request_fail(rq, -ENOMEM, "out of memory");
	json_array_foreach(list, i, value) {
		CLEANUP_FREE char *path = NULL;
		CLEANUP_FREE char *name = NULL;
		char *folder;
		int r;

		if (request_path_value(rq, "targets", value, &path) < 0)
			return rq->error;
		r = path_split(path, &folder, &name);
		if (r < 0)
			return request_fail_path(rq, r, "cannot clone to", path);
		if (strlen(name) > NAME_MAX) {
			free(folder);
			return request_fail_path(rq, -ENAMETOOLONG, "cannot clone to", path);
		}
		if (take_parent(rq, clone, folder) < 0)
			return rq->error;
		add_target(clone, steal_pointer(&name));
	}
	return 0;
}

static int expand(struct request *rq, struct clone *clone, const char *pattern, uint64_t start,
	uint64_t count)
{
	char name[NAME_MAX + 1];

	for (uint64_t i = 0; i < count; i++) {
		char *copy;

		if (pattern_expand(pattern, start + i, name, sizeof(name)) < 0)
			return request_fail(rq, -ENAMETOOLONG, "the names are too long");
		copy = strdup(name);
		if (!copy)
			return request_fail(rq, -ENOMEM, "out of memory");
		add_target(clone, copy);
	}
	return 0;
}

static int take_pattern(struct request *rq, struct clone *clone)
{
	CLEANUP_FREE char *folder = NULL;
	CLEANUP_FREE char *pattern = NULL;
	const char *wrong;
	uint64_t count = 0;
	uint64_t start = 1;

	if (request_path(rq, "folder", &folder) < 0 || request_path(rq, "pattern", &pattern) < 0 ||
		request_number(rq, "count", false, CONTROL_CLONES_MAX, &count) < 0 ||
		request_number(rq, "start", true, INT64_MAX / 2, &start) < 0)
		return rq->error;
	wrong = strchr(pattern, '/') ? "is more than a name" : pattern_check(pattern);
	if (!wrong && count == 0)
		wrong = "is to be used 0 times";
	if (wrong)
		return request_fail(rq, -EINVAL, "the pattern %s", wrong);
	clone->targets = calloc(count, sizeof(*clone->targets));
	if (!clone->targets)
		return request_fail(rq, -ENOMEM, "out of memory");
	if (take_parent(rq, clone, steal_pointer(&folder)) < 0)
		return rq->error;
	return expand(rq, clone, pattern, start, count);
}

/* ---- what stands at the targets' names already ---- */

static int compare_targets(const void *a, const void *b)
{
	const struct target *x = a;
	const struct target *y = b;

	if (x->to.parent != y->to.parent)
		return x->to.parent < y->to.parent ? -1 : 1;
	return strcmp(x->to.name, y->to.name);
}

static int check_distinct(struct request *rq, struct clone *clone)
{
	qsort(clone->targets, clone->count, sizeof(*clone->targets), compare_targets);
	for (size_t i = 1; i < clone->count; i++) {
		const struct target *target = &clone->targets[i];

		if (compare_targets(target - 1, target) == 0) {
			CLEANUP_FREE char *path = target_path(target);
			CLEANUP_FREE char *name = request_name(rq, path ? path : "");

			return request_fail(rq, -EINVAL, "\"%s\" is named twice", name ? name : "");
		}
	}
	return 0;
}

static const struct parent *parent_of(const struct clone *clone, uint64_t ino)
{
	for (size_t i = 0; i < clone->parent_count; i++)
		if (clone->parents[i].node.attr.ino == ino)
			return &clone->parents[i];
	return NULL;
}

static int check_replaced(struct request *rq, struct clone *clone, const struct target *target)
{
	const struct fs_attr *folder = &parent_of(clone, target->to.parent)->node.attr;
	CLEANUP_FREE char *path = target_path(target);
	struct node node;
	int r = node_step(rq->service->fs, &rq->access, folder, target->to.name, &node);

	if (r == -ENOENT)
		return 0;
	if (r == 0 && S_ISDIR(node.attr.mode))
		r = -EISDIR;
	else if (r == 0 && node.attr.ino == clone->source.attr.ino)
		r = -EINVAL;
	else if (r == 0 && !access_may_replace(&rq->access, folder, &node.attr))
		r = -EPERM;
	node_release(rq->service->fs, &node);
	return r < 0 ? request_fail_path(rq, r, "cannot replace", path ? path : "") : 0;
}

static int take_targets(struct request *rq, struct clone *clone)
{
	bool listed = json_object_get(rq->args, "targets");
	bool pattern = json_object_get(rq->args, "pattern");

	if (listed == pattern)
		return request_fail(rq, -EINVAL,
			"the request must have either \"targets\" or \"pattern\"");
	if ((listed ? take_listed(rq, clone) : take_pattern(rq, clone)) < 0 ||
		check_distinct(rq, clone) < 0)
		return rq->error;
	for (size_t i = 0; clone->replace && i < clone->count; i++)
		if (check_replaced(rq, clone, &clone->targets[i]) < 0)
			return rq->error;
	return 0;
}

/* ---- doing it ---- */

/* The command that makes a raw image of the source, for the folder of images. */
static char *convert_command(struct request *rq, const char *source_path)
{
	static const char golden[] = "golden/";
	CLEANUP_FREE char *name = name_text(source_path + strspn(source_path, "/"));
	CLEANUP_FREE char *from = NULL, *to = NULL, *from_word = NULL, *to_word = NULL;
	const char *base;
	const char *dot;
	char *command;

	if (!name)
		return NULL;
	base = strncmp(name, golden, strlen(golden)) == 0 ? name + strlen(golden) : name;
	dot = strrchr(base, '.');
	if (!dot || strchr(dot, '/') || strcmp(dot, ".img") == 0 || strcmp(dot, ".raw") == 0)
		dot = base + strlen(base);
	if (asprintf(&from, "%s/%s", rq->service->info.images, base) < 0)
		from = NULL;
	if (asprintf(&to, "%s/%.*s%s", rq->service->info.images, (int)(dot - base), base,
		    *dot ? ".img" : ".converted.img") < 0)
		to = NULL;
	from_word = from ? text_shell_word(from) : NULL;
	to_word = to ? text_shell_word(to) : NULL;
	if (!from_word || !to_word ||
		asprintf(&command, "qemu-img convert -O raw %s %s", from_word, to_word) < 0)
		return NULL;
	return command;
}

static int refuse_format(struct request *rq, const struct clone *clone)
{
	const char *format = fs_golden_format(rq->service->fs, clone->source.attr.ino);
	CLEANUP_FREE char *command = convert_command(rq, clone->source_path);
	CLEANUP_FREE char *name = request_name(rq, clone->source_path);

	return request_fail(rq, -EMEDIUMTYPE,
		"\"%s\" is a %s image and clones need a raw one, type: %s "
		"(--opaque clones its bytes as they are)",
		name ? name : "", format ? format : "foreign", command ? command : "");
}

/* Says why fs_clone() failed; target is the one it failed at. */
static int explain(struct request *rq, const struct clone *clone, int err,
	const struct target *target)
{
	CLEANUP_FREE char *path = target_path(target);
	CLEANUP_FREE char *name = request_name(rq, path ? path : "");
	CLEANUP_FREE char *source = request_name(rq, clone->source_path);

	switch (err) {
	case -EMEDIUMTYPE:
		return refuse_format(rq, clone);
	case -EEXIST:
		return request_fail(rq, err, "\"%s\" exists already, --force replaces it",
			name ? name : "");
	case -EPERM:
		return request_fail(rq, err, "\"%s\" is a reserved name", name ? name : "");
	case -EBUSY:
		return request_fail(rq, err,
			"\"%s\" is open for writing, clone it when the writer is done",
			source ? source : "");
	case -EROFS:
	case -EACCES:
		return request_fail_path(rq, err, "cannot clone to", path ? path : "");
	default:
		return request_fail_path(rq, err, "cannot clone", clone->source_path);
	}
}

static int made(struct request *rq, uint64_t count)
{
	int r = fs_sync_soon(rq->service->fs);

	if (r < 0)
		return request_fail(rq, r,
			"the clones are made, but may not survive a power loss: %s", strerror(-r));
	return request_reply(rq, "clones", json_integer((json_int_t)count));
}

/* They are there as clones that share, and come to stand on their own by a job. */
static int start_copies(struct request *rq, const struct clone *clone)
{
	CLEANUP_FREE uint64_t *inos = calloc(clone->count, sizeof(*inos));
	size_t count = 0;

	if (!inos)
		return request_fail(rq, -ENOMEM, "out of memory");
	for (size_t i = 0; i < clone->count; i++) {
		const struct target *t = &clone->targets[i];
		struct node node;

		if (node_step(rq->service->fs, &rq->access,
			    &parent_of(clone, t->to.parent)->node.attr, t->to.name, &node) < 0)
			continue; /* somebody was quick to remove it */
		inos[count++] = node.attr.ino;
		node_release(rq->service->fs, &node);
	}
	return recast_clones(rq, inos, count, clone->mode);
}

static int finish(struct request *rq, const struct clone *clone)
{
	if (made(rq, clone->count) < 0)
		return rq->error;
	return strcmp(clone->mode, "snapshot") == 0 ? 0 : start_copies(rq, clone);
}

/* What the kernel has to ask for anew, see control_snapshot.c. */
static int tell_replaced(struct request *rq, const struct clone *clone)
{
	json_t *gone = json_array();

	for (size_t i = 0; i < clone->count; i++) {
		CLEANUP_FREE char *path = target_path(&clone->targets[i]);

		json_array_append_new(gone, path ? name_json(path) : NULL);
	}
	return request_reply(rq, "gone", gone);
}

/* As struct fs_clone_judge has it. */
static int judge(void *arg, size_t i, const struct fs_attr *folder, const struct fs_attr *existing)
{
	const struct access *access = arg;

	if (!access_may(access, folder, W_OK | X_OK))
		return -EACCES;
	return !existing || access_may_replace(access, folder, existing) ? 0 : -EACCES;
}

static int make(struct request *rq, const struct clone *clone)
{
	const struct fs_clone_judge asked = {.may = judge, .arg = &rq->access};
	uint32_t mode = S_IFREG | (clone->source.attr.mode & 0777 & ~(uint32_t)clone->umask);
	CLEANUP_FREE struct fs_clone_target *to = calloc(clone->count, sizeof(*to));
	size_t failed = 0;
	int r;

	if (!to)
		return request_fail(rq, -ENOMEM, "out of memory");
	for (size_t i = 0; i < clone->count; i++)
		to[i] = clone->targets[i].to;
	r = fs_clone(rq->service->fs, clone->source.attr.ino, to, clone->count, clone->owner, mode,
		clone->replace, clone->opaque, &asked, &failed);
	if (r == -ESTALE)
		return r;
	if (r < 0)
		return explain(rq, clone, r, &clone->targets[failed < clone->count ? failed : 0]);
	if (clone->replace && tell_replaced(rq, clone) < 0)
		return rq->error;
	return finish(rq, clone);
}

/* The same request once more: its targets are there now. */
static int done_before(struct request *rq, uint64_t count)
{
	struct clone clone = {.umask = 022};
	int r;

	if (check_mode(rq, &clone) < 0)
		return rq->error;
	if (strcmp(clone.mode, "snapshot") == 0)
		return made(rq, count);
	r = take_targets(rq, &clone) < 0 ? rq->error : finish(rq, &clone);
	clone_release(rq->service->fs, &clone);
	return r;
}

int control_clone(struct request *rq)
{
	uint64_t count;
	int r = -ESTALE;

	if (fs_request_is_done(rq->service->fs, &count))
		return done_before(rq, count);
	for (int i = 0; i < STALE_TRIES && r == -ESTALE; i++) {
		struct clone clone = {.umask = 022};

		if (check_mode(rq, &clone) == 0 && request_bool(rq, "replace", &clone.replace) == 0 &&
			request_bool(rq, "opaque", &clone.opaque) == 0 &&
			request_number(rq, "umask", true, 0777, &clone.umask) == 0 &&
			take_source(rq, &clone) == 0 && take_targets(rq, &clone) == 0)
			r = make(rq, &clone);
		else
			r = rq->error;
		clone_release(rq->service->fs, &clone);
	}
	if (r == -ESTALE)
		request_fail(rq, r, "the image is being replaced again and again");
	return rq->error;
}
