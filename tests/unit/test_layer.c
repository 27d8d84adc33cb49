/* SPDX-License-Identifier: MIT */
/*
 * Layers and their regions, against a model that keeps a byte per block.
 *
 * Random changes of a chain of layers with bounds in the middle of blocks; then every block is
 * resolved and the counters are counted anew. Map pages are written, read back and damaged; space
 * that is given up must come back only when nothing durable needs it any more. SEED=number repeats
 * a random run.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "../crash/rng.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/sizes.h"
#include "image/image.h"
#include "store/layer.h"
#include "store/region.h"
#include "store_dir.h"

#define REGIONS 3
#define BLOCKS (REGIONS * GF_REGION_BLOCKS)
#define DEPTH 4

struct bench {
	struct store_dir dir;
	struct layer_env env;
	uint8_t secret[HASH_SECRET_LEN];
	struct rng rng;
	uint64_t seed;
};

static int setup(void **state)
{
	struct bench *b = calloc(1, sizeof(*b));

	store_dir_init(&b->dir);
	store_dir_skip_syncs(&b->dir);
	b->env.io = b->dir.io;
	b->env.secret = b->secret;
	assert_int_equal(jindex_new(&b->env.jindex), 0);
	b->seed = seed_from_environment(4711);
	rng_seed(&b->rng, b->seed);
	*state = b;
	return 0;
}

static int teardown(void **state)
{
	struct bench *b = *state;

	jindex_free(b->env.jindex);
	store_dir_release(&b->dir);
	free(b);
	return 0;
}

static struct layer *new_layer(struct bench *b, uint64_t id)
{
	struct layer *layer;

	assert_int_equal(layer_new(&layer, &b->env, id, NULL, NULL, 0, 0), 0);
	return layer;
}

/* ---- regions ---- */

static void regions_are_what_their_blocks_are(void **state)
{
	struct bench *b = *state;
	uint8_t model[GF_REGION_BLOCKS] = {0}, journaled[GF_REGION_BLOCKS] = {0};
	struct region r = {.loaded = true};
	unsigned compact = 0;

	for (int round = 0; round < 2000; round++) {
		uint32_t first = rng_below(&b->rng, GF_REGION_BLOCKS);
		uint32_t count = 1 + rng_below(&b->rng, GF_REGION_BLOCKS - first), run = 1, n = 0;
		enum gf_state to = rng_below(&b->rng, 4);

		if (rng_below(&b->rng, 8) == 0) {
			first = 0;
			count = GF_REGION_BLOCKS;
		} else if (rng_below(&b->rng, 2)) {
			count = min_u64(count, 1 + rng_below(&b->rng, 20));
		}
		if (rng_below(&b->rng, 4) == 0) {
			assert_int_equal(region_set_journaled(&r, first, count), 0);
			memset(journaled + first, 1, count);
		} else if (rng_below(&b->rng, 4) == 0) {
			for (uint32_t i = first; i < first + count; i++)
				region_clear_journaled(&r, i);
			memset(journaled + first, 0, count);
		} else {
			assert_int_equal(region_put(&r, first, count, to), 0);
			memset(model + first, (int)to, count);
		}
		if (rng_below(&b->rng, 2)) {
			region_compact(&r);
			assert_int_equal(r.states == NULL,
				memcmp(model, model + 1, GF_REGION_BLOCKS - 1) == 0);
			compact += r.states == NULL;
		}
		first = rng_below(&b->rng, GF_REGION_BLOCKS);
		count = 1 + rng_below(&b->rng, GF_REGION_BLOCKS - first);
		while (run < count && model[first + run] == model[first] &&
			journaled[first + run] == journaled[first])
			run++;
		assert_int_equal(region_run(&r, first, count), run);
		for (uint32_t i = first; i < first + count; i++)
			n += model[i] == to;
		assert_int_equal(region_count(&r, first, count, to), n);
		n = 0;
		for (uint32_t i = 0; i < GF_REGION_BLOCKS; i++) {
			n += journaled[i];
			if (region_state(&r, i) != model[i] ||
				region_journaled(&r, i) != journaled[i])
				fail_msg("SEED=%" PRIu64 ", round %d, block %u", b->seed, round, i);
		}
		assert_int_equal(r.journaled, n);
		assert_int_equal(r.journal != NULL, n != 0);
		for (uint32_t i = 0; r.states && i < GF_REGION_BLOCKS; i += 64) {
			uint64_t low, high;

			states_planes(r.states, i, &low, &high);
			for (uint32_t k = 0; k < 64; k++)
				if (model[i + k] != ((low >> k & 1) | (high >> k & 1) << 1))
					fail_msg("SEED=%" PRIu64 ", round %d, block %u of planes", b->seed, round, i + k);
		}
	}
	assert_true(compact > 50);
	region_release(&r);
}

/* ---- a chain against a model ---- */

struct block_model {
	uint8_t state;
	bool journaled;
	bool given_up; /* OVERLAY once since the punches were taken, and then not */
	uint64_t pos;
};

struct chain {
	struct bench *b;
	struct layer *layers[DEPTH]; /* 0 is the root */
	struct block_model *models[DEPTH];
	struct image *image;
	uint64_t seq;
};

