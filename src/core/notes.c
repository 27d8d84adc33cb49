/* SPDX-License-Identifier: MIT */
/*
 * Notes to a successor: what a process came to know that neither the store nor the page cache tells.
 *
 *   FAILED   the store failed, or a layer. The kernel tells of a failed sync once; after that the
 *            pages count as clean, and a process that starts anew could sync them "with success".
 *            So it is noted before anybody hears of it, and a successor is as read-only as its
 *            predecessor was. A new mount starts from what is durable and gets no notes.
 *   OPS      what was applied and not recorded, because nothing may be written: the numbers of
 *            golden images on a read-only mount. The kernel knows them, and the same number must
 *            not become another image's.
 *
 * They are kept by whoever keeps the connection (hooks.keep), in the order in which they were made.
 */
#include "core/fs_internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/sizes.h"

enum note_type { NOTE_OPS = 1, NOTE_STORE_FAILED = 2, NOTE_LAYER_FAILED = 3 };

struct note {
	uint32_t type;
	uint32_t len; /* of what follows, without padding to 8 */
	uint64_t layer;
	int64_t error;
};

static int keep(struct fs *fs, struct note note, const void *bytes, bool urgent)
{
	size_t len = sizeof(note) + round_up(note.len, 8);
	CLEANUP_FREE char *all = calloc(1, len);

	if (!fs->options.hooks.keep)
		return 0;
	if (!all)
		return -ENOMEM;
	memcpy(all, &note, sizeof(note));
	memcpy(all + sizeof(note), bytes, note.len);
	return fs->options.hooks.keep(fs->options.hooks.arg, all, len, urgent);
}

int note_ops(struct fs *fs, const struct opbuf *buf)
{
	return keep(fs, (struct note){.type = NOTE_OPS, .len = (uint32_t)buf->len}, buf->bytes, false);
}

void note_journal_failed(void *arg, int err)
{
	struct fs *fs = arg;

	keep(fs, (struct note){.type = NOTE_STORE_FAILED, .error = err}, "", true);
}

void note_layer_failed(struct fs *fs, const struct layer *layer, int err, const char *why)
{
	keep(fs, (struct note){.type = NOTE_LAYER_FAILED, .len = (uint32_t)strlen(why),
			.layer = layer->id, .error = err}, why, true);
}

static int heed(struct fs *fs, const struct note *note, const char *bytes)
{
	struct apply how = {.meta = true};
	struct layer *layer;
	char why[128] = "";

	switch ((enum note_type)note->type) {
	case NOTE_OPS:
		return apply_ops(fs, bytes, note->len, &how);
	case NOTE_STORE_FAILED:
		atomic_store(&fs->failed, (int)note->error);
		snprintf(fs->failed_why, sizeof(fs->failed_why),
			"the disk below failed before the daemon was restarted");
		journal_fail(fs->journal, (int)note->error);
		log_error((int)note->error, "the store failed before this process took over and stays "
					    "read-only; look at the disk below, then mount again");
		return 0;
	case NOTE_LAYER_FAILED:
		layer = tree_find_layer(fs, note->layer);
		memcpy(why, bytes, min_u64(note->len, sizeof(why) - 1));
		if (layer)
			layer_stays_failed(fs, layer, (int)note->error, why);
		return 0;
	default:
		return -EUCLEAN;
	}
}

int notes_heed(struct fs *fs)
{
	const char *at = fs->options.kept;
	size_t left = fs->options.kept_len;

	while (left >= sizeof(struct note)) {
		struct note note;
		size_t len;
		int r;

		memcpy(&note, at, sizeof(note));
		len = sizeof(note) + round_up(note.len, 8);
		if (len > left)
			return -EUCLEAN;
		r = heed(fs, &note, at + sizeof(note));
		if (r)
			return r;
		at += len;
		left -= len;
	}
	return left ? -EUCLEAN : 0;
}
