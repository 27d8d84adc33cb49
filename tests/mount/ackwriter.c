/* SPDX-License-Identifier: MIT */
/*
 * Writes to a file and remembers, sector by sector, what was acknowledged; checks it later.
 *
 *	ackwriter write FILE STATE SECONDS [GOLDEN]	0: time is up, 3: the file's owner died
 *	ackwriter verify FILE STATE [GOLDEN]		0: all as it must be, 1: not
 *
 * Every sector of 512 bytes that is written names the file, itself and a version, so what is read
 * back says which write it comes from. STATE is a mapped file with two versions per sector: the
 * one acknowledged last and the one last begun; they differ while a write is on its way, and for
 * good when it never returned. A sector is right when it holds the acknowledged version or the
 * begun one: old or new, nothing else. Version 0 is what the clone started with (GOLDEN, or
 * zeros); versions with the bit ZEROED read as zeros (a punched hole).
 *
 * verify settles open questions: what it finds becomes the acknowledged version, so that write and
 * verify can take turns on one STATE, with a kill of the daemon between them.
 *
 * Threads never write the same sector, so the order of two writes is never in doubt, but they do
 * write the same blocks: in the first eighth of the file they take turns sector by sector. In the
 * rest each has a stretch of its own. Small and large, aligned to sectors only, random and one
 * after the other, direct and through the page cache, with fsync and reads mixed in. The seed is
 * printed, and GOLDFS_SEED sets it; with NO_FSYNC set there is none.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define SECTOR 512u
#define THREADS 4u
#define LARGEST 2048u /* sectors of one write: 1 MiB */
#define ZEROED 0x80000000u
#define MAGIC UINT64_C(0x6b636174656c6c61)

struct state {
	uint64_t sectors;
	uint64_t id; /* of the file; part of every sector */
	_Atomic uint32_t version;
	uint32_t unused;
	struct {
		uint32_t acked;
		uint32_t begun;
	} sector[];
};

struct sector {
	uint64_t magic;
	uint64_t id;
	uint64_t number;
	uint32_t version;
	uint32_t filler[(SECTOR - 28) / 4];
};
_Static_assert(sizeof(struct sector) == SECTOR, "a sector is 512 bytes");

struct run {
	struct state *state;
	size_t state_len;
	int buffered; /* descriptors of FILE */
	int direct;   /* -1: not to be had */
	int golden;   /* -1: zeros */
	uint64_t seed;
	bool no_fsync;
	struct timespec end;
	atomic_bool died;
	atomic_bool wrong;
	_Atomic uint64_t writes;
	_Atomic uint64_t bytes;
};

struct writer {
	struct run *run;
	unsigned int index;
	uint64_t random;
	uint64_t next; /* sector to go on at, for writes one after the other */
	unsigned char *buf;
	unsigned char *ground;
};

