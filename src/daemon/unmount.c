/* SPDX-License-Identifier: MIT */
/* See unmount.h. */
#include "daemon/unmount.h"

#include <errno.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "daemon/mountinfo.h"
#include "daemon/mountpoint.h"

#define BUSY_WAIT_SECONDS 10
#define BUSY_POLL_MS 200

/* -ENOENT when it is not there any more, or hidden by another mount. */
static int try_unmount(const struct mount_config *config, int mount_id, bool lazy)
{
	struct mount_entry entry;
	bool ours;
	int r = mount_find(config->mountpoint, &entry);

	if (r < 0)
		return r;
	ours = entry.id == mount_id;
	mount_entry_release(&entry);
	return ours ? mountpoint_unmount(config->mountpoint, lazy) : -ENOENT;
}

static void log_users(const struct mount_config *config)
{
	CLEANUP_FREE char *users = NULL;
	struct mount_entry entry;

	if (mount_find(config->mountpoint, &entry) < 0)
		return;
	users = mount_users(&entry);
	mount_entry_release(&entry);
	log_warning("\"%s\" is in use by %s; it is detached in %d seconds, or at the next signal",
		config->mountpoint, users ? users : "somebody", BUSY_WAIT_SECONDS);
}

void unmount_ours(const struct mount_config *config, int mount_id, bool now)
{
	const struct timespec pause = {.tv_nsec = BUSY_POLL_MS * 1000000L};

	for (int waited = 0; !now && waited < BUSY_WAIT_SECONDS * 1000; waited += BUSY_POLL_MS) {
		int r = try_unmount(config, mount_id, false);

		if (r != -EBUSY)
			break;
		if (!waited)
			log_users(config);
		nanosleep(&pause, NULL);
	}
	try_unmount(config, mount_id, true); /* does nothing when it is gone */
}
