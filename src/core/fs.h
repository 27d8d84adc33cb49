/* SPDX-License-Identifier: MIT */
/*
 * An open goldfs: the tree of files over one store and one folder of golden images.
 *
 * This is everything that lies above the store knows of it. It speaks in inode numbers, which are
 * persistent and serve as FUSE node ids; it keeps no file handles, so that a successor process can
 * go on where this one died. It checks no permissions (the kernel does, and service/authorise.c
 * for control requests) but it does refuse what the tree's rules forbid: reserved names, writes to
 * golden images, hard links.
 *
 * Threads: every function may be called by any number of threads at once unless it says otherwise.
 * Errors: 0 or a count, or a negative errno. Times are nanoseconds since 1970, sizes are bytes.
 *
 * Durability: a call that returned has put its change into the page cache of the file system
 * below, so it survives the death of this process; it survives power loss after fs_fsync() on the
 * file (data, size, and everything the name space did before), or fs_sync().
 */
#ifndef GOLDFS_CORE_FS_H
#define GOLDFS_CORE_FS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>

#include "base/io.h"
#include "base/latency.h"

struct fs;
struct folder;
struct image;
struct in_flight;

/* Numbers below FS_INO_FIRST are fixed; FUSE's own tree of virtual files uses 16 to 63. */
enum {
	FS_INO_ROOT = 1,
	FS_INO_GOLDEN = 2,
	FS_INO_SNAPSHOTS = 3,
	FS_INO_PROMOTED = 4, /* a folder that is not shown (promote.c) */
	FS_INO_VIRTUAL = 16, /* .goldfs; 17 and up are what it contains */
	FS_INO_FIRST = 64,
};

enum fs_dedup { FS_DEDUP_OFF, FS_DEDUP_GOLDEN, FS_DEDUP_ALL };

/* Where a folder's content is looked for, if not where the folder above says; see domain.c. */
enum fs_domain { FS_DOMAIN_INHERIT, FS_DOMAIN_OWN, FS_DOMAIN_SHARED };

struct fs_hooks {
	/* Content of ino changed behind the kernel's back: drop its cached pages. Any thread. */
	void (*invalidate)(void *arg, uint64_t ino);
	/* Whether the kernel holds ino, open or remembered: 1, 0, or a negative errno when it cannot
	 * be asked. May wait for requests to be served. NULL: unknown for ever. */
	int (*is_known)(void *arg, uint64_t ino);
	/* Keeps bytes for a successor of this process; urgent: also when there is hardly room. NULL:
	 * there will be none. */
	int (*keep)(void *arg, const void *bytes, size_t len, bool urgent);
	void *arg;
};

struct fs_options {
	uint64_t journal_size; /* for a new store; 0: a sixteenth of the file system, 16..256 MiB */
	uint64_t reserve;      /* bytes kept free below; 0: max of 32 MiB and 1 % */
	bool read_only;	       /* nothing in the store is written, the journal is replayed in memory */
	bool eager_chains;     /* what a chain of layers shows is remembered at once (tests) */
	bool no_background;    /* no threads: the caller destages by fs_settle() (tests) */
	/* Another process served this very mount before and died, nothing else happened since:
	 * files without names are still open, and what it did not sync is in the page cache. */
	bool takeover;
	const void *kept; /* all that hooks.keep was given, for as long as fs_open() takes */
	size_t kept_len;
	uint64_t connection; /* random number of the mount, 0: none */
	struct in_flight *in_flight; /* lent for the mount's life, zeros at its start; NULL: nobody takes over */
	bool verify_reads;
	bool accept_lost; /* go on where the journal is damaged, and lose what followed (repair) */
	enum fs_dedup dedup;
	uint64_t dedup_memory; /* bytes for the table of content; 0: 256 MiB */
	bool straight; /* tests: small writes go past the ring wherever they may (straight.c) */
	unsigned hash_bits; /* tests: content is known by so few bits of its hash; 0: by all */
	struct fs_hooks hooks;
	/*
	 * Where golden images come from. images is the live folder (may be NULL: no golden tree);
	 * store_fd the store's folder as a real directory, for pins. Tests with a simulated store
	 * set golden_test instead: it gives the image for a golden id (1, 2, ...), lent for ever.
	 */
	struct folder *images;
	int store_fd;
	struct image *(*golden_test)(void *arg, uint64_t id);
	void *golden_test_arg;
};

