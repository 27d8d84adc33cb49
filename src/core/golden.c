/* SPDX-License-Identifier: MIT */
/*
 * The golden tree as the mount shows it: every image below IMAGES, live.
 *
 * Something below IMAGES gets a number when it is first looked up, kept in the catalog by its path,
 * so that node ids stay the same over restarts. When another file takes the path (an image replaced
 * by mv) it gets a number of its own: what the kernel has cached of the old one is never mixed with
 * it. Attributes are always the file's own. Nothing here is ever opened for writing.
 */
#include "core/promote.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/sizes.h"
#include "base/times.h"
#include "image/folder.h"

static void stat_to_attr(const struct stat *st, uint64_t ino, struct fs_attr *attr)
{
	*attr = (struct fs_attr){
		.ino = ino,
		.mode = st->st_mode,
		.nlink = S_ISDIR(st->st_mode) ? st->st_nlink : 1,
		.uid = st->st_uid,
		.gid = st->st_gid,
		.size = S_ISDIR(st->st_mode) ? 0 : st->st_size,
		.blocks = st->st_blocks,
		.atime_ns = times_ns(st->st_atim),
		.mtime_ns = times_ns(st->st_mtim),
		.ctime_ns = times_ns(st->st_ctim),
		.btime_ns = times_ns(st->st_mtim),
	};
}

static bool is_same_file(const struct inode *inode, const struct stat *st)
{
	return inode->golden_dev == st->st_dev && inode->golden_node == st->st_ino &&
	       (inode->mode & S_IFMT) == (st->st_mode & S_IFMT);
}

/* ---- numbers ---- */

static struct inode *find_node(struct fs *fs, const char *path)
{
	struct inode *inode;

	HASH_FIND(by_path, fs->golden_nodes, path, strlen(path), inode);
	return inode;
}

/* A new number for path; what had the path before keeps its own until it is forgotten. */
static int make_node_locked(struct fs *fs, const char *path, const struct stat *st,
	struct inode **inode)
{
	struct fs_attr attr;
	struct opbuf buf;
	int r;

	opbuf_init(&buf);
	stat_to_attr(st, fs->next_ino, &attr);
	attr.size = st->st_ino;
	r = op_add_inode(&buf, &attr, 0, st->st_dev, "", path, GF_KIND_GOLDEN);
	if (!r && fs_writable(fs)) {
		/* For as long as the mount lives. */
		struct apply how = {.meta = true};

		r = note_ops(fs, &buf);
		if (!r)
			r = apply_ops(fs, buf.bytes, buf.len, &how);
	} else if (!r) {
		r = record_commit(fs, &buf, NULL);
	}
	opbuf_release(&buf);
	*inode = r ? NULL : tree_find(fs, attr.ino);
	return r;
}

/* The node for path, which is the file st describes. Counts a reference. */
static int node_for(struct fs *fs, const char *path, const struct stat *st, struct inode **inode)
{
	int64_t room = 0;
	int r = 0;

	pthread_rwlock_rdlock(&fs->tree);
	*inode = find_node(fs, path);
	if (*inode && is_same_file(*inode, st))
		atomic_fetch_add(&(*inode)->lookups, 1);
	else
		*inode = NULL;
	pthread_rwlock_unlock(&fs->tree);
	if (*inode)
		return 0;
	if (!fs_writable(fs))
		room = record_reserve_urgent(fs, sizeof(struct gf_op_inode) + GF_PATH_MAX);
	if (room < 0)
		return room;
	tree_lock(fs);
	*inode = find_node(fs, path);
	if (!*inode || !is_same_file(*inode, st))
		r = make_node_locked(fs, path, st, inode);
	if (!r)
		atomic_fetch_add(&(*inode)->lookups, 1);
	pthread_rwlock_unlock(&fs->tree);
	if (room)
		journal_unreserve(fs->journal, room);
	return r;
}

/* ---- tests without a folder: images are called by their numbers ---- */

static int test_lookup(struct fs *fs, const char *name, struct fs_attr *attr)
{
	uint64_t id = strtoull(name, NULL, 10);
	struct image *img = id ? fs->options.golden_test(fs->options.golden_test_arg, id) : NULL;
	struct stat st = {.st_mode = S_IFREG | 0644, .st_ino = id, .st_dev = 1};
	struct inode *inode;
	int r;

	if (!img)
		return -ENOENT;
	st.st_size = img->size;
	st.st_blocks = img->size / 512;
	r = node_for(fs, name, &st, &inode);
	if (!r)
		stat_to_attr(&st, inode->ino, attr);
	return r;
}

/* ---- the tree ---- */

