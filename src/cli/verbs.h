/* SPDX-License-Identifier: MIT */
/*
 * The verbs of the command line. Each gets its own arguments (argv[0] is the verb) and returns the
 * exit status: 0 done, 1 failed, 2 wrong usage, 3 (check) damage was found.
 */
#ifndef GOLDFS_CLI_VERBS_H
#define GOLDFS_CLI_VERBS_H

enum { EXIT_DONE = 0, EXIT_FAILED = 1, EXIT_USAGE = 2, EXIT_DAMAGED = 3 };

int verb_mount(int argc, char **argv);	/* cli/mount.c, also for a first word that is no verb */
int verb_umount(int argc, char **argv); /* cli/umount.c */
int verb_clone(int argc, char **argv);
int verb_list(int argc, char **argv);
int verb_stat(int argc, char **argv);
int verb_df(int argc, char **argv);
int verb_top(int argc, char **argv);
int verb_settle(int argc, char **argv);
int verb_dedup(int argc, char **argv);
int verb_rebase(int argc, char **argv);
int verb_convert(int argc, char **argv);
int verb_upgrade_base(int argc, char **argv);
int verb_scrub(int argc, char **argv);
int verb_job(int argc, char **argv);
int verb_golden(int argc, char **argv);
int verb_resize(int argc, char **argv);
int verb_limit(int argc, char **argv);
int verb_snapshot(int argc, char **argv);
int verb_rm(int argc, char **argv);
int verb_refresh(int argc, char **argv);
int verb_promote(int argc, char **argv);
int verb_upgrade(int argc, char **argv);
int verb_mount_worker(int argc, char **argv); /* cli/mount.c; for the supervisor only */
int verb_check(int argc, char **argv);

#endif
