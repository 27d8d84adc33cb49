/* SPDX-License-Identifier: MIT */
/*
 * Golden images that clones stand on: opened when first read, watched while they share their bytes
 * with the folder, copied when somebody is about to change them, fenced when it is too late.
 *
 * Layers hold a pointer to the image inside struct golden; what is behind it (the pin, the folder's
 * file while a copy is being made, or only an error) may change under its lock without the layers
 * noticing. A fenced image answers every read with an error and says why in the log: bytes of two
 * versions are never mixed.
 */
#include "core/fs_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/mutation.h"
#include "base/sizes.h"
#include "base/times.h"
#include "image/folder.h"
#include "image/probe.h"

#define OPEN_TRIES 3

/* ---- the image that layers see ---- */

/* The lock is held for writing: nobody else is here. */
static void drop_backing(struct golden *g)
{
	image_free(steal_pointer(&g->backing));
	g->found.of = NULL;
}

static int open_copying(struct fs *fs, struct golden *g)
{
	CLEANUP_CLOSE int fd = folder_open_file(fs->options.images, g->path);
	struct pin_print print;
	int r;

	if (fd < 0)
		return fd;
	r = pin_print_fd(fd, &print);
	if (!r && (print.size != g->print.size || print.sample != g->print.sample))
		r = -ESTALE;
	if (!r)
		r = image_raw_new(&g->backing, fd);
	if (!r)
		fd = -1;
	return r;
}

/* A fenced image is served again when somebody has put the old bytes back: all of them, as the
 * sums say; samples and times are not enough here. */
static int open_fenced(struct fs *fs, struct golden *g)
{
	struct pin_print print = g->print;
	int r;

	if (pin_sums_exist(fs->options.store_fd, g->id))
		return -ESTALE;
	print.mtime_ns = -1; /* a time that no file has: the content decides */
	r = pin_open(fs->options.store_fd, g->id, GF_PIN_LINK, &print, &g->backing);
	if (r)
		return r;
	g->print = print;
	g->pin = GF_PIN_LINK;
	log_info("golden image \"%s\" is what it was; its clones are served again", g->path);
	return 0;
}

static int64_t ctime_ns(const struct stat *st)
{
	return (int64_t)st->st_ctim.tv_sec * 1000000000 + st->st_ctim.tv_nsec;
}

static int open_own(struct fs *fs, struct golden *g)
{
	return pin_open(fs->options.store_fd, g->id, g->pin, &g->print, &g->backing);
}

/*
 * Opens a pin, and has a linked one guarded before it is used: what was looked at is what is kept
 * from changing. -ETXTBSY: somebody who writes to it right now makes that impossible.
 */
static int open_guarded(struct golden *g, int (*open_pin)(struct fs *fs, struct golden *g))
{
	struct fs *fs = g->fs;
	struct stat before, after;
	char path[40];
	int r, w;

	snprintf(path, sizeof(path), "golden/%" PRIu64, g->id);
	for (int i = 0; i < OPEN_TRIES; i++) {
		if (fstatat(fs->options.store_fd, path, &before, AT_SYMLINK_NOFOLLOW))
			return -errno;
		r = open_pin(fs, g);
		if (r || g->pin != GF_PIN_LINK || !fs->guard)
			return r;
		w = pin_guard_add(fs->guard, g->id, image_raw_fd(g->backing));
		if (w && w != -EEXIST && w != -EBUSY)
			log_warning("golden image \"%s\" cannot be watched for changes in place",
				g->path);
		if (w != -EBUSY && fstat(image_raw_fd(g->backing), &after) == 0 &&
			ctime_ns(&before) == ctime_ns(&after))
			return 0;
		pin_guard_remove(fs->guard, g->id);
		drop_backing(g);
		if (w == -EBUSY)
			return -ETXTBSY;
	}
	return -EIO;
}

