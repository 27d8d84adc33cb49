/* SPDX-License-Identifier: MIT */
/*
 * Runs of SHARED blocks against an array with a place per block: looking, adding, removing in random
 * order; and their form on disk, from which nothing damaged or hostile comes back. SEED=number
 * repeats a random run.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "../crash/rng.h"
#include "base/cleanup.h"
#include "base/hash.h"
#include "base/sizes.h"
#include "store/pool.h"
#include "store/region.h"
#include "store/runs.h"

#define BLOCKS GF_REGION_BLOCKS
#define IMAGE (UINT64_C(5) << GF_PLACE_SHIFT)

struct model {
	uint64_t places[BLOCKS]; /* 0: nowhere */
	struct runs runs;
};

static struct rng rng;

static uint32_t below(uint32_t n)
{
	return (uint32_t)rng_below(&rng, n);
}

static void start_rng(void)
{
	uint64_t seed = getenv("SEED") ? strtoull(getenv("SEED"), NULL, 10) : 1;

	print_message("SEED=%" PRIu64 "\n", seed);
	rng_seed(&rng, rng_scramble(seed));
}

/* ---- in memory ---- */

static void set(struct model *m, uint32_t first, uint32_t count, uint64_t place)
{
	assert_int_equal(runs_reserve(&m->runs, 2), 0);
	runs_remove(&m->runs, first, count);
	if (place)
		runs_add(&m->runs, first, count, place);
	for (uint32_t i = 0; i < count; i++)
		m->places[first + i] = place ? place + i : 0;
}

/* How many blocks from i on are alike, as runs_find() has it. */
static uint32_t alike(const struct model *m, uint32_t i, uint32_t max)
{
	uint32_t n = 1;

	while (n < max && (m->places[i] ? place_follows(m->places[i + n - 1], m->places[i + n])
					: !m->places[i + n]))
		n++;
	return n;
}

/* Sorted, without overlap, joined where they fit, and as few as that makes them. */
static void assert_same(const struct model *m)
{
	uint32_t count = 0;

	for (uint32_t i = 0, n; i < BLOCKS; i += n) {
		uint32_t told;

		n = alike(m, i, BLOCKS - i);
		assert_int_equal(runs_find(&m->runs, i, BLOCKS - i, &told), m->places[i]);
		assert_int_equal(told, n);
		if (!m->places[i])
			continue;
		assert_true(count < m->runs.count);
		assert_int_equal(m->runs.list[count].first, i);
		assert_int_equal(m->runs.list[count].count, n);
		assert_int_equal(m->runs.list[count].place, m->places[i]);
		count++;
	}
	assert_int_equal(m->runs.count, count);
	assert_true(m->runs.count <= m->runs.room);
}

struct seen {
	const struct model *model;
	uint32_t next, end;
};

static void see(void *arg, uint64_t place, uint32_t first, uint32_t count)
{
	struct seen *seen = arg;

	assert_true(first >= seen->next && count && first + count <= seen->end);
	while (seen->next < first)
		assert_int_equal(seen->model->places[seen->next++], 0);
	for (uint32_t i = 0; i < count; i++)
		assert_int_equal(seen->model->places[seen->next++], place + i);
}

static void assert_each(const struct model *m, uint32_t first, uint32_t count)
{
	struct seen seen = {.model = m, .next = first, .end = first + count};

	runs_each(&m->runs, first, count, see, &seen);
	while (seen.next < seen.end)
		assert_int_equal(m->places[seen.next++], 0);
}

/* From few places, so that neighbours often follow each other. */
static uint64_t some_place(uint32_t first)
{
	static const uint64_t bases[] = {IMAGE, GF_PLACE_POOL,
		GF_PLACE_POOL | UINT64_C(3) << GF_PLACE_SHIFT};

	return bases[below(3)] + 1000 * below(2) + first;
}

static void random_changes(struct model *m, int changes, uint32_t longest)
{
	for (int i = 0; i < changes; i++) {
		uint32_t first = below(BLOCKS), count = 1 + below(longest), n;

		count = min_u64(count, BLOCKS - first);
		set(m, first, count, below(3) ? some_place(first) : 0);
		first = below(BLOCKS);
		n = below(BLOCKS - first) + 1;
		assert_each(m, first, n);
		assert_int_equal(runs_find(&m->runs, first, n, &count), m->places[first]);
		assert_int_equal(count, alike(m, first, n));
		if (i % 64 == 0)
			assert_same(m);
	}
	assert_same(m);
}

static void as_an_array(void **state)
{
	static const uint32_t longest[] = {1, 3, 40, 1000, BLOCKS};

	start_rng();
	for (size_t i = 0; i < ARRAY_SIZE(longest); i++) {
		struct model *m = calloc(1, sizeof(*m));

		random_changes(m, 1500, longest[i]);
		runs_release(&m->runs);
		assert_int_equal(m->runs.count, 0);
		free(m);
	}
}

