/* SPDX-License-Identifier: MIT */
/*
 * goldfs check [--repair] STORE
 *
 * Looks at a store that is not mounted. Without --repair nothing is written: not even a lock file
 * is made, and a store that may only be read is good enough. Findings go to stdout, one after the
 * other or as JSON, the state of things on a terminal meanwhile to stderr.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/sizes.h"
#include "cli/message.h"
#include "cli/table.h"
#include "cli/verbs.h"
#include "core/check.h"
#include "daemon/mountinfo.h"
#include "image/folder.h"
#include "service/names.h"
#include "store/lock.h"
#include "store/superblock.h"

#define STORE_NAME ".goldfs"
#define WAIT_SECONDS 30 /* for a daemon that is closing */
#define SHOWN_PATHS 8   /* per finding, in the list */

static const struct column columns[] = {
	{"SEVERITY", "severity", COLUMN_TEXT, true},
	{"STATE", "state", COLUMN_TEXT, true},
	{"STRUCTURE", "structure", COLUMN_TEXT, true},
	{"PLACE", "place", COLUMN_TEXT, true},
	{"OFFSET", "offset", COLUMN_COUNT, true},
	{"LENGTH", "length_bytes", COLUMN_SIZE, true},
	{"PROBLEM", "problem", COLUMN_TEXT, true},
	{"FILES", "files", COLUMN_TEXT, true},
	{"ACTION", "action", COLUMN_TEXT, false},
	{NULL, NULL, COLUMN_TEXT, false},
};

/* ---- which store ---- */

struct target {
	char *path;	       /* of the store, absolute */
	struct folder *images; /* NULL: not known */
	int dirfd;
	int lock; /* -1: none is needed or can be */
};

static void target_release(struct target *t)
{
	if (t->lock >= 0)
		close(t->lock);
	if (t->dirfd >= 0)
		close(t->dirfd);
	if (t->images)
		folder_close(t->images);
	free(t->path);
}

static int refuse_mount(const char *arg, const struct mount_entry *mount)
{
	char store[PATH_MAX] = "";
	ssize_t n = getxattr(mount->target, "user.goldfs.store", store, sizeof(store) - 1);

	if (n > 0)
		return cli_fail("\"%s\" is a mount; run \"goldfs scrub %s\" while it is in use, or unmount it and check its store \"%s\"",
			arg, mount->target, store);
	return cli_fail("\"%s\" is a mount; run \"goldfs scrub %s\" while it is in use, or unmount it and check its store",
		arg, mount->target);
}

static bool exists_in(const char *folder, const char *name)
{
	CLEANUP_FREE char *path = NULL;

	return asprintf(&path, "%s/%s", folder, name) >= 0 && access(path, F_OK) == 0;
}

static bool looks_like_store(const char *path)
{
	return exists_in(path, SUPER_PATH) || exists_in(path, SUPER_COPY_PATH) ||
	       (exists_in(path, "layer") && exists_in(path, "journal")) ||
	       exists_in(path, "catalog.0") || exists_in(path, "catalog.1");
}

/* The folder above, when the store is the one that a mount of it uses by itself. */
static void open_images(struct target *t)
{
	char *slash = strrchr(t->path, '/');

	if (!slash || slash == t->path || strcmp(slash + 1, STORE_NAME) != 0)
		return;
	*slash = '\0';
	if (folder_open(&t->images, t->path) < 0)
		t->images = NULL;
	*slash = '/';
}

