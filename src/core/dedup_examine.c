/* SPDX-License-Identifier: MIT */
/*
 * Looking once more at blocks that stand in their layers.
 *
 * Content is looked for when it is stored (dedup.c). That misses what came to be known later: two
 * who wrote the same at the same time, a golden image that had no content index yet, what was
 * stored while dedup was off, or before the background has told the table of content. So regions
 * into which something was stored are remembered (layer_set_unexamined()), and looked at when the
 * store settles; after a process that did not end cleanly those are all. `goldfs dedup` has all
 * regions of a file looked at.
 *
 * It is done by checkpoints, under the rule of dedup_move(): no record says what is found, so none
 * in the ring may speak of the block. A checkpoint that takes long lets the ring fill, and those who
 * write wait: so each does a piece that goes by the ring's size, and the next one goes on from there.
 *
 * An image that nothing was cloned from has no pin and no index. When a sample of its blocks is
 * among what was written, as it is when somebody copied it into the mount, it gets both for as long
 * as they are of use: an image to which nothing refers loses them at the next checkpoint.
 */
#include "core/fs_internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/sizes.h"
#include "core/dedup.h"
#include "core/domain.h"
#include "store/content_table.h"
#include "store/region.h"

#define RUN_BLOCKS 256
#define SAMPLES 16
#define MAX_DEPTH 32 /* of folders of images */
#define INDEX_POLL_US 20000
#define TURN_POLL_US 100000
#define RINGS_AT_ONCE 4 /* as many bytes as so many journals have; with little room, a 16th of that */

/* ---- one run of blocks ---- */

struct examined {
	struct fs *fs;
	struct layer *layer;
	uint8_t *data; /* RUN_BLOCKS */
	bool images;   /* an image was indexed since the blocks were looked for */
	uint64_t cost; /* of this checkpoint so far: blocks read, and runs */
	bool over;     /* this checkpoint does no more */
	uint64_t room; /* bytes that may be taken below, so that maps can be written, too */
	bool shared;   /* it has made some room */
	bool full;     /* the pool had none for blocks of this region */
};

/* Which are worth being read. */
static void find_hints(
	struct examined *e, uint64_t block, const uint32_t *sums, uint64_t count, bool *hinted)
{
	for (uint64_t i = 0; i < count; i++) {
		dedup_expect_known(e->fs, e->layer, sums, i, count);
		hinted[i] = e->images ||
			    dedup_is_known_elsewhere(e->fs, e->layer, block + i, sums[i]);
	}
}

static int share_run(struct examined *e, uint64_t block, const uint32_t *sums, uint64_t count)
{
	struct layer *layer = e->layer;
	struct dedup d;
	int r = 0;

	dedup_begin(&d, e->fs, layer, block, block + count - 1);
	d.room = &e->room;
	for (uint64_t i = 0; i < count && !r; i++) {
		const uint8_t *bytes = e->data + i * GF_BLOCK_SIZE;
		struct hash128 hash = hash_block128(e->fs->super.secret, bytes);
		uint64_t place;

		/* What is damaged stays where it is, and is shared with nobody. */
		if (hash_sum(&hash) != sums[i] || !dedup_find(&d, bytes, &hash, &place))
			continue;
		r = dedup_remember_moved(e->fs, layer, block + i, place);
		if (!r)
			r = dedup_set_shared(e->fs, layer, block + i, 1, &place);
		if (r)
			layer_unref_place(layer, place);
		else
			e->shared = true;
	}
	dedup_end(&d);
	e->full |= d.full;
	return r;
}

/* The range is held, and nothing in the ring speaks of the blocks. */
static int examine_held(struct examined *e, uint64_t block, uint64_t count)
{
	uint32_t sums[RUN_BLOCKS];
	bool hinted[RUN_BLOCKS];
	int r = 0;

	for (uint64_t i = 0; i < count; i++)
		if (layer_is_at_rest(e->layer, block + i) != 1)
			return 0; /* it has just been written */
	if (layer_read_sums(e->layer, block, sums, count))
		return 0;
	find_hints(e, block, sums, count, hinted);
	for (uint64_t i = 0, n; i < count && !r; i += max_u64(n, 1)) {
		for (n = 0; i + n < count && hinted[i + n];)
			n++;
		e->cost += n;
		if (n && !layer_read_data(e->layer, e->data, n * GF_BLOCK_SIZE,
				 (block + i) * GF_BLOCK_SIZE))
			r = share_run(e, block + i, sums + i, n);
	}
	return r;
}

