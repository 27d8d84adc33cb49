/* SPDX-License-Identifier: MIT */
/* See the header. */
#include "core/pace.h"

#include <time.h>

#include "base/sizes.h"
#include "base/times.h"
#include "core/fs_internal.h"

#define SLICE_NS INT64_C(100000000) /* of a rest, until it is looked again */

int64_t pace_rest_ns(const struct pace_step *step)
{
	int64_t rest = 0;

	if (step->quiet_ns < PACE_QUIET_NS)
		rest = step->took_ns < PACE_REST_MAX_NS / PACE_SHARE ? PACE_SHARE * step->took_ns :
								       PACE_REST_MAX_NS;
	if (step->rate) {
		double owed = (double)step->bytes / (double)step->rate * 1e9 - (double)step->took_ns;

		if (owed > (double)rest)
			rest = owed < (double)INT64_MAX ? (int64_t)owed : INT64_MAX;
	}
	return rest;
}

static uint64_t guest_requests(struct fs *fs)
{
	return atomic_load(&fs->counters.read_ops) + atomic_load(&fs->counters.write_ops) +
	       atomic_load(&fs->counters.flushes) + atomic_load(&fs->counters.discard_bytes);
}

/* Since guests asked something, as far as it was looked. */
static int64_t look(struct pace *pace, int64_t now)
{
	uint64_t requests = guest_requests(pace->fs);

	if (requests != pace->requests)
		pace->asked_ns = now;
	pace->requests = requests;
	return pace->asked_ns ? now - pace->asked_ns : INT64_MAX;
}

void pace_init(struct pace *pace, struct fs *fs, uint64_t rate)
{
	*pace = (struct pace){.fs = fs, .rate = rate, .requests = guest_requests(fs)};
}

bool pace_gives_way(const struct pace *pace)
{
	return pace->asked_ns &&
	       times_now(CLOCK_MONOTONIC) - pace->asked_ns < PACE_QUIET_NS + PACE_REST_MAX_NS;
}

static void rest_for(int64_t ns)
{
	struct timespec pause = {.tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000};

	nanosleep(&pause, NULL);
}

bool pace_after(struct pace *pace, int64_t start_ns, uint64_t bytes, bool (*stop)(void *arg), void *arg)
{
	int64_t now = times_now(CLOCK_MONOTONIC), end_ns = now, left;
	struct pace_step step = {
		.took_ns = now - start_ns, .quiet_ns = look(pace, now), .bytes = bytes};

	if (pace->fs->options.no_background)
		return false;
	for (;;) {
		step.rate = pace->rate;
		left = pace_rest_ns(&step) - (now - end_ns);
		if (left <= 0)
			return false;
		if (stop && stop(arg))
			return true;
		rest_for(left < SLICE_NS ? left : SLICE_NS);
		now = times_now(CLOCK_MONOTONIC);
	}
}
