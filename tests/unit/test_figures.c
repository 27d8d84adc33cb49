/* SPDX-License-Identifier: MIT */
/*
 * The brute-force checker of the accounting.
 *
 * Random operations on clones of clones; when the store is quiet, every figure that it tells is
 * compared, to the byte, with one computed from nothing: each block of each file is followed
 * through the states of its layers down to where it stands, and who holds a block is counted in a
 * table of (layer, block). Nothing of core/figures.c and core/family.c is used for that.
 *
 * What is compared: all classes of every file; the identities between them; what removing random
 * sets would free; the totals; st_blocks; and the data in the layers' files, which must be exactly
 * the blocks that somebody holds. In between, the identities must hold at every moment. In the end
 * everything is removed and the store has to be as small as when it was new.
 *
 * SEED=number runs one seed, SEEDS=count so many from 1 on, TRACE=1 prints the operations.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/falloc.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../crash/rng.h"
#include "base/sizes.h"
#include "base/times.h"
#include "core/family.h"
#include "core/fs_internal.h"
#include "image/image.h"
#include "store_dir.h"

#define DEFAULT_SEEDS 20
#define OPS 150
#define NAMES 7
#define MAX_SMALL (700 * KIB)
#define MAX_WRITE (200 * KIB)

/* ---- golden images: few pieces of data, some of which do not respect blocks ---- */

struct piece {
	uint64_t start, end;
};

struct test_image {
	struct image image;
	const struct piece *pieces;
	size_t count;
	uint8_t salt;
};

static const struct piece pieces_border[] = {{0, 40960}, {102400, 135168},
	{204800 + 3000, 204800 + 3500}, {33554432 - 24576, 33554432 + 24576},
	{33554432 + 401408, 33554432 + 401408 + 1636}};
static const struct piece pieces_full[] = {{0, 300 * 1024 + 512}};
static const struct piece pieces_tiny[] = {{512, 1000}};

static const struct test_image image_models[] = {
	{.image.size = 33554432 + 401408 + 1636, .pieces = pieces_border,
		.count = ARRAY_SIZE(pieces_border), .salt = 3},
	{.image.size = 300 * 1024 + 512, .pieces = pieces_full, .count = 1, .salt = 5},
	{.image.size = 1000, .pieces = pieces_tiny, .count = 1, .salt = 9},
};
#define IMAGES ARRAY_SIZE(image_models)

static int test_image_read(struct image *img, void *buf, size_t len, uint64_t off)
{
	const struct test_image *t = (const struct test_image *)img;
	uint8_t *to = buf;

	memset(buf, 0, len);
	for (size_t i = 0; i < t->count; i++) {
		uint64_t start = max_u64(t->pieces[i].start, off);
		uint64_t end = min_u64(t->pieces[i].end, off + len);

		for (uint64_t at = start; at < end; at++)
			to[at - off] = scratch_byte(at, t->salt);
	}
	return 0;
}

/* Called once, by who asks where the image has data from that offset on. */
static void (*at_next_data)(void);
static uint64_t at_next_data_off;

static int test_image_next_data(struct image *img, uint64_t off, uint64_t *start, uint64_t *end)
{
	const struct test_image *t = (const struct test_image *)img;
	void (*call)(void) = off == at_next_data_off ? at_next_data : NULL;

	if (call) {
		at_next_data = NULL;
		call();
	}

	for (size_t i = 0; i < t->count; i++) {
		if (off < t->pieces[i].end) {
			*start = max_u64(off, t->pieces[i].start);
			*end = t->pieces[i].end;
			return 0;
		}
	}
	return -ENXIO;
}

static void test_image_free(struct image *img)
{
	(void)img;
}

static const struct image_ops test_image_ops = {
	.read = test_image_read, .next_data = test_image_next_data, .free = test_image_free};

/* ---- a run ---- */

struct ghost {
	uint64_t ino;
	int opens;
};

struct world {
	struct store_dir dir;
	struct fs *fs;
	struct test_image images[IMAGES];
	struct rng rng;
	uint64_t seed;
	int op;
	bool trace;
	bool can_punch;
	char text[200];
	struct ghost held[NAMES * 4]; /* files that are open, perhaps without a name */
	size_t held_count;
	uint8_t *buf; /* MAX_WRITE */
	uint64_t empty_bytes; /* physical, of the new store */
};

static struct image *golden_test(void *arg, uint64_t id)
{
	struct world *w = arg;

	return id >= 1 && id <= IMAGES ? &w->images[id - 1].image : NULL;
}

#define FAIL(w, ...) fail_at(w, __LINE__, __VA_ARGS__)

static void __attribute__((noreturn, format(printf, 3, 4))) fail_at(struct world *w, int line,
	const char *fmt, ...)
{
	char text[300];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	fail_msg("SEED=%" PRIu64 ", op %d (%s), line %d: %s", w->seed, w->op, w->text, line, text);
	abort(); /* not reached */
}

static void __attribute__((format(printf, 2, 3))) say(struct world *w, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(w->text, sizeof(w->text), fmt, ap);
	va_end(ap);
	if (w->trace)
		print_message("  %d: %s\n", w->op, w->text);
}

static void must(struct world *w, int64_t r)
{
	if (r < 0)
		FAIL(w, "%s", strerror((int)-r));
}

