/* SPDX-License-Identifier: MIT */
/*
 * The name space: looking up, making, removing and renaming files and folders.
 *
 * Every change is decided under fs.tree, written as one record and applied by apply.c, so that it
 * is there after a crash as a whole or not at all.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/sizes.h"
#include "core/freeze.h"
#include "core/snapshot.h"

#define NAME_OPS_BOUND (4096 + 2 * (GF_NAME_MAX + GF_SYMLINK_MAX) + 256)

int name_check(const char *name)
{
	size_t len = strlen(name);

	if (len > GF_NAME_MAX)
		return -ENAMETOOLONG;
	return len == 0 || strchr(name, '/') || !strcmp(name, ".") || !strcmp(name, "..") ? -EINVAL
											   : 0;
}

bool name_is_reserved(uint64_t parent, const char *name)
{
	return parent == FS_INO_ROOT && (!strcmp(name, "golden") || !strcmp(name, ".goldfs") ||
						!strcmp(name, ".snapshots"));
}

/* ---- attributes of what is not an inode of the store ---- */

static void fixed_attr(struct fs *fs, uint64_t ino, struct fs_attr *attr)
{
	struct inode *root = fs->root;

	*attr = (struct fs_attr){
		.ino = ino,
		.mode = S_IFDIR | 0755,
		.nlink = 2,
		.uid = root->uid,
		.gid = root->gid,
		.atime_ns = root->btime_ns,
		.mtime_ns = root->btime_ns,
		.ctime_ns = root->btime_ns,
		.btime_ns = root->btime_ns,
	};
}

void inode_attr(struct fs *fs, struct inode *inode, struct fs_attr *attr)
{
	bool named = inode->key || inode->ino == FS_INO_ROOT;

	pthread_mutex_lock(&inode->lock);
	*attr = (struct fs_attr){
		.ino = inode->ino,
		.mode = inode->mode,
		.uid = inode->uid,
		.gid = inode->gid,
		.atime_ns = inode->atime_ns,
		.mtime_ns = inode->mtime_ns,
		.ctime_ns = inode->ctime_ns,
		.btime_ns = inode->btime_ns,
	};
	pthread_mutex_unlock(&inode->lock);
	attr->nlink = !named ? 0 : S_ISDIR(inode->mode) ? 2 + inode->folder_count : 1;
	if (S_ISREG(inode->mode)) {
		attr->size = atomic_load(&inode->size);
		attr->blocks = figures_blocks(fs, inode);
	} else if (S_ISLNK(inode->mode)) {
		attr->size = strlen(inode->target);
	} else if (inode->ino == FS_INO_ROOT) {
		/* golden and .snapshots, which may be a folder as any other; one is not shown. */
		attr->nlink += tree_find(fs, FS_INO_SNAPSHOTS) ? 1 : 2;
		attr->nlink -= tree_find(fs, FS_INO_PROMOTED) != NULL;
	}
}

int fs_getattr(struct fs *fs, uint64_t ino, struct fs_attr *attr)
{
	bool golden = ino == FS_INO_GOLDEN;
	struct inode *inode;
	int r = 0;

	pthread_rwlock_rdlock(&fs->tree);
	inode = tree_find(fs, ino);
	if (inode && inode->kind == GF_KIND_GOLDEN)
		golden = true; /* and so it stays: those are never freed */
	else if (inode)
		inode_attr(fs, inode, attr);
	else if (ino == FS_INO_SNAPSHOTS)
		fixed_attr(fs, ino, attr);
	else if (!golden)
		r = -ESTALE;
	pthread_rwlock_unlock(&fs->tree);
	if (!r && golden)
		r = golden_getattr(fs, inode, attr);
	return r;
}

/* ---- looking up ---- */

static int lookup_fixed(struct fs *fs, const char *name, struct fs_attr *attr)
{
	if (!strcmp(name, "golden"))
		return golden_getattr(fs, NULL, attr);
	return strcmp(name, ".snapshots") ? -ENOENT : fs_getattr(fs, FS_INO_SNAPSHOTS, attr);
}

