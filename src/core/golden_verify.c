/* SPDX-License-Identifier: MIT */
/*
 * Checking what is read of golden images.
 *
 * A pinned image has a sum per MiB (image/pin_sums.c), made once in the background. To check a read
 * of 4 KiB against that, its whole chunk has to be read; but only once: from a chunk that was found
 * right, the sums of its blocks are computed and kept in memory, and later reads are compared with
 * those. So every read is checked, whatever the disk does after the first one. The memory, a
 * thousandth of what is read of the image, is bounded: beyond that it starts anew.
 *
 * Until the sums of a new pin are made nothing can be checked.
 */
#include "core/fs_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/sizes.h"
#include "image/pin_file.h"

#define CHUNK_BLOCKS (GF_SUMS_CHUNK / GF_BLOCK_SIZE)
#define MAX_CHUNKS 32768 /* of one image, 32 MiB */

struct golden_checks {
	struct pin_sums sums;
	uint32_t **blocks; /* per chunk that was found right, the sums of its blocks */
	uint64_t known;	   /* chunks that have them */
};

static void forget_blocks(struct golden_checks *checks)
{
	for (uint64_t i = 0; i < checks->sums.count; i++) {
		free(checks->blocks[i]);
		checks->blocks[i] = NULL;
	}
	checks->known = 0;
}

void golden_check_release(struct golden *g)
{
	struct golden_checks *checks = g->checks;

	if (!checks)
		return;
	forget_blocks(checks);
	free(checks->blocks);
	pin_sums_release(&checks->sums);
	free(checks);
	g->checks = NULL;
}

void golden_sums_made(struct golden *g)
{
	MUTEX_GUARD(&g->check_lock);
	g->no_sums = false;
}

/* The sums, loaded when that was not done yet. NULL: there are none. */
static struct golden_checks *get_checks_locked(struct golden *g)
{
	struct golden_checks *checks;

	if (g->checks || g->no_sums)
		return g->checks;
	checks = calloc(1, sizeof(*checks));
	if (!checks)
		return NULL;
	if (pin_sums_load(g->fs->options.store_fd, g->id, &checks->sums) == 0 &&
		checks->sums.size == g->print.size)
		checks->blocks = calloc(checks->sums.count + 1, sizeof(*checks->blocks));
	if (!checks->blocks) {
		pin_sums_release(&checks->sums);
		free(checks);
		g->no_sums = true;
		return NULL;
	}
	g->checks = checks;
	return checks;
}

/* Reads a whole chunk and computes the sums of its blocks, when it is what it was. */
static int check_chunk_locked(struct golden *g, struct golden_checks *checks, uint64_t chunk)
{
	size_t len = min_u64(GF_SUMS_CHUNK, checks->sums.size - chunk * GF_SUMS_CHUNK);
	CLEANUP_FREE uint8_t *buf = calloc(1, GF_SUMS_CHUNK);
	uint32_t *sums;
	int r;

	if (!buf)
		return -ENOMEM;
	r = g->backing->ops->read(g->backing, buf, len, chunk * GF_SUMS_CHUNK);
	if (r)
		return r;
	if (pin_chunk_sum(buf, len) != checks->sums.sum[chunk])
		return -EUCLEAN;
	if (checks->known >= MAX_CHUNKS)
		forget_blocks(checks);
	sums = malloc(CHUNK_BLOCKS * sizeof(*sums));
	if (!sums)
		return -ENOMEM;
	for (uint64_t i = 0; i < CHUNK_BLOCKS; i++)
		sums[i] = hash_block(g->fs->super.secret, buf + i * GF_BLOCK_SIZE);
	checks->blocks[chunk] = sums;
	checks->known++;
	return 0;
}

/* Copies the sums of the blocks of one chunk. 1: there are none to compare with. */
static int get_sums(struct golden *g, uint64_t chunk, uint32_t sums[CHUNK_BLOCKS])
{
	struct golden_checks *checks;
	int r = 0;

	MUTEX_GUARD(&g->check_lock);
	checks = get_checks_locked(g);
	if (!checks || chunk >= checks->sums.count)
		return 1;
	if (!checks->blocks[chunk])
		r = check_chunk_locked(g, checks, chunk);
	if (!r)
		memcpy(sums, checks->blocks[chunk], CHUNK_BLOCKS * sizeof(*sums));
	return r;
}

/* golden.lock is held, and the backing is open. Whole blocks, as layers read them. */
int golden_check(struct golden *g, const void *buf, size_t len, uint64_t off)
{
	uint64_t block = off / GF_BLOCK_SIZE, end = (off + len) / GF_BLOCK_SIZE;
	uint32_t sums[CHUNK_BLOCKS];
	const uint8_t *at = buf;

	if (off % GF_BLOCK_SIZE || len % GF_BLOCK_SIZE)
		return 0;
	while (block < end) {
		uint64_t first = block % CHUNK_BLOCKS;
		uint64_t n = min_u64(end - block, CHUNK_BLOCKS - first);
		int r = get_sums(g, block / CHUNK_BLOCKS, sums);

		for (uint64_t i = 0; i < n && !r; i++) {
			if (hash_block(g->fs->super.secret, at + i * GF_BLOCK_SIZE) == sums[first + i])
				continue;
			r = -EUCLEAN;
			block += i;
		}
		if (r == -EUCLEAN)
			damage_note(g->fs, g->id | DAMAGE_GOLDEN, block);
		if (r < 0)
			return r;
		block += n;
		at += n * GF_BLOCK_SIZE;
	}
	return 0;
}

bool golden_is_damaged(struct fs *fs, uint64_t id, uint64_t block)
{
	uint64_t off = block * GF_BLOCK_SIZE;
	struct golden *g = golden_hold(fs, id);
	uint8_t buf[GF_BLOCK_SIZE];
	int r;

	if (!g)
		return false;
	r = golden_acquire(g);
	if (!r) {
		r = g->backing->ops->read(g->backing, buf, sizeof(buf), off);
		if (!r)
			r = golden_check(g, buf, sizeof(buf), off);
		pthread_rwlock_unlock(&g->lock);
	}
	golden_hold_end(fs, g);
	return r != 0;
}
