/* SPDX-License-Identifier: MIT */
/*
 * The process that does not die: it holds what a mount is made of, and nothing else.
 *
 * The connection to the kernel (/dev/fuse), the store's lock and the handover memory live as long
 * as one descriptor of each does. The supervisor has one; the worker, which serves, has another. So
 * a worker that dies takes none of them along: the requests it was serving stay with the kernel,
 * the next worker asks for them again, and whoever made them waits a little longer.
 *
 *	start	a worker, from a program file that is held open (program.h)
 *	serving	it says so over the channel; the pause ends
 *	death	it is reaped first: never two workers on one store. Status 0 means that the
 *		connection is over and the store closed. Anything else: start the next, unless
 *		- none has ever served: the mount failed
 *		- the connection is over: then one more closes the store, for nobody is left to
 *		  serve
 *		- the kernel cannot send requests again (before 6.10): those in flight would hang
 *		- it is hopeless: BARREN_MAX workers in a row ended before they served; or the last
 *		  LIVES died within LIVES_SECONDS and served less than LIVES_MS together; or
 *		  RESTLESS_MAX died without one that served for REST_SECONDS. Who is
 *		  killed five times a second serves in between, and goes on
 *	end	closing the last descriptor ends the connection: clients get errors, at once
 *
 * It reads no request, opens no store, starts no thread, allocates next to nothing and never waits
 * for a worker: one poll(2) on signals and the channel. A signal to unmount is carried out by a
 * child, for that may take its time. When the supervisor itself is killed the worker serves on, and
 * its end ends the mount.
 */
#include "daemon/supervisor.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/sizes.h"
#include "base/times.h"
#include "daemon/channel.h"
#include "daemon/logging.h"
#include "daemon/program.h"
#include "daemon/sdnotify.h"
#include "daemon/unmount.h"
#include "daemon/upgrade.h"
#include "daemon/worker_main.h"
#include "fuse/handover.h"

#define SECOND_NS INT64_C(1000000000)
#define LIVES 25
#define LIVES_MS 2500
#define LIVES_SECONDS 10
#define RESTLESS_MAX 1000
#define REST_SECONDS 10
#define BARREN_MAX 5
#define BARREN_PAUSE_NS (100 * 1000000) /* doubled with each, but for the first */
#define EXTEND_SECONDS 5 /* systemd is asked for patience this often while nobody serves */

struct supervisor {
	const struct supervision *with;
	struct failure *failure;
	struct program program;
	struct handover *handover;
	struct handover_figures *figures; /* in it */
	int handover_fd;
	pid_t worker; /* 0: none */
	int channel;  /* to it; -1: it has closed its end */
	bool serving;
	bool has_served; /* some worker did */
	bool resend;
	int64_t down_ns;  /* since when nobody serves */
	int64_t start_ns; /* when the next worker is due; 0: not */
	int64_t extend_ns; /* when systemd is to be asked for patience next */
	int64_t serving_ns; /* since when the worker serves */
	int64_t lives_ns[LIVES]; /* how long the last ones served; a ring, */
	int64_t deaths_ns[LIVES]; /* and when they died */
	unsigned deaths;
	unsigned restless; /* of them, since one served for long */
	unsigned barren;
	pid_t unmounter; /* 0: none */
	bool unmounted;	 /* it has done its work */
	bool closing;	 /* a worker was started only to close the store */
	struct upgrade upgrade;
	bool over;
	int result;
};

static void finish(struct supervisor *s, int result)
{
	s->over = true;
	s->result = result;
}

/* ---- a worker's life ---- */

/* One that never served, also when it could not even be started. */
static void delay_next(struct supervisor *s)
{
	s->barren++;
	s->start_ns = times_now(CLOCK_MONOTONIC);
	if (s->barren > 1)
		s->start_ns += (int64_t)BARREN_PAUSE_NS << (s->barren - 2);
}

static void give_up(struct supervisor *s, const char *why_not, const char *how)
{
	fail(s->failure, -ECONNABORTED, "the worker of \"%s\" %s", s->with->config->mountpoint, how);
	log_error(0, "%s: giving up, \"%s\" is not served any more; its last worker %s", why_not,
		s->with->config->mountpoint, how);
	finish(s, -ECONNABORTED);
}

