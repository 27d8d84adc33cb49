/* SPDX-License-Identifier: MIT */
/*
 * The part of the daemon that serves: store, images, core, service and FUSE server, wired
 * together. It neither mounts nor locks nor goes to the background: it is given the store's folder
 * and the connection, so that whoever holds those can start another one after it.
 *
 * worker_open, worker_serve, the connection ends, worker_close. To make room for another worker while
 * the connection goes on: worker_stop, and end the process. One thread.
 */
#ifndef GOLDFS_DAEMON_WORKER_H
#define GOLDFS_DAEMON_WORKER_H

#include "daemon/config.h"
#include "daemon/failure.h"
#include "fuse/handover.h"
#include "service/service.h"

struct worker;

struct worker_hooks {
	void (*ready)(void *arg); /* the mount answers; any thread, once */
	void (*ended)(void *arg); /* the connection is over; any thread, once */
	/* As in struct service_info. */
	void (*figures)(void *arg, struct service_daemon *figures);
	int (*upgrade)(void *arg, const char *binary, const char *own, uint64_t ticket);
	void *arg;
	struct handover *handover; /* lent */
	bool takeover;		   /* another worker has served this connection */
};

/* Opens and recovers the store. Takes ownership of store_fd, also when it fails. */
int worker_open(struct worker **worker, const struct mount_config *config, int store_fd,
	const struct worker_hooks *hooks, struct failure *failure);
/* Takes ownership of fuse_fd on success. */
int worker_serve(struct worker *worker, int fuse_fd, struct failure *failure);
void worker_tick(struct worker *worker);
/* Takes no more requests and answers those that are being served. */
void worker_stop(struct worker *worker);
/* Makes everything durable and ends the connection. 0, or the error of what could not be kept. */
int worker_close(struct worker *worker);

#endif
