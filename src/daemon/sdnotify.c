/* SPDX-License-Identifier: MIT */
/* See sdnotify.h. For one thread. */
#include "daemon/sdnotify.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/cleanup.h"

static struct sockaddr_un address;
static socklen_t address_len; /* 0: nobody listens */

void sdnotify_init(void)
{
	const char *name = getenv("NOTIFY_SOCKET");
	size_t len = name ? strlen(name) : 0;

	if (len > 1 && len < sizeof(address.sun_path) && (name[0] == '/' || name[0] == '@')) {
		address.sun_family = AF_UNIX;
		memcpy(address.sun_path, name, len);
		if (name[0] == '@')
			address.sun_path[0] = '\0';
		address_len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len);
	}
	unsetenv("NOTIFY_SOCKET");
}

void sdnotify(const char *fmt, ...)
{
	const struct timeval patience = {.tv_sec = 1};
	CLEANUP_CLOSE int fd = -1;
	char text[1024];
	va_list ap;
	int len;

	if (!address_len)
		return;
	va_start(ap, fmt);
	len = vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || len < 0 || (size_t)len >= sizeof(text))
		return;
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
	if (sendto(fd, text, (size_t)len, MSG_NOSIGNAL,
		    (const struct sockaddr *)&address, address_len) < 0)
		return; /* whoever wanted to know is gone */
}
