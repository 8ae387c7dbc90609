/* SMTP: greeting and commands up to DATA. */
#include "core/limits.h"
#include "core/log.h"
#include "core/shm.h"
#include "net/tls.h"
#include "proto/smtp_int.h"
#include "store/diskfloor.h"
#include "store/setting.h"

#include <stdio.h>

static int64_t global_int(struct smtp_session *s, const char *name, int64_t fallback)
{
    struct hval v;
    return hook_env_get(s->env, name, s->cmd, &v) ? hv_as_int(&v, fallback) : fallback;
}

/* GetMaxMessageSize: at start and at HELO or EHLO. */
static void ask_max_size(struct smtp_session *s)
{
    int64_t size = setting_int("smtp.max_message_size");

    if (hook_present(s->env, HOOK_SMTPSVR_GetMaxMessageSize)) {
        struct hook_call c = {.id = HOOK_SMTPSVR_GetMaxMessageSize,
                              .env = s->env,
                              .arena = s->cmd,
                              .steps = s->steps};
        struct err e = ERR_INIT;
        if (hook_call(&c, &e) == HOOK_DONE && c.nresults > 0 && c.results[0].type != HV_NIL)
            size = hv_as_int(&c.results[0], size);
    }
    if (size <= 0 || size > (int64_t)MESSAGE_MAX)
        size = MESSAGE_MAX;
    s->max_size = (uint64_t)size;
}

static bool load_limits(struct smtp_session *s)
{
    if (!hook_present(s->env, HOOK_SMTPSVR_LoadLimits))
        return true;
    struct hook_call c = {
        .id = HOOK_SMTPSVR_LoadLimits, .env = s->env, .arena = s->cmd, .steps = s->steps};
    struct err e = ERR_INIT;
    hook_call(&c, &e);
    int64_t all = global_int(s, "MaxSessions", 0), client = global_int(s, "MaxSessionsPerIP", 0);
    if (all > 0 && shm_sessions(s->svc->id) > (uint64_t)all)
        return false;
    if (client <= 0 || client == setting_int("smtp.max_sessions_per_client"))
        return true;
    /* Taken anew under the script's own limit. */
    const struct sockaddr_storage *peer = stream_peer(s->stream);
    shm_session_leave(s->svc->id, peer);
    s->counted = shm_session_enter(s->svc->id, peer, 0, (unsigned)client, 0, true) == 0;
    return s->counted;
}

static struct hval common_facts(struct smtp_session *s)
{
    struct hval f = hv_map();
    struct arena *a = s->cmd;

    hv_put(a, &f, "peer", hv_str(str_of(stream_peer_text(s->stream))));
    hv_put(a, &f, "service", hv_str(str_of(s->svc->name)));
    hv_put(a, &f, "submission", hv_bool(s->svc->kind == SERVICE_SUBMISSION));
    hv_put(a, &f, "valid_client", hv_bool(s->valid_client));
    hv_put(a, &f, "local_client", hv_bool(s->local_client));
    hv_put(a, &f, "allow_unauth", hv_bool(s->allow_unauth));
    hv_put(a, &f, "relay", hv_bool(s->relay));
    hv_put(a, &f, "authenticated", hv_bool(s->authenticated));
    hv_put(a, &f, "user", hv_str(s->authenticated ? s->account.name : STR("")));
    hv_put(a, &f, "tls", hv_bool(stream_is_tls(s->stream)));
    hv_put(a, &f, "tls_required", hv_bool(s->svc->tls_mode == SERVICE_STARTTLS_REQUIRED));
    hv_put(a, &f, "auth_required",
           hv_bool(s->svc->kind == SERVICE_SUBMISSION || setting_bool("smtp.require_auth")));
    return f;
}

