/* SPDX-License-Identifier: MIT */
/*
 * What each op does to the catalog and to the states of blocks, in one place: a running change is
 * appended to the journal and then applied by this code, recovery applies the same records by it,
 * and a catalog file is a stream of ops that it applies to nothing.
 *
 * An op may have effects of two sorts. Catalog effects of records up to the checkpoint's meta_seq
 * are contained in the catalog file and are skipped when those records are replayed. Block effects
 * are replayed from the tail on, whatever the pages already say: applied in order, the last one
 * wins, so applying them again changes nothing.
 *
 * Large writes, during recovery: an announced block counts when a commit record covers it, or when
 * the bytes in place have the announced checksum; otherwise the older version stands. The
 * announcement is in the page cache before the first byte goes to its place, so after the death of
 * the process every block in place is explained by some announcement, and no knowledge of whether
 * the machine went down with it is needed.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/mutation.h"
#include "base/sizes.h"
#include "core/domain.h"
#include "core/snapshot.h"
#include "core/recast.h"
#include "store/pool.h"

static const void *tail_of(const struct gf_disk_op *op, size_t fixed)
{
	return op_tail(op, fixed);
}

/* ---- catalog effects ---- */

static int apply_inode(struct fs *fs, const struct gf_op_inode *op, const struct apply *how)
{
	const char *name = tail_of(&op->op, sizeof(*op));
	struct inode *inode;

	if (tree_find(fs, op->ino))
		return -EUCLEAN;
	inode = tree_new_inode(fs, op->ino, op->kind, op->mode);
	if (!inode)
		return -ENOMEM;
	inode->uid = op->uid;
	inode->gid = op->gid;
	inode->atime_ns = op->atime_ns;
	inode->mtime_ns = op->mtime_ns;
	inode->ctime_ns = op->ctime_ns;
	inode->btime_ns = op->btime_ns;
	fs->next_ino = max_u64(fs->next_ino, op->ino + 1);
	if (op->ino == FS_INO_ROOT)
		fs->root = inode;
	if (op->target_len) {
		inode->target = strndup(name + op->name_len, op->target_len);
		if (!inode->target)
			return -ENOMEM;
	}
	if (S_ISLNK(op->mode) && !inode->target)
		return -EUCLEAN;
	if (op->kind == GF_KIND_GOLDEN) {
		struct inode *old = NULL;

		if (!inode->target)
			return -EUCLEAN;
		HASH_FIND(by_path, fs->golden_nodes, inode->target, strlen(inode->target), old);
		if (old) {
			/* Known by its number only, until this process ends. */
			HASH_DELETE(by_path, fs->golden_nodes, old);
			old->golden_stale = true;
		}
		inode->golden_dev = op->layer;
		inode->golden_node = op->size;
		inode->golden_mtime_ns = op->mtime_ns;
		HASH_ADD_KEYPTR(by_path, fs->golden_nodes, inode->target, strlen(inode->target),
			inode);
		return 0;
	}
	inode->size = op->size;
	if (op->layer) {
		struct layer *layer = tree_find_layer(fs, op->layer);

		if (!layer || layer->head_of || !S_ISREG(op->mode))
			return -EUCLEAN;
		tree_layer_get(layer);
		layer->head_of = op->ino;
		atomic_store(&inode->layer, layer);
	} else if (S_ISREG(op->mode)) {
		return -EUCLEAN;
	}
	if (!op->name_len)
		return 0;
	if (!how->loading) {
		int r = tree_link(fs, inode, op->parent, name, op->name_len);

		if (!r)
			domain_place_file(fs, inode);
		return r;
	}
	/* The folder may come later in the stream: remember, link in apply_finish_loading(). */
	inode->parent = op->parent;
	inode->key = malloc(sizeof(*inode->key));
	if (!inode->key)
		return -ENOMEM;
	memcpy(inode->key->name, name, op->name_len);
	inode->key->name[op->name_len] = '\0';
	return 0;
}

int apply_finish_loading(struct fs *fs)
{
	struct inode *inode, *next;

	HASH_ITER (by_ino, fs->inodes, inode, next) {
		struct name_key *key = inode->key;
		int r;

		if (!key)
			continue;
		inode->key = NULL;
		r = tree_link(fs, inode, inode->parent, key->name, strlen(key->name));
		free(key);
		if (r)
			return log_error(-EUCLEAN, "the catalog has inode %" PRIu64 " without its folder",
				inode->ino);
	}
	HASH_ITER (by_ino, fs->inodes, inode, next) {
		if (inode->key && !tree_reaches_root(fs, inode))
			return log_error(-EUCLEAN, "the catalog has folders in a circle");
	}
	HASH_ITER (by_ino, fs->inodes, inode, next) {
		const char *wrong = snapshot_is_wrong(fs, inode);

		if (wrong)
			return log_error(-EUCLEAN, "inode %" PRIu64 " of the catalog: %s", inode->ino,
				wrong);
	}
	return fs->root ? 0 : log_error(-EUCLEAN, "the catalog has no root folder");
}

static int apply_attr(struct inode *inode, const struct gf_op_attr *op)
{
	MUTEX_GUARD(&inode->lock);
	inode->mode = (inode->mode & S_IFMT) | (op->mode & 07777);
	inode->uid = op->uid;
	inode->gid = op->gid;
	inode->atime_ns = op->atime_ns;
	inode->mtime_ns = op->mtime_ns;
	inode->ctime_ns = op->ctime_ns;
	return 0;
}

static void touch_folder(struct fs *fs, uint64_t ino, int64_t time_ns)
{
	struct inode *dir = tree_find(fs, ino);

	if (!dir)
		return;
	MUTEX_GUARD(&dir->lock);
	dir->mtime_ns = time_ns;
	dir->ctime_ns = time_ns;
}

static void touch_change(struct inode *inode, int64_t time_ns)
{
	MUTEX_GUARD(&inode->lock);
	inode->ctime_ns = time_ns;
}

