/* SPDX-License-Identifier: MIT */
/*
 * Another base for a layer that shows what it showed: rebase, copies of their own, folding.
 *
 * A layer L stands on B and is to stand on C. What L shows must not change for anybody at any time,
 * and clients may be writing to it. So L is made to show the same over C while it is on B still,
 * and then one record says that it stands on C:
 *
 *   1. RECAST is recorded. From then on nothing becomes PARENT in L by being compared with B. What
 *      is not PARENT shows the same over anything, and only becomes more.
 *   2. Pull (recast_blocks.c): every block that is PARENT and would show something else over C
 *      becomes L's own, by a record as of a client's write.
 *   3. L is flushed, and what is below it: commit records cover what stands in place. The journal is
 *      synced.
 *   4. BASE is recorded, with no write or destage of L under way. It changes what is below L and
 *      nothing else; all records before it are in the journal, and what they say of blocks does not
 *      depend on the base (PARENT before RECAST was said: 2 looked at it).
 *   5. Drop: blocks of L's own that are equal to C become PARENT, by a record each.
 *
 * A crash before 4 leaves L on B, with some blocks of its own that it need not have; after 4 on C.
 * RECAST stands in the catalog, so whoever mounts next goes on with 2, which passes over what is
 * done. When it is given up, RECAST NONE is recorded, and 5 makes of L over B what it was.
 *
 * RECAST is not synced, and need not be: whatever was done under it stands in records behind it, recovery
 * takes no record without all that are before, and no map page or catalog contains more than the journal
 * was synced up to. So who loses RECAST with the power loses all of the work with it, and L is on B what
 * it was. What came into its data file stands where L is PARENT, which nobody reads; that, and the places
 * of a full copy, are given back as after any write that was lost. A pin that only RECAST held is one to
 * which nothing refers. The same goes for RECAST NONE and the PARENT records behind it. BASE is synced
 * since whoever asked is told then that it is done.
 *
 * No layer is made and no byte that L owns is moved. (A new layer beside L was the first design: it
 * would have copied all that L owns, needed a freeze of L, grown the chain by it, and could be an
 * orphan.) Readers: layer_resolve() takes states and base at one moment. Who found B before 4 may
 * be reading from it still, so B is freed by a checkpoint that waits for readers, as ever.
 *
 *   rebase   C is another golden image
 *   thin     C is nothing; nothing is shared by content (layer.apart)
 *   full     the same, and there is a place for each block
 *   fold     B is a frozen layer that nobody else needs, and C what that stands on
 */
#include "core/recast.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/mutation.h"
#include "base/sizes.h"
#include "base/times.h"
#include "core/dedup.h"

#define BEGIN_ROOM (sizeof(struct gf_op_golden) + GF_PATH_MAX + sizeof(struct gf_op_recast) + 64)
#define SWITCH_ROOM (sizeof(struct gf_op_base) + sizeof(struct gf_op_mode) + 64)
#define BUSY_POLL_US 100000

/* What is asked for. */
struct wish {
	uint64_t ino;
	enum gf_recast_kind kind;
	uint64_t golden_ino; /* 0: none */
	const struct fs_recast_options *options;
};

/* ---- 1: it begins ---- */

static int add_recast(struct opbuf *buf, const struct layer *layer, const struct recast *rc,
	uint64_t ino, uint64_t bound)
{
	struct gf_op_recast *op;

	if (!OPBUF_ADD(buf, GF_OP_RECAST, 0, op, 0))
		return -ENOMEM;
	op->layer = layer->id;
	op->ino = ino;
	op->golden = rc->golden;
	op->bound = bound;
	op->rate = rc->rate;
	op->kind = rc->kind;
	return 0;
}

/* Whether the layer is being made what is asked for already, and is only to go on. */
static bool goes_on(const struct layer *layer, const struct recast *rc)
{
	return layer->recast.kind == rc->kind && layer->recast.golden == rc->golden;
}

