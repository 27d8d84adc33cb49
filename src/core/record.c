/* SPDX-License-Identifier: MIT */
/*
 * Appending what was decided: the short way from a buffer of ops to the journal and into memory,
 * and the checks that come before it (is the store writable, is there room in the ring).
 */
#include "core/fs_internal.h"

#include <errno.h>
#include <time.h>

#include "base/invariant.h"
#include "base/log.h"
#include "base/mutation.h"
#include "base/times.h"

int64_t now_ns(void)
{
	return times_now(CLOCK_REALTIME);
}

void fs_fail(struct fs *fs, int err)
{
	atomic_store(&fs->failed, err);
	journal_fail(fs->journal, err);
}

int fs_writable(struct fs *fs)
{
	if (fs->options.read_only)
		return -EROFS;
	if (atomic_load(&fs->failed) || journal_error(fs->journal))
		return -EIO;
	return 0;
}

static int64_t reserve(struct fs *fs, size_t len, enum journal_urgency urgency)
{
	int64_t token;
	int r = fs_writable(fs);

	if (r)
		return r;
	/* Without a thread that destages (tests, recovery), whoever needs room does it. */
	if (!atomic_load(&fs->worker_runs) && !journal_has_room(fs->journal, len, urgency))
		checkpoint_run(fs);
	token = journal_reserve(fs->journal, len, urgency);
	/* What was given up lately may be all that is missing. */
	if (token == -ENOSPC && space_make(fs, true))
		token = journal_reserve(fs->journal, len, urgency);
	return token;
}

int64_t record_reserve(struct fs *fs, size_t len)
{
	return reserve(fs, len, JOURNAL_ORDINARY);
}

int64_t record_reserve_urgent(struct fs *fs, size_t len)
{
	return reserve(fs, len, JOURNAL_URGENT);
}

int record_commit(struct fs *fs, struct opbuf *buf, uint64_t *seq)
{
	struct iovec iov = {.iov_base = buf->bytes, .iov_len = buf->len};
	struct apply how = {.meta = true, .blocks = true};
	int r;

	if (buf->failed)
		return -ENOMEM;
	pthread_rwlock_rdlock(&fs->gate);
	r = SITE("append the record of a change",
		journal_append(fs->journal, &iov, 1, &how.seq, &how.ops_pos));
	if (!r) {
		INVARIANT(1, how.ops_pos != 0 && how.seq <= journal_last_seq(fs->journal));
		r = apply_ops(fs, buf->bytes, buf->len, &how);
		/* The journal says it and memory does not: nothing may be built on that. */
		if (r)
			fs_fail(fs, r);
	} else {
		COUNT(fs, errors, 1);
	}
	atomic_store(&fs->changed, true);
	atomic_fetch_add(&fs->change_count, 1);
	pthread_rwlock_unlock(&fs->gate);
	if (seq)
		*seq = how.seq;
	return r;
}
