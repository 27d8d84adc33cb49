/* SPDX-License-Identifier: MIT */
/*
 * goldfs clone: one source, targets by name or by pattern, made all at once or not at all.
 *
 * What the kernel still holds dirty of a source that is a clone (pages written through mmap) is
 * written back first, from here: the thread in the daemon that serves the source cannot do it.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "cli/client.h"
#include "cli/jobs.h"
#include "cli/message.h"
#include "cli/number.h"
#include "cli/pages.h"
#include "cli/verbs.h"
#include "service/control.h"
#include "service/names.h"
#include "service/pattern.h"

struct options {
	const char *mode;
	uint64_t count; /* 0: targets are names */
	uint64_t start;
	bool force;
	bool opaque;
};

/* The name within a pattern's path. */
static const char *last_name(const char *pattern)
{
	const char *slash = strrchr(pattern, '/');

	return slash ? slash + 1 : pattern;
}

/*
 * The folder of a pattern, malloc'ed: "%%" in it is "%". NULL: it has something else with a '%',
 * or there is no memory.
 */
static char *pattern_folder(const char *pattern)
{
	const char *end = last_name(pattern);
	char *folder = end == pattern ? strdup(".") : strndup(pattern, (size_t)(end - pattern));
	char *out = folder;

	for (const char *p = folder; p && *p; p++) {
		if (*p == '%' && *++p != '%') {
			free(folder);
			return NULL;
		}
		*out++ = *p;
	}
	if (out)
		*out = '\0';
	return folder;
}

static int check_pattern(const char *pattern)
{
	CLEANUP_FREE char *folder = pattern_folder(pattern);
	const char *wrong = pattern_check(last_name(pattern));

	if (!folder)
		wrong = "has a conversion before its last name";
	return wrong ? cli_usage("clone", "pattern \"%s\" %s", pattern, wrong) : EXIT_DONE;
}

static int parse(int argc, char **argv, struct options *options)
{
	enum { START = 256, MODE, OPAQUE, FORCE };
	static const struct option longs[] = {
		{"mode", required_argument, NULL, MODE},
		{"count", required_argument, NULL, 'n'},
		{"start", required_argument, NULL, START},
		{"force", no_argument, NULL, FORCE},
		{"opaque", no_argument, NULL, OPAQUE},
		{NULL, 0, NULL, 0},
	};
	bool start = false;
	int opt;

	opterr = 0;
	while ((opt = getopt_long(argc, argv, ":n:", longs, NULL)) != -1) {
		if (opt == MODE) {
			options->mode = optarg;
		} else if (opt == FORCE) {
			options->force = true;
		} else if (opt == OPAQUE) {
			options->opaque = true;
		} else if (opt == 'n') {
			if (!number_parse(optarg, 1, CONTROL_CLONES_MAX, &options->count))
				return cli_usage("clone", "\"%s\" is not a count from 1 to %u",
					optarg, CONTROL_CLONES_MAX);
		} else if (opt == START) {
			start = true;
			if (!number_parse(optarg, 0, INT64_MAX / 2, &options->start))
				return cli_usage("clone", "\"%s\" is not a number to start at",
					optarg);
		} else {
			return cli_bad_option("clone", opt, argv);
		}
	}
	if (strcmp(options->mode, "snapshot") && strcmp(options->mode, "thin") &&
		strcmp(options->mode, "full"))
		return cli_usage("clone", "there is no mode \"%s\"", options->mode);
	if (start && !options->count)
		return cli_usage("clone", "--start goes with -n");
	if (options->count ? argc - optind != 2 : argc - optind < 2)
		return cli_usage("clone", options->count ? "-n takes a source and a pattern"
							 : "a source and a target are needed");
	return options->count ? check_pattern(argv[optind + 1]) : EXIT_DONE;
}

static bool is_frozen(const struct place *source)
{
	return strncmp(source->path, "golden/", 7) == 0 ||
		strncmp(source->path, ".snapshots/", 11) == 0;
}

/* Whether place is in the mount of source; says so when not. */
static int same_mount(const struct place *source, const struct place *place, const char *path)
{
	if (strcmp(source->mountpoint, place->mountpoint) == 0)
		return EXIT_DONE;
	return cli_fail("\"%s\" is in another mount than the source", path);
}

