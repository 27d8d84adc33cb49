/* SPDX-License-Identifier: MIT */
/*
 * Places that can be broken on purpose, to see whether a test notices (make check-mutations).
 *
 * SITE(name, call) is a call that makes something durable or gives something back: when its
 * mutation is on, the call is left out and counts as done. MUTATED(name) is a question that an
 * invariant's place asks: true means "do it wrong". Both enter themselves, with file and line, in
 * a list that the linker collects, so that a new place is in the mutation run by itself; and
 * tests/check-sites fails when a call of that sort is no SITE.
 *
 * Names are unique and are sentences of their own: they are the rows of the table that the run
 * prints. In a build with GF_INVARIANTS alone (base/invariant.h) calls are never left out, and the
 * places of invariants can be broken by a test that names one, so that assertions are seen to work.
 * In any other build nothing is left of all this.
 */
#ifndef GOLDFS_BASE_MUTATION_H
#define GOLDFS_BASE_MUTATION_H

#include "base/invariant.h"

#ifdef GF_INVARIANTS

#include <stdbool.h>

struct mutation {
	const char *name;
	const char *file;
	int line;
	bool left_out; /* a call; otherwise an invariant's place */
};

/* Whether it is the one that is on; counts that its place was reached. */
bool mutation_is_on(const struct mutation *m);

#define MUTATION_AT(name_, left_out_) \
	({ \
		static const struct mutation mutation_ = {name_, __FILE__, __LINE__, left_out_}; \
		static const struct mutation *const mutation_entry_ \
			__attribute__((section("gf_mutations"), used)) = &mutation_; \
		mutation_is_on(mutation_entry_); \
	})
#define MUTATED(name) MUTATION_AT(name, false)
#ifdef GF_MUTATIONS
#define SITE(name, call) (MUTATION_AT(name, true) ? 0 : (call))
#else
#define SITE(name, call) (call)
#endif

/* ---- for the tests ---- */

/* All of them. */
const struct mutation *const *mutation_list(unsigned *count);
/* Turns one on, and all others off; NULL: none. With GF_MUTATIONS the environment's GF_MUTATION does
 * so too. */
void mutation_turn_on(const struct mutation *m);
/* From now on the number of times each was reached is counted here, in the list's order. */
void mutation_count_in(unsigned *counts);

#else

#define MUTATED(name) 0
#define SITE(name, call) (call)

#endif
#endif
