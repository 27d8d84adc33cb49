/* SPDX-License-Identifier: MIT */
/*
 * The table of content, against a model that forgets nothing: what is found was put there, and what
 * was put lately is found. SEED=number repeats a random run.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <inttypes.h>
#include <malloc.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../crash/rng.h"
#include "base/sizes.h"
#include "store/content_table.h"
#include "store_dir.h"

#define OVERHEAD (8 * KIB) /* whatever the budget is */

static struct content_table *table;

static int setup(void **state)
{
	assert_int_equal(content_table_new(&table, 16 * MIB), 0);
	return 0;
}

static int teardown(void **state)
{
	content_table_free(table);
	return 0;
}

static void with_budget(uint64_t budget)
{
	content_table_free(table);
	assert_int_equal(content_table_new(&table, budget), 0);
}

static struct content_place of_layer(uint64_t owner, uint64_t block)
{
	return (struct content_place){.owner = owner, .block = block};
}

static struct content_place of_pool(uint64_t slot)
{
	return (struct content_place){.pool = true, .block = slot};
}

static bool is_same(const struct content_place *a, const struct content_place *b)
{
	return a->pool == b->pool && a->owner == b->owner && a->block == b->block;
}

/* As a checksum is: never 0. */
static uint32_t sum_of(uint64_t n)
{
	uint32_t sum = (uint32_t)rng_scramble(n + 1);

	return sum ? sum : 1;
}

static void put(uint64_t domain, uint32_t sum, struct content_place place)
{
	content_table_put(table, domain, sum, &place);
}

static bool finds(uint64_t domain, uint32_t sum, struct content_place place)
{
	struct content_place found[8];
	unsigned n = content_table_find(table, domain, sum, found, 8);

	for (unsigned i = 0; i < n; i++)
		if (is_same(&found[i], &place))
			return true;
	return false;
}

static void places_are_found_again(void **state)
{
	static const uint64_t owners[] = {0, 1, UINT32_MAX, INT64_MAX};
	struct content_place found[4];

	assert_int_equal(content_table_find(table, 0, 1, found, 4), 0);
	for (unsigned i = 0; i < ARRAY_SIZE(owners); i++) {
		put(0, i + 1, of_layer(owners[i], UINT32_MAX - i));
		assert_int_equal(content_table_find(table, 0, i + 1, found, 4), 1);
		assert_false(found[0].pool);
		assert_true(found[0].owner == owners[i]);
		assert_int_equal(found[0].block, UINT32_MAX - i);
	}
	put(0, UINT32_MAX, of_pool((UINT64_C(1) << 48) - 1));
	assert_int_equal(content_table_find(table, 0, UINT32_MAX, found, 4), 1);
	assert_true(found[0].pool && found[0].owner == 0);
	assert_int_equal(found[0].block, (UINT64_C(1) << 48) - 1);
	assert_int_equal(content_table_count(table), 5);
	/* What cannot be said is not said wrongly. */
	put(0, 99, of_layer(1, UINT64_C(1) << 32));
	put(0, 99, of_layer(UINT64_MAX, 1));
	put(0, 0, of_layer(1, 1));
	assert_int_equal(content_table_find(table, 0, 99, found, 4), 0);
	assert_int_equal(content_table_find(table, 0, 0, found, 4), 0);
	assert_int_equal(content_table_count(table), 5);
}

static void the_newest_place_comes_first(void **state)
{
	struct content_place found[4], a = of_layer(1, 1), b = of_layer(1, 2), c = of_pool(1);

	put(0, 7, a);
	put(0, 7, b);
	assert_int_equal(content_table_find(table, 0, 7, found, 4), 2);
	assert_true(is_same(&found[0], &b) && is_same(&found[1], &a));
	put(0, 7, a);
	assert_int_equal(content_table_find(table, 0, 7, found, 4), 2);
	assert_true(is_same(&found[0], &a) && is_same(&found[1], &b));
	put(0, 7, c);
	assert_int_equal(content_table_find(table, 0, 7, found, 4), 2);
	assert_true(is_same(&found[0], &c) && is_same(&found[1], &a));
	assert_int_equal(content_table_find(table, 0, 7, found, 1), 1);
	assert_true(is_same(&found[0], &c));
	assert_int_equal(content_table_find(table, 0, 7, found, 0), 0);
	content_table_drop(table, 0, 7, &c);
	content_table_drop(table, 0, 7, &b);
	assert_int_equal(content_table_find(table, 0, 7, found, 4), 1);
	assert_true(is_same(&found[0], &a));
	content_table_drop(table, 0, 7, &a);
	content_table_drop(table, 0, 7, &a);
	assert_int_equal(content_table_find(table, 0, 7, found, 4), 0);
	assert_int_equal(content_table_count(table), 0);
}

