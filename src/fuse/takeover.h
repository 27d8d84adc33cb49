/* SPDX-License-Identifier: MIT */
/* What a dead process was asked and did not answer, to be served before anything else. */
#ifndef GOLDFS_FUSE_TAKEOVER_H
#define GOLDFS_FUSE_TAKEOVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TAKEOVER_RESENT (UINT64_C(1) << 63) /* in `unique`: the kernel sends it once more */

struct resent;

/* Filled by one thread, then taken from by whoever's turn it is. */
struct resend_queue {
	struct resent *list;
	size_t count;
	size_t room;
	size_t next; /* the first that is not taken yet */
};

void resend_queue_init(struct resend_queue *queue);
void resend_queue_release(struct resend_queue *queue);
/* Copies a raw request. */
int resend_queue_add(struct resend_queue *queue, const void *request, size_t len);
/* In the order in which the kernel first sent them. */
void resend_queue_sort(struct resend_queue *queue);
/* Whether the request of this number (without the bit) waits there. */
bool resend_queue_has(const struct resend_queue *queue, uint64_t unique);
/* Copies the next one to buf. Returns its length, 0: none is left. */
size_t resend_queue_take(struct resend_queue *queue, void *buf, size_t size);

/* Whether nothing that was sent before comes behind this request. Pure. */
bool takeover_is_last(const void *request);

/* Asks the kernel for what was not answered and reads all of it, sorted. buf is for one request.
 * -EOPNOTSUPP: this kernel cannot. */
int takeover_read(struct resend_queue *queue, int fd, void *buf, size_t size);

#endif
