/* One message on its way from the final dot to the store; private to smtp_deliver.c (commit and
 * reply), smtp_target.c (who gets it) and smtp_end.c (hooks of the end). */
#pragma once

#include "proto/smtp_int.h"
#include "store/account.h"

/* Where the message goes, gathered from all recipients; one entry a mailbox or remote address. */
struct smtp_delivery {
    struct smtp_session *s;
    struct arena *a;
    struct deliver_target *locals;
    struct str *users; /* names behind locals, for the ledger */
    uint32_t local_count, local_room;
    struct deliver_remote *remotes;
    uint32_t remote_count, remote_room;
    bool discarded;
    uint64_t hash;
    bool killer; /* twice a worker had to be killed over it: no hooks, and on hold */
};

/* What ProcessMessage and the block lists decided beside targets. */
struct smtp_outcome {
    struct hval header_modifiers; /* list of header lines, or nil */
    bool ignore, replaced;
};

/* A call of a hook between the final dot and its answer: all of them together have one deadline. */
struct hook_call smtp_end_call(struct smtp_delivery *d, enum hook_id id, struct hook_env *env,
                               const struct hval *args, unsigned nargs);
/* Runs what stands between the end of the message and its storage.  False: a reply was sent. */
bool smtp_end_hooks(struct smtp_session *s, struct smtp_delivery *d, struct smtp_outcome *o);
/* The recipients as scripts see them. */
struct hval smtp_rcpt_list(struct smtp_session *s, struct arena *a);
/* Received lines. */
unsigned smtp_hops(struct str head);

/* Adds the targets of a recipient, with forwards and assistants of users.  NOTFOUND, TEMP. */
int smtp_target_rcpt(struct smtp_delivery *d, const struct smtp_rcpt *r, struct err *e);
/* Adds an address that a script or setting names: a user's bare name or an address.  An unknown one
 * is left out with a log line.  `envelope` gives the DSN parameters. */
int smtp_target_address(struct smtp_delivery *d, const struct smtp_rcpt *envelope,
                        struct str address, struct err *e);
