/* SPDX-License-Identifier: MIT */
/*
 * Limits: how many bytes of its own a folder with all below it, or one clone, may hold.
 *
 * What counts is what removing all of it would free: blocks in the files' own layers, those that
 * stand in the journal only included, and blocks of frozen layers that nobody outside sees. Files
 * that were removed while open count where they were last. Limits lie within limits; each holds.
 *
 * A write must not add that up each time. So each limit has a headroom, from which writes take what
 * they may need; what they overwrite is taken too, so it errs on one side only. When it does not
 * suffice, the write finds out how much it really needs (nothing, if it overwrites), and usage is
 * added up anew: the layers' counters over all files, which are always current. Frozen layers are
 * first counted whole; only if that is too much, a walk over the families (figures.c) finds what is
 * seen outside too, and its result is kept for a second, as long as these layers hold the same and no
 * file came, went or moved.
 * Whatever moves files or freezes layers makes all headrooms void.
 *
 * So a limit is exceeded by no more than what was in flight while usage was added up.
 *
 * Limits are set by root and the owner of the mount. They stand in the catalog with their inode.
 */
#include <errno.h>
#include <stdlib.h>
#include <time.h>

#include "base/blocking.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/mutation.h"
#include "base/sizes.h"
#include "base/times.h"
#include "core/snapshot.h"
#include "store/pool.h"

#define EXACT_INTERVAL_NS INT64_C(1000000000)

/* The folder that a file is in, or was in when it lost its name. tree held. */
static struct inode *folder_of(struct fs *fs, struct inode *inode)
{
	uint64_t parent = inode->key ? inode->parent : inode->last_parent;

	/* A snapshot counts as if it lay below its file. */
	if (inode->kind == GF_KIND_SNAPSHOT)
		return snapshots_home(fs, inode);

	return inode == fs->root || !parent ? NULL : tree_find(fs, parent);
}

static bool is_within(struct fs *fs, struct inode *inode, const struct inode *top)
{
	/* The bound is for folders that lost their names and now refer to each other. */
	for (unsigned n = HASH_CNT(by_ino, fs->inodes) + 1; inode && n; n--) {
		if (inode == top)
			return true;
		inode = folder_of(fs, inode);
	}
	return false;
}

/* ---- usage ---- */

struct usage {
	uint64_t own;	 /* bytes in layers that files below write to */
	uint64_t frozen; /* bytes in frozen layers that files below stand on */
	uint64_t *inos;	 /* of the files, when wanted */
	size_t count;
};

/* What stands in the pool: of this layer alone, and with others, who may be within the folder too. */
static void add_pooled(struct fs *fs, const struct layer *layer, struct usage *u)
{
	struct pool_layer_figures f;

	if (!layer->may_share)
		return;
	pool_layer_figures(fs->pool, layer->id, &f);
	if (layer->head_of)
		u->own += f.exclusive * GF_BLOCK_SIZE;
	else
		u->frozen += f.exclusive * GF_BLOCK_SIZE;
	u->frozen += (f.refs - f.exclusive - f.self_refs) * GF_BLOCK_SIZE;
}

/* tree (shared) and limit_lock held. */
static int add_up(struct fs *fs, const struct inode *top, struct usage *u, bool list)
{
	struct inode *inode, *next;

	fs->limit_stamp++;
	if (list)
		u->inos = malloc((HASH_CNT(by_ino, fs->inodes) + 1) * sizeof(*u->inos));
	if (list && !u->inos)
		return -ENOMEM;
	HASH_ITER (by_ino, fs->inodes, inode, next) {
		struct layer *layer = atomic_load(&inode->layer);

		if (!layer || !is_within(fs, inode, top))
			continue;
		u->own += layer_kept_blocks(layer) * GF_BLOCK_SIZE;
		add_pooled(fs, layer, u);
		/* Who stands on a layer that was counted stands on counted ones only. */
		for (layer = layer->parent; layer && layer->limit_stamp != fs->limit_stamp;
			layer = layer->parent) {
			layer->limit_stamp = fs->limit_stamp;
			u->frozen += atomic_load(&layer->owned_blocks) * GF_BLOCK_SIZE;
			add_pooled(fs, layer, u);
		}
		if (list)
			u->inos[u->count++] = inode->ino;
	}
	return 0;
}

/* Bytes of frozen layers that nobody else sees. limit_lock held, tree not. */
static uint64_t exact_frozen(struct fs *fs, struct inode *top, struct usage *u)
{
	struct limit *l = top->limit;
	uint64_t bytes = 0, epoch = atomic_load(&fs->limit_epoch);

	/* Who sees what is another matter once a snapshot was deleted. */
	if (l->frozen_sum == u->frozen && l->frozen_epoch == epoch &&
		times_now(CLOCK_MONOTONIC) - l->frozen_time_ns < EXACT_INTERVAL_NS)
		return l->frozen_exact;
	if (figures_freed(fs, u->inos, u->count, &bytes))
		return u->frozen;
	l->frozen_sum = u->frozen;
	l->frozen_epoch = epoch;
	l->frozen_exact = bytes > u->own ? min_u64(bytes - u->own, u->frozen) : 0;
	l->frozen_time_ns = times_now(CLOCK_MONOTONIC);
	return l->frozen_exact;
}

