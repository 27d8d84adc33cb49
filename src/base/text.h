/* SPDX-License-Identifier: MIT */
/* What may be shown to people as it is. */
#ifndef GOLDFS_BASE_TEXT_H
#define GOLDFS_BASE_TEXT_H

#include <stddef.h>

/*
 * How many bytes the character at p has, when a terminal only shows it: 1 to 4. 0: the byte at p
 * has to be escaped, because it is a control character (those of 8 bits too, which stand in UTF-8
 * as C2 80 to C2 9F), not part of well-formed UTF-8, or the NUL at the end. Pure.
 */
static inline size_t text_shown(const char *p)
{
	const unsigned char *u = (const unsigned char *)p;
	size_t more;

	if (u[0] >= 0x20 && u[0] < 0x7f)
		return 1;
	if (u[0] < 0xc2 || u[0] > 0xf4)
		return 0;
	more = u[0] < 0xe0 ? 1 : u[0] < 0xf0 ? 2 : 3;
	for (size_t i = 1; i <= more; i++)
		if (u[i] < 0x80 || u[i] > 0xbf)
			return 0;
	if ((u[0] == 0xc2 && u[1] < 0xa0) || (u[0] == 0xe0 && u[1] < 0xa0) ||
		(u[0] == 0xed && u[1] > 0x9f) || (u[0] == 0xf0 && u[1] < 0x90) ||
		(u[0] == 0xf4 && u[1] > 0x8f))
		return 0;
	return more + 1;
}

/* Text as a word that can be typed to a shell, and that a terminal only shows: names may be anything.
 * malloc'ed, owned by the caller; NULL: out of memory. */
char *text_shell_word(const char *text);

#endif
