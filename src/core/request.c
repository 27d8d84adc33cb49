/* SPDX-License-Identifier: MIT */
/*
 * Requests that may come twice, and are to be carried out once.
 *
 * When a worker dies, its successor gets again what was not answered (fuse/takeover.c), and it
 * cannot tell by looking at the tree whether the dead one had carried it out: a name that is there
 * may have been made by this very request, and then the answer is "made", or by somebody else, and
 * then it is EEXIST. So a change that does something else the second time says in its own record
 * whose it was: GF_OP_REQUEST, beside its effects, there with them or not at all. A request that
 * is sent again and stands there is answered as done. One that does not stand there was not done,
 * or failed, which changed nothing: it simply runs.
 *
 * Two sorts of names:
 *   kernel requests    the mount's random number and the request's own. They matter until their
 *                      answer was written. Until then they are kept in memory and in every
 *                      catalog, because the record may leave the ring first. A successor keeps what
 *                      it finds until the kernel has sent everything again and all of it is served.
 *   control requests   128 bits of what the client calls it. The command line repeats a request
 *                      whose answer it did not get. Nobody says when it has got one, so the last
 *                      CLIENTS_MAX are kept, over mounts too.
 *
 * Which request a thread is serving is known by thread, not handed down: a request is served from
 * start to end by one thread, and between the one who knows its number and the one who writes the
 * record lie functions that have nothing to do with it, some of which serve many callers that come
 * from no request at all.
 *
 * What writes and reads the table at once has requests_lock, which is taken last.
 */
#include "core/fs_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"

#define CLIENTS_MAX 1024

struct request_key {
	uint64_t id[2];
};

struct request_entry {
	struct request_key key;
	uint64_t result;
	bool found; /* by recovery: not one of this process' own */
	UT_hash_handle hh;
};

static __thread struct fs_request *current;

void fs_request_begin(struct fs *fs, struct fs_request *request)
{
	request->outer = current;
	request->recorded = false;
	current = request;
}

static struct request_entry **table_of(struct fs *fs, bool client)
{
	return client ? &fs->client_requests : &fs->kernel_requests;
}

static struct request_entry *find_locked(struct fs *fs, const struct fs_request *request)
{
	const struct request_key key = {{request->id[0], request->id[1]}};
	struct request_entry *entry;

	HASH_FIND(hh, *table_of(fs, request->client), &key, sizeof(key), entry);
	return entry;
}

static void remove_locked(struct fs *fs, struct request_entry *entry, bool client)
{
	HASH_DEL(*table_of(fs, client), entry);
	free(entry);
}

void fs_request_end(struct fs *fs, struct fs_request *request)
{
	struct request_entry *entry;

	current = request->outer;
	if (request->client || !(request->recorded || request->again))
		return;
	MUTEX_GUARD(&fs->requests_lock);
	entry = find_locked(fs, request);
	if (entry)
		remove_locked(fs, entry, false);
}

int request_add(struct opbuf *buf, uint64_t result)
{
	struct gf_op_request *op;

	if (!current)
		return 0;
	if (!OPBUF_ADD(buf, GF_OP_REQUEST, current->client ? GF_REQUEST_CLIENT : 0, op, 0))
		return -ENOMEM;
	op->id[0] = current->id[0];
	op->id[1] = current->id[1];
	op->result = result;
	current->recorded = true;
	return 0;
}

bool fs_request_is_done(struct fs *fs, uint64_t *result)
{
	struct request_entry *entry;

	if (!current || !current->again)
		return false;
	MUTEX_GUARD(&fs->requests_lock);
	entry = find_locked(fs, current);
	if (entry)
		*result = entry->result;
	return entry != NULL;
}

static void forget_oldest_client_locked(struct fs *fs)
{
	/* The table keeps the order of insertion. */
	if (HASH_COUNT(fs->client_requests) > CLIENTS_MAX)
		remove_locked(fs, fs->client_requests, true);
}

int request_apply(struct fs *fs, const struct gf_op_request *op, const struct apply *how)
{
	bool client = op->op.flags & GF_REQUEST_CLIENT;
	const struct fs_request request = {.id = {op->id[0], op->id[1]}, .client = client};
	struct request_entry *entry;

	/* Of an earlier mount: nobody will ask. */
	if (!client && op->id[0] != fs->options.connection)
		return 0;
	MUTEX_GUARD(&fs->requests_lock);
	entry = find_locked(fs, &request);
	if (entry) {
		entry->result = op->result;
		return 0;
	}
	entry = calloc(1, sizeof(*entry));
	if (!entry)
		return -ENOMEM;
	entry->key = (struct request_key){{op->id[0], op->id[1]}};
	entry->result = op->result;
	entry->found = how->loading || how->replaying;
	HASH_ADD(hh, *table_of(fs, client), key, sizeof(entry->key), entry);
	if (client)
		forget_oldest_client_locked(fs);
	return 0;
}

static int serialize(struct fs *fs, struct opbuf *buf, bool client)
{
	struct request_entry *entry, *next;

	HASH_ITER (hh, *table_of(fs, client), entry, next) {
		struct gf_op_request *op;

		if (!OPBUF_ADD(buf, GF_OP_REQUEST, client ? GF_REQUEST_CLIENT : 0, op, 0))
			return -ENOMEM;
		op->id[0] = entry->key.id[0];
		op->id[1] = entry->key.id[1];
		op->result = entry->result;
	}
	return 0;
}

int requests_serialize(struct fs *fs, struct opbuf *buf)
{
	int r;

	MUTEX_GUARD(&fs->requests_lock);
	r = serialize(fs, buf, false);
	return r ? r : serialize(fs, buf, true);
}

void requests_forget_found(struct fs *fs)
{
	struct request_entry *entry, *next;

	MUTEX_GUARD(&fs->requests_lock);
	HASH_ITER (hh, fs->kernel_requests, entry, next)
		if (entry->found)
			remove_locked(fs, entry, false);
}

size_t fs_request_count(struct fs *fs, bool client)
{
	MUTEX_GUARD(&fs->requests_lock);
	return HASH_COUNT(*table_of(fs, client));
}

void requests_free(struct fs *fs)
{
	for (int client = 0; client <= 1; client++) {
		struct request_entry *entry, *next;

		HASH_ITER (hh, *table_of(fs, client), entry, next)
			remove_locked(fs, entry, client);
	}
}