int fs_lookup(struct fs *fs, uint64_t parent, const char *name, struct fs_attr *attr)
{
	struct inode *dir, *inode = NULL;
	int r = 0;

	if (strlen(name) > GF_NAME_MAX)
		return -ENAMETOOLONG;
	if (parent == FS_INO_ROOT && name_is_reserved(parent, name))
		return lookup_fixed(fs, name, attr);
	pthread_rwlock_rdlock(&fs->tree);
	dir = tree_find(fs, parent);
	if (!dir && parent != FS_INO_GOLDEN)
		r = parent == FS_INO_SNAPSHOTS ? -ENOENT : -ESTALE;
	else if (dir && !S_ISDIR(dir->mode))
		r = -ENOTDIR;
	else if (dir && dir->kind != GF_KIND_GOLDEN) {
		inode = tree_find_name(fs, parent, name, strlen(name));
		if (inode) {
			inode_looked_up(inode);
			inode_attr(fs, inode, attr);
		} else {
			r = -ENOENT;
		}
	}
	pthread_rwlock_unlock(&fs->tree);
	if (r || inode)
		return r;
	return golden_lookup(fs, dir, name, attr);
}

/* Without a name and without references: nobody can reach it any more. */
static bool is_forgotten(const struct inode *inode)
{
	return !inode->key && inode->ino != FS_INO_ROOT && inode->kind != GF_KIND_GOLDEN &&
	       !inode_is_referenced(inode);
}

static void drop_forgotten(struct fs *fs, uint64_t ino)
{
	struct gf_op_ino *op;
	struct inode *inode;
	struct opbuf buf;
	int64_t room = record_reserve_urgent(fs, sizeof(*op));

	if (room < 0)
		return; /* the next mount drops it */
	opbuf_init(&buf);
	tree_lock(fs);
	inode = tree_find(fs, ino);
	if (inode && is_forgotten(inode) && OPBUF_ADD(&buf, GF_OP_DROP, 0, op, 0)) {
		op->ino = ino;
		op->time_ns = now_ns();
		record_commit(fs, &buf, NULL);
	}
	pthread_rwlock_unlock(&fs->tree);
	journal_unreserve(fs->journal, room);
	opbuf_release(&buf);
}

void fs_forget(struct fs *fs, uint64_t ino, uint64_t n)
{
	struct inode *inode;
	bool forgotten = false;

	pthread_rwlock_rdlock(&fs->tree);
	inode = tree_find(fs, ino);
	if (inode) {
		atomic_fetch_sub(&inode->lookups, (long)n);
		forgotten = is_forgotten(inode);
	}
	pthread_rwlock_unlock(&fs->tree);
	if (forgotten)
		drop_forgotten(fs, ino);
}

/* ---- making ---- */

int op_add_inode(struct opbuf *buf, const struct fs_attr *attr, uint64_t parent, uint64_t layer,
	const char *name, const char *target, enum gf_inode_kind kind)
{
	size_t name_len = strlen(name), target_len = strlen(target);
	struct gf_op_inode *op;

	if (!OPBUF_ADD(buf, GF_OP_INODE, 0, op, name_len + target_len))
		return -ENOMEM;
	op->ino = attr->ino;
	op->parent = parent;
	op->layer = layer;
	op->size = attr->size;
	op->atime_ns = attr->atime_ns;
	op->mtime_ns = attr->mtime_ns;
	op->ctime_ns = attr->ctime_ns;
	op->btime_ns = attr->btime_ns;
	op->mode = attr->mode;
	op->uid = attr->uid;
	op->gid = attr->gid;
	op->name_len = name_len;
	op->target_len = target_len;
	op->kind = kind;
	memcpy(op + 1, name, name_len);
	memcpy((char *)(op + 1) + name_len, target, target_len);
	return 0;
}

/* Whether name can be made in parent. tree held. */
int names_can_make(struct fs *fs, uint64_t parent, const char *name)
{
	struct inode *dir = tree_find(fs, parent);

	if (parent == FS_INO_GOLDEN || (dir && dir->kind != GF_KIND_USER) ||
		parent == FS_INO_SNAPSHOTS)
		return -EROFS;
	if (!dir || (!dir->key && dir != fs->root))
		return dir ? -ENOENT : -ESTALE;
	if (!S_ISDIR(dir->mode))
		return -ENOTDIR;
	if (name_is_reserved(parent, name))
		return -EPERM;
	return tree_find_name(fs, parent, name, strlen(name)) ? -EEXIST : 0;
}

