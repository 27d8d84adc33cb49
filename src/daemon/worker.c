/* SPDX-License-Identifier: MIT */
/* See worker.h. What is made first goes last; the FUSE server owes answers to fsync requests until
 * the core is closed, so its threads end before that and its connection after. */
#include "daemon/worker.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/io.h"
#include "base/log.h"
#include "core/fs.h"
#include "daemon/logging.h"
#include "fuse/fuse_server.h"
#include "image/folder.h"
#include "service/service.h"

struct worker {
	const struct mount_config *config; /* lent */
	struct io *io;
	struct folder *images;
	struct fuse_server *server;
	struct fs *fs;
	struct service *service;
};

/* The sentence for an error of fs_open(). */
static int explain(const struct mount_config *config, int err, struct failure *failure)
{
	const char *store = config->store;

	switch (err) {
	case -EPROTONOSUPPORT:
		return fail(failure, err,
			"store \"%s\" was written by a newer goldfs; install that version to mount it",
			store);
	case -EUCLEAN:
		return fail(failure, err,
			"store \"%s\" is damaged, %s says where; restore it from a backup",
			store, logging_place());
	case -EROFS:
		return fail(failure, err, "store \"%s\" must be written to be opened; mount it without -o ro",
			store);
	default:
		return fail(failure, err, "cannot open store \"%s\": %s", store, why(err));
	}
}

/* Builds for tests have a switch that makes contents collide; see tests/mount/collisions.sh. */
static unsigned hash_bits(void)
{
#ifdef GF_INVARIANTS
	const char *bits = getenv("GOLDFS_TEST_HASH_BITS");

	return bits ? (unsigned)strtoul(bits, NULL, 10) % 32 : 0;
#else
	return 0;
#endif
}

static int open_core(struct worker *worker, const struct worker_hooks *hooks,
	struct failure *failure)
{
	const struct mount_config *config = worker->config;
	size_t kept_len;
	const void *kept = handover_notes(hooks->handover, &kept_len);
	const struct fs_options options = {
		.takeover = hooks->takeover,
		.kept = kept,
		.kept_len = kept_len,
		.connection = handover_connection(hooks->handover),
		.in_flight = handover_in_flight(hooks->handover),
		.journal_size = config->journal_size,
		.reserve = config->reserve,
		.read_only = config->read_only,
		.verify_reads = config->verify_reads,
		.dedup = (enum fs_dedup)config->dedup,
		.dedup_memory = config->dedup_memory,
		.hash_bits = hash_bits(),
		.hooks = {.invalidate = fuse_server_invalidate,
			.is_known = fuse_server_is_known,
			.keep = fuse_server_keep,
			.arg = worker->server},
		.images = worker->images,
		.store_fd = io_posix_dirfd(worker->io),
	};
	int r = fs_open(&worker->fs, worker->io, &options);

	return r < 0 ? explain(config, r, failure) : 0;
}

static int open_service(struct worker *worker, const struct worker_hooks *hooks,
	struct failure *failure)
{
	const struct mount_config *config = worker->config;
	const struct service_info info = {
		.mountpoint = config->mountpoint,
		.images = config->images,
		.store = config->store,
		.owner_uid = getuid(),
		.owner_gid = getgid(),
		.daemon = hooks->figures,
		.last_job = &handover_figures(hooks->handover)->last_job,
		.upgrade = hooks->upgrade,
		.arg = hooks->arg,
		.clone_metrics = config->clone_metrics,
		.read_only = config->read_only,
	};
	int r = service_new(&worker->service, worker->fs, &info);

	return r < 0 ? fail(failure, r, "cannot start: %s", why(r)) : 0;
}

static int open_server(struct worker *worker, const struct worker_hooks *hooks,
	struct failure *failure)
{
	const struct fuse_server_options options = {
		.threads = worker->config->threads,
		.no_busy_poll = worker->config->no_busy_poll,
		.store = worker->config->store,
		.handover = hooks->handover,
		.takeover = hooks->takeover,
		.ready = hooks->ready,
		.ended = hooks->ended,
		.arg = hooks->arg,
	};
	int r = fuse_server_new(&worker->server, &options);

	return r < 0 ? fail(failure, r, "cannot start: %s", why(r)) : 0;
}

int worker_open(struct worker **out, const struct mount_config *config, int store_fd,
	const struct worker_hooks *hooks, struct failure *failure)
{
	struct worker *worker = calloc(1, sizeof(*worker));
	int r;

	if (!worker) {
		close(store_fd);
		return fail(failure, -ENOMEM, "out of memory");
	}
	worker->config = config;
	r = folder_open(&worker->images, config->images);
	if (r < 0)
		fail(failure, r, "images folder \"%s\": %s", config->images, why(r));
	if (r == 0)
		r = open_server(worker, hooks, failure);
	if (r == 0) {
		r = io_posix_new(&worker->io, store_fd);
		if (r < 0)
			fail(failure, r, "store \"%s\": %s", config->store, why(r));
		else
			store_fd = -1;
	}
	if (r == 0)
		r = open_core(worker, hooks, failure);
	if (r == 0)
		r = open_service(worker, hooks, failure);
	if (r < 0) {
		if (store_fd >= 0)
			close(store_fd);
		worker_close(worker);
		return r;
	}
	*out = worker;
	return 0;
}

int worker_serve(struct worker *worker, int fuse_fd, struct failure *failure)
{
	int r = fuse_server_start(worker->server, fuse_fd, worker->fs, worker->service);

	return r < 0 ? fail(failure, r, "cannot serve \"%s\": %s", worker->config->mountpoint,
				why(r))
		     : 0;
}

void worker_tick(struct worker *worker)
{
	fuse_server_tick(worker->server);
	service_tick(worker->service);
}

void worker_stop(struct worker *worker)
{
	fuse_server_stop(worker->server);
}

int worker_close(struct worker *worker)
{
	int r = 0;

	if (worker->server)
		fuse_server_stop(worker->server);
	service_free(worker->service);
	if (worker->fs)
		r = fs_close(worker->fs);
	if (r < 0)
		log_error(r, "store \"%s\" could not be closed in order; the next mount recovers it",
			worker->config->store);
	fuse_server_free(worker->server);
	if (worker->images)
		folder_close(worker->images);
	if (worker->io)
		worker->io->ops->free(worker->io);
	free(worker);
	return r;
}
