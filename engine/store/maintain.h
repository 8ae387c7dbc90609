/* Housekeeping of the store: counters, removed bodies, partitions, the recycle bin. */
#pragma once

#include "core/err.h"

#include <stdint.h>

/* One round; called about once a minute, in a task, by the process that holds the lease row of the
 * jobs.  Each step is a transaction of its own and goes on where the last round stopped. */
int store_maintain(struct err *e);

/* The lease row `name` for `seconds`: *epoch_r counts holders.  DENIED while another holds it.
 * Renewing is the same call; a job's own transaction may check the epoch. */
int lease_take(const char *name, const char *holder, unsigned seconds, uint64_t *epoch_r,
               struct err *e);
void lease_drop(const char *name, const char *holder);
