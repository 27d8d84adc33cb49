/* SPDX-License-Identifier: MIT */
/*
 * Golden images by content: their indexes (store/content_index.h), which are asked together.
 *
 *	none --> looked for --> open --> damaged --> made anew
 *	                  \--> missing --> made in the background --> open
 *
 * pin_work.c takes an image along that way, on its own thread and without delaying a mount; here is
 * what is done at each step, and the list of images whose index is open. The list has a lock of its
 * own, which is taken with anything held and under which nothing else is: who writes a block asks
 * while he holds the block's range. It is held shared while an index is asked, over some reads at
 * most, and exclusively to open, replace and close one.
 *
 * The image that had the last block first: what a guest writes mostly stands in the image that its
 * neighbours found theirs in.
 */
#include "core/fs_internal.h"

#include <errno.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/sizes.h"
#include "store/content_index.h"

#define MAX_TRIES 3 /* of making one, in the life of a process */

static struct golden **place_of(struct fs *fs, const struct golden *g)
{
	struct golden **place = &fs->indexed;

	while (*place && *place != g)
		place = &(*place)->index_next;
	return place;
}

/* Takes index over; NULL: there is none any more. */
static void set_index(struct golden *g, struct content_index *index)
{
	struct fs *fs = g->fs;
	struct content_index *old;
	struct golden **place;

	pthread_rwlock_wrlock(&fs->index_lock);
	place = place_of(fs, g);
	if (index && !*place) {
		g->index_next = fs->indexed;
		fs->indexed = g;
	} else if (!index && *place) {
		*place = g->index_next;
	}
	old = g->index;
	g->index = index;
	if (index)
		atomic_fetch_add(&fs->indexes_opened, 1);
	atomic_store(&g->index_bad, false);
	pthread_rwlock_unlock(&fs->index_lock);
	content_index_free(old);
}

void golden_index_close(struct golden *g)
{
	set_index(g, NULL);
}

int golden_index_open(struct fs *fs, struct golden *g)
{
	struct content_index *index;
	struct pin_print print;
	int r;

	pthread_rwlock_rdlock(&g->lock);
	print = g->print;
	pthread_rwlock_unlock(&g->lock);
	r = content_index_open(&index, fs->io, fs->super.secret, g->id, &print);
	if (!r)
		set_index(g, index);
	return r;
}

int golden_index_make(struct fs *fs, struct golden *g)
{
	int r = content_index_build(&(struct content_index_source){.io = fs->io,
		.secret = fs->super.secret, .golden = g->id, .print = &g->print,
		.image = &g->image, .fd = -1, .hash_bits = fs->options.hash_bits});

	return r ? r : golden_index_open(fs, g);
}

/* The next image by number, 0: there is none. */
static uint64_t next_golden(struct fs *fs, uint64_t after)
{
	struct golden *g, *next;
	uint64_t id = 0;

	pthread_rwlock_rdlock(&fs->tables);
	HASH_ITER (hh, fs->goldens, g, next)
		if (g->id > after && (!id || g->id < id))
			id = g->id;
	pthread_rwlock_unlock(&fs->tables);
	return id;
}

int golden_index_make_all(struct fs *fs)
{
	struct golden *g;
	uint64_t id = 0;
	int r = 0;

	if (fs->options.dedup == FS_DEDUP_OFF || !fs->options.golden_test || fs->golden_runs)
		return 0;
	/* One at a time, and no image goes: that is what checkpoints do. */
	MUTEX_GUARD(&fs->checkpoint_lock);
	while (!r && (id = next_golden(fs, id)) != 0) {
		g = tree_find_golden(fs, id);
		if (!g || g->index)
			continue;
		r = golden_index_open(fs, g);
		if (r == -ENOENT || r == -EUCLEAN)
			r = golden_index_make(fs, g);
	}
	return r == -ENOSPC || r == -EIO ? 0 : r;
}

bool golden_index_is_due(struct fs *fs, struct golden *g)
{
	const uint32_t pin = atomic_load(&g->pin);

	if (fs->options.dedup == FS_DEDUP_OFF || g->failed || pin == GF_PIN_COPYING ||
		pin == GF_PIN_FENCED)
		return false;
	return !g->index_looked ||
	       ((g->index_missing || atomic_load(&g->index_bad)) && g->index_tries < MAX_TRIES);
}

/* Bytes of other images, or of one that is gone or not served, are not offered. */
static bool is_served(const struct golden *g)
{
	const uint32_t pin = atomic_load(&g->pin);

	return !atomic_load(&g->gone) && !g->failed && pin != GF_PIN_COPYING && pin != GF_PIN_FENCED;
}

