/* SPDX-License-Identifier: MIT */
/*
 * The three forms: JSON, a table, and "tall" for one or a few rows with all their members. What is
 * printed is gathered first and written at once, so that a failure leaves stdout empty.
 */
#include "cli/table.h"

#include <libsmartcols.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include <uthash.h>

#include "base/cleanup.h"
#include "base/sizes.h"
#include "base/text.h"
#include "cli/format.h"
#include "cli/message.h"
#include "cli/verbs.h"

#define SELECTED_MAX 64

/* The columns to show, in order. */
struct selection {
	const struct column *column[SELECTED_MAX];
	size_t count;
};

bool view_option(struct view *view, int opt)
{
	switch (opt) {
	case 'j':
		return view->json = true;
	case 'b':
		return view->bytes = true;
	case 'n':
		return view->no_headings = true;
	case 'o':
		view->columns = optarg;
		return true;
	case VIEW_SORT:
		view->sort = optarg;
		return true;
	default:
		return false;
	}
}

/* ---- which columns ---- */

/* Whether word[0..len) is name, in either case and with "_" for "-". */
static bool same_name(const char *word, size_t len, const char *name)
{
	size_t i;

	for (i = 0; i < len && name[i]; i++) {
		char a = word[i] == '_' ? '-' : word[i];
		char b = name[i] == '_' ? '-' : name[i];

		if (strncasecmp(&a, &b, 1) != 0)
			return false;
	}
	return i == len && !name[i];
}

static const struct column *find_column(const struct column *columns, const char *word, size_t len)
{
	for (const struct column *c = columns; c->name; c++)
		if (same_name(word, len, c->name) || same_name(word, len, c->key))
			return c;
	return NULL;
}

static void select_usual(const struct column *columns, struct selection *selection)
{
	for (const struct column *c = columns; c->name; c++)
		if (c->usual && selection->count < SELECTED_MAX)
			selection->column[selection->count++] = c;
}

static void select_all(const struct column *columns, struct selection *selection)
{
	selection->count = 0;
	for (const struct column *c = columns; c->name && selection->count < SELECTED_MAX; c++)
		selection->column[selection->count++] = c;
}

/* Fills selection. NULL when all is well, else the word that is no column. */
static const char *select_columns(
	const char *list, const struct column *columns, struct selection *selection)
{
	selection->count = 0;
	if (!list || *list == '+')
		select_usual(columns, selection);
	if (!list)
		return NULL;
	list += *list == '+';
	for (;;) {
		size_t len = strcspn(list, ",");
		const struct column *column = find_column(columns, list, len);

		if (!column || selection->count == SELECTED_MAX)
			return list;
		selection->column[selection->count++] = column;
		if (!list[len])
			return NULL;
		list += len + 1;
	}
}

/* Of the column that the tree is drawn in. */
static const char *tree_key(const struct view *view)
{
	return view->tree_key ? view->tree_key : "path";
}

int view_check(const struct view *view, const char *verb, const struct column *columns)
{
	struct selection selection;
	const char *wrong = select_columns(view->columns, columns, &selection);
	const char *sort = view->sort;
	size_t i = 0;

	if (wrong)
		return cli_usage(verb, "there is no column \"%.*s\"", (int)strcspn(wrong, ","),
			wrong);
	if (sort && !find_column(columns, sort + (*sort == '-'), strlen(sort + (*sort == '-'))))
		return cli_usage(verb, "there is no column \"%s\"", sort + (*sort == '-'));
	while (i < selection.count && strcmp(selection.column[i]->key, tree_key(view)) != 0)
		i++;
	if (view->tree && i == selection.count)
		return cli_usage(verb, "a tree needs the column \"%s\"",
			view_column(columns, tree_key(view))->name);
	return EXIT_DONE;
}

/* ---- cells ---- */

double row_number(const json_t *row, const char *key)
{
	if (strcmp(key, "shared_bytes") == 0)
		return row_number(row, "shared_golden_bytes") +
			row_number(row, "shared_clone_bytes") +
			row_number(row, "shared_snapshot_bytes");
	return json_number_value(json_object_get(row, key));
}

uint64_t row_size(const json_t *row, const char *key)
{
	double number = row_number(row, key);

	if (!(number > 0))
		return 0;
	return number < 0x1p64 ? (uint64_t)number : UINT64_MAX;
}

