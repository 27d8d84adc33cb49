/* SPDX-License-Identifier: MIT */
/*
 * Opening a store: making a new one, recovering an old one; and closing.
 *
 * Recovery: the newest whole catalog is loaded; the journal is walked from its tail twice, first
 * for the commit records, then to apply every record in order (apply.c says how). A record of a
 * new epoch is appended and synced before anything is served, so that where the chain ended this
 * time is where it ends for good. Nothing is destaged here: the index of journaled blocks serves
 * reads at once, the background does the rest. Recovering twice, or again after a crash during
 * recovery, reads the same records and comes to the same state.
 */
#include "core/fs_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/invariant.h"
#include "base/log.h"
#include "base/mutation.h"
#include "base/sizes.h"
#include "core/dedup.h"
#include "core/domain.h"
#include "core/promote.h"
#include "core/recast.h"
#include "store/chain.h"
#include "store/pool.h"

#define MIN_JOURNAL (1 * MIB)

static const char *const folders[] = {"layer", "golden", "journal", "pool", "index"};

/* ---- a new store ---- */

static uint64_t default_journal_size(struct fs *fs)
{
	struct io_space space;

	if (fs->io->ops->space(fs->io, &space))
		return 16 * MIB;
	return min_u64(max_u64(space.total / 16, 16 * MIB), 256 * MIB);
}

static int root_ops(struct fs *fs, struct opbuf *buf)
{
	struct fs_attr attr = {
		.ino = FS_INO_ROOT,
		.mode = S_IFDIR | 0755,
		.uid = geteuid(),
		.gid = getegid(),
	};

	attr.atime_ns = attr.mtime_ns = attr.ctime_ns = attr.btime_ns = now_ns();
	return op_add_inode(buf, &attr, 0, 0, "", "", GF_KIND_USER);
}

static int write_first_catalogs(struct fs *fs)
{
	struct catalog_head head = {
		.tail = {.seq = 1},
		.next_ino = FS_INO_FIRST,
		.next_layer = 1,
		.next_golden = 1,
	};
	struct opbuf buf;
	int r;

	opbuf_init(&buf);
	memcpy(head.uuid, fs->super.uuid, sizeof(head.uuid));
	r = root_ops(fs, &buf);
	for (head.generation = 1; head.generation <= 2 && !r; head.generation++)
		r = catalog_file_write(fs->io, &head, buf.bytes, buf.len);
	opbuf_release(&buf);
	return r;
}

static int note_entry(void *arg, const char *name)
{
	bool *found = arg;

	/* What an interrupted creation or the daemon itself leaves is no reason to refuse. */
	if (strcmp(name, "lock") && strcmp(name, "log") && strcmp(name, "reserve") &&
		strncmp(name, "superblock.", 11) &&
		strncmp(name, "catalog.", 8) && strncmp(name, "log.", 4)) {
		for (size_t i = 0; i < ARRAY_SIZE(folders); i++)
			if (!strcmp(name, folders[i]))
				return 0;
		*found = true;
	}
	return 0;
}

static int note_any(void *arg, const char *name)
{
	*(bool *)arg = true;
	return 0;
}

/* Whether there is a catalog that somebody has worked with; one is made before the superblock. */
static bool has_used_catalog(struct fs *fs)
{
	for (unsigned which = 0; which < 2; which++) {
		CLEANUP_FREE void *ops = NULL;
		struct catalog_head head = {0};
		size_t len;

		catalog_file_read_copy(fs->io, which, &head, &ops, &len);
		if (head.generation > 2)
			return true;
	}
	return false;
}

/* A store without its superblock is a damaged one, a folder with strange files none at all. */
static int check_is_new(struct fs *fs)
{
	bool strange = false, layers = false;
	int r = fs->io->ops->list(fs->io, ".", note_entry, &strange);

	if (r)
		return log_error(r, "cannot list the store's folder");
	fs->io->ops->list(fs->io, "layer", note_any, &layers);
	if (layers || fs->options.takeover || has_used_catalog(fs))
		return log_error(-EUCLEAN, "the store has lost its superblock; restore "
					   "\"superblock\" from a backup of the store");
	if (strange)
		return log_error(-ENOTEMPTY, "the folder for the store is not empty and holds no "
					     "store; name an empty one with -o store=DIR");
	return 0;
}

