/* SPDX-License-Identifier: MIT */
/* A store's folder on real files, and seeds for random tests. Failing here aborts the program. */
#ifndef GOLDFS_TESTS_STORE_DIR_H
#define GOLDFS_TESTS_STORE_DIR_H

#include <stdint.h>

#include "base/io.h"
#include "scratch.h"

struct store_dir {
	struct scratch scratch;
	struct io *io; /* its files */
	struct io_ops ops; /* of io, once syncs are skipped */
};

/* With the folders "layer" and "journal" in it. */
void store_dir_init(struct store_dir *dir);
/* From now on syncs do nothing: for tests in which no power is lost. */
void store_dir_skip_syncs(struct store_dir *dir);
void store_dir_release(struct store_dir *dir);
/* Flips one bit of a file below it. */
void store_dir_flip(struct store_dir *dir, const char *path, uint64_t bit);
/* Bytes of data, without holes, in the files of a folder whose names end with suffix; *files is
 * their number. */
uint64_t store_dir_data(struct store_dir *dir, const char *folder, const char *suffix,
	unsigned *files);

/* Whether the file system below takes holes. */
int store_dir_can_punch(struct store_dir *dir);

/* The seed of a random test: SEED from the environment, else the given one. */
uint64_t seed_from_environment(uint64_t otherwise);
/* A positive number from the environment, else the given one. */
uint64_t number_from_environment(const char *name, uint64_t otherwise);

#endif