static uint64_t below(struct world *w, uint64_t n)
{
	return rng_below(&w->rng, n);
}

static void mount_store(struct world *w)
{
	struct fs_options options = {
		.journal_size = 2 * MIB,
		.reserve = 64 * KIB,
		.no_background = true,
		.store_fd = -1,
		.golden_test = golden_test,
		.golden_test_arg = w,
	};

	must(w, fs_open(&w->fs, w->dir.io, &options));
}

/* ---- the truth: every block of every file ---- */

struct holder_key {
	uint64_t layer, block;
};

/* A block that stands in some layer, and who sees it. */
struct held_block {
	struct holder_key key;
	unsigned files;
	uint64_t members;  /* bit per file, by its place in `truth.files` */
	uint64_t seen;	   /* bytes of it, by the one who sees most */
	UT_hash_handle hh;
};

struct map_key {
	uint64_t layer, region;
};

struct map {
	struct map_key key;
	bool any;
	uint8_t states[GF_STATE_BYTES];
	UT_hash_handle hh;
};

struct file_truth {
	struct inode *inode;
	struct fs_figures fig;
};

struct truth {
	struct world *w;
	struct file_truth files[64];
	size_t count;
	struct held_block *blocks;
	struct map *maps;
};

static const struct map *map_of(struct truth *t, struct layer *layer, uint64_t region)
{
	struct map_key key = {layer->id, region};
	struct map *map = NULL;

	HASH_FIND(hh, t->maps, &key, sizeof(key), map);
	if (!map) {
		map = calloc(1, sizeof(*map));
		map->key = key;
		must(t->w, layer_region_states(layer, (uint32_t)region, map->states, &map->any));
		HASH_ADD(hh, t->maps, key, sizeof(map->key), map);
	}
	return map;
}

static bool image_has_block(struct world *w, struct layer *layer, uint64_t block)
{
	struct golden *g = (struct golden *)layer->image;
	const struct test_image *t = &w->images[g->node - 1];
	uint64_t start = block * GF_BLOCK_SIZE, end = start + GF_BLOCK_SIZE;

	for (size_t i = 0; i < t->count; i++)
		if (t->pieces[i].start < end && start < t->pieces[i].end)
			return true;
	return false;
}

enum place { NOWHERE, IN_LAYER, IN_IMAGE };

static enum place find_block(struct truth *t, struct layer *layer, uint64_t block, uint64_t *id)
{
	for (;; layer = layer->parent) {
		const struct map *map = map_of(t, layer, block / GF_REGION_BLOCKS);
		uint32_t i = block % GF_REGION_BLOCKS;

		*id = layer->id;
		switch (map->states[i / 4] >> (i % 4 * 2) & 3) {
		case GF_OVERLAY:
			return IN_LAYER;
		case GF_ZERO:
			return NOWHERE;
		case GF_SHARED:
			FAIL(t->w, "a shared block");
		}
		if (block * GF_BLOCK_SIZE >= atomic_load(&layer->bound))
			return NOWHERE;
		if (!layer->parent)
			return layer->image && image_has_block(t->w, layer, block) ? IN_IMAGE :
				NOWHERE;
	}
}

static uint64_t visible(const struct inode *inode, uint64_t block)
{
	return min_u64(GF_BLOCK_SIZE, inode->size - block * GF_BLOCK_SIZE);
}

static void hold_block(struct truth *t, size_t file, uint64_t layer, uint64_t block)
{
	struct holder_key key = {layer, block};
	struct held_block *b = NULL;

	HASH_FIND(hh, t->blocks, &key, sizeof(key), b);
	if (!b) {
		b = calloc(1, sizeof(*b));
		b->key = key;
		HASH_ADD(hh, t->blocks, key, sizeof(b->key), b);
	}
	b->files++;
	b->members |= UINT64_C(1) << file;
	b->seen = max_u64(b->seen, visible(t->files[file].inode, block));
}

static void look_at_file(struct truth *t, size_t file)
{
	struct inode *inode = t->files[file].inode;
	struct fs_figures *fig = &t->files[file].fig;
	uint64_t blocks = round_up(inode->size, GF_BLOCK_SIZE) / GF_BLOCK_SIZE, layer;

	fig->virtual_bytes = inode->size;
	for (uint64_t b = 0; b < blocks; b++) {
		switch (find_block(t, atomic_load(&inode->layer), b, &layer)) {
		case IN_LAYER:
			hold_block(t, file, layer, b);
			fig->data_bytes += visible(inode, b);
			break;
		case IN_IMAGE:
			fig->shared_golden_bytes += visible(inode, b);
			fig->data_bytes += visible(inode, b);
			break;
		case NOWHERE:
			fig->zero_bytes += visible(inode, b);
			break;
		}
	}
}

static void truth_find(struct truth *t, struct world *w)
{
	struct inode *inode, *next;
	struct held_block *b, *next_block;

	memset(t, 0, sizeof(*t));
	t->w = w;
	HASH_ITER (by_ino, w->fs->inodes, inode, next) {
		if (!atomic_load(&inode->layer))
			continue;
		assert_true(t->count < ARRAY_SIZE(t->files));
		t->files[t->count++].inode = inode;
	}
	for (size_t i = 0; i < t->count; i++)
		look_at_file(t, i);
	HASH_ITER (hh, t->blocks, b, next_block) {
		for (size_t i = 0; i < t->count; i++) {
			struct fs_figures *fig = &t->files[i].fig;
			uint64_t bytes = visible(t->files[i].inode, b->key.block);

			if (!(b->members >> i & 1))
				continue;
			if (b->files == 1)
				fig->unique_bytes += bytes;
			else
				fig->shared_clone_bytes += bytes;
		}
	}
}

