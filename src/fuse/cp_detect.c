/* SPDX-License-Identifier: MIT */
/*
 * Why a stat sometimes says "fully allocated" of a file that is not.
 *
 * `cp` asks for a reflink, which FUSE never sees; what it does see is copy_file_range over the
 * whole file, and that makes a clone in no time. But cp takes this way only for a source that does
 * not look sparse. Of one whose st_blocks is less than its size, as with every clone and every
 * sparse golden image, coreutils 9.1 reads all data and writes it again, and newer ones copy extent
 * by extent. cp decides by one fstat after it has opened the source: if that one answer says
 * "full", it makes the single copy.
 *
 * The same answer for everybody would be wrong: `tar -S`, and `cp` to another file system, take a
 * full file's word for it and write out all holes (tried: 10 KiB became 1 GiB). And st_blocks is
 * the figure that `du` shows as a clone's cost. So the untruth is told once, to the one thread that
 * shows by what it did just before that it copies within this mount:
 *
 *   - cp looks its target up before it opens the source, and makes nothing in between: so a thread
 *     that missed a name in this mount, and now opens this file for reading;
 *   - for a target that exists, its lookups are source, target, source, and the last of them is
 *     the open's own. A program that looks at many files first and opens them later (tar -g)
 *     looks at each once more just before it opens it, so there the source comes twice at the end;
 *   - `cp -r` does not look targets up in a folder that it has just made, but it comes from a
 *     copy_file_range between two of our files.
 *
 * What keeps others out: tar creates (or opens) its archive before it opens members, and that ends
 * the evidence; a copy out of the mount looks its target up elsewhere. Opening uses the evidence
 * up, the answer is for the very next getattr of that thread and file, and any other lookup or open
 * of the thread here ends it. Evidence is good for two seconds, to bear a machine under load.
 *
 * Nothing depends on it: without the answer cp copies the data, and a thread that gets it without
 * being cp sees one odd st_blocks.
 *
 * The memory is a small cache of what threads did, by thread id, in sets of four; a set has its
 * lock and the oldest of it is forgotten. An entry:
 *
 *   NONE --missing, file, copy--> evidence --open for reading--> armed --getattr--> NONE
 */
#include "fuse/cp_detect.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "base/cleanup.h"

#define MOMENT_NS INT64_C(2000000000)
#define SETS 64
#define WAYS 4
#define RUNS 3 /* source, target, source */

/* Lookups of one file that came one after the other. */
struct run {
	uint64_t ino; /* 0: none */
	unsigned count;
	int64_t at_ns; /* the last of them */
};

struct thread_memory {
	uint64_t task;	    /* 0: free */
	int64_t used_ns;    /* when it last did something */
	int64_t missing_ns; /* when it missed a name or copied a range; 0: it did not */
	struct run runs[RUNS]; /* the newest first */
	uint64_t armed_ino;    /* the next getattr of it is to say "full"; 0: none */
	int64_t armed_ns;
};

struct set {
	pthread_mutex_t lock; /* protects ways */
	struct thread_memory ways[WAYS];
};

struct cp_detect {
	struct set sets[SETS];
};

int cp_detect_new(struct cp_detect **cp)
{
	*cp = calloc(1, sizeof(**cp));
	if (!*cp)
		return -ENOMEM;
	for (int i = 0; i < SETS; i++)
		pthread_mutex_init(&(*cp)->sets[i].lock, NULL);
	return 0;
}

void cp_detect_free(struct cp_detect *cp)
{
	if (!cp)
		return;
	for (int i = 0; i < SETS; i++)
		pthread_mutex_destroy(&cp->sets[i].lock);
	free(cp);
}

static struct set *set_of(struct cp_detect *cp, uint64_t task)
{
	return &cp->sets[task % SETS];
}

static struct thread_memory *find_locked(struct set *set, uint64_t task)
{
	for (int i = 0; i < WAYS; i++)
		if (set->ways[i].task == task)
			return &set->ways[i];
	return NULL;
}

/* The memory of task, in place of the one that did nothing for longest when there is none. */
static struct thread_memory *find_or_make_locked(struct set *set, uint64_t task, int64_t now_ns)
{
	struct thread_memory *m = find_locked(set, task);

	if (!m) {
		m = &set->ways[0];
		for (int i = 1; i < WAYS; i++)
			if (set->ways[i].used_ns < m->used_ns)
				m = &set->ways[i];
		*m = (struct thread_memory){.task = task};
	}
	m->used_ns = now_ns;
	m->armed_ino = 0;
	return m;
}

static bool recent(int64_t at_ns, int64_t now_ns)
{
	return at_ns && now_ns - at_ns <= MOMENT_NS;
}

static void saw_work(struct cp_detect *cp, uint64_t task, int64_t now_ns)
{
	struct set *set = set_of(cp, task);

	if (!task)
		return;
	MUTEX_GUARD(&set->lock);
	find_or_make_locked(set, task, now_ns)->missing_ns = now_ns;
}

void cp_saw_missing(struct cp_detect *cp, uint64_t task, int64_t now_ns)
{
	saw_work(cp, task, now_ns);
}

void cp_saw_copy(struct cp_detect *cp, uint64_t task, int64_t now_ns)
{
	saw_work(cp, task, now_ns);
}

void cp_saw_file(struct cp_detect *cp, uint64_t task, uint64_t ino, int64_t now_ns)
{
	struct set *set = set_of(cp, task);
	struct thread_memory *m;

	if (!task)
		return;
	MUTEX_GUARD(&set->lock);
	m = find_or_make_locked(set, task, now_ns);
	if (m->runs[0].ino != ino) {
		m->runs[2] = m->runs[1];
		m->runs[1] = m->runs[0];
		m->runs[0] = (struct run){.ino = ino};
	}
	m->runs[0].count++;
	m->runs[0].at_ns = now_ns;
}

void cp_saw_target(struct cp_detect *cp, uint64_t task)
{
	struct set *set = set_of(cp, task);
	struct thread_memory *m;

	if (!task)
		return;
	MUTEX_GUARD(&set->lock);
	m = find_locked(set, task);
	if (m)
		*m = (struct thread_memory){.task = task, .used_ns = m->used_ns};
}

/* Whether the last lookups were source, target, source, the last one being the open's own. */
static bool looked_at_a_target(const struct thread_memory *m, uint64_t source, int64_t now_ns)
{
	const struct run *runs = m->runs;

	return runs[0].ino == source && runs[0].count == 1 && runs[1].ino &&
	       runs[2].ino == source && recent(runs[2].at_ns, now_ns);
}

void cp_saw_open_for_reading(struct cp_detect *cp, uint64_t task, uint64_t ino, int64_t now_ns)
{
	struct set *set = set_of(cp, task);
	struct thread_memory *m;
	bool copies;

	if (!task)
		return;
	MUTEX_GUARD(&set->lock);
	m = find_locked(set, task);
	if (!m)
		return;
	copies = recent(m->missing_ns, now_ns) || looked_at_a_target(m, ino, now_ns);
	*m = (struct thread_memory){.task = task, .used_ns = now_ns};
	if (copies) {
		m->armed_ino = ino;
		m->armed_ns = now_ns;
	}
}

bool cp_wants_full(struct cp_detect *cp, uint64_t task, uint64_t ino, int64_t now_ns)
{
	struct set *set = set_of(cp, task);
	struct thread_memory *m;

	if (!task)
		return false;
	MUTEX_GUARD(&set->lock);
	m = find_locked(set, task);
	if (!m || m->armed_ino != ino)
		return false;
	m->armed_ino = 0;
	return recent(m->armed_ns, now_ns);
}