int golden_lookup(struct fs *fs, struct inode *dir, const char *name, struct fs_attr *attr)
{
	CLEANUP_FREE char *path = NULL;
	struct inode *inode;
	struct stat st;
	int r;

	if (asprintf(&path, "%s%s%s", dir ? dir->target : "", dir ? "/" : "", name) < 0)
		return -ENOMEM;
	if (promote_lookup(fs, path, attr))
		return 0;
	if (fs->options.golden_test)
		return test_lookup(fs, name, attr);
	if (!fs->options.images)
		return -ENOENT;
	if (strlen(path) > GF_PATH_MAX)
		return -ENAMETOOLONG;
	r = folder_stat(fs->options.images, path, &st);
	if (r)
		return r;
	r = node_for(fs, path, &st, &inode);
	if (!r)
		stat_to_attr(&st, inode->ino, attr);
	return r;
}

/* Attributes of a file that is open although its name is gone. */
static int open_attr(struct inode *inode, struct fs_attr *attr)
{
	struct stat st;

	MUTEX_GUARD(&inode->lock);
	if (!inode->golden_image || fstat(image_raw_fd(inode->golden_image), &st))
		return -ESTALE;
	stat_to_attr(&st, inode->ino, attr);
	return 0;
}

int golden_getattr(struct fs *fs, struct inode *inode, struct fs_attr *attr)
{
	struct stat st = {.st_mode = S_IFDIR | 0755, .st_nlink = 2};
	int r = 0;

	if (inode && fs->options.golden_test) {
		r = test_lookup(fs, inode->target, attr);
		fs_forget(fs, inode->ino, 1);
		return r;
	}
	if (!fs->options.golden_test && !fs->options.images)
		return -ENOENT;
	if (fs->options.images)
		r = folder_stat(fs->options.images, inode ? inode->target : "", &st);
	if (inode && (r == -ENOENT || (!r && !is_same_file(inode, &st))))
		return open_attr(inode, attr);
	if (!r)
		stat_to_attr(&st, inode ? inode->ino : FS_INO_GOLDEN, attr);
	/* As in any folder, but nobody may write below here. */
	return r;
}

struct golden_listing {
	struct fs *fs;
	struct inode *dir;
	int (*cb)(void *arg, const char *name, const struct fs_attr *attr, uint64_t next);
	void *arg;
};

static int list_entry(void *arg, const char *name, const struct stat *st, uint64_t place)
{
	struct golden_listing *l = arg;
	CLEANUP_FREE char *path = NULL;
	struct inode *inode;
	struct fs_attr attr;
	int r;

	if (asprintf(&path, "%s%s%s", l->dir ? l->dir->target : "", l->dir ? "/" : "", name) < 0)
		return -ENOMEM;
	r = node_for(l->fs, path, st, &inode);
	if (r)
		return r;
	stat_to_attr(st, inode->ino, &attr);
	fs_forget(l->fs, inode->ino, 1);
	return l->cb(l->arg, name, &attr, place);
}

int golden_list(struct fs *fs, struct inode *dir, uint64_t cookie,
	int (*cb)(void *arg, const char *name, const struct fs_attr *attr, uint64_t next),
	void *arg)
{
	struct golden_listing l = {.fs = fs, .dir = dir, .cb = cb, .arg = arg};
	const char *path = dir ? dir->target : "";
	int r = 0;

	if (dir && !S_ISDIR(dir->mode))
		return -ENOTDIR;
	if (fs->options.images)
		r = folder_list(fs->options.images, path, promote_list_cookie(cookie), list_entry, &l);
	return r ? r : promote_list(fs, path, cookie, cb, arg);
}

uint64_t golden_parent(struct fs *fs, const char *target)
{
	const char *slash = strrchr(target, '/');
	CLEANUP_FREE char *path = NULL;
	struct inode *dir;

	if (!slash)
		return FS_INO_GOLDEN;
	path = strndup(target, slash - target);
	dir = path ? find_node(fs, path) : NULL;
	return dir ? dir->ino : FS_INO_GOLDEN;
}

/* ---- content ---- */

/* Opens the image for reading when that was not done yet. inode.lock held. */
static int open_image_locked(struct fs *fs, struct inode *inode)
{
	CLEANUP_CLOSE int fd = -1;
	struct stat st;
	int r;

	if (inode->golden_image)
		return 0;
	if (!S_ISREG(inode->mode))
		return -EISDIR;
	fd = folder_open_file(fs->options.images, inode->target);
	if (fd < 0)
		return fd == -ENOENT ? -ESTALE : fd;
	if (fstat(fd, &st))
		return -errno;
	if (!is_same_file(inode, &st))
		return -ESTALE;
	r = image_raw_new(&inode->golden_image, fd);
	if (!r)
		fd = -1;
	return r;
}

