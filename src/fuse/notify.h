/* SPDX-License-Identifier: MIT */
/*
 * Telling the kernel that what it has cached is old.
 *
 * Such a notification waits in the kernel for pages that a request is being answered with, so it
 * must not be sent by a thread that serves one, nor under any lock that serving needs. A thread of
 * its own sends them; whoever wants one leaves the inode number and goes on. The same number
 * waiting twice is sent once.
 *
 * A process that is killed while one of its threads waits there does not die before the request is
 * answered, and as its successor is started only when it is dead, nobody would answer. So this is
 * for files that nobody is reading or writing at that moment: whoever changes content behind the
 * kernel first sees to it that no request on the file is in flight (nothing does it yet; a takeover
 * that did it for all open files ended just so).
 */
#ifndef GOLDFS_FUSE_NOTIFY_H
#define GOLDFS_FUSE_NOTIFY_H

#include <stdint.h>

struct fuse_session;
struct notifier;

int notifier_new(struct notifier **notifier);
/* From here on notifications go to the session; those that waited are dropped: a connection that
 * is just made has nothing cached. */
int notifier_start(struct notifier *notifier, struct fuse_session *session);
void notifier_invalidate(struct notifier *notifier, uint64_t ino);
/* Ends the thread; what waits is not sent. */
void notifier_stop(struct notifier *notifier);
void notifier_free(struct notifier *notifier);

#endif