char *view_cell(const struct view *view, const json_t *row, const struct column *column)
{
	const char *text = json_string_value(json_object_get(row, column->key));
	double number = row_number(row, column->key);
	char buf[64];

	switch (column->kind) {
	case COLUMN_TEXT:
		return strdup(text ? text : "");
	case COLUMN_RATIO:
		snprintf(buf, sizeof(buf), "%.2f", number);
		break;
	case COLUMN_RATE:
		format_rate(number, buf, sizeof(buf));
		break;
	case COLUMN_TIME:
		format_time(number, buf, sizeof(buf));
		break;
	case COLUMN_GROWTH:
		if (!view->bytes) {
			format_growth(number, buf, sizeof(buf));
			break;
		}
		snprintf(buf, sizeof(buf), "%.0f", number);
		break;
	case COLUMN_SIZE:
		if (!view->bytes) {
			size_format(row_size(row, column->key), buf, sizeof(buf));
			break;
		}
		/* fall through */
	case COLUMN_COUNT:
		snprintf(buf, sizeof(buf), "%.0f", number);
		break;
	}
	return strdup(buf);
}

struct order {
	const struct column *column;
	int direction;
};

static int compare_text(const json_t *x, const json_t *y, const char *key)
{
	const char *tx = json_string_value(json_object_get(x, key));
	const char *ty = json_string_value(json_object_get(y, key));

	return strverscmp(tx ? tx : "", ty ? ty : "");
}

/* Rows that are the same in this column stand in the order of their paths, if they have one. */
static int compare_rows(const void *a, const void *b, void *arg)
{
	const json_t *x = *(json_t *const *)a;
	const json_t *y = *(json_t *const *)b;
	const struct order *order = arg;
	const char *key = order->column->key;
	double dx = row_number(x, key), dy = row_number(y, key);
	int r = order->column->kind == COLUMN_TEXT ? compare_text(x, y, key) : (dx > dy) - (dx < dy);

	return r ? order->direction * r : compare_text(x, y, "path");
}

json_t *view_sorted(const struct column *column, int direction, json_t *rows)
{
	const struct order order = {.column = column, .direction = direction};
	size_t count = json_array_size(rows);
	CLEANUP_FREE json_t **row = calloc(count + 1, sizeof(json_t *));
	json_t *sorted;

	if (!row)
		return json_incref(rows);
	for (size_t i = 0; i < count; i++)
		row[i] = json_array_get(rows, i);
	qsort_r(row, count, sizeof(*row), compare_rows, (void *)&order);
	sorted = json_array();
	for (size_t i = 0; i < count; i++)
		json_array_append(sorted, row[i]);
	return sorted;
}

const struct column *view_column(const struct column *columns, const char *name)
{
	return find_column(columns, name, strlen(name));
}

/* rows in the order that the user wants, owned by the caller. */
static json_t *sort_rows(const struct view *view, const struct column *columns, json_t *rows)
{
	bool down = view->sort && *view->sort == '-';

	if (!view->sort)
		return json_incref(rows);
	return view_sorted(view_column(columns, view->sort + down), down ? -1 : 1, rows);
}

/* ---- the three forms ---- */

static json_t *project(const json_t *row, const struct selection *selection)
{
	json_t *object = json_object();

	for (size_t i = 0; i < selection->count; i++) {
		const char *key = selection->column[i]->key;
		json_t *value = json_object_get(row, key);

		if (value)
			json_object_set(object, key, value);
		else if (selection->column[i]->kind != COLUMN_TEXT)
			json_object_set_new(object, key,
				json_integer((json_int_t)row_size(row, key)));
	}
	return object;
}

/* The library escapes control characters, but for DEL and those of 8 bits; in JSON text they stand
 * in strings only. */
static int write_json(const char *buf, size_t len, void *arg)
{
	FILE *out = arg;

	for (size_t i = 0; i < len; i++) {
		const unsigned char *u = (const unsigned char *)buf + i;

		if (*u == 0x7f)
			fputs("\\u007f", out);
		else if (i + 1 < len && u[0] == 0xc2 && u[1] < 0xa0)
			fprintf(out, "\\u%04x", buf[++i] & 0xff);
		else
			putc(*u, out);
	}
	return 0;
}

