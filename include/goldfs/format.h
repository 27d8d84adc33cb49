/* SPDX-License-Identifier: MIT */
/*
 * The on-disk format of a goldfs store, version 1. man/goldfs-format.5 says the same in prose.
 *
 * Everything is little-endian and packed, and starts with or is covered by a checksum (XXH3-64,
 * unkeyed, over the bytes named beside it). These structures are never used in memory: decoders
 * turn them into structs of their own and trust nothing they read.
 *
 *   superblock            identity, secret, feature masks; replaced by rename, never in place
 *   lock                  an exclusive flock(2) on it is the right to use the store; the text
 *                         in it says who holds that and is for people
 *   catalog.0 catalog.1   two alternating checkpoints: a header and a stream of ops that rebuild
 *                         the catalog; the valid one with the higher generation counts
 *   journal/0             the ring of records; a record is a header and a stream of ops
 *   journal/0.synced      up to which record the ring is known to be durable; a hint
 *   layer/ID.data         guest offset = file offset (but for the last block of 16 TiB, which
 *                         stands in ID.sum behind the last checksum: ext4's files end before it)
 *   layer/ID.map          states of blocks, one page per region in one of two slots
 *   layer/ID.sum          one 32-bit checksum per block at block * 4; never 0 for an OVERLAY block
 *   layer/ID.loc          where SHARED blocks stand, one list per region in one of two slots
 *   golden/ID             the pinned bytes of a golden image
 *   golden/ID.sums        sums of its chunks, for linked ones
 *   pool/N.data           blocks that several layers show; whatever no list names is free
 *   pool/N.sum            one 32-bit checksum per block of it, as in layer/ID.sum
 *   index/ID              where which block of a golden image stands, by content; a hint
 *
 * The same ops stand in journal records and in the catalog, so that one decoder and one apply
 * function serve running, checkpoint and recovery.
 *
 * Feature masks: a bit that is not known refuses the mount (incompatible), refuses nothing
 * (compatible), or refuses nothing and is cleared by a mount for writing (autoclear).
 */
#ifndef GOLDFS_FORMAT_H
#define GOLDFS_FORMAT_H

#include <stdint.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
	"the structures below are read as they stand, so the host must be little-endian");

#define GF_FORMAT_VERSION 1

#define GF_BLOCK_SHIFT 12
#define GF_BLOCK_SIZE 4096u
#define GF_REGION_BLOCKS 8192u /* 32 MiB of guest data per map page */
#define GF_REGION_SIZE (GF_REGION_BLOCKS * (uint64_t)GF_BLOCK_SIZE)
#define GF_STATE_BYTES (GF_REGION_BLOCKS / 4)
#define GF_MAX_SIZE (UINT64_C(16) << 40) /* of one file, bytes */
#define GF_NAME_MAX 255u
#define GF_XATTR_VALUE_MAX 65536u
#define GF_XATTR_SPACE_MAX (3 * GF_XATTR_VALUE_MAX) /* names and values of one file; not checked */
#define GF_SYMLINK_MAX 4095u
#define GF_PATH_MAX 4095u

#define GF_SUPER_MAGIC "GOLDFS\r\n"
#define GF_CATALOG_MAGIC "GOLDFCAT"
#define GF_RECORD_MAGIC 0x314a5247u /* "GRJ1" */
#define GF_PAGE_MAGIC 0x50414d47u   /* "GMAP" */
#define GF_SYNCED_MAGIC 0x4e595347u /* "GSYN" */

/* incompatible: blocks may be SHARED with a location */
#define GF_INCOMPAT_SHARED UINT64_C(1)
/* incompatible: there may be inodes of kind GF_KIND_PROMOTED, and their folder */
#define GF_INCOMPAT_PROMOTED UINT64_C(8)
/* incompatible: folders or clones may say where their content is looked for (GF_OP_DEDUP) */
#define GF_INCOMPAT_DEDUP UINT64_C(16)
/* incompatible: there may be snapshots, with GF_OP_SNAPSHOT and GF_OP_POSITION */
#define GF_INCOMPAT_SNAPSHOTS UINT64_C(2)
/* incompatible: layers may be given another base; files have a mode */
#define GF_INCOMPAT_RECAST UINT64_C(4)
#define GF_INCOMPAT_KNOWN \
	(GF_INCOMPAT_SHARED | GF_INCOMPAT_SNAPSHOTS | GF_INCOMPAT_RECAST | GF_INCOMPAT_PROMOTED | \
		GF_INCOMPAT_DEDUP)
