/* SPDX-License-Identifier: MIT */
/*
 * Figures as JSON: one file, a folder, the whole store, the daemon.
 *
 * The keys are a promise (what a user's scripts read), so each set stands in one table here and
 * nothing else renders them. Sizes are bytes. A folder's figures are the sums over the clones
 * below it, with one correction: what removing the folder frees is more than the sum of what each
 * clone alone would free, because blocks that only its own clones share go too. Those are moved
 * from the shared classes to unique_bytes, so that data_bytes stays the sum of its classes.
 */
#ifndef GOLDFS_SERVICE_REPORT_H
#define GOLDFS_SERVICE_REPORT_H

#include <jansson.h>
#include <stdint.h>
#include <stdio.h>

#include "core/fs.h"

#define REPORT_FIGURES(X) \
	X(virtual_bytes) \
	X(data_bytes) \
	X(zero_bytes) \
	X(unique_bytes) \
	X(shared_golden_bytes) \
	X(shared_clone_bytes) \
	X(shared_snapshot_bytes) \
	X(shared_self_bytes) \
	X(pinned_golden_bytes)

/* Those of struct fs_store_figures that are sizes; the text is the help of the metric. */
#define REPORT_STORE(X) \
	X(virtual_bytes, "Sizes of all clones") \
	X(data_bytes, "Bytes of data that all clones show") \
	X(unique_bytes, "Bytes that one clone alone holds, over all clones") \
	X(pool_bytes, "Bytes in blocks that several clones hold") \
	X(golden_bytes, "Bytes of golden images pinned in the store") \
	X(journal_bytes, "Bytes of the journal") \
	X(metadata_bytes, "Bytes of maps, catalog, checksums and indexes") \
	X(physical_bytes, "Bytes that the store takes on the file system below") \
	X(free_bytes, "Bytes that the store may still take") \
	X(saved_clone_bytes, "Bytes saved because clones share what they were made from") \
	X(saved_dedup_bytes, "Bytes saved because equal blocks are stored once") \
	X(saved_zero_bytes, "Bytes saved because zeros are not stored")

struct service_daemon;

/* One file; path may be any bytes. NULL only without memory, as for all that follow. */
json_t *report_file(const char *path, const struct fs_info *info);
json_t *report_store(const struct fs_store_figures *figures);
json_t *report_daemon(const struct service_daemon *daemon);
json_t *report_counters(const struct fs_counters *counters);

/* One clone for top (service/control.h). */
json_t *report_top(const char *path, uint64_t ino, const struct fs_figures *figures,
	const struct fs_io *io);

const char *report_kind(enum fs_kind kind);
/* The sum of what others hold too. */
uint64_t report_shared(const struct fs_figures *figures);

/* Adds what one more file has to a folder's sums. */
void report_add(struct fs_figures *sum, const struct fs_figures *figures);
/* Turns sums into a folder's figures: freed is what removing all of it together frees. */
void report_fold(struct fs_figures *sum, uint64_t freed);

/* All metrics of the store, as Prometheus reads them. Pure. */
void metrics_write(FILE *out, const struct service_daemon *daemon,
	const struct fs_store_figures *figures, const struct fs_counters *counters);
/* One clone in the series per clone. */
struct metrics_clone {
	char *name; /* its label, UTF-8; owned */
	struct fs_figures figures;
	struct fs_io io;
};
/* All series per clone. Pure. */
void metrics_clones_write(FILE *out, const struct metrics_clone *clones, size_t count);

#endif
