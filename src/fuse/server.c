/* SPDX-License-Identifier: MIT */
/*
 * The session and its threads.
 *
 * Each thread reads a request into its own buffer, serves it to the end and reads the next; the
 * kernel hands each request to one of them. There is no queue of ours between and no lock: a
 * request costs one read and one writev. The number of threads bounds how many requests wait for
 * the disk below at once; an fsync does not hold its thread (content.c).
 *
 * Memory: a thread has two buffers of a megabyte, for what a write brings and what a read takes.
 * The second is mapped, not touched, until a large request comes; the first must be there whole
 * before a request is read into it, see make_resident(). A thread that waits for its turn for a
 * second or two gives its pages back. The one that waits in read keeps what it reads into and is
 * woken by a signal (fuse_server_tick()) to give back the rest itself: nobody else may. The signal
 * has no SA_RESTART so that it ends the read; it is sent only to a thread that waits there.
 *
 * The end: an unmounted connection gives ENODEV to every thread. To stop before that, `stopping`
 * is set and threads are woken by the same signal, again and again until all have seen it, because
 * a signal that comes just before the read does not end it.
 */
#include <errno.h>
#include <malloc.h>
#include <linux/fuse.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "base/blocking.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/processors.h"
#include "base/sizes.h"
#include "base/times.h"
#include "fuse/internal.h"

#define PAGE 4096
/* What a write brings begins with a page: the kernel copies pages of the client to as many of ours. */
#define IN_OFFSET (PAGE - sizeof(struct fuse_in_header) - sizeof(struct fuse_write_in))
#define IN_MAPPED (PAGE + FUSE_SERVER_IO_MAX + PAGE)
#define IN_SIZE (IN_MAPPED - IN_OFFSET)
_Static_assert(IN_OFFSET % 8 == 0, "where a request begins");
#define MAPPED_SIZE (IN_MAPPED + FUSE_SERVER_IO_MAX)
#define WAKE_SIGNAL SIGUSR1
#define THREADS_MAX 256u
_Static_assert(THREADS_MAX < IN_FLIGHT_MAX, "each has an entry, and so has who writes behind guests");
#define QUICK_BYTES (32 * KIB)
#define CROWDED_FOR 64 /* longer requests */
#define TURN_SLIM_SECONDS 2 /* a thread that waits longer for its turn frees its buffers */

#define BACKGROUND 512 /* requests in flight; the kernel's default of 12 caps a guest's queue */

__thread struct fuse_worker *me;

static void op_init(void *userdata, struct fuse_conn_info *conn)
{
	conn->max_write = FUSE_SERVER_IO_MAX;
	conn->max_read = FUSE_SERVER_IO_MAX;
	conn->max_background = BACKGROUND;
	conn->congestion_threshold = BACKGROUND * 3 / 4;
	conn->time_gran = 1;
	/*
	 * Not AUTO_INVAL_DATA: with attributes of no lifetime it asks GETATTR at every cached read
	 * (35,000 instead of 1,050,000 reads per second); notify.c does what is needed. Not
	 * ATOMIC_O_TRUNC: a separate SETATTR is what op_setattr handles anyway. Not splice: replies
	 * from memory are six times as fast. Not READDIRPLUS: what it brings would be out of date
	 * on arrival, as nothing here has a lifetime, and each name would be asked for once more.
	 * Not HANDLE_KILLPRIV: its second version, see wire.c.
	 */
	conn->want &= FUSE_CAP_ASYNC_READ | FUSE_CAP_ASYNC_DIO | FUSE_CAP_PARALLEL_DIROPS;
	conn->want |= conn->capable & (FUSE_CAP_ASYNC_READ | FUSE_CAP_ASYNC_DIO |
					      FUSE_CAP_PARALLEL_DIROPS);
}