static int make_store(struct fs *fs)
{
	uint64_t size = fs->options.journal_size;
	int r = check_is_new(fs);

	if (r)
		return r;
	size = max_u64(round_up(size ? size : default_journal_size(fs), 4096), MIN_JOURNAL);
	r = superblock_generate(&fs->super, size);
	fs->super.incompat |= GF_INCOMPAT_SHARED | GF_INCOMPAT_SNAPSHOTS;
	for (size_t i = 0; i < ARRAY_SIZE(folders) && !r; i++)
		r = fs->io->ops->mkdir(fs->io, folders[i]);
	if (!r)
		r = journal_create(fs->io, size);
	/* They are not written before the folders' names are durable (catalog_file.c). */
	if (!r)
		r = write_first_catalogs(fs);
	if (!r)
		r = superblock_write(fs->io, &fs->super);
	return r ? log_error(r, "cannot make a store") : 0;
}

/* ---- recovery ---- */

struct recovery {
	struct fs *fs;
	struct commit_point *commits;
	uint64_t meta_seq;
	uint64_t records;
	uint64_t life; /* see journal_lost() */
	struct carried_list carried;
	struct read_ahead ahead;
};

static int note_commit(struct recovery *rec, const struct gf_op_commit *op)
{
	struct commit_point *point;
	uint64_t layer = op->layer;

	HASH_FIND(hh, rec->commits, &layer, sizeof(layer), point);
	if (!point) {
		point = calloc(1, sizeof(*point));
		if (!point)
			return -ENOMEM;
		point->layer = layer;
		HASH_ADD(hh, rec->commits, layer, sizeof(point->layer), point);
	}
	point->upto = max_u64(point->upto, op->upto);
	return 0;
}

static bool is_life(const uint8_t boot[16], const uint8_t other[16])
{
	static const uint8_t unknown[16];

	return memcmp(boot, unknown, 16) != 0 && memcmp(boot, other, 16) == 0;
}

/* The first epoch of a life is durable before anything else is appended. */
static void note_life(struct recovery *rec, const struct gf_op_epoch *op, uint64_t seq)
{
	rec->life = is_life(op->boot_id, rec->fs->boot) ? min_u64(rec->life, seq) :
							 JOURNAL_OTHER_LIFE;
}

static int find_commits(void *arg, uint64_t seq, uint64_t ops_pos, const void *ops, size_t len)
{
	struct recovery *rec = arg;
	const struct gf_disk_op *op;
	size_t pos = 0;
	int r;

	rec->records++;
	r = carried_note(&rec->carried, seq, ops_pos, ops, len);
	if (r)
		return r;
	while ((op = ops_next(ops, len, &pos, &r)) != NULL) {
		if (op->type == GF_OP_COMMIT)
			r = note_commit(rec, (const void *)op);
		else if (op->type == GF_OP_EPOCH)
			note_life(rec, (const void *)op, seq);
		if (r)
			return r;
	}
	return r ? log_error(r, "record %" PRIu64 " of the journal is malformed", seq) : 0;
}

bool is_found(const struct fs *fs, uint64_t seq)
{
	return !fs->options.takeover || in_flight_may_predate(fs->options.in_flight, seq);
}

static int replay_record(void *arg, uint64_t seq, uint64_t ops_pos, const void *ops, size_t len)
{
	struct recovery *rec = arg;
	struct apply how = {
		.seq = seq,
		.ops_pos = ops_pos,
		.meta = seq > rec->meta_seq || MUTATED("replay repeats what the catalog contains"),
		.blocks = true,
		.replaying = true,
		.alive = seq >= rec->life,
		.in_place = rec->fs->options.takeover && in_flight_vouches(rec->fs->options.in_flight, seq),
		.found = is_found(rec->fs, seq),
		.commits = rec->commits,
	};

	INVARIANT(4, !how.meta || seq > rec->meta_seq);
	if (!rec->fs->options.takeover) /* what it reads is cached */
		read_ahead(&rec->ahead, seq);
	return carried_origin(ops, len) ? 0 : apply_ops(rec->fs, ops, len, &how);
}

