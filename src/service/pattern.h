/* SPDX-License-Identifier: MIT */
/*
 * Names of a batch of clones: "desk%04d.img" and a number give "desk0007.img".
 *
 * Exactly one conversion, %d or %0Nd with N from 1 to 18; "%%" stands for a percent sign. Nothing
 * else of printf is understood, and none of it ever reaches printf: the pattern comes from whoever
 * may open the control file. Pure.
 */
#ifndef GOLDFS_SERVICE_PATTERN_H
#define GOLDFS_SERVICE_PATTERN_H

#include <stddef.h>
#include <stdint.h>

/* NULL when pattern is right, else what is wrong with it, to stand after the quoted pattern. */
const char *pattern_check(const char *pattern);
/*
 * Writes the name for number into buf. The pattern has passed pattern_check().
 * -ENAMETOOLONG: it does not fit into len bytes with its NUL.
 */
int pattern_expand(const char *pattern, uint64_t number, char *buf, size_t len);

#endif