static void truth_release(struct truth *t)
{
	struct held_block *b, *next_block;
	struct map *map, *next_map;

	HASH_ITER (hh, t->blocks, b, next_block) {
		HASH_DEL(t->blocks, b);
		free(b);
	}
	HASH_ITER (hh, t->maps, map, next_map) {
		HASH_DEL(t->maps, map);
		free(map);
	}
}

/* ---- comparing ---- */

static void check_identities(struct world *w, uint64_t ino, const struct fs_figures *f)
{
	if (f->virtual_bytes != f->data_bytes + f->zero_bytes ||
		f->zero_bytes > f->virtual_bytes)
		FAIL(w, "file %" PRIu64 ": virtual %" PRIu64 " is not data %" PRIu64
			" + zero %" PRIu64, ino, f->virtual_bytes, f->data_bytes, f->zero_bytes);
	if (f->data_bytes != f->unique_bytes + f->shared_golden_bytes + f->shared_clone_bytes +
			f->shared_snapshot_bytes + f->shared_self_bytes)
		FAIL(w, "file %" PRIu64 ": data is not the sum of its classes", ino);
}

static void check_file(struct world *w, const struct file_truth *file, struct fs_figures *sum)
{
	const struct fs_figures *want = &file->fig;
	uint64_t ino = file->inode->ino;
	struct fs_info info;
	struct fs_attr attr;

	must(w, fs_info(w->fs, ino, FS_NOW, &info));
	check_identities(w, ino, &info.figures);
#define SAME(field) \
	do { \
		if (info.figures.field != want->field) \
			FAIL(w, "file %" PRIu64 " of %" PRIu64 " bytes: " #field " is %" PRIu64 \
				" instead of %" PRIu64, ino, want->virtual_bytes, \
				info.figures.field, want->field); \
		sum->field += want->field; \
	} while (0)
	SAME(virtual_bytes);
	SAME(data_bytes);
	SAME(zero_bytes);
	SAME(unique_bytes);
	SAME(shared_golden_bytes);
	SAME(shared_clone_bytes);
	SAME(shared_snapshot_bytes);
	SAME(shared_self_bytes);
	SAME(pinned_golden_bytes);
#undef SAME
	fs_info_release(&info);
	must(w, fs_getattr(w->fs, ino, &attr));
	if (want->data_bytes &&
		attr.blocks != max_u64(8, round_up(want->unique_bytes, GF_BLOCK_SIZE) / 512))
		FAIL(w, "file %" PRIu64 ": %" PRIu64 " blocks, unique %" PRIu64, ino, attr.blocks,
			want->unique_bytes);
}

static void check_set(struct truth *t, uint64_t members)
{
	struct held_block *b, *next;
	uint64_t inos[65], want = 0, got;
	size_t n = 0;

	for (size_t i = 0; i < t->count; i++)
		if (members >> i & 1)
			inos[n++] = t->files[i].inode->ino;
	if (n && below(t->w, 4) == 0) { /* naming a file twice changes nothing */
		inos[n] = inos[below(t->w, n)];
		n++;
	}
	HASH_ITER (hh, t->blocks, b, next)
		if (!(b->members & ~members))
			want += b->seen;
	must(t->w, fs_if_removed(t->w->fs, inos, n, &got));
	if (got != want)
		FAIL(t->w, "removing set %" PRIx64 " of %zu files frees %" PRIu64 " instead of %"
			PRIu64, members, t->count, got, want);
}

static void check_sets(struct truth *t)
{
	uint64_t all = (UINT64_C(1) << t->count) - 1;

	check_set(t, all);
	for (int i = 0; i < 4 && t->count; i++)
		check_set(t, rng_next(&t->w->rng) & all);
	for (size_t i = 0; i < t->count; i++)
		check_set(t, UINT64_C(1) << i);
}

static void check_store(struct truth *t, const struct fs_figures *sum)
{
	uint64_t stored = HASH_COUNT(t->blocks) * (uint64_t)GF_BLOCK_SIZE, data;
	struct fs_store_figures f;
	struct world *w = t->w;
	unsigned files;

	must(w, fs_store_figures(w->fs, &f));
	if (f.clones != t->count || f.virtual_bytes != sum->virtual_bytes ||
		f.data_bytes != sum->data_bytes || f.unique_bytes != sum->unique_bytes ||
		f.saved_zero_bytes != sum->zero_bytes)
		FAIL(w, "the totals are not the sums");
	data = store_dir_data(&w->dir, "layer", ".data", &files);
	if (w->can_punch && data != stored)
		FAIL(w, "layers hold %" PRIu64 " bytes for %" PRIu64 " that somebody sees", data,
			stored);
	if (f.physical_bytes < data + f.journal_bytes + f.metadata_bytes)
		FAIL(w, "physical bytes are less than their parts");
}

