/* SPDX-License-Identifier: MIT */
/*
 * Ops: the changes of which journal records and the catalog consist.
 *
 * Building: a growing buffer to which ops are added. Reading: a walk that checks every length
 * against its type before it hands an op out, so that what applies it may use all its fields.
 * Pure: bytes in, bytes out.
 */
#ifndef GOLDFS_STORE_OPS_H
#define GOLDFS_STORE_OPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "goldfs/format.h"

struct opbuf {
	uint8_t *bytes;
	size_t len;
	size_t capacity;
	bool failed; /* out of memory: everything added since is missing */
};

void opbuf_init(struct opbuf *buf);
void opbuf_release(struct opbuf *buf);
/* Takes memory for so many bytes before they are added, if there is that much. */
void opbuf_reserve(struct opbuf *buf, size_t capacity);

/*
 * Adds an op of the given type whose struct has size bytes and is followed by tail bytes (padded
 * to 8 with zeros). Returns the zeroed op, header filled in, valid until the next add; NULL when
 * out of memory (then opbuf.failed is set).
 */
void *opbuf_add(struct opbuf *buf, enum gf_op_type type, unsigned flags, size_t size, size_t tail);

#define OPBUF_ADD(buf, type, flags, pointer, tail) \
	((pointer) = opbuf_add((buf), (type), (flags), sizeof(*(pointer)), (tail)))

/*
 * The op at *pos of ops, or NULL at the end; *pos moves behind it. *error becomes -EUCLEAN when
 * what stands there is not a whole, well-formed op.
 */
const struct gf_disk_op *ops_next(const void *ops, size_t len, size_t *pos, int *error);

/* The bytes after the fixed part of an op. */
static inline const void *op_tail(const void *op, size_t fixed)
{
	return (const uint8_t *)op + fixed;
}

#endif
