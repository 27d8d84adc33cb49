/* SPDX-License-Identifier: MIT */
/* Listing folders, paths, attributes and extended attributes. */
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>

#include "base/cleanup.h"
#include "base/sizes.h"
#include "core/snapshot.h"

/* ---- listing ---- */

/* In the root, the fixed folders come first: their numbers are the lowest. */
static int list_fixed(struct fs *fs, uint64_t *cookie,
	int (*cb)(void *arg, const char *name, const struct fs_attr *attr, uint64_t next),
	void *arg)
{
	static const struct {
		uint64_t ino;
		const char *name;
	} fixed[] = {{FS_INO_GOLDEN, "golden"}, {FS_INO_SNAPSHOTS, ".snapshots"}};

	for (size_t i = 0; i < ARRAY_SIZE(fixed); i++) {
		struct fs_attr attr;
		int r;

		if (fixed[i].ino <= *cookie || fs_getattr(fs, fixed[i].ino, &attr))
			continue;
		r = cb(arg, fixed[i].name, &attr, fixed[i].ino);
		if (r)
			return r;
		*cookie = fixed[i].ino;
	}
	return 0;
}

struct listed {
	char name[GF_NAME_MAX + 1];
	struct fs_attr attr;
};

/* Up to n children after cookie, so that cb runs without the lock. */
static int take_children(struct fs *fs, uint64_t ino, uint64_t cookie, struct listed *list,
	size_t n)
{
	struct inode *dir;
	size_t count = 0;

	pthread_rwlock_rdlock(&fs->tree);
	dir = tree_find(fs, ino);
	if (!dir || !S_ISDIR(dir->mode)) {
		pthread_rwlock_unlock(&fs->tree);
		return dir ? -ENOTDIR : -ESTALE;
	}
	for (size_t low = 0, high = dir->child_count; count < n;) {
		/* The first child above cookie, by halving; then straight on. */
		while (low < high && !count) {
			size_t mid = (low + high) / 2;

			if (dir->children[mid]->ino <= cookie)
				low = mid + 1;
			else
				high = mid;
		}
		if (low >= dir->child_count)
			break;
		if (dir->children[low]->ino == FS_INO_PROMOTED) {
			low++;
			continue;
		}
		snprintf(list[count].name, sizeof(list[count].name), "%s",
			dir->children[low]->key->name);
		inode_attr(fs, dir->children[low], &list[count].attr);
		count++;
		low++;
	}
	pthread_rwlock_unlock(&fs->tree);
	return count;
}

int fs_list(struct fs *fs, uint64_t ino, uint64_t cookie,
	int (*cb)(void *arg, const char *name, const struct fs_attr *attr, uint64_t next),
	void *arg)
{
	CLEANUP_FREE struct listed *list = NULL;
	bool golden = ino == FS_INO_GOLDEN;
	struct inode *dir;
	const size_t batch = 64;
	int n, r = 0;

	pthread_rwlock_rdlock(&fs->tree);
	dir = tree_find(fs, ino);
	if (!dir && ino == FS_INO_SNAPSHOTS) {
		pthread_rwlock_unlock(&fs->tree);
		return 0;
	}
	golden |= dir && dir->kind == GF_KIND_GOLDEN;
	pthread_rwlock_unlock(&fs->tree);
	if (golden)
		return golden_list(fs, dir, cookie, cb, arg);
	if (ino == FS_INO_ROOT)
		r = list_fixed(fs, &cookie, cb, arg);
	if (r)
		return r;
	list = malloc(batch * sizeof(*list));
	if (!list)
		return -ENOMEM;
	while ((n = take_children(fs, ino, cookie, list, batch)) > 0) {
		for (int i = 0; i < n; i++) {
			cookie = list[i].attr.ino;
			r = cb(arg, list[i].name, &list[i].attr, cookie);
			if (r)
				return r;
		}
	}
	return n;
}

/* ---- paths ---- */

