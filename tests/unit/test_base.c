/* SPDX-License-Identifier: MIT */
/* The base: sizes, hashes, the log, and the I/O table on real files. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/fd.h"
#include "base/hash.h"
#include "base/io.h"
#include "base/log.h"
#include "base/sizes.h"
#include "goldfs/format.h"
#include "scratch.h"

static void sizes_are_parsed(void **state)
{
	static const struct {
		const char *text;
		int rc;
		uint64_t bytes;
	} cases[] = {
		{"0", 0, 0},
		{"4096", 0, 4096},
		{"4096B", 0, 4096},
		{"64K", 0, 64 * KIB},
		{"64k", 0, 64 * KIB},
		{"64KiB", 0, 64 * KIB},
		{"1.5G", 0, GIB + GIB / 2},
		{"1.5 GiB", 0, GIB + GIB / 2},
		{"10T", 0, 10 * TIB},
		{"0.1K", 0, 102},
		{"1.99999999999999999999999999999999K", 0, 2047},
		{"15E", 0, UINT64_C(15) << 60},
		{"18446744073709551615", 0, UINT64_MAX},
		{"18446744073709551616", -ERANGE, 0},
		{"16E", -ERANGE, 0},
		{"99999999999999999999999999999999999999999999", -ERANGE, 0},
		{"", -EINVAL, 0},
		{"K", -EINVAL, 0},
		{"-1", -EINVAL, 0},
		{" 1", -EINVAL, 0},
		{"1.", -EINVAL, 0},
		{".5K", -EINVAL, 0},
		{"1.5", -EINVAL, 0},
		{"1KB", -EINVAL, 0},
		{"1Ki", -EINVAL, 0},
		{"1KiBs", -EINVAL, 0},
		{"1BiB", -EINVAL, 0},
		{"1Q", -EINVAL, 0},
		{"0x10", -EINVAL, 0},
	};
	size_t i;

	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		uint64_t bytes = 0;
		int rc = size_parse(cases[i].text, &bytes);

		if (rc != cases[i].rc || (rc == 0 && bytes != cases[i].bytes))
			fail_msg("\"%s\": %d, %llu", cases[i].text, rc, (unsigned long long)bytes);
	}
}

static void sizes_are_formatted(void **state)
{
	static const struct {
		uint64_t bytes;
		const char *text;
	} cases[] = {
		{0, "0B"},
		{1023, "1023B"},
		{1024, "1K"},
		{1536, "1.5K"},
		{1023 * KIB, "1023K"},
		{MIB - 1, "1M"},
		{400 * GIB, "400G"},
		{465 * GIB + 858 * MIB, "465.8G"},
		{16 * TIB, "16T"},
		{UINT64_MAX, "16E"},
	};
	char text[16];
	size_t i;

	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		size_format(cases[i].bytes, text, sizeof(text));
		assert_string_equal(text, cases[i].text);
	}
}

static void hashes_are_what_the_format_says(void **state)
{
	uint8_t secret[HASH_SECRET_LEN], other[HASH_SECRET_LEN];
	uint8_t block[GF_BLOCK_SIZE] = {0};
	struct hash128 hash;
	size_t i;

	for (i = 0; i < sizeof(secret); i++) {
		secret[i] = (uint8_t)(i * 37 + 11);
		other[i] = (uint8_t)(i * 41 + 7);
	}
	/* XXH3-64 of nothing, as published with the algorithm. */
	assert_true(hash_struct("", 0) == UINT64_C(0x2d06800538d394c2));
	for (i = 0; i < 1000; i++) {
		memcpy(block, &i, sizeof(i));
		assert_int_not_equal(hash_block(secret, block), 0);
		assert_int_equal(hash_block(secret, block),
			(uint32_t)hash_content(secret, block, sizeof(block)));
		assert_int_not_equal(hash_block(secret, block), hash_block(other, block));
		hash = hash_block128(secret, block);
		assert_true(hash.low == hash_content(secret, block, sizeof(block)));
		assert_int_equal(hash_sum(&hash), hash_block(secret, block));
		assert_int_not_equal(hash_tag(&hash), 0);
	}
	/* Neither is ever 0, which says that it is not known. */
	hash = (struct hash128){.low = UINT64_C(0xabcd) << 48};
	assert_int_equal(hash_sum(&hash), 1);
	assert_int_equal(hash_tag(&hash), 1);
}

