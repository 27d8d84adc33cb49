/* SPDX-License-Identifier: MIT */
/*
 * Making, opening and removing pins.
 *
 * Three ways to keep the bytes of an image, best first: a reflink is instant and ours alone; a hard
 * link is instant but shares the bytes with the file in IMAGES, so it needs the guard and the
 * print; a copy is ours alone but takes its time. Each becomes visible under its final name only
 * when it is complete and durable, and replaces what stood there: that is how the copy of an image
 * takes the place of the link to it while a writer waits.
 *
 * Linking goes through the open descriptor, not through the path in IMAGES: what was probed and
 * printed is what is pinned, also when the name has just been given to another file. The image is
 * synced first, for a clone that survives a power loss is worth nothing without its golden bytes.
 *
 * Whether a writer has the image open is asked by a read lease, which the kernel refuses then; the
 * lease is kept until the pin is there. Should somebody open the image in that moment, the kernel
 * sends a signal, so it is set to one that is ignored by default (the default, SIGIO, kills). The
 * kernel forgets that setting together with the lease: it has to be made anew each time.
 */
#include "image/pin.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <signal.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/mutation.h"
#include "base/sizes.h"
#include "base/times.h"
#include "image/image.h"
#include "image/pin_file.h"

#define CIFS_MAGIC 0xff534d42u
#define SMB2_MAGIC 0xfe534d42u

void pin_name(char name[PIN_NAME_MAX], uint64_t id, const char *suffix)
{
	snprintf(name, PIN_NAME_MAX, "golden/%" PRIu64 "%s", id, suffix);
}

static void tmp_name(char name[PIN_NAME_MAX], uint64_t id, const char *suffix)
{
	snprintf(name, PIN_NAME_MAX, "golden/%" PRIu64 "%s.tmp", id, suffix);
}

static int make_folder(int store_fd)
{
	if (mkdirat(store_fd, "golden", 0700) == 0)
		return SITE("pin: sync the folder's name", fd_syncdir(store_fd, ""));
	return errno == EEXIST ? 0 : -errno;
}

void pin_tmp_drop(int store_fd, uint64_t id, const char *suffix)
{
	char name[PIN_NAME_MAX];

	tmp_name(name, id, suffix);
	SITE("pin: remove a copy that was not finished", unlinkat(store_fd, name, 0));
}

