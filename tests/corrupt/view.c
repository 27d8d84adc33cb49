/* SPDX-License-Identifier: MIT */
/* Everything that a mount shows, as hashes. */
#include "corrupt.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/hash.h"
#include "base/sizes.h"
#include "core/fs.h"

#define READ_BYTES (256 * KIB)
#define BLOCK 4096

struct taker {
	struct view *view;
	struct fs *fs;
	char *folder; /* path with a slash, or "" */
	int result;
};

static struct view_file *new_file(struct view *view)
{
	struct view_file *files = realloc(view->files, (view->count + 1) * sizeof(*files));

	if (!files)
		return NULL;
	view->files = files;
	memset(&files[view->count], 0, sizeof(*files));
	return &files[view->count++];
}

static uint64_t mix(uint64_t hash, const void *bytes, size_t len)
{
	return rng_scramble(hash ^ hash_struct(bytes, len) ^ len);
}

static uint64_t mix_number(uint64_t hash, int64_t number)
{
	return mix(hash, &number, sizeof(number));
}

static uint64_t hash_xattrs(struct fs *fs, uint64_t ino, uint64_t hash)
{
	static char names[65536], value[65536];
	ssize_t len = fs_listxattr(fs, ino, names, sizeof(names));

	hash = mix_number(hash, len);
	for (ssize_t at = 0; at < len; at += (ssize_t)strlen(names + at) + 1) {
		ssize_t n = fs_getxattr(fs, ino, names + at, value, sizeof(value));

		hash = mix(hash, names + at, strlen(names + at));
		hash = mix_number(hash, n);
		if (n > 0)
			hash = mix(hash, value, (size_t)n);
	}
	return hash;
}

static uint64_t hash_attributes(struct fs *fs, const struct fs_attr *attr)
{
	uint64_t hash = 1;
	char *target = NULL;

	hash = mix_number(hash, attr->mode);
	hash = mix_number(hash, attr->nlink);
	hash = mix_number(hash, attr->uid);
	hash = mix_number(hash, attr->gid);
	if (!S_ISDIR(attr->mode))
		hash = mix_number(hash, (int64_t)attr->size);
	hash = mix_number(hash, attr->mtime_ns);
	hash = mix_number(hash, attr->ctime_ns);
	hash = mix_number(hash, attr->btime_ns);
	if (S_ISLNK(attr->mode) && fs_readlink(fs, attr->ino, &target) == 0)
		hash = mix(hash, target, strlen(target));
	free(target);
	return hash_xattrs(fs, attr->ino, hash);
}

static uint64_t hash_figures(struct fs *fs, const struct fs_attr *attr)
{
	struct fs_info info;
	uint64_t hash = mix_number(2, (int64_t)attr->blocks);
	int r = fs_info(fs, attr->ino, FS_NOW, &info);

	if (r)
		return mix_number(hash, r);
	hash = mix(hash, &info.figures, sizeof(info.figures));
	hash = mix(hash, info.base, strlen(info.base));
	hash = mix(hash, info.state, strlen(info.state));
	hash = mix_number(hash, info.created_ns);
	fs_info_release(&info);
	return hash;
}

static uint64_t hash_one(const uint8_t *block, size_t len)
{
	uint64_t hash = hash_struct(block, len);

	return hash ? hash : 1;
}

/* Pieces at a time, and block by block where that fails. */
static int read_blocks(struct fs *fs, uint64_t ino, struct view_file *f)
{
	static uint8_t buf[READ_BYTES];

	f->block_count = round_up(f->size, BLOCK) / BLOCK;
	f->blocks = calloc(f->block_count + 1, sizeof(*f->blocks));
	if (!f->blocks)
		return -ENOMEM;
	for (uint64_t off = 0; off < f->size;) {
		size_t want = min_u64(sizeof(buf), f->size - off);
		ssize_t n = fs_read(fs, ino, buf, want, off);

		if (n != (ssize_t)want) {
			want = min_u64(BLOCK, want);
			n = fs_read(fs, ino, buf, want, off);
		}
		for (size_t at = 0; n == (ssize_t)want && at < want; at += BLOCK)
			f->blocks[(off + at) / BLOCK] =
				hash_one(buf + at, min_u64(BLOCK, want - at));
		off += want;
	}
	return 0;
}

static int take_folder(struct taker *t, uint64_t ino, const char *path);

