/* SPDX-License-Identifier: MIT */
/*
 * Control requests: reading them, checking their shape, handing them to their verb, replying.
 *
 * Everyone who can open the control file can send anything, so nothing is believed: length and
 * nesting are bounded before and by the parser, duplicate and unknown keys are refused, every field
 * is taken through one of the functions below that check its type. A verb sees a caller whose
 * groups were looked up and fields that have the type it asks for; it changes nothing before all of
 * them are read. The protocol itself is described in service/control.h.
 *
 * Replies are written as text member by member: a list of a hundred thousand clones as a tree of
 * JSON values would need several times the memory.
 */
#include "service/control.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/hash.h"
#include "base/sizes.h"
#include "base/times.h"
#include "core/fs.h"
#include "service/internal.h"
#include "service/names.h"

#define NESTING_MAX 8

static const struct {
	const char *name;
	const char *keys; /* space separated, beside "verb" and "client" */
	int (*run)(struct request *rq);
} verbs[] = {
	{"clone", "source targets folder pattern count start mode replace opaque umask",
		control_clone},
	{"snapshot-create", "paths name", control_snapshot_create},
	{"snapshot-list", "path", control_snapshot_list},
	{"snapshot-rollback", "path name force", control_snapshot_rollback},
	{"snapshot-delete", "path names automatic older_than dry_run", control_snapshot_delete},
	{"snapshot-rename", "path name to", control_snapshot_rename},
	{"remove", "path", control_remove},
	{"refresh", "paths golden force opaque", control_refresh},
	{"list", "path types", control_list},
	{"stat", "paths if_removed", control_stat},
	{"df", "", control_df},
	{"top", "all", control_top},
	{"settle", "background", control_settle},
	{"scrub", "background", control_scrub},
	{"dedup", "paths", control_dedup},
	{"dedup-set", "path policy domain", control_dedup_set},
	{"limit", "path bytes", control_limit},
	{"promote", "source name path action rate", control_promote},
	{"rebase", "paths onto rate", control_rebase},
	{"convert", "paths mode onto rate", control_convert},
	{"upgrade-base", "old new dry_run rate", control_upgrade_base},
	{"upgrade", "binary own ticket", control_upgrade},
	{"job-list", "", control_job_list},
	{"job-show", "id", control_job_show},
	{"job-wait", "id timeout_ms", control_job_wait},
	{"job-cancel", "id", control_job_cancel},
};

/* ---- failures ---- */

int request_fail(struct request *rq, int err, const char *fmt, ...)
{
	va_list args;

	if (rq->error)
		return rq->error;
	va_start(args, fmt);
	if (vasprintf(&rq->message, fmt, args) < 0)
		rq->message = NULL;
	va_end(args);
	rq->error = err;
	return err;
}

char *request_name(struct request *rq, const char *path)
{
	CLEANUP_FREE char *text = NULL;
	char *name;

	while (*path == '/')
		path++;
	text = name_text(path);
	if (!text || asprintf(&name, "%s%s%s", rq->service->info.mountpoint, *text ? "/" : "",
			     text) < 0)
		return NULL;
	return name;
}

int request_fail_path(struct request *rq, int err, const char *what, const char *path)
{
	CLEANUP_FREE char *text = request_name(rq, path);
	const char *reason = strerror(-err);

	return request_fail(rq, err, "%s \"%s\": %c%s", what, text ? text : "",
		tolower((unsigned char)*reason), reason + 1);
}

/* ---- fields ---- */

static int field(struct request *rq, const char *key, bool optional, json_t **value)
{
	*value = json_object_get(rq->args, key);
	if (!*value && !optional)
		return request_fail(rq, -EINVAL, "the request has no \"%s\"", key);
	return 0;
}

static int wrong_type(struct request *rq, const char *key, const char *wanted)
{
	return request_fail(rq, -EINVAL, "\"%s\" of the request is not %s", key, wanted);
}

int request_string(struct request *rq, const char *key, bool optional, const char **value)
{
	json_t *json;

	if (field(rq, key, optional, &json) < 0)
		return rq->error;
	if (json && !json_is_string(json))
		return wrong_type(rq, key, "a string");
	if (json)
		*value = json_string_value(json);
	return 0;
}

int request_bool(struct request *rq, const char *key, bool *value)
{
	json_t *json = json_object_get(rq->args, key);

	if (json && !json_is_boolean(json))
		return wrong_type(rq, key, "true or false");
	if (json)
		*value = json_is_true(json);
	return 0;
}

