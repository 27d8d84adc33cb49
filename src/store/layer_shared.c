/* SPDX-License-Identifier: MIT */
/*
 * SHARED blocks: locations, and the references that they are.
 *
 * layer/ID.loc has 16 bytes per block, in place. Changing one there is safe when the ring covers the
 * change, as it is with the bytes of an OVERLAY block; but the new place must be durable before, or
 * a power loss could leave a page that says SHARED with a location whose bytes never arrived. So a
 * new location lives in env.locations first. A checkpoint takes a picture of those, syncs journal,
 * data and pool, writes the locations of the picture, and then the pages. A newer location that
 * comes meanwhile stays in memory for the next one.
 *
 * References: whoever makes a block SHARED has taken one to its place, and whoever makes it something
 * else gives it up. After a mount they are counted region by region (`uncounted`), in the background
 * or when a region is first changed; until all are, the pool frees nothing, so it does not matter
 * what the others see meanwhile.
 *
 * A lost block is SHARED with an empty location. When a whole page is lost, the location file may
 * still have something to say about its blocks, but which of them were SHARED is not known any more:
 * before the region is written anew, its locations are emptied.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/mutation.h"
#include "base/sizes.h"
#include "image/image.h"
#include "store/layer_internal.h"
#include "store/pool.h"

#define AT_ONCE 256 /* locations that are read or written together: 4 KiB */

/* ---- places and locations ---- */

uint64_t place_to_slot(uint64_t place)
{
	uint64_t file = (place & ~GF_PLACE_POOL) >> GF_PLACE_SHIFT;

	return file * POOL_FILE_SLOTS + place_to_block(place);
}

uint64_t place_from_slot(uint64_t slot)
{
	return GF_PLACE_POOL | (slot / POOL_FILE_SLOTS) << GF_PLACE_SHIFT | slot % POOL_FILE_SLOTS;
}

static uint32_t location_sum(const struct gf_disk_location *disk, uint64_t layer, uint64_t block)
{
	struct {
		uint64_t layer, block, place;
		uint32_t block_sum;
	} GF_PACKED all = {layer, block, disk->place, disk->block_sum};

	return (uint32_t)hash_struct(&all, sizeof(all));
}

static void location_encode(struct gf_disk_location *disk, uint64_t layer, uint64_t block,
	struct location location)
{
	memset(disk, 0, sizeof(*disk));
	if (!location.place)
		return;
	disk->place = location.place;
	disk->block_sum = location.sum;
	disk->sum = location_sum(disk, layer, block);
}

static bool place_is_possible(uint64_t place)
{
	return place_is_pool(place) ? place_to_block(place) < POOL_FILE_SLOTS :
				      place_to_golden(place) != 0;
}

bool location_decode(const void *buf, uint64_t layer, uint64_t block, struct location *out)
{
	struct gf_disk_location disk;

	memcpy(&disk, buf, sizeof(disk));
	*out = (struct location){0};
	if (!disk.place && !disk.block_sum && !disk.sum)
		return true;
	if (disk.sum != location_sum(&disk, layer, block) || !place_is_possible(disk.place))
		return false;
	*out = (struct location){.place = disk.place, .sum = disk.block_sum};
	return true;
}

/* What the file says of count <= AT_ONCE blocks. What is damaged is as if it were not there. */
static int read_file_locked(struct layer *l, uint64_t block, uint64_t count,
	struct location *locations)
{
	struct gf_disk_location disk[AT_ONCE];
	int fd, e;

	memset(locations, 0, count * sizeof(*locations));
	if (!l->env->locations)
		return 0;
	fd = layer_open_file_locked(l, &l->loc_fd, LAYER_LOC, false);
	if (fd < 0)
		return fd == -ENOENT ? 0 : fd;
	e = io_pread_full(l->env->io, fd, disk, count * sizeof(*disk), block * sizeof(*disk));
	for (uint64_t i = 0; i < count && !e; i++)
		if (!location_decode(&disk[i], l->id, block + i, &locations[i]))
			log_error(-EUCLEAN, "the store's \"layer/%" PRIu64 ".loc\" is damaged at block %"
				PRIu64, l->id, block + i);
	return e;
}

