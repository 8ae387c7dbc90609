/* SMTP server (RFC 5321): life of a session, lines, replies. */
#include "proto/smtp_int.h"

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

static struct smtp_session *sessions;
static unsigned session_count;

const char *smtp_host_name(void)
{
    static char name[256], machine[256];
    struct str set = setting_str("smtp.host_name");

    if (set.n == 0)
        set = setting_str("server.name");
    if (set.n == 0) {
        if (machine[0] == '\0' && gethostname(machine, sizeof machine - 1) != 0)
            snprintf(machine, sizeof machine, "localhost");
        return machine;
    }
    snprintf(name, sizeof name, "%.*s", STR_ARG(set));
    return name;
}

int smtp_reply(struct smtp_session *s, const char *fmt, ...)
{
    char line[1024];
    va_list ap;

    va_start(ap, fmt);
    int n = vsnprintf(line, sizeof line - 2, fmt, ap);
    va_end(ap);
    if (n < 0)
        return -1;
    size_t len = (size_t)n < sizeof line - 3 ? (size_t)n : sizeof line - 3;
    memcpy(line + len, "\r\n", 2);
    return stream_write(s->stream, str_make(line, len + 2));
}

void smtp_close(struct smtp_session *s)
{
    s->closing = true;
    stream_finish(s->stream);
}

void smtp_bad(struct smtp_session *s, const char *reply)
{
    smtp_reply(s, "%s", reply);
    if (++s->errors >= (unsigned)setting_int("smtp.max_errors")) {
        smtp_reply(s, "421 4.7.0 %s too many errors, closing", smtp_host_name());
        smtp_close(s);
    }
}

void smtp_fail(struct smtp_session *s, const struct err *e, const char *text)
{
    static const char *const codes[ERR_CLASS_COUNT] = {
        [ERR_TEMP] = "451 4.3.0",      [ERR_TIMEOUT] = "451 4.3.0",  [ERR_INTERNAL] = "451 4.3.0",
        [ERR_CANCELLED] = "451 4.3.0", [ERR_LIMIT] = "452 4.3.1",    [ERR_QUOTA] = "452 4.2.2",
        [ERR_DENIED] = "550 5.7.1",    [ERR_NOTFOUND] = "550 5.1.1", [ERR_SYNTAX] = "501 5.5.4",
        [ERR_PERM] = "554 5.3.0",      [ERR_EXISTS] = "451 4.3.0",
    };
    log_info("smtp", "%s: %s: %s", stream_peer_text(s->stream), text, e->text);
    smtp_reply(s, "%s %s", codes[e->cls] ? codes[e->cls] : "451 4.3.0", text);
}

void smtp_reset(struct smtp_session *s)
{
    smtp_intake_free(s);
    struct arena *a = s->tx.arena;
    if (a)
        arena_reset(a);
    s->tx = (struct smtp_transaction){.arena = a};
    s->phase = SMTP_COMMAND;
}

/* A trace id: 13 characters of time and chance, unique enough to grep for on any number of
 * machines. */
static struct str trace_id(struct arena *a)
{
    static const char digits[] = "0123456789abcdefghjkmnpqrstvwxyz";
    static uint64_t counter;
    char id[14];
    uint64_t v = str_hash(arena_printf(a, "%llu.%d.%llu", (unsigned long long)loop_ns(), getpid(),
                                       (unsigned long long)++counter));

    for (int i = 12; i >= 0; i--, v >>= 5)
        id[i] = digits[v & 31];
    id[13] = '\0';
    return arena_dup(a, str_of(id));
}

void smtp_begin(struct smtp_session *s, struct str sender)
{
    if (s->tx.arena == NULL)
        s->tx.arena = arena_new(2048);
    s->tx.open = true;
    s->tx.sender = arena_dup(s->tx.arena, sender);
    s->tx.steps = hook_steps_new(s->tx.arena);
    s->tx.trace = trace_id(s->tx.arena);
    s->tx.rcpts_new = true; /* none so far */
}

