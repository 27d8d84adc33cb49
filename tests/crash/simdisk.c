/* SPDX-License-Identifier: MIT */
#include "simdisk.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/hash.h"
#include "base/sizes.h"
#include "simdisk_internal.h"

void *sim_alloc(void *p, size_t size)
{
	p = realloc(p, size ? size : 1);
	if (!p)
		abort();
	return p;
}

static struct simdisk *disk_of(struct io *io)
{
	return (struct simdisk *)io;
}

/* ---- changes ---- */

static void changes_put(struct change *change)
{
	while (change && atomic_fetch_sub(&change->refs, 1) == 1) {
		struct change *prev = change->prev;

		free(change);
		change = prev;
	}
}

static void add_change(struct simdisk *disk, struct simfile *file, enum change_kind kind,
	const void *data, uint64_t off, uint64_t len)
{
	bool zeros = !data || (len % 8 == 0 && is_zero(data, len));
	struct change *change = sim_alloc(NULL, sizeof(*change) + (zeros ? 0 : len));

	*change = (struct change){.refs = 1, .kind = kind, .prev = file->changes,
		.seq = disk->next_seq++, .off = off, .len = len, .zeros = zeros};
	if (!zeros)
		memcpy(change->data, data, len);
	file->changes = change;
	change_apply(change, &file->cached, &file->size);
}

static void allocate_missing(struct pagemap *map, uint64_t off, uint64_t end)
{
	for (uint64_t at = round_down(off, PAGEMAP_PAGE); at < end; at += PAGEMAP_PAGE)
		if (pagemap_missing(map, at, PAGEMAP_PAGE))
			pagemap_write(map, NULL, PAGEMAP_PAGE, at);
}

void change_apply(const struct change *change, struct pagemap *map, uint64_t *size)
{
	switch (change->kind) {
	case CHANGE_WRITE:
		pagemap_write(map, change->zeros ? NULL : change->data, change->len, change->off);
		*size = max_u64(*size, change->off + change->len);
		break;
	case CHANGE_PUNCH:
		pagemap_clear(map, change->off, min_u64(change->off + change->len, PAGEMAP_MAX));
		break;
	case CHANGE_TRUNCATE:
		pagemap_clear(map, change->off, PAGEMAP_MAX);
		*size = change->off;
		break;
	case CHANGE_ALLOCATE:
		allocate_missing(map, change->off, change->off + change->len);
		*size = max_u64(*size, change->off + change->len);
		break;
	}
}

const struct change **changes_in_order(const struct simfile *file, size_t *count)
{
	const struct change **list, *c;
	size_t n = 0;

	for (c = file->changes; c; c = c->prev)
		n++;
	list = sim_alloc(NULL, n * sizeof(*list));
	*count = n;
	for (c = file->changes; c; c = c->prev)
		list[--n] = c;
	return list;
}

/* ---- files ---- */

struct simfile *simdisk_file(struct simdisk *disk, uint64_t id)
{
	for (size_t i = 0; i < disk->file_count; i++) {
		if (disk->files[i]->id == id)
			return disk->files[i];
	}
	return NULL;
}

struct simfile *simdisk_add_file(struct simdisk *disk, uint64_t id)
{
	struct simfile *file = sim_alloc(NULL, sizeof(*file));

	*file = (struct simfile){.id = id};
	if (disk->file_count == disk->file_room) {
		disk->file_room = disk->file_room * 2 + 16;
		disk->files = sim_alloc(disk->files, disk->file_room * sizeof(*disk->files));
	}
	disk->files[disk->file_count++] = file;
	return file;
}

static void file_free(struct simfile *file)
{
	pagemap_release(&file->cached);
	pagemap_release(&file->durable);
	changes_put(file->changes);
	free(file);
}

static bool names_refer(const struct simnames *names, uint64_t id)
{
	for (size_t i = 0; i < names->count; i++) {
		if (names->list[i].file == id)
			return true;
	}
	return false;
}

static bool file_is_used(struct simdisk *disk, const struct simfile *file)
{
	if (file->handles || names_refer(&disk->names, file->id) ||
		names_refer(&disk->durable, file->id))
		return true;
	for (size_t i = 0; i < disk->nameop_count; i++) {
		if (disk->nameops[i].file == file->id)
			return true;
	}
	return false;
}

