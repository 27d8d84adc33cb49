/* SPDX-License-Identifier: MIT */
/* Which mounts there are, and who keeps one busy. Shared by the daemon and `goldfs umount`. */
#ifndef GOLDFS_DAEMON_MOUNTINFO_H
#define GOLDFS_DAEMON_MOUNTINFO_H

#include <stdbool.h>
#include <stddef.h>

#define GOLDFS_MOUNT_TYPE "fuse.goldfs"

/* One line of /proc/self/mountinfo, unescaped. */
struct mount_entry {
	int id;
	unsigned major;
	unsigned minor;
	char *target;
	char *type;
	char *source;
};

void mount_entry_release(struct mount_entry *entry);
/* Parses a line. 0, or -EINVAL. Pure. */
int mount_entry_parse(const char *line, struct mount_entry *entry);
/* The uppermost mount on target (absolute). 0, -ENOENT: none, or another negative errno. */
int mount_find(const char *target, struct mount_entry *entry);
bool mount_is_goldfs(const struct mount_entry *entry);

/*
 * The absolute form of path. The last component may be a dead mount, which realpath(3) stumbles
 * over. 0 or -errno.
 */
int mount_resolve(const char *path, char **absolute);
/* Whether a dead FUSE daemon's mount stands there: "Transport endpoint is not connected". */
bool mount_is_dead(const char *target);

/*
 * Who uses the mount, as far as /proc shows it to us: "qemu (pid 12), bash (pid 13), /dev/loop0
 * (web1.img)", malloc'ed; NULL when nobody is seen.
 */
char *mount_users(const struct mount_entry *entry);

#endif
