/* SPDX-License-Identifier: MIT */
/*
 * What must be right before a mount is tried.
 *
 * Each wrong thing that an administrator can type gets its own sentence, said by the process that
 * he started, before the first file is made: a mount that cannot be leaves nothing behind. Races
 * with others who change things meanwhile end in the plainer messages of later steps.
 */
#include "daemon/prepare.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "daemon/mountinfo.h"
#include "daemon/mountpoint.h"

#define STORE_NAME ".goldfs"

static void replace(char **path, char *absolute)
{
	free(*path);
	*path = absolute;
}

/* Whether path is folder or lies below it; both absolute. */
static bool is_inside(const char *path, const char *folder)
{
	size_t len = strlen(folder);

	if (strcmp(folder, "/") == 0)
		return true;
	return strncmp(path, folder, len) == 0 && (path[len] == '/' || !path[len]);
}

static int check_images(struct mount_config *config, struct failure *failure)
{
	char *absolute = realpath(config->images, NULL);
	struct stat st;

	if (!absolute)
		return fail(failure, -errno, "images folder \"%s\": %s", config->images, why(-errno));
	replace(&config->images, absolute);
	if (stat(config->images, &st) < 0)
		return fail(failure, -errno, "images folder \"%s\": %s", config->images, why(-errno));
	if (!S_ISDIR(st.st_mode))
		return fail(failure, -ENOTDIR,
			"\"%s\" is not a folder; name the folder that holds the golden images",
			config->images);
	if (access(config->images, R_OK | X_OK) < 0)
		return fail(failure, -errno, "images folder \"%s\" cannot be read: %s",
			config->images, why(-errno));
	return 0;
}

/* A path whose last component may not exist yet. */
static int resolve_new(const char *path, char **absolute)
{
	CLEANUP_FREE char *copy = strdup(path);
	CLEANUP_FREE char *parent = NULL;
	const char *name;
	size_t len;
	char *slash;

	*absolute = realpath(path, NULL);
	if (*absolute)
		return 0;
	if (errno != ENOENT || !copy)
		return -errno;
	for (len = strlen(copy); len > 1 && copy[len - 1] == '/'; len--)
		copy[len - 1] = '\0';
	slash = strrchr(copy, '/');
	name = slash ? slash + 1 : copy;
	if (slash == copy)
		parent = strdup("/");
	else if (slash)
		*slash = '\0';
	if (!parent)
		parent = realpath(slash ? copy : ".", NULL);
	if (!parent)
		return -errno;
	if (asprintf(absolute, "%s/%s", strcmp(parent, "/") == 0 ? "" : parent, name) < 0)
		return -ENOMEM;
	return 0;
}

/* Whether the folder holds something and yet no superblock. Its own lock and log do not count. */
static bool is_foreign(const char *path)
{
	static const char *const ours[] = {".", "..", "lock", "log", "log.1", "lost+found"};
	CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	bool foreign = false;
	struct dirent *entry;
	DIR *dir;

	if (fd < 0 || faccessat(fd, "superblock", F_OK, 0) == 0)
		return false;
	dir = fdopendir(fd);
	if (!dir)
		return false;
	fd = -1;
	while (!foreign && (entry = readdir(dir))) {
		foreign = true;
		for (size_t i = 0; i < sizeof(ours) / sizeof(*ours); i++)
			if (strcmp(entry->d_name, ours[i]) == 0)
				foreign = false;
	}
	closedir(dir);
	return foreign;
}

static int check_new_store(const struct mount_config *config, struct failure *failure)
{
	CLEANUP_FREE char *parent = strdup(config->store);
	char *slash = parent ? strrchr(parent, '/') : NULL;

	if (!slash)
		return fail(failure, -ENOMEM, "out of memory");
	slash[slash == parent] = '\0';
	if (access(parent, W_OK | X_OK) == 0 && !config->read_only)
		return 0;
	if (config->read_only && errno != EROFS)
		return fail(failure, -ENOENT,
			"store \"%s\" does not exist, and a read-only mount does not make one",
			config->store);
	return fail(failure, -errno,
		"cannot make store \"%s\": %s; choose another place with -o store=DIR", config->store,
		why(-errno));
}

/* Makes the store's path absolute, whether it exists or not. */
static int resolve_store(struct mount_config *config, struct failure *failure)
{
	char *absolute;
	int r;

	if (!config->store &&
		asprintf(&config->store, "%s/%s", config->images, STORE_NAME) < 0) {
		config->store = NULL;
		return fail(failure, -ENOMEM, "out of memory");
	}
	r = resolve_new(config->store, &absolute);
	if (r < 0)
		return fail(failure, r, "store \"%s\": %s", config->store, why(r));
	replace(&config->store, absolute);
	if (strcmp(config->store, config->images) == 0)
		return fail(failure, -EINVAL,
			"the store cannot be the images folder \"%s\" itself; leave -o store= out for \"%s/%s\"",
			config->images, config->images, STORE_NAME);
	return 0;
}

