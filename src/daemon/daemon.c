/* SPDX-License-Identifier: MIT */
/*
 * How a mount comes about and ends, in the process that becomes its supervisor:
 *
 *   prepare    by the process that was started: all that can be wrong is said here
 *   lock       the store; waits for a daemon of the same store that is closing
 *   mount      the kernel's requests wait from here on
 *   supervise  a worker opens the store and serves; ready when it says so (supervisor.c)
 *   unlock     the lock goes last: who gets it finds everything in place
 *
 * SIGTERM, SIGINT and SIGHUP unmount, see unmount.h. Everything that clients were promised is
 * durable either way.
 */
#include "daemon/daemon.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
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
#include "daemon/sdnotify.h"
#include "daemon/supervisor.h"
#include "daemon/unmount.h"
#include "store/lock.h"

#define LOCK_WAIT_SECONDS 30

struct daemon {
	const struct mount_config *config;
	int report; /* to the process in the foreground; -1 when there is none */
	bool ready;
	struct supervision held;
};

static void on_serving(void *arg, bool resend)
{
	static const char warning[] =
		"this kernel cannot hand requests over to another process (6.10 and newer can): if "
		"the daemon dies, clients get errors until it is mounted again";
	struct daemon *d = arg;

	d->ready = true;
	log_info("\"%s\" is mounted on \"%s\", store \"%s\"", d->config->images,
		d->config->mountpoint, d->config->store);
	if (!resend)
		log_warning("%s", warning);
	background_ready(d->report, resend ? "" : warning);
	d->report = -1;
}

/*
 * What whoever started us had open is not for a process that lives for months: a lock or a pipe in
 * it would never be given back. And the three first descriptors must be something, or the store
 * becomes stderr.
 */
static void forget_inherited(void)
{
	int fd;

	do {
		fd = open("/dev/null", O_RDWR);
	} while (fd >= 0 && fd <= STDERR_FILENO);
	close_range(STDERR_FILENO + 1, ~0u, 0);
}

static void raise_limit(int resource)
{
	struct rlimit limit;

	if (getrlimit(resource, &limit) == 0) {
		limit.rlim_cur = limit.rlim_max;
		setrlimit(resource, &limit);
	}
}

static void settle_process(void)
{

	umask(0);
	if (chdir("/") < 0)
		log_warning("cannot leave the working folder");
	raise_limit(RLIMIT_NOFILE);
	raise_limit(RLIMIT_FSIZE); /* beyond it writes fail, */
	signal(SIGXFSZ, SIG_IGN);  /* and do not kill */
}

static int take_signals(struct daemon *d, struct failure *failure)
{
	sigset_t set;

	signal(SIGPIPE, SIG_IGN);
	signal(SIGCHLD, SIG_DFL);
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	sigaddset(&set, SIGCHLD);
	sigprocmask(SIG_BLOCK, &set, NULL);
	d->held.signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (d->held.signals < 0)
		return fail(failure, -errno, "cannot start: %s", why(-errno));
	return 0;
}

static int lock_store(struct daemon *d, struct failure *failure)
{
	CLEANUP_CLOSE int store_fd = prepare_store(d->config, failure);
	pid_t holder = 0;
	int fd;

	if (store_fd < 0)
		return store_fd;
	fd = store_lock(store_fd, LOCK_WAIT_SECONDS, &holder);
	if (fd == -EBUSY && holder)
		return fail(failure, fd, "store \"%s\" is in use by another mount (pid %d)",
			d->config->store, (int)holder);
	if (fd == -EBUSY)
		return fail(failure, fd, "store \"%s\" is in use by another mount",
			d->config->store);
	if (fd < 0)
		return fail(failure, fd, "cannot lock store \"%s\": %s", d->config->store, why(fd));
	d->held.lock_fd = fd;
	return 0;
}

static int mount_it(struct daemon *d, struct failure *failure)
{
	struct mount_entry entry;
	int r = logging_start(d->config);

	if (r < 0)
		return fail(failure, r, "log \"%s\": %s", d->config->log_path, why(r));
	r = mountpoint_mount(d->config, failure);
	if (r < 0)
		return r;
	d->held.fuse_fd = r;
	if (mount_find(d->config->mountpoint, &entry) == 0) {
		d->held.mount_id = entry.id;
		mount_entry_release(&entry);
	}
	return 0;
}

static void close_one(int fd)
{
	if (fd >= 0)
		close(fd);
}

/*
 * A mount that never served is taken away. One that did and whose workers died for good stays where
 * it is, dead: its users get errors, and nobody takes the empty folder below for their files.
 */
static void end(struct daemon *d, int result)
{
	if (!d->ready && d->held.fuse_fd >= 0)
		unmount_ours(d->config, d->held.mount_id, true);
	close_one(d->held.fuse_fd);
	if (result == 0)
		log_info("\"%s\" is unmounted", d->config->mountpoint);
	close_one(d->held.signals);
	close_one(d->held.lock_fd);
}

/* In the process that is to be the supervisor. */
static int be_daemon(const struct mount_config *config, int report, struct failure *failure)
{
	struct daemon d = {.config = config, .report = report,
		.held = {.config = config, .fuse_fd = -1, .lock_fd = -1, .signals = -1,
			.serving = on_serving}};
	int r;

	d.held.arg = &d;
	settle_process();
	sdnotify_init();
	r = take_signals(&d, failure);
	if (r == 0)
		r = lock_store(&d, failure);
	if (r == 0)
		r = mount_it(&d, failure);
	if (r == 0)
		r = supervise(&d.held, failure);
	end(&d, r);
	if (!d.ready)
		background_failed(d.report, failure);
	return r;
}

int daemon_run(struct mount_config *config, struct failure *failure)
{
	int report, r;

	forget_inherited();
	r = prepare_mount(config, failure);
	if (r < 0)
		return r;
	if (config->foreground)
		return be_daemon(config, -1, failure);
	if (!background_enter(&report, failure))
		return failure->text[0] ? -EIO : 0;
	exit(be_daemon(config, report, failure) < 0);
}
