/* SPDX-License-Identifier: MIT */
/* Real files for tests of the store; see the header. */
#include "store_dir.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void die(const char *what)
{
	perror(what);
	abort();
}

void store_dir_init(struct store_dir *dir)
{
	scratch_init(&dir->scratch);
	if (io_posix_new(&dir->io, dup(dir->scratch.dirfd)) < 0)
		die(dir->scratch.path);
	if (dir->io->ops->mkdir(dir->io, "layer") || dir->io->ops->mkdir(dir->io, "journal"))
		die(dir->scratch.path);
}

static int skip_fdatasync(struct io *io, int fd)
{
	(void)io;
	(void)fd;
	return 0;
}

static int skip_syncdir(struct io *io, const char *path)
{
	(void)io;
	(void)path;
	return 0;
}

void store_dir_skip_syncs(struct store_dir *dir)
{
	dir->ops = *dir->io->ops;
	dir->ops.fdatasync = skip_fdatasync;
	dir->ops.syncdir = skip_syncdir;
	dir->io->ops = &dir->ops;
}

void store_dir_release(struct store_dir *dir)
{
	dir->io->ops->free(dir->io);
	scratch_release(&dir->scratch);
}

void store_dir_flip(struct store_dir *dir, const char *path, uint64_t bit)
{
	int fd = scratch_open(&dir->scratch, path, O_RDWR);
	uint8_t byte;

	if (pread(fd, &byte, 1, (off_t)(bit / 8)) != 1)
		die(path);
	byte ^= (uint8_t)(1u << (bit % 8));
	if (pwrite(fd, &byte, 1, (off_t)(bit / 8)) != 1)
		die(path);
	close(fd);
}

struct data_sum {
	struct io *io;
	const char *folder;
	const char *suffix;
	uint64_t bytes;
	unsigned files;
};

static int add_file(void *arg, const char *name)
{
	struct data_sum *sum = arg;
	size_t len = strlen(name), suffix = strlen(sum->suffix);
	uint64_t at = 0, start, end;
	char path[512];
	int fd;

	if (len < suffix || strcmp(name + len - suffix, sum->suffix) != 0)
		return 0;
	snprintf(path, sizeof(path), "%s/%s", sum->folder, name);
	fd = sum->io->ops->open(sum->io, path, O_RDONLY);
	if (fd < 0)
		die(path);
	sum->files++;
	while (sum->io->ops->next_data(sum->io, fd, at, &start, &end) == 0) {
		sum->bytes += end - start;
		at = end;
	}
	sum->io->ops->close(sum->io, fd);
	return 0;
}

uint64_t store_dir_data(struct store_dir *dir, const char *folder, const char *suffix,
	unsigned *files)
{
	struct data_sum sum = {.io = dir->io, .folder = folder, .suffix = suffix};

	if (dir->io->ops->list(dir->io, folder, add_file, &sum))
		die(folder);
	*files = sum.files;
	return sum.bytes;
}

int store_dir_can_punch(struct store_dir *dir)
{
	static const char bytes[8192] = "x";
	int fd = dir->io->ops->open(dir->io, "probe", O_RDWR | O_CREAT), can;

	if (fd < 0 || io_pwrite(dir->io, fd, bytes, sizeof(bytes), 0))
		die("probe");
	can = dir->io->ops->punch(dir->io, fd, 0, 4096) == 0;
	dir->io->ops->close(dir->io, fd);
	if (dir->io->ops->unlink(dir->io, "probe"))
		die("probe");
	return can;
}

uint64_t number_from_environment(const char *name, uint64_t otherwise)
{
	const char *text = getenv(name);
	uint64_t value = text ? strtoull(text, NULL, 0) : 0;

	return value ? value : otherwise;
}

uint64_t seed_from_environment(uint64_t otherwise)
{
	return number_from_environment("SEED", otherwise);
}
