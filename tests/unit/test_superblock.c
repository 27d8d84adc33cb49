/* SPDX-License-Identifier: MIT */
/* The superblock: every field comes back, any damage is seen, a newer format is told apart. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../crash/rng.h"
#include "base/log.h"
#include "goldfs/format.h"
#include "store/superblock.h"
#include "store_dir.h"

#define LENGTH sizeof(struct gf_disk_super)

static struct superblock sample(void)
{
	struct superblock sb;

	memset(&sb, 0, sizeof(sb));
	sb.compat = 5; /* not known: refuses nothing */
	sb.autoclear = 9;
	sb.created_ns = UINT64_C(1700000000123456789);
	sb.journal_size = 65536;
	sb.host = 77;
	for (size_t i = 0; i < sizeof(sb.uuid); i++)
		sb.uuid[i] = scratch_byte(i, 1);
	for (size_t i = 0; i < sizeof(sb.secret); i++)
		sb.secret[i] = scratch_byte(i, 2);
	return sb;
}

static void assert_same(const struct superblock *a, const struct superblock *b)
{
	assert_memory_equal(a->uuid, b->uuid, sizeof(a->uuid));
	assert_memory_equal(a->secret, b->secret, sizeof(a->secret));
	assert_true(a->incompat == b->incompat && a->compat == b->compat);
	assert_true(a->autoclear == b->autoclear && a->created_ns == b->created_ns);
	assert_true(a->journal_size == b->journal_size && a->host == b->host);
}

/* Decodes a copy that ends where it says. */
static int decode(const void *bytes, size_t len, struct superblock *sb)
{
	void *exact = malloc(len ? len : 1);
	int r;

	memcpy(exact, bytes, len);
	r = superblock_decode(exact, len, sb);
	free(exact);
	return r;
}

static void fields_come_back(void **state)
{
	struct superblock sb = sample(), back;
	uint8_t buf[4096] = {0};

	assert_int_equal(superblock_encode(&sb, buf), LENGTH);
	assert_int_equal(decode(buf, LENGTH, &back), 0);
	assert_same(&sb, &back);
	assert_int_equal(decode(buf, sizeof(buf), &back), 0); /* followed by anything */
	for (size_t len = 0; len < LENGTH; len++)
		assert_int_equal(decode(buf, len, &back), -EUCLEAN);
}

static void damage_is_seen(void **state)
{
	struct superblock sb = sample(), back;
	uint8_t buf[4096];

	superblock_encode(&sb, buf);
	for (size_t bit = 0; bit < LENGTH * 8; bit++) {
		/* A higher version is another format, whatever the checksum would be there. */
		bool version = bit / 32 == offsetof(struct gf_disk_super, version) / 4;
		int want = version && bit % 32 ? -EPROTONOSUPPORT : -EUCLEAN;

		buf[bit / 8] ^= 1u << (bit % 8);
		assert_int_equal(decode(buf, LENGTH, &back), want);
		buf[bit / 8] ^= 1u << (bit % 8);
	}
}

static void newer_formats_are_refused(void **state)
{
	struct superblock sb = sample(), back;
	struct gf_disk_super disk;
	uint8_t buf[4096];

	superblock_encode(&sb, buf);
	memcpy(&disk, buf, sizeof(disk));
	disk.version = GF_FORMAT_VERSION + 1;
	disk.length = 4000; /* and laid out as it pleases */
	assert_int_equal(decode(&disk, sizeof(disk), &back), -EPROTONOSUPPORT);
	disk.magic[0] ^= 1;
	assert_int_equal(decode(&disk, sizeof(disk), &back), -EUCLEAN);
	/* A feature that must be understood. */
	sb.incompat = UINT64_C(1) << 63;
	superblock_encode(&sb, buf);
	assert_int_equal(decode(buf, LENGTH, &back), -EPROTONOSUPPORT);
}