void simdisk_collect(struct simdisk *disk)
{
	for (size_t i = 0; i < disk->file_count;) {
		if (file_is_used(disk, disk->files[i])) {
			i++;
			continue;
		}
		file_free(disk->files[i]);
		disk->files[i] = disk->files[--disk->file_count];
	}
}

static uint64_t used_bytes(struct simdisk *disk)
{
	uint64_t pages = 0;

	for (size_t i = 0; i < disk->file_count; i++)
		pages += pagemap_pages(&disk->files[i]->cached);
	return pages * PAGEMAP_PAGE;
}

/* Writes a changed file's content through, also after a failed sync lost some of it. */
static void file_sync(struct simfile *file)
{
	if (file->diverged) {
		const struct change **list;
		size_t count;

		list = changes_in_order(file, &count);
		for (size_t i = 0; i < count; i++)
			change_apply(list[i], &file->durable, &file->durable_size);
		free(list);
	} else {
		pagemap_release(&file->durable);
		pagemap_clone(&file->durable, &file->cached);
		file->durable_size = file->size;
	}
	changes_put(file->changes);
	file->changes = NULL;
}

static void file_fail_sync(struct simfile *file)
{
	file->diverged = true;
	changes_put(file->changes);
	file->changes = NULL;
}

/* ---- names ---- */

struct simname *names_find(struct simnames *names, const char *path)
{
	for (size_t i = 0; i < names->count; i++) {
		if (strcmp(names->list[i].path, path) == 0)
			return &names->list[i];
	}
	return NULL;
}

static void names_set(struct simnames *names, const char *path, uint64_t file)
{
	struct simname *name = names_find(names, path);

	if (!name) {
		if (names->count == names->room) {
			names->room = names->room * 2 + 16;
			names->list = sim_alloc(names->list, names->room * sizeof(*names->list));
		}
		name = &names->list[names->count++];
		snprintf(name->path, sizeof(name->path), "%s", path);
	}
	name->file = file;
}

static void names_drop(struct simnames *names, const char *path)
{
	struct simname *name = names_find(names, path);

	if (name)
		*name = names->list[--names->count];
}

void names_apply(struct simnames *names, const struct nameop *op)
{
	struct simname *old = names_find(names, op->path);

	switch (op->kind) {
	case NAME_CREATE:
		names_set(names, op->path, op->file);
		break;
	case NAME_UNLINK:
		/* another file may stand there when operations before this one were lost */
		if (old && old->file == op->file)
			names_drop(names, op->path);
		break;
	case NAME_RENAME:
		if (old && old->file == op->file)
			names_drop(names, op->path);
		names_set(names, op->to, op->file);
		break;
	}
}

void names_copy(struct simnames *dst, const struct simnames *src)
{
	dst->count = dst->room = src->count;
	dst->list = sim_alloc(NULL, src->count * sizeof(*dst->list));
	if (src->count)
		memcpy(dst->list, src->list, src->count * sizeof(*dst->list));
}

static void do_nameop(struct simdisk *disk, enum nameop_kind kind, const char *path, const char *to,
	uint64_t file)
{
	struct nameop *op;

	if (disk->nameop_count == disk->nameop_room) {
		disk->nameop_room = disk->nameop_room * 2 + 8;
		disk->nameops = sim_alloc(disk->nameops,
			disk->nameop_room * sizeof(*disk->nameops));
	}
	op = &disk->nameops[disk->nameop_count++];
	*op = (struct nameop){.kind = kind, .seq = disk->next_seq++, .file = file};
	snprintf(op->path, sizeof(op->path), "%s", path);
	snprintf(op->to, sizeof(op->to), "%s", to ? to : "");
	names_apply(&disk->names, op);
}

/* "" is the disk's own folder. */
static bool is_in_folder(const char *path, const char *folder)
{
	size_t len = strlen(folder);

	if (len) {
		if (strncmp(path, folder, len) != 0 || path[len] != '/')
			return false;
		path += len + 1;
	}
	return !strchr(path, '/');
}

static const char *normal(const char *path)
{
	return strcmp(path, ".") == 0 ? "" : path;
}

