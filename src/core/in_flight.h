/* SPDX-License-Identifier: MIT */
/*
 * Which large writes are on their way, for whoever takes over when this process dies.
 *
 * A record that announces bytes in place says nothing about whether they got there. Recovery compares
 * them, which after a power loss is the only way. But a successor of a process that was killed could
 * have been told: every write that had ended is in place, with its checksums, for the machine lives. So
 * those that have not ended stand in memory that outlives the process, and a takeover looks at these
 * only. That is what makes it short however much was written since the last sync.
 *
 * Memory of zeros vouches for nothing. Each function may be called by any thread, but for
 * in_flight_take_over(). A NULL board stands for "nobody will take over".
 */
#ifndef GOLDFS_CORE_IN_FLIGHT_H
#define GOLDFS_CORE_IN_FLIGHT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* More than there are threads that write. One more would be seen by nobody: from then on a successor compares
 * everything. */
#define IN_FLIGHT_MAX 320

/* Numbers are those of records. Each field counts by one store, as in all of the handover's memory. */
struct in_flight {
	_Atomic uint64_t since; /* what is said about earlier ones is not to be relied on; 0: about any */
	_Atomic uint64_t doubt_first; /* what takeovers had to look at, and others may have to again: */
	_Atomic uint64_t doubt_end;   /* from first to before end */
	_Atomic uint64_t lower[IN_FLIGHT_MAX]; /* of a write on its way: its record's is at least this; 0: free */
};

/* Before the record is appended; lower is a number that it cannot be below. Returns what _end() is given. */
unsigned in_flight_begin(struct in_flight *board, uint64_t lower);
/* ok: bytes and checksums are in place. Otherwise nothing before `next`, the number of the next record, is
 * vouched for any more. */
void in_flight_end(struct in_flight *board, unsigned entry, bool ok, uint64_t next);
/* Whether the large writes of record seq are in place. */
bool in_flight_vouches(const struct in_flight *board, uint64_t seq);
/* Whether record seq may be older than the mount, so that recovery found what it announces. */
bool in_flight_may_predate(const struct in_flight *board, uint64_t seq);
/* The dead process's records, which end before `next`, were replayed; none is before `tail`. From now on this
 * process enters its own. */
void in_flight_take_over(struct in_flight *board, uint64_t tail, uint64_t next);
/* The same without a predecessor. */
void in_flight_start(struct in_flight *board, uint64_t next);

#endif
