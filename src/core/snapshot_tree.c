/* SPDX-License-Identifier: MIT */
/*
 * The folder of snapshots, and who stands on whom.
 *
 * .snapshots is a folder of inodes like any other, but of a kind of their own, to which nobody writes
 * by his system calls. Below it the folders of the tree that have snapshots somewhere below them
 * stand once more, with the same owners and permissions, and in them one folder per file: its *group*,
 * which holds its snapshots and nothing else. So a path says whose snapshots something is, and what
 * moves a file or a folder moves its counterpart here in the same record (snapshots_add_rename()).
 *
 * What loses its file stays: named snapshots of a removed file are found by its path, and when a file
 * of that name is made, they are its own from then on. A folder is not adopted by one of somebody
 * else, since its permissions may be all that protects what is in it: it goes aside, to "NAME~1". So
 * it does when something that has snapshots of its own comes to its place.
 *
 * Which snapshot stands on which is kept with the inodes (inode.base), not derived from layers: those
 * are folded and moved. A file's base is its current position. When a snapshot loses its name, what
 * stood on it stands on what it stood on. A base is always older than what stands on it, and in the
 * same group.
 *
 * All of it is called with the tree locked.
 */
#include "core/snapshot.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"

#define DEPTH_MAX 2048 /* folders above a file with snapshots; a path has no more */

/* ---- counterparts ---- */

static struct inode *snapshots_root(struct fs *fs)
{
	struct inode *top = tree_find(fs, FS_INO_SNAPSHOTS);

	return top && top->child_count ? top : NULL;
}

bool is_snapshot_group(const struct inode *inode)
{
	return inode->kind == GF_KIND_SNAPSHOT && S_ISDIR(inode->mode) && inode->child_count &&
	       S_ISREG(inode->children[0]->mode);
}

/* The inodes from this one up, below top; their number, or -errno. */
static int chain_of(struct fs *fs, struct inode *inode, const struct inode *top,
	struct inode *chain[DEPTH_MAX])
{
	int n = 0;

	while (inode && inode != top) {
		if (n == DEPTH_MAX)
			return -ENAMETOOLONG;
		if (!inode->key)
			return -ENOENT;
		chain[n++] = inode;
		inode = tree_find(fs, inode->parent);
	}
	return inode ? n : -ENOENT;
}

/* The same names from another top on; NULL where there are none. */
static struct inode *follow(struct fs *fs, struct inode *at, struct inode *const *chain, int n)
{
	while (at && n-- > 0)
		at = tree_find_name(fs, at->ino, chain[n]->key->name, strlen(chain[n]->key->name));
	return at;
}

struct inode *snapshots_of(struct fs *fs, struct inode *inode)
{
	struct inode *chain[DEPTH_MAX], *top = snapshots_root(fs), *found;
	int n;

	if (!top || inode->kind != GF_KIND_USER)
		return NULL;
	n = chain_of(fs, inode, fs->root, chain);
	found = n >= 0 ? follow(fs, top, chain, n) : NULL;
	/* What a removed file left does not belong to a folder, nor the other way round. */
	return found && is_snapshot_group(found) == S_ISREG(inode->mode) ? found : NULL;
}

struct inode *snapshots_owner(struct fs *fs, struct inode *folder)
{
	struct inode *chain[DEPTH_MAX], *top = tree_find(fs, FS_INO_SNAPSHOTS), *found;
	int n = top ? chain_of(fs, folder, top, chain) : -ENOENT;

	found = n >= 0 ? follow(fs, fs->root, chain, n) : NULL;
	return found && found->kind == GF_KIND_USER &&
		S_ISREG(found->mode) == is_snapshot_group(folder) &&
		(S_ISREG(found->mode) || S_ISDIR(found->mode)) ? found : NULL;
}

struct inode *snapshots_home(struct fs *fs, struct inode *snapshot)
{
	uint64_t folder = snapshot->key ? snapshot->parent : snapshot->last_parent;
	struct inode *owner = NULL;

	for (struct inode *at = tree_find(fs, folder); at && !owner;
		at = tree_find(fs, at->parent))
		owner = at->kind == GF_KIND_SNAPSHOT ? snapshots_owner(fs, at) : at;
	return owner;
}

/* ---- building ---- */

struct snap_folder {
	uint64_t parent, ino;
	const char *name; /* of an inode that stays */
};

void snap_build_begin(struct fs *fs, struct snap_build *b, struct opbuf *buf)
{
	*b = (struct snap_build){.buf = buf, .next_ino = fs->next_ino,
		.next_layer = fs->next_layer, .time_ns = now_ns()};
}

void snap_build_end(struct snap_build *b)
{
	free(b->made);
	free(b->losses);
	b->made = NULL;
	b->losses = NULL;
}

