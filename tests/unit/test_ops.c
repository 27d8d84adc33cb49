/* SPDX-License-Identifier: MIT */
/*
 * Ops: what the builder makes the walk accepts, and nothing else.
 *
 * One sound op of every type is the ground for all of it: wrong lengths, counters that promise
 * more than is there or overflow, values that apply must never see, and random damage. Bytes to be
 * walked stand in an allocation of exactly their length, so that an instrumented build sees every
 * read beyond them. SEED=number repeats a random run.
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
#include "base/sizes.h"
#include "store/ops.h"
#include "store_dir.h"

#define MAX_BLOCK (GF_MAX_SIZE / GF_BLOCK_SIZE)
#define MAX_REGION (GF_MAX_SIZE / GF_REGION_SIZE)

/* ---- one of each ---- */

struct sample {
	enum gf_op_type type;
	size_t fixed;
	size_t tail;
};

static const struct sample samples[] = {
	{GF_OP_PAD, sizeof(struct gf_disk_op), 0},
	{GF_OP_EPOCH, sizeof(struct gf_op_epoch), 0},
	{GF_OP_WRITE, sizeof(struct gf_op_blocks), 4096},
	{GF_OP_LARGE, sizeof(struct gf_op_blocks), 5 * 4},
	{GF_OP_SHARE, sizeof(struct gf_op_share), 3 * 4},
	{GF_OP_COMMIT, sizeof(struct gf_op_commit), 0},
	{GF_OP_CLEAR, sizeof(struct gf_op_clear), 0},
	{GF_OP_INTENT, sizeof(struct gf_op_intent), 0},
	{GF_OP_INODE, sizeof(struct gf_op_inode), 5 + 6},
	{GF_OP_ATTR, sizeof(struct gf_op_attr), 0},
	{GF_OP_RENAME, sizeof(struct gf_op_rename), 3},
	{GF_OP_UNLINK, sizeof(struct gf_op_ino), 0},
	{GF_OP_DROP, sizeof(struct gf_op_ino), 0},
	{GF_OP_SIZE, sizeof(struct gf_op_size), 0},
	{GF_OP_XATTR, sizeof(struct gf_op_xattr), 6 + 9},
	{GF_OP_LAYER, sizeof(struct gf_op_layer), 0},
	{GF_OP_HEAD, sizeof(struct gf_op_pair), 0},
	{GF_OP_GOLDEN, sizeof(struct gf_op_golden), 10},
	{GF_OP_PAGES, sizeof(struct gf_op_pages), 3 * 8},
	{GF_OP_BOUND, sizeof(struct gf_op_pair), 0},
	{GF_OP_SUSPECT, sizeof(struct gf_op_intent), 0},
	{GF_OP_LIMIT, sizeof(struct gf_op_limit), 0},
	{GF_OP_UNGROW, sizeof(struct gf_op_ungrow), 0},
	{GF_OP_DEDUP, sizeof(struct gf_op_dedup), 0},
	{GF_OP_SNAPSHOT, sizeof(struct gf_op_pair), 0},
	{GF_OP_POSITION, sizeof(struct gf_op_pair), 0},
	{GF_OP_RECAST, sizeof(struct gf_op_recast), 0},
	{GF_OP_BASE, sizeof(struct gf_op_base), 0},
	{GF_OP_MODE, sizeof(struct gf_op_mode), 0},
};

