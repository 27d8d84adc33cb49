/* SPDX-License-Identifier: MIT */
/*
 * Snapshots: what a file was at an instant, and going back and forth between such states.
 *
 * A snapshot is a file of its own kind with an empty layer that stands where its file stood
 * (freeze.h): reading, cloning and accounting know nothing of it. Taking one freezes the file's top
 * layer, and the file goes on with an empty one; when nothing was written since the last, both stand on
 * the same. Going back to one gives the file an empty layer over what the snapshot stands on. What it
 * was before is kept by an automatic snapshot, unless one shows it already, so nothing is ever lost by
 * going somewhere. All of that is a handful of ops in one record, whatever the size.
 *
 * Snapshots of several files are one record, made while no write to any of them is in flight.
 *
 * snapshot_tree.c has where they lie and which stands on which.
 */
#include "core/snapshot.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/mutation.h"
#include "core/recast.h"

#define OPS_BOUND 4096 /* of one file, most times: otherwise it begins anew with what it needs */

/* ---- ops ---- */

int op_add_position(struct opbuf *buf, uint64_t ino, uint64_t snapshot, bool replaced)
{
	struct gf_op_pair *op;

	if (!OPBUF_ADD(buf, GF_OP_POSITION, replaced ? GF_POSITION_REPLACED : 0, op, 0))
		return -ENOMEM;
	op->id = ino;
	op->value = snapshot;
	return 0;
}

static int add_base(struct opbuf *buf, uint64_t ino, uint64_t base, bool automatic)
{
	struct gf_op_pair *op;

	if (!OPBUF_ADD(buf, GF_OP_SNAPSHOT, automatic ? GF_SNAPSHOT_AUTOMATIC : 0, op, 0))
		return -ENOMEM;
	op->id = ino;
	op->value = base;
	return 0;
}

static int add_snapshot(struct snap_build *b, struct inode *inode, const struct frozen *at,
	uint64_t group, const char *name, bool automatic, uint64_t *ino)
{
	struct fs_attr attr = {
		.ino = b->next_ino,
		.mode = S_IFREG | (inode->mode & 0555),
		.uid = inode->uid,
		.gid = inode->gid,
		.size = at->size,
		.atime_ns = b->time_ns,
		.mtime_ns = inode->mtime_ns,
		.ctime_ns = b->time_ns,
		.btime_ns = b->time_ns,
	};
	uint64_t layer;
	int r = op_add_layer(b->buf, at, &b->next_layer, &layer);

	*ino = b->next_ino++;
	if (!r)
		r = op_add_inode(b->buf, &attr, group, layer, name, "", GF_KIND_SNAPSHOT);
	return r ? r : add_base(b->buf, *ino, inode->base, automatic);
}

/* What stands on an image shares with it again, whatever it was before. */
static int add_mode(struct fs *fs, struct snap_build *b, const struct inode *inode, const struct frozen *at)
{
	const struct layer *bottom = layer_bottom(at->parent ? tree_find_layer(fs, at->parent) : NULL);

	if ((!at->golden && (!bottom || !bottom->golden)) || inode->copy_mode == GF_MODE_SNAPSHOT)
		return 0;
	return op_add_mode(b->buf, inode->ino, GF_MODE_SNAPSHOT);
}

int file_replace(struct fs *fs, struct snap_build *b, struct inode *inode, const struct frozen *at)
{
	uint64_t layer;
	int r = op_add_layer(b->buf, at, &b->next_layer, &layer);

	inode->copy_task = 0;
	if (!r)
		r = SITE("rollback: the file gets another layer", op_add_head(b->buf, inode->ino, layer));
	if (!r)
		r = add_mode(fs, b, inode, at);
	return r ? r : op_add_size(b->buf, inode->ino, layer, at->size);
}

/* ---- taking one ---- */

static int can_snapshot(struct inode *inode)
{
	if (!inode)
		return -ESTALE;
	if (S_ISDIR(inode->mode))
		return -EISDIR;
	if (!S_ISREG(inode->mode))
		return -EINVAL;
	if (inode->kind != GF_KIND_USER)
		return -EROFS;
	return inode->key ? 0 : -ENOENT;
}