void smtp_greet(struct smtp_session *s)
{
    s->greeted = true;
    if (disk_state() & DISK_REFUSE_CONNECTIONS) {
        smtp_reply(s, "421 4.3.1 %s is short of disk space, try again later", smtp_host_name());
        smtp_close(s);
        return;
    }
    smtp_hooks_open(s);
    ask_max_size(s);
    if (!load_limits(s)) {
        smtp_reply(s, "421 4.7.0 %s too many connections, try again later", smtp_host_name());
        smtp_close(s);
        return;
    }
    smtp_reverse(s);
    struct str said;
    if (!smtp_hook_reply(s, HOOK_SMTPSVR_Start, NULL, 0, &said, NULL) ||
        !smtp_guard(s, HOOK_GUARD_connect, common_facts(s))) {
        smtp_close(s);
        return;
    }
    smtp_rbl_check(s);
    smtp_answer(s, said,
                arena_printf(s->cmd, "220 %s ESMTP %.*s", smtp_host_name(),
                             STR_ARG(setting_str("server.product")))
                    .p);
}

/* --- HELO, EHLO ------------------------------------------------------------------------------- */

static struct hval capabilities(struct smtp_session *s)
{
    struct hval caps = hv_list();
    struct arena *a = s->cmd;
    bool secure = stream_is_tls(s->stream);
    struct hval v;
    bool auth = !hook_env_get(s->env, "AuthenticationAllowed", a, &v) || hv_as_bool(&v, true);

    hv_push(a, &caps, hv_str(STR("PIPELINING")));
    hv_push(a, &caps, hv_str(arena_printf(a, "SIZE %llu", (unsigned long long)s->max_size)));
    hv_push(a, &caps, hv_str(STR("8BITMIME")));
    hv_push(a, &caps, hv_str(STR("SMTPUTF8")));
    hv_push(a, &caps, hv_str(STR("CHUNKING")));
    hv_push(a, &caps, hv_str(STR("BINARYMIME")));
    if (!setting_bool("smtp.disable_dsn"))
        hv_push(a, &caps, hv_str(STR("DSN")));
    hv_push(a, &caps, hv_str(STR("ENHANCEDSTATUSCODES")));
    if (s->svc->tls && !secure)
        hv_push(a, &caps, hv_str(STR("STARTTLS")));
    if (auth && !s->authenticated)
        hv_push(a, &caps,
                hv_str(arena_printf(a, "AUTH %s", sasl_mechanisms(secure, smtp_plain_allowed(s)))));
    hv_push(a, &caps, hv_str(STR("HELP")));
    return caps;
}

static bool helo_valid(struct str name)
{
    if (name.n == 0 || name.n > 255)
        return false;
    for (size_t i = 0; i < name.n; i++)
        if ((unsigned char)name.p[i] <= ' ' || name.p[i] == 0x7f)
            return false;
    return true;
}

static void cmd_hello(struct smtp_session *s, struct str arg, bool extended)
{
    struct str refused = setting_str("smtp.refuse_helo");

    arg = str_trim(arg);
    if (!helo_valid(arg)) {
        smtp_bad(s, "501 5.5.4 host name missing or malformed");
        return;
    }
    if (refused.n > 0 && str_findi(arg, refused) >= 0) {
        smtp_reply(s, "550 5.7.1 access not allowed");
        smtp_close(s);
        return;
    }
    smtp_reset(s);
    s->esmtp = extended;
    memcpy(s->helo_text, arg.p, arg.n); /* at most 255 bytes: helo_valid() */
    s->helo = str_make(s->helo_text, arg.n);
    hook_env_set(s->env, "HeloName", hv_str(s->helo));
    ask_max_size(s);
    struct hval args[] = {hv_str(extended ? STR("EHLO") : STR("HELO")), hv_str(arg)};
    struct str said;
    if (!smtp_hook_reply(s, HOOK_SMTPSVR_DoHELO, args, 2, &said, NULL)) {
        s->helo = STR_NONE;
        return;
    }
    if (!extended || said.n > 0) {
        smtp_answer(s, said, arena_printf(s->cmd, "250 %s", smtp_host_name()).p);
        return;
    }
    struct hval caps = capabilities(s);
    if (hook_present(s->env, HOOK_SMTPSVR_GetEHLOCapabilities)) {
        struct hook_call c = {.id = HOOK_SMTPSVR_GetEHLOCapabilities,
                              .env = s->env,
                              .arena = s->cmd,
                              .args = &caps,
                              .nargs = 1,
                              .steps = s->steps};
        struct err e = ERR_INIT;
        if (hook_call(&c, &e) == HOOK_DONE && c.nresults > 0 && c.results[0].type == HV_LIST)
            caps = c.results[0];
    }
    smtp_reply(s, "250%c%s", caps.v.count ? '-' : ' ', smtp_host_name());
    for (uint32_t i = 0; i < caps.v.count; i++)
        smtp_reply(s, "250%c%.*s", i + 1 < caps.v.count ? '-' : ' ',
                   STR_ARG(hv_as_str(&caps.v.items[i], STR("HELP"))));
}

