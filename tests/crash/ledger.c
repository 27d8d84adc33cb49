/* SPDX-License-Identifier: MIT */
/* See the header. */
#include "ledger.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/io.h"
#include "goldfs/format.h"
#include "image/image.h"

#define LAST_BLOCK (GF_MAX_SIZE / GF_BLOCK_SIZE - 1)

struct page {
	uint32_t region;
	uint32_t generation;
	uint8_t states[GF_STATE_BYTES];
	uint32_t runs;	  /* of SHARED blocks */
	uint64_t *places; /* of those, by block, 0: none; NULL: there are no runs */
};

struct map_layer {
	uint64_t id;
	struct map_layer *below;
	struct image *image; /* below */
	uint64_t bound;	     /* blocks */
	struct page *pages;
	size_t page_count;
	uint64_t overlay_blocks; /* as the catalog says */
	bool filling;		 /* it is on its way to have a place for each block */
};

struct file {
	struct ledger_file sums;
	uint64_t layer_id;
	struct map_layer *layer;
	uint64_t shown;	 /* bytes that it will have, for others */
	uint64_t growth; /* blocks that its own layer will let through, 0: as it says */
	bool marked;
	bool full;	 /* its mode */
	uint64_t placed; /* blocks that its own layer keeps a place for, 0: those that it has */
	uint64_t group; /* a file and its snapshots have the same */
};

/* What has a name, for the question whose snapshots something is. */
struct name {
	uint64_t ino, parent;
	uint32_t mode, kind;
	size_t len;
	const char *name; /* in the catalog */
};

/* A block that stands in a layer, or (layer 0) a slot of the pool. */
struct place {
	uint64_t layer;
	uint64_t block;
};

/* That a file shows it. */
struct show {
	struct place place;
	uint32_t file;
	uint16_t bytes; /* 0: it will, but does not yet */
	uint16_t whole; /* when it does */
};

struct ledger {
	struct io *io;
	struct image *const *images;
	size_t image_count;
	struct golden {
		uint64_t id;
		struct image *image;
	} * goldens;
	size_t golden_count;
	struct map_layer **layers;
	size_t layer_count;
	struct file *files;
	size_t file_count;
	struct name *names;
	size_t name_count, name_room;
	struct ledger_file *sums; /* of files, once they are final */
	struct show *shows;	  /* sorted by place, file, and what is shown most first */
	size_t show_count, show_room;
	struct place *named; /* slots, a reference each */
	size_t named_count, named_room;
	struct ledger_totals totals;
	char *reason;
	size_t reason_size;
};

static int __attribute__((format(printf, 2, 3))) wrong(struct ledger *l, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(l->reason, l->reason_size, fmt, ap);
	va_end(ap);
	return -1;
}

/* An array with room for one more. */
static void *more(void *list, size_t count, size_t *room, size_t size)
{
	if (count < *room)
		return list;
	*room = *room ? 2 * *room : 256;
	list = realloc(list, *room * size);
	if (!list)
		abort();
	return list;
}

/* ---- files ---- */

/* All of it, or -errno; *bytes is malloc'ed. */
static int read_file(struct io *io, const char *path, uint8_t **bytes, size_t *len)
{
	int fd = io->ops->open(io, path, O_RDONLY), r;
	struct io_stat st;

	*bytes = NULL;
	*len = 0;
	if (fd < 0)
		return fd;
	r = io->ops->stat(io, fd, &st);
	if (!r) {
		*len = st.size;
		*bytes = malloc(st.size + 1);
		r = *bytes ? io_pread_full(io, fd, *bytes, st.size, 0) : -ENOMEM;
	}
	io->ops->close(io, fd);
	return r;
}

static int read_part(struct io *io, const char *path, void *buf, size_t len, uint64_t off)
{
	int fd = io->ops->open(io, path, O_RDONLY), r;

	if (fd < 0)
		return fd;
	r = io_pread_full(io, fd, buf, len, off);
	io->ops->close(io, fd);
	return r;
}

struct measure {
	struct io *io;
	const char *folder;
	const char *ending;
	uint64_t bytes;
};

