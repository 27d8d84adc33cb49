/* SPDX-License-Identifier: MIT */
/* Sources of golden bytes: raw and memory images, format probing, the images folder. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/sizes.h"
#include "goldfs/format.h"
#include "image/folder.h"
#include "image/image.h"
#include "image/present.h"
#include "image/probe.h"
#include "scratch.h"

static void raw_reads_any_size(void **state)
{
	static const size_t sizes[] = {0, 1, 511, 4095, 4096, 4097, 123457};
	uint8_t buf[8192];
	struct scratch s;
	size_t i, j;

	scratch_init(&s);
	for (i = 0; i < ARRAY_SIZE(sizes); i++) {
		struct image *img;
		uint64_t start, end, off = sizes[i] > 4096 ? sizes[i] - 4096 : 0;

		scratch_fill(&s, "f", sizes[i], 7);
		assert_int_equal(image_raw_new(&img, scratch_open(&s, "f", O_RDONLY)), 0);
		assert_int_equal(img->size, sizes[i]);
		assert_true(image_raw_fd(img) >= 0);
		memset(buf, 0xee, sizeof(buf));
		assert_int_equal(img->ops->read(img, buf, sizeof(buf), off), 0);
		for (j = 0; j < sizeof(buf); j++)
			assert_int_equal(buf[j], off + j < sizes[i] ? scratch_byte(off + j, 7) : 0);
		assert_int_equal(img->ops->read(img, buf, 10, sizes[i] + 5000), 0);
		assert_int_equal(buf[0] | buf[9], 0);
		if (sizes[i]) {
			assert_int_equal(img->ops->next_data(img, 0, &start, &end), 0);
			assert_int_equal(start, 0);
			assert_int_equal(end, sizes[i]);
		}
		assert_int_equal(img->ops->next_data(img, sizes[i], &start, &end), -ENXIO);
		image_free(img);
	}
	scratch_release(&s);
}

static void raw_cut_short_is_an_error(void **state)
{
	struct image *img;
	struct scratch s;
	uint8_t buf[4096];

	scratch_init(&s);
	scratch_fill(&s, "f", 20000, 1);
	assert_int_equal(image_raw_new(&img, scratch_open(&s, "f", O_RDONLY)), 0);
	close(scratch_open(&s, "f", O_WRONLY | O_TRUNC));
	assert_int_equal(img->ops->read(img, buf, sizeof(buf), 0), -EIO);
	assert_int_equal(img->ops->read(img, buf, sizeof(buf), 18000), -EIO);
	assert_int_equal(img->ops->read(img, buf, sizeof(buf), 20000), 0);
	image_free(img);
	scratch_release(&s);
}

/* Bytes that were borrowed, as the kernel hands them on: through a pipe. 0 or -errno. */
static int pass_on(const void *bytes, size_t len, void *out)
{
	int fds[2], r = 0;

	assert_int_equal(pipe(fds), 0);
	if (write(fds[1], bytes, len) < 0)
		r = -errno;
	if (!r)
		assert_int_equal(read(fds[0], out, len), len);
	close(fds[0]);
	close(fds[1]);
	return r;
}

/* Kernels that cannot say whether pages are there lend nothing. */
static bool can_lend(void)
{
	static char page[4096] __attribute__((aligned(4096)));

	present_prepare();
	page[0] = 1;
	return present_ask(page, sizeof(page)) != PRESENT_UNKNOWN;
}

static struct image *open_to_lend(struct scratch *s, size_t size, unsigned seed)
{
	struct image *img;

	if (!can_lend())
		skip();
	scratch_init(s);
	scratch_fill(s, "f", size, seed);
	assert_int_equal(image_raw_new(&img, scratch_open(s, "f", O_RDONLY)), 0);
	return img;
}

static void raw_lends_what_it_has(void **state)
{
	static const struct {
		uint64_t off;
		size_t len;
	} ranges[] = {{0, 4096}, {1, 8000}, {4095, 2}, {70000, 30000}, {99999, 1}, {0, 60000}};
	struct scratch s;
	struct image *img;
	uint8_t buf[65536];

	img = open_to_lend(&s, 100000, 9);
	for (size_t i = 0; i < ARRAY_SIZE(ranges); i++) {
		const void *bytes = img->ops->borrow(img, ranges[i].len, ranges[i].off);

		assert_non_null(bytes);
		assert_int_equal(pass_on(bytes, ranges[i].len, buf), 0);
		for (size_t j = 0; j < ranges[i].len; j++)
			assert_int_equal(buf[j], scratch_byte(ranges[i].off + j, 9));
		img->ops->give_back(img);
	}
	assert_null(img->ops->borrow(img, 2, 99999));
	assert_null(img->ops->borrow(img, 1, 100000));
	assert_null(img->ops->borrow(img, 1, UINT64_MAX));
	assert_null(img->ops->borrow(img, SIZE_MAX, 1));
	image_free(img);
	scratch_release(&s);
}

