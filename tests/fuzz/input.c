/* SPDX-License-Identifier: MIT */
#include <stdlib.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>

#include "base/log.h"
#include "fuzz.h"

uint8_t input_u8(struct input *in)
{
	if (!in->left)
		return 0;
	in->left--;
	return *in->at++;
}

uint64_t input_int(struct input *in, size_t bytes)
{
	uint64_t value = 0;

	for (size_t i = 0; i < bytes; i++)
		value |= (uint64_t)input_u8(in) << (8 * i);
	return value;
}

uint64_t input_size(struct input *in)
{
	uint8_t how = input_u8(in);

	/* A power of two, and a little more or less. */
	if (how < 128)
		return (UINT64_C(1) << (how % 64)) + (uint64_t)(int64_t)(int8_t)input_u8(in);
	if (how < 192)
		return input_int(in, 3);
	if (how < 200)
		return (UINT64_C(16) << 40) - input_int(in, 2);
	return input_int(in, 8);
}

const uint8_t *input_bytes(struct input *in, size_t *len)
{
	const uint8_t *bytes = in->at ? in->at : (const uint8_t *)"";

	if (*len > in->left)
		*len = in->left;
	in->at += *len;
	in->left -= *len;
	return bytes;
}

char *input_text(struct input *in, size_t max)
{
	size_t len = in->left ? strnlen((const char *)in->at, in->left < max ? in->left : max) : 0;
	size_t skip = len < in->left && in->at[len] == 0;
	char *text = malloc(len + 1);

	if (!text)
		abort();
	if (len)
		memcpy(text, in->at, len);
	text[len] = '\0';
	len += skip;
	input_bytes(in, &len);
	return text;
}

static void swallow(void *arg, const char *text)
{
	(void)arg;
	if (getenv("FUZZ_VERBOSE"))
		dprintf(2, "log: %s\n", text);
}

void quiet(void)
{
	log_divert(swallow, NULL);
}

/* Takes the place of the library's: a store's identity and secret are always the same. */
ssize_t getrandom(void *buf, size_t len, unsigned flags);
ssize_t getrandom(void *buf, size_t len, unsigned flags)
{
	static uint8_t next;

	(void)flags;
	for (size_t i = 0; i < len; i++)
		((uint8_t *)buf)[i] = (uint8_t)(0x5a + i * 7 + (len == 8 ? next++ : 0));
	return (ssize_t)len;
}
