/* SPDX-License-Identifier: MIT */
/*
 * The mount of a path is the one whose mount point is the longest prefix of the resolved path and
 * whose device is the path's own (a mount may be hidden below another). A bind mount of a folder
 * within goldfs counts too: the request goes to where the whole tree is mounted.
 *
 * A request is one write and its reply is read to the end from the same descriptor. ESTALE means
 * that the daemon was replaced between the two: the same request, under the same client id, is
 * sent again. Opening the file again waits in the kernel until somebody serves.
 */
#include "cli/client.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "cli/message.h"
#include "cli/verbs.h"
#include "service/control.h"
#include "service/names.h"

#define CALL_TRIES 100
#define CALL_PAUSE_NS 100000000 /* between tries */

/* A line of mountinfo of a goldfs mount, or of another one (goldfs false). */
struct mount {
	dev_t dev;
	char *root;   /* the folder of the file system that is mounted here */
	char *target; /* where */
	bool goldfs;
};

struct mounts {
	struct mount *mount;
	size_t count;
};

/* ---- the mounts there are ---- */

/* Turns \040 and its like into the bytes they stand for, in place. */
static void unescape(char *text)
{
	char *out = text;

	for (const char *p = text; *p; p++) {
		if (p[0] == '\\' && p[1] >= '0' && p[1] <= '3' && p[2] >= '0' && p[2] <= '7' &&
			p[3] >= '0' && p[3] <= '7') {
			*out++ = (char)((p[1] - '0') << 6 | (p[2] - '0') << 3 | (p[3] - '0'));
			p += 3;
		} else {
			*out++ = *p;
		}
	}
	*out = '\0';
}

/* "36 35 98:0 /root /target opts [tags] - type source opts" */
static bool parse_mount(char *line, struct mount *mount)
{
	CLEANUP_FREE char *root = NULL;
	CLEANUP_FREE char *target = NULL;
	unsigned int major, minor;
	const char *type = strstr(line, " - ");

	if (!type || sscanf(line, "%*d %*d %u:%u %ms %ms", &major, &minor, &root, &target) != 4)
		return false;
	unescape(root);
	unescape(target);
	*mount = (struct mount){
		.dev = makedev(major, minor),
		.goldfs = strncmp(type + 3, "fuse.goldfs ", 12) == 0,
		.root = steal_pointer(&root),
		.target = steal_pointer(&target),
	};
	return true;
}

static void mounts_release(struct mounts *mounts)
{
	for (size_t i = 0; i < mounts->count; i++) {
		free(mounts->mount[i].root);
		free(mounts->mount[i].target);
	}
	free(mounts->mount);
	*mounts = (struct mounts){0};
}

static int mounts_read(struct mounts *mounts)
{
	FILE *file = fopen("/proc/self/mountinfo", "re");
	CLEANUP_FREE char *line = NULL;
	size_t size = 0;

	*mounts = (struct mounts){0};
	if (!file)
		return cli_fail("cannot read \"/proc/self/mountinfo\": %s", cli_reason(errno));
	while (getline(&line, &size, file) > 0) {
		struct mount mount;
		struct mount *grown;

		if (!parse_mount(line, &mount))
			continue;
		grown = reallocarray(mounts->mount, mounts->count + 1, sizeof(*grown));
		if (!grown) {
			free(mount.root);
			free(mount.target);
			break;
		}
		mounts->mount = grown;
		mounts->mount[mounts->count++] = mount;
	}
	fclose(file);
	return EXIT_DONE;
}

/* What follows prefix in path, without slashes before it; NULL: path does not lie below prefix. */
static const char *below(const char *path, const char *prefix)
{
	size_t len = strlen(prefix);

	while (len && prefix[len - 1] == '/')
		len--;
	if (strncmp(path, prefix, len) != 0 || (path[len] && path[len] != '/'))
		return NULL;
	return path + len + strspn(path + len, "/");
}

/* The mount that shows path, of device dev. NULL: none. */
static const struct mount *mount_of(const struct mounts *mounts, const char *path, dev_t dev)
{
	const struct mount *best = NULL;

	for (size_t i = 0; i < mounts->count; i++) {
		const struct mount *m = &mounts->mount[i];

		if (m->dev == dev && below(path, m->target) &&
			(!best || strlen(m->target) >= strlen(best->target)))
			best = m;
	}
	return best;
}

