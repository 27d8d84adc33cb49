/* SPDX-License-Identifier: MIT */
/* Samples, differences and rows. Nothing here asks, waits or prints. See top.h. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <uthash.h>

#include "base/cleanup.h"
#include "base/sizes.h"
#include "cli/top.h"
#include "core/fs.h"
#include "service/names.h"

const struct column top_columns[] = {
	{"READ/s", "read_bytes_per_second", COLUMN_SIZE, true},
	{"WRITE/s", "write_bytes_per_second", COLUMN_SIZE, true},
	{"READS/s", "read_ops_per_second", COLUMN_RATE, true},
	{"WRITES/s", "write_ops_per_second", COLUMN_RATE, true},
	{"FLUSH/s", "flush_ops_per_second", COLUMN_RATE, true},
	{"R-AVG", "read_latency_ns", COLUMN_TIME, true},
	{"R-MAX", "read_latency_max_ns", COLUMN_TIME, true},
	{"W-AVG", "write_latency_ns", COLUMN_TIME, true},
	{"W-MAX", "write_latency_max_ns", COLUMN_TIME, true},
	{"F-AVG", "flush_latency_ns", COLUMN_TIME, true},
	{"F-MAX", "flush_latency_max_ns", COLUMN_TIME, true},
	{"READ", "read_bytes", COLUMN_SIZE, false},
	{"WRITE", "write_bytes", COLUMN_SIZE, false},
	{"READS", "read_ops", COLUMN_COUNT, false},
	{"WRITES", "write_ops", COLUMN_COUNT, false},
	{"FLUSHES", "flush_ops", COLUMN_COUNT, false},
	{"R-AVG-ALL", "read_latency_all_ns", COLUMN_TIME, false},
	{"R-MAX-ALL", "read_latency_max_all_ns", COLUMN_TIME, false},
	{"W-AVG-ALL", "write_latency_all_ns", COLUMN_TIME, false},
	{"W-MAX-ALL", "write_latency_max_all_ns", COLUMN_TIME, false},
	{"F-AVG-ALL", "flush_latency_all_ns", COLUMN_TIME, false},
	{"F-MAX-ALL", "flush_latency_max_all_ns", COLUMN_TIME, false},
	{"UNIQUE", "unique_bytes", COLUMN_SIZE, true},
	{"UNIQUE/s", "unique_bytes_per_second", COLUMN_GROWTH, true},
	{"UNIQUE+", "unique_growth_bytes", COLUMN_GROWTH, true},
	{"SHARED", "shared_bytes", COLUMN_SIZE, false},
	{"SHARED/s", "shared_bytes_per_second", COLUMN_GROWTH, true},
	{"SHARED+", "shared_growth_bytes", COLUMN_GROWTH, true},
	{"VIRTUAL", "virtual_bytes", COLUMN_SIZE, false},
	{"PATH", "path", COLUMN_TEXT, true},
	{NULL, NULL, COLUMN_TEXT, false},
};

/* What one reply says of a clone. */
struct sample {
	struct fs_io io;
	uint64_t virtual_bytes, unique_bytes, shared_bytes;
};

struct row {
	uint64_t ino; /* key */
	char *path;
	struct sample last;
	uint64_t unique_start, shared_start; /* when the view began, or the clone */
	struct fs_io now;		     /* between the last two replies */
	double unique_now, shared_now;
	struct fs_io all; /* since the view began */
	bool used;	  /* before it began, or since */
	unsigned round;	  /* of the last reply that had it */
	UT_hash_handle hh;
};

struct top {
	const char *mountpoint;
	struct row *rows; /* in the order in which they were first seen */
	json_t *store;
	unsigned jobs;
	unsigned round;
	unsigned restarts;
	int64_t first_ns, last_ns, before_ns; /* the mount's clock at replies */
	json_int_t counting_since;
};

struct top *top_new(const char *mountpoint)
{
	struct top *top = calloc(1, sizeof(*top));

	if (top)
		top->mountpoint = mountpoint;
	return top;
}

static void drop(struct top *top, struct row *row)
{
	HASH_DEL(top->rows, row);
	free(row->path);
	free(row);
}

void top_free(struct top *top)
{
	struct row *row, *next;

	if (!top)
		return;
	HASH_ITER (hh, top->rows, row, next)
		drop(top, row);
	json_decref(top->store);
	free(top);
}

/* ---- what a reply says ---- */

static uint64_t number(json_t *object, const char *key)
{
	json_int_t value = json_integer_value(json_object_get(object, key));

	return value > 0 ? (uint64_t)value : 0;
}

