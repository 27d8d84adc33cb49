/* SPDX-License-Identifier: MIT */
/*
 * goldfs upgrade, as the supervisor sees it: the steps from one program to another.
 *
 *	NONE		nothing to do
 *	PROBING		the candidate is asked whether it could serve this mount; the mount is served
 *	REPLACING	it could: the worker was told to finish, and is killed when it takes long
 *	TRYING		the candidate has taken over and does not serve yet
 *	REVERTING	it did not: the former program is started again
 *
 * A candidate that fails its probe interrupts nothing. One that fails afterwards costs a pause, as
 * a crash does, and no error. What became of it stands in the handover memory, for the command that asked.
 */
#ifndef GOLDFS_DAEMON_UPGRADE_H
#define GOLDFS_DAEMON_UPGRADE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "daemon/program.h"
#include "fuse/handover.h"

enum upgrade_step {
	UPGRADE_NONE,
	UPGRADE_PROBING,
	UPGRADE_REPLACING,
	UPGRADE_TRYING,
	UPGRADE_REVERTING,
};

struct upgrade {
	enum upgrade_step step;
	struct program candidate;
	struct program former;
	pid_t probe;	  /* 0: none */
	int output;	  /* what it says; -1: none */
	int64_t deadline_ns; /* of the step; 0: none */
	struct handover *handover; /* lent; where the outcome stands */
	uint64_t ticket;	   /* of the request */
	char version[32];	   /* that serves, or served last */
	char reason[400];	   /* why the candidate was given up */
};

/*
 * The outcome, as text for handover_set_upgrade(): "TICKET STATE VERSION", a newline, a message.
 * STATE is one of these.
 */
#define UPGRADE_RUNNING "running"
#define UPGRADE_DONE "done"
#define UPGRADE_REFUSED "refused"
#define UPGRADE_REVERTED "reverted"

void upgrade_init(struct upgrade *up, struct handover *handover);
/* "TICKET\nBINARY\nOWN", either of which may be empty. Starts the probe. */
void upgrade_request(struct upgrade *up, const struct program *current,
	const struct mount_config *config, const char *request);
/* Whether pid was the probe. Then the step is REPLACING, and the worker is to be told, or NONE. */
bool upgrade_probe_ended(struct upgrade *up, pid_t pid, int status, int64_t now_ns);
/* The step took too long. Whether the worker is to be killed for it. */
bool upgrade_expired(struct upgrade *up, int64_t now_ns);
/* The worker is gone: chooses the program that is started next. Whether that was part of it. */
bool upgrade_worker_ended(struct upgrade *up, struct program *current, const char *how,
	int64_t now_ns);
/* A worker of this version serves. */
void upgrade_serving(struct upgrade *up, const char *version);

#endif
