/* SPDX-License-Identifier: MIT */
/*
 * The guard over linked pins: nobody writes to a golden image in place unnoticed.
 *
 * The tool is a read lease (F_SETLEASE) on each pin's inode. Whoever opens the file for writing by
 * any of its names, or truncates it, makes the kernel send us a signal, and sleeps until we give
 * the lease back or /proc/sys/fs/lease-break-time is over. In that time broken() copies the image
 * or fences its clones.
 *
 * States of an entry, and what moves it on:
 *
 *   LEASED    a lease stands                    broken by the kernel      -> looked at
 *   looked at a writer sleeps on the lease      broken(), lease given back -> gone
 *             nobody sleeps                     given back, taken again   -> LEASED
 *             nobody sleeps, one slipped in     lease refused             -> WATCHED
 *   WATCHED   no lease, but inotify             the writer went away      -> LEASED
 *                                               content changed, broken() -> gone
 *
 * "Nobody sleeps" is a non-blocking open, as touch(1) tries it: it broke the lease, was sent away
 * with EWOULDBLOCK, and must not cost anything. Only /proc/locks tells the two apart: a sleeper is
 * listed below the lease that it waits for. When that cannot be read, or does not list our lease,
 * we assume a writer. A broken lease cannot be mended, only given back and taken anew. Somebody
 * may slip in between, in a microsecond or two, and most likely that is the next touch: so before
 * the lease is given back, while everybody is still held off, the print is taken and a watch is
 * set, and these tell what the guest of that moment did. WATCHED is also the state for good where
 * the file system has no leases.
 *
 * Signals are directed at the guard's own thread (F_OWNER_TID), which blocks all of them and reads
 * them from a signalfd, so no other thread is disturbed. A signal only wakes the thread, which then
 * asks every lease for its state: so neither lost signals (a full queue turns them into SIGIO) nor
 * descriptor numbers that were used again matter. The kernel forgets signal and owner of a
 * descriptor whenever its lease goes, so they are set before each F_SETLEASE.
 *
 * The entries' descriptors are duplicates of the caller's: he may close his after
 * pin_guard_remove() although broken() still runs for it.
 *
 * The mutex protects the list and the entries, but not an entry marked busy against the guard's own
 * thread; broken() is called without it. A busy entry is freed by the guard alone.
 */
#include "image/pin.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/signalfd.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/sizes.h"
#include "image/pin_file.h"

#define GUARD_SIGNAL (SIGRTMIN + 8)
#define REFUSALS_LOGGED 16 /* non-blocking opens after which it is worth a line in the log */
#define TICK_MIN_MS 5
#define TICK_MAX_MS 1000
#define WATCH_MASK (IN_MODIFY | IN_ATTRIB | IN_CLOSE_WRITE)

struct entry {
	struct entry *next;
	uint64_t id;
	int fd;
	bool leased;
	bool busy;    /* the guard's thread is at it, without the mutex */
	bool removed; /* out of the list while busy */
	bool wants;   /* WATCHED only until the lease can be had */
	bool retry;   /* it is time to try */
	bool written; /* WATCHED: bytes were written for certain, */
	bool touched; /* or something happened that may have changed them */
	bool printed; /* print is valid */
	int wd;	      /* inotify watch, -1 for none */
	unsigned refused;
	struct pin_print print; /* what it was while nobody could write */
};

struct pin_guard {
	pthread_mutex_t lock;
	struct entry *entries; /* under lock */
	bool stop;	       /* under lock */
	pthread_t thread;
	pid_t tid; /* of the thread, set before pin_guard_new() returns */
	sem_t started;
	int signal_fd, wake_fd, inotify_fd;
	int tick_ms; /* the thread's: next try for leases that are wanted, -1 for none */
	void (*broken)(void *arg, uint64_t id);
	void *arg;
};

/* 0, or -errno of F_SETLEASE: -EAGAIN when there is a writer. */
static int take_lease(struct pin_guard *guard, int fd)
{
	struct f_owner_ex owner = {.type = F_OWNER_TID, .pid = guard->tid};

	if (fcntl(fd, F_SETSIG, GUARD_SIGNAL) < 0 || fcntl(fd, F_SETOWN_EX, &owner) < 0)
		return -errno;
	return fcntl(fd, F_SETLEASE, F_RDLCK) < 0 ? -errno : 0;
}

static void drop_lease(int fd)
{
	fcntl(fd, F_SETLEASE, F_UNLCK);
}

static bool lease_stands(int fd)
{
	return fcntl(fd, F_GETLEASE) == F_RDLCK;
}

enum lease_view {
	LEASE_GONE,  /* not listed: run out, or we cannot see it */
	LEASE_ALONE, /* listed, and nobody sleeps on it */
	LEASE_SLEPT_ON,
};

