/* SPDX-License-Identifier: MIT */
/*
 * The journal: one ring of records for all clones, the place where small writes and all changes of
 * the catalog become durable.
 *
 * Positions count bytes since the store was made; the file is preallocated by writing zeros, so
 * that a sync of an append touches no metadata of the file system below.
 *
 * Append happens under one mutex: header and ops go to the page cache by one pwritev, then the
 * head moves. So an acknowledged record never has an unwritten one before it, and a failed append
 * leaves no hole: the next one takes its place. (A lock-free append with fillers was not needed:
 * the file system below serialises writers of one file anyway.) Checksums of the ops are computed
 * before the mutex is taken.
 *
 * Space: whoever appends reserves first, before it takes any lock that the destager needs. A
 * reservation waits for the destager to free the tail; when destaging fails for want of space
 * below, it fails with -ENOSPC instead.
 *
 * Damage: the chain of whole records ends where power was lost, or where something is damaged. To
 * tell one from the other, each record says up to which number the ring was known to be durable
 * when it was appended, and after each sync a small file beside the ring says so too. The chain may
 * not end before that; and not before any whole record while the machine has not lost power, since
 * records are appended one after the other. Headers are summed with the store's secret, so that no guest can write bytes
 * that look like one.
 *
 * Sync: requests that come while a sync is running are served together by the next one. The
 * thread that finds none running leads; it never waits for the destager. A failed sync is final:
 * the journal refuses everything from then on.
 */
#ifndef GOLDFS_STORE_JOURNAL_H
#define GOLDFS_STORE_JOURNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/hash.h"
#include "base/io.h"

struct journal;

/* A point between two records: the next one has this place, number and predecessor. */
struct journal_mark {
	uint64_t pos;
	uint64_t seq;
	uint64_t prev;
};

/* Creates journal/0 of size bytes (a multiple of 4096), full of zeros, synced. */
int journal_create(struct io *io, uint64_t size);

/* secret: the store's, lent until the journal is closed. */
int journal_open(struct journal **journal, struct io *io, uint64_t size,
	const uint8_t secret[HASH_SECRET_LEN], bool read_only);
void journal_close(struct journal *journal);

/*
 * Walks the chain of whole records from tail and calls cb with the ops of each; ops_pos is the
 * ring position of the first op. Afterwards, the journal's tail is `tail` and its head is behind
 * the last record of the chain. cb may be NULL. Stops with cb's error. *epoch: the highest seen.
 */
int journal_scan(struct journal *journal, struct journal_mark tail,
	int (*cb)(void *arg, uint64_t seq, uint64_t ops_pos, const void *ops, size_t len),
	void *arg, uint64_t *epoch);

/*
 * After journal_scan(): whether records behind the end of the chain were durable once, or were
 * appended in this life of the machine, which means that the record which should follow there is
 * damaged. life: number of a record that was durable before this life appended another one, and is
 * not of an earlier life; JOURNAL_OTHER_LIFE when power may have been lost since. 1 with *upto, the
 * highest number known to have been there; 0; or -errno.
 */
#define JOURNAL_OTHER_LIFE UINT64_MAX
int journal_lost(struct journal *journal, uint64_t life, uint64_t *upto);
/*
 * Recovery: has all records that were found written once more, as they are, before anything relies
 * on a sync. The dead process may have been told that its sync failed, and the kernel tells only
 * once: the pages count as clean since, and the next sync would find nothing to write.
 */
int journal_write_again(struct journal *j);
/* Gives up what is behind the end of the chain, so that nothing says it was durable any more. */
int journal_forget_lost(struct journal *journal);

/*
 * Whether any record anywhere in the ring has a number of at least seq, part of the chain or not:
 * then more happened than what a catalog whose tail is seq knows. Reads the whole ring. 1, 0, or
 * -errno.
 */
int journal_holds_newer(struct journal *journal, uint64_t seq);

/* Whether what stands behind the chain's last record was begun as the next one, and is not whole:
 * as a power loss leaves it, or damage. 1, 0, or -errno. */
int journal_ends_torn(struct journal *journal);

/* next: the point behind the record. */
typedef int journal_walker(void *arg, const struct journal_mark *next, uint64_t seq, uint64_t ops_pos,
	const void *ops, size_t len);
/*
 * Walks the records from `from` on, at which one begins, as far as they go below number upto, while
 * others append. Stops when cb returns non-zero and returns that. -EIO: a record that was there cannot be read.
 */
int journal_walk(struct journal *journal, struct journal_mark from, uint64_t upto, journal_walker *cb, void *arg);
/* The same for all that a scan found whole, see journal_believe_scan(), as fast as a scan: nobody appends. */
int journal_walk_scanned(struct journal *journal, struct journal_mark from, journal_walker *cb, void *arg);

/* What the last scan found whole need not be looked at again by the next. Recovery only. */
void journal_believe_scan(struct journal *journal);

/* For a successor in the same life: what the dead process knew to be durable is. After a scan. */
void journal_believe_synced(struct journal *journal);

