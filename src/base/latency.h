/* SPDX-License-Identifier: MIT */
/*
 * Times that requests took, sorted into buckets.
 *
 * A maximum that somebody keeps is one since the beginning; who looks every second wants that of
 * the last second. Counts per bucket can be subtracted from each other, by any number of onlookers
 * with intervals of their own. There are two buckets to a power of two, so a bound is above what it
 * stands for by half of that at most. Pure.
 */
#ifndef GOLDFS_BASE_LATENCY_H
#define GOLDFS_BASE_LATENCY_H

#include <stdint.h>

#define LATENCY_FIRST_LOG 10 /* bucket 0 ends at a microsecond or so */
#define LATENCY_BUCKETS 56   /* the last one begins at 103 s and has no end */

static inline unsigned latency_bucket(uint64_t ns)
{
	unsigned log = 63 - (unsigned)__builtin_clzll(ns | 1);
	unsigned bucket;

	if (log < LATENCY_FIRST_LOG)
		return 0;
	bucket = 1 + 2 * (log - LATENCY_FIRST_LOG) + (ns >> (log - 1) & 1);
	return bucket < LATENCY_BUCKETS ? bucket : LATENCY_BUCKETS - 1;
}

/* Nanoseconds that all in the bucket stay below, but for the last one. */
static inline uint64_t latency_bound(unsigned bucket)
{
	unsigned step = bucket ? bucket - 1 : 0;

	if (!bucket)
		return UINT64_C(1) << LATENCY_FIRST_LOG;
	return (UINT64_C(3) + step % 2) << (LATENCY_FIRST_LOG + step / 2 - 1);
}

#endif