int names_add_folder_times(struct fs *fs, struct opbuf *buf, uint64_t parent, int64_t time_ns)
{
	struct inode *dir = tree_find(fs, parent);
	struct gf_op_attr *op;

	if (!OPBUF_ADD(buf, GF_OP_ATTR, 0, op, 0))
		return -ENOMEM;
	op->ino = parent;
	MUTEX_GUARD(&dir->lock);
	op->mode = dir->mode;
	op->uid = dir->uid;
	op->gid = dir->gid;
	op->atime_ns = dir->atime_ns;
	op->mtime_ns = time_ns;
	op->ctime_ns = time_ns;
	return 0;
}

/* What the change does to .snapshots comes before its own ops. */
static int make_locked(struct fs *fs, uint64_t parent, const char *name, uint32_t mode,
	const char *target, struct fs_owner owner, struct fs_attr *attr)
{
	uint64_t layer = 0, next_layer = fs->next_layer;
	struct snap_build b;
	struct opbuf buf;
	int r = names_can_make(fs, parent, name);

	if (r)
		return r;
	opbuf_init(&buf);
	snap_build_begin(fs, &b, &buf);
	if (S_ISDIR(mode))
		r = snapshots_add_folder(
			fs, &b, tree_find(fs, parent), name, mode, owner.uid, owner.gid);
	snap_build_end(&b);
	*attr = (struct fs_attr){.ino = fs->next_ino, .mode = mode, .uid = owner.uid,
		.gid = owner.gid};
	attr->btime_ns = attr->atime_ns = attr->mtime_ns = attr->ctime_ns = now_ns();
	if (!r && S_ISREG(mode))
		r = op_add_layer(&buf, &(struct frozen){.size = 0}, &next_layer, &layer);
	if (!r)
		r = op_add_inode(&buf, attr, parent, layer, name, target, GF_KIND_USER);
	if (!r)
		r = names_add_folder_times(fs, &buf, parent, attr->btime_ns);
	if (!r)
		r = request_add(&buf, attr->ino);
	if (!r)
		r = record_commit(fs, &buf, NULL);
	opbuf_release(&buf);
	if (!r) {
		struct inode *inode = tree_find(fs, attr->ino);

		atomic_fetch_add(&inode->lookups, 1);
		inode_attr(fs, inode, attr);
	}
	return r;
}

/* What this request made when it was served before. */
static int made_before(struct fs *fs, uint64_t ino, struct fs_attr *attr)
{
	struct inode *inode;

	pthread_rwlock_rdlock(&fs->tree);
	inode = tree_find(fs, ino);
	if (inode) {
		inode_looked_up(inode);
		inode_attr(fs, inode, attr);
	}
	pthread_rwlock_unlock(&fs->tree);
	return inode ? 0 : -ESTALE;
}

static int make(struct fs *fs, uint64_t parent, const char *name, uint32_t mode,
	const char *target, struct fs_owner owner, struct fs_attr *attr)
{
	uint64_t made;
	int64_t room;
	int r = name_check(name);

	if (r)
		return r;
	if (fs_request_is_done(fs, &made))
		return made_before(fs, made, attr);
	room = record_reserve(fs, NAME_OPS_BOUND);
	if (room < 0)
		return room;
	tree_lock(fs);
	r = make_locked(fs, parent, name, mode, target, owner, attr);
	pthread_rwlock_unlock(&fs->tree);
	journal_unreserve(fs->journal, room);
	return r;
}

int fs_make(struct fs *fs, uint64_t parent, const char *name, uint32_t mode, struct fs_owner owner,
	struct fs_attr *attr)
{
	if (!S_ISREG(mode) && !S_ISDIR(mode))
		return -EPERM;
	return make(fs, parent, name, mode & (S_IFMT | 07777), "", owner, attr);
}

int fs_symlink(struct fs *fs, uint64_t parent, const char *name, const char *target,
	struct fs_owner owner, struct fs_attr *attr)
{
	if (strlen(target) > GF_SYMLINK_MAX)
		return -ENAMETOOLONG;
	if (!*target)
		return -ENOENT;
	return make(fs, parent, name, S_IFLNK | 0777, target, owner, attr);
}

