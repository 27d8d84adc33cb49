/* SPDX-License-Identifier: MIT */
/* A folder of its own for each test, and small files in it. Failing here aborts the program. */
#ifndef GOLDFS_TESTS_SCRATCH_H
#define GOLDFS_TESTS_SCRATCH_H

#include <stddef.h>
#include <stdint.h>

struct scratch {
	int dirfd;
	char path[4096];
};

void scratch_init(struct scratch *scratch);
/* Removes the folder with all that is in it. */
void scratch_release(struct scratch *scratch);
/* Opens a file below it as openat(2), mode 0644; aborts on an error. */
int scratch_open(struct scratch *scratch, const char *name, int flags);
/* Makes a file of len bytes that seed decides; size 0 gives an empty file. */
void scratch_fill(struct scratch *scratch, const char *name, size_t len, unsigned seed);
/* The byte that scratch_fill() puts at off; never 0. */
uint8_t scratch_byte(uint64_t off, unsigned seed);

#endif