int64_t fs_parent(struct fs *fs, uint64_t ino)
{
	struct inode *inode;
	int64_t r;

	if (ino < FS_INO_FIRST)
		return FS_INO_ROOT;
	pthread_rwlock_rdlock(&fs->tree);
	inode = tree_find(fs, ino);
	if (inode && inode->kind == GF_KIND_GOLDEN)
		r = golden_parent(fs, inode->target);
	else if (inode && inode->parent == FS_INO_PROMOTED)
		r = golden_parent(fs, inode->key->name);
	else
		r = inode && inode->key ? (int64_t)inode->parent : -ESTALE;
	pthread_rwlock_unlock(&fs->tree);
	return r;
}

int tree_path(struct fs *fs, struct inode *inode, char **path)
{
	CLEANUP_FREE char *tail = strdup("");

	while (tail && inode && inode->key) {
		char *longer;

		if (asprintf(&longer, "%s%s%s", inode->key->name, *tail ? "/" : "", tail) < 0)
			return -ENOMEM;
		free(tail);
		tail = longer;
		inode = tree_find(fs, inode->parent);
	}
	if (!tail)
		return -ENOMEM;
	if (inode != fs->root)
		return -ESTALE;
	*path = steal_pointer(&tail);
	return 0;
}

int fs_path(struct fs *fs, uint64_t ino, char **path)
{
	struct inode *inode;
	int r = 0;

	if (ino == FS_INO_GOLDEN || ino == FS_INO_SNAPSHOTS || ino == FS_INO_ROOT) {
		*path = strdup(ino == FS_INO_GOLDEN ? "golden" :
			ino == FS_INO_ROOT ? "" : ".snapshots");
		return *path ? 0 : -ENOMEM;
	}
	pthread_rwlock_rdlock(&fs->tree);
	inode = tree_find(fs, ino);
	if (!inode)
		r = -ESTALE;
	else if (inode->kind != GF_KIND_GOLDEN)
		r = tree_path(fs, inode, path);
	else if (asprintf(path, "golden/%s", inode->target) < 0)
		r = -ENOMEM;
	pthread_rwlock_unlock(&fs->tree);
	return r;
}

int fs_resolve(struct fs *fs, const char *path, uint64_t *ino)
{
	CLEANUP_FREE char *copy = strdup(path);
	char *save = NULL;
	uint64_t at = FS_INO_ROOT;

	if (!copy)
		return -ENOMEM;
	for (char *name = strtok_r(copy, "/", &save); name; name = strtok_r(NULL, "/", &save)) {
		struct fs_attr attr;
		int r = fs_lookup(fs, at, name, &attr);

		if (r)
			return r;
		fs_forget(fs, attr.ino, 1);
		at = attr.ino;
	}
	*ino = at;
	return 0;
}

/* ---- attributes ---- */

static int set_attributes(struct fs *fs, struct inode *inode, unsigned mask,
	const struct fs_attr *attr)
{
	struct snap_build b;
	struct gf_op_attr *op;
	struct opbuf buf;
	int r;

	opbuf_init(&buf);
	if (!OPBUF_ADD(&buf, GF_OP_ATTR, 0, op, 0))
		return -ENOMEM;
	snap_build_begin(fs, &b, &buf);
	pthread_mutex_lock(&inode->lock);
	op->ino = inode->ino;
	op->mode = mask & FS_SET_MODE ? attr->mode : inode->mode;
	op->uid = mask & FS_SET_UID ? attr->uid : inode->uid;
	op->gid = mask & FS_SET_GID ? attr->gid : inode->gid;
	op->atime_ns = mask & FS_SET_ATIME ? attr->atime_ns : inode->atime_ns;
	op->mtime_ns = mask & FS_SET_MTIME ? attr->mtime_ns : inode->mtime_ns;
	op->ctime_ns = mask & FS_SET_CTIME ? attr->ctime_ns : now_ns();
	pthread_mutex_unlock(&inode->lock);
	r = snapshots_add_attr(fs, &b, inode, op->mode, op->uid, op->gid);
	if (!r)
		r = record_commit(fs, &buf, NULL);
	snap_build_end(&b);
	opbuf_release(&buf);
	return r;
}