static void session_free(struct smtp_session *s)
{
    smtp_intake_free(s);
    hook_env_free(&s->env);
    hook_env_free(&s->routing);
    hook_env_free(&s->guard);
    if (s->counted)
        shm_session_leave(s->svc->id, stream_peer(s->stream));
    sasl_free(&s->sasl);
    stream_free(&s->stream);
    arena_free(&s->tx.arena);
    arena_free(&s->cmd);
    arena_free(&s->arena);
    if (s->prev)
        s->prev->next = s->next;
    else
        sessions = s->next;
    if (s->next)
        s->next->prev = s->prev;
    session_count--;
    free(s);
}

/* One line of the client, if a whole one is there. */
static bool next_line(struct smtp_session *s)
{
    struct str line;
    size_t used;
    size_t max = s->phase == SMTP_AUTH ? SMTP_LINE_MAX : SMTP_COMMAND_MAX;

    switch (line_get(stream_in(s->stream), max, &line, &used, NULL)) {
    case LINE_MORE:
        return false;
    case LINE_TOO_LONG:
        /* AUTH with an initial response may be longer than other commands (RFC 4954 4) */
        if (max != SMTP_LINE_MAX && str_startsi(buf_str(stream_in(s->stream)), STR("AUTH ")) &&
            line_get(stream_in(s->stream), SMTP_LINE_MAX, &line, &used, NULL) != LINE_TOO_LONG) {
            if (line_get(stream_in(s->stream), SMTP_LINE_MAX, &line, &used, NULL) == LINE_MORE)
                return false;
            break;
        }
        smtp_reply(s, "500 5.5.2 line too long");
        smtp_close(s);
        return false;
    case LINE_OK:
        break;
    }
    line = arena_dup(s->cmd, line);
    buf_consume(stream_in(s->stream), used);
    if (s->phase == SMTP_COMMAND && !s->tx.open && hook_env_stale(s->env)) {
        smtp_reply(s, "421 4.3.2 %s has a new policy, please connect again", smtp_host_name());
        smtp_close(s);
        return false;
    }
    bool secret = s->phase == SMTP_AUTH || str_startsi(line, STR("AUTH "));
    if (s->phase == SMTP_AUTH)
        smtp_auth_line(s, line);
    else
        smtp_command(s, line);
    if (secret)
        wipe((char *)line.p, line.n);
    arena_reset(s->cmd);
    return true;
}

static bool step(struct smtp_session *s)
{
    if (s->phase != SMTP_DATA && s->phase != SMTP_BDAT)
        return next_line(s);
    /* The bytes of a message are taken where they stand, and taking them may park. */
    stream_freeze(s->stream, true);
    bool more = s->phase == SMTP_DATA ? smtp_data_input(s) : smtp_bdat_input(s);
    stream_freeze(s->stream, false);
    return more;
}

/* The session is over: End() runs once, then everything is freed.  End() may give the loop a turn,
 * in which the stream tells of its end: `task` says that this is being seen to. */
static void end(struct smtp_session *s)
{
    s->task = task_self();
    if (!s->ended && s->greeted) {
        s->ended = true;
        struct hook_call c = {
            .id = HOOK_SMTPSVR_End, .env = s->env, .arena = s->arena, .steps = s->steps};
        struct err e = ERR_INIT;
        if (hook_present(s->env, HOOK_SMTPSVR_End))
            hook_call(&c, &e);
    }
    session_free(s);
}

static void session_task(void *arg)
{
    struct smtp_session *s = arg;

    s->task = task_self();
    if (!s->greeted && !s->closing)
        smtp_greet(s);
    while (!s->closing && !stream_closed(s->stream) && !s->stopping && step(s))
        ;
    if (s->stopping && !s->closing && s->phase == SMTP_COMMAND) {
        smtp_reply(s, "421 4.3.2 %s is stopping, try again later", smtp_host_name());
        smtp_close(s);
    }
    /* In the middle of a message a stop waits for its end. */
    while (s->stopping && !s->closing && !stream_closed(s->stream) && step(s))
        if (s->phase == SMTP_COMMAND) {
            smtp_reply(s, "421 4.3.2 %s is stopping, try again later", smtp_host_name());
            smtp_close(s);
        }
    s->task = NULL;
    if (stream_closed(s->stream))
        end(s);
    else
        stream_resume(s->stream);
}