#define GF_COMPAT_KNOWN UINT64_C(0)
#define GF_AUTOCLEAR_KNOWN UINT64_C(0)

/* State of a block in a layer's map, two bits, block 0 in the low bits of byte 0. */
enum gf_state {
	GF_PARENT = 0,  /* look below; zeros past the layer's bound or without a parent */
	GF_OVERLAY = 1, /* in this layer's data file at the same offset */
	GF_ZERO = 2,
	GF_SHARED = 3, /* where the location file says; without a location the content is lost */
};

#define GF_PACKED __attribute__((packed))

struct gf_disk_super {
	uint8_t magic[8];
	uint32_t version;
	uint32_t length; /* of this structure, bytes, checksum included */
	uint8_t uuid[16];
	uint64_t incompat;
	uint64_t compat;
	uint64_t autoclear;
	uint64_t created_ns;   /* since 1970 */
	uint64_t journal_size; /* bytes of journal/0, a multiple of 4096 */
	uint32_t host;	       /* id of the host that owns journal/0 */
	uint32_t reserved;
	uint8_t secret[192]; /* key of all content hashes of this store */
	uint64_t sum;	     /* of all bytes before */
} GF_PACKED;
_Static_assert(sizeof(struct gf_disk_super) == 280, "superblock");

/*
 * Ring positions count bytes since the store was made and never wrap; the place in the file is
 * position % journal_size. A record never wraps around the end of the file: the writer fills the
 * rest with a record of the single op GF_OP_PAD. Lengths are multiples of 64, as is the ring.
 */
struct gf_disk_record {
	uint32_t magic;
	uint32_t length; /* header, ops and padding, bytes, a multiple of 64 */
	uint64_t epoch;	 /* of the mount that wrote it; never falls along the chain */
	uint64_t seq;	 /* one more than its predecessor's */
	uint64_t prev;	 /* `sum` of its predecessor: what makes it one chain */
	uint32_t used;	 /* bytes of ops after this header; the rest is padding */
	uint32_t host;
	uint64_t durable; /* highest number known to be durable when this one was appended */
	uint64_t ops_sum; /* of the `used` bytes after this header */
	uint64_t sum;	  /* of all bytes before, keyed with the secret: guests write what is no
			     header, whatever it looks like */
} GF_PACKED;
_Static_assert(sizeof(struct gf_disk_record) == 64, "record");

/* journal/0.synced, written after each sync of the ring and never synced itself. */
struct gf_disk_synced {
	uint32_t magic;
	uint32_t reserved;
	uint64_t seq; /* all records up to here are durable */
	uint64_t reserved2;
	uint64_t sum; /* of all bytes before, keyed with the secret */
} GF_PACKED;
_Static_assert(sizeof(struct gf_disk_synced) == 32, "synced");

struct gf_disk_catalog {
	uint8_t magic[8];
	uint32_t version;
	uint32_t flags; /* 1: written by a clean unmount */
	uint64_t generation;
	uint64_t length; /* of the ops that follow at offset 4096, bytes */
	uint64_t ops_sum;
	uint64_t tail_pos; /* replay starts with the record here: */
	uint64_t tail_seq; /* with this sequence number, */
	uint64_t tail_prev; /* whose predecessor had this sum */
	uint64_t epoch;	    /* highest epoch in use when it was written */
	uint64_t meta_seq;  /* catalog effects of records up to here are contained */
	uint64_t next_ino;
	uint64_t next_layer;
	uint64_t next_golden;
	uint8_t uuid[16]; /* of the store */
	uint64_t sum;	  /* of all bytes before */
} GF_PACKED;
_Static_assert(sizeof(struct gf_disk_catalog) == 128, "catalog");

/* Page of region R, generation G: at (R * 2 + G % 2) * 4096 of the map file. */
struct gf_disk_page {
	uint32_t magic;
	uint32_t region;
	uint64_t layer;
	uint64_t generation; /* the catalog names the one that counts */
	uint32_t runs;	     /* of SHARED blocks, in the location file */
	uint8_t reserved[28];
	uint64_t sum; /* of the whole page with this field zero */
	uint8_t states[GF_STATE_BYTES];
	uint8_t padding[4096 - 64 - GF_STATE_BYTES];
} GF_PACKED;
_Static_assert(sizeof(struct gf_disk_page) == 4096, "page");

