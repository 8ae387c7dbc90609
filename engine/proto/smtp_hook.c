/* SMTP: calls to the SMTPSVR, guard and routing hooks, and what holds when nobody answers. */
#include "core/log.h"
#include "proto/smtp_int.h"
#include "store/account.h"
#include "store/setting.h"

#include <stdlib.h>
#include <string.h>

void smtp_hooks_open(struct smtp_session *s)
{
    s->steps = hook_steps_new(s->arena);
    s->env = hook_env_new("smtpsvr", STR(""));
    s->routing = hook_env_new("routing", STR(""));
    s->guard = hook_env_new("guard", STR(""));
    struct hook_env *e = s->env;
    hook_env_set(e, "IPAddress", hv_str(str_of(stream_peer_text(s->stream))));
    hook_env_set(e, "ServerPort", hv_int(stream_local_port(s->stream)));
    hook_env_set(e, "ServerID", hv_int(s->svc->id));
    hook_env_set(e, "ServerName", hv_str(str_of(s->svc->name)));
    hook_env_set(e, "ReverseDNS", hv_str(STR("")));
    hook_env_set(e, "Country", hv_str(STR("")));
    hook_env_set(e, "ValidClientAddress", hv_bool(s->valid_client));
    hook_env_set(e, "LocalClientAddress", hv_bool(s->local_client));
    hook_env_set(e, "AllowRelay", hv_bool(s->relay));
    hook_env_set(e, "AuthenticationRequired", hv_bool(s->svc->kind == SERVICE_SUBMISSION));
    hook_env_set(e, "AuthenticationAllowed", hv_bool(true));
    hook_env_set(e, "MaxLineLength", hv_int(setting_int("smtp.max_line_length")));
    hook_env_set(e, "AddUserAddresses", hv_bool(false));
    hook_env_set(e, "CheckRBL", hv_bool(smtp_rbl_wanted(s)));
    hook_env_set(e, "RBLRejectMessage", hv_str(STR("")));
    hook_env_set(e, "RBLHeader", hv_str(STR("")));
    hook_env_set(e, "RBLResultInfo", hv_map());
    hook_env_set(e, "Encryption", hv_bool(stream_is_tls(s->stream)));
    hook_env_set(e, "EncryptionDetails", hv_str(str_of(stream_tls_text(s->stream))));
    hook_env_set(e, "AuthUser", hv_str(STR("")));
    hook_env_set(e, "HeloName", hv_str(STR("")));
    hook_env_set(e, "MaxSessions", hv_int(setting_int("smtp.max_sessions")));
    hook_env_set(e, "MaxSessionsPerIP", hv_int(setting_int("smtp.max_sessions_per_client")));
}

static bool global_bool(struct smtp_session *s, const char *name, bool fallback)
{
    struct hval v;
    return hook_env_get(s->env, name, s->cmd, &v) ? hv_as_bool(&v, fallback) : fallback;
}

void smtp_hooks_sync(struct smtp_session *s)
{
    s->valid_client = global_bool(s, "ValidClientAddress", s->valid_client);
    s->local_client = global_bool(s, "LocalClientAddress", s->local_client);
    s->relay = global_bool(s, "AllowRelay", s->relay);
}

int smtp_send_script_reply(struct smtp_session *s, struct str reply)
{
    if (reply.n < 3 || !ascii_digit(reply.p[0]) || !ascii_digit(reply.p[1]) ||
        !ascii_digit(reply.p[2]) || reply.p[0] < '2' || reply.p[0] > '5' ||
        (reply.n > 3 && reply.p[3] != ' ' && reply.p[3] != '-'))
        return 0;
    int code = (reply.p[0] - '0') * 100 + (reply.p[1] - '0') * 10 + (reply.p[2] - '0');
    struct str rest = reply;
    while (rest.n > 0) {
        struct str line = str_trim(str_cut(&rest, '\n'));
        bool last = str_trim(rest).n == 0;
        /* A later line may come with or without its code. */
        if (line.n >= 4 && str_eq(str_head(line, 3), str_head(reply, 3)) &&
            (line.p[3] == ' ' || line.p[3] == '-'))
            line = str_from(line, 4);
        else if (line.n == 3)
            line = STR("");
        for (size_t i = 0; i < line.n; i++)
            if ((unsigned char)line.p[i] < 32)
                line = str_head(line, i);
        smtp_reply(s, "%03d%c%.*s", code, last ? ' ' : '-', line.n > 480 ? 480 : (int)line.n,
                   line.p ? line.p : "");
        if (last)
            break;
    }
    return code;
}