static void chain_init(struct chain *c, struct bench *b, struct image *image)
{
	memset(c, 0, sizeof(*c));
	c->b = b;
	c->image = image;
	for (int i = 0; i < DEPTH; i++) {
		/* Less or more than what is below, mostly up to the middle of a block. */
		uint64_t bound = rng_below(&b->rng, BLOCKS * (uint64_t)GF_BLOCK_SIZE * 5 / 4);

		if (rng_below(&b->rng, 4) == 0)
			bound = round_down(bound, GF_BLOCK_SIZE);
		assert_int_equal(layer_new(&c->layers[i], &b->env, (uint64_t)i + 1,
			i ? c->layers[i - 1] : NULL, i ? NULL : image, 0, bound), 0);
		c->models[i] = calloc(BLOCKS, sizeof(*c->models[i]));
	}
}

static void chain_release(struct chain *c)
{
	for (int i = 0; i < DEPTH; i++) {
		layer_free(c->layers[i]);
		free(c->models[i]);
	}
	assert_int_equal(jindex_count(c->b->env.jindex), 0);
}

static void model_set(struct block_model *m, enum gf_state to)
{
	if (m->state == GF_OVERLAY && to != GF_OVERLAY)
		m->given_up = true;
	m->state = to;
	m->journaled = false;
}

static void change_chain(struct chain *c)
{
	struct rng *rng = &c->b->rng;
	int at = (int)rng_below(rng, DEPTH);
	struct block_model *m = c->models[at];
	struct layer *layer = c->layers[at];
	uint64_t first = rng_below(rng, BLOCKS), count = 1 + rng_below(rng, 40);
	enum gf_state to = rng_below(rng, 3);
	bool given_up;

	if (rng_below(rng, 3) == 0) /* around a border of regions */
		first = GF_REGION_BLOCKS * (1 + rng_below(rng, REGIONS - 1)) - rng_below(rng, 40);
	if (rng_below(rng, 20) == 0)
		count = 1 + rng_below(rng, BLOCKS);
	count = min_u64(count, BLOCKS - first);
	switch (rng_below(rng, 8)) {
	case 0:
	case 1:
	case 2:
		c->seq++;
		assert_int_equal(layer_set_journaled(layer, first, count, c->seq << 32, c->seq, NULL), 0);
		for (uint64_t i = 0; i < count; i++) {
			m[first + i].journaled = true;
			m[first + i].pos = (c->seq << 32) + i * GF_BLOCK_SIZE;
		}
		break;
	case 3:
		if (rng_below(rng, 5))
			break;
		assert_int_equal(layer_clear_from(layer, first), 0);
		for (uint64_t i = first; i < BLOCKS; i++)
			model_set(&m[i], GF_PARENT);
		break;
	case 4:
		/* Only what stands in place is given up. */
		given_up = m[first].state == GF_OVERLAY && !m[first].journaled;
		assert_int_equal(layer_forget_block(layer, first, &(uint64_t){0}), given_up);
		if (given_up)
			model_set(&m[first], GF_PARENT);
		break;
	default:
		assert_int_equal(layer_set_state(layer, first, count, to), 0);
		for (uint64_t i = 0; i < count; i++)
			model_set(&m[first + i], to);
	}
}

/* Regions with something in them are never passed over. */
static void check_next_region(struct layer *layer, const bool has[REGIONS])
{
	for (uint32_t from = 0; from <= REGIONS; from++) {
		uint32_t next = layer_next_region(layer, from), first = from;

		while (first < REGIONS && !has[first])
			first++;
		assert_true(next >= from);
		assert_true(first < REGIONS ? next <= first :
			next < REGIONS || next == LAYER_NO_REGION);
	}
}

static void check_counters(struct chain *c)
{
	uint64_t journaled = 0;

	for (int k = 0; k < DEPTH; k++) {
		uint64_t owned = 0, overlay = 0, states_owned = 0;
		bool has[REGIONS] = {false};

		for (uint64_t i = 0; i < BLOCKS; i++) {
			const struct block_model *m = &c->models[k][i];

			overlay += m->state == GF_OVERLAY;
			owned += m->state == GF_OVERLAY || m->journaled;
			journaled += m->journaled;
			if (m->state != GF_PARENT || m->journaled)
				has[i / GF_REGION_BLOCKS] = true;
		}
		assert_true(c->layers[k]->overlay_blocks == overlay);
		assert_true(c->layers[k]->owned_blocks == owned);
		check_next_region(c->layers[k], has);
		for (uint32_t region = 0; region < REGIONS; region++) {
			uint8_t states[GF_STATE_BYTES];
			bool any;

			assert_int_equal(
				layer_region_states(c->layers[k], region, states, &any), 0);
			for (uint32_t i = 0; i < GF_REGION_BLOCKS; i++) {
				const struct block_model *m =
					&c->models[k][region * GF_REGION_BLOCKS + i];

				assert_int_equal(states_get(states, i),
					m->journaled ? GF_OVERLAY : m->state);
				states_owned += states_get(states, i) == GF_OVERLAY;
			}
		}
		assert_true(states_owned == owned);
	}
	assert_true(jindex_count(c->b->env.jindex) == journaled);
}

/* Where the model has a block, as the extent of that single block. */
static struct extent model_find(const struct chain *c, int k, uint64_t block, bool under)
{
	struct extent x = {.kind = EXTENT_ZERO, .limit = GF_MAX_SIZE};

