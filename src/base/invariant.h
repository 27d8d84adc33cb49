/* SPDX-License-Identifier: MIT */
/*
 * Assertions of what must always be true, by number: 1 to 7 are the invariants of
 * man/goldfs-architecture.7, the others stand at the head of the module that keeps them.
 *
 * They are on in builds with GF_INVARIANTS, which are those for developers (DEVELOPER=1), with
 * sanitizers, and of make check-mutations; an installed goldfs has none of them. What is broken
 * ends the process: memory is wrong then, and a successor that recovers from the store is not.
 *
 * A condition may take locks and be slow, but changes nothing. It may depend on what this process
 * did and never on what it read: a damaged or hostile store is no reason to abort. Where a place
 * can be broken on purpose, MUTATED() stands beside it (base/mutation.h), and the unit test of
 * invariants turns that on and waits for the end.
 */
#ifndef GOLDFS_BASE_INVARIANT_H
#define GOLDFS_BASE_INVARIANT_H

#if defined(GF_MUTATIONS) && !defined(GF_INVARIANTS)
#define GF_INVARIANTS
#endif

/* Tables of modules; 1 to 7 have no names. */
enum {
	INVARIANT_LAYER = 11,	/* store/layer.h */
	INVARIANT_JOURNAL = 12, /* store/journal.c */
	INVARIANT_CATALOG = 13, /* core/invariants.c */
	INVARIANT_POOL = 14,	/* store/pool.h */
};

#ifdef GF_INVARIANTS

#define INVARIANT(number, condition) \
	((condition) ? (void)0 : invariant_broken(number, #condition, __FILE__, __LINE__))

/* Says which, where and why it matters, to the log and to stderr, and aborts. */
void invariant_broken(int number, const char *condition, const char *file, int line)
	__attribute__((noreturn, cold));

#else

/* Never evaluated; but what it names counts as used. */
#define INVARIANT(number, condition) ((void)(0 && (condition)))

#endif
#endif