static int apply_exchange(struct fs *fs, struct inode *inode, struct inode *other, int64_t time_ns)
{
	uint64_t parents[2] = {inode->parent, other->parent};
	CLEANUP_FREE char *name = NULL;
	CLEANUP_FREE char *other_name = NULL;
	int r;

	if (!inode->key || !other->key)
		return -EUCLEAN;
	name = strdup(inode->key->name);
	other_name = strdup(other->key->name);
	if (!name || !other_name)
		return -ENOMEM;
	tree_unlink(fs, inode);
	tree_unlink(fs, other);
	r = tree_link(fs, inode, parents[1], other_name, strlen(other_name));
	if (!r)
		r = tree_link(fs, other, parents[0], name, strlen(name));
	touch_folder(fs, parents[0], time_ns);
	touch_folder(fs, parents[1], time_ns);
	touch_change(inode, time_ns);
	touch_change(other, time_ns);
	return r;
}

static int apply_move(struct fs *fs, struct inode *inode, struct inode *other,
	const struct gf_op_rename *op)
{
	if (other)
		lineage_remove(fs, other);
	if (other)
		tree_unlink(fs, other);
	touch_folder(fs, inode->parent, op->time_ns);
	tree_unlink(fs, inode);
	touch_folder(fs, op->parent, op->time_ns);
	touch_change(inode, op->time_ns);
	return tree_link(fs, inode, op->parent, tail_of(&op->op, sizeof(*op)), op->name_len);
}

static int apply_rename(struct fs *fs, struct inode *inode, const struct gf_op_rename *op)
{
	struct inode *other = op->other ? tree_find(fs, op->other) : NULL;
	struct domain_move move;
	int r;

	if ((op->other && !other) || inode == fs->root || other == fs->root)
		return -EUCLEAN;
	domain_move_begin(fs, &move, inode, other);
	if (op->op.flags & 1)
		r = other ? apply_exchange(fs, inode, other, op->time_ns) : -EUCLEAN;
	else
		r = apply_move(fs, inode, other, op);
	/* A folder below itself would make walks upward endless. */
	if (!r && (!tree_reaches_root(fs, inode) || (other && other->key &&
							    !tree_reaches_root(fs, other))))
		r = -EUCLEAN;
	if (!r)
		domain_move_end(fs, &move);
	return r;
}

static struct xattr **find_xattr(struct inode *inode, const char *name, size_t len)
{
	struct xattr **p = &inode->xattrs;

	while (*p && (strlen((*p)->name) != len || memcmp((*p)->name, name, len) != 0))
		p = &(*p)->next;
	return p;
}

static int apply_xattr(struct inode *inode, const struct gf_op_xattr *op)
{
	const char *name = tail_of(&op->op, sizeof(*op));
	struct xattr **place, *fresh = NULL, *old;

	if (!(op->op.flags & 1)) {
		fresh = calloc(1, sizeof(*fresh));
		if (!fresh)
			return -ENOMEM;
		fresh->name = strndup(name, op->name_len);
		fresh->len = op->value_len;
		fresh->value = malloc(op->value_len + 1);
		if (!fresh->name || !fresh->value) {
			free(fresh->name);
			free(fresh->value);
			free(fresh);
			return -ENOMEM;
		}
		memcpy(fresh->value, name + op->name_len, op->value_len);
	}
	MUTEX_GUARD(&inode->lock);
	inode->ctime_ns = op->time_ns;
	place = find_xattr(inode, name, op->name_len);
	old = *place;
	if (fresh) {
		fresh->next = old ? old->next : NULL;
		*place = fresh;
	} else if (old) {
		*place = old->next;
	}
	if (old) {
		free(old->name);
		free(old->value);
		free(old);
	}
	return 0;
}

static int apply_head(struct fs *fs, struct inode *inode, uint64_t id)
{
	struct layer *fresh = tree_find_layer(fs, id);
	struct layer *old = atomic_load(&inode->layer);

	if (!fresh || !old || fresh->head_of || !inode_is_file(inode))
		return -EUCLEAN;
	tree_layer_get(fresh);
	fresh->head_of = inode->ino;
	atomic_store(&fresh->apart, inode->copy_mode != GF_MODE_SNAPSHOT);
	recast_unplace(old, 0);
	old->head_of = 0;
	atomic_store(&inode->layer, fresh);
	domain_place_file(fs, inode);
	tree_layer_put(fs, old);
	return 0;
}

static int apply_size_meta(struct fs *fs, struct inode *inode, const struct gf_op_size *op)
{
	struct layer *layer = tree_find_layer(fs, op->layer);

	if (!layer || atomic_load(&inode->layer) != layer)
		return -EUCLEAN;
	if (op->size < layer->bound && !MUTATED("truncation leaves what is below in sight"))
		layer_set_bound(layer, op->size);
	if (op->size < atomic_load(&layer->recast_bound))
		atomic_store(&layer->recast_bound, op->size);
	recast_unplace(layer, round_up(op->size, GF_BLOCK_SIZE) / GF_BLOCK_SIZE);
	inode->size = op->size;
	MUTEX_GUARD(&inode->lock);
	inode->mtime_ns = op->time_ns;
	inode->ctime_ns = op->time_ns;
	return 0;
}

/* What a write does to its file beside the blocks. */
static void apply_write_meta(struct fs *fs, const struct gf_op_blocks *op)
{
	struct inode *inode = tree_find(fs, op->ino);

	if (!inode)
		return;
	if (op->size > inode->size)
		inode->size = op->size;
	MUTEX_GUARD(&inode->lock);
	inode->mtime_ns = op->time_ns;
	inode->ctime_ns = op->time_ns;
}