int fs_setattr(struct fs *fs, uint64_t ino, unsigned mask, struct fs_attr *attr)
{
	struct fs_attr wanted = *attr;
	struct inode *inode;
	int64_t room;
	int r = 0;

	if (mask & FS_SET_SIZE) {
		inode = volume_find(fs, ino, &r);
		if (!inode)
			return r;
		if (inode->kind != GF_KIND_USER)
			return -EROFS;
		r = volume_truncate(fs, inode, wanted.size);
		if (r)
			return r;
	}
	if (!(mask & ~FS_SET_SIZE))
		return fs_getattr(fs, ino, attr);
	room = record_reserve(fs, 256);
	if (room < 0)
		return room;
	tree_lock(fs);
	inode = tree_find(fs, ino);
	if (!inode)
		r = ino < FS_INO_FIRST ? -EPERM : -ESTALE;
	else if (inode->kind != GF_KIND_USER)
		r = -EROFS;
	else
		r = set_attributes(fs, inode, mask, &wanted);
	pthread_rwlock_unlock(&fs->tree);
	journal_unreserve(fs->journal, room);
	return r ? r : fs_getattr(fs, ino, attr);
}

/* ---- extended attributes ---- */

#define OWN_PREFIX "user.goldfs."

static ssize_t copy_out(void *to, size_t size, const void *from, size_t len)
{
	if (size && size < len)
		return -ERANGE;
	if (size)
		memcpy(to, from, len);
	return len;
}

/* Figures as attributes: user.goldfs.unique_bytes and its kind. Readable, not listed. */
static ssize_t own_xattr(struct fs *fs, uint64_t ino, const char *name, void *value, size_t size)
{
	const struct {
		const char *name;
		size_t offset;
	} table[] = {
#define FIGURE(key) {#key, offsetof(struct fs_figures, key)}
		FIGURE(virtual_bytes),
		FIGURE(data_bytes),
		FIGURE(zero_bytes),
		FIGURE(unique_bytes),
		FIGURE(shared_golden_bytes),
		FIGURE(shared_clone_bytes),
		FIGURE(shared_snapshot_bytes),
		FIGURE(shared_self_bytes),
		FIGURE(pinned_golden_bytes),
#undef FIGURE
	};

	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		struct fs_info info;
		uint64_t figure;
		char text[24];
		int r;

		if (strcmp(name + strlen(OWN_PREFIX), table[i].name) != 0)
			continue;
		r = fs_info(fs, ino, FS_NOW, &info);
		if (r)
			return r;
		memcpy(&figure, (const uint8_t *)&info.figures + table[i].offset, sizeof(figure));
		fs_info_release(&info);
		snprintf(text, sizeof(text), "%" PRIu64, figure);
		return copy_out(value, size, text, strlen(text));
	}
	return -ENODATA;
}

static int check_xattr_name(const char *name)
{
	if (strncmp(name, "user.", 5) != 0)
		return -EOPNOTSUPP;
	return strlen(name) > GF_NAME_MAX ? -ERANGE : 0;
}

ssize_t fs_getxattr(struct fs *fs, uint64_t ino, const char *name, void *value, size_t size)
{
	ssize_t r = check_xattr_name(name);
	struct inode *inode;

	if (r)
		return r;
	if (!strncmp(name, OWN_PREFIX, strlen(OWN_PREFIX)))
		return own_xattr(fs, ino, name, value, size);
	r = -ENODATA;
	pthread_rwlock_rdlock(&fs->tree);
	inode = tree_find(fs, ino);
	if (inode) {
		MUTEX_GUARD(&inode->lock);
		for (const struct xattr *x = inode->xattrs; x; x = x->next)
			if (!strcmp(x->name, name))
				r = copy_out(value, size, x->value, x->len);
	}
	pthread_rwlock_unlock(&fs->tree);
	return r;
}

