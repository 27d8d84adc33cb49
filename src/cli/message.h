/* SPDX-License-Identifier: MIT */
/*
 * What the command line says: one line on stderr for a failure, results on stdout at the very end.
 *
 * Messages are `goldfs: ` and lower case, without a full stop. Functions that report a failure
 * return the exit status, so that `return cli_fail(...)` reads well. Control characters in them
 * are written as \ooo: names are anything that users like.
 */
#ifndef GOLDFS_CLI_MESSAGE_H
#define GOLDFS_CLI_MESSAGE_H

#include <stddef.h>

/* Returns EXIT_FAILED. */
int cli_fail(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* Wrong usage of verb: adds where to look. Returns EXIT_USAGE. */
int cli_usage(const char *verb, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/*
 * Says what getopt_long() did not like: opt is what it returned, '?' or ':' (opterr is 0 and the
 * short options start with ':' or "+:"). Returns EXIT_USAGE.
 */
int cli_bad_option(const char *verb, int opt, char **argv);
/* The text of an errno (positive) as it stands in messages: lower case. Not for threads. */
const char *cli_reason(int err);
/* Prints a result, all of it or a failure. Returns EXIT_DONE or EXIT_FAILED. */
int cli_print(const char *text, size_t len);
/* Before anything that depends on how wide characters are: loading that takes a tenth of a short command. */
void cli_use_locale(void);

#endif