static void cmd_helo(struct smtp_session *s, struct str arg)
{
    cmd_hello(s, arg, false);
}

static void cmd_ehlo(struct smtp_session *s, struct str arg)
{
    cmd_hello(s, arg, true);
}

/* --- MAIL ------------------------------------------------------------------------------------- */

static bool mail_param(struct smtp_session *s, struct str key, struct str value)
{
    struct smtp_transaction *t = &s->tx;

    if (str_eqi(key, STR("SIZE"))) {
        if (value.n > 20 || !str_u64(value, &t->declared_size))
            return false;
    } else if (str_eqi(key, STR("BODY"))) {
        if (str_eqi(value, STR("BINARYMIME")))
            t->binary = true;
        else if (!str_eqi(value, STR("7BIT")) && !str_eqi(value, STR("8BITMIME")))
            return false;
    } else if (str_eqi(key, STR("SMTPUTF8"))) {
        if (value.n > 0)
            return false;
        t->smtputf8 = true;
    } else if (str_eqi(key, STR("RET")) && !setting_bool("smtp.disable_dsn")) {
        if ((!str_eqi(value, STR("FULL")) && !str_eqi(value, STR("HDRS"))) || t->ret.n > 0)
            return false;
        t->ret = arena_dup(t->arena, value);
    } else if (str_eqi(key, STR("ENVID")) && !setting_bool("smtp.disable_dsn")) {
        if (value.n == 0 || value.n > 100 || !smtp_xtext_valid(value) || t->envid.n > 0)
            return false; /* RFC 3461 4.4: at most 100 characters */
        t->envid = arena_dup(t->arena, value);
    } else if (!str_eqi(key, STR("AUTH"))) { /* RFC 4954 5: read, and treated as AUTH=<> */
        return false;
    }
    return true;
}

static struct str after(struct str arg, struct str word, bool *ok_r)
{
    *ok_r = str_startsi(arg, word);
    return *ok_r ? str_from(arg, word.n) : arg;
}

/* Does a parameter of that name stand in the list? SMTPUTF8 changes how the path is read. */
static bool has_param(struct str params, struct str name)
{
    struct str key, value;
    while (smtp_param_next(&params, &key, &value) > 0)
        if (str_eqi(key, name))
            return true;
    return false;
}

