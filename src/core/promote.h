/* SPDX-License-Identifier: MIT */
/* Promotion, for the other parts of core; see promote.c, and fs.h for the calls. */
#ifndef GOLDFS_CORE_PROMOTE_H
#define GOLDFS_CORE_PROMOTE_H

#include "core/fs_internal.h"

/* Whether a path below IMAGES can be that of a new image: 0, -EINVAL or -ENAMETOOLONG. Pure. */
int promote_name_check(const char *path);
/* The promoted file that the golden tree shows at path, NULL: none. tree held. */
struct inode *promote_find(struct fs *fs, const char *path);
/* For the golden tree: looks it up as fs_lookup() does. false: there is none. */
bool promote_lookup(struct fs *fs, const char *path, struct fs_attr *attr);
/* Those in a folder, "" being the golden tree's own, as fs_list(): behind all files of IMAGES. */
int promote_list(struct fs *fs, const char *folder, uint64_t cookie,
	int (*cb)(void *arg, const char *name, const struct fs_attr *attr, uint64_t next),
	void *arg);
/* Where a listing that is at cookie stands among the files of IMAGES. */
uint64_t promote_list_cookie(uint64_t cookie);
/* Removes it from the golden tree, durably: its file is there, or it was given up. */
int promote_end(struct fs *fs, uint64_t ino);
/* What was begun in the store for promotions that are no more. Nothing else runs yet. */
void promote_sweep(struct fs *fs);

/* The op that says how many bytes a second are written of it at most; 0: as many as can be. */
int promote_add_rate(struct opbuf *buf, uint64_t ino, uint64_t rate);
/* What was said last. */
uint64_t promote_rate(struct fs *fs, uint64_t ino);

/* clone.c: a clone, of the promoted kind, owned by who serves the mount. */
int clone_promoted(struct fs *fs, uint64_t ino, const struct fs_clone_target *target, uint32_t mode,
	uint64_t rate);

#endif
