/* SPDX-License-Identifier: MIT */
/*
 * What can be looked at by itself: the superblock and its copy, both copies of the catalog, and
 * which files there are.
 */
#include "core/check_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/sizes.h"
#include "store/content_index.h"

#define CATALOG_OPS_OFFSET 4096
#define MEND_CATALOG_BYTES (64 * KIB) /* larger ones take too long to try all bits of */

static const char restore_backup[] = "keep a copy of the store, and restore it from a backup";

/* ---- the superblock ---- */

struct super_file {
	uint8_t bytes[sizeof(struct gf_disk_super)];
	int result; /* of reading and decoding */
	struct superblock super;
};

static void read_super(struct check *c, const char *path, struct super_file *f)
{
	int fd = c->io->ops->open(c->io, path, O_RDONLY);
	ssize_t n;

	memset(f, 0, sizeof(*f));
	f->result = fd < 0 ? fd : 0;
	if (fd < 0)
		return;
	n = c->io->ops->pread(c->io, fd, f->bytes, sizeof(f->bytes), 0);
	c->io->ops->close(c->io, fd);
	f->result = n < 0 ? (int)n : superblock_decode(f->bytes, (size_t)n, &f->super);
}

static bool super_is_whole(const void *arg, const uint8_t *bytes)
{
	struct superblock sb;

	return superblock_decode(bytes, sizeof(struct gf_disk_super), &sb) == 0;
}

static void write_super(struct check *c, const char *path, const uint8_t *bytes)
{
	struct mend *m = check_mend(c, MEND_FILE_BYTES);

	if (!m)
		return;
	snprintf(m->path, sizeof(m->path), "%s", path);
	m->len = sizeof(struct gf_disk_super);
	m->bytes = malloc(m->len);
	if (m->bytes)
		memcpy(m->bytes, bytes, m->len);
}

static int super_damage(struct check *c, const char *path, int why, bool repairable)
{
	return check_find(c, &(struct about){.severity = CHECK_DAMAGE, .structure = "superblock",
		.place = path, .length = sizeof(struct gf_disk_super), .repairable = repairable,
		.advice = repairable ? "--repair writes it anew" : restore_backup},
		why == -ENOENT ? "the superblock is missing" :
		why == -EUCLEAN || why == -EPROTONOSUPPORT ? "the superblock is damaged" :
		"the superblock cannot be read: %s", strerror(-why));
}

/* Neither of them is whole: perhaps it is a single bit. */
static int both_supers_damaged(struct check *c, struct super_file *f)
{
	bool whole = f->result == -EUCLEAN &&
		     mend_one_bit(f->bytes, sizeof(f->bytes), super_is_whole, NULL);
	int r = super_damage(c, SUPER_PATH, f->result, whole);

	if (whole)
		write_super(c, SUPER_PATH, f->bytes);
	return r ? r : -EUCLEAN;
}

static int note_name(void *arg, const char *name)
{
	*(bool *)arg = true;
	return 0;
}

static bool holds_anything(struct check *c, const char *folder)
{
	bool any = false;

	c->io->ops->list(c->io, folder, note_name, &any);
	return any;
}

/* Whether the copy, which is whole, lacks features that the file has, and nothing else. */
static bool super_features_only(const struct super_file *file, const struct super_file *copy)
{
	struct superblock other = copy->super;

	if (file->result || other.incompat & ~file->super.incompat)
		return false;
	other.incompat = file->super.incompat;
	return memcmp(&file->super, &other, sizeof(other)) == 0;
}

/* The copy is not what the file says, or is not there. */
static int check_super_copy(struct check *c, const struct super_file *file,
	const struct super_file *copy)
{
	if (!copy->result && memcmp(file->bytes, copy->bytes, sizeof(file->bytes)) == 0)
		return 0;
	write_super(c, SUPER_COPY_PATH, file->bytes);
	/* Stores that were made before there was a copy get it with their next mount. */
	if (copy->result == -ENOENT)
		return 0;
	/* The same store when it could do less: a crash came between the file and its copy. */
	if (!copy->result && super_features_only(file, copy))
		return 0;
	return check_find(c, &(struct about){.severity = CHECK_DAMAGE, .structure = "superblock",
		.place = SUPER_COPY_PATH, .length = sizeof(struct gf_disk_super),
		.repairable = true, .advice = "--repair writes it anew"},
		"the copy of the superblock is damaged");
}

