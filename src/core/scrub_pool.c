/* SPDX-License-Identifier: MIT */
/*
 * The pool, as it is on the disk: each slot that somebody refers to once, whoever and how many that
 * are. The walk over the layers tells of the blocks that stand in those which are not what was
 * written.
 *
 * A slot that does not match is looked at again through the cache, announced as a reader, so that it
 * does not become another one meanwhile. When it is right there, the cache has what the disk lost.
 */
#include "core/scrub_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/sizes.h"
#include "base/times.h"
#include "store/pool.h"

#define PIECE_SLOTS 256
#define SUM_PAGES 2 /* sums of a piece, wherever it begins, with what is around them */
#define NO_FILE UINT64_MAX

struct pool_walk {
	struct scrub *s;
	uint64_t file; /* that is open */
	struct media data, sums;
	uint8_t *buf;	  /* PIECE_SLOTS * 4096, aligned */
	uint8_t *sum_buf; /* SUM_PAGES * 4096, aligned */
};

static void file_name(char path[40], uint64_t number, const char *ending)
{
	snprintf(path, 40, "pool/%" PRIu64 ".%s", number, ending);
}

static void close_files(struct pool_walk *w)
{
	media_close(&w->data);
	media_close(&w->sums);
	w->file = NO_FILE;
}

static void open_files(struct pool_walk *w, uint64_t number)
{
	char path[40];

	if (w->file == number)
		return;
	close_files(w);
	w->file = number;
	file_name(path, number, "data");
	if (media_open(&w->data, w->s->fs->io, path))
		w->data.fd = -1;
	file_name(path, number, "sum");
	if (media_open(&w->sums, w->s->fs->io, path))
		w->sums.fd = -1;
}

/* Where in sum_buf the sum of the first slot of a piece is. */
static const uint32_t *sums_of(const struct pool_walk *w, uint64_t slot)
{
	uint64_t off = slot % POOL_FILE_SLOTS * sizeof(uint32_t) % GF_BLOCK_SIZE;

	return (const uint32_t *)(w->sum_buf + off);
}

static int read_piece(struct pool_walk *w, uint64_t slot, uint64_t count)
{
	uint64_t at = slot % POOL_FILE_SLOTS;
	uint64_t first = round_down(at * sizeof(uint32_t), GF_BLOCK_SIZE);
	uint64_t end = round_up((at + count) * sizeof(uint32_t), GF_BLOCK_SIZE);
	int r;

	if (w->data.fd < 0 || w->sums.fd < 0)
		return -ENOENT;
	r = media_read(&w->sums, w->sum_buf, end - first, first);
	return r ? r : media_read(&w->data, w->buf, count * GF_BLOCK_SIZE, at * GF_BLOCK_SIZE);
}

static bool matches(const struct pool_walk *w, const uint8_t *bytes, uint32_t sum)
{
	return hash_block(w->s->fs->super.secret, bytes) == sum;
}

/* ---- one slot that did not match ---- */

static int tell_mended(struct pool_walk *w, uint64_t slot)
{
	char path[40];

	file_name(path, slot / POOL_FILE_SLOTS, "data");
	return scrub_repaired(w->s, &(struct about){.severity = CHECK_DAMAGE, .structure = "pool",
		.place = path, .offset = slot % POOL_FILE_SLOTS * GF_BLOCK_SIZE,
		.length = GF_BLOCK_SIZE},
		"a shared block or its checksum is not on the disk as it is in memory");
}

static int add_bad(struct pool_walk *w, uint64_t slot)
{
	return slot_set_add(&w->s->bad_slots, slot);
}

/* Cached it is right: is it on the disk, too? */
static int compare_with_disk(struct pool_walk *w, uint64_t slot, const uint8_t *right, uint32_t sum)
{
	struct fs *fs = w->s->fs;
	int r = read_piece(w, slot, 1);

	if (!r && *sums_of(w, slot) == sum && matches(w, w->buf, sum))
		return 0;
	if (r == -ENOENT)
		return 0;
	if (fs->options.read_only || fs_writable(fs) || pool_write_again(fs->pool, slot, right, sum))
		return add_bad(w, slot);
	atomic_store(&fs->changed, true);
	return tell_mended(w, slot);
}

static bool is_live(struct pool_walk *w, uint64_t slot)
{
	uint64_t at = slot;

	return pool_next_live(w->s->fs->pool, &at, 1) && at == slot;
}

static int look_again(struct pool_walk *w, uint64_t slot)
{
	struct fs *fs = w->s->fs;
	uint8_t bytes[GF_BLOCK_SIZE];
	unsigned token = drain_enter(&fs->readers);
	uint32_t sum;
	int r = 0;

	if (is_live(w, slot)) {
		if (pool_read(fs->pool, slot, bytes, 1) || pool_read_sums(fs->pool, slot, &sum, 1) ||
			!matches(w, bytes, sum))
			r = add_bad(w, slot);
		else
			r = compare_with_disk(w, slot, bytes, sum);
	}
	drain_leave(&fs->readers, token);
	return r;
}

/* ---- walking ---- */

static int scrub_piece(struct pool_walk *w, uint64_t slot, uint64_t count)
{
	int64_t start = times_now(CLOCK_MONOTONIC);
	bool read = read_piece(w, slot, count) == 0;
	int r = 0;

	for (uint64_t i = 0; i < count && !r; i++) {
		if (read && matches(w, w->buf + i * GF_BLOCK_SIZE, sums_of(w, slot)[i]))
			continue;
		r = look_again(w, slot + i);
		/* That uses the same buffer. */
		if (read && i + 1 < count)
			read = read_piece(w, slot, count) == 0;
	}
	w->s->report->blocks += count;
	return r ? r : scrub_progress(w->s, count * GF_BLOCK_SIZE, start);
}

int scrub_pool(struct scrub *s)
{
	struct pool_walk w = {.s = s, .file = NO_FILE, .data.fd = -1, .sums.fd = -1};
	uint64_t slot = 0, count;
	int r = 0;

	w.buf = aligned_alloc(GF_BLOCK_SIZE, PIECE_SLOTS * GF_BLOCK_SIZE);
	w.sum_buf = aligned_alloc(GF_BLOCK_SIZE, SUM_PAGES * GF_BLOCK_SIZE);
	if (!w.buf || !w.sum_buf)
		r = -ENOMEM;
	while (!r && (count = pool_next_live(s->fs->pool, &slot, PIECE_SLOTS)) != 0) {
		open_files(&w, slot / POOL_FILE_SLOTS);
		r = scrub_piece(&w, slot, count);
		slot += count;
	}
	close_files(&w);
	free(w.buf);
	free(w.sum_buf);
	return r;
}
