/* SPDX-License-Identifier: MIT */
/* goldfs dedup: has the content of files looked for elsewhere. */
#include <getopt.h>
#include <string.h>

#include "cli/client.h"
#include "cli/jobs.h"
#include "cli/message.h"
#include "cli/verbs.h"

/* All paths have to be of one mount: it is one job. */
static int gather(int count, char **typed, struct place *first, json_t *paths)
{
	for (int i = 0; i < count; i++) {
		struct place place;
		int r = place_find(typed[i], &place);

		if (r != EXIT_DONE)
			return r;
		json_array_append_new(paths, client_path(place.path));
		if (i == 0) {
			*first = place;
			continue;
		}
		if (strcmp(place.mountpoint, first->mountpoint) != 0)
			r = cli_fail("\"%s\" is not on \"%s\", name the paths of one mount at a time",
				typed[i], first->mountpoint);
		place_release(&place);
		if (r != EXIT_DONE)
			return r;
	}
	return EXIT_DONE;
}

int verb_dedup(int argc, char **argv)
{
	enum { BACKGROUND = 256 };
	static const struct option longs[] = {
		{"background", no_argument, NULL, BACKGROUND},
		{NULL, 0, NULL, 0},
	};
	struct place place = {0};
	bool background = false;
	json_t *paths;
	uint64_t id;
	int opt, r;

	opterr = 0;
	while ((opt = getopt_long(argc, argv, ":", longs, NULL)) != -1) {
		if (opt != BACKGROUND)
			return cli_bad_option("dedup", opt, argv);
		background = true;
	}
	if (optind == argc)
		return cli_usage("dedup", "a path is needed");
	paths = json_array();
	r = gather(argc - optind, argv + optind, &place, paths);
	if (r == EXIT_DONE)
		r = job_run(place.mountpoint,
			json_pack("{s:s, s:O}", "verb", "dedup", "paths", paths),
			background ? JOB_DETACHED : JOB_FOLLOWED, &id);
	if (place.mountpoint)
		place_release(&place);
	json_decref(paths);
	return r;
}
