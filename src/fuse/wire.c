/* SPDX-License-Identifier: MIT */
/*
 * The protocol below libfuse: what it does not offer is done on the raw bytes.
 *
 * libfuse 3.14 knows nothing of FUSE_HANDLE_KILLPRIV_V2. Without that flag the kernel asks for
 * security.capability before every write, under the inode's lock, because the file system has
 * xattrs: 4 KiB writes at depth 16 fell from 249,000 to 35,000 per second. So the flag is added to
 * the answer to INIT on its way out, when the kernel offered it, and its price is paid here too:
 * the kernel then leaves it to us to take set-user-id and set-group-id bits off a file that is
 * written to, and says so in a bit of WRITE requests, which transfer.c sees, and of SETATTR requests, where
 * libfuse drops it: it is noted in the worker before.
 *
 * A copy_file_range of more than 4 GiB, as cp asks for, comes in one piece from kernels since 6.18,
 * as a request of its own that libfuse does not know either. It differs in its answer only, so it
 * is handed to libfuse as the old one, and op_copy_file_range() answers as the kernel expects.
 *
 * Nothing here can be interrupted. libfuse would keep each INTERRUPT until the request that it names ends
 * there, and those of transfer.c never do; so the kernel is told not to send any.
 *
 * The INIT request is kept as it came, with what was agreed, for a successor process. When a
 * successor feeds it to libfuse again, its answer ends here: the kernel has had it long ago.
 */
#include <errno.h>
#include <linux/fuse.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/log.h"
#include "fuse/internal.h"

/* Of protocol 7.45: the same request as FUSE_COPY_FILE_RANGE, the answer is 64 bits wide. */
#define COPY_FILE_RANGE_64 53

/* The offset of the first member that old kernels do not send. */
#define INIT_IN_OLD_SIZE 16

static void look_at_init(struct fuse_server *server, const void *request, size_t len)
{
	struct fuse_agreement *agreement = &server->agreement;
	struct fuse_init_in in = {0};
	size_t body = len - sizeof(struct fuse_in_header);

	if (body < INIT_IN_OLD_SIZE || len > sizeof(agreement->init))
		return;
	memcpy(&in, (const char *)request + sizeof(struct fuse_in_header),
		body < sizeof(in) ? body : sizeof(in));
	agreement->kernel_minor = in.minor;
	agreement->kernel_flags = in.flags;
	if (in.flags & FUSE_INIT_EXT)
		agreement->kernel_flags |= (uint64_t)in.flags2 << 32;
	memcpy(agreement->init, request, len);
	agreement->init_len = (uint32_t)len;
	/* Once more, when the process that kept it died before the answer was written. */
	atomic_store(&server->init_answered, false);
}

void wire_look(struct fuse_worker *worker, void *request, size_t len)
{
	struct fuse_in_header *header = request;
	uint32_t op = header->opcode < FUSE_OP_COUNT ? header->opcode : 0;

	atomic_fetch_add_explicit(&worker->counts[op], 1, memory_order_relaxed);
	worker->unique = header->unique & ~TAKEOVER_RESENT;
	worker->again = header->unique & TAKEOVER_RESENT;
	worker->kill_suidgid = false;
	worker->copy_64 = op == COPY_FILE_RANGE_64;
	if (worker->copy_64)
		header->opcode = FUSE_COPY_FILE_RANGE;
	else if (op == FUSE_SETATTR && len >= sizeof(*header) + sizeof(struct fuse_setattr_in)) {
		const struct fuse_setattr_in *in = (const void *)(header + 1);

		worker->kill_suidgid = in->valid & FATTR_KILL_SUIDGID;
	} else if (op == FUSE_INIT) {
		look_at_init(worker->server, request, len);
	}
}

/* Whether this is the answer to the INIT request that was kept, and a good one. */
static bool is_init_answer(const struct fuse_server *server, const struct iovec *iov, int count)
{
	const struct fuse_in_header *init = (const void *)server->agreement.init;
	const struct fuse_out_header *out = iov[0].iov_base;

	return server->agreement.init_len && iov[0].iov_len == sizeof(*out) && count == 2 &&
	       out->unique == init->unique && out->error == 0 &&
	       iov[1].iov_len >= offsetof(struct fuse_init_out, max_write);
}

