/* Mailboxes: names, counters, the packed index, views of sessions, and everything that changes
 * them.
 *
 * All functions run in a task.  Every change locks the mailbox row first, gives a MODSEQ, commits
 * with a flush and then tells the bus.  A view is one session's picture of a mailbox: it changes
 * only when view_sync() is called, so a session decides when to announce what. */
#pragma once

#include "core/arena.h"
#include "core/err.h"
#include "core/limits.h"
#include "core/str.h"
#include "store/deliver.h"

#include <stdint.h>

/* Flags column: bits 0-7 system and product, 8-31 keywords named in the mailbox row. */
enum {
    FLAG_SEEN = 1,
    FLAG_ANSWERED = 2,
    FLAG_FLAGGED = 4,
    FLAG_DELETED = 8,
    FLAG_DRAFT = 16,
    FLAG_HELD = 64, /* invisible to clients (spec 2 'Hold messages instead of deleting them') */
    FLAG_KEYWORD0 = 256
};

struct mailbox_info {
    uint64_t id, account;
    struct str name; /* UTF-8, '/' between levels, "INBOX" in capitals */
    uint32_t uidvalidity, uidnext;
    uint64_t highestmodseq;
    uint32_t messages, unseen, recent; /* with arrivals after sequencing */
    uint64_t bytes;
    bool selectable, subscribed, has_children;
    struct str special_use; /* "\\Sent", ... or empty */
};

/* All mailboxes of an account, sorted by name; subscriptions to names that do not exist are rows
 * with selectable = false and id = 0. */
int mailbox_list(uint64_t account, struct arena *a, struct mailbox_info **v_r, uint32_t *n_r,
                 struct err *e);
int mailbox_find(uint64_t account, struct str name, struct arena *a, struct mailbox_info *r,
                 struct err *e); /* NOTFOUND */
/* Creates missing parents.  EXISTS, LIMIT, SYNTAX.  A recreated name gets a larger UIDVALIDITY. */
int mailbox_create(uint64_t account, struct str name, struct str special_use, struct err *e);
/* Arrivals still waiting go to the INBOX.  With children: stays as \Noselect. */
int mailbox_delete(uint64_t account, struct str name, struct err *e);
/* Renaming INBOX moves its messages (RFC 3501 6.3.5).  Children move along. */
int mailbox_rename(uint64_t account, struct str from, struct str to, struct err *e);
int mailbox_subscribe(uint64_t account, struct str name, bool on, struct err *e);
/* Sequences arrivals first, so that counts are exact. */
int mailbox_status(uint64_t account, struct str name, struct arena *a, struct mailbox_info *r,
                   struct err *e);

/* Turns waiting arrivals into UIDs.  Without arrivals nothing is locked or written. */
int mailbox_sequence(uint64_t mailbox, uint32_t *new_r, struct err *e);

/* --- views --------------------------------------------------------------------------------- */
struct view {
    uint64_t account, mailbox;
    uint32_t uidvalidity, uidnext;
    uint64_t highestmodseq; /* state of this picture */
    uint32_t count;         /* messages in the picture; sequence number n is index n-1 */
    uint32_t *uids;         /* ascending */
    uint32_t *flags;
    uint64_t *mods;
    uint32_t recent_from; /* UIDs >= this are \Recent in this session */
    uint32_t keyword_count;
    char keywords[KEYWORDS_MAX][64];
    bool readonly;
    /* private below */
    uint32_t room;
    void *refs;
};
/* SELECT (readonly = false takes \Recent) and EXAMINE.  Sequences first. */
int view_open(uint64_t account, struct str name, bool readonly, struct view **v_r, struct err *e);
void view_close(struct view **v);

/* What changed since the picture was made.  `expunge` false: expunged messages stay in the picture
 * for now (RFC 3501 7.4.1), everything else is applied. */
struct view_changes {
    uint32_t *expunged; /* sequence numbers, in the order to announce (each counted after
                           the one before has gone) */
    uint32_t expunged_count;
    uint32_t *changed; /* indexes (after the expunges) whose flags changed */
    uint32_t changed_count;
    uint32_t added; /* new at the end */
    bool keywords_changed;
    bool gone; /* the mailbox was deleted */
};
int view_sync(struct view *v, bool expunge, struct arena *a, struct view_changes *c_r,
              struct err *e);