/* Where the whole tree of dev is mounted. */
static const struct mount *whole_mount(const struct mounts *mounts, const struct mount *mount)
{
	if (strcmp(mount->root, "/") == 0)
		return mount;
	for (size_t i = 0; i < mounts->count; i++)
		if (mounts->mount[i].dev == mount->dev &&
			strcmp(mounts->mount[i].root, "/") == 0)
			return &mounts->mount[i];
	return NULL;
}

char **client_mounts(void)
{
	struct mounts mounts;
	char **list;
	size_t count = 0;

	if (mounts_read(&mounts) != EXIT_DONE)
		return NULL;
	list = calloc(mounts.count + 1, sizeof(*list));
	for (size_t i = 0; list && i < mounts.count; i++)
		if (mounts.mount[i].goldfs && strcmp(mounts.mount[i].root, "/") == 0)
			list[count++] = steal_pointer(&mounts.mount[i].target);
	mounts_release(&mounts);
	return list;
}

void client_mounts_free(char **mounts)
{
	for (size_t i = 0; mounts && mounts[i]; i++)
		free(mounts[i]);
	free(mounts);
}

/* ---- places ---- */

void place_release(struct place *place)
{
	free(place->mountpoint);
	free(place->path);
	*place = (struct place){0};
}

static int unreachable(const char *path, int err)
{
	CLEANUP_FREE char *text = name_text(path);

	if (err == ENOTCONN || err == ECONNABORTED || err == ECONNREFUSED)
		return cli_fail("\"%s\" is a mount whose daemon is gone, mount it again or type: "
				"goldfs umount",
			text ? text : "");
	if (err == EROFS) /* of the control file: the request is too long for the other way */
		return cli_fail("\"%s\" is mounted read-only and takes no requests of this length",
			text ? text : "");
	return cli_fail("cannot use \"%s\": %s", text ? text : "", cli_reason(err));
}

/* The place of a resolved path, which is of device dev; name is what the user called it. */
static int place_of(const char *name, const char *resolved, dev_t dev, struct place *place)
{
	CLEANUP_FREE char *text = name_text(name);
	const struct mount *mount, *whole;
	struct mounts mounts;
	int r;

	*place = (struct place){0};
	r = mounts_read(&mounts);
	if (r != EXIT_DONE)
		return r;
	mount = mount_of(&mounts, resolved, dev);
	whole = mount && mount->goldfs ? whole_mount(&mounts, mount) : NULL;
	if (!mount || !mount->goldfs) {
		r = cli_fail("\"%s\" is not in a goldfs mount", text ? text : "");
	} else if (!whole) {
		r = cli_fail("\"%s\" is in a part of a goldfs mount whose root is not to be seen",
			text ? text : "");
	} else {
		const char *root = mount->root + strspn(mount->root, "/");
		const char *rest = below(resolved, mount->target);

		place->mountpoint = strdup(whole->target);
		if (asprintf(&place->path, "%s%s%s", root, *root && *rest ? "/" : "", rest) < 0)
			place->path = NULL;
		if (!place->mountpoint || !place->path)
			r = cli_fail("out of memory");
	}
	mounts_release(&mounts);
	if (r != EXIT_DONE)
		place_release(place);
	return r;
}

/*
 * The path without links, and on which device it is. Each question that reaches the daemon waits behind
 * what guests have it do, so it is one: the look-up. NULL with errno.
 */
static char *resolve(const char *path, dev_t *dev)
{
	CLEANUP_CLOSE int fd = open(path, O_PATH | O_CLOEXEC);
	char link[32], target[PATH_MAX];
	struct statx stx;
	ssize_t n;

	if (fd < 0 || statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_NLINK, &stx) < 0)
		return NULL;
	*dev = makedev(stx.stx_dev_major, stx.stx_dev_minor);
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	n = readlink(link, target, sizeof(target));
	/* One that is too long, or was removed just now: by its name, as long as there is one. */
	if (n <= 0 || n == (ssize_t)sizeof(target) || target[0] != '/' || stx.stx_nlink == 0)
		return realpath(path, NULL);
	return strndup(target, (size_t)n);
}

