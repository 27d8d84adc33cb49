/* SPDX-License-Identifier: MIT */
/*
 * Raw images: the bytes of a file, read where they are.
 *
 * Bytes are read with pread(), not mapped: a mapping of a file that somebody truncates ends in
 * SIGBUS, a read in an error. Mapped is what is lent to the kernel, which finds out for itself. The
 * size is taken once. When the file turns out shorter than that later, someone cut it although it was
 * guarded, and the read fails: zeros would look like data. Where the file system below cannot tell
 * holes, all is data.
 *
 * Nothing is read ahead but for who reads much in one go. Guests read ahead for themselves, and what
 * the kernel adds to their reads is read from the disk and kept in memory for nobody: when a boot
 * was recorded and replayed, twice what it asks for. So the kernel is told to keep to what is asked,
 * and a read that goes on where the last one ended, as a copy, a check or a hash of the image does,
 * asks for what follows when SEQUENTIAL_FROM bytes have gone by. Files that a boot reads are shorter.
 */
#include "image/image.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/blocking.h"
#include "base/fd.h"
#include "base/invariant.h"
#include "base/sizes.h"
#include "image/present.h"

#define SEQUENTIAL_FROM (2 * MIB)
#define AHEAD (2 * MIB)
#define LENT_MAX MIB
#define LEAST_PAGE 4096 /* of any processor */

struct image_raw {
	struct image image; /* first */
	int fd;
	void *_Atomic mapped; /* all of it, once that was asked for; MAP_FAILED: it cannot be */
	uint64_t page; /* bytes of one in memory */
	bool own;      /* the file is ours: of others the kernel does not tell what is cached */
	/* Hints, of whoever read last. */
	_Atomic uint64_t next; /* where it would go on */
	_Atomic uint64_t run;  /* bytes that it has read in one go */
	atomic_bool no_nowait; /* the file system below cannot say what is in memory */
};

static int raw_fd(struct image *img)
{
	return ((struct image_raw *)img)->fd;
}

/* Whether all of it is in the page cache, for all that is known: before something was lent nothing is. */
static bool is_cached(const struct image_raw *raw, uint64_t off, size_t len)
{
	unsigned char pages[LENT_MAX / LEAST_PAGE + 1], all = 1;
	char *mapped = atomic_load_explicit(&raw->mapped, memory_order_acquire);
	uint64_t start = round_down(off, raw->page);
	size_t count = (off + len - start + raw->page - 1) / raw->page;

	if (!mapped || mapped == MAP_FAILED || mincore(mapped + start, off + len - start, pages) < 0)
		return false;
	for (size_t i = 0; i < count; i++)
		all &= pages[i];
	return all & 1;
}

/* Of a piece the last page tells, as it was asked for as a whole. */
static bool has_ahead(const struct image_raw *raw, uint64_t end)
{
	uint64_t last = min_u64(round_up(end, AHEAD) + AHEAD, raw->image.size) - 1;

	return last < end || is_cached(raw, last, 1);
}

static void read_ahead(struct image_raw *raw, uint64_t off, uint64_t len)
{
	bool goes_on = atomic_load_explicit(&raw->next, memory_order_relaxed) == off;
	uint64_t end = off + len, run = len;

	if (goes_on)
		run += atomic_load_explicit(&raw->run, memory_order_relaxed);
	atomic_store_explicit(&raw->next, end, memory_order_relaxed);
	atomic_store_explicit(&raw->run, run, memory_order_relaxed);
	/* Once for each piece of that size. */
	if (run >= SEQUENTIAL_FROM && off / AHEAD != end / AHEAD && !has_ahead(raw, end))
		posix_fadvise(raw->fd, (off_t)round_up(end, AHEAD), AHEAD, POSIX_FADV_WILLNEED);
}

/* As pread. A thread that others wait for lets them go on before it waits for the disk: with cold
 * caches a queue of 16 reads was served almost one by one. */
static ssize_t read_or_let_go(struct image_raw *raw, void *buf, size_t len, uint64_t off)
{
	struct iovec iov = {.iov_base = buf, .iov_len = len};
	ssize_t n;

	if (blocking_hook && !atomic_load_explicit(&raw->no_nowait, memory_order_relaxed)) {
		n = preadv2(raw->fd, &iov, 1, (off_t)off, RWF_NOWAIT);
		if (n == (ssize_t)len)
			return n;
		if (n < 0 && (errno == EOPNOTSUPP || errno == ENOSYS))
			atomic_store(&raw->no_nowait, true);
		about_to_block();
	}
	return fd_pread(raw->fd, buf, len, off);
}