/* Head, size and internal date of messages; loaded by page and kept a while. */
struct view_ref {
    uint64_t head;
    uint32_t size; /* RFC822.SIZE: head + body */
    int64_t at;    /* internal date, ms */
    bool gone;     /* expunged and purged: NO [EXPUNGEISSUED] */
};
int view_refs(struct view *v, const uint32_t *index, uint32_t n, struct view_ref *out,
              struct err *e);

enum store_op { STORE_SET, STORE_ADD, STORE_REMOVE };
/* Messages by index.  Updates the picture's flags and MODSEQs too; `keywords`: names, new ones are
 * made while bits are left (else LIMIT and nothing is stored).  `unchangedsince` 0: none; messages
 * changed later are left alone and returned in modified (may be NULL). */
int view_store(struct view *v, const uint32_t *index, uint32_t n, enum store_op op, uint32_t flags,
               const struct str *keywords, uint32_t keyword_count, uint64_t unchangedsince,
               struct arena *a, uint32_t **modified_r, uint32_t *modified_count_r, struct err *e);
/* Removes from the mailbox all messages that carry \Deleted (and, with uids, are among these).  The
 * picture is not changed: call view_sync.  `why`: "expunge", "pop3 dele" ... (recycle bin). */
int view_expunge(struct view *v, const uint32_t *uids, uint32_t n, struct str who, const char *why,
                 struct err *e);
/* Removes exactly these UIDs, with or without \Deleted; missing ones are no error (POP3). */
int mailbox_remove(uint64_t mailbox, const uint32_t *uids, uint32_t n, struct str who,
                   const char *why, struct err *e);
/* Puts exactly these UIDs on hold (FLAG_HELD): stored, but shown to no client (spec 2, POP3). */
int mailbox_hold(uint64_t mailbox, const uint32_t *uids, uint32_t n, struct err *e);
/* COPY or MOVE to a mailbox of the same account, all or nothing, UIDs final.  NOTFOUND: no such
 * mailbox ([TRYCREATE]).  Arrays are parallel, ascending, in `a`; messages gone meanwhile are left
 * out. */
struct copied {
    uint32_t uidvalidity;
    uint32_t *from, *to;
    uint32_t count;
};
int view_copy(struct view *v, const uint32_t *index, uint32_t n, struct str to, bool move,
              struct arena *a, struct copied *r, struct err *e);
/* APPEND: body first, then UID, in one transaction; final. */
int mailbox_append(uint64_t account, struct str name, struct stage *s, struct str head,
                   uint32_t flags, const struct str *keywords, uint32_t keyword_count, int64_t at,
                   uint32_t *uidvalidity_r, uint32_t *uid_r, struct err *e);

/* --- message bytes --------------------------------------------------------------------------- */
/* Reads bytes [offset, offset + length) of a stored message (head followed by body; less at its
 * end) into the arena. */
int message_read(uint64_t head, uint64_t offset, uint64_t length, struct arena *a, struct str *r,
                 struct err *e);
struct message_info {
    uint64_t body, head_size, body_size;
    uint32_t ours;
    int64_t at;
    struct str sender;
    struct str structure; /* packed part tree made by mail/mime at storing; may be empty */
};
int message_info(uint64_t head, struct arena *a, struct message_info *r, struct err *e);
/* Heads of many messages in one query: out[i] the header section, empty when gone. */
int message_heads(const uint64_t *heads, uint32_t n, struct arena *a, struct str *out,
                  struct err *e);
/* Whole small messages (head + body) of many, for FETCH BODY[] over ranges; those over `limit`
 * bytes get p == NULL and are read with message_read. */
int messages_read(const uint64_t *heads, uint32_t n, uint64_t limit, struct arena *a,
                  struct str *out, struct err *e);

/* POP3: the exclusive lease of an account's maildrop (architecture 6); DENIED while another holds
 * it.  Renew at least every 20 s. */
int pop3_lease_take(uint64_t account, uint64_t *token_r, struct err *e);
int pop3_lease_renew(uint64_t account, uint64_t token, struct err *e);
void pop3_lease_drop(uint64_t account, uint64_t token);
