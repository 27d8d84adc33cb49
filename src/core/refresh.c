/* SPDX-License-Identifier: MIT */
/*
 * Refresh: files become what a golden image is.
 *
 * As a rollback (snapshot.c), but for where the new layer stands. What the files were is kept by
 * automatic snapshots. All files of a call are one record. Their position is none: what comes next
 * stands on no snapshot.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "core/snapshot.h"

#define OPS_BOUND 1024 /* of one file */

struct refresh {
	const uint64_t *inos;
	size_t count;
	bool force;
	const char *keep_as; /* NULL: after the time */
	uint64_t *kept;	     /* what each was is this snapshot; NULL: it is not asked for */
	size_t *failed;
};

static int check_locked(struct fs *fs, const struct refresh *rf)
{
	int r = 0;

	for (size_t i = 0; i < rf->count && !r; i++) {
		struct inode *inode = tree_find(fs, rf->inos[i]);

		*rf->failed = i;
		if (!inode || !inode->key)
			r = -ESTALE;
		else if (S_ISDIR(inode->mode))
			r = -EISDIR;
		else if (inode->kind != GF_KIND_USER || !S_ISREG(inode->mode))
			r = inode->kind != GF_KIND_USER ? -EROFS : -EINVAL;
		else
			r = file_may_replace(inode, rf->force);
		for (size_t k = 0; k < i && !r; k++)
			if (rf->inos[k] == rf->inos[i])
				r = -EINVAL;
	}
	return r;
}

static int add_file(struct fs *fs, struct snap_build *b, struct inode *inode, const struct frozen *at,
	const char *keep_as, uint64_t *kept)
{
	int r = snapshot_keep(fs, b, inode, false, keep_as, kept);

	if (!r)
		r = file_replace(fs, b, inode, at);
	return r ? r : op_add_position(b->buf, inode->ino, 0, true);
}

/* -EAGAIN: *len bytes are needed, or the image's pin is gone. */
static int refresh_locked(struct fs *fs, struct source *src, const struct refresh *rf,
	struct opbuf *buf, size_t *len)
{
	struct snap_build b;
	size_t locked = 0;
	int r = source_freeze(fs, src, buf);

	if (r == -EAGAIN)
		return r;
	snap_build_begin(fs, &b, buf);
	if (!r)
		r = check_locked(fs, rf);
	/* Nobody else locks several: he would need the tree for it. */
	while (!r && locked < rf->count)
		pthread_rwlock_wrlock(&tree_find(fs, rf->inos[locked++])->io);
	for (size_t i = 0; i < rf->count && !r; i++) {
		uint64_t kept;

		*rf->failed = i;
		r = add_file(fs, &b, tree_find(fs, rf->inos[i]), &src->at, rf->keep_as, &kept);
		if (!r && rf->kept)
			rf->kept[i] = kept;
	}
	if (!r)
		r = request_add(buf, rf->count);
	if (!r && buf->len > *len) {
		*len = buf->len + OPS_BOUND;
		r = -EAGAIN;
	}
	if (!r)
		r = record_commit(fs, buf, NULL);
	while (locked)
		pthread_rwlock_unlock(&tree_find(fs, rf->inos[--locked])->io);
	source_thaw(src);
	snap_build_end(&b);
	return r;
}

static int refresh(struct fs *fs, uint64_t golden, bool opaque, const struct refresh *rf, size_t *len)
{
	struct source src;
	struct opbuf buf;
	int64_t room = record_reserve(fs, *len);
	int r;

	if (room < 0)
		return room;
	opbuf_init(&buf);
	r = source_begin(fs, golden, opaque, &buf, &src);
	if (!r) {
		tree_lock(fs);
		r = src.inode->kind == GF_KIND_GOLDEN ? refresh_locked(fs, &src, rf, &buf, len) :
							-EINVAL;
		source_end(fs, &src, r);
		pthread_rwlock_unlock(&fs->tree);
		fs_forget(fs, golden, 1);
	}
	opbuf_release(&buf);
	journal_unreserve(fs->journal, room);
	return r;
}

int fs_refresh(struct fs *fs, const uint64_t *inos, size_t count, uint64_t golden, bool force,
	bool opaque, const char *keep_as, uint64_t *kept, size_t *failed)
{
	const struct refresh rf = {inos, count, force, keep_as, kept, failed};
	size_t len = SOURCE_OPS_BOUND + 4096 + count * OPS_BOUND;
	int r = fs_use_feature(fs, GF_INCOMPAT_SNAPSHOTS);

	*failed = 0;
	if (r)
		return r;
	do {
		r = refresh(fs, golden, opaque, &rf, &len);
	} while (r == -EAGAIN);
	if (!r)
		COUNT(fs, rollbacks, count);
	return r;
}