/*
 * Where the SHARED blocks of region R stand, generation G, that of its page: at
 * (R * 2 + G % 2) * GF_RUNS_SLOT of the location file. The page says how many runs there are; without
 * any there is no list. SHARED blocks in none of the runs are lost to damage. Runs ascend.
 */
struct gf_disk_runs {
	uint32_t magic;
	uint32_t region;
	uint64_t layer;
	uint64_t generation;
	uint32_t count; /* of the runs that follow */
	uint8_t reserved[28];
	uint64_t sum; /* of two sums: of this with the field zero, and of the runs */
} GF_PACKED;
_Static_assert(sizeof(struct gf_disk_runs) == 64, "runs");

struct gf_disk_run {
	uint64_t place; /* of its first block, the others follow: bit 63: pool; 40..62: pool file or
			   golden id; 0..39: block there */
	uint16_t first; /* block in the region */
	uint16_t count;
	uint32_t reserved;
} GF_PACKED;
_Static_assert(sizeof(struct gf_disk_run) == 16, "run");

#define GF_RUNS_MAGIC 0x4e555247u /* "GRUN" */
#define GF_RUNS_SLOT UINT64_C(135168) /* a multiple of 4096 that holds a run per block */
_Static_assert(GF_RUNS_SLOT >= 64 + GF_REGION_BLOCKS * 16 && GF_RUNS_SLOT % 4096 == 0, "slot");

#define GF_PLACE_POOL (UINT64_C(1) << 63)
#define GF_PLACE_SHIFT 40

enum gf_op_type {
	GF_OP_PAD = 1,
	GF_OP_EPOCH = 2,
	GF_OP_REQUEST = 3, /* whose change this record is */
	GF_OP_CARRIED = 4, /* the record is a copy, and stands for the one of that number */
	/* Blocks. */
	GF_OP_WRITE = 16,  /* blocks with their bytes */
	GF_OP_LARGE = 17,  /* announces blocks that go straight to the layer's data file */
	GF_OP_COMMIT = 18, /* LARGE ops of a layer up to a sequence number are in place, synced */
	GF_OP_CLEAR = 19,  /* blocks become ZERO or PARENT */
	GF_OP_INTENT = 20, /* blocks of a region may be overwritten in place unsynced */
	GF_OP_SHARE = 21,  /* announces blocks that stand in the pool or in a golden image */
	/* Catalog. */
	GF_OP_INODE = 32,
	GF_OP_ATTR = 33,
	GF_OP_RENAME = 34,
	GF_OP_UNLINK = 35,
	GF_OP_DROP = 36,
	GF_OP_SIZE = 37,
	GF_OP_XATTR = 38,
	GF_OP_LAYER = 39,
	GF_OP_HEAD = 40,
	GF_OP_GOLDEN = 41,
	GF_OP_PAGES = 42, /* catalog file only: generations of a layer's map pages */
	GF_OP_BOUND = 43,
	GF_OP_SUSPECT = 44, /* catalog file only: regions where a block may be old or new */
	GF_OP_LIMIT = 45,
	GF_OP_UNGROW = 46, /* a write failed after its record, which made the file larger */
	GF_OP_DEDUP = 58,
	GF_OP_SNAPSHOT = 48, /* what a snapshot stands on */
	GF_OP_POSITION = 49, /* which snapshot a file stands on */
	GF_OP_RECAST = 52, /* a layer is being made to show the same over another base */
	GF_OP_BASE = 53,   /* and stands on that from now on */
	GF_OP_MODE = 54,
};

/* Every op starts with this; length is a multiple of 8 and covers header, body and tail. */
struct gf_disk_op {
	uint16_t type;
	uint16_t flags;
	uint32_t length;
} GF_PACKED;
_Static_assert(sizeof(struct gf_disk_op) == 8, "op");

struct gf_op_epoch {
	struct gf_disk_op op;
	uint64_t epoch;
	uint64_t time_ns;
	uint8_t boot_id[16];
} GF_PACKED;
_Static_assert(sizeof(struct gf_op_epoch) == 40, "epoch");

