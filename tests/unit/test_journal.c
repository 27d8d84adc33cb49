/* SPDX-License-Identifier: MIT */
/*
 * The journal: what is appended is found again, in order, to the last whole record and no further.
 *
 * The ring is a small one on real files, so that it wraps all the time. Between the journal and
 * the files stands a table of functions that counts syncs, can hold them at a gate, and can make
 * them fail. Waiting is for events only; an alarm ends the program if one never comes.
 * SEED=number repeats the random run.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "../crash/rng.h"
#include "base/log.h"
#include "base/sizes.h"
#include "goldfs/format.h"
#include "store/journal.h"
#include "store/ops.h"
#include "store_dir.h"

#define RING UINT64_C(65536)
#define HEADER sizeof(struct gf_disk_record)

static const uint8_t secret[HASH_SECRET_LEN] = "any";

/* ---- syncs under control ---- */

static struct {
	const struct io_ops *real;
	struct io_ops ops;
	atomic_int syncs; /* begun */
	atomic_int error; /* what the next ones give */
	atomic_bool closed; /* the gate: they wait in front of it */
} control;

static void pause_briefly(void)
{
	struct timespec t = {.tv_nsec = 200000};

	nanosleep(&t, NULL);
}

static int controlled_fdatasync(struct io *io, int fd)
{
	(void)io;
	(void)fd;
	atomic_fetch_add(&control.syncs, 1);
	while (atomic_load(&control.closed))
		pause_briefly();
	return atomic_load(&control.error);
}

struct bench {
	struct store_dir dir;
	struct journal *j;
	struct journal_mark start; /* where the ring began to be used */
	struct rng rng;
	uint64_t seed;
};

static int setup(void **state)
{
	struct bench *b = calloc(1, sizeof(*b));

	store_dir_init(&b->dir);
	control.real = b->dir.io->ops;
	control.ops = *control.real;
	control.ops.fdatasync = controlled_fdatasync;
	b->dir.io->ops = &control.ops;
	atomic_store(&control.error, 0);
	atomic_store(&control.closed, false);
	b->seed = seed_from_environment(99);
	rng_seed(&b->rng, b->seed);
	b->start = (struct journal_mark){.seq = 1};
	assert_int_equal(journal_create(b->dir.io, RING), 0);
	assert_int_equal(journal_open(&b->j, b->dir.io, RING, secret, false), 0);
	assert_int_equal(journal_scan(b->j, b->start, NULL, NULL, NULL), 0);
	journal_set_epoch(b->j, 1);
	atomic_store(&control.syncs, 0);
	*state = b;
	return 0;
}

static int teardown(void **state)
{
	struct bench *b = *state;

	journal_close(b->j);
	store_dir_release(&b->dir);
	free(b);
	return 0;
}

/* ---- records ---- */

struct found {
	uint64_t seq, pos;
	size_t len;
	uint8_t first; /* byte of its ops */
	uint8_t *ops;
};

struct list {
	struct found *items;
	size_t count;
	uint64_t stop_at; /* sequence number at which to give up, 0: never */
};

static int note_record(void *arg, uint64_t seq, uint64_t pos, const void *ops, size_t len)
{
	struct list *list = arg;
	struct found *item;

	if (list->stop_at == seq)
		return -ECANCELED;
	list->items = realloc(list->items, (list->count + 1) * sizeof(*list->items));
	item = &list->items[list->count++];
	*item = (struct found){.seq = seq, .pos = pos, .len = len};
	item->ops = malloc(len + 1);
	memcpy(item->ops, ops, len);
	item->first = len ? item->ops[0] : 0;
	return 0;
}

static void list_clear(struct list *list)
{
	for (size_t i = 0; i < list->count; i++)
		free(list->items[i].ops);
	free(list->items);
	memset(list, 0, sizeof(*list));
}

/* Another process opens the ring and looks at it from `from` on. */
static void reopen(struct bench *b, struct journal_mark from, struct list *list, uint64_t *epoch)
{
	journal_close(b->j);
	assert_int_equal(journal_open(&b->j, b->dir.io, RING, secret, false), 0);
	list_clear(list);
	assert_int_equal(journal_scan(b->j, from, note_record, list, epoch), 0);
}

static uint64_t append(struct bench *b, const void *bytes, size_t len)
{
	struct iovec iov = {(void *)bytes, len};
	uint64_t seq, pos;

	assert_int_equal(journal_append(b->j, &iov, 1, &seq, &pos), 0);
	assert_true(journal_last_seq(b->j) == seq);
	return pos;
}

static uint64_t append_bytes(struct bench *b, uint8_t byte, size_t len)
{
	uint8_t *bytes = malloc(len + 1);
	uint64_t pos;

	memset(bytes, byte, len);
	pos = append(b, bytes, len);
	free(bytes);
	return pos;
}