/* tree is held exclusively. The layer is held, and busy, when it returns 0. */
static int begin_layer_locked(
	struct recast *rc, struct layer *layer, uint64_t ino, uint64_t bound, struct opbuf *buf)
{
	int r = 0;

	if (failing_layer(layer))
		return -EIO;
	if (atomic_load(&layer->recast_busy))
		return -EAGAIN;
	if (layer->recast.kind != GF_RECAST_NONE && !goes_on(layer, rc))
		return -EALREADY;
	if (layer->recast.kind == GF_RECAST_NONE) {
		r = add_recast(buf, layer, rc, ino, bound);
		/* Who has compared with what is below, and not said so yet, comes before. */
		if (!MUTATED("a recast begins while others compare with what is below"))
			pthread_rwlock_wrlock(&rc->fs->sharing);
		else
			pthread_rwlock_rdlock(&rc->fs->sharing);
		if (!r)
			r = record_commit(rc->fs, buf, NULL);
		pthread_rwlock_unlock(&rc->fs->sharing);
	}
	if (r)
		return r;
	rc->rate = layer->recast.rate;
	rc->layer = layer;
	atomic_fetch_add(&layer->users, 1);
	atomic_store(&layer->recast_busy, true);
	return 0;
}

/* Whether nobody gives the layer below another base. */
static bool stands_on_rest(const struct layer *layer)
{
	return layer->parent && layer->parent->recast.kind == GF_RECAST_NONE &&
	       !atomic_load(&layer->parent->recast_busy);
}

/* A frozen layer that is to go must not go before. Nor must it come to stand on something else: what
 * it was found not to have it may have got from what it stood on. */
static void hold_fold(struct recast *rc)
{
	rc->fold = rc->layer->parent;
	atomic_fetch_add(&rc->fold->users, 1);
	atomic_store(&rc->fold->recast_busy,
		!MUTATED("a layer that is to go gets another base before"));
}

static void let_fold_go(struct recast *rc)
{
	if (!rc->fold)
		return;
	atomic_store(&rc->fold->recast_busy, false);
	atomic_fetch_sub(&rc->fold->users, 1);
	rc->fold = NULL;
}

int recast_begin_fold(struct recast *rc, struct layer *layer)
{
	int64_t room = record_reserve(rc->fs, BEGIN_ROOM);
	struct inode *head;
	struct opbuf buf;
	int r = -EAGAIN;

	if (room < 0)
		return (int)room;
	opbuf_init(&buf);
	r = fs_use_feature(rc->fs, GF_INCOMPAT_RECAST);
	tree_lock(rc->fs);
	head = layer->head_of ? tree_find(rc->fs, layer->head_of) : NULL;
	if (head)
		pthread_rwlock_wrlock(&head->io);
	if (head)
		head->copy_task = 0;
	if (!r && (!layer->refs || !stands_on_rest(layer) || layer->parent->refs != 1 ||
			  layer->parent->head_of))
		r = -EAGAIN;
	if (!r)
		r = begin_layer_locked(rc, layer, layer->head_of,
			min_u64(layer->bound, layer->parent->bound), &buf);
	if (!r)
		hold_fold(rc);
	if (head)
		pthread_rwlock_unlock(&head->io);
	pthread_rwlock_unlock(&rc->fs->tree);
	journal_unreserve(rc->fs->journal, room);
	opbuf_release(&buf);
	return r;
}

int recast_resume(struct recast *rc, struct layer *layer)
{
	struct opbuf buf;
	int r = -EAGAIN;

	opbuf_init(&buf);
	tree_lock(rc->fs);
	rc->kind = layer->recast.kind;
	rc->golden = layer->recast.golden;
	if (layer->refs && rc->kind != GF_RECAST_NONE &&
		(rc->kind != GF_RECAST_FOLD || stands_on_rest(layer)))
		r = begin_layer_locked(rc, layer, 0, 0, &buf);
	if (!r && rc->kind == GF_RECAST_FOLD)
		hold_fold(rc);
	pthread_rwlock_unlock(&rc->fs->tree);
	opbuf_release(&buf);
	return r;
}

