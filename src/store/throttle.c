/* SPDX-License-Identifier: MIT */
/* See the header. */
#include "store/throttle.h"

#include "base/sizes.h"
#include "base/times.h"

/* Before anything is known: what a disk that seeks little does. */
#define FIRST_RATE (64 * MIB)
#define LEAST_RATE (256 * KIB)

void throttle_init(struct throttle *t)
{
	*t = (struct throttle){.rate = FIRST_RATE};
}

static double per_second(uint64_t bytes, int64_t ns)
{
	return (double)bytes * (double)TIMES_NS_PER_SECOND / (double)(ns > 0 ? ns : 1);
}

void throttle_lap(struct throttle *t, uint64_t bytes, int64_t now_ns)
{
	t->lap_bytes = bytes;
	t->lap_began = now_ns;
}

void throttle_note(struct throttle *t, uint64_t bytes, int64_t ns)
{
	double rate = per_second(bytes, ns);

	/* Half of what was known: one checkpoint that was slow does not stop everybody. */
	t->rate = (uint64_t)(((double)t->rate + rate) / 2);
	t->rate = max_u64(t->rate, LEAST_RATE);
}

/* Bytes per second that may come in. A checkpoint that is late may well take as long again. */
static double rate_allowed(const struct throttle *t, int64_t now_ns, uint64_t used, uint64_t size)
{
	double full = (double)used / (double)size, from = THROTTLE_FROM_PERCENT / 100.0;
	double rate = (double)t->rate * (1 - full) / (full - from), late;
	int64_t ns = now_ns - t->lap_began;

	if (!t->lap_bytes || per_second(t->lap_bytes, ns) >= (double)t->rate)
		return rate;
	late = per_second(size - used, ns);
	return late < rate ? late : rate;
}

int64_t throttle_wait(struct throttle *t, int64_t now_ns, uint64_t used, uint64_t size,
	uint64_t bytes)
{
	int64_t latest = now_ns + THROTTLE_LONGEST_NS, turn;
	double ns;

	if (used >= size)
		return THROTTLE_LONGEST_NS;
	if (used * 100 <= size * THROTTLE_FROM_PERCENT)
		return 0;
	ns = (double)bytes * (double)TIMES_NS_PER_SECOND / rate_allowed(t, now_ns, used, size);
	turn = t->next_turn > now_ns ? t->next_turn : now_ns;
	turn = ns < (double)(latest - turn) ? turn + (int64_t)ns : latest;
	t->next_turn = turn;
	return turn - now_ns;
}