/*
 * Opens the store behind io, making it when the folder is empty, and recovers it. Takes ownership
 * of neither io nor images. The caller holds the store's lock (store/superblock.h).
 * -EPROTONOSUPPORT: newer format. -EUCLEAN: damage, named in the log. -EROFS: needs writing.
 */
int fs_open(struct fs **fs, struct io *io, const struct fs_options *options);
/* Destages, checkpoints and closes. 0, or the first error; fs is gone in both cases. */
int fs_close(struct fs *fs);
/* Closes without writing anything, as if the process had died (tests). */
void fs_abandon(struct fs *fs);

struct fs_attr {
	uint64_t ino;
	uint32_t mode; /* type and permissions */
	uint32_t nlink;
	uint32_t uid;
	uint32_t gid;
	uint64_t size;
	uint64_t blocks; /* of 512 bytes, as st_blocks */
	int64_t atime_ns;
	int64_t mtime_ns;
	int64_t ctime_ns;
	int64_t btime_ns;
};

/* Who makes something: owner of new files. */
struct fs_owner {
	uint32_t uid;
	uint32_t gid;
};

/*
 * References: a successful fs_lookup and every function that makes a file count one reference for
 * the kernel, as FUSE does; fs_forget() gives n back. An inode without a name lives as long as it
 * is referenced; a mount after a crash removes those that are left. A successor of a process that
 * died under a mount counts every inode as referenced until the kernel says otherwise (fs_tick()).
 */
int fs_lookup(struct fs *fs, uint64_t parent, const char *name, struct fs_attr *attr);
void fs_forget(struct fs *fs, uint64_t ino, uint64_t n);
int fs_getattr(struct fs *fs, uint64_t ino, struct fs_attr *attr);

enum fs_set {
	FS_SET_MODE = 1,
	FS_SET_UID = 2,
	FS_SET_GID = 4,
	FS_SET_SIZE = 8,
	FS_SET_ATIME = 16,
	FS_SET_MTIME = 32,
	FS_SET_CTIME = 64,
};
/* Sets what mask names from attr (the caller resolves "now"); attr then holds the result. */
int fs_setattr(struct fs *fs, uint64_t ino, unsigned mask, struct fs_attr *attr);

/* mode has S_IFREG or S_IFDIR; anything else is -EPERM. -EPERM also for reserved names. */
int fs_make(struct fs *fs, uint64_t parent, const char *name, uint32_t mode, struct fs_owner owner,
	struct fs_attr *attr);
int fs_symlink(struct fs *fs, uint64_t parent, const char *name, const char *target,
	struct fs_owner owner, struct fs_attr *attr);
/* The target, malloc'ed, owned by the caller. */
int fs_readlink(struct fs *fs, uint64_t ino, char **target);
int fs_unlink(struct fs *fs, uint64_t parent, const char *name);
int fs_rmdir(struct fs *fs, uint64_t parent, const char *name);
/* flags: RENAME_NOREPLACE, RENAME_EXCHANGE. */
int fs_rename(struct fs *fs, uint64_t parent, const char *name, uint64_t new_parent,
	const char *new_name, unsigned flags);

/*
 * Calls cb for each entry of a folder after cookie (0: from the start) in a stable order, without
 * "." and ".."; stops when cb returns non-zero. `next` continues after that entry. Takes no
 * references. In the root, golden and .snapshots are included, .goldfs is not.
 */
int fs_list(struct fs *fs, uint64_t ino, uint64_t cookie,
	int (*cb)(void *arg, const char *name, const struct fs_attr *attr, uint64_t next),
	void *arg);
