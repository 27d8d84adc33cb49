/* SPDX-License-Identifier: MIT */
/*
 * The catalog's table of invariants, asserted at each checkpoint in builds that assert:
 *   a layer is referred to by its head and by the layers that stand on it, and by nobody else
 *   the head of a layer is a file that writes to it
 *   a golden image is referred to by the layers that stand on it
 *   a name leads to its inode, whose folder has it among its children; folders have no others
 * All of these are brought about by this process while it loads and applies records, whatever the
 * store says.
 */
#include "core/fs_internal.h"

#include <string.h>

#include "base/invariant.h"

#ifdef GF_INVARIANTS

static void count_refs(struct fs *fs)
{
	struct layer_entry *entry, *next_entry;
	struct golden *golden, *next_golden;
	struct inode *inode, *next_inode;

	HASH_ITER (hh, fs->layers, entry, next_entry)
		entry->layer->counted_refs = 0;
	HASH_ITER (hh, fs->goldens, golden, next_golden)
		golden->counted_refs = 0;
	HASH_ITER (hh, fs->layers, entry, next_entry) {
		struct layer *layer = entry->layer;

		if (layer->parent)
			layer->parent->counted_refs++;
		golden = layer->golden ? tree_find_golden(fs, layer->golden) : NULL;
		if (golden)
			golden->counted_refs++;
		golden = layer->recast.golden ? tree_find_golden(fs, layer->recast.golden) : NULL;
		if (golden)
			golden->counted_refs++;
	}
	HASH_ITER (by_ino, fs->inodes, inode, next_inode)
		if (atomic_load(&inode->layer))
			atomic_load(&inode->layer)->counted_refs++;
}

static bool has_its_head(struct fs *fs, const struct layer *layer)
{
	struct inode *head = layer->head_of ? tree_find(fs, layer->head_of) : NULL;

	return !layer->head_of || (head && atomic_load(&head->layer) == layer);
}

static void assert_layers(struct fs *fs)
{
	struct layer_entry *entry, *next_entry;
	struct golden *golden, *next_golden;

	HASH_ITER (hh, fs->layers, entry, next_entry) {
		struct layer *layer = entry->layer;

		INVARIANT(INVARIANT_CATALOG, layer->refs && layer->refs == layer->counted_refs);
		INVARIANT(INVARIANT_CATALOG, has_its_head(fs, layer));
		INVARIANT(INVARIANT_CATALOG, !layer->golden || tree_find_golden(fs, layer->golden));
		if (layer->dirty)
			layer_assert(layer);
	}
	HASH_ITER (hh, fs->goldens, golden, next_golden)
		INVARIANT(INVARIANT_CATALOG, golden->refs == golden->counted_refs);
}

static bool is_named_rightly(struct fs *fs, struct inode *inode)
{
	struct inode *dir = tree_find(fs, inode->parent);

	return dir && S_ISDIR(dir->mode) && inode->key->parent == inode->parent &&
	       tree_find_name(fs, inode->parent, inode->key->name, strlen(inode->key->name)) == inode;
}

static void assert_names(struct fs *fs)
{
	struct inode *inode, *next;
	size_t named = 0, children = 0;

	HASH_ITER (by_ino, fs->inodes, inode, next) {
		children += inode->child_count;
		if (!inode->key)
			continue;
		named++;
		INVARIANT(INVARIANT_CATALOG, is_named_rightly(fs, inode));
	}
	INVARIANT(INVARIANT_CATALOG, named == HASH_CNT(by_name, fs->names));
	INVARIANT(INVARIANT_CATALOG, named == children);
}

void catalog_assert(struct fs *fs)
{
	count_refs(fs);
	assert_layers(fs);
	assert_names(fs);
}

#else

void catalog_assert(struct fs *fs)
{
}

#endif
