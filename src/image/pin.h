/* SPDX-License-Identifier: MIT */
/*
 * Pins: a golden image's bytes kept for its clones, whatever happens to the file in IMAGES.
 *
 * A pin is golden/ID in the store: a reflink where the file system can, else a hard link, else a
 * copy made in the background (enum gf_pin_kind). A hard link shares its bytes with the file in
 * the folder, so a writer who opens that in place would change them under the clones: the guard
 * (a read lease per linked pin, taken while mounted) holds such a writer off until the image is
 * copied or its clones are fenced, and a print (size, mtime, hash of content samples; not ctime,
 * which linking changes) tells at mount and open whether it happened while nobody watched.
 */
#ifndef GOLDFS_IMAGE_PIN_H
#define GOLDFS_IMAGE_PIN_H

#include <stdbool.h>
#include <stdint.h>

#include "goldfs/format.h"

struct image;

struct pin_print {
	uint64_t size;	 /* bytes */
	int64_t mtime_ns;
	uint64_t sample; /* hash over evenly spread blocks, first and last included */
};

/* Computes the print of an open file. 0 or -errno. */
int pin_print_fd(int fd, struct pin_print *print);

/*
 * Makes golden/ID in the store folder store_fd from the open image source_fd: reflink, else link,
 * else *kind = GF_PIN_COPYING and nothing is made yet (call pin_copy). Durable on return.
 * -EBUSY: someone has the image open for writing, so it cannot be pinned yet.
 */
int pin_make(int store_fd, uint64_t id, int source_fd, enum gf_pin_kind *kind);

/* Copies the data of source_fd to golden/ID (by a temporary name, synced, renamed), calling
 * progress with bytes done between pieces; a non-zero return of it cancels. 0 or -errno. */
int pin_copy(int store_fd, uint64_t id, int source_fd,
	int (*progress)(void *arg, uint64_t done, uint64_t total), void *arg);

/*
 * Opens pin ID as an image. print is what it was when pinned: -ESTALE when the bytes are not the
 * same any more (a changed mtime alone, as touch leaves it, is no change: the content decides, and
 * *print gets the new mtime).
 */
int pin_open(int store_fd, uint64_t id, enum gf_pin_kind kind, struct pin_print *print,
	struct image **img);

/* Removes golden/ID and what belongs to it. A missing one is no error. */
int pin_remove(int store_fd, uint64_t id);

/*
 * The guard: watches linked pins and calls broken(arg, id) on its own thread when somebody wants
 * to write to one in place; that writer is held off by the kernel until broken() returns, at most
 * 40 seconds. broken() copies the image or fences it.
 */
struct pin_guard;
int pin_guard_new(struct pin_guard **guard, void (*broken)(void *arg, uint64_t id), void *arg);
/* fd is the open pin, lent until pin_guard_remove(). -EBUSY: a writer has it open already. */
int pin_guard_add(struct pin_guard *guard, uint64_t id, int fd);
void pin_guard_remove(struct pin_guard *guard, uint64_t id);
void pin_guard_free(struct pin_guard *guard);

#endif
