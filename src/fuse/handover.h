/* SPDX-License-Identifier: MIT */
/*
 * What a worker process leaves to its successor: memory that outlives both.
 *
 * The supervisor makes it with the mount and keeps it as long; it is a memfd that every worker of
 * the mount maps. It holds what the kernel believes about us and the store does not know: what was
 * agreed on at INIT, and which files are open. The rest of what a successor needs stands in the
 * store, or is made up for (fuse/takeover.c, core/takeover.c).
 *
 * A worker may die between any two instructions. So everything here counts by a single store that
 * is made last: an entry is filled and then said to be there, and whoever finds it unsaid finds
 * nothing. There is no lock in it that a dead process could hold.
 *
 * A binary that is newer or older than the one that made it reads the layout's version first and
 * refuses what it does not know: an upgrade in place then ends with the old worker serving again.
 * The layout is fixed as a whole by that number; it is memory of one machine, so fields have the
 * machine's own form.
 *
 * Threads: figures, agreement and text are written by one thread at a time; handles by any.
 */
#ifndef GOLDFS_FUSE_HANDOVER_H
#define GOLDFS_FUSE_HANDOVER_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/in_flight.h"

struct handover;

#define FUSE_AGREEMENT_INIT_MAX 256

/* What was agreed on with the kernel when the connection was made. */
struct fuse_agreement {
	uint32_t kernel_minor;
	uint64_t kernel_flags; /* what the kernel offered */
	uint64_t flags;	       /* what was agreed */
	uint32_t max_write;
	uint32_t init_len; /* of the raw INIT request, header included */
	unsigned char init[FUSE_AGREEMENT_INIT_MAX];
};

/* Whether the kernel (6.10 and newer) sends again what a dead worker did not answer. */
bool fuse_agreement_can_resend(const struct fuse_agreement *agreement);

/* Written by the supervisor, but for the last, and read by workers for their figures. */
struct handover_figures {
	_Atomic uint32_t supervisor_pid;
	_Atomic uint32_t restarts; /* workers that followed another one */
	_Atomic uint64_t last_pause_ms; /* from the death of a worker until its successor served */
	_Atomic int64_t mounted_ns; /* since 1970 */
	_Atomic uint64_t last_job;  /* the highest id that a worker gave to a job; by workers */
};

#define HANDOVER_TEXT_MAX 512

/* Makes the memory for a new mount. Returns its descriptor (close-on-exec), or -errno. */
int handover_create(void);
/* Maps it; fd stays the caller's, and must stay open. -EPROTONOSUPPORT: made by a goldfs that lays
 * it out differently. -EUCLEAN: not handover memory. */
int handover_open(struct handover **handover, int fd);
void handover_close(struct handover *handover);

/* A random number that is never 0: the mount's, the same for all of its workers. */
uint64_t handover_connection(const struct handover *handover);
struct handover_figures *handover_figures(struct handover *handover);
/* The core's, see there. */
struct in_flight *handover_in_flight(struct handover *handover);
/* How the last upgrade ended, for who asked for it; "": there was none. Cut at the maximum. */
void handover_set_upgrade(struct handover *handover, const char *text);
void handover_upgrade(struct handover *handover, char text[HANDOVER_TEXT_MAX]);

void handover_set_agreement(struct handover *handover, const struct fuse_agreement *agreement);
/* False: INIT was not answered yet. */
bool handover_agreement(const struct handover *handover, struct fuse_agreement *agreement);

/*
 * Open files. A handle is what the kernel calls fh. It is entered before the answer to the OPEN
 * that makes it is written, with that request's number, and ends before the RELEASE is answered:
 * either of them may come again to a successor.
 */
struct handover_handle {
	uint64_t fh;
	uint64_t ino;
	uint64_t unique; /* of the request that opened it */
	uint32_t flags;	 /* O_* */
	bool sure;	 /* the answer to that request was written */
};

/* 0, or -ENFILE, -ENOMEM. */
int handover_handle_new(struct handover *handover, uint64_t ino, uint32_t flags, uint64_t unique,
	uint64_t *fh);
/* The kernel has been told of it. */
void handover_handle_sure(struct handover *handover, uint64_t fh);
/* Ends it. False: there is no such handle of this inode; *flags is what it was opened with. */
bool handover_handle_end(struct handover *handover, uint64_t fh, uint64_t ino, uint32_t *flags);
/* The handle that an earlier process made for a request. Looks at all of them. */
bool handover_handle_of(struct handover *handover, uint64_t unique, struct handover_handle *handle);
/* Calls cb for each handle; cb may end the one that it is given, no other. */
void handover_handles_each(struct handover *handover,
	void (*cb)(void *arg, const struct handover_handle *handle), void *arg);

/*
 * Notes of the core, kept as they come (core/notes.c). urgent ones may take the last of the room.
 * 0 or -ENOSPC.
 */
int handover_note(struct handover *handover, const void *bytes, size_t len, bool urgent);
/* All of them; they stay where they are. */
const void *handover_notes(struct handover *handover, size_t *len);

#endif