/* Without a fault: who takes them may be the kernel for a process that was killed. */
static void raw_lends_what_is_present(void **state)
{
	struct scratch s;
	struct image *img;

	img = open_to_lend(&s, 1 << 20, 3);
	for (uint64_t off = 0; off < 1 << 20; off += 128 * KIB) {
		const void *bytes = img->ops->borrow(img, 128 * KIB, off);

		assert_non_null(bytes);
		assert_int_equal(present_ask(bytes, 128 * KIB), PRESENT_ALL);
		img->ops->give_back(img);
	}
	image_free(img);
	scratch_release(&s);
}

/* Cut within a page it would show zeros, which look like data; cut while it is lent, nobody dies. */
static void raw_lends_nothing_of_what_was_cut(void **state)
{
	struct scratch s;
	struct image *img;
	const void *bytes;
	uint8_t buf[4096];

	img = open_to_lend(&s, 20000, 1);
	bytes = img->ops->borrow(img, 4096, 8192);
	assert_non_null(bytes);
	close(scratch_open(&s, "f", O_WRONLY | O_TRUNC));
	assert_int_equal(pass_on(bytes, 4096, buf), -EFAULT);
	img->ops->give_back(img);
	assert_null(img->ops->borrow(img, 4096, 8192));
	scratch_fill(&s, "f", 19999, 1);
	assert_null(img->ops->borrow(img, 1, 19000));
	image_free(img);
	scratch_release(&s);
}

static void raw_knows_thousands_of_extents(void **state)
{
	const unsigned count = 3000;
	uint64_t pos = 0, start, end;
	struct image *img;
	struct scratch s;
	unsigned i;
	int fd;

	scratch_init(&s);
	fd = scratch_open(&s, "f", O_RDWR | O_CREAT);
	for (i = 0; i < count; i++)
		assert_int_equal(pwrite(fd, "x", 1, (off_t)(i * 40 * MIB + 4096)), 1);
	assert_int_equal(ftruncate(fd, (off_t)(400 * GIB + 1)), 0);
	close(fd);
	assert_int_equal(image_raw_new(&img, scratch_open(&s, "f", O_RDONLY)), 0);
	for (i = 0; img->ops->next_data(img, pos, &start, &end) == 0; i++) {
		assert_int_equal(start, i * 40 * MIB + 4096);
		assert_int_equal(end, start + 4096);
		pos = end;
	}
	assert_int_equal(i, count);
	image_free(img);
	scratch_release(&s);
}

static void raw_takes_files_only(void **state)
{
	struct image *img;
	struct scratch s;
	int fd;

	scratch_init(&s);
	fd = scratch_open(&s, ".", O_RDONLY);
	assert_int_equal(image_raw_new(&img, fd), -EINVAL);
	close(fd);
	scratch_release(&s);
}

static void memory_has_exact_holes(void **state)
{
	static uint8_t bytes[5 * 4096 + 100];
	uint64_t start, end;
	struct image *img;
	uint8_t buf[300];

	memset(bytes, 0, sizeof(bytes));
	bytes[4096 + 17] = 1;
	bytes[2 * 4096] = 2;
	bytes[sizeof(bytes) - 1] = 3;
	assert_int_equal(image_memory_new(&img, bytes, sizeof(bytes)), 0);
	assert_int_equal(image_raw_fd(img), -1);
	assert_int_equal(img->ops->next_data(img, 0, &start, &end), 0);
	assert_int_equal(start, 4096);
	assert_int_equal(end, 3 * 4096);
	assert_int_equal(img->ops->next_data(img, 5000, &start, &end), 0);
	assert_int_equal(start, 5000);
	assert_int_equal(img->ops->next_data(img, 3 * 4096, &start, &end), 0);
	assert_int_equal(start, 5 * 4096);
	assert_int_equal(end, sizeof(bytes));
	assert_int_equal(img->ops->next_data(img, sizeof(bytes), &start, &end), -ENXIO);
	assert_int_equal(img->ops->read(img, buf, sizeof(buf), sizeof(bytes) - 1), 0);
	assert_int_equal(buf[0], 3);
	assert_int_equal(buf[1] | buf[299], 0);
	image_free(img);
}

