/* POP3 sessions, private to the pop3_*.c files. */
#pragma once

#include "core/arena.h"
#include "core/task.h"
#include "net/stream.h"
#include "proto/sasl.h"
#include "proto/session.h"
#include "store/mailbox.h"

enum pop3_state { POP3_AUTHORIZATION, POP3_TRANSACTION };

struct pop3_message {
    uint32_t uid, size;
    uint64_t head;
    bool deleted;
};

struct pop3_session {
    struct pop3_session *next, *prev;
    const struct service *svc;
    struct stream *stream;
    struct task *task;   /* the command at hand */
    struct timer *renew; /* of the lease */
    bool counted, closing, stopping, renewing, freeing;
    enum pop3_state state;
    struct str line;   /* the command line at hand, in the command arena */
    struct arena *cmd; /* of the command at hand */
    char user[256];
    unsigned failures;
    struct sasl *sasl;
    /* transaction state */
    char name[64];
    uint64_t account, mailbox, lease;
    uint32_t uidvalidity;
    struct pop3_message *messages;
    uint32_t count;
    bool held_deletes; /* DELE puts on hold instead (spec 2, POP3 service) */
};

void pop3_reply(struct pop3_session *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* -ERR with the response code that belongs to the error's class (RFC 2449 8, RFC 3206). */
void pop3_fail(struct pop3_session *s, const struct err *e, const char *text);
void pop3_close(struct pop3_session *s);
/* The lease was taken: renew it until the session ends. */
void pop3_start_renewing(struct pop3_session *s);

/* pop3_auth.c; each runs in the session's task */
void pop3_user(struct pop3_session *s, struct str arg);
void pop3_pass(struct pop3_session *s, struct str arg);
void pop3_auth(struct pop3_session *s, struct str arg);
void pop3_auth_line(struct pop3_session *s, struct str line);
void pop3_stls(struct pop3_session *s, struct str arg);
bool pop3_plain_allowed(struct pop3_session *s);

/* pop3_transaction.c */
int pop3_open_maildrop(struct pop3_session *s, const struct account *a, struct err *e);
void pop3_stat(struct pop3_session *s, struct str arg);
void pop3_list(struct pop3_session *s, struct str arg);
void pop3_uidl(struct pop3_session *s, struct str arg);
void pop3_retr(struct pop3_session *s, struct str arg);
void pop3_top(struct pop3_session *s, struct str arg);
void pop3_dele(struct pop3_session *s, struct str arg);
void pop3_rset(struct pop3_session *s, struct str arg);
void pop3_quit(struct pop3_session *s, struct str arg);
