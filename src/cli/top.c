/* SPDX-License-Identifier: MIT */
/*
 * goldfs top: who keeps the store busy. On a terminal it is a view (top_screen.c), else, or when
 * asked, rounds of text or JSON.
 *
 * A rate takes two looks, so a round comes after its interval, the first one too.
 */
#include "cli/top.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/sizes.h"
#include "base/times.h"
#include "cli/client.h"
#include "cli/message.h"
#include "cli/number.h"
#include "cli/verbs.h"
#include "service/names.h"

#define DELAY_MIN 0.1
#define DELAY_MAX 3600.0

struct batch {
	struct view view;
	uint64_t rounds; /* 0: for ever */
	double delay;
	enum top_filter filter;
};

int top_lost(const char *mountpoint, int err, json_t *reply)
{
	const char *error = json_string_value(json_object_get(reply, "error"));
	CLEANUP_FREE char *name = name_text(mountpoint);

	if (reply)
		return cli_fail("%s", error ? error : "the request failed");
	if (err == -ENOENT || err == -ENOTDIR)
		return cli_fail("\"%s\" is not mounted any more", name ? name : "");
	return client_lost(mountpoint, err);
}

char *top_store_text(const struct top *top)
{
	static const struct {
		const char *key;
		const char *what;
	} sizes[] = {{"virtual_bytes", "virtual"}, {"unique_bytes", "unique"},
		{"physical_bytes", "physical"}, {"free_bytes", "free"}};
	const char *state = json_string_value(json_object_get(top_store(top), "state"));
	char *text = NULL;
	size_t len;
	FILE *out = open_memstream(&text, &len);

	if (!out)
		return NULL;
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		char size[32];

		size_format(row_size(top_store(top), sizes[i].key), size, sizeof(size));
		fprintf(out, "%s %s, ", size, sizes[i].what);
	}
	fprintf(out, "ratio %.2f, %u job%s running, ", row_number(top_store(top), "ratio"),
		top_jobs(top), top_jobs(top) == 1 ? "" : "s");
	view_write_safely(out, state ? state : "");
	fclose(out);
	return text;
}

/* ---- rounds ---- */

static int take(struct top *top, const char *mountpoint, enum top_filter filter)
{
	bool all = filter == TOP_ALL || top_wants_all(top);
	json_t *reply;
	int r = client_try(mountpoint, json_pack("{s:s, s:b}", "verb", "top", "all", all), &reply);

	if (r < 0 || !client_is_done(reply))
		r = top_lost(mountpoint, r, reply);
	else
		r = top_take(top, reply, all) < 0 ? cli_fail("out of memory") : EXIT_DONE;
	json_decref(reply);
	return r;
}

static int print_round_json(const struct batch *batch, const struct top *top, json_t *rows)
{
	json_t *list = view_rows(&batch->view, top_columns, rows);
	char now[TIME_TEXT_LEN];

	time_text(times_now(CLOCK_REALTIME), now);
	/* An object a line: whoever reads need not wait for the end. */
	return view_print_json(
		json_pack("{s:o, s:O, s:I, s:I, s:f, s:s}", "goldfs", list, "store",
			top_store(top), "jobs", (json_int_t)top_jobs(top), "restarts",
			(json_int_t)top_restarts(top), "interval_seconds", top_interval(top),
			"time", now),
		JSON_COMPACT | JSON_REAL_PRECISION(9));
}

static int print_round_text(const struct batch *batch, const struct top *top, json_t *rows)
{
	CLEANUP_FREE char *store = top_store_text(top);
	CLEANUP_FREE char *line = NULL;
	char now[TIME_TEXT_LEN];
	int r = EXIT_DONE;

	time_text(times_now(CLOCK_REALTIME), now);
	if (!store || asprintf(&line, "%s  %s\n", now, store) < 0)
		return cli_fail("out of memory");
	if (!batch->view.no_headings)
		r = cli_print(line, strlen(line));
	return r == EXIT_DONE ? view_print(&batch->view, top_columns, "goldfs", false, rows, NULL) :
				r;
}

static int print_round(const struct batch *batch, const struct top *top)
{
	json_t *rows = top_rows(top, batch->filter);
	int r;

	r = batch->view.json ? print_round_json(batch, top, rows) :
			       print_round_text(batch, top, rows);
	json_decref(rows);
	return r;
}