/*
 * Reads /proc/locks: "3: LEASE BREAKING UNLCK 812 fe:00:1234 0 EOF", and below it, when somebody
 * sleeps on it, "3: -> LEASE BREAKER ...". The device is not compared: btrfs shows another one than
 * stat(2), and a wrong inode can only make us too careful.
 */
static enum lease_view view_lease(int fd)
{
	enum lease_view view = LEASE_GONE;
	unsigned long long inode;
	CLEANUP_FREE char *line = NULL;
	bool ours = false;
	size_t room = 0;
	struct stat st;
	char word[16];
	FILE *locks;

	locks = fstat(fd, &st) < 0 ? NULL : fopen("/proc/locks", "re");
	while (locks && view != LEASE_SLEPT_ON && getline(&line, &room, locks) > 0) {
		if (sscanf(line, "%*s %15s", word) != 1)
			continue;
		if (strcmp(word, "->") == 0) {
			view = ours ? LEASE_SLEPT_ON : view;
			continue;
		}
		ours = strcmp(word, "LEASE") == 0 &&
		       sscanf(line, "%*s %*s %*s %*s %*s %*x:%*x:%llu", &inode) == 1 &&
		       inode == (unsigned long long)st.st_ino;
		view = ours ? LEASE_ALONE : view;
	}
	if (locks)
		fclose(locks);
	return view;
}

/* Prepares to do without the lease. Called before it is given back, or when there is none. */
static int watch(struct pin_guard *guard, struct entry *entry)
{
	char path[PIN_NAME_MAX];
	int rc = 0;

	if (entry->wd < 0) {
		snprintf(path, sizeof(path), "/proc/self/fd/%d", entry->fd);
		entry->wd = inotify_add_watch(guard->inotify_fd, path, WATCH_MASK);
		if (entry->wd < 0)
			rc = -errno;
	}
	if (rc == 0 && !entry->printed) {
		rc = pin_print_fd(entry->fd, &entry->print);
		entry->printed = rc == 0;
	}
	return rc;
}

static bool is_power_of_two(unsigned n)
{
	return (n & (n - 1)) == 0;
}

/* Deals with a broken lease; true when the entry is fine again. */
static bool mend(struct pin_guard *guard, struct entry *entry)
{
	int watched;

	if (view_lease(entry->fd) != LEASE_ALONE)
		return false;
	watched = watch(guard, entry);
	entry->written = entry->touched = false;
	drop_lease(entry->fd);
	if (++entry->refused >= REFUSALS_LOGGED && is_power_of_two(entry->refused))
		log_warning("somebody has tried %u times to open golden image pin %" PRIu64
			    " for writing: replace images by renaming a new file over them",
			entry->refused, entry->id);
	if (take_lease(guard, entry->fd) == 0)
		return true;
	entry->leased = false;
	entry->wants = true;
	guard->tick_ms = TICK_MIN_MS;
	return watched == 0;
}

/*
 * Whether the bytes of a WATCHED entry changed; a new mtime alone does not say so. IN_MODIFY counts
 * as a write although setting the mtime alone (touch -m) looks the same: missing one is worse.
 */
static bool content_changed(struct entry *entry)
{
	struct pin_print now;

	return entry->written || pin_print_fd(entry->fd, &now) < 0 ||
	       now.size != entry->print.size || now.sample != entry->print.sample;
}

/* Something happened to a WATCHED entry, or it is time to try; true when it is fine. */
static bool look_after(struct pin_guard *guard, struct entry *entry)
{
	bool touched = entry->touched;

	entry->touched = entry->retry = false;
	if (entry->wants && take_lease(guard, entry->fd) == 0) {
		entry->leased = true;
		entry->wants = false;
		touched = true;
	}
	return !entry->written && !(touched && content_changed(entry));
}

static bool needs_attention(const struct entry *entry)
{
	if (entry->leased)
		return !lease_stands(entry->fd);
	return entry->written || entry->touched || entry->retry;
}

/* Several entries may watch one inode, which then has one watch. */
static void drop_watch_locked(struct pin_guard *guard, const struct entry *entry)
{
	struct entry *other;

	if (entry->wd < 0)
		return;
	for (other = guard->entries; other; other = other->next)
		if (other != entry && other->wd == entry->wd)
			return;
	inotify_rm_watch(guard->inotify_fd, entry->wd);
}

static void unlink_locked(struct pin_guard *guard, struct entry *entry)
{
	struct entry **p = &guard->entries;

	while (*p && *p != entry)
		p = &(*p)->next;
	if (*p)
		*p = entry->next;
	drop_watch_locked(guard, entry);
}

/* Closing does not give a lease back while the caller's descriptor is open. */
static void free_entry(struct entry *entry)
{
	if (entry->leased)
		drop_lease(entry->fd);
	close(entry->fd);
	free(entry);
}

