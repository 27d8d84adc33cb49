/* SPDX-License-Identifier: MIT */
/*
 * Layers: who owns a block.
 *
 * A layer is a writable or frozen overlay over another layer or over a golden image. For every
 * block it knows a state (enum gf_state), kept in regions of 8192 blocks that are loaded from the
 * map file when first touched, and whether the newest version of the block is still in the
 * journal. The bytes of OVERLAY blocks stand in the layer's data file at the block's own offset.
 *
 * What protects what: `lock` covers regions, counters and descriptors. Whoever changes blocks
 * holds their range in `ranges` from before it looks at them until the new state is set, so that
 * writers, the destager and hole punching never act on the same block at once. Readers take no
 * range: they resolve under `lock`, read, and are waited for (base/drain.h) before a place that
 * they may have found is reused. A frozen layer's blocks never change in content; destaging only
 * moves them from the journal to the data file.
 *
 * A SHARED block stands in the pool or in a golden image; the runs of its region say where. One that
 * is in no run has lost its content to damage. Each block of a run counts as one reference to its
 * place (layer_shared.c).
 *
 * Invariants (layer_assert(); tests/unit/test_layer.c counts them after from nothing):
 *   owned_blocks   = blocks that are OVERLAY or journaled
 *   overlay_blocks = blocks whose state is OVERLAY
 *   a journaled block has an entry in the journal index, and no other block of the layer has
 *   a page on disk says OVERLAY only for blocks whose bytes were synced before
 */
#ifndef GOLDFS_STORE_LAYER_H
#define GOLDFS_STORE_LAYER_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include <uthash.h>

#include "base/io.h"
#include "base/portion.h"
#include "base/rangelock.h"
#include "goldfs/format.h"
#include "store/jindex.h"

struct chain_cache;
struct image;
struct pool;
struct region;
struct page_write;

/* What all layers of a store share. */
struct layer_env {
	struct io *io;
	struct jindex *jindex;
	const uint8_t *secret;
	/* Files of any layer may have been made by somebody who did not sync the folder. May be
	 * NULL. Cleared by whoever does. */
	atomic_bool *names_owed;
	_Atomic uint64_t *fresh;    /* blocks of all layers that are journaled and not OVERLAY */
	_Atomic uint64_t *given_up; /* counts up when blocks are noted to be punched */
	struct chain_cache *chains; /* which layer owns what, see chain.h; NULL: it is looked up */

	/* For SHARED blocks; all NULL: there are none but lost ones. */
	struct pool *pool;
	struct image *(*golden)(void *arg, uint64_t id);	       /* NULL: there is none */
	void (*golden_ref)(void *arg, uint64_t id, int64_t count); /* so many references more */
	void *arg;
};

/* A large write on its way: its announcement is in the journal, its bytes may not be in place. */
struct large_ticket {
	uint64_t lower; /* its record's number is at least this */
	struct large_ticket *next;
};

/* What a block's checksum is, where the file that will say so cannot be written. */
struct sum_note {
	uint64_t block;
	uint32_t sum;
	UT_hash_handle hh;
};

/* A large write that is in the journal and not, or not wholly, in place. */
struct large_failure {
	uint64_t seq;
	bool verify;	/* recovery found some of its blocks: their checksums tell which */
	uint64_t block; /* those that were to be SHARED, and that it did not find */
	uint64_t count;
	struct large_failure *next;
};

/* As the catalog has them. */
struct page_name {
	uint32_t region;
	uint32_t generation;
};

struct page_list {
	struct page_name *names;
	size_t count, capacity;
};

struct punch {
	uint64_t block;
	uint64_t count;
	struct punch *next;
};

/* Why the layer is being recast (core/recast.h). */
struct layer_recast {
	uint32_t kind;	 /* enum gf_recast_kind */
	uint64_t ino;	 /* for which file, 0: none */
	uint64_t golden; /* the new base, of which this is a reference; 0: another one */
	uint64_t rate;	 /* bytes per second at most, 0: no limit */
};

struct golden_use {
	uint64_t golden; /* id */
	uint64_t blocks;
};

/* The intent mark of a new layer: all of its regions, until a checkpoint finds that nobody relied on it; else
 * for one more, from which on it is remembered which regions are relied on. */
