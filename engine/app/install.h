/* The data folder: who it belongs to, its lock, its database. */
#pragma once

#include "core/err.h"

#include <sys/types.h>

struct install {
    uid_t uid; /* service user, or -1 when we are not root */
    gid_t gid;
    pid_t postgres; /* of the embedded database that this process started, or 0 */
    char conninfo[1200];
};

/* Makes DATA and its folders for the service user. */
int install_prepare(struct install *in, struct err *e);
/* Only one server a data folder: held until the process ends.  EXISTS. */
int install_lock(struct err *e);
/* Starts the embedded database, or checks the one of --dsn, and migrates it. */
int install_database(struct install *in, struct err *e);
/* Process id of a running server, or 0. */
pid_t install_server_pid(void);
int install_write_pid(struct err *e);