static void read_latency(json_t *list, uint32_t *counts)
{
	size_t first = (size_t)json_integer_value(json_array_get(list, 0));

	for (size_t i = 1; i < json_array_size(list) && first < LATENCY_BUCKETS; i++, first++)
		counts[first] = (uint32_t)json_integer_value(json_array_get(list, i));
}

static void read_sample(json_t *object, struct sample *sample)
{
	*sample = (struct sample){
		.virtual_bytes = number(object, "virtual_bytes"),
		.unique_bytes = number(object, "unique_bytes"),
		.shared_bytes = number(object, "shared_bytes"),
	};
#define X(name, help) sample->io.name = number(object, #name);
	FS_IO(X)
#undef X
	read_latency(json_object_get(object, "read_latency"), sample->io.latency[FS_IO_READ]);
	read_latency(json_object_get(object, "write_latency"), sample->io.latency[FS_IO_WRITE]);
	read_latency(json_object_get(object, "flush_latency"), sample->io.latency[FS_IO_FLUSH]);
}

/* ---- differences ---- */

static bool went_backwards(const struct fs_io *before, const struct fs_io *now)
{
	bool backwards = false;

#define X(name, help) backwards |= now->name < before->name;
	FS_IO(X)
#undef X
	return backwards;
}

/* What was added between two samples; anew: the second began to count at 0. */
static void difference(const struct fs_io *before, const struct fs_io *now, bool anew,
	struct fs_io *out)
{
	*out = *now;
	if (anew || went_backwards(before, now))
		return;
#define X(name, help) out->name -= before->name;
	FS_IO(X)
#undef X
	for (int kind = 0; kind < FS_IO_KINDS; kind++)
		for (int i = 0; i < LATENCY_BUCKETS; i++)
			out->latency[kind][i] -= before->latency[kind][i];
}

static void add(struct fs_io *sum, const struct fs_io *more)
{
#define X(name, help) sum->name += more->name;
	FS_IO(X)
#undef X
	for (int kind = 0; kind < FS_IO_KINDS; kind++)
		for (int i = 0; i < LATENCY_BUCKETS; i++)
			sum->latency[kind][i] += more->latency[kind][i];
}

static bool is_active(const struct row *row)
{
	return row->now.read_ops || row->now.write_ops || row->now.flush_ops ||
	       row->unique_now != 0 || row->shared_now != 0;
}

static struct row *row_of(struct top *top, uint64_t ino, const struct sample *sample)
{
	struct row *row;

	HASH_FIND(hh, top->rows, &ino, sizeof(ino), row);
	if (row)
		return row;
	row = calloc(1, sizeof(*row));
	if (!row)
		return NULL;
	row->ino = ino;
	row->shared_start = sample->shared_bytes;
	row->last.shared_bytes = sample->shared_bytes;
	/* What was there when the view began is its beginning; what comes later was made since. */
	if (top->round == 1) {
		row->last = *sample;
		row->unique_start = sample->unique_bytes;
	}
	HASH_ADD(hh, top->rows, ino, sizeof(row->ino), row);
	return row;
}

static int set_path(struct row *row, const char *path)
{
	if (row->path && strcmp(row->path, path) == 0)
		return 0;
	free(row->path);
	row->path = strdup(path);
	return row->path ? 0 : -ENOMEM;
}

static int take_row(struct top *top, json_t *object, bool anew)
{
	const char *path = json_string_value(json_object_get(object, "path"));
	uint64_t ino = number(object, "ino");
	struct sample sample;
	struct row *row;

	if (!path || !ino)
		return 0;
	read_sample(object, &sample);
	row = row_of(top, ino, &sample);
	if (!row || set_path(row, path) < 0)
		return -ENOMEM;
	difference(&row->last.io, &sample.io, anew, &row->now);
	row->unique_now = (double)sample.unique_bytes - (double)row->last.unique_bytes;
	row->shared_now = (double)sample.shared_bytes - (double)row->last.shared_bytes;
	add(&row->all, &row->now);
	row->last = sample;
	row->round = top->round;
	row->used |= sample.io.read_ops || sample.io.write_ops || sample.io.flush_ops;
	return 0;
}

/* Rows that were not in the reply: gone, or just not used since another worker serves. */
static void drop_missing(struct top *top, bool all, bool anew)
{
	struct row *row, *next;

	HASH_ITER (hh, top->rows, row, next) {
		if (row->round == top->round)
			continue;
		memset(&row->now, 0, sizeof(row->now));
		row->unique_now = row->shared_now = 0;
		if (anew)
			memset(&row->last.io, 0, sizeof(row->last.io));
		if (all || (row->used && !anew))
			drop(top, row);
	}
}

