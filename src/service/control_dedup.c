/* SPDX-License-Identifier: MIT */
/*
 * The verb dedup: looks for the content of files and folders elsewhere, as a job. And dedup-set, which
 * says where the content of a folder is looked for at all.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/array.h"
#include "base/cleanup.h"
#include "service/internal.h"
#include "service/walk.h"

/* What the job works on; it owns this. */
struct wanted {
	struct service *service;
	uint64_t *inos; /* malloc'ed */
	size_t count;
	size_t capacity;
};

static int add_file(void *arg, const char *path, const struct fs_attr *attr,
	const struct fs_info *info)
{
	struct wanted *w = arg;
	uint64_t *more = array_with_room(w->inos, w->count, &w->capacity, sizeof(*more));

	if (!more)
		return -ENOMEM;
	w->inos = more;
	w->inos[w->count++] = attr->ino;
	return 0;
}

static void wanted_free(struct wanted *w)
{
	if (w)
		free(w->inos);
	free(w);
}

static bool progress(void *arg, uint64_t done, uint64_t total)
{
	return job_progress(arg, done, total);
}

static int run_dedup(void *arg, struct job *job)
{
	struct wanted *w = arg;
	int r = fs_dedup(w->service->fs, w->inos, w->count, progress, job);

	wanted_free(w);
	return r;
}

/* Why the content of none of these files is looked for; FS_SHARES: that of some is. */
static enum fs_sharing judge_files(const struct wanted *w)
{
	enum fs_sharing why = FS_SHARES_OFF;

	for (size_t i = 0; i < w->count; i++) {
		enum fs_sharing is = fs_sharing(w->service->fs, w->inos[i]);

		if (is == FS_SHARES)
			return is;
		if (is != FS_SHARES_OFF)
			why = is;
	}
	return why;
}

static bool is_clone(struct fs *fs, uint64_t ino)
{
	enum fs_kind kind;

	return fs_kind(fs, ino, &kind) == 0 && kind == FS_KIND_CLONE;
}

/* Looking at nothing, and saying that it is done, would leave him who asked wondering. */
static int refuse_nothing(
	struct request *rq, const struct wanted *w, const struct node *node, const char *path)
{
	CLEANUP_FREE char *name = request_name(rq, path);
	const char *text = name ? name : "";

	if (S_ISREG(node->attr.mode) && !is_clone(w->service->fs, node->attr.ino))
		return request_fail(rq, -EINVAL, "\"%s\" is no clone: what it holds is found by clones "
			"already, name these or their folder", text);
	if (!w->count)
		return request_fail(rq, -ENOENT, "there is no clone in \"%s\"", text);
	switch (judge_files(w)) {
	case FS_SHARES_NOWHERE:
		return request_fail(rq, -EOPNOTSUPP, "\"%s\" is mounted with dedup=off, mount it without to share",
			rq->service->info.mountpoint);
	case FS_SHARES_OFF:
		return request_fail(rq, -EOPNOTSUPP, "dedup of \"%s\" is off; goldfs dedup --set all, "
			"or inherit, changes that", text);
	case FS_SHARES_APART:
		return request_fail(rq, -EOPNOTSUPP, "\"%s\" holds copies of mode thin or full, which "
			"share nothing; goldfs convert --mode snapshot changes that", text);
	default:
		return 0;
	}
}

static int gather_path(struct request *rq, const char *path, struct wanted *w)
{
	struct wanted here = {.service = w->service};
	struct node node;
	int r;

	if (request_walk(rq, path, &node) < 0)
		return rq->error;
	r = walk(rq->service->fs, &rq->access, &node, path, WALK_CLONE | WALK_BARE, add_file, &here);
	r = r < 0 ? request_fail_path(rq, r, "cannot look at", path) :
		    refuse_nothing(rq, &here, &node, path);
	for (size_t i = 0; i < here.count && !r; i++)
		r = add_file(w, path, &(struct fs_attr){.ino = here.inos[i]}, NULL);
	if (r == -ENOMEM)
		request_fail(rq, r, "out of memory");
	node_release(rq->service->fs, &node);
	free(here.inos);
	return r < 0 ? rq->error : 0;
}