/* Whether it has the block. *bad: the index is to be made anew, and nobody said so before. One that
 * cannot be read is worth no more than a damaged one. */
static bool ask(struct golden *g, const struct hash128 *hash, uint64_t *block, bool *bad)
{
	int r = content_index_lookup(g->index, hash, block);

	if ((r < 0 || content_index_is_damaged(g->index)) && !atomic_exchange(&g->index_bad, true)) {
		*bad = true;
		if (r < 0)
			log_warning("cannot read the content index of golden image \"%s\": %s",
				g->path, strerror(-r));
	}
	return r == 1;
}

/* Unless somebody else asks just now. */
static void move_to_front(struct fs *fs, struct golden *g)
{
	struct golden **place;

	if (pthread_rwlock_trywrlock(&fs->index_lock))
		return;
	place = place_of(fs, g);
	/* It may have been closed meanwhile, and freed. */
	if (*place) {
		*place = g->index_next;
		g->index_next = fs->indexed;
		fs->indexed = g;
	}
	pthread_rwlock_unlock(&fs->index_lock);
}

void golden_index_expect(struct fs *fs, const struct hash128 *hashes, size_t count)
{
	pthread_rwlock_rdlock(&fs->index_lock);
	for (struct golden *g = fs->indexed; g; g = g->index_next)
		for (size_t i = 0; i < count; i++)
			content_index_expect(g->index, &hashes[i]);
	pthread_rwlock_unlock(&fs->index_lock);
}

/* Whether blocks of this layer may be shared with it: clones that leave an image must not keep it. */
static bool is_offered(const struct golden *g, const struct layer *layer)
{
	if (g->id == atomic_load(&layer->leaving))
		return false;
	return is_served(g) && (!atomic_load(&g->left) || g->id == layer->golden);
}

int golden_index_find(struct fs *fs, const struct hash128 *hash, const struct layer *layer,
	uint64_t *id, uint64_t *block)
{
	bool first, bad = false;
	struct golden *g;

	pthread_rwlock_rdlock(&fs->index_lock);
	for (g = fs->indexed; g; g = g->index_next)
		if (is_offered(g, layer) && ask(g, hash, block, &bad))
			break;
	if (g)
		*id = g->id;
	first = g == fs->indexed;
	pthread_rwlock_unlock(&fs->index_lock);
	if (bad)
		pin_work_want(fs);
	if (g && !first)
		move_to_front(fs, g);
	return g != NULL;
}

static struct golden *find_indexed(struct fs *fs, uint64_t id)
{
	struct golden *g = fs->indexed;

	while (g && g->id != id)
		g = g->index_next;
	return g;
}

/* Of one batch, whose memory is fetched before the look-ups: otherwise each waits for it. */
static void rule_out(struct fs *fs, uint64_t id, const struct golden_question *q, size_t from,
	size_t to)
{
	struct golden *g;
	bool bad = false;

	pthread_rwlock_rdlock(&fs->index_lock);
	g = find_indexed(fs, id);
	for (size_t i = from; g && i < to; i++)
		if (q->may[i])
			content_index_expect(g->index, &q->hashes[i]);
	for (size_t i = from; g && i < to; i++) {
		struct hash128 cut = q->hashes[i];
		uint64_t block;

		/* Zeros are not listed. */
		if (!q->may[i] || is_zero(q->data + i * GF_BLOCK_SIZE, GF_BLOCK_SIZE))
			continue;
		hash_cut(&cut, fs->options.hash_bits);
		q->may[i] = ask(g, &cut, &block, &bad) || atomic_load(&g->index_bad);
	}
	pthread_rwlock_unlock(&fs->index_lock);
	if (bad)
		pin_work_want(fs);
}

void golden_index_rule_out(struct fs *fs, uint64_t id, const struct golden_question *q)
{
	for (size_t i = 0; i < q->count; i += EXPECTED_AT_ONCE)
		rule_out(fs, id, q, i, min_u64(i + EXPECTED_AT_ONCE, q->count));
}

/* ---- files ---- */

void golden_index_remove(struct fs *fs, uint64_t id)
{
	int r = content_index_remove(fs->io, id);

	if (r)
		log_warning("cannot remove the content index of a golden image: %s", strerror(-r));
}

static int sweep(void *arg, const char *name)
{
	struct fs *fs = arg;
	bool unfinished;
	uint64_t id = content_index_name(name, &unfinished);

	if (!id)
		return 0;
	if (!tree_find_golden(fs, id))
		golden_index_remove(fs, id);
	else if (unfinished)
		content_index_drop_unfinished(fs->io, id);
	return 0;
}

void golden_index_sweep(struct fs *fs)
{
	fs->io->ops->list(fs->io, "index", sweep, fs);
}
