/* SPDX-License-Identifier: MIT */
/*
 * Undoing the flip of a single bit in a structure with a 64-bit checksum.
 *
 * All single flips of some thousand bits are tried. That a wrong one fits by chance has a
 * probability of bits / 2^64: below one in 10^14 for a page of 4 KiB, which counts as proof. Blocks
 * of data have checksums of 32 bits; for these it would be no proof, and it is not tried.
 */
#include "core/check_internal.h"

bool mend_one_bit(uint8_t *bytes, size_t len, bool (*whole)(const void *arg, const uint8_t *bytes),
	const void *arg)
{
	for (size_t bit = 0; bit < len * 8; bit++) {
		uint8_t mask = 1u << (bit % 8);

		bytes[bit / 8] ^= mask;
		if (whole(arg, bytes))
			return true;
		bytes[bit / 8] ^= mask;
	}
	return false;
}

bool mend_is_flipped(uint32_t recorded, uint32_t computed)
{
	return __builtin_popcount(recorded ^ computed) == 1;
}