int view_print_json(json_t *document, size_t flags)
{
	CLEANUP_FREE char *text = NULL;
	size_t len = 0;
	FILE *out = open_memstream(&text, &len);

	if (out) {
		json_dump_callback(document, write_json, out, flags);
		putc('\n', out);
		fclose(out);
	}
	json_decref(document);
	return text ? cli_print(text, len) : cli_fail("out of memory");
}

/* sorted, with those columns alone that were asked for. */
static json_t *project_rows(
	const struct view *view, const struct selection *selection, json_t *sorted)
{
	json_t *list, *row;
	size_t i;

	if (!view->columns)
		return json_incref(sorted);
	list = json_array();
	json_array_foreach(sorted, i, row)
		json_array_append_new(list, project(row, selection));
	return list;
}

json_t *view_rows(const struct view *view, const struct column *columns, json_t *rows)
{
	json_t *sorted = sort_rows(view, columns, rows);
	struct selection selection;
	json_t *list;

	select_columns(view->columns, columns, &selection);
	list = project_rows(view, &selection, sorted);
	json_decref(sorted);
	return list;
}

static int print_json(const struct view *view, const struct selection *selection, const char *root,
	bool one, json_t *rows, json_t *extra)
{
	json_t *document = json_object();
	json_t *list = project_rows(view, selection, rows);

	json_object_set(document, root, one ? json_array_get(list, 0) : list);
	if (extra)
		json_object_update(document, extra);
	json_decref(list);
	return view_print_json(document, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
}

void view_write_safely(FILE *out, const char *text)
{
	while (*text) {
		size_t shown = text_shown(text);

		if (shown)
			fwrite(text, 1, shown, out);
		else
			fprintf(out, "\\x%02x", (unsigned char)*text);
		text += shown ? shown : 1;
	}
}

/* Each member on a line of its own, and a blank line between rows. */
static int print_tall(const struct view *view, const struct selection *selection, json_t *rows)
{
	CLEANUP_FREE char *text = NULL;
	size_t len = 0;
	FILE *out = open_memstream(&text, &len);
	json_t *row;
	size_t i;

	if (!out)
		return cli_fail("out of memory");
	json_array_foreach(rows, i, row) {
		if (i)
			putc('\n', out);
		for (size_t c = 0; c < selection->count; c++) {
			CLEANUP_FREE char *cell = view_cell(view, row, selection->column[c]);

			if (!view->no_headings)
				fprintf(out, "%-16s ", selection->column[c]->name);
			view_write_safely(out, cell ? cell : "");
			putc('\n', out);
		}
	}
	fclose(out);
	return cli_print(text, len);
}

/* ---- trees ---- */

/* A folder's line by its path. */
struct folder_line {
	const char *path; /* of the row; key */
	struct libscols_line *line;
	UT_hash_handle hh;
};

static const char *path_of(const json_t *row)
{
	const char *path = json_string_value(json_object_get(row, "path"));

	return path ? path : "";
}

static void folders_release(struct folder_line *folders)
{
	struct folder_line *folder, *next;

	HASH_ITER (hh, folders, folder, next) {
		HASH_DEL(folders, folder);
		free(folder);
	}
}

static int note_folder(struct folder_line **folders, const json_t *row, struct libscols_line *line)
{
	const char *kind = json_string_value(json_object_get(row, "kind"));
	const char *path = path_of(row);
	struct folder_line *folder;

	if (!kind || strcmp(kind, "folder") != 0)
		return 0;
	HASH_FIND(hh, *folders, path, strlen(path), folder);
	if (folder)
		return 0; /* named twice: what is below it stands below the first */
	folder = calloc(1, sizeof(*folder));
	if (!folder)
		return -1;
	folder->path = path;
	folder->line = line;
	HASH_ADD_KEYPTR(hh, *folders, folder->path, strlen(folder->path), folder);
	return 0;
}

/* Puts a line below that of its folder; without one it stands on top, with its whole path. */
static int put_below(struct folder_line *folders, const json_t *row, struct libscols_line *line,
	size_t path_column)
{
	const char *path = path_of(row);
	const char *name = strrchr(path, '/');
	struct folder_line *folder = NULL;
	size_t len = name ? (size_t)(name - path) : 0;

	if (name && name[1])
		HASH_FIND(hh, folders, path, len ? len : 1, folder);
	if (!folder || folder->line == line)
		return 0;
	if (scols_line_set_data(line, path_column, name + 1) != 0)
		return -1;
	return scols_line_add_child(folder->line, line);
}

/* Lines were made in the order of rows, which so is that of the lines below one folder, too. */
static int make_tree(struct libscols_table *table, size_t path_column, json_t *rows)
{
	struct folder_line *folders = NULL;
	json_t *row;
	size_t i;
	int r = 0;

	json_array_foreach(rows, i, row)
		if (r == 0)
			r = note_folder(&folders, row, scols_table_get_line(table, i));
	json_array_foreach(rows, i, row)
		if (r == 0)
			r = put_below(folders, row, scols_table_get_line(table, i), path_column);
	folders_release(folders);
	return r;
}

/* Each below the one that it names, which comes before it or behind it. */
static int make_parent_tree(struct libscols_table *table, const struct view *view, json_t *rows)
{
	json_t *row, *other;
	size_t i, k;
	int r = 0;

	json_array_foreach(rows, i, row) {
		json_t *parent = json_object_get(row, view->parent_key);

		json_array_foreach(rows, k, other)
			if (r == 0 && k != i && json_equal(parent, json_object_get(other, view->tree_key)))
				r = scols_line_add_child(scols_table_get_line(table, k),
					scols_table_get_line(table, i));
	}
	return r;
}

static int column_flags(const struct view *view, const struct column *column)
{
	if (view->tree && strcmp(column->key, tree_key(view)) == 0)
		return SCOLS_FL_TREE;
	return column->kind == COLUMN_TEXT ? 0 : SCOLS_FL_RIGHT;
}

static int fill_table(struct libscols_table *table, const struct view *view,
	const struct selection *selection, json_t *rows)
{
	size_t path_column = 0;
	json_t *row;
	size_t i;

	scols_table_enable_noheadings(table, view->no_headings);
	for (size_t c = 0; c < selection->count; c++) {
		int flags = column_flags(view, selection->column[c]);

		if (!scols_table_new_column(table, selection->column[c]->name, 0, flags))
			return -1;
		if (flags == SCOLS_FL_TREE)
			path_column = c;
	}
	json_array_foreach(rows, i, row) {
		struct libscols_line *line = scols_table_new_line(table, NULL);

		for (size_t c = 0; c < selection->count; c++) {
			char *cell = view_cell(view, row, selection->column[c]);

			if (!line || !cell || scols_line_refer_data(line, c, cell) != 0) {
				free(cell);
				return -1;
			}
		}
	}
	if (view->tree && view->parent_key)
		return make_parent_tree(table, view, rows);
	return view->tree ? make_tree(table, path_column, rows) : 0;
}

static int print_table(const struct view *view, const struct selection *selection, json_t *rows)
{
	struct libscols_table *table;
	CLEANUP_FREE char *text = NULL;
	CLEANUP_FREE char *lines = NULL;
	int r = -1;

	cli_use_locale();
	table = scols_new_table();
	if (table)
		r = fill_table(table, view, selection, rows);
	if (r == 0 && json_array_size(rows))
		r = scols_print_table_to_string(table, &text);
	scols_unref_table(table);
	if (r != 0)
		return cli_fail("out of memory");
	if (!text)
		return EXIT_DONE;
	/* The library leaves out the newline of the last line. */
	if (asprintf(&lines, "%s\n", text) < 0)
		return cli_fail("out of memory");
	return cli_print(lines, strlen(lines));
}

int view_print(const struct view *view, const struct column *columns, const char *root, bool one,
	json_t *rows, json_t *extra)
{
	struct selection selection;
	json_t *sorted = sort_rows(view, columns, rows);
	int r;

	select_columns(view->columns, columns, &selection);
	if (view->tall && !view->columns)
		select_all(columns, &selection);
	if (view->json)
		r = print_json(view, &selection, root, one, sorted, extra);
	else if (view->tall && !view->columns)
		r = print_tall(view, &selection, sorted);
	else
		r = print_table(view, &selection, sorted);
	json_decref(sorted);
	return r;
}