/* The folder that holds ino (FS_INO_ROOT for the root itself), or -ESTALE without a name. */
int64_t fs_parent(struct fs *fs, uint64_t ino);
/* The path below the mount point, without a leading slash, malloc'ed. -ESTALE without a name. */
int fs_path(struct fs *fs, uint64_t ino, char **path);

/* user.* only: others are -EOPNOTSUPP. Values of at most 64 KiB. fs_getxattr and fs_listxattr
 * return the length, and copy when size is not 0 (-ERANGE when it is too small). */
ssize_t fs_getxattr(struct fs *fs, uint64_t ino, const char *name, void *value, size_t size);
ssize_t fs_listxattr(struct fs *fs, uint64_t ino, char *list, size_t size);
/* flags as setxattr(2). user.goldfs.* cannot be set: -EPERM. */
int fs_setxattr(struct fs *fs, uint64_t ino, const char *name, const void *value, size_t size,
	int flags);
int fs_removexattr(struct fs *fs, uint64_t ino, const char *name);

/* ---- requests that may come twice ---- */

/*
 * Says which request this thread is serving, until fs_request_end(), which is called when the
 * answer has been written. What it changes is recorded under that name, and when it is served
 * `again`, what is recorded is not done a second time (request.c). Requests nest: the inner counts.
 */
struct fs_request {
	uint64_t id[2]; /* a mount's random number and the kernel's of the request; or a client's */
	bool client;	/* of the control file: kept after it was answered */
	bool again;	/* may have been served before */
	bool recorded;
	struct fs_request *outer;
};

void fs_request_begin(struct fs *fs, struct fs_request *request);
void fs_request_end(struct fs *fs, struct fs_request *request);
/* Whether the request that this thread serves was carried out before; *result: what came of it. */
bool fs_request_is_done(struct fs *fs, uint64_t *result);
/* How many are remembered (tests). */
size_t fs_request_count(struct fs *fs, bool client);

/* ---- content ---- */

/*
 * Says that ino is open: what open(2) refuses is refused here (-EROFS for writing to golden or a
 * read-only mount, -ESTALE-fenced images -EIO). *keep_cache: what the kernel has cached of it is
 * still right. fs_open_file/fs_close_file pair up; reads and writes work without them too, for
 * files that were opened before a restart.
 */
int fs_open_file(struct fs *fs, uint64_t ino, int flags, bool *keep_cache);
void fs_close_file(struct fs *fs, uint64_t ino, int flags);

/* Returns bytes read: fewer than len only at the end of the file. */
ssize_t fs_read(struct fs *fs, uint64_t ino, void *buf, size_t len, uint64_t off);
/* Bytes of a golden image, lent to the kernel for an answer. */
struct fs_borrowed {
	const void *bytes; /* nobody but the kernel may look at them: they may be gone */
	size_t len;	   /* fewer than were asked for only at the end of the file */
	/* What follows is core/borrow.c's own. */
	uint64_t ino;
	uint64_t off;
	struct image *image;
	struct inode *golden; /* NULL: of a clone */
	unsigned token;
};
/*
 * As fs_read, without copying, where all that is asked for stands in one piece in a golden image and
 * is in the page cache. false: it does not, or there is nothing to read. Otherwise the same thread
 * gives it back soon; error is 0, or -errno that sending the answer ended with.
 */
bool fs_borrow(struct fs *fs, uint64_t ino, size_t len, uint64_t off, struct fs_borrowed *b);
void fs_give_back(struct fs *fs, struct fs_borrowed *b, int error);
/* Writes all or fails; grows the file when needed. Returns len. */
ssize_t fs_write(struct fs *fs, uint64_t ino, const void *buf, size_t len, uint64_t off);
/* After a write of len bytes to ino: ns by which its answer should be put off, since it comes faster than
 * what is written gets to its place. */
