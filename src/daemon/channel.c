/* SPDX-License-Identifier: MIT */
/* See channel.h. */
#include "daemon/channel.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/cleanup.h"

int channel_pair(int fds[2])
{
	return socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) < 0 ? -errno : 0;
}

int channel_send(int fd, const char *fmt, ...)
{
	CLEANUP_FREE char *text = NULL;
	va_list ap;
	int len;

	va_start(ap, fmt);
	len = vasprintf(&text, fmt, ap);
	va_end(ap);
	if (len < 0) {
		text = NULL;
		return -ENOMEM;
	}
	if (len >= CHANNEL_MAX)
		return -EMSGSIZE;
	return send(fd, text, (size_t)len, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? -errno : 0;
}

ssize_t channel_receive(int fd, char text[CHANNEL_MAX])
{
	ssize_t n;

	do
		n = recv(fd, text, CHANNEL_MAX - 1, MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return errno == ECONNRESET ? 0 : -errno;
	text[n] = '\0';
	return n;
}

const char *channel_argument(const char *text, const char *word)
{
	size_t len = strlen(word);

	if (strncmp(text, word, len) != 0 || (text[len] && text[len] != ' '))
		return NULL;
	return text + len + (text[len] == ' ');
}
