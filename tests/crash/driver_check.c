/* SPDX-License-Identifier: MIT */
/* No false alarm: what a power loss or a death leaves, and what recovery makes of it, is no damage
 * to the offline check. */
#include "driver_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "core/check.h"

int drive_check_store(struct driver *d, struct simdisk *disk, const char *step)
{
	struct fs_options how = run_options(&d->run);
	struct check_options options = {
		.io = simdisk_io(disk),
		.store_fd = -1,
		.golden_test = how.golden_test,
		.golden_test_arg = how.golden_test_arg,
	};
	uint64_t before = simdisk_hash(disk);
	struct check_report report;
	int r = check_store(&options, &report);

	/* The power went while the store was being made. */
	if (r == -ENOENT) {
		r = 0;
	} else if (r) {
		run_fail(&d->run, "check %s: %s", step, strerror(-r));
	} else if (report.damaged) {
		for (size_t i = 0; i < report.count && !r; i++) {
			const struct check_finding *f = &report.findings[i];

			if (f->severity == CHECK_DAMAGE)
				r = run_fail(&d->run, "check %s: false alarm: %s \"%s\" at %" PRIu64 ": %s",
					step, f->structure, f->place, f->offset, f->text);
		}
	} else if (simdisk_hash(disk) != before) {
		r = run_fail(&d->run, "check %s: it wrote to the store", step);
	}
	d->result->checks++;
	check_report_release(&report);
	return r;
}
