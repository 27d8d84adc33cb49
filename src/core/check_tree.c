/* SPDX-License-Identifier: MIT */
/*
 * The tree and its references, each counted anew and compared with what the catalog claims.
 *
 * Much of this is refused when the catalog is loaded (apply.c), so that a mount is safe from it;
 * here nothing is taken for granted.
 */
#include "core/check_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/sizes.h"
#include "core/snapshot.h"

static const char contradiction[] =
	"the catalog contradicts itself: keep a copy of the store, and report this with it";

/* What layers and images should be referred to, counted from nothing. */
struct ref_count {
	uint64_t id;
	uint64_t refs;
	UT_hash_handle hh;
};

struct counts {
	struct ref_count *layers;
	struct ref_count *goldens;
};

static int count_ref(struct ref_count **table, uint64_t id)
{
	struct ref_count *count;

	HASH_FIND(hh, *table, &id, sizeof(id), count);
	if (!count) {
		count = calloc(1, sizeof(*count));
		if (!count)
			return -ENOMEM;
		count->id = id;
		HASH_ADD(hh, *table, id, sizeof(count->id), count);
	}
	count->refs++;
	return 0;
}

static uint64_t refs_of(struct ref_count *table, uint64_t id)
{
	struct ref_count *count;

	HASH_FIND(hh, table, &id, sizeof(id), count);
	return count ? count->refs : 0;
}

static void release_counts(struct ref_count **table)
{
	struct ref_count *count, *next;

	HASH_ITER (hh, *table, count, next) {
		HASH_DELETE(hh, *table, count);
		free(count);
	}
}

/* ---- inodes ---- */

static int bad_inode(struct check *c, struct inode *inode, const char *what)
{
	return check_find(c, &(struct about){.severity = CHECK_DAMAGE, .structure = "tree",
		.offset = inode->ino, .inode = inode, .advice = contradiction},
		"inode %" PRIu64 ": %s", inode->ino, what);
}

static const char *wrong_with_kind(const struct inode *inode)
{
	switch (inode->kind) {
	case GF_KIND_USER:
	case GF_KIND_GOLDEN:
	case GF_KIND_SNAPSHOT:
	case GF_KIND_PROMOTED:
		break;
	default:
		return "it is of no known kind";
	}
	if (!S_ISREG(inode->mode) && !S_ISDIR(inode->mode) && !S_ISLNK(inode->mode))
		return "it is of no known type";
	if (S_ISLNK(inode->mode) && !inode->target)
		return "the symbolic link has no target";
	if (inode->ino < FS_INO_FIRST && inode->ino != FS_INO_ROOT &&
		inode->ino != FS_INO_SNAPSHOTS && inode->ino != FS_INO_PROMOTED)
		return "its number is reserved";
	return NULL;
}

static const char *wrong_with_name(struct check *c, struct inode *inode)
{
	struct inode *dir;

	if (!inode->key)
		return NULL;
	dir = tree_find(c->fs, inode->parent);
	if (!dir || !S_ISDIR(dir->mode))
		return "its folder does not exist";
	if (tree_find_name(c->fs, inode->parent, inode->key->name, strlen(inode->key->name)) != inode)
		return "another file has its name";
	if (!tree_reaches_root(c->fs, inode))
		return "its folders lead in a circle";
	if ((inode->kind == GF_KIND_PROMOTED) != (inode->parent == FS_INO_PROMOTED))
		return "it is in a folder where it cannot be";
	if (name_is_reserved(inode->parent, inode->key->name) && inode->ino != FS_INO_SNAPSHOTS &&
		inode->ino != FS_INO_PROMOTED)
		return "its name is reserved";
	return NULL;
}

static const char *wrong_with_content(const struct inode *inode)
{
	const struct layer *layer = atomic_load(&inode->layer);

	if (inode->kind == GF_KIND_GOLDEN)
		return layer ? "an image has a layer of its own" : NULL;
	if (inode->size > GF_MAX_SIZE)
		return "its size is beyond what is possible";
	if (S_ISREG(inode->mode) && !layer)
		return "it has no layer";
	if (!S_ISREG(inode->mode) && layer)
		return "it has a layer and is no file";
	if (layer && layer->head_of != inode->ino)
		return "its layer belongs to another file";
	return NULL;
}

static const char *wrong_with_folder(const struct inode *inode)
{
	size_t folders = 0;

	if (!S_ISDIR(inode->mode))
		return inode->child_count ? "it is no folder and holds files" : NULL;
	for (size_t i = 0; i < inode->child_count; i++) {
		const struct inode *child = inode->children[i];

		folders += S_ISDIR(child->mode);
		if (child->parent != inode->ino || !child->key)
			return "it lists a file that is elsewhere";
		if (i && inode->children[i - 1]->ino >= child->ino)
			return "it lists files twice or out of order";
	}
	return folders != inode->folder_count ? "its link count is wrong" : NULL;
}

