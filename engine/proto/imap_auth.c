/* CAPABILITY, NOOP, LOGOUT, ID, STARTTLS, LOGIN, AUTHENTICATE (RFC 3501 6.1, 6.2; RFC 2971, 4959).
 */
#include "core/log.h"
#include "core/loop.h"
#include "core/shm.h"
#include "mail/encode.h"
#include "proto/imap_int.h"
#include "proto/login.h"
#include "store/setting.h"

#include <stdio.h>
#include <string.h>

static bool plain_allowed(struct imap_session *s)
{
    return login_plain_allowed(stream_is_tls(s->stream), stream_peer_text(s->stream));
}

struct str imap_capabilities(struct imap_session *s)
{
    struct buf b;
    bool tls = stream_is_tls(s->stream);

    buf_init(&b, 4096);
    buf_addz(&b, "IMAP4rev1 LITERAL+ SASL-IR ID ENABLE NAMESPACE CHILDREN UNSELECT UIDPLUS MOVE "
                 "SPECIAL-USE CREATE-SPECIAL-USE LIST-EXTENDED LIST-STATUS STATUS=SIZE");
    if (setting_bool("imap.idle"))
        buf_addz(&b, " IDLE");
    buf_printf(&b, " APPENDLIMIT=%lld", (long long)setting_int("imap.max_append_size"));
    if (s->state == IMAP_GREETED) {
        if (s->svc->tls && !tls)
            buf_addz(&b, " STARTTLS");
        bool required = s->svc->tls_mode == SERVICE_STARTTLS_REQUIRED && !tls;
        bool plain = plain_allowed(s) && !required;
        if (!plain)
            buf_addz(&b, " LOGINDISABLED");
        if (!required) {
            struct str list = str_of(sasl_mechanisms(tls, plain));
            while (list.p) {
                struct str m = str_cut(&list, ' ');
                if (m.n)
                    buf_printf(&b, " AUTH=%.*s", STR_ARG(m));
            }
        }
    }
    struct str r = arena_dup(s->a, buf_str(&b));
    buf_free(&b);
    return r;
}

void imap_capability(struct imap_session *s, struct imap_in *in)
{
    if (!imap_end(in))
        return;
    imap_untagged(s, "CAPABILITY %.*s", STR_ARG(imap_capabilities(s)));
    imap_ok(s, "Capability completed");
}

void imap_noop(struct imap_session *s, struct imap_in *in)
{
    if (!imap_end(in))
        return;
    s->sync_now = true;
    imap_ok(s, "NOOP completed");
}

void imap_logout(struct imap_session *s, struct imap_in *in)
{
    if (!imap_end(in))
        return;
    imap_deselect(s);
    imap_untagged(s, "BYE Logging out");
    imap_ok(s, "Logout completed");
    s->closing = true;
    stream_finish(s->stream);
}

/* What the client says goes to the log, in debug mode only: RFC 2971 4 forbids acting on it. */
void imap_id(struct imap_session *s, struct imap_in *in)
{
    struct str key, value;

    if (!imap_space(in))
        return;
    if (imap_at(in, '(')) {
        in->p++;
        for (unsigned n = 0; !imap_at(in, ')'); n++) {
            if ((n && !imap_space(in)) || !imap_string(in, &key) || !imap_space(in) ||
                !imap_nstring(in, &value))
                return;
            if (n >= 30 || key.n > 30 || value.n > 1024) {
                imap_bad(in, "too much identification");
                return;
            }
            log_debug("imap", "%s: client %.*s: %.*s", stream_peer_text(s->stream), STR_ARG(key),
                      STR_ARG(value));
        }
        in->p++;
    } else if (!imap_nstring(in, &key)) {
        return;
    }
    if (!imap_end(in))
        return;
    struct buf b;
    buf_init(&b, 1024);
    imap_put_string(&b, setting_str("server.product"));
    imap_untagged(s, "ID (\"name\" %.*s \"version\" \"" MOONPOST_VERSION "\")",
                  STR_ARG(buf_str(&b)));
    buf_free(&b);
    imap_ok(s, "ID completed");
}

void imap_starttls(struct imap_session *s, struct imap_in *in)
{
    struct err e = ERR_INIT;

    if (!imap_end(in))
        return;
    if (stream_is_tls(s->stream)) {
        imap_reject(s, "TLS is on already");
        return;
    }
    if (s->svc->tls == NULL) {
        imap_reject(s, "TLS is not offered here");
        return;
    }
    imap_ok(s, "Begin TLS negotiation now");
    if (stream_start_tls(s->stream, s->svc->tls, &e) != 0) {
        log_info("imap", "%s: STARTTLS: %s", stream_peer_text(s->stream), e.text);
        s->closing = true;
        stream_finish(s->stream);
    }
}

/* The service wants TLS first? */
static bool tls_missing(struct imap_session *s)
{
    if (s->svc->tls_mode != SERVICE_STARTTLS_REQUIRED || stream_is_tls(s->stream))
        return false;
    imap_no(s, "[PRIVACYREQUIRED] Use STARTTLS first");
    return true;
}