void smtp_publish_rcpts(struct smtp_session *s)
{
    if (!s->tx.rcpts_new || s->env == NULL)
        return;
    struct hval list = hv_list();
    for (uint32_t i = 0; i < s->tx.rcpt_count; i++)
        hv_push(s->cmd, &list, hv_str(s->tx.rcpts[i].address));
    hook_env_set(s->env, "Recipients", list);
    s->tx.rcpts_new = false;
}

bool smtp_hook_reply(struct smtp_session *s, enum hook_id id, const struct hval *args,
                     unsigned nargs, struct str *said_r, struct hook_call *call_r)
{
    struct hook_call c = {.id = id,
                          .env = s->env,
                          .arena = s->cmd,
                          .args = args,
                          .nargs = nargs,
                          .steps = s->tx.open ? s->tx.steps : s->steps,
                          .deadline = s->hook_deadline};
    struct err e = ERR_INIT;

    *said_r = STR("");
    if (call_r)
        call_r->nresults = 0;
    if (!hook_present(s->env, id))
        return true;
    smtp_publish_rcpts(s);
    switch (hook_call(&c, &e)) {
    case HOOK_DEFAULT:
        return true;
    case HOOK_FAILED:
        log_error("smtp", "%s: hook %s failed: %s", stream_peer_text(s->stream),
                  hook_info(id)->name, e.text);
        if (hook_info(id)->fail == FAIL_DEFAULT)
            return true;
        smtp_reply(s, hook_info(id)->fail == FAIL_TEMP
                          ? "451 4.3.0 local policy failed, try again later"
                          : "550 5.7.1 refused by local policy");
        return false;
    case HOOK_DONE:
        break;
    }
    smtp_hooks_sync(s);
    if (call_r)
        *call_r = c;
    if (c.nresults == 0 || c.results[0].type != HV_STR || c.results[0].s.n < 3)
        return true;
    if (c.results[0].s.p[0] == '4' || c.results[0].s.p[0] == '5')
        return smtp_send_script_reply(s, c.results[0].s) == 0;
    *said_r = c.results[0].s;
    return true;
}

void smtp_answer(struct smtp_session *s, struct str said, const char *normal)
{
    if (said.n == 0 || smtp_send_script_reply(s, said) == 0)
        smtp_reply(s, "%s", normal);
}

/* --- the guard's rules when no script layer is registered; lua/guard.lua decides the same
 * otherwise. */
static struct str guard_default(enum hook_id id, const struct hval *f)
{
    if (id == HOOK_GUARD_connect)
        return hv_get_bool(f, "valid_client", true) ? STR("") : STR("554 5.7.1 access not allowed");
    if (id == HOOK_GUARD_mail) {
        if (hv_get_bool(f, "tls_required", false) && !hv_get_bool(f, "tls", false))
            return STR("530 5.7.0 Must issue a STARTTLS command first");
        if (hv_get_bool(f, "auth_required", false) && !hv_get_bool(f, "authenticated", false) &&
            !hv_get_bool(f, "allow_unauth", false))
            return STR("530 5.7.0 Authentication required");
        int64_t max = hv_get_int(f, "max_size", 0);
        if (max > 0 && hv_get_int(f, "size", 0) > max)
            return STR("552 5.3.4 Message size exceeds fixed maximum message size");
        return STR("");
    }
    if (id == HOOK_GUARD_rcpt) {
        bool trusted = hv_get_bool(f, "authenticated", false) || hv_get_bool(f, "relay", false);
        struct str kind = hv_get_str(f, "kind", STR("unknown"));
        if (str_eq(kind, STR("unknown")))
            return STR("550 5.1.1 User unknown");
        if (str_eq(kind, STR("remote")) && !trusted)
            return STR("550 5.7.1 Relaying denied");
        if (str_eq(kind, STR("remote")) && !hv_get_bool(f, "may_send_remote", true))
            return STR("550 5.7.1 You may not send mail to other servers");
        return STR("");
    }
    return STR("");
}

