/* SPDX-License-Identifier: MIT */
/*
 * The protocol of .goldfs/control.
 *
 * A client opens the file, writes one request with one write(2) and reads one reply from the same
 * descriptor until it reads nothing. Both are JSON objects (UTF-8).
 *
 * Request: "verb" and the keys of that verb. An unknown key is an error: it might have meant
 * something. Every request may have "client", a string of at most 128 bytes that names this
 * request for ever, with the caller's uid: when the same one comes again because its reply was lost
 * with a worker process, what it did is not done a second time (core/request.c), and it is answered
 * as done.
 *
 * A descriptor that was opened before a worker died answers ESTALE: open the file again, and send
 * the same request under the same name. Jobs die with their worker: asked about one of an earlier
 * worker, job-show, job-wait and job-cancel fail with EINTR.
 *
 * Reply: {"status":0, ...} when it was done, {"status":1,"errno":"EEXIST","error":"message"} when
 * not; then nothing was changed, except where the message says so. errno is the name of the error
 * that the equivalent system call would give, EINVAL for a request that is not understood.
 *
 * Paths start at the mount's root, with or without a leading slash; ".." and symbolic links on the
 * way are refused. A path that is not UTF-8 is sent as {"escaped": "a%FFb"}; in replies it stands
 * percent-escaped. Sizes are bytes.
 *
 * | verb       | keys                                          | reply                        |
 * | ---------- | --------------------------------------------- | ---------------------------- |
 * | clone      | source; targets [path, ...], or folder,       | clones: how many were made;  |
 * |            | pattern, count, start (1); mode ("snapshot"), | job, when mode is another    |
 * |            | replace (false), opaque (false), umask (18)   |                              |
 * | snapshot-  |                                               |                              |
 * |  create    | paths [path, ...], name                       | snapshots: how many          |
 * |  list      | path                                          | goldfs [{...}, ...], as list |
 * |            |                                               | and name, parent, automatic, |
 * |            |                                               | current                      |
 * |  rollback  | path, name, force (false)                     | kept: the name of what shows |
 * |            |                                               | what was; automatic          |
 * |  delete    | path; names [name, ...], or automatic (false),| deleted; with dry_run        |
 * |            | older_than (0) seconds; dry_run (false)       | goldfs, if_removed_bytes     |
 * |  rename    | path, name, to                                | renamed                      |
 * | remove     | path: a clone and its snapshots               | removed                      |
 * | refresh    | paths [path, ...], golden, force (false),     | refreshed: how many          |
 * |            | opaque (false)                                |                              |
 * | list       | path (""), types ["golden", "clone",          | goldfs [{...}, ...]          |
 * |            | "snapshot", "folder"]                         |                              |
 * | stat       | paths [path, ...], if_removed (false)         | goldfs [{...}, ...],         |
 * |            |                                               | if_removed_bytes             |
 * | df         |                                               | store {...}                  |
 * | top        | all (false)                                   | see below                    |
 * | settle     | background (false)                            | job: its id                  |
 * | scrub      | background (false)                            | job: its id                  |
 * | rebase     | paths [path, ...], onto, rate (0)             | job: its id                  |
 * | convert    | paths [path, ...], mode, onto (none), rate (0)| job: its id                  |
 * | upgrade-base | old, new, dry_run (false), rate (0)         | job: its id                  |
 * | upgrade    | ticket: a number; binary (""), own: absolute  | see below                    |
 * | job-list   |                                               | jobs [{...}, ...]            |
 * | job-show   | id                                            | job {...}                    |
 * | job-wait   | id, timeout_ms (for ever)                     | job {...}, running or ended  |
 * | job-cancel | id                                            | job {...}                    |
 *
 * A request is carried out for who writes it, and only who opened the descriptor may: write(2) gives
 * EPERM to another user or group.
 *
 * Who may: clone needs what open(source, O_RDONLY) and creating the targets need; the new files
 * belong to the caller (and to the folder's group where the folder is set-group-ID) and get the
 * source's permissions less umask, as with cp. A snapshot is made, deleted and renamed by the owner of
 * the file, and by who may read the clone and make files in its folder, or remove the snapshot from
 * there if it were in that; rollback and refresh need write permission on the clone, and read permission
 * on what it becomes; remove, what unlink(2) of the clone needs and the right to delete all its
 * snapshots. list and stat need search permission on the folders
 * of a path, list and top leave out folders that the caller may not read and search. df is everyone's.
 * rebase and convert need write permission on the clones and read permission on the image; upgrade-base
 * takes the clones for which that is so. The report of its job (job-show) is a list of objects: path,
 * unique_bytes before, gain_bytes, error.
 * settle, scrub and upgrade are root's and the mount owner's. A job is seen and cancelled by who started it, by root
 * and by the mount's owner.
 *
 * top replies with goldfs [{...}, ...], the clones that were read, written or flushed since this worker
 * serves, or all of them: "ino", which no other file will ever have, "path", "virtual_bytes",
 * "unique_bytes" and "shared_bytes", the counters of FS_IO (core/fs.h), and "read_latency",
 * "write_latency" and "flush_latency": the number of the first bucket (base/latency.h) that is not
 * empty, and the counts from there on, modulo 2^32. Further store {...}, jobs: how many run, time_ns: a
 * clock that does not jump, and counting_since: the same clock when the counters began. When that has
 * changed, another worker serves, and they began at 0. What is shared, and the store, may be somewhat
 * older than the rest.
 *
 * upgrade, once for each ticket, has another program serve the mount: binary or, without it, the file that the mount was
 * started from when it was replaced since, else own. The reply comes before it has begun, for the
 * worker that gives it will not be there to say how it ended: that is told by daemon.last_upgrade
 * of stats.json, once its ticket is that one and its state is not "running".
 */
#ifndef GOLDFS_SERVICE_CONTROL_H
#define GOLDFS_SERVICE_CONTROL_H

#include <sys/ioctl.h>

/* Longest request, bytes. */
#define CONTROL_REQUEST_MAX (1u << 20)
/* Most clones that one request makes. */
/* On a read-only mount nothing can be opened for writing: a request of less than 8 KiB, padded with
 * zeros, can be handed over by this ioctl(2) on a descriptor open for reading. */
#define CONTROL_IOCTL_MAX 8192u
#define CONTROL_IOCTL _IOC(_IOC_WRITE, 'g', 1, CONTROL_IOCTL_MAX)
#define CONTROL_CLONES_MAX 100000u
#define CONTROL_CLIENT_MAX 128u

#endif
