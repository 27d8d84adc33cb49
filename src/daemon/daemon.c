/* SPDX-License-Identifier: MIT */
/*
 * The daemon's life: lock the store, open it, mount, serve, unmount, close, unlock.
 *
 *   prepare    by the process that was started: all that can be wrong is said here
 *   lock       waits for a daemon of the same store that is closing
 *   open       recovers the store; until here nothing is seen from outside
 *   mount      and serve; ready when the kernel's INIT is answered
 *   wait       for the end of the connection (unmounted) or a signal
 *   close      the store's lock goes last: who gets it finds everything in place
 *
 * SIGTERM, SIGINT and SIGHUP unmount. While the mount is in use that fails, and guests would get
 * errors from a forced one, so the users are named in the log and have ten seconds to go; then,
 * or at a second signal, the mount is detached and they see ENOTCONN. Everything they were promised
 * is durable either way.
 *
 * The main thread handles signals and ticks and nothing else. What others tell it comes through an
 * eventfd.
 */
#include "daemon/daemon.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "daemon/background.h"
#include "daemon/logging.h"
#include "daemon/mountinfo.h"
#include "daemon/mountpoint.h"
#include "daemon/prepare.h"
#include "daemon/worker.h"
#include "store/lock.h"

#define LOCK_WAIT_SECONDS 30
#define BUSY_WAIT_SECONDS 10
#define TICK_MS 2000
#define BUSY_POLL_MS 200

struct daemon {
	const struct mount_config *config;
	int report; /* to the process in the foreground; -1 when there is none */
	int lock_fd;
	int signals;  /* signalfd */
	int events;   /* eventfd: the connection is over */
	int mount_id; /* of our mount, in mountinfo */
	atomic_bool ready;
	struct worker *worker;
};

/* Called by a thread of the FUSE server. */
static void on_ready(void *arg)
{
	struct daemon *d = arg;

	atomic_store(&d->ready, true);
	log_info("\"%s\" is mounted on \"%s\", store \"%s\"", d->config->images,
		d->config->mountpoint, d->config->store);
	background_ready(d->report);
}

/* Called by the last thread of the FUSE server. */
static void on_ended(void *arg)
{
	struct daemon *d = arg;

	eventfd_write(d->events, 1);
}

static void settle_process(void)
{
	struct rlimit limit;

	umask(0);
	if (chdir("/") < 0)
		log_warning("cannot leave the working folder");
	if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
		limit.rlim_cur = limit.rlim_max;
		setrlimit(RLIMIT_NOFILE, &limit);
	}
}

/* Before the first thread, so that all of them inherit the mask. */
static int take_signals(struct daemon *d, struct failure *failure)
{
	sigset_t set;

	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	sigprocmask(SIG_BLOCK, &set, NULL);
	d->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	d->events = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (d->signals < 0 || d->events < 0)
		return fail(failure, -errno, "cannot start: %s", why(-errno));
	return 0;
}

static int lock_store(struct daemon *d, int store_fd, struct failure *failure)
{
	pid_t holder = 0;
	int fd = store_lock(store_fd, LOCK_WAIT_SECONDS, &holder);

	if (fd == -EBUSY && holder)
		return fail(failure, fd, "store \"%s\" is in use by another mount (pid %d)",
			d->config->store, (int)holder);
	if (fd == -EBUSY)
		return fail(failure, fd, "store \"%s\" is in use by another mount",
			d->config->store);
	if (fd < 0)
		return fail(failure, fd, "cannot lock store \"%s\": %s", d->config->store, why(fd));
	d->lock_fd = fd;
	return 0;
}

static int open_all(struct daemon *d, struct failure *failure)
{
	const struct worker_callbacks callbacks = {on_ready, on_ended, d};
	int store_fd = prepare_store(d->config, failure);
	int r;

	if (store_fd < 0)
		return store_fd;
	r = lock_store(d, store_fd, failure);
	if (r == 0) {
		r = logging_start(d->config);
		if (r < 0)
			fail(failure, r, "log \"%s\": %s", d->config->log_path, why(r));
	}
	if (r < 0) {
		close(store_fd);
		return r;
	}
	return worker_open(&d->worker, d->config, store_fd, &callbacks, failure);
}

static int mount_and_serve(struct daemon *d, struct failure *failure)
{
	struct mount_entry entry;
	int fd = mountpoint_mount(d->config, failure);
	int r;

	if (fd < 0)
		return fd;
	r = worker_serve(d->worker, fd, failure);
	if (r < 0) {
		close(fd);
		mountpoint_unmount(d->config->mountpoint, true);
		return r;
	}
	if (mount_find(d->config->mountpoint, &entry) == 0) {
		d->mount_id = entry.id;
		mount_entry_release(&entry);
	}
	return 0;
}

