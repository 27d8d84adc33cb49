/* SPDX-License-Identifier: MIT */
/*
 * A second thread for large writes. A client that waits for one write before it sends the next leaves a
 * processor idle, and checksums and look-ups take as long as copying the bytes to the page cache. So two
 * threads take the pieces of such a write one after the other, and while one copies, which the file
 * system below lets only one do for a file, the other is through with the next piece's checksums. To the
 * rest these are writes at the same time to different blocks.
 *
 * Where more than one large write is under way the processors have enough to do, so each is carried out by
 * the thread that has it.
 */
#include "core/fs_internal.h"

#include "base/blocking.h"
#include "base/cleanup.h"
#include "base/processors.h"

static void *helper_main(void *arg)
{
	struct helper *h = arg;

	pthread_mutex_lock(&h->lock);
	while (!h->stopping || h->run) {
		void (*run)(void *arg) = h->run;

		if (!run) {
			pthread_cond_wait(&h->work, &h->lock);
			continue;
		}
		pthread_mutex_unlock(&h->lock);
		run(h->arg);
		pthread_mutex_lock(&h->lock);
		h->run = NULL;
		pthread_cond_signal(&h->done);
	}
	pthread_mutex_unlock(&h->lock);
	return NULL;
}

static void release(struct helper *h)
{
	pthread_cond_destroy(&h->done);
	pthread_cond_destroy(&h->work);
	pthread_mutex_destroy(&h->lock);
}

void helper_start(struct fs *fs)
{
	struct helper *h = &fs->helper;

	if (processors_usable() < 2)
		return;
	pthread_mutex_init(&h->lock, NULL);
	pthread_cond_init(&h->work, NULL);
	pthread_cond_init(&h->done, NULL);
	h->started = pthread_create(&h->thread, NULL, helper_main, h) == 0;
	if (!h->started)
		release(h);
}

void helper_stop(struct fs *fs)
{
	struct helper *h = &fs->helper;

	if (!h->started)
		return;
	pthread_mutex_lock(&h->lock);
	h->stopping = true;
	pthread_cond_signal(&h->work);
	pthread_mutex_unlock(&h->lock);
	pthread_join(h->thread, NULL);
	h->started = false;
	release(h);
}

bool helper_take(struct fs *fs)
{
	return atomic_fetch_add(&fs->helper.writes, 1) == 0 && fs->helper.started;
}

void helper_leave(struct fs *fs)
{
	atomic_fetch_sub(&fs->helper.writes, 1);
}

void helper_run(struct fs *fs, void (*run)(void *arg), void *arg)
{
	struct helper *h = &fs->helper;

	pthread_mutex_lock(&h->lock);
	h->run = run;
	h->arg = arg;
	pthread_cond_signal(&h->work);
	pthread_mutex_unlock(&h->lock);
	run(arg);
	about_to_block();
	MUTEX_GUARD(&h->lock);
	while (h->run)
		pthread_cond_wait(&h->done, &h->lock);
}
