/* Whole copies of the database, and back.
 *
 * Blocking: for the command line, never on the loop. */
#pragma once

#include "core/err.h"

#include <sys/types.h>

/* A base backup with the log it needs, into a folder that is empty or does not exist.  Works while
 * the server runs; the user of `conninfo` needs the right of replication. */
int backup_run(const char *conninfo, const char *dir, struct err *e);
/* Makes the private PostgreSQL of a data directory that has none yet from such a folder.  Every
 * uidnext is raised by 2^20 and every highestmodseq by 2^32, because clients may have seen what
 * came after the backup; the server is left stopped. */
int backup_restore(const char *dir, const char *datadir, uid_t uid, gid_t gid, struct err *e);
