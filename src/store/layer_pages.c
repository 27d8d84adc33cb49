/* SPDX-License-Identifier: MIT */
/*
 * Map pages on disk. A page is written to the slot of its generation's parity, so the page that
 * the last checkpoint names is never touched by the next one; which generation counts stands in
 * the catalog. Checkpoint takes a picture of the changed regions while nothing changes, syncs the
 * data they refer to, and only then writes them.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/array.h"
#include "base/cleanup.h"
#include "base/hash.h"
#include "base/invariant.h"
#include "base/log.h"
#include "base/mutation.h"
#include "base/sizes.h"
#include "store/layer_internal.h"

struct page_write {
	uint32_t region;
	uint32_t generation;
	uint8_t states[GF_STATE_BYTES];
	struct runs runs;
	struct page_write *next;
};

void layer_path(char path[40], uint64_t id, enum layer_file file)
{
	static const char *const suffix[] = {"data", "map", "sum", "loc"};

	snprintf(path, 40, "layer/%" PRIu64 ".%s", id, suffix[file]);
}

static uint64_t page_offset(uint32_t region, uint64_t generation)
{
	uint64_t slot = MUTATED("write map pages over those that count") ? 0 : generation % 2;

	return ((uint64_t)region * 2 + slot) * sizeof(struct gf_disk_page);
}

int page_decode(const void *buf, uint64_t layer, uint32_t region, uint64_t generation,
	uint8_t states[GF_STATE_BYTES], uint32_t *runs)
{
	struct gf_disk_page page;
	uint64_t sum;

	memcpy(&page, buf, sizeof(page));
	sum = page.sum;
	page.sum = 0;
	if (page.magic != GF_PAGE_MAGIC || page.layer != layer || page.region != region ||
		page.generation != generation || sum != hash_struct(&page, sizeof(page)))
		return -EUCLEAN;
	memcpy(states, page.states, GF_STATE_BYTES);
	if (runs)
		*runs = page.runs;
	return 0;
}

static void page_encode(const struct page_write *w, uint64_t layer, struct gf_disk_page *page)
{
	memset(page, 0, sizeof(*page));
	page->magic = GF_PAGE_MAGIC;
	page->region = w->region;
	page->layer = layer;
	page->generation = w->generation;
	page->runs = w->runs.count;
	memcpy(page->states, w->states, GF_STATE_BYTES);
	page->sum = hash_struct(page, sizeof(*page));
}

/*
 * The page is gone or damaged: nothing is known of its blocks. Each reads as an error until it is
 * written or discarded, so that the damage ends where it is: the layer's other regions, those who
 * remove the clone, and recovery, which may have newer versions of some blocks, are not concerned.
 */
static int lose_region_locked(struct layer *l, struct region *r, const char *path, uint32_t number)
{
	log_error(-EUCLEAN, "the store's \"%s\" is damaged at region %u; what it held there cannot "
			    "be read", path, number);
	r->uniform = GF_SHARED;
	r->loaded = true;
	r->lost = true;
	l->places_lost |= r->uncounted;
	return 0;
}

static uint64_t runs_offset(uint32_t region, uint64_t generation)
{
	uint64_t slot = MUTATED("write lists of runs over those that count") ? 0 : generation % 2;

	return ((uint64_t)region * 2 + slot) * GF_RUNS_SLOT;
}

/* Reads a region's list, or the start of it. -ENOENT: there is no file. */
static int read_runs(struct layer *l, uint32_t number, uint32_t generation, void *buf, size_t len)
{
	const struct io_ops *ops = l->env->io->ops;
	char path[40];
	int fd, e;

	layer_path(path, l->id, LAYER_LOC);
	fd = ops->open(l->env->io, path, O_RDONLY);
	if (fd < 0)
		return fd;
	e = io_pread_full(l->env->io, fd, buf, len, runs_offset(number, generation));
	ops->close(l->env->io, fd);
	return e;
}