/*
 * One copy of the catalog is damaged, and no record follows the other. A torn copy is one that a
 * crash interrupted, and so were its records: those there would be. So either the older copy was
 * damaged at rest, and nothing is missing; or the newer one was, and the ring has been written over
 * since: then it is full of records that the older one does not know.
 */
static int check_is_newest(struct fs *fs, const struct catalog_head *head)
{
	int r = journal_holds_newer(fs->journal, head->tail.seq);

	if (r > 0)
		return log_error(-EUCLEAN, "the newer copy of the catalog is damaged and the journal "
					   "no longer covers the older one");
	if (!r)
		log_warning("the older copy of the catalog is damaged; it is written anew");
	return r;
}

/*
 * The chain of records ends where the power was lost. When what would follow was durable once, or
 * the power was not lost, it ends because of damage instead, and what was promised to somebody is
 * behind it.
 */
static int check_is_whole(struct fs *fs, uint64_t life)
{
	struct journal_mark end = journal_head(fs->journal);
	int r = journal_lost(fs->journal, life, &fs->lost_upto);

	if (r <= 0)
		return r;
	if (!fs->options.accept_lost)
		return log_error(-EUCLEAN,
			"record %" PRIu64 " of the journal, at byte %" PRIu64 ", is damaged, and what "
			"was written up to record %" PRIu64 " is behind it; look with \"goldfs check "
			"STORE\"", end.seq, end.pos % fs->super.journal_size, fs->lost_upto);
	log_warning("records %" PRIu64 " to %" PRIu64 " of the journal are lost to damage", end.seq,
		fs->lost_upto);
	return fs->options.read_only ? 0 : journal_forget_lost(fs->journal);
}

bool is_same_boot(const struct fs *fs, const uint8_t boot[16])
{
	return !fs->options.accept_lost && is_life(boot, fs->boot_found);
}

static int replay_journal(struct fs *fs, const struct catalog_head *head, bool fallback)
{
	struct recovery rec = {.fs = fs, .meta_seq = head->meta_seq, .life = JOURNAL_OTHER_LIFE};
	struct commit_point *point, *next;
	uint64_t epoch = 0;
	int r;

	/* The catalog says which life wrote it; all that it contains was durable before. */
	if (is_life(fs->boot_found, fs->boot))
		rec.life = head->meta_seq;
	r = journal_scan(fs->journal, head->tail, find_commits, &rec, &epoch);
	if (!r && fallback && rec.records == 0 && head->generation > 2)
		r = check_is_newest(fs, head);
	if (!r && !fs->options.takeover)
		r = check_is_whole(fs, rec.life);
	journal_believe_scan(fs->journal);
	if (!r)
		r = carried_apply(fs, &rec.carried, head->tail.seq,
			&(struct apply){.blocks = true, .replaying = true, .commits = rec.commits});
	rec.ahead = (struct read_ahead){.fs = fs, .commits = rec.commits, .next = head->tail};
	if (!r)
		r = journal_scan(fs->journal, head->tail, replay_record, &rec, &epoch);
	read_ahead_release(&rec.ahead);
	carried_release(&rec.carried);
	r = found_end(fs, r);
	if (!r && !fs->options.takeover && !is_same_boot(fs, fs->boot))
		r = suspect_marked(fs);
	HASH_ITER (hh, rec.commits, point, next) {
		HASH_DELETE(hh, rec.commits, point);
		free(point);
	}
	fs->epoch = max_u64(head->epoch, epoch);
	if (!r && (rec.records || !head->clean)) {
		fs->reclaim_wanted = true;
		atomic_store(&fs->marks_lost, true);
	}
	return r;
}

static int load_catalog(struct fs *fs, struct catalog_head *head, bool *fallback)
{
	struct apply how = {.meta = true, .loading = true};
	CLEANUP_FREE void *ops = NULL;
	size_t len;
	int r;

	r = catalog_file_read(fs->io, head, &ops, &len, fallback);
	if (r)
		return r;
	if (memcmp(head->uuid, fs->super.uuid, sizeof(head->uuid)) != 0)
		return log_error(-EUCLEAN, "the catalog belongs to another store");
	fs->generation = head->generation;
	fs->tail = head->tail;
	atomic_store(&fs->tail_seq, head->tail.seq);
	fs->next_ino = max_u64(head->next_ino, FS_INO_FIRST);
	fs->next_layer = max_u64(head->next_layer, 1);
	fs->next_golden = max_u64(head->next_golden, 1);
	r = apply_ops(fs, ops, len, &how);
	return r ? r : apply_finish_loading(fs);
}

