/* SPDX-License-Identifier: MIT */
/*
 * What the kernel holds of a file, seen to from the side of the command.
 *
 * A thread of the daemon that waited for pages of a file could wait for itself, or could not die
 * (fuse/notify.h); a process like this one can. Files that may not be opened are passed over.
 */
#ifndef GOLDFS_CLI_PAGES_H
#define GOLDFS_CLI_PAGES_H

/* Hands to the daemon what was written through mmap(2) and is still in pages. Returns an exit status. */
int pages_write_back(const char *path);
/* After the content was replaced: pages that anybody has of it go, as the daemon tells the kernel so
 * when the file is opened. */
void pages_drop(const char *path);

#endif
