/* SPDX-License-Identifier: MIT */
/*
 * What a successor process does otherwise than a new mount.
 *
 * Durability. Nothing is synced before it serves. What the dead process wrote is in the page cache,
 * whoever asks for it later gets it, and a sync of a file by anybody makes it durable: so the
 * journal's records, the new epoch's among them, become durable with the next flush, in one chain
 * and in order as always. (A new mount may follow a power loss, and syncs its epoch before it
 * serves, so that what it found as the chain's end stays that; here the chain never ended.) What
 * the dead process had written to layer files since their last sync is owed by no memory of ours,
 * so it is noted again: recovery marks layers with large writes in the ring as unsynced, and all
 * layers' names as not yet synced, because a commit record vouches for the file as well.
 *
 * References. The kernel holds inodes that the dead process counted and we do not know of, so every
 * inode counts as referenced: none is dropped when it loses its name. Whether the kernel still
 * knows it is asked of the kernel (hooks.is_known), every few seconds and when the store settles,
 * for those without a name. That makes up for FORGETs that died with the process, too. The answer
 * "unknown" is final for a file without a name, because nothing can look it up any more, with two
 * exceptions: a request that is sent again may still make the kernel learn of it (so nobody asks
 * before all of these are served), and a lookup that was answered just before the name went may be
 * on its way into the kernel's tables (so one that was looked up within the last moment waits).
 * An open file is known: the kernel's file holds the inode. A file that stays open stays.
 *
 * Nobody asks about a file that counts as open here. The kernel lets such a question wait while the
 * inode is going, and that may wait for pages that a request of ours is about to fill: a process
 * that is killed then cannot die, so no successor comes, so nobody answers. A file whose last
 * RELEASE was served has no such requests, because they hold it back.
 *
 * Space. Recovery leaves blocks and files that no state refers to; they are found in the
 * background some seconds later, not before serving.
 */
#include "core/fs_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/times.h"

#define MOMENT_NS INT64_C(1000000000) /* from an answered lookup to the kernel's knowing it */
#define SETTLE_PAUSE_NS 10000000
#define SETTLE_KNOWN 10	   /* looks: a file that was closed just now is forgotten in a moment */
#define SETTLE_UNKNOWN 150 /* looks while something unknown waits for its moment to pass */

void inode_looked_up(struct inode *inode)
{
	atomic_fetch_add(&inode->lookups, 1);
	if (inode->inherited)
		atomic_store(&inode->looked_up_ns, times_now(CLOCK_MONOTONIC_COARSE));
}

static bool is_orphan(const struct fs *fs, const struct inode *inode)
{
	return !inode->key && inode != fs->root && inode->kind != GF_KIND_GOLDEN;
}

void takeover_inherit(struct fs *fs)
{
	struct inode *inode, *next;
	size_t orphans = 0;

	HASH_ITER (by_ino, fs->inodes, inode, next) {
		inode->inherited = true;
		orphans += is_orphan(fs, inode);
	}
	atomic_store(&fs->names_owed, true);
	fs->orphans_left = orphans > 0;
	if (orphans)
		log_info("%zu removed files may still be open", orphans);
}

void fs_takeover_served(struct fs *fs)
{
	requests_forget_found(fs);
	atomic_store(&fs->resent_open, false);
}

/* Numbers of inherited files without a name that nobody has open, malloc'ed; *open: others. */
static int collect(struct fs *fs, uint64_t **inos, size_t *count, size_t *open)
{
	struct inode *inode, *next;
	int r = 0;

	*count = *open = 0;
	pthread_rwlock_rdlock(&fs->tree);
	*inos = malloc((HASH_CNT(by_ino, fs->inodes) + 1) * sizeof(**inos));
	if (!*inos)
		r = -ENOMEM;
	HASH_ITER (by_ino, fs->inodes, inode, next) {
		if (r || !inode->inherited || !is_orphan(fs, inode))
			continue;
		if (atomic_load(&inode->opens) > 0)
			++*open;
		else
			(*inos)[(*count)++] = inode->ino;
	}
	pthread_rwlock_unlock(&fs->tree);
	return r;
}

/* Its number may be in an answer that the kernel has not looked at yet. */
static bool is_on_its_way(const struct fs *fs, const struct inode *inode)
{
	/* Without threads there is no such moment. */
	return !fs->options.no_background &&
	       times_now(CLOCK_MONOTONIC_COARSE) - atomic_load(&inode->looked_up_ns) <= MOMENT_NS;
}

static void drop_unknown(struct fs *fs, uint64_t ino)
{
	struct gf_op_ino *op;
	struct inode *inode;
	struct opbuf buf;
	int64_t room = record_reserve_urgent(fs, sizeof(*op));

	if (room < 0)
		return; /* the next time */
	opbuf_init(&buf);
	tree_lock(fs);
	inode = tree_find(fs, ino);
	if (inode && is_orphan(fs, inode) && atomic_load(&inode->lookups) <= 0 &&
		!is_on_its_way(fs, inode) &&
		OPBUF_ADD(&buf, GF_OP_DROP, 0, op, 0)) {
		op->ino = ino;
		op->time_ns = now_ns();
		record_commit(fs, &buf, NULL);
	}
	pthread_rwlock_unlock(&fs->tree);
	journal_unreserve(fs->journal, room);
	opbuf_release(&buf);
}

struct orphans {
	size_t known;	/* open, or remembered by the kernel */
	size_t unknown; /* to be dropped, but not yet */
};

static void ask_for_orphans(struct fs *fs, struct orphans *left)
{
	CLEANUP_FREE uint64_t *inos = NULL;
	size_t count;

	*left = (struct orphans){0};
	if (!fs->options.hooks.is_known || !atomic_load(&fs->orphans_left) ||
		atomic_load(&fs->resent_open) || fs_writable(fs))
		return;
	/* Set again by whoever takes a name away meanwhile. */
	atomic_store(&fs->orphans_left, false);
	if (collect(fs, &inos, &count, &left->known) < 0) {
		atomic_store(&fs->orphans_left, true);
		return;
	}
	for (size_t i = 0; i < count; i++) {
		struct fs_attr attr;

		if (fs->options.hooks.is_known(fs->options.hooks.arg, inos[i]) != 0) {
			left->known++;
			continue;
		}
		drop_unknown(fs, inos[i]);
		left->unknown += fs_getattr(fs, inos[i], &attr) == 0;
	}
	if (left->known || left->unknown)
		atomic_store(&fs->orphans_left, true);
}

void fs_tick(struct fs *fs)
{
	struct orphans left;

	ask_for_orphans(fs, &left);
	figures_tick(fs);
}

void takeover_settle(struct fs *fs)
{
	const struct timespec pause = {.tv_nsec = SETTLE_PAUSE_NS};

	for (int i = 0;; i++) {
		struct orphans left;

		ask_for_orphans(fs, &left);
		if (fs->options.no_background)
			return;
		if (!(left.known && i < SETTLE_KNOWN) && !(left.unknown && i < SETTLE_UNKNOWN))
			return;
		nanosleep(&pause, NULL);
	}
}
