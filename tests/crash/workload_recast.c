/* SPDX-License-Identifier: MIT */
/*
 * The operations of the random workloads after which everything shows what it showed, on another
 * base: rebase, conversions, folding; whole, given up half way, or put off for whoever mounts next.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/sizes.h"
#include "image/image.h"
#include "workload_internal.h"

/* How long it may go on. */
struct patience {
	int calls;
	bool put_off;
};

static bool is_enough(void *arg, uint64_t done, uint64_t total)
{
	struct patience *p = arg;

	(void)done;
	(void)total;
	return p->calls-- <= 0;
}

static bool is_put_off(void *arg)
{
	return ((struct patience *)arg)->put_off;
}

static struct patience some_patience(struct run *run)
{
	struct patience p = {.calls = 1000000};

	if (below(run, 3) == 0)
		p = (struct patience){.calls = (int)below(run, 4), .put_off = below(run, 2)};
	return p;
}

static const char *ending(const struct patience *p)
{
	return p->calls > 100 ? "" : p->put_off ? ", put off" : ", given up";
}

/* What was asked to stop did what it was asked. */
static int recast_verdict(struct run *run, int r)
{
	bool gone = run->lock && r == -ESTALE; /* by another thread */

	if (gone || r == -ECANCELED || r == -EINTR || r == -EALREADY)
		return 0;
	return verdict(run, r);
}

static int find_golden(struct run *run, uint64_t golden, uint64_t *ino)
{
	struct fs_attr attr;
	char name[32];
	int r;

	snprintf(name, sizeof(name), "%" PRIu64, golden);
	r = fs_lookup(run->fs, FS_INO_GOLDEN, name, &attr);
	if (r)
		return r;
	fs_forget(run->fs, attr.ino, 1);
	*ino = attr.ino;
	return 0;
}

int op_rebase(struct run *run)
{
	struct model_entry *entry = pick_entry(run, MODEL_FILE);
	uint64_t golden = below(run, 10) ? 1 + below(run, 2) : 3, ino = 0;
	struct patience p = some_patience(run);
	struct fs_recast_options options = {
		.progress = is_enough, .is_put_off = is_put_off, .arg = &p};
	uint64_t file;
	int r;

	if (!entry)
		return 0;
	file = object_of(run, entry)->ino;
	model_rebased(run->model, object_of(run, entry));
	say(run, "rebase \"%s\" onto golden %" PRIu64 "%s", entry->path, golden, ending(&p));
	r = find_golden(run, golden, &ino);
	if (!r)
		r = UNLOCKED(run, fs_rebase(run->fs, file, ino, &options));
	return recast_verdict(run, r);
}

int op_convert(struct run *run)
{
	static const char *const names[] = {"snapshot", "thin", "full"};
	struct model_entry *entry = pick_entry(run, MODEL_FILE);
	enum fs_mode mode = (enum fs_mode)below(run, 3);
	uint64_t golden = mode == FS_MODE_SNAPSHOT && below(run, 2) ? 1 + below(run, 2) : 0,
		 ino = 0;
	struct patience p = some_patience(run);
	struct fs_recast_options options = {
		.progress = is_enough, .is_put_off = is_put_off, .arg = &p};
	uint64_t file;
	int r = 0;

	if (!entry)
		return 0;
	if (mode == FS_MODE_FULL && object_of(run, entry)->size > MAX_SIZE)
		mode = FS_MODE_THIN;
	file = object_of(run, entry)->ino;
	model_rebased(run->model, object_of(run, entry));
	say(run, "convert \"%s\" to %s%s%s", entry->path, names[mode],
		golden ? ", on an image" : "", ending(&p));
	if (golden)
		r = find_golden(run, golden, &ino);
	if (!r)
		r = UNLOCKED(run, fs_convert(run->fs, file, mode, ino, &options));
	return recast_verdict(run, r);
}

int op_fold(struct run *run)
{
	struct patience p = some_patience(run);
	struct fs_recast_options options = {
		.progress = is_enough, .is_put_off = is_put_off, .arg = &p};

	say(run, "fold%s", ending(&p));
	return recast_verdict(run, UNLOCKED(run, fs_fold(run->fs, &options)));
}

int op_go_on(struct run *run)
{
	struct model_tree *tree = model_tree(run->model);
	struct patience p = some_patience(run);
	struct fs_recast_options options = {
		.progress = is_enough, .is_put_off = is_put_off, .arg = &p};

	say(run, "go on with what was begun%s", ending(&p));
	for (size_t i = 0; i < tree->count; i++)
		model_rebased(run->model, object_of(run, &tree->list[i]));
	return recast_verdict(run, UNLOCKED(run, fs_recast_go_on(run->fs, &options)));
}

/* A patch from inside: what an image has, at its place. */
int op_patch(struct run *run)
{
	struct model_entry *entry = pick_entry(run, MODEL_FILE);
	uint64_t golden = below(run, 2), len = 4096 * (1 + below(run, below(run, 2) ? 8 : 60)), off;
	CLEANUP_FREE uint8_t *buf = malloc(len);
	struct image *image = run->images[golden];
	struct model_object *object;
	ssize_t n;

	if (!entry)
		return 0;
	object = object_of(run, entry);
	off = round_down(
		below(run, min_u64(min_u64(image->size, object->size), MAX_SIZE - len) + 1), 4096);
	len = min_u64(len, image->size - min_u64(off, image->size));
	if (!len || image->ops->read(image, buf, len, off))
		return 0;
	say(run, "patch \"%s\" %" PRIu64 "+%" PRIu64 " with golden %" PRIu64, entry->path, off, len,
		golden + 1);
	model_bytes_begin(run->model, object, buf, off, len);
	n = UNLOCKED(run, fs_write(run->fs, object->ino, buf, len, off));
	if (n != (ssize_t)len)
		return n < 0 ? failed_change(run, object, n)
			     : run_fail(run, "%s: wrote only %zd", run->text, n);
	model_change_end(run->model, object);
	return 0;
}
