/* SPDX-License-Identifier: MIT */
/*
 * What a caller of the control file may do: what the equivalent system calls would let him do.
 *
 * The kernel checks permissions of file operations (default_permissions); a control request
 * reaches the daemon as one write to a file that is 0666, so the checks are made here, on the same
 * attributes: search permission on every folder of a path, read on a source, write and search on
 * the folder of a target, and the sticky bit where something is replaced. There are no access
 * control lists to look at: their xattrs are refused.
 *
 * Who the caller is comes from the kernel (uid, gid, thread id). His other groups stand in
 * /proc/ID/status; the id cannot be somebody else's by then, for the kernel holds the thread in its
 * write until we answer. Only root overrides permissions, and only when that file says that the
 * thread holds CAP_DAC_OVERRIDE and that it sees all users and groups as we do: a capability in a
 * namespace of its own says nothing about files of others. A thread that cannot be looked up has no
 * other groups and overrides nothing.
 *
 * Paths are walked here, name by name, and symbolic links are not followed (-ELOOP): the command
 * line resolves them before it asks, with its own rights.
 */
#ifndef GOLDFS_SERVICE_AUTHORISE_H
#define GOLDFS_SERVICE_AUTHORISE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/fs.h"

struct service_caller;

struct access {
	uint32_t uid;
	uint32_t gid;
	uint32_t *groups; /* owned */
	size_t group_count;
	bool override; /* root: permissions do not count, */
	bool fowner;   /* nor does whose file it is */
};

/* Looks the caller up. 0 or -ENOMEM. */
int access_init(struct access *access, const struct service_caller *caller);
void access_release(struct access *access);

/*
 * Takes groups and capabilities from the text of /proc/ID/status. Pure. -ESRCH: the text is about
 * somebody else (the id was reused) or no such text at all; access then has neither.
 */
int access_parse_status(struct access *access, const char *text);

/* mask of R_OK, W_OK, X_OK, all of which must be given. Pure. */
bool access_may(const struct access *access, const struct fs_attr *attr, int mask);
/* Whether entry may be removed from folder or replaced in it: the sticky bit. Pure. */
bool access_may_replace(const struct access *access, const struct fs_attr *folder,
	const struct fs_attr *entry);

/* A file that a path led to, with a reference that node_release() gives back. */
struct node {
	struct fs_attr attr;
	bool held;
};

/*
 * Follows path from the root. -EACCES: a folder on the way may not be searched. -EINVAL: ".." in
 * it. -ELOOP: a symbolic link stands in the way (one at the end is returned as it is).
 */
int node_walk(struct fs *fs, const struct access *access, const char *path, struct node *node);
/* One step: entry `name` of folder, which must be one that may be searched. */
int node_step(struct fs *fs, const struct access *access, const struct fs_attr *folder,
	const char *name, struct node *node);
void node_release(struct fs *fs, struct node *node);

/*
 * Splits path into its folder and its last name, both malloc'ed; "a//b/" gives "a" and "b".
 * -EINVAL: there is no last name, or it is "." or "..". Pure.
 */
int path_split(const char *path, char **folder, char **name);

#endif
