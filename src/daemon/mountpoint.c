/* SPDX-License-Identifier: MIT */
/*
 * See mountpoint.h. The options say who may enter: with default_permissions the kernel checks the
 * modes of the files, and allow_other lets others come that far; without it only the mount's owner
 * does. The source is the images folder, so that findmnt says what a mount shows.
 */
#include "daemon/mountpoint.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "daemon/mountinfo.h"

#define MAX_READ (1024 * 1024)
#define DEVICE "/dev/fuse"

static int mount_as_root(const struct mount_config *config, struct failure *failure)
{
	CLEANUP_CLOSE int fd = open(DEVICE, O_RDWR | O_CLOEXEC);
	CLEANUP_FREE char *data = NULL;

	if (fd < 0)
		return fail(failure, -errno, "cannot open %s: %s%s", DEVICE, why(-errno),
			errno == ENOENT || errno == ENODEV ? "; try \"modprobe fuse\"" : "");
	if (asprintf(&data, "fd=%d,rootmode=40000,user_id=%u,group_id=%u,%sdefault_permissions,max_read=%d%s%s",
		    fd, getuid(), getgid(), config->allow_other ? "allow_other," : "", MAX_READ,
		    config->kernel_options ? "," : "",
		    config->kernel_options ? config->kernel_options : "") < 0) {
		data = NULL;
		return fail(failure, -ENOMEM, "out of memory");
	}
	if (mount(config->images, config->mountpoint, GOLDFS_MOUNT_TYPE, config->mount_flags,
		    data) < 0)
		return fail(failure, -errno, "cannot mount on \"%s\": %s", config->mountpoint,
			why(-errno));
	return steal_fd(&fd);
}

/* A value for a list that is separated by commas, with commas and backslashes escaped. */
static char *escape(const char *value)
{
	char *text = malloc(2 * strlen(value) + 1), *to = text;

	if (!text)
		return NULL;
	for (; *value; value++) {
		if (*value == ',' || *value == '\\')
			*to++ = '\\';
		*to++ = *value;
	}
	*to = '\0';
	return text;
}

static char *fusermount_options(const struct mount_config *config)
{
	static const struct {
		unsigned long flag;
		const char *name;
	} names[] = {
		{MS_RDONLY, ",ro"},
		{MS_NOEXEC, ",noexec"},
		{MS_SYNCHRONOUS, ",sync"},
		{MS_NOATIME, ",noatime"},
		{MS_DIRSYNC, ",dirsync"},
	};
	CLEANUP_FREE char *source = escape(config->images);
	char *text = NULL;
	size_t len;
	FILE *out = source ? open_memstream(&text, &len) : NULL;

	if (!out)
		return NULL;
	fprintf(out, "fsname=%s,subtype=goldfs,default_permissions,max_read=%d%s", source, MAX_READ,
		config->allow_other ? ",allow_other" : "");
	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
		if (config->mount_flags & names[i].flag)
			fputs(names[i].name, out);
	fclose(out);
	return text;
}

int mountpoint_mount(const struct mount_config *config, struct failure *failure)
{
	CLEANUP_FREE char *options = NULL;

	if (geteuid() == 0)
		return mount_as_root(config, failure);
	options = fusermount_options(config);
	if (!options)
		return fail(failure, -ENOMEM, "out of memory");
	return fusermount_mount(config->mountpoint, options, failure);
}

int mountpoint_unmount(const char *target, bool lazy)
{
	if (geteuid() != 0)
		return fusermount_unmount(target, lazy);
	if (umount2(target, (lazy ? MNT_DETACH : 0) | UMOUNT_NOFOLLOW) < 0)
		return -errno;
	return 0;
}

int mountpoint_clean(const char *target, struct failure *failure)
{
	while (mount_is_dead(target)) {
		struct mount_entry entry;
		bool ours;
		int r = mount_find(target, &entry);

		if (r < 0)
			return fail(failure, r, "\"%s\" is inside a file system that is not connected",
				target);
		ours = mount_is_goldfs(&entry);
		mount_entry_release(&entry);
		if (!ours)
			return fail(failure, -EBUSY,
				"mount point \"%s\" holds a dead mount that is not ours; run \"umount -l %s\"",
				target, target);
		r = mountpoint_unmount(target, true);
		if (r < 0)
			return fail(failure, r, "cannot take the dead mount off \"%s\": %s", target,
				why(r));
	}
	return 0;
}
