/* SPDX-License-Identifier: MIT */
/*
 * The daemon's log, and the one error convention: functions return 0 (or a count) or a negative
 * errno. log_error() returns the error it logs, so that `return log_error(-EIO, ...)` reads well.
 *
 * Messages are lower case, name their subject in quotes and carry no full stop. The command line
 * does not use this file: it prints to stderr itself.
 */
#ifndef GOLDFS_BASE_LOG_H
#define GOLDFS_BASE_LOG_H

#include <sys/types.h>

enum log_target { LOG_TO_STDERR, LOG_TO_SYSLOG, LOG_TO_FILE };

/* Chooses where messages go; path is used for LOG_TO_FILE only. Returns 0 or -errno. */
int log_open(enum log_target target, const char *path);
void log_close(void);
/* fork(2) at a moment when no other thread is writing to the log, so that the child can. */
pid_t log_fork(void);

/* err is a negative errno, appended as text when not 0; returned as it is. */
int log_error(int err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void log_warning(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void log_info(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* From now on messages of the calling thread go to sink and nowhere else; NULL ends that. For those
 * who report what they find in a way of their own. */
void log_divert(void (*sink)(void *arg, const char *text), void *arg);

#endif
