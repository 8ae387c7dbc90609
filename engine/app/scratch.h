/* The scratch process: where administrators' runs and tests of scripts happen.
 *
 * It is this program again, in a process of its own with low priority, no rights, limits on memory
 * and computing time, and an end by the clock; whatever a script does there, no mail waits for it.
 */
#pragma once

#include "core/err.h"
#include "core/str.h"
#include "script/script.h"

#include <stdint.h>

enum scratch_kind { SCRATCH_RUN, SCRATCH_TEST, SCRATCH_TRY };

struct scratch_job {
    enum scratch_kind kind;
    struct str name; /* RUN, TRY: of the script; TEST: file or folder */
    struct str text; /* RUN, TRY: p == NULL: the stored text, or its removal */
    void (*print)(void *ctx, struct str out);
    void *ctx;
    uint64_t wall_seconds;            /* 0: SCRATCH_WALL_SECONDS */
    struct script_test_result result; /* TEST, TRY: filled in */
};

/* What the process needs to reach the database. */
void scratch_prepare(const char *conninfo);
/* In a task: returns when the process has ended.  -1: it could not be done, or the script failed.
 */
int scratch_run(struct scratch_job *job, struct err *e);
/* script_on_try(): tests of saved scripts run in a scratch process. */
int scratch_try(struct str name, struct str text, void (*print)(void *ctx, struct str out),
                void *ctx, struct script_test_result *r, struct err *e);
/* The process itself: `moonpost scratch`, started with its request on descriptor 3. */
int scratch_main(void);
