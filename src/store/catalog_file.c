/* SPDX-License-Identifier: MIT */
/* See the header: two copies, the valid one with the higher generation counts. */
#include "store/catalog_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/mutation.h"
#include "base/sizes.h"
#include "goldfs/format.h"

#define OPS_OFFSET 4096
#define MAX_OPS (4 * GIB)

static void copy_path(char path[16], uint64_t generation)
{
	snprintf(path, 16, "catalog.%u", (unsigned)(generation % 2));
}

static void head_encode(const struct catalog_head *head, const void *ops, size_t len,
	struct gf_disk_catalog *disk)
{
	*disk = (struct gf_disk_catalog){
		.version = GF_FORMAT_VERSION,
		.flags = head->clean,
		.generation = head->generation,
		.length = len,
		.ops_sum = hash_struct(ops, len),
		.tail_pos = head->tail.pos,
		.tail_seq = head->tail.seq,
		.tail_prev = head->tail.prev,
		.epoch = head->epoch,
		.meta_seq = head->meta_seq,
		.next_ino = head->next_ino,
		.next_layer = head->next_layer,
		.next_golden = head->next_golden,
	};
	memcpy(disk->magic, GF_CATALOG_MAGIC, sizeof(disk->magic));
	memcpy(disk->uuid, head->uuid, sizeof(disk->uuid));
	disk->sum = hash_struct(disk, offsetof(struct gf_disk_catalog, sum));
}

int catalog_head_decode(const void *buf, size_t len, struct catalog_head *head, uint64_t *ops_len,
	uint64_t *ops_sum)
{
	struct gf_disk_catalog disk;

	if (len < sizeof(disk))
		return -EUCLEAN;
	memcpy(&disk, buf, sizeof(disk));
	if (memcmp(disk.magic, GF_CATALOG_MAGIC, sizeof(disk.magic)) != 0 ||
		disk.version != GF_FORMAT_VERSION || disk.length > MAX_OPS || disk.tail_pos % 64 ||
		disk.sum != hash_struct(&disk, offsetof(struct gf_disk_catalog, sum)))
		return -EUCLEAN;
	*head = (struct catalog_head){
		.generation = disk.generation,
		.tail = {.pos = disk.tail_pos, .seq = disk.tail_seq, .prev = disk.tail_prev},
		.epoch = disk.epoch,
		.meta_seq = disk.meta_seq,
		.next_ino = disk.next_ino,
		.next_layer = disk.next_layer,
		.next_golden = disk.next_golden,
		.clean = disk.flags & 1,
	};
	memcpy(head->uuid, disk.uuid, sizeof(head->uuid));
	*ops_len = disk.length;
	*ops_sum = disk.ops_sum;
	return 0;
}

/* Bytes that went out although their sync failed would make a copy that counts. */
static int invalidate(struct io *io, int fd)
{
	uint8_t zeros[OPS_OFFSET] = {0};

	return io_pwrite(io, fd, zeros, sizeof(zeros), 0) ||
	       SITE("sync the catalog that was made invalid", io->ops->fdatasync(io, fd));
}

/* Before a copy has its first byte its name is durable, also when its file was made by a process
 * that died over it; and with it every name that was made in the store's folder before. */
static int make_name_durable(struct io *io, int fd)
{
	struct io_stat st;
	int r = io->ops->stat(io, fd, &st);

	if (r || st.size)
		return r;
	r = SITE("sync the name of a new catalog", io->ops->syncdir(io, "."));
	if (!r)
		return 0;
	log_error(r, "cannot sync the store's folder");
	return -ENOTRECOVERABLE;
}

int catalog_file_write(struct io *io, const struct catalog_head *head, const void *ops, size_t len)
{
	uint8_t first[OPS_OFFSET] = {0};
	struct iovec iov[2] = {{first, sizeof(first)}, {(void *)ops, len}};
	struct gf_disk_catalog disk;
	char path[16];
	int fd, r;

	head_encode(head, ops, len, &disk);
	memcpy(first, &disk, sizeof(disk));
	copy_path(path, head->generation + (head->generation > 2 &&
						   MUTATED("write the catalog over the copy that counts")));
	fd = io->ops->open(io, path, O_RDWR | O_CREAT);
	if (fd < 0)
		return fd;
	r = make_name_durable(io, fd);
	/* Without the space for all of it the copy stays as it is. */
	if (!r && io->ops->allocate(io, fd, 0, sizeof(first) + len) == -ENOSPC)
		r = -ENOSPC;
	if (r) {
		io->ops->close(io, fd);
		return r;
	}
	r = io->ops->pwritev(io, fd, iov, len ? 2 : 1, 0);
	if (!r)
		r = SITE("cut the catalog to its length",
			io->ops->truncate(io, fd, sizeof(first) + len));
	if (!r)
		r = SITE("sync the catalog", io->ops->fdatasync(io, fd));
	if (r && invalidate(io, fd))
		r = log_error(-ENOTRECOVERABLE, "cannot write the store's \"%s\"", path);
	io->ops->close(io, fd);
	return r;
}

int catalog_file_read_copy(struct io *io, unsigned which, struct catalog_head *head, void **ops,
	size_t *len)
{
	uint8_t first[OPS_OFFSET];
	CLEANUP_FREE uint8_t *body = NULL;
	uint64_t ops_len, ops_sum;
	struct io_stat st;
	char path[16];
	int fd, r;

	memset(head, 0, sizeof(*head));
	copy_path(path, which);
	fd = io->ops->open(io, path, O_RDONLY);
	if (fd < 0)
		return fd;
	r = io->ops->stat(io, fd, &st);
	if (!r)
		r = io_pread_full(io, fd, first, sizeof(first), 0);
	if (!r)
		r = catalog_head_decode(first, sizeof(first), head, &ops_len, &ops_sum);
	if (!r && (st.size < OPS_OFFSET || ops_len > st.size - OPS_OFFSET))
		r = -EUCLEAN;
	if (!r) {
		body = malloc(ops_len ? ops_len : 1);
		r = body ? io_pread_full(io, fd, body, ops_len, OPS_OFFSET) : -ENOMEM;
	}
	io->ops->close(io, fd);
	if (!r && hash_struct(body, ops_len) != ops_sum)
		r = -EUCLEAN;
	if (r)
		return r;
	*ops = steal_pointer(&body);
	*len = ops_len;
	return 0;
}

int catalog_file_read(struct io *io, struct catalog_head *head, void **ops, size_t *len,
	bool *fallback)
{
	struct catalog_head heads[2];
	void *bodies[2] = {NULL, NULL};
	size_t lens[2];
	int results[2], best;

	for (unsigned i = 0; i < 2; i++) {
		results[i] = catalog_file_read_copy(io, i, &heads[i], &bodies[i], &lens[i]);
		if (results[i] && results[i] != -EUCLEAN && results[i] != -ENOENT) {
			free(bodies[0]);
			return log_error(results[i], "cannot read the store's \"catalog.%u\"", i);
		}
	}
	if (results[0] && results[1])
		return log_error(-EUCLEAN, "both copies of the store's catalog are damaged or missing");
	best = results[0] ? 1 : results[1] ? 0 : heads[1].generation > heads[0].generation;
	free(bodies[!best]);
	*head = heads[best];
	*ops = bodies[best];
	*len = lens[best];
	*fallback = results[!best] != 0;
	return 0;
}