static int apply_pages(struct fs *fs, const struct gf_op_pages *op)
{
	const uint32_t *pair = tail_of(&op->op, sizeof(*op));
	struct layer *layer = tree_find_layer(fs, op->layer);

	if (!layer)
		return -EUCLEAN;
	layer->counts_given = true;
	layer->overlay_blocks = op->overlay_blocks;
	layer->owned_blocks = op->overlay_blocks;
	layer->page_overlay_blocks[0] = op->overlay_blocks;
	for (uint32_t i = 0; i < op->count; i++) {
		uint32_t region, generation;
		int r;

		memcpy(&region, pair + 2 * i, sizeof(region));
		memcpy(&generation, pair + 2 * i + 1, sizeof(generation));
		if (region >= GF_MAX_SIZE / GF_REGION_SIZE || !generation)
			return -EUCLEAN;
		r = layer_add_page(layer, region, generation, op->op.flags & GF_PAGES_SHARED);
		if (r)
			return r;
	}
	return 0;
}

static int apply_ungrow(struct inode *inode, const struct gf_op_ungrow *op)
{
	uint64_t grown = op->grown;

	atomic_compare_exchange_strong(&inode->size, &grown, op->size);
	return 0;
}

static int apply_mode(struct inode *inode, const struct gf_op_mode *op)
{
	struct layer *layer = atomic_load(&inode->layer);

	if (inode->kind == GF_KIND_GOLDEN) {
		inode->golden_left = op->mode == GF_MODE_LEFT;
		return 0;
	}
	if (!layer || op->mode == GF_MODE_LEFT)
		return -EUCLEAN;
	inode->copy_mode = op->mode;
	if (op->mode != GF_MODE_FULL)
		recast_unplace(layer, 0);
	atomic_store(&layer->apart, op->mode != GF_MODE_SNAPSHOT);
	return 0;
}

static int apply_to_inode(
	struct fs *fs, const struct gf_disk_op *op, uint64_t ino, const struct apply *how)
{
	struct inode *inode = tree_find(fs, ino);
	const void *p = op;

	if (!inode)
		return -EUCLEAN;
	/* The root has no name to lose, and a folder goes only when it is empty. */
	if ((op->type == GF_OP_UNLINK || op->type == GF_OP_DROP) &&
		(inode == fs->root || inode->child_count))
		return -EUCLEAN;
	switch ((enum gf_op_type)op->type) {
	case GF_OP_ATTR:
		return apply_attr(inode, p);
	case GF_OP_RENAME:
		return apply_rename(fs, inode, p);
	case GF_OP_XATTR:
		return apply_xattr(inode, p);
	case GF_OP_SIZE:
		return apply_size_meta(fs, inode, p);
	case GF_OP_HEAD:
		return apply_head(fs, inode, ((const struct gf_op_pair *)p)->value);
	case GF_OP_UNLINK:
		touch_folder(fs, inode->parent, ((const struct gf_op_ino *)p)->time_ns);
		touch_change(inode, ((const struct gf_op_ino *)p)->time_ns);
		lineage_remove(fs, inode);
		tree_unlink(fs, inode);
		return 0;
	case GF_OP_DROP:
		tree_drop_inode(fs, inode);
		return 0;
	case GF_OP_LIMIT:
		return limit_apply(fs, inode, ((const struct gf_op_limit *)p)->bytes);
	case GF_OP_DEDUP:
		return domain_apply(fs, inode, p);
	case GF_OP_UNGROW:
		return apply_ungrow(inode, p);
	case GF_OP_SNAPSHOT:
		return snapshot_apply(fs, inode, p, how->loading);
	case GF_OP_POSITION:
		return position_apply(fs, inode, p, how->loading);
	case GF_OP_MODE:
		return apply_mode(inode, p);
	default:
		return -EUCLEAN;
	}
}

static int apply_suspect(struct fs *fs, const struct gf_op_intent *op)
{
	struct layer *layer = tree_find_layer(fs, op->layer);

	return layer ? layer_set_suspect(layer, op->region, op->count) : -EUCLEAN;
}

static int apply_bound(struct fs *fs, const struct gf_op_pair *op)
{
	struct layer *layer = tree_find_layer(fs, op->id);

	if (!layer)
		return -EUCLEAN;
	layer_set_bound(layer, op->value);
	return 0;
}

static int apply_recast(struct fs *fs, const struct gf_op_recast *op)
{
	struct layer *layer = tree_find_layer(fs, op->layer);

	return layer ? tree_recast(fs, layer, op) : -EUCLEAN;
}

static int apply_base(struct fs *fs, const struct gf_op_base *op)
{
	struct layer *layer = tree_find_layer(fs, op->layer);

	return layer ? tree_set_base(fs, layer, op) : -EUCLEAN;
}

static int apply_layer(struct fs *fs, const struct gf_op_layer *op, const struct apply *how)
{
	struct golden *g = op->golden && !how->loading ? tree_find_golden(fs, op->golden) : NULL;

	if (g)
		tree_golden_used(fs, g);
	fs->next_layer = max_u64(fs->next_layer, op->layer + 1);
	return tree_add_layer(fs, op->layer, op->parent, op->golden, op->bound);
}

/* Where one life of the machine follows another, what was marked before may be old or new. */
static int apply_epoch(struct fs *fs, const struct gf_op_epoch *op, const struct apply *how)
{
	int r = 0;

	if (how->replaying && !is_same_boot(fs, op->boot_id))
		r = suspect_marked(fs);
	memcpy(fs->boot_found, op->boot_id, sizeof(fs->boot_found));
	return r;
}

/* A catalog file says what there is, not what happened. */
static bool stands_in_catalog(const struct gf_disk_op *op)
{
	return op->type == GF_OP_INODE || op->type == GF_OP_XATTR || op->type == GF_OP_LAYER ||
	       op->type == GF_OP_GOLDEN || op->type == GF_OP_PAGES ||
	       op->type == GF_OP_SUSPECT || op->type == GF_OP_LIMIT || op->type == GF_OP_DEDUP ||
	       op->type == GF_OP_REQUEST || op->type == GF_OP_EPOCH ||
	       op->type == GF_OP_SNAPSHOT || op->type == GF_OP_POSITION ||
	       op->type == GF_OP_RECAST || op->type == GF_OP_MODE;
}