enum whole_mark { WHOLE_NOT, WHOLE_NEW, WHOLE_USED, WHOLE_KEPT };

struct layer {
	const struct layer_env *env;
	uint64_t id;
	/* What it stands on: changed by layer_set_base(), with the catalog's lock and `lock` held, and
	 * so that readers who found the old one are waited for before that is freed. */
	struct layer *parent; /* below; NULL: image or nothing */
	struct image *image;  /* below, when parent is NULL; lent */
	uint64_t golden;      /* its id, 0 for none */
	_Atomic uint64_t bound; /* bytes of what is below that show through */
	uint32_t refs;	      /* of the catalog: heads and layers above; catalog lock */
	uint32_t counted_refs; /* for assertions; with all of the catalog at rest */
	uint64_t limit_stamp; /* of whoever adds up usage last */
	uint64_t head_of;     /* inode that writes to it, 0: frozen; catalog lock */
	/* Where its content may be looked for and found (core/domain.c); changed under the catalog lock. */
	_Atomic uint64_t domain;
	_Atomic uint8_t dedup;	  /* enum fs_dedup, counted down from the most */
	atomic_bool domain_moved; /* what it shows of the pool is not known to be of that domain */
	uint64_t next_domain;	  /* catalog lock, as the next two: while all are found anew */
	uint8_t next_dedup;
	bool placed;
	/* Why and how it is being recast (core/recast.h). */
	struct layer_recast recast; /* catalog lock */
	atomic_bool recast_busy;    /* somebody works on that */
	_Atomic uint64_t recast_bound; /* bytes of the new base that will show */
	_Atomic uint64_t leaving;      /* the image that it stood on, and is not to need any more */
	atomic_bool keeps; /* no block becomes PARENT by comparing: the base is about to change */
	atomic_bool apart; /* nothing of it is shared by content */
	_Atomic uint64_t whole_blocks; /* all before this one have a place, and keep it */

	atomic_int users; /* calls that hold on to it beyond the catalog's lock */

	/* What chain.h remembers. */
	bool passed;	    /* lock; something relies on what it does not own */
	atomic_bool chained; /* some region is known of the chain that begins here */
	_Atomic uint32_t walked; /* layers that look-ups from here on have passed since */

	struct rangelock ranges;
	pthread_mutex_t sync_lock; /* one sync at a time: who waits has been served by it */
	int sync_error;		   /* sync_lock; of the first sync that failed */
	bool sync_failed;	   /* sync_lock; for assertions: pages may be gone */
	pthread_mutex_t lock;
	struct region **leaves; /* lock */
	uint32_t leaf_count;	/* lock */
	uint64_t overlay_blocks; /* lock */
	bool counts_given;	 /* lock; they began with what a catalog said */
	uint64_t page_overlay_blocks[2]; /* lock; of the pages taken last, and the time before */
	_Atomic uint64_t owned_blocks; /* changed under lock */
	bool dirty;	    /* lock; regions differ from their pages */
	struct page_write *spare_pages; /* lock; of layer_reserve_pages() */
	struct page_list page_list;	/* lock; of layer_list_pages() */
	bool page_list_fits;		/* lock; nothing has changed since */
	bool in_dirty_list; /* of the owner of the env; its lock */
	int data_fd;	    /* lock; -1: not open */
	int sum_fd;	    /* lock */
	bool unexamined;    /* lock; some of its regions are */
	uint64_t asked;	    /* lock; of those: see layer_set_unexamined() */
	/* Changed under lock, as the next two; blocks in runs, of regions that are counted. */
	_Atomic uint64_t shared_blocks;
	_Atomic uint64_t golden_blocks; /* of them, those in golden images */
	atomic_bool may_share;		/* its pages may have SHARED blocks */
	struct golden_use *uses; /* lock; which images those are in, with how many blocks */
	unsigned use_count;	 /* lock */
	bool dropped; /* lock; it is dead, and has given its references up */
	bool places_lost;   /* lock; of some of these nobody knows any more where they stand */
	bool name_unsynced; /* lock; a file of it was made since the last folder sync */
	struct large_ticket *large; /* lock; in flight */
	pthread_cond_t large_ended; /* lock */
	_Atomic uint64_t large_seq;	/* newest large write that is in place */
	_Atomic uint64_t committed_seq; /* large writes up to here need no commit record */
	_Atomic uint64_t poison_seq; /* a large write failed: no commit until a checkpoint passes */
	atomic_bool recovered; /* recovery found large writes in place that no record commits: others
				  must not go over them before that is made up for */
	struct large_failure *large_failures; /* lock */

