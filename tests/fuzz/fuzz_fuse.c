/* SPDX-License-Identifier: MIT */
/*
 * Requests as a client's system calls make them, through wire.c, order.c, transfer.c and libfuse's
 * dispatch into our operations; answers are swallowed. The kernel is trusted to send well-formed requests
 * (it runs the machine), so lengths and names are made right and everything else is the input's:
 * numbers of inodes and handles, offsets, sizes, flags, modes, names, values, the order of it all.
 * Handles that were answered are remembered, since a kernel uses no others; now and then one is
 * used that was not.
 */
#include <linux/fuse.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "../crash/simdisk.h"
#include "base/sizes.h"
#include "fuse/internal.h"
#include "fuzz.h"
#include "service/service.h"

#define REQUESTS_MAX 40
#define ROOM (FUSE_SERVER_IO_MAX + 4096)

static uint8_t request[ROOM] __attribute__((aligned(8))), answer_room[FUSE_SERVER_IO_MAX];
static struct fuse_in_header *const head = (void *)request;
static uint64_t handles[4], inos[8];
static unsigned answers, handle_count, ino_count;

static ssize_t swallow(int fd, struct iovec *iov, int count, void *userdata)
{
	const struct fuse_out_header *out = iov[0].iov_base;
	const struct fuse_entry_out *entry = NULL;
	const struct fuse_open_out *opened = NULL;
	ssize_t n = 0;

	(void)fd;
	(void)userdata;
	answers++;
	for (int i = 0; i < count; i++)
		n += (ssize_t)iov[i].iov_len;
	if (out->error > 0 || out->error <= -1000 || (size_t)n != out->len)
		abort();
	if (count < 2 || out->error)
		return n;
	if (head->opcode == FUSE_OPEN || head->opcode == FUSE_OPENDIR)
		opened = iov[1].iov_base;
	if (head->opcode == FUSE_LOOKUP || head->opcode == FUSE_MKNOD ||
		head->opcode == FUSE_SYMLINK || head->opcode == FUSE_CREATE ||
		head->opcode == FUSE_MKDIR)
		entry = iov[1].iov_base;
	if (head->opcode == FUSE_CREATE && iov[1].iov_len >= sizeof(*entry) + sizeof(*opened))
		opened = (const void *)(entry + 1);
	if (opened)
		handles[handle_count++ % ARRAY_SIZE(handles)] = opened->fh;
	if (entry && entry->nodeid)
		inos[ino_count++ % ARRAY_SIZE(inos)] = entry->nodeid;
	return n;
}

static ssize_t nothing_to_read(int fd, void *buf, size_t len, void *userdata)
{
	(void)fd;
	(void)buf;
	(void)len;
	(void)userdata;
	return 0;
}

/* ---- making one request ---- */

static uint64_t pick_ino(struct input *in)
{
	uint8_t which = input_u8(in);

	if (which < 96)
		return inos[which % ARRAY_SIZE(inos)];
	if (which < 224)
		return which % 90; /* fixed ones, and the first files */
	return input_int(in, 8);
}

static uint64_t pick_handle(struct input *in)
{
	uint8_t which = input_u8(in);

	return which < 240 ? handles[which % ARRAY_SIZE(handles)] : input_int(in, 8);
}

struct maker {
	struct input *in;
	size_t len; /* of the request so far */
};

static void *add(struct maker *m, size_t len)
{
	void *place = request + m->len;

	memset(place, 0, len);
	m->len += len;
	return place;
}

static void add_name(struct maker *m)
{
	char *name = input_text(m->in, 300);

	memcpy(add(m, strlen(name) + 1), name, strlen(name) + 1);
	free(name);
}

static void add_raw(struct maker *m, size_t len)
{
	size_t have = len;
	uint8_t *to = add(m, len);
	const uint8_t *from = input_bytes(m->in, &have);

	memcpy(to, from, have);
}