bool smtp_guard(struct smtp_session *s, enum hook_id id, struct hval facts)
{
    struct hval args[] = {facts};
    struct hook_call c = {.id = id,
                          .env = s->guard,
                          .arena = s->cmd,
                          .args = args,
                          .nargs = 1,
                          .steps = s->tx.open ? s->tx.steps : s->steps};
    struct err e = ERR_INIT;
    struct str reply = STR("");

    switch (hook_call(&c, &e)) {
    case HOOK_DEFAULT:
        reply = guard_default(id, &facts);
        break;
    case HOOK_DONE:
        reply = c.nresults > 0 ? hv_as_str(&c.results[0], STR("451 4.3.0 local policy failed"))
                               : STR("451 4.3.0 local policy failed");
        break;
    case HOOK_FAILED:
        log_error("smtp", "%s: %s failed: %s", stream_peer_text(s->stream), hook_info(id)->name,
                  e.text);
        reply = STR("451 4.3.0 local policy failed, try again later");
        break;
    }
    if (reply.n == 0)
        return true;
    if (smtp_send_script_reply(s, reply) == 0)
        smtp_reply(s, "451 4.3.0 local policy failed, try again later");
    return false;
}

static int route_from_list(struct smtp_session *s, const struct hval *list, struct smtp_rcpt *r,
                           struct err *e)
{
    struct arena *a = s->tx.arena;

    if (list->type != HV_LIST || list->v.count == 0)
        return err_set(e, ERR_TEMP, "routing returned no targets");
    r->targets = ARENA_ARRAY(a, struct smtp_target, list->v.count);
    r->target_count = list->v.count;
    for (uint32_t i = 0; i < list->v.count; i++) {
        const struct hval *v = &list->v.items[i];
        struct smtp_target *t = &r->targets[i];
        struct str kind = hv_get_str(v, "kind", STR(""));
        if (str_eq(kind, STR("local")))
            t->kind = TARGET_LOCAL;
        else if (str_eq(kind, STR("remote")))
            t->kind = TARGET_REMOTE;
        else if (str_eq(kind, STR("discard")))
            t->kind = TARGET_DISCARD;
        else if (str_eq(kind, STR("unknown")))
            t->kind = TARGET_UNKNOWN;
        else
            return err_set(e, ERR_TEMP, "routing returned an unknown kind of target");
        t->user = arena_dup(a, hv_get_str(v, "user", STR("")));
        t->address = arena_dup(a, hv_get_str(v, "address", STR("")));
        t->route = arena_dup(a, hv_get_str(v, "route", STR("")));
    }
    return 0;
}

int smtp_route(struct smtp_session *s, struct str address, struct smtp_rcpt *r, struct err *e)
{
    struct arena *a = s->tx.arena;
    bool local_sender = s->authenticated || s->relay;

    if (s->routing != NULL) {
        struct hval session = hv_map();
        hv_put(s->cmd, &session, "local_sender", hv_bool(local_sender));
        hv_put(s->cmd, &session, "authenticated", hv_bool(s->authenticated));
        hv_put(s->cmd, &session, "user", hv_str(s->authenticated ? s->account.name : STR("")));
        hv_put(s->cmd, &session, "peer", hv_str(str_of(stream_peer_text(s->stream))));
        struct hval args[] = {hv_str(address), session};
        struct hook_call c = {.id = HOOK_ROUTING_resolve,
                              .env = s->routing,
                              .arena = s->cmd,
                              .args = args,
                              .nargs = 2,
                              .steps = s->tx.steps,
                              .deadline = s->hook_deadline};
        switch (hook_call(&c, e)) {
        case HOOK_DONE:
            if (c.nresults == 0)
                return err_set(e, ERR_TEMP, "routing returned nothing");
            return route_from_list(s, &c.results[0], r, e);
        case HOOK_FAILED:
            e->cls = ERR_TEMP; /* whatever broke: the address may be good */
            return -1;
        case HOOK_DEFAULT:
            break;
        }
    }
    struct resolve_target *v;
    uint32_t n;
    if (address_resolve(address, local_sender, a, &v, &n, e) != 0)
        return -1;
    r->targets = ARENA_ARRAY(a, struct smtp_target, n);
    r->target_count = n;
    for (uint32_t i = 0; i < n; i++) {
        static const enum smtp_target_kind kinds[] = {[RESOLVE_LOCAL] = TARGET_LOCAL,
                                                      [RESOLVE_REMOTE] = TARGET_REMOTE,
                                                      [RESOLVE_UNKNOWN] = TARGET_UNKNOWN,
                                                      [RESOLVE_DISCARD] = TARGET_DISCARD};
        r->targets[i] = (struct smtp_target){.kind = kinds[v[i].what], .route = v[i].route};
        if (v[i].what == RESOLVE_LOCAL)
            r->targets[i].user = v[i].address;
        else
            r->targets[i].address = v[i].address;
    }
    return 0;
}
