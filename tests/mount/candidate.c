/* SPDX-License-Identifier: MIT */
/*
 * A program that goldfs upgrade must not fall for. What it does is said by the name of its file:
 *
 *	exit		ends with status 1, whatever it is asked
 *	silent		ends with status 0 without an answer
 *	crash		aborts
 *	hang		sleeps
 *	format		knows another format of stores, as its probe says
 *	late-exit, late-crash, late-hang	answers the probe well, and fails when it is to serve
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

static void fail_as(const char *how)
{
	const struct rlimit none = {0, 0};

	setrlimit(RLIMIT_CORE, &none);
	if (strcmp(how, "crash") == 0)
		abort();
	if (strcmp(how, "hang") == 0)
		for (;;)
			pause();
	exit(strcmp(how, "silent") != 0);
}

int main(int argc, char **argv)
{
	char path[4096] = "";
	const char *name;

	if (readlink("/proc/self/exe", path, sizeof(path) - 1) < 0)
		return 1;
	name = strrchr(path, '/') + 1;
	if (strncmp(name, "late-", 5) != 0 && strcmp(name, "format") != 0)
		fail_as(name);
	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], "--probe") != 0)
			continue;
		if (strcmp(name, "format") == 0) {
			fputs("goldfs: it cannot read the format of store \"x\"\n", stderr);
			return 1;
		}
		puts("goldfs-worker 1 9.9.9");
		return 0;
	}
	fail_as(name + 5);
}
