/* SPDX-License-Identifier: MIT */
/*
 * Making the content index of a golden image.
 *
 *   1. scan: the data of the image is read in pieces of 1 MiB, and the hash of each whole block
 *	that is not all zeros goes, with its number, into an array of at most 32 MiB
 *   2. a full array is sorted (the library takes as much again for that), what it holds twice is
 *	left out, and it is appended to the file of runs. A last or only one stays in memory
 *   3. the runs are merged into pages; of equal hashes the lowest block stays
 *   4. the pages are read once more, in their order, for the filter and the first hashes: only now
 *	is it known how many entries there are, and so how large the filter is to be
 *   5. the header is written last, the file synced, renamed, and its name synced
 *
 * Memory is bounded at every step: the largest image, 16 TiB, makes 2048 runs, of which 16 KiB each
 * are held while they are merged. What the temporary files hold is not checked when it is read
 * back, but for its order: whoever is led to a wrong block compares.
 */
#include "store/content_index.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/mutation.h"
#include "base/sizes.h"

#define PAGE sizeof(struct gf_disk_index_page)
#define READ_BYTES MIB
#define RUN_ENTRIES (32 * MIB / sizeof(struct content_entry))
#define MERGE_ENTRIES 1024u /* of each run in memory while merging */
#define OUT_BYTES (256 * KIB)

/* A sorted sequence of entries: in the file of runs, a piece of it in memory. */
struct run {
	uint64_t off;		 /* of what is not in memory yet, bytes in the file */
	uint64_t left;		 /* entries there */
	struct content_entry *entries; /* those in memory */
	size_t at, have;	 /* the next one, and how many there are */
};

/* A part of the new file that is written from its start to its end. */
struct out {
	uint8_t *buf;
	size_t used;
	uint64_t off; /* in the file, of what is in the buffer */
	struct hash_stream *sum;
};

struct build {
	const struct content_index_source *source;
	struct io *io;
	uint64_t done, total; /* bytes of data */
	struct content_entry *entries;
	size_t count, capacity;
	int runs_fd; /* -1: no run was written */
	uint64_t runs_end;
	struct run *runs;
	size_t run_count;
	struct run **heap; /* runs that have entries, the one with the lowest on top */
	size_t heap_count;
	int fd; /* of the new file */
	struct content_head head;
};

static int report(struct build *b)
{
	const struct content_index_source *s = b->source;

	return s->progress && s->progress(s->arg, b->done, b->total) ? -ECANCELED : 0;
}

/* ---- 1 and 2: hashes, in sorted runs ---- */

static int compare(const struct content_entry *a, const struct content_entry *b)
{
	if (a->hash != b->hash)
		return a->hash < b->hash ? -1 : 1;
	return a->block < b->block ? -1 : a->block > b->block;
}

static int compare_entries(const void *a, const void *b)
{
	return compare(a, b);
}

static void sort_entries(struct build *b)
{
	size_t kept = 0;

	qsort(b->entries, b->count, sizeof(*b->entries), compare_entries);
	for (size_t i = 0; i < b->count; i++)
		if (!kept || b->entries[i].hash != b->entries[kept - 1].hash)
			b->entries[kept++] = b->entries[i];
	b->count = kept;
}

static int add_run(struct build *b, const struct run *run)
{
	struct run *runs = realloc(b->runs, (b->run_count + 1) * sizeof(*runs));

	if (!runs)
		return -ENOMEM;
	b->runs = runs;
	b->runs[b->run_count++] = *run;
	return 0;
}

static int write_run(struct build *b)
{
	const uint64_t len = b->count * sizeof(*b->entries);
	char path[CONTENT_PATH_MAX];
	int r = 0;

	if (b->runs_fd < 0) {
		content_path(path, b->source->golden, CONTENT_FILE_RUNS);
		b->runs_fd = b->io->ops->open(b->io, path, O_RDWR | O_CREAT | O_EXCL);
	}
	if (b->runs_fd < 0)
		return b->runs_fd;
	r = io_pwrite(b->io, b->runs_fd, b->entries, len, b->runs_end);
	if (!r)
		r = add_run(b, &(struct run){.off = b->runs_end, .left = b->count});
	b->runs_end += len;
	b->count = 0;
	return r;
}

