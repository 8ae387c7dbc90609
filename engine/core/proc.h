/* Processes: identity, limits, capabilities. */
#pragma once

#include "core/err.h"

#include <stdbool.h>
#include <sys/types.h>

/* Service user's ids; NOTFOUND with a text that says how to make it. */
int proc_lookup_user(const char *name, uid_t *uid_r, gid_t *gid_r, struct err *e);
/* From root to the service user for good; keeps the right to bind low ports if asked to. */
int proc_drop(const char *name, uid_t uid, gid_t gid, bool keep_bind, struct err *e);
/* no_new_privs, no capabilities, no core dumps. */
void proc_harden(void);
/* Raises RLIMIT_NOFILE as far as it goes; returns it. */
unsigned long proc_raise_files(void);
/* Are FD_FULL_PERCENT of the descriptors in use?  Looked up at most once a second. */
bool proc_files_full(void);
/* Makes a folder (0700) with its parents, owned by uid when that is not -1. */
int proc_make_folder(const char *path, uid_t uid, gid_t gid, struct err *e);
