/* SMTP: AUTH (RFC 4954). */
#include "core/log.h"
#include "proto/login.h"
#include "proto/smtp_int.h"
#include "store/access.h"
#include "store/setting.h"

bool smtp_plain_allowed(const struct smtp_session *s)
{
    return login_plain_allowed(stream_is_tls(s->stream), stream_peer_text(s->stream));
}

static void failed(struct smtp_session *s, const char *reply)
{
    smtp_reply(s, "%s", reply);
    if (++s->failed_logins >= (unsigned)setting_int("security.max_failed_logins")) {
        smtp_reply(s, "421 4.7.0 %s too many failed sign-ins", smtp_host_name());
        smtp_close(s);
    }
}

static void signed_in(struct smtp_session *s, const struct account *a)
{
    if (!access_user(s->svc->name, stream_peer_text(s->stream), a->name)) {
        log_info("smtp", "%s: %.*s may not sign in from there", stream_peer_text(s->stream),
                 STR_ARG(a->name));
        failed(s, "535 5.7.8 Authentication credentials invalid");
        return;
    }
    s->account = *a;
    s->account.name = arena_dup(s->arena, a->name);
    s->account.forward = s->account.assistant = STR("");
    s->authenticated = true;
    hook_env_set(s->env, "AuthUser", hv_str(s->account.name));
    log_info("smtp", "%s: %.*s signed in", stream_peer_text(s->stream), STR_ARG(s->account.name));
    smtp_reply(s, "235 2.7.0 Authentication succeeded");
}

static void outcome(struct smtp_session *s, struct str line)
{
    struct str out;
    struct account a;
    struct err e = ERR_INIT;

    enum sasl_result r = sasl_step(s->sasl, line, s->cmd, &out, &a, &e);
    if (r == SASL_CONTINUE) {
        s->phase = SMTP_AUTH;
        stream_printf(s->stream, "334 %.*s\r\n", STR_ARG(out)); /* longer than a reply may be */
        return;
    }
    s->phase = SMTP_COMMAND;
    sasl_free(&s->sasl);
    if (r != SASL_OK)
        log_info("smtp", "%s: sign-in failed: %s", stream_peer_text(s->stream), e.text);
    switch (r) {
    case SASL_OK:
        signed_in(s, &a);
        break;
    case SASL_FAILED:
        failed(s, "535 5.7.8 Authentication credentials invalid");
        break;
    case SASL_BAD:
        failed(s, "501 5.5.2 authentication exchange cancelled or malformed");
        break;
    default:
        smtp_reply(s, "454 4.7.0 Temporary authentication failure");
    }
}

void smtp_auth_begin(struct smtp_session *s, struct str arg)
{
    bool secure = stream_is_tls(s->stream);
    struct hval v;

    if (s->authenticated) {
        smtp_bad(s, "503 5.5.1 you have signed in already");
        return;
    }
    if (s->tx.open) {
        smtp_bad(s, "503 5.5.1 not during a mail transaction");
        return;
    }
    if (!s->esmtp ||
        (hook_env_get(s->env, "AuthenticationAllowed", s->cmd, &v) && !hv_as_bool(&v, true))) {
        smtp_bad(s, s->esmtp ? "502 5.5.1 AUTH is not offered" : "503 5.5.1 send EHLO first");
        return;
    }
    struct str initial = arg;
    struct str mech = str_cut(&initial, ' ');
    if (mech.n == 0) {
        smtp_bad(s, "501 5.5.4 mechanism missing");
        return;
    }
    s->sasl =
        sasl_new(mech, ACCESS_SMTP, stream_peer_text(s->stream), secure, smtp_plain_allowed(s));
    if (s->sasl == NULL) {
        if (!secure && (str_eqi(mech, STR("PLAIN")) || str_eqi(mech, STR("LOGIN"))))
            smtp_reply(s, "538 5.7.11 Encryption required for requested authentication mechanism");
        else
            smtp_bad(s, "504 5.5.4 mechanism is not offered");
        return;
    }
    if (initial.p != NULL && str_eq(str_trim(initial), STR("=")))
        initial = STR("");
    outcome(s, initial.p ? str_trim(initial) : STR_NONE);
}

void smtp_auth_line(struct smtp_session *s, struct str line)
{
    outcome(s, line);
}