const struct fuse_lowlevel_ops server_ops = {
	.init = op_init,
	.lookup = op_lookup,
	.forget = op_forget,
	.forget_multi = op_forget_multi,
	.getattr = op_getattr,
	.setattr = op_setattr,
	.readlink = op_readlink,
	.mknod = op_mknod,
	.mkdir = op_mkdir,
	.unlink = op_unlink,
	.rmdir = op_rmdir,
	.symlink = op_symlink,
	.rename = op_rename,
	.link = op_link,
	.open = op_open,
	.read = op_read,
	.write = op_write,
	.flush = op_flush,
	.release = op_release,
	.fsync = op_fsync,
	.opendir = op_opendir,
	.readdir = op_readdir,
	.fsyncdir = op_fsync,
	.statfs = op_statfs,
	.setxattr = op_setxattr,
	.getxattr = op_getxattr,
	.listxattr = op_listxattr,
	.removexattr = op_removexattr,
	.create = op_create,
	.fallocate = op_fallocate,
	.lseek = op_lseek,
	.ioctl = op_ioctl,
	.copy_file_range = op_copy_file_range,
};

static void libfuse_log(enum fuse_log_level level, const char *fmt, va_list ap)
{
	char text[512];

	if (level > FUSE_LOG_WARNING)
		return;
	vsnprintf(text, sizeof(text), fmt, ap);
	text[strcspn(text, "\n")] = '\0';
	log_warning("libfuse: %s", text);
}

static void wake_handler(int signal)
{
}

static unsigned default_threads(void)
{
	return (unsigned)min_u64(max_u64(2 * (uint64_t)processors_usable(), 16), 32);
}

/* Without a supervisor there is nobody to leave anything to, but the same code. */
static int make_handover(struct fuse_server *server)
{
	int r;

	if (server->handover)
		return 0;
	server->own_handover_fd = handover_create();
	if (server->own_handover_fd < 0)
		return server->own_handover_fd;
	r = handover_open(&server->own_handover, server->own_handover_fd);
	server->handover = server->own_handover;
	return r;
}

static int make_parts(struct fuse_server *server)
{
	int r;

	server->workers = calloc(server->threads, sizeof(*server->workers));
	if (!server->workers)
		return -ENOMEM;
	r = make_handover(server);
	if (r == 0)
		r = cp_detect_new(&server->cp);
	if (r == 0)
		r = virtual_files_new(&server->virtual_files);
	if (r == 0)
		r = notifier_new(&server->notifier);
	return r;
}

int fuse_server_new(struct fuse_server **out, const struct fuse_server_options *options)
{
	struct fuse_server *server = calloc(1, sizeof(*server));
	unsigned processors = processors_usable();
	int r = 0;

	if (!server)
		return -ENOMEM;
	server->fd = -1;
	server->own_handover_fd = -1;
	server->handover = options->handover;
	server->lent_handover = options->handover != NULL;
	server->takeover = options->takeover;
	resend_queue_init(&server->resent);
	order_init(&server->order);
	turn_init(&server->turn, processors);
	/* On one processor the client cannot go on meanwhile. */
	server->busy_poll.off = options->no_busy_poll || processors < 2;
	server->ready = options->ready;
	server->ended = options->ended;
	server->arg = options->arg;
	server->threads = options->threads ? options->threads : default_threads();
	if (server->threads > THREADS_MAX)
		server->threads = THREADS_MAX;
	server->store = strdup(options->store ? options->store : "");
	if (!server->store)
		r = -ENOMEM;
	if (r == 0)
		r = make_parts(server);
	if (r < 0) {
		fuse_server_free(server);
		return r;
	}
	*out = server;
	return 0;
}

