/* SPDX-License-Identifier: MIT */
/*
 * Dedup policies and domains of folders (core/domain.c): who comes to share with whom, and who never
 * does, whatever is moved, cloned, set, crashed or mounted in between.
 *
 * Contents are letters: block i of 'A' is another one than block j of it.
 *
 * Environment: SEED (first), SEEDS.
 */
#include <errno.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/sizes.h"
#include "core/fs_internal.h"
#include "goldfs/format.h"
#include "image/image.h"
#include "rng.h"
#include "simdisk.h"
#include "store/pool.h"

enum { BLOCK = 4096, COUNT = 32 /* blocks are a large write */ };

static struct simdisk *disk;
static struct fs *fs;
static struct image *golden;
static enum fs_dedup option;

static uint8_t golden_bytes[COUNT * BLOCK];

static struct image *golden_test(void *arg, uint64_t id)
{
	return id == 1 ? golden : NULL;
}

static void open_store(void)
{
	struct fs_options options = {
		.journal_size = MIB,
		.reserve = 64 * KIB,
		.no_background = true,
		.verify_reads = true,
		.dedup = option,
		.store_fd = -1,
		.golden_test = golden_test,
	};

	assert_int_equal(fs_open(&fs, simdisk_io(disk), &options), 0);
}

static void lose_power(enum simdisk_policy policy)
{
	struct simdisk *other = simdisk_crash(disk, policy, 1);

	fs_abandon(steal_pointer(&fs));
	simdisk_free(disk);
	disk = other;
	open_store();
}

static void remount(void)
{
	assert_int_equal(fs_close(steal_pointer(&fs)), 0);
	open_store();
}

static int setup(void **state)
{
	option = FS_DEDUP_ALL;
	disk = simdisk_new(GIB);
	open_store();
	return 0;
}

static int teardown(void **state)
{
	if (fs)
		fs_abandon(steal_pointer(&fs));
	simdisk_free(disk);
	return 0;
}

/* ---- files ---- */

static uint64_t make(uint64_t parent, const char *name, uint32_t type)
{
	struct fs_attr attr;

	assert_int_equal(fs_make(fs, parent, name, type | 0755, (struct fs_owner){0, 0}, &attr), 0);
	fs_forget(fs, attr.ino, 1);
	return attr.ino;
}

static uint64_t folder(const char *name)
{
	return make(FS_INO_ROOT, name, S_IFDIR);
}

static uint64_t file(uint64_t parent, const char *name)
{
	return make(parent, name, S_IFREG);
}

static void set_domain(uint64_t ino, enum fs_domain domain)
{
	assert_int_equal(fs_set_dedup(fs, ino, NULL, &domain), 0);
}

static void set_policy(uint64_t ino, int policy)
{
	assert_int_equal(fs_set_dedup(fs, ino, &policy, NULL), 0);
}

static void fill(uint8_t *buf, char content, uint64_t count)
{
	memset(buf, content, count * BLOCK);
	for (uint64_t i = 0; i < count; i++)
		memcpy(buf + i * BLOCK, &i, sizeof(i));
}

static void put(uint64_t ino, uint64_t block, char content)
{
	uint8_t buf[COUNT * BLOCK];

	fill(buf, content, COUNT);
	assert_int_equal(fs_write(fs, ino, buf, sizeof(buf), block * BLOCK), sizeof(buf));
}

/* Block by block, through the ring. */
static void put_small(uint64_t ino, uint64_t block, char content)
{
	uint8_t buf[COUNT * BLOCK];

	fill(buf, content, COUNT);
	for (uint64_t i = 0; i < COUNT; i++)
		assert_int_equal(fs_write(fs, ino, buf + i * BLOCK, BLOCK, (block + i) * BLOCK), BLOCK);
}

static void assert_shows(uint64_t ino, uint64_t block, char content)
{
	uint8_t is[COUNT * BLOCK], want[COUNT * BLOCK];

	fill(want, content, COUNT);
	assert_int_equal(fs_read(fs, ino, is, sizeof(is), block * BLOCK), sizeof(is));
	assert_memory_equal(is, want, sizeof(is));
}

static void settle(void)
{
	assert_int_equal(fs_settle(fs), 0);
}

static struct fs_figures figures(uint64_t ino)
{
	struct fs_info info;

	assert_int_equal(fs_info(fs, ino, FS_NOW, &info), 0);
	fs_info_release(&info);
	return info.figures;
}

