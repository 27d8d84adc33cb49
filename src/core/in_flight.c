/* SPDX-License-Identifier: MIT */
#include "core/in_flight.h"

#include "base/sizes.h"

#define NO_ENTRY IN_FLIGHT_MAX
#define APART 8 /* entries of a cache line */

static void raise_since(struct in_flight *board, uint64_t to)
{
	uint64_t old = atomic_load(&board->since);

	while (old < to && !atomic_compare_exchange_weak(&board->since, &old, to))
		;
}

unsigned in_flight_begin(struct in_flight *board, uint64_t lower)
{
	/* Each thread looks first where it found room the last time, and begins away from the others. */
	static _Thread_local unsigned last = NO_ENTRY;
	static atomic_uint threads;

	if (!board)
		return NO_ENTRY;
	if (last == NO_ENTRY)
		last = atomic_fetch_add(&threads, 1) * APART % IN_FLIGHT_MAX;
	for (unsigned i = 0; i < IN_FLIGHT_MAX; i++) {
		unsigned entry = (last + i) % IN_FLIGHT_MAX;
		uint64_t none = 0;

		if (!atomic_compare_exchange_strong(&board->lower[entry], &none, lower))
			continue;
		last = entry;
		return entry;
	}
	/* Never seen; from now on a successor compares everything. */
	atomic_store(&board->since, UINT64_MAX);
	return NO_ENTRY;
}

void in_flight_end(struct in_flight *board, unsigned entry, bool ok, uint64_t next)
{
	if (!board)
		return;
	if (!ok)
		raise_since(board, next);
	if (entry != NO_ENTRY)
		atomic_store(&board->lower[entry], 0);
}

static uint64_t oldest(const struct in_flight *board)
{
	uint64_t first = UINT64_MAX;

	for (unsigned i = 0; i < IN_FLIGHT_MAX; i++) {
		uint64_t lower = atomic_load(&board->lower[i]);

		if (lower)
			first = min_u64(first, lower);
	}
	return first;
}

bool in_flight_may_predate(const struct in_flight *board, uint64_t seq)
{
	uint64_t since = board ? atomic_load(&board->since) : 0;

	return !since || seq < since;
}

bool in_flight_vouches(const struct in_flight *board, uint64_t seq)
{
	if (in_flight_may_predate(board, seq) || seq >= oldest(board))
		return false;
	return seq < atomic_load(&board->doubt_first) || seq >= atomic_load(&board->doubt_end);
}

void in_flight_take_over(struct in_flight *board, uint64_t tail, uint64_t next)
{
	uint64_t first, since;

	if (!board)
		return;
	since = atomic_load(&board->since);
	if (!since || since > next) {
		/* Nothing is known of what is there already. */
		in_flight_start(board, next);
		return;
	}
	first = oldest(board);
	if (first < next) {
		/* What an earlier takeover looked at may not have left the ring yet. */
		if (atomic_load(&board->doubt_end) > tail)
			first = min_u64(first, atomic_load(&board->doubt_first));
		/* In this order each is in doubt at any moment: by the range of before, or by its entry. */
		atomic_store(&board->doubt_end, next);
		atomic_store(&board->doubt_first, first);
	}
	for (unsigned i = 0; i < IN_FLIGHT_MAX; i++)
		atomic_store(&board->lower[i], 0);
}

void in_flight_start(struct in_flight *board, uint64_t next)
{
	if (!board)
		return;
	atomic_store(&board->since, UINT64_MAX);
	atomic_store(&board->doubt_first, 0);
	atomic_store(&board->doubt_end, 0);
	for (unsigned i = 0; i < IN_FLIGHT_MAX; i++)
		atomic_store(&board->lower[i], 0);
	atomic_store(&board->since, next);
}
