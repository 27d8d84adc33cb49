// SPDX-License-Identifier: MIT
/*
 * A recorded boot, once more on many disks.
 *
 *	replay [-b] [-j ATONCE] [-s SCALE] [-v] TRACE DISK...
 *
 * TRACE, TRACE.data and TRACE.same are what tests/bench/record.py leaves. Each DISK is a guest: its
 * reads, writes, flushes and discards are made one after the other, ATONCE guests at a time (all of
 * them without -j), with O_DIRECT as a hypervisor with cache=none would, or through the page cache
 * with -b. Pauses between requests are SCALE times those that were recorded (0: none).
 *
 * What two boots wrote alike is written as recorded; what differed gets the number of the guest in
 * its first bytes, so that it is different on every disk. With -v all that was written is compared
 * afterwards, and a difference is a failure.
 *
 * Prints one line of JSON: guests, seconds until the last was done, bytes read and written, and how
 * long guests took.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define PIECE 4096u
#define SECTOR 512u
#define STACK (128 * 1024)

struct request {
	int64_t at_ns; /* since the first one */
	char op;
	off_t off;
	size_t len;
	size_t data;  /* of a write: its place in TRACE.data */
	size_t piece; /* of a write: the number of its first 4 KiB */
};

static struct request *requests;
static size_t request_count, longest = SECTOR;
static uint8_t *data;
static char *same;
static char **disks;
static size_t disk_count;
static double *seconds_of; /* each disk */
static atomic_size_t next_disk;
static double scale;
static bool buffered, verify;

static void die(const char *what)
{
	fprintf(stderr, "replay: %s: %s\n", what, strerror(errno));
	exit(1);
}

static int64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static void *load(const char *trace, const char *suffix)
{
	char name[4096];
	FILE *in;
	long size;
	char *bytes;

	snprintf(name, sizeof(name), "%s%s", trace, suffix);
	in = fopen(name, "r");
	if (!in || fseek(in, 0, SEEK_END) < 0)
		die(name);
	size = ftell(in);
	rewind(in);
	bytes = calloc(1, (size_t)size + 1);
	if (!bytes || fread(bytes, 1, (size_t)size, in) != (size_t)size)
		die(name);
	fclose(in);
	return bytes;
}

static void load_requests(const char *trace)
{
	FILE *in = fopen(trace, "r");
	size_t capacity = 0, bytes = 0, pieces = 0;
	long long at, off;
	int64_t first = 0;
	size_t len;
	char op;

	if (!in)
		die(trace);
	while (fscanf(in, "%lld %c %lld %zu", &at, &op, &off, &len) == 4) {
		if (request_count == capacity) {
			capacity = capacity ? 2 * capacity : 1024;
			requests = realloc(requests, capacity * sizeof(*requests));
			if (!requests)
				die("memory");
		}
		first = request_count ? first : at;
		requests[request_count++] = (struct request){.at_ns = at - first, .op = op,
			.off = off, .len = len, .data = bytes, .piece = pieces};
		if (op == 'W') {
			bytes += len;
			pieces += (len + PIECE - 1) / PIECE;
		}
		if ((op == 'W' || op == 'R') && len > longest)
			longest = len;
	}
	fclose(in);
}

/* What guest number n writes, or finds afterwards. */
static void fill(const struct request *r, size_t n, uint8_t *buf)
{
	uint64_t number = n + 1;

	memcpy(buf, data + r->data, r->len);
	for (size_t at = 0; at < r->len; at += PIECE)
		if (same[r->piece + at / PIECE] != '1')
			memcpy(buf + at, &number, sizeof(number));
}

static void pause_until(int64_t start, const struct request *r)
{
	int64_t at = start + (int64_t)(scale * (double)r->at_ns);
	struct timespec until = {.tv_sec = at / 1000000000, .tv_nsec = at % 1000000000};

	if (scale > 0)
		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
}

/* Who asked for a byte asked a file; a disk reads sectors. */
static ssize_t read_sectors(int fd, const struct request *r, uint8_t *buf)
{
	off_t start = r->off / SECTOR * SECTOR;
	off_t end = (r->off + (off_t)r->len + SECTOR - 1) / SECTOR * SECTOR;

	return pread(fd, buf, (size_t)(end - start), start);
}

static bool do_request(int fd, const struct request *r, size_t n, uint8_t *buf)
{
	switch (r->op) {
	case 'R': /* shorter at the end of the disk */
		return read_sectors(fd, r, buf) >= 0;
	case 'W':
		fill(r, n, buf);
		return pwrite(fd, buf, r->len, r->off) == (ssize_t)r->len;
	case 'F':
		return fdatasync(fd) == 0;
	case 'D': /* a disk need not be able to */
		return fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, r->off,
			       (off_t)r->len) == 0 || errno == EOPNOTSUPP;
	default:
		errno = EINVAL;
		return false;
	}
}

