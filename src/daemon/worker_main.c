/* SPDX-License-Identifier: MIT */
/*
 * The worker's main thread: it opens the store, serves, and waits for one of
 *
 *   the end of the connection	close the store; the mount is over
 *   "stop"			likewise: the mount was detached, whoever still uses it gets errors
 *   "handover"			finish what is being served and leave the rest to the next worker
 *   the supervisor's end	serve on, and say once that nobody will follow
 *
 * Signals that ask a mount to end are the supervisor's business; the worker, which could not
 * unmount, leaves them blocked. It has dropped what serving does not take before it looks at the
 * store (privileges.h). The store's lock file is told first that the end is near, so that a
 * next mount waits.
 */
#include "daemon/worker_main.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "base/log.h"
#include "base/sizes.h"
#include "base/times.h"
#include "daemon/channel.h"
#include "daemon/logging.h"
#include "daemon/prepare.h"
#include "daemon/privileges.h"
#include "daemon/upgrade.h"
#include "daemon/worker.h"
#include "fuse/handover.h"
#include "store/lock.h"
#include "store/modes.h"
#include "store/superblock.h"

#define TICK_MS 2000

struct worker_process {
	const struct mount_config *config;
	struct worker_link link;
	struct handover *handover;
	struct worker *worker;
	int events;	    /* eventfd: the connection is over */
	bool alone;	    /* the supervisor is gone */
	bool handing_over;
	bool stopping;
	pthread_mutex_t asking; /* one request for an upgrade at a time */
};

/* ---- called by threads of the server ---- */

static void on_ready(void *arg)
{
	struct worker_process *p = arg;

	channel_send(p->link.channel_fd, "serving %s", GOLDFS_VERSION);
}

static void on_ended(void *arg)
{
	struct worker_process *p = arg;

	eventfd_write(p->events, 1);
}

/* The words of the outcome, see upgrade.h. */
static void read_upgrade(struct worker_process *p, struct service_upgrade *upgrade)
{
	char text[HANDOVER_TEXT_MAX];
	char *message;

	*upgrade = (struct service_upgrade){.ticket = 0};
	handover_upgrade(p->handover, text);
	message = strchr(text, '\n');
	if (!message)
		return;
	*message++ = '\0';
	if (sscanf(text, "%" SCNu64 " %15s %31s", &upgrade->ticket, upgrade->state,
		    upgrade->version) < 2)
		return;
	snprintf(upgrade->message, sizeof(upgrade->message), "%s", message);
}

static void on_figures(void *arg, struct service_daemon *figures)
{
	struct worker_process *p = arg;
	const struct handover_figures *from = handover_figures(p->handover);
	int64_t age_ns = times_now(CLOCK_REALTIME) - atomic_load(&from->mounted_ns);

	*figures = (struct service_daemon){
		.worker_pid = getpid(),
		.supervisor_pid = (pid_t)atomic_load(&from->supervisor_pid),
		.restarts = atomic_load(&from->restarts),
		.last_pause_ms = atomic_load(&from->last_pause_ms),
		.uptime_seconds = age_ns > 0 ? (uint64_t)age_ns / 1000000000 : 0,
	};
	read_upgrade(p, &figures->upgrade);
}

static int on_upgrade(void *arg, const char *binary, const char *own, uint64_t ticket)
{
	struct worker_process *p = arg;
	struct service_upgrade last;

	MUTEX_GUARD(&p->asking);
	if (!atomic_load(&handover_figures(p->handover)->supervisor_pid))
		return -ESRCH;
	read_upgrade(p, &last);
	if (last.ticket == ticket)
		return 0; /* asked again, because it replaced whom it was asked */
	if (strcmp(last.state, UPGRADE_RUNNING) == 0)
		return -EBUSY;
	return channel_send(p->link.channel_fd, "upgrade %" PRIu64 "\n%s\n%s", ticket, binary, own);
}

/* ---- start ---- */

static void take_descriptors(const struct worker_link *link)
{
	fcntl(link->fuse_fd, F_SETFD, FD_CLOEXEC);
	fcntl(link->lock_fd, F_SETFD, FD_CLOEXEC);
	fcntl(link->handover_fd, F_SETFD, FD_CLOEXEC);
	fcntl(link->channel_fd, F_SETFD, FD_CLOEXEC);
}

static void take_signals(void)
{
	sigset_t set;

	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	sigprocmask(SIG_SETMASK, &set, NULL);
}

