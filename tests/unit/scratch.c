/* SPDX-License-Identifier: MIT */
/* Folders for tests, below TMPDIR, with random names: tests may run side by side. */
#include "scratch.h"

#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static void die(const char *what)
{
	perror(what);
	abort();
}

void scratch_init(struct scratch *scratch)
{
	const char *tmp = getenv("TMPDIR");

	snprintf(scratch->path, sizeof(scratch->path), "%s/goldfs-test.XXXXXX",
		tmp && *tmp ? tmp : "/tmp");
	if (!mkdtemp(scratch->path))
		die(scratch->path);
	if (chmod(scratch->path, 0755) < 0)
		die(scratch->path);
	scratch->dirfd = open(scratch->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (scratch->dirfd < 0)
		die(scratch->path);
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

void scratch_release(struct scratch *scratch)
{
	close(scratch->dirfd);
	if (nftw(scratch->path, remove_one, 16, FTW_DEPTH | FTW_PHYS) < 0)
		die(scratch->path);
}

int scratch_open(struct scratch *scratch, const char *name, int flags)
{
	int fd = openat(scratch->dirfd, name, flags | O_CLOEXEC, 0644);

	if (fd < 0)
		die(name);
	return fd;
}

uint8_t scratch_byte(uint64_t off, unsigned seed)
{
	uint64_t v = (off + 1) * UINT64_C(0x9e3779b97f4a7c15) ^ seed * UINT64_C(0xd1b54a32d192ed03);

	v ^= v >> 29;
	return (uint8_t)(v * 31 >> 7 | 1);
}

void scratch_fill(struct scratch *scratch, const char *name, size_t len, unsigned seed)
{
	int fd = scratch_open(scratch, name, O_WRONLY | O_CREAT | O_TRUNC);
	uint8_t *buf = malloc(len + 1);
	size_t i;

	if (!buf)
		die("malloc");
	for (i = 0; i < len; i++)
		buf[i] = scratch_byte(i, seed);
	if (write(fd, buf, len) != (ssize_t)len)
		die(name);
	free(buf);
	close(fd);
}
