/* SPDX-License-Identifier: MIT */
/*
 * goldfs job, and waiting for jobs.
 *
 * A wait is a series of requests of at most a second each, so that it can be interrupted, shows
 * progress, and goes on after the daemon was replaced.
 */
#include "cli/jobs.h"

#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/sizes.h"
#include "base/text.h"
#include "cli/client.h"
#include "cli/message.h"
#include "cli/number.h"
#include "cli/table.h"
#include "cli/verbs.h"
#include "service/names.h"

#define SLICE_MS 1000

static const struct column job_columns[] = {
	{"ID", "id", COLUMN_COUNT, true},
	{"KIND", "kind", COLUMN_TEXT, true},
	{"TARGET", "target", COLUMN_TEXT, true},
	{"STATE", "state", COLUMN_TEXT, true},
	{"DONE", "done_bytes", COLUMN_SIZE, true},
	{"TOTAL", "total_bytes", COLUMN_SIZE, true},
	{"RATE", "rate", COLUMN_SIZE, true},
	{"ERROR", "error", COLUMN_TEXT, true},
	{NULL, NULL, COLUMN_TEXT, false},
};

/* ---- waiting ---- */

static const char *text_of(json_t *job, const char *key)
{
	const char *text = json_string_value(json_object_get(job, key));

	return text ? text : "";
}

/* At the rate that it has had so far; "" when it is not known or has ended. */
static void format_left(json_t *job, bool ended, char *text, size_t size)
{
	double rate = row_number(job, "rate");
	double left = row_number(job, "total_bytes") - row_number(job, "done_bytes");
	uint64_t seconds;

	*text = 0;
	if (ended || rate <= 0 || left <= 0)
		return;
	seconds = (uint64_t)(left / rate) + 1;
	if (seconds >= 3600)
		snprintf(text, size, ", %" PRIu64 " h %02" PRIu64 " min left", seconds / 3600,
			seconds / 60 % 60);
	else if (seconds >= 60)
		snprintf(text, size, ", %" PRIu64 " min %02" PRIu64 " s left", seconds / 60,
			seconds % 60);
	else
		snprintf(text, size, ", %" PRIu64 " s left", seconds);
}

static void show_progress(json_t *job, bool ended)
{
	char done[32], total[32], left[48];
	double all = row_number(job, "total_bytes");

	if (!isatty(STDERR_FILENO) || all <= 0)
		return;
	size_format(row_size(job, "done_bytes"), done, sizeof(done));
	size_format(row_size(job, "total_bytes"), total, sizeof(total));
	format_left(job, ended, left, sizeof(left));
	fprintf(stderr, "\r%s: %s of %s (%.0f %%)%s\033[K%s", text_of(job, "kind"), done, total,
		100 * row_number(job, "done_bytes") / all, left, ended ? "\n" : "");
}

static int job_status(json_t *job, uint64_t id)
{
	const char *state = text_of(job, "state");

	if (strcmp(state, "done") == 0)
		return EXIT_DONE;
	if (strcmp(state, "cancelled") == 0)
		return cli_fail("job %" PRIu64 " was cancelled", id);
	return cli_fail("job %" PRIu64 " failed: %s of \"%s\": %s", id, text_of(job, "kind"),
		text_of(job, "target"), text_of(job, "error"));
}

/* ---- being interrupted ---- */

/* What is said then; in memory, as a handler may do nothing but write it. */
static char parting[2 * PATH_MAX + 256];
static size_t parting_len;

static void on_interrupt(int signal_number)
{
	ssize_t n = write(STDERR_FILENO, parting, parting_len);

	(void)n;
	signal(signal_number, SIG_DFL);
	raise(signal_number);
}

/* Who interrupts the command ends the waiting, not the job. old: to be put back when that has ended. */
static void expect_interrupt(const char *mountpoint, uint64_t id, struct sigaction *old)
{
	struct sigaction action = {.sa_handler = on_interrupt};
	CLEANUP_FREE char *name = text_shell_word(mountpoint);
	int len = !name ? -1 : snprintf(parting, sizeof(parting),
		"\ngoldfs: job %" PRIu64 " goes on; to wait for it again, or to end it:\n"
		"  goldfs job wait %" PRIu64 " %s\n  goldfs job cancel %" PRIu64 " %s\n",
		id, id, name, id, name);

	sigaction(SIGINT, NULL, old);
	parting_len = len < 0 ? 0 : min_u64((uint64_t)len, sizeof(parting) - 1);
	/* Who is not to be interrupted stays so. */
	if (old->sa_handler != SIG_IGN)
		sigaction(SIGINT, &action, NULL);
}

static int await_end(const char *mountpoint, uint64_t id, bool judge)
{
	for (;;) {
		json_t *reply = client_ask(mountpoint,
			json_pack("{s:s, s:I, s:i}", "verb", "job-wait", "id", (json_int_t)id,
				"timeout_ms", SLICE_MS));
		json_t *job = json_object_get(reply, "job");
		bool ended = strcmp(text_of(job, "state"), "running") != 0;
		int r = EXIT_FAILED;

		if (!reply)
			return r;
		if (!client_is_done(reply)) {
			if (strcmp(text_of(reply, "errno"), "EINTR") == 0)
				r = JOB_LOST;
			else
				cli_fail("%s", text_of(reply, "error"));
			json_decref(reply);
			return r;
		}
		show_progress(job, ended);
		if (ended)
			r = judge ? job_status(job, id) :
			    strcmp(text_of(job, "state"), "done") == 0 ? EXIT_DONE : JOB_UNDONE;
		json_decref(reply);
		if (ended)
			return r;
	}
}