	for (;; k--, under = false) {
		const struct block_model *m = &c->models[k][block];

		x.layer = c->layers[k];
		if (!under && m->journaled) {
			x.kind = EXTENT_JOURNAL;
			x.pos = m->pos;
			return x;
		}
		if (!under && m->state == GF_OVERLAY)
			x.kind = EXTENT_DATA;
		if (!under && m->state != GF_PARENT)
			return x;
		x.layer = NULL;
		x.limit = min_u64(x.limit, c->layers[k]->bound);
		if (block * GF_BLOCK_SIZE >= x.limit)
			return x;
		if (k == 0) {
			x.kind = c->image ? EXTENT_IMAGE : EXTENT_ZERO;
			x.image = c->image;
			return x;
		}
	}
}

static void check_resolve(struct chain *c)
{
	for (int k = 0; k < DEPTH; k++) {
		bool under = rng_below(&c->b->rng, 3) == 0;
		uint64_t max, block = 0;

		while (block < BLOCKS) {
			struct extent x;

			max = 1 + rng_below(&c->b->rng, BLOCKS - block);
			assert_int_equal(layer_resolve(c->layers[k], block, max, under, &x), 0);
			assert_true(x.count >= 1 && x.count <= max);
			for (uint64_t i = 0; i < x.count; i++) {
				struct extent want = model_find(c, k, block + i, under);

				if (x.kind != want.kind ||
					(x.kind != EXTENT_ZERO && x.layer != want.layer) ||
					x.image != want.image || x.limit != want.limit ||
					(x.kind == EXTENT_JOURNAL &&
						x.pos + i * GF_BLOCK_SIZE != want.pos))
					fail_msg("SEED=%" PRIu64 ": layer %d block %" PRIu64
						" is found in place %d instead of %d", c->b->seed,
						k, block + i, (int)x.kind, (int)want.kind);
			}
			block += x.count;
		}
	}
}

/* It may say so of more, as it speaks of regions, but never of less. */
static void check_may_be_in_place(struct chain *c)
{
	for (int i = 0; i < 20; i++) {
		uint64_t first = rng_below(&c->b->rng, BLOCKS);
		uint64_t count = 1 + rng_below(&c->b->rng, BLOCKS - first);
		int k = (int)rng_below(&c->b->rng, DEPTH);
		bool want = false;

		if (i % 2)
			count = min_u64(count, 30);
		for (uint64_t n = 0; n < count; n++)
			want |= c->models[k][first + n].state == GF_OVERLAY;
		if (want)
			assert_true(layer_may_be_in_place(c->layers[k], first, count));
	}
}

/* What was given up is exactly what is listed to be punched. */
static void check_punches(struct chain *c)
{
	for (int k = 0; k < DEPTH; k++) {
		struct punch *list = layer_take_punches(c->layers[k]);
		uint8_t *listed = calloc(1, BLOCKS);

		assert_null(layer_take_punches(c->layers[k]));
		while (list) {
			struct punch *next = list->next;

			assert_true(list->count > 0 && list->block + list->count <= BLOCKS);
			memset(listed + list->block, 1, list->count);
			free(list);
			list = next;
		}
		for (uint64_t i = 0; i < BLOCKS; i++) {
			assert_int_equal(listed[i], c->models[k][i].given_up);
			c->models[k][i].given_up = false;
		}
		free(listed);
	}
}

static void chains_resolve_as_the_model_does(void **state)
{
	struct bench *b = *state;
	uint8_t byte = 1;
	struct image *image;

	print_message("SEED=%" PRIu64 "\n", b->seed);
	assert_int_equal(image_memory_new(&image, &byte, 1), 0);
	for (int round = 0; round < 6; round++) {
		struct chain c;

		chain_init(&c, b, round % 3 ? image : NULL);
		for (int n = 0; n < 10; n++) {
			for (int i = 0; i < 25; i++)
				change_chain(&c);
			check_counters(&c);
			check_resolve(&c);
			check_may_be_in_place(&c);
			check_punches(&c);
		}
		chain_release(&c);
	}
	image_free(image);
}

/* ---- pages ---- */

static void note_pages(struct layer *layer, uint32_t *generations)
{
	const struct page_list *list;

	assert_int_equal(layer_list_pages(layer, &list), 0);
	for (uint32_t i = 0; i < list->count; i++) {
		assert_in_range(list->names[i].region, 0, REGIONS - 1);
		generations[list->names[i].region] = list->names[i].generation;
	}
}

static void checkpoint(struct layer *layer)
{
	struct page_write *pages;

	assert_int_equal(layer_take_pages(layer, &pages), 0);
	assert_int_equal(layer_sync_data(layer), 0);
	assert_int_equal(layer_write_pages(layer, pages), 0);
	layer_pages_done(layer, pages);
	pages_free(pages);
}

/* The layer as another process would find it. */
static struct layer *reopen(struct bench *b, struct layer *layer)
{
	uint32_t generations[REGIONS] = {0};
	struct layer *again = new_layer(b, layer->id);

	note_pages(layer, generations);
	for (uint32_t i = 0; i < REGIONS; i++)
		if (generations[i])
			assert_int_equal(layer_add_page(again, i, generations[i], false), 0);
	return again;
}

static void assert_same_states(struct layer *a, struct layer *b)
{
	for (uint32_t i = 0; i < REGIONS; i++) {
		uint8_t x[GF_STATE_BYTES], y[GF_STATE_BYTES];
		bool any;

		assert_int_equal(layer_region_states(a, i, x, &any), 0);
		assert_int_equal(layer_region_states(b, i, y, &any), 0);
		assert_memory_equal(x, y, sizeof(x));
	}
}

