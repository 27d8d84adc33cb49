/* SPDX-License-Identifier: MIT */
#include "workload.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/hash.h"
#include "base/sizes.h"
#include "image/image.h"

int run_fail(struct run *run, const char *fmt, ...)
{
	va_list ap;

	if (*run->reason)
		return -1;
	va_start(ap, fmt);
	vsnprintf(run->reason, sizeof(run->reason), fmt, ap);
	va_end(ap);
	return -1;
}

/* ---- golden images ---- */

static void fill_pattern(uint8_t *bytes, uint64_t from, uint64_t to, uint64_t seed)
{
	struct rng rng;

	rng_seed(&rng, seed);
	for (uint64_t at = from; at < to; at += 8) {
		uint64_t word = rng_next(&rng);

		memcpy(bytes + at, &word, (size_t)min_u64(8, to - at));
	}
}

/*
 * 1: no multiple of a block or sector, with a hole; 2: all data; 3: large and almost empty, with
 * data around the borders of map regions.
 */
static uint8_t *make_image_bytes(int i, uint64_t size)
{
	uint8_t *bytes = mmap(NULL, size, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (bytes == MAP_FAILED)
		return NULL;
	if (i == 2) {
		for (uint64_t at = 32 * MIB; at < size; at += 32 * MIB)
			fill_pattern(bytes, at - 32 * KIB, at + 32 * KIB, at);
		fill_pattern(bytes, 0, 64 * KIB, 2); /* as in the second one */
		fill_pattern(bytes, size - 512, size, 8);
	} else {
		fill_pattern(bytes, 0, size, (uint64_t)i + 1);
		if (i == 0)
			memset(bytes + 100 * KIB, 0, 150 * KIB + 512);
	}
	mprotect(bytes, size, PROT_READ);
	return bytes;
}

/* Their bytes are the same for all runs of the process: to look for the holes of fresh ones takes longer than
 * many a run. */
static int make_image(struct run *run, int i)
{
	static const uint64_t sizes[RUN_IMAGES] = {600 * KIB + 1636, 256 * KIB + 512,
		72 * MIB + 4096 + 512};
	static uint8_t *bytes[RUN_IMAGES];
	int r;

	if (!bytes[i])
		bytes[i] = make_image_bytes(i, sizes[i]);
	if (!bytes[i])
		return -ENOMEM;
	r = image_memory_new(&run->images[i], bytes[i], sizes[i]);
	if (!r)
		run->golden[i] = model_golden(run->model, run->images[i]);
	return r;
}

static struct image *golden_test(void *arg, uint64_t id)
{
	struct run *run = arg;

	return id >= 1 && id <= RUN_IMAGES ? run->images[id - 1] : NULL;
}

/* ---- a run ---- */

struct fs_options run_options(struct run *run)
{
	struct fs_options options = {
		.journal_size = run->profile->journal_size,
		.reserve = 64 * KIB,
		.no_background = true,
		.eager_chains = true,
		.verify_reads = true,
		.dedup = run->profile->dedup ? FS_DEDUP_ALL : FS_DEDUP_OFF,
		.hash_bits = run->profile->hash_bits,
		/* As under a guest that overwrites without an end. */
		.straight = rng_scramble(run->seed) % 3 == 0,
		.store_fd = -1,
		.golden_test = golden_test,
		.golden_test_arg = run,
	};

	return options;
}

/* The profile's: a process has one run. */
static uint64_t view_shift;

static const char *const all_paths[] = {"f0", "f1", "f2", "f3", "f4", "d0", "d1", "d0/a", "d0/b",
	"d1/a", "d1/b", "d0/ds", "d1/ds"};
static const char *const many_paths[] = {"f00", "f01", "f02", "f03", "f04", "f05", "f06", "f07", "f08",
	"f09", "f10", "f11", "f12", "f13", "f14", "f15", "f16", "f17", "f18", "f19", "f20", "f21",
	"f22", "f23", "f24", "f25", "f26", "f27", "f28", "f29", "f30", "f31", "d0", "d0/a", "d0/b",
	"d0/c", "d0/d", "d0/e", "d0/f", "d0/g"};

void run_set_profile(struct run *run, const struct profile *profile)
{
	run->profile = profile;
	view_shift = profile->shift;
}

int run_init(struct run *run, uint64_t seed, int op_count)
{
	memset(run, 0, sizeof(*run));
	run->seed = seed;
	run->op_count = op_count;
	run_set_profile(run, &profiles[seed % (uint64_t)profile_count]);
	run->paths = run->profile->files ? many_paths : all_paths;
	run->path_count = run->profile->files ? ARRAY_SIZE(many_paths) : ARRAY_SIZE(all_paths);
	run->model = model_new();
	for (int i = 0; i < RUN_IMAGES; i++) {
		if (make_image(run, i) < 0)
			return -1;
	}
	run->disk = simdisk_new(run->profile->capacity);
	return 0;
}

const char *run_profile_name(const struct run *run)
{
	return run->profile->name;
}

void run_release(struct run *run)
{
	if (run->fs)
		fs_abandon(run->fs);
	simdisk_free(run->disk);
	model_free(run->model);
	for (int i = 0; i < RUN_IMAGES; i++)
		image_free(run->images[i]);
}

static int nobody_knows(void *arg, uint64_t ino)
{
	return 0;
}

int run_open(struct run *run, struct simdisk *disk, struct in_flight *board, bool takeover, struct fs **fs)
{
	struct fs_options options = run_options(run);
	int r;

	options.in_flight = board;
	options.takeover = takeover;
	options.hooks.is_known = nobody_knows;
	r = fs_open(fs, simdisk_io(disk), &options);
	if (!r && takeover) {
		fs_takeover_served(*fs);
		fs_tick(*fs); /* nobody has files without a name open any more */
	}
	return r;
}

int run_work(struct run *run)
{
	int r;

	simdisk_set_hook(run->disk, run->hook, run);
	strcpy(run->text, "make the store");
	r = run_open(run, run->disk, &run->board, false, &run->fs);
	if (r)
		return run_fail(run, "fs_open of an empty disk: %s", strerror(-r));
	for (run->op = 0; run->op < run->op_count && !*run->reason; run->op++) {
		if (run->keep && !run->keep[run->op])
			continue;
		if (run_one_op(run))
			break;
		if (run->after_op && run->after_op(run))
			break;
	}
	return *run->reason ? -1 : 0;
}

/* ---- fsync ---- */

struct waiter {
	pthread_mutex_t lock;
	pthread_cond_t cond;
	bool done;
	int result;
};

static void sync_done(void *arg, int result)
{
	struct waiter *w = arg;

	pthread_mutex_lock(&w->lock);
	w->done = true;
	w->result = result;
	pthread_cond_signal(&w->cond);
	pthread_mutex_unlock(&w->lock);
}

int sync_file(struct fs *fs, uint64_t ino)
{
	struct waiter w = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, false, 0};

	fs_fsync(fs, ino, sync_done, &w);
	pthread_mutex_lock(&w.lock);
	while (!w.done)
		pthread_cond_wait(&w.cond, &w.lock);
	pthread_mutex_unlock(&w.lock);
	return w.result;
}