static void domains_are_apart(void **state)
{
	static const uint64_t domains[] = {0, 1, 2, UINT64_C(1) << 32, UINT64_MAX};
	struct content_place found[8];

	for (uint64_t d = 0; d < ARRAY_SIZE(domains); d++)
		for (uint64_t n = 0; n < 5000; n++)
			put(domains[d], sum_of(n), of_layer(d + 1, n));
	for (uint64_t d = 0; d < ARRAY_SIZE(domains); d++) {
		for (uint64_t n = 0; n < 5000; n++) {
			unsigned count =
				content_table_find(table, domains[d], sum_of(n), found, 8);

			for (unsigned i = 0; i < count; i++)
				assert_int_equal(found[i].owner, d + 1);
		}
	}
	content_table_drop(table, 1, sum_of(1), &(struct content_place){.owner = 1, .block = 1});
	assert_true(finds(0, sum_of(1), of_layer(1, 1)));
	assert_int_equal(content_table_find(table, 3, sum_of(1), found, 8), 0);
}

static uint64_t count_found(uint64_t first, uint64_t end)
{
	uint64_t found = 0;

	for (uint64_t n = first; n < end; n++)
		found += finds(0, sum_of(n), of_layer(1, n));
	return found;
}

static void it_grows_with_what_is_put(void **state)
{
	uint64_t last = content_table_memory(table), many = 300000;

	assert_true(last <= OVERHEAD);
	for (uint64_t n = 1; n <= many; n++) {
		uint64_t memory;

		put(0, sum_of(n), of_layer(1, n));
		if (n & (n - 1))
			continue;
		memory = content_table_memory(table);
		assert_true(memory >= last);
		/* A share for each shard; then six times what entries take. */
		assert_true(memory <= OVERHEAD + 64 * KIB + n * 24 * 6);
		last = memory;
	}
	/* While there is room, next to nothing is forgotten. */
	assert_true(count_found(1, many + 1) > many - many / 100);
	assert_true(content_table_count(table) > many - many / 100);
	assert_true(content_table_count(table) <= many);
}

static void the_budget_is_kept(void **state)
{
	static const uint64_t budgets[] = {0, 1, 64 * KIB, 100001, MIB, 5 * MIB + 12345};

	for (unsigned i = 0; i < ARRAY_SIZE(budgets); i++) {
		uint64_t budget = max_u64(budgets[i], 64 * KIB), entries, many;

		with_budget(budgets[i]);
		entries = budget / 24;
		many = 8 * entries;
		for (uint64_t n = 1; n <= many; n++) {
			put(0, sum_of(n), of_layer(1, n));
			if (n % 1000 == 0)
				assert_true(content_table_memory(table) <= budget + OVERHEAD);
		}
		/* It is used, too. */
		assert_true(content_table_memory(table) >= budget - budget / 8);
		assert_true(content_table_count(table) >= entries - entries / 8);
		/* The newest is there always, most of what fits in half of it, little of what is
		 * old. */
		assert_true(finds(0, sum_of(many), of_layer(1, many)));
		assert_true(count_found(many - entries / 2, many) > entries / 2 * 95 / 100);
		assert_true(count_found(1, entries + 1) < entries / 100);
	}
}

