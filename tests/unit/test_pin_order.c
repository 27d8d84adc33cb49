/* SPDX-License-Identifier: MIT */
/*
 * In which order a pin's files are synced and get their names, and how images are opened.
 *
 * Pins are made by system calls of their own, outside of the table of I/O calls, so the simulated
 * disk does not see them. Here the C library's functions are in front of which this program puts
 * its own: each writes a line of what was done and to what, and the lines are compared with what
 * must come before what. A reflink is what FICLONE's place says it is, also where the file system
 * has none.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/io.h"
#include "base/log.h"
#include "base/sizes.h"
#include "core/fs.h"
#include "core/fs_internal.h"
#include "goldfs/format.h"
#include "image/folder.h"
#include "image/image.h"
#include "image/pin.h"
#include "image/pin_file.h"
#include "scratch.h"

#define ID 7

enum { MAX_LINES = 1000 };

static struct {
	bool on;
	bool reflinks; /* FICLONE works; otherwise there is none */
	bool no_links;
	char lines[MAX_LINES][160];
	int count;
} calls;

/* ---- what is in front of the C library's ---- */

/* "golden/7" of the file behind a descriptor, when its folder is not the store itself. */
static void name_of(int fd, char name[128])
{
	char link[64], path[PATH_MAX] = "";
	const char *last, *before;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	if (readlink(link, path, sizeof(path) - 1) < 0)
		path[0] = 0;
	last = strrchr(path, '/');
	before = last && last - path > 7 && strncmp(last - 7, "/golden", 7) == 0 ? last - 6 :
		last ? last + 1 : path;
	snprintf(name, 128, "%.120s", before);
}

static void note(const char *what, const char *name)
{
	if (calls.on && calls.count < MAX_LINES)
		snprintf(calls.lines[calls.count++], sizeof(calls.lines[0]), "%s %s", what, name);
}

static void note_fd(const char *what, int fd)
{
	char name[128];

	name_of(fd, name);
	note(what, name);
}

int fsync(int fd)
{
	note_fd("sync", fd);
	return 0;
}

int fdatasync(int fd)
{
	note_fd("sync", fd);
	return 0;
}

int renameat(int from_dir, const char *from, int to_dir, const char *to)
{
	note("name", to);
	return (int)syscall(SYS_renameat2, from_dir, from, to_dir, to, 0);
}

int unlinkat(int dir, const char *path, int flags)
{
	note("remove", path);
	return (int)syscall(SYS_unlinkat, dir, path, flags);
}

int linkat(int from_dir, const char *from, int to_dir, const char *to, int flags)
{
	if (calls.no_links) {
		errno = EPERM;
		return -1;
	}
	note("name", to);
	return (int)syscall(SYS_linkat, from_dir, from, to_dir, to, flags);
}

static int reflink(int to, int from)
{
	static char buf[MIB];
	ssize_t n, off = 0;

	if (!calls.reflinks) {
		errno = EOPNOTSUPP;
		return -1;
	}
	while ((n = pread(from, buf, sizeof(buf), off)) > 0) {
		if (pwrite(to, buf, (size_t)n, off) != n)
			return -1;
		off += n;
	}
	note_fd("clone", to);
	return (int)n;
}

int ioctl(int fd, unsigned long request, ...)
{
	va_list args;
	long arg;

	va_start(args, request);
	arg = va_arg(args, long);
	va_end(args);
	if (request == FICLONE)
		return reflink(fd, (int)arg);
	return (int)syscall(SYS_ioctl, fd, request, arg);
}

/* ---- helpers ---- */

static struct scratch scratch;
static char text[MAX_LINES * 160];

static const char *all_calls(void)
{
	*text = 0;
	for (int i = 0; i < calls.count; i++)
		snprintf(text + strlen(text), sizeof(text) - strlen(text), "  %s\n",
			calls.lines[i]);
	return text;
}

/* The first line at or after `from` that is this one. */
static int find(const char *line, int from)
{
	for (int i = from; i < calls.count; i++)
		if (strcmp(calls.lines[i], line) == 0)
			return i;
	fail_msg("no \"%s\" after line %d of:\n%s", line, from, all_calls());
	return -1;
}

/* The lines come in this order; others may be between them. */
static void assert_order(const char *const *lines)
{
	int at = 0;

	for (; *lines; lines++)
		at = find(*lines, at) + 1;
}

#define ASSERT_ORDER(...) assert_order((const char *const[]){__VA_ARGS__, NULL})

static void begin(void)
{
	calls.count = 0;
	calls.on = true;
}

static int setup(void **state)
{
	memset(&calls, 0, sizeof(calls));
	scratch_init(&scratch);
	scratch_fill(&scratch, "image", 3 * MIB, 1);
	return 0;
}

static int teardown(void **state)
{
	calls.on = false;
	scratch_release(&scratch);
	return 0;
}

/* ---- pins ---- */

static enum gf_pin_kind make(void)
{
	int fd = scratch_open(&scratch, "image", O_RDONLY);
	enum gf_pin_kind kind;

	begin();
	assert_int_equal(pin_make(scratch.dirfd, ID, fd, &kind), 0);
	if (kind == GF_PIN_COPYING)
		assert_int_equal(pin_copy(scratch.dirfd, ID, fd, NULL, NULL), 0);
	close(fd);
	return kind;
}

/* The store's folder as the sync of a name in it shows it. */
static const char *sync_of_store(void)
{
	static char line[160];
	const char *last = strrchr(scratch.path, '/');

	snprintf(line, sizeof(line), "sync %.120s", last ? last + 1 : scratch.path);
	return line;
}

static void link_is_durable(void **state)
{
	assert_int_equal(make(), GF_PIN_LINK);
	ASSERT_ORDER("sync image", "name golden/7", "sync golden");
	ASSERT_ORDER(sync_of_store(), "name golden/7");
}

