/* Heads and stored part trees of many messages at once, for FETCH BODYSTRUCTURE over ranges. */
#pragma once

#include "core/arena.h"
#include "core/err.h"
#include "core/str.h"

#include <stdint.h>

struct message_tree {
    struct str head;      /* the header section; n == 0: the message is gone */
    struct str structure; /* packed (mail/structure.h); may be empty */
};
/* In a task.  One query; strings live in the arena. */
int message_trees(const uint64_t *heads, uint32_t n, struct arena *a, struct message_tree *out,
                  struct err *e);