static void formats_are_known_by_their_magic(void **state)
{
	uint8_t head[IMAGE_PROBE_HEAD] = {0}, tail[IMAGE_PROBE_TAIL] = {0};

#define PROBE() image_probe(head, sizeof(head), tail, sizeof(tail))
#define HEAD(text) (memset(head, 0, sizeof(head)), memcpy(head, text, sizeof(text) - 1))
	assert_int_equal(image_probe(NULL, 0, NULL, 0), IMAGE_RAW);
	assert_int_equal(PROBE(), IMAGE_RAW);
	HEAD("QFI\xfb\0\0\0\3");
	assert_int_equal(PROBE(), IMAGE_QCOW2);
	HEAD("KDMV\1\0\0\0");
	assert_int_equal(PROBE(), IMAGE_VMDK);
	HEAD("COWD\1\0\0\0");
	assert_int_equal(PROBE(), IMAGE_VMDK);
	HEAD("COWDISBELL");
	assert_int_equal(PROBE(), IMAGE_RAW);
	HEAD("\n# Disk DescriptorFile\nversion=1\n");
	assert_int_equal(PROBE(), IMAGE_VMDK);
	HEAD("vhdxfile");
	assert_int_equal(PROBE(), IMAGE_VHDX);
	HEAD("conectix");
	assert_int_equal(PROBE(), IMAGE_VHD);
	HEAD("<<< Oracle VM VirtualBox Disk Image >>>\n");
	memcpy(head + 64, "\x7f\x10\xda\xbe", 4);
	assert_int_equal(PROBE(), IMAGE_VDI);
	HEAD("");
	memcpy(tail, "conectix", 8);
	assert_int_equal(PROBE(), IMAGE_RAW);
	tail[63] = 2;
	assert_int_equal(PROBE(), IMAGE_VHD);
	assert_int_equal(image_probe(head, sizeof(head), tail, 511), IMAGE_RAW);
	HEAD("QFI\xfb\0\0\0\3");
	assert_int_equal(image_probe(head, 7, NULL, 0), IMAGE_RAW);
	assert_string_equal(image_format_name(IMAGE_VHDX), "vhdx");
	assert_string_equal(image_format_name(IMAGE_RAW), "raw");
#undef HEAD
#undef PROBE
}

struct images {
	struct scratch scratch; /* holds images/ and what is outside of it */
	struct folder *folder;
	int dirfd; /* of images/ */
	char path[8192];
};

static int setup_folder(void **state)
{
	struct images *im = calloc(1, sizeof(*im));

	scratch_init(&im->scratch);
	mkdirat(im->scratch.dirfd, "images", 0755);
	scratch_fill(&im->scratch, "outside", 10, 1);
	snprintf(im->path, sizeof(im->path), "%s/images", im->scratch.path);
	im->dirfd = open(im->path, O_RDONLY | O_DIRECTORY);
	*state = im;
	return folder_open(&im->folder, im->path);
}

static int teardown_folder(void **state)
{
	struct images *im = *state;

	folder_close(im->folder);
	close(im->dirfd);
	scratch_release(&im->scratch);
	free(im);
	return 0;
}

static void put_file(struct images *im, const char *name, size_t size)
{
	int fd = openat(im->dirfd, name, O_WRONLY | O_CREAT, 0644);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)size), 0);
	close(fd);
}

struct shown {
	char name[64][NAME_MAX + 2];
	size_t count;
	uint64_t last; /* place */
	size_t part;   /* the list ends after so many; 0: it does not */
};

static int show(void *arg, const char *name, const struct stat *st, uint64_t place)
{
	struct shown *shown = arg;

	if (shown->part && shown->count == shown->part)
		return 1;
	assert_true(place > shown->last);
	assert_true(shown->count < ARRAY_SIZE(shown->name));
	snprintf(shown->name[shown->count++], sizeof(shown->name[0]), "%s%s", name,
		S_ISDIR(st->st_mode) ? "/" : "");
	shown->last = place;
	return 0;
}

static int compare_shown(const void *a, const void *b)
{
	return strcmp(a, b);
}