/* All of it is this file's alone, or shared. */
static void assert_alone(uint64_t ino)
{
	struct fs_figures f = figures(ino);

	assert_int_equal(f.unique_bytes, f.data_bytes);
	assert_true(f.data_bytes > 0);
}

static void assert_sharing(uint64_t ino)
{
	assert_int_equal(figures(ino).unique_bytes, 0);
	assert_true(figures(ino).shared_clone_bytes > 0);
}

static void assert_golden(uint64_t ino)
{
	assert_int_equal(figures(ino).unique_bytes, 0);
	assert_true(figures(ino).shared_golden_bytes > 0);
}

static void clone_file(uint64_t source, uint64_t parent, const char *name)
{
	struct fs_clone_target target = {parent, name};
	size_t failed;

	assert_int_equal(fs_clone(fs, source, &target, 1, (struct fs_owner){0, 0}, 0600, false, false,
				 NULL, &failed), 0);
}

static uint64_t resolve(const char *path)
{
	uint64_t ino;

	assert_int_equal(fs_resolve(fs, path, &ino), 0);
	return ino;
}

static void assert_info(const char *path, const char *dedup, const char *domain)
{
	struct fs_info info;

	assert_int_equal(fs_info(fs, resolve(path), FS_NOW, &info), 0);
	assert_string_equal(info.dedup, dedup);
	assert_string_equal(info.dedup_domain, domain);
	fs_info_release(&info);
}

/* ---- two tenants ---- */

struct tenants {
	uint64_t a, b, common;
	uint64_t files[6]; /* two of each */
};

static struct tenants two_tenants(void)
{
	struct tenants t = {.a = folder("a"), .b = folder("b"), .common = FS_INO_ROOT};
	const uint64_t folders[] = {t.a, t.b, t.common};

	set_domain(t.a, FS_DOMAIN_OWN);
	set_domain(t.b, FS_DOMAIN_OWN);
	for (int i = 0; i < 6; i++)
		t.files[i] = file(folders[i / 2], i % 2 ? "two" : "one");
	return t;
}

static void assert_two_each(const struct tenants *t)
{
	for (int i = 0; i < 6; i++) {
		assert_sharing(t->files[i]);
		assert_shows(t->files[i], 0, 'A');
	}
}

/* Bytes of the pool that are in use. */
static uint64_t pool_blocks(void)
{
	struct pool_figures f;

	pool_figures(fs->pool, &f);
	return f.live_slots;
}

static void test_large_writes(void **state)
{
	struct tenants t = two_tenants();

	for (int i = 0; i < 6; i++)
		put(t.files[i], 0, 'A');
	settle();
	assert_two_each(&t);
	assert_int_equal(pool_blocks(), 3 * COUNT);
}

static void test_small_writes(void **state)
{
	struct tenants t = two_tenants();

	for (int i = 0; i < 6; i++) {
		put_small(t.files[i], 0, 'A');
		if (i % 2)
			settle();
	}
	settle();
	assert_two_each(&t);
	assert_int_equal(pool_blocks(), 3 * COUNT);
}

/* Nobody's block is moved for another one's sake. */
static void test_one_each(void **state)
{
	struct tenants t = two_tenants();

	for (int i = 0; i < 6; i += 2)
		put(t.files[i], 0, 'A');
	settle();
	assert_int_equal(fs_dedup(fs, t.files, 6, NULL, NULL), 0);
	for (int i = 0; i < 6; i += 2)
		assert_alone(t.files[i]);
	assert_int_equal(pool_blocks(), 0);
}

/* What the pool has is each domain's own after a mount, and after a crash, too. */
static void test_after_mounts(void **state)
{
	struct tenants t = two_tenants();
	uint64_t late[3];

	for (int i = 0; i < 4; i++)
		put(t.files[i], 0, 'A');
	settle();
	for (int round = 0; round < 3; round++) {
		const uint64_t folders[] = {t.a, t.b, t.common};
		char name[] = "late0";

		if (round == 1)
			remount();
		else
			lose_power(round ? SIMDISK_DROP : SIMDISK_KEEP);
		name[4] = (char)('0' + round);
		settle();
		for (int i = 0; i < 3 - !!round; i++) {
			late[i] = file(folders[i], name);
			put(late[i], 0, 'A');
		}
		settle();
		assert_sharing(late[0]);
		assert_sharing(late[1]);
		assert_alone(late[2]);
		assert_int_equal(pool_blocks(), 2 * COUNT);
	}
}

