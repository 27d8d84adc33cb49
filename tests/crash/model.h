/* SPDX-License-Identifier: MIT */
/*
 * What a file system must show: the reference model of the crash tests.
 *
 * Content is known per 512-byte sector. A sector holds a *value*, a small number that stands for
 * 512 bytes that can be computed again: zeros, a random pattern that depends on the place, the
 * bytes of a golden image, or, where a write was not sector-aligned, bytes kept as they are. Each
 * file has for every sector the value that is surely durable (base), the one that reads see (cur),
 * and a list of what was written since the last sync (pending). The same for sizes. The tree of
 * names is a list of whole trees, the first surely durable, the last the one seen.
 *
 * Two questions can be asked of an observed file system:
 *   MODEL_EXACT  after the death of the process: everything acknowledged is there
 *   MODEL_POWER  after power loss: every sector is base or pending, every size too, and the tree is
 *                one of the list
 * An operation is announced before it is carried out and confirmed after; in between both answers
 * are right, so the questions may be asked at any I/O call inside of it. model_adopt() makes what
 * was observed after power loss the only right answer.
 *
 * Files are sparse: chunks of sectors that were never touched hold the value the file began with.
 * The model is used by one thread.
 */
#ifndef GOLDFS_TESTS_MODEL_H
#define GOLDFS_TESTS_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define MODEL_SECTOR 512u
#define MODEL_CHUNK 256u /* sectors */
#define MODEL_CHUNK_BYTES (MODEL_CHUNK * (uint64_t)MODEL_SECTOR)
#define MODEL_NAME 64u

struct image;
struct model;

typedef uint32_t model_value; /* 0: zeros */

enum model_mode { MODEL_EXACT, MODEL_POWER };
enum model_kind { MODEL_FILE, MODEL_FOLDER, MODEL_LINK };

struct model_chunk {
	model_value base[MODEL_CHUNK];
	model_value cur[MODEL_CHUNK];
};

struct model_write {
	uint64_t first; /* sector */
	uint64_t count;
	model_value value;
	bool open;  /* not confirmed */
	bool maybe; /* it failed: a process that starts anew may find it in place all the same */
};

/* Sizes between both ends may be seen: a write may have come half way. */
struct model_size {
	uint64_t low, high;
	bool open;
	bool maybe; /* as with writes */
};

struct model_object {
	uint32_t id;
	enum model_kind kind;
	uint64_t ino; /* 0: not known yet */
	uint32_t state; /* the same number: the same content on the same base, for sure */
	model_value origin;
	uint64_t size, base_size;
	struct model_chunk **chunks;
	size_t chunk_count;
	struct model_write *writes;
	size_t write_count, write_room;
	struct model_size *sizes;
	size_t size_count, size_room;
};

struct model_entry {
	char path[MODEL_NAME];
	uint32_t object;
	uint32_t xattr; /* value of the one attribute, 0: none */
	uint32_t base;	/* object of the snapshot that it stands on, 0: none */
};

struct model_tree {
	struct model_entry *list;
	size_t count;
	bool open; /* not confirmed */
	uint64_t number;
};

/* What is observed of one name, and how to read it. */
struct model_seen {
	char path[MODEL_NAME];
	enum model_kind kind;
	uint64_t ino;
	uint64_t size;
	uint32_t xattr;
	uint64_t base; /* inode of the snapshot that it stands on, 0: none */
};

struct model_view {
	struct model_seen *list;
	size_t count;
	/* Returns bytes read, less than len only at the end, or a negative errno. */
	ssize_t (*read)(void *arg, uint64_t ino, void *buf, size_t len, uint64_t off);
	void *arg;
};

struct model *model_new(void);
void model_free(struct model *model);

/* ---- values ---- */
model_value model_random(struct model *model, uint64_t seed);
/* The image's bytes at the same place; the image outlives the model. */
model_value model_golden(struct model *model, struct image *image);
/* 512 bytes of value at that sector. */
void model_fill(struct model *model, model_value value, uint64_t sector, uint8_t *out);
/* What a write of value to [off, off + len) has to carry. */
void model_fill_range(struct model *model, model_value value, uint64_t off, size_t len,
	uint8_t *out);

/* ---- the tree as seen ---- */
struct model_tree *model_tree(struct model *model);
struct model_entry *model_find(struct model *model, const char *path);
struct model_object *model_object(struct model *model, uint32_t id);

/* ---- operations; begin, then end with its success ---- */

/* A new tree, a copy of the one seen, to be changed with the functions below. */
void model_tree_begin(struct model *model);
/* A new empty file or folder; or one with source's content, all of it as of now. */
struct model_object *model_add(struct model *model, const char *path, enum model_kind kind);
struct model_object *model_add_clone(struct model *model, const char *path,
	const struct model_object *source);
struct model_object *model_add_golden(struct model *model, const char *path, model_value golden,
	uint64_t size);
void model_remove(struct model *model, const char *path);
/* The file is what source is from now on, as one thing with the change of the tree. */
void model_replace(struct model *model, const char *path, const struct model_object *source);
/* What stands at `to` goes; what is below a folder moves with it. */
void model_move(struct model *model, const char *path, const char *to);
void model_exchange(struct model *model, const char *a, const char *b);
void model_set_xattr(struct model *model, const char *path, uint32_t value);
void model_tree_end(struct model *model, bool ok);

/* Content: the range gets the value (0 for zeroing); grow: the size follows. */
void model_write_begin(struct model *model, struct model_object *object, model_value value,
	uint64_t off, uint64_t len, bool grow);
/* The same with bytes that are given; the file grows when needed. */
void model_bytes_begin(struct model *model, struct model_object *object, const uint8_t *bytes,
	uint64_t off, uint64_t len);
/* The empty file gets all of source's content, as of now. */
void model_attach_begin(struct model *model, struct model_object *object,
	const struct model_object *source);
void model_truncate_begin(struct model *model, struct model_object *object, uint64_t size);
/* It may have come to stand on another base, and shows the same. */
void model_rebased(struct model *model, struct model_object *object);
/* Success. A failed change stays possible until model_settle_object(). */
void model_change_end(struct model *model, struct model_object *object);

/* The newest confirmed tree: what a sync that begins now makes durable. */
uint64_t model_tree_mark(const struct model *model);
/* Everything of this file is durable, and that tree. */
void model_synced(struct model *model, struct model_object *object, uint64_t mark);
void model_synced_all(struct model *model);
/* That tree is durable, and no content. */
void model_tree_synced(struct model *model, uint64_t mark);

/* ---- questions ---- */

/*
 * 0, or -1 with the reason in model_reason(). index, when not NULL, gets the tree that fits.
 * thorough: untouched chunks of large files are read in full too.
 */
int model_check(struct model *model, const struct model_view *view, enum model_mode mode,
	bool thorough);
/* One file, wherever its name is. */
int model_check_object(struct model *model, const struct model_object *object,
	const struct model_view *view, const struct model_seen *seen, enum model_mode mode,
	bool thorough);
/* After a successful POWER check of the same view: this is the truth from now on, and durable. */
int model_adopt(struct model *model, const struct model_view *view);
/* After a failed write: what is read of the file now is what is seen (not: durable). */
int model_settle_object(struct model *model, struct model_object *object,
	const struct model_view *view, uint64_t size);
const char *model_reason(const struct model *model);
/* Changes with everything that changes the answers. */
uint64_t model_generation(const struct model *model);

#endif