/* What a folder holds may have changed by more than writing. */
static bool moves_usage(const struct gf_disk_op *op)
{
	return op->type == GF_OP_INODE || op->type == GF_OP_RENAME || op->type == GF_OP_HEAD ||
	       op->type == GF_OP_DROP || op->type == GF_OP_BASE;
}

static int apply_meta(struct fs *fs, const struct gf_disk_op *op, const struct apply *how)
{
	const void *p = op;

	if (how->loading && !stands_in_catalog(op))
		return -EUCLEAN;
	if (moves_usage(op))
		limit_void(fs);
	switch ((enum gf_op_type)op->type) {
	case GF_OP_WRITE:
	case GF_OP_LARGE:
	case GF_OP_SHARE:
		apply_write_meta(fs, p);
		return 0;
	case GF_OP_REQUEST:
		return request_apply(fs, p, how);
	case GF_OP_INODE:
		return apply_inode(fs, p, how);
	case GF_OP_LAYER:
		return apply_layer(fs, p, how);
	case GF_OP_EPOCH:
		return apply_epoch(fs, p, how);
	case GF_OP_GOLDEN:
		fs->next_golden =
			max_u64(fs->next_golden, ((const struct gf_op_golden *)p)->golden + 1);
		return tree_add_golden(fs, p);
	case GF_OP_PAGES:
		return how->loading ? apply_pages(fs, p) : -EUCLEAN;
	case GF_OP_SUSPECT:
		return how->loading ? apply_suspect(fs, p) : -EUCLEAN;
	case GF_OP_BOUND:
		return apply_bound(fs, p);
	case GF_OP_RECAST:
		return apply_recast(fs, p);
	case GF_OP_BASE:
		return apply_base(fs, p);
	case GF_OP_ATTR:
	case GF_OP_RENAME:
	case GF_OP_XATTR:
	case GF_OP_SIZE:
	case GF_OP_HEAD:
	case GF_OP_UNLINK:
	case GF_OP_DROP:
	case GF_OP_LIMIT:
	case GF_OP_DEDUP:
	case GF_OP_UNGROW:
	case GF_OP_SNAPSHOT:
	case GF_OP_POSITION:
	case GF_OP_MODE:
		/* The number of an inode is the first field of all of these. */
		return apply_to_inode(fs, op, ((const struct gf_op_ino *)p)->ino, how);
	default:
		return 0;
	}
}

/* ---- block effects ---- */

static bool is_committed(const struct apply *how, uint64_t layer)
{
	struct commit_point *point;

	HASH_FIND(hh, how->commits, &layer, sizeof(layer), point);
	return point && (point->upto >= how->seq ||
				MUTATED("a commit record covers later writes"));
}

bool apply_is_committed(const struct apply *how, const struct gf_disk_op *op)
{
	return op->flags & GF_LARGE_SYNCED || is_committed(how, ((const struct gf_op_blocks *)op)->layer);
}

#define REPLAY_BLOCKS 256
#define MAX_BLOCKS (GF_MAX_SIZE / GF_BLOCK_SIZE)

/* Blocks that an announcement explains: OVERLAY, with the announced checksums. summed: those stand there,
 * and what stands there gets to the disk. */
static int replay_run(struct fs *fs, struct layer *layer, uint64_t block, const uint32_t *sums,
	uint32_t count, bool summed)
{
	int r = layer_set_state(layer, block, count, GF_OVERLAY);

	if (!r)
		found_explained(fs, layer, block, count);
	if (r || summed)
		return r;
	if (!fs->options.read_only)
		r = layer_write_sums(layer, block, sums, count);
	/* A full or failing disk must not refuse the mount: the next checkpoint writes them. */
	if (r == -EIO)
		layer_fail(fs, layer, r, "write checksums");
	if (fs->options.read_only || r == -ENOSPC || r == -EIO)
		r = layer_note_sums(layer, block, sums, count);
	return r;
}

/*
 * Of what is not in place, that which was: a checksum is written when its bytes are, and while the
 * machine lives neither is lost. These bytes are damaged, and their checksum is to say so. But where
 * the layer had nothing, a hole (reads as zeros, `empty`) was not written: the checksum stayed when
 * the same bytes stood there once and were given up.
 */
static int find_damaged(struct layer *layer, uint64_t block, const uint32_t *sums, uint32_t count,
	const bool *empty, bool *there, bool *summed)
{
	uint32_t stored[REPLAY_BLOCKS];
	int r = layer_read_sums(layer, block, stored, count);

	/* Without its checksums it is in doubt, as after a power loss. */
	for (uint32_t i = 0; i < count && !r; i++)
		there[i] |= stored[i] == sums[i] &&
			    (!empty[i] || layer_any_overlay(layer, block + i, 1) == 1 ||
				    MUTATED("recovery takes a hole for a damaged block"));
	*summed = !r && memcmp(stored, sums, count * sizeof(*sums)) == 0;
	return r == -EUCLEAN || r == -EIO ? 0 : r;
}

/* How many blocks from i on are there, or are not, as that one. */
static uint32_t run_length(const bool *there, uint32_t i, uint32_t count)
{
	uint32_t n = 1;

	while (i + n < count && there[i + n] == there[i])
		n++;
	return n;
}

/*
 * What was found in place is written once more. The dead process may have been told that its sync
 * failed, and the kernel tells only once: its pages would count as clean from then on, and the sync
 * that is to come would find nothing to write. A takeover knows of failed syncs (notes.c).
 * *written: false where a later record is to try it once more.
 */
