/* SPDX-License-Identifier: MIT */
/* Arrays that grow by doubling. */
#ifndef GOLDFS_BASE_ARRAY_H
#define GOLDFS_BASE_ARRAY_H

#include <stddef.h>
#include <stdlib.h>

#define ARRAY_FIRST 64

/* The list, perhaps elsewhere than before, with room for one element of size bytes behind `count`. The
 * caller's to free. NULL: out of memory, and the old one is as it was. */
static inline void *array_with_room(void *list, size_t count, size_t *capacity, size_t size)
{
	size_t more = *capacity ? 2 * *capacity : ARRAY_FIRST;
	void *bigger;

	if (count < *capacity)
		return list;
	bigger = reallocarray(list, more, size);
	if (bigger)
		*capacity = more;
	return bigger;
}

#endif