static void die(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

static void die(const char *format, ...)
{
	va_list args;

	fputs("ackwriter: ", stderr);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	exit(2);
}

static uint64_t mix(uint64_t x)
{
	/* splitmix64, by Sebastiano Vigna */
	x += UINT64_C(0x9e3779b97f4a7c15);
	x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
	return x ^ (x >> 31);
}

static uint64_t draw(struct writer *writer, uint64_t below)
{
	writer->random = mix(writer->random);
	return writer->random % below;
}

static void fill(void *buf, uint64_t id, uint64_t number, uint32_t version)
{
	struct sector *sector = buf;
	uint64_t value = mix(id ^ mix(number ^ ((uint64_t)version << 40)));

	if (version & ZEROED) {
		memset(buf, 0, SECTOR);
		return;
	}
	*sector = (struct sector){
		.magic = MAGIC, .id = id, .number = number, .version = version};
	for (size_t i = 0; i < sizeof(sector->filler) / sizeof(sector->filler[0]); i++) {
		value = value * UINT64_C(6364136223846793005) + 1442695040888963407u;
		sector->filler[i] = (uint32_t)(value >> 32);
	}
}

/* Whether buf is sector number in that version; ground is what version 0 looks like. */
static bool is_version(struct run *run, const void *buf, uint64_t number, uint32_t version,
	const void *ground)
{
	unsigned char expected[SECTOR] __attribute__((aligned(8)));

	if (version == 0)
		return memcmp(buf, ground, SECTOR) == 0;
	fill(expected, run->state->id, number, version);
	return memcmp(buf, expected, SECTOR) == 0;
}

static void describe(struct run *run, const void *buf, uint64_t number)
{
	const struct sector *sector = buf;
	uint32_t acked = run->state->sector[number].acked;
	uint32_t begun = run->state->sector[number].begun;
	static const unsigned char zeros[SECTOR];

	fprintf(stderr, "ackwriter: sector %llu (byte %llu): acknowledged version %u%s, begun %u%s: ",
		(unsigned long long)number, (unsigned long long)(number * SECTOR), acked & ~ZEROED,
		acked & ZEROED ? " (zeros)" : "", begun & ~ZEROED, begun & ZEROED ? " (zeros)" : "");
	if (memcmp(buf, zeros, SECTOR) == 0)
		fprintf(stderr, "it reads as zeros\n");
	else if (sector->magic == MAGIC)
		fprintf(stderr, "it holds version %u of sector %llu of %s file\n", sector->version,
			(unsigned long long)sector->number,
			sector->id == run->state->id ? "this" : "another");
	else
		fprintf(stderr, "it holds what was never written\n");
}

/* What a call returned, with errno, in place of all it was asked for. Returns -errno, -EIO for less. */
static int failed(const char *call, bool direct, uint64_t number, uint64_t count, ssize_t got)
{
	int err = got < 0 ? errno : EIO;
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	fprintf(stderr, "ackwriter: %s%s of %llu bytes at %llu, at second %.3f: ", direct ? "direct " : "",
		call, (unsigned long long)(count * SECTOR), (unsigned long long)(number * SECTOR),
		(double)(now.tv_sec % 60) + (double)now.tv_nsec / 1e9);
	if (got < 0)
		fprintf(stderr, "%s\n", strerror(err));
	else
		fprintf(stderr, "%lld bytes only\n", (long long)got);
	return -err;
}

static void read_ground(struct run *run, void *buf, uint64_t number, uint64_t count)
{
	ssize_t got = 0;

	memset(buf, 0, count * SECTOR);
	if (run->golden >= 0)
		got = pread(run->golden, buf, count * SECTOR, (off_t)(number * SECTOR));
	if (got < 0)
		die("cannot read the golden image: %s", strerror(errno));
}

/* Reads sectors and judges them; settle makes what is found the acknowledged version. */
static int check(struct run *run, int fd, unsigned char *buf, unsigned char *ground, uint64_t number,
	uint64_t count, bool settle)
{
	struct state *state = run->state;
	ssize_t got = pread(fd, buf, count * SECTOR, (off_t)(number * SECTOR));
	int wrong = 0;

	if (got != (ssize_t)(count * SECTOR))
		return failed("read", fd == run->direct, number, count, got);
	read_ground(run, ground, number, count);
	for (uint64_t i = 0; i < count; i++) {
		uint64_t at = number + i;
		uint32_t acked = state->sector[at].acked;
		uint32_t begun = state->sector[at].begun;
		const void *sector = buf + i * SECTOR;
		const void *below = ground + i * SECTOR;

		if (is_version(run, sector, at, acked, below)) {
			if (settle)
				state->sector[at].begun = acked;
		} else if (begun != acked && is_version(run, sector, at, begun, below)) {
			if (settle)
				state->sector[at].acked = begun;
		} else if (wrong++ < 5) {
			describe(run, sector, at);
		}
	}
	return wrong;
}

/* The stretch that a thread has for itself. */
static void own_stretch(struct writer *writer, uint64_t *first, uint64_t *end)
{
	uint64_t sectors = writer->run->state->sectors;
	uint64_t shared = sectors / 8;
	uint64_t each = (sectors - shared) / THREADS;

	/* Odd, so that neighbours meet inside a block. */
	*first = shared + writer->index * each + (writer->index ? 3 : 0);
	*end = writer->index + 1 == THREADS ? sectors : shared + (writer->index + 1) * each + 3;
}

static void choose_range(struct writer *writer, uint64_t *number, uint64_t *count)
{
	uint64_t first, end, room;

	if (draw(writer, 4) == 0) {
		uint64_t turns = writer->run->state->sectors / 8 / THREADS;

		*number = draw(writer, turns) * THREADS + writer->index;
		*count = 1;
		return;
	}
	own_stretch(writer, &first, &end);
	switch (draw(writer, 6)) {
	case 0:
		*count = 1 + draw(writer, 8);
		break;
	case 1:
	case 2:
		*count = 8;
		break;
	case 3:
		*count = 1 + draw(writer, 256);
		break;
	case 4:
		*count = 8 * (1 + draw(writer, 32));
		break;
	default:
		*count = 1 + draw(writer, LARGEST);
		break;
	}
	room = end - first;
	if (*count > room)
		*count = room;
	if (draw(writer, 2) == 0) {
		if (writer->next < first || writer->next + *count > end)
			writer->next = first;
		*number = writer->next;
		writer->next += *count;
	} else {
		*number = first + draw(writer, room - *count + 1);
		if (*count % 8 == 0 && (*number & ~7ull) >= first)
			*number &= ~7ull;
	}
}

/* One write or punch. 0 or -errno. */
static int change(struct writer *writer, uint64_t number, uint64_t count)
{
	struct run *run = writer->run;
	struct state *state = run->state;
	bool punch = draw(writer, 16) == 0;
	bool direct = run->direct >= 0 && draw(writer, 2) == 0;
	uint32_t version = atomic_fetch_add(&state->version, 1) + 1;
	off_t off = (off_t)(number * SECTOR);
	ssize_t done;

	if (punch)
		version |= ZEROED;
	for (uint64_t i = 0; i < count; i++) {
		state->sector[number + i].begun = version;
		fill(writer->buf + i * SECTOR, state->id, number + i, version);
	}
	if (punch)
		done = fallocate(run->buffered, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, off,
				 (off_t)(count * SECTOR)) < 0 ? -1 : (ssize_t)(count * SECTOR);
	else
		done = pwrite(direct ? run->direct : run->buffered, writer->buf, count * SECTOR, off);
	if (done < 0)
		return failed(punch ? "punch" : "write", direct, number, count, done);
	/* A short write acknowledges what it wrote. */
	for (uint64_t i = 0; i < (uint64_t)done / SECTOR; i++)
		state->sector[number + i].acked = version;
	atomic_fetch_add(&run->writes, 1);
	atomic_fetch_add(&run->bytes, (uint64_t)done);
	if (draw(writer, 32) == 0 && !run->no_fsync && fsync(run->buffered) < 0)
		return failed("fsync", false, 0, 0, -1);
	return (uint64_t)done == count * SECTOR ? 0 : failed("write", direct, number, count, done);
}

static bool time_is_up(struct run *run)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec > run->end.tv_sec ||
		(now.tv_sec == run->end.tv_sec && now.tv_nsec >= run->end.tv_nsec);
}

