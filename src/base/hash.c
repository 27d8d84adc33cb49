/* SPDX-License-Identifier: MIT */
/*
 * XXH3 behind a few names, one per use, so that no caller picks the wrong key or width.
 *
 * hash_block() is the low half of hash_content(): four bytes per block keep the sums of a 400 GiB
 * disk at 400 MiB, and its use is to tell an old block from a new one, not to prove identity. For
 * inputs of more than 240 bytes XXH3's short hash is the low half of its long one, so that whoever
 * needs both makes one pass over the bytes.
 *
 * Where the library picks the widest vectors of the processor at run time (x86), it is asked to: the
 * same values three times as fast, and each byte that is written is hashed.
 */
#include "base/hash.h"

#include <string.h>
#define XXH_STATIC_LINKING_ONLY /* a state on the stack */
#include <xxhash.h>
#if defined(__x86_64__) && __has_include(<xxh_x86dispatch.h>)
#include <xxh_x86dispatch.h>
#endif

#include "goldfs/format.h"

uint64_t hash_struct(const void *buf, size_t len)
{
	return XXH3_64bits(buf, len);
}

uint64_t hash_struct_parts(const struct iovec *parts, int count, size_t *len)
{
	XXH3_state_t state;

	*len = parts->iov_len;
	/* In one piece, as most are, it takes a third of the time. */
	if (count == 1)
		return hash_struct(parts->iov_base, *len);
	*len = 0;
	XXH3_64bits_reset(&state);
	for (int i = 0; i < count; i++) {
		XXH3_64bits_update(&state, parts[i].iov_base, parts[i].iov_len);
		*len += parts[i].iov_len;
	}
	return XXH3_64bits_digest(&state);
}

uint64_t hash_content(const uint8_t secret[HASH_SECRET_LEN], const void *buf, size_t len)
{
	return XXH3_64bits_withSecret(buf, len, secret, HASH_SECRET_LEN);
}

uint32_t hash_block(const uint8_t secret[HASH_SECRET_LEN], const void *block)
{
	uint32_t sum = (uint32_t)hash_content(secret, block, GF_BLOCK_SIZE);

	return sum ? sum : 1;
}

struct hash128 hash_block128(const uint8_t secret[HASH_SECRET_LEN], const void *block)
{
	const XXH128_hash_t hash =
		XXH3_128bits_withSecret(block, GF_BLOCK_SIZE, secret, HASH_SECRET_LEN);

	return (struct hash128){.low = hash.low64, .high = hash.high64};
}

/* The library's state by another name. */
struct hash_stream *hash_stream_new(void)
{
	XXH3_state_t *state = XXH3_createState();

	if (state)
		XXH3_64bits_reset(state);
	return (struct hash_stream *)state;
}

void hash_stream_add(struct hash_stream *stream, const void *buf, size_t len)
{
	XXH3_64bits_update((XXH3_state_t *)stream, buf, len);
}

uint64_t hash_stream_value(const struct hash_stream *stream)
{
	return XXH3_64bits_digest((const XXH3_state_t *)stream);
}

void hash_stream_free(struct hash_stream *stream)
{
	XXH3_freeState((XXH3_state_t *)stream);
}

static uint64_t word_at(const void *buf, size_t off)
{
	uint64_t word;

	memcpy(&word, (const char *)buf + off, sizeof(word));
	return word;
}

/*
 * Most blocks with data show it in their first, middle or last word. For the rest: a buffer whose
 * first word is zero and that equals itself shifted by a word is zero all through, and memcmp is
 * the fastest comparison around.
 */
int is_zero(const void *buf, size_t len)
{
	if (len == 0)
		return 1;
	if (word_at(buf, 0) | word_at(buf, len / 16 * 8) | word_at(buf, len - 8))
		return 0;
	return memcmp(buf, (const char *)buf + 8, len - 8) == 0;
}