static int measure_file(void *arg, const char *name)
{
	struct measure *m = arg;
	const char *dot = strrchr(name, '.');
	struct io_stat st;
	char path[300];
	int fd;

	if (m->ending && (!dot || strcmp(dot, m->ending) != 0))
		return 0;
	if (snprintf(path, sizeof(path), "%s%s%s", m->folder, *m->folder ? "/" : "", name) >=
		(int)sizeof(path))
		abort();
	fd = m->io->ops->open(m->io, path, O_RDONLY);
	if (fd < 0)
		return 0; /* a folder */
	if (m->io->ops->stat(m->io, fd, &st) == 0)
		m->bytes += st.allocated;
	m->io->ops->close(m->io, fd);
	return 0;
}

static uint64_t measure(struct io *io, const char *folder, const char *ending)
{
	struct measure m = {.io = io, .folder = folder, .ending = ending};

	io->ops->list(io, *folder ? folder : ".", measure_file, &m);
	return m.bytes;
}

void ledger_measure(struct io *io, struct ledger_totals *totals)
{
	static const char *const folders[] = {"", "journal", "layer", "golden", "pool", "index"};

	totals->layer_bytes = measure(io, "layer", ".data");
	totals->pool_bytes = measure(io, "pool", ".data");
	totals->store_bytes = 0;
	for (size_t i = 0; i < sizeof(folders) / sizeof(*folders); i++)
		totals->store_bytes += measure(io, folders[i], NULL);
}

/* ---- the catalog ---- */

/* NULL: not a catalog that counts. */
static const struct gf_disk_catalog *whole_catalog(const uint8_t *bytes, size_t len)
{
	const struct gf_disk_catalog *head = (const struct gf_disk_catalog *)bytes;

	if (!bytes || len < GF_BLOCK_SIZE || memcmp(head->magic, GF_CATALOG_MAGIC, 8) != 0 ||
		head->version != GF_FORMAT_VERSION ||
		head->sum != hash_struct(head, offsetof(struct gf_disk_catalog, sum)) ||
		head->length > len - GF_BLOCK_SIZE ||
		head->ops_sum != hash_struct(bytes + GF_BLOCK_SIZE, head->length))
		return NULL;
	return head;
}

/* The newer one, malloc'ed; NULL: there is none. */
static uint8_t *newest_catalog(struct io *io)
{
	const struct gf_disk_catalog *heads[2];
	uint8_t *bytes[2];
	int best;

	for (int i = 0; i < 2; i++) {
		char path[24];
		size_t len;

		snprintf(path, sizeof(path), "catalog.%d", i);
		heads[i] =
			read_file(io, path, &bytes[i], &len) ? NULL : whole_catalog(bytes[i], len);
	}
	best = heads[1] && (!heads[0] || heads[1]->generation > heads[0]->generation);
	free(bytes[!best]);
	if (heads[best])
		return bytes[best];
	free(bytes[best]);
	return NULL;
}

/* Ops of a catalog or of a record, one after the other. */
static int each_op(struct ledger *l, const uint8_t *ops, size_t len,
	int (*cb)(struct ledger *l, const struct gf_disk_op *op))
{
	for (size_t at = 0; at < len;) {
		const struct gf_disk_op *op = (const struct gf_disk_op *)(ops + at);

		if (len - at < sizeof(*op) || op->length < sizeof(*op) || op->length % 8 ||
			op->length > len - at)
			return wrong(l, "an op of %u bytes at %zu of %zu", op->length, at, len);
		if (cb(l, op))
			return -1;
		at += op->length;
	}
	return 0;
}

static struct map_layer *find_layer(const struct ledger *l, uint64_t id)
{
	for (size_t i = 0; i < l->layer_count; i++)
		if (l->layers[i]->id == id)
			return l->layers[i];
	return NULL;
}

static struct image *find_image(const struct ledger *l, uint64_t golden)
{
	for (size_t i = 0; i < l->golden_count; i++)
		if (l->goldens[i].id == golden)
			return l->goldens[i].image;
	return NULL;
}

static int take_golden(struct ledger *l, const struct gf_op_golden *op)
{
	if (op->node < 1 || op->node > l->image_count)
		return wrong(l, "golden image %" PRIu64 " is none that there is", op->golden);
	l->goldens = realloc(l->goldens, (l->golden_count + 1) * sizeof(*l->goldens));
	if (!l->goldens)
		abort();
	l->goldens[l->golden_count++] = (struct golden){op->golden, l->images[op->node - 1]};
	return 0;
}

