/* SPDX-License-Identifier: MIT */
/*
 * Building and checking ops. The check is one table-like switch: for each type the size of its
 * fixed part and the length that its own counters promise. Types that are not known are damage,
 * not something to skip: a change that is not applied would leave later ones on wrong ground.
 */
#include "store/ops.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/sizes.h"
#include "store/runs.h"

void opbuf_init(struct opbuf *buf)
{
	memset(buf, 0, sizeof(*buf));
}

void opbuf_release(struct opbuf *buf)
{
	free(buf->bytes);
	opbuf_init(buf);
}

static bool set_capacity(struct opbuf *buf, size_t capacity)
{
	uint8_t *bytes = realloc(buf->bytes, capacity);

	if (!bytes)
		return false;
	buf->bytes = bytes;
	buf->capacity = capacity;
	return true;
}

static bool opbuf_grow(struct opbuf *buf, size_t more)
{
	size_t capacity = buf->capacity ? buf->capacity : 512;

	while (capacity < buf->len + more)
		capacity *= 2;
	return capacity == buf->capacity || set_capacity(buf, capacity);
}

void opbuf_reserve(struct opbuf *buf, size_t capacity)
{
	/* The memory is there now. */
	if (capacity > buf->capacity && set_capacity(buf, capacity))
		memset(buf->bytes + buf->len, 0, capacity - buf->len);
}

void *opbuf_add(struct opbuf *buf, enum gf_op_type type, unsigned flags, size_t size, size_t tail)
{
	size_t len = round_up(size + tail, 8);
	struct gf_disk_op *op;

	if (buf->failed || len > UINT32_MAX || !opbuf_grow(buf, len)) {
		buf->failed = true;
		return NULL;
	}
	op = (struct gf_disk_op *)(buf->bytes + buf->len);
	memset(op, 0, len);
	op->type = type;
	op->flags = flags;
	op->length = len;
	buf->len += len;
	return op;
}

/* The length that op must have by its own counters; 0 when it cannot be right. avail >= 8. */
static uint64_t op_expected(const struct gf_disk_op *op, size_t avail)
{
	const void *p = op;
	uint64_t fixed = 0, tail = 0;

#define OP_FIXED(kind) \
	do { \
		fixed = sizeof(struct kind); \
		if (avail < fixed) \
			return 0; \
	} while (0)

	switch ((enum gf_op_type)op->type) {
	case GF_OP_PAD:
		fixed = sizeof(struct gf_disk_op);
		break;
	case GF_OP_EPOCH:
		OP_FIXED(gf_op_epoch);
		break;
	case GF_OP_REQUEST:
		OP_FIXED(gf_op_request);
		break;
	case GF_OP_CARRIED:
		OP_FIXED(gf_op_carried);
		break;
	case GF_OP_WRITE:
		OP_FIXED(gf_op_blocks);
		tail = (uint64_t)((const struct gf_op_blocks *)p)->count * GF_BLOCK_SIZE;
		break;
	case GF_OP_LARGE:
		OP_FIXED(gf_op_blocks);
		tail = (uint64_t)((const struct gf_op_blocks *)p)->count * sizeof(uint32_t);
		break;
	case GF_OP_SHARE:
		OP_FIXED(gf_op_share);
		tail = (uint64_t)((const struct gf_op_blocks *)p)->count * sizeof(uint32_t);
		break;
	case GF_OP_COMMIT:
		OP_FIXED(gf_op_commit);
		break;
	case GF_OP_CLEAR:
		OP_FIXED(gf_op_clear);
		break;
	case GF_OP_INTENT:
	case GF_OP_SUSPECT:
		OP_FIXED(gf_op_intent);
		break;
	case GF_OP_UNGROW:
		OP_FIXED(gf_op_ungrow);
		break;
	case GF_OP_INODE:
		OP_FIXED(gf_op_inode);
		tail = (uint64_t)((const struct gf_op_inode *)p)->name_len +
		       ((const struct gf_op_inode *)p)->target_len;
		break;
	case GF_OP_ATTR:
		OP_FIXED(gf_op_attr);
		break;
	case GF_OP_RENAME:
		OP_FIXED(gf_op_rename);
		tail = ((const struct gf_op_rename *)p)->name_len;
		break;
	case GF_OP_UNLINK:
	case GF_OP_DROP:
		OP_FIXED(gf_op_ino);
		break;
	case GF_OP_SIZE:
		OP_FIXED(gf_op_size);
		break;
	case GF_OP_XATTR:
		OP_FIXED(gf_op_xattr);
		tail = (uint64_t)((const struct gf_op_xattr *)p)->name_len +
		       ((const struct gf_op_xattr *)p)->value_len;
		break;
	case GF_OP_LIMIT:
		OP_FIXED(gf_op_limit);
		break;
	case GF_OP_DEDUP:
		OP_FIXED(gf_op_dedup);
		break;
	case GF_OP_RECAST:
		OP_FIXED(gf_op_recast);
		break;
	case GF_OP_BASE:
		OP_FIXED(gf_op_base);
		break;
	case GF_OP_MODE:
		OP_FIXED(gf_op_mode);
		break;
	case GF_OP_LAYER:
		OP_FIXED(gf_op_layer);
		break;
	case GF_OP_HEAD:
	case GF_OP_BOUND:
	case GF_OP_SNAPSHOT:
	case GF_OP_POSITION:
		OP_FIXED(gf_op_pair);
		break;
	case GF_OP_GOLDEN:
		OP_FIXED(gf_op_golden);
		tail = ((const struct gf_op_golden *)p)->path_len;
		break;
	case GF_OP_PAGES:
		OP_FIXED(gf_op_pages);
		tail = (uint64_t)((const struct gf_op_pages *)p)->count * 8;
		break;
	}
#undef OP_FIXED
	return fixed ? round_up(fixed + tail, 8) : 0;
}