/* The counters, names and flags without which a sample would not be well-formed. */
static void fill_sample(void *op, enum gf_op_type type)
{
	switch (type) {
	case GF_OP_WRITE:
		((struct gf_op_blocks *)op)->count = 1;
		memset((struct gf_op_blocks *)op + 1, 0xa5, 4096);
		break;
	case GF_OP_LARGE:
		((struct gf_op_blocks *)op)->count = 5;
		break;
	case GF_OP_SHARE:
		((struct gf_op_share *)op)->blocks.count = 3;
		((struct gf_op_share *)op)->place = GF_PLACE_POOL | 7;
		break;
	case GF_OP_UNGROW:
		((struct gf_op_ungrow *)op)->grown = 1;
		break;
	case GF_OP_CLEAR:
		((struct gf_op_clear *)op)->op.flags = GF_ZERO;
		((struct gf_op_clear *)op)->count = 7;
		break;
	case GF_OP_INTENT:
		((struct gf_op_intent *)op)->count = 16;
		break;
	case GF_OP_INODE:
		((struct gf_op_inode *)op)->name_len = 5;
		((struct gf_op_inode *)op)->target_len = 6;
		memcpy((struct gf_op_inode *)op + 1, "disk0target", 11);
		break;
	case GF_OP_RENAME:
		((struct gf_op_rename *)op)->name_len = 3;
		memcpy((struct gf_op_rename *)op + 1, "new", 3);
		break;
	case GF_OP_XATTR:
		((struct gf_op_xattr *)op)->name_len = 6;
		((struct gf_op_xattr *)op)->value_len = 9;
		memcpy((struct gf_op_xattr *)op + 1, "user.avalue....", 15);
		break;
	case GF_OP_GOLDEN:
		((struct gf_op_golden *)op)->path_len = 10;
		memcpy((struct gf_op_golden *)op + 1, "debian.img", 10);
		break;
	case GF_OP_PAGES:
		((struct gf_op_pages *)op)->count = 3;
		break;
	default:
		break;
	}
}

static void *add_sample(struct opbuf *buf, const struct sample *s)
{
	void *op = opbuf_add(buf, s->type, 0, s->fixed, s->tail);

	assert_non_null(op);
	fill_sample(op, s->type);
	return op;
}

static const struct sample *sample_of(enum gf_op_type type)
{
	for (size_t i = 0; i < ARRAY_SIZE(samples); i++)
		if (samples[i].type == type)
			return &samples[i];
	return NULL;
}

/* What is read has to go somewhere. */
static volatile uint8_t sink;

/* Walks a copy of exactly len bytes; returns the ops before the end or before the damage. Every
 * byte of each op is read. */
static size_t walk(const void *bytes, size_t len, int *error)
{
	uint8_t *exact = malloc(len ? len : 1);
	const struct gf_disk_op *op;
	size_t pos = 0, last = 0, count = 0;

	assert_non_null(exact);
	if (len)
		memcpy(exact, bytes, len);
	while ((op = ops_next(exact, len, &pos, error)) != NULL) {
		assert_ptr_equal(op, exact + last);
		assert_true(op->length >= sizeof(*op) && op->length % 8 == 0);
		assert_true(pos == last + op->length && pos <= len);
		assert_non_null(sample_of(op->type));
		for (; last < pos; last++)
			sink ^= exact[last];
		count++;
	}
	assert_true(*error == 0 || *error == -EUCLEAN);
	assert_true((*error == 0) == (pos == len));
	assert_true(pos == last);
	free(exact);
	return count;
}

static bool accepted(const void *op, size_t len)
{
	int error;

	return walk(op, len, &error) == 1 && !error;
}

/* ---- building ---- */

static void ops_are_built_and_walked(void **state)
{
	const struct gf_disk_op *op;
	struct opbuf buf;
	size_t pos = 0, n = 0;
	int error;

	opbuf_init(&buf);
	/* Several rounds, so that the buffer grows and moves. */
	for (size_t i = 0; i < 10 * ARRAY_SIZE(samples); i++)
		add_sample(&buf, &samples[i % ARRAY_SIZE(samples)]);
	assert_false(buf.failed);
	while ((op = ops_next(buf.bytes, buf.len, &pos, &error)) != NULL) {
		const struct sample *s = &samples[n++ % ARRAY_SIZE(samples)];

		assert_int_equal(op->type, s->type);
		assert_int_equal(op->length, round_up(s->fixed + s->tail, 8));
		assert_ptr_equal(op_tail(op, s->fixed), (const uint8_t *)op + s->fixed);
	}
	assert_int_equal(error, 0);
	assert_int_equal(n, 10 * ARRAY_SIZE(samples));
	assert_true(pos == buf.len);
	opbuf_release(&buf);
	assert_null(buf.bytes);
	assert_true(buf.len == 0 && buf.capacity == 0);
}