static int take_layer(struct ledger *l, const struct gf_op_layer *op)
{
	struct map_layer *layer = calloc(1, sizeof(*layer));

	l->layers = realloc(l->layers, (l->layer_count + 1) * sizeof(*l->layers));
	if (!layer || !l->layers)
		abort();
	layer->id = op->layer;
	layer->image = find_image(l, op->golden);
	layer->bound = (op->bound + GF_BLOCK_SIZE - 1) / GF_BLOCK_SIZE;
	layer->below = op->parent ? find_layer(l, op->parent) : NULL;
	if (find_layer(l, op->layer) || (op->parent && !layer->below) ||
		(op->golden && !layer->image)) {
		free(layer);
		return wrong(l, "layer %" PRIu64 " stands on nothing", op->layer);
	}
	l->layers[l->layer_count++] = layer;
	return 0;
}

static int take_pages(struct ledger *l, const struct gf_op_pages *op)
{
	struct map_layer *layer = find_layer(l, op->layer);
	const uint32_t *pairs = (const uint32_t *)(op + 1);

	if (!layer || layer->pages || sizeof(*op) + op->count * 8 > op->op.length)
		return wrong(l, "pages of layer %" PRIu64, op->layer);
	layer->pages = calloc(op->count, sizeof(*layer->pages));
	if (!layer->pages)
		abort();
	layer->page_count = op->count;
	layer->overlay_blocks = op->overlay_blocks;
	for (uint32_t i = 0; i < op->count; i++) {
		layer->pages[i].region = pairs[2 * i];
		layer->pages[i].generation = pairs[2 * i + 1];
	}
	return 0;
}

static int take_inode(struct ledger *l, const struct gf_op_inode *op)
{
	struct file *file;

	if (op->kind == GF_KIND_GOLDEN)
		return 0;
	l->names = more(l->names, l->name_count, &l->name_room, sizeof(*l->names));
	l->names[l->name_count++] = (struct name){.ino = op->ino, .parent = op->parent,
		.mode = op->mode, .kind = op->kind, .len = op->name_len,
		.name = (const char *)(op + 1)};
	if (!op->layer)
		return 0;
	l->files = realloc(l->files, (l->file_count + 1) * sizeof(*l->files));
	if (!l->files)
		abort();
	l->totals.promoted += op->kind == GF_KIND_PROMOTED;
	file = &l->files[l->file_count++];
	*file = (struct file){.sums = {.ino = op->ino, .size = op->size,
				      .is_snapshot = op->kind == GF_KIND_SNAPSHOT},
		.group = op->ino,
		.layer_id = op->layer,
		.layer = find_layer(l, op->layer),
		.shown = op->size};
	return file->layer ? 0 : wrong(l, "file %" PRIu64 " has no layer", op->ino);
}

static struct file *find_file(struct ledger *l, uint64_t ino)
{
	for (size_t i = 0; i < l->file_count; i++)
		if (l->files[i].sums.ino == ino)
			return &l->files[i];
	return NULL;
}

static int take_mode(struct ledger *l, const struct gf_op_mode *op)
{
	struct file *file = find_file(l, op->ino);

	if (file)
		file->full = op->mode == GF_MODE_FULL;
	return 0;
}

static int take_recast(struct ledger *l, const struct gf_op_recast *op)
{
	struct map_layer *layer = find_layer(l, op->layer);

	if (!layer)
		return wrong(l, "layer %" PRIu64 " is recast, and there is none", op->layer);
	layer->filling = op->kind == GF_RECAST_FULL;
	return 0;
}

static int take_op(struct ledger *l, const struct gf_disk_op *op)
{
	switch (op->type) {
	case GF_OP_MODE:
		return take_mode(l, (const void *)op);
	case GF_OP_RECAST:
		return take_recast(l, (const void *)op);
	case GF_OP_GOLDEN:
		return take_golden(l, (const void *)op);
	case GF_OP_LAYER:
		return take_layer(l, (const void *)op);
	case GF_OP_PAGES:
		return take_pages(l, (const void *)op);
	case GF_OP_INODE:
		return take_inode(l, (const void *)op);
	}
	return 0;
}

/* ---- whose snapshots ---- */

static const struct name *find_name(const struct ledger *l, uint64_t ino)
{
	for (size_t i = 0; i < l->name_count; i++)
		if (l->names[i].ino == ino)
			return &l->names[i];
	return NULL;
}

