/* SPDX-License-Identifier: MIT */
/*
 * Writing promoted clones into the folder of images, in the background.
 *
 * Guests come first: whenever one asked something of the mount while a piece was copied, the next piece
 * waits three times as long as that one took. Space comes before that: what clones may not take because
 * of the reserve is not taken here either.
 *
 * What is there of an earlier attempt is gone on with (image/publish.h). A crash at any moment leaves
 * the promoted file in the store, the image in its folder, or both; then the next attempt finds that
 * the image is complete.
 */
#include "core/promote.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/sizes.h"
#include "base/times.h"
#include "image/publish.h"

#define PIECE (1 * MIB)
#define HOLE (64 * KIB)		 /* zeros that become a hole, aligned */
#define PAUSE_MAX_NS 200000000LL /* for guests, per piece */

struct writing {
	struct fs *fs;
	struct inode *inode; /* referenced */
	struct publish publish;
	uint64_t size;
	uint64_t rate;
	int64_t start_ns;
	uint64_t copied; /* bytes, for the rate */
	uint8_t *buf;	 /* PIECE bytes */
	bool (*progress)(void *arg, uint64_t done, uint64_t total);
	void *arg;
};

static void pause_for(int64_t ns)
{
	struct timespec pause = {.tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000};

	nanosleep(&pause, NULL);
}

static uint64_t guest_requests(struct fs *fs)
{
	return atomic_load(&fs->counters.read_ops) + atomic_load(&fs->counters.write_ops) +
	       atomic_load(&fs->counters.flushes);
}

/* How long to wait after a piece that took so long. */
static int64_t pause_after(struct writing *w, int64_t took_ns, uint64_t requests)
{
	int64_t pause = 0;

	if (guest_requests(w->fs) != requests)
		pause = 3 * took_ns > PAUSE_MAX_NS ? PAUSE_MAX_NS : 3 * took_ns;
	if (w->rate) {
		double due = (double)w->copied / (double)w->rate * 1e9;
		int64_t spent = times_now(CLOCK_MONOTONIC) - w->start_ns;

		if (due > (double)(spent + pause))
			pause = (int64_t)due - spent;
	}
	return pause;
}

/* Waits so that it can be stopped. */
static int give_way(struct writing *w, int64_t pause, uint64_t done)
{
	while (pause > 0) {
		pause_for(pause > PAUSE_MAX_NS ? PAUSE_MAX_NS : pause);
		pause -= PAUSE_MAX_NS;
		if (w->progress && w->progress(w->arg, done, w->size))
			return -ECANCELED;
	}
	return 0;
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
	uint64_t requests = guest_requests(w->fs), at = *off;
	size_t len = min_u64(end - at, PIECE - at % PIECE);
	int64_t start = times_now(CLOCK_MONOTONIC);
	int r;

	if (w->progress && w->progress(w->arg, at, w->size))
		return -ECANCELED;
	r = w->publish.staged ? space_check(w->fs, len) : 0;
	if (!r)
		r = read_piece(w, at, len);
	if (!r)
		r = put_piece(w, at, len);
	if (r)
		return r;
	*off += len;
	w->copied += len;
	return give_way(w,
		pause_after(w, times_now(CLOCK_MONOTONIC) - start, requests), *off);
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

int fs_promote_write(struct fs *fs, uint64_t ino, uint64_t rate,
	bool (*progress)(void *arg, uint64_t done, uint64_t total), void *arg)
{
	struct writing w = {.fs = fs, .publish = PUBLISH_INIT, .rate = rate, .progress = progress,
		.arg = arg, .start_ns = times_now(CLOCK_MONOTONIC)};
	CLEANUP_FREE char *path = NULL;
	CLEANUP_FREE uint8_t *buf = malloc(PIECE);
	int r = fs_writable(fs);

	if (r || !buf)
		return r ? r : -ENOMEM;
	w.buf = buf;
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