static int open_backing_locked(struct golden *g)
{
	struct fs *fs = g->fs;
	int r;

	if (g->backing || g->failed)
		return g->failed ? -EIO : 0;
	switch (atomic_load(&g->pin)) {
	case GF_PIN_FENCED:
		r = open_guarded(g, open_fenced);
		break;
	case GF_PIN_COPYING:
		r = open_copying(fs, g);
		break;
	default:
		r = open_guarded(g, open_own);
	}
	if (r == -ETXTBSY) {
		g->failed = r;
		log_error(0, "golden image \"%s\" is open for writing; its clones are fenced until it "
			     "is mounted again: end the writer first", g->path);
		return -EIO;
	}
	/* A bad moment (no descriptor, no memory, a read error) is no verdict on the image. */
	if (r && r != -ESTALE && r != -ENOENT && r != -EUCLEAN)
		return log_error(-EIO, "cannot open golden image \"%s\" (%s)", g->path, strerror(-r));
	if (r) {
		g->failed = r;
		log_error(r, "golden image \"%s\" has changed or is gone; its clones are fenced: "
			     "put the old image back, or remove the clones", g->path);
		return -EIO;
	}
	return 0;
}

/* Holds the lock for reading with the backing open, or returns an error without it. */
int golden_acquire(struct golden *g)
{
	int r;

	pthread_rwlock_rdlock(&g->lock);
	if (g->backing && !g->failed)
		return 0;
	pthread_rwlock_unlock(&g->lock);
	pthread_rwlock_wrlock(&g->lock);
	r = open_backing_locked(g);
	pthread_rwlock_unlock(&g->lock);
	if (r)
		return r;
	pthread_rwlock_rdlock(&g->lock);
	if (g->backing && !g->failed)
		return 0;
	pthread_rwlock_unlock(&g->lock);
	return -EIO;
}

static int pinned_read(struct image *img, void *buf, size_t len, uint64_t off)
{
	struct golden *g = (struct golden *)img;
	int r;

	if (g->fs->options.golden_test) {
		struct image *test =
			g->fs->options.golden_test(g->fs->options.golden_test_arg, g->node);

		return test ? test->ops->read(test, buf, len, off) : -EIO;
	}
	r = golden_acquire(g);
	if (r)
		return r;
	r = g->backing->ops->read(g->backing, buf, len, off);
	if (!r && g->fs->options.verify_reads)
		r = golden_check(g, buf, len, off);
	pthread_rwlock_unlock(&g->lock);
	return r;
}

/* The lock is held until it is given back. */
static const void *pinned_borrow(struct image *img, size_t len, uint64_t off)
{
	struct golden *g = (struct golden *)img;
	const void *bytes = NULL;

	if (g->fs->options.golden_test || golden_acquire(g))
		return NULL;
	if (g->backing->ops->borrow)
		bytes = g->backing->ops->borrow(g->backing, len, off);
	if (!bytes)
		pthread_rwlock_unlock(&g->lock);
	return bytes;
}

static void pinned_give_back(struct image *img)
{
	struct golden *g = (struct golden *)img;

	g->backing->ops->give_back(g->backing);
	pthread_rwlock_unlock(&g->lock);
}

/*
 * Who goes through an image block by block asks for the same stretch thousands of times, and some file
 * systems (tmpfs) look at each page of it to answer.
 */
static int next_data_locked(struct golden *g, uint64_t off, uint64_t *start, uint64_t *end)
{
	int r;

	MUTEX_GUARD(&g->found_lock);
	if (g->found.of == g->backing && off >= g->found.from && off < g->found.end) {
		*start = max_u64(off, g->found.start);
		*end = g->found.end;
		return 0;
	}
	r = g->backing->ops->next_data(g->backing, off, start, end);
	g->found.of = r ? NULL : g->backing;
	g->found.from = off;
	g->found.start = *start;
	g->found.end = *end;
	return r;
}

static int pinned_next_data(struct image *img, uint64_t off, uint64_t *start, uint64_t *end)
{
	struct golden *g = (struct golden *)img;
	int r;

	if (g->fs->options.golden_test) {
		struct image *test =
			g->fs->options.golden_test(g->fs->options.golden_test_arg, g->node);

		return test ? test->ops->next_data(test, off, start, end) : -EIO;
	}
	r = golden_acquire(g);
	if (r)
		return r;
	r = next_data_locked(g, off, start, end);
	pthread_rwlock_unlock(&g->lock);
	return r;
}

static void pinned_free(struct image *img)
{
	/* Lives as long as the struct golden around it. */
}

