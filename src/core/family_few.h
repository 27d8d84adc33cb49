/* SPDX-License-Identifier: MIT */
/*
 * Regions of a family in which few blocks stand: who sees them, block by block.
 *
 * Planes cost a layer with one block in a region as much as one that fills it: with 600 snapshots of a
 * disk of 400 GiB that is written to at random, a count took a minute and a half. Here only blocks are
 * looked at that some layer does not pass on.
 *
 * Layers are put in an order in which all that stand on a layer follow it. The owners of a block then
 * nest as brackets do, and one pass with a stack finds for each the next one below, from which it hides
 * the block. Who sees an owner's block: the files above it without those above the owners that stand
 * next over it. These are sums over files, made once for each layer: how many, which one if it is one,
 * and, by a sum of hashes, whether all are of one group.
 *
 * That holds where each file and each bound ends before or behind the region, and the sums hold for all
 * regions between two such ends, a *stretch*. Left to the planes are regions in which one of them ends,
 * those with many blocks for the number of layers, and families in which a copy is growing. A file may be
 * made shorter at any time; that is seen where the next stretch begins, and until then it counts as it was.
 */
#ifndef GOLDFS_CORE_FAMILY_FEW_H
#define GOLDFS_CORE_FAMILY_FEW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct family;
struct family_few;
struct inode;

#define FEW_NONE UINT32_MAX

/* Files, added up so that some can be taken off again. */
struct seers {
	uint32_t files;
	uint32_t marked;  /* of the set that is asked about */
	uint64_t numbers; /* of their layers: of the one, if it is one */
	uint64_t groups, hashes;
};

/* A block that a layer does not pass on. */
struct few_block {
	uint32_t node;	 /* the layer */
	/* In the list, or FEW_NONE: the owner whose block it hides, the first of those that stand next
	 * over it and hide its own, and the next one that stands where it does. */
	uint32_t below, over, next;
	uint32_t last_over;
	uint32_t first, end; /* places of the layer and all that stand on it, in the order */
	uint16_t block;	 /* in the region */
	bool data;	 /* stands in this layer, or is lost */
	bool over_image; /* what it hides is the golden image's, or a hole of it */
	uint64_t place;	 /* of a SHARED one; neither: zeros */
	struct seers seers;
};

/* NULL: this is no way to look at the family, or there is no memory for it. */
struct family_few *family_few_new(struct family *family);
void family_few_free(struct family_few *few);

/* Whether the family's region is not of the stretch that the sums are for. */
bool family_few_is_new_stretch(const struct family_few *few);
void family_few_begin_stretch(struct family_few *few);
/* The file whose layer has that place in the order and which reaches over the stretch, or NULL. */
struct inode *family_few_file(const struct family_few *few, size_t place);
/*
 * The owners of the region's blocks, block by block and each one's from the bottom up: 1 with a list that
 * the next call changes. 0: look at it by planes. -errno: a map cannot be read.
 */
int family_few_list(struct family_few *few, const struct few_block **list, size_t *count);
/* Ends a stretch: what was noted at layers (family_node.spread) goes to all files above each, and is
 * told of each file. */
void family_few_spread(struct family_few *few);

bool seers_are_one_group(const struct seers *seers);

#endif
