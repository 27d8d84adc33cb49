/* SPDX-License-Identifier: MIT */
/* goldfs df and goldfs settle: the store of a mount as a whole. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cli/client.h"
#include "cli/jobs.h"
#include "cli/message.h"
#include "cli/table.h"
#include "cli/verbs.h"

static const struct column store_columns[] = {
	{"VIRTUAL", "virtual_bytes", COLUMN_SIZE, true},
	{"DATA", "data_bytes", COLUMN_SIZE, true},
	{"UNIQUE", "unique_bytes", COLUMN_SIZE, true},
	{"POOL", "pool_bytes", COLUMN_SIZE, false},
	{"GOLDEN", "golden_bytes", COLUMN_SIZE, true},
	{"JOURNAL", "journal_bytes", COLUMN_SIZE, true},
	{"METADATA", "metadata_bytes", COLUMN_SIZE, true},
	{"PHYSICAL", "physical_bytes", COLUMN_SIZE, true},
	{"FREE", "free_bytes", COLUMN_SIZE, true},
	{"SAVED-CLONE", "saved_clone_bytes", COLUMN_SIZE, true},
	{"SAVED-DEDUP", "saved_dedup_bytes", COLUMN_SIZE, false},
	{"SAVED-ZERO", "saved_zero_bytes", COLUMN_SIZE, false},
	{"RATIO", "ratio", COLUMN_RATIO, true},
	{"CLONES", "clones", COLUMN_COUNT, true},
	{"SNAPSHOTS", "snapshots", COLUMN_COUNT, false},
	{"STATE", "state", COLUMN_TEXT, true},
	{NULL, NULL, COLUMN_TEXT, false},
};

int verb_df(int argc, char **argv)
{
	static const struct option longs[] = {VIEW_LONG, {NULL, 0, NULL, 0}};
	struct view view = {.json = false};
	struct place place;
	json_t *reply, *rows;
	int opt, r;

	opterr = 0;
	while ((opt = getopt_long(argc, argv, ":" VIEW_SHORT, longs, NULL)) != -1)
		if (!view_option(&view, opt))
			return cli_bad_option("df", opt, argv);
	if (argc - optind > 1)
		return cli_usage("df", "one mount point at a time");
	r = view_check(&view, "df", store_columns);
	if (r == EXIT_DONE)
		r = place_mount("df", argv[optind], &place);
	if (r != EXIT_DONE)
		return r;
	reply = client_stats(place.mountpoint);
	place_release(&place);
	if (!reply)
		return EXIT_FAILED;
	rows = json_pack("[O]", json_object_get(reply, "store"));
	r = view_print(&view, store_columns, "store", true, rows, NULL);
	json_decref(rows);
	json_decref(reply);
	return r;
}

int verb_settle(int argc, char **argv)
{
	enum { BACKGROUND = 256 };
	static const struct option longs[] = {
		{"background", no_argument, NULL, BACKGROUND},
		{NULL, 0, NULL, 0},
	};
	bool background = false;
	struct place place;
	uint64_t id;
	int opt, r;

	opterr = 0;
	while ((opt = getopt_long(argc, argv, ":", longs, NULL)) != -1) {
		if (opt != BACKGROUND)
			return cli_bad_option("settle", opt, argv);
		background = true;
	}
	if (argc - optind != 1)
		return cli_usage("settle", "a mount point is needed");
	r = place_mount("settle", argv[optind], &place);
	if (r != EXIT_DONE)
		return r;
	r = job_run(place.mountpoint,
		json_pack("{s:s, s:b}", "verb", "settle", "background", 1),
		background ? JOB_DETACHED : JOB_FOLLOWED, &id);
	place_release(&place);
	return r;
}
