/* SPDX-License-Identifier: MIT */
/* goldfs dedup: has the content of files looked for elsewhere, or says where that is done at all. */
#include <getopt.h>
#include <string.h>

#include "base/cleanup.h"
#include "cli/client.h"
#include "cli/jobs.h"
#include "cli/message.h"
#include "cli/verbs.h"

static bool is_one_of(const char *text, const char *const *words)
{
	while (*words && strcmp(*words, text) != 0)
		words++;
	return *words;
}

/* policy, domain: NULL, or what was typed. */
static int set(const char *policy, const char *domain, int count, char **typed)
{
	static const char *const policies[] = {"off", "golden", "all", "inherit", NULL};
	static const char *const domains[] = {"own", "shared", "inherit", NULL};
	struct place place;
	json_t *reply;
	int r;

	if (policy && !is_one_of(policy, policies))
		return cli_usage("dedup", "\"%s\" is not off, golden, all or inherit", policy);
	if (domain && !is_one_of(domain, domains))
		return cli_usage("dedup", "\"%s\" is not own, shared or inherit", domain);
	if (count != 1)
		return cli_usage("dedup", "one folder, or clone, is needed");
	r = place_find(typed[0], &place);
	if (r != EXIT_DONE)
		return r;
	reply = client_call(place.mountpoint,
		json_pack("{s:s, s:o, s:s*, s:s*}", "verb", "dedup-set", "path",
			client_path(place.path), "policy", policy, "domain", domain));
	place_release(&place);
	r = reply ? EXIT_DONE : EXIT_FAILED;
	json_decref(reply);
	return r;
}

static int look(bool background, int count, char **typed)
{
	CLEANUP_FREE char *mountpoint = NULL;
	json_t *paths = json_array();
	uint64_t id;
	int r;

	r = places_gather(count, typed, place_find, paths, &mountpoint);
	if (r == EXIT_DONE)
		r = job_run(mountpoint,
			json_pack("{s:s, s:O}", "verb", "dedup", "paths", paths),
			background ? JOB_DETACHED : JOB_FOLLOWED, &id);
	json_decref(paths);
	return r;
}

int verb_dedup(int argc, char **argv)
{
	enum { BACKGROUND = 256, SET, DOMAIN };
	static const struct option longs[] = {
		{"background", no_argument, NULL, BACKGROUND},
		{"set", required_argument, NULL, SET},
		{"domain", required_argument, NULL, DOMAIN},
		{NULL, 0, NULL, 0},
	};
	const char *policy = NULL, *domain = NULL;
	bool background = false;
	int opt;

	opterr = 0;
	while ((opt = getopt_long(argc, argv, ":", longs, NULL)) != -1) {
		if (opt == BACKGROUND)
			background = true;
		else if (opt == SET)
			policy = optarg;
		else if (opt == DOMAIN)
			domain = optarg;
		else
			return cli_bad_option("dedup", opt, argv);
	}
	if (policy || domain)
		return background ? cli_usage("dedup", "nothing is looked at when something is set") :
			set(policy, domain, argc - optind, argv + optind);
	if (optind == argc)
		return cli_usage("dedup", "a path is needed");
	return look(background, argc - optind, argv + optind);
}