int64_t fs_write_pause(struct fs *fs, uint64_t ino, size_t len);
/* fallocate(2): mode of FALLOC_FL_KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE; others -EOPNOTSUPP. */
int fs_fallocate(struct fs *fs, uint64_t ino, int mode, uint64_t off, uint64_t len);
/* SEEK_DATA and SEEK_HOLE over everything merged. Returns the offset, -ENXIO past the end. */
int64_t fs_seek(struct fs *fs, uint64_t ino, uint64_t off, int whence);

/*
 * Makes what was written to ino durable, and the name space with it. done(arg, result) is called
 * exactly once, on this or another thread, perhaps before fs_fsync returns.
 */
void fs_fsync(struct fs *fs, uint64_t ino, void (*done)(void *arg, int result), void *arg);
/* All of the store's journal, waiting. */
int fs_sync(struct fs *fs);
/* What was recorded so far: names and the like, without the content of files. */
int fs_sync_journal(struct fs *fs);
/* The same for all but files that are read-only because the disk below failed. */
int fs_sync_others(struct fs *fs);
/*
 * Begins with the same, and waits for it no longer than some milliseconds, and not at all where the
 * last one took longer just now: a disk that is busy with what guests write may take a hundred.
 * Nothing that is recorded afterwards becomes durable before what was recorded until now. 0 also when
 * it is not done yet; an error then ends the journal.
 */
int fs_sync_soon(struct fs *fs);

/*
 * copy_file_range(2). task identifies the calling thread: a copy of a whole file from 0 to 0 into
 * an empty one becomes a clone under a bound that contiguous calls of the same task move.
 * Returns bytes copied, at most len.
 */
ssize_t fs_copy_range(struct fs *fs, uint64_t src, uint64_t src_off, uint64_t dst,
	uint64_t dst_off, size_t len, uint64_t task);

/* ---- clones ---- */

struct fs_clone_target {
	uint64_t parent;
	const char *name;
};

/*
 * Who may make targets[i], asked at the instant at which they are made, so that nobody can put
 * something else there after it was looked at: folder is what the parent is then, existing what is
 * to be replaced, NULL when there is nothing. Non-zero, a negative errno: nothing is made. It must
 * not call back into the file system.
 */
struct fs_clone_judge {
	int (*may)(void *arg, size_t i, const struct fs_attr *folder,
		const struct fs_attr *existing);
	void *arg;
};

/*
 * Makes count clones of ino (golden image, clone or snapshot) as one instant and one record: all
 * or none. Not yet durable: fs_sync(). With replace, existing files are replaced as by rename,
 * else -EEXIST with *failed set to the index. judge may be NULL. Takes no references.
 * -EMEDIUMTYPE: not a raw image, and not opaque (fs_golden_format says which).
 * -EBUSY: the image is open for writing. -ESTALE: another file has the image's name now. -EISDIR, -EINVAL: not something that can be cloned.
 */
int fs_clone(struct fs *fs, uint64_t ino, const struct fs_clone_target *targets, size_t count,
	struct fs_owner owner, uint32_t mode, bool replace, bool opaque,
	const struct fs_clone_judge *judge, size_t *failed);
/* "raw", "qcow2", ... of a golden image. */
const char *fs_golden_format(struct fs *fs, uint64_t ino);

/* ---- snapshots ---- */

/*
 * Takes a snapshot of each of these files, all of that name: one instant, one record, all or none, with
 * *failed the index of the one that could not be. Not yet durable: fs_sync_file(). -EEXIST: there is one
 * of that name. -EROFS, -EISDIR, -EINVAL: not a clone, or named twice. They lie in .snapshots, under the
 * path of their file.
 */
int fs_snapshot_create(struct fs *fs, const uint64_t *inos, size_t count, const char *name,
	size_t *failed);
/*
 * The file is what the snapshot is from now on. What it was is what the snapshot *kept shows, which is
 * made unless there is one, and called keep_as, or after the time if that is NULL. -EBUSY: it is open for writing, and not forced. -EXDEV: a snapshot of
 * another file. Who calls makes the kernel's pages go by opening the file.
 */