int golden_open(struct fs *fs, struct inode *inode, bool *keep_cache)
{
	struct stat st;
	int r;

	if (fs->options.golden_test)
		return 0;
	MUTEX_GUARD(&inode->lock);
	r = open_image_locked(fs, inode);
	if (r)
		return r;
	if (fstat(image_raw_fd(inode->golden_image), &st))
		return -errno;
	if (keep_cache) {
		*keep_cache = inode->golden_mtime_ns == times_ns(st.st_mtim);
		inode->golden_mtime_ns = times_ns(st.st_mtim);
	}
	atomic_fetch_add(&inode->opens, 1);
	return 0;
}

void golden_close(struct fs *fs, struct inode *inode)
{
	struct image *img = NULL;

	if (fs->options.golden_test)
		return;
	pthread_rwlock_wrlock(&inode->io); /* nobody is reading from it */
	pthread_mutex_lock(&inode->lock);
	if (atomic_fetch_sub(&inode->opens, 1) == 1)
		img = steal_pointer(&inode->golden_image);
	pthread_mutex_unlock(&inode->lock);
	pthread_rwlock_unlock(&inode->io);
	image_free(img);
}

/* The open image and its size now. inode.io held shared. */
static int usable_image(struct fs *fs, struct inode *inode, struct image **img, uint64_t *size)
{
	struct stat st;
	int r;

	if (fs->options.golden_test) {
		*img = fs->options.golden_test(
			fs->options.golden_test_arg, strtoull(inode->target, NULL, 10));
		*size = *img ? (*img)->size : 0;
		return *img ? 0 : -ENOENT;
	}
	MUTEX_GUARD(&inode->lock);
	r = open_image_locked(fs, inode);
	if (r)
		return r;
	if (fstat(image_raw_fd(inode->golden_image), &st))
		return -errno;
	*img = inode->golden_image;
	*size = st.st_size;
	return 0;
}

/* Looked at without being open (figures): the file must not be kept when its name goes. */
static void close_unused(struct fs *fs, struct inode *inode)
{
	struct image *img = NULL;

	if (fs->options.golden_test || atomic_load(&inode->opens) > 0)
		return;
	pthread_rwlock_wrlock(&inode->io);
	pthread_mutex_lock(&inode->lock);
	if (atomic_load(&inode->opens) == 0)
		img = steal_pointer(&inode->golden_image);
	pthread_mutex_unlock(&inode->lock);
	pthread_rwlock_unlock(&inode->io);
	image_free(img);
}

ssize_t golden_read(struct fs *fs, struct inode *inode, void *buf, size_t len, uint64_t off)
{
	struct image *img;
	uint64_t size;
	ssize_t r;

	pthread_rwlock_rdlock(&inode->io);
	r = usable_image(fs, inode, &img, &size);
	if (!r && off < size) {
		len = min_u64(len, size - off);
		r = img->ops->read(img, buf, len, off);
		if (!r)
			r = len;
	}
	pthread_rwlock_unlock(&inode->io);
	close_unused(fs, inode);
	if (r > 0)
		COUNT(fs, read_bytes, r);
	return r;
}

bool golden_borrow(struct fs *fs, size_t len, uint64_t off, struct fs_borrowed *b)
{
	uint64_t size;

	pthread_rwlock_rdlock(&b->golden->io);
	if (usable_image(fs, b->golden, &b->image, &size) == 0 && off < size && b->image->ops->borrow) {
		b->len = min_u64(len, size - off);
		b->bytes = b->image->ops->borrow(b->image, b->len, off);
	}
	if (!b->bytes)
		golden_give_back(fs, b->golden);
	return b->bytes;
}

void golden_give_back(struct fs *fs, struct inode *inode)
{
	pthread_rwlock_unlock(&inode->io);
	close_unused(fs, inode);
}

int64_t golden_seek(struct fs *fs, struct inode *inode, uint64_t off, int whence)
{
	uint64_t size, start, end;
	struct image *img;
	int64_t r;

	pthread_rwlock_rdlock(&inode->io);
	r = usable_image(fs, inode, &img, &size);
	if (!r && off >= size)
		r = -ENXIO;
	if (!r) {
		r = img->ops->next_data(img, off, &start, &end);
		if (r == -ENXIO && whence == SEEK_HOLE)
			r = off;
		else if (!r)
			r = whence == SEEK_DATA ? max_u64(start, off) :
				start > off ? off : min_u64(end, size);
	}
	pthread_rwlock_unlock(&inode->io);
	close_unused(fs, inode);
	return r;
}