static void new_ops_are_zero(void **state)
{
	struct opbuf buf;
	uint8_t *op;

	opbuf_init(&buf);
	for (int round = 0; round < 100; round++) {
		op = opbuf_add(&buf, GF_OP_GOLDEN, 3, sizeof(struct gf_op_golden), 13);
		assert_non_null(op);
		assert_int_equal(((struct gf_disk_op *)op)->flags, 3);
		assert_int_equal(((struct gf_disk_op *)op)->length, 80);
		for (int i = 8; i < 80; i++)
			assert_int_equal(op[i], 0);
		memset(op + 8, 0xff, 72); /* what a later growth copies */
	}
	assert_int_equal(buf.len, 8000);
	opbuf_release(&buf);
}

static void a_failed_builder_stays_failed(void **state)
{
	struct opbuf buf;
	size_t before;

	opbuf_init(&buf);
	add_sample(&buf, sample_of(GF_OP_HEAD));
	before = buf.len;
	assert_null(opbuf_add(&buf, GF_OP_WRITE, 0, sizeof(struct gf_op_blocks), UINT32_MAX));
	assert_true(buf.failed);
	assert_null(opbuf_add(&buf, GF_OP_PAD, 0, sizeof(struct gf_disk_op), 0));
	assert_true(buf.len == before);
	opbuf_release(&buf);
	assert_false(buf.failed);
}

/* ---- damage that a test can name ---- */

static void an_empty_stream_ends(void **state)
{
	int error = 1;

	assert_int_equal(walk("", 0, &error), 0);
	assert_int_equal(error, 0);
}

static void only_the_right_length_will_do(void **state)
{
	for (size_t i = 0; i < ARRAY_SIZE(samples); i++) {
		size_t right = round_up(samples[i].fixed + samples[i].tail, 8);
		uint8_t *padded = calloc(1, right + 128);
		struct gf_disk_op *op = (struct gf_disk_op *)padded;
		struct opbuf buf;

		opbuf_init(&buf);
		memcpy(padded, add_sample(&buf, &samples[i]), right);
		opbuf_release(&buf);
		for (uint32_t length = 0; length <= right + 128; length++) {
			op->length = length;
			/* Enough bytes, and exactly as many as it says. */
			if (accepted(padded, length) != (length == right))
				fail_msg("type %d of length %u", op->type, length);
		}
		op->length = right;
		for (size_t have = 1; have < right; have++)
			if (accepted(padded, have))
				fail_msg("type %d cut to %zu bytes", op->type, have);
		op->length = UINT32_MAX;
		assert_false(accepted(padded, right));
		op->length = UINT32_MAX - 7;
		assert_false(accepted(padded, right));
		free(padded);
	}
}

static void unknown_types_are_damage(void **state)
{
	_Alignas(8) uint8_t bytes[128] = {0};
	struct gf_disk_op *op = (struct gf_disk_op *)bytes;

	for (unsigned type = 0; type <= UINT16_MAX; type++) {
		if (sample_of(type))
			continue;
		op->type = type;
		for (op->length = 8; op->length <= sizeof(bytes); op->length += 40)
			if (accepted(bytes, op->length))
				fail_msg("type %u is accepted", type);
	}
}

/* A sound op with `size` bytes at `at` replaced. */
static bool accepted_with(enum gf_op_type type, size_t at, uint64_t value, size_t size)
{
	struct opbuf buf;
	uint8_t *op;
	bool ok;

	opbuf_init(&buf);
	op = add_sample(&buf, sample_of(type));
	memcpy(op + at, &value, size);
	ok = accepted(buf.bytes, buf.len);
	opbuf_release(&buf);
	return ok;
}

