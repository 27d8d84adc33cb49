/* SPDX-License-Identifier: MIT */
/*
 * Destage and checkpoint: moving blocks from the journal to their place, and making maps and
 * catalog catch up, so that the tail of the ring can advance.
 *
 * The order, the numbers as in man/goldfs-architecture.7:
 *   1. T is the journal's head while no record is being applied; the journal is synced up to T
 *   2. every journaled block up to T goes to its place (or becomes ZERO or PARENT), sorted
 *   3. with the gate closed: a picture of changed map pages and of the catalog, S is the head now;
 *      intent marks are cleared but for those in use, and once those of new layers as a whole,
 *      which were recorded again behind T
 *   4. the journal is synced up to S, so that nothing in the picture is newer than the journal
 *   5. data files, checksums and new names are synced: what the pages call OVERLAY is durable
 *   6. the pages are written to their other slots and synced
 *   7. the catalog goes to its other copy and is synced: the checkpoint counts
 *   8. readers that may have found old places are waited for; the tail moves to T; holes may be
 *      punched from now on (below), and files of what was dropped removed (bury.c)
 * A crash between any two of them leaves the last checkpoint and all records since.
 *
 * When a step fails nothing is lost: records stay in the ring, pages stay dirty. What cannot be
 * moved for want of space, or because a layer's files failed, is carried on in the ring (carry.c),
 * so that the rest goes on; failing.c says what becomes of a layer. Maps and catalog find space in
 * the store's reserve (space.c).
 */
#include "core/fs_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/invariant.h"
#include "base/log.h"
#include "base/mutation.h"
#include "base/sizes.h"
#include "base/times.h"
#include "core/dedup.h"
#include "store/pool.h"

#define DESTAGE_BLOCKS 256   /* blocks moved under one range lock */
#define LEAST_LAP (32 * MIB)  /* of the ring: below that its fixed cost is most of a checkpoint */
#define KEPT_MARKS 1024	      /* runs of regions, of all layers */
#define KEPT_OF_LAYER 256     /* that one disk written at random does not take those of all others */
#define IDLE_SECONDS 5	     /* after the first change, when nothing is pressing */
#define RETRY_SECONDS 2	     /* after a failure */
#define HELD_PAUSE_NS 10000000
#define HELD_LOOKS 100 /* of a settling, for images that are held */
#define CARRY_PAUSE_US 50000 /* before a lap that carries records on */
#define MOMENT_NS 50000000 /* for which a full ring may wait */
#define PUNCH_PAUSE_NS 1000000
#define PUNCH_LEAST 16 /* blocks at once, where that takes long */
#define PUNCH_MOST 256

/* ---- step 2: destage ---- */

struct batch {
	struct fs *fs;
	struct layer *layer;
	const struct jentry *entries;
	size_t count;	 /* entries with consecutive blocks */
	uint8_t *data;	 /* count * 4096 */
	uint8_t *below;	 /* what the layer stands on, or NULL */
	uint8_t kinds[DESTAGE_BLOCKS];
	uint64_t places[DESTAGE_BLOCKS]; /* of SHARED ones */
	struct hash128 hashes[DESTAGE_BLOCKS]; /* of the current ones */
	bool right[DESTAGE_BLOCKS];   /* the bytes are those that were written */
	bool current[DESTAGE_BLOCKS]; /* still the newest version */
	uint64_t *budget; /* bytes that new blocks may take below */
	bool *full; /* some block stays in the ring for want of space */
};

/*
 * What the ring lost is not made whole by moving it: the block goes to its place with the checksum
 * of what was written, so that it is known to be damaged there too.
 */
static int batch_read(struct batch *b)
{
	struct fs *fs = b->fs;

	for (size_t i = 0; i < b->count; i++) {
		const struct jentry *e = &b->entries[i];
		struct jentry now;
		int r;

		b->current[i] = (jindex_get(fs->jindex, e->layer, e->block, &now) &&
					now.seq == e->seq && now.pos == e->pos) ||
				MUTATED("destage puts an older version over a newer one");
		if (!b->current[i])
			continue;
		INVARIANT(2, journal_holds(fs->journal, e->pos, GF_BLOCK_SIZE));
		INVARIANT(4, layer_is_newest(b->layer, e->block, 1, e->seq));
		r = journal_read(fs->journal, e->pos, b->data + i * GF_BLOCK_SIZE, GF_BLOCK_SIZE);
		if (r)
			return fs_fail_because(fs, r, "cannot read the journal");
		b->hashes[i] = hash_block128(fs->super.secret, b->data + i * GF_BLOCK_SIZE);
		b->right[i] = hash_sum(&b->hashes[i]) == e->sum;
		if (!b->right[i])
			damage_note(fs, e->layer, e->block);
	}
	return 0;
}

static int batch_classify(struct batch *b)
{
	struct layer *layer = b->layer;
	bool has_below = (layer->parent || layer->image) &&
			 b->entries[0].block * GF_BLOCK_SIZE < layer->bound;
	bool keeps = atomic_load(&layer->keeps);
	bool may[DESTAGE_BLOCKS] = {false};
	const struct below blocks = {.block = b->entries[0].block, .count = b->count,
		.data = b->data, .hashes = b->hashes, .may = may};

	for (size_t i = 0; i < b->count; i++)
		may[i] = has_below && !keeps && b->current[i] && b->right[i];
	/* What cannot be read below costs sharing, not data. */
	if (has_below && below_may_be_same(b->fs, layer, &blocks) &&
		below_read(b->fs, layer, &blocks, b->below))
		memset(may, 0, sizeof(may));
	for (size_t i = 0; i < b->count; i++) {
		const uint8_t *block = b->data + i * GF_BLOCK_SIZE;

		if (!b->right[i])
			b->kinds[i] = GF_OVERLAY;
		else if (may[i] && (memcmp(block, b->below + i * GF_BLOCK_SIZE, GF_BLOCK_SIZE) == 0 ||
					 MUTATED("destage shares without comparing")))
			b->kinds[i] = GF_PARENT;
		else if (is_zero(block, GF_BLOCK_SIZE))
			b->kinds[i] = layer->parent || layer->image || keeps ? GF_ZERO : GF_PARENT;
		else
			b->kinds[i] = GF_OVERLAY;
		INVARIANT(5, b->kinds[i] != GF_PARENT ||
			(has_below ? may[i] && memcmp(block, b->below + i * GF_BLOCK_SIZE,
					     GF_BLOCK_SIZE) == 0 : is_zero(block, GF_BLOCK_SIZE)));
	}
	return 0;
}

