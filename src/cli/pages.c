/* SPDX-License-Identifier: MIT */
/* See the header. */
#include "cli/pages.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "cli/message.h"
#include "cli/verbs.h"
#include "service/names.h"

static int open_any(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

	return fd < 0 && errno == EACCES ? open(path, O_WRONLY | O_CLOEXEC | O_NONBLOCK) : fd;
}

int pages_write_back(const char *path)
{
	const unsigned flags = SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE |
			       SYNC_FILE_RANGE_WAIT_AFTER;
	CLEANUP_CLOSE int fd = open_any(path);
	struct statx stx;

	/* What kind of file it is the kernel knows without asking anybody. */
	if (fd < 0 || statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_TYPE, &stx) < 0 ||
		!S_ISREG(stx.stx_mode))
		return EXIT_DONE; /* the daemon will say what is wrong with it */
	if (sync_file_range(fd, 0, 0, flags) < 0 && errno != EROFS && errno != EBADF)
		return cli_fail("cannot write back \"%s\": %s", path, cli_reason(errno));
	return EXIT_DONE;
}

void pages_drop(const char *path)
{
	int fd = open_any(path);

	if (fd >= 0)
		close(fd);
}

void pages_look(const char *mountpoint, const char *name)
{
	CLEANUP_FREE char *path = NULL;
	struct stat st;

	if (asprintf(&path, "%s/%s", mountpoint, name) < 0)
		path = NULL;
	else
		(void)lstat(path, &st);
}

void pages_forget(const char *mountpoint, const json_t *reply)
{
	const json_t *value;
	size_t i;

	json_array_foreach (json_object_get(reply, "gone"), i, value) {
		const char *name = json_string_value(value);
		CLEANUP_FREE char *bytes = NULL;

		if (!name)
			continue;
		pages_look(mountpoint, name);
		/* It may be escaped: nothing says that, and asking for a name does no harm. */
		bytes = strchr(name, '%') ? name_unescape(name) : NULL;
		if (bytes)
			pages_look(mountpoint, bytes);
	}
}