#define WITH(type, kind, field, value) \
	accepted_with(type, offsetof(struct kind, field), (value), \
		sizeof(((struct kind *)0)->field))

static void counters_cannot_overflow(void **state)
{
	/* Also those that come out as the right length when cut to 32 bits. */
	static const uint64_t counts[] = {0, 2, 0x100001, 0x40000001, 0x40000005, 0x20000003,
		0x80000001, UINT32_MAX - 1, UINT32_MAX};

	for (size_t i = 0; i < ARRAY_SIZE(counts); i++) {
		uint64_t n = counts[i];

		assert_false(WITH(GF_OP_WRITE, gf_op_blocks, count, n));
		assert_false(WITH(GF_OP_LARGE, gf_op_blocks, count, n));
		assert_false(WITH(GF_OP_PAGES, gf_op_pages, count, n));
		assert_false(WITH(GF_OP_RENAME, gf_op_rename, name_len, n ? n + 7 : 0));
		assert_false(WITH(GF_OP_GOLDEN, gf_op_golden, path_len, n));
		assert_false(WITH(GF_OP_XATTR, gf_op_xattr, value_len, n));
	}
	/* The two lengths together would come out right in 32 bits. */
	assert_false(WITH(GF_OP_XATTR, gf_op_xattr, name_len, UINT32_MAX));
	assert_false(WITH(GF_OP_INODE, gf_op_inode, name_len, UINT16_MAX));
	assert_false(WITH(GF_OP_INODE, gf_op_inode, target_len, UINT16_MAX));
}

static void places_lie_within_the_largest_file(void **state)
{
	assert_true(WITH(GF_OP_WRITE, gf_op_blocks, block, MAX_BLOCK - 1));
	assert_false(WITH(GF_OP_WRITE, gf_op_blocks, block, MAX_BLOCK));
	assert_false(WITH(GF_OP_WRITE, gf_op_blocks, block, UINT64_MAX));
	assert_true(WITH(GF_OP_LARGE, gf_op_blocks, block, MAX_BLOCK - 5));
	assert_false(WITH(GF_OP_LARGE, gf_op_blocks, block, MAX_BLOCK - 4));
	assert_true(WITH(GF_OP_WRITE, gf_op_blocks, size, GF_MAX_SIZE));
	assert_false(WITH(GF_OP_WRITE, gf_op_blocks, size, GF_MAX_SIZE + 1));
	assert_true(WITH(GF_OP_CLEAR, gf_op_clear, block, MAX_BLOCK - 7));
	assert_false(WITH(GF_OP_CLEAR, gf_op_clear, block, MAX_BLOCK - 6));
	assert_true(WITH(GF_OP_CLEAR, gf_op_clear, count, MAX_BLOCK));
	assert_false(WITH(GF_OP_CLEAR, gf_op_clear, count, MAX_BLOCK + 1));
	assert_false(WITH(GF_OP_CLEAR, gf_op_clear, count, UINT64_MAX));
	assert_true(WITH(GF_OP_SIZE, gf_op_size, size, GF_MAX_SIZE));
	assert_false(WITH(GF_OP_SIZE, gf_op_size, size, GF_MAX_SIZE + 1));
	assert_false(WITH(GF_OP_INODE, gf_op_inode, size, GF_MAX_SIZE + 1));
	assert_true(WITH(GF_OP_LAYER, gf_op_layer, bound, GF_MAX_SIZE));
	assert_false(WITH(GF_OP_LAYER, gf_op_layer, bound, UINT64_MAX));
	assert_false(WITH(GF_OP_BOUND, gf_op_pair, value, GF_MAX_SIZE + 1));
	assert_true(WITH(GF_OP_SUSPECT, gf_op_intent, count, GF_MAX_SIZE / GF_REGION_SIZE));
	assert_false(WITH(GF_OP_SUSPECT, gf_op_intent, count, GF_MAX_SIZE / GF_REGION_SIZE + 1));
	assert_false(WITH(GF_OP_SUSPECT, gf_op_intent, region, GF_MAX_SIZE / GF_REGION_SIZE));
	assert_true(WITH(GF_OP_HEAD, gf_op_pair, value, UINT64_MAX)); /* a layer's number */
	assert_true(WITH(GF_OP_INTENT, gf_op_intent, region, MAX_REGION - 1));
	assert_false(WITH(GF_OP_INTENT, gf_op_intent, region, MAX_REGION));
	assert_false(WITH(GF_OP_INTENT, gf_op_intent, count, MAX_REGION + 1));
	assert_false(WITH(GF_OP_INTENT, gf_op_intent, count, UINT32_MAX));
}