static bool folder_exists(struct simdisk *disk, const char *path)
{
	struct simname *name = names_find(&disk->names, path);

	return !*path || (name && !name->file);
}

/* 0, or why a name cannot be made at path. */
static int check_place(struct simdisk *disk, const char *path)
{
	char folder[SIMDISK_PATH];
	char *slash;

	if (strlen(path) >= SIMDISK_PATH)
		return -ENAMETOOLONG;
	strcpy(folder, path);
	slash = strrchr(folder, '/');
	if (!slash)
		return *path ? 0 : -ENOENT;
	*slash = 0;
	return folder_exists(disk, folder) ? 0 : -ENOENT;
}

/* ---- before each call: hook, faults ---- */

static bool fault_strikes(struct simdisk *disk, enum simdisk_op op, const char *path, int *err)
{
	for (int i = 0; i < SIM_FAULTS; i++) {
		struct simfault *fault = &disk->faults[i];

		if (!fault->left || fault->op != op)
			continue;
		if (*fault->match && !strstr(path, fault->match))
			continue;
		if (fault->left > 1) {
			fault->left--;
			continue;
		}
		if (!fault->sticky)
			fault->left = 0;
		disk->struck++;
		*err = fault->err;
		return true;
	}
	return false;
}

/* What a call must do after begin(). */
enum verdict { GO_ON, FAIL };

/* Returns with the lock held. */
static enum verdict begin_write(struct simdisk *disk,
	enum simdisk_op op, const char *path, const uint8_t *data, uint64_t off, uint64_t len,
	int *err)
{
	struct simdisk_call call = {
		.op = op, .path = path, .off = off, .len = len, .data = data};
	void (*hook)(void *arg, struct simdisk *disk, const struct simdisk_call *call);
	void *hook_arg;

	pthread_mutex_lock(&disk->lock);
	call.number = ++disk->calls;
	hook = disk->hook;
	hook_arg = disk->hook_arg;
	if (hook) {
		pthread_mutex_unlock(&disk->lock);
		hook(hook_arg, disk, &call);
		pthread_mutex_lock(&disk->lock);
	}
	return fault_strikes(disk, op, path, err) ? FAIL : GO_ON;
}

static enum verdict begin(struct simdisk *disk,
	enum simdisk_op op, const char *path, uint64_t off, uint64_t len, int *err)
{
	return begin_write(disk, op, path, NULL, off, len, err);
}

static int end(struct simdisk *disk, int rc)
{
	pthread_mutex_unlock(&disk->lock);
	return rc;
}

/* A copy, since handles move when others are opened. */
static struct simhandle handle_at(struct simdisk *disk, int fd)
{
	MUTEX_GUARD(&disk->lock);
	if (fd < 0 || fd >= disk->handle_count || !disk->handles[fd].file) {
		fprintf(stderr, "simdisk: use of handle %d, which is not open\n", fd);
		abort();
	}
	return disk->handles[fd];
}

/* ---- the table ---- */

static int handle_new(struct simdisk *disk, struct simfile *file, const char *path, bool writable)
{
	int fd = 0;

	while (fd < disk->handle_count && disk->handles[fd].file)
		fd++;
	if (fd == disk->handle_count) {
		disk->handles = sim_alloc(disk->handles,
			(size_t)(fd + 8) * sizeof(*disk->handles));
		memset(disk->handles + fd, 0, 8 * sizeof(*disk->handles));
		disk->handle_count += 8;
	}
	disk->handles[fd].file = file;
	disk->handles[fd].writable = writable;
	snprintf(disk->handles[fd].path, SIMDISK_PATH, "%s", path);
	file->handles++;
	return fd;
}

static int sim_open(struct io *io, const char *path, int flags)
{
	struct simdisk *disk = disk_of(io);
	struct simfile *file;
	struct simname *name;
	int err;

	if (begin(disk, SIMDISK_OPEN, path, (uint64_t)flags, 0, &err) == FAIL)
		return end(disk, err);
	name = names_find(&disk->names, path);
	if (name && (flags & O_CREAT) && (flags & O_EXCL))
		return end(disk, -EEXIST);
	if (name && !name->file)
		return end(disk, -EISDIR);
	if (!name && !(flags & O_CREAT))
		return end(disk, -ENOENT);
	if (!name) {
		err = check_place(disk, path);
		if (err)
			return end(disk, err);
		file = simdisk_add_file(disk, disk->next_file++);
		do_nameop(disk, NAME_CREATE, path, NULL, file->id);
	} else {
		file = simdisk_file(disk, name->file);
		if ((flags & O_TRUNC) && file->size)
			add_change(disk, file, CHANGE_TRUNCATE, NULL, 0, 0);
	}
	return end(disk, handle_new(disk, file, path, (flags & O_ACCMODE) != O_RDONLY));
}