static void cmd_mail(struct smtp_session *s, struct str arg)
{
    struct smtp_path path;
    struct err e = ERR_INIT;
    bool ok;

    struct str rest = after(arg, STR("FROM:"), &ok);
    if (!ok) {
        smtp_bad(s, "501 5.5.4 Syntax: MAIL FROM:<address>");
        return;
    }
    if (s->tx.open) {
        smtp_bad(s, "503 5.5.1 nested MAIL command");
        return;
    }
    if (s->helo.p == NULL && setting_bool("smtp.require_helo")) {
        smtp_bad(s, "503 5.5.1 send HELO or EHLO first");
        return;
    }
    if (smtp_rbl_refuses(s))
        return;
    if (disk_state() & DISK_REFUSE_MAIL) {
        smtp_reply(s, "452 4.3.1 insufficient system storage, try again later");
        return;
    }
    unsigned most =
        (unsigned)setting_int(s->authenticated || s->relay ? "smtp.max_messages_per_local_session"
                                                           : "smtp.max_messages_per_session");
    if (most > 0 && s->messages >= most) {
        smtp_reply(s, "421 4.7.0 %s too many messages in this session", smtp_host_name());
        smtp_close(s);
        return;
    }
    ptrdiff_t gt = str_rchr(rest, '>');
    bool utf8 = has_param(gt < 0 ? STR("") : str_from(rest, (size_t)gt + 1), STR("SMTPUTF8"));
    if (smtp_path_parse(s->cmd, &rest, PATH_NULL | (utf8 ? PATH_UTF8 : 0), &path, &e) != 0) {
        char text[300];
        snprintf(text, sizeof text, "%s %s", utf8 || str_ascii(arg) ? "501 5.1.7" : "553 5.6.7",
                 e.text);
        smtp_bad(s, text);
        return;
    }
    smtp_reset(s);
    smtp_begin(s, path.address);
    struct hval params = hv_map();
    struct str key, value;
    int more;
    while ((more = smtp_param_next(&rest, &key, &value)) > 0) {
        if (!s->esmtp || !mail_param(s, key, value)) {
            smtp_reset(s);
            smtp_bad(s, "555 5.5.4 MAIL parameter not recognised or not valid");
            return;
        }
        struct str upper = arena_dup(s->cmd, key);
        for (size_t i = 0; i < upper.n; i++)
            if (upper.p[i] >= 'a' && upper.p[i] <= 'z')
                ((char *)upper.p)[i] = (char)(upper.p[i] - 32);
        hv_put(s->cmd, &params, upper.p, hv_str(value));
    }
    if (more < 0) {
        smtp_reset(s);
        smtp_bad(s, "501 5.5.4 malformed MAIL parameter");
        return;
    }
    hook_env_set(s->env, "MailFrom", hv_str(path.address));
    struct hval args[] = {hv_str(path.address), params};
    struct str said;
    bool go = smtp_hook_reply(s, HOOK_SMTPSVR_DoMAILFROM, args, 2, &said, NULL);
    struct hval f = common_facts(s);
    hv_put(s->cmd, &f, "sender", hv_str(path.address));
    hv_put(s->cmd, &f, "size", hv_int((int64_t)(s->tx.declared_size & INT64_MAX)));
    hv_put(s->cmd, &f, "max_size", hv_int((int64_t)s->max_size));
    if (!go || !smtp_guard(s, HOOK_GUARD_mail, f))
        smtp_reset(s);
    else
        smtp_answer(s, said, "250 2.1.0 Sender ok");
}

/* --- RCPT ------------------------------------------------------------------------------------- */

static bool notify_valid(struct str v)
{
    if (str_eqi(v, STR("NEVER")))
        return true;
    if (v.n == 0)
        return false;
    while (v.p != NULL) {
        struct str w = str_cut(&v, ',');
        if (!str_eqi(w, STR("SUCCESS")) && !str_eqi(w, STR("FAILURE")) && !str_eqi(w, STR("DELAY")))
            return false;
    }
    return true;
}

static bool rcpt_param(struct smtp_session *s, struct smtp_rcpt *r, struct str key,
                       struct str value)
{
    if (setting_bool("smtp.disable_dsn"))
        return false;
    if (str_eqi(key, STR("NOTIFY")) && r->notify.n == 0 && notify_valid(value)) {
        r->notify = arena_dup(s->tx.arena, value);
        return true;
    }
    if (str_eqi(key, STR("ORCPT")) && r->orcpt.n == 0 && value.n <= 500 &&
        str_chr(value, ';') > 0 && (s->tx.smtputf8 || smtp_xtext_valid(value))) {
        r->orcpt = arena_dup(s->tx.arena, value);
        return true;
    }
    return false;
}

static void add_rcpt(struct smtp_transaction *t, const struct smtp_rcpt *r)
{
    if (t->rcpt_count == t->rcpt_room) {
        uint32_t room = t->rcpt_room ? t->rcpt_room * 2 : 4;
        struct smtp_rcpt *v = ARENA_ARRAY(t->arena, struct smtp_rcpt, room);
        for (uint32_t i = 0; i < t->rcpt_count; i++)
            v[i] = t->rcpts[i];
        t->rcpts = v;
        t->rcpt_room = room;
    }
    t->rcpts[t->rcpt_count++] = *r;
}

/* One word for the guard: the strictest kind among the targets. */
static struct str kind_of(const struct smtp_rcpt *r)
{
    bool remote = false, local = false;

    for (uint32_t i = 0; i < r->target_count; i++) {
        if (r->targets[i].kind == TARGET_UNKNOWN)
            return STR("unknown");
        remote |= r->targets[i].kind == TARGET_REMOTE && r->targets[i].route.n == 0;
        local |= r->targets[i].kind == TARGET_LOCAL || r->targets[i].route.n > 0;
    }
    return remote ? STR("remote") : local ? STR("local") : STR("discard");
}

