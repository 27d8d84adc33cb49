/* SPDX-License-Identifier: MIT */
/*
 * A thread that sees to it that somebody takes requests.
 *
 * Who serves a request and comes again soon keeps others asleep (turn.h). It may be held up all the same:
 * a write to the page cache waits where too much of it is dirty, or for places in a file. So while requests
 * are served somebody looks every LOOKOUT_MS whether they are still the same.
 */
#ifndef GOLDFS_FUSE_LOOKOUT_H
#define GOLDFS_FUSE_LOOKOUT_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "fuse/turn.h"

#define LOOKOUT_MS 4

struct lookout {
	struct turn *turn;
	pthread_t thread;
	bool started;
	pthread_mutex_t lock;
	pthread_cond_t wake;
	bool stopping;	    /* lock */
	atomic_bool asleep; /* nothing was served at some looks */
};

/* 0 or -errno. The turn is lent. */
int lookout_start(struct lookout *lookout, struct turn *turn);
void lookout_stop(struct lookout *lookout);
/* Whoever passed the turn says so, each time: it costs nothing while somebody looks. */
void lookout_wake(struct lookout *lookout);

#endif