/* Of count <= AT_ONCE blocks that are SHARED. */
static int read_locations_locked(struct layer *l, const struct region *r, uint64_t block,
	uint64_t count, struct location *locations)
{
	struct jentry entry;
	int e;

	memset(locations, 0, count * sizeof(*locations));
	if (r->lost && !r->lost_noted)
		return 0;
	e = read_file_locked(l, block, count, locations);
	if (e)
		return e;
	for (uint64_t i = 0; l->new_locations && i < count; i++)
		if (jindex_get(l->env->locations, l->id, block + i, &entry))
			locations[i] = (struct location){.place = entry.pos, .sum = entry.sum};
	return 0;
}

bool layer_location_locked(struct layer *l, uint32_t number, const struct region *r, uint32_t i,
	struct location *location)
{
	return read_locations_locked(l, r, (uint64_t)number * GF_REGION_BLOCKS + i, 1, location) == 0 &&
	       location->place;
}

int layer_read_locations(struct layer *l, uint64_t block, struct location *locations,
	uint64_t count)
{
	uint64_t n;

	MUTEX_GUARD(&l->lock);
	for (uint64_t done = 0; done < count; done += n) {
		uint32_t number = (block + done) / GF_REGION_BLOCKS;
		uint32_t first = (block + done) % GF_REGION_BLOCKS;
		struct region *r = layer_find_region_locked(l, number);
		int e;

		n = min_u64(min_u64(count - done, AT_ONCE), GF_REGION_BLOCKS - first);
		memset(locations + done, 0, n * sizeof(*locations));
		if (!r)
			continue;
		e = layer_load_region_locked(l, number, r);
		if (!e)
			e = read_locations_locked(l, r, block + done, n, locations + done);
		if (e)
			return e;
		for (uint64_t i = 0; i < n; i++)
			if (region_state(r, first + i) != GF_SHARED || region_journaled(r, first + i))
				locations[done + i] = (struct location){0};
	}
	return 0;
}

/* ---- resolving ---- */

static int lost(struct layer *l, uint64_t block)
{
	return log_error(-EUCLEAN, "block %" PRIu64 " of layer %" PRIu64 " is lost to damage; write it "
		"anew, or restore the clone", block, l->id);
}

int layer_shared_run_locked(struct layer *l, uint32_t number, struct region *r, uint32_t i,
	struct extent *x)
{
	uint64_t block = (uint64_t)number * GF_REGION_BLOCKS + i, n = 1;
	uint64_t max = min_u64(x->count, AT_ONCE);
	struct location at[AT_ONCE];
	int e = read_locations_locked(l, r, block, max, at);

	if (e)
		return log_error(e, "cannot read the store's \"layer/%" PRIu64 ".loc\"", l->id);
	if (!at[0].place)
		return lost(l, block);
	while (n < max && place_follows(at[n - 1].place, at[n].place))
		n++;
	x->count = n;
	if (place_is_pool(at[0].place)) {
		x->kind = EXTENT_POOL;
		x->pos = place_to_slot(at[0].place);
		return 1;
	}
	x->kind = EXTENT_GOLDEN;
	x->pos = place_to_block(at[0].place);
	x->image = l->env->golden(l->env->arg, place_to_golden(at[0].place));
	return x->image ? 1 : lost(l, block);
}

bool layer_is_lost_locked(struct layer *l, uint32_t number, const struct region *r, uint32_t i,
	uint64_t *n)
{
	struct location at[AT_ONCE];
	uint64_t run = 1, max = min_u64(*n, AT_ONCE);

	/* What cannot be read may be lost. */
	if (read_locations_locked(l, r, (uint64_t)number * GF_REGION_BLOCKS + i, max, at)) {
		*n = max;
		return true;
	}
	while (run < max && !at[run].place == !at[0].place)
		run++;
	*n = run;
	return !at[0].place;
}

