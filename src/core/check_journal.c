/* SPDX-License-Identifier: MIT */
/*
 * Where the journal ends, and whether it should.
 *
 * The chain of records ends with the first that is not whole. Usually that is where the power went;
 * but when records behind it were durable once, the one that is not whole is damaged, and with it
 * everything that follows is out of reach: a record may be applied only after all before it. If a
 * single bit makes it whole again, that is what it was. If not, what can be said is whom the
 * records behind it concern. Those are found by their headers, which are keyed with the store's
 * secret: no guest can make one.
 */
#include "core/check_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/sizes.h"

#define RING_PATH "journal/0"
#define RECORD_ALIGN 64
#define MEND_RECORD_BYTES (64 * KIB) /* larger ones take too long to try all bits of */
#define MAX_TOUCHED 10000

/* ---- a record that one bit makes whole ---- */

struct expected {
	const uint8_t *secret;
	struct journal_mark mark;
	uint64_t room;
	uint64_t ops_sum; /* of the ops, when these are mended */
	size_t used;
};

static bool header_is_whole(const uint8_t *secret, const struct gf_disk_record *rec, uint64_t room)
{
	return rec->magic == GF_RECORD_MAGIC && rec->length >= sizeof(*rec) &&
	       rec->length % RECORD_ALIGN == 0 && rec->length <= room &&
	       rec->used <= rec->length - sizeof(*rec) &&
	       rec->sum == hash_content(secret, rec, offsetof(struct gf_disk_record, sum));
}

static bool header_follows(const void *arg, const uint8_t *bytes)
{
	const struct gf_disk_record *rec = (const struct gf_disk_record *)bytes;
	const struct expected *e = arg;

	return rec->seq == e->mark.seq && rec->prev == e->mark.prev &&
	       header_is_whole(e->secret, rec, e->room);
}

static bool ops_are_whole(const void *arg, const uint8_t *bytes)
{
	const struct expected *e = arg;

	return hash_struct(bytes, e->used) == e->ops_sum;
}

/* Makes the record at the chain's end whole, if one bit does; *len is its length then. */
static bool mend_record(struct check *c, struct journal_mark mark, uint8_t *buf, size_t *len)
{
	uint64_t size = journal_size(c->fs->journal);
	struct expected e = {
		.secret = c->super.secret, .mark = mark, .room = size - mark.pos % size};
	struct gf_disk_record rec;
	bool mended;

	if (e.room < sizeof(rec) || journal_read(c->fs->journal, mark.pos, buf, sizeof(rec)))
		return false;
	mended = !header_follows(&e, buf);
	if (mended && !mend_one_bit(buf, sizeof(rec), header_follows, &e))
		return false;
	memcpy(&rec, buf, sizeof(rec));
	*len = sizeof(rec) + rec.used;
	if (*len > MEND_RECORD_BYTES || journal_read(c->fs->journal, mark.pos + sizeof(rec),
						buf + sizeof(rec), rec.used))
		return false;
	e.used = rec.used;
	e.ops_sum = rec.ops_sum;
	if (ops_are_whole(&e, buf + sizeof(rec)))
		return mended;
	return !mended && mend_one_bit(buf + sizeof(rec), rec.used, ops_are_whole, &e);
}

static int tell_mendable(struct check *c, struct journal_mark mark, const uint8_t *bytes, size_t len)
{
	uint64_t place = mark.pos % journal_size(c->fs->journal);
	struct mend *m = check_mend(c, MEND_FILE_BYTES);

	if (m) {
		snprintf(m->path, sizeof(m->path), RING_PATH);
		m->off = place;
		m->len = len;
		m->bytes = malloc(len);
		if (m->bytes)
			memcpy(m->bytes, bytes, len);
	}
	return check_find(c, &(struct about){.severity = CHECK_DAMAGE, .structure = "journal",
		.place = RING_PATH, .offset = place, .length = len, .repairable = true,
		.advice = "--repair writes it anew, and what follows it counts again"},
		"one bit of record %" PRIu64 " is wrong", mark.seq);
}

