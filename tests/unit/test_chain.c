/* SPDX-License-Identifier: MIT */
/*
 * What is remembered of long chains of layers, against looking it up.
 *
 * A chain is changed at random, also in ways in which frozen layers change seldom (a block that
 * shows what is below comes to be owned, a bound moves), and each look-up is made twice, with what
 * is remembered and without. Threads look up while a thread changes. SEED=number repeats a random
 * run.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "../crash/rng.h"
#include "base/hash.h"
#include "base/sizes.h"
#include "image/image.h"
#include "store/chain.h"
#include "store/layer.h"
#include "store_dir.h"

#define REGIONS 3
#define BLOCKS (REGIONS * GF_REGION_BLOCKS)
#define DEPTH 48

struct bench {
	struct store_dir dir;
	struct layer_env env;
	struct chain_cache *cache;
	struct image *image;
	struct layer *layers[DEPTH]; /* the last one is the top */
	uint8_t secret[HASH_SECRET_LEN];
	struct rng rng;
	uint64_t seed;
	uint64_t seq;
};

static int setup(void **state)
{
	struct bench *b = calloc(1, sizeof(*b));
	uint8_t byte = 1;

	store_dir_init(&b->dir);
	store_dir_skip_syncs(&b->dir);
	b->env.io = b->dir.io;
	b->env.secret = b->secret;
	assert_int_equal(jindex_new(&b->env.jindex), 0);
	assert_int_equal(image_memory_new(&b->image, &byte, 1), 0);
	b->seed = seed_from_environment(815);
	rng_seed(&b->rng, b->seed);
	print_message("SEED=%" PRIu64 "\n", b->seed);
	*state = b;
	return 0;
}

static void make_chain(struct bench *b, size_t memory)
{
	assert_int_equal(chain_cache_new(&b->cache, memory), 0);
	b->env.chains = b->cache;
	for (int k = 0; k < DEPTH; k++)
		assert_int_equal(layer_new(&b->layers[k], &b->env, (uint64_t)k + 1,
			k ? b->layers[k - 1] : NULL, k ? NULL : b->image, 0,
			BLOCKS * (uint64_t)GF_BLOCK_SIZE), 0);
}

static void free_chain(struct bench *b)
{
	for (int k = DEPTH - 1; k >= 0; k--) {
		layer_free(b->layers[k]);
		b->layers[k] = NULL;
	}
}

static int teardown(void **state)
{
	struct bench *b = *state;

	if (b->layers[0])
		free_chain(b);
	chain_cache_free(b->cache);
	image_free(b->image);
	jindex_free(b->env.jindex);
	store_dir_release(&b->dir);
	free(b);
	return 0;
}

/* ---- looking up ---- */

static void look_up_plainly(struct bench *b, int k, uint64_t block, uint64_t max, struct extent *x)
{
	b->env.chains = NULL;
	assert_int_equal(layer_resolve(b->layers[k], block, max, false, x), 0);
	b->env.chains = b->cache;
}

/* From where on nothing shows; how far before a block that is does not matter. */
static bool same_limit(const struct extent *x, const struct extent *y, uint64_t block)
{
	uint64_t off = block * GF_BLOCK_SIZE;

	return x->limit == y->limit || (x->limit <= off && y->limit <= off);
}

/* Every block of an extent is where it is without anything remembered. */
static void check_extent(struct bench *b, int k, uint64_t block, const struct extent *x)
{
	for (uint64_t i = 0; i < x->count;) {
		struct extent want;

		look_up_plainly(b, k, block + i, x->count - i, &want);
		if (want.kind != x->kind || (x->kind != EXTENT_ZERO && want.layer != x->layer) ||
			want.image != x->image || !same_limit(&want, x, block + i) ||
			(x->kind == EXTENT_JOURNAL && want.pos != x->pos + i * GF_BLOCK_SIZE))
			fail_msg("SEED=%" PRIu64 ": layer %d, block %" PRIu64 ": kind %d of layer %" PRIu64
				 " instead of %d of %" PRIu64, b->seed, k, block + i, (int)x->kind,
				x->layer ? x->layer->id : 0, (int)want.kind,
				want.layer ? want.layer->id : 0);
		i += want.count;
	}
}

