/* SPDX-License-Identifier: MIT */
/*
 * The store that harnesses spoil: clones of each other, a frozen layer, folders, a link, attributes,
 * small and large writes, zeros and holes, blocks that several files share and records that announce
 * some, snapshots that were gone back to, a domain and a policy; unmounted, or as a killed process
 * left it. Made once per process, copied for each input.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>

#include "../crash/simdisk.h"
#include "base/hash.h"
#include "base/sizes.h"
#include "core/fs.h"
#include "fuzz.h"
#include "goldfs/format.h"
#include "image/image.h"

#define CAPACITY (64 * MIB)
#define GOLDEN_SIZE (300 * KIB + 700)

static uint8_t golden_bytes[GOLDEN_SIZE];
static struct simdisk *disks[TEMPLATES];
static struct image *golden;

static struct image *golden_of(void *arg, uint64_t id)
{
	(void)arg;
	return id == 1 ? golden : NULL;
}

struct fs_options store_options(void)
{
	return (struct fs_options){
		.journal_size = 1 * MIB,
		.reserve = 64 * KIB,
		.no_background = true,
		.dedup = FS_DEDUP_ALL,
		.store_fd = -1,
		.golden_test = golden_of,
	};
}

static void must(bool ok, const char *what)
{
	if (ok)
		return;
	fprintf(stderr, "the store to spoil cannot be made: %s\n", what);
	abort();
}

static uint64_t make(struct fs *fs, uint64_t parent, const char *name, uint32_t mode)
{
	struct fs_owner owner = {1000, 100};
	struct fs_attr attr;

	must(fs_make(fs, parent, name, mode, owner, &attr) == 0, name);
	fs_forget(fs, attr.ino, 1);
	return attr.ino;
}

static uint64_t copy(struct fs *fs, uint64_t from, const char *name)
{
	struct fs_clone_target target = {.parent = FS_INO_ROOT, .name = name};
	struct fs_owner owner = {1000, 100};
	uint64_t ino = 0;
	size_t failed;

	must(fs_clone(fs, from, &target, 1, owner, 0644, false, true, NULL, &failed) == 0, name);
	must(fs_resolve(fs, name, &ino) == 0, name);
	return ino;
}

static void put(struct fs *fs, uint64_t ino, size_t len, uint64_t off, int byte)
{
	uint8_t *buf = malloc(len);

	must(buf != NULL, "memory");
	for (size_t i = 0; i < len; i++)
		buf[i] = (uint8_t)(byte ? byte + (int)(i / 512) : 0);
	must(fs_write(fs, ino, buf, len, off) == (ssize_t)len, "write");
	free(buf);
}

static void no_matter(void *arg, int result)
{
	(void)arg;
	(void)result;
}

/* One folder is a domain, a file goes back to a snapshot: what was, is another snapshot. */
static void set_and_go_back(struct fs *fs, uint64_t ino, uint64_t folder, const char *name)
{
	const enum fs_domain own = FS_DOMAIN_OWN;
	const int golden_only = FS_DEDUP_GOLDEN;
	struct fs_snapshot *list = NULL;
	size_t count = 0, failed;
	uint64_t kept;

	must(fs_set_dedup(fs, folder, NULL, &own) == 0, "a domain");
	must(fs_set_dedup(fs, ino, &golden_only, NULL) == 0, "a policy");
	must(fs_snapshot_create(fs, &ino, 1, name, &failed) == 0, "a snapshot");
	put(fs, ino, 4096, 40 * KIB, 50);
	must(fs_snapshot_list(fs, ino, &list, &count) == 0 && count > 0, "snapshots");
	must(fs_snapshot_rollback(fs, ino, list[0].ino, true, "left", &kept) == 0, "going back");
	free(list);
}

static void fill(struct fs *fs)
{
	struct fs_owner owner = {0, 0};
	struct fs_attr attr = {.size = 200 * MIB};
	uint64_t a, b, folder;

	folder = make(fs, FS_INO_ROOT, "folder", S_IFDIR | 0750);
	a = make(fs, FS_INO_ROOT, "a", S_IFREG | 0640);
	must(fs_setattr(fs, a, FS_SET_SIZE, &attr) == 0, "size");
	put(fs, a, 20000, 3000, 1);
	put(fs, a, 128 * KIB, 1 * MIB, 2);
	put(fs, a, 8192, 64 * KIB, 0);
	put(fs, a, 4096, 100 * MIB, 3);
	put(fs, a, 80 * KIB, 10 * MIB, 30);
	must(fs_fallocate(fs, a, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4096, 4096) == 0,
		"punch");
	fs_fsync(fs, a, no_matter, NULL);
	must(fs_settle(fs) == 0, "settle");
	b = copy(fs, a, "b");
	/* What others have, too: large and small, and over the border of a region. */
	put(fs, b, 80 * KIB, 12 * MIB, 30);
	put(fs, a, 12 * KIB, 14 * MIB, 30);
	put(fs, a, 80 * KIB, 32 * MIB - 32 * KIB, 30);
	must(fs_settle(fs) == 0, "settle");
	put(fs, b, 8192, 4096, 9);
	put(fs, a, 8192, 8192, 8);
	make(fs, folder, "c", S_IFREG | 0600);
	set_and_go_back(fs, make(fs, folder, "g", S_IFREG | 0600), folder, "then");
	must(fs_setxattr(fs, a, "user.one", "value", 5, 0) == 0, "xattr");
	must(fs_symlink(fs, folder, "link", "../a", owner, &attr) == 0, "symlink");
	fs_forget(fs, attr.ino, 1);
}

