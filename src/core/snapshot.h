/* SPDX-License-Identifier: MIT */
/* Snapshots, for the files of core: snapshot.c says what they are, snapshot_tree.c where. */
#ifndef GOLDFS_CORE_SNAPSHOT_H
#define GOLDFS_CORE_SNAPSHOT_H

#include "core/freeze.h"

static inline bool is_snapshot(const struct inode *inode)
{
	return inode->kind == GF_KIND_SNAPSHOT && S_ISREG(inode->mode);
}
/* A folder in .snapshots that holds the snapshots of one file. */
bool is_snapshot_group(const struct inode *inode);

/* The group of a file, or the counterpart of a folder; NULL: there is none. */
struct inode *snapshots_of(struct fs *fs, struct inode *inode);
/* The file or the folder that it belongs to; NULL: it was removed. */
struct inode *snapshots_owner(struct fs *fs, struct inode *folder);
/* Where a snapshot counts: its file, or the nearest folder above that there is. */
struct inode *snapshots_home(struct fs *fs, struct inode *snapshot);

/* The group that a file's snapshots are put in, made by the record when there is none. */
int snapshots_group_make(struct fs *fs, struct snap_build *b, struct inode *file, uint64_t *ino);
/* Takes snapshots away, and folders that are empty then. */
int snapshots_add_delete(
	struct fs *fs, struct snap_build *b, struct inode *const *list, size_t count);

/* What each change of the tree does to .snapshots, before the ops of the change itself. A file is
 * removed, or something replaced: its automatic snapshots go. */
int snapshots_add_unlink(struct fs *fs, struct snap_build *b, struct inode *inode);
int snapshots_add_rename(struct fs *fs, struct snap_build *b, struct inode *inode,
	struct inode *other, uint64_t parent, const char *name, bool exchange);
int snapshots_add_folder(struct fs *fs, struct snap_build *b, struct inode *dir, const char *name,
	uint32_t mode, uint32_t uid, uint32_t gid);
int snapshots_add_attr(struct fs *fs, struct snap_build *b, struct inode *inode, uint32_t mode,
	uint32_t uid, uint32_t gid);

/* apply.c: what stands on what. */
int snapshot_apply(struct fs *fs, struct inode *inode, const struct gf_op_pair *op, bool loading);
int position_apply(struct fs *fs, struct inode *inode, const struct gf_op_pair *op, bool loading);
/* Before it loses its name. */
void lineage_remove(struct fs *fs, struct inode *inode);
const char *snapshot_is_wrong(struct fs *fs, const struct inode *inode);

/* The op that says where a file is in its tree of snapshots. */
int op_add_position(struct opbuf *buf, uint64_t ino, uint64_t snapshot, bool replaced);
/* The file's new head, over what `at` says; its old one is kept or given up. */
int file_replace(struct fs *fs, struct snap_build *b, struct inode *inode, const struct frozen *at);
/* Refuses a file that is open for writing, unless forced. */
int file_may_replace(const struct inode *inode, bool force);

#endif