static int run_batch(const struct batch *batch, const char *mountpoint)
{
	struct top *top = top_new(mountpoint);
	int64_t next_ns = times_now(CLOCK_MONOTONIC);
	int r = top ? take(top, mountpoint, batch->filter) : cli_fail("out of memory");

	for (uint64_t i = 0; r == EXIT_DONE && (!batch->rounds || i < batch->rounds); i++) {
		struct timespec next;

		next_ns += (int64_t)(batch->delay * 1e9);
		next = times_spec(next_ns);
		while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &next, NULL) == EINTR)
			;
		r = take(top, mountpoint, batch->filter);
		if (r == EXIT_DONE && i && !batch->view.json)
			r = cli_print("\n", 1);
		if (r == EXIT_DONE)
			r = print_round(batch, top);
	}
	top_free(top);
	return r;
}

/* ---- the verb ---- */

static bool parse_delay(const char *text, double *delay)
{
	char *end;

	*delay = strtod(text, &end);
	return end != text && !*end && *delay >= DELAY_MIN && *delay <= DELAY_MAX;
}

static int run_screen(const struct batch *batch, const char *mountpoint)
{
	const char *sort = batch->view.sort;
	struct top_options options = {
		.mountpoint = mountpoint,
		.delay = batch->delay,
		.filter = batch->filter,
		.direction = -1,
	};

	if (sort) {
		options.sort = view_column(top_columns, sort + (*sort == '-'));
		options.direction = *sort == '-' ? -1 : 1;
	}
	return top_screen(&options);
}

int verb_top(int argc, char **argv)
{
	enum { ACTIVE = VIEW_FIRST_FREE, BATCH };
	static const struct option longs[] = {
		{"batch", no_argument, NULL, BATCH},
		{"json", no_argument, NULL, 'j'},
		{"iterations", required_argument, NULL, 'i'},
		{"delay", required_argument, NULL, 'd'},
		{"all", no_argument, NULL, 'a'},
		{"active", no_argument, NULL, ACTIVE},
		{"output", required_argument, NULL, 'o'},
		{"sort", required_argument, NULL, VIEW_SORT},
		{"bytes", no_argument, NULL, 'b'},
		{"noheadings", no_argument, NULL, 'n'},
		{NULL, 0, NULL, 0},
	};
	struct batch batch = {.delay = 1, .rounds = 1, .filter = TOP_USED};
	bool asked_for_batch = false, asked_for_rounds = false;
	struct place place;
	int opt, r;

	opterr = 0;
	while ((opt = getopt_long(argc, argv, ":jbni:d:ao:", longs, NULL)) != -1) {
		if (opt == BATCH)
			asked_for_batch = true;
		else if (opt == 'a')
			batch.filter = TOP_ALL;
		else if (opt == ACTIVE)
			batch.filter = TOP_ACTIVE;
		else if (opt == 'i' && number_parse(optarg, 1, UINT32_MAX, &batch.rounds))
			asked_for_rounds = true;
		else if (opt == 'i')
			return cli_usage("top", "\"%s\" is no number of rounds", optarg);
		else if (opt == 'd' && !parse_delay(optarg, &batch.delay))
			return cli_usage("top", "\"%s\" is no number of seconds from 0.1 to 3600",
				optarg);
		else if (opt != 'd' && !view_option(&batch.view, opt))
			return cli_bad_option("top", opt, argv);
	}
	if (argc - optind > 1)
		return cli_usage("top", "one mount point at a time");
	r = view_check(&batch.view, "top", top_columns);
	if (r == EXIT_DONE)
		r = place_mount("top", argv[optind], &place);
	if (r != EXIT_DONE)
		return r;
	if (asked_for_batch && !asked_for_rounds)
		batch.rounds = 0;
	if (asked_for_batch || asked_for_rounds || batch.view.json || !isatty(STDOUT_FILENO) ||
		!isatty(STDIN_FILENO))
		r = run_batch(&batch, place.mountpoint);
	else
		r = run_screen(&batch, place.mountpoint);
	place_release(&place);
	return r;
}
