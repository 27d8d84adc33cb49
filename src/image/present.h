/* SPDX-License-Identifier: MIT */
/*
 * Whether pages of a mapping are in our page tables, so that the kernel can take them without a fault.
 * Linux 6.7 and newer say so in two microseconds for a mebibyte; reading /proc/self/pagemap takes 40.
 */
#ifndef GOLDFS_IMAGE_PRESENT_H
#define GOLDFS_IMAGE_PRESENT_H

#include <linux/ioctl.h>
#include <stddef.h>
#include <stdint.h>

/* PAGEMAP_SCAN and what goes with it, which older headers do not have. */
struct present_scan {
	uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
	uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};
#define PRESENT_SCAN _IOWR('f', 16, struct present_scan)

/* Once in a process, where /proc can be opened and nothing is privileged any more: who opens it with
 * privileges may learn physical addresses. Without it, or on older kernels, nobody knows. */
void present_prepare(void);
/* Of whole pages, start on the border of one. */
enum present { PRESENT_ALL, PRESENT_NOT_ALL, PRESENT_UNKNOWN };
enum present present_ask(const void *start, size_t len);

#endif