/* One per block, which is as many as there can be; and all of them at once. */
static void as_many_as_can_be(void **state)
{
	struct model *m = calloc(1, sizeof(*m));

	for (uint32_t i = 0; i < BLOCKS; i++)
		set(m, i, 1, IMAGE + 2 * (uint64_t)i);
	assert_same(m);
	assert_int_equal(m->runs.count, BLOCKS);
	assert_true(runs_length(m->runs.count) <= GF_RUNS_SLOT);
	set(m, 0, BLOCKS, IMAGE + 7);
	assert_same(m);
	assert_int_equal(m->runs.count, 1);
	set(m, 0, BLOCKS, 0);
	assert_same(m);
	runs_release(&m->runs);
	free(m);
}

/* What follows the last block of a file or an image is another one's first. */
static void no_run_goes_on_behind_an_end(void **state)
{
	const uint64_t last = (UINT64_C(1) << GF_PLACE_SHIFT) - 1;

	assert_true(place_follows(IMAGE, IMAGE + 1));
	assert_false(place_follows(IMAGE, IMAGE));
	assert_false(place_follows(IMAGE + 1, IMAGE));
	assert_false(place_follows(IMAGE, IMAGE + 2));
	assert_false(place_follows(IMAGE + last, IMAGE + last + 1));
	assert_false(place_follows((GF_PLACE_POOL - 1), GF_PLACE_POOL));
}

static void a_copy_is_a_copy(void **state)
{
	struct model *m = calloc(1, sizeof(*m));
	struct runs copy, none = {0};

	set(m, 3, 5, IMAGE + 3);
	set(m, 100, 1, GF_PLACE_POOL);
	assert_int_equal(runs_copy(&copy, &m->runs), 0);
	assert_int_equal(copy.count, 2);
	assert_memory_equal(copy.list, m->runs.list, 2 * sizeof(*copy.list));
	set(m, 0, BLOCKS, 0);
	assert_int_equal(copy.list[0].count, 5);
	runs_release(&copy);
	assert_int_equal(runs_copy(&copy, &none), 0);
	assert_int_equal(copy.count, 0);
	assert_null(copy.list);
	runs_release(&m->runs);
	free(m);
}

/* ---- on disk ---- */

#define LAYER 77
#define REGION 12
#define GENERATION 9

static void states_of(const struct model *m, uint8_t states[GF_STATE_BYTES])
{
	memset(states, 0, GF_STATE_BYTES);
	for (uint32_t i = 0; i < BLOCKS; i++)
		states_put(states, i, m->places[i] ? GF_SHARED : i % 3);
}

/* In an allocation of exactly that length. */
static uint8_t *encode(const struct runs *runs, size_t *len)
{
	uint8_t *buf = malloc(runs_length(runs->count));

	*len = runs_length(runs->count);
	runs_encode(runs, LAYER, REGION, GENERATION, buf);
	return buf;
}

static int decode(struct runs *runs, const uint8_t *buf, size_t len, uint32_t count,
	const uint8_t *states)
{
	return runs_decode(runs, buf, len, LAYER, REGION, GENERATION, count, states);
}

static void assert_refused(const uint8_t *buf, size_t len, uint32_t count, const uint8_t *states)
{
	struct runs runs;

	assert_int_equal(decode(&runs, buf, len, count, states), -EUCLEAN);
	assert_null(runs.list);
	assert_int_equal(runs.count, 0);
}

static struct model *some_model(int changes)
{
	struct model *m = calloc(1, sizeof(*m));

	for (int i = 0; i < changes; i++) {
		uint32_t first = below(BLOCKS - 50);

		set(m, first, 1 + below(50), below(4) ? some_place(first) : 0);
	}
	return m;
}

static void there_and_back(void **state)
{
	uint8_t states[GF_STATE_BYTES];

	start_rng();
	for (int changes = 0; changes < 2000; changes = 2 * changes + 1) {
		struct model *m = some_model(changes);
		CLEANUP_FREE uint8_t *buf = NULL;
		struct runs old = m->runs;
		size_t len;

		states_of(m, states);
		buf = encode(&m->runs, &len);
		assert_int_equal(decode(&m->runs, buf, len, old.count, states), 0);
		assert_same(m);
		runs_release(&old);
		runs_release(&m->runs);
		free(m);
	}
}

static void every_damaged_byte_is_seen(void **state)
{
	uint8_t states[GF_STATE_BYTES];
	struct model *m;
	uint8_t *buf;
	size_t len;

	start_rng();
	m = some_model(30);
	states_of(m, states);
	buf = encode(&m->runs, &len);
	for (size_t i = 0; i < len; i++)
		for (int bit = 0; bit < 8; bit++) {
			buf[i] ^= 1u << bit;
			assert_refused(buf, len, m->runs.count, states);
			buf[i] ^= 1u << bit;
		}
	for (uint32_t count = 0; count < m->runs.count + 5; count++)
		if (count != m->runs.count)
			assert_refused(buf, len, count, states);
	free(buf);
	runs_release(&m->runs);
	free(m);
}

