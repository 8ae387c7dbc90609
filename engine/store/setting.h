/* Typed settings: rows of the `setting` table with description, type and default (sql/seed.sql),
 * cached per worker under a generation number of the shared segment. */
#pragma once

#include "core/arena.h"
#include "core/err.h"
#include "core/str.h"

/* Names are dotted and lower case: "smtp.max_message_size".  Asking for a name that seed.sql does
 * not declare is a bug (assert).  The cache is filled by setting_load() before the first use and
 * refreshed in the background when the generation moved, so these never wait. */
int64_t setting_int(const char *name);
bool setting_bool(const char *name);
struct str setting_str(const char *name); /* valid until the next loop turn: copy to keep */

/* Loads all; in a task.  Call at start and whenever setting_stale(). */
int setting_load(struct err *e);
bool setting_stale(void);
/* Checks type and range, stores, bumps the generation.  NOTFOUND, SYNTAX. */
int setting_set(struct str name, struct str value, struct str who, struct err *e);
/* For the command line and pages: one line each, in the caller's arena. */
struct setting_info {
    struct str name, type, value, fallback, description;
    bool is_default;
};
int setting_list(struct arena *a, struct str glob, struct setting_info **v_r, uint32_t *n_r,
                 struct err *e);
