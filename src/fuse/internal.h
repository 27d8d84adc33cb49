/* SPDX-License-Identifier: MIT */
/*
 * What the files of src/fuse share: the server, its threads, and the operations table.
 *
 * Each request is served from start to end by one worker thread, which `me` names; only the answer
 * to an fsync may come from a thread of the core, and that to a write from later.c. All shared fields of
 * struct fuse_server are either set before the threads start, or have a lock of their own inside.
 */
#ifndef GOLDFS_FUSE_INTERNAL_H
#define GOLDFS_FUSE_INTERNAL_H

#include <fuse_lowlevel.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#include "base/times.h"
#include "core/fs.h"
#include "fuse/busy_poll.h"
#include "fuse/order.h"
#include "fuse/cp_detect.h"
#include "fuse/fuse_server.h"
#include "fuse/later.h"
#include "fuse/lookout.h"
#include "fuse/notify.h"
#include "fuse/takeover.h"
#include "fuse/turn.h"
#include "fuse/virtual.h"

/* A request of this size makes a thread's buffers worth emptying when it idles. */
#define FAT_FROM (128 * 1024)

struct fuse_worker {
	struct fuse_server *server;
	pthread_t thread;
	bool started;
	struct turn_waiter waiter; /* its thread's */
	char *mapped;		   /* both of these: */
	char *in;		   /* one request, IN_SIZE bytes */
	char *out;		   /* what a read returns, FUSE_SERVER_IO_MAX bytes */
	atomic_bool reading;	   /* waits for a request, or is about to */
	bool resident;		   /* all pages of `in` are there; its thread's own */
	atomic_bool fat;	   /* has touched much of `out` since it was given back */
	atomic_uint_fast64_t rounds; /* times it went to wait */
	uint64_t rounds_seen;	   /* by fuse_server_tick() */
	/* About the request being served, from its raw form: */
	bool alone; /* it takes longer, and nobody else was there */
	bool left; /* by a dead process to be served (takeover.c) */
	uint64_t unique; /* without the bit that says: sent again */
	bool again;	 /* which is here */
	bool kill_suidgid;
	bool copy_64; /* it wants the long form of the answer to copy_file_range */
	atomic_uint_fast64_t counts[FUSE_OP_COUNT];
};

struct fuse_server {
	struct fs *fs;
	struct service *service;
	struct fuse_session *session;
	int fd; /* the session's, lent */
	char *store;
	void (*ready)(void *arg);
	void (*ended)(void *arg);
	void *arg;
	struct handover *handover;
	bool lent_handover; /* there may be a successor, and requests that come twice */
	struct handover *own_handover; /* made here, when nobody lent one */
	int own_handover_fd;
	bool takeover;
	struct fuse_agreement agreement;
	atomic_bool init_answered;
	bool replaying_init; /* the answer to INIT goes nowhere: the kernel has it */
	struct resend_queue resent; /* turn */
	atomic_size_t resent_left; /* of it, not yet served */
	atomic_bool resent_served;
	struct unsure_handles *unsure; /* main thread only (handles.c) */
	atomic_bool stopping;
	atomic_bool ready_said;
	atomic_bool ended_said;
	atomic_uint running; /* worker threads not yet ended */
	unsigned threads;
	struct fuse_worker *workers;
	bool trimmed; /* fuse_server_tick(): nothing came since memory was given back */
	struct turn turn; /* held by the thread that takes the next request */
	struct lookout lookout;
	atomic_uint crowded; /* longer requests to hand over for: others waited behind one */
	struct busy_poll busy_poll; /* turn */
	struct order order;
	struct cp_detect *cp;
	struct virtual_files *virtual_files;
	struct notifier *notifier;
	struct later *later; /* answers to writes */
	/* Inodes that may have set-id bits: a Bloom filter of one hash. Starts empty; a successor
	 * process, which has not seen their attributes, starts with all bits set. */
	atomic_uint_fast64_t set_id[16];
};

extern __thread struct fuse_worker *me;
extern const struct fuse_lowlevel_ops server_ops;

/* The worker's `out` was used for so much. */
static inline void used_out(struct fuse_worker *worker, size_t size)
{
	if (size >= FAT_FROM)
		atomic_store_explicit(&worker->fat, true, memory_order_relaxed);
}

void server_say_ready(struct fuse_server *server);
/* An answer is about to be sent. (After it the client's next request may be there already.) */
void server_answers(struct fuse_server *server);

/* ---- wire.c: what libfuse does not do, on the raw form ---- */

