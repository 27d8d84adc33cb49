/* SPDX-License-Identifier: MIT */
/*
 * Corruption of a store: what one flipped bit or one wrong block anywhere does.
 *
 * A world is a store with clones of golden images, clones of clones, blocks that several of them
 * share, a journal with live records or a clean end, in a folder of its own. A view is everything that a mount of it shows: names,
 * attributes, extended attributes, figures, and a hash of every block of every file. A trial makes
 * a copy of the world, damages one place in it, and looks what the check says, what a mount shows,
 * what a mount with verify=read shows, and what is left after a repair.
 */
#ifndef GOLDFS_TESTS_CORRUPT_H
#define GOLDFS_TESTS_CORRUPT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../crash/rng.h"
#include "base/io.h"

struct fs;
struct folder;

#define PATH_ROOM 512

/* ---- world.c ---- */

enum world_kind {
	WORLD_CLEAN = 0,  /* unmounted; the images' pins are links */
	WORLD_KILLED = 1, /* the daemon died, with records in the journal */
	WORLD_COPIED = 2, /* unmounted; the pins are copies */
	WORLD_KINDS,
};

struct world {
	char root[PATH_ROOM]; /* holds "images" and "store" */
	enum world_kind kind;
};

/* A place in memory when there is one; "" when none can be made. */
void scratch_root(char path[PATH_ROOM]);
void remove_tree(const char *path);
/* Both folders, with links between them and times as they are. 0 or -errno. */
int copy_world(const char *from, const char *to);
/* Makes world `kind` below root; a copy of how it was half way goes to stale. 0 or -errno. */
int world_make(struct world *w, const char *root, const char *stale, enum world_kind kind,
	uint64_t seed);

/* A store in a folder, open. */
struct mount {
	struct io *io;
	struct io_ops ops; /* of io, without syncs */
	int store_fd;
	struct folder *images;
	struct fs *fs;
};
struct mount_how {
	bool verify;
	bool read_only;
};
/* 0 or -errno; mount_end() in any case. close: as unmounting, else as if the process had died. */
int mount_begin(struct mount *m, const char *root, struct mount_how how);
int mount_end(struct mount *m, bool close);
/* The store's files without a file system on it, for the check. */
int files_begin(struct mount *m, const char *root);

/* ---- view.c ---- */

struct view_file {
	char *path;
	bool golden; /* the folder's own file, which the store does not vouch for */
	uint64_t attributes; /* hash: mode, owner, size, times, links, target, xattrs */
	uint64_t figures;    /* hash */
	uint64_t size;
	uint64_t *blocks; /* hash of each, 0: reading it failed */
	size_t block_count;
};

struct view {
	struct view_file *files;
	size_t count;
	uint64_t figures; /* of the store */
};

/* 0 or -errno: not even the names can be read. */
int view_take(struct view *view, struct fs *fs);
void view_release(struct view *view);
const struct view_file *view_find(const struct view *view, const char *path);
/* Whether the file is the same in both; content only: attributes and figures do not matter. */
bool same_file(const struct view_file *a, const struct view_file *b, bool content_only);
/* NULL, or what differs (static). */
const char *view_differs(const struct view *a, const struct view *b);
/* NULL, or where seen shows bytes that are neither right nor an error (static). */
const char *view_lies(const struct view *right, const struct view *seen);

/* ---- damage.c ---- */

struct damage_done {
	char path[PATH_ROOM]; /* below the world's root */
	char what[200];
	const char *class; /* "superblock", "catalog", ... */
};

/* Damages one place. 0, or -errno when nothing could be damaged. */
int damage_bit(const char *root, struct rng *rng, struct damage_done *done);
int damage_block(const char *root, const char *stale, struct rng *rng, struct damage_done *done);

#endif
