/* SPDX-License-Identifier: MIT */
/*
 * Promotion: a golden image made of a clone.
 *
 * What the clone is at one instant becomes a read-only file of the store, over the frozen layer: that is
 * a clone like any other, and O(1). It is of a kind of its own (GF_KIND_PROMOTED) and stands in a folder
 * of its own, FS_INO_PROMOTED, which nobody sees; its name there is its path below IMAGES. The golden
 * tree shows it under that path, and it can be cloned at once: whatever is made of it stands on the
 * frozen layer.
 *
 *	promoted --> written to IMAGES (promote_write.c) --> removed, as the image's file is there
 *	         \-> given up, and removed
 *
 * Removing it is removing a file: those who have it open keep it, clones of it stay, and what only it
 * held goes. So a promotion needs no record of its own, and at every moment the golden tree has the
 * one, or the other, or both; then the one in the store is shown, and a name that somebody else put
 * there meanwhile is his to take away.
 */
#include "core/promote.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "image/folder.h"

/* How fast it is written at most, an attribute of the promoted file that nobody sees or sets: 8 bytes. */
#define RATE_NAME "user.goldfs.rate"
#define LIST_FIRST (UINT64_C(3) << 61) /* places in a listing: behind those of all files */

/* NULL is allowed. */
static bool is_promoted(const struct inode *inode)
{
	return inode && inode->parent == FS_INO_PROMOTED;
}

int promote_name_check(const char *path)
{
	size_t len = strlen(path);

	if (len > GF_NAME_MAX)
		return -ENAMETOOLONG;
	for (const char *p = path; p; p = strchr(p, '/')) {
		p += p != path;
		/* Nothing that begins with a dot is shown. */
		if (*p == '.' || *p == '/' || !*p)
			return -EINVAL;
	}
	return 0;
}

/* ---- making ---- */

static int make_folder(struct fs *fs)
{
	struct fs_attr attr = {.ino = FS_INO_PROMOTED, .mode = S_IFDIR | 0755};
	struct opbuf buf;
	int64_t room = record_reserve(fs, 256);
	int r = 0;

	if (room < 0)
		return room;
	attr.atime_ns = attr.mtime_ns = attr.ctime_ns = attr.btime_ns = now_ns();
	opbuf_init(&buf);
	tree_lock(fs);
	if (!tree_find(fs, FS_INO_PROMOTED)) {
		r = op_add_inode(&buf, &attr, FS_INO_ROOT, 0, "golden", "", GF_KIND_USER);
		if (!r)
			r = record_commit(fs, &buf, NULL);
	}
	pthread_rwlock_unlock(&fs->tree);
	opbuf_release(&buf);
	journal_unreserve(fs->journal, room);
	return r;
}

static int prepare(struct fs *fs)
{
	/* To a goldfs that does not know promotions, their files would be somebody's. */
	int r = fs_use_feature(fs, GF_INCOMPAT_PROMOTED);

	return r ? r : make_folder(fs);
}

/* Whether the image can come to be there: its folder is, and nothing of its name. */
static int check_place(struct fs *fs, const char *path)
{
	CLEANUP_FREE char *folder = NULL;
	const char *slash = strrchr(path, '/');
	struct stat st;
	int r;

	if (!fs->options.images)
		return fs->options.golden_test ? 0 : -ENOENT;
	folder = strndup(path, slash ? (size_t)(slash - path) : 0);
	if (!folder)
		return -ENOMEM;
	r = folder_stat(fs->options.images, folder, &st);
	if (!r && !S_ISDIR(st.st_mode))
		r = -ENOTDIR;
	if (r)
		return r;
	r = folder_stat(fs->options.images, path, &st);
	return r == -ENOENT ? 0 : r ? r : -EEXIST;
}

int promote_add_rate(struct opbuf *buf, uint64_t ino, uint64_t rate)
{
	return op_add_xattr(buf, ino, RATE_NAME, &rate, sizeof(rate), false);
}

uint64_t promote_rate(struct fs *fs, uint64_t ino)
{
	struct inode *inode;
	uint64_t rate = 0;

	pthread_rwlock_rdlock(&fs->tree);
	inode = tree_find(fs, ino);
	if (inode) {
		MUTEX_GUARD(&inode->lock);
		for (const struct xattr *x = inode->xattrs; x; x = x->next)
			if (strcmp(x->name, RATE_NAME) == 0 && x->len == sizeof(rate))
				memcpy(&rate, x->value, sizeof(rate));
	}
	pthread_rwlock_unlock(&fs->tree);
	return rate;
}

int fs_promote_set_rate(struct fs *fs, uint64_t ino, uint64_t rate)
{
	const struct inode *inode;
	struct opbuf buf;
	int64_t room;
	int r = -ENOENT;

	if (promote_rate(fs, ino) == rate)
		return 0;
	room = record_reserve(fs, 256);
	if (room < 0)
		return (int)room;
	opbuf_init(&buf);
	tree_lock(fs);
	inode = tree_find(fs, ino);
	if (is_promoted(inode))
		r = promote_add_rate(&buf, ino, rate);
	if (!r)
		r = record_commit(fs, &buf, NULL);
	pthread_rwlock_unlock(&fs->tree);
	opbuf_release(&buf);
	journal_unreserve(fs->journal, room);
	return r;
}

