/* SPDX-License-Identifier: MIT */
#include "base/io_map.h"

#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "base/sizes.h"

#define PAGE 4096 /* what is counted; the machine's may be larger */
#define WINDOW_SIZE (16 * MIB) /* of checksums of 4 KiB blocks: a disk of 16 GiB */
#define WINDOW_PAGES (WINDOW_SIZE / PAGE)
#define WINDOWS 64
#define WORD sizeof(uint32_t)
#define OFTEN 4	  /* writes to a page since its sync, from which on another is likely */
#define PATIENCE 64 /* writes elsewhere, or behind the window's end, for which a window stays what it is */

struct window {
	pthread_rwlock_t lock;
	atomic_int fd; /* changed with the lock held exclusively, as all but the counters; -1: none */
	uint64_t place; /* of the file */
	uint64_t size;	/* bytes that the file has of it; 0: or it cannot be mapped */
	uint8_t *at;	/* NULL: not mapped */
	atomic_int misses;
	_Atomic uint8_t writes[WINDOW_PAGES]; /* since the last sync, up to OFTEN */
};

static struct window windows[WINDOWS];
static pthread_once_t once = PTHREAD_ONCE_INIT;
static struct sigaction previous;
static _Thread_local sigjmp_buf *landing; /* of who stores through a window */

/* Whatever else it is, is dealt with as without us: an access fails again, and what somebody sent is sent. */
static void on_sigbus(int signal, siginfo_t *info, void *context)
{
	bool sent = info->si_code <= 0;
	sigset_t this;

	if (landing && !sent) {
		/* A jump does not end the handler. */
		sigemptyset(&this);
		sigaddset(&this, SIGBUS);
		pthread_sigmask(SIG_UNBLOCK, &this, NULL);
		siglongjmp(*landing, 1);
	}
	sigaction(SIGBUS, &previous, NULL);
	if (sent)
		raise(SIGBUS);
}

/* With each window, as somebody else may have taken it. */
static void catch_sigbus(void)
{
	struct sigaction action = {.sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO}, old;

	if (sigaction(SIGBUS, &action, &old) == 0 && old.sa_sigaction != on_sigbus)
		previous = old;
}

static void init(void)
{
	for (int i = 0; i < WINDOWS; i++) {
		pthread_rwlock_init(&windows[i].lock, NULL);
		atomic_store(&windows[i].fd, -1);
	}
}

/* Descriptors are small numbers and close together: those in use meet in few windows. */
static struct window *window_of(int fd, uint64_t place)
{
	return &windows[((unsigned)fd + place / WINDOW_SIZE * 17) % WINDOWS];
}

/* Locked exclusively. */
static void unmap(struct window *w)
{
	if (w->at)
		munmap(w->at, WINDOW_SIZE);
	w->at = NULL;
	atomic_store(&w->fd, -1);
}

static void forget_writes(struct window *w)
{
	for (size_t i = 0; i < WINDOW_PAGES; i++)
		atomic_store_explicit(&w->writes[i], 0, memory_order_relaxed);
}

/* Locked exclusively. */
static void map(struct window *w, int fd, uint64_t place)
{
	struct stat st;
	void *at = MAP_FAILED;

	unmap(w);
	forget_writes(w);
	if (fstat(fd, &st) == 0 && (uint64_t)st.st_size > place)
		at = mmap(NULL, WINDOW_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)place);
	w->place = place;
	w->size = 0;
	if (at != MAP_FAILED) {
		madvise(at, WINDOW_SIZE, MADV_RANDOM); /* reading ahead is of no use */
		catch_sigbus();
		w->at = at;
		w->size = min_u64((uint64_t)st.st_size - place, WINDOW_SIZE);
	}
	atomic_store(&w->fd, fd);
}

/* Unless somebody else did so meanwhile, or stores there: he may wait for a disk. */
static void try_map(struct window *w, int fd, uint64_t place)
{
	if (pthread_rwlock_trywrlock(&w->lock))
		return;
	if (atomic_load(&w->fd) < 0 || atomic_load(&w->misses) > PATIENCE) {
		map(w, fd, place);
		atomic_store(&w->misses, 0);
	}
	pthread_rwlock_unlock(&w->lock);
}

/* Word by word: who reads one meanwhile finds the old or the new one. */
static bool store(uint8_t *at, const uint8_t *from, size_t len)
{
	volatile uint32_t *to = (void *)at;
	sigjmp_buf here;

	if (sigsetjmp(here, 0)) {
		landing = NULL;
		return false;
	}
	landing = &here;
	atomic_signal_fence(memory_order_seq_cst);
	for (size_t i = 0; i < len / WORD; i++) {
		uint32_t word;

		memcpy(&word, from + i * WORD, WORD);
		to[i] = word;
	}
	atomic_signal_fence(memory_order_seq_cst);
	landing = NULL;
	return true;
}

static bool is_written_often(struct window *w, size_t page)
{
	uint8_t n = atomic_load_explicit(&w->writes[page], memory_order_relaxed);

	if (n == OFTEN)
		return true;
	/* Lost when two count at a time: it is counted again. */
	atomic_store_explicit(&w->writes[page], n + 1, memory_order_relaxed);
	return false;
}

bool io_map_write(int fd, const void *buf, size_t len, uint64_t off)
{
	uint64_t place = round_down(off, WINDOW_SIZE), within = off - place;
	struct window *w = window_of(fd, place);
	bool fits, done = false;

	if (!len || (len | off) % WORD || within + len > WINDOW_SIZE)
		return false;
	pthread_once(&once, init);
	pthread_rwlock_rdlock(&w->lock);
	fits = atomic_load(&w->fd) == fd && w->place == place && within + len <= w->size;
	if (fits && is_written_often(w, (within + len - 1) / PAGE))
		done = store(w->at + within, buf, len);
	pthread_rwlock_unlock(&w->lock);
	if (fits)
		atomic_store_explicit(&w->misses, 0, memory_order_relaxed);
	else if (atomic_load(&w->fd) < 0 || atomic_fetch_add(&w->misses, 1) >= PATIENCE)
		try_map(w, fd, place);
	return done;
}

void io_map_synced(int fd)
{
	for (int i = 0; i < WINDOWS; i++)
		if (atomic_load(&windows[i].fd) == fd)
			forget_writes(&windows[i]);
}

void io_map_forget(int fd)
{
	pthread_once(&once, init);
	for (int i = 0; i < WINDOWS; i++) {
		struct window *w = &windows[i];

		if (atomic_load(&w->fd) != fd)
			continue;
		pthread_rwlock_wrlock(&w->lock);
		if (atomic_load(&w->fd) == fd)
			unmap(w);
		pthread_rwlock_unlock(&w->lock);
	}
}
