/* SPDX-License-Identifier: MIT */
/* See the header. The list is as long as there are writes in flight, one per thread at most. */
#include "fuse/order.h"

#include <linux/fuse.h>

#include "base/blocking.h"
#include "base/cleanup.h"

void order_init(struct order *order)
{
	pthread_mutex_init(&order->lock, NULL);
	pthread_cond_init(&order->left, NULL);
	order->newest = NULL;
	order->waiting = 0;
}

void order_release(struct order *order)
{
	pthread_cond_destroy(&order->left);
	pthread_mutex_destroy(&order->lock);
}

void order_enter(struct order *order, struct order_entry *entry, const void *request, size_t len)
{
	const struct fuse_in_header *in = request;
	const struct fuse_write_in *arg = (const void *)(in + 1);

	entry->entered = false;
	if (len < sizeof(*in) + sizeof(*arg) || in->opcode != FUSE_WRITE)
		return;
	entry->ino = in->nodeid;
	entry->off = arg->offset;
	entry->end = arg->offset + arg->size;
	entry->entered = true;
	MUTEX_GUARD(&order->lock);
	entry->earlier = order->newest;
	order->newest = entry;
}

static bool must_wait_locked(const struct order_entry *entry)
{
	for (const struct order_entry *e = entry->earlier; e; e = e->earlier)
		if (e->ino == entry->ino && e->off < entry->end && entry->off < e->end)
			return true;
	return false;
}

void order_wait(struct order *order, struct order_entry *entry)
{
	if (!entry->entered)
		return;
	MUTEX_GUARD(&order->lock);
	while (must_wait_locked(entry)) {
		order->waiting++;
		about_to_block();
		pthread_cond_wait(&order->left, &order->lock);
		order->waiting--;
	}
}

void order_leave(struct order *order, struct order_entry *entry)
{
	if (!entry->entered)
		return;
	MUTEX_GUARD(&order->lock);
	for (struct order_entry **p = &order->newest; *p; p = &(*p)->earlier) {
		if (*p == entry) {
			*p = entry->earlier;
			break;
		}
	}
	if (order->waiting)
		pthread_cond_broadcast(&order->left);
}