/* ---- whom the records behind the damage concern ---- */

struct beyond {
	struct check *c;
	uint64_t *inos; /* malloc'ed */
	size_t ino_count;
	char **names; /* that files got there; malloc'ed */
	size_t name_count;
	uint64_t records;
	uint64_t last;	     /* highest number */
	uint64_t unreadable; /* of which nobody knows whom they concern */
};

static void add_ino(struct beyond *b, uint64_t ino)
{
	uint64_t *more;

	if (!ino || ino == FS_INO_ROOT || b->ino_count == MAX_TOUCHED)
		return;
	for (size_t i = 0; i < b->ino_count; i++)
		if (b->inos[i] == ino)
			return;
	more = realloc(b->inos, (b->ino_count + 1) * sizeof(*more));
	if (!more)
		return;
	b->inos = more;
	b->inos[b->ino_count++] = ino;
}

static void add_layer(struct beyond *b, uint64_t id)
{
	struct layer *layer = tree_find_layer(b->c->fs, id);

	if (layer)
		add_ino(b, layer->head_of);
}

/* A name that a file was given. */
static void add_name(struct beyond *b, uint64_t parent, const char *text, size_t len)
{
	CLEANUP_FREE char *folder = NULL;
	char **more, *name = NULL;

	if (!len || b->name_count == MAX_TOUCHED)
		return;
	if (parent != FS_INO_ROOT)
		fs_path(b->c->fs, parent, &folder);
	more = realloc(b->names, (b->name_count + 1) * sizeof(*more));
	if (!more)
		return;
	b->names = more;
	if (asprintf(&name, "%s%s%.*s", folder ? folder : parent == FS_INO_ROOT ? "" : "(new)",
		    folder || parent != FS_INO_ROOT ? "/" : "", (int)len, text) >= 0)
		b->names[b->name_count++] = name;
}

static void note_op(struct beyond *b, const struct gf_disk_op *op)
{
	const void *p = op;

	switch ((enum gf_op_type)op->type) {
	case GF_OP_WRITE:
	case GF_OP_LARGE:
	case GF_OP_SHARE:
	case GF_OP_CLEAR:
	case GF_OP_SIZE:
		add_ino(b, ((const struct gf_op_clear *)p)->ino);
		add_layer(b, ((const struct gf_op_clear *)p)->layer);
		break;
	case GF_OP_COMMIT:
	case GF_OP_BOUND:
		add_layer(b, ((const struct gf_op_commit *)p)->layer);
		break;
	case GF_OP_RENAME:
		add_ino(b, ((const struct gf_op_rename *)p)->other);
		add_ino(b, ((const struct gf_op_rename *)p)->ino);
		add_name(b, ((const struct gf_op_rename *)p)->parent,
			op_tail(p, sizeof(struct gf_op_rename)),
			((const struct gf_op_rename *)p)->name_len);
		break;
	case GF_OP_ATTR:
	case GF_OP_UNLINK:
	case GF_OP_DROP:
	case GF_OP_XATTR:
	case GF_OP_HEAD:
		add_ino(b, ((const struct gf_op_ino *)p)->ino);
		break;
	case GF_OP_INODE:
		if (((const struct gf_op_inode *)p)->kind != GF_KIND_GOLDEN)
			add_name(b, ((const struct gf_op_inode *)p)->parent,
				op_tail(p, sizeof(struct gf_op_inode)),
				((const struct gf_op_inode *)p)->name_len);
		break;
	default:
		break;
	}
}