int check_superblock(struct check *c)
{
	struct super_file file, copy;
	int r;

	read_super(c, SUPER_PATH, &file);
	read_super(c, SUPER_COPY_PATH, &copy);
	if (file.result == -ENOENT && copy.result && !holds_anything(c, "layer"))
		return -ENOENT;
	if (file.result == -EPROTONOSUPPORT && copy.result)
		return -EPROTONOSUPPORT;
	c->super = file.result ? copy.super : file.super;
	if (!file.result)
		return check_super_copy(c, &file, &copy);
	if (copy.result)
		return both_supers_damaged(c, &file);
	r = super_damage(c, SUPER_PATH, file.result, true);
	write_super(c, SUPER_PATH, copy.bytes);
	/* What is missing is not made up for by a mount, so neither here. */
	return r ? r : file.result == -ENOENT ? -EUCLEAN : 0;
}

/* ---- the catalog ---- */

struct copy {
	struct catalog_head head;
	void *ops; /* malloc'ed */
	size_t len;
	int result;
};

static bool head_is_whole(const void *arg, const uint8_t *bytes)
{
	struct catalog_head head;
	uint64_t len, sum;

	return catalog_head_decode(bytes, sizeof(struct gf_disk_catalog), &head, &len, &sum) == 0;
}

struct body {
	size_t len;
	uint64_t sum;
};

static bool body_is_whole(const void *arg, const uint8_t *bytes)
{
	const struct body *body = arg;

	return hash_struct(bytes, body->len) == body->sum;
}

/* A catalog in which one bit is wrong, in the header or behind it, becomes whole. */
static bool mend_catalog(struct check *c, unsigned which)
{
	uint8_t first[sizeof(struct gf_disk_catalog)];
	CLEANUP_FREE uint8_t *ops = NULL;
	struct catalog_head head;
	struct body body = {0};
	struct io_stat st = {0};
	struct mend *m;
	char path[16];
	bool in_head;
	uint64_t len;
	int fd, r;

	snprintf(path, sizeof(path), "catalog.%u", which);
	fd = c->io->ops->open(c->io, path, O_RDONLY);
	if (fd < 0)
		return false;
	r = c->io->ops->stat(c->io, fd, &st);
	if (!r)
		r = io_pread_full(c->io, fd, first, sizeof(first), 0);
	in_head = !r && !head_is_whole(NULL, first);
	if (in_head && !mend_one_bit(first, sizeof(first), head_is_whole, NULL))
		r = -EUCLEAN;
	if (!r)
		r = catalog_head_decode(first, sizeof(first), &head, &len, &body.sum);
	if (!r && (st.size < CATALOG_OPS_OFFSET || len > st.size - CATALOG_OPS_OFFSET))
		r = -EUCLEAN;
	if (!r) {
		body.len = len;
		ops = malloc(len ? len : 1);
		r = ops ? io_pread_full(c->io, fd, ops, len, CATALOG_OPS_OFFSET) : -ENOMEM;
	}
	c->io->ops->close(c->io, fd);
	if (!r && !body_is_whole(&body, ops) &&
		(in_head || len > MEND_CATALOG_BYTES ||
			!mend_one_bit(ops, len, body_is_whole, &body)))
		r = -EUCLEAN;
	if (r)
		return false;
	m = check_mend(c, MEND_FILE_BYTES);
	if (!m)
		return false;
	snprintf(m->path, sizeof(m->path), "%s", path);
	m->off = in_head ? 0 : CATALOG_OPS_OFFSET;
	m->len = in_head ? sizeof(first) : len;
	m->bytes = in_head ? malloc(sizeof(first)) : steal_pointer(&ops);
	if (in_head && m->bytes)
		memcpy(m->bytes, first, sizeof(first));
	return m->bytes != NULL;
}

