/* SPDX-License-Identifier: MIT */
/*
 * The ring; see the header for what it promises.
 *
 * Locks: `lock` covers head, tail, reservations and the appending write; `sync_lock` covers the
 * queue of sync requests. `lock` is never taken while sync_lock is held for longer than to read
 * the head; neither is held over a sync.
 */
#include "store/journal.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/blocking.h"
#include "base/cleanup.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/invariant.h"
#include "base/mutation.h"
#include "base/sizes.h"
#include "base/times.h"
#include "goldfs/format.h"
#include "store/ops.h"
#include "store/throttle.h"

#define JOURNAL_PATH "journal/0"
#define SYNCED_PATH "journal/0.synced"
#define RECORD_ALIGN 64
#define SCAN_AHEAD (256 * KIB)
#define MAX_OPS_PARTS 3
#define SMALL_RECORD 256
#define MARKS 8 /* points of the ring that are remembered */
#define WRITE_BACK_BYTES (4 * MIB)
#define PREPARE_BYTES (64 * KIB)
#define KEPT_FOR_URGENT (64 * KIB)
#define KEPT_FOR_CARRY (160 * KIB) /* at least: twice the longest record with small blocks */

struct sync_request {
	uint64_t seq;
	void (*done)(void *arg, int result);
	void *arg;
	struct sync_request *next;
};

struct journal {
	struct io *io;
	int fd;
	uint64_t size;
	const uint8_t *secret;
	uint64_t epoch;
	bool read_only;

	/*
	 * Who appends holds append_lock while it writes, and alone moves the head. What others
	 * look at is under the lock, which nobody holds for long: making a reservation, or giving
	 * one back, does not wait for somebody else's record. append_lock is taken first.
	 */
	pthread_mutex_t append_lock;
	pthread_mutex_t lock;
	pthread_cond_t room;
	struct journal_mark head; /* append_lock and lock; either is enough to read it */
	_Atomic uint64_t tail_pos; /* changed under lock */
	_Atomic uint64_t used;	   /* from the tail to the head; changed under lock */
	uint64_t prepared; /* append_lock; pages before it are in the page cache, or were */
	uint64_t whole_until; /* records below were found whole; recovery only */
	uint64_t reserved;	  /* lock; bytes promised to appenders */
	unsigned waiting;	  /* lock; reservations that wait for room */
	int stuck;		  /* lock; errno of the destager, 0 when it works */
	void (*pressure)(void *arg);
	void *pressure_arg;
	void (*failing)(void *arg, int err);
	void *failing_arg;
	struct journal_counts counts; /* lock, but for syncs: sync_lock */
	struct throttle throttle; /* lock */
	struct journal_mark marks[MARKS]; /* lock; the first behind each part of the ring */

	pthread_t writer; /* has the disk begin with what was appended */
	bool writer_runs;
	bool writer_stops;	   /* lock */
	uint64_t written_back; /* lock; up to here the disk was asked */
	pthread_cond_t appended;   /* lock; there is enough to ask for */

	pthread_mutex_t sync_lock;
	struct sync_request *queue; /* sync_lock */
	bool leading;		    /* sync_lock */
	int synced_fd;		    /* of who leads; -1: not open */
	_Atomic uint64_t durable_seq; /* changed under sync_lock */
	atomic_int failed;	    /* errno of the sync that failed, 0 */
	bool sync_failed;	    /* of who leads; for assertions: pages may be gone */
};

/* From pos to end, which count on beyond the ring's size. Page caches keep what was written at once as one
 * piece, of which every later append to it walks all blocks: with a MiB that takes longer than the copying. */
static int write_zeros(struct io *io, int fd, uint64_t size, uint64_t pos, uint64_t end)
{
	static const uint8_t zeros[PREPARE_BYTES];
	int r = 0;

	while (pos < end && !r) {
		size_t len = min_u64(min_u64(PREPARE_BYTES, end - pos), size - pos % size);

		r = io_pwrite(io, fd, zeros, len, pos % size);
		pos += len;
	}
	return r;
}

int journal_create(struct io *io, uint64_t size)
{
	int fd, r;

	fd = io->ops->open(io, JOURNAL_PATH, O_RDWR | O_CREAT | O_TRUNC);
	if (fd < 0)
		return fd;
	r = write_zeros(io, fd, size, 0, size);
	if (!r)
		r = SITE("sync the empty journal", io->ops->fdatasync(io, fd));
	io->ops->close(io, fd);
	return r ? r : SITE("sync the journal's name", io->ops->syncdir(io, "journal"));
}

/* A record is in the page cache in some microseconds: less than sleeping and being woken takes. */
static void init_append_lock(pthread_mutex_t *lock)
{
	pthread_mutexattr_t attr;

	pthread_mutexattr_init(&attr);
	pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_ADAPTIVE_NP);
	pthread_mutex_init(lock, &attr);
	pthread_mutexattr_destroy(&attr);
}