int append_epoch(struct fs *fs)
{
	struct gf_op_epoch *op;
	struct opbuf buf;
	int r;

	opbuf_init(&buf);
	if (OPBUF_ADD(&buf, GF_OP_EPOCH, 0, op, 0)) {
		op->epoch = fs->epoch;
		op->time_ns = now_ns();
		memcpy(op->boot_id, fs->boot, sizeof(fs->boot));
	}
	r = record_commit(fs, &buf, NULL);
	opbuf_release(&buf);
	return r;
}

static int start_epoch(struct fs *fs)
{
	int64_t room;
	int r;

	fs->epoch++;
	journal_set_epoch(fs->journal, fs->epoch);
	room = record_reserve_urgent(fs, sizeof(struct gf_op_epoch));
	if (room < 0)
		return room;
	r = append_epoch(fs);
	journal_unreserve(fs->journal, room);
	return r || fs->options.takeover ? r
					 : SITE("open: sync the new epoch",
						   journal_sync(fs->journal, journal_last_seq(fs->journal)));
}

/* Files that lost their names while open, and whose process is gone with the references. */
static int drop_orphans(struct fs *fs)
{
	struct inode *inode, *next;

	HASH_ITER (by_ino, fs->inodes, inode, next) {
		struct gf_op_ino *op;
		struct opbuf buf;
		int64_t room;
		int r;

		if (inode->key || inode == fs->root || inode->kind == GF_KIND_GOLDEN)
			continue;
		room = record_reserve_urgent(fs, sizeof(*op));
		if (room < 0)
			return room;
		opbuf_init(&buf);
		if (OPBUF_ADD(&buf, GF_OP_DROP, 0, op, 0)) {
			op->ino = inode->ino;
			op->time_ns = now_ns();
		}
		r = record_commit(fs, &buf, NULL);
		opbuf_release(&buf);
		journal_unreserve(fs->journal, room);
		if (r)
			return r;
	}
	return 0;
}

/* The record that says what a file's last block is, up to the file's end. */
static int commit_tail(struct fs *fs, struct layer *layer, uint64_t block, const uint8_t *bytes)
{
	struct gf_op_blocks *op;
	struct opbuf buf;
	int64_t room;
	int r;

	room = record_reserve(fs, sizeof(*op) + GF_BLOCK_SIZE);
	if (room < 0)
		return room;
	opbuf_init(&buf);
	if (OPBUF_ADD(&buf, GF_OP_WRITE, 0, op, GF_BLOCK_SIZE)) {
		op->layer = layer->id;
		op->block = block;
		op->count = 1;
		memcpy(op + 1, bytes, GF_BLOCK_SIZE);
	}
	r = record_commit(fs, &buf, NULL);
	opbuf_release(&buf);
	journal_unreserve(fs->journal, room);
	return r;
}

static int trim_tail(struct fs *fs, struct inode *inode)
{
	uint64_t size = atomic_load(&inode->size), block = size / GF_BLOCK_SIZE;
	struct layer *layer = atomic_load(&inode->layer);
	uint8_t bytes[GF_BLOCK_SIZE];

	if (size % GF_BLOCK_SIZE == 0 || !layer_is_suspect(layer, block / GF_REGION_BLOCKS))
		return 0;
	/* Errors are for who reads it. */
	if (layer_is_at_rest(layer, block) != 1 ||
		layer_read_data(layer, bytes, sizeof(bytes), block * GF_BLOCK_SIZE))
		return 0;
	for (size_t i = size % GF_BLOCK_SIZE; i < sizeof(bytes); i++) {
		if (!bytes[i])
			continue;
		memset(bytes + i, 0, sizeof(bytes) - i);
		return commit_tail(fs, layer, block, bytes);
	}
	return 0;
}

/*
 * A write that was lost with the power may have made the file longer, and part of it be in place: in
 * the last block as it is now there may be bytes of it behind the file's end, where everybody expects
 * zeros. That is so in suspect regions only.
 */