/* Of another layer, region or generation, or shorter than it says. */
static void what_belongs_elsewhere(void **state)
{
	uint8_t states[GF_STATE_BYTES];
	struct model *m = calloc(1, sizeof(*m));
	struct runs runs;
	uint8_t *buf;
	size_t len;

	set(m, 3, 5, IMAGE + 3);
	states_of(m, states);
	buf = encode(&m->runs, &len);
	assert_int_equal(runs_decode(&runs, buf, len, LAYER + 1, REGION, GENERATION, 1, states), -EUCLEAN);
	assert_int_equal(runs_decode(&runs, buf, len, LAYER, REGION + 1, GENERATION, 1, states), -EUCLEAN);
	assert_int_equal(runs_decode(&runs, buf, len, LAYER, REGION, GENERATION - 1, 1, states), -EUCLEAN);
	assert_refused(buf, len - 1, 1, states);
	assert_refused(buf, sizeof(struct gf_disk_runs), 1, states);
	assert_refused(buf, 0, 1, states);
	assert_refused(buf, len, UINT32_MAX, states);
	assert_refused(buf, len, BLOCKS + 1, states);
	/* One of its blocks is not SHARED. */
	states_put(states, 7, GF_OVERLAY);
	assert_refused(buf, len, 1, states);
	free(buf);
	runs_release(&m->runs);
	free(m);
}

/* With the right sums: what nobody but an enemy writes. */
static void hostile_runs(void **state)
{
	const uint64_t max = UINT64_C(1) << GF_PLACE_SHIFT;
	static const struct run none[2] = {0};
	const struct run lists[][2] = {
		{{IMAGE, 0, 0}},			 /* nothing */
		{{IMAGE, BLOCKS, 1}},			 /* behind the end */
		{{IMAGE, BLOCKS - 1, 2}},
		{{IMAGE, UINT16_MAX, 1}},
		{{IMAGE, 1, BLOCKS}},
		{{IMAGE, 0, BLOCKS + 1}},
		{{IMAGE, 0, UINT16_MAX}},
		{{IMAGE, UINT16_MAX, UINT16_MAX}},
		{{IMAGE, 5, 5}, {IMAGE, 9, 1}},		 /* overlap */
		{{IMAGE, 5, 5}, {IMAGE, 5, 5}},
		{{IMAGE, 5, 5}, {IMAGE, 0, 1}},		 /* backwards */
		{{0, 0, 1}},				 /* nowhere */
		{{7, 0, 1}},
		{{IMAGE + max - 1, 0, 1}},		 /* over an image's end */
		{{IMAGE + max - 3, 0, 4}},
		{{GF_PLACE_POOL + POOL_FILE_SLOTS, 0, 1}}, /* over a file's end */
		{{GF_PLACE_POOL + POOL_FILE_SLOTS - 1, 0, 2}},
		{{GF_PLACE_POOL + max - 1, 0, 1}},
		{{UINT64_MAX, 0, 1}},
	};
	uint8_t states[GF_STATE_BYTES];

	memset(states, GF_SHARED * 0x55, sizeof(states));
	for (size_t i = 0; i < ARRAY_SIZE(lists); i++) {
		struct runs runs = {.list = (struct run *)lists[i]};
		uint8_t *buf;
		size_t len;

		runs.count = memcmp(&lists[i][1], none, sizeof(none[0])) ? 2 : 1;
		buf = encode(&runs, &len);
		assert_refused(buf, len, runs.count, states);
		free(buf);
	}
}

/* The last ones that are possible. */
static void at_the_ends(void **state)
{
	struct model *m = calloc(1, sizeof(*m));
	uint8_t states[GF_STATE_BYTES];
	struct runs old;
	uint8_t *buf;
	size_t len;

	set(m, 0, 2, GF_PLACE_POOL + POOL_FILE_SLOTS - 2);
	set(m, 2, 2, IMAGE + (UINT64_C(1) << GF_PLACE_SHIFT) - 3);
	set(m, BLOCKS - 1, 1, GF_PLACE_POOL);
	states_of(m, states);
	buf = encode(&m->runs, &len);
	old = m->runs;
	assert_int_equal(decode(&m->runs, buf, len, old.count, states), 0);
	assert_same(m);
	free(buf);
	runs_release(&old);
	runs_release(&m->runs);
	free(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(as_an_array),
		cmocka_unit_test(as_many_as_can_be),
		cmocka_unit_test(no_run_goes_on_behind_an_end),
		cmocka_unit_test(a_copy_is_a_copy),
		cmocka_unit_test(there_and_back),
		cmocka_unit_test(every_damaged_byte_is_seen),
		cmocka_unit_test(what_belongs_elsewhere),
		cmocka_unit_test(hostile_runs),
		cmocka_unit_test(at_the_ends),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
