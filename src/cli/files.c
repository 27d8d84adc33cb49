/* SPDX-License-Identifier: MIT */
/*
 * goldfs list, stat and golden: what there is and what it costs.
 *
 * list shows paths from the root directory on, stat as they were typed: who names a file wants to
 * recognise it. list of a folder is one request, however many clones there are.
 */
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "cli/client.h"
#include "cli/message.h"
#include "cli/table.h"
#include "cli/verbs.h"
#include "service/names.h"

static const struct column file_columns[] = {
	{"PATH", "path", COLUMN_TEXT, true},
	{"KIND", "kind", COLUMN_TEXT, true},
	{"MODE", "mode", COLUMN_TEXT, false},
	{"FORMAT", "format", COLUMN_TEXT, true},
	{"BASE", "base", COLUMN_TEXT, true},
	{"VIRTUAL", "virtual_bytes", COLUMN_SIZE, true},
	{"DATA", "data_bytes", COLUMN_SIZE, true},
	{"ZERO", "zero_bytes", COLUMN_SIZE, false},
	{"UNIQUE", "unique_bytes", COLUMN_SIZE, true},
	{"SHARED", "shared_bytes", COLUMN_SIZE, true},
	{"SHARED-GOLDEN", "shared_golden_bytes", COLUMN_SIZE, false},
	{"SHARED-CLONE", "shared_clone_bytes", COLUMN_SIZE, false},
	{"SHARED-SNAPSHOT", "shared_snapshot_bytes", COLUMN_SIZE, false},
	{"SHARED-SELF", "shared_self_bytes", COLUMN_SIZE, false},
	{"PINNED-GOLDEN", "pinned_golden_bytes", COLUMN_SIZE, false},
	{"SNAPSHOTS", "snapshots", COLUMN_COUNT, false},
	{"LIMIT", "limit_bytes", COLUMN_SIZE, false},
	{"DEDUP", "dedup", COLUMN_TEXT, false},
	{"DEDUP-DOMAIN", "dedup_domain", COLUMN_TEXT, false},
	{"CREATED", "created", COLUMN_TEXT, false},
	{"STATE", "state", COLUMN_TEXT, true},
	{"REASON", "reason", COLUMN_TEXT, false},
	{NULL, NULL, COLUMN_TEXT, false},
};

static const struct column golden_columns[] = {
	{"PATH", "path", COLUMN_TEXT, true},
	{"FORMAT", "format", COLUMN_TEXT, true},
	{"VIRTUAL", "virtual_bytes", COLUMN_SIZE, true},
	{"DATA", "data_bytes", COLUMN_SIZE, true},
	{"CREATED", "created", COLUMN_TEXT, false},
	{"STATE", "state", COLUMN_TEXT, true},
	{NULL, NULL, COLUMN_TEXT, false},
};

static const struct column removal_columns[] = {
	{"IF-REMOVED", "if_removed_bytes", COLUMN_SIZE, true},
	{NULL, NULL, COLUMN_TEXT, false},
};

/* ---- list ---- */

/* Makes a row's path absolute. */
static void set_full_path(json_t *row, const char *mountpoint)
{
	const char *path = json_string_value(json_object_get(row, "path"));
	CLEANUP_FREE char *prefix = name_text(mountpoint);
	CLEANUP_FREE char *full = NULL;

	if (prefix && path && asprintf(&full, "%s%s%s", strcmp(prefix, "/") ? prefix : "",
				      *path ? "/" : "", path) >= 0)
		json_object_set_new(row, "path", json_string(full));
}

/* Adds what a reply lists to rows; takes the reply over. */
static int take_rows(json_t *reply, const char *mountpoint, json_t *rows)
{
	json_t *list = json_object_get(reply, "goldfs");
	json_t *row;
	size_t i;

	if (!reply)
		return EXIT_FAILED;
	json_array_foreach(list, i, row) {
		set_full_path(row, mountpoint);
		json_array_append(rows, row);
	}
	json_decref(reply);
	return EXIT_DONE;
}

/* "golden,clone" as a list for the request; NULL with a word to the user. */
static json_t *parse_types(const char *text)
{
	static const char *const known[] = {"golden", "clone", "snapshot", "folder", NULL};
	json_t *types = json_array();

	for (;;) {
		size_t len = strcspn(text, ",");
		const char *const *k = known;

		while (*k && (strlen(*k) != len || strncmp(*k, text, len) != 0))
			k++;
		if (!*k) {
			cli_usage("list", "there is no type \"%.*s\"", (int)len, text);
			json_decref(types);
			return NULL;
		}
		json_array_append_new(types, json_string(*k));
		if (!text[len])
			return types;
		text += len + 1;
	}
}

/* What list shows when no type was named: no snapshots, unless it is asked to look there. */
static json_t *usual_types(const char *path)
{
	if (strncmp(path, ".snapshots", 10) == 0 && (!path[10] || path[10] == '/'))
		return json_pack("[s]", "snapshot");
	return json_pack("[s, s]", "golden", "clone");
}

