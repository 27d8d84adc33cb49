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
#include <sys/uio.h>

#define HASH_SECRET_LEN 192

uint64_t hash_struct(const void *buf, size_t len);
/* hash_struct() of the parts one behind the other; *len is what they come to. */
uint64_t hash_struct_parts(const struct iovec *parts, int count, size_t *len);
/* The checksum kept for each block at rest, also in journal records of large writes. Never 0: 0 on
 * disk means that no checksum is known. */
uint32_t hash_block(const uint8_t secret[HASH_SECRET_LEN], const void *block);
uint64_t hash_content(const uint8_t secret[HASH_SECRET_LEN], const void *buf, size_t len);

/*
 * By which equal blocks are found. It proves nothing: whoever shares a block compares its bytes. The
 * low half holds what hash_block() says, and some bits more; `high` is independent of that.
 */
struct hash128 {
	uint64_t low;
	uint64_t high;
};
struct hash128 hash_block128(const uint8_t secret[HASH_SECRET_LEN], const void *block);

/* hash_block() of the same block. */
static inline uint32_t hash_sum(const struct hash128 *hash)
{
	return (uint32_t)hash->low ? (uint32_t)hash->low : 1;
}

/* Further bits of the hash, never 0 either. */
static inline uint16_t hash_tag(const struct hash128 *hash)
{
	const uint16_t tag = (uint16_t)(hash->low >> 32);

	return tag ? tag : 1;
}

/* Tests: leaves so many bits of it, so that many blocks have the same. 0: as it is. */
static inline void hash_cut(struct hash128 *hash, unsigned bits)
{
	if (!bits)
		return;
	hash->high &= (UINT64_C(1) << bits) - 1;
	hash->low &= (UINT64_C(1) << bits) - 1;
}

/* hash_struct() of bytes that come piece by piece. NULL: no memory. */
struct hash_stream;
struct hash_stream *hash_stream_new(void);
void hash_stream_add(struct hash_stream *stream, const void *buf, size_t len);
/* Of all that was added. */
uint64_t hash_stream_value(const struct hash_stream *stream);
void hash_stream_free(struct hash_stream *stream);

/* Non-zero when len bytes are all zero. len is a multiple of 8. */
int is_zero(const void *buf, size_t len);

#endif