static int write_again(struct fs *fs, struct layer *layer, uint64_t block, const uint8_t *bytes,
	const bool *there, uint32_t count, bool *written)
{
	int r = 0;

	*written = true;
	if (fs->options.read_only || fs->options.takeover || atomic_load(&layer->failed))
		return 0;
	for (uint32_t i = 0, n; i < count && !r; i += n) {
		n = run_length(there, i, count);
		if (there[i])
			r = layer_write_data(layer, bytes + (size_t)i * GF_BLOCK_SIZE,
				(size_t)n * GF_BLOCK_SIZE, (block + i) * GF_BLOCK_SIZE);
	}
	if (r == -EIO)
		layer_fail(fs, layer, r, "write what was found in place");
	*written = !r;
	return r == -EIO || r == -ENOSPC ? 0 : r;
}

/* Whether the bytes in place are what was announced, for each block; and whether they are zeros. */
static int compare_announced(struct fs *fs, struct layer *layer, uint64_t block,
	const uint32_t *sums, uint32_t count, bool *there, bool *empty)
{
	CLEANUP_FREE uint8_t *bytes = NULL;
	uint32_t found[REPLAY_BLOCKS];
	bool written;
	int r, e;

	if (found_tells(fs, layer, block, sums, count, there, empty))
		return 0;
	bytes = malloc((size_t)count * GF_BLOCK_SIZE);
	if (!bytes)
		return -ENOMEM;
	r = layer_read_data(layer, bytes, (size_t)count * GF_BLOCK_SIZE, block * GF_BLOCK_SIZE);
	/* A failing disk fails somewhere: what can be read is looked at one by one. So is what stands in
	 * two files, of which one may not be there. */
	if (count > 1 && (r == -EIO || (r == -EUCLEAN && block + count == MAX_BLOCKS))) {
		r = 0;
		for (uint32_t i = 0; i < count && !r; i++)
			r = compare_announced(
				fs, layer, block + i, sums + i, 1, there + i, empty + i);
		return r;
	}
	/* -EUCLEAN: not even the file was there; -EIO: it cannot be told. */
	if (r && r != -EUCLEAN && r != -EIO)
		return r;
	for (uint32_t i = 0; i < count; i++) {
		const uint8_t *b = bytes + (size_t)i * GF_BLOCK_SIZE;

		found[i] = r ? 0 : hash_block(fs->super.secret, b);
		there[i] = !r && found[i] == sums[i];
		empty[i] = r == -EUCLEAN || (!r && is_zero(b, GF_BLOCK_SIZE));
	}
	e = write_again(fs, layer, block, bytes, there, count, &written);
	for (uint32_t i = 0; i < count && !r; i++)
		found_note(fs, layer, block + i, found[i], there[i] && written, empty[i]);
	return e;
}

/*
 * What a commit record vouches for is OVERLAY; what stands in place may be newer, and so may its checksum.
 * Over a new mount every later record writes the checksums that it announces, too. Over a takeover those do
 * not whose write is known to have ended: so the checksum of an earlier one must not come between. It is
 * written where the bytes are its own: it was noted in memory only when there was no room for it.
 */
static int take_over_committed(struct fs *fs, struct layer *layer, uint64_t block, const uint32_t *sums,
	uint32_t count)
{
	bool same[REPLAY_BLOCKS], there[REPLAY_BLOCKS], empty[REPLAY_BLOCKS];
	uint32_t stored[REPLAY_BLOCKS];
	int e = layer_read_sums(layer, block, stored, count), r;

	if (e && e != -EUCLEAN && e != -EIO)
		return e;
	r = replay_run(fs, layer, block, sums, count, true);
	for (uint32_t i = 0; i < count; i++)
		same[i] = !e && stored[i] == sums[i];
	for (uint32_t i = 0, n; i < count && !r; i += n) {
		n = run_length(same, i, count);
		if (same[i])
			continue;
		r = compare_announced(fs, layer, block + i, sums + i, n, there, empty);
		for (uint32_t k = 0; k < n && !r; k++)
			if (there[k])
				r = replay_run(fs, layer, block + i + k, sums + i + k, 1, false);
	}
	return r;
}

/* *whole becomes false when some of it is not there. */
static int replay_piece(struct fs *fs, struct layer *layer, uint64_t block, const uint32_t *sums,
	uint32_t count, const struct apply *how, bool committed, bool *whole)
{
	bool there[REPLAY_BLOCKS], empty[REPLAY_BLOCKS], summed = false;
	uint32_t n;
	int r;

	if (how->in_place)
		return replay_run(fs, layer, block, sums, count, true);
	if (committed && fs->options.takeover &&
		!MUTATED("a takeover repeats the checksums of what was committed"))
		return take_over_committed(fs, layer, block, sums, count);
	if (committed || MUTATED("an uncommitted large write counts unseen"))
		return replay_run(fs, layer, block, sums, count, false);
	r = compare_announced(fs, layer, block, sums, count, there, empty);
	if (!r && how->alive)
		r = find_damaged(layer, block, sums, count, empty, there, &summed);
	/* For the reason that write_again() gives, checksums are written once more, too. */
	if (!fs->options.takeover)
		summed = false;
	for (uint32_t i = 0; i < count && !r; i += n) {
		n = run_length(there, i, count);
		*whole &= there[i];
		r = there[i] ? replay_run(fs, layer, block + i, sums + i, n, summed) :
			       found_doubt(fs, layer, block + i, n);
	}
	return r;
}

/*
 * As if this process had written what recovery found. Also what is committed: as long as the record is in
 * the ring it is replayed, so its blocks stay where they are (dedup.c).
 *
 * It has to be committed before anything large goes over it; not what a dead process wrote that somebody
 * takes over from: these are writes as any others. A commit record of that process may not be durable yet,
 * though.
 */
