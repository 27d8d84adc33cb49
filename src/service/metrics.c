/* SPDX-License-Identifier: MIT */
/*
 * The text that Prometheus scrapes: HELP, TYPE and samples of each metric together, base units,
 * counters with _total. The store's sizes and the counters come from the tables that the JSON is
 * rendered from too (service/report.h, core/fs.h), so that neither view can lack what the other
 * has.
 *
 * Series per clone are made only with -o metrics=clone: a thousand clones are thousands of series,
 * and their names become readable to everyone who may read the file.
 */
#include <inttypes.h>
#include <string.h>

#include "service/names.h"
#include "service/report.h"
#include "service/service.h"

static void head(FILE *out, const char *name, const char *type, const char *help)
{
	fprintf(out, "# HELP goldfs_%s %s\n# TYPE goldfs_%s %s\n", name, help, name, type);
}

static void gauge(FILE *out, const char *name, uint64_t value, const char *help)
{
	head(out, name, "gauge", help);
	fprintf(out, "goldfs_%s %" PRIu64 "\n", name, value);
}

static void counter(FILE *out, const char *name, uint64_t value, const char *help)
{
	head(out, name, "counter", help);
	fprintf(out, "goldfs_%s %" PRIu64 "\n", name, value);
}

static void write_daemon(FILE *out, const struct service_daemon *daemon)
{
	head(out, "build_info", "gauge", "Version of the running daemon");
	fputs("goldfs_build_info{version=\"", out);
	label_write(out, GOLDFS_VERSION);
	fputs("\"} 1\n", out);
	gauge(out, "uptime_seconds", daemon->uptime_seconds, "Seconds since it was mounted");
	counter(out, "restarts_total", daemon->restarts, "Times that a new worker took over");
	head(out, "last_pause_seconds", "gauge", "Time without a worker at the last restart");
	fprintf(out, "goldfs_last_pause_seconds %" PRIu64 ".%03" PRIu64 "\n",
		daemon->last_pause_ms / 1000, daemon->last_pause_ms % 1000);
}

void metrics_write(FILE *out, const struct service_daemon *daemon,
	const struct fs_store_figures *figures, const struct fs_counters *counters)
{
#define X(name, help) gauge(out, "store_" #name, figures->name, help);
	REPORT_STORE(X)
#undef X
	head(out, "store_ratio", "gauge", "Bytes that clones show per byte stored");
	fprintf(out, "goldfs_store_ratio %.6g\n", figures->ratio);
	gauge(out, "store_clones", figures->clones, "Clones in the store");
	gauge(out, "store_snapshots", figures->snapshots, "Snapshots in the store");
#define X(name, help) counter(out, #name "_total", counters->name, help);
	FS_COUNTERS(X)
#undef X
	write_daemon(out, daemon);
}

/* ---- series per clone ---- */

/* HELP and TYPE of a counter of FS_IO, and its name in `name`. */
static void clone_head(FILE *out, char *name, size_t len, const char *counter, const char *help)
{
	size_t stem = strlen(counter);

	/* Prometheus counts time in seconds. */
	if (stem > 3 && strcmp(counter + stem - 3, "_ns") == 0)
		snprintf(name, len, "clone_%.*s_seconds_total", (int)stem - 3, counter);
	else
		snprintf(name, len, "clone_%s_total", counter);
	head(out, name, "counter", help);
}

static void sample_begin(FILE *out, const char *name, const struct metrics_clone *clone)
{
	fprintf(out, "goldfs_%s{clone=\"", name);
	label_write(out, clone->name);
	fputs("\"} ", out);
}

static void clone_gauge(FILE *out, const char *name, const char *help,
	const struct metrics_clone *clones, size_t count,
	uint64_t (*value)(const struct fs_figures *figures))
{
	head(out, name, "gauge", help);
	for (size_t i = 0; i < count; i++) {
		sample_begin(out, name, &clones[i]);
		fprintf(out, "%" PRIu64 "\n", value(&clones[i].figures));
	}
}

static void clone_counter_sample(FILE *out, const char *name, const struct metrics_clone *clone,
	uint64_t value)
{
	sample_begin(out, name, clone);
	if (strstr(name, "_seconds_"))
		fprintf(out, "%" PRIu64 ".%09" PRIu64 "\n", value / 1000000000,
			value % 1000000000);
	else
		fprintf(out, "%" PRIu64 "\n", value);
}

static uint64_t unique_of(const struct fs_figures *figures)
{
	return figures->unique_bytes;
}

static uint64_t virtual_of(const struct fs_figures *figures)
{
	return figures->virtual_bytes;
}

void metrics_clones_write(FILE *out, const struct metrics_clone *clones, size_t count)
{
	char name[64];

	clone_gauge(out, "clone_unique_bytes", "Bytes that removing this clone alone frees", clones,
		count, unique_of);
	clone_gauge(out, "clone_shared_bytes", "Bytes of data of this clone that others hold too",
		clones, count, report_shared);
	clone_gauge(out, "clone_virtual_bytes", "Size of this clone", clones, count, virtual_of);
#define X(counter, help) \
	clone_head(out, name, sizeof(name), #counter, help); \
	for (size_t i = 0; i < count; i++) \
		clone_counter_sample(out, name, &clones[i], clones[i].io.counter);
	FS_IO(X)
#undef X
}