static const char *listing(struct images *im, const char *path)
{
	static char text[65536];

	struct shown shown = {.count = 0};

	text[0] = '\0';
	assert_int_equal(folder_list(im->folder, path, 0, show, &shown), 0);
	qsort(shown.name, shown.count, sizeof(shown.name[0]), compare_shown);
	for (size_t i = 0; i < shown.count; i++)
		strcat(strcat(text, shown.name[i]), " ");
	return text;
}

/* In parts, between which others come and go and somebody else lists: what stays is shown once. */
static void folder_lists_in_parts(void **state)
{
	struct shown shown = {.part = 3}, other;
	struct images *im = *state;
	unsigned seen = 0, n;
	char name[32];

	for (unsigned i = 0; i < 20; i++) {
		snprintf(name, sizeof(name), "stay%u", i);
		put_file(im, name, i);
	}
	for (unsigned i = 0; i == 0 || shown.count; i++) {
		snprintf(name, sizeof(name), "x%u", i);
		put_file(im, name, 1);
		snprintf(name, sizeof(name), "x%u", i - 1);
		unlinkat(im->dirfd, name, 0);
		if (i % 3 == 2) {
			other = (struct shown){.count = 0};
			assert_int_equal(folder_list(im->folder, "", 0, show, &other), 0);
		}
		shown.count = 0;
		assert_true(folder_list(im->folder, "", shown.last, show, &shown) >= 0);
		for (size_t k = 0; k < shown.count; k++)
			if (sscanf(shown.name[k], "stay%u", &n) == 1) {
				assert_false(seen & 1u << n);
				seen |= 1u << n;
			}
	}
	assert_int_equal(seen, (1u << 20) - 1);
}

static void folder_shows_files_and_folders(void **state)
{
	struct images *im = *state;
	struct stat st;
	int fd;

	put_file(im, "b.img", 5000);
	put_file(im, "a.img", 0);
	put_file(im, ".hidden", 1);
	mkdirat(im->dirfd, "sub", 0755);
	put_file(im, "sub/c.img", 3);
	mkdirat(im->dirfd, ".goldfs", 0755);
	put_file(im, ".goldfs/x", 3);
	mkfifoat(im->dirfd, "fifo", 0644);
	assert_string_equal(listing(im, ""), "a.img b.img sub/ ");
	assert_string_equal(listing(im, "sub"), "c.img ");
	assert_int_equal(folder_stat(im->folder, "b.img", &st), 0);
	assert_int_equal(st.st_size, 5000);
	assert_int_equal(folder_stat(im->folder, "", &st), 0);
	assert_true(S_ISDIR(st.st_mode));
	assert_int_equal(folder_stat(im->folder, "fifo", &st), -ENOENT);
	assert_int_equal(folder_open_file(im->folder, "fifo"), -ENOENT);
	assert_int_equal(folder_stat(im->folder, "b.img/x", &st), -ENOTDIR);
	assert_int_equal(folder_open_file(im->folder, "sub"), -EISDIR);
	fd = folder_open_file(im->folder, "sub/c.img");
	assert_true(fd >= 0);
	assert_int_equal(fcntl(fd, F_GETFL) & (O_ACCMODE | O_NONBLOCK), O_RDONLY);
	close(fd);
}

static void folder_hides_dots_everywhere(void **state)
{
	static const char *const paths[] = {".", "..", ".hidden", "sub/.hidden", ".goldfs/x",
		"sub/..", "../outside", "/etc/passwd", "/", "sub/../a.img", "./a.img",
		"sub/.hid/../c"};
	struct images *im = *state;
	struct stat st;
	size_t i;

	put_file(im, "a.img", 1);
	put_file(im, ".hidden", 1);
	mkdirat(im->dirfd, "sub", 0755);
	put_file(im, "sub/.hidden", 1);
	mkdirat(im->dirfd, ".goldfs", 0755);
	put_file(im, ".goldfs/x", 3);
	for (i = 0; i < ARRAY_SIZE(paths); i++) {
		assert_int_equal(folder_stat(im->folder, paths[i], &st), -ENOENT);
		assert_int_equal(folder_open_file(im->folder, paths[i]), -ENOENT);
		assert_int_equal(folder_list(im->folder, paths[i], 0, show, NULL), -ENOENT);
	}
}

static void put_link(struct images *im, const char *target, const char *name)
{
	assert_int_equal(symlinkat(target, im->dirfd, name), 0);
}

