/* SPDX-License-Identifier: MIT */
/*
 * What the kernel holds of a file, seen to from the side of the command.
 *
 * A thread of the daemon that waited for pages of a file could wait for itself, or could not die
 * (fuse/notify.h); a process like this one can. Files that may not be opened are passed over.
 */
#ifndef GOLDFS_CLI_PAGES_H
#define GOLDFS_CLI_PAGES_H

#include <jansson.h>

/* Hands to the daemon what was written through mmap(2) and is still in pages. Returns an exit status. */
int pages_write_back(const char *path);
/* After the content was replaced: pages that anybody has of it go, as the daemon tells the kernel so
 * when the file is opened. */
void pages_drop(const char *path);
/* Looks a name up, below the mount: the kernel forgets what it stood for when somebody does, and only then is the
 * space of what nobody else has free. */
void pages_look(const char *mountpoint, const char *name);
/* Has the kernel find out that names are gone or mean other files, as a reply tells. NULL is allowed. */
void pages_forget(const char *mountpoint, const json_t *reply);

#endif