/* Of what would be stored, what stands somewhere already. */
static void batch_share(struct batch *b)
{
	uint64_t first = b->entries[0].block;
	struct dedup d;

	dedup_begin(&d, b->fs, b->layer, first, first + b->count - 1);
	for (size_t i = 0; i < b->count && d.enabled; i++) {
		dedup_expect(&d, b->hashes, i, b->count);
		if (b->current[i] && b->right[i] && b->kinds[i] == GF_OVERLAY &&
			dedup_find(&d, b->data + i * GF_BLOCK_SIZE, &b->hashes[i], &b->places[i]))
			b->kinds[i] = GF_SHARED;
	}
	dedup_end(&d);
}

/* References to places that were not used, from the i-th block on. */
static void batch_unshare(struct batch *b, size_t i)
{
	for (; i < b->count; i++)
		if (b->current[i] && b->kinds[i] == GF_SHARED)
			layer_unref_place(b->layer, b->places[i]);
}

static size_t batch_run(const struct batch *b, size_t i)
{
	size_t n = 1;

	while (i + n < b->count && b->kinds[i + n] == b->kinds[i] &&
		b->current[i + n] == b->current[i])
		n++;
	return n;
}

static int batch_place(struct batch *b, size_t i, size_t n)
{
	uint32_t sums[DESTAGE_BLOCKS];
	const uint8_t *data = b->data + i * GF_BLOCK_SIZE;
	uint64_t block = b->entries[i].block;
	int r;

	for (size_t k = 0; k < n; k++)
		sums[k] = b->entries[i + k].sum;
	r = layer_write_data(b->layer, data, n * GF_BLOCK_SIZE, block * GF_BLOCK_SIZE);
	return r ? r : SITE("destage: the checksums", layer_write_sums(b->layer, block, sums, n));
}

static int batch_store(struct batch *b, size_t i, size_t n)
{
	int r = batch_place(b, i, n);

	if (!r)
		r = layer_set_state(b->layer, b->entries[i].block, n, GF_OVERLAY);
	for (size_t k = i; k < i + n && !r; k++)
		if (b->right[k])
			dedup_note(b->fs, b->layer, b->entries[k].block, &b->hashes[k], 1);
	if (!r)
		dedup_owe(b->fs, b->layer, b->entries[i].block, n);
	return r;
}

/* Blocks that are to stand in place. Without space for new ones, those that overwrite. */
static int batch_store_run(struct batch *b, size_t i, size_t n)
{
	uint64_t bytes = n * (GF_BLOCK_SIZE + GF_BLOCK_SIZE / 8);
	int r = -ENOSPC;

	if (bytes <= *b->budget) {
		*b->budget -= bytes;
		r = batch_store(b, i, n);
	}
	if (r != -ENOSPC)
		return r;
	/* The rest of this round moves only what has its place already. */
	*b->budget = 0;
	for (size_t k = i; k < i + n; k++) {
		r = b->entries[k].block < atomic_load(&b->layer->whole_blocks) ? 1 :
			layer_any_overlay(b->layer, b->entries[k].block, 1);
		if (r > 0)
			r = batch_store(b, k, 1);
		else if (!r)
			r = -ENOSPC;
		if (r == -ENOSPC)
			*b->full = true;
		else if (r)
			return r;
	}
	return 0;
}

/* The range is held, so that no newer version can come between. */
static int batch_destage_locked(struct batch *b)
{
	uint64_t first = b->entries[0].block;
	size_t n;
	int r;

	INVARIANT(4, rangelock_covers(&b->layer->ranges, first, first + b->count - 1));
	r = batch_read(b);
	if (!r)
		r = batch_classify(b);
	if (!r)
		batch_share(b);
	for (size_t i = 0; i < b->count && !r; i += n) {
		n = batch_run(b, i);
		if (!b->current[i])
			continue;
		if (b->kinds[i] == GF_OVERLAY)
			r = batch_store_run(b, i, n);
		else if (b->kinds[i] == GF_SHARED)
			r = dedup_set_shared(b->fs, b->layer, b->entries[i].block, n,
				b->places + i);
		else
			r = layer_set_state(b->layer, b->entries[i].block, n, b->kinds[i]);
		/* Of the run that failed some may be in use by now. */
		if (r)
			batch_unshare(b, i + n);
		if (r)
			break;
		COUNT(b->fs, destaged_blocks, n);
		if (b->kinds[i] == GF_ZERO)
			COUNT(b->fs, zero_blocks, n);
		if (b->kinds[i] == GF_PARENT)
			COUNT(b->fs, parent_blocks, n);
	}
	return r;
}

/* Entries from i on that stand in consecutive blocks of one layer. */
static size_t entry_run(const struct jentry *e, size_t i, size_t count)
{
	size_t n = 1;

	while (i + n < count && n < DESTAGE_BLOCKS && e[i + n].layer == e[i].layer &&
		e[i + n].block == e[i].block + n)
		n++;
	return n;
}

static int destage_run(struct fs *fs, struct batch *b)
{
	uint64_t first = b->entries[0].block;
	struct range range;
	int r;

	b->layer = layer_hold(fs, b->entries[0].layer);
	if (!b->layer)
		return 0; /* dropped meanwhile, and its entries with it when it is freed */
	if (atomic_load(&b->layer->failed)) {
		atomic_fetch_sub(&b->layer->users, 1);
		return 0;
	}
	pthread_rwlock_rdlock(&fs->sharing);
	/* The last block of 16 TiB is hardly ever in anybody's way. */
	if (MUTATED("destage does not lock the blocks"))
		rangelock_lock(&b->layer->ranges, &range, UINT64_MAX - 1, UINT64_MAX - 1);
	else
		rangelock_lock(&b->layer->ranges, &range, first, first + b->count - 1);
	r = batch_destage_locked(b);
	rangelock_unlock(&b->layer->ranges, &range);
	pthread_rwlock_unlock(&fs->sharing);
	figures_changed(fs);
	/* The blocks stay in the ring, and the other layers go on. */
	if (r && !is_passing(r) && !fs_writable(fs)) {
		layer_fail(fs, b->layer, r, "write the data");
		r = 0;
	}
	atomic_fetch_sub(&b->layer->users, 1);
	return r;
}