/* A large write is a small pattern over and over. */
static void add_data(struct maker *m, uint32_t *size)
{
	uint64_t wanted = input_size(m->in) % (FUSE_SERVER_IO_MAX + 1);
	size_t have = input_u8(m->in) % 64;
	const uint8_t *from = input_bytes(m->in, &have);
	uint8_t *to = add(m, wanted);

	for (size_t i = 0; have && i < wanted; i++)
		to[i] = from[i % have];
	*size = (uint32_t)wanted;
}

static void make_io(struct maker *m)
{
	if (head->opcode == FUSE_READ || head->opcode == FUSE_READDIR) {
		struct fuse_read_in *read = add(m, sizeof(*read));

		read->fh = pick_handle(m->in);
		read->offset = input_size(m->in);
		read->size = (uint32_t)(input_size(m->in) % (FUSE_SERVER_IO_MAX + 1));
	} else {
		struct fuse_write_in *write = add(m, sizeof(*write));

		write->fh = pick_handle(m->in);
		write->offset = input_size(m->in);
		write->write_flags = input_u8(m->in);
		add_data(m, &write->size);
	}
}

static void make_range(struct maker *m)
{
	if (head->opcode == FUSE_FALLOCATE) {
		struct fuse_fallocate_in *f = add(m, sizeof(*f));

		f->offset = input_size(m->in);
		f->length = input_size(m->in);
		f->mode = input_u8(m->in);
	} else if (head->opcode == FUSE_LSEEK) {
		struct fuse_lseek_in *f = add(m, sizeof(*f));

		f->offset = input_size(m->in);
		f->whence = input_u8(m->in) % 8;
	} else {
		struct fuse_copy_file_range_in *f = add(m, sizeof(*f));

		f->off_in = input_size(m->in);
		f->nodeid_out = pick_ino(m->in);
		f->off_out = input_size(m->in);
		f->len = input_size(m->in);
	}
}

static void make_control(struct maker *m)
{
	struct fuse_ioctl_in *f = add(m, sizeof(*f));

	f->fh = pick_handle(m->in);
	f->cmd = 0x60006701u;
	f->in_size = 8192;
	add_raw(m, 8192);
}

static void make_attributes(struct maker *m)
{
	if (head->opcode == FUSE_SETATTR) {
		struct fuse_setattr_in *f = add(m, sizeof(*f));

		f->valid = (uint32_t)input_int(m->in, 2);
		f->size = input_size(m->in);
		f->mode = (uint32_t)input_int(m->in, 2);
		f->uid = (uint32_t)input_int(m->in, 4);
		f->atime = input_size(m->in);
		f->mtime = input_size(m->in);
		f->mtimensec = (uint32_t)input_int(m->in, 4);
	} else if (head->opcode == FUSE_SETXATTR) {
		/* Without FUSE_SETXATTR_EXT it ends after the flags. */
		uint32_t *sizes = add(m, FUSE_COMPAT_SETXATTR_IN_SIZE);

		sizes[1] = input_u8(m->in) % 4;
		add_name(m);
		sizes[0] = (uint32_t)(input_size(m->in) % 65537);
		add_raw(m, sizes[0]);
	} else {
		struct fuse_getxattr_in *f = add(m, sizeof(*f));

		f->size = (uint32_t)(input_size(m->in) % 65537);
		if (head->opcode == FUSE_GETXATTR)
			add_name(m);
	}
}

static void make_name(struct maker *m)
{
	size_t fixed = 0;

	switch (head->opcode) {
	case FUSE_MKNOD:
		fixed = sizeof(struct fuse_mknod_in);
		break;
	case FUSE_MKDIR:
		fixed = sizeof(struct fuse_mkdir_in);
		break;
	case FUSE_CREATE:
		fixed = sizeof(struct fuse_create_in);
		break;
	}
	add_raw(m, fixed);
	add_name(m);
	if (head->opcode == FUSE_SYMLINK)
		add_name(m);
}