/* Where the SHARED blocks stand. When that is damaged they are lost, and only they. */
static int load_runs_locked(struct layer *l, uint32_t number, struct region *r, uint32_t count)
{
	CLEANUP_FREE void *buf = NULL;
	char path[40];
	size_t len;
	int e;

	r->runs_lost = false;
	if (!count)
		return 0;
	len = runs_length(min_u64(count, GF_REGION_BLOCKS));
	buf = malloc(len);
	if (!buf)
		return -ENOMEM;
	e = read_runs(l, number, r->generation, buf, len);
	if (!e)
		e = runs_decode(&r->runs, buf, len, l->id, number, r->generation, count, r->states);
	if (!e && layer_trim_runs_locked(l, r))
		log_error(-EUCLEAN, "the pool is too short for layer %" PRIu64 "; what it held there is "
				    "lost", l->id);
	if (e != -EUCLEAN && e != -ENOENT)
		return e;
	layer_path(path, l->id, LAYER_LOC);
	log_error(-EUCLEAN, "the store's \"%s\" is damaged at region %u; the shared blocks there cannot "
			    "be read", path, number);
	r->runs_lost = true;
	l->places_lost = true;
	return 0;
}

int layer_load_region_locked(struct layer *l, uint32_t number, struct region *r)
{
	const struct io_ops *ops = l->env->io->ops;
	uint8_t buf[sizeof(struct gf_disk_page)];
	char path[40];
	uint32_t runs;
	int fd, e;

	if (r->loaded)
		return 0;
	layer_path(path, l->id, LAYER_MAP);
	fd = ops->open(l->env->io, path, O_RDONLY);
	if (fd == -ENOENT)
		return lose_region_locked(l, r, path, number);
	if (fd < 0)
		return log_error(fd, "cannot open the store's \"%s\"", path);
	e = io_pread_full(l->env->io, fd, buf, sizeof(buf), page_offset(number, r->generation));
	ops->close(l->env->io, fd);
	if (e)
		return log_error(e, "cannot read the store's \"%s\"", path);
	r->states = malloc(GF_STATE_BYTES);
	if (!r->states)
		return -ENOMEM;
	e = page_decode(buf, l->id, number, r->generation, r->states, &runs);
	if (!e) {
		e = load_runs_locked(l, number, r, runs);
		if (e) {
			free(r->states);
			r->states = NULL;
			return e;
		}
	} else {
		free(r->states);
		r->states = NULL;
		return lose_region_locked(l, r, path, number);
	}
	r->loaded = true;
	region_compact(r);
	return 0;
}

int layer_read_page(struct layer *l, uint32_t number, uint32_t generation,
	uint8_t page[sizeof(struct gf_disk_page)], uint64_t *place)
{
	char path[40];
	int fd, e;

	*place = page_offset(number, generation);
	layer_path(path, l->id, LAYER_MAP);
	fd = l->env->io->ops->open(l->env->io, path, O_RDONLY);
	if (fd < 0)
		return fd;
	e = io_pread_full(l->env->io, fd, page, sizeof(struct gf_disk_page), *place);
	l->env->io->ops->close(l->env->io, fd);
	return e;
}

int layer_read_list(struct layer *l, uint32_t number, uint32_t generation, void *buf, size_t len,
	uint64_t *place)
{
	*place = runs_offset(number, generation);
	return read_runs(l, number, generation, buf, len);
}

bool layer_rewrite_page(struct layer *l, uint32_t number)
{
	struct region *r;

	MUTEX_GUARD(&l->lock);
	r = layer_find_region_locked(l, number);
	if (!r || !r->loaded || r->lost || r->runs_lost || atomic_load(&l->failed))
		return false;
	r->dirty = true;
	l->dirty = true;
	return true;
}

int layer_add_page(struct layer *l, uint32_t number, uint32_t generation, bool shared)
{
	struct region *r;

	MUTEX_GUARD(&l->lock);
	r = layer_make_region_locked(l, number);
	if (!r)
		return -ENOMEM;
	r->generation = generation;
	l->page_list_fits = false;
	r->disk_generation = generation;
	r->loaded = false;
	r->uncounted = shared;
	if (shared)
		atomic_store(&l->may_share, true);
	l->counts_given = true;
	return 0;
}

static size_t count_dirty_locked(const struct layer *l)
{
	size_t count = 0;

	for (uint32_t leaf = 0; l->dirty && leaf < l->leaf_count; leaf++)
		for (uint32_t k = 0; l->leaves[leaf] && k < LEAF_REGIONS; k++)
			count += l->leaves[leaf][k].dirty;
	return count;
}

static int add_to_list(struct page_list *list, uint32_t region, uint32_t generation)
{
	struct page_name *names =
		array_with_room(list->names, list->count, &list->capacity, sizeof(*names));

	if (!names)
		return -ENOMEM;
	list->names = names;
	list->names[list->count++] = (struct page_name){region, generation};
	return 0;
}

