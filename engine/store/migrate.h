/* Schema migrations: sql/migrations in order, grants, seed rows, ledger partitions.
 *
 * Blocking on purpose: runs as the database's owner before anything is served, in a helper process
 * or the command line, never on the loop. */
#pragma once

#include "core/err.h"

/* Brings the database of `conninfo` up to date.  Safe to run from several processes at once. */
int migrate_run(const char *conninfo, struct err *e);
