/* SPDX-License-Identifier: MIT */
/*
 * The goldfs command: one table of verbs, and which of them a command line means.
 *
 * A first word equal to a verb is the verb, also to one that comes with a later version: a folder
 * of images that happens to be called "scrub" is mounted as "./scrub" today and then. Anything else
 * is what mount takes. --help behind a verb prints its usage and two examples.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/message.h"
#include "cli/verbs.h"
#include "daemon/program.h"

struct verb {
	const char *name;
	int (*run)(int argc, char **argv); /* NULL: not in this version */
	const char *summary;
	const char *usage; /* lines behind "goldfs " */
	const char *options;
	const char *examples[2];
};

#define VIEW_HELP \
	"  -j, --json          print JSON, sizes in bytes\n" \
	"  -b, --bytes         print sizes in bytes\n" \
	"  -n, --noheadings    no heading line\n" \
	"  -o, --output COL,.. columns to show; +COL,... adds to the usual ones\n" \
	"      --sort COL      sort by a column, -COL in descending order\n"

#define FILE_COLUMNS \
	"Columns: path kind mode format base virtual data zero unique shared shared-golden\n" \
	"  shared-clone shared-snapshot shared-self pinned-golden snapshots limit dedup dedup-domain\n" \
	"  created state reason\n"