	/* When the disk below fails (core/failing.c). */
	atomic_int failed;     /* why it is not written any more, 0 */
	char failed_why[128];  /* lock; set before `failed` */
	atomic_bool recall;    /* what was destaged lately is to be taken from the ring again */
	bool left_out;	       /* checkpoint; the last good pages stay, its records are carried on */
	unsigned sync_failures; /* checkpoint; in a row */

	atomic_bool data_dirty;	     /* bytes written since the data file's last sync */
	_Atomic uint64_t written;    /* counts writes of data, after data_dirty was set */
	_Atomic uint64_t synced;     /* what that was when the last good sync began */
	uint64_t pictured;	     /* lock; what that was when pages were taken last */
	atomic_bool sums_dirty;
	atomic_bool punched; /* since the data file's last sync, perhaps */
	atomic_bool last_block_used; /* the block that stands behind the checksums was written */
	struct punch *punches;	     /* lock; blocks given up, to be punched when that is durable */
	struct punch *due;	     /* lock; it is */
	uint8_t *marks;		     /* lock; bit per region with an intent mark */
	_Atomic uint64_t mark_seq;   /* changed under lock; newest record that marked a region anew */
	uint32_t mark_count;	     /* lock; regions that `marks` has room for, and the next two */
	uint8_t *used_marks;	     /* lock; those on which a large write relied since they were aged */
	uint8_t *old_marks;	     /* lock; those that go with the next picture */
	enum whole_mark whole_mark;  /* lock; of all regions, whatever `marks` says */
	bool whole_old;		     /* lock; that goes with the next picture */
	uint8_t *suspects;	     /* lock; bit per region in which a block may be old or new */
	uint32_t suspect_room;	     /* lock; regions that `suspects` has room for */
	_Atomic uint32_t suspect_count; /* changed under lock; bits that are set */
	struct sum_note *noted_sums; /* lock; read-only recovery: these count, not the file */
};

enum extent_kind {
	EXTENT_ZERO,
	EXTENT_IMAGE,	/* of `image`, at the same offset */
	EXTENT_DATA,	/* of `layer`'s data file, at the same offset */
	EXTENT_JOURNAL, /* in the ring at `pos` */
	EXTENT_POOL,	/* in the pool, from slot `pos` on */
	EXTENT_GOLDEN,	/* of `image`, from its block `pos` on */
};

/* count blocks that stand in one place. */
struct extent {
	enum extent_kind kind;
	uint64_t count;
	struct layer *layer; /* that owns them; NULL for image and zeros of no layer */
	struct image *image;
	uint64_t pos;
	uint64_t limit; /* guest offset from which on bytes read as zeros whatever stands there */
};

/* Blocks for which it takes space. */
static inline uint64_t layer_kept_blocks(const struct layer *layer)
{
	uint64_t owned = atomic_load(&layer->owned_blocks);
	uint64_t whole = atomic_load(&layer->whole_blocks);

	return owned > whole ? owned : whole;
}

int layer_new(struct layer **layer, const struct layer_env *env, uint64_t id,
	struct layer *parent, struct image *image, uint64_t golden, uint64_t bound);
/* Forgets it and its journal entries; closes its files, leaves them on disk. */
void layer_free(struct layer *layer);
/* The paths of files that layer id may have, relative to the store. */
void layer_list_files(uint64_t id, void (*cb)(void *arg, const char *path), void *arg);

/* It stands on something else from now on, through which it has to show the same. */
void layer_set_base(struct layer *layer, struct layer *parent, struct image *image,
	uint64_t golden, uint64_t bound);

/*
 * Where blocks [block, block + count of the result) of the merged view stand, count <= max.
 * below: start under this layer, as if it owned nothing. -EUCLEAN, -EIO: a map page cannot be used.
 */
int layer_resolve(struct layer *layer, uint64_t block, uint64_t max, bool below,
	struct extent *extent);
/* The same under this layer, reading at most *loads map pages, which is counted down. -EAGAIN: it takes
 * more. */
int layer_resolve_below(struct layer *layer, uint64_t block, uint64_t max, unsigned *loads,
	struct extent *extent);

