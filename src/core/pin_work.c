/* SPDX-License-Identifier: MIT */
/*
 * Work on pins that reads whole images: copying one whose pin cannot be a link, and computing the
 * sums by which a linked one is told from a changed one later (image/pin.h), and by which damage is
 * found in all of them.
 *
 * A process of its own does it (pin_process.h). Where it cannot be started the thread does the work
 * itself.
 */
#include "core/fs_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "core/pin_process.h"

#define NOTE_SECONDS 2

static int keep_going(void *arg, uint64_t done, uint64_t total)
{
	struct fs *fs = arg;

	return atomic_load(&fs->golden_stopping);
}

/* Waits for the process, or ends it when the daemon ends. 0, or its -errno. */
static int await_process(struct fs *fs, pid_t pid)
{
	struct timespec pause = {.tv_nsec = 50000000};
	int status;
	pid_t r;

	while ((r = waitpid(pid, &status, WNOHANG)) == 0 || (r < 0 && errno == EINTR)) {
		if (atomic_load(&fs->golden_stopping))
			kill(pid, SIGKILL);
		nanosleep(&pause, NULL);
	}
	if (r < 0)
		return -errno;
	return WIFEXITED(status) ? -WEXITSTATUS(status) : -ECANCELED;
}

static int work_on(struct fs *fs, enum gf_pin_kind kind, uint64_t id, int fd)
{
	pid_t pid = pin_process_start(kind == GF_PIN_COPYING ? PIN_PROCESS_COPY : PIN_PROCESS_SUMS,
		fs->options.store_fd, id, fd);

	if (pid > 0)
		return await_process(fs, pid);
	return kind == GF_PIN_COPYING ?
		pin_copy(fs->options.store_fd, id, fd, keep_going, fs) :
		pin_sums_make(fs->options.store_fd, id, fd, keep_going, fs);
}

/* One image that needs work: a copy to be made, or one without sums. Only a linked one can be
 * changed by others, but all of them can be damaged. */
static bool next_work(struct fs *fs, uint64_t *id, enum gf_pin_kind *kind, int *fd)
{
	struct golden *g, *next;
	bool found = false;

	pthread_rwlock_rdlock(&fs->tree);
	HASH_ITER (hh, fs->goldens, g, next) {
		if (found || g->failed || g->worked || g->pin == GF_PIN_FENCED)
			continue;
		g->worked = true;
		if (g->pin != GF_PIN_COPYING && pin_sums_exist(fs->options.store_fd, g->id) == 0)
			continue;
		if (golden_acquire(g))
			continue;
		*fd = fcntl(image_raw_fd(g->backing), F_DUPFD_CLOEXEC, 0);
		pthread_rwlock_unlock(&g->lock);
		*id = g->id;
		*kind = g->pin;
		found = *fd >= 0;
	}
	pthread_rwlock_unlock(&fs->tree);
	return found;
}

static void finish_copy(struct fs *fs, uint64_t id, int result)
{
	struct golden *g;

	if (result == -ECANCELED)
		return;
	g = golden_hold(fs, id);
	if (!g)
		return;
	if (!result) {
		golden_switch_to_copy(fs, g);
		pin_guard_remove(fs->guard, id);
		g->worked = false; /* the copy has no sums yet */
	} else if (result == -ESTALE) {
		golden_fence(fs, g, result);
	} else {
		log_error(result, "golden image \"%s\" cannot be copied into the store; do not "
				  "remove or change it while it has clones", g->path);
	}
	golden_hold_end(fs, g);
}

static void finish_sums(struct fs *fs, uint64_t id)
{
	struct golden *g = golden_hold(fs, id);

	if (!g)
		return;
	golden_sums_made(g);
	golden_hold_end(fs, g);
}

/* A linked image whose time of change is not what the store says, and its id; guarded until now. */
static bool next_unseen(struct fs *fs, uint64_t *id, int64_t *ctime_ns)
{
	struct golden *g, *next;
	bool found = false;

	pthread_rwlock_rdlock(&fs->tree);
	HASH_ITER (hh, fs->goldens, g, next) {
		struct stat st;

		if (found || g->pin != GF_PIN_LINK || g->failed)
			continue;
		pthread_rwlock_rdlock(&g->lock);
		if (g->backing && fstat(image_raw_fd(g->backing), &st) == 0) {
			*id = g->id;
			*ctime_ns = (int64_t)st.st_ctim.tv_sec * 1000000000 + st.st_ctim.tv_nsec;
			found = *ctime_ns != g->seen_ctime_ns;
		}
		pthread_rwlock_unlock(&g->lock);
		if (found)
			g->seen_ctime_ns = *ctime_ns; /* one try */
	}
	pthread_rwlock_unlock(&fs->tree);
	return found;
}

/*
 * Notes the time of change of linked images that a lease has guarded until now, so that the next
 * mount knows whether somebody was at them meanwhile. chmod, mv and rm change it, too.
 */
static void note_seen(struct fs *fs)
{
	int64_t ctime_ns;
	uint64_t id;

	while (fs->guard && next_unseen(fs, &id, &ctime_ns)) {
		struct golden *g = golden_hold(fs, id);

		if (g && pin_guard_stands(fs->guard, id))
			pin_seen_set(fs->options.store_fd, id, g->print.size, ctime_ns);
		if (g)
			golden_hold_end(fs, g);
	}
}

static void wait_for_work(struct fs *fs)
{
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += NOTE_SECONDS;
	if (!fs->golden_wanted && !atomic_load(&fs->golden_stopping))
		pthread_cond_timedwait(&fs->golden_work, &fs->golden_lock, &until);
	fs->golden_wanted = false;
}

static void *work_main(void *arg)
{
	struct fs *fs = arg;

	pthread_mutex_lock(&fs->golden_lock);
	while (!atomic_load(&fs->golden_stopping)) {
		enum gf_pin_kind kind;
		uint64_t id;
		int fd;

		pthread_mutex_unlock(&fs->golden_lock);
		note_seen(fs);
		while (!atomic_load(&fs->golden_stopping) && next_work(fs, &id, &kind, &fd)) {
			int r = work_on(fs, kind, id, fd);

			if (kind == GF_PIN_COPYING)
				finish_copy(fs, id, r);
			else
				finish_sums(fs, id);
			close(fd);
		}
		note_seen(fs);
		pthread_mutex_lock(&fs->golden_lock);
		wait_for_work(fs);
	}
	pthread_mutex_unlock(&fs->golden_lock);
	note_seen(fs);
	return NULL;
}

void pin_work_want(struct fs *fs)
{
	MUTEX_GUARD(&fs->golden_lock);
	fs->golden_wanted = true;
	pthread_cond_signal(&fs->golden_work);
}

int pin_work_start(struct fs *fs)
{
	int r = pthread_create(&fs->golden_thread, NULL, work_main, fs);

	fs->golden_runs = r == 0;
	return -r;
}

void pin_work_stop(struct fs *fs)
{
	if (!fs->golden_runs)
		return;
	pthread_mutex_lock(&fs->golden_lock);
	atomic_store(&fs->golden_stopping, true);
	pthread_cond_signal(&fs->golden_work);
	pthread_mutex_unlock(&fs->golden_lock);
	pthread_join(fs->golden_thread, NULL);
	fs->golden_runs = false;
}
