/* SPDX-License-Identifier: MIT */
/*
 * Going on where a dead process stopped, on the same connection.
 *
 * The kernel does not notice that the process behind a connection changed. It was answered INIT
 * once and does not ask again, so the INIT request that the first worker kept in the handover
 * memory is fed to libfuse once more, and the answer goes nowhere (wire.c). Then a notification
 * asks for everything that was handed out and never answered: FUSE_NOTIFY_RESEND puts it at the
 * front of the kernel's queue, with bit 63 of each `unique` set.
 *
 * It comes back in no order (the kernel keeps it in a hash table), and the order matters: of two
 * overlapping writes in flight the later one has to win (order.h). So all of it is read before any
 * of it is served. What was asked again comes before what is new, so the end is the first request
 * that is new, or that nothing is left; FORGETs and INTERRUPTs have queues of their own in the
 * kernel and come in between. Then it is sorted by `unique`, which the kernel gives out in the
 * order of its queue, and the threads take from this list before they read from the kernel, in
 * turns as always, so that everything else is as for a new request. Each is copied into memory of
 * its own size, as a flush of a guest may have hundreds of small writes in flight.
 *
 * A request may have been carried out by the dead process without being answered. Most can simply
 * be done again. For the others the core knows which are done (core/request.c).
 *
 * An answer carries `unique` as it was received, with the bit. If this process dies as well, the
 * kernel sends everything unanswered once more, under the same numbers.
 *
 * A worker that died before it answered INIT leaves nothing agreed: then INIT itself is what comes
 * again, and all is as at the start.
 */
#include "fuse/takeover.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"

#define NOTIFY_RESEND 7 /* not in the headers of Debian 12 */

struct resent {
	struct fuse_in_header *request;
	size_t len;
};

static int compare(const void *a, const void *b)
{
	uint64_t x = ((const struct resent *)a)->request->unique & ~TAKEOVER_RESENT;
	uint64_t y = ((const struct resent *)b)->request->unique & ~TAKEOVER_RESENT;

	return x < y ? -1 : x > y;
}

void resend_queue_init(struct resend_queue *queue)
{
	*queue = (struct resend_queue){0};
}

void resend_queue_release(struct resend_queue *queue)
{
	for (size_t i = 0; i < queue->count; i++)
		free(queue->list[i].request);
	free(queue->list);
	*queue = (struct resend_queue){0};
}

int resend_queue_add(struct resend_queue *queue, const void *request, size_t len)
{
	if (len < sizeof(struct fuse_in_header))
		return -EINVAL;
	if (queue->count == queue->room) {
		size_t room = queue->room ? queue->room * 2 : 64;
		struct resent *list = reallocarray(queue->list, room, sizeof(*list));

		if (!list)
			return -ENOMEM;
		queue->list = list;
		queue->room = room;
	}
	queue->list[queue->count].request = malloc(len);
	if (!queue->list[queue->count].request)
		return -ENOMEM;
	memcpy(queue->list[queue->count].request, request, len);
	queue->list[queue->count++].len = len;
	return 0;
}

void resend_queue_sort(struct resend_queue *queue)
{
	qsort(queue->list, queue->count, sizeof(*queue->list), compare);
}

bool resend_queue_has(const struct resend_queue *queue, uint64_t unique)
{
	for (size_t i = 0; i < queue->count; i++)
		if (queue->list[i].request &&
			(queue->list[i].request->unique & ~TAKEOVER_RESENT) == unique)
			return true;
	return false;
}

size_t resend_queue_take(struct resend_queue *queue, void *buf, size_t size)
{
	struct resent *next;
	size_t len;

	if (queue->next == queue->count)
		return 0;
	next = &queue->list[queue->next++];
	len = next->len < size ? next->len : size;
	memcpy(buf, next->request, len);
	free(next->request);
	next->request = NULL;
	return len;
}

bool takeover_is_last(const void *request)
{
	const struct fuse_in_header *in = request;

	return !(in->unique & TAKEOVER_RESENT) && in->opcode != FUSE_FORGET &&
	       in->opcode != FUSE_BATCH_FORGET && in->opcode != FUSE_INTERRUPT;
}

static int ask(int fd)
{
	const struct fuse_out_header out = {.len = sizeof(out), .error = NOTIFY_RESEND};
	ssize_t n = write(fd, &out, sizeof(out));

	if (n == (ssize_t)sizeof(out))
		return 0;
	return n < 0 && errno != EINVAL ? -errno : -EOPNOTSUPP;
}

/* Without waiting: fd is O_NONBLOCK. */
static int gather(struct resend_queue *queue, int fd, void *buf, size_t size)
{
	for (;;) {
		ssize_t n = read(fd, buf, size);
		int r;

		if (n < 0 && (errno == EINTR || errno == ENOENT))
			continue; /* ENOENT: withdrawn while we took it */
		if (n < 0)
			return errno == EAGAIN || errno == ENODEV ? 0 : -errno;
		r = resend_queue_add(queue, buf, (size_t)n);
		if (r < 0)
			return r;
		if (takeover_is_last(buf))
			return 0;
	}
}

int takeover_read(struct resend_queue *queue, int fd, void *buf, size_t size)
{
	/* The flag belongs to the connection and not to us: one who died in between leaves it, and
	 * his successor takes it off. */
	int flags = fcntl(fd, F_GETFL);
	int r = ask(fd);

	if (r < 0)
		return r;
	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
		return -errno;
	r = gather(queue, fd, buf, size);
	if (fcntl(fd, F_SETFL, flags & ~O_NONBLOCK) < 0 && r == 0)
		r = -errno;
	if (r < 0)
		return r;
	resend_queue_sort(queue);
	return 0;
}