static void check_counts(struct truth *t)
{
	struct fs_figures sum = {0};
	struct world *w = t->w;

	/* Sometimes first, when no walk has been made since the last change. */
	if (below(w, 2))
		check_sets(t);
	for (size_t i = 0; i < t->count; i++)
		check_file(w, &t->files[i], &sum);
	check_sets(t);
	check_store(t, &sum);
}

/* Blocks are counted by planes, and one by one, and both as it comes. */
static void check_all(struct world *w)
{
	struct truth t;

	must(w, fs_settle(w->fs));
	truth_find(&t, w);
	for (int few = FEW_WHERE_IT_PAYS; few <= FEW_NOWHERE; few++) {
		figures_changed(w->fs);
		w->fs->few = few;
		check_counts(&t);
	}
	truth_release(&t);
	w->fs->few = below(w, FEW_NOWHERE + 1);
}

/* What has to hold while the store is busy. */
static void check_busy(struct world *w)
{
	struct inode *inode, *next;

	HASH_ITER (by_ino, w->fs->inodes, inode, next) {
		struct fs_info info;
		enum fs_kind kind;

		must(w, fs_kind(w->fs, inode->ino, &kind));
		must(w, fs_info(w->fs, inode->ino, FS_NOW, &info));
		if (kind != info.kind)
			FAIL(w, "file %" PRIu64 " is of kind %d, and of kind %d with its figures",
				inode->ino, (int)kind, (int)info.kind);
		if (atomic_load(&inode->layer))
			check_identities(w, inode->ino, &info.figures);
		fs_info_release(&info);
	}
}

/* ---- operations ---- */

static const char *const names[NAMES] = {"a", "b", "c", "d", "e", "f", "g"};

static uint64_t ino_of(struct world *w, const char *name)
{
	uint64_t ino;

	return fs_resolve(w->fs, name, &ino) ? 0 : ino;
}

/* A name that is taken (or free), NULL when there is none. */
static const char *pick(struct world *w, bool taken)
{
	size_t start = below(w, NAMES);

	for (size_t i = 0; i < NAMES; i++) {
		const char *name = names[(start + i) % NAMES];

		if ((ino_of(w, name) != 0) == taken)
			return name;
	}
	return NULL;
}

static uint64_t size_of(struct world *w, uint64_t ino)
{
	struct fs_attr attr;

	must(w, fs_getattr(w->fs, ino, &attr));
	return attr.size;
}

/* Mostly at region borders, at ends, and in blocks in which an image has data only further on. */
static uint64_t pick_place(struct world *w, uint64_t size)
{
	uint64_t off = below(w, MAX_SMALL);

	if (below(w, 8) == 0)
		return (size > 204800 ? 204800 : 0) + below(w, GF_BLOCK_SIZE);

	if (size > MAX_SMALL && below(w, 2))
		off = (1 + below(w, max_u64(1, size / (32 * MIB)))) * 32 * MIB - 64 * KIB +
		      below(w, 128 * KIB);
	else if (below(w, 4) == 0)
		off = size - min_u64(size, below(w, 64 * KIB));
	return below(w, 2) ? round_down(off, GF_BLOCK_SIZE) : off;
}

static void op_make(struct world *w)
{
	const char *name = pick(w, false);
	struct fs_owner owner = {0, 0};
	struct fs_attr attr;

	if (!name)
		return;
	say(w, "make %s", name);
	must(w, fs_make(w->fs, FS_INO_ROOT, name, S_IFREG | 0644, owner, &attr));
	fs_forget(w->fs, attr.ino, 1);
}

static void op_write(struct world *w)
{
	const char *name = pick(w, true);
	uint64_t ino = name ? ino_of(w, name) : 0, off, len;
	unsigned kind = below(w, 6);

	if (!name)
		return;
	off = pick_place(w, size_of(w, ino));
	len = below(w, 3) ? 1 + below(w, 5 * GF_BLOCK_SIZE) : 1 + below(w, MAX_WRITE);
	say(w, "write %s %" PRIu64 "+%" PRIu64 " kind %u", name, off, len, kind);
	if (kind == 0) {
		memset(w->buf, 0, len);
	} else if (kind == 1) { /* what stands there, or there in another file */
		const char *other = below(w, 2) ? name : pick(w, true);
		int64_t n = fs_read(w->fs, ino_of(w, other), w->buf, len, off);

		must(w, n);
		len = max_u64(1, n);
	} else {
		for (uint64_t i = 0; i < len; i++)
			w->buf[i] = scratch_byte(off + i, kind);
	}
	must(w, fs_write(w->fs, ino, w->buf, len, off));
}

static void op_zero(struct world *w)
{
	static const int modes[] = {FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
		FALLOC_FL_ZERO_RANGE, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, 0};
	const char *name = pick(w, true);
	uint64_t ino = name ? ino_of(w, name) : 0, off, len;
	int mode = modes[below(w, ARRAY_SIZE(modes))];

	if (!name)
		return;
	off = pick_place(w, size_of(w, ino));
	len = 1 + below(w, below(w, 2) ? 3 * GF_BLOCK_SIZE : MAX_SMALL);
	if (below(w, 2))
		len = round_up(len, GF_BLOCK_SIZE);
	say(w, "fallocate %s mode %d %" PRIu64 "+%" PRIu64, name, mode, off, len);
	must(w, fs_fallocate(w->fs, ino, mode, off, len));
}