/* A store moves to a machine with other vectors. */
static void hashes_are_the_same_on_every_processor(void **state)
{
	uint8_t secret[HASH_SECRET_LEN], bytes[3 * GF_BLOCK_SIZE];
	struct hash_stream *stream = hash_stream_new();

	assert_non_null(stream);
	for (size_t i = 0; i < sizeof(secret); i++)
		secret[i] = (uint8_t)(i * 37 + 11);
	for (size_t i = 0; i < sizeof(bytes); i++)
		bytes[i] = (uint8_t)(i * 151 >> 3);
	for (size_t len = 0; len <= sizeof(bytes); len += 1 + len / 7) {
		assert_true(hash_struct(bytes, len) == XXH3_64bits(bytes, len));
		assert_true(hash_content(secret, bytes, len) ==
			XXH3_64bits_withSecret(bytes, len, secret, sizeof(secret)));
	}
	for (size_t off = 0; off <= 2 * GF_BLOCK_SIZE; off += 509) {
		const XXH128_hash_t plain = XXH3_128bits_withSecret(
			bytes + off, GF_BLOCK_SIZE, secret, sizeof(secret));
		const struct hash128 hash = hash_block128(secret, bytes + off);

		assert_true(hash.low == plain.low64 && hash.high == plain.high64);
	}
	for (size_t off = 0; off < sizeof(bytes); off += 1000)
		hash_stream_add(stream, bytes + off,
			sizeof(bytes) - off < 1000 ? sizeof(bytes) - off : 1000);
	assert_true(hash_stream_value(stream) == XXH3_64bits(bytes, sizeof(bytes)));
	hash_stream_free(stream);
	for (int count = 1; count <= 3; count++) {
		const struct iovec parts[] = {{bytes, 1000}, {bytes + 1000, 1}, {bytes + 1001, 7000}};
		const size_t want[] = {1000, 1001, 8001};
		size_t len;

		assert_true(hash_struct_parts(parts, count, &len) == XXH3_64bits(bytes, want[count - 1]));
		assert_int_equal(len, want[count - 1]);
	}
}

static void zeros_are_found(void **state)
{
	_Alignas(8) uint8_t buf[GF_BLOCK_SIZE + 8] = {0};
	size_t i;

	assert_true(is_zero(buf, 0));
	assert_true(is_zero(buf, 8));
	assert_true(is_zero(buf + 1, GF_BLOCK_SIZE));
	for (i = 0; i < GF_BLOCK_SIZE; i++) {
		buf[i + 1] = 1;
		assert_false(is_zero(buf + 1, GF_BLOCK_SIZE));
		buf[i + 1] = 0;
	}
}

static void log_lines_cannot_be_forged(void **state)
{
	struct scratch s;
	char path[8192], text[512] = "";
	int fd;

	scratch_init(&s);
	snprintf(path, sizeof(path), "%s/log", s.path);
	assert_int_equal(log_open(LOG_TO_FILE, path), 0);
	errno = 77;
	assert_int_equal(log_error(-ENOSPC, "cannot write \"%s\"", "a\ngoldfs: b\x1b"), -ENOSPC);
	assert_int_equal(errno, 77);
	log_warning("w");
	log_info("i");
	log_close();
	fd = scratch_open(&s, "log", O_RDONLY);
	assert_true(read(fd, text, sizeof(text) - 1) > 0);
	close(fd);
	assert_non_null(strstr(text, "Z goldfs: cannot write \"a\\012goldfs: b\\033\": No space"));
	assert_non_null(strstr(text, "Z goldfs: warning: w\n"));
	assert_non_null(strstr(text, "Z goldfs: i\n"));
	/* "2026-01-31T12:00:00.000Z goldfs: " */
	assert_int_equal(text[4], '-');
	assert_int_equal(text[10], 'T');
	assert_int_equal(text[23], 'Z');
	assert_int_equal(log_open(LOG_TO_FILE, "/nonexistent/log"), -ENOENT);
	scratch_release(&s);
}

