/* SPDX-License-Identifier: MIT */
#include "base/io_map.h"

#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/sizes.h"

#define WINDOW (16 * MIB)

static int make_file(uint64_t size)
{
	int fd = memfd_create("test_io_map", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)size), 0);
	return fd;
}

static void end_file(int fd)
{
	io_map_forget(fd);
	close(fd);
}

/* How often it takes until a page is stored to; each time with pwrite(2) where it was not, as callers do. */
static unsigned warm(int fd, uint64_t off)
{
	unsigned n = 0;

	for (uint32_t word = 1; !io_map_write(fd, &word, sizeof(word), off); word++, n++) {
		assert_true(n < 100);
		assert_int_equal(pwrite(fd, &word, sizeof(word), (off_t)off), sizeof(word));
	}
	return n;
}

static uint32_t read_word(int fd, uint64_t off)
{
	uint32_t word = 0;

	assert_int_equal(pread(fd, &word, sizeof(word), (off_t)off), sizeof(word));
	return word;
}

static void test_what_is_stored_is_in_the_file(void **state)
{
	int fd = make_file(MIB);

	warm(fd, 0);
	for (uint32_t i = 1; i < 1024; i++)
		assert_true(io_map_write(fd, &i, sizeof(i), i * sizeof(i)));
	for (uint32_t i = 1; i < 1024; i++)
		assert_int_equal(read_word(fd, i * sizeof(i)), i);
	end_file(fd);
}

static void test_only_pages_that_are_written_often(void **state)
{
	int fd = make_file(MIB);
	uint32_t word = 7;

	warm(fd, 0);
	assert_false(io_map_write(fd, &word, sizeof(word), 4096));
	assert_true(io_map_write(fd, &word, sizeof(word), 4092));
	/* A sync makes each page dear again. */
	io_map_synced(fd);
	assert_false(io_map_write(fd, &word, sizeof(word), 4092));
	assert_true(warm(fd, 4092) > 1);
	end_file(fd);
}

static void test_nothing_behind_the_end(void **state)
{
	int fd = make_file(4096 + 100);
	uint8_t bytes[8] = {0};

	warm(fd, 4096 + 88);
	assert_true(io_map_write(fd, bytes, sizeof(bytes), 4096 + 92));
	assert_false(io_map_write(fd, bytes, sizeof(bytes), 4096 + 96));
	/* A file that grew is seen after a while. */
	assert_int_equal(ftruncate(fd, MIB), 0);
	assert_true(warm(fd, 4096 + 2000) < 100);
	end_file(fd);
}

static void test_whole_words_only(void **state)
{
	int fd = make_file(4096);
	uint8_t bytes[8] = {0};

	warm(fd, 0);
	assert_true(io_map_write(fd, bytes, 8, 8));
	assert_false(io_map_write(fd, bytes, 6, 8));
	assert_false(io_map_write(fd, bytes, 8, 10));
	assert_false(io_map_write(fd, bytes, 0, 8));
	assert_true(io_map_write(fd, bytes + 1, 4, 8));
	end_file(fd);
}

static void test_windows(void **state)
{
	int fd = make_file(4 * WINDOW);
	uint8_t bytes[8] = {1, 2, 3, 4, 5, 6, 7, 8};

	/* Over the edge of two: never. */
	warm(fd, WINDOW - 8);
	warm(fd, WINDOW);
	for (int i = 0; i < 9; i++)
		assert_false(io_map_write(fd, bytes, sizeof(bytes), WINDOW - 4));
	assert_true(io_map_write(fd, bytes, sizeof(bytes), WINDOW));
	assert_true(io_map_write(fd, bytes, sizeof(bytes), WINDOW - 8));
	assert_int_equal(read_word(fd, WINDOW), 0x04030201);
	assert_int_equal(read_word(fd, WINDOW - 4), 0x08070605);
	end_file(fd);
}

/* More files than there are windows: each gets one in the end, and none gets another's bytes. */
static void test_many_files(void **state)
{
	int fds[150];

	for (int i = 0; i < 150; i++)
		fds[i] = make_file(4096);
	for (uint32_t i = 0; i < 150; i++) {
		warm(fds[i], 0);
		assert_true(io_map_write(fds[i], &i, sizeof(i), 8));
	}
	for (uint32_t i = 0; i < 150; i++) {
		assert_int_equal(read_word(fds[i], 8), i);
		end_file(fds[i]);
	}
}