/* The name that a clone gets in a folder, malloc'ed: the source's last one, as typed. */
static char *name_of(const char *source)
{
	size_t len = strlen(source);
	size_t start;

	while (len && source[len - 1] == '/')
		len--;
	for (start = len; start && source[start - 1] != '/';)
		start--;
	return strndup(source + start, len - start);
}

static int add_target(json_t *targets, const struct place *source, const char *source_name,
	const char *target)
{
	CLEANUP_FREE char *inside = NULL;
	struct place place;
	struct stat st;
	int r;

	if (stat(target, &st) == 0 && S_ISDIR(st.st_mode)) {
		CLEANUP_FREE char *name = name_of(source_name);

		if (!name || asprintf(&inside, "%s/%s", target, name) < 0)
			return cli_fail("out of memory");
		target = inside;
	}
	r = place_find_new(target, &place);
	if (r != EXIT_DONE)
		return r;
	r = same_mount(source, &place, target);
	if (r == EXIT_DONE)
		json_array_append_new(targets, client_path(place.path));
	place_release(&place);
	return r;
}

static int add_targets(json_t *request, const struct place *source, int count, char **args)
{
	json_t *targets = json_array();
	int r = EXIT_DONE;

	for (int i = 1; i < count && r == EXIT_DONE; i++)
		r = add_target(targets, source, args[0], args[i]);
	json_object_set_new(request, "targets", targets);
	return r;
}

static int add_pattern(json_t *request, const struct place *source, const char *pattern,
	const struct options *options)
{
	CLEANUP_FREE char *folder = pattern_folder(pattern);
	const char *name = last_name(pattern);
	struct place place;
	char last[NAME_MAX + 1];
	int r;

	if (!folder)
		return cli_fail("out of memory");
	if (pattern_expand(name, options->start + options->count - 1, last, sizeof(last)) < 0)
		return cli_fail("pattern \"%s\" gives names that are too long", pattern);
	r = place_find(folder, &place);
	if (r != EXIT_DONE)
		return r;
	r = same_mount(source, &place, folder);
	json_object_set_new(request, "folder", client_path(place.path));
	json_object_set_new(request, "pattern", client_path(name));
	json_object_set_new(request, "count", json_integer((json_int_t)options->count));
	json_object_set_new(request, "start", json_integer((json_int_t)options->start));
	place_release(&place);
	return r;
}

static json_t *make_request(const struct place *source, const struct options *options)
{
	mode_t mask = umask(0);

	umask(mask);
	return json_pack("{s:s, s:o, s:s, s:b, s:b, s:i}", "verb", "clone", "source",
		client_path(source->path), "mode", options->mode, "replace", options->force,
		"opaque", options->opaque, "umask", (int)(mask & 0777));
}

int verb_clone(int argc, char **argv)
{
	struct options options = {.mode = "snapshot", .start = 1};
	struct place source;
	json_t *request, *reply;
	int r = parse(argc, argv, &options);

	argv += optind;
	argc -= optind;
	if (r != EXIT_DONE)
		return r;
	r = place_find(argv[0], &source);
	if (r != EXIT_DONE)
		return r;
	request = make_request(&source, &options);
	if (!request)
		r = cli_fail("out of memory");
	else if (options.count)
		r = add_pattern(request, &source, argv[1], &options);
	else
		r = add_targets(request, &source, argc, argv);
	if (r == EXIT_DONE && !is_frozen(&source))
		r = pages_write_back(argv[0]);
	if (r == EXIT_DONE) {
		reply = client_call(source.mountpoint, json_incref(request));
		pages_forget(source.mountpoint, reply);
		r = reply ? EXIT_DONE : EXIT_FAILED;
		if (json_object_get(reply, "job"))
			r = job_follow(source.mountpoint,
				(uint64_t)json_integer_value(json_object_get(reply, "job")));
		if (r == JOB_LOST)
			r = cli_fail("the daemon was restarted while it copied; the clones are there, "
				     "goldfs convert makes of the rest what was asked for");
		else if (reply && r != EXIT_DONE)
			cli_fail("the clones are there: remove them, or goldfs convert --mode %s goes on with them",
				options.mode);
		json_decref(reply);
	}
	json_decref(request);
	place_release(&source);
	return r;
}
