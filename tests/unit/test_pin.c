/* SPDX-License-Identifier: MIT */
/*
 * Pins and their guard, on the file system that holds TMPDIR, with writers in other processes.
 *
 * Writers are forked children that make system calls only: the parent has a guard thread. What
 * they report comes through their exit status.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/sizes.h"
#include "goldfs/format.h"
#include "image/image.h"
#include "image/pin.h"
#include "scratch.h"

#define ID 7

struct pins {
	struct scratch s; /* the store, and image files beside golden/ */
	struct pin_guard *guard;
	int image_fd; /* of the image under guard */
	struct pin_print print;
	pthread_mutex_t lock;
	unsigned broken;  /* calls of broken() */
	int copy_rc;	  /* of the last pin_copy_same() in it */
	uint8_t saw;	  /* byte of the image that the last broken() saw first */
	unsigned hold_ms; /* how long broken() keeps the writer waiting */
};

static int setup(void **state)
{
	struct pins *p = calloc(1, sizeof(*p));

	scratch_init(&p->s);
	pthread_mutex_init(&p->lock, NULL);
	p->image_fd = -1;
	*state = p;
	return 0;
}

static int teardown(void **state)
{
	struct pins *p = *state;

	pin_guard_free(p->guard);
	if (p->image_fd >= 0)
		close(p->image_fd);
	scratch_release(&p->s);
	free(p);
	return 0;
}

static void sleep_ms(unsigned ms)
{
	struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L};

	nanosleep(&t, NULL);
}

/* --- print -------------------------------------------------------------------------------- */

static struct pin_print print_of(struct pins *p, const char *name)
{
	int fd = scratch_open(&p->s, name, O_RDONLY);
	struct pin_print print;

	assert_int_equal(pin_print_fd(fd, &print), 0);
	close(fd);
	return print;
}

static void poke(struct pins *p, const char *name, uint64_t off, const char *bytes)
{
	int fd = scratch_open(&p->s, name, O_WRONLY);

	assert_int_equal(pwrite(fd, bytes, strlen(bytes), (off_t)off), (ssize_t)strlen(bytes));
	close(fd);
}

static void set_mtime(struct pins *p, const char *name, int64_t ns)
{
	struct timespec t[2] = {{.tv_nsec = UTIME_OMIT}};

	t[1].tv_sec = ns / 1000000000 - (ns < 0);
	t[1].tv_nsec = ns - t[1].tv_sec * INT64_C(1000000000);

	assert_int_equal(utimensat(p->s.dirfd, name, t, 0), 0);
}

static void prints_tell_contents_apart(void **state)
{
	static const size_t sizes[] = {1, 100, 4096, 4097, 200000, 262144, 3000001};
	struct pins *p = *state;
	struct pin_print a, b;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(sizes); i++) {
		scratch_fill(&p->s, "f", sizes[i], 1);
		a = print_of(p, "f");
		assert_int_equal(a.size, sizes[i]);
		b = print_of(p, "f");
		assert_true(a.sample == b.sample && a.mtime_ns == b.mtime_ns);
		poke(p, "f", 0, "\1\2");
		b = print_of(p, "f");
		assert_true(a.sample != b.sample);
		a = b;
		poke(p, "f", sizes[i] - 1, "");
		poke(p, "f", sizes[i] - 1, "\xfe");
		assert_true(a.sample != print_of(p, "f").sample);
		scratch_fill(&p->s, "f", sizes[i], 2);
		assert_true(b.sample != print_of(p, "f").sample);
	}
	scratch_fill(&p->s, "f", 0, 1);
	assert_int_equal(print_of(p, "f").size, 0);
}

static void small_images_are_printed_whole(void **state)
{
	struct pins *p = *state;
	struct pin_print a;
	unsigned i;

	scratch_fill(&p->s, "f", 64 * 4096, 1);
	for (i = 0; i < 64; i++) {
		a = print_of(p, "f");
		poke(p, "f", i * 4096 + 2000, "\xfe\1\xfe\1");
		assert_true(a.sample != print_of(p, "f").sample);
	}
}

static void samples_fall_on_data(void **state)
{
	struct pins *p = *state;
	int fd = scratch_open(&p->s, "f", O_RDWR | O_CREAT);
	struct pin_print a, b;
	unsigned i, found = 0;

	assert_int_equal(ftruncate(fd, (off_t)(400 * GIB)), 0);
	for (i = 0; i < 64; i++)
		assert_int_equal(pwrite(fd, "old", 3, (off_t)(i * 6400 * MIB + 3 * GIB + 8192)), 3);
	assert_int_equal(pin_print_fd(fd, &a), 0);
	for (i = 0; i < 64; i++) {
		assert_int_equal(pwrite(fd, "new", 3, (off_t)(i * 6400 * MIB + 3 * GIB + 8192)), 3);
		assert_int_equal(pin_print_fd(fd, &b), 0);
		found += a.sample != b.sample;
		a = b;
	}
	assert_int_equal(found, 64);
	close(fd);
}

