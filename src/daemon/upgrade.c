/* SPDX-License-Identifier: MIT */
/* See upgrade.h. */
#include "daemon/upgrade.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/times.h"
#include "daemon/failure.h"

#define SECOND_NS INT64_C(1000000000)
#define PROBE_SECONDS 10
#define FINISH_SECONDS 1
#define TRY_SECONDS 10

void upgrade_init(struct upgrade *up, struct handover *handover)
{
	*up = (struct upgrade){.candidate = {.fd = -1}, .former = {.fd = -1}, .output = -1,
		.handover = handover};
}

/* Says in the handover memory, and in the log, how it stands. */
__attribute__((format(printf, 3, 4))) static void note(struct upgrade *up, const char *state,
	const char *fmt, ...)
{
	char text[HANDOVER_TEXT_MAX], message[440];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(message, sizeof(message), fmt, ap);
	va_end(ap);
	snprintf(text, sizeof(text), "%" PRIu64 " %s %s\n%s", up->ticket, state, up->version,
		message);
	handover_set_upgrade(up->handover, text);
	if (strcmp(state, UPGRADE_REFUSED) == 0 || strcmp(state, UPGRADE_REVERTED) == 0)
		log_warning("upgrade: %s", message);
	else
		log_info("upgrade: %s", message);
}

static void end(struct upgrade *up)
{
	program_close(&up->candidate);
	program_close(&up->former);
	if (up->output >= 0)
		close(up->output);
	up->output = -1;
	up->probe = 0;
	up->deadline_ns = 0;
	up->step = UPGRADE_NONE;
}

static void refuse(struct upgrade *up, const char *path, const char *reason)
{
	note(up, UPGRADE_REFUSED, "\"%.200s\" cannot take over: %.180s; nothing was interrupted",
		path, reason);
	end(up);
}

/* Whether the file that current was started from is another one by now. */
static bool was_replaced(const struct program *current)
{
	struct program now;
	bool other;

	if (program_open(&now, current->path) < 0)
		return false;
	other = !program_same(&now, current);
	program_close(&now);
	return other;
}

static void start_probe(struct upgrade *up, const struct mount_config *config)
{
	int pipefd[2];
	pid_t pid;

	if (pipe2(pipefd, O_CLOEXEC | O_NONBLOCK) < 0) {
		refuse(up, up->candidate.path, why(-errno));
		return;
	}
	pid = program_start_probe(&up->candidate, config, pipefd[1]);
	close(pipefd[1]);
	up->output = pipefd[0];
	if (pid < 0) {
		refuse(up, up->candidate.path, why(pid));
		return;
	}
	up->probe = pid;
	up->step = UPGRADE_PROBING;
	up->deadline_ns = times_now(CLOCK_MONOTONIC) + PROBE_SECONDS * SECOND_NS;
}

void upgrade_request(struct upgrade *up, const struct program *current,
	const struct mount_config *config, const char *request)
{
	CLEANUP_FREE char *copy = strdup(request);
	char *rest = copy;
	const char *ticket = copy ? strsep(&rest, "\n") : NULL;
	const char *binary = rest ? strsep(&rest, "\n") : "";
	const char *own = rest ? strsep(&rest, "\n") : "";
	int r;

	if (!ticket || up->step != UPGRADE_NONE)
		return;
	up->ticket = strtoull(ticket, NULL, 10);
	if (!*binary)
		binary = was_replaced(current) || !*own ? current->path : own;
	note(up, UPGRADE_RUNNING, "asking \"%.300s\"", binary);
	r = program_open(&up->candidate, binary);
	if (r == -EPERM)
		refuse(up, binary, "it must belong to root and be writable by nobody else");
	else if (r < 0)
		refuse(up, binary, why(r));
	/* The worker asks on behalf of others, and it must not run as us what it wrote itself. */
	else if (program_is_below(&up->candidate, config->store) ||
		 program_is_below(&up->candidate, config->images))
		refuse(up, binary, "a program in the store or among the images is not run");
	else
		start_probe(up, config);
}

/* The first line that the probe said; empty: nothing. */
static void read_answer(const struct upgrade *up, char *text, size_t size)
{
	ssize_t n = read(up->output, text, size - 1);

	text[n > 0 ? n : 0] = '\0';
	text[strcspn(text, "\n")] = '\0';
}

bool upgrade_probe_ended(struct upgrade *up, pid_t pid, int status, int64_t now_ns)
{
	static const char lead[] = "goldfs: ";
	char said[512];
	const char *reason = said;

	if (!up->probe || pid != up->probe)
		return false;
	kill(-up->probe, SIGKILL); /* whom it may have started */
	read_answer(up, said, sizeof(said));
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0 &&
		strncmp(said, WORKER_INTERFACE, strlen(WORKER_INTERFACE)) == 0) {
		close(up->output);
		up->output = -1;
		up->probe = 0;
		up->step = UPGRADE_REPLACING;
		up->deadline_ns = now_ns + FINISH_SECONDS * SECOND_NS;
		return true;
	}
	if (strncmp(said, lead, strlen(lead)) == 0)
		reason += strlen(lead);
	if (WIFSIGNALED(status) && now_ns >= up->deadline_ns)
		reason = "it did not answer";
	else if (WIFSIGNALED(status))
		reason = "it crashes when it is started";
	else if (WEXITSTATUS(status) == 0 || !*reason)
		reason = "it is no goldfs that can";
	refuse(up, up->candidate.path, reason);
	return true;
}

bool upgrade_expired(struct upgrade *up, int64_t now_ns)
{
	if (!up->deadline_ns || now_ns < up->deadline_ns)
		return false;
	if (up->step == UPGRADE_PROBING) {
		kill(-up->probe, SIGKILL); /* its end is the answer */
		kill(up->probe, SIGKILL);
		return false;
	}
	return up->step == UPGRADE_REPLACING || up->step == UPGRADE_TRYING;
}

static void move_program(struct program *to, struct program *from)
{
	*to = *from;
	from->fd = -1;
}

bool upgrade_worker_ended(struct upgrade *up, struct program *current, const char *how,
	int64_t now_ns)
{
	switch (up->step) {
	case UPGRADE_REPLACING:
		move_program(&up->former, current);
		move_program(current, &up->candidate);
		up->step = UPGRADE_TRYING;
		up->deadline_ns = now_ns + TRY_SECONDS * SECOND_NS;
		return true;
	case UPGRADE_TRYING:
		snprintf(up->reason, sizeof(up->reason),
			"\"%.200s\" did not come to serve (%s)", current->path,
			now_ns >= up->deadline_ns ? "it took too long" : how);
		program_close(current);
		move_program(current, &up->former);
		up->step = UPGRADE_REVERTING;
		up->deadline_ns = 0;
		return true;
	default:
		return false;
	}
}

void upgrade_serving(struct upgrade *up, const char *version)
{
	snprintf(up->version, sizeof(up->version), "%s", version);
	up->version[strcspn(up->version, " \n")] = '\0';
	if (up->step == UPGRADE_TRYING) {
		note(up, UPGRADE_DONE, "version %s serves now", up->version);
		end(up);
	} else if (up->step == UPGRADE_REVERTING) {
		note(up, UPGRADE_REVERTED, "%s; version %s serves again", up->reason, up->version);
		end(up);
	}
}
