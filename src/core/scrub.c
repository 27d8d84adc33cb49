/* SPDX-License-Identifier: MIT */
/*
 * The order of a scrub, its findings, and the metadata.
 *
 * Metadata are looked at with the checkpoint's lock held, so that what counts on the disk stays as
 * it is: it is small. What is damaged there stands in memory too (the catalog and all loaded pages
 * do), so two checkpoints write it anew. Damage in the ring ends with the checkpoint as well, which
 * moves all of it to its place: only small blocks that stand in a damaged record are lost, and keep
 * the checksum of what was written, so that they are found damaged in their place.
 */
#include "core/scrub_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/sizes.h"
#include "store/pool.h"
#include "store/runs.h"

#define MAX_PATHS 1000

static const char lost_advice[] =
	"restore the file from a backup, or write these blocks anew in the guest";

/* ---- reading past the cache ---- */

int media_open(struct media *m, struct io *io, const char *path)
{
	m->io = io;
	m->direct = true;
	m->fd = io->ops->open(io, path, O_RDONLY | O_DIRECT);
	if (m->fd == -EINVAL || m->fd == -EOPNOTSUPP) {
		m->direct = false;
		m->fd = io->ops->open(io, path, O_RDONLY);
	}
	return m->fd < 0 ? m->fd : 0;
}

void media_close(struct media *m)
{
	if (m->fd >= 0)
		m->io->ops->close(m->io, m->fd);
	m->fd = -1;
}

int media_read(struct media *m, void *buf, size_t len, uint64_t off)
{
	ssize_t n;

	if (!m->direct && m->io->ops->drop_cache)
		m->io->ops->drop_cache(m->io, m->fd);
	n = m->io->ops->pread(m->io, m->fd, buf, len, off);
	if (n < 0)
		return (int)n;
	memset((uint8_t *)buf + n, 0, len - (size_t)n);
	return 0;
}

void media_forget(struct io *io, const char *path)
{
	int fd;

	if (!io->ops->drop_cache)
		return;
	fd = io->ops->open(io, path, O_RDONLY);
	if (fd < 0)
		return;
	io->ops->drop_cache(io, fd);
	io->ops->close(io, fd);
}

/* ---- findings ---- */

static bool stands_on(const struct layer *top, const struct about *about)
{
	while (top && top != about->layer && top->parent)
		top = top->parent;
	return top && (about->layer ? top == about->layer : top->golden == about->golden);
}

static bool is_concerned(const struct about *about, const struct extent *x)
{
	return about->shared_only ? x->kind == EXTENT_POOL || x->kind == EXTENT_GOLDEN :
				    x->kind != EXTENT_ZERO;
}

/* Whether the file shows any of the blocks as their owner has them. */
static bool shows(struct inode *inode, const struct about *about)
{
	const uint64_t place = place_from_golden(about->golden, about->block);
	uint64_t last = round_up(atomic_load(&inode->size), GF_BLOCK_SIZE) / GF_BLOCK_SIZE;
	uint64_t block = about->block, end = min_u64(block + about->count, last);
	struct layer *top = atomic_load(&inode->layer);

	if (about->golden && inode_shows_place(inode, place, about->count))
		return true;
	if (!top || !stands_on(top, about))
		return false;
	while (block < end) {
		struct extent x;
		int r = layer_resolve(top, block, end - block, false, &x);

		if (about->layer ? x.layer == about->layer && (r || is_concerned(about, &x)) :
				   !r && x.kind == EXTENT_IMAGE)
			return block * GF_BLOCK_SIZE < x.limit;
		block += max_u64(x.count, 1);
	}
	return false;
}

static void add_path(struct check_finding *f, char *path)
{
	char **paths = f->path_count < MAX_PATHS ?
		realloc(f->paths, (f->path_count + 1) * sizeof(*paths)) : NULL;

	if (!paths) {
		free(path);
		return;
	}
	f->paths = paths;
	f->paths[f->path_count++] = path;
}

static void add_paths(struct fs *fs, struct check_finding *f, const struct about *about)
{
	struct inode *inode, *next;

	pthread_rwlock_rdlock(&fs->tree);
	HASH_ITER (by_ino, fs->inodes, inode, next) {
		char *path = NULL;

		if (inode_is_file(inode) && shows(inode, about) && !tree_path(fs, inode, &path))
			add_path(f, path);
	}
	pthread_rwlock_unlock(&fs->tree);
}

