/* SMTP: who gets a message: users with their forwards, assistants and redirections (spec 1.9),
 * remote addresses; each mailbox and address once. */
#include "core/limits.h"
#include "core/log.h"
#include "mail/encode.h"
#include "mail/headers.h"
#include "proto/smtp_delivery.h"

static void add_local(struct smtp_delivery *d, const struct account *acc)
{
    for (uint32_t i = 0; i < d->local_count; i++)
        if (d->locals[i].mailbox == acc->inbox)
            return;
    if (d->local_count == d->local_room) {
        uint32_t room = d->local_room ? d->local_room * 2 : 4;
        struct deliver_target *v = ARENA_ARRAY(d->a, struct deliver_target, room);
        if (d->local_count)
            memcpy(v, d->locals, d->local_count * sizeof *v);
        struct str *u = ARENA_ARRAY(d->a, struct str, room);
        if (d->local_count)
            memcpy(u, d->users, d->local_count * sizeof *u);
        d->locals = v;
        d->users = u;
        d->local_room = room;
    }
    d->users[d->local_count] = arena_dup(d->a, acc->name);
    d->locals[d->local_count++] =
        (struct deliver_target){.account = acc->id, .mailbox = acc->inbox, .head = 0};
}

static void add_remote(struct smtp_delivery *d, const struct smtp_rcpt *r, struct str address,
                       struct str route)
{
    for (uint32_t i = 0; i < d->remote_count; i++)
        if (str_eqi(d->remotes[i].recipient, address) && str_eq(d->remotes[i].route, route))
            return;
    if (d->remote_count == d->remote_room) {
        uint32_t room = d->remote_room ? d->remote_room * 2 : 4;
        struct deliver_remote *v = ARENA_ARRAY(d->a, struct deliver_remote, room);
        if (d->remote_count)
            memcpy(v, d->remotes, d->remote_count * sizeof *v);
        d->remotes = v;
        d->remote_room = room;
    }
    d->remotes[d->remote_count++] = (struct deliver_remote){
        .head = 1, .recipient = address, .route = route, .notify = r->notify, .orcpt = r->orcpt};
}

static int deliver_address(struct smtp_delivery *d, const struct smtp_rcpt *r, struct str address,
                           unsigned depth, struct err *e);

/* The globals of user_redirect (spec 5.10), from the account and then from the script. */
struct redirect {
    struct str assistants, forwards;
    bool redirect_to_assistant, use_forwards, send_to_normal, should_forward;
    struct str big_target, small_target;
    int64_t big_kb, small_kb;
    bool big_copy, small_copy;
};

static void redirect_map(struct hook_env *env, struct arena *a, const char *name,
                         struct str *target_r, int64_t *kb_r, bool *copy_r)
{
    struct hval v;
    *target_r = STR("");
    *kb_r = 0;
    if (!hook_env_get(env, name, a, &v))
        return;
    *target_r = hv_get_str(&v, "Target", STR(""));
    *kb_r = hv_get_int(&v, "Threshold", 0);
    *copy_r = hv_get_bool(&v, "Copy", false);
}

static void set_redirect(struct hook_env *env, struct arena *a, const char *name, struct str text,
                         bool bigger)
{
    struct hval m = hv_map();
    struct str targets;
    int64_t kb;
    bool copy;

    if (!account_redirect(text, &kb, &copy, &targets))
        return;
    hv_put(a, &m, "Target", hv_str(targets));
    hv_put(a, &m, "Threshold", hv_int(kb));
    hv_put(a, &m, "Copy", hv_bool(copy));
    hv_put(a, &m, "Bigger", hv_bool(bigger));
    hook_env_set(env, name, m);
}

/* Raw header fields, one item a field, as received but for the last line end. */
static struct hval header_lines(struct arena *a, struct str head)
{
    struct hval list = hv_list();
    struct header_field f;
    size_t at = 0;

    while (header_next(head, &at, &f)) {
        struct str line = str_make(head.p + f.start, f.end - f.start);
        while (line.n > 0 && (line.p[line.n - 1] == '\n' || line.p[line.n - 1] == '\r'))
            line.n--;
        hv_push(a, &list, hv_str(line));
    }
    return list;
}

static struct hval global(struct hook_env *env, const char *name, struct arena *a)
{
    struct hval v;
    return hook_env_get(env, name, a, &v) ? v : HV_NONE;
}

