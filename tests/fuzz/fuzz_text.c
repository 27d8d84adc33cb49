/* SPDX-License-Identifier: MIT */
/*
 * What users type and the kernel prints: sizes, patterns of clone -n, escaped names, lines of
 * mountinfo. The first byte chooses.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/sizes.h"
#include "daemon/mountinfo.h"
#include "fuzz.h"
#include "service/names.h"
#include "service/pattern.h"

static void try_size(const char *text)
{
	char printed[32];
	uint64_t bytes;

	if (size_parse(text, &bytes) == 0)
		size_format(bytes, printed, sizeof(printed));
}

static void try_pattern(const char *text, uint64_t number)
{
	char name[256];

	if (pattern_check(text))
		return;
	if (pattern_expand(text, number, name, sizeof(name)) == 0 &&
		strlen(name) >= sizeof(name))
		abort();
	pattern_expand(text, number, name, 1 + number % sizeof(name));
}

/* Escaping and back gives the same bytes, and nothing but printable ASCII between. */
static void try_name(const char *name)
{
	char *escaped = name_escape(name), *back = escaped ? name_unescape(escaped) : NULL;
	char *text = name_text(name), *plain = name_unescape(name);
	json_t *json = name_json(name);
	FILE *null = fopen("/dev/null", "we");

	if (!back || strcmp(back, name) != 0 || !text || !json_is_string(json))
		abort();
	for (const char *p = escaped; *p; p++)
		if (*p < 0x20 || *p > 0x7e)
			abort();
	if (null) {
		label_write(null, name);
		fclose(null);
	}
	json_decref(json);
	free(escaped);
	free(back);
	free(text);
	free(plain);
}

static void try_mountinfo(const char *line)
{
	struct mount_entry entry;

	if (mount_entry_parse(line, &entry) == 0) {
		mount_is_goldfs(&entry);
		mount_entry_release(&entry);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {data, size};
	uint8_t how = input_u8(&in);
	uint64_t number = how % 4 == 1 ? input_size(&in) : 0;
	char *text = input_text(&in, 8192);
	char time[TIME_TEXT_LEN];

	switch (how % 4) {
	case 0:
		try_size(text);
		break;
	case 1:
		try_pattern(text, number);
		time_text((int64_t)number, time);
		break;
	case 2:
		try_name(text);
		break;
	default:
		try_mountinfo(text);
	}
	free(text);
	return 0;
}
