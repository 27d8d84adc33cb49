/* SPDX-License-Identifier: MIT */
/*
 * goldfs check of a store from somewhere, and repair; see store_spoil(). What was repaired and is
 * said to be without damage can be mounted and used.
 */
#include <stdlib.h>

#include "../crash/simdisk.h"
#include "core/check.h"
#include "core/fs.h"
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {data, size};
	uint8_t how = input_u8(&in);
	struct simdisk *disk = store_disk(how & 1);
	struct fs_options mount = store_options();
	struct check_options options = {
		.io = simdisk_io(disk),
		.store_fd = -1,
		.repair = how & 4,
		.golden_test = mount.golden_test,
	};
	struct check_report report;
	struct fs *fs;
	int r;

	store_spoil(disk, &in, how & 2);
	r = check_store(&options, &report);
	quiet(); /* the check had the messages for itself */
	if (r == 0 && !report.damaged && (how & 4)) {
		if (fs_open(&fs, simdisk_io(disk), &mount))
			abort();
		store_look(fs, 60);
		fs_abandon(fs);
	}
	check_report_release(&report);
	simdisk_free(disk);
	return 0;
}