static void folder_follows_links_that_stay_inside(void **state)
{
	struct images *im = *state;
	char target[9000];
	struct stat st;
	int fd;

	mkdirat(im->dirfd, "sub", 0755);
	mkdirat(im->dirfd, "sub/deep", 0755);
	put_file(im, "sub/deep/c.img", 33);
	put_link(im, "sub/deep/c.img", "direct");
	put_link(im, "direct", "twice");
	put_link(im, "../sub/./deep//c.img", "sub/up");
	put_link(im, "sub/deep", "dir");
	snprintf(target, sizeof(target), "%s/sub/deep/c.img", im->path);
	put_link(im, target, "absolute");
	put_link(im, "../images/sub/deep/c.img", "out-and-in");
	put_link(im, "/etc/passwd", "etc");
	put_link(im, "../outside", "outside");
	put_link(im, "sub/../../outside", "outside2");
	put_link(im, "nothing", "dangling");
	snprintf(target, sizeof(target), "%s-not/x", im->path);
	put_link(im, target, "prefix");
	assert_string_equal(listing(im, ""), "absolute dir/ direct sub/ twice ");
	assert_string_equal(listing(im, "dir"), "c.img ");
	assert_string_equal(listing(im, "sub"), "deep/ up ");
	assert_int_equal(folder_stat(im->folder, "dir/c.img", &st), 0);
	assert_int_equal(st.st_size, 33);
	fd = folder_open_file(im->folder, "absolute");
	assert_true(fd >= 0);
	close(fd);
	assert_int_equal(folder_open_file(im->folder, "etc"), -ENOENT);
	assert_int_equal(folder_open_file(im->folder, "outside"), -ENOENT);
	assert_int_equal(folder_open_file(im->folder, "out-and-in"), -ENOENT);
	assert_int_equal(folder_stat(im->folder, "dangling", &st), -ENOENT);
}

static void folder_shows_nothing_hidden_through_links(void **state)
{
	struct images *im = *state;

	mkdirat(im->dirfd, ".goldfs", 0755);
	put_file(im, ".goldfs/x", 3);
	put_link(im, ".goldfs", "store");
	put_link(im, ".goldfs/x", "inside");
	put_link(im, "./.goldfs/x", "inside2");
	assert_string_equal(listing(im, ""), "");
	assert_int_equal(folder_open_file(im->folder, "store/x"), -ENOENT);
	assert_int_equal(folder_open_file(im->folder, "inside"), -ENOENT);
}

static void folder_does_not_go_in_circles(void **state)
{
	struct images *im = *state;
	char name[16], target[16];
	struct stat st;
	int i;

	mkdirat(im->dirfd, "a", 0755);
	mkdirat(im->dirfd, "b", 0755);
	put_file(im, "a/file", 1);
	put_link(im, "self", "self");
	put_link(im, "pong", "ping");
	put_link(im, "ping", "pong");
	put_link(im, ".", "here");
	put_link(im, "..", "a/root");
	put_link(im, "../b", "a/b");
	put_link(im, "../a", "b/a");
	assert_string_equal(listing(im, ""), "a/ b/ ");
	assert_string_equal(listing(im, "a"), "b/ file ");
	assert_string_equal(listing(im, "a/b"), "");
	assert_string_equal(listing(im, "b"), "a/ ");
	assert_int_equal(folder_stat(im->folder, "b/a/file", &st), 0);
	assert_int_equal(folder_stat(im->folder, "a/b/a", &st), -ENOENT);
	/* A long chain is fine up to the kernel's own limit. */
	for (i = 0; i < 45; i++) {
		snprintf(name, sizeof(name), "l%d", i);
		snprintf(target, sizeof(target), i ? "l%d" : "a/file", i - 1);
		put_link(im, target, name);
	}
	assert_int_equal(folder_stat(im->folder, "l39", &st), 0);
	assert_int_equal(folder_stat(im->folder, "l40", &st), -ENOENT);
}