int journal_open(struct journal **journal, struct io *io, uint64_t size,
	const uint8_t secret[HASH_SECRET_LEN], bool read_only)
{
	struct journal *j = calloc(1, sizeof(*j));
	struct io_stat st;
	int r;

	if (!j)
		return -ENOMEM;
	j->fd = io->ops->open(io, JOURNAL_PATH, read_only ? O_RDONLY : O_RDWR);
	if (j->fd < 0) {
		r = log_error(j->fd, "cannot open the store's \"%s\"", JOURNAL_PATH);
		free(j);
		return r;
	}
	r = io->ops->stat(io, j->fd, &st);
	if (!r && st.size != size)
		r = log_error(-EUCLEAN, "the store's \"%s\" has %llu bytes instead of %llu",
			JOURNAL_PATH, (unsigned long long)st.size, (unsigned long long)size);
	if (r) {
		io->ops->close(io, j->fd);
		free(j);
		return r;
	}
	j->io = io;
	j->size = size;
	j->secret = secret;
	j->synced_fd = -1;
	j->read_only = read_only;
	init_append_lock(&j->append_lock);
	pthread_mutex_init(&j->lock, NULL);
	pthread_mutex_init(&j->sync_lock, NULL);
	pthread_cond_init(&j->room, NULL);
	pthread_cond_init(&j->appended, NULL);
	throttle_init(&j->throttle);
	*journal = j;
	return 0;
}

static void stop_write_back(struct journal *j)
{
	if (!j->writer_runs)
		return;
	pthread_mutex_lock(&j->lock);
	j->writer_stops = true;
	pthread_cond_signal(&j->appended);
	pthread_mutex_unlock(&j->lock);
	pthread_join(j->writer, NULL);
	j->writer_runs = false;
}

void journal_close(struct journal *j)
{
	if (!j)
		return;
	stop_write_back(j);
	j->io->ops->close(j->io, j->fd);
	if (j->synced_fd >= 0)
		j->io->ops->close(j->io, j->synced_fd);
	pthread_cond_destroy(&j->appended);
	pthread_cond_destroy(&j->room);
	pthread_mutex_destroy(&j->sync_lock);
	pthread_mutex_destroy(&j->lock);
	pthread_mutex_destroy(&j->append_lock);
	free(j);
}

/* ---- reading the chain ---- */

static uint64_t header_sum(const uint8_t *secret, const struct gf_disk_record *rec)
{
	return hash_content(secret, rec, offsetof(struct gf_disk_record, sum));
}

/* Whether bytes can be the header of the record that follows mark. Pure. */
static bool record_follows(const uint8_t *secret, const struct gf_disk_record *rec,
	const struct journal_mark *mark, uint64_t epoch, uint64_t room)
{
	return rec->magic == GF_RECORD_MAGIC && rec->length >= sizeof(*rec) &&
	       rec->length % RECORD_ALIGN == 0 && rec->length <= room &&
	       rec->used <= rec->length - sizeof(*rec) &&
	       (rec->seq == mark->seq || MUTATED("recovery follows records of any number")) &&
	       (rec->prev == mark->prev || MUTATED("recovery follows records of another chain")) &&
	       (rec->epoch >= epoch || MUTATED("recovery follows records of an older epoch")) &&
	       (rec->sum == header_sum(secret, rec) ||
		       MUTATED("recovery follows records whose header is torn"));
}

/* A piece of the file in memory. Most records are small: read one by one, a hundred thousand of
 * them take longer to ask for than to look at, and a successor's clients wait for it. */
struct window {
	uint8_t *buf;
	size_t capacity;
	uint64_t place; /* in the file */
	size_t len;
	uint64_t prepared; /* append_lock; pages before it are in the page cache, or were */
	uint64_t whole_until; /* records below this number were looked at before */
	size_t ahead; /* bytes to read when more is needed; 0: just those, as others are appending */
};

static void window_release(struct window *w)
{
	free(w->buf);
}

#define CLEANUP_WINDOW __attribute__((cleanup(window_release)))

/* Makes [place, place + len) be in the window, which does not reach over the end of the file. */
static int window_reach(struct journal *j, struct window *w, uint64_t place, size_t len)
{
	size_t want = min_u64(max_u64(len, w->ahead), j->size - place);
	int r;

	if (place >= w->place && place + len <= w->place + w->len)
		return 0;
	w->len = 0;
	if (want > w->capacity) {
		uint8_t *bigger = realloc(w->buf, want);

		if (!bigger)
			return -ENOMEM;
		w->buf = bigger;
		w->capacity = want;
	}
	r = io_pread_full(j->io, j->fd, w->buf, want, place);
	/* What cannot be read may lie behind what is needed. */
	if (r && want > len) {
		want = len;
		r = io_pread_full(j->io, j->fd, w->buf, want, place);
	}
	if (r)
		return r;
	w->place = place;
	w->len = want;
	return 0;
}

/*
 * Finds the record at mark; *record is valid until the next call. 1 when it is there and whole, 0
 * when the chain ends, or -errno when the file cannot be read.
 */