int request_number(struct request *rq, const char *key, bool optional, uint64_t max,
	uint64_t *value)
{
	json_t *json;

	if (field(rq, key, optional, &json) < 0)
		return rq->error;
	if (!json)
		return 0;
	if (!json_is_integer(json) || json_integer_value(json) < 0)
		return wrong_type(rq, key, "a number that counts");
	*value = (uint64_t)json_integer_value(json);
	if (*value > max)
		return request_fail(rq, -EINVAL, "\"%s\" of the request is above %" PRIu64, key,
			max);
	return 0;
}

int request_path_value(struct request *rq, const char *key, json_t *value, char **path)
{
	const char *escaped;

	if (json_is_string(value)) {
		*path = strdup(json_string_value(value));
	} else if (json_is_object(value) && json_object_size(value) == 1 &&
		(escaped = json_string_value(json_object_get(value, "escaped")))) {
		*path = name_unescape(escaped);
		if (!*path)
			return wrong_type(rq, key, "escaped as it should be");
	} else {
		return wrong_type(rq, key, "a path");
	}
	if (!*path)
		return request_fail(rq, -ENOMEM, "out of memory");
	if (strlen(*path) < 4096)
		return 0;
	free(*path);
	*path = NULL;
	return request_fail(rq, -ENAMETOOLONG, "\"%s\" of the request is too long a path", key);
}

int request_path(struct request *rq, const char *key, char **path)
{
	json_t *json;

	if (field(rq, key, false, &json) < 0)
		return rq->error;
	return request_path_value(rq, key, json, path);
}

int request_list(struct request *rq, const char *key, json_t **list)
{
	if (field(rq, key, false, list) < 0)
		return rq->error;
	if (!json_is_array(*list) || json_array_size(*list) == 0)
		return wrong_type(rq, key, "a list with something in it");
	return 0;
}

/* ---- what verbs share ---- */

int request_reply(struct request *rq, const char *key, json_t *value)
{
	const size_t flags = JSON_COMPACT | JSON_ENCODE_ANY | JSON_REAL_PRECISION(6);
	int r = 0;

	fprintf(rq->out, ",\"%s\":", key);
	if (!value || json_dumpf(value, rq->out, flags) < 0)
		r = request_fail(rq, -ENOMEM, "out of memory");
	json_decref(value);
	return r;
}

int request_walk(struct request *rq, const char *path, struct node *node)
{
	static const char own[] = ".goldfs";
	const char *first = path + strspn(path, "/");
	int r = node_walk(rq->service->fs, &rq->access, path, node);

	/* It exists for everyone who looks; the core just does not know it. */
	if (r == -ENOENT && strncmp(first, own, strlen(own)) == 0 &&
		(!first[strlen(own)] || first[strlen(own)] == '/'))
		r = -EPERM;
	return r < 0 ? request_fail_path(rq, r, "cannot use", path) : 0;
}

bool request_is_owner(const struct request *rq)
{
	return rq->access.uid == 0 || rq->access.uid == rq->service->info.owner_uid;
}

int request_owner_only(struct request *rq)
{
	if (request_is_owner(rq))
		return 0;
	return request_fail(rq, -EPERM, "only root and the owner of the mount may do this");
}

/* ---- the request as a whole ---- */

/*
 * Counts brackets outside of strings. The parser has a limit of its own, but that is deep enough
 * to be felt on a small stack.
 */
static bool nested_too_deep(const char *text, size_t len)
{
	bool in_string = false;
	int depth = 0;

	for (size_t i = 0; i < len; i++) {
		if (in_string) {
			if (text[i] == '\\')
				i++;
			else if (text[i] == '"')
				in_string = false;
		} else if (text[i] == '"') {
			in_string = true;
		} else if (text[i] == '{' || text[i] == '[') {
			if (++depth > NESTING_MAX)
				return true;
		} else if (text[i] == '}' || text[i] == ']') {
			depth--;
		}
	}
	return false;
}

static int parse(struct request *rq, const char *text, size_t len)
{
	json_error_t error;

	if (len > CONTROL_REQUEST_MAX)
		return request_fail(rq, -E2BIG, "the request is longer than %u bytes",
			CONTROL_REQUEST_MAX);
	if (nested_too_deep(text, len))
		return request_fail(rq, -EINVAL, "the request is nested too deeply");
	rq->args = json_loadb(text, len, JSON_REJECT_DUPLICATES, &error);
	if (!rq->args)
		return request_fail(rq, -EINVAL, "the request is not JSON, line %d column %d",
			error.line, error.column);
	if (!json_is_object(rq->args))
		return request_fail(rq, -EINVAL, "the request is not a JSON object");
	return 0;
}

