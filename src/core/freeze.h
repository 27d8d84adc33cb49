/* SPDX-License-Identifier: MIT */
/*
 * What a file is at this instant, so that other files can stand on it.
 *
 * A layer says what it stands on: a frozen layer, a golden image, or nothing, and how many bytes of
 * that show. These few numbers are all that a clone, a snapshot or a rollback needs, whatever the
 * file's size. For a file whose top layer owns something that layer is what they stand on, and the
 * file itself goes on with an empty one over it; from then on the old one is frozen. When it owns
 * nothing they stand where the file stands, so that many snapshots of an idle file make no tower.
 */
#ifndef GOLDFS_CORE_FREEZE_H
#define GOLDFS_CORE_FREEZE_H

#include "core/fs_internal.h"

/* What a layer stands on to show a file as it was. All zero: a blank disk of no size. */
struct frozen {
	uint64_t parent; /* layer, 0: none */
	uint64_t golden; /* when there is no layer; 0: nothing below */
	uint64_t bound;	 /* bytes of it that show */
	uint64_t size;	 /* of the file, bytes */
};

/* Whether both show the same, as far as that can be told without reading. */
bool frozen_equal(const struct frozen *a, const struct frozen *b);

/*
 * What the file is now. *fresh: its top layer owns something and is that, so that the file must get
 * another one in the same record: file_go_on(). tree and the file's io are held exclusively, or it
 * is a snapshot. -EIO: it has failed, nothing can stand on it.
 */
int file_freeze(struct inode *inode, struct frozen *at, bool *fresh);
/* Ops that give the file an empty layer of its own over what it was. *next_layer: ids given out so
 * far. */
int file_go_on(struct opbuf *buf, struct inode *inode, const struct frozen *at, uint64_t *next_layer);

/* Ops that make an empty layer, marked as a whole, whose id is *id then. */
int op_add_layer(struct opbuf *buf, const struct frozen *at, uint64_t *next_layer, uint64_t *id);
/* The op that makes it the file's. */
int op_add_head(struct opbuf *buf, uint64_t ino, uint64_t layer);

/* ---- a source of clones: a file, a snapshot or a golden image ---- */

#define SOURCE_OPS_BOUND (sizeof(struct gf_op_golden) + GF_PATH_MAX + 512)

struct source {
	struct inode *inode;
	struct pinned pinned; /* golden images */
	struct frozen at;
	uint64_t next_layer; /* ids given out so far */
};

/* Finds the source, and pins it when it is a golden image. Takes fs.pin_lock until source_end(), and
 * a reference, which the caller gives back with fs_forget() once no lock is held. */
int source_begin(struct fs *fs, uint64_t ino, bool opaque, struct opbuf *buf, struct source *src);
void source_end(struct fs *fs, struct source *src, int result);
/* Fills in src->at; tree is held exclusively. Takes the source's io lock, until source_thaw(), when it
 * is a file. -EAGAIN: its pin is gone, begin anew; nothing is taken then. */
int source_freeze(struct fs *fs, struct source *src, struct opbuf *buf);
void source_thaw(struct source *src);

#endif
