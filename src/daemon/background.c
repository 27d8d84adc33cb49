/* SPDX-License-Identifier: MIT */
/*
 * See background.h. The child talks over a pipe: a first byte says that the mount serves, with a
 * warning behind it if there is one; anything else is the text of what failed, and nothing means
 * that it died. The parent reads to the end, so the child keeps no copy of it open once it is
 * ready, and hands none to a process that it starts.
 */
#include "daemon/background.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#define READY '\1'

static void be_child(int pipe_in)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	close(pipe_in);
	setsid();
	if (null >= 0) {
		dup2(null, STDIN_FILENO);
		dup2(null, STDOUT_FILENO);
		close(null);
	}
}

static void wait_for_child(int pipe_in, pid_t pid, struct failure *failure)
{
	char text[sizeof(failure->text)];
	size_t len = 0;
	ssize_t n;
	int status = 0;

	while (len + 1 < sizeof(text)) {
		n = read(pipe_in, text + len, sizeof(text) - 1 - len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			break;
		len += (size_t)n;
	}
	text[len] = '\0';
	if (text[0] == READY) {
		if (text[1])
			fprintf(stderr, "goldfs: warning: %s\n", text + 1);
		return;
	}
	if (len) {
		fail(failure, -EIO, "%s", text);
		return;
	}
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (WIFSIGNALED(status))
		fail(failure, -EIO, "the daemon was killed by signal %d while it started",
			WTERMSIG(status));
	else
		fail(failure, -EIO, "the daemon ended while it started");
}

bool background_enter(int *report, struct failure *failure)
{
	int pipefd[2];
	pid_t pid;

	if (pipe2(pipefd, O_CLOEXEC) < 0) {
		fail(failure, -errno, "cannot make a pipe: %s", why(-errno));
		return false;
	}
	pid = fork();
	if (pid == 0) {
		be_child(pipefd[0]);
		*report = pipefd[1];
		return true;
	}
	close(pipefd[1]);
	if (pid < 0)
		fail(failure, -errno, "cannot start a process: %s", why(-errno));
	else
		wait_for_child(pipefd[0], pid, failure);
	close(pipefd[0]);
	return false;
}

static void say(int report, const char *text, size_t len)
{
	ssize_t n;

	if (report < 0)
		return;
	n = write(report, text, len);
	(void)n; /* the parent is gone; nobody is left to tell */
	close(report);
}

void background_ready(int report, const char *warning)
{
	char text[sizeof(((struct failure *)NULL)->text)];
	int len = snprintf(text, sizeof(text), "%c%s", READY, warning);

	say(report, text, (size_t)len);
}

void background_failed(int report, const struct failure *failure)
{
	say(report, failure->text, strlen(failure->text));
}
