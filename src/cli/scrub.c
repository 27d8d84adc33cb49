/* SPDX-License-Identifier: MIT */
/*
 * goldfs scrub: looks for damage in a store that is in use, and shows what was found.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/sizes.h"
#include "cli/client.h"
#include "cli/jobs.h"
#include "cli/message.h"
#include "cli/table.h"
#include "cli/verbs.h"

#define SHOWN_PATHS 8 /* per finding */

static uint64_t number(json_t *report, const char *key)
{
	return (uint64_t)json_integer_value(json_object_get(report, key));
}

static const char *text(json_t *finding, const char *key)
{
	const char *value = json_string_value(json_object_get(finding, key));

	return value ? value : "";
}

/* Names may hold anything, also what drives a terminal. */
static void put_safely(FILE *out, const char *name)
{
	for (const unsigned char *p = (const unsigned char *)name; *p; p++) {
		if (*p < 0x20 || *p == 0x7f)
			fprintf(out, "\\x%02x", *p);
		else
			putc(*p, out);
	}
}

static void list_paths(FILE *out, json_t *paths)
{
	size_t count = json_array_size(paths);

	if (!count)
		return;
	fputs("    concerns: ", out);
	for (size_t i = 0; i < count && i < SHOWN_PATHS; i++) {
		fputs(i ? ", " : "", out);
		put_safely(out, json_string_value(json_array_get(paths, i)));
	}
	if (count > SHOWN_PATHS)
		fprintf(out, " and %zu more", count - SHOWN_PATHS);
	putc('\n', out);
}

static void list_finding(FILE *out, json_t *f)
{
	char size[32];

	fprintf(out, "%s: %s", text(f, "severity"), text(f, "structure"));
	if (*text(f, "place")) {
		fputs(" \"", out);
		put_safely(out, text(f, "place"));
		fprintf(out, "\" at %" PRIu64, number(f, "offset"));
		size_format(number(f, "length_bytes"), size, sizeof(size));
		if (number(f, "length_bytes"))
			fprintf(out, " (%s)", size);
	}
	fputs(": ", out);
	put_safely(out, text(f, "problem"));
	fprintf(out, "%s\n", strcmp(text(f, "state"), "repaired") == 0 ? " [repaired]" : "");
	list_paths(out, json_object_get(f, "paths"));
	if (*text(f, "action"))
		fprintf(out, "    to do: %s\n", text(f, "action"));
}

static void list_summary(FILE *out, json_t *report)
{
	char size[32];

	size_format(number(report, "read_bytes"), size, sizeof(size));
	fprintf(out, "%" PRIu64 " layers with %" PRIu64 " blocks, %" PRIu64 " golden images, %s read\n",
		number(report, "layers"), number(report, "blocks"),
		number(report, "golden_images"), size);
	if (number(report, "suspect_blocks"))
		fprintf(out, "%" PRIu64 " blocks were being overwritten when power was lost: old or "
			     "new, both are right\n", number(report, "suspect_blocks"));
	if (number(report, "not_listed"))
		fprintf(out, "%" PRIu64 " more findings are not listed\n",
			number(report, "not_listed"));
	if (number(report, "repaired"))
		fprintf(out, "%" PRIu64 " repaired\n", number(report, "repaired"));
	if (number(report, "damaged"))
		fprintf(out, "%" PRIu64 " damaged\n", number(report, "damaged"));
	else
		fputs(number(report, "damage_found") ? "nothing else is damaged\n" : "no damage\n",
			out);
}

static int print_list(json_t *report)
{
	CLEANUP_FREE char *all = NULL;
	size_t len = 0, i;
	FILE *out = open_memstream(&all, &len);
	json_t *finding;

	if (!out)
		return cli_fail("out of memory");
	json_array_foreach(json_object_get(report, "findings"), i, finding)
		list_finding(out, finding);
	list_summary(out, report);
	fclose(out);
	return cli_print(all, len);
}

static int print_json(json_t *report)
{
	json_t *whole = json_pack("{s:O}", "scrub", report);
	CLEANUP_FREE char *all = json_dumps(whole, JSON_INDENT(2));

	json_decref(whole);
	if (!all)
		return cli_fail("out of memory");
	return cli_print(all, strlen(all)) == EXIT_DONE ? cli_print("\n", 1) : EXIT_FAILED;
}

/* A job that found damage has failed, and its report says with what. */
static int show_report(const struct place *place, uint64_t id, bool json)
{
	json_t *reply = client_call(place->mountpoint,
		json_pack("{s:s, s:I}", "verb", "job-show", "id", (json_int_t)id));
	json_t *job = json_object_get(reply, "job"), *report = json_object_get(reply, "report");
	const char *state = text(job, "state");
	bool found = number(report, "damage_found") > 0;
	int r;

	if (!reply)
		return EXIT_FAILED;
	if (strcmp(state, "cancelled") == 0)
		r = cli_fail("job %" PRIu64 " was cancelled", id);
	else if (!report || (strcmp(state, "done") != 0 && !found))
		r = cli_fail("job %" PRIu64 " failed: %s", id, text(job, "error"));
	else
		r = json ? print_json(report) : print_list(report);
	json_decref(reply);
	return r == EXIT_DONE && found ? EXIT_FAILED : r;
}

static int scrub(const struct place *place, bool background, bool json)
{
	uint64_t id;
	int r = job_run(place->mountpoint,
		json_pack("{s:s, s:b}", "verb", "scrub", "background", 1),
		background ? JOB_DETACHED : JOB_AWAITED, &id);

	return (r != EXIT_DONE && r != JOB_UNDONE) || background ? r : show_report(place, id, json);
}

int verb_scrub(int argc, char **argv)
{
	enum { BACKGROUND = 256 };
	static const struct option longs[] = {
		{"background", no_argument, NULL, BACKGROUND},
		{"json", no_argument, NULL, 'j'},
		{NULL, 0, NULL, 0},
	};
	bool background = false, json = false;
	struct place place;
	int opt, r;

	opterr = 0;
	while ((opt = getopt_long(argc, argv, ":j", longs, NULL)) != -1) {
		if (opt == BACKGROUND)
			background = true;
		else if (opt == 'j')
			json = true;
		else
			return cli_bad_option("scrub", opt, argv);
	}
	if (argc - optind != 1)
		return cli_usage("scrub", "a mount point is needed");
	r = place_mount("scrub", argv[optind], &place);
	if (r != EXIT_DONE)
		return r;
	r = scrub(&place, background, json);
	place_release(&place);
	return r;
}