static void records_come_back(void **state)
{
	static const size_t lens[] = {0, 1, 8, 63, 64, 65, 128, 4096, 8000};
	struct bench *b = *state;
	uint8_t bytes[8192], back[8192];
	struct list list = {0};
	struct journal_mark head;
	uint64_t epoch = 7;

	for (size_t i = 0; i < sizeof(bytes); i++)
		bytes[i] = scratch_byte(i, 1);
	for (size_t i = 0; i < ARRAY_SIZE(lens); i++) {
		/* In parts, as writes of a guest come. */
		struct iovec iov[3] = {{bytes, lens[i] / 3}, {bytes + lens[i] / 3, 0},
			{bytes + lens[i] / 3, lens[i] - lens[i] / 3}};
		uint64_t seq, pos;

		assert_int_equal(journal_append(b->j, iov, 3, &seq, &pos), 0);
		assert_int_equal(seq, i + 1);
		assert_int_equal(journal_read(b->j, pos, back, lens[i]), 0);
		assert_memory_equal(back, bytes, lens[i]);
	}
	head = journal_head(b->j);
	reopen(b, b->start, &list, &epoch);
	assert_int_equal(epoch, 1);
	assert_int_equal(list.count, ARRAY_SIZE(lens));
	for (size_t i = 0; i < list.count; i++) {
		assert_int_equal(list.items[i].seq, i + 1);
		assert_int_equal(list.items[i].len, lens[i]);
		assert_memory_equal(list.items[i].ops, bytes, lens[i]);
		assert_int_equal(journal_read(b->j, list.items[i].pos, back, lens[i]), 0);
		assert_memory_equal(back, bytes, lens[i]);
	}
	assert_true(journal_head(b->j).pos == head.pos && journal_head(b->j).prev == head.prev);
	assert_true(journal_used(b->j) == head.pos);
	/* It goes on where it stopped, and an error of the caller ends a scan. */
	journal_set_epoch(b->j, 2);
	append(b, bytes, 10);
	list_clear(&list);
	list.stop_at = 3;
	assert_int_equal(journal_scan(b->j, b->start, note_record, &list, NULL), -ECANCELED);
	assert_int_equal(list.count, 2);
	list_clear(&list);
	assert_int_equal(journal_scan(b->j, b->start, note_record, &list, NULL), 0);
	assert_int_equal(list.count, ARRAY_SIZE(lens) + 1);
	list_clear(&list);
}

static void what_is_wrong_is_refused(void **state)
{
	struct bench *b = *state;
	struct iovec iov[4] = {{0}};
	struct journal *other;
	uint64_t seq, pos;

	assert_int_equal(journal_append(b->j, iov, 4, &seq, &pos), -EINVAL);
	assert_int_equal(journal_open(&other, b->dir.io, 2 * RING, secret, false), -EUCLEAN);
	append_bytes(b, 1, 100);
	assert_int_equal(journal_open(&other, b->dir.io, RING, secret, true), 0);
	assert_int_equal(journal_scan(other, b->start, NULL, NULL, NULL), 0);
	assert_int_equal(journal_last_seq(other), 1);
	assert_int_equal(journal_append(other, iov, 1, &seq, &pos), -EROFS);
	journal_close(other);
	assert_int_equal(b->dir.io->ops->unlink(b->dir.io, "journal/0"), 0);
	assert_int_equal(journal_open(&other, b->dir.io, RING, secret, false), -ENOENT);
}

/* ---- the end of the ring ---- */

/* Begins in an empty ring at `pos`. */
static void start_at(struct bench *b, uint64_t pos)
{
	b->start.pos = pos;
	assert_int_equal(journal_scan(b->j, b->start, NULL, NULL, NULL), 0);
	assert_true(journal_head(b->j).pos == pos && journal_used(b->j) == 0);
}

/* Every length that is left at the end, from the very last 64 bytes on. */
static void ends_of_the_ring_are_padded(void **state)
{
	struct bench *b = *state;
	struct list list = {0};
	uint64_t lap = 3 * RING;

	for (uint64_t left = 64; left < 8192; left += 64, lap += 2 * RING) {
		const struct gf_disk_op *op;
		size_t at = 0;
		int error;

		start_at(b, lap - left);
		/* What fits exactly is not padded. */
		assert_true(append_bytes(b, 1, left - HEADER) == lap - left + HEADER);
		b->start.seq += 100; /* so that nothing of before can be taken for what follows */
		start_at(b, lap + RING - left);
		assert_true(append_bytes(b, 2, left - HEADER + 1) == lap + RING + HEADER);
		reopen(b, b->start, &list, NULL);
		assert_int_equal(list.count, 2);
		assert_int_equal(list.items[1].seq, b->start.seq + 1);
		assert_int_equal(list.items[1].first, 2);
		/* The pad says nothing, in words that can be walked. */
		assert_int_equal(list.items[0].len, left > 64 ? 8 : 0);
		op = ops_next(list.items[0].ops, list.items[0].len, &at, &error);
		assert_int_equal(error, 0);
		assert_int_equal(op != NULL, left > 64);
		if (op)
			assert_int_equal(op->type, GF_OP_PAD);
		b->start.seq += 100;
	}
	list_clear(&list);
}

