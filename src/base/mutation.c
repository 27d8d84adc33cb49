/* SPDX-License-Identifier: MIT */
#include "base/mutation.h"

#ifdef GF_INVARIANTS

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Made by the linker; absent when the program has none. */
extern const struct mutation *const __start_gf_mutations[] __attribute__((weak));
extern const struct mutation *const __stop_gf_mutations[] __attribute__((weak));

static const struct mutation *on;
static unsigned *reached;
static pthread_once_t once = PTHREAD_ONCE_INIT;

const struct mutation *const *mutation_list(unsigned *count)
{
	*count = (unsigned)(__stop_gf_mutations - __start_gf_mutations);
	return __start_gf_mutations;
}

static void read_environment(void)
{
	const char *name = getenv("GF_MUTATION");
	const struct mutation *const *list;
	unsigned count;

#ifndef GF_MUTATIONS
	/* Not what somebody's environment happens to say. */
	name = NULL;
#endif
	if (!name || !*name)
		return;
	list = mutation_list(&count);
	for (unsigned i = 0; i < count; i++)
		if (strcmp(list[i]->name, name) == 0)
			on = list[i];
	/* Not every program has every place. */
	if (!on)
		fprintf(stderr, "there is no mutation \"%s\" in this program\n", name);
}

void mutation_turn_on(const struct mutation *m)
{
	pthread_once(&once, read_environment);
	on = m;
}

void mutation_count_in(unsigned *counts)
{
	reached = counts;
}

bool mutation_is_on(const struct mutation *m)
{
	pthread_once(&once, read_environment);
	if (reached) {
		unsigned count;
		const struct mutation *const *list = mutation_list(&count);

		for (unsigned i = 0; i < count; i++)
			if (list[i] == m)
				__atomic_fetch_add(&reached[i], 1, __ATOMIC_RELAXED);
	}
	return m == on;
}

#else
/* Nothing: a translation unit must not be empty. */
extern int mutation_none;
#endif
