/* SPDX-License-Identifier: MIT */
/* /proc/self/mountinfo, read when asked. See mountinfo.h. */
#include "daemon/mountinfo.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"

void mount_entry_release(struct mount_entry *entry)
{
	free(entry->target);
	free(entry->type);
	free(entry->source);
	*entry = (struct mount_entry){0};
}

/* Whether \040 or its like stands at p. */
static bool is_escape(const char *p)
{
	return p[0] == '\\' && p[1] >= '0' && p[1] <= '3' && p[2] >= '0' && p[2] <= '7' &&
	       p[3] >= '0' && p[3] <= '7';
}

/* The next word of *line, with \040 and its like undone, malloc'ed; NULL at the end. */
static char *next_word(const char **line)
{
	const char *from = *line;
	char *word, *to;

	while (*from == ' ')
		from++;
	if (!*from || *from == '\n')
		return NULL;
	word = to = malloc(strcspn(from, " \n") + 1);
	if (!word)
		return NULL;
	while (*from && *from != ' ' && *from != '\n') {
		if (is_escape(from)) {
			*to++ = (char)((from[1] - '0') << 6 | (from[2] - '0') << 3 | (from[3] - '0'));
			from += 4;
		} else {
			*to++ = *from++;
		}
	}
	*to = '\0';
	*line = from;
	return word;
}

int mount_entry_parse(const char *line, struct mount_entry *entry)
{
	const char *rest;
	int used = 0;

	*entry = (struct mount_entry){0};
	if (sscanf(line, "%d %*d %u:%u %n", &entry->id, &entry->major, &entry->minor, &used) != 3)
		return -EINVAL;
	rest = line + used;
	free(next_word(&rest)); /* the root within the file system */
	entry->target = next_word(&rest);
	rest = strstr(rest, " - ");
	if (rest) {
		rest += 3;
		entry->type = next_word(&rest);
		entry->source = next_word(&rest);
	}
	if (entry->target && entry->type && entry->source)
		return 0;
	mount_entry_release(entry);
	return -EINVAL;
}

int mount_find(const char *target, struct mount_entry *entry)
{
	FILE *file = fopen("/proc/self/mountinfo", "re");
	CLEANUP_FREE char *line = NULL;
	size_t room = 0;
	bool found = false;

	if (!file)
		return -errno;
	while (getline(&line, &room, file) > 0) {
		struct mount_entry one;

		if (mount_entry_parse(line, &one) < 0)
			continue;
		if (strcmp(one.target, target) != 0) {
			mount_entry_release(&one);
			continue;
		}
		if (found)
			mount_entry_release(entry);
		*entry = one;
		found = true;
	}
	fclose(file);
	return found ? 0 : -ENOENT;
}

bool mount_is_goldfs(const struct mount_entry *entry)
{
	return strcmp(entry->type, GOLDFS_MOUNT_TYPE) == 0;
}

/* A path without trailing slashes, malloc'ed. */
static char *without_slashes(const char *path)
{
	size_t len = strlen(path);

	while (len > 1 && path[len - 1] == '/')
		len--;
	return strndup(path, len);
}

int mount_resolve(const char *path, char **absolute)
{
	CLEANUP_FREE char *trimmed = NULL;
	CLEANUP_FREE char *parent = NULL;
	char *slash, *name;

	*absolute = realpath(path, NULL);
	if (*absolute)
		return 0;
	if (errno != ENOTCONN && errno != ECONNABORTED)
		return -errno;
	trimmed = without_slashes(path);
	if (!trimmed)
		return -ENOMEM;
	slash = strrchr(trimmed, '/');
	name = slash ? slash + 1 : trimmed;
	if (slash)
		*slash = '\0';
	parent = realpath(slash ? (slash == trimmed ? "/" : trimmed) : ".", NULL);
	if (!parent)
		return -errno;
	if (asprintf(absolute, "%s/%s", strcmp(parent, "/") == 0 ? "" : parent, name) < 0)
		return -ENOMEM;
	return 0;
}

bool mount_is_dead(const char *target)
{
	struct stat st;

	return stat(target, &st) < 0 && (errno == ENOTCONN || errno == ECONNABORTED);
}
