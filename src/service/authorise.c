/* SPDX-License-Identifier: MIT */
/* First who asks, then what he may do, then the way through the tree. See authorise.h. */
#include "service/authorise.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "service/service.h"

#define CAP_DAC_OVERRIDE_BIT 1
#define CAP_FOWNER_BIT 3
#define STATUS_MAX (1u << 20) /* 65536 groups fit, which is what a thread may have */

/* ---- who asks ---- */

/* The line of /proc/ID/status that starts with key, behind it; NULL without. */
static const char *status_field(const char *text, const char *key)
{
	size_t len = strlen(key);

	for (const char *line = text; line; line = strchr(line, '\n')) {
		if (*line == '\n')
			line++;
		if (strncmp(line, key, len) == 0)
			return line + len;
	}
	return NULL;
}

/* The fourth number of a Uid: or Gid: line, which is the one for file access. */
static bool status_fsid(const char *field, uint32_t *id)
{
	unsigned int real, effective, saved, file;

	if (!field || sscanf(field, "%u %u %u %u", &real, &effective, &saved, &file) != 4)
		return false;
	*id = file;
	return true;
}

static int parse_groups(struct access *access, const char *field)
{
	size_t capacity = 0;

	for (;;) {
		char *end;
		unsigned long group;

		while (*field == ' ' || *field == '\t')
			field++;
		if (*field < '0' || *field > '9')
			return 0;
		group = strtoul(field, &end, 10);
		/* A number at the very end may be cut off: only whole ones count. */
		if (*end != ' ' && *end != '\n')
			return 0;
		field = end;
		if (access->group_count == capacity) {
			uint32_t *groups;

			capacity = capacity ? capacity * 2 : 16;
			groups = reallocarray(access->groups, capacity, sizeof(*groups));
			if (!groups)
				return -ENOMEM;
			access->groups = groups;
		}
		access->groups[access->group_count++] = (uint32_t)group;
	}
}

int access_parse_status(struct access *access, const char *text)
{
	const char *groups = status_field(text, "Groups:");
	const char *caps = status_field(text, "CapEff:");
	uint32_t uid, gid;
	uint64_t effective = 0;

	if (!status_fsid(status_field(text, "Uid:"), &uid) ||
		!status_fsid(status_field(text, "Gid:"), &gid))
		return -ESRCH;
	if (uid != access->uid || gid != access->gid)
		return -ESRCH;
	if (caps)
		sscanf(caps, "%" SCNx64, &effective);
	access->override = uid == 0 && (effective >> CAP_DAC_OVERRIDE_BIT & 1);
	access->fowner = uid == 0 && (effective >> CAP_FOWNER_BIT & 1);
	return groups ? parse_groups(access, groups) : 0;
}

/* All of a file of /proc, malloc'ed; NULL when it cannot be read. */
static char *read_proc(const char *path)
{
	CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
	char *text = fd >= 0 ? malloc(STATUS_MAX + 1) : NULL;
	size_t len = 0;

	if (!text)
		return NULL;
	while (len < STATUS_MAX) {
		ssize_t n = read(fd, text + len, STATUS_MAX - len);

		if (n <= 0)
			break;
		len += (size_t)n;
	}
	text[len] = '\0';
	return text;
}

static char *read_proc_of(pid_t pid, const char *name)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, name);
	return read_proc(path);
}

/*
 * Whether all users (name "uid_map") or groups ("gid_map") are to thread pid what they are to us.
 * That is what the kernel asks before a capability counts for a file: its owner and its group
 * have a number in the namespace of whoever holds the capability. The namespaces themselves cannot
 * be compared: to see another process's takes CAP_SYS_PTRACE.
 */
static bool same_numbers(pid_t pid, const char *name)
{
	CLEANUP_FREE char *ours = NULL;
	CLEANUP_FREE char *theirs = read_proc_of(pid, name);
	char path[32];

	snprintf(path, sizeof(path), "/proc/self/%s", name);
	ours = read_proc(path);
	/* Kernels without user namespaces have no such files. */
	return (!ours && errno == ENOENT) || (ours && theirs && strcmp(ours, theirs) == 0);
}

