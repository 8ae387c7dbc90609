/* POP3 server (RFC 1939, CAPA of RFC 2449, STLS of RFC 2595, AUTH of RFC 5034, RESP-CODES and
 * AUTH-RESP-CODE of RFC 2449 and 3206): life of a session and dispatch of commands. */
#include "proto/pop3_int.h"

#include "core/limits.h"
#include "core/log.h"
#include "core/loop.h"
#include "core/shm.h"
#include "net/line.h"
#include "store/access.h"
#include "store/setting.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct pop3_session *sessions;
static unsigned session_count;

/* In a task: the lease is given back. */
static void session_free(struct pop3_session *s)
{
    if (s->freeing)
        return;
    s->freeing =
        true; /* giving the lease back waits, and the stream may tell of its end meanwhile */
    if (s->renew != NULL)
        timer_stop(s->renew);
    if (s->lease != 0)
        pop3_lease_drop(s->account, s->lease);
    if (s->counted)
        shm_session_leave(s->svc->id, stream_peer(s->stream));
    timer_free(&s->renew);
    sasl_free(&s->sasl);
    stream_free(&s->stream);
    arena_free(&s->cmd);
    free(s->messages);
    if (s->prev)
        s->prev->next = s->next;
    else
        sessions = s->next;
    if (s->next)
        s->next->prev = s->prev;
    session_count--;
    wipe(s, sizeof *s);
    free(s);
}

void pop3_reply(struct pop3_session *s, const char *fmt, ...)
{
    char line[POP3_LINE_MAX];
    va_list ap;

    va_start(ap, fmt);
    int n = vsnprintf(line, sizeof line - 2, fmt, ap);
    va_end(ap);
    if (n < 0)
        return;
    size_t len = (size_t)n < sizeof line - 3 ? (size_t)n : sizeof line - 3;
    memcpy(line + len, "\r\n", 2);
    stream_write(s->stream, str_make(line, len + 2));
}

void pop3_fail(struct pop3_session *s, const struct err *e, const char *text)
{
    static const char *const codes[ERR_CLASS_COUNT] = {
        [ERR_TEMP] = "[SYS/TEMP] ",  [ERR_TIMEOUT] = "[SYS/TEMP] ", [ERR_INTERNAL] = "[SYS/TEMP] ",
        [ERR_LIMIT] = "[SYS/TEMP] ", [ERR_PERM] = "[SYS/PERM] ",
    };
    const char *code = codes[e->cls] ? codes[e->cls] : "";
    log_info("pop3", "%s: %s: %s", stream_peer_text(s->stream), text, e->text);
    pop3_reply(s, "-ERR %s%s", code, text);
}

void pop3_close(struct pop3_session *s)
{
    s->closing = true;
    stream_finish(s->stream);
}

static void cmd_capa(struct pop3_session *s, struct str arg)
{
    (void)arg;
    pop3_reply(s, "+OK capability list follows");
    bool plain = pop3_plain_allowed(s);
    stream_printf(s->stream, "TOP\r\nUIDL\r\nRESP-CODES\r\nAUTH-RESP-CODE\r\nPIPELINING\r\n%s",
                  plain ? "USER\r\n" : "");
    stream_printf(s->stream, "SASL %s\r\n", sasl_mechanisms(stream_is_tls(s->stream), plain));
    if (s->svc->tls && !stream_is_tls(s->stream) && s->state == POP3_AUTHORIZATION)
        stream_printf(s->stream, "STLS\r\n");
    stream_printf(s->stream, "IMPLEMENTATION %.*s\r\n.\r\n",
                  STR_ARG(setting_str("server.product")));
}

static void cmd_noop(struct pop3_session *s, struct str arg)
{
    (void)arg;
    pop3_reply(s, "+OK");
}

static const struct command {
    const char *name;
    bool authorization, transaction;
    void (*fn)(struct pop3_session *, struct str arg);
} commands[] = {
    {"USER", true, false, pop3_user}, {"PASS", true, false, pop3_pass},
    {"AUTH", true, false, pop3_auth}, {"STLS", true, false, pop3_stls},
    {"CAPA", true, true, cmd_capa},   {"QUIT", true, true, pop3_quit},
    {"NOOP", false, true, cmd_noop},  {"STAT", false, true, pop3_stat},
    {"LIST", false, true, pop3_list}, {"UIDL", false, true, pop3_uidl},
    {"RETR", false, true, pop3_retr}, {"TOP", false, true, pop3_top},
    {"DELE", false, true, pop3_dele}, {"RSET", false, true, pop3_rset},
};

static void dispatch(struct pop3_session *s)
{
    struct str arg = s->line;

    if (s->sasl != NULL) {
        pop3_auth_line(s, arg);
        return;
    }
    struct str verb = str_cut(&arg, ' ');
    if (arg.p == NULL)
        arg = STR("");
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++) {
        const struct command *c = &commands[i];
        if (!str_eqiz(verb, c->name))
            continue;
        if (s->state == POP3_AUTHORIZATION ? c->authorization : c->transaction)
            c->fn(s, arg);
        else if (s->state == POP3_AUTHORIZATION)
            pop3_reply(s, "-ERR sign in first");
        else
            pop3_reply(s, "-ERR you have signed in already");
        return;
    }
    pop3_reply(s, "-ERR unknown command");
    if (++s->failures >= 20)
        pop3_close(s);
}