static void test_a_number_that_is_used_again(void **state)
{
	uint32_t word = 7;
	int fd = make_file(4096), other;

	warm(fd, 0);
	end_file(fd);
	other = make_file(4096);
	assert_int_equal(other, fd);
	warm(other, 0);
	assert_true(io_map_write(other, &word, sizeof(word), 0));
	assert_int_equal(read_word(other, 0), 7);
	end_file(other);
}

static void test_what_cannot_be_mapped(void **state)
{
	uint32_t word = 1;
	int fds[2];

	assert_int_equal(pipe(fds), 0);
	for (int i = 0; i < 200; i++)
		assert_false(io_map_write(fds[1], &word, sizeof(word), 0));
	end_file(fds[0]);
	end_file(fds[1]);
}

/* The file was cut behind our back: what a failing disk looks like. */
static void test_a_page_that_is_not_there(void **state)
{
	int fd = make_file(MIB);
	uint32_t word = 7;

	warm(fd, 8192);
	warm(fd, 0);
	assert_int_equal(ftruncate(fd, 4096), 0);
	for (int i = 0; i < 3; i++)
		assert_false(io_map_write(fd, &word, sizeof(word), 8192));
	assert_true(io_map_write(fd, &word, sizeof(word), 0));
	end_file(fd);
}

static void leave(int signal)
{
	_exit(77);
}

/* Any other access of that kind is dealt with by who did so before. */
static void test_faults_of_others(void **state)
{
	pid_t pid = fork();
	int status;

	if (pid == 0) {
		volatile uint8_t *at;
		int fd;

		signal(SIGBUS, leave);
		fd = make_file(MIB);
		warm(fd, 0);
		at = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		if (at != MAP_FAILED && ftruncate(fd, 4096) == 0)
			at[4096] = 1;
		_exit(1);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 77);
}

/* What somebody sends is no fault of a store. */
static void test_a_signal_that_was_sent(void **state)
{
	pid_t pid = fork();
	int status;

	if (pid == 0) {
		signal(SIGBUS, leave);
		warm(make_file(MIB), 0);
		raise(SIGBUS);
		_exit(1);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 77);
}

struct writer {
	int fd;
	uint32_t number;
	unsigned stored;
};

static void *write_words(void *arg)
{
	struct writer *w = arg;

	for (uint32_t i = 0; i < 20000; i++) {
		uint32_t word = i * 4 + w->number, off = word % 4096 * sizeof(word);

		if (i % 5000 == 4999)
			io_map_synced(w->fd);
		if (io_map_write(w->fd, &word, sizeof(word), off))
			w->stored++;
		else if (pwrite(w->fd, &word, sizeof(word), off) != sizeof(word))
			abort();
	}
	return NULL;
}

static void test_threads(void **state)
{
	struct writer writers[4];
	pthread_t threads[4];
	int fd = make_file(MIB), other = make_file(MIB);

	for (uint32_t i = 0; i < 4; i++) {
		writers[i] = (struct writer){fd, i, 0};
		assert_int_equal(pthread_create(&threads[i], NULL, write_words, &writers[i]), 0);
	}
	/* Somebody takes their window away now and then. */
	for (int i = 0; i < 50; i++) {
		usleep(200);
		io_map_forget(fd);
	}
	for (uint32_t i = 0; i < 4; i++) {
		pthread_join(threads[i], NULL);
		assert_true(writers[i].stored > 0);
	}
	for (uint32_t word = 80000 - 4096; word < 80000; word++)
		assert_int_equal(read_word(fd, word % 4096 * sizeof(word)), word);
	end_file(fd);
	end_file(other);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_what_is_stored_is_in_the_file),
		cmocka_unit_test(test_only_pages_that_are_written_often),
		cmocka_unit_test(test_nothing_behind_the_end),
		cmocka_unit_test(test_whole_words_only),
		cmocka_unit_test(test_windows),
		cmocka_unit_test(test_many_files),
		cmocka_unit_test(test_a_number_that_is_used_again),
		cmocka_unit_test(test_what_cannot_be_mapped),
		cmocka_unit_test(test_a_page_that_is_not_there),
		cmocka_unit_test(test_faults_of_others),
		cmocka_unit_test(test_a_signal_that_was_sent),
		cmocka_unit_test(test_threads),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