ssize_t fs_listxattr(struct fs *fs, uint64_t ino, char *list, size_t size)
{
	struct inode *inode;
	size_t len = 0;

	pthread_rwlock_rdlock(&fs->tree);
	inode = tree_find(fs, ino);
	if (inode) {
		MUTEX_GUARD(&inode->lock);
		for (const struct xattr *x = inode->xattrs; x; x = x->next) {
			size_t n = strlen(x->name) + 1;

			if (strncmp(x->name, OWN_PREFIX, strlen(OWN_PREFIX)) == 0)
				continue; /* of a promoted file */
			if (size && len + n <= size)
				memcpy(list + len, x->name, n);
			len += n;
		}
	}
	pthread_rwlock_unlock(&fs->tree);
	return size && len > size ? -ERANGE : (ssize_t)len;
}

/*
 * Attributes are kept in memory and stand in each catalog, so one file has room for so much of
 * them: two values of the largest size, and names that listxattr(2), which takes 64 KiB at most,
 * can list. More is -ENOSPC, as with file systems that keep them in the inode; what makes them less
 * is always possible.
 */
static int check_set(struct inode *inode, const char *name, size_t size, int flags, bool remove)
{
	const struct xattr *old = NULL;
	size_t names = strlen(name) + 1, values = size;

	MUTEX_GUARD(&inode->lock);
	for (const struct xattr *x = inode->xattrs; x; x = x->next) {
		if (strcmp(x->name, name) == 0) {
			old = x;
			continue;
		}
		names += strlen(x->name) + 1;
		values += x->len;
	}
	if (old && (flags & XATTR_CREATE))
		return -EEXIST;
	if (!old && (remove || (flags & XATTR_REPLACE)))
		return -ENODATA;
	if (remove || (old && size <= old->len))
		return 0;
	return names > XATTR_LIST_MAX || names + values > GF_XATTR_SPACE_MAX ? -ENOSPC : 0;
}

int op_add_xattr(struct opbuf *buf, uint64_t ino, const char *name, const void *value, size_t size,
	bool remove)
{
	size_t name_len = strlen(name);
	struct gf_op_xattr *op;

	if (!OPBUF_ADD(buf, GF_OP_XATTR, remove, op, name_len + size))
		return -ENOMEM;
	op->ino = ino;
	op->time_ns = now_ns();
	op->name_len = name_len;
	op->value_len = size;
	memcpy(op + 1, name, name_len);
	if (size)
		memcpy((char *)(op + 1) + name_len, value, size);
	return 0;
}

static int change_xattr(struct fs *fs, uint64_t ino, const char *name, const void *value,
	size_t size, int flags, bool remove)
{
	size_t name_len = strlen(name);
	struct inode *inode;
	struct opbuf buf;
	uint64_t done;
	int64_t room;
	int r = check_xattr_name(name);

	if (r || fs_request_is_done(fs, &done))
		return r;
	if (!strncmp(name, OWN_PREFIX, strlen(OWN_PREFIX)))
		return -EPERM;
	if (size > GF_XATTR_VALUE_MAX)
		return -E2BIG;
	room = record_reserve(fs, sizeof(struct gf_op_xattr) + name_len + size + 8 + sizeof(struct gf_op_request));
	if (room < 0)
		return room;
	opbuf_init(&buf);
	tree_lock(fs);
	inode = tree_find(fs, ino);
	r = !inode ? (ino < FS_INO_FIRST ? -EPERM : -ESTALE) :
		inode->kind != GF_KIND_USER ? -EROFS : check_set(inode, name, size, flags, remove);
	if (!r)
		r = op_add_xattr(&buf, ino, name, value, size, remove);
	if (!r && (flags || remove))
		r = request_add(&buf, 0);
	if (!r)
		r = record_commit(fs, &buf, NULL);
	pthread_rwlock_unlock(&fs->tree);
	journal_unreserve(fs->journal, room);
	opbuf_release(&buf);
	return r;
}

int fs_setxattr(struct fs *fs, uint64_t ino, const char *name, const void *value, size_t size,
	int flags)
{
	return change_xattr(fs, ino, name, value, size, flags, false);
}

int fs_removexattr(struct fs *fs, uint64_t ino, const char *name)
{
	return change_xattr(fs, ino, name, NULL, 0, 0, true);
}
