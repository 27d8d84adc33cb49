/* SPDX-License-Identifier: MIT */
/* What the files of the check share. */
#ifndef GOLDFS_CORE_CHECK_INTERNAL_H
#define GOLDFS_CORE_CHECK_INTERNAL_H

#include "core/check.h"
#include "core/fs_internal.h"

/* Something that a repair does when the walk is over. */
enum mend_kind {
	MEND_FILE_BYTES, /* write bytes to a file of the store */
	MEND_REMOVE,	 /* a file that nobody needs */
	MEND_MAKE_FOLDER,
	MEND_LOSE,     /* blocks of a layer become lost */
	MEND_COUNTERS, /* of a layer are counted anew */
	MEND_REWRITE,  /* opening and closing it once writes all of it anew */
	MEND_GIVE_UP,  /* the same, without what is behind damage in the journal */
};

struct mend {
	enum mend_kind kind;
	char path[64];
	uint64_t off;
	uint8_t *bytes;
	size_t len;
	uint64_t layer, block, count;
	struct mend *next;
};

/* Slots of the pool that are not what was written, ascending. All zero: empty. */
struct slot_set {
	uint64_t *slots;
	size_t count, capacity;
};
/* Each more than the last. 0 or -ENOMEM. */
int slot_set_add(struct slot_set *set, uint64_t slot);
bool slot_set_has(const struct slot_set *set, uint64_t slot);
void slot_set_release(struct slot_set *set);

struct check {
	const struct check_options *options;
	struct check_report *report;
	struct io *io;
	struct fs *fs; /* the store in memory, once it could be opened */
	bool hole;     /* only without records that were durable once */
	struct superblock super;
	struct slot_set bad_slots;
	struct mend *mends;
	uint64_t done, total; /* bytes, for progress */
	char said[512];	      /* the last message of the code that was called */
};

/* What a finding says beyond its words. */
struct about {
	enum check_severity severity;
	const char *structure;
	const char *place;
	uint64_t offset, length;
	const char *advice;
	bool repairable;
	bool unseen_is_note; /* no damage when it concerns no file */
	/* Files that show any of the blocks as this layer has them; count 0: all that stand on it. */
	struct layer *layer;
	uint64_t block, count;
	bool shared_only; /* of these, the SHARED ones */
	uint64_t golden; /* or files that stand on this image, or share blocks with it */
	uint64_t shown_at; /* or files with a SHARED block in that place */
	struct inode *inode; /* or this one */
	const uint64_t *inos; /* or these, and files that are not in the tree */
	size_t ino_count;
	char *const *names;
	size_t name_count;
	bool incomplete; /* others may be concerned, too */
	bool lasting; /* a repair makes the store usable, not whole */
};

/* Who gives back what nothing refers to. */
const char *check_advice_unused(const struct check *c);

/* Damage that no file shows is worth no more than a note. */
void check_note_unseen(struct check_report *report, struct check_finding *finding);
/* Adds a finding. 0, or -ENOMEM. */
int check_find(struct check *c, const struct about *about, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
struct mend *check_mend(struct check *c, enum mend_kind kind);
/* -ECANCELED when the caller wants to stop. */
int check_progress(struct check *c, uint64_t bytes);

/* check_files.c: before the store can be opened. 0, or -errno: there is nothing more to look at. */
int check_superblock(struct check *c);
int check_catalogs(struct check *c);
int check_folders(struct check *c);
/* The same with the store open: files of layers and golden images that nobody names. */
int check_leftovers(struct check *c);

/* The rest needs the store open. */
int check_tree(struct check *c);
int check_pool(struct check *c);
int check_layers(struct check *c);
int check_goldens(struct check *c);
/* check_pool.c; both before the layers, which tell whom it concerns. */
/* Why a place that a layer names is no good, as the end of a sentence; NULL: it is. *lose: who reads it
 * is to get an error. */
const char *place_is_bad(struct fs *fs, const struct slot_set *bad_slots, uint64_t place, bool *lose);
/* check_journal.c */
int check_journal(struct check *c);

/* check_mend.c */
/* The recorded checksum of a block is off by one bit: the chance for that with bytes that are wrong is
 * below one in a hundred million. */
bool mend_is_flipped(uint32_t recorded, uint32_t computed);
/* Finds the one bit that makes the bytes whole again, and flips it. Pure. */
bool mend_one_bit(uint8_t *bytes, size_t len, bool (*whole)(const void *arg, const uint8_t *bytes),
	const void *arg);

/* check_repair.c: does what was noted. 0, or -errno. */
int check_repair(struct check *c);

#endif