int pin_tmp_open(int store_fd, uint64_t id, const char *suffix)
{
	char name[PIN_NAME_MAX];
	int rc, fd;

	rc = make_folder(store_fd);
	if (rc < 0)
		return rc;
	pin_tmp_drop(store_fd, id, suffix);
	tmp_name(name, id, suffix);
	fd = openat(store_fd, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	return fd < 0 ? -errno : fd;
}

int pin_tmp_publish(int store_fd, uint64_t id, const char *suffix, int fd)
{
	char tmp[PIN_NAME_MAX], name[PIN_NAME_MAX];

	tmp_name(tmp, id, suffix);
	pin_name(name, id, suffix);
	if (SITE("pin: sync the copy before it gets its name", fsync(fd)) < 0 ||
		SITE("pin: give the copy its name", renameat(store_fd, tmp, store_fd, name)) < 0)
		return -errno;
	return SITE("pin: sync the copy's name", fd_syncdir(store_fd, "golden"));
}

int pin_lease_tells_writers(int fd)
{
	struct statfs fs;

	if (fstatfs(fd, &fs) < 0)
		return 1;
	switch ((uint32_t)fs.f_type) {
	case NFS_SUPER_MAGIC:
	case SMB_SUPER_MAGIC:
	case CIFS_MAGIC:
	case SMB2_MAGIC:
		return 0;
	default:
		return 1;
	}
}

/* Keeps new writers out until lease_end(). -EBUSY: there is one. 0 also where leases are not. */
static int lease_begin(int fd)
{
	if (fcntl(fd, F_SETSIG, SIGURG) < 0)
		return 0;
	if (fcntl(fd, F_SETLEASE, F_RDLCK) < 0 && errno == EAGAIN && pin_lease_tells_writers(fd))
		return -EBUSY;
	return 0;
}

static void lease_end(int fd)
{
	fcntl(fd, F_SETLEASE, F_UNLCK);
}

static int try_reflink(int store_fd, uint64_t id, int source_fd)
{
	CLEANUP_CLOSE int fd = pin_tmp_open(store_fd, id, "");
	int rc;

	if (fd < 0)
		return fd;
	rc = ioctl(fd, FICLONE, source_fd) < 0 ? -errno : 0;
	if (rc == 0)
		rc = pin_tmp_publish(store_fd, id, "", fd);
	if (rc < 0)
		pin_tmp_drop(store_fd, id, "");
	return rc;
}

static int link_once(int source_fd, int store_fd, const char *name)
{
	char magic[PIN_NAME_MAX];

	/* Needs a capability, says ENOENT without it. */
	if (linkat(source_fd, "", store_fd, name, AT_EMPTY_PATH) == 0)
		return 0;
	if (errno != ENOENT)
		return -errno;
	snprintf(magic, sizeof(magic), "/proc/self/fd/%d", source_fd);
	return linkat(AT_FDCWD, magic, store_fd, name, AT_SYMLINK_FOLLOW) < 0 ? -errno : 0;
}

static int try_link(int store_fd, uint64_t id, int source_fd)
{
	char name[PIN_NAME_MAX];
	int rc;

	pin_name(name, id, "");
	rc = link_once(source_fd, store_fd, name);
	if (rc == -EEXIST && unlinkat(store_fd, name, 0) == 0)
		rc = link_once(source_fd, store_fd, name);
	return rc < 0 ? rc : SITE("pin: sync the link's name",
		fd_syncdir(store_fd, "golden"));
}

static int make_pin(int store_fd, uint64_t id, int source_fd, enum gf_pin_kind *kind)
{
	int rc;

	if (SITE("pin: sync the image before it is linked", fdatasync(source_fd)) < 0 &&
		errno != EINVAL && errno != EROFS)
		return -errno;
	rc = try_reflink(store_fd, id, source_fd);
	if (rc == 0) {
		*kind = GF_PIN_REFLINK;
		return 0;
	}
	if (rc == -EROFS || rc == -EIO)
		return rc;
	rc = try_link(store_fd, id, source_fd);
	if (rc == 0) {
		*kind = GF_PIN_LINK;
		return 0;
	}
	switch (rc) {
	case -EXDEV:
	case -EPERM:
	case -EACCES:
	case -EMLINK:
	case -EOPNOTSUPP:
	case -ENOSYS:
		*kind = GF_PIN_COPYING;
		return 0;
	default:
		return rc;
	}
}

int pin_make(int store_fd, uint64_t id, int source_fd, enum gf_pin_kind *kind)
{
	struct stat st;
	int rc;

	if (fstat(source_fd, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode))
		return -EINVAL;
	if (st.st_nlink == 0)
		return -ENOENT;
	rc = lease_begin(source_fd);
	if (rc < 0)
		return rc;
	rc = make_pin(store_fd, id, source_fd, kind);
	lease_end(source_fd);
	return rc;
}

struct copy {
	int from, to;
	struct pin_sums sums; /* what every chunk has to be; sums.sum is NULL for nothing known */
	uint64_t next;	      /* first chunk not looked at yet */
	uint64_t size;
	int (*progress)(void *arg, uint64_t done, uint64_t total);
	void *arg;
};

/* Chunks up to upto were passed over as holes. */
static int expect_holes(struct copy *copy, uint64_t upto)
{
	for (; copy->next < upto; copy->next++)
		if (copy->sums.sum && copy->sums.sum[copy->next] != 0)
			return -ESTALE;
	return 0;
}

/* Writes the parts of a chunk that are data in the source; the rest stays a hole. */
static int write_data(struct copy *copy, const uint8_t *buf, uint64_t off, size_t len)
{
	uint64_t pos = off, end = off + len;

	while (pos < off + len) {
		int rc = fd_next_data(copy->from, pos, &pos, &end);

		if (rc == -ENXIO)
			return 0;
		if (rc < 0) /* holes are unknown here */
			end = off + len;
		if (pos >= off + len)
			return 0;
		end = min_u64(end, off + len);
		rc = fd_pwrite(copy->to, buf + (pos - off), (size_t)(end - pos), pos);
		if (rc < 0)
			return rc;
		pos = end;
	}
	return 0;
}

static int copy_chunk(void *arg, uint64_t chunk, const void *buf, size_t len)
{
	struct copy *copy = arg;
	uint64_t off = chunk * GF_SUMS_CHUNK;
	int rc = expect_holes(copy, chunk);

	if (rc < 0)
		return rc;
	if (copy->sums.sum && copy->sums.sum[chunk] != pin_chunk_sum(buf, len))
		return -ESTALE;
	copy->next = chunk + 1;
	rc = write_data(copy, buf, off, len);
	if (rc < 0)
		return rc;
	/* Starts the writing now, so that the sync at the end does not take all the time at once.
	 */
	sync_file_range(copy->to, (off_t)off, (off_t)len, SYNC_FILE_RANGE_WRITE);
	if (copy->progress && copy->progress(copy->arg, off + len, copy->size))
		return -ECANCELED;
	return 0;
}

static int copy_all(struct copy *copy)
{
	int rc;

	if (copy->sums.sum && copy->sums.size != copy->size)
		return -ESTALE;
	if (ftruncate(copy->to, (off_t)copy->size) < 0)
		return -errno;
	rc = pin_for_each_chunk(copy->from, copy->size, copy_chunk, copy);
	return rc < 0 ? rc : expect_holes(copy, copy->sums.count);
}

static int same_print(const struct pin_print *a, const struct pin_print *b)
{
	return a->size == b->size && a->mtime_ns == b->mtime_ns && a->sample == b->sample;
}

static int set_mtime(int fd, int64_t mtime_ns)
{
	struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, times_spec(mtime_ns)};

	return futimens(fd, times) < 0 ? -errno : 0;
}