static void make_rename(struct maker *m)
{
	if (head->opcode == FUSE_RENAME2) {
		struct fuse_rename2_in *f = add(m, sizeof(*f));

		f->newdir = pick_ino(m->in);
		f->flags = input_u8(m->in) % 8;
	} else {
		struct fuse_rename_in *f = add(m, sizeof(*f));

		f->newdir = pick_ino(m->in); /* of link: the file */
	}
	add_name(m);
	if (head->opcode != FUSE_LINK)
		add_name(m);
}

static const uint8_t opcodes[] = {FUSE_LOOKUP, FUSE_GETATTR, FUSE_SETATTR, FUSE_READLINK,
	FUSE_SYMLINK, FUSE_MKNOD, FUSE_MKDIR, FUSE_UNLINK, FUSE_RMDIR, FUSE_RENAME, FUSE_LINK,
	FUSE_OPEN, FUSE_READ, FUSE_WRITE, FUSE_STATFS, FUSE_RELEASE, FUSE_FSYNC, FUSE_SETXATTR,
	FUSE_GETXATTR, FUSE_LISTXATTR, FUSE_REMOVEXATTR, FUSE_FLUSH, FUSE_OPENDIR, FUSE_READDIR,
	FUSE_RELEASEDIR, FUSE_CREATE, FUSE_FALLOCATE, FUSE_RENAME2, FUSE_LSEEK,
	FUSE_COPY_FILE_RANGE, FUSE_IOCTL, FUSE_FORGET, FUSE_WRITE, FUSE_WRITE, 53, FUSE_FSYNCDIR};

static size_t make_request(struct input *in)
{
	static uint64_t unique = 10;
	struct maker m = {.in = in, .len = sizeof(*head)};

	memset(head, 0, sizeof(*head));
	head->opcode = opcodes[input_u8(in) % ARRAY_SIZE(opcodes)];
	head->unique = unique += 2;
	head->nodeid = pick_ino(in);
	head->pid = 1 + input_u8(in) % 3;
	switch (head->opcode) {
	case FUSE_READ:
	case FUSE_READDIR:
	case FUSE_WRITE:
		make_io(&m);
		break;
	case FUSE_FALLOCATE:
	case FUSE_LSEEK:
	case FUSE_COPY_FILE_RANGE:
	case 53:
		make_range(&m);
		break;
	case FUSE_IOCTL:
		make_control(&m);
		break;
	case FUSE_SETATTR:
	case FUSE_SETXATTR:
	case FUSE_GETXATTR:
	case FUSE_LISTXATTR:
		make_attributes(&m);
		break;
	case FUSE_RENAME:
	case FUSE_RENAME2:
	case FUSE_LINK:
		make_rename(&m);
		break;
	case FUSE_LOOKUP:
	case FUSE_SYMLINK:
	case FUSE_MKNOD:
	case FUSE_MKDIR:
	case FUSE_CREATE:
	case FUSE_UNLINK:
	case FUSE_RMDIR:
	case FUSE_REMOVEXATTR:
		make_name(&m);
		break;
	case FUSE_RELEASE:
	case FUSE_RELEASEDIR:
	case FUSE_FLUSH:
	case FUSE_FSYNC:
	case FUSE_FSYNCDIR:
		*(uint64_t *)add(&m, 32) = pick_handle(in);
		break;
	case FUSE_FORGET:
		*(uint64_t *)add(&m, 8) = 1; /* more than it was told of, no kernel gives back */
		if (!ino_count || head->nodeid != inos[(ino_count - 1) % ARRAY_SIZE(inos)])
			return 0;
		ino_count--;
		inos[ino_count % ARRAY_SIZE(inos)] = FS_INO_ROOT;
		break;
	default: /* flags of open, or nothing */
		add_raw(&m, 16);
	}
	head->len = (uint32_t)m.len;
	return m.len;
}

/* ---- serving it ---- */