static void sim_close(struct io *io, int fd)
{
	struct simdisk *disk = disk_of(io);
	struct simhandle handle = handle_at(disk, fd);

	MUTEX_GUARD(&disk->lock);
	disk->handles[fd].file = NULL;
	handle.file->handles--;
	simdisk_collect(disk);
}

static ssize_t sim_pread(struct io *io, int fd, void *buf, size_t len, uint64_t off)
{
	struct simdisk *disk = disk_of(io);
	struct simhandle handle = handle_at(disk, fd);
	int err;

	if (begin(disk, SIMDISK_PREAD, handle.path, off, len, &err) == FAIL)
		return end(disk, err);
	if (off >= handle.file->size)
		return end(disk, 0);
	len = (size_t)min_u64(len, handle.file->size - off);
	pagemap_read(&handle.file->cached, buf, len, off);
	end(disk, 0);
	return (ssize_t)len;
}

static uint8_t *gather(const struct iovec *iov, int count, size_t *len)
{
	uint8_t *data, *p;

	*len = 0;
	for (int i = 0; i < count; i++)
		*len += iov[i].iov_len;
	data = p = sim_alloc(NULL, *len);
	for (int i = 0; i < count; i++) {
		memcpy(p, iov[i].iov_base, iov[i].iov_len);
		p += iov[i].iov_len;
	}
	return data;
}

static int write_locked(struct simdisk *disk, struct simfile *file, const void *data, size_t len,
	uint64_t off)
{
	uint64_t need = pagemap_missing(&file->cached, off, len) * PAGEMAP_PAGE;

	if (need && used_bytes(disk) + need > disk->capacity)
		return -ENOSPC;
	if (len)
		add_change(disk, file, CHANGE_WRITE, data, off, len);
	return 0;
}

static int sim_pwritev(struct io *io, int fd, const struct iovec *iov, int count, uint64_t off)
{
	struct simdisk *disk = disk_of(io);
	struct simhandle handle = handle_at(disk, fd);
	CLEANUP_FREE uint8_t *data;
	enum verdict verdict;
	size_t len;
	int err;

	data = gather(iov, count, &len);
	verdict = begin_write(disk, SIMDISK_PWRITE, handle.path, data, off, len, &err);
	if (!handle.writable)
		return end(disk, -EBADF);
	if (verdict == FAIL) {
		write_locked(disk, handle.file, data, len / 2, off);
		return end(disk, err);
	}
	return end(disk, write_locked(disk, handle.file, data, len, off));
}

static int sim_fdatasync(struct io *io, int fd)
{
	struct simdisk *disk = disk_of(io);
	struct simhandle handle = handle_at(disk, fd);
	int err;

	switch (begin(disk, SIMDISK_FDATASYNC, handle.path, 0, 0, &err)) {
	case FAIL:
		file_fail_sync(handle.file);
		return end(disk, err);
	case GO_ON:
		file_sync(handle.file);
		break;
	}
	return end(disk, 0);
}

static int sim_truncate(struct io *io, int fd, uint64_t size)
{
	struct simdisk *disk = disk_of(io);
	struct simhandle handle = handle_at(disk, fd);
	int err;

	if (begin(disk, SIMDISK_TRUNCATE, handle.path, size, 0, &err) == FAIL)
		return end(disk, err);
	if (!handle.writable)
		return end(disk, -EINVAL);
	if (size > PAGEMAP_MAX)
		return end(disk, -EFBIG);
	add_change(disk, handle.file, CHANGE_TRUNCATE, NULL, size, 0);
	return end(disk, 0);
}

