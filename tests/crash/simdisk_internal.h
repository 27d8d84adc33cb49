/* SPDX-License-Identifier: MIT */
/* What simdisk.c (the I/O table) and simdisk_crash.c (power loss) share. */
#ifndef GOLDFS_TESTS_SIMDISK_INTERNAL_H
#define GOLDFS_TESTS_SIMDISK_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "pagemap.h"
#include "simdisk.h"

enum change_kind { CHANGE_WRITE, CHANGE_PUNCH, CHANGE_TRUNCATE, CHANGE_ALLOCATE };

/* Immutable; a list from the newest back, shared between clones of a disk. */
struct change {
	_Atomic uint32_t refs;
	enum change_kind kind;
	struct change *prev;
	uint64_t seq; /* disk-wide order */
	uint64_t off; /* of a truncate: the new size */
	uint64_t len;
	bool zeros; /* the data is all zero and not kept */
	uint8_t data[];
};

struct simfile {
	uint64_t id;
	struct pagemap cached;
	struct pagemap durable;
	uint64_t size;
	uint64_t durable_size;
	struct change *changes; /* since the last fdatasync, newest first */
	bool diverged;		/* a sync failed: durable is no longer cached minus changes */
	unsigned handles;
};

/* file 0: a folder. */
struct simname {
	char path[SIMDISK_PATH];
	uint64_t file;
};

enum nameop_kind { NAME_CREATE, NAME_RENAME, NAME_UNLINK };

struct nameop {
	enum nameop_kind kind;
	uint64_t seq;
	uint64_t file; /* that the operation was about */
	char path[SIMDISK_PATH];
	char to[SIMDISK_PATH];
};

struct simnames {
	struct simname *list;
	size_t count;
	size_t room;
};

struct simhandle {
	struct simfile *file; /* NULL: free */
	bool writable;
	char path[SIMDISK_PATH]; /* at open, for hooks */
};

struct simfault {
	enum simdisk_op op;
	uint64_t left; /* calls until it strikes; 0: inactive */
	int err;
	bool sticky;
	char match[SIMDISK_PATH];
};

enum { SIM_FAULTS = 8 };

struct simdisk {
	struct io io; /* first */
	pthread_mutex_t lock;
	/* All below: lock, but hook and its argument, which are set while nobody uses the disk. */
	uint64_t capacity;
	uint64_t next_seq;
	uint64_t next_file;
	uint64_t lives; /* power losses so far */
	uint64_t calls;
	struct simfile **files;
	size_t file_count, file_room;
	struct simnames names;	 /* as seen */
	struct simnames durable; /* as found after power loss */
	struct nameop *nameops;	 /* unsynced, oldest first */
	size_t nameop_count, nameop_room;
	struct simhandle *handles;
	int handle_count;
	void (*hook)(void *arg, struct simdisk *disk, const struct simdisk_call *call);
	void *hook_arg;
	struct simfault faults[SIM_FAULTS];
	uint64_t struck;
};

void *sim_alloc(void *p, size_t size);
struct simfile *simdisk_file(struct simdisk *disk, uint64_t id);
struct simfile *simdisk_add_file(struct simdisk *disk, uint64_t id);
struct simname *names_find(struct simnames *names, const char *path);
void names_apply(struct simnames *names, const struct nameop *op);
void names_copy(struct simnames *dst, const struct simnames *src);
/* Drops files that no name, operation or handle refers to. */
void simdisk_collect(struct simdisk *disk);
/* The changes of a file, oldest first; *count of them; malloc'ed. */
const struct change **changes_in_order(const struct simfile *file, size_t *count);
/* Does one change to a content. */
void change_apply(const struct change *change, struct pagemap *map, uint64_t *size);

#endif
