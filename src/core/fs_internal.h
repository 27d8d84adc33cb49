/* SPDX-License-Identifier: MIT */
/*
 * What the files of core share: the open file system, its inodes and golden images.
 *
 * Locks, in the order in which they are taken:
 *   (reserve room in the journal: may wait for the destager, so nothing below may be held)
 *   fs.tree      names, tables, layers' references. Shared for lookups, exclusive for changes
 *   inode.io     a file's content as a whole: shared for writes, exclusive for truncate and freeze
 *   fs.sharing   shared while a block may come to show what is below it
 *   layer.ranges blocks that are being changed
 *   fs.gate      shared from appending a record until all its effects stand in memory; exclusive
 *                for the checkpoint's picture, which so agrees with one point of the journal
 *   inode.lock   attributes of one inode
 *   layer.lock, then the locks inside the store
 *   fs.tables    the hash tables by number: a record is applied with the tree not locked when it
 *                concerns content only, and finds its layer and inode then
 *   fs.index_lock  which content indexes are open; taken last, with anything held
 * Readers of content take none of the upper ones: they enter fs.readers, and whatever they may
 * have found is not reused before they left.
 */
#ifndef GOLDFS_CORE_FS_INTERNAL_H
#define GOLDFS_CORE_FS_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <uthash.h>

#include "base/drain.h"
#include "base/hash.h"
#include "core/fs.h"
#include "core/in_flight.h"
#include "goldfs/format.h"
#include "image/image.h"
#include "image/pin.h"
#include "store/catalog_file.h"
#include "store/jindex.h"
#include "store/journal.h"
#include "store/layer.h"
#include "store/ops.h"
#include "store/superblock.h"

struct chain_cache;
struct content_index;
struct pin_progress;

struct xattr {
	char *name;
	uint8_t *value;
	size_t len;
	struct xattr *next;
};

/* The key of the table of names: the folder's number, then the name. */
struct name_key {
	uint64_t parent;
	char name[GF_NAME_MAX + 1];
};

struct inode {
	uint64_t ino;
	enum gf_inode_kind kind;
	uint64_t parent;       /* tree; 0: root, or no name */
	struct name_key *key;  /* tree; NULL without a name; shortened allocation */
	struct inode **children; /* tree; of a folder, sorted by ino */
	size_t child_count;    /* tree */
	size_t child_capacity; /* tree */
	size_t folder_count;   /* tree; children that are folders, for st_nlink */
	char *target;	       /* symbolic link, or a golden node's path; never changes */

	atomic_long lookups; /* references of the kernel; of an inherited one, since then */
	bool inherited;	     /* known before a takeover: how often it is referenced is not known */
	atomic_bool opened;  /* of an inherited one: since then */
	_Atomic int64_t looked_up_ns; /* of an inherited one: when last, CLOCK_MONOTONIC */
	atomic_int opens;
	atomic_int write_opens;

	pthread_rwlock_t io;
	_Atomic(struct layer *) layer; /* writable layer; changed with io held exclusively */
	_Atomic uint64_t size;	       /* bytes; grows with io shared, shrinks with it exclusive */
	_Atomic(struct io_stats *) io_stats; /* NULL: nobody asked anything of it yet */

	atomic_uint unsynced_writes; /* since the last sync (straight.c) */
	_Atomic int64_t synced_ns;   /* when; CLOCK_MONOTONIC; 0: never, or it tells nothing any more */
	atomic_bool straight;	     /* the last small write went past the ring */

	pthread_mutex_t lock;
	uint32_t mode; /* lock, as all below */
	uint32_t uid;
	uint32_t gid;
	int64_t atime_ns, mtime_ns, ctime_ns, btime_ns;
	struct xattr *xattrs;
	uint64_t last_parent; /* tree; of a file without a name: where it was */
	struct limit *limit;  /* tree; NULL: there never was one */
	uint8_t dedup_policy; /* tree; enum gf_dedup_policy */
	uint8_t dedup_domain; /* tree; enum gf_dedup_domain */
	/* Of a golden node: which file it stood for when it was last looked up. */
	uint64_t golden_dev, golden_node;
	/* Of a snapshot: the one that it stands on; of a file: its current position; 0: none. */
	uint64_t base;	   /* tree */
	bool automatic;	   /* tree; of a snapshot: nobody gave it a name */
	bool replaced;	   /* tree; the content was replaced by another once */
	atomic_bool stale; /* the kernel may have pages of content that was replaced */
	bool golden_stale; /* tree; another file has the path now */
	bool golden_left;  /* tree; clones left it, none is to share blocks with it */
	int64_t golden_mtime_ns;
	struct image *golden_image; /* lock; open while opens > 0 */

	_Atomic uint32_t copy_mode; /* enum gf_mode; changed with tree held exclusively */

	/* A copy by which this file grows (clone.c); changed with io held exclusively. */
	_Atomic uint64_t copy_task; /* thread that makes it, 0: none */
	uint64_t copy_from;	    /* inode it copies */
	uint64_t copy_end;	    /* what was copied so far, bytes */
	uint64_t copy_limit;	    /* that file's size when it was attached, bytes */
	uint64_t copy_bound;	    /* the bound of the whole */

	/* Blocks, from the last walk over shared layers (figures.c): fs.figures_lock; and from the one that
	 * is under way: fs.walk_lock. */
	struct walked_figures {
		uint64_t frozen_unique;	   /* in frozen layers, seen by this file only */
		uint64_t pool_unique;	   /* slots that only this file shows, each once */
		uint64_t pool_self;	   /* further blocks of it that stand in those */
		uint64_t pool_shared;	   /* blocks in slots that others show too */
		uint64_t pool_snapshot;	   /* and those that only others of its group show */
		uint64_t shared_clone;	   /* in frozen layers, seen by others too */
		uint64_t shared_snapshot;  /* seen by others of its group only */
		uint64_t golden;	   /* of the image, in regions that some layer touches */
		uint64_t golden_off;	   /* to be taken off it, and off what the whole image shows */
		int tail;		   /* class of a partial last block */
		/* What the file was when this was counted: it tells nothing of another. */
		uint64_t layer, parent, bound, size;
	} fig, counting;

	/* Blocks of the image that show, when they were counted last (figures.c). lock. */
	struct {
		bool valid;
		uint64_t golden;
		uint64_t limit;	 /* what image_limit() was */
		uint64_t change; /* what fs.change_count was */
		int64_t time_ns;
		int64_t cost_ns;
	} seen;

	UT_hash_handle by_ino;
	UT_hash_handle by_name;
	UT_hash_handle by_path; /* golden nodes */
};

