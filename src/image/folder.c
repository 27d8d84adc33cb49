/* SPDX-License-Identifier: MIT */
/*
 * The folder of golden images, seen through a window that shows nothing else.
 *
 * The daemon may be root while the folder is filled by others, so a path below it must never lead
 * out of it, into hidden entries (the store itself usually is IMAGES/.goldfs), or to a device or
 * FIFO that hangs whoever opens it. Two ways lead to an entry:
 *
 *   - openat2() with RESOLVE_BENEATH and RESOLVE_NO_SYMLINKS, one system call, when the path has
 *     no symbolic link in it: nearly always;
 *   - otherwise a walk of our own that reads one component at a time, rewrites the path into one
 *     without links, and hands it to the first way. The kernel would follow links as well, but it
 *     would also follow them into dot entries, and refuses absolute ones that point back inside.
 *     A link swapped in while we walk only makes the final open fail.
 *
 * A symbolic link is followed when its target stays inside (an absolute one has to start with the
 * folder's own path), shows nothing hidden, and when whoever made it could have given the target
 * away himself: its owner is root, the daemon's user, or the owner of the folder or of the target.
 * Else a user who may create links here could read through them what only the daemon may. A link to
 * a folder that the path already went through is not shown: links look like their targets, so a
 * tree walk would have no way to notice that it goes round in circles.
 */
#include "image/folder.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>

#include "base/cleanup.h"
#include "base/invariant.h"
#include "base/mutation.h"
#include "image/dirnames.h"

#define LINKS_MAX 40 /* as the kernel */

struct folder {
	int dirfd;
	uid_t owner;
	char *real;  /* its path without symbolic links */
	char *given; /* its path as it was given, made absolute */
	struct dirnames_cache names;
};

/* A path being rewritten into one without symbolic links. */
struct walk {
	struct folder *folder;
	int links;
	bool met_link; /* in the component at hand; */
	bool by_user;  /* one that is not trusted by itself, made by */
	uid_t user;
	size_t trail_len;
	char done[PATH_MAX];	  /* rewritten so far, no leading or trailing slash */
	char rest[PATH_MAX];	  /* what remains of the component at hand, links expanded */
	char trail[4 * PATH_MAX]; /* folders gone through, each ended by NUL */
};

static int open_beneath(struct folder *folder, const char *path, int flags)
{
	struct open_how how = {
		.flags = (uint64_t)flags | O_CLOEXEC,
		.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS,
	};
	int fd;

	do {
		fd = (int)syscall(
			SYS_openat2, folder->dirfd, *path ? path : ".", &how, sizeof(how));
	} while (fd < 0 && (errno == EINTR || (errno == EAGAIN && (flags & O_PATH))));
	return fd < 0 ? -errno : fd;
}

/* Hidden, or no path below the folder at all. */
static int is_hidden(const char *path)
{
	if (*path == '/')
		return 1;
	for (; path; path = strchr(path, '/')) {
		path += *path == '/';
		if (*path == '.')
			return 1;
	}
	return 0;
}

static int append(char *path, const char *name)
{
	size_t len = strlen(path);

	if (len + 1 + strlen(name) >= PATH_MAX)
		return -ENAMETOOLONG;
	if (len)
		path[len++] = '/';
	strcpy(path + len, name);
	return 0;
}

/* "a/b" contains "a/b/c" and itself; "" contains all. */
static int contains(const char *path, const char *inner)
{
	size_t len = strlen(path);

	return len == 0 ||
	       (strncmp(path, inner, len) == 0 && (inner[len] == '/' || inner[len] == '\0'));
}

static int trail_add(struct walk *walk, const char *path)
{
	size_t len = strlen(path) + 1;

	if (walk->trail_len + len > sizeof(walk->trail))
		return -ENAMETOOLONG;
	memcpy(walk->trail + walk->trail_len, path, len);
	walk->trail_len += len;
	return 0;
}

static int goes_in_circles(const struct walk *walk)
{
	const char *p = walk->trail;

	for (; p < walk->trail + walk->trail_len; p += strlen(p) + 1)
		if (contains(walk->done, p))
			return 1;
	return 0;
}

/*
 * Notes whose link is followed. Links of several users in a row are followed only when all but one
 * of them are trusted: nobody could have made such a chain on purpose.
 */
static int trust_link(struct walk *walk, const struct stat *link)
{
	uid_t uid = link->st_uid;

	if (uid == 0 || uid == geteuid() || uid == walk->folder->owner)
		return 0;
	if (walk->by_user && walk->user != uid)
		return -ENOENT;
	walk->by_user = true;
	walk->user = uid;
	return 0;
}

/* The walk ended at done: may whoever made the links on the way show that? */
static int trust_target(struct walk *walk)
{
	CLEANUP_CLOSE int fd = -1;
	struct stat st;

	if (!walk->by_user)
		return 0;
	fd = open_beneath(walk->folder, walk->done, O_PATH | O_NOFOLLOW);
	if (fd < 0)
		return fd;
	if (fstat(fd, &st) < 0)
		return -errno;
	return st.st_uid == walk->user ? 0 : -ENOENT;
}