/* ---- what is said of folders ---- */

static void test_inheritance(void **state)
{
	uint64_t a = folder("a"), in = make(a, "in", S_IFDIR), out = make(in, "out", S_IFDIR);
	uint64_t x = file(a, "x"), y = file(in, "y"), z = file(out, "z"), root = file(FS_INO_ROOT, "r");

	assert_info("a/x", "all", "");
	set_domain(a, FS_DOMAIN_OWN);
	set_policy(a, FS_DEDUP_GOLDEN);
	set_policy(in, FS_DEDUP_ALL);
	set_domain(out, FS_DOMAIN_SHARED);
	assert_info("a", "golden", "/a");
	assert_info("a/x", "golden", "/a");
	assert_info("a/in/y", "all", "/a");
	assert_info("a/in/out/z", "all", "");
	assert_info("r", "all", "");
	put(x, 0, 'A');
	put(y, 0, 'A');
	put(z, 0, 'A');
	put(root, 0, 'A');
	settle();
	assert_alone(x);
	assert_alone(y);
	assert_sharing(z);
	assert_sharing(root);
	set_policy(z, FS_DEDUP_OFF);
	assert_info("a/in/out/z", "off", "");
	set_policy(FS_INO_ROOT, FS_DEDUP_OFF);
	assert_info("r", "off", "");
	assert_info("a/in/y", "all", "/a");
	for (int i = 0; i < 2; i++) {
		lose_power(SIMDISK_DROP);
		assert_info("r", "off", "");
		assert_info("a/x", "golden", "/a");
		assert_info("a/in/out/z", "off", "");
		settle();
	}
	set_policy(z, FS_DEDUP_INHERIT);
	set_domain(out, FS_DOMAIN_INHERIT);
	assert_info("a/in/out/z", "all", "/a");
	assert_true(fs->super.incompat & GF_INCOMPAT_DEDUP);
}

static void test_refusals(void **state)
{
	const int policy = FS_DEDUP_OFF;
	struct fs_attr attr;

	assert_int_equal(fs_symlink(fs, FS_INO_ROOT, "s", "t", (struct fs_owner){0, 0}, &attr), 0);
	fs_forget(fs, attr.ino, 1);
	assert_int_equal(fs_set_dedup(fs, attr.ino, &policy, NULL), -EINVAL);
	assert_int_equal(fs_set_dedup(fs, FS_INO_GOLDEN, &policy, NULL), -EPERM);
	assert_int_equal(fs_set_dedup(fs, 12345, &policy, NULL), -EPERM);
}

static void test_policies(void **state)
{
	uint64_t off = folder("off"), in_golden = folder("golden-only"), one, two, with, at;
	struct fs_figures f;

	set_policy(off, FS_DEDUP_OFF);
	set_policy(in_golden, FS_DEDUP_GOLDEN);
	with = file(FS_INO_ROOT, "with");
	one = file(off, "one");
	two = file(in_golden, "two");
	put(with, 0, 'A');
	put(one, 0, 'A');
	put(two, 0, 'A');
	put(one, 100, 'A');
	settle();
	/* Neither finds anybody, nor is found. */
	assert_alone(with);
	assert_alone(two);
	f = figures(one);
	assert_int_equal(f.unique_bytes, 2 * COUNT * BLOCK);
	/* Zeros and what equals what is below are not stored, whatever is said. */
	at = figures(one).data_bytes;
	assert_int_equal(fs_write(fs, one, (uint8_t[COUNT * BLOCK]){0}, COUNT * BLOCK, 0),
		COUNT * BLOCK);
	settle();
	assert_int_equal(figures(one).data_bytes, at - COUNT * BLOCK);
	/* What was set before is looked at when somebody asks for it. */
	set_policy(off, FS_DEDUP_ALL);
	assert_int_equal(fs_dedup(fs, (uint64_t[]){one, with}, 2, NULL, NULL), 0);
	assert_sharing(one);
	assert_sharing(with);
	assert_alone(two);
}

/* The mount's option is the most. */
static void test_option(void **state)
{
	uint64_t a = folder("a"), one = file(a, "one"), two = file(a, "two");

	set_policy(a, FS_DEDUP_ALL);
	assert_int_equal(fs_close(steal_pointer(&fs)), 0);
	option = FS_DEDUP_GOLDEN;
	open_store();
	assert_info("a", "golden", "");
	put(one, 0, 'A');
	put(two, 0, 'A');
	settle();
	assert_alone(one);
}

