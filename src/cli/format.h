/* SPDX-License-Identifier: MIT */
/* Numbers that change while one looks: short, and of about one width. Pure. */
#ifndef GOLDFS_CLI_FORMAT_H
#define GOLDFS_CLI_FORMAT_H

#include <stddef.h>

#define FORMAT_LEN 32 /* enough for each of them */

/* So many per second: "0", "0.4", "12", "31k". */
void format_rate(double rate, char *buf, size_t len);
/* Nanoseconds: "240us", "1.3ms", "12s"; "-" for 0, there was nothing to measure. */
void format_time(double ns, char *buf, size_t len);
/* A change in bytes: "+1.5G", "-12K", "0". */
void format_growth(double bytes, char *buf, size_t len);

#endif
