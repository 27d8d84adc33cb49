// SPDX-License-Identifier: MIT
/*
 * The floor: what FUSE itself can carry.
 *
 *	floor [-R] [-r TRACE] [-t THREADS] FILE MOUNTPOINT
 *
 * Serves FILE as MOUNTPOINT/disk in the foreground, by nothing but pread(2), pwrite(2),
 * fdatasync(2) and fallocate(2), with the mount options and the answer to INIT that goldfs uses
 * (src/fuse): 1 MiB requests, 512 of them in the background, replies from memory, attributes
 * without lifetime, HANDLE_KILLPRIV_V2. Ends when it is unmounted or told to.
 *
 * No file system on FUSE that looks anything up, merges anything or promises anything can be
 * expected to be faster, so it is what goldfs is measured against. -R opens FILE for reading only:
 * a golden image that somebody opens for writing would be copied by goldfs.
 *
 * With -r each request is noted: a line "NANOSECONDS OP OFFSET LENGTH" in TRACE, OP being one of
 * R(ead), W(rite), F(lush), D(iscard), and the bytes of all writes one after the other in
 * TRACE.data. tests/bench/replay.c does the same again.
 */
#include <errno.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <linux/fuse.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define IO_MAX 1048576
#define BACKGROUND 512
#define DISK 2 /* inode number */

static int disk_fd;
static FILE *trace, *trace_data;
static pthread_mutex_t trace_lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t offered_flags; /* of the kernel's INIT */

static void note(char op, off_t off, size_t len, const void *data)
{
	struct timespec now;

	if (!trace)
		return;
	clock_gettime(CLOCK_MONOTONIC, &now);
	pthread_mutex_lock(&trace_lock);
	fprintf(trace, "%lld %c %lld %zu\n", now.tv_sec * 1000000000LL + now.tv_nsec, op,
		(long long)off, len);
	if (data && fwrite(data, 1, len, trace_data) != len) {
		perror("floor: the trace");
		exit(1);
	}
	pthread_mutex_unlock(&trace_lock);
}

static void op_init(void *userdata, struct fuse_conn_info *conn)
{
	const unsigned wanted =
		FUSE_CAP_ASYNC_READ | FUSE_CAP_ASYNC_DIO | FUSE_CAP_PARALLEL_DIROPS;

	conn->max_write = IO_MAX;
	conn->max_read = IO_MAX;
	conn->max_background = BACKGROUND;
	conn->congestion_threshold = BACKGROUND * 3 / 4;
	conn->time_gran = 1;
	conn->want = conn->capable & wanted;
}

static int get_attributes(fuse_ino_t ino, struct stat *st)
{
	*st = (struct stat){.st_mode = S_IFDIR | 0755, .st_nlink = 2};
	if (ino == DISK && fstat(disk_fd, st) < 0)
		return errno;
	st->st_ino = ino;
	return 0;
}

static void op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct fuse_entry_param entry = {.ino = DISK};
	int r = strcmp(name, "disk") != 0 ? ENOENT : get_attributes(DISK, &entry.attr);

	if (r)
		fuse_reply_err(req, r);
	else
		fuse_reply_entry(req, &entry);
}

static void op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct stat st;
	int r = get_attributes(ino, &st);

	if (r)
		fuse_reply_err(req, r);
	else
		fuse_reply_attr(req, &st, 0);
}

/* Of a change of size or times only the size matters here. */
static void op_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int to_set,
	struct fuse_file_info *fi)
{
	if (ino == DISK && (to_set & FUSE_SET_ATTR_SIZE) && ftruncate(disk_fd, attr->st_size) < 0)
		fuse_reply_err(req, errno);
	else
		op_getattr(req, ino, fi);
}

static void op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	fi->noflush = 1;
	fi->keep_cache = 1;
	fuse_reply_open(req, fi);
}

static void op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
	struct fuse_file_info *fi)
{
	static __thread char *buf;
	ssize_t n;

	if (!buf)
		buf = aligned_alloc(4096, IO_MAX);
	note('R', off, size, NULL);
	n = pread(disk_fd, buf, size, off);
	if (n < 0)
		fuse_reply_err(req, errno);
	else
		fuse_reply_buf(req, buf, (size_t)n);
}

static void op_write(fuse_req_t req, fuse_ino_t ino, const char *buf, size_t size, off_t off,
	struct fuse_file_info *fi)
{
	ssize_t n = pwrite(disk_fd, buf, size, off);

	note('W', off, size, buf);
	if (n < 0)
		fuse_reply_err(req, errno);
	else
		fuse_reply_write(req, (size_t)n);
}

