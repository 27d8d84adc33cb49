/* SPDX-License-Identifier: MIT */
/*
 * The name space: looking up, making, renaming, removing and listing.
 *
 * The tree is the core's, but for the virtual folder .goldfs in the root, which is the service's;
 * this file puts the two together. A name that is not there is answered with ENOENT and not with
 * an empty entry, which the kernel would remember: clones appear through the control file too.
 *
 * What threads look up is told to cp_detect.c.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "fuse/internal.h"
#include "service/service.h"

#define VIRTUAL_NAME ".goldfs"

static bool is_virtual_name(fuse_ino_t parent, const char *name)
{
	return is_virtual(parent) || (parent == FS_INO_ROOT && strcmp(name, VIRTUAL_NAME) == 0);
}

static int any_lookup(struct fuse_server *server, uint64_t parent, const char *name,
	struct fs_attr *attr)
{
	if (is_virtual(parent))
		return service_lookup(server->service, parent, name, attr);
	if (is_virtual_name(parent, name))
		return service_getattr(server->service, FS_INO_VIRTUAL, attr);
	return fs_lookup(server->fs, parent, name, attr);
}

void op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct fuse_server *server = server_of(req);
	struct fs_attr attr;
	int r = any_lookup(server, parent, name, &attr);

	if (r == -ENOENT && !is_virtual(parent))
		cp_saw_missing(server->cp, task_of(req), monotonic_ns());
	if (r < 0) {
		reply_status(req, r);
		return;
	}
	if (S_ISREG(attr.mode) && !is_virtual(attr.ino))
		cp_saw_file(server->cp, task_of(req), attr.ino, monotonic_ns());
	reply_entry(req, &attr);
}

static void forget(struct fuse_server *server, uint64_t ino, uint64_t n)
{
	if (!is_virtual(ino) && ino != FS_INO_ROOT)
		fs_forget(server->fs, ino, n);
}

void op_forget(fuse_req_t req, fuse_ino_t ino, uint64_t n)
{
	forget(server_of(req), ino, n);
	fuse_reply_none(req);
}

void op_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets)
{
	for (size_t i = 0; i < count; i++)
		forget(server_of(req), forgets[i].ino, forgets[i].nlookup);
	fuse_reply_none(req);
}

/*
 * Who will own a new file. As everywhere, a folder with set-group-id gives its group on, and the
 * bit to new folders.
 */
static int owner_of_new(fuse_req_t req, fuse_ino_t parent, mode_t *mode, struct fs_owner *owner)
{
	const struct fuse_ctx *ctx = fuse_req_ctx(req);
	struct fs_attr attr;
	int r = fs_getattr(server_of(req)->fs, parent, &attr);

	if (r < 0)
		return r;
	*owner = (struct fs_owner){.uid = ctx->uid, .gid = ctx->gid};
	if (attr.mode & S_ISGID) {
		owner->gid = attr.gid;
		if (S_ISDIR(*mode))
			*mode |= S_ISGID;
	}
	return 0;
}

static int make(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode,
	struct fs_attr *attr)
{
	struct fuse_server *server = server_of(req);
	struct fs_owner owner;
	int r;

	if (is_virtual_name(parent, name))
		return -EPERM;
	if (!S_ISREG(mode) && !S_ISDIR(mode))
		return -EPERM; /* device nodes, pipes, sockets */
	r = owner_of_new(req, parent, &mode, &owner);
	if (r == 0)
		r = fs_make(server->fs, parent, name, mode, owner, attr);
	if (r == 0 && S_ISREG(mode))
		cp_saw_target(server->cp, task_of(req));
	return r;
}

void op_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev)
{
	struct fs_attr attr;
	int r = make(req, parent, name, mode, &attr);

	if (r < 0)
		reply_status(req, r);
	else
		reply_entry(req, &attr);
}

void op_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
	op_mknod(req, parent, name, (mode & 07777) | S_IFDIR, 0);
}

void op_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode,
	struct fuse_file_info *fi)
{
	struct fuse_server *server = server_of(req);
	struct fuse_entry_param entry;
	struct fs_attr attr;
	int r = make(req, parent, name, (mode & 07777) | S_IFREG, &attr);

	if (r < 0) {
		reply_status(req, r);
		return;
	}
	r = handle_open(server, attr.ino, fi);
	if (r < 0) {
		fs_forget(server->fs, attr.ino, 1);
		reply_status(req, r);
		return;
	}
	fill_entry(server, &attr, &entry);
	r = fuse_reply_create(req, &entry, fi);
	handle_opened(server, attr.ino, fi, r == 0);
	if (r < 0)
		fs_forget(server->fs, attr.ino, 1);
}

