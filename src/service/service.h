/* SPDX-License-Identifier: MIT */
/*
 * What a running mount offers beside files: live figures, metrics, jobs and control requests.
 *
 * The FUSE side shows it as the virtual tree .goldfs and knows nothing of its content: it asks for
 * nodes by number, takes a picture of a file's text when it is opened, and hands control requests
 * over together with who made them.
 */
#ifndef GOLDFS_SERVICE_SERVICE_H
#define GOLDFS_SERVICE_SERVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct fs;
struct fs_attr;
struct service;

/* The last goldfs upgrade; ticket 0: there was none. */
struct service_upgrade {
	uint64_t ticket; /* of the request */
	char state[16];	 /* running, done, refused or reverted */
	char version[32]; /* that serves, where it is known */
	char message[480];
};

/* Of the processes of the mount, now. */
struct service_daemon {
	pid_t worker_pid;
	pid_t supervisor_pid; /* 0: it is gone */
	uint64_t restarts;
	uint64_t last_pause_ms;
	uint64_t uptime_seconds; /* of the mount */
	struct service_upgrade upgrade;
};

struct service_caller {
	uint32_t uid;
	uint32_t gid;
	pid_t pid; /* for its other groups; 0: none known */
};

struct service_info {
	const char *mountpoint; /* absolute; copied */
	const char *images;
	const char *store;
	uint32_t owner_uid; /* of the mount */
	uint32_t owner_gid;
	/* The highest id of a job, in memory that outlives this process; NULL: there is none. */
	_Atomic uint64_t *last_job;
	int clone_metrics; /* -o metrics=clone */
	int read_only;
	/* Any thread; NULL: nothing is known but this process. */
	void (*daemon)(void *arg, struct service_daemon *daemon);
	/* Asks for another program to serve: the file binary or, when that is "", the one that the
	 * mount was started from if it was replaced, else own. Returns at once; 0, also when this
	 * ticket was seen before, or -EBUSY: another one is under way, -ESRCH: nobody is there to
	 * do it. NULL: likewise. */
	int (*upgrade)(void *arg, const char *binary, const char *own, uint64_t ticket);
	void *arg; /* for both */
};

int service_new(struct service **service, struct fs *fs, const struct service_info *info);
void service_free(struct service *service);

/* Makes jobs of what the file system does on its own for longer than a moment. Call it every second
 * or so, from one thread. */
void service_tick(struct service *service);

/* The virtual tree: FS_INO_VIRTUAL is the folder .goldfs, its files follow. */
int service_lookup(struct service *service, uint64_t parent, const char *name,
	struct fs_attr *attr);
int service_getattr(struct service *service, uint64_t ino, struct fs_attr *attr);
int service_list(struct service *service, uint64_t ino, uint64_t cookie,
	int (*cb)(void *arg, const char *name, const struct fs_attr *attr, uint64_t next),
	void *arg);
/* Its name and attributes are the same as long as the mount lives. */
bool service_is_fixed(uint64_t ino);
int64_t service_parent(struct service *service, uint64_t ino);
/* The text of a file now, malloc'ed, with names only as far as reader could have found them by
 * himself; owned by the caller. Not for control: -EINVAL. */
int service_read(struct service *service, const struct service_caller *reader, uint64_t ino,
	char **text, size_t *len);
/* Whether ino is the control file: requests are written to it, replies are read. */
int service_is_control(struct service *service, uint64_t ino);

/*
 * Carries out one request (JSON text) as its caller would be allowed to, and always makes a reply
 * (JSON text, malloc'ed, owned by the caller), also for garbage. May take as long as the request's
 * work does; long verbs become jobs. Returns 0, or -ENOMEM.
 */
int service_control(struct service *service, const struct service_caller *caller,
	const char *request, size_t len, char **reply, size_t *reply_len);

#endif
