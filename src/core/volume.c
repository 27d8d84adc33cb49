/* SPDX-License-Identifier: MIT */
/*
 * The content of one clone: reading and writing any range of bytes.
 *
 * A read resolves blocks to places (golden image, layer file, journal, zeros) and reads them; it
 * takes no lock over the reading, but announces itself to fs.readers.
 *
 * A write is cut into at most three parts: whole blocks in the middle when there are many of them
 * (the large part, which goes straight to the layer's file), and the rest, which is merged to whole
 * blocks and appended to the journal with its bytes. All parts stand in one record.
 *
 * Order of a large write, the numbers as in man/goldfs-architecture.7:
 *   1. regions whose blocks will be overwritten in place carry a durable intent mark
 *   2. the record that announces the blocks with their checksums is in the page cache
 *   3. the bytes go to their place
 *   4. the blocks become OVERLAY in memory; the write is acknowledged
 *   5. flush: the layer's file is synced, the commit record appended, the journal synced
 */
#include "core/fs_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/invariant.h"
#include "base/log.h"
#include "base/mutation.h"
#include "base/sizes.h"
#include "base/times.h"
#include "core/dedup.h"
#include "core/recast.h"
#include "store/pool.h"
#include "store/runs.h"

#define LARGE_BLOCKS 16	   /* whole blocks from which on a write is large (64 KiB) */
#define MARK_REGIONS 16	   /* an intent mark covers no more than this (512 MiB) */
#define PLACED_SMALL (16 * KIB) /* what a small write in place counts as, in LARGE_SYNC_BYTES */
/* Uncommitted bytes that a mount may have to look at when nobody took over: each block of them once, from
 * the page cache or, after a power loss, from the disk. (A takeover looks at what was on its way only.) Less
 * would be soonest reached by who overwrites the same blocks, and each sync stands in his way: with 4 GiB
 * a guest that writes megabytes without an end waited for one every second. */
#define LARGE_SYNC_BYTES (16 * GIB)
#define MAX_PIECE MIB /* of a write, at once */
/* Page caches keep what was written at once as one piece, of which every later write to it walks all
 * blocks, while large ones pay for every piece. On ext4, 4 KiB into pieces of 16 KiB, 32, 64, 256 and a MiB:
 * 2.7 us, 2.8, 3.8, 4.5 and 11; a MiB: 128 us, 106, 98, 83 and 84. */
#define GUEST_AT_ONCE (256 * KIB)
#define COPY_AT_ONCE (32 * KIB) /* behind a guest */
#define READ_FAILURES_LOGGED 1000

/* ---- reading ---- */

/* Returns how many blocks, from the first on, were read: not all, when what is checked moved. */
static int64_t read_extent(struct fs *fs, const struct extent *x, void *buf, uint64_t block,
	unsigned how)
{
	size_t len = x->count * GF_BLOCK_SIZE;
	uint64_t off = block * GF_BLOCK_SIZE;
	int64_t n = x->count;
	int r = 0;

	switch (x->kind) {
	case EXTENT_ZERO:
		memset(buf, 0, len);
		return n;
	case EXTENT_IMAGE:
		r = x->image->ops->read(x->image, buf, len, off);
		break;
	case EXTENT_DATA:
		r = layer_read_data(x->layer, buf, len, off);
		break;
	case EXTENT_JOURNAL:
		INVARIANT(2, journal_holds(fs->journal, x->pos, len));
		r = journal_read(fs->journal, x->pos, buf, len);
		break;
	case EXTENT_POOL:
		r = pool_read(fs->pool, x->pos, buf, x->count);
		break;
	case EXTENT_GOLDEN:
		r = x->image->ops->read(x->image, buf, len, x->pos * GF_BLOCK_SIZE);
		break;
	}
	if (!r && (how & READ_CHECKED))
		n = verify_extent(fs, x, buf, block, how & READ_HELD);
	if (!r && n >= 0 && off + len > x->limit)
		memset((uint8_t *)buf + (x->limit - off), 0, off + len - x->limit);
	return r ? r : n;
}

/* The caller is announced in fs.readers. */
int volume_read_blocks(struct fs *fs, struct layer *layer, void *buf, uint64_t block,
	uint64_t count, unsigned how)
{
	if (fs->options.verify_reads)
		how |= READ_CHECKED;
	while (count) {
		struct extent x;
		int64_t n = layer_resolve(layer, block, count, how & READ_BELOW, &x);

		if (!n)
			n = read_extent(fs, &x, buf, block,
				x.layer == layer ? how : how & ~(unsigned)READ_HELD);
		if (n < 0) {
			COUNT(fs, errors, 1);
			return (int)n;
		}
		buf = (uint8_t *)buf + n * GF_BLOCK_SIZE;
		block += (uint64_t)n;
		count -= (uint64_t)n;
	}
	return 0;
}

