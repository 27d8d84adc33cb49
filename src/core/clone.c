/* SPDX-License-Identifier: MIT */
/*
 * Clones: a new file whose layer stands on what another file is at this instant.
 *
 * Whatever the image's size, a clone is a few ops. Of a golden image: its pin, and a layer on it.
 * Of a clone: its top layer is frozen, and both files go on with an empty layer over it; when the
 * top layer owns nothing the new file simply stands where the source stands, so that making many
 * clones of an idle one makes no tower. All clones of a batch are one record: all or none.
 *
 * copy_file_range() is how `cp` gets here. A copy from 0 to 0 into an empty file attaches the
 * source, frozen, under a bound: only what was copied so far shows through. Further calls of the
 * same thread that go on where the last one ended move the bound. Any other copy moves bytes.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/mutation.h"
#include "base/sizes.h"
#include "core/promote.h"
#include "core/snapshot.h"

#define COPY_PIECE (1 * MIB)
#define COPY_CALL (8 * MIB) /* bytes that one call moves at most: the inode is locked meanwhile */

/* ---- a batch of clones ---- */

struct batch_order {
	const struct fs_clone_target *target;
	size_t index;
};

static int compare_targets(const void *a, const void *b)
{
	const struct batch_order *x = a, *y = b;

	if (x->target->parent != y->target->parent)
		return x->target->parent < y->target->parent ? -1 : 1;
	return strcmp(x->target->name, y->target->name);
}

/* The same name twice would be a record that contradicts itself. */
static int check_distinct(const struct fs_clone_target *targets, size_t count, size_t *failed)
{
	CLEANUP_FREE struct batch_order *order = malloc(count * sizeof(*order));

	if (!order)
		return -ENOMEM;
	for (size_t i = 0; i < count; i++)
		order[i] = (struct batch_order){.target = &targets[i], .index = i};
	qsort(order, count, sizeof(*order), compare_targets);
	for (size_t i = 1; i < count; i++) {
		if (compare_targets(&order[i - 1], &order[i]) == 0) {
			*failed = max_u64(order[i - 1].index, order[i].index);
			return -EEXIST;
		}
	}
	return 0;
}

static int add_replace(struct fs *fs, struct opbuf *buf, const struct fs_clone_target *target,
	const struct source *src, struct snap_build *snaps)
{
	struct inode *other =
		tree_find_name(fs, target->parent, target->name, strlen(target->name));
	int r;

	if (other == src->inode)
		return -EINVAL;
	if (S_ISDIR(other->mode))
		return -EISDIR;
	r = snapshots_add_unlink(fs, snaps, other);
	return r ? r : op_add_unlink(buf, other);
}

struct batch {
	const struct fs_clone_target *targets;
	size_t count;
	struct fs_owner owner;
	uint32_t mode;
	bool replace;
	const struct fs_clone_judge *judge; /* NULL: none */
	size_t *failed;
	size_t bound; /* bytes that the record has */
	enum gf_inode_kind kind;
	uint64_t rate; /* of a promoted one: see promote_add_rate() */
};

/* What stands at the target's name, if anything, may be replaced in its folder by who asks. */
static int ask_judge(struct fs *fs, const struct batch *b, size_t i)
{
	const struct fs_clone_target *t = &b->targets[i];
	struct inode *dir = tree_find(fs, t->parent);
	struct inode *other = tree_find_name(fs, t->parent, t->name, strlen(t->name));
	struct fs_attr folder, existing;

	if (!b->judge || !dir)
		return 0;
	inode_attr(fs, dir, &folder);
	if (other)
		inode_attr(fs, other, &existing);
	return b->judge->may(b->judge->arg, i, &folder, other ? &existing : NULL);
}