static void failed(struct imap_session *s, const struct err *e)
{
    bool refused = e->cls == ERR_DENIED || e->cls == ERR_NOTFOUND || e->cls == ERR_SYNTAX;

    if (!refused) {
        imap_fail(s, e, "Cannot sign in now, try again later");
        return;
    }
    log_info("imap", "%s: sign-in failed: %s", stream_peer_text(s->stream), e->text);
    imap_no(s, "[AUTHENTICATIONFAILED] User name or password is wrong");
    if (++s->failed_logins >= (unsigned)setting_int("security.max_failed_logins"))
        imap_bye(s, "Too many failed sign-ins");
}

static void signed_in(struct imap_session *s, const struct account *a)
{
    if (imap_count_enter(IMAP_COUNT_LOGIN, a->id, 0,
                         (unsigned)setting_int("imap.max_sessions_per_user")) != 0) {
        imap_no(s, "[LIMIT] Too many logins for this user");
        return;
    }
    s->user_counted = true;
    s->account = a->id;
    snprintf(s->user, sizeof s->user, "%.*s", STR_ARG(a->name));
    s->state = IMAP_AUTHENTICATED;
    s->failed_logins = 0;
    stream_timeout(s->stream, (unsigned)setting_int("imap.timeout"));
    log_info("imap", "%s: %s signed in%s%s", stream_peer_text(s->stream), s->user,
             stream_is_tls(s->stream) ? ", " : "", stream_tls_text(s->stream));
    imap_ok(s, "[CAPABILITY %.*s] Signed in", STR_ARG(imap_capabilities(s)));
}

void imap_login(struct imap_session *s, struct imap_in *in)
{
    struct str user, password;
    struct account a;
    struct err e = ERR_INIT;

    if (!imap_space(in) || !imap_astring(in, &user) || !imap_space(in) ||
        !imap_astring(in, &password) || !imap_end(in))
        return;
    if (tls_missing(s))
        return;
    if (!plain_allowed(s)) {
        imap_no(s, "[PRIVACYREQUIRED] Passwords are taken over TLS only");
        return;
    }
    if (user.n == 0 || user.n > 255 || !str_utf8(user)) {
        imap_no(s, "[AUTHENTICATIONFAILED] User name or password is wrong");
        return;
    }
    if (login_password(user, password, ACCESS_IMAP, stream_peer_text(s->stream), &a, s->a, &e) != 0)
        failed(s, &e);
    else
        signed_in(s, &a);
}

static void sasl_outcome(struct imap_session *s, struct str given)
{
    struct str out;
    struct account a;
    struct err e = ERR_INIT;

    switch (sasl_step(s->sasl, given, s->a, &out, &a, &e)) {
    case SASL_CONTINUE:
        stream_printf(s->stream, "+ %.*s\r\n", STR_ARG(out));
        return;
    case SASL_OK:
        sasl_free(&s->sasl);
        signed_in(s, &a);
        return;
    case SASL_BAD:
        sasl_free(&s->sasl);
        imap_reject(s, "Authentication was cancelled or malformed");
        return;
    case SASL_FAILED:
        if (e.cls == ERR_NONE)
            err_set(&e, ERR_DENIED, "wrong credentials");
        sasl_free(&s->sasl);
        failed(s, &e);
        return;
    case SASL_TEMP:
        sasl_free(&s->sasl);
        failed(s, &e);
        return;
    }
}

void imap_authenticate(struct imap_session *s, struct imap_in *in)
{
    struct str mechanism, initial = STR_NONE;

    if (!imap_space(in) || !imap_atom(in, &mechanism))
        return;
    if (imap_at(in, ' ')) {
        in->p++;
        initial = str_make(in->p, (size_t)(in->end - in->p));
        in->p = in->end;
        if (str_eqz(initial, "=")) /* an empty response (RFC 4959 3) */
            initial = STR("");
    }
    if (!imap_end(in) || tls_missing(s))
        return;
    bool plain = plain_allowed(s);
    s->sasl = sasl_new(mechanism, ACCESS_IMAP, stream_peer_text(s->stream),
                       stream_is_tls(s->stream), plain);
    if (s->sasl == NULL) {
        if (!plain && !stream_is_tls(s->stream))
            imap_no(s, "[PRIVACYREQUIRED] This mechanism is not offered without TLS");
        else
            imap_no(s, "[CANNOT] Unknown authentication mechanism");
        return;
    }
    snprintf(s->idle_tag, sizeof s->idle_tag, "%.*s", STR_ARG(s->tag));
    sasl_outcome(s, initial);
}

void imap_sasl_line(struct imap_session *s, struct str given)
{
    s->tag = arena_dup(s->a, str_of(s->idle_tag));
    s->done = s->by_uid = s->sync_now = false;
    sasl_outcome(s, given);
}
