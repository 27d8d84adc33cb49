/* SPDX-License-Identifier: MIT */
/*
 * Doing what the walk noted.
 *
 * First copies are made of everything small that will be replaced: superblock, catalogs, and the
 * map and checksum files of layers that are touched. Then bytes that are known to be right are put
 * in place, and what nobody refers to is removed. What concerns states of blocks goes through the
 * store itself: it is opened as a mount would do it, which replays the journal and writes pages and
 * both catalogs anew, in the order that survives a power loss at any moment.
 */
#include "core/check_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/mutation.h"
#include "base/sizes.h"
#include "core/dedup.h"

/* ---- copies of what is replaced ---- */

static int copy_data(struct io *io, int from, int to)
{
	CLEANUP_FREE uint8_t *buf = malloc(MIB);
	uint64_t off = 0, start, end;
	struct io_stat st;
	int r = buf ? io->ops->stat(io, from, &st) : -ENOMEM;

	while (!r && (r = io->ops->next_data(io, from, off, &start, &end)) == 0) {
		for (off = max_u64(start, off); off < end && !r;) {
			size_t n = min_u64(MIB, end - off);

			r = io_pread_full(io, from, buf, n, off);
			if (!r)
				r = io_pwrite(io, to, buf, n, off);
			off += n;
		}
	}
	if (r == -ENXIO)
		r = SITE("repair: give a saved copy its size", io->ops->truncate(io, to, st.size));
	return r ? r : SITE("repair: sync a saved copy", io->ops->fdatasync(io, to));
}

static int copy_file(struct io *io, const char *from, const char *to)
{
	int in = io->ops->open(io, from, O_RDONLY), out, r;

	if (in < 0)
		return in == -ENOENT ? 0 : in;
	out = io->ops->open(io, to, O_RDWR | O_CREAT | O_EXCL);
	r = out < 0 ? out : copy_data(io, in, out);
	if (out >= 0)
		io->ops->close(io, out);
	io->ops->close(io, in);
	return r == -EEXIST ? 0 : r;
}

/* "layer/5.map" as a name in the folder of copies. */
static int save(struct check *c, const char *path)
{
	char to[200];
	char *slash;
	int n = snprintf(to, sizeof(to), "%s/", c->report->saved);

	snprintf(to + n, sizeof(to) - n, "%s", path);
	for (slash = to + n; (slash = strchr(slash, '/')) != NULL;)
		*slash = '-';
	return copy_file(c->io, path, to);
}

static int pass(void *arg, const char *name)
{
	return 0;
}

static int make_folder(struct check *c)
{
	char name[64], when[32];
	time_t now = time(NULL);
	struct tm tm;
	int n = 1;

	/* A later round adds to what the first one kept. */
	if (c->report->saved)
		return 0;
	gmtime_r(&now, &tm);
	strftime(when, sizeof(when), "%Y%m%dT%H%M%SZ", &tm);
	snprintf(name, sizeof(name), "repair.%s", when);
	while (n < 1000 && c->io->ops->list(c->io, name, pass, NULL) != -ENOENT)
		snprintf(name, sizeof(name), "repair.%s.%d", when, ++n);
	c->report->saved = strdup(name);
	if (!c->report->saved)
		return -ENOMEM;
	return c->io->ops->mkdir(c->io, name);
}

static int save_all(struct check *c)
{
	static const char *const always[] = {
		SUPER_PATH, SUPER_COPY_PATH, "catalog.0", "catalog.1"};
	int r = make_folder(c);

	for (size_t i = 0; i < ARRAY_SIZE(always) && !r; i++)
		r = save(c, always[i]);
	for (const struct mend *m = c->mends; m && !r; m = m->next) {
		char path[64];

		if (m->kind == MEND_FILE_BYTES)
			r = save(c, m->path);
		if (m->kind == MEND_GIVE_UP)
			r = save(c, "journal/0");
		if (m->kind != MEND_LOSE)
			continue;
		snprintf(path, sizeof(path), "layer/%llu.map", (unsigned long long)m->layer);
		r = save(c, path);
		snprintf(path, sizeof(path), "layer/%llu.loc", (unsigned long long)m->layer);
		if (!r)
			r = save(c, path);
	}
	if (!r)
		r = SITE("repair: sync names of saved copies",
			c->io->ops->syncdir(c->io, c->report->saved));
	return r ? r : SITE("repair: sync the name of the saved copies' folder",
		c->io->ops->syncdir(c->io, "."));
}

