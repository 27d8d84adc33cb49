/* SPDX-License-Identifier: MIT */
/*
 * The death of a worker under a mount that goes on: a successor takes over, gets again what was not
 * answered, and no client may notice.
 *
 * A small kernel and its clients are played here. Each operation is decided against a model of the
 * tree, so its one right answer is known, also when that is an error. Some are answered at once,
 * some stay open for a while, as many are in flight at a time. At a random call to the disk the
 * process dies: the disk is forked there, perhaps in the middle of a write, what happens to the old
 * one after that did not happen, and a new file system takes over the fork. It is given the open
 * requests again, in order. It may die in the middle of that, too, or while it recovers.
 *
 * Asked are: each answer is the right one, also the second and third time; files without a name
 * stay readable as long as they are open, and are gone in the end although some FORGETs were lost;
 * nothing is remembered of a request that was answered.
 *
 *   test_restart [SEEDS [OPS]]     environment: SEED (first), VERBOSE
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>

#include "base/log.h"
#include "base/sizes.h"
#include "core/fs.h"
#include "core/in_flight.h"
#include "image/image.h"
#include "rng.h"
#include "simdisk.h"

enum { NAMES = 6, FILES = 4000, WINDOW = 4, BYTES = 5000, CONNECTION = 4711 };

enum kind { MAKE, FOLDER, LINK, UNLINK, RMDIR, RENAME, EXCHANGE, SET, REMOVE, COPY, CLONE, WRITE, KINDS };

static const char *const kind_names[] = {"create", "mkdir", "symlink", "unlink", "rmdir", "rename",
	"exchange", "setxattr", "removexattr", "copy", "clone", "write"};

struct file {
	uint64_t ino; /* 0: not told yet */
	uint32_t type;
	bool xattr;
	bool copied; /* has or had content of another's: it is not empty */
	unsigned char byte; /* what it is full of; 0: empty */
	unsigned opens;
	bool known; /* to the kernel */
	bool gone;  /* no name and forgotten */
};

struct request {
	enum kind kind;
	uint64_t unique;
	int a, b;		/* names */
	struct file *file;	/* made, or the subject */
	struct file *source;
	unsigned char byte;
	int flags;
	int64_t right; /* answer */
	bool tried;
};

struct world {
	struct rng rng;
	struct simdisk *disk;
	struct fs *fs;
	struct file files[FILES];
	size_t file_count;
	struct file *names[NAMES];
	struct file *written; /* last; may be NULL */
	struct request open[WINDOW + 1]; /* not answered; the oldest first */
	size_t open_count;
	uint64_t unique;
	/* Death: */
	uint64_t die_at; /* call of the disk; 0: not planned */
	struct simdisk *fork;
	struct request left[WINDOW + 1];
	size_t left_count;
	bool dead; /* what is done now is not seen by anybody */
	/* The memory that outlives the process, and what it was at its death. */
	struct in_flight board, board_left;
	bool straight;
	bool verbose;
	uint64_t deaths, again, done_before;
};

static const char *const name_of[NAMES] = {"n0", "n1", "n2", "n3", "n4", "n5"};

__attribute__((format(printf, 2, 3), noreturn)) static void wrong(struct world *w,
	const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	printf("FAILED: ");
	vprintf(fmt, ap);
	printf("\n");
	va_end(ap);
	fflush(stdout);
	_Exit(1);
}

/* ---- the kernel ---- */

static int is_known(void *arg, uint64_t ino)
{
	struct world *w = arg;

	for (size_t i = 0; i < w->file_count; i++) {
		/* It would wait for requests that only a successor answers. */
		if (w->files[i].ino == ino && w->files[i].opens)
			wrong(w, "the kernel is asked about an open file");
		if (w->files[i].ino == ino)
			return w->files[i].known;
	}
	return 0;
}

static struct image *no_image(void *arg, uint64_t id)
{
	return NULL;
}

static struct fs_options options(struct world *w, bool takeover)
{
	return (struct fs_options){
		.journal_size = 1 * MIB,
		.reserve = 64 * KIB,
		.no_background = true,
		.takeover = takeover,
		.verify_reads = true,
		.connection = CONNECTION,
		.in_flight = &w->board,
		.straight = w->straight,
		.store_fd = -1,
		.golden_test = no_image,
		.hooks = {.is_known = is_known, .arg = w},
	};
}

