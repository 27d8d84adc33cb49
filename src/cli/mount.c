/* SPDX-License-Identifier: MIT */
/*
 * goldfs [mount] [-f] [-o OPT,…] IMAGES MOUNTPOINT
 *
 * One table says what can stand behind -o: our options, those of mount(8) and fstab that mean
 * something to a mount (flags), those that mean something to others only (accepted, no effect),
 * and the labels of security modules, which go to the kernel as they are. What is not in it is
 * refused, so that a typing error is not taken for an option without effect.
 */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/sizes.h"
#include "cli/message.h"
#include "cli/number.h"
#include "cli/verbs.h"
#include "core/fs.h"
#include "daemon/config.h"
#include "daemon/daemon.h"
#include "daemon/worker_main.h"

#define THREADS_MAX 256
#define JOURNAL_MIN (1 * MIB)
#define JOURNAL_MAX (64 * GIB)

enum kind {
	IGNORED, /* for others; with or without a value */
	SET,	 /* a flag of mount(2) */
	CLEAR,
	LABEL, /* for the kernel's security module */
	STORE,
	THREADS,
	JOURNAL_SIZE,
	RESERVE,
	DEDUP,
	DEDUP_MEMORY,
	VERIFY,
	LOG,
	METRICS,
	SANDBOX,
	BUSY_POLL,
	ALLOW_OTHER,
	REFUSED,
};

static const struct option_entry {
	const char *name;
	enum kind kind;
	unsigned long flag;
} entries[] = {
	{"store", STORE, 0},
	{"threads", THREADS, 0},
	{"journal-size", JOURNAL_SIZE, 0},
	{"reserve", RESERVE, 0},
	{"dedup", DEDUP, 0},
	{"dedup-memory", DEDUP_MEMORY, 0},
	{"verify", VERIFY, 0},
	{"log", LOG, 0},
	{"metrics", METRICS, 0},
	{"sandbox", SANDBOX, 0},
	{"busy-poll", BUSY_POLL, 0},
	{"allow_other", ALLOW_OTHER, 0},
	{"default_permissions", IGNORED, 0}, /* always */

	{"ro", SET, MS_RDONLY},
	{"rw", CLEAR, MS_RDONLY},
	{"nosuid", SET, MS_NOSUID},
	{"suid", CLEAR, MS_NOSUID},
	{"nodev", SET, MS_NODEV},
	{"dev", CLEAR, MS_NODEV},
	{"noexec", SET, MS_NOEXEC},
	{"exec", CLEAR, MS_NOEXEC},
	{"sync", SET, MS_SYNCHRONOUS},
	{"async", CLEAR, MS_SYNCHRONOUS},
	{"dirsync", SET, MS_DIRSYNC},
	{"noatime", SET, MS_NOATIME},
	{"atime", CLEAR, MS_NOATIME},
	{"nodiratime", SET, MS_NODIRATIME},
	{"diratime", CLEAR, MS_NODIRATIME},
	{"relatime", SET, MS_RELATIME},
	{"norelatime", CLEAR, MS_RELATIME},
	{"strictatime", SET, MS_STRICTATIME},
	{"nostrictatime", CLEAR, MS_STRICTATIME},
	{"lazytime", SET, MS_LAZYTIME},
	{"nolazytime", CLEAR, MS_LAZYTIME},
	{"silent", SET, MS_SILENT},
	{"loud", CLEAR, MS_SILENT},
	{"nosymfollow", IGNORED, 0},
	{"symfollow", IGNORED, 0},

	{"defaults", IGNORED, 0},
	{"auto", IGNORED, 0},
	{"noauto", IGNORED, 0},
	{"nofail", IGNORED, 0},
	{"_netdev", IGNORED, 0},
	{"user", IGNORED, 0},
	{"nouser", IGNORED, 0},
	{"users", IGNORED, 0},
	{"nousers", IGNORED, 0},
	{"owner", IGNORED, 0},
	{"noowner", IGNORED, 0},
	{"group", IGNORED, 0},
	{"nogroup", IGNORED, 0},
	{"iversion", IGNORED, 0},
	{"noiversion", IGNORED, 0},
	{"mand", IGNORED, 0},
	{"nomand", IGNORED, 0},
	{"comment", IGNORED, 0},

	{"context", LABEL, 0},
	{"fscontext", LABEL, 0},
	{"defcontext", LABEL, 0},
	{"rootcontext", LABEL, 0},

	{"remount", REFUSED, 0},
	{"bind", REFUSED, 0},
};

