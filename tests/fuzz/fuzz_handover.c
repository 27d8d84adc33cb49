/* SPDX-License-Identifier: MIT */
/*
 * The memory that a worker leaves to its successor, which may have died in the middle of anything,
 * or be of another version: a good one, with the input put over it from the offset on that it
 * begins with.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fuse/handover.h"
#include "fuzz.h"

static void end_some(void *arg, const struct handover_handle *handle)
{
	struct handover *handover = arg;
	uint32_t flags;

	if (handle->ino % 2)
		handover_handle_end(handover, handle->fh, handle->ino, &flags);
}

static void use(struct handover *h)
{
	struct fuse_agreement agreement;
	struct handover_handle handle;
	char text[HANDOVER_TEXT_MAX];
	uint64_t fh;
	uint32_t flags;

	handover_connection(h);
	handover_upgrade(h, text);
	if (strnlen(text, sizeof(text)) == sizeof(text))
		abort();
	if (handover_agreement(h, &agreement)) {
		if (agreement.init_len > sizeof(agreement.init))
			abort();
		fuse_agreement_can_resend(&agreement);
	}
	handover_handle_of(h, 7, &handle);
	handover_handles_each(h, end_some, h);
	for (uint64_t i = 0; i < 70; i++) {
		if (handover_handle_new(h, 100 + i, 2, i, &fh) < 0)
			break;
		handover_handle_sure(h, fh);
		if (i % 3 == 0)
			handover_handle_end(h, fh, 100 + i, &flags);
	}
	handover_handle_end(h, UINT64_MAX, 1, &flags);
	handover_handle_end(h, 0, 1, &flags);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {data, size};
	uint64_t off = input_int(&in, 2), fh;
	size_t len = in.left;
	const uint8_t *bytes;
	struct handover *h = NULL;
	int fd = handover_create();

	quiet();
	if (fd < 0 || handover_open(&h, fd) < 0)
		abort();
	for (uint64_t i = 0; i < 3; i++)
		handover_handle_new(h, 64 + i, 0, i, &fh);
	handover_close(h);
	bytes = input_bytes(&in, &len);
	if (pwrite(fd, bytes, len, (off_t)(off % 32768)) < 0)
		abort();
	if (handover_open(&h, fd) == 0) {
		use(h);
		handover_close(h);
	}
	close(fd);
	return 0;
}