/* What an absolute target is, seen from the folder; NULL: it leads out. */
static const char *seen_from_inside(struct folder *folder, const char *target)
{
	const char *roots[] = {folder->real, folder->given};
	int i;

	for (i = 0; i < 2; i++)
		if (contains(roots[i], target))
			return target + strlen(roots[i]);
	return NULL;
}

/* Puts the target of the link before what remains. */
static int expand_link(struct walk *walk, int link_fd)
{
	char target[PATH_MAX], joined[PATH_MAX];
	const char *inside = target;
	ssize_t n;

	if (++walk->links > LINKS_MAX)
		return -ELOOP;
	n = readlinkat(link_fd, "", target, sizeof(target));
	if (n < 0)
		return -errno;
	if (n == 0 || (size_t)n == sizeof(target))
		return -ENOENT;
	target[n] = '\0';
	if (*target == '/') {
		inside = seen_from_inside(walk->folder, target);
		if (!inside)
			return -ENOENT;
		walk->done[0] = '\0';
	}
	if (snprintf(joined, sizeof(joined), "%s/%s", inside, walk->rest) >= (int)sizeof(joined))
		return -ENAMETOOLONG;
	strcpy(walk->rest, joined);
	return 0;
}

/* Takes the first component off what remains; 0 when nothing is left. */
static int take_component(struct walk *walk, char name[NAME_MAX + 1])
{
	char *p = walk->rest + strspn(walk->rest, "/");
	size_t len = strcspn(p, "/");

	if (len == 0)
		return 0;
	if (len > NAME_MAX)
		return -ENAMETOOLONG;
	memcpy(name, p, len);
	name[len] = '\0';
	memmove(walk->rest, p + len, strlen(p + len) + 1);
	return 1;
}

static int go_up(struct walk *walk)
{
	char *slash = strrchr(walk->done, '/');

	if (!*walk->done)
		return -ENOENT; /* out of the folder */
	*(slash ? slash : walk->done) = '\0';
	return 0;
}

/* One step down, up or along a link. */
static int step(struct walk *walk, const char *name)
{
	CLEANUP_CLOSE int fd = -1;
	char next[PATH_MAX];
	struct stat st;
	int rc;

	if (strcmp(name, ".") == 0)
		return 0;
	if (strcmp(name, "..") == 0)
		return go_up(walk);
	if (*name == '.')
		return -ENOENT;
	strcpy(next, walk->done);
	rc = append(next, name);
	if (rc < 0)
		return rc;
	fd = open_beneath(walk->folder, next, O_PATH | O_NOFOLLOW);
	if (fd < 0)
		return fd;
	if (fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISLNK(st.st_mode)) {
		strcpy(walk->done, next);
		return 0;
	}
	walk->met_link = true;
	rc = trust_link(walk, &st);
	return rc < 0 ? rc : expand_link(walk, fd);
}

/* Follows one component of the path that was asked for, to where it really is. */
static int walk_component(struct walk *walk, const char *component)
{
	char name[NAME_MAX + 1];
	int rc;

	strcpy(walk->rest, component);
	walk->met_link = walk->by_user = false;
	while ((rc = take_component(walk, name)) > 0) {
		rc = step(walk, name);
		if (rc < 0)
			return rc;
	}
	if (rc == 0 && walk->met_link) {
		if (goes_in_circles(walk))
			return -ENOENT;
		rc = trust_target(walk);
	}
	return rc < 0 ? rc : trail_add(walk, walk->done);
}

/* Rewrites path without symbolic links into out[PATH_MAX]. 0 or -errno. */
static int resolve(struct folder *folder, const char *path, char *out)
{
	CLEANUP_FREE struct walk *walk = calloc(1, sizeof(*walk));
	CLEANUP_FREE char *copy = strdup(path);
	char *save = NULL, *component;
	int rc;

	if (!walk || !copy)
		return -ENOMEM;
	walk->folder = folder;
	rc = trail_add(walk, "");
	for (component = strtok_r(copy, "/", &save); component && rc == 0;
		component = strtok_r(NULL, "/", &save))
		rc = strlen(component) > NAME_MAX ? -ENAMETOOLONG : walk_component(walk, component);
	if (rc == 0)
		strcpy(out, walk->done);
	return rc;
}

/* What a caller outside need not tell apart from "not there". */
static int hide(int err)
{
	return err == -EXDEV || err == -ELOOP ? -ENOENT : err;
}

/* Opens without reading anything yet; *plain gets the path without links when not NULL. */
static int open_path(struct folder *folder, const char *path, struct stat *st, char *plain)
{
	CLEANUP_CLOSE int fd = -1;
	char resolved[PATH_MAX];
	int rc;

	if (is_hidden(path))
		return -ENOENT;
	if (strlen(path) >= PATH_MAX)
		return -ENAMETOOLONG;
	fd = open_beneath(folder, path, O_PATH);
	if (fd == -ELOOP) {
		rc = resolve(folder, path, resolved);
		if (rc < 0)
			return hide(rc);
		path = resolved;
		fd = open_beneath(folder, path, O_PATH);
	}
	if (fd < 0)
		return hide(fd);
	if (fstat(fd, st) < 0)
		return -errno;
	if (!S_ISREG(st->st_mode) && !S_ISDIR(st->st_mode))
		return -ENOENT;
	if (plain)
		strcpy(plain, path);
	return steal_fd(&fd);
}