/* Until the file is synced, a crash may find it without them. */
static int sim_allocate(struct io *io, int fd, uint64_t off, uint64_t len)
{
	struct simdisk *disk = disk_of(io);
	struct simhandle handle = handle_at(disk, fd);
	uint64_t need;
	int err;

	if (begin(disk, SIMDISK_ALLOCATE, handle.path, off, len, &err) == FAIL)
		return end(disk, err);
	need = pagemap_missing(&handle.file->cached, off, len) * PAGEMAP_PAGE;
	if (need && used_bytes(disk) + need > disk->capacity)
		return end(disk, -ENOSPC);
	add_change(disk, handle.file, CHANGE_ALLOCATE, NULL, off, len);
	return end(disk, 0);
}

static int sim_punch(struct io *io, int fd, uint64_t off, uint64_t len)
{
	struct simdisk *disk = disk_of(io);
	struct simhandle handle = handle_at(disk, fd);
	int err;

	switch (begin(disk, SIMDISK_PUNCH, handle.path, off, len, &err)) {
	case FAIL:
		return end(disk, err);
	case GO_ON:
		break;
	}
	if (!handle.writable)
		return end(disk, -EBADF);
	if (!len)
		return end(disk, -EINVAL);
	add_change(disk, handle.file, CHANGE_PUNCH, NULL, off, len);
	return end(disk, 0);
}

static int sim_next_data(struct io *io, int fd, uint64_t off, uint64_t *start, uint64_t *stop)
{
	struct simdisk *disk = disk_of(io);
	struct simhandle handle = handle_at(disk, fd);

	MUTEX_GUARD(&disk->lock);
	if (off >= handle.file->size || pagemap_next(&handle.file->cached, off, start, stop) < 0 ||
		*start >= handle.file->size)
		return -ENXIO;
	*stop = min_u64(*stop, handle.file->size);
	return 0;
}

static int sim_stat(struct io *io, int fd, struct io_stat *st)
{
	struct simdisk *disk = disk_of(io);
	struct simhandle handle = handle_at(disk, fd);

	MUTEX_GUARD(&disk->lock);
	st->size = handle.file->size;
	st->allocated = pagemap_pages(&handle.file->cached) * PAGEMAP_PAGE;
	return 0;
}

static int sim_rename(struct io *io, const char *from, const char *to)
{
	struct simdisk *disk = disk_of(io);
	struct simname *name, *over;
	int err;

	if (begin(disk, SIMDISK_RENAME, from, 0, 0, &err) == FAIL)
		return end(disk, err);
	name = names_find(&disk->names, from);
	over = names_find(&disk->names, to);
	if (!name)
		return end(disk, -ENOENT);
	if (!name->file || (over && !over->file))
		return end(disk, -EISDIR);
	err = check_place(disk, to);
	if (err)
		return end(disk, err);
	if (name != over)
		do_nameop(disk, NAME_RENAME, from, to, name->file);
	return end(disk, 0);
}

static int sim_unlink(struct io *io, const char *path)
{
	struct simdisk *disk = disk_of(io);
	struct simname *name;
	int err;

	if (begin(disk, SIMDISK_UNLINK, path, 0, 0, &err) == FAIL)
		return end(disk, err);
	name = names_find(&disk->names, path);
	if (!name)
		return end(disk, -ENOENT);
	if (!name->file)
		return end(disk, -EISDIR);
	do_nameop(disk, NAME_UNLINK, path, NULL, name->file);
	return end(disk, 0);
}

static int sim_mkdir(struct io *io, const char *path)
{
	struct simdisk *disk = disk_of(io);
	struct simname *name;
	int err;

	if (begin(disk, SIMDISK_MKDIR, path, 0, 0, &err) == FAIL)
		return end(disk, err);
	name = names_find(&disk->names, path);
	if (name)
		return end(disk, name->file ? -ENOTDIR : 0);
	err = check_place(disk, path);
	if (!err)
		do_nameop(disk, NAME_CREATE, path, NULL, 0);
	return end(disk, err);
}