/* ---- what moves ---- */

/* Nothing is unshared, and nobody new is let in: neither there nor here. */
static void test_clone_that_moves(void **state)
{
	struct tenants t = two_tenants();
	uint64_t late;

	for (int i = 0; i < 2; i++)
		put(t.files[i], 0, 'A');
	settle();
	assert_sharing(t.files[0]);
	assert_int_equal(fs_rename(fs, t.a, "one", t.b, "moved", 0), 0);
	assert_info("b/moved", "all", "/b");
	settle();
	assert_sharing(t.files[0]);
	assert_sharing(t.files[1]);
	/* Who comes later to either shares with nobody of the other. */
	put(t.files[2], 0, 'A');
	settle();
	assert_alone(t.files[2]);
	late = file(t.a, "late");
	put(late, 0, 'A');
	settle();
	assert_alone(late);
	/* A slot that one domain alone shows by then is that one's from the next mount on. */
	assert_int_equal(fs_unlink(fs, t.a, "two"), 0);
	settle();
	remount();
	settle();
	late = file(t.b, "late");
	put(late, 0, 'A');
	settle();
	assert_sharing(late);
}

/* Blocks in place move with their clone. */
static void test_blocks_that_move(void **state)
{
	struct tenants t = two_tenants();

	put(t.files[0], 0, 'A');
	settle();
	assert_int_equal(fs_rename(fs, t.a, "one", t.b, "moved", 0), 0);
	put(t.files[1], 0, 'A');
	settle();
	assert_alone(t.files[0]);
	assert_alone(t.files[1]);
	assert_int_equal(pool_blocks(), 0);
	assert_int_equal(fs_dedup(fs, t.files, 4, NULL, NULL), 0);
	put(t.files[2], 0, 'A');
	settle();
	assert_sharing(t.files[0]);
	assert_sharing(t.files[2]);
	assert_alone(t.files[1]);
}

/* A block that was to go to the pool, and whose clone goes first. */
static void test_move_before_the_checkpoint(void **state)
{
	struct tenants t = two_tenants();

	put(t.files[0], 0, 'A');
	settle();
	put(t.files[1], 0, 'A');
	assert_int_equal(fs_rename(fs, t.a, "one", t.b, "moved", 0), 0);
	settle();
	assert_alone(t.files[0]);
	assert_alone(t.files[1]);
}

static void test_folder_that_moves(void **state)
{
	struct tenants t = two_tenants();
	uint64_t sub = make(t.a, "sub", S_IFDIR), x = file(sub, "x");

	put(x, 0, 'A');
	settle();
	assert_int_equal(fs_rename(fs, t.a, "sub", t.b, "sub", 0), 0);
	put(t.files[0], 0, 'A');
	put(t.files[2], 0, 'B');
	put(x, 100, 'B');
	settle();
	assert_alone(t.files[0]);
	assert_sharing(t.files[2]);
	/* A domain that moves stays one. */
	assert_int_equal(fs_rename(fs, FS_INO_ROOT, "b", t.a, "b", 0), 0);
	assert_info("a/b/sub/x", "all", "/a/b");
	put(t.files[3], 0, 'B');
	put(t.files[1], 0, 'B');
	settle();
	assert_sharing(t.files[3]);
	assert_alone(t.files[1]);
}

static void test_exchange(void **state)
{
	struct tenants t = two_tenants();

	put(t.files[0], 0, 'A');
	put(t.files[2], 0, 'B');
	settle();
	assert_int_equal(fs_rename(fs, t.a, "one", t.b, "one", RENAME_EXCHANGE), 0);
	put(t.files[1], 0, 'A');
	put(t.files[3], 0, 'B');
	settle();
	for (int i = 0; i < 4; i++)
		assert_alone(t.files[i]);
}

/* Cloned across domains: layers are shared, as was asked for, and nobody else is drawn in. */
static void test_clone_across(void **state)
{
	struct tenants t = two_tenants();
	uint64_t copy;

	put(t.files[0], 0, 'A');
	settle();
	clone_file(t.files[0], t.b, "copy");
	copy = resolve("b/copy");
	settle();
	assert_sharing(copy);
	put(t.files[1], 0, 'A');
	put(t.files[2], 0, 'A');
	settle();
	assert_alone(t.files[1]);
	assert_alone(t.files[2]);
	/* What each writes from then on is its own domain's. */
	put(copy, 100, 'B');
	put(t.files[3], 0, 'B');
	put(t.files[0], 100, 'B');
	settle();
	assert_int_equal(figures(t.files[3]).unique_bytes, 0);
	assert_int_equal(figures(t.files[0]).unique_bytes, COUNT * BLOCK);
	remount();
	settle();
	put(t.files[4], 0, 'A');
	settle();
	assert_alone(t.files[4]);
	assert_shows(copy, 0, 'A');
}

