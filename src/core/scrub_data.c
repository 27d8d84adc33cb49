/* SPDX-License-Identifier: MIT */
/*
 * Blocks at rest and golden images, as they are on the disk.
 *
 * Data are read past the cache (O_DIRECT where the file system below can), in pieces of a MiB. A
 * block that does not match is looked at again under its range, since guests write meanwhile. When
 * it is right as it is cached and wrong on the disk, the cache has what the disk lost, and it is
 * written anew.
 */
#include "core/scrub_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/sizes.h"
#include "base/times.h"
#include "image/pin_file.h"
#include "store/region.h"

#define PIECE_BLOCKS 256
#define SUM_PAGES 2 /* sums of a piece, wherever it begins, with what is around them */
#define LAST_BLOCK (GF_MAX_SIZE / GF_BLOCK_SIZE - 1) /* stands in the sum file */

struct walk {
	struct scrub *s;
	struct layer *layer;
	struct media data, sums;
	uint8_t *buf;	   /* PIECE_BLOCKS * 4096, aligned */
	uint8_t *sum_buf;  /* SUM_PAGES * 4096, aligned */
	uint64_t bad, bad_count; /* a run of damaged blocks that is not told yet */
	uint64_t mended, mended_count;
};

static void file_name(char path[40], const struct layer *layer, const char *ending)
{
	snprintf(path, 40, "layer/%" PRIu64 ".%s", layer->id, ending);
}

/* ---- telling ---- */

static int tell_bad(struct walk *w)
{
	uint64_t block = w->bad, count = w->bad_count;
	char path[40];

	w->bad_count = 0;
	if (!count)
		return 0;
	file_name(path, w->layer, "data");
	return scrub_find(w->s, &(struct about){.severity = CHECK_DAMAGE, .structure = "data",
		.place = path, .offset = block * GF_BLOCK_SIZE, .length = count * GF_BLOCK_SIZE,
		.layer = w->layer, .block = block, .count = count,
		.advice = "restore the file from a backup, or write these blocks anew in the guest"},
		"%" PRIu64 " block%s do%s not have the checksum that was recorded", count,
		count == 1 ? "" : "s", count == 1 ? "es" : "");
}

static int tell_mended(struct walk *w)
{
	uint64_t block = w->mended, count = w->mended_count;
	char path[40];

	w->mended_count = 0;
	if (!count)
		return 0;
	file_name(path, w->layer, "data");
	return scrub_repaired(w->s, &(struct about){.severity = CHECK_DAMAGE, .structure = "data",
		.place = path, .offset = block * GF_BLOCK_SIZE, .length = count * GF_BLOCK_SIZE,
		.layer = w->layer, .block = block, .count = count},
		"%" PRIu64 " block%s or %s are not on the disk as they are in memory", count,
		count == 1 ? "" : "s", count == 1 ? "its checksum" : "their checksums");
}

static int add_bad(struct walk *w, uint64_t block)
{
	int r = 0;

	damage_note(w->s->fs, w->layer->id, block);
	if (w->bad_count && w->bad + w->bad_count != block)
		r = tell_bad(w);
	if (!w->bad_count)
		w->bad = block;
	w->bad_count++;
	return r;
}

static int add_mended(struct walk *w, uint64_t block)
{
	int r = 0;

	if (w->mended_count && w->mended + w->mended_count != block)
		r = tell_mended(w);
	if (!w->mended_count)
		w->mended = block;
	w->mended_count++;
	return r;
}

/* ---- reading ---- */

/* Where in sum_buf the sum of the first block of a piece is. */
static uint32_t *sums_of(struct walk *w, uint64_t block)
{
	return (uint32_t *)(w->sum_buf + block * sizeof(uint32_t) % GF_BLOCK_SIZE);
}

