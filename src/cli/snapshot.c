/* SPDX-License-Identifier: MIT */
/*
 * goldfs snapshot create|list|rollback|delete|rename, rm --snapshots, and refresh.
 *
 * A clone that was removed may still be named: its snapshots are there.
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/text.h"
#include "cli/client.h"
#include "cli/hooks.h"
#include "cli/message.h"
#include "cli/pages.h"
#include "cli/table.h"
#include "cli/verbs.h"
#include "service/names.h"

static const struct column snapshot_columns[] = {
	{"NAME", "name", COLUMN_TEXT, true},
	{"CURRENT", "here", COLUMN_TEXT, true},
	{"UNIQUE", "unique_bytes", COLUMN_SIZE, true},
	{"SHARED", "shared_bytes", COLUMN_SIZE, false},
	{"DATA", "data_bytes", COLUMN_SIZE, true},
	{"VIRTUAL", "virtual_bytes", COLUMN_SIZE, true},
	{"CREATED", "created", COLUMN_TEXT, true},
	{"PARENT", "parent", COLUMN_TEXT, false},
	{"AUTOMATIC", "automatic", COLUMN_TEXT, false},
	{"STATE", "state", COLUMN_TEXT, true},
	{"PATH", "path", COLUMN_TEXT, false},
	{"SHARED-GOLDEN", "shared_golden_bytes", COLUMN_SIZE, false},
	{"SHARED-CLONE", "shared_clone_bytes", COLUMN_SIZE, false},
	{"SHARED-SNAPSHOT", "shared_snapshot_bytes", COLUMN_SIZE, false},
	{"ZERO", "zero_bytes", COLUMN_SIZE, false},
	{NULL, NULL, COLUMN_TEXT, false},
};

static const struct column freed_columns[] = {
	{"IF-DELETED", "if_removed_bytes", COLUMN_SIZE, true},
	{NULL, NULL, COLUMN_TEXT, false},
};

/* ---- what is named ---- */

/* Adds the paths of files, all of one mount: *mountpoint, owned by the caller. */
static int add_paths(json_t *request, int count, char **typed, char **mountpoint)
{
	json_t *paths = json_array();
	int r = places_gather(count, typed, place_find_gone, paths, mountpoint);

	json_object_set_new(request, "paths", paths);
	return r;
}

/* Sends a request about one clone; NULL: it failed, and that was said. Takes it over. */
static json_t *ask(json_t *request, const char *path)
{
	struct place place;
	json_t *reply = NULL;

	if (place_find_gone(path, &place) == EXIT_DONE) {
		json_object_set_new(request, "path", client_path(place.path));
		reply = client_call(place.mountpoint, json_incref(request));
		pages_forget(place.mountpoint, reply);
		place_release(&place);
	}
	json_decref(request);
	return reply;
}

static int done(json_t *reply)
{
	int r = reply ? EXIT_DONE : EXIT_FAILED;

	json_decref(reply);
	return r;
}

/* ---- create ---- */

static int create(int count, char **args, struct hooks *hooks)
{
	json_t *request = json_pack("{s:s, s:o}", "verb", "snapshot-create", "name",
		client_path(args[count - 1]));
	CLEANUP_FREE char *mountpoint = NULL;
	int r = add_paths(request, count - 1, args, &mountpoint);

	for (int i = 0; i < count - 1 && r == EXIT_DONE; i++)
		r = pages_write_back(args[i]);
	if (r == EXIT_DONE) {
		r = hooks_begin(hooks);
		/* What the guest wrote to freeze may be in pages as well. */
		for (int i = 0; i < count - 1 && r == EXIT_DONE && hooks->freeze; i++)
			r = pages_write_back(args[i]);
		if (r == EXIT_DONE)
			r = done(client_call(mountpoint, json_incref(request)));
		r = hooks_end(hooks, r);
	}
	json_decref(request);
	return r;
}

static int snapshot_create(int argc, char **argv)
{
	enum { FREEZE = 256, THAW };
	static const struct option longs[] = {
		{"freeze-command", required_argument, NULL, FREEZE},
		{"thaw-command", required_argument, NULL, THAW},
		{NULL, 0, NULL, 0},
	};
	struct hooks hooks = {0};
	int opt;

	while ((opt = getopt_long(argc, argv, ":", longs, NULL)) != -1) {
		if (opt == FREEZE)
			hooks.freeze = optarg;
		else if (opt == THAW)
			hooks.thaw = optarg;
		else
			return cli_bad_option("snapshot", opt, argv);
	}
	if (argc - optind < 2)
		return cli_usage("snapshot", "a clone and a name are needed");
	return create(argc - optind, argv + optind, &hooks);
}