void op_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name)
{
	struct fs_owner owner;
	struct fs_attr attr;
	mode_t mode = S_IFLNK;
	int r = is_virtual_name(parent, name) ? -EPERM : 0;

	if (r == 0)
		r = owner_of_new(req, parent, &mode, &owner);
	if (r == 0)
		r = fs_symlink(server_of(req)->fs, parent, name, target, owner, &attr);
	if (r < 0)
		reply_status(req, r);
	else
		reply_entry(req, &attr);
}

void op_readlink(fuse_req_t req, fuse_ino_t ino)
{
	CLEANUP_FREE char *target = NULL;
	int r = is_virtual(ino) ? -EINVAL : fs_readlink(server_of(req)->fs, ino, &target);

	if (r < 0)
		reply_status(req, r);
	else
		fuse_reply_readlink(req, target);
}

void op_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	if (is_virtual_name(parent, name))
		fuse_reply_err(req, EPERM);
	else
		reply_status(req, fs_unlink(server_of(req)->fs, parent, name));
}

void op_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	if (is_virtual_name(parent, name))
		fuse_reply_err(req, EPERM);
	else
		reply_status(req, fs_rmdir(server_of(req)->fs, parent, name));
}

void op_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t new_parent,
	const char *new_name, unsigned flags)
{
	if (is_virtual_name(parent, name) || is_virtual_name(new_parent, new_name))
		fuse_reply_err(req, EPERM);
	else
		reply_status(req,
			fs_rename(server_of(req)->fs, parent, name, new_parent, new_name, flags));
}

void op_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t new_parent, const char *new_name)
{
	fuse_reply_err(req, EPERM); /* one file, one name: a clone is what the user wants */
}

void op_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	fi->fh = 0;
	fi->cache_readdir = 0;
	fuse_reply_open(req, fi);
}

/*
 * A listing. Offsets: 1 follows ".", 2 follows "..", 3 follows .goldfs in the root, and what the
 * core and the service call `next` comes after with COOKIES added.
 */
enum { AFTER_DOT = 1, AFTER_DOT_DOT = 2, AFTER_VIRTUAL = 3, COOKIES = 4 };

struct listing {
	fuse_req_t req;
	char *buf;
	size_t size;
	size_t used;
};

/* Non-zero when the entry does not fit any more. */
static int list_add(struct listing *list, const char *name, uint64_t ino, uint32_t mode, off_t next)
{
	struct stat st = {.st_ino = ino, .st_mode = mode};
	size_t n = fuse_add_direntry(list->req, list->buf + list->used, list->size - list->used,
		name, &st, next);

	if (n > list->size - list->used)
		return 1;
	list->used += n;
	return 0;
}

static int list_entry(void *arg, const char *name, const struct fs_attr *attr, uint64_t next)
{
	return list_add(arg, name, attr->ino, attr->mode, (off_t)(next + COOKIES));
}

static uint64_t parent_of(struct fuse_server *server, uint64_t ino)
{
	int64_t parent = is_virtual(ino) ? service_parent(server->service, ino)
					 : fs_parent(server->fs, ino);

	return parent > 0 ? (uint64_t)parent : ino;
}

/* Returns what fs_list does. */
static int list_all(struct fuse_server *server, struct listing *list, uint64_t ino, uint64_t off)
{
	uint64_t cookie = off > COOKIES ? off - COOKIES : 0;

	if (off < AFTER_DOT && list_add(list, ".", ino, S_IFDIR, AFTER_DOT))
		return 0;
	if (off < AFTER_DOT_DOT &&
		list_add(list, "..", parent_of(server, ino), S_IFDIR, AFTER_DOT_DOT))
		return 0;
	if (off < AFTER_VIRTUAL && ino == FS_INO_ROOT &&
		list_add(list, VIRTUAL_NAME, FS_INO_VIRTUAL, S_IFDIR, AFTER_VIRTUAL))
		return 0;
	if (is_virtual(ino))
		return service_list(server->service, ino, cookie, list_entry, list);
	return fs_list(server->fs, ino, cookie, list_entry, list);
}

void op_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	struct listing list = {.req = req, .buf = me->out, .size = size};
	int r;

	if (list.size > FUSE_SERVER_IO_MAX)
		list.size = FUSE_SERVER_IO_MAX;
	r = list_all(server_of(req), &list, ino, (uint64_t)off);
	if (r < 0 && !list.used)
		reply_status(req, r);
	else
		fuse_reply_buf(req, list.buf, list.used);
}
