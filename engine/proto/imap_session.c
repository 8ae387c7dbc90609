/* IMAP4rev1 server (RFC 3501): life of a session, collecting commands with their literals (RFC
 * 7888), dispatch, and the tagged responses with their codes (RFC 5530). */
#include "core/limits.h"
#include "core/log.h"
#include "core/loop.h"
#include "core/shm.h"
#include "net/line.h"
#include "proto/imap_int.h"
#include "store/access.h"
#include "store/setting.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Before sign-in nobody needs long commands, and nobody may hold our memory with them. */
/* Before sign-in ID is the longest command: 30 pairs of 30 and 1,024 octets (RFC 2971 3.3). */
enum { PREAUTH_MAX = 40960, BAD_MAX = 20 };

static struct imap_session *sessions;
static unsigned session_count;

static void session_free(struct imap_session *s)
{
    imap_deselect(s);
    if (s->user_counted)
        imap_count_leave(IMAP_COUNT_LOGIN, s->account);
    if (s->counted)
        shm_session_leave(s->svc->id, stream_peer(s->stream));
    timer_free(&s->idle_timer);
    sasl_free(&s->sasl);
    stream_free(&s->stream);
    arena_free(&s->a);
    buf_wipe(&s->text);
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

/* --- responses ---------------------------------------------------------------------------------
 */

static void line(struct imap_session *s, const char *start, const char *fmt, va_list ap)
{
    char small[600], *big = NULL;
    va_list again;

    va_copy(again, ap);
    int n = vsnprintf(small, sizeof small, fmt, ap);
    if (n >= (int)sizeof small) {
        big = xmalloc((size_t)n + 1);
        vsnprintf(big, (size_t)n + 1, fmt, again);
    }
    va_end(again);
    stream_printf(s->stream, "%s%s\r\n", start, big ? big : small);
    free(big);
}

void imap_untagged(struct imap_session *s, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    line(s, "* ", fmt, ap);
    va_end(ap);
}

static void tagged(struct imap_session *s, const char *word, const char *fmt, va_list ap)
{
    char start[300];

    if (s->done)
        return;
    if (s->state == IMAP_SELECTED) {
        /* Non-UID FETCH, STORE and SEARCH name messages by number: none may go meanwhile. */
        bool numbers =
            !s->by_uid && s->verb &&
            (!strcmp(s->verb, "FETCH") || !strcmp(s->verb, "STORE") || !strcmp(s->verb, "SEARCH"));
        imap_sync_due(s, !numbers);
    }
    if (s->closing)
        return;
    s->done = true;
    snprintf(start, sizeof start, "%.*s %s ", STR_ARG(str_head(s->tag, 200)), word);
    line(s, start, fmt, ap);
}

void imap_ok(struct imap_session *s, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    tagged(s, "OK", fmt, ap);
    va_end(ap);
}

void imap_no(struct imap_session *s, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    tagged(s, "NO", fmt, ap);
    va_end(ap);
}

void imap_reject(struct imap_session *s, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    tagged(s, "BAD", fmt, ap);
    va_end(ap);
    if (++s->bad_commands >= BAD_MAX && !s->closing)
        imap_bye(s, "Too many bad commands");
}

/* The one place where an error class becomes a response code (RFC 5530). */
void imap_fail(struct imap_session *s, const struct err *e, const char *what)
{
    static const char *const codes[ERR_CLASS_COUNT] = {
        [ERR_NONE] = "SERVERBUG",        [ERR_TEMP] = "UNAVAILABLE",
        [ERR_PERM] = "CANNOT",           [ERR_NOTFOUND] = "NONEXISTENT",
        [ERR_EXISTS] = "ALREADYEXISTS",  [ERR_DENIED] = "NOPERM",
        [ERR_LIMIT] = "LIMIT",           [ERR_QUOTA] = "OVERQUOTA",
        [ERR_SYNTAX] = "CANNOT",         [ERR_TIMEOUT] = "UNAVAILABLE",
        [ERR_CANCELLED] = "UNAVAILABLE", [ERR_INTERNAL] = "SERVERBUG",
    };
    if (e->cls != ERR_NOTFOUND && e->cls != ERR_EXISTS)
        log_info("imap", "%s: %s: %s: %s", stream_peer_text(s->stream), s->user, what, e->text);
    imap_no(s, "[%s] %s", codes[e->cls], what);
}

void imap_bye(struct imap_session *s, const char *fmt, ...)
{
    va_list ap;

    if (s->closing)
        return;
    va_start(ap, fmt);
    line(s, "* BYE ", fmt, ap);
    va_end(ap);
    s->closing = true;
    stream_finish(s->stream);
}

void imap_breathe(uint64_t *since)
{
    uint64_t now = loop_ns();

    if (*since == 0)
        *since = now;
    if (now - *since > 10000000u) {
        task_yield();
        *since = loop_ns();
    }
}

/* --- dispatch ----------------------------------------------------------------------------------
 */

static const struct verb {
    const char *name;
    imap_verb *fn;
    unsigned states;
    bool uid; /* may follow UID */
} verbs[] = {
    {"CAPABILITY", imap_capability, 7, false},
    {"NOOP", imap_noop, 7, false},
    {"LOGOUT", imap_logout, 7, false},
    {"ID", imap_id, 7, false},
    {"STARTTLS", imap_starttls, IMAP_GREETED, false},
    {"LOGIN", imap_login, IMAP_GREETED, false},
    {"AUTHENTICATE", imap_authenticate, IMAP_GREETED, false},
    {"ENABLE", imap_enable, 6, false},
    {"SELECT", imap_select, 6, false},
    {"EXAMINE", imap_examine, 6, false},
    {"CREATE", imap_create, 6, false},
    {"DELETE", imap_delete, 6, false},
    {"RENAME", imap_rename, 6, false},
    {"SUBSCRIBE", imap_subscribe, 6, false},
    {"UNSUBSCRIBE", imap_unsubscribe, 6, false},
    {"LIST", imap_list, 6, false},
    {"LSUB", imap_lsub, 6, false},
    {"STATUS", imap_status, 6, false},
    {"NAMESPACE", imap_namespace, 6, false},
    {"APPEND", imap_append, 6, false},
    {"IDLE", imap_idle, 6, false},
    {"CHECK", imap_check, IMAP_SELECTED, false},
    {"CLOSE", imap_close, IMAP_SELECTED, false},
    {"UNSELECT", imap_unselect, IMAP_SELECTED, false},
    {"EXPUNGE", imap_expunge, IMAP_SELECTED, true},
    {"SEARCH", imap_search, IMAP_SELECTED, true},
    {"FETCH", imap_fetch, IMAP_SELECTED, true},
    {"STORE", imap_store, IMAP_SELECTED, true},
    {"COPY", imap_copy, IMAP_SELECTED, true},
    {"MOVE", imap_move, IMAP_SELECTED, true},
};

static const struct verb *find_verb(struct str name)
{
    for (size_t i = 0; i < sizeof verbs / sizeof *verbs; i++)
        if (str_eqiz(name, verbs[i].name))
            return &verbs[i];
    return NULL;
}

static void dispatch(struct imap_session *s)
{
    struct imap_in in = imap_in(s->a, buf_str(&s->text));
    struct str word;

    s->tag = STR("*");
    s->done = s->by_uid = s->sync_now = false;
    s->verb = NULL;
    if (!imap_tag(&in, &s->tag) || !imap_space(&in) || !imap_atom(&in, &word)) {
        imap_reject(s, "Expected a tag and a command");
        return;
    }
    const struct verb *v = find_verb(word);
    if (v == NULL && str_eqiz(word, "UID") && imap_space(&in) && imap_atom(&in, &word)) {
        v = find_verb(word);
        s->by_uid = true;
    }
    if (v == NULL || (s->by_uid && !v->uid)) {
        imap_reject(s, "Unknown command");
        return;
    }
    if (!(v->states & s->state)) {
        imap_reject(s, "%s",
                    s->state == IMAP_GREETED     ? "Please sign in first"
                    : v->states == IMAP_SELECTED ? "No mailbox is selected"
                                                 : "Not possible after sign-in");
        return;
    }
    s->verb = v->name;
    v->fn(s, &in);
    if (in.bad && !s->done)
        imap_reject(s, "%s: %s", v->name, in.bad);
    if (s->done && !in.bad)
        s->bad_commands = 0;
}

void imap_task_end(struct imap_session *s)
{
    s->task = NULL;
    s->busy = false;
    arena_free(&s->a);
    s->verb = NULL;
    s->tag = STR_NONE;
    if (stream_closed(s->stream)) {
        session_free(s);
        return;
    }
    if (s->stopping)
        imap_bye(s, "Server is stopping");
    stream_resume(s->stream);
    if (s->idling && (s->dirty || s->arrived))
        imap_idle_wake(s);
}

static void command_task(void *arg)
{
    struct imap_session *s = arg;

    s->task = task_self();
    s->a = arena_new(2048);
    if (s->sasl)
        imap_sasl_line(s, buf_str(&s->text));
    else
        dispatch(s);
    if (s->text.len)
        buf_wipe(&s->text); /* LOGIN's password stood there */
    imap_task_end(s);
}

void imap_spawn(struct imap_session *s, void (*fn)(void *))
{
    if (s->busy)
        return;
    s->busy = true;
    stream_pause(s->stream);
    task_spawn(fn, s); /* may have freed the session already */
}

bool imap_wait_input(struct imap_session *s)
{
    while (stream_in(s->stream)->len == 0 && !stream_closed(s->stream) && !task_cancelled()) {
        s->want_input = true;
        stream_resume(s->stream);
        task_park();
    }
    if (s->want_input) {
        s->want_input = false;
        stream_pause(s->stream);
    }
    return stream_in(s->stream)->len > 0 && !task_cancelled();
}

/* --- collecting a command ----------------------------------------------------------------------
 */

/* "{n}" or "{n+}" at the end of a line. */
static bool literal_at_end(struct str text, uint64_t *n_r, bool *plus_r)
{
    if (text.n < 3 || text.p[text.n - 1] != '}')
        return false;
    ptrdiff_t open = str_rchr(text, '{');
    if (open < 0)
        return false;
    struct str digits = str_make(text.p + open + 1, text.n - (size_t)open - 2);
    *plus_r = digits.n && digits.p[digits.n - 1] == '+';
    if (*plus_r)
        digits.n--;
    return digits.n <= 10 && str_u64(digits, n_r);
}

static void simple_reply(struct imap_session *s, const char *text)
{
    struct str tag = buf_str(&s->text);
    ptrdiff_t blank = str_chr(tag, ' ');
    tag = blank > 0 ? str_head(tag, (size_t)blank) : STR("*");
    stream_printf(s->stream, "%.*s %s\r\n", STR_ARG(str_head(tag, 200)), text);
    buf_clear(&s->text);
}

/* The collected text ends with a literal's announcement.  False: stop collecting for now. */
static bool begin_literal(struct imap_session *s, uint64_t n, bool plus)
{
    size_t cap = s->state == IMAP_GREETED ? PREAUTH_MAX : IMAP_COMMAND_MAX;

    if (s->state != IMAP_GREETED && imap_append_ready(buf_str(&s->text))) {
        s->append_size = n;
        s->append_sync = !plus;
        imap_spawn(s, command_task);
        return false;
    }
    if (n > IMAP_LITERAL_MAX || s->text.len + n + 2 > cap) {
        if (plus) {
            s->discard = n;
            s->discard_line = true;
        }
        simple_reply(s, "BAD [LIMIT] Literal too large");
        return true;
    }
    if (!buf_addz(&s->text, "\r\n")) {
        imap_bye(s, "Command too long");
        return false;
    }
    s->literal_left = n;
    if (!plus)
        stream_printf(s->stream, "+ OK\r\n");
    return true;
}

/* Takes what it can from the input; false when nothing more can be done now. */
static bool collect(struct imap_session *s)
{
    struct buf *in = stream_in(s->stream);
    struct str l;
    size_t used;

    if (s->discard > 0 || s->literal_left > 0) {
        uint64_t *left = s->discard > 0 ? &s->discard : &s->literal_left;
        struct str piece = str_head(buf_str(in), *left < SIZE_MAX ? (size_t)*left : SIZE_MAX);
        if (piece.n == 0)
            return false;
        if (left == &s->literal_left)
            buf_add(&s->text, piece);
        *left -= piece.n;
        buf_consume(in, piece.n);
        return true;
    }
    switch (line_get(in, IMAP_LINE_MAX, &l, &used, NULL)) {
    case LINE_MORE:
        return false;
    case LINE_TOO_LONG:
        imap_bye(s, "Command line too long");
        return false;
    case LINE_OK:
        break;
    }
    if (s->discard_line) { /* what follows a refused literal; it may announce another */
        uint64_t n;
        bool plus;
        if (!literal_at_end(l, &n, &plus) || !plus)
            s->discard_line = false;
        else
            s->discard = n;
        buf_consume(in, used);
        return true;
    }
    if (s->idling) {
        struct str copy = str_head(l, 100);
        char text[100];
        if (copy.n)
            memcpy(text, copy.p, copy.n);
        buf_consume(in, used);
        imap_idle_line(s, str_make(text, copy.n)); /* may have freed the session */
        return false;
    }
    bool fits = s->state != IMAP_GREETED || s->text.len + l.n <= PREAUTH_MAX;
    if (!fits || (l.n && !buf_add(&s->text, l))) {
        imap_bye(s, "Command too long");
        return false;
    }
    buf_consume(in, used);
    uint64_t n;
    bool plus;
    if (!s->sasl && literal_at_end(buf_str(&s->text), &n, &plus))
        return begin_literal(s, n, plus);
    if (s->text.len == 0 && !s->sasl)
        return true; /* empty lines between commands are forgiven */
    s->append_size = UINT64_MAX;
    imap_spawn(s, command_task);
    return false;
}

static void on_data(struct imap_session *s)
{
    if (s->want_input) {
        s->want_input = false;
        stream_pause(s->stream);
        task_wake(s->task);
        return;
    }
    /* A command may run to its end, and the session with it, inside imap_spawn(): collect() then
     * answers false, and nothing of the session is touched any more. */
    while (collect(s))
        if (s->closing || s->busy)
            break;
}

/* --- life --------------------------------------------------------------------------------------
 */

static void greet(struct imap_session *s)
{
    s->a = arena_new(1024);
    imap_untagged(s, "OK [CAPABILITY %.*s] %.*s IMAP4rev1 server ready",
                  STR_ARG(imap_capabilities(s)), STR_ARG(setting_str("server.product")));
    arena_free(&s->a);
}

static void on_event(void *ctx, struct stream *st, enum stream_event ev)
{
    struct imap_session *s = ctx;

    (void)st;
    switch (ev) {
    case STREAM_TLS:
        if (s->svc->tls_mode == SERVICE_TLS)
            greet(s);
        break;
    case STREAM_DATA:
        if (!s->closing && (!s->busy || s->want_input))
            on_data(s);
        break;
    case STREAM_TIMEOUT:
        if (s->busy && !s->want_input)
            break;
        imap_bye(s, "Idle for too long");
        break;
    case STREAM_CLOSED:
        s->closing = true;
        if (!s->busy)
            session_free(s);
        else if (s->task)
            task_cancel(s->task);
        break;
    case STREAM_DRAINED:
        break;
    }
}

void imap_accept(const struct service *svc, int fd, const struct sockaddr_storage *peer)
{
    struct imap_session *s = xcalloc(1, sizeof *s);
    struct err e = ERR_INIT;

    s->svc = svc;
    s->state = IMAP_GREETED;
    buf_init(&s->text, IMAP_COMMAND_MAX);
    s->stream = stream_new(fd, peer, IMAP_LINE_MAX + 2, on_event, s);
    s->next = sessions;
    if (sessions)
        sessions->prev = s;
    sessions = s;
    session_count++;
    int full = shm_session_enter(svc->id, peer, (unsigned)setting_int("imap.max_sessions"),
                                 (unsigned)setting_int("imap.max_sessions_per_client"), 0, false);
    s->counted = full == 0;
    stream_timeout(s->stream, (unsigned)setting_int("imap.login_timeout"));
    bool allowed = access_allowed(svc->name, peer), blocked = shm_blocked(peer);
    if (svc->tls_mode == SERVICE_TLS) {
        /* Nothing can be said before the handshake, and a refused client is not worth one. */
        if (blocked || full || !allowed || stream_start_tls(s->stream, svc->tls, &e) != 0) {
            s->closing = true;
            stream_finish(s->stream);
        }
        return;
    }
    if (blocked)
        imap_bye(s, "[UNAVAILABLE] Server access temporarily blocked! Please try again later");
    else if (!allowed)
        imap_bye(s, "%.*s IMAP4rev1 Server access not allowed!",
                 STR_ARG(setting_str("server.product")));
    else if (full == 2)
        imap_bye(s, "Too many connections from this address!");
    else if (full)
        imap_bye(s, "[UNAVAILABLE] Too many connections, try again later");
    else
        greet(s);
}

void imap_stop_all(void)
{
    for (struct imap_session *s = sessions, *next; s != NULL; s = next) {
        next = s->next;
        s->stopping = true;
        if (!s->busy)
            imap_bye(s, "Server is stopping");
    }
}

unsigned imap_session_count(void)
{
    return session_count;
}