static void command_task(void *arg)
{
    struct pop3_session *s = arg;

    s->task = task_self();
    dispatch(s);
    if (s->line.n > 0) /* a password may have stood there */
        wipe((char *)s->line.p, s->line.n);
    arena_reset(s->cmd);
    s->task = NULL;
    if (stream_closed(s->stream)) {
        if (!s->renewing)
            session_free(s);
        return;
    }
    if (s->stopping && !s->closing) {
        pop3_reply(s, "-ERR [SYS/TEMP] server is stopping");
        pop3_close(s);
    }
    stream_resume(s->stream);
}

static void renew_task(void *arg)
{
    struct pop3_session *s = arg;
    struct err e = ERR_INIT;

    if (pop3_lease_renew(s->account, s->lease, &e) != 0) {
        log_warn("pop3", "%s: lease of %s: %s", stream_peer_text(s->stream), s->name, e.text);
        /* Lost to somebody else (DENIED): deletions of this session must not be carried out. */
        if (e.cls == ERR_DENIED || e.cls == ERR_NOTFOUND) {
            s->lease = 0;
            pop3_close(s);
        }
    }
    s->renewing = false;
    if (stream_closed(s->stream) && s->task == NULL)
        session_free(s);
    else if (s->lease != 0)
        timer_set(s->renew, 20000);
}

static void on_renew(void *ctx)
{
    struct pop3_session *s = ctx;
    s->renewing = true;
    task_spawn(renew_task, s);
}

static void on_data(struct pop3_session *s)
{
    struct str line;
    size_t used;
    size_t max = s->sasl ? POP3_AUTH_LINE_MAX : POP3_LINE_MAX;

    switch (line_get(stream_in(s->stream), max, &line, &used, NULL)) {
    case LINE_MORE:
        return;
    case LINE_TOO_LONG:
        pop3_reply(s, "-ERR line too long");
        pop3_close(s);
        return;
    case LINE_OK:
        break;
    }
    s->line = arena_dup(s->cmd, line);
    buf_consume(stream_in(s->stream), used);
    stream_pause(s->stream);
    task_spawn(command_task, s); /* may have freed the session already */
}

static void end_task(void *arg)
{
    session_free(arg);
}

static void on_event(void *ctx, struct stream *st, enum stream_event ev)
{
    struct pop3_session *s = ctx;

    (void)st;
    switch (ev) {
    case STREAM_TLS:
        if (s->svc->tls_mode == SERVICE_TLS)
            pop3_reply(s, "+OK %.*s POP3 server ready", STR_ARG(setting_str("server.product")));
        break;
    case STREAM_DATA:
        if (!s->closing)
            on_data(s);
        break;
    case STREAM_TIMEOUT:
        if (s->task != NULL)
            break;
        pop3_reply(s, "-ERR idle for too long"); /* RFC 1939 3: no update state */
        pop3_close(s);
        break;
    case STREAM_CLOSED:
        if (s->task == NULL && !s->renewing)
            task_spawn(end_task, s);
        break;
    case STREAM_DRAINED:
        break;
    }
}

void pop3_accept(const struct service *svc, int fd, const struct sockaddr_storage *peer)
{
    struct pop3_session *s = xcalloc(1, sizeof *s);

    s->svc = svc;
    s->cmd = arena_new(0);
    s->stream = stream_new(fd, peer, POP3_AUTH_LINE_MAX + 2, on_event, s);
    s->next = sessions;
    if (sessions)
        sessions->prev = s;
    sessions = s;
    session_count++;
    int full = shm_session_enter(svc->id, peer, (unsigned)setting_int("pop3.max_sessions"),
                                 (unsigned)setting_int("pop3.max_sessions_per_client"), 0, false);
    s->counted = full == 0;
    stream_timeout(s->stream, (unsigned)setting_int("pop3.timeout"));
    bool blocked = shm_blocked(peer);
    if (svc->tls_mode == SERVICE_TLS) {
        struct err e = ERR_INIT;
        if (blocked || full || !access_allowed(svc->name, peer) ||
            stream_start_tls(s->stream, svc->tls, &e) != 0)
            pop3_close(s);
        return;
    }
    if (blocked) {
        pop3_reply(s, "-ERR [SYS/TEMP] Server access temporarily blocked! Please try again later");
        pop3_close(s);
        return;
    }
    if (!access_allowed(svc->name, peer)) {
        pop3_reply(s, "-ERR [SYS/PERM] access not allowed");
        pop3_close(s);
    } else if (full) {
        pop3_reply(s, "-ERR [SYS/TEMP] too many connections, try again later");
        pop3_close(s);
    } else {
        pop3_reply(s, "+OK %.*s POP3 server ready", STR_ARG(setting_str("server.product")));
    }
}

void pop3_start_renewing(struct pop3_session *s)
{
    s->renew = timer_new(on_renew, s);
    timer_set(s->renew, 20000);
}

void pop3_stop_all(void)
{
    for (struct pop3_session *s = sessions, *next; s != NULL; s = next) {
        next = s->next;
        s->stopping = true;
        if (s->task == NULL && !s->closing) {
            pop3_reply(s, "-ERR [SYS/TEMP] server is stopping");
            pop3_close(s);
        }
    }
}

unsigned pop3_session_count(void)
{
    return session_count;
}