/*
 * A request that is done, in the record with what it did and in the catalog as long as its answer
 * may not have been seen. flags 0: of the kernel, id is the mount's random number and the
 * request's own; GF_REQUEST_CLIENT: of the control file, id is a hash of what the client calls it.
 */
struct gf_op_request {
	struct gf_disk_op op;
	uint64_t id[2];
	uint64_t result; /* number of the inode made, bytes copied to, clones made, or 0 */
} GF_PACKED;
_Static_assert(sizeof(struct gf_op_request) == 32, "request");

#define GF_REQUEST_CLIENT 1u

/* LARGE, flags: the bytes were synced before this was written; no commit record is needed. */
#define GF_LARGE_SYNCED 1

/*
 * First in a record that says once more what an older one said, so that the tail can pass that one.
 * It counts only when the tail has passed it, and then in that one's place: before all records that
 * are no copies, copies in the order of these numbers.
 */
struct gf_op_carried {
	struct gf_disk_op op;
	uint64_t seq; /* of the first of all of which this is a copy */
} GF_PACKED;
_Static_assert(sizeof(struct gf_op_carried) == 16, "carried");

/* WRITE: followed by count * 4096 bytes. LARGE: by count 32-bit checksums, padded to 8. */
struct gf_op_blocks {
	struct gf_disk_op op;
	uint64_t ino; /* whose size and times change; 0 for none */
	uint64_t layer;
	uint64_t block; /* first */
	uint64_t size;	/* of the file afterwards, bytes */
	int64_t time_ns;
	uint32_t count;
	uint32_t reserved;
} GF_PACKED;
_Static_assert(sizeof(struct gf_op_blocks) == 56, "blocks");

/*
 * SHARE: the place of the first block, those of the others follow it one by one. Followed by count
 * 32-bit checksums, padded to 8. Committed as LARGE is, and with the same flag.
 */
struct gf_op_share {
	struct gf_op_blocks blocks;
	uint64_t place;
} GF_PACKED;
_Static_assert(sizeof(struct gf_op_share) == 64, "share");

struct gf_op_commit {
	struct gf_disk_op op;
	uint64_t layer;
	uint64_t upto; /* sequence number, included */
} GF_PACKED;
_Static_assert(sizeof(struct gf_op_commit) == 24, "commit");

/* flags: the new state, GF_ZERO or GF_PARENT. */
struct gf_op_clear {
	struct gf_disk_op op;
	uint64_t ino;
	uint64_t layer;
	uint64_t block;
	uint64_t count;
	int64_t time_ns;
} GF_PACKED;
_Static_assert(sizeof(struct gf_op_clear) == 48, "clear");

/*
 * INTENT, and SUSPECT in the catalog: after a power loss a block of these regions, overwritten in
 * place unsynced and unannounced, may be the old or the new one, and its checksum that of the other.
 */
struct gf_op_intent {
	struct gf_disk_op op;
	uint64_t layer;
	uint32_t region;
	uint32_t count; /* of regions; 0 with INTENT: all of a layer that begins here */
} GF_PACKED;
_Static_assert(sizeof(struct gf_op_intent) == 24, "intent");

/* Followed by name_len and target_len bytes, padded to 8. */
struct gf_op_inode {
	struct gf_disk_op op;
	uint64_t ino;
	uint64_t parent; /* 0: unlinked */
	uint64_t layer;	 /* writable layer of a file, 0 for others */
	uint64_t size;	 /* bytes */
	int64_t atime_ns;
	int64_t mtime_ns;
	int64_t ctime_ns;
	int64_t btime_ns;
	uint32_t mode; /* type and permission bits as in stat(2) */
	uint32_t uid;
	uint32_t gid;
	uint16_t name_len;
	uint16_t target_len; /* of a symbolic link, or a golden node's path below IMAGES */
	uint32_t kind;	     /* enum gf_inode_kind */
	uint32_t reserved;
} GF_PACKED;
_Static_assert(sizeof(struct gf_op_inode) == 96, "inode");

enum gf_inode_kind {
	GF_KIND_USER = 0,   /* clone, folder or symbolic link */
	GF_KIND_GOLDEN = 1, /* only holds the number of something below IMAGES */
	GF_KIND_SNAPSHOT = 2,
	GF_KIND_PROMOTED = 3, /* a clone that becomes a golden image; its name is a path below IMAGES */
};

