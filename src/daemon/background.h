/* SPDX-License-Identifier: MIT */
/* Going to the background without leaving before it is known how it went. */
#ifndef GOLDFS_DAEMON_BACKGROUND_H
#define GOLDFS_DAEMON_BACKGROUND_H

#include <stdbool.h>

#include "daemon/failure.h"

/*
 * Forks. In the child returns true and sets *report for the two calls below. In the parent waits
 * for one of them, sets failure when it was the second or the child ended without a word, and
 * returns false.
 */
bool background_enter(int *report, struct failure *failure);
/* warning: for the user, "" for none. */
void background_ready(int report, const char *warning);
void background_failed(int report, const struct failure *failure);

#endif