static int map_buffers(struct fuse_worker *worker)
{
	char *all = mmap(NULL, MAPPED_SIZE, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (all == MAP_FAILED)
		return -errno;
	/* A fork would write-protect the pages, which is as bad as not having them: make_resident(). */
	madvise(all, MAPPED_SIZE, MADV_DONTFORK);
	worker->mapped = all;
	worker->in = all + IN_OFFSET;
	worker->out = all + IN_MAPPED;
	return 0;
}

static void slim_out(struct fuse_worker *worker)
{
	madvise(worker->out, FUSE_SERVER_IO_MAX, MADV_DONTNEED);
	atomic_store(&worker->fat, false);
}

static void slim(struct fuse_worker *worker)
{
	slim_out(worker);
	madvise(worker->mapped, IN_MAPPED, MADV_DONTNEED);
	worker->resident = false;
}

/*
 * Makes sure that reading a request faults no page in. A process that is killed while the kernel
 * copies a request to it fails that request, with EIO for the client, if a page of the buffer has
 * to be found first: that is given up for a fatal signal. One that only copies is not interrupted.
 * The pages stay writable because no child of ours gets them (map_buffers()).
 */
static void make_resident(struct fuse_worker *worker)
{
	if (worker->resident)
		return;
	if (madvise(worker->mapped, IN_MAPPED, MADV_POPULATE_WRITE) < 0)
		for (size_t i = 0; i < IN_MAPPED; i += PAGE) /* before Linux 5.14 */
			((volatile char *)worker->mapped)[i] = 0;
	worker->resident = true;
}

/*
 * One thread at a time takes requests (turn.h). It stays active, and nobody else is woken, while it answers
 * what takes no longer than handing over would, as long as nothing else is waiting; before it waits for
 * anything it hands over (base/blocking.h). Whoever waits long for its turn gives its memory back.
 */
static void leave_turn(void *arg)
{
	struct fuse_worker *worker = arg;

	blocking_hook = NULL;
	turn_leave(&worker->server->turn, &worker->waiter);
}

static void take_turn(struct fuse_worker *worker)
{
	unsigned seconds = worker->resident || atomic_load(&worker->fat) ? TURN_SLIM_SECONDS : 0;

	if (!turn_take(&worker->server->turn, &worker->waiter, seconds)) {
		slim(worker);
		turn_take(&worker->server->turn, &worker->waiter, 0);
	}
	blocking_hook_arg = worker;
	blocking_hook = leave_turn;
}

enum request_time {
	QUICK,	/* answered from memory in a few microseconds, as a rule */
	LONGER, /* in some hundred */
	LONG,
};

static enum request_time time_of(const void *request, size_t len)
{
	const struct fuse_in_header *in = request;
	const struct fuse_read_in *io = (const void *)(in + 1);

	if (len < sizeof(*in) + sizeof(*io) || virtual_has(in->nodeid))
		return LONG; /* a control request takes as long as its work does */
	switch (in->opcode) {
	case FUSE_READ:
	case FUSE_WRITE:
		return io->size <= QUICK_BYTES ? QUICK : LONGER; /* at the same place in both */
	case FUSE_GETATTR:
	case FUSE_LOOKUP:
	case FUSE_FORGET:
		return QUICK;
	default:
		return LONG;
	}
}

static bool has_request(const struct fuse_server *server)
{
	struct pollfd poll_fd = {.fd = server->fd, .events = POLLIN};

	return poll(&poll_fd, 1, 0) > 0;
}

/* Whether somebody waits behind a longer request: for the next ones the turn is handed over then. */
static bool note_crowd(struct fuse_server *server)
{
	bool crowd = has_request(server);

	if (crowd)
		atomic_store(&server->crowded, CROWDED_FOR);
	return crowd;
}

void server_answers(struct fuse_server *server)
{
	if (!me || !me->alone)
		return;
	me->alone = false;
	note_crowd(server);
}

/* Whether the thread stays active while it serves this one. It is its turn. */
static bool stays_active(struct fuse_worker *worker, size_t len)
{
	struct fuse_server *server = worker->server;
	enum request_time time = time_of(worker->in, len);
	unsigned crowded;

	worker->alone = false;
	if (time != LONGER)
		return time == QUICK;
	crowded = atomic_load(&server->crowded);
	if (crowded) {
		atomic_store(&server->crowded, crowded - 1);
		return false;
	}
	worker->alone = !note_crowd(server);
	return worker->alone;
}

/* It stays active, but does not hold the turn: whatever it serves may be held up without warning, and then
 * the lookout has another thread go on. */
static void pass_turn(struct fuse_worker *worker)
{
	struct turn *turn = &worker->server->turn;
	bool more = !worker->alone && turn_wants_more(turn) && has_request(worker->server);

	turn_pass(turn, &worker->waiter, more);
	lookout_wake(&worker->server->lookout);
}

/* See busy_poll.h; not while another thread serves: the processor is its own, or its client's. */
static void look_before_sleep(struct fuse_server *server)
{
	int64_t start, ns;
	bool found;

	if (turn_is_wanted(&server->turn) || !busy_poll_is_due(&server->busy_poll))
		return;
	start = times_now(CLOCK_MONOTONIC);
	do {
		found = has_request(server);
		ns = times_now(CLOCK_MONOTONIC) - start;
	} while (!found && ns < BUSY_POLL_NS && !turn_is_wanted(&server->turn));
	busy_poll_note(&server->busy_poll, found, ns);
}

/* What a dead process left to be served comes before what is new. It is this thread's turn. */
static ssize_t read_request(struct fuse_worker *worker)
{
	ssize_t n = (ssize_t)resend_queue_take(&worker->server->resent, worker->in, IN_SIZE);

	worker->left = n > 0;
	if (n > 0)
		return n;
	make_resident(worker);
	look_before_sleep(worker->server);
	atomic_store(&worker->reading, true);
	n = read(worker->server->fd, worker->in, IN_SIZE);
	atomic_store(&worker->reading, false);
	return n;
}

/* Reads one request, which is entered when it is a write. Returns its length; 0 when the caller is
 * to try again; -1: the end. */
static ssize_t next_request(struct fuse_worker *worker, struct order_entry *entry)
{
	ssize_t n;

	atomic_fetch_add(&worker->rounds, 1);
	entry->entered = false;
	take_turn(worker);
	if (atomic_load(&worker->server->stopping)) {
		about_to_block();
		return 0;
	}
	n = read_request(worker);
	if (n > 0)
		order_enter(&worker->server->order, entry, worker->in, (size_t)n);
	if (n <= 0 || worker->left || !stays_active(worker, (size_t)n))
		about_to_block();
	else
		pass_turn(worker);
	if (n > 0)
		return n;
	if (n < 0 && errno == EINTR) {
		if (atomic_load(&worker->fat))
			slim_out(worker);
		return 0;
	}
	/* ENOENT: the request was withdrawn while we took it. */
	if (n < 0 && (errno == ENOENT || errno == EAGAIN))
		return 0;
	if (n < 0 && errno != ENODEV && errno != ECONNABORTED)
		log_error(-errno, "cannot read requests from the kernel");
	return -1;
}

void server_say_ready(struct fuse_server *server)
{
	if (!atomic_exchange(&server->ready_said, true) && server->ready)
		server->ready(server->arg);
}

static void say_ended(struct fuse_server *server)
{
	if (!atomic_exchange(&server->ended_said, true) && server->ended)
		server->ended(server->arg);
}

/* Nothing of what a dead process was asked is open any more. */
static void served_resent(struct fuse_server *server)
{
	fs_takeover_served(server->fs);
	atomic_store(&server->resent_served, true);
}

static void serve(struct fuse_worker *worker, size_t len)
{
	struct fuse_server *server = worker->server;
	struct fs_request request;

	wire_look(worker, worker->in, len);
	request = (struct fs_request){
		.id = {handover_connection(server->handover), worker->unique},
		.again = worker->again,
	};
	if (server->lent_handover)
		fs_request_begin(server->fs, &request);
	wire_serve(worker, len);
	if (server->lent_handover)
		fs_request_end(server->fs, &request);
}

static void *worker_run(void *arg)
{
	struct fuse_worker *worker = arg;
	struct fuse_server *server = worker->server;
	struct order_entry entry;
	ssize_t n;

	me = worker;
	while (!atomic_load(&server->stopping) && (n = next_request(worker, &entry)) >= 0) {
		if (n == 0)
			continue;
		order_wait(&server->order, &entry);
		serve(worker, (size_t)n);
		order_leave(&server->order, &entry);
		if (worker->left && atomic_fetch_sub(&server->resent_left, 1) == 1)
			served_resent(server);
		if (fuse_session_exited(server->session))
			break;
	}
	about_to_block();
	if (atomic_fetch_sub(&server->running, 1) == 1 || fuse_session_exited(server->session))
		say_ended(server);
	return NULL;
}

static int make_session(struct fuse_server *server, int fd)
{
	/* libfuse compares this with what op_init() says. */
	char max_read[] = "max_read=1048576";
	char *argv[] = {(char *)"goldfs", (char *)"-o", max_read, NULL};
	struct fuse_args args = FUSE_ARGS_INIT(3, argv);
	int r;

	_Static_assert(FUSE_SERVER_IO_MAX == 1048576, "the text above says the same");
	fuse_set_log_func(libfuse_log);
	server->session = fuse_session_new(&args, &server_ops, sizeof(server_ops), server);
	fuse_opt_free_args(&args);
	if (!server->session)
		return -ENOMEM;
	r = fuse_session_custom_io(server->session, &wire_io, fd);
	if (r < 0) {
		fuse_session_destroy(server->session);
		server->session = NULL;
	}
	return r;
}

static int start_worker(struct fuse_server *server, struct fuse_worker *worker)
{
	int r;

	worker->server = server;
	turn_waiter_init(&server->turn, &worker->waiter);
	r = worker->in ? 0 : map_buffers(worker);
	if (r < 0)
		return r;
	atomic_fetch_add(&server->running, 1);
	r = pthread_create(&worker->thread, NULL, worker_run, worker);
	if (r) {
		atomic_fetch_sub(&server->running, 1);
		return -r;
	}
	worker->started = true;
	return 0;
}

/* Tells libfuse what was agreed, by the request that the first process got from the kernel. */
static void replay_init(struct fuse_server *server)
{
	struct fuse_worker *worker = &server->workers[0];
	struct fuse_buf buf = {.mem = worker->in};

	if (!handover_agreement(server->handover, &server->agreement))
		return; /* not answered: the kernel sends it again */
	buf.size = server->agreement.init_len;
	memcpy(worker->in, server->agreement.init, buf.size);
	server->replaying_init = true;
	fuse_session_process_buf(server->session, &buf);
	server->replaying_init = false;
}

static int take_over(struct fuse_server *server)
{
	struct fuse_worker *worker = &server->workers[0];
	int r = map_buffers(worker);

	if (r < 0)
		return r;
	replay_init(server);
	make_resident(worker);
	r = takeover_read(&server->resent, server->fd, worker->in, IN_SIZE);
	if (r < 0)
		return r;
	slim(worker);
	/* All bits set: who had set-id bits is not known here. */
	for (size_t i = 0; i < ARRAY_SIZE(server->set_id); i++)
		atomic_store(&server->set_id[i], UINT64_MAX);
	atomic_store(&server->resent_left, server->resent.count);
	handles_inherit(server);
	log_info("took over: %zu requests were not answered", server->resent.count);
	return 0;
}

static int start_workers(struct fuse_server *server)
{
	for (unsigned i = 0; i < server->threads; i++) {
		int r = start_worker(server, &server->workers[i]);

		if (r < 0 && i == 0)
			return r;
		if (r < 0) { /* some is enough */
			log_warning("only %u of %u threads could be started", i, server->threads);
			return 0;
		}
	}
	return 0;
}

int fuse_server_start(struct fuse_server *server, int fd, struct fs *fs, struct service *service)
{
	struct sigaction wake = {.sa_handler = wake_handler};
	int r = make_session(server, fd);

	if (r < 0)
		return r;
	sigaction(WAKE_SIGNAL, &wake, NULL);
	server->fd = fd;
	server->fs = fs;
	server->service = service;
	if (server->takeover)
		r = take_over(server);
	if (r == 0)
		r = notifier_start(server->notifier, server->session);
	if (r == 0)
		r = later_new(&server->later, transfer_written, server);
	if (r == 0 && server->takeover && !server->resent.count)
		served_resent(server);
	if (r == 0)
		r = lookout_start(&server->lookout, &server->turn);
	/* Before a thread answers anything: a client may kill who answered it, and that one has served. */
	if (r == 0 && atomic_load(&server->init_answered))
		server_say_ready(server);
	if (r == 0)
		r = start_workers(server);
	return r;
}

/*
 * What was freed in between goes back to the system when a burst of requests is over: maps and lists of
 * what random writes changed leave holes all over the heap, which stay its own otherwise (9 bytes for each
 * block that was written; without them it needs less than one).
 */
static void give_memory_back(struct fuse_server *server, bool idle)
{
	if (idle && !server->trimmed)
		malloc_trim(0);
	server->trimmed = idle;
}

void fuse_server_tick(struct fuse_server *server)
{
	bool all_idle = true;

	if (!server->takeover || atomic_load(&server->resent_served)) {
		fs_tick(server->fs);
		handles_tick(server);
	}
	for (unsigned i = 0; i < server->threads; i++) {
		struct fuse_worker *w = &server->workers[i];
		uint64_t rounds = atomic_load(&w->rounds);
		bool idle = rounds == w->rounds_seen;

		w->rounds_seen = rounds;
		all_idle &= idle;
		if (w->started && idle && atomic_load(&w->fat) && atomic_load(&w->reading))
			pthread_kill(w->thread, WAKE_SIGNAL);
	}
	give_memory_back(server, all_idle);
}

static void join_workers(struct fuse_server *server)
{
	struct timespec pause = {.tv_nsec = 2000000};

	while (atomic_load(&server->running)) {
		for (unsigned i = 0; i < server->threads; i++)
			if (server->workers[i].started && atomic_load(&server->workers[i].reading))
				pthread_kill(server->workers[i].thread, WAKE_SIGNAL);
		nanosleep(&pause, NULL);
	}
	for (unsigned i = 0; i < server->threads; i++) {
		if (!server->workers[i].started)
			continue;
		pthread_join(server->workers[i].thread, NULL);
		turn_waiter_release(&server->turn, &server->workers[i].waiter);
		server->workers[i].started = false;
	}
}

void fuse_server_stop(struct fuse_server *server)
{
	atomic_store(&server->stopping, true);
	if (server->workers)
		join_workers(server);
	lookout_stop(&server->lookout);
	later_free(server->later);
	server->later = NULL;
	if (server->notifier)
		notifier_stop(server->notifier);
}

/* Answers to fsync that the core still owes must have come: the caller closed fs before. */
void fuse_server_free(struct fuse_server *server)
{
	if (!server)
		return;
	fuse_server_stop(server);
	if (server->session)
		fuse_session_destroy(server->session); /* closes the descriptor */
	for (unsigned i = 0; server->workers && i < server->threads; i++)
		if (server->workers[i].mapped)
			munmap(server->workers[i].mapped, MAPPED_SIZE);
	notifier_free(server->notifier);
	virtual_files_free(server->virtual_files);
	cp_detect_free(server->cp);
	order_release(&server->order);
	resend_queue_release(&server->resent);
	handles_release(server);
	handover_close(server->own_handover);
	if (server->own_handover_fd >= 0)
		close(server->own_handover_fd);
	turn_release(&server->turn);
	free(server->workers);
	free(server->store);
	free(server);
}

int fuse_server_is_known(void *arg, uint64_t ino)
{
	struct fuse_server *server = arg;
	/* A negative offset: attributes only, which have no lifetime anyway. */
	int r = fuse_lowlevel_notify_inval_inode(server->session, ino, -1, 0);

	return r == 0 ? 1 : r == -ENOENT ? 0 : r;
}

int fuse_server_keep(void *arg, const void *bytes, size_t len, bool urgent)
{
	struct fuse_server *server = arg;

	return handover_note(server->handover, bytes, len, urgent);
}

void fuse_server_invalidate(void *arg, uint64_t ino)
{
	struct fuse_server *server = arg;

	notifier_invalidate(server->notifier, ino);
}

void fuse_server_op_counts(struct fuse_server *server, uint64_t counts[FUSE_OP_COUNT])
{
	memset(counts, 0, FUSE_OP_COUNT * sizeof(*counts));
	for (unsigned i = 0; i < server->threads; i++)
		for (unsigned op = 0; op < FUSE_OP_COUNT; op++)
			counts[op] += atomic_load_explicit(&server->workers[i].counts[op],
				memory_order_relaxed);
}