/* ---- list ---- */

static void mark_current(json_t *rows)
{
	json_t *row;
	size_t i;

	json_array_foreach(rows, i, row)
		json_object_set_new(row, "here",
			json_string(json_is_true(json_object_get(row, "current")) ? "*" : ""));
}

static void unmark_current(json_t *rows)
{
	json_t *row;
	size_t i;

	json_array_foreach(rows, i, row)
		json_object_del(row, "here");
}

static int snapshot_list(int argc, char **argv)
{
	static const struct option longs[] = {VIEW_LONG, {NULL, 0, NULL, 0}};
	struct view view = {.tree = true, .tree_key = "name", .parent_key = "parent"};
	json_t *reply, *rows;
	int opt, r;

	while ((opt = getopt_long(argc, argv, ":" VIEW_SHORT, longs, NULL)) != -1)
		if (!view_option(&view, opt))
			return cli_bad_option("snapshot", opt, argv);
	/* A list of columns without the names, or in another order, is no tree. */
	view.tree = !view.columns && !view.sort;
	r = view_check(&view, "snapshot", snapshot_columns);
	if (r != EXIT_DONE)
		return r;
	if (argc - optind != 1)
		return cli_usage("snapshot", "a clone is needed");
	reply = ask(json_pack("{s:s}", "verb", "snapshot-list"), argv[optind]);
	if (!reply)
		return EXIT_FAILED;
	rows = json_object_get(reply, "goldfs");
	if (view.json && !view.columns)
		unmark_current(rows);
	else
		mark_current(rows);
	r = view_print(&view, snapshot_columns, "goldfs", false, rows, NULL);
	json_decref(reply);
	return r;
}

/* ---- rollback ---- */

static int tell_kept(const char *clone, const json_t *reply)
{
	const char *kept = json_string_value(json_object_get(reply, "kept"));
	CLEANUP_FREE char *path = text_shell_word(clone);
	CLEANUP_FREE char *name = text_shell_word(kept ? kept : "");
	CLEANUP_FREE char *text = NULL;

	if (!kept || !*kept)
		return EXIT_DONE;
	if (!path || !name || asprintf(&text,
		    "what was there is kept as \"%s\", to go there again:\n"
		    "  goldfs snapshot rollback %s%s %s\n", kept,
		    *path == '-' || *name == '-' ? "-- " : "", path, name) < 0)
		return EXIT_DONE;
	return cli_print(text, strlen(text));
}

static int snapshot_rollback(int argc, char **argv)
{
	enum { FORCE = 256 };
	static const struct option longs[] = {
		{"force", no_argument, NULL, FORCE}, {NULL, 0, NULL, 0}};
	bool force = false;
	json_t *reply;
	int opt, r;

	while ((opt = getopt_long(argc, argv, ":", longs, NULL)) != -1) {
		if (opt != FORCE)
			return cli_bad_option("snapshot", opt, argv);
		force = true;
	}
	if (argc - optind != 2)
		return cli_usage("snapshot", "a clone and the name of a snapshot are needed");
	r = pages_write_back(argv[optind]);
	if (r != EXIT_DONE)
		return r;
	reply = ask(json_pack("{s:s, s:o, s:b}", "verb", "snapshot-rollback", "name",
			    client_path(argv[optind + 1]), "force", force),
		argv[optind]);
	if (!reply)
		return EXIT_FAILED;
	pages_drop(argv[optind]);
	r = tell_kept(argv[optind], reply);
	json_decref(reply);
	return r;
}

/* ---- delete and rename ---- */

/* "7d": seconds. */
static bool parse_age(const char *text, uint64_t *seconds)
{
	static const struct {
		char unit;
		uint64_t seconds;
	} units[] = {{'s', 1}, {'m', 60}, {'h', 3600}, {'d', 86400}, {'w', 604800}};
	char *end;
	unsigned long long n;

	if (*text < '0' || *text > '9')
		return false;
	errno = 0;
	n = strtoull(text, &end, 10);
	for (size_t i = 0; i < sizeof(units) / sizeof(*units); i++) {
		if (*end != units[i].unit || end[1] || errno || n > UINT32_MAX)
			continue;
		*seconds = n * units[i].seconds;
		return *seconds <= UINT32_MAX * UINT64_C(2);
	}
	return false;
}