static const struct verb verbs[] = {
	{"mount", verb_mount, "mount a folder of golden images",
		"[mount] [-f] [-o OPTION,...] IMAGES MOUNTPOINT",
		"  -f            stay in the foreground\n"
		"  -o OPTION,...   store=DIR (IMAGES/.goldfs), ro, allow_other, threads=N,\n"
		"                journal-size=SIZE, reserve=SIZE, dedup=off|golden|all,\n"
		"                dedup-memory=SIZE, verify=off|read, metrics=store|clone,\n"
		"                busy-poll=on|off, log=syslog|stderr|FILE, and those of\n"
		"                mount(8)\n",
		{"goldfs /srv/gi /mnt/vms", "goldfs -o store=/var/lib/goldfs /srv/gi /mnt/vms"}},
	{"umount", verb_umount, "unmount, and wait until everything is written",
		"umount MOUNTPOINT", "", {"goldfs umount /mnt/vms", "goldfs umount ."}},
	{"clone", verb_clone, "make clones of an image",
		"clone [OPTION...] SOURCE TARGET...\n"
		"clone [OPTION...] -n COUNT [--start N] SOURCE PATTERN",
		"  -n, --count COUNT   that many, named by PATTERN, like desk%04d.img\n"
		"      --start N       the first number, 1 if not given\n"
		"      --mode MODE     snapshot (the default), thin or full\n"
		"      --force         replace what exists\n"
		"      --opaque        clone the bytes of an image that is not raw as they are\n",
		{"goldfs clone /mnt/vms/golden/debian-12.img /mnt/vms/web1.img",
			"goldfs clone -n 9 /mnt/vms/golden/debian-12.img /mnt/vms/vdi/desk%d.img"}},
	{"snapshot", verb_snapshot, "keep what a clone is, and go back to it, or forth",
		"snapshot create [--freeze-command CMD] [--thaw-command CMD] CLONE... NAME\n"
		"snapshot list [OPTION...] CLONE\n"
		"snapshot rollback [--force] CLONE NAME\n"
		"snapshot delete [--dry-run] CLONE NAME...\n"
		"snapshot delete [--dry-run] --automatic [--older-than AGE] CLONE\n"
		"snapshot rename CLONE OLD NEW",
		"Snapshots of several clones are of one instant. A rollback keeps what the clone is as an\n"
		"automatic snapshot, so one can go forth again. Their files are in .snapshots/CLONE/.\n"
		"\n"
		"      --freeze-command CMD   run before, in a shell\n"
		"      --thaw-command CMD     run after, also when something failed\n"
		"      --force                also while the clone is open for writing\n"
		"      --dry-run              only show what it would free\n"
		"      --automatic            those that rollback and refresh made\n"
		"      --older-than AGE       like 12h, 7d, 2w\n" VIEW_HELP
		"Columns: name current unique shared data virtual created parent automatic state path\n"
		"  shared-golden shared-clone shared-snapshot zero\n",
		{"goldfs snapshot create /mnt/vms/web1.img /mnt/vms/db1.img before-update",
			"goldfs snapshot rollback /mnt/vms/web1.img before-update"}},
	{"rm", verb_rm, "remove clones with their snapshots", "rm --snapshots CLONE...",
		"rm(1) removes a clone and leaves the snapshots that were given a name.\n",
		{"goldfs rm --snapshots /mnt/vms/web1.img",
			"goldfs rm --snapshots /mnt/vms/web1.img /mnt/vms/web2.img"}},
	{"refresh", verb_refresh, "put clones on a golden image anew",
		"refresh [--force] [--opaque] CLONE... --onto GOLDEN",
		"The clones are what the image is. What they were is kept as automatic snapshots.\n"
		"\n"
		"      --onto GOLDEN   the image\n"
		"      --force         also while a clone is open for writing\n"
		"      --opaque        take the bytes of an image that is not raw as they are\n",
		{"goldfs refresh /mnt/vms/web1.img --onto /mnt/vms/golden/debian-13.img",
			"goldfs refresh /mnt/vms/vdi/*.img --onto /mnt/vms/golden/desk-v2.img"}},
	{"list", verb_list, "list golden images and clones",
		"list [OPTION...] [PATH...]",
		"  -t, --types TYPE,.. golden, clone, snapshot, folder\n"
		"      --tree          by folder, with the sums of what lies below\n" VIEW_HELP
			FILE_COLUMNS,
		{"goldfs list /mnt/vms",
			"goldfs list -n -o path,unique --sort unique /mnt/vms/vdi"}},
	{"stat", verb_stat, "show what files cost",
		"stat [OPTION...] PATH...\nstat --if-removed [OPTION...] PATH...",
		"      --if-removed    what removing all of these together frees\n" VIEW_HELP
			FILE_COLUMNS,
		{"goldfs stat /mnt/vms/web1.img",
			"goldfs stat --if-removed /mnt/vms/web1.img /mnt/vms/web2.img"}},
	{"df", verb_df, "show the space of a store", "df [OPTION...] [MOUNTPOINT]",
		VIEW_HELP
		"Columns: virtual data unique pool golden journal metadata physical free\n"
		"  saved-clone saved-dedup saved-zero ratio clones snapshots state\n",
		{"goldfs df /mnt/vms", "goldfs df --json /mnt/vms"}},
	{"top", verb_top, "watch what clones are asked and what they come to cost",
		"top [OPTION...] [MOUNTPOINT]",
		"On a terminal it is a view: press h for its keys. Otherwise it prints one round.\n"
		"\n"
		"      --batch         print rounds as text, for ever or as often as -i says\n"
		"  -j, --json          print rounds as JSON, an object a line\n"
		"  -i, --iterations N  as many rounds\n"
		"  -d, --delay SECONDS between rounds, 1 if not given\n"
		"  -a, --all           clones that nobody uses, too\n"
		"      --active        only clones that were active in the last interval\n"
		"  -o, --output COL,.. columns to print; +COL,... adds to the usual ones\n"
		"      --sort COL      sort by a column, -COL in descending order\n"
		"  -b, --bytes         print sizes in bytes\n"
		"  -n, --noheadings    no heading lines\n"
		"Columns: read/s write/s reads/s writes/s flush/s r-avg r-max w-avg w-max f-avg f-max\n"
		"  unique unique/s unique+ shared shared/s shared+ virtual path; since the start:\n"
		"  read write reads writes flushes r-avg-all r-max-all w-avg-all ...\n",
		{"goldfs top /mnt/vms", "goldfs top --batch -i 5 -d 2 --sort -write/s /mnt/vms"}},
	{"settle", verb_settle, "write everything to its place and free what can be freed",
		"settle [--background] MOUNTPOINT",
		"      --background    print the id of the job and do not wait for it\n",
		{"goldfs settle /mnt/vms", "goldfs settle --background /mnt/vms"}},
	{"scrub", verb_scrub, "look for damage in a store that is in use",
		"scrub [--background] [--json] MOUNTPOINT",
		"      --background    print the id of the job and do not wait for it\n"
		"  -j, --json          show what was found as JSON\n",
		{"goldfs scrub /mnt/vms", "goldfs scrub --json /mnt/vms"}},
	{"golden", verb_golden, "list golden images with their state",
		"golden list [OPTION...] [MOUNTPOINT]\ngolden accept PATH", VIEW_HELP,
		{"goldfs golden list /mnt/vms", "goldfs golden list -o path,state /mnt/vms"}},
	{"job", verb_job, "see, await and cancel long work",
		"job list [OPTION...] [MOUNTPOINT]\njob show|wait|cancel ID [MOUNTPOINT]",
		VIEW_HELP,
		{"goldfs job list", "goldfs job wait 7"}},
	{"resize", verb_resize, "change the size of a clone",
		"resize [--force] CLONE [+|-]SIZE",
		"      --force         shrink too, which loses what lies behind the new end\n",
		{"goldfs resize /mnt/vms/web1.img +10G",
			"goldfs resize --force /mnt/vms/web1.img 20G"}},
	{"upgrade", verb_upgrade, "have another version of goldfs serve a mount",
		"upgrade [--binary PATH] MOUNTPOINT",
		"      --binary PATH   that program, instead of the installed one\n",
		{"goldfs upgrade /mnt/vms",
			"goldfs upgrade --binary /opt/goldfs-1.2/bin/goldfs /mnt/vms"}},
	{"check", verb_check, "look for damage in a store that is not mounted, and mend it",
		"check [OPTION...] STORE",
		"      --repair        mend what can be mended without doubt\n" VIEW_HELP
		"Columns: severity state structure place offset length problem files action\n"
		"Exit status: 0 no damage, 1 it could not be checked, 2 usage, 3 damage\n",
		{"goldfs check /var/lib/goldfs", "goldfs check --repair /srv/gi/.goldfs"}},
	{"dedup", verb_dedup, "look for content that is stored elsewhere, too",
		"dedup [--background] PATH…\ndedup [--set POLICY] [--domain DOMAIN] FOLDER",
		"Compares what the clones named, or all below a folder, hold of their own with golden\n"
		"images, the pool and all other clones, keeps equal blocks once, and settles. What is\n"
		"written while goldfs runs is compared by itself. For root and the owner of the mount.\n"
		"\n"
		"      --background    print the id of the job and do not wait for it\n"
		"      --set POLICY    where content below FOLDER, or of a clone, is looked for from now\n"
		"                      on: off, golden (in golden images only), all, or inherit\n"
		"      --domain DOMAIN own: it is shared within FOLDER only, and with golden images;\n"
		"                      shared: with all others that say so; inherit\n"
		"The nearest folder above that says something counts; goldfs stat shows what does. What\n"
		"is shared already stays so.\n",
		{"goldfs dedup /mnt/vms/imported", "goldfs dedup --domain own /mnt/vms/tenant1"}},
	{"limit", verb_limit, "limit what a folder, or a clone, may hold of its own",
		"limit FOLDER SIZE|none",
		"Writes that would exceed it fail as on a full disk. For root and the owner of the\n"
		"mount; goldfs list -t folder -o path,limit,unique shows limits.\n",
		{"goldfs limit /mnt/vms/tenant1 200G", "goldfs limit /mnt/vms/web1.img none"}},
	{"promote", verb_promote, "make a golden image of a clone",
		"promote [--background] [--rate SIZE] CLONE NAME\n"
		"promote --resume [--background] [--rate SIZE] IMAGE\npromote --cancel IMAGE",
		"Makes golden/NAME of what the clone is now. It can be cloned at once, and is written into\n"
		"the folder of images in the background. For root and the owner of the mount.\n"
		"      --background    print the id of the job that writes it and do not wait for it\n"
		"      --rate SIZE     write so many bytes per second at most, from now on\n"
		"      --resume        go on with one that could not be written\n"
		"      --cancel        give it up; clones that were made of it stay\n",
		{"goldfs promote /mnt/vms/web1.img debian-13-web.img",
			"goldfs promote --cancel /mnt/vms/golden/debian-13-web.img"}},
	{"rebase", verb_rebase, "put clones on another golden image, with the same content",
		"rebase [OPTION...] CLONE... --onto GOLDEN",
		"Clients see no difference, and may read and write meanwhile. What is equal to the new\n"
		"image is not kept any more; the old image is not needed any more. Undo: rebase back.\n"
		"\n"
		"      --onto GOLDEN   the image, below golden/ of the mount\n"
		"      --rate SIZE     bytes copied per second at most\n"
		"      --background    print the id of the job and do not wait for it\n",
		{"goldfs rebase /mnt/vms/web1.img --onto /mnt/vms/golden/debian-13.img",
			"goldfs rebase --background /mnt/vms/web*.img --onto /mnt/vms/golden/v2.img"}},
	{"upgrade-base", verb_upgrade_base, "rebase all clones of a golden image",
		"upgrade-base [OPTION...] OLD NEW",
		"All that you may write to, with a table of what each held of its own before, and what\n"
		"it gains. The rest of what became superfluous is given back by goldfs settle.\n"
		"\n"
		"      --dry-run       only say what it would come to, about\n"
		"      --rate SIZE     bytes copied per second at most\n"
		"      --background    print the id of the job and do not wait for it\n" VIEW_HELP
		"Columns: path unique gain error\n",
		{"goldfs upgrade-base --dry-run /mnt/vms/golden/v1.img /mnt/vms/golden/v2.img",
			"goldfs upgrade-base /mnt/vms/golden/v1.img /mnt/vms/golden/v2.img"}},
	{"convert", verb_convert, "have clones stand on their own, or share again",
		"convert [OPTION...] CLONE... --mode snapshot|thin|full",
		"thin: a copy of all data, which shares nothing with others any more. full: the same, with\n"
		"space for every byte. Copied while clients go on. snapshot: shares again what others have.\n"
		"\n"
		"      --mode MODE     snapshot, thin or full\n"
		"      --onto GOLDEN   with snapshot: the golden image to stand on again\n"
		"      --rate SIZE     bytes copied per second at most\n"
		"      --background    print the id of the job and do not wait for it\n",
		{"goldfs convert /mnt/vms/db.img --mode thin --rate 100M",
			"goldfs convert /mnt/vms/db.img --mode snapshot --onto /mnt/vms/golden/v1.img"}},
	{.name = "scrub"},
	{.name = NULL},
};

