/* SPDX-License-Identifier: MIT */
/*
 * goldfs umount MOUNTPOINT
 *
 * Unmounting is the kernel's work and quick; the daemon then still writes what is in its journal
 * to its place and gives the store's lock up last. This command returns after that, so that what
 * comes next (a copy of the store, a mount elsewhere, a power switch) finds it whole. Where the
 * store is it asks the mount, while it is there to be asked.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "cli/message.h"
#include "cli/verbs.h"
#include "daemon/mountinfo.h"
#include "daemon/mountpoint.h"
#include "store/lock.h"

#define POLL_MS 20
#define PATIENCE_MS (10 * 60 * 1000)
#define BUSY_PATIENCE_MS 500

/* The lock file of the mount's store, open; -1 when it cannot be told. */
static int open_lock(const struct mount_entry *mount)
{
	char path[PATH_MAX + 16];
	ssize_t n = getxattr(mount->target, "user.goldfs.store", path, PATH_MAX);

	if (n > 0)
		memcpy(path + n, "/lock", sizeof("/lock"));
	else /* not ours to ask: another user's mount; the usual place then */
		snprintf(path, sizeof(path), "%s/.goldfs/lock", mount->source);
	return open(path, O_RDONLY | O_CLOEXEC);
}

/* Waits until the process that held the lock does not any more. */
static int wait_for_lock(int lock, pid_t daemon, const char *target)
{
	const struct timespec pause = {.tv_nsec = POLL_MS * 1000000L};
	pid_t holder = daemon;

	for (int waited = 0; waited < PATIENCE_MS; waited += POLL_MS) {
		if (!store_lock_is_held(lock, &holder) || holder != daemon)
			return EXIT_DONE;
		nanosleep(&pause, NULL);
	}
	return cli_fail("\"%s\" is unmounted here, but its daemon (pid %d) still runs; another mount namespace may use it",
		target, (int)daemon);
}

static int busy(const struct mount_entry *mount)
{
	CLEANUP_FREE char *users = mount_users(mount);

	if (users)
		return cli_fail("\"%s\" is in use by %s; end that and try again", mount->target,
			users);
	return cli_fail("\"%s\" is in use; as root, \"fuser -vm %s\" shows by whom", mount->target,
		mount->target);
}

/* Who only looks now and then (goldfs top, whoever reads metrics) is gone the next moment. */
static int unmount_patiently(const char *target)
{
	const struct timespec pause = {.tv_nsec = POLL_MS * 1000000L};
	int r = mountpoint_unmount(target, false);

	for (int waited = 0; r == -EBUSY && waited < BUSY_PATIENCE_MS; waited += POLL_MS) {
		nanosleep(&pause, NULL);
		r = mountpoint_unmount(target, false);
	}
	return r;
}

static int unmount(const struct mount_entry *mount)
{
	CLEANUP_CLOSE int lock = -1;
	pid_t daemon = 0;
	bool held = false;
	int r;

	if (mount_is_dead(mount->target)) {
		r = mountpoint_unmount(mount->target, true);
		return r == 0 ? EXIT_DONE
			      : cli_fail("cannot unmount \"%s\": %s", mount->target, cli_reason(-r));
	}
	lock = open_lock(mount);
	if (lock >= 0)
		held = store_lock_is_held(lock, &daemon);
	r = unmount_patiently(mount->target);
	if (r == -EBUSY)
		return busy(mount);
	if (r < 0)
		return cli_fail("cannot unmount \"%s\": %s", mount->target, cli_reason(-r));
	return held ? wait_for_lock(lock, daemon, mount->target) : EXIT_DONE;
}

int verb_umount(int argc, char **argv)
{
	static const struct option longs[] = {{NULL, 0, NULL, 0}};
	CLEANUP_FREE char *target = NULL;
	struct mount_entry mount;
	int opt, r;

	opterr = 0;
	opt = getopt_long(argc, argv, ":", longs, NULL);
	if (opt != -1)
		return cli_bad_option("umount", opt, argv);
	if (argc - optind != 1)
		return cli_usage("umount", "one mount point is needed");
	r = mount_resolve(argv[optind], &target);
	if (r < 0)
		return cli_fail("\"%s\": %s", argv[optind], cli_reason(-r));
	if (chdir("/") < 0) /* not to be what keeps it busy */
		return cli_fail("cannot leave the working folder: %s", cli_reason(errno));
	r = mount_find(target, &mount);
	if (r == 0 && !mount_is_goldfs(&mount)) {
		mount_entry_release(&mount);
		r = -ENOENT;
	}
	if (r < 0)
		return cli_fail("\"%s\" is not the mount point of a goldfs", argv[optind]);
	r = unmount(&mount);
	mount_entry_release(&mount);
	return r;
}