static void folder_takes_any_name(void **state)
{
	struct images *im = *state;
	char longest[256], path[5000], too_long[300];
	struct stat st;

	memset(longest, 'n', 255);
	longest[255] = '\0';
	memset(too_long, 'n', 256);
	too_long[256] = '\0';
	put_file(im, "new\nline", 1);
	put_file(im, "bad\xff\xc3(utf8", 2);
	put_file(im, "sp ace", 3);
	put_file(im, longest, 4);
	put_link(im, "new\nline", "z\n");
	assert_int_equal(folder_stat(im->folder, "new\nline", &st), 0);
	assert_int_equal(folder_stat(im->folder, "z\n", &st), 0);
	assert_int_equal(folder_stat(im->folder, "bad\xff\xc3(utf8", &st), 0);
	assert_int_equal(st.st_size, 2);
	assert_int_equal(folder_stat(im->folder, longest, &st), 0);
	assert_int_equal(folder_stat(im->folder, too_long, &st), -ENAMETOOLONG);
	memset(path, 'p', sizeof(path) - 1);
	path[sizeof(path) - 1] = '\0';
	assert_int_equal(folder_stat(im->folder, path, &st), -ENAMETOOLONG);
	assert_int_equal(folder_open_file(im->folder, path), -ENAMETOOLONG);
}

/* What an unprivileged daemon sees: run in a child that gives up its rights. */
static int as_nobody(int (*what)(struct images *im), struct images *im)
{
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		if (setresgid(65534, 65534, 65534) < 0 || setresuid(65534, 65534, 65534) < 0)
			_exit(99);
		_exit(what(im));
	}
	assert_true(pid > 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

static int open_unreadable(struct images *im)
{
	struct stat st;
	int fd;

	if (folder_stat(im->folder, "secret", &st) != 0)
		return 1;
	if (folder_open_file(im->folder, "secret") != -EACCES)
		return 2;
	fd = folder_open_file(im->folder, "public"); /* O_NOATIME is not allowed here */
	return fd < 0 ? 3 : 0;
}

static void folder_reports_unreadable_files(void **state)
{
	struct images *im = *state;

	if (geteuid() != 0)
		skip();
	put_file(im, "secret", 1);
	put_file(im, "public", 1);
	fchmodat(im->dirfd, "secret", 0600, 0);
	assert_int_equal(as_nobody(open_unreadable, im), 0);
}

static void folder_follows_only_links_of_the_owner(void **state)
{
	struct images *im = *state;
	struct stat st;

	if (geteuid() != 0)
		skip();
	put_file(im, "private", 1);
	put_file(im, "own", 1);
	put_link(im, "private", "peek");
	put_link(im, "own", "fine");
	put_link(im, "peek", "admin");
	assert_int_equal(fchownat(im->dirfd, "own", 1000, 1000, 0), 0);
	assert_int_equal(fchownat(im->dirfd, "fine", 1000, 1000, AT_SYMLINK_NOFOLLOW), 0);
	assert_int_equal(fchownat(im->dirfd, "peek", 1000, 1000, AT_SYMLINK_NOFOLLOW), 0);
	assert_int_equal(folder_stat(im->folder, "fine", &st), 0);
	assert_int_equal(folder_stat(im->folder, "peek", &st), -ENOENT);
	assert_int_equal(folder_stat(im->folder, "admin", &st), -ENOENT);
}

static void folder_that_is_not_there(void **state)
{
	struct folder *folder = NULL;

	assert_int_equal(folder_open(&folder, "/nonexistent"), -ENOENT);
	assert_int_equal(folder_open(&folder, "/etc/passwd"), -ENOTDIR);
	folder_close(NULL);
}

int main(void)
{
#define FOLDER_TEST(f) cmocka_unit_test_setup_teardown(f, setup_folder, teardown_folder)
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(raw_reads_any_size),
		cmocka_unit_test(raw_cut_short_is_an_error),
		cmocka_unit_test(raw_lends_what_it_has),
		cmocka_unit_test(raw_lends_what_is_present),
		cmocka_unit_test(raw_lends_nothing_of_what_was_cut),
		cmocka_unit_test(raw_knows_thousands_of_extents),
		cmocka_unit_test(raw_takes_files_only),
		cmocka_unit_test(memory_has_exact_holes),
		cmocka_unit_test(formats_are_known_by_their_magic),
		FOLDER_TEST(folder_shows_files_and_folders),
		FOLDER_TEST(folder_lists_in_parts),
		FOLDER_TEST(folder_hides_dots_everywhere),
		FOLDER_TEST(folder_follows_links_that_stay_inside),
		FOLDER_TEST(folder_shows_nothing_hidden_through_links),
		FOLDER_TEST(folder_does_not_go_in_circles),
		FOLDER_TEST(folder_takes_any_name),
		FOLDER_TEST(folder_reports_unreadable_files),
		FOLDER_TEST(folder_follows_only_links_of_the_owner),
		cmocka_unit_test(folder_that_is_not_there),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