static int check_store(const struct mount_config *config, struct failure *failure)
{
	struct stat st;

	if (stat(config->store, &st) < 0)
		return errno == ENOENT ? check_new_store(config, failure)
				       : fail(failure, -errno, "store \"%s\": %s", config->store,
						 why(-errno));
	if (!S_ISDIR(st.st_mode))
		return fail(failure, -ENOTDIR, "store \"%s\" is not a folder", config->store);
	if (is_foreign(config->store))
		return fail(failure, -ENOTEMPTY,
			"\"%s\" is no goldfs store and not empty; name an empty or new folder with -o store=DIR",
			config->store);
	if (config->read_only || access(config->store, W_OK | X_OK) == 0)
		return 0;
	if (errno == EROFS)
		return fail(failure, -EROFS,
			"store \"%s\" is on a read-only file system; choose another with -o store=DIR, or mount with -o ro",
			config->store);
	return fail(failure, -errno, "store \"%s\" cannot be written: %s", config->store, why(-errno));
}

/* Makes the mount point's path absolute and looks at where it is. */
static int resolve_mountpoint(struct mount_config *config, struct failure *failure)
{
	const char *target;
	char *absolute;
	int r = mount_resolve(config->mountpoint, &absolute);

	if (r < 0)
		return fail(failure, r, "mount point \"%s\": %s", config->mountpoint, why(r));
	replace(&config->mountpoint, absolute);
	target = absolute;

	if (is_inside(target, config->store))
		return fail(failure, -EINVAL, "mount point \"%s\" is inside the store \"%s\"", target,
			config->store);
	if (is_inside(target, config->images))
		return fail(failure, -EINVAL, "mount point \"%s\" is inside the images folder \"%s\"",
			target, config->images);
	if (is_inside(config->images, target) || is_inside(config->store, target))
		return fail(failure, -EINVAL, "mount point \"%s\" would hide \"%s\", which it needs",
			target, is_inside(config->images, target) ? config->images : config->store);
	return 0;
}

static int check_mountpoint(const struct mount_config *config, struct failure *failure)
{
	struct mount_entry entry;
	struct stat st;
	int r = 0;

	if (mount_is_dead(config->mountpoint))
		return mountpoint_clean(config->mountpoint, failure);
	if (stat(config->mountpoint, &st) < 0)
		return fail(failure, -errno, "mount point \"%s\": %s", config->mountpoint,
			why(-errno));
	if (!S_ISDIR(st.st_mode))
		return fail(failure, -ENOTDIR, "mount point \"%s\" is not a folder",
			config->mountpoint);
	if (mount_find(config->mountpoint, &entry) < 0)
		return 0;
	if (mount_is_goldfs(&entry))
		r = fail(failure, -EBUSY, "\"%s\" is already mounted on \"%s\"; run \"goldfs umount %s\" first",
			entry.source, config->mountpoint, config->mountpoint);
	mount_entry_release(&entry);
	return r;
}

/* Whether the log file asked for can be there, without making it. */
static int check_log(const struct mount_config *config, struct failure *failure)
{
	CLEANUP_FREE char *folder = NULL;

	if (config->log != LOG_CHOSEN_FILE || access(config->log_path, W_OK) == 0)
		return 0;
	folder = strdup(config->log_path);
	if (!folder)
		return fail(failure, -ENOMEM, "out of memory");
	*(strrchr(folder, '/') + 1) = '\0';
	if (errno == ENOENT && access(folder, W_OK | X_OK) == 0)
		return 0;
	/* Within a store that is made only now. */
	if (errno == ENOENT && is_inside(folder, config->store))
		return 0;
	return fail(failure, -errno, "log \"%s\": %s", config->log_path, why(-errno));
}

int prepare_mount(struct mount_config *config, struct failure *failure)
{
	int r = check_images(config, failure);

	if (r == 0)
		r = resolve_store(config, failure);
	if (r == 0)
		r = resolve_mountpoint(config, failure);
	if (r == 0)
		r = check_store(config, failure);
	if (r == 0)
		r = check_log(config, failure);
	if (r == 0)
		r = check_mountpoint(config, failure);
	return r;
}

int prepare_store(const struct mount_config *config, struct failure *failure)
{
	int fd;

	if (!config->read_only && mkdir(config->store, 0700) < 0 && errno != EEXIST)
		return fail(failure, -errno, "cannot make store \"%s\": %s", config->store,
			why(-errno));
	fd = open(config->store, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return fail(failure, -errno, "store \"%s\": %s", config->store, why(-errno));
	return fd;
}