/* Whether a later request changed the sector at `at`. */
static bool is_superseded(size_t i, off_t at)
{
	for (i++; i < request_count; i++)
		if ((requests[i].op == 'W' || requests[i].op == 'D') && at >= requests[i].off &&
			at < requests[i].off + (off_t)requests[i].len)
			return true;
	return false;
}

static void check_disk(int fd, size_t n, uint8_t *buf)
{
	uint8_t *want = malloc(longest);

	for (size_t i = 0; i < request_count; i++) {
		const struct request *r = &requests[i];

		if (r->op != 'W')
			continue;
		fill(r, n, want);
		if (pread(fd, buf, r->len, r->off) != (ssize_t)r->len)
			die(disks[n]);
		for (size_t at = 0; at < r->len; at += SECTOR) {
			if (memcmp(buf + at, want + at, SECTOR) != 0 &&
				!is_superseded(i, r->off + (off_t)at)) {
				fprintf(stderr, "replay: %s: wrong bytes at %lld\n", disks[n],
					(long long)(r->off + (off_t)at));
				exit(1);
			}
		}
	}
	free(want);
}

static void boot(size_t n, uint8_t *buf)
{
	int fd = open(disks[n], O_RDWR | O_CLOEXEC | (buffered ? 0 : O_DIRECT));
	int64_t start = now_ns();

	if (fd < 0)
		die(disks[n]);
	for (size_t i = 0; i < request_count; i++) {
		pause_until(start, &requests[i]);
		if (!do_request(fd, &requests[i], n, buf))
			die(disks[n]);
	}
	seconds_of[n] = (double)(now_ns() - start) / 1e9;
	if (verify)
		check_disk(fd, n, buf);
	close(fd);
}

static void *run(void *arg)
{
	uint8_t *buf = aligned_alloc(PIECE, longest / PIECE * PIECE + 2 * PIECE);
	size_t n;

	if (!buf)
		die("memory");
	while ((n = atomic_fetch_add(&next_disk, 1)) < disk_count)
		boot(n, buf);
	free(buf);
	return NULL;
}

static void run_all(size_t at_once)
{
	pthread_t *threads = calloc(at_once, sizeof(*threads));
	pthread_attr_t attr;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK);
	for (size_t i = 0; i < at_once; i++)
		if (!threads || (errno = pthread_create(&threads[i], &attr, run, NULL)) != 0)
			die("a thread");
	for (size_t i = 0; i < at_once; i++)
		pthread_join(threads[i], NULL);
	free(threads);
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static void report(double seconds)
{
	uint64_t bytes[2] = {0, 0}, counts[2] = {0, 0};

	for (size_t i = 0; i < request_count; i++) {
		if (requests[i].op != 'R' && requests[i].op != 'W')
			continue;
		bytes[requests[i].op == 'W'] += requests[i].len;
		counts[requests[i].op == 'W']++;
	}
	qsort(seconds_of, disk_count, sizeof(*seconds_of), compare);
	printf("{\"guests\": %zu, \"seconds\": %.3f, \"reads\": %llu, \"read_bytes\": %llu, "
	       "\"writes\": %llu, \"write_bytes\": %llu, \"median_boot\": %.3f, "
	       "\"longest_boot\": %.3f}\n",
		disk_count, seconds, (unsigned long long)counts[0], (unsigned long long)bytes[0],
		(unsigned long long)counts[1], (unsigned long long)bytes[1],
		seconds_of[disk_count / 2], seconds_of[disk_count - 1]);
}

int main(int argc, char **argv)
{
	struct rlimit files = {.rlim_cur = 65536, .rlim_max = 65536};
	size_t at_once = 0;
	int64_t start;
	int option;

	while ((option = getopt(argc, argv, "bj:s:v")) != -1) {
		if (option == 'b')
			buffered = true;
		else if (option == 'j')
			at_once = strtoul(optarg, NULL, 10);
		else if (option == 's')
			scale = atof(optarg);
		else if (option == 'v')
			verify = true;
		else
			return 2;
	}
	if (argc - optind < 2) {
		fprintf(stderr, "usage: replay [-b] [-j ATONCE] [-s SCALE] [-v] TRACE DISK...\n");
		return 2;
	}
	setrlimit(RLIMIT_NOFILE, &files);
	load_requests(argv[optind]);
	data = load(argv[optind], ".data");
	same = load(argv[optind], ".same");
	disks = argv + optind + 1;
	disk_count = (size_t)(argc - optind - 1);
	seconds_of = calloc(disk_count, sizeof(*seconds_of));
	if (!request_count || !seconds_of)
		die(argv[optind]);
	start = now_ns();
	run_all(at_once && at_once < disk_count ? at_once : disk_count);
	report((double)(now_ns() - start) / 1e9);
	return 0;
}