/* Whether the disk's process dies at this call. */
static void hook(void *arg, struct simdisk *disk, const struct simdisk_call *call)
{
	struct world *w = arg;

	if (!w->die_at || w->dead || call->number < w->die_at || call->op == SIMDISK_PREAD)
		return;
	w->fork = simdisk_clone(disk);
	if (call->op == SIMDISK_PWRITE && call->len > 4096 && rng_below(&w->rng, 2))
		simdisk_poke(w->fork, call, round_down(1 + rng_below(&w->rng, call->len - 1), 4096));
	memcpy(w->left, w->open, sizeof(w->left));
	w->left_count = w->open_count;
	memcpy(&w->board_left, &w->board, sizeof(w->board));
	w->dead = true;
}

static void plan_death(struct world *w, uint64_t within)
{
	w->die_at = simdisk_calls(w->disk) + 1 + rng_below(&w->rng, within);
}

/* ---- requests ---- */

static int64_t make(struct world *w, const struct request *r, uint64_t *ino)
{
	const struct fs_owner owner = {0, 0};
	struct fs_attr attr = {0};
	int e;

	if (r->kind == LINK)
		e = fs_symlink(w->fs, FS_INO_ROOT, name_of[r->a], "target", owner, &attr);
	else
		e = fs_make(w->fs, FS_INO_ROOT, name_of[r->a],
			r->kind == FOLDER ? S_IFDIR | 0755 : S_IFREG | 0644, owner, &attr);
	*ino = attr.ino;
	return e;
}

static int64_t clone(struct world *w, const struct request *r)
{
	const struct fs_clone_target target = {FS_INO_ROOT, name_of[r->a]};
	uint64_t count;
	size_t failed;

	if (fs_request_is_done(w->fs, &count))
		return 0;
	return fs_clone(w->fs, r->source->ino, &target, 1, (struct fs_owner){0, 0}, 0644, false,
		false, NULL, &failed);
}

static int64_t carry_out(struct world *w, const struct request *r, uint64_t *ino)
{
	unsigned char bytes[BYTES];

	switch (r->kind) {
	case MAKE:
	case FOLDER:
	case LINK:
		return make(w, r, ino);
	case UNLINK:
		return fs_unlink(w->fs, FS_INO_ROOT, name_of[r->a]);
	case RMDIR:
		return fs_rmdir(w->fs, FS_INO_ROOT, name_of[r->a]);
	case RENAME:
	case EXCHANGE:
		return fs_rename(w->fs, FS_INO_ROOT, name_of[r->a], FS_INO_ROOT, name_of[r->b],
			r->flags);
	case SET:
		return fs_setxattr(w->fs, r->file->ino, "user.x", "v", 1, r->flags);
	case REMOVE:
		return fs_removexattr(w->fs, r->file->ino, "user.x");
	case COPY:
		return fs_copy_range(w->fs, r->source->ino, 0, r->file->ino, 0, MIB, 7);
	case CLONE:
		return clone(w, r);
	case WRITE:
		memset(bytes, r->byte, sizeof(bytes));
		return fs_write(w->fs, r->file->ino, bytes, sizeof(bytes), 0);
	case KINDS:
		break;
	}
	return -EINVAL;
}

/* Serves a request and looks at the answer; it is not written yet. */
static void serve(struct world *w, struct request *r, bool again)
{
	struct fs_request name = {.id = {CONNECTION, r->unique}, .client = r->kind == CLONE,
		.again = again || r->kind == CLONE};
	struct fs_request keep;
	uint64_t ino = 0, result;
	int64_t got;

	fs_request_begin(w->fs, &name);
	if (again && fs_request_is_done(w->fs, &result))
		w->done_before++;
	got = carry_out(w, r, &ino);
	/* Ends it without saying that it was answered. */
	keep = name;
	name.recorded = name.again = false;
	fs_request_end(w->fs, &name);
	(void)keep;
	if (w->verbose)
		printf("  %s %s %d %d: %" PRId64 "%s%s\n", again ? "again" : "serve",
			kind_names[r->kind], r->a, r->b, got, w->dead ? " (dead)" : "",
			r->tried ? " tried" : "");
	if (w->dead)
		return;
	r->tried = true;
	if (got != r->right)
		wrong(w, "%s %s of \"%s\" \"%s\" gives %" PRId64 ", right is %" PRId64,
			again ? "repeated" : "first", kind_names[r->kind], name_of[r->a],
			name_of[r->b], got, r->right);
	if (ino && r->file->ino && r->file->ino != ino)
		wrong(w, "%s made inode %" PRIu64 " first, then %" PRIu64, kind_names[r->kind],
			r->file->ino, ino);
	if (ino)
		r->file->ino = ino;
}