/* A golden image that layers stand on. `image` is what they read; it lives as long as this. */
struct golden {
	struct image image; /* first: layers hold a pointer to it */
	struct fs *fs;
	uint64_t id;
	char *path;
	uint64_t dev, node; /* of the file in IMAGES when it was pinned */
	_Atomic uint32_t pin; /* enum gf_pin_kind */
	struct pin_print print;
	uint64_t refs; /* tree; layers that stand on it */
	_Atomic int64_t shared; /* SHARED blocks that refer to it, as far as they are counted */
	atomic_bool was_shared; /* a record in the ring may refer to it */
	_Atomic uint64_t idle_seq; /* the last record when nothing referred to it, 0: not so */
	uint64_t counted_refs; /* for assertions; with the gate closed */
	unsigned users; /* tree; calls that hold on to it beyond the lock */
	pthread_rwlock_t lock;
	struct image *backing; /* lock; opened when first read */
	atomic_int failed;     /* why it is not served, 0; set under lock */
	pthread_mutex_t sums_lock;
	uint64_t *data_sums;   /* sums_lock; blocks of data before each region */
	uint64_t data_regions; /* sums_lock */
	atomic_bool left; /* clones left it, none is to share blocks with it */
	bool worked;	       /* golden thread; looked at already */
	int64_t seen_ctime_ns; /* golden thread; kept in the store, see pin_seen_set() */
	/* What was found of data and holes last; found_lock. What is pinned does not change. */
	pthread_mutex_t found_lock;
	struct {
		const struct image *of; /* NULL: nothing yet */
		uint64_t from, start, end; /* bytes: the first data from `from` on is [start, end) */
	} found;
	pthread_mutex_t check_lock;
	struct golden_checks *checks; /* check_lock; sums, when reads are checked */
	bool no_sums;		      /* check_lock; there are none, when it was looked last */
	struct content_index *index;  /* fs.index_lock; NULL: it is not in fs.indexed */
	struct golden *index_next;    /* fs.index_lock */
	atomic_bool index_bad;	      /* it is to be made anew */
	atomic_bool gone;	      /* no layer stands on it any more */
	atomic_bool index_looked;     /* changed by the golden thread, as the next two; for the file */
	atomic_bool index_missing;
	atomic_uint index_tries;
	UT_hash_handle hh;
};

/* See limit.c. */
struct limit {
	uint64_t bytes;	   /* tree; 0: none */
	unsigned level;	   /* limit_lock; per cent that were warned about */
	_Atomic int64_t headroom; /* bytes that may be taken before usage is added up anew */
	_Atomic uint64_t epoch;	  /* of the fs, when that was done */
	uint64_t frozen_sum, frozen_exact, frozen_epoch; /* limit_lock */
	int64_t frozen_time_ns;
};
#define LIMIT_DEPTH 64 /* limits within each other that are looked at */

struct layer_entry {
	struct layer *layer;
	uint64_t id;
	UT_hash_handle hh;
};

/* Something whose files go once the record that dropped it is durable. */
struct dead {
	struct layer *layer; /* or NULL */
	struct golden *golden;
	uint64_t number; /* they go one after the other */
	struct dead *next;
};

/*
 * Slots of the pool to which a picture did not refer. A record that does may still be in the ring, and
 * what follows it there may be torn by the next loss of power: then its block is SHARED again. So they
 * are free when the tail has passed what there was when the picture was taken.
 */
struct dying {
	struct pool_dying *slots;
	uint64_t upto; /* the last record of the picture */
	struct dying *next;
};

struct examine_progress {
	bool (*cb)(void *arg, uint64_t done, uint64_t total);
	void *arg;
	/* Who settles and whoever makes a checkpoint meanwhile tell it. */
	_Atomic uint64_t done, total; /* bytes */
	atomic_bool stopped;
	bool full; /* the pool had no room for some of them */
};

/* Where the blocks of large writes are verified during recovery. */
struct commit_point {
	uint64_t layer;
	uint64_t upto;
	UT_hash_handle hh;
};

struct fs {
	struct io *io;
	struct fs_options options;
	struct superblock super; /* its feature bits: super_lock */
	pthread_mutex_t super_lock;
	struct journal *journal;
	struct jindex *jindex;
	struct pool *pool;
	struct chain_cache *chains; /* which layers own what, of long chains */
	struct dedup_state *dedup; /* dedup.c; NULL: nothing is looked for in pool and layers */
	struct domains *domains;   /* domain_slots.c */
	atomic_uint domain_count; /* inodes that say something of dedup; changed with tree exclusively */
	struct dying *dying; /* checkpoint_lock; slots that wait for the tail, the newest first */
	struct examine_progress *examine_progress; /* checkpoint_lock; NULL: nobody wants to know */
	atomic_bool examine_asked; /* somebody's fs_dedup() is under way */
	atomic_bool examine; /* the next checkpoint looks at unexamined regions */
	atomic_bool marks_lost; /* a process did not end cleanly: what it owed a look is not known */
	uint64_t examine_layer;	 /* checkpoint_lock; from here on */
	uint32_t examine_region; /* checkpoint_lock; of that layer */
	_Atomic uint64_t indexes_opened; /* counts content indexes that came to be known */
	atomic_bool golden_counting; /* not all references to golden images are counted yet */
	atomic_bool places_lost; /* nor can they be; that was told */
	struct layer_env env;
	struct drain readers;
	uint64_t reserve_bytes;	       /* kept back from clones */
	_Atomic uint64_t reserve_held; /* of it, in the file "reserve" */
	_Atomic uint64_t fresh_blocks; /* in the ring, and without a place in their layer yet */
	_Atomic uint64_t given_up;     /* changes whose space the next checkpoint gives back */
	atomic_bool giving_back;       /* a checkpoint is about to give space back */
	atomic_bool punches_due;       /* so are those that come after it */

	_Atomic unsigned tree_wanted; /* so many wait to change the tree */
	pthread_rwlock_t tree;
	pthread_rwlock_t tree_held; /* before tree; see tree_hold() */
	struct inode *inodes;	   /* tree, by_ino */
	struct inode *names;	   /* tree, by_name */
	struct inode *golden_nodes; /* tree, by_path */
	struct layer_entry *layers; /* tree */
	struct golden *goldens;	   /* tree */
	struct dead *dead;	   /* tree */
	uint64_t dead_count; /* tree; all there ever were */
	struct inode *root;
	uint64_t next_ino, next_layer; /* tree */
	_Atomic uint64_t next_golden; /* tree; read by a checkpoint with the gate closed only */
	uint64_t last_layer; /* tree; the highest id in the table so far */
	struct pin_guard *guard;

