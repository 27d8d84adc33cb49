/* SPDX-License-Identifier: MIT */
/*
 * Writing promoted clones into the folder of images, in the background.
 *
 * Guests come first (pace.h). Space comes before that: what clones may not take because of the reserve is
 * not taken here either.
 *
 * What is there of an earlier attempt is gone on with (image/publish.h). A crash at any moment leaves
 * the promoted file in the store, the image in its folder, or both; then the next attempt finds that
 * the image is complete.
 */
#include "core/promote.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/sizes.h"
#include "base/times.h"
#include "core/pace.h"
#include "image/publish.h"

#define PIECE (1 * MIB)
#define HOLE (64 * KIB)		 /* zeros that become a hole, aligned */

struct writing {
	struct fs *fs;
	struct inode *inode; /* referenced */
	struct publish publish;
	uint64_t size;
	struct pace pace;
	uint64_t done, unsynced;
	uint8_t *buf; /* PIECE bytes */
	bool (*progress)(void *arg, uint64_t done, uint64_t total);
	void *arg;
};

static bool is_told_to_stop(void *arg)
{
	struct writing *w = arg;

	w->pace.rate = promote_rate(w->fs, w->inode->ino);
	return w->progress && w->progress(w->arg, w->done, w->size);
}

static int read_piece(struct writing *w, uint64_t off, size_t len)
{
	size_t blocks = round_up(len, GF_BLOCK_SIZE) / GF_BLOCK_SIZE;
	unsigned token = drain_enter(&w->fs->readers);
	int r = volume_read_blocks(w->fs, atomic_load(&w->inode->layer), w->buf, off / GF_BLOCK_SIZE,
		blocks, READ_CHECKED);

	drain_leave(&w->fs->readers, token);
	return r ? volume_error(w->fs, r) : 0;
}

/* Runs of zeros, and what is between them. */
static int put_piece(struct writing *w, uint64_t off, size_t len)
{
	int r = 0;

	for (size_t at = 0; at < len && !r; at += HOLE) {
		size_t n = min_u64(HOLE, len - at);

		r = is_zero(w->buf + at, n) ? publish_hole(&w->publish, off + at, off + at + n) :
					      publish_put(&w->publish, w->buf + at, n, off + at);
	}
	return r;
}

/* Up to a whole piece from off on; *off moves. */
static int copy_piece(struct writing *w, uint64_t *off, uint64_t end)
{
	size_t len = min_u64(end - *off, PIECE - *off % PIECE);
	int64_t start = times_now(CLOCK_MONOTONIC);
	int r;

	w->done = *off;
	if (is_told_to_stop(w))
		return -ECANCELED;
	r = w->publish.staged ? space_check(w->fs, len) : 0;
	if (!r)
		r = read_piece(w, *off, len);
	if (!r)
		r = put_piece(w, *off, len);
	w->unsynced += len;
	if (!r && w->unsynced >= PACE_SYNC_BYTES) {
		w->unsynced = 0;
		r = publish_write_back(&w->publish, pace_gives_way(&w->pace));
	}
	if (r)
		return r;
	*off += len;
	w->done = *off;
	return pace_after(&w->pace, start, len, is_told_to_stop, w) ? -ECANCELED : 0;
}

static int copy_all(struct writing *w)
{
	uint64_t off = 0;
	int r = 0;

	while (off < w->size && !r) {
		int64_t data = fs_seek(w->fs, w->inode->ino, off, SEEK_DATA), hole;

		if (data < 0 && data != -ENXIO)
			return (int)data;
		/* Pieces are whole blocks of the clone. */
		data = data < 0 ? (int64_t)w->size : (int64_t)round_down((uint64_t)data, HOLE);
		if ((uint64_t)data > off)
			r = publish_hole(&w->publish, off, (uint64_t)data);
		off = max_u64(off, (uint64_t)data);
		if (r || off >= w->size)
			break;
		hole = fs_seek(w->fs, w->inode->ino, off, SEEK_HOLE);
		if (hole >= 0 && (uint64_t)hole <= off) /* rounded down into a hole */
			hole = (int64_t)min_u64(off + HOLE, w->size);
		if (hole < 0)
			return (int)hole;
		hole = (int64_t)min_u64(round_up((uint64_t)hole, HOLE), w->size);
		while (off < (uint64_t)hole && !r)
			r = copy_piece(w, &off, (uint64_t)hole);
	}
	return r;
}

static int write_image(struct writing *w, const char *path)
{
	struct fs_attr attr;
	int r;

	r = publish_begin(&w->publish, w->fs->options.images, path, w->fs->options.store_fd,
		w->inode->ino);
	if (r)
		return r < 0 ? r : 0;
	inode_attr(w->fs, w->inode, &attr);
	r = copy_all(w);
	return r ? r : publish_finish(&w->publish, w->size, attr.mode & 07777, attr.mtime_ns);
}

/* The promoted file, with a reference, and its path. */
static struct inode *take(struct fs *fs, uint64_t ino, char **path)
{
	struct inode *inode;

	pthread_rwlock_rdlock(&fs->tree);
	inode = tree_find(fs, ino);
	if (inode && inode->parent == FS_INO_PROMOTED)
		*path = strdup(inode->key->name);
	if (*path)
		atomic_fetch_add(&inode->lookups, 1);
	pthread_rwlock_unlock(&fs->tree);
	return *path ? inode : NULL;
}

int fs_promote_write(struct fs *fs, uint64_t ino,
	bool (*progress)(void *arg, uint64_t done, uint64_t total), void *arg)
{
	struct writing w = {.fs = fs, .publish = PUBLISH_INIT, .progress = progress, .arg = arg};
	CLEANUP_FREE char *path = NULL;
	CLEANUP_FREE uint8_t *buf = malloc(PIECE);
	int r = fs_writable(fs);

	if (r || !buf)
		return r ? r : -ENOMEM;
	w.buf = buf;
	pace_init(&w.pace, fs, promote_rate(fs, ino));
	w.inode = take(fs, ino, &path);
	if (!w.inode)
		return -ENOENT;
	w.size = atomic_load(&w.inode->size);
	r = fs->options.images ? write_image(&w, path) : 0;
	publish_release(&w.publish);
	if (!r)
		r = promote_end(fs, ino);
	fs_forget(fs, ino, 1);
	if (!r && fs->options.images)
		publish_drop(fs->options.store_fd, ino);
	if (!r)
		log_info("golden image \"%s\" is written", path);
	return r;
}

int fs_promote_undo(struct fs *fs, uint64_t ino)
{
	int r = promote_end(fs, ino);

	if (!r && fs->options.images)
		publish_drop(fs->options.store_fd, ino);
	return r;
}

static int sweep_one(void *arg, const char *name)
{
	struct fs *fs = arg;
	uint64_t ino = strtoull(name, NULL, 10);
	struct inode *inode = tree_find(fs, ino);

	if (ino && (!inode || inode->parent != FS_INO_PROMOTED))
		publish_drop(fs->options.store_fd, ino);
	return 0;
}

void promote_sweep(struct fs *fs)
{
	if (fs->options.images && !fs_writable(fs))
		fs->io->ops->list(fs->io, "promoted", sweep_one, fs);
}