/* ---- changes; the caller holds the range ---- */

/* The newest version of each block now stands in the ring, from pos on; bytes are what it is
 * (NULL: not known, as in tests: then nothing can be checked). */
int layer_set_journaled(struct layer *layer, uint64_t block, uint64_t count, uint64_t pos,
	uint64_t seq, const void *bytes);
/* New state for blocks; what was journaled of them is forgotten, what was OVERLAY and no longer is
 * will be punched after the next checkpoint. */
int layer_set_state(struct layer *layer, uint64_t block, uint64_t count, enum gf_state state);
/* Gives up one block that nobody sees any more; takes its range itself. 1: done, and *place is where
 * it was SHARED, with a reference for the caller (0: it was OVERLAY); 0: it is not in place (yet); or
 * -errno. */
int layer_forget_block(struct layer *layer, uint64_t block, uint64_t *place);
/* Recovery: files may hold what an earlier process wrote and did not sync. */
void layer_set_unsynced(struct layer *layer);
/* Forgets everything from block on (a file got shorter). Cheap where nothing is owned. */
int layer_clear_from(struct layer *layer, uint64_t block);
/* How many bytes of what is below show through from now on. */
void layer_set_bound(struct layer *layer, uint64_t bound);
/* Whether any of the blocks is OVERLAY in place, journaled or not. 1, 0, or -errno. */
int layer_any_overlay(struct layer *layer, uint64_t block, uint64_t count);
/* Whether the block is OVERLAY and its newest version. 1, 0, or -errno. */
int layer_is_at_rest(struct layer *layer, uint64_t block);
/*
 * Whether any of the blocks may be OVERLAY in place for a recovery that finds less than what memory
 * knows: by its page on disk, or by a large write since, even if it was discarded afterwards. Says
 * so of whole regions.
 */
bool layer_may_be_in_place(struct layer *layer, uint64_t block, uint64_t count);

/* ---- bytes ---- */

int layer_write_data(struct layer *layer, const void *buf, size_t len, uint64_t off);
int layer_read_data(struct layer *layer, void *buf, size_t len, uint64_t off);
/* Hints: these will be read soon. */
void layer_will_read_data(struct layer *layer, uint64_t block, uint64_t count);
void layer_will_read_sums(struct layer *layer, uint64_t block, uint64_t count);
/* Gives blocks and their checksums a place on the disk, so that writing them cannot fail for want
 * of it. After -ENOSPC what was got is given back by the next checkpoint. */
int layer_allocate(struct layer *layer, uint64_t block, uint64_t count);
/* Blocks that may have been written although nothing refers to them. */
void layer_note_punch(struct layer *layer, uint64_t block, uint64_t count);
/* Records checksums of blocks at rest. */
int layer_write_sums(struct layer *layer, uint64_t block, const uint32_t *sums, uint64_t count);
/* Makes data (and its name) durable; not the sums. */
int layer_sync_data(struct layer *layer);
int layer_sync_sums(struct layer *layer);
/* The next sync of the data also covers holes, which otherwise may come back with a power loss. */
void layer_sync_punched(struct layer *layer);
/* All bytes since the last good sync were or will be written again: the next sync is a new one. */
void layer_sync_anew(struct layer *layer);

/* The same in memory only, where nothing may be written or there is no space. */
int layer_note_sums(struct layer *layer, uint64_t block, const uint32_t *sums, uint64_t count);
/* Writes what was noted. A checkpoint does so before it relies on it. */
int layer_write_noted_sums(struct layer *layer);
/* Checksums of blocks at rest; 0: none is known. */
int layer_read_sums(struct layer *layer, uint64_t block, uint32_t *sums, uint64_t count);