/* More bits of a hash come back with the place. */
static void tags_are_kept(void **state)
{
	struct content_place place = of_layer(3, 4), found;

	with_budget(MIB);
	place.tag = 77;
	put(0, sum_of(1), place);
	put(0, sum_of(2), of_layer(3, 5));
	assert_int_equal(content_table_find(table, 0, sum_of(1), &found, 1), 1);
	assert_int_equal(found.tag, 77);
	assert_int_equal(content_table_find(table, 0, sum_of(2), &found, 1), 1);
	assert_int_equal(found.tag, 0);
	/* A place has one. */
	place.tag = 78;
	put(0, sum_of(1), place);
	assert_int_equal(content_table_find(table, 0, sum_of(1), &found, 1), 1);
	assert_int_equal(found.tag, 78);
	assert_int_equal(content_table_count(table), 2);
}

static void large_domains_find_nothing(void **state)
{
	with_budget(MIB);
	put(UINT64_C(1) << 32, sum_of(1), of_layer(3, 4));
	assert_int_equal(content_table_count(table), 0);
	assert_false(finds(0, sum_of(1), of_layer(3, 4)));
}

static void what_is_offered_drives_nobody_out(void **state)
{
	uint64_t entries, taken = 0;

	with_budget(0);
	for (uint64_t n = 1; n <= 100; n++)
		put(0, sum_of(n), of_layer(1, n));
	for (uint64_t n = 101; n <= 100000; n++) {
		struct content_place place = of_layer(2, n);

		taken += content_table_offer(table, 0, sum_of(n), &place);
	}
	entries = content_table_count(table);
	assert_int_equal(entries, 100 + taken);
	assert_in_range(content_table_memory(table), 32 * KIB, 64 * KIB + OVERHEAD);
	for (uint64_t n = 1; n <= 100; n++) {
		struct content_place place = of_layer(2, n);

		assert_true(finds(0, sum_of(n), of_layer(1, n)));
		/* It is a second place at most, and after the newer one. */
		content_table_offer(table, 0, sum_of(n), &place);
		assert_true(finds(0, sum_of(n), of_layer(1, n)));
	}
	assert_in_range(content_table_count(table), entries, entries + 100);
}

/* ---- random, against a model ---- */

#define KEYS 3000
#define PLACES 6

struct known {
	bool there[PLACES]; /* put, and not dropped since */
	int newest;	    /* -1: that was dropped */
};

static struct known model[3][KEYS];

static struct content_place random_place(uint64_t key, int i)
{
	return i % 2 ? of_pool(key * PLACES + (uint64_t)i) : of_layer((uint64_t)i + 1, key);
}

static void check_key(uint64_t seed, uint64_t domain, uint64_t key)
{
	struct content_place found[PLACES];
	const struct known *k = &model[domain][key];
	unsigned n = content_table_find(table, domain, sum_of(key), found, PLACES);

	for (unsigned i = 0; i < n; i++) {
		int place = 0;

		while (place < PLACES) {
			struct content_place p = random_place(key, place);

			if (is_same(&found[i], &p))
				break;
			place++;
		}
		if (place == PLACES || !k->there[place])
			fail_msg("SEED=%" PRIu64 ": key %" PRIu64 " was made up", seed, key);
		for (unsigned j = 0; j < i; j++)
			assert_false(is_same(&found[i], &found[j]));
	}
	if (n && k->newest >= 0) {
		struct content_place p = random_place(key, k->newest);

		assert_true(is_same(&found[0], &p));
	}
}

static void it_forgets_but_never_invents(void **state)
{
	uint64_t seed = seed_from_environment(7);
	struct rng rng;

	print_message("SEED=%" PRIu64 "\n", seed);
	rng_seed(&rng, seed);
	memset(model, 0, sizeof(model));
	with_budget(0);
	for (int i = 0; i < 300000; i++) {
		uint64_t domain = rng_below(&rng, 3), key = rng_below(&rng, KEYS);
		int place = (int)rng_below(&rng, PLACES);
		struct content_place p = random_place(key, place);
		struct known *k = &model[domain][key];

		if (rng_below(&rng, 3)) {
			content_table_put(table, domain, sum_of(key), &p);
			k->there[place] = true;
			k->newest = place;
			assert_true(finds(domain, sum_of(key), p));
		} else {
			content_table_drop(table, domain, sum_of(key), &p);
			k->there[place] = false;
			if (k->newest == place)
				k->newest = -1;
			assert_false(finds(domain, sum_of(key), p));
		}
		check_key(seed, rng_below(&rng, 3), rng_below(&rng, KEYS));
	}
	for (uint64_t domain = 0; domain < 3; domain++)
		for (uint64_t key = 0; key < KEYS; key++)
			check_key(seed, domain, key);
	/* Nothing is left of what is dropped. */
	for (uint64_t domain = 0; domain < 3; domain++) {
		for (uint64_t key = 0; key < KEYS; key++) {
			for (int place = 0; place < PLACES; place++) {
				struct content_place p = random_place(key, place);

				content_table_drop(table, domain, sum_of(key), &p);
			}
		}
	}
	assert_int_equal(content_table_count(table), 0);
}

