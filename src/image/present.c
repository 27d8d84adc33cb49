/* SPDX-License-Identifier: MIT */
/* See the header. */
#include "image/present.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define IS_PRESENT (UINT64_C(1) << 3)

struct region {
	uint64_t start, end, categories;
};

static int pagemap = -1; /* of this process, as long as it lives */

void present_prepare(void)
{
	if (pagemap < 0)
		pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
}

enum present present_ask(const void *start, size_t len)
{
	struct region missing;
	struct present_scan scan = {
		.size = sizeof(scan),
		.start = (uintptr_t)start,
		.end = (uintptr_t)start + len,
		.vec = (uintptr_t)&missing,
		.vec_len = 1,
		.max_pages = 1,
		.category_inverted = IS_PRESENT,
		.category_mask = IS_PRESENT,
		.return_mask = IS_PRESENT,
	};
	int found = pagemap < 0 ? -1 : ioctl(pagemap, PRESENT_SCAN, &scan);

	return found < 0 ? PRESENT_UNKNOWN : found ? PRESENT_NOT_ALL : PRESENT_ALL;
}
