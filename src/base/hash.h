/* SPDX-License-Identifier: MIT */
/*
 * Checksums and content hashes: XXH3, as the library provides it.
 *
 * Structures carry an unkeyed 64-bit sum, so that a store can be checked before its secret is
 * known. Content is hashed with the store's secret, so that a guest cannot compute collisions.
 */
#ifndef GOLDFS_BASE_HASH_H
#define GOLDFS_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

#define HASH_SECRET_LEN 192

uint64_t hash_struct(const void *buf, size_t len);
/* The checksum kept for each block at rest, also in journal records of large writes. Never 0: 0 on
 * disk means that no checksum is known. */
uint32_t hash_block(const uint8_t secret[HASH_SECRET_LEN], const void *block);
uint64_t hash_content(const uint8_t secret[HASH_SECRET_LEN], const void *buf, size_t len);

/* Non-zero when len bytes are all zero. len is a multiple of 8. */
int is_zero(const void *buf, size_t len);

#endif