static void start_worker(struct supervisor *s)
{
	struct worker_link link = {
		.fuse_fd = s->with->fuse_fd,
		.lock_fd = s->with->lock_fd,
		.handover_fd = s->handover_fd,
		.takeover = s->has_served,
	};
	int ends[2];
	int r = channel_pair(ends);

	s->start_ns = 0;
	if (r == 0) {
		link.channel_fd = ends[1];
		r = program_start_worker(&s->program, s->with->config, &link);
		close(ends[1]);
		if (r < 0)
			close(ends[0]);
	}
	if (r >= 0) {
		s->worker = r;
		s->channel = ends[0];
		return;
	}
	log_error(r, "cannot start a worker for \"%s\"", s->with->config->mountpoint);
	delay_next(s);
	if (!s->has_served || s->barren >= BARREN_MAX)
		give_up(s, "no process can be started", "could not be started");
}

static bool can_resend(const struct supervisor *s)
{
	struct fuse_agreement agreement;

	return handover_agreement(s->handover, &agreement) &&
	       fuse_agreement_can_resend(&agreement) && !getenv("GOLDFS_TEST_NO_RESEND");
}

static void worker_serves(struct supervisor *s, const char *version)
{
	int64_t pause_ms = (times_now(CLOCK_MONOTONIC) - s->down_ns) / 1000000;

	if (s->serving)
		return;
	s->serving = true;
	s->serving_ns = times_now(CLOCK_MONOTONIC);
	s->barren = 0;
	if (s->unmounted)
		channel_send(s->channel, "stop");
	upgrade_serving(&s->upgrade, version);
	if (s->has_served) {
		atomic_store(&s->figures->last_pause_ms, (uint64_t)pause_ms);
		log_info("\"%s\" is served again, by process %d, after %lld ms",
			s->with->config->mountpoint, (int)s->worker, (long long)pause_ms);
	} else {
		s->has_served = true;
		s->resend = can_resend(s);
		s->with->serving(s->with->arg, s->resend);
	}
	sdnotify("READY=1\nMAINPID=%d\nSTATUS=Serving %s, %llu restarts\n", (int)getpid(),
		s->with->config->mountpoint, (unsigned long long)atomic_load(&s->figures->restarts));
}

static void hear(struct supervisor *s)
{
	char text[CHANNEL_MAX];
	const char *rest;
	ssize_t n;

	while (s->channel >= 0 && (n = channel_receive(s->channel, text)) != -EAGAIN) {
		if (n <= 0) {
			close(s->channel);
			s->channel = -1;
			return;
		}
		if ((rest = channel_argument(text, "serving")))
			worker_serves(s, rest);
		else if ((rest = channel_argument(text, "failed")))
			fail(s->failure, -EIO, "%s", rest);
		else if ((rest = channel_argument(text, "upgrade")))
			upgrade_request(&s->upgrade, &s->program, s->with->config, rest);
		else
			log_warning("the worker says \"%.60s\", which is not understood", text);
	}
}

/* ---- its death ---- */

static void describe(int status, char *text, size_t size)
{
	if (WIFSIGNALED(status))
		snprintf(text, size, "was killed by signal %d (%s)", WTERMSIG(status),
			sigabbrev_np(WTERMSIG(status)) ? sigabbrev_np(WTERMSIG(status)) : "?");
	else
		snprintf(text, size, "ended with status %d", WEXITSTATUS(status));
}

/* The kernel says so on the descriptor once the mount is gone. */
static bool connection_is_over(const struct supervisor *s)
{
	struct pollfd fd = {.fd = s->with->fuse_fd, .events = POLLIN};

	return poll(&fd, 1, 0) > 0 && (fd.revents & (POLLERR | POLLNVAL));
}