static void reflink_is_durable(void **state)
{
	calls.reflinks = true;
	assert_int_equal(make(), GF_PIN_REFLINK);
	ASSERT_ORDER("clone golden/7.tmp", "sync golden/7.tmp", "name golden/7", "sync golden");
}

static void copy_is_durable(void **state)
{
	calls.no_links = true;
	assert_int_equal(make(), GF_PIN_COPYING);
	ASSERT_ORDER("sync golden/7.tmp", "name golden/7", "sync golden");
	assert_int_equal(faccessat(scratch.dirfd, "golden/7", R_OK, 0), 0);
}

static void half_a_copy_goes(void **state)
{
	int fd;

	make();
	fd = pin_tmp_open(scratch.dirfd, ID, "");
	assert_true(fd >= 0);
	close(fd);
	pin_drop_unfinished(scratch.dirfd, ID);
	assert_int_equal(faccessat(scratch.dirfd, "golden/7.tmp", F_OK, 0), -1);
	assert_int_equal(pin_remove(scratch.dirfd, ID), 0);
	assert_int_equal(faccessat(scratch.dirfd, "golden/7", F_OK, 0), -1);
}

/* ---- reading only ---- */

static void assert_reads_only(int fd)
{
	assert_int_equal(fcntl(fd, F_GETFL) & O_ACCMODE, O_RDONLY);
}

static void images_are_opened_for_reading(void **state)
{
	struct pin_print print;
	struct folder *folder;
	struct image *img;
	int fd;

	assert_int_equal(folder_open(&folder, scratch.path), 0);
	fd = folder_open_file(folder, "image");
	assert_true(fd >= 0);
	assert_reads_only(fd);
	close(fd);
	folder_close(folder);
	make();
	fd = scratch_open(&scratch, "image", O_RDONLY);
	assert_int_equal(pin_print_fd(fd, &print), 0);
	close(fd);
	assert_int_equal(pin_open(scratch.dirfd, ID, GF_PIN_LINK, &print, &img), 0);
	assert_reads_only(image_raw_fd(img));
	image_free(img);
}

/* No descriptor of this process may write to the file. */
static void assert_nobody_writes(const char *path)
{
	char resolved[PATH_MAX], link[64], to[PATH_MAX];

	assert_non_null(realpath(path, resolved));
	for (int fd = 0; fd < 256; fd++) {
		ssize_t n;

		snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
		n = readlink(link, to, sizeof(to) - 1);
		if (n < 0)
			continue;
		to[n] = 0;
		if (strcmp(to, resolved) == 0)
			assert_reads_only(fd);
	}
}

/* ---- on a store ---- */

struct world {
	struct scratch images;
	struct folder *folder;
	struct io *io;
	struct fs *fs;
};

static void world_open(struct world *w)
{
	struct fs_options options = {.journal_size = 16 * MIB, .reserve = MIB,
		.no_background = true, .store_fd = scratch.dirfd};

	/* A store is made in an empty folder only. */
	assert_int_equal(unlinkat(scratch.dirfd, "image", 0), 0);
	scratch_init(&w->images);
	scratch_fill(&w->images, "debian.img", 3 * MIB, 2);
	assert_int_equal(folder_open(&w->folder, w->images.path), 0);
	options.images = w->folder;
	assert_int_equal(io_posix_new(&w->io, dup(scratch.dirfd)), 0);
	assert_int_equal(fs_open(&w->fs, w->io, &options), 0);
}

static void world_close(struct world *w)
{
	calls.on = false;
	assert_int_equal(fs_close(w->fs), 0);
	w->io->ops->free(w->io);
	folder_close(w->folder);
	scratch_release(&w->images);
}

static void clone_image(struct world *w)
{
	struct fs_clone_target target = {.parent = FS_INO_ROOT, .name = "c"};
	struct fs_attr attr;
	size_t failed;

	assert_int_equal(fs_lookup(w->fs, FS_INO_GOLDEN, "debian.img", &attr), 0);
	begin();
	assert_int_equal(fs_clone(w->fs, attr.ino, &target, 1, (struct fs_owner){0, 0}, 0600,
				 false, false, NULL, &failed), 0);
}

static void new_pins_are_opened_for_reading(void **state)
{
	char path[PATH_MAX + 16];
	struct world w;

	calls.reflinks = true;
	world_open(&w);
	clone_image(&w);
	snprintf(path, sizeof(path), "%s/golden/1", scratch.path);
	assert_nobody_writes(path);
	world_close(&w);
}

/* The image may go as soon as its copy is said to be there: that must not be forgotten. */
static void change_of_a_pin_is_durable(void **state)
{
	struct golden *g;
	struct world w;

	calls.no_links = true;
	world_open(&w);
	clone_image(&w);
	g = golden_hold(w.fs, 1);
	assert_non_null(g);
	begin();
	assert_int_equal(golden_switch_to_copy(w.fs, g), 0);
	/* Of the journal, "0" in its folder. */
	ASSERT_ORDER("sync 0");
	golden_hold_end(w.fs, g);
	calls.on = false;
	fs_abandon(w.fs);
	w.io->ops->free(w.io);
	folder_close(w.folder);
	scratch_release(&w.images);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(link_is_durable),
		T(reflink_is_durable),
		T(copy_is_durable),
		T(half_a_copy_goes),
		T(images_are_opened_for_reading),
		T(new_pins_are_opened_for_reading),
		T(change_of_a_pin_is_durable),
	};

	if (!getenv("VERBOSE"))
		log_open(LOG_TO_FILE, "/dev/null");
	return cmocka_run_group_tests(tests, NULL, NULL);
}
