/* SPDX-License-Identifier: MIT */
/*
 * The content index of a golden image: which of its blocks holds these bytes?
 *
 * index/ID is made once, in one pass over the image's data, and never changed; the next one takes
 * its place by rename. It holds 64 bits of hash and the number of the block for each distinct block
 * in pages of 4096 bytes, sorted by hash. In memory there are a filter (12 bits per entry) and the
 * first hash of each page (8 bytes per 340 entries), both of which stand in the file, so that
 * opening it costs no more than reading them. Most blocks that are written are in no golden image:
 * the filter says so without a lock and without I/O, but for about one in 150. For the others one
 * page is read.
 *
 * A hash of 64 bits is enough where it is only a hint: with 2^32 entries one lookup in 2^32 finds a
 * block that is not the same, which costs whoever compares one read in vain. Twelve bytes
 * per block, page overhead and filter included 13.6, is what the disk pays for it.
 *
 * The file is not trusted. The header and what is held in memory are checked when it is opened, each
 * page when it is read. What is damaged, or was made of another image or with another secret, is as
 * if it were not there.
 *
 * Threads: an open index may be asked by any number of them at once.
 */
#ifndef GOLDFS_STORE_CONTENT_INDEX_H
#define GOLDFS_STORE_CONTENT_INDEX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/hash.h"
#include "base/io.h"
#include "goldfs/format.h"
#include "image/image.h"
#include "image/pin.h"

/* ---- making one ---- */

struct content_index_source {
	struct io *io; /* of the store */
	const uint8_t *secret;
	uint64_t golden; /* id */
	const struct pin_print *print; /* what the image is known by; its size is image->size */
	struct image *image;
	int fd; /* of a raw image, read past the page cache; -1: by the image's functions */
	unsigned hash_bits; /* the hash is cut to so many (tests); 0: it is not */
	size_t run_entries; /* sorted in memory at once; 0: as many as take 64 MiB (tests) */
	/* Bytes of data done and in total, every MiB; may be NULL. Non-zero: -ECANCELED. */
	int (*progress)(void *arg, uint64_t done, uint64_t total);
	void *arg;
};

/*
 * Makes index/ID, durable when it returns 0, in place of one that is there. Reads all data of the
 * image and needs 16 bytes per 4 KiB of that in a temporary file. An error leaves what was there
 * before and nothing else. -ESTALE: the image has not the size that it is known by.
 */
int content_index_build(const struct content_index_source *source);

/* Removes index/ID and what an interrupted build left. Missing files are no error. Not synced. */
int content_index_remove(struct io *io, uint64_t golden);
/* Removes only what an interrupted build left. */
void content_index_drop_unfinished(struct io *io, uint64_t golden);
/* The id that a file of the folder index belongs to, 0: it is none of these. *unfinished: it is
 * what a build leaves that was interrupted. Pure. */
uint64_t content_index_name(const char *name, bool *unfinished);

/* ---- asking one ---- */

struct content_index;

/* io and secret are lent until it is freed. -ENOENT: there is none. -EUCLEAN: it is damaged, or of
 * another image or secret. Or another -errno. */
int content_index_open(struct content_index **index, struct io *io, const uint8_t *secret,
	uint64_t golden, const struct pin_print *print);
void content_index_free(struct content_index *index);

/* A lookup of this follows soon: the memory for it is fetched meanwhile. */
void content_index_expect(const struct content_index *index, const struct hash128 *hash);
/* 1: *block, a block number, may hold what has this hash. 0: no. Or -errno: it cannot be read. */
int content_index_lookup(struct content_index *index, const struct hash128 *hash, uint64_t *block);
/* Whether a lookup met a damaged page: what it should have found is not found. Lasts. */
bool content_index_is_damaged(const struct content_index *index);
/* How many blocks it knows. */
uint64_t content_index_count(const struct content_index *index);
/* Bytes of memory that it takes. */
uint64_t content_index_memory(const struct content_index *index);
/* Reads every page. 0, -EUCLEAN, or another -errno. */
int content_index_verify(struct content_index *index);

/* ---- the format: pure functions on bytes that may be anything ---- */

struct content_head {
	uint64_t golden;
	struct pin_print print;
	uint64_t count; /* of entries */
	uint64_t pages;
	uint64_t filter_blocks;
	uint64_t filter_sum;
	uint64_t firsts_sum;
};

struct content_entry {
	uint64_t hash;
	uint64_t block;
};

#define CONTENT_FILTER_BLOCK (GF_INDEX_FILTER_WORDS * 4u) /* bytes */

/* -EUCLEAN: no header, of another store, or its counts do not agree with each other. */
int content_head_decode(const void *buf, size_t len, const uint8_t *secret,
	struct content_head *head);
void content_head_encode(const struct content_head *head, const uint8_t *secret,
	struct gf_disk_index *disk);
/* What `count` entries make of the other counts. */
void content_head_count(struct content_head *head, uint64_t count);
/* Length of the file, and where its parts begin, bytes. */
uint64_t content_filter_offset(const struct content_head *head);
uint64_t content_firsts_offset(const struct content_head *head);
uint64_t content_file_size(const struct content_head *head);

/* Takes the entries out of a page of 4096 bytes. Returns how many, or -EUCLEAN: it is damaged, not
 * this page, out of order, or names blocks that the image does not have. */
int content_page_decode(const void *buf, const struct content_head *head, uint64_t number,
	struct content_entry entries[GF_INDEX_PAGE_ENTRIES]);
void content_page_encode(const struct content_entry *entries, unsigned count, uint64_t number,
	struct gf_disk_index_page *page);

/* The block of the filter to which a hash belongs; never falls while hashes rise. */
uint64_t content_filter_block(uint64_t hash, uint64_t blocks);
void content_filter_set(uint32_t block[GF_INDEX_FILTER_WORDS], uint64_t hash);
bool content_filter_has(const uint32_t block[GF_INDEX_FILTER_WORDS], uint64_t hash);

/* index/ID and what a build works in. */
#define CONTENT_PATH_MAX 48
enum content_file { CONTENT_FILE, CONTENT_FILE_TMP, CONTENT_FILE_RUNS };
void content_path(char path[CONTENT_PATH_MAX], uint64_t golden, enum content_file file);

#endif