/* Finds the store that arg means. Returns an exit status. */
static int find_store(const char *arg, struct target *t)
{
	struct mount_entry mount;
	char *inner = NULL;
	struct stat st;
	int r = mount_resolve(arg, &t->path);

	if (r < 0)
		return cli_fail("\"%s\": %s", arg, cli_reason(-r));
	if (mount_find(t->path, &mount) == 0) {
		bool ours = mount_is_goldfs(&mount);

		r = ours ? refuse_mount(arg, &mount) : EXIT_DONE;
		mount_entry_release(&mount);
		if (ours)
			return r;
	}
	if (stat(t->path, &st) < 0)
		return cli_fail("\"%s\": %s", arg, cli_reason(errno));
	if (!S_ISDIR(st.st_mode))
		return cli_fail("\"%s\" is not a folder; name the folder of a store", arg);
	if (access(t->path, R_OK | X_OK) < 0)
		return cli_fail("\"%s\": %s", arg, cli_reason(errno));
	if (!looks_like_store(t->path)) {
		if (asprintf(&inner, "%s/%s", t->path, STORE_NAME) < 0)
			return cli_fail("out of memory");
		if (!looks_like_store(inner)) {
			free(inner);
			return cli_fail("\"%s\" holds no store; name the folder given with -o store=DIR, or the images folder whose \"%s\" it is",
				arg, STORE_NAME);
		}
		fprintf(stderr, "goldfs: \"%s\" is a folder of images, checking its store \"%s\"\n",
			arg, inner);
		free(t->path);
		t->path = inner;
	}
	open_images(t);
	return EXIT_DONE;
}

static int in_use(const struct target *t, pid_t holder)
{
	if (holder > 0)
		return cli_fail("store \"%s\" is in use by process %d; run \"goldfs scrub\" on its mount, or unmount it first",
			t->path, (int)holder);
	return cli_fail("store \"%s\" is in use; run \"goldfs scrub\" on its mount, or unmount it first",
		t->path);
}