/* A setting that comes when there is something already. */
static void test_setting_that_comes_late(void **state)
{
	uint64_t a = folder("a"), one = file(a, "one"), two = file(a, "two"), out, late;

	out = file(FS_INO_ROOT, "out");
	put(one, 0, 'A');
	put(two, 0, 'A');
	put(one, 100, 'B');
	put(out, 100, 'B');
	settle();
	assert_sharing(two);
	set_domain(a, FS_DOMAIN_OWN);
	settle();
	/* The pool's 'A' is the folder's alone, 'B' is nobody's any more. */
	late = file(a, "late");
	put(late, 0, 'A');
	settle();
	assert_sharing(late);
	late = file(FS_INO_ROOT, "late");
	put(late, 0, 'A');
	put(late, 100, 'B');
	settle();
	assert_alone(late);
	assert_sharing(two);
	/* All is common again without any setting. */
	set_domain(a, FS_DOMAIN_INHERIT);
	late = file(FS_INO_ROOT, "last");
	put(late, 0, 'A');
	settle();
	assert_sharing(late);
}

/* ---- golden images ---- */

static void test_golden(void **state)
{
	struct tenants t = two_tenants();
	uint64_t off = folder("off"), none, keep;
	uint8_t buf[COUNT * BLOCK];

	set_policy(off, FS_DEDUP_OFF);
	set_policy(t.b, FS_DEDUP_GOLDEN);
	none = file(off, "none");
	clone_file(resolve("golden/1"), FS_INO_ROOT, "keep");
	keep = resolve("keep");
	settle();
	assert_int_equal(fs_read(fs, keep, buf, sizeof(buf), 0), sizeof(buf));
	for (int i = 0; i < 6; i += 2)
		assert_int_equal(fs_write(fs, t.files[i], buf, sizeof(buf), 100 * BLOCK), sizeof(buf));
	assert_int_equal(fs_write(fs, none, buf, sizeof(buf), 100 * BLOCK), sizeof(buf));
	settle();
	for (int i = 0; i < 6; i += 2)
		assert_golden(t.files[i]);
	assert_alone(none);
}

/* ---- at random ---- */

#define FOLDERS 4
#define FILES 4
#define STOCK 40

struct seen {
	uint64_t slot;
	unsigned folder;
};

static int compare_seen(const void *a, const void *b)
{
	const struct seen *x = a, *y = b;

	return x->slot < y->slot ? -1 : x->slot > y->slot;
}

/* No slot is shown in two domains; folders 0 and 1 are the common one. */
static void assert_apart(uint64_t inos[FOLDERS][FILES])
{
	static struct seen seen[FOLDERS * FILES * 1024];
	size_t count = 0;

	for (unsigned d = 0; d < FOLDERS; d++) {
		for (unsigned i = 0; i < FILES; i++) {
			struct inode *inode = tree_find(fs, inos[d][i]);
			struct layer *layer = inode ? atomic_load(&inode->layer) : NULL;

			for (; layer; layer = layer->parent) {
				uint64_t places[256];

				assert_int_equal(layer_read_places(layer, 0, places, 256), 0);
				for (int k = 0; k < 256; k++)
					if (place_is_pool(places[k]) && count < ARRAY_SIZE(seen))
						seen[count++] = (struct seen){place_to_slot(places[k]),
							d < 2 ? 0 : d};
			}
		}
	}
	qsort(seen, count, sizeof(*seen), compare_seen);
	for (size_t i = 1; i < count; i++)
		if (seen[i].slot == seen[i - 1].slot && seen[i].folder != seen[i - 1].folder)
			fail_msg("slot %" PRIu64 " is shown in folders %u and %u", seen[i].slot,
				seen[i - 1].folder, seen[i].folder);
}

struct world {
	struct rng rng;
	uint64_t folders[FOLDERS];
	uint64_t inos[FOLDERS][FILES]; /* 0: there is none */
};

