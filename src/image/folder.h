/* SPDX-License-Identifier: MIT */
/*
 * The folder of golden images, live: names are looked up when asked for, and a listing that starts
 * reads the folder.
 *
 * Paths are relative to IMAGES, "" being the folder itself. Entries whose name starts with a dot
 * are hidden, in every component. Symbolic links that stay inside are followed, absolute ones too
 * (the entry looks like its target); those that lead out or to something hidden, that go round in
 * circles, or that a user made to what is not his, are not shown, nor is anything that is neither
 * a regular file nor a folder. No call ever leaves the folder, and nothing is ever opened for
 * writing. All functions may be called by several threads at once.
 */
#ifndef GOLDFS_IMAGE_FOLDER_H
#define GOLDFS_IMAGE_FOLDER_H

#include <stdint.h>
#include <sys/stat.h>

struct folder;

/* The folder at path. 0 or -errno. */
int folder_open(struct folder **folder, const char *path);
void folder_close(struct folder *folder);
/* Attributes of the target; -ENOENT also for what is hidden. */
int folder_stat(struct folder *folder, const char *path, struct stat *st);
/* A descriptor for reading (with O_NOATIME where allowed), owned by the caller, or -errno.
 * -EISDIR: a folder. -EBUSY: another program holds a write lease on it. */
int folder_open_file(struct folder *folder, const char *path);
/* A descriptor of a folder, "" being the one of images, owned by the caller, or -errno. */
int folder_open_folder(struct folder *folder, const char *path);
/* Calls cb for each visible entry whose place (dirnames.h) is behind `after`, in the order of
 * places; 0 is before all. Stops when it returns non-zero, and returns that. */
typedef int folder_list_fn(void *arg, const char *name, const struct stat *st, uint64_t place);
int folder_list(struct folder *folder, const char *path, uint64_t after, folder_list_fn *cb,
	void *arg);

#endif
