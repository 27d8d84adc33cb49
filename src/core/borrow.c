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

static bool borrow_clone(struct fs *fs, struct inode *inode, size_t len, uint64_t off,
	struct fs_borrowed *b)
{
	uint64_t size = atomic_load(&inode->size), at;
	int64_t start = times_now(CLOCK_MONOTONIC);

	if (off >= size)
		return false;
	b->len = min_u64(len, size - off);
	b->token = drain_enter(&fs->readers);
	if (find_in_image(atomic_load(&inode->layer), b->len, off, &b->image, &at) &&
		b->image->ops->borrow)
		b->bytes = b->image->ops->borrow(b->image, b->len, at);
	if (b->bytes)
		io_stats_note(inode, FS_IO_READ, start, (int64_t)b->len);
	else
		drain_leave(&fs->readers, b->token);
	return b->bytes;
}

bool fs_borrow(struct fs *fs, uint64_t ino, size_t len, uint64_t off, struct fs_borrowed *b)
{
	struct inode *inode;
	int r;

	*b = (struct fs_borrowed){.ino = ino, .off = off};
	inode = volume_find(fs, ino, &r);
	if (!inode || fs->options.verify_reads)
		return false;
	if (inode->kind == GF_KIND_GOLDEN)
		b->golden = inode;
	if (!(b->golden ? golden_borrow(fs, len, off, b) : borrow_clone(fs, inode, len, off, b)))
		return false;
	COUNT(fs, read_ops, 1);
	COUNT(fs, read_bytes, b->len);
	return true;
}

/* The file may be gone by now: its reader has had the answer. A golden image's inode stays. */
void fs_give_back(struct fs *fs, struct fs_borrowed *b, int error)
{
	b->image->ops->give_back(b->image);
	if (b->golden)
		golden_give_back(fs, b->golden);
	else
		drain_leave(&fs->readers, b->token);
	/* ENOENT: nobody waits for the answer any more. */
	if (error && error != -ENOENT) {
		COUNT(fs, errors, 1);
		volume_read_failed(fs, b->ino, b->len, b->off, -EIO);
	}
}