/* ---- files ---- */

static int write_bytes(struct io *io, const struct mend *m)
{
	int fd, r;

	if (!m->bytes)
		return 0;
	fd = io->ops->open(io, m->path, O_RDWR | O_CREAT);
	if (fd < 0)
		return fd;
	r = io_pwrite(io, fd, m->bytes, m->len, m->off);
	if (!r)
		r = SITE("repair: sync what was mended", io->ops->fdatasync(io, fd));
	io->ops->close(io, fd);
	return r;
}

/* What follows a record that becomes whole was not seen, and refers to what nothing seemed to. */
static bool mends_journal(const struct check *c)
{
	for (const struct mend *m = c->mends; m; m = m->next)
		if (m->kind == MEND_FILE_BYTES && strncmp(m->path, "journal/", 8) == 0)
			return true;
	return false;
}

static int mend_files(struct check *c, bool bytes_only)
{
	struct io *io = c->io;
	int r = 0;

	for (const struct mend *m = c->mends; m && !r; m = m->next) {
		if (m->kind == MEND_FILE_BYTES)
			r = write_bytes(io, m);
		else if (m->kind == MEND_MAKE_FOLDER)
			r = io->ops->mkdir(io, m->path);
		else if (m->kind == MEND_REMOVE && !bytes_only)
			r = SITE("repair: remove what nothing refers to", io->ops->unlink(io, m->path));
		if (r == -ENOENT && m->kind == MEND_REMOVE)
			r = 0;
	}
	return r ? r : SITE("repair: sync the store's folder", io->ops->syncdir(io, "."));
}

/* ---- states ---- */

static int mend_states(struct check *c, struct fs *fs)
{
	int r = 0;

	for (const struct mend *m = c->mends; m && !r; m = m->next) {
		struct layer *layer = m->layer ? tree_find_layer(fs, m->layer) : NULL;

		/* Gone with a file that was removed while it was open. */
		if (!layer)
			continue;
		if (m->kind == MEND_LOSE)
			r = layer_set_state(layer, m->block, m->count, GF_SHARED);
	}
	for (const struct mend *m = c->mends; m && !r; m = m->next) {
		struct layer *layer = m->layer ? tree_find_layer(fs, m->layer) : NULL;

		if (layer && m->kind == MEND_COUNTERS)
			r = layer_recount(layer);
	}
	return r;
}

static int rewrite(struct check *c, bool give_up)
{
	const struct check_options *o = c->options;
	struct fs_options options = {
		.no_background = true,
		.accept_lost = give_up,
		.store_fd = o->store_fd,
		.golden_test = o->golden_test,
		.golden_test_arg = o->golden_test_arg,
	};
	struct fs *fs;
	int r = fs_open(&fs, c->io, &options), closed;

	/* The second look says why. */
	if (r)
		return r == -EUCLEAN ? 0 : r;
	r = mend_states(c, fs);
	/* What was given up may be all that somebody has of a file, in the pool, too. */
	if (!r && !give_up)
		r = dedup_count(fs);
	if (!r)
		r = checkpoint_run(fs);
	for (int i = 0; i < 4 && !r && checkpoint_is_owed(fs); i++)
		r = checkpoint_run(fs);
	if (!r && !give_up)
		checkpoint_reclaim(fs);
	closed = fs_close(fs);
	return r ? r : closed;
}

int check_repair(struct check *c)
{
	bool journal = mends_journal(c), states = false, give_up = false;
	int r = save_all(c);

	for (const struct mend *m = c->mends; m; m = m->next) {
		states |= m->kind == MEND_LOSE || m->kind == MEND_COUNTERS ||
			  m->kind == MEND_REWRITE;
		give_up |= m->kind == MEND_GIVE_UP;
	}
	if (!r)
		r = mend_files(c, journal);
	/* The rest is judged anew by the next look. */
	return !r && !journal && (states || give_up) ? rewrite(c, give_up) : r;
}
