/* SPDX-License-Identifier: MIT */
/* Whole numbers that a user typed. */
#ifndef GOLDFS_CLI_NUMBER_H
#define GOLDFS_CLI_NUMBER_H

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

/* Decimal digits only, from min to max. */
static inline bool number_parse(const char *text, uint64_t min, uint64_t max, uint64_t *value)
{
	char *end;

	if (*text < '0' || *text > '9')
		return false;
	errno = 0;
	*value = strtoull(text, &end, 10);
	return !*end && errno == 0 && *value >= min && *value <= max;
}

#endif
