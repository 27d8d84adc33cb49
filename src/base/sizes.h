/* SPDX-License-Identifier: MIT */
/* Sizes as an administrator types and reads them ("16M", "1.5 GiB"), and rounding. */
#ifndef GOLDFS_BASE_SIZES_H
#define GOLDFS_BASE_SIZES_H

#include <stddef.h>
#include <stdint.h>

#define KIB (UINT64_C(1) << 10)
#define MIB (UINT64_C(1) << 20)
#define GIB (UINT64_C(1) << 30)
#define TIB (UINT64_C(1) << 40)

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

/* a - b, not below 0. */
static inline uint64_t less_u64(uint64_t a, uint64_t b)
{
	return a > b ? a - b : 0;
}

static inline uint64_t min_u64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static inline uint64_t max_u64(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

static inline uint64_t round_down(uint64_t v, uint64_t unit)
{
	return v - v % unit;
}

static inline uint64_t round_up(uint64_t v, uint64_t unit)
{
	return round_down(v + unit - 1, unit);
}

/* Reads "4096", "64K", "64KiB", "1.5G", "10T" as bytes (powers of 1024). 0 or -EINVAL, -ERANGE. */
int size_parse(const char *text, uint64_t *bytes);

/* Writes bytes as "1.5G" (IEC, at most three digits and one decimal, as lsblk does). */
void size_format(uint64_t bytes, char *buf, size_t len);

#endif
