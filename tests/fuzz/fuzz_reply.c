/* SPDX-License-Identifier: MIT */
/*
 * What a daemon may answer: the command line is pointed at a mount whose control file gives the
 * input back, whatever it asks. The first byte chooses the verb. Nothing but printable text and
 * newlines may come out, or JSON.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

struct place;
#include "cli/verbs.h"
#include "fuzz.h"

static struct input whole_answer, answer;

/* ---- the control file ---- */

/* Each request gets the same answer. */
static int fake_open(void)
{
	answer = whole_answer;
	return open("/dev/null", O_RDWR | O_CLOEXEC);
}

static ssize_t fake_read(void *buf, size_t len)
{
	const uint8_t *bytes = input_bytes(&answer, &len);

	memcpy(buf, bytes, len);
	return (ssize_t)len;
}

static int no_sleep(const struct timespec *time)
{
	(void)time;
	return 0;
}

#define open(...) fake_open()
#define read(fd, buf, len) fake_read(buf, len)
#define write(fd, buf, len) ((ssize_t)(len))
#define nanosleep(time, left) no_sleep(time)
#define place_find real_place_find
#define place_mount real_place_mount
int real_place_find(const char *path, struct place *place);
int real_place_mount(const char *verb, const char *path, struct place *place);
#include "cli/client.c"
#undef place_find
#undef place_mount
#undef open
#undef read
#undef write
#undef nanosleep

int place_find(const char *path, struct place *place);
int place_mount(const char *verb, const char *path, struct place *place);

#define clock_nanosleep(clock, flags, time, left) no_sleep(time)
#include "cli/top.c"
#undef clock_nanosleep

int place_find(const char *path, struct place *place)
{
	place->mountpoint = strdup("/mnt/vms");
	place->path = strdup(path);
	return EXIT_DONE;
}

int place_mount(const char *verb, const char *path, struct place *place)
{
	return place_find("", place);
}

/* ---- verbs ---- */

static const struct {
	int (*run)(int argc, char **argv);
	const char *words[5];
} calls[] = {
	{verb_list, {"list", "/mnt/vms"}},
	{verb_list, {"list", "--sort", "-unique", "/mnt/vms"}},
	{verb_list, {"list", "-o", "+mode", "-j", "/mnt/vms"}},
	{verb_stat, {"stat", "/mnt/vms/a"}},
	{verb_stat, {"stat", "-o", "path,unique,base", "/mnt/vms/a"}},
	{verb_stat, {"stat", "--if-removed", "/mnt/vms/a", "/mnt/vms/b"}},
	{verb_df, {"df", "/mnt/vms"}},
	{verb_df, {"df", "-j", "/mnt/vms"}},
	{verb_job, {"job", "list", "/mnt/vms"}},
	{verb_golden, {"golden", "list", "/mnt/vms"}},
	{verb_top, {"top", "-j", "/mnt/vms"}},
	{verb_top, {"top", "-n", "2", "--all", "/mnt/vms"}},
	{verb_list, {"list", "--tree", "/mnt/vms"}},
};
#define CALLS (sizeof(calls) / sizeof(*calls))

/* A terminal obeys control characters, those of 8 bits in UTF-8 too. */
static bool is_safe(const char *text, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		unsigned char c = (unsigned char)text[i];

		if ((c < 0x20 && c != '\n') || c == 0x7f ||
			(c >= 0x80 && c < 0xa0 && i && (unsigned char)text[i - 1] == 0xc2))
			return false;
	}
	return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *argv[6] = {NULL};
	char *text = NULL;
	size_t len = 0, count = 0;
	FILE *real_out = stdout, *real_err = stderr;
	uint8_t how;

	whole_answer = (struct input){data, size};
	how = input_u8(&whole_answer);
	for (const char *const *w = calls[how % CALLS].words; count < 5 && *w; w++)
		argv[count++] = (char *)*w;
	stdout = stderr = open_memstream(&text, &len);
	optind = 0;
	calls[how % CALLS].run((int)count, argv);
	fflush(stdout);
	fclose(stdout);
	stdout = real_out;
	stderr = real_err;
	if (!is_safe(text, len)) {
		fprintf(stderr, "%s\n", text);
		abort();
	}
	free(text);
	return 0;
}
