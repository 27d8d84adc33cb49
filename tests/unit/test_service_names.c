/* SPDX-License-Identifier: MIT */
/* Names as JSON, patterns of batches, times and labels. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "service/names.h"
#include "service/pattern.h"

static void check_json(const char *name, const char *expected)
{
	json_t *json = name_json(name);

	assert_non_null(json);
	assert_string_equal(json_string_value(json), expected);
	json_decref(json);
}

static void test_name_json(void **state)
{
	check_json("web1.img", "web1.img");
	check_json("", "");
	check_json("50%.img", "50%.img");
	check_json("b\xc3\xbcro.img", "b\xc3\xbcro.img");
	check_json("b\xfcro.img", "b%FCro.img");
	check_json("\xff%41 \n", "%FF%2541 %0A");
	/* An overlong slash and a lone surrogate are no UTF-8. */
	check_json("\xc0\xaf", "%C0%AF");
	check_json("\xed\xa0\x80", "%ED%A0%80");
}

static void test_unescape(void **state)
{
	static const char *const wrong[] = {"%", "%4", "a%zz", "%00", "%-1", "% 1"};
	char *name = name_unescape("b%fcro%2Fx%25");

	assert_string_equal(name, "b\xfcro/x%");
	free(name);
	for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++)
		assert_null(name_unescape(wrong[i]));
}

static void test_escape_returns(void **state)
{
	char all[256];
	char *escaped, *back;

	for (int i = 1; i < 256; i++)
		all[i - 1] = (char)i;
	all[255] = '\0';
	escaped = name_escape(all);
	back = name_unescape(escaped);
	assert_string_equal(back, all);
	free(escaped);
	free(back);
}

static void test_time(void **state)
{
	char text[TIME_TEXT_LEN];

	time_text(0, text);
	assert_string_equal(text, "1970-01-01T00:00:00Z");
	time_text(INT64_C(1763623620999999999), text);
	assert_string_equal(text, "2025-11-20T07:27:00Z");
	time_text(-1, text);
	assert_string_equal(text, "1969-12-31T23:59:59Z");
}

static void test_label(void **state)
{
	char *text = NULL;
	size_t len;
	FILE *out = open_memstream(&text, &len);

	label_write(out, "a\"b\\c\nd");
	fclose(out);
	assert_string_equal(text, "a\\\"b\\\\c\\nd");
	free(text);
}

static void test_pattern_check(void **state)
{
	static const char *const right[] = {
		"%d", "desk%04d.img", "100%%-%d", "%01d", "%018d", "%%%d"};
	static const char *const wrong[] = {"", "desk", "%%", "%d%d", "%", "x%", "%s", "%n", "%5d",
		"%-4d", "%ld", "%0d", "%019d", "%04x", "%d%", "%*d", "%1$d", "%099999999999d"};

	for (size_t i = 0; i < sizeof(right) / sizeof(*right); i++)
		assert_null(pattern_check(right[i]));
	for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++)
		assert_non_null(pattern_check(wrong[i]));
}

static void test_pattern_expand(void **state)
{
	char buf[16];

	assert_int_equal(pattern_expand("desk%04d.img", 7, buf, sizeof(buf)), 0);
	assert_string_equal(buf, "desk0007.img");
	assert_int_equal(pattern_expand("%04d", 123456, buf, sizeof(buf)), 0);
	assert_string_equal(buf, "123456");
	assert_int_equal(pattern_expand("a%%%d%%", 0, buf, sizeof(buf)), 0);
	assert_string_equal(buf, "a%0%");
	assert_int_equal(pattern_expand("%015d", 1, buf, sizeof(buf)), 0);
	assert_string_equal(buf, "000000000000001");
	assert_int_equal(pattern_expand("%016d", 1, buf, sizeof(buf)), -ENAMETOOLONG);
	assert_int_equal(pattern_expand("123456789012345%d", 1, buf, sizeof(buf)), -ENAMETOOLONG);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_name_json),
		cmocka_unit_test(test_unescape),
		cmocka_unit_test(test_escape_returns),
		cmocka_unit_test(test_time),
		cmocka_unit_test(test_label),
		cmocka_unit_test(test_pattern_check),
		cmocka_unit_test(test_pattern_expand),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