/* gone: its last name may be. */
static int find_any(const char *path, bool gone, struct place *place)
{
	CLEANUP_FREE char *resolved = NULL;
	dev_t dev;

	*place = (struct place){0};
	resolved = resolve(path, &dev);
	if (!resolved && gone && errno == ENOENT)
		return place_find_new(path, place);
	return resolved ? place_of(path, resolved, dev, place) : unreachable(path, errno);
}

int place_find(const char *path, struct place *place)
{
	return find_any(path, false, place);
}

int place_find_gone(const char *path, struct place *place)
{
	return find_any(path, true, place);
}

int place_find_new(const char *path, struct place *place)
{
	CLEANUP_FREE char *folder = NULL;
	const char *name = strrchr(path, '/');
	char *full;
	int r;

	*place = (struct place){0};
	name = name ? name + 1 : path;
	if (!*name || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
		return place_find(path, place);
	folder = name == path ? strdup(".") : strndup(path, (size_t)(name - path));
	if (!folder)
		return cli_fail("out of memory");
	r = place_find(folder, place);
	if (r != EXIT_DONE)
		return r;
	if (asprintf(&full, "%s%s%s", place->path, *place->path ? "/" : "", name) < 0) {
		place_release(place);
		return cli_fail("out of memory");
	}
	free(place->path);
	place->path = full;
	return EXIT_DONE;
}

int places_gather(int count, char **typed, int (*find)(const char *path, struct place *place),
	json_t *paths, char **mountpoint)
{
	for (int i = 0; i < count; i++) {
		struct place place;
		int r = find(typed[i], &place);

		if (r != EXIT_DONE)
			return r;
		if (!*mountpoint)
			*mountpoint = steal_pointer(&place.mountpoint);
		else if (strcmp(*mountpoint, place.mountpoint) != 0)
			r = cli_fail("\"%s\" is in another mount than \"%s\", name the paths of one "
				     "mount at a time", typed[i], typed[0]);
		json_array_append_new(paths, client_path(place.path));
		place_release(&place);
		if (r != EXIT_DONE)
			return r;
	}
	return EXIT_DONE;
}

bool place_working(struct place *place)
{
	CLEANUP_FREE char *resolved = NULL;
	struct mounts mounts;
	const struct mount *mount;
	bool inside;
	dev_t dev;

	resolved = resolve(".", &dev);
	if (!resolved || mounts_read(&mounts) != EXIT_DONE)
		return false;
	mount = mount_of(&mounts, resolved, dev);
	inside = mount && mount->goldfs && whole_mount(&mounts, mount);
	mounts_release(&mounts);
	return inside && place_of(".", resolved, dev, place) == EXIT_DONE;
}

int place_mount(const char *verb, const char *path, struct place *place)
{
	char **mounts;
	int r;

	*place = (struct place){0};
	if (path)
		return place_find(path, place);
	if (place_working(place))
		return EXIT_DONE;
	mounts = client_mounts();
	if (!mounts)
		return EXIT_FAILED;
	if (!mounts[0])
		r = cli_fail("there is no goldfs mount");
	else if (mounts[1])
		r = cli_usage(verb, "there are several goldfs mounts, name one of them");
	else
		r = place_find(mounts[0], place);
	client_mounts_free(mounts);
	return r;
}

/* ---- requests ---- */

json_t *client_path(const char *path)
{
	json_t *json = json_string(path);
	CLEANUP_FREE char *escaped = NULL;

	if (json)
		return json;
	escaped = name_escape(path);
	return escaped ? json_pack("{s:s}", "escaped", escaped) : NULL;
}

/* Names this request apart from all others, also those of other hosts' and former processes. */
static void add_client_id(json_t *request)
{
	unsigned char random[16];
	char id[2 * sizeof(random) + 1] = "";

	if (getrandom(random, sizeof(random), 0) != (ssize_t)sizeof(random))
		return;
	for (size_t i = 0; i < sizeof(random); i++)
		sprintf(id + 2 * i, "%02x", random[i]);
	json_object_set_new(request, "client", json_string(id));
}

static int read_reply(int fd, json_t **reply)
{
	CLEANUP_FREE char *text = NULL;
	size_t capacity = 0;
	size_t len = 0;
	ssize_t n;

	do {
		if (capacity - len < 65536) {
			char *grown = realloc(text, capacity ? capacity * 2 : 1 << 18);

			if (!grown)
				return -ENOMEM;
			text = grown;
			capacity = capacity ? capacity * 2 : 1 << 18;
		}
		n = read(fd, text + len, capacity - len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		len += (size_t)n;
	} while (n != 0 && len == capacity); /* a short one is the last: the daemon gives all it has */
	*reply = json_loadb(text, len, 0, NULL);
	return json_is_object(*reply) ? 0 : -EPROTO;
}

/* A read-only mount has no descriptor to write to. */
static int exchange_read_only(const char *control, const char *text, json_t **reply)
{
	CLEANUP_CLOSE int fd = open(control, O_RDONLY | O_CLOEXEC);
	CLEANUP_FREE char *padded = calloc(1, CONTROL_IOCTL_MAX);

	if (fd < 0)
		return -errno;
	if (!padded)
		return -ENOMEM;
	if (strlen(text) >= CONTROL_IOCTL_MAX)
		return -EROFS;
	memcpy(padded, text, strlen(text));
	if (ioctl(fd, CONTROL_IOCTL, padded) < 0)
		return -errno;
	return read_reply(fd, reply);
}

/* One try. 0 or -errno. */
static int exchange(const char *control, const char *text, json_t **reply)
{
	CLEANUP_CLOSE int fd = open(control, O_RDWR | O_CLOEXEC);
	size_t len = strlen(text);
	ssize_t n;

	*reply = NULL;
	if (fd < 0 && errno == EROFS)
		return exchange_read_only(control, text, reply);
	if (fd < 0)
		return -errno;
	do
		n = write(fd, text, len);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	return (size_t)n == len ? read_reply(fd, reply) : -EIO;
}

static int exchange_patiently(const char *control, const char *text, json_t **reply)
{
	const struct timespec pause = {.tv_nsec = CALL_PAUSE_NS};
	int r = -ESTALE;

	for (int i = 0; i < CALL_TRIES && r == -ESTALE; i++) {
		if (i)
			nanosleep(&pause, NULL);
		json_decref(*reply);
		r = exchange(control, text, reply);
	}
	return r;
}

static int read_stats(const char *path, json_t **stats)
{
	CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);

	*stats = NULL;
	return fd < 0 ? -errno : read_reply(fd, stats);
}

json_t *client_stats(const char *mountpoint)
{
	CLEANUP_FREE char *path = NULL;
	json_t *stats = NULL;
	int r = -ESTALE;

	if (asprintf(&path, "%s/.goldfs/stats.json", mountpoint) < 0) {
		cli_fail("out of memory");
		return NULL;
	}
	for (int i = 0; i < CALL_TRIES && r == -ESTALE; i++) {
		json_decref(stats);
		r = read_stats(path, &stats);
	}
	if (r == 0)
		return stats;
	unreachable(mountpoint, -r);
	json_decref(stats);
	return NULL;
}

int client_lost(const char *mountpoint, int err)
{
	return unreachable(mountpoint, -err);
}

int client_try(const char *mountpoint, json_t *request, json_t **reply)
{
	CLEANUP_FREE char *control = NULL;
	CLEANUP_FREE char *text = NULL;
	int r;

	*reply = NULL;
	add_client_id(request);
	text = json_dumps(request, JSON_COMPACT);
	json_decref(request);
	if (!text || asprintf(&control, "%s/.goldfs/control", mountpoint) < 0)
		return -ENOMEM;
	if (strlen(text) > CONTROL_REQUEST_MAX)
		return -E2BIG;
	r = exchange_patiently(control, text, reply);
	if (r < 0) {
		json_decref(*reply);
		*reply = NULL;
	}
	return r;
}

json_t *client_ask(const char *mountpoint, json_t *request)
{
	json_t *reply;
	int r = client_try(mountpoint, request, &reply);

	if (r < 0)
		client_lost(mountpoint, r);
	return reply;
}

bool client_is_done(const json_t *reply)
{
	return json_integer_value(json_object_get(reply, "status")) == 0;
}

json_t *client_call(const char *mountpoint, json_t *request)
{
	json_t *reply = client_ask(mountpoint, request);
	const char *error;

	if (!reply || client_is_done(reply))
		return reply;
	error = json_string_value(json_object_get(reply, "error"));
	cli_fail("%s", error ? error : "the request failed");
	json_decref(reply);
	return NULL;
}
