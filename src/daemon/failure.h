/* SPDX-License-Identifier: MIT */
/*
 * Why a mount did not come about, as the one line that the administrator gets to read. The daemon
 * may be a process in the background by then, so it is text that can be handed on, not a print.
 * First come, first kept: what failed first is what the line says.
 */
#ifndef GOLDFS_DAEMON_FAILURE_H
#define GOLDFS_DAEMON_FAILURE_H

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

struct failure {
	char text[1024]; /* without "goldfs: " and newline; empty: nothing failed */
};

/* Returns err (a negative errno), so that `return fail(f, -ENOENT, ...)` reads well. */
__attribute__((format(printf, 3, 4))) static inline int fail(struct failure *failure, int err,
	const char *fmt, ...)
{
	va_list ap;

	if (!failure->text[0]) {
		va_start(ap, fmt);
		vsnprintf(failure->text, sizeof(failure->text), fmt, ap);
		va_end(ap);
	}
	return err;
}

/* Text for a negative errno, in lower case as all our messages. */
static inline const char *why(int err)
{
	static __thread char text[128];
	const char *s = strerrordesc_np(-err);

	snprintf(text, sizeof(text), "%s", s ? s : "unknown error");
	if (text[0] >= 'A' && text[0] <= 'Z' && !(text[1] >= 'A' && text[1] <= 'Z'))
		text[0] = (char)(text[0] - 'A' + 'a');
	return text;
}

#endif
