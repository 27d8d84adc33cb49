/* SPDX-License-Identifier: MIT */
/* See the header. */
#include "cli/hooks.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/sizes.h"
#include "cli/message.h"
#include "cli/verbs.h"

static const int held[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT};
_Static_assert(ARRAY_SIZE(held) == ARRAY_SIZE(((struct hooks *)0)->old), "a place for each");

static int run(const struct hooks *hooks, const char *what, const char *command)
{
	pid_t pid = fork();
	int status = 0;

	if (pid == 0) {
		for (size_t i = 0; i < ARRAY_SIZE(held); i++)
			sigaction(held[i], &hooks->old[i], NULL);
		execl("/bin/sh", "sh", "-c", command, (char *)NULL);
		_exit(127);
	}
	if (pid < 0)
		return cli_fail("cannot run the %s command: %s", what, cli_reason(errno));
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return cli_fail("cannot wait for the %s command: %s", what, cli_reason(errno));
	if (WIFSIGNALED(status))
		return cli_fail("the %s command was killed by signal %d", what, WTERMSIG(status));
	if (WEXITSTATUS(status) != 0)
		return cli_fail("the %s command failed with status %d", what, WEXITSTATUS(status));
	return EXIT_DONE;
}

int hooks_begin(struct hooks *hooks)
{
	struct sigaction ignore = {.sa_handler = SIG_IGN};

	if (!hooks->freeze && !hooks->thaw)
		return EXIT_DONE;
	for (size_t i = 0; i < ARRAY_SIZE(held); i++)
		sigaction(held[i], &ignore, &hooks->old[i]);
	return hooks->freeze ? run(hooks, "freeze", hooks->freeze) : EXIT_DONE;
}

int hooks_end(struct hooks *hooks, int status)
{
	int r = EXIT_DONE;

	if (!hooks->freeze && !hooks->thaw)
		return status;
	/* Also when the other one failed: it may have frozen some of what it was to. */
	if (hooks->thaw)
		r = run(hooks, "thaw", hooks->thaw);
	if (r != EXIT_DONE && status == EXIT_DONE)
		cli_fail("the snapshot is there all the same");
	for (size_t i = 0; i < ARRAY_SIZE(held); i++)
		sigaction(held[i], &hooks->old[i], NULL);
	return status != EXIT_DONE ? status : r;
}