/* Whether records follow the tail that this copy names. */
static bool records_follow(struct check *c, const struct catalog_head *head)
{
	struct journal *journal;
	bool follow;

	if (journal_open(&journal, c->io, c->super.journal_size, c->super.secret, true))
		return false;
	follow = journal_scan(journal, head->tail, NULL, NULL, NULL) == 0 &&
		 journal_head(journal).seq != head->tail.seq;
	journal_close(journal);
	return follow;
}

/*
 * One copy is not whole. A power loss while it was written leaves it so, and then records follow
 * the other one: a checkpoint is never written without any. Without records it is damage, and so it
 * is when one bit makes it whole: power losses are coarser than that.
 */
static int one_catalog_damaged(struct check *c, unsigned which, const struct copy *good, int why)
{
	char path[16];

	snprintf(path, sizeof(path), "catalog.%u", which);
	check_mend(c, MEND_REWRITE);
	/* Should the other one turn out to be too old, this one is what is needed. */
	if (!(why == -EUCLEAN && mend_catalog(c, which)) && records_follow(c, &good->head))
		return check_find(c, &(struct about){.severity = CHECK_NOTE,
			.structure = "catalog", .place = path, .repairable = true,
			.advice = "the next mount, or --repair, writes it anew"},
			"this copy of the catalog is not whole, as a power loss may leave it; the "
			"other one and the journal have everything");
	return check_find(c, &(struct about){.severity = CHECK_DAMAGE, .structure = "catalog",
		.place = path, .repairable = true, .advice = "--repair writes it anew"},
		why == -ENOENT ? "this copy of the catalog is missing" :
		why == -EUCLEAN ? "this copy of the catalog is damaged" :
		"this copy of the catalog cannot be read: %s", strerror(-why));
}

static int both_catalogs_damaged(struct check *c, const struct copy copies[2])
{
	int r = 0;

	for (unsigned i = 0; i < 2 && !r; i++) {
		bool mendable = copies[i].result == -EUCLEAN && mend_catalog(c, i);
		char path[16];

		snprintf(path, sizeof(path), "catalog.%u", i);
		r = check_find(c, &(struct about){.severity = CHECK_DAMAGE,
			.structure = "catalog", .place = path, .repairable = mendable,
			.advice = mendable ? "--repair writes it anew" : restore_backup},
			copies[i].result == -ENOENT ? "the catalog is missing" :
			copies[i].result == -EUCLEAN ? "the catalog is damaged" :
			"the catalog cannot be read: %s", strerror(-copies[i].result));
	}
	return r ? r : -EUCLEAN;
}

/* Whether the ops can be walked to their end; what they do is checked by applying them. */
static int check_ops(struct check *c, unsigned which, const struct copy *copy)
{
	const struct gf_disk_op *op;
	size_t pos = 0;
	char path[16];
	int r = 0;

	while ((op = ops_next(copy->ops, copy->len, &pos, &r)) != NULL)
		;
	if (!r)
		return 0;
	snprintf(path, sizeof(path), "catalog.%u", which);
	return check_find(c, &(struct about){.severity = CHECK_DAMAGE, .structure = "catalog",
		.place = path, .offset = CATALOG_OPS_OFFSET + pos, .advice = restore_backup},
		"the catalog's checksum is right but its content is not");
}

static int compare_copies(struct check *c, const struct copy copies[2])
{
	for (unsigned i = 0; i < 2; i++) {
		char path[16];
		int r;

		snprintf(path, sizeof(path), "catalog.%u", i);
		if (memcmp(copies[i].head.uuid, c->super.uuid, sizeof(c->super.uuid)) == 0 &&
			copies[i].head.generation % 2 == i)
			continue;
		r = check_find(c, &(struct about){.severity = CHECK_DAMAGE,
			.structure = "catalog", .place = path, .advice = restore_backup},
			"this copy of the catalog belongs to another store or place");
		if (r)
			return r;
	}
	return 0;
}

