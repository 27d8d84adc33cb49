/* SPDX-License-Identifier: MIT */
/* Escaping for JSON, messages and metrics. The rules stand in names.h. */
#include "service/names.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

static int printable(unsigned char c)
{
	return c >= 0x20 && c < 0x7f;
}

char *name_escape(const char *name)
{
	static const char digits[] = "0123456789ABCDEF";
	char *escaped = malloc(strlen(name) * 3 + 1);
	char *out = escaped;

	if (!escaped)
		return NULL;
	for (const unsigned char *p = (const unsigned char *)name; *p; p++) {
		if (printable(*p) && *p != '%') {
			*out++ = (char)*p;
			continue;
		}
		*out++ = '%';
		*out++ = digits[*p >> 4];
		*out++ = digits[*p & 15];
	}
	*out = '\0';
	return escaped;
}

static int hex_value(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return -1;
}

/* The byte that two hexadecimal digits name, or -1; also -1 for a NUL, which no name contains. */
static int hex_byte(const char *p)
{
	int high = hex_value(p[0]);
	int low = high < 0 ? -1 : hex_value(p[1]);

	if (low < 0 || high * 16 + low == 0)
		return -1;
	return high * 16 + low;
}

char *name_unescape(const char *escaped)
{
	char *name = malloc(strlen(escaped) + 1);
	char *out = name;

	if (!name)
		return NULL;
	for (const char *p = escaped; *p; p++) {
		int byte = (unsigned char)*p;

		if (*p == '%') {
			byte = hex_byte(p + 1);
			if (byte < 0) {
				free(name);
				return NULL;
			}
			p += 2;
		}
		*out++ = (char)byte;
	}
	*out = '\0';
	return name;
}

json_t *name_json(const char *name)
{
	/* jansson takes UTF-8 only and refuses the rest, so it is the judge of what must be
	 * escaped: the parser at the other end is most likely as strict. */
	json_t *json = json_string(name);

	if (!json) {
		char *escaped = name_escape(name);

		json = escaped ? json_string(escaped) : NULL;
		free(escaped);
	}
	return json;
}

char *name_text(const char *name)
{
	json_t *json = json_string(name);
	char *text = json ? strdup(name) : name_escape(name);

	json_decref(json);
	return text;
}

void time_text(int64_t ns, char *buf)
{
	int64_t seconds = ns / 1000000000 - (ns % 1000000000 < 0);
	time_t t = (time_t)seconds;
	struct tm tm;

	if (!gmtime_r(&t, &tm) || !strftime(buf, TIME_TEXT_LEN, "%Y-%m-%dT%H:%M:%SZ", &tm))
		strcpy(buf, "1970-01-01T00:00:00Z");
}

void label_write(FILE *out, const char *value)
{
	for (const char *p = value; *p; p++) {
		if (*p == '\\' || *p == '"')
			putc('\\', out);
		if (*p == '\n')
			fputs("\\n", out);
		else
			putc(*p, out);
	}
}