static void pages_come_back(void **state)
{
	struct bench *b = *state;
	struct layer *layer = new_layer(b, 9);
	struct page_write *pages;

	for (int round = 0; round < 12; round++) {
		struct layer *again;

		for (uint64_t i = rng_below(&b->rng, 20); i; i--) {
			uint64_t first = rng_below(&b->rng, BLOCKS);
			uint64_t count = 1 + rng_below(&b->rng, min_u64(300, BLOCKS - first));

			assert_int_equal(layer_set_state(
				layer, first, count, rng_below(&b->rng, 3)), 0);
		}
		if (round == 6)
			assert_int_equal(layer_clear_from(layer, 100), 0);
		/* With memory for all pages, for none, or for all but one. */
		if (round % 3)
			layer_reserve_pages(layer);
		if (round % 3 == 2)
			assert_int_equal(layer_set_state(layer, (uint64_t)round % REGIONS * GF_REGION_BLOCKS, 1,
				GF_ZERO), 0);
		checkpoint(layer);
		assert_null(layer->spare_pages);
		/* Nothing changed since. */
		assert_int_equal(layer_take_pages(layer, &pages), 0);
		assert_null(pages);
		again = reopen(b, layer);
		assert_same_states(again, layer);
		layer_free(again);
	}
	layer_free(layer);
}

static void journaled_blocks_are_not_in_pages(void **state)
{
	struct bench *b = *state;
	struct layer *layer = new_layer(b, 9), *again;
	uint8_t states[GF_STATE_BYTES];
	bool any;

	assert_int_equal(layer_set_state(layer, 0, 10, GF_OVERLAY), 0);
	assert_int_equal(layer_set_journaled(layer, 5, 10, 4096, 1, NULL), 0);
	checkpoint(layer);
	again = reopen(b, layer);
	assert_int_equal(layer_region_states(again, 0, states, &any), 0);
	for (uint32_t i = 0; i < 20; i++)
		assert_int_equal(states_get(states, i), i < 10 ? GF_OVERLAY : GF_PARENT);
	layer_free(again);
	layer_free(layer);
	assert_int_equal(jindex_count(b->env.jindex), 0);
}

static void read_page(struct bench *b, uint64_t slot, uint8_t page[4096])
{
	int fd = b->env.io->ops->open(b->env.io, "layer/9.map", O_RDONLY);

	assert_true(fd >= 0);
	assert_int_equal(io_pread_full(b->env.io, fd, page, 4096, slot * 4096), 0);
	b->env.io->ops->close(b->env.io, fd);
}

/* A checkpoint that fails half way never touches the page that the last good one names. */
static void good_pages_outlive_failed_checkpoints(void **state)
{
	struct bench *b = *state;
	struct layer *layer = new_layer(b, 9);
	uint8_t states[GF_STATE_BYTES], page[4096];
	struct page_write *pages;
	uint32_t generations[REGIONS] = {0};

	assert_int_equal(layer_set_state(layer, 0, 3, GF_OVERLAY), 0);
	checkpoint(layer); /* generation 1 */
	for (int i = 0; i < 5; i++) {
		assert_int_equal(layer_set_state(layer, 0, 1, i % 2 ? GF_ZERO : GF_PARENT), 0);
		assert_int_equal(layer_take_pages(layer, &pages), 0);
		assert_non_null(pages);
		assert_int_equal(layer_write_pages(layer, pages), 0);
		layer_pages_failed(layer, pages); /* as if a later step had failed */
		pages_free(pages);
		read_page(b, 1, page);
		assert_int_equal(page_decode(page, 9, 0, 1, states, NULL), 0);
		assert_int_equal(states_get(states, 0), GF_OVERLAY);
	}
	/* The change is not forgotten either. */
	checkpoint(layer);
	note_pages(layer, generations);
	assert_int_equal(generations[0] % 2, 0);
	read_page(b, 0, page);
	assert_int_equal(page_decode(page, 9, 0, generations[0], states, NULL), 0);
	assert_int_equal(states_get(states, 0), GF_PARENT);
	layer_free(layer);
}

static void remove_file(void *arg, const char *path)
{
	struct bench *b = arg;
	int r = b->env.io->ops->unlink(b->env.io, path);

	assert_true(r == 0 || r == -ENOENT);
}