/* ---- views ---- */

uint32_t mode_mark(enum model_kind kind, uint32_t mode)
{
	uint32_t usual = kind == MODEL_FOLDER ? 0755 : kind == MODEL_LINK ? 0777 : 0644;

	return ((mode & 07777) ^ usual) << MODE_SHIFT;
}

struct lister {
	struct model_view *view;
	struct fs *fs;
	const char *folder;
	bool root;
	uint64_t snapshots; /* their folder, 0: none */
	int error;
};

static int list_entry(void *arg, const char *name, const struct fs_attr *attr, uint64_t next)
{
	struct lister *l = arg;
	struct model_view *view = l->view;
	struct model_seen *seen;

	(void)next;
	if (l->root && strcmp(name, ".snapshots") == 0)
		l->snapshots = attr->ino;
	if (l->root && (strcmp(name, "golden") == 0 || *name == '.'))
		return 0;
	view->list = realloc(view->list, (view->count + 1) * sizeof(*view->list));
	if (!view->list)
		abort();
	seen = &view->list[view->count++];
	*seen = (struct model_seen){.ino = attr->ino};
	seen->kind = S_ISDIR(attr->mode) ? MODEL_FOLDER :
		     S_ISLNK(attr->mode) ? MODEL_LINK : MODEL_FILE;
	if (seen->kind == MODEL_FILE)
		seen->size = attr->size - min_u64(attr->size, view_shift);
	seen->xattr = mode_mark(seen->kind, attr->mode);
	if (snprintf(seen->path, sizeof(seen->path), "%s%s%s", l->folder, *l->folder ? "/" : "",
		    name) >= (int)sizeof(seen->path))
		l->error = -ENAMETOOLONG;
	return 0;
}

