/* SMTP sessions, private to the smtp_*.c files.
 *
 * Follow a message by reading smtp_session.c (lines), smtp_cmd.c (commands), smtp_data.c (the bytes
 * of a message), smtp_deliver.c (ledger, group commit, reply) with smtp_end.c (hooks of the end)
 * and smtp_target.c (who gets it). */
#pragma once

#include "core/arena.h"
#include "core/hook.h"
#include "core/task.h"
#include "mail/address.h"
#include "net/stream.h"
#include "proto/sasl.h"
#include "proto/session.h"
#include "store/deliver.h"

enum smtp_phase {
    SMTP_COMMAND,
    SMTP_AUTH, /* the next line belongs to the SASL exchange */
    SMTP_DATA, /* dot-stuffed lines */
    SMTP_BDAT  /* so many raw bytes (RFC 3030) */
};

enum smtp_target_kind { TARGET_LOCAL, TARGET_REMOTE, TARGET_DISCARD, TARGET_UNKNOWN };
struct smtp_target {
    enum smtp_target_kind kind;
    struct str user;    /* LOCAL: account name */
    struct str address; /* REMOTE */
    struct str route;
};
struct smtp_rcpt {
    struct str address; /* as given, domain in lower case */
    struct str notify, orcpt;
    struct smtp_target *targets;
    uint32_t target_count;
};

struct smtp_transaction {
    struct arena *arena;
    bool open;
    struct str sender; /* "" for the null sender */
    bool smtputf8, binary;
    uint64_t declared_size;
    struct str ret, envid;
    struct smtp_rcpt *rcpts;
    uint32_t rcpt_count, rcpt_room, rcpt_commands;
    bool rcpts_new; /* the global Recipients has not heard of all of them */
    struct hook_steps *steps;
    struct str trace;
};

/* The message while it arrives. */
struct smtp_intake {
    struct buf head; /* header section as received, without the empty line */
    struct stage *body;
    uint64_t size; /* octets of the message so far (RFC 1870) */
    bool in_head;  /* the empty line has not come yet */
    bool bol;      /* at the beginning of a line */
    bool last_cr;  /* the byte before was CR */
    bool bare;     /* a bare CR or LF was seen */
    bool line_too_long, too_big, head_too_big, dropped;
    size_t line_bytes; /* of the line at hand */
    size_t longest;    /* line so far, with its line end */
    struct buf line;   /* the line at hand, while header or line hooks need it whole */
    bool raw_hook, line_hook;
    uint64_t bdat_left;
    bool bdat_last, bdat_refused;
    struct err err; /* staging failed: answered at the end */
    bool failed;
};

/* What the DNS block lists mean for this client as long as it has not signed in (smtp_rbl.c). */
struct smtp_rbl {
    struct str reject;   /* reply to MAIL; empty: none */
    struct str header;   /* line added to its mail; empty: none */
    struct str redirect; /* user who gets its mail instead of the recipients; empty: nobody */
    bool discard;        /* taken and thrown away */
};

struct smtp_session {
    struct smtp_session *next, *prev;
    const struct service *svc;
    struct stream *stream;
    struct task *task;
    bool counted, closing, stopping, greeted, esmtp, ended;
    enum smtp_phase phase;
    struct arena *arena; /* of the session */
    struct arena *cmd;   /* of the command at hand */
    struct hook_env *env, *routing, *guard;
    struct hook_steps *steps; /* of the session, outside transactions */
    struct str helo;          /* in helo_text */
    char helo_text[256];
    struct str reverse; /* name by DNS, confirmed forwards, or empty */
    struct smtp_rbl rbl;
    struct sasl *sasl;
    bool authenticated;
    struct account account;
    struct smtp_transaction tx;
    struct smtp_intake in;
    /* what the access list, the settings and Start() grant */
    bool valid_client, local_client, allow_unauth, relay;
    uint64_t max_size;
    unsigned errors, messages, failed_logins;
    uint64_t started;
    uint64_t hook_deadline; /* loop_ns(): of the hooks after the final dot; 0: none of them runs */
};

