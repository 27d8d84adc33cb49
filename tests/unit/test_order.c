/* SPDX-License-Identifier: MIT */
/*
 * The order of overlapping writes: requests as the kernel makes them are entered in one thread,
 * in the order of arrival, and carried out in others. That somebody waits is seen in the structure
 * itself; an alarm ends the program if what must happen does not.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include <linux/fuse.h>

#include "../crash/rng.h"
#include "fuse/order.h"
#include "store_dir.h"

struct request {
	struct fuse_in_header in;
	struct fuse_write_in write;
};

static void enter(struct order *order, struct order_entry *entry, uint64_t ino, uint64_t off,
	uint32_t size)
{
	struct request r;

	memset(&r, 0, sizeof(r));
	r.in.opcode = FUSE_WRITE;
	r.in.nodeid = ino;
	r.in.len = (uint32_t)(sizeof(r) + size);
	r.write.offset = off;
	r.write.size = size;
	order_enter(order, entry, &r, sizeof(r));
	assert_true(entry->entered);
}

static unsigned waiting(struct order *order)
{
	unsigned n;

	pthread_mutex_lock(&order->lock);
	n = order->waiting;
	pthread_mutex_unlock(&order->lock);
	return n;
}

struct server {
	struct order *order;
	struct order_entry *entry;
	pthread_t thread;
	atomic_bool passed;
};

static void *serve(void *arg)
{
	struct server *s = arg;

	order_wait(s->order, s->entry);
	atomic_store(&s->passed, true);
	order_leave(s->order, s->entry);
	return NULL;
}

static void start(struct server *s, struct order *order, struct order_entry *entry)
{
	s->order = order;
	s->entry = entry;
	atomic_init(&s->passed, false);
	assert_int_equal(pthread_create(&s->thread, NULL, serve, s), 0);
}

static void finish(struct server *s)
{
	assert_int_equal(pthread_join(s->thread, NULL), 0);
	assert_true(atomic_load(&s->passed));
}

/* Behind a write of inode 5 at [4096, 8192). */
static void overlapping_writes_wait(void **state)
{
	static const struct {
		uint64_t ino, off;
		uint32_t size;
		bool waits;
	} cases[] = {{5, 0, 4096, false}, {5, 8192, 4096, false}, {6, 4096, 4096, false},
		{5, 4096, 4096, true}, {5, 0, 4097, true}, {5, 8191, 1, true},
		{5, 5000, 10, true}, {5, 0, 1 << 20, true}};

	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct order_entry first, second;
		struct order order;
		struct server s;

		order_init(&order);
		enter(&order, &first, 5, 4096, 4096);
		enter(&order, &second, cases[i].ino, cases[i].off, cases[i].size);
		start(&s, &order, &second);
		if (cases[i].waits) {
			while (waiting(&order) != 1)
				usleep(100);
			assert_false(atomic_load(&s.passed));
		} else {
			finish(&s);
		}
		order_wait(&order, &first); /* the earlier one never waits */
		order_leave(&order, &first);
		if (cases[i].waits)
			finish(&s);
		assert_null(order.newest);
		assert_int_equal(order.waiting, 0);
		order_release(&order);
	}
}

static void only_whole_writes_are_entered(void **state)
{
	struct order_entry entry;
	struct order order;
	struct request r;

	order_init(&order);
	memset(&r, 0, sizeof(r));
	for (uint32_t opcode = 0; opcode < 60; opcode++) {
		r.in.opcode = opcode;
		memset(&entry, 0xff, sizeof(entry));
		order_enter(&order, &entry, &r, sizeof(r));
		assert_int_equal(entry.entered, opcode == FUSE_WRITE);
		order_wait(&order, &entry);
		order_leave(&order, &entry);
		assert_null(order.newest);
	}
	/* Cut short, it is for somebody else to refuse. */
	r.in.opcode = FUSE_WRITE;
	for (size_t len = 0; len < sizeof(r); len++) {
		order_enter(&order, &entry, &r, len);
		assert_false(entry.entered);
		order_wait(&order, &entry);
		order_leave(&order, &entry);
	}
	order_release(&order);
}

/* A third write waits for both before it, in whichever order they leave. */
static void all_earlier_ones_count(void **state)
{
	for (int first_leaves = 0; first_leaves < 2; first_leaves++) {
		struct order_entry e[3];
		struct order order;
		struct server s;

		order_init(&order);
		enter(&order, &e[0], 1, 0, 100);
		enter(&order, &e[1], 1, 200, 100);
		enter(&order, &e[2], 1, 50, 200);
		order_wait(&order, &e[1]); /* does not overlap the one before it */
		start(&s, &order, &e[2]);
		while (waiting(&order) != 1)
			usleep(100);
		order_leave(&order, &e[!first_leaves]);
		usleep(1000); /* long enough to see it pass too early, were it wrong */
		assert_false(atomic_load(&s.passed));
		order_leave(&order, &e[first_leaves]);
		finish(&s);
		order_release(&order);
	}
}

/* ---- many: each place ends with what came last ---- */

#define PLACES 8
#define WRITES 4000
#define THREADS 4

static struct {
	struct order order;
	pthread_mutex_t arrival; /* one request is taken at a time */
	struct rng rng;
	unsigned taken;
	unsigned last[PLACES]; /* arrival; number of the last write there */
	unsigned places[PLACES]; /* plain: only the order protects them */
	atomic_uint failures;
} shared;

static void *serve_many(void *arg)
{
	for (;;) {
		struct order_entry entry;
		unsigned number, first, count;

		pthread_mutex_lock(&shared.arrival);
		if (shared.taken == WRITES) {
			pthread_mutex_unlock(&shared.arrival);
			return NULL;
		}
		number = ++shared.taken;
		first = (unsigned)rng_below(&shared.rng, PLACES);
		count = 1 + (unsigned)rng_below(&shared.rng, PLACES - first);
		for (unsigned i = first; i < first + count; i++)
			shared.last[i] = number;
		enter(&shared.order, &entry, 3, (uint64_t)first * 512, count * 512);
		pthread_mutex_unlock(&shared.arrival);

		order_wait(&shared.order, &entry);
		for (unsigned i = first; i < first + count; i++) {
			if (shared.places[i] >= number)
				atomic_fetch_add(&shared.failures, 1);
			shared.places[i] = number;
		}
		order_leave(&shared.order, &entry);
	}
}

static void the_last_write_stands(void **state)
{
	uint64_t seed = seed_from_environment(6);
	pthread_t threads[THREADS];

	print_message("SEED=%llu\n", (unsigned long long)seed);
	rng_seed(&shared.rng, seed);
	order_init(&shared.order);
	pthread_mutex_init(&shared.arrival, NULL);
	for (int i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, serve_many, NULL), 0);
	for (int i = 0; i < THREADS; i++)
		assert_int_equal(pthread_join(threads[i], NULL), 0);
	assert_int_equal(atomic_load(&shared.failures), 0);
	assert_memory_equal(shared.places, shared.last, sizeof(shared.last));
	assert_null(shared.order.newest);
	pthread_mutex_destroy(&shared.arrival);
	order_release(&shared.order);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(overlapping_writes_wait),
		cmocka_unit_test(only_whole_writes_are_entered),
		cmocka_unit_test(all_earlier_ones_count),
		cmocka_unit_test(the_last_write_stands),
	};

	alarm(120);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
