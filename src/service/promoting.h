/* SPDX-License-Identifier: MIT */
/*
 * The jobs that write promoted clones into the folder of images.
 *
 * What is to be written stands in the store, not here: whatever process serves a mount finds it and goes
 * on. One job at a time for each; one that failed is begun again later, with longer and longer pauses,
 * since what it lacks (space, the folder) may come back. A job that somebody cancels gives the promotion
 * up; one that ends because the mount does, does not.
 */
#ifndef GOLDFS_SERVICE_PROMOTING_H
#define GOLDFS_SERVICE_PROMOTING_H

#include <stdint.h>

struct service;
struct promoting;

/* Has it written: *job is the number of the job that does, which may run already. 0, or -EAGAIN: as
 * many jobs run as may. */
int promoting_start(struct service *service, uint64_t ino, const char *path, uint32_t uid,
	uint32_t gid, uint64_t *job);
/* Gives it up, after its job has stopped when one runs. */
int promoting_undo(struct service *service, uint64_t ino);
/* Starts what is due. */
void promoting_tick(struct service *service);
/* Before all jobs are stopped: none of them is cancelled by that. */
void promoting_close(struct service *service);
/* After it. */
void promoting_free(struct service *service);

#endif
