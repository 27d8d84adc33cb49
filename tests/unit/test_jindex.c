/* SPDX-License-Identifier: MIT */
/* The journal index against an array, and from several threads. SEED=number repeats a run. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "../crash/rng.h"
#include "store/jindex.h"
#include "store_dir.h"

#define LAYERS 5
#define BLOCKS 4000

struct known {
	bool there;
	uint64_t pos, seq;
};

static struct known model[LAYERS][BLOCKS];

/* Numbers of layers and blocks that are far apart and close together. */
static uint64_t layer_id(unsigned i)
{
	return i == LAYERS - 1 ? UINT64_MAX : i + 1;
}

static uint64_t block_number(unsigned i)
{
	return i < BLOCKS / 2 ? i : (UINT64_C(1) << 32) - BLOCKS + i;
}

static void check_collect(struct jindex *ix, uint64_t upto)
{
	struct jentry *list = NULL;
	size_t count = 99, at = 0;

	assert_int_equal(jindex_collect(ix, upto, &list, &count), 0);
	for (unsigned l = 0; l < LAYERS; l++) {
		for (unsigned b = 0; b < BLOCKS; b++) {
			const struct known *k = &model[l][b];

			if (!k->there || k->seq > upto)
				continue;
			assert_true(at < count);
			assert_true(list[at].layer == layer_id(l));
			assert_true(list[at].block == block_number(b));
			assert_true(list[at].pos == k->pos && list[at].seq == k->seq);
			assert_true(list[at].sum == (uint32_t)k->seq * 7);
			at++;
		}
	}
	assert_int_equal(at, count);
	free(list);
}

static void entries_are_found_again(void **state)
{
	uint64_t seed = seed_from_environment(3), there = 0;
	struct jindex *ix;
	struct rng rng;

	print_message("SEED=%llu\n", (unsigned long long)seed);
	rng_seed(&rng, seed);
	memset(model, 0, sizeof(model));
	assert_int_equal(jindex_new(&ix), 0);
	check_collect(ix, UINT64_MAX);
	for (uint64_t seq = 1; seq <= 40000; seq++) {
		unsigned l = rng_below(&rng, LAYERS), b = rng_below(&rng, BLOCKS);
		struct known *k = &model[l][b];
		struct jentry got, entry = {
			layer_id(l), block_number(b), rng_next(&rng), seq, (uint32_t)seq * 7};

		if (rng_below(&rng, 3)) {
			assert_int_equal(jindex_set(ix, &entry), 0);
			there += !k->there;
			*k = (struct known){true, entry.pos, seq};
		} else {
			jindex_remove(ix, entry.layer, entry.block);
			there -= k->there;
			k->there = false;
		}
		l = rng_below(&rng, LAYERS);
		b = rng_below(&rng, BLOCKS);
		k = &model[l][b];
		assert_int_equal(jindex_get(ix, layer_id(l), block_number(b), &got), k->there);
		if (k->there)
			assert_true(got.layer == layer_id(l) && got.block == block_number(b) &&
				got.pos == k->pos && got.seq == k->seq);
		if (seq % 2000 == 0) {
			assert_int_equal(jindex_count(ix), there);
			check_collect(ix, UINT64_MAX);
			check_collect(ix, rng_below(&rng, seq));
			check_collect(ix, 0);
		}
	}
	for (unsigned l = 0; l < LAYERS; l++)
		for (unsigned b = 0; b < BLOCKS; b++)
			jindex_remove(ix, layer_id(l), block_number(b));
	assert_int_equal(jindex_count(ix), 0);
	jindex_free(ix);
	jindex_free(NULL);
}

struct worker {
	struct jindex *ix;
	pthread_t thread;
	uint64_t layer;
	unsigned failures;
};

static void *work(void *arg)
{
	struct worker *w = arg;
	struct jentry got;

	for (uint64_t round = 1; round <= 4; round++) {
		for (uint64_t b = 0; b < 5000; b++) {
			struct jentry entry = {w->layer, b, b * round, round, 0};

			w->failures += jindex_set(w->ix, &entry) != 0;
		}
		for (uint64_t b = 0; b < 5000; b++)
			w->failures += !jindex_get(w->ix, w->layer, b, &got) ||
				got.pos != b * round;
		for (uint64_t b = 0; b < 5000; b += 2)
			jindex_remove(w->ix, w->layer, b);
	}
	return NULL;
}

static void layers_do_not_disturb_each_other(void **state)
{
	struct worker w[4];
	struct jindex *ix;
	struct jentry got;

	assert_int_equal(jindex_new(&ix), 0);
	for (uint64_t i = 0; i < 4; i++) {
		w[i] = (struct worker){.ix = ix, .layer = i + 1};
		assert_int_equal(pthread_create(&w[i].thread, NULL, work, &w[i]), 0);
	}
	/* Somebody who looks at all of it meanwhile sees whole entries. */
	for (int n = 0; n < 10; n++) {
		struct jentry *list;
		size_t count;

		assert_int_equal(jindex_collect(ix, UINT64_MAX, &list, &count), 0);
		for (size_t i = 0; i < count; i++)
			assert_true(list[i].pos == list[i].block * list[i].seq);
		free(list);
	}
	for (int i = 0; i < 4; i++) {
		assert_int_equal(pthread_join(w[i].thread, NULL), 0);
		assert_int_equal(w[i].failures, 0);
	}
	assert_int_equal(jindex_count(ix), 4 * 2500);
	assert_false(jindex_get(ix, 1, 0, &got));
	assert_true(jindex_get(ix, 4, 4999, &got));
	assert_int_equal(got.pos, 4 * 4999);
	jindex_free(ix);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(entries_are_found_again),
		cmocka_unit_test(layers_do_not_disturb_each_other),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