/* Reads blocks and their sums from the disk. -ENOENT: not there, or not to be read so. */
static int read_piece(struct walk *w, uint64_t block, uint64_t count)
{
	uint64_t first = round_down(block * sizeof(uint32_t), GF_BLOCK_SIZE);
	uint64_t end = round_up((block + count) * sizeof(uint32_t), GF_BLOCK_SIZE);
	int r;

	if (block + count > LAST_BLOCK || w->data.fd < 0 || w->sums.fd < 0)
		return -ENOENT;
	r = media_read(&w->sums, w->sum_buf, end - first, first);
	return r ? r : media_read(&w->data, w->buf, count * GF_BLOCK_SIZE, block * GF_BLOCK_SIZE);
}

static bool matches(struct walk *w, const uint8_t *bytes, uint32_t sum)
{
	return hash_block(w->s->fs->super.secret, bytes) == sum;
}

/* ---- one block that did not match ---- */

/* Cached it is right: is it on the disk, too? Its range is held. */
static int compare_with_disk(struct walk *w, uint64_t block, const uint8_t *right)
{
	uint32_t sum = hash_block(w->s->fs->super.secret, right);
	int r = read_piece(w, block, 1);

	if (r == -ENOENT || (!r && matches(w, w->buf, *sums_of(w, block))))
		return 0;
	/* Its checksum waits in memory for space, or for a mount that writes. */
	if (!r && *sums_of(w, block) == 0 && matches(w, w->buf, sum))
		return 0;
	if (w->s->fs->options.read_only || fs_writable(w->s->fs))
		return add_bad(w, block);
	r = layer_write_data(w->layer, right, GF_BLOCK_SIZE, block * GF_BLOCK_SIZE);
	if (!r)
		r = layer_write_sums(w->layer, block, &sum, 1);
	atomic_store(&w->s->fs->changed, true);
	return r ? add_bad(w, block) : add_mended(w, block);
}

static int look_again(struct walk *w, uint64_t block)
{
	uint8_t bytes[GF_BLOCK_SIZE];
	struct range range;
	int verdict, r = 0;

	rangelock_lock(&w->layer->ranges, &range, block, block);
	verdict = layer_judge_block(w->layer, bytes, block, true);
	if (verdict == VERDICT_RIGHT)
		r = compare_with_disk(w, block, bytes);
	rangelock_unlock(&w->layer->ranges, &range);
	if (verdict == VERDICT_HEALED) {
		w->s->report->suspect_blocks++;
		COUNT(w->s->fs, healed_blocks, 1);
		atomic_store(&w->s->fs->changed, true);
	}
	return verdict < 0 || verdict == VERDICT_DAMAGED ? add_bad(w, block) : r;
}

/* ---- walking ---- */

static int scrub_piece(struct walk *w, uint64_t block, uint64_t count)
{
	int64_t start = times_now(CLOCK_MONOTONIC);
	int r = read_piece(w, block, count);
	bool read = r == 0;

	r = 0;
	for (uint64_t i = 0; i < count && !r; i++) {
		bool right = read && matches(w, w->buf + i * GF_BLOCK_SIZE, sums_of(w, block)[i]);

		/* Looking again uses the same buffer. */
		if (!right && read) {
			r = look_again(w, block + i);
			if (!r && i + 1 < count)
				read = read_piece(w, block, count) == 0;
		} else if (!right) {
			r = look_again(w, block + i);
		}
	}
	w->s->report->blocks += count;
	return r ? r : scrub_progress(w->s, count * GF_BLOCK_SIZE, start);
}

static bool is_lost(struct walk *w, const struct region_view *view, uint64_t base, uint32_t i)
{
	return region_view_is(view, i, GF_SHARED) &&
	       (view->lost || layer_is_lost(w->layer, base + i));
}

/* Whether the page of which nothing is known is still there, and so was named already. */
static bool page_was_named(struct walk *w, uint32_t region, const struct region_view *view)
{
	uint8_t page[sizeof(struct gf_disk_page)], states[GF_STATE_BYTES];
	uint64_t place;

	return view->lost &&
	       (layer_read_page(w->layer, region, view->generation, page, &place) ||
		       page_decode(page, w->layer->id, region, view->generation, states, NULL));
}