static struct entry *next_busy(struct pin_guard *guard)
{
	struct entry *entry;

	MUTEX_GUARD(&guard->lock);
	for (entry = guard->entries; entry && !needs_attention(entry); entry = entry->next)
		;
	if (entry)
		entry->busy = true;
	return entry;
}

static void finish(struct pin_guard *guard, struct entry *entry, bool keep)
{
	{
		MUTEX_GUARD(&guard->lock);
		entry->busy = false;
		if (keep && !entry->removed)
			return;
		if (!entry->removed)
			unlink_locked(guard, entry);
	}
	free_entry(entry);
}

static void attend(struct pin_guard *guard)
{
	struct entry *entry;
	bool fine;

	while ((entry = next_busy(guard))) {
		fine = entry->leased ? mend(guard, entry) : look_after(guard, entry);
		if (!fine)
			guard->broken(guard->arg, entry->id);
		finish(guard, entry, fine);
	}
}

static void note_event_locked(struct pin_guard *guard, const struct inotify_event *event)
{
	struct entry *entry;

	for (entry = guard->entries; entry; entry = entry->next) {
		if (event->wd != entry->wd && !(event->mask & IN_Q_OVERFLOW))
			continue;
		if (event->mask & IN_MODIFY)
			entry->written = true;
		else if (event->mask & (IN_ATTRIB | IN_CLOSE_WRITE | IN_Q_OVERFLOW))
			entry->touched = true;
	}
}

static void read_events(struct pin_guard *guard)
{
	char buf[4096] __attribute__((aligned(__alignof__(struct inotify_event))));
	ssize_t n, at;

	while ((n = read(guard->inotify_fd, buf, sizeof(buf))) > 0) {
		MUTEX_GUARD(&guard->lock);
		for (at = 0; at < n;) {
			const struct inotify_event *event = (const void *)(buf + at);

			note_event_locked(guard, event);
			at += (ssize_t)(sizeof(*event) + event->len);
		}
	}
}

/* Has every wanted lease tried for, less and less often. */
static void tick(struct pin_guard *guard)
{
	struct entry *entry;
	bool wanted = false;

	MUTEX_GUARD(&guard->lock);
	for (entry = guard->entries; entry; entry = entry->next)
		wanted |= entry->retry = entry->wants;
	guard->tick_ms = wanted ? (int)min_u64((unsigned)guard->tick_ms * 2, TICK_MAX_MS) : -1;
}

static void drain(int fd)
{
	char buf[1024];

	while (read(fd, buf, sizeof(buf)) > 0)
		;
}

static bool stopping(struct pin_guard *guard)
{
	MUTEX_GUARD(&guard->lock);
	return guard->stop;
}

static void *guard_main(void *arg)
{
	struct pin_guard *guard = arg;
	struct pollfd fds[] = {
		{.fd = guard->signal_fd, .events = POLLIN},
		{.fd = guard->wake_fd, .events = POLLIN},
		{.fd = guard->inotify_fd, .events = POLLIN}, /* negative ones are passed over */
	};

	pthread_setname_np(pthread_self(), "goldfs-guard");
	guard->tid = gettid();
	sem_post(&guard->started);
	while (!stopping(guard)) {
		int events = poll(fds, ARRAY_SIZE(fds), guard->tick_ms);

		if (events < 0 && errno != EINTR)
			break;
		if (events == 0)
			tick(guard);
		drain(guard->signal_fd);
		drain(guard->wake_fd);
		if (guard->inotify_fd >= 0)
			read_events(guard);
		attend(guard);
	}
	return NULL;
}

/* Starts the thread with every signal blocked. */
static int start_thread(struct pin_guard *guard)
{
	sigset_t all, saved;
	int rc;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &saved);
	rc = pthread_create(&guard->thread, NULL, guard_main, guard);
	pthread_sigmask(SIG_SETMASK, &saved, NULL);
	if (rc)
		return -rc;
	while (sem_wait(&guard->started) < 0)
		;
	return 0;
}

static void release(struct pin_guard *guard)
{
	if (guard->signal_fd >= 0)
		close(guard->signal_fd);
	if (guard->wake_fd >= 0)
		close(guard->wake_fd);
	if (guard->inotify_fd >= 0)
		close(guard->inotify_fd);
	sem_destroy(&guard->started);
	pthread_mutex_destroy(&guard->lock);
	free(guard);
}