/* ---- large writes in flight ---- */
void layer_large_begin(struct layer *layer, struct large_ticket *ticket, uint64_t lower);
/* ok: the bytes are in place; seq is the announcing record. */
void layer_large_end(struct layer *layer, struct large_ticket *ticket, uint64_t seq, bool ok);
/* It is not, and no record says so: a flush has to wait for a checkpoint that passes this one. */
void layer_note_not_undone(struct layer *layer, uint64_t seq);
/* Whether the large write with this record is in place: 0: yes. */
enum large_outcome { LARGE_IN_PLACE, LARGE_FAILED, LARGE_IN_PART };
enum large_outcome layer_large_outcome(struct layer *layer, uint64_t seq);
void layer_note_large_failure(struct layer *layer, uint64_t seq, bool verify);
/* Of what this record announced as SHARED, a block that recovery did not find: it does not count. */
void layer_note_missing(struct layer *layer, uint64_t seq, uint64_t block);
bool layer_is_missing(struct layer *layer, uint64_t seq, uint64_t block);
/* Records before number upto are not replayed any more. */
void layer_forget_large_failures(struct layer *layer, uint64_t upto);
/* Whether acknowledged large writes may be lost when a sync fails now. */
bool layer_has_uncommitted(struct layer *layer);

/* Waits for large writes that began before the newest one which is in place, and returns the
 * number up to which every large write is in place: at least that one's. */
uint64_t layer_large_wait(struct layer *layer);
/* Large writes up to here need no commit record (any more). */
void layer_set_committed(struct layer *layer, uint64_t upto);
/* The newest number up to which every large write is in place, without waiting. */
uint64_t layer_large_settled(struct layer *layer);

/* ---- SHARED blocks (layer_shared.c); places as in struct gf_disk_run, 0: nowhere ---- */

/* The pool's slot that a place is; only for places in the pool. */
uint64_t place_to_slot(uint64_t place);
uint64_t place_from_slot(uint64_t slot);
static inline bool place_is_pool(uint64_t place)
{
	return place & GF_PLACE_POOL;
}
static inline uint64_t place_to_golden(uint64_t place)
{
	return place >> GF_PLACE_SHIFT;
}
/* The block in its pool file or image. */
static inline uint64_t place_to_block(uint64_t place)
{
	return place & ((UINT64_C(1) << GF_PLACE_SHIFT) - 1);
}
static inline uint64_t place_from_golden(uint64_t id, uint64_t block)
{
	return id << GF_PLACE_SHIFT | block;
}

/*
 * The blocks become SHARED with these places, of which the caller has taken one reference each for
 * this layer (layer_ref_place()); they are the layer's from then on. The caller holds the range. When
 * it fails (-ENOMEM, or a map page cannot be read) some of the blocks may be done; references of the
 * others are not given up.
 */
int layer_set_shared(struct layer *layer, uint64_t block, uint64_t count, const uint64_t *places);
/* References of the layer to a place. false: it is not there any more. */
bool layer_ref_place(struct layer *layer, uint64_t place);
void layer_unref_place(struct layer *layer, uint64_t place);
/* Where blocks stand that are SHARED and have nothing newer in the ring; 0 for all others. */
int layer_read_places(struct layer *layer, uint64_t block, uint64_t *places, uint64_t count);
/* Whether the block is SHARED, stands nowhere, and nothing newer is in the ring. Not so of a layer
 * that is dead: nobody misses what it gave up. */
bool layer_is_lost(struct layer *layer, uint64_t block);
/* Whether blocks are SHARED with this golden image: any; or any of `count` from this one of the
 * image on, where a page that cannot be read counts as one that has none. */
bool layer_uses_golden(struct layer *layer, uint64_t golden);
bool layer_shows_golden(struct layer *layer, uint64_t golden, uint64_t block, uint64_t count);
/* Counts the references of the next region from *region on that is not counted, and moves it behind:
 * 1: there was one, 0: all are counted, or -errno. */
int layer_count_shared(struct layer *layer, uint32_t *region);
/* Whether there may be references that could not be counted: what named them was damaged. */
bool layer_lost_places(struct layer *layer);
/*
 * Regions, as far as they are there, in which blocks are to be looked for elsewhere once more. asked:
 * what the caller knew when they were looked for last; the lowest of all counts.
 */
void layer_set_unexamined(struct layer *layer, uint32_t region, uint32_t count, uint64_t asked);
/* The same of all of them, as somebody wishes it, until he does not any more. */
void layer_wish_examined(struct layer *layer);
void layer_unwish_examined(struct layer *layer);
/* One that was taken is to be taken again, for the same reason. */
void layer_put_unexamined(struct layer *layer, uint32_t region, uint64_t asked);
bool layer_has_unexamined(struct layer *layer);
/* Takes the first of them from region `from` on. false: there is none. */
bool layer_take_unexamined(
	struct layer *layer, uint32_t from, uint32_t *region, uint64_t *asked);
