/* SPDX-License-Identifier: MIT */
/*
 * Work on pins that reads whole images: copying one whose pin cannot be a link, and computing the
 * sums by which a linked one is told from a changed one later (image/pin.h), and by which damage is
 * found in all of them; and the index that finds their blocks by content (golden_index.c).
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
#include "store/content_index.h"

#define NOTE_SECONDS 2
#define INDEX_BYTES 32 /* per block of data: the index, and its temporary file */

/* A piece of work on one image. */
struct work {
	enum pin_process_work what;
	struct golden *golden; /* held: its files are not removed before what the work makes has a name */
	int fd; /* of the image, owned */
	struct pin_print print;
};

/* Whether nobody wants it any more but who works on it. It goes when he has ended. */
static bool is_idle(struct fs *fs, const struct golden *g)
{
	bool idle;

	pthread_rwlock_rdlock(&fs->tree);
	idle = tree_golden_is_idle(g, 1);
	pthread_rwlock_unlock(&fs->tree);
	return idle;
}

/* Whether somebody asked for the end of what is done now. */
static bool was_cancelled(struct fs *fs)
{
	MUTEX_GUARD(&fs->golden_lock);
	return fs->background.running && fs->background.cancelled;
}

/* Whether what is done now is wanted no more: the daemon ends, nobody stands on the image, or somebody has
 * cancelled it. */
static int is_cancelled(void *arg)
{
	struct fs *fs = arg;

	return atomic_load(&fs->golden_stopping) || was_cancelled(fs) || is_idle(fs, fs->golden_worked);
}

/* Waits for the process, or ends it when its result is not wanted: -ECANCELED. 0, or its -errno; -EIO when
 * something else ended it. */
static int await_process(struct fs *fs, pid_t pid)
{
	struct timespec pause = {.tv_nsec = 50000000};
	bool ended = false;
	int status;
	pid_t r;

	while ((r = waitpid(pid, &status, WNOHANG)) == 0 || (r < 0 && errno == EINTR)) {
		if (!ended && is_cancelled(fs))
			ended = kill(pid, SIGKILL) == 0;
		nanosleep(&pause, NULL);
	}
	if (r < 0)
		return -errno;
	if (WIFEXITED(status))
		return -WEXITSTATUS(status);
	if (!ended)
		log_error(0, "the process that reads golden image \"%s\" was killed by signal %d",
			fs->golden_worked->path, WTERMSIG(status));
	return ended ? -ECANCELED : -EIO;
}

static int work_on(struct fs *fs, const struct work *work)
{
	const struct pin_process process = {
		.work = work->what,
		.store_fd = fs->options.store_fd,
		.id = work->golden->id,
		.source_fd = work->fd,
		.secret = fs->super.secret,
		.print = &work->print,
		.hash_bits = fs->options.hash_bits,
		.progress = fs->golden_progress,
	};
	pid_t pid = pin_process_start(&process);

	return pid > 0 ? await_process(fs, pid) : pin_process_run(&process, is_cancelled, fs);
}

/* Describes work on g, which is held and needs its bytes. */
static bool take_work(struct golden *g, enum pin_process_work what, struct work *work)
{
	if (golden_acquire(g))
		return false;
	*work = (struct work){.what = what, .golden = g, .print = g->print,
		.fd = fcntl(image_raw_fd(g->backing), F_DUPFD_CLOEXEC, 0)};
	pthread_rwlock_unlock(&g->lock);
	return work->fd >= 0;
}

/* The first image that may need a copy or sums, held; each once. Only a linked one can be changed by others,
 * but all of them can be damaged. */
static struct golden *hold_unworked(struct fs *fs)
{
	struct golden *g, *next;
	uint64_t id = 0;

	pthread_rwlock_rdlock(&fs->tree);
	HASH_ITER (hh, fs->goldens, g, next) {
		if (id || g->failed || g->worked || g->pin == GF_PIN_FENCED || tree_golden_is_idle(g, 0))
			continue;
		g->worked = true;
		if (g->pin == GF_PIN_COPYING || pin_sums_exist(fs->options.store_fd, g->id) != 0)
			id = g->id;
	}
	pthread_rwlock_unlock(&fs->tree);
	return id ? golden_hold(fs, id) : NULL;
}

static bool next_work(struct fs *fs, struct work *work)
{
	struct golden *g;

	/* One that goes between the look and the hold leaves the others for the next time. */
	while ((g = hold_unworked(fs))) {
		if (take_work(g, g->pin == GF_PIN_COPYING ? PIN_PROCESS_COPY : PIN_PROCESS_SUMS, work))
			return true;
		golden_hold_end(fs, g);
	}
	return false;
}

static void finish_copy(struct fs *fs, struct golden *g, int result)
{
	if (!result) {
		golden_switch_to_copy(fs, g);
		pin_guard_remove(fs->guard, g->id);
		g->worked = false; /* the copy has no sums yet */
	} else if (result == -ESTALE) {
		golden_fence(fs, g, result);
	} else if (result != -ECANCELED) {
		log_error(result, "golden image \"%s\" cannot be copied into the store; do not "
				  "remove or change it while it has clones", g->path);
	}
}

/* ---- content indexes ---- */

/* The first image whose index is due, held; looked: it was looked for before. */
static struct golden *hold_due(struct fs *fs, bool looked)
{
	struct golden *g, *next;
	uint64_t id = 0;

	pthread_rwlock_rdlock(&fs->tree);
	HASH_ITER (hh, fs->goldens, g, next)
		if (!id && g->index_looked == looked && golden_index_is_due(fs, g) &&
			!tree_golden_is_idle(g, 0))
			id = g->id;
	pthread_rwlock_unlock(&fs->tree);
	return id ? golden_hold(fs, id) : NULL;
}