int fs_snapshot_rollback(struct fs *fs, uint64_t ino, uint64_t snapshot, bool force,
	const char *keep_as, uint64_t *kept);
/* All of them or none. What stood on one stands on what it stood on. -EINVAL: named twice. */
int fs_snapshot_delete(struct fs *fs, const uint64_t *inos, size_t count);
/* An automatic one is a named one then. */
int fs_snapshot_rename(struct fs *fs, uint64_t ino, const char *name);

struct fs_snapshot {
	uint64_t ino;
	uint64_t base; /* the one that it stands on, 0: none */
	bool automatic;
	bool current; /* the file stands on it */
	int64_t created_ns;
	char name[256];
};
/* The snapshots of a file, or those in its folder in .snapshots, the oldest first; malloc'ed. */
int fs_snapshot_list(struct fs *fs, uint64_t ino, struct fs_snapshot **list, size_t *count);
/* Removes a file as fs_unlink() does, and all its snapshots with it. */
int fs_unlink_snapshots(struct fs *fs, uint64_t parent, const char *name);
/*
 * The files are what the golden image is from now on, and what they were is kept as by a rollback: kept,
 * unless NULL, gets the number of the snapshot of each, 0 where there was nothing to keep. One record for
 * all of them. Errors as of fs_snapshot_rollback() and fs_clone().
 */
int fs_refresh(struct fs *fs, const uint64_t *inos, size_t count, uint64_t golden, bool force,
	bool opaque, const char *keep_as, uint64_t *kept, size_t *failed);
/* What fs_fsync() does, waiting. */
int fs_sync_file(struct fs *fs, uint64_t ino);

/* ---- promotion ---- */

/*
 * Makes a golden image of what a clone or a snapshot is now, with this path below IMAGES: durable and
 * to be cloned when it returns. rate: so many bytes a second are written at most, whoever does so; 0: no
 * limit. *promoted is its number until fs_promote_write() is done with it.
 * -EEXIST: there is something. -ENOENT, -ENOTDIR: its folder is not there. -EINVAL: no path of an image,
 * or the source is an image.
 */
int fs_promote(struct fs *fs, uint64_t ino, const char *path, uint64_t rate, uint64_t *promoted);
/* Whether it is one that is not written yet. */
bool fs_is_promotion(struct fs *fs, uint64_t ino);
/* Another rate, also while it is being written. */
int fs_promote_set_rate(struct fs *fs, uint64_t ino, uint64_t rate);
/* The next one above *ino that is not written yet, with its path (malloc'ed). -ENOENT: none. */
int fs_promotion_next(struct fs *fs, uint64_t *ino, char **path);
/*
 * Writes it into the folder of images as a sparse file, and lets go of it; to be called again after any
 * error, by this process or another, and then goes on where it was. progress is told bytes and stops it
 * by true: -ECANCELED. -EEXIST: somebody else put a file there.
 */
int fs_promote_write(struct fs *fs, uint64_t ino,
	bool (*progress)(void *arg, uint64_t done, uint64_t total), void *arg);
/* Gives it up. Clones of it stay. Nobody writes it just now. */
int fs_promote_undo(struct fs *fs, uint64_t ino);

/* Whether the content of a clone is looked for elsewhere, or why not: the mount has it off; its folder
 * does, or the clone; it is a copy of its own. */
enum fs_sharing { FS_SHARES, FS_SHARES_NOWHERE, FS_SHARES_OFF, FS_SHARES_APART };
enum fs_sharing fs_sharing(struct fs *fs, uint64_t ino);

/* ---- figures ---- */

enum fs_kind { FS_KIND_FOLDER, FS_KIND_GOLDEN, FS_KIND_CLONE, FS_KIND_SNAPSHOT, FS_KIND_SYMLINK };

/* interface.md, JSON, per file. */
struct fs_figures {
	uint64_t virtual_bytes;
	uint64_t data_bytes;
	uint64_t zero_bytes;
	uint64_t unique_bytes;
	uint64_t shared_golden_bytes;
	uint64_t shared_clone_bytes;
	uint64_t shared_snapshot_bytes;
	uint64_t shared_self_bytes;
	uint64_t pinned_golden_bytes;
};

