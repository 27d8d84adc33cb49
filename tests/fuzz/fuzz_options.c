/* SPDX-License-Identifier: MIT */
/* The command line of mount: words, each ended by a NUL. Nothing is mounted. */
#include "daemon/daemon.h"

int no_daemon_run(struct mount_config *config, struct failure *failure);

#define daemon_run no_daemon_run
#include "cli/mount.c"
#undef daemon_run

#include "fuzz.h"

#define WORDS_MAX 12

int no_daemon_run(struct mount_config *config, struct failure *failure)
{
	(void)config;
	(void)failure;
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *words[WORDS_MAX + 2] = {(char *)"mount"};
	struct input in = {data, size};
	FILE *real = stderr, *swallow = fopen("/dev/null", "we");
	int count = 1;

	if (!swallow)
		return 0;
	while (in.left && count < WORDS_MAX)
		words[count++] = input_text(&in, 4096);
	optind = 0;
	stderr = swallow;
	verb_mount(count, words);
	stderr = real;
	fclose(swallow);
	while (count > 1)
		free(words[--count]);
	return 0;
}
