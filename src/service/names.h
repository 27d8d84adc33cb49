/* SPDX-License-Identifier: MIT */
/*
 * Names, times and labels as the outside reads them. Pure: bytes in, text out.
 *
 * A file name is bytes, a JSON string is UTF-8. A path that is UTF-8 stands in JSON as it is. One
 * that is not is percent-escaped as a whole: every byte that is not printable ASCII, and '%'
 * itself, becomes %XX. So '%' is escaped only in paths that are not UTF-8, and "50%.img" stays
 * "50%.img". Requests say which of the two they mean: a string is taken literally, an object
 * {"escaped": "..."} is unescaped (service/control.h).
 */
#ifndef GOLDFS_SERVICE_NAMES_H
#define GOLDFS_SERVICE_NAMES_H

#include <jansson.h>
#include <stdint.h>
#include <stdio.h>

/* Percent-escapes all that is not printable ASCII, and '%'. malloc'ed; NULL without memory. */
char *name_escape(const char *name);
/* The bytes behind an escaped name, malloc'ed. NULL: not escaped properly, or contains a NUL. */
char *name_unescape(const char *escaped);
/* A name or path as a JSON string, escaped when it is not UTF-8. NULL only without memory. */
json_t *name_json(const char *name);
/* The same as malloc'ed text, for messages. */
char *name_text(const char *name);

#define TIME_TEXT_LEN 32
/* "2025-11-20T07:27:00Z" from nanoseconds since 1970; buf holds TIME_TEXT_LEN bytes. */
void time_text(int64_t ns, char *buf);

/* A label value of the Prometheus text format, without the quotes: \\ \" and \n are escaped. */
void label_write(FILE *out, const char *value);

#endif
