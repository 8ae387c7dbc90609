/* POP3: USER/PASS, AUTH and STLS. */
#include "core/log.h"
#include "core/shm.h"
#include "proto/login.h"
#include "proto/pop3_int.h"
#include "store/setting.h"

#include <stdio.h>

bool pop3_plain_allowed(struct pop3_session *s)
{
    return login_plain_allowed(stream_is_tls(s->stream), stream_peer_text(s->stream));
}

static bool tls_missing(struct pop3_session *s)
{
    if (s->svc->tls_mode != SERVICE_STARTTLS_REQUIRED || stream_is_tls(s->stream))
        return false;
    pop3_reply(s, "-ERR STLS is required first");
    return true;
}

static void failed(struct pop3_session *s, const struct err *e)
{
    if (e->cls == ERR_DENIED || e->cls == ERR_NOTFOUND || e->cls == ERR_SYNTAX) {
        log_info("pop3", "%s: sign-in failed: %s", stream_peer_text(s->stream), e->text);
        pop3_reply(s, "-ERR [AUTH] user name or password is wrong");
        s->user[0] = '\0';
        if (++s->failures >= (unsigned)setting_int("security.max_failed_logins"))
            pop3_close(s);
    } else {
        pop3_fail(s, e, "cannot sign in now, try again later");
    }
}

static void signed_in(struct pop3_session *s, const struct account *a)
{
    struct err e = ERR_INIT;

    if (pop3_open_maildrop(s, a, &e) != 0) {
        if (e.cls == ERR_DENIED)
            pop3_reply(s, "-ERR [IN-USE] Mailbox Locked");
        else
            pop3_fail(s, &e, "cannot open the mailbox now");
        return;
    }
    s->state = POP3_TRANSACTION;
    log_info("pop3", "%s: %s signed in, %u messages%s%s", stream_peer_text(s->stream), s->name,
             s->count, stream_is_tls(s->stream) ? ", " : "", stream_tls_text(s->stream));
    pop3_reply(s, "+OK %u messages", s->count);
}

void pop3_user(struct pop3_session *s, struct str arg)
{
    if (tls_missing(s))
        return;
    if (!pop3_plain_allowed(s)) {
        pop3_reply(s, "-ERR [AUTH] use STLS or AUTH SCRAM-SHA-256 first");
        return;
    }
    arg = str_trim(arg);
    if (arg.n == 0 || arg.n >= sizeof s->user || !str_utf8(arg)) {
        pop3_reply(s, "-ERR user name missing or too long");
        return;
    }
    snprintf(s->user, sizeof s->user, "%.*s", STR_ARG(arg));
    pop3_reply(s, "+OK send PASS");
}

void pop3_pass(struct pop3_session *s, struct str arg)
{
    struct account a;
    struct err e = ERR_INIT;

    if (s->user[0] == '\0') {
        pop3_reply(s, "-ERR USER comes first");
        return;
    }
    if (login_password(str_of(s->user), arg, ACCESS_POP3, stream_peer_text(s->stream), &a, s->cmd,
                       &e) != 0)
        failed(s, &e);
    else
        signed_in(s, &a);
}

static void sasl_outcome(struct pop3_session *s, struct str line)
{
    struct str out;
    struct account a;
    struct err e = ERR_INIT;

    switch (sasl_step(s->sasl, line, s->cmd, &out, &a, &e)) {
    case SASL_CONTINUE:
        stream_printf(s->stream, "+ %.*s\r\n", STR_ARG(out)); /* longer than a reply may be */
        return;
    case SASL_OK:
        sasl_free(&s->sasl);
        signed_in(s, &a);
        return;
    case SASL_BAD:
        sasl_free(&s->sasl);
        pop3_reply(s, "-ERR authentication exchange was cancelled or malformed");
        if (++s->failures >= (unsigned)setting_int("security.max_failed_logins"))
            pop3_close(s);
        return;
    case SASL_FAILED:
    case SASL_TEMP:
        sasl_free(&s->sasl);
        failed(s, &e);
        return;
    }
}

void pop3_auth(struct pop3_session *s, struct str arg)
{
    bool secure = stream_is_tls(s->stream), plain = pop3_plain_allowed(s);

    if (tls_missing(s))
        return;
    if (arg.n == 0) { /* RFC 5034 has no list form any more; clients still ask */
        struct str list = str_of(sasl_mechanisms(secure, plain));
        pop3_reply(s, "+OK");
        while (list.p != NULL)
            stream_printf(s->stream, "%.*s\r\n", STR_ARG(str_cut(&list, ' ')));
        stream_printf(s->stream, ".\r\n");
        return;
    }
    struct str initial = arg;
    struct str mech = str_cut(&initial, ' ');
    s->sasl = sasl_new(mech, ACCESS_POP3, stream_peer_text(s->stream), secure, plain);
    if (s->sasl == NULL) {
        pop3_reply(s, "-ERR [AUTH] mechanism is not offered here");
        return;
    }
    if (initial.p != NULL && str_eq(initial, STR("=")))
        initial = STR("");
    sasl_outcome(s, initial);
}

void pop3_auth_line(struct pop3_session *s, struct str line)
{
    sasl_outcome(s, line);
}

void pop3_stls(struct pop3_session *s, struct str arg)
{
    struct err e = ERR_INIT;

    (void)arg;
    if (s->svc->tls == NULL || stream_is_tls(s->stream)) {
        pop3_reply(s, "-ERR TLS is not offered");
        return;
    }
    pop3_reply(s, "+OK begin TLS");
    s->user[0] = '\0';
    if (stream_start_tls(s->stream, s->svc->tls, &e) != 0) {
        log_warn("pop3", "%s: STLS: %s", stream_peer_text(s->stream), e.text);
        pop3_close(s);
    }
}