/* Filled to the last byte, the ring is one chain, and the chain ends where it began. */
static void a_full_ring_is_one_chain(void **state)
{
	struct iovec iov = {(void *)"x", 1};
	uint64_t seq, pos;
	struct bench *b = *state;
	struct list list = {0};

	start_at(b, 5 * RING + 4096);
	for (int i = 0; i < 16; i++)
		append_bytes(b, (uint8_t)(i + 1), 4096 - HEADER);
	assert_true(journal_used(b->j) == RING);
	reopen(b, b->start, &list, NULL);
	assert_int_equal(list.count, 16);
	assert_true(journal_used(b->j) == RING);
	list_clear(&list);
	/* One more would overtake the tail: it is refused and changes nothing. */
	assert_int_equal(journal_append(b->j, &iov, 1, &seq, &pos), -EIO);
	assert_int_equal(journal_scan(b->j, b->start, note_record, &list, NULL), 0);
	assert_int_equal(list.count, 16);
	list_clear(&list);
	journal_set_tail(b->j, journal_head(b->j));
	assert_int_equal(journal_append(b->j, &iov, 1, &seq, &pos), 0);
}

/* Pages before the head are prepared, but never those in which the chain begins: wherever in its page the
 * tail is, the ring is filled up to it and the chain is whole. */
static void what_is_prepared_ends_at_the_tail(void **state)
{
	struct iovec iov = {(void *)"x", 1};
	struct bench *b = *state;
	struct list list = {0};
	uint64_t seq, pos;
	size_t n;

	for (uint64_t at = 0; at < 4096; at += 320) {
		start_at(b, 5 * RING + at);
		for (n = 0; journal_used(b->j) + 2 * 192 <= RING; n++)
			append_bytes(b, (uint8_t)n, 192 - HEADER);
		while (journal_append(b->j, &iov, 1, &seq, &pos) == 0)
			n++;
		reopen(b, b->start, &list, NULL);
		/* The end of the ring may have taken one that says nothing. */
		assert_in_range(list.count, n, n + 1);
		b->start.seq += 1000;
	}
	list_clear(&list);
}

/* A part of the ring ends between two records, and is no longer than was asked for. */
static void parts_of_the_ring_end_between_records(void **state)
{
	struct bench *b = *state;
	struct journal_mark part;
	struct list list = {0};

	assert_true(journal_head_within(b->j, RING / 4).pos == b->start.pos);
	append_bytes(b, 1, 1000);
	assert_true(journal_head_within(b->j, RING / 4).pos == journal_head(b->j).pos);
	for (int lap = 0; lap < 5; lap++) {
		while (journal_used(b->j) < RING - 8192)
			append_bytes(b, 2, 1000);
		part = journal_head_within(b->j, RING / 4);
		assert_true(part.pos > b->start.pos && part.pos - b->start.pos <= RING / 4);
		assert_true(part.pos - b->start.pos > RING / 16);
		/* What is there is the rest of the chain. */
		reopen(b, part, &list, NULL);
		assert_int_equal(list.items[0].seq, part.seq);
		journal_set_tail(b->j, part);
		b->start = part;
	}
	list_clear(&list);
}

/* ---- damage ---- */

static void a_flipped_bit_ends_the_chain(void **state)
{
	const size_t used = 100, length = 192;
	struct bench *b = *state;
	struct list list = {0};
	uint64_t at;

	append_bytes(b, 1, 300);
	append_bytes(b, 2, 20);
	at = append_bytes(b, 3, used) - HEADER;
	for (uint64_t bit = 0; bit < length * 8; bit++) {
		/* Behind the ops there is nothing that counts. */
		size_t want = bit < (HEADER + used) * 8 ? 2 : 3;

		store_dir_flip(&b->dir, "journal/0", at * 8 + bit);
		list_clear(&list);
		assert_int_equal(journal_scan(b->j, b->start, note_record, &list, NULL), 0);
		if (list.count != want)
			fail_msg("bit %" PRIu64 ": %zu records", bit, list.count);
		assert_true(journal_head(b->j).seq == want + 1);
		store_dir_flip(&b->dir, "journal/0", at * 8 + bit);
	}
	/* In the first one, it hides those behind it. */
	store_dir_flip(&b->dir, "journal/0", (HEADER + 5) * 8);
	list_clear(&list);
	assert_int_equal(journal_scan(b->j, b->start, note_record, &list, NULL), 0);
	assert_int_equal(list.count, 0);
	list_clear(&list);
}

