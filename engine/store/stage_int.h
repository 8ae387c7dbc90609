/* A staged body as the commit sees it. */
#pragma once

#include "mail/mime.h"
#include "store/deliver.h"

struct stage {
    uint64_t size;
    char *bytes; /* not yet written */
    size_t used, room;
    uint64_t body;            /* id, once parts were written; else 0 */
    uint32_t parts;           /* rows written */
    bool taken;               /* a commit names it */
    struct arena *arena;      /* of the part tree */
    struct mime_parser *mime; /* sees the bytes pass; NULL when no head was told */
    struct stage *next;       /* waits behind this one to write a part */
    struct task *writer;      /* who waits; NULL: nobody, or its turn has come */
};

/* The packed part tree (mail/structure.h), p == NULL without one.  Lives as long as the stage. */
struct str stage_structure(struct stage *s);
/* Writes the rest of a body that is kept in parts.  Nothing for small ones. */
int stage_finish(struct stage *s, struct err *e);