static void note_found(struct fs *fs, struct layer *layer, const struct apply *how, bool committed)
{
	const bool durable = committed && (!fs->options.takeover ||
						  MUTATED("a takeover takes commit records for durable"));

	if (!committed || !MUTATED("blocks move that a committed record in the ring refers to"))
		layer->large_seq = max_u64(layer->large_seq, how->seq);
	if (is_committed(how, layer->id))
		layer_set_committed(layer, how->seq);
	if (how->found && !durable && !MUTATED("large writes go over what recovery found"))
		layer->recovered = true;
}

/*
 * Of an announced large write, what is in place: run by run becomes OVERLAY, with the checksums made
 * true. The rest keeps its older version; where that is in the same place, it is old, new or some
 * sectors of each, and its checksum is made true when all records are replayed.
 */
static int replay_large(struct fs *fs, struct layer *layer, const struct gf_op_blocks *op,
	const struct apply *how)
{
	const uint8_t *announced = tail_of(&op->op, sizeof(*op));
	bool committed = apply_is_committed(how, &op->op);
	bool whole = true;
	uint32_t sums[REPLAY_BLOCKS], n;
	int r = 0;

	for (uint32_t i = 0; i < op->count && !r; i += n) {
		n = min_u64(op->count - i, REPLAY_BLOCKS);
		memcpy(sums, announced + (size_t)i * sizeof(*sums), n * sizeof(*sums));
		r = replay_piece(fs, layer, op->block + i, sums, n, how, committed, &whole);
	}
	if (r)
		return r;
	/* The process that wrote this may have died before it synced anything. */
	if (!MUTATED("recovery takes what it found in place for durable"))
		layer_set_unsynced(layer);
	note_found(fs, layer, how, committed);
	/* A commit record would vouch for what did not arrive: a checkpoint comes first. */
	if (!whole && !how->recalling && !MUTATED("recovery commits a large write that is not whole")) {
		layer->poison_seq = max_u64(layer->poison_seq, how->seq);
		layer_note_large_failure(layer, how->seq, true);
	}
	return 0;
}

/* The same once more while the layer is in use: what was in place then still is. */
static int recall_large(struct fs *fs, struct layer *layer, const struct gf_op_blocks *op,
	const struct apply *how)
{
	int r;

	if (layer_large_outcome(layer, how->seq) == LARGE_IN_PART)
		return replay_large(fs, layer, op, how);
	r = layer_set_state(layer, op->block, op->count, GF_OVERLAY);
	/* The sync that failed may have lost checksums. */
	if (!r && !atomic_load(&layer->failed))
		layer_write_sums(layer, op->block, tail_of(&op->op, sizeof(*op)), op->count);
	return r;
}

/* ---- blocks that are announced as SHARED ---- */

/* As write_again(), for the pool. */
static int write_place_again(struct fs *fs, uint64_t place, const uint8_t *bytes, uint32_t sum)
{
	int r;

	if (fs->options.read_only || fs->options.takeover || !place_is_pool(place))
		return 0;
	r = pool_write_again(fs->pool, place_to_slot(place), bytes, sum);
	return r == -EIO || r == -ENOSPC ? 0 : r;
}

/*
 * Whether what stands there is what was announced, with its checksum. A place that is gone holds it no
 * longer. alive: the machine lives since; the bytes and their checksum were written before the record
 * was, so when only one of the two is not as announced, it is damaged: what is damaged in place, and
 * not the block's older version, is what there is then.
 */
static bool is_shared_there(struct fs *fs, uint64_t place, uint32_t sum, bool alive)
{
	uint8_t bytes[GF_BLOCK_SIZE];
	uint32_t stored = sum;
	bool right;

	if (place_is_pool(place) && pool_read_sums(fs->pool, place_to_slot(place), &stored, 1))
		return false;
	right = shared_read(fs, place, bytes) == 0 && hash_block(fs->super.secret, bytes) == sum;
	if (right && stored == sum)
		return write_place_again(fs, place, bytes, sum) == 0;
	return alive && (right || stored == sum);
}

static bool place_is_gone(struct fs *fs, uint64_t place, bool recalling)
{
	if (!place_is_pool(place))
		return !tree_golden_image(fs, place_to_golden(place));
	return !recalling && !pool_found(fs->pool, place_to_slot(place), 1);
}

/* Where there is no such place it is lost, if nothing newer follows. */
static int replay_shared_block(struct fs *fs, struct layer *layer, uint64_t block, uint64_t place,
	bool recalling)
{
	if (place_is_gone(fs, place, recalling) || !layer_ref_place(layer, place))
		return layer_set_state(layer, block, 1, GF_SHARED);
	return layer_set_shared(layer, block, 1, &place);
}

/*
 * Of blocks announced as SHARED, those that count: all when a commit record covers them, otherwise
 * those whose place holds the announced bytes. The others keep their older version. Nothing was
 * overwritten in place, so none of them is in doubt.
 */
static int replay_share(struct fs *fs, struct layer *layer, const struct gf_op_share *op,
	const struct apply *how)
{
	const uint8_t *sums = tail_of(&op->blocks.op, sizeof(*op));
	bool committed = apply_is_committed(how, &op->blocks.op);
	int r = 0;

	for (uint32_t i = 0; i < op->blocks.count && !r; i++) {
		uint64_t block = op->blocks.block + i, place = op->place + i;
		uint32_t sum;

		memcpy(&sum, sums + (size_t)i * sizeof(sum), sizeof(sum));
		if (committed || is_shared_there(fs, place, sum, how->alive)) {
			r = replay_shared_block(fs, layer, block, place, false);
		} else {
			layer->poison_seq = max_u64(layer->poison_seq, how->seq);
			layer_note_missing(layer, how->seq, block);
		}
	}
	if (r)
		return r;
	note_found(fs, layer, how, committed);
	return 0;
}

/* The same once more while the layer is in use: what counted then does, and nothing else, whatever
 * stands in those places by now. */
