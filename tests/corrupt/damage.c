/* SPDX-License-Identifier: MIT */
/*
 * One flipped bit, or one block of wrong bytes. First a class of structures is drawn, so that small
 * ones get their share, then a file of it, then a place where the file has data.
 */
#include "corrupt.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/sizes.h"

#define BLOCK 4096
#define MAX_FILES 200

struct class {
	const char *name;
	unsigned weight;
	const char *folder;
	const char *ending; /* or the whole name, when it begins with '=' */
};

static const struct class classes[] = {
	{"superblock", 4, "store", "=superblock"},
	{"superblock", 2, "store", "=superblock.copy"},
	{"catalog", 7, "store", "=catalog.0"},
	{"catalog", 7, "store", "=catalog.1"},
	{"journal", 20, "store/journal", "=0"},
	{"journal", 2, "store/journal", ".synced"},
	{"map", 18, "store/layer", ".map"},
	{"checksum", 12, "store/layer", ".sum"},
	{"data", 18, "store/layer", ".data"},
	{"golden", 6, "store/golden", ""},
	{"golden sums", 4, "store/golden", ".sums"},
	{"places", 18, "store/layer", ".loc"},
	{"pool", 14, "store/pool", ".data"},
	{"pool sums", 8, "store/pool", ".sum"},
	{"index", 4, "store/index", ""},
};

static bool fits(const struct class *class, const char *name)
{
	size_t len = strlen(name), ending = strlen(class->ending);

	if (*class->ending == '=')
		return strcmp(name, class->ending + 1) == 0;
	if (!ending)
		return !strchr(name, '.');
	return len > ending && strcmp(name + len - ending, class->ending) == 0;
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
	return strcmp((*a)->d_name, (*b)->d_name);
}

/* A file of the class, at random. 0 or -ENOENT. */
static int pick_file(const char *root, const struct class *class, struct rng *rng,
	char path[PATH_ROOM])
{
	char folder[PATH_ROOM + 32], names[MAX_FILES][64];
	struct dirent **list;
	int count = 0, n;

	snprintf(folder, sizeof(folder), "%s/%s", root, class->folder);
	n = scandir(folder, &list, NULL, by_name);
	for (int i = 0; i < n; i++) {
		if (list[i]->d_type == DT_REG && fits(class, list[i]->d_name) && count < MAX_FILES)
			snprintf(names[count++], sizeof(names[0]), "%.60s", list[i]->d_name);
		free(list[i]);
	}
	if (n >= 0)
		free(list);
	if (!count)
		return -ENOENT;
	n = snprintf(path, PATH_ROOM, "%s/%s", class->folder, names[rng_below(rng, (uint64_t)count)]);
	return n < PATH_ROOM ? 0 : -ENAMETOOLONG;
}

static const struct class *pick_class(struct rng *rng)
{
	unsigned sum = 0, at;

	for (size_t i = 0; i < ARRAY_SIZE(classes); i++)
		sum += classes[i].weight;
	at = (unsigned)rng_below(rng, sum);
	for (size_t i = 0;; i++) {
		if (at < classes[i].weight)
			return &classes[i];
		at -= classes[i].weight;
	}
}

/* A byte of data in the file, at random. 0 or -errno. */
static int pick_place(int fd, struct rng *rng, uint64_t *place)
{
	uint64_t off = 0, start, end, total = 0, at;

	while (fd_next_data(fd, off, &start, &end) == 0) {
		total += end - start;
		off = end;
	}
	if (!total)
		return -ENOENT;
	at = rng_below(rng, total);
	for (off = 0; fd_next_data(fd, off, &start, &end) == 0; off = end) {
		if (at < end - start) {
			*place = start + at;
			return 0;
		}
		at -= end - start;
	}
	return -ENOENT;
}

/* Of the ring, half of the time a place among what does not look like it was never written. */
static int pick_in_journal(int fd, struct rng *rng, uint64_t *place)
{
	for (int tries = 0; tries < 400; tries++) {
		uint8_t around[64];
		int r = pick_place(fd, rng, place);

		if (r)
			return r;
		r = fd_pread_full(fd, around, sizeof(around), round_down(*place, 64));
		if (r)
			return r;
		for (size_t i = 0; i < sizeof(around); i++)
			if (around[i])
				return 0;
	}
	return 0;
}

