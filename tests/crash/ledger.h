/* SPDX-License-Identifier: MIT */
/*
 * The accounting, computed from nothing: what every block of every file costs, read from the
 * store's files alone.
 *
 * A settled store has nothing in its journal that is not in place. So the newest catalog says which
 * files and layers there are and which generation of each map page counts; the pages say what state
 * a block is in, the lists of runs in the location files where a SHARED one stands. ledger_take()
 * reads these by man/goldfs-format.5, with none of the code in src/core and src/store, and follows
 * each block of each file down to where it stands: in a layer, in the pool, in a golden image, or
 * nowhere. The list of (place, file) that comes of it, sorted by place, says who else shows a
 * block; every figure is read off it:
 *
 *   unique         only this file shows the block: once, where it shows most of it
 *   shared_self    the other times that it shows it
 *   shared_snapshot  others show it too, and all are one file and its snapshots
 *   shared_clone   other files show it too
 *   shared_golden  it stands in a golden image
 *   zero           it stands nowhere
 *
 * A file of mode full, or on its way there, has a place for each block: all of it is unique.
 *
 * Bytes are those before the file's end. What the store holds beside that must be nothing: a block
 * of a layer, or a slot of the pool, that no file shows counts as unseen.
 *
 * ledger_take() fails when the store is not settled, and when what it reads is not as the format
 * says: sums, numbers of pages and layers, blocks that were lost.
 */
#ifndef GOLDFS_TESTS_LEDGER_H
#define GOLDFS_TESTS_LEDGER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct image;
struct io;
struct ledger;

struct ledger_file {
	uint64_t ino;
	uint64_t size; /* and of each class, bytes */
	uint64_t data, zero, unique, shared_golden, shared_clone, shared_snapshot, shared_self;
	uint64_t unique_blocks;
	bool is_snapshot;
	uint64_t snapshots; /* of a file: how many it has */
};

struct ledger_totals {
	uint64_t layer_blocks; /* that stand in layers' data files */
	uint64_t last_blocks;  /* of 16 TiB, which stand in the files of checksums */
	uint64_t slots;	       /* of the pool that some block of a layer names */
	uint64_t slot_refs;    /* how many name one */
	uint64_t golden_refs;  /* blocks of layers that name one of a golden image */
	uint64_t spare_blocks; /* for which there is a place in a layer that has nothing there */
	uint64_t placed_files; /* that have one for each of their blocks */
	uint64_t promoted;     /* files that are on their way to be golden images */
	uint64_t unseen;       /* blocks of layers and slots that no file shows */
	uint64_t layer_bytes;  /* that the data files take below */
	uint64_t pool_bytes;   /* that the pool's files do */
	uint64_t store_bytes;  /* that all files of the store do */
};

/*
 * A copy that was begun and is still growing (copy_file_range): it counts for others as what it
 * will be. The store does not know of that, so the caller says it.
 */
struct ledger_growing {
	uint64_t ino;
	uint64_t source; /* inode that is copied, and has not changed since */
};

/* images: by the number that the catalog has as the file's (node) - 1. 0, or -1 with the reason in
 * reason[size]. */
int ledger_take(struct ledger **ledger, struct io *io, struct image *const *images, size_t count,
	const struct ledger_growing *growing, size_t growing_count, char *reason, size_t size);
void ledger_free(struct ledger *ledger);

/* All files that have a layer, with a name or not. */
size_t ledger_files(const struct ledger *ledger, const struct ledger_file **files);
/* What goes when these files do: bytes as far as some of them shows them; whole blocks. */
void ledger_freed(const struct ledger *ledger, const uint64_t *inos, size_t count, uint64_t *bytes,
	uint64_t *blocks);
void ledger_totals(const struct ledger *ledger, struct ledger_totals *totals);
/* What the store's files take below now; no need for it to be settled. */
void ledger_measure(struct io *io, struct ledger_totals *totals);

#endif
