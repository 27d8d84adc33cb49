/* SPDX-License-Identifier: MIT */
#include "cli/format.h"

#include <stdint.h>
#include <stdio.h>

#include "base/sizes.h"

static double at_most(double number, double most)
{
	return number < most ? number : most;
}

/* Two digits that count at least: "1.3", "12". */
static void with_unit(double number, const char *unit, char *buf, size_t len)
{
	snprintf(buf, len, number < 9.95 ? "%.1f%s" : "%.0f%s", number, unit);
}

void format_rate(double rate, char *buf, size_t len)
{
	if (!(rate > 0))
		snprintf(buf, len, "0");
	else if (rate < 9999.5)
		with_unit(rate, "", buf, len);
	else if (rate < 9999.5e3)
		with_unit(rate / 1e3, "k", buf, len);
	else
		with_unit(at_most(rate, 1e15) / 1e6, "M", buf, len);
}

void format_time(double ns, char *buf, size_t len)
{
	if (!(ns > 0))
		snprintf(buf, len, "-");
	else if (ns < 999.5e3)
		with_unit(ns / 1e3, "us", buf, len);
	else if (ns < 999.5e6)
		with_unit(ns / 1e6, "ms", buf, len);
	else
		with_unit(at_most(ns, 1e18) / 1e9, "s", buf, len);
}

void format_growth(double bytes, char *buf, size_t len)
{
	double size = at_most(bytes < 0 ? -bytes : bytes, 0x1p62);
	char text[FORMAT_LEN];

	if (!(size >= 1)) {
		snprintf(buf, len, "0");
		return;
	}
	size_format((uint64_t)size, text, sizeof(text));
	snprintf(buf, len, "%c%s", bytes < 0 ? '-' : '+', text);
}