int check_catalogs(struct check *c)
{
	struct copy copies[2] = {{.result = 0}};
	int r = 0;

	for (unsigned i = 0; i < 2; i++)
		copies[i].result = catalog_file_read_copy(
			c->io, i, &copies[i].head, &copies[i].ops, &copies[i].len);
	for (unsigned i = 0; i < 2 && !r; i++)
		if (!copies[i].result)
			r = check_ops(c, i, &copies[i]);
	if (r)
		;
	else if (copies[0].result && copies[1].result)
		r = both_catalogs_damaged(c, copies);
	else if (copies[0].result)
		r = one_catalog_damaged(c, 0, &copies[1], copies[0].result);
	else if (copies[1].result)
		r = one_catalog_damaged(c, 1, &copies[0], copies[1].result);
	else
		r = compare_copies(c, copies);
	for (unsigned i = 0; i < 2; i++)
		free(copies[i].result ? NULL : copies[i].ops);
	return r;
}

/* ---- which files there are ---- */

static int strange(struct check *c, const char *folder, const char *name)
{
	char path[300];

	snprintf(path, sizeof(path), "%s%s%s", folder, *folder ? "/" : "", name);
	return check_find(c, &(struct about){.severity = CHECK_NOTE, .structure = "file",
		.place = path, .advice = "remove it if it is not wanted there"},
		"the file does not belong to the store");
}

static bool starts_with(const char *name, const char *start)
{
	return strncmp(name, start, strlen(start)) == 0;
}

static int check_top_name(void *arg, const char *name)
{
	static const char *const known[] = {"superblock", "superblock.copy", "superblock.new",
		"catalog.0", "catalog.1", "lock", "log", "reserve", "layer", "golden", "journal",
		"pool", "index", "promoted", "lost+found"};

	for (size_t i = 0; i < ARRAY_SIZE(known); i++)
		if (strcmp(name, known[i]) == 0)
			return 0;
	return starts_with(name, "log.") || starts_with(name, "repair.") ? 0 :
		strange(arg, "", name);
}

static int check_journal_name(void *arg, const char *name)
{
	return strcmp(name, "0") == 0 || strcmp(name, "0.synced") == 0 ? 0 :
		strange(arg, "journal", name);
}

static int check_folder(struct check *c, const char *path,
	int (*cb)(void *arg, const char *name))
{
	struct mend *m;
	int r = c->io->ops->list(c->io, path, cb, c);

	if (r != -ENOENT)
		return r;
	m = check_mend(c, MEND_MAKE_FOLDER);
	if (m)
		snprintf(m->path, sizeof(m->path), "%s", path);
	return check_find(c, &(struct about){.severity = CHECK_DAMAGE, .structure = "file",
		.place = path, .repairable = true, .advice = "--repair makes an empty one"},
		"the folder is missing");
}

static int pass(void *arg, const char *name)
{
	return 0;
}

int check_folders(struct check *c)
{
	static const char *const others[] = {"layer", "golden", "pool", "index"};
	int r = c->io->ops->list(c->io, ".", check_top_name, c);

	if (!r)
		r = check_folder(c, "journal", check_journal_name);
	for (size_t i = 0; i < ARRAY_SIZE(others) && !r; i++)
		r = check_folder(c, others[i], pass);
	return r;
}

/* ---- files that nobody names ---- */

/* The id at the start of a name, 0 for none; *rest is what follows. */
static uint64_t leading_id(const char *name, const char **rest)
{
	uint64_t id = 0;
	char *end = (char *)name;

	if (*name >= '1' && *name <= '9')
		id = strtoull(name, &end, 10);
	*rest = end;
	return id;
}

