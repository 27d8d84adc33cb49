/* SPDX-License-Identifier: MIT */
/* What the operations of the random workloads share. */
#ifndef GOLDFS_TESTS_WORKLOAD_INTERNAL_H
#define GOLDFS_TESTS_WORKLOAD_INTERNAL_H

#include "workload.h"
#include "goldfs/format.h"

#define MAX_SIZE (1280 * KIB) /* of files that are no clones of the large image */
#define MAX_FILES 9

static inline uint64_t below(struct run *run, uint64_t n)
{
	return rng_below(&run->rng, n);
}

/*
 * With several threads on one file system, all that happens outside of it is under the run's lock.
 * A call that changes content lets go of the lock meanwhile; one that changes names does not, so
 * that there is one such change at a time.
 */
#define UNLOCKED(run, call) \
	({ \
		if ((run)->lock) \
			pthread_mutex_unlock((run)->lock); \
		__typeof__(call) result_ = (call); \
		if ((run)->lock) \
			pthread_mutex_lock((run)->lock); \
		result_; \
	})

/* workload_ops.c */
int say(struct run *run, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* An error that must not be: -1, and the run ends. One that a fault or a full disk explains: 0. */
int verdict(struct run *run, int64_t r);
/* A change of content failed: what of it is to be seen is the truth. */
int failed_change(struct run *run, struct model_object *object, int64_t r);
/* One that is there, NULL: none is. */
struct model_entry *pick_entry(struct run *run, enum model_kind kind);
struct model_object *object_of(struct run *run, const struct model_entry *entry);
size_t file_count(struct run *run);
/* The inode of the folder that holds path, 0 when there is none; and the last part of path. */
uint64_t place_of(struct run *run, const char *path, const char **name);
/* Where nothing stands yet, in a folder that is there. NULL: none. */
const char *pick_free(struct run *run, bool folder);

/* workload_snapshots.c: what a change does in .snapshots, in the model's open tree, before the rest. */
void snaps_unlink(struct run *run, const char *path);
void snaps_drop(struct run *run, const char *path);
/* The inodes of a file's automatic snapshots, as many as there is room for. */
size_t snaps_automatic(struct run *run, const char *path, uint64_t *inos, size_t room);
void snaps_mkdir(struct run *run, const char *path);
void snaps_move(struct run *run, const char *path, const char *to, bool exchange);
/* A file or a snapshot. */
struct model_entry *pick_source(struct run *run);

/* Each does nothing when there is nothing to do it to. 0, or -1: the run failed. */
#define CONTENT_OPS(X) \
	X('s', op_small) X('h', op_hot) X('5', op_sectors) X('b', op_bytes) X('L', op_large) \
	X('l', op_large_odd) X('z', op_zeros) X('g', op_golden_bytes) X('p', op_punch) \
	X('r', op_zero_range) X('t', op_truncate) X('y', op_copy_range) X('T', op_grow) X('E', op_repeat)
#define NAME_OPS(X) \
	X('n', op_create) X('d', op_mkdir) X('D', op_rmdir) X('c', op_clone_golden) \
	X('C', op_clone_file) X('R', op_clone_replace) X('w', op_copy_whole) X('u', op_unlink) \
	X('U', op_unlink_open) X('m', op_rename) X('M', op_rename_folder) X('x', op_xattr) \
	X('a', op_attributes) X('k', op_symlink) X('j', op_unlink_symlink) X('o', op_domain) \
	X('G', op_promote) X('W', op_promote_end)
#define SNAPSHOT_OPS(X) \
	X('q', op_snapshot) X('Q', op_rollback) X('v', op_snapshot_delete) \
	X('N', op_snapshot_rename) X('X', op_unlink_snapshots) X('i', op_refresh) \
	X('V', op_clone_snapshot) X('B', op_sync_file) X('J', op_sync_names)
#define RESTART_OPS(X) \
	X('f', op_fsync) X('S', op_sync) X('e', op_settle) X('?', op_check) X('P', op_power) \
	X('K', op_kill) X('O', op_remount) X('F', op_fault)
#define RECAST_OPS(X) \
	X('1', op_rebase) X('2', op_convert) X('3', op_fold) X('4', op_go_on) X('6', op_patch)
#define DECLARE(letter, name) int name(struct run *run);
CONTENT_OPS(DECLARE)
NAME_OPS(DECLARE)
SNAPSHOT_OPS(DECLARE)
RESTART_OPS(DECLARE)
RECAST_OPS(DECLARE)
#undef DECLARE

#endif
