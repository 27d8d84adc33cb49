/* SPDX-License-Identifier: MIT */
/* Making stores, copying them, and opening them without syncs. */
#include "corrupt.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/sizes.h"
#include "core/dedup.h"
#include "core/fs_internal.h"
#include "image/folder.h"
#include "image/pin.h"

#define IMAGE_A "a.img"
#define IMAGE_B "dir/b.img"
#define IMAGE_A_SIZE (900 * KIB + 100)
#define IMAGE_B_SIZE (33 * MIB)

/* ---- folders ---- */

void scratch_root(char path[PATH_ROOM])
{
	const char *tmp = getenv("TMPDIR");

	snprintf(path, PATH_ROOM, "/dev/shm/goldfs-corrupt.XXXXXX");
	if (mkdtemp(path))
		return;
	snprintf(path, PATH_ROOM, "%s/goldfs-corrupt.XXXXXX", tmp ? tmp : "/var/tmp");
	if (!mkdtemp(path))
		path[0] = '\0';
}

void remove_tree(const char *path)
{
	struct dirent *entry;
	DIR *dir = opendir(path);

	while (dir && (entry = readdir(dir)) != NULL) {
		char below[PATH_ROOM + 300];

		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
			continue;
		snprintf(below, sizeof(below), "%s/%s", path, entry->d_name);
		if (entry->d_type == DT_DIR)
			remove_tree(below);
		else
			unlink(below);
	}
	if (dir)
		closedir(dir);
	rmdir(path);
}

static int copy_bytes(int from, int to, uint64_t size)
{
	static uint8_t buf[256 * KIB];
	uint64_t off = 0, start, end;
	int r;

	while ((r = fd_next_data(from, off, &start, &end)) == 0) {
		for (off = start; off < end && !r; off += min_u64(sizeof(buf), end - off)) {
			size_t n = min_u64(sizeof(buf), end - off);

			r = fd_pread_full(from, buf, n, off);
			if (!r)
				r = fd_pwrite(to, buf, n, off);
		}
		if (r)
			return r;
		off = end;
	}
	return r != -ENXIO ? r : ftruncate(to, (off_t)size) ? -errno : 0;
}

/* Files with two links, so that the copies are one file, too. */
struct links {
	ino_t ino[16];
	char path[16][2 * PATH_ROOM];
	int count;
};

static int copy_file(const char *from, const char *to, const struct stat *st, struct links *links)
{
	CLEANUP_CLOSE int in = -1, out = -1;
	struct timespec times[2];
	int r;

	for (int i = 0; i < links->count; i++)
		if (links->ino[i] == st->st_ino)
			return link(links->path[i], to) ? -errno : 0;
	in = open(from, O_RDONLY | O_CLOEXEC);
	out = open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, st->st_mode & 07777);
	if (in < 0 || out < 0)
		return -errno;
	r = copy_bytes(in, out, (uint64_t)st->st_size);
	times[0] = st->st_atim;
	times[1] = st->st_mtim;
	if (!r && futimens(out, times))
		r = -errno;
	if (st->st_nlink > 1 && links->count < 16) {
		links->ino[links->count] = st->st_ino;
		snprintf(links->path[links->count++], 2 * PATH_ROOM, "%s", to);
	}
	return r;
}

static int copy_tree(const char *from, const char *to, struct links *links)
{
	struct dirent *entry;
	DIR *dir = opendir(from);
	int r = 0;

	if (!dir || mkdir(to, 0700)) {
		r = -errno;
		if (dir)
			closedir(dir);
		return r;
	}
	while (!r && (entry = readdir(dir)) != NULL) {
		char a[PATH_ROOM + 300], b[PATH_ROOM + 300];
		struct stat st;

		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
			continue;
		snprintf(a, sizeof(a), "%s/%s", from, entry->d_name);
		snprintf(b, sizeof(b), "%s/%s", to, entry->d_name);
		if (lstat(a, &st))
			r = -errno;
		else
			r = S_ISDIR(st.st_mode) ? copy_tree(a, b, links) :
						  copy_file(a, b, &st, links);
	}
	closedir(dir);
	return r;
}