/* ---- damage in the middle ---- */

static int lost_in_life(struct bench *b, uint64_t life)
{
	struct list list = {0};
	uint64_t upto;
	int r;

	reopen(b, b->start, &list, NULL);
	list_clear(&list);
	r = journal_lost(b->j, life, &upto);
	assert_true(r >= 0);
	return r;
}

static int lost(struct bench *b)
{
	return lost_in_life(b, JOURNAL_OTHER_LIFE);
}

static void damage_before_what_was_synced_is_told(void **state)
{
	struct bench *b = *state;
	uint64_t pos[12];
	struct list list = {0};

	for (int i = 0; i < 10; i++)
		pos[i] = append_bytes(b, (uint8_t)i, 300);
	assert_int_equal(journal_sync(b->j, 10), 0);
	/* These know of the sync. */
	pos[10] = append_bytes(b, 10, 300);
	pos[11] = append_bytes(b, 11, 300);
	assert_int_equal(lost(b), 0);
	for (int i = 0; i < 12; i++) {
		for (int where = 0; where < 2; where++) {
			/* The header or what follows it. */
			uint64_t bit = (pos[i] - (where ? 20 : 0)) * 8 + 3;
			bool told = i < 10;

			store_dir_flip(&b->dir, "journal/0", bit);
			assert_int_equal(lost(b), told);
			/* By the records alone, and by the file alone. */
			assert_int_equal(b->dir.io->ops->rename(
				b->dir.io, "journal/0.synced", "journal/aside"), 0);
			assert_int_equal(lost(b), told);
			assert_int_equal(b->dir.io->ops->rename(
				b->dir.io, "journal/aside", "journal/0.synced"), 0);
			store_dir_flip(&b->dir, "journal/0", bit);
		}
	}
	store_dir_flip(&b->dir, "journal/0", pos[4] * 8);
	assert_int_equal(lost(b), 1);
	assert_int_equal(journal_forget_lost(b->j), 0);
	assert_int_equal(lost(b), 0);
	reopen(b, b->start, &list, NULL);
	assert_int_equal(list.count, 4);
	list_clear(&list);
}

/* A process that died took nothing with it: what stands behind any record proves that. */
static void damage_in_one_life_is_told(void **state)
{
	struct bench *b = *state;
	uint64_t pos[8];

	pos[0] = append_bytes(b, 0, 300);
	assert_int_equal(journal_sync(b->j, 1), 0);
	for (int i = 1; i < 8; i++)
		pos[i] = append_bytes(b, (uint8_t)i, 300);
	assert_int_equal(lost_in_life(b, 1), 0);
	for (int n = 2; n < 16; n++) {
		int i = n / 2;
		/* The header or what follows it. */
		uint64_t bit = (pos[i] - (n % 2 ? 20 : 0)) * 8 + 3;

		store_dir_flip(&b->dir, "journal/0", bit);
		assert_int_equal(lost(b), 0);
		/* Behind the last there is nothing that could prove it. */
		assert_int_equal(lost_in_life(b, 1), i < 7);
		/* Those behind are of an earlier life, which had not synced record 2. */
		assert_int_equal(lost_in_life(b, 2), 0);
		store_dir_flip(&b->dir, "journal/0", bit);
	}
	/* A successor knows what its predecessor knew, and says so. */
	lost(b);
	journal_believe_synced(b->j);
	append_bytes(b, 8, 300);
	append_bytes(b, 9, 300);
	store_dir_flip(&b->dir, "journal/0", (pos[7] - 20) * 8);
	assert_int_equal(lost_in_life(b, 1), 1);
}

static void the_last_synced_record_is_told_of_beside_the_ring(void **state)
{
	struct bench *b = *state;
	uint64_t pos = 0;

	for (int i = 0; i < 5; i++)
		pos = append_bytes(b, (uint8_t)i, 300);
	assert_int_equal(journal_sync(b->j, 5), 0);
	store_dir_flip(&b->dir, "journal/0", pos * 8);
	assert_int_equal(lost(b), 1);
	/* What is damaged there says nothing. */
	for (uint64_t bit = 0; bit < 32 * 8; bit++) {
		store_dir_flip(&b->dir, "journal/0.synced", bit);
		assert_int_equal(lost(b), 0);
		store_dir_flip(&b->dir, "journal/0.synced", bit);
	}
	store_dir_flip(&b->dir, "journal/0", pos * 8);
	assert_int_equal(lost(b), 0);
}

