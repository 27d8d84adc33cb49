/* SPDX-License-Identifier: MIT */
/*
 * Raw images: the bytes of a file, read where they are.
 *
 * Bytes are read with pread(), not mapped: a mapping of a file that somebody truncates ends in
 * SIGBUS, a read in an error. The size is taken once. When the file turns out shorter than that
 * later, someone cut it although it was guarded, and the read fails: zeros would look like data.
 * Where the file system below cannot tell holes, all is data.
 */
#include "image/image.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/invariant.h"
#include "base/sizes.h"

struct image_raw {
	struct image image; /* first */
	int fd;
};

static int raw_fd(struct image *img)
{
	return ((struct image_raw *)img)->fd;
}

static int raw_read(struct image *img, void *buf, size_t len, uint64_t off)
{
	size_t want = off < img->size ? (size_t)min_u64(len, img->size - off) : 0;
	ssize_t n;

	if (want < len)
		memset((char *)buf + want, 0, len - want);
	if (want == 0)
		return 0;
	n = fd_pread(raw_fd(img), buf, want, off);
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

static void raw_free(struct image *img)
{
	close(raw_fd(img));
	free(img);
}

static const struct image_ops raw_ops = {
	.read = raw_read,
	.next_data = raw_next_data,
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
	*img = &raw->image;
	return 0;
}

int image_raw_fd(struct image *img)
{
	return img->ops == &raw_ops ? raw_fd(img) : -1;
}