static int start(struct worker_process *p, struct failure *failure)
{
	struct worker_hooks hooks = {
		.ready = on_ready,
		.ended = on_ended,
		.figures = on_figures,
		.upgrade = on_upgrade,
		.arg = p,
		.handover = p->handover,
		.takeover = p->link.takeover,
	};
	int store_fd, r;

	r = logging_start(p->config);
	if (r < 0)
		return fail(failure, r, "log \"%s\": %s", p->config->log_path, why(r));
	p->events = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (p->events < 0)
		return fail(failure, -errno, "cannot start: %s", why(-errno));
	r = handover_open(&p->handover, p->link.handover_fd);
	if (r < 0)
		return fail(failure, r, "the memory that was handed over is of another version");
	hooks.handover = p->handover;
	store_fd = prepare_store(p->config, failure);
	if (store_fd < 0)
		return store_fd;
	if (!p->config->read_only && !p->link.takeover)
		store_modes_tighten(store_fd, p->config->store);
	r = privileges_drop(p->config, store_fd, failure);
	if (r < 0) {
		close(store_fd);
		return r;
	}
	r = worker_open(&p->worker, p->config, store_fd, &hooks, failure);
	return r < 0 ? r : worker_serve(p->worker, p->link.fuse_fd, failure);
}

/* ---- serving ---- */

static void lose_supervisor(struct worker_process *p)
{
	p->alone = true;
	atomic_store(&handover_figures(p->handover)->supervisor_pid, 0);
	log_warning("the supervisor of \"%s\" is gone; process %d serves on, and with it the mount ends",
		p->config->mountpoint, (int)getpid());
}

static void hear(struct worker_process *p)
{
	char text[CHANNEL_MAX];
	ssize_t n;

	while ((n = channel_receive(p->link.channel_fd, text)) > 0)
		if (channel_argument(text, "handover"))
			p->handing_over = true;
		else if (channel_argument(text, "stop"))
			p->stopping = true;
	if (n == 0)
		lose_supervisor(p);
}

static void serve_until_end(struct worker_process *p)
{
	while (!p->handing_over && !p->stopping) {
		struct pollfd fds[] = {{.fd = p->events, .events = POLLIN},
			{.fd = p->alone ? -1 : p->link.channel_fd, .events = POLLIN}};

		if (poll(fds, ARRAY_SIZE(fds), TICK_MS) == 0) {
			worker_tick(p->worker);
			logging_tick(p->config);
		}
		if (fds[0].revents)
			return;
		if (fds[1].revents)
			hear(p);
	}
}

int worker_main(const struct mount_config *config, const struct worker_link *link)
{
	struct worker_process p = {.config = config, .link = *link, .events = -1,
		.asking = PTHREAD_MUTEX_INITIALIZER};
	struct failure failure = {""};
	int r;

	prctl(PR_SET_NAME, "goldfs"); /* it may have been started by a descriptor's number */
	take_descriptors(link);
	take_signals();
	if (start(&p, &failure) < 0) {
		channel_send(link->channel_fd, "failed %s", failure.text);
		log_error(0, "%s", failure.text);
		/* Without the destructors: threads may run already. */
		_exit(WORKER_FAILED);
	}
	serve_until_end(&p);
	if (p.handing_over) {
		worker_stop(p.worker);
		_exit(WORKER_HANDED_OVER); /* the store is left as a death would leave it */
	}
	store_lock_closing(link->lock_fd);
	r = worker_close(p.worker);
	handover_close(p.handover);
	return r < 0 ? WORKER_NOT_CLOSED : WORKER_DONE;
}

int worker_probe(const struct mount_config *config, struct failure *failure)
{
	struct superblock super;
	struct io *io;
	int fd = open(config->store, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int r;

	if (fd < 0)
		return fail(failure, -errno, "store \"%s\": %s", config->store, why(-errno));
	r = io_posix_new(&io, fd);
	if (r < 0) {
		close(fd);
		return fail(failure, r, "store \"%s\": %s", config->store, why(r));
	}
	r = superblock_read(io, &super);
	io->ops->free(io);
	if (r == -EPROTONOSUPPORT)
		return fail(failure, r, "it cannot read the format of store \"%s\"", config->store);
	return r < 0 ? fail(failure, r, "store \"%s\": %s", config->store, why(r)) : 0;
}