static const struct verb *find_verb(const char *name)
{
	for (const struct verb *v = verbs; v->name; v++)
		if (strcmp(v->name, name) == 0)
			return v;
	return NULL;
}

/* Each line of usage behind "goldfs". */
static void write_usage(FILE *out, const struct verb *verb)
{
	const char *lead = "usage: ";

	for (const char *line = verb->usage; *line; lead = "       ") {
		size_t len = strcspn(line, "\n");

		fprintf(out, "%sgoldfs %.*s\n", lead, (int)len, line);
		line += len + (line[len] == '\n');
	}
}

static void write_help(FILE *out, const struct verb *verb)
{
	write_usage(out, verb);
	fprintf(out, "\n%c%s.\n", verb->summary[0] - 'a' + 'A', verb->summary + 1);
	if (*verb->options)
		fprintf(out, "\n%s", verb->options);
	fprintf(out, "\nExamples:\n  %s\n  %s\n", verb->examples[0], verb->examples[1]);
}

static void write_general_help(FILE *out)
{
	fputs("usage: goldfs [-f] [-o OPTION,...] IMAGES MOUNTPOINT\n"
	      "       goldfs VERB ...\n"
	      "\n"
	      "Instant clones of disk images.\n"
	      "\n"
	      "Verbs (goldfs VERB --help says more):\n",
		out);
	for (const struct verb *v = verbs; v->name; v++)
		if (v->run)
			fprintf(out, "  %-9s %s\n", v->name, v->summary);
	fputs("\n"
	      "Examples:\n"
	      "  goldfs /srv/gi /mnt/vms\n"
	      "  goldfs clone /mnt/vms/golden/debian-12.img /mnt/vms/web1.img\n",
		out);
}

