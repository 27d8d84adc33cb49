/* SPDX-License-Identifier: MIT */
/*
 * Attributes and extended attributes.
 *
 * Nothing has a lifetime in the kernel: st_blocks is a live figure, golden images change beside
 * the mount, and clones appear through the control file. Each stat asks, each name is looked up
 * anew, and so nothing has to be taken back. What is hot, reads and writes of open files, asks for
 * no attributes at all (server.c, op_init). The way to the control file is the exception: it is the
 * same as long as the mount lives, and each command goes it, beside guests at full load too.
 *
 * security.* and ACLs are not supported and say so with EOPNOTSUPP. Never ENOSYS: the kernel would
 * stop asking for xattrs for good.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/sizes.h"
#include "base/times.h"
#include "fuse/internal.h"
#include "service/service.h"

#define FIXED_SECONDS 60 /* that the kernel keeps what never changes */

#define SET_ID_BITS (64 * ARRAY_SIZE(((struct fuse_server *)0)->set_id))

static unsigned set_id_bit(uint64_t ino)
{
	return (unsigned)((ino * UINT64_C(0x9e3779b97f4a7c15)) >> 32) % SET_ID_BITS;
}

static void note_set_id(struct fuse_server *server, const struct fs_attr *attr)
{
	unsigned bit = set_id_bit(attr->ino);

	if (S_ISREG(attr->mode) && (attr->mode & (S_ISUID | S_ISGID)))
		atomic_fetch_or(&server->set_id[bit / 64], UINT64_C(1) << (bit % 64));
}

/* What is left of mode when set-id bits go: set-group-id without group execute means locking. */
static uint32_t without_set_id(uint32_t mode)
{
	if (mode & S_IXGRP)
		mode &= ~(uint32_t)S_ISGID;
	return mode & ~(uint32_t)S_ISUID;
}

void kill_set_id(struct fuse_server *server, uint64_t ino)
{
	unsigned bit = set_id_bit(ino);
	struct fs_attr attr;

	if (!(atomic_load_explicit(&server->set_id[bit / 64], memory_order_relaxed) >> (bit % 64) & 1))
		return;
	if (is_virtual(ino) || fs_getattr(server->fs, ino, &attr) < 0 || !S_ISREG(attr.mode))
		return;
	if (without_set_id(attr.mode) == attr.mode)
		return;
	attr.mode = without_set_id(attr.mode);
	fs_setattr(server->fs, ino, FS_SET_MODE, &attr);
}

void attr_to_stat(struct fuse_server *server, const struct fs_attr *attr, struct stat *st)
{
	note_set_id(server, attr);
	*st = (struct stat){
		.st_ino = attr->ino,
		.st_mode = attr->mode,
		.st_nlink = attr->nlink,
		.st_uid = attr->uid,
		.st_gid = attr->gid,
		.st_size = (off_t)attr->size,
		.st_blocks = (blkcnt_t)attr->blocks,
		.st_blksize = 4096,
		.st_atim = times_spec(attr->atime_ns),
		.st_mtim = times_spec(attr->mtime_ns),
		.st_ctim = times_spec(attr->ctime_ns),
	};
}

static double lifetime(uint64_t ino)
{
	return is_virtual(ino) && service_is_fixed(ino) ? FIXED_SECONDS : 0;
}

void fill_entry(struct fuse_server *server, const struct fs_attr *attr,
	struct fuse_entry_param *entry)
{
	*entry = (struct fuse_entry_param){.ino = attr->ino};
	entry->entry_timeout = entry->attr_timeout = lifetime(attr->ino);
	attr_to_stat(server, attr, &entry->attr);
}

void reply_entry(fuse_req_t req, const struct fs_attr *attr)
{
	struct fuse_server *server = server_of(req);
	struct fuse_entry_param entry;

	fill_entry(server, attr, &entry);
	if (fuse_reply_entry(req, &entry) < 0 && !is_virtual(attr->ino))
		fs_forget(server->fs, attr->ino, 1);
}

static int any_getattr(struct fuse_server *server, uint64_t ino, struct fs_attr *attr)
{
	if (is_virtual(ino))
		return service_getattr(server->service, ino, attr);
	return fs_getattr(server->fs, ino, attr);
}

