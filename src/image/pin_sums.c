/* SPDX-License-Identifier: MIT */
/*
 * golden/ID.sums: one checksum per MiB of a linked image.
 *
 * A linked pin shares its bytes with a file that anybody with the rights may open while nothing is
 * mounted. Afterwards the mtime says "perhaps", and samples miss a small edit; these sums decide.
 * They cost one pass over the data, made in the background after the first clone, and 8 bytes per
 * MiB. Holes cost nothing: a chunk without data has the sum 0, as has one that is all zeros.
 *
 * The pass must not push what guests use out of the page cache. The file is a hint: it is replaced
 * whole, and when it is damaged it is as if it did not exist.
 */
#include "image/pin.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/sizes.h"
#include "image/pin_file.h"

static uint64_t chunks_of(uint64_t size)
{
	return size / GF_SUMS_CHUNK + (size % GF_SUMS_CHUNK != 0);
}

uint64_t pin_chunk_sum(const void *chunk, size_t len)
{
	const uint8_t *bytes = chunk;
	uint64_t sum;

	/* is_zero() wants whole words; what is left of a last chunk is looked at by itself. */
	if (is_zero(chunk, len & ~(size_t)7)) {
		size_t i = len & ~(size_t)7;

		while (i < len && bytes[i] == 0)
			i++;
		if (i == len)
			return 0;
	}
	sum = hash_struct(chunk, len);
	return sum ? sum : 1;
}

/* Reads only what is data: going through holes costs as much as reading zeros. */
static int read_chunk(int fd, uint8_t *buf, size_t len, uint64_t off)
{
	uint64_t pos = off, start, end;
	int rc = 0;

	while (rc == 0 && pos < off + len) {
		rc = fd_next_data(fd, pos, &start, &end);
		if (rc == -EINVAL || rc == -EOPNOTSUPP)
			return fd_pread_past_cache(fd, buf, len, off);
		if (rc < 0 && rc != -ENXIO)
			return rc;
		if (rc == -ENXIO)
			start = end = off + len;
		start = min_u64(start, off + len);
		end = min_u64(end, off + len);
		memset(buf + (pos - off), 0, (size_t)(start - pos));
		rc = fd_pread_past_cache(fd, buf + (start - off), (size_t)(end - start), start);
		pos = end;
	}
	return rc;
}

int pin_for_each_chunk(int fd, uint64_t size,
	int (*cb)(void *arg, uint64_t chunk, const void *buf, size_t len), void *arg)
{
	CLEANUP_FREE uint8_t *buf = malloc(GF_SUMS_CHUNK);
	uint64_t pos = 0, end;
	int rc = 0;

	if (!buf)
		return -ENOMEM;
	while (rc == 0 && pos < size) {
		size_t len;

		rc = fd_next_data(fd, pos, &pos, &end);
		if (rc == -ENXIO)
			return 0;
		if (rc < 0 && rc != -EINVAL && rc != -EOPNOTSUPP)
			return rc;
		pos = round_down(pos, GF_SUMS_CHUNK);
		if (pos >= size)
			return 0;
		len = (size_t)min_u64(GF_SUMS_CHUNK, size - pos);
		rc = read_chunk(fd, buf, len, pos);
		if (rc == 0)
			rc = cb(arg, pos / GF_SUMS_CHUNK, buf, len);
		pos += GF_SUMS_CHUNK;
	}
	return rc;
}

void pin_sums_release(struct pin_sums *sums)
{
	free(sums->sum);
	sums->sum = NULL;
}

static bool is_header(const struct gf_disk_sums *disk, uint64_t id)
{
	return memcmp(disk->magic, GF_SUMS_MAGIC, sizeof(disk->magic)) == 0 &&
	       le64toh(disk->sum) == hash_struct(disk, offsetof(struct gf_disk_sums, sum)) &&
	       le32toh(disk->version) == 1 && le32toh(disk->chunk) == GF_SUMS_CHUNK &&
	       le64toh(disk->golden) == id;
}

static void seal_header(struct gf_disk_sums *disk)
{
	disk->sum = htole64(hash_struct(disk, offsetof(struct gf_disk_sums, sum)));
}

