/* SPDX-License-Identifier: MIT */
/*
 * The folder of golden images, live: names are looked up when asked for, nothing is cached.
 *
 * Paths are relative to IMAGES, "" being the folder itself. Entries whose name starts with a dot
 * are hidden, symbolic links that stay inside are followed (the entry looks like its target),
 * others and anything that is neither a regular file nor a folder are not shown. No call ever
 * leaves the folder (openat2 with RESOLVE_IN_ROOT semantics of our own: RESOLVE_BENEATH), and
 * nothing is ever opened for writing.
 */
#ifndef GOLDFS_IMAGE_FOLDER_H
#define GOLDFS_IMAGE_FOLDER_H

#include <sys/stat.h>

struct folder;

/* The folder at path. 0 or -errno. */
int folder_open(struct folder **folder, const char *path);
void folder_close(struct folder *folder);
/* Attributes of the target; -ENOENT also for what is hidden. */
int folder_stat(struct folder *folder, const char *path, struct stat *st);
/* A descriptor for reading (O_RDONLY | O_NOATIME where allowed), owned by the caller, or -errno. */
int folder_open_file(struct folder *folder, const char *path);
/* Calls cb for each visible entry in a stable order; stops when it returns non-zero. */
int folder_list(struct folder *folder, const char *path,
	int (*cb)(void *arg, const char *name, const struct stat *st), void *arg);

#endif