struct fs_info {
	enum fs_kind kind;
	const char *mode;   /* "snapshot", "thin", "full"; "" when it does not apply */
	const char *format; /* "raw", ... */
	char *base;	    /* path of the golden image below the mount point, "" for none; malloc'ed */
	uint64_t snapshots;
	int64_t created_ns;
	const char *state; /* "ok", "damaged", "fenced", "copying", "read-only", ... */
	uint64_t limit_bytes; /* 0: none of its own */
	const char *dedup;    /* of folders and clones: "off", "golden", "all"; else "" */
	bool dedup_is_set;    /* by the file, or a folder above it */
	char *dedup_domain;   /* path of the folder, or clone, that is its domain, with a leading slash;
				 "": the common one; malloc'ed */
	char *reason;	   /* of a state that somebody should look at, NULL: none; malloc'ed */
	uint64_t damaged_bytes; /* known to be damaged; others may be */
	struct fs_figures figures;
};

#define FS_NOW INT64_MAX
/*
 * since_ns: the earliest moment of CLOCK_MONOTONIC at which what is told of sharing was true, not 0; what is
 * the file's own is of now. Who asks about many files names the moment when he began, or what they share is
 * counted anew for each while guests write.
 */
int fs_info(struct fs *fs, uint64_t ino, int64_t since_ns, struct fs_info *info);
void fs_info_release(struct fs_info *info);
/* What a file is, without counting anything. -ESTALE: it is gone; or what the images' folder answers. */
int fs_kind(struct fs *fs, uint64_t ino, enum fs_kind *kind);
/* What removing this set together frees, golden images that go with it included. */
int fs_if_removed(struct fs *fs, const uint64_t *inos, size_t count, uint64_t *bytes);

struct fs_store_figures {
	uint64_t virtual_bytes;
	uint64_t data_bytes;
	uint64_t unique_bytes;
	uint64_t pool_bytes;
	uint64_t golden_bytes;
	uint64_t journal_bytes;
	uint64_t metadata_bytes;
	uint64_t physical_bytes;
	uint64_t free_bytes;
	uint64_t saved_clone_bytes;
	uint64_t saved_dedup_bytes;
	uint64_t saved_zero_bytes;
	double ratio; /* data and zeros that clones show, per byte stored */
	uint64_t clones;
	uint64_t snapshots;
	const char *state; /* "ok", "80% full", "90% full", "95% full", "full", "read-only" */
};

int fs_store_figures(struct fs *fs, struct fs_store_figures *figures);

/*
 * Both for who asks every second. unique_bytes of a clone that shares no layer is what it is now;
 * what it shares may be older, or an estimate, because it is counted only as long as *budget_ns,
 * which several calls share and count down, is above 0. -ESTALE: ino is no clone.
 */
int fs_figures_quick(
	struct fs *fs, uint64_t ino, int64_t *budget_ns, struct fs_figures *figures);
int fs_store_figures_quick(
	struct fs *fs, int64_t *budget_ns, struct fs_store_figures *figures);

/* Counters since this process started; one table, rendered as JSON and as metrics. */
#define FS_COUNTERS(X) \
	X(read_ops, "Reads of clones and golden images") \
	X(read_bytes, "Bytes read from clones and golden images") \
	X(write_ops, "Writes to clones") \
	X(write_bytes, "Bytes written to clones") \
	X(large_write_bytes, "Bytes that went straight to layer files") \
	X(straight_writes, "Small writes that went to their place past the ring") \
	X(discard_bytes, "Bytes discarded or zeroed by range") \
	X(flushes, "Flush requests of clients") \
	X(journal_syncs, "Syncs of the journal, each serving one or more flushes") \
	X(journal_records, "Records appended to the journal") \
	X(journal_record_bytes, "Bytes appended to the journal") \
	X(destaged_blocks, "Blocks moved from the journal to their place") \
	X(zero_blocks, "Written blocks found to be all zero and not stored") \
	X(parent_blocks, "Written blocks found equal to what is below and not stored") \
	X(dedup_golden_blocks, "Written blocks found in a golden image and not stored") \
	X(dedup_pool_blocks, "Written blocks found in the pool or in another clone") \
	X(checkpoints, "Checkpoints of maps and catalog") \
	X(clones_made, "Clones made") \
	X(snapshots_made, "Snapshots taken, without those that rollback and refresh keep") \
	X(rollbacks, "Rollbacks to a snapshot, and refreshes") \
	X(checksum_errors, "Blocks found not to be what was written") \
	X(healed_blocks, "Blocks whose checksum was made true after a power loss") \
	X(errors, "Requests that failed because the store could not be read or written")