/* 1: the layer is being written to, later. */
static int examine_run(struct examined *e, uint64_t block, uint64_t count, uint64_t tail)
{
	struct range range;
	int r;

	e->cost++;
	pthread_rwlock_rdlock(&e->fs->sharing);
	rangelock_lock(&e->layer->ranges, &range, block, block + count - 1);
	if (atomic_load(&e->layer->large_seq) >= tail || atomic_load(&e->layer->poison_seq))
		r = 1;
	else
		r = examine_held(e, block, count);
	rangelock_unlock(&e->layer->ranges, &range);
	pthread_rwlock_unlock(&e->fs->sharing);
	return r;
}

/* Whether somebody wants it to end. */
static bool tell(struct examine_progress *p, uint64_t bytes)
{
	if (!p)
		return false;
	p->done += bytes;
	p->total = max_u64(p->total, p->done);
	p->stopped = p->stopped || (p->cb && p->cb(p->arg, p->done, p->total));
	return p->stopped;
}

/* ---- layers ---- */

static int examine_region(struct examined *e, uint32_t region, uint64_t tail)
{
	CLEANUP_FREE struct region_view *view = malloc(sizeof(*view));
	uint64_t base = (uint64_t)region * GF_REGION_BLOCKS;
	int r = view ? layer_view_region(e->layer, region, view) : -ENOMEM;

	for (uint32_t i = 0, n; i < GF_REGION_BLOCKS && !r; i += n) {
		n = 1;
		if (!region_view_is(view, i, GF_OVERLAY))
			continue;
		while (n < RUN_BLOCKS && i + n < GF_REGION_BLOCKS &&
			region_view_is(view, i + n, GF_OVERLAY))
			n++;
		r = examine_run(e, base + i, n, tail);
		if (!r && tell(e->fs->examine_progress, n * GF_BLOCK_SIZE)) {
			e->over = true;
			r = 1;
		}
	}
	return r;
}

/* The next checkpoint goes on from there. */
static void break_off(struct examined *e, uint32_t region)
{
	e->over = true;
	e->fs->examine_layer = e->layer->id;
	e->fs->examine_region = region;
	atomic_store(&e->fs->examine, true);
}

/* Whether what is left is for the next checkpoint. */
static bool is_enough(const struct examined *e)
{
	uint64_t most = RINGS_AT_ONCE * journal_size(e->fs->journal) / GF_BLOCK_SIZE;

	return e->cost >= most || (e->cost >= most / 16 && journal_is_short(e->fs->journal));
}

/* What was shared so far gives room to share the rest of the region, once it is durable. */
static void put_off(struct examined *e, uint32_t region, uint64_t asked)
{
	layer_put_unexamined(e->layer, region, asked);
	if (e->shared)
		break_off(e, region);
	else if (e->fs->examine_progress)
		e->fs->examine_progress->full = true;
}

static int examine_layer(struct examined *e, uint32_t from, uint64_t tail)
{
	uint64_t asked;
	int r = 0;

	for (; !r && !e->over && layer_take_unexamined(e->layer, from, &from, &asked); from++) {
		e->images = asked < atomic_load(&e->fs->indexes_opened);
		e->full = false;
		r = examine_region(e, from, tail);
		if (r)
			layer_put_unexamined(e->layer, from, asked);
		else if (e->full)
			put_off(e, from, asked);
		else if (is_enough(e))
			break_off(e, from + 1);
	}
	return r > 0 ? 0 : r;
}

int dedup_examine(struct fs *fs, uint64_t tail)
{
	struct examined e = {.fs = fs};
	uint64_t first = fs->examine_layer, id = first ? first - 1 : 0;
	int r = 0;

	if (!atomic_exchange(&fs->examine, false) || fs->options.dedup == FS_DEDUP_OFF)
		return 0;
	e.room = space_for_blocks(fs);
	e.data = malloc(RUN_BLOCKS * GF_BLOCK_SIZE);
	if (!e.data)
		r = -ENOMEM;
	while (!r && !e.over && (e.layer = layer_hold_next(fs, id)) != NULL) {
		id = e.layer->id;
		if (!atomic_load(&e.layer->failed) && !e.layer->left_out &&
			!atomic_load(&e.layer->apart))
			r = examine_layer(&e, id == first ? fs->examine_region : 0, tail);
		atomic_fetch_sub(&e.layer->users, 1);
	}
	free(e.data);
	return r;
}

/* ---- images that nothing was cloned from ---- */