static void damaged_pages_are_refused(void **state)
{
	struct bench *b = *state;
	struct layer *layer = new_layer(b, 9), *again;
	uint8_t page[4096], states[GF_STATE_BYTES];
	struct extent x;
	bool any;

	assert_int_equal(layer_set_state(layer, 77, 1, GF_OVERLAY), 0);
	checkpoint(layer);
	read_page(b, 1, page);
	assert_int_equal(page_decode(page, 9, 0, 1, states, NULL), 0);
	for (unsigned bit = 0; bit < 4096 * 8; bit++) {
		page[bit / 8] ^= 1u << (bit % 8);
		assert_int_equal(page_decode(page, 9, 0, 1, states, NULL), -EUCLEAN);
		page[bit / 8] ^= 1u << (bit % 8);
	}
	assert_int_equal(page_decode(page, 10, 0, 1, states, NULL), -EUCLEAN);
	assert_int_equal(page_decode(page, 9, 1, 1, states, NULL), -EUCLEAN);
	assert_int_equal(page_decode(page, 9, 0, 3, states, NULL), -EUCLEAN);
	memset(page, 0, sizeof(page));
	assert_int_equal(page_decode(page, 0, 0, 0, states, NULL), -EUCLEAN);

	store_dir_flip(&b->dir, "layer/9.map", (4096 + 2000) * 8 + 3);
	again = reopen(b, layer);
	assert_int_equal(layer_resolve(again, 77, 1, false, &x), -EUCLEAN);
	assert_int_equal(layer_resolve(again, 78, 1, false, &x), -EUCLEAN);
	assert_int_equal(layer_region_states(again, 0, states, &any), 0);
	assert_int_equal(states_get(states, 77), GF_SHARED);
	/* What is written or discarded anew can be read again, nothing else. */
	assert_int_equal(layer_set_state(again, 0, 1, GF_ZERO), 0);
	assert_int_equal(layer_set_state(again, 1, 1, GF_OVERLAY), 0);
	assert_int_equal(layer_resolve(again, 0, 2, false, &x), 0);
	assert_int_equal(layer_resolve(again, 1, 2, false, &x), 0);
	assert_int_equal(layer_resolve(again, 2, 2, false, &x), -EUCLEAN);
	assert_int_equal(layer_clear_from(again, 0), 0);
	assert_int_equal(layer_resolve(again, 77, 1, false, &x), 0);
	layer_free(again);
	/* Healed, it is as good as before; missing, it is not there. */
	store_dir_flip(&b->dir, "layer/9.map", (4096 + 2000) * 8 + 3);
	again = reopen(b, layer);
	assert_same_states(again, layer);
	layer_free(again);
	layer_list_files(9, remove_file, b);
	again = reopen(b, layer);
	assert_true(layer_resolve(again, 77, 1, false, &x) < 0);
	layer_free(again);
	layer_free(layer);
}

/* ---- bytes and space ---- */

static void write_blocks(struct layer *layer, uint64_t block, uint64_t count)
{
	uint8_t *bytes = malloc(count * GF_BLOCK_SIZE);

	for (uint64_t i = 0; i < count; i++)
		memset(bytes + i * GF_BLOCK_SIZE, (int)(1 + (block + i) % 255), GF_BLOCK_SIZE);
	assert_int_equal(layer_write_data(
		layer, bytes, count * GF_BLOCK_SIZE, block * GF_BLOCK_SIZE), 0);
	assert_int_equal(layer_set_state(layer, block, count, GF_OVERLAY), 0);
	free(bytes);
}

/* Whether the block's bytes are still in the file: all of them or none. */
static bool has_bytes(struct layer *layer, uint64_t block)
{
	uint8_t bytes[GF_BLOCK_SIZE];

	assert_int_equal(layer_read_data(layer, bytes, sizeof(bytes), block * GF_BLOCK_SIZE), 0);
	for (size_t i = 0; i < sizeof(bytes); i++)
		assert_int_equal(bytes[i], bytes[0]);
	assert_true(bytes[0] == 0 || bytes[0] == 1 + block % 255);
	return bytes[0] != 0;
}

static void bytes_come_back(void **state)
{
	struct bench *b = *state;
	struct layer *layer = new_layer(b, 9);
	uint32_t sums[3] = {11, 22, 33}, back[5];
	uint8_t byte;
	int fd;

	assert_int_equal(layer_read_data(layer, &byte, 1, 0), -EUCLEAN);
	write_blocks(layer, 5, 3);
	assert_true(has_bytes(layer, 5) && has_bytes(layer, 7));
	assert_false(has_bytes(layer, 4));
	assert_false(has_bytes(layer, 100)); /* behind the end */
	assert_int_equal(layer_write_sums(layer, 1, sums, 3), 0);
	assert_int_equal(layer_sync_data(layer), 0);
	assert_int_equal(layer_sync_sums(layer), 0);
	fd = b->env.io->ops->open(b->env.io, "layer/9.sum", O_RDONLY);
	assert_true(fd >= 0);
	assert_int_equal(io_pread_full(b->env.io, fd, back, sizeof(back), 0), 0);
	b->env.io->ops->close(b->env.io, fd);
	assert_true(back[0] == 0 && back[1] == 11 && back[3] == 33 && back[4] == 0);
	layer_free(layer);
}

static unsigned syncs;

static int fail_first_sync(struct io *io, int fd)
{
	return syncs++ ? 0 : -EIO;
}

/* Also for who comes later, as the next sync would find nothing to write; until all of it was
 * written anew. */
static void a_failed_sync_stays_failed(void **state)
{
	struct bench *b = *state;
	struct layer *layer = new_layer(b, 9);
	uint32_t sum = 11;

	syncs = 0;
	b->dir.ops.fdatasync = fail_first_sync;
	write_blocks(layer, 5, 3);
	assert_int_equal(layer_write_sums(layer, 5, &sum, 1), 0);
	assert_int_equal(layer_sync_data(layer), -EIO);
	write_blocks(layer, 6, 1);
	assert_int_equal(layer_sync_data(layer), -EIO);
	assert_int_equal(layer_sync_sums(layer), -EIO);
	assert_int_equal(syncs, 1);
	layer_sync_anew(layer);
	assert_int_equal(layer_sync_data(layer), 0);
	assert_int_equal(layer_sync_sums(layer), 0);
	assert_int_equal(syncs, 3);
	layer_free(layer);
}

