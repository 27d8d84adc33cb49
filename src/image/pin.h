/* SPDX-License-Identifier: MIT */
/*
 * Pins: a golden image's bytes kept for its clones, whatever happens to the file in IMAGES.
 *
 * A pin is golden/ID in the store: a reflink where the file system can, else a hard link, else a
 * copy made in the background (enum gf_pin_kind). A hard link shares its bytes with the file in
 * the folder, so a writer who opens that in place would change them under the clones: the guard
 * (a read lease per linked pin, taken while mounted) holds such a writer off until the image is
 * copied or its clones are fenced, and a print (size, mtime, hash of content samples; not ctime,
 * which linking changes) tells at mount and open whether it happened while nobody watched.
 */
#ifndef GOLDFS_IMAGE_PIN_H
#define GOLDFS_IMAGE_PIN_H

#include <stdbool.h>
#include <stdint.h>

#include "goldfs/format.h"

struct image;

struct pin_print {
	uint64_t size;	 /* bytes */
	int64_t mtime_ns;
	uint64_t sample; /* hash over evenly spread blocks, first and last included */
};

/*
 * Computes the print of an open file: at most 600 KiB are read, whatever the size. 0 or -errno.
 *
 * The blocks are the first, the last, the one at 1 MiB (where partitions start), and from each of
 * 64 equal parts the first data, where it is not zeros; up to 256 KiB that is everything. Data is
 * what SEEK_DATA says, so a print is comparable only between files of equal hole layout: the same
 * file, a reflink of it, a copy that pin_copy() made. Take it while the guard watches the pin.
 */
int pin_print_fd(int fd, struct pin_print *print);

/*
 * Makes golden/ID in the store folder store_fd from the open image source_fd: reflink, else link,
 * else *kind = GF_PIN_COPYING and nothing is made yet (call pin_copy). Durable on return, and so is
 * the content of the image. What an earlier attempt left under this id is replaced.
 * -EBUSY: someone has the image open for writing, so it cannot be pinned yet. -ENOENT: it has been
 * deleted. A writer may come the moment this returns: add a linked pin to the guard (-EBUSY there
 * means the same), and only then take its print.
 */
int pin_make(int store_fd, uint64_t id, int source_fd, enum gf_pin_kind *kind);

/*
 * Copies the data of source_fd to golden/ID (by a temporary name, synced, renamed), calling
 * progress (may be NULL) with bytes done between pieces of 1 MiB; a non-zero return of it cancels
 * (-ECANCELED). Holes stay holes, and the modification time goes along, so the print of the source
 * is the print of the copy. When golden/ID.sums exists, every chunk has to agree with it.
 * -ESTALE: the content changed while it was copied, or is not what the sums say. 0 or -errno.
 */
int pin_copy(int store_fd, uint64_t id, int source_fd,
	int (*progress)(void *arg, uint64_t done, uint64_t total), void *arg);

/* As pin_copy(), but the source has to be what print says, before and after: -ESTALE. */
int pin_copy_same(int store_fd, uint64_t id, int source_fd, const struct pin_print *print,
	int (*progress)(void *arg, uint64_t done, uint64_t total), void *arg);

/*
 * Writes golden/ID.sums, a checksum per MiB of the open pin fd. Reads all of its data, past the
 * page cache where the kernel can: meant for a background thread, once per linked pin and while it
 * is guarded. progress as above. -ESTALE: the content changed meanwhile. 0 or -errno.
 */
int pin_sums_make(int store_fd, uint64_t id, int fd,
	int (*progress)(void *arg, uint64_t done, uint64_t total), void *arg);
/* Whether golden/ID.sums exists and is whole: 0, -ENOENT or another -errno. */
int pin_sums_exist(int store_fd, uint64_t id);

/* Reads all of an open pin and compares it with golden/ID.sums. 0, -ESTALE: it differs, -ENOENT:
 * there are none, -EUCLEAN: they are damaged, or another -errno. */
int pin_verify(int store_fd, uint64_t id, struct image *img);

/*
 * The time of change that linked pin ID had when its content was last known to be what it is; kept
 * with its sums, and before there are any. Whoever sets it has to know that nobody wrote since (the
 * guard stands). A hint: not synced. seen: -ENOENT when there is none.
 */