/* What libfuse would agree on now, but the kernel keeps to what was agreed. */
static ssize_t swallow_init(struct fuse_server *server, const struct iovec *iov)
{
	struct fuse_init_out out = {0};
	uint64_t flags;

	memcpy(&out, iov[1].iov_base, iov[1].iov_len < sizeof(out) ? iov[1].iov_len : sizeof(out));
	flags = out.flags | (out.flags & FUSE_INIT_EXT ? (uint64_t)out.flags2 << 32 : 0);
	flags |= server->agreement.kernel_flags & FUSE_HANDLE_KILLPRIV_V2;
	if (flags != server->agreement.flags || out.max_write != server->agreement.max_write)
		log_warning("agreed with the kernel by an earlier process: flags %llx, now %llx",
			(unsigned long long)server->agreement.flags, (unsigned long long)flags);
	atomic_store(&server->init_answered, true);
	return (ssize_t)(iov[0].iov_len + iov[1].iov_len);
}

static ssize_t answer_init(struct fuse_server *server, int fd, const struct iovec *iov)
{
	struct fuse_agreement *agreement = &server->agreement;
	struct fuse_init_out out = {0};
	struct iovec patched[2] = {iov[0], {.iov_base = &out, .iov_len = iov[1].iov_len}};
	ssize_t n;

	if (iov[1].iov_len > sizeof(out)) {
		errno = EINVAL;
		return -1;
	}
	memcpy(&out, iov[1].iov_base, iov[1].iov_len);
	out.flags |= agreement->kernel_flags & FUSE_HANDLE_KILLPRIV_V2;
	agreement->flags = out.flags;
	if (out.flags & FUSE_INIT_EXT)
		agreement->flags |= (uint64_t)out.flags2 << 32;
	agreement->max_write = out.max_write;
	/* First: a successor that did not know it would wait for an INIT that never comes. */
	handover_set_agreement(server->handover, agreement);
	n = writev(fd, patched, 2);
	if (n >= 0) {
		atomic_store(&server->init_answered, true);
		server_say_ready(server);
	}
	return n;
}

static ssize_t wire_writev(int fd, struct iovec *iov, int count, void *userdata)
{
	struct fuse_server *server = userdata;

	if (!atomic_load_explicit(&server->init_answered, memory_order_relaxed) &&
		is_init_answer(server, iov, count))
		return server->replaying_init ? swallow_init(server, iov)
					      : answer_init(server, fd, iov);
	server_answers(server);
	return writev(fd, iov, count);
}

static ssize_t wire_read(int fd, void *buf, size_t len, void *userdata)
{
	return read(fd, buf, len);
}

static int answer(struct fuse_server *server, uint64_t unique, int error, const void *bytes, size_t len)
{
	struct fuse_out_header out = {
		.unique = unique, .error = error, .len = (uint32_t)(sizeof(out) + len)};
	const struct iovec iov[] = {
		{.iov_base = &out, .iov_len = sizeof(out)},
		{.iov_base = (void *)bytes, .iov_len = len},
	};

	server_answers(server);
	if (writev(server->fd, iov, 2) >= 0)
		return 0;
	/* ENOENT: it was given up, or all is over. EFAULT: borrowed bytes are gone, which whoever lent them tells. */
	if (errno != ENOENT && errno != EFAULT)
		log_warning("cannot answer the kernel: %s", strerror(errno));
	return -errno;
}

int wire_answer(struct fuse_server *server, uint64_t unique, const void *bytes, size_t len)
{
	return answer(server, unique, 0, bytes, len);
}

void wire_fail(struct fuse_server *server, uint64_t unique, int error)
{
	answer(server, unique, error, NULL, 0);
}

void wire_serve(struct fuse_worker *worker, size_t len)
{
	const struct fuse_in_header *in = (const void *)worker->in;
	struct fuse_buf buf = {.size = len, .mem = worker->in};

	if (transfer_serve(worker, len))
		return;
	if (len >= sizeof(*in) && in->opcode == FUSE_INTERRUPT)
		wire_fail(worker->server, in->unique, -ENOSYS);
	else
		fuse_session_process_buf(worker->server->session, &buf);
}

const struct fuse_custom_io wire_io = {.writev = wire_writev, .read = wire_read};

const char *fuse_op_name(unsigned op)
{
	switch (op) {
#define X(name, number) \
	case number: \
		return #name;
		FUSE_OPS(X)
#undef X
	default:
		return NULL;
	}
}
