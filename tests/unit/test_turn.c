/* SPDX-License-Identifier: MIT */
/*
 * Taking turns: one at a time, nobody sleeps while there is work, and who has enough company is not
 * woken for nothing.
 *
 * That somebody sleeps is seen in the turn itself, so nothing depends on time; an alarm ends the
 * program if what must happen does not. SEED=number repeats a random run.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <inttypes.h>
#include <sched.h>
#include <time.h>
#include <unistd.h>

#include "../crash/rng.h"
#include "fuse/lookout.h"
#include "fuse/turn.h"
#include "store_dir.h"

static struct turn turn;

static int setup(void **state)
{
	turn_init(&turn, 4);
	alarm(120);
	return 0;
}

static int teardown(void **state)
{
	turn_release(&turn);
	alarm(0);
	return 0;
}

static void wait_until_asleep(unsigned n)
{
	struct timespec t = {.tv_nsec = 100000};

	while (atomic_load(&turn.sleeping) != n)
		nanosleep(&t, NULL);
}

struct taker {
	pthread_t thread;
	struct turn_waiter waiter;
	atomic_bool has;
	atomic_bool goes; /* leaves when this is set */
};

static void *take(void *arg)
{
	struct timespec t = {.tv_nsec = 100000};
	struct taker *k = arg;

	assert_true(turn_take(&turn, &k->waiter, 0));
	atomic_store(&k->has, true);
	while (!atomic_load(&k->goes))
		nanosleep(&t, NULL);
	turn_leave(&turn, &k->waiter);
	return NULL;
}

static void start(struct taker *k)
{
	turn_waiter_init(&turn, &k->waiter);
	atomic_init(&k->has, false);
	atomic_init(&k->goes, false);
	assert_int_equal(pthread_create(&k->thread, NULL, take, k), 0);
}

static void wait_until_has(struct taker *k)
{
	struct timespec t = {.tv_nsec = 100000};

	while (!atomic_load(&k->has))
		nanosleep(&t, NULL);
}

static void end(struct taker *k)
{
	atomic_store(&k->goes, true);
	pthread_join(k->thread, NULL);
	turn_waiter_release(&turn, &k->waiter);
}

/* The caller has the turn, and another one waits for it. */
static void hold_while_it_sleeps(struct turn_waiter *w, struct taker *other)
{
	turn_waiter_init(&turn, w);
	assert_true(turn_take(&turn, w, 0));
	start(other);
	wait_until_asleep(1);
}

static void one_alone_keeps_it(void **state)
{
	struct turn_waiter w;

	turn_waiter_init(&turn, &w);
	assert_true(turn_take(&turn, &w, 0));
	assert_true(turn_take(&turn, &w, 0));
	assert_false(turn_is_wanted(&turn));
	assert_true(turn_wants_more(&turn));
	turn_pass(&turn, &w, true);
	assert_int_equal(w.state, TURN_ACTIVE);
	assert_int_equal(atomic_load(&turn.active), 1);
	assert_true(turn_take(&turn, &w, 1));
	turn_leave(&turn, &w);
	/* Whoever does not come is not counted, however often it says so. */
	turn_leave(&turn, &w);
	assert_int_equal(atomic_load(&turn.active), 0);
	assert_false(atomic_load(&turn.held));
	turn_waiter_release(&turn, &w);
}

static void who_leaves_wakes_another(void **state)
{
	struct taker a, b;
	struct turn_waiter w;

	hold_while_it_sleeps(&w, &a);
	start(&b);
	wait_until_asleep(2);
	assert_int_equal(atomic_load(&turn.active), 0);
	turn_leave(&turn, &w);
	/* The one that went to sleep last, and no other. */
	wait_until_has(&b);
	assert_int_equal(atomic_load(&turn.sleeping), 1);
	assert_false(atomic_load(&a.has));
	end(&b);
	wait_until_has(&a);
	end(&a);
	assert_int_equal(atomic_load(&turn.active), 0);
	turn_waiter_release(&turn, &w);
}

static void one_that_comes_back_wakes_nobody_unless_there_is_more(void **state)
{
	struct turn_waiter w;
	struct taker a;

	hold_while_it_sleeps(&w, &a);
	turn_pass(&turn, &w, false);
	assert_int_equal(atomic_load(&turn.sleeping), 1);
	assert_true(turn_take(&turn, &w, 0));
	turn_pass(&turn, &w, true);
	wait_until_has(&a);
	/* Which is away then, at something that takes its time. */
	assert_int_equal(atomic_load(&turn.active), 1);
	end(&a);
	assert_true(turn_take(&turn, &w, 0));
	turn_leave(&turn, &w);
	turn_waiter_release(&turn, &w);
}

