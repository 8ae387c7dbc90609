/* Releases in the database; see release.c.  Everything but open and close runs in a task. */
#pragma once

#include "script/script.h"

struct release;

void release_open(bool safe);
void release_close(void);
/* Reads the active release when this process does not have it yet. */
int release_load(struct err *e);
/* A new version of the engine: when the active release ran with other shipped files than ours,
 * makes one of the same site files with ours. */
int release_ship(struct err *e);

/* `name`: as chunk_name() made it.  Checks nothing: script.c does. */
int release_put(struct str name, struct str text, struct str who, struct str note,
                uint64_t *release_r, struct err *e);
int release_drop(struct str name, struct str who, struct str note, uint64_t *release_r,
                 struct err *e);
int release_rollback(uint64_t id, struct str who, uint64_t *release_r, struct err *e);
int release_text(struct str name, struct arena *a, struct str *text_r, struct err *e);
int release_files(struct arena *a, struct script_info **v_r, uint32_t *n_r, struct err *e);
int release_history(struct arena *a, struct script_release **v_r, uint32_t *n_r, struct err *e);