/* A range of bytes that starts or ends within blocks. */
static int read_bytes(struct fs *fs, struct layer *layer, uint8_t *buf, size_t len, uint64_t off)
{
	uint8_t edge[GF_BLOCK_SIZE];

	while (len) {
		uint64_t block = off / GF_BLOCK_SIZE;
		size_t skip = off % GF_BLOCK_SIZE, n;
		int r;

		if (skip == 0 && len >= GF_BLOCK_SIZE) {
			n = round_down(len, GF_BLOCK_SIZE);
			r = volume_read_blocks(fs, layer, buf, block, n / GF_BLOCK_SIZE, 0);
		} else {
			n = min_u64(len, GF_BLOCK_SIZE - skip);
			r = volume_read_blocks(fs, layer, edge, block, 1, 0);
			memcpy(buf, edge + skip, n);
		}
		if (r)
			return r;
		buf += n;
		off += n;
		len -= n;
	}
	return 0;
}

/* The inode when it is a file with content of its own, else NULL and *error. */
struct inode *volume_find(struct fs *fs, uint64_t ino, int *error)
{
	struct inode *inode;

	pthread_rwlock_rdlock(&fs->tree);
	inode = tree_find(fs, ino);
	pthread_rwlock_unlock(&fs->tree);
	*error = !inode ? -ESTALE : S_ISDIR(inode->mode) ? -EISDIR : 0;
	if (!*error && !S_ISREG(inode->mode))
		*error = -EINVAL;
	return *error ? NULL : inode;
}

int volume_error(struct fs *fs, int error)
{
	damage_report(fs);
	return error == -EUCLEAN || error == -ESTALE ? -EIO : error;
}

int volume_read_failed(struct fs *fs, uint64_t ino, size_t len, uint64_t off, int r)
{
	CLEANUP_FREE char *path = NULL;

	/* A guest may try for ever. */
	if (r != -EUCLEAN && atomic_fetch_add(&fs->read_failures, 1) < READ_FAILURES_LOGGED &&
		fs_path(fs, ino, &path) == 0)
		log_error(r, "cannot read %zu bytes at %llu of \"%s\"; look at the disk below",
			len, (unsigned long long)off, path);
	return volume_error(fs, r);
}

static ssize_t read_file(struct fs *fs, struct inode *inode, void *buf, size_t len, uint64_t off)
{
	uint64_t size = atomic_load(&inode->size);
	unsigned token;
	int r;

	if (off >= size)
		return 0;
	len = min_u64(len, size - off);
	token = drain_enter(&fs->readers);
	r = read_bytes(fs, atomic_load(&inode->layer), buf, len, off);
	drain_leave(&fs->readers, token);
	if (r)
		return volume_read_failed(fs, inode->ino, len, off, r);
	COUNT(fs, read_bytes, len);
	return len;
}

ssize_t fs_read(struct fs *fs, uint64_t ino, void *buf, size_t len, uint64_t off)
{
	struct inode *inode;
	int64_t start;
	ssize_t n;
	int r;

	inode = volume_find(fs, ino, &r);
	if (!inode)
		return r;
	COUNT(fs, read_ops, 1);
	if (inode->kind == GF_KIND_GOLDEN)
		return golden_read(fs, inode, buf, len, off);
	start = times_now(CLOCK_MONOTONIC);
	n = read_file(fs, inode, buf, len, off);
	io_stats_note(inode, FS_IO_READ, start, n);
	return n;
}

int volume_writable(struct inode *inode)
{
	return atomic_load(&atomic_load(&inode->layer)->failed) ? -EIO : 0;
}

/* ---- writing: preparing ---- */

/* One write on its way. Blocks [first, large_first) and [large_last, end) are journaled. */
struct job {
	struct fs *fs;
	struct inode *inode; /* NULL: blocks only go elsewhere */
	struct layer *layer;
	const uint8_t *data;
	size_t len;
	uint64_t off;
	uint64_t first, large_first, large_last, end; /* blocks */
	uint8_t *head;	     /* merged first block, when partial; 4096 bytes */
	uint8_t *tail;	     /* merged last block, when partial and another than the first */
	uint32_t *sums;	     /* of the large part */
	struct hash128 *hashes; /* of the large part, where it is OVERLAY at first */
	uint8_t *kinds;	     /* of the large part: enum gf_state each block gets */
	uint64_t *places; /* of the large part: where SHARED ones stand */
	bool settled;	     /* references to the places are the layer's */
	bool on_recovered;   /* what recovery found in place kept it in the ring */
	struct opbuf ops;
	int64_t time_ns;
	uint64_t size; /* of the file afterwards */
	bool marked; /* or fresh, when needs_mark() looked last: marks of others come all the time */
	bool announced; /* the record is in the page cache */
	bool placed;	/* and so is the large part */
};

static void job_release(struct job *job)
{
	for (uint64_t i = 0; job->places && !job->settled && i < job->large_last - job->large_first; i++)
		if (job->places[i])
			layer_unref_place(job->layer, job->places[i]);
	free(job->head);
	free(job->tail);
	free(job->sums);
	free(job->hashes);
	free(job->kinds);
	free(job->places);
	opbuf_release(&job->ops);
}

