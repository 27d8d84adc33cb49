/* SPDX-License-Identifier: MIT */
/*
 * What the daemon does on its own that takes long, shown as a job: it can be seen how far it is, and
 * it can be waited for and cancelled like any other. Work that is done within moments never becomes
 * one. Where as many jobs run as may, it goes on unseen.
 */
#include <errno.h>
#include <stdlib.h>
#include <time.h>

#include "core/fs.h"
#include "service/internal.h"
#include "service/promoting.h"

static int follow(void *arg, struct job *job)
{
	const struct timespec pause = {.tv_nsec = 200000000};
	struct service *service = arg;
	const uint64_t serial = service->followed;
	struct fs_background work;
	int r;

	for (;;) {
		r = fs_background(service->fs, &work);
		if (r < 0)
			return r;
		free(work.path);
		/* What came of it is known until the next one begins. */
		if (work.serial != serial)
			return 0;
		if (job_progress(job, work.done_bytes, work.total_bytes))
			fs_background_cancel(service->fs, serial);
		if (!work.running)
			return work.result;
		nanosleep(&pause, NULL);
	}
}

void service_tick(struct service *service)
{
	struct fs_background work;
	struct job_spec spec;
	uint64_t id;

	promoting_tick(service);
	recast_tick(service);
	if (fs_background(service->fs, &work) < 0)
		return;
	if (work.running && work.serial == service->seen && work.serial != service->followed) {
		service->followed = work.serial;
		spec = (struct job_spec){
			.kind = work.kind,
			.target = work.path,
			.uid = service->info.owner_uid,
			.gid = service->info.owner_gid,
			.run = follow,
			.arg = service,
		};
		jobs_start(service->jobs, &spec, &id);
	}
	service->seen = work.serial;
	free(work.path);
}
