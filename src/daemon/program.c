/* SPDX-License-Identifier: MIT */
/* See program.h. */
#include "daemon/program.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "daemon/failure.h"

#define ARGUMENTS_MAX (CONFIG_OPTIONS_MAX * 2 + 32)

int program_open(struct program *program, const char *path)
{
	CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	struct stat st;

	program->fd = -1;
	if (fd < 0 || fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode) || !(st.st_mode & 0111))
		return -EACCES;
	/* It will run with our rights. */
	if ((st.st_uid != 0 && st.st_uid != geteuid()) || (st.st_mode & 0022))
		return -EPERM;
	if (snprintf(program->path, sizeof(program->path), "%s", path) >=
		(int)sizeof(program->path))
		return -ENAMETOOLONG;
	program->fd = steal_fd(&fd);
	return 0;
}

int program_open_own(struct program *program)
{
	ssize_t n = readlink("/proc/self/exe", program->path, sizeof(program->path) - 1);

	if (n < 0)
		return -errno;
	program->path[n] = '\0';
	program->fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	return program->fd < 0 ? -errno : 0;
}

void program_close(struct program *program)
{
	if (program->fd >= 0)
		close(program->fd);
	program->fd = -1;
}

bool program_is_below(const struct program *program, const char *folder)
{
	const size_t len = strlen(folder);
	char link[32], path[PATH_MAX];
	ssize_t n;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", program->fd);
	n = readlink(link, path, sizeof(path) - 1);
	if (n < 0)
		return true; /* nobody knows */
	path[n] = '\0';
	return strncmp(path, folder, len) == 0 && path[len] == '/';
}

bool program_same(const struct program *a, const struct program *b)
{
	struct stat x, y;

	return fstat(a->fd, &x) == 0 && fstat(b->fd, &y) == 0 && x.st_dev == y.st_dev &&
	       x.st_ino == y.st_ino && x.st_mtim.tv_sec == y.st_mtim.tv_sec &&
	       x.st_mtim.tv_nsec == y.st_mtim.tv_nsec;
}

struct arguments {
	char *argv[ARGUMENTS_MAX];
	size_t count;
};

/* There is room for all that can come, by ARGUMENTS_MAX; the strings are lent. */
static void add(struct arguments *args, const char *text)
{
	args->argv[args->count++] = (char *)text;
	args->argv[args->count] = NULL;
}

static void add_number(struct arguments *args, const char *name, int number)
{
	char *text = NULL;

	if (asprintf(&text, "%d", number) < 0)
		_exit(127); /* in the child, which starts nothing then */
	add(args, name);
	add(args, text);
}

/* Everything that says which mount it is. */
static void add_mount(struct arguments *args, const struct mount_config *config)
{
	char *store = NULL, *log = NULL;

	if (asprintf(&store, "store=%s", config->store) < 0 ||
		asprintf(&log, "log=%s", config->log_path ? config->log_path : "") < 0)
		_exit(127);
	if (config->foreground)
		add(args, "-f");
	for (size_t i = 0; i < config->option_count; i++) {
		add(args, "--option");
		add(args, config->options[i]);
	}
	/* What was relative when it was typed; the last one counts. */
	add(args, "--option");
	add(args, store);
	if (config->log == LOG_CHOSEN_FILE) {
		add(args, "--option");
		add(args, log);
	}
	add(args, "--");
	add(args, config->images);
	add(args, config->mountpoint);
}

/* In the child. The program sees nothing of us but what it is handed. */
static void become(const struct program *program, struct arguments *args)
{
	fexecve(program->fd, args->argv, environ);
	dprintf(STDERR_FILENO, "goldfs: cannot run \"%s\": %s\n", program->path, why(-errno));
	_exit(127);
}

static void hand_over(int fd)
{
	fcntl(fd, F_SETFD, 0);
}

pid_t program_start_worker(const struct program *program, const struct mount_config *config,
	const struct worker_link *link)
{
	struct arguments args = {.count = 0};
	pid_t pid = fork();

	if (pid != 0)
		return pid < 0 ? -errno : pid;
	add(&args, "goldfs");
	add(&args, WORKER_VERB);
	if (link->takeover)
		add(&args, "--takeover");
	add_number(&args, "--fuse-fd", link->fuse_fd);
	add_number(&args, "--lock-fd", link->lock_fd);
	add_number(&args, "--handover-fd", link->handover_fd);
	add_number(&args, "--channel-fd", link->channel_fd);
	add_mount(&args, config);
	hand_over(link->fuse_fd);
	hand_over(link->lock_fd);
	hand_over(link->handover_fd);
	hand_over(link->channel_fd);
	become(program, &args);
	return 0;
}

pid_t program_start_probe(const struct program *program, const struct mount_config *config,
	int output)
{
	struct arguments args = {.count = 0};
	pid_t pid = fork();
	int null;

	if (pid != 0)
		return pid < 0 ? -errno : pid;
	setpgid(0, 0);
	null = open("/dev/null", O_RDONLY);
	dup2(null, STDIN_FILENO);
	dup2(output, STDOUT_FILENO);
	dup2(output, STDERR_FILENO);
	add(&args, "goldfs");
	add(&args, WORKER_VERB);
	add(&args, "--probe");
	add_mount(&args, config);
	become(program, &args);
	return 0;
}