/* large_from: so many whole blocks are the large part. */
static void job_cut(struct job *job, uint64_t large_from)
{
	uint64_t whole_first = round_up(job->off, GF_BLOCK_SIZE) / GF_BLOCK_SIZE;
	uint64_t whole_last = (job->off + job->len) / GF_BLOCK_SIZE;

	job->first = job->off / GF_BLOCK_SIZE;
	job->end = round_up(job->off + job->len, GF_BLOCK_SIZE) / GF_BLOCK_SIZE;
	if (whole_last >= whole_first + large_from) {
		job->large_first = whole_first;
		job->large_last = whole_last;
	} else {
		job->large_first = job->end;
		job->large_last = job->end;
	}
}

/* Where the caller's byte for guest offset `at` is. */
static const uint8_t *job_bytes(const struct job *job, uint64_t at)
{
	return job->data + (at - job->off);
}

/* The merged content of a block of which only a part is written. */
static int merge_block(struct job *job, uint64_t block, uint8_t **merged)
{
	uint64_t start = max_u64(job->off, block * GF_BLOCK_SIZE);
	uint64_t stop = min_u64(job->off + job->len, (block + 1) * GF_BLOCK_SIZE);
	unsigned token;
	int r;

	*merged = malloc(GF_BLOCK_SIZE);
	if (!*merged)
		return -ENOMEM;
	token = drain_enter(&job->fs->readers);
	/* Always checked: the rest of the block gets a new checksum, and must not get it wrongly. */
	r = volume_read_blocks(
		job->fs, job->layer, *merged, block, 1, READ_HELD | READ_CHECKED);
	drain_leave(&job->fs->readers, token);
	memcpy(*merged + start % GF_BLOCK_SIZE, job_bytes(job, start), stop - start);
	return r;
}

static int job_merge(struct job *job)
{
	uint64_t stop = job->off + job->len;
	bool head_partial = job->off % GF_BLOCK_SIZE || stop < (job->first + 1) * GF_BLOCK_SIZE;
	int r = 0;

	if (head_partial)
		r = merge_block(job, job->first, &job->head);
	if (!r && stop % GF_BLOCK_SIZE && (job->end - 1 != job->first || !head_partial))
		r = merge_block(job, job->end - 1, &job->tail);
	return r;
}

/* may: the blocks for which *below says what stands below; lent to the caller, who frees it. */
static int job_read_below(struct job *job, bool *may, uint8_t **below)
{
	const struct below blocks = {.block = job->large_first,
		.count = job->large_last - job->large_first,
		.data = job_bytes(job, job->large_first * GF_BLOCK_SIZE), .hashes = job->hashes,
		.may = may};
	int r;

	memset(may, true, blocks.count * sizeof(*may));
	if (!below_may_be_same(job->fs, job->layer, &blocks))
		return 0;
	*below = malloc(blocks.count * GF_BLOCK_SIZE);
	if (!*below)
		return -ENOMEM;
	r = below_read(job->fs, job->layer, &blocks, *below);
	/* What is damaged below is shared with nobody. */
	if (r)
		memset(may, 0, blocks.count * sizeof(*may));
	return r == -EUCLEAN ? 0 : r;
}

/* What the large part's blocks become: zeros and what equals the content below are not stored. */
static int job_classify(struct job *job)
{
	uint64_t count = job->large_last - job->large_first;
	static const uint8_t zeros[GF_BLOCK_SIZE];
	const uint8_t *data = job_bytes(job, job->large_first * GF_BLOCK_SIZE);
	struct layer *layer = job->layer;
	CLEANUP_FREE uint8_t *below = NULL;
	bool may[MAX_PIECE / GF_BLOCK_SIZE] = {false};
	bool has_below, keeps = atomic_load(&layer->keeps);
	int r;

	job->sums = malloc(count * sizeof(*job->sums));
	job->hashes = calloc(count, sizeof(*job->hashes));
	job->kinds = malloc(count);
	if (!job->sums || !job->hashes || !job->kinds)
		return -ENOMEM;
	for (uint64_t i = 0; i < count; i++) {
		const uint8_t *block = data + i * GF_BLOCK_SIZE;

		job->kinds[i] = is_zero(block, GF_BLOCK_SIZE) ? GF_ZERO : GF_OVERLAY;
		if (job->kinds[i] == GF_OVERLAY)
			job->hashes[i] = hash_block128(job->fs->super.secret, block);
		job->sums[i] = hash_sum(&job->hashes[i]);
	}
	has_below = (layer->parent || layer->image) &&
		    job->large_first * GF_BLOCK_SIZE < layer->bound;
	if (has_below && !keeps) {
		r = job_read_below(job, may, &below);
		if (r)
			return r;
	}
	for (uint64_t i = 0; i < count; i++) {
		const uint8_t *block = data + i * GF_BLOCK_SIZE;

		if (may[i] && (memcmp(block, below + i * GF_BLOCK_SIZE, GF_BLOCK_SIZE) == 0 ||
				      MUTATED("a large write is shared without comparing")))
			job->kinds[i] = GF_PARENT;
		else if (job->kinds[i] == GF_ZERO && !has_below && !keeps)
			job->kinds[i] = GF_PARENT;
		INVARIANT(5, job->kinds[i] != GF_PARENT ||
			memcmp(block, has_below ? below + i * GF_BLOCK_SIZE : zeros,
				GF_BLOCK_SIZE) == 0);
	}
	return 0;
}

