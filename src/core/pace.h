/* SPDX-License-Identifier: MIT */
/*
 * How work in the background gives way to guests: one way for all jobs that read or write much.
 *
 * Such work is done in steps, and rests between two of them:
 *
 *   - Guests come first. While they ask anything of the mount, a step is followed by a rest three times
 *     as long as the step took, so that the work has a quarter of the time. A step takes longer the
 *     busier the disk is, and the rest with it; so one that writes has to wait for the disk once in a
 *     while (pace_gives_way()), or its time says nothing.
 *   - A guest that waits for one answer before it asks the next is asking still: what was asked a moment
 *     ago (PACE_QUIET_NS) counts.
 *   - The work is never starved: a rest that guests are the reason for has a longest time.
 *   - When nobody asks there is no rest.
 *   - A rate is a limit above all that. It is kept step by step: what was not used is not made up for.
 */
#ifndef GOLDFS_CORE_PACE_H
#define GOLDFS_CORE_PACE_H

#include <stdbool.h>
#include <stdint.h>

#define PACE_SHARE 3			 /* the rest, in steps */
#define PACE_REST_MAX_NS INT64_C(200000000) /* for guests, after one step */
#define PACE_QUIET_NS INT64_C(20000000)
#define PACE_SYNC_BYTES (UINT64_C(8) << 20)

struct fs;

struct pace {
	struct fs *fs;
	uint64_t rate;	   /* bytes per second at most, 0: no limit; may be changed in a rest, by stop() */
	uint64_t requests; /* of guests, when it was looked last */
	int64_t asked_ns;  /* when they were seen to have asked last, CLOCK_MONOTONIC; 0: never */
};

/* A step that is done, and what is known then. */
struct pace_step {
	int64_t took_ns;
	int64_t quiet_ns; /* since guests asked something; INT64_MAX: they did not */
	uint64_t bytes;	  /* that count for the rate */
	uint64_t rate;	  /* bytes per second at most, 0: no limit */
};

/* How long to rest after it, in nanoseconds. Pure. */
int64_t pace_rest_ns(const struct pace_step *step);

void pace_init(struct pace *pace, struct fs *fs, uint64_t rate);
/* Whether guests asked something lately, so that what was written is to be waited for whenever it comes
 * to PACE_SYNC_BYTES. */
bool pace_gives_way(const struct pace *pace);

/*
 * Rests after a step that began at start_ns (CLOCK_MONOTONIC) and moved so many bytes. true: it is to be
 * stopped, as stop() said, which is asked again and again in a rest; it may be NULL. Where nothing works
 * in the background (tests) there is no rest.
 */
bool pace_after(struct pace *pace, int64_t start_ns, uint64_t bytes, bool (*stop)(void *arg), void *arg);

#endif