/* Counts a raw request, notes what it says that libfuse drops, makes it one that libfuse knows. */
void wire_look(struct fuse_worker *worker, void *request, size_t len);
/* The session's own read and writev. */
extern const struct fuse_custom_io wire_io;
/* After that: serves it, by transfer.c or libfuse. */
void wire_serve(struct fuse_worker *worker, size_t len);
/* Answers a request that was not given to libfuse. unique: its number, as it came. Returns 0 or -errno: the
 * kernel did not take it, as when it has given the request up. */
int wire_answer(struct fuse_server *server, uint64_t unique, const void *bytes, size_t len);
/* error: negative. */
void wire_fail(struct fuse_server *server, uint64_t unique, int error);

/* ---- transfer.c ---- */

/* Serves the request that the worker has read, if it is to read or write an ordinary file. */
bool transfer_serve(struct fuse_worker *worker, size_t len);
/* The answer to a write: n is what was written, or a negative errno. For later.h; arg: the server. */
void transfer_written(void *arg, uint64_t unique, int64_t n);

/* ---- handles.c: which files are open ---- */

/* Opens a file for the request that this thread serves, and fills in fi. */
int handle_open(struct fuse_server *server, uint64_t ino, struct fuse_file_info *fi);
/* The answer to that request was written, or not. */
void handle_opened(struct fuse_server *server, uint64_t ino, const struct fuse_file_info *fi,
	bool answered);
void handle_close(struct fuse_server *server, uint64_t ino, const struct fuse_file_info *fi);
/* After a takeover: opens in the core what is open. Before the first request is served. */
void handles_inherit(struct fuse_server *server);
/* Looks after those of which it is not sure that they are open. */
void handles_tick(struct fuse_server *server);
void handles_release(struct fuse_server *server);

/* ---- attr.c ---- */

static inline struct fuse_server *server_of(fuse_req_t req)
{
	return fuse_req_userdata(req);
}

/* The calling thread, as the kernel names it; 0: not known here. */
static inline uint64_t task_of(fuse_req_t req)
{
	return (uint64_t)fuse_req_ctx(req)->pid;
}

static inline bool is_virtual(fuse_ino_t ino)
{
	return virtual_has(ino);
}

/* A clock that does not jump, good to a few milliseconds and cheap. */
static inline int64_t monotonic_ns(void)
{
	return times_now(CLOCK_MONOTONIC_COARSE);
}

/* r is 0 or a negative errno. */
static inline void reply_status(fuse_req_t req, int64_t r)
{
	fuse_reply_err(req, r < 0 ? (int)-r : 0);
}

void attr_to_stat(struct fuse_server *server, const struct fs_attr *attr, struct stat *st);
/* Answers a lookup or a creation; the reference is given back when the kernel does not take it. */
void reply_entry(fuse_req_t req, const struct fs_attr *attr);
void fill_entry(struct fuse_server *server, const struct fs_attr *attr,
	struct fuse_entry_param *entry);
/* Takes set-id bits off a file that was written to by somebody who may not keep them. */
void kill_set_id(struct fuse_server *server, uint64_t ino);

void op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void op_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *st, int to_set,
	struct fuse_file_info *fi);
void op_statfs(fuse_req_t req, fuse_ino_t ino);
void op_setxattr(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value, size_t size,
	int flags);
void op_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size);
void op_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size);
void op_removexattr(fuse_req_t req, fuse_ino_t ino, const char *name);

/* ---- names.c ---- */

void op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name);
void op_forget(fuse_req_t req, fuse_ino_t ino, uint64_t n);
void op_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets);
void op_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev);
void op_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode);
void op_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name);
void op_readlink(fuse_req_t req, fuse_ino_t ino);
void op_unlink(fuse_req_t req, fuse_ino_t parent, const char *name);
void op_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name);
void op_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t new_parent,
	const char *new_name, unsigned flags);
void op_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t new_parent, const char *new_name);
void op_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode,
	struct fuse_file_info *fi);
void op_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void op_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
	struct fuse_file_info *fi);

/* ---- content.c ---- */

void op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void op_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi);
void op_write(fuse_req_t req, fuse_ino_t ino, const char *buf, size_t size, off_t off,
	struct fuse_file_info *fi);
void op_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void op_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi);
void op_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t off, off_t len,
	struct fuse_file_info *fi);
void op_lseek(fuse_req_t req, fuse_ino_t ino, off_t off, int whence, struct fuse_file_info *fi);
void op_ioctl(fuse_req_t req, fuse_ino_t ino, unsigned cmd, void *arg, struct fuse_file_info *fi,
	unsigned flags, const void *in, size_t in_size, size_t out_size);
void op_copy_file_range(fuse_req_t req, fuse_ino_t src, off_t src_off,
	struct fuse_file_info *src_fi, fuse_ino_t dst, off_t dst_off,
	struct fuse_file_info *dst_fi, size_t len, int flags);

#endif
