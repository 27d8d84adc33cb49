/* SPDX-License-Identifier: MIT */
/*
 * What dedup costs those whose data is new: the time of writing incompressible data that nobody has,
 * until it is settled, with dedup=all and with dedup=off, when many blocks are indexed already.
 *
 * Two stores side by side on real files, without the kernel's part of FUSE in between, which would
 * only hide some of the cost. Rounds are interleaved, each with another first; the medians count.
 *
 * What is indexed: INDEXED blocks of a golden image, by a content index that is made as every such
 * index is, of an image that is computed when it is read (40 GiB of it would not fit here); and as
 * many in the table of content, by entries of random hashes put there by this program. Entries that
 * the background takes from the disk after a mount have 32 bits of the hash only: with TAGS=0 all
 * are of that sort, and name blocks that exist, so that what they hit by chance costs a read.
 *
 * Then a table of its own gets five times as many: whether it keeps its budget, and what is found.
 *
 *   dedup FOLDER     environment: INDEXED (10000000), ROUNDS (7), SEQUENTIAL (256), RANDOM (64), both
 *                    in MiB, TAGS (1), BUDGET (256, in MiB)
 *
 * Exit status: 0, 1: a ratio is below 0.8 or the budget is not kept, 2: it could not be measured.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/io.h"
#include "base/log.h"
#include "base/sizes.h"
#include "base/times.h"
#include "core/dedup.h"
#include "core/fs_internal.h"
#include "goldfs/format.h"
#include "image/image.h"
#include "store/content_table.h"

#define BLOCK GF_BLOCK_SIZE
#define MAX_ROUNDS 101
#define AT_LEAST 0.8

enum { OFF, ALL, MODES };
static const char *const mode_names[] = {"off", "all"};

static uint64_t number(const char *name, uint64_t otherwise)
{
	const char *text = getenv(name);

	return text ? strtoull(text, NULL, 0) : otherwise;
}

static void must(int64_t r, const char *what)
{
	if (r >= 0)
		return;
	fprintf(stderr, "dedup: cannot %s: %s\n", what, strerror((int)-r));
	exit(2);
}

/* ---- contents ---- */

static uint64_t scramble(uint64_t z)
{
	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return z ^ (z >> 31);
}

static uint64_t next_number;

static uint64_t next_random(void)
{
	return scramble(next_number++ * UINT64_C(0x9e3779b97f4a7c15));
}

static uint8_t stock[4 * MIB + BLOCK]; /* random */

static void make_stock(void)
{
	for (size_t i = 0; i + 8 <= sizeof(stock); i += 8)
		memcpy(stock + i, (uint64_t[]){next_random()}, 8);
}

/* A block that no other key has: random bytes, of which the first ones say which it is. */
static void fill_block(uint8_t *bytes, uint64_t key)
{
	uint64_t id = scramble(key + 1);

	memcpy(bytes, stock + id % (4 * MIB), BLOCK);
	memcpy(bytes, &id, sizeof(id));
	memcpy(bytes + BLOCK / 2, &key, sizeof(key));
}

/* ---- a golden image that is computed ---- */

static int computed_read(struct image *img, void *buf, size_t len, uint64_t off)
{
	uint8_t block[BLOCK], *to = buf;

	while (len) {
		size_t at = off % BLOCK, n = min_u64(len, BLOCK - at);

		fill_block(block, off / BLOCK | UINT64_C(1) << 62);
		memcpy(to, block + at, n);
		to += n;
		off += n;
		len -= n;
	}
	return 0;
}

static int computed_next_data(struct image *img, uint64_t off, uint64_t *start, uint64_t *end)
{
	if (off >= img->size)
		return -ENXIO;
	*start = off;
	*end = img->size;
	return 0;
}

static void computed_free(struct image *img)
{
}

static const struct image_ops computed_ops = {
	.read = computed_read, .next_data = computed_next_data, .free = computed_free};
static struct image computed = {.ops = &computed_ops};

static struct image *golden_test(void *arg, uint64_t id)
{
	return id == 1 ? &computed : NULL;
}

/* ---- stores ---- */

struct store {
	struct io *io;
	struct fs *fs;
};

static void store_open(struct store *s, const char *folder, int mode)
{
	struct fs_options options = {
		.dedup = mode == ALL ? FS_DEDUP_ALL : FS_DEDUP_OFF,
		.dedup_memory = number("BUDGET", 256) * MIB,
		.store_fd = -1,
		.golden_test = golden_test,
	};
	char path[4096];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", folder, mode_names[mode]);
	must(mkdir(path, 0700) ? -errno : 0, "make a folder");
	fd = open(path, O_RDONLY | O_DIRECTORY);
	must(fd < 0 ? -errno : io_posix_new(&s->io, fd), "open a folder");
	must(fs_open(&s->fs, s->io, &options), "open a store");
}