int fs_readlink(struct fs *fs, uint64_t ino, char **target)
{
	struct inode *inode;
	int r = 0;

	pthread_rwlock_rdlock(&fs->tree);
	inode = tree_find(fs, ino);
	if (!inode || !S_ISLNK(inode->mode)) {
		r = inode ? -EINVAL : -ESTALE;
	} else {
		*target = strdup(inode->target);
		r = *target ? 0 : -ENOMEM;
	}
	pthread_rwlock_unlock(&fs->tree);
	return r;
}

/* ---- removing ---- */

int op_add_unlink(struct opbuf *buf, struct inode *inode)
{
	struct gf_op_ino *op;

	if (!OPBUF_ADD(buf, GF_OP_UNLINK, 0, op, 0))
		return -ENOMEM;
	op->ino = inode->ino;
	op->time_ns = now_ns();
	if (inode_is_referenced(inode))
		return 0;
	if (!OPBUF_ADD(buf, GF_OP_DROP, 0, op, 0))
		return -ENOMEM;
	op->ino = inode->ino;
	return 0;
}

/* -EAGAIN: *len bytes are needed for the record. */
static int commit_within(struct fs *fs, struct opbuf *buf, size_t *len)
{
	if (buf->len <= *len)
		return record_commit(fs, buf, NULL);
	*len = buf->len + NAME_OPS_BOUND;
	return -EAGAIN;
}

/* What a name is taken from. */
enum what { WHAT_FILE, WHAT_FOLDER, WHAT_FILE_AND_SNAPSHOTS };

static int add_snapshots_gone(struct fs *fs, struct opbuf *buf, struct inode *inode, enum what what)
{
	struct inode *group = what == WHAT_FILE_AND_SNAPSHOTS ? snapshots_of(fs, inode) : NULL;
	struct snap_build b;
	int r;

	snap_build_begin(fs, &b, buf);
	r = group ? snapshots_add_delete(fs, &b, group->children, group->child_count) :
		    snapshots_add_unlink(fs, &b, inode);
	snap_build_end(&b);
	return r;
}

static int remove_locked(
	struct fs *fs, uint64_t parent, const char *name, enum what what, size_t *len)
{
	bool folder = what == WHAT_FOLDER;
	struct inode *inode;
	struct opbuf buf;
	int r = names_can_make(fs, parent, name);

	if (r != -EEXIST)
		return r ? r : -ENOENT;
	inode = tree_find_name(fs, parent, name, strlen(name));
	if (folder != S_ISDIR(inode->mode))
		return folder ? -ENOTDIR : -EISDIR;
	if (inode->child_count)
		return -ENOTEMPTY;
	opbuf_init(&buf);
	r = add_snapshots_gone(fs, &buf, inode, what);
	if (!r)
		r = op_add_unlink(&buf, inode);
	if (!r)
		r = request_add(&buf, 0);
	if (!r)
		r = commit_within(fs, &buf, len);
	opbuf_release(&buf);
	return r;
}

static int remove_name(struct fs *fs, uint64_t parent, const char *name, enum what what)
{
	size_t len = NAME_OPS_BOUND;
	uint64_t done;
	int r = name_check(name);

	if (r || fs_request_is_done(fs, &done))
		return r;
	do {
		int64_t room = record_reserve_urgent(fs, len);

		if (room < 0)
			return room;
		tree_lock(fs);
		r = remove_locked(fs, parent, name, what, &len);
		pthread_rwlock_unlock(&fs->tree);
		journal_unreserve(fs->journal, room);
	} while (r == -EAGAIN);
	return r;
}

int fs_unlink(struct fs *fs, uint64_t parent, const char *name)
{
	return remove_name(fs, parent, name, WHAT_FILE);
}

int fs_unlink_snapshots(struct fs *fs, uint64_t parent, const char *name)
{
	return remove_name(fs, parent, name, WHAT_FILE_AND_SNAPSHOTS);
}

int fs_rmdir(struct fs *fs, uint64_t parent, const char *name)
{
	return remove_name(fs, parent, name, WHAT_FOLDER);
}

