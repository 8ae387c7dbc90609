/* What view.c and view_change.c share. */
#pragma once

#include "store/mailbox_int.h"

enum {
    REF_PAGES = 16, /* pages of references a view keeps: 100 KB at most */
    SLICE = 16384   /* messages handled at once: bounds the memory of a command on a huge mailbox */
};

struct ref {
    uint32_t uid, size, date;
    uint64_t head;
};

struct ref_page {
    uint32_t n;
    struct ref v[PAGE_ENTRIES];
};

struct view_private {
    uint64_t expunged; /* expunges up to this MODSEQ are out of the picture */
    struct ref_page *pages[REF_PAGES];
    uint32_t next;
};

/* Index of the first message with at least this UID. */
uint32_t view_index(const struct view *v, uint32_t uid);
/* Takes over the names; did they change? */
bool view_keywords(struct view *v, const struct mailbox_row *m);
