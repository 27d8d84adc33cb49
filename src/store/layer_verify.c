/* SPDX-License-Identifier: MIT */
/*
 * Checking blocks at rest against their checksums.
 *
 * A block that is OVERLAY and not journaled has the checksum of its bytes in the sum file, always:
 * whoever puts bytes in place writes it with them, under the block's range, and recovery makes it
 * true for what a crash left between the two. A checksum is never 0, so a block without one is
 * damaged like any other. The one exception are suspect regions after a power loss (layer.h).
 *
 * A damaged block and a damaged checksum cannot be told apart: both are reported, neither is
 * "mended" by believing the other.
 */
#include <errno.h>

#include "base/hash.h"
#include "base/sizes.h"
#include "store/layer_internal.h"

#define SUMS_AT_ONCE 1024

int64_t layer_compare_sums(struct layer *l, const void *bytes, uint64_t block, uint64_t count)
{
	uint32_t sums[SUMS_AT_ONCE];
	uint64_t n;

	for (uint64_t done = 0; done < count; done += n) {
		const uint8_t *at = (const uint8_t *)bytes + done * GF_BLOCK_SIZE;
		int e;

		n = min_u64(count - done, SUMS_AT_ONCE);
		e = layer_read_sums(l, block + done, sums, n);
		if (e)
			return e;
		for (uint64_t i = 0; i < n; i++)
			if (hash_block(l->env->secret, at + i * GF_BLOCK_SIZE) != sums[i])
				return done + i;
	}
	return count;
}

/* Writes the checksum of what is there; in memory, where nothing may be written. */
static int write_sum(struct layer *l, uint64_t block, uint32_t sum)
{
	int e = layer_write_sums(l, block, &sum, 1);

	return e ? layer_note_sums(l, block, &sum, 1) : 0;
}

static int judge_held(struct layer *l, void *bytes, uint64_t block)
{
	uint32_t sum;
	int64_t n;
	int e = layer_is_at_rest(l, block);

	if (e <= 0)
		return e ? e : VERDICT_MOVED;
	e = layer_read_data(l, bytes, GF_BLOCK_SIZE, block * GF_BLOCK_SIZE);
	if (e)
		return e;
	n = layer_compare_sums(l, bytes, block, 1);
	if (n)
		return n < 0 ? (int)n : VERDICT_RIGHT;
	if (!layer_is_suspect(l, block / GF_REGION_BLOCKS))
		return VERDICT_DAMAGED;
	sum = hash_block(l->env->secret, bytes);
	e = write_sum(l, block, sum);
	return e ? e : VERDICT_HEALED;
}

int layer_judge_block(struct layer *l, void *bytes, uint64_t block, bool held)
{
	struct range range;
	int verdict;

	if (held)
		return judge_held(l, bytes, block);
	rangelock_lock(&l->ranges, &range, block, block);
	verdict = judge_held(l, bytes, block);
	rangelock_unlock(&l->ranges, &range);
	return verdict;
}