int pin_guard_new(struct pin_guard **result, void (*broken)(void *arg, uint64_t id), void *arg)
{
	struct pin_guard *guard = calloc(1, sizeof(*guard));
	sigset_t mask;
	int rc;

	if (!guard)
		return -ENOMEM;
	pthread_mutex_init(&guard->lock, NULL);
	sem_init(&guard->started, 0, 0);
	guard->broken = broken;
	guard->arg = arg;
	guard->tick_ms = -1;
	sigemptyset(&mask);
	sigaddset(&mask, GUARD_SIGNAL);
	sigaddset(&mask, SIGIO);
	guard->signal_fd = signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK);
	guard->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	guard->inotify_fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	rc = guard->signal_fd < 0 || guard->wake_fd < 0 ? -errno : start_thread(guard);
	if (rc < 0) {
		release(guard);
		return rc;
	}
	*result = guard;
	return 0;
}

static int protect_locked(struct pin_guard *guard, struct entry *entry)
{
	int rc = take_lease(guard, entry->fd);

	if (rc == 0) {
		entry->leased = true;
		return 0;
	}
	if (rc == -EAGAIN && pin_lease_tells_writers(entry->fd))
		return -EBUSY;
	rc = watch(guard, entry);
	if (rc < 0)
		log_warning("cannot watch golden image pin %" PRIu64 " for writers: %s", entry->id,
			strerrordesc_np(-rc));
	return 0;
}

static bool is_guarded_locked(struct pin_guard *guard, uint64_t id)
{
	struct entry *entry = guard->entries;

	while (entry && entry->id != id)
		entry = entry->next;
	return entry != NULL;
}

int pin_guard_add(struct pin_guard *guard, uint64_t id, int fd)
{
	struct entry *entry = calloc(1, sizeof(*entry));
	int rc;

	if (!entry)
		return -ENOMEM;
	entry->id = id;
	entry->wd = -1;
	entry->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	if (entry->fd < 0) {
		rc = -errno;
		free(entry);
		return rc;
	}
	/* Under the lock from lease to list: a break in between must find the entry. */
	MUTEX_GUARD(&guard->lock);
	rc = is_guarded_locked(guard, id) ? -EEXIST : protect_locked(guard, entry);
	if (rc < 0) {
		close(entry->fd);
		free(entry);
		return rc;
	}
	entry->next = guard->entries;
	guard->entries = entry;
	return 0;
}

bool pin_guard_stands(struct pin_guard *guard, uint64_t id)
{
	struct entry *entry;

	MUTEX_GUARD(&guard->lock);
	for (entry = guard->entries; entry && entry->id != id; entry = entry->next)
		;
	return entry && entry->leased && !entry->busy && lease_stands(entry->fd);
}

void pin_guard_remove(struct pin_guard *guard, uint64_t id)
{
	struct entry *entry;

	{
		MUTEX_GUARD(&guard->lock);
		for (entry = guard->entries; entry && entry->id != id; entry = entry->next)
			;
		if (!entry)
			return;
		unlink_locked(guard, entry);
		entry->removed = true;
		if (entry->busy)
			return; /* finish() frees it */
	}
	free_entry(entry);
}

void pin_guard_free(struct pin_guard *guard)
{
	if (!guard)
		return;
	{
		MUTEX_GUARD(&guard->lock);
		guard->stop = true;
	}
	eventfd_write(guard->wake_fd, 1);
	pthread_join(guard->thread, NULL);
	while (guard->entries) {
		struct entry *entry = guard->entries;

		guard->entries = entry->next;
		free_entry(entry);
	}
	release(guard);
}

static struct entry *find_busy(struct pin_guard *guard, uint64_t id)
{
	struct entry *entry;

	MUTEX_GUARD(&guard->lock);
	for (entry = guard->entries; entry && !(entry->id == id && entry->busy);
		entry = entry->next)
		;
	return entry;
}

int pin_guard_copy(struct pin_guard *guard, int store_fd, uint64_t id, struct pin_print *print,
	int (*progress)(void *arg, uint64_t done, uint64_t total), void *arg)
{
	struct entry *entry = find_busy(guard, id);
	struct pin_print now;
	bool held;
	int rc;

	if (!entry)
		return -ENOENT;
	/* In this order: when it is still held after the print, the print is of unchanged bytes. */
	rc = pin_print_fd(entry->fd, &now);
	held = entry->leased && view_lease(entry->fd) != LEASE_GONE;
	if (rc < 0)
		return rc;
	if (now.size != print->size || now.sample != print->sample ||
		(!held && now.mtime_ns != print->mtime_ns))
		return -ESTALE;
	rc = pin_copy_same(store_fd, id, entry->fd, &now, progress, arg);
	if (rc == 0)
		*print = now;
	return rc;
}

unsigned pin_guard_seconds(void)
{
	FILE *file = fopen("/proc/sys/fs/lease-break-time", "re");
	unsigned seconds = 45;

	if (file) {
		if (fscanf(file, "%u", &seconds) != 1)
			seconds = 45;
		fclose(file);
	}
	if (seconds == 0) /* no limit */
		return 40;
	return seconds <= 5 ? 1 : (unsigned)min_u64(seconds - 5, 40);
}
