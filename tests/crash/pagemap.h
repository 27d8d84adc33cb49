/* SPDX-License-Identifier: MIT */
/*
 * The bytes of one simulated file: a sparse map of 4 KiB pages that is copied in O(1).
 *
 * A radix tree of fixed height (6 levels of 64, so 2^48 bytes) whose nodes and pages are counted
 * references and immutable while shared: a copy takes a reference of the root, and whoever writes
 * later copies the path from the root down to the page. Thousands of forks of one disk so share
 * almost everything. Pages of zeros all refer to one page. Hashes are kept in the nodes and are
 * those of the content: a hole and a page of zeros hash alike.
 *
 * A map belongs to one thread at a time; what it shares with other maps is never written.
 */
#ifndef GOLDFS_TESTS_PAGEMAP_H
#define GOLDFS_TESTS_PAGEMAP_H

#include <stddef.h>
#include <stdint.h>

#define PAGEMAP_PAGE 4096u
#define PAGEMAP_MAX (UINT64_C(1) << 48)

struct pagemap_node;

/* All zero: empty. */
struct pagemap {
	struct pagemap_node *root;
};

void pagemap_clone(struct pagemap *dst, const struct pagemap *src);
void pagemap_release(struct pagemap *map);

void pagemap_read(const struct pagemap *map, void *buf, size_t len, uint64_t off);
/* buf NULL: zeros, which count as allocated. */
void pagemap_write(struct pagemap *map, const void *buf, size_t len, uint64_t off);
/* Makes [off, end) read as zeros; whole pages are given back. */
void pagemap_clear(struct pagemap *map, uint64_t off, uint64_t end);

/* The first pages at or after off, clipped to off. Non-zero: there is none. */
int pagemap_next(const struct pagemap *map, uint64_t off, uint64_t *start, uint64_t *end);
/* Pages that a write to the range would have to allocate. */
uint64_t pagemap_missing(const struct pagemap *map, uint64_t off, uint64_t len);
uint64_t pagemap_pages(const struct pagemap *map);
uint64_t pagemap_hash(const struct pagemap *map);

#endif