/* Pure: takes the sums out of len bytes that may be anything. */
static int decode(const uint8_t *bytes, size_t len, uint64_t id, struct pin_sums *sums)
{
	struct gf_disk_sums disk;
	uint64_t i;

	if (len < sizeof(disk))
		return -EUCLEAN;
	memcpy(&disk, bytes, sizeof(disk));
	if (!is_header(&disk, id))
		return -EUCLEAN;
	sums->size = le64toh(disk.size);
	sums->count = le64toh(disk.count);
	if (sums->count == 0 && sums->size > 0 && len == sizeof(disk))
		return -ENOENT; /* only a time so far */
	if (sums->count != chunks_of(sums->size) || sums->count != (len - sizeof(disk)) / 8 ||
		le64toh(disk.sums_sum) != hash_struct(bytes + sizeof(disk), len - sizeof(disk)))
		return -EUCLEAN;
	sums->sum = calloc(sums->count + 1, sizeof(*sums->sum));
	if (!sums->sum)
		return -ENOMEM;
	memcpy(sums->sum, bytes + sizeof(disk), sums->count * 8);
	for (i = 0; i < sums->count; i++)
		sums->sum[i] = le64toh(sums->sum[i]);
	return 0;
}

int pin_sums_load(int store_fd, uint64_t id, struct pin_sums *sums)
{
	const uint64_t most = sizeof(struct gf_disk_sums) + chunks_of(GF_MAX_SIZE) * 8;
	CLEANUP_FREE uint8_t *bytes = NULL;
	CLEANUP_CLOSE int fd = -1;
	char name[PIN_NAME_MAX];
	struct stat st;
	int rc;

	pin_name(name, id, ".sums");
	fd = openat(store_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0 || fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size > most)
		return -EUCLEAN;
	bytes = malloc((size_t)st.st_size + 1);
	if (!bytes)
		return -ENOMEM;
	rc = fd_pread_full(fd, bytes, (size_t)st.st_size, 0);
	return rc < 0 ? rc : decode(bytes, (size_t)st.st_size, id, sums);
}

int pin_sums_exist(int store_fd, uint64_t id)
{
	struct pin_sums sums = {0};
	int rc = pin_sums_load(store_fd, id, &sums);

	pin_sums_release(&sums);
	return rc;
}

struct check {
	const struct pin_sums *sums;
	uint64_t next; /* first chunk not seen yet */
};

/* Chunks that were passed over are holes, so they have to be zeros. */
static int check_holes(struct check *check, uint64_t upto)
{
	while (check->next < upto)
		if (check->sums->sum[check->next++] != 0)
			return -ESTALE;
	return 0;
}

static int check_chunk(void *arg, uint64_t chunk, const void *buf, size_t len)
{
	struct check *check = arg;
	int rc = check_holes(check, chunk);

	if (rc < 0)
		return rc;
	check->next = chunk + 1;
	return check->sums->sum[chunk] == pin_chunk_sum(buf, len) ? 0 : -ESTALE;
}

int pin_sums_verify(int store_fd, uint64_t id, int fd)
{
	struct pin_sums sums = {0};
	struct check check = {.sums = &sums};
	struct stat st;
	int rc;

	if (fstat(fd, &st) < 0)
		return -errno;
	rc = pin_sums_load(store_fd, id, &sums);
	if (rc == 0 && sums.size != (uint64_t)st.st_size)
		rc = -ESTALE;
	if (rc == 0)
		rc = pin_for_each_chunk(fd, sums.size, check_chunk, &check);
	if (rc == 0)
		rc = check_holes(&check, sums.count);
	pin_sums_release(&sums);
	return rc;
}

struct making {
	struct pin_sums sums;
	int (*progress)(void *arg, uint64_t done, uint64_t total);
	void *arg;
};

static int make_chunk(void *arg, uint64_t chunk, const void *buf, size_t len)
{
	struct making *making = arg;

	making->sums.sum[chunk] = htole64(pin_chunk_sum(buf, len));
	if (making->progress &&
		making->progress(making->arg, chunk * GF_SUMS_CHUNK + len, making->sums.size))
		return -ECANCELED;
	return 0;
}

