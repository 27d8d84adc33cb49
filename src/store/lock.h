/* SPDX-License-Identifier: MIT */
/*
 * The right to use a store: an exclusive flock(2) on its file `lock`, held for as long as any
 * process of the mount lives, the supervisor's included. The kernel gives it up with the last
 * descriptor, so a killed daemon never leaves a locked store.
 *
 * The file's text names the holder for messages, "PID" and when it is about to go "PID closing".
 * It proves nothing: only the flock counts. A store that cannot be written is locked shared, for
 * any number of read-only mounts may use it.
 */
#ifndef GOLDFS_STORE_LOCK_H
#define GOLDFS_STORE_LOCK_H

#include <stdbool.h>
#include <sys/types.h>

/*
 * Takes the lock of the store behind store_dirfd. While its holder is closing, waits up to
 * wait_seconds; for one that is not, only long enough to see that. Returns a descriptor that holds
 * the lock, or a negative errno; -EBUSY sets *holder (0: not known).
 */
int store_lock(int store_dirfd, int wait_seconds, pid_t *holder);
/*
 * The same for somebody who only reads and must not write anything, the lock's text included:
 * keeps mounts that write away, and lets others read. -ENOENT: there is no lock file, so nobody
 * ever used the store.
 */
int store_lock_shared(int store_dirfd, int wait_seconds, pid_t *holder);
/* Says that the lock is about to be given up, so that a next mount waits. Any process that has the
 * descriptor may; who is named as the holder stays. */
void store_lock_closing(int lock_fd);
/* Whether the lock is held by somebody now, and by whom. lock_fd is open for reading; it does not
 * hold the lock itself and is not left holding it. */
bool store_lock_is_held(int lock_fd, pid_t *holder);

#endif