static uint32_t read_user_xattr(struct fs *fs, uint64_t ino)
{
	char value[32];
	ssize_t n = fs_getxattr(fs, ino, "user.k", value, sizeof(value) - 1);

	if (n == -ENODATA)
		return 0;
	if (n < 0)
		return UINT32_MAX;
	value[n] = 0;
	return (uint32_t)strtoul(value, NULL, 10);
}

/* Of a symbolic link, the number in its target; else that of the attribute. */
static uint32_t read_xattr(struct fs *fs, const struct model_seen *seen)
{
	uint64_t ino = seen->ino;
	char *target;

	if (seen->kind == MODEL_LINK) {
		uint32_t number;

		if (fs_readlink(fs, ino, &target))
			return UINT32_MAX;
		number = (uint32_t)strtoul(target, NULL, 10);
		free(target);
		return number;
	}
	return read_user_xattr(fs, ino);
}

static ssize_t view_read(void *arg, uint64_t ino, void *buf, size_t len, uint64_t off)
{
	return fs_read(arg, ino, buf, len, off + view_shift);
}

/* What stands on what in a folder of .snapshots, and where the file of that path is. */
static int view_lineage(struct model_view *view, struct fs *fs, const struct model_seen *folder)
{
	const char *path = folder->path + strlen(".snapshots/");
	struct fs_snapshot *list;
	size_t count;
	int r = fs_snapshot_list(fs, folder->ino, &list, &count);

	for (size_t i = 0; i < count && !r; i++) {
		for (size_t k = 0; k < view->count; k++) {
			struct model_seen *seen = &view->list[k];

			if (seen->ino == list[i].ino)
				seen->base = list[i].base;
			else if (list[i].current && strcmp(seen->path, path) == 0)
				seen->base = list[i].ino;
			/* Names that begin with an "a" are those. */
			if (seen->ino == list[i].ino && list[i].automatic != (list[i].name[0] == 'a'))
				r = -EDOM;
		}
	}
	free(list);
	return r;
}

/* What the golden tree shows although no file is there. */
static int list_promoted(struct lister *l)
{
	uint64_t ino = 0;
	char *path;
	int r;

	while ((r = fs_promotion_next(l->fs, &ino, &path)) == 0) {
		struct fs_attr attr;

		r = fs_getattr(l->fs, ino, &attr);
		l->folder = "golden";
		l->root = false;
		if (!r)
			r = list_entry(l, path, &attr, 0);
		free(path);
		if (r)
			return r;
	}
	return r == -ENOENT ? 0 : r;
}

int view_take(struct model_view *view, struct fs *fs)
{
	struct lister l = {.view = view, .fs = fs, .folder = "", .root = true};
	int r;

	*view = (struct model_view){.read = view_read, .arg = fs};
	r = fs_list(fs, FS_INO_ROOT, 0, list_entry, &l);
	l.folder = ".snapshots";
	l.root = false;
	if (!r && l.snapshots)
		r = fs_list(fs, l.snapshots, 0, list_entry, &l);
	for (size_t i = 0; i < view->count && !r; i++) {
		char folder[MODEL_NAME];

		view->list[i].xattr |= read_xattr(fs, &view->list[i]);
		if (view->list[i].kind != MODEL_FOLDER)
			continue;
		strcpy(folder, view->list[i].path);
		l.folder = folder;
		r = fs_list(fs, view->list[i].ino, 0, list_entry, &l);
	}
	for (size_t i = 0; i < view->count && !r; i++)
		if (view->list[i].kind == MODEL_FOLDER &&
			strncmp(view->list[i].path, ".snapshots/", 11) == 0)
			r = view_lineage(view, fs, &view->list[i]);
	if (!r)
		r = list_promoted(&l);
	return r ? r : l.error;
}