/* The answer of the oldest open request is written: the kernel knows what it made. */
static void answer(struct world *w)
{
	struct request *r = &w->open[0];
	struct fs_request name = {.id = {CONNECTION, r->unique}, .client = r->kind == CLONE};

	fs_request_begin(w->fs, &name);
	name.recorded = true;
	fs_request_end(w->fs, &name);
	if (r->kind <= LINK && r->right == 0)
		r->file->known = true;
	w->open_count--;
	memmove(w->open, w->open + 1, w->open_count * sizeof(*r));
}

/* ---- the model ---- */

static struct file *add_file(struct world *w, uint32_t type)
{
	struct file *f = &w->files[w->file_count++];

	*f = (struct file){.type = type};
	return f;
}

static int64_t right_rename(struct world *w, struct request *r)
{
	struct file *a = w->names[r->a], *b = w->names[r->b];

	if (!a)
		return -ENOENT;
	if (r->kind == EXCHANGE && !b)
		return -ENOENT;
	if (b && (r->flags & RENAME_NOREPLACE) && a != b)
		return -EEXIST;
	if (a == b)
		return 0;
	if (r->kind == EXCHANGE) {
		w->names[r->a] = b;
		w->names[r->b] = a;
		return 0;
	}
	if (b && S_ISDIR(b->type) && !S_ISDIR(a->type))
		return -EISDIR;
	if (b && !S_ISDIR(b->type) && S_ISDIR(a->type))
		return -ENOTDIR;
	w->names[r->b] = a;
	w->names[r->a] = NULL;
	return 0;
}

static int64_t right_xattr(struct request *r)
{
	bool had = r->file->xattr;

	if (r->kind == REMOVE) {
		r->file->xattr = false;
		return had ? 0 : -ENODATA;
	}
	if (had && (r->flags & XATTR_CREATE))
		return -EEXIST;
	if (!had && (r->flags & XATTR_REPLACE))
		return -ENODATA;
	r->file->xattr = true;
	return 0;
}

static void decide(struct world *w, struct request *r)
{
	static const uint32_t types[] = {S_IFREG, S_IFDIR, S_IFLNK};
	struct file *at = w->names[r->a];

	switch (r->kind) {
	case MAKE:
	case FOLDER:
	case LINK:
		r->right = at ? -EEXIST : 0;
		r->file = add_file(w, types[r->kind]);
		if (!at)
			w->names[r->a] = r->file;
		break;
	case UNLINK:
		r->right = !at ? -ENOENT : S_ISDIR(at->type) ? -EISDIR : 0;
		if (!r->right)
			w->names[r->a] = NULL;
		break;
	case RMDIR:
		r->right = !at ? -ENOENT : !S_ISDIR(at->type) ? -ENOTDIR : 0;
		if (!r->right)
			w->names[r->a] = NULL;
		break;
	case RENAME:
	case EXCHANGE:
		r->right = right_rename(w, r);
		break;
	case SET:
	case REMOVE:
		r->right = right_xattr(r);
		break;
	case COPY:
		r->right = r->source->byte ? BYTES : 0;
		if (r->right) {
			r->file->byte = r->source->byte;
			r->file->copied = true;
		}
		break;
	case CLONE:
		r->right = at ? -EEXIST : 0;
		if (!at) {
			r->file = w->names[r->a] = add_file(w, S_IFREG);
			r->file->byte = r->source->byte;
		}
		break;
	case WRITE:
		r->right = BYTES;
		r->file->byte = r->byte;
		break;
	case KINDS:
		break;
	}
}