/* Of what would be stored, what stands somewhere already. */
static int job_share(struct job *job)
{
	uint64_t count = job->large_last - job->large_first;
	const uint8_t *data = job_bytes(job, job->large_first * GF_BLOCK_SIZE);
	struct dedup d;

	dedup_begin(&d, job->fs, job->layer, job->first, job->end - 1);
	if (!d.enabled)
		return 0;
	if (!job->places)
		job->places = calloc(count, sizeof(*job->places));
	if (!job->places)
		return -ENOMEM;
	for (uint64_t i = 0; i < count; i++) {
		dedup_expect(&d, job->hashes, i, count);
		if (job->kinds[i] == GF_OVERLAY &&
			dedup_find(&d, data + i * GF_BLOCK_SIZE, &job->hashes[i], &job->places[i]))
			job->kinds[i] = GF_SHARED;
	}
	dedup_end(&d);
	return 0;
}

/* ---- writing: the record ---- */

/* Length of the run of equal kinds at i; of SHARED ones, as far as they follow each other in their
 * place. */
static uint64_t kind_run(const struct job *job, uint64_t i, uint64_t count)
{
	uint64_t n = 1;

	while (i + n < count && job->kinds[i + n] == job->kinds[i] &&
		(job->kinds[i] != GF_SHARED ||
			place_follows(job->places[i + n - 1], job->places[i + n])))
		n++;
	return n;
}

/* The file whose size and times change. */
static uint64_t job_ino(const struct job *job)
{
	return job->inode ? job->inode->ino : 0;
}

static void add_share_op(struct job *job, uint64_t i, uint64_t n)
{
	struct gf_op_share *op;

	if (!OPBUF_ADD(&job->ops, GF_OP_SHARE, 0, op, n * sizeof(uint32_t)))
		return;
	op->blocks.ino = job_ino(job);
	op->blocks.layer = job->layer->id;
	op->blocks.block = job->large_first + i;
	op->blocks.count = n;
	op->blocks.size = job->size;
	op->blocks.time_ns = job->time_ns;
	op->place = job->places[i];
	memcpy(op + 1, job->sums + i, n * sizeof(uint32_t));
}

static void add_large_op(struct job *job, uint64_t i, uint64_t n)
{
	struct gf_op_blocks *op;

	if (!OPBUF_ADD(&job->ops, GF_OP_LARGE, 0, op, n * sizeof(uint32_t)))
		return;
	op->ino = job_ino(job);
	op->layer = job->layer->id;
	op->block = job->large_first + i;
	op->count = n;
	op->size = job->size;
	op->time_ns = job->time_ns;
	memcpy(op + 1, job->sums + i, n * sizeof(uint32_t));
}

static void add_clear_op(struct job *job, uint64_t i, uint64_t n)
{
	struct gf_op_clear *op;

	if (!OPBUF_ADD(&job->ops, GF_OP_CLEAR, job->kinds[i], op, 0))
		return;
	op->ino = job_ino(job);
	op->layer = job->layer->id;
	op->block = job->large_first + i;
	op->count = n;
	op->time_ns = job->time_ns;
}

/* Room for count journaled blocks from `block` on; the bytes are filled in by the caller. */
static uint8_t *add_write_op(struct job *job, uint64_t block, uint64_t count)
{
	struct gf_op_blocks *op;

	if (!OPBUF_ADD(&job->ops, GF_OP_WRITE, 0, op, count * GF_BLOCK_SIZE))
		return NULL;
	op->ino = job_ino(job);
	op->layer = job->layer->id;
	op->block = block;
	op->count = count;
	op->size = job->size;
	op->time_ns = job->time_ns;
	return (uint8_t *)(op + 1);
}

/* Journaled blocks [first, end): merged edges, whole blocks from the caller's buffer. */
static void add_small_part(struct job *job, uint64_t first, uint64_t end)
{
	uint8_t *to;

	if (first >= end)
		return;
	to = add_write_op(job, first, end - first);
	for (uint64_t b = first; to && b < end; b++, to += GF_BLOCK_SIZE) {
		const uint8_t *from = b == job->first && job->head ? job->head :
			b == job->end - 1 && job->tail ? job->tail :
			job_bytes(job, b * GF_BLOCK_SIZE);

		memcpy(to, from, GF_BLOCK_SIZE);
	}
}

/* Whether the ops of the large part say how long the file is. */
static bool carries_size(const struct job *job)
{
	for (uint64_t i = 0; i < job->large_last - job->large_first; i++)
		if (job->kinds[i] == GF_OVERLAY || job->kinds[i] == GF_SHARED)
			return true;
	return false;
}

static int job_build(struct job *job)
{
	uint64_t count = job->large_last - job->large_first, n;

	add_small_part(job, job->first, job->large_first);
	/* What is all zeros or all parent still has to grow the file, and its ops carry no size. */
	if (job->inode && !job->ops.len && !carries_size(job))
		add_write_op(job, job->first, 0);
	for (uint64_t i = 0; i < count; i += n) {
		n = kind_run(job, i, count);
		if (job->kinds[i] == GF_OVERLAY)
			add_large_op(job, i, n);
		else if (job->kinds[i] == GF_SHARED)
			add_share_op(job, i, n);
		else
			add_clear_op(job, i, n);
	}
	add_small_part(job, job->large_last, job->end);
	return job->ops.failed ? -ENOMEM : 0;
}

