/* SPDX-License-Identifier: MIT */
/*
 * fusermount3, which mounts for users who may not: it is set-uid root, opens /dev/fuse, mounts,
 * and sends the descriptor back over the socket whose number it finds in _FUSE_COMMFD. What it
 * has to say it says on stderr, which is caught so that our message can carry it on one line.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "daemon/mountpoint.h"

#define PROGRAM "fusermount3"

/* Runs argv with stderr into a pipe and, when not -1, comm handed on. */
static pid_t run(char *const argv[], int comm, int *errors)
{
	int pipefd[2];
	pid_t pid;

	if (pipe2(pipefd, O_CLOEXEC) < 0)
		return -errno;
	pid = fork();
	if (pid == 0) {
		char number[16];
		int null = open("/dev/null", O_RDWR);

		dup2(null, STDIN_FILENO);
		dup2(null, STDOUT_FILENO);
		dup2(pipefd[1], STDERR_FILENO);
		if (comm >= 0) {
			snprintf(number, sizeof(number), "%d", comm);
			fcntl(comm, F_SETFD, 0);
			setenv("_FUSE_COMMFD", number, 1);
		}
		execvp(argv[0], argv);
		dprintf(STDERR_FILENO, "%s: %s", PROGRAM, strerror(errno));
		_exit(127);
	}
	close(pipefd[1]);
	if (pid < 0) {
		close(pipefd[0]);
		return -errno;
	}
	*errors = pipefd[0];
	return pid;
}

/* Reads what it said, one line, and waits for its end. Returns its exit status. */
static int finish(pid_t pid, int errors, char *said, size_t size)
{
	size_t len = 0;
	ssize_t n;
	int status;

	while (len + 1 < size && (n = read(errors, said + len, size - 1 - len)) > 0)
		len += (size_t)n;
	said[len] = '\0';
	said[strcspn(said, "\n")] = '\0';
	close(errors);
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return -errno;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 255;
}

static int receive_fd(int comm)
{
	char byte, control[CMSG_SPACE(sizeof(int))];
	struct iovec iov = {.iov_base = &byte, .iov_len = 1};
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control,
		.msg_controllen = sizeof(control),
	};
	struct cmsghdr *cmsg;
	int fd;

	if (recvmsg(comm, &msg, MSG_CMSG_CLOEXEC) <= 0)
		return -EIO;
	cmsg = CMSG_FIRSTHDR(&msg);
	if (!cmsg || cmsg->cmsg_type != SCM_RIGHTS || cmsg->cmsg_len != CMSG_LEN(sizeof(int)))
		return -EIO;
	memcpy(&fd, CMSG_DATA(cmsg), sizeof(fd));
	return fd;
}

int fusermount_mount(const char *target, const char *options, struct failure *failure)
{
	char *argv[] = {(char *)PROGRAM, (char *)"-o", (char *)options, (char *)"--",
		(char *)target, NULL};
	CLEANUP_CLOSE int fd = -1;
	char said[512];
	int comm[2], errors, status;
	pid_t pid;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, comm) < 0)
		return fail(failure, -errno, "cannot make a socket: %s", why(-errno));
	pid = run(argv, comm[0], &errors);
	close(comm[0]);
	if (pid < 0) {
		close(comm[1]);
		return fail(failure, pid, "cannot run %s: %s", PROGRAM, why(pid));
	}
	fd = receive_fd(comm[1]);
	close(comm[1]);
	status = finish(pid, errors, said, sizeof(said));
	if (status == 0 && fd >= 0)
		return steal_fd(&fd);
	return fail(failure, -EPERM, "cannot mount on \"%s\": %s", target,
		said[0] ? said : PROGRAM " failed without a word");
}

int fusermount_unmount(const char *target, bool lazy)
{
	char *argv[] = {(char *)PROGRAM, (char *)(lazy ? "-uz" : "-u"), (char *)"--",
		(char *)target, NULL};
	char said[512];
	int errors, status;
	pid_t pid = run(argv, -1, &errors);

	if (pid < 0)
		return pid;
	status = finish(pid, errors, said, sizeof(said));
	if (status == 0)
		return 0;
	return strstr(said, "busy") ? -EBUSY : -EPERM;
}
