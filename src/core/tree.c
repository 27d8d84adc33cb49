/* SPDX-License-Identifier: MIT */
/*
 * The catalog in memory: inodes, names, layers and golden images in tables, and the references
 * between them. Nothing here writes to the store; apply.c calls it when a record says so. All of
 * it is called with fs.tree held exclusively, or shared where it only looks.
 */
#include "core/fs_internal.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/mutation.h"
#include "base/sizes.h"
#include "core/domain.h"

struct inode *tree_find(struct fs *fs, uint64_t ino)
{
	struct inode *inode;

	pthread_rwlock_rdlock(&fs->tables);
	HASH_FIND(by_ino, fs->inodes, &ino, sizeof(ino), inode);
	pthread_rwlock_unlock(&fs->tables);
	return inode;
}

static size_t key_len(size_t name_len)
{
	return offsetof(struct name_key, name) + name_len;
}

struct inode *tree_find_name(struct fs *fs, uint64_t parent, const char *name, size_t len)
{
	struct name_key key = {.parent = parent};
	struct inode *inode;

	if (len > GF_NAME_MAX)
		return NULL;
	memcpy(key.name, name, len);
	HASH_FIND(by_name, fs->names, &key, key_len(len), inode);
	return inode;
}

struct layer *tree_find_layer(struct fs *fs, uint64_t id)
{
	struct layer_entry *entry;
	struct layer *layer;

	pthread_rwlock_rdlock(&fs->tables);
	HASH_FIND(hh, fs->layers, &id, sizeof(id), entry);
	layer = entry ? entry->layer : NULL;
	pthread_rwlock_unlock(&fs->tables);
	return layer;
}

/* Dedup asks with blocks locked: without the tree's lock. Who takes a layer out of the table looks
 * at its users afterwards. */
struct layer *layer_hold(struct fs *fs, uint64_t id)
{
	struct layer_entry *entry;
	struct layer *layer;

	pthread_rwlock_rdlock(&fs->tables);
	HASH_FIND(hh, fs->layers, &id, sizeof(id), entry);
	layer = entry ? entry->layer : NULL;
	if (layer)
		atomic_fetch_add(&layer->users, 1);
	pthread_rwlock_unlock(&fs->tables);
	return layer;
}

struct layer *layer_hold_next(struct fs *fs, uint64_t id)
{
	struct layer_entry *entry, *next;
	struct layer *found = NULL;

	pthread_rwlock_rdlock(&fs->tree);
	HASH_ITER (hh, fs->layers, entry, next)
		if (entry->id > id && (!found || entry->id < found->id))
			found = entry->layer;
	if (found)
		atomic_fetch_add(&found->users, 1);
	pthread_rwlock_unlock(&fs->tree);
	return found;
}

struct golden *tree_find_golden(struct fs *fs, uint64_t id)
{
	struct golden *golden;

	pthread_rwlock_rdlock(&fs->tables);
	HASH_FIND(hh, fs->goldens, &id, sizeof(id), golden);
	pthread_rwlock_unlock(&fs->tables);
	return golden;
}

struct inode *tree_new_inode(struct fs *fs, uint64_t ino, enum gf_inode_kind kind, uint32_t mode)
{
	struct inode *inode = calloc(1, sizeof(*inode));
	pthread_rwlockattr_t attr;

	if (!inode)
		return NULL;
	inode->ino = ino;
	inode->kind = kind;
	inode->mode = mode;
	pthread_mutex_init(&inode->lock, NULL);
	/* A freeze must not wait for ever behind a stream of writes. */
	pthread_rwlockattr_init(&attr);
	pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	pthread_rwlock_init(&inode->io, &attr);
	pthread_rwlockattr_destroy(&attr);
	pthread_rwlock_wrlock(&fs->tables);
	HASH_ADD(by_ino, fs->inodes, ino, sizeof(inode->ino), inode);
	pthread_rwlock_unlock(&fs->tables);
	return inode;
}

