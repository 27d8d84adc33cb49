/* SPDX-License-Identifier: MIT */
/*
 * A new file in the folder of images, written in any number of attempts, that appears there when it is
 * complete and durable.
 *
 * Where the store is on the same file system it is written as promoted/ID of the store, which stays
 * when the process dies, and is then linked into the folder. Elsewhere it is a file without a name in
 * its folder, and the next attempt starts anew. Either way nothing in the folder of images is ever
 * removed, replaced or opened that somebody else may have made.
 *
 * What an earlier attempt left is compared, not trusted: nothing says how much of it survived a loss
 * of power.
 */
#ifndef GOLDFS_IMAGE_PUBLISH_H
#define GOLDFS_IMAGE_PUBLISH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct folder;

/* All zero and descriptors -1: PUBLISH_INIT. */
struct publish {
	int fd;	     /* the file; -1: it has its name already */
	int dir_fd;  /* the folder that it comes to be in */
	int store_fd;
	bool staged; /* it stands in the store until then */
	uint64_t id;
	uint64_t found; /* bytes of it that were there already */
	const char *name;
};

#define PUBLISH_INIT {.fd = -1, .dir_fd = -1, .store_fd = -1}

/*
 * Begins or goes on with what is to be path, which must outlive p. 0: publish_put() and the others,
 * publish_finish(), and in any case publish_release(). 1: it was complete, and is there.
 * -EEXIST: something else is. Other errors: of opening and making files.
 */
int publish_begin(struct publish *p, struct folder *folder, const char *path, int store_fd, uint64_t id);
/* Offsets ascend; what is in neither call reads as zeros only if no earlier attempt wrote there. */
int publish_put(struct publish *p, const void *buf, size_t len, uint64_t off);
int publish_hole(struct publish *p, uint64_t off, uint64_t end);
/* Has what was put go to the disk from now on, or waits until it stands there, which makes nothing
 * durable. So there never is much of it that others would have to wait for. */
int publish_write_back(struct publish *p, bool wait);
/* Makes it size bytes long, durable, and gives it its name. -EEXIST: that is taken by now. */
int publish_finish(struct publish *p, uint64_t size, uint32_t mode, int64_t mtime_ns);
void publish_release(struct publish *p);
/* Removes what stands in the store. */
void publish_drop(int store_fd, uint64_t id);

#endif