struct gf_op_attr {
	struct gf_disk_op op;
	uint64_t ino;
	uint32_t mode;
	uint32_t uid;
	uint32_t gid;
	uint32_t reserved;
	int64_t atime_ns;
	int64_t mtime_ns;
	int64_t ctime_ns;
} GF_PACKED;
_Static_assert(sizeof(struct gf_op_attr) == 56, "attr");

/* Moves ino to (parent, name); what stands there is unlinked first. Followed by the name.
 * flags 1: exchange, ino takes the place of `other` and the other way round. */
struct gf_op_rename {
	struct gf_disk_op op;
	uint64_t ino;
	uint64_t parent;
	uint64_t other; /* unlinked or exchanged; 0 for none */
	int64_t time_ns;
	uint32_t name_len;
	uint32_t reserved;
} GF_PACKED;
_Static_assert(sizeof(struct gf_op_rename) == 48, "rename");

/* UNLINK takes the name away, DROP forgets an inode without a name. */
struct gf_op_ino {
	struct gf_disk_op op;
	uint64_t ino;
	int64_t time_ns;
} GF_PACKED;
_Static_assert(sizeof(struct gf_op_ino) == 24, "ino");

/* New size of a file. Shrinking also lowers the layer's bound and clears blocks past the end. */
struct gf_op_size {
	struct gf_disk_op op;
	uint64_t ino;
	uint64_t layer;
	uint64_t size;
	int64_t time_ns;
} GF_PACKED;
_Static_assert(sizeof(struct gf_op_size) == 40, "size");

/* The file is as long as before again, if it is as long as that record made it. */
struct gf_op_ungrow {
	struct gf_disk_op op;
	uint64_t ino;
	uint64_t grown;
	uint64_t size; /* bytes, as `grown` */
} GF_PACKED;
_Static_assert(sizeof(struct gf_op_ungrow) == 32, "ungrow");

/* flags 1: remove. Followed by name_len and value_len bytes, padded to 8. */
struct gf_op_xattr {
	struct gf_disk_op op;
	uint64_t ino;
	int64_t time_ns;
	uint32_t name_len;
	uint32_t value_len;
} GF_PACKED;
_Static_assert(sizeof(struct gf_op_xattr) == 32, "xattr");

/* Of all that lies below a folder, or of a file: bytes of its own at most; 0: no limit. */
struct gf_op_limit {
	struct gf_disk_op op;
	uint64_t ino;
	uint64_t bytes;
} GF_PACKED;
_Static_assert(sizeof(struct gf_op_limit) == 24, "limit");

enum gf_dedup_policy {
	GF_DEDUP_INHERIT = 0, /* as the folder above says, or the mount */
	GF_DEDUP_OFF = 1,
	GF_DEDUP_GOLDEN = 2, /* content is looked for in golden images only */
	GF_DEDUP_ALL = 3,
};

enum gf_dedup_domain {
	GF_DOMAIN_INHERIT = 0,
	GF_DOMAIN_OWN = 1,    /* shares by content within itself, and with golden images */
	GF_DOMAIN_SHARED = 2, /* the store's common one, whatever the folder above says */
};

/* Where the content of all that lies below a folder, or of a file, is looked for. */
struct gf_op_dedup {
	struct gf_disk_op op;
	uint64_t ino;
	uint32_t policy; /* enum gf_dedup_policy */
	uint32_t domain; /* enum gf_dedup_domain */
} GF_PACKED;
_Static_assert(sizeof(struct gf_op_dedup) == 24, "dedup");

struct gf_op_layer {
	struct gf_disk_op op;
	uint64_t layer;
	uint64_t parent; /* layer below, 0 for none */
	uint64_t golden; /* golden image below when there is no layer below, 0 for blank */
	uint64_t bound;	 /* bytes of what is below that show through */
	uint64_t epoch;	 /* of clones, for stores that several hosts share */
} GF_PACKED;
_Static_assert(sizeof(struct gf_op_layer) == 48, "layer");

/* HEAD: the file's writable layer is another one from now on; the old one is frozen.
 * BOUND: the layer's visible bound moves (a copy that grows), value in bytes.
 * SNAPSHOT: the snapshot (ino) stands on the snapshot `value`, an older one of the same folder, 0 for
 * none. POSITION: the file (ino) was last taken, or went back to, the snapshot `value`, 0 for none. */