static int trim_tails(struct fs *fs)
{
	struct inode *inode, *next;
	int r = 0;

	HASH_ITER (by_ino, fs->inodes, inode, next)
		if (!r && inode_is_file(inode) && !MUTATED("bytes of a lost write stand behind a file's end"))
			r = trim_tail(fs, inode);
	/* Without space they stay; the region stays suspect until they are looked at. */
	return r == -ENOSPC ? 0 : r;
}

static bool is_dead_layer(const struct fs *fs, uint64_t id)
{
	for (const struct dead *d = fs->dead; d; d = d->next)
		if (d->layer && d->layer->id == id)
			return true;
	return false;
}

static int remove_orphan_file(void *arg, const char *name)
{
	struct fs *fs = arg;
	char path[300];
	bool needed, late;
	uint64_t id;
	char *end;

	id = strtoull(name, &end, 10);
	if (end == name || *end != '.' || id == 0)
		return 0;
	pthread_rwlock_rdlock(&fs->tree);
	/* A dead one goes at the next checkpoint, when that is durable. */
	needed = tree_find_layer(fs, id) || is_dead_layer(fs, id);
	late = id < fs->next_layer;
	pthread_rwlock_unlock(&fs->tree);
	if (needed)
		return 0;
	snprintf(path, sizeof(path), "layer/%s", name);
	if (late)
		bury_file(fs, path);
	else
		SITE("remove files of layers that are not there", fs->io->ops->unlink(fs->io, path));
	return 0;
}

/* Also of a layer whose record was lost with the power: its number is given out again, so this
 * comes before anything is made; or under checkpoint_lock, when none can have been lost. Others may
 * take their time. */
void remove_orphan_files(struct fs *fs)
{
	fs->io->ops->list(fs->io, "layer", remove_orphan_file, fs);
}

/* Of a process that died between the two, or of a version that had one only. */
static void complete_superblock(struct fs *fs)
{
	int r = superblock_complete(fs->io, &fs->super);

	if (r)
		log_warning("cannot write the copy of the superblock: %s", strerror(-r));
}

static int take_over(struct fs *fs)
{
	int r = notes_heed(fs);

	if (r)
		return log_error(r, "what an earlier process noted is damaged");
	atomic_store(&fs->resent_open, true);
	takeover_inherit(fs);
	journal_believe_synced(fs->journal);
	in_flight_take_over(fs->options.in_flight, fs->tail.seq, journal_last_seq(fs->journal) + 1);
	/* What failed for the dead process has failed. */
	if (fs_writable(fs))
		return 0;
	complete_superblock(fs);
	return start_epoch(fs);
}

static int recover(struct fs *fs)
{
	struct catalog_head head;
	bool fallback;
	int r;

	r = load_catalog(fs, &head, &fallback);
	if (!r)
		r = journal_open(&fs->journal, fs->io, fs->super.journal_size,
			fs->super.secret, fs->options.read_only);
	if (!r)
		r = replay_journal(fs, &head, fallback);
	if (!r && !fs->root)
		r = -EUCLEAN;
	if (!r && fs->options.takeover)
		return take_over(fs);
	if (r || fs->options.read_only)
		return r;
	/* A successor has been told of failed syncs (notes.c). */
	if (!MUTATED("rely on a sync of what a dead process may have failed to sync"))
		r = journal_write_again(fs->journal);
	if (r)
		return r;
	complete_superblock(fs);
	/* A process that died may have made files whose names it did not sync. */
	r = SITE("open: sync names that a dead process left", fs->io->ops->syncdir(fs->io, "layer"));
	if (!r)
		r = start_epoch(fs);
	if (!r)
		r = drop_orphans(fs);
	if (!r)
		r = trim_tails(fs);
	/* With records given up, the files that they made may be all that somebody has of a clone. */
	if (!r && fs->reclaim_wanted && !fs->options.accept_lost)
		remove_orphan_files(fs);
	if (!r)
		in_flight_start(fs->options.in_flight, journal_last_seq(fs->journal) + 1);
	return r;
}

/* ---- opening and closing ---- */