/* ---- threads ---- */

#define THREADS 4

static void *use_it(void *arg)
{
	uint64_t me = (uint64_t)(uintptr_t)arg;
	struct rng rng;

	rng_seed(&rng, me);
	for (int i = 0; i < 30000; i++) {
		uint64_t n = rng_below(&rng, 20000);
		struct content_place found[4];
		struct content_place mine = of_layer(me, n);
		unsigned count;

		/* While others have the table grow. */
		content_table_expect(table, 0, sum_of(n));
		content_table_put(table, 0, sum_of(n), &mine);
		count = content_table_find(table, 0, sum_of(n), found, 4);
		for (unsigned k = 0; k < count; k++) {
			assert_in_range(found[k].owner, 1, THREADS);
			assert_int_equal(found[k].block, n);
		}
		if (i % 3 == 0)
			content_table_drop(table, 0, sum_of(n), &mine);
		if (i % 1000 == 0) {
			assert_true(content_table_count(table) <= 2 * 20000);
			assert_true(content_table_memory(table) > 0);
		}
	}
	return NULL;
}

static void threads_share_it(void **state)
{
	pthread_t threads[THREADS];

	for (uintptr_t i = 0; i < THREADS; i++)
		assert_int_equal(
			pthread_create(&threads[i], NULL, use_it, (void *)(i + 1)), 0);
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
}

/* Of the process, bytes; 0: nobody says, or what is there besides is more. */
static uint64_t resident(void)
{
	unsigned long pages = 0;
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
	FILE *file = fopen("/proc/self/statm", "re");

	if (file && fscanf(file, "%*u %lu", &pages) != 1)
		pages = 0;
	if (file)
		fclose(file);
#endif
	return pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

#define FILLING 8

static void *fill_it(void *arg)
{
	uint64_t me = (uint64_t)(uintptr_t)arg;

	for (uint64_t n = 0; n < 2 * 128 * MIB / 24 / FILLING; n++) {
		const struct content_place place = of_layer(me, n);

		content_table_put(table, 0, (uint32_t)((n * FILLING + me) * 2654435761u) | 1, &place);
	}
	return NULL;
}

/* What shards had before they grew is not kept by anybody, whichever thread had them grow. */
static void threads_keep_the_budget(void **state)
{
	const uint64_t budget = 128 * MIB, before = resident();
	pthread_t threads[FILLING];

	/* As it comes to be when large memory was given back. */
	mallopt(M_MMAP_THRESHOLD, 32 * MIB);
	with_budget(budget);
	for (uintptr_t i = 0; i < FILLING; i++)
		assert_int_equal(
			pthread_create(&threads[i], NULL, fill_it, (void *)(i + 1)), 0);
	for (int i = 0; i < FILLING; i++)
		pthread_join(threads[i], NULL);
	assert_true(content_table_memory(table) > budget / 2);
	if (before)
		assert_true(resident() <= before + budget + budget / 10);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(places_are_found_again),
		TEST(the_newest_place_comes_first),
		TEST(domains_are_apart),
		TEST(it_grows_with_what_is_put),
		TEST(the_budget_is_kept),
		TEST(tags_are_kept),
		TEST(large_domains_find_nothing),
		TEST(what_is_offered_drives_nobody_out),
		TEST(it_forgets_but_never_invents),
		TEST(threads_share_it),
		TEST(threads_keep_the_budget),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
