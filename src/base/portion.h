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
#define PORTION_MOST (UINT64_C(1) << 40)

struct portion {
	uint64_t size;	/* to ask for, in what the caller counts in */
	uint64_t least; /* not 0 */
};

/* The last one took ns. */
static inline void portion_took(struct portion *portion, int64_t ns)
{
	if (ns > PORTION_NS && portion->size > portion->least)
		portion->size /= 2;
	else if (ns < PORTION_NS / 4 && portion->size < PORTION_MOST)
		portion->size *= 2;
}

#endif
