/* SPDX-License-Identifier: MIT */
/* Commands that the user wants around an instant: a guest's file systems are frozen, and thawed. */
#ifndef GOLDFS_CLI_HOOKS_H
#define GOLDFS_CLI_HOOKS_H

#include <signal.h>

struct hooks {
	const char *freeze; /* shell commands; NULL: none */
	const char *thaw;
	struct sigaction old[4];
};

/* Runs the first one. From here on signals that end a command do not end this one, so that
 * hooks_end(), which must follow whatever this returns, runs the other. Returns an exit status. */
int hooks_begin(struct hooks *hooks);
/* Returns status, or a failure when it was none and the command fails. */
int hooks_end(struct hooks *hooks, int status);

#endif