static int follow(const char *mountpoint, uint64_t id, bool judge)
{
	struct sigaction old;
	int r;

	expect_interrupt(mountpoint, id, &old);
	r = await_end(mountpoint, id, judge);
	sigaction(SIGINT, &old, NULL);
	return r;
}

static int start(const char *mountpoint, json_t *request, uint64_t *id)
{
	json_t *reply = client_call(mountpoint, json_incref(request));

	*id = (uint64_t)json_integer_value(json_object_get(reply, "job"));
	json_decref(reply);
	return reply ? EXIT_DONE : EXIT_FAILED;
}

int job_follow(const char *mountpoint, uint64_t id)
{
	return follow(mountpoint, id, true);
}

int job_run(const char *mountpoint, json_t *request, enum job_wait wait, uint64_t *id)
{
	char line[32];
	int len, r;

	do {
		r = start(mountpoint, request, id);
		if (r == EXIT_DONE && wait != JOB_DETACHED)
			r = follow(mountpoint, *id, wait == JOB_FOLLOWED);
	} while (r == JOB_LOST);
	json_decref(request);
	if (r != EXIT_DONE || wait != JOB_DETACHED)
		return r;
	len = snprintf(line, sizeof(line), "%" PRIu64 "\n", *id);
	return cli_print(line, (size_t)len);
}

/* ---- the verb ---- */

/* Asks one thing about one job and shows the job when `show`. */
static int ask_about(const char *verb, const struct place *place, uint64_t id,
	const struct view *view, bool show)
{
	json_t *reply = client_call(place->mountpoint,
		json_pack("{s:s, s:I}", "verb", verb, "id", (json_int_t)id));
	json_t *rows;
	int r = EXIT_DONE;

	if (!reply)
		return EXIT_FAILED;
	if (show) {
		rows = json_pack("[O]", json_object_get(reply, "job"));
		r = view_print(view, job_columns, "jobs", false, rows, NULL);
		json_decref(rows);
	}
	json_decref(reply);
	return r;
}

static int wait_for(const struct place *place, uint64_t id)
{
	int r = follow(place->mountpoint, id, true);

	if (r == JOB_LOST)
		r = cli_fail("job %" PRIu64
			     " was interrupted by a restart of the daemon, run it again", id);
	return r;
}

static int list_jobs(const struct place *place, const struct view *view)
{
	json_t *reply = client_call(place->mountpoint, json_pack("{s:s}", "verb", "job-list"));
	int r;

	if (!reply)
		return EXIT_FAILED;
	r = view_print(view, job_columns, "jobs", false, json_object_get(reply, "jobs"), NULL);
	json_decref(reply);
	return r;
}

static int run_job_verb(const char *verb, const struct place *place, uint64_t id,
	struct view *view)
{
	if (strcmp(verb, "list") == 0)
		return list_jobs(place, view);
	if (strcmp(verb, "wait") == 0)
		return wait_for(place, id);
	if (strcmp(verb, "cancel") == 0)
		return ask_about("job-cancel", place, id, view, false);
	view->tall = true;
	return ask_about("job-show", place, id, view, true);
}

int verb_job(int argc, char **argv)
{
	static const struct option longs[] = {VIEW_LONG, {NULL, 0, NULL, 0}};
	struct view view = {.json = false};
	const char *verb = argc > 1 ? argv[1] : "";
	bool wants_id = strcmp(verb, "list") != 0;
	struct place place;
	uint64_t id = 0;
	int opt, r;

	if (!*verb)
		return cli_usage("job", "\"list\", \"show\", \"wait\" or \"cancel\" is needed");
	if (wants_id && strcmp(verb, "show") && strcmp(verb, "wait") && strcmp(verb, "cancel"))
		return cli_usage("job", "there is no \"job %s\"", verb);
	argc--;
	argv++;
	opterr = 0;
	while ((opt = getopt_long(argc, argv, ":" VIEW_SHORT, longs, NULL)) != -1)
		if (!view_option(&view, opt))
			return cli_bad_option("job", opt, argv);
	argc -= optind;
	argv += optind;
	if (wants_id && argc == 0)
		return cli_usage("job", "the id of a job is needed");
	if (wants_id && !number_parse(argv[0], 1, INT64_MAX, &id))
		return cli_usage("job", "\"%s\" is not the id of a job", argv[0]);
	if (argc > wants_id + 1)
		return cli_usage("job", "one job at a time");
	r = view_check(&view, "job", job_columns);
	if (r == EXIT_DONE)
		r = place_mount("job", argv[wants_id], &place);
	if (r != EXIT_DONE)
		return r;
	r = run_job_verb(verb, &place, id, &view);
	place_release(&place);
	return r;
}
