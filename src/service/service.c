/* SPDX-License-Identifier: MIT */
/*
 * The virtual tree .goldfs, and the texts of its files.
 *
 *	16	.goldfs		0755, the mount's owner
 *	17	stats.json	0444
 *	18	metrics		0444
 *	19	control		0666
 *	20	jobs		0755
 *	32..63	jobs/ID.json	0400, of the job's starter; 32 + ID % 32
 *
 * All of these are fixed numbers, so that FUSE node ids stay right over a restart. A file's text is
 * made when it is opened; its size is 0, as with files of /proc, and it is read to its end.
 */
#include "service/service.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/sizes.h"
#include "base/times.h"
#include "service/internal.h"
#include "service/names.h"
#include "service/promoting.h"
#include "service/report.h"
#include "service/walk.h"

enum {
	INO_STATS = FS_INO_VIRTUAL + 1,
	INO_METRICS,
	INO_CONTROL,
	INO_JOBS,
	INO_JOB_FIRST = 32, /* one for each slot of the registry */
};
_Static_assert(INO_JOB_FIRST + JOBS_MAX <= FS_INO_FIRST, "numbers of jobs");

static const struct {
	uint64_t ino;
	const char *name;
	uint32_t mode;
} entries[] = {
	{INO_STATS, "stats.json", S_IFREG | 0444},
	{INO_METRICS, "metrics", S_IFREG | 0444},
	{INO_CONTROL, "control", S_IFREG | 0666},
	{INO_JOBS, "jobs", S_IFDIR | 0755},
};

/* ---- life ---- */

int service_new(struct service **service, struct fs *fs, const struct service_info *info)
{
	struct service *s = calloc(1, sizeof(*s));

	if (!s)
		return -ENOMEM;
	s->fs = fs;
	s->info = *info;
	s->info.mountpoint = strdup(info->mountpoint ? info->mountpoint : "");
	s->info.images = strdup(info->images ? info->images : "");
	s->info.store = strdup(info->store ? info->store : "");
	s->started_ns = times_now(CLOCK_MONOTONIC);
	pthread_mutex_init(&s->top_lock, NULL);
	pthread_mutex_init(&s->promote_lock, NULL);
	if (!s->info.mountpoint || !s->info.images || !s->info.store || jobs_new(&s->jobs, info->last_job) < 0) {
		service_free(s);
		return -ENOMEM;
	}
	*service = s;
	return 0;
}

void service_free(struct service *service)
{
	if (!service)
		return;
	promoting_close(service);
	jobs_free(service->jobs);
	promoting_free(service);
	pthread_mutex_destroy(&service->promote_lock);
	pthread_mutex_destroy(&service->top_lock);
	free((char *)service->info.mountpoint);
	free((char *)service->info.images);
	free((char *)service->info.store);
	free(service);
}

void service_daemon(const struct service *service, struct service_daemon *daemon)
{
	int64_t age_ns = times_now(CLOCK_MONOTONIC) - service->started_ns;

	if (service->info.daemon) {
		service->info.daemon(service->info.arg, daemon);
		return;
	}
	*daemon = (struct service_daemon){
		.worker_pid = getpid(),
		.uptime_seconds = (uint64_t)age_ns / 1000000000,
	};
}

/* ---- the tree ---- */

static void fill_attr(const struct service *service, uint64_t ino, uint32_t mode,
	struct fs_attr *attr)
{
	int64_t now = times_now(CLOCK_REALTIME);

	*attr = (struct fs_attr){
		.ino = ino,
		.mode = mode,
		.nlink = S_ISDIR(mode) ? 2 : 1,
		.uid = service->info.owner_uid,
		.gid = service->info.owner_gid,
		.atime_ns = now,
		.mtime_ns = now,
		.ctime_ns = now,
		.btime_ns = now,
	};
}

static int job_attr(struct service *service, uint64_t ino, struct fs_attr *attr, uint64_t *id)
{
	struct job_view view;
	int r = jobs_slot(service->jobs, (unsigned int)(ino - INO_JOB_FIRST), &view);

	if (r < 0)
		return r;
	fill_attr(service, ino, S_IFREG | 0400, attr);
	attr->uid = view.uid;
	attr->gid = view.gid;
	attr->btime_ns = view.started_ns;
	attr->mtime_ns = attr->ctime_ns = view.changed_ns;
	*id = view.id;
	job_view_release(&view);
	return 0;
}