static const struct option_entry *find_entry(const char *name, size_t len)
{
	static const struct option_entry foreign = {"x-*", IGNORED, 0};

	if (len > 2 && (name[0] == 'x' || name[0] == 'X') && name[1] == '-')
		return &foreign;
	for (size_t i = 0; i < ARRAY_SIZE(entries); i++)
		if (strlen(entries[i].name) == len && strncmp(entries[i].name, name, len) == 0)
			return &entries[i];
	return NULL;
}

static int set_string(char **to, const char *value)
{
	free(*to);
	*to = strdup(value);
	return *to ? EXIT_DONE : cli_fail("out of memory");
}

static int set_size(uint64_t *to, const char *name, const char *value, uint64_t min, uint64_t max)
{
	if (size_parse(value, to) < 0)
		return cli_usage("mount", "%s=\"%s\" is not a size such as 64M", name, value);
	if (*to < min || *to > max)
		return cli_usage("mount", "%s=\"%s\" is not between %llu and %llu bytes", name,
			value, (unsigned long long)min, (unsigned long long)max);
	return EXIT_DONE;
}

/* Sets *to to the place of value among names (which end with NULL). */
static int set_word(int *to, const char *name, const char *value, const char *const names[])
{
	for (*to = 0; names[*to]; ++*to)
		if (strcmp(names[*to], value) == 0)
			return EXIT_DONE;
	return cli_usage("mount", "%s=\"%s\" is not known", name, value);
}

/* Of two words: whether it is the second. */
static int set_second(bool *to, const char *name, const char *value, const char *const names[])
{
	int word, r = set_word(&word, name, value, names);

	*to = word == 1;
	return r;
}

static int set_log(struct mount_config *config, const char *value)
{
	CLEANUP_FREE char *cwd = NULL;

	config->log = LOG_CHOSEN_FILE;
	if (strcmp(value, "syslog") == 0)
		config->log = LOG_CHOSEN_SYSLOG;
	if (strcmp(value, "stderr") == 0)
		config->log = LOG_CHOSEN_STDERR;
	if (config->log != LOG_CHOSEN_FILE)
		return EXIT_DONE;
	if (value[0] == '/')
		return set_string(&config->log_path, value);
	cwd = getcwd(NULL, 0);
	free(config->log_path);
	if (!cwd || asprintf(&config->log_path, "%s/%s", cwd, value) < 0) {
		config->log_path = NULL;
		return cli_fail("log \"%s\": %s", value, cli_reason(errno));
	}
	return EXIT_DONE;
}

/* Labels go to mount(2) where a security module takes them, as mount(8) does it. */
static int add_label(struct mount_config *config, const char *option)
{
	char *all;

	if (access("/sys/fs/selinux/enforce", F_OK) < 0)
		return EXIT_DONE;
	if (asprintf(&all, "%s%s%s", config->kernel_options ? config->kernel_options : "",
		    config->kernel_options ? "," : "", option) < 0)
		return cli_fail("out of memory");
	free(config->kernel_options);
	config->kernel_options = all;
	return EXIT_DONE;
}

static int apply_own(struct mount_config *config, const struct option_entry *entry,
	const char *value)
{
	static const char *const dedup[] = {"off", "golden", "all", NULL};
	static const char *const verify[] = {"off", "read", NULL};
	static const char *const metrics[] = {"store", "clone", NULL};
	static const char *const on_off[] = {"on", "off", NULL};
	uint64_t number;

	switch (entry->kind) {
	case STORE:
		return set_string(&config->store, value);
	case THREADS:
		if (!number_parse(value, 1, THREADS_MAX, &number))
			return cli_usage("mount", "threads=\"%s\" is not a number from 1 to %d",
				value, THREADS_MAX);
		config->threads = (unsigned)number;
		return EXIT_DONE;
	case JOURNAL_SIZE:
		return set_size(&config->journal_size, entry->name, value, JOURNAL_MIN,
			JOURNAL_MAX);
	case RESERVE:
		return set_size(&config->reserve, entry->name, value, 0, UINT64_MAX);
	case DEDUP_MEMORY:
		return set_size(&config->dedup_memory, entry->name, value, 0, UINT64_MAX);
	case DEDUP:
		return set_word(&config->dedup, entry->name, value, dedup);
	case VERIFY:
		return set_second(&config->verify_reads, entry->name, value, verify);
	case METRICS:
		return set_second(&config->clone_metrics, entry->name, value, metrics);
	case SANDBOX:
		return set_second(&config->no_sandbox, entry->name, value, on_off);
	case BUSY_POLL:
		return set_second(&config->no_busy_poll, entry->name, value, on_off);
	case LOG:
		return set_log(config, value);
	default:
		return EXIT_DONE;
	}
}