/* Guests choose what is in their blocks, and know this format. */
static void what_a_guest_writes_is_no_header(void **state)
{
	struct bench *b = *state;
	struct gf_disk_record fake[32];
	uint64_t pos = append_bytes(b, 1, 300);

	for (size_t i = 0; i < ARRAY_SIZE(fake); i++) {
		fake[i] = (struct gf_disk_record){.magic = GF_RECORD_MAGIC, .length = 64,
			.epoch = 1, .seq = i + 2, .durable = UINT64_MAX};
		fake[i].ops_sum = hash_struct(fake, 0);
		fake[i].sum = hash_struct(&fake[i], offsetof(struct gf_disk_record, sum));
	}
	append(b, fake, sizeof(fake));
	append_bytes(b, 3, 300);
	store_dir_flip(&b->dir, "journal/0", pos * 8);
	assert_int_equal(lost(b), 0);
	assert_int_equal(journal_holds_newer(b->j, 3), 1); /* the last one */
	assert_int_equal(journal_holds_newer(b->j, 4), 0);
}

static void an_ended_chain_says_nothing_of_a_newer_one(void **state)
{
	struct bench *b = *state;
	struct list list = {0};
	uint64_t pos = 0;

	for (int round = 0; round < 40; round++) {
		uint64_t end;

		for (int i = 0; i < 6; i++) {
			pos = append_bytes(b, (uint8_t)i, 200 + rng_below(&b->rng, 900));
			if (i == 2)
				assert_int_equal(journal_sync(b->j, journal_last_seq(b->j)), 0);
		}
		/* The last ones did not arrive, and a new epoch begins where the chain ends. */
		store_dir_flip(&b->dir, "journal/0", pos % RING * 8);
		assert_int_equal(lost(b), 0);
		reopen(b, b->start, &list, NULL);
		end = journal_last_seq(b->j);
		list_clear(&list);
		journal_set_epoch(b->j, (uint64_t)round + 2);
		b->start = journal_head(b->j);
		journal_set_tail(b->j, b->start);
		append_bytes(b, 0xee, 40);
		assert_int_equal(journal_sync(b->j, end + 1), 0);
	}
}

static void another_start_finds_nothing(void **state)
{
	struct bench *b = *state;
	struct journal_mark wrong;
	struct list list = {0};

	append_bytes(b, 1, 100);
	for (int field = 0; field < 3; field++) {
		wrong = b->start;
		wrong.pos += field == 0 ? 64 : 0;
		wrong.seq += field == 1;
		wrong.prev += field == 2;
		assert_int_equal(journal_scan(b->j, wrong, note_record, &list, NULL), 0);
		assert_int_equal(list.count, 0);
		assert_true(journal_head(b->j).pos == wrong.pos);
	}
}

/*
 * A record is lost in a power cut while the one behind it survived. What is then written in its
 * place, in a new epoch, must not bring the survivor back, even when it is the same in everything
 * but the epoch.
 */
static void a_new_epoch_does_not_revive_an_old_one(void **state)
{
	struct bench *b = *state;
	struct list list = {0};
	uint64_t second, epoch;

	append_bytes(b, 1, 100);
	second = append_bytes(b, 2, 200);
	append_bytes(b, 3, 100);
	store_dir_flip(&b->dir, "journal/0", second * 8);
	reopen(b, b->start, &list, &epoch);
	assert_int_equal(list.count, 1);
	assert_int_equal(epoch, 1);
	journal_set_epoch(b->j, 2);
	assert_true(append_bytes(b, 2, 200) == second);
	reopen(b, b->start, &list, &epoch);
	assert_int_equal(list.count, 2);
	assert_int_equal(epoch, 2);
	/* An epoch never falls along the chain. */
	journal_set_epoch(b->j, 1);
	append_bytes(b, 4, 100);
	reopen(b, b->start, &list, &epoch);
	assert_int_equal(list.count, 2);
	assert_int_equal(epoch, 2);
	list_clear(&list);
}

/* ---- many laps ---- */

#define MAX_RECORDS 4096

struct written {
	uint64_t seq, pos;
	size_t len;
	uint8_t byte;
	struct journal_mark after;
};

/*
 * Random lengths over many laps, the tail following at random. Whenever another process looks, it
 * finds every record since the tail and none from earlier laps; and whoever has reserved never
 * runs into the tail.
 */