/* As path resolution does it. */
static void look_up(struct world *w, struct file *f, const char *name)
{
	struct fs_attr attr;

	if (!f->known && fs_lookup(w->fs, FS_INO_ROOT, name, &attr) == 0)
		f->known = true;
}

/* Whether a client can have it, by name or open. */
static bool is_found(struct world *w, struct file *f)
{
	bool named = false;

	for (int i = 0; i < NAMES && !f->gone; i++) {
		named |= w->names[i] == f;
		if (w->names[i] == f && f->ino)
			look_up(w, f, name_of[i]);
	}
	return f->ino && S_ISREG(f->type) && !f->gone && f->known && (named || f->opens);
}

static struct file *any_file(struct world *w)
{
	for (int tries = 0; tries < 30 && w->file_count; tries++) {
		struct file *f = &w->files[rng_below(&w->rng, w->file_count)];

		if (is_found(w, f))
			return f;
	}
	return NULL;
}

static bool choose(struct world *w, struct request *r)
{
	static const int set_flags[] = {XATTR_CREATE, XATTR_REPLACE};
	static const unsigned rename_flags[] = {0, 0, RENAME_NOREPLACE};

	*r = (struct request){
		.kind = (enum kind)rng_below(&w->rng, KINDS),
		.unique = w->unique += 2,
		.a = (int)rng_below(&w->rng, NAMES),
		.b = (int)rng_below(&w->rng, NAMES),
		.byte = (unsigned char)(1 + rng_below(&w->rng, 250)),
	};
	if (r->kind == RENAME || r->kind == EXCHANGE)
		r->b = (r->a + 1 + (int)rng_below(&w->rng, NAMES - 1)) % NAMES;
	if (r->kind == RENAME)
		r->flags = (int)rename_flags[rng_below(&w->rng, 3)];
	if (r->kind == EXCHANGE)
		r->flags = RENAME_EXCHANGE;
	if (r->kind == SET)
		r->flags = set_flags[rng_below(&w->rng, 2)];
	if (r->kind == SET || r->kind == REMOVE || r->kind == COPY || r->kind == WRITE)
		r->file = any_file(w);
	/* Over what the ring holds already. */
	if (r->kind == WRITE && w->written && is_found(w, w->written) && rng_below(&w->rng, 2))
		r->file = w->written;
	if (r->kind == WRITE)
		w->written = r->file;
	if (r->kind == COPY || r->kind == CLONE)
		r->source = any_file(w);
	if ((r->kind == SET || r->kind == REMOVE || r->kind == WRITE) && !r->file)
		return false;
	if (r->kind == CLONE && !r->source)
		return false;
	/* To an empty file, so that it attaches. */
	if (r->kind == COPY &&
		(!r->file || !r->source || r->file == r->source || r->file->byte || r->file->copied))
		return false;
	return w->file_count + 1 < FILES;
}

/* ---- death and what follows ---- */

static bool is_named(struct world *w, const struct file *f)
{
	for (int i = 0; i < NAMES; i++)
		if (w->names[i] == f)
			return true;
	return false;
}

static void check_file(struct world *w, const struct file *f)
{
	unsigned char bytes[BYTES + 1];
	ssize_t n = fs_read(w->fs, f->ino, bytes, sizeof(bytes), 0);

	if (n != (f->byte ? BYTES : 0))
		wrong(w, "inode %" PRIu64 " reads %zd bytes", f->ino, n);
	for (ssize_t i = 0; i < n; i++)
		if (bytes[i] != f->byte)
			wrong(w, "inode %" PRIu64 " has %u at %zd, right is %u", f->ino, bytes[i], i,
				f->byte);
}