static int sim_syncdir(struct io *io, const char *path)
{
	struct simdisk *disk = disk_of(io);
	const char *folder = normal(path);
	size_t kept = 0;
	int err;

	switch (begin(disk, SIMDISK_SYNCDIR, *folder ? folder : ".", 0, 0, &err)) {
	case FAIL:
		return end(disk, err);
	case GO_ON:
		break;
	}
	if (!folder_exists(disk, folder))
		return end(disk, -ENOENT);
	for (size_t i = 0; i < disk->nameop_count; i++) {
		struct nameop *op = &disk->nameops[i];
		const char *place = op->kind == NAME_RENAME ? op->to : op->path;

		if (is_in_folder(place, folder))
			names_apply(&disk->durable, op);
		else
			disk->nameops[kept++] = *op;
	}
	disk->nameop_count = kept;
	simdisk_collect(disk);
	return end(disk, 0);
}

static int sim_list(struct io *io, const char *path, int (*cb)(void *arg, const char *name),
	void *arg)
{
	struct simdisk *disk = disk_of(io);
	const char *folder = normal(path);
	struct simnames names;
	int rc = 0;

	pthread_mutex_lock(&disk->lock);
	if (!folder_exists(disk, folder))
		return end(disk, -ENOENT);
	names_copy(&names, &disk->names);
	pthread_mutex_unlock(&disk->lock);
	for (size_t i = 0; i < names.count && !rc; i++) {
		const char *base = names.list[i].path + (*folder ? strlen(folder) + 1 : 0);

		if (is_in_folder(names.list[i].path, folder) && *base != '.')
			rc = cb(arg, base);
	}
	free(names.list);
	return rc;
}

static int sim_space(struct io *io, struct io_space *space)
{
	struct simdisk *disk = disk_of(io);
	uint64_t used;

	MUTEX_GUARD(&disk->lock);
	used = used_bytes(disk);
	space->total = disk->capacity;
	space->free = used < disk->capacity ? disk->capacity - used : 0;
	return 0;
}

/* The disk outlives the table's users; simdisk_free() ends it. */
static void sim_free(struct io *io)
{
	(void)io;
}

/* A power loss begins another life, the death of a process does not. */
static int sim_boot(struct io *io, uint8_t id[16])
{
	const struct simdisk *disk = (const struct simdisk *)io;

	memset(id, 0, 16);
	id[15] = 1;
	memcpy(id, &disk->lives, sizeof(disk->lives));
	return 0;
}

static const struct io_ops sim_ops = {
	.open = sim_open,
	.close = sim_close,
	.pread = sim_pread,
	.pwritev = sim_pwritev,
	.fdatasync = sim_fdatasync,
	.truncate = sim_truncate,
	.allocate = sim_allocate,
	.punch = sim_punch,
	.next_data = sim_next_data,
	.stat = sim_stat,
	.rename = sim_rename,
	.unlink = sim_unlink,
	.mkdir = sim_mkdir,
	.syncdir = sim_syncdir,
	.list = sim_list,
	.space = sim_space,
	.boot = sim_boot,
	.free = sim_free,
};

/* ---- life ---- */

struct simdisk *simdisk_new(uint64_t capacity)
{
	struct simdisk *disk = sim_alloc(NULL, sizeof(*disk));

	memset(disk, 0, sizeof(*disk));
	disk->io.ops = &sim_ops;
	pthread_mutex_init(&disk->lock, NULL);
	disk->capacity = capacity;
	disk->next_seq = 1;
	disk->next_file = 1;
	return disk;
}

void simdisk_free(struct simdisk *disk)
{
	if (!disk)
		return;
	for (size_t i = 0; i < disk->file_count; i++)
		file_free(disk->files[i]);
	free(disk->files);
	free(disk->names.list);
	free(disk->durable.list);
	free(disk->nameops);
	free(disk->handles);
	pthread_mutex_destroy(&disk->lock);
	free(disk);
}

struct io *simdisk_io(struct simdisk *disk)
{
	return &disk->io;
}

struct simdisk *simdisk_clone(struct simdisk *disk)
{
	struct simdisk *copy = simdisk_new(disk->capacity);