static int list_pages_locked(const struct layer *l, bool on_disk, struct page_list *list)
{
	int e = 0;

	for (uint32_t leaf = 0; leaf < l->leaf_count; leaf++) {
		for (uint32_t k = 0; l->leaves[leaf] && k < LEAF_REGIONS && !e; k++) {
			const struct region *r = &l->leaves[leaf][k];
			uint32_t generation = on_disk ? r->disk_generation : r->generation;

			if (generation)
				e = add_to_list(list, leaf * LEAF_REGIONS + k, generation);
		}
	}
	return e;
}

/*
 * Kept, for the catalog names the pages of all layers each time, with the gate closed: of 780 layers of
 * 400 GiB, most of them snapshots, which do not change, finding them took 40 ms of 100.
 */
static int fit_page_list_locked(struct layer *l)
{
	int e;

	if (l->page_list_fits && !l->left_out)
		return 0;
	l->page_list.count = 0;
	e = list_pages_locked(l, l->left_out, &l->page_list);
	l->page_list_fits = !e && !l->left_out;
	return e;
}

int layer_list_pages(struct layer *l, const struct page_list **list)
{
	MUTEX_GUARD(&l->lock);
	*list = &l->page_list;
	return fit_page_list_locked(l);
}

/*
 * Random writes to a disk of 400 GiB change 12,800 regions between two checkpoints. Taking memory for
 * their pages, mostly page faults, took half a second, for which the picture has everybody wait; copying
 * them takes some milliseconds.
 */
void layer_reserve_pages(struct layer *l)
{
	struct page_write *spare = NULL, *last, *w;
	size_t wanted;

	{
		MUTEX_GUARD(&l->lock);
		wanted = count_dirty_locked(l);
		if (!wanted)
			fit_page_list_locked(l);
		for (w = l->spare_pages; w && wanted; w = w->next)
			wanted--;
	}
	for (; wanted; wanted--) {
		w = malloc(sizeof(*w));
		if (!w)
			break;
		/* The memory is there now, and an unused one has no runs to be given back. */
		memset(w, 0, sizeof(*w));
		w->next = spare;
		spare = w;
	}
	if (!spare)
		return;
	for (last = spare; last->next; last = last->next)
		;
	MUTEX_GUARD(&l->lock);
	last->next = l->spare_pages;
	l->spare_pages = spare;
}

static struct page_write *new_page_locked(struct layer *l)
{
	struct page_write *w = l->spare_pages;

	if (!w)
		return malloc(sizeof(*w));
	l->spare_pages = w->next;
	return w;
}

static struct page_write *take_page_locked(struct layer *l, struct region *r, uint32_t number)
{
	struct page_write *w = new_page_locked(l);

	if (w && runs_copy(&w->runs, &r->runs)) {
		free(w);
		w = NULL;
	}
	if (!w)
		return NULL;
	w->region = number;
	w->generation = ++r->generation;
	l->page_list_fits = false;
	if (r->states)
		memcpy(w->states, r->states, GF_STATE_BYTES);
	else
		memset(w->states, r->uniform * 0x55, GF_STATE_BYTES);
	r->dirty = false;
	r->runs_lost = false;
	return w;
}

int layer_take_pages(struct layer *l, struct page_write **pages)
{
	*pages = NULL;
	MUTEX_GUARD(&l->lock);
	l->pictured = atomic_load(&l->written);
	l->page_overlay_blocks[1] = l->page_overlay_blocks[0];
	l->page_overlay_blocks[0] = l->overlay_blocks;
	if (!l->dirty)
		return 0;
	for (uint32_t leaf = 0; leaf < l->leaf_count; leaf++) {
		for (uint32_t k = 0; l->leaves[leaf] && k < LEAF_REGIONS; k++) {
			struct region *r = &l->leaves[leaf][k];
			struct page_write *w;

			if (!r->dirty)
				continue;
			w = take_page_locked(l, r, leaf * LEAF_REGIONS + k);
			if (!w)
				return -ENOMEM;
			w->next = *pages;
			*pages = w;
			region_compact(r);
		}
	}
	l->dirty = false;
	return 0;
}

/* Whether the page goes elsewhere than the one that the last good catalog names. */
static bool is_free_slot(struct layer *l, const struct page_write *w)
{
	const struct region *r;

	MUTEX_GUARD(&l->lock);
	r = layer_find_region_locked(l, w->region);
	return !r || !r->disk_generation ||
	       page_offset(w->region, w->generation) != page_offset(w->region, r->disk_generation);
}