/* tree is held exclusively. */
static int begin_file_locked(
	struct recast *rc, struct inode *inode, uint64_t golden_size, struct opbuf *buf)
{
	struct layer *layer;
	int r;

	pthread_rwlock_wrlock(&inode->io);
	layer = atomic_load(&inode->layer);
	/* Its next call moves bytes, as when the layer is frozen. */
	inode->copy_task = 0;
	r = begin_layer_locked(rc, layer, inode->ino,
		rc->golden ? min_u64(golden_size, atomic_load(&inode->size)) : 0, buf);
	pthread_rwlock_unlock(&inode->io);
	return r;
}

/* A file that can be recast, with a reference. */
static int find_file(struct fs *fs, uint64_t ino, struct inode **inode)
{
	int r = 0;

	pthread_rwlock_rdlock(&fs->tree);
	*inode = tree_find(fs, ino);
	if (!*inode)
		r = -ESTALE;
	else if (!inode_is_file(*inode) || (*inode)->kind != GF_KIND_USER)
		r = S_ISDIR((*inode)->mode) ? -EISDIR : -EINVAL;
	else
		atomic_fetch_add(&(*inode)->lookups, 1);
	pthread_rwlock_unlock(&fs->tree);
	return r;
}

/* The golden node, with a reference. */
static int find_golden(struct fs *fs, uint64_t ino, struct inode **node)
{
	int r = 0;

	pthread_rwlock_rdlock(&fs->tree);
	*node = tree_find(fs, ino);
	if (!*node)
		r = -ESTALE;
	else if ((*node)->kind != GF_KIND_GOLDEN)
		r = -EINVAL;
	else
		atomic_fetch_add(&(*node)->lookups, 1);
	pthread_rwlock_unlock(&fs->tree);
	return r;
}

/* pin_lock held. */
static int begin_pinned(struct recast *rc, struct inode *inode, struct inode *node)
{
	struct fs *fs = rc->fs;
	struct pinned pinned = {0};
	struct opbuf buf;
	int r = fs_use_feature(fs, GF_INCOMPAT_RECAST);

	opbuf_init(&buf);
	if (!r && node)
		r = golden_pin(fs, node, false, &buf, &pinned);
	if (!r) {
		tree_lock(fs);
		rc->golden = pinned.id;
		/* Found without the lock, and gone with its last clone meanwhile. */
		if (node && !pinned.fresh && !buf.len && !tree_find_golden(fs, pinned.id))
			r = -EAGAIN;
		else
			r = begin_file_locked(rc, inode, pinned.size, &buf);
		if (node)
			golden_pinned(fs, &pinned, r);
		pthread_rwlock_unlock(&fs->tree);
	}
	opbuf_release(&buf);
	return r;
}

bool recast_is_stopped(const struct fs_recast_options *o)
{
	return o && o->progress && o->progress(o->arg, 0, 0);
}

static int begin_once(struct recast *rc, struct inode *inode, struct inode *node)
{
	int64_t room = record_reserve(rc->fs, BEGIN_ROOM);
	int r;

	if (room < 0)
		return (int)room;
	pthread_mutex_lock(&rc->fs->pin_lock);
	r = begin_pinned(rc, inode, node);
	pthread_mutex_unlock(&rc->fs->pin_lock);
	journal_unreserve(rc->fs->journal, room);
	return r;
}

/* Waits for others who work on the same layer. */
static int begin(struct recast *rc, struct inode *inode, struct inode *node)
{
	int r;

	while ((r = begin_once(rc, inode, node)) == -EAGAIN) {
		if (recast_is_stopped(rc->options))
			return -ECANCELED;
		usleep(BUSY_POLL_US);
	}
	return r;
}

/* ---- two images that are compared ---- */