static int tell_bad_shared(struct walk *w, uint64_t block, uint64_t count, const char *why)
{
	char path[40];

	file_name(path, w->layer, "data");
	return scrub_find(w->s, &(struct about){.severity = CHECK_DAMAGE, .structure = "data",
		.place = path, .offset = block * GF_BLOCK_SIZE, .length = count * GF_BLOCK_SIZE,
		.layer = w->layer, .block = block, .count = count, .shared_only = true,
		.unseen_is_note = true,
		.advice = "restore the file from a backup, or write these blocks anew in the guest"},
		"%" PRIu64 " shared block%s %s", count, count == 1 ? " is" : "s are", why);
}

/* Why the place of a block is no good. NULL: it is, or the block changed meanwhile. */
static const char *judge_shared(struct walk *w, uint64_t block, uint64_t place)
{
	bool lose;
	const char *why = place ?
		place_is_bad(w->s->fs, &w->s->bad_slots, place, &lose) : NULL;

	/* A slot may have become free and another one since the pool was looked at. */
	if (!why || shared_judge(w->s->fs, w->layer, block) != SHARED_DAMAGED)
		return NULL;
	damage_note(w->s->fs, w->layer->id, block);
	return why;
}

/* Blocks that are SHARED: in a place that has their bytes? */
static int scrub_shared(struct walk *w, uint32_t region, const struct region_view *view)
{
	CLEANUP_FREE uint64_t *places = malloc(GF_REGION_BLOCKS * sizeof(*places));
	uint64_t base = (uint64_t)region * GF_REGION_BLOCKS, first = base, count = 0;
	const char *why = NULL;
	int r = places ? 0 : -ENOMEM;

	if (!r && layer_read_places(w->layer, base, places, GF_REGION_BLOCKS))
		return 0; /* its page was named already */
	for (uint32_t i = 0; i < GF_REGION_BLOCKS && !r; i++) {
		const char *is = region_view_is(view, i, GF_SHARED) ?
			judge_shared(w, base + i, places[i]) : NULL;

		if (is != why || first + count != base + i) {
			r = why ? tell_bad_shared(w, first, count, why) : 0;
			first = base + i;
			count = 0;
			why = is;
		}
		count++;
	}
	return r || !why ? r : tell_bad_shared(w, first, count, why);
}

/* Blocks that a repair gave up, or that stood on a page which was damaged and written anew. */
static int tell_lost(struct walk *w, uint32_t region, const struct region_view *view)
{
	uint64_t base = (uint64_t)region * GF_REGION_BLOCKS;
	char path[40];
	int r = 0;

	file_name(path, w->layer, "data");
	for (uint32_t i = 0, n; i < GF_REGION_BLOCKS && !r; i += n) {
		n = 1;
		if (!is_lost(w, view, base, i))
			continue;
		while (i + n < GF_REGION_BLOCKS && is_lost(w, view, base, i + n))
			n++;
		r = scrub_find(w->s, &(struct about){.severity = CHECK_DAMAGE, .structure = "data",
			.place = path, .offset = (base + i) * GF_BLOCK_SIZE,
			.length = n * GF_BLOCK_SIZE, .layer = w->layer, .block = base + i,
			.count = n, .unseen_is_note = true,
			.advice = "restore the file from a backup, or write these blocks anew in "
				  "the guest"},
			"%" PRIu32 " block%s lost to damage and read%s as an error", n,
			n == 1 ? " is" : "s are", n == 1 ? "s" : "");
	}
	return r;
}