static void laps_never_mix(void **state)
{
	struct bench *b = *state;
	struct written *w = calloc(MAX_RECORDS, sizeof(*w));
	size_t first = 0, count = 0, looks = 0;
	struct journal_mark tail = b->start;
	struct list list = {0};
	uint64_t epoch = 1;

	print_message("SEED=%" PRIu64 "\n", b->seed);
	while (count < MAX_RECORDS) {
		size_t len = rng_below(&b->rng, rng_below(&b->rng, 3) ? 300 : 8129);
		bool urgent = rng_below(&b->rng, 2);

		if (journal_has_room(b->j, len, urgent ? JOURNAL_URGENT : JOURNAL_ORDINARY)) {
			int64_t token = journal_reserve(
				b->j, len, urgent ? JOURNAL_URGENT : JOURNAL_ORDINARY);

			assert_true(token > 0);
			w[count] = (struct written){.len = len, .byte = (uint8_t)(1 + count % 255)};
			w[count].pos = append_bytes(b, w[count].byte, len);
			w[count].seq = journal_last_seq(b->j);
			w[count].after = journal_head(b->j);
			journal_unreserve(b->j, token);
			count++;
			assert_true(journal_used(b->j) <= RING);
		} else {
			assert_true(first < count);
			first += 1 + rng_below(&b->rng, count - first);
			tail = w[first - 1].after;
			journal_set_tail(b->j, tail);
		}
		if (rng_below(&b->rng, 16) == 0) {
			size_t at = first;
			uint64_t seen;

			reopen(b, tail, &list, &seen);
			for (size_t i = 0; i < list.count; i++) {
				const struct found *f = &list.items[i];

				if (at < count && f->seq < w[at].seq) {
					assert_true(f->len <= 8); /* a pad */
					continue;
				}
				if (at == count || f->seq != w[at].seq || f->pos != w[at].pos ||
					f->len != w[at].len ||
					(f->len && (f->first != w[at].byte ||
						f->ops[f->len - 1] != w[at].byte)))
					fail_msg("SEED=%" PRIu64 ": record %" PRIu64
						" is not what was written", b->seed, f->seq);
				at++;
			}
			assert_true(at == count);
			assert_true(seen <= epoch);
			journal_set_epoch(b->j, ++epoch);
			looks++;
		}
	}
	assert_true(looks > 20);
	assert_true(journal_head(b->j).pos > 10 * RING);
	list_clear(&list);
	free(w);
}

/* ---- room ---- */

struct waiter {
	struct journal *j;
	pthread_t thread;
	int64_t result;
	atomic_bool done;
};

static void *wait_for_room(void *arg)
{
	struct waiter *w = arg;

	w->result = journal_reserve(w->j, 1000, JOURNAL_ORDINARY);
	atomic_store(&w->done, true);
	return NULL;
}

static void count_call(void *arg)
{
	atomic_fetch_add((atomic_int *)arg, 1);
}

/* Fills the ring until an ordinary reservation would wait, and starts one that does. */
static void start_waiter(struct bench *b, struct waiter *w, atomic_int *calls)
{
	int before;

	while (journal_has_room(b->j, 1000, JOURNAL_ORDINARY))
		append_bytes(b, 1, 1000);
	journal_set_pressure(b->j, count_call, calls);
	before = atomic_load(calls);
	*w = (struct waiter){.j = b->j};
	assert_int_equal(pthread_create(&w->thread, NULL, wait_for_room, w), 0);
	/* Once for being more than a quarter full, once more for waiting. */
	while (atomic_load(calls) < before + 2)
		pause_briefly();
	assert_false(atomic_load(&w->done));
	assert_true(journal_is_short(b->j));
}

static void finish_waiter(struct waiter *w)
{
	assert_int_equal(pthread_join(w->thread, NULL), 0);
	assert_true(atomic_load(&w->done));
}

static void reservations_wait_for_the_tail(void **state)
{
	struct bench *b = *state;
	atomic_int calls = 0;
	struct waiter w;

	assert_false(journal_is_short(b->j));
	start_waiter(b, &w, &calls);
	journal_set_tail(b->j, journal_head(b->j));
	finish_waiter(&w);
	assert_true(w.result > 0);
	assert_false(journal_is_short(b->j));
	journal_unreserve(b->j, w.result);
}