static int destage(struct fs *fs, uint64_t upto, bool *full)
{
	CLEANUP_FREE struct jentry *entries = NULL;
	CLEANUP_FREE uint8_t *data = malloc(DESTAGE_BLOCKS * GF_BLOCK_SIZE);
	CLEANUP_FREE uint8_t *below = malloc(DESTAGE_BLOCKS * GF_BLOCK_SIZE);
	/* What was set free for maps and catalog is not for blocks. */
	uint64_t budget = fs->picture_failed == -ENOSPC ? 0 : space_for_blocks(fs);
	size_t count = 0, n;
	int r;

	if (!data || !below)
		return -ENOMEM;
	r = jindex_collect(fs->jindex, upto, &entries, &count);
	for (size_t i = 0; i < count && !r; i += n) {
		struct batch b = {.fs = fs, .entries = entries + i, .data = data,
			.below = below, .budget = &budget, .full = full};

		n = entry_run(entries, i, count);
		b.count = n;
		r = destage_run(fs, &b);
	}
	return r;
}

/* ---- steps 3 to 8: checkpoint ---- */

struct layer_picture {
	struct layer *layer;
	struct page_write *pages;
	struct punch *punches;
};

struct picture {
	struct fs *fs;
	struct layer_picture *layers;
	size_t count;
	struct opbuf catalog;
	struct catalog_head head;
	struct dead *dead;
	struct pool_dying *dying; /* slots to which the picture does not refer */
	struct journal_mark tail; /* T */
	uint64_t upto;		  /* S */
	uint64_t given_up;	  /* punches and dead in it */
	bool marks_kept; /* those in use have a record that the tail does not pass */
};

static int picture_layer(const struct picture *p, struct layer_picture *lp, struct layer *layer)
{
	lp->layer = layer;
	atomic_fetch_add(&layer->users, 1);
	if (layer->left_out)
		return 0;
	lp->punches = layer_take_punches(layer);
	if (p->marks_kept)
		layer_clear_old_marks(layer);
	else
		layer_clear_marks(layer);
	return layer_take_pages(layer, &lp->pages);
}

/* Whether nothing is left to be punched or removed: the next mount need not look. */
static bool picture_is_last(const struct picture *p)
{
	bool last = p->fs->closing && !p->dead && !p->dying && !p->fs->dying && !p->fs->reclaim_wanted &&
		    !atomic_load(&p->fs->punches_due);

	for (size_t i = 0; i < p->count; i++)
		last &= !p->layers[i].punches && !p->layers[i].layer->left_out;
	return last || MUTATED("a clean end although space is not given back yet");
}

/* With the gate closed: nothing changes, and every record's effects are in memory. */
static int picture_take_locked(struct picture *p)
{
	struct fs *fs = p->fs;
	struct layer_entry *entry, *next;
	int r = 0;

	catalog_assert(fs);
	p->layers = calloc(HASH_COUNT(fs->layers) + 1, sizeof(*p->layers));
	if (!p->layers)
		return -ENOMEM;
	HASH_ITER (hh, fs->layers, entry, next)
		if (!r)
			r = picture_layer(p, &p->layers[p->count++], entry->layer);
	p->dying = pool_take_dying(fs->pool);
	if (!r)
		r = catalog_serialize(fs, &p->catalog);
	p->upto = journal_last_seq(fs->journal);
	p->dead = steal_pointer(&fs->dead);
	p->head = (struct catalog_head){
		.generation = fs->generation + 1,
		.tail = p->tail,
		.epoch = fs->epoch,
		.meta_seq = p->upto,
		.next_ino = fs->next_ino,
		.next_layer = fs->next_layer,
		.next_golden = fs->next_golden,
		.clean = picture_is_last(p),
	};
	memcpy(p->head.uuid, fs->super.uuid, sizeof(p->head.uuid));
	return r;
}

/* All layers, none of which is freed before let_layers(). NULL: out of memory. */
static struct layer **hold_layers(struct fs *fs, size_t *count)
{
	struct layer_entry *entry, *next;
	struct layer **list;

	*count = 0;
	pthread_rwlock_rdlock(&fs->tree);
	list = malloc((HASH_COUNT(fs->layers) + 1) * sizeof(*list));
	if (list)
		HASH_ITER (hh, fs->layers, entry, next) {
			list[(*count)++] = entry->layer;
			atomic_fetch_add(&entry->layer->users, 1);
		}
	pthread_rwlock_unlock(&fs->tree);
	return list;
}

static void let_layers(struct layer **list, size_t count)
{
	for (size_t i = 0; i < count; i++)
		atomic_fetch_sub(&list[i]->users, 1);
	free(list);
}

/* What takes long about a picture and does not need the gate closed. */
static void picture_prepare(struct picture *p)
{
	struct fs *fs = p->fs;
	size_t count;
	struct layer **list = hold_layers(fs, &count);

	opbuf_reserve(&p->catalog, fs->catalog_bytes + fs->catalog_bytes / 8);
	for (size_t i = 0; i < count; i++)
		if (!list[i]->left_out)
			layer_reserve_pages(list[i]);
	let_layers(list, count);
}

static int picture_take(struct picture *p)
{
	bool open = MUTATED("take the picture while records are being applied");
	int r;

	if (!open)
		pthread_rwlock_wrlock(&p->fs->gate);
	atomic_store(&p->fs->changed, false);
	atomic_store(&p->fs->large_pending, 0);
	/* At no moment are both 0: who needs space would not wait for this checkpoint. */
	atomic_store(&p->fs->giving_back, true);
	p->given_up = atomic_exchange(&p->fs->given_up, 0);
	r = picture_take_locked(p);
	if (!open)
		pthread_rwlock_unlock(&p->fs->gate);
	p->fs->catalog_bytes = p->catalog.len;
	return r;
}

/* Checksums that could not be written when they were computed. As picture_sync(), or -ENOSPC. */
static int picture_sums(struct fs *fs, struct layer *layer)
{
	int r = layer_write_noted_sums(layer);

	if (!r || r == -ENOSPC || is_passing(r))
		return r;
	layer_trouble(fs, layer, r, false, "write checksums");
	return -EAGAIN;
}

