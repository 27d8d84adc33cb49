/* SPDX-License-Identifier: MIT */
/*
 * Open files and what is done to them; reads and writes of ordinary ones are in transfer.c.
 *
 * The handle of an ordinary file says only that it is open (handles.c): everything else goes by
 * inode number, so that files stay open over a change of the serving process. Files of .goldfs have
 * real handles (virtual.h).
 *
 * Files are not opened with FOPEN_DIRECT_IO: O_DIRECT of the client goes through as it is, which
 * reached 130 to 145 thousand 4 KiB random writes per second at depth 16 against 40 to 70 thousand
 * with that flag. FLUSH is declined by FOPEN_NOFLUSH: close() has nothing to wait for, since what
 * a write was told is in the page cache of the store below.
 *
 * An fsync is answered by whoever finishes it in the core, often a thread that syncs for many at
 * once, so that waiting for the disk holds none of our threads.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/sizes.h"
#include "fuse/internal.h"
#include "service/control.h"
#include "service/service.h"

static struct service_caller caller_of(fuse_req_t req)
{
	const struct fuse_ctx *ctx = fuse_req_ctx(req);

	return (struct service_caller){.uid = ctx->uid, .gid = ctx->gid, .pid = ctx->pid};
}

static void open_virtual(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	const struct service_caller opener = caller_of(req);
	struct fuse_server *server = server_of(req);
	uint64_t handle = 0;
	int r = virtual_open(server->virtual_files, server->service, &opener, ino, fi->flags,
		&handle);

	if (r < 0) {
		reply_status(req, r);
		return;
	}
	fi->fh = handle;
	fi->direct_io = 1;
	fi->noflush = 1;
	if (fuse_reply_open(req, fi) < 0)
		virtual_close(server->virtual_files, handle);
}

void op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct fuse_server *server = server_of(req);
	int r;

	if (is_virtual(ino)) {
		open_virtual(req, ino, fi);
		return;
	}
	r = handle_open(server, ino, fi);
	if (r < 0) {
		reply_status(req, r);
		return;
	}
	if ((fi->flags & O_ACCMODE) == O_RDONLY)
		cp_saw_open_for_reading(server->cp, task_of(req), ino, monotonic_ns());
	else
		cp_saw_target(server->cp, task_of(req));
	handle_opened(server, ino, fi, fuse_reply_open(req, fi) == 0);
}

void op_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct fuse_server *server = server_of(req);

	if (is_virtual(ino))
		virtual_close(server->virtual_files, fi->fh);
	else
		handle_close(server, ino, fi);
	fuse_reply_err(req, 0);
}

/* Of a file of .goldfs; others are read by transfer.c. */
void op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	struct fuse_server *server = server_of(req);
	ssize_t n;

	size = min_u64(size, FUSE_SERVER_IO_MAX);
	n = virtual_read(server->virtual_files, fi->fh, me->out, size, (uint64_t)off);
	used_out(me, size);
	if (n < 0)
		reply_status(req, n);
	else
		fuse_reply_buf(req, me->out, (size_t)n);
}

static ssize_t write_virtual(fuse_req_t req, const char *buf, size_t size,
	struct fuse_file_info *fi)
{
	struct fuse_server *server = server_of(req);
	const struct service_caller caller = caller_of(req);

	return virtual_write(server->virtual_files, server->service, fi->fh, &caller, buf, size);
}

/* A control request on a descriptor that is open for reading only, as on a read-only mount. */
void op_ioctl(fuse_req_t req, fuse_ino_t ino, unsigned cmd, void *arg, struct fuse_file_info *fi,
	unsigned flags, const void *in, size_t in_size, size_t out_size)
{
	ssize_t n = -ENOTTY;

	if (is_virtual(ino) && cmd == (unsigned)CONTROL_IOCTL && in_size == CONTROL_IOCTL_MAX)
		n = write_virtual(req, in, strnlen(in, in_size), fi);
	if (n < 0)
		reply_status(req, n);
	else
		fuse_reply_ioctl(req, 0, NULL, 0);
}

/* To a file of .goldfs, like op_read(). */
void op_write(fuse_req_t req, fuse_ino_t ino, const char *buf, size_t size, off_t off,
	struct fuse_file_info *fi)
{
	ssize_t n = write_virtual(req, buf, size, fi);

	if (n < 0)
		reply_status(req, n);
	else
		fuse_reply_write(req, (size_t)n);
}

/* Comes only for files that a process opened which did not know FOPEN_NOFLUSH. */
void op_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	fuse_reply_err(req, 0);
}

static void fsync_done(void *arg, int result)
{
	reply_status(arg, result);
}

void op_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
	if (is_virtual(ino))
		fuse_reply_err(req, 0);
	else
		fs_fsync(server_of(req)->fs, ino, fsync_done, req);
}

void op_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t off, off_t len,
	struct fuse_file_info *fi)
{
	struct fuse_server *server = server_of(req);

	if (is_virtual(ino)) {
		fuse_reply_err(req, EOPNOTSUPP);
		return;
	}
	kill_set_id(server, ino);
	reply_status(req, fs_fallocate(server->fs, ino, mode, (uint64_t)off, (uint64_t)len));
}

void op_lseek(fuse_req_t req, fuse_ino_t ino, off_t off, int whence, struct fuse_file_info *fi)
{
	int64_t r = -EINVAL;

	if (!is_virtual(ino) && (whence == SEEK_DATA || whence == SEEK_HOLE))
		r = fs_seek(server_of(req)->fs, ino, (uint64_t)off, whence);
	if (r < 0)
		reply_status(req, r);
	else
		fuse_reply_lseek(req, r);
}

static void reply_copied(fuse_req_t req, uint64_t copied)
{
	if (me->copy_64)
		fuse_reply_buf(req, (const char *)&copied, sizeof(copied));
	else
		fuse_reply_write(req, (size_t)copied);
}

void op_copy_file_range(fuse_req_t req, fuse_ino_t src, off_t src_off,
	struct fuse_file_info *src_fi, fuse_ino_t dst, off_t dst_off,
	struct fuse_file_info *dst_fi, size_t len, int flags)
{
	struct fuse_server *server = server_of(req);
	ssize_t n;

	if (is_virtual(src) || is_virtual(dst)) {
		fuse_reply_err(req, EXDEV); /* the kernel then reads and writes */
		return;
	}
	if (flags) {
		fuse_reply_err(req, EINVAL);
		return;
	}
	kill_set_id(server, dst);
	n = fs_copy_range(server->fs, src, (uint64_t)src_off, dst, (uint64_t)dst_off, len,
		task_of(req));
	if (n < 0) {
		reply_status(req, n);
		return;
	}
	cp_saw_copy(server->cp, task_of(req), monotonic_ns());
	reply_copied(req, (uint64_t)n);
}