static void fill_ring(struct fs *fs)
{
	uint64_t a = 0, b = 0, folder = 0;

	must(fs_resolve(fs, "a", &a) == 0 && fs_resolve(fs, "b", &b) == 0 &&
			fs_resolve(fs, "folder", &folder) == 0, "names");
	put(fs, a, 80 * KIB, 18 * MIB, 40);
	must(fs_settle(fs) == 0, "settle");
	put(fs, b, 80 * KIB, 16 * MIB, 40);
	put(fs, b, 80 * KIB, 20 * MIB, 40);
	put(fs, a, 5000, 30000, 7);
	put(fs, b, 70000, 2 * MIB, 6);
	fs_fsync(fs, b, no_matter, NULL);
	put(fs, b, 70000, 3 * MIB, 5);
	copy(fs, b, "d");
	put(fs, b, 4096, 0, 4);
	must(fs_rename(fs, FS_INO_ROOT, "d", folder, "e", 0) == 0, "rename");
	must(fs_fallocate(fs, a, FALLOC_FL_ZERO_RANGE, 100, 10000) == 0, "zero");
	must(fs_setxattr(fs, b, "user.two", "xx", 2, 0) == 0, "xattr");
	must(fs_unlink(fs, folder, "c") == 0, "unlink");
	must(fs_resolve(fs, "folder/e", &a) == 0, "names");
	set_and_go_back(fs, a, folder, "now");
}

static void make_templates(void)
{
	struct fs_options options = store_options();
	struct simdisk *disk = simdisk_new(CAPACITY);
	struct fs *fs;

	quiet();
	for (size_t i = 0; i < sizeof(golden_bytes); i++)
		golden_bytes[i] = i / 4096 % 3 ? (uint8_t)(i / 512) : 0;
	must(image_memory_new(&golden, golden_bytes, sizeof(golden_bytes)) == 0, "image");
	must(fs_open(&fs, simdisk_io(disk), &options) == 0, "open");
	fill(fs);
	must(fs_close(fs) == 0, "close");
	disks[TEMPLATE_CLOSED] = simdisk_crash(disk, SIMDISK_KEEP, 0);
	must(fs_open(&fs, simdisk_io(disk), &options) == 0, "open");
	fill_ring(fs);
	fs_abandon(fs);
	disks[TEMPLATE_KILLED] = simdisk_crash(disk, SIMDISK_KEEP, 0);
	simdisk_free(disk);
}

struct simdisk *store_disk(enum template which)
{
	if (!disks[0])
		make_templates();
	return simdisk_clone(disks[which % TEMPLATES]);
}

const uint8_t *store_secret(void)
{
	static uint8_t secret[HASH_SECRET_LEN];
	static bool known;
	struct simdisk *disk;
	size_t len = 0;
	uint8_t *bytes;

	if (known)
		return secret;
	known = true;
	disk = store_disk(TEMPLATE_CLOSED);
	bytes = store_peek(disk, "superblock", &len);
	must(bytes && len >= sizeof(struct gf_disk_super), "superblock");
	memcpy(secret, bytes + offsetof(struct gf_disk_super, secret), sizeof(secret));
	free(bytes);
	simdisk_free(disk);
	return secret;
}

void store_poke(struct simdisk *disk, const char *path, uint64_t off, const void *bytes,
	size_t len)
{
	struct io *io = simdisk_io(disk);
	int fd = io->ops->open(io, path, O_RDWR | O_CREAT);

	if (fd < 0)
		return;
	io_pwrite(io, fd, bytes, len, off);
	io->ops->close(io, fd);
}

uint8_t *store_peek(struct simdisk *disk, const char *path, size_t *len)
{
	struct io *io = simdisk_io(disk);
	int fd = io->ops->open(io, path, O_RDONLY);
	struct io_stat st;
	uint8_t *bytes = NULL;

	if (fd < 0)
		return NULL;
	if (io->ops->stat(io, fd, &st) == 0 && st.size <= 16 * MIB) {
		*len = st.size;
		bytes = calloc(1, st.size + 1);
		if (bytes)
			io_pread_full(io, fd, bytes, st.size, 0);
	}
	io->ops->close(io, fd);
	return bytes;
}

/* ---- using one ---- */

struct look {
	struct fs *fs;
	int budget;
	int depth;
};