static void log_blocked(struct smtp_session *s, struct str address)
{
    if (!hook_present(s->env, HOOK_SMTPSVR_LogRecipientsBlocked))
        return;
    struct hval list = hv_list();
    struct err e = ERR_INIT;
    hv_push(s->cmd, &list, hv_str(address));
    struct hook_call c = {.id = HOOK_SMTPSVR_LogRecipientsBlocked,
                          .env = s->env,
                          .arena = s->cmd,
                          .args = &list,
                          .nargs = 1,
                          .steps = s->tx.steps};
    hook_call(&c, &e);
}

static void cmd_rcpt(struct smtp_session *s, struct str arg)
{
    struct smtp_path path;
    struct smtp_rcpt r = {0};
    struct err e = ERR_INIT;
    bool ok;

    struct str rest = after(arg, STR("TO:"), &ok);
    if (!ok) {
        smtp_bad(s, "501 5.5.4 Syntax: RCPT TO:<address>");
        return;
    }
    if (!s->tx.open) {
        smtp_bad(s, "503 5.5.1 need MAIL first");
        return;
    }
    if (smtp_path_parse(s->cmd, &rest, s->tx.smtputf8 ? PATH_UTF8 : 0, &path, &e) != 0 ||
        path.address.n == 0) {
        char text[300];
        snprintf(text, sizeof text, "%s %s",
                 s->tx.smtputf8 || str_ascii(arg) ? "501 5.1.3" : "553 5.6.7",
                 path.address.n == 0 && e.text[0] == '\0' ? "recipient missing" : e.text);
        smtp_bad(s, text);
        return;
    }
    if ((setting_bool("smtp.refuse_percent") && str_chr(path.local, '%') >= 0) ||
        (setting_bool("smtp.refuse_bang") && str_chr(path.local, '!') >= 0)) {
        smtp_bad(s, "550 5.1.3 addresses with routing characters are not accepted");
        return;
    }
    unsigned most = (unsigned)setting_int(s->authenticated || s->relay ? "smtp.max_recipients_local"
                                                                       : "smtp.max_recipients");
    if (most == 0 || most > RECIPIENTS_MAX)
        most = RECIPIENTS_MAX;
    if (++s->tx.rcpt_commands > most) {
        smtp_reply(s, "452 4.5.3 too many recipients");
        return;
    }
    struct hval params = hv_map();
    struct str key, value;
    int more;
    while ((more = smtp_param_next(&rest, &key, &value)) > 0) {
        if (!s->esmtp || !rcpt_param(s, &r, key, value)) {
            smtp_bad(s, "555 5.5.4 RCPT parameter not recognised or not valid");
            return;
        }
        hv_put(s->cmd, &params, arena_dupz(s->cmd, key), hv_str(value));
    }
    if (more < 0) {
        smtp_bad(s, "501 5.5.4 malformed RCPT parameter");
        return;
    }
    struct hval args[] = {hv_str(path.address), params};
    struct hook_call c = {0};
    struct str said;
    if (!smtp_hook_reply(s, HOOK_SMTPSVR_DoRCPTTO, args, 2, &said, &c)) {
        log_blocked(s, path.address);
        return;
    }
    struct str address = path.address;
    if (c.nresults > 1 && c.results[1].type == HV_STR && c.results[1].s.n > 0)
        address = c.results[1].s;
    r.address = arena_dup(s->tx.arena, address);
    if (smtp_route(s, r.address, &r, &e) != 0) {
        smtp_fail(s, &e, "recipient cannot be checked now, try again later");
        return;
    }
    struct hval f = common_facts(s);
    hv_put(s->cmd, &f, "recipient", hv_str(r.address));
    hv_put(s->cmd, &f, "kind", hv_str(kind_of(&r)));
    hv_put(s->cmd, &f, "sender", hv_str(s->tx.sender));
    hv_put(s->cmd, &f, "may_send_remote", hv_bool(!s->authenticated || s->account.may_send_remote));
    if (!smtp_guard(s, HOOK_GUARD_rcpt, f)) {
        log_blocked(s, r.address);
        if (++s->errors >= (unsigned)setting_int("smtp.max_errors")) {
            smtp_reply(s, "421 4.7.0 %s too many errors, closing", smtp_host_name());
            smtp_close(s);
        }
        return;
    }
    add_rcpt(&s->tx, &r);
    s->tx.rcpts_new = true;
    smtp_answer(s, said, "250 2.1.5 Recipient ok");
}

