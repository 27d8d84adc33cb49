/* SPDX-License-Identifier: MIT */
/*
 * A new file in the folder of images: in which order it is synced and gets its name, and what becomes
 * of attempts that ended too early. The C library's functions have others in front of them here,
 * which write down what was done.
 */
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
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/sizes.h"
#include "core/promote.h"
#include "image/folder.h"
#include "image/publish.h"
#include "scratch.h"

#define ID 70
#define SIZE (3 * MIB + 100)

static char done[200]; /* what was done: a word each */

static void note(const char *what)
{
	strncat(done, what, sizeof(done) - strlen(done) - 1);
}

int fsync(int fd)
{
	struct stat st;

	note(fstat(fd, &st) == 0 && S_ISDIR(st.st_mode) ? "sync-folder " : "sync-file ");
	return 0;
}

int linkat(int from_dir, const char *from, int to_dir, const char *to, int flags)
{
	note("name ");
	return (int)syscall(SYS_linkat, from_dir, from, to_dir, to, flags);
}

struct bench {
	struct scratch scratch;
	struct folder *folder;
	int store;
	uint8_t *bytes; /* what it is to be */
};

static int setup(void **state)
{
	struct bench *b = calloc(1, sizeof(*b));
	char path[5000];

	scratch_init(&b->scratch);
	mkdirat(b->scratch.dirfd, "images", 0755);
	mkdirat(b->scratch.dirfd, "images/sub", 0755);
	mkdirat(b->scratch.dirfd, "store", 0700);
	b->store = openat(b->scratch.dirfd, "store", O_RDONLY | O_DIRECTORY);
	snprintf(path, sizeof(path), "%s/images", b->scratch.path);
	assert_int_equal(folder_open(&b->folder, path), 0);
	b->bytes = calloc(1, SIZE);
	for (size_t i = 0; i < SIZE; i++)
		b->bytes[i] = i / MIB == 1 ? 0 : (uint8_t)(i * 7 / 5 + i / 4096);
	done[0] = 0;
	*state = b;
	return 0;
}

static int teardown(void **state)
{
	struct bench *b = *state;

	folder_close(b->folder);
	close(b->store);
	scratch_release(&b->scratch);
	free(b->bytes);
	free(b);
	return 0;
}

/* All of it, or what is before `end`. */
static void put(struct bench *b, struct publish *p, uint64_t end)
{
	for (uint64_t off = 0; off < end; off += MIB) {
		uint64_t stop = min_u64(off + MIB, SIZE);

		if (off / MIB == 1)
			assert_int_equal(publish_hole(p, off, stop), 0);
		else
			assert_int_equal(publish_put(p, b->bytes + off, stop - off, off), 0);
	}
}

static void check_image(struct bench *b, const char *path)
{
	CLEANUP_FREE uint8_t *read = malloc(SIZE);
	int fd = openat(b->scratch.dirfd, path, O_RDONLY);
	struct stat st;

	assert_true(fd >= 0);
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_size, SIZE);
	assert_int_equal(st.st_mode & 07777, 0640);
	assert_int_equal(fd_pread_full(fd, read, SIZE, 0), 0);
	assert_memory_equal(read, b->bytes, SIZE);
	assert_true((uint64_t)st.st_blocks * 512 <= SIZE - MIB + 64 * KIB);
	close(fd);
}

static void it_gets_its_name_when_it_is_durable(void **state)
{
	struct bench *b = *state;
	struct publish p;

	assert_int_equal(publish_begin(&p, b->folder, "sub/new.img", b->store, ID), 0);
	put(b, &p, SIZE);
	assert_int_equal(faccessat(b->scratch.dirfd, "images/sub/new.img", F_OK, 0), -1);
	assert_int_equal(publish_finish(&p, SIZE, 0640, 5), 0);
	publish_release(&p);
	assert_string_equal(done, "sync-file name sync-folder ");
	check_image(b, "images/sub/new.img");
	/* Whoever died then finds that it is there. */
	assert_int_equal(publish_begin(&p, b->folder, "sub/new.img", b->store, ID), 1);
	publish_release(&p);
	publish_drop(b->store, ID);
	assert_int_equal(faccessat(b->store, "promoted/70", F_OK, 0), -1);
	check_image(b, "images/sub/new.img");
}

static void what_is_left_of_an_attempt_is_compared(void **state)
{
	struct bench *b = *state;
	struct publish p;
	int fd;

	assert_int_equal(publish_begin(&p, b->folder, "new.img", b->store, ID), 0);
	put(b, &p, 3 * MIB);
	publish_release(&p);
	fd = openat(b->store, "promoted/70", O_WRONLY);
	assert_int_equal(fd_pwrite(fd, "garbage", 7, 5000), 0);
	assert_int_equal(fd_pwrite(fd, "garbage", 7, MIB + 5000), 0);
	assert_int_equal(fd_pwrite(fd, "garbage", 7, 8 * MIB), 0);
	close(fd);
	assert_int_equal(publish_begin(&p, b->folder, "new.img", b->store, ID), 0);
	assert_int_equal(p.found, 8 * MIB + 7);
	put(b, &p, SIZE);
	assert_int_equal(publish_finish(&p, SIZE, 0640, 5), 0);
	publish_release(&p);
	check_image(b, "images/new.img");
}

static void nothing_is_replaced(void **state)
{
	struct bench *b = *state;
	struct publish p;

	scratch_fill(&b->scratch, "images/there.img", 10, 1);
	assert_int_equal(publish_begin(&p, b->folder, "there.img", b->store, ID), -EEXIST);
	publish_release(&p);
	assert_int_equal(publish_begin(&p, b->folder, "late.img", b->store, ID), 0);
	put(b, &p, SIZE);
	scratch_fill(&b->scratch, "images/late.img", 10, 1);
	assert_int_equal(publish_finish(&p, SIZE, 0640, 5), -EEXIST);
	publish_release(&p);
	assert_int_equal(publish_begin(&p, b->folder, "nowhere/x.img", b->store, ID), -ENOENT);
	publish_release(&p);
}

static void names_are_paths_of_what_is_shown(void **state)
{
	static const char *const good[] = {"a", "a.img", "sub/a.img", "a/b/c", "a..b", "a/b.c"};
	static const char *const bad[] = {"", "/", "/a", "a/", "a//b", ".a", "a/.b", "..", "a/..", "./a"};
	char longer[300];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(good); i++)
		assert_int_equal(promote_name_check(good[i]), 0);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(promote_name_check(bad[i]), -EINVAL);
	memset(longer, 'a', sizeof(longer));
	longer[255] = 0;
	assert_int_equal(promote_name_check(longer), 0);
	longer[255] = 'a';
	longer[256] = 0;
	assert_int_equal(promote_name_check(longer), -ENAMETOOLONG);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(it_gets_its_name_when_it_is_durable, setup, teardown),
		cmocka_unit_test_setup_teardown(what_is_left_of_an_attempt_is_compared, setup, teardown),
		cmocka_unit_test_setup_teardown(nothing_is_replaced, setup, teardown),
		cmocka_unit_test(names_are_paths_of_what_is_shown),
	};

	return cmocka_run_group_tests_name("publish", tests, NULL, NULL);
}