static bool same_name(const struct name *a, const struct name *b)
{
	return a->len == b->len && memcmp(a->name, b->name, a->len) == 0;
}

/* Whether b, up to .snapshots, has the names of a, up to the root. */
static bool is_counterpart(const struct ledger *l, const struct name *a, const struct name *b)
{
	while (a && b && a->parent && a->ino != 1 && b->ino != 3) {
		if (!same_name(a, b))
			return false;
		a = find_name(l, a->parent);
		b = find_name(l, b->parent);
	}
	return a && b && a->ino == 1 && b->ino == 3;
}

/* Snapshots lie in a folder with the path of their file. */
static int find_groups(struct ledger *l)
{
	for (size_t i = 0; i < l->file_count; i++) {
		const struct name *name = find_name(l, l->files[i].sums.ino);

		if (l->files[i].sums.is_snapshot && name->parent)
			l->files[i].group = name->parent;
	}
	for (size_t i = 0; i < l->file_count; i++) {
		const struct name *name = find_name(l, l->files[i].sums.ino);

		if (l->files[i].sums.is_snapshot || !name->parent)
			continue;
		for (size_t k = 0; k < l->file_count; k++) {
			const struct name *group = find_name(l, l->files[k].group);

			if (!l->files[k].sums.is_snapshot || !is_counterpart(l, name, group))
				continue;
			l->files[i].group = group->ino;
			l->files[i].sums.snapshots++;
		}
	}
	return 0;
}

/* ---- the journal must have nothing to say ---- */

static int settled_op(struct ledger *l, const struct gf_disk_op *op)
{
	if (op->type != GF_OP_PAD && op->type != GF_OP_EPOCH && op->type != GF_OP_REQUEST)
		return wrong(l, "not settled: the journal has an op of type %u", op->type);
	return 0;
}

static int check_journal(struct ledger *l, const struct gf_disk_catalog *head)
{
	uint64_t place, seq = head->tail_seq, prev = head->tail_prev;
	uint8_t *ring;
	size_t len;
	int r = 0;

	if (read_file(l->io, "journal/0", &ring, &len) || !len) {
		free(ring);
		return wrong(l, "there is no journal");
	}
	for (place = head->tail_pos % len; !r;) {
		const struct gf_disk_record *rec = (const struct gf_disk_record *)(ring + place);

		if (len - place < sizeof(*rec) || rec->magic != GF_RECORD_MAGIC ||
			rec->seq != seq || rec->prev != prev || rec->length > len - place ||
			rec->length < sizeof(*rec) || rec->used > rec->length - sizeof(*rec) ||
			rec->ops_sum != hash_struct(rec + 1, rec->used))
			break;
		r = each_op(l, (const uint8_t *)(rec + 1), rec->used, settled_op);
		seq++;
		prev = rec->sum;
		place = (place + rec->length) % len;
	}
	free(ring);
	return r;
}

/* ---- maps ---- */

static enum gf_state state_of(const struct page *page, uint32_t i)
{
	return page->states[i / 4] >> (i % 4 * 2) & 3;
}

static int read_page(struct ledger *l, const struct map_layer *layer, struct page *page)
{
	struct gf_disk_page disk;
	uint64_t sum;
	char path[40];

	snprintf(path, sizeof(path), "layer/%" PRIu64 ".map", layer->id);
	if (read_part(l->io, path, &disk, sizeof(disk),
		    (page->region * UINT64_C(2) + page->generation % 2) * sizeof(disk)))
		return wrong(l, "\"%s\" cannot be read", path);
	sum = disk.sum;
	disk.sum = 0;
	if (disk.magic != GF_PAGE_MAGIC || disk.region != page->region || disk.layer != layer->id ||
		disk.generation != page->generation || sum != hash_struct(&disk, sizeof(disk)))
		return wrong(l, "\"%s\": the page of region %u is not of generation %u", path,
			page->region, page->generation);
	memcpy(page->states, disk.states, sizeof(page->states));
	page->runs = disk.runs;
	return 0;
}

static bool is_in_pool(uint64_t place)
{
	return place & GF_PLACE_POOL;
}

/* A slot's number, whatever file it is in. */
static uint64_t slot_of(uint64_t place)
{
	return place & ~GF_PLACE_POOL;
}

