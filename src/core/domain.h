/* SPDX-License-Identifier: MIT */
/* Whose content may be shared with whose: settings of folders, and what they come to; see domain.c. */
#ifndef GOLDFS_CORE_DOMAIN_H
#define GOLDFS_CORE_DOMAIN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/fs.h"
#include "store/layer.h"
#include "store/ops.h"

struct inode;

#define DOMAIN_COMMON UINT64_C(0)
/* Of a layer, or of a slot of the pool: nothing new is shared with it. */
#define DOMAIN_NONE UINT64_MAX

/* ---- domain.c: settings, and the domains of layers; the tree is locked exclusively ---- */

/* What the folders above a file, and it itself, come to. The mount's option is not in it. */
struct domain_view {
	uint64_t domain; /* number of the folder or file that is one, or DOMAIN_COMMON */
	enum fs_dedup dedup;
	bool is_set; /* by any of them */
};
void domain_of(struct fs *fs, struct inode *inode, struct domain_view *out);

int domain_apply(struct fs *fs, struct inode *inode, const struct gf_op_dedup *op);
int domain_serialize(struct opbuf *buf, const struct inode *inode);
/* The inode goes. */
void domain_release(struct fs *fs, struct inode *inode);
/* A file has another writable layer than before. */
void domain_place_file(struct fs *fs, struct inode *inode);

/* Around what moves one or two inodes to other folders. */
struct domain_move {
	struct inode *inode, *other; /* other: NULL: none */
	struct domain_view before, other_before;
};
void domain_move_begin(
	struct fs *fs, struct domain_move *move, struct inode *inode, struct inode *other);
void domain_move_end(struct fs *fs, const struct domain_move *move);

/* For people: both are as in struct fs_info. tree held. 0 or -ENOMEM. */
int domain_info(struct fs *fs, struct inode *inode, struct fs_info *info);

/* Domains that there are, the common one too: malloc'ed, owned by the caller; NULL: no memory. No lock
 * is held. */
uint64_t *domain_list(struct fs *fs, size_t *count);

/* After recovery: from now on layers have their domains. 0 or -ENOMEM. */
int domain_start(struct fs *fs);
void domain_stop(struct fs *fs);

/* ---- domain_slots.c: the domains of slots of the pool ---- */

struct domains *domains_new(void);
/* Whether anybody said anything of domains: if not, all is common, and nothing is kept. */
bool domain_is_used(struct fs *fs);
/* All that was noted is forgotten, and is to be found out anew by domain_walk(). */
void domain_slots_reset(struct fs *fs);
/* A layer that has blocks in the pool is of another domain from now on. */
void domain_layer_moved(struct fs *fs, struct layer *layer);

/* A slot that nobody refers to yet gets the domain of what is put there. -ENOMEM. */
int domain_slot_made(struct fs *fs, uint64_t slot, uint64_t domain);
/* Blocks of a layer have become SHARED with these places. */
void domain_places_shared(
	struct fs *fs, const struct layer *layer, const uint64_t *places, uint64_t count);
/* Whether content of this domain may come to refer to a slot. False too, as long as that is not known. */
bool domain_may_share(struct fs *fs, uint64_t slot, uint64_t domain);
/* DOMAIN_NONE, too, when it is not known. */
uint64_t domain_of_slot(struct fs *fs, uint64_t slot);
/* Whether all is known that is asked for above. */
bool domain_is_known(struct fs *fs);
/* Finds out what is not known. True: of all slots that were in use. No lock is held. */
bool domain_walk(struct fs *fs);

#endif
