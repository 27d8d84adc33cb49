/* SPDX-License-Identifier: MIT */
/*
 * Assertions of invariants: each is broken on purpose, and has to end the process with its number.
 *
 * Every case runs in a child of its own, on a store of its own. Where code has a place to be broken
 * (MUTATED()), the case runs twice: as it is, which must come through, and with that place broken.
 * The others do by hand what no code does.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/invariant.h"
#include "base/log.h"
#include "base/mutation.h"
#include "base/sizes.h"
#include "core/fs_internal.h"
#include "image/folder.h"
#include "image/image.h"
#include "store/pool.h"
#include "store_dir.h"

#ifndef GF_INVARIANTS

static void nothing_is_asserted(void **state)
{
	skip();
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(nothing_is_asserted)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

#else

/* In a child: anything but the end that is waited for. */
#define MUST(condition) \
	do { \
		if (!(condition)) { \
			fprintf(stderr, "line %d: %s\n", __LINE__, #condition); \
			_exit(9); \
		} \
	} while (0)

static struct store_dir dir;
static struct io_ops ops;
static int (*real_fdatasync)(struct io *io, int fd);
static void (*during_sync)(void); /* once */
static int sync_result;		  /* once */

static int hooked_fdatasync(struct io *io, int fd)
{
	void (*hook)(void) = during_sync;
	int r = sync_result;

	during_sync = NULL;
	sync_result = 0;
	if (hook)
		hook();
	return r ? r : real_fdatasync(io, fd);
}

/* ---- a journal alone ---- */

static struct journal *journal;
static const uint8_t secret[HASH_SECRET_LEN];

static void open_journal(void)
{
	struct journal_mark tail = {.seq = 1};

	MUST(journal_create(dir.io, MIB) == 0);
	MUST(journal_open(&journal, dir.io, MIB, secret, false) == 0);
	MUST(journal_scan(journal, tail, NULL, NULL, &(uint64_t){0}) == 0);
}

static uint64_t append(void)
{
	struct gf_disk_op op = {.type = GF_OP_PAD, .length = sizeof(op)};
	struct iovec iov = {&op, sizeof(op)};
	uint64_t seq, pos;

	MUST(journal_append(journal, &iov, 1, &seq, &pos) == 0);
	return seq;
}

static void ignore(void *arg, int result)
{
}

static void append_more(void)
{
	journal_sync_async(journal, append(), ignore, NULL);
}

static void sync_while_others_append(void)
{
	open_journal();
	during_sync = append_more;
	MUST(journal_sync(journal, append()) == 0);
}

static void sync_journal_twice(void)
{
	open_journal();
	sync_result = -EIO;
	MUST(journal_sync(journal, append()) == -EIO);
	journal_sync(journal, journal_last_seq(journal));
}

static void give_back_what_was_not_reserved(void)
{
	open_journal();
	journal_unreserve(journal, 4096);
}

static void tail_overtakes_head(void)
{
	struct journal_mark mark;

	open_journal();
	append();
	mark = journal_head(journal);
	mark.pos += 4096;
	journal_set_tail(journal, mark);
}

/* ---- the pool alone ---- */

static struct pool *pool;

/* Slots with bytes, to which a layer refers. */
static uint64_t fill_pool(uint64_t count)
{
	static const uint8_t bytes[16 * GF_BLOCK_SIZE] __attribute__((aligned(4)));
	uint64_t slot, got;

	if (!pool)
		MUST(pool_open(&pool, dir.io) == 0);
	MUST(pool_allocate(pool, count, &slot, &got) == 0 && got == count);
	MUST(pool_write(pool, slot, bytes, (const uint32_t *)bytes, count) == 0);
	for (uint64_t i = 0; i < count; i++)
		MUST(pool_ref(pool, slot + i, 1));
	return slot;
}

static void sync_pool_twice(void)
{
	fill_pool(1);
	sync_result = -EIO;
	MUST(pool_sync(pool) == -EIO);
	fill_pool(1);
	pool_sync(pool);
}

static void write_to_a_slot_in_use(void)
{
	uint8_t bytes[GF_BLOCK_SIZE] = {0};

	pool_write(pool, fill_pool(1), bytes, &(uint32_t){1}, 1);
}

static void punch_a_slot_that_is_used_again(void)
{
	uint64_t slot = fill_pool(3);
	struct pool_dying *list;

	pool_unref(pool, slot + 1, 1);
	list = pool_take_dying(pool);
	MUST(list);
	pool_ref(pool, slot + 1, 1);
	pool_release_dying(pool, list);
}

static void punch_pool(void)
{
	uint64_t slot = fill_pool(3);

	pool_unref(pool, slot + 1, 1);
	pool_release_dying(pool, pool_take_dying(pool));
	pool_assert(pool);
}

static void unclaim_what_is_in_use(void)
{
	pool_unclaim(pool, fill_pool(1), 1);
}

static void give_up_what_another_refers_to(void)
{
	uint64_t slot = fill_pool(2);

	MUST(pool_ref(pool, slot, 2));
	pool_unref(pool, slot + 1, 2);
	pool_assert(pool);
}

/* ---- a layer alone ---- */

static struct layer_env env;
static struct layer *layer;

static void open_layer(void)
{
	env = (struct layer_env){.io = dir.io, .secret = secret};
	MUST(jindex_new(&env.jindex) == 0);
	MUST(layer_new(&layer, &env, 9, NULL, NULL, 0, 0) == 0);
}

static void write_blocks(uint64_t block, uint64_t count)
{
	static uint8_t bytes[16 * GF_BLOCK_SIZE];

	memset(bytes, 7, sizeof(bytes));
	MUST(layer_write_data(layer, bytes, count * GF_BLOCK_SIZE, block * GF_BLOCK_SIZE) == 0);
	MUST(layer_set_state(layer, block, count, GF_OVERLAY) == 0);
}

static void write_pages(void)
{
	struct page_write *pages;

	MUST(layer_take_pages(layer, &pages) == 0);
	MUST(layer_write_pages(layer, pages) == 0);
	layer_pages_done(layer, pages);
	pages_free(pages);
}

static void checkpoint(void)
{
	MUST(layer_sync_data(layer) == 0);
	write_pages();
}

static void sync_layer_twice(void)
{
	open_layer();
	write_blocks(0, 1);
	sync_result = -EIO;
	MUST(layer_sync_data(layer) == -EIO);
	write_blocks(1, 1);
	layer_sync_data(layer);
}

static void pages_before_the_data(void)
{
	open_layer();
	write_blocks(0, 1);
	write_pages();
}

static void pages_go_to_turns(void)
{
	open_layer();
	for (int i = 0; i < 3; i++) {
		write_blocks(i, 1);
		checkpoint();
	}
}

static void punch_all(struct punch *list)
{
	struct punching all = punching_all();

	layer_punch_later(layer, list);
	layer_punch_due(layer, &all);
}

static void punch_what_is_used_again(void)
{
	struct punch *list;

	open_layer();
	write_blocks(0, 10);
	checkpoint();
	MUST(layer_set_state(layer, 3, 2, GF_PARENT) == 0);
	list = layer_take_punches(layer);
	write_blocks(3, 1);
	checkpoint();
	punch_all(list);
}

static void punch_what_changed_since(void)
{
	open_layer();
	write_blocks(0, 10);
	checkpoint();
	MUST(layer_set_state(layer, 3, 2, GF_PARENT) == 0);
	punch_all(layer_take_punches(layer));
}

/* ---- a whole store ---- */

static struct fs *fs;

static void open_store(void)
{
	struct fs_options options = {.journal_size = MIB, .reserve = 64 * KIB,
		.no_background = true, .store_fd = -1};

	MUST(fs_open(&fs, dir.io, &options) == 0);
}

static uint64_t make(const char *name)
{
	struct fs_attr attr;

	MUST(fs_make(fs, FS_INO_ROOT, name, S_IFREG | 0600, (struct fs_owner){0, 0}, &attr) == 0);
	return attr.ino;
}

static void put(uint64_t ino, uint64_t block, uint64_t count, int byte)
{
	static uint8_t bytes[64 * GF_BLOCK_SIZE];

	memset(bytes, byte, sizeof(bytes));
	MUST(fs_write(fs, ino, bytes, count * GF_BLOCK_SIZE, block * GF_BLOCK_SIZE) ==
		(ssize_t)(count * GF_BLOCK_SIZE));
}

static struct layer *layer_of(uint64_t ino)
{
	return atomic_load(&tree_find(fs, ino)->layer);
}

static uint64_t store_with(uint64_t count)
{
	uint64_t ino;

	open_store();
	ino = make("a");
	put(ino, 0, count, 1);
	return ino;
}

static uint64_t clone_with(uint64_t count)
{
	uint64_t ino = store_with(count), clone;
	size_t failed;

	MUST(fs_settle(fs) == 0);
	MUST(fs_clone(fs, ino, &(struct fs_clone_target){FS_INO_ROOT, "b"}, 1,
		     (struct fs_owner){0, 0}, 0600, false, false, NULL, &failed) == 0);
	MUST(fs_resolve(fs, "b", &clone) == 0);
	return clone;
}

static void small_write(void)
{
	store_with(3);
	MUST(fs_settle(fs) == 0);
}

static void large_write(void)
{
	store_with(32);
	MUST(fs_settle(fs) == 0);
}

static void large_overwrite(void)
{
	uint64_t ino = store_with(32);

	MUST(fs_settle(fs) == 0);
	put(ino, 0, 32, 2);
}

static void large_write_and_flush(void)
{
	fs_fsync(fs, store_with(32), ignore, NULL);
}

static void flush_while_another_is_on_its_way(void)
{
	uint64_t ino = store_with(32);
	struct large_ticket ticket;

	layer_large_begin(layer_of(ino), &ticket, 1);
	fs_fsync(fs, ino, ignore, NULL);
}

static void flush_after_one_failed(void)
{
	uint64_t ino = store_with(32);

	atomic_store(&layer_of(ino)->poison_seq, 1);
	fs_fsync(fs, ino, ignore, NULL);
}

static void discard(void)
{
	uint64_t ino = store_with(32);

	MUST(fs_settle(fs) == 0);
	MUST(fs_fallocate(fs, ino, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 64 * KIB) == 0);
	MUST(fs_settle(fs) == 0);
}

/* A clone that ends within a block: what it shows of that no checksum tells, so that it is read. */
static uint64_t clone_cut_in(uint64_t block)
{
	struct fs_attr attr = {.size = block * GF_BLOCK_SIZE + 100};
	uint64_t clone = clone_with(32);

	MUST(fs_setattr(fs, clone, FS_SET_SIZE, &attr) == 0);
	return clone;
}

static void small_write_over_another(void)
{
	put(clone_cut_in(4), 4, 1, 2);
	MUST(fs_settle(fs) == 0);
}

static void large_write_over_another(void)
{
	put(clone_cut_in(31), 0, 32, 2);
}

static void read_what_the_ring_gave_up(void)
{
	uint64_t ino = store_with(1);
	char byte;

	journal_set_tail(fs->journal, journal_head(fs->journal));
	fs_read(fs, ino, &byte, 1, 0);
}

static void write_to_a_frozen_layer(void)
{
	uint64_t ino = store_with(1);

	layer_of(ino)->head_of = 0;
	put(ino, 1, 1, 2);
}

static void write_under_a_newer_version(void)
{
	uint64_t ino = store_with(1);
	struct jentry entry;

	MUST(jindex_get(fs->jindex, layer_of(ino)->id, 0, &entry));
	entry.seq += 1000;
	MUST(jindex_set(fs->jindex, &entry) == 0);
	put(ino, 0, 1, 2);
}

static void count_a_block_twice(void)
{
	layer_of(store_with(32))->overlay_blocks++;
	fs_settle(fs);
}

static void lose_a_journaled_block(void)
{
	uint64_t ino = store_with(32);

	put(ino, 100, 1, 2);
	jindex_remove(fs->jindex, layer_of(ino)->id, 100);
	fs_settle(fs);
}

static void count_a_reference_twice(void)
{
	layer_of(store_with(1))->refs++;
	fs_settle(fs);
}

static void forget_the_head(void)
{
	layer_of(store_with(1))->head_of = FS_INO_ROOT;
	fs_settle(fs);
}

static void move_a_name(void)
{
	tree_find(fs, store_with(1))->key->parent++;
	fs_settle(fs);
}

/* ---- images ---- */

static void open_image_for_writing(void)
{
	struct image *img;

	scratch_fill(&dir.scratch, "image", 5000, 1);
	image_raw_new(&img, scratch_open(&dir.scratch, "image", O_RDWR));
}

static void open_image_in_its_folder(void)
{
	struct folder *folder;

	scratch_fill(&dir.scratch, "image", 5000, 1);
	MUST(folder_open(&folder, dir.scratch.path) == 0);
	MUST(folder_open_file(folder, "image") >= 0);
}

/* ---- running them ---- */

static const struct breakage {
	int number;
	void (*run)(void);
	const char *mutation; /* NULL: run() breaks it itself */
	bool never_ends;      /* without the mutation */
} breakages[] = {
	{.number = 1, .run = sync_while_others_append,
		.mutation = "count as durable what came during the sync"},
	{.number = 1, .run = sync_while_others_append,
		.mutation = "serve requests that came during the sync"},
	{.number = 1, .run = small_write,
		.mutation = "the tail passes blocks that were not destaged"},
	{.number = 2, .run = small_write, .mutation = "a write locks its first block only"},
	{.number = 2, .run = large_overwrite,
		.mutation = "overwrite in place without an intent mark"},
	{.number = 2, .run = large_write,
		.mutation = "bytes of a large write before its announcement"},
	{.number = 2, .run = large_write,
		.mutation = "blocks of a large write OVERLAY before the bytes"},
	{.number = 2, .run = read_what_the_ring_gave_up},
	{.number = 3, .run = pages_before_the_data},
	{.number = 3, .run = pages_go_to_turns,
		.mutation = "write map pages over those that count"},
	{.number = 3, .run = punch_what_is_used_again,
		.mutation = "punch blocks that are in use again"},
	{.number = 3, .run = punch_what_changed_since,
		.mutation = "punch blocks of regions that changed since"},
	{.number = 3, .run = punch_what_is_used_again,
		.mutation = "punch without locking the blocks"},
	{.number = 3, .run = discard, .mutation = "punch holes before the state is durable"},
	{.number = 3, .run = large_write_and_flush,
		.mutation = "commit record before the sync of the data"},
	{.number = 3, .run = flush_while_another_is_on_its_way,
		.mutation = "commit passes a large write that is on its way", .never_ends = true},
	{.number = 3, .run = flush_after_one_failed,
		.mutation = "commit a large write that failed"},
	{.number = 3, .run = write_to_a_frozen_layer},
	{.number = 3, .run = write_to_a_slot_in_use},
	{.number = 3, .run = punch_a_slot_that_is_used_again,
		.mutation = "a dying slot of the pool is used again"},
	{.number = 3, .run = punch_pool,
		.mutation = "slots of the pool are free before they are punched"},
	{.number = 4, .run = small_write, .mutation = "destage does not lock the blocks"},
	{.number = 4, .run = write_under_a_newer_version},
	{.number = 5, .run = small_write_over_another,
		.mutation = "destage shares without comparing"},
	{.number = 5, .run = large_write_over_another,
		.mutation = "a large write is shared without comparing"},
	{.number = 6, .run = sync_journal_twice,
		.mutation = "try a failed sync of the journal again"},
	{.number = 6, .run = sync_layer_twice, .mutation = "try a failed sync of a layer again"},
	{.number = 6, .run = sync_pool_twice, .mutation = "try a failed sync of the pool again"},
	{.number = 7, .run = open_image_for_writing},
	{.number = 7, .run = open_image_in_its_folder,
		.mutation = "open a golden image for writing: in its folder"},
	{.number = INVARIANT_LAYER, .run = count_a_block_twice},
	{.number = INVARIANT_LAYER, .run = lose_a_journaled_block},
	{.number = INVARIANT_JOURNAL, .run = give_back_what_was_not_reserved},
	{.number = INVARIANT_JOURNAL, .run = tail_overtakes_head},
	{.number = INVARIANT_CATALOG, .run = count_a_reference_twice},
	{.number = INVARIANT_CATALOG, .run = forget_the_head},
	{.number = INVARIANT_CATALOG, .run = move_a_name},
	{.number = INVARIANT_POOL, .run = unclaim_what_is_in_use},
	{.number = INVARIANT_POOL, .run = give_up_what_another_refers_to},
};

static const struct mutation *find_mutation(const char *name)
{
	unsigned count;
	const struct mutation *const *list = mutation_list(&count);

	for (unsigned i = 0; i < count; i++)
		if (strcmp(list[i]->name, name) == 0)
			return list[i];
	fail_msg("there is no mutation \"%s\"", name);
	return NULL;
}

static void run_child(const struct breakage *b, const struct mutation *mutation, int err)
{
	struct rlimit none = {0, 0};

	setrlimit(RLIMIT_CORE, &none);
	signal(SIGABRT, SIG_DFL);
	dup2(err, STDERR_FILENO);
	alarm(120);
	mutation_turn_on(mutation);
	b->run();
	_exit(0);
}

/* Runs it and returns how it ended; text is what it said. */
static int run(const struct breakage *b, const struct mutation *mutation, char *text, size_t len)
{
	int fds[2], status;
	size_t have = 0;
	ssize_t n;
	pid_t pid;

	store_dir_init(&dir);
	real_fdatasync = dir.io->ops->fdatasync;
	ops = *dir.io->ops;
	ops.fdatasync = hooked_fdatasync;
	dir.io->ops = &ops;
	assert_int_equal(pipe(fds), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0)
		run_child(b, mutation, fds[1]);
	close(fds[1]);
	while (have < len - 1 && (n = read(fds[0], text + have, len - 1 - have)) > 0)
		have += (size_t)n;
	text[have] = '\0';
	close(fds[0]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	store_dir_release(&dir);
	return status;
}

static void broken_on_purpose_is_noticed(void **state)
{
	for (size_t i = 0; i < ARRAY_SIZE(breakages); i++) {
		const struct breakage *b = &breakages[i];
		char text[16384], want[40];
		int status;

		if (b->mutation && !b->never_ends) {
			status = run(b, NULL, text, sizeof(text));
			if (!WIFEXITED(status) || WEXITSTATUS(status))
				fail_msg("case %zu, as it is (%d): %s", i, status, text);
		}
		status = run(b, b->mutation ? find_mutation(b->mutation) : NULL, text, sizeof(text));
		snprintf(want, sizeof(want), "invariant %d is broken", b->number);
		if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGABRT || !strstr(text, want))
			fail_msg("case %zu, %s: not %s (%d): %s", i,
				b->mutation ? b->mutation : "by hand", want, status, text);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(broken_on_purpose_is_noticed)};

	log_open(LOG_TO_FILE, "/dev/null");
	return cmocka_run_group_tests(tests, NULL, NULL);
}

#endif
