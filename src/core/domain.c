/* SPDX-License-Identifier: MIT */
/*
 * Dedup policies and domains of folders.
 *
 * A folder, or a clone, can say how far content below it is looked for (off, golden, all), and that
 * it is a domain of its own: then what lies below shares by content with itself only, and with golden
 * images, which are everybody's. Each is inherited; the nearest folder above that says something
 * counts. The mount's option is the most that any folder can have.
 *
 * What sharing goes by are layers and slots of the pool, and neither lies in a folder. So
 *
 *   a layer   has the domain of the files that stand on it, if all of them have the same, else
 *	       DOMAIN_NONE: nothing new is shared with it. (A clone may be made across domains; the
 *	       two share layers then, as was asked for, but nobody else is drawn in.)
 *   a slot    has the domain of the layers that refer to it, if all have the same, else DOMAIN_NONE
 *	       (domain_slots.c)
 *
 * and two share only what both have the same domain. Both are derived, as references are: nothing on
 * the disk says them but the settings of folders, so neither can come to contradict the other. What
 * is shared already is never unshared; when a file moves or a setting changes, its layers have
 * another domain from then on, and slots that they refer to have none until the next mount, unless
 * all that refer to them moved before anybody looked.
 *
 * Where dedup is not "all" a layer is of no domain.
 */
#include "core/domain.h"
#include "core/fs_internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/mutation.h"
#include "base/sizes.h"

bool domain_is_used(struct fs *fs)
{
	return atomic_load_explicit(&fs->domain_count, memory_order_relaxed) != 0;
}

/* ---- settings ---- */

/* The folder that a file is in, or was in when it lost its name. */
static struct inode *folder_of(struct fs *fs, const struct inode *inode)
{
	uint64_t parent = inode->key ? inode->parent : inode->last_parent;

	return inode == fs->root || !parent ? NULL : tree_find(fs, parent);
}

static enum fs_dedup dedup_from_policy(unsigned policy)
{
	return policy == GF_DEDUP_OFF ? FS_DEDUP_OFF :
	       policy == GF_DEDUP_GOLDEN ? FS_DEDUP_GOLDEN : FS_DEDUP_ALL;
}

static bool is_set(const struct inode *inode)
{
	return inode->dedup_policy || inode->dedup_domain;
}

void domain_of(struct fs *fs, struct inode *inode, struct domain_view *out)
{
	unsigned policy = GF_DEDUP_INHERIT, domain = GF_DOMAIN_INHERIT;

	*out = (struct domain_view){.domain = DOMAIN_COMMON};
	/* The bound is for folders that lost their names and now refer to each other. */
	for (unsigned n = HASH_CNT(by_ino, fs->inodes) + 1; inode && n && domain_is_used(fs); n--) {
		out->is_set |= is_set(inode);
		if (!policy)
			policy = inode->dedup_policy;
		if (!domain && inode->dedup_domain == GF_DOMAIN_OWN)
			out->domain = inode->ino;
		if (!domain)
			domain = inode->dedup_domain;
		inode = folder_of(fs, inode);
	}
	out->dedup = dedup_from_policy(policy);
}

int domain_serialize(struct opbuf *buf, const struct inode *inode)
{
	struct gf_op_dedup *op;

	if (!is_set(inode))
		return 0;
	if (!OPBUF_ADD(buf, GF_OP_DEDUP, 0, op, 0))
		return -ENOMEM;
	op->ino = inode->ino;
	op->policy = inode->dedup_policy;
	op->domain = inode->dedup_domain;
	return 0;
}

uint64_t *domain_list(struct fs *fs, size_t *count)
{
	struct inode *inode, *next;
	uint64_t *list;

	pthread_rwlock_rdlock(&fs->tree);
	list = calloc(atomic_load(&fs->domain_count) + 1, sizeof(*list));
	*count = list ? 1 : 0;
	HASH_ITER (by_ino, fs->inodes, inode, next)
		if (list && inode->dedup_domain == GF_DOMAIN_OWN)
			list[(*count)++] = inode->ino;
	pthread_rwlock_unlock(&fs->tree);
	return list;
}

