/* SPDX-License-Identifier: MIT */
/* goldfs rebase, convert and upgrade-base: another base, or another mode, for clones. */
#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/sizes.h"
#include "cli/client.h"
#include "cli/jobs.h"
#include "cli/message.h"
#include "cli/table.h"
#include "cli/verbs.h"

static const struct column gain_columns[] = {
	{"PATH", "path", COLUMN_TEXT, true},
	{"UNIQUE", "unique_bytes", COLUMN_SIZE, true},
	{"GAIN", "gain_bytes", COLUMN_GROWTH, true},
	{"ERROR", "error", COLUMN_TEXT, true},
	{NULL, NULL, COLUMN_TEXT, false},
};

struct options {
	struct view view;
	bool background;
	bool dry_run;
	const char *onto;
	const char *mode;
	uint64_t rate;
};

enum { BACKGROUND = VIEW_FIRST_FREE, ONTO, MODE, RATE, DRY_RUN };

static const struct option rebase_longs[] = {
	{"background", no_argument, NULL, BACKGROUND},
	{"onto", required_argument, NULL, ONTO},
	{"rate", required_argument, NULL, RATE},
	{NULL, 0, NULL, 0},
};

static const struct option convert_longs[] = {
	{"background", no_argument, NULL, BACKGROUND},
	{"mode", required_argument, NULL, MODE},
	{"onto", required_argument, NULL, ONTO},
	{"rate", required_argument, NULL, RATE},
	{NULL, 0, NULL, 0},
};

static const struct option upgrade_longs[] = {
	VIEW_LONG,
	{"background", no_argument, NULL, BACKGROUND},
	{"dry-run", no_argument, NULL, DRY_RUN},
	{"rate", required_argument, NULL, RATE},
	{NULL, 0, NULL, 0},
};

static int parse(const char *verb, int argc, char **argv, const struct option *longs,
	const char *shorts, struct options *o)
{
	int opt;

	opterr = 0;
	while ((opt = getopt_long(argc, argv, shorts, longs, NULL)) != -1) {
		if (opt == BACKGROUND)
			o->background = true;
		else if (opt == DRY_RUN)
			o->dry_run = true;
		else if (opt == ONTO)
			o->onto = optarg;
		else if (opt == MODE)
			o->mode = optarg;
		else if (opt == RATE && (size_parse(optarg, &o->rate) || !o->rate))
			return cli_usage(
				verb, "\"%s\" is not a rate, as 50M is: bytes a second", optarg);
		else if (opt != RATE && !view_option(&o->view, opt))
			return cli_bad_option(verb, opt, argv);
	}
	return EXIT_DONE;
}

/* Adds an existing path to the request; all have to be of one mount, that of *first. */
static int add_place(
	json_t *request, const char *key, bool list, const char *typed, struct place *first)
{
	struct place place;
	int r = place_find(typed, &place);

	if (r != EXIT_DONE)
		return r;
	if (list)
		json_array_append_new(json_object_get(request, key), client_path(place.path));
	else
		json_object_set_new(request, key, client_path(place.path));
	if (!first->mountpoint) {
		*first = place;
		return EXIT_DONE;
	}
	if (strcmp(place.mountpoint, first->mountpoint) != 0)
		r = cli_fail("\"%s\" is not on \"%s\"", typed, first->mountpoint);
	place_release(&place);
	return r;
}

static json_t *new_request(const char *verb, const struct options *o)
{
	json_t *request = json_pack("{s:s}", "verb", verb);

	if (o->rate)
		json_object_set_new(request, "rate", json_integer((json_int_t)o->rate));
	return request;
}

static int add_clones(json_t *request, int count, char **typed, struct place *first)
{
	int r = EXIT_DONE;

	json_object_set_new(request, "paths", json_array());
	for (int i = 0; i < count && r == EXIT_DONE; i++)
		r = add_place(request, "paths", true, typed[i], first);
	return r;
}

/* ---- how it ended ---- */

/* What the error of a row says to do. */
static const char *next_step(const char *error)
{
	if (strcmp(error, strerror(ENOSPC)) == 0)
		return "; goldfs df shows what is free, goldfs limit what a folder may take";
	if (strcmp(error, strerror(EALREADY)) == 0)
		return "; wait for what is done with it already: goldfs job list";
	return "";
}

/* Each file that was not done, by its name. Returns how many there are. */
static size_t tell_failures(const struct place *place, const char *verb, json_t *report)
{
	size_t i, count = 0;
	json_t *row;

	json_array_foreach (report, i, row) {
		const char *path = json_string_value(json_object_get(row, "path"));
		const char *error = json_string_value(json_object_get(row, "error"));

		if (!error || !*error)
			continue;
		cli_fail("cannot %s \"%s/%s\": %c%s%s", verb, place->mountpoint, path ? path : "",
			tolower((unsigned char)*error), error + 1, next_step(error));
		count++;
	}
	return count;
}

