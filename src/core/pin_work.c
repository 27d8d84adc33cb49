/* SPDX-License-Identifier: MIT */
/*
 * Work on pins that reads whole images: copying one whose pin cannot be a link, and computing the
 * sums by which a linked one is told from a changed one later (image/pin.h).
 *
 * A process of its own does it, at idle priority: gigabytes that are read once should neither fill
 * the daemon's turn with work nor show up as what the daemon did for its clients. It is this same
 * program, started with two descriptors, and ends with the daemon. Where it cannot be started the
 * thread does the work itself.
 */
#include "core/fs_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "core/pin_process.h"

extern char **environ;

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

/* Starts this program for one piece of work; the descriptors are handed on by number. */
static int start_process(struct fs *fs, const char *what, uint64_t id, int fd, pid_t *pid)
{
	CLEANUP_CLOSE int store = fcntl(fs->options.store_fd, F_DUPFD, 64);
	CLEANUP_CLOSE int source = fcntl(fd, F_DUPFD, 64);
	char id_text[24], store_text[12], source_text[12];
	char *argv[] = {(char *)"goldfs", (char *)PIN_PROCESS_VERB, (char *)what, id_text,
		store_text, source_text, NULL};
	posix_spawnattr_t attr;
	sigset_t none;
	int r;

	if (store < 0 || source < 0)
		return -errno;
	snprintf(id_text, sizeof(id_text), "%" PRIu64, id);
	snprintf(store_text, sizeof(store_text), "%d", store);
	snprintf(source_text, sizeof(source_text), "%d", source);
	sigemptyset(&none);
	posix_spawnattr_init(&attr);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK);
	posix_spawnattr_setsigmask(&attr, &none);
	r = posix_spawn(pid, "/proc/self/exe", NULL, &attr, argv, environ);
	posix_spawnattr_destroy(&attr);
	return -r;
}

static int work_on(struct fs *fs, enum gf_pin_kind kind, uint64_t id, int fd)
{
	const char *what = kind == GF_PIN_COPYING ? PIN_PROCESS_COPY : PIN_PROCESS_SUMS;
	pid_t pid;

	if (start_process(fs, what, id, fd, &pid) == 0)
		return await_process(fs, pid);
	return kind == GF_PIN_COPYING ?
		pin_copy(fs->options.store_fd, id, fd, keep_going, fs) :
		pin_sums_make(fs->options.store_fd, id, fd, keep_going, fs);
}

/* One image that needs work: a copy to be made, or a linked one without sums. */
static bool next_work(struct fs *fs, uint64_t *id, enum gf_pin_kind *kind, int *fd)
{
	struct golden *g, *next;
	bool found = false;

	pthread_rwlock_rdlock(&fs->tree);
	HASH_ITER (hh, fs->goldens, g, next) {
		if (found || g->failed || g->worked ||
			(g->pin != GF_PIN_COPYING && g->pin != GF_PIN_LINK))
			continue;
		g->worked = true;
		if (g->pin == GF_PIN_LINK && pin_sums_exist(fs->options.store_fd, g->id) == 0)
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
	} else if (result == -ESTALE) {
		golden_fence(fs, g, result);
	} else {
		log_error(result, "golden image \"%s\" cannot be copied into the store; do not "
				  "remove or change it while it has clones", g->path);
	}
	golden_hold_end(fs, g);
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
		while (!atomic_load(&fs->golden_stopping) && next_work(fs, &id, &kind, &fd)) {
			int r = work_on(fs, kind, id, fd);

			if (kind == GF_PIN_COPYING)
				finish_copy(fs, id, r);
			close(fd);
		}
		pthread_mutex_lock(&fs->golden_lock);
		if (!fs->golden_wanted && !atomic_load(&fs->golden_stopping))
			pthread_cond_wait(&fs->golden_work, &fs->golden_lock);
		fs->golden_wanted = false;
	}
	pthread_mutex_unlock(&fs->golden_lock);
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