int domain_info(struct fs *fs, struct inode *inode, struct fs_info *info)
{
	static const char *const names[] = {"off", "golden", "all"};
	CLEANUP_FREE char *path = NULL;
	struct domain_view view;
	struct inode *top;

	domain_of(fs, inode, &view);
	info->dedup_is_set = view.is_set;
	info->dedup = names[min_u64(view.dedup, fs->options.dedup)];
	top = view.domain == DOMAIN_COMMON ? NULL : tree_find(fs, view.domain);
	/* A folder without a name is no domain that anybody could go to. */
	if (!top || tree_path(fs, top, &path))
		return 0;
	free(info->dedup_domain);
	return asprintf(&info->dedup_domain, "/%s", path) < 0 ? -ENOMEM : 0;
}

enum fs_sharing fs_sharing(struct fs *fs, uint64_t ino)
{
	enum fs_sharing is = FS_SHARES;
	struct domain_view view;
	struct inode *inode;

	if (fs->options.dedup == FS_DEDUP_OFF)
		return FS_SHARES_NOWHERE;
	pthread_rwlock_rdlock(&fs->tree);
	inode = tree_find(fs, ino);
	if (inode && inode_is_file(inode)) {
		domain_of(fs, inode, &view);
		if (view.dedup == FS_DEDUP_OFF)
			is = FS_SHARES_OFF;
		else if (atomic_load(&atomic_load(&inode->layer)->apart))
			is = FS_SHARES_APART;
	}
	pthread_rwlock_unlock(&fs->tree);
	return is;
}

/* ---- layers ---- */

/* What the layer is for others, when files of this view alone stand on it. */
static uint64_t layer_domain(const struct domain_view *view)
{
	return view->dedup == FS_DEDUP_ALL ? view->domain : DOMAIN_NONE;
}

static void set_layer(struct fs *fs, struct layer *layer, uint64_t domain, uint8_t less)
{
	bool moved = atomic_load(&layer->domain) != domain;

	if (!MUTATED("a layer keeps its domain"))
		atomic_store(&layer->domain, domain);
	atomic_store(&layer->dedup, less);
	/* Whoever makes a block SHARED looks at the domain afterwards: either he sees the new one, or
	 * this sees his block. */
	if (moved && atomic_load(&layer->may_share))
		domain_layer_moved(fs, layer);
}

static uint8_t less_of(const struct domain_view *view)
{
	return FS_DEDUP_ALL - view->dedup;
}

/* Its own layer is nobody else's; those below it may be. */
void domain_place_file(struct fs *fs, struct inode *inode)
{
	struct layer *layer = atomic_load(&inode->layer);
	struct domain_view view;
	uint64_t domain;

	if (!fs->domains || !domain_is_used(fs) || !layer || inode->kind != GF_KIND_USER)
		return;
	domain_of(fs, inode, &view);
	domain = layer_domain(&view);
	set_layer(fs, layer, domain, less_of(&view));
	for (layer = layer->parent; layer; layer = layer->parent) {
		uint64_t now = atomic_load(&layer->domain);
		uint8_t less = atomic_load(&layer->dedup);

		/* What is below a layer has what it has, or less. */
		if ((now == domain || now == DOMAIN_NONE) && less >= less_of(&view))
			break;
		set_layer(fs, layer, now == domain ? domain : DOMAIN_NONE,
			max_u64(less, less_of(&view)));
	}
}

/* Who stands on a layer that was met with the same view has nothing to add to those below it. */
static void join_chain(struct layer *layer, uint64_t domain, uint8_t less)
{
	for (; layer; layer = layer->parent) {
		if (!layer->placed) {
			layer->placed = true;
			layer->next_domain = domain;
			layer->next_dedup = less;
			continue;
		}
		if (layer->next_domain == domain && layer->next_dedup >= less)
			return;
		if (layer->next_domain != domain)
			domain = layer->next_domain = DOMAIN_NONE;
		less = layer->next_dedup = max_u64(layer->next_dedup, less);
	}
}

/* All files. A layer on which none stands, but snapshots, keeps what it has; at first, none. */
static void place_all(struct fs *fs, bool first)
{
	struct layer_entry *entry;
	struct inode *inode, *next;

	for (entry = fs->layers; entry; entry = entry->hh.next)
		entry->layer->placed = false;
	HASH_ITER (by_ino, fs->inodes, inode, next) {
		struct layer *layer = atomic_load(&inode->layer);
		struct domain_view view;

		if (!layer || inode->kind != GF_KIND_USER)
			continue;
		domain_of(fs, inode, &view);
		join_chain(layer, layer_domain(&view), less_of(&view));
	}
	for (entry = fs->layers; entry; entry = entry->hh.next)
		if (entry->layer->placed)
			set_layer(fs, entry->layer, entry->layer->next_domain,
				entry->layer->next_dedup);
		else if (first)
			set_layer(fs, entry->layer, DOMAIN_NONE, 0);
}

