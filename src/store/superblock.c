/* SPDX-License-Identifier: MIT */
/* Reading and writing the superblock. A store exists from the moment its superblock does. */
#include "store/superblock.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "base/log.h"
#include "base/mutation.h"
#include "base/times.h"
#include "goldfs/format.h"

#define SUPER_TEMP "superblock.new"

int superblock_decode(const void *buf, size_t len, struct superblock *sb)
{
	struct gf_disk_super disk;

	if (len < sizeof(disk))
		return -EUCLEAN;
	memcpy(&disk, buf, sizeof(disk));
	if (memcmp(disk.magic, GF_SUPER_MAGIC, sizeof(disk.magic)) != 0)
		return -EUCLEAN;
	/* A newer format may have another layout, so its version counts before its checksum. */
	if (disk.version > GF_FORMAT_VERSION)
		return -EPROTONOSUPPORT;
	if (disk.version == 0 || disk.length != sizeof(disk) ||
		disk.sum != hash_struct(&disk, offsetof(struct gf_disk_super, sum)))
		return -EUCLEAN;
	if (disk.incompat & ~GF_INCOMPAT_KNOWN)
		return -EPROTONOSUPPORT;
	if (disk.journal_size < 65536 || disk.journal_size % 4096)
		return -EUCLEAN;
	memcpy(sb->uuid, disk.uuid, sizeof(sb->uuid));
	memcpy(sb->secret, disk.secret, sizeof(sb->secret));
	sb->incompat = disk.incompat;
	sb->compat = disk.compat;
	sb->autoclear = disk.autoclear;
	sb->created_ns = disk.created_ns;
	sb->journal_size = disk.journal_size;
	sb->host = disk.host;
	return 0;
}

size_t superblock_encode(const struct superblock *sb, void *buf)
{
	struct gf_disk_super disk = {
		.version = GF_FORMAT_VERSION,
		.length = sizeof(disk),
		.incompat = sb->incompat,
		.compat = sb->compat,
		.autoclear = sb->autoclear,
		.created_ns = sb->created_ns,
		.journal_size = sb->journal_size,
		.host = sb->host,
	};

	memcpy(disk.magic, GF_SUPER_MAGIC, sizeof(disk.magic));
	memcpy(disk.uuid, sb->uuid, sizeof(disk.uuid));
	memcpy(disk.secret, sb->secret, sizeof(disk.secret));
	disk.sum = hash_struct(&disk, offsetof(struct gf_disk_super, sum));
	memcpy(buf, &disk, sizeof(disk));
	return sizeof(disk);
}

static int read_file(struct io *io, const char *path, struct superblock *sb)
{
	uint8_t buf[4096];
	ssize_t n;
	int fd = io->ops->open(io, path, O_RDONLY);

	if (fd == -ENOENT)
		return fd;
	if (fd < 0)
		return log_error(fd, "cannot open the store's \"%s\"", path);
	n = io->ops->pread(io, fd, buf, sizeof(buf), 0);
	io->ops->close(io, fd);
	if (n < 0)
		return log_error(n, "cannot read the store's \"%s\"", path);
	return superblock_decode(buf, n, sb);
}

int superblock_read(struct io *io, struct superblock *sb)
{
	int r = read_file(io, SUPER_PATH, sb);

	/* A newer format removes the copy before it writes a superblock of its own: with one that is
	 * whole a newer version is damage, too. */
	if ((r == -EUCLEAN || r == -EPROTONOSUPPORT) && read_file(io, SUPER_COPY_PATH, sb) == 0) {
		log_warning("the store's superblock is damaged, its copy is used; unmount and run "
			    "\"goldfs check --repair\" on the store");
		return 0;
	}
	if (r == -EPROTONOSUPPORT)
		log_error(0, "the store was written by a newer goldfs; install that version");
	else if (r == -EUCLEAN)
		log_error(0, "the store's superblock and its copy are damaged; restore \"%s\" from a "
			     "backup of the store", SUPER_PATH);
	return r;
}

static int write_file(struct io *io, const char *path, const struct superblock *sb)
{
	uint8_t buf[4096];
	size_t len = superblock_encode(sb, buf);
	int fd, r;

	fd = io->ops->open(io, SUPER_TEMP, O_RDWR | O_CREAT | O_TRUNC);
	if (fd < 0)
		return fd;
	r = io_pwrite(io, fd, buf, len, 0);
	if (!r)
		r = SITE("sync a new superblock", io->ops->fdatasync(io, fd));
	io->ops->close(io, fd);
	if (!r)
		r = SITE("rename the superblock into place",
			io->ops->rename(io, SUPER_TEMP, path));
	return r ? r : SITE("sync the name of the superblock", io->ops->syncdir(io, "."));
}

int superblock_write(struct io *io, const struct superblock *sb)
{
	return write_file(io, SUPER_PATH, sb);
}

/* The file that says how the store is read is the first to be trusted, so it is mended last, and
 * by `check` only: a mount that is wrong about it must not make it worse. */
int superblock_complete(struct io *io, const struct superblock *sb)
{
	uint8_t want[4096], is[4096];
	size_t len = superblock_encode(sb, want);
	struct superblock found;
	int r = read_file(io, SUPER_COPY_PATH, &found);

	if (!r && superblock_encode(&found, is) == len && memcmp(want, is, len) == 0)
		return 0;
	return r && r != -ENOENT && r != -EUCLEAN ? r : write_file(io, SUPER_COPY_PATH, sb);
}

int superblock_generate(struct superblock *sb, uint64_t journal_size)
{
	memset(sb, 0, sizeof(*sb));
	if (getrandom(sb->uuid, sizeof(sb->uuid), 0) != sizeof(sb->uuid) ||
		getrandom(sb->secret, sizeof(sb->secret), 0) != sizeof(sb->secret))
		return -EIO;
	sb->uuid[6] = (sb->uuid[6] & 0x0f) | 0x40; /* version 4, RFC 4122 */
	sb->uuid[8] = (sb->uuid[8] & 0x3f) | 0x80;
	sb->created_ns = (uint64_t)times_now(CLOCK_REALTIME);
	sb->journal_size = journal_size;
	return 0;
}
