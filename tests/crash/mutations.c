/* SPDX-License-Identifier: MIT */
/*
 * Do the crash tests notice when a sync is missing?
 *
 * First the workloads run as they are, and every place that calls fdatasync, syncdir or punch is
 * noted. Then each of these places in turn does nothing, and the same workloads must fail. Places
 * are told apart by return addresses, which the processes forked here have in common.
 */
#include "driver.h"

#include <dlfcn.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>

enum { MAX_SITES = 256 };

struct found_sites {
	int count;
	struct simdisk_site list[MAX_SITES];
};

/* "flush_layer at src/core/flush.c:49", when the tools to tell are there. */
static void describe(void *address, char *out, size_t size)
{
	char command[256];
	Dl_info info;
	FILE *f;

	snprintf(out, size, "%p", address);
	if (!dladdr(address, &info) || !info.dli_fbase)
		return;
	snprintf(command, sizeof(command), "addr2line -sfpe '%s' %#tx 2>/dev/null", info.dli_fname,
		(char *)address - (char *)info.dli_fbase - 1);
	f = popen(command, "r");
	if (!f)
		return;
	if (fgets(out, (int)size, f))
		out[strcspn(out, "\n")] = 0;
	pclose(f);
}

static bool run_one(const struct drive_options *options, struct drive_result *result, uint64_t seed)
{
	int status;
	pid_t pid = drive_spawn(options, result, seed, NULL);

	waitpid(pid, &status, 0);
	return drive_finish(result, status);
}

/* Seeds until one fails; 0: none does. */
static uint64_t try_site(const struct drive_options *options, struct drive_result *result,
	uint64_t *ignored)
{
	*ignored = 0;
	for (uint64_t seed = options->first; seed <= options->last; seed++) {
		if (run_one(options, result, seed))
			return seed;
		*ignored += result->ignored;
	}
	return 0;
}

int mutations_run(const struct drive_options *options, struct drive_result *results)
{
	struct found_sites *found = mmap(NULL, sizeof(*found), PROT_READ | PROT_WRITE,
		MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	char caller[160], above[160];
	uint64_t ignored;
	int caught = 0;

	if (found == MAP_FAILED)
		return 1;
	simdisk_track_sites(found->list, MAX_SITES, &found->count);
	if (try_site(options, results, &ignored)) {
		drive_print_failure(options, results);
		return 1;
	}
	simdisk_track_sites(NULL, 0, NULL);
	for (int i = 0; i < found->count; i++) {
		const struct simdisk_site *site = &found->list[i];
		uint64_t seed;

		simdisk_ignore_site(site);
		seed = try_site(options, results, &ignored);
		caught += seed != 0;
		describe(site->frames[0], caller, sizeof(caller));
		describe(site->frames[1], above, sizeof(above));
		printf("%-6s %-24s %s < %s: ", seed ? "caught" : "MISSED", site->name, caller, above);
		if (seed)
			printf("seed %" PRIu64 ", %.120s\n", seed, results->reason);
		else
			printf("%" PRIu64 " calls left out, nothing noticed\n", ignored);
		fflush(stdout);
	}
	printf("%d of %d left-out calls caught\n", caught, found->count);
	return caught == found->count ? 0 : 1;
}