static void op_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
	note('F', 0, 0, NULL);
	fuse_reply_err(req, fdatasync(disk_fd) < 0 ? errno : 0);
}

static void op_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t off, off_t len,
	struct fuse_file_info *fi)
{
	note('D', off, (size_t)len, NULL);
	fuse_reply_err(req, fallocate(disk_fd, mode, off, len) < 0 ? errno : 0);
}

static const struct fuse_lowlevel_ops ops = {
	.init = op_init,
	.lookup = op_lookup,
	.getattr = op_getattr,
	.setattr = op_setattr,
	.open = op_open,
	.read = op_read,
	.write = op_write,
	.fsync = op_fsync,
	.fallocate = op_fallocate,
};

static ssize_t wire_read(int fd, void *buf, size_t len, void *userdata)
{
	ssize_t n = read(fd, buf, len);
	const struct fuse_in_header *in = buf;

	if (n >= (ssize_t)sizeof(*in) && in->opcode == FUSE_INIT)
		offered_flags = ((const struct fuse_init_in *)(in + 1))->flags;
	return n;
}

/* libfuse 3.14 does not offer HANDLE_KILLPRIV_V2, so the first answer is patched (src/fuse/wire.c). */
static ssize_t wire_writev(int fd, struct iovec *iov, int count, void *userdata)
{
	static int answered;

	if (!answered && count == 2 && iov[1].iov_len >= offsetof(struct fuse_init_out, max_write)) {
		((struct fuse_init_out *)iov[1].iov_base)->flags |=
			offered_flags & FUSE_HANDLE_KILLPRIV_V2;
		answered = 1;
	}
	return writev(fd, iov, count);
}

static const struct fuse_custom_io wire = {.read = wire_read, .writev = wire_writev};

static void die(const char *what)
{
	fprintf(stderr, "floor: %s: %s\n", what, strerror(errno));
	exit(1);
}

static int mount_on(const char *mountpoint)
{
	int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	char data[200];

	if (fd < 0)
		die("/dev/fuse");
	snprintf(data, sizeof(data),
		"fd=%d,rootmode=40000,user_id=%u,group_id=%u,allow_other,default_permissions,max_read=%d",
		fd, getuid(), getgid(), IO_MAX);
	if (mount("floor", mountpoint, "fuse.floor", MS_NOSUID | MS_NODEV, data) < 0)
		die(mountpoint);
	return fd;
}

static void open_trace(const char *name)
{
	char data[4096];

	snprintf(data, sizeof(data), "%s.data", name);
	trace = fopen(name, "w");
	trace_data = fopen(data, "w");
	if (!trace || !trace_data)
		die(name);
}

static int serve(int fd, unsigned threads)
{
	char *argv[] = {(char *)"floor", (char *)"-o", (char *)"max_read=1048576", NULL};
	struct fuse_args args = FUSE_ARGS_INIT(3, argv);
	struct fuse_session *session = fuse_session_new(&args, &ops, sizeof(ops), NULL);
	struct fuse_loop_config *config = fuse_loop_cfg_create();
	int r;

	if (!session || fuse_session_custom_io(session, &wire, fd) < 0)
		die("the session");
	fuse_set_signal_handlers(session);
	fuse_loop_cfg_set_clone_fd(config, 0);
	fuse_loop_cfg_set_max_threads(config, threads);
	fuse_loop_cfg_set_idle_threads(config, threads); /* it would end and start them all the time */
	r = fuse_session_loop_mt(session, config);
	fuse_loop_cfg_destroy(config);
	fuse_remove_signal_handlers(session);
	fuse_session_destroy(session);
	return r;
}

int main(int argc, char **argv)
{
	unsigned threads = 16;
	int option, mode = O_RDWR, r;

	while ((option = getopt(argc, argv, "Rr:t:")) != -1) {
		if (option == 'R')
			mode = O_RDONLY;
		else if (option == 'r')
			open_trace(optarg);
		else if (option == 't' && atoi(optarg) > 0)
			threads = (unsigned)atoi(optarg);
		else
			return 2;
	}
	if (argc - optind != 2) {
		fprintf(stderr, "usage: floor [-R] [-r TRACE] [-t THREADS] FILE MOUNTPOINT\n");
		return 2;
	}
	disk_fd = open(argv[optind], mode | O_CLOEXEC);
	if (disk_fd < 0)
		die(argv[optind]);
	r = serve(mount_on(argv[optind + 1]), threads);
	umount2(argv[optind + 1], MNT_DETACH);
	if (trace && (fclose(trace) | fclose(trace_data)))
		die("the trace");
	return r != 0 && r != SIGTERM && r != SIGINT;
}