static void who_is_active_and_has_to_wait_wakes_another(void **state)
{
	struct turn_waiter w;
	struct taker a;

	hold_while_it_sleeps(&w, &a);
	turn_pass(&turn, &w, false);
	turn_leave(&turn, &w);
	wait_until_has(&a);
	end(&a);
	turn_waiter_release(&turn, &w);
}

static void a_look_helps_where_the_active_one_does_not_come(void **state)
{
	struct turn_waiter w;
	struct taker a;

	hold_while_it_sleeps(&w, &a);
	assert_false(turn_look(&turn)); /* it is held */
	turn_pass(&turn, &w, false);
	assert_true(turn_look(&turn)); /* it may come yet */
	assert_int_equal(atomic_load(&turn.sleeping), 1);
	assert_true(turn_look(&turn));
	wait_until_has(&a);
	/* It comes late, and is counted again. */
	end(&a);
	assert_true(turn_take(&turn, &w, 0));
	assert_int_equal(atomic_load(&turn.active), 0);
	turn_pass(&turn, &w, false);
	assert_int_equal(atomic_load(&turn.active), 1);
	turn_leave(&turn, &w);
	assert_int_equal(atomic_load(&turn.active), 0);
	turn_waiter_release(&turn, &w);
}

static void a_look_leaves_those_alone_who_come_again(void **state)
{
	struct turn_waiter w;
	struct taker a;

	hold_while_it_sleeps(&w, &a);
	for (int i = 0; i < 3; i++) {
		turn_pass(&turn, &w, false);
		assert_true(turn_look(&turn));
		assert_true(turn_take(&turn, &w, 0));
		assert_false(turn_look(&turn));
		assert_int_equal(atomic_load(&turn.sleeping), 1);
	}
	turn_leave(&turn, &w);
	wait_until_has(&a);
	end(&a);
	turn_waiter_release(&turn, &w);
}

/* One is held up and was found to be; another takes something long: it does not count on the first. */
static void one_that_is_overdue_is_not_counted_on(void **state)
{
	struct turn_waiter w, other;
	struct taker a;

	hold_while_it_sleeps(&w, &a);
	turn_waiter_init(&turn, &other);
	turn_pass(&turn, &w, false);
	assert_true(turn_take(&turn, &other, 0));
	assert_true(turn_look(&turn));
	assert_true(turn_look(&turn));
	assert_int_equal(atomic_load(&turn.sleeping), 1);
	turn_leave(&turn, &other);
	wait_until_has(&a);
	turn_leave(&turn, &w);
	end(&a);
	turn_waiter_release(&turn, &other);
	turn_waiter_release(&turn, &w);
}

/* Whether it looks already or sleeps, as it does when nothing comes for some time. */
static void the_lookout_wakes_who_is_needed(void **state)
{
	static const unsigned pauses_ms[] = {0, 2 * LOOKOUT_MS, 100 * LOOKOUT_MS};
	struct lookout lookout;

	assert_int_equal(lookout_start(&lookout, &turn), 0);
	for (size_t i = 0; i < sizeof(pauses_ms) / sizeof(pauses_ms[0]); i++) {
		struct turn_waiter w;
		struct taker a;

		hold_while_it_sleeps(&w, &a);
		usleep(pauses_ms[i] * 1000);
		assert_int_equal(atomic_load(&turn.sleeping), 1);
		turn_pass(&turn, &w, false);
		lookout_wake(&lookout);
		wait_until_has(&a);
		turn_leave(&turn, &w);
		end(&a);
		turn_waiter_release(&turn, &w);
	}
	lookout_stop(&lookout);
}

/* As many as there are processors, between two and four. */
static void enough_is_a_matter_of_processors(void **state)
{
	static const unsigned processors[] = {1, 2, 3, 4, 64}, enough[] = {2, 2, 3, 4, 4};

	for (unsigned i = 0; i < sizeof(enough) / sizeof(enough[0]); i++) {
		struct turn t;

		turn_init(&t, processors[i]);
		for (unsigned active = 0; active < 6; active++) {
			atomic_store(&t.active, active);
			assert_int_equal(turn_wants_more(&t), active + 1 < enough[i]);
		}
		turn_release(&t);
	}
}