	MUTEX_GUARD(&disk->lock);
	copy->next_seq = disk->next_seq;
	copy->next_file = disk->next_file;
	copy->lives = disk->lives;
	names_copy(&copy->names, &disk->names);
	names_copy(&copy->durable, &disk->durable);
	copy->nameop_count = copy->nameop_room = disk->nameop_count;
	copy->nameops = sim_alloc(NULL, disk->nameop_count * sizeof(*copy->nameops));
	if (disk->nameop_count)
		memcpy(copy->nameops, disk->nameops, disk->nameop_count * sizeof(*copy->nameops));
	for (size_t i = 0; i < disk->file_count; i++) {
		struct simfile *from = disk->files[i];
		struct simfile *to = simdisk_add_file(copy, from->id);

		*to = *from;
		to->handles = 0;
		pagemap_clone(&to->cached, &from->cached);
		pagemap_clone(&to->durable, &from->durable);
		if (to->changes)
			atomic_fetch_add(&to->changes->refs, 1);
	}
	simdisk_collect(copy);
	return copy;
}

void simdisk_poke(struct simdisk *disk, const struct simdisk_call *call, uint64_t len)
{
	struct simname *name;

	MUTEX_GUARD(&disk->lock);
	name = names_find(&disk->names, call->path);
	if (name && name->file && len)
		write_locked(disk, simdisk_file(disk, name->file), call->data, len, call->off);
}

uint64_t simdisk_hash(struct simdisk *disk)
{
	uint64_t h = 0;

	MUTEX_GUARD(&disk->lock);
	for (size_t i = 0; i < disk->names.count; i++) {
		const struct simname *name = &disk->names.list[i];
		struct simfile *file = name->file ? simdisk_file(disk, name->file) : NULL;
		uint64_t parts[3] = {hash_struct(name->path, strlen(name->path)), 0, 0};

		if (file) {
			parts[1] = pagemap_hash(&file->cached);
			parts[2] = file->size + 1;
		}
		h += hash_struct(parts, sizeof(parts));
	}
	return h;
}

uint64_t simdisk_calls(struct simdisk *disk)
{
	MUTEX_GUARD(&disk->lock);
	return disk->calls;
}

uint64_t simdisk_unsynced(struct simdisk *disk)
{
	uint64_t n;

	MUTEX_GUARD(&disk->lock);
	n = disk->nameop_count;
	for (size_t i = 0; i < disk->file_count; i++) {
		for (struct change *c = disk->files[i]->changes; c; c = c->prev)
			n++;
	}
	return n;
}

uint64_t simdisk_used(struct simdisk *disk)
{
	MUTEX_GUARD(&disk->lock);
	return used_bytes(disk);
}

void simdisk_set_capacity(struct simdisk *disk, uint64_t capacity)
{
	MUTEX_GUARD(&disk->lock);
	disk->capacity = capacity;
}

const char *simdisk_op_name(enum simdisk_op op)
{
	static const char *const names[SIMDISK_OPS] = {"open", "pread", "pwrite", "fdatasync",
		"truncate", "punch", "rename", "unlink", "mkdir", "syncdir", "allocate"};

	return names[op];
}

const char *simdisk_policy_name(enum simdisk_policy policy)
{
	static const char *const names[SIMDISK_POLICIES] = {
		"drop", "keep", "sectors", "last", "prefix", "files", "one"};

	return names[policy];
}

void simdisk_set_hook(struct simdisk *disk,
	void (*hook)(void *arg, struct simdisk *disk, const struct simdisk_call *call), void *arg)
{
	pthread_mutex_lock(&disk->lock);
	disk->hook = hook;
	disk->hook_arg = arg;
	pthread_mutex_unlock(&disk->lock);
}

/* ---- faults ---- */

void simdisk_fail(struct simdisk *disk, enum simdisk_op op, uint64_t nth, int err, bool sticky,
	const char *match)
{
	MUTEX_GUARD(&disk->lock);
	for (int i = 0; i < SIM_FAULTS; i++) {
		struct simfault *fault = &disk->faults[i];

		if (fault->left)
			continue;
		*fault = (struct simfault){.op = op, .left = nth, .err = err, .sticky = sticky};
		snprintf(fault->match, sizeof(fault->match), "%s", match ? match : "");
		return;
	}
	abort();
}

void simdisk_heal(struct simdisk *disk)
{
	MUTEX_GUARD(&disk->lock);
	memset(disk->faults, 0, sizeof(disk->faults));
}

uint64_t simdisk_faults(struct simdisk *disk)
{
	MUTEX_GUARD(&disk->lock);
	return disk->struck;
}
