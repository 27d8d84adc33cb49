/* SPDX-License-Identifier: MIT */
/*
 * See virtual.h. Handles index a table of slots that grows and is never made smaller; there are as
 * many as files of .goldfs are open at once. A slot's pointer is protected by the table's lock; the
 * file behind it lives as long as the kernel has it open, which is longer than any request on it,
 * so a request uses it without that lock. What a control request changes in it has a lock of its
 * own, because two threads may share one descriptor.
 */
#include "fuse/virtual.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/cleanup.h"
#include "base/sizes.h"
#include "service/service.h"

struct virtual_file {
	uint64_t handle;
	bool control;
	uint32_t uid; /* who opened it */
	uint32_t gid;
	pthread_mutex_t lock; /* control: protects what follows */
	char *text;	      /* the picture, or the reply to the last request */
	size_t len;
	size_t pos; /* control: how much of the reply was read */
	size_t kept; /* the table's lock; bytes of text, for the bounds on what a user keeps */
};

struct virtual_files {
	pthread_mutex_t lock; /* protects slots, count, generation, and `kept` of all */
	struct virtual_file **slots;
	size_t count;
	uint64_t generation;
};

/* A handle is a generation and a slot, the slot in the low bits. */
#define SLOT_BITS 16
#define SLOT_MAX ((size_t)1 << SLOT_BITS)

/*
 * What one user other than root may keep: so many open files, and so much text in those that he
 * has open before he gets more. Texts are of megabytes where there are many clones, and nobody
 * makes him read or close them.
 */
#define USER_FILES_MAX 1024u
#define USER_KEPT_MAX (32 * MIB)

int virtual_files_new(struct virtual_files **files)
{
	struct virtual_files *f = calloc(1, sizeof(*f));

	if (!f)
		return -ENOMEM;
	pthread_mutex_init(&f->lock, NULL);
	if (getrandom(&f->generation, sizeof(f->generation), 0) != sizeof(f->generation)) {
		virtual_files_free(f);
		return -EIO;
	}
	*files = f;
	return 0;
}

static void file_free(struct virtual_file *file)
{
	if (!file)
		return;
	pthread_mutex_destroy(&file->lock);
	free(file->text);
	free(file);
}

void virtual_files_free(struct virtual_files *files)
{
	if (!files)
		return;
	for (size_t i = 0; i < files->count; i++)
		file_free(files->slots[i]);
	free(files->slots);
	pthread_mutex_destroy(&files->lock);
	free(files);
}

static struct virtual_file *find(struct virtual_files *files, uint64_t handle)
{
	size_t slot = handle % SLOT_MAX;

	MUTEX_GUARD(&files->lock);
	if (slot >= files->count || !files->slots[slot] || files->slots[slot]->handle != handle)
		return NULL;
	return files->slots[slot];
}

/* Finds a free slot, making more when there is none. Negative errno when there can be none. */
static int free_slot_locked(struct virtual_files *files)
{
	size_t old = files->count, more = old ? old * 2 : 16;
	struct virtual_file **slots;

	for (size_t i = 0; i < old; i++)
		if (!files->slots[i])
			return (int)i;
	if (more > SLOT_MAX)
		return -ENFILE;
	slots = reallocarray(files->slots, more, sizeof(*slots));
	if (!slots)
		return -ENOMEM;
	memset(slots + old, 0, (more - old) * sizeof(*slots));
	files->slots = slots;
	files->count = more;
	return (int)old;
}

/* 0, -EMFILE or -ENOBUFS. */
static int check_user_locked(const struct virtual_files *files, uint32_t uid, size_t files_max)
{
	size_t count = 0, kept = 0;

	if (uid == 0)
		return 0;
	for (size_t i = 0; i < files->count; i++) {
		if (files->slots[i] && files->slots[i]->uid == uid) {
			count++;
			kept += files->slots[i]->kept;
		}
	}
	return count >= files_max ? -EMFILE : kept > USER_KEPT_MAX ? -ENOBUFS : 0;
}