static int take_store(struct target *t, bool repair)
{
	pid_t holder = 0;

	t->dirfd = open(t->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (t->dirfd < 0)
		return cli_fail("\"%s\": %s", t->path, cli_reason(errno));
	t->lock = repair ? store_lock(t->dirfd, WAIT_SECONDS, &holder) :
			   store_lock_shared(t->dirfd, WAIT_SECONDS, &holder);
	if (t->lock == -EBUSY)
		return in_use(t, holder);
	if (t->lock < 0 && t->lock != -ENOENT)
		return cli_fail("cannot lock store \"%s\": %s", t->path, cli_reason(-t->lock));
	return EXIT_DONE;
}

/* ---- what was found ---- */

/* "a.img, b.img and 3 more", malloc'ed. */
static char *files_text(const struct check_finding *f)
{
	char *text = NULL;
	size_t len = 0;
	FILE *out = open_memstream(&text, &len);

	if (!out)
		return NULL;
	for (size_t i = 0; i < f->path_count && i < SHOWN_PATHS; i++)
		fprintf(out, "%s%s", i ? ", " : "", f->paths[i]);
	if (f->path_count > SHOWN_PATHS)
		fprintf(out, " and %zu more", f->path_count - SHOWN_PATHS);
	fclose(out);
	return text;
}

static const char *state_of(const struct check_finding *f, bool repaired)
{
	return f->repaired ? "repaired" : repaired ? "remains" : f->repairable ? "repairable" : "found";
}

static json_t *finding_json(const struct check_finding *f, bool repaired)
{
	json_t *row = json_object(), *paths = json_array();
	CLEANUP_FREE char *files = files_text(f);
	json_t *names = name_json(files ? files : "");

	json_object_set_new(row, "severity",
		json_string(f->severity == CHECK_DAMAGE ? "damage" : "note"));
	json_object_set_new(row, "state", json_string(state_of(f, repaired)));
	json_object_set_new(row, "structure", json_string(f->structure));
	json_object_set_new(row, "place", name_json(f->place));
	json_object_set_new(row, "offset", json_integer((json_int_t)f->offset));
	json_object_set_new(row, "length_bytes", json_integer((json_int_t)f->length));
	json_object_set_new(row, "problem", name_json(f->text));
	json_object_set_new(row, "files", names);
	for (size_t i = 0; i < f->path_count; i++)
		json_array_append_new(paths, name_json(f->paths[i]));
	json_object_set_new(row, "paths", paths);
	json_object_set_new(row, "paths_complete", json_boolean(!f->incomplete));
	json_object_set_new(row, "action", json_string(f->repaired ? "" : f->advice));
	return row;
}

static json_t *summary_json(const struct target *t, const struct check_report *r)
{
	json_t *summary = json_object();
	const struct {
		const char *key;
		uint64_t value;
	} numbers[] = {
		{"damaged", r->damaged},
		{"repaired", r->repaired},
		{"not_listed", r->suppressed},
		{"files", r->files},
		{"layers", r->layers},
		{"golden_images", r->golden_images},
		{"blocks", r->blocks},
		{"journaled_blocks", r->journaled_blocks},
		{"suspect_blocks", r->suspect_blocks},
		{"orphaned_files", r->orphaned_files},
		{"orphaned_bytes", r->orphaned_bytes},
		{"read_bytes", r->bytes_read},
	};

	json_object_set_new(summary, "store", name_json(t->path));
	for (size_t i = 0; i < ARRAY_SIZE(numbers); i++)
		json_object_set_new(summary, numbers[i].key,
			json_integer((json_int_t)numbers[i].value));
	if (r->saved)
		json_object_set_new(summary, "saved", json_string(r->saved));
	return summary;
}

/* Names may hold anything, also what drives a terminal. */
static void put_safely(FILE *out, const char *text)
{
	for (const unsigned char *p = (const unsigned char *)text; *p; p++) {
		if (*p < 0x20 || *p == 0x7f)
			fprintf(out, "\\x%02x", *p);
		else
			putc(*p, out);
	}
}

static void list_finding(FILE *out, const struct check_finding *f, bool repaired)
{
	CLEANUP_FREE char *files = files_text(f);
	char size[32];

	fprintf(out, "%s: %s", f->severity == CHECK_DAMAGE ? "damage" : "note", f->structure);
	if (*f->place) {
		fputs(" \"", out);
		put_safely(out, f->place);
		fprintf(out, "\" at %" PRIu64, f->offset);
		size_format(f->length, size, sizeof(size));
		if (f->length)
			fprintf(out, " (%s)", size);
	}
	fputs(": ", out);
	put_safely(out, f->text);
	if (f->repaired || repaired)
		fprintf(out, " [%s]", state_of(f, repaired));
	putc('\n', out);
	if (f->path_count) {
		fputs("    concerns: ", out);
		put_safely(out, files ? files : "");
		fputs(f->incomplete ? ", and perhaps others\n" : "\n", out);
	}
	if (*f->advice && !f->repaired)
		fprintf(out, "    to do: %s\n", f->advice);
}

static void list_summary(FILE *out, const struct target *t, const struct check_report *r)
{
	char size[32];

	size_format(r->bytes_read, size, sizeof(size));
	fputs("store \"", out);
	put_safely(out, t->path);
	fprintf(out, "\": %" PRIu64 " files, %" PRIu64 " layers, %" PRIu64
		     " blocks at rest and %" PRIu64 " in the journal, %s read\n",
		r->files, r->layers, r->blocks, r->journaled_blocks, size);
	size_format(r->orphaned_bytes, size, sizeof(size));
	if (r->orphaned_bytes || r->orphaned_files)
		fprintf(out, "%s and %" PRIu64 " files are referred to by nothing: that is no damage, "
			     "%s--repair frees them\n",
			size, r->orphaned_files, r->mount_frees ? "the next mount or " : "");
	if (r->suspect_blocks)
		fprintf(out, "%" PRIu64 " blocks were being overwritten when power was lost: old or "
			     "new, both are right\n", r->suspect_blocks);
	if (r->suppressed)
		fprintf(out, "%" PRIu64 " more findings are not listed\n", r->suppressed);
	if (r->saved)
		fprintf(out, "what was replaced is kept in \"%s\" in the store\n", r->saved);
	if (r->repaired)
		fprintf(out, "%" PRIu64 " repaired\n", r->repaired);
	if (r->damaged)
		fprintf(out, "%" PRIu64 " damaged\n", r->damaged);
	else
		fputs("no damage\n", out);
}

static int print_list(const struct target *t, const struct check_report *report, bool repaired)
{
	CLEANUP_FREE char *text = NULL;
	size_t len = 0;
	FILE *out = open_memstream(&text, &len);

	if (!out)
		return cli_fail("out of memory");
	for (size_t i = 0; i < report->count; i++)
		list_finding(out, &report->findings[i], repaired);
	list_summary(out, t, report);
	fclose(out);
	return cli_print(text, len);
}

static int print_rows(const struct target *t, const struct view *view,
	const struct check_report *report, bool repaired)
{
	json_t *rows = json_array(), *extra = json_object();
	int r;

	for (size_t i = 0; i < report->count; i++)
		json_array_append_new(rows, finding_json(&report->findings[i], repaired));
	json_object_set_new(extra, "summary", summary_json(t, report));
	r = view_print(view, columns, "findings", false, rows, extra);
	json_decref(extra);
	json_decref(rows);
	return r;
}

/* ---- the verb ---- */

static int show_progress(void *arg, uint64_t done, uint64_t total)
{
	static uint64_t shown;
	char a[32], b[32];

	if (done - shown < 16 * MIB && done < total)
		return 0;
	shown = done;
	size_format(done, a, sizeof(a));
	size_format(total, b, sizeof(b));
	fprintf(stderr, "\rcheck: %s of %s\033[K", a, b);
	return 0;
}

static int cannot_check(const struct target *t, int err)
{
	switch (err) {
	case -ENOENT:
		return cli_fail("\"%s\" holds no store: there is no superblock and there are no layers",
			t->path);
	case -EPROTONOSUPPORT:
		return cli_fail("store \"%s\" was written by a newer goldfs; install that version",
			t->path);
	default:
		return cli_fail("cannot check store \"%s\": %s", t->path, cli_reason(-err));
	}
}

static int run_check(struct target *t, const struct view *view, bool repair)
{
	bool terminal = isatty(STDERR_FILENO);
	struct check_options options = {
		.store_fd = t->dirfd,
		.images = t->images,
		.repair = repair,
		.progress = terminal ? show_progress : NULL,
	};
	struct check_report report;
	int fd = fcntl(t->dirfd, F_DUPFD_CLOEXEC, 0), r;

	r = fd < 0 ? -errno : io_posix_new(&options.io, fd);
	if (r)
		return cannot_check(t, r);
	r = check_store(&options, &report);
	options.io->ops->free(options.io);
	if (terminal)
		fputs("\r\033[K", stderr);
	if (r)
		r = cannot_check(t, r);
	else if (view->json || view->columns || view->sort || view->no_headings || view->bytes)
		r = print_rows(t, view, &report, report.saved != NULL);
	else
		r = print_list(t, &report, report.saved != NULL);
	if (r == EXIT_DONE && report.damaged)
		r = EXIT_DAMAGED;
	check_report_release(&report);
	return r;
}

int verb_check(int argc, char **argv)
{
	enum { REPAIR = VIEW_FIRST_FREE };
	static const struct option longs[] = {
		VIEW_LONG, {"repair", no_argument, NULL, REPAIR}, {NULL, 0, NULL, 0}};
	struct target target = {.dirfd = -1, .lock = -1};
	struct view view = {.json = false};
	bool repair = false;
	int opt, r;

	opterr = 0;
	while ((opt = getopt_long(argc, argv, ":" VIEW_SHORT, longs, NULL)) != -1) {
		if (opt == REPAIR)
			repair = true;
		else if (!view_option(&view, opt))
			return cli_bad_option("check", opt, argv);
	}
	if (argc - optind != 1)
		return cli_usage("check", "one store is needed");
	r = view_check(&view, "check", columns);
	if (r == EXIT_DONE)
		r = find_store(argv[optind], &target);
	if (r == EXIT_DONE)
		r = take_store(&target, repair);
	if (r == EXIT_DONE)
		r = run_check(&target, &view, repair);
	target_release(&target);
	return r;
}