static void zeros_and_holes_print_alike(void **state)
{
	struct pins *p = *state;
	int fd = scratch_open(&p->s, "f", O_RDWR | O_CREAT);
	char *zeros = calloc(1, 4 * MIB);
	struct pin_print a, b;

	assert_int_equal(ftruncate(fd, (off_t)(64 * MIB)), 0);
	assert_int_equal(pwrite(fd, "x", 1, (off_t)(32 * MIB)), 1);
	assert_int_equal(pin_print_fd(fd, &a), 0);
	assert_int_equal(pwrite(fd, zeros, 4 * MIB, (off_t)(8 * MIB)), (ssize_t)(4 * MIB));
	assert_int_equal(pin_print_fd(fd, &b), 0);
	assert_true(a.sample == b.sample);
	free(zeros);
	close(fd);
}

/* --- make, copy, open --------------------------------------------------------------------- */

static enum gf_pin_kind make_pin(struct pins *p, const char *name)
{
	int fd = scratch_open(&p->s, name, O_RDONLY);
	enum gf_pin_kind kind = GF_PIN_NONE;

	assert_int_equal(pin_make(p->s.dirfd, ID, fd, &kind), 0);
	if (kind == GF_PIN_COPYING) {
		assert_int_equal(pin_copy(p->s.dirfd, ID, fd, NULL, NULL), 0);
		kind = GF_PIN_COPY;
	}
	close(fd);
	return kind;
}

static void assert_image(struct image *img, uint64_t off, size_t len, unsigned seed)
{
	uint8_t *buf = malloc(len);
	size_t i;

	assert_int_equal(img->ops->read(img, buf, len, off), 0);
	for (i = 0; i < len; i++)
		if (buf[i] != scratch_byte(off + i, seed))
			fail_msg("wrong byte at %llu", (unsigned long long)(off + i));
	free(buf);
}

static void pins_outlive_their_image(void **state)
{
	static const size_t sizes[] = {0, 1, 4097, 2 * 1024 * 1024 + 13};
	struct pins *p = *state;
	struct pin_print print;
	enum gf_pin_kind kind;
	struct image *img;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(sizes); i++) {
		scratch_fill(&p->s, "f", sizes[i], 3);
		print = print_of(p, "f");
		kind = make_pin(p, "f");
		/* Replaced by renaming, as README says. */
		scratch_fill(&p->s, "g", 100, 4);
		assert_int_equal(renameat(p->s.dirfd, "g", p->s.dirfd, "f"), 0);
		assert_int_equal(unlinkat(p->s.dirfd, "f", 0), 0);
		assert_int_equal(pin_open(p->s.dirfd, ID, kind, &print, &img), 0);
		assert_int_equal(img->size, sizes[i]);
		assert_image(img, 0, sizes[i], 3);
		image_free(img);
		assert_int_equal(pin_remove(p->s.dirfd, ID), 0);
		assert_int_equal(pin_open(p->s.dirfd, ID, kind, &print, &img), -ENOENT);
		assert_int_equal(pin_remove(p->s.dirfd, ID), 0);
	}
}

static void an_upload_cannot_be_pinned(void **state)
{
	enum gf_pin_kind kind = GF_PIN_NONE;
	struct pins *p = *state;
	int writer, fd;
	void *map;

	scratch_fill(&p->s, "f", 10000, 3);
	writer = scratch_open(&p->s, "f", O_RDWR);
	fd = scratch_open(&p->s, "f", O_RDONLY);
	assert_int_equal(pin_make(p->s.dirfd, ID, fd, &kind), -EBUSY);
	/* A shared mapping is a writer although its descriptor is closed. */
	map = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, writer, 0);
	assert_ptr_not_equal(map, MAP_FAILED);
	close(writer);
	assert_int_equal(pin_make(p->s.dirfd, ID, fd, &kind), -EBUSY);
	munmap(map, 4096);
	assert_int_equal(pin_make(p->s.dirfd, ID, fd, &kind), 0);
	assert_int_not_equal(kind, GF_PIN_NONE);
	/* No lease is left behind: writers are not held up. */
	writer = scratch_open(&p->s, "f", O_RDWR | O_NONBLOCK);
	close(writer);
	close(fd);
}

static void leftovers_are_replaced(void **state)
{
	struct pins *p = *state;
	struct pin_print print;
	struct image *img;
	enum gf_pin_kind kind;

	assert_int_equal(mkdirat(p->s.dirfd, "golden", 0700), 0);
	scratch_fill(&p->s, "golden/7", 50, 9);
	scratch_fill(&p->s, "golden/7.tmp", 50, 9);
	scratch_fill(&p->s, "f", 60, 3);
	print = print_of(p, "f");
	kind = make_pin(p, "f");
	assert_int_equal(pin_open(p->s.dirfd, ID, kind, &print, &img), 0);
	assert_image(img, 0, 60, 3);
	image_free(img);
	assert_int_equal(faccessat(p->s.dirfd, "golden/7.tmp", F_OK, 0), -1);
}