static void look_at_file(struct fs *fs, uint64_t ino, uint64_t size)
{
	static uint8_t buf[96 * KIB];
	const uint64_t places[] = {0, size / 2, size > sizeof(buf) ? size - sizeof(buf) : 0,
		1 * MIB, size, UINT64_MAX - 4096, (uint64_t)INT64_MAX};
	int64_t at = 0;
	bool keep;

	if (fs_open_file(fs, ino, O_RDONLY, &keep) == 0)
		fs_close_file(fs, ino, O_RDONLY);
	for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
		ssize_t n = fs_read(fs, ino, buf, i ? 20000 : sizeof(buf), places[i]);

		if (n > (ssize_t)sizeof(buf))
			abort();
	}
	for (int i = 0; i < 8 && at >= 0; i++)
		at = fs_seek(fs, ino, (uint64_t)at, i % 2 ? SEEK_HOLE : SEEK_DATA);
}

static int look_at(void *arg, const char *name, const struct fs_attr *entry, uint64_t next)
{
	struct look *look = arg;
	struct fs *fs = look->fs;
	struct fs_attr attr;
	struct fs_info info;
	uint64_t ino = entry->ino;
	char list[300], value[300];
	char *text;

	(void)next;
	if (look->budget-- <= 0)
		return 1;
	if (!*name || strlen(name) > 255 || strchr(name, '/'))
		abort();
	if (fs_getattr(fs, ino, &attr))
		return 0;
	if (fs_listxattr(fs, ino, list, sizeof(list)) > 0)
		fs_getxattr(fs, ino, list, value, sizeof(value));
	fs_getxattr(fs, ino, "user.goldfs.unique_bytes", value, sizeof(value));
	if (S_ISLNK(attr.mode) && fs_readlink(fs, ino, &text) == 0)
		free(text);
	if (fs_path(fs, ino, &text) == 0)
		free(text);
	if (S_ISREG(attr.mode))
		look_at_file(fs, ino, attr.size);
	if (fs_info(fs, ino, FS_NOW, &info) == 0)
		fs_info_release(&info);
	if (S_ISDIR(attr.mode) && look->depth < 8) {
		look->depth++;
		fs_list(fs, ino, 0, look_at, look);
		look->depth--;
	}
	return 0;
}

void store_look(struct fs *fs, int budget)
{
	struct look look = {.fs = fs, .budget = budget};
	struct fs_store_figures figures;
	struct fs_statfs st;

	fs_list(fs, FS_INO_ROOT, 0, look_at, &look);
	fs_store_figures(fs, &figures);
	fs_statfs(fs, &st);
}

struct names {
	char name[12][256];
	uint64_t ino[12];
	int count;
};

static int take_name(void *arg, const char *name, const struct fs_attr *attr, uint64_t next)
{
	struct names *names = arg;

	(void)next;
	if (names->count == ARRAY_SIZE(names->ino))
		return 1;
	snprintf(names->name[names->count], sizeof(names->name[0]), "%s", name);
	names->ino[names->count++] = attr->ino;
	return 0;
}

static void change(struct fs *fs)
{
	struct names names = {.count = 0};
	struct fs_owner owner = {0, 0};
	struct fs_attr attr;
	uint64_t bytes;
	size_t failed;

	fs_list(fs, FS_INO_ROOT, 0, take_name, &names);
	for (int i = 0; i < names.count; i++) {
		struct fs_clone_target target = {.parent = FS_INO_ROOT};
		uint64_t ino = names.ino[i];
		static const uint8_t buf[70000] = {1, 2, 3};
		char fresh[16];

		snprintf(fresh, sizeof(fresh), "new%d", i);
		target.name = fresh;
		fs_write(fs, ino, buf, 5000, 777);
		fs_clone(fs, ino, &target, 1, owner, 0600, false, true, NULL, &failed);
		fs_write(fs, ino, buf, sizeof(buf), 1 * MIB);
		fs_fallocate(fs, ino, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, GF_MAX_SIZE);
		attr.size = 12345;
		fs_setattr(fs, ino, FS_SET_SIZE, &attr);
		fs_setxattr(fs, ino, "user.x", "y", 1, 0);
		if (i % 3 == 0)
			fs_rename(fs, FS_INO_ROOT, names.name[i], FS_INO_ROOT, "moved", 0);
		if (i % 3 == 1 && fs_unlink(fs, FS_INO_ROOT, names.name[i]) == -EISDIR)
			fs_rmdir(fs, FS_INO_ROOT, names.name[i]);
	}
	fs_if_removed(fs, names.ino, (size_t)names.count, &bytes);
	if (fs_make(fs, FS_INO_ROOT, "made", S_IFREG | 0600, owner, &attr) == 0)
		fs_forget(fs, attr.ino, 1);
	fs_settle(fs);
}

void store_use(struct simdisk *disk, bool read_only)
{
	struct fs_options options = store_options();

	options.read_only = read_only;
	for (int round = 0; round < 2; round++) {
		struct fs *fs;

		options.verify_reads = round;
		if (fs_open(&fs, simdisk_io(disk), &options))
			return;
		store_look(fs, 60);
		if (!round) {
			change(fs);
			store_look(fs, 30);
		}
		fs_close(fs);
	}
}