static void impossible_journals_are_refused(void **state)
{
	static const uint64_t sizes[] = {0, 4096, 61440, 65537, 69632 + 64, UINT64_MAX};
	struct superblock sb = sample(), back;
	uint8_t buf[4096];

	for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
		sb.journal_size = sizes[i];
		superblock_encode(&sb, buf);
		assert_int_equal(decode(buf, LENGTH, &back), -EUCLEAN);
	}
}

static void random_bytes_are_no_superblock(void **state)
{
	struct superblock sb = sample(), back;
	uint8_t bytes[512];
	struct rng rng;

	rng_seed(&rng, seed_from_environment(5));
	for (int i = 0; i < 20000; i++) {
		size_t len = rng_below(&rng, sizeof(bytes));
		int r;

		for (size_t k = 0; k < sizeof(bytes); k++)
			bytes[k] = (uint8_t)rng_next(&rng);
		if (i % 2)
			memcpy(bytes, GF_SUPER_MAGIC, 8);
		if (i % 4 == 3)
			bytes[8] = GF_FORMAT_VERSION, bytes[9] = bytes[10] = bytes[11] = 0;
		r = decode(bytes, len, &back);
		assert_true(r == -EUCLEAN || (r == -EPROTONOSUPPORT && i % 4 == 1));
	}
	superblock_encode(&sb, bytes);
	assert_int_equal(decode(bytes, LENGTH, &back), 0);
}

static void files_are_replaced_whole(void **state)
{
	struct superblock sb = sample(), back;
	struct store_dir dir;
	int fd;

	store_dir_init(&dir);
	assert_int_equal(superblock_read(dir.io, &back), -ENOENT);
	/* What an earlier attempt left behind does not matter. */
	scratch_fill(&dir.scratch, "superblock.new", 9000, 1);
	assert_int_equal(superblock_write(dir.io, &sb), 0);
	assert_int_equal(superblock_read(dir.io, &back), 0);
	assert_same(&sb, &back);
	assert_true(faccessat(dir.scratch.dirfd, "superblock.new", F_OK, 0) < 0);
	sb.compat = 1;
	assert_int_equal(superblock_write(dir.io, &sb), 0);
	assert_int_equal(superblock_read(dir.io, &back), 0);
	assert_same(&sb, &back);
	store_dir_flip(&dir, "superblock", 100 * 8);
	assert_int_equal(superblock_read(dir.io, &back), -EUCLEAN);
	store_dir_flip(&dir, "superblock", 100 * 8);
	store_dir_flip(&dir, "superblock", 8 * 8 + 5);
	assert_int_equal(superblock_read(dir.io, &back), -EPROTONOSUPPORT);
	fd = scratch_open(&dir.scratch, "superblock", O_RDWR | O_TRUNC);
	close(fd);
	assert_int_equal(superblock_read(dir.io, &back), -EUCLEAN);
	store_dir_release(&dir);
}

static void identities_differ(void **state)
{
	struct superblock a, b;
	uint8_t buf[4096];

	assert_int_equal(superblock_generate(&a, 1 << 20), 0);
	assert_int_equal(superblock_generate(&b, 1 << 20), 0);
	assert_memory_not_equal(a.uuid, b.uuid, sizeof(a.uuid));
	assert_memory_not_equal(a.secret, b.secret, sizeof(a.secret));
	assert_int_equal(a.uuid[6] >> 4, 4);
	assert_int_equal(a.uuid[8] >> 6, 2);
	assert_true(a.created_ns && a.created_ns <= b.created_ns);
	superblock_encode(&a, buf);
	assert_int_equal(decode(buf, LENGTH, &b), 0);
	assert_same(&a, &b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(fields_come_back),
		cmocka_unit_test(damage_is_seen),
		cmocka_unit_test(newer_formats_are_refused),
		cmocka_unit_test(impossible_journals_are_refused),
		cmocka_unit_test(random_bytes_are_no_superblock),
		cmocka_unit_test(files_are_replaced_whole),
		cmocka_unit_test(identities_differ),
	};

	if (log_open(LOG_TO_FILE, "/dev/null"))
		return 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