static void clone_golden(struct fs *fs)
{
	struct fs_clone_target target = {FS_INO_ROOT, "clone"};
	uint64_t ino;
	size_t failed;

	must(fs_resolve(fs, "golden/1", &ino), "find the image");
	must(fs_clone(fs, ino, &target, 1, (struct fs_owner){0, 0}, 0600, false, false, NULL,
		     &failed), "clone the image");
	must(fs_settle(fs), "settle");
}

static uint64_t make_file(struct fs *fs, const char *name)
{
	struct fs_attr attr;

	must(fs_make(fs, FS_INO_ROOT, name, S_IFREG | 0600, (struct fs_owner){0, 0}, &attr),
		"make a file");
	fs_forget(fs, attr.ino, 1);
	return attr.ino;
}

/* Without tags they are of a file that exists, and what they hit by chance is read. */
static void fill_table(struct fs *fs, uint64_t count, bool tags)
{
	uint64_t blocks = 64 * MIB / BLOCK, layer = UINT64_C(1) << 40, ino;
	uint8_t *bytes = malloc(MIB);

	if (!tags) {
		ino = make_file(fs, "there");
		for (uint64_t at = 0; at < blocks; at += MIB / BLOCK) {
			for (uint64_t i = 0; i < MIB / BLOCK; i++)
				fill_block(bytes + i * BLOCK, next_random());
			must(fs_write(fs, ino, bytes, MIB, at * BLOCK), "write");
		}
		must(fs_settle(fs), "settle");
		layer = atomic_load(&tree_find(fs, ino)->layer)->id;
	}
	for (uint64_t i = 0; i < count; i++) {
		uint64_t hash = next_random();
		struct content_place at = {.owner = layer, .block = i % blocks,
			.tag = tags ? (uint16_t)(hash >> 32) | 1 : 0};

		content_table_put(dedup_table(fs), 0, (uint32_t)hash | 1, &at);
	}
	free(bytes);
}

/* ---- what is measured ---- */

static uint64_t key = 1;

/* Until it is settled: by the clock, and processor time of all threads. Nanoseconds. */
struct spent {
	int64_t wall, cpu;
};

static void start(struct spent *s)
{
	s->wall -= times_now(CLOCK_MONOTONIC);
	s->cpu -= times_now(CLOCK_PROCESS_CPUTIME_ID);
}

static void stop(struct spent *s)
{
	s->wall += times_now(CLOCK_MONOTONIC);
	s->cpu += times_now(CLOCK_PROCESS_CPUTIME_ID);
}

static struct spent write_sequential(struct fs *fs, uint64_t bytes)
{
	static uint8_t buf[MIB];
	uint64_t ino = make_file(fs, "new");
	struct spent spent = {0};

	for (uint64_t off = 0; off < bytes; off += MIB) {
		for (uint64_t i = 0; i < MIB; i += BLOCK)
			fill_block(buf + i, key++);
		start(&spent);
		must(fs_write(fs, ino, buf, MIB, off), "write");
		stop(&spent);
	}
	start(&spent);
	must(fs_settle(fs), "settle");
	stop(&spent);
	must(fs_unlink(fs, FS_INO_ROOT, "new"), "remove");
	must(fs_settle(fs), "settle");
	return spent;
}

/* Each block once, in a random order, over a file that is eight times as large. */
static struct spent write_random(struct fs *fs, uint64_t bytes)
{
	uint64_t ino = make_file(fs, "new"), count = bytes / BLOCK, span = count * 8;
	uint8_t block[BLOCK];
	struct spent spent = {0};

	start(&spent);
	for (uint64_t i = 0; i < count; i++) {
		fill_block(block, key++);
		/* An odd factor is a permutation modulo a power of two; else it is nearly one. */
		must(fs_write(fs, ino, block, BLOCK, i * UINT64_C(2654435761) % span * BLOCK), "write");
	}
	must(fs_settle(fs), "settle");
	stop(&spent);
	must(fs_unlink(fs, FS_INO_ROOT, "new"), "remove");
	must(fs_settle(fs), "settle");
	return spent;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double median(double *list, uint64_t count)
{
	qsort(list, count, sizeof(*list), compare);
	return count % 2 ? list[count / 2] : (list[count / 2 - 1] + list[count / 2]) / 2;
}

static bool compare_modes(struct store *stores, const char *what,
	struct spent (*run)(struct fs *fs, uint64_t bytes), uint64_t bytes, uint64_t rounds)
{
	static double seconds[MODES][MAX_ROUNDS], cpu[MODES][MAX_ROUNDS];
	double ratio, mib = (double)bytes / MIB;