static const char *wrong_with_xattrs(const struct inode *inode)
{
	for (const struct xattr *x = inode->xattrs; x; x = x->next) {
		if (strncmp(x->name, "user.", 5) != 0 || strlen(x->name) > GF_NAME_MAX)
			return "an extended attribute has an impossible name";
		if (x->len > GF_XATTR_VALUE_MAX)
			return "an extended attribute is too long";
		for (const struct xattr *y = x->next; y; y = y->next)
			if (strcmp(x->name, y->name) == 0)
				return "an extended attribute is there twice";
	}
	return NULL;
}

static int check_inode(struct check *c, struct inode *inode)
{
	const char *wrong[] = {wrong_with_kind(inode), wrong_with_name(c, inode),
		wrong_with_content(inode), wrong_with_folder(inode), wrong_with_xattrs(inode),
		snapshot_is_wrong(c->fs, inode)};
	int r = 0;

	for (size_t i = 0; i < ARRAY_SIZE(wrong) && !r; i++)
		if (wrong[i])
			r = bad_inode(c, inode, wrong[i]);
	if (!r && inode->ino >= c->fs->next_ino)
		r = bad_inode(c, inode, "its number would be given out again");
	return r;
}

static int check_inodes(struct check *c, struct counts *counts)
{
	struct inode *inode, *next;
	uint64_t removed = 0;
	int r = 0;

	HASH_ITER (by_ino, c->fs->inodes, inode, next) {
		struct layer *layer = atomic_load(&inode->layer);

		if (!r)
			r = check_inode(c, inode);
		if (!r && layer)
			r = count_ref(&counts->layers, layer->id);
		if (inode_is_file(inode))
			c->report->files++;
		removed += !inode->key && inode != c->fs->root && inode->kind != GF_KIND_GOLDEN;
	}
	if (r || !removed)
		return r;
	check_mend(c, MEND_REWRITE);
	return check_find(c, &(struct about){.severity = CHECK_NOTE, .structure = "tree",
		.repairable = true, .advice = "the next mount, or --repair, frees their space"},
		"%" PRIu64 " files were removed while they were open", removed);
}

/* ---- layers and images ---- */

static int bad_layer(struct check *c, struct layer *layer, const char *what)
{
	return check_find(c, &(struct about){.severity = CHECK_DAMAGE, .structure = "tree",
		.offset = layer->id, .layer = layer, .advice = contradiction},
		"layer %" PRIu64 ": %s", layer->id, what);
}

static int check_layer_refs(struct check *c, struct layer *layer, const struct counts *counts)
{
	struct inode *head = layer->head_of ? tree_find(c->fs, layer->head_of) : NULL;

	if (layer->refs != refs_of(counts->layers, layer->id))
		return bad_layer(c, layer, "the count of what stands on it is wrong");
	if (!layer->refs)
		return bad_layer(c, layer, "nothing refers to it");
	if (layer->head_of && (!head || atomic_load(&head->layer) != layer))
		return bad_layer(c, layer, "it belongs to a file that has another one");
	if (layer->parent && layer->parent->head_of)
		return bad_layer(c, layer, "it stands on one that is still written to");
	if (layer->parent && (layer->parent->id >= layer->id || layer->golden))
		return bad_layer(c, layer, "it stands on the wrong thing");
	if (layer->id >= c->fs->next_layer)
		return bad_layer(c, layer, "its number would be given out again");
	return layer->bound > GF_MAX_SIZE ? bad_layer(c, layer, "its bound is impossible") : 0;
}

/* One to which nothing refers goes with the next checkpoint. */
static int check_golden_refs(struct check *c, struct golden *g, const struct counts *counts)
{
	const char *wrong = NULL;

	if (g->refs != refs_of(counts->goldens, g->id))
		wrong = "the count of what stands on it is wrong";
	else if (g->id >= c->fs->next_golden)
		wrong = "its number would be given out again";
	else if (g->pin < GF_PIN_REFLINK || g->pin > GF_PIN_FENCED)
		wrong = "it is kept in no known way";
	else if (g->image.size > GF_MAX_SIZE)
		wrong = "its size is beyond what is possible";
	if (!wrong)
		return 0;
	return check_find(c, &(struct about){.severity = CHECK_DAMAGE, .structure = "tree",
		.offset = g->id, .golden = g->id, .advice = contradiction},
		"golden image \"%s\": %s", g->path, wrong);
}

int check_tree(struct check *c)
{
	struct counts counts = {0};
	struct layer_entry *entry, *next;
	struct golden *g, *next_golden;
	int r = check_inodes(c, &counts);

	HASH_ITER (hh, c->fs->layers, entry, next) {
		if (!r && entry->layer->parent)
			r = count_ref(&counts.layers, entry->layer->parent->id);
		if (!r && entry->layer->golden)
			r = count_ref(&counts.goldens, entry->layer->golden);
		if (!r && entry->layer->recast.golden)
			r = count_ref(&counts.goldens, entry->layer->recast.golden);
		c->report->layers++;
	}
	HASH_ITER (hh, c->fs->layers, entry, next)
		r = r ? r : check_layer_refs(c, entry->layer, &counts);
	HASH_ITER (hh, c->fs->goldens, g, next_golden)
		r = r ? r : check_golden_refs(c, g, &counts);
	release_counts(&counts.layers);
	release_counts(&counts.goldens);
	return r;
}