static void take_equal(struct recast *rc)
{
	struct fs *fs = rc->fs;
	struct golden *from, *to;
	uint64_t from_id;

	pthread_rwlock_rdlock(&fs->tree);
	from_id = atomic_load(&rc->layer->leaving);
	from = from_id ? tree_find_golden(fs, from_id) : NULL;
	to = rc->golden ? tree_find_golden(fs, rc->golden) : NULL;
	rc->image = to ? &to->image : NULL;
	pthread_mutex_lock(&fs->recast_lock);
	if (from && to) {
		if (!fs->recast_equal_users &&
			!recast_equal_is_of(fs->recast_equal, from_id, rc->golden)) {
			recast_equal_free(fs->recast_equal);
			fs->recast_equal = recast_equal_new(from_id, rc->golden,
				min_u64(from->image.size, to->image.size) / GF_BLOCK_SIZE);
		}
		if (recast_equal_is_of(fs->recast_equal, from_id, rc->golden)) {
			rc->equal = fs->recast_equal;
			fs->recast_equal_users++;
		}
	}
	pthread_mutex_unlock(&fs->recast_lock);
	pthread_rwlock_unlock(&fs->tree);
}

static void give_equal(struct recast *rc)
{
	if (!rc->equal)
		return;
	MUTEX_GUARD(&rc->fs->recast_lock);
	rc->equal = NULL;
	rc->fs->recast_equal_users--;
}

/* ---- 3 and 4: it stands on something else ---- */

static int add_base(struct opbuf *buf, const struct recast *rc)
{
	const struct layer *layer = rc->layer;
	struct gf_op_base *op;

	if (!OPBUF_ADD(buf, GF_OP_BASE, atomic_load(&layer->leaving) ? GF_BASE_LEFT : 0, op, 0))
		return -ENOMEM;
	op->layer = layer->id;
	op->golden = rc->golden;
	op->bound = atomic_load(&layer->recast_bound);
	if (rc->fold) {
		op->parent = rc->fold->parent ? rc->fold->parent->id : 0;
		op->golden = rc->fold->golden;
		op->bound = min_u64(layer->bound, rc->fold->bound);
	}
	return 0;
}

int op_add_mode(struct opbuf *buf, uint64_t ino, uint32_t mode)
{
	struct gf_op_mode *op;

	if (!OPBUF_ADD(buf, GF_OP_MODE, 0, op, 0))
		return -ENOMEM;
	op->ino = ino;
	op->mode = mode;
	return 0;
}

/* tree is held. When snapshots were taken meanwhile, they stand on the layer, and the file on them. */
static bool stands_on(const struct inode *inode, const struct layer *layer)
{
	const struct layer *at = atomic_load(&inode->layer);

	while (at && at != layer)
		at = at->parent;
	return at != NULL;
}

/* The file whose mode it is becomes what was asked for; it may have another layer by now. */
static int add_mode(struct opbuf *buf, const struct recast *rc, const struct inode *head)
{
	enum gf_mode mode = rc->kind == GF_RECAST_THIN	 ? GF_MODE_THIN
			    : rc->kind == GF_RECAST_FULL ? GF_MODE_FULL
							 : GF_MODE_SNAPSHOT;

	if (!head || head->kind != GF_KIND_USER || rc->kind == GF_RECAST_FOLD ||
		head->copy_mode == mode)
		return 0;
	return op_add_mode(buf, head->ino, mode);
}