static int recall_share(struct fs *fs, struct layer *layer, const struct gf_op_share *op,
	const struct apply *how)
{
	int r = 0;

	for (uint32_t i = 0; i < op->blocks.count && !r; i++)
		if (!layer_is_missing(layer, how->seq, op->blocks.block + i) ||
			MUTATED("recalled blocks are SHARED that recovery did not find"))
			r = replay_shared_block(fs, layer, op->blocks.block + i, op->place + i, true);
	return r;
}

/* Over a hole of the golden image PARENT says zero as well as ZERO does, and takes no map page:
 * a guest that discards its whole disk costs nothing. */
static int clear_over_image(struct layer *layer, uint64_t block, uint64_t end)
{
	while (block < end) {
		uint64_t start, stop, n;
		int r = layer->image->ops->next_data(
			layer->image, block * GF_BLOCK_SIZE, &start, &stop);

		if (r == -ENXIO)
			start = stop = end * GF_BLOCK_SIZE;
		else if (r)
			return layer_set_state(layer, block, end - block, GF_ZERO);
		n = min_u64(start / GF_BLOCK_SIZE, end) - block;
		r = n ? layer_set_state(layer, block, n, GF_PARENT) : 0;
		block += n;
		n = min_u64(round_up(stop, GF_BLOCK_SIZE) / GF_BLOCK_SIZE, end);
		if (!r && n > block)
			r = layer_set_state(layer, block, n - block, GF_ZERO);
		if (r)
			return r;
		block = max_u64(block, n);
	}
	return 0;
}

static int apply_clear(struct layer *layer, const struct gf_op_clear *op)
{
	/* The next image may have no hole there. */
	if (op->op.flags == GF_ZERO && layer->image && !atomic_load(&layer->keeps))
		return clear_over_image(layer, op->block, op->block + op->count);
	return layer_set_state(layer, op->block, op->count, op->op.flags);
}

static int apply_intent(struct layer *layer, const struct gf_op_intent *op, const struct apply *how)
{
	if (op->count)
		return layer_mark(layer, op->region, op->count, how->seq);
	if (!how->replaying || !MUTATED("replay forgets that a new layer is marked as a whole"))
		layer_mark_new(layer);
	return 0;
}

static int apply_blocks(struct fs *fs, const struct gf_disk_op *op, const struct apply *how,
	uint64_t op_pos)
{
	const void *p = op;
	uint64_t id = 0;
	struct layer *layer;

	switch ((enum gf_op_type)op->type) {
	case GF_OP_WRITE:
	case GF_OP_LARGE:
	case GF_OP_SHARE:
	case GF_OP_CLEAR:
	case GF_OP_SIZE:
		/* ino, then layer, in all of them. */
		id = ((const struct gf_op_clear *)p)->layer;
		break;
	case GF_OP_INTENT:
		id = ((const struct gf_op_intent *)p)->layer;
		break;
	default:
		return 0;
	}
	layer = tree_find_layer(fs, id);
	if (!layer || (how->only && how->only != layer))
		return 0; /* dropped by a record that the catalog contains */
	switch ((enum gf_op_type)op->type) {
	case GF_OP_WRITE:
		return layer_set_journaled(layer, ((const struct gf_op_blocks *)p)->block,
			((const struct gf_op_blocks *)p)->count,
			op_pos + sizeof(struct gf_op_blocks), how->seq,
			tail_of(op, sizeof(struct gf_op_blocks)));
	case GF_OP_LARGE:
		return how->recalling ? recall_large(fs, layer, p, how) :
			how->replaying ? replay_large(fs, layer, p, how) : 0;
	case GF_OP_SHARE:
		return how->recalling ? recall_share(fs, layer, p, how) :
		       how->replaying ? replay_share(fs, layer, p, how) : 0;
	case GF_OP_CLEAR:
		return apply_clear(layer, p);
	case GF_OP_SIZE:
		return layer_clear_from(layer,
			round_up(((const struct gf_op_size *)p)->size, GF_BLOCK_SIZE) /
				GF_BLOCK_SIZE);
	case GF_OP_INTENT:
		return apply_intent(layer, p, how);
	default:
		return 0;
	}
}

int apply_ops(struct fs *fs, const void *ops, size_t len, const struct apply *how)
{
	const struct gf_disk_op *op;
	size_t pos = 0, at = 0;
	int r;

	while ((op = ops_next(ops, len, &pos, &r)) != NULL) {
		if (how->meta)
			r = apply_meta(fs, op, how);
		if (!r && how->blocks)
			r = apply_blocks(fs, op, how, how->ops_pos + at);
		if (r)
			return log_error(r, "record %" PRIu64 ": op %u cannot be applied", how->seq,
				op->type);
		at = pos;
	}
	return r;
}

/* ---- the catalog as ops ---- */

static int serialize_golden(struct opbuf *buf, const struct golden *g)
{
	struct gf_op_golden *op;
	size_t len = strlen(g->path);

	if (!OPBUF_ADD(buf, GF_OP_GOLDEN, atomic_load(&g->left) ? GF_GOLDEN_LEFT : 0, op, len))
		return -ENOMEM;
	op->golden = g->id;
	op->size = g->print.size;
	op->mtime_ns = g->print.mtime_ns;
	op->sample = g->print.sample;
	op->dev = g->dev;
	op->node = g->node;
	op->pin = g->pin;
	op->path_len = len;
	memcpy(op + 1, g->path, len);
	return 0;
}

static int serialize_pages(struct opbuf *buf, struct layer *layer)
{
	const struct page_list *list;
	struct gf_op_pages *op;
	size_t bytes;
	int r = layer_list_pages(layer, &list);

	if (r || !list->count)
		return r;
	bytes = list->count * sizeof(*list->names);
	if (!OPBUF_ADD(buf, GF_OP_PAGES, layer->may_share ? GF_PAGES_SHARED : 0, op, bytes))
		return -ENOMEM;
	op->layer = layer->id;
	op->overlay_blocks = layer->left_out ? layer->page_overlay_blocks[0] : layer->overlay_blocks;
	op->count = list->count;
	memcpy(op + 1, list->names, bytes);
	return 0;
}

