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

#include "base/sizes.h"
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

static const struct {
	const char *name;
	const char *help;
} clone_series[] = {
	{"clone_unique_bytes", "Bytes that removing this clone alone frees"},
	{"clone_shared_bytes", "Bytes of data of this clone that others hold too"},
	{"clone_virtual_bytes", "Size of this clone"},
};

static uint64_t clone_value(unsigned int series, const struct fs_figures *figures)
{
	if (series == 0)
		return figures->unique_bytes;
	if (series == 1)
		return figures->shared_golden_bytes + figures->shared_clone_bytes +
			figures->shared_snapshot_bytes;
	return figures->virtual_bytes;
}

const char *metrics_clone_series(FILE *out, unsigned int series)
{
	if (series >= ARRAY_SIZE(clone_series))
		return NULL;
	head(out, clone_series[series].name, "gauge", clone_series[series].help);
	return clone_series[series].name;
}

void metrics_clone_sample(FILE *out, unsigned int series, const char *path,
	const struct fs_figures *figures)
{
	char *text = name_text(path);

	if (!text)
		return;
	fprintf(out, "goldfs_%s{clone=\"", clone_series[series].name);
	label_write(out, text);
	fprintf(out, "\"} %" PRIu64 "\n", clone_value(series, figures));
	free(text);
}
