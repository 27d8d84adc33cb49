/* SPDX-License-Identifier: MIT */
/* What the parts of image/pin*.c share: names in golden/, atomic replacement, chunk sums. */
#ifndef GOLDFS_IMAGE_PIN_FILE_H
#define GOLDFS_IMAGE_PIN_FILE_H

#include <stddef.h>
#include <stdint.h>

#define PIN_NAME_MAX 48

/* golden/ID with a suffix: "", ".sums", or either with ".tmp". */
void pin_name(char name[PIN_NAME_MAX], uint64_t id, const char *suffix);
/* Creates the temporary file for golden/ID + suffix, making golden/ itself when needed. Returns a
 * descriptor for reading and writing, or -errno. */
int pin_tmp_open(int store_fd, uint64_t id, const char *suffix);
/* Makes the temporary file golden/ID + suffix: synced, renamed, folder synced. 0 or -errno. */
int pin_tmp_publish(int store_fd, uint64_t id, const char *suffix, int fd);
void pin_tmp_drop(int store_fd, uint64_t id, const char *suffix);

/* 1 when an EAGAIN of F_SETLEASE means that a writer has the file open; on network file systems it
 * also means that the server gave no delegation. */
int pin_lease_tells_writers(int fd);

struct pin_sums {
	uint64_t size;	/* of the image, bytes */
	uint64_t count; /* of chunks */
	uint64_t *sum;	/* 0: the chunk reads as zeros */
};

uint64_t pin_chunk_sum(const void *chunk, size_t len);
/* -ENOENT: there is none. -EUCLEAN: damaged. */
int pin_sums_load(int store_fd, uint64_t id, struct pin_sums *sums);
void pin_sums_release(struct pin_sums *sums);
/* Reads all of fd and compares. 0, -ESTALE when it differs, or what pin_sums_load() says. */
int pin_sums_verify(int store_fd, uint64_t id, int fd);

/* Calls cb for each chunk of fd that has data, with its bytes; the chunks in between are holes. */
int pin_for_each_chunk(int fd, uint64_t size,
	int (*cb)(void *arg, uint64_t chunk, const void *buf, size_t len), void *arg);

#endif
