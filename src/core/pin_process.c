/* SPDX-License-Identifier: MIT */
/* The process behind pin_work.c: one copy or one set of sums, out of everybody's way. */
#include "core/pin_process.h"

#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "image/pin.h"

/* linux/ioprio.h is newer than some distributions. */
#define IOPRIO_PROCESS 1
#define IOPRIO_IDLE (3 << 13)

int pin_process_main(int argc, char **argv)
{
	uint64_t id;
	int store_fd, source_fd, r;

	if (argc != 6)
		return EINVAL;
	id = strtoull(argv[3], NULL, 10);
	store_fd = atoi(argv[4]);
	source_fd = atoi(argv[5]);
	/* Without the daemon nobody wants the result; a start later makes it anew. */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	setpriority(PRIO_PROCESS, 0, 19);
	syscall(SYS_ioprio_set, IOPRIO_PROCESS, 0, IOPRIO_IDLE);
	if (strcmp(argv[2], PIN_PROCESS_COPY) == 0)
		r = pin_copy(store_fd, id, source_fd, NULL, NULL);
	else if (strcmp(argv[2], PIN_PROCESS_SUMS) == 0)
		r = pin_sums_make(store_fd, id, source_fd, NULL, NULL);
	else
		r = -EINVAL;
	return -r;
}