/* Step 5 for one layer. -EAGAIN: it failed, or is to be tried anew; the picture is of no use. */
static int picture_sync(struct fs *fs, struct layer *layer)
{
	int r = 0;

	/* A clean end says that nothing is left to be given back. */
	if (fs->closing)
		layer_sync_punched(layer);
	/* Also when it looks clean: a flush that is running may not be done yet. */
	r = SITE("checkpoint: sync data before the pages", layer_sync_data(layer));
	if (!r)
		r = SITE("checkpoint: sync checksums before the pages", layer_sync_sums(layer));
	if (r)
		layer_trouble(fs, layer, r, true, "sync the data");
	return r ? -EAGAIN : 0;
}

/* Step 5, what the pages call SHARED. */
static int picture_pool(struct fs *fs)
{
	int r = SITE("checkpoint: sync the pool before the pages", pool_sync(fs->pool));

	return r ? fs_fail_because(fs, r, "cannot sync the pool") : 0;
}

/* Step 6. */
static int picture_pages(struct fs *fs, struct layer_picture *lp)
{
	int r = layer_write_pages(lp->layer, lp->pages);

	if (!r || r == -ENOSPC || is_passing(r))
		return r;
	layer_trouble(fs, lp->layer, r, false, "write the map");
	return -EAGAIN;
}

/* Step 7. */
static int picture_catalog(struct picture *p)
{
	struct fs *fs = p->fs;
	int r = SITE("checkpoint: sync names of layer files",
		fs->io->ops->syncdir(fs->io, "layer"));

	if (r)
		return fs_fail_because(fs, r, "cannot sync the folder \"layer\"");
	r = catalog_file_write(fs->io, &p->head, p->catalog.bytes, p->catalog.len);
	/* It may count although it failed: the pages it names must not be written again. */
	if (r == -ENOTRECOVERABLE)
		return fs_fail_because(fs, -EIO, "cannot write the catalog");
	/* The copy was made invalid, and is written anew as a whole: once. */
	if (r && r != -ENOSPC && fs->catalog_failures++)
		return fs_fail_because(fs, r, "cannot write the catalog");
	if (!r)
		fs->catalog_failures = 0;
	return r;
}

/* Steps 4 to 7. */
static int picture_write(struct picture *p)
{
	struct fs *fs = p->fs;
	int r = SITE("checkpoint: sync the journal up to the picture",
		journal_sync(fs->journal, p->upto));

	for (size_t i = 0; i < p->count && !r; i++)
		if (!p->layers[i].layer->left_out)
			r = picture_sums(fs, p->layers[i].layer);
	/* All layers are tried, so that one round finds all that failed. */
	for (size_t i = 0; i < p->count && (!r || r == -EAGAIN); i++)
		if (!p->layers[i].layer->left_out && picture_sync(fs, p->layers[i].layer))
			r = -EAGAIN;
	if (!r)
		r = picture_pool(fs);
	for (size_t i = 0; i < p->count && !r; i++)
		if (!p->layers[i].layer->left_out)
			r = picture_pages(fs, &p->layers[i]);
	return r ? r : picture_catalog(p);
}

static int remove_golden(struct fs *fs, struct golden *golden)
{
	const bool is_pinned = fs->options.store_fd >= 0 && !fs->options.golden_test;
	const uint64_t id = golden->id;
	int r = 0;

	if (is_pinned && fs->guard)
		pin_guard_remove(fs->guard, id);
	if (is_pinned)
		r = pin_remove(fs->options.store_fd, id);
	golden_release(golden);
	/* Images of tests have one only if it is asked for; others may have one of an earlier mount. */
	if (is_pinned || fs->options.dedup != FS_DEDUP_OFF)
		golden_index_remove(fs, id);
	return r;
}

static void bury_file_of_layer(void *arg, const char *path)
{
	bury_file(arg, path);
}

static void bury_layer(struct fs *fs, struct layer *layer)
{
	const uint64_t id = layer->id;

	if (atomic_load(&layer->failed))
		atomic_fetch_sub(&fs->failed_layers, 1);
	layer_drop_shared(layer);
	layer_free(layer);
	layer_list_files(id, bury_file_of_layer, fs);
	figures_changed(fs);
	atomic_store(&fs->changed, true);
}

/* Whose files may go now. Those that somebody still holds wait for the next checkpoint. */
static void bury_dead(struct fs *fs, struct dead *dead)
{
	while (dead) {
		struct dead *next = dead->next;
		int r;

		if (dead->layer ? atomic_load(&dead->layer->users) != 0 : dead->golden->users != 0) {
			tree_lock(fs);
			dead->next = fs->dead;
			fs->dead = dead;
			atomic_fetch_add(&fs->given_up, 1);
			pthread_rwlock_unlock(&fs->tree);
			dead = next;
			continue;
		}
		if (dead->layer)
			bury_layer(fs, dead->layer);
		else if ((r = remove_golden(fs, dead->golden)) != 0)
			log_error(r, "cannot remove what the store kept of a golden image");
		free(dead);
		dead = next;
	}
}

/* Whether no block has its newest version in a record that the tail passes. */
static bool nothing_before(struct fs *fs, uint64_t seq)
{
	CLEANUP_FREE struct jentry *entries = NULL;
	size_t count = 0;

	if (jindex_collect(fs->jindex, seq - 1, &entries, &count))
		return true;
	/* Those of a layer that was dropped go when it is freed. */
	for (size_t i = 0; i < count; i++)
		if (tree_find_layer(fs, entries[i].layer))
			return false;
	return true;
}

/* What the picture does not refer to waits; what waited long enough is free. */
static void release_dying(struct picture *p)
{
	struct dying *fresh = p->dying ? malloc(sizeof(*fresh)) : NULL, **d = &p->fs->dying;

	if (fresh) {
		*fresh = (struct dying){.slots = steal_pointer(&p->dying), .upto = p->upto, .next = *d};
		*d = fresh;
	}
	/* Without memory they go on dying. */
	pool_give_back_dying(p->fs->pool, steal_pointer(&p->dying));
	while (*d) {
		struct dying *one = *d;

		if (one->upto >= p->tail.seq &&
			!MUTATED("slots are free while the ring may refer to them")) {
			d = &one->next;
			continue;
		}
		pool_release_dying(p->fs->pool, one->slots);
		*d = one->next;
		free(one);
	}
	if (p->fs->dying)
		atomic_store(&p->fs->changed, true);
}

