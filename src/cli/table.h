/* SPDX-License-Identifier: MIT */
/*
 * Results as a table or as JSON, with the options that all verbs share.
 *
 * A row is a JSON object as the mount gave it, a column is one of its members. The table is
 * libsmartcols', so it looks and sorts as lsblk's: sizes IEC unless -b, --sort ascending, "-COL"
 * descending, -o COL,... or -o +COL,... to add to the usual ones.
 */
#ifndef GOLDFS_CLI_TABLE_H
#define GOLDFS_CLI_TABLE_H

#include <getopt.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

enum column_kind {
	COLUMN_TEXT,
	COLUMN_SIZE,
	COLUMN_COUNT,
	COLUMN_RATIO,
	COLUMN_RATE,   /* so many per second */
	COLUMN_TIME,   /* nanoseconds */
	COLUMN_GROWTH, /* bytes, may be negative */
};

struct column {
	const char *name; /* heading; also what -o and --sort understand, in either case */
	const char *key;  /* of the member */
	enum column_kind kind;
	bool usual; /* shown without -o */
};

struct view {
	bool json;
	bool bytes;
	bool no_headings;
	bool tall; /* without -o: one property per line, one block per row */
	bool tree; /* tables: rows below those of their folders, by their paths; */
	const char *tree_key;	/* or, when it is not NULL, below the one whose member of this key */
	const char *parent_key; /* is what theirs of that one is */
	const char *columns;
	const char *sort;
};

/* For getopt_long(): options that view_option() understands. */
#define VIEW_SHORT "jbno:"
enum { VIEW_SORT = 256, VIEW_FIRST_FREE };
#define VIEW_LONG \
	{"json", no_argument, NULL, 'j'}, {"bytes", no_argument, NULL, 'b'}, \
		{"noheadings", no_argument, NULL, 'n'}, {"output", required_argument, NULL, 'o'}, \
	{ \
		"sort", required_argument, NULL, VIEW_SORT \
	}

/* Takes one option. False: it is none of these. */
bool view_option(struct view *view, int opt);
/*
 * Whether the columns that were asked for exist: EXIT_DONE, or EXIT_USAGE with a word about it.
 * columns ends with a NULL name.
 */
int view_check(const struct view *view, const char *verb, const struct column *columns);
/*
 * Prints rows, an array. As JSON they stand as {"root": [...]}, or as {"root": {...}} when `one`;
 * members of extra (may be NULL) follow. Returns an exit status.
 */
int view_print(const struct view *view, const struct column *columns, const char *root, bool one,
	json_t *rows, json_t *extra);

/* The parts of it, for those who print more than once. */
/* The column that a name or a key stands for, in either case; NULL: there is none. */
const struct column *view_column(const struct column *columns, const char *name);
/* A sorted copy of rows, owned by the caller. direction: 1 ascending, -1 descending. */
json_t *view_sorted(const struct column *column, int direction, json_t *rows);
/* Rows as view_print() would print them as JSON: sorted, and with the chosen columns alone. */
json_t *view_rows(const struct view *view, const struct column *columns, json_t *rows);
/* Prints a document with jansson's flags; takes it over. Returns an exit status. */
int view_print_json(json_t *document, size_t flags);
/* Writes what may hold anything, as names do, also what drives a terminal. */
void view_write_safely(FILE *out, const char *text);
/* The text of a cell, malloc'ed; NULL without memory. */
char *view_cell(const struct view *view, const json_t *row, const struct column *column);

/* A number of a row by its key; "shared_bytes" is the sum of what others hold too. */
double row_number(const json_t *row, const char *key);
/* The same as bytes: whatever a reply says, it fits. */
uint64_t row_size(const json_t *row, const char *key);

#endif