static void reservations_wait_for_each_other(void **state)
{
	struct bench *b = *state;
	int64_t tokens[64], token;
	atomic_int calls = 0;
	struct waiter w;
	int n = 0;

	while (journal_has_room(b->j, 1000, JOURNAL_ORDINARY)) {
		assert_int_not_equal(n, 64);
		tokens[n] = journal_reserve(b->j, 1000, JOURNAL_ORDINARY);
		assert_true(tokens[n++] > 0);
	}
	/* What is kept for urgent records is still there. */
	assert_true(journal_has_room(b->j, 100, JOURNAL_URGENT));
	token = journal_reserve(b->j, 100, JOURNAL_URGENT);
	assert_true(token > 0);
	journal_unreserve(b->j, token);
	journal_set_pressure(b->j, count_call, &calls);
	w = (struct waiter){.j = b->j};
	assert_int_equal(pthread_create(&w.thread, NULL, wait_for_room, &w), 0);
	while (atomic_load(&calls) < 1)
		pause_briefly();
	assert_false(atomic_load(&w.done));
	journal_unreserve(b->j, tokens[--n]);
	finish_waiter(&w);
	assert_true(w.result > 0);
	journal_unreserve(b->j, w.result);
	while (n)
		journal_unreserve(b->j, tokens[--n]);
	/* All of it is free again. */
	assert_true(journal_has_room(b->j, journal_max_ops(b->j), JOURNAL_ORDINARY));
	assert_int_equal(journal_used(b->j), 0);
}

static void a_stuck_destager_means_no_space(void **state)
{
	struct bench *b = *state;
	atomic_int calls = 0;
	struct waiter w;
	int64_t token;

	assert_int_equal(journal_reserve(b->j, journal_max_ops(b->j) + 1, JOURNAL_URGENT), -EFBIG);
	start_waiter(b, &w, &calls);
	journal_set_stuck(b->j, -ENOSPC);
	finish_waiter(&w);
	assert_int_equal(w.result, -ENOSPC);
	assert_int_equal(journal_reserve(b->j, 1000, JOURNAL_ORDINARY), -ENOSPC);
	/* Once the tail moves, it is over. */
	journal_set_tail(b->j, journal_head(b->j));
	token = journal_reserve(b->j, 1000, JOURNAL_ORDINARY);
	assert_true(token > 0);
	journal_unreserve(b->j, token);
	/* While there is room, being stuck hurts nobody. */
	journal_set_stuck(b->j, -ENOSPC);
	token = journal_reserve(b->j, 1000, JOURNAL_ORDINARY);
	assert_true(token > 0);
	journal_unreserve(b->j, token);
}

/* ---- syncs ---- */

static void note_result(void *arg, int result)
{
	assert_int_equal(result, 0);
	atomic_fetch_add((atomic_int *)arg, 1);
}

struct leader {
	struct bench *b;
	uint64_t seq;
	int result;
};

static void *sync_one(void *arg)
{
	struct leader *l = arg;

	l->result = journal_sync(l->b->j, l->seq);
	return NULL;
}

/* While one sync runs, all others that come are served together by a second one. */
static void syncs_that_wait_are_served_together(void **state)
{
	const int others = 50;
	struct bench *b = *state;
	struct journal_counts counts;
	struct leader l = {.b = b};
	atomic_int done = 0;
	pthread_t thread;

	append_bytes(b, 1, 100);
	l.seq = journal_last_seq(b->j);
	atomic_store(&control.closed, true);
	assert_int_equal(pthread_create(&thread, NULL, sync_one, &l), 0);
	while (atomic_load(&control.syncs) < 1)
		pause_briefly();
	for (int i = 0; i < others; i++) {
		append_bytes(b, 2, 100);
		journal_sync_async(b->j, journal_last_seq(b->j), note_result, &done);
	}
	assert_int_equal(atomic_load(&done), 0);
	atomic_store(&control.closed, false);
	assert_int_equal(pthread_join(thread, NULL), 0);
	assert_int_equal(l.result, 0);
	assert_int_equal(atomic_load(&done), others);
	assert_int_equal(atomic_load(&control.syncs), 2);
	journal_counts(b->j, &counts);
	assert_int_equal(counts.syncs, 2);
	assert_int_equal(counts.records, others + 1);
	assert_int_equal(counts.bytes, (others + 1) * 192);
	/* What is durable already needs none. */
	assert_int_equal(journal_sync(b->j, journal_last_seq(b->j)), 0);
	assert_int_equal(atomic_load(&control.syncs), 2);
}

#define WRITERS 8
#define ROUNDS 40

struct writer {
	struct bench *b;
	pthread_t thread;
	int failures;
};

static void *write_and_sync(void *arg)
{
	struct writer *w = arg;
	uint8_t bytes[40] = {7};

	for (int i = 0; i < ROUNDS; i++) {
		struct iovec iov = {bytes, sizeof(bytes)};
		uint64_t seq, pos;

		w->failures += journal_append(w->b->j, &iov, 1, &seq, &pos) != 0;
		w->failures += journal_sync(w->b->j, seq) != 0;
	}
	return NULL;
}

