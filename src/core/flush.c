/* SPDX-License-Identifier: MIT */
/*
 * Making things durable: fsync of a clone, and of everything.
 *
 * Flush, the numbers as in man/goldfs-architecture.7:
 *   1. large writes of the clone's layer and of the layers below it that are in place but not
 *      committed: the layer's data file is synced
 *   2. a commit record says so
 *   3. one sync of the journal serves all who wait
 */
#include "core/fs_internal.h"

#include <errno.h>
#include <stdlib.h>

#include "base/blocking.h"
#include "base/cleanup.h"
#include "base/invariant.h"
#include "base/log.h"
#include "base/mutation.h"
#include "base/times.h"
#include "store/pool.h"

#define SOON_NS 5000000 /* that a command waits for the disk */
#define BUSY_NS 5000000000 /* that a slow sync tells something about the next one */
#define CHAIN_FEW 8 /* layers that need no memory */

/* written: what the layer's data had come to when everything up to that number was in place. */
static int add_commit(struct fs *fs, struct layer *layer, uint64_t upto, uint64_t written)
{
	struct gf_op_commit *op;
	struct opbuf buf;
	int64_t room;
	int r;

	INVARIANT(3, upto <= layer_large_settled(layer));
	INVARIANT(3, written <= atomic_load(&layer->synced));
	INVARIANT(3, !atomic_load(&layer->poison_seq) || atomic_load(&layer->poison_seq) > upto);
	room = record_reserve_urgent(fs, sizeof(*op));
	if (room < 0)
		return room;
	opbuf_init(&buf);
	if (OPBUF_ADD(&buf, GF_OP_COMMIT, 0, op, 0)) {
		op->layer = layer->id;
		op->upto = upto;
	}
	r = record_commit(fs, &buf, NULL);
	opbuf_release(&buf);
	journal_unreserve(fs->journal, room);
	return r;
}

/* By a checkpoint whose tail passes the write that failed. */
static int flush_poisoned(struct fs *fs, struct layer *layer)
{
	int r = 0;

	/* Others may fail meanwhile. */
	for (int i = 0; i < 3 && atomic_load(&layer->poison_seq); i++) {
		atomic_store(&fs->move_tail, true);
		r = checkpoint_make(fs);
		if (atomic_load(&layer->failed))
			return -EIO;
		if (r && r != -ENOSPC)
			return r;
	}
	return atomic_load(&layer->poison_seq) ? -ENOSPC : 0;
}

int flush_layer(struct fs *fs, struct layer *layer)
{
	uint64_t upto, written;
	int r;

	if (atomic_load(&layer->large_seq) <= atomic_load(&layer->committed_seq))
		return 0;
	if (atomic_load(&layer->failed))
		return -EIO;
	/* One that is done but began after another that is not must not be left out. */
	upto = MUTATED("commit passes a large write that is on its way") ?
		       atomic_load(&layer->large_seq) : layer_large_wait(layer);
	written = atomic_load(&layer->written);
	/* A large write that failed left bytes that no commit record may vouch for. A tail that had to
	 * stop early passed it, and perhaps not those that came in place after it. */
	if (atomic_load(&layer->poison_seq) && !MUTATED("commit a large write that failed")) {
		r = flush_poisoned(fs, layer);
		if (r || upto <= atomic_load(&layer->committed_seq))
			return r;
	}
	if (MUTATED("commit record before the sync of the data"))
		add_commit(fs, layer, upto, written);
	r = SITE("flush: sync data before the commit record", layer_sync_data(layer));
	if (!r)
		r = SITE("flush: sync the pool before the commit record", pool_sync(fs->pool));
	if (r) {
		/* The pages are gone: what was acknowledged may not be what is there. */
		layer_fail(fs, layer, r, "sync the data");
		return -EIO;
	}
	r = SITE("flush: append the commit record", add_commit(fs, layer, upto, written));
	if (!r)
		layer_set_committed(layer, upto);
	INVARIANT(1, r || upto <= atomic_load(&layer->committed_seq));
	return r;
}

/*
 * A layer and all below it, kept from being freed. They are listed, since one of them may come to stand
 * on something else meanwhile (recast.c): then all that it showed before was made durable in it.
 */
struct chain {
	struct layer **list;
	size_t count;
	struct layer *few[CHAIN_FEW];
};

/* tree held. -ENOMEM. */
static int hold(struct chain *chain, struct layer *layer)
{
	size_t count = 0;

	for (const struct layer *l = layer; l; l = l->parent)
		count++;
	chain->list = count <= CHAIN_FEW ? chain->few : malloc(count * sizeof(*chain->list));
	chain->count = 0;
	if (!chain->list)
		return -ENOMEM;
	for (; layer; layer = layer->parent) {
		atomic_fetch_add(&layer->users, 1);
		chain->list[chain->count++] = layer;
	}
	return 0;
}