static void op_truncate(struct world *w)
{
	const char *name = pick(w, true);
	uint64_t ino = name ? ino_of(w, name) : 0;
	struct fs_attr attr = {0};

	if (!name)
		return;
	attr.size = below(w, 6) ? pick_place(w, size_of(w, ino)) : below(w, 5) ? below(w, 70 * MIB) :
		below(w, 5) * 32 * MIB;
	say(w, "truncate %s to %" PRIu64, name, attr.size);
	must(w, fs_setattr(w->fs, ino, FS_SET_SIZE, &attr));
}

static void op_clone(struct world *w)
{
	struct fs_clone_target targets[3];
	struct fs_owner owner = {0, 0};
	uint64_t ino = 0;
	size_t n = 0, want = 1 + below(w, 3), failed;
	char source[32];
	const char *name = pick(w, true);
	bool replace = below(w, 4) == 0;

	if (!name || below(w, 3) == 0)
		snprintf(source, sizeof(source), "golden/%" PRIu64, 1 + below(w, IMAGES));
	else
		snprintf(source, sizeof(source), "%s", name);
	for (size_t i = 0, at = below(w, NAMES); i < NAMES && n < want; i++) {
		const char *to = names[(at + i) % NAMES];

		if (strcmp(to, source) != 0 && (replace || !ino_of(w, to)))
			targets[n++] = (struct fs_clone_target){FS_INO_ROOT, to};
	}
	if (!n)
		return;
	say(w, "clone %s to %s and %zu more%s", source, targets[0].name, n - 1,
		replace ? ", replacing" : "");
	must(w, fs_resolve(w->fs, source, &ino));
	must(w, fs_clone(w->fs, ino, targets, n, owner, 0644, replace, false, NULL, &failed));
}

/* As cp does it: piece by piece. Sometimes it is interrupted. */
static void op_copy(struct world *w)
{
	const char *to = pick(w, false), *from = pick(w, true);
	uint64_t src, dst, size, at = 0, piece, stop;
	struct fs_owner owner = {0, 0};
	struct fs_attr attr;
	bool keep;

	if (!to)
		return;
	if (from && below(w, 3))
		src = ino_of(w, from);
	else
		must(w, fs_resolve(w->fs, from = below(w, 2) ? "golden/1" : "golden/2", &src));
	must(w, fs_make(w->fs, FS_INO_ROOT, to, S_IFREG | 0644, owner, &attr));
	fs_forget(w->fs, attr.ino, 1);
	dst = attr.ino;
	size = size_of(w, src);
	piece = below(w, 3) ? size + 1 : 1 + size / 2 + below(w, 5000);
	stop = below(w, 4) ? size : below(w, size + 1);
	say(w, "copy %s to %s in pieces of %" PRIu64 " up to %" PRIu64, from, to, piece, stop);
	must(w, fs_open_file(w->fs, dst, O_WRONLY, &keep));
	while (at < stop) {
		int64_t n = fs_copy_range(w->fs, src, at, dst, at, piece, 77);

		must(w, n);
		if (!n)
			break;
		at += n;
		check_busy(w);
	}
	fs_close_file(w->fs, dst, O_WRONLY);
}

static void op_unlink(struct world *w)
{
	const char *name = pick(w, true);

	if (!name)
		return;
	say(w, "unlink %s", name);
	must(w, fs_unlink(w->fs, FS_INO_ROOT, name));
}

static void op_rename(struct world *w)
{
	const char *name = pick(w, true), *to = names[below(w, NAMES)];
	unsigned flags = 0;

	if (!name || to == name)
		return;
	if (ino_of(w, to) && below(w, 3) == 0)
		flags = RENAME_EXCHANGE;
	say(w, "rename %s to %s, flags %u", name, to, flags);
	must(w, fs_rename(w->fs, FS_INO_ROOT, name, FS_INO_ROOT, to, flags));
}

static void op_hold(struct world *w)
{
	const char *name = pick(w, true);
	struct fs_attr attr;
	bool keep;

	if (!name || w->held_count == ARRAY_SIZE(w->held))
		return;
	say(w, "open %s", name);
	must(w, fs_lookup(w->fs, FS_INO_ROOT, name, &attr));
	must(w, fs_open_file(w->fs, attr.ino, O_RDWR, &keep));
	w->held[w->held_count++] = (struct ghost){.ino = attr.ino};
}

static void op_let_go(struct world *w)
{
	size_t i;

	if (!w->held_count)
		return;
	i = below(w, w->held_count);
	say(w, "close file %" PRIu64, w->held[i].ino);
	fs_close_file(w->fs, w->held[i].ino, O_RDWR);
	fs_forget(w->fs, w->held[i].ino, 1);
	w->held[i] = w->held[--w->held_count];
}

static void op_remount(struct world *w)
{
	bool clean = below(w, 2);

	say(w, clean ? "close the store" : "the process dies");
	w->held_count = 0;
	if (clean)
		must(w, fs_close(w->fs));
	else
		fs_abandon(w->fs);
	w->fs = NULL;
	mount_store(w);
}

