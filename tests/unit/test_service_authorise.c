/* SPDX-License-Identifier: MIT */
/* What a caller of the control file may do. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "service/authorise.h"
#include "service/service.h"

static const struct fs_attr *attr(uint32_t mode, uint32_t uid, uint32_t gid)
{
	static struct fs_attr a;

	a = (struct fs_attr){.mode = mode, .uid = uid, .gid = gid};
	return &a;
}

static void test_classes(void **state)
{
	uint32_t groups[] = {30, 40};
	struct access access = {.uid = 10, .gid = 20, .groups = groups, .group_count = 2};

	assert_true(access_may(&access, attr(0400, 10, 99), R_OK));
	assert_false(access_may(&access, attr(0400, 10, 99), R_OK | W_OK));
	assert_true(access_may(&access, attr(0040, 99, 20), R_OK));
	assert_true(access_may(&access, attr(0070, 99, 40), R_OK | W_OK | X_OK));
	assert_false(access_may(&access, attr(0040, 99, 50), R_OK));
	assert_true(access_may(&access, attr(0004, 99, 50), R_OK));
	/* One class decides: an owner or a group that is shut out is not "other". */
	assert_false(access_may(&access, attr(0077, 10, 20), R_OK));
	assert_false(access_may(&access, attr(0707, 99, 30), R_OK));
}

static void test_root(void **state)
{
	struct access root = {.uid = 0, .override = true};
	struct access bare = {.uid = 0};

	assert_true(access_may(&root, attr(0, 10, 10), R_OK | W_OK | X_OK));
	assert_false(access_may(&bare, attr(0700, 10, 10), R_OK));
	assert_true(access_may(&bare, attr(0700, 0, 0), R_OK));
}

static void test_sticky(void **state)
{
	struct access access = {.uid = 10};
	struct fs_attr folder = {.mode = S_IFDIR | 01777, .uid = 1};
	struct fs_attr mine = {.uid = 10};
	struct fs_attr other = {.uid = 11};

	assert_true(access_may_replace(&access, &folder, &mine));
	assert_false(access_may_replace(&access, &folder, &other));
	folder.uid = 10;
	assert_true(access_may_replace(&access, &folder, &other));
	folder = (struct fs_attr){.mode = S_IFDIR | 0777, .uid = 1};
	assert_true(access_may_replace(&access, &folder, &other));
	folder.mode |= S_ISVTX;
	access = (struct access){.uid = 0, .fowner = true};
	assert_true(access_may_replace(&access, &folder, &other));
}

#define STATUS(uid, gid, groups, caps) \
	"Name:\tx\nUmask:\t0022\nUid:\t1\t2\t3\t" uid "\nGid:\t1\t2\t3\t" gid \
	"\nFDSize:\t64\nGroups:\t" groups " \nCapInh:\t0000000000000000\nCapEff:\t" caps "\n"

static void test_status(void **state)
{
	struct access access = {.uid = 10, .gid = 20};

	assert_int_equal(
		access_parse_status(&access, STATUS("10", "20", "4 24 100000", "ffffffffffffffff")),
		0);
	assert_int_equal(access.group_count, 3);
	assert_int_equal(access.groups[0], 4);
	assert_int_equal(access.groups[2], 100000);
	assert_false(access.override); /* capabilities of somebody else than root do not count */
	access_release(&access);
}

static void test_status_of_root(void **state)
{
	struct access access = {.uid = 0, .gid = 0};

	assert_int_equal(access_parse_status(&access, STATUS("0", "0", "", "000001ffffffffff")), 0);
	assert_true(access.override);
	assert_int_equal(access.group_count, 0);
	access_release(&access);
	assert_int_equal(
		access_parse_status(&access, STATUS("0", "0", "0", "0000000000000001")), 0);
	assert_false(access.override);
	access_release(&access);
}

static void test_status_refused(void **state)
{
	static const char *const texts[] = {
		"",
		"\n",
		"Uid:\n",
		"Uid:\t0\t0\t0\t0\n",
		"Uid:\tx\nGid:\tx\nGroups:\t0\n",
		STATUS("11", "20", "0", "ffffffffffffffff"), /* the id belongs to another now */
		STATUS("10", "21", "0", "ffffffffffffffff"),
	};

	for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++) {
		struct access access = {.uid = 10, .gid = 20};

		assert_int_equal(access_parse_status(&access, texts[i]), -ESRCH);
		assert_int_equal(access.group_count, 0);
		assert_false(access.override);
		access_release(&access);
	}
}

/* A list that does not end as it should was cut: its last number may be half of one. */
static void test_groups_cut(void **state)
{
	struct access access = {.uid = 10, .gid = 20};

	assert_int_equal(access_parse_status(&access,
				 "Uid: 1 1 1 10\nGid: 1 1 1 20\nGroups:\t1000 1001 10"),
		0);
	assert_int_equal(access.group_count, 2);
	access_release(&access);
}

static void test_callers(void **state)
{
	struct service_caller self = {.uid = getuid(), .gid = getgid(), .pid = getpid()};
	struct service_caller stranger = {.uid = getuid() + 1, .gid = getgid(), .pid = getpid()};
	struct service_caller nobody = {.uid = 12, .gid = 13, .pid = 0};
	struct access access;

	assert_int_equal(access_init(&access, &self), 0);
	assert_int_equal(access.group_count, getgroups(0, NULL));
	access_release(&access);
	assert_int_equal(access_init(&access, &stranger), 0);
	assert_int_equal(access.group_count, 0);
	assert_false(access.override);
	access_release(&access);
	assert_int_equal(access_init(&access, &nobody), 0);
	assert_false(access.override);
	access_release(&access);
}

static void check_split(const char *path, int r, const char *folder, const char *name)
{
	char *f = NULL;
	char *n = NULL;

	assert_int_equal(path_split(path, &f, &n), r);
	if (r == 0) {
		assert_string_equal(f, folder);
		assert_string_equal(n, name);
	}
	free(f);
	free(n);
}

static void test_split(void **state)
{
	check_split("a", 0, "", "a");
	check_split("/a", 0, "", "a");
	check_split("a/b", 0, "a", "b");
	check_split("a//b//", 0, "a", "b");
	check_split("a/./b/.", 0, "a/.", "b");
	check_split("", -EINVAL, NULL, NULL);
	check_split("/", -EINVAL, NULL, NULL);
	check_split("./.", -EINVAL, NULL, NULL);
	check_split("a/..", -EINVAL, NULL, NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_classes),
		cmocka_unit_test(test_root),
		cmocka_unit_test(test_sticky),
		cmocka_unit_test(test_status),
		cmocka_unit_test(test_status_of_root),
		cmocka_unit_test(test_status_refused),
		cmocka_unit_test(test_groups_cut),
		cmocka_unit_test(test_callers),
		cmocka_unit_test(test_split),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