static void write_some(struct world *w, uint64_t ino)
{
	uint64_t count = rng_below(&w->rng, 4) ? 1 + rng_below(&w->rng, 4) : COUNT;
	uint64_t at = rng_below(&w->rng, 256 - COUNT), first = rng_below(&w->rng, STOCK);
	uint8_t buf[COUNT * BLOCK];

	for (uint64_t i = 0; i < count; i++) {
		memset(buf + i * BLOCK, 'a', BLOCK);
		memcpy(buf + i * BLOCK, &(uint64_t){(first + i) % STOCK}, sizeof(uint64_t));
	}
	assert_int_equal(fs_write(fs, ino, buf, count * BLOCK, at * BLOCK), count * BLOCK);
}

/* Files are made anew, cloned and moved within their domain. */
static void change_names(struct world *w)
{
	unsigned d = rng_below(&w->rng, FOLDERS), i = rng_below(&w->rng, FILES);
	unsigned from = rng_below(&w->rng, FILES), e = d < 2 ? !d : d;
	uint64_t *ino = &w->inos[d][i], source = w->inos[e][from];
	char name[8], old[8];

	snprintf(name, sizeof(name), "f%u", i);
	snprintf(old, sizeof(old), "f%u", from);
	if (*ino)
		assert_int_equal(fs_unlink(fs, w->folders[d], name), 0);
	*ino = 0;
	if (e == d && i == from)
		return;
	if (!source) {
		*ino = file(w->folders[d], name);
	} else if (rng_below(&w->rng, 2)) {
		struct fs_clone_target target = {w->folders[d], name};
		size_t failed;

		assert_int_equal(fs_clone(fs, source, &target, 1, (struct fs_owner){0, 0}, 0600,
					 false, false, NULL, &failed), 0);
		*ino = tree_find_name(fs, w->folders[d], name, strlen(name))->ino;
	} else {
		assert_int_equal(fs_rename(fs, w->folders[e], old, w->folders[d], name, 0), 0);
		*ino = source;
		w->inos[e][from] = 0;
	}
}

static void crash(struct world *w)
{
	assert_int_equal(fs_sync(fs), 0);
	if (rng_below(&w->rng, 2))
		lose_power(rng_below(&w->rng, 2) ? SIMDISK_DROP : SIMDISK_KEEP);
	else
		remount();
}

static void run_seed(uint64_t seed)
{
	struct world w = {.folders = {0}};
	bool shared = false;

	rng_seed(&w.rng, seed);
	for (unsigned d = 0; d < FOLDERS; d++) {
		w.folders[d] = folder((char[]){(char)('p' + d), 0});
		if (d >= 2)
			set_domain(w.folders[d], FS_DOMAIN_OWN);
	}
	for (int op = 0; op < 600; op++) {
		uint64_t ino = w.inos[rng_below(&w.rng, FOLDERS)][rng_below(&w.rng, FILES)];
		unsigned kind = rng_below(&w.rng, 100);

		if (kind < 70 && ino)
			write_some(&w, ino);
		else if (kind < 90)
			change_names(&w);
		else if (kind < 97)
			settle();
		else
			crash(&w);
		if (kind >= 90) {
			assert_apart(w.inos);
			shared |= pool_blocks() > 0;
		}
	}
	assert_true(shared);
}

static void test_random(void **state)
{
	const char *seed = getenv("SEED"), *seeds = getenv("SEEDS");
	uint64_t first = seed ? strtoull(seed, NULL, 0) : 1, count = seeds ? strtoull(seeds, NULL, 0) : 6;

	for (uint64_t i = 0; i < count; i++) {
		print_message("SEED=%" PRIu64 "\n", first + i);
		run_seed(first + i);
		teardown(state);
		setup(state);
	}
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(test_##name, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(large_writes),
		T(small_writes),
		T(one_each),
		T(after_mounts),
		T(inheritance),
		T(refusals),
		T(policies),
		T(option),
		T(clone_that_moves),
		T(blocks_that_move),
		T(move_before_the_checkpoint),
		T(folder_that_moves),
		T(exchange),
		T(clone_across),
		T(setting_that_comes_late),
		T(golden),
		T(random),
	};

	for (size_t i = 0; i < sizeof(golden_bytes); i++)
		golden_bytes[i] = (uint8_t)(i / BLOCK * 7 + i % 251);
	if (image_memory_new(&golden, golden_bytes, sizeof(golden_bytes)))
		return 1;
	alarm(300);
	if (!getenv("VERBOSE"))
		log_open(LOG_TO_FILE, "/dev/null");
	return cmocka_run_group_tests(tests, NULL, NULL);
}
