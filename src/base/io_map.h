/* SPDX-License-Identifier: MIT */
/*
 * Small writes to files through mappings of them.
 *
 * Four bytes in the page cache cost a system call, which takes a hundred times as long as storing them,
 * and writers of the same file wait for each other. Where the same pages are written again and again
 * before somebody syncs them, storing them through a mapping costs next to nothing; only the first store
 * to each page after a sync is a page fault, which costs several system calls. So a page is mapped for
 * who has written it a few times since.
 *
 * What is stored is in the page cache, like what pwrite(2) wrote: it survives the process, and fdatasync(2)
 * of any descriptor makes it durable. A page that the disk cannot give, or for which there is no space, is
 * SIGBUS: that is caught here, and the caller's pwrite(2) says what it was. A file that is written in this
 * way is not cut while somebody does.
 *
 * A few windows, each a part of a file, for the whole process. Any thread.
 */
#ifndef GOLDFS_BASE_IO_MAP_H
#define GOLDFS_BASE_IO_MAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Whole words of four bytes, aligned, within what the file has already. False: not this time, pwrite(2) is the way. */
bool io_map_write(int fd, const void *buf, size_t len, uint64_t off);
/* fd was synced: its pages are to be written anew. */
void io_map_synced(int fd);
/* Before fd is closed, or its file cut. */
void io_map_forget(int fd);

#endif