struct fs_counters {
#define X(name, help) uint64_t name;
	FS_COUNTERS(X)
#undef X
};
void fs_counters(struct fs *fs, struct fs_counters *counters);

/*
 * What clients asked of one clone since this process serves it; one table, rendered as JSON, as
 * metrics and by goldfs top. A name ends in its unit.
 */
#define FS_IO(X) \
	X(read_ops, "Reads of this clone") \
	X(read_bytes, "Bytes read from this clone") \
	X(read_ns, "Time that reads of this clone took, added up") \
	X(write_ops, "Writes to this clone") \
	X(write_bytes, "Bytes written to this clone") \
	X(write_ns, "Time that writes to this clone took, added up") \
	X(flush_ops, "Flushes of this clone") \
	X(flush_ns, "Time that flushes of this clone took, added up")

enum fs_io_kind { FS_IO_READ, FS_IO_WRITE, FS_IO_FLUSH, FS_IO_KINDS };

struct fs_io {
#define X(name, help) uint64_t name;
	FS_IO(X)
#undef X
	/* How many took how long (base/latency.h); each count begins anew at 2^32. */
	uint32_t latency[FS_IO_KINDS][LATENCY_BUCKETS];
};
/* False, and zeros: there was none. Costs nobody who reads or writes anything. */
bool fs_io(struct fs *fs, uint64_t ino, struct fs_io *io);

struct fs_statfs {
	uint64_t total_bytes;
	uint64_t free_bytes;
	uint64_t files;
};
int fs_statfs(struct fs *fs, struct fs_statfs *st);
/* As a file sees it: under the limits above it. */
int fs_statfs_of(struct fs *fs, uint64_t ino, struct fs_statfs *st);

/*
 * At most so many bytes of its own for all that lies below a folder, or for a file; 0: no limit.
 * Durable when it returns. Writes that would exceed it are -ENOSPC. -EPERM, -EROFS, -EINVAL: not
 * something that can have one.
 */
int fs_set_limit(struct fs *fs, uint64_t ino, uint64_t bytes);
/* The limit, 0: none, and how much of it is used. */
int fs_limit(struct fs *fs, uint64_t ino, uint64_t *bytes, uint64_t *used);

/*
 * Where the content of all that lies below a folder, or of a file, is looked for. NULL: as it is.
 * policy: FS_DEDUP_INHERIT or an enum fs_dedup, of which the mount's is the most. What is shared
 * already stays so. Durable when it returns. Errors as fs_set_limit().
 */
#define FS_DEDUP_INHERIT (-1)
int fs_set_dedup(struct fs *fs, uint64_t ino, const int *policy, const enum fs_domain *domain);

/* ---- another base, another mode ---- */

enum fs_mode { FS_MODE_SNAPSHOT, FS_MODE_THIN, FS_MODE_FULL };

struct fs_recast_options {
	/* Told bytes that were looked at; stops the work by true. May be NULL. */
	bool (*progress)(void *arg, uint64_t done, uint64_t total);
	/* Whether what is stopped is to go on some time later, instead of being undone. May be NULL. */
	bool (*is_put_off)(void *arg);
	void *arg;
	uint64_t rate; /* bytes per second that are copied at most; 0: no limit */
};