int service_getattr(struct service *service, uint64_t ino, struct fs_attr *attr)
{
	uint64_t id;

	if (ino == FS_INO_VIRTUAL) {
		fill_attr(service, ino, S_IFDIR | 0755, attr);
		attr->nlink = 3;
		return 0;
	}
	for (size_t i = 0; i < ARRAY_SIZE(entries); i++) {
		if (entries[i].ino == ino) {
			fill_attr(service, ino, entries[i].mode, attr);
			return 0;
		}
	}
	if (ino < INO_JOB_FIRST || ino >= INO_JOB_FIRST + JOBS_MAX)
		return -ENOENT;
	return job_attr(service, ino, attr, &id);
}

bool service_is_fixed(uint64_t ino)
{
	return ino == FS_INO_VIRTUAL || ino == INO_CONTROL;
}

static int lookup_job(struct service *service, const char *name, struct fs_attr *attr)
{
	char expected[32];
	uint64_t id, found;

	/* Read loosely, compared strictly: "007.json" and "7.jsonx" are no names of job 7. */
	if (sscanf(name, "%" SCNu64, &id) != 1)
		return -ENOENT;
	snprintf(expected, sizeof(expected), "%" PRIu64 ".json", id);
	if (strcmp(name, expected) != 0)
		return -ENOENT;
	if (job_attr(service, INO_JOB_FIRST + id % JOBS_MAX, attr, &found) < 0 || found != id)
		return -ENOENT;
	return 0;
}

int service_lookup(struct service *service, uint64_t parent, const char *name,
	struct fs_attr *attr)
{
	if (parent == FS_INO_ROOT && strcmp(name, ".goldfs") == 0)
		return service_getattr(service, FS_INO_VIRTUAL, attr);
	if (parent == INO_JOBS)
		return lookup_job(service, name, attr);
	if (parent != FS_INO_VIRTUAL)
		return -ENOTDIR;
	for (size_t i = 0; i < ARRAY_SIZE(entries); i++)
		if (strcmp(entries[i].name, name) == 0)
			return service_getattr(service, entries[i].ino, attr);
	return -ENOENT;
}

static int list_jobs(struct service *service, uint64_t cookie,
	int (*cb)(void *arg, const char *name, const struct fs_attr *attr, uint64_t next),
	void *arg)
{
	for (uint64_t slot = cookie; slot < JOBS_MAX; slot++) {
		struct fs_attr attr;
		char name[32];
		uint64_t id;

		if (job_attr(service, INO_JOB_FIRST + slot, &attr, &id) < 0)
			continue;
		snprintf(name, sizeof(name), "%" PRIu64 ".json", id);
		if (cb(arg, name, &attr, slot + 1))
			break;
	}
	return 0;
}

int service_list(struct service *service, uint64_t ino, uint64_t cookie,
	int (*cb)(void *arg, const char *name, const struct fs_attr *attr, uint64_t next),
	void *arg)
{
	if (ino == INO_JOBS)
		return list_jobs(service, cookie, cb, arg);
	if (ino != FS_INO_VIRTUAL)
		return -ENOTDIR;
	for (uint64_t i = cookie; i < ARRAY_SIZE(entries); i++) {
		struct fs_attr attr;

		service_getattr(service, entries[i].ino, &attr);
		if (cb(arg, entries[i].name, &attr, i + 1))
			break;
	}
	return 0;
}

int64_t service_parent(struct service *service, uint64_t ino)
{
	if (ino == FS_INO_VIRTUAL)
		return FS_INO_ROOT;
	if (ino >= INO_JOB_FIRST && ino < INO_JOB_FIRST + JOBS_MAX)
		return INO_JOBS;
	return ino > FS_INO_VIRTUAL && ino <= INO_JOBS ? FS_INO_VIRTUAL : -ENOENT;
}

int service_is_control(struct service *service, uint64_t ino)
{
	return ino == INO_CONTROL;
}

/* ---- the texts ---- */

/* A JSON text with a newline behind it; takes json over. */
static int json_text(json_t *json, FILE *out)
{
	const size_t flags = JSON_INDENT(2) | JSON_REAL_PRECISION(6);
	int r = json && json_dumpf(json, out, flags) == 0 ? 0 : -ENOMEM;

	putc('\n', out);
	json_decref(json);
	return r;
}