static void *write_along(void *arg)
{
	struct writer *writer = arg;
	struct run *run = writer->run;
	int err = 0;

	while (err == 0 && !time_is_up(run) && !atomic_load(&run->died)) {
		uint64_t number, count;

		choose_range(writer, &number, &count);
		if (draw(writer, 5) == 0) {
			int fd = run->direct >= 0 && draw(writer, 2) ? run->direct : run->buffered;

			err = check(run, fd, writer->buf, writer->ground, number, count, false);
			if (err > 0) {
				atomic_store(&run->wrong, true);
				break;
			}
		} else {
			err = change(writer, number, count);
		}
	}
	if (err < 0)
		atomic_store(&run->died, true);
	return NULL;
}

static unsigned char *buffer(void)
{
	void *buf;

	if (posix_memalign(&buf, 4096, LARGEST * SECTOR))
		die("no memory");
	return buf;
}

static int write_all(struct run *run, unsigned int seconds)
{
	struct writer writers[THREADS];
	pthread_t threads[THREADS];

	clock_gettime(CLOCK_MONOTONIC, &run->end);
	run->end.tv_sec += seconds;
	for (unsigned int i = 0; i < THREADS; i++) {
		writers[i] = (struct writer){.run = run,
			.index = i,
			.random = mix(run->seed + i),
			.buf = buffer(),
			.ground = buffer()};
		if (pthread_create(&threads[i], NULL, write_along, &writers[i]))
			die("no thread");
	}
	for (unsigned int i = 0; i < THREADS; i++) {
		pthread_join(threads[i], NULL);
		free(writers[i].buf);
		free(writers[i].ground);
	}
	printf("ackwriter: %llu writes, %llu MiB, seed %llu%s\n", (unsigned long long)run->writes,
		(unsigned long long)run->bytes >> 20, (unsigned long long)run->seed,
		run->died ? ", then the file was gone" : "");
	return run->wrong ? 1 : run->died ? 3 : 0;
}