/* smtp_session.c */
int smtp_reply(struct smtp_session *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void smtp_close(struct smtp_session *s);
/* A protocol error was made: after too many the session ends.  Sends the reply. */
void smtp_bad(struct smtp_session *s, const char *reply);
/* Reply for an error's class; `text` is what the client reads. */
void smtp_fail(struct smtp_session *s, const struct err *e, const char *text);
void smtp_reset(struct smtp_session *s);
void smtp_begin(struct smtp_session *s, struct str sender);
const char *smtp_host_name(void);

/* smtp_hook.c: SMTPSVR hooks */
void smtp_hooks_open(struct smtp_session *s);
/* Calls a hook that returns a reply line.  False: its 4xx or 5xx (or the hook's fail mode) was
 * sent. Else *said_r is the 2xx or 3xx the script wants in place of the normal reply, or empty: the
 * caller sends it with smtp_answer() once the guard has agreed. */
bool smtp_hook_reply(struct smtp_session *s, enum hook_id id, const struct hval *args,
                     unsigned nargs, struct str *said_r, struct hook_call *call_r);
void smtp_answer(struct smtp_session *s, struct str said, const char *normal);
/* Brings the global Recipients up to date; before hooks, not at each of 10,000 recipients. */
void smtp_publish_rcpts(struct smtp_session *s);
/* Asks the guard; false: its refusal was sent. */
bool smtp_guard(struct smtp_session *s, enum hook_id id, struct hval facts);
/* Routing: fills r->targets.  -1: could not be decided now (TEMP). */
int smtp_route(struct smtp_session *s, struct str address, struct smtp_rcpt *r, struct err *e);
void smtp_hooks_sync(struct smtp_session *s); /* reads IN/OUT globals back */
/* Sends a reply that a script made, if it is one; 0 when it is none. */
int smtp_send_script_reply(struct smtp_session *s, struct str reply);

/* smtp_rbl.c: at the greeting, before and after Start() */
void smtp_reverse(struct smtp_session *s);
bool smtp_rbl_wanted(struct smtp_session *s); /* by the settings alone */
void smtp_rbl_check(struct smtp_session *s);
/* At MAIL: true when the client was refused; the reply was sent. */
bool smtp_rbl_refuses(struct smtp_session *s);

/* smtp_cmd.c, smtp_auth.c */
void smtp_command(struct smtp_session *s, struct str line);
void smtp_greet(struct smtp_session *s);
void smtp_auth_begin(struct smtp_session *s, struct str arg);
void smtp_auth_line(struct smtp_session *s, struct str line);
bool smtp_plain_allowed(const struct smtp_session *s);

/* smtp_data.c: takes what stands in the input buffer; true while it made progress */
void smtp_data_start(struct smtp_session *s);
bool smtp_data_input(struct smtp_session *s);
bool smtp_bdat_input(struct smtp_session *s);
void smtp_bdat_start(struct smtp_session *s, uint64_t n, bool last);
void smtp_intake_free(struct smtp_session *s);

/* smtp_deliver.c: the message is complete; sends the one reply */
void smtp_deliver(struct smtp_session *s);

/* smtp_param.c */
struct smtp_path {
    struct str address; /* canonical local-part@domain (mail/address.h); "" for <> */
    struct str local, domain;
};
/* "<path> params" after MAIL FROM: or RCPT TO:; `flags`: PATH_UTF8, PATH_NULL; SYNTAX. */
int smtp_path_parse(struct arena *a, struct str *rest, unsigned flags, struct smtp_path *p_r,
                    struct err *e);
/* Next "KEY=value" parameter; 0 at the end, 1, or -1. */
int smtp_param_next(struct str *rest, struct str *key_r, struct str *value_r);
/* xtext of RFC 3461 4: valid? */
bool smtp_xtext_valid(struct str s);