static int read_record(struct journal *j, const struct journal_mark *mark, uint64_t epoch,
	struct window *w, const struct gf_disk_record **record)
{
	uint64_t place = mark->pos % j->size;
	const struct gf_disk_record *rec;
	int r;

	r = window_reach(j, w, place, sizeof(*rec));
	if (r)
		return r;
	rec = (const void *)(w->buf + (place - w->place));
	if (!record_follows(j->secret, rec, mark, epoch, j->size - place))
		return 0;
	r = window_reach(j, w, place, rec->length);
	if (r)
		return r;
	rec = (const void *)(w->buf + (place - w->place));
	*record = rec;
	/* The second walk over the same records need not look at all bytes again. */
	return rec->seq < w->whole_until || hash_struct(rec + 1, rec->used) == rec->ops_sum ||
	       MUTATED("recovery follows records whose ops are torn");
}

/* The ring has MARKS parts; of each the first point between records is kept. lock, or nobody else there. */
static void remember_mark(struct journal *j, uint64_t before, const struct journal_mark *mark)
{
	uint64_t part = j->size / MARKS;

	if (before / part != mark->pos / part)
		j->marks[mark->pos / part % MARKS] = *mark;
}

int journal_scan(struct journal *j, struct journal_mark tail,
	int (*cb)(void *arg, uint64_t seq, uint64_t ops_pos, const void *ops, size_t len),
	void *arg, uint64_t *epoch)
{
	CLEANUP_WINDOW struct window window = {.ahead = SCAN_AHEAD, .whole_until = j->whole_until};
	const struct gf_disk_record *rec;
	struct journal_mark mark = tail;
	uint64_t last_epoch = 0;
	int r;

	/* The bound on the walk: a chain can never be longer than the ring. */
	while (mark.pos - tail.pos < j->size &&
		(r = read_record(j, &mark, last_epoch, &window, &rec)) != 0) {
		if (r < 0)
			return log_error(r, "cannot read the journal at %llu",
				(unsigned long long)mark.pos);
		if (mark.pos + rec->length - tail.pos > j->size)
			break;
		if (cb) {
			r = cb(arg, rec->seq, mark.pos + sizeof(*rec), rec + 1, rec->used);
			if (r)
				return r;
		}
		last_epoch = rec->epoch;
		mark.pos += rec->length;
		mark.seq++;
		mark.prev = rec->sum;
		remember_mark(j, mark.pos - rec->length, &mark);
	}
	if (epoch)
		*epoch = last_epoch;
	j->tail_pos = tail.pos;
	j->head = mark;
	return 0;
}

void journal_believe_scan(struct journal *j)
{
	j->whole_until = j->head.seq;
}

int journal_ends_torn(struct journal *j)
{
	struct gf_disk_record rec;
	int r = io_pread_full(j->io, j->fd, &rec, sizeof(rec), j->head.pos % j->size);

	return r ? r : rec.seq == j->head.seq || (j->head.prev && rec.prev == j->head.prev);
}

static int walk(struct journal *j, struct journal_mark mark, uint64_t upto, struct window *window,
	journal_walker *cb, void *arg)
{
	int r = 0;

	while (mark.seq < upto && !r) {
		uint64_t pos = mark.pos;
		const struct gf_disk_record *rec;

		r = read_record(j, &mark, 0, window, &rec);
		if (r <= 0)
			return log_error(r ? r : -EIO, "cannot read the journal at %llu",
				(unsigned long long)pos);
		mark.pos += rec->length;
		mark.seq++;
		mark.prev = rec->sum;
		r = cb(arg, &mark, rec->seq, pos + sizeof(*rec), rec + 1, rec->used);
	}
	return r;
}

int journal_walk(struct journal *j, struct journal_mark from, uint64_t upto, journal_walker *cb, void *arg)
{
	CLEANUP_WINDOW struct window window = {.buf = NULL};

	return walk(j, from, upto, &window, cb, arg);
}

int journal_walk_scanned(struct journal *j, struct journal_mark from, journal_walker *cb, void *arg)
{
	CLEANUP_WINDOW struct window window = {.ahead = SCAN_AHEAD, .whole_until = j->whole_until};

	return walk(j, from, j->whole_until, &window, cb, arg);
}

static bool is_newer_record(const uint8_t *secret, const struct gf_disk_record *rec, uint64_t seq)
{
	return rec->magic == GF_RECORD_MAGIC && rec->seq >= seq && rec->sum == header_sum(secret, rec);
}

int journal_holds_newer(struct journal *j, uint64_t seq)
{
	CLEANUP_FREE uint8_t *buf = malloc(MIB);

	if (!buf)
		return -ENOMEM;
	for (uint64_t off = 0; off < j->size; off += MIB) {
		size_t len = min_u64(MIB, j->size - off);
		int r = io_pread_full(j->io, j->fd, buf, len, off);

		if (r)
			return log_error(r, "cannot read the journal at %llu", (unsigned long long)off);
		for (size_t at = 0; at < len; at += RECORD_ALIGN)
			if (is_newer_record(
				    j->secret, (const struct gf_disk_record *)(buf + at), seq))
				return 1;
	}
	return 0;
}

