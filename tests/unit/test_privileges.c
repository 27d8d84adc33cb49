/* SPDX-License-Identifier: MIT */
/* What a worker may still do when it has dropped its privileges. Each case is a child process. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#undef fail /* ours means something else */

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/sizes.h"
#include "daemon/privileges.h"
#include "scratch.h"
#include "store/modes.h"

#define KILLED (-1000)
#ifdef GOLDFS_SANITIZED
#define SANITIZED true
#else
#define SANITIZED false
#endif

/* Runs what in a child behind the filter: its errno as a negative number, 0, or KILLED. */
static int behind_filter(int (*what)(void))
{
	int status;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0) {
		const struct rlimit no_core = {0, 0};

		setrlimit(RLIMIT_CORE, &no_core);
		if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || privileges_filter_calls() < 0)
			_exit(255);
		errno = 0;
		_exit(what() < 0 ? errno : 0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (WIFSIGNALED(status)) {
		assert_int_equal(WTERMSIG(status), SIGSYS);
		return KILLED;
	}
	assert_int_not_equal(WEXITSTATUS(status), 255);
	return -WEXITSTATUS(status);
}

static int mode_is_filter(void)
{
	return prctl(PR_SET_NAME, "x");
}

/* Not called where a sanitizer is in. */
#define MAYBE_UNUSED __attribute__((unused))

static int MAYBE_UNUSED run_program(void)
{
	char *argv[] = {(char *)"true", NULL};

	return execv("/bin/true", argv);
}

static int MAYBE_UNUSED trace(void)
{
	return (int)ptrace(PTRACE_TRACEME, 0, 0, 0);
}

static int mount_something(void)
{
	return mount("none", "/mnt", "tmpfs", 0, NULL);
}

static int own_namespace(void)
{
	return unshare(CLONE_NEWUSER);
}

static int MAYBE_UNUSED clone_into_namespace(void)
{
	return (int)syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, NULL, NULL, NULL, NULL);
}

static int MAYBE_UNUSED clone_by_new_call(void)
{
	char args[88] = "";

	return (int)syscall(SYS_clone3, args, sizeof(args));
}

static int MAYBE_UNUSED internet(void)
{
	return socket(AF_INET, SOCK_STREAM, 0);
}

static int MAYBE_UNUSED memory_to_run(void)
{
	return mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) ==
			MAP_FAILED ?
		-1 :
		0;
}

static int MAYBE_UNUSED raise_limit(void)
{
	const struct rlimit limit = {1000, 1000};

	return setrlimit(RLIMIT_NOFILE, &limit);
}

static int MAYBE_UNUSED stop_parent(void)
{
	return kill(getppid(), SIGSTOP);
}

static int MAYBE_UNUSED call_of_the_future(void)
{
	return (int)syscall(9999);
}

static int become_another(void)
{
	return setuid(1);
}

static void *thread_main(void *arg)
{
	free(malloc(200000));
	return arg;
}

/* What a worker does all day: threads, children, memory, descriptors. */
static int work(void)
{
	struct rlimit limit;
	pthread_t thread;
	int status, fds[2];
	pid_t pid;
	FILE *file;

	for (int i = 0; i < 4; i++)
		if (pthread_create(&thread, NULL, thread_main, NULL) ||
			pthread_join(thread, NULL))
			return -1;
	pid = fork();
	if (pid == 0)
		_exit(0);
	if (pid < 0 || waitpid(pid, &status, 0) != pid || status)
		return -1;
	file = fopen("/proc/self/status", "re");
	if (!file || getc(file) == EOF || fclose(file))
		return -1;
	if (pipe2(fds, O_CLOEXEC) < 0 || socket(AF_UNIX, SOCK_DGRAM, 0) < 0 ||
		getrlimit(RLIMIT_NOFILE, &limit) < 0 || inotify_init1(IN_CLOEXEC) < 0)
		return -1;
	free(malloc(64 * MIB));
	errno = 0;
	return 0;
}

static void test_calls(void **state)
{
	assert_int_equal(behind_filter(mode_is_filter), 0);
	assert_int_equal(behind_filter(work), 0);
	assert_int_equal(behind_filter(mount_something), KILLED);
	assert_int_equal(behind_filter(own_namespace), KILLED);
	assert_int_equal(behind_filter(become_another), KILLED);
	if (SANITIZED)
		return;
	assert_int_equal(behind_filter(run_program), KILLED);
	assert_int_equal(behind_filter(trace), KILLED);
	assert_int_equal(behind_filter(clone_into_namespace), -EPERM);
	assert_int_equal(behind_filter(clone_by_new_call), -ENOSYS);
	assert_int_equal(behind_filter(internet), -EPERM);
	assert_int_equal(behind_filter(memory_to_run), -EPERM);
	assert_int_equal(behind_filter(raise_limit), -EPERM);
	assert_int_equal(behind_filter(stop_parent), -EPERM);
	assert_int_equal(behind_filter(call_of_the_future), -EPERM);
}

static struct scratch *area;

/* In a child: 0 when everything that should work works, else the line. */
#define MUST(condition) \
	do { \
		if (!(condition)) \
			return __LINE__ & 255; \
	} while (0)

