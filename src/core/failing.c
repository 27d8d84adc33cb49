/* SPDX-License-Identifier: MIT */
/*
 * When the disk below fails: who is concerned, and what goes on.
 *
 * A failed sync says that bytes handed over earlier may be lost, and the next sync of the same
 * pages would say nothing of it. So it is never repeated (design, invariant 6):
 *
 *   - of the files of one layer: what stands there since their last good sync came from the ring
 *     (destaged blocks), where it still is, or went there directly (large writes). Destaged blocks
 *     are taken from the ring once more (carry.c), and if there is nothing else, written again and
 *     synced anew, once. If that fails too, or if large writes that nobody had flushed may be lost,
 *     the layer has failed: its file is read-only from then on, a flush of it is an error, its
 *     pages stay those of the last good checkpoint, and its records are carried on in the ring. So
 *     the next mount finds all of it that was ever claimed to be durable. Other clones go on.
 *   - of the journal, the catalog or a folder: the store as a whole is read-only.
 *
 * The same holds for writes that fail. Reads that fail concern who reads. Lack of space is no
 * failure. A file system below that went read-only or is gone takes the store with it.
 */
#include "core/fs_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"

int fs_fail_because(struct fs *fs, int err, const char *fmt, ...)
{
	char why[sizeof(fs->failed_why)];
	va_list args;

	va_start(args, fmt);
	vsnprintf(why, sizeof(why), fmt, args);
	va_end(args);
	pthread_mutex_lock(&fs->work_lock);
	if (!atomic_load(&fs->failed))
		memcpy(fs->failed_why, why, sizeof(why));
	pthread_mutex_unlock(&fs->work_lock);
	log_error(err, "%s; the store is read-only now, look at the disk below, then mount again",
		why);
	fs_fail(fs, err);
	return err;
}

/* The whole file system below is concerned, not a place on the disk. */
static bool is_gone(int err)
{
	return err == -EROFS || err == -ESTALE || err == -ENODEV || err == -ENOTCONN ||
	       err == -ESHUTDOWN;
}

bool is_passing(int err)
{
	return err == -ENOMEM || err == -EMFILE || err == -ENFILE || err == -EINTR ||
	       err == -EAGAIN;
}

static void set_failed_locked(struct fs *fs, struct layer *layer, int err)
{
	atomic_store(&layer->failed, err);
	atomic_store(&layer->recall, true);
	atomic_fetch_add(&fs->failed_layers, 1);
	atomic_fetch_add(&fs->recalls, 1);
}

void layer_stays_failed(struct fs *fs, struct layer *layer, int err, const char *why)
{
	MUTEX_GUARD(&layer->lock);
	if (atomic_load(&layer->failed))
		return;
	snprintf(layer->failed_why, sizeof(layer->failed_why), "%s", why);
	set_failed_locked(fs, layer, err);
}

void layer_fail(struct fs *fs, struct layer *layer, int err, const char *what)
{
	char why[sizeof(layer->failed_why)];

	snprintf(why, sizeof(why), "cannot %s of \"layer/%" PRIu64 "\"", what, layer->id);
	if (is_gone(err)) {
		fs_fail_because(fs, err, "%s", why);
		return;
	}
	pthread_mutex_lock(&layer->lock);
	if (atomic_load(&layer->failed)) {
		pthread_mutex_unlock(&layer->lock);
		return;
	}
	snprintf(layer->failed_why, sizeof(layer->failed_why), "%.*s: %s",
		(int)sizeof(why) - 40, why, strerrordesc_np(-err));
	note_layer_failed(fs, layer, err, layer->failed_why);
	set_failed_locked(fs, layer, err);
	pthread_mutex_unlock(&layer->lock);
	COUNT(fs, errors, 1);
	log_error(err, "%s; its clone is read-only now and shows after the next mount what was "
		       "synced, look at the disk below, then mount again", why);
	/* Readers must not depend on pages that may be gone. */
	checkpoint_want(fs);
}

bool layer_trouble(struct fs *fs, struct layer *layer, int err, bool lost, const char *what)
{
	if (is_gone(err) || layer->sync_failures++ || atomic_load(&layer->failed) ||
		(lost && layer_has_uncommitted(layer))) {
		layer_fail(fs, layer, err, what);
		return false;
	}
	atomic_store(&layer->recall, true);
	atomic_fetch_add(&fs->recalls, 1);
	log_error(err, "cannot %s of \"layer/%" PRIu64 "\"; its blocks are still in the journal and "
		       "are written again", what, layer->id);
	return true;
}

/* The clone that a layer belongs to, for people. */
static void log_concerned(struct fs *fs, const struct layer *layer)
{
	CLEANUP_FREE char *path = NULL;
	uint64_t ino;

	pthread_rwlock_rdlock(&fs->tree);
	ino = layer->head_of;
	pthread_rwlock_unlock(&fs->tree);
	if (!ino)
		log_warning("layer %" PRIu64 " is frozen; clones that stand on it cannot be flushed",
			layer->id);
	else if (fs_path(fs, ino, &path) == 0)
		log_warning("clone \"%s\" is read-only: %s", path, layer->failed_why);
}

/* The layers to be recalled, each held. */
static size_t collect_recalls(struct fs *fs, struct layer ***list)
{
	struct layer_entry *entry, *next;
	size_t count = 0;

	pthread_rwlock_rdlock(&fs->tree);
	*list = malloc((HASH_COUNT(fs->layers) + 1) * sizeof(**list));
	if (*list) {
		HASH_ITER (hh, fs->layers, entry, next) {
			if (!atomic_load(&entry->layer->recall))
				continue;
			atomic_fetch_add(&entry->layer->users, 1);
			(*list)[count++] = entry->layer;
		}
	}
	pthread_rwlock_unlock(&fs->tree);
	return count;
}

int failing_recall(struct fs *fs)
{
	struct layer **list;
	size_t count;
	int r = 0;

	if (!atomic_exchange(&fs->recalls, 0))
		return 0;
	count = collect_recalls(fs, &list);
	for (size_t i = 0; i < count; i++) {
		struct layer *layer = list[i];

		atomic_store(&layer->recall, false);
		if (atomic_load(&layer->failed)) {
			layer->left_out = true;
			log_concerned(fs, layer);
		}
		if (!r)
			r = carry_recall(fs, layer);
		if (!r && !layer->left_out)
			layer_sync_anew(layer);
		atomic_fetch_sub(&layer->users, 1);
	}
	free(list);
	/* What the ring says cannot be had: nothing can be built on that. */
	if (r)
		fs_fail_because(fs, r, "cannot read the journal again");
	return r;
}

/* The layer of a chain that keeps its file from being written, NULL: none. */
const struct layer *failing_layer(const struct layer *layer)
{
	for (; layer; layer = layer->parent)
		if (atomic_load(&layer->failed))
			return layer;
	return NULL;
}

void failing_state(struct fs *fs, const struct layer *layer, struct fs_info *info)
{
	const struct layer *bad = layer ? failing_layer(layer) : NULL;

	if (info->reason)
		return;
	if (bad) {
		info->state = "read-only";
		info->reason = strdup(bad->failed_why);
	} else if (!layer && atomic_load(&fs->failed)) {
		info->state = "read-only";
		info->reason = strdup(fs->failed_why);
	} else if (!layer && journal_error(fs->journal)) {
		info->state = "read-only";
		info->reason = strdup("the journal cannot be written or synced");
	}
}