/* ---- where the chain must not end ---- */

static void synced_encode(const struct journal *j, uint64_t seq, struct gf_disk_synced *disk)
{
	*disk = (struct gf_disk_synced){.magic = GF_SYNCED_MAGIC, .seq = seq};
	disk->sum = hash_content(j->secret, disk, offsetof(struct gf_disk_synced, sum));
}

/* What the file beside the ring says; 0 when it says nothing. A hint: whatever is wrong with it,
 * it is written anew after the next sync. */
static uint64_t read_synced(struct journal *j)
{
	struct gf_disk_synced disk, want;
	int fd = j->io->ops->open(j->io, SYNCED_PATH, O_RDONLY), r;

	if (fd < 0)
		return 0;
	r = io_pread_full(j->io, fd, &disk, sizeof(disk), 0);
	j->io->ops->close(j->io, fd);
	if (r)
		return 0;
	synced_encode(j, disk.seq, &want);
	return memcmp(&disk, &want, sizeof(disk)) == 0 ? disk.seq : 0;
}

/* By who leads, after a sync. Lost with the power, it says less: that harms nothing. */
static void write_synced(struct journal *j, uint64_t seq)
{
	struct gf_disk_synced disk;

	if (j->synced_fd < 0)
		j->synced_fd = j->io->ops->open(j->io, SYNCED_PATH, O_RDWR | O_CREAT);
	if (j->synced_fd < 0)
		return;
	synced_encode(j, seq, &disk);
	io_pwrite(j->io, j->synced_fd, &disk, sizeof(disk), 0);
}

/*
 * What must be there because a header says so that is whole and stands behind the head: the numbers
 * it calls durable, and its own when it is of this life of the machine. Headers stand one behind
 * the other, but for what is damaged, and that is no more than a record or two: behind a stretch of
 * twice the longest record without any, there are none. Numbers below the head's are of earlier
 * laps. Those of an earlier chain that ended for good name nothing durable from the head's number
 * on: where that ended everything durable had been found. That is also how a record of this life
 * is known: it was appended when this life's first record was durable.
 */
static int search_promised(struct journal *j, uint64_t life, uint64_t *upto)
{
	const uint64_t stretch = 2 * (min_u64(j->size / 8, 8 * MIB) + RECORD_ALIGN);
	CLEANUP_FREE uint8_t *buf = malloc(MIB);
	uint64_t pos = j->head.pos, end = pos + min_u64(stretch, j->size), have = 0, at = 0;

	if (!buf)
		return -ENOMEM;
	while (pos < end) {
		const struct gf_disk_record *rec;
		uint64_t place = pos % j->size;

		if (pos < at || pos - at + sizeof(*rec) > have) {
			int r;

			at = pos;
			have = min_u64(MIB, j->size - place);
			r = io_pread_full(j->io, j->fd, buf, have, place);
			if (r)
				return log_error(r, "cannot read the journal at %llu",
					(unsigned long long)place);
		}
		rec = (const struct gf_disk_record *)(buf + (pos - at));
		if (!is_newer_record(j->secret, rec, j->head.seq) || rec->length < sizeof(*rec) ||
			rec->length % RECORD_ALIGN || rec->length > j->size - place) {
			pos += RECORD_ALIGN;
			continue;
		}
		*upto = max_u64(*upto, rec->durable);
		/* The one at the head may be what its process died of, or what did not fit. */
		if (rec->durable >= life && rec->seq > j->head.seq)
			*upto = max_u64(*upto, rec->seq);
		pos += rec->length;
		end = min_u64(pos + stretch, j->head.pos + j->size);
	}
	return 0;
}

int journal_lost(struct journal *j, uint64_t life, uint64_t *upto)
{
	int r;

	*upto = read_synced(j);
	r = search_promised(j, life, upto);
	return r ? r : *upto >= j->head.seq;
}

void journal_believe_synced(struct journal *j)
{
	MUTEX_GUARD(&j->sync_lock);
	j->durable_seq = min_u64(read_synced(j), j->head.seq - 1);
}

int journal_forget_lost(struct journal *j)
{
	int r = write_zeros(j->io, j->fd, j->size, j->head.pos, j->tail_pos + j->size);

	if (!r)
		r = SITE("sync the end of the chain", j->io->ops->fdatasync(j->io, j->fd));
	if (!r)
		write_synced(j, j->head.seq - 1);
	/* What it said before must not come back: the chain would seem to end too early again. */
	if (!r && j->synced_fd >= 0)
		r = SITE("sync that less was promised", j->io->ops->fdatasync(j->io, j->synced_fd));
	return r ? log_error(r, "cannot write the journal") : 0;
}

int journal_write_again(struct journal *j)
{
	CLEANUP_FREE uint8_t *buf = malloc(MIB);
	uint64_t pos = j->tail_pos;
	int r = 0;

	if (!buf)
		return -ENOMEM;
	while (pos < j->head.pos && !r) {
		size_t len = min_u64(min_u64(MIB, j->head.pos - pos), j->size - pos % j->size);

		r = io_pread_full(j->io, j->fd, buf, len, pos % j->size);
		if (!r)
			r = io_pwrite(j->io, j->fd, buf, len, pos % j->size);
		pos += len;
	}
	return r ? log_error(r, "cannot write the journal") : 0;
}

