/* SPDX-License-Identifier: MIT */
/*
 * Random work on a goldfs over a simulated disk, beside the model of what it must show.
 *
 * A run is a stream of operations that is the same for the same seed. Each operation draws its
 * parameters from a generator of its own (seed and index), so that one can be left out and the
 * others stay nearly as they were: that is how a failure is reduced to few operations.
 *
 * One run is one thread. The disk's hook may look at run, model and disk at each I/O call: the
 * model then knows the operation in flight.
 */
#ifndef GOLDFS_TESTS_WORKLOAD_H
#define GOLDFS_TESTS_WORKLOAD_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/fs.h"
#include "core/in_flight.h"
#include "model.h"
#include "rng.h"
#include "simdisk.h"

enum { RUN_IMAGES = 3 };

struct run {
	uint64_t seed;
	int op_count;
	const uint8_t *keep; /* per operation: 0 leaves it out; NULL: all are done */
	bool verbose;
	/* Called after an operation was acknowledged; non-zero ends the run as failed. */
	int (*after_op)(struct run *run);
	void (*hook)(void *arg, struct simdisk *disk, const struct simdisk_call *call);
	void *arg; /* of the caller; the hook gets the run */

	struct simdisk *disk;
	struct fs *fs;
	struct fs_options options;
	struct in_flight board; /* outlives a process, as the supervisor's memory does */
	struct model *model;
	struct image *images[RUN_IMAGES];
	model_value golden[RUN_IMAGES];
	const struct profile *profile;

	/* Several runs in one file system, each with its own thread and paths; NULL: one. */
	pthread_mutex_t *lock;
	const char *const *paths; /* folders begin with a "d" */
	size_t path_count;

	int op;		   /* index of the current one */
	struct rng rng;	   /* of the current one */
	char text[256];	   /* what it does */
	bool failing;	   /* faults or a full disk: errors are no failure */
	bool dead;	   /* the store went read-only after a fault */
	char reason[1024]; /* why the run failed */
};

int run_init(struct run *run, uint64_t seed, int op_count);
/* Another one than the seed's: before any work. */
void run_set_profile(struct run *run, const struct profile *profile);
/* Makes a store and does all operations. 0, or -1 with run->reason. */
int run_work(struct run *run);
void run_release(struct run *run);
const char *run_profile_name(const struct run *run);
int run_fail(struct run *run, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Options for opening the store on a disk as this run would, by a process of its own. */
struct fs_options run_options(struct run *run);
/* Opens a store of the run's from disk; takeover: its process has died just now, and left the board. */
int run_open(struct run *run, struct simdisk *disk, struct in_flight *board, bool takeover, struct fs **fs);

/* What fs shows, names and sizes; content is read when the model asks. */
int view_take(struct model_view *view, struct fs *fs);
void view_release(struct model_view *view);
/* Hash of all names and contents but `except`. */
int view_hash(const struct model_view *view, struct fs *fs, const char *except, uint64_t *hash);
/* The identities between the figures of each file. NULL, or what is wrong (static). */
const char *view_figures(const struct model_view *view, struct fs *fs);

/* fs_fsync, waiting. */
int sync_file(struct fs *fs, uint64_t ino);

/* In a model's attribute: bits of the mode that are not the usual ones. */
#define MODE_SHIFT 20
uint32_t mode_mark(enum model_kind kind, uint32_t mode);

struct profile {
	const char *name;
	uint64_t journal_size;
	uint64_t capacity;
	unsigned faults; /* one in so many operations arms a fault; 0: never */
	unsigned big;	 /* per cent of golden clones that are of the large image */
	const char *weights; /* a letter per chance, see op_table */
	bool recovery;	     /* each state is recovered again and again, interrupted */
	bool no_golden;	     /* files begin empty */
	unsigned files;	     /* at most so many, 0: a few */
	uint64_t shift;	     /* content begins here, bytes; what is before is a hole */
	unsigned hash_bits;  /* content is known by so few, 0: by all */
	bool dedup;	     /* content is looked for, and repeats itself */
};
extern const struct profile profiles[];
extern const int profile_count; /* at most PROFILES_MAX */
#define PROFILES_MAX 128
extern const struct profile profile_threads, profile_threads_dedup, profile_threads_deep;
int run_one_op(struct run *run);

#endif