/* A job that has ended. view NULL: not well, and only what failed is told. */
static int judge(const struct place *place, uint64_t id, const char *verb, const struct view *view)
{
	json_t *reply = client_call(place->mountpoint,
		json_pack("{s:s, s:I}", "verb", "job-show", "id", (json_int_t)id));
	json_t *job = json_object_get(reply, "job"), *report = json_object_get(reply, "report");
	const char *state = json_string_value(json_object_get(job, "state"));
	const char *error = json_string_value(json_object_get(job, "error"));
	int r = EXIT_FAILED;

	if (!reply)
		return r;
	if (report && view)
		r = view_print(view, gain_columns, "goldfs", false, report, NULL);
	if (state && strcmp(state, "done") == 0)
		r = view ? r : EXIT_DONE;
	else if (!state || strcmp(state, "failed") != 0)
		r = cli_fail("job %" PRIu64 " was cancelled", id);
	else if (!tell_failures(place, verb, report))
		r = cli_fail("job %" PRIu64 " failed: %s", id, error ? error : "");
	else
		r = EXIT_FAILED;
	json_decref(reply);
	return r;
}

/* Takes the request over. */
static int send_request(json_t *request, const struct place *place, const struct options *o,
	const char *verb, int r)
{
	uint64_t id;

	if (r != EXIT_DONE) {
		json_decref(request);
		return r;
	}
	r = job_run(place->mountpoint, request, o->background ? JOB_DETACHED : JOB_AWAITED, &id);
	return r == JOB_UNDONE ? judge(place, id, verb, NULL) : r;
}

int verb_rebase(int argc, char **argv)
{
	struct options o = {.background = false};
	struct place place = {0};
	json_t *request;
	int r = parse("rebase", argc, argv, rebase_longs, ":", &o);

	if (r != EXIT_DONE)
		return r;
	if (optind == argc)
		return cli_usage("rebase", "a clone is needed");
	if (!o.onto)
		return cli_usage("rebase", "--onto and a golden image are needed");
	request = new_request("rebase", &o);
	r = add_clones(request, argc - optind, argv + optind, &place);
	if (r == EXIT_DONE)
		r = add_place(request, "onto", false, o.onto, &place);
	r = send_request(request, &place, &o, "rebase", r);
	if (place.mountpoint)
		place_release(&place);
	return r;
}

int verb_convert(int argc, char **argv)
{
	struct options o = {.background = false};
	struct place place = {0};
	json_t *request;
	int r = parse("convert", argc, argv, convert_longs, ":", &o);

	if (r != EXIT_DONE)
		return r;
	if (optind == argc)
		return cli_usage("convert", "a clone is needed");
	if (!o.mode)
		return cli_usage("convert", "--mode snapshot, thin or full is needed");
	if (strcmp(o.mode, "snapshot") && strcmp(o.mode, "thin") && strcmp(o.mode, "full"))
		return cli_usage("convert", "there is no mode \"%s\"", o.mode);
	if (o.onto && strcmp(o.mode, "snapshot"))
		return cli_usage("convert", "a %s clone stands on no image", o.mode);
	request = new_request("convert", &o);
	json_object_set_new(request, "mode", json_string(o.mode));
	r = add_clones(request, argc - optind, argv + optind, &place);
	if (r == EXIT_DONE && o.onto)
		r = add_place(request, "onto", false, o.onto, &place);
	r = send_request(request, &place, &o, "convert", r);
	if (place.mountpoint)
		place_release(&place);
	return r;
}

/* ---- upgrade-base ---- */

/* The old image may be gone from the folder; clones know it by its path. */
static int add_old(json_t *request, const char *typed, struct place *place)
{
	int r = place_find_new(typed, place);

	if (r == EXIT_DONE)
		json_object_set_new(request, "old", client_path(place->path));
	return r;
}

int verb_upgrade_base(int argc, char **argv)
{
	struct options o = {.background = false};
	struct place place = {0};
	json_t *request;
	uint64_t id;
	int r = parse("upgrade-base", argc, argv, upgrade_longs, ":" VIEW_SHORT, &o);

	if (r == EXIT_DONE)
		r = view_check(&o.view, "upgrade-base", gain_columns);
	if (r != EXIT_DONE)
		return r;
	if (argc - optind != 2)
		return cli_usage("upgrade-base", "the old and the new golden image are needed");
	request = new_request("upgrade-base", &o);
	json_object_set_new(request, "dry_run", json_boolean(o.dry_run));
	r = add_old(request, argv[optind], &place);
	if (r == EXIT_DONE)
		r = add_place(request, "new", false, argv[optind + 1], &place);
	if (r != EXIT_DONE)
		json_decref(request);
	else
		r = job_run(
			place.mountpoint, request, o.background ? JOB_DETACHED : JOB_AWAITED, &id);
	if ((r == EXIT_DONE && !o.background) || r == JOB_UNDONE)
		r = judge(&place, id, "rebase", &o.view);
	if (place.mountpoint)
		place_release(&place);
	return r;
}