/* A folder that this record makes; 0: none. */
static uint64_t find_made(const struct snap_build *b, uint64_t parent, const char *name)
{
	for (size_t i = 0; i < b->made_count; i++)
		if (b->made[i].parent == parent && !strcmp(b->made[i].name, name))
			return b->made[i].ino;
	return 0;
}

static bool makes_something_in(const struct snap_build *b, uint64_t parent)
{
	for (size_t i = 0; i < b->made_count; i++)
		if (b->made[i].parent == parent)
			return true;
	return false;
}

static int add_move(struct snap_build *b, const struct inode *inode, uint64_t parent,
	const char *name, uint64_t other)
{
	struct gf_op_rename *op;

	if (!OPBUF_ADD(b->buf, GF_OP_RENAME, other != 0, op, strlen(name)))
		return -ENOMEM;
	op->ino = inode->ino;
	op->parent = parent;
	op->other = other;
	op->time_ns = b->time_ns;
	op->name_len = strlen(name);
	memcpy(op + 1, name, op->name_len);
	return 0;
}

/* A name for what has to make room. live: the folder of which the parent is the counterpart. */
static int go_aside(struct fs *fs, struct snap_build *b, const struct inode *inode,
	const struct inode *live)
{
	char name[GF_NAME_MAX + 1], tail[24];

	for (unsigned i = 1;; i++) {
		int len = snprintf(tail, sizeof(tail), "~%u", i);

		snprintf(name, sizeof(name), "%.*s%s", (int)(GF_NAME_MAX - len), inode->key->name, tail);
		len = strlen(name);
		if (!tree_find_name(fs, inode->parent, name, len) &&
			!(live && tree_find_name(fs, live->ino, name, len)))
			return add_move(b, inode, inode->parent, name, 0);
	}
}

static int add_folder(struct snap_build *b, uint64_t parent, const struct inode *like, uint32_t mode,
	const char *name, uint64_t ino)
{
	struct snap_folder *made = reallocarray(b->made, b->made_count + 1, sizeof(*made));
	struct fs_attr attr = {
		.ino = ino,
		.mode = S_IFDIR | (mode & 07777),
		.uid = like->uid,
		.gid = like->gid,
		.atime_ns = b->time_ns,
		.mtime_ns = b->time_ns,
		.ctime_ns = b->time_ns,
		.btime_ns = b->time_ns,
	};

	if (!made)
		return -ENOMEM;
	b->made = made;
	b->made[b->made_count++] = (struct snap_folder){parent, ino, name};
	return op_add_inode(b->buf, &attr, parent, 0, name, "", GF_KIND_SNAPSHOT);
}

/* The folder `name` in one of .snapshots, made when it is not there, for `of`, which lies in `live`. */
static int find_or_add(struct fs *fs, struct snap_build *b, uint64_t parent, const struct inode *live,
	const struct inode *of, uint64_t *ino)
{
	const char *name = of->key->name;
	struct inode *there;
	int r = 0;

	*ino = find_made(b, parent, name);
	if (*ino)
		return 0;
	there = tree_find_name(fs, parent, name, strlen(name));
	if (there && is_snapshot_group(there) == S_ISREG(of->mode)) {
		*ino = there->ino;
		return 0;
	}
	if (there)
		r = go_aside(fs, b, there, live);
	*ino = b->next_ino++;
	return r ? r : add_folder(b, parent, of, S_ISDIR(of->mode) ? of->mode : 0755, name, *ino);
}

static int top_make(struct fs *fs, struct snap_build *b)
{
	if (tree_find(fs, FS_INO_SNAPSHOTS) || find_made(b, FS_INO_ROOT, ".snapshots"))
		return 0;
	return add_folder(b, FS_INO_ROOT, fs->root, 0755, ".snapshots", FS_INO_SNAPSHOTS);
}

/* The counterpart of a folder, or the group of a file, and what is missing above. */
static int counterpart_make(struct fs *fs, struct snap_build *b, struct inode *of, uint64_t *ino)
{
	struct inode *chain[DEPTH_MAX], *live = fs->root;
	int n = chain_of(fs, of, fs->root, chain), r;

	if (n < 0)
		return n;
	r = top_make(fs, b);
	*ino = FS_INO_SNAPSHOTS;
	while (!r && n-- > 0) {
		r = find_or_add(fs, b, *ino, live, chain[n], ino);
		live = chain[n];
	}
	return r;
}

int snapshots_group_make(struct fs *fs, struct snap_build *b, struct inode *file, uint64_t *ino)
{
	return counterpart_make(fs, b, file, ino);
}

/* ---- taking away ---- */

struct snap_loss {
	uint64_t folder;
	size_t count;
};

