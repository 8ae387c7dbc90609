/* Storing messages: staging of bodies and the group commit (architecture 4).
 *
 * deliver_commit() hands a finished message to the worker's batch and returns when the transaction
 * that holds it is committed and flushed, or is known to have failed.  Only then may a protocol
 * answer 250.  All functions run in a task. */
#pragma once

#include "core/arena.h"
#include "core/err.h"
#include "core/str.h"

#include <stdint.h>

/* A body on its way in.  Up to BODY_PART bytes stay in memory; more are written as rows of
 * `body_part` while they arrive, on a connection with asynchronous commit. */
struct stage;
struct stage *stage_new(void);
/* The header section the body belongs to, before its first bytes: lets the part tree be made while
 * they pass, to be stored with the head. */
void stage_head(struct stage *s, struct str head);
/* May park (back-pressure).  TEMP, LIMIT. */
int stage_add(struct stage *s, struct str bytes, struct err *e);
uint64_t stage_size(const struct stage *s);
/* The first bytes that are still in memory, at most `n`: all of a small body, the last piece of a
 * large one. */
struct str stage_start(const struct stage *s, size_t n);
/* Everything staged so far, for hooks that look at the whole message; at most MESSAGE_HOOK_MAX
 * bytes (LIMIT). */
int stage_read(struct stage *s, struct arena *a, struct str *r, struct err *e);
/* Drops what was staged, unless a commit took it. */
void stage_free(struct stage **s);

/* A head variant: the header section that stands above the body, ending with its empty line. */
struct deliver_head {
    struct str bytes;    /* trace lines + header section as stored, with the empty line */
    uint32_t ours;       /* how many bytes on top are ours (Received, Return-Path ...) */
    struct str received; /* the head as received when lines inside were changed, else empty */
};
struct deliver_target { /* an arrival: a message for one mailbox */
    uint64_t account, mailbox;
    uint32_t head;  /* index into heads */
    uint32_t flags; /* FLAG_ bits of mailbox.h */
    const struct str *keywords;
    uint32_t keyword_count;
    int64_t at; /* internal date, ms; 0: now */
};
struct deliver_remote { /* a queue row: spec 5, architecture 4 */
    uint32_t head;
    struct str recipient; /* envelope address */
    struct str route; /* empty: outqueue by domain; else "[user:pass@]host[:port]" LAN forwarding */
    struct str notify, orcpt; /* RFC 3461 parameters, or empty */
    bool hold;
};
struct deliver_message {
    struct stage *stage;    /* the body; still to be freed by the caller */
    struct str sender;      /* envelope sender, "" for the null one */
    struct str env_id, ret; /* RFC 3461 ENVID and RET */
    struct deliver_head *heads;
    uint32_t head_count;
    struct deliver_target *targets;
    uint32_t target_count;
    struct deliver_remote *remotes;
    uint32_t remote_count;
    /* decision ledger (architecture 3): JSON texts, any may be empty */
    struct str trace; /* trace id, stands in Received */
    struct str ledger_inputs, ledger_steps, ledger_answers;
    struct str auth_user, peer, subject;
    const char *kind; /* "smtp", "submission", "append", "import", "collector" */
};
/* LIMIT: too large for the database; TEMP: 451; INTERNAL.  *id_r: the body's id. */
int deliver_commit(struct deliver_message *m, uint64_t *id_r, struct err *e);

/* A ledger row without a message (refused sessions); batched, never waits. */
void ledger_session(struct str trace, struct str peer, struct str inputs, struct str steps);

/* Starts and stops the batch writer of this process. */
void deliver_open(void);
/* Waits until nothing is under way (graceful stop); in a task. */
void deliver_drain(void);
/* Figures since start: messages, batches, largest batch. */
void deliver_stats(uint64_t *messages_r, uint64_t *batches_r, uint64_t *largest_r);