/* Keeps the option as it was typed, for the processes that serve the mount. */
static int keep(struct mount_config *config, const char *option)
{
	if (config->option_count == CONFIG_OPTIONS_MAX)
		return cli_usage("mount", "more than %d mount options", CONFIG_OPTIONS_MAX);
	config->options[config->option_count] = strdup(option);
	if (!config->options[config->option_count])
		return cli_fail("out of memory");
	config->option_count++;
	return EXIT_DONE;
}

/* option is "name" or "name=value"; quotes around a value have been kept. */
static int apply(struct mount_config *config, const char *option)
{
	size_t len = strcspn(option, "=");
	const char *value = option[len] ? option + len + 1 : NULL;
	const struct option_entry *entry = find_entry(option, len);

	if (!entry)
		return cli_usage("mount", "unknown mount option \"%s\"", option);
	switch (entry->kind) {
	case IGNORED:
		return EXIT_DONE;
	case REFUSED:
		return cli_usage("mount", "cannot %s: unmount, and mount with the new options",
			entry->name);
	case LABEL:
		return value ? add_label(config, option)
			     : cli_usage("mount", "mount option \"%s\" needs a value", option);
	case SET:
	case CLEAR:
	case ALLOW_OTHER:
		if (value)
			return cli_usage("mount", "mount option \"%s\" takes no value", entry->name);
		if (entry->kind == ALLOW_OTHER)
			config->allow_other = true;
		else if (entry->kind == SET)
			config->mount_flags |= entry->flag;
		else
			config->mount_flags &= ~entry->flag;
		return EXIT_DONE;
	default:
		return value && *value ? apply_own(config, entry, value)
				       : cli_usage("mount", "mount option \"%s\" needs a value",
						 entry->name);
	}
}

/* Splits at commas that are not within double quotes, as labels have them. */
static int apply_list(struct mount_config *config, const char *list)
{
	while (*list) {
		CLEANUP_FREE char *option = NULL;
		bool quoted = false;
		size_t len = 0;
		int r;

		for (; list[len] && (quoted || list[len] != ','); len++)
			if (list[len] == '"')
				quoted = !quoted;
		option = strndup(list, len);
		if (!option)
			return cli_fail("out of memory");
		r = len ? apply(config, option) : EXIT_DONE;
		if (r == EXIT_DONE && len)
			r = keep(config, option);
		if (r != EXIT_DONE)
			return r;
		list += len + (list[len] == ',');
	}
	return EXIT_DONE;
}

/* A first word that is neither a verb nor a folder was most likely meant to be a verb. */
static bool was_meant_as_verb(const char *word)
{
	struct stat st;

	return !strchr(word, '/') && stat(word, &st) < 0 && errno == ENOENT;
}

static int parse(int argc, char **argv, struct mount_config *config)
{
	static const struct option longs[] = {{NULL, 0, NULL, 0}};
	bool explicit_verb = strcmp(argv[0], "mount") == 0;
	int opt, r;

	opterr = 0;
	while ((opt = getopt_long(argc, argv, ":fo:", longs, NULL)) != -1) {
		if (opt == 'f') {
			config->foreground = true;
		} else if (opt == 'o') {
			r = apply_list(config, optarg);
			if (r != EXIT_DONE)
				return r;
		} else {
			return cli_bad_option("mount", opt, argv);
		}
	}
	if (!explicit_verb && optind < argc && was_meant_as_verb(argv[optind]))
		return cli_usage("", "\"%s\" is neither a verb nor a folder of images",
			argv[optind]);
	if (argc - optind != 2)
		return cli_usage("mount", "a folder of images and a mount point are needed");
	r = set_string(&config->images, argv[optind]);
	if (r == EXIT_DONE)
		r = set_string(&config->mountpoint, argv[optind + 1]);
	return r;
}