/* What its ops name; of a damaged one as far as they can be made out. */
static void note_record(struct beyond *b, uint64_t pos, const struct gf_disk_record *rec)
{
	CLEANUP_FREE uint8_t *ops = malloc(rec->used + 1);
	const struct gf_disk_op *op;
	size_t at = 0;
	int r = -EUCLEAN;

	b->records++;
	if (rec->seq > b->last + 1)
		b->unreadable += rec->seq - b->last - 1;
	b->last = max_u64(b->last, rec->seq);
	if (ops && journal_read(b->c->fs->journal, pos + sizeof(*rec), ops, rec->used) == 0)
		while ((op = ops_next(ops, rec->used, &at, &r)) != NULL)
			note_op(b, op);
	b->unreadable += r != 0;
}

/* Everything in the ring that is younger than the chain's end. */
static void look_beyond(struct beyond *b, struct journal_mark head)
{
	struct journal *journal = b->c->fs->journal;
	uint64_t size = journal_size(journal), pos = head.pos, end = head.pos + size;
	CLEANUP_FREE uint8_t *buf = malloc(MIB);

	while (buf && pos < end) {
		uint64_t len = min_u64(MIB, min_u64(end - pos, size - pos % size));
		uint64_t at = 0;

		if (journal_read(journal, pos, buf, len))
			return;
		while (at + sizeof(struct gf_disk_record) <= len) {
			const struct gf_disk_record *rec = (const struct gf_disk_record *)(buf + at);

			if (!header_is_whole(b->c->super.secret, rec, size - (pos + at) % size) ||
				rec->seq < head.seq) {
				at += RECORD_ALIGN;
				continue;
			}
			note_record(b, pos + at, rec);
			at += rec->length;
		}
		pos += max_u64(at, RECORD_ALIGN);
	}
}

static void release_beyond(struct beyond *b)
{
	for (size_t i = 0; i < b->name_count; i++)
		free(b->names[i]);
	free(b->names);
	free(b->inos);
}

static int tell_hole(struct check *c, struct journal_mark head)
{
	struct beyond b = {.c = c, .last = head.seq - 1};
	uint64_t lost = c->fs->lost_upto;
	int r;

	look_beyond(&b, head);
	if (lost > b.last)
		b.unreadable += lost - b.last;
	check_mend(c, MEND_GIVE_UP);
	r = check_find(c, &(struct about){.severity = CHECK_DAMAGE, .structure = "journal",
		.place = RING_PATH, .offset = head.pos % journal_size(c->fs->journal),
		.inos = b.inos, .ino_count = b.ino_count, .names = b.names,
		.name_count = b.name_count, .lasting = true, .incomplete = b.unreadable != 0,
		.advice = "restore \"journal/0\" from a backup made after the store was last used; "
			  "or let --repair give up what follows (it keeps a copy), and restore the "
			  "files named here"},
		"record %" PRIu64 " is damaged, and what was written up to record %" PRIu64
		" is behind it; of %" PRIu64 " records it cannot be told whom they concern", head.seq,
		lost, b.unreadable);
	release_beyond(&b);
	return r;
}

/* ---- the end ---- */

static int tell_torn(struct check *c, struct journal_mark head)
{
	check_mend(c, MEND_REWRITE);
	return check_find(c, &(struct about){.severity = CHECK_NOTE, .structure = "journal",
		.place = RING_PATH, .offset = head.pos % journal_size(c->fs->journal),
		.repairable = true,
		.advice = "nothing to do after a power loss; otherwise compare what was written last"},
		"the last record is not whole: a power loss leaves that of what was not synced yet");
}

int check_journal(struct check *c)
{
	struct journal_mark head = journal_head(c->fs->journal);
	int torn = journal_ends_torn(c->fs->journal);
	CLEANUP_FREE uint8_t *buf = NULL;
	size_t len = 0;

	if (torn < 0)
		return torn;
	if (!torn && !c->hole)
		return 0;
	buf = malloc(sizeof(struct gf_disk_record) + MEND_RECORD_BYTES);
	if (!buf)
		return -ENOMEM;
	/* Power losses are coarser than one bit. */
	if (mend_record(c, head, buf, &len))
		return tell_mendable(c, head, buf, len);
	return c->hole ? tell_hole(c, head) : tell_torn(c, head);
}
