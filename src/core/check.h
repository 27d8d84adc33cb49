/* SPDX-License-Identifier: MIT */
/*
 * Checking a store that is not in use, and mending what can be mended without doubt.
 *
 * The check reads everything that counts: superblock, both copies of the catalog, the journal
 * (replayed in memory), the tree and its references, every map page and list of places, every block
 * at rest and every slot of the pool in use against its checksum, the golden images that the store
 * keeps. It writes nothing, and needs no right to.
 *
 * Each finding names the structure, where it stands, and the files whose content it concerns. A
 * note is something worth knowing that costs nobody a byte: space that nothing refers to, what a
 * power loss leaves. Damage is what makes some byte, name or figure wrong or unreadable, and what
 * would do so after one more fault.
 *
 * Repair changes what is provably right afterwards, and for the rest makes sure that nobody gets
 * wrong bytes without a word: a block whose bytes are not what was written becomes lost, reads of
 * it fail until it is written anew. Copies of what it replaces go to repair.TIME in the store
 * first. Afterwards the store is checked once more, and that decides about what remains.
 */
#ifndef GOLDFS_CORE_CHECK_H
#define GOLDFS_CORE_CHECK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/io.h"

struct folder;
struct image;

enum check_severity { CHECK_NOTE, CHECK_DAMAGE };

struct check_finding {
	enum check_severity severity;
	const char *structure; /* "superblock", "catalog", "journal", "map", "data", ... */
	char *place;	       /* file below the store, "" when it is none in particular */
	uint64_t offset;       /* in that file, bytes */
	uint64_t length;       /* bytes, 0 when it does not apply */
	char *text;	       /* what is wrong */
	const char *advice;    /* what to do; "" for nothing */
	char **paths;	       /* files that it concerns, below the mount point */
	size_t path_count;
	bool repaired;
	bool repairable; /* --repair would mend it */
	bool incomplete; /* it may concern others, too */
	bool lasting;	 /* something is lost for good, also after a repair */
};

struct check_options {
	struct io *io;
	int store_fd;	       /* the store's folder, -1: no golden images are looked at */
	struct folder *images; /* where they come from; NULL: not known */
	bool repair;
	/* done and total bytes; may be NULL. Non-zero ends the check with -ECANCELED. */
	int (*progress)(void *arg, uint64_t done, uint64_t total);
	void *arg;
	/* Tests: as in struct fs_options. */
	struct image *(*golden_test)(void *arg, uint64_t id);
	void *golden_test_arg;
};

struct check_report {
	struct check_finding *findings; /* those that were repaired included */
	size_t count;
	size_t capacity;
	uint64_t suppressed; /* findings beyond CHECK_MAX_FINDINGS */
	uint64_t damaged;    /* findings that are damage and not repaired */
	uint64_t repaired;
	char *saved; /* folder below the store with copies of what was replaced; NULL: none */
	/* What was looked at. */
	uint64_t files;
	uint64_t layers;
	uint64_t blocks;	  /* at rest */
	uint64_t journaled_blocks;
	uint64_t golden_images;
	uint64_t bytes_read;
	/* What a repair gives back. */
	uint64_t orphaned_bytes;
	uint64_t orphaned_files;
	bool mount_frees; /* so does the next mount: after a crash nobody has looked for it yet */
	uint64_t suspect_blocks;    /* may be old or new after a power loss, both are right */
};

#define CHECK_MAX_FINDINGS 10000

/*
 * 0: the store was looked at, the report says with what result. -errno: it could not be: -ENOENT:
 * there is no store; -EPROTONOSUPPORT: a newer format; -ECANCELED; otherwise it could not be read.
 * The caller holds the store's lock, for repair exclusively. check_report_release() in any case.
 */
int check_store(const struct check_options *options, struct check_report *report);
void check_report_release(struct check_report *report);

#endif
