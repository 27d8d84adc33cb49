/* SPDX-License-Identifier: MIT */
/*
 * Who sees which blocks of frozen layers.
 *
 * A family is a tree of layers: frozen ones inside, the writable layers of files at the leaves. A
 * block of a frozen layer costs space as long as some file's lookups come through to it. The walk
 * goes over all families, region by region, and carries two bit planes per layer from the leaves
 * to the root: for accounting "at least one file" and "at least two", for the question what
 * removing a set of files frees "one of the set" and "one of the others".
 *
 * A file and its snapshots are a *group*. Where several files see a block it matters whether they are
 * of one group, so there is a third plane. A layer above which all files are of one group needs no
 * more than that; for others the walk notes, while it looks at a region, whose each block is.
 *
 * All of it is derived from the maps; nothing is stored. fs.tree is held by the caller, shared or by tree_hold().
 */
#ifndef GOLDFS_CORE_FAMILY_H
#define GOLDFS_CORE_FAMILY_H

#include "core/family_few.h"
#include "core/fs_internal.h"

#define REGION_WORDS ((int)(GF_REGION_BLOCKS / 64))

#define FAMILY_SPREADS 5 /* kinds of blocks that are counted so */

struct plane {
	uint64_t words[REGION_WORDS];
};

struct family_node {
	struct layer *layer;
	struct inode *file; /* whose writable layer this is, or NULL */
	long parent;	    /* index, -1: root */
	bool marked;	    /* one of the set that is asked about */
	uint32_t next;	    /* first region not looked at in which the layer has something */
	struct plane own;   /* data that stands in this layer, or is lost */
	struct plane pooled, golden; /* SHARED blocks */
	uint64_t *places; /* of those, by block in the region; NULL: there are none */
	struct plane below; /* blocks that show what is below */
	struct plane first, second; /* who comes here from above */
	struct plane apart; /* of second: files of several groups; without a set only, of what is held */
	uint64_t group; /* of all files above: a number, 0: there are none, FAMILY_MIXED */
	uint64_t *holders; /* mixed: the group that sees a block, by block; during a region */
	int64_t spread[FAMILY_SPREADS]; /* blocks, for all files above: of a stretch (family_few.h) */
};

#define FAMILY_MIXED UINT64_MAX

struct family {
	struct fs *fs;
	struct family_node *nodes; /* nodes[0] is the root, parents before children */
	size_t count;
	struct image *image; /* below the root, or NULL */
	uint32_t region;     /* being looked at */
	struct plane held;   /* blocks of it that some layer has, in place or SHARED */
	bool grouped;	     /* several files of some group are in it */
	const struct family_walk *walk;
	struct family_few *few; /* NULL: each region is looked at by planes */
};

struct family_walk {
	/* A set is asked about: planes are set/others instead of one/two. */
	const uint64_t *set;
	size_t set_count;
	/* Families of a single layer that has SHARED blocks, too. The others are left out always: all
	 * that such a file owns is its own. */
	bool singles;
	/* Called once per family, before its regions. May be NULL. */
	void (*begin)(void *arg, struct family *family);
	/* Called for each region in which some layer of the family has something. */
	int (*region)(void *arg, struct family *family);
	/* Called instead where few blocks stand (family_few.h), if not NULL. */
	int (*few)(void *arg, struct family *family, const struct few_block *list, size_t count);
	/* Called before the first such region of each stretch. May be NULL. */
	void (*stretch)(void *arg, struct family *family);
	/* What `few` noted in family_node.spread, for a file. May be NULL when it notes nothing. */
	void (*spread)(void *arg, struct inode *file, const int64_t blocks[FAMILY_SPREADS]);
	void *arg;
	/* Ends with -EAGAIN when somebody wants to change the tree: everybody else would wait, too; and at
	 * that time of CLOCK_MONOTONIC, 0: never. */
	bool gives_way;
	int64_t until_ns;
};

int family_walk(struct fs *fs, const struct family_walk *walk);

uint64_t plane_count(const struct plane *p);
/* Sets the bits of region `region` whose block is below `limit`. */
void plane_limit(struct plane *p, uint32_t region, uint64_t limit);
/* Bits of blocks that hold data in the image. 0 or -errno. */
int plane_image(struct plane *p, struct image *image, uint32_t region);
static inline bool plane_get(const struct plane *p, uint32_t i)
{
	return p->words[i / 64] >> (i % 64) & 1;
}

/* The group of a file: a number that all of one group have, and nobody else. */
uint64_t family_group(struct fs *fs, struct inode *file);
/* The layer of a family, by index, at which lookups of a file (whose layer is k) for block i of the
 * region end; -1: they go through all of them. */
long family_owner(const struct family *f, long k, uint32_t i);
/* How many bytes of that block, which layer k owns, the files of the set show at most. */
uint64_t family_shown(const struct family *f, long k, uint32_t i);
/* Where a file ends, were its copy complete: bytes. */
uint64_t file_end(struct inode *inode);
/* Blocks of a file's view at most, and of what its layer shows: a copy that is still growing
 * counts as what it will be. */
uint64_t file_limit(struct inode *inode);

#endif