static void long_log_lines_are_cut(void **state)
{
	char path[8192], *name = malloc(100000), *text = malloc(100000);
	struct scratch s;
	ssize_t n;
	int fd;

	scratch_init(&s);
	memset(name, '\n', 99999);
	name[99999] = '\0';
	snprintf(path, sizeof(path), "%s/log", s.path);
	assert_int_equal(log_open(LOG_TO_FILE, path), 0);
	log_error(-EIO, "%s", name);
	log_close();
	fd = scratch_open(&s, "log", O_RDONLY);
	n = read(fd, text, 100000);
	close(fd);
	assert_in_range(n, 100, 4096);
	assert_int_equal(text[n - 1], '\n');
	assert_null(memchr(text, '\n', (size_t)n - 1));
	free(name);
	free(text);
	scratch_release(&s);
}

struct store {
	struct scratch scratch;
	struct io *io;
};

static int setup_io(void **state)
{
	struct store *store = calloc(1, sizeof(*store));

	scratch_init(&store->scratch);
	if (io_posix_new(&store->io, dup(store->scratch.dirfd)) < 0)
		return -1;
	*state = store;
	return 0;
}

static int teardown_io(void **state)
{
	struct store *store = *state;

	store->io->ops->free(store->io);
	scratch_release(&store->scratch);
	free(store);
	return 0;
}

static void io_reads_and_writes(void **state)
{
	struct io *io = ((struct store *)*state)->io;
	struct iovec iov[200];
	uint8_t bytes[200], back[300];
	struct io_stat st;
	struct stat real;
	int fd, i;

	fd = io->ops->open(io, "f", O_RDWR | O_CREAT | O_EXCL);
	assert_true(fd >= 0);
	assert_int_equal(io->ops->open(io, "f", O_RDWR | O_CREAT | O_EXCL), -EEXIST);
	assert_int_equal(fstat(fd, &real), 0);
	assert_int_equal(real.st_mode & 07777, 0600);
	/* More pieces than fit one call, empty ones among them. */
	for (i = 0; i < 200; i++) {
		bytes[i] = (uint8_t)(i + 1);
		iov[i] = (struct iovec){.iov_base = bytes + i, .iov_len = i % 5 != 0};
	}
	assert_int_equal(io->ops->pwritev(io, fd, iov, 200, 1000), 0);
	assert_int_equal(io->ops->stat(io, fd, &st), 0);
	assert_int_equal(st.size, 1160);
	assert_int_equal(io->ops->pread(io, fd, back, 300, 1000), 160);
	for (i = 0; i < 160; i++)
		assert_int_equal(back[i], i / 4 * 5 + i % 4 + 2);
	memset(back, 0xff, sizeof(back));
	assert_int_equal(io_pread_full(io, fd, back, 300, 1150), 0);
	assert_int_equal(back[9], 200 - 0);
	assert_int_equal(back[10], 0);
	assert_int_equal(back[299], 0);
	assert_int_equal(io->ops->pread(io, fd, back, 10, 5000), 0);
	assert_int_equal(io->ops->fdatasync(io, fd), 0);
	assert_int_equal(io->ops->truncate(io, fd, 3), 0);
	assert_int_equal(io->ops->stat(io, fd, &st), 0);
	assert_int_equal(st.size, 3);
	io->ops->close(io, fd);
	fd = io->ops->open(io, "f", O_RDONLY);
	assert_int_equal(io_pwrite(io, fd, "x", 1, 0), -EBADF);
	io->ops->close(io, fd);
}

static void io_knows_holes(void **state)
{
	struct io *io = ((struct store *)*state)->io;
	uint8_t block[4096];
	uint64_t start, end;
	struct io_stat st;
	int fd, rc;

	memset(block, 1, sizeof(block));
	fd = io->ops->open(io, "f", O_RDWR | O_CREAT);
	assert_int_equal(io->ops->next_data(io, fd, 0, &start, &end), -ENXIO);
	assert_int_equal(io->ops->truncate(io, fd, GIB), 0);
	assert_int_equal(io->ops->next_data(io, fd, 0, &start, &end), -ENXIO);
	assert_int_equal(io_pwrite(io, fd, block, sizeof(block), 512 * MIB), 0);
	assert_int_equal(io->ops->next_data(io, fd, 0, &start, &end), 0);
	assert_int_equal(start, 512 * MIB);
	assert_int_equal(end, 512 * MIB + 4096);
	assert_int_equal(io->ops->next_data(io, fd, 512 * MIB + 5, &start, &end), 0);
	assert_int_equal(start, 512 * MIB + 5);
	assert_int_equal(io->ops->next_data(io, fd, end, &start, &end), -ENXIO);
	rc = io->ops->punch(io, fd, 512 * MIB, 4096);
	if (rc == 0) {
		assert_int_equal(io->ops->next_data(io, fd, 0, &start, &end), -ENXIO);
		assert_int_equal(io->ops->stat(io, fd, &st), 0);
		assert_int_equal(st.size, GIB);
		assert_int_equal(st.allocated, 0);
	} else {
		assert_int_equal(rc, -EOPNOTSUPP);
	}
	io->ops->close(io, fd);
}