static struct redirect run_redirect(struct smtp_delivery *d, const struct account *acc)
{
    struct smtp_session *s = d->s;
    struct redirect r = {.assistants = acc->assistant,
                         .forwards = acc->forward,
                         .redirect_to_assistant = acc->redirect_assistant,
                         .use_forwards = acc->use_forward,
                         .should_forward = true,
                         .big_target = STR(""),
                         .small_target = STR("")};
    if (!account_redirect(acc->big_redirect, &r.big_kb, &r.big_copy, &r.big_target))
        r.big_target = STR("");
    if (!account_redirect(acc->small_redirect, &r.small_kb, &r.small_copy, &r.small_target))
        r.small_target = STR("");
    struct hook_env *env = hook_env_new("user_redirect", acc->name);

    if (!d->killer && hook_present(env, HOOK_USER_REDIRECT)) {
        struct str subject = header_value(d->a, buf_str(&s->in.head), "Subject");
        hook_env_set(env, "User", hv_str(acc->name));
        hook_env_set(env, "MailFrom", hv_str(s->tx.sender));
        hook_env_set(env, "Subject", hv_str(subject.p ? word_decode(d->a, subject) : STR("")));
        hook_env_set(env, "Size", hv_int((int64_t)s->in.size));
        hook_env_set(env, "Headers", header_lines(d->a, buf_str(&s->in.head)));
        hook_env_set(env, "Assistants", hv_str(r.assistants));
        hook_env_set(env, "RedirectToAssistant", hv_bool(r.redirect_to_assistant));
        hook_env_set(env, "Forwards", hv_str(r.forwards));
        hook_env_set(env, "UseForwards", hv_bool(r.use_forwards));
        hook_env_set(env, "SendToNormalRecipient", hv_bool(false));
        hook_env_set(env, "ShouldForward", hv_bool(true));
        hook_env_set(env, "AssistantHours", hv_str(acc->assistant_hours));
        hook_env_set(env, "ForwardHours", hv_str(acc->forward_hours));
        hook_env_set(env, "SkipIfQuarantined", hv_bool(acc->skip_if_quarantined));
        hook_env_set(env, "Quarantined", hv_bool(false));
        set_redirect(env, d->a, "BigRedirect", acc->big_redirect, true);
        set_redirect(env, d->a, "SmallRedirect", acc->small_redirect, false);
        struct hook_call c = smtp_end_call(d, HOOK_USER_REDIRECT, env, NULL, 0);
        struct err e = ERR_INIT;
        if (hook_call(&c, &e) == HOOK_DONE) {
            struct hval v = global(env, "Assistants", d->a);
            r.assistants = hv_as_str(&v, STR(""));
            v = global(env, "Forwards", d->a);
            r.forwards = hv_as_str(&v, STR(""));
            v = global(env, "RedirectToAssistant", d->a);
            r.redirect_to_assistant = hv_as_bool(&v, false);
            v = global(env, "UseForwards", d->a);
            r.use_forwards = hv_as_bool(&v, false);
            v = global(env, "SendToNormalRecipient", d->a);
            r.send_to_normal = hv_as_bool(&v, false);
            v = global(env, "ShouldForward", d->a);
            r.should_forward = hv_as_bool(&v, true);
            redirect_map(env, d->a, "BigRedirect", &r.big_target, &r.big_kb, &r.big_copy);
            redirect_map(env, d->a, "SmallRedirect", &r.small_target, &r.small_kb, &r.small_copy);
        }
    }
    hook_env_free(&env);
    return r;
}

/* Sends to each address of a `;` list; returns how many there were, or -1. */
static int deliver_list(struct smtp_delivery *d, const struct smtp_rcpt *r, struct str list,
                        unsigned depth, struct err *e)
{
    int n = 0;

    while (list.p != NULL && list.n > 0) {
        struct str one = str_trim(str_cut(&list, ';'));
        if (one.n == 0)
            continue;
        if (deliver_address(d, r, one, depth + 1, e) != 0)
            return -1;
        n++;
    }
    return n;
}

/* Is the sender one of the addresses or user names of the list? (spec 1.9: then it is ignored) */
static bool sender_in_list(struct str list, struct str sender)
{
    while (list.p != NULL && list.n > 0) {
        struct str one = str_trim(str_cut(&list, ';'));
        ptrdiff_t at = str_rchr(sender, '@');
        if (one.n > 0 &&
            (str_eqi(one, sender) || (at > 0 && str_eqi(one, str_head(sender, (size_t)at)))))
            return true;
    }
    return false;
}

/* Assistants, forwards and size redirections of a user (spec 1.9).  `depth` > 0: reached through
 * another user's forwarding; the assistants of an assistant are not followed, and after
 * FORWARD_DEPTH_MAX the message stays where it is. */
