/* SPDX-License-Identifier: MIT */
/*
 * Writes that overlap are carried out in the order in which the kernel handed them over.
 *
 * With direct I/O several writes of one file are in flight at once, and several threads serve
 * them. A disk gives no promise about the order of overlapping writes that were not waited for,
 * but a plain file keeps the order in which they were submitted, and tools (fio with verification,
 * for one) rely on it. So requests are taken from the kernel one at a time, and a write is entered
 * here before the next request is taken; before it is carried out it waits for earlier ones that
 * it overlaps. Those that do not overlap never wait for each other.
 */
#ifndef GOLDFS_FUSE_ORDER_H
#define GOLDFS_FUSE_ORDER_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct order_entry {
	uint64_t ino;
	uint64_t off;
	uint64_t end;
	bool entered;
	struct order_entry *earlier; /* list, newest first */
};

struct order {
	pthread_mutex_t lock;
	pthread_cond_t left;
	struct order_entry *newest;
	unsigned waiting;
};

void order_init(struct order *order);
void order_release(struct order *order);
/* Looks at a request as it came from the kernel and enters it when it is a write. To be called in
 * the order of arrival. The entry lives until order_leave(). */
void order_enter(struct order *order, struct order_entry *entry, const void *request, size_t len);
/* Waits for earlier writes that overlap. */
void order_wait(struct order *order, struct order_entry *entry);
void order_leave(struct order *order, struct order_entry *entry);

#endif