static void deleted_images_and_others_are_refused(void **state)
{
	struct pins *p = *state;
	enum gf_pin_kind kind;
	struct pin_print print = {0};
	struct image *img;
	int fd;

	scratch_fill(&p->s, "f", 60, 3);
	fd = scratch_open(&p->s, "f", O_RDONLY);
	unlinkat(p->s.dirfd, "f", 0);
	assert_int_equal(pin_make(p->s.dirfd, ID, fd, &kind), -ENOENT);
	close(fd);
	assert_int_equal(pin_make(p->s.dirfd, ID, p->s.dirfd, &kind), -EINVAL);
	assert_int_equal(pin_open(p->s.dirfd, ID, GF_PIN_FENCED, &print, &img), -EINVAL);
	assert_int_equal(pin_open(p->s.dirfd, ID, GF_PIN_COPYING, &print, &img), -EINVAL);
}

static int cancel_at(void *arg, uint64_t done, uint64_t total)
{
	uint64_t *at = arg;

	assert_true(done <= total);
	return done >= *at;
}

static void copies_are_sparse_and_recognised(void **state)
{
	struct pins *p = *state;
	int fd = scratch_open(&p->s, "f", O_RDWR | O_CREAT);
	struct pin_print print;
	struct image *img;
	struct stat st;
	uint64_t off;
	unsigned i;
	char buf[16];

	for (i = 0; i < 2000; i++)
		assert_int_equal(pwrite(fd, "data", 4, (off_t)(i * 37 * MIB + 12288)), 4);
	assert_int_equal(ftruncate(fd, (off_t)(80 * GIB + 5)), 0);
	set_mtime(p, "f", INT64_C(-1500000001));
	assert_int_equal(pin_print_fd(fd, &print), 0);
	off = 100 * MIB;
	assert_int_equal(pin_copy(p->s.dirfd, ID, fd, cancel_at, &off), -ECANCELED);
	assert_int_equal(faccessat(p->s.dirfd, "golden/7.tmp", F_OK, 0), -1);
	assert_int_equal(pin_copy_same(p->s.dirfd, ID, fd, &print, NULL, NULL), 0);
	close(fd);
	assert_int_equal(fstatat(p->s.dirfd, "golden/7", &st, 0), 0);
	assert_true(st.st_blocks * 512 < (off_t)(2000 * 16384));
	assert_int_equal(st.st_size, 80 * GIB + 5);
	assert_true(print_of(p, "golden/7").mtime_ns == print.mtime_ns);
	/* No sums were needed: the print of the copy is the one of the source. */
	assert_int_equal(pin_sums_exist(p->s.dirfd, ID), -ENOENT);
	assert_int_equal(pin_open(p->s.dirfd, ID, GF_PIN_COPY, &print, &img), 0);
	for (i = 0; i < 2000; i++) {
		assert_int_equal(img->ops->read(img, buf, 5, i * 37 * MIB + 12288), 0);
		assert_memory_equal(buf, "data", 5);
	}
	image_free(img);
}

static int change_source(void *arg, uint64_t done, uint64_t total)
{
	if (done < 2 * MIB)
		poke(arg, "f", 3 * MIB + 100000, "\xfe\xfe");
	return 0;
}

static void a_copy_of_a_changing_image_fails(void **state)
{
	struct pins *p = *state;
	struct pin_print print;
	int fd;

	scratch_fill(&p->s, "f", 5 * MIB, 3);
	set_mtime(p, "f", 1000);
	fd = scratch_open(&p->s, "f", O_RDONLY);
	assert_int_equal(pin_copy(p->s.dirfd, ID, fd, change_source, p), -ESTALE);
	assert_int_equal(faccessat(p->s.dirfd, "golden/7", F_OK, 0), -1);
	assert_int_equal(pin_print_fd(fd, &print), 0);
	print.mtime_ns++;
	assert_int_equal(pin_copy_same(p->s.dirfd, ID, fd, &print, NULL, NULL), -ESTALE);
	close(fd);
}

static void damage_to_a_copy_is_found(void **state)
{
	struct pins *p = *state;
	struct pin_print print;
	struct image *img;
	int fd;

	scratch_fill(&p->s, "f", 100000, 3);
	print = print_of(p, "f");
	fd = scratch_open(&p->s, "f", O_RDONLY);
	assert_int_equal(pin_copy(p->s.dirfd, ID, fd, NULL, NULL), 0);
	close(fd);
	set_mtime(p, "golden/7", 5); /* means nothing */
	assert_int_equal(pin_open(p->s.dirfd, ID, GF_PIN_COPY, &print, &img), 0);
	image_free(img);
	poke(p, "golden/7", 50000, "\xfe\xfe");
	assert_int_equal(pin_open(p->s.dirfd, ID, GF_PIN_COPY, &print, &img), -EUCLEAN);
	scratch_fill(&p->s, "golden/7", 99999, 3);
	assert_int_equal(pin_open(p->s.dirfd, ID, GF_PIN_COPY, &print, &img), -EUCLEAN);
}

/* --- linked pins that were changed while nothing was mounted ------------------------------- */