/* An upper bound of the ops that a write of len bytes needs. */
static size_t ops_bound(size_t len)
{
	size_t blocks = len / GF_BLOCK_SIZE + 2;

	/* A write that begins and ends within blocks has up to two whole blocks less. */
	if (blocks < LARGE_BLOCKS + 3)
		return sizeof(struct gf_op_blocks) + blocks * GF_BLOCK_SIZE;
	return 4 * (sizeof(struct gf_op_blocks) + GF_BLOCK_SIZE) +
	       blocks * (sizeof(struct gf_op_share) + 8);
}

/* ---- writing: carrying out ---- */

static bool has_marks(const struct job *job)
{
	return layer_is_marked(
		job->layer, job->large_first, job->large_last - job->large_first);
}

/* What a power loss may leave old or new is known to be so. Somebody else's mark may not be durable yet. */
static bool is_marked_or_fresh(const struct job *job)
{
	struct journal *journal = job->fs->journal;

	return (has_marks(job) && (journal_is_durable(journal, atomic_load(&job->layer->mark_seq)) ||
					  MUTATED("rely on a mark that is not durable"))) ||
	       !layer_may_be_in_place(
		       job->layer, job->large_first, job->large_last - job->large_first);
}

/* Whether blocks may be overwritten in place in a region without an intent mark. */
static bool needs_mark(struct job *job)
{
	if (job->large_last == job->large_first)
		return false;
	job->marked = is_marked_or_fresh(job);
	return !job->marked && !MUTATED("overwrite in place without an intent mark");
}

/* As many regions as are marked already: after a power loss little is suspect where little was
 * overwritten, and who overwrites everything does not wait for many marks. */
static uint32_t regions_to_mark(const struct job *job)
{
	uint32_t needed = (job->large_last - 1) / GF_REGION_BLOCKS -
			  job->large_first / GF_REGION_BLOCKS + 1;

	return max_u64(needed, min_u64(layer_count_marks(job->layer), MARK_REGIONS));
}

static int record_marks(const struct job *job)
{
	struct gf_op_intent *op;
	struct opbuf buf;
	int r;

	opbuf_init(&buf);
	if (OPBUF_ADD(&buf, GF_OP_INTENT, 0, op, 0)) {
		op->layer = job->layer->id;
		op->region = job->large_first / GF_REGION_BLOCKS;
		op->count = regions_to_mark(job);
	}
	r = record_commit(job->fs, &buf, NULL);
	opbuf_release(&buf);
	return r;
}

/* Step 1: intent marks, durable before the first overwrite in place. */
static int mark_intent(struct job *job)
{
	int r = 0;

	if (!needs_mark(job))
		return 0;
	if (!has_marks(job))
		r = record_marks(job);
	return r ? r : SITE("intent mark: sync the journal",
		journal_sync(job->fs->journal, atomic_load(&job->layer->mark_seq)));
}

/* Step 3 for one run of blocks that are to be OVERLAY. */
static int place_run(struct job *job, uint64_t i, uint64_t n)
{
	uint64_t block = job->large_first + i, at = block * GF_BLOCK_SIZE;
	size_t piece = job->inode ? GUEST_AT_ONCE : COPY_AT_ONCE, len;
	int r = 0;

	INVARIANT(2, job->announced);
	for (uint64_t left = n * GF_BLOCK_SIZE; left && !r; left -= len, at += len) {
		len = min_u64(left, piece);
		r = layer_write_data(job->layer, job_bytes(job, at), len, at);
	}
	if (!r)
		r = SITE("a large write: its checksums",
			layer_write_sums(job->layer, block, job->sums + i, n));
	COUNT(job->fs, large_write_bytes, n * GF_BLOCK_SIZE);
	return r;
}

/* When space is short: what the write will need, so that it fails before it is announced. */
static int get_space(struct job *job)
{
	uint64_t count = job->large_last - job->large_first, n;
	int r = 0;

	if (!count || !space_is_tight(job->fs))
		return 0;
	for (uint64_t i = 0; i < count && !r; i += n) {
		n = kind_run(job, i, count);
		if (job->kinds[i] == GF_OVERLAY)
			r = layer_allocate(job->layer, job->large_first + i, n);
	}
	return r;
}

static int place_large(struct job *job)
{
	uint64_t count = job->large_last - job->large_first, n;
	int r = 0;

	for (uint64_t i = 0; i < count && !r; i += n) {
		n = kind_run(job, i, count);
		if (job->kinds[i] == GF_OVERLAY)
			r = place_run(job, i, n);
	}
	return r;
}

static void suspect_large(const struct job *job)
{
	uint32_t first = job->large_first / GF_REGION_BLOCKS;
	uint32_t last = (job->large_last - 1) / GF_REGION_BLOCKS;

	if (layer_set_suspect(job->layer, first, last - first + 1))
		fs_fail(job->fs, -ENOMEM);
}

