/* SPDX-License-Identifier: MIT */
/*
 * A process that works on one pin for the daemon: a copy, the sums, or the content index.
 *
 * Gigabytes that are read once should neither fill the daemon's turn with work nor show up as what
 * the daemon did for its clients, so they are read by a child at idle priority. It is a fork without
 * a new program: the daemon may not run programs (daemon/privileges.h). Of the parent's threads it
 * has none, so it may take no lock that one of them could have held: it uses image/pin.h and
 * store/content_index.h with an I/O table of its own, the allocator and the log, which both know of
 * forks, and nothing else.
 */
#ifndef GOLDFS_CORE_PIN_PROCESS_H
#define GOLDFS_CORE_PIN_PROCESS_H

#include <stdatomic.h>
#include <stdint.h>
#include <sys/types.h>

struct pin_print;

enum pin_process_work { PIN_PROCESS_COPY, PIN_PROCESS_SUMS, PIN_PROCESS_INDEX };

/* How far it is, in memory that both processes share. Bytes; total 0: not known yet. */
struct pin_progress {
	_Atomic uint64_t done;
	_Atomic uint64_t total;
};

/* NULL: no memory. */
struct pin_progress *pin_progress_new(void);
void pin_progress_free(struct pin_progress *progress);

/* What is to be done; everything is lent. */
struct pin_process {
	enum pin_process_work work;
	int store_fd;
	uint64_t id;
	int source_fd;
	const uint8_t *secret;	       /* PIN_PROCESS_INDEX; of the store */
	const struct pin_print *print; /* PIN_PROCESS_INDEX; what the image is known by */
	unsigned hash_bits; /* PIN_PROCESS_INDEX; see struct fs_options */
	struct pin_progress *progress;
};

/* Starts it. It ends with the calling thread. Returns the process, whose exit status is 0 or an
 * errno, or -errno. */
pid_t pin_process_start(const struct pin_process *process);
/* Does the work here. cancel: non-zero ends it with -ECANCELED. 0 or -errno. */
int pin_process_run(const struct pin_process *process, int (*cancel)(void *arg), void *arg);

#endif