static int add_clone(struct fs *fs, struct opbuf *buf, struct source *src, const struct batch *b,
	size_t i, struct snap_build *snaps)
{
	int64_t time_ns = snaps->time_ns;
	const struct fs_clone_target *t = &b->targets[i];
	struct fs_attr attr = {
		.ino = fs->next_ino + i,
		.mode = S_IFREG | (b->mode & 07777),
		.uid = b->owner.uid,
		.gid = b->owner.gid,
		.size = src->at.size,
		.atime_ns = time_ns,
		.mtime_ns = time_ns,
		.ctime_ns = time_ns,
		.btime_ns = time_ns,
	};
	uint64_t layer;
	int r = names_can_make(fs, t->parent, t->name);

	*b->failed = i;
	if (r == -EEXIST && b->replace && !name_is_reserved(t->parent, t->name))
		r = 0;
	if (!r)
		r = ask_judge(fs, b, i);
	/* The layer comes first: what is replaced may be the last to hold the golden image. */
	if (!r)
		r = op_add_layer(buf, &src->at, &src->next_layer, &layer);
	if (!r && tree_find_name(fs, t->parent, t->name, strlen(t->name)))
		r = add_replace(fs, buf, t, src, snaps);
	if (!r)
		r = op_add_inode(buf, &attr, t->parent, layer, t->name, "", b->kind);
	if (!r && b->rate)
		r = promote_add_rate(buf, attr.ino, b->rate);
	if (!r && (i == 0 || b->targets[i - 1].parent != t->parent))
		r = names_add_folder_times(fs, buf, t->parent, time_ns);
	return r;
}

static int clone_batch_locked(struct fs *fs, struct opbuf *buf, struct source *src, struct batch *b)
{
	struct snap_build snaps;
	int r = source_freeze(fs, src, buf);

	if (r == -EAGAIN)
		return r;
	snap_build_begin(fs, &snaps, buf);
	for (size_t i = 0; i < b->count && !r; i++)
		r = add_clone(fs, buf, src, b, i, &snaps);
	if (!r)
		r = request_add(buf, b->count);
	if (!r && buf->len > b->bound) {
		b->bound = buf->len + SOURCE_OPS_BOUND;
		r = -EAGAIN;
	}
	if (!r)
		r = record_commit(fs, buf, NULL);
	source_thaw(src);
	snap_build_end(&snaps);
	return r;
}

/* -EAGAIN: once more, the source's pin is gone or the record needs more room. */
static int clone_batch(struct fs *fs, uint64_t ino, bool opaque, struct batch *b)
{
	int64_t room = record_reserve(fs, b->bound);
	struct source src;
	struct opbuf buf;
	int r;

	if (room < 0)
		return room;
	opbuf_init(&buf);
	r = source_begin(fs, ino, opaque, &buf, &src);
	if (!r) {
		tree_lock(fs);
		r = clone_batch_locked(fs, &buf, &src, b);
		source_end(fs, &src, r);
		pthread_rwlock_unlock(&fs->tree);
		fs_forget(fs, ino, 1);
	}
	opbuf_release(&buf);
	journal_unreserve(fs->journal, room);
	return r;
}

int fs_clone(struct fs *fs, uint64_t ino, const struct fs_clone_target *targets, size_t count,
	struct fs_owner owner, uint32_t mode, bool replace, bool opaque,
	const struct fs_clone_judge *judge, size_t *failed)
{
	struct batch b = {targets, count, owner, mode, replace, judge, failed, SOURCE_OPS_BOUND,
		GF_KIND_USER, 0};
	int r = 0;

	*failed = 0;
	for (size_t i = 0; i < count && !r; i++) {
		*failed = i;
		r = name_check(targets[i].name);
		b.bound += sizeof(struct gf_op_layer) + sizeof(struct gf_op_intent) +
			 sizeof(struct gf_op_inode) + sizeof(struct gf_op_attr) + 2 * sizeof(struct gf_op_ino) +
			 strlen(targets[i].name) + 8;
	}
	if (!r)
		r = check_distinct(targets, count, failed);
	if (r)
		return r;
	do {
		r = clone_batch(fs, ino, opaque, &b);
	} while (r == -EAGAIN);
	if (!r)
		COUNT(fs, clones_made, count);
	return r;
}

int clone_promoted(struct fs *fs, uint64_t ino, const struct fs_clone_target *target, uint32_t mode,
	uint64_t rate)
{
	size_t failed;
	struct batch b = {.targets = target, .count = 1, .owner = {geteuid(), getegid()},
		.mode = mode, .failed = &failed, .bound = SOURCE_OPS_BOUND + 1024,
		.kind = GF_KIND_PROMOTED, .rate = rate};
	int r;

	do {
		r = clone_batch(fs, ino, false, &b);
	} while (r == -EAGAIN);
	return r;
}

/* ---- copy_file_range ---- */

