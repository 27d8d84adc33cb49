/* SPDX-License-Identifier: MIT */
/* Times as the store keeps them, nanoseconds since 1970, and as the kernel tells them. */
#ifndef GOLDFS_BASE_TIMES_H
#define GOLDFS_BASE_TIMES_H

#include <pthread.h>
#include <stdint.h>
#include <time.h>

#define TIMES_NS_PER_SECOND INT64_C(1000000000)

/* A user may set any time on a file: what lies before 1677 or after 2262 becomes the nearest time
 * that fits, as file systems do it. */
static inline int64_t times_ns(struct timespec t)
{
	int64_t ns;

	if (__builtin_mul_overflow((int64_t)t.tv_sec, TIMES_NS_PER_SECOND, &ns) ||
		__builtin_add_overflow(ns, (int64_t)t.tv_nsec, &ns))
		return t.tv_sec < 0 ? INT64_MIN : INT64_MAX;
	return ns;
}

static inline struct timespec times_spec(int64_t ns)
{
	int64_t seconds = ns / TIMES_NS_PER_SECOND, rest = ns % TIMES_NS_PER_SECOND;

	if (rest < 0) {
		rest += TIMES_NS_PER_SECOND;
		seconds--;
	}
	return (struct timespec){.tv_sec = seconds, .tv_nsec = rest};
}

/* What a clock of clock_gettime(2) shows, in nanoseconds. */
static inline int64_t times_now(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return times_ns(now);
}

/* A condition for which pthread_cond_timedwait(3) takes times of CLOCK_MONOTONIC. */
static inline void times_cond_init(pthread_cond_t *cond)
{
	pthread_condattr_t attr;

	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(cond, &attr);
	pthread_condattr_destroy(&attr);
}

#endif