/* Whether a row is golden or .snapshots, as a reply names it, with nothing below it in rows. */
static bool is_empty_reserved(json_t *rows, const json_t *row)
{
	const char *path = json_string_value(json_object_get(row, "path"));
	size_t len = path ? strlen(path) : 0;
	json_t *other;
	size_t i;

	if (!path || (strcmp(path, "golden") != 0 && strcmp(path, ".snapshots") != 0))
		return false;
	json_array_foreach(rows, i, other) {
		const char *below = json_string_value(json_object_get(other, "path"));

		if (below && strncmp(below, path, len) == 0 && below[len] == '/')
			return false;
	}
	return true;
}

/* Folders that nobody made are in a tree for what is in them. */
static void prune(json_t *rows)
{
	for (size_t i = json_array_size(rows); i-- > 0;)
		if (is_empty_reserved(rows, json_array_get(rows, i)))
			json_array_remove(rows, i);
}

/* The folder that a tree grows from. */
static int list_top(const struct place *place, json_t *rows)
{
	json_t *reply = client_call(place->mountpoint,
		json_pack("{s:s, s:[o]}", "verb", "stat", "paths", client_path(place->path)));
	const char *kind = json_string_value(json_object_get(
		json_array_get(json_object_get(reply, "goldfs"), 0), "kind"));

	if (kind && strcmp(kind, "folder") != 0) {
		json_decref(reply); /* a file is listed itself */
		return EXIT_DONE;
	}
	return take_rows(reply, place->mountpoint, rows);
}

static int list_place(const struct place *place, json_t *types, bool tree, json_t *rows)
{
	json_t *wanted = types ? json_copy(types) : usual_types(place->path);
	json_t *request = json_pack("{s:s, s:o, s:O}", "verb", "list", "path",
		client_path(place->path), "types", wanted);
	json_t *reply;
	int r = EXIT_DONE;

	if (tree)
		json_array_append_new(wanted, json_string("folder"));
	json_decref(wanted);
	if (tree)
		r = list_top(place, rows);
	if (r != EXIT_DONE) {
		json_decref(request);
		return r;
	}
	reply = client_call(place->mountpoint, request);
	if (tree && reply)
		prune(json_object_get(reply, "goldfs"));
	return take_rows(reply, place->mountpoint, rows);
}

static int list_path(const char *path, json_t *types, bool tree, json_t *rows)
{
	struct place place;
	int r = place_find(path, &place);

	if (r == EXIT_DONE)
		r = list_place(&place, types, tree, rows);
	place_release(&place);
	return r;
}

/* Nothing was named: the mount of the working directory, else all there are. */
static int list_default(json_t *types, bool tree, json_t *rows)
{
	char **mounts = client_mounts();
	struct place place;
	int r = mounts ? EXIT_DONE : EXIT_FAILED;

	if (place_working(&place)) {
		r = list_path(place.mountpoint, types, tree, rows);
		place_release(&place);
	} else {
		for (size_t i = 0; r == EXIT_DONE && mounts[i]; i++)
			r = list_path(mounts[i], types, tree, rows);
	}
	client_mounts_free(mounts);
	return r;
}

int verb_list(int argc, char **argv)
{
	enum { TREE = VIEW_FIRST_FREE };
	static const struct option longs[] = {
		VIEW_LONG,
		{"types", required_argument, NULL, 't'},
		{"tree", no_argument, NULL, TREE},
		{NULL, 0, NULL, 0},
	};
	struct view view = {.json = false};
	json_t *types = NULL;
	json_t *rows;
	int opt, r;

	opterr = 0;
	while ((opt = getopt_long(argc, argv, ":t:" VIEW_SHORT, longs, NULL)) != -1) {
		if (opt == 't') {
			json_decref(types);
			types = parse_types(optarg);
			if (!types)
				return EXIT_USAGE;
		} else if (opt == TREE) {
			view.tree = true;
		} else if (!view_option(&view, opt)) {
			return cli_bad_option("list", opt, argv);
		}
	}
	/* JSON is what it is without. */
	view.tree &= !view.json;
	r = view_check(&view, "list", file_columns);
	if (r != EXIT_DONE)
		return r;
	rows = json_array();
	if (optind == argc)
		r = list_default(types, view.tree, rows);
	for (int i = optind; i < argc && r == EXIT_DONE; i++)
		r = list_path(argv[i], types, view.tree, rows);
	if (r == EXIT_DONE)
		r = view_print(&view, file_columns, "goldfs", false, rows, NULL);
	json_decref(rows);
	json_decref(types);
	return r;
}

/* ---- stat ---- */