/* tree and the file's io are held exclusively. */
static int take_locked(struct fs *fs, struct snap_build *b, struct inode *inode, const char *name,
	uint64_t *ino)
{
	struct frozen at;
	uint64_t group;
	bool fresh;
	int r = file_freeze(inode, &at, &fresh);

	if (!r)
		r = snapshots_group_make(fs, b, inode, &group);
	if (!r && tree_find_name(fs, group, name, strlen(name)))
		r = -EEXIST;
	if (!r)
		r = add_snapshot(b, inode, &at, group, name, false, ino);
	if (!r && fresh && !MUTATED("a snapshot leaves the file's layer writable"))
		r = file_go_on(b->buf, inode, &at, &b->next_layer);
	return r ? r : op_add_position(b->buf, inode->ino, *ino, false);
}

/* The snapshot that shows what the file is now; 0: none. */
static uint64_t find_equal(struct fs *fs, struct inode *inode, const struct frozen *at)
{
	struct inode *group = snapshots_of(fs, inode);

	for (size_t i = group ? group->child_count : 0; i-- > 0;) {
		struct frozen other;
		bool fresh;

		if (!file_freeze(group->children[i], &other, &fresh) && frozen_equal(at, &other))
			return group->children[i]->ino;
	}
	return 0;
}

static void automatic_name(struct fs *fs, const struct snap_build *b, uint64_t group,
	char name[GF_NAME_MAX + 1])
{
	time_t seconds = b->time_ns / 1000000000;
	struct tm tm;
	size_t len;

	gmtime_r(&seconds, &tm);
	len = strftime(name, GF_NAME_MAX, "auto-%Y%m%d-%H%M%S", &tm);
	for (unsigned i = 2; tree_find_name(fs, group, name, strlen(name)); i++)
		snprintf(name + len, GF_NAME_MAX - len, "-%u", i);
}

int snapshot_keep(struct fs *fs, struct snap_build *b, struct inode *inode, bool go_on,
	const char *name, uint64_t *ino)
{
	char made[GF_NAME_MAX + 1];
	struct frozen at;
	uint64_t group;
	bool fresh;
	int r = file_freeze(inode, &at, &fresh);

	if (r)
		return r;
	*ino = fresh ? 0 : find_equal(fs, inode, &at);
	if (*ino || MUTATED("going back keeps nothing of what there was"))
		return 0;
	r = snapshots_group_make(fs, b, inode, &group);
	if (r)
		return r;
	if (!name)
		automatic_name(fs, b, group, made);
	else if (tree_find_name(fs, group, name, strlen(name)))
		return -EEXIST;
	r = add_snapshot(b, inode, &at, group, name ? name : made, true, ino);
	return !r && fresh && go_on ? file_go_on(b->buf, inode, &at, &b->next_layer) : r;
}

/* ---- records ---- */

/* One change of snapshots: build() adds its ops with tree held exclusively. */
struct change {
	int (*build)(struct fs *fs, struct snap_build *b, struct change *c);
	void (*end)(struct fs *fs, struct change *c); /* lets go of what build() locked; may be NULL */
	uint64_t result;
	bool urgent; /* it frees space */

	uint64_t ino, other;
	const uint64_t *inos;
	size_t count;
	const char *name;
	bool force;
	size_t locked, *failed;
	uint64_t *sorted;
};

/* -EAGAIN: *len bytes are needed. */
static int change_locked(struct fs *fs, struct change *c, size_t *len)
{
	struct snap_build b;
	struct opbuf buf;
	int r;

	opbuf_init(&buf);
	snap_build_begin(fs, &b, &buf);
	r = c->build(fs, &b, c);
	if (!r)
		r = request_add(&buf, c->result);
	if (!r && buf.len > *len) {
		*len = buf.len + OPS_BOUND;
		r = -EAGAIN;
	}
	if (!r)
		r = record_commit(fs, &buf, NULL);
	if (c->end)
		c->end(fs, c);
	snap_build_end(&b);
	opbuf_release(&buf);
	return r;
}

