/* SPDX-License-Identifier: MIT */
/*
 * What supervisor and worker say to each other, over a socket pair that keeps messages apart.
 *
 * A message is text: a word, and what belongs to it after a space. Both sides may be of different
 * versions of the program, so a word that one of them does not know is noted and left alone.
 *
 *	worker to supervisor	"serving VERSION"	the mount answers
 *				"failed TEXT"		it will not; TEXT is for the administrator
 *				"upgrade TICKET\nBINARY\nOWN"	goldfs upgrade was called
 *	supervisor to worker	"handover"		finish what is being served, and end
 *				"stop"			the mount is over: close the store and end
 *
 * Nobody waits for the other: what cannot be sent at once is not sent.
 */
#ifndef GOLDFS_DAEMON_CHANNEL_H
#define GOLDFS_DAEMON_CHANNEL_H

#include <stddef.h>
#include <sys/types.h>

#define CHANNEL_MAX 16384 /* bytes of a message, with the NUL that is put behind it */

/* 0 or -errno; both ends are closed on exec. */
int channel_pair(int fds[2]);
/* 0 or -errno; -EMSGSIZE: longer than CHANNEL_MAX. */
int channel_send(int fd, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* The length of the next message, 0: the other end is closed, -EAGAIN: nothing came. */
ssize_t channel_receive(int fd, char text[CHANNEL_MAX]);
/* What follows word in text, "" when nothing does; NULL when text says another word. */
const char *channel_argument(const char *text, const char *word);

#endif