/* Some file systems cannot hold the last block of the largest file at its own place. */
static void the_last_block_is_kept_elsewhere(void **state)
{
	const uint64_t last = GF_MAX_SIZE / GF_BLOCK_SIZE - 1;
	struct bench *b = *state;
	struct layer *layer = new_layer(b, 9), *again;
	uint32_t sums[2] = {0x12345678, 0x9abcdef0};
	int fd;

	/* Where not even the one before it can be, there is nothing to test. */
	fd = b->env.io->ops->open(b->env.io, "layer/9.data", O_RDWR | O_CREAT);
	assert_true(fd >= 0);
	if (b->env.io->ops->truncate(b->env.io, fd, last * GF_BLOCK_SIZE)) {
		b->env.io->ops->close(b->env.io, fd);
		layer_free(layer);
		skip();
	}
	b->env.io->ops->close(b->env.io, fd);
	assert_int_equal(layer_write_sums(layer, last - 1, sums, 2), 0);
	write_blocks(layer, last - 1, 2);
	assert_true(has_bytes(layer, last - 1) && has_bytes(layer, last));
	write_blocks(layer, last, 1);
	assert_int_equal(layer_sync_data(layer), 0);
	again = new_layer(b, 9);
	assert_true(has_bytes(again, last - 1) && has_bytes(again, last));
	layer_free(again);
	/* Its checksum is not in its way. */
	fd = b->env.io->ops->open(b->env.io, "layer/9.sum", O_RDONLY);
	assert_true(fd >= 0);
	memset(sums, 0, sizeof(sums));
	assert_int_equal(io_pread_full(b->env.io, fd, sums, 8, (last - 1) * 4), 0);
	b->env.io->ops->close(b->env.io, fd);
	assert_true(sums[0] == 0x12345678 && sums[1] == 0x9abcdef0);
	layer_free(layer);
}

static void punch_all(struct layer *layer, struct punch *list)
{
	struct punching all = punching_all();

	layer_punch_later(layer, list);
	assert_false(layer_punch_due(layer, &all));
}

static void space_comes_back_when_that_is_durable(void **state)
{
	struct bench *b = *state;
	struct layer *layer = new_layer(b, 9);
	struct punch *list;

	if (!store_dir_can_punch(&b->dir)) {
		layer_free(layer);
		skip();
	}
	write_blocks(layer, 10, 10);
	write_blocks(layer, GF_REGION_BLOCKS - 2, 4);
	checkpoint(layer);
	assert_null(layer_take_punches(layer));
	assert_int_equal(layer_set_state(layer, 12, 3, GF_ZERO), 0);
	assert_int_equal(layer_set_journaled(layer, 16, 1, 0, 1, NULL), 0);
	assert_int_equal(layer_set_state(layer, GF_REGION_BLOCKS - 1, 2, GF_PARENT), 0);
	/* The page on disk still says OVERLAY: nothing may go. */
	punch_all(layer, layer_take_punches(layer));
	for (uint64_t i = 10; i < 20; i++)
		assert_true(has_bytes(layer, i));
	assert_true(has_bytes(layer, GF_REGION_BLOCKS));
	/* Taken before the checkpoint, punched after it; one block is in use again. */
	list = layer_take_punches(layer);
	assert_non_null(list);
	write_blocks(layer, 13, 1);
	checkpoint(layer);
	punch_all(layer, list);
	for (uint64_t i = 10; i < 20; i++)
		assert_int_equal(has_bytes(layer, i), i != 12 && i != 14);
	assert_true(has_bytes(layer, GF_REGION_BLOCKS - 2));
	assert_false(has_bytes(layer, GF_REGION_BLOCKS - 1));
	assert_false(has_bytes(layer, GF_REGION_BLOCKS));
	assert_true(has_bytes(layer, GF_REGION_BLOCKS + 1));
	assert_null(layer_take_punches(layer));
	layer_free(layer);
}

static void punches_can_be_given_back(void **state)
{
	struct bench *b = *state;
	struct layer *layer = new_layer(b, 9);
	struct punch *list;
	uint64_t blocks = 0;

	assert_int_equal(layer_set_state(layer, 0, 100, GF_OVERLAY), 0);
	assert_int_equal(layer_set_state(layer, 0, 5, GF_PARENT), 0);
	list = layer_take_punches(layer);
	assert_int_equal(layer_set_state(layer, 50, 7, GF_PARENT), 0);
	layer_give_back_punches(layer, list);
	list = layer_take_punches(layer);
	for (struct punch *p = list, *next; p; p = next) {
		next = p->next;
		blocks += p->count;
		free(p);
	}
	assert_int_equal(blocks, 12);
	/* Freed with the layer when nobody takes them. */
	assert_int_equal(layer_set_state(layer, 70, 1, GF_PARENT), 0);
	layer_free(layer);
}

static void reclaim_finds_what_nobody_listed(void **state)
{
	struct bench *b = *state;
	struct layer *layer = new_layer(b, 9), *again;

	assert_int_equal(layer_reclaim(layer), 0); /* there is no file yet */
	if (!store_dir_can_punch(&b->dir)) {
		layer_free(layer);
		skip();
	}
	write_blocks(layer, 0, 4);
	write_blocks(layer, GF_REGION_BLOCKS + 3, 2);
	write_blocks(layer, 2 * GF_REGION_BLOCKS, 20);
	assert_int_equal(layer_set_state(layer, 1, 2, GF_PARENT), 0);
	assert_int_equal(layer_set_state(layer, GF_REGION_BLOCKS, 100, GF_ZERO), 0);
	assert_int_equal(layer_set_state(layer, 2 * GF_REGION_BLOCKS, 8192, GF_PARENT), 0);
	checkpoint(layer);
	again = reopen(b, layer);
	assert_int_equal(layer_reclaim(again), 0);
	punch_all(again, NULL);
	assert_true(has_bytes(again, 0) && has_bytes(again, 3));
	assert_false(has_bytes(again, 1) || has_bytes(again, 2));
	assert_false(has_bytes(again, GF_REGION_BLOCKS + 3));
	for (uint64_t i = 0; i < 20; i++)
		assert_false(has_bytes(again, 2 * GF_REGION_BLOCKS + i));
	layer_free(again);
	layer_free(layer);
}