/* How many things the folder has lost with this one; 0: out of memory. */
static size_t count_loss(struct snap_build *b, uint64_t folder)
{
	struct snap_loss *grown;

	for (size_t i = 0; i < b->loss_count; i++)
		if (b->losses[i].folder == folder)
			return ++b->losses[i].count;
	grown = reallocarray(b->losses, b->loss_count + 1, sizeof(*grown));
	if (!grown)
		return 0;
	b->losses = grown;
	b->losses[b->loss_count++] = (struct snap_loss){folder, 1};
	return 1;
}

/* The folder loses something, and what is empty then goes. */
static int loses(struct fs *fs, struct snap_build *b, struct inode *folder)
{
	int r = 0;

	while (!r && folder && folder->ino != FS_INO_SNAPSHOTS && folder->ino != b->needed) {
		size_t gone = count_loss(b, folder->ino);

		if (!gone)
			return -ENOMEM;
		if (gone < folder->child_count || makes_something_in(b, folder->ino))
			return 0;
		r = op_add_unlink(b->buf, folder);
		folder = tree_find(fs, folder->parent);
	}
	return r;
}

int snapshots_add_delete(struct fs *fs, struct snap_build *b, struct inode *const *list, size_t count)
{
	int r = 0;

	for (size_t i = 0; i < count && !r; i++) {
		r = op_add_unlink(b->buf, list[i]);
		if (!r)
			r = loses(fs, b, tree_find(fs, list[i]->parent));
	}
	return r;
}

/* *left: whether named ones stay. */
static int drop_automatic(struct fs *fs, struct snap_build *b, struct inode *group, bool *left)
{
	CLEANUP_FREE struct inode **list = calloc(group->child_count + 1, sizeof(*list));
	size_t n = 0;

	if (!list)
		return -ENOMEM;
	for (size_t i = 0; i < group->child_count; i++)
		if (group->children[i]->automatic)
			list[n++] = group->children[i];
	*left = n < group->child_count;
	return snapshots_add_delete(fs, b, list, n);
}

int snapshots_add_unlink(struct fs *fs, struct snap_build *b, struct inode *inode)
{
	struct inode *group = S_ISREG(inode->mode) ? snapshots_of(fs, inode) : NULL;
	bool left;

	return group ? drop_automatic(fs, b, group, &left) : 0;
}

/* ---- moving along ---- */

static int add_attr(struct snap_build *b, struct inode *folder, uint32_t mode, uint32_t uid,
	uint32_t gid)
{
	struct gf_op_attr *op;

	if (!OPBUF_ADD(b->buf, GF_OP_ATTR, 0, op, 0))
		return -ENOMEM;
	op->ino = folder->ino;
	op->mode = mode;
	op->uid = uid;
	op->gid = gid;
	op->atime_ns = folder->atime_ns;
	op->mtime_ns = folder->mtime_ns;
	op->ctime_ns = b->time_ns;
	return 0;
}

int snapshots_add_attr(struct fs *fs, struct snap_build *b, struct inode *inode, uint32_t mode,
	uint32_t uid, uint32_t gid)
{
	struct inode *folder =
		S_ISDIR(inode->mode) && inode != fs->root ? snapshots_of(fs, inode) : NULL;

	return folder ? add_attr(b, folder, mode, uid, gid) : 0;
}

/* What stands in .snapshots where the counterpart of (dir, name) would. */
static struct inode *left_at(struct fs *fs, struct inode *dir, const char *name)
{
	struct inode *folder = snapshots_of(fs, dir);

	return folder ? tree_find_name(fs, folder->ino, name, strlen(name)) : NULL;
}

int snapshots_add_folder(struct fs *fs, struct snap_build *b, struct inode *dir, const char *name,
	uint32_t mode, uint32_t uid, uint32_t gid)
{
	struct inode *left = left_at(fs, dir, name);

	if (!left)
		return 0;
	if (is_snapshot_group(left) || left->uid != uid)
		return go_aside(fs, b, left, dir);
	return add_attr(b, left, mode, uid, gid);
}

/* Moves a counterpart to where (dir, name) has its own. gone: what stands there goes by itself. */
static int place_at(struct fs *fs, struct snap_build *b, struct inode *inode, struct inode *dir,
	const char *name, const struct inode *gone)
{
	struct inode *from = tree_find(fs, inode->parent), *there;
	uint64_t to;
	int r = counterpart_make(fs, b, dir, &to);

	there = r ? NULL : tree_find_name(fs, to, name, strlen(name));
	if (there && there != gone)
		r = go_aside(fs, b, there, dir);
	if (!r)
		r = add_move(b, inode, to, name, 0);
	if (!r && from->ino != to)
		r = loses(fs, b, from);
	return r;
}