/* tree is held exclusively. */
static int switch_locked(struct recast *rc)
{
	struct fs *fs = rc->fs;
	struct layer *layer = rc->layer;
	struct inode *head = layer->head_of ? tree_find(fs, layer->head_of) : NULL;
	struct inode *owner = head;
	struct opbuf buf;
	int r = 0;

	if (!owner && rc->inode && stands_on(rc->inode, layer))
		owner = rc->inode;
	if (!layer->refs)
		return -ESTALE;
	if (!goes_on(layer, rc) || (rc->fold && (rc->fold != layer->parent || rc->fold->refs != 1)))
		return -ECANCELED;
	opbuf_init(&buf);
	if (head)
		pthread_rwlock_wrlock(&head->io);
	/* Nobody compares with what is below just now. */
	pthread_rwlock_wrlock(&fs->sharing);
	if (failing_layer(layer))
		r = -EIO;
	if (!r)
		r = add_base(&buf, rc);
	if (!r)
		r = add_mode(&buf, rc, owner);
	if (!r)
		r = record_commit(fs, &buf, NULL);
	pthread_rwlock_unlock(&fs->sharing);
	if (head)
		pthread_rwlock_unlock(&head->io);
	opbuf_release(&buf);
	return r;
}

static int switch_base(struct recast *rc)
{
	struct fs *fs = rc->fs;
	int64_t room;
	int r;

	/* What was pulled is there before it is needed; as a client's fsync. What is below comes with it, as
	 * from then on an fsync of the file does not reach what its snapshots stand on. */
	r = SITE("recast: commit what was pulled", flush_layer(fs, rc->layer));
	if (!r)
		r = SITE("recast: commit what is left behind", flush_below(fs, rc->layer));
	if (r)
		return r;
	room = record_reserve(fs, SWITCH_ROOM);
	if (room < 0)
		return (int)room;
	tree_lock(fs);
	r = switch_locked(rc);
	pthread_rwlock_unlock(&fs->tree);
	journal_unreserve(fs->journal, room);
	if (!r)
		r = SITE("recast: sync the journal",
			journal_sync(fs->journal, journal_last_seq(fs->journal)));
	figures_changed(fs);
	return r;
}

/* ---- the end ---- */

static void record_end(struct recast *rc)
{
	struct fs *fs = rc->fs;
	int64_t room = record_reserve_urgent(fs, BEGIN_ROOM);
	struct recast none = {.kind = GF_RECAST_NONE};
	struct opbuf buf;

	/* The next mount goes on with it then. */
	if (room < 0)
		return;
	opbuf_init(&buf);
	tree_lock(fs);
	if (rc->layer->refs && rc->layer->recast.kind != GF_RECAST_NONE &&
		add_recast(&buf, rc->layer, &none, 0, 0) == 0)
		record_commit(fs, &buf, NULL);
	pthread_rwlock_unlock(&fs->tree);
	journal_unreserve(fs->journal, room);
	opbuf_release(&buf);
}

/* It comes to nothing: the layer is to have no more of its own than it had. */
static void give_up(struct recast *rc)
{
	const struct fs_recast_options quiet = {0};

	record_end(rc);
	if (rc->kind == GF_RECAST_FULL)
		recast_unplace(rc->layer, 0);
	rc->options = &quiet;
	rc->pace.rate = 0;
	if (!fs_writable(rc->fs))
		recast_drop(rc);
}

static bool is_put_off(const struct recast *rc)
{
	const struct fs_recast_options *o = rc->options;

	return o && o->is_put_off && o->is_put_off(o->arg);
}

/* Before anything is copied: it fits, or it does not begin. */
static int place_all(struct recast *rc)
{
	struct inode *inode;
	uint64_t size;
	int r = 0;

	pthread_rwlock_rdlock(&rc->fs->tree);
	inode = rc->layer->head_of ? tree_find(rc->fs, rc->layer->head_of) : NULL;
	size = inode ? atomic_load(&inode->size) : 0;
	pthread_rwlock_unlock(&rc->fs->tree);
	if (!inode)
		return -ESTALE;
	if (rc->inode)
		r = limit_check(rc->fs, rc->inode,
			less_u64(size, layer_kept_blocks(rc->layer) * GF_BLOCK_SIZE), true);
	if (r)
		return r;
	pthread_mutex_lock(&rc->fs->place_lock);
	r = recast_place(rc->fs, rc->layer, size);
	pthread_mutex_unlock(&rc->fs->place_lock);
	return r ? r : SITE("recast: sync the places", layer_sync_data(rc->layer));
}

