/* SPDX-License-Identifier: MIT */
/* The store's identity: made once, replaced by rename, never written in place. */
#ifndef GOLDFS_STORE_SUPERBLOCK_H
#define GOLDFS_STORE_SUPERBLOCK_H

#include <stddef.h>
#include <stdint.h>

#include "base/hash.h"
#include "base/io.h"

struct superblock {
	uint8_t uuid[16];
	uint64_t incompat;
	uint64_t compat;
	uint64_t autoclear;
	uint64_t created_ns;
	uint64_t journal_size;
	uint32_t host;
	uint8_t secret[HASH_SECRET_LEN];
};

/* -EUCLEAN: not a superblock or damaged; -EPROTONOSUPPORT: of a newer format. Pure. */
int superblock_decode(const void *buf, size_t len, struct superblock *sb);
/* Returns the bytes written to buf, which has room for 4096. Pure. */
size_t superblock_encode(const struct superblock *sb, void *buf);

#define SUPER_PATH "superblock"
#define SUPER_COPY_PATH "superblock.copy"

/* -ENOENT: there is none. Other errors are logged. Where it is damaged its copy serves. */
int superblock_read(struct io *io, struct superblock *sb);
/* Durable when it returns 0: by a temporary file and rename. */
int superblock_write(struct io *io, const struct superblock *sb);
/* Makes the copy say sb where it does not. */
int superblock_complete(struct io *io, const struct superblock *sb);
/* Random identity and secret. */
int superblock_generate(struct superblock *sb, uint64_t journal_size);

#endif
