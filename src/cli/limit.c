/* SPDX-License-Identifier: MIT */
/* goldfs limit: how many bytes of its own a folder or a clone may hold. */
#include <errno.h>
#include <getopt.h>
#include <string.h>

#include "base/sizes.h"
#include "cli/client.h"
#include "cli/message.h"
#include "cli/verbs.h"

int verb_limit(int argc, char **argv)
{
	static const struct option longs[] = {{NULL, 0, NULL, 0}};
	struct place place;
	json_t *reply;
	uint64_t bytes = 0;
	int opt, r;

	opterr = 0;
	opt = getopt_long(argc, argv, ":", longs, NULL);
	if (opt != -1)
		return cli_bad_option("limit", opt, argv);
	if (argc - optind != 2)
		return cli_usage("limit", "a folder and a size are needed");
	/* No limit is said in words: 0 is more likely a mistake. */
	if (strcmp(argv[optind + 1], "none") != 0 &&
		(size_parse(argv[optind + 1], &bytes) < 0 || !bytes || bytes > INT64_MAX))
		return cli_usage("limit", "\"%s\" is no size, nor \"none\"", argv[optind + 1]);
	r = place_find(argv[optind], &place);
	if (r != EXIT_DONE)
		return r;
	reply = client_call(place.mountpoint,
		json_pack("{s:s, s:o, s:I}", "verb", "limit", "path", client_path(place.path),
			"bytes", (json_int_t)bytes));
	place_release(&place);
	r = reply ? EXIT_DONE : EXIT_FAILED;
	json_decref(reply);
	return r;
}