/* What top holds; exactly when it seems to be more than `enough`. limit_lock held, tree not. */
static uint64_t usage_of(struct fs *fs, struct inode *top, uint64_t enough)
{
	struct usage u = {0};
	int r;

	pthread_rwlock_rdlock(&fs->tree);
	r = add_up(fs, top, &u, false);
	pthread_rwlock_unlock(&fs->tree);
	if (!r && u.frozen && u.own + u.frozen > enough) {
		u = (struct usage){0};
		pthread_rwlock_rdlock(&fs->tree);
		r = add_up(fs, top, &u, true);
		pthread_rwlock_unlock(&fs->tree);
		if (!r)
			u.frozen = exact_frozen(fs, top, &u);
		free(u.inos);
	}
	return u.own + u.frozen;
}

/* ---- warnings ---- */

static void warn_if_near(struct fs *fs, struct inode *top, uint64_t used)
{
	struct limit *l = top->limit;
	unsigned level = space_level(l->level, used, l->bytes);
	CLEANUP_FREE char *path = NULL;

	if (level == l->level)
		return;
	if (fs_path(fs, top->ino, &path) == 0 && level > l->level)
		log_warning("\"%s\" holds %u %% of its limit, %llu of %llu MiB; remove or discard "
			    "something there, or raise the limit with goldfs limit",
			path, level, (unsigned long long)(used / MIB),
			(unsigned long long)(l->bytes / MIB));
	else if (path)
		log_info("\"%s\" is below %u %% of its limit again", path, l->level);
	l->level = level;
}

/* ---- taking ---- */

static bool take(struct limit *l, uint64_t epoch, uint64_t len)
{
	int64_t room = atomic_load(&l->headroom);

	while (atomic_load(&l->epoch) == epoch && room >= (int64_t)len)
		if (atomic_compare_exchange_weak(&l->headroom, &room, room - (int64_t)len))
			return true;
	return false;
}

/* Up to where nothing needs to be added up: the next level of warning, or the limit. */
static uint64_t next_stop(uint64_t bytes, uint64_t used)
{
	static const unsigned levels[] = {80, 90, 95};

	for (size_t i = 0; i < ARRAY_SIZE(levels); i++)
		if (used < bytes / 100 * levels[i])
			return bytes / 100 * levels[i];
	return bytes;
}

/* Adds usage up, then takes. limit_lock held. */
static int take_anew(struct fs *fs, struct inode *top, uint64_t len)
{
	uint64_t epoch = atomic_load(&fs->limit_epoch), used, room;
	struct limit *l = top->limit;

	used = usage_of(fs, top, less_u64(l->bytes, len));
	warn_if_near(fs, top, used);
	room = less_u64(next_stop(l->bytes, used), used);
	if (room < len && used <= l->bytes && l->bytes - used >= len)
		room = len;
	atomic_store(&l->headroom, (int64_t)room);
	atomic_store(&l->epoch, epoch);
	return take(l, epoch, len) ? 0 : -ENOSPC;
}

/* The inodes with limits from a file upwards; *count of them. tree held, so that they stay: a limit
 * is freed with its inode only, and a folder with something in it is not. */
static size_t collect(struct fs *fs, struct inode *inode, struct inode **list, size_t room)
{
	size_t count = 0;

	for (unsigned n = HASH_CNT(by_ino, fs->inodes) + 1; inode && n; n--) {
		if (inode->limit && inode->limit->bytes && count < room)
			list[count++] = inode;
		inode = folder_of(fs, inode);
	}
	return count;
}

int limit_check(struct fs *fs, struct inode *inode, uint64_t len, bool anew)
{
	uint64_t epoch = atomic_load(&fs->limit_epoch);
	struct inode *list[LIMIT_DEPTH];
	size_t count, first, i;

	if (!atomic_load(&fs->limit_count))
		return 0;
	if (anew) {
		about_to_block();
		pthread_mutex_lock(&fs->limit_lock);
	}
	pthread_rwlock_rdlock(&fs->tree);
	count = collect(fs, inode, list, LIMIT_DEPTH);
	for (i = 0; i < count && take(list[i]->limit, epoch, len); i++)
		;
	first = i;
	/* Folders with a reference are not freed while it is added up. */
	for (size_t k = i; anew && k < count; k++)
		atomic_fetch_add(&list[k]->lookups, 1);
	pthread_rwlock_unlock(&fs->tree);
	for (size_t k = i; anew && k < count; k++) {
		if (take_anew(fs, list[k], len))
			break;
		i = k + 1;
	}
	if (anew)
		pthread_mutex_unlock(&fs->limit_lock);
	/* What a failed write took from the others comes back when they are added up. */
	for (size_t k = first; anew && k < count; k++)
		fs_forget(fs, list[k]->ino, 1);
	return i == count ? 0 : -ENOSPC;
}

