/* SPDX-License-Identifier: MIT */
/*
 * The names in a folder of the host, read once and handed out in parts.
 *
 * A part ends where the buffer of whoever lists is full, and the next one says only after which
 * place it goes on; that may be another process. So a name's place is a hash of the name: it stays
 * where it is while other names come and go, and no entry is left out or shown twice because of
 * them. (Of two names with one place a listing in parts may lose one: 1 in 2^62.) The names last
 * read are kept, for reading all of them for each part would take a time quadratic in their
 * number. They are used to go on only, and only while the folder's times stand still; a listing
 * that starts reads them anew. All functions may be called by several threads at once.
 */
#ifndef GOLDFS_IMAGE_DIRNAMES_H
#define GOLDFS_IMAGE_DIRNAMES_H

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

struct dirnames;

/* What was read last; one per folder of images. */
struct dirnames_cache {
	pthread_mutex_t lock;
	struct dirnames *last; /* a reference; NULL: none */
};

void dirnames_cache_init(struct dirnames_cache *cache);
void dirnames_cache_release(struct dirnames_cache *cache);

/* The names of the folder open as fd that do not start with a dot, to be put back with
 * dirnames_put(); `after` is 0 for a listing that starts. fd stays the caller's. 0 or -errno. */
int dirnames_get(struct dirnames_cache *cache, int fd, uint64_t after, struct dirnames **names);
void dirnames_put(struct dirnames *names);

/* How many names stand at or before that place. */
size_t dirnames_upto(const struct dirnames *names, uint64_t place);
/* The name at index, in the order of places, and its place; NULL: those were all. */
const char *dirnames_at(const struct dirnames *names, size_t index, uint64_t *place);

#endif