/* ---- large writes, marks ---- */

static void commits_do_not_pass_what_is_in_flight(void **state)
{
	struct bench *b = *state;
	struct layer *layer = new_layer(b, 9);
	struct large_ticket first, second, third;

	assert_int_equal(layer_large_settled(layer), 0);
	layer_large_begin(layer, &first, 5);
	layer_large_begin(layer, &second, 7);
	assert_int_equal(layer_large_settled(layer), 0);
	layer_large_end(layer, &second, 8, true);
	assert_int_equal(layer_large_settled(layer), 4);
	layer_large_begin(layer, &third, 9);
	layer_large_end(layer, &first, 6, true);
	assert_int_equal(layer_large_settled(layer), 8);
	/* One that failed settles nothing, and is remembered. */
	assert_int_equal(layer->poison_seq, 0);
	layer_large_end(layer, &third, 9, false);
	assert_int_equal(layer_large_settled(layer), 8);
	assert_int_equal(layer->poison_seq, 9);
	/* An older one never lowers it. */
	layer_large_begin(layer, &first, 10);
	layer_large_end(layer, &first, 4, true);
	assert_int_equal(layer_large_settled(layer), 8);
	layer_free(layer);
}

struct committer {
	struct layer *layer;
	pthread_t thread;
	uint64_t result;
	atomic_bool done;
};

static void *wait_for_large(void *arg)
{
	struct committer *c = arg;

	c->result = layer_large_wait(c->layer);
	atomic_store(&c->done, true);
	return NULL;
}

/* One that began later is not waited for. */
static void commits_wait_for_what_began_earlier(void **state)
{
	struct bench *b = *state;
	struct layer *layer = new_layer(b, 9);
	struct large_ticket first, second, third;
	struct committer c = {.layer = layer};
	const struct timespec moment = {.tv_nsec = 2000000};

	assert_int_equal(layer_large_wait(layer), 0);
	layer_large_begin(layer, &first, 5);
	layer_large_begin(layer, &second, 7);
	layer_large_end(layer, &second, 8, true);
	layer_large_begin(layer, &third, 9);
	assert_int_equal(pthread_create(&c.thread, NULL, wait_for_large, &c), 0);
	nanosleep(&moment, NULL); /* long enough to see it end too early, were it wrong */
	assert_false(atomic_load(&c.done));
	layer_large_end(layer, &first, 6, true);
	assert_int_equal(pthread_join(c.thread, NULL), 0);
	assert_int_equal(c.result, 8);
	layer_large_end(layer, &third, 9, true);
	assert_int_equal(layer_large_wait(layer), 9);
	layer_free(layer);
}

static void marks_cover_whole_regions(void **state)
{
	struct bench *b = *state;
	struct layer *layer = new_layer(b, 9);
	const uint64_t region = GF_REGION_BLOCKS;

	assert_false(layer_is_marked(layer, 0, 1));
	assert_int_equal(layer_mark(layer, 3, 2, 1), 0);
	assert_true(layer_is_marked(layer, 3 * region, 2 * region));
	assert_false(layer_is_marked(layer, 3 * region - 1, 2));
	assert_false(layer_is_marked(layer, 3 * region, 2 * region + 1));
	assert_int_equal(layer_mark(layer, 200, 16, 1), 0);
	assert_true(layer_is_marked(layer, 215 * region + 8191, 1));
	assert_false(layer_is_marked(layer, 216 * region, 1));
	assert_true(layer_is_marked(layer, 4 * region, 1));
	assert_false(layer_is_marked(layer, GF_MAX_SIZE / GF_BLOCK_SIZE - 1, 1));
	layer_clear_marks(layer);
	assert_false(layer_is_marked(layer, 3 * region, 1));
	layer_free(layer);
}

static int note_kept(void *arg, uint32_t region, uint32_t count)
{
	uint32_t *kept = arg;

	for (uint32_t i = region; i < region + count; i++)
		kept[0] |= UINT32_C(1) << i;
	return (int)kept[1];
}

/* Marks go when nobody relied on them for as long as from one checkpoint to the next, or when they cannot
 * be kept; one that is made anew in between stays. */
static void marks_in_use_are_kept(void **state)
{
	struct bench *b = *state;
	struct layer *layer = new_layer(b, 9);
	const uint64_t region = GF_REGION_BLOCKS;
	uint32_t kept[2] = {0};

	layer_age_marks(layer, note_kept, kept);
	layer_clear_old_marks(layer);
	assert_int_equal(layer_mark(layer, 2, 6, 1), 0);
	layer_use_marks(layer, 3 * region + 5, 2 * region);
	layer_use_marks(layer, 20 * region, 1);
	assert_false(layer_is_marked(layer, 20 * region, 1));
	layer_age_marks(layer, note_kept, kept);
	assert_int_equal(kept[0], 7 << 3);
	assert_true(layer_is_marked(layer, 2 * region, 6 * region));
	assert_int_equal(layer_mark(layer, 7, 1, 1), 0);
	layer_clear_old_marks(layer);
	assert_true(layer_is_marked(layer, 3 * region, 3 * region));
	assert_true(layer_is_marked(layer, 7 * region, region));
	assert_false(layer_is_marked(layer, 2 * region, 1));
	assert_false(layer_is_marked(layer, 6 * region, 1));
	/* Nobody relied on any since. */
	kept[0] = 0;
	layer_age_marks(layer, note_kept, kept);
	assert_int_equal(kept[0], 0);
	layer_clear_old_marks(layer);
	assert_int_equal(layer_count_marks(layer), 0);
	/* What cannot be kept goes. */
	assert_int_equal(layer_mark(layer, 1, 1, 1), 0);
	layer_use_marks(layer, region, 1);
	kept[1] = 1;
	layer_age_marks(layer, note_kept, kept);
	layer_clear_old_marks(layer);
	assert_false(layer_is_marked(layer, region, 1));
	layer_free(layer);
}