/* Step 8. */
static void picture_finish(struct picture *p)
{
	struct fs *fs = p->fs;

	INVARIANT(1, nothing_before(fs, p->tail.seq));
	fs->generation = p->head.generation;
	fs->tail = p->tail;
	atomic_store(&fs->tail_seq, p->tail.seq);
	if (!MUTATED("reuse places in the ring while readers are there"))
		drain_wait(&fs->readers);
	journal_set_tail(fs->journal, p->tail);
	for (size_t i = 0; i < p->count; i++) {
		struct layer *layer = p->layers[i].layer;
		uint64_t poison = atomic_load(&layer->poison_seq);

		if (layer->left_out)
			continue;
		layer->sync_failures = 0;
		layer_pages_done(layer, p->layers[i].pages);
		layer_forget_large_failures(layer, p->tail.seq);
		/* Records before the tail need no commit record any more, and those that failed
		 * are not replayed any more. */
		layer_set_committed(layer, p->tail.seq - 1);
		if (poison && poison < p->tail.seq)
			atomic_compare_exchange_strong(&layer->poison_seq, &poison, 0);
		if (p->layers[i].punches) {
			layer_punch_later(layer, steal_pointer(&p->layers[i].punches));
			atomic_store(&fs->punches_due, true);
		}
	}
	release_dying(p);
	COUNT(fs, checkpoints, 1);
}

/* ---- after step 8: holes ---- */

/*
 * The file system below may take minutes for the holes of one discard (see bury.c). So they are punched a
 * moment at a time, by checkpoints and between them: never while a picture is under way, for then what memory
 * calls given up is not durable yet. Checkpoint_lock is held.
 */
static void punch_some(struct fs *fs, int64_t until_ns)
{
	struct punching how = punching_all();
	struct layer **list;
	bool more = false;
	size_t count;

	if (!atomic_load(&fs->punches_due))
		return;
	/* Tests want the same calls each time. */
	if (!fs->options.no_background)
		how = (struct punching){.until_ns = until_ns,
			.blocks = {PUNCH_LEAST, PUNCH_LEAST, PUNCH_MOST}};
	list = hold_layers(fs, &count);
	if (!list)
		return;
	for (size_t i = 0; i < count; i++)
		if (!list[i]->left_out)
			more |= times_now(CLOCK_MONOTONIC) < how.until_ns ?
				layer_punch_due(list[i], &how) : layer_has_due(list[i]);
	let_layers(list, count);
	atomic_store(&fs->punches_due, more);
	space_given_back(fs);
}

/* Whether space is on its way back that earlier checkpoints gave up. */
static bool is_giving_back(struct fs *fs)
{
	return atomic_load(&fs->punches_due) || bury_is_pending(fs);
}

static void punch_for_a_moment(struct fs *fs)
{
	punch_some(fs, times_now(CLOCK_MONOTONIC) + MOMENT_NS);
}

/* True: there are more. Who waits for checkpoint_lock gets it then. */
static bool punch_and_pause(struct fs *fs)
{
	const struct timespec pause = {.tv_nsec = PUNCH_PAUSE_NS};

	if (!atomic_load(&fs->punches_due))
		return false;
	pthread_mutex_lock(&fs->checkpoint_lock);
	punch_for_a_moment(fs);
	pthread_mutex_unlock(&fs->checkpoint_lock);
	nanosleep(&pause, NULL);
	return atomic_load(&fs->punches_due);
}

static void picture_failed(struct picture *p)
{
	struct fs *fs = p->fs;

	for (size_t i = 0; i < p->count; i++) {
		if (p->layers[i].layer->left_out)
			continue;
		layer_pages_failed(p->layers[i].layer, p->layers[i].pages);
		layer_give_back_punches(p->layers[i].layer, steal_pointer(&p->layers[i].punches));
	}
	pool_give_back_dying(fs->pool, steal_pointer(&p->dying));
	tree_lock(fs);
	while (p->dead) {
		struct dead *next = p->dead->next;

		p->dead->next = fs->dead;
		fs->dead = p->dead;
		p->dead = next;
	}
	pthread_rwlock_unlock(&fs->tree);
	atomic_fetch_add(&fs->given_up, p->given_up);
	atomic_store(&fs->giving_back, false);
	atomic_store(&fs->changed, true);
}

/* After picture_finish(): the last of what is given back. */
static void picture_bury(struct picture *p)
{
	bury_dead(p->fs, steal_pointer(&p->dead));
	atomic_store(&p->fs->giving_back, false);
	space_given_back(p->fs);
}

static void picture_release(struct picture *p)
{
	for (size_t i = 0; i < p->count; i++) {
		pages_free(p->layers[i].pages);
		atomic_fetch_sub(&p->layers[i].layer->users, 1);
	}
	free(p->layers);
	opbuf_release(&p->catalog);
}

/*
 * The journal's head at a moment when every record before it has its effects in memory. Without
 * the gate a record could lie before T whose blocks are not in the index yet: it would not be
 * destaged, and its place in the ring be given up all the same.
 */
static struct journal_mark settled_head(struct fs *fs)
{
	struct journal_mark head;

	pthread_rwlock_wrlock(&fs->gate);
	head = journal_head(fs->journal);
	pthread_rwlock_unlock(&fs->gate);
	return head;
}

/* T of a lap that others wait for: a part of the ring, so that it ends soon. */
static struct journal_mark settled_part(struct fs *fs)
{
	uint64_t part = max_u64(journal_size(fs->journal) / 4, LEAST_LAP);
	struct journal_mark head;

	pthread_rwlock_wrlock(&fs->gate);
	head = journal_head_within(fs->journal, part);
	pthread_rwlock_unlock(&fs->gate);
	return head;
}

struct mark_list {
	struct opbuf buf;
	uint64_t layer;
	unsigned count, of_layer;
};

static int keep_mark(void *arg, uint32_t region, uint32_t count)
{
	struct mark_list *list = arg;
	struct gf_op_intent *op;

	if (list->count == KEPT_MARKS || list->of_layer == KEPT_OF_LAYER ||
		!OPBUF_ADD(&list->buf, GF_OP_INTENT, 0, op, 0))
		return -ENOSPC;
	list->count++;
	list->of_layer++;
	op->layer = list->layer;
	op->region = region;
	op->count = count;
	return 0;
}