/* Gives all references up: the layer is dead. */
void layer_drop_shared(struct layer *layer);

/* ---- intent marks (design 3): regions that may be overwritten in place unsynced ---- */
/* The marks count once record layer->mark_seq is durable, which is 0 for a new layer. */
bool layer_is_marked(struct layer *layer, uint64_t block, uint64_t count);
/* seq: of the record that says so. */
int layer_mark(struct layer *layer, uint32_t region, uint32_t count, uint64_t seq);
/* All regions, by the record that makes the layer, or by a copy of it while that one counts: without it there
 * is nothing that a mark could be about, so that this one counts at once. */
void layer_mark_new(struct layer *layer);
uint32_t layer_count_marks(struct layer *layer); /* regions */
/* A large write relies on the marks of these blocks, as far as there are any; also one to new blocks, which
 * would not need them. */
void layer_use_marks(struct layer *layer, uint64_t block, uint64_t count);
/*
 * Marks on which nobody relied since the last time are old; for runs of others keep() is told, which
 * returns non-zero when it cannot have them kept: then all are old that are not recorded again. count 0: all
 * regions of a new layer, once, since what its file is about to overwrite shows only when it has been written
 * for a while.
 */
void layer_age_marks(struct layer *layer, int (*keep)(void *arg, uint32_t region, uint32_t count), void *arg);
void layer_clear_old_marks(struct layer *layer);
void layer_clear_marks(struct layer *layer);

/*
 * ---- suspect regions ----
 *
 * After a power loss a block under a large write whose announcement was lost may be the old or the
 * new one, and its checksum that of the other; only marked regions have such blocks. There a
 * mismatch is no damage: whoever meets it writes the checksum of what is there.
 */
int layer_set_suspect(struct layer *layer, uint32_t region, uint32_t count);
void layer_clear_suspect(struct layer *layer, uint32_t region);
bool layer_is_suspect(struct layer *layer, uint32_t region);
/* All regions with an intent mark become suspect. */
int layer_suspect_marked(struct layer *layer);
/* The first run of suspect regions from `from` on: 0 with *count, or LAYER_NO_REGION. */
uint32_t layer_next_suspect(struct layer *layer, uint32_t from, uint32_t *count);

/*
 * ---- checking blocks at rest (layer_verify.c) ----
 *
 * A block is checked by its bytes as somebody read them. What does not match is looked at again
 * under the block's range, since a writer may be between bytes and checksum.
 */
enum verdict {
	VERDICT_RIGHT,	 /* bytes and checksum agree */
	VERDICT_MOVED,	 /* the block stands elsewhere by now, or its bytes changed: read again */
	VERDICT_HEALED,	 /* old or new after a power loss; the checksum is right from now on */
	VERDICT_DAMAGED, /* not what was written */
};
/* How many of the count blocks agree with their checksums, from the first on; < 0: -errno. */
int64_t layer_compare_sums(struct layer *layer, const void *bytes, uint64_t block, uint64_t count);
/*
 * Reads one block in place anew, into bytes, and judges it. held: the caller has its range.
 * < 0: it could not be read.
 */
int layer_judge_block(struct layer *layer, void *bytes, uint64_t block, bool held);

/* ---- pages ---- */

/* Recovery: region has a page of this generation on disk; shared: perhaps with SHARED blocks. */
int layer_add_page(struct layer *layer, uint32_t region, uint32_t generation, bool shared);
/* Memory for the picture that is to follow: nobody waits for it while that is taken. Without, it is found then. */
void layer_reserve_pages(struct layer *layer);
/*
 * A picture of all changed regions, taken while nothing changes; the regions count as clean from
 * then on, with the generation that their new pages will have. NULL when nothing changed.
 * pages_free() afterwards; when writing failed, layer_pages_failed() makes them dirty again.
 */
int layer_take_pages(struct layer *layer, struct page_write **pages);
int layer_write_pages(struct layer *layer, struct page_write *pages);
void layer_pages_failed(struct layer *layer, struct page_write *pages);
/* They count: the catalog that names them is durable. */
void layer_pages_done(struct layer *layer, struct page_write *pages);
void pages_free(struct page_write *pages);
/* The pages that regions have, with the generations that count; until the layer's pages change. 0 or
 * -ENOMEM. */