static void config_release(struct mount_config *config)
{
	free(config->images);
	free(config->store);
	free(config->mountpoint);
	free(config->kernel_options);
	free(config->log_path);
	for (size_t i = 0; i < config->option_count; i++)
		free(config->options[i]);
}

static struct mount_config config_init(void)
{
	return (struct mount_config){
		.mount_flags = MS_NOSUID | MS_NODEV,
		.dedup = FS_DEDUP_ALL,
		.allow_other = geteuid() == 0,
	};
}

int verb_mount(int argc, char **argv)
{
	struct mount_config config = config_init();
	struct failure failure = {""};
	int r = parse(argc, argv, &config);

	if (r == EXIT_DONE) {
		config.read_only = config.mount_flags & MS_RDONLY;
		if (daemon_run(&config, &failure) < 0)
			r = cli_fail("%s", failure.text);
	}
	config_release(&config);
	return r;
}

/* ---- goldfs mount-worker, which a supervisor starts: see daemon/program.h ---- */

enum { FUSE_FD = 256, LOCK_FD, HANDOVER_FD, CHANNEL_FD, TAKEOVER, PROBE, OPTION };

/* The descriptor that --NAME-fd names, or -1. */
static int parse_descriptor(const char *text)
{
	uint64_t number;

	return number_parse(text, 3, INT32_MAX, &number) ? (int)number : -1;
}

static int parse_worker(int argc, char **argv, struct mount_config *config,
	struct worker_link *link, bool *probe)
{
	static const struct option longs[] = {
		{"fuse-fd", required_argument, NULL, FUSE_FD},
		{"lock-fd", required_argument, NULL, LOCK_FD},
		{"handover-fd", required_argument, NULL, HANDOVER_FD},
		{"channel-fd", required_argument, NULL, CHANNEL_FD},
		{"takeover", no_argument, NULL, TAKEOVER},
		{"probe", no_argument, NULL, PROBE},
		{"option", required_argument, NULL, OPTION},
		{NULL, 0, NULL, 0},
	};
	int opt, r = EXIT_DONE;

	opterr = 0;
	while (r == EXIT_DONE && (opt = getopt_long(argc, argv, ":f", longs, NULL)) != -1) {
		if (opt == 'f')
			config->foreground = true;
		else if (opt == FUSE_FD)
			link->fuse_fd = parse_descriptor(optarg);
		else if (opt == LOCK_FD)
			link->lock_fd = parse_descriptor(optarg);
		else if (opt == HANDOVER_FD)
			link->handover_fd = parse_descriptor(optarg);
		else if (opt == CHANNEL_FD)
			link->channel_fd = parse_descriptor(optarg);
		else if (opt == TAKEOVER)
			link->takeover = true;
		else if (opt == PROBE)
			*probe = true;
		else if (opt == OPTION)
			r = apply(config, optarg);
		else
			r = cli_bad_option(WORKER_VERB, opt, argv);
	}
	if (r != EXIT_DONE)
		return r;
	if (argc - optind != 2 || !config->store || argv[optind][0] != '/' ||
		argv[optind + 1][0] != '/' || config->store[0] != '/')
		return cli_usage(WORKER_VERB, "it is started by goldfs mount only");
	if (!*probe && (link->fuse_fd < 0 || link->lock_fd < 0 || link->handover_fd < 0 ||
			       link->channel_fd < 0))
		return cli_usage(WORKER_VERB, "it is started by goldfs mount only");
	r = set_string(&config->images, argv[optind]);
	return r == EXIT_DONE ? set_string(&config->mountpoint, argv[optind + 1]) : r;
}

static int probe_worker(const struct mount_config *config)
{
	static const char answer[] = WORKER_INTERFACE GOLDFS_VERSION "\n";
	struct failure failure = {""};

	if (worker_probe(config, &failure) < 0)
		return cli_fail("%s", failure.text);
	return cli_print(answer, strlen(answer));
}

int verb_mount_worker(int argc, char **argv)
{
	struct mount_config config = config_init();
	struct worker_link link = {-1, -1, -1, -1, false};
	bool probe = false;
	int r = parse_worker(argc, argv, &config, &link, &probe);

	if (r == EXIT_DONE) {
		config.read_only = config.mount_flags & MS_RDONLY;
		r = probe ? probe_worker(&config) : worker_main(&config, &link);
	}
	config_release(&config);
	return r;
}