static int verify_all(struct run *run)
{
	unsigned char *buf = buffer();
	unsigned char *ground = buffer();
	uint64_t wrong = 0;

	for (uint64_t at = 0; at < run->state->sectors; at += LARGEST) {
		uint64_t count = run->state->sectors - at;
		int n = check(run, run->buffered, buf, ground, at, count < LARGEST ? count : LARGEST,
			true);

		if (n < 0)
			die("cannot read at byte %llu: %s", (unsigned long long)(at * SECTOR),
				strerror(-n));
		wrong += (uint64_t)n;
	}
	free(buf);
	free(ground);
	printf("ackwriter: %llu sectors, %llu wrong\n", (unsigned long long)run->state->sectors,
		(unsigned long long)wrong);
	return wrong ? 1 : 0;
}

static void map_state(struct run *run, const char *path)
{
	struct stat st;
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
	uint64_t sectors;

	if (fd < 0)
		die("'%s': %s", path, strerror(errno));
	if (fstat(run->buffered, &st) < 0)
		die("fstat: %s", strerror(errno));
	sectors = (uint64_t)st.st_size / SECTOR;
	if (sectors < 4 * LARGEST)
		die("the file must have at least %u MiB", 4 * LARGEST * SECTOR >> 20);
	run->state_len = sizeof(struct state) + sectors * sizeof(run->state->sector[0]);
	if (ftruncate(fd, (off_t)run->state_len) < 0)
		die("'%s': %s", path, strerror(errno));
	run->state = mmap(NULL, run->state_len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (run->state == MAP_FAILED)
		die("'%s': %s", path, strerror(errno));
	close(fd);
	if (run->state->sectors == 0) {
		run->state->sectors = sectors;
		run->state->id = mix(run->seed ^ (uint64_t)getpid() << 32);
	} else if (run->state->sectors != sectors) {
		die("'%s' belongs to a file of another size", path);
	}
}

static void open_files(struct run *run, const char *path, const char *golden, bool writing)
{
	run->buffered = open(path, (writing ? O_RDWR : O_RDONLY) | O_CLOEXEC);
	if (run->buffered < 0)
		die("'%s': %s", path, strerror(errno));
	run->direct = writing ? open(path, O_RDWR | O_DIRECT | O_CLOEXEC) : -1;
	run->golden = -1;
	if (golden) {
		run->golden = open(golden, O_RDONLY | O_CLOEXEC);
		if (run->golden < 0)
			die("'%s': %s", golden, strerror(errno));
	}
}

int main(int argc, char **argv)
{
	struct run run = {.seed = (uint64_t)time(NULL) * 1000 + (uint64_t)getpid() % 1000};
	const char *seed = getenv("GOLDFS_SEED");
	const char *no_fsync = getenv("NO_FSYNC");
	int status;

	run.no_fsync = no_fsync && *no_fsync;
	if (seed)
		run.seed = strtoull(seed, NULL, 10);
	if ((argc == 5 || argc == 6) && strcmp(argv[1], "write") == 0) {
		open_files(&run, argv[2], argv[5], true);
		map_state(&run, argv[3]);
		status = write_all(&run, (unsigned int)atoi(argv[4]));
	} else if ((argc == 4 || argc == 5) && strcmp(argv[1], "verify") == 0) {
		open_files(&run, argv[2], argv[4], false);
		map_state(&run, argv[3]);
		status = verify_all(&run);
	} else {
		fputs("usage: ackwriter write FILE STATE SECONDS [GOLDEN]\n"
		      "       ackwriter verify FILE STATE [GOLDEN]\n", stderr);
		status = 2;
	}
	return status;
}
