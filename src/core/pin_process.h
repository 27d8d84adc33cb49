/* SPDX-License-Identifier: MIT */
/*
 * The process that works on a pin for the daemon: what it is started with, and what it does.
 * goldfs pin-process copy|sums ID STORE_FD SOURCE_FD; not for people, so not in the help.
 */
#ifndef GOLDFS_CORE_PIN_PROCESS_H
#define GOLDFS_CORE_PIN_PROCESS_H

#define PIN_PROCESS_VERB "pin-process"
#define PIN_PROCESS_COPY "copy"
#define PIN_PROCESS_SUMS "sums"

/* argv as main() gets it. Returns the exit status: 0, or an errno. */
int pin_process_main(int argc, char **argv);

#endif