/* kept[2]: how often all of a new layer is asked for. */
static int note_all_kept(void *arg, uint32_t region, uint32_t count)
{
	uint32_t *kept = arg;

	if (count)
		return note_kept(kept, region, count);
	kept[2]++;
	return (int)kept[1];
}

/* From its first record on, and for one more checkpoint when somebody relied on that, whatever he wrote. */
static void a_new_layer_is_marked_as_a_whole(void **state)
{
	struct bench *b = *state;
	struct layer *layer = new_layer(b, 9), *idle = new_layer(b, 10);
	const uint64_t region = GF_REGION_BLOCKS;
	const uint64_t last = GF_MAX_SIZE / GF_BLOCK_SIZE - 1;
	uint32_t kept[3] = {0};

	layer_mark_new(idle);
	layer_age_marks(idle, note_all_kept, kept);
	assert_true(layer_is_marked(idle, 0, last));
	layer_clear_old_marks(idle);
	assert_false(layer_is_marked(idle, 0, 1));
	assert_int_equal(kept[2], 0);

	layer_mark_new(layer);
	assert_true(layer_is_marked(layer, 0, last));
	/* One that was not used, and then was before there came a picture. */
	layer_age_marks(layer, note_all_kept, kept);
	layer_use_marks(layer, 20 * region, 1);
	/* Nothing is remembered of single regions. */
	assert_int_equal(layer->mark_count, 0);
	/* One that replay finds in the ring counts no longer than the whole. */
	assert_int_equal(layer_mark(layer, 5, 1, 1), 0);
	layer_age_marks(layer, note_all_kept, kept);
	assert_int_equal(kept[2], 1);
	assert_int_equal(kept[0], 0);
	layer_clear_old_marks(layer);
	assert_true(layer_is_marked(layer, 0, last));
	assert_int_equal(layer->mark_count, 0);
	layer_mark_new(layer);
	/* From then on as all others. */
	layer_use_marks(layer, 3 * region, 2 * region);
	layer_age_marks(layer, note_all_kept, kept);
	assert_int_equal(kept[2], 1);
	assert_int_equal(kept[0], 3 << 3);
	assert_int_equal(layer_mark(layer, 3, 2, 7), 0);
	/* They counted already, whether that record is durable or not. */
	assert_int_equal(atomic_load(&layer->mark_seq), 0);
	layer_clear_old_marks(layer);
	assert_true(layer_is_marked(layer, 3 * region, 2 * region));
	assert_false(layer_is_marked(layer, 20 * region, 1));
	/* What nobody uses takes no memory. */
	layer_age_marks(layer, note_all_kept, kept);
	layer_clear_old_marks(layer);
	assert_int_equal(layer->mark_count, 0);
	assert_null(layer->marks);
	layer_free(idle);
	layer_free(layer);
}

/* What cannot be kept goes, at once. */
static void a_new_layer_that_cannot_be_kept_is_marked_no_more(void **state)
{
	struct bench *b = *state;
	struct layer *layer = new_layer(b, 9);
	uint32_t kept[3] = {0, 1, 0};

	layer_mark_new(layer);
	layer_use_marks(layer, 0, 1);
	layer_age_marks(layer, note_all_kept, kept);
	assert_int_equal(kept[2], 1);
	layer_clear_old_marks(layer);
	assert_false(layer_is_marked(layer, 0, 1));
	layer_mark_new(layer);
	layer_clear_marks(layer);
	assert_false(layer_is_marked(layer, 0, 1));
	layer_free(layer);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(regions_are_what_their_blocks_are),
		TEST(chains_resolve_as_the_model_does),
		TEST(pages_come_back),
		TEST(journaled_blocks_are_not_in_pages),
		TEST(good_pages_outlive_failed_checkpoints),
		TEST(damaged_pages_are_refused),
		TEST(bytes_come_back),
		TEST(a_failed_sync_stays_failed),
		TEST(the_last_block_is_kept_elsewhere),
		TEST(space_comes_back_when_that_is_durable),
		TEST(punches_can_be_given_back),
		TEST(reclaim_finds_what_nobody_listed),
		TEST(commits_do_not_pass_what_is_in_flight),
		TEST(commits_wait_for_what_began_earlier),
		TEST(marks_cover_whole_regions),
		TEST(marks_in_use_are_kept),
		TEST(a_new_layer_is_marked_as_a_whole),
		TEST(a_new_layer_that_cannot_be_kept_is_marked_no_more),
	};

	alarm(120);
	/* The damage is made here; nobody has to read of it. */
	if (log_open(LOG_TO_FILE, "/dev/null"))
		return 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
