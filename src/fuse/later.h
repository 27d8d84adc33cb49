/* SPDX-License-Identifier: MIT */
/*
 * Answers that are given a little later.
 *
 * A client that writes faster than blocks get to their place is held back (store/throttle.h), by the
 * answer to what it wrote: so no thread waits, and requests of others are served meanwhile. Answers
 * are given in the order in which they were put off, by a thread of their own. While any is owed the others
 * are to go behind it: a write that was not answered is carried out again when the worker dies, and must not
 * come after a later one that was.
 */
#ifndef GOLDFS_FUSE_LATER_H
#define GOLDFS_FUSE_LATER_H

#include <stdbool.h>
#include <stdint.h>

struct later;

/* Returns 0 or -errno. answer(arg, unique, n) is called once for each that was put off. */
int later_new(struct later **later, void (*answer)(void *arg, uint64_t unique, int64_t n), void *arg);
/* Gives all answers that are owed, at once. NULL is allowed. */
void later_free(struct later *later);
/* Whether any is owed: what is given at once would come before it. */
bool later_owes(const struct later *later);
/* unique: the number of the request that is answered. ns: from now on. -ENOMEM: it was not put off. */
int later_add(struct later *later, uint64_t unique, int64_t n, int64_t ns);

#endif
