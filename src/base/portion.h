/* SPDX-License-Identifier: MIT */
/*
 * How much to ask for at once of what takes nobody knows how long, so that a call takes a moment.
 *
 * Giving a range of a file back is an example: microseconds where it is one extent, minutes where it is
 * thousands on a file system that discards each.
 */
#ifndef GOLDFS_BASE_PORTION_H
#define GOLDFS_BASE_PORTION_H

#include <stdint.h>

#define PORTION_NS INT64_C(20000000) /* that a call may take, about */

/* In what the caller counts in. */
struct portion {
	uint64_t size; /* to ask for */
	uint64_t least, most;
};

/* So much was asked for, and took ns. */
static inline void portion_took(struct portion *portion, uint64_t asked, int64_t ns)
{
	if (ns > PORTION_NS && portion->size > portion->least)
		portion->size /= 2;
	else if (ns < PORTION_NS / 4 && asked == portion->size && portion->size < portion->most)
		portion->size *= 2;
}

#endif