/* Opens the indexes that there are: that takes moments, and comes before what takes minutes. */
static void open_indexes(struct fs *fs)
{
	struct golden *g;

	while (!atomic_load(&fs->golden_stopping) && (g = hold_due(fs, false))) {
		int r = golden_index_open(fs, g);

		/* In this order: who waits for the index takes one that was looked for and is not missing for there. */
		atomic_store(&g->index_missing, r != 0);
		atomic_store(&g->index_looked, true);
		if (r == -EUCLEAN)
			log_info("the content index of golden image \"%s\" is damaged or of "
				 "something else, and is made anew", g->path);
		golden_hold_end(fs, g);
	}
}

/* Whether there is room below for an index and what it takes to make one. */
static bool has_room(struct fs *fs, int fd)
{
	uint64_t total, left;
	struct stat st;

	if (space_is_tight(fs) || fstat(fd, &st) || space_look(fs, &total, &left))
		return false;
	return left / 2 > (uint64_t)st.st_blocks * 512 / GF_BLOCK_SIZE * INDEX_BYTES;
}

/* One image that has no index, or a damaged one. */
static bool next_index(struct fs *fs, struct work *work)
{
	struct golden *g = hold_due(fs, true);
	bool found = false;

	if (!g)
		return false;
	g->index_tries++;
	if (take_work(g, PIN_PROCESS_INDEX, work)) {
		found = has_room(fs, work->fd);
		if (!found) {
			close(work->fd);
			log_warning("there is no room for the content index of golden image "
				    "\"%s\"", g->path);
		}
	}
	if (found)
		return true;
	/* Of no use in this life. */
	g->index_tries = UINT32_MAX;
	golden_hold_end(fs, g);
	return false;
}

static void finish_index(struct fs *fs, struct golden *g, int result)
{
	if (result)
		content_index_drop_unfinished(fs->io, g->id);
	else
		result = golden_index_open(fs, g);
	g->index_missing = result != 0;
	/* By nobody who asked for it: that try does not count, for somebody may stand on it again before it goes. */
	if (result == -ECANCELED && !was_cancelled(fs))
		g->index_tries--;
	else if (result)
		g->index_tries = UINT32_MAX;
	if (result && result != -ECANCELED)
		log_error(result, "golden image \"%s\" cannot be indexed by content; what equals it "
				  "is stored once more", g->path);
}

/* ---- what others see of it ---- */

static void begin_background(struct fs *fs, const struct golden *g)
{
	char *path;

	if (asprintf(&path, "golden/%s", g->path) < 0)
		path = NULL;
	if (fs->golden_progress) {
		atomic_store(&fs->golden_progress->done, 0);
		atomic_store(&fs->golden_progress->total, 0);
	}
	MUTEX_GUARD(&fs->golden_lock);
	free(fs->background.path);
	fs->background.path = path;
	fs->background.serial++;
	fs->background.running = true;
	fs->background.cancelled = false;
	fs->background.result = 0;
}

static void end_background(struct fs *fs, int result)
{
	MUTEX_GUARD(&fs->golden_lock);
	fs->background.running = false;
	fs->background.result = result;
}

int fs_background(struct fs *fs, struct fs_background *work)
{
	MUTEX_GUARD(&fs->golden_lock);
	*work = (struct fs_background){
		.serial = fs->background.serial,
		.kind = "index",
		.running = fs->background.running,
		.result = fs->background.result,
	};
	if (!work->serial)
		return -ENOENT;
	if (fs->golden_progress) {
		work->done_bytes = atomic_load(&fs->golden_progress->done);
		work->total_bytes = atomic_load(&fs->golden_progress->total);
	}
	work->path = strdup(fs->background.path ? fs->background.path : "");
	return work->path ? 0 : -ENOMEM;
}

void fs_background_cancel(struct fs *fs, uint64_t serial)
{
	MUTEX_GUARD(&fs->golden_lock);
	if (fs->background.serial == serial)
		fs->background.cancelled = true;
}

/* ---- times of change ---- */

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

static void carry_out(struct fs *fs, const struct work *work)
{
	struct golden *g = work->golden;
	int r;

	fs->golden_worked = g;
	if (work->what == PIN_PROCESS_INDEX)
		begin_background(fs, g);
	r = work_on(fs, work);
	close(work->fd);
	if (work->what == PIN_PROCESS_COPY)
		finish_copy(fs, g, r);
	else if (work->what == PIN_PROCESS_INDEX)
		finish_index(fs, g, r);
	else if (!r)
		golden_sums_made(g);
	/* Somebody may stand on it again before it goes. */
	if (r == -ECANCELED && work->what != PIN_PROCESS_INDEX)
		g->worked = false;
	if (work->what == PIN_PROCESS_INDEX)
		end_background(fs, r);
	fs->golden_worked = NULL;
	golden_hold_end(fs, g);
}

static void work_until_done(struct fs *fs)
{
	struct work work;

	open_indexes(fs);
	/* What keeps images what they are comes first, also what came up meanwhile. */
	while (!atomic_load(&fs->golden_stopping) && (next_work(fs, &work) || next_index(fs, &work))) {
		carry_out(fs, &work);
		open_indexes(fs);
	}
}

static void *work_main(void *arg)
{
	struct fs *fs = arg;

	pthread_mutex_lock(&fs->golden_lock);
	while (!atomic_load(&fs->golden_stopping)) {
		pthread_mutex_unlock(&fs->golden_lock);
		note_seen(fs);
		work_until_done(fs);
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
	int r;

	fs->golden_progress = pin_progress_new();
	r = pthread_create(&fs->golden_thread, NULL, work_main, fs);
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
	pin_progress_free(steal_pointer(&fs->golden_progress));
	free(steal_pointer(&fs->background.path));
}
