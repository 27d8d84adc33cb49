/* SPDX-License-Identifier: MIT */
/*
 * Which files are open, over the death of the process that opened them.
 *
 * A file's handle is a slot of the table in the handover memory. Reads and writes do not look at
 * it; it exists so that a successor knows what the core has to count as open, and for writing. The
 * table changes before the answer is written, so a request that is sent again may find its work
 * done: an OPEN takes the handle that it has, a RELEASE finds none and that is fine.
 *
 * One thing cannot be known: a process that died between filling a slot and marking the answer as
 * written leaves a handle of which the kernel may know. Mostly the OPEN is sent again and says so;
 * but when the client was killed meanwhile it is withdrawn instead. Such handles count as open, and
 * are given up when the kernel does not know the file any more.
 *
 * Folders need no handles: a listing goes by inode numbers, or by hashes of names below IMAGES,
 * and its place in the list is in every request.
 *
 * The kernel may have pages of a file that a dead process had changed behind its back without
 * having said so yet. They are dropped when the file is next opened (core/handles.c), by who opens
 * it. Not by us for all files that are open: a notification waits for pages that are locked by a
 * request in flight, and a process that is killed while it waits does not die (notify.h).
 */
#include <errno.h>
#include <stdlib.h>

#include "base/log.h"
#include "fuse/internal.h"

struct unsure_handles {
	struct handover_handle *list;
	size_t count;
};

int handle_open(struct fuse_server *server, uint64_t ino, struct fuse_file_info *fi)
{
	struct handover_handle had;
	bool keep_cache = false;
	int r;

	fi->noflush = 1;
	if (me->again && handover_handle_of(server->handover, me->unique, &had) && had.ino == ino) {
		fi->fh = had.fh; /* the core counts it since handles_inherit() */
		return 0;
	}
	r = fs_open_file(server->fs, ino, fi->flags, &keep_cache);
	if (r < 0)
		return r;
	r = handover_handle_new(server->handover, ino, (uint32_t)fi->flags, me->unique, &fi->fh);
	if (r < 0)
		fs_close_file(server->fs, ino, fi->flags);
	fi->keep_cache = keep_cache;
	return r;
}

void handle_opened(struct fuse_server *server, uint64_t ino, const struct fuse_file_info *fi,
	bool answered)
{
	if (answered)
		handover_handle_sure(server->handover, fi->fh);
	else
		handle_close(server, ino, fi);
}

void handle_close(struct fuse_server *server, uint64_t ino, const struct fuse_file_info *fi)
{
	uint32_t flags;

	if (handover_handle_end(server->handover, fi->fh, ino, &flags))
		fs_close_file(server->fs, ino, (int)flags);
}

/* ---- after a takeover ---- */

struct inherit {
	struct fuse_server *server;
	size_t open;
};

static void add_unsure(struct fuse_server *server, const struct handover_handle *handle)
{
	struct unsure_handles *u = server->unsure;
	struct handover_handle *list;

	if (!u)
		u = server->unsure = calloc(1, sizeof(*u));
	list = u ? reallocarray(u->list, u->count + 1, sizeof(*list)) : NULL;
	if (!list)
		return; /* it counts as open for as long as this mount lives */
	u->list = list;
	u->list[u->count++] = *handle;
}

static void inherit(void *arg, const struct handover_handle *handle)
{
	struct inherit *in = arg;
	struct fuse_server *server = in->server;
	bool keep_cache;
	uint32_t flags;

	if (fs_open_file(server->fs, handle->ino, (int)handle->flags, &keep_cache) < 0) {
		/* An image that is gone from IMAGES, or a phantom. Its RELEASE finds no handle. */
		handover_handle_end(server->handover, handle->fh, handle->ino, &flags);
		return;
	}
	in->open++;
	if (!handle->sure && !resend_queue_has(&server->resent, handle->unique))
		add_unsure(server, handle);
}

void handles_inherit(struct fuse_server *server)
{
	struct inherit in = {.server = server};

	handover_handles_each(server->handover, inherit, &in);
	log_info("%zu files are open", in.open);
}

struct same {
	uint64_t ino;
	size_t count;
};

static void count_same(void *arg, const struct handover_handle *handle)
{
	struct same *same = arg;

	same->count += handle->ino == same->ino;
}

void handles_tick(struct fuse_server *server)
{
	struct unsure_handles *u = server->unsure;

	for (size_t i = 0; u && i < u->count; i++) {
		const struct fuse_file_info fi = {.fh = u->list[i].fh};
		struct same same = {.ino = u->list[i].ino};

		/* Of a file that is open for sure nobody asks: see core/takeover.c. */
		handover_handles_each(server->handover, count_same, &same);
		if (same.count > 1 || fuse_server_is_known(server, u->list[i].ino) != 0)
			continue;
		handle_close(server, u->list[i].ino, &fi);
		u->list[i--] = u->list[--u->count];
	}
}

void handles_release(struct fuse_server *server)
{
	if (server->unsure)
		free(server->unsure->list);
	free(server->unsure);
}