static int add_entry(struct build *b, const struct hash128 *hash, uint64_t block)
{
	int r = 0;

	if (b->count == b->capacity) {
		sort_entries(b);
		/* What is mostly the same over and over need not be written. */
		if (b->count > b->capacity / 2)
			r = write_run(b);
	}
	if (!r)
		b->entries[b->count++] = (struct content_entry){.hash = hash->high, .block = block};
	return r;
}

static int read_source(struct build *b, void *buf, size_t len, uint64_t off)
{
	struct image *image = b->source->image;

	return b->source->fd >= 0 ? fd_pread_past_cache(b->source->fd, buf, len, off) :
				    image->ops->read(image, buf, len, off);
}

/* Whole blocks; start and end are at the borders of blocks. */
static int scan_extent(struct build *b, uint8_t *buf, uint64_t start, uint64_t end)
{
	int r = 0;

	while (!r && start < end) {
		size_t len = (size_t)min_u64(READ_BYTES, end - start);

		r = read_source(b, buf, len, start);
		for (size_t i = 0; i < len && !r; i += GF_BLOCK_SIZE) {
			struct hash128 hash;

			if (is_zero(buf + i, GF_BLOCK_SIZE))
				continue;
			hash = hash_block128(b->source->secret, buf + i);
			hash_cut(&hash, b->source->hash_bits);
			r = add_entry(b, &hash, (start + i) / GF_BLOCK_SIZE);
		}
		start += len;
		b->done += len;
		if (!r)
			r = report(b);
	}
	return r;
}

/* Calls scan_extent() for each extent of data, or only adds them up when buf is NULL. */
static int for_each_extent(struct build *b, uint8_t *buf)
{
	struct image *image = b->source->image;
	const uint64_t whole = round_down(image->size, GF_BLOCK_SIZE);
	uint64_t pos = 0, start, end;
	int r = 0;

	while (!r && pos < whole) {
		r = image->ops->next_data(image, pos, &start, &end);
		if (r == -ENXIO)
			return 0;
		if (r)
			break;
		start = max_u64(pos, round_down(start, GF_BLOCK_SIZE));
		end = min_u64(whole, round_up(end, GF_BLOCK_SIZE));
		if (start >= end)
			break;
		if (buf)
			r = scan_extent(b, buf, start, end);
		else
			b->total += end - start;
		pos = end;
	}
	return r;
}

static int scan(struct build *b)
{
	CLEANUP_FREE uint8_t *buf = malloc(READ_BYTES);
	int r = buf ? for_each_extent(b, NULL) : -ENOMEM;

	b->capacity = b->source->run_entries ? b->source->run_entries : RUN_ENTRIES;
	/* A small image takes no more than it has blocks. */
	b->capacity = max_u64(2, min_u64(b->capacity, b->total / GF_BLOCK_SIZE));
	b->entries = malloc(b->capacity * sizeof(*b->entries));
	if (!r && !b->entries)
		r = -ENOMEM;
	if (!r)
		r = for_each_extent(b, buf);
	if (!r)
		sort_entries(b);
	if (r || !b->run_count)
		return r ? r : add_run(b, &(struct run){.entries = b->entries, .have = b->count});
	r = b->count ? write_run(b) : 0;
	free(steal_pointer(&b->entries));
	return r;
}

/* ---- 3: merging ---- */

static int run_fill(struct build *b, struct run *run)
{
	const size_t n = (size_t)min_u64(MERGE_ENTRIES, run->left);
	int r;

	if (!n)
		return 0;
	if (!run->entries)
		run->entries = malloc(MERGE_ENTRIES * sizeof(*run->entries));
	if (!run->entries)
		return -ENOMEM;
	r = io_pread_full(b->io, b->runs_fd, run->entries, n * sizeof(*run->entries), run->off);
	run->off += n * sizeof(*run->entries);
	run->left -= n;
	run->at = 0;
	run->have = n;
	return r;
}

static bool comes_before(const struct run *a, const struct run *b)
{
	return compare(&a->entries[a->at], &b->entries[b->at]) < 0;
}

static void heap_sink(struct build *b, size_t i)
{
	for (;;) {
		size_t least = i, child = 2 * i + 1;
		struct run *moved = b->heap[i];

		for (size_t end = child + 2; child < end && child < b->heap_count; child++)
			if (comes_before(b->heap[child], b->heap[least]))
				least = child;
		if (least == i)
			return;
		b->heap[i] = b->heap[least];
		b->heap[least] = moved;
		i = least;
	}
}

