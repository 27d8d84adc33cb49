/* SPDX-License-Identifier: MIT */
/*
 * The memory that workers of a mount hand on: what one process left is what the next one finds,
 * whatever it was doing when it ended.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../crash/rng.h"
#include "fuse/handover.h"

static struct handover *reopen(struct handover *h, int fd)
{
	handover_close(h);
	assert_int_equal(handover_open(&h, fd), 0);
	return h;
}

static struct handover *make(int *fd)
{
	struct handover *h;

	*fd = handover_create();
	assert_true(*fd >= 0);
	assert_int_equal(handover_open(&h, *fd), 0);
	return h;
}

static void test_figures(void **state)
{
	struct fuse_agreement agreement = {.kernel_minor = 45, .init_len = 3}, got;
	char text[HANDOVER_TEXT_MAX], big[2 * HANDOVER_TEXT_MAX];
	struct handover *h;
	uint64_t connection;
	int fd, other;

	h = make(&fd);
	connection = handover_connection(h);
	assert_true(connection != 0);
	assert_false(handover_agreement(h, &got));
	handover_upgrade(h, text);
	assert_string_equal(text, "");
	atomic_store(&handover_figures(h)->restarts, 7);
	memcpy(agreement.init, "abc", 3);
	handover_set_agreement(h, &agreement);
	memset(big, 'x', sizeof(big));
	big[sizeof(big) - 1] = '\0';
	handover_set_upgrade(h, big);
	handover_set_upgrade(h, "done");
	h = reopen(h, fd);
	assert_true(handover_connection(h) == connection);
	assert_int_equal(atomic_load(&handover_figures(h)->restarts), 7);
	assert_true(handover_agreement(h, &got));
	assert_memory_equal(&got, &agreement, sizeof(got));
	assert_false(fuse_agreement_can_resend(&got));
	got.kernel_flags = UINT64_C(1) << 39;
	assert_true(fuse_agreement_can_resend(&got));
	handover_upgrade(h, text);
	assert_string_equal(text, "done");
	handover_set_upgrade(h, big);
	handover_upgrade(h, text);
	assert_int_equal(strlen(text), HANDOVER_TEXT_MAX - 1);
	other = handover_create();
	handover_close(h);
	assert_int_equal(handover_open(&h, other), 0);
	assert_true(handover_connection(h) != connection);
	handover_close(h);
	close(other);
	close(fd);
}

/* Made by another version, or by something else. */
static void test_refusals(void **state)
{
	struct handover *h;
	uint32_t version;
	int fd = handover_create(), empty = memfd_create("empty", MFD_CLOEXEC);

	assert_int_equal(handover_open(&h, empty), -EUCLEAN);
	assert_int_equal(pwrite(empty, "not that, but long enough for it to be looked at", 48, 0), 48);
	assert_int_equal(handover_open(&h, empty), -EUCLEAN);
	close(empty);
	for (int delta = -1; delta <= 1; delta += 2) {
		assert_int_equal(pread(fd, &version, sizeof(version), 8), 4);
		version += (uint32_t)delta;
		assert_int_equal(pwrite(fd, &version, sizeof(version), 8), 4);
		assert_int_equal(handover_open(&h, fd), -EPROTONOSUPPORT);
		version -= (uint32_t)delta;
		assert_int_equal(pwrite(fd, &version, sizeof(version), 8), 4);
	}
	assert_int_equal(handover_open(&h, fd), 0);
	handover_close(h);
	close(fd);
}

static void count_one(void *arg, const struct handover_handle *handle)
{
	++*(unsigned *)arg;
}

static unsigned count(struct handover *h)
{
	unsigned n = 0;

	handover_handles_each(h, count_one, &n);
	return n;
}

static void test_handles(void **state)
{
	struct handover_handle handle;
	uint64_t first, second, third;
	struct handover *h;
	uint32_t flags = 0;
	int fd;

	h = make(&fd);
	assert_int_equal(handover_handle_new(h, 70, O_RDWR, 1000, &first), 0);
	assert_int_equal(handover_handle_new(h, 70, O_RDONLY, 1002, &second), 0);
	assert_true(first != second && first && second);
	handover_handle_sure(h, second);
	h = reopen(h, fd);
	assert_int_equal(count(h), 2);
	assert_true(handover_handle_of(h, 1000, &handle));
	assert_true(handle.fh == first && handle.ino == 70 && handle.flags == O_RDWR);
	assert_false(handle.sure);
	assert_true(handover_handle_of(h, 1002, &handle));
	assert_true(handle.fh == second && handle.sure);
	assert_false(handover_handle_of(h, 1004, &handle));
	/* Of another file, and one that never was. */
	assert_false(handover_handle_end(h, first, 71, &flags));
	assert_false(handover_handle_end(h, first + 5, 70, &flags));
	assert_false(handover_handle_end(h, first + (1 << 20), 70, &flags));
	assert_false(handover_handle_end(h, 0, 70, &flags));
	assert_true(handover_handle_end(h, first, 70, &flags));
	assert_int_equal(flags, O_RDWR);
	/* A second RELEASE, in this process and in the next. */
	assert_false(handover_handle_end(h, first, 70, &flags));
	h = reopen(h, fd);
	assert_false(handover_handle_end(h, first, 70, &flags));
	handover_handle_sure(h, first);
	/* The slot is used again, the number is not. */
	assert_int_equal(handover_handle_new(h, 70, O_RDWR, 1006, &third), 0);
	assert_true(third != first);
	assert_false(handover_handle_end(h, first, 70, &flags));
	assert_int_equal(count(h), 2);
	handover_close(h);
	close(fd);
}

