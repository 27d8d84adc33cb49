/* SPDX-License-Identifier: MIT */
/* Arrays of two-bit states and of journal bits; see the header. */
#include "store/region.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* A byte with four times the same state. */
static uint8_t four(enum gf_state state)
{
	return state * 0x55;
}

uint32_t region_run(const struct region *r, uint32_t i, uint32_t max)
{
	enum gf_state state = region_state(r, i);
	bool journaled = region_journaled(r, i);
	uint32_t n = 1;

	if (!r->states && !r->journal)
		return max;
	while (n < max) {
		/* Whole bytes at a time where nothing is journaled. */
		if (!r->journal && r->states && (i + n) % 4 == 0 && n + 4 <= max &&
			r->states[(i + n) / 4] == four(state)) {
			n += 4;
			continue;
		}
		if (region_state(r, i + n) != state || region_journaled(r, i + n) != journaled)
			break;
		n++;
	}
	return n;
}

int region_materialize(struct region *r)
{
	if (r->states)
		return 0;
	r->states = malloc(GF_STATE_BYTES);
	if (!r->states)
		return -ENOMEM;
	memset(r->states, four(r->uniform), GF_STATE_BYTES);
	return 0;
}

int region_put(struct region *r, uint32_t first, uint32_t count, enum gf_state state)
{
	if (!r->states && r->uniform == state)
		return 0;
	if (count == GF_REGION_BLOCKS) {
		free(r->states);
		r->states = NULL;
		r->uniform = state;
		return 0;
	}
	if (region_materialize(r))
		return -ENOMEM;
	while (count && first % 4) {
		states_put(r->states, first++, state);
		count--;
	}
	memset(r->states + first / 4, four(state), count / 4);
	first += count & ~3u;
	for (count %= 4; count; count--)
		states_put(r->states, first++, state);
	return 0;
}

int region_set_journaled(struct region *r, uint32_t first, uint32_t count)
{
	if (!r->journal) {
		r->journal = calloc(1, GF_REGION_BLOCKS / 8);
		if (!r->journal)
			return -ENOMEM;
	}
	for (uint32_t i = first; i < first + count; i++) {
		if (!region_journaled(r, i)) {
			r->journal[i / 8] |= 1u << (i % 8);
			r->journaled++;
		}
	}
	return 0;
}

void region_clear_journaled(struct region *r, uint32_t i)
{
	if (!region_journaled(r, i))
		return;
	r->journal[i / 8] &= ~(1u << (i % 8));
	if (--r->journaled == 0) {
		free(r->journal);
		r->journal = NULL;
	}
}

/* Bit i goes to bit 2 * i. */
static uint64_t spread(uint32_t bits)
{
	uint64_t x = bits;

	x = (x | x << 16) & UINT64_C(0x0000ffff0000ffff);
	x = (x | x << 8) & UINT64_C(0x00ff00ff00ff00ff);
	x = (x | x << 4) & UINT64_C(0x0f0f0f0f0f0f0f0f);
	x = (x | x << 2) & UINT64_C(0x3333333333333333);
	return (x | x << 1) & UINT64_C(0x5555555555555555);
}

uint64_t region_owned(const struct region *r, uint32_t word)
{
	uint64_t states = r->uniform * UINT64_C(0x5555555555555555);
	uint32_t journal = 0;

	if (r->states)
		memcpy(&states, r->states + word * sizeof(states), sizeof(states));
	if (r->journal)
		memcpy(&journal, r->journal + word * sizeof(journal), sizeof(journal));
	return ((states | states >> 1) & UINT64_C(0x5555555555555555)) | spread(journal);
}

uint32_t region_count(const struct region *r, uint32_t first, uint32_t count, enum gf_state state)
{
	uint32_t n = 0;

	if (!r->states)
		return r->uniform == state ? count : 0;
	for (uint32_t i = first; i < first + count; i++)
		n += states_get(r->states, i) == state;
	return n;
}

/* Every second bit of w, from the lowest on, side by side. */
static uint64_t every_second(uint64_t w)
{
	w &= UINT64_C(0x5555555555555555);
	w = (w | w >> 1) & UINT64_C(0x3333333333333333);
	w = (w | w >> 2) & UINT64_C(0x0f0f0f0f0f0f0f0f);
	w = (w | w >> 4) & UINT64_C(0x00ff00ff00ff00ff);
	w = (w | w >> 8) & UINT64_C(0x0000ffff0000ffff);
	return (w | w >> 16) & UINT64_C(0x00000000ffffffff);
}

void states_planes(const uint8_t *states, uint32_t i, uint64_t *low, uint64_t *high)
{
	uint64_t first, second;

	memcpy(&first, states + i / 4, sizeof(first));
	memcpy(&second, states + i / 4 + sizeof(first), sizeof(second));
	*low = every_second(first) | every_second(second) << 32;
	*high = every_second(first >> 1) | every_second(second >> 1) << 32;
}

void region_compact(struct region *r)
{
	if (!r->states || r->states[0] != four(r->states[0] & 3) ||
		memcmp(r->states, r->states + 1, GF_STATE_BYTES - 1) != 0)
		return;
	r->uniform = r->states[0] & 3;
	free(r->states);
	r->states = NULL;
}

void region_release(struct region *r)
{
	free(r->states);
	free(r->journal);
	runs_release(&r->runs);
	r->states = NULL;
	r->journal = NULL;
	r->journaled = 0;
}