	pthread_rwlock_t tables; /* inodes, layers and goldens are changed with tree and this */
	/* Held shared while a block is compared with what is below and becomes PARENT, exclusively
	 * while blocks that nobody sees are looked for: before layer.ranges. */
	pthread_rwlock_t sharing;
	pthread_rwlock_t gate;
	uint64_t generation;   /* of the catalog; checkpoint only */
	uint64_t epoch;
	uint8_t boot[16];	/* what io says of the machine's life; 0: not known */
	uint8_t boot_found[16]; /* recovery: the last that wrote to the store */
	uint64_t lost_upto;	/* recovery: the last record that must be there; see journal_lost() */
	struct journal_mark tail; /* of the last checkpoint; checkpoint only */
	_Atomic uint64_t tail_seq; /* its number, for anybody */

	/* Background work. */
	pthread_mutex_t work_lock;
	pthread_cond_t work;	  /* something to do */
	pthread_mutex_t checkpoint_lock; /* one checkpoint at a time */
	pthread_t worker;
	atomic_bool worker_runs; /* work is done in the background */
	bool closing;	     /* the next checkpoint is the last */
	bool stopping;	     /* work_lock */
	atomic_bool wanted;  /* a checkpoint */
	bool reclaim_wanted; /* work_lock; the last process did not end cleanly */
	atomic_bool changed; /* records were appended since the last checkpoint began */
	atomic_int failed;   /* errno that made the store read-only, 0 */
	char failed_why[192]; /* work_lock; set before `failed` */
	atomic_int failed_layers;
	atomic_int recalls; /* layers whose destaged blocks are to be taken from the ring again */
	atomic_bool carrying;  /* the ring has records that every lap carries on */
	atomic_bool move_tail; /* somebody waits for the tail to pass a failed write */
	atomic_uint read_failures; /* that were answered with an error */
	size_t catalog_bytes;  /* checkpoint_lock; of the last picture */
	int picture_failed;    /* checkpoint_lock; why the last one came to nothing, 0 */
	int checkpoint_error;  /* checkpoint_lock; of the last one, to say it once */
	unsigned catalog_failures; /* checkpoint_lock; in a row */
	/* Bytes of large writes since the last sync of all; a small one counts as PLACED_SMALL at least. */
	_Atomic uint64_t large_pending;

	struct burial { /* bury.c */
		pthread_mutex_t lock; /* all below */
		pthread_cond_t work, done;
		pthread_t thread;
		bool runs, stopping;
		bool in_haste; /* the store is being closed */
		struct grave *first; /* the rest of */
		uint64_t handed_in, gone;
	} burial;

	struct syncer {
		pthread_t thread;
		bool runs;
		pthread_mutex_t lock;
		pthread_cond_t work, done;
		uint64_t asked, served; /* lock; numbers of those who asked */
		int result;		/* lock; of the last one */
		int64_t began_ns;	/* lock; the one that runs, CLOCK_MONOTONIC; 0: none does */
		int64_t slow_ns;	/* lock; when the last one ended, if that took long; 0: it did not */
		atomic_bool journal_asked; /* set without lock; that the journal be synced */
		bool stopping;		/* lock */
	} syncer; /* makes durable what nobody waits for (flush.c) */

	/* After a takeover (takeover.c). */
	atomic_bool names_owed;	  /* files in layer/ may have names that are not durable */
	atomic_bool resent_open;  /* requests that were sent again may not be served yet */
	atomic_bool orphans_left; /* inherited inodes may have lost their names */

	pthread_mutex_t requests_lock;
	struct request_entry *kernel_requests; /* requests_lock; recorded, not yet answered */
	struct request_entry *client_requests; /* requests_lock; the last ones */

	pthread_mutex_t pin_lock; /* before tree: one pin is made at a time */
	/* The thread that copies images and computes their sums. */
	pthread_t golden_thread;
	bool golden_runs;
	pthread_mutex_t golden_lock;
	pthread_cond_t golden_work;
	bool golden_wanted; /* golden_lock */
	atomic_bool golden_stopping;
	struct pin_progress *golden_progress; /* while it runs; NULL: none */
	const struct golden *golden_worked; /* golden thread; held while it is worked on, else NULL */
	/* What it does that takes long, and did last: fs_background(). */
	struct {
		uint64_t serial; /* golden_lock, as the others; 0: nothing yet */
		char *path;
		bool running;
		bool cancelled;
		int result;
	} background;
	pthread_rwlock_t index_lock; /* taken last; see golden_index.c */
	struct golden *indexed;	     /* index_lock; those with an open index, last asked first */

	/* Free space below, looked up at most every so often. */
	_Atomic uint64_t space_free;
	_Atomic uint64_t space_total;
	_Atomic int64_t space_time_ns;
	_Atomic unsigned space_level; /* per cent that were warned about, 0: none */
	pthread_mutex_t space_lock; /* one makes space, the others wait: before checkpoint_lock */

	pthread_mutex_t limit_lock; /* before tree: usage is added up by one at a time */
	uint64_t limit_stamp;	    /* limit_lock */
	atomic_uint limit_count;    /* inodes with a limit */
	_Atomic uint64_t limit_epoch; /* counts changes that make headrooms void */

	/* Figures of frozen layers are computed when wanted and kept until something changes. */
	pthread_mutex_t walk_lock; /* one walk at a time; before figures_lock */
	pthread_mutex_t figures_lock;
	/* Where a region's blocks are counted one by one (family_few.h); tests choose. */
	enum { FEW_WHERE_IT_PAYS, FEW_EVERYWHERE, FEW_NOWHERE } few;
	bool figures_wanted;	  /* figures_lock, as the next seven: somebody got old ones */
	bool figures_valid;
	bool figures_pool;	  /* the walk counted what stands in the pool, too */
	bool figures_failed;	  /* the last walk; what is known is of an earlier one, if there was any */
	uint64_t figures_count;	  /* change_count of the last walk */
	int64_t figures_start_ns;
	int64_t figures_time_ns; /* when it ended */
	int64_t figures_cost_ns;
	unsigned gave_way; /* walk_lock; walks in a row that came to nothing */
	_Atomic uint64_t change_count;

	pthread_mutex_t damage_lock;
	struct damage *damage;	     /* damage_lock; blocks found damaged */
	_Atomic unsigned damage_new; /* changed under damage_lock; not reported yet */
	struct found *found;	     /* recovery (found.c) */
	atomic_bool scrubbing;
	pthread_mutex_t place_lock;  /* before checkpoint_lock; who gives a layer places */
	pthread_mutex_t recast_lock; /* a leaf */
	struct recast_equal *recast_equal; /* recast_lock; of the two images that were compared last */
	unsigned recast_equal_users;	   /* recast_lock */
	bool heal_failed; /* worker; something suspect cannot be read */