int folder_stat(struct folder *folder, const char *path, struct stat *st)
{
	CLEANUP_CLOSE int fd = open_path(folder, path, st, NULL);

	return fd < 0 ? fd : 0;
}

/* The path is known to name a regular file, but it may be another one by now: O_NONBLOCK. */
static int open_for_reading(struct folder *folder, const char *path)
{
	const int mode = MUTATED("open a golden image for writing: in its folder") ? O_RDWR : O_RDONLY;
	const int flags = mode | O_NONBLOCK | O_NOCTTY;
	CLEANUP_CLOSE int fd = open_beneath(folder, path, flags | O_NOATIME);
	struct stat st;

	if (fd == -EPERM)
		fd = open_beneath(folder, path, flags);
	if (fd == -EAGAIN)
		return -EBUSY; /* someone holds a write lease on it */
	if (fd < 0)
		return hide(fd);
	if (fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode))
		return S_ISDIR(st.st_mode) ? -EISDIR : -ENOENT;
	INVARIANT(7, (fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDONLY);
	if (fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK) < 0)
		return -errno;
	return steal_fd(&fd);
}

int folder_open_file(struct folder *folder, const char *path)
{
	CLEANUP_CLOSE int fd = -1;
	char plain[PATH_MAX];
	struct stat st;

	fd = open_path(folder, path, &st, plain);
	if (fd < 0)
		return fd;
	return S_ISDIR(st.st_mode) ? -EISDIR : open_for_reading(folder, plain);
}

/* Attributes of an entry in the folder open as fd. 1: not shown. */
static int stat_entry(
	struct folder *folder, int fd, const char *path, const char *name, struct stat *st)
{
	char full[PATH_MAX];

	if (fstatat(fd, name, st, AT_SYMLINK_NOFOLLOW) < 0)
		return 1;
	if (S_ISREG(st->st_mode) || S_ISDIR(st->st_mode))
		return 0;
	if (!S_ISLNK(st->st_mode))
		return 1;
	strcpy(full, path);
	return append(full, name) < 0 || folder_stat(folder, full, st) < 0;
}

int folder_open_folder(struct folder *folder, const char *path)
{
	CLEANUP_CLOSE int fd = -1;
	char plain[PATH_MAX];
	struct stat st;

	fd = open_path(folder, path, &st, plain);
	return fd < 0 ? fd : hide(open_beneath(folder, plain, O_RDONLY | O_DIRECTORY));
}

int folder_list(struct folder *folder, const char *path, uint64_t after, folder_list_fn *cb, void *arg)
{
	CLEANUP_CLOSE int fd = folder_open_folder(folder, path);
	struct dirnames *names;
	uint64_t place = after;
	const char *name;
	struct stat st;
	int rc;

	if (fd < 0)
		return fd;
	rc = dirnames_get(&folder->names, fd, after, &names);
	if (rc < 0)
		return rc;
	for (size_t i = dirnames_upto(names, after);
		rc == 0 && (name = dirnames_at(names, i, &place)); i++)
		if (stat_entry(folder, fd, path, name, &st) == 0)
			rc = cb(arg, name, &st, place);
	dirnames_put(names);
	return rc;
}

/* path made absolute, its symbolic links left in place, without trailing slashes. */
static char *make_absolute(const char *path)
{
	CLEANUP_FREE char *cwd = NULL;
	char *absolute = NULL;
	size_t len;

	if (*path == '/')
		absolute = strdup(path);
	else if ((cwd = getcwd(NULL, 0)) && asprintf(&absolute, "%s/%s", cwd, path) < 0)
		absolute = NULL;
	if (!absolute)
		return NULL;
	for (len = strlen(absolute); len && absolute[len - 1] == '/'; len--)
		absolute[len - 1] = '\0';
	return absolute;
}

int folder_open(struct folder **folder, const char *path)
{
	struct folder *f = calloc(1, sizeof(*f));
	struct stat st;
	int rc;

	if (!f)
		return -ENOMEM;
	dirnames_cache_init(&f->names);
	f->dirfd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (f->dirfd < 0 || fstat(f->dirfd, &st) < 0) {
		rc = -errno;
		folder_close(f);
		return rc;
	}
	f->owner = st.st_uid;
	f->real = realpath(path, NULL);
	f->given = make_absolute(path);
	if (!f->real || !f->given) {
		rc = -errno;
		folder_close(f);
		return rc;
	}
	if (strcmp(f->real, "/") == 0)
		f->real[0] = '\0'; /* as f->given is then */
	*folder = f;
	return 0;
}

void folder_close(struct folder *folder)
{
	if (!folder)
		return;
	if (folder->dirfd >= 0)
		close(folder->dirfd);
	dirnames_cache_release(&folder->names);
	free(folder->real);
	free(folder->given);
	free(folder);
}