static void op_check(struct world *w)
{
	say(w, "settle");
	check_all(w);
}

static void op_look(struct world *w)
{
	say(w, "look");
	check_busy(w);
}

static void run_one_op(struct world *w)
{
	static const struct {
		void (*run)(struct world *w);
		unsigned weight;
	} table[] = {{op_make, 2}, {op_write, 14}, {op_zero, 6}, {op_truncate, 4}, {op_clone, 9},
		{op_copy, 3}, {op_unlink, 4}, {op_rename, 3}, {op_hold, 2}, {op_let_go, 2},
		{op_remount, 1}, {op_check, 5}, {op_look, 3}};
	unsigned total = 0, at;

	for (size_t i = 0; i < ARRAY_SIZE(table); i++)
		total += table[i].weight;
	at = below(w, total);
	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		if (at < table[i].weight) {
			table[i].run(w);
			return;
		}
		at -= table[i].weight;
	}
}

/* ---- a whole run ---- */

static void world_init(struct world *w, uint64_t seed)
{
	struct fs_store_figures f;

	memset(w, 0, sizeof(*w));
	w->seed = seed;
	w->trace = getenv("TRACE") != NULL;
	rng_seed(&w->rng, seed);
	for (size_t i = 0; i < IMAGES; i++) {
		w->images[i] = image_models[i];
		w->images[i].image.ops = &test_image_ops;
	}
	w->buf = malloc(MAX_WRITE);
	store_dir_init(&w->dir);
	store_dir_skip_syncs(&w->dir);
	w->can_punch = store_dir_can_punch(&w->dir);
	say(w, "make the store");
	mount_store(w);
	must(w, fs_settle(w->fs));
	must(w, fs_settle(w->fs));
	must(w, fs_store_figures(w->fs, &f));
	w->empty_bytes = f.physical_bytes;
}

static void remove_everything(struct world *w)
{
	struct fs_store_figures f;
	unsigned files;

	say(w, "remove everything");
	for (size_t i = 0; i < NAMES; i++)
		if (ino_of(w, names[i]))
			must(w, fs_unlink(w->fs, FS_INO_ROOT, names[i]));
	while (w->held_count)
		op_let_go(w);
	check_all(w);
	must(w, fs_settle(w->fs));
	store_dir_data(&w->dir, "layer", "", &files);
	if (files)
		FAIL(w, "%u files of layers are left", files);
	must(w, fs_store_figures(w->fs, &f));
	if (f.physical_bytes != w->empty_bytes || f.clones || f.virtual_bytes || f.data_bytes)
		FAIL(w, "%" PRIu64 " bytes are left instead of %" PRIu64, f.physical_bytes,
			w->empty_bytes);
}

static void world_release(struct world *w)
{
	must(w, fs_close(w->fs));
	store_dir_release(&w->dir);
	free(w->buf);
}

static void run_seed(uint64_t seed)
{
	struct world w;

	world_init(&w, seed);
	for (w.op = 0; w.op < OPS; w.op++)
		run_one_op(&w);
	check_all(&w);
	remove_everything(&w);
	world_release(&w);
}

static void figures_agree_with_brute_force(void **state)
{
	uint64_t seed = number_from_environment("SEED", 0);
	uint64_t seeds = number_from_environment("SEEDS", DEFAULT_SEEDS);

	if (seed) {
		run_seed(seed);
		return;
	}
	for (seed = 1; seed <= seeds; seed++)
		run_seed(seed);
}

/* Blocks of which no two are alike. */
static void fill_blocks(struct world *w, uint8_t c, uint32_t count)
{
	memset(w->buf, c, count * GF_BLOCK_SIZE);
	for (uint32_t i = 0; i < count; i++)
		memcpy(w->buf + i * GF_BLOCK_SIZE, &i, sizeof(i));
}

/* A file of 20 blocks and a clone of it, names[0] and [1]. Returns the first, which is to be forgotten. */
static uint64_t make_sharing(struct world *w)
{
	const struct fs_clone_target b = {FS_INO_ROOT, names[1]};
	struct fs_owner owner = {0, 0};
	struct fs_attr attr;
	size_t failed;

	must(w, fs_make(w->fs, FS_INO_ROOT, names[0], S_IFREG | 0644, owner, &attr));
	fill_blocks(w, 7, 20);
	must(w, fs_write(w->fs, attr.ino, w->buf, 20 * GF_BLOCK_SIZE, 0));
	must(w, fs_clone(w->fs, attr.ino, &b, 1, owner, 0644, false, false, NULL, &failed));
	return attr.ino;
}

/* As if nothing had been counted yet, and counting took long. */
static uint64_t blocks_at_first_sight(struct world *w, const char *name)
{
	struct fs_attr attr;

	w->fs->figures_valid = false;
	w->fs->figures_cost_ns = INT64_MAX / 40;
	w->fs->worker_runs = true;
	must(w, fs_getattr(w->fs, ino_of(w, name), &attr));
	w->fs->worker_runs = false;
	return attr.blocks;
}

