/* SPDX-License-Identifier: MIT */
/* What it means that a file is open: nothing that a successor process could not do without. */
#include "core/fs_internal.h"

#include <errno.h>
#include <fcntl.h>

/* A process that died may have changed content behind the kernel's back and not have said so. */
static void drop_old_cache(struct inode *inode, bool *keep_cache)
{
	if (inode->inherited && !atomic_exchange(&inode->opened, true))
		*keep_cache = false;
	/* So a rollback ends for those who have it open: whoever opens it drops their pages, from a
	 * process that may wait for them, as no thread of ours may (fuse/notify.h). */
	if (atomic_exchange(&inode->stale, false))
		*keep_cache = false;
}

int fs_open_file(struct fs *fs, uint64_t ino, int flags, bool *keep_cache)
{
	bool writes = (flags & O_ACCMODE) != O_RDONLY;
	struct inode *inode;
	int r;

	*keep_cache = true;
	inode = volume_find(fs, ino, &r);
	if (!inode)
		return r;
	if (inode->kind == GF_KIND_GOLDEN) {
		r = writes ? -EROFS : golden_open(fs, inode, keep_cache);
		drop_old_cache(inode, keep_cache);
		return r;
	}
	if (writes && (inode->kind != GF_KIND_USER || fs->options.read_only))
		return -EROFS;
	drop_old_cache(inode, keep_cache);
	atomic_fetch_add(&inode->opens, 1);
	if (writes)
		atomic_fetch_add(&inode->write_opens, 1);
	return 0;
}

void fs_close_file(struct fs *fs, uint64_t ino, int flags)
{
	struct inode *inode;
	int r;

	inode = volume_find(fs, ino, &r);
	if (!inode)
		return;
	if (inode->kind == GF_KIND_GOLDEN) {
		golden_close(fs, inode);
		return;
	}
	atomic_fetch_sub(&inode->opens, 1);
	if ((flags & O_ACCMODE) != O_RDONLY) {
		atomic_fetch_sub(&inode->write_opens, 1);
		/* A copy ends with the descriptor that it wrote to, or any other. */
		inode->copy_task = 0;
	}
}