void op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct fuse_server *server = server_of(req);
	struct fs_attr attr;
	struct stat st;
	int r = any_getattr(server, ino, &attr);

	if (r < 0) {
		reply_status(req, r);
		return;
	}
	if (S_ISREG(attr.mode) && cp_wants_full(server->cp, task_of(req), ino, monotonic_ns()))
		attr.blocks = max_u64(attr.blocks, round_up(attr.size, 512) / 512);
	attr_to_stat(server, &attr, &st);
	fuse_reply_attr(req, &st, lifetime(ino));
}

/* Translates what is to be set; returns the mask for fs_setattr. */
static unsigned wanted(const struct stat *st, int to_set, struct fs_attr *attr)
{
	static const struct {
		int fuse;
		unsigned fs;
	} bits[] = {
		{FUSE_SET_ATTR_MODE, FS_SET_MODE},
		{FUSE_SET_ATTR_UID, FS_SET_UID},
		{FUSE_SET_ATTR_GID, FS_SET_GID},
		{FUSE_SET_ATTR_SIZE, FS_SET_SIZE},
		{FUSE_SET_ATTR_ATIME, FS_SET_ATIME},
		{FUSE_SET_ATTR_MTIME, FS_SET_MTIME},
		{FUSE_SET_ATTR_CTIME, FS_SET_CTIME},
	};
	int64_t now = times_now(CLOCK_REALTIME);
	unsigned mask = 0;

	for (size_t i = 0; i < ARRAY_SIZE(bits); i++)
		if (to_set & bits[i].fuse)
			mask |= bits[i].fs;
	*attr = (struct fs_attr){
		.mode = st->st_mode,
		.uid = st->st_uid,
		.gid = st->st_gid,
		.size = (uint64_t)st->st_size,
		.atime_ns = to_set & FUSE_SET_ATTR_ATIME_NOW ? now : times_ns(st->st_atim),
		.mtime_ns = to_set & FUSE_SET_ATTR_MTIME_NOW ? now : times_ns(st->st_mtim),
		.ctime_ns = times_ns(st->st_ctim),
	};
	if (to_set & FUSE_SET_ATTR_ATIME_NOW)
		mask |= FS_SET_ATIME;
	if (to_set & FUSE_SET_ATTR_MTIME_NOW)
		mask |= FS_SET_MTIME;
	return mask;
}

/* A change of owner takes set-id bits away, whoever makes it, and so do some truncations. */
static int add_set_id_kill(struct fuse_server *server, uint64_t ino, unsigned *mask,
	struct fs_attr *attr)
{
	struct fs_attr now;
	int r;

	if (!me->kill_suidgid && !(*mask & (FS_SET_UID | FS_SET_GID)))
		return 0;
	if (*mask & FS_SET_MODE)
		return 0;
	r = fs_getattr(server->fs, ino, &now);
	if (r < 0 || !S_ISREG(now.mode) || without_set_id(now.mode) == now.mode)
		return r;
	attr->mode = without_set_id(now.mode);
	*mask |= FS_SET_MODE;
	return 0;
}

/* Only what `> .goldfs/control` needs: truncating the control file does nothing. */
static int virtual_setattr(struct fuse_server *server, uint64_t ino, int to_set,
	struct fs_attr *attr)
{
	const int harmless = FUSE_SET_ATTR_SIZE | FUSE_SET_ATTR_MTIME | FUSE_SET_ATTR_MTIME_NOW |
			     FUSE_SET_ATTR_CTIME;

	if (!service_is_control(server->service, ino) || !(to_set & FUSE_SET_ATTR_SIZE) ||
		(to_set & 0x3ff & ~harmless))
		return -EPERM;
	return service_getattr(server->service, ino, attr);
}

void op_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *st, int to_set,
	struct fuse_file_info *fi)
{
	struct fuse_server *server = server_of(req);
	struct fs_attr attr;
	unsigned mask;
	int r;

	if (is_virtual(ino)) {
		r = virtual_setattr(server, ino, to_set, &attr);
	} else {
		mask = wanted(st, to_set, &attr);
		r = add_set_id_kill(server, ino, &mask, &attr);
		if (r == 0)
			r = fs_setattr(server->fs, ino, mask, &attr);
	}
	if (r < 0) {
		reply_status(req, r);
		return;
	}
	attr_to_stat(server, &attr, st);
	fuse_reply_attr(req, st, 0);
}