/*
 * Between settled_head() and the picture: intent marks that large writes relied on lately are recorded
 * again, since the tail is about to pass their records. A guest that overwrites goes on without a sync of
 * its own then, which would wait behind that of the data. What finds no room in the list goes, and is marked
 * anew when it is written. False: all marks go.
 */
static bool keep_marks(struct fs *fs)
{
	struct mark_list list = {.count = 0};
	struct layer_entry *entry, *next;
	int64_t room;
	int r = 0;

	opbuf_init(&list.buf);
	pthread_rwlock_rdlock(&fs->tree);
	HASH_ITER (hh, fs->layers, entry, next) {
		list.layer = entry->layer->id;
		list.of_layer = 0;
		layer_age_marks(entry->layer, keep_mark, &list);
	}
	pthread_rwlock_unlock(&fs->tree);
	if (list.buf.len && !MUTATED("intent marks are kept and their records passed")) {
		room = journal_try_reserve(fs->journal, list.buf.len, JOURNAL_URGENT);
		r = room < 0 ? (int)room : record_commit(fs, &list.buf, NULL);
		if (room >= 0)
			journal_unreserve(fs->journal, room);
	}
	opbuf_release(&list.buf);
	return r == 0;
}

/* What came of a checkpoint beside its error. */
struct outcome {
	bool in_part; /* asked for: the tail need not come as far as it could */
	bool again; /* something changed that lets the next one come further */
	bool full;  /* blocks stay in the ring for want of space */
	bool moved; /* the tail, and it could move further now */
	bool giving_back; /* space was on its way back when it began */
	bool given_back; /* and all of it was waited for, in these rounds */
	struct journal_mark copy_below; /* what is copied in these rounds */
	uint64_t copied;     /* bytes of the ring, in these rounds */
	uint64_t kept;	     /* bytes of the ring that are needed still, copies included */
};

/*
 * How far the tail may go: to T, but for records that are still needed. Those are copied when the
 * ring fills, or when somebody waits for the tail. When not all of them find room, the next round
 * has some more, but does not copy the copies.
 */
static int picture_tail(struct picture *p, struct outcome *out)
{
	struct fs *fs = p->fs;
	struct journal_mark head = p->tail, end;
	int r;

	if (!out->full && !atomic_load(&fs->failed_layers))
		return 0;
	if (!out->copy_below.seq && !fs->picture_failed && (atomic_exchange(&fs->move_tail, false) || fs->closing ||
		    journal_used(fs->journal) > journal_size(fs->journal) / 4))
		out->copy_below = head;
	r = carry_over(fs, out->copy_below.seq, &p->tail, &out->copied);
	out->moved = p->tail.seq != fs->tail.seq && p->tail.seq < out->copy_below.seq;
	end = out->copy_below.seq ? out->copy_below : head;
	out->kept = out->copied + (p->tail.seq < end.seq ? end.pos - p->tail.pos : 0);
	return r;
}

/* Where records are carried on, or somebody waits for the tail to pass one, it goes as far as it can. */
static bool lap_ends_early(struct fs *fs, const struct outcome *out)
{
	return out->in_part && !out->copy_below.seq && !atomic_load(&fs->failed_layers) &&
	       !atomic_load(&fs->carrying) && !atomic_load(&fs->move_tail) && !fs->picture_failed;
}

/* For want of space: whether the next round may find some that this one did not. Once, or who discards all
 * the time would keep it from ending. */
static bool gave_back(struct fs *fs, struct outcome *out)
{
	const bool any = (out->giving_back || is_giving_back(fs)) && !out->given_back;

	punch_some(fs, INT64_MAX);
	bury_wait(fs);
	out->given_back = true;
	return any;
}

static int checkpoint_locked(struct fs *fs, struct outcome *out)
{
	const int64_t began = times_now(CLOCK_MONOTONIC);
	const struct journal_mark before = fs->tail;
	struct picture p = {.fs = fs};
	int r;

	*out = (struct outcome){.in_part = out->in_part, .copy_below = out->copy_below,
		.copied = out->copied, .given_back = out->given_back,
		.giving_back = is_giving_back(fs)};
	opbuf_init(&p.catalog);
	dedup_find_domains(fs);
	r = failing_recall(fs);
	if (r)
		return r;
	p.tail = lap_ends_early(fs, out) ? settled_part(fs) : settled_head(fs);
	/* A torn catalog is told from a damaged one by the records since the other copy: there has
	 * to be one. */
	if (p.tail.seq == fs->tail.seq) {
		r = append_epoch(fs);
		if (r)
			return r;
		p.tail = settled_head(fs);
	}
	journal_note_lap(fs->journal, p.tail.pos - before.pos);
	/* At a clean end nothing is left to be replayed. */
	p.marks_kept = !fs->closing && keep_marks(fs);
	r = SITE("checkpoint: sync the journal before destaging",
		journal_sync(fs->journal, p.tail.seq - 1));
	if (!r)
		r = destage(fs, MUTATED("the tail passes blocks that were not destaged") ?
					0 : p.tail.seq - 1, &out->full);
	if (!r) {
		dedup_drop_dead(fs);
		tree_sweep_goldens(fs);
	}
	/* A layer that failed on the way is left out from the next round on. */
	if (!r && atomic_load(&fs->recalls))
		r = -EAGAIN;
	if (!r)
		r = picture_tail(&p, out);
	/* Not before it is known how far the tail goes: what it does not pass is replayed. */
	if (!r) {
		dedup_move(fs, p.tail.seq);
		r = dedup_examine(fs, p.tail.seq);
	}
	if (!r)
		picture_prepare(&p);
	if (!r)
		r = picture_take(&p);
	if (!r && MUTATED("punch holes before the state is durable")) {
		for (size_t i = 0; i < p.count; i++)
			layer_punch_later(p.layers[i].layer, steal_pointer(&p.layers[i].punches));
		atomic_store(&fs->punches_due, true);
		punch_some(fs, INT64_MAX);
	}
	if (!r && MUTATED("remove files before the state is durable"))
		bury_dead(fs, steal_pointer(&p.dead));
	if (!r)
		r = picture_write(&p);
	fs->picture_failed = r;
	dedup_moved(fs, r == 0);
	if (r) {
		journal_note_lap(fs->journal, 0);
		picture_failed(&p);
		picture_release(&p);
		out->again = r == -EAGAIN ||
			     (r == -ENOSPC && (gave_back(fs, out) || space_give_reserve(fs, false)));
		return r;
	}
	picture_finish(&p);
	journal_note_drained(fs->journal, p.tail.pos - before.pos,
		times_now(CLOCK_MONOTONIC) - began);
	picture_release(&p);
	out->again = out->moved || (out->full && p.dead != NULL);
	picture_bury(&p);
	if (!out->full)
		punch_for_a_moment(fs);
	else if (gave_back(fs, out))
		out->again = true;
	/* What came behind T is not in its place yet. */
	if (out->full || (out->in_part && p.tail.seq <= p.upto))
		atomic_store(&fs->changed, true);
	if (!out->full)
		space_hold_reserve(fs);
	return 0;
}