/* The last one served for life_ns. */
static bool is_crash_loop(struct supervisor *s, int64_t now, int64_t life_ns)
{
	int64_t sum = 0;

	s->deaths_ns[s->deaths % LIVES] = now;
	s->lives_ns[s->deaths++ % LIVES] = life_ns;
	s->restless = life_ns < REST_SECONDS * SECOND_NS ? s->restless + 1 : 0;
	for (unsigned i = 0; i < LIVES; i++)
		sum += s->lives_ns[i];
	/* The next place holds the first of the last LIVES. */
	return (s->deaths >= LIVES && sum < LIVES_MS * INT64_C(1000000) &&
		       now - s->deaths_ns[s->deaths % LIVES] < LIVES_SECONDS * SECOND_NS) ||
	       s->restless >= RESTLESS_MAX;
}

/* A death that nobody asked for. */
static void worker_died(struct supervisor *s, int status, const char *how, bool served)
{
	int64_t now = times_now(CLOCK_MONOTONIC);
	/* By somebody else: that says nothing about whether the next one can serve. */
	bool shot = WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;

	if (!s->has_served) {
		fail(s->failure, -EIO, "the worker %s before it served", how);
		finish(s, -EIO);
	} else if (s->resend && !s->closing && (s->unmounted || connection_is_over(s))) {
		log_error(0, "\"%s\" is unmounted, but its worker %s; another one closes the store",
			s->with->config->mountpoint, how);
		s->closing = true;
		s->start_ns = now;
	} else if (s->unmounted || connection_is_over(s)) {
		log_error(0, "\"%s\" is unmounted, but its worker %s; the next mount recovers the store",
			s->with->config->mountpoint, how);
		finish(s, fail(s->failure, -EIO, "the worker %s", how));
	} else if (!s->resend) {
		give_up(s, "this kernel cannot send requests again to another worker", how);
	} else if (is_crash_loop(s, now, served ? now - s->serving_ns : 0)) {
		give_up(s, "workers die again and again", how);
	} else if (!served && !shot && s->barren + 1 >= BARREN_MAX) {
		give_up(s, "5 workers in a row did not come to serve", how);
	} else {
		log_error(0, "the worker of \"%s\" (process %d) %s; another one takes over",
			s->with->config->mountpoint, (int)s->worker, how);
		if (served || shot)
			s->start_ns = now;
		else
			delay_next(s);
	}
}

static void worker_ended(struct supervisor *s, int status)
{
	bool served = s->serving;
	char how[80];

	describe(status, how, sizeof(how));
	if (s->channel >= 0)
		close(s->channel);
	s->channel = -1;
	if (served)
		s->down_ns = times_now(CLOCK_MONOTONIC);
	s->serving = false;
	s->extend_ns = 0;
	logging_tick(s->with->config);
	if (WIFEXITED(status) && WEXITSTATUS(status) == WORKER_DONE) {
		if (!s->has_served)
			fail(s->failure, -ECONNABORTED, "mount on \"%s\" ended before it was ready",
				s->with->config->mountpoint);
		finish(s, s->has_served ? 0 : -ECONNABORTED);
	} else if (WIFEXITED(status) && WEXITSTATUS(status) == WORKER_NOT_CLOSED) {
		finish(s, fail(s->failure, -EIO, "store \"%s\" could not be closed in order",
				  s->with->config->store));
	} else if (upgrade_worker_ended(&s->upgrade, &s->program, how, times_now(CLOCK_MONOTONIC)) &&
		   !connection_is_over(s)) {
		s->start_ns = times_now(CLOCK_MONOTONIC);
	} else {
		worker_died(s, status, how, served);
	}
	if (!s->over)
		atomic_fetch_add(&s->figures->restarts, 1);
	s->worker = 0;
}

/* ---- what happens ---- */

/* The mount is taken away, but who has files of it open may keep the connection. */
static void stop(struct supervisor *s)
{
	s->unmounted = true;
	if (s->worker)
		channel_send(s->channel, "stop");
}