/* Whether the file went elsewhere while it was worked on, by a rollback for one: then all was done for what it
 * left. */
static bool went_elsewhere(const struct recast *rc)
{
	bool elsewhere;

	pthread_rwlock_rdlock(&rc->fs->tree);
	elsewhere = rc->inode->key && !stands_on(rc->inode, rc->layer);
	pthread_rwlock_unlock(&rc->fs->tree);
	return elsewhere;
}

/* Steps 2 to 5 of a layer that begin() left busy. */
int recast_work(struct recast *rc)
{
	int r;

	pace_init(&rc->pace, rc->fs, rc->rate);
	take_equal(rc);
	r = rc->kind == GF_RECAST_FULL ? place_all(rc) : 0;
	if (!r)
		r = recast_pull(rc);
	if (!r)
		r = switch_base(rc);
	give_equal(rc);
	let_fold_go(rc);
	if (r == -ECANCELED && is_put_off(rc))
		r = -EINTR;
	else if (r && r != -EINTR)
		give_up(rc);
	if (!r && rc->kind == GF_RECAST_FOLD)
		recast_place_again(rc->fs, rc->layer);
	if (!r && (rc->kind == GF_RECAST_REBASE || rc->kind == GF_RECAST_FOLD)) {
		/* What is left of its own may be found elsewhere, in the new image for one. Only
		 * space is lost when this does not come to its end. */
		recast_drop(rc);
		dedup_owe_all(rc->fs, rc->layer);
	}
	if (!r && rc->inode && went_elsewhere(rc))
		r = -ESTALE;
	figures_changed(rc->fs);
	atomic_store(&rc->layer->recast_busy, false);
	atomic_fetch_sub(&rc->layer->users, 1);
	return r == -EUCLEAN ? -EIO : r;
}

/* Nothing has to be copied for that: what is written from now on is looked for elsewhere, and by
 * the next settling what is there. */
static int share_again(struct fs *fs, uint64_t ino)
{
	int64_t room = record_reserve(fs, SWITCH_ROOM);
	struct recast rc = {.fs = fs, .kind = GF_RECAST_REBASE};
	struct inode *inode;
	struct opbuf buf;
	int r = 0;

	if (room < 0)
		return (int)room;
	opbuf_init(&buf);
	tree_lock(fs);
	inode = tree_find(fs, ino);
	if (!inode)
		r = -ESTALE;
	if (!r)
		r = add_mode(&buf, &rc, inode);
	if (!r && buf.len)
		r = record_commit(fs, &buf, NULL);
	if (!r)
		dedup_owe_all(fs, atomic_load(&inode->layer));
	pthread_rwlock_unlock(&fs->tree);
	journal_unreserve(fs->journal, room);
	opbuf_release(&buf);
	return r ? r
		 : SITE("recast: sync the mode",
			   journal_sync(fs->journal, journal_last_seq(fs->journal)));
}

static int recast_file(struct fs *fs, const struct wish *wish)
{
	struct recast rc = {.fs = fs,
		.kind = wish->kind,
		.options = wish->options,
		.rate = wish->options ? wish->options->rate : 0};
	struct inode *inode, *node = NULL;
	int r = fs_writable(fs);

	if (!r)
		r = find_file(fs, wish->ino, &inode);
	if (r)
		return r;
	if (wish->golden_ino)
		r = find_golden(fs, wish->golden_ino, &node);
	rc.inode = inode;
	if (!r)
		r = begin(&rc, inode, node);
	if (!r)
		r = recast_work(&rc);
	if (node)
		fs_forget(fs, wish->golden_ino, 1);
	fs_forget(fs, wish->ino, 1);
	damage_report(fs);
	return r;
}

int fs_rebase(struct fs *fs, uint64_t ino, uint64_t golden, const struct fs_recast_options *options)
{
	return recast_file(fs, &(struct wish){.ino = ino,
				       .kind = GF_RECAST_REBASE,
				       .golden_ino = golden,
				       .options = options});
}