/* The source has not changed while it was copied, and the copy will be recognised as the same. */
static int seal_copy(struct copy *copy, int store_fd, uint64_t id, const struct pin_print *before)
{
	struct pin_print print;
	int rc = pin_print_fd(copy->from, &print);

	if (rc == 0 && !same_print(&print, before))
		rc = -ESTALE;
	if (rc == 0)
		rc = set_mtime(copy->to, before->mtime_ns);
	if (rc == 0)
		rc = pin_print_fd(copy->to, &print);
	/* Another layout of holes than the source's can move samples; then the sums decide. */
	if (rc == 0 && !same_print(&print, before))
		rc = pin_sums_make(store_fd, id, copy->to, NULL, NULL);
	return rc;
}

static int copy_image(struct copy *copy, int store_fd, uint64_t id, const struct pin_print *want)
{
	struct pin_print before;
	int rc = pin_print_fd(copy->from, &before);

	if (rc < 0)
		return rc;
	if (want && !same_print(want, &before))
		return -ESTALE;
	copy->size = before.size;
	copy->to = pin_tmp_open(store_fd, id, "");
	if (copy->to < 0)
		return copy->to;
	rc = copy_all(copy);
	if (rc == 0)
		rc = seal_copy(copy, store_fd, id, &before);
	if (rc == 0)
		rc = pin_tmp_publish(store_fd, id, "", copy->to);
	if (rc < 0)
		pin_tmp_drop(store_fd, id, "");
	close(copy->to);
	return rc;
}

int pin_copy_same(int store_fd, uint64_t id, int source_fd, const struct pin_print *print,
	int (*progress)(void *arg, uint64_t done, uint64_t total), void *arg)
{
	struct copy copy = {.from = source_fd, .progress = progress, .arg = arg};
	int rc = pin_sums_load(store_fd, id, &copy.sums);

	if (rc == -EUCLEAN)
		log_warning(
			"checksums of golden image pin %" PRIu64 " are damaged and not used", id);
	rc = copy_image(&copy, store_fd, id, print);
	pin_sums_release(&copy.sums);
	return rc;
}