static int add_exchange(struct fs *fs, struct snap_build *b, struct inode *inode, struct inode *other)
{
	struct inode *mine = snapshots_of(fs, inode), *its = snapshots_of(fs, other);

	if (mine && its)
		return add_move(b, mine, its->parent, its->key->name, its->ino);
	if (mine)
		return place_at(fs, b, mine, tree_find(fs, other->parent), other->key->name, NULL);
	if (its)
		return place_at(fs, b, its, tree_find(fs, inode->parent), inode->key->name, NULL);
	return 0;
}

int snapshots_add_rename(struct fs *fs, struct snap_build *b, struct inode *inode,
	struct inode *other, uint64_t parent, const char *name, bool exchange)
{
	struct inode *dir = tree_find(fs, parent), *mine, *its, *gone = NULL;
	bool left = true;
	int r = 0;

	if (!snapshots_root(fs) || !dir)
		return 0;
	if (exchange)
		return add_exchange(fs, b, inode, other);
	mine = snapshots_of(fs, inode);
	its = other && S_ISREG(other->mode) ? snapshots_of(fs, other) : NULL;
	/* Where it goes must not go itself, with what is replaced. */
	if (mine)
		r = counterpart_make(fs, b, dir, &b->needed);
	if (!r && its)
		r = drop_automatic(fs, b, its, &left);
	if (!left)
		gone = its;
	if (!r && mine)
		return place_at(fs, b, mine, dir, name, gone);
	if (!r && S_ISDIR(inode->mode))
		r = snapshots_add_folder(fs, b, dir, name, inode->mode, inode->uid, inode->gid);
	return r;
}

/* ---- what ops do ---- */

int snapshot_apply(struct fs *fs, struct inode *inode, const struct gf_op_pair *op, bool loading)
{
	struct inode *base = op->value && !loading ? tree_find(fs, op->value) : NULL;

	if (inode->kind != GF_KIND_SNAPSHOT || !S_ISREG(inode->mode) || op->value >= inode->ino)
		return -EUCLEAN;
	if (op->value && !loading && (!base || !is_snapshot(base) || base->parent != inode->parent))
		return -EUCLEAN;
	inode->base = op->value;
	inode->automatic = op->op.flags & GF_SNAPSHOT_AUTOMATIC;
	return 0;
}

int position_apply(struct fs *fs, struct inode *inode, const struct gf_op_pair *op, bool loading)
{
	struct inode *base = op->value && !loading ? tree_find(fs, op->value) : NULL;

	if (inode->kind != GF_KIND_USER || !S_ISREG(inode->mode))
		return -EUCLEAN;
	if (op->value && !loading && (!base || !is_snapshot(base)))
		return -EUCLEAN;
	inode->base = op->value;
	/* A successor does not know whether the kernel was told. */
	if (op->op.flags & GF_POSITION_REPLACED) {
		inode->replaced = true;
		atomic_store(&inode->stale, true);
	}
	return 0;
}

void lineage_remove(struct fs *fs, struct inode *inode)
{
	struct inode *group, *owner;

	if (!is_snapshot(inode)) {
		inode->base = 0;
		return;
	}
	group = inode->key ? tree_find(fs, inode->parent) : NULL;
	owner = group ? snapshots_owner(fs, group) : NULL;
	for (size_t i = 0; group && i < group->child_count; i++)
		if (group->children[i]->base == inode->ino)
			group->children[i]->base = inode->base;
	if (owner && owner->base == inode->ino)
		owner->base = inode->base;
	inode->base = 0;
}

/* What is wrong with the snapshots' place in the tree, or with what they stand on; NULL: nothing. */
const char *snapshot_is_wrong(struct fs *fs, const struct inode *inode)
{
	const struct inode *dir = inode->key ? tree_find(fs, inode->parent) : NULL;
	const struct inode *base = inode->base ? tree_find(fs, inode->base) : NULL;
	bool top = inode->ino == FS_INO_SNAPSHOTS;

	if (inode->kind == GF_KIND_USER) {
		if (dir && dir->kind != GF_KIND_USER)
			return "it lies among the snapshots and is none";
		/* Of a file without a name nobody goes back or forth. */
		return inode->base && dir && (!base || !is_snapshot(base)) ?
			"its current position is no snapshot" : NULL;
	}
	if (inode->kind != GF_KIND_SNAPSHOT)
		return NULL;
	if (!S_ISREG(inode->mode) && !S_ISDIR(inode->mode))
		return "it lies among the snapshots and is none";
	if (dir && (top ? dir != fs->root : dir->kind != GF_KIND_SNAPSHOT))
		return "it is a snapshot and does not lie among them";
	if (dir && S_ISREG(inode->mode) != is_snapshot_group(dir) && !top)
		return "a folder of snapshots holds folders too";
	if (inode->base && (!S_ISREG(inode->mode) || inode->base >= inode->ino || !base ||
				   !is_snapshot(base) || base->parent != inode->parent))
		return "what it stands on is no snapshot of the same file";
	return NULL;
}