/* Whatever the layer of an empty file stands on, nothing of it shows: it can be replaced. */
static bool is_blank(struct inode *inode)
{
	return atomic_load(&inode->size) == 0;
}

/*
 * Nothing but a hole in [from, to) of what a copy stands on: a frozen layer, or an image. What the
 * bound is about to show there was not copied, so it must be zeros.
 */
static bool is_hole(struct layer *below, struct image *image, uint64_t from, uint64_t to)
{
	uint64_t start, end;

	while (from < to && below) {
		struct extent x;

		if (layer_resolve(below, from / GF_BLOCK_SIZE, GF_MAX_SIZE / GF_BLOCK_SIZE, false, &x))
			return false;
		end = (from / GF_BLOCK_SIZE + x.count) * GF_BLOCK_SIZE;
		if (x.kind == EXTENT_IMAGE && !is_hole(NULL, x.image, from, min_u64(end, to)))
			return false;
		if (x.kind != EXTENT_ZERO && x.kind != EXTENT_IMAGE)
			return false;
		from = end;
	}
	if (from >= to || !image)
		return true;
	return image->ops->next_data(image, from, &start, &end) == -ENXIO || start >= to;
}

/* The pinned image that the source is; NULL when it is a clone, or pinned in this very record. */
static struct image *image_of(struct fs *fs, const struct source *src)
{
	struct golden *g = src->at.golden ? tree_find_golden(fs, src->at.golden) : NULL;

	if (!g && src->at.golden && fs->options.golden_test)
		return fs->options.golden_test(
			fs->options.golden_test_arg, strtoull(src->inode->target, NULL, 10));
	return g ? &g->image : src->pinned.backing;
}

/* A first call: dst gets a layer on the frozen source that shows its first `end` bytes. */
static int attach_locked(struct fs *fs, struct source *src, struct inode *dst, uint64_t from,
	uint64_t end, struct opbuf *buf)
{
	uint64_t layer, whole;
	int r = source_freeze(fs, src, buf);

	if (r == -EAGAIN)
		return r;
	if (!r && !is_hole(src->at.parent ? tree_find_layer(fs, src->at.parent) : NULL,
			   image_of(fs, src), 0, min_u64(from, src->at.bound)))
		r = -EBUSY;
	end = min_u64(end, src->at.size);
	whole = src->at.bound;
	src->at.bound = min_u64(whole, end);
	if (!r)
		r = op_add_layer(buf, &src->at, &src->next_layer, &layer);
	pthread_rwlock_wrlock(&dst->io);
	if (!r && !is_blank(dst))
		r = -EBUSY; /* somebody wrote to it meanwhile: an ordinary copy */
	if (!r)
		r = op_add_head(buf, dst->ino, layer);
	if (!r)
		r = op_add_size(buf, dst->ino, layer, end);
	if (!r)
		r = request_add(buf, end);
	if (!r)
		r = record_commit(fs, buf, NULL);
	if (!r) {
		dst->copy_end = end;
		dst->copy_limit = src->at.size;
		dst->copy_bound = whole;
		dst->copy_from = src->inode->ino;
	}
	pthread_rwlock_unlock(&dst->io);
	source_thaw(src);
	return r;
}

static int attach(struct fs *fs, uint64_t src_ino, struct inode *dst, uint64_t from, uint64_t end,
	uint64_t task)
{
	struct source src;
	struct opbuf buf;
	int64_t room;
	int r;

	room = record_reserve(fs, SOURCE_OPS_BOUND);
	if (room < 0)
		return room;
	opbuf_init(&buf);
	/* cp copies the bytes of an image, whatever its format. */
	r = source_begin(fs, src_ino, true, &buf, &src);
	if (!r) {
		tree_lock(fs);
		r = attach_locked(fs, &src, dst, from, end, &buf);
		if (!r)
			dst->copy_task = task;
		source_end(fs, &src, r);
		pthread_rwlock_unlock(&fs->tree);
		fs_forget(fs, src_ino, 1);
	}
	opbuf_release(&buf);
	journal_unreserve(fs->journal, room);
	if (!r)
		COUNT(fs, clones_made, 1);
	return r;
}