static int orphan(struct check *c, const char *path)
{
	struct io_stat st = {0};
	int fd = c->io->ops->open(c->io, path, O_RDONLY);
	struct mend *m = check_mend(c, MEND_REMOVE);

	if (fd >= 0) {
		c->io->ops->stat(c->io, fd, &st);
		c->io->ops->close(c->io, fd);
	}
	if (m)
		snprintf(m->path, sizeof(m->path), "%s", path);
	c->report->orphaned_files++;
	c->report->orphaned_bytes += st.allocated;
	return check_find(c, &(struct about){.severity = CHECK_NOTE, .structure = "file",
		.place = path, .length = st.allocated, .repairable = true,
		.advice = check_advice_unused(c)},
		"nothing refers to this file");
}

static int check_layer_name(void *arg, const char *name)
{
	static const char *const endings[] = {".data", ".map", ".sum", ".loc"};
	struct check *c = arg;
	const char *rest;
	uint64_t id = leading_id(name, &rest);
	char path[64];

	for (size_t i = 0; id && i < ARRAY_SIZE(endings); i++) {
		if (strcmp(rest, endings[i]) != 0)
			continue;
		if (tree_find_layer(c->fs, id))
			return 0;
		/* Dropped by a record: its files go with the next checkpoint. */
		snprintf(path, sizeof(path), "layer/%s", name);
		return orphan(c, path);
	}
	return strange(c, "layer", name);
}

static int check_golden_name(void *arg, const char *name)
{
	struct check *c = arg;
	const char *rest;
	uint64_t id = leading_id(name, &rest);
	bool unfinished = strcmp(rest, ".tmp") == 0 || strcmp(rest, ".sums.tmp") == 0;
	char path[64];

	if (!id || (*rest && !unfinished && strcmp(rest, ".sums") != 0))
		return strange(c, "golden", name);
	if (tree_find_golden(c->fs, id) && !unfinished)
		return 0;
	snprintf(path, sizeof(path), "golden/%s", name);
	return orphan(c, path);
}

/* A file of data is there as long as it is used, its sums may be made before it. */
static int check_pool_name(void *arg, const char *name)
{
	struct check *c = arg;
	char data[80], *end;
	struct io_stat st = {0};
	uint64_t number = strtoull(name, &end, 10);
	int fd;

	snprintf(data, sizeof(data), "pool/%" PRIu64 "%.16s", number, end);
	if (strcmp(data + strlen("pool/"), name) != 0 ||
		(strcmp(end, ".data") != 0 && strcmp(end, ".sum") != 0))
		return strange(c, "pool", name);
	if (strcmp(end, ".data") == 0)
		return 0;
	fd = c->io->ops->open(c->io, data, O_RDONLY);
	if (fd >= 0) {
		c->io->ops->stat(c->io, fd, &st);
		c->io->ops->close(c->io, fd);
	}
	if (!st.size)
		return 0;
	snprintf(data, sizeof(data), "pool/%" PRIu64 ".data", number);
	fd = c->io->ops->open(c->io, data, O_RDONLY);
	if (fd >= 0)
		c->io->ops->close(c->io, fd);
	if (fd != -ENOENT)
		return 0;
	snprintf(data, sizeof(data), "pool/%" PRIu64 ".sum", number);
	return orphan(c, data);
}

static int check_index_name(void *arg, const char *name)
{
	struct check *c = arg;
	bool unfinished;
	uint64_t id = content_index_name(name, &unfinished);
	char path[64];

	if (!id)
		return strange(c, "index", name);
	if (tree_find_golden(c->fs, id) && !unfinished)
		return 0;
	snprintf(path, sizeof(path), "index/%s", name);
	return orphan(c, path);
}

int check_leftovers(struct check *c)
{
	int r = c->io->ops->list(c->io, "layer", check_layer_name, c);

	if (!r || r == -ENOENT)
		r = c->io->ops->list(c->io, "golden", check_golden_name, c);
	if (!r || r == -ENOENT)
		r = c->io->ops->list(c->io, "index", check_index_name, c);
	if (!r || r == -ENOENT)
		r = c->io->ops->list(c->io, "pool", check_pool_name, c);
	return r == -ENOENT ? 0 : r;
}
