/* SPDX-License-Identifier: MIT */
/*
 * A disk in memory that loses power on request: struct io for the crash tests.
 *
 * Every file has two contents: what reads see (the page cache) and what is durable, with the
 * changes between them kept in order. fdatasync makes data and size of one file durable, not its
 * name; syncdir makes the names of one folder durable. simdisk_crash() makes the disk that a
 * machine might find after power came back: durable state plus some of the changes, chosen by a
 * policy and a seed, torn at 512 bytes. A sector is written with all that the cache held in it at
 * that moment, as a real one is. Name operations are kept or dropped one by one, a rename wholly or
 * not at all; a created file whose name is lost is gone.
 *
 * The death of a process loses nothing: simdisk_clone() is the disk it leaves behind.
 *
 * Clones and crashes share pages and changes with their origin (pagemap.h), so that a fork at each
 * I/O call of a workload is cheap. Descriptors are not cloned. A disk has one mutex and may be used
 * by several threads; the hook runs outside of it and may clone the disk.
 */
#ifndef GOLDFS_TESTS_SIMDISK_H
#define GOLDFS_TESTS_SIMDISK_H

#include <stdbool.h>
#include <stdint.h>

#include "base/io.h"

#define SIMDISK_SECTOR 512u
#define SIMDISK_PATH 64u

struct simdisk;

enum simdisk_op {
	SIMDISK_OPEN,
	SIMDISK_PREAD,
	SIMDISK_PWRITE,
	SIMDISK_FDATASYNC,
	SIMDISK_TRUNCATE,
	SIMDISK_PUNCH,
	SIMDISK_RENAME,
	SIMDISK_UNLINK,
	SIMDISK_MKDIR,
	SIMDISK_SYNCDIR,
	SIMDISK_ALLOCATE,
	SIMDISK_OPS,
};

enum simdisk_policy {
	SIMDISK_DROP,	 /* nothing unsynced survives */
	SIMDISK_KEEP,	 /* everything does */
	SIMDISK_SECTORS, /* any subset of sectors, of names, of sizes */
	SIMDISK_LAST,	 /* all but the last few changes */
	SIMDISK_PREFIX,	 /* the changes up to some moment, the last of them torn */
	SIMDISK_FILES,	 /* each file up to a moment of its own, names at random */
	SIMDISK_ONE,	 /* all but one change, or nothing but one */
	SIMDISK_POLICIES,
};

struct simdisk_call {
	uint64_t number; /* calls on this disk so far */
	enum simdisk_op op;
	const char *path;
	uint64_t off;
	uint64_t len;
	const uint8_t *data; /* of a write */
};

/* An empty disk of `capacity` bytes. simdisk_io() is the table; its free() does nothing. */
struct simdisk *simdisk_new(uint64_t capacity);
void simdisk_free(struct simdisk *disk);
struct io *simdisk_io(struct simdisk *disk);
/* The same disk, unsynced changes included, without descriptors, faults and hook. */
struct simdisk *simdisk_clone(struct simdisk *disk);
/* What may be found after power loss. The original is left as it is. */
struct simdisk *simdisk_crash(struct simdisk *disk, enum simdisk_policy policy, uint64_t seed);

/* Writes into the file behind a call's path, as when a process dies in the middle of the call. */
void simdisk_poke(struct simdisk *disk, const struct simdisk_call *call, uint64_t len);

/* Of all names and contents as they read now. */
uint64_t simdisk_hash(struct simdisk *disk);
uint64_t simdisk_calls(struct simdisk *disk);
/* Unsynced changes and name operations. */
uint64_t simdisk_unsynced(struct simdisk *disk);
uint64_t simdisk_used(struct simdisk *disk);
void simdisk_set_capacity(struct simdisk *disk, uint64_t capacity);
const char *simdisk_op_name(enum simdisk_op op);
const char *simdisk_policy_name(enum simdisk_policy policy);

/* Called before each call is carried out; NULL: none. */
void simdisk_set_hook(struct simdisk *disk,
	void (*hook)(void *arg, struct simdisk *disk, const struct simdisk_call *call), void *arg);

/*
 * The nth call (1: the next) of op fails with err, a negative errno; with `sticky` all later ones
 * do too. match, when not NULL, counts only paths that contain it. A failed write leaves half of
 * itself behind. A failed fdatasync drops the dirty state as Linux does: reads go on to see the new
 * data, but no later sync will write it.
 */
void simdisk_fail(struct simdisk *disk, enum simdisk_op op, uint64_t nth, int err, bool sticky,
	const char *match);
void simdisk_heal(struct simdisk *disk);
/* How often a fault struck. */
uint64_t simdisk_faults(struct simdisk *disk);

#endif
