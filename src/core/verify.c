/* SPDX-License-Identifier: MIT */
/*
 * Checked reading, and what is done with damage that it finds.
 *
 * With -o verify=read every block at rest is compared with its checksum before a byte of it reaches
 * anybody; what a partial write is merged with always is. A block that does not match is looked at
 * again under its range (store/layer_verify.c), and then is an error for who reads it, never wrong
 * bytes. Images are checked where they are read (golden_verify.c).
 *
 * Where damage is met, any lock may be held, and the names of files may not be looked up. So it is
 * noted in a table and told to the log by damage_report(), which those call who hold nothing: the
 * end of a failed read or write, and of a checkpoint. A block is told once. `state` in figures
 * comes from the same table. What was written anew since is forgotten after the next checkpoint.
 */
#include "core/fs_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/sizes.h"
#include "store/pool.h"

#define MAX_DAMAGE 65536 /* blocks that are kept in mind */
#define REPORT_AT_ONCE 32
#define RECHECK_AT_ONCE 1024

struct damage_key {
	uint64_t owner; /* layer, or golden image with DAMAGE_GOLDEN */
	uint64_t block;
};

struct damage {
	struct damage_key key;
	bool told;
	UT_hash_handle hh;
};

/* ---- checking ---- */

static int64_t verify_data(struct fs *fs, const struct extent *x, uint8_t *buf, uint64_t block,
	bool held)
{
	uint64_t done = 0;

	while (done < x->count) {
		int64_t n = layer_compare_sums(x->layer, buf + done * GF_BLOCK_SIZE, block + done,
			x->count - done);
		int verdict;

		if (n < 0)
			return n;
		done += (uint64_t)n;
		if (done == x->count)
			break;
		verdict = layer_judge_block(
			x->layer, buf + done * GF_BLOCK_SIZE, block + done, held);
		if (verdict < 0)
			return verdict;
		if (verdict == VERDICT_MOVED)
			break;
		if (verdict == VERDICT_DAMAGED) {
			damage_note(fs, x->layer->id, block + done);
			return -EUCLEAN;
		}
		if (verdict == VERDICT_HEALED)
			COUNT(fs, healed_blocks, 1);
		done++;
	}
	return (int64_t)done;
}

/* The bytes in the ring stay as they are while this reader is there. */
static int64_t verify_journaled(struct fs *fs, const struct extent *x, const uint8_t *buf,
	uint64_t block)
{
	for (uint64_t i = 0; i < x->count; i++) {
		struct jentry entry;

		if (!jindex_get(fs->jindex, x->layer->id, block + i, &entry) ||
			entry.pos != x->pos + i * GF_BLOCK_SIZE)
			return (int64_t)i;
		if (hash_block(fs->super.secret, buf + i * GF_BLOCK_SIZE) != entry.sum) {
			damage_note(fs, x->layer->id, block + i);
			return -EUCLEAN;
		}
	}
	return (int64_t)x->count;
}

/* The slot's bytes do not change as long as the block refers to it. */
static int64_t verify_shared(struct fs *fs, const struct extent *x, const uint8_t *buf,
	uint64_t block)
{
	for (uint64_t i = 0; i < x->count; i++) {
		uint64_t place;
		uint32_t sum;
		int r = pool_read_sums(fs->pool, x->pos + i, &sum, 1);

		if (r)
			return r;
		if (hash_block(fs->super.secret, buf + i * GF_BLOCK_SIZE) == sum)
			continue;
		r = layer_read_places(x->layer, block + i, &place, 1);
		if (r)
			return r;
		if (place != place_from_slot(x->pos + i))
			return (int64_t)i;
		damage_note(fs, x->layer->id, block + i);
		return -EUCLEAN;
	}
	return (int64_t)x->count;
}

int shared_read(struct fs *fs, uint64_t place, uint8_t bytes[GF_BLOCK_SIZE])
{
	struct image *image;

	if (place_is_pool(place))
		return pool_read(fs->pool, place_to_slot(place), bytes, 1);
	image = tree_golden_image(fs, place_to_golden(place));
	return image ? image->ops->read(image, bytes, GF_BLOCK_SIZE,
			       place_to_block(place) * GF_BLOCK_SIZE) : -ENOENT;
}

/* Golden images are checked where they are read, and by themselves, so that what one of them lost is
 * told once. */
static bool is_right(struct fs *fs, uint64_t place)
{
	uint8_t bytes[GF_BLOCK_SIZE];
	struct image *image;
	uint32_t sum;

	if (!place_is_pool(place)) {
		image = tree_golden_image(fs, place_to_golden(place));
		return image && place_to_block(place) * GF_BLOCK_SIZE < image->size;
	}
	return shared_read(fs, place, bytes) == 0 &&
	       pool_read_sums(fs->pool, place_to_slot(place), &sum, 1) == 0 &&
	       hash_block(fs->super.secret, bytes) == sum;
}

