/* SPDX-License-Identifier: MIT */
/* See pin_process.h. */
#include "core/pin_process.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/log.h"
#include "image/image.h"
#include "image/pin.h"
#include "store/content_index.h"

/* linux/ioprio.h is newer than some distributions. */
#define IOPRIO_PROCESS 1
#define IOPRIO_IDLE (3 << 13)

struct pin_progress *pin_progress_new(void)
{
	void *shared = mmap(NULL, sizeof(struct pin_progress), PROT_READ | PROT_WRITE,
		MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	return shared == MAP_FAILED ? NULL : shared;
}

void pin_progress_free(struct pin_progress *progress)
{
	if (progress)
		munmap(progress, sizeof(*progress));
}

static void be_idle(pid_t parent)
{
	sigset_t none;

	/* Without the daemon nobody wants the result; a start later makes it anew. */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(ECANCELED);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	prctl(PR_SET_NAME, "goldfs-pin");
	setpriority(PRIO_PROCESS, 0, 19);
	syscall(SYS_ioprio_set, IOPRIO_PROCESS, 0, IOPRIO_IDLE);
}

struct running {
	const struct pin_process *process;
	int (*cancel)(void *arg);
	void *arg;
};

static int tell(void *arg, uint64_t done, uint64_t total)
{
	const struct running *running = arg;
	struct pin_progress *progress = running->process->progress;

	if (progress) {
		atomic_store(&progress->done, done);
		atomic_store(&progress->total, total);
	}
	return running->cancel && running->cancel(running->arg);
}

static int dup_of(int fd)
{
	int own = fcntl(fd, F_DUPFD_CLOEXEC, 0);

	return own < 0 ? -errno : own;
}

/* The store by its descriptor: the daemon's own table may be in use. */
static int open_store(const struct pin_process *p, struct io **io)
{
	int fd = dup_of(p->store_fd), r;

	if (fd < 0)
		return fd;
	r = io_posix_new(io, fd);
	if (r)
		close(fd);
	return r;
}

static int open_image(const struct pin_process *p, struct image **image)
{
	int fd = dup_of(p->source_fd), r;

	if (fd < 0)
		return fd;
	r = image_raw_new(image, fd);
	if (r)
		close(fd);
	return r;
}

static int make_index(const struct pin_process *p, struct running *running)
{
	struct image *image = NULL;
	struct io *io;
	int r = open_store(p, &io);

	if (r)
		return r;
	r = open_image(p, &image);
	if (!r)
		r = content_index_build(&(struct content_index_source){.io = io,
			.secret = p->secret, .golden = p->id, .print = p->print, .image = image,
			.fd = p->source_fd, .hash_bits = p->hash_bits, .progress = tell, .arg = running});
	image_free(image);
	io->ops->free(io);
	return r;
}

int pin_process_run(const struct pin_process *p, int (*cancel)(void *arg), void *arg)
{
	struct running running = {.process = p, .cancel = cancel, .arg = arg};

	switch (p->work) {
	case PIN_PROCESS_COPY:
		return pin_copy(p->store_fd, p->id, p->source_fd, tell, &running);
	case PIN_PROCESS_SUMS:
		return pin_sums_make(p->store_fd, p->id, p->source_fd, tell, &running);
	default:
		return make_index(p, &running);
	}
}

pid_t pin_process_start(const struct pin_process *p)
{
	const pid_t parent = getpid();
	const pid_t pid = log_fork();

	if (pid != 0)
		return pid < 0 ? -errno : pid;
	be_idle(parent);
	_exit(-pin_process_run(p, NULL, NULL));
}