static void who_only_looks_waits_for_no_long_count(void **state)
{
	struct fs_attr attr;
	struct world w;
	uint64_t a;

	(void)state;
	world_init(&w, 1);
	a = make_sharing(&w);
	must(&w, fs_write(w.fs, a, w.buf, 3 * GF_BLOCK_SIZE, 0));
	/* Others need what is below; it is not the file's alone. */
	assert_int_equal(blocks_at_first_sight(&w, names[0]), 3 * 8);
	assert_true(w.fs->figures_wanted);
	assert_false(w.fs->figures_valid);
	must(&w, fs_unlink(w.fs, FS_INO_ROOT, names[1]));
	/* Now it is, with those that are hidden. */
	assert_int_equal(blocks_at_first_sight(&w, names[0]), 23 * 8);
	figures_tick(w.fs);
	assert_true(w.fs->figures_valid);
	must(&w, fs_getattr(w.fs, a, &attr));
	assert_int_equal(attr.blocks, 20 * 8);
	fs_forget(w.fs, a, 1);
	remove_everything(&w);
	world_release(&w);
}

/* Who asks about many files beside one that is written to. */
static void one_count_serves_a_whole_request(void **state)
{
	const int64_t began_ns = times_now(CLOCK_MONOTONIC);
	struct fs_info info;
	struct world w;
	uint64_t a, other;
	int64_t first;

	(void)state;
	world_init(&w, 1);
	a = make_sharing(&w);
	other = ino_of(&w, names[1]);
	must(&w, fs_info(w.fs, a, began_ns, &info));
	fs_info_release(&info);
	first = w.fs->figures_time_ns;
	/* What only the other one needs from now on. */
	must(&w, fs_fallocate(w.fs, a, FALLOC_FL_ZERO_RANGE, 0, 20 * GF_BLOCK_SIZE));
	must(&w, fs_info(w.fs, other, began_ns, &info));
	assert_int_equal(w.fs->figures_time_ns, first);
	assert_int_equal(info.figures.unique_bytes, 0);
	fs_info_release(&info);
	must(&w, fs_info(w.fs, other, times_now(CLOCK_MONOTONIC), &info));
	assert_int_equal(info.figures.unique_bytes, 20 * GF_BLOCK_SIZE);
	fs_info_release(&info);
	fs_forget(w.fs, a, 1);
	remove_everything(&w);
	world_release(&w);
}

/* A file that changed since the count is counted anew, for whoever asks since when. */
static void no_file_shows_figures_of_another_time(void **state)
{
	const struct fs_clone_target c = {FS_INO_ROOT, names[2]};
	const int64_t began_ns = times_now(CLOCK_MONOTONIC);
	struct fs_owner owner = {0, 0};
	struct fs_attr cut = {.size = 10 * GF_BLOCK_SIZE};
	uint64_t a, inos[3];
	struct fs_info info;
	struct world w;
	size_t failed;

	(void)state;
	world_init(&w, 1);
	a = make_sharing(&w);
	must(&w, fs_write(w.fs, a, w.buf, 20 * GF_BLOCK_SIZE, 20 * GF_BLOCK_SIZE));
	must(&w, fs_info(w.fs, a, began_ns, &info));
	fs_info_release(&info);
	must(&w, fs_clone(w.fs, a, &c, 1, owner, 0644, false, false, NULL, &failed));
	/* Whoever only looks would not count now. */
	w.fs->figures_cost_ns = INT64_MAX / 40;
	for (int i = 0; i < 3; i++)
		inos[i] = ino_of(&w, names[i]);
	for (int i = 0; i < 3; i++) {
		must(&w, fs_info(w.fs, inos[i], began_ns, &info));
		assert_int_equal(info.figures.shared_clone_bytes,
			(i == 1 ? 20 : 40) * GF_BLOCK_SIZE);
		fs_info_release(&info);
	}
	w.fs->figures_cost_ns = INT64_MAX / 40;
	must(&w, fs_setattr(w.fs, inos[2], FS_SET_SIZE, &cut));
	must(&w, fs_info(w.fs, inos[2], began_ns, &info));
	assert_int_equal(info.figures.shared_clone_bytes, 10 * GF_BLOCK_SIZE);
	assert_int_equal(info.figures.shared_golden_bytes, 0);
	fs_info_release(&info);
	fs_forget(w.fs, a, 1);
	remove_everything(&w);
	world_release(&w);
}

struct cutting {
	struct world *w;
	uint64_t ino, size;
	uint32_t region; /* in which the file ends then */
	bool counted_otherwise, seen;
};

static int cut_meanwhile(
	void *arg, struct family *f, const struct few_block *list, size_t count)
{
	struct cutting *c = arg;
	struct fs_attr attr = {.size = c->size};

	if (f->region == 0)
		must(c->w, fs_setattr(c->w->fs, c->ino, FS_SET_SIZE, &attr));
	for (size_t i = 0; i < count && f->region == c->region; i++)
		c->seen |= list[i].data && list[i].seers.files;
	return 0;
}

static int note_planes(void *arg, struct family *f)
{
	struct cutting *c = arg;

	c->counted_otherwise |= f->region == c->region;
	return 0;
}

/*
 * Nobody waits for a count before he makes a file shorter. What it still shows in the region in which it
 * ends from then on is nobody's if the walk takes it for one that ends before: it would be given up.
 */
