/* SPDX-License-Identifier: MIT */
/* What the parts of the service share; for src/service only. */
#ifndef GOLDFS_SERVICE_INTERNAL_H
#define GOLDFS_SERVICE_INTERNAL_H

#include <jansson.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "service/authorise.h"
#include "service/jobs.h"
#include "service/service.h"

struct service {
	struct fs *fs;
	struct service_info info; /* its strings are owned */
	struct jobs *jobs;
	int64_t started_ns; /* CLOCK_MONOTONIC */
	/* Background work (background.c): when it was last looked at, and of the last job. */
	_Atomic uint64_t seen, followed;
	uint64_t recast_job;	  /* the tick's; the last one that went on with what was begun */
	int64_t recast_after_ns; /* the tick's; not before that (CLOCK_MONOTONIC) */

	/* Promotions on their way to the folder of images (promoting.c). */
	pthread_mutex_t promote_lock;
	struct promoting *promotions; /* promote_lock, as the next one */
	bool promote_closing;

	/* The store's figures as top tells them (control_top.c). */
	pthread_mutex_t top_lock;
	struct fs_store_figures top_store; /* top_lock, as the next three */
	bool top_valid;
	int64_t top_time_ns;
	int64_t top_cost_ns;
};

/*
 * One control request on its way. A verb takes its fields from args, writes the members of its
 * reply to out (each with a comma before it) and returns 0; or it returns request_fail().
 */
struct request {
	struct service *service;
	struct access access;
	json_t *args; /* an object */
	int64_t began_ns; /* on CLOCK_MONOTONIC */
	FILE *out;
	int error; /* negative errno of the failure that message is about */
	char *message;
};

/* Records why the request fails: returns err, a negative errno. The first message counts. */
int request_fail(struct request *rq, int err, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
/* The same for something that went wrong with a file: `what "ABSOLUTE PATH": REASON`. */
int request_fail_path(struct request *rq, int err, const char *what, const char *path);
/* A path below the root as messages show it: absolute, UTF-8, malloc'ed. NULL without memory. */
char *request_name(struct request *rq, const char *path);

/* Writes `,"key":value`; takes value over. */
int request_reply(struct request *rq, const char *key, json_t *value);

/*
 * Fields. A missing one leaves *value as it is when optional, and fails the request with what is
 * wrong otherwise, as does one of another type. Strings are owned by the caller.
 */
int request_string(struct request *rq, const char *key, bool optional, const char **value);
int request_bool(struct request *rq, const char *key, bool *value);
int request_number(struct request *rq, const char *key, bool optional, uint64_t max,
	uint64_t *value);
/* A path, malloc'ed: a string as it is, or {"escaped": "..."} unescaped. */
int request_path(struct request *rq, const char *key, char **path);
int request_path_value(struct request *rq, const char *key, json_t *value, char **path);
/* A list that must be there. It stays args' own. */
int request_list(struct request *rq, const char *key, json_t **list);

/* Follows path with the caller's rights; a failure is recorded. */
int request_walk(struct request *rq, const char *path, struct node *node);
/* Fails the request when the caller is neither root nor the owner of the mount. */
int request_owner_only(struct request *rq);
bool request_is_owner(const struct request *rq);
/*
 * The whole of a verb that works on the store as a job: for root and the owner of the mount; replies
 * with the job's id. verb is a constant. finding: an error of the job that is a result rather than a
 * failure of the request, 0 for none.
 */
int request_store_job(struct request *rq, const char *verb,
	int (*run)(void *service, struct job *job), int finding);

/* The verbs. */
int control_clone(struct request *rq);
int control_snapshot_create(struct request *rq);
int control_snapshot_list(struct request *rq);
int control_snapshot_rollback(struct request *rq);
int control_snapshot_delete(struct request *rq);
int control_snapshot_rename(struct request *rq);
int control_remove(struct request *rq);
int control_refresh(struct request *rq);
int control_list(struct request *rq);
int control_stat(struct request *rq);
int control_df(struct request *rq);
int control_top(struct request *rq);
int control_settle(struct request *rq);
int control_scrub(struct request *rq);
int control_dedup(struct request *rq);
int control_limit(struct request *rq);
int control_dedup_set(struct request *rq);
int control_promote(struct request *rq);
int control_rebase(struct request *rq);
int control_convert(struct request *rq);
int control_upgrade_base(struct request *rq);
/* Starts the job that makes files that were just cloned "thin" or "full", and replies with its id. */
int recast_clones(struct request *rq, const uint64_t *inos, size_t count, const char *mode);
/* What is owed of that (core/fs.h), as a job of its own, now and then. */
void recast_tick(struct service *service);
int control_upgrade(struct request *rq);
int control_job_list(struct request *rq);
int control_job_show(struct request *rq);
int control_job_wait(struct request *rq);
int control_job_cancel(struct request *rq);

/* How many jobs run of those that the caller may see. */
unsigned int request_jobs_running(const struct request *rq);
json_t *job_json(const struct job_view *view);
void service_daemon(const struct service *service, struct service_daemon *daemon);

#endif