static void many_writers_leave_one_chain(void **state)
{
	struct bench *b = *state;
	struct writer w[WRITERS];
	struct list list = {0};

	for (int i = 0; i < WRITERS; i++) {
		w[i] = (struct writer){.b = b};
		assert_int_equal(pthread_create(&w[i].thread, NULL, write_and_sync, &w[i]), 0);
	}
	for (int i = 0; i < WRITERS; i++) {
		assert_int_equal(pthread_join(w[i].thread, NULL), 0);
		assert_int_equal(w[i].failures, 0);
	}
	assert_in_range(atomic_load(&control.syncs), 1, WRITERS * ROUNDS);
	reopen(b, b->start, &list, NULL);
	assert_int_equal(list.count, WRITERS * ROUNDS);
	for (size_t i = 0; i < list.count; i++)
		assert_true(list.items[i].len == 40 && list.items[i].first == 7);
	list_clear(&list);
}

static void a_failed_sync_is_final(void **state)
{
	struct bench *b = *state;
	struct iovec iov = {(void *)"x", 1};
	struct journal_mark head;
	uint64_t seq, pos;

	append_bytes(b, 1, 100);
	assert_int_equal(journal_sync(b->j, 1), 0);
	append_bytes(b, 2, 100);
	head = journal_head(b->j);
	atomic_store(&control.error, -EIO);
	assert_int_equal(journal_sync(b->j, 2), -EIO);
	assert_int_equal(journal_error(b->j), -EIO);
	/* The disk recovers; the pages that were lost do not. */
	atomic_store(&control.error, 0);
	atomic_store(&control.syncs, 0);
	assert_int_equal(journal_sync(b->j, 2), -EIO);
	assert_int_equal(journal_sync(b->j, 1), -EIO);
	assert_int_equal(journal_append(b->j, &iov, 1, &seq, &pos), -EIO);
	assert_int_equal(atomic_load(&control.syncs), 0);
	assert_true(journal_head(b->j).pos == head.pos && journal_head(b->j).seq == head.seq);
}

static void note_failure(void *arg, int result)
{
	assert_int_equal(result, -EIO);
	atomic_fetch_add((atomic_int *)arg, 1);
}

/* Those who wait for the next sync when one fails are told, too. */
static void a_failed_sync_fails_those_behind_it(void **state)
{
	struct bench *b = *state;
	struct leader l = {.b = b, .seq = 1};
	atomic_int failed = 0;
	pthread_t thread;

	append_bytes(b, 1, 100);
	atomic_store(&control.closed, true);
	assert_int_equal(pthread_create(&thread, NULL, sync_one, &l), 0);
	while (atomic_load(&control.syncs) < 1)
		pause_briefly();
	for (int i = 0; i < 5; i++)
		journal_sync_async(b->j, 1, note_failure, &failed);
	atomic_store(&control.error, -EIO);
	atomic_store(&control.closed, false);
	assert_int_equal(pthread_join(thread, NULL), 0);
	assert_int_equal(l.result, -EIO);
	assert_int_equal(atomic_load(&failed), 5);
	assert_int_equal(atomic_load(&control.syncs), 1);
}

/* The ring is full, and nobody will ever make room again. */
static void a_failed_sync_wakes_who_waits_for_room(void **state)
{
	struct bench *b = *state;
	atomic_int calls = 0;
	struct waiter w;

	start_waiter(b, &w, &calls);
	atomic_store(&control.error, -EIO);
	assert_int_equal(journal_sync(b->j, journal_last_seq(b->j)), -EIO);
	finish_waiter(&w);
	assert_int_equal(w.result, -EIO);
	assert_int_equal(journal_reserve(b->j, 1, JOURNAL_URGENT), -EIO);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(records_come_back),
		TEST(what_is_wrong_is_refused),
		TEST(ends_of_the_ring_are_padded),
		TEST(a_full_ring_is_one_chain),
		TEST(what_is_prepared_ends_at_the_tail),
		TEST(parts_of_the_ring_end_between_records),
		TEST(a_flipped_bit_ends_the_chain),
		TEST(damage_before_what_was_synced_is_told),
		TEST(damage_in_one_life_is_told),
		TEST(the_last_synced_record_is_told_of_beside_the_ring),
		TEST(what_a_guest_writes_is_no_header),
		TEST(an_ended_chain_says_nothing_of_a_newer_one),
		TEST(another_start_finds_nothing),
		TEST(a_new_epoch_does_not_revive_an_old_one),
		TEST(laps_never_mix),
		TEST(reservations_wait_for_the_tail),
		TEST(reservations_wait_for_each_other),
		TEST(a_stuck_destager_means_no_space),
		TEST(syncs_that_wait_are_served_together),
		TEST(many_writers_leave_one_chain),
		TEST(a_failed_sync_is_final),
		TEST(a_failed_sync_fails_those_behind_it),
		TEST(a_failed_sync_wakes_who_waits_for_room),
	};

	alarm(120);
	if (log_open(LOG_TO_FILE, "/dev/null"))
		return 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
