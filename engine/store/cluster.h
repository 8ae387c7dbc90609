/* The private PostgreSQL of an installation: made once with initdb under the data directory, on a
 * Unix socket only, with durable settings.
 *
 * Blocking on purpose: called by the supervisor before it serves, and by the command line. */
#pragma once

#include "core/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#define CLUSTER_SAME_USER ((uid_t)-1)

struct cluster_options {
    unsigned shared_buffers_mb; /* 0: a 32nd of the memory, 64 to 256 MB */
    unsigned connections;       /* 0: 200 */
};
/* For what is started from now on; NULL: the defaults. */
void cluster_configure(const struct cluster_options *o);

/* initdb below DIR/postgres, once; nothing when it is there.  uid, gid: the service user, or
 * CLUSTER_SAME_USER; PostgreSQL refuses to run as root. */
int cluster_init(const char *datadir, uid_t uid, gid_t gid, struct err *e);
/* Stops a postmaster that outlived its supervisor, writes the configuration and starts postgres;
 * does not wait until it answers.  The child ends when its parent does. */
int cluster_spawn(const char *datadir, uid_t uid, gid_t gid, pid_t *pid_r, struct err *e);
/* Init, spawn (again for up to 30 s while old backends hold the shared memory), wait until it
 * answers, create the database. */
int cluster_start(const char *datadir, uid_t uid, gid_t gid, pid_t *pid_r, struct err *e);
/* Ends the postmaster of the data directory, whoever started it, and waits.  fast: sessions are
 * ended but all is flushed; else at once, with recovery at the next start. */
int cluster_stop(const char *datadir, bool fast, struct err *e);
/* Is a postmaster running there? */
bool cluster_running(const char *datadir);

/* Connection string of the owner, e.g. for migrate_run() and db_open(). */
int cluster_conninfo(const char *datadir, char *out, size_t size, struct err *e);
/* Full path of a PostgreSQL program of the newest version >= 15. */
int cluster_program(const char *name, char *out, size_t size, struct err *e);

/* Runs a program as the service user (or CLUSTER_SAME_USER) and waits; its output is appended to
 * log_path.  argv[0] is its full path. */
int cluster_exec(const char *const *argv, uid_t uid, gid_t gid, const char *log_path,
                 struct err *e);

/* Proves that a database will do: version 15, UTF8, rights, fsync, full_page_writes,
 * synchronous_commit, no pooler in between; the text says what is wrong. */
int cluster_check(const char *conninfo, struct err *e);