/*
 * The clone stands on another golden image and shows what it showed. What is equal to that image is
 * not kept any more, and of the image that it stood on nothing is needed. It may be open and written to.
 * What was begun and not finished goes on with a call for the same image. -EMEDIUMTYPE, -EBUSY, -ESTALE:
 * as fs_clone(), and -ESTALE when it was rolled back or refreshed meanwhile; -EALREADY: it is being changed
 * into something else; -ECANCELED: it was stopped, and is what it was; -EINTR: it was put off; -ENOSPC, -EIO:
 * what was done is undone.
 */
int fs_rebase(struct fs *fs, uint64_t ino, uint64_t golden, const struct fs_recast_options *options);
/* What the clones that are asked about with it would have given up, one after the other. NULL: out of memory;
 * owned by the caller. */
struct fs_gains;
struct fs_gains *fs_gains_new(void);
void fs_gains_free(struct fs_gains *gains);
/* About how many bytes that would give back, after those before it; below 0: take. Reads both, changes
 * nothing. */
int fs_rebase_gain(struct fs *fs, uint64_t ino, uint64_t golden, struct fs_gains *gains, int64_t *gain,
	const struct fs_recast_options *options);
/* The clone's mode becomes another one; errors as above. golden: where it is to stand, for
 * FS_MODE_SNAPSHOT only; 0: it stays where it is. */
int fs_convert(struct fs *fs, uint64_t ino, enum fs_mode mode, uint64_t golden,
	const struct fs_recast_options *options);
/* What would go on, of what was begun: 1 with the clone (0: none) and what it is ("rebase", "convert",
 * "fold"); 0: nothing. And one step of that. */
int fs_recast_owed(struct fs *fs, uint64_t *ino, const char **kind);
int fs_recast_go_on(struct fs *fs, const struct fs_recast_options *options);
/* Frozen layers on which a single other one stands become part of that, where that is worth it. */
int fs_fold(struct fs *fs, const struct fs_recast_options *options);

/* Looks for all content of these files, and of what they stand on, elsewhere, as fs_settle() does for
 * what was written lately, and settles. progress (may be NULL) is told bytes, and stops it by true.
 * -EOPNOTSUPP: dedup is off. -ENOSPC: some of what was found could not be shared for want of space. */
int fs_dedup(struct fs *fs, const uint64_t *inos, size_t count,
	bool (*progress)(void *arg, uint64_t done, uint64_t total), void *arg);
/* Destages and reclaims everything; figures are exact when it returns. */
int fs_settle(struct fs *fs);
/* The same until stopped() says yes, which is asked at least between checkpoints: -ECANCELED, and the rest is
 * left for next time. NULL: never. */
int fs_settle_until(struct fs *fs, bool (*stopped)(void *arg), void *arg);

/* After a takeover: all that the dead process was asked has been served. */
void fs_takeover_served(struct fs *fs);
/* Gives up removed files that the kernel has closed without our knowing. Call it every two seconds
 * or so from a thread that serves no request; it asks the kernel. */
void fs_tick(struct fs *fs);

/* What is done in the background that takes long, or was done last. */
struct fs_background {
	uint64_t serial; /* counts them, from 1 */
	const char *kind; /* "index" */
	char *path;	  /* what it concerns, below the mount point; malloc'ed, owned by the caller */
	uint64_t done_bytes;
	uint64_t total_bytes; /* 0: not known yet */
	bool running;
	int result; /* when it does not run: 0, or a negative errno */
};
/* 0, -ENOENT: nothing yet, or -ENOMEM. */
int fs_background(struct fs *fs, struct fs_background *work);
void fs_background_cancel(struct fs *fs, uint64_t serial);

/* 16 bytes. */
void fs_uuid(struct fs *fs, uint8_t uuid[16]);

/* Resolves names from the root: "golden/debian.img", "web1.img". Takes no reference. */
int fs_resolve(struct fs *fs, const char *path, uint64_t *ino);

#endif
