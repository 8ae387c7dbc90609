/* A worker: one loop, one Lua state, a pool of database connections, and the roles it was given. */
#pragma once

enum { ROLE_MAIL = 1, ROLE_WEB = 2, ROLE_JOBS = 4 };

struct worker_start {
    unsigned number; /* mail worker: index of its sockets */
    unsigned column; /* of the shared segment */
    unsigned roles;
    int bus; /* our end, or -1 */
    const char *conninfo;
};

/* Runs until told to stop (SIGTERM) and returns the exit status.  SIGHUP reloads certificates. */
int worker_main(const struct worker_start *w);
