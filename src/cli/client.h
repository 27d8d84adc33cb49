/* SPDX-License-Identifier: MIT */
/*
 * Talking to a mount: which one a path lies in, and requests to its control file.
 *
 * The command line holds no state and opens no store; all it knows of goldfs it learns here.
 * Functions that return an exit status have said what went wrong when it is not EXIT_DONE.
 */
#ifndef GOLDFS_CLI_CLIENT_H
#define GOLDFS_CLI_CLIENT_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

/* A path and the mount that it lies in. Strings are owned. */
struct place {
	char *mountpoint; /* where the root of the mount is seen, absolute */
	char *path;	  /* below that root, "" for the root itself */
};

/* Where an existing path lies; symbolic links are followed with the user's own rights. */
int place_find(const char *path, struct place *place);
/* Where a path lies whose last name may not exist yet. */
int place_find_new(const char *path, struct place *place);
/* Where an existing path lies, or one whose last name is gone. */
int place_find_gone(const char *path, struct place *place);
/*
 * The paths of files that all lie in one mount, as requests carry them, added to a list. find:
 * place_find() or one like it. *mountpoint, NULL before, is that mount's, also when it failed for a
 * later path; owned by the caller.
 */
int places_gather(int count, char **typed, int (*find)(const char *path, struct place *place),
	json_t *paths, char **mountpoint);
/* path as place_find(); NULL: the mount of the working directory, else the only one there is. */
int place_mount(const char *verb, const char *path, struct place *place);
/* The mount of the working directory; false, without a word, when that is in none. */
bool place_working(struct place *place);
void place_release(struct place *place);

/* The mount points of all goldfs mounts, ended by NULL; client_mounts_free() frees them. */
char **client_mounts(void);
void client_mounts_free(char **mounts);

/* A path as requests carry it. */
json_t *client_path(const char *path);
/*
 * Sends a request, which is taken over, and returns the reply, owned by the caller. NULL: it
 * failed and that has been said.
 */
json_t *client_call(const char *mountpoint, json_t *request);
/* Says why there was no reply: err is a negative errno. Returns EXIT_FAILED. */
int client_lost(const char *mountpoint, int err);
/* Sends a request, which is taken over, and says nothing: 0 with a reply, perhaps to a request that
 * was refused, or a negative errno. Any thread. */
int client_try(const char *mountpoint, json_t *request, json_t **reply);
/* As client_call(), but returns the reply to a request that was refused too: client_is_done() tells. */
json_t *client_ask(const char *mountpoint, json_t *request);
bool client_is_done(const json_t *reply);
/* What stats.json of the mount says now; works on a read-only mount too. NULL as above. */
json_t *client_stats(const char *mountpoint);

#endif
