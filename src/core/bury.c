/* SPDX-License-Identifier: MIT */
/*
 * Removing files that nothing refers to any more.
 *
 * The file system below may take minutes for a file of many pieces (an ext4 that is mounted with
 * "discard" on a slow disk frees 500 pieces a second), and nobody can end a process that waits there. No
 * guest may wait for that, as it would if checkpoints did it: the ring becomes full. So a thread does it,
 * and gives the bytes back in pieces that take a moment each before the name goes.
 *
 * When the process ends before, the rest is removed by the next mount, as any file without a layer.
 */
#include "core/fs_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/mutation.h"
#include "base/portion.h"
#include "base/sizes.h"
#include "base/times.h"

struct grave {
	struct grave *next;
	char path[];
};

static void unlink_file(struct fs *fs, const char *path)
{
	int r = SITE("remove a dead layer's files", fs->io->ops->unlink(fs->io, path));

	if (r && r != -ENOENT)
		log_error(r, "cannot remove \"%s\", which is of a removed clone, from the store", path);
	space_given_back(fs);
}

static void bury_now(struct fs *fs, const char *path)
{
	/* Where files are freed lazily (XFS), their space is wanted now. */
	int fd = space_is_tight(fs) ? fs->io->ops->open(fs->io, path, O_RDWR) : -1;

	if (fd >= 0) {
		SITE("empty a dead layer's data before removing it", fs->io->ops->truncate(fs->io, fd, 0));
		fs->io->ops->close(fs->io, fd);
	}
	unlink_file(fs, path);
}

/* Whether one who ends the thread, or the store, does not wait for the rest. */
static bool is_in_haste(struct fs *fs)
{
	MUTEX_GUARD(&fs->burial.lock);
	return fs->burial.in_haste || fs->burial.stopping;
}

static void empty_in_pieces(struct fs *fs, const char *path)
{
	const struct io_ops *ops = fs->io->ops;
	struct portion portion = {.size = 64 * KIB, .least = 64 * KIB, .most = 16 * MIB};
	uint64_t off = 0, start, end;
	int fd = ops->open(fs->io, path, O_RDWR);

	if (fd < 0)
		return;
	while (!is_in_haste(fs) && ops->next_data(fs->io, fd, off, &start, &end) == 0) {
		int64_t began = times_now(CLOCK_MONOTONIC);

		start = round_down(start, GF_BLOCK_SIZE);
		if (ops->punch(fs->io, fd, start, portion.size)) /* no SITE: nobody reads it any more */
			break;
		space_given_back(fs);
		off = start + portion.size;
		portion_took(&portion, portion.size, times_now(CLOCK_MONOTONIC) - began);
	}
	ops->close(fs->io, fd);
}

static void *burial_main(void *arg)
{
	struct fs *fs = arg;
	struct burial *b = &fs->burial;

	pthread_mutex_lock(&b->lock);
	while (!b->stopping) {
		struct grave *grave = b->first;

		if (!grave) {
			pthread_cond_wait(&b->work, &b->lock);
			continue;
		}
		pthread_mutex_unlock(&b->lock);
		empty_in_pieces(fs, grave->path);
		pthread_mutex_lock(&b->lock);
		/* Half empty it is what the next mount finds. */
		if (b->stopping)
			break;
		pthread_mutex_unlock(&b->lock);
		unlink_file(fs, grave->path);
		pthread_mutex_lock(&b->lock);
		b->first = grave->next;
		b->gone++;
		free(grave);
		pthread_cond_broadcast(&b->done);
	}
	pthread_mutex_unlock(&b->lock);
	return NULL;
}

/* False: it has to be done at once. */
static bool bury_later(struct fs *fs, const char *path)
{
	struct burial *b = &fs->burial;
	size_t size = strlen(path) + 1;
	struct grave *grave, **last;

	if (fs->options.no_background || fs->options.read_only)
		return false;
	grave = malloc(sizeof(*grave) + size);
	if (!grave)
		return false;
	grave->next = NULL;
	memcpy(grave->path, path, size);
	MUTEX_GUARD(&b->lock);
	if (!b->runs && pthread_create(&b->thread, NULL, burial_main, fs)) {
		free(grave);
		return false;
	}
	b->runs = true;
	for (last = &b->first; *last; last = &(*last)->next)
		;
	*last = grave;
	b->handed_in++;
	pthread_cond_signal(&b->work);
	return true;
}

void bury_file(struct fs *fs, const char *path)
{
	if (!bury_later(fs, path))
		bury_now(fs, path);
}

bool bury_wait(struct fs *fs)
{
	struct burial *b = &fs->burial;
	uint64_t all;
	bool any;

	MUTEX_GUARD(&b->lock);
	all = b->handed_in;
	any = b->gone < all;
	while (b->gone < all)
		pthread_cond_wait(&b->done, &b->lock);
	return any;
}

bool bury_is_pending(struct fs *fs)
{
	MUTEX_GUARD(&fs->burial.lock);
	return fs->burial.first != NULL;
}

void bury_finish(struct fs *fs)
{
	pthread_mutex_lock(&fs->burial.lock);
	fs->burial.in_haste = true;
	pthread_mutex_unlock(&fs->burial.lock);
	bury_wait(fs);
}

void bury_init(struct fs *fs)
{
	pthread_mutex_init(&fs->burial.lock, NULL);
	pthread_cond_init(&fs->burial.work, NULL);
	pthread_cond_init(&fs->burial.done, NULL);
}

void bury_stop(struct fs *fs)
{
	struct burial *b = &fs->burial;

	if (b->runs) {
		pthread_mutex_lock(&b->lock);
		b->stopping = true;
		pthread_cond_signal(&b->work);
		pthread_mutex_unlock(&b->lock);
		pthread_join(b->thread, NULL);
	}
	while (b->first) {
		struct grave *next = b->first->next;

		free(b->first);
		b->first = next;
	}
	pthread_cond_destroy(&b->done);
	pthread_cond_destroy(&b->work);
	pthread_mutex_destroy(&b->lock);
}