static int gather(struct request *rq, json_t *paths, struct wanted *w)
{
	json_t *value;
	size_t i;

	json_array_foreach(paths, i, value) {
		CLEANUP_FREE char *path = NULL;

		if (request_path_value(rq, "paths", value, &path) < 0 ||
			gather_path(rq, path, w) < 0)
			return rq->error;
	}
	return 0;
}

/* Whose blocks are looked at is of no concern to their owners, but it is work for the whole store. */
int control_dedup(struct request *rq)
{
	struct wanted *w = calloc(1, sizeof(*w));
	json_t *paths;
	uint64_t id;
	int r;

	if (!w)
		return request_fail(rq, -ENOMEM, "out of memory");
	w->service = rq->service;
	if (rq->service->info.read_only)
		request_fail_path(rq, -EROFS, "cannot change", "");
	if (rq->error || request_owner_only(rq) < 0 || request_list(rq, "paths", &paths) < 0 ||
		gather(rq, paths, w) < 0) {
		wanted_free(w);
		return rq->error;
	}
	r = jobs_start(rq->service->jobs,
		&(struct job_spec){.kind = "dedup", .target = rq->service->info.mountpoint,
			.uid = rq->access.uid, .gid = rq->access.gid, .run = run_dedup, .arg = w},
		&id);
	if (r < 0) {
		wanted_free(w);
		return request_fail(rq, r, "too many jobs run already, wait for one of them");
	}
	return request_reply(rq, "job", json_integer((json_int_t)id));
}

/* ---- dedup-set ---- */

struct word {
	const char *text;
	int value;
};

/* Takes one of the words, of which the last has text NULL. *given: it stands in the request. */
static int take_word(struct request *rq, const char *key, const struct word *words, int *value,
	bool *given)
{
	const char *text = "";

	if (request_string(rq, key, true, &text) < 0)
		return rq->error;
	*given = *text != '\0';
	for (; *given && words->text; words++) {
		if (strcmp(words->text, text) == 0) {
			*value = words->value;
			return 0;
		}
	}
	return *given ? request_fail(rq, -EINVAL, "\"%s\" of the request is not one of its words",
				key) : 0;
}

/* Only root and the mount's owner, as for limits: it is the host's disk that pays, and who is kept apart
 * from others must not be able to change that. */
int control_dedup_set(struct request *rq)
{
	static const struct word policies[] = {{"inherit", FS_DEDUP_INHERIT}, {"off", FS_DEDUP_OFF},
		{"golden", FS_DEDUP_GOLDEN}, {"all", FS_DEDUP_ALL}, {NULL, 0}};
	static const struct word domains[] = {{"inherit", FS_DOMAIN_INHERIT},
		{"own", FS_DOMAIN_OWN}, {"shared", FS_DOMAIN_SHARED}, {NULL, 0}};
	bool has_policy, has_domain;
	CLEANUP_FREE char *path = NULL;
	int policy = 0, domain = 0, r;
	enum fs_domain scope;
	struct node node;

	if (request_owner_only(rq) < 0 || request_path(rq, "path", &path) < 0 ||
		take_word(rq, "policy", policies, &policy, &has_policy) < 0 ||
		take_word(rq, "domain", domains, &domain, &has_domain) < 0 ||
		request_walk(rq, path, &node) < 0)
		return rq->error;
	scope = (enum fs_domain)domain;
	r = fs_set_dedup(rq->service->fs, node.attr.ino, has_policy ? &policy : NULL,
		has_domain ? &scope : NULL);
	node_release(rq->service->fs, &node);
	return r < 0 ? request_fail_path(rq, r, "cannot set dedup of", path) : 0;
}