static void check_names(struct world *w)
{
	for (int i = 0; i < NAMES; i++) {
		struct file *f = w->names[i];
		uint64_t ino;
		int r = fs_resolve(w->fs, name_of[i], &ino);

		if (r != (f ? 0 : -ENOENT))
			wrong(w, "\"%s\" is %d, right is %s", name_of[i], r, f ? "there" : "gone");
		if (f && !f->ino)
			f->ino = ino; /* clones are not told */
		if (f && f->ino != ino)
			wrong(w, "\"%s\" is inode %" PRIu64 ", right is %" PRIu64, name_of[i], ino,
				f->ino);
	}
	for (size_t i = 0; i < w->file_count; i++) {
		struct file *f = &w->files[i];

		if (f->ino && S_ISREG(f->type) && !f->gone && (is_named(w, f) || f->opens))
			check_file(w, f);
	}
}

/* What the kernel has open, as handles_inherit() does it. */
static void open_again(struct world *w)
{
	bool keep;

	for (size_t i = 0; i < w->file_count; i++)
		for (unsigned n = 0; n < w->files[i].opens; n++)
			if (fs_open_file(w->fs, w->files[i].ino, O_RDWR, &keep))
				wrong(w, "open inode %" PRIu64 " is gone", w->files[i].ino);
}

static void use_fork(struct world *w)
{
	if (w->fs)
		fs_abandon(w->fs);
	w->fs = NULL;
	simdisk_free(w->disk);
	w->disk = w->fork;
	w->fork = NULL;
	memcpy(w->open, w->left, sizeof(w->open));
	w->open_count = w->left_count;
	memcpy(&w->board, &w->board_left, sizeof(w->board));
	w->dead = false;
	w->die_at = 0;
	w->deaths++;
	simdisk_set_hook(w->disk, hook, w);
}

/* The process died: others take over until one lives. */
static void take_over(struct world *w)
{
	struct fs_options opt = options(w, true);
	size_t count;
	int r;

	do {
		use_fork(w);
		if (w->verbose)
			printf(" death %" PRIu64 ", %zu open\n", w->deaths, w->open_count);
		if (rng_below(&w->rng, 4) == 0)
			plan_death(w, 40);
		r = fs_open(&w->fs, simdisk_io(w->disk), &opt);
		if (r)
			wrong(w, "fs_open of a takeover: %s", strerror(-r));
		for (size_t i = 0; i < w->open_count && !w->dead; i++) {
			serve(w, &w->open[i], true);
			w->again++;
		}
	} while (w->dead);
	w->die_at = 0;
	count = w->open_count;
	while (w->open_count)
		answer(w);
	fs_takeover_served(w->fs);
	open_again(w);
	check_names(w);
	/* Only its own are remembered, and there are none. */
	if (fs_request_count(w->fs, false))
		wrong(w, "%zu requests are remembered, %zu were open", fs_request_count(w->fs, false),
			count);
}

/* ---- a run ---- */

/* The kernel closes and forgets; half of the messages died with somebody. */
static void forget_some(struct world *w)
{
	for (size_t i = 0; i < w->file_count; i++) {
		struct file *f = &w->files[i];

		if (!f->known || f->gone)
			continue;
		if (S_ISREG(f->type) && !f->opens && rng_below(&w->rng, 4) == 0) {
			bool keep;

			if (is_named(w, f) && fs_open_file(w->fs, f->ino, O_RDWR, &keep) == 0)
				f->opens++;
		} else if (f->opens && rng_below(&w->rng, 6) == 0) {
			fs_close_file(w->fs, f->ino, O_RDWR);
			f->opens--;
		}
	}
}

static bool is_in_use(struct world *w, const struct file *f)
{
	for (size_t i = 0; i < w->open_count; i++)
		if (w->open[i].file == f || w->open[i].source == f)
			return true;
	return is_named(w, f) || f->opens;
}

static void evict_some(struct world *w)
{
	for (size_t i = 0; i < w->file_count; i++) {
		struct file *f = &w->files[i];

		if (!f->known || f->gone || is_in_use(w, f) || rng_below(&w->rng, 3))
			continue;
		f->known = false;
		f->gone = true;
		if (rng_below(&w->rng, 2))
			fs_forget(w->fs, f->ino, 1);
	}
}