#define BIG (600 * MIB)
/* In a part whose first and middle block are elsewhere: no sample sees it. */
#define UNSEEN (BIG / 64 * 5 + 3 * 1024 * 1024)

/* An image that is linked whatever the file system would prefer. */
static struct pin_print make_linked(struct pins *p)
{
	struct pin_print print;
	int fd = scratch_open(&p->s, "f", O_RDWR | O_CREAT | O_TRUNC);
	uint64_t off;

	assert_int_equal(ftruncate(fd, (off_t)BIG), 0);
	for (off = 0; off < BIG; off += BIG / 64)
		assert_int_equal(pwrite(fd, "data", 4, (off_t)off), 4);
	assert_int_equal(pwrite(fd, "unseen", 6, (off_t)UNSEEN), 6);
	close(fd);
	mkdirat(p->s.dirfd, "golden", 0700);
	unlinkat(p->s.dirfd, "golden/7", 0);
	assert_int_equal(linkat(p->s.dirfd, "f", p->s.dirfd, "golden/7", 0), 0);
	print = print_of(p, "f");
	return print;
}

static int reopen(struct pins *p, struct pin_print *print)
{
	struct image *img;
	int rc = pin_open(p->s.dirfd, ID, GF_PIN_LINK, print, &img);

	if (rc == 0)
		image_free(img);
	return rc;
}

static void make_sums(struct pins *p)
{
	int fd = scratch_open(&p->s, "golden/7", O_RDONLY);

	assert_int_equal(pin_sums_make(p->s.dirfd, ID, fd, NULL, NULL), 0);
	assert_int_equal(pin_sums_exist(p->s.dirfd, ID), 0);
	close(fd);
}

static void a_touched_link_is_the_same(void **state)
{
	struct pins *p = *state;
	struct pin_print print = make_linked(p);
	int sums;

	for (sums = 0; sums < 2; sums++) {
		if (sums)
			make_sums(p);
		assert_int_equal(reopen(p, &print), 0);
		set_mtime(p, "f", 12345 + sums);
		assert_int_equal(fchmodat(p->s.dirfd, "f", 0600, 0), 0);
		assert_int_equal(reopen(p, &print), 0);
		assert_int_equal(print.mtime_ns, 12345 + sums);
	}
}

static void an_unseen_change_needs_the_sums(void **state)
{
	struct pins *p = *state;
	struct pin_print print = make_linked(p), old = print;
	int fd;

	poke(p, "f", UNSEEN, "UNSEEN");
	set_mtime(p, "f", 1);
	assert_true(print_of(p, "f").sample == print.sample); /* or the test is void */
	assert_int_equal(reopen(p, &print), 0);		      /* with a warning */
	print = make_linked(p);
	make_sums(p);
	poke(p, "f", UNSEEN, "UNSEEN");
	set_mtime(p, "f", 1);
	old = print;
	assert_int_equal(reopen(p, &print), -ESTALE);
	assert_memory_equal(&old, &print, sizeof(old));
	fd = scratch_open(&p->s, "golden/7", O_RDONLY);
	assert_int_equal(pin_copy(p->s.dirfd, ID, fd, NULL, NULL), -ESTALE);
	close(fd);
	/* Undone, it is the same again. */
	poke(p, "f", UNSEEN, "unseen");
	assert_int_equal(reopen(p, &print), 0);
	/* Data where a hole was, in a chunk that had none. */
	poke(p, "f", UNSEEN + 2 * MIB, "x");
	set_mtime(p, "f", 2);
	assert_int_equal(reopen(p, &print), -ESTALE);
}

static int64_t ctime_of(struct pins *p, const char *name)
{
	struct stat st;

	assert_int_equal(fstatat(p->s.dirfd, name, &st, 0), 0);
	return (int64_t)st.st_ctim.tv_sec * 1000000000 + st.st_ctim.tv_nsec;
}

/* Whoever puts the time of modification back cannot put back the time of change. */
static void a_change_in_disguise_is_found(void **state)
{
	struct pins *p = *state;
	struct pin_print print = make_linked(p);
	int64_t seen = 0;

	assert_int_equal(pin_seen(p->s.dirfd, ID, &seen), -ENOENT);
	/* Before there are sums there is only the time, and then a warning is all there can be. */
	assert_int_equal(pin_seen_set(p->s.dirfd, ID, print.size, ctime_of(p, "f")), 0);
	assert_int_equal(pin_seen(p->s.dirfd, ID, &seen), 0);
	assert_true(seen == ctime_of(p, "f"));
	assert_int_equal(pin_sums_exist(p->s.dirfd, ID), -ENOENT);
	assert_int_equal(reopen(p, &print), 0);

	make_sums(p);
	assert_int_equal(pin_seen(p->s.dirfd, ID, &seen), 0);
	assert_true(seen == ctime_of(p, "f"));
	usleep(20000); /* the clock of the file system has moved */
	poke(p, "f", UNSEEN, "UNSEEN");
	set_mtime(p, "f", print.mtime_ns);
	assert_int_equal(reopen(p, &print), -ESTALE);
	poke(p, "f", UNSEEN, "unseen");
	set_mtime(p, "f", print.mtime_ns);
	assert_int_equal(reopen(p, &print), 0);
	/* chmod looks alike and is none, and then it is noted, and the sums are as they were. */
	assert_int_equal(fchmodat(p->s.dirfd, "f", 0604, 0), 0);
	assert_int_equal(reopen(p, &print), 0);
	assert_int_equal(pin_seen_set(p->s.dirfd, ID, print.size, ctime_of(p, "f")), 0);
	assert_int_equal(pin_seen(p->s.dirfd, ID, &seen), 0);
	assert_true(seen == ctime_of(p, "f"));
	assert_int_equal(pin_sums_exist(p->s.dirfd, ID), 0);
	/* A damaged header is made anew. */
	poke(p, "golden/7.sums", 50, "\xa5\x5a");
	assert_int_equal(pin_seen(p->s.dirfd, ID, &seen), -ENOENT);
	assert_int_equal(pin_seen_set(p->s.dirfd, ID, print.size, 5), 0);
	assert_int_equal(pin_seen(p->s.dirfd, ID, &seen), 0);
	assert_int_equal(seen, 5);
}