int fs_promote(struct fs *fs, uint64_t ino, const char *path, uint64_t rate, uint64_t *promoted)
{
	struct fs_clone_target target = {.parent = FS_INO_PROMOTED, .name = path};
	struct fs_attr attr;
	struct inode *inode;
	int r = promote_name_check(path);

	if (r)
		return r;
	inode = volume_find(fs, ino, &r);
	if (!inode)
		return r;
	if (inode->kind == GF_KIND_GOLDEN)
		return -EINVAL;
	r = fs_writable(fs);
	if (!r)
		r = check_place(fs, path);
	if (!r)
		r = fs_getattr(fs, ino, &attr);
	if (!r)
		r = prepare(fs);
	if (!r)
		r = clone_promoted(fs, ino, &target, 0600 | (attr.mode & 0044), rate);
	if (r)
		return r;
	pthread_rwlock_rdlock(&fs->tree);
	inode = promote_find(fs, path);
	*promoted = inode ? inode->ino : 0;
	pthread_rwlock_unlock(&fs->tree);
	return fs_sync_others(fs);
}

/* ---- the golden tree ---- */

struct inode *promote_find(struct fs *fs, const char *path)
{
	return tree_find_name(fs, FS_INO_PROMOTED, path, strlen(path));
}

bool promote_lookup(struct fs *fs, const char *path, struct fs_attr *attr)
{
	struct inode *inode;

	pthread_rwlock_rdlock(&fs->tree);
	inode = promote_find(fs, path);
	if (inode) {
		inode_looked_up(inode);
		inode_attr(fs, inode, attr);
	}
	pthread_rwlock_unlock(&fs->tree);
	return inode != NULL;
}

/* The promoted file with the lowest number above ino, in a folder of the golden tree (NULL: in any):
 * its path. */
static char *next_path(struct fs *fs, const char *folder, uint64_t *ino, struct fs_attr *attr)
{
	size_t len = folder ? strlen(folder) : 0;
	struct inode *dir;
	char *path = NULL;

	pthread_rwlock_rdlock(&fs->tree);
	dir = tree_find(fs, FS_INO_PROMOTED);
	for (size_t i = 0; dir && i < dir->child_count && !path; i++) {
		struct inode *inode = dir->children[i];
		const char *name = inode->key->name;
		const char *tail = name + len + (len > 0);

		if (inode->ino <= *ino)
			continue;
		if (folder && ((len && (strncmp(name, folder, len) || name[len] != '/')) ||
				      strchr(tail, '/')))
			continue;
		path = strdup(name);
		*ino = inode->ino;
		inode_attr(fs, inode, attr);
	}
	pthread_rwlock_unlock(&fs->tree);
	return path;
}

int promote_list(struct fs *fs, const char *folder, uint64_t cookie,
	int (*cb)(void *arg, const char *name, const struct fs_attr *attr, uint64_t next), void *arg)
{
	uint64_t ino = cookie > LIST_FIRST ? cookie - LIST_FIRST : 0;
	struct fs_attr attr;
	char *path;
	int r = 0;

	while (!r && (path = next_path(fs, folder, &ino, &attr))) {
		const char *slash = strrchr(path, '/');
		struct stat st;

		/* Shown already when somebody put a file there. */
		if (!fs->options.images || folder_stat(fs->options.images, path, &st))
			r = cb(arg, slash ? slash + 1 : path, &attr, LIST_FIRST + ino);
		free(path);
	}
	return r;
}

uint64_t promote_list_cookie(uint64_t cookie)
{
	return cookie >= LIST_FIRST ? LIST_FIRST : cookie;
}

/* ---- for who writes them ---- */

int fs_promotion_next(struct fs *fs, uint64_t *ino, char **path)
{
	struct fs_attr attr;

	*path = next_path(fs, NULL, ino, &attr);
	return *path ? 0 : -ENOENT;
}

bool fs_is_promotion(struct fs *fs, uint64_t ino)
{
	const struct inode *inode;
	bool is;

	pthread_rwlock_rdlock(&fs->tree);
	inode = tree_find(fs, ino);
	is = is_promoted(inode);
	pthread_rwlock_unlock(&fs->tree);
	return is;
}

/* As a file is removed. */
static int remove_promoted(struct fs *fs, uint64_t ino)
{
	int64_t room = record_reserve_urgent(fs, 256);
	struct inode *inode;
	struct opbuf buf;
	int r = 0;

	if (room < 0)
		return room;
	opbuf_init(&buf);
	tree_lock(fs);
	inode = tree_find(fs, ino);
	if (!is_promoted(inode))
		r = -ENOENT;
	else
		r = op_add_unlink(&buf, inode);
	if (!r)
		r = record_commit(fs, &buf, NULL);
	pthread_rwlock_unlock(&fs->tree);
	opbuf_release(&buf);
	journal_unreserve(fs->journal, room);
	return r;
}

int promote_end(struct fs *fs, uint64_t ino)
{
	int r = remove_promoted(fs, ino);

	return r ? r : fs_sync_others(fs);
}
