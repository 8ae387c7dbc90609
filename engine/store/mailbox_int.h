/* Changing a mailbox under its lock: shared by sequence.c, view_change.c and mailbox.c.
 *
 * The order is always: mailbox_lock(), read pages, change pages and row, mailbox_save(), tx_end().
 * Two mailboxes are locked in the order of their ids. */
#pragma once

#include "store/db.h"
#include "store/mailbox.h"
#include "store/page.h"
#include "store/pg.h"

struct mailbox_row {
    uint64_t id, account;
    struct str name;
    uint32_t uidvalidity, uidnext, recent_uid;
    uint64_t highestmodseq, expunge_modseq;
    int64_t messages, unseen, bytes; /* messages and unseen without held ones */
    uint32_t keyword_count;
    struct str keywords[KEYWORDS_MAX];
    bool selectable, keywords_changed;
};

#define MAILBOX_COLUMNS                                                                            \
    "id, account, name, uidvalidity, uidnext, recent_uid, highestmodseq, expunge_modseq, "         \
    "messages, unseen, bytes, keywords, selectable"
/* A row of MAILBOX_COLUMNS. */
void mailbox_row_read(const struct rows *r, uint32_t i, struct arena *a, struct mailbox_row *m);

/* NOTFOUND when it was deleted. */
int mailbox_lock(struct tx *tx, uint64_t id, struct arena *a, struct mailbox_row *r, struct err *e);
/* Queues the update of all counters. */
int mailbox_save(struct tx *tx, const struct mailbox_row *r, struct err *e);
/* Counts an entry in (by = 1) or out (by = -1). */
void mailbox_count(struct mailbox_row *r, uint32_t flags, uint32_t size, int by);
/* Bits of these names.  New names are made while bits are left; what is too much is dropped with a
 * log line when `drop`, else LIMIT.  Names are compared without case. */
int mailbox_keywords(struct mailbox_row *r, struct arena *a, const struct str *names, uint32_t n,
                     bool make, bool drop, uint32_t *bits_r, struct err *e);
/* The names of the keyword bits of `flags`, separated by spaces; p == NULL when there are none. */
struct str mailbox_keyword_names(const struct mailbox_row *r, uint32_t flags, struct arena *a);

/* Packs entries with ascending UIDs, all above those there, behind the last page. */
int pages_append(struct tx *tx, const struct mailbox_row *r, const struct page_entry *v, uint32_t n,
                 struct err *e);
/* The pages that hold these UIDs (ascending), in order.  tx NULL: outside a transaction. */
struct page_list {
    struct arena *a;
    struct page **v;
    uint32_t n, room;
};
enum { LOAD_REFS = 1 };
int pages_load(struct tx *tx, uint64_t account, uint64_t mailbox, const uint32_t *uids, uint32_t n,
               unsigned what, struct page_list *out, struct err *e);
struct page_entry *pages_find(const struct page_list *l, uint32_t uid, struct page **page_r);
/* Writes the dirty pages: flags and mods only, or everything; empty ones are deleted. */
int pages_write_flags(struct tx *tx, const struct mailbox_row *r, const struct page_list *l,
                      struct err *e);
int pages_write(struct tx *tx, const struct mailbox_row *r, const struct page_list *l,
                struct err *e);
/* Merges pages that fell under a quarter into their predecessors (a few at a time). */
int pages_merge_small(struct tx *tx, const struct mailbox_row *r, const struct page_list *l,
                      struct err *e);
/* Calls fn with min_uid, n, uids, flags (, mods) of all pages, in chunks, in order. */
int pages_scan(struct tx *tx, uint64_t account, uint64_t mailbox, bool mods, pg_result fn,
               void *ctx, struct err *e);

/* Canonical form of a name; SYNTAX. */
int mailbox_name(struct arena *a, struct str name, struct str *out, struct err *e);
/* Id of a mailbox, and whether arrivals wait; NOTFOUND. */
int mailbox_lookup(uint64_t account, struct str name, uint64_t *id_r, bool *waiting_r,
                   struct err *e);
/* Moves or copies entries with these UIDs (ascending) between two locked mailboxes. */
struct transfer {
    struct mailbox_row *from, *to; /* may be the same */
    bool move;
    uint32_t *from_uids, *to_uids; /* room for n */
    uint32_t count;
};
int pages_transfer(struct tx *tx, struct arena *a, const uint32_t *uids, uint32_t n,
                   struct transfer *t, struct err *e);
/* Takes entries out; `keep` writes them to deleted_message or gives their references back. */
struct removal {
    bool only_deleted, keep;
    struct str who;
    const char *why;
    uint32_t removed;
};
int pages_remove(struct tx *tx, struct mailbox_row *r, const uint32_t *uids, uint32_t n,
                 struct removal *how, struct err *e);