static void a_hole_for_data_is_found(void **state)
{
	struct pins *p = *state;
	struct pin_print print = make_linked(p);
	int fd;

	make_sums(p);
	fd = scratch_open(&p->s, "f", O_RDWR);
	if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
		    (off_t)round_down(UNSEEN, MIB), (off_t)MIB) < 0) {
		close(fd);
		skip();
	}
	close(fd);
	set_mtime(p, "f", 1);
	assert_int_equal(reopen(p, &print), -ESTALE);
	fd = scratch_open(&p->s, "golden/7", O_RDONLY);
	assert_int_equal(pin_copy(p->s.dirfd, ID, fd, NULL, NULL), -ESTALE);
	close(fd);
}

static void other_sizes_and_samples_are_stale(void **state)
{
	struct pins *p = *state;
	struct pin_print print = make_linked(p);

	poke(p, "f", 0, "DATA");
	assert_int_equal(reopen(p, &print), -ESTALE);
	print = make_linked(p);
	make_sums(p);
	assert_int_equal(truncate("/nonexistent", 0), -1);
	poke(p, "f", BIG, "longer");
	assert_int_equal(reopen(p, &print), -ESTALE);
}

static void damaged_sums_are_no_sums(void **state)
{
	struct pins *p = *state;
	struct pin_print print = make_linked(p);
	static const uint64_t spots[] = {0, 8, 12, 16, 24, 32, 40, 56, 64, 64 + 599 * 8};
	struct stat st;
	size_t i;

	make_sums(p);
	assert_int_equal(fstatat(p->s.dirfd, "golden/7.sums", &st, 0), 0);
	assert_int_equal(st.st_size, 64 + 600 * 8);
	for (i = 0; i < ARRAY_SIZE(spots); i++) {
		make_sums(p);
		poke(p, "golden/7.sums", spots[i], "\xa5\x5a");
		assert_int_equal(pin_sums_exist(p->s.dirfd, ID), -EUCLEAN);
		set_mtime(p, "f", (int64_t)i + 1);
		assert_int_equal(reopen(p, &print), 0);
	}
	scratch_fill(&p->s, "golden/7.sums", 63, 1);
	assert_int_equal(pin_sums_exist(p->s.dirfd, ID), -EUCLEAN);
	make_sums(p);
	assert_int_equal(pin_sums_exist(p->s.dirfd, ID + 1), -ENOENT);
	assert_int_equal(renameat(p->s.dirfd, "golden/7.sums", p->s.dirfd, "golden/8.sums"), 0);
	assert_int_equal(pin_sums_exist(p->s.dirfd, ID + 1), -EUCLEAN); /* of another image */
}

/* --- the guard ---------------------------------------------------------------------------- */

static void on_broken(void *arg, uint64_t id)
{
	struct pins *p = arg;
	unsigned hold_ms;

	pthread_mutex_lock(&p->lock);
	p->broken += id == ID ? 1 : 1000;
	pread(p->image_fd, &p->saw, 1, 0);
	p->copy_rc = pin_guard_copy(p->guard, p->s.dirfd, ID, &p->print, NULL, NULL);
	hold_ms = p->hold_ms;
	pthread_mutex_unlock(&p->lock);
	sleep_ms(hold_ms);
	pin_guard_remove(p->guard, id);
}

static unsigned broken(struct pins *p)
{
	unsigned n;

	pthread_mutex_lock(&p->lock);
	n = p->broken;
	pthread_mutex_unlock(&p->lock);
	return n;
}

static void guard_image(struct pins *p)
{
	scratch_fill(&p->s, "f", 100000, 3);
	mkdirat(p->s.dirfd, "golden", 0700);
	assert_int_equal(linkat(p->s.dirfd, "f", p->s.dirfd, "golden/7", 0), 0);
	if (!p->guard)
		assert_int_equal(pin_guard_new(&p->guard, on_broken, p), 0);
	p->image_fd = scratch_open(&p->s, "golden/7", O_RDONLY);
	assert_int_equal(pin_guard_add(p->guard, ID, p->image_fd), 0);
	pthread_mutex_lock(&p->lock);
	assert_int_equal(pin_print_fd(p->image_fd, &p->print), 0);
	p->hold_ms = 200;
	pthread_mutex_unlock(&p->lock);
}