static const struct image_ops pinned_ops = {
	.read = pinned_read,
	.next_data = pinned_next_data,
	.borrow = pinned_borrow,
	.give_back = pinned_give_back,
	.free = pinned_free,
};

int golden_init(struct golden *g)
{
	g->image.ops = &pinned_ops;
	pthread_mutex_init(&g->sums_lock, NULL);
	pthread_mutex_init(&g->check_lock, NULL);
	pthread_mutex_init(&g->found_lock, NULL);
	return -pthread_rwlock_init(&g->lock, NULL);
}

void golden_release(struct golden *g)
{
	golden_index_close(g);
	image_free(g->backing);
	pthread_rwlock_destroy(&g->lock);
	pthread_mutex_destroy(&g->sums_lock);
	pthread_mutex_destroy(&g->check_lock);
	pthread_mutex_destroy(&g->found_lock);
	golden_check_release(g);
	free(g->data_sums);
	free(g->path);
	free(g);
}

/* ---- changes of a pin ---- */

static int add_golden_op(struct opbuf *buf, uint64_t id, const struct pin_print *print,
	uint64_t dev, uint64_t node, enum gf_pin_kind kind, const char *path, bool left)
{
	struct gf_op_golden *op;
	size_t len = strlen(path);

	if (!OPBUF_ADD(buf, GF_OP_GOLDEN, left ? GF_GOLDEN_LEFT : 0, op, len))
		return -ENOMEM;
	op->golden = id;
	op->size = print->size;
	op->mtime_ns = print->mtime_ns;
	op->sample = print->sample;
	op->dev = dev;
	op->node = node;
	op->pin = kind;
	op->path_len = len;
	memcpy(op + 1, path, len);
	return 0;
}

/* Records that the pin is of another kind now. */
static int change_pin(struct fs *fs, uint64_t id, enum gf_pin_kind kind)
{
	struct golden *g;
	struct opbuf buf;
	uint64_t seq = 0;
	int64_t room;
	int r = 0;

	room = record_reserve(fs, sizeof(struct gf_op_golden) + GF_PATH_MAX);
	if (room < 0)
		return room;
	opbuf_init(&buf);
	tree_lock(fs);
	g = tree_find_golden(fs, id);
	if (g) {
		r = add_golden_op(&buf, id, &g->print, g->dev, g->node, kind, g->path,
			atomic_load(&g->left));
		if (!r)
			r = record_commit(fs, &buf, &seq);
	}
	pthread_rwlock_unlock(&fs->tree);
	journal_unreserve(fs->journal, room);
	opbuf_release(&buf);
	return r ? r : SITE("pin changed: sync the journal", journal_sync(fs->journal, seq));
}

/* The copy is complete: read from it from now on. */
int golden_switch_to_copy(struct fs *fs, struct golden *g)
{
	int r = change_pin(fs, g->id, GF_PIN_COPY);

	pthread_rwlock_wrlock(&g->lock);
	drop_backing(g);
	pthread_rwlock_unlock(&g->lock);
	return r;
}

void golden_fence(struct fs *fs, struct golden *g, int why)
{
	pthread_rwlock_wrlock(&g->lock);
	g->failed = why;
	pthread_rwlock_unlock(&g->lock);
	log_error(why, "golden image \"%s\" is being changed in place and could not be copied in "
		       "time; its clones are fenced: put the old image back, or remove the clones",
		g->path);
	change_pin(fs, g->id, GF_PIN_FENCED);
}

struct golden *golden_hold(struct fs *fs, uint64_t id)
{
	struct golden *g;

	tree_lock(fs);
	g = tree_find_golden(fs, id);
	if (g)
		g->users++;
	pthread_rwlock_unlock(&fs->tree);
	return g;
}

void golden_hold_end(struct fs *fs, struct golden *g)
{
	tree_lock(fs);
	g->users--;
	/* It goes with the next checkpoint. */
	if (tree_golden_is_idle(g, 0))
		atomic_store(&fs->changed, true);
	pthread_rwlock_unlock(&fs->tree);
}

/* The writer is held off for so long and no longer: a copy that takes longer is given up. */
struct deadline {
	struct timespec until;
};

static int before_deadline(void *arg, uint64_t done, uint64_t total)
{
	const struct deadline *deadline = arg;
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec > deadline->until.tv_sec;
}