static int check_user(struct virtual_files *files, uint32_t uid, size_t files_max)
{
	MUTEX_GUARD(&files->lock);
	return check_user_locked(files, uid, files_max);
}

static void set_kept(struct virtual_files *files, struct virtual_file *file, size_t kept)
{
	MUTEX_GUARD(&files->lock);
	file->kept = kept;
}

static int insert(struct virtual_files *files, struct virtual_file *file, uint64_t *handle)
{
	int slot;

	MUTEX_GUARD(&files->lock);
	slot = check_user_locked(files, file->uid, USER_FILES_MAX);
	if (slot < 0)
		return slot;
	slot = free_slot_locked(files);
	if (slot < 0)
		return slot;
	files->generation++;
	file->handle = (files->generation << SLOT_BITS) | (uint64_t)slot;
	files->slots[slot] = file;
	*handle = file->handle;
	return 0;
}

int virtual_open(struct virtual_files *files, struct service *service,
	const struct service_caller *opener, uint64_t ino, int flags, uint64_t *handle)
{
	bool control = service_is_control(service, ino);
	struct virtual_file *file;
	int r = 0;

	if (!control && (flags & O_ACCMODE) != O_RDONLY)
		return -EACCES;
	file = calloc(1, sizeof(*file));
	if (!file)
		return -ENOMEM;
	pthread_mutex_init(&file->lock, NULL);
	file->control = control;
	file->uid = opener->uid;
	file->gid = opener->gid;
	r = check_user(files, opener->uid, USER_FILES_MAX);
	if (r == 0 && !control)
		r = service_read(service, opener, ino, &file->text, &file->len);
	file->kept = file->len;
	if (r == 0)
		r = insert(files, file, handle);
	if (r < 0) {
		file_free(file);
		return r;
	}
	return 0;
}

void virtual_close(struct virtual_files *files, uint64_t handle)
{
	struct virtual_file *file = find(files, handle);

	if (!file)
		return;
	pthread_mutex_lock(&files->lock);
	files->slots[handle % SLOT_MAX] = NULL;
	pthread_mutex_unlock(&files->lock);
	/* The last request on it was answered before; this tells it to tools that see no answers. */
	pthread_mutex_lock(&file->lock);
	pthread_mutex_unlock(&file->lock);
	file_free(file);
}

ssize_t virtual_read(struct virtual_files *files, uint64_t handle, void *buf, size_t len,
	uint64_t off)
{
	struct virtual_file *file = find(files, handle);

	if (!file)
		return -ESTALE;
	MUTEX_GUARD(&file->lock);
	if (file->control)
		off = file->pos;
	if (off >= file->len)
		return 0;
	if (len > file->len - off)
		len = file->len - off;
	memcpy(buf, file->text + off, len);
	if (!file->control)
		return (ssize_t)len;
	file->pos += len;
	if (file->pos == file->len) {
		free(file->text);
		file->text = NULL;
		file->len = file->pos = 0;
		set_kept(files, file, 0);
	}
	return (ssize_t)len;
}

ssize_t virtual_write(struct virtual_files *files, struct service *service, uint64_t handle,
	const struct service_caller *caller, const void *buf, size_t len)
{
	struct virtual_file *file = find(files, handle);
	char *reply = NULL;
	size_t reply_len = 0;
	int r;

	if (!file)
		return -ESTALE;
	if (!file->control)
		return -EBADF;
	if (caller->uid != file->uid || caller->gid != file->gid)
		return -EPERM;
	r = check_user(files, file->uid, SIZE_MAX);
	if (r < 0)
		return r;
	r = service_control(service, caller, buf, len, &reply, &reply_len);
	if (r < 0)
		return r;
	MUTEX_GUARD(&file->lock);
	free(file->text);
	file->text = reply;
	file->len = reply_len;
	file->pos = 0;
	set_kept(files, file, reply_len);
	return (ssize_t)len;
}