/* Puts what the user typed in the place of each row's path. */
static void set_typed_paths(json_t *rows, int count, char **typed)
{
	json_t *row;
	size_t i;

	json_array_foreach(rows, i, row)
		if (i < (size_t)count)
			json_object_set_new(row, "path", name_json(typed[i]));
}

/* Asks about paths of one mount at once. NULL: it failed. */
static json_t *ask_stat(int count, char **typed, bool if_removed)
{
	CLEANUP_FREE char *mountpoint = NULL;
	json_t *paths = json_array();
	json_t *reply = NULL;

	if (places_gather(count, typed, place_find, paths, &mountpoint) == EXIT_DONE)
		reply = client_call(mountpoint,
			json_pack("{s:s, s:O, s:b}", "verb", "stat", "paths", paths, "if_removed",
				if_removed));
	json_decref(paths);
	if (reply)
		set_typed_paths(json_object_get(reply, "goldfs"), count, typed);
	return reply;
}

static int print_removal(const struct view *view, int count, char **typed)
{
	json_t *reply = ask_stat(count, typed, true);
	json_t *extra, *rows;
	int r;

	if (!reply)
		return EXIT_FAILED;
	extra = json_pack("{s:O}", "if_removed_bytes", json_object_get(reply, "if_removed_bytes"));
	if (view->json) {
		rows = json_incref(json_object_get(reply, "goldfs"));
		r = view_print(view, file_columns, "goldfs", false, rows, extra);
	} else {
		rows = json_pack("[O]", extra);
		r = view_print(view, removal_columns, "goldfs", false, rows, NULL);
	}
	json_decref(rows);
	json_decref(extra);
	json_decref(reply);
	return r;
}

static int print_stat(const struct view *view, int count, char **typed)
{
	json_t *rows = json_array();
	int r = EXIT_DONE;

	for (int i = 0; i < count && r == EXIT_DONE; i++) {
		json_t *reply = ask_stat(1, typed + i, false);

		if (reply)
			json_array_extend(rows, json_object_get(reply, "goldfs"));
		else
			r = EXIT_FAILED;
		json_decref(reply);
	}
	if (r == EXIT_DONE)
		r = view_print(view, file_columns, "goldfs", false, rows, NULL);
	json_decref(rows);
	return r;
}

int verb_stat(int argc, char **argv)
{
	enum { IF_REMOVED = VIEW_FIRST_FREE };
	static const struct option longs[] = {
		VIEW_LONG,
		{"if-removed", no_argument, NULL, IF_REMOVED},
		{NULL, 0, NULL, 0},
	};
	struct view view = {.tall = true};
	bool if_removed = false;
	int opt, r;

	opterr = 0;
	while ((opt = getopt_long(argc, argv, ":" VIEW_SHORT, longs, NULL)) != -1) {
		if (opt == IF_REMOVED)
			if_removed = true;
		else if (!view_option(&view, opt))
			return cli_bad_option("stat", opt, argv);
	}
	if (if_removed)
		view.tall = false;
	r = view_check(&view, "stat",
		if_removed && !view.json ? removal_columns : file_columns);
	if (r != EXIT_DONE)
		return r;
	if (optind == argc)
		return cli_usage("stat", "a path is needed");
	if (if_removed)
		return print_removal(&view, argc - optind, argv + optind);
	return print_stat(&view, argc - optind, argv + optind);
}

/* ---- golden ---- */

static int golden_list(int argc, char **argv)
{
	static const struct option longs[] = {VIEW_LONG, {NULL, 0, NULL, 0}};
	struct view view = {.json = false};
	struct place place;
	json_t *rows, *types;
	int opt, r;

	opterr = 0;
	while ((opt = getopt_long(argc, argv, ":" VIEW_SHORT, longs, NULL)) != -1)
		if (!view_option(&view, opt))
			return cli_bad_option("golden", opt, argv);
	if (argc - optind > 1)
		return cli_usage("golden", "one mount point is enough");
	r = view_check(&view, "golden", golden_columns);
	if (r == EXIT_DONE)
		r = place_mount("golden", argv[optind], &place);
	if (r != EXIT_DONE)
		return r;
	free(place.path);
	place.path = strdup("golden");
	rows = json_array();
	types = json_pack("[s]", "golden");
	r = place.path ? list_place(&place, types, false, rows) : cli_fail("out of memory");
	if (r == EXIT_DONE)
		r = view_print(&view, golden_columns, "goldfs", false, rows, NULL);
	json_decref(rows);
	json_decref(types);
	place_release(&place);
	return r;
}

int verb_golden(int argc, char **argv)
{
	if (argc > 1 && strcmp(argv[1], "list") == 0)
		return golden_list(argc - 1, argv + 1);
	if (argc > 1 && strcmp(argv[1], "accept") == 0)
		return cli_fail("\"golden accept\" is not available in this version");
	if (argc > 1)
		return cli_usage("golden", "there is no \"golden %s\"", argv[1]);
	return cli_usage("golden", "\"list\" or \"accept\" is needed");
}
