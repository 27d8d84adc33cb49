/* SPDX-License-Identifier: MIT */
/*
 * The system calls that serving a mount takes; everything else fails.
 *
 * A call that is not listed answers EPERM and does no harm to the mount: the next C library may use
 * one that nobody here has heard of, and programs know how to go on without. Where it answers
 * ENOSYS instead, the library falls back to an older call that can be looked into: the arguments of
 * clone3(2) lie in memory, which a filter does not see. Only what no library ever does on its own
 * (starting programs, tracing, mounting, changing namespaces, loading code into the kernel) ends
 * the process at once: whoever tries that has taken it over already.
 *
 * Arguments are looked at where a call could do more than is needed:
 *
 *   clone	threads and processes, no namespaces
 *   mmap, mprotect	no memory that can be run: all code came with the program
 *   socket	local ones, for the system log
 *   ioctl	sharing extents between files; which of our own pages are mapped; and what isatty(3) asks
 *   prctl	names, and the signal for when the parent dies
 *   kill	only to end the process that works on a pin, or to look for one
 *   prlimit64	only asking
 *
 * The filter belongs to the process for good, threads and children included. Sanitizers do many
 * unusual things (they run a symbolizer, trace themselves, want memory of all kinds), so in their
 * builds everything is allowed but what ends the process; the mode is the same.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <sched.h>
#include <seccomp.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>

#include "base/sizes.h"
#include "daemon/privileges.h"
#include "image/present.h"

#define LOW32 0xffffffffu
#ifndef PR_SET_VMA
#define PR_SET_VMA 0x53564d41
#endif

#define NAMESPACES \
	(CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | \
		CLONE_NEWPID | CLONE_NEWNET)

static const char *const allowed[] = {
	/* content */
	"read", "readv", "pread64", "preadv", "preadv2", "write", "writev", "pwrite64", "pwritev",
	"pwritev2", "lseek", "_llseek", "copy_file_range", "fallocate", "ftruncate", "ftruncate64",
	"fsync", "fdatasync", "sync_file_range", "sync_file_range2", "fadvise64", "fadvise64_64",
	"readahead",
	/* names and attributes */
	"open", "openat", "openat2", "close", "close_range", "stat", "fstat", "lstat", "newfstatat",
	"fstatat64", "statx", "statfs", "fstatfs", "statfs64", "fstatfs64", "access", "faccessat",
	"faccessat2", "readlink", "readlinkat", "getdents64", "getcwd", "mkdir", "mkdirat", "unlink",
	"unlinkat", "rmdir", "rename", "renameat", "renameat2", "linkat", "utimensat", "fchmod",
	/* descriptors and waiting */
	"fcntl", "fcntl64", "flock", "dup", "dup2", "dup3", "pipe2", "poll", "ppoll", "ppoll_time64",
	"eventfd2", "signalfd4", "inotify_init1", "inotify_add_watch", "inotify_rm_watch",
	/* the system log, and a channel that was handed over */
	"connect", "sendto", "sendmsg", "recvfrom", "recvmsg", "getsockopt", "getsockname",
	"shutdown",
	/* memory */
	"brk", "munmap", "mremap", "madvise", "msync", "mincore",
	/* threads, processes, signals */
	"futex", "futex_time64", "futex_waitv", "set_robust_list", "get_robust_list", "rseq",
	"set_tid_address", "membarrier", "sched_yield", "sched_getaffinity", "getcpu", "exit",
	"exit_group", "wait4", "waitid", "fork", "gettid", "getpid", "getppid", "tgkill",
	"rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "rt_sigtimedwait", "rt_sigsuspend",
	"sigaltstack", "restart_syscall", "setpriority", "getpriority", "ioprio_set",
	/* what everybody may know */
	"getuid", "geteuid", "getgid", "getegid", "uname", "sysinfo", "getrusage",
	"getrlimit", "ugetrlimit", "getrandom", "clock_gettime", "clock_gettime64", "clock_getres",
	"clock_nanosleep", "clock_nanosleep_time64", "nanosleep", "gettimeofday", "time", "times",
};