static int count_names(void *arg, const char *name)
{
	unsigned *seen = arg;

	*seen += name[0] == '.' ? 1000 : 1;
	return *seen == 2 ? 42 : 0;
}

static void io_handles_names(void **state)
{
	struct store *store = *state;
	struct io *io = store->io;
	struct io_space space;
	unsigned seen = 0;

	assert_int_equal(io->ops->mkdir(io, "d"), 0);
	assert_int_equal(io->ops->mkdir(io, "d"), 0);
	io->ops->close(io, io->ops->open(io, "d/a", O_RDWR | O_CREAT));
	io->ops->close(io, io->ops->open(io, "d/.hidden", O_RDWR | O_CREAT));
	assert_int_equal(io->ops->list(io, "d", count_names, &seen), 0);
	assert_int_equal(seen, 1);
	io->ops->close(io, io->ops->open(io, "d/b", O_RDWR | O_CREAT));
	seen = 0;
	assert_int_equal(io->ops->list(io, "d", count_names, &seen), 42);
	assert_int_equal(io->ops->rename(io, "d/a", "d/b"), 0);
	assert_int_equal(io->ops->mkdir(io, "d/b"), -ENOTDIR);
	assert_int_equal(io->ops->unlink(io, "d/a"), -ENOENT);
	assert_int_equal(io->ops->unlink(io, "d/b"), 0);
	assert_int_equal(io->ops->syncdir(io, "d"), 0);
	assert_int_equal(io->ops->syncdir(io, ""), 0);
	assert_int_equal(io->ops->syncdir(io, "none"), -ENOENT);
	assert_int_equal(io->ops->list(io, "none", count_names, &seen), -ENOENT);
	assert_int_equal(symlinkat("/etc/passwd", store->scratch.dirfd, "link"), 0);
	assert_int_equal(io->ops->open(io, "link", O_RDONLY), -ELOOP);
	assert_int_equal(io->ops->space(io, &space), 0);
	assert_true(space.total > 0 && space.free <= space.total);
}

static void io_wants_a_folder(void **state)
{
	struct store *store = *state;
	struct io *io = NULL;
	int fd = scratch_open(&store->scratch, "f", O_RDWR | O_CREAT);

	assert_int_equal(io_posix_new(&io, fd), -ENOTDIR);
	assert_int_equal(close(fd), 0); /* still ours */
	assert_int_equal(io_posix_new(&io, -1), -EBADF);
}

static void a_full_disk_is_reported(void **state)
{
	int fd = open("/dev/full", O_WRONLY);

	if (fd < 0)
		skip();
	assert_int_equal(fd_pwrite(fd, "x", 1, 0), -ENOSPC);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sizes_are_parsed),
		cmocka_unit_test(sizes_are_formatted),
		cmocka_unit_test(hashes_are_what_the_format_says),
		cmocka_unit_test(hashes_are_the_same_on_every_processor),
		cmocka_unit_test(zeros_are_found),
		cmocka_unit_test(log_lines_cannot_be_forged),
		cmocka_unit_test(long_log_lines_are_cut),
		cmocka_unit_test_setup_teardown(io_reads_and_writes, setup_io, teardown_io),
		cmocka_unit_test_setup_teardown(io_knows_holes, setup_io, teardown_io),
		cmocka_unit_test_setup_teardown(io_handles_names, setup_io, teardown_io),
		cmocka_unit_test_setup_teardown(io_wants_a_folder, setup_io, teardown_io),
		cmocka_unit_test(a_full_disk_is_reported),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
