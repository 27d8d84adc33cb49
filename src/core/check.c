/* SPDX-License-Identifier: MIT */
/*
 * The order of a check, and its findings. See the header for what it promises.
 *
 * First comes what can be looked at in isolation (superblock, both catalogs, folders), so that each
 * damaged structure is named by itself; then the store is opened in memory as a read-only mount
 * would do it, and everything is compared with everything. What the code in between says to the log
 * becomes part of the findings.
 */
#include "core/check_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/array.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/sizes.h"
#include "core/dedup.h"
#include "store/pool.h"

#define MAX_PATHS 1000 /* named per finding */

/* ---- whom it concerns ---- */

static bool stands_on(const struct layer *top, const struct layer *layer)
{
	while (top && top != layer)
		top = top->parent;
	return top != NULL;
}

/* Whether the file shows any of the blocks as the layer has them in place. */
static bool shows_blocks(struct inode *inode, const struct about *about)
{
	uint64_t block = about->block;
	uint64_t end = min_u64(block + about->count,
		round_up(inode->size, GF_BLOCK_SIZE) / GF_BLOCK_SIZE);
	struct layer *top = atomic_load(&inode->layer);

	while (block < end) {
		struct extent x;
		int r = layer_resolve(top, block, end - block, false, &x);

		/* An error is about the layer at which the search ended. */
		if (x.layer == about->layer &&
			(r || x.kind == EXTENT_POOL || x.kind == EXTENT_GOLDEN ||
				(x.kind == EXTENT_DATA && !about->shared_only)) &&
			block * GF_BLOCK_SIZE < x.limit)
			return true;
		block += max_u64(x.count, 1);
	}
	return false;
}

static bool concerns(const struct about *about, struct inode *inode)
{
	struct layer *top = atomic_load(&inode->layer);

	if (about->inode)
		return about->inode == inode;
	for (size_t i = 0; i < about->ino_count; i++)
		if (about->inos[i] == inode->ino)
			return true;
	if (about->inos || about->names)
		return false;
	if (!top)
		return false;
	if (about->layer)
		return stands_on(top, about->layer) &&
		       (!about->count || shows_blocks(inode, about));
	if (about->shown_at)
		return inode_shows_place(inode, about->shown_at, 1);
	if (about->golden && inode_shows_place(inode, place_from_golden(about->golden, 0),
				     UINT64_C(1) << GF_PLACE_SHIFT))
		return true;
	while (about->golden && top->parent)
		top = top->parent;
	return about->golden && top->golden == about->golden;
}

/* Takes ownership of path. */
static void add_name(struct check_finding *f, char *path)
{
	char **paths = path && f->path_count < MAX_PATHS ?
		realloc(f->paths, (f->path_count + 1) * sizeof(*paths)) : NULL;

	if (!paths) {
		free(path);
		return;
	}
	f->paths = paths;
	f->paths[f->path_count++] = path;
}

static void add_path(struct check *c, struct check_finding *f, struct inode *inode)
{
	char *path = NULL;

	/* A file without a name lives only as long as somebody has it open. */
	if (fs_path(c->fs, inode->ino, &path) &&
		asprintf(&path, "(removed file %" PRIu64 ")", inode->ino) < 0)
		path = NULL;
	add_name(f, path);
}

