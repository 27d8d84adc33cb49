/* SPDX-License-Identifier: MIT */
/* The one conversion is read by conversion(), for the check and for the expansion. */
#include "service/pattern.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define WIDTH_MAX 18

/*
 * Reads the conversion at p, which points behind a '%'. Returns the characters it has, 0 when it
 * is none; *width is 0 for a plain %d.
 */
static size_t conversion(const char *p, int *width)
{
	const char *start = p;

	*width = 0;
	if (*p == '0') {
		for (p++; *p >= '0' && *p <= '9'; p++) {
			*width = *width * 10 + (*p - '0');
			if (*width > WIDTH_MAX)
				return 0;
		}
		if (*width == 0)
			return 0;
	}
	return *p == 'd' ? (size_t)(p - start) + 1 : 0;
}

const char *pattern_check(const char *pattern)
{
	int conversions = 0;
	int width;

	for (const char *p = pattern; *p; p++) {
		size_t n;

		if (*p != '%')
			continue;
		p++;
		if (*p == '%')
			continue;
		n = conversion(p, &width);
		if (n == 0)
			return "has a conversion that is neither %d nor like %04d, type %% for a "
			       "percent sign";
		p += n - 1;
		conversions++;
	}
	if (conversions == 0)
		return "has no place for the number, like desk%04d.img";
	if (conversions > 1)
		return "has more than one place for the number";
	return NULL;
}

int pattern_expand(const char *pattern, uint64_t number, char *buf, size_t len)
{
	size_t used = 0;

	for (const char *p = pattern; *p; p++) {
		char digits[32];
		const char *piece = p;
		size_t piece_len = 1;
		int width;

		if (p[0] == '%' && p[1] == '%') {
			p++;
		} else if (*p == '%') {
			p += conversion(p + 1, &width);
			piece_len = (size_t)snprintf(
				digits, sizeof(digits), "%0*" PRIu64, width, number);
			piece = digits;
		}
		if (used + piece_len >= len)
			return -ENAMETOOLONG;
		memcpy(buf + used, piece, piece_len);
		used += piece_len;
	}
	if (used >= len)
		return -ENAMETOOLONG;
	buf[used] = '\0';
	return 0;
}
