/* SPDX-License-Identifier: MIT */
/*
 * The verb promote: makes a golden image of a clone, and has it written into the folder of images.
 *
 *	{"source": path, "name": path below golden}	begins it
 *	{"path": path of the image, "action": "resume" | "cancel"}	goes on with it, or gives it up
 *
 * "rate", bytes per second, stays with it until another one is named.
 *
 * Golden images are there for all users of the mount, so only root and the owner of the mount do so.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "service/internal.h"
#include "service/promoting.h"

static int reply_job(struct request *rq, uint64_t job)
{
	return request_reply(rq, "job", json_integer((json_int_t)job));
}

/* The promotion whose image is at path below the mount. */
static int find(struct request *rq, const char *path, uint64_t *ino, char **name)
{
	static const char folder[] = "golden/";
	struct fs *fs = rq->service->fs;

	while (*path == '/')
		path++;
	*ino = 0;
	while (fs_promotion_next(fs, ino, name) == 0) {
		if (strncmp(path, folder, strlen(folder)) == 0 &&
			strcmp(path + strlen(folder), *name) == 0)
			return 0;
		free(*name);
	}
	*name = NULL;
	return request_fail_path(rq, -ENOENT, "nothing is being promoted to", path);
}

static int resume(struct request *rq, const char *path, uint64_t rate)
{
	CLEANUP_FREE char *name = NULL;
	uint64_t ino, job;
	int r;

	if (find(rq, path, &ino, &name) < 0)
		return rq->error;
	if (rate) {
		r = fs_promote_set_rate(rq->service->fs, ino, rate);
		if (r)
			return request_fail_path(rq, r, "cannot set the rate of", path);
	}
	r = promoting_start(rq->service, ino, name, rq->access.uid, rq->access.gid, &job);
	if (r)
		return request_fail(rq, r, "too many jobs run already, wait for one of them");
	return reply_job(rq, job);
}

static int reply_again(struct request *rq, const char *name, uint64_t rate)
{
	CLEANUP_FREE char *path = NULL;

	if (asprintf(&path, "golden/%s", name) < 0)
		return request_fail(rq, -ENOMEM, "out of memory");
	return resume(rq, path, rate);
}

static bool is_golden(struct fs *fs, uint64_t ino)
{
	enum fs_kind kind;

	return fs_kind(fs, ino, &kind) == 0 && kind == FS_KIND_GOLDEN;
}

static int golden_already(struct request *rq, const char *source)
{
	CLEANUP_FREE char *text = request_name(rq, source);

	return request_fail(rq, -EINVAL, "\"%s\" is a golden image already", text ? text : "");
}

static int begin(struct request *rq, const char *source, const char *name, uint64_t rate)
{
	struct service *s = rq->service;
	struct node node;
	uint64_t ino, job, done;
	bool golden;
	int r;

	/* Asked once more, as the process that did it died before it answered. */
	if (fs_request_is_done(s->fs, &done))
		return reply_again(rq, name, rate);
	if (request_walk(rq, source, &node) < 0)
		return rq->error;
	r = S_ISDIR(node.attr.mode) ? -EISDIR : S_ISREG(node.attr.mode) ? 0 : -EINVAL;
	if (!r && !access_may(&rq->access, &node.attr, R_OK))
		r = -EACCES;
	if (r) {
		node_release(s->fs, &node);
		return request_fail_path(rq, r, "cannot promote", source);
	}
	r = fs_promote(s->fs, node.attr.ino, name, rate, &ino);
	golden = r == -EINVAL && is_golden(s->fs, node.attr.ino);
	node_release(s->fs, &node);
	if (golden)
		return golden_already(rq, source);
	if (r == -EINVAL)
		return request_fail(rq, r, "\"%s\" is no name of a new golden image", name);
	if (r == -EEXIST)
		return request_fail(rq, r, "there is a golden image \"%s\" already", name);
	if (r == -ENOENT || r == -ENOTDIR)
		return request_fail(rq, r, "the folder of \"%s\" does not exist among the golden images",
			name);
	if (r)
		return request_fail_path(rq, r, "cannot promote", source);
	r = promoting_start(s, ino, name, rq->access.uid, rq->access.gid, &job);
	/* Otherwise it begins when one of the others has ended. */
	return reply_job(rq, r ? 0 : job);
}

static int cancel(struct request *rq, const char *path)
{
	CLEANUP_FREE char *name = NULL;
	uint64_t ino;
	int r;

	if (find(rq, path, &ino, &name) < 0)
		return rq->error;
	r = promoting_undo(rq->service, ino);
	if (r == -EALREADY || r == -ENOENT)
		return request_fail_path(rq, -EALREADY, "it is too late to give up", path);
	return r ? request_fail_path(rq, r, "cannot give up", path) : 0;
}

int control_promote(struct request *rq)
{
	CLEANUP_FREE char *path = NULL;
	CLEANUP_FREE char *name = NULL;
	const char *action = "";
	uint64_t rate = 0;

	if (request_owner_only(rq) < 0 || request_string(rq, "action", true, &action) < 0 ||
		request_number(rq, "rate", true, INT64_MAX, &rate) < 0)
		return rq->error;
	if (!*action) {
		if (request_path(rq, "source", &path) < 0 || request_path(rq, "name", &name) < 0)
			return rq->error;
		return begin(rq, path, name, rate);
	}
	if (request_path(rq, "path", &path) < 0)
		return rq->error;
	if (strcmp(action, "resume") == 0)
		return resume(rq, path, rate);
	if (strcmp(action, "cancel") == 0)
		return cancel(rq, path);
	return request_fail(rq, -EINVAL, "\"%.64s\" is nothing that can be done about a promotion",
		action);
}
