/* SPDX-License-Identifier: MIT */
/*
 * goldfs upgrade [--binary PATH] MOUNTPOINT
 *
 * The request is answered by the worker that is to go, so the answer is only that it was taken.
 * How it ended is read from stats.json, where the next worker tells it.
 */
#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "cli/client.h"
#include "cli/message.h"
#include "cli/verbs.h"

#define POLL_MS 50
#define PATIENCE_MS (60 * 1000)

/* What is known of the upgrade: a new reference, or NULL. */
static json_t *outcome(const char *mountpoint)
{
	json_t *stats = client_stats(mountpoint);
	json_t *last = json_incref(
		json_object_get(json_object_get(stats, "daemon"), "last_upgrade"));

	json_decref(stats);
	return last;
}

static int report(json_t *last)
{
	const char *state = json_string_value(json_object_get(last, "state"));
	const char *message = json_string_value(json_object_get(last, "message"));
	CLEANUP_FREE char *line = NULL;
	int len;

	if (!state || !message)
		return cli_fail("the mount does not say how the upgrade ended");
	if (strcmp(state, "done") != 0)
		return cli_fail("%s", message);
	len = asprintf(&line, "%s\n", message);
	if (len < 0)
		return cli_fail("out of memory");
	return cli_print(line, (size_t)len);
}

/* Waits for the end of the upgrade that this ticket is for. */
static int await(const char *mountpoint, json_int_t ticket)
{
	const struct timespec pause = {.tv_nsec = POLL_MS * 1000000L};

	for (int waited = 0; waited < PATIENCE_MS; waited += POLL_MS) {
		json_t *last = outcome(mountpoint);
		const char *state = json_string_value(json_object_get(last, "state"));
		int r;

		if (json_integer_value(json_object_get(last, "ticket")) == ticket && state &&
			strcmp(state, "running") != 0) {
			r = report(last);
			json_decref(last);
			return r;
		}
		json_decref(last);
		nanosleep(&pause, NULL);
	}
	return cli_fail("the upgrade of \"%s\" does not end, see its log", mountpoint);
}

static int upgrade(const char *mountpoint, const char *binary)
{
	char own[PATH_MAX] = "";
	ssize_t n = readlink("/proc/self/exe", own, sizeof(own) - 1);
	json_t *request, *reply;
	json_int_t ticket = 0;

	if (getrandom(&ticket, sizeof(ticket) - 2, 0) < 0)
		return cli_fail("no random numbers: %s", cli_reason(errno));
	if (n < 0)
		n = 0;
	own[n] = '\0';
	request = json_pack("{s:s, s:I, s:s}", "verb", "upgrade", "ticket", ticket, "own", own);
	if (binary)
		json_object_set_new(request, "binary", json_string(binary));
	reply = client_call(mountpoint, request);
	if (!reply)
		return EXIT_FAILED;
	json_decref(reply);
	return await(mountpoint, ticket);
}

int verb_upgrade(int argc, char **argv)
{
	enum { BINARY = 256 };
	static const struct option longs[] = {
		{"binary", required_argument, NULL, BINARY},
		{NULL, 0, NULL, 0},
	};
	CLEANUP_FREE char *binary = NULL;
	const char *path = NULL;
	struct place place;
	int opt, r;

	opterr = 0;
	while ((opt = getopt_long(argc, argv, ":", longs, NULL)) != -1) {
		if (opt != BINARY)
			return cli_bad_option("upgrade", opt, argv);
		path = optarg;
	}
	if (argc - optind != 1)
		return cli_usage("upgrade", "a mount point is needed");
	if (path) {
		binary = realpath(path, NULL);
		if (!binary)
			return cli_fail("\"%s\": %s", path, cli_reason(errno));
	}
	r = place_mount("upgrade", argv[optind], &place);
	if (r != EXIT_DONE)
		return r;
	r = upgrade(place.mountpoint, binary);
	place_release(&place);
	return r;
}
