/* SPDX-License-Identifier: MIT */
/*
 * What the fuzz harnesses share.
 *
 * A harness is one file, fuzz_NAME.c, with LLVMFuzzerTestOneInput(); `make fuzz` links it with
 * libFuzzer, `make check` with main.c, which feeds it the files of corpus/NAME. It must come to the
 * same with the same input, so what the product takes from outside is given here: random numbers
 * (input.c), the log (swallowed), the disk (in memory).
 *
 * Checksums would keep a fuzzer at the door. Where the input is a structure of the store, its first
 * byte says whether they are made right before the structure is decoded.
 */
#ifndef GOLDFS_TESTS_FUZZ_H
#define GOLDFS_TESTS_FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct fs;
struct fs_options;
struct simdisk;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* ---- input.c: taking an input apart; past its end everything is 0 ---- */

struct input {
	const uint8_t *at;
	size_t left;
};

uint8_t input_u8(struct input *in);
uint64_t input_int(struct input *in, size_t bytes);
/* A number that is often one at which something changes: 0, near a power of two, near 16 TiB. */
uint64_t input_size(struct input *in);
/* Up to len bytes, never NULL; *len is what there is. */
const uint8_t *input_bytes(struct input *in, size_t *len);
/* A C string of up to max bytes, malloc'ed: up to the next NUL. */
char *input_text(struct input *in, size_t max);

/* ---- resum.c: checksums made right, in place ---- */

void resum_super(uint8_t *bytes, size_t len);
void resum_catalog(uint8_t *bytes, size_t len);
/* Every page of a map file. */
void resum_map(uint8_t *bytes, size_t len);
/* Every list of a location file, or one. */
void resum_runs(uint8_t *bytes, size_t len);
/* An index of a golden image; firsts: the first hashes of its pages, too. */
void resum_index(uint8_t *bytes, size_t len, const uint8_t *secret, bool firsts);
/* The chain of records from the first byte on, as far as magic and lengths make sense; their headers
 * are keyed with store_secret(). */
void resum_ring(uint8_t *bytes, size_t len);

/* ---- store.c: a small store on a disk in memory, and using one ---- */

enum template {
	TEMPLATE_CLOSED, /* unmounted */
	TEMPLATE_KILLED, /* with records in the ring */
	TEMPLATES,
};

/* A copy to spoil; simdisk_free() it. */
struct simdisk *store_disk(enum template which);
/* Overwrites or extends a file. */
void store_poke(struct simdisk *disk, const char *path, uint64_t off, const void *bytes,
	size_t len);
/* The whole of a file, malloc'ed; NULL when there is none. */
uint8_t *store_peek(struct simdisk *disk, const char *path, size_t *len);
/* The secret of all copies. */
const uint8_t *store_secret(void);
struct fs_options store_options(void);
/*
 * Takes patches from the input: the file, the offset, the length, the bytes; or a file cut short.
 * Then checksums are made right, if wanted.
 */
void store_spoil(struct simdisk *disk, struct input *in, bool resum);
/* Opens what is on the disk, looks at and changes whatever it shows, closes it, and does all that
 * once more. */
void store_use(struct simdisk *disk, bool read_only);
/* Looks at everything that an open one shows, at most `budget` calls. */
void store_look(struct fs *fs, int budget);

/* Messages of this thread are swallowed from now on. */
void quiet(void);

#endif