/* Whether word is one of the space separated words. */
static bool has_word(const char *words, const char *word)
{
	size_t len = strlen(word);

	if (!len || strchr(word, ' '))
		return false;
	for (const char *p = words; (p = strstr(p, word)) != NULL; p += len)
		if ((p == words || p[-1] == ' ') && (p[len] == ' ' || p[len] == '\0'))
			return true;
	return false;
}

static int check_keys(struct request *rq, const char *allowed)
{
	CLEANUP_FREE char *text = NULL;
	const char *key;
	json_t *value;

	json_object_foreach(rq->args, key, value) {
		if (strcmp(key, "verb") == 0 || strcmp(key, "client") == 0 ||
			has_word(allowed, key))
			continue;
		text = name_escape(key);
		return request_fail(rq, -EINVAL, "the request has an unknown key \"%.64s\"",
			text ? text : "");
	}
	return 0;
}

/* What the core knows a request by. Another user's request of the same name is another one. */
static void name_request(const struct request *rq, const char *client, struct fs_request *name)
{
	char text[CONTROL_CLIENT_MAX + 32];

	for (int i = 0; i < 2; i++) {
		int len = snprintf(text, sizeof(text), "%d %u %s", i, rq->access.uid, client);

		name->id[i] = hash_struct(text, (size_t)len);
	}
	name->client = true;
	name->again = true; /* it may be, nobody says */
}

static int run_verb(struct request *rq, int (*run)(struct request *rq), const char *client)
{
	struct fs_request name = {.outer = NULL};
	int r;

	if (!*client)
		return run(rq);
	name_request(rq, client, &name);
	fs_request_begin(rq->service->fs, &name);
	r = run(rq);
	fs_request_end(rq->service->fs, &name);
	return r;
}

static int dispatch(struct request *rq)
{
	CLEANUP_FREE char *text = NULL;
	const char *client = "";
	const char *verb = NULL;

	if (request_string(rq, "verb", false, &verb) < 0 ||
		request_string(rq, "client", true, &client) < 0)
		return rq->error;
	if (strlen(client) > CONTROL_CLIENT_MAX)
		return request_fail(rq, -EINVAL, "\"client\" of the request is too long");
	for (size_t i = 0; i < ARRAY_SIZE(verbs); i++) {
		if (strcmp(verb, verbs[i].name) != 0)
			continue;
		if (check_keys(rq, verbs[i].keys) < 0)
			return rq->error;
		return run_verb(rq, verbs[i].run, client);
	}
	text = name_escape(verb);
	return request_fail(rq, -EOPNOTSUPP, "the mount knows no verb \"%.64s\"", text ? text : "");
}

/* The reply to a failure; there is one even when the message was lost for want of memory. */
static int error_reply(const struct request *rq, char **reply, size_t *len)
{
	const char *name = strerrorname_np(-rq->error);
	json_t *json = json_pack("{s:i, s:s, s:s}", "status", 1, "errno", name ? name : "EIO",
		"error", rq->message ? rq->message : "out of memory");

	if (!json) /* a message that is not UTF-8 */
		json = json_pack("{s:i, s:s, s:s}", "status", 1, "errno", name ? name : "EIO",
			"error", "the request failed");
	*reply = json ? json_dumps(json, JSON_COMPACT) : NULL;
	json_decref(json);
	if (!*reply)
		return -ENOMEM;
	*len = strlen(*reply);
	return 0;
}

int service_control(struct service *service, const struct service_caller *caller,
	const char *request, size_t len, char **reply, size_t *reply_len)
{
	struct request rq = {.service = service, .began_ns = times_now(CLOCK_MONOTONIC)};
	int failed;
	int r;

	*reply = NULL;
	rq.out = open_memstream(reply, reply_len);
	if (!rq.out)
		return -ENOMEM;
	fputs("{\"status\":0", rq.out);
	r = access_init(&rq.access, caller);
	if (r == 0)
		r = parse(&rq, request, len);
	if (r == 0)
		r = dispatch(&rq);
	putc('}', rq.out);
	failed = ferror(rq.out);
	failed |= fclose(rq.out);
	if (failed && r == 0)
		r = -ENOMEM;
	if (r < 0) {
		free(*reply);
		request_fail(&rq, r, "the request failed: %s", strerror(-r));
		r = error_reply(&rq, reply, reply_len);
	}
	json_decref(rq.args);
	access_release(&rq.access);
	free(rq.message);
	return r;
}
