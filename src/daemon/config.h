/* SPDX-License-Identifier: MIT */
/* What a mount was asked to be. Filled by the command line, then only read. */
#ifndef GOLDFS_DAEMON_CONFIG_H
#define GOLDFS_DAEMON_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CONFIG_OPTIONS_MAX 256

enum log_choice { LOG_DEFAULT, LOG_CHOSEN_SYSLOG, LOG_CHOSEN_STDERR, LOG_CHOSEN_FILE };

struct mount_config {
	/* As typed until prepare_mount() has made them absolute; all owned. store NULL: default. */
	char *images;
	char *store;
	char *mountpoint;
	bool foreground;
	bool read_only;
	bool allow_other; /* set for root in any case */
	unsigned long mount_flags; /* MS_* */
	char *kernel_options; /* for mount(2) as they are: context= and its kin; NULL: none. Owned. */
	unsigned threads;	/* 0: default */
	uint64_t journal_size; /* bytes, 0: default, as in struct fs_options */
	uint64_t reserve;
	uint64_t dedup_memory;
	int dedup; /* enum fs_dedup */
	bool verify_reads;
	bool clone_metrics;
	bool no_sandbox; /* keep all privileges */
	bool no_busy_poll;
	enum log_choice log;
	char *log_path; /* absolute; for LOG_CHOSEN_FILE. Owned. */
	/* Each option as it was typed, for the processes that serve the mount. Owned. */
	char *options[CONFIG_OPTIONS_MAX];
	size_t option_count;
};

#endif