int journal_read(struct journal *j, uint64_t pos, void *buf, size_t len)
{
	return io_pread_full(j->io, j->fd, buf, len, pos % j->size);
}

/* ---- appending ---- */

void journal_set_epoch(struct journal *j, uint64_t epoch)
{
	j->epoch = epoch;
}

size_t journal_max_ops(const struct journal *j)
{
	return min_u64(j->size / 8, 8 * MIB) - sizeof(struct gf_disk_record);
}

static uint64_t record_length(size_t ops_len)
{
	return round_up(sizeof(struct gf_disk_record) + ops_len, RECORD_ALIGN);
}

/* Twice: the end of the ring may have to be skipped by a record of nearly that length. */
static uint64_t room_for(size_t len)
{
	return 2 * record_length(len);
}

static bool has_room_locked(const struct journal *j, uint64_t need, enum journal_urgency urgency)
{
	uint64_t kept = 0;

	if (urgency != JOURNAL_CARRY)
		kept = max_u64(min_u64(KEPT_FOR_CARRY, j->size / 6), j->size / 16);
	if (urgency == JOURNAL_ORDINARY)
		kept += min_u64(KEPT_FOR_URGENT, j->size / 16);
	return j->head.pos - j->tail_pos + j->reserved + need + kept <= j->size;
}

/*
 * The ring's table of invariants. Sums may wrap: positions and numbers come from the store.
 *   tail <= head <= tail + size
 *   durable < head's number
 *   what is reserved was reserved and not given back twice
 */
static void assert_locked(const struct journal *j)
{
	INVARIANT(INVARIANT_JOURNAL, j->head.pos - j->tail_pos <= j->size);
	INVARIANT(INVARIANT_JOURNAL, !j->durable_seq || (int64_t)(j->head.seq - j->durable_seq) > 0);
	INVARIANT(INVARIANT_JOURNAL, j->reserved <= j->size);
}

bool journal_holds(struct journal *j, uint64_t pos, uint64_t len)
{
	uint64_t used;

	MUTEX_GUARD(&j->lock);
	used = j->head.pos - j->tail_pos;
	return len <= used && pos - j->tail_pos <= used - len;
}

bool journal_has_room(struct journal *j, size_t len, enum journal_urgency urgency)
{
	MUTEX_GUARD(&j->lock);
	return has_room_locked(j, room_for(len), urgency);
}

/* Every write asks; lock and clock of journal_pause() cost more than the rest. */
bool journal_is_pressed(struct journal *j)
{
	return atomic_load(&j->used) > j->size / 2;
}

int64_t journal_pause(struct journal *j, size_t len)
{
	uint64_t used;

	if (!journal_is_pressed(j))
		return 0;
	MUTEX_GUARD(&j->lock);
	used = j->head.pos - j->tail_pos + j->reserved;
	if (!j->pressure || j->stuck)
		return 0;
	return throttle_wait(&j->throttle, times_now(CLOCK_MONOTONIC), used, j->size,
		record_length(len));
}

int64_t journal_reserve(struct journal *j, size_t len, enum journal_urgency urgency)
{
	uint64_t need = room_for(len);

	if (len > journal_max_ops(j))
		return -EFBIG;
	MUTEX_GUARD(&j->lock);
	/* The destager starts early: nobody should have to wait for it, and what is in the ring is
	 * what the clients of a worker that died wait for. */
	if (j->pressure && j->head.pos - j->tail_pos > j->size / 4)
		j->pressure(j->pressure_arg);
	while (atomic_load(&j->failed) || !has_room_locked(j, need, urgency)) {
		if (atomic_load(&j->failed))
			return -EIO;
		if (j->stuck)
			return j->stuck;
		j->waiting++;
		if (j->pressure)
			j->pressure(j->pressure_arg);
		about_to_block();
		pthread_cond_wait(&j->room, &j->lock);
		j->waiting--;
	}
	j->reserved += need;
	return need;
}

int64_t journal_try_reserve(struct journal *j, size_t len, enum journal_urgency urgency)
{
	uint64_t need = room_for(len);

	MUTEX_GUARD(&j->lock);
	if (atomic_load(&j->failed))
		return -EIO;
	if (!has_room_locked(j, need, urgency))
		return -ENOSPC;
	j->reserved += need;
	return need;
}

void journal_unreserve(struct journal *j, int64_t token)
{
	MUTEX_GUARD(&j->lock);
	j->reserved -= token;
	assert_locked(j);
	if (j->waiting)
		pthread_cond_broadcast(&j->room);
}

static void fill_header(struct journal *j, struct gf_disk_record *rec, uint64_t length,
	uint64_t used, uint64_t ops_sum)
{
	*rec = (struct gf_disk_record){
		.magic = GF_RECORD_MAGIC,
		.length = length,
		.epoch = j->epoch,
		.seq = j->head.seq,
		.prev = j->head.prev,
		.used = used,
		.durable = atomic_load(&j->durable_seq),
		.ops_sum = ops_sum,
	};
	rec->sum = header_sum(j->secret, rec);
}