static void only_clear_states_clear(void **state)
{
	assert_true(WITH(GF_OP_CLEAR, gf_op_clear, op.flags, GF_PARENT));
	assert_true(WITH(GF_OP_CLEAR, gf_op_clear, op.flags, GF_ZERO));
	assert_false(WITH(GF_OP_CLEAR, gf_op_clear, op.flags, GF_OVERLAY));
	assert_false(WITH(GF_OP_CLEAR, gf_op_clear, op.flags, GF_SHARED));
	assert_false(WITH(GF_OP_CLEAR, gf_op_clear, op.flags, 0x102));
}

static bool name_accepted(enum gf_op_type type, const char *name, size_t len)
{
	bool rename = type == GF_OP_RENAME;
	size_t fixed = rename ? sizeof(struct gf_op_rename) : sizeof(struct gf_op_inode);
	struct opbuf buf;
	uint8_t *op;
	bool ok;

	opbuf_init(&buf);
	op = opbuf_add(&buf, type, 0, fixed, len);
	assert_non_null(op);
	if (rename)
		((struct gf_op_rename *)op)->name_len = len;
	else
		((struct gf_op_inode *)op)->name_len = len;
	memcpy(op + fixed, name, len);
	ok = accepted(buf.bytes, buf.len);
	opbuf_release(&buf);
	return ok;
}

static void names_are_names(void **state)
{
	static const enum gf_op_type types[] = {GF_OP_RENAME, GF_OP_INODE};
	char longest[GF_NAME_MAX + 1];

	memset(longest, 'x', sizeof(longest));
	for (size_t i = 0; i < ARRAY_SIZE(types); i++) {
		assert_true(name_accepted(types[i], "a", 1));
		assert_true(name_accepted(types[i], "\xc3\xa4 b", 4));
		assert_true(name_accepted(types[i], longest, GF_NAME_MAX));
		assert_false(name_accepted(types[i], longest, GF_NAME_MAX + 1));
		assert_false(name_accepted(types[i], "a/b", 3));
		assert_false(name_accepted(types[i], "/", 1));
		assert_false(name_accepted(types[i], "a\0b", 3));
		assert_false(name_accepted(types[i], "\0", 1));
	}
	assert_true(name_accepted(GF_OP_INODE, "", 0)); /* unlinked */
	assert_false(name_accepted(GF_OP_RENAME, "", 0));
}

static void values_have_an_end(void **state)
{
	struct gf_op_inode *inode;
	struct gf_op_xattr *xattr;
	struct opbuf buf;

	for (unsigned more = 0; more < 2; more++) {
		opbuf_init(&buf);
		OPBUF_ADD(&buf, GF_OP_XATTR, 0, xattr, 6 + GF_XATTR_VALUE_MAX + more);
		xattr->name_len = 6;
		xattr->value_len = GF_XATTR_VALUE_MAX + more;
		assert_int_equal(accepted(buf.bytes, buf.len), !more);
		opbuf_release(&buf);
		OPBUF_ADD(&buf, GF_OP_XATTR, 0, xattr, GF_NAME_MAX + more);
		xattr->name_len = GF_NAME_MAX + more;
		assert_int_equal(accepted(buf.bytes, buf.len), !more);
		opbuf_release(&buf);
		OPBUF_ADD(&buf, GF_OP_INODE, 0, inode, GF_PATH_MAX + more);
		inode->target_len = GF_PATH_MAX + more;
		assert_int_equal(accepted(buf.bytes, buf.len), !more);
		opbuf_release(&buf);
	}
}

