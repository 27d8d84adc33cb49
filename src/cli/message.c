/* SPDX-License-Identifier: MIT */
/* Failures are formatted completely and written with one call. See message.h. */
#include "cli/message.h"

#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <locale.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/text.h"
#include "cli/verbs.h"

/* One line to stderr, in one piece. */
static void say(const char *text, const char *hint)
{
	CLEANUP_FREE char *line = malloc((strlen(text) + strlen(hint)) * 4 + 16);
	char *out = line;

	if (!line)
		return;
	out += sprintf(out, "goldfs: ");
	while (*text) {
		size_t shown = text_shown(text);

		if (shown)
			out = mempcpy(out, text, shown);
		else
			out += sprintf(out, "\\%03o", (unsigned char)*text);
		text += shown ? shown : 1;
	}
	sprintf(out, "%s\n", hint);
	fputs(line, stderr);
}

int cli_fail(const char *fmt, ...)
{
	CLEANUP_FREE char *text = NULL;
	va_list args;

	va_start(args, fmt);
	if (vasprintf(&text, fmt, args) < 0)
		text = NULL;
	va_end(args);
	say(text ? text : "out of memory", "");
	return EXIT_FAILED;
}

int cli_usage(const char *verb, const char *fmt, ...)
{
	CLEANUP_FREE char *text = NULL;
	char hint[64];
	va_list args;

	va_start(args, fmt);
	if (vasprintf(&text, fmt, args) < 0)
		text = NULL;
	va_end(args);
	snprintf(hint, sizeof(hint), ", see goldfs %s%s--help", verb, *verb ? " " : "");
	say(text ? text : "out of memory", hint);
	return EXIT_USAGE;
}

int cli_bad_option(const char *verb, int opt, char **argv)
{
	/* getopt_long() leaves 0 here for a long option that it does not know. */
	const char *last = argv[optind > 1 ? optind - 1 : 1];

	if (opt == ':' && last[0] == '-' && last[1] == '-')
		return cli_usage(verb, "option \"%s\" needs a value", last);
	if (opt == ':')
		return cli_usage(verb, "option \"-%c\" needs a value", optopt);
	/* Behind one letter of several the word is not done with, and the one before is none of this. */
	if (optopt && last[0] == '-' && last[1] == '-' && strchr(last, '='))
		return cli_usage(verb, "option \"%s\" takes no value", last);
	if (optopt)
		return cli_usage(verb, "unknown option \"-%c\"", optopt);
	return cli_usage(verb, "unknown option \"%s\"", last);
}

const char *cli_reason(int err)
{
	static char reason[128];

	snprintf(reason, sizeof(reason), "%s", strerror(err));
	reason[0] = (char)tolower((unsigned char)reason[0]);
	return reason;
}

int cli_print(const char *text, size_t len)
{
	if (fwrite(text, 1, len, stdout) != len || fflush(stdout) != 0)
		return cli_fail("cannot write the output: %s", cli_reason(errno));
	return EXIT_DONE;
}

void cli_use_locale(void)
{
	/* Numbers must read the same everywhere. */
	setlocale(LC_CTYPE, "");
}
