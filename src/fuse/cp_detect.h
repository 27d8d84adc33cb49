/* SPDX-License-Identifier: MIT */
/* Tells `cp` inside the mount from everybody else, so that a plain cp makes a clone. See the .c */
#ifndef GOLDFS_FUSE_CP_DETECT_H
#define GOLDFS_FUSE_CP_DETECT_H

#include <stdbool.h>
#include <stdint.h>

struct cp_detect;

int cp_detect_new(struct cp_detect **cp);
void cp_detect_free(struct cp_detect *cp);

/*
 * What a thread did, in the order it did it. task is the kernel's id of the thread; 0 (not known)
 * is never remembered. Times are nanoseconds of a clock that does not jump. Pure but for the
 * memory inside; any threads at once.
 */
void cp_saw_missing(struct cp_detect *cp, uint64_t task, int64_t now_ns);
void cp_saw_file(struct cp_detect *cp, uint64_t task, uint64_t ino, int64_t now_ns);
/* It made a file or opened one for writing: what it missed or looked at before was that. */
void cp_saw_target(struct cp_detect *cp, uint64_t task);
/* It copied a range between two of our files. */
void cp_saw_copy(struct cp_detect *cp, uint64_t task, int64_t now_ns);
void cp_saw_open_for_reading(struct cp_detect *cp, uint64_t task, uint64_t ino, int64_t now_ns);

/* Asked at each getattr: whether this one is to say that ino is fully allocated. */
bool cp_wants_full(struct cp_detect *cp, uint64_t task, uint64_t ino, int64_t now_ns);

#endif
