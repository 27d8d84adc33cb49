/* SPDX-License-Identifier: MIT */
/* See notify.h for why a thread of its own. The queue grows as needed; it is mostly empty. */
#include "fuse/notify.h"

#include <errno.h>
#include <fuse_lowlevel.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "base/log.h"

struct notifier {
	pthread_mutex_t lock; /* protects all that follows but session and thread */
	pthread_cond_t work;
	uint64_t *inos;
	size_t count;
	size_t room;
	bool stopping;
	bool started;
	struct fuse_session *session;
	pthread_t thread;
};

int notifier_new(struct notifier **notifier)
{
	struct notifier *n = calloc(1, sizeof(*n));

	if (!n)
		return -ENOMEM;
	pthread_mutex_init(&n->lock, NULL);
	pthread_cond_init(&n->work, NULL);
	*notifier = n;
	return 0;
}

static void *notifier_run(void *arg)
{
	struct notifier *n = arg;

	pthread_mutex_lock(&n->lock);
	for (;;) {
		while (!n->count && !n->stopping)
			pthread_cond_wait(&n->work, &n->lock);
		if (n->stopping)
			break;

		uint64_t ino = n->inos[--n->count];

		pthread_mutex_unlock(&n->lock);
		/* -ENOENT: the kernel knows no such inode, so there is nothing to drop. */
		int r = fuse_lowlevel_notify_inval_inode(n->session, ino, 0, 0);

		if (r < 0 && r != -ENOENT && r != -ENODEV && r != -ENOTCONN)
			log_error(r, "cannot make the kernel drop its pages of inode %llu",
				(unsigned long long)ino);
		pthread_mutex_lock(&n->lock);
	}
	pthread_mutex_unlock(&n->lock);
	return NULL;
}

int notifier_start(struct notifier *n, struct fuse_session *session)
{
	int r;

	MUTEX_GUARD(&n->lock);
	n->count = 0;
	n->session = session;
	r = pthread_create(&n->thread, NULL, notifier_run, n);
	n->started = r == 0;
	return -r;
}

static int make_room_locked(struct notifier *n)
{
	size_t room = n->room ? n->room * 2 : 64;
	uint64_t *inos;

	if (n->count < n->room)
		return 0;
	inos = reallocarray(n->inos, room, sizeof(*inos));
	if (!inos)
		return -ENOMEM;
	n->inos = inos;
	n->room = room;
	return 0;
}

void notifier_invalidate(struct notifier *n, uint64_t ino)
{
	MUTEX_GUARD(&n->lock);
	if (!n->started)
		return;
	for (size_t i = 0; i < n->count; i++)
		if (n->inos[i] == ino)
			return;
	if (make_room_locked(n) < 0) {
		log_error(-ENOMEM, "readers of inode %llu may see old data from the page cache",
			(unsigned long long)ino);
		return;
	}
	n->inos[n->count++] = ino;
	pthread_cond_signal(&n->work);
}

void notifier_stop(struct notifier *n)
{
	bool started;

	pthread_mutex_lock(&n->lock);
	started = n->started;
	n->started = false;
	n->stopping = true;
	pthread_cond_signal(&n->work);
	pthread_mutex_unlock(&n->lock);
	if (started)
		pthread_join(n->thread, NULL);
}

void notifier_free(struct notifier *n)
{
	if (!n)
		return;
	notifier_stop(n);
	pthread_cond_destroy(&n->work);
	pthread_mutex_destroy(&n->lock);
	free(n->inos);
	free(n);
}