int pin_seen(int store_fd, uint64_t id, int64_t *ctime_ns);
int pin_seen_set(int store_fd, uint64_t id, uint64_t size, int64_t ctime_ns);

/*
 * Opens pin ID as an image. print is what it was when pinned.
 *
 * GF_PIN_LINK, -ESTALE: the bytes are not the same any more. An unchanged print is believed when
 * the time of change is the one seen last, too: that can be set by nobody, so a writer who puts the
 * mtime back is found out. A changed time alone, as touch or chmod leaves it, is no change: the
 * content decides, by all its chunks when there is golden/ID.sums (that reads the whole image once),
 * else by the samples, with a warning; *print gets the new mtime.
 * GF_PIN_REFLINK and GF_PIN_COPY are the store's own file, whose mtime means nothing: -EUCLEAN when
 * size or samples differ, which is damage.
 * -EINVAL: other kinds have no bytes here. -ENOENT: the pin is missing.
 */
int pin_open(int store_fd, uint64_t id, enum gf_pin_kind kind, struct pin_print *print,
	struct image **img);

/* Removes golden/ID and what belongs to it. A missing one is no error. Not synced. */
int pin_remove(int store_fd, uint64_t id);
/* Removes only what an interrupted pin_copy() or pin_sums_make() left. */
void pin_drop_unfinished(int store_fd, uint64_t id);

/*
 * The guard: watches linked pins and calls broken(arg, id) on its own thread when somebody wants
 * to write to one in place: opens it for writing (whatever the name) or truncates it. The kernel
 * holds that writer off until broken() returns, at most pin_guard_seconds(). broken() copies the
 * image (pin_guard_copy) or fences it; afterwards the guard has let go of the pin.
 *
 * An opener that does not want to wait (O_NONBLOCK, as touch does it; also NFS and SMB servers)
 * gets EWOULDBLOCK and has changed nothing: broken() is not called and the guard stays. In the
 * moment after that another opener may slip in; broken() is then called when he writes, after the
 * fact. chmod, utimes, rename and unlink do not concern the guard.
 *
 * Where the file system has no leases (NFS, SMB, a daemon that is neither root nor the owner) the
 * guard learns of writes on this machine by inotify only: broken() is called after the fact, and
 * for a bare change of the mtime (touch -m), which inotify shows as a write, too.
 */
struct pin_guard;
int pin_guard_new(struct pin_guard **guard, void (*broken)(void *arg, uint64_t id), void *arg);
/* fd is the open pin, lent until pin_guard_remove(). -EBUSY: a writer has it open already.
 * -EEXIST: it is guarded already. */
int pin_guard_add(struct pin_guard *guard, uint64_t id, int fd);
/* Whether a lease has kept all writers away since the pin was added. */
bool pin_guard_stands(struct pin_guard *guard, uint64_t id);
/* Unknown ids are no error. May be called by broken() itself. When it is called by another thread
 * while broken() runs for this id, it does not wait for that. */
void pin_guard_remove(struct pin_guard *guard, uint64_t id);
/* Waits for a broken() that is running. */
void pin_guard_free(struct pin_guard *guard);
/*
 * For broken() only: makes golden/ID a copy of the guarded pin, as pin_copy() does. print is what
 * it was when pinned. While the writer is still held off a changed mtime is no change (somebody
 * touched it), and *print gets the new one; when he is not, because the time is over or there are
 * no leases, the mtime has to be the same. -ESTALE: the bytes cannot be vouched for, so fence it.
 * -ENOENT: broken() is not running for this id.
 */
int pin_guard_copy(struct pin_guard *guard, int store_fd, uint64_t id, struct pin_print *print,
	int (*progress)(void *arg, uint64_t done, uint64_t total), void *arg);
/* How long broken() may take, with some reserve: the kernel's lease-break-time less 5, at most 40.
 * Breaks are handled one after the other and share that time; a copy that comes too late fails
 * with -ESTALE, so let progress give up when the time is over. */
unsigned pin_guard_seconds(void);

#endif