static void end_task(void *arg)
{
    end(arg);
}

static void run(struct smtp_session *s)
{
    stream_pause(s->stream);
    task_spawn(session_task, s); /* may have freed the session already */
}

static void on_event(void *ctx, struct stream *st, enum stream_event ev)
{
    struct smtp_session *s = ctx;

    (void)st;
    switch (ev) {
    case STREAM_TLS:
        if (!s->greeted) /* implicit TLS: now comes the banner */
            run(s);
        break;
    case STREAM_DATA:
        if (s->task == NULL && s->greeted && !s->closing)
            run(s);
        else if (!s->greeted)
            stream_pause(s->stream);
        break;
    case STREAM_TIMEOUT:
        if (s->task == NULL && !s->closing) {
            smtp_reply(s, "421 4.4.2 %s idle for too long, closing", smtp_host_name());
            smtp_close(s);
        }
        break;
    case STREAM_CLOSED:
        if (s->task == NULL)
            task_spawn(end_task, s);
        break;
    case STREAM_DRAINED:
        break;
    }
}

/* Refuses in the protocol's words without a session's machinery. */
static void refuse(struct smtp_session *s, const char *text)
{
    s->closing = true;
    if (s->svc->tls_mode != SERVICE_TLS)
        smtp_reply(s, "%s", text);
    stream_finish(s->stream);
}

void smtp_accept(const struct service *svc, int fd, const struct sockaddr_storage *peer)
{
    struct smtp_session *s = xcalloc(1, sizeof *s);
    struct access access;
    char text[300];

    s->svc = svc;
    s->arena = arena_new(0);
    s->cmd = arena_new(0);
    s->started = loop_ms();
    s->stream = stream_new(fd, peer, SMTP_LINE_MAX + 2, on_event, s);
    s->next = sessions;
    if (sessions)
        sessions->prev = s;
    sessions = s;
    session_count++;
    stream_timeout(s->stream, (unsigned)setting_int("smtp.timeout"));

    access_check(svc->name, peer, &access);
    s->local_client = access_is_attached(peer);
    s->allow_unauth = access.allowed && access.allow_unauth;
    s->valid_client = access.allowed;
    s->relay = s->allow_unauth || access_in_list(setting_str("smtp.relay_networks"), peer);
    bool privileged = s->allow_unauth || access_in_list(setting_str("smtp.reserved_clients"), peer);
    int full = shm_session_enter(
        svc->id, peer, (unsigned)setting_int("smtp.max_sessions"),
        s->allow_unauth ? 0 : (unsigned)setting_int("smtp.max_sessions_per_client"),
        (unsigned)setting_int("smtp.reserved_sessions"), privileged);
    s->counted = full == 0;
    if (shm_blocked(peer)) {
        refuse(s, "421 4.7.0 Server access temporarily blocked! Please try again later");
    } else if (!access.allowed) {
        snprintf(text, sizeof text, "554 5.7.1 %s access not allowed", smtp_host_name());
        refuse(s, text);
    } else if (full != 0) {
        snprintf(text, sizeof text, "421 4.7.0 %s too many connections%s, try again later",
                 smtp_host_name(), full == 2 ? " from your address" : "");
        refuse(s, text);
    } else if (svc->tls_mode == SERVICE_TLS) {
        struct err e = ERR_INIT;
        if (stream_start_tls(s->stream, svc->tls, &e) != 0)
            refuse(s, "");
    } else {
        run(s);
    }
}

void smtp_stop_all(void)
{
    for (struct smtp_session *s = sessions, *next; s != NULL; s = next) {
        next = s->next;
        s->stopping = true;
        if (s->task == NULL && !s->closing && s->phase != SMTP_DATA && s->phase != SMTP_BDAT) {
            smtp_reply(s, "421 4.3.2 %s is stopping, try again later", smtp_host_name());
            smtp_close(s);
        }
    }
}

unsigned smtp_session_count(void)
{
    return session_count;
}