struct target {
	int fd;
	uint64_t place;
	uint64_t size;
};

/* Draws until something is there to be damaged. */
static int pick(const char *root, struct rng *rng, struct damage_done *done, struct target *t)
{
	for (int tries = 0; tries < 100; tries++) {
		const struct class *class = pick_class(rng);
		char path[2 * PATH_ROOM];
		struct stat st;
		int r;

		if (pick_file(root, class, rng, done->path))
			continue;
		snprintf(path, sizeof(path), "%s/%s", root, done->path);
		t->fd = open(path, O_RDWR | O_CLOEXEC);
		if (t->fd < 0 || fstat(t->fd, &st))
			return -errno;
		t->size = (uint64_t)st.st_size;
		done->class = class->name;
		r = strcmp(class->name, "journal") == 0 && rng_below(rng, 4) ?
			pick_in_journal(t->fd, rng, &t->place) :
			pick_place(t->fd, rng, &t->place);
		if (!r)
			return 0;
		close(t->fd);
	}
	return -ENOENT;
}

/* Damage at rest changes no times. */
static void keep_times(int fd, const struct stat *st)
{
	struct timespec times[2] = {st->st_atim, st->st_mtim};

	futimens(fd, times);
}

int damage_bit(const char *root, struct rng *rng, struct damage_done *done)
{
	struct target t;
	struct stat st;
	uint8_t byte, mask = (uint8_t)(1u << rng_below(rng, 8));
	int r = pick(root, rng, done, &t);

	if (r)
		return r;
	fstat(t.fd, &st);
	r = fd_pread_full(t.fd, &byte, 1, t.place);
	byte ^= mask;
	if (!r)
		r = fd_pwrite(t.fd, &byte, 1, t.place);
	keep_times(t.fd, &st);
	close(t.fd);
	snprintf(done->what, sizeof(done->what), "bit 0x%02x at %" PRIu64, mask, t.place);
	return r;
}

static int stale_block(const char *stale, const struct damage_done *done, uint64_t off,
	uint8_t *block)
{
	char path[2 * PATH_ROOM];
	CLEANUP_CLOSE int fd = -1;

	snprintf(path, sizeof(path), "%s/%s", stale, done->path);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	return fd < 0 ? -errno : fd_pread_full(fd, block, BLOCK, off);
}

int damage_block(const char *root, const char *stale, struct rng *rng, struct damage_done *done)
{
	static const char *const kinds[] = {"zeros", "random bytes", "a shifted copy", "stale bytes"};
	uint8_t block[BLOCK], was[BLOCK];
	struct target t;
	struct stat st;
	uint64_t off, other;
	unsigned kind = (unsigned)rng_below(rng, 4);
	int r = pick(root, rng, done, &t);

	if (r)
		return r;
	fstat(t.fd, &st);
	off = round_down(t.place, BLOCK);
	memset(block, 0, sizeof(block));
	if (kind == 3 && stale_block(stale, done, off, block))
		kind = 1;
	if (kind == 2) {
		r = pick_place(t.fd, rng, &other);
		if (!r)
			r = fd_pread_full(t.fd, block, BLOCK, round_down(other, 512));
	}
	for (size_t i = 0; kind == 1 && i < BLOCK; i++)
		block[i] = (uint8_t)rng_next(rng);
	if (!r)
		r = fd_pread_full(t.fd, was, BLOCK, off);
	/* The file keeps its length. */
	if (!r)
		r = fd_pwrite(t.fd, block, min_u64(BLOCK, t.size - off), off);
	keep_times(t.fd, &st);
	close(t.fd);
	snprintf(done->what, sizeof(done->what), "%s at %" PRIu64 "%s", kinds[kind], off,
		memcmp(was, block, min_u64(BLOCK, t.size - off)) == 0 ? ", which changes nothing" : "");
	return r;
}
