/* SPDX-License-Identifier: MIT */
/*
 * Scope-bound cleanup of descriptors, memory and locks.
 *
 * A variable marked CLEANUP_x is released when it leaves its scope; a function that hands the
 * resource to its caller says so with steal_fd() or steal_pointer(), which empty the variable.
 */
#ifndef GOLDFS_BASE_CLEANUP_H
#define GOLDFS_BASE_CLEANUP_H

#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

static inline void cleanup_free_p(void *p)
{
	free(*(void **)p);
}

static inline void cleanup_close_p(int *fd)
{
	if (*fd >= 0)
		close(*fd);
}

static inline void cleanup_unlock_p(pthread_mutex_t **m)
{
	if (*m)
		pthread_mutex_unlock(*m);
}

static inline pthread_mutex_t *mutex_locked(pthread_mutex_t *m)
{
	pthread_mutex_lock(m);
	return m;
}

#define CLEANUP_FREE __attribute__((cleanup(cleanup_free_p)))
#define CLEANUP_CLOSE __attribute__((cleanup(cleanup_close_p)))
#define CLEANUP_UNLOCK __attribute__((cleanup(cleanup_unlock_p), unused))

#define GUARD_JOIN2(a, b) a##b
#define GUARD_JOIN(a, b) GUARD_JOIN2(a, b)
/* Holds mutex m until the end of the enclosing scope. */
#define MUTEX_GUARD(m) \
	CLEANUP_UNLOCK pthread_mutex_t *GUARD_JOIN(guard_, __LINE__) = mutex_locked(m)

static inline int steal_fd(int *fd)
{
	int v = *fd;

	*fd = -1;
	return v;
}

#define steal_pointer(pp) \
	({ \
		__typeof__(*(pp)) stolen_ = *(pp); \
		*(pp) = NULL; \
		stolen_; \
	})

#endif
