/* SPDX-License-Identifier: MIT */
/*
 * goldfs top: rates from what the mount counts, and where they are shown.
 *
 * The mount tells counters (service/control.h). All that is shown is a difference between two of its
 * replies: of the last two, or of the last and the first that the view has seen. A worker that takes
 * over counts from 0, which is no reason for a rate to be wrong or for what was added up to be lost.
 * Clones that are removed go from the view, those that nobody uses are not in it.
 */
#ifndef GOLDFS_CLI_TOP_H
#define GOLDFS_CLI_TOP_H

#include <jansson.h>
#include <stdbool.h>

#include "cli/table.h"

struct top;

/* mountpoint stands before the paths; borrowed. NULL without memory. */
struct top *top_new(const char *mountpoint);
void top_free(struct top *top);

/* Whether the next request is to ask for all clones. */
bool top_wants_all(const struct top *top);
/* Takes a reply in, which stays the caller's. all: what was asked for. 0 or -ENOMEM. */
int top_take(struct top *top, json_t *reply, bool all);

/* Which clones are shown. */
enum top_filter {
	TOP_USED,   /* those that were used while they were looked at, or before */
	TOP_ACTIVE, /* in the last interval */
	TOP_ALL,
};
/* Rows as top_columns shows them, a new array. */
json_t *top_rows(const struct top *top, enum top_filter filter);
/* What the last reply said of the store, borrowed; running jobs; seconds between the last two replies
 * and since the first; how often a worker took over meanwhile. */
json_t *top_store(const struct top *top);
unsigned top_jobs(const struct top *top);
double top_interval(const struct top *top);
double top_age(const struct top *top);
unsigned top_restarts(const struct top *top);

extern const struct column top_columns[];

/* ---- top_screen.c ---- */

struct top_options {
	const char *mountpoint;
	double delay; /* seconds between requests */
	enum top_filter filter;
	const struct column *sort; /* NULL: what is written */
	int direction;		   /* 1 ascending, -1 descending */
};

/* The view on a terminal, until it is left: the process ends with it. Returns an exit status when it
 * cannot even begin. */
int top_screen(const struct top_options *options);
/* Says why there is no reply: err is a negative errno, or reply a refusal. Returns EXIT_FAILED. */
int top_lost(const char *mountpoint, int err, json_t *reply);
/* "1002G virtual, ..." about the store; malloc'ed, NULL without memory. */
char *top_store_text(const struct top *top);

#endif