/* Here the sums are in disk order already. */
static int write_sums(int store_fd, uint64_t id, const struct pin_sums *sums, int64_t ctime_ns)
{
	struct gf_disk_sums disk = {
		.version = htole32(1),
		.chunk = htole32(GF_SUMS_CHUNK),
		.golden = htole64(id),
		.size = htole64(sums->size),
		.count = htole64(sums->count),
		.sums_sum = htole64(hash_struct(sums->sum, sums->count * 8)),
		.ctime_ns = (int64_t)htole64((uint64_t)ctime_ns),
	};
	struct iovec iov[2] = {
		{.iov_base = &disk, .iov_len = sizeof(disk)},
		{.iov_base = sums->sum, .iov_len = sums->count * 8},
	};
	CLEANUP_CLOSE int fd = -1;
	int rc;

	memcpy(disk.magic, GF_SUMS_MAGIC, sizeof(disk.magic));
	seal_header(&disk);
	fd = pin_tmp_open(store_fd, id, ".sums");
	if (fd < 0)
		return fd;
	rc = fd_pwritev(fd, iov, 2, 0);
	if (rc == 0)
		rc = pin_tmp_publish(store_fd, id, ".sums", fd);
	if (rc < 0)
		pin_tmp_drop(store_fd, id, ".sums");
	return rc;
}

static int64_t ctime_of(int fd)
{
	struct stat st;

	return fstat(fd, &st) < 0 ? 0 : (int64_t)st.st_ctim.tv_sec * 1000000000 + st.st_ctim.tv_nsec;
}

static int read_header(int fd, uint64_t id, struct gf_disk_sums *disk)
{
	ssize_t n = fd_pread(fd, disk, sizeof(*disk), 0);

	if (n < 0)
		return (int)n;
	return n == sizeof(*disk) && is_header(disk, id) ? 0 : -ENOENT;
}

int pin_seen(int store_fd, uint64_t id, int64_t *ctime_ns)
{
	CLEANUP_CLOSE int fd = -1;
	struct gf_disk_sums disk;
	char name[PIN_NAME_MAX];
	int rc;

	pin_name(name, id, ".sums");
	fd = openat(store_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return -errno;
	rc = read_header(fd, id, &disk);
	if (rc < 0)
		return rc;
	*ctime_ns = (int64_t)le64toh((uint64_t)disk.ctime_ns);
	return *ctime_ns ? 0 : -ENOENT;
}

/* A header is within one sector, so it is never half of one and half of another. */
int pin_seen_set(int store_fd, uint64_t id, uint64_t size, int64_t ctime_ns)
{
	CLEANUP_CLOSE int fd = -1;
	const struct pin_sums none = {.size = size};
	struct gf_disk_sums disk;
	char name[PIN_NAME_MAX];

	pin_name(name, id, ".sums");
	fd = openat(store_fd, name, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0 && errno != ENOENT)
		return -errno;
	if (fd < 0 || read_header(fd, id, &disk) < 0)
		return size ? write_sums(store_fd, id, &none, ctime_ns) : 0;
	disk.ctime_ns = (int64_t)htole64((uint64_t)ctime_ns);
	seal_header(&disk);
	return fd_pwrite(fd, &disk, sizeof(disk), 0);
}

int pin_sums_make(int store_fd, uint64_t id, int fd,
	int (*progress)(void *arg, uint64_t done, uint64_t total), void *arg)
{
	struct making making = {.progress = progress, .arg = arg};
	struct pin_print before, after;
	int64_t ctime_ns = ctime_of(fd);
	int rc;

	rc = pin_print_fd(fd, &before);
	if (rc < 0)
		return rc;
	making.sums.size = before.size;
	making.sums.count = chunks_of(before.size);
	making.sums.sum = calloc(making.sums.count + 1, sizeof(*making.sums.sum));
	if (!making.sums.sum)
		return -ENOMEM;
	rc = pin_for_each_chunk(fd, before.size, make_chunk, &making);
	if (rc == 0)
		rc = pin_print_fd(fd, &after);
	if (rc == 0 && (before.size != after.size || before.mtime_ns != after.mtime_ns ||
			       before.sample != after.sample))
		rc = -ESTALE;
	if (rc == 0)
		rc = write_sums(store_fd, id, &making.sums,
			ctime_of(fd) == ctime_ns ? ctime_ns : 0);
	pin_sums_release(&making.sums);
	return rc;
}
