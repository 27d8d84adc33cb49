/* SPDX-License-Identifier: MIT */
/* Requests that come once more: where they end, and the order in which they are served. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include <linux/fuse.h>

#include "fuse/takeover.h"

static struct fuse_in_header request(uint32_t opcode, uint64_t unique)
{
	return (struct fuse_in_header){
		.len = sizeof(struct fuse_in_header), .opcode = opcode, .unique = unique};
}

static void test_end(void **state)
{
	const struct {
		uint32_t opcode;
		uint64_t unique;
		bool last;
	} cases[] = {
		{FUSE_WRITE, 10 | TAKEOVER_RESENT, false},
		{FUSE_WRITE, 10, true},
		{FUSE_FORGET, 10, false},
		{FUSE_BATCH_FORGET, 10, false},
		{FUSE_INTERRUPT, 11, false},
		{FUSE_INTERRUPT, 11 | TAKEOVER_RESENT, false},
		{FUSE_INIT, 2 | TAKEOVER_RESENT, false},
		{FUSE_DESTROY, 12, true},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct fuse_in_header in = request(cases[i].opcode, cases[i].unique);

		assert_int_equal(takeover_is_last(&in), cases[i].last);
	}
}

static void test_order(void **state)
{
	const uint64_t come[] = {40 | TAKEOVER_RESENT, 8 | TAKEOVER_RESENT, 44,
		UINT64_C(0x7000000000000000) | TAKEOVER_RESENT, 10 | TAKEOVER_RESENT, 12};
	const uint64_t sorted[] = {8 | TAKEOVER_RESENT, 10 | TAKEOVER_RESENT, 12,
		40 | TAKEOVER_RESENT, 44, UINT64_C(0x7000000000000000) | TAKEOVER_RESENT};
	struct resend_queue queue;
	char buf[256];

	resend_queue_init(&queue);
	assert_int_equal(resend_queue_take(&queue, buf, sizeof(buf)), 0);
	for (size_t i = 0; i < 6; i++) {
		struct {
			struct fuse_in_header in;
			char body[100];
		} r = {.in = request(FUSE_WRITE, come[i])};

		memset(r.body, (int)come[i], sizeof(r.body));
		/* Each of a length of its own. */
		assert_int_equal(resend_queue_add(&queue, &r, sizeof(r.in) + 10 * i), 0);
	}
	assert_int_equal(resend_queue_add(&queue, buf, 8), -EINVAL);
	resend_queue_sort(&queue);
	assert_true(resend_queue_has(&queue, 8));
	assert_false(resend_queue_has(&queue, 9));
	for (size_t i = 0; i < 6; i++) {
		struct fuse_in_header *in = (void *)buf;
		size_t len = resend_queue_take(&queue, buf, sizeof(buf));

		assert_true(len >= sizeof(*in));
		assert_true(in->unique == sorted[i]);
		for (size_t k = sizeof(*in); k < len; k++)
			assert_int_equal((unsigned char)buf[k], (unsigned char)in->unique);
	}
	assert_int_equal(resend_queue_take(&queue, buf, sizeof(buf)), 0);
	assert_false(resend_queue_has(&queue, 8));
	resend_queue_release(&queue);
	/* One that is never served is not lost memory. */
	assert_int_equal(resend_queue_add(&queue, buf, sizeof(struct fuse_in_header)), 0);
	resend_queue_release(&queue);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_end),
		cmocka_unit_test(test_order),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
