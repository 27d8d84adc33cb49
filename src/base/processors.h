/* SPDX-License-Identifier: MIT */
#ifndef GOLDFS_BASE_PROCESSORS_H
#define GOLDFS_BASE_PROCESSORS_H

#include <sched.h>
#include <unistd.h>

/* How many this thread may run on, at least 1: a service or container may have been given a part of them. */
static inline unsigned processors_usable(void)
{
	long online;
	cpu_set_t set;

	if (sched_getaffinity(0, sizeof(set), &set) == 0)
		return (unsigned)CPU_COUNT(&set);
	online = sysconf(_SC_NPROCESSORS_ONLN); /* more than fit in the set */
	return online > 0 ? (unsigned)online : 1;
}

#endif