struct dedup_images {
	struct golden **held; /* malloc'ed */
	size_t count;
	uint64_t *domains; /* malloc'ed; in which there may be copies of an image */
	size_t domain_count;
	const struct stop *stop;
};

static bool is_known(struct fs *fs, const struct dedup_images *images, uint32_t sum)
{
	for (size_t i = 0; i < images->domain_count; i++)
		if (dedup_is_known(fs, images->domains[i], sum))
			return true;
	return false;
}

/* Whether some of the image's blocks are among what was seen lately. */
static bool is_sampled(
	struct fs *fs, const struct dedup_images *images, uint64_t ino, uint64_t size)
{
	uint64_t blocks = size / GF_BLOCK_SIZE, step = blocks / SAMPLES + 1;
	uint8_t bytes[GF_BLOCK_SIZE];

	for (uint64_t block = 0; block < blocks; block += step) {
		int64_t at = fs_seek(fs, ino, block * GF_BLOCK_SIZE, SEEK_DATA);

		if (at < 0)
			break;
		block = max_u64(block, round_up((uint64_t)at, GF_BLOCK_SIZE) / GF_BLOCK_SIZE);
		if (block >= blocks || fs_read(fs, ino, bytes, sizeof(bytes),
					       block * GF_BLOCK_SIZE) != sizeof(bytes))
			break;
		if (!is_zero(bytes, sizeof(bytes)) &&
			is_known(fs, images, hash_block(fs->super.secret, bytes)))
			return true;
	}
	return false;
}

/* A pin that is a link or a reflink costs nothing; a copy would. */
static bool is_beside_the_store(struct fs *fs, uint64_t dev)
{
	struct stat st;

	return fs->options.store_fd >= 0 && fstat(fs->options.store_fd, &st) == 0 &&
	       st.st_dev == dev;
}

static bool ends_here(struct fs *fs, const struct dedup_images *images)
{
	return atomic_load(&fs->golden_stopping) || is_stopped(images->stop);
}

static void wait_for_index(struct fs *fs, const struct dedup_images *images, struct golden *g)
{
	pin_work_want(fs);
	while (golden_index_is_due(fs, g) && !ends_here(fs, images))
		usleep(INDEX_POLL_US);
}

static void take_image(struct fs *fs, struct dedup_images *images, const struct fs_attr *attr)
{
	struct golden **more;
	struct golden *g;
	struct inode *node;
	uint64_t id, dev;

	/* What clones left is not to be kept for what they still have of it. */
	if (golden_device(fs, attr->ino, &node, &dev) || node->golden_left ||
		!is_beside_the_store(fs, dev) || golden_open(fs, node, NULL))
		return;
	if (is_sampled(fs, images, attr->ino, attr->size) && golden_keep(fs, attr->ino, &id) == 0 &&
		(g = golden_hold(fs, id)) != NULL) {
		more = realloc(images->held, (images->count + 1) * sizeof(*more));
		if (more) {
			images->held = more;
			images->held[images->count++] = g;
			wait_for_index(fs, images, g);
		} else {
			golden_hold_end(fs, g);
		}
	}
	golden_close(fs, node);
}

struct names {
	char (*list)[GF_NAME_MAX + 1]; /* malloc'ed */
	size_t count;
};

static int add_name(void *arg, const char *name, const struct fs_attr *attr, uint64_t next)
{
	struct names *names = arg;
	void *more = realloc(names->list, (names->count + 1) * sizeof(*names->list));

	if (!more)
		return -ENOMEM;
	names->list = more;
	snprintf(names->list[names->count++], sizeof(*names->list), "%s", name);
	return 0;
}

static void take_folder(struct fs *fs, struct dedup_images *images, uint64_t dir, unsigned depth)
{
	struct names names = {0};

	if (depth > MAX_DEPTH || fs_list(fs, dir, 0, add_name, &names) < 0)
		names.count = 0;
	for (size_t i = 0; i < names.count && !ends_here(fs, images); i++) {
		struct fs_attr attr;

		if (fs_lookup(fs, dir, names.list[i], &attr))
			continue;
		if (S_ISDIR(attr.mode))
			take_folder(fs, images, attr.ino, depth + 1);
		else if (S_ISREG(attr.mode))
			take_image(fs, images, &attr);
		fs_forget(fs, attr.ino, 1);
	}
	free(names.list);
}