/*
 * Gives up blocks of frozen layers that no file sees any more. From then on they read as what is
 * below them, and a write that equals that is not stored: so nothing may be compared with them
 * until the checkpoint that says so is durable, or a crash would bring the old block back under
 * it. And what hides them must be durable with it, which is why data is synced in between.
 */
static int forget_unseen(struct fs *fs)
{
	struct picture p = {.fs = fs};
	struct forgotten forgotten = {0};
	int r;

	pthread_mutex_lock(&fs->checkpoint_lock);
	opbuf_init(&p.catalog);
	p.tail = fs->tail;
	p.marks_kept = true; /* it does not move */
	forgotten.tail = p.tail.seq;
	r = failing_recall(fs);
	/* What hides a block may never become durable then. */
	if (r || atomic_load(&fs->failed_layers)) {
		pthread_mutex_unlock(&fs->checkpoint_lock);
		return r;
	}
	picture_prepare(&p);
	pthread_rwlock_rdlock(&fs->tree);
	pthread_rwlock_wrlock(&fs->sharing);
	/* A reader that passed a layer before something newer was written there is on its way to what
	 * nobody sees any more. */
	drain_wait(&fs->readers);
	if (!r)
		r = figures_free_unseen(fs, &forgotten);
	pthread_rwlock_unlock(&fs->tree);
	/* As in checkpoint_locked(): a record since the other copy of the catalog. */
	if (!r && settled_head(fs).seq == fs->tail.seq)
		r = append_epoch(fs);
	if (!r)
		r = picture_take(&p);
	if (!r)
		r = picture_write(&p);
	if (r)
		figures_remember(fs, &forgotten);
	else
		figures_forgotten(&forgotten);
	figures_changed(fs);
	pthread_rwlock_unlock(&fs->sharing);
	free(forgotten.blocks);
	if (r)
		picture_failed(&p);
	else
		picture_finish(&p);
	picture_release(&p);
	if (!r) {
		punch_for_a_moment(fs);
		picture_bury(&p);
	}
	pthread_mutex_unlock(&fs->checkpoint_lock);
	return r;
}

/* Whether the ring has hardly room although the checkpoint came through. What others appended
 * meanwhile does not count, however much it is: the next one gives that back. */
static bool ring_is_stuck(struct fs *fs, const struct outcome *out)
{
	return out->kept > journal_size(fs->journal) / 2;
}

static void say_once(struct fs *fs, int r)
{
	int said = fs->checkpoint_error;

	fs->checkpoint_error = r;
	if (!r || r == said)
		return;
	if (r == -ENOSPC)
		log_warning("the file system of the store has no space for blocks that are in the "
			    "journal; they stay there, make space");
	else
		log_error(r, "cannot move changes from the journal to their place; they stay in "
			     "the journal");
	COUNT(fs, errors, r != -ENOSPC);
}

static int run(struct fs *fs, bool in_part)
{
	struct outcome out = {.in_part = in_part};
	bool stuck;
	int r = fs_writable(fs);

	if (r)
		return r;
	pthread_mutex_lock(&fs->checkpoint_lock);
	do {
		r = checkpoint_locked(fs, &out);
		atomic_store(&fs->carrying, out.full || atomic_load(&fs->failed_layers));
		stuck = r || (atomic_load(&fs->carrying) && ring_is_stuck(fs, &out));
		if (!r && stuck)
			out.again |= out.full && space_give_reserve(fs, true);
	} while (out.again && !fs_writable(fs));
	if (!r && out.full)
		r = -ENOSPC;
	say_once(fs, r);
	pthread_mutex_unlock(&fs->checkpoint_lock);
	journal_set_stuck(fs->journal, !stuck ? 0 : r == -ENOSPC ? -ENOSPC : -EIO);
	damage_report(fs);
	damage_recheck(fs);
	return r;
}

int checkpoint_make(struct fs *fs)
{
	return run(fs, false);
}

int checkpoint_run(struct fs *fs)
{
	int r = checkpoint_make(fs);

	while (!r && punch_and_pause(fs))
		;
	return r;
}

/* ---- the background thread ---- */

void checkpoint_want(struct fs *fs)
{
	/* Every write asks while the ring is filling. */
	if (atomic_exchange(&fs->wanted, true))
		return;
	MUTEX_GUARD(&fs->work_lock);
	pthread_cond_signal(&fs->work);
}

/* Called by whoever finds the ring full. */
void checkpoint_pressure(void *arg)
{
	struct fs *fs = arg;

	if (atomic_load(&fs->worker_runs))
		checkpoint_want(fs);
}

struct idle_work {
	struct dedup_counted counted;
	bool all_counted;
};

/*
 * What takes long in a store with many layers, a moment of it, for meanwhile the ring may become full: before
 * references were counted so, guests waited for 37 s after a mount with 900 layers of 400 GiB. True: there is
 * more.
 */
static bool work_for_a_moment(struct fs *fs, struct idle_work *idle)
{
	if (!idle->all_counted) {
		int64_t until = times_now(CLOCK_MONOTONIC) + MOMENT_NS;

		idle->all_counted = dedup_count_some(fs, &idle->counted, until) <= 0;
		return true;
	}
	return punch_and_pause(fs);
}

static bool is_wanted(const struct fs *fs)
{
	return fs->stopping || atomic_load(&fs->wanted);
}

