/* SPDX-License-Identifier: MIT */
/*
 * Paths below the folder of golden images, as users look them up: nothing outside of it is ever
 * found. The folder has an image, a folder with one, a hidden one, and links in and out.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fuzz.h"
#include "image/folder.h"

static struct folder *folder;
static char root[] = "/tmp/goldfs-fuzz.XXXXXX";

static void remove_root(void)
{
	char command[64];

	folder_close(folder);
	snprintf(command, sizeof(command), "rm -rf %s", root);
	if (system(command))
		return;
}

static void make_file(const char *name)
{
	int fd = open(name, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);

	if (fd < 0)
		abort();
	close(fd);
}

static void make_folder(void)
{
	int cwd = open(".", O_PATH | O_CLOEXEC);

	if (!mkdtemp(root) || chdir(root) || mkdir("images", 0755) || mkdir("images/sub", 0755))
		abort();
	atexit(remove_root);
	make_file("secret");
	make_file("images/one.img");
	make_file("images/.hidden");
	make_file("images/sub/two.img");
	if (symlink("sub/two.img", "images/in") || symlink("../secret", "images/out") ||
		symlink("loop", "images/loop") || symlink("/etc/passwd", "images/far") ||
		symlink(".hidden", "images/show") || symlink("sub", "images/dir") ||
		folder_open(&folder, "images") || fchdir(cwd))
		abort();
	close(cwd);
}

static int look(void *arg, const char *name, const struct stat *st, uint64_t place)
{
	(void)arg;
	(void)st;
	(void)place;
	if (*name == '.' || strcmp(name, "out") == 0 || strcmp(name, "far") == 0)
		abort();
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {data, size};
	char link[64], real[4200];
	struct stat st;
	char *path;
	ssize_t n;
	int fd;

	if (!folder) {
		quiet();
		make_folder();
	}
	path = input_text(&in, 5000);
	folder_stat(folder, path, &st);
	folder_list(folder, path, 0, look, NULL);
	fd = folder_open_file(folder, path);
	if (fd >= 0) {
		snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
		n = readlink(link, real, sizeof(real) - 1);
		real[n < 0 ? 0 : n] = '\0';
		if (strncmp(real, root, strlen(root)) != 0 || !strstr(real, "/images/"))
			abort();
		close(fd);
	}
	free(path);
	return 0;
}