/* Prints help about verb, or in general. */
static int print_help(const struct verb *verb)
{
	char *text = NULL;
	size_t len = 0;
	FILE *out = open_memstream(&text, &len);
	int r;

	if (!out)
		return cli_fail("out of memory");
	if (verb)
		write_help(out, verb);
	else
		write_general_help(out);
	fclose(out);
	r = cli_print(text, len);
	free(text);
	return r;
}

/* Whether --help stands among the arguments, before a "--". */
static int wants_help(int argc, char **argv)
{
	for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++)
		if (strcmp(argv[i], "--help") == 0)
			return 1;
	return 0;
}

/* Whether word, which is no verb, cannot be a folder of images either. */
static int is_mistyped(const char *word)
{
	return word[0] != '-' && !strchr(word, '/') && access(word, F_OK) < 0 && errno == ENOENT;
}

int main(int argc, char **argv)
{
	static const char version[] = "goldfs " GOLDFS_VERSION "\n";
	const struct verb *verb;

	if (argc < 2)
		return cli_usage("", "a verb, or a folder of images and a mount point are needed");
	if (strcmp(argv[1], "--version") == 0)
		return cli_print(version, strlen(version));
	if (strcmp(argv[1], "--help") == 0)
		return print_help(NULL);
	if (strcmp(argv[1], WORKER_VERB) == 0)
		return verb_mount_worker(argc - 1, argv + 1);
	verb = find_verb(argv[1]);
	if (verb && !verb->run)
		return cli_fail("\"%s\" is not available in this version", verb->name);
	if (wants_help(argc, argv))
		return print_help(verb ? verb : find_verb("mount"));
	if (!verb && is_mistyped(argv[1]))
		return cli_usage("", "\"%s\" is neither a verb nor a folder of images", argv[1]);
	if (!verb)
		return verb_mount(argc, argv);
	return verb->run(argc - 1, argv + 1);
}