/* The first child whose number is at least ino. */
static size_t child_position(const struct inode *dir, uint64_t ino)
{
	size_t low = 0, high = dir->child_count;

	while (low < high) {
		size_t mid = (low + high) / 2;

		if (dir->children[mid]->ino < ino)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

static int add_child(struct inode *dir, struct inode *child)
{
	size_t at = child_position(dir, child->ino);

	if (dir->child_count == dir->child_capacity) {
		size_t capacity = max_u64(8, 2 * dir->child_capacity);
		struct inode **children =
			realloc(dir->children, capacity * sizeof(*children));

		if (!children)
			return -ENOMEM;
		dir->children = children;
		dir->child_capacity = capacity;
	}
	memmove(dir->children + at + 1, dir->children + at,
		(dir->child_count - at) * sizeof(*dir->children));
	dir->children[at] = child;
	dir->child_count++;
	dir->folder_count += S_ISDIR(child->mode);
	return 0;
}

static void remove_child(struct inode *dir, struct inode *child)
{
	size_t at = child_position(dir, child->ino);

	if (at == dir->child_count || dir->children[at] != child)
		return;
	memmove(dir->children + at, dir->children + at + 1,
		(dir->child_count - at - 1) * sizeof(*dir->children));
	dir->child_count--;
	dir->folder_count -= S_ISDIR(child->mode);
}

bool tree_reaches_root(struct fs *fs, struct inode *inode)
{
	for (unsigned n = HASH_CNT(by_ino, fs->inodes) + 1; inode && n; n--) {
		if (inode == fs->root)
			return true;
		inode = inode->key ? tree_find(fs, inode->parent) : NULL;
	}
	return false;
}

int tree_link(struct fs *fs, struct inode *inode, uint64_t parent, const char *name, size_t len)
{
	struct inode *dir = tree_find(fs, parent);
	struct name_key *key;

	if (!dir || !S_ISDIR(dir->mode) || inode->key || len == 0 || len > GF_NAME_MAX ||
		tree_find_name(fs, parent, name, len))
		return -EUCLEAN;
	key = malloc(key_len(len) + 1);
	if (!key)
		return -ENOMEM;
	key->parent = parent;
	memcpy(key->name, name, len);
	key->name[len] = '\0';
	if (add_child(dir, inode)) {
		free(key);
		return -ENOMEM;
	}
	inode->key = key;
	inode->parent = parent;
	HASH_ADD_KEYPTR(by_name, fs->names, key, key_len(len), inode);
	return 0;
}

void tree_unlink(struct fs *fs, struct inode *inode)
{
	struct inode *dir;

	if (!inode->key)
		return;
	dir = tree_find(fs, inode->parent);
	if (dir)
		remove_child(dir, inode);
	HASH_DELETE(by_name, fs->names, inode);
	free(inode->key);
	inode->key = NULL;
	inode->last_parent = inode->parent;
	inode->parent = 0;
	if (inode->inherited)
		atomic_store(&fs->orphans_left, true);
}

static void free_inode(struct inode *inode)
{
	while (inode->xattrs) {
		struct xattr *next = inode->xattrs->next;

		free(inode->xattrs->name);
		free(inode->xattrs->value);
		free(inode->xattrs);
		inode->xattrs = next;
	}
	image_free(inode->golden_image);
	io_stats_release(inode);
	free(inode->limit);
	free(inode->key);
	free(inode->target);
	free(inode->children);
	pthread_rwlock_destroy(&inode->io);
	pthread_mutex_destroy(&inode->lock);
	free(inode);
}

void tree_drop_inode(struct fs *fs, struct inode *inode)
{
	struct layer *layer = atomic_load(&inode->layer);

	tree_unlink(fs, inode);
	limit_release(fs, inode);
	domain_release(fs, inode);
	if (inode->kind == GF_KIND_GOLDEN && inode->target && !inode->golden_stale)
		HASH_DELETE(by_path, fs->golden_nodes, inode);
	pthread_rwlock_wrlock(&fs->tables);
	HASH_DELETE(by_ino, fs->inodes, inode);
	pthread_rwlock_unlock(&fs->tables);
	if (layer) {
		layer->head_of = 0;
		tree_layer_put(fs, layer);
	}
	free_inode(inode);
}

/* ---- layers and golden images ---- */

int tree_add_layer(struct fs *fs, uint64_t id, uint64_t parent, uint64_t golden, uint64_t bound)
{
	struct golden *g = golden ? tree_find_golden(fs, golden) : NULL;
	struct layer *below = parent ? tree_find_layer(fs, parent) : NULL;
	struct layer_entry *entry;
	int r;

	/* Ids ascend, so that the table stays sorted and what is below comes first. */
	if ((parent && !below) || (golden && !g) || (parent && golden) || id <= fs->last_layer)
		return -EUCLEAN;
	entry = malloc(sizeof(*entry));
	if (!entry)
		return -ENOMEM;
	r = layer_new(&entry->layer, &fs->env, id, below, g ? &g->image : NULL, golden, bound);
	if (r) {
		free(entry);
		return r;
	}
	entry->id = id;
	fs->last_layer = id;
	pthread_rwlock_wrlock(&fs->tables);
	HASH_ADD(hh, fs->layers, id, sizeof(entry->id), entry);
	pthread_rwlock_unlock(&fs->tables);
	if (below)
		tree_layer_get(below);
	if (g)
		g->refs++;
	return 0;
}

void tree_layer_get(struct layer *layer)
{
	layer->refs++;
}

static void bury(struct fs *fs, struct layer *layer, struct golden *golden)
{
	struct dead *dead = malloc(sizeof(*dead));

	/* Without memory the files stay; `check` finds them. */
	if (!dead)
		return;
	*dead = (struct dead){.layer = layer,
		.golden = golden,
		.number = ++fs->dead_count,
		.next = fs->dead};
	fs->dead = dead;
	atomic_fetch_add(&fs->given_up, 1);
}

bool tree_golden_is_idle(const struct golden *golden, unsigned holds)
{
	return !golden->refs && !atomic_load(&golden->shared) && golden->users <= holds;
}

/* Whether a layer, a block that is SHARED, or a record in the ring refers to it. */
static bool is_needed(struct fs *fs, struct golden *golden)
{
	uint64_t last = journal_last_seq(fs->journal);

	if (!tree_golden_is_idle(golden, 0)) {
		golden->idle_seq = 0;
		return true;
	}
	if (!atomic_load(&golden->was_shared))
		return false;
	/* As with slots of the pool (struct dying). */
	if (!golden->idle_seq)
		golden->idle_seq = last;
	return golden->idle_seq >= atomic_load(&fs->tail_seq);
}

/* When nothing refers to it; otherwise a checkpoint looks again. */
static void bury_golden(struct fs *fs, struct golden *golden)
{
	bool needed;

	if (atomic_load(&fs->golden_counting))
		return;
	pthread_rwlock_wrlock(&fs->tables);
	needed = is_needed(fs, golden);
	if (!needed)
		HASH_DELETE(hh, fs->goldens, golden);
	pthread_rwlock_unlock(&fs->tables);
	if (!needed) {
		atomic_store(&golden->gone, true);
		bury(fs, NULL, golden);
	}
}

/* Whether one is idle, or was when somebody looked last. */
static bool has_golden_to_look_at(struct fs *fs)
{
	struct golden *golden, *next;
	bool found = false;

	pthread_rwlock_rdlock(&fs->tree);
	HASH_ITER (hh, fs->goldens, golden, next)
		found |= golden->idle_seq || tree_golden_is_idle(golden, 0);
	pthread_rwlock_unlock(&fs->tree);
	return found;
}

void tree_sweep_goldens(struct fs *fs)
{
	struct golden *golden, *next;

	/* Every checkpoint comes here, and guests wait for it when the ring is full: it must not wait for
	 * those who hold the tree while they count, nor make them give way. */
	if (!has_golden_to_look_at(fs))
		return;
	tree_lock(fs);
	HASH_ITER (hh, fs->goldens, golden, next)
		bury_golden(fs, golden);
	pthread_rwlock_unlock(&fs->tree);
}

bool tree_has_idle_golden(struct fs *fs, bool held)
{
	struct golden *golden, *next;
	bool idle = false;

	pthread_rwlock_rdlock(&fs->tree);
	HASH_ITER (hh, fs->goldens, golden, next)
		idle |= tree_golden_is_idle(golden, UINT_MAX) && (!held || golden->users);
	pthread_rwlock_unlock(&fs->tree);
	return idle;
}

static struct golden *find_golden_in_tables(struct fs *fs, uint64_t id)
{
	struct golden *golden;

	HASH_FIND(hh, fs->goldens, &id, sizeof(id), golden);
	return golden;
}

struct image *tree_golden_image(void *arg, uint64_t id)
{
	struct golden *golden;
	struct fs *fs = arg;

	pthread_rwlock_rdlock(&fs->tables);
	golden = find_golden_in_tables(fs, id);
	pthread_rwlock_unlock(&fs->tables);
	return golden ? &golden->image : NULL;
}

void tree_golden_ref(void *arg, uint64_t id, int64_t count)
{
	struct golden *golden;
	struct fs *fs = arg;

	pthread_rwlock_rdlock(&fs->tables);
	golden = find_golden_in_tables(fs, id);
	if (golden) {
		atomic_fetch_add(&golden->shared, count);
		atomic_store(&golden->was_shared, true);
		/* A record that says so may follow: what was noted before tells nothing any more. */
		if (count > 0)
			atomic_store(&golden->idle_seq, 0);
	}
	pthread_rwlock_unlock(&fs->tables);
}

static void golden_put(struct fs *fs, uint64_t id)
{
	struct golden *golden = tree_find_golden(fs, id);

	if (golden && --golden->refs == 0)
		bury_golden(fs, golden);
}

int tree_recast(struct fs *fs, struct layer *layer, const struct gf_op_recast *op)
{
	struct golden *g = op->golden ? tree_find_golden(fs, op->golden) : NULL;
	const struct layer *root;

	if (op->golden && !g)
		return -EUCLEAN;
	if (g)
		g->refs++;
	tree_recast_end(fs, layer);
	if (op->kind == GF_RECAST_NONE) {
		if (g)
			golden_put(fs, op->golden);
		return 0;
	}
	for (root = layer; root->parent;)
		root = root->parent;
	if (op->kind == GF_RECAST_REBASE && root->golden != op->golden)
		atomic_store(&layer->leaving, root->golden);
	if (op->kind == GF_RECAST_THIN || op->kind == GF_RECAST_FULL)
		atomic_store(&layer->apart, true);
	layer->recast = (struct layer_recast){
		.kind = op->kind, .ino = op->ino, .golden = op->golden, .rate = op->rate};
	atomic_store(&layer->recast_bound, op->bound);
	atomic_store(&layer->keeps, !MUTATED("blocks become PARENT of a base that is going away"));
	return 0;
}

void tree_recast_end(struct fs *fs, struct layer *layer)
{
	uint64_t golden = layer->recast.golden;
	const struct inode *head;

	head = layer->head_of ? tree_find(fs, layer->head_of) : NULL;
	if (layer->recast.kind != GF_RECAST_NONE)
		atomic_store(&layer->apart, head && head->copy_mode != GF_MODE_SNAPSHOT);
	layer->recast = (struct layer_recast){.kind = GF_RECAST_NONE};
	atomic_store(&layer->keeps, false);
	atomic_store(&layer->leaving, 0);
	if (golden)
		golden_put(fs, golden);
}

/* Of the image and of its node: whether nobody is to share with it. */
static void set_left(struct fs *fs, struct golden *g, bool left)
{
	struct inode *node = NULL;

	atomic_store(&g->left, left);
	HASH_FIND(by_path, fs->golden_nodes, g->path, strlen(g->path), node);
	if (node && node->golden_dev == g->dev && node->golden_node == g->node)
		node->golden_left = left;
}

void tree_golden_used(struct fs *fs, struct golden *g)
{
	if (atomic_load(&g->left))
		set_left(fs, g, false);
}

int tree_set_base(struct fs *fs, struct layer *layer, const struct gf_op_base *op)
{
	struct layer *parent = op->parent ? tree_find_layer(fs, op->parent) : NULL;
	struct golden *g = op->golden ? tree_find_golden(fs, op->golden) : NULL;
	struct layer *old = layer->parent;
	uint64_t old_golden = layer->golden;
	uint64_t leaves = atomic_load(&layer->leaving);
	struct golden *left = leaves ? tree_find_golden(fs, leaves) : NULL;

	if ((op->parent && !parent) || (op->golden && !g) || (parent && g) ||
		(parent && (parent->id >= layer->id || parent->head_of)))
		return -EUCLEAN;
	if (left && op->op.flags & GF_BASE_LEFT)
		set_left(fs, left, true);
	if (g) {
		g->refs++;
		tree_golden_used(fs, g);
	}
	if (parent)
		tree_layer_get(parent);
	layer_set_base(layer, parent, g ? &g->image : NULL, op->golden, op->bound);
	tree_recast_end(fs, layer);
	if (old)
		tree_layer_put(fs, old);
	if (old_golden)
		golden_put(fs, old_golden);
	return 0;
}

void tree_layer_put(struct fs *fs, struct layer *layer)
{
	while (layer && --layer->refs == 0) {
		struct layer *below = layer->parent;
		uint64_t id = layer->id;
		struct layer_entry *entry;

		pthread_rwlock_wrlock(&fs->tables);
		HASH_FIND(hh, fs->layers, &id, sizeof(id), entry);
		if (entry)
			HASH_DELETE(hh, fs->layers, entry);
		pthread_rwlock_unlock(&fs->tables);
		free(entry);
		tree_recast_end(fs, layer);
		if (layer->golden)
			golden_put(fs, layer->golden);
		bury(fs, layer, NULL);
		layer = below;
	}
}

int tree_add_golden(struct fs *fs, const struct gf_op_golden *op)
{
	struct golden *g = tree_find_golden(fs, op->golden);

	if (!op->golden)
		return -EUCLEAN;
	if (!g) {
		g = calloc(1, sizeof(*g));
		if (!g)
			return -ENOMEM;
		g->fs = fs;
		g->id = op->golden;
		g->path = strndup(op_tail(op, sizeof(*op)), op->path_len);
		if (!g->path || golden_init(g)) {
			free(g->path);
			free(g);
			return -ENOMEM;
		}
		pthread_rwlock_wrlock(&fs->tables);
		HASH_ADD(hh, fs->goldens, id, sizeof(g->id), g);
		pthread_rwlock_unlock(&fs->tables);
	}
	g->image.size = op->size;
	g->dev = op->dev;
	g->node = op->node;
	g->pin = op->pin;
	atomic_store(&g->left, op->op.flags & GF_GOLDEN_LEFT);
	g->print = (struct pin_print){
		.size = op->size, .mtime_ns = op->mtime_ns, .sample = op->sample};
	return 0;
}

void tree_free(struct fs *fs)
{
	struct inode *inode, *next_inode;
	struct layer_entry *entry, *next_entry;
	struct golden *golden, *next_golden;

	HASH_CLEAR(by_name, fs->names);
	HASH_CLEAR(by_path, fs->golden_nodes);
	HASH_ITER (by_ino, fs->inodes, inode, next_inode) {
		HASH_DELETE(by_ino, fs->inodes, inode);
		free_inode(inode);
	}
	HASH_ITER (hh, fs->layers, entry, next_entry) {
		HASH_DELETE(hh, fs->layers, entry);
		layer_free(entry->layer);
		free(entry);
	}
	HASH_ITER (hh, fs->goldens, golden, next_golden) {
		HASH_DELETE(hh, fs->goldens, golden);
		golden_release(golden);
	}
	while (fs->dead) {
		struct dead *next = fs->dead->next;

		layer_free(fs->dead->layer);
		if (fs->dead->golden)
			golden_release(fs->dead->golden);
		free(fs->dead);
		fs->dead = next;
	}
}
