/* SPDX-License-Identifier: MIT */
/* The tables of report.h as JSON. A half-built object is dropped: see set(). */
#include "service/report.h"

#include <math.h>

#include "base/sizes.h"
#include "service/names.h"
#include "service/service.h"

/* A member, or the loss of the whole object: no reader can use a part of it. */
static void set(json_t **object, const char *key, json_t *value)
{
	if (*object && value && json_object_set(*object, key, value) == 0) {
		json_decref(value);
		return;
	}
	json_decref(value);
	json_decref(*object);
	*object = NULL;
}

static void set_bytes(json_t **object, const char *key, uint64_t bytes)
{
	set(object, key, json_integer((json_int_t)min_u64(bytes, INT64_MAX)));
}

const char *report_kind(enum fs_kind kind)
{
	switch (kind) {
	case FS_KIND_FOLDER:
		return "folder";
	case FS_KIND_GOLDEN:
		return "golden";
	case FS_KIND_CLONE:
		return "clone";
	case FS_KIND_SNAPSHOT:
		return "snapshot";
	case FS_KIND_SYMLINK:
		return "symlink";
	}
	return "";
}

json_t *report_file(const char *path, const struct fs_info *info)
{
	bool is_folder = info->kind == FS_KIND_FOLDER;
	json_t *object = json_object();
	char created[TIME_TEXT_LEN];

	time_text(info->created_ns, created);
	set(&object, "path", name_json(path));
	set(&object, "kind", json_string(report_kind(info->kind)));
	set(&object, "mode", json_string(info->mode ? info->mode : ""));
	set(&object, "format", json_string(info->format && !is_folder ? info->format : ""));
	set(&object, "base", name_json(info->base ? info->base : ""));
#define X(name) set_bytes(&object, #name, info->figures.name);
	REPORT_FIGURES(X)
#undef X
	set_bytes(&object, "snapshots", info->snapshots);
	set(&object, "created", json_string(created));
	set(&object, "state", json_string(info->state ? info->state : ""));
	if (info->dedup_is_set) {
		set(&object, "dedup", json_string(info->dedup));
		set(&object, "dedup_domain", name_json(info->dedup_domain ? info->dedup_domain : ""));
	}
	if (info->limit_bytes)
		set_bytes(&object, "limit_bytes", info->limit_bytes);
	if (info->reason)
		set(&object, "reason", json_string(info->reason));
	if (info->damaged_bytes)
		set_bytes(&object, "damaged_bytes", info->damaged_bytes);
	return object;
}

uint64_t report_shared(const struct fs_figures *figures)
{
	return figures->shared_golden_bytes + figures->shared_clone_bytes +
	       figures->shared_snapshot_bytes;
}

/* [number of the first that is not 0, that one, ..., the last that is not 0] */
static json_t *latency_json(const uint32_t *counts)
{
	json_t *list = json_array();
	int first = 0, end = LATENCY_BUCKETS;

	while (first < end && !counts[first])
		first++;
	while (end > first && !counts[end - 1])
		end--;
	if (first < end)
		json_array_append_new(list, json_integer(first));
	for (int i = first; i < end; i++)
		json_array_append_new(list, json_integer(counts[i]));
	return list;
}

json_t *report_top(const char *path, uint64_t ino, const struct fs_figures *figures,
	const struct fs_io *io)
{
	json_t *object = json_object();

	set_bytes(&object, "ino", ino);
	set(&object, "path", name_json(path));
	set_bytes(&object, "virtual_bytes", figures->virtual_bytes);
	set_bytes(&object, "unique_bytes", figures->unique_bytes);
	set_bytes(&object, "shared_bytes", report_shared(figures));
#define X(name, help) set_bytes(&object, #name, io->name);
	FS_IO(X)
#undef X
	set(&object, "read_latency", latency_json(io->latency[FS_IO_READ]));
	set(&object, "write_latency", latency_json(io->latency[FS_IO_WRITE]));
	set(&object, "flush_latency", latency_json(io->latency[FS_IO_FLUSH]));
	return object;
}

json_t *report_store(const struct fs_store_figures *figures)
{
	json_t *object = json_object();

#define X(name, help) set_bytes(&object, #name, figures->name);
	REPORT_STORE(X)
#undef X
	set(&object, "ratio", json_real(isfinite(figures->ratio) ? figures->ratio : 0));
	set_bytes(&object, "clones", figures->clones);
	set_bytes(&object, "snapshots", figures->snapshots);
	set(&object, "state", json_string(figures->state ? figures->state : ""));
	return object;
}

static json_t *report_upgrade(const struct service_upgrade *upgrade)
{
	json_t *object = json_object();

	set_bytes(&object, "ticket", upgrade->ticket);
	set(&object, "state", name_json(upgrade->state));
	set(&object, "version", name_json(upgrade->version));
	set(&object, "message", name_json(upgrade->message));
	return object;
}

json_t *report_daemon(const struct service_daemon *daemon)
{
	json_t *object = json_object();

	set_bytes(&object, "worker_pid", (uint64_t)daemon->worker_pid);
	set_bytes(&object, "supervisor_pid", (uint64_t)daemon->supervisor_pid);
	set_bytes(&object, "restarts", daemon->restarts);
	set_bytes(&object, "last_pause_ms", daemon->last_pause_ms);
	set_bytes(&object, "uptime_seconds", daemon->uptime_seconds);
	if (daemon->upgrade.ticket)
		set(&object, "last_upgrade", report_upgrade(&daemon->upgrade));
	return object;
}

json_t *report_counters(const struct fs_counters *counters)
{
	json_t *object = json_object();

#define X(name, help) set_bytes(&object, #name, counters->name);
	FS_COUNTERS(X)
#undef X
	return object;
}

void report_add(struct fs_figures *sum, const struct fs_figures *figures)
{
#define X(name) sum->name += figures->name;
	REPORT_FIGURES(X)
#undef X
}

/* Takes up to *want from *from. */
static uint64_t take(uint64_t *from, uint64_t *want)
{
	uint64_t taken = min_u64(*from, *want);

	*from -= taken;
	*want -= taken;
	return taken;
}

void report_fold(struct fs_figures *sum, uint64_t freed)
{
	uint64_t more = freed > sum->unique_bytes ? freed - sum->unique_bytes : 0;

	sum->unique_bytes += take(&sum->shared_clone_bytes, &more);
	sum->unique_bytes += take(&sum->shared_snapshot_bytes, &more);
	/* What is left is no block of any of them: golden images that go with the last clone. */
	sum->pinned_golden_bytes = more;
}