	for (int mode = 0; mode < MODES; mode++)
		run(stores[mode].fs, bytes / 4 / MIB * MIB); /* not counted */
	for (uint64_t round = 0; round < rounds; round++) {
		for (int i = 0; i < MODES; i++) {
			int mode = (i + (int)round) % MODES;
			struct spent spent = run(stores[mode].fs, bytes);

			seconds[mode][round] = (double)spent.wall / 1e9;
			cpu[mode][round] = (double)spent.cpu / 1e9;
		}
		printf("  round %" PRIu64 ": off %.2f s (%.2f of a processor), all %.2f s (%.2f)\n",
			round + 1, seconds[OFF][round], cpu[OFF][round], seconds[ALL][round],
			cpu[ALL][round]);
	}
	ratio = median(seconds[OFF], rounds) / median(seconds[ALL], rounds);
	printf("%s: off %.1f MiB/s, all %.1f MiB/s, ratio %.2f (at least %.1f)\n", what,
		mib / median(seconds[OFF], rounds), mib / median(seconds[ALL], rounds), ratio,
		AT_LEAST);
	printf("  processor time: off %.2f s, all %.2f s, ratio %.2f\n", median(cpu[OFF], rounds),
		median(cpu[ALL], rounds), median(cpu[OFF], rounds) / median(cpu[ALL], rounds));
	return ratio >= AT_LEAST;
}

static bool keep_budget(uint64_t count)
{
	uint64_t budget = number("BUDGET", 256) * MIB, found = 0, looked = min_u64(1000000, count);
	uint64_t first = next_number;
	struct content_table *table;
	struct content_place place;
	int64_t begun, put;

	must(content_table_new(&table, budget), "make a table");
	begun = times_now(CLOCK_MONOTONIC);
	for (uint64_t i = 0; i < count; i++) {
		place = (struct content_place){.owner = 1, .block = i & UINT32_MAX};
		content_table_put(table, 0, (uint32_t)next_random() | 1, &place);
	}
	put = times_now(CLOCK_MONOTONIC) - begun;
	next_number = first;
	for (uint64_t i = 0; i < count; i++) {
		uint32_t sum = (uint32_t)next_random() | 1;

		if (i >= count - looked && content_table_find(table, 0, sum, &place, 1))
			found++;
	}
	printf("%" PRIu64 " blocks in a table of %" PRIu64 " MiB: it takes %.1f MiB and has %" PRIu64
	       " entries, %.0f ns each; of the last %" PRIu64 " %.1f %% are found\n",
		count, budget / MIB, (double)content_table_memory(table) / MIB,
		content_table_count(table), (double)put / (double)count, looked,
		100.0 * (double)found / (double)looked);
	found = content_table_memory(table);
	content_table_free(table);
	return found <= budget + MIB;
}

int main(int argc, char **argv)
{
	uint64_t indexed = number("INDEXED", 10000000), rounds = number("ROUNDS", 7);
	struct store stores[MODES];
	bool good;

	if (argc != 2 || rounds < 1 || rounds > MAX_ROUNDS) {
		fprintf(stderr, "usage: dedup FOLDER\n");
		return 2;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	log_open(LOG_TO_FILE, "/dev/null");
	make_stock();
	computed.size = indexed * BLOCK;
	for (int mode = 0; mode < MODES; mode++) {
		store_open(&stores[mode], argv[1], mode);
		clone_golden(stores[mode].fs);
	}
	fill_table(stores[ALL].fs, indexed, number("TAGS", 1));
	printf("%" PRIu64 " blocks in the index of an image, %" PRIu64 " in the table (%.1f MiB)\n",
		indexed, content_table_count(dedup_table(stores[ALL].fs)),
		(double)content_table_memory(dedup_table(stores[ALL].fs)) / MIB);
	good = compare_modes(stores, "1 MiB sequential", write_sequential,
		number("SEQUENTIAL", 256) * MIB, rounds);
	good &= compare_modes(stores, "4 KiB random", write_random, number("RANDOM", 64) * MIB, rounds);
	for (int mode = 0; mode < MODES; mode++) {
		must(fs_close(stores[mode].fs), "close");
		stores[mode].io->ops->free(stores[mode].io);
	}
	good &= keep_budget(5 * indexed);
	return good ? 0 : 1;
}