/* No C library comes here by itself. */
static const char *const fatal[] = {
	"process_vm_readv", "process_vm_writev", "kcmp", "pidfd_getfd", "process_madvise",
	"kexec_load", "kexec_file_load", "init_module", "finit_module", "delete_module", "bpf",
	"perf_event_open", "mount", "umount2", "userfaultfd", "io_uring_setup", "io_uring_enter", "io_uring_register",
	"mount_setattr", "move_mount", "open_tree", "fsopen", "fsconfig", "fsmount", "fspick",
	"pivot_root", "chroot", "setns", "unshare", "open_by_handle_at", "name_to_handle_at", "swapon",
	"swapoff", "reboot", "acct", "quotactl", "iopl", "ioperm", "add_key", "request_key", "keyctl",
	"settimeofday", "clock_settime", "clock_adjtime", "adjtimex", "sethostname", "setdomainname",
	"syslog", "vhangup", "lookup_dcookie", "nfsservctl", "uselib", "modify_ldt", "chown",
	"fchown", "lchown", "fchownat", "mknod", "mknodat", "setuid", "setgid", "setreuid",
	"setregid", "setresuid", "setresgid", "setfsuid", "setfsgid", "setgroups", "capset",
};

/* The same, but sanitizers do it. */
static const char *const fatal_unless_sanitized[] = {"ptrace", "personality", "execve", "execveat"};

/* With one argument that has to be a given value, under a mask. */
static const struct {
	const char *name;
	unsigned argument;
	uint64_t mask;
	uint64_t value;
} checked[] = {
	{"clone", 0, NAMESPACES, 0},
	{"mmap", 2, PROT_EXEC, 0},
	{"mmap2", 2, PROT_EXEC, 0},
	{"mprotect", 2, PROT_EXEC, 0},
	{"socket", 0, LOW32, AF_UNIX},
	{"ioctl", 1, LOW32, FICLONE},
	{"ioctl", 1, LOW32, FICLONERANGE},
	{"ioctl", 1, LOW32, TCGETS},
	{"ioctl", 1, LOW32, PRESENT_SCAN},
	{"prctl", 0, LOW32, PR_SET_NAME},
	{"prctl", 0, LOW32, PR_GET_NAME},
	{"prctl", 0, LOW32, PR_SET_PDEATHSIG},
	{"prctl", 0, LOW32, PR_SET_VMA},
	{"kill", 1, LOW32, SIGKILL},
	{"kill", 1, LOW32, 0},
	{"prlimit64", 2, UINT64_MAX, 0},
};

/* A call that the library does not know, or this processor does not have, needs no rule. */
static int add_names(scmp_filter_ctx filter, uint32_t action, const char *const *names,
	size_t count)
{
	for (size_t i = 0; i < count; i++) {
		int number = seccomp_syscall_resolve_name(names[i]);
		int r;

		if (number == __NR_SCMP_ERROR)
			continue;
		r = seccomp_rule_add(filter, action, number, 0);
		if (r < 0)
			return r;
	}
	return 0;
}

static int add_checked(scmp_filter_ctx filter)
{
	for (size_t i = 0; i < ARRAY_SIZE(checked); i++) {
		int number = seccomp_syscall_resolve_name(checked[i].name);
		const struct scmp_arg_cmp compare = {
			.arg = checked[i].argument,
			.op = SCMP_CMP_MASKED_EQ,
			.datum_a = checked[i].mask,
			.datum_b = checked[i].value,
		};
		int r;

		if (number == __NR_SCMP_ERROR)
			continue;
		r = seccomp_rule_add_array(filter, SCMP_ACT_ALLOW, number, 1, &compare);
		if (r < 0)
			return r;
	}
	return 0;
}

#define ADD(filter, action, names) add_names(filter, action, names, ARRAY_SIZE(names))

static int add_rules(scmp_filter_ctx filter, bool sanitized)
{
	static const char *const unseen[] = {"clone3"};
	int r = ADD(filter, SCMP_ACT_KILL_PROCESS, fatal);

	if (r < 0 || sanitized)
		return r;
	r = ADD(filter, SCMP_ACT_KILL_PROCESS, fatal_unless_sanitized);
	if (r == 0)
		r = ADD(filter, SCMP_ACT_ERRNO(ENOSYS), unseen);
	if (r == 0)
		r = ADD(filter, SCMP_ACT_ALLOW, allowed);
	return r < 0 ? r : add_checked(filter);
}

int privileges_filter_calls(void)
{
#ifdef GOLDFS_SANITIZED
	const bool sanitized = true;
#else
	const bool sanitized = false;
#endif
	scmp_filter_ctx filter = seccomp_init(sanitized ? SCMP_ACT_ALLOW : SCMP_ACT_ERRNO(EPERM));
	int r;

	if (!filter)
		return -ENOMEM;
	r = seccomp_attr_set(filter, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
	/* Older kernels slow the whole process down otherwise; nothing here runs foreign code. */
	seccomp_attr_set(filter, SCMP_FLTATR_CTL_SSB, 1);
	seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, 2);
	if (r == 0)
		r = add_rules(filter, sanitized);
	if (r == 0)
		r = seccomp_load(filter);
	seccomp_release(filter);
	return r;
}