enum event { EVENT_TICK, EVENT_SIGNAL, EVENT_ENDED };

static enum event next_event(struct daemon *d, int timeout_ms)
{
	struct pollfd fds[] = {{.fd = d->events, .events = POLLIN},
		{.fd = d->signals, .events = POLLIN}};
	struct signalfd_siginfo info;

	if (poll(fds, 2, timeout_ms) <= 0)
		return EVENT_TICK;
	if (fds[0].revents)
		return EVENT_ENDED;
	if (read(d->signals, &info, sizeof(info)) != sizeof(info))
		return EVENT_TICK;
	log_info("signal %u: unmounting \"%s\"", info.ssi_signo, d->config->mountpoint);
	return EVENT_SIGNAL;
}

/* Unmounts what is ours; -ENOENT when it is not there any more, or hidden by another mount. */
static int unmount_ours(struct daemon *d, bool lazy)
{
	struct mount_entry entry;
	bool ours;
	int r = mount_find(d->config->mountpoint, &entry);

	if (r < 0)
		return r;
	ours = entry.id == d->mount_id;
	mount_entry_release(&entry);
	return ours ? mountpoint_unmount(d->config->mountpoint, lazy) : -ENOENT;
}

static void log_users(struct daemon *d)
{
	CLEANUP_FREE char *users = NULL;
	struct mount_entry entry;

	if (mount_find(d->config->mountpoint, &entry) < 0)
		return;
	users = mount_users(&entry);
	mount_entry_release(&entry);
	log_warning("\"%s\" is in use by %s; it is detached in %d seconds, or at the next signal",
		d->config->mountpoint, users ? users : "somebody", BUSY_WAIT_SECONDS);
}

/* After a signal: unmounts, gently at first. */
static void end_mount(struct daemon *d)
{
	bool said = false;

	for (int waited = 0; waited < BUSY_WAIT_SECONDS * 1000; waited += BUSY_POLL_MS) {
		int r = unmount_ours(d, false);

		if (r == -EBUSY && !said)
			log_users(d);
		else if (r < 0 && r != -EBUSY)
			break;
		said = true;
		if (next_event(d, BUSY_POLL_MS) != EVENT_TICK)
			break;
	}
	unmount_ours(d, true); /* does nothing when it is gone */
}

static void serve_until_end(struct daemon *d)
{
	for (;;) {
		switch (next_event(d, TICK_MS)) {
		case EVENT_ENDED:
			return;
		case EVENT_SIGNAL:
			end_mount(d);
			return;
		case EVENT_TICK:
			worker_tick(d->worker);
			logging_tick(d->config);
		}
	}
}

static int close_all(struct daemon *d)
{
	int r = 0;

	if (d->lock_fd >= 0)
		store_lock_closing(d->lock_fd);
	if (d->worker)
		r = worker_close(d->worker);
	if (d->lock_fd >= 0)
		close(d->lock_fd);
	close(d->signals);
	close(d->events);
	return r;
}

/* The daemon proper, in the process that is to be it. */
static int be_daemon(const struct mount_config *config, int report, struct failure *failure)
{
	struct daemon d = {.config = config, .report = report, .lock_fd = -1, .signals = -1,
		.events = -1};
	int r, closed;

	settle_process();
	r = take_signals(&d, failure);
	if (r == 0)
		r = open_all(&d, failure);
	if (r == 0)
		r = mount_and_serve(&d, failure);
	if (r == 0) {
		serve_until_end(&d);
		if (!atomic_load(&d.ready))
			r = fail(failure, -ECONNABORTED, "mount on \"%s\" ended before it was ready",
				config->mountpoint);
		unmount_ours(&d, true); /* does nothing when that was the reason */
	}
	if (!atomic_load(&d.ready))
		background_failed(report, failure);
	closed = close_all(&d);
	if (r == 0 && closed < 0)
		r = fail(failure, closed, "store \"%s\" could not be closed in order: %s",
			config->store, why(closed));
	if (r == 0)
		log_info("\"%s\" is unmounted", config->mountpoint);
	return r;
}

int daemon_run(struct mount_config *config, struct failure *failure)
{
	int report, r = prepare_mount(config, failure);

	if (r < 0)
		return r;
	if (config->foreground)
		return be_daemon(config, -1, failure);
	if (!background_enter(&report, failure))
		return failure->text[0] ? -EIO : 0;
	exit(be_daemon(config, report, failure) < 0);
}
