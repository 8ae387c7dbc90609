/* The batch as it travels: shared by deliver.c (forming, certainty) and deliver_write.c (SQL). */
#pragma once

#include "store/deliver.h"
#include "store/pg.h"

struct task;

struct pending {
    struct pending *next;
    struct deliver_message *m;
    struct task *task;
    uint64_t body, heads; /* ids; heads are consecutive */
    struct str structure; /* packed part tree; lives with the stage */
    uint32_t head_rows;   /* with the heads as received */
    size_t bytes;
    bool done;
    int rc;
    struct err err;
};

/* Queues all statements of these messages on the connection; pg_run() then commits them. */
int deliver_write(struct pg *c, struct arena *a, struct pending *const *v, uint32_t n,
                  struct err *e);

/* Did messages that fit into one statement come within the last moments? */
bool deliver_busy(void);