static void finish(struct world *w)
{
	while (w->open_count)
		answer(w);
	w->fork = simdisk_clone(w->disk);
	w->left_count = 0;
	memcpy(&w->board_left, &w->board, sizeof(w->board));
	take_over(w);
	for (size_t i = 0; i < w->file_count; i++) {
		for (; w->files[i].opens; w->files[i].opens--)
			fs_close_file(w->fs, w->files[i].ino, O_RDWR);
		w->files[i].known = false;
	}
	if (fs_settle(w->fs))
		wrong(w, "fs_settle fails");
	for (size_t i = 0; i < w->file_count; i++) {
		struct file *f = &w->files[i];
		struct fs_attr attr;
		int r = f->ino ? fs_getattr(w->fs, f->ino, &attr) : 0;

		if (f->ino && r != (is_named(w, f) ? 0 : -ESTALE))
			wrong(w, "inode %" PRIu64 ", %s a name, is %d in the end", f->ino,
				is_named(w, f) ? "with" : "without", r);
	}
	if (fs_close(w->fs))
		wrong(w, "fs_close fails");
	simdisk_free(w->disk);
}

/*
 * What may be carried out anew after what came behind it is answered first, as there would be two
 * right answers: one that failed, and a copy whose source changes.
 */
static bool must_answer(struct world *w, const struct request *next)
{
	for (size_t i = 0; i < w->open_count; i++) {
		if (w->open[i].right < 0)
			return true;
		if (w->open[i].kind == COPY && (next->kind == WRITE || next->kind == COPY) &&
			(w->open[i].source == next->file || w->open[i].file == next->file))
			return true;
	}
	return false;
}

static void step(struct world *w)
{
	struct request *r, next;

	if (w->open_count == WINDOW || (w->open_count && rng_below(&w->rng, 3) == 0)) {
		answer(w);
		return;
	}
	if (rng_below(&w->rng, 12) == 0)
		forget_some(w);
	if (rng_below(&w->rng, 12) == 0)
		evict_some(w);
	if (rng_below(&w->rng, 30) == 0 && fs_settle(w->fs) && !w->dead)
		wrong(w, "fs_settle fails");
	if (!w->dead && rng_below(&w->rng, 8) == 0 && fs_sync(w->fs) && !w->dead)
		wrong(w, "fs_sync fails");
	if (!w->dead) {
		if (!choose(w, &next))
			return;
		while (must_answer(w, &next))
			answer(w);
		r = &w->open[w->open_count];
		*r = next;
		decide(w, r);
		w->open_count++;
		serve(w, r, false);
		if (!w->dead && r->kind == CLONE && r->right == 0)
			fs_resolve(w->fs, name_of[r->a], &r->file->ino);
	}
	if (w->dead)
		take_over(w);
	if (!w->die_at)
		plan_death(w, 60);
}

static void run(uint64_t seed, int ops, struct world *w)
{
	struct fs_options opt;

	memset(w, 0, sizeof(*w));
	w->verbose = getenv("VERBOSE");
	rng_seed(&w->rng, seed);
	w->straight = rng_below(&w->rng, 2);
	opt = options(w, false);
	w->disk = simdisk_new(256 * MIB);
	if (fs_open(&w->fs, simdisk_io(w->disk), &opt))
		wrong(w, "fs_open of a new store fails");
	simdisk_set_hook(w->disk, hook, w);
	plan_death(w, 60);
	for (int i = 0; i < ops; i++)
		step(w);
	finish(w);
}

int main(int argc, char **argv)
{
	uint64_t seeds = argc > 1 ? strtoull(argv[1], NULL, 0) : 80;
	int ops = argc > 2 ? atoi(argv[2]) : 1200;
	uint64_t first = getenv("SEED") ? strtoull(getenv("SEED"), NULL, 0) : 1;
	uint64_t deaths = 0, again = 0, before = 0;
	struct world *w = malloc(sizeof(*w));

	log_open(LOG_TO_FILE, "/dev/null");
	for (uint64_t seed = first; seed < first + seeds; seed++) {
		printf("SEED=%" PRIu64 "\n", seed);
		fflush(stdout);
		run(seed, ops, w);
		deaths += w->deaths;
		again += w->again;
		before += w->done_before;
	}
	free(w);
	printf("%" PRIu64 " deaths, %" PRIu64 " requests served again, %" PRIu64
	       " of them done before\n", deaths, again, before);
	return 0;
}