/* ---- renaming ---- */

/* Whether folder is `inode` or lies below it. */
static bool is_below(struct fs *fs, uint64_t folder, const struct inode *inode)
{
	struct inode *dir = tree_find(fs, folder);

	while (dir && dir != fs->root) {
		if (dir == inode)
			return true;
		dir = tree_find(fs, dir->parent);
	}
	return false;
}

/* What stands at the target: may it be replaced? */
static int can_replace(struct inode *inode, struct inode *other, unsigned flags)
{
	if (flags & RENAME_NOREPLACE)
		return -EEXIST;
	if (flags & RENAME_EXCHANGE)
		return 0;
	if (S_ISDIR(other->mode) && !S_ISDIR(inode->mode))
		return -EISDIR;
	if (!S_ISDIR(other->mode) && S_ISDIR(inode->mode))
		return -ENOTDIR;
	return other->child_count ? -ENOTEMPTY : 0;
}

static int check_rename(struct fs *fs, uint64_t parent, const char *name, uint64_t new_parent,
	const char *new_name, unsigned flags, struct inode **inode, struct inode **other)
{
	int r = names_can_make(fs, parent, name);

	if (r != -EEXIST)
		return r ? r : -ENOENT;
	*inode = tree_find_name(fs, parent, name, strlen(name));
	*other = NULL;
	r = names_can_make(fs, new_parent, new_name);
	if (r == -EEXIST) {
		*other = tree_find_name(fs, new_parent, new_name, strlen(new_name));
		r = *other == *inode ? 0 : can_replace(*inode, *other, flags);
	} else if (!r && (flags & RENAME_EXCHANGE)) {
		r = -ENOENT;
	}
	if (r)
		return r;
	if (is_below(fs, new_parent, *inode))
		return -EINVAL;
	if ((flags & RENAME_EXCHANGE) && is_below(fs, parent, *other))
		return -EINVAL;
	return 0;
}

static int rename_locked(struct fs *fs, uint64_t parent, const char *name, uint64_t new_parent,
	const char *new_name, unsigned flags, size_t *len)
{
	struct inode *inode, *other;
	struct snap_build b;
	struct gf_op_rename *op;
	struct gf_op_ino *drop;
	struct opbuf buf;
	int r;

	r = check_rename(fs, parent, name, new_parent, new_name, flags, &inode, &other);
	if (r || other == inode)
		return r;
	opbuf_init(&buf);
	snap_build_begin(fs, &b, &buf);
	r = snapshots_add_rename(
		fs, &b, inode, other, new_parent, new_name, flags & RENAME_EXCHANGE);
	snap_build_end(&b);
	if (OPBUF_ADD(&buf, GF_OP_RENAME, !!(flags & RENAME_EXCHANGE), op, strlen(new_name))) {
		op->ino = inode->ino;
		op->parent = new_parent;
		op->other = other ? other->ino : 0;
		op->time_ns = now_ns();
		op->name_len = strlen(new_name);
		memcpy(op + 1, new_name, op->name_len);
	}
	if (other && !(flags & RENAME_EXCHANGE) && !inode_is_referenced(other) &&
		OPBUF_ADD(&buf, GF_OP_DROP, 0, drop, 0))
		drop->ino = other->ino;
	if (!r)
		r = request_add(&buf, 0);
	if (!r)
		r = commit_within(fs, &buf, len);
	opbuf_release(&buf);
	return r;
}

int fs_rename(struct fs *fs, uint64_t parent, const char *name, uint64_t new_parent,
	const char *new_name, unsigned flags)
{
	size_t len = NAME_OPS_BOUND;
	uint64_t done;
	int r = name_check(name);

	if (!r)
		r = name_check(new_name);
	if (!r && flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE))
		r = -EINVAL;
	if (r || fs_request_is_done(fs, &done))
		return r;
	do {
		int64_t room = record_reserve(fs, len);

		if (room < 0)
			return room;
		tree_lock(fs);
		r = rename_locked(fs, parent, name, new_parent, new_name, flags, &len);
		pthread_rwlock_unlock(&fs->tree);
		journal_unreserve(fs->journal, room);
	} while (r == -EAGAIN);
	return r;
}