/* The list of a page. */
static int read_runs(struct ledger *l, const struct map_layer *layer, struct page *page)
{
	size_t len = sizeof(struct gf_disk_runs) + page->runs * sizeof(struct gf_disk_run);
	struct gf_disk_runs *list = malloc(len);
	const struct gf_disk_run *runs = (const struct gf_disk_run *)(list + 1);
	uint64_t sums[2], sum, place;
	char path[40];
	int r;

	page->places = calloc(GF_REGION_BLOCKS, sizeof(*page->places));
	if (!list || !page->places)
		abort();
	snprintf(path, sizeof(path), "layer/%" PRIu64 ".loc", layer->id);
	place = (page->region * UINT64_C(2) + page->generation % 2) * GF_RUNS_SLOT;
	r = page->runs > GF_REGION_BLOCKS || read_part(l->io, path, list, len, place);
	sum = list->sum;
	list->sum = 0;
	sums[0] = hash_struct(list, sizeof(*list));
	sums[1] = hash_struct(runs, page->runs * sizeof(*runs));
	if (r || list->magic != GF_RUNS_MAGIC || list->region != page->region ||
		list->layer != layer->id || list->generation != page->generation ||
		list->count != page->runs || sum != hash_struct(sums, sizeof(sums)))
		r = wrong(l, "\"%s\": the list of region %u is not of generation %u", path,
			page->region, page->generation);
	for (uint32_t i = 0, next = 0; i < page->runs && !r; i++) {
		if (!runs[i].count || runs[i].first < next ||
			runs[i].first + runs[i].count > GF_REGION_BLOCKS)
			r = wrong(l, "\"%s\": a run of %u blocks at %u", path, runs[i].count,
				runs[i].first);
		for (uint32_t k = 0; k < runs[i].count && !r; k++)
			page->places[runs[i].first + k] = runs[i].place + k;
		next = runs[i].first + runs[i].count;
	}
	free(list);
	return r;
}

/* Blocks are SHARED just where a run says so. */
static int read_places(struct ledger *l, const struct map_layer *layer, struct page *page)
{
	if (page->runs && read_runs(l, layer, page))
		return -1;
	for (uint32_t i = 0; i < GF_REGION_BLOCKS; i++) {
		uint64_t place = page->places ? page->places[i] : 0;

		if ((state_of(page, i) == GF_SHARED) != (place != 0))
			return wrong(l, "layer %" PRIu64 ", region %u: block %u is %s", layer->id,
				page->region, i, place ? "not SHARED" : "lost");
		if (!place)
			continue;
		if (!is_in_pool(place)) {
			l->totals.golden_refs++;
			continue;
		}
		l->named = more(l->named, l->named_count, &l->named_room, sizeof(*l->named));
		l->named[l->named_count++] = (struct place){0, slot_of(place)};
	}
	return 0;
}

static int read_layer(struct ledger *l, struct map_layer *layer)
{
	uint64_t overlay = 0;

	for (size_t k = 0; k < layer->page_count; k++) {
		struct page *page = &layer->pages[k];

		if (read_page(l, layer, page))
			return -1;
		for (uint32_t i = 0; i < GF_REGION_BLOCKS; i++) {
			bool last = page->region * (uint64_t)GF_REGION_BLOCKS + i == LAST_BLOCK;

			overlay += state_of(page, i) == GF_OVERLAY;
			l->totals.last_blocks += last && state_of(page, i) == GF_OVERLAY;
		}
		if (read_places(l, layer, page))
			return -1;
	}
	if (overlay != layer->overlay_blocks)
		return wrong(l, "layer %" PRIu64 " has %" PRIu64 " blocks, not %" PRIu64, layer->id,
			overlay, layer->overlay_blocks);
	l->totals.layer_blocks += overlay;
	return 0;
}

static const struct page *page_of(const struct map_layer *layer, uint32_t region)
{
	for (size_t i = 0; i < layer->page_count; i++)
		if (layer->pages[i].region == region)
			return &layer->pages[i];
	return NULL;
}

/* ---- files ---- */

/* One region of one file: its layers from the top down, and what they have there. */
struct chain {
	struct file *file;
	size_t index; /* of the file */
	uint32_t region;
	struct link {
		const struct map_layer *layer;
		const struct page *page; /* NULL: nothing */
		uint64_t bound;		 /* blocks */
	} * links;
	size_t count;
	struct image *image;
	const uint8_t *bytes; /* of the image, in this region; NULL: none */
};

