/* SPDX-License-Identifier: MIT */
/*
 * Reads and writes of ordinary files, from the raw request to the raw answer.
 *
 * They are nearly all that guests ask for, and are not handed to libfuse: it allocates each request and
 * enters it in a list under a lock of the session, twice, which is a tenth of the time of a 4 KiB read.
 */
#include <errno.h>
#include <linux/fuse.h>

#include "base/sizes.h"
#include "fuse/internal.h"

#define BORROW_FROM (128 * 1024) /* bytes of a read; smaller ones would spend on asking what they save */

/* The answer goes out from where a golden image is mapped. false: it has to be read. */
static bool read_borrowed(struct fuse_server *server, const struct fuse_in_header *in,
	const struct fuse_read_in *arg, size_t size)
{
	struct fs_borrowed b;

	if (size < BORROW_FROM || !fs_borrow(server->fs, in->nodeid, size, arg->offset, &b))
		return false;
	/* When that fails the kernel has ended the request with EIO. */
	fs_give_back(server->fs, &b, wire_answer(server, in->unique, b.bytes, b.len));
	return true;
}

static void serve_read(struct fuse_worker *worker, const struct fuse_in_header *in)
{
	const struct fuse_read_in *arg = (const void *)(in + 1);
	struct fuse_server *server = worker->server;
	size_t size = min_u64(arg->size, FUSE_SERVER_IO_MAX);
	ssize_t n;

	if (read_borrowed(server, in, arg, size))
		return;
	n = fs_read(server->fs, in->nodeid, worker->out, size, arg->offset);
	used_out(worker, size);
	if (n < 0)
		wire_fail(server, in->unique, (int)n);
	else
		wire_answer(server, in->unique, worker->out, (size_t)n);
}

void transfer_written(void *arg, uint64_t unique, int64_t n)
{
	const struct fuse_write_out out = {.size = (uint32_t)n};
	struct fuse_server *server = arg;

	if (n < 0)
		wire_fail(server, unique, (int)n);
	else
		wire_answer(server, unique, &out, sizeof(out));
}

/* Whether the answer comes later. */
static bool put_off(struct fuse_server *server, const struct fuse_in_header *in, int64_t n)
{
	int64_t ns = fs_write_pause(server->fs, in->nodeid, (size_t)n);

	return (ns > 0 || later_owes(server->later)) &&
	       later_add(server->later, in->unique, n, ns) == 0;
}

static void serve_write(struct fuse_worker *worker, const struct fuse_in_header *in)
{
	const struct fuse_write_in *arg = (const void *)(in + 1);
	struct fuse_server *server = worker->server;
	ssize_t n;

	if (arg->write_flags & FUSE_WRITE_KILL_SUIDGID)
		kill_set_id(server, in->nodeid);
	n = fs_write(server->fs, in->nodeid, arg + 1, arg->size, arg->offset);
	if (n < 0 || !put_off(server, in, n))
		transfer_written(server, in->unique, n);
}

/* The kernel sends no others. */
static bool is_whole(const struct fuse_in_header *in, size_t len)
{
	const struct fuse_write_in *write = (const void *)(in + 1);

	if (in->opcode == FUSE_READ)
		return len >= sizeof(*in) + sizeof(struct fuse_read_in);
	return len >= sizeof(*in) + sizeof(*write) && write->size <= len - sizeof(*in) - sizeof(*write);
}

bool transfer_serve(struct fuse_worker *worker, size_t len)
{
	const struct fuse_in_header *in = (const void *)worker->in;

	if (len < sizeof(*in) || is_virtual(in->nodeid) ||
		(in->opcode != FUSE_READ && in->opcode != FUSE_WRITE))
		return false;
	if (!is_whole(in, len))
		wire_fail(worker->server, in->unique, -EIO);
	else if (in->opcode == FUSE_READ)
		serve_read(worker, in);
	else
		serve_write(worker, in);
	return true;
}