/* Runs what in another process and waits for it; its result has to be 0 to 99. */
static int elsewhere(struct pins *p, int (*what)(struct pins *p))
{
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		alarm(60);
		_exit(what(p));
	}
	assert_true(pid > 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

static int overwrite(struct pins *p)
{
	int fd = openat(p->s.dirfd, "f", O_WRONLY);

	return fd < 0 || pwrite(fd, "new", 3, 0) != 3;
}

static int overwrite_truncated(struct pins *p)
{
	int fd = openat(p->s.dirfd, "f", O_WRONLY | O_TRUNC);

	return fd < 0 || pwrite(fd, "new", 3, 0) != 3;
}

static int truncate_by_name(struct pins *p)
{
	return fchdir(p->s.dirfd) < 0 || truncate("f", 0) < 0;
}

static int overwrite_mapped(struct pins *p)
{
	int fd = openat(p->s.dirfd, "f", O_RDWR);
	char *map = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	if (map == MAP_FAILED)
		return 1;
	close(fd);
	map[0] = 'n';
	return msync(map, 4096, MS_SYNC) < 0;
}

/* The pin's bytes, whatever it is by now. */
static void assert_kept(struct pins *p)
{
	struct pin_print print = p->print;
	struct image *img;

	assert_int_equal(pin_open(p->s.dirfd, ID, GF_PIN_COPY, &print, &img), 0);
	assert_int_equal(img->size, 100000);
	assert_image(img, 0, 100000, 3);
	image_free(img);
}

static void check_held_off(struct pins *p, int (*writer)(struct pins *p))
{
	guard_image(p);
	assert_int_equal(elsewhere(p, writer), 0);
	assert_int_equal(broken(p), 1);
	assert_int_equal(p->copy_rc, 0);
	assert_int_equal(p->saw, scratch_byte(0, 3)); /* the writer had not come in yet */
	assert_kept(p);
}

static void a_writer_is_held_off(void **state)
{
	check_held_off(*state, overwrite);
}

static void a_truncating_writer_is_held_off(void **state)
{
	check_held_off(*state, overwrite_truncated);
}

static void truncation_by_name_is_held_off(void **state)
{
	check_held_off(*state, truncate_by_name);
}

static void a_mapping_writer_is_held_off(void **state)
{
	check_held_off(*state, overwrite_mapped);
}

/* Like touch(1): opens without waiting, and when that fails sets the time by name. */
static int touch(struct pins *p)
{
	int i;

	for (i = 0; i < 40; i++) {
		int fd = openat(p->s.dirfd, "f", O_WRONLY | O_CREAT | O_NOCTTY | O_NONBLOCK, 0666);

		if (fd >= 0) /* slipped in while the guard renewed its lease */
			close(fd);
		else if (errno != EWOULDBLOCK)
			return 2;
		if (utimensat(p->s.dirfd, "f", NULL, 0) < 0)
			return 3;
	}
	return 0;
}

static int change_attributes(struct pins *p)
{
	return fchmodat(p->s.dirfd, "f", 0600, 0) < 0 ||
	       fchownat(p->s.dirfd, "f", getuid(), getgid(), 0) < 0 ||
	       linkat(p->s.dirfd, "f", p->s.dirfd, "g", 0) < 0 ||
	       unlinkat(p->s.dirfd, "f", 0) < 0 || renameat(p->s.dirfd, "g", p->s.dirfd, "f") < 0 ||
	       openat(p->s.dirfd, "f", O_RDONLY) < 0;
}

static int replace(struct pins *p)
{
	int fd = openat(p->s.dirfd, "new", O_WRONLY | O_CREAT, 0644);

	return fd < 0 || write(fd, "new", 3) != 3 ||
	       renameat(p->s.dirfd, "new", p->s.dirfd, "f") < 0;
}

static void touch_and_chmod_cost_nothing(void **state)
{
	struct pins *p = *state;

	guard_image(p);
	assert_int_equal(elsewhere(p, touch), 0);
	assert_int_equal(elsewhere(p, change_attributes), 0);
	assert_int_equal(elsewhere(p, touch), 0);
	sleep_ms(100);
	assert_int_equal(broken(p), 0);
	/* The guard is still there, and a writer who is held off does not matter to a new mtime. */
	assert_int_equal(elsewhere(p, overwrite), 0);
	assert_int_equal(broken(p), 1);
	assert_int_equal(p->copy_rc, 0);
	assert_kept(p);
}

static void replacing_is_not_writing(void **state)
{
	struct pins *p = *state;

	guard_image(p);
	assert_int_equal(elsewhere(p, replace), 0);
	assert_int_equal(elsewhere(p, overwrite), 0); /* of the new file */
	sleep_ms(50);
	assert_int_equal(broken(p), 0);
	assert_kept(p);
}

/* A writer gives up waiting: the lease is broken, but nobody came in. */
static void alarmed(int sig)
{
}

static int overwrite_impatiently(struct pins *p)
{
	struct sigaction act = {.sa_handler = alarmed};
	struct timespec now;
	int fd, i;

	sigaction(SIGALRM, &act, NULL);
	for (i = 0; i < 20; i++) {
		ualarm(1, 0);
		clock_gettime(CLOCK_MONOTONIC, &now);
		fd = openat(p->s.dirfd, "f", O_WRONLY);
		if (fd >= 0)
			return 0;
	}
	return 0;
}

static void assert_kept_or_not_copied(struct pins *p)
{
	if (broken(p) == 1)
		assert_int_equal(p->copy_rc, 0);
	assert_kept(p);
}

static void an_impatient_writer_changes_nothing(void **state)
{
	struct pins *p = *state;

	guard_image(p);
	assert_int_equal(elsewhere(p, overwrite_impatiently), 0);
	sleep_ms(50);
	/* It may have been taken for a writer or not, but either way nothing is mixed. */
	assert_true(broken(p) <= 1);
	assert_kept_or_not_copied(p);
}

static void present_writers_are_refused(void **state)
{
	struct pins *p = *state;
	int writer;

	assert_int_equal(pin_guard_new(&p->guard, on_broken, p), 0);
	scratch_fill(&p->s, "f", 1000, 3);
	p->image_fd = scratch_open(&p->s, "f", O_RDONLY);
	writer = scratch_open(&p->s, "f", O_RDWR);
	assert_int_equal(pin_guard_add(p->guard, ID, p->image_fd), -EBUSY);
	close(writer);
	assert_int_equal(pin_guard_add(p->guard, ID, p->image_fd), 0);
	assert_int_equal(pin_guard_add(p->guard, ID, p->image_fd), -EEXIST);
	pin_guard_remove(p->guard, ID);
	pin_guard_remove(p->guard, ID);
	/* Let go of: a writer is not held up although our descriptor is open. */
	close(scratch_open(&p->s, "f", O_RDWR | O_NONBLOCK));
	assert_int_equal(broken(p), 0);
}

static void many_pins_are_guarded(void **state)
{
	struct pins *p = *state;
	int fds[200], i;
	char name[32];

	for (i = 0; i < 200; i++) {
		snprintf(name, sizeof(name), "other%d", i);
		scratch_fill(&p->s, name, 10, 1);
	}
	assert_int_equal(pin_guard_new(&p->guard, on_broken, p), 0);
	for (i = 0; i < 200; i++) {
		snprintf(name, sizeof(name), "other%d", i);
		fds[i] = scratch_open(&p->s, name, O_RDONLY);
		assert_int_equal(pin_guard_add(p->guard, 100 + (unsigned)i, fds[i]), 0);
	}
	guard_image(p);
	assert_int_equal(elsewhere(p, overwrite), 0);
	assert_int_equal(broken(p), 1);
	for (i = 0; i < 200; i += 2)
		pin_guard_remove(p->guard, 100 + (unsigned)i);
	pin_guard_free(p->guard); /* with the other half in it */
	p->guard = NULL;
	for (i = 0; i < 200; i++) {
		snprintf(name, sizeof(name), "other%d", i);
		close(scratch_open(&p->s, name, O_WRONLY | O_NONBLOCK));
		close(fds[i]);
	}
}

/* The same image pinned twice: a second lease stands in the way of renewing the first. */
static void an_image_may_have_two_pins(void **state)
{
	struct pins *p = *state;
	int other;

	guard_image(p);
	other = scratch_open(&p->s, "f", O_RDONLY);
	assert_int_equal(pin_guard_add(p->guard, ID + 1, other), 0);
	assert_int_equal(elsewhere(p, touch), 0);
	sleep_ms(300);
	assert_int_equal(broken(p), 0);
	assert_int_equal(fcntl(other, F_GETLEASE), F_RDLCK);
	assert_int_equal(fcntl(p->image_fd, F_GETLEASE), F_RDLCK);
	assert_int_equal(elsewhere(p, overwrite), 0);
	sleep_ms(300);
	assert_int_equal(broken(p), 1001);
	assert_int_equal(p->saw, scratch_byte(0, 3));
	close(other);
}

static volatile sig_atomic_t stray;

static void count_stray(int sig)
{
	stray++;
}

/* No other thread gets a signal: all of them would be seen here. */
static void other_threads_are_left_alone(void **state)
{
	struct sigaction act = {.sa_handler = count_stray}, saved[65];
	struct pins *p = *state;
	int sig;

	for (sig = SIGRTMIN; sig <= SIGRTMAX; sig++)
		sigaction(sig, &act, &saved[sig]);
	sigaction(SIGIO, &act, &saved[SIGIO]);
	guard_image(p);
	assert_int_equal(elsewhere(p, touch), 0);
	sleep_ms(100);
	assert_int_equal(elsewhere(p, overwrite), 0);
	assert_int_equal(broken(p), 1);
	assert_int_equal(stray, 0);
	for (sig = SIGRTMIN; sig <= SIGRTMAX; sig++)
		sigaction(sig, &saved[sig], NULL);
	sigaction(SIGIO, &saved[SIGIO], NULL);
}

/* In a process without the right to take a lease: inotify, after the fact. */
static int watch_as_nobody(struct pins *p, int out)
{
	int i;

	if (setresgid(65534, 65534, 65534) < 0 || setresuid(65534, 65534, 65534) < 0)
		return 10;
	prctl(PR_SET_DUMPABLE, 1); /* or /proc/self/fd is not ours */
	if (pin_guard_new(&p->guard, on_broken, p) < 0)
		return 11;
	if (pin_guard_add(p->guard, ID, p->image_fd) < 0)
		return 12;
	for (i = 0; i < 4 && broken(p) == 0; i++) {
		if (write(out, "x", 1) != 1)
			return 14;
		sleep_ms(150);
	}
	pin_guard_free(p->guard);
	if (broken(p) != 1)
		return 20;
	/* No sample shows the change, but nobody was held off, so the new mtime counts. */
	return p->copy_rc == -ESTALE ? i : 21;
}

static void without_leases_writes_are_noticed(void **state)
{
	struct pins *p = *state;
	int status, turn[2];
	char c;
	pid_t pid;

	if (geteuid() != 0)
		skip();
	p->print = make_linked(p);
	p->image_fd = scratch_open(&p->s, "f", O_RDONLY);
	assert_int_equal(pipe(turn), 0);
	pid = fork();
	if (pid == 0)
		_exit(watch_as_nobody(p, turn[1]));
	close(turn[1]);
	assert_int_equal(read(turn[0], &c, 1), 1);
	/* touch, with a successful open for writing; chmod */
	close(scratch_open(&p->s, "f", O_WRONLY));
	assert_int_equal(utimensat(p->s.dirfd, "f", NULL, 0), 0);
	fchmodat(p->s.dirfd, "f", 0644, 0);
	assert_int_equal(read(turn[0], &c, 1), 1);
	assert_int_equal(read(turn[0], &c, 1), 1); /* it has seen that, and is still watching */
	poke(p, "f", UNSEEN, "new");
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 3);
	close(turn[0]);
}