static int serialize_suspects(struct opbuf *buf, struct layer *layer)
{
	uint32_t from = 0, count;

	while ((from = layer_next_suspect(layer, from, &count)) != LAYER_NO_REGION) {
		struct gf_op_intent *op;

		if (!OPBUF_ADD(buf, GF_OP_SUSPECT, 0, op, 0))
			return -ENOMEM;
		op->layer = layer->id;
		op->region = from;
		op->count = count;
		from += count;
	}
	return 0;
}

static int serialize_recast(struct opbuf *buf, struct layer *layer)
{
	struct gf_op_recast *op;

	if (layer->recast.kind == GF_RECAST_NONE)
		return 0;
	if (!OPBUF_ADD(buf, GF_OP_RECAST, 0, op, 0))
		return -ENOMEM;
	op->layer = layer->id;
	op->ino = layer->recast.ino;
	op->golden = layer->recast.golden;
	op->bound = atomic_load(&layer->recast_bound);
	op->rate = layer->recast.rate;
	op->kind = layer->recast.kind;
	return 0;
}

static int serialize_mode(struct opbuf *buf, const struct inode *inode)
{
	uint32_t mode = inode->golden_left ? GF_MODE_LEFT : inode->copy_mode;

	return mode == GF_MODE_SNAPSHOT ? 0 : op_add_mode(buf, inode->ino, mode);
}

static int serialize_layer(struct opbuf *buf, struct layer *layer)
{
	struct gf_op_layer *op;
	int r;

	if (!OPBUF_ADD(buf, GF_OP_LAYER, 0, op, 0))
		return -ENOMEM;
	op->layer = layer->id;
	op->parent = layer->parent ? layer->parent->id : 0;
	op->golden = layer->golden;
	op->bound = layer->bound;
	r = serialize_pages(buf, layer);
	if (!r)
		r = serialize_recast(buf, layer);
	return r ? r : serialize_suspects(buf, layer);
}

static int serialize_lineage(struct opbuf *buf, const struct inode *inode)
{
	unsigned flags = (is_snapshot(inode) ? inode->automatic : inode->replaced) ? 1 : 0;
	struct gf_op_pair *op;

	if (!is_snapshot(inode) && !inode->base && !inode->replaced)
		return 0;
	if (!OPBUF_ADD(buf, is_snapshot(inode) ? GF_OP_SNAPSHOT : GF_OP_POSITION, flags, op, 0))
		return -ENOMEM;
	op->id = inode->ino;
	op->value = inode->base;
	return 0;
}

static int serialize_inode(struct opbuf *buf, struct inode *inode)
{
	struct layer *layer = atomic_load(&inode->layer);
	struct fs_attr attr = {
		.ino = inode->ino,
		.mode = inode->mode,
		.uid = inode->uid,
		.gid = inode->gid,
		.size = inode->kind == GF_KIND_GOLDEN ? inode->golden_node : inode->size,
		.atime_ns = inode->atime_ns,
		.mtime_ns = inode->kind == GF_KIND_GOLDEN ? inode->golden_mtime_ns : inode->mtime_ns,
		.ctime_ns = inode->ctime_ns,
		.btime_ns = inode->btime_ns,
	};
	int r = op_add_inode(buf, &attr, inode->parent,
		inode->kind == GF_KIND_GOLDEN ? inode->golden_dev : layer ? layer->id : 0,
		inode->key ? inode->key->name : "", inode->target ? inode->target : "", inode->kind);

	if (!r)
		r = serialize_mode(buf, inode);
	if (!r && inode->limit && inode->limit->bytes) {
		struct gf_op_limit *op;

		if (!OPBUF_ADD(buf, GF_OP_LIMIT, 0, op, 0))
			return -ENOMEM;
		op->ino = inode->ino;
		op->bytes = inode->limit->bytes;
	}
	if (!r)
		r = domain_serialize(buf, inode);
	if (!r)
		r = serialize_lineage(buf, inode);
	for (const struct xattr *x = inode->xattrs; x && !r; x = x->next) {
		size_t len = strlen(x->name);
		struct gf_op_xattr *op;

		if (!OPBUF_ADD(buf, GF_OP_XATTR, 0, op, len + x->len))
			return -ENOMEM;
		op->ino = inode->ino;
		op->time_ns = inode->ctime_ns;
		op->name_len = len;
		op->value_len = x->len;
		memcpy(op + 1, x->name, len);
		memcpy((char *)(op + 1) + len, x->value, x->len);
	}
	return r;
}

static int serialize_epoch(struct opbuf *buf, const struct fs *fs)
{
	struct gf_op_epoch *op;

	if (!OPBUF_ADD(buf, GF_OP_EPOCH, 0, op, 0))
		return -ENOMEM;
	op->epoch = fs->epoch;
	op->time_ns = now_ns();
	memcpy(op->boot_id, fs->boot, sizeof(fs->boot));
	return 0;
}

int catalog_serialize(struct fs *fs, struct opbuf *buf)
{
	struct golden *golden, *next_golden;
	struct layer_entry *entry, *next_entry;
	struct inode *inode, *next_inode;
	int r = serialize_epoch(buf, fs);

	HASH_ITER (hh, fs->goldens, golden, next_golden)
		r = r ? r : serialize_golden(buf, golden);
	/* A layer stands on older ones only, and the table keeps the order of insertion. */
	HASH_ITER (hh, fs->layers, entry, next_entry)
		r = r ? r : serialize_layer(buf, entry->layer);
	HASH_ITER (by_ino, fs->inodes, inode, next_inode)
		if (!r && !inode->golden_stale)
			r = serialize_inode(buf, inode);
	if (!r)
		r = requests_serialize(fs, buf);
	return buf->failed ? -ENOMEM : r;
}