static void advance_head(struct journal *j, const struct gf_disk_record *rec)
{
	MUTEX_GUARD(&j->lock);
	j->head.pos += rec->length;
	j->head.seq++;
	j->head.prev = rec->sum;
	j->counts.records++;
	j->counts.bytes += rec->length;
	atomic_store(&j->used, j->head.pos - j->tail_pos);
	remember_mark(j, j->head.pos - rec->length, &j->head);
	if (j->writer_runs && j->head.pos - j->written_back >= WRITE_BACK_BYTES)
		pthread_cond_signal(&j->appended);
	assert_locked(j);
}

/* Fills the rest of the ring, too short for the next record, with one that says nothing. */
static int append_pad(struct journal *j, uint64_t length)
{
	struct {
		struct gf_disk_record rec;
		struct gf_disk_op op;
	} GF_PACKED pad = {.op = {.type = GF_OP_PAD, .length = sizeof(struct gf_disk_op)}};
	/* The very last 64 bytes have room for a header only: a record without any op. */
	uint64_t used = length > sizeof(pad.rec) ? sizeof(pad.op) : 0;
	int r;

	fill_header(j, &pad.rec, length, used, hash_struct(&pad.op, used));
	r = io_pwrite(j->io, j->fd, &pad, sizeof(pad.rec) + used, j->head.pos % j->size);
	if (!r)
		advance_head(j, &pad.rec);
	return r;
}

static void say_failing(struct journal *j, int err)
{
	if (j->failing && !atomic_load(&j->failed))
		j->failing(j->failing_arg, err);
}

/* A ring that cannot be written is no ring; but where a file system needs space to overwrite, the
 * lack of it passes. append_lock held. */
static int append_failed(struct journal *j, int r)
{
	if (r == -ENOSPC)
		return r;
	log_error(r, "cannot write the journal at %llu; the store is read-only now, look at the "
		     "disk below, then mount again", (unsigned long long)(j->head.pos % j->size));
	journal_fail(j, r);
	return -EIO;
}

/* Whoever appends has reserved: this says that a bound was computed wrong. *tail_end: where the ring ends,
 * at the tail. append_lock held. */
static int check_room(struct journal *j, uint64_t length, uint64_t *tail_end)
{
	uint64_t tail = atomic_load(&j->tail_pos);

	*tail_end = tail + j->size;
	if (j->head.pos - tail + length <= j->size)
		return 0;
	return log_error(-EIO, "a record of %llu bytes would overtake the journal's tail",
		(unsigned long long)length);
}

/*
 * Zeros from where the ring was prepared up to some way behind `upto`, in whole pages. A page that was
 * not used since the last lap may not be in the page cache any more: for a record that fills only a part
 * of it the file system below would read it first, which takes a hundred times as long as the append.
 * Before the tail nothing is touched. append_lock held.
 */
static int prepare(struct journal *j, uint64_t upto, uint64_t tail_end)
{
	static const uint8_t zeros[PREPARE_BYTES];

	j->prepared = max_u64(j->prepared, round_up(j->head.pos, GF_BLOCK_SIZE));
	while (j->prepared < upto) {
		uint64_t n = min_u64(PREPARE_BYTES, j->size - j->prepared % j->size);
		int r;

		n = min_u64(n, round_down(less_u64(tail_end, j->prepared), GF_BLOCK_SIZE));
		if (!n)
			return 0;
		r = io_pwrite(j->io, j->fd, zeros, n, j->prepared % j->size);
		if (r)
			return r;
		j->prepared += n;
	}
	return 0;
}

/* A record without bytes of guests, of which there are many to a page, is stored rather than written. */
static int write_record(struct journal *j, const struct iovec *parts, int count, uint64_t length)
{
	uint64_t place = j->head.pos % j->size;
	uint8_t all[SMALL_RECORD];
	size_t len = 0;

	if (length > sizeof(all))
		return j->io->ops->pwritev(j->io, j->fd, parts, count, place);
	for (int i = 0; i < count; i++) {
		memcpy(all + len, parts[i].iov_base, parts[i].iov_len);
		len += parts[i].iov_len;
	}
	return io_poke(j->io, j->fd, all, len, place);
}

void journal_await(struct journal *journal)
{
	MUTEX_GUARD(&journal->append_lock);
	if (journal->io->ops->await_writable)
		journal->io->ops->await_writable(journal->io, journal->fd);
}

