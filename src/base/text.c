/* SPDX-License-Identifier: MIT */
/* See the header. */
#include "base/text.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool all_shown(const char *text)
{
	while (*text) {
		size_t shown = text_shown(text);

		if (!shown)
			return false;
		text += shown;
	}
	return true;
}

char *text_shell_word(const char *text)
{
	static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+=.,:/@";
	char *word = malloc(strlen(text) * 4 + 4), *out = word;
	bool literal = all_shown(text);

	if (!word)
		return NULL;
	if (*text && !text[strspn(text, plain)])
		return strcpy(word, text);
	/* In quotes all but the quote stands for itself; in those with a $ bytes can be given by number. */
	out = stpcpy(out, literal ? "'" : "$'");
	while (*text) {
		size_t shown = text_shown(text);

		if (literal && *text == '\'')
			out = stpcpy(out, "'\\''");
		else if (!literal && (!shown || *text == '\'' || *text == '\\'))
			out += sprintf(out, "\\%03o", (unsigned char)*text);
		else
			out = mempcpy(out, text, shown);
		text += shown ? shown : 1;
	}
	strcpy(out, "'");
	return word;
}