int pin_copy(int store_fd, uint64_t id, int source_fd,
	int (*progress)(void *arg, uint64_t done, uint64_t total), void *arg)
{
	return pin_copy_same(store_fd, id, source_fd, NULL, progress, arg);
}

/* The store's own file: only damage changes it. */
static int check_own(
	int store_fd, uint64_t id, int fd, const struct pin_print *want, const struct pin_print *is)
{
	int rc;

	if (is->size == want->size && is->sample == want->sample)
		return 0;
	rc = is->size == want->size ? pin_sums_verify(store_fd, id, fd) : -EUCLEAN;
	if (rc == 0)
		return 0;
	return rc == -ESTALE || rc == -ENOENT ? -EUCLEAN : rc;
}

/* Shared with IMAGES: anybody may have changed it while nothing was mounted. */
static int check_linked(
	int store_fd, uint64_t id, int fd, struct pin_print *want, const struct pin_print *is)
{
	int64_t seen = 0;
	struct stat st;
	int rc;

	if (fstat(fd, &st) < 0)
		return -errno;
	if (same_print(want, is) &&
		(pin_seen(store_fd, id, &seen) < 0 ||
			seen == (int64_t)st.st_ctim.tv_sec * 1000000000 + st.st_ctim.tv_nsec))
		return 0;
	if (want->size != is->size)
		return -ESTALE;
	log_info("golden image pin %" PRIu64 " was touched while not mounted, comparing it", id);
	rc = pin_sums_verify(store_fd, id, fd);
	if (rc == -ENOENT || rc == -EUCLEAN) {
		if (want->sample != is->sample)
			return -ESTALE;
		log_warning("golden image pin %" PRIu64
			    " was touched and has no checksums: its samples agree, more is not known",
			id);
		rc = 0;
	}
	if (rc == 0)
		*want = *is;
	return rc;
}

static int open_file(int store_fd, uint64_t id)
{
	const int mode = MUTATED("open a golden image for writing: its pin") ? O_RDWR : O_RDONLY;
	const int flags = mode | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY;
	char name[PIN_NAME_MAX];
	int fd;

	pin_name(name, id, "");
	fd = openat(store_fd, name, flags | O_NOATIME);
	if (fd < 0 && errno == EPERM)
		fd = openat(store_fd, name, flags);
	if (fd < 0)
		return -errno;
	fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);
	return fd;
}

int pin_open(int store_fd, uint64_t id, enum gf_pin_kind kind, struct pin_print *print,
	struct image **img)
{
	CLEANUP_CLOSE int fd = -1;
	struct pin_print is;
	int rc;

	if (kind != GF_PIN_REFLINK && kind != GF_PIN_LINK && kind != GF_PIN_COPY)
		return -EINVAL;
	fd = open_file(store_fd, id);
	if (fd < 0)
		return fd;
	rc = pin_print_fd(fd, &is);
	if (rc == 0 && kind == GF_PIN_LINK)
		rc = check_linked(store_fd, id, fd, print, &is);
	else if (rc == 0)
		rc = check_own(store_fd, id, fd, print, &is);
	if (rc == 0)
		rc = image_raw_new(img, fd);
	if (rc < 0)
		return rc;
	steal_fd(&fd);
	return 0;
}

void pin_drop_unfinished(int store_fd, uint64_t id)
{
	pin_tmp_drop(store_fd, id, "");
	pin_tmp_drop(store_fd, id, ".sums");
}

int pin_verify(int store_fd, uint64_t id, struct image *img)
{
	return pin_sums_verify(store_fd, id, image_raw_fd(img));
}

int pin_remove(int store_fd, uint64_t id)
{
	static const char *const suffixes[] = {"", ".sums", ".tmp", ".sums.tmp"};
	char name[PIN_NAME_MAX];
	size_t i;

	for (i = 0; i < ARRAY_SIZE(suffixes); i++) {
		pin_name(name, id, suffixes[i]);
		if (SITE("pin: remove its files", unlinkat(store_fd, name, 0)) < 0 && errno != ENOENT)
			return -errno;
	}
	return 0;
}
