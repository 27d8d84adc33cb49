/* SPDX-License-Identifier: MIT */
/*
 * The verb scrub: a job whose report is asked for by job-show. It names files of everybody, so it is
 * for root and the owner of the mount. A job that found damage has failed, also when it was made
 * whole: somebody should look at the disk.
 */
#include <errno.h>
#include <stdlib.h>

#include "core/scrub.h"
#include "service/findings.h"
#include "service/internal.h"

static bool tell_progress(void *arg, uint64_t done, uint64_t total)
{
	return job_progress(arg, done, total);
}

static int run_scrub(void *arg, struct job *job)
{
	struct service *service = arg;
	struct scrub_options options = {.progress = tell_progress, .arg = job};
	struct check_report report;
	json_t *json;
	int r = scrub_run(service->fs, &options, &report);
	bool found;

	json = findings_json(&report);
	found = json_integer_value(json_object_get(json, "damage_found")) > 0;
	job_set_report(job, json ? json_dumps(json, JSON_COMPACT) : NULL);
	json_decref(json);
	check_report_release(&report);
	return r ? r : found ? -EUCLEAN : 0;
}

int control_scrub(struct request *rq)
{
	return request_store_job(rq, "scrub", run_scrub, -EUCLEAN);
}