static int add_finding(struct scrub *s, const struct about *about, bool repaired, const char *text)
{
	/* Not the layer: files are looked up here, under the lock that they need. */
	struct about bare = *about;
	uint64_t before = s->report->count;
	int r;

	bare.layer = NULL;
	bare.golden = 0;
	bare.unseen_is_note = false;
	r = check_find(&s->check, &bare, "%s", text);
	if (r || s->report->count == before)
		return r;
	if (about->layer || about->golden)
		add_paths(s->fs, &s->report->findings[before], about);
	if (about->unseen_is_note)
		check_note_unseen(s->report, &s->report->findings[before]);
	if (repaired) {
		s->report->findings[before].repaired = true;
		s->report->damaged -= about->severity == CHECK_DAMAGE;
		s->report->repaired++;
	}
	log_error(0, "scrub: %s \"%s\" at %" PRIu64 ": %s%s", about->structure,
		about->place ? about->place : "", about->offset, text,
		repaired ? "; written anew" : "");
	return 0;
}

int scrub_find(struct scrub *s, const struct about *about, const char *fmt, ...)
{
	char text[256];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	return add_finding(s, about, false, text);
}

int scrub_repaired(struct scrub *s, const struct about *about, const char *fmt, ...)
{
	char text[256];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	return add_finding(s, about, true, text);
}

/* ---- keeping out of the way ---- */

static void be_idle(void)
{
	/* IOPRIO_WHO_PROCESS of this thread, IOPRIO_CLASS_IDLE. Both may be refused. */
	syscall(SYS_ioprio_set, 1, 0, 3 << 13);
	setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), 19);
}

static bool is_told_to_stop(void *arg)
{
	struct scrub *s = arg;

	return s->options->progress && s->options->progress(s->options->arg, s->done, s->total);
}

int scrub_progress(struct scrub *s, uint64_t bytes, int64_t start_ns)
{
	s->done += bytes;
	s->report->bytes_read += bytes;
	return pace_after(&s->pace, start_ns, bytes, is_told_to_stop, s) || is_told_to_stop(s) ?
		       -ECANCELED : 0;
}

/* ---- superblock and catalogs ---- */

static bool super_is_whole(struct scrub *s, const char *path)
{
	uint8_t want[4096], is[4096];
	size_t len = superblock_encode(&s->fs->super, want);
	struct io *io = s->fs->io;
	struct io_stat st = {0};
	bool same;
	int fd;

	media_forget(io, path);
	fd = io->ops->open(io, path, O_RDONLY);
	if (fd < 0)
		return false;
	same = io->ops->stat(io, fd, &st) == 0 && st.size == len &&
	       io_pread_full(io, fd, is, len, 0) == 0 && memcmp(is, want, len) == 0;
	io->ops->close(io, fd);
	return same;
}

static int scrub_super(struct scrub *s)
{
	bool main = super_is_whole(s, SUPER_PATH), copy = super_is_whole(s, SUPER_COPY_PATH);
	const char *path = main ? SUPER_COPY_PATH : SUPER_PATH;
	struct about about = {.severity = CHECK_DAMAGE, .structure = "superblock", .place = path,
		.advice = "look at the disk below; the superblock could not be written"};
	int r = 0;

	if (main && copy)
		return 0;
	if (s->fs->options.read_only || fs_writable(s->fs))
		return scrub_find(s, &about, "it is not what it was");
	if (!main)
		r = superblock_write(s->fs->io, &s->fs->super);
	if (!r)
		r = superblock_complete(s->fs->io, &s->fs->super);
	return r ? scrub_find(s, &about, "it is not what it was") :
		   scrub_repaired(s, &about, "it is not what it was");
}

/* current: the copy that counts. The other one may be what a crash left. */
static int scrub_catalog(struct scrub *s, unsigned which, bool current)
{
	struct catalog_head head;
	void *ops = NULL;
	char path[16];
	size_t len;
	int r;

	snprintf(path, sizeof(path), "catalog.%u", which);
	media_forget(s->fs->io, path);
	r = catalog_file_read_copy(s->fs->io, which, &head, &ops, &len);
	if (!r && current && head.generation != s->fs->generation)
		r = -EUCLEAN;
	if (!r) {
		free(ops);
		s->report->bytes_read += len;
		return 0;
	}
	s->rewrite = true;
	/* A crash or a full disk leaves the other one so, and a checkpoint mends it. */
	return scrub_repaired(s, &(struct about){.severity = !current && !s->checkpoints ?
		CHECK_NOTE : CHECK_DAMAGE, .structure = "catalog", .place = path},
		"this copy of the catalog is not whole");
}

/* ---- map pages ---- */

