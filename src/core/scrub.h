/* SPDX-License-Identifier: MIT */
/*
 * Looking for damage in a store that is in use.
 *
 * A scrub reads what is on the disk, not what is cached of it: superblock, both copies of the
 * catalog, the live part of the journal, all map pages and lists of places, the pool, every block at
 * rest of every layer, and the golden images that have sums. Guests go on meanwhile; it steps back while they are busy.
 *
 * Where memory still has what the disk lost (metadata, cached blocks), it is written anew. A block
 * that may be old or new after a power loss gets the checksum of what is there. Anything else that
 * does not match is named, with the files that show it; nobody gets wrong bytes with -o verify=read,
 * and `goldfs check --repair` makes an error of it for everybody.
 */
#ifndef GOLDFS_CORE_SCRUB_H
#define GOLDFS_CORE_SCRUB_H

#include "core/check.h"

struct fs;

struct scrub_options {
	/* Done and total bytes; true: stop. May be NULL. */
	bool (*progress)(void *arg, uint64_t done, uint64_t total);
	void *arg;
};

/*
 * 0: everything was looked at, and the report says with what result: `damaged` counts what remains,
 * `repaired` what was made whole. -ECANCELED, -EBUSY: one runs already; or -errno: it could not go
 * on. The report holds what was found so far in any case; check_report_release().
 */
int scrub_run(struct fs *fs, const struct scrub_options *options, struct check_report *report);

#endif