static int compare_paths(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static void add_paths(struct check *c, struct check_finding *f, const struct about *about)
{
	struct inode *inode, *next;

	if (!c->fs || (!about->layer && !about->golden && !about->shown_at && !about->inode &&
			      !about->inos && !about->names))
		return;
	for (size_t i = 0; i < about->name_count; i++)
		add_name(f, strdup(about->names[i]));
	HASH_ITER (by_ino, c->fs->inodes, inode, next)
		if (concerns(about, inode))
			add_path(c, f, inode);
	if (f->path_count)
		qsort(f->paths, f->path_count, sizeof(*f->paths), compare_paths);
}

/* ---- findings ---- */

static void release_finding(struct check_finding *f)
{
	for (size_t i = 0; i < f->path_count; i++)
		free(f->paths[i]);
	free(f->paths);
	free(f->place);
	free(f->text);
}

static struct check_finding *new_finding(struct check_report *report)
{
	struct check_finding *more =
		array_with_room(report->findings, report->count, &report->capacity, sizeof(*more));

	if (!more)
		return NULL;
	report->findings = more;
	memset(&report->findings[report->count], 0, sizeof(*report->findings));
	return &report->findings[report->count];
}

void check_note_unseen(struct check_report *report, struct check_finding *f)
{
	if (f->path_count || f->severity != CHECK_DAMAGE)
		return;
	f->severity = CHECK_NOTE;
	f->advice = "no file shows it";
	report->damaged--;
}

int check_find(struct check *c, const struct about *about, const char *fmt, ...)
{
	struct check_report *report = c->report;
	struct check_finding *f;
	va_list ap;
	int n;

	if (about->severity == CHECK_DAMAGE)
		report->damaged++;
	if (report->count == CHECK_MAX_FINDINGS) {
		report->suppressed++;
		return 0;
	}
	f = new_finding(report);
	if (!f)
		return -ENOMEM;
	f->severity = about->severity;
	f->structure = about->structure;
	f->place = strdup(about->place ? about->place : "");
	f->offset = about->offset;
	f->length = about->length;
	f->advice = about->advice ? about->advice : "";
	f->repairable = about->repairable;
	f->lasting = about->lasting;
	f->incomplete = about->incomplete;
	va_start(ap, fmt);
	n = vasprintf(&f->text, fmt, ap);
	va_end(ap);
	if (n < 0)
		f->text = NULL;
	if (!f->place || !f->text) {
		release_finding(f);
		return -ENOMEM;
	}
	add_paths(c, f, about);
	if (about->unseen_is_note)
		check_note_unseen(report, f);
	report->count++;
	return 0;
}

void check_report_release(struct check_report *report)
{
	for (size_t i = 0; i < report->count; i++)
		release_finding(&report->findings[i]);
	free(report->findings);
	free(report->saved);
	memset(report, 0, sizeof(*report));
}

struct mend *check_mend(struct check *c, enum mend_kind kind)
{
	struct mend *m = calloc(1, sizeof(*m));

	/* Without memory less is mended, and the second look tells. */
	if (!m)
		return NULL;
	m->kind = kind;
	m->next = c->mends;
	c->mends = m;
	return m;
}

static void release_mends(struct check *c)
{
	while (c->mends) {
		struct mend *next = c->mends->next;

		free(c->mends->bytes);
		free(c->mends);
		c->mends = next;
	}
}

int check_progress(struct check *c, uint64_t bytes)
{
	c->done += bytes;
	c->report->bytes_read += bytes;
	if (c->options->progress && c->options->progress(c->options->arg, c->done, c->total))
		return -ECANCELED;
	return 0;
}

/* ---- the walk ---- */

static void remember_message(void *arg, const char *text)
{
	struct check *c = arg;

	snprintf(c->said, sizeof(c->said), "%s", text);
}

static int open_in_memory(struct check *c)
{
	const struct check_options *o = c->options;
	struct fs_options options = {
		.read_only = true,
		.no_background = true,
		.images = o->images,
		.store_fd = o->store_fd,
		.golden_test = o->golden_test,
		.golden_test_arg = o->golden_test_arg,
	};
	char said[sizeof(c->said)];
	int r;

	c->said[0] = '\0';
	c->hole = false;
	r = fs_open(&c->fs, c->io, &options);
	if (!r)
		return 0;
	c->fs = NULL;
	if (r == -ENOMEM)
		return r;
	/* Everything else can be looked at all the same. */
	snprintf(said, sizeof(said), "%s", c->said);
	options.accept_lost = true;
	c->hole = r == -EUCLEAN && fs_open(&c->fs, c->io, &options) == 0;
	if (c->hole)
		return 0;
	c->fs = NULL;
	check_find(c, &(struct about){.severity = CHECK_DAMAGE, .structure = "store",
		.advice = "nothing was changed; keep a copy of the store, and restore it from a backup"},
		"the store cannot be opened: %s", said[0] ? said : strerror(-r));
	return -EUCLEAN;
}

static uint64_t bytes_to_read(struct fs *fs)
{
	struct layer_entry *entry, *next;
	struct golden *g, *next_golden;
	struct pool_figures pool;
	uint64_t bytes;

	pool_figures(fs->pool, &pool);
	bytes = pool.live_slots * GF_BLOCK_SIZE;
	HASH_ITER (hh, fs->layers, entry, next)
		bytes += entry->layer->overlay_blocks * GF_BLOCK_SIZE;
	HASH_ITER (hh, fs->goldens, g, next_golden)
		bytes += g->image.size;
	return bytes;
}

const char *check_advice_unused(const struct check *c)
{
	return c->report->mount_frees ? "the next mount, or --repair, frees it" : "--repair frees it";
}

static int walk_open(struct check *c)
{
	int r = dedup_count(c->fs) == -ENOMEM ? -ENOMEM : 0;

	c->total = bytes_to_read(c->fs);
	c->report->mount_frees = c->fs->reclaim_wanted;
	if (!r)
		r = check_tree(c);
	if (!r)
		r = check_journal(c);
	if (!r)
		r = check_pool(c);
	if (!r)
		r = check_layers(c);
	if (!r)
		r = check_goldens(c);
	if (!r)
		r = check_leftovers(c);
	return r;
}

/* One look at everything. -EUCLEAN: not everything could be looked at, findings say why. */
static int walk(struct check *c)
{
	int r = check_superblock(c);

	if (!r)
		r = check_folders(c);
	if (!r)
		r = check_catalogs(c);
	if (!r)
		r = open_in_memory(c);
	if (!r)
		r = walk_open(c);
	if (c->fs)
		fs_abandon(c->fs);
	c->fs = NULL;
	slot_set_release(&c->bad_slots);
	return r;
}

static bool same_finding(const struct check_finding *a, const struct check_finding *b)
{
	return strcmp(a->structure, b->structure) == 0 && strcmp(a->place, b->place) == 0 &&
	       a->offset == b->offset;
}

/* What the first look found and the second does not, was repaired. */
static int merge(struct check_report *first, struct check_report *second)
{
	for (size_t i = 0; i < first->count; i++) {
		struct check_finding *f = &first->findings[i], *fresh;
		bool remains = false;

		for (size_t k = 0; k < second->count && !remains; k++)
			remains = same_finding(f, &second->findings[k]);
		if (remains)
			continue;
		fresh = new_finding(second);
		if (!fresh)
			return -ENOMEM;
		*fresh = *f;
		fresh->repaired = f->repaired || !f->lasting;
		second->count++;
		if (f->severity == CHECK_DAMAGE && fresh->repaired)
			second->repaired++;
		else if (f->severity == CHECK_DAMAGE)
			second->damaged++;
		memset(f, 0, sizeof(*f));
	}
	second->saved = steal_pointer(&first->saved);
	return 0;
}

static int repair_and_look_again(struct check *c)
{
	struct check_report first = *c->report;
	int r = check_repair(c), again;

	first.saved = steal_pointer(&c->report->saved);
	release_mends(c);
	if (r) {
		*c->report = first;
		return r;
	}
	memset(c->report, 0, sizeof(*c->report));
	c->done = 0;
	again = walk(c);
	r = merge(&first, c->report);
	check_report_release(&first);
	return r ? r : again;
}

int check_store(const struct check_options *options, struct check_report *report)
{
	struct check c = {.options = options, .report = report, .io = options->io};
	int r;

	memset(report, 0, sizeof(*report));
	log_divert(remember_message, &c);
	r = walk(&c);
	/* What hid behind something that is mended now may need mending, too. */
	for (int round = 0; round < 3 && options->repair && (!r || r == -EUCLEAN) && c.mends; round++)
		r = repair_and_look_again(&c);
	log_divert(NULL, NULL);
	release_mends(&c);
	/* That part could not be looked at is one of the findings. */
	return r == -EUCLEAN && report->damaged ? 0 : r;
}