/* Somebody is about to write to a linked image: the kernel holds him off until this returns. */
static void guard_broken(void *arg, uint64_t id)
{
	struct fs *fs = arg;
	struct deadline deadline;
	struct pin_print print;
	struct golden *g;
	int r;

	clock_gettime(CLOCK_MONOTONIC, &deadline.until);
	deadline.until.tv_sec += pin_guard_seconds();

	g = golden_hold(fs, id);
	if (!g)
		return;
	log_info("golden image \"%s\" is being opened for writing; copying it for its clones",
		g->path);
	print = g->print;
	r = pin_guard_copy(
		fs->guard, fs->options.store_fd, id, &print, before_deadline, &deadline);
	if (!r)
		r = golden_switch_to_copy(fs, g);
	if (r)
		golden_fence(fs, g, r);
	golden_hold_end(fs, g);
}

/* ---- pinning for a new clone ---- */

static int64_t mtime_ns(const struct stat *st)
{
	return times_ns(st->st_mtim);
}

/* A pin that may hold the bytes of the file st describes: same file, size and time; and of the
 * given print, unless that is NULL. */
static struct golden *find_pin(struct fs *fs, const struct stat *st, const struct pin_print *print)
{
	struct golden *g, *next;

	HASH_ITER (hh, fs->goldens, g, next) {
		if (g->dev == st->st_dev && g->node == st->st_ino && !g->failed &&
			g->pin != GF_PIN_FENCED && g->print.size == (uint64_t)st->st_size &&
			g->print.mtime_ns == mtime_ns(st) &&
			(!print || g->print.sample == print->sample))
			return g;
	}
	return NULL;
}

/* The id of an existing pin of these bytes; 0: there is none. Content is read only when a pin may
 * be the right one: a new one reads it itself. */
static int find_same_pin(struct fs *fs, int fd, const struct stat *st, uint64_t *id)
{
	struct pin_print print;
	struct golden *g;
	int r;

	*id = 0;
	pthread_rwlock_rdlock(&fs->tree);
	g = find_pin(fs, st, NULL);
	pthread_rwlock_unlock(&fs->tree);
	if (!g)
		return 0;
	r = pin_print_fd(fd, &print);
	if (r)
		return r;
	pthread_rwlock_rdlock(&fs->tree);
	g = find_pin(fs, st, &print);
	*id = g ? g->id : 0;
	pthread_rwlock_unlock(&fs->tree);
	return 0;
}

static int refuse_format(struct fs *fs, int fd, bool opaque)
{
	uint8_t head[IMAGE_PROBE_HEAD], tail[IMAGE_PROBE_TAIL];
	ssize_t head_len = pread(fd, head, sizeof(head), 0), tail_len = 0;
	struct stat st;

	if (opaque)
		return 0;
	if (head_len < 0 || fstat(fd, &st))
		return -errno;
	if (st.st_size >= (off_t)sizeof(tail))
		tail_len = pread(fd, tail, sizeof(tail), st.st_size - sizeof(tail));
	if (tail_len < 0)
		return -errno;
	return image_probe(head, head_len, tail, tail_len) == IMAGE_RAW ? 0 : -EMEDIUMTYPE;
}

/* Where a new pin is read from: a reflink's bytes are its own from now on, the folder's file may
 * change. */
static int open_pinned(struct fs *fs, uint64_t id, int fd, enum gf_pin_kind kind)
{
	char path[40];
	int own;

	snprintf(path, sizeof(path), "golden/%" PRIu64, id);
	own = kind == GF_PIN_REFLINK ?
		openat(fs->options.store_fd, path,
			(MUTATED("open a golden image for writing: a new pin") ? O_RDWR : O_RDONLY) |
				O_CLOEXEC | O_NOFOLLOW) :
		fcntl(fd, F_DUPFD_CLOEXEC, 0);
	return own < 0 ? -errno : own;
}

/* The new pin is guarded before its print is taken, so that nobody can write in between. */
static int make_pin(struct fs *fs, uint64_t id, int fd, enum gf_pin_kind *kind,
	struct pin_print *print, struct image **backing)
{
	CLEANUP_CLOSE int own = -1;
	int r = pin_make(fs->options.store_fd, id, fd, kind);