	struct {
#define X(name, help) _Atomic uint64_t name;
		FS_COUNTERS(X)
#undef X
	} counters;
};

#define COUNT(fs, name, n) atomic_fetch_add_explicit(&(fs)->counters.name, (n), memory_order_relaxed)

struct dedup_state;

/* ---- tree.c: tables in memory ---- */

struct inode *tree_find(struct fs *fs, uint64_t ino);
struct inode *tree_find_name(struct fs *fs, uint64_t parent, const char *name, size_t len);
struct layer *tree_find_layer(struct fs *fs, uint64_t id);
/* The same with its `users` counted up, which the caller takes back. tree is not held. */
struct layer *layer_hold(struct fs *fs, uint64_t id);
/* The same for the layer with the lowest id above this one. */
struct layer *layer_hold_next(struct fs *fs, uint64_t id);
struct golden *tree_find_golden(struct fs *fs, uint64_t id);
/* Not yet linked to a name. */
struct inode *tree_new_inode(struct fs *fs, uint64_t ino, enum gf_inode_kind kind, uint32_t mode);
/* Whether the folders above lead to the root. */
bool tree_reaches_root(struct fs *fs, struct inode *inode);
int tree_link(struct fs *fs, struct inode *inode, uint64_t parent, const char *name, size_t len);
void tree_unlink(struct fs *fs, struct inode *inode);
/* Out of the tables, and its layer given up. */
void tree_drop_inode(struct fs *fs, struct inode *inode);
int tree_add_layer(struct fs *fs, uint64_t id, uint64_t parent, uint64_t golden, uint64_t bound);
void tree_layer_get(struct layer *layer);
/* One reference less; without any the layer dies, and what it stands on loses one. */
void tree_layer_put(struct fs *fs, struct layer *layer);
/* The ops RECAST and BASE, and the end of the former. */
int tree_recast(struct fs *fs, struct layer *layer, const struct gf_op_recast *op);
void tree_recast_end(struct fs *fs, struct layer *layer);
int tree_set_base(struct fs *fs, struct layer *layer, const struct gf_op_base *op);
/* Somebody stands on it again that clones had left. */
void tree_golden_used(struct fs *fs, struct golden *golden);
int tree_add_golden(struct fs *fs, const struct gf_op_golden *op);
/* For layers: the image of a golden id, NULL: there is none; and references of SHARED blocks. */
struct image *tree_golden_image(void *fs, uint64_t id);
void tree_golden_ref(void *fs, uint64_t id, int64_t count);
/* Buries images to which nothing refers any more. No lock is held. */
void tree_sweep_goldens(struct fs *fs);
/* Whether there are any, as far as references are counted; held: only such as somebody holds on to. */
bool tree_has_idle_golden(struct fs *fs, bool held);
/* Whether this is one, and no more than so many calls hold on to it. While references are counted it may
 * only look like one. tree held. */
bool tree_golden_is_idle(const struct golden *golden, unsigned holds);
void tree_free(struct fs *fs);
/* As fs_path(), with tree held. */
int tree_path(struct fs *fs, struct inode *inode, char **path);
static inline bool inode_is_file(const struct inode *inode)
{
	return S_ISREG(inode->mode) && inode->kind != GF_KIND_GOLDEN;
}

/* ---- invariants.c ---- */

/* Asserts that the tables agree with each other, and each changed layer with its blocks. Nothing
 * changes meanwhile. Nothing is left of it but in builds that assert. */
void catalog_assert(struct fs *fs);

/* ---- apply.c: what ops do ---- */

struct apply {
	uint64_t seq;
	uint64_t ops_pos;  /* ring position of the record's first op byte */
	bool meta;	   /* catalog effects */
	bool blocks;	   /* block effects */
	bool recalling;	   /* applied before: only where blocks stand counts */
	struct layer *only; /* recalling: no other layer's blocks */
	struct fs *fs;	   /* recalling */
	bool loading;	   /* from a catalog file: parents are linked afterwards */
	bool replaying;    /* recovery: large writes are verified */
	bool alive;	   /* the machine lives since the record: what was written is there */
	bool in_place;	   /* all that the record announces is, with its checksums (in_flight.h) */
	bool found;	   /* is_found() */
	const struct commit_point *commits;
};

/* Applies one record's ops. 0 or -errno; -EUCLEAN: they contradict what is there. */
int apply_ops(struct fs *fs, const void *ops, size_t len, const struct apply *how);
int apply_finish_loading(struct fs *fs);
/* Whether it is known that what an op of type GF_OP_LARGE or GF_OP_SHARE announces is there. */
bool apply_is_committed(const struct apply *how, const struct gf_disk_op *op);
/* The whole catalog as ops. The caller keeps it from changing. */
int catalog_serialize(struct fs *fs, struct opbuf *buf);

/* ---- request.c: requests that may come twice ---- */

/* Adds whose change buf is, when the thread serves a request: to be called for every change that
 * does something else the second time. result: what fs_request_is_done() is to say. */
int request_add(struct opbuf *buf, uint64_t result);
int request_apply(struct fs *fs, const struct gf_op_request *op, const struct apply *how);
int requests_serialize(struct fs *fs, struct opbuf *buf);
/* Those of the kernel that a dead process left. */
void requests_forget_found(struct fs *fs);
void requests_free(struct fs *fs);

/* ---- notes.c: to a successor ---- */
int note_ops(struct fs *fs, const struct opbuf *buf);
/* arg is the fs: for journal_set_failing(). All that takes the store with it comes there. */
void note_journal_failed(void *arg, int err);
void note_layer_failed(struct fs *fs, const struct layer *layer, int err, const char *why);
/* What the predecessor noted, after recovery. */
int notes_heed(struct fs *fs);

/* ---- takeover.c ---- */

/* After recovery: what there is may be referenced and unsynced without our knowing. */
void takeover_inherit(struct fs *fs);
void takeover_settle(struct fs *fs);
/* Counts a reference. tree held. */
void inode_looked_up(struct inode *inode);
static inline bool inode_is_referenced(const struct inode *inode)
{
	return inode->inherited || atomic_load(&inode->lookups) > 0;
}

/* ---- record.c: appending what was decided ---- */

/* Appends buf as one record and applies it. The caller holds what the ops need, and a reservation
 * of at least buf->len. *seq may be NULL. */
