/* SPDX-License-Identifier: MIT */
/*
 * goldfs resize: truncate(2) with the manners of a tool for disks. Shrinking throws data away and
 * asks for --force; no request is needed, the file is the user's own.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/sizes.h"
#include "cli/client.h"
#include "cli/message.h"
#include "cli/verbs.h"

#define SIZE_LIMIT (16 * TIB)

/* "10G", "+10G" or "-10G" applied to size. */
static bool new_size(const char *text, uint64_t size, uint64_t *result)
{
	char sign = *text == '+' || *text == '-' ? *text : 0;
	uint64_t bytes;

	if (size_parse(text + (sign != 0), &bytes) < 0 || bytes > SIZE_LIMIT)
		return false;
	if (sign == '-' && bytes > size)
		return false;
	*result = sign == '+' ? size + bytes : sign == '-' ? size - bytes : bytes;
	return *result <= SIZE_LIMIT;
}

static int resize(const char *path, const char *text, bool force)
{
	CLEANUP_CLOSE int fd = -1;
	struct place place;
	uint64_t size;
	struct stat st;
	int r = place_find(path, &place);

	if (r != EXIT_DONE)
		return r;
	place_release(&place);
	fd = open(path, O_WRONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0 || fstat(fd, &st) < 0)
		return cli_fail("cannot open \"%s\": %s", path, cli_reason(errno));
	if (!new_size(text, (uint64_t)st.st_size, &size))
		return cli_usage("resize", "\"%s\" is no size that \"%s\" can have", text, path);
	if (size < (uint64_t)st.st_size && !force)
		return cli_fail("\"%s\" would shrink and lose data, --force does it", path);
	if (ftruncate(fd, (off_t)size) < 0 || fsync(fd) < 0)
		return cli_fail("cannot resize \"%s\": %s", path, cli_reason(errno));
	return EXIT_DONE;
}

int verb_resize(int argc, char **argv)
{
	bool force = false;

	/* Not getopt: "-10G" is a size. */
	while (argc > 1 && argv[1][0] == '-' && argv[1][1] == '-') {
		char *option = argv[1];

		argv++;
		argc--;
		if (!option[2])
			break;
		if (strcmp(option, "--force") != 0)
			return cli_usage("resize", "unknown option \"%s\"", option);
		force = true;
	}
	if (argc == 4 && strcmp(argv[3], "--force") == 0) {
		force = true;
		argc--;
	}
	if (argc != 3)
		return cli_usage("resize", "a clone and a size are needed");
	return resize(argv[1], argv[2], force);
}