/* --- the rest --------------------------------------------------------------------------------- */

static void cmd_data(struct smtp_session *s, struct str arg)
{
    if (arg.n > 0) {
        smtp_bad(s, "501 5.5.4 DATA takes no parameters");
        return;
    }
    if (!s->tx.open || s->tx.rcpt_count == 0) {
        smtp_bad(s, s->tx.open ? "554 5.5.1 no valid recipients" : "503 5.5.1 need MAIL first");
        return;
    }
    if (s->tx.binary) { /* RFC 3030 3 */
        smtp_bad(s, "503 5.5.1 BINARYMIME needs BDAT");
        return;
    }
    struct str said;
    if (!smtp_hook_reply(s, HOOK_SMTPSVR_DoDATAStart, NULL, 0, &said, NULL)) {
        smtp_reset(s);
        return;
    }
    if (said.n > 0 && said.p[0] != '3')
        said = STR(""); /* anything but 354 would leave the client out of step */
    smtp_answer(s, said, "354 End data with <CR><LF>.<CR><LF>");
    smtp_data_start(s);
}

static void cmd_bdat(struct smtp_session *s, struct str arg)
{
    struct str rest = str_trim(arg);
    struct str number = str_cut(&rest, ' ');
    uint64_t n;
    bool last = rest.p != NULL && str_eqi(str_trim(rest), STR("LAST"));

    if (!str_u64(number, &n) || (rest.p != NULL && !last)) {
        /* Without the size the stream cannot be followed any more (RFC 3030 2). */
        smtp_reply(s, "501 5.5.4 Syntax: BDAT size [LAST]");
        smtp_close(s);
        return;
    }
    smtp_bdat_start(s, n, last);
}

static void cmd_rset(struct smtp_session *s, struct str arg)
{
    struct hval args[] = {hv_str(arg)};
    smtp_reset(s);
    struct str said;
    if (smtp_hook_reply(s, HOOK_SMTPSVR_DoRSET, args, 1, &said, NULL))
        smtp_answer(s, said, "250 2.0.0 Ok");
}

static void cmd_noop(struct smtp_session *s, struct str arg)
{
    struct hval args[] = {hv_str(arg)};
    struct str said;
    if (smtp_hook_reply(s, HOOK_SMTPSVR_DoNOOP, args, 1, &said, NULL))
        smtp_answer(s, said, "250 2.0.0 Ok");
}

static void cmd_help(struct smtp_session *s, struct str arg)
{
    struct hval args[] = {hv_str(arg)};
    struct str said;
    if (smtp_hook_reply(s, HOOK_SMTPSVR_DoHELP, args, 1, &said, NULL))
        smtp_answer(s, said,
                    "214 2.0.0 EHLO HELO MAIL RCPT DATA BDAT RSET NOOP VRFY EXPN AUTH STARTTLS "
                    "HELP QUIT");
}

static void cmd_quit(struct smtp_session *s, struct str arg)
{
    struct hval args[] = {hv_str(arg)};
    struct str said;
    if (smtp_hook_reply(s, HOOK_SMTPSVR_DoQUIT, args, 1, &said, NULL))
        smtp_answer(s, said,
                    arena_printf(s->cmd, "221 2.0.0 %s closing connection", smtp_host_name()).p);
    smtp_close(s);
}