void view_release(struct model_view *view)
{
	free(view->list);
	view->list = NULL;
	view->count = 0;
}

/* Blocks of zeros count for nothing, so that holes may be seen differently. */
static int hash_file(struct fs *fs, const struct model_seen *seen, uint64_t *hash)
{
	uint8_t buf[128 * KIB];
	uint64_t off = view_shift, size = seen->size + view_shift, h = 0;

	while (off < size) {
		int64_t start = fs_seek(fs, seen->ino, off, SEEK_DATA), end;

		if (start == -ENXIO)
			break;
		end = start < 0 ? start : fs_seek(fs, seen->ino, (uint64_t)start, SEEK_HOLE);
		if (end < 0)
			return (int)end;
		if ((uint64_t)start < off || end <= start || (uint64_t)end > size)
			return -ERANGE;
		for (off = round_down((uint64_t)start, 4096); off < (uint64_t)end;) {
			size_t len = (size_t)min_u64(sizeof(buf), size - off);
			ssize_t n;

			memset(buf, 0, sizeof(buf));
			n = fs_read(fs, seen->ino, buf, len, off);
			if (n != (ssize_t)len)
				return n < 0 ? (int)n : -EIO;
			for (size_t at = 0; at < len; at += 4096) {
				uint64_t pair[2] = {off + at, 0};

				if (is_zero(buf + at, 4096))
					continue;
				pair[1] = hash_struct(buf + at, 4096);
				h += hash_struct(pair, sizeof(pair));
			}
			off += len;
		}
	}
	*hash = h;
	return 0;
}

int view_hash(const struct model_view *view, struct fs *fs, const char *except, uint64_t *hash)
{
	uint64_t h = 0;

	for (size_t i = 0; i < view->count; i++) {
		const struct model_seen *seen = &view->list[i];
		uint64_t parts[5] = {hash_struct(seen->path, strlen(seen->path)), seen->ino,
			seen->size, seen->xattr, 0};
		int r = 0;

		if (except && strcmp(except, seen->path) == 0)
			continue;
		if (seen->kind == MODEL_FILE)
			r = hash_file(fs, seen, &parts[4]);
		if (r)
			return r;
		h += hash_struct(parts, sizeof(parts));
	}
	*hash = h;
	return 0;
}

const char *view_figures(const struct model_view *view, struct fs *fs)
{
	static __thread char text[256];

	for (size_t i = 0; i < view->count; i++) {
		const struct model_seen *seen = &view->list[i];
		struct fs_figures f;
		struct fs_info info;
		int r;

		if (seen->kind != MODEL_FILE)
			continue;
		r = fs_info(fs, seen->ino, FS_NOW, &info);
		if (r) {
			snprintf(text, sizeof(text), "fs_info(\"%s\"): %s", seen->path,
				strerror(-r));
			return text;
		}
		f = info.figures;
		fs_info_release(&info);
		if ((f.virtual_bytes == seen->size + view_shift || view_shift) &&
			f.virtual_bytes == f.data_bytes + f.zero_bytes &&
			f.data_bytes == f.unique_bytes + f.shared_golden_bytes +
					f.shared_clone_bytes + f.shared_snapshot_bytes +
					f.shared_self_bytes)
			continue;
		snprintf(text, sizeof(text),
			"\"%s\" size %llu: virtual %llu data %llu zero %llu unique %llu golden %llu "
			"clone %llu snapshot %llu self %llu",
			seen->path, (unsigned long long)seen->size,
			(unsigned long long)f.virtual_bytes, (unsigned long long)f.data_bytes,
			(unsigned long long)f.zero_bytes, (unsigned long long)f.unique_bytes,
			(unsigned long long)f.shared_golden_bytes,
			(unsigned long long)f.shared_clone_bytes,
			(unsigned long long)f.shared_snapshot_bytes,
			(unsigned long long)f.shared_self_bytes);
		return text;
	}
	return NULL;
}