int journal_append(struct journal *j, const struct iovec *iov, int count, uint64_t *seq,
	uint64_t *ops_pos)
{
	struct iovec parts[MAX_OPS_PARTS + 1];
	struct gf_disk_record rec;
	uint64_t ops_sum, length, left, tail_end;
	size_t used;
	int r;

	if (j->read_only)
		return -EROFS;
	if (count > MAX_OPS_PARTS)
		return -EINVAL;
	ops_sum = hash_struct_parts(iov, count, &used);
	length = record_length(used);
	memcpy(parts + 1, iov, count * sizeof(*iov));
	parts[0] = (struct iovec){.iov_base = &rec, .iov_len = sizeof(rec)};

	MUTEX_GUARD(&j->append_lock);
	if (atomic_load(&j->failed))
		return -EIO;
	left = j->size - j->head.pos % j->size;
	r = check_room(j, length + (left < length ? left : 0), &tail_end);
	if (r)
		return r;
	if (left < length) {
		r = append_pad(j, left);
		if (r)
			return append_failed(j, r);
	}
	fill_header(j, &rec, length, used, ops_sum);
	r = prepare(j, j->head.pos + length, tail_end);
	if (!r)
		r = write_record(j, parts, count + 1, length);
	if (r)
		return append_failed(j, r);
	*seq = j->head.seq;
	*ops_pos = j->head.pos + sizeof(rec);
	advance_head(j, &rec);
	/* Acknowledged is what lies before the head. */
	INVARIANT(1, j->head.seq == *seq + 1 && j->head.pos == *ops_pos - sizeof(rec) + length);
	return 0;
}

/* ---- syncing ---- */

void journal_fail(struct journal *j, int err)
{
	say_failing(j, err);
	atomic_store(&j->failed, err);
	MUTEX_GUARD(&j->lock);
	pthread_cond_broadcast(&j->room);
}

static struct sync_request *take_queue_locked(struct journal *j)
{
	struct sync_request *list = j->queue;

	j->queue = NULL;
	return list;
}

static void finish_requests(struct journal *j, struct sync_request *list, int result)
{
	while (list) {
		struct sync_request *next = list->next;

		/* Numbers of a hostile store may wrap. */
		INVARIANT(1, result || (int64_t)(atomic_load(&j->durable_seq) - list->seq) >= 0);
		list->done(list->arg, result);
		free(list);
		list = next;
	}
}

/* Serves the queue until it is empty. Every request in a batch was made, and so its record
 * appended, before the sync of that batch starts. */
static void lead(struct journal *j)
{
	pthread_mutex_lock(&j->sync_lock);
	while (j->queue) {
		struct sync_request *batch = take_queue_locked(j);
		uint64_t target, written;
		int r;

		pthread_mutex_unlock(&j->sync_lock);
		written = target = journal_last_seq(j);
		r = atomic_load(&j->failed);
		if (!r) {
			INVARIANT(6, !j->sync_failed);
			r = SITE("sync the journal", j->io->ops->fdatasync(j->io, j->fd));
			j->sync_failed = r != 0;
			if (r)
				log_error(r, "cannot sync the journal; the store is read-only now, "
					     "look at the disk below, then mount again");
		}
		if (MUTATED("count as durable what came during the sync"))
			target = journal_last_seq(j);
		if (r && !MUTATED("try a failed sync of the journal again"))
			journal_fail(j, r);
		else if (!r)
			write_synced(j, target);
		pthread_mutex_lock(&j->sync_lock);
		if (MUTATED("serve requests that came during the sync")) {
			struct sync_request **end = &batch;

			while (*end)
				end = &(*end)->next;
			*end = take_queue_locked(j);
		}
		/* Only what was written when the sync began. */
		INVARIANT(1, r || target == written);
		if (!r && target > j->durable_seq)
			j->durable_seq = target;
		j->counts.syncs++;
		pthread_mutex_unlock(&j->sync_lock);
		finish_requests(j, batch, r ? -EIO : 0);
		pthread_mutex_lock(&j->sync_lock);
	}
	j->leading = false;
	pthread_mutex_unlock(&j->sync_lock);
}

void journal_sync_async(struct journal *j, uint64_t seq, void (*done)(void *, int), void *arg)
{
	struct sync_request *request = NULL;
	bool leader = false;
	int result = 0;

	pthread_mutex_lock(&j->sync_lock);
	if (atomic_load(&j->failed)) {
		result = -EIO;
	} else if (seq > j->durable_seq) {
		request = malloc(sizeof(*request));
		result = request ? 0 : -ENOMEM;
	}
	if (request) {
		*request = (struct sync_request){
			.seq = seq, .done = done, .arg = arg, .next = j->queue};
		j->queue = request;
		leader = !j->leading;
		j->leading = true;
	}
	pthread_mutex_unlock(&j->sync_lock);
	if (!request)
		done(arg, result);
	else if (leader)
		lead(j);
}

struct sync_wait {
	pthread_mutex_t lock;
	pthread_cond_t done;
	bool finished;
	int result;
};

static void wake_waiter(void *arg, int result)
{
	struct sync_wait *wait = arg;

	MUTEX_GUARD(&wait->lock);
	wait->finished = true;
	wait->result = result;
	pthread_cond_signal(&wait->done);
}