int access_init(struct access *access, const struct service_caller *caller)
{
	CLEANUP_FREE char *status = NULL;
	int r;

	*access = (struct access){.uid = caller->uid, .gid = caller->gid};
	if (caller->pid == 0) {
		/* Not visible from here, so it is no process of a container below us. */
		access->override = access->fowner = caller->uid == 0;
		return 0;
	}
	status = read_proc_of(caller->pid, "status");
	if (!status)
		return 0;
	r = access_parse_status(access, status);
	if (r == -ENOMEM) {
		access_release(access);
		return r;
	}
	if ((access->override || access->fowner) &&
		!(same_numbers(caller->pid, "uid_map") && same_numbers(caller->pid, "gid_map")))
		access->override = access->fowner = false;
	return 0;
}

void access_release(struct access *access)
{
	free(access->groups);
	*access = (struct access){0};
}

/* ---- what he may do ---- */

static bool in_group(const struct access *access, uint32_t gid)
{
	if (access->gid == gid)
		return true;
	for (size_t i = 0; i < access->group_count; i++)
		if (access->groups[i] == gid)
			return true;
	return false;
}

bool access_may(const struct access *access, const struct fs_attr *attr, int mask)
{
	unsigned int given = attr->mode & 7;

	if (access->override)
		return true;
	/* One class only, as the kernel does: an owner shut out is not let in as "other". */
	if (attr->uid == access->uid)
		given = attr->mode >> 6 & 7;
	else if (in_group(access, attr->gid))
		given = attr->mode >> 3 & 7;
	return ((unsigned int)mask & ~given) == 0;
}

bool access_may_replace(const struct access *access, const struct fs_attr *folder,
	const struct fs_attr *entry)
{
	if (!(folder->mode & S_ISVTX) || access->fowner)
		return true;
	return access->uid == entry->uid || access->uid == folder->uid;
}

/* ---- the way there ---- */

void node_release(struct fs *fs, struct node *node)
{
	if (node->held)
		fs_forget(fs, node->attr.ino, 1);
	node->held = false;
}

int node_step(struct fs *fs, const struct access *access, const struct fs_attr *folder,
	const char *name, struct node *node)
{
	int r;

	node->held = false;
	if (S_ISLNK(folder->mode))
		return -ELOOP;
	if (!S_ISDIR(folder->mode))
		return -ENOTDIR;
	if (!access_may(access, folder, X_OK))
		return -EACCES;
	r = fs_lookup(fs, folder->ino, name, &node->attr);
	if (r == 0)
		node->held = true;
	return r;
}

/* The next name of a path, of *len characters; "" and "." are passed over. NULL: no more. */
static const char *next_name(const char **path, size_t *len)
{
	for (;;) {
		const char *start;

		while (**path == '/')
			(*path)++;
		start = *path;
		while (**path && **path != '/')
			(*path)++;
		*len = (size_t)(*path - start);
		if (*len == 0)
			return NULL;
		if (*len != 1 || *start != '.')
			return start;
	}
}

int node_walk(struct fs *fs, const struct access *access, const char *path, struct node *node)
{
	const char *start;
	size_t len;
	int r;

	node->held = false;
	r = fs_getattr(fs, FS_INO_ROOT, &node->attr);
	while (r == 0 && (start = next_name(&path, &len)) != NULL) {
		char name[NAME_MAX + 1];
		struct node next;

		if (len > NAME_MAX) {
			r = -ENAMETOOLONG;
			break;
		}
		memcpy(name, start, len);
		name[len] = '\0';
		if (strcmp(name, "..") == 0) {
			r = -EINVAL;
			break;
		}
		r = node_step(fs, access, &node->attr, name, &next);
		if (r == 0) {
			node_release(fs, node);
			*node = next;
		}
	}
	if (r < 0)
		node_release(fs, node);
	return r;
}

int path_split(const char *path, char **folder, char **name)
{
	const char *p = path;
	const char *last = NULL;
	const char *start;
	size_t last_len = 0;
	size_t len;

	while ((start = next_name(&p, &len)) != NULL) {
		last = start;
		last_len = len;
	}
	if (!last || (last_len == 2 && memcmp(last, "..", 2) == 0))
		return -EINVAL;
	for (len = (size_t)(last - path); len && path[len - 1] == '/';)
		len--;
	*folder = strndup(path, len);
	*name = strndup(last, last_len);
	if (*folder && *name)
		return 0;
	free(*folder);
	free(*name);
	*folder = *name = NULL;
	return -ENOMEM;
}