/* ---- changes ---- */

void domain_move_begin(
	struct fs *fs, struct domain_move *move, struct inode *inode, struct inode *other)
{
	*move = (struct domain_move){.inode = inode, .other = other};
	domain_of(fs, inode, &move->before);
	if (other)
		domain_of(fs, other, &move->other_before);
}

static bool has_moved(struct fs *fs, struct inode *inode, const struct domain_view *before)
{
	struct domain_view now;

	domain_of(fs, inode, &now);
	return now.domain != before->domain || now.dedup != before->dedup;
}

void domain_move_end(struct fs *fs, const struct domain_move *move)
{
	if (fs->domains && domain_is_used(fs) &&
		(has_moved(fs, move->inode, &move->before) ||
			(move->other && has_moved(fs, move->other, &move->other_before))))
		place_all(fs, false);
}

void domain_release(struct fs *fs, struct inode *inode)
{
	if (is_set(inode))
		atomic_fetch_sub(&fs->domain_count, 1);
	inode->dedup_policy = inode->dedup_domain = 0;
}

int domain_apply(struct fs *fs, struct inode *inode, const struct gf_op_dedup *op)
{
	bool was_set = is_set(inode);

	inode->dedup_policy = op->policy;
	inode->dedup_domain = op->domain;
	if (!was_set && is_set(inode) && atomic_fetch_add(&fs->domain_count, 1) == 0 && fs->domains)
		domain_slots_reset(fs);
	if (fs->domains)
		place_all(fs, false);
	if (was_set && !is_set(inode))
		atomic_fetch_sub(&fs->domain_count, 1);
	return 0;
}

int domain_start(struct fs *fs)
{
	fs->domains = domains_new();
	if (!fs->domains)
		return -ENOMEM;
	if (domain_is_used(fs)) {
		domain_slots_reset(fs);
		place_all(fs, true);
	}
	return 0;
}

/* ---- setting ---- */

static int can_set(const struct inode *inode)
{
	if (!inode)
		return -EPERM;
	if (inode->kind != GF_KIND_USER)
		return -EROFS;
	return S_ISREG(inode->mode) || S_ISDIR(inode->mode) ? 0 : -EINVAL;
}

static uint32_t disk_policy(int policy)
{
	return policy == FS_DEDUP_INHERIT ? GF_DEDUP_INHERIT :
	       policy == FS_DEDUP_OFF ? GF_DEDUP_OFF :
	       policy == FS_DEDUP_GOLDEN ? GF_DEDUP_GOLDEN : GF_DEDUP_ALL;
}

static uint32_t disk_domain(enum fs_domain domain)
{
	return domain == FS_DOMAIN_OWN ? GF_DOMAIN_OWN :
	       domain == FS_DOMAIN_SHARED ? GF_DOMAIN_SHARED : GF_DOMAIN_INHERIT;
}

static int set_locked(struct fs *fs, struct opbuf *buf, uint64_t ino, const int *policy,
	const enum fs_domain *domain)
{
	struct inode *inode = tree_find(fs, ino);
	struct gf_op_dedup *op;
	int r = can_set(inode);

	if (r)
		return r;
	if (OPBUF_ADD(buf, GF_OP_DEDUP, 0, op, 0)) {
		op->ino = ino;
		op->policy = policy ? disk_policy(*policy) : inode->dedup_policy;
		op->domain = domain ? disk_domain(*domain) : inode->dedup_domain;
	}
	return record_commit(fs, buf, NULL);
}

int fs_set_dedup(struct fs *fs, uint64_t ino, const int *policy, const enum fs_domain *domain)
{
	struct opbuf buf;
	int64_t room;
	int r = fs_writable(fs);

	if (!r)
		r = fs_use_feature(fs, GF_INCOMPAT_DEDUP);
	if (r)
		return r;
	room = record_reserve_urgent(fs, sizeof(struct gf_op_dedup));
	if (room < 0)
		return room;
	opbuf_init(&buf);
	tree_lock(fs);
	r = set_locked(fs, &buf, ino, policy, domain);
	pthread_rwlock_unlock(&fs->tree);
	journal_unreserve(fs->journal, room);
	opbuf_release(&buf);
	return r ? r : SITE("dedup settings: sync the journal",
		journal_sync(fs->journal, journal_last_seq(fs->journal)));
}