static int scrub_region(struct walk *w, uint32_t region)
{
	CLEANUP_FREE struct region_view *view = malloc(sizeof(*view));
	uint64_t base = (uint64_t)region * GF_REGION_BLOCKS;
	bool suspect = layer_is_suspect(w->layer, region);
	int r = view ? layer_view_region(w->layer, region, view) : -ENOMEM;

	if (r == -ENOMEM)
		return r;
	if (r)
		return 0; /* its page was named already */
	if (!page_was_named(w, region, view))
		r = tell_lost(w, region, view);
	if (!r && !view->lost && w->layer->may_share)
		r = scrub_shared(w, region, view);
	for (uint32_t i = 0, n; i < GF_REGION_BLOCKS && !r; i += n) {
		n = 1;
		if (!region_view_is(view, i, GF_OVERLAY))
			continue;
		while (n < PIECE_BLOCKS && i + n < GF_REGION_BLOCKS &&
			region_view_is(view, i + n, GF_OVERLAY))
			n++;
		r = scrub_piece(w, base + i, n);
	}
	if (!r && suspect) {
		layer_clear_suspect(w->layer, region);
		atomic_store(&w->s->fs->changed, true);
	}
	return r;
}

static void open_files(struct walk *w)
{
	char path[40];

	file_name(path, w->layer, "data");
	if (media_open(&w->data, w->s->fs->io, path))
		w->data.fd = -1;
	file_name(path, w->layer, "sum");
	if (media_open(&w->sums, w->s->fs->io, path))
		w->sums.fd = -1;
}

static int scrub_layer(struct walk *w)
{
	uint32_t region = 0;
	int r = 0;

	open_files(w);
	while (!r && (region = layer_next_region(w->layer, region)) != LAYER_NO_REGION)
		r = scrub_region(w, region++);
	media_close(&w->data);
	media_close(&w->sums);
	if (!r)
		r = tell_bad(w);
	return r ? r : tell_mended(w);
}

int scrub_layers(struct scrub *s)
{
	struct walk w = {.s = s, .data.fd = -1, .sums.fd = -1};
	uint64_t id = 0;
	int r = 0;

	w.buf = aligned_alloc(GF_BLOCK_SIZE, PIECE_BLOCKS * GF_BLOCK_SIZE);
	w.sum_buf = aligned_alloc(GF_BLOCK_SIZE, SUM_PAGES * GF_BLOCK_SIZE);
	if (!w.buf || !w.sum_buf)
		r = -ENOMEM;
	while (!r && (w.layer = layer_hold_next(s->fs, id)) != NULL) {
		id = w.layer->id;
		r = scrub_layer(&w);
		s->report->layers++;
		atomic_fetch_sub(&w.layer->users, 1);
	}
	free(w.buf);
	free(w.sum_buf);
	return r;
}

/* ---- golden images ---- */

