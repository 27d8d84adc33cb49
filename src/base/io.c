/* SPDX-License-Identifier: MIT */
/* What every I/O table gets for free, built from its own functions. */
#include "base/io.h"

#include <string.h>

int io_pread_full(struct io *io, int fd, void *buf, size_t len, uint64_t off)
{
	ssize_t n = io->ops->pread(io, fd, buf, len, off);

	if (n < 0)
		return (int)n;
	memset((char *)buf + n, 0, len - (size_t)n);
	return 0;
}