static uint32_t bytes_shown(uint64_t size, uint64_t block)
{
	uint64_t start = block * GF_BLOCK_SIZE;

	return size <= start ? 0 : size - start < GF_BLOCK_SIZE ? size - start : GF_BLOCK_SIZE;
}

static void show(struct ledger *l, const struct chain *c, uint64_t block, uint64_t layer,
	uint64_t block_there, uint32_t bytes)
{
	l->shows = more(l->shows, l->show_count, &l->show_room, sizeof(*l->shows));
	l->shows[l->show_count++] = (struct show){.place = {layer, block_there},
		.file = (uint32_t)c->index,
		.bytes = (uint16_t)bytes,
		.whole = (uint16_t)bytes_shown(c->file->shown, block)};
	c->file->sums.data += bytes;
}

static void show_golden(const struct chain *c, uint32_t bytes)
{
	c->file->sums.shared_golden += bytes;
	c->file->sums.data += bytes;
}

static bool image_has(struct image *image, uint64_t block)
{
	uint64_t off = block * GF_BLOCK_SIZE;
	uint8_t bytes[GF_BLOCK_SIZE] = {0};

	return off < image->size && image->ops->read(image, bytes, sizeof(bytes), off) == 0 &&
	       !is_zero(bytes, sizeof(bytes));
}

static void look_at_block(struct ledger *l, const struct chain *c, uint32_t i)
{
	uint64_t block = c->region * (uint64_t)GF_REGION_BLOCKS + i;
	uint32_t bytes = bytes_shown(c->file->sums.size, block);

	for (size_t k = 0; k < c->count; k++) {
		const struct link *link = &c->links[k];
		uint64_t place;

		switch (link->page ? state_of(link->page, i) : GF_PARENT) {
		case GF_ZERO:
			return;
		case GF_OVERLAY:
			show(l, c, block, link->layer->id, block, bytes);
			return;
		case GF_SHARED:
			place = link->page->places[i];
			if (is_in_pool(place))
				show(l, c, block, 0, slot_of(place), bytes);
			else
				show_golden(c, bytes);
			return;
		case GF_PARENT:
			break;
		}
		if (block >= link->bound)
			return;
	}
	if (c->image && image_has(c->image, block))
		show_golden(c, bytes);
}

static void look_at_region(struct ledger *l, struct chain *c)
{
	uint64_t base = c->region * (uint64_t)GF_REGION_BLOCKS;

	for (size_t k = 0; k < c->count; k++)
		c->links[k].page = page_of(c->links[k].layer, c->region);
	for (uint32_t i = 0; i < GF_REGION_BLOCKS && (base + i) * GF_BLOCK_SIZE < c->file->shown;
		i++)
		look_at_block(l, c, i);
}

static int compare_u32(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return x < y ? -1 : x > y;
}

/* Where any layer of the chain, or the image, has something. */
static size_t list_regions(const struct chain *c, uint32_t **list)
{
	size_t n = 0, room = 0, unique = 0;

	*list = NULL;
	for (size_t k = 0; k < c->count; k++) {
		for (size_t i = 0; i < c->links[k].layer->page_count; i++) {
			*list = more(*list, n, &room, sizeof(**list));
			(*list)[n++] = c->links[k].layer->pages[i].region;
		}
	}
	for (uint32_t r = 0; c->image && r * GF_REGION_SIZE < c->image->size; r++) {
		*list = more(*list, n, &room, sizeof(**list));
		(*list)[n++] = r;
	}
	if (n)
		qsort(*list, n, sizeof(**list), compare_u32);
	for (size_t i = 0; i < n; i++)
		if (!i || (*list)[i] != (*list)[i - 1])
			(*list)[unique++] = (*list)[i];
	return unique;
}

static void look_at_file(struct ledger *l, size_t index)
{
	struct chain c = {.file = &l->files[index], .index = index};
	size_t room = 0, count;
	uint32_t *regions;

	for (const struct map_layer *layer = c.file->layer; layer; layer = layer->below) {
		c.links = more(c.links, c.count, &room, sizeof(*c.links));
		c.links[c.count++] = (struct link){.layer = layer, .bound = layer->bound};
		c.image = layer->image;
	}
	if (c.file->growth)
		c.links[0].bound = c.file->growth;
	count = list_regions(&c, &regions);
	for (size_t i = 0; i < count; i++) {
		c.region = regions[i];
		look_at_region(l, &c);
	}
	free(regions);
	free(c.links);
}