void limit_void(struct fs *fs)
{
	atomic_fetch_add(&fs->limit_epoch, 1);
}

/* ---- setting and looking ---- */

int limit_apply(struct fs *fs, struct inode *inode, uint64_t bytes)
{
	bool had = inode->limit && inode->limit->bytes;

	if (!inode->limit)
		inode->limit = calloc(1, sizeof(*inode->limit));
	if (!inode->limit)
		return -ENOMEM;
	inode->limit->bytes = bytes;
	inode->limit->level = 0;
	if (had != (bytes != 0))
		atomic_fetch_add(&fs->limit_count, bytes ? 1 : -1);
	limit_void(fs);
	return 0;
}

void limit_release(struct fs *fs, struct inode *inode)
{
	if (inode->limit && inode->limit->bytes)
		atomic_fetch_sub(&fs->limit_count, 1);
	free(inode->limit);
	inode->limit = NULL;
}

static int can_limit(const struct inode *inode)
{
	if (!inode)
		return -EPERM;
	if (inode->kind != GF_KIND_USER)
		return -EROFS;
	return S_ISREG(inode->mode) || S_ISDIR(inode->mode) ? 0 : -EINVAL;
}

int fs_set_limit(struct fs *fs, uint64_t ino, uint64_t bytes)
{
	struct gf_op_limit *op;
	struct inode *inode;
	struct opbuf buf;
	int64_t room;
	int r;

	if (bytes > INT64_MAX)
		return -EINVAL;
	room = record_reserve_urgent(fs, sizeof(*op));
	if (room < 0)
		return room;
	opbuf_init(&buf);
	pthread_mutex_lock(&fs->limit_lock);
	tree_lock(fs);
	inode = tree_find(fs, ino);
	r = can_limit(inode);
	if (!r && OPBUF_ADD(&buf, GF_OP_LIMIT, 0, op, 0)) {
		op->ino = ino;
		op->bytes = bytes;
	}
	if (!r)
		r = record_commit(fs, &buf, NULL);
	pthread_rwlock_unlock(&fs->tree);
	pthread_mutex_unlock(&fs->limit_lock);
	journal_unreserve(fs->journal, room);
	opbuf_release(&buf);
	return r ? r : SITE("limit: sync the journal",
		journal_sync(fs->journal, journal_last_seq(fs->journal)));
}

int fs_limit(struct fs *fs, uint64_t ino, uint64_t *bytes, uint64_t *used)
{
	struct inode *inode;

	*bytes = *used = 0;
	if (!atomic_load(&fs->limit_count))
		return 0;
	pthread_mutex_lock(&fs->limit_lock);
	pthread_rwlock_rdlock(&fs->tree);
	inode = tree_find(fs, ino);
	if (inode && inode->limit) {
		*bytes = inode->limit->bytes;
		atomic_fetch_add(&inode->lookups, 1);
	}
	pthread_rwlock_unlock(&fs->tree);
	if (*bytes) {
		*used = usage_of(fs, inode, 0);
		warn_if_near(fs, inode, *used);
	}
	pthread_mutex_unlock(&fs->limit_lock);
	if (inode && *bytes)
		fs_forget(fs, ino, 1);
	return inode ? 0 : -ESTALE;
}

/* The nearest wall: the store's, or that of a limit above the file. */
int fs_statfs_of(struct fs *fs, uint64_t ino, struct fs_statfs *st)
{
	struct inode *list[LIMIT_DEPTH], *inode;
	uint64_t inos[LIMIT_DEPTH];
	size_t count;
	int r = fs_statfs(fs, st);

	if (r || !atomic_load(&fs->limit_count))
		return r;
	pthread_rwlock_rdlock(&fs->tree);
	inode = tree_find(fs, ino);
	count = inode ? collect(fs, inode, list, LIMIT_DEPTH) : 0;
	for (size_t i = 0; i < count; i++)
		inos[i] = list[i]->ino;
	pthread_rwlock_unlock(&fs->tree);
	for (size_t i = 0; i < count; i++) {
		uint64_t bytes, used;

		if (fs_limit(fs, inos[i], &bytes, &used) || !bytes)
			continue;
		st->total_bytes = min_u64(st->total_bytes, bytes);
		st->free_bytes = min_u64(st->free_bytes, less_u64(bytes, used));
	}
	return 0;
}