	if (r)
		return r;
	own = open_pinned(fs, id, fd, *kind);
	r = own < 0 ? own : image_raw_new(backing, own);
	if (r) {
		pin_remove(fs->options.store_fd, id);
		return r;
	}
	steal_fd(&own);
	if (*kind != GF_PIN_REFLINK && fs->guard)
		r = pin_guard_add(fs->guard, id, image_raw_fd(*backing));
	if (!r)
		r = pin_print_fd(image_raw_fd(*backing), print);
	if (r) {
		pin_guard_remove(fs->guard, id);
		image_free(steal_pointer(backing));
		pin_remove(fs->options.store_fd, id);
	}
	return r;
}

static int open_source(struct fs *fs, struct inode *inode, bool opaque, struct stat *st)
{
	CLEANUP_CLOSE int fd = -1;
	int r;

	if (!S_ISREG(inode->mode))
		return -EISDIR;
	fd = folder_open_file(fs->options.images, inode->target);
	if (fd < 0)
		return fd;
	if (fstat(fd, st))
		return -errno;
	/* Whoever asks was found to be allowed to read the file with that number, not this one. */
	if (inode->golden_dev != st->st_dev || inode->golden_node != st->st_ino)
		return -ESTALE;
	r = refuse_format(fs, fd, opaque);
	return r ? r : steal_fd(&fd);
}

static int pin_test_image(struct fs *fs, struct inode *inode, struct opbuf *buf,
	struct pinned *pinned)
{
	uint64_t node = strtoull(inode->target, NULL, 10);
	struct image *img = fs->options.golden_test(fs->options.golden_test_arg, node);
	struct pin_print print = {0};
	struct golden *g, *next;

	if (!img)
		return -ENOENT;
	*pinned = (struct pinned){.size = img->size, .mode = 0644};
	tree_lock(fs);
	HASH_ITER (hh, fs->goldens, g, next)
		if (g->node == node)
			pinned->id = g->id;
	if (pinned->id) {
		pthread_rwlock_unlock(&fs->tree);
		return 0;
	}
	pinned->id = fs->next_golden++;
	pthread_rwlock_unlock(&fs->tree);
	print.size = img->size;
	return add_golden_op(buf, pinned->id, &print, 1, node, GF_PIN_COPY, inode->target,
		false);
}

int golden_pin(struct fs *fs, struct inode *inode, bool opaque, struct opbuf *buf,
	struct pinned *pinned)
{
	CLEANUP_CLOSE int fd = -1;
	enum gf_pin_kind kind;
	struct pin_print print;
	struct stat st;
	int r;

	if (fs->options.golden_test)
		return pin_test_image(fs, inode, buf, pinned);
	fd = open_source(fs, inode, opaque, &st);
	if (fd < 0)
		return fd;
	*pinned = (struct pinned){.size = st.st_size, .mode = st.st_mode & 07777};
	if ((uint64_t)st.st_size > GF_MAX_SIZE)
		return -EFBIG;
	r = find_same_pin(fs, fd, &st, &pinned->id);
	if (r || pinned->id)
		return r;
	tree_lock(fs);
	pinned->id = fs->next_golden++;
	pthread_rwlock_unlock(&fs->tree);
	r = make_pin(fs, pinned->id, fd, &kind, &print, &pinned->backing);
	if (!r)
		r = add_golden_op(buf, pinned->id, &print, st.st_dev, st.st_ino, kind,
			inode->target, false);
	pinned->fresh = !r;
	return r;
}

void golden_pinned(struct fs *fs, struct pinned *pinned, int result)
{
	struct golden *g = tree_find_golden(fs, pinned->id);

	if (!pinned->fresh)
		return;
	if (!result && g) {
		g->backing = steal_pointer(&pinned->backing);
		pin_work_want(fs);
		return;
	}
	if (fs->guard)
		pin_guard_remove(fs->guard, pinned->id);
	image_free(steal_pointer(&pinned->backing));
	pin_remove(fs->options.store_fd, pinned->id);
}

int golden_device(struct fs *fs, uint64_t ino, struct inode **node, uint64_t *dev)
{
	struct inode *inode;
	bool found;

	pthread_rwlock_rdlock(&fs->tree);
	inode = tree_find(fs, ino);
	found = inode && inode->kind == GF_KIND_GOLDEN;
	*node = inode;
	if (found)
		*dev = inode->golden_dev;
	pthread_rwlock_unlock(&fs->tree);
	return found ? 0 : -ESTALE;
}

