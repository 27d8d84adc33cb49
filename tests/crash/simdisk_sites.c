/* SPDX-License-Identifier: MIT */
/*
 * Where in the program the calls that make things durable come from, and leaving one of them out:
 * a crash test has the power to notice a missing sync only if it fails when that sync is missing.
 */
#include "simdisk_internal.h"

#include <execinfo.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"

/* Frames of our own: the function below, begin() and the table's function. */
enum { OWN_FRAMES = 3 };

static struct {
	pthread_mutex_t lock;
	struct simdisk_site *list; /* lock, as all below */
	int room;
	int *count;
	struct simdisk_site ignored;
	bool ignoring;
	uint64_t struck;
} sites = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* "layer/12.data" becomes "layer/#.data". */
static void path_class(char *out, size_t size, const char *path)
{
	size_t n = 0;

	for (; *path && n + 1 < size; path++) {
		if (*path < '0' || *path > '9')
			out[n++] = *path;
		else if (!n || out[n - 1] != '#')
			out[n++] = '#';
	}
	out[n] = 0;
}

static bool is_same(const struct simdisk_site *a, const struct simdisk_site *b)
{
	return strcmp(a->name, b->name) == 0 &&
	       memcmp(a->frames, b->frames, sizeof(a->frames)) == 0;
}

static void note_locked(const struct simdisk_site *site)
{
	for (int i = 0; i < *sites.count; i++) {
		if (is_same(&sites.list[i], site))
			return;
	}
	if (*sites.count < sites.room)
		sites.list[(*sites.count)++] = *site;
}

static bool has_sites(enum simdisk_op op)
{
	return op == SIMDISK_FDATASYNC || op == SIMDISK_SYNCDIR || op == SIMDISK_PUNCH;
}

__attribute__((noinline)) bool site_is_ignored(enum simdisk_op op, const char *path)
{
	void *stack[OWN_FRAMES + SIMDISK_FRAMES] = {0};
	struct simdisk_site site = {.op = op};
	char class[SIMDISK_PATH];

	if (!has_sites(op))
		return false;
	MUTEX_GUARD(&sites.lock);
	if (!sites.list && !sites.ignoring)
		return false;
	backtrace(stack, OWN_FRAMES + SIMDISK_FRAMES);
	memcpy(site.frames, stack + OWN_FRAMES, sizeof(site.frames));
	path_class(class, sizeof(class), path);
	snprintf(site.name, sizeof(site.name), "%s %s", simdisk_op_name(op), class);
	if (sites.list)
		note_locked(&site);
	if (!sites.ignoring || !is_same(&site, &sites.ignored))
		return false;
	sites.struck++;
	return true;
}

void simdisk_track_sites(struct simdisk_site *list, int room, int *count)
{
	MUTEX_GUARD(&sites.lock);
	sites.list = list;
	sites.room = room;
	sites.count = count;
}

void simdisk_ignore_site(const struct simdisk_site *site)
{
	MUTEX_GUARD(&sites.lock);
	sites.ignoring = site != NULL;
	if (site)
		sites.ignored = *site;
	sites.struck = 0;
}

uint64_t simdisk_ignored(void)
{
	MUTEX_GUARD(&sites.lock);
	return sites.struck;
}