static int deliver_user(struct smtp_delivery *d, const struct smtp_rcpt *r, struct str user,
                        unsigned depth, struct err *e)
{
    struct account acc;
    int n;

    if (account_find(user, &acc, d->a, e) != 0)
        return -1;
    if (depth > FORWARD_DEPTH_MAX) {
        add_local(d, &acc);
        return 0;
    }
    struct redirect x = run_redirect(d, &acc);
    bool keep = true;
    if (x.should_forward) {
        int64_t size = (int64_t)d->s->in.size;
        if (x.big_kb > 0 && x.big_target.n > 0 && size >= x.big_kb * 1024) {
            if ((n = deliver_list(d, r, x.big_target, depth, e)) < 0)
                return -1;
            keep = keep && (x.big_copy || n == 0);
        }
        if (x.small_kb > 0 && x.small_target.n > 0 && size <= x.small_kb * 1024) {
            if ((n = deliver_list(d, r, x.small_target, depth, e)) < 0)
                return -1;
            keep = keep && (x.small_copy || n == 0);
        }
        if (x.assistants.n > 0 && depth == 0 && !sender_in_list(x.assistants, d->s->tx.sender)) {
            if ((n = deliver_list(d, r, x.assistants, depth, e)) < 0)
                return -1;
            if (x.redirect_to_assistant && n > 0)
                keep = false;
        }
        if (x.use_forwards && x.forwards.n > 0) {
            if ((n = deliver_list(d, r, x.forwards, depth, e)) < 0)
                return -1;
            if (n > 0)
                keep = x.send_to_normal;
        }
    }
    if (keep)
        add_local(d, &acc);
    return 0;
}

static int deliver_targets(struct smtp_delivery *d, const struct smtp_rcpt *envelope,
                           const struct smtp_rcpt *r, unsigned depth, struct err *e)
{
    for (uint32_t i = 0; i < r->target_count; i++) {
        const struct smtp_target *t = &r->targets[i];
        switch (t->kind) {
        case TARGET_LOCAL:
            if (deliver_user(d, envelope, t->user, depth, e) != 0) {
                if (e->cls != ERR_NOTFOUND)
                    return -1;
                /* Removed between RCPT and here: what was promised is kept, with the postmaster. */
                log_warn("smtp", "%.*s: user %.*s has gone, mail goes to the administrator",
                         STR_ARG(d->s->tx.trace), STR_ARG(t->user));
                if (deliver_address(d, envelope, STR("postmaster"), FORWARD_DEPTH_MAX, e) != 0)
                    return -1;
            }
            break;
        case TARGET_REMOTE:
            add_remote(d, envelope, t->address, t->route);
            break;
        case TARGET_DISCARD:
            d->discarded = true;
            break;
        case TARGET_UNKNOWN:
            return err_set(e, ERR_NOTFOUND, "unknown recipient %.*s", STR_ARG(r->address));
        }
    }
    return 0;
}

/* An address that a forward, an assistant or a script names: a user's bare name or an address. */
static int deliver_address(struct smtp_delivery *d, const struct smtp_rcpt *envelope,
                           struct str address, unsigned depth, struct err *e)
{
    struct smtp_rcpt r = {.address = arena_dup(d->a, address)};

    if (str_chr(address, '@') < 0) {
        struct account acc;
        if (account_find(arena_lower(d->a, address), &acc, d->a, e) == 0)
            return deliver_user(d, envelope, acc.name, depth, e);
        if (e->cls != ERR_NOTFOUND)
            return -1;
        log_warn("smtp", "%.*s: forward to unknown user %.*s left out", STR_ARG(d->s->tx.trace),
                 STR_ARG(address));
        return 0;
    }
    bool relay = d->s->relay;
    d->s->relay = true; /* the user's own forwarding may go anywhere */
    int rc = smtp_route(d->s, r.address, &r, e);
    d->s->relay = relay;
    if (rc != 0)
        return -1;
    if (r.target_count == 1 && r.targets[0].kind == TARGET_UNKNOWN) {
        log_warn("smtp", "%.*s: forward to unknown address %.*s left out", STR_ARG(d->s->tx.trace),
                 STR_ARG(address));
        return 0;
    }
    return deliver_targets(d, envelope, &r, depth, e);
}

int smtp_target_rcpt(struct smtp_delivery *d, const struct smtp_rcpt *r, struct err *e)
{
    return deliver_targets(d, r, r, 0, e);
}

int smtp_target_address(struct smtp_delivery *d, const struct smtp_rcpt *envelope,
                        struct str address, struct err *e)
{
    return deliver_address(d, envelope, address, 0, e);
}
