/* SPDX-License-Identifier: MIT */
/*
 * The log: one message is one line, written by one call.
 *
 * Until log_open() says otherwise messages go to stderr, so that a failing start is seen. A log
 * file is opened for appending and each line is a single write(2), so supervisor and worker may
 * share it. Messages carry names that users chose: control characters in them are written as \ooo,
 * for a file name must not be able to forge a line of the log or drive a terminal.
 *
 * The mutex protects the target and the file; log_open() may replace them at any time (rotation).
 * A message never changes errno.
 */
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <syslog.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/text.h"

#define LINE_MAX_BYTES 4096

static pthread_mutex_t log_lock = PTHREAD_MUTEX_INITIALIZER;
static enum log_target log_to = LOG_TO_STDERR; /* under log_lock */
static int log_fd = -1;			       /* under log_lock; the file's */

/* Of this thread: where its messages go instead. */
static __thread void (*divert_sink)(void *arg, const char *text);
static __thread void *divert_arg;

void log_divert(void (*sink)(void *arg, const char *text), void *arg)
{
	divert_sink = sink;
	divert_arg = arg;
}

static void close_locked(void)
{
	if (log_to == LOG_TO_SYSLOG)
		closelog();
	if (log_fd >= 0)
		close(log_fd);
	log_fd = -1;
	log_to = LOG_TO_STDERR;
}

int log_open(enum log_target target, const char *path)
{
	int fd = -1;

	if (target == LOG_TO_FILE) {
		fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY, 0600);
		if (fd < 0)
			return -errno;
	}
	MUTEX_GUARD(&log_lock);
	close_locked();
	if (target == LOG_TO_SYSLOG)
		openlog("goldfs", LOG_PID, LOG_DAEMON);
	log_to = target;
	log_fd = fd;
	return 0;
}

void log_close(void)
{
	MUTEX_GUARD(&log_lock);
	close_locked();
}

pid_t log_fork(void)
{
	MUTEX_GUARD(&log_lock);
	return fork();
}

/* Copies text to buf as one printable line; returns its length. */
static size_t one_line(char *buf, size_t size, const char *text)
{
	size_t n = 0;

	while (*text && n + 5 < size) {
		size_t shown = text_shown(text);

		if (shown)
			memcpy(buf + n, text, shown);
		else
			snprintf(buf + n, size - n, "\\%03o", (unsigned char)*text);
		n += shown ? shown : 4;
		text += shown ? shown : 1;
	}
	buf[n] = '\0';
	return n;
}

/* "2026-01-31T12:00:00.123Z " */
static size_t timestamp(char *buf, size_t size)
{
	struct timespec now;
	struct tm tm;
	size_t n;

	clock_gettime(CLOCK_REALTIME, &now);
	gmtime_r(&now.tv_sec, &tm);
	n = strftime(buf, size, "%Y-%m-%dT%H:%M:%S", &tm);
	return n + (size_t)snprintf(buf + n, size - n, ".%03ldZ ", now.tv_nsec / 1000000);
}

static void write_line(int fd, const char *line, size_t len)
{
	ssize_t n = write(fd, line, len);

	(void)n; /* nowhere is left to say so */
}

static void put(int priority, const char *level, const char *text)
{
	char line[LINE_MAX_BYTES];
	size_t n = 0;

	if (divert_sink) {
		divert_sink(divert_arg, text);
		return;
	}
	MUTEX_GUARD(&log_lock);
	if (log_to == LOG_TO_SYSLOG) {
		one_line(line, sizeof(line), text);
		syslog(priority, "%s%s", level, line);
		return;
	}
	if (log_to == LOG_TO_FILE)
		n = timestamp(line, sizeof(line));
	n += (size_t)snprintf(line + n, sizeof(line) - n, "goldfs: %s", level);
	n += one_line(line + n, sizeof(line) - n - 1, text);
	line[n++] = '\n';
	write_line(log_to == LOG_TO_FILE ? log_fd : STDERR_FILENO, line, n);
}

int log_error(int err, const char *fmt, ...)
{
	char text[LINE_MAX_BYTES];
	int saved = errno;
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (err && n >= 0 && (size_t)n < sizeof(text)) {
		const char *why = strerrordesc_np(-err);

		snprintf(text + n, sizeof(text) - (size_t)n, ": %s", why ? why : "unknown error");
	}
	put(LOG_ERR, "", text);
	errno = saved;
	return err;
}

void log_warning(const char *fmt, ...)
{
	char text[LINE_MAX_BYTES];
	int saved = errno;
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	put(LOG_WARNING, "warning: ", text);
	errno = saved;
}

void log_info(const char *fmt, ...)
{
	char text[LINE_MAX_BYTES];
	int saved = errno;
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	put(LOG_INFO, "", text);
	errno = saved;
}