static int write_one_list(struct layer *l, int fd, const struct page_write *w)
{
	size_t len = runs_length(w->runs.count);
	CLEANUP_FREE void *buf = malloc(len);

	if (!buf)
		return -ENOMEM;
	runs_encode(&w->runs, l->id, w->region, w->generation, buf);
	return io_pwrite(l->env->io, fd, buf, len, runs_offset(w->region, w->generation));
}

/* Where the blocks stand that the pages call SHARED, before the pages. */
static int write_runs(struct layer *l, const struct page_write *pages)
{
	const struct io_ops *ops = l->env->io->ops;
	int fd = -1, e = 0;
	char path[40];

	layer_path(path, l->id, LAYER_LOC);
	for (const struct page_write *w = pages; w && !e; w = w->next) {
		if (!w->runs.count)
			continue;
		if (fd < 0) {
			fd = ops->open(l->env->io, path, O_RDWR | O_CREAT);
			if (fd < 0)
				return fd;
		}
		INVARIANT(3, is_free_slot(l, w));
		e = write_one_list(l, fd, w);
	}
	if (fd < 0)
		return e;
	if (!e)
		e = SITE("sync lists of runs before the pages", ops->fdatasync(l->env->io, fd));
	ops->close(l->env->io, fd);
	if (!e) {
		MUTEX_GUARD(&l->lock);
		l->name_unsynced = true;
	}
	return e;
}

int layer_write_pages(struct layer *l, struct page_write *pages)
{
	const struct io_ops *ops = l->env->io->ops;
	char path[40];
	bool fresh = false;
	int fd, e = 0;

	if (!pages)
		return 0;
	/* What they call OVERLAY is durable. */
	INVARIANT(3, l->pictured <= atomic_load(&l->synced));
	e = write_runs(l, pages);
	if (e)
		return e;
	layer_path(path, l->id, LAYER_MAP);
	fd = ops->open(l->env->io, path, O_RDWR);
	if (fd == -ENOENT) {
		fresh = true;
		fd = ops->open(l->env->io, path, O_RDWR | O_CREAT);
	}
	if (fd < 0)
		return fd;
	for (struct page_write *w = pages; w && !e; w = w->next) {
		struct gf_disk_page page;

		/* Both slots get their place at once: a full disk must not hinder later ones. */
		if (w->generation <= 2)
			e = ops->allocate(l->env->io, fd, page_offset(w->region, 0),
				2 * sizeof(page));
		if (e == -ENOSPC)
			break;
		INVARIANT(3, is_free_slot(l, w));
		page_encode(w, l->id, &page);
		e = io_pwrite(l->env->io, fd, &page, sizeof(page),
			page_offset(w->region, w->generation));
	}
	if (!e)
		e = SITE("sync map pages", ops->fdatasync(l->env->io, fd));
	ops->close(l->env->io, fd);
	if (!e && fresh) {
		MUTEX_GUARD(&l->lock);
		l->name_unsynced = true;
	}
	return e;
}

/* The generation stays counted up: the slot of the last good page must not be written. Two steps
 * keep the parity. */
void layer_pages_failed(struct layer *l, struct page_write *pages)
{
	MUTEX_GUARD(&l->lock);
	l->page_overlay_blocks[0] = l->page_overlay_blocks[1];
	for (struct page_write *w = pages; w; w = w->next) {
		struct region *r = layer_find_region_locked(l, w->region);

		if (r && r->generation == w->generation) {
			r->generation = w->generation + 1;
			l->page_list_fits = false;
			r->dirty = true;
			l->dirty = true;
		}
	}
}

void layer_pages_done(struct layer *l, struct page_write *pages)
{
	MUTEX_GUARD(&l->lock);
	for (struct page_write *w = pages; w; w = w->next) {
		struct region *r = layer_find_region_locked(l, w->region);

		if (r)
			r->disk_generation = w->generation;
	}
}

void pages_free(struct page_write *pages)
{
	while (pages) {
		struct page_write *next = pages->next;

		runs_release(&pages->runs);
		free(pages);
		pages = next;
	}
}

int layer_list_disk_pages(struct layer *l, struct page_list *list)
{
	MUTEX_GUARD(&l->lock);
	return list_pages_locked(l, true, list);
}
