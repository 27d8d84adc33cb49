/* SPDX-License-Identifier: MIT */
/*
 * How long somebody who appends to the journal is held back, so that nobody ever waits for long.
 *
 * The tail of the ring moves in steps, one at the end of each checkpoint. Who writes faster than
 * blocks get to their place would fill the ring and then stand still until that step: seconds, on
 * a disk that seeks. So from THROTTLE_FROM of the ring on everybody waits a little, the more the
 * fuller it is: the rate let in is that at which the ring was emptied lately where half of the
 * rest is used, and falls to nothing where all is. Whoever comes slower than that never waits. A checkpoint
 * that takes longer than those before it is slow already while it runs: a file system that looks long for
 * places took 3 s for what had taken 0.5.
 *
 * Pure: no clock, no lock; the journal calls it under its lock.
 */
#ifndef GOLDFS_STORE_THROTTLE_H
#define GOLDFS_STORE_THROTTLE_H

#include <stdint.h>

#define THROTTLE_FROM_PERCENT 70
#define THROTTLE_LONGEST_NS INT64_C(50000000)

struct throttle {
	uint64_t rate;	   /* bytes per second at which the ring was emptied lately */
	int64_t next_turn; /* ns of a monotonic clock; when who comes next may go on */
	uint64_t lap_bytes; /* what the checkpoint that runs will give back; 0: none runs */
	int64_t lap_began;  /* ns of that clock */
};

void throttle_init(struct throttle *t);

/* A checkpoint began that is to give back that many bytes; 0: it came to nothing. */
void throttle_lap(struct throttle *t, uint64_t bytes, int64_t now_ns);

/* A checkpoint gave back that many bytes of the ring within ns nanoseconds. */
void throttle_note(struct throttle *t, uint64_t bytes, int64_t ns);

/*
 * For whoever wants to append `bytes` when `used` of `size` bytes are taken: nanoseconds to wait, at
 * most THROTTLE_LONGEST_NS. Those who come while others wait go one after the other.
 */
int64_t throttle_wait(struct throttle *t, int64_t now_ns, uint64_t used, uint64_t size,
	uint64_t bytes);

#endif