bool layer_is_lost(struct layer *l, uint64_t block)
{
	uint32_t number = block / GF_REGION_BLOCKS, i = block % GF_REGION_BLOCKS;
	struct region *r;
	uint64_t n = 1;

	MUTEX_GUARD(&l->lock);
	r = layer_find_region_locked(l, number);
	return r && layer_load_region_locked(l, number, r) == 0 &&
	       region_state(r, i) == GF_SHARED && !region_journaled(r, i) &&
	       layer_is_lost_locked(l, number, r, i, &n);
}

/* ---- references ---- */

bool layer_ref_place(struct layer *l, uint64_t place)
{
	if (place_is_pool(place))
		return pool_ref_live(l->env->pool, place_to_slot(place), l->id);
	l->env->golden_ref(l->env->arg, place_to_golden(place), 1);
	return true;
}

void layer_unref_place(struct layer *l, uint64_t place)
{
	if (place_is_pool(place))
		pool_unref(l->env->pool, place_to_slot(place), l->id);
	else
		l->env->golden_ref(l->env->arg, place_to_golden(place), -1);
}

static void count_block_locked(struct layer *l, uint64_t place, int sign)
{
	l->shared_blocks += (uint64_t)sign;
	if (!place_is_pool(place))
		l->golden_blocks += (uint64_t)sign;
}

/* Calls cb for the location of each SHARED block of [first, first + count) that has one. */
static int each_location_locked(struct layer *l, uint32_t number, struct region *r, uint32_t first,
	uint32_t count, void (*cb)(struct layer *l, uint64_t block, uint64_t place))
{
	uint64_t base = (uint64_t)number * GF_REGION_BLOCKS;

	for (uint32_t i = first; i < first + count;) {
		struct location at[AT_ONCE];
		/* Journaled or not makes no difference here, so runs are counted by hand. */
		uint32_t n = 1;
		int e;

		if (region_state(r, i) != GF_SHARED) {
			i++;
			continue;
		}
		while (n < AT_ONCE && i + n < first + count && region_state(r, i + n) == GF_SHARED)
			n++;
		e = read_locations_locked(l, r, base + i, n, at);
		if (e)
			return log_error(e, "cannot read the store's \"layer/%" PRIu64 ".loc\"", l->id);
		for (uint32_t k = 0; k < n; k++)
			if (at[k].place)
				cb(l, base + i + k, at[k].place);
		i += n;
	}
	return 0;
}

/* A place that cannot be: the block is lost, before somebody else's bytes come to stand there. */
static void take_reference(struct layer *l, uint64_t block, uint64_t place)
{
	if (layer_ref_place(l, place))
		count_block_locked(l, place, 1);
	else
		layer_note_lost_locked(l, block, 1);
}

static void forget_new_location_locked(struct layer *l, uint64_t block)
{
	struct jentry entry;

	if (!l->new_locations || !jindex_get(l->env->locations, l->id, block, &entry))
		return;
	jindex_remove(l->env->locations, l->id, block);
	l->new_locations--;
}

static void give_up_reference(struct layer *l, uint64_t block, uint64_t place)
{
	layer_unref_place(l, place);
	count_block_locked(l, place, -1);
}

static int count_region_locked(struct layer *l, uint32_t number, struct region *r)
{
	int e;

	if (!r->uncounted || !l->env->locations)
		return 0;
	e = layer_load_region_locked(l, number, r);
	if (!e)
		e = each_location_locked(l, number, r, 0, GF_REGION_BLOCKS, take_reference);
	/* Half counted it is counted wrongly; then nothing is freed any more. */
	if (!e)
		r->uncounted = false;
	return e;
}