static void look_up(struct bench *b, int k)
{
	uint64_t block = rng_below(&b->rng, BLOCKS);
	uint64_t max = 1 + rng_below(&b->rng, rng_below(&b->rng, 4) ? 40 : BLOCKS);
	struct extent x;

	max = min_u64(max, BLOCKS - block);
	assert_int_equal(layer_resolve(b->layers[k], block, max, false, &x), 0);
	assert_true(x.count >= 1 && x.count <= max);
	check_extent(b, k, block, &x);
}

/* ---- changing ---- */

static void change(struct bench *b, int k)
{
	uint64_t block = rng_below(&b->rng, BLOCKS);
	uint64_t count = 1 + rng_below(&b->rng, rng_below(&b->rng, 3) ? 30 : 3000);

	count = min_u64(count, BLOCKS - block);
	switch (rng_below(&b->rng, 8)) {
	case 0:
		layer_set_bound(b->layers[k], rng_below(&b->rng, BLOCKS) * GF_BLOCK_SIZE +
						       rng_below(&b->rng, 2) * 1000);
		break;
	case 1:
	case 2:
		b->seq++;
		assert_int_equal(layer_set_journaled(b->layers[k], block, count,
			b->seq * 64 * MIB, b->seq, NULL), 0);
		break;
	default:
		assert_int_equal(layer_set_state(
			b->layers[k], block, count, (enum gf_state)rng_below(&b->rng, 3)), 0);
	}
}

static void fill(struct bench *b)
{
	for (int k = 0; k < DEPTH; k++)
		for (int i = 0; i < 12; i++)
			assert_int_equal(layer_set_state(b->layers[k], rng_below(&b->rng, BLOCKS - 20),
				1 + rng_below(&b->rng, 20), 1 + rng_below(&b->rng, 2)), 0);
}

/* ---- tests ---- */

static void what_is_remembered_is_what_is_there(void **state)
{
	struct bench *b = *state;

	make_chain(b, CHAIN_MEMORY);
	fill(b);
	for (int round = 0; round < 150; round++) {
		/* Mostly the top changes, as it does when the others are frozen. */
		for (int i = 0; i < 3; i++)
			change(b, rng_below(&b->rng, 4) ? DEPTH - 1 : (int)rng_below(&b->rng, DEPTH));
		for (int i = 0; i < 150; i++)
			look_up(b, i % 4 ? DEPTH - 1 : (int)rng_below(&b->rng, DEPTH));
	}
	assert_true(chain_builds(b->cache) > 10);
	assert_true(chain_memory(b->cache) > 0);
}

/* A chain in which nothing is passed often enough costs nothing, and one that is asked of is looked
 * at once per region. */
static void a_region_is_looked_at_once(void **state)
{
	struct bench *b = *state;
	struct extent x;

	make_chain(b, CHAIN_MEMORY);
	for (int i = 0; i < 1000; i++)
		assert_int_equal(layer_resolve(b->layers[3], (uint64_t)i, 1, false, &x), 0);
	assert_int_equal(chain_builds(b->cache), 0);
	for (uint64_t i = 0; i < 10000; i++)
		assert_int_equal(layer_resolve(
			b->layers[DEPTH - 1], rng_below(&b->rng, BLOCKS), 1, false, &x), 0);
	assert_int_equal(chain_builds(b->cache), REGIONS);
	assert_true(chain_memory(b->cache) < REGIONS * 1024);
}

static void memory_is_bounded(void **state)
{
	struct bench *b = *state;
	const size_t memory = 256 * 1024;

	make_chain(b, memory);
	for (int k = 0; k < DEPTH; k++)
		for (int i = 0; i < 300; i++)
			assert_int_equal(layer_set_state(b->layers[k], rng_below(&b->rng, BLOCKS), 1,
				GF_OVERLAY), 0);
	for (int i = 0; i < 40000; i++) {
		int k = DEPTH / 2 + (int)rng_below(&b->rng, DEPTH / 2);
		struct extent x;

		assert_int_equal(layer_resolve(b->layers[k], rng_below(&b->rng, BLOCKS), 8, false, &x), 0);
		if (i % 100 == 0) {
			assert_true(chain_memory(b->cache) <= memory);
			look_up(b, k);
		}
	}
	/* More than would fit. */
	assert_true(chain_builds(b->cache) > 40);
	free_chain(b);
	assert_int_equal(chain_memory(b->cache), 0);
}

