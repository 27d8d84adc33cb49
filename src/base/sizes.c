/* SPDX-License-Identifier: MIT */
/*
 * Sizes as text. All units are powers of 1024, with or without "iB"; "KB" and its kind are refused,
 * because half of the tools around mean 1000 by them. Arithmetic is in integers: a size that was
 * typed must not be rounded by floating point.
 */
#include "base/sizes.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

static const char units[] = "BKMGTPE";

static int is_digit(char c)
{
	return c >= '0' && c <= '9';
}

/* The power of 1024 that the suffix names, as a shift, or -1. */
static int suffix_shift(const char *suffix)
{
	const char *unit;

	while (*suffix == ' ')
		suffix++;
	if (*suffix == '\0')
		return 0;
	for (unit = units; *unit; unit++)
		if ((*suffix & ~0x20) == *unit)
			break;
	if (!*unit)
		return -1;
	suffix++;
	if (*suffix && (unit == units || strcasecmp(suffix, "iB") != 0))
		return -1;
	return (int)(unit - units) * 10;
}

int size_parse(const char *text, uint64_t *bytes)
{
	unsigned __int128 whole = 0, scale = 1, fraction = 0;
	const char *p = text;
	int shift;

	if (!is_digit(*p))
		return -EINVAL;
	for (; is_digit(*p); p++) {
		whole = whole * 10 + (unsigned)(*p - '0');
		if (whole > UINT64_MAX)
			return -ERANGE;
	}
	if (*p == '.') {
		if (!is_digit(*++p))
			return -EINVAL;
		for (; is_digit(*p); p++) {
			if (scale >= UINT64_C(1000000000000000000))
				continue; /* far below one byte of any unit */
			fraction = fraction * 10 + (unsigned)(*p - '0');
			scale *= 10;
		}
	}
	shift = suffix_shift(p);
	if (shift < 0 || (shift == 0 && scale > 1))
		return -EINVAL;
	whole = (whole << shift) + (fraction << shift) / scale;
	if (whole > UINT64_MAX)
		return -ERANGE;
	*bytes = (uint64_t)whole;
	return 0;
}

void size_format(uint64_t bytes, char *buf, size_t len)
{
	unsigned exp = 0;
	uint64_t tenths;

	while (exp + 2 < sizeof(units) && bytes >> (10 * (exp + 1)))
		exp++;
	tenths = (uint64_t)(((unsigned __int128)bytes * 10 + (UINT64_C(1) << (10 * exp)) / 2) >>
			    (10 * exp));
	if (tenths >= 10240 && exp + 2 < sizeof(units)) {
		tenths = 10;
		exp++;
	}
	if (tenths >= 10000)
		tenths = (tenths + 5) / 10 * 10;
	if (tenths % 10)
		snprintf(buf, len, "%llu.%llu%c", (unsigned long long)tenths / 10,
			(unsigned long long)tenths % 10, units[exp]);
	else
		snprintf(buf, len, "%llu%c", (unsigned long long)tenths / 10, units[exp]);
}