int layer_count_shared(struct layer *l)
{
	MUTEX_GUARD(&l->lock);
	for (uint32_t n = 0; l->may_share && n < l->leaf_count * LEAF_REGIONS; n++) {
		struct region *r = layer_find_region_locked(l, n);
		int e;

		if (!r || !r->uncounted)
			continue;
		e = count_region_locked(l, n, r);
		return e ? e : 1;
	}
	return 0;
}

int layer_leave_shared_locked(struct layer *l, uint32_t number, struct region *r, uint32_t first,
	uint32_t count)
{
	uint64_t base = (uint64_t)number * GF_REGION_BLOCKS;
	int e;

	if (!l->env->locations)
		return 0;
	/* Not before the region's old content is forgotten for good. */
	if (r->lost && !r->lost_noted) {
		e = layer_note_lost_locked(l, base, GF_REGION_BLOCKS);
		if (e)
			return e;
		r->lost_noted = true;
	}
	if (!region_count(r, first, count, GF_SHARED))
		return 0;
	e = count_region_locked(l, number, r);
	if (!e)
		e = each_location_locked(l, number, r, first, count, give_up_reference);
	for (uint32_t i = first; i < first + count && !e; i++)
		forget_new_location_locked(l, base + i);
	return e;
}

/* A region at a time may be in use by others; a dead layer has no users. */
void layer_drop_shared(struct layer *l)
{
	MUTEX_GUARD(&l->lock);
	if (!l->env->locations || !l->may_share)
		return;
	for (uint32_t n = 0; n < l->leaf_count * LEAF_REGIONS; n++) {
		struct region *r = layer_find_region_locked(l, n);

		if (!r || r->uncounted || layer_load_region_locked(l, n, r))
			continue;
		if (layer_leave_shared_locked(l, n, r, 0, GF_REGION_BLOCKS) == 0)
			r->uncounted = true; /* nothing is to be given up once more */
	}
	l->may_share = false;
	if (l->env->pool)
		pool_forget_layer(l->env->pool, l->id);
}

/* ---- changing ---- */

bool layer_can_share(struct layer *l, uint64_t block, uint64_t count)
{
	uint32_t last = (block + count - 1) / GF_REGION_BLOCKS;

	MUTEX_GUARD(&l->lock);
	if (!l->env->locations)
		return false;
	for (uint32_t number = block / GF_REGION_BLOCKS; number <= last; number++) {
		struct region *r = layer_find_region_locked(l, number);

		if (r && (layer_load_region_locked(l, number, r) || r->lost))
			return false;
	}
	return true;
}

static int set_new_location_locked(struct layer *l, uint64_t block, struct location location)
{
	struct jentry entry = {.layer = l->id,
		.block = block,
		.pos = location.place,
		.seq = atomic_fetch_add(l->env->location_seq, 1) + 1,
		.sum = location.sum};
	struct jentry old;
	bool there = jindex_get(l->env->locations, l->id, block, &old);
	int e = jindex_set(l->env->locations, &entry);

	l->new_locations += !e && !there;
	return e;
}

int layer_note_lost_locked(struct layer *l, uint64_t block, uint64_t count)
{
	int e = 0;

	for (uint64_t i = 0; l->env->locations && i < count && !e; i++)
		e = set_new_location_locked(l, block + i, (struct location){0});
	return e;
}

/* Takes back what was set of the new locations of [block, block + count). */
static void restore_locations_locked(struct layer *l, uint64_t block, uint64_t count,
	const struct jentry *old, const bool *there)
{
	for (uint64_t i = 0; i < count; i++) {
		if (there[i])
			jindex_set(l->env->locations, &old[i]);
		else
			forget_new_location_locked(l, block + i);
	}
}

/* All of the new locations, or none. */
static int set_new_locations_locked(struct layer *l, uint64_t block, uint32_t count,
	const struct location *locations)
{
	struct jentry old[AT_ONCE];
	bool there[AT_ONCE];

	for (uint32_t i = 0; i < count; i++) {
		int e;

		there[i] = jindex_get(l->env->locations, l->id, block + i, &old[i]);
		e = set_new_location_locked(l, block + i, locations[i]);
		if (e) {
			restore_locations_locked(l, block, i, old, there);
			return e;
		}
	}
	return 0;
}

