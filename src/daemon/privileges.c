/* SPDX-License-Identifier: MIT */
/*
 * See privileges.h. Which capabilities a worker started by root keeps, and why:
 *
 *   CAP_DAC_READ_SEARCH	golden images are shown and cloned whoever owns them, with the owner's
 *			modes; the kernel checks these against whoever asks. It is also what
 *			linking an open file to a pin takes (AT_EMPTY_PATH)
 *   CAP_LEASE		the guard takes leases on images of other owners
 *   CAP_FOWNER		pins are hard links to images of other owners, which
 *			/proc/sys/fs/protected_hardlinks allows nobody else; reading them leaves
 *			their time of access alone (O_NOATIME)
 *   CAP_DAC_OVERRIDE	only when the store's folder or a folder in it belongs to somebody else:
 *			then nothing could be written there without it
 *
 * What it has no more: CAP_SYS_ADMIN (mounting), CAP_SYS_PTRACE (other processes: who makes a
 * control request is read from files of /proc that are open to all, see service/authorise.c),
 * CAP_SYS_RESOURCE (limits are set before; it would also let a full store eat into what the file
 * system below keeps for root), CAP_CHOWN (owners of clones stand in the catalog) and all the rest.
 *
 * A worker of an ordinary user has none to begin with.
 */
#include "daemon/privileges.h"

#include <cap-ng.h>
#include <errno.h>
#include <linux/capability.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "image/present.h"
#include "store/modes.h"

#define BIT(capability) (UINT64_C(1) << (capability))

uint64_t privileges_capabilities(bool foreign_store)
{
	uint64_t keep = BIT(CAP_DAC_READ_SEARCH) | BIT(CAP_LEASE) | BIT(CAP_FOWNER);

	if (foreign_store)
		keep |= BIT(CAP_DAC_OVERRIDE);
	return keep;
}

static int drop_capabilities(uint64_t keep)
{
	const bool bounded = capng_have_capability(CAPNG_EFFECTIVE, CAP_SETPCAP);

	capng_clear(CAPNG_SELECT_BOTH);
	for (unsigned capability = 0; capability <= CAP_LAST_CAP; capability++) {
		if (!(keep & BIT(capability)))
			continue;
		/* Only what we have: a container's root may lack some of it, a user all. */
		if (prctl(PR_CAPBSET_READ, capability) != 1 || geteuid() != 0)
			continue;
		if (capng_update(CAPNG_ADD, CAPNG_EFFECTIVE | CAPNG_PERMITTED | CAPNG_BOUNDING_SET,
			    capability) < 0)
			return -EINVAL;
	}
	return capng_apply(bounded ? CAPNG_SELECT_BOTH : CAPNG_SELECT_CAPS) < 0 ? -EPERM : 0;
}

int privileges_drop(const struct mount_config *config, int store_fd, struct failure *failure)
{
	const bool foreign = store_modes_are_foreign(store_fd);
	int r;

	if (config->no_sandbox) {
		present_prepare();
		log_warning("\"%s\" is served with all privileges (sandbox=off)",
			config->mountpoint);
		return 0;
	}
	tzset(); /* the system log's time zone is read from a file, once */
	r = drop_capabilities(privileges_capabilities(foreign));
	if (r < 0)
		return fail(failure, r, "cannot drop capabilities: %s", why(r));
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return fail(failure, -errno, "cannot renounce new privileges: %s", why(-errno));
	present_prepare();
	r = privileges_confine_files(config, store_fd);
	if (r < 0 && r != -EOPNOTSUPP)
		log_warning("cannot confine the daemon to its files: %s", why(r));
	r = privileges_filter_calls();
	if (r < 0)
		log_warning("cannot filter the daemon's system calls: %s", why(r));
	return 0;
}