enum shared_verdict shared_judge(struct fs *fs, struct layer *layer, uint64_t block)
{
	uint64_t place, again;
	unsigned token;
	bool right;

	token = drain_enter(&fs->readers);
	right = layer_read_places(layer, block, &place, 1) == 0 && (!place || is_right(fs, place));
	drain_leave(&fs->readers, token);
	if (right && place)
		return SHARED_RIGHT;
	/* It may have changed meanwhile. */
	if (layer_read_places(layer, block, &again, 1) || again != place)
		return SHARED_MOVED;
	if (place)
		return SHARED_DAMAGED;
	return layer_is_lost(layer, block) ? SHARED_LOST : SHARED_MOVED;
}

int64_t verify_extent(struct fs *fs, const struct extent *x, void *buf, uint64_t block, bool held)
{
	switch (x->kind) {
	case EXTENT_DATA:
		return verify_data(fs, x, buf, block, held);
	case EXTENT_JOURNAL:
		return verify_journaled(fs, x, buf, block);
	case EXTENT_POOL:
		return verify_shared(fs, x, buf, block);
	default:
		return (int64_t)x->count;
	}
}

/* ---- the table ---- */

static struct damage *find_locked(struct fs *fs, struct damage_key key)
{
	struct damage *d;

	HASH_FIND(hh, fs->damage, &key, sizeof(key), d);
	return d;
}

void damage_note(struct fs *fs, uint64_t owner, uint64_t block)
{
	struct damage_key key = {owner, block};
	struct damage *d;

	COUNT(fs, checksum_errors, 1);
	MUTEX_GUARD(&fs->damage_lock);
	if (find_locked(fs, key) || HASH_COUNT(fs->damage) >= MAX_DAMAGE)
		return;
	d = calloc(1, sizeof(*d));
	if (!d)
		return;
	d->key = key;
	HASH_ADD(hh, fs->damage, key, sizeof(d->key), d);
	atomic_fetch_add(&fs->damage_new, 1);
}

static void forget_locked(struct fs *fs, struct damage *d)
{
	HASH_DELETE(hh, fs->damage, d);
	if (!d->told)
		atomic_fetch_sub(&fs->damage_new, 1);
	free(d);
}

void damage_free(struct fs *fs)
{
	struct damage *d, *next;

	HASH_ITER (hh, fs->damage, d, next)
		forget_locked(fs, d);
}

static bool may_share(const struct layer *top)
{
	while (top && !top->may_share)
		top = top->parent;
	return top != NULL;
}

/* The place of a SHARED extent's first block; 0: it is none. */
static uint64_t place_of(const struct extent *x)
{
	switch (x->kind) {
	case EXTENT_POOL:
		return place_from_slot(x->pos);
	case EXTENT_GOLDEN:
		return place_from_golden(((struct golden *)x->image)->id, x->pos);
	default:
		return 0;
	}
}

bool inode_shows_place(struct inode *inode, uint64_t place, uint64_t count)
{
	uint64_t end = round_up(atomic_load(&inode->size), GF_BLOCK_SIZE) / GF_BLOCK_SIZE;
	struct layer *top = atomic_load(&inode->layer);
	struct extent x;

	if (!may_share(top))
		return false;
	for (uint64_t block = 0; block < end; block += max_u64(x.count, 1)) {
		uint64_t at = layer_resolve(top, block, end - block, false, &x) ? 0 : place_of(&x);

		if (at && at < place + count && place < at + x.count &&
			block * GF_BLOCK_SIZE < x.limit)
			return true;
	}
	return false;
}

/* Whether the file shows this block as its owner has it. */
static bool shows(struct inode *inode, struct damage_key key)
{
	struct layer *top = atomic_load(&inode->layer);
	uint64_t golden = key.owner & ~DAMAGE_GOLDEN;
	bool is_golden = key.owner & DAMAGE_GOLDEN;
	struct extent x;

	if (!top)
		return false;
	if (is_golden && inode_shows_place(inode, place_from_golden(golden, key.block), 1))
		return true;
	if (key.block * GF_BLOCK_SIZE >= atomic_load(&inode->size))
		return false;
	if (layer_resolve(top, key.block, 1, false, &x) || key.block * GF_BLOCK_SIZE >= x.limit)
		return false;
	if (is_golden)
		return x.kind == EXTENT_IMAGE && ((struct golden *)x.image)->id == golden;
	return x.layer && x.layer->id == key.owner &&
	       (x.kind == EXTENT_DATA || x.kind == EXTENT_JOURNAL || x.kind == EXTENT_POOL);
}

/* Whether the file shows this block of a golden image, in which its content was found, somewhere. */
static bool shows_elsewhere(struct inode *inode, struct damage_key key)
{
	struct layer *layer = atomic_load(&inode->layer);

	for (; layer && key.owner & DAMAGE_GOLDEN; layer = layer->parent)
		if (layer_shows_golden(layer, key.owner & ~DAMAGE_GOLDEN, key.block, 1))
			return true;
	return false;
}