struct gf_op_pair {
	struct gf_disk_op op;
	uint64_t id; /* ino, or layer for BOUND */
	uint64_t value;
} GF_PACKED;
_Static_assert(sizeof(struct gf_op_pair) == 24, "pair");

/* SNAPSHOT, flags: nobody gave it a name; it keeps what a rollback or a refresh left behind. */
#define GF_SNAPSHOT_AUTOMATIC 1u
/* POSITION, flags: the content was replaced by another, now or some time before. */
#define GF_POSITION_REPLACED 1u

/* For what a layer is recast. */
enum gf_recast_kind {
	GF_RECAST_NONE = 0, /* not any more: given up */
	GF_RECAST_REBASE = 1,
	GF_RECAST_THIN = 2,
	GF_RECAST_FULL = 3,
	GF_RECAST_FOLD = 4, /* onto what stands below the layer below */
	GF_RECAST_KINDS,
};

/*
 * From this record on no block of the layer becomes PARENT by being compared with what is below, so
 * that the new base can take its place once all blocks show the same over it.
 */
struct gf_op_recast {
	struct gf_disk_op op;
	uint64_t layer;
	uint64_t ino;	 /* for which file, 0: none */
	uint64_t golden; /* the new base, 0: nothing, or that of the layer below */
	uint64_t bound;	 /* bytes of the new base that are to show; truncation lowers it */
	uint64_t rate;	 /* bytes per second at most, 0: no limit */
	uint32_t kind;	 /* enum gf_recast_kind */
	uint32_t reserved;
} GF_PACKED;
_Static_assert(sizeof(struct gf_op_recast) == 56, "recast");

/* The layer stands on something else, through which it shows what it showed before. Ends RECAST. */
struct gf_op_base {
	struct gf_disk_op op;
	uint64_t layer;
	uint64_t parent; /* as in LAYER, the next two too */
	uint64_t golden;
	uint64_t bound;
} GF_PACKED;
_Static_assert(sizeof(struct gf_op_base) == 40, "base");

/* BASE, flags: nobody is to share blocks with the image that it stood on any more. */
#define GF_BASE_LEFT 1

enum gf_mode {
	GF_MODE_SNAPSHOT = 0, /* shares what it can */
	GF_MODE_THIN = 1,     /* shares nothing by content */
	GF_MODE_FULL = 2,     /* and has a place for every block */
	GF_MODE_LEFT = 3,     /* of a golden node: clones left it, none is to share with it */
	GF_MODES,
};

struct gf_op_mode {
	struct gf_disk_op op;
	uint64_t ino;
	uint32_t mode; /* enum gf_mode */
	uint32_t reserved;
} GF_PACKED;
_Static_assert(sizeof(struct gf_op_mode) == 24, "mode");

enum gf_pin_kind {
	GF_PIN_NONE = 0, /* forgotten: nothing refers to it any more */
	GF_PIN_REFLINK = 1,
	GF_PIN_LINK = 2,
	GF_PIN_COPY = 3,
	GF_PIN_COPYING = 4, /* the folder's own file serves until the copy is complete */
	GF_PIN_FENCED = 5,  /* its bytes changed: clones of it are not served */
};

/* GOLDEN, flags: clones left it, none is to share blocks with it. */
#define GF_GOLDEN_LEFT 1

/* Followed by path_len bytes: where it was below IMAGES. */
struct gf_op_golden {
	struct gf_disk_op op;
	uint64_t golden;
	uint64_t size;
	int64_t mtime_ns;
	uint64_t sample; /* hash of samples of its content */
	uint64_t dev;	 /* of the file in IMAGES: recognises "the same image" */
	uint64_t node;
	uint32_t pin; /* enum gf_pin_kind */
	uint32_t path_len;
} GF_PACKED;
_Static_assert(sizeof(struct gf_op_golden) == 64, "golden");

/* PAGES, flags: some of the blocks may be SHARED with a location. */
#define GF_PAGES_SHARED 1

/* Followed by count pairs of 32-bit region number and generation. */
struct gf_op_pages {
	struct gf_disk_op op;
	uint64_t layer;
	uint64_t overlay_blocks; /* OVERLAY states in all of the layer's pages */
	uint32_t count;
	uint32_t reserved;
} GF_PACKED;
_Static_assert(sizeof(struct gf_op_pages) == 32, "pages");