/* The list of a region's runs, of which its page says how many there are. */
static int scrub_list(struct scrub *s, struct layer *layer, struct page_name ref, uint32_t count,
	const uint8_t states[GF_STATE_BYTES])
{
	size_t len = runs_length(min_u64(count, GF_REGION_BLOCKS));
	CLEANUP_FREE void *buf = malloc(len);
	struct runs runs = {0};
	char path[40];
	uint64_t place = 0;
	int r = buf ? layer_read_list(layer, ref.region, ref.generation, buf, len, &place) : -ENOMEM;
	struct about about = {.severity = CHECK_DAMAGE, .structure = "map", .place = path,
		.offset = place, .length = len, .layer = layer,
		.block = (uint64_t)ref.region * GF_REGION_BLOCKS, .count = GF_REGION_BLOCKS,
		.shared_only = true, .unseen_is_note = true, .advice = lost_advice};

	if (!r)
		r = runs_decode(&runs, buf, len, layer->id, ref.region, ref.generation, count, states);
	runs_release(&runs);
	s->report->bytes_read += len;
	if (!r || r == -ENOMEM)
		return r;
	snprintf(path, sizeof(path), "layer/%" PRIu64 ".loc", layer->id);
	if (layer_rewrite_page(layer, ref.region)) {
		s->rewrite = true;
		return scrub_repaired(s, &about, "the list of region %u is damaged", ref.region);
	}
	return scrub_find(s, &about, "the list of region %u is damaged: nobody knows where its "
		"shared blocks stand", ref.region);
}

static int scrub_page(struct scrub *s, struct layer *layer, struct page_name ref)
{
	uint8_t page[sizeof(struct gf_disk_page)], states[GF_STATE_BYTES];
	char path[40];
	uint64_t place;
	uint32_t runs = 0;
	int r = layer_read_page(layer, ref.region, ref.generation, page, &place);
	struct about about = {.severity = CHECK_DAMAGE, .structure = "map", .place = path,
		.offset = place, .length = sizeof(page), .layer = layer,
		.block = (uint64_t)ref.region * GF_REGION_BLOCKS, .count = GF_REGION_BLOCKS,
		.advice = lost_advice};

	if (!r)
		r = page_decode(page, layer->id, ref.region, ref.generation, states, &runs);
	if (!r)
		return runs ? scrub_list(s, layer, ref, runs, states) : 0;
	snprintf(path, sizeof(path), "layer/%" PRIu64 ".map", layer->id);
	if (layer_rewrite_page(layer, ref.region)) {
		s->rewrite = true;
		return scrub_repaired(s, &about, "the map page of region %u is damaged", ref.region);
	}
	return scrub_find(s, &about,
		"the map page of region %u is damaged: nothing is known of the blocks there",
		ref.region);
}

static int scrub_map(struct scrub *s, struct layer *layer)
{
	struct page_list list = {0};
	char path[40];
	int r = layer_list_disk_pages(layer, &list);

	snprintf(path, sizeof(path), "layer/%" PRIu64 ".map", layer->id);
	if (list.count)
		media_forget(s->fs->io, path);
	snprintf(path, sizeof(path), "layer/%" PRIu64 ".loc", layer->id);
	if (list.count && layer->may_share)
		media_forget(s->fs->io, path);
	for (size_t i = 0; i < list.count && !r; i++)
		r = scrub_page(s, layer, list.names[i]);
	s->report->bytes_read += list.count * sizeof(struct gf_disk_page);
	free(list.names);
	return r;
}

static int scrub_maps(struct scrub *s)
{
	uint64_t id = 0;
	struct layer *layer;
	int r = 0;

	while (!r && (layer = layer_hold_next(s->fs, id)) != NULL) {
		id = layer->id;
		r = scrub_map(s, layer);
		atomic_fetch_sub(&layer->users, 1);
	}
	return r;
}

/* ---- the ring ---- */

static int count_record(void *arg, const struct journal_mark *next, uint64_t seq, uint64_t ops_pos,
	const void *ops, size_t len)
{
	*(struct journal_mark *)arg = *next;
	return 0;
}

static void ignore_message(void *arg, const char *text)
{
}

