/* SPDX-License-Identifier: MIT */
/*
 * The two alternating copies of the catalog on disk: a header and the ops that rebuild it. Writing
 * generation G replaces copy G % 2 and leaves the other one alone, so a torn write costs nothing:
 * the older copy and the records since then still stand.
 */
#ifndef GOLDFS_STORE_CATALOG_FILE_H
#define GOLDFS_STORE_CATALOG_FILE_H

#include <stddef.h>
#include <stdint.h>

#include "base/io.h"
#include "store/journal.h"

struct catalog_head {
	uint64_t generation;
	struct journal_mark tail;
	uint64_t epoch;
	uint64_t meta_seq;
	uint64_t next_ino;
	uint64_t next_layer;
	uint64_t next_golden;
	uint8_t uuid[16];
	bool clean; /* written by a clean unmount: nothing was given up that is not punched */
};

/*
 * Durable when it returns 0. When it fails the copy has been made invalid, durably; when that fails
 * as well, -ENOTRECOVERABLE: nobody knows which generation the next mount will find. A copy that is
 * not there yet is written when all names in the store's folder are durable.
 */
int catalog_file_write(struct io *io, const struct catalog_head *head, const void *ops, size_t len);

/*
 * Reads the newest whole copy. *ops is malloc'ed, owned by the caller. *fallback: another copy is
 * there but is damaged or torn, so that this one may be the older; then the journal must still
 * have what came since.
 */
int catalog_file_read(struct io *io, struct catalog_head *head, void **ops, size_t *len,
	bool *fallback);

/*
 * Reads one copy, 0 or 1. -ENOENT: it is not there; -EUCLEAN: damaged or torn, and *head is set when
 * the header itself is whole (its uuid is zero otherwise); or an I/O error. *ops as above.
 */
int catalog_file_read_copy(struct io *io, unsigned which, struct catalog_head *head, void **ops,
	size_t *len);

/* Decodes a header; -EUCLEAN. Pure. */
int catalog_head_decode(const void *buf, size_t len, struct catalog_head *head, uint64_t *ops_len,
	uint64_t *ops_sum);

#endif