static int change_run(struct fs *fs, struct change *c, size_t len)
{
	int r = c->urgent ? 0 : fs_use_feature(fs, GF_INCOMPAT_SNAPSHOTS);

	while (!r) {
		int64_t room = c->urgent ? record_reserve_urgent(fs, len) : record_reserve(fs, len);

		if (room < 0)
			return room;
		tree_lock(fs);
		r = change_locked(fs, c, &len);
		pthread_rwlock_unlock(&fs->tree);
		journal_unreserve(fs->journal, room);
		if (r != -EAGAIN)
			return r;
		r = 0;
	}
	return r;
}

/* ---- several files at one instant ---- */

static int compare_inos(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

/* No write to any of them is in flight from here on. Only who has the tree to himself locks several. */
static void lock_all(struct fs *fs, struct change *c)
{
	for (c->locked = 0; c->locked < c->count; c->locked++)
		pthread_rwlock_wrlock(&tree_find(fs, c->sorted[c->locked])->io);
}

static void unlock_all(struct fs *fs, struct change *c)
{
	while (c->locked > 0)
		pthread_rwlock_unlock(&tree_find(fs, c->sorted[--c->locked])->io);
}

static int build_create(struct fs *fs, struct snap_build *b, struct change *c)
{
	int r = 0;

	c->locked = 0;
	for (size_t i = 0; i < c->count && !r; i++) {
		*c->failed = i;
		r = can_snapshot(tree_find(fs, c->inos[i]));
	}
	if (r)
		return r;
	lock_all(fs, c);
	for (size_t i = 0; i < c->count && !r; i++) {
		uint64_t ino;

		*c->failed = i;
		r = take_locked(fs, b, tree_find(fs, c->inos[i]), c->name, &ino);
	}
	return r;
}

int fs_snapshot_create(struct fs *fs, const uint64_t *inos, size_t count, const char *name,
	size_t *failed)
{
	CLEANUP_FREE uint64_t *sorted = malloc((count + 1) * sizeof(*sorted));
	struct change c = {.build = build_create, .end = unlock_all, .inos = inos, .count = count,
		.name = name, .failed = failed, .sorted = sorted, .result = count};
	int r = name_check(name);

	*failed = 0;
	if (!sorted)
		return -ENOMEM;
	if (r)
		return r;
	memcpy(sorted, inos, count * sizeof(*sorted));
	qsort(sorted, count, sizeof(*sorted), compare_inos);
	for (size_t i = 1; i < count; i++)
		if (sorted[i] == sorted[i - 1])
			return -EINVAL;
	r = change_run(fs, &c, OPS_BOUND + count * (640 + strlen(name)));
	if (!r)
		COUNT(fs, snapshots_made, count);
	return r;
}

/* ---- going back and forth ---- */

int file_may_replace(const struct inode *inode, bool force)
{
	return !force && atomic_load(&inode->write_opens) > 0 ? -EBUSY : 0;
}

static void unlock_file(struct fs *fs, struct change *c)
{
	if (c->locked)
		pthread_rwlock_unlock(&tree_find(fs, c->ino)->io);
	c->locked = 0;
}

static int build_rollback(struct fs *fs, struct snap_build *b, struct change *c)
{
	struct inode *inode = tree_find(fs, c->ino), *snapshot = tree_find(fs, c->other);
	struct frozen at;
	bool fresh;
	int r = can_snapshot(inode);

	if (!r && (!snapshot || !is_snapshot(snapshot) || !snapshot->key))
		r = -ESTALE;
	if (!r && tree_find(fs, snapshot->parent) != snapshots_of(fs, inode))
		r = -EXDEV;
	if (!r)
		r = file_may_replace(inode, c->force);
	if (r)
		return r;
	pthread_rwlock_wrlock(&inode->io);
	c->locked = 1;
	r = snapshot_keep(fs, b, inode, false, c->name, &c->result);
	if (!r)
		r = file_freeze(snapshot, &at, &fresh);
	/* What a file comes to stand on is nobody's own. */
	if (!r && fresh)
		r = file_go_on(b->buf, snapshot, &at, &b->next_layer);
	if (!r)
		r = file_replace(fs, b, inode, &at);
	return r ? r : op_add_position(b->buf, inode->ino, snapshot->ino, true);
}

int fs_snapshot_rollback(struct fs *fs, uint64_t ino, uint64_t snapshot, bool force,
	const char *keep_as, uint64_t *kept)
{
	struct change c = {.build = build_rollback, .end = unlock_file, .ino = ino,
		.other = snapshot, .force = force, .name = keep_as};
	int r = change_run(fs, &c, OPS_BOUND);

	if (r)
		return r;
	*kept = c.result;
	COUNT(fs, rollbacks, 1);
	return 0;
}

/* ---- deleting and renaming ---- */

static int build_delete(struct fs *fs, struct snap_build *b, struct change *c)
{
	CLEANUP_FREE struct inode **list = malloc((c->count + 1) * sizeof(*list));

	if (!list)
		return -ENOMEM;
	for (size_t i = 0; i < c->count; i++) {
		list[i] = tree_find(fs, c->inos[i]);
		if (!list[i] || !is_snapshot(list[i]) || !list[i]->key)
			return -ESTALE;
		for (size_t k = 0; k < i; k++)
			if (list[k] == list[i])
				return -EINVAL;
	}
	return snapshots_add_delete(fs, b, list, c->count);
}

int fs_snapshot_delete(struct fs *fs, const uint64_t *inos, size_t count)
{
	struct change c = {.build = build_delete, .inos = inos, .count = count, .urgent = true,
		.result = count};

	return change_run(fs, &c, OPS_BOUND + count * 64);
}

static int build_rename(struct fs *fs, struct snap_build *b, struct change *c)
{
	struct inode *inode = tree_find(fs, c->ino);
	struct gf_op_rename *op;

	if (!inode || !is_snapshot(inode) || !inode->key)
		return -ESTALE;
	if (tree_find_name(fs, inode->parent, c->name, strlen(c->name)))
		return -EEXIST;
	if (!OPBUF_ADD(b->buf, GF_OP_RENAME, 0, op, strlen(c->name)))
		return -ENOMEM;
	op->ino = inode->ino;
	op->parent = inode->parent;
	op->time_ns = b->time_ns;
	op->name_len = strlen(c->name);
	memcpy(op + 1, c->name, op->name_len);
	/* Who gives it a name wants to have it. */
	return inode->automatic ? add_base(b->buf, inode->ino, inode->base, false) : 0;
}

int fs_snapshot_rename(struct fs *fs, uint64_t ino, const char *name)
{
	struct change c = {.build = build_rename, .ino = ino, .name = name};
	int r = name_check(name);

	return r ? r : change_run(fs, &c, OPS_BOUND);
}

/* ---- looking ---- */

static int list_locked(struct fs *fs, struct inode *group, struct fs_snapshot **list, size_t *count)
{
	struct inode *owner = snapshots_owner(fs, group);

	*list = calloc(group->child_count + 1, sizeof(**list));
	if (!*list)
		return -ENOMEM;
	for (size_t i = 0; i < group->child_count; i++) {
		const struct inode *inode = group->children[i];
		struct fs_snapshot *s = &(*list)[(*count)++];

		*s = (struct fs_snapshot){.ino = inode->ino, .base = inode->base,
			.automatic = inode->automatic, .current = owner && owner->base == inode->ino,
			.created_ns = inode->btime_ns};
		snprintf(s->name, sizeof(s->name), "%s", inode->key->name);
	}
	return 0;
}

int fs_snapshot_list(struct fs *fs, uint64_t ino, struct fs_snapshot **list, size_t *count)
{
	struct inode *inode, *group;
	int r = 0;

	*list = NULL;
	*count = 0;
	pthread_rwlock_rdlock(&fs->tree);
	inode = tree_find(fs, ino);
	group = inode && is_snapshot_group(inode) ? inode :
		inode && S_ISREG(inode->mode) ? snapshots_of(fs, inode) : NULL;
	if (!inode)
		r = -ESTALE;
	else if (group)
		r = list_locked(fs, group, list, count);
	pthread_rwlock_unlock(&fs->tree);
	return r;
}