/* Waits until there is work, busy with what is not urgent; false: the end. */
static bool wait_for_work(struct fs *fs, struct idle_work *idle, int seconds)
{
	int64_t end = times_now(CLOCK_REALTIME) + seconds * TIMES_NS_PER_SECOND;
	const struct timespec until = times_spec(end);
	bool more = true, stopping;

	pthread_mutex_lock(&fs->work_lock);
	while (!is_wanted(fs) && more && times_now(CLOCK_REALTIME) < end) {
		pthread_mutex_unlock(&fs->work_lock);
		more = work_for_a_moment(fs, idle);
		pthread_mutex_lock(&fs->work_lock);
	}
	while (!is_wanted(fs))
		if (pthread_cond_timedwait(&fs->work, &fs->work_lock, &until) == ETIMEDOUT)
			break;
	atomic_store(&fs->wanted, false);
	stopping = fs->stopping;
	pthread_mutex_unlock(&fs->work_lock);
	return !stopping;
}

/* After a crash some files may hold bytes that no state refers to. */
void checkpoint_reclaim(struct fs *fs)
{
	struct layer **list;
	size_t count;

	/* Between a checkpoint's picture and its end, clean regions are not durable yet. */
	pthread_mutex_lock(&fs->checkpoint_lock);
	list = hold_layers(fs, &count);
	for (size_t i = 0; i < count; i++)
		fs->reclaim_wanted |= layer_reclaim(list[i]) == -ENOMEM;
	let_layers(list, count);
	atomic_store(&fs->punches_due, true);
	punch_for_a_moment(fs);
	if (fs->options.takeover)
		remove_orphan_files(fs);
	pthread_mutex_unlock(&fs->checkpoint_lock);
}

static void *worker_main(void *arg)
{
	struct fs *fs = arg;
	struct idle_work idle = {0};
	int pause = IDLE_SECONDS;

	while (wait_for_work(fs, &idle, pause)) {
		pause = IDLE_SECONDS;
		/* Every lap costs then: let more come together. */
		if (atomic_load(&fs->carrying))
			usleep(CARRY_PAUSE_US);
		if (atomic_load(&fs->changed) && !fs_writable(fs) && run(fs, true))
			pause = RETRY_SECONDS;
		/* What changed while the checkpoint ran must not wait for the clock when the
		 * ring is filling. */
		if (pause == IDLE_SECONDS && !atomic_load(&fs->carrying) && journal_is_short(fs->journal) && !fs_writable(fs))
			checkpoint_want(fs);
		if (fs->reclaim_wanted && !fs_writable(fs)) {
			fs->reclaim_wanted = false;
			checkpoint_reclaim(fs);
		}
		/* Also while there is always something urgent. */
		work_for_a_moment(fs, &idle);
		/* A region a second: nobody waits for this. */
		if (!journal_is_short(fs->journal) && heal_some(fs))
			pause = 1;
		if (!journal_is_short(fs->journal) && dedup_fill_some(fs))
			pause = 1;
	}
	return NULL;
}

int checkpoint_start(struct fs *fs)
{
	int r;

	if (fs->options.read_only || fs->options.no_background)
		return 0;
	r = journal_start_write_back(fs->journal);
	if (!r)
		r = syncer_start(fs);
	if (r)
		return r;
	atomic_store(&fs->worker_runs, true);
	r = pthread_create(&fs->worker, NULL, worker_main, fs);
	if (r) {
		atomic_store(&fs->worker_runs, false);
		syncer_stop(fs);
	}
	return -r;
}

void checkpoint_stop(struct fs *fs)
{
	syncer_stop(fs);
	if (!atomic_load(&fs->worker_runs))
		return;
	pthread_mutex_lock(&fs->work_lock);
	fs->stopping = true;
	pthread_cond_signal(&fs->work);
	pthread_mutex_unlock(&fs->work_lock);
	pthread_join(fs->worker, NULL);
	atomic_store(&fs->worker_runs, false);
}

bool checkpoint_is_owed(struct fs *fs)
{
	struct pool_figures figures;

	pool_figures(fs->pool, &figures);
	return figures.dying_slots || dedup_has_moves(fs);
}

/* Who works on an image that nobody stands on any more hears of it in a moment, and then it goes. */
static int bury_held(struct fs *fs)
{
	const struct timespec pause = {.tv_nsec = HELD_PAUSE_NS};

	for (int looks = 0; looks < HELD_LOOKS && tree_has_idle_golden(fs, true); looks++)
		nanosleep(&pause, NULL);
	return tree_has_idle_golden(fs, false) ? checkpoint_run(fs) : 0;
}

static int settle(struct fs *fs, const struct stop *stop)
{
	struct dedup_images *images;
	int r;

	takeover_settle(fs);
	r = dedup_count(fs);
	if (!r)
		r = golden_index_make_all(fs);
	if (r)
		return r;
	/* Twice: what the first round gave up is punched or removed by the second at the latest. */
	r = checkpoint_run(fs);
	images = r ? NULL : dedup_examine_begin(fs, stop);
	while (images && !r && atomic_load(&fs->examine) && !is_stopped(stop))
		r = checkpoint_run(fs);
	dedup_examine_end(fs, images);
	while (!r && !is_stopped(stop) && (r = forget_unseen(fs)) == -EAGAIN)
		r = fs_writable(fs);
	if (!r && fs->reclaim_wanted) {
		fs->reclaim_wanted = false;
		checkpoint_reclaim(fs);
	}
	if (!r)
		r = checkpoint_run(fs);
	/* What a layer's end or a move gave up is free with the next one. */
	for (int i = 0; i < 4 && !r && checkpoint_is_owed(fs) && !is_stopped(stop); i++)
		r = checkpoint_run(fs);
	if (!r)
		r = bury_held(fs);
	if (!r)
		bury_wait(fs);
	return r ? r : is_stopped(stop) ? -ECANCELED : 0;
}

int fs_settle_until(struct fs *fs, bool (*stopped)(void *arg), void *arg)
{
	const struct stop stop = {stopped, arg};
	int r = fs_writable(fs);

	if (r)
		return r;
	r = settle(fs, &stop);
	figures_renew(fs);
	return r;
}

int fs_settle(struct fs *fs)
{
	return fs_settle_until(fs, NULL, NULL);
}