static int heap_make(struct build *b)
{
	int r = 0;

	b->heap = calloc(b->run_count, sizeof(*b->heap));
	if (!b->heap)
		return -ENOMEM;
	for (size_t i = 0; i < b->run_count && !r; i++) {
		struct run *run = &b->runs[i];

		r = run_fill(b, run);
		if (run->have)
			b->heap[b->heap_count++] = run;
	}
	for (size_t i = b->heap_count; i > 0 && !r; i--)
		heap_sink(b, i - 1);
	return r;
}

/* Takes the lowest entry of all. 1, 0: there is none, or -errno. */
static int heap_next(struct build *b, struct content_entry *entry)
{
	struct run *run;
	int r = 0;

	if (!b->heap_count)
		return 0;
	run = b->heap[0];
	*entry = run->entries[run->at++];
	if (run->at == run->have) {
		run->have = run->at = 0;
		r = run_fill(b, run);
	}
	if (!run->have)
		b->heap[0] = b->heap[--b->heap_count];
	if (b->heap_count)
		heap_sink(b, 0);
	return r ? r : 1;
}

static int out_init(struct out *out, uint64_t off)
{
	*out = (struct out){.off = off, .buf = malloc(OUT_BYTES), .sum = hash_stream_new()};
	return out->buf && out->sum ? 0 : -ENOMEM;
}

static void out_release(struct out *out)
{
	free(out->buf);
	if (out->sum)
		hash_stream_free(out->sum);
}

static int out_flush(struct build *b, struct out *out)
{
	int r = out->used ? io_pwrite(b->io, b->fd, out->buf, out->used, out->off) : 0;

	hash_stream_add(out->sum, out->buf, out->used);
	out->off += out->used;
	out->used = 0;
	return r;
}

/* len divides OUT_BYTES. */
static int out_add(struct build *b, struct out *out, const void *bytes, size_t len)
{
	memcpy(out->buf + out->used, bytes, len);
	out->used += len;
	return out->used == OUT_BYTES ? out_flush(b, out) : 0;
}

static int add_page(struct build *b, struct out *out, const struct content_entry *entries,
	unsigned count)
{
	struct gf_disk_index_page page;
	int r;

	content_page_encode(entries, count, b->head.count / GF_INDEX_PAGE_ENTRIES, &page);
	b->head.count += count;
	r = out_add(b, out, &page, sizeof(page));
	return r || out->used ? r : report(b); /* now and then */
}

static int merge_into(struct build *b, struct out *out)
{
	struct content_entry entries[GF_INDEX_PAGE_ENTRIES], next;
	uint64_t last = 0;
	unsigned n = 0;
	bool any = false;
	int r;

	while ((r = heap_next(b, &next)) > 0) {
		if (any && next.hash == last)
			continue;
		if (any && next.hash < last)
			return -EIO; /* not what was written */
		if (n == GF_INDEX_PAGE_ENTRIES) {
			r = add_page(b, out, entries, n);
			if (r)
				return r;
			n = 0;
		}
		entries[n++] = next;
		last = next.hash;
		any = true;
	}
	if (!r && n)
		r = add_page(b, out, entries, n);
	return r ? r : out_flush(b, out);
}

static int merge(struct build *b)
{
	struct out out;
	int r = out_init(&out, PAGE);

	if (!r)
		r = heap_make(b);
	if (!r)
		r = merge_into(b, &out);
	out_release(&out);
	if (!r)
		content_head_count(&b->head, b->head.count);
	return r;
}

/* ---- 4: what is held in memory of an open index ---- */

/* The filter while it is written: blocks before `place` are. */
struct filter {
	struct out out;
	uint32_t block[GF_INDEX_FILTER_WORDS];
	uint64_t place;
};

static int filter_upto(struct build *b, struct filter *filter, uint64_t place)
{
	int r = 0;

	while (!r && filter->place < place) {
		r = out_add(b, &filter->out, filter->block, sizeof(filter->block));
		memset(filter->block, 0, sizeof(filter->block));
		filter->place++;
	}
	return r;
}

static int filter_page(struct build *b, struct filter *filter, const struct content_entry *entries,
	int count)
{
	int r = 0;

	for (int i = 0; i < count && !r; i++) {
		r = filter_upto(b, filter,
			content_filter_block(entries[i].hash, b->head.filter_blocks));
		content_filter_set(filter->block, entries[i].hash);
	}
	return r;
}