static int take_entry(void *arg, const char *name, const struct fs_attr *attr, uint64_t next)
{
	struct taker *t = arg;
	struct view_file *f = new_file(t->view);
	char path[PATH_ROOM];
	struct fs_attr fresh;
	int r = 0;

	if (!f)
		return -ENOMEM;
	snprintf(path, sizeof(path), "%s%s", t->folder, name);
	f->path = strdup(path);
	f->golden = strncmp(path, "golden", 6) == 0;
	if (!f->path)
		return -ENOMEM;
	if (f->golden || strcmp(path, ".snapshots") == 0) {
		f->golden = true;
		return 0;
	}
	f->size = S_ISREG(attr->mode) ? attr->size : 0;
	f->attributes = hash_attributes(t->fs, attr);
	if (S_ISREG(attr->mode))
		r = read_blocks(t->fs, attr->ino, f);
	/* Settled by now, whatever the listing has. */
	if (!r && fs_getattr(t->fs, attr->ino, &fresh) == 0)
		f->figures = S_ISREG(attr->mode) ? hash_figures(t->fs, &fresh) : 0;
	if (!r && S_ISDIR(attr->mode)) {
		snprintf(path, sizeof(path), "%s%s/", t->folder, name);
		r = take_folder(t, attr->ino, path);
	}
	return r;
}

static int take_folder(struct taker *t, uint64_t ino, const char *path)
{
	struct taker below = {.view = t->view, .fs = t->fs};
	int r;

	below.folder = strdup(path);
	r = below.folder ? fs_list(t->fs, ino, 0, take_entry, &below) : -ENOMEM;
	free(below.folder);
	return r;
}

static int by_path(const void *a, const void *b)
{
	return strcmp(((const struct view_file *)a)->path, ((const struct view_file *)b)->path);
}

int view_take(struct view *view, struct fs *fs)
{
	struct taker t = {.view = view, .fs = fs};
	struct fs_store_figures figures = {0};
	int r;

	memset(view, 0, sizeof(*view));
	r = take_folder(&t, FS_INO_ROOT, "");
	if (r)
		return r;
	qsort(view->files, view->count, sizeof(*view->files), by_path);
	fs_store_figures(fs, &figures);
	view->figures = mix_number(3, (int64_t)figures.virtual_bytes);
	view->figures = mix_number(view->figures, (int64_t)figures.data_bytes);
	view->figures = mix_number(view->figures, (int64_t)figures.unique_bytes);
	view->figures = mix_number(view->figures, (int64_t)figures.saved_zero_bytes);
	view->figures = mix_number(view->figures, (int64_t)figures.saved_clone_bytes);
	view->figures = mix_number(view->figures, (int64_t)figures.saved_dedup_bytes);
	view->figures = mix_number(view->figures, (int64_t)figures.clones);
	return 0;
}

void view_release(struct view *view)
{
	for (size_t i = 0; i < view->count; i++) {
		free(view->files[i].path);
		free(view->files[i].blocks);
	}
	free(view->files);
	memset(view, 0, sizeof(*view));
}

const struct view_file *view_find(const struct view *view, const char *path)
{
	struct view_file key = {.path = (char *)path};

	return view->count ? bsearch(&key, view->files, view->count, sizeof(key), by_path) : NULL;
}

bool same_file(const struct view_file *a, const struct view_file *b, bool content_only)
{
	if (a->golden || b->golden)
		return a->golden == b->golden;
	if (a->size != b->size ||
		(a->size && memcmp(a->blocks, b->blocks, a->block_count * sizeof(*a->blocks)) != 0))
		return false;
	return content_only || (a->attributes == b->attributes && a->figures == b->figures);
}

const char *view_differs(const struct view *a, const struct view *b)
{
	static char text[PATH_ROOM + 60];

	for (size_t i = 0; i < a->count; i++) {
		const struct view_file *f = &a->files[i], *g = view_find(b, f->path);

		if (g && same_file(f, g, false))
			continue;
		snprintf(text, sizeof(text), "\"%s\" %s", f->path, !g ? "is not there" :
			!same_file(f, g, true) ? "has other content" :
			f->attributes != g->attributes ? "has other attributes" :
			"has other figures");
		return text;
	}
	if (a->count != b->count)
		return "there are other files";
	return a->figures != b->figures ? "the store has other figures" : NULL;
}

const char *view_lies(const struct view *right, const struct view *seen)
{
	static char text[PATH_ROOM + 100];

	for (size_t i = 0; i < seen->count; i++) {
		const struct view_file *g = &seen->files[i], *f = view_find(right, g->path);

		if (g->golden)
			continue;
		for (size_t b = 0; f && b < g->block_count; b++) {
			if (!g->blocks[b] || (b < f->block_count && g->blocks[b] == f->blocks[b]))
				continue;
			snprintf(text, sizeof(text), "\"%s\" shows wrong bytes in block %zu", g->path, b);
			return text;
		}
	}
	return NULL;
}