/* ---- files with a place for each block ---- */

/* Such a file stands on nothing, or is being made one; and what it was promised is there. */
static void find_places(struct ledger *l, struct file *file)
{
	const struct map_layer *layer = file->layer;
	uint64_t blocks = (file->sums.size + GF_BLOCK_SIZE - 1) / GF_BLOCK_SIZE;
	uint64_t there = blocks < LAST_BLOCK ? blocks : LAST_BLOCK;
	struct measure m = {.io = l->io, .folder = "layer"};
	char name[40];

	if (!layer->filling && (!file->full || layer->below || layer->image))
		return;
	snprintf(name, sizeof(name), "%" PRIu64 ".data", layer->id);
	measure_file(&m, name);
	if (m.bytes / GF_BLOCK_SIZE < there)
		return;
	file->placed = blocks;
	l->totals.placed_files++;
	if (layer->overlay_blocks < there)
		l->totals.spare_blocks += there - layer->overlay_blocks;
}

/* All of it is the file's own, whatever it shows of others yet. */
static void count_places(struct file *file)
{
	struct ledger_file *sums = &file->sums;

	if (!file->placed)
		return;
	sums->data = sums->unique = sums->size;
	sums->shared_golden = sums->shared_clone = sums->shared_snapshot = sums->shared_self = 0;
	sums->unique_blocks += file->placed;
}

static bool is_placed(const struct file *file, const struct show *s)
{
	return file->placed && s->place.layer == file->layer_id;
}

/* ---- who else shows it ---- */

static int compare_places(const struct place *a, const struct place *b)
{
	if (a->layer != b->layer)
		return a->layer < b->layer ? -1 : 1;
	return a->block < b->block ? -1 : a->block > b->block;
}

static int compare_shows(const void *a, const void *b)
{
	const struct show *x = a, *y = b;
	int c = compare_places(&x->place, &y->place);

	if (c)
		return c;
	if (x->file != y->file)
		return x->file < y->file ? -1 : 1;
	return x->bytes > y->bytes ? -1 : x->bytes < y->bytes;
}

static int compare_named(const void *a, const void *b)
{
	return compare_places(a, b);
}

/* How many from i on are of one place. */
static size_t show_run(const struct ledger *l, size_t i)
{
	size_t n = 1;

	while (i + n < l->show_count &&
		compare_places(&l->shows[i].place, &l->shows[i + n].place) == 0)
		n++;
	return n;
}

static void classify(struct ledger *l)
{
	size_t n;

	if (l->show_count)
		qsort(l->shows, l->show_count, sizeof(*l->shows), compare_shows);
	for (size_t i = 0; i < l->show_count; i += n) {
		const struct show *s = &l->shows[i];
		bool alone, family = true;

		n = show_run(l, i);
		/* They are sorted by file. */
		alone = s[0].file == s[n - 1].file;
		for (size_t k = 1; k < n; k++)
			family &= l->files[s[k].file].group == l->files[s[0].file].group;
		for (size_t k = 0; k < n; k++) {
			struct ledger_file *sums = &l->files[s[k].file].sums;

			if (!alone && family)
				sums->shared_snapshot += s[k].bytes;
			else if (!alone)
				sums->shared_clone += s[k].bytes;
			else if (k)
				sums->shared_self += s[k].bytes;
			else
				sums->unique += s[k].bytes;
			sums->unique_blocks += alone && !k && s[k].bytes &&
					       !is_placed(&l->files[s[k].file], &s[k]);
		}
	}
}

static void count_unseen(struct ledger *l)
{
	uint64_t shown[2] = {0, 0}; /* slots, blocks of layers */
	size_t n;

	if (l->named_count)
		qsort(l->named, l->named_count, sizeof(*l->named), compare_named);
	l->totals.slot_refs = l->named_count;
	for (size_t i = 0; i < l->named_count; i++)
		l->totals.slots += !i || l->named[i].block != l->named[i - 1].block;
	for (size_t i = 0; i < l->show_count; i += n) {
		n = show_run(l, i);
		shown[l->shows[i].place.layer != 0]++;
	}
	l->totals.unseen = l->totals.slots - shown[0] + l->totals.layer_blocks - shown[1];
	l->totals.layer_blocks -= l->totals.last_blocks;
}