void op_statfs(fuse_req_t req, fuse_ino_t ino)
{
	struct fuse_server *server = server_of(req);
	struct fs_statfs figures;
	struct statvfs st;
	int r = fs_statfs_of(server->fs, ino, &figures);

	if (r < 0) {
		reply_status(req, r);
		return;
	}
	st = (struct statvfs){
		.f_bsize = 4096,
		.f_frsize = 4096,
		.f_blocks = figures.total_bytes / 4096,
		.f_bfree = figures.free_bytes / 4096,
		.f_bavail = figures.free_bytes / 4096,
		.f_files = figures.files,
		.f_namemax = 255,
	};
	fuse_reply_statfs(req, &st);
}

/* ---- extended attributes ---- */

static bool is_user(const char *name)
{
	return strncmp(name, "user.", 5) == 0;
}

/*
 * What the root says of the mount, for the command line: not listed. user.goldfs.store is the
 * store's folder (`goldfs umount` waits for its lock), user.goldfs.requests counts what the kernel
 * asked, one "name count" per line.
 */
static char *root_xattr(struct fuse_server *server, const char *name)
{
	uint64_t counts[FUSE_OP_COUNT];
	char *text = NULL;
	size_t len;
	FILE *out;

	if (strcmp(name, "user.goldfs.store") == 0)
		return strdup(server->store);
	if (strcmp(name, "user.goldfs.requests") != 0)
		return NULL;
	out = open_memstream(&text, &len);
	if (!out)
		return NULL;
	fuse_server_op_counts(server, counts);
	for (unsigned op = 0; op < FUSE_OP_COUNT; op++)
		if (fuse_op_name(op))
			fprintf(out, "%s %llu\n", fuse_op_name(op), (unsigned long long)counts[op]);
	fclose(out);
	return text;
}

/* A value or a list of len bytes, or of which len bytes are only counted when size is 0. */
static void reply_value(fuse_req_t req, const void *value, ssize_t len, size_t size)
{
	if (len < 0)
		reply_status(req, len);
	else if (size == 0)
		fuse_reply_xattr(req, (size_t)len);
	else if ((size_t)len > size)
		fuse_reply_err(req, ERANGE);
	else
		fuse_reply_buf(req, value, (size_t)len);
}

void op_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
	struct fuse_server *server = server_of(req);
	CLEANUP_FREE char *value = NULL;

	if (!is_user(name)) {
		fuse_reply_err(req, EOPNOTSUPP);
		return;
	}
	if (is_virtual(ino)) {
		fuse_reply_err(req, ENODATA);
		return;
	}
	if (ino == FS_INO_ROOT) {
		value = root_xattr(server, name);
		if (value) {
			reply_value(req, value, (ssize_t)strlen(value), size);
			return;
		}
	}
	value = size ? calloc(1, size) : NULL;
	if (size && !value)
		fuse_reply_err(req, ENOMEM);
	else
		reply_value(req, value, fs_getxattr(server->fs, ino, name, value, size), size);
}

void op_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size)
{
	CLEANUP_FREE char *list = size ? calloc(1, size) : NULL;

	if (size && !list)
		fuse_reply_err(req, ENOMEM);
	else if (is_virtual(ino))
		reply_value(req, list, 0, size);
	else
		reply_value(req, list, fs_listxattr(server_of(req)->fs, ino, list, size), size);
}

void op_setxattr(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value, size_t size,
	int flags)
{
	if (!is_user(name))
		fuse_reply_err(req, EOPNOTSUPP);
	else if (is_virtual(ino))
		fuse_reply_err(req, EPERM);
	else
		reply_status(req, fs_setxattr(server_of(req)->fs, ino, name, value, size, flags));
}

void op_removexattr(fuse_req_t req, fuse_ino_t ino, const char *name)
{
	if (!is_user(name))
		fuse_reply_err(req, EOPNOTSUPP);
	else if (is_virtual(ino))
		fuse_reply_err(req, EPERM);
	else
		reply_status(req, fs_removexattr(server_of(req)->fs, ino, name));
}