/* A descriptor that reads past the cache where it can. */
static int open_pin(struct fs *fs, uint64_t id, bool *direct)
{
	char name[PIN_NAME_MAX];
	int fd;

	pin_name(name, id, "");
	*direct = true;
	fd = openat(fs->options.store_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_DIRECT);
	if (fd < 0 && errno == EINVAL) {
		*direct = false;
		fd = openat(fs->options.store_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	}
	return fd < 0 ? -errno : fd;
}

static int read_chunk(int fd, bool direct, uint8_t *buf, size_t len, uint64_t off)
{
	size_t want = direct ? GF_SUMS_CHUNK : len;
	ssize_t n;

	if (!direct)
		posix_fadvise(fd, (off_t)off, (off_t)len, POSIX_FADV_DONTNEED);
	n = fd_pread(fd, buf, want, off);
	return n < 0 ? (int)n : (size_t)n < len ? -EIO : 0;
}

static int scrub_chunks(struct scrub *s, struct golden *g, const struct pin_sums *sums, int fd,
	bool direct, uint8_t *buf)
{
	char path[PIN_NAME_MAX];
	int r = 0;

	pin_name(path, g->id, "");
	for (uint64_t i = 0; i < sums->count && !r; i++) {
		size_t len = min_u64(GF_SUMS_CHUNK, sums->size - i * GF_SUMS_CHUNK);
		int64_t start = times_now(CLOCK_MONOTONIC);
		int e = read_chunk(fd, direct, buf, len, i * GF_SUMS_CHUNK);

		if (e || pin_chunk_sum(buf, len) != sums->sum[i]) {
			damage_note(s->fs, g->id | DAMAGE_GOLDEN, i * (GF_SUMS_CHUNK / GF_BLOCK_SIZE));
			r = scrub_find(s, &(struct about){.severity = CHECK_DAMAGE,
				.structure = "golden", .place = path, .offset = i * GF_SUMS_CHUNK,
				.length = len, .golden = g->id,
				.block = i * (GF_SUMS_CHUNK / GF_BLOCK_SIZE),
				.count = GF_SUMS_CHUNK / GF_BLOCK_SIZE,
				.advice = "put the bytes that the image had back in place, or restore its clones from a backup"},
				"golden image \"%s\" is not what it was", g->path);
		}
		if (!r)
			r = scrub_progress(s, len, start);
	}
	return r;
}

static int bad_sums(struct scrub *s, struct golden *g)
{
	char path[PIN_NAME_MAX];

	pin_name(path, g->id, ".sums");
	unlinkat(s->fs->options.store_fd, path, 0);
	g->worked = false;
	pin_work_want(s->fs);
	return scrub_repaired(s, &(struct about){.severity = CHECK_DAMAGE, .structure = "golden",
		.place = path}, "the sums of a golden image are damaged; they are computed anew");
}

/* Whether it is served at all. When it is not, that concerns everybody who shows any of it, not only
 * who shows what is damaged. */
static int scrub_opening(struct scrub *s, struct golden *g)
{
	char path[PIN_NAME_MAX];
	int r = golden_acquire(g);

	if (!r) {
		pthread_rwlock_unlock(&g->lock);
		return 0;
	}
	pin_name(path, g->id, "");
	return scrub_find(s, &(struct about){.severity = CHECK_DAMAGE, .structure = "golden",
		.place = path, .length = g->image.size, .golden = g->id,
		.count = round_up(g->image.size, GF_BLOCK_SIZE) / GF_BLOCK_SIZE,
		.advice = "put the bytes that the image had back in place, or restore its clones from a backup"},
		"golden image \"%s\" has changed or is damaged, so its clones are not served", g->path);
}

static int scrub_golden(struct scrub *s, struct golden *g)
{
	uint32_t pin = atomic_load(&g->pin);
	struct pin_sums sums = {0};
	uint8_t *buf;
	bool direct;
	int r, fd;

	r = scrub_opening(s, g);
	if (r || (pin != GF_PIN_COPY && pin != GF_PIN_LINK && pin != GF_PIN_REFLINK))
		return r;
	s->report->golden_images++;
	r = pin_sums_load(s->fs->options.store_fd, g->id, &sums);
	if (r)
		return r == -EUCLEAN ? bad_sums(s, g) : r == -ENOENT ? 0 : r;
	fd = open_pin(s->fs, g->id, &direct);
	buf = aligned_alloc(GF_BLOCK_SIZE, GF_SUMS_CHUNK);
	if (fd < 0 || !buf)
		r = fd < 0 ? fd : -ENOMEM;
	else
		r = scrub_chunks(s, g, &sums, fd, direct, buf);
	if (fd >= 0)
		close(fd);
	free(buf);
	pin_sums_release(&sums);
	return r;
}

int scrub_goldens(struct scrub *s)
{
	struct golden *g, *next;
	uint64_t last = 0, id;
	int r = 0;

	if (s->fs->options.golden_test || s->fs->options.store_fd < 0)
		return 0;
	do {
		id = 0;
		pthread_rwlock_rdlock(&s->fs->tree);
		HASH_ITER (hh, s->fs->goldens, g, next)
			if (g->id > last && (!id || g->id < id))
				id = g->id;
		pthread_rwlock_unlock(&s->fs->tree);
		last = id;
		g = id ? golden_hold(s->fs, id) : NULL;
		if (g) {
			r = scrub_golden(s, g);
			golden_hold_end(s->fs, g);
		}
	} while (id && !r);
	return r;
}
