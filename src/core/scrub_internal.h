/* SPDX-License-Identifier: MIT */
/* What the files of the scrub share. */
#ifndef GOLDFS_CORE_SCRUB_INTERNAL_H
#define GOLDFS_CORE_SCRUB_INTERNAL_H

#include "core/check_internal.h"
#include "core/pace.h"
#include "core/scrub.h"

struct scrub {
	struct fs *fs;
	const struct scrub_options *options;
	struct check_report *report;
	struct check check;  /* for check_find(), which here looks no files up */
	uint64_t done, total; /* bytes */
	struct pace pace;
	uint64_t checkpoints; /* made by this process before */
	struct slot_set bad_slots;
	bool rewrite; /* something that the next checkpoints write anew is damaged on the disk */
};

/* Reading a file from the disk, past what is cached. */
struct media {
	struct io *io;
	int fd;
	bool direct;
};

int media_open(struct media *media, struct io *io, const char *path);
void media_close(struct media *media);
/* buf, len and off are multiples of 4096. What is behind the end reads as zeros. */
int media_read(struct media *media, void *buf, size_t len, uint64_t off);
/* Has the next ordinary read of the file come from the disk. */
void media_forget(struct io *io, const char *path);

/* Adds a finding; then the files of which some byte is concerned. */
int scrub_find(struct scrub *s, const struct about *about, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
/* The same for damage that was made whole. */
int scrub_repaired(struct scrub *s, const struct about *about, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
/* Says how far it is and steps back when clients are busy. start_ns: when the last piece began. */
int scrub_progress(struct scrub *s, uint64_t bytes, int64_t start_ns);

/* Before the layers, which tell whom it concerns. */
int scrub_pool(struct scrub *s);
int scrub_layers(struct scrub *s);
int scrub_goldens(struct scrub *s);

#endif