int fs_convert(struct fs *fs, uint64_t ino, enum fs_mode mode, uint64_t golden,
	const struct fs_recast_options *options)
{
	struct wish wish = {.ino = ino,
		.options = options,
		.kind = mode == FS_MODE_FULL ? GF_RECAST_FULL : GF_RECAST_THIN};
	struct inode *inode;
	int r;

	if (mode != FS_MODE_SNAPSHOT)
		return golden ? -EINVAL : recast_file(fs, &wish);
	if (golden)
		return fs_rebase(fs, ino, golden, options);
	r = fs_writable(fs);
	if (!r)
		r = find_file(fs, ino, &inode);
	if (r)
		return r;
	r = share_again(fs, ino);
	fs_forget(fs, ino, 1);
	return r;
}

/* ---- what it would come to ---- */

/* An image in its folder, which need not be kept for that. */
struct trial_image {
	struct image image; /* first */
	struct fs *fs;
	struct inode *node; /* open */
};

static int trial_read(struct image *image, void *buf, size_t len, uint64_t off)
{
	struct trial_image *t = (struct trial_image *)image;
	ssize_t n = golden_read(t->fs, t->node, buf, len, off);

	if (n < 0)
		return (int)n;
	memset((uint8_t *)buf + n, 0, len - (size_t)n);
	return 0;
}

static int trial_next_data(struct image *image, uint64_t off, uint64_t *start, uint64_t *end)
{
	struct trial_image *t = (struct trial_image *)image;
	int64_t at = golden_seek(t->fs, t->node, off, SEEK_DATA);

	if (at < 0)
		return (int)at;
	*start = (uint64_t)at;
	at = golden_seek(t->fs, t->node, *start, SEEK_HOLE);
	*end = at < 0 ? image->size : (uint64_t)at;
	return at < 0 ? (int)at : 0;
}

static int try_open(struct fs *fs, struct trial_image *image)
{
	struct fs_attr attr;
	int r = golden_open(fs, image->node, NULL);

	if (r)
		return r;
	r = golden_getattr(fs, image->node, &attr);
	if (r)
		golden_close(fs, image->node);
	else
		image->image.size = attr.size;
	return r;
}

static int try_layer(struct recast *rc, struct inode *inode)
{
	int r;

	pace_init(&rc->pace, rc->fs, 0);
	pthread_rwlock_rdlock(&rc->fs->tree);
	rc->layer = atomic_load(&inode->layer);
	atomic_fetch_add(&rc->layer->users, 1);
	rc->trial_bound = min_u64(rc->image->size, atomic_load(&inode->size));
	pthread_rwlock_unlock(&rc->fs->tree);
	r = recast_pull(rc);
	if (!r)
		r = recast_drop(rc);
	atomic_fetch_sub(&rc->layer->users, 1);
	return r;
}

int fs_rebase_gain(struct fs *fs, uint64_t ino, uint64_t golden, struct fs_gains *gains, int64_t *gain,
	const struct fs_recast_options *options)
{
	static const struct image_ops ops = {.read = trial_read, .next_data = trial_next_data};
	struct trial_image image = {.image = {.ops = &ops}, .fs = fs};
	struct recast rc = {.fs = fs,
		.kind = GF_RECAST_REBASE,
		.trial = gains,
		.image = &image.image,
		.options = options};
	struct inode *inode;
	int r = find_file(fs, ino, &inode);

	if (r)
		return r;
	r = find_golden(fs, golden, &image.node);
	if (!r) {
		r = try_open(fs, &image);
		if (!r) {
			r = try_layer(&rc, inode);
			golden_close(fs, image.node);
		}
		fs_forget(fs, golden, 1);
	}
	fs_forget(fs, ino, 1);
	*gain = ((int64_t)rc.would_drop - (int64_t)rc.would_store) * (int64_t)GF_BLOCK_SIZE;
	return r == -EUCLEAN ? -EIO : r;
}