static bool name_is_valid(const char *name, size_t len)
{
	return len > 0 && len <= GF_NAME_MAX && !memchr(name, '\0', len) &&
	       !memchr(name, '/', len);
}

/* A path none of whose parts is hidden. */
static bool path_is_valid(const char *path, size_t len)
{
	bool start = true;

	if (len == 0 || len > GF_NAME_MAX || memchr(path, '\0', len))
		return false;
	for (size_t i = 0; i < len; i++) {
		if (start && (path[i] == '/' || path[i] == '.'))
			return false;
		start = path[i] == '/';
	}
	return !start;
}

static bool inode_name_is_valid(const struct gf_op_inode *inode)
{
	const char *name = (const char *)(inode + 1);

	return inode->kind == GF_KIND_PROMOTED ? path_is_valid(name, inode->name_len) :
						 name_is_valid(name, inode->name_len);
}

/* Ranges and names that the apply functions rely on. */
static bool op_is_sane(const struct gf_disk_op *op)
{
	const void *p = op;
	const struct gf_op_blocks *blocks = p;
	const struct gf_op_clear *clear = p;
	const struct gf_op_inode *inode = p;
	const struct gf_op_rename *rename = p;
	const struct gf_op_intent *intent = p;
	const uint64_t max_block = GF_MAX_SIZE / GF_BLOCK_SIZE;
	const uint64_t max_region = GF_MAX_SIZE / GF_REGION_SIZE;

	switch ((enum gf_op_type)op->type) {
	case GF_OP_WRITE:
	case GF_OP_LARGE:
		return blocks->block < max_block && blocks->count <= max_block - blocks->block &&
		       blocks->size <= GF_MAX_SIZE;
	case GF_OP_SHARE:
		return blocks->block < max_block && blocks->count <= max_block - blocks->block &&
		       blocks->size <= GF_MAX_SIZE && place_is_possible(((const struct gf_op_share *)p)->place, blocks->count);
	case GF_OP_CLEAR:
		return clear->block <= max_block && clear->count <= max_block - clear->block &&
		       (op->flags == GF_ZERO || op->flags == GF_PARENT);
	case GF_OP_INTENT:
		/* Marks are set for several regions at once, beyond the last one too. */
		return intent->region < max_region && intent->count <= max_region;
	case GF_OP_SUSPECT:
		return intent->region < max_region && intent->count <= max_region - intent->region;
	case GF_OP_INODE:
		/* A golden node has the number of its file there. */
		return (inode->kind == GF_KIND_GOLDEN || inode->size <= GF_MAX_SIZE) &&
		       inode->target_len <= GF_PATH_MAX &&
		       (inode->name_len == 0 || inode_name_is_valid(inode));
	case GF_OP_RENAME:
		return name_is_valid(op_tail(p, sizeof(*rename)), rename->name_len);
	case GF_OP_SIZE:
		return ((const struct gf_op_size *)p)->size <= GF_MAX_SIZE;
	case GF_OP_XATTR:
		return ((const struct gf_op_xattr *)p)->name_len <= GF_NAME_MAX &&
		       ((const struct gf_op_xattr *)p)->value_len <= GF_XATTR_VALUE_MAX;
	case GF_OP_LIMIT:
		return ((const struct gf_op_limit *)p)->bytes <= INT64_MAX;
	case GF_OP_DEDUP:
		return ((const struct gf_op_dedup *)p)->policy <= GF_DEDUP_ALL &&
		       ((const struct gf_op_dedup *)p)->domain <= GF_DOMAIN_SHARED;
	case GF_OP_UNGROW:
		return ((const struct gf_op_ungrow *)p)->size < ((const struct gf_op_ungrow *)p)->grown &&
		       ((const struct gf_op_ungrow *)p)->grown <= GF_MAX_SIZE;
	case GF_OP_LAYER:
		return ((const struct gf_op_layer *)p)->bound <= GF_MAX_SIZE;
	case GF_OP_RECAST:
		return ((const struct gf_op_recast *)p)->bound <= GF_MAX_SIZE &&
		       ((const struct gf_op_recast *)p)->kind < GF_RECAST_KINDS;
	case GF_OP_BASE:
		return ((const struct gf_op_base *)p)->bound <= GF_MAX_SIZE;
	case GF_OP_MODE:
		return ((const struct gf_op_mode *)p)->mode < GF_MODES;
	case GF_OP_BOUND:
		return ((const struct gf_op_pair *)p)->value <= GF_MAX_SIZE;
	case GF_OP_GOLDEN:
		return ((const struct gf_op_golden *)p)->path_len <= GF_PATH_MAX;
	default:
		return true;
	}
}

const struct gf_disk_op *ops_next(const void *ops, size_t len, size_t *pos, int *error)
{
	const struct gf_disk_op *op;
	size_t avail = len - *pos;

	*error = 0;
	if (avail == 0)
		return NULL;
	op = (const struct gf_disk_op *)((const uint8_t *)ops + *pos);
	if (avail < sizeof(*op) || op->length > avail || op->length < sizeof(*op) ||
		op_expected(op, op->length) != op->length || !op_is_sane(op)) {
		*error = -EUCLEAN;
		return NULL;
	}
	*pos += op->length;
	return op;
}