/* The caller has opened the node, so it stays. pin_lock held. */
static int keep_locked(struct fs *fs, struct inode *inode, uint64_t *id)
{
	struct pinned pinned = {0};
	struct opbuf buf;
	int r;

	opbuf_init(&buf);
	r = golden_pin(fs, inode, false, &buf, &pinned);
	if (!r) {
		tree_lock(fs);
		if (pinned.fresh)
			r = record_commit(fs, &buf, NULL);
		golden_pinned(fs, &pinned, r);
		pthread_rwlock_unlock(&fs->tree);
	}
	opbuf_release(&buf);
	*id = pinned.id;
	return r;
}

int golden_keep(struct fs *fs, uint64_t ino, uint64_t *id)
{
	int64_t room = record_reserve(fs, sizeof(struct gf_op_golden) + GF_PATH_MAX + 8);
	struct inode *inode;
	int r = -ESTALE;

	if (room < 0)
		return room;
	pthread_mutex_lock(&fs->pin_lock);
	pthread_rwlock_rdlock(&fs->tree);
	inode = tree_find(fs, ino);
	pthread_rwlock_unlock(&fs->tree);
	if (inode && inode->kind == GF_KIND_GOLDEN)
		r = keep_locked(fs, inode, id);
	pthread_mutex_unlock(&fs->pin_lock);
	journal_unreserve(fs->journal, room);
	return r;
}

const char *fs_golden_format(struct fs *fs, uint64_t ino)
{
	uint8_t head[IMAGE_PROBE_HEAD] = {0}, tail[IMAGE_PROBE_TAIL];
	struct fs_attr attr;
	ssize_t n, t = 0;

	if (fs_getattr(fs, ino, &attr) || !S_ISREG(attr.mode))
		return "raw";
	n = fs_read(fs, ino, head, sizeof(head), 0);
	if (attr.size >= sizeof(tail))
		t = fs_read(fs, ino, tail, sizeof(tail), attr.size - sizeof(tail));
	return image_format_name(
		image_probe(head, n > 0 ? n : 0, tail, t > 0 ? t : 0));
}

/* ---- start and end ---- */

/* Pins that no record knows: a crash came between the pin and the record. */
static int sweep_pin(void *arg, const char *name)
{
	struct fs *fs = arg;
	char *end;
	uint64_t id = strtoull(name, &end, 10);

	if (end == name || !id)
		return 0;
	if (!tree_find_golden(fs, id))
		pin_remove(fs->options.store_fd, id);
	else if (strcmp(end, ".tmp") == 0 || strcmp(end, ".sums.tmp") == 0)
		pin_drop_unfinished(fs->options.store_fd, id);
	return 0;
}

static void sweep_pins(struct fs *fs)
{
	fs->io->ops->list(fs->io, "golden", sweep_pin, fs);
}

int golden_start(struct fs *fs)
{
	struct golden *g, *next;
	int r;

	/* Hints: those of images that are about to go may go at once. */
	if (!fs->options.read_only)
		golden_index_sweep(fs);
	if (fs->options.golden_test || !fs->options.images)
		return 0;
	if (!fs->options.read_only) {
		r = pin_guard_new(&fs->guard, guard_broken, fs);
		if (r)
			return log_error(r, "cannot watch golden images for changes in place");
	}
	if (!fs->options.read_only && !fs->dead)
		sweep_pins(fs);
	/* Linked images are looked at and guarded from the start. */
	HASH_ITER (hh, fs->goldens, g, next) {
		/* Recovery may have opened it when there was no guard yet. */
		drop_backing(g);
		if ((g->pin == GF_PIN_LINK || g->pin == GF_PIN_COPYING) && golden_acquire(g) == 0)
			pthread_rwlock_unlock(&g->lock);
	}
	return fs->options.read_only || fs->options.no_background ? 0 : pin_work_start(fs);
}

void golden_stop(struct fs *fs)
{
	pin_work_stop(fs);
	pin_guard_free(fs->guard);
	fs->guard = NULL;
}