/* After the first signal gently; another one while that goes on means now. */
static void start_unmounting(struct supervisor *s, unsigned signal)
{
	bool now = s->unmounter != 0;

	log_info("signal %u: unmounting \"%s\"", signal, s->with->config->mountpoint);
	sdnotify("STOPPING=1\nSTATUS=Unmounting %s\n", s->with->config->mountpoint);
	if (now)
		kill(s->unmounter, SIGKILL);
	s->unmounter = fork();
	if (s->unmounter == 0) {
		close(s->with->fuse_fd);
		close(s->with->lock_fd);
		unmount_ours(s->with->config, s->with->mount_id, now);
		_exit(0);
	}
	if (s->unmounter < 0) {
		s->unmounter = 0;
		unmount_ours(s->with->config, s->with->mount_id, true);
		stop(s);
	}
}

static void reap(struct supervisor *s)
{
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		if (pid == s->worker) {
			hear(s);
			worker_ended(s, status);
		} else if (pid == s->unmounter) {
			s->unmounter = 0;
			stop(s);
		} else if (upgrade_probe_ended(&s->upgrade, pid, status,
				   times_now(CLOCK_MONOTONIC)) &&
			   s->upgrade.step == UPGRADE_REPLACING && s->worker) {
			channel_send(s->channel, "handover");
		}
	}
}

static void take_signals(struct supervisor *s)
{
	struct signalfd_siginfo info;

	while (read(s->with->signals, &info, sizeof(info)) == sizeof(info))
		if (info.ssi_signo != SIGCHLD)
			start_unmounting(s, info.ssi_signo);
}

/* Milliseconds until something is due; -1: nothing is. */
static int time_to_wait(const struct supervisor *s)
{
	int64_t now = times_now(CLOCK_MONOTONIC), due = INT64_MAX;

	if (s->start_ns)
		due = s->start_ns;
	if (s->upgrade.deadline_ns && s->upgrade.deadline_ns < due)
		due = s->upgrade.deadline_ns;
	if (!s->serving && s->extend_ns < due)
		due = s->extend_ns;
	if (due == INT64_MAX)
		return -1;
	return due <= now ? 0 : (int)((due - now) / 1000000 + 1);
}

static void step(struct supervisor *s)
{
	struct pollfd fds[] = {{.fd = s->with->signals, .events = POLLIN},
		{.fd = s->channel, .events = POLLIN}};

	if (!s->serving && times_now(CLOCK_MONOTONIC) >= s->extend_ns) {
		sdnotify("EXTEND_TIMEOUT_USEC=%d\n", 4 * EXTEND_SECONDS * 1000000);
		s->extend_ns = times_now(CLOCK_MONOTONIC) + EXTEND_SECONDS * SECOND_NS;
	}
	if (poll(fds, ARRAY_SIZE(fds), time_to_wait(s)) < 0 && errno != EINTR)
		log_error(-errno, "poll");
	if (fds[1].revents)
		hear(s);
	take_signals(s);
	reap(s);
	if (upgrade_expired(&s->upgrade, times_now(CLOCK_MONOTONIC)) && s->worker)
		kill(s->worker, SIGKILL);
	if (!s->over && s->start_ns && times_now(CLOCK_MONOTONIC) >= s->start_ns)
		start_worker(s);
}

static int prepare(struct supervisor *s)
{
	int r = program_open_own(&s->program);

	if (r == 0)
		r = s->handover_fd = handover_create();
	if (r >= 0)
		r = handover_open(&s->handover, s->handover_fd);
	if (r < 0)
		return fail(s->failure, r, "cannot start: %s", why(r));
	s->figures = handover_figures(s->handover);
	atomic_store(&s->figures->mounted_ns, times_now(CLOCK_REALTIME));
	atomic_store(&s->figures->supervisor_pid, (uint32_t)getpid());
	s->down_ns = times_now(CLOCK_MONOTONIC);
	upgrade_init(&s->upgrade, s->handover);
	return 0;
}

int supervise(const struct supervision *with, struct failure *failure)
{
	struct supervisor s = {.with = with, .failure = failure, .handover_fd = -1, .channel = -1,
		.program = {.fd = -1}};

	s.result = prepare(&s);
	if (s.result == 0) {
		start_worker(&s);
		while (!s.over)
			step(&s);
	}
	if (s.unmounter)
		kill(s.unmounter, SIGKILL);
	if (s.handover_fd >= 0)
		close(s.handover_fd);
	handover_close(s.handover);
	program_close(&s.program);
	return s.result;
}
