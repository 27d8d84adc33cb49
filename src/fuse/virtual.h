/* SPDX-License-Identifier: MIT */
/*
 * Open files of the virtual tree .goldfs.
 *
 * What such a file holds is made by the service. Opening one takes a picture of its text, which
 * lives until the file is closed. The control file is different: each write is a whole request,
 * and reads on the same descriptor return the reply, from its start, wherever the file position
 * stands (it moved with the write), until it is used up.
 *
 * A request is carried out for who opened the descriptor, and only he may write it: a set-user-ID
 * program that is started with the control file as its stderr, and says there what its caller chose,
 * has no more rights than that caller.
 *
 * Handles are numbers with a generation drawn when the process starts: one that an earlier process
 * gave out is not mistaken for one of ours, it is -ESTALE.
 */
#ifndef GOLDFS_FUSE_VIRTUAL_H
#define GOLDFS_FUSE_VIRTUAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "core/fs.h"

struct service;
struct service_caller;
struct virtual_files;

static inline bool virtual_has(uint64_t ino)
{
	return ino >= FS_INO_VIRTUAL && ino < FS_INO_FIRST;
}

int virtual_files_new(struct virtual_files **files);
void virtual_files_free(struct virtual_files *files);

/* -EACCES: open for writing what is not the control file. -EMFILE, -ENOBUFS: this user keeps too
 * many files open, or too much text in them; -ENOBUFS from a write, too. *handle is for the calls below. */
int virtual_open(struct virtual_files *files, struct service *service,
	const struct service_caller *opener, uint64_t ino, int flags, uint64_t *handle);
void virtual_close(struct virtual_files *files, uint64_t handle);
/* Returns bytes copied to buf. */
ssize_t virtual_read(struct virtual_files *files, uint64_t handle, void *buf, size_t len,
	uint64_t off);
/* Carries out a request; returns len. -EBADF: not the control file. -EPERM: another user opened it. */
ssize_t virtual_write(struct virtual_files *files, struct service *service, uint64_t handle,
	const struct service_caller *caller, const void *buf, size_t len);

#endif
