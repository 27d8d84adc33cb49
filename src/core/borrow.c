/* SPDX-License-Identifier: MIT */
/*
 * Reading without copying: the kernel takes a golden image's bytes for its answer from where they
 * are mapped, instead of from a buffer to which they were copied before. Of a large read copying is
 * most of what it costs.
 *
 * We never look at such bytes ourselves: where somebody cut the file that would be SIGBUS. The kernel
 * finds that it cannot have them, and whoever reads gets EIO, as with a read of our own.
 */
#include "core/fs_internal.h"

#include <errno.h>
#include <time.h>

#include "base/sizes.h"
#include "base/times.h"

/* Where [off, off + len) of a clone stands, if that is in one piece in a golden image. fs.readers is
 * entered. */
static bool find_in_image(struct layer *layer, size_t len, uint64_t off, struct image **image,
	uint64_t *at)
{
	uint64_t block = off / GF_BLOCK_SIZE;
	uint64_t count = round_up(off + len, GF_BLOCK_SIZE) / GF_BLOCK_SIZE - block;
	struct extent x;

	if (layer_resolve(layer, block, count, false, &x) || x.count < count ||
		off + len > x.limit || (x.kind != EXTENT_IMAGE && x.kind != EXTENT_GOLDEN))
		return false;
	*image = x.image;
	*at = x.kind == EXTENT_IMAGE ? off : x.pos * GF_BLOCK_SIZE + off % GF_BLOCK_SIZE;
	return true;
}

static bool borrow_clone(struct fs *fs, size_t len, uint64_t off, struct fs_borrowed *b)
{
	uint64_t at;

	b->token = drain_enter(&fs->readers);
	if (find_in_image(atomic_load(&b->inode->layer), len, off, &b->image, &at) &&
		b->image->ops->borrow)
		b->bytes = b->image->ops->borrow(b->image, len, at);
	if (!b->bytes)
		drain_leave(&fs->readers, b->token);
	return b->bytes;
}

bool fs_borrow(struct fs *fs, uint64_t ino, size_t len, uint64_t off, struct fs_borrowed *b)
{
	uint64_t size;
	int r;

	*b = (struct fs_borrowed){.inode = volume_find(fs, ino, &r)};
	if (!b->inode || fs->options.verify_reads)
		return false;
	b->start_ns = times_now(CLOCK_MONOTONIC);
	if (b->inode->kind == GF_KIND_GOLDEN)
		return golden_borrow(fs, len, off, b);
	size = atomic_load(&b->inode->size);
	if (off >= size)
		return false;
	b->len = min_u64(len, size - off);
	b->off = off;
	return borrow_clone(fs, b->len, off, b);
}

void fs_give_back(struct fs *fs, struct fs_borrowed *b, int error)
{
	bool golden = b->inode->kind == GF_KIND_GOLDEN;

	b->image->ops->give_back(b->image);
	COUNT(fs, read_ops, 1);
	if (golden)
		golden_give_back(fs, b->inode);
	else
		drain_leave(&fs->readers, b->token);
	if (error == -EFAULT)
		volume_read_failed(fs, b->inode->ino, b->len, b->off, -EIO);
	else
		COUNT(fs, read_bytes, b->len);
	if (!golden)
		io_stats_note(b->inode, FS_IO_READ, b->start_ns,
			error == -EFAULT ? -EIO : (int64_t)b->len);
}
