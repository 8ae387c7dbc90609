/* IMAP sessions, private to the imap_*.c files.
 *
 * A session between two commands holds this struct, its stream and (selected) its view: no task, no
 * arena, no database connection.  A command is collected on the loop, then runs in one task while
 * the stream is paused, so pipelined commands are handled in order. */
#pragma once

#include "core/arena.h"
#include "core/buf.h"
#include "core/task.h"
#include "net/stream.h"
#include "proto/imap_parse.h"
#include "proto/sasl.h"
#include "proto/session.h"
#include "store/bus.h"
#include "store/mailbox.h"

enum imap_state { IMAP_GREETED = 1, IMAP_AUTHENTICATED = 2, IMAP_SELECTED = 4 };

struct imap_session {
    struct imap_session *next, *prev;
    const struct service *svc;
    struct stream *stream;
    struct task *task; /* the command at hand */
    bool busy;         /* a task runs, or will in the next turn */
    bool counted, closing, stopping;
    bool want_input; /* the task waits for bytes of a literal */
    enum imap_state state;

    /* the command being collected */
    struct buf text;       /* without its last line end */
    uint64_t literal_left; /* bytes of a literal that still belong to it */
    uint64_t discard;      /* bytes of a literal that was refused, and the rest of its line */
    bool discard_line;
    unsigned bad_commands, failed_logins;

    /* the command at hand */
    struct arena *a;
    struct str tag;
    const char *verb;
    bool by_uid;          /* UID FETCH ...: expunges may be announced, UIDs are shown */
    uint64_t append_size; /* APPEND: of the literal whose announcement ended the line */
    bool append_sync;     /* the client waits for "+" */
    bool sync_now;        /* look for changes whatever the bus said (NOOP, CHECK) */
    bool done;            /* a tagged response was sent */

    struct sasl *sasl;

    /* signed in */
    uint64_t account;
    char user[64];
    bool user_counted;

    /* selected */
    struct view *view;
    struct bus_watch *watch_change, *watch_arrival;
    bool dirty, arrived; /* told by the bus */
    bool expunge_due;    /* expunges may wait that could not be announced */
    uint64_t synced_at;  /* loop_ms() of the last look */

    /* idle */
    bool idling;
    char idle_tag[64];
    struct timer *idle_timer;
};

/* --- imap_session.c: responses */
void imap_untagged(struct imap_session *s, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
/* Ends the command: announces what changed meanwhile, then the tagged line.  `expunge`: may
 * expunges be announced (RFC 3501 7.4.1)?  In a task. */
void imap_ok(struct imap_session *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void imap_no(struct imap_session *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void imap_reject(struct imap_session *s, const char *fmt, ...)
    __attribute__((format(printf, 2, 3))); /* BAD */
/* NO with the response code of the error's class (RFC 5530); `what` is the human text. */
void imap_fail(struct imap_session *s, const struct err *e, const char *what);
/* BYE and the end. */
void imap_bye(struct imap_session *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Waits for input in the task at hand; false when the client is gone.  Consume from stream_in(). */
bool imap_wait_input(struct imap_session *s);
/* Starts a task for the session unless one runs. */
void imap_spawn(struct imap_session *s, void (*fn)(void *));
/* At the end of each such function: may free the session. */
void imap_task_end(struct imap_session *s);
/* Gives the loop a turn when this task has held it for 10 ms; *since is its own note, start at 0.
 */
void imap_breathe(uint64_t *since);

/* --- imap_write.c: values in responses */
void imap_put_string(struct buf *b, struct str s); /* quoted or literal; p == NULL: NIL */
void imap_put_astring(struct buf *b, struct str s);
void imap_put_mailbox(struct buf *b, struct arena *a, struct str utf8);
void imap_put_flags(struct buf *b, const struct view *v, uint32_t index);
void imap_put_flag_names(struct buf *b, const struct view *v);

/* --- imap_update.c: the picture of the selected mailbox */
/* Brings the view up to date and announces it.  False when the mailbox is gone (BYE was sent). */
bool imap_sync(struct imap_session *s, bool expunge);
/* For the end of a command: only when there is reason to look. */
void imap_sync_due(struct imap_session *s, bool expunge);
/* FLAGS and PERMANENTFLAGS: after SELECT, and when a keyword was added. */
void imap_flags_lines(struct imap_session *s);
void imap_watch(struct imap_session *s);
void imap_deselect(struct imap_session *s);
uint32_t imap_recent(const struct view *v);

/* --- counts kept in the shared segment under the account instead of an address */
enum { IMAP_COUNT_LOGIN = 13, IMAP_COUNT_FETCH = 14, IMAP_COUNT_SEARCH = 15 };
/* 0, or as shm_session_enter. */
int imap_count_enter(unsigned what, uint64_t account, unsigned max_all, unsigned max_user);
void imap_count_leave(unsigned what, uint64_t account);
/* The same, trying for `seconds`; false: still full, or the client left. */
bool imap_count_wait(unsigned what, uint64_t account, unsigned max_all, unsigned max_user,
                     unsigned seconds);

/* --- verbs; each runs in the session's task with the cursor behind the verb */
typedef void imap_verb(struct imap_session *s, struct imap_in *in);
/* imap_auth.c */
imap_verb imap_capability, imap_noop, imap_logout, imap_id, imap_starttls, imap_login,
    imap_authenticate;
struct str imap_capabilities(struct imap_session *s);
void imap_sasl_line(struct imap_session *s, struct str line);
/* imap_mailbox.c */
imap_verb imap_select, imap_examine, imap_create, imap_delete, imap_rename, imap_subscribe,
    imap_unsubscribe, imap_status, imap_namespace, imap_close, imap_unselect, imap_check,
    imap_enable;
/* Items of STATUS as they were asked for; FETCH_ style bits. */
enum {
    STATUS_MESSAGES = 1,
    STATUS_RECENT = 2,
    STATUS_UIDNEXT = 4,
    STATUS_UIDVALIDITY = 8,
    STATUS_UNSEEN = 16,
    STATUS_SIZE = 32
};
bool imap_status_items(struct imap_in *in, unsigned *items_r);
void imap_status_line(struct imap_session *s, const struct mailbox_info *m, unsigned items);
/* imap_list.c */
imap_verb imap_list, imap_lsub;
/* "%" within a level, "*" across levels (RFC 3501 6.3.8).  Linear in pattern times name. */
bool imap_list_match(struct str pattern, struct str name);
/* imap_fetch.c, imap_search.c, imap_store.c, imap_idle.c */
imap_verb imap_fetch, imap_search, imap_store, imap_copy, imap_move, imap_expunge, imap_idle;
/* Resolves a set against the view; false when BAD was said. */
bool imap_messages(struct imap_session *s, struct imap_in *in, const struct imap_set *set,
                   uint32_t **index_r, uint32_t *n_r);
void imap_idle_line(struct imap_session *s, struct str line);
void imap_idle_wake(struct imap_session *s); /* something changed */
/* imap_append.c */
void imap_append(struct imap_session *s, struct imap_in *in);
/* Does this command text, which ends with a literal's announcement, announce APPEND's message? */
bool imap_append_ready(struct str text);