/* Touches as fast as can be, so that some slip in, and a writer in the end. */
static void a_storm_of_touches_costs_nothing(void **state)
{
	struct pins *p = *state;
	int i;

	guard_image(p);
	for (i = 0; i < 50; i++)
		assert_int_equal(elsewhere(p, touch), 0);
	sleep_ms(300);
	assert_int_equal(broken(p), 0);
	/* All are gone, so the lease stands again. */
	assert_int_equal(openat(p->s.dirfd, "f", O_WRONLY | O_NONBLOCK), -1);
	assert_int_equal(errno, EWOULDBLOCK);
	sleep_ms(100);
	assert_int_equal(elsewhere(p, overwrite), 0);
	assert_int_equal(broken(p), 1);
	assert_int_equal(p->copy_rc, 0);
	assert_kept(p);
}

static void the_guard_knows_its_time(void **state)
{
	assert_in_range(pin_guard_seconds(), 1, 40);
}

int main(void)
{
#define PIN_TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		PIN_TEST(prints_tell_contents_apart),
		PIN_TEST(small_images_are_printed_whole),
		PIN_TEST(samples_fall_on_data),
		PIN_TEST(zeros_and_holes_print_alike),
		PIN_TEST(pins_outlive_their_image),
		PIN_TEST(an_upload_cannot_be_pinned),
		PIN_TEST(leftovers_are_replaced),
		PIN_TEST(deleted_images_and_others_are_refused),
		PIN_TEST(copies_are_sparse_and_recognised),
		PIN_TEST(a_copy_of_a_changing_image_fails),
		PIN_TEST(damage_to_a_copy_is_found),
		PIN_TEST(a_touched_link_is_the_same),
		PIN_TEST(an_unseen_change_needs_the_sums),
		PIN_TEST(a_change_in_disguise_is_found),
		PIN_TEST(a_hole_for_data_is_found),
		PIN_TEST(other_sizes_and_samples_are_stale),
		PIN_TEST(damaged_sums_are_no_sums),
		PIN_TEST(a_writer_is_held_off),
		PIN_TEST(a_truncating_writer_is_held_off),
		PIN_TEST(truncation_by_name_is_held_off),
		PIN_TEST(a_mapping_writer_is_held_off),
		PIN_TEST(touch_and_chmod_cost_nothing),
		PIN_TEST(a_storm_of_touches_costs_nothing),
		PIN_TEST(replacing_is_not_writing),
		PIN_TEST(an_impatient_writer_changes_nothing),
		PIN_TEST(present_writers_are_refused),
		PIN_TEST(many_pins_are_guarded),
		PIN_TEST(an_image_may_have_two_pins),
		PIN_TEST(other_threads_are_left_alone),
		PIN_TEST(without_leases_writes_are_noticed),
		PIN_TEST(the_guard_knows_its_time),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