static int write_stats(struct service *service, FILE *out)
{
	struct fs_store_figures figures;
	struct fs_counters counters;
	struct service_daemon daemon;
	json_t *stats;
	int r = fs_store_figures(service->fs, &figures);

	if (r < 0)
		return r;
	fs_counters(service->fs, &counters);
	service_daemon(service, &daemon);
	stats = json_pack("{s:o, s:s, s:o, s:o}", "store", report_store(&figures), "version",
		GOLDFS_VERSION, "daemon", report_daemon(&daemon),
		"counters", report_counters(&counters));
	return json_text(stats, out);
}

struct clones {
	struct fs *fs;
	struct metrics_clone *clone;
	size_t count;
	size_t capacity;
};

static int add_clone(void *arg, const char *path, const struct fs_attr *attr,
	const struct fs_info *info)
{
	struct clones *clones = arg;
	struct metrics_clone *clone;

	if (clones->count == clones->capacity) {
		size_t capacity = clones->capacity ? clones->capacity * 2 : 64;
		struct metrics_clone *grown =
			reallocarray(clones->clone, capacity, sizeof(*grown));

		if (!grown)
			return -ENOMEM;
		clones->clone = grown;
		clones->capacity = capacity;
	}
	clone = &clones->clone[clones->count];
	clone->name = name_text(path);
	if (!clone->name)
		return -ENOMEM;
	clone->figures = info->figures;
	fs_io(clones->fs, attr->ino, &clone->io);
	clones->count++;
	return 0;
}

static void clones_release(struct clones *clones)
{
	for (size_t i = 0; i < clones->count; i++)
		free(clones->clone[i].name);
	free(clones->clone);
}

static int write_clones(struct service *service, const struct service_caller *reader, FILE *out)
{
	struct clones clones = {.fs = service->fs};
	struct node root = {.held = false};
	struct access access;
	int r = access_init(&access, reader);

	if (r < 0)
		return r;
	r = fs_getattr(service->fs, FS_INO_ROOT, &root.attr);
	if (r == 0 && !access_may(&access, &root.attr, R_OK | X_OK))
		root.attr.mode = 0; /* shut out: nothing is walked */
	if (r == 0)
		r = walk(service->fs, &access, &root, "", WALK_CLONE, add_clone, &clones);
	if (r == 0)
		metrics_clones_write(out, clones.clone, clones.count);
	clones_release(&clones);
	access_release(&access);
	return r;
}

static int write_metrics(struct service *service, const struct service_caller *reader, FILE *out)
{
	struct fs_store_figures figures;
	struct fs_counters counters;
	struct service_daemon daemon;
	int r = fs_store_figures(service->fs, &figures);

	if (r < 0)
		return r;
	fs_counters(service->fs, &counters);
	service_daemon(service, &daemon);
	metrics_write(out, &daemon, &figures, &counters);
	return service->info.clone_metrics ? write_clones(service, reader, out) : 0;
}

static int write_job(struct service *service, unsigned int slot, FILE *out)
{
	struct job_view view;
	int r = jobs_slot(service->jobs, slot, &view);

	if (r < 0)
		return r;
	r = json_text(job_json(&view), out);
	job_view_release(&view);
	return r;
}

static int write_text(struct service *service, const struct service_caller *reader, uint64_t ino,
	FILE *out)
{
	if (ino == INO_STATS)
		return write_stats(service, out);
	if (ino == INO_METRICS)
		return write_metrics(service, reader, out);
	if (ino >= INO_JOB_FIRST && ino < INO_JOB_FIRST + JOBS_MAX)
		return write_job(service, (unsigned int)(ino - INO_JOB_FIRST), out);
	return ino == INO_CONTROL ? -EINVAL : -EISDIR;
}

int service_read(struct service *service, const struct service_caller *reader, uint64_t ino,
	char **text, size_t *len)
{
	FILE *out = open_memstream(text, len);
	int failed;
	int r;

	if (!out)
		return -ENOMEM;
	r = write_text(service, reader, ino, out);
	failed = ferror(out);
	failed |= fclose(out);
	if (r == 0 && failed)
		r = -ENOMEM;
	if (r < 0) {
		free(*text);
		*text = NULL;
	}
	return r;
}