/* ---- damage at random ---- */

static void mutate(struct rng *rng, uint8_t *bytes, size_t *len, size_t capacity)
{
	static const uint64_t odd[] = {0, 1, 7, 8, 0x7fffffff, 0x80000000, UINT32_MAX, UINT64_MAX};
	size_t at = rng_below(rng, *len), n, to;

	switch (rng_below(rng, 7)) {
	case 0:
	case 1:
		bytes[at] ^= 1u << rng_below(rng, 8);
		break;
	case 2:
		bytes[at] = rng_next(rng);
		break;
	case 3: /* a field */
		n = 2u << rng_below(rng, 3);
		at = round_down(at, n);
		memcpy(bytes + at, &odd[rng_below(rng, ARRAY_SIZE(odd))], min_u64(n, *len - at));
		break;
	case 4: /* the end is missing */
		*len = at;
		break;
	case 5: /* a piece is missing */
		n = rng_below(rng, min_u64(64, *len - at) + 1);
		memmove(bytes + at, bytes + at + n, *len - at - n);
		*len -= n;
		break;
	default: /* a piece stands there twice */
		n = min_u64(rng_below(rng, 64), capacity - *len);
		n = min_u64(n, *len - at);
		to = at + n;
		memmove(bytes + to, bytes + at, *len - at);
		*len += n;
	}
}

/* A stream of a few ops; those with bytes of blocks are rare, they only cost time. */
static void build_stream(struct rng *rng, struct opbuf *buf)
{
	size_t count = 1 + rng_below(rng, 8);

	while (count--) {
		const struct sample *s = &samples[rng_below(rng, ARRAY_SIZE(samples))];

		if (s->type == GF_OP_WRITE && rng_below(rng, 8))
			continue;
		add_sample(buf, s);
	}
	if (!buf->len)
		add_sample(buf, &samples[0]);
}

static void damage_at_random_is_survived(void **state)
{
	uint64_t seed = seed_from_environment(20240611), whole = 0, refused = 0;
	const size_t capacity = 65536;
	uint8_t *bytes = malloc(capacity);
	struct rng rng;

	print_message("SEED=%" PRIu64 "\n", seed);
	rng_seed(&rng, seed);
	for (int round = 0; round < 100000; round++) {
		struct opbuf buf;
		size_t len;
		int error;

		opbuf_init(&buf);
		build_stream(&rng, &buf);
		len = buf.len;
		memcpy(bytes, buf.bytes, len);
		opbuf_release(&buf);
		for (uint64_t n = 1 + rng_below(&rng, 3); n && len; n--)
			mutate(&rng, bytes, &len, capacity);
		walk(bytes, len, &error);
		whole += error == 0;
		refused += error != 0;
	}
	free(bytes);
	/* Damage within a block's bytes is not the walk's to see; in what surrounds them it is. */
	assert_true(whole > 1000);
	assert_true(refused > 10000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ops_are_built_and_walked),
		cmocka_unit_test(new_ops_are_zero),
		cmocka_unit_test(a_failed_builder_stays_failed),
		cmocka_unit_test(an_empty_stream_ends),
		cmocka_unit_test(only_the_right_length_will_do),
		cmocka_unit_test(unknown_types_are_damage),
		cmocka_unit_test(counters_cannot_overflow),
		cmocka_unit_test(places_lie_within_the_largest_file),
		cmocka_unit_test(only_clear_states_clear),
		cmocka_unit_test(names_are_names),
		cmocka_unit_test(values_have_an_end),
		cmocka_unit_test(damage_at_random_is_survived),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