static int confined_work(int store_fd)
{
	int fd;

	MUST(openat(store_fd, "new", O_RDWR | O_CREAT, 0600) >= 0);
	MUST(mkdirat(store_fd, "golden", 0700) == 0);
	MUST(renameat(store_fd, "new", store_fd, "golden/new") == 0);
	MUST(unlinkat(store_fd, "golden/new", 0) == 0);
	fd = openat(area->dirfd, "images/a.img", O_RDONLY);
	MUST(fd >= 0);
	/* A pin. */
	MUST(linkat(area->dirfd, "images/a.img", store_fd, "golden/1", 0) == 0);
	MUST(open("/proc/self/status", O_RDONLY) >= 0);
	MUST(open("/dev/null", O_RDWR) >= 0);

	MUST(open("/etc/passwd", O_RDONLY) < 0 && errno == EACCES);
	MUST(openat(area->dirfd, "outside", O_RDONLY) < 0 && errno == EACCES);
	MUST(openat(area->dirfd, "new", O_WRONLY | O_CREAT, 0600) < 0 && errno == EACCES);
	/* A promoted image. */
	MUST(openat(store_fd, "image", O_RDWR | O_CREAT, 0600) >= 0);
	MUST(linkat(store_fd, "image", area->dirfd, "images/new", 0) == 0);
	MUST(unlinkat(area->dirfd, "images/a.img", 0) < 0 && errno == EACCES);
	MUST(renameat(store_fd, "image", area->dirfd, "images/a.img") < 0);
	MUST(mkdirat(area->dirfd, "images/folder", 0700) < 0 && errno == EACCES);
	MUST(linkat(area->dirfd, "outside", store_fd, "golden/2", 0) < 0);
	MUST(mknodat(store_fd, "fifo", S_IFIFO | 0600, 0) < 0 && errno == EACCES);
	MUST(kill(getppid(), 0) < 0 || syscall(SYS_landlock_create_ruleset, NULL, 0, 1u) < 6);
	return 0;
}

static void test_files(void **state)
{
	struct mount_config config = {.store = NULL};
	struct scratch scratch;
	int store_fd, status;
	char images[5000];
	pid_t pid;

	scratch_init(&scratch);
	area = &scratch;
	snprintf(images, sizeof(images), "%s/images", scratch.path);
	config.images = images;
	mkdirat(scratch.dirfd, "images", 0755);
	mkdirat(scratch.dirfd, "store", 0700);
	scratch_fill(&scratch, "images/a.img", 10, 1);
	scratch_fill(&scratch, "outside", 10, 1);
	store_fd = openat(scratch.dirfd, "store", O_RDONLY | O_DIRECTORY);
	pid = fork();
	if (pid == 0) {
		int r = prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);

		if (r == 0)
			r = privileges_confine_files(&config, store_fd);
		_exit(r == -EOPNOTSUPP ? 255 : r < 0 ? 254 : confined_work(store_fd));
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	close(store_fd);
	scratch_release(&scratch);
	if (WEXITSTATUS(status) == 255)
		print_message("files are not confined: no Landlock here, or sanitizers\n");
	else
		assert_int_equal(WEXITSTATUS(status), 0);
}

static bool keeps(bool foreign, unsigned capability)
{
	return privileges_capabilities(foreign) >> capability & 1;
}

static void test_capabilities(void **state)
{
	assert_true(keeps(false, CAP_DAC_READ_SEARCH));
	assert_true(keeps(false, CAP_LEASE));
	assert_true(keeps(false, CAP_FOWNER));
	assert_false(keeps(false, CAP_DAC_OVERRIDE));
	assert_true(keeps(true, CAP_DAC_OVERRIDE));
	assert_false(keeps(true, CAP_SYS_ADMIN));
	assert_int_equal(__builtin_popcountll(privileges_capabilities(false)), 3);
}

static unsigned mode_of(struct scratch *scratch, const char *name)
{
	struct stat st;

	assert_int_equal(fstatat(scratch->dirfd, name, &st, AT_SYMLINK_NOFOLLOW), 0);
	return st.st_mode & 07777;
}

static void test_modes(void **state)
{
	struct scratch scratch;
	const int dir = (scratch_init(&scratch), scratch.dirfd);

	mkdirat(dir, "layer", 0755);
	mkdirat(dir, "golden", 0755);
	mkdirat(dir, "mine", 0755);
	assert_int_equal(fchmod(dir, 0755), 0);
	scratch_fill(&scratch, "superblock", 10, 1);
	scratch_fill(&scratch, "layer/1.data", 10, 1);
	scratch_fill(&scratch, "golden/1", 10, 1);
	scratch_fill(&scratch, "mine/file", 10, 1);
	assert_int_equal(symlinkat("mine/file", dir, "log"), 0);
	scratch_fill(&scratch, "linked", 10, 1);
	assert_int_equal(linkat(dir, "linked", dir, "mine/linked", 0), 0);
	assert_false(store_modes_are_foreign(dir));

	store_modes_tighten(dir, "x");
	assert_int_equal(mode_of(&scratch, "."), 0700);
	assert_int_equal(mode_of(&scratch, "layer"), 0700);
	assert_int_equal(mode_of(&scratch, "golden"), 0700);
	assert_int_equal(mode_of(&scratch, "superblock"), 0600);
	assert_int_equal(mode_of(&scratch, "layer/1.data"), 0600);
	/* A pin has its image's mode; what is not ours, or elsewhere too, is left alone. */
	assert_int_equal(mode_of(&scratch, "golden/1"), 0644);
	assert_int_equal(mode_of(&scratch, "mine"), 0755);
	assert_int_equal(mode_of(&scratch, "mine/file"), 0644);
	assert_int_equal(mode_of(&scratch, "linked"), 0644);

	if (geteuid() == 0) {
		assert_int_equal(fchownat(dir, "layer", 1, 1, 0), 0);
		assert_true(store_modes_are_foreign(dir));
	}
	scratch_release(&scratch);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_calls),
		cmocka_unit_test(test_files),
		cmocka_unit_test(test_capabilities),
		cmocka_unit_test(test_modes),
	};

	umask(022);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
