/* SPDX-License-Identifier: MIT */
/* See dirnames.h. A set of names is immutable once read, and freed with its last reference. */
#include "image/dirnames.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/hash.h"

struct entry {
	uint64_t place;
	char *name;
};

struct dirnames {
	atomic_uint refs;
	struct stat st; /* of the folder, before it was read */
	struct entry *entry;
	size_t count, room;
};

void dirnames_cache_init(struct dirnames_cache *cache)
{
	pthread_mutex_init(&cache->lock, NULL);
	cache->last = NULL;
}

void dirnames_cache_release(struct dirnames_cache *cache)
{
	dirnames_put(cache->last);
	pthread_mutex_destroy(&cache->lock);
}

void dirnames_put(struct dirnames *names)
{
	if (!names || atomic_fetch_sub(&names->refs, 1) > 1)
		return;
	while (names->count)
		free(names->entry[--names->count].name);
	free(names->entry);
	free(names);
}

/* Never 0, which is the place before all; and small enough for an offset with a little added. */
static uint64_t place_of(const char *name)
{
	uint64_t place = hash_struct(name, strlen(name)) >> 2;

	return place ? place : 1;
}

static int add(struct dirnames *names, const char *name)
{
	char *copy;

	if (names->count == names->room) {
		size_t room = names->room ? names->room * 2 : 64;
		struct entry *grown = reallocarray(names->entry, room, sizeof(*grown));

		if (!grown)
			return -ENOMEM;
		names->entry = grown;
		names->room = room;
	}
	copy = strdup(name);
	if (!copy)
		return -ENOMEM;
	names->entry[names->count++] = (struct entry){.place = place_of(name), .name = copy};
	return 0;
}

static int compare(const void *a, const void *b)
{
	const struct entry *x = a, *y = b;

	return x->place != y->place ? (x->place > y->place) - (x->place < y->place)
				    : strcmp(x->name, y->name);
}

static int read_all(struct dirnames *names, int fd)
{
	struct dirent *entry;
	DIR *dir;
	int r = 0;

	/* A description of its own: others may read through fd at the same time. */
	fd = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	dir = fdopendir(fd);
	if (!dir) {
		r = -errno;
		close(fd);
		return r;
	}
	while (!r && (errno = 0, entry = readdir(dir)))
		if (entry->d_name[0] != '.')
			r = add(names, entry->d_name);
	if (!r)
		r = -errno;
	closedir(dir);
	if (!r && names->count)
		qsort(names->entry, names->count, sizeof(*names->entry), compare);
	return r;
}

static bool is_same_time(const struct timespec *a, const struct timespec *b)
{
	return a->tv_sec == b->tv_sec && a->tv_nsec == b->tv_nsec;
}

static bool is_current(const struct dirnames *names, const struct stat *st)
{
	return names && names->st.st_dev == st->st_dev && names->st.st_ino == st->st_ino &&
	       is_same_time(&names->st.st_mtim, &st->st_mtim) &&
	       is_same_time(&names->st.st_ctim, &st->st_ctim);
}

int dirnames_get(struct dirnames_cache *cache, int fd, uint64_t after, struct dirnames **names)
{
	struct dirnames *n, *before;
	struct stat st;
	int r;

	if (fstat(fd, &st) < 0)
		return -errno;
	pthread_mutex_lock(&cache->lock);
	n = after && is_current(cache->last, &st) ? cache->last : NULL;
	if (n)
		atomic_fetch_add(&n->refs, 1);
	pthread_mutex_unlock(&cache->lock);
	*names = n;
	if (n)
		return 0;
	n = calloc(1, sizeof(*n));
	if (!n)
		return -ENOMEM;
	n->refs = 2; /* the caller's and the cache's */
	n->st = st;
	r = read_all(n, fd);
	if (r < 0) {
		n->refs = 1;
		dirnames_put(n);
		return r;
	}
	pthread_mutex_lock(&cache->lock);
	before = cache->last;
	cache->last = n;
	pthread_mutex_unlock(&cache->lock);
	dirnames_put(before);
	*names = n;
	return 0;
}

size_t dirnames_upto(const struct dirnames *names, uint64_t place)
{
	size_t low = 0, high = names->count;

	while (low < high) {
		size_t mid = (low + high) / 2;

		if (names->entry[mid].place <= place)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

const char *dirnames_at(const struct dirnames *names, size_t index, uint64_t *place)
{
	if (index >= names->count)
		return NULL;
	*place = names->entry[index].place;
	return names->entry[index].name;
}
