/* SPDX-License-Identifier: MIT */
/*
 * Walks the files below a folder as one caller may see them.
 *
 * A folder that the caller may not read and search is passed over with all that it holds, as
 * find(1) would have to; so is what disappears on the way. Nothing is locked meanwhile: the walk
 * sees each entry as it was when its turn came. Entries of one folder come in the order of their
 * bytes, files before what lies in sub-folders. Depth costs no stack, for users make the folders.
 */
#ifndef GOLDFS_SERVICE_WALK_H
#define GOLDFS_SERVICE_WALK_H

#include "core/fs.h"
#include "service/authorise.h"

enum walk_type {
	WALK_GOLDEN = 1 << FS_KIND_GOLDEN,
	WALK_CLONE = 1 << FS_KIND_CLONE,
	WALK_SNAPSHOT = 1 << FS_KIND_SNAPSHOT,
	WALK_FOLDER = 1 << FS_KIND_FOLDER,
	WALK_BARE = 1 << 16, /* with WALK_CLONE alone: info is NULL, and no figure is computed for it */
};

/* A non-zero return ends the walk. info is the callee's to read, not to keep. */
typedef int walk_fn(
	void *arg, const char *path, const struct fs_attr *attr, const struct fs_info *info);

/*
 * Calls cb for every file of the kinds in types below top, which path leads to (without slashes
 * around it, "" for the root); for top itself too when it is no folder. The trees of golden images
 * and snapshots are entered from the root only when types has their kind. access NULL: everything.
 * Returns 0, -ENOMEM, what cb returned, or an error of the store.
 */
int walk(struct fs *fs, const struct access *access, const struct node *top, const char *path,
	unsigned int types, walk_fn *cb, void *arg);

#endif