/* Step 4: states in memory, also of the journaled parts. */
static int settle_states(struct job *job, uint64_t seq, uint64_t ops_pos)
{
	uint64_t count = job->large_last - job->large_first, n;
	const struct gf_disk_op *op;
	size_t pos = 0, at = 0;
	int r = 0, error;

	while ((op = ops_next(job->ops.bytes, job->ops.len, &pos, &error)) != NULL && !r) {
		const struct gf_op_blocks *blocks = (const void *)op;

		INVARIANT(4, op->type != GF_OP_WRITE ||
			layer_is_newest(job->layer, blocks->block, blocks->count, seq));
		if (op->type == GF_OP_WRITE && blocks->count)
			r = layer_set_journaled(job->layer, blocks->block, blocks->count,
				ops_pos + at + sizeof(*blocks), seq, blocks + 1);
		at = pos;
	}
	for (uint64_t i = 0; i < count && !r; i += n) {
		n = kind_run(job, i, count);
		INVARIANT(2, job->placed);
		if (job->kinds[i] == GF_SHARED)
			r = dedup_set_shared(job->fs, job->layer, job->large_first + i, n,
				job->places + i);
		else
			r = layer_set_state(job->layer, job->large_first + i, n, job->kinds[i]);
		if (job->kinds[i] == GF_OVERLAY)
			dedup_note(job->fs, job->layer, job->large_first + i, job->hashes + i, n);
		if (job->kinds[i] == GF_OVERLAY)
			dedup_owe(job->fs, job->layer, job->large_first + i, n);
		if (job->kinds[i] == GF_ZERO)
			COUNT(job->fs, zero_blocks, n);
		else if (job->kinds[i] == GF_PARENT)
			COUNT(job->fs, parent_blocks, n);
	}
	return r;
}

static void settle_attributes(struct job *job)
{
	struct inode *inode = job->inode;
	uint64_t old = atomic_load(&inode->size);

	while (old < job->size && !atomic_compare_exchange_weak(&inode->size, &old, job->size))
		;
	MUTEX_GUARD(&inode->lock);
	inode->mtime_ns = job->time_ns;
	inode->ctime_ns = job->time_ns;
}

/* Steps 2 to 4, under the gate: the checkpoint's picture has all of it or nothing. */
static int job_commit_locked(struct job *job)
{
	struct iovec iov = {.iov_base = job->ops.bytes, .iov_len = job->ops.len};
	struct in_flight *in_flight = job->fs->options.in_flight;
	struct large_ticket ticket;
	bool large = job->large_last > job->large_first;
	uint64_t seq = 0, ops_pos, lower;
	unsigned entry = 0;
	int r;

	INVARIANT(3, !job->inode || job->layer->head_of == job->inode->ino);
	INVARIANT(2, rangelock_covers(&job->layer->ranges, job->first, job->end - 1));
	INVARIANT(2, !large || job->marked);
	if (large) {
		layer_use_marks(job->layer, job->large_first, job->large_last - job->large_first);
		lower = journal_last_seq(job->fs->journal) + 1;
		layer_large_begin(job->layer, &ticket, lower);
		entry = in_flight_begin(MUTATED("a successor is not told of large writes on their way") ?
						NULL : in_flight, lower);
	}
	if (large && MUTATED("bytes of a large write before its announcement"))
		place_large(job);
	if (large && MUTATED("blocks of a large write OVERLAY before the bytes"))
		settle_states(job, journal_last_seq(job->fs->journal) + 1, 0);
	r = journal_append(job->fs->journal, &iov, 1, &seq, &ops_pos);
	job->announced = !r;
	if (!r && large) {
		r = place_large(job);
		job->placed = !r;
		/* Some blocks may be new and their checksums old, or half of both. */
		if (r)
			suspect_large(job);
	}
	if (large) {
		layer_large_end(job->layer, &ticket, seq, r == 0);
		/* Without a record there is nothing to be told of. */
		in_flight_end(in_flight, entry, r == 0 || !seq, journal_last_seq(job->fs->journal) + 1);
	}
	if (r && r != -ENOSPC && !is_passing(r) && seq)
		layer_fail(job->fs, job->layer, r, "write the data");
	if (r && large && seq)
		undo_large(job->fs, &(struct undo){.layer = job->layer, .seq = seq, .block = job->first,
			.end = job->end, .large_first = job->large_first,
			.large_last = job->large_last, .ino = job_ino(job), .grown = job->size,
			.size = job->inode ? atomic_load(&job->inode->size) : job->size});
	if (r && large)
		layer_note_punch(job->layer, job->large_first, job->large_last - job->large_first);
	if (r)
		return r;
	job->settled = true;
	r = settle_states(job, seq, ops_pos);
	/* The journal says it and memory does not: nothing may be built on that. */
	if (r)
		fs_fail(job->fs, r);
	if (job->inode)
		settle_attributes(job);
	return r;
}

/* A layer that is recast may be removed meanwhile; then nothing marks it any more. */
static bool is_gone(const struct job *job)
{
	return !job->inode && tree_find_layer(job->fs, job->layer->id) != job->layer &&
	       !MUTATED("mark regions of a layer that is gone");
}