/* A further call: the bound moves. */
static int extend_locked(struct fs *fs, struct inode *dst, uint64_t end)
{
	struct layer *layer = atomic_load(&dst->layer);
	struct gf_op_pair *op;
	struct opbuf buf;
	int r;

	opbuf_init(&buf);
	if (OPBUF_ADD(&buf, GF_OP_BOUND, 0, op, 0)) {
		op->id = layer->id;
		op->value = min_u64(end, dst->copy_bound);
	}
	r = op_add_size(&buf, dst->ino, layer->id, end);
	if (!r)
		r = request_add(&buf, end);
	if (!r)
		r = record_commit(fs, &buf, NULL);
	if (!r)
		dst->copy_end = end;
	opbuf_release(&buf);
	return r;
}

/* Only where the last call ended: whoever else made the file longer has not copied anything. And
 * only at the end of a block: somebody may have written to one that was shown in part, and then it
 * hides what is below. */
static bool goes_on(struct inode *dst, uint64_t src, uint64_t off, uint64_t task)
{
	return dst->copy_task && dst->copy_task == task && dst->copy_from == src &&
	       dst->copy_end % GF_BLOCK_SIZE == 0 &&
	       atomic_load(&dst->size) == dst->copy_end && off >= dst->copy_end &&
	       off < dst->copy_limit;
}

/* The gap between what was copied so far and `off`. */
static bool shows_hole(struct inode *dst, uint64_t off)
{
	struct layer *layer = atomic_load(&dst->layer);

	return is_hole(layer->parent, layer->image, atomic_load(&dst->size),
		min_u64(off, dst->copy_bound));
}

static int extend(struct fs *fs, uint64_t src, struct inode *dst, uint64_t off, uint64_t end,
	uint64_t task)
{
	int64_t room = record_reserve(fs, 256);
	int r = -EBUSY;

	if (room < 0)
		return room;
	pthread_rwlock_wrlock(&dst->io);
	/* Who closes the file ends the copy, and what it was to show is nobody's then. */
	pthread_rwlock_rdlock(&fs->sharing);
	if (goes_on(dst, src, off, task) && shows_hole(dst, off))
		r = extend_locked(fs, dst, min_u64(end, dst->copy_limit));
	pthread_rwlock_unlock(&fs->sharing);
	pthread_rwlock_unlock(&dst->io);
	journal_unreserve(fs->journal, room);
	return r;
}

static ssize_t copy_bytes(struct fs *fs, uint64_t src, uint64_t src_off, uint64_t dst,
	uint64_t dst_off, size_t len)
{
	CLEANUP_FREE uint8_t *buf = malloc(COPY_PIECE);
	size_t done = 0;

	if (!buf)
		return -ENOMEM;
	len = min_u64(len, COPY_CALL);
	while (done < len) {
		ssize_t n = fs_read(fs, src, buf, min_u64(COPY_PIECE, len - done), src_off + done);

		if (n > 0)
			n = fs_write(fs, dst, buf, n, dst_off + done);
		if (n <= 0)
			return done ? (ssize_t)done : n;
		done += n;
	}
	return done;
}

ssize_t fs_copy_range(struct fs *fs, uint64_t src_ino, uint64_t src_off, uint64_t dst_ino,
	uint64_t dst_off, size_t len, uint64_t task)
{
	struct inode *src, *dst = NULL;
	struct fs_attr attr;
	uint64_t end, at;
	int r;

	src = volume_find(fs, src_ino, &r);
	if (src)
		dst = volume_find(fs, dst_ino, &r);
	if (!r)
		r = fs_getattr(fs, src_ino, &attr);
	if (r)
		return r;
	if (dst->kind != GF_KIND_USER)
		return -EROFS;
	if (src_off >= attr.size || !len)
		return 0;
	/* A call that moved bytes is not recorded and moves them once more. */
	if (fs_request_is_done(fs, &end))
		return end > src_off ? min_u64(len, end - src_off) : 0;
	end = min_u64(src_off + len, attr.size);
	at = atomic_load(&dst->size);
	r = -EBUSY;
	if (src != dst && src_off == dst_off && task && src_off >= at) {
		if (at == 0 && !atomic_load(&dst->copy_task))
			r = attach(fs, src_ino, dst, src_off, end, task);
		else
			r = extend(fs, src_ino, dst, src_off, end, task);
	}
	if (!r)
		return atomic_load(&dst->size) > src_off ? min_u64(len,
			atomic_load(&dst->size) - src_off) : 0;
	return copy_bytes(fs, src_ino, src_off, dst_ino, dst_off, len);
}
