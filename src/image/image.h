/* SPDX-License-Identifier: MIT */
/*
 * A source of golden bytes: anything immutable that a layer can stand on.
 *
 * Raw files today (image/raw.c), memory in tests (image/memory.c), other formats later. An image
 * is immutable while it is open; whoever opens it sees to that (image/pin.h). All functions may be
 * called by several threads at once.
 */
#ifndef GOLDFS_IMAGE_IMAGE_H
#define GOLDFS_IMAGE_IMAGE_H

#include <stdint.h>
#include <stddef.h>
#include <sys/types.h>

struct image;

struct image_ops {
	/* Reads len bytes at off; what lies past the end reads as zeros. 0 or -errno. */
	int (*read)(struct image *img, void *buf, size_t len, uint64_t off);
	/* First data at or after off as [*start, *end) in bytes. -ENXIO: only holes follow. */
	int (*next_data)(struct image *img, uint64_t off, uint64_t *start, uint64_t *end);
	/* len bytes at off, all of which it has, to be given back by the same thread; NULL: they can
	 * only be read. Only the kernel may look at them: a write() from where somebody cut the file
	 * fails with EFAULT, anything else is SIGBUS. Both may be NULL. */
	const void *(*borrow)(struct image *img, size_t len, uint64_t off);
	void (*give_back)(struct image *img);
	void (*free)(struct image *img);
};

struct image {
	const struct image_ops *ops;
	uint64_t size; /* bytes, any number */
};

/* Takes ownership of fd (open for reading) on success. 0 or -errno. */
int image_raw_new(struct image **img, int fd);
/* The descriptor behind a raw image, lent; -1 for other kinds. */
int image_raw_fd(struct image *img);
/* Copies nothing: bytes must outlive the image. All-zero blocks of 4 KiB count as holes. */
int image_memory_new(struct image **img, const void *bytes, uint64_t size);

static inline void image_free(struct image *img)
{
	if (img)
		img->ops->free(img);
}

#endif