/* What is to be stored is known: from the record on. */
static int job_carry_out(struct job *job)
{
	bool marked;
	int r;

	r = job_build(job);
	if (!r)
		r = get_space(job);
	if (r)
		return r;
	/* A checkpoint takes the marks away: look again once it can not come between any more. */
	do {
		r = is_gone(job) ? -ESTALE : mark_intent(job);
		if (r)
			return r;
		pthread_rwlock_rdlock(&job->fs->gate);
		marked = !needs_mark(job);
		if (!marked)
			pthread_rwlock_unlock(&job->fs->gate);
	} while (!marked);
	r = job_commit_locked(job);
	atomic_store(&job->fs->changed, true);
	atomic_fetch_add(&job->fs->change_count, 1);
	pthread_rwlock_unlock(&job->fs->gate);
	return r;
}

/* Under the inode's io lock and the blocks' range. */
static int job_run_locked(struct job *job)
{
	bool large = job->large_last > job->large_first;
	int r;

	r = job_merge(job);
	if (!r && large)
		r = job_classify(job);
	if (!r && large)
		r = job_share(job);
	if (r)
		return r;
	job->time_ns = now_ns();
	job->size = max_u64(atomic_load(&job->inode->size), job->off + job->len);
	return job_carry_out(job);
}

/* A large part stands in place: recovery may have to read it. */
static void note_pending(struct fs *fs, size_t len)
{
	uint64_t bytes = max_u64(len, PLACED_SMALL);

	if (atomic_fetch_add(&fs->large_pending, bytes) + bytes > LARGE_SYNC_BYTES)
		checkpoint_want(fs);
}

size_t volume_rewrite_room(uint64_t count)
{
	return ops_bound(max_u64(count, LARGE_BLOCKS + 3) * GF_BLOCK_SIZE) + 256;
}

int volume_rewrite(struct fs *fs, const struct rewrite *rw)
{
	uint64_t count = rw->count;
	struct job job = {.fs = fs, .layer = rw->layer, .data = rw->data, .len = count * GF_BLOCK_SIZE,
		.off = rw->block * GF_BLOCK_SIZE, .first = rw->block, .large_first = rw->block,
		.large_last = rw->block + count, .end = rw->block + count, .time_ns = now_ns()};
	int r = 0;

	job.sums = malloc(count * sizeof(*job.sums));
	job.hashes = malloc(count * sizeof(*job.hashes));
	job.kinds = malloc(count);
	job.places = calloc(count, sizeof(*job.places));
	if (!job.sums || !job.hashes || !job.kinds || !job.places)
		r = -ENOMEM;
	for (uint64_t i = 0; i < count; i++) {
		if (r && rw->kinds[i] == GF_SHARED)
			layer_unref_place(rw->layer, rw->places[i]);
		if (r)
			continue;
		job.kinds[i] = rw->kinds[i];
		job.places[i] = rw->kinds[i] == GF_SHARED ? rw->places[i] : 0;
		job.hashes[i] =
			hash_block128(fs->super.secret, rw->data + i * GF_BLOCK_SIZE);
		job.sums[i] = hash_sum(&job.hashes[i]);
	}
	if (!r && rw->share)
		r = job_share(&job);
	if (!r)
		r = job_carry_out(&job);
	if (!r)
		note_pending(fs, job.len);
	job_release(&job);
	return r;
}

static bool stands_on_recovered(struct inode *inode)
{
	bool recovered;

	pthread_rwlock_rdlock(&inode->io);
	recovered = atomic_load(&atomic_load(&inode->layer)->recovered);
	pthread_rwlock_unlock(&inode->io);
	return recovered;
}

/* Whether there is a large part, after a look at whether a small write better has one (straight.c). Such a
 * write never waits for an intent mark: it has one recorded, and the next ones find it. Where space is short
 * it may have no place yet, but always has room in the ring. */
static bool cut_again(struct job *job)
{
	job_cut(job, 1);
	if (job->large_last > job->large_first && !space_is_tight(job->fs) &&
		straight_suits(job->fs, job->inode, job->layer, job->large_first)) {
		job->on_recovered = atomic_load(&job->layer->recovered);
		if (!job->on_recovered && !needs_mark(job))
			return true;
		if (!has_marks(job))
			record_marks(job);
		sync_journal_soon(job->fs);
	}
	job_cut(job, LARGE_BLOCKS);
	return false;
}