static int print_freed(const struct view *view, json_t *reply)
{
	json_t *extra = json_pack("{s:O}", "if_removed_bytes", json_object_get(reply, "if_removed_bytes"));
	json_t *rows = view->json ? json_incref(json_object_get(reply, "goldfs")) : json_pack("[O]", extra);
	int r;

	if (view->json)
		r = view_print(view, snapshot_columns, "goldfs", false, rows, extra);
	else
		r = view_print(view, freed_columns, "goldfs", false, rows, NULL);
	json_decref(rows);
	json_decref(extra);
	return r;
}

static int snapshot_delete(int argc, char **argv)
{
	enum { DRY_RUN = VIEW_FIRST_FREE, AUTOMATIC, OLDER };
	static const struct option longs[] = {
		VIEW_LONG,
		{"dry-run", no_argument, NULL, DRY_RUN},
		{"automatic", no_argument, NULL, AUTOMATIC},
		{"older-than", required_argument, NULL, OLDER},
		{NULL, 0, NULL, 0},
	};
	bool dry_run = false, automatic = false, older = false;
	struct view view = {.json = false};
	json_t *request, *reply, *names;
	uint64_t seconds = 0;
	int opt, r;

	while ((opt = getopt_long(argc, argv, ":" VIEW_SHORT, longs, NULL)) != -1) {
		if (opt == DRY_RUN)
			dry_run = true;
		else if (opt == AUTOMATIC)
			automatic = true;
		else if (opt == OLDER && (older = true) && !parse_age(optarg, &seconds))
			return cli_usage("snapshot", "\"%s\" is no age like 12h, 7d or 2w", optarg);
		else if (opt != OLDER && !view_option(&view, opt))
			return cli_bad_option("snapshot", opt, argv);
	}
	r = view_check(&view, "snapshot", view.json ? snapshot_columns : freed_columns);
	if (r != EXIT_DONE)
		return r;
	if (older && !automatic)
		return cli_usage("snapshot", "--older-than goes with --automatic");
	if (automatic ? argc - optind != 1 : argc - optind < 2)
		return cli_usage("snapshot", automatic ? "--automatic takes a clone, and no names" :
			"a clone and the name of a snapshot are needed");
	request = json_pack("{s:s, s:b, s:b, s:I}", "verb", "snapshot-delete", "dry_run", dry_run,
		"automatic", automatic, "older_than", (json_int_t)seconds);
	names = json_array();
	for (int i = optind + 1; i < argc; i++)
		json_array_append_new(names, client_path(argv[i]));
	if (!automatic)
		json_object_set(request, "names", names);
	json_decref(names);
	reply = ask(request, argv[optind]);
	if (reply && dry_run) {
		r = print_freed(&view, reply);
		json_decref(reply);
		return r;
	}
	return done(reply);
}

static int snapshot_rename(int argc, char **argv)
{
	static const struct option longs[] = {{NULL, 0, NULL, 0}};
	int opt = getopt_long(argc, argv, ":", longs, NULL);

	if (opt != -1)
		return cli_bad_option("snapshot", opt, argv);
	if (argc - optind != 3)
		return cli_usage("snapshot", "a clone, the name of a snapshot and its new one are needed");
	return done(ask(json_pack("{s:s, s:o, s:o}", "verb", "snapshot-rename", "name",
				client_path(argv[optind + 1]), "to", client_path(argv[optind + 2])),
		argv[optind]));
}

int verb_snapshot(int argc, char **argv)
{
	static const struct {
		const char *name;
		int (*run)(int argc, char **argv);
	} verbs[] = {{"create", snapshot_create}, {"list", snapshot_list},
		{"rollback", snapshot_rollback}, {"delete", snapshot_delete},
		{"rename", snapshot_rename}};

	opterr = 0;
	for (size_t i = 0; argc > 1 && i < sizeof(verbs) / sizeof(*verbs); i++)
		if (strcmp(argv[1], verbs[i].name) == 0)
			return verbs[i].run(argc - 1, argv + 1);
	if (argc > 1)
		return cli_usage("snapshot", "there is no \"snapshot %s\"", argv[1]);
	return cli_usage("snapshot", "create, list, rollback, delete or rename is needed");
}

/* ---- rm ---- */

