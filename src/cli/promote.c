/* SPDX-License-Identifier: MIT */
/* goldfs promote: makes a golden image of a clone. */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/sizes.h"
#include "cli/client.h"
#include "cli/jobs.h"
#include "cli/message.h"
#include "cli/pages.h"
#include "cli/verbs.h"
#include "service/names.h"

struct wanted {
	const char *action; /* NULL: to begin */
	bool background;
	uint64_t rate;
};

static int ask(const struct place *place, json_t *request, const struct wanted *w, uint64_t *job)
{
	json_t *reply;

	if (w->rate)
		json_object_set_new(request, "rate", json_integer((json_int_t)w->rate));
	reply = client_call(place->mountpoint, request);
	if (!reply)
		return EXIT_FAILED;
	*job = (uint64_t)json_integer_value(json_object_get(reply, "job"));
	json_decref(reply);
	return EXIT_DONE;
}

static json_t *about(const char *path, const char *action)
{
	return json_pack("{s:s, s:o, s:s}", "verb", "promote", "path", client_path(path), "action",
		action);
}

/* The job that goes on after the daemon was replaced; 0: none was needed any more. */
static int find_again(const struct place *place, const char *path, uint64_t *job)
{
	json_t *reply = client_ask(place->mountpoint, about(path, "resume"));
	const char *text;
	int r = EXIT_FAILED;

	if (!reply)
		return r;
	*job = (uint64_t)json_integer_value(json_object_get(reply, "job"));
	text = json_string_value(json_object_get(reply, "errno"));
	if (client_is_done(reply) || (text && strcmp(text, "ENOENT") == 0))
		r = EXIT_DONE;
	else
		cli_fail("%s", json_string_value(json_object_get(reply, "error")));
	json_decref(reply);
	return r;
}

/* To its end. job 0: there is none yet, or none any more. */
static int follow(const struct place *place, const char *path, uint64_t job)
{
	int r = JOB_LOST;

	while (job && (r = job_follow(place->mountpoint, job)) == JOB_LOST) {
		r = find_again(place, path, &job);
		if (r != EXIT_DONE)
			return r;
	}
	return r == JOB_LOST ? EXIT_DONE : r;
}

/* What was not cancelled is there, and the rest of it is to be written. */
static void tell_unfinished(const struct place *place, const char *path)
{
	CLEANUP_FREE char *image = NULL;
	CLEANUP_FREE char *name = NULL;

	if (asprintf(&image, "%s/%s", place->mountpoint, path) < 0)
		image = NULL;
	name = image && access(image, F_OK) == 0 ? name_text(image) : NULL;
	if (name)
		cli_fail("\"%s\" can be cloned, and writing it is tried again: goldfs promote --resume "
			 "does so at once, --cancel gives it up", name);
}

static int finish(const struct place *place, const char *path, uint64_t job, const struct wanted *w)
{
	char line[32];
	int len, r;

	if (!w->background) {
		r = follow(place, path, job);
		pages_look(place->mountpoint, path);
		if (r != EXIT_DONE)
			tell_unfinished(place, path);
		return r;
	}
	len = snprintf(line, sizeof(line), "%" PRIu64 "\n", job);
	return cli_print(line, (size_t)len);
}

static int begin(const char *source, const char *name, const struct wanted *w)
{
	CLEANUP_FREE char *path = NULL;
	struct place place;
	uint64_t job;
	int r;

	if (*name == '/')
		return cli_usage("promote", "the name \"%s\" is to be one below golden, as in \"%s\"", name,
			strrchr(name, '/') + 1);
	r = place_find(source, &place);
	if (r != EXIT_DONE)
		return r;
	r = pages_write_back(source);
	if (r == EXIT_DONE)
		r = ask(&place, json_pack("{s:s, s:o, s:o}", "verb", "promote", "source",
				client_path(place.path), "name", client_path(name)), w, &job);
	if (r == EXIT_DONE && asprintf(&path, "golden/%s", name) < 0)
		r = cli_fail("out of memory");
	if (r == EXIT_DONE)
		r = finish(&place, path, job, w);
	place_release(&place);
	return r;
}

static int go_on(const char *typed, const struct wanted *w)
{
	struct place place;
	uint64_t job;
	int r = place_find(typed, &place);

	if (r != EXIT_DONE)
		return r;
	r = ask(&place, about(place.path, w->action), w, &job);
	if (r == EXIT_DONE && strcmp(w->action, "resume") == 0)
		r = finish(&place, place.path, job, w);
	else
		pages_look(place.mountpoint, place.path);
	place_release(&place);
	return r;
}

int verb_promote(int argc, char **argv)
{
	enum { BACKGROUND = 256, RATE, RESUME, CANCEL };
	static const struct option longs[] = {
		{"background", no_argument, NULL, BACKGROUND},
		{"rate", required_argument, NULL, RATE},
		{"resume", no_argument, NULL, RESUME},
		{"cancel", no_argument, NULL, CANCEL},
		{NULL, 0, NULL, 0},
	};
	struct wanted w = {0};
	int opt;

	opterr = 0;
	while ((opt = getopt_long(argc, argv, ":", longs, NULL)) != -1) {
		if (opt == BACKGROUND)
			w.background = true;
		else if (opt == RESUME || opt == CANCEL)
			w.action = opt == RESUME ? "resume" : "cancel";
		else if (opt != RATE)
			return cli_bad_option("promote", opt, argv);
		else if (size_parse(optarg, &w.rate) < 0 || !w.rate)
			return cli_usage("promote", "\"%s\" is no rate", optarg);
	}
	if (w.action)
		return argc - optind == 1 ? go_on(argv[optind], &w) :
			cli_usage("promote", "the path of one golden image is needed");
	if (argc - optind != 2)
		return cli_usage("promote", "a clone and the name of a golden image are needed");
	return begin(argv[optind], argv[optind + 1], &w);
}
