/* SPDX-License-Identifier: MIT */
/*
 * The files that serving a mount takes; everything else cannot be opened, whatever its mode says.
 *
 * A worker of root's is the owner of nearly all system files, and CAP_DAC_READ_SEARCH lets it read
 * all others. Landlock (Linux 5.13) takes that back: paths below the folders named here, and no
 * others, may be opened from now on. What is open already stays so.
 *
 *   store	everything that makes and changes files and folders
 *   images	reading, and making new files, which promotion does; never removing or replacing
 *		one. Writing, too, as far as modes allow it: the kernel lets no link be made to a
 *		place that gives a file more rights than it had where it came from, and where the
 *		store is elsewhere a new image is written in place before it has a name. Nothing in
 *		here ever opens an image for it
 *   /proc	reading: who makes a control request, who waits for a lease
 *   /sys/devices/system/cpu	how many threads are worth having
 *   /dev/null	reading and writing
 *
 * No program may be run, no special file made, no signal sent to others, no TCP port used. Before
 * version 2 of Landlock (Linux 5.19) hard links between folders are impossible under it, so it is
 * left out there.
 */
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/sizes.h"
#include "daemon/privileges.h"

/* linux/landlock.h of the oldest distribution we build on knows but half of it. */
#define ABI_MIN 2 /* links between folders */

#define FS_EXECUTE (1u << 0)
#define FS_WRITE_FILE (1u << 1)
#define FS_READ_FILE (1u << 2)
#define FS_READ_DIR (1u << 3)
#define FS_REMOVE_DIR (1u << 4)
#define FS_REMOVE_FILE (1u << 5)
#define FS_MAKE_DIR (1u << 7)
#define FS_MAKE_REG (1u << 8)
#define FS_REFER (1u << 13)
#define FS_TRUNCATE (1u << 14)	/* version 3 */
#define FS_IOCTL_DEV (1u << 15) /* version 5 */

#define FS_VERSION_2 ((1u << 14) - 1)
#define FS_FILE (FS_EXECUTE | FS_WRITE_FILE | FS_READ_FILE | FS_TRUNCATE | FS_IOCTL_DEV)
#define NET_TCP 3u   /* bind, connect; version 4 */
#define SCOPE_ALL 3u /* abstract sockets, signals; version 6 */

#define READ (FS_READ_FILE | FS_READ_DIR)
#define CHANGE (FS_WRITE_FILE | FS_TRUNCATE | FS_REFER)
#define MAKE (FS_REMOVE_DIR | FS_REMOVE_FILE | FS_MAKE_DIR | FS_MAKE_REG)

struct ruleset_attr {
	uint64_t handled_access_fs;
	uint64_t handled_access_net;
	uint64_t scoped;
};

struct path_beneath_attr {
	uint64_t allowed_access;
	int32_t parent_fd;
} __attribute__((packed));

static int abi_version(void)
{
	return (int)syscall(SYS_landlock_create_ruleset, NULL, 0, 1u /* ask for the version */);
}

static int make_ruleset(int abi, uint64_t *handled)
{
	struct ruleset_attr attr = {.handled_access_fs = FS_VERSION_2};
	size_t size = offsetof(struct ruleset_attr, handled_access_net);
	int fd;

	if (abi >= 3)
		attr.handled_access_fs |= FS_TRUNCATE;
	if (abi >= 5)
		attr.handled_access_fs |= FS_IOCTL_DEV;
	if (abi >= 4) {
		attr.handled_access_net = NET_TCP;
		size = offsetof(struct ruleset_attr, scoped);
	}
	if (abi >= 6) {
		attr.scoped = SCOPE_ALL;
		size = sizeof(attr);
	}
	*handled = attr.handled_access_fs;
	fd = (int)syscall(SYS_landlock_create_ruleset, &attr, size, 0u);
	return fd < 0 ? -errno : fd;
}

static int allow(int ruleset, int fd, uint64_t access)
{
	const struct path_beneath_attr attr = {.allowed_access = access, .parent_fd = fd};

	if (syscall(SYS_landlock_add_rule, ruleset, 1u /* path beneath */, &attr, 0u) < 0)
		return -errno;
	return 0;
}

/* What is not there needs no rule. */
static int allow_path(int ruleset, const char *path, uint64_t access)
{
	CLEANUP_CLOSE int fd = open(path, O_PATH | O_CLOEXEC);
	struct stat st;

	if (fd < 0)
		return errno == ENOENT ? 0 : -errno;
	if (fstat(fd, &st) < 0)
		return -errno;
	return allow(ruleset, fd, S_ISDIR(st.st_mode) ? access : access & FS_FILE);
}

static int add_rules(int ruleset, const struct mount_config *config, int store_fd, uint64_t handled)
{
	const uint64_t images = READ | (config->read_only ? 0 : CHANGE | FS_MAKE_REG);
	int r = allow(ruleset, store_fd, handled & (config->read_only ? READ : READ | CHANGE | MAKE));

	if (r == 0)
		r = allow_path(ruleset, config->images, handled & images);
	if (r == 0)
		r = allow_path(ruleset, "/proc", READ);
	if (r == 0)
		r = allow_path(ruleset, "/sys/devices/system/cpu", READ);
	if (r == 0)
		r = allow_path(ruleset, "/dev/null", FS_READ_FILE | FS_WRITE_FILE);
	return r;
}

int privileges_confine_files(const struct mount_config *config, int store_fd)
{
#ifdef GOLDFS_SANITIZED
	return -EOPNOTSUPP; /* reports are made with files from everywhere */
#endif
	CLEANUP_CLOSE int ruleset = -1;
	const int abi = abi_version();
	uint64_t handled;
	int r;

	if (abi < ABI_MIN)
		return -EOPNOTSUPP;
	ruleset = make_ruleset(abi, &handled);
	if (ruleset < 0)
		return ruleset;
	r = add_rules(ruleset, config, store_fd, handled);
	if (r == 0 && syscall(SYS_landlock_restrict_self, ruleset, 0u) < 0)
		r = -errno;
	return r;
}
