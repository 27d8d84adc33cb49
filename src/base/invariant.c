/* SPDX-License-Identifier: MIT */
#include "base/invariant.h"

#ifdef GF_INVARIANTS

#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"

static const char *sentence(int number)
{
	switch (number) {
	case 1:
		return "what was acknowledged is there afterwards";
	case 2:
		return "a sector reads as what was last synced or written later";
	case 3:
		return "nothing says that bytes are in place before they are durable, none are given "
		       "back while a durable state needs them, frozen content does not change";
	case 4:
		return "nothing older goes over what is newer";
	case 5:
		return "blocks are shared only after comparing their bytes";
	case 6:
		return "a failed sync is not tried again on the same pages";
	case 7:
		return "a golden image is opened read-only";
	case INVARIANT_LAYER:
		return "a layer's counters and index agree with its blocks";
	case INVARIANT_JOURNAL:
		return "the journal's tail, head and reservations fit the ring";
	case INVARIANT_CATALOG:
		return "names, files, layers and images refer to each other";
	case INVARIANT_POOL:
		return "the pool's slots, counts and figures agree";
	default:
		return "?";
	}
}

void invariant_broken(int number, const char *condition, const char *file, int line)
{
	log_error(0, "invariant %d is broken at %s:%d: %s (%s)", number, file, line,
		sentence(number), condition);
	fprintf(stderr, "goldfs: invariant %d is broken at %s:%d: %s (%s)\n", number, file, line,
		sentence(number), condition);
	abort();
}

#else
/* Nothing: a translation unit must not be empty. */
extern int invariant_none;
#endif