uint64_t damage_count(struct fs *fs, struct inode *inode)
{
	uint64_t count = 0;
	struct damage *d, *next;

	if (!atomic_load(&inode->layer))
		return 0;
	MUTEX_GUARD(&fs->damage_lock);
	HASH_ITER (hh, fs->damage, d, next)
		count += shows(inode, d->key) || shows_elsewhere(inode, d->key);
	return count;
}

/* ---- telling ---- */

static void tell_of_file(const char *path, struct damage_key key, bool elsewhere)
{
	const char *owner = key.owner & DAMAGE_GOLDEN ? "golden" : "layer";
	uint64_t id = key.owner & ~DAMAGE_GOLDEN;

	if (elsewhere)
		log_error(0, "\"%s\" is damaged: it has blocks of %s %" PRIu64 ", of which 4096 bytes "
			     "at %" PRIu64 " are not what was written; restore the file", path, owner, id,
			key.block * GF_BLOCK_SIZE);
	else
		log_error(0, "\"%s\" is damaged at byte %" PRIu64 ": 4096 bytes there are not what "
			     "was written (%s %" PRIu64 "); write them anew, or restore the file", path,
			key.block * GF_BLOCK_SIZE, owner, id);
}

static void tell(struct fs *fs, struct damage_key key)
{
	struct inode *inode, *next;
	bool told = false;

	pthread_rwlock_rdlock(&fs->tree);
	HASH_ITER (by_ino, fs->inodes, inode, next) {
		char *path = NULL;
		bool there = inode_is_file(inode) && shows(inode, key);

		if (!there && (!inode_is_file(inode) || !shows_elsewhere(inode, key)))
			continue;
		if (tree_path(fs, inode, &path))
			continue;
		tell_of_file(path, key, !there);
		free(path);
		told = true;
	}
	pthread_rwlock_unlock(&fs->tree);
	if (!told)
		log_error(0, "%s %" PRIu64 " of the store is damaged at byte %" PRIu64 ", which no "
			     "file shows", key.owner & DAMAGE_GOLDEN ? "golden" : "layer",
			key.owner & ~DAMAGE_GOLDEN, key.block * GF_BLOCK_SIZE);
}

/* Up to `room` that were not told yet; they count as told. */
static size_t take_new(struct fs *fs, struct damage_key *keys, size_t room)
{
	struct damage *d, *next;
	size_t count = 0;

	MUTEX_GUARD(&fs->damage_lock);
	HASH_ITER (hh, fs->damage, d, next) {
		if (d->told || count == room)
			continue;
		keys[count++] = d->key;
		d->told = true;
		atomic_fetch_sub(&fs->damage_new, 1);
	}
	return count;
}

/* The rest of many is told later: the log is no place for a list of a million. */
void damage_report(struct fs *fs)
{
	struct damage_key keys[REPORT_AT_ONCE];
	size_t count;

	if (!atomic_load(&fs->damage_new))
		return;
	count = take_new(fs, keys, REPORT_AT_ONCE);
	for (size_t i = 0; i < count; i++)
		tell(fs, keys[i]);
}

/* ---- what was damaged may have been written since ---- */

static size_t take_some(struct fs *fs, struct damage_key *keys, size_t room)
{
	struct damage *d, *next;
	size_t count = 0;

	MUTEX_GUARD(&fs->damage_lock);
	HASH_ITER (hh, fs->damage, d, next)
		if (count < room)
			keys[count++] = d->key;
	return count;
}

static bool is_damaged(struct fs *fs, struct damage_key key)
{
	uint8_t block[GF_BLOCK_SIZE];
	struct layer *layer;
	int verdict;

	if (key.owner & DAMAGE_GOLDEN)
		return golden_is_damaged(fs, key.owner & ~DAMAGE_GOLDEN, key.block);
	layer = layer_hold(fs, key.owner);
	if (!layer)
		return false;
	switch (shared_judge(fs, layer, key.block)) {
	case SHARED_RIGHT:
		verdict = VERDICT_RIGHT;
		break;
	case SHARED_LOST:
	case SHARED_DAMAGED:
		verdict = VERDICT_DAMAGED;
		break;
	default:
		verdict = layer_judge_block(layer, block, key.block, false);
	}
	atomic_fetch_sub(&layer->users, 1);
	return verdict < 0 || verdict == VERDICT_DAMAGED;
}

void damage_recheck(struct fs *fs)
{
	CLEANUP_FREE struct damage_key *keys = NULL;
	size_t count;

	if (!fs->damage)
		return;
	keys = malloc(RECHECK_AT_ONCE * sizeof(*keys));
	count = keys ? take_some(fs, keys, RECHECK_AT_ONCE) : 0;
	for (size_t i = 0; i < count; i++) {
		struct damage *d;

		if (is_damaged(fs, keys[i]))
			continue;
		MUTEX_GUARD(&fs->damage_lock);
		d = find_locked(fs, keys[i]);
		if (d)
			forget_locked(fs, d);
	}
}