int top_take(struct top *top, json_t *reply, bool all)
{
	json_int_t since = json_integer_value(json_object_get(reply, "counting_since"));
	bool anew = top->round && since != top->counting_since;
	json_t *object;
	size_t i;
	int r = 0;

	top->round++;
	top->restarts += anew;
	top->counting_since = since;
	top->before_ns = top->last_ns;
	top->last_ns = json_integer_value(json_object_get(reply, "time_ns"));
	if (top->round == 1)
		top->first_ns = top->before_ns = top->last_ns;
	top->jobs = (unsigned)number(reply, "jobs");
	json_decref(top->store);
	top->store = json_incref(json_object_get(reply, "store"));
	json_array_foreach(json_object_get(reply, "goldfs"), i, object)
		if (r == 0)
			r = take_row(top, object, anew);
	if (r == 0)
		drop_missing(top, all, anew);
	return r;
}

/* The first time, to know what everything cost then; after a restart, to know what is still there. */
bool top_wants_all(const struct top *top)
{
	return top->round == 0 || top->restarts > 0;
}

/* ---- rows ---- */

static double average(uint64_t ns, uint64_t ops)
{
	return ops ? (double)ns / (double)ops : 0;
}

/* What the slowest took, at most. */
static double maximum(const uint32_t *counts)
{
	for (int i = LATENCY_BUCKETS - 1; i >= 0; i--)
		if (counts[i])
			return (double)latency_bound((unsigned)i);
	return 0;
}

static void set(json_t *object, const char *key, double value)
{
	json_object_set_new(object, key, json_real(value));
}

static void set_integer(json_t *object, const char *key, double value)
{
	json_object_set_new(object, key, json_integer((json_int_t)value));
}

static void set_io(json_t *object, const struct row *row, double seconds)
{
#define X(name, help) set_integer(object, #name, (double)row->all.name);
	FS_IO(X)
#undef X
#define X(name, help) set(object, #name "_per_second", (double)row->now.name / seconds);
	FS_IO(X)
#undef X
#define LATENCY(name, kind) \
	set_integer(object, #name "_latency_ns", average(row->now.name##_ns, row->now.name##_ops)); \
	set_integer(object, #name "_latency_max_ns", maximum(row->now.latency[kind])); \
	set_integer(object, #name "_latency_all_ns", average(row->all.name##_ns, row->all.name##_ops)); \
	set_integer(object, #name "_latency_max_all_ns", maximum(row->all.latency[kind]));
	LATENCY(read, FS_IO_READ)
	LATENCY(write, FS_IO_WRITE)
	LATENCY(flush, FS_IO_FLUSH)
#undef LATENCY
}

static json_t *row_json(const struct top *top, const struct row *row)
{
	const struct sample *last = &row->last;
	double seconds = top_interval(top);
	CLEANUP_FREE char *prefix = name_text(top->mountpoint);
	CLEANUP_FREE char *path = NULL;
	json_t *object = json_object();

	if (!(seconds > 0))
		seconds = 1;
	if (!prefix || asprintf(&path, "%s/%s", strcmp(prefix, "/") ? prefix : "", row->path) < 0)
		path = NULL;
	json_object_set_new(object, "path", json_string(path ? path : row->path));
	set_integer(object, "virtual_bytes", (double)last->virtual_bytes);
	set_integer(object, "unique_bytes", (double)last->unique_bytes);
	set_integer(object, "shared_bytes", (double)last->shared_bytes);
	set_integer(object, "unique_growth_bytes",
		(double)last->unique_bytes - (double)row->unique_start);
	set_integer(object, "shared_growth_bytes",
		(double)last->shared_bytes - (double)row->shared_start);
	set(object, "unique_bytes_per_second", row->unique_now / seconds);
	set(object, "shared_bytes_per_second", row->shared_now / seconds);
	set_io(object, row, seconds);
	return object;
}

json_t *top_rows(const struct top *top, enum top_filter filter)
{
	json_t *rows = json_array();
	struct row *row, *next;

	HASH_ITER (hh, top->rows, row, next) {
		if (filter == TOP_ALL || (filter == TOP_USED && row->used) ||
			(filter == TOP_ACTIVE && is_active(row)))
			json_array_append_new(rows, row_json(top, row));
	}
	return rows;
}

json_t *top_store(const struct top *top)
{
	return top->store;
}

unsigned top_jobs(const struct top *top)
{
	return top->jobs;
}

double top_interval(const struct top *top)
{
	return (double)(top->last_ns - top->before_ns) / 1e9;
}

double top_age(const struct top *top)
{
	return (double)(top->last_ns - top->first_ns) / 1e9;
}

unsigned top_restarts(const struct top *top)
{
	return top->restarts;
}
