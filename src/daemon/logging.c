/* SPDX-License-Identifier: MIT */
/* See logging.h. Only the main thread calls these. */
#include "daemon/logging.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/sizes.h"

#define LOG_MAX (4 * MIB)

static char store_log[PATH_MAX]; /* empty: there is none */
static char place[PATH_MAX + 16] = "the log";
static bool log_in_store;
static ino_t store_log_node; /* of the store's log as it was opened; 0: not known */

static bool syslog_listens(void)
{
	const struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "/dev/log"};
	CLEANUP_CLOSE int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd >= 0 && connect(fd, (const struct sockaddr *)&address, sizeof(address)) == 0)
		return true;
	if (fd < 0 || errno != EPROTOTYPE)
		return false;
	close(fd);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	return fd >= 0 && connect(fd, (const struct sockaddr *)&address, sizeof(address)) == 0;
}

/* Lets stderr of a process in the background end in the store's log, or nowhere. */
static void redirect_stderr(void)
{
	int fd = -1;

	if (store_log[0])
		fd = open(store_log, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return;
	dup2(fd, STDERR_FILENO);
	close(fd);
}

static int log_to_file(const char *path)
{
	int r = log_open(LOG_TO_FILE, path);

	if (r == 0)
		snprintf(place, sizeof(place), "\"%s\"", path);
	return r;
}

static int log_to_background(enum log_choice choice)
{
	if (choice != LOG_CHOSEN_SYSLOG && !syslog_listens() && store_log[0] &&
		log_to_file(store_log) == 0) {
		log_in_store = true;
		return 0;
	}
	snprintf(place, sizeof(place), "the system log");
	return log_open(LOG_TO_SYSLOG, NULL);
}

int logging_start(const struct mount_config *config)
{
	bool to_stderr = config->log == LOG_CHOSEN_STDERR ||
			 (config->log == LOG_DEFAULT && config->foreground);

	store_log[0] = '\0';
	if (!config->read_only && strlen(config->store) + 8 < sizeof(store_log))
		snprintf(store_log, sizeof(store_log), "%s/log", config->store);
	if (to_stderr) {
		snprintf(place, sizeof(place), "the messages above");
		return log_open(LOG_TO_STDERR, NULL);
	}
	if (!config->foreground)
		redirect_stderr();
	if (config->log == LOG_CHOSEN_FILE)
		return log_to_file(config->log_path);
	return log_to_background(config->log);
}

/* Opens the store's log again, which another process of this mount may have renamed. */
static void open_again(const struct mount_config *config)
{
	struct stat st;

	if (!config->foreground && config->log != LOG_CHOSEN_STDERR)
		redirect_stderr();
	if (log_in_store)
		log_to_file(store_log);
	store_log_node = stat(store_log, &st) == 0 ? st.st_ino : 0;
}

void logging_tick(const struct mount_config *config)
{
	char old[PATH_MAX + 4];
	struct stat st;

	if (!store_log[0] || stat(store_log, &st) < 0)
		return;
	if (!store_log_node)
		store_log_node = st.st_ino;
	if ((uint64_t)st.st_size >= LOG_MAX) {
		snprintf(old, sizeof(old), "%s.1", store_log);
		if (rename(store_log, old) == 0)
			open_again(config);
	} else if (st.st_ino != store_log_node) {
		open_again(config);
	}
}

const char *logging_place(void)
{
	return place;
}