static void hold_end(struct chain *chain)
{
	for (size_t i = 0; i < chain->count; i++)
		atomic_fetch_sub(&chain->list[i]->users, 1);
	if (chain->list != chain->few)
		free(chain->list);
}

static int flush_chain(struct fs *fs, const struct chain *chain)
{
	int r = 0;

	for (size_t i = 0; i < chain->count && !r; i++) {
		r = flush_layer(fs, chain->list[i]);
		if (MUTATED("fsync leaves out the layers below"))
			break;
	}
	return r;
}

void fs_fsync(struct fs *fs, uint64_t ino, void (*done)(void *arg, int result), void *arg)
{
	struct layer *layer = NULL;
	struct io_flush *flush = NULL;
	struct chain chain;
	struct inode *inode;
	bool golden = false;
	int r = 0;

	COUNT(fs, flushes, 1);
	pthread_rwlock_rdlock(&fs->tree);
	inode = tree_find(fs, ino);
	if (inode) {
		golden = inode->kind == GF_KIND_GOLDEN;
		layer = atomic_load(&inode->layer);
		if (layer) {
			r = hold(&chain, layer);
			straight_synced(inode);
			flush = io_flush_begin(inode, done, arg);
		}
	}
	pthread_rwlock_unlock(&fs->tree);
	if (flush) {
		done = io_flush_done;
		arg = flush;
	}
	if (!inode)
		r = -ESTALE;
	else if (!r && !fs->options.read_only && !golden)
		r = fs_writable(fs);
	if (layer) {
		if (!r && !fs->options.read_only)
			r = atomic_load(&layer->failed) ? -EIO : flush_chain(fs, &chain);
		hold_end(&chain);
	}
	if (r || fs->options.read_only || golden) {
		done(arg, r);
		return;
	}
	if (MUTATED("fsync answers before the journal's sync"))
		done(arg, 0);
	else
		journal_sync_async(fs->journal, journal_last_seq(fs->journal), done, arg);
}

int flush_below(struct fs *fs, struct layer *layer)
{
	struct chain chain;
	int r;

	pthread_rwlock_rdlock(&fs->tree);
	/* What is below one that is gone may be gone as well. */
	r = layer->refs ? hold(&chain, layer->parent) : -ESTALE;
	pthread_rwlock_unlock(&fs->tree);
	if (r)
		return r;
	r = flush_chain(fs, &chain);
	hold_end(&chain);
	return r;
}

int fs_sync_file(struct fs *fs, uint64_t ino)
{
	struct layer *layer = NULL;
	struct chain chain;
	struct inode *inode;
	int r = fs_writable(fs);

	if (r)
		return r;
	pthread_rwlock_rdlock(&fs->tree);
	inode = tree_find(fs, ino);
	layer = inode ? atomic_load(&inode->layer) : NULL;
	if (layer)
		r = hold(&chain, layer);
	pthread_rwlock_unlock(&fs->tree);
	if (!layer)
		return inode ? 0 : -ESTALE;
	if (!r)
		r = atomic_load(&layer->failed) ? -EIO : flush_chain(fs, &chain);
	hold_end(&chain);
	return r ? r : SITE("sync of one file: sync the journal",
		journal_sync(fs->journal, journal_last_seq(fs->journal)));
}

int fs_sync_journal(struct fs *fs)
{
	int r = fs_writable(fs);

	return r ? r : SITE("sync of names: sync the journal",
		journal_sync(fs->journal, journal_last_seq(fs->journal)));
}

int flush_recovered_layer(struct fs *fs, struct layer *layer)
{
	int r = flush_layer(fs, layer);

	if (!r)
		r = SITE("flush of what recovery found: sync the journal",
			journal_sync(fs->journal, journal_last_seq(fs->journal)));
	if (!r)
		atomic_store(&layer->recovered, false);
	return r;
}

int flush_recovered(struct fs *fs, struct inode *inode)
{
	struct layer *layer;
	int r;

	pthread_rwlock_rdlock(&fs->tree);
	layer = atomic_load(&inode->layer);
	atomic_fetch_add(&layer->users, 1);
	pthread_rwlock_unlock(&fs->tree);
	r = flush_recovered_layer(fs, layer);
	atomic_fetch_sub(&layer->users, 1);
	return r;
}

/* The layers with large writes that no commit record covers yet, each held. */
static int collect_uncommitted(struct fs *fs, struct layer ***list, size_t *count)
{
	struct layer_entry *entry, *next;
	int r = 0;

	*count = 0;
	pthread_rwlock_rdlock(&fs->tree);
	*list = malloc((HASH_COUNT(fs->layers) + 1) * sizeof(**list));
	if (!*list)
		r = -ENOMEM;
	HASH_ITER (hh, fs->layers, entry, next) {
		struct layer *layer = entry->layer;

		if (r || atomic_load(&layer->large_seq) <= atomic_load(&layer->committed_seq))
			continue;
		atomic_fetch_add(&layer->users, 1);
		(*list)[(*count)++] = layer;
	}
	pthread_rwlock_unlock(&fs->tree);
	return r;
}

