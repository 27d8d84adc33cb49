/* SPDX-License-Identifier: MIT */
/*
 * What clients asked of each clone: how often, how many bytes, how long it took.
 *
 * Of thousands of clones few do anything, so an inode has a pointer only until it is read, written
 * or flushed for the first time. Whoever counts takes no lock: the numbers are added one by one, and
 * who reads them may see an operation without its bytes. They are of this process alone: a successor
 * starts anew, which onlookers are told (service/control.h).
 *
 * A flush ends on another thread, when its file may be gone already, so the numbers live as long as
 * anyone uses them.
 */
#include "core/fs_internal.h"

#include <stdlib.h>

#include "base/latency.h"
#include "base/times.h"

struct io_stats {
	atomic_uint users; /* the inode, and flushes on their way */
#define X(name, help) _Atomic uint64_t name;
	FS_IO(X)
#undef X
	_Atomic uint32_t latency[FS_IO_KINDS][LATENCY_BUCKETS];
};

/* NULL without memory: then nothing is counted. */
static struct io_stats *stats_of(struct inode *inode)
{
	struct io_stats *stats = atomic_load_explicit(&inode->io_stats, memory_order_acquire);
	struct io_stats *made;

	if (stats)
		return stats;
	made = calloc(1, sizeof(*made));
	if (!made)
		return NULL;
	atomic_init(&made->users, 1);
	if (atomic_compare_exchange_strong(&inode->io_stats, &stats, made))
		return made;
	free(made); /* another thread was first */
	return stats;
}

static void stats_put(struct io_stats *stats)
{
	if (stats && atomic_fetch_sub(&stats->users, 1) == 1)
		free(stats);
}

void io_stats_release(struct inode *inode)
{
	stats_put(atomic_load(&inode->io_stats));
}

#define ADD(stats, name, n) atomic_fetch_add_explicit(&(stats)->name, (n), memory_order_relaxed)

static void add(struct io_stats *stats, enum fs_io_kind kind, uint64_t ns, uint64_t bytes)
{
	switch (kind) {
	case FS_IO_READ:
		ADD(stats, read_ops, 1);
		ADD(stats, read_bytes, bytes);
		ADD(stats, read_ns, ns);
		break;
	case FS_IO_WRITE:
		ADD(stats, write_ops, 1);
		ADD(stats, write_bytes, bytes);
		ADD(stats, write_ns, ns);
		break;
	case FS_IO_FLUSH:
		ADD(stats, flush_ops, 1);
		ADD(stats, flush_ns, ns);
		break;
	case FS_IO_KINDS:
		return;
	}
	ADD(stats, latency[kind][latency_bucket(ns)], 1);
}

static uint64_t since(int64_t start_ns)
{
	return (uint64_t)(times_now(CLOCK_MONOTONIC) - start_ns);
}

void io_stats_note(struct inode *inode, enum fs_io_kind kind, int64_t start_ns, ssize_t result)
{
	struct io_stats *stats = stats_of(inode);

	if (stats)
		add(stats, kind, since(start_ns), result > 0 ? (uint64_t)result : 0);
}

struct io_flush {
	struct io_stats *stats;
	int64_t start_ns;
	void (*done)(void *arg, int result);
	void *arg;
};

struct io_flush *io_flush_begin(
	struct inode *inode, void (*done)(void *arg, int result), void *arg)
{
	struct io_stats *stats = stats_of(inode);
	struct io_flush *flush = stats ? malloc(sizeof(*flush)) : NULL;

	if (!flush)
		return NULL;
	atomic_fetch_add(&stats->users, 1);
	*flush = (struct io_flush){
		.stats = stats,
		.start_ns = times_now(CLOCK_MONOTONIC),
		.done = done,
		.arg = arg,
	};
	return flush;
}

void io_flush_done(void *arg, int result)
{
	struct io_flush *flush = arg;

	add(flush->stats, FS_IO_FLUSH, since(flush->start_ns), 0);
	stats_put(flush->stats);
	flush->done(flush->arg, result);
	free(flush);
}

bool fs_io(struct fs *fs, uint64_t ino, struct fs_io *io)
{
	struct io_stats *stats = NULL;
	struct inode *inode;

	*io = (struct fs_io){0};
	pthread_rwlock_rdlock(&fs->tree);
	inode = tree_find(fs, ino);
	if (inode)
		stats = atomic_load_explicit(&inode->io_stats, memory_order_acquire);
	if (stats) {
#define X(name, help) io->name = atomic_load_explicit(&stats->name, memory_order_relaxed);
		FS_IO(X)
#undef X
		for (int kind = 0; kind < FS_IO_KINDS; kind++)
			for (int i = 0; i < LATENCY_BUCKETS; i++)
				io->latency[kind][i] = atomic_load_explicit(
					&stats->latency[kind][i], memory_order_relaxed);
	}
	pthread_rwlock_unlock(&fs->tree);
	return stats;
}