static bool something_is_unexamined(struct fs *fs)
{
	const struct layer_entry *entry;
	bool found = false;

	pthread_rwlock_rdlock(&fs->tree);
	for (entry = fs->layers; entry && !found; entry = entry->hh.next)
		found = layer_has_unexamined(entry->layer);
	pthread_rwlock_unlock(&fs->tree);
	return found;
}

struct dedup_images *dedup_examine_begin(struct fs *fs, const struct stop *stop)
{
	struct dedup_images *images;

	if (fs->options.dedup == FS_DEDUP_OFF || fs->options.read_only)
		return NULL;
	dedup_owe_lost(fs);
	if (!something_is_unexamined(fs))
		return NULL;
	/* What is not in the table yet would not be found, and not be looked for again. */
	dedup_fill_rest(fs);
	images = calloc(1, sizeof(*images));
	if (images) {
		images->stop = stop;
		images->domains = domain_list(fs, &images->domain_count);
	}
	if (images && fs->options.images && fs->golden_runs)
		take_folder(fs, images, FS_INO_GOLDEN, 0);
	pthread_mutex_lock(&fs->checkpoint_lock);
	fs->examine_layer = 0;
	atomic_store(&fs->examine, true);
	pthread_mutex_unlock(&fs->checkpoint_lock);
	return images;
}

void dedup_examine_end(struct fs *fs, struct dedup_images *images)
{
	if (images && is_stopped(images->stop))
		atomic_store(&fs->examine, false);
	for (size_t i = 0; images && i < images->count; i++)
		golden_hold_end(fs, images->held[i]);
	if (images) {
		free(images->held);
		free(images->domains);
	}
	free(images);
}

/* ---- what somebody asks for ---- */

/* Bytes to look at, at most: what several files stand on counts for each. */
static uint64_t want(struct fs *fs, const uint64_t *inos, size_t count)
{
	uint64_t blocks = 0;

	pthread_rwlock_rdlock(&fs->tree);
	for (size_t i = 0; i < count; i++) {
		struct inode *inode = tree_find(fs, inos[i]);
		struct layer *layer = inode ? atomic_load(&inode->layer) : NULL;

		for (; layer; layer = layer->parent) {
			layer_wish_examined(layer);
			blocks += atomic_load(&layer->owned_blocks);
		}
	}
	pthread_rwlock_unlock(&fs->tree);
	return blocks * GF_BLOCK_SIZE;
}

/* Who does not want any more leaves nothing behind for the next settling. */
static void unwish_all(struct fs *fs)
{
	const struct layer_entry *entry;

	pthread_rwlock_rdlock(&fs->tree);
	for (entry = fs->layers; entry; entry = entry->hh.next)
		layer_unwish_examined(entry->layer);
	pthread_rwlock_unlock(&fs->tree);
}

static bool wants_no_more(void *arg)
{
	return tell(arg, 0);
}

static void set_progress(struct fs *fs, struct examine_progress *progress)
{
	MUTEX_GUARD(&fs->checkpoint_lock);
	fs->examine_progress = progress;
}

static int examine_all(
	struct fs *fs, const uint64_t *inos, size_t count, struct examine_progress *p)
{
	int r = 0;

	/* Before: what is owed in any case is nobody's wish. */
	dedup_owe_lost(fs);
	p->total = want(fs, inos, count);
	/* The whole store's checksums are read before anything is done that counts. */
	dedup_fill_table(fs, wants_no_more, p);
	if (!p->stopped) {
		set_progress(fs, p);
		r = fs_settle_until(fs, wants_no_more, p);
		set_progress(fs, NULL);
	}
	if (!p->stopped)
		return r;
	unwish_all(fs);
	return r ? r : -ECANCELED;
}

int fs_dedup(struct fs *fs, const uint64_t *inos, size_t count,
	bool (*progress)(void *arg, uint64_t done, uint64_t total), void *arg)
{
	struct examine_progress p = {.cb = progress, .arg = arg};
	int r = fs_writable(fs);

	if (r)
		return r;
	if (fs->options.dedup == FS_DEDUP_OFF)
		return -EOPNOTSUPP;
	/* One after the other: there is one pass over the store at a time. */
	while (atomic_exchange(&fs->examine_asked, true)) {
		if (wants_no_more(&p))
			return -ECANCELED;
		usleep(TURN_POLL_US);
	}
	r = examine_all(fs, inos, count, &p);
	atomic_store(&fs->examine_asked, false);
	if (!r && p.full)
		r = log_error(-ENOSPC,
			"there is no space to share blocks that are stored twice; make some in "
			"the file system of the store, and run \"goldfs dedup\" again");
	return r;
}