static int raw_read(struct image *img, void *buf, size_t len, uint64_t off)
{
	struct image_raw *raw = (struct image_raw *)img;
	size_t want = off < img->size ? (size_t)min_u64(len, img->size - off) : 0;
	ssize_t n;

	if (want < len)
		memset((char *)buf + want, 0, len - want);
	if (want == 0)
		return 0;
	read_ahead(raw, off, want);
	n = read_or_let_go(raw, buf, want, off);
	if (n < 0)
		return (int)n;
	return (size_t)n == want ? 0 : -EIO;
}

static int raw_next_data(struct image *img, uint64_t off, uint64_t *start, uint64_t *end)
{
	int rc;

	if (off >= img->size)
		return -ENXIO;
	rc = fd_next_data(raw_fd(img), off, start, end);
	if (rc == -EINVAL || rc == -EOPNOTSUPP) {
		*start = off;
		*end = img->size;
		return 0;
	}
	if (rc < 0)
		return rc;
	*end = min_u64(*end, img->size);
	return *start < *end ? 0 : -ENXIO;
}

/* Without read-around, as the reads. */
static void *map_all(struct image_raw *raw)
{
	uint64_t size = raw->image.size;
	void *mapped = size > SIZE_MAX / 2 ? MAP_FAILED :
		mmap(NULL, size, PROT_READ, MAP_SHARED | MAP_NORESERVE, raw->fd, 0);
	void *before = NULL;

	if (mapped != MAP_FAILED)
		madvise(mapped, size, MADV_RANDOM);
	if (atomic_compare_exchange_strong(&raw->mapped, &before, mapped))
		return mapped;
	if (mapped != MAP_FAILED)
		munmap(mapped, size);
	return before;
}

/* What is left of a page behind the end of a file that was cut reads as zeros. (Who cuts an image that
 * nothing guards between this look and the kernel's may see such a page.) */
static bool is_whole(const struct image_raw *raw)
{
	struct stat st;

	return fstat(raw->fd, &st) == 0 && (uint64_t)st.st_size >= raw->image.size;
}

/* Whether all pages are there when the kernel takes them. It would not wait for one in a process that
 * was killed meanwhile, and end the request with an error instead of having a successor answer it. */
static bool are_present(const struct image_raw *raw, char *mapped, uint64_t off, size_t len)
{
	uint64_t skip = off % raw->page;
	char *start = mapped + off - skip;
	size_t whole = round_up(skip + len, raw->page);
	enum present present = present_ask(start, whole);

	/* Only what is in the page cache: the rest would be read page by page. */
	if (present == PRESENT_NOT_ALL && is_cached(raw, off, len) &&
		madvise(start, whole, MADV_POPULATE_READ) == 0)
		present = PRESENT_ALL;
	return present == PRESENT_ALL;
}

static const void *raw_borrow(struct image *img, size_t len, uint64_t off)
{
	struct image_raw *raw = (struct image_raw *)img;
	char *mapped = atomic_load_explicit(&raw->mapped, memory_order_acquire);

	if (!raw->own || !len || len > LENT_MAX || off > img->size || len > img->size - off ||
		!is_whole(raw))
		return NULL;
	if (!mapped)
		mapped = map_all(raw);
	if (mapped == MAP_FAILED || !are_present(raw, mapped, off, len))
		return NULL;
	read_ahead(raw, off, len);
	return mapped + off;
}

/* The mapping stays: there is nothing to undo. */
static void raw_give_back(struct image *img)
{
}

static void raw_free(struct image *img)
{
	struct image_raw *raw = (struct image_raw *)img;
	void *mapped = atomic_load(&raw->mapped);

	if (mapped && mapped != MAP_FAILED)
		munmap(mapped, img->size);
	close(raw_fd(img));
	free(img);
}

static const struct image_ops raw_ops = {
	.read = raw_read,
	.next_data = raw_next_data,
	.borrow = raw_borrow,
	.give_back = raw_give_back,
	.free = raw_free,
};

int image_raw_new(struct image **img, int fd)
{
	struct image_raw *raw;
	struct stat st;

	/* The one way to an image's bytes. */
	INVARIANT(7, (fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDONLY);
	if (fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode))
		return -EINVAL;
	raw = calloc(1, sizeof(*raw));
	if (!raw)
		return -ENOMEM;
	raw->image.ops = &raw_ops;
	raw->image.size = (uint64_t)st.st_size;
	raw->fd = fd;
	raw->page = (uint64_t)sysconf(_SC_PAGESIZE);
	raw->own = st.st_uid == geteuid();
	posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM);
	*img = &raw->image;
	return 0;
}

int image_raw_fd(struct image *img)
{
	return img->ops == &raw_ops ? raw_fd(img) : -1;
}