/*
 * golden/ID.sums: what the whole content of a linked golden image was, for the question whether it
 * is still the same after somebody touched it unmounted. Followed by count 64-bit sums, one per
 * chunk: XXH3-64, unkeyed, of the chunk's bytes (the last chunk ends with the image), 1 where that
 * would be 0; 0 for a chunk that reads as zeros. A hint: rebuilt when missing or damaged.
 */
struct gf_disk_sums {
	uint8_t magic[8];
	uint32_t version; /* 1 */
	uint32_t chunk;	  /* bytes, GF_SUMS_CHUNK */
	uint64_t golden;
	uint64_t size; /* of the image, bytes */
	uint64_t count;
	uint64_t sums_sum; /* of what follows this header */
	int64_t ctime_ns;  /* st_ctime when the content was last known to be this; 0: not known */
	uint64_t sum; /* of all bytes before */
} GF_PACKED;
_Static_assert(sizeof(struct gf_disk_sums) == 64, "sums");

#define GF_SUMS_MAGIC "GOLDSUMS"
#define GF_SUMS_CHUNK (1u << 20)

/*
 * index/ID: the blocks of a golden image by content. Of equal blocks the first is in it; zeros and
 * a partial last block are not. A hint: rebuilt when missing or damaged; it may lack blocks, and
 * whoever finds one compares the bytes.
 *
 *   0                  this header, padded to 4096 bytes
 *   4096               `pages` pages with `count` entries, ascending by hash
 *   then               the filter: `filter_blocks` of 32 bytes, ascending by the same hash
 *   then               the first hash of each page, 8 bytes each
 *
 * The hash is the high half of XXH3-128 of the block, keyed with the secret.
 */
struct gf_disk_index {
	uint8_t magic[8];
	uint32_t version; /* 1 */
	uint32_t reserved;
	uint64_t golden;
	uint64_t size; /* of the image, bytes; with the next two as in GF_OP_GOLDEN */
	int64_t mtime_ns;
	uint64_t sample;
	uint64_t count;		/* of entries */
	uint64_t pages;		/* of entries; all but the last are full */
	uint64_t filter_blocks; /* GF_INDEX_FILTER_BITS per entry, rounded up */
	uint64_t filter_sum;	/* of the filter */
	uint64_t firsts_sum;	/* of the first hashes */
	uint64_t key;		/* XXH3-64 of all bytes before, keyed: it is of this store */
	uint64_t sum;		/* of all bytes before */
} GF_PACKED;
_Static_assert(sizeof(struct gf_disk_index) == 104, "index");

#define GF_INDEX_MAGIC "GOLDINDX"
#define GF_INDEX_PAGE_ENTRIES 340u

struct gf_disk_index_entry {
	uint64_t hash;
	uint32_t block;
} GF_PACKED;
_Static_assert(sizeof(struct gf_disk_index_entry) == 12, "index entry");
_Static_assert((GF_MAX_SIZE >> GF_BLOCK_SHIFT) - 1 <= UINT32_MAX, "a block number has 32 bits");

struct gf_disk_index_page {
	struct gf_disk_index_entry entries[GF_INDEX_PAGE_ENTRIES]; /* unused ones are 0 */
	uint32_t number;					   /* of the page, from 0 */
	uint32_t count;						   /* of entries in it */
	uint64_t sum;						   /* of all bytes before */
} GF_PACKED;
_Static_assert(sizeof(struct gf_disk_index_page) == 4096, "index page");

/*
 * The filter is a split block Bloom filter: an entry belongs to block (hash >> 32) * blocks >> 32
 * and sets one bit in each of that block's eight words: bit ((uint32_t)hash * SALT[word]) >> 27.
 * Salts as in the Parquet format.
 */
#define GF_INDEX_FILTER_BITS 12u
#define GF_INDEX_FILTER_WORDS 8u
#define GF_INDEX_FILTER_SALTS \
	{ \
		0x47b6137bu, 0x44974d91u, 0x8824ad5bu, 0xa2b7289du, 0x705495c7u, 0x2df1424bu, \
			0x9efc4947u, 0x5c6bfb31u \
	}

#endif