static void init_locks(struct fs *fs)
{
	pthread_rwlockattr_t attr;

	pthread_rwlockattr_init(&attr);
	pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	pthread_rwlock_init(&fs->gate, &attr);
	pthread_rwlock_init(&fs->sharing, &attr);
	pthread_rwlock_init(&fs->tables, NULL);
	pthread_rwlock_init(&fs->tree, &attr);
	pthread_rwlock_init(&fs->tree_held, &attr);
	pthread_rwlock_init(&fs->index_lock, &attr);
	pthread_rwlockattr_destroy(&attr);
	pthread_mutex_init(&fs->work_lock, NULL);
	bury_init(fs);
	pthread_mutex_init(&fs->super_lock, NULL);
	pthread_mutex_init(&fs->checkpoint_lock, NULL);
	pthread_mutex_init(&fs->walk_lock, NULL);
	pthread_mutex_init(&fs->figures_lock, NULL);
	pthread_mutex_init(&fs->space_lock, NULL);
	pthread_mutex_init(&fs->limit_lock, NULL);
	pthread_mutex_init(&fs->damage_lock, NULL);
	pthread_mutex_init(&fs->pin_lock, NULL);
	pthread_mutex_init(&fs->requests_lock, NULL);
	pthread_mutex_init(&fs->recast_lock, NULL);
	pthread_mutex_init(&fs->place_lock, NULL);
	pthread_mutex_init(&fs->golden_lock, NULL);
	pthread_cond_init(&fs->golden_work, NULL);
	pthread_cond_init(&fs->work, NULL);
	drain_init(&fs->readers);
}

static void destroy(struct fs *fs)
{
	bury_stop(fs);
	while (fs->dying) {
		struct dying *next = fs->dying->next;

		pool_give_back_dying(fs->pool, fs->dying->slots);
		free(fs->dying);
		fs->dying = next;
	}
	golden_stop(fs);
	damage_free(fs);
	tree_free(fs);
	requests_free(fs);
	dedup_stop(fs);
	domain_stop(fs);
	journal_close(fs->journal);
	jindex_free(fs->jindex);
	chain_cache_free(fs->chains);
	pool_free(fs->pool);
	drain_release(&fs->readers);
	pthread_cond_destroy(&fs->golden_work);
	pthread_mutex_destroy(&fs->golden_lock);
	pthread_mutex_destroy(&fs->pin_lock);
	pthread_mutex_destroy(&fs->requests_lock);
	pthread_mutex_destroy(&fs->super_lock);
	pthread_mutex_destroy(&fs->recast_lock);
	pthread_mutex_destroy(&fs->place_lock);
	recast_equal_free(fs->recast_equal);
	pthread_cond_destroy(&fs->work);
	pthread_mutex_destroy(&fs->limit_lock);
	pthread_mutex_destroy(&fs->space_lock);
	pthread_mutex_destroy(&fs->damage_lock);
	pthread_mutex_destroy(&fs->figures_lock);
	pthread_mutex_destroy(&fs->walk_lock);
	pthread_mutex_destroy(&fs->checkpoint_lock);
	pthread_mutex_destroy(&fs->work_lock);
	pthread_rwlock_destroy(&fs->tree);
	pthread_rwlock_destroy(&fs->tree_held);
	pthread_rwlock_destroy(&fs->index_lock);
	pthread_rwlock_destroy(&fs->tables);
	pthread_rwlock_destroy(&fs->sharing);
	pthread_rwlock_destroy(&fs->gate);
	free(fs);
}

static int read_or_make_super(struct fs *fs)
{
	int r = superblock_read(fs->io, &fs->super);

	if (r != -ENOENT)
		return r;
	if (fs->options.read_only)
		return log_error(-ENOENT, "there is no store yet; mount once without -o ro to make it");
	return make_store(fs);
}

static bool something_may_be_shared(const struct fs *fs)
{
	const struct layer_entry *entry;

	for (entry = fs->layers; entry; entry = entry->hh.next)
		if (entry->layer->may_share)
			return true;
	return false;
}

int fs_use_feature(struct fs *fs, uint64_t incompat)
{
	struct superblock super;
	int r = fs_writable(fs);

	if (r)
		return r;
	MUTEX_GUARD(&fs->super_lock);
	if ((fs->super.incompat & incompat) == incompat)
		return 0;
	super = fs->super;
	super.incompat |= incompat;
	r = superblock_write(fs->io, &super);
	if (!r)
		r = superblock_complete(fs->io, &super);
	if (r)
		return log_error(r, "cannot write the superblock");
	fs->super.incompat = super.incompat;
	return 0;
}

