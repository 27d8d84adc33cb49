/* SPDX-License-Identifier: MIT */
/*
 * Feeds files to a harness, without libFuzzer: what was found once is looked at by every compiler.
 *
 * usage: fuzz_NAME [FILE|FOLDER]...     (corpus/NAME, seen from the top folder, when none is named)
 */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fuzz.h"

static int files;

static int feed_file(const char *path)
{
	FILE *file = fopen(path, "re");
	uint8_t *bytes = NULL;
	struct stat st;
	size_t len = 0;

	if (!file || fstat(fileno(file), &st) < 0) {
		fprintf(stderr, "cannot open \"%s\": %s\n", path, strerror(errno));
		exit(1);
	}
	/* Of exactly this length, so that a sanitizer sees a read past the end. */
	bytes = malloc(st.st_size ? (size_t)st.st_size : 1);
	if (bytes)
		len = fread(bytes, 1, (size_t)st.st_size, file);
	fclose(file);
	/* The last line of the output names the input, should the program end here. */
	printf("%s\n", path);
	fflush(stdout);
	LLVMFuzzerTestOneInput(bytes, len);
	free(bytes);
	return ++files;
}

static void feed(const char *path)
{
	struct dirent **entries;
	struct stat st;
	int count;

	if (stat(path, &st) == 0 && !S_ISDIR(st.st_mode)) {
		feed_file(path);
		return;
	}
	count = scandir(path, &entries, NULL, alphasort);
	if (count < 0) {
		fprintf(stderr, "cannot list \"%s\": %s\n", path, strerror(errno));
		exit(1);
	}
	for (int i = 0; i < count; i++) {
		char full[4096];

		snprintf(full, sizeof(full), "%s/%s", path, entries[i]->d_name);
		if (entries[i]->d_name[0] != '.')
			feed_file(full);
		free(entries[i]);
	}
	free(entries);
}

int main(int argc, char **argv)
{
	const char *name = strstr(argv[0], "fuzz_");
	char corpus[256];

	alarm(100); /* what hangs is a finding too */
	if (argc > 1) {
		for (int i = 1; i < argc; i++)
			feed(argv[i]);
	} else {
		for (const char *next = name; next && (next = strstr(next + 1, "fuzz_"));)
			name = next;
		snprintf(corpus, sizeof(corpus), "tests/fuzz/corpus/%s", name ? name + 5 : "");
		feed(corpus);
	}
	printf("%d inputs\n", files);
	return files ? 0 : 1;
}