static void all_is_void_when_a_chain_changes(void **state)
{
	struct bench *b = *state;
	struct extent x;

	make_chain(b, CHAIN_MEMORY);
	for (int i = 0; i < 100; i++)
		assert_int_equal(layer_resolve(b->layers[DEPTH - 1], 5, 1, false, &x), 0);
	assert_int_equal(chain_builds(b->cache), 1);
	assert_int_equal(x.kind, EXTENT_IMAGE);
	/* A layer in the middle is taken out, as when layers are joined. */
	b->layers[20]->parent = b->layers[18];
	chain_changed(b->cache);
	assert_int_equal(layer_set_state(b->layers[19], 5, 1, GF_OVERLAY), 0);
	assert_int_equal(layer_resolve(b->layers[DEPTH - 1], 5, 1, false, &x), 0);
	assert_int_equal(x.kind, EXTENT_IMAGE);
	for (int i = 0; i < 100; i++)
		look_up(b, DEPTH - 1);
	b->layers[20]->parent = b->layers[19];
	chain_changed(b->cache);
	assert_int_equal(layer_resolve(b->layers[DEPTH - 1], 5, 1, false, &x), 0);
	assert_ptr_equal(x.layer, b->layers[19]);
}

/* ---- threads ---- */

enum { WATCHED = 512, READERS = 3 };

struct watch {
	struct bench *b;
	_Atomic int owner[WATCHED]; /* the layer that is known to own the block, at least */
	atomic_bool stop;
	atomic_bool wrong;
};

static void *watch_main(void *arg)
{
	struct watch *w = arg;
	struct rng rng;

	rng_seed(&rng, (uint64_t)(uintptr_t)&rng);
	while (!atomic_load(&w->stop)) {
		uint64_t i = rng_below(&rng, WATCHED);
		int at_least = atomic_load(&w->owner[i]);
		struct extent x;

		if (layer_resolve(w->b->layers[DEPTH - 1], i * 40, 1, false, &x) ||
			(at_least >= 0 && (!x.layer || (int)x.layer->id - 1 < at_least)))
			atomic_store(&w->wrong, true);
	}
	return NULL;
}

/* Blocks come to be owned by higher and higher layers: nobody finds an older owner again. */
static void nobody_finds_what_was_before(void **state)
{
	struct bench *b = *state;
	struct watch w = {.b = b};
	pthread_t threads[READERS];

	make_chain(b, 128 * 1024);
	for (int i = 0; i < WATCHED; i++)
		w.owner[i] = -1;
	for (int i = 0; i < READERS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, watch_main, &w), 0);
	for (int n = 0; n < 12000 && !atomic_load(&w.wrong); n++) {
		uint64_t i = rng_below(&b->rng, WATCHED);
		int from = atomic_load(&w.owner[i]);
		int to = from + 1 + (int)rng_below(&b->rng, 4);

		if (to >= DEPTH)
			continue;
		assert_int_equal(layer_set_state(b->layers[to], i * 40, 1, GF_OVERLAY), 0);
		atomic_store(&w.owner[i], to);
	}
	atomic_store(&w.stop, true);
	for (int i = 0; i < READERS; i++)
		pthread_join(threads[i], NULL);
	assert_false(atomic_load(&w.wrong));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(what_is_remembered_is_what_is_there, setup, teardown),
		cmocka_unit_test_setup_teardown(a_region_is_looked_at_once, setup, teardown),
		cmocka_unit_test_setup_teardown(memory_is_bounded, setup, teardown),
		cmocka_unit_test_setup_teardown(all_is_void_when_a_chain_changes, setup, teardown),
		cmocka_unit_test_setup_teardown(nobody_finds_what_was_before, setup, teardown),
	};

	return cmocka_run_group_tests_name("chain", tests, NULL, NULL);
}