/*
 * What guests and snapshots may need at any moment, without waiting for the superblock then: on a busy disk
 * that took the first snapshot 400 ms. Blocks that are SHARED would be lost ones to an older version.
 */
static int allow_features(struct fs *fs)
{
	uint64_t sharing = fs->options.dedup == FS_DEDUP_OFF ? 0 : GF_INCOMPAT_SHARED;

	if (fs->options.read_only || fs_writable(fs))
		return 0;
	return fs_use_feature(fs, GF_INCOMPAT_SNAPSHOTS | sharing);
}

int fs_open(struct fs **out, struct io *io, const struct fs_options *options)
{
	struct fs *fs = calloc(1, sizeof(*fs));
	int r;

	if (!fs)
		return -ENOMEM;
	fs->io = io;
	fs->options = *options;
	init_locks(fs);
	if (io->ops->boot && io->ops->boot(io, fs->boot))
		memset(fs->boot, 0, sizeof(fs->boot));
	r = jindex_new(&fs->jindex);
	if (!r)
		r = read_or_make_super(fs);
	if (!r)
		r = pool_open(&fs->pool, io);
	if (!r)
		r = chain_cache_new(&fs->chains, CHAIN_MEMORY);
	if (!r && options->eager_chains)
		chain_cache_be_eager(fs->chains);
	atomic_store(&fs->golden_counting, true);
	fs->env = (struct layer_env){
		.io = io, .jindex = fs->jindex, .secret = fs->super.secret,
		.names_owed = &fs->names_owed, .fresh = &fs->fresh_blocks,
		.given_up = &fs->given_up, .chains = fs->chains, .pool = fs->pool,
		.golden = tree_golden_image, .golden_ref = tree_golden_ref, .arg = fs};
	if (!r)
		r = recover(fs);
	if (!r)
		recast_find_places(fs);
	if (!r)
		r = allow_features(fs);
	if (!r)
		r = domain_start(fs);
	if (!r)
		r = dedup_start(fs);
	if (!r) {
		space_start(fs);
		journal_set_pressure(fs->journal, checkpoint_pressure, fs);
		journal_set_failing(fs->journal, note_journal_failed, fs);
		promote_sweep(fs);
		r = golden_start(fs);
	}
	/* Where nothing is shared that takes no time; otherwise the background does it. There is none
	 * where nothing is written, and only figures and messages want it. */
	if (!r && !something_may_be_shared(fs))
		r = dedup_count(fs);
	else if (!r && fs->options.read_only)
		dedup_count(fs);
	if (!r)
		r = checkpoint_start(fs);
	if (r) {
		destroy(fs);
		return r;
	}
	/* A successor has clients that wait: it reclaims when the clock says so. */
	if (fs->reclaim_wanted && atomic_load(&fs->worker_runs) && !fs->options.takeover)
		checkpoint_want(fs);
	*out = fs;
	return 0;
}

int fs_close(struct fs *fs)
{
	int r = 0;

	checkpoint_stop(fs);
	if (!fs->options.read_only) {
		r = checkpoint_run(fs);
		for (int i = 0; i < 3 && !r && checkpoint_is_owed(fs); i++)
			r = checkpoint_run(fs);
		/* The last one writes what the first made removable, and that all of it is done. */
		fs->closing = true;
		bury_finish(fs);
		if (!r)
			r = checkpoint_run(fs);
		bury_finish(fs);
	}
	destroy(fs);
	return r;
}

void fs_abandon(struct fs *fs)
{
	checkpoint_stop(fs);
	destroy(fs);
}

void fs_uuid(struct fs *fs, uint8_t uuid[16])
{
	memcpy(uuid, fs->super.uuid, 16);
}

void fs_counters(struct fs *fs, struct fs_counters *counters)
{
	struct journal_counts journal;

#define X(name, help) counters->name = atomic_load(&fs->counters.name);
	FS_COUNTERS(X)
#undef X
	journal_counts(fs->journal, &journal);
	counters->journal_syncs = journal.syncs;
	counters->journal_records = journal.records;
	counters->journal_record_bytes = journal.bytes;
}