static void verify(struct smtp_session *s, struct str arg, enum hook_id id)
{
    struct smtp_path path;
    struct smtp_rcpt r = {0};
    struct err e = ERR_INIT;
    struct hval args[] = {hv_str(str_trim(arg))};
    struct str rest = arg;

    struct str said;
    if (!smtp_hook_reply(s, id, args, 1, &said, NULL))
        return;
    if (said.n > 0) {
        smtp_answer(s, said, "252 2.5.0 cannot verify");
        return;
    }
    if (!setting_bool("smtp.enable_vrfy")) {
        smtp_reply(s, "252 2.5.0 cannot verify, but will take a message for delivery");
        return;
    }
    if (smtp_path_parse(s->cmd, &rest, 0, &path, &e) != 0 || path.address.n == 0) {
        smtp_bad(s, "501 5.1.3 address missing or malformed");
        return;
    }
    /* Routing works in the transaction's arena, which VRFY must not fill. */
    struct arena *keep = s->tx.arena;
    s->tx.arena = s->cmd;
    int rc = smtp_route(s, path.address, &r, &e);
    s->tx.arena = keep;
    if (rc != 0)
        smtp_fail(s, &e, "cannot be checked now");
    else if (str_eq(kind_of(&r), STR("local")))
        smtp_reply(s, "250 2.1.5 <%.*s>", STR_ARG(path.address));
    else if (str_eq(kind_of(&r), STR("unknown")))
        smtp_reply(s, "550 5.1.1 User unknown");
    else
        smtp_reply(s, "252 2.5.0 cannot verify");
}

static void cmd_vrfy(struct smtp_session *s, struct str arg)
{
    verify(s, arg, HOOK_SMTPSVR_DoVRFY);
}

static void cmd_expn(struct smtp_session *s, struct str arg)
{
    verify(s, arg, HOOK_SMTPSVR_DoEXPN);
}

static void cmd_starttls(struct smtp_session *s, struct str arg)
{
    struct err e = ERR_INIT;

    if (arg.n > 0) {
        smtp_bad(s, "501 5.5.4 STARTTLS takes no parameters");
    } else if (s->svc->tls == NULL) {
        smtp_bad(s, "502 5.5.1 STARTTLS is not offered");
    } else if (stream_is_tls(s->stream)) {
        smtp_bad(s, "503 5.5.1 TLS is on already");
    } else {
        smtp_reply(s, "220 2.0.0 Ready to start TLS");
        /* RFC 3207 4.2: what was learnt in the clear is forgotten. */
        smtp_reset(s);
        s->helo = STR_NONE;
        s->esmtp = false;
        s->authenticated = false;
        hook_env_set(s->env, "HeloName", hv_str(STR("")));
        hook_env_set(s->env, "AuthUser", hv_str(STR("")));
        if (stream_start_tls(s->stream, s->svc->tls, &e) != 0) {
            log_warn("smtp", "%s: STARTTLS: %s", stream_peer_text(s->stream), e.text);
            smtp_close(s);
        }
    }
}

static const struct {
    const char *verb;
    void (*fn)(struct smtp_session *, struct str arg);
} commands[] = {
    {"HELO", cmd_helo},        {"EHLO", cmd_ehlo},         {"MAIL", cmd_mail}, {"RCPT", cmd_rcpt},
    {"DATA", cmd_data},        {"BDAT", cmd_bdat},         {"RSET", cmd_rset}, {"NOOP", cmd_noop},
    {"HELP", cmd_help},        {"QUIT", cmd_quit},         {"VRFY", cmd_vrfy}, {"EXPN", cmd_expn},
    {"AUTH", smtp_auth_begin}, {"STARTTLS", cmd_starttls},
};

void smtp_command(struct smtp_session *s, struct str line)
{
    struct str arg = line;
    struct str verb = str_cut(&arg, ' ');

    if (arg.p == NULL)
        arg = STR("");
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++)
        if (str_eqiz(verb, commands[i].verb)) {
            hook_env_set(s->env, "Encryption", hv_bool(stream_is_tls(s->stream)));
            hook_env_set(s->env, "EncryptionDetails", hv_str(str_of(stream_tls_text(s->stream))));
            commands[i].fn(s, str_trim(arg));
            return;
        }
    struct hval args[] = {hv_str(line)};
    struct str said;
    if (!smtp_hook_reply(s, HOOK_SMTPSVR_DoUnrecognised, args, 1, &said, NULL))
        return;
    if (said.n > 0)
        smtp_answer(s, said, "500 5.5.2 command not recognised");
    else
        smtp_bad(s, "500 5.5.2 command not recognised");
}