int layer_list_pages(struct layer *layer, const struct page_list **list);
/* Adds those that are on the disk, what the last checkpoint named, to a list of the caller's. 0 or
 * -ENOMEM. */
int layer_list_disk_pages(struct layer *layer, struct page_list *list);
/* The page on disk, or its list of runs, is damaged: has the next checkpoint write both anew, when
 * memory has them. */
bool layer_rewrite_page(struct layer *layer, uint32_t region);
/* Checks and decodes one page; *runs (may be NULL): how many the location file has. Pure.
 * -EUCLEAN. */
int page_decode(const void *buf, uint64_t layer, uint32_t region, uint64_t generation,
	uint8_t states[GF_STATE_BYTES], uint32_t *runs);

/* ---- what it stands on ---- */

/* The last one of the chain, which may stand on a golden image; NULL of NULL. What keeps parents from changing is
 * held. */
static inline const struct layer *layer_bottom(const struct layer *layer)
{
	while (layer && layer->parent)
		layer = layer->parent;
	return layer;
}

/* ---- space ---- */

/* Takes over the blocks to be punched; to be called while nothing changes. */
struct punch *layer_take_punches(struct layer *layer);
void layer_give_back_punches(struct layer *layer, struct punch *list);
/* They are durable: layer_punch_due() may punch what is still not OVERLAY of them. Takes over the list. */
void layer_punch_later(struct layer *layer, struct punch *list);
/* The same for everything in the data file that no OVERLAY state refers to. */
int layer_reclaim(struct layer *layer);

struct punching {
	int64_t until_ns; /* CLOCK_MONOTONIC; then it is enough */
	struct portion blocks;
};
/* Everything, however long it takes, and in the same pieces whenever it is done. */
static inline struct punching punching_all(void)
{
	return (struct punching){.until_ns = INT64_MAX, .blocks = {UINT64_MAX, UINT64_MAX, UINT64_MAX}};
}
bool layer_has_due(struct layer *layer);
/* True: there are more. While no picture is under way. Takes ranges. */
bool layer_punch_due(struct layer *layer, struct punching *how);
/* Copies the states of one region as they are, journaled blocks counting as OVERLAY; false:
 * the layer owns nothing there. */
int layer_region_states(struct layer *layer, uint32_t region, uint8_t states[GF_STATE_BYTES],
	bool *any);
/* One region with what stands in the journal told apart from what stands in place. */
struct region_view {
	uint8_t states[GF_STATE_BYTES];		 /* in place */
	uint8_t journaled[GF_REGION_BLOCKS / 8]; /* a newer version is in the ring */
	bool lost; /* its page could not be used when it was loaded */
	bool runs_lost; /* or where its SHARED blocks stand */
	uint32_t generation; /* of its page, 0: it has none */
};
int layer_view_region(struct layer *layer, uint32_t region, struct region_view *view);
/* Whether a block's newest version is in place, and in this state. */
bool region_view_is(const struct region_view *view, uint32_t i, enum gf_state state);
/* The bytes where the region's page stands, whole or not, and their place in the map file. */
int layer_read_page(struct layer *layer, uint32_t region, uint32_t generation,
	uint8_t page[sizeof(struct gf_disk_page)], uint64_t *place);
/* The same for the list of the region's runs; len: runs_length(). */
int layer_read_list(struct layer *layer, uint32_t region, uint32_t generation, void *buf, size_t len,
	uint64_t *place);
/* Asserts the table at the head of this file, as far as it is in memory. */
void layer_assert(struct layer *layer);
/* Whether no version of the blocks that stands in the ring is newer than record seq. */
bool layer_is_newest(struct layer *layer, uint64_t block, uint64_t count, uint64_t seq);
/* Counts the layer's blocks anew from its states. */
int layer_recount(struct layer *layer);
/* Calls cb for each run of blocks that take space in the data file although nothing refers to
 * them. 0, what cb returned, or -errno. */
int layer_each_unused(struct layer *layer, int (*cb)(void *arg, uint64_t block, uint64_t count),
	void *arg);
/* The first region from `from` on in which the layer has anything; LAYER_NO_REGION: none. */
#define LAYER_NO_REGION UINT32_MAX
uint32_t layer_next_region(struct layer *layer, uint32_t from);

#endif