static int scrub_journaled_block(struct scrub *s, const struct jentry *e)
{
	uint8_t bytes[GF_BLOCK_SIZE];
	struct layer *layer;
	struct jentry now;
	bool same;
	int r = 0;

	s->report->journaled_blocks++;
	same = journal_read(s->fs->journal, e->pos, bytes, sizeof(bytes)) == 0 &&
	       hash_block(s->fs->super.secret, bytes) == e->sum;
	if (same || !jindex_get(s->fs->jindex, e->layer, e->block, &now) || now.pos != e->pos)
		return 0;
	layer = layer_hold(s->fs, e->layer);
	if (!layer)
		return 0;
	damage_note(s->fs, e->layer, e->block);
	r = scrub_find(s, &(struct about){.severity = CHECK_DAMAGE, .structure = "journal",
		.place = "journal/0", .offset = e->pos % s->fs->super.journal_size,
		.length = GF_BLOCK_SIZE, .layer = layer, .block = e->block, .count = 1,
		.advice = lost_advice},
		"a block in the journal is not what was written, byte %" PRIu64 " of the file",
		e->block * GF_BLOCK_SIZE);
	atomic_fetch_sub(&layer->users, 1);
	return r;
}

/* The tail stays where it is, so nothing that is found here is written over meanwhile. */
static int scrub_ring(struct scrub *s)
{
	struct fs *fs = s->fs;
	uint64_t upto = journal_last_seq(fs->journal);
	CLEANUP_FREE struct jentry *entries = NULL;
	struct journal_mark reached = fs->tail;
	size_t count = 0;
	int r;

	media_forget(fs->io, "journal/0");
	log_divert(ignore_message, NULL);
	r = journal_walk(fs->journal, fs->tail, upto + 1, count_record, &reached);
	log_divert(NULL, NULL);
	if (r == -ENOMEM)
		return r;
	if (r) {
		s->rewrite = true;
		r = scrub_repaired(s, &(struct about){.severity = CHECK_DAMAGE,
			.structure = "journal", .place = "journal/0",
			.offset = reached.pos % fs->super.journal_size},
			"record %" PRIu64 " is damaged; what it says is known still, and goes to its "
			"place", reached.seq);
	}
	if (!r)
		r = jindex_collect(fs->jindex, upto, &entries, &count);
	for (size_t i = 0; i < count && !r; i++)
		r = scrub_journaled_block(s, &entries[i]);
	s->report->bytes_read += journal_used(fs->journal);
	return r;
}

static int scrub_metadata(struct scrub *s)
{
	struct fs *fs = s->fs;
	int r = scrub_super(s);

	pthread_mutex_lock(&fs->checkpoint_lock);
	for (unsigned i = 0; i < 2 && !r; i++)
		r = scrub_catalog(s, i, i == fs->generation % 2);
	if (!r)
		r = scrub_maps(s);
	if (!r)
		r = scrub_ring(s);
	pthread_mutex_unlock(&fs->checkpoint_lock);
	/* Twice: each copy of the catalog, each slot of a page. */
	for (int i = 0; i < 2 && !r && s->rewrite && !fs_writable(fs); i++)
		checkpoint_run(fs);
	return r;
}

/* ---- the whole ---- */

static uint64_t bytes_to_read(struct fs *fs)
{
	struct layer_entry *entry, *next;
	struct golden *g, *next_golden;
	struct pool_figures pool;
	uint64_t bytes;

	pool_figures(fs->pool, &pool);
	bytes = pool.live_slots * GF_BLOCK_SIZE;
	pthread_rwlock_rdlock(&fs->tree);
	HASH_ITER (hh, fs->layers, entry, next)
		bytes += entry->layer->overlay_blocks * GF_BLOCK_SIZE;
	HASH_ITER (hh, fs->goldens, g, next_golden)
		if (!fs->options.golden_test)
			bytes += g->image.size;
	pthread_rwlock_unlock(&fs->tree);
	return bytes;
}

int scrub_run(struct fs *fs, const struct scrub_options *options, struct check_report *report)
{
	struct scrub s = {.fs = fs, .options = options, .report = report};
	int r;

	memset(report, 0, sizeof(*report));
	pace_init(&s.pace, fs, 0);
	s.check.report = report;
	s.checkpoints = atomic_load(&fs->counters.checkpoints);
	if (atomic_exchange(&fs->scrubbing, true))
		return -EBUSY;
	if (!fs->options.no_background)
		be_idle();
	s.total = bytes_to_read(fs);
	/* What waits in the journal is looked at there, and then in its place. */
	r = scrub_metadata(&s);
	if (!r && !fs_writable(fs))
		checkpoint_run(fs);
	if (!r)
		r = scrub_pool(&s);
	if (!r)
		r = scrub_layers(&s);
	if (!r)
		r = scrub_goldens(&s);
	slot_set_release(&s.bad_slots);
	atomic_store(&fs->scrubbing, false);
	damage_report(fs);
	return r;
}
