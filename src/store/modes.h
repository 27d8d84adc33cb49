/* SPDX-License-Identifier: MIT */
/*
 * Who may look into a store: its owner and nobody else. Files are 0600 in folders of 0700, whatever
 * the umask; a pin that is a hard link keeps the mode of its image, so the folder around it counts.
 */
#ifndef GOLDFS_STORE_MODES_H
#define GOLDFS_STORE_MODES_H

#include <stdbool.h>

/*
 * Closes what stands open in an existing store, as far as it is ours, with a line in the log; warns
 * of what is not ours. path is for messages.
 */
void store_modes_tighten(int store_fd, const char *path);
/* Whether a folder of the store belongs to another user than us, or keeps us out by its mode. */
bool store_modes_are_foreign(int store_fd);

#endif