int copy_world(const char *from, const char *to)
{
	struct links links = {.count = 0};

	return copy_tree(from, to, &links);
}

/* ---- mounts ---- */

static int no_sync(struct io *io, int fd)
{
	return 0;
}

static int no_syncdir(struct io *io, const char *path)
{
	return 0;
}

int files_begin(struct mount *m, const char *root)
{
	char path[PATH_ROOM + 20];
	int fd, r;

	memset(m, 0, sizeof(*m));
	m->store_fd = -1;
	snprintf(path, sizeof(path), "%s/images", root);
	r = folder_open(&m->images, path);
	if (r) {
		m->images = NULL;
		return r;
	}
	snprintf(path, sizeof(path), "%s/store", root);
	m->store_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	fd = m->store_fd < 0 ? -1 : fcntl(m->store_fd, F_DUPFD_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	r = io_posix_new(&m->io, fd);
	if (r)
		return r;
	m->ops = *m->io->ops;
	m->ops.fdatasync = no_sync;
	m->ops.syncdir = no_syncdir;
	m->io->ops = &m->ops;
	return 0;
}

int mount_begin(struct mount *m, const char *root, struct mount_how how)
{
	struct fs_options options = {
		.journal_size = 1 * MIB,
		.reserve = 1,
		.read_only = how.read_only,
		.no_background = true,
		.verify_reads = how.verify,
		.dedup = FS_DEDUP_ALL,
	};
	int r = files_begin(m, root);

	if (r)
		return r;
	options.images = m->images;
	options.store_fd = m->store_fd;
	r = fs_open(&m->fs, m->io, &options);
	if (r)
		m->fs = NULL;
	/* What the background does. What cannot be counted shows in what is looked at. */
	if (!r)
		dedup_count(m->fs);
	return r;
}

int mount_end(struct mount *m, bool close_it)
{
	int r = 0;

	if (m->fs && close_it)
		r = fs_close(m->fs);
	else if (m->fs)
		fs_abandon(m->fs);
	if (m->io)
		m->io->ops->free(m->io);
	if (m->store_fd >= 0)
		close(m->store_fd);
	if (m->images)
		folder_close(m->images);
	memset(m, 0, sizeof(*m));
	m->store_fd = -1;
	return r;
}

/* ---- content ---- */

static void fill(struct rng *rng, uint8_t *buf, size_t len)
{
	for (size_t i = 0; i + 8 <= len; i += 8) {
		uint64_t v = rng_next(rng);

		memcpy(buf + i, &v, 8);
	}
	for (size_t i = len & ~(size_t)7; i < len; i++)
		buf[i] = (uint8_t)rng_next(rng);
}

static int put_data(int fd, struct rng *rng, uint64_t off, size_t len)
{
	CLEANUP_FREE uint8_t *buf = malloc(len);

	if (!buf)
		return -ENOMEM;
	fill(rng, buf, len);
	return fd_pwrite(fd, buf, len, off);
}

static int make_images(const char *root, struct rng *rng)
{
	char path[PATH_ROOM + 40];
	CLEANUP_CLOSE int a = -1, b = -1;
	int r;

	snprintf(path, sizeof(path), "%s/images", root);
	if (mkdir(path, 0755))
		return -errno;
	snprintf(path, sizeof(path), "%s/images/dir", root);
	if (mkdir(path, 0755))
		return -errno;
	snprintf(path, sizeof(path), "%s/images/" IMAGE_A, root);
	a = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
	snprintf(path, sizeof(path), "%s/images/" IMAGE_B, root);
	b = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
	if (a < 0 || b < 0 || ftruncate(b, IMAGE_B_SIZE))
		return -errno;
	r = put_data(a, rng, 0, IMAGE_A_SIZE);
	/* On both sides of a region's border. */
	if (!r)
		r = put_data(b, rng, 32 * MIB - 120 * KIB, 300 * KIB);
	return r ? r : put_data(b, rng, 8 * KIB, 40 * KIB);
}

struct maker {
	struct fs *fs;
	struct rng *rng;
};

static uint64_t find(struct maker *m, const char *path)
{
	uint64_t ino = 0;

	return fs_resolve(m->fs, path, &ino) ? 0 : ino;
}

static int write_to(struct maker *m, const char *path, uint64_t off, size_t len)
{
	CLEANUP_FREE uint8_t *buf = malloc(len);
	ssize_t n;

	if (!buf)
		return -ENOMEM;
	fill(m->rng, buf, len);
	n = fs_write(m->fs, find(m, path), buf, len, off);
	return n < 0 ? (int)n : 0;
}

/* The same bytes whoever writes them. */
static int write_common(struct maker *m, const char *path, uint64_t off, size_t len, uint64_t seed)
{
	CLEANUP_FREE uint8_t *buf = malloc(len);
	struct rng rng;
	ssize_t n;

	if (!buf)
		return -ENOMEM;
	rng_seed(&rng, seed);
	fill(&rng, buf, len);
	n = fs_write(m->fs, find(m, path), buf, len, off);
	return n < 0 ? (int)n : 0;
}

/* What stands in one file, elsewhere in another one. */
static int write_copy(struct maker *m, const char *from, uint64_t from_off, const char *path,
	uint64_t off, size_t len)
{
	CLEANUP_FREE uint8_t *buf = malloc(len);
	ssize_t n;

	if (!buf)
		return -ENOMEM;
	n = fs_read(m->fs, find(m, from), buf, len, from_off);
	if (n == (ssize_t)len)
		n = fs_write(m->fs, find(m, path), buf, len, off);
	return n < 0 ? (int)n : n == (ssize_t)len ? 0 : -EIO;
}

static int clone_to(struct maker *m, const char *source, uint64_t parent, const char *name)
{
	struct fs_clone_target target = {.parent = parent, .name = name};
	struct fs_owner owner = {1000, 1000};
	size_t failed;

	return fs_clone(m->fs, find(m, source), &target, 1, owner, 0640, false, true, NULL, &failed);
}

static void ignore_result(void *arg, int result)
{
	*(int *)arg = result;
}

static int sync_path(struct maker *m, const char *path)
{
	int result = 0;

	fs_fsync(m->fs, find(m, path), ignore_result, &result);
	return result;
}

#define TRY(call) \
	do { \
		int try_ = (call); \
		if (try_) { \
			fprintf(stderr, "%s: %s\n", #call, strerror(-try_)); \
			return try_; \
		} \
	} while (0)

static int first_half(struct maker *m)
{
	struct fs_owner owner = {0, 0};
	struct fs_attr attr;
	uint64_t dir;

	TRY(fs_make(m->fs, FS_INO_ROOT, "vdi", S_IFDIR | 0755, owner, &attr));
	dir = attr.ino;
	TRY(clone_to(m, "golden/" IMAGE_A, FS_INO_ROOT, "one.img"));
	TRY(clone_to(m, "golden/" IMAGE_A, FS_INO_ROOT, "untouched.img"));
	TRY(clone_to(m, "golden/" IMAGE_B, dir, "two.img"));
	TRY(fs_make(m->fs, FS_INO_ROOT, "blank.img", S_IFREG | 0600, owner, &attr));
	TRY(fs_symlink(m->fs, FS_INO_ROOT, "link", "vdi/two.img", owner, &attr));
	TRY(write_to(m, "one.img", 4096 * 10, 300 * KIB));
	TRY(write_to(m, "one.img", 1000, 9000));
	TRY(write_to(m, "vdi/two.img", 32 * MIB - 40 * KIB, 200 * KIB));
	TRY(write_to(m, "blank.img", 5 * MIB, 150 * KIB));
	TRY(fs_setxattr(m->fs, find(m, "one.img"), "user.note", "guest of the first floor", 24, 0));
	/* Content that others have, too: a patch that is rolled out, small and large, and twice in one
	 * file. */
	TRY(write_common(m, "one.img", 4096 * 120, 30 * KIB, 11));
	TRY(write_common(m, "vdi/two.img", 2 * MIB, 30 * KIB, 11));
	TRY(write_common(m, "blank.img", 8 * MIB, 120 * KIB, 12));
	TRY(write_common(m, "blank.img", 9 * MIB, 120 * KIB, 12));
	TRY(sync_path(m, "one.img"));
	TRY(sync_path(m, "vdi/two.img"));
	return fs_settle(m->fs);
}

/* What was seen before the mount is not known any more: it comes twice here. */
static int share_more(struct maker *m)
{
	TRY(write_common(m, "one.img", 4096 * 140, 80 * KIB, 13));
	TRY(fs_settle(m->fs));
	TRY(write_common(m, "vdi/two.img", 3 * MIB, 80 * KIB, 13));
	TRY(write_common(m, "blank.img", 32 * MIB - 40 * KIB, 80 * KIB, 13)); /* both regions */
	TRY(write_copy(m, "golden/" IMAGE_A, 80 * KIB, "blank.img", 12 * MIB, 100 * KIB));
	TRY(write_copy(m, "golden/" IMAGE_A, 300 * KIB, "vdi/two.img", 4 * MIB, 12 * KIB));
	TRY(write_copy(m, "golden/" IMAGE_B, 32 * MIB, "one.img", 4096 * 180, 40 * KIB));
	return fs_settle(m->fs);
}

/* A folder that is a domain, a file with a policy, and one that went back to a snapshot: what it was is
 * another snapshot. */
static int set_and_go_back(struct maker *m)
{
	const enum fs_domain own = FS_DOMAIN_OWN;
	const int golden_only = FS_DEDUP_GOLDEN;
	const uint64_t ino = find(m, "vdi/two.img");
	struct fs_snapshot *list = NULL;
	uint64_t kept;
	size_t count = 0, failed;
	int r;

	TRY(fs_set_dedup(m->fs, find(m, "vdi"), NULL, &own));
	TRY(fs_set_dedup(m->fs, find(m, "blank.img"), &golden_only, NULL));
	TRY(fs_snapshot_create(m->fs, &ino, 1, "before", &failed));
	TRY(write_to(m, "vdi/two.img", 5 * MIB, 40 * KIB));
	TRY(fs_snapshot_list(m->fs, ino, &list, &count));
	r = fs_snapshot_rollback(m->fs, ino, list[0].ino, false, "after", &kept);
	free(list);
	return r;
}

static int second_half(struct maker *m)
{
	uint64_t dir = find(m, "vdi");

	TRY(share_more(m));
	TRY(set_and_go_back(m));

	/* Frozen layers below two files each, which go on alone. */
	TRY(clone_to(m, "one.img", dir, "child.img"));
	TRY(clone_to(m, "vdi/child.img", dir, "grandchild.img"));
	TRY(write_to(m, "one.img", 4096 * 20, 80 * KIB));
	TRY(write_to(m, "vdi/child.img", 4096 * 40, 70 * KIB));
	TRY(write_to(m, "vdi/child.img", 4096 * 3 + 100, 5000));
	TRY(write_to(m, "vdi/two.img", 32 * MIB, 100 * KIB));
	TRY(fs_fallocate(m->fs, find(m, "one.img"), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
		4096 * 30, 40 * KIB));
	TRY(clone_to(m, "golden/" IMAGE_B, dir, "gone.img"));
	TRY(write_to(m, "vdi/gone.img", 0, 100 * KIB));
	TRY(fs_unlink(m->fs, dir, "gone.img"));
	TRY(sync_path(m, "one.img"));
	TRY(sync_path(m, "vdi/child.img"));
	TRY(sync_path(m, "vdi/two.img"));
	return fs_settle(m->fs);
}

/* What stays in the journal. */
static int third_part(struct maker *m)
{
	TRY(write_to(m, "one.img", 4096 * 100, 20 * KIB));
	TRY(write_common(m, "one.img", 4096 * 200, 70 * KIB, 13)); /* records that announce it */
	TRY(write_common(m, "vdi/child.img", 4096 * 150, 90 * KIB, 13));
	TRY(write_common(m, "vdi/two.img", 5 * MIB, 20 * KIB, 13));
	TRY(write_copy(m, "golden/" IMAGE_A, 500 * KIB, "vdi/two.img", 6 * MIB, 80 * KIB));
	TRY(write_to(m, "vdi/two.img", 16 * KIB, 12 * KIB));
	TRY(write_to(m, "vdi/two.img", 32 * MIB - 64 * KIB, 128 * KIB)); /* over what is in place */
	TRY(sync_path(m, "vdi/two.img"));
	TRY(clone_to(m, "untouched.img", FS_INO_ROOT, "late.img"));
	TRY(write_to(m, "late.img", 4096 * 7, 8 * KIB));
	TRY(fs_rename(m->fs, FS_INO_ROOT, "blank.img", FS_INO_ROOT, "renamed.img", 0));
	TRY(write_to(m, "renamed.img", 6 * MIB + 77, 6000));
	TRY(sync_path(m, "one.img"));
	TRY(write_to(m, "vdi/grandchild.img", 4096 * 50, 10 * KIB));
	return sync_path(m, "late.img");
}

/* What the background does in a daemon: sums of pins, copies where links are not possible, indexes. */
static int finish_pins(struct fs *fs, bool copy)
{
	struct golden *g, *next;

	HASH_ITER (hh, fs->goldens, g, next) {
		TRY(golden_acquire(g));
		pthread_rwlock_unlock(&g->lock);
		if (copy) {
			TRY(pin_copy(fs->options.store_fd, g->id, image_raw_fd(g->backing), NULL, NULL));
			pin_guard_remove(fs->guard, g->id);
			TRY(golden_switch_to_copy(fs, g));
			TRY(golden_acquire(g));
			pthread_rwlock_unlock(&g->lock);
		}
		TRY(pin_sums_make(
			fs->options.store_fd, g->id, image_raw_fd(g->backing), NULL, NULL));
		TRY(golden_index_make(fs, g));
	}
	return 0;
}

/* Those of the first half; a pin that became a copy has another print. */
static int open_indexes(struct fs *fs)
{
	struct golden *g, *next;

	HASH_ITER (hh, fs->goldens, g, next)
		TRY(golden_index_open(fs, g));
	return 0;
}

static int make_half(const char *root, struct rng *rng, bool copied)
{
	struct mount m;
	struct maker maker = {.rng = rng};
	int r = mount_begin(&m, root, (struct mount_how){.verify = false}), closed;

	maker.fs = m.fs;
	if (!r)
		r = first_half(&maker);
	if (!r)
		r = finish_pins(m.fs, copied);
	closed = mount_end(&m, true);
	return r ? r : closed;
}

int world_make(struct world *w, const char *root, const char *stale, enum world_kind kind,
	uint64_t seed)
{
	char store[PATH_ROOM + 10];
	struct mount m;
	struct maker maker;
	struct rng rng;
	int r, closed;

	w->kind = kind;
	snprintf(w->root, sizeof(w->root), "%s", root);
	snprintf(store, sizeof(store), "%s/store", root);
	rng_seed(&rng, seed);
	if (mkdir(root, 0700) || mkdir(store, 0700))
		return -errno;
	TRY(make_images(root, &rng));
	TRY(make_half(root, &rng, kind == WORLD_COPIED));
	TRY(copy_world(root, stale));
	maker.rng = &rng;
	r = mount_begin(&m, root, (struct mount_how){.verify = false});
	maker.fs = m.fs;
	if (!r)
		r = open_indexes(m.fs);
	if (!r)
		r = second_half(&maker);
	if (!r)
		r = third_part(&maker);
	closed = mount_end(&m, kind != WORLD_KILLED);
	return r ? r : closed;
}