int journal_sync(struct journal *j, uint64_t seq)
{
	struct sync_wait wait = {
		.lock = PTHREAD_MUTEX_INITIALIZER, .done = PTHREAD_COND_INITIALIZER};

	about_to_block();
	journal_sync_async(j, seq, wake_waiter, &wait);
	pthread_mutex_lock(&wait.lock);
	while (!wait.finished)
		pthread_cond_wait(&wait.done, &wait.lock);
	pthread_mutex_unlock(&wait.lock);
	return wait.result;
}

/* ---- writing back ---- */

/* What stands between two points of the ring's history goes to the disk, in whole pages. An error is
 * not looked at: the sync sees it, since nothing here waits. */
static void write_back(struct journal *j, uint64_t from, uint64_t to)
{
	while (from < to) {
		uint64_t n = min_u64(to - from, j->size - from % j->size);

		j->io->ops->write_back(j->io, j->fd, from % j->size, n);
		from += n;
	}
}

static void *writer_main(void *arg)
{
	struct journal *j = arg;

	pthread_mutex_lock(&j->lock);
	while (!j->writer_stops) {
		uint64_t from = j->written_back;
		uint64_t to = round_down(j->head.pos, GF_BLOCK_SIZE);

		if (to < from + WRITE_BACK_BYTES) {
			pthread_cond_wait(&j->appended, &j->lock);
			continue;
		}
		j->written_back = to;
		pthread_mutex_unlock(&j->lock);
		write_back(j, max_u64(from, to > j->size ? to - j->size : 0), to);
		pthread_mutex_lock(&j->lock);
	}
	pthread_mutex_unlock(&j->lock);
	return NULL;
}

int journal_start_write_back(struct journal *j)
{
	int r;

	if (!j->io->ops->write_back || j->read_only)
		return 0;
	j->written_back = round_down(j->head.pos, GF_BLOCK_SIZE);
	r = pthread_create(&j->writer, NULL, writer_main, j);
	if (r)
		return -r;
	MUTEX_GUARD(&j->lock);
	j->writer_runs = true;
	return 0;
}

/* ---- state ---- */

struct journal_mark journal_head(struct journal *j)
{
	MUTEX_GUARD(&j->lock);
	return j->head;
}

struct journal_mark journal_head_within(struct journal *j, uint64_t bytes)
{
	struct journal_mark best;

	MUTEX_GUARD(&j->lock);
	best = j->head;
	if (j->head.pos - j->tail_pos <= bytes)
		return best;
	/* Those of an earlier lap lie before the tail: the distance to it is huge. */
	for (int i = 0; i < MARKS; i++) {
		uint64_t at = j->marks[i].pos - j->tail_pos;

		if (at && at <= bytes && (best.pos - j->tail_pos > bytes || at > best.pos - j->tail_pos))
			best = j->marks[i];
	}
	return best;
}

uint64_t journal_last_seq(struct journal *j)
{
	MUTEX_GUARD(&j->lock);
	return j->head.seq - 1;
}

bool journal_is_durable(struct journal *j, uint64_t seq)
{
	return seq <= atomic_load(&j->durable_seq);
}

void journal_set_tail(struct journal *j, struct journal_mark mark)
{
	MUTEX_GUARD(&j->lock);
	j->tail_pos = mark.pos;
	atomic_store(&j->used, j->head.pos - mark.pos);
	j->stuck = 0;
	assert_locked(j);
	pthread_cond_broadcast(&j->room);
}

void journal_note_lap(struct journal *j, uint64_t bytes)
{
	MUTEX_GUARD(&j->lock);
	throttle_lap(&j->throttle, bytes >= j->size / 16 ? bytes : 0, times_now(CLOCK_MONOTONIC));
}

void journal_note_drained(struct journal *j, uint64_t bytes, int64_t ns)
{
	MUTEX_GUARD(&j->lock);
	/* What stands for little says nothing about much. */
	if (bytes >= j->size / 16)
		throttle_note(&j->throttle, bytes, ns);
	throttle_lap(&j->throttle, 0, 0);
}

uint64_t journal_used(struct journal *j)
{
	MUTEX_GUARD(&j->lock);
	return j->head.pos - j->tail_pos;
}

uint64_t journal_size(const struct journal *j)
{
	return j->size;
}

bool journal_is_short(struct journal *j)
{
	MUTEX_GUARD(&j->lock);
	return j->waiting || j->head.pos - j->tail_pos > j->size / 2;
}

void journal_set_stuck(struct journal *j, int err)
{
	MUTEX_GUARD(&j->lock);
	j->stuck = err;
	pthread_cond_broadcast(&j->room);
}

void journal_set_failing(struct journal *j, void (*cb)(void *arg, int err), void *arg)
{
	j->failing = cb;
	j->failing_arg = arg;
}

void journal_set_pressure(struct journal *j, void (*cb)(void *), void *arg)
{
	MUTEX_GUARD(&j->lock);
	j->pressure = cb;
	j->pressure_arg = arg;
}

void journal_counts(struct journal *j, struct journal_counts *counts)
{
	MUTEX_GUARD(&j->lock);
	*counts = j->counts;
}

int journal_error(struct journal *j)
{
	return atomic_load(&j->failed);
}