int verb_rm(int argc, char **argv)
{
	enum { SNAPSHOTS = 256 };
	static const struct option longs[] = {
		{"snapshots", no_argument, NULL, SNAPSHOTS}, {NULL, 0, NULL, 0}};
	bool snapshots = false;
	int opt, r = EXIT_DONE;

	opterr = 0;
	while ((opt = getopt_long(argc, argv, ":", longs, NULL)) != -1) {
		if (opt != SNAPSHOTS)
			return cli_bad_option("rm", opt, argv);
		snapshots = true;
	}
	if (optind == argc)
		return cli_usage("rm", "a clone is needed");
	if (!snapshots)
		return cli_usage("rm", "--snapshots is needed; rm(1) removes the clone alone");
	for (int i = optind; i < argc && r == EXIT_DONE; i++) {
		struct stat st;

		if (lstat(argv[i], &st) == 0 && S_ISLNK(st.st_mode))
			return cli_fail("\"%s\" is a symbolic link: rm(1) removes it, or name the clone", argv[i]);
		r = done(ask(json_pack("{s:s}", "verb", "remove"), argv[i]));
	}
	return r;
}

/* ---- refresh ---- */

/* A word for each clone that was something, and how to go there again. */
static int tell_all_kept(const char *mountpoint, const json_t *reply)
{
	json_t *list = json_object_get(reply, "kept"), *row;
	char *text = NULL;
	size_t len = 0, i;
	FILE *out = json_array_size(list) ? open_memstream(&text, &len) : NULL;
	int r = EXIT_DONE;

	if (!out)
		return EXIT_DONE;
	json_array_foreach(list, i, row) {
		const char *path = json_string_value(json_object_get(row, "path"));
		const char *name = json_string_value(json_object_get(row, "name"));

		fprintf(out, "what \"%s/%s\" was is kept as \"%s\"\n", mountpoint, path ? path : "",
			name ? name : "");
	}
	fputs("to go there again: goldfs snapshot rollback CLONE NAME\n", out);
	if (fclose(out) == 0)
		r = cli_print(text, len);
	free(text);
	return r;
}

static int refresh(const char *golden, int count, char **clones, bool force, bool opaque)
{
	json_t *request = json_pack(
		"{s:s, s:b, s:b}", "verb", "refresh", "force", force, "opaque", opaque);
	CLEANUP_FREE char *mountpoint = NULL;
	json_t *reply = NULL;
	struct place image;
	int r = place_find(golden, &image);

	if (r == EXIT_DONE) {
		json_object_set_new(request, "golden", client_path(image.path));
		r = add_paths(request, count, clones, &mountpoint);
		if (r == EXIT_DONE && strcmp(mountpoint, image.mountpoint) != 0)
			r = cli_fail("\"%s\" is in another mount than the clone", golden);
		place_release(&image);
	}
	for (int i = 0; i < count && r == EXIT_DONE; i++)
		r = pages_write_back(clones[i]);
	if (r == EXIT_DONE) {
		reply = client_call(mountpoint, json_incref(request));
		r = reply ? EXIT_DONE : EXIT_FAILED;
	}
	for (int i = 0; i < count && r == EXIT_DONE; i++)
		pages_drop(clones[i]);
	if (r == EXIT_DONE)
		r = tell_all_kept(mountpoint, reply);
	json_decref(reply);
	json_decref(request);
	return r;
}

int verb_refresh(int argc, char **argv)
{
	enum { ONTO = 256, FORCE, OPAQUE };
	static const struct option longs[] = {
		{"onto", required_argument, NULL, ONTO},
		{"force", no_argument, NULL, FORCE},
		{"opaque", no_argument, NULL, OPAQUE},
		{NULL, 0, NULL, 0},
	};
	const char *golden = NULL;
	bool force = false, opaque = false;
	int opt;

	opterr = 0;
	while ((opt = getopt_long(argc, argv, ":", longs, NULL)) != -1) {
		if (opt == ONTO)
			golden = optarg;
		else if (opt == FORCE)
			force = true;
		else if (opt == OPAQUE)
			opaque = true;
		else
			return cli_bad_option("refresh", opt, argv);
	}
	if (!golden)
		return cli_usage("refresh", "--onto and a golden image are needed");
	if (optind == argc)
		return cli_usage("refresh", "a clone is needed");
	return refresh(golden, argc - optind, argv + optind, force, opaque);
}