static void files_may_be_cut_during_a_walk(void **state)
{
	const struct fs_clone_target b[] = {{FS_INO_ROOT, names[1]}, {FS_INO_ROOT, names[2]}};
	struct fs_attr attr, size = {.size = 4 * GF_REGION_SIZE};
	struct fs_owner owner = {0, 0};
	struct world w;
	struct cutting c = {.w = &w, .size = 2 * GF_REGION_SIZE + MIB, .region = 2};
	struct family_walk walk = {.region = note_planes, .few = cut_meanwhile, .arg = &c};
	size_t failed;

	(void)state;
	world_init(&w, 1);
	must(&w, fs_make(w.fs, FS_INO_ROOT, names[0], S_IFREG | 0644, owner, &attr));
	must(&w, fs_setattr(w.fs, attr.ino, FS_SET_SIZE, &size));
	fill_blocks(&w, 7, 1);
	for (uint64_t i = 0; i < 4; i++)
		must(&w, fs_write(w.fs, attr.ino, w.buf, GF_BLOCK_SIZE, i * GF_REGION_SIZE));
	must(&w, fs_clone(w.fs, attr.ino, b, 2, owner, 0644, false, false, NULL, &failed));
	/* So that another stretch begins where the file is going to end. */
	size.size = 2 * GF_REGION_SIZE;
	must(&w, fs_setattr(w.fs, ino_of(&w, names[1]), FS_SET_SIZE, &size));
	must(&w, fs_unlink(w.fs, FS_INO_ROOT, names[2]));
	c.ino = attr.ino;
	tree_hold(w.fs);
	must(&w, family_walk(w.fs, &walk));
	tree_let(w.fs);
	assert_true(c.counted_otherwise || c.seen);
	fs_forget(w.fs, attr.ino, 1);
	remove_everything(&w);
	world_release(&w);
}

static struct {
	struct fs *fs;
	uint64_t copy;
	pthread_t settling;
	bool started;
} growing;

static void *settle_growing(void *arg)
{
	return (void *)(intptr_t)fs_settle(growing.fs);
}

/* Settles beside the copy, as far as it gets within a moment. */
static void end_copy_and_settle(void)
{
	const struct timespec moment = {.tv_nsec = 300000000};

	growing.started = true;
	fs_close_file(growing.fs, growing.copy, O_WRONLY);
	assert_int_equal(pthread_create(&growing.settling, NULL, settle_growing, NULL), 0);
	nanosleep(&moment, NULL);
}

/* What a copy is about to show is not given up because another descriptor of it is closed. */
static void a_growing_copy_keeps_what_it_shows(void **state)
{
	const struct fs_clone_target target = {FS_INO_ROOT, names[0]};
	const uint64_t off = 32 * MIB + 100 * KIB;
	struct fs_owner owner = {0, 0};
	struct fs_attr attr;
	uint64_t golden, a;
	struct world w;
	size_t failed;
	void *settled;
	bool keep;

	(void)state;
	world_init(&w, 1);
	must(&w, fs_resolve(w.fs, "golden/1", &golden));
	must(&w, fs_clone(w.fs, golden, &target, 1, owner, 0644, false, false, NULL, &failed));
	a = ino_of(&w, names[0]);
	memset(w.buf, 7, 4 * GF_BLOCK_SIZE);
	must(&w, fs_write(w.fs, a, w.buf, 4 * GF_BLOCK_SIZE, off));
	must(&w, fs_settle(w.fs));
	must(&w, fs_make(w.fs, FS_INO_ROOT, names[1], S_IFREG | 0644, owner, &attr));
	growing.fs = w.fs;
	growing.copy = attr.ino;
	for (int i = 0; i < 2; i++)
		must(&w, fs_open_file(w.fs, attr.ino, O_WRONLY, &keep));
	assert_int_equal(fs_copy_range(w.fs, a, 0, attr.ino, 0, MIB, 77), MIB);
	memset(w.buf, 9, 4 * GF_BLOCK_SIZE);
	must(&w, fs_write(w.fs, a, w.buf, 4 * GF_BLOCK_SIZE, off));
	at_next_data = end_copy_and_settle;
	at_next_data_off = MIB; /* whether the gap is one */
	assert_int_equal(fs_copy_range(w.fs, a, 16 * MIB, attr.ino, 16 * MIB, 20 * MIB, 77),
		size_of(&w, a) - 16 * MIB);
	assert_true(growing.started);
	assert_int_equal(pthread_join(growing.settling, &settled), 0);
	assert_int_equal((intptr_t)settled, 0);
	must(&w, fs_settle(w.fs));
	assert_int_equal(fs_read(w.fs, attr.ino, w.buf, 4 * GF_BLOCK_SIZE, off), 4 * GF_BLOCK_SIZE);
	for (size_t i = 0; i < 4 * GF_BLOCK_SIZE; i++)
		assert_int_equal(w.buf[i], 7);
	fs_close_file(w.fs, attr.ino, O_WRONLY);
	fs_forget(w.fs, attr.ino, 1);
	remove_everything(&w);
	world_release(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(figures_agree_with_brute_force),
		cmocka_unit_test(who_only_looks_waits_for_no_long_count),
		cmocka_unit_test(one_count_serves_a_whole_request),
		cmocka_unit_test(no_file_shows_figures_of_another_time),
		cmocka_unit_test(files_may_be_cut_during_a_walk),
		cmocka_unit_test(a_growing_copy_keeps_what_it_shows),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