static int summarize_pages(struct build *b, struct filter *filter, struct out *firsts)
{
	CLEANUP_FREE uint8_t *buf = malloc(OUT_BYTES);
	struct content_entry entries[GF_INDEX_PAGE_ENTRIES];
	int r = buf ? 0 : -ENOMEM;

	for (uint64_t i = 0; i < b->head.pages && !r; i++) {
		const size_t in = i * PAGE % OUT_BYTES;
		int n;

		if (!in)
			r = report(b);
		if (!in && !r)
			r = io_pread_full(b->io, b->fd, buf, OUT_BYTES, (1 + i) * PAGE);
		n = r ? r : content_page_decode(buf + in, &b->head, i, entries);
		r = n < 0 ? n : filter_page(b, filter, entries, n);
		if (!r)
			r = out_add(b, firsts, &entries[0].hash, sizeof(entries[0].hash));
	}
	if (!r)
		r = filter_upto(b, filter, b->head.filter_blocks);
	if (!r)
		r = out_flush(b, &filter->out);
	return r ? r : out_flush(b, firsts);
}

static int summarize(struct build *b)
{
	struct filter filter = {.place = 0};
	struct out firsts = {.buf = NULL};
	int r = out_init(&filter.out, content_filter_offset(&b->head));

	if (!r)
		r = out_init(&firsts, content_firsts_offset(&b->head));
	if (!r)
		r = summarize_pages(b, &filter, &firsts);
	if (!r) {
		b->head.filter_sum = hash_stream_value(filter.out.sum);
		b->head.firsts_sum = hash_stream_value(firsts.sum);
	}
	out_release(&filter.out);
	out_release(&firsts);
	return r;
}

/* ---- 5: the whole ---- */

static int pass(void *arg, const char *name)
{
	return 0;
}

static int make_folder(struct io *io)
{
	int r = io->ops->list(io, "index", pass, NULL);

	if (r != -ENOENT)
		return r;
	r = io->ops->mkdir(io, "index");
	return r ? r : SITE("index: sync the folder's name", io->ops->syncdir(io, "."));
}

static int publish(struct build *b, const char *tmp)
{
	struct gf_disk_index disk;
	uint8_t first[PAGE] = {0};
	char path[CONTENT_PATH_MAX];
	int r;

	content_path(path, b->source->golden, CONTENT_FILE);
	content_head_encode(&b->head, b->source->secret, &disk);
	memcpy(first, &disk, sizeof(disk));
	r = io_pwrite(b->io, b->fd, first, sizeof(first), 0);
	if (!r)
		r = SITE("index: sync it before it gets its name",
			b->io->ops->fdatasync(b->io, b->fd));
	if (!r)
		r = SITE("index: give it its name", b->io->ops->rename(b->io, tmp, path));
	return r ? r : SITE("index: sync its name", b->io->ops->syncdir(b->io, "index"));
}

static int write_file(struct build *b)
{
	char tmp[CONTENT_PATH_MAX];
	int r;

	content_path(tmp, b->source->golden, CONTENT_FILE_TMP);
	b->fd = b->io->ops->open(b->io, tmp, O_RDWR | O_CREAT | O_EXCL);
	if (b->fd < 0)
		return b->fd;
	r = merge(b);
	if (!r)
		r = summarize(b);
	return r ? r : publish(b, tmp);
}

static void build_release(struct build *b)
{
	for (size_t i = 0; i < b->run_count; i++)
		if (b->runs[i].entries != b->entries)
			free(b->runs[i].entries);
	free(b->runs);
	free(b->heap);
	free(b->entries);
	if (b->runs_fd >= 0)
		b->io->ops->close(b->io, b->runs_fd);
	if (b->fd >= 0)
		b->io->ops->close(b->io, b->fd);
	content_index_drop_unfinished(b->io, b->source->golden);
}

int content_index_build(const struct content_index_source *source)
{
	struct build b = {
		.source = source,
		.io = source->io,
		.runs_fd = -1,
		.fd = -1,
		.head = {.golden = source->golden, .print = *source->print},
	};
	int r;

	if (source->image->size != source->print->size)
		return -ESTALE;
	r = source->image->size > GF_MAX_SIZE ? -EFBIG : make_folder(source->io);
	if (r)
		return r;
	content_index_drop_unfinished(source->io, source->golden);
	r = scan(&b);
	if (!r)
		r = write_file(&b);
	build_release(&b);
	return r;
}