/* One write of at most MAX_PIECE bytes. again: the first time there was no space. */
static int write_piece(struct fs *fs, struct inode *inode, const uint8_t *data, size_t len,
	uint64_t off, bool again)
{
	struct job job = {.fs = fs, .inode = inode, .data = data, .len = len, .off = off};
	struct range range;
	bool large, straight;
	int64_t room;
	int r;

	job_cut(&job, LARGE_BLOCKS);
	large = job.large_last > job.large_first;
	if (large && stands_on_recovered(inode)) {
		r = flush_recovered(fs, inode);
		if (r)
			return r;
	}
	/* One record for the data and one for an intent mark. */
	room = record_reserve(fs, ops_bound(len) + 256);
	if (room < 0)
		return room;
	straight_note(inode);
	pthread_rwlock_rdlock(&inode->io);
	pthread_rwlock_rdlock(&fs->sharing);
	job.layer = atomic_load(&inode->layer);
	rangelock_lock(&job.layer->ranges, &range, job.first,
		MUTATED("a write locks its first block only") ? job.first : job.end - 1);
	r = volume_writable(inode);
	straight = !r && !large && !again && cut_again(&job);
	if (!r)
		r = job_run_locked(&job);
	rangelock_unlock(&job.layer->ranges, &range);
	pthread_rwlock_unlock(&fs->sharing);
	pthread_rwlock_unlock(&inode->io);
	journal_unreserve(fs->journal, room);
	/* Once, for those that follow. It is done, and who syncs is told what came of it. */
	if (!r && job.on_recovered)
		flush_recovered(fs, inode);
	if (!r && (large || straight))
		note_pending(fs, len);
	if (!r && straight)
		COUNT(fs, straight_writes, 1);
	atomic_store_explicit(&inode->straight, straight, memory_order_relaxed);
	job_release(&job);
	return r;
}

/* Bytes of the range's blocks that do not belong to the file yet: a write needs space for them. */
static uint64_t bytes_missing(struct fs *fs, struct inode *inode, uint64_t off, size_t len)
{
	uint64_t block = off / GF_BLOCK_SIZE, missing = 0;
	uint64_t end = round_up(off + len, GF_BLOCK_SIZE) / GF_BLOCK_SIZE;
	unsigned token = drain_enter(&fs->readers);
	struct layer *layer = atomic_load(&inode->layer);

	while (block < end) {
		struct extent x;

		if (layer_resolve(layer, block, end - block, false, &x))
			break; /* whoever writes will meet the error */
		if (x.layer != layer || (x.kind != EXTENT_DATA && x.kind != EXTENT_JOURNAL))
			missing += less_u64(block + x.count,
					   max_u64(block, atomic_load(&layer->whole_blocks))) *
				   GF_BLOCK_SIZE;
		block += x.count;
	}
	drain_leave(&fs->readers, token);
	return missing;
}

/* Before anything is taken: is there space for what the file does not own yet? Overwriting what it
 * owns goes on when the disk is full. */
static int admit(struct fs *fs, struct inode *inode, uint64_t off, size_t len)
{
	if (!space_check(fs, len) && !limit_check(fs, inode, len, false))
		return 0;
	return space_get(fs, inode, bytes_missing(fs, inode, off, len));
}

static int write_again_if_full(
	struct fs *fs, struct inode *inode, const uint8_t *data, size_t len, uint64_t off)
{
	int r = write_piece(fs, inode, data, len, off, false);

	if (r != -ENOSPC)
		return r;
	/* The look before was too old; what was given up may be enough. */
	space_given_back(fs);
	space_make(fs, true);
	return write_piece(fs, inode, data, len, off, true);
}

/* Pieces are recorded one by one: a write that was not answered may be there in part, as its bytes may be. */
static int write_all(struct fs *fs, struct inode *inode, const uint8_t *data, size_t len, uint64_t off)
{
	int r = 0;

	for (size_t done = 0, n; done < len && !r; done += n) {
		n = min_u64(len - done, MAX_PIECE);
		r = write_again_if_full(fs, inode, data + done, n, off + done);
	}
	return r;
}

static ssize_t write_file(
	struct fs *fs, struct inode *inode, const void *buf, size_t len, uint64_t off)
{
	int r;

	if (off > GF_MAX_SIZE || len > GF_MAX_SIZE - off)
		return -EFBIG;
	r = fs_writable(fs);
	if (!r)
		r = volume_writable(inode);
	if (!r && len)
		r = recast_grow(fs, inode, off + len);
	if (!r && len)
		r = admit(fs, inode, off, len);
	COUNT(fs, write_ops, 1);
	if (!r)
		r = write_all(fs, inode, buf, len, off);
	if (r)
		return volume_error(fs, r);
	COUNT(fs, write_bytes, len);
	return len;
}

int64_t fs_write_pause(struct fs *fs, uint64_t ino, size_t len)
{
	struct inode *inode;
	int r;

	/* Every write asks. */
	if (!journal_is_pressed(fs->journal))
		return 0;
	inode = volume_find(fs, ino, &r);
	return journal_pause(fs->journal,
		inode && atomic_load(&inode->straight) ? sizeof(struct gf_op_share) : ops_bound(len));
}

ssize_t fs_write(struct fs *fs, uint64_t ino, const void *buf, size_t len, uint64_t off)
{
	struct inode *inode;
	int64_t start;
	ssize_t n;
	int r;

	inode = volume_find(fs, ino, &r);
	if (!inode)
		return r;
	if (inode->kind != GF_KIND_USER)
		return -EROFS;
	start = times_now(CLOCK_MONOTONIC);
	n = write_file(fs, inode, buf, len, off);
	io_stats_note(inode, FS_IO_WRITE, start, n);
	return n;
}