/* What was not answered through libfuse was written to the session's own file. */
static void look_at_file(struct fuse_server *server)
{
	struct fuse_out_header out;
	off_t len;

	while (later_owes(server->later))
		usleep(100);
	len = lseek(server->fd, 0, SEEK_CUR);
	if (!len)
		return;
	answers++;
	if (pread(server->fd, &out, sizeof(out), 0) != sizeof(out) || out.len != len ||
		out.unique != head->unique || out.error > 0 || out.error <= -512)
		abort();
	if (head->opcode == FUSE_READ &&
		out.len > sizeof(out) + ((const struct fuse_read_in *)(head + 1))->size)
		abort();
	if (ftruncate(server->fd, 0) || lseek(server->fd, 0, SEEK_SET))
		abort();
}

static void serve(struct fuse_server *server, size_t len)
{
	struct order_entry entry = {.entered = false};
	unsigned before = answers;
	bool forget = head->opcode == FUSE_FORGET;

	order_enter(&server->order, &entry, request, len);
	wire_look(me, request, len);
	order_wait(&server->order, &entry);
	wire_serve(me, len);
	look_at_file(server);
	order_leave(&server->order, &entry);
	if (answers != before + !forget)
		abort(); /* each request has one answer */
}

static void introduce(struct fuse_server *server)
{
	struct fuse_init_in *init = (void *)(head + 1);

	memset(request, 0, sizeof(*head) + sizeof(*init));
	*head = (struct fuse_in_header){.len = sizeof(*head) + sizeof(*init),
		.opcode = FUSE_INIT, .unique = 2};
	init->major = FUSE_KERNEL_VERSION;
	init->minor = 36;
	init->max_readahead = 131072;
	init->flags = 0x73fffffb & ~(uint32_t)FUSE_INIT_EXT;
	serve(server, head->len);
}

static void start(struct fuse_server *server, struct fs *fs, struct service *service)
{
	static const struct fuse_custom_io io = {.writev = swallow, .read = nothing_to_read};
	char max_read[] = "max_read=1048576";
	char *argv[] = {(char *)"goldfs", (char *)"-o", max_read, NULL};
	struct fuse_args args = FUSE_ARGS_INIT(3, argv);

	server->session = fuse_session_new(&args, &server_ops, sizeof(server_ops), server);
	fuse_opt_free_args(&args);
	if (!server->session || fuse_session_custom_io(server->session, &io, 1000))
		abort();
	server->fd = memfd_create("answers", 0);
	if (server->fd < 0 || later_new(&server->later, transfer_written, server))
		abort();
	server->fs = fs;
	server->service = service;
	me = &server->workers[0];
	me->server = server;
	me->in = (char *)request;
	me->out = (char *)answer_room;
	handle_count = ino_count = 0;
	for (size_t i = 0; i < ARRAY_SIZE(inos); i++)
		inos[i] = FS_INO_ROOT;
	introduce(server);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct fuse_server_options server_options = {.threads = 1, .store = "/srv/gi/.goldfs"};
	const struct service_info info = {
		.mountpoint = "/mnt/vms", .images = "/srv/gi", .store = "/srv/gi/.goldfs"};
	struct fs_options options = store_options();
	struct simdisk *disk = store_disk(TEMPLATE_KILLED);
	struct input in = {data, size};
	struct fuse_server *server;
	struct service *service;
	struct fs *fs;
	size_t len;
	int file;

	if (fuse_server_new(&server, &server_options))
		abort();
	options.hooks = (struct fs_hooks){.invalidate = fuse_server_invalidate, .arg = server};
	if (fs_open(&fs, simdisk_io(disk), &options) || service_new(&service, fs, &info))
		abort();
	start(server, fs, service);
	for (int i = 0; i < REQUESTS_MAX && in.left; i++) {
		len = make_request(&in);
		if (len)
			serve(server, len);
	}
	fs_settle(fs);
	service_free(service);
	fs_close(fs);
	fuse_session_destroy(server->session);
	server->session = NULL;
	me->in = me->out = NULL;
	file = server->fd;
	fuse_server_free(server);
	close(file);
	simdisk_free(disk);
	return 0;
}
