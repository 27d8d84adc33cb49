/* SPDX-License-Identifier: MIT */
/* See pin_process.h. */
#include "core/pin_process.h"

#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/log.h"
#include "image/pin.h"

/* linux/ioprio.h is newer than some distributions. */
#define IOPRIO_PROCESS 1
#define IOPRIO_IDLE (3 << 13)

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

pid_t pin_process_start(enum pin_process_work work, int store_fd, uint64_t id, int source_fd)
{
	const pid_t parent = getpid();
	const pid_t pid = log_fork();
	int r;

	if (pid != 0)
		return pid < 0 ? -errno : pid;
	be_idle(parent);
	r = work == PIN_PROCESS_COPY ? pin_copy(store_fd, id, source_fd, NULL, NULL) :
				       pin_sums_make(store_fd, id, source_fd, NULL, NULL);
	_exit(-r);
}