int record_commit(struct fs *fs, struct opbuf *buf, uint64_t *seq);
/* Room for about len bytes of ops; refuses when the store is read-only. >= 0: token. */
int64_t record_reserve(struct fs *fs, size_t len);
/* The same for records that end things or free space: they go on when the disk is full. */
int64_t record_reserve_urgent(struct fs *fs, size_t len);
int64_t now_ns(void);
/* The store is read-only from now on; whoever waits for it gets an error. err: negative errno. */
void fs_fail(struct fs *fs, int err);
/* The same with the reason, for the log and for people who ask. Returns err. */
int fs_fail_because(struct fs *fs, int err, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
/* 0, or -EROFS/-EIO when nothing may be written. */
int fs_writable(struct fs *fs);

/* A record that says only which epoch it is. The ring is empty, or the caller has reserved. */
int append_epoch(struct fs *fs);

/* ---- failing.c: when the disk below fails ---- */

/* An error of this process, not of the disk: trying again later is all that it takes. */
bool is_passing(int err);
/* The layer is not written any more. what: "write the data". Any lock may be held. */
void layer_fail(struct fs *fs, struct layer *layer, int err, const char *what);
/* It failed for an earlier process. */
void layer_stays_failed(struct fs *fs, struct layer *layer, int err, const char *why);
/* Checkpoint: a sync failed, or a write of pages. lost: bytes that are not in the ring may be
 * lost. true: it is tried once more with what the ring has; else the layer has failed. */
bool layer_trouble(struct fs *fs, struct layer *layer, int err, bool lost, const char *what);
/* Checkpoint, at its beginning: destaged blocks of those layers are journaled again. */
int failing_recall(struct fs *fs);
/* Sets state and reason when the store (layer NULL) or a file's layers have failed. */
void failing_state(struct fs *fs, const struct layer *layer, struct fs_info *info);
/* The layer of a chain that has failed, NULL: none. */
const struct layer *failing_layer(const struct layer *layer);

/* ---- carry.c: records that stay needed ---- */

/* How far the tail may move: *tail is lowered to before the first record that is needed and was
 * not copied to the ring's head, for want of room or because its number is not below copy_below.
 * Needs a settled head as *tail. The bytes of copies are added to *copied. Checkpoint only. */
int carry_over(struct fs *fs, uint64_t copy_below, struct journal_mark *tail, uint64_t *copied);
/* Makes blocks of the layer journaled again whose newest version is in the ring. */
int carry_recall(struct fs *fs, struct layer *layer);

/* ---- bury.c: files that nothing refers to any more ---- */

void bury_init(struct fs *fs);
/* Removes a file of the store, by its path in it, that nobody will make again: in the background where
 * there is one. Reports errors itself. */
void bury_file(struct fs *fs, const char *path);
bool bury_is_pending(struct fs *fs);
/* Returns when all that were handed in before are gone; true: there were any. */
bool bury_wait(struct fs *fs);
/* The same, as fast as it goes, without regard to others. */
void bury_finish(struct fs *fs);
/* Ends the thread and forgets the rest. Nobody waits any more. */
void bury_stop(struct fs *fs);

/* ---- space.c: space below ---- */

/* Before anything is written: the reserve, and the file that holds it. */
void space_start(struct fs *fs);
/* May len bytes of new data be taken? 0 or -ENOSPC. */
int space_check(struct fs *fs, uint64_t len);
/* Asks the file system below: its size, and what clones may still take, bytes. */
int space_look(struct fs *fs, uint64_t *total, uint64_t *left);
/* Whether so little is left that a write may fail half way: its blocks are to be got before. */
bool space_is_tight(struct fs *fs);
/* Something below was freed: the next check looks again. */
void space_given_back(struct fs *fs);
/* Gives back what was discarded or removed, by a checkpoint; below: files that are being removed are waited
 * for, too. False: there is nothing, or it failed. The caller holds no lock and no reservation. */
bool space_make(struct fs *fs, bool below);
/* As space_check(), and for a file, if it is not NULL, limit_check(): but has space made where there
 * is too little. 0 or -ENOSPC. The caller holds no lock and no reservation. */
int space_get(struct fs *fs, struct inode *inode, uint64_t bytes);
/* Checkpoint: empties the reserve's file, but for a third when it is for data; true: that gave some
 * space. Or fills it again. */
bool space_give_reserve(struct fs *fs, bool for_data);
void space_hold_reserve(struct fs *fs);
/* Checkpoint: bytes that it may take for blocks, so that maps and catalog find room as well. */
uint64_t space_for_blocks(struct fs *fs);
/* For people: the level of warning that stands, or "full" when so many bytes are left. */
const char *space_state(struct fs *fs, uint64_t left);
/* The level of warning, per cent, 0: none; level: the one before. Pure. */
unsigned space_level(unsigned level, uint64_t used, uint64_t total);

/* ---- names ---- */
void inode_attr(struct fs *fs, struct inode *inode, struct fs_attr *attr);
/* Whether name can be made in parent; -EEXIST when it is there. tree held. */
int names_can_make(struct fs *fs, uint64_t parent, const char *name);
int names_add_folder_times(struct fs *fs, struct opbuf *buf, uint64_t parent, int64_t time_ns);
bool name_is_reserved(uint64_t parent, const char *name);
int name_check(const char *name);
/* Ops that take a file's name away, and the file when nobody refers to it. */
int op_add_unlink(struct opbuf *buf, struct inode *inode);
/* The op that gives a file, whose layer this is or will be, a new size in bytes. */
int op_add_size(struct opbuf *buf, uint64_t ino, uint64_t layer, uint64_t size);
/* The op that gives an inode an extended attribute, or takes it away. */
int op_add_xattr(struct opbuf *buf, uint64_t ino, const char *name, const void *value, size_t size,
	bool remove);
/* Ops that make an inode of a new file. */
int op_add_inode(struct opbuf *buf, const struct fs_attr *attr, uint64_t parent, uint64_t layer,
	const char *name, const char *target, enum gf_inode_kind kind);

/* ---- snapshot.c: for records that replace what a file is ---- */

/* A record that makes snapshots, on its way: numbers given out so far, and the folders that it makes. */
struct snap_build {
	struct opbuf *buf;
	uint64_t next_ino;
	uint64_t next_layer;
	int64_t time_ns;
	struct snap_folder *made; /* malloc'ed */
	size_t made_count;
	struct snap_loss *losses; /* malloc'ed; folders that lose something, and how much */
	size_t loss_count;
	uint64_t needed; /* a folder that something comes to, 0: none */
};
/* tree held exclusively, until after the record. */
void snap_build_begin(struct fs *fs, struct snap_build *b, struct opbuf *buf);
void snap_build_end(struct snap_build *b);
/*
 * Adds ops that keep what the file is now as an automatic snapshot, if none shows it already; *ino is
 * the one that does. Its layer is frozen then, so the record must give it another one: go_on adds an
 * empty one over what it is, otherwise the caller's ops do it. tree and inode.io held exclusively;
 * fs_use_feature(GF_INCOMPAT_SNAPSHOTS) was called before. The position is the caller's to move.
 * name: what it is called, NULL: after the time.
 */
int snapshot_keep(struct fs *fs, struct snap_build *b, struct inode *inode, bool go_on,
	const char *name, uint64_t *ino);

/* ---- golden.c ---- */
int golden_lookup(struct fs *fs, struct inode *dir, const char *name, struct fs_attr *attr);
int golden_list(struct fs *fs, struct inode *dir, uint64_t cookie,
	int (*cb)(void *arg, const char *name, const struct fs_attr *attr, uint64_t next),
	void *arg);
int golden_getattr(struct fs *fs, struct inode *inode, struct fs_attr *attr);
/* keep_cache: for the kernel, see fs_open_file(); NULL: somebody else looks at the content. */
int golden_open(struct fs *fs, struct inode *inode, bool *keep_cache);
void golden_close(struct fs *fs, struct inode *inode);
ssize_t golden_read(struct fs *fs, struct inode *inode, void *buf, size_t len, uint64_t off);
/* For fs_borrow(), of b->golden; golden_give_back() ends what it holds. */
bool golden_borrow(struct fs *fs, size_t len, uint64_t off, struct fs_borrowed *b);
void golden_give_back(struct fs *fs, struct inode *inode);
int64_t golden_seek(struct fs *fs, struct inode *inode, uint64_t off, int whence);
/* The folder of the golden tree that holds this path. */
uint64_t golden_parent(struct fs *fs, const char *path);

/* ---- pins.c ---- */

/* What a clone of a golden image stands on. */
struct pinned {
	uint64_t id;
	uint64_t size;
	uint32_t mode;
	bool fresh; /* pinned just now: golden_pinned() must follow */
	struct image *backing;
};
/*
 * Finds the pin of a golden node's bytes, or makes one, whose op is added to buf. tree is
 * not held, fs.pin_lock is. -EMEDIUMTYPE: not raw, and not opaque. -EBUSY: somebody writes to it.
 */
int golden_pin(struct fs *fs, struct inode *inode, bool opaque, struct opbuf *buf,
	struct pinned *pinned);
/* Pins a golden node's bytes, with a record of their own, although nothing stands on them yet. */
int golden_keep(struct fs *fs, uint64_t ino, uint64_t *id);
/* A golden node, which stays as long as the caller has a reference, and the device of its file. */
int golden_device(struct fs *fs, uint64_t ino, struct inode **node, uint64_t *dev);
/* After the record, with tree held exclusively: keeps or undoes a fresh pin. */
void golden_pinned(struct fs *fs, struct pinned *pinned, int result);
/* Keeps it from being freed. NULL: there is none of this id. */
struct golden *golden_hold(struct fs *fs, uint64_t id);
void golden_hold_end(struct fs *fs, struct golden *golden);
/* Holds golden.lock for reading with the backing open, or returns an error without it. */
int golden_acquire(struct golden *golden);
/* The copy golden/ID is complete: the pin is that from now on. */
int golden_switch_to_copy(struct fs *fs, struct golden *golden);
/* The bytes are not what they were: no clone of it is served any more. */
void golden_fence(struct fs *fs, struct golden *golden, int why);

/* ---- golden_index.c ---- */

/*
 * Looks for a block with this hash in all images that are served. 1: block *block of image *id is
 * likely to be the same; the caller finds the image in the tables, where it may be missing by now,
 * and compares the bytes. 0: none that the layer may share with. Any lock may be held but
 * fs.index_lock and fs.golden_lock.
 */
int golden_index_find(struct fs *fs, const struct hash128 *hash, const struct layer *layer,
	uint64_t *id, uint64_t *block);
#define EXPECTED_AT_ONCE 16 /* as many misses of its caches a processor has under way */

/* Blocks of which one wants to know whether an image has them. */
struct golden_question {
	const uint8_t *data;
	const struct hash128 *hashes; /* 0: not known, perhaps, of a block of zeros */
	bool *may;		      /* for each block: it may */
	size_t count;
};
/* Clears may[] of blocks that the image does not have. Locks as above. */
void golden_index_rule_out(struct fs *fs, uint64_t id, const struct golden_question *q);
/* These are looked for next; see content_index_expect(). */
void golden_index_expect(struct fs *fs, const struct hash128 *hashes, size_t count);
/* Makes those that are missing, where no thread does (tests). */
int golden_index_make_all(struct fs *fs);
/* Opens the index of an image that is held, in place of the one that is open. 0, -ENOENT, -EUCLEAN,
 * or another -errno. */
int golden_index_open(struct fs *fs, struct golden *golden);
/* Makes one, and opens it, in the calling thread. */
int golden_index_make(struct fs *fs, struct golden *golden);
void golden_index_close(struct golden *golden);
/* Golden thread: whether it is to be looked for, or to be made. */
bool golden_index_is_due(struct fs *fs, struct golden *golden);
/* Removes the files. */
void golden_index_remove(struct fs *fs, uint64_t id);
/* Removes those of images that are not there, and what was not finished. Nothing else runs yet. */
void golden_index_sweep(struct fs *fs);

/* ---- pin_work.c: copies, sums and indexes of pins, in the background ---- */
int pin_work_start(struct fs *fs);
void pin_work_stop(struct fs *fs);
void pin_work_want(struct fs *fs);
int golden_init(struct golden *golden);
void golden_release(struct golden *golden);
int golden_start(struct fs *fs);
void golden_stop(struct fs *fs);

/* ---- below.c ---- */

/* Whole blocks [block, block + count) that are about to be stored. */
struct below {
	uint64_t block;
	size_t count;
	const uint8_t *data;
	const struct hash128 *hashes; /* 0: not known, perhaps, of a block of zeros */
	bool *may; /* set: that block may be the same as what is below the layer */
};
/* Clears may[] of those that are not. false: none may be the same. fs.sharing is held. */
bool below_may_be_same(struct fs *fs, struct layer *layer, const struct below *blocks);
/* Reads what stands below those that may be the same; to: room for all. As volume_read_blocks(). */
int below_read(struct fs *fs, struct layer *layer, const struct below *blocks, uint8_t *to);

/* ---- volume.c ---- */
enum {
	READ_BELOW = 1,	  /* what is under the layer */
	READ_CHECKED = 2, /* against checksums, also without -o verify=read */
	READ_HELD = 4,	  /* the caller holds the blocks' range in the layer */
};
/* Reads whole blocks of the merged view. -EUCLEAN: some of it is not what was written. */
int volume_read_blocks(struct fs *fs, struct layer *layer, void *buf, uint64_t block,
	uint64_t count, unsigned how);
/* What a client is told, and the log with it. No locks are held. */
int volume_error(struct fs *fs, int error);
/* What a client is told of a read that failed with r, and a word in the log for who looks after the
 * disk. No locks are held. */
int volume_read_failed(struct fs *fs, uint64_t ino, size_t len, uint64_t off, int r);
/* The inode when it is a file with content, else NULL and *error. */
struct inode *volume_find(struct fs *fs, uint64_t ino, int *error);
/* 0, or -EIO: what the disk below did to the file's layer (failing.c). Under the range of what is
 * to be changed, so that it cannot be taken back meanwhile. */
int volume_writable(struct inode *inode);
int volume_truncate(struct fs *fs, struct inode *inode, uint64_t size);
/*
 * Blocks of a layer go elsewhere without changing what they show: data is that, and each becomes what
 * its kind says (enum gf_state). SHARED ones stand at their place, of which the layer has a reference
 * for this, or did when it failed. share: those to be stored are looked for elsewhere first. As a large
 * write, with a record; the caller holds room for that of volume_rewrite_room(), fs.sharing shared, and
 * the blocks' range.
 */
struct rewrite {
	struct layer *layer;
	uint64_t block, count;
	const uint8_t *data;
	const uint8_t *kinds;
	const uint64_t *places;
	bool share;
};
int volume_rewrite(struct fs *fs, const struct rewrite *rewrite);
size_t volume_rewrite_room(uint64_t count);

/* ---- open.c ---- */
/* From now on older versions refuse the store: it is about to have something that they do not know.
 * Durable when it returns 0. No lock is held. */
int fs_use_feature(struct fs *fs, uint64_t incompat);
/* Files in layer/ that belong to no layer. */
void remove_orphan_files(struct fs *fs);

/* ---- verify.c: checked reading, and what it finds ---- */

/*
 * Compares what was read of an extent with its checksums, without image extents (those are checked
 * where they are read). Returns how many blocks agree from the first on: fewer than all when the
 * next one stands elsewhere by now. -EUCLEAN: the next one is damaged, which has been noted.
 */
int64_t verify_extent(struct fs *fs, const struct extent *x, void *buf, uint64_t block, bool held);
/* Whether a SHARED block has its bytes where it stands. SHARED_MOVED: it is not SHARED any more, or
 * its newest version is in the journal. */
enum shared_verdict { SHARED_RIGHT, SHARED_LOST, SHARED_DAMAGED, SHARED_MOVED };
enum shared_verdict shared_judge(struct fs *fs, struct layer *layer, uint64_t block);
/* Whether the file shows any of the blocks in so many places from this one on as SHARED ones. tree is
 * held. */
bool inode_shows_place(struct inode *inode, uint64_t place, uint64_t count);
/* The bytes that stand in a place, one block. */
int shared_read(struct fs *fs, uint64_t place, uint8_t bytes[GF_BLOCK_SIZE]);
/* A damaged block was met; damage_report() tells the log. Any lock may be held. */
void damage_note(struct fs *fs, uint64_t owner, uint64_t block);
/* Of a golden image, instead of a layer's id. */
#define DAMAGE_GOLDEN (UINT64_C(1) << 63)
/* Names what was noted since the last call. No locks are held. */
void damage_report(struct fs *fs);
/* Looks again at what was noted and forgets what is right by now. No locks are held. */
void damage_recheck(struct fs *fs);
/* Noted blocks that this file shows. tree is held. */
uint64_t damage_count(struct fs *fs, struct inode *inode);
void damage_free(struct fs *fs);

/* ---- golden_verify.c ---- */

/* Compares what was read of a pinned image with its sums, when there are any. -EUCLEAN: damaged. */
int golden_check(struct golden *golden, const void *buf, size_t len, uint64_t off);
/* Whether what was noted about this block is still so. */
bool golden_is_damaged(struct fs *fs, uint64_t id, uint64_t block);
void golden_check_release(struct golden *golden);
/* There may be sums now. */
void golden_sums_made(struct golden *golden);

/* ---- found.c: what recovery found of blocks in place; nobody writes meanwhile ---- */

/* Whether it is known of all of them whether what is there is what was announced, and whether it is zeros. */
bool found_tells(struct fs *fs, const struct layer *layer, uint64_t block, const uint32_t *sums,
	uint32_t count, bool *there, bool *empty);
/* One block was read; again: and written once more, because it was what was announced. */
void found_note(struct fs *fs, struct layer *layer, uint64_t block, uint32_t sum, bool again, bool empty);
/* An uncommitted announcement touched them and does not explain what is there; a later one does. -ENOMEM. */
int found_doubt(struct fs *fs, struct layer *layer, uint64_t block, uint64_t count);
void found_explained(struct fs *fs, const struct layer *layer, uint64_t block, uint64_t count);
/* Ends what is still in doubt, unless `r` is an error already, and forgets all. Returns the first error. */
int found_end(struct fs *fs, int r);

/* ---- read_ahead.c: the disk is asked for what recovery will read ---- */

struct read_ahead {
	struct fs *fs;
	const struct commit_point *commits;
	struct journal_mark next; /* behind the records that were looked at */
	struct ahead_piece {
		uint64_t layer, block;
		uint64_t count;
		bool committed; /* its bytes are not read */
	} *pieces; /* of those records */
	size_t count, capacity;
	uint64_t blocks;
};

/* Record `seq` is replayed next; the ring is as it was scanned. */
void read_ahead(struct read_ahead *ahead, uint64_t seq);
void read_ahead_release(struct read_ahead *ahead);

/* ---- heal.c: blocks that are old or new after a power loss ---- */

/* The checksum of a block in doubt becomes that of what is there. */
int doubt_end(struct fs *fs, struct layer *layer, uint64_t block);
/* Regions with intent marks become suspect: power may have been lost. */
int suspect_marked(struct fs *fs);
/* Recovery: whether nothing can have been lost between what was replayed so far and this life of
 * the machine, synced or not: then every block in place is explained by an announcement. */
bool is_same_boot(const struct fs *fs, const uint8_t boot[16]);
/* Whether what record seq announces was found by a mount, rather than written under it. */
bool is_found(const struct fs *fs, uint64_t seq);
/* Makes all checksums of a region true that may be old, which then is not suspect any more. */
int heal_region(struct fs *fs, struct layer *layer, uint32_t region);
/* Does so for one suspect region. false: there is none left to do. */
bool heal_some(struct fs *fs);

/* ---- limit.c ---- */
/* May the file take len bytes more? -ENOSPC. anew: after adding up what is used, and holding no
 * lock; else only as far as is known. */
int limit_check(struct fs *fs, struct inode *inode, uint64_t len, bool anew);
/* Files moved, or layers froze. */
void limit_void(struct fs *fs);
int limit_apply(struct fs *fs, struct inode *inode, uint64_t bytes);
void limit_release(struct fs *fs, struct inode *inode);

/* ---- undo.c ---- */
/* A write that failed after its record. */
struct undo {
	struct layer *layer;
	uint64_t seq;			 /* its record */
	uint64_t block, end;		 /* its blocks */
	uint64_t large_first, large_last;   /* those that went to their place */
	uint64_t ino, grown, size;	    /* its file, as long as the record says, and as it is */
};
/* Says again what the blocks and the file are, or has those who sync wait until no recovery sees the write's
 * record. The caller holds the blocks' range and the gate. */
void undo_large(struct fs *fs, const struct undo *undo);

/* ---- checkpoint.c ---- */
/* One of all that is in the journal. 0 or -errno; what it gives up comes back in the background. */
int checkpoint_make(struct fs *fs);
/* The same, and holes are punched when it returns. */
int checkpoint_run(struct fs *fs);
/* Whether another one would give space back that this one could not yet. */
bool checkpoint_is_owed(struct fs *fs);
int checkpoint_start(struct fs *fs);
void checkpoint_stop(struct fs *fs);
void checkpoint_want(struct fs *fs);
/* Gives back what takes space in data files although nothing refers to it. */
void checkpoint_reclaim(struct fs *fs);
/* Finds a layer and keeps it from being freed, until layer.users is counted down. */
struct layer *layer_hold(struct fs *fs, uint64_t id);
void checkpoint_pressure(void *fs);

/* The tree for changing it. Who only counts gives way. Nobody else finds a file meanwhile, so what would
 * hold the record of the change up is waited for before. */
static inline void tree_lock(struct fs *fs)
{
	if (atomic_load(&fs->worker_runs))
		journal_await(fs->journal);
	atomic_fetch_add(&fs->tree_wanted, 1);
	pthread_rwlock_wrlock(&fs->tree_held);
	atomic_fetch_sub(&fs->tree_wanted, 1);
	pthread_rwlock_wrlock(&fs->tree);
	pthread_rwlock_unlock(&fs->tree_held);
}

/*
 * As good as the tree shared, for those who need it for long. Who wants to change it waits for them as
 * well, but not in the queue of the tree itself, where every request of a guest would wait behind him.
 * The tree must not be held already.
 */
static inline void tree_hold(struct fs *fs)
{
	pthread_rwlock_rdlock(&fs->tree_held);
	/* Whoever was let through before is done then. */
	pthread_rwlock_rdlock(&fs->tree);
	pthread_rwlock_unlock(&fs->tree);
}

static inline void tree_let(struct fs *fs)
{
	pthread_rwlock_unlock(&fs->tree_held);
}

/* ---- figures.c ---- */
/* What removing these files frees, without golden images. The numbers are sorted on the way. */
int figures_freed(struct fs *fs, const uint64_t *inos, size_t count, uint64_t *bytes);
uint64_t figures_blocks(struct fs *fs, struct inode *inode);
/* Blocks went elsewhere, without a record that says so: what was kept is not right any more. */
void figures_changed(struct fs *fs);
/* From now on even those who take what was kept a moment ago get the truth. */
void figures_renew(struct fs *fs);
/* Makes them new when somebody was content with old ones; now and then. */
void figures_tick(struct fs *fs);
/* Gives up blocks of frozen layers that no file sees any more, in memory. tree is held shared,
 * sharing exclusively, until that is durable. */
struct forgotten {
	struct forgotten_block {
		struct layer *layer;
		uint64_t block;
		uint64_t place; /* where it was SHARED; 0: it was OVERLAY */
	} *blocks; /* malloc'ed, owned by the caller */
	size_t count;
	size_t capacity;
	uint64_t tail; /* of the ring: what a crash replays begins there */
};
int figures_free_unseen(struct fs *fs, struct forgotten *forgotten);
/* It is durable: what they referred to is given up, too. */
void figures_forgotten(struct forgotten *forgotten);
/* Takes it back, when that could not be made durable. */
void figures_remember(struct fs *fs, struct forgotten *forgotten);

/* ---- carried.c ---- */

struct carried {
	uint64_t origin; /* number of the record that it is a copy of */
	uint64_t seq;
	uint64_t pos; /* of its ops in the ring */
	size_t len;
};

/* All zero: empty. */
struct carried_list {
	struct carried *list;
	size_t count;
	size_t capacity;
};

/* The number of the record that this one is a copy of; 0: it is none. */
uint64_t carried_origin(const void *ops, size_t len);
/* Adds the record when it is a copy. 0 or -ENOMEM. */
int carried_note(struct carried_list *list, uint64_t seq, uint64_t ops_pos, const void *ops,
	size_t len);
/* Applies the copies that count while the tail is at tail_seq. 0 or -errno. */
int carried_apply(struct fs *fs, struct carried_list *list, uint64_t tail_seq,
	const struct apply *how);
void carried_release(struct carried_list *list);

/* ---- io_stats.c: what clients ask of a clone ---- */

/* Counts a read or a write that began at start_ns (CLOCK_MONOTONIC); result: bytes, or an error. */
void io_stats_note(struct inode *inode, enum fs_io_kind kind, int64_t start_ns, ssize_t result);
/* A flush begins: io_flush_done(what this returns) counts it, and calls done, in done's place. NULL,
 * without memory: it is not counted. tree held, or the inode referenced. */
struct io_flush *io_flush_begin(
	struct inode *inode, void (*done)(void *arg, int result), void *arg);
void io_flush_done(void *flush, int result);
void io_stats_release(struct inode *inode);

/* ---- straight.c ---- */

/* A write to the file begins. */
void straight_note(struct inode *inode);
/* Somebody asked for the file to be durable. */
void straight_synced(struct inode *inode);
/* Whether a small write that begins at that whole block is better carried out as a large one. */
bool straight_suits(struct fs *fs, struct inode *inode, struct layer *layer, uint64_t block);

/* ---- flush.c ---- */

/* Has the journal synced behind the caller, some time soon; without the syncer nothing is done. */
void sync_journal_soon(struct fs *fs);
int syncer_start(struct fs *fs);
void syncer_stop(struct fs *fs);
/* Makes large writes of the layer, which is held, durable and committed. */
int flush_layer(struct fs *fs, struct layer *layer);
/* The same of all layers below one that is held. -ESTALE: it is gone. */
int flush_below(struct fs *fs, struct layer *layer);
/* Makes durable what recovery found in place of uncommitted large writes to the file's layer. What
 * was read after a power loss must not be lost to the next one because something newer that went
 * over it was torn. */
int flush_recovered(struct fs *fs, struct inode *inode);
/* The same for one layer, which is held. */
int flush_recovered_layer(struct fs *fs, struct layer *layer);

#endif
