/* SPDX-License-Identifier: MIT */
/*
 * The print of an image: does it still hold what it held, asked in a few milliseconds.
 *
 * It is taken when an image is cloned for the first time, which has to feel instant whatever the
 * size, so it reads about 64 blocks and never more than 131. They have to lie where changes show.
 * Evenly spread positions would all fall into the holes of a sparse image, hence from each of 64
 * equal parts the first block with data; when that is zeros, a second try from the part's middle.
 * Zeros are left out, so that it does not matter whether they are a hole. Blocks that change with
 * nearly every use of a disk (the first, the last, the one at 1 MiB where the first partition and
 * its file system usually start) are always in.
 *
 * This finds another image and most edits, not a single changed block. What must find everything
 * reads everything (image/pin_sums.c).
 */
#include "image/pin.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "base/hash.h"
#include "base/sizes.h"
#include "base/times.h"

#define PARTS 64u
#define PARTITION_BLOCK (MIB / GF_BLOCK_SIZE)

struct sample {
	uint64_t block;
	uint64_t sum;
};

struct sampler {
	int fd;
	uint64_t blocks; /* of the file, the last one may be short */
	unsigned count;
	struct sample sample[PARTS + 3];
};

static int take(struct sampler *s, uint64_t block, int zeros_too, int *taken)
{
	uint8_t buf[GF_BLOCK_SIZE];
	int rc = fd_pread_full(s->fd, buf, sizeof(buf), block * GF_BLOCK_SIZE);

	if (rc < 0)
		return rc;
	*taken = zeros_too || !is_zero(buf, sizeof(buf));
	if (*taken)
		s->sample[s->count++] = (struct sample){block, hash_struct(buf, sizeof(buf))};
	return 0;
}

/* The first block with data at or after block and before end. -ENXIO: only holes. */
static int find_data(struct sampler *s, uint64_t block, uint64_t end, uint64_t *found)
{
	uint64_t start, stop;
	int rc = fd_next_data(s->fd, block * GF_BLOCK_SIZE, &start, &stop);

	if (rc == -EINVAL || rc == -EOPNOTSUPP)
		start = block * GF_BLOCK_SIZE; /* holes are unknown here */
	else if (rc < 0)
		return rc;
	*found = start / GF_BLOCK_SIZE;
	return *found < end ? 0 : -ENXIO;
}

static int take_part(struct sampler *s, uint64_t from, uint64_t end)
{
	uint64_t tries[2] = {from, from + (end - from) / 2};
	uint64_t block;
	int i, rc, taken = 0;

	for (i = 0; from < end && i < 2 && !taken; i++) {
		rc = find_data(s, tries[i], end, &block);
		if (rc == -ENXIO)
			break;
		if (rc == 0)
			rc = take(s, block, 0, &taken);
		if (rc < 0)
			return rc;
	}
	return 0;
}

static uint64_t part_start(const struct sampler *s, uint64_t part)
{
	return (uint64_t)((unsigned __int128)s->blocks * part / PARTS);
}

/* Has the disk fetch all of them at once rather than one after the other. */
static void read_ahead(struct sampler *s)
{
	uint64_t i, block;

	for (i = 0; i < PARTS && s->blocks > PARTS; i++)
		if (find_data(s, part_start(s, i), part_start(s, i + 1), &block) == 0)
			posix_fadvise(s->fd, (off_t)(block * GF_BLOCK_SIZE), GF_BLOCK_SIZE,
				POSIX_FADV_WILLNEED);
}

static int take_all(struct sampler *s)
{
	uint64_t i;
	int rc, taken;

	read_ahead(s);
	rc = take(s, 0, 1, &taken);
	if (rc == 0)
		rc = take(s, s->blocks - 1, 1, &taken);
	if (rc == 0 && s->blocks > PARTITION_BLOCK)
		rc = take(s, PARTITION_BLOCK, 1, &taken);
	for (i = 0; rc == 0 && i < PARTS; i++)
		rc = take_part(s, part_start(s, i), part_start(s, i + 1));
	return rc;
}

int pin_print_fd(int fd, struct pin_print *print)
{
	struct sampler s = {.fd = fd};
	struct stat st;
	int rc = 0;

	if (fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode))
		return -EINVAL;
	s.blocks = ((uint64_t)st.st_size + GF_BLOCK_SIZE - 1) / GF_BLOCK_SIZE;
	if (s.blocks)
		rc = take_all(&s);
	if (rc < 0)
		return rc;
	print->size = (uint64_t)st.st_size;
	print->mtime_ns = times_ns(st.st_mtim);
	print->sample = hash_struct(s.sample, s.count * sizeof(s.sample[0]));
	return 0;
}