static void *take_a_second(void *arg)
{
	struct turn_waiter w;

	turn_waiter_init(&turn, &w);
	assert_false(turn_take(&turn, &w, 1));
	assert_int_equal(w.state, TURN_AWAY);
	turn_waiter_release(&turn, &w);
	return NULL;
}

static void sleep_can_end(void **state)
{
	struct turn_waiter w;
	pthread_t thread;

	turn_waiter_init(&turn, &w);
	assert_true(turn_take(&turn, &w, 0));
	assert_int_equal(pthread_create(&thread, NULL, take_a_second, NULL), 0);
	pthread_join(thread, NULL);
	assert_int_equal(atomic_load(&turn.sleeping), 0);
	assert_int_equal(atomic_load(&turn.active), 0);
	turn_leave(&turn, &w);
	turn_waiter_release(&turn, &w);
}

/* ---- a queue of work, taken by several ---- */

#define WORKERS 6
#define ITEMS 60000

struct queue {
	unsigned left;	 /* under the turn alone, with no atomics: the sanitizer would see two */
	unsigned taken;
	atomic_uint done;
	uint64_t seed;
};

struct worker {
	pthread_t thread;
	struct queue *queue;
	uint64_t number;
	struct turn_waiter waiter;
};

static void serve_some(struct worker *w, struct rng *rng)
{
	struct queue *q = w->queue;
	bool any;

	/* A short limit now and then, which is nearly always too long. */
	if (!turn_take(&turn, &w->waiter, rng_below(rng, 50) == 0) &&
		!turn_take(&turn, &w->waiter, 0))
		fail();
	any = q->left != 0;
	if (any) {
		q->left--;
		q->taken++;
	}
	switch (rng_below(rng, 6)) {
	case 0:
		turn_leave(&turn, &w->waiter);
		sched_yield();
		break;
	case 1:
		turn_pass(&turn, &w->waiter, true);
		turn_leave(&turn, &w->waiter);
		break;
	case 2:
		break; /* kept */
	default:
		turn_pass(&turn, &w->waiter, turn_wants_more(&turn));
	}
	if (any)
		atomic_fetch_add(&q->done, 1);
}

static void *work(void *arg)
{
	struct worker *w = arg;
	struct rng rng;

	rng_seed(&rng, w->queue->seed + w->number);
	while (atomic_load(&w->queue->done) < ITEMS)
		serve_some(w, &rng);
	turn_leave(&turn, &w->waiter);
	return NULL;
}

/* Finds some overdue that are on their way, too: they are counted again when they come. */
static void *look_on(void *arg)
{
	struct queue *q = arg;

	while (atomic_load(&q->done) < ITEMS) {
		turn_look(&turn);
		sched_yield();
	}
	return NULL;
}

static void all_work_is_done_once(void **state)
{
	struct worker workers[WORKERS];
	pthread_t looking;
	struct queue queue = {.left = ITEMS};

	queue.seed = seed_from_environment((uint64_t)time(NULL));
	print_message("SEED=%" PRIu64 "\n", queue.seed);
	atomic_init(&queue.done, 0);
	for (unsigned i = 0; i < WORKERS; i++) {
		workers[i] = (struct worker){.queue = &queue, .number = i};
		turn_waiter_init(&turn, &workers[i].waiter);
		assert_int_equal(
			pthread_create(&workers[i].thread, NULL, work, &workers[i]), 0);
	}
	assert_int_equal(pthread_create(&looking, NULL, look_on, &queue), 0);
	for (unsigned i = 0; i < WORKERS; i++)
		pthread_join(workers[i].thread, NULL);
	pthread_join(looking, NULL);
	for (unsigned i = 0; i < WORKERS; i++)
		turn_waiter_release(&turn, &workers[i].waiter);
	assert_int_equal(queue.taken, ITEMS);
	assert_int_equal(atomic_load(&turn.active), 0);
	assert_int_equal(atomic_load(&turn.sleeping), 0);
	assert_false(atomic_load(&turn.held));
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(one_alone_keeps_it),
		TEST(who_leaves_wakes_another),
		TEST(one_that_comes_back_wakes_nobody_unless_there_is_more),
		TEST(who_is_active_and_has_to_wait_wakes_another),
		TEST(a_look_helps_where_the_active_one_does_not_come),
		TEST(a_look_leaves_those_alone_who_come_again),
		TEST(one_that_is_overdue_is_not_counted_on),
		TEST(the_lookout_wakes_who_is_needed),
		TEST(enough_is_a_matter_of_processors),
		TEST(sleep_can_end),
		TEST(all_work_is_done_once),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