/* A random history over several processes against a list. */
static void test_history(void **state)
{
	const char *text = getenv("SEED");
	uint64_t seed = text ? strtoull(text, NULL, 0) : 1;
	struct known {
		uint64_t fh, ino, unique;
		uint32_t flags;
	} *known = calloc(5000, sizeof(*known));
	struct handover *h;
	struct rng rng;
	size_t n = 0;
	int fd;

	print_message("SEED=%llu\n", (unsigned long long)seed);
	rng_seed(&rng, seed);
	h = make(&fd);
	for (uint64_t step = 1; step < 20000; step++) {
		unsigned what = (unsigned)rng_below(&rng, 100);

		if (what < 55 && n < 5000) {
			struct known *k = &known[n++];

			*k = (struct known){.ino = 64 + rng_below(&rng, 9), .unique = step,
				.flags = (uint32_t)rng_below(&rng, 3)};
			assert_int_equal(handover_handle_new(h, k->ino, k->flags, k->unique, &k->fh),
				0);
		} else if (what < 99 && n) {
			size_t i = rng_below(&rng, n);
			uint32_t flags;

			assert_true(handover_handle_end(h, known[i].fh, known[i].ino, &flags));
			assert_int_equal(flags, known[i].flags);
			known[i] = known[--n];
		} else if (what == 99) {
			h = reopen(h, fd);
		}
	}
	h = reopen(h, fd);
	assert_int_equal(count(h), n);
	for (size_t i = 0; i < n; i += 50) {
		struct handover_handle handle;

		assert_true(handover_handle_of(h, known[i].unique, &handle));
		assert_true(handle.fh == known[i].fh && handle.ino == known[i].ino);
	}
	handover_close(h);
	close(fd);
	free(known);
}

/* Killed at any point: what the next one finds are whole entries. */
static void test_killed(void **state)
{
	for (unsigned round = 0; round < 20; round++) {
		uint64_t last = 0;
		struct handover *h;
		int fd, status;
		pid_t pid;

		h = make(&fd);
		pid = fork();
		if (pid == 0) {
			for (uint64_t i = 1;; i++) {
				uint64_t fh;
				uint32_t flags;

				handover_handle_new(h, i, (uint32_t)i, i * 2, &fh);
				if (i % 3)
					handover_handle_end(h, fh, i, &flags);
			}
		}
		usleep(1000 + 500 * round);
		kill(pid, SIGKILL);
		waitpid(pid, &status, 0);
		h = reopen(h, fd);
		for (uint64_t i = 3; i < 300; i += 3) {
			struct handover_handle handle;

			if (!handover_handle_of(h, i * 2, &handle))
				break;
			last = i;
			assert_true(handle.ino == i && handle.flags == (uint32_t)i);
		}
		(void)last;
		handover_close(h);
		close(fd);
	}
}

static void test_notes(void **state)
{
	static char big[1 << 20];
	struct handover *h;
	size_t len, n = 0;
	int fd;

	h = make(&fd);
	handover_notes(h, &len);
	assert_int_equal(len, 0);
	assert_int_equal(handover_note(h, "first", 5, false), 0);
	assert_int_equal(handover_note(h, "second", 6, true), 0);
	h = reopen(h, fd);
	assert_memory_equal(handover_notes(h, &len), "firstsecond", 11);
	assert_int_equal(len, 11);
	while (handover_note(h, big, sizeof(big), false) == 0)
		n++;
	assert_true(n > 8);
	/* What is urgent still finds room, but not for ever. */
	assert_int_equal(handover_note(h, big, 4096, true), 0);
	while (handover_note(h, big, 4096, true) == 0)
		;
	assert_int_equal(handover_note(h, big, 4096, true), -ENOSPC);
	h = reopen(h, fd);
	assert_memory_equal(handover_notes(h, &len), "firstsecond", 11);
	handover_close(h);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_notes),
		cmocka_unit_test(test_figures),
		cmocka_unit_test(test_refusals),
		cmocka_unit_test(test_handles),
		cmocka_unit_test(test_history),
		cmocka_unit_test(test_killed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