static int sync_all(struct fs *fs, bool but_failed)
{
	struct layer **list;
	size_t count;
	int r = fs_writable(fs);

	if (r)
		return r == -EROFS ? 0 : r;
	r = collect_uncommitted(fs, &list, &count);
	for (size_t i = 0; i < count; i++) {
		if (!r && !(but_failed && atomic_load(&list[i]->failed)))
			r = flush_layer(fs, list[i]);
		atomic_fetch_sub(&list[i]->users, 1);
	}
	free(list);
	if (!r && !but_failed && atomic_load(&fs->failed_layers))
		r = -EIO;
	return r ? r : SITE("sync of everything: sync the journal",
		journal_sync(fs->journal, journal_last_seq(fs->journal)));
}

int fs_sync(struct fs *fs)
{
	return sync_all(fs, false);
}

int fs_sync_others(struct fs *fs)
{
	return sync_all(fs, true);
}

/* ---- syncing behind who asked ---- */

static void *syncer_main(void *arg)
{
	struct fs *fs = arg;
	struct syncer *s = &fs->syncer;

	pthread_mutex_lock(&s->lock);
	while (!s->stopping) {
		uint64_t asked = s->asked;
		bool all = s->served != asked;
		int64_t now;
		int r;

		if (!all && !atomic_load(&s->journal_asked)) {
			pthread_cond_wait(&s->work, &s->lock);
			continue;
		}
		s->began_ns = times_now(CLOCK_MONOTONIC);
		pthread_mutex_unlock(&s->lock);
		if (!all)
			atomic_store(&s->journal_asked, false);
		/* An error ends the journal, and so is told to everybody. */
		r = all ? fs_sync_others(fs) : fs_sync_journal(fs);
		pthread_mutex_lock(&s->lock);
		now = times_now(CLOCK_MONOTONIC);
		s->slow_ns = now - s->began_ns > SOON_NS ? now : 0;
		s->began_ns = 0;
		if (!all)
			continue;
		s->served = asked;
		s->result = r;
		pthread_cond_broadcast(&s->done);
	}
	pthread_mutex_unlock(&s->lock);
	return NULL;
}

int syncer_start(struct fs *fs)
{
	struct syncer *s = &fs->syncer;
	int r;

	pthread_mutex_init(&s->lock, NULL);
	pthread_cond_init(&s->work, NULL);
	times_cond_init(&s->done);
	r = pthread_create(&s->thread, NULL, syncer_main, fs);
	s->runs = r == 0;
	return -r;
}

void syncer_stop(struct fs *fs)
{
	struct syncer *s = &fs->syncer;

	if (!s->runs)
		return;
	pthread_mutex_lock(&s->lock);
	s->stopping = true;
	pthread_cond_signal(&s->work);
	pthread_mutex_unlock(&s->lock);
	pthread_join(s->thread, NULL);
	s->runs = false;
	pthread_cond_destroy(&s->done);
	pthread_cond_destroy(&s->work);
	pthread_mutex_destroy(&s->lock);
}

void sync_journal_soon(struct fs *fs)
{
	struct syncer *s = &fs->syncer;

	if (!s->runs || atomic_exchange(&s->journal_asked, true))
		return;
	MUTEX_GUARD(&s->lock);
	pthread_cond_signal(&s->work);
}

/* How long it is worth waiting: a disk that was too slow a moment ago, or is now, is not waited for in vain. */
static int64_t patience(const struct syncer *s, int64_t now)
{
	bool is_slow = s->began_ns && now - s->began_ns > SOON_NS;
	bool was_slow = s->slow_ns && now - s->slow_ns < BUSY_NS;

	return is_slow || was_slow ? 0 : SOON_NS;
}

int fs_sync_soon(struct fs *fs)
{
	struct syncer *s = &fs->syncer;
	int64_t now = times_now(CLOCK_MONOTONIC);
	struct timespec until;
	uint64_t mine;

	if (!s->runs)
		return fs_sync_others(fs);
	about_to_block();
	MUTEX_GUARD(&s->lock);
	/* A sync that is running may have begun before what is to be durable now. */
	mine = ++s->asked;
	until = times_spec(now + patience(s, now));
	pthread_cond_signal(&s->work);
	while (s->served < mine)
		if (pthread_cond_timedwait(&s->done, &s->lock, &until) == ETIMEDOUT)
			return 0;
	return s->result;
}