/* Records written from now on carry this epoch. */
void journal_set_epoch(struct journal *journal, uint64_t epoch);

/* The largest ops that one record may carry, bytes. */
size_t journal_max_ops(const struct journal *journal);

/* The last parts of the ring are kept: one for records that end things or free space (commit,
 * epoch, discard, truncate, unlink), so that a full disk can be got out of, and one for the
 * checkpoint, which carries records on that it cannot make superfluous. */
enum journal_urgency { JOURNAL_ORDINARY, JOURNAL_URGENT, JOURNAL_CARRY };

/* Whether more than half of it is taken: it is not emptied as fast as it fills. */
bool journal_is_pressed(struct journal *journal);
/*
 * For who writes many records and has appended one with len bytes of ops: ns that it should wait now,
 * so that it does not have to wait long when the ring is full (throttle.h).
 */
int64_t journal_pause(struct journal *journal, size_t len);

/*
 * Room for one record with len bytes of ops. Waits for the destager unless destaging is stuck:
 * then -ENOSPC. -EIO: the journal has failed. -EFBIG: can never fit. Give it back with
 * journal_unreserve() after appending or instead of it. Returns the amount as a token, or < 0.
 */
int64_t journal_reserve(struct journal *journal, size_t len, enum journal_urgency urgency);
void journal_unreserve(struct journal *journal, int64_t token);
/* The same without waiting: -ENOSPC when there is no room now. */
int64_t journal_try_reserve(struct journal *journal, size_t len, enum journal_urgency urgency);

/*
 * Appends one record with the bytes of iov as ops (at most 3 parts). On success *seq is its
 * number and *ops_pos the ring position of its first op byte.
 */
int journal_append(struct journal *journal, const struct iovec *iov, int count, uint64_t *seq,
	uint64_t *ops_pos);

/* Returns when a record may be appended without waiting for one before it, or for a file system below that is
 * frozen: as far as that is known now. */
void journal_await(struct journal *journal);

/* Calls done(arg, result) once, here or on another thread, when everything up to seq is durable. */
void journal_sync_async(struct journal *journal, uint64_t seq, void (*done)(void *, int),
	void *arg);
/* The same, waiting. */
int journal_sync(struct journal *journal, uint64_t seq);

/* Reads len bytes at ring position pos, which must not wrap. The caller keeps the tail away. */
int journal_read(struct journal *journal, uint64_t pos, void *buf, size_t len);

/* Whether all of it lies between tail and head (for assertions). */
bool journal_holds(struct journal *journal, uint64_t pos, uint64_t len);

struct journal_mark journal_head(struct journal *journal);
uint64_t journal_last_seq(struct journal *journal);
/* Whether the record with that number, and all before it, survive a power loss. */
bool journal_is_durable(struct journal *journal, uint64_t seq);
/* A point between records at which no more than that many bytes lie behind the tail, to an eighth of
 * the ring; the head when it is nearer. */
struct journal_mark journal_head_within(struct journal *journal, uint64_t bytes);
/* Frees everything before mark. */
void journal_set_tail(struct journal *journal, struct journal_mark mark);
/* Bytes between tail and head. */
uint64_t journal_used(struct journal *journal);
uint64_t journal_size(const struct journal *journal);
/* The destager begins what will give that many bytes of the ring back; 0: it came to nothing. */
void journal_note_lap(struct journal *journal, uint64_t bytes);
/* What the destager did: bytes of the ring given back within ns, which ends that. journal_pause() goes by both. */
void journal_note_drained(struct journal *journal, uint64_t bytes, int64_t ns);
/* Whether journal_reserve(len) would succeed at once. */
bool journal_has_room(struct journal *journal, size_t len, enum journal_urgency urgency);
/* Whether records are waiting for room: the destager should hurry. */
bool journal_is_short(struct journal *journal);
/* While stuck, a reservation that finds no room fails with err at once instead of waiting. */
void journal_set_stuck(struct journal *journal, int err);
/* Called (on any thread) when the destager should start. */
void journal_set_pressure(struct journal *journal, void (*cb)(void *), void *arg);

/* Called (on any thread, perhaps more than once) before anybody hears that the journal failed. */
void journal_set_failing(struct journal *journal, void (*cb)(void *arg, int err), void *arg);

/*
 * A thread that has the disk write what was appended, some MiB behind the head: a sync that somebody
 * waits for then has little to do, however much others appended since the last one. Returns 0 or
 * -errno; journal_close() ends it.
 */
int journal_start_write_back(struct journal *journal);

struct journal_counts {
	uint64_t syncs;
	uint64_t records;
	uint64_t bytes;
};
void journal_counts(struct journal *journal, struct journal_counts *counts);
/* Ends it: nothing is appended, synced or waited for any more. err is a negative errno. */
void journal_fail(struct journal *journal, int err);
/* 0, or the error that ended it. */
int journal_error(struct journal *journal);

#endif