/* Within one region, count <= AT_ONCE. When it fails nothing has changed. */
static int set_shared_locked(struct layer *l, uint64_t block, uint32_t count,
	const struct location *locations)
{
	uint32_t number = block / GF_REGION_BLOCKS, first = block % GF_REGION_BLOCKS;
	struct location old[AT_ONCE];
	bool was_shared[AT_ONCE];
	struct region *r;
	int e = layer_writable_region_locked(l, number, &r);

	if (!e && r->lost)
		e = -EUCLEAN;
	if (!e)
		e = count_region_locked(l, number, r);
	if (!e)
		e = read_locations_locked(l, r, block, count, old);
	if (!e)
		e = region_materialize(r);
	for (uint32_t i = 0; i < count && !e; i++)
		was_shared[i] = region_state(r, first + i) == GF_SHARED && old[i].place;
	if (!e)
		e = set_new_locations_locked(l, block, count, locations);
	if (e)
		return e;
	layer_put_state_locked(l, number, r, first, count, GF_SHARED);
	for (uint32_t i = 0; i < count; i++) {
		count_block_locked(l, locations[i].place, 1);
		if (was_shared[i])
			give_up_reference(l, block + i, old[i].place);
	}
	l->may_share = true;
	return 0;
}

int layer_set_shared(struct layer *l, uint64_t block, uint64_t count,
	const struct location *locations)
{
	MUTEX_GUARD(&l->lock);
	while (count) {
		uint32_t n = min_u64(min_u64(count, AT_ONCE), GF_REGION_BLOCKS - block % GF_REGION_BLOCKS);
		int e = set_shared_locked(l, block, n, locations);

		if (e)
			return e;
		block += n;
		count -= n;
		locations += n;
	}
	return 0;
}

/* ---- checkpoints ---- */

int layer_take_locations(const struct layer_env *env, struct jentry **list, size_t *count)
{
	*list = NULL;
	*count = 0;
	if (!env->locations)
		return 0;
	return jindex_collect(env->locations, atomic_load(env->location_seq), list, count);
}

static int write_run(struct layer *l, int fd, const struct jentry *list, size_t count)
{
	struct gf_disk_location disk[AT_ONCE];

	for (size_t i = 0; i < count; i++)
		location_encode(&disk[i], l->id, list[i].block,
			(struct location){.place = list[i].pos, .sum = list[i].sum});
	return io_pwrite(l->env->io, fd, disk, count * sizeof(*disk), list[0].block * sizeof(*disk));
}

int layer_write_locations(struct layer *l, const struct jentry *list, size_t count)
{
	int fd = layer_open_file(l, &l->loc_fd, LAYER_LOC, true), e = 0;
	size_t n;

	if (fd < 0)
		return fd;
	for (size_t i = 0; i < count && !e; i += n) {
		n = 1;
		while (n < AT_ONCE && i + n < count && list[i + n].block == list[i].block + n)
			n++;
		e = write_run(l, fd, list + i, n);
	}
	atomic_store(&l->locs_dirty, true);
	return e ? e : SITE("checkpoint: sync locations before the pages",
		layer_sync_file(l, &l->locs_dirty, &l->loc_fd, LAYER_LOC));
}

void layer_locations_done(struct layer *l, const struct jentry *list, size_t count)
{
	struct jentry now;

	MUTEX_GUARD(&l->lock);
	for (size_t i = 0; i < count; i++) {
		if (!jindex_get(l->env->locations, l->id, list[i].block, &now) ||
			now.seq != list[i].seq)
			continue;
		jindex_remove(l->env->locations, l->id, list[i].block);
		l->new_locations--;
	}
}