/* ---- the interface ---- */

static void note_growing(struct ledger *l, const struct ledger_growing *growing)
{
	struct file *file = find_file(l, growing->ino), *source = find_file(l, growing->source);

	if (!file || !source)
		return;
	file->shown = source->sums.size;
	file->growth = source->layer->bound;
}

static int take(struct ledger *l, const struct ledger_growing *growing, size_t growing_count)
{
	uint8_t *catalog = newest_catalog(l->io);
	const struct gf_disk_catalog *head = (const struct gf_disk_catalog *)catalog;
	int r;

	if (!catalog)
		return wrong(l, "there is no catalog");
	r = check_journal(l, head);
	if (!r)
		r = each_op(l, catalog + GF_BLOCK_SIZE, head->length, take_op);
	if (!r)
		r = find_groups(l);
	free(catalog);
	for (size_t i = 0; i < l->layer_count && !r; i++)
		r = read_layer(l, l->layers[i]);
	if (r)
		return r;
	for (size_t k = 0; k < growing_count; k++)
		note_growing(l, &growing[k]);
	for (size_t i = 0; i < l->file_count; i++) {
		find_places(l, &l->files[i]);
		look_at_file(l, i);
	}
	classify(l);
	count_unseen(l);
	ledger_measure(l->io, &l->totals);
	l->sums = calloc(l->file_count + 1, sizeof(*l->sums));
	if (!l->sums)
		abort();
	for (size_t i = 0; i < l->file_count; i++) {
		count_places(&l->files[i]);
		l->files[i].sums.zero = l->files[i].sums.size - l->files[i].sums.data;
		l->sums[i] = l->files[i].sums;
	}
	return 0;
}

int ledger_take(struct ledger **ledger, struct io *io, struct image *const *images, size_t count,
	const struct ledger_growing *growing, size_t growing_count, char *reason, size_t size)
{
	struct ledger *l = calloc(1, sizeof(*l));
	int r;

	if (!l)
		abort();
	l->io = io;
	l->images = images;
	l->image_count = count;
	l->reason = reason;
	l->reason_size = size;
	r = take(l, growing, growing_count);
	if (r)
		ledger_free(l);
	*ledger = r ? NULL : l;
	return r;
}

void ledger_free(struct ledger *l)
{
	if (!l)
		return;
	for (size_t i = 0; i < l->layer_count; i++) {
		for (size_t k = 0; k < l->layers[i]->page_count; k++)
			free(l->layers[i]->pages[k].places);
		free(l->layers[i]->pages);
		free(l->layers[i]);
	}
	free(l->layers);
	free(l->goldens);
	free(l->files);
	free(l->sums);
	free(l->names);
	free(l->shows);
	free(l->named);
	free(l);
}

size_t ledger_files(const struct ledger *l, const struct ledger_file **files)
{
	*files = l->sums;
	return l->file_count;
}

void ledger_freed(const struct ledger *l, const uint64_t *inos, size_t count, uint64_t *bytes,
	uint64_t *blocks)
{
	size_t n;

	*bytes = *blocks = 0;
	for (size_t i = 0; i < l->file_count; i++) {
		l->files[i].marked = false;
		for (size_t k = 0; k < count; k++)
			l->files[i].marked |= inos[k] == l->files[i].sums.ino;
		if (l->files[i].marked && l->files[i].placed) {
			*bytes += l->files[i].sums.size;
			*blocks += l->files[i].placed;
		}
	}
	for (size_t i = 0; i < l->show_count; i += n) {
		uint32_t most = 0;
		bool all = true;

		n = show_run(l, i);
		if (is_placed(&l->files[l->shows[i].file], &l->shows[i]))
			continue;
		for (size_t k = i; k < i + n; k++) {
			all &= l->files[l->shows[k].file].marked;
			if (l->shows[k].whole > most)
				most = l->shows[k].whole;
		}
		*bytes += all ? most : 0;
		*blocks += all;
	}
}

void ledger_totals(const struct ledger *l, struct ledger_totals *totals)
{
	*totals = l->totals;
}
