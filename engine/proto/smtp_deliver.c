/* SMTP: a complete message.  Runs the hooks of its end, decides where it goes, stores it in the
 * group commit and sends the one reply.  Nothing is acknowledged before the commit. */
#include "core/json.h"
#include "core/limits.h"
#include "core/log.h"
#include "core/loop.h"
#include "core/shm.h"
#include "mail/address.h"
#include "mail/build.h"
#include "mail/date.h"
#include "mail/encode.h"
#include "mail/headers.h"
#include "mail/mime.h"
#include "proto/smtp_int.h"
#include "store/account.h"
#include "store/bus.h"
#include "store/mailbox.h"
#include "store/setting.h"

#include <stdlib.h>

enum { LEDGER_TEXT_MAX = 16 * 1024 };

/* Where the message goes, gathered from all recipients; one entry a mailbox or remote address. */
struct delivery {
    struct smtp_session *s;
    struct arena *a;
    struct deliver_target *locals;
    struct str *users; /* names behind locals, for the ledger */
    uint32_t local_count, local_room;
    struct deliver_remote *remotes;
    uint32_t remote_count, remote_room;
    bool discarded;
    uint64_t hash;
    bool killer; /* twice a worker had to be killed over it: no hooks, and on hold */
};

static void add_local(struct delivery *d, const struct account *acc)
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

static void add_remote(struct delivery *d, const struct smtp_rcpt *r, struct str address,
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

static int deliver_address(struct delivery *d, const struct smtp_rcpt *r, struct str address,
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

/* A call of a hook between the final dot and its answer: all of them together have one deadline. */
static struct hook_call end_call(struct delivery *d, enum hook_id id, struct hook_env *env,
                                 const struct hval *args, unsigned nargs)
{
    return (struct hook_call){.id = id,
                              .env = env,
                              .arena = d->a,
                              .args = args,
                              .nargs = nargs,
                              .steps = d->s->tx.steps,
                              .deadline = d->s->hook_deadline,
                              .message_hash = d->hash};
}

/* Of sender, recipients and the first 64 KB: how the watchdog knows a message again that was under
 * way when a worker had to be killed (architecture 2). */
static uint64_t message_hash(struct smtp_session *s)
{
    struct buf b;
    uint64_t h;

    buf_init(&b, 65536);
    buf_add(&b, s->tx.sender);
    for (uint32_t i = 0; i < s->tx.rcpt_count; i++)
        buf_add(&b, s->tx.rcpts[i].address);
    buf_add(&b, str_head(buf_str(&s->in.head), 65536 - b.len));
    buf_add(&b, stage_start(s->in.body, 65536 - b.len));
    h = str_hash(buf_str(&b));
    buf_free(&b);
    return h;
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

static struct redirect run_redirect(struct delivery *d, const struct account *acc)
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
        struct hook_call c = end_call(d, HOOK_USER_REDIRECT, env, NULL, 0);
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
static int deliver_list(struct delivery *d, const struct smtp_rcpt *r, struct str list,
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
static int deliver_user(struct delivery *d, const struct smtp_rcpt *r, struct str user,
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

static int deliver_targets(struct delivery *d, const struct smtp_rcpt *envelope,
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
static int deliver_address(struct delivery *d, const struct smtp_rcpt *envelope, struct str address,
                           unsigned depth, struct err *e)
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

/* --- heads ------------------------------------------------------------------------------------ */

static unsigned hops(struct str head)
{
    struct header_field f;
    size_t at = 0;
    unsigned n = 0;

    while (header_find_next(head, STR("Received"), &at, &f))
        n++;
    return n;
}

/* The header section as submitted by a user: Bcc removed, Date and Message-ID added (RFC 6409 8).
 */
static struct str submission_head(struct smtp_session *s, struct str head, struct arena *a)
{
    struct buf b;
    struct header_field f;
    size_t at = 0;
    bool date = false, id = false;

    buf_init(&b, HEADER_MAX + 4096);
    while (header_next(head, &at, &f)) {
        if (str_eqi(f.name, STR("Bcc")) || str_eqi(f.name, STR("Resent-Bcc")))
            continue;
        date |= str_eqi(f.name, STR("Date"));
        id |= str_eqi(f.name, STR("Message-ID"));
        buf_add(&b, str_make(head.p + f.start, f.end - f.start));
    }
    if (!date)
        build_date(&b, date_now(), 0);
    if (!id) {
        struct str v = build_message_id(a, str_of(smtp_host_name()));
        build_field(&b, "Message-ID", v);
    }
    struct str out = arena_dup(a, buf_str(&b));
    buf_free(&b);
    (void)s;
    return out;
}

static struct str received_line(struct smtp_session *s, struct arena *a)
{
    struct buf b;
    struct build_received r = {
        .helo = s->helo.p ? s->helo : STR(""),
        .peer = str_of(stream_peer_text(s->stream)),
        .reverse = s->reverse.p ? s->reverse : STR(""),
        .host = str_of(smtp_host_name()),
        .trace = s->tx.trace,
        .tls = str_of(stream_tls_text(s->stream)),
        .rcpt = s->tx.rcpt_count == 1 ? s->tx.rcpts[0].address : STR(""),
        .with = (s->esmtp ? WITH_ESMTP : 0u) | (stream_is_tls(s->stream) ? WITH_TLS : 0u) |
                (s->authenticated ? WITH_AUTH : 0u) | (s->tx.smtputf8 ? WITH_UTF8 : 0u),
        .at = date_now(),
        .zone = 0,
    };
    buf_init(&b, 8192);
    build_received(&b, &r);
    struct str out = arena_dup(a, buf_str(&b));
    buf_free(&b);
    return out;
}

/* --- the ledger ------------------------------------------------------------------------------- */

static void list_head(struct buf *b, const char *name)
{
    buf_printf(b, ",\"%s\":[", name);
}

/* One more of a list; false when there is no room for further ones. */
static bool list_item(struct buf *b, uint32_t i, uint32_t count, struct str s)
{
    if (b->len > LEDGER_TEXT_MAX - 4 * ADDRESS_MAX - 256) {
        buf_printf(b, "%s\"... and %u more\"", i ? "," : "", count - i);
        return false;
    }
    if (i > 0)
        buf_addc(b, ',');
    return json_str(b, s);
}

/* What the session said, and where the message went. */
static struct str ledger_inputs(struct smtp_session *s, const struct delivery *d, struct arena *a)
{
    struct buf b;

    buf_init(&b, LEDGER_TEXT_MAX);
    buf_addz(&b, "{\"helo\":");
    json_str(&b, s->helo.p ? s->helo : STR(""));
    buf_addz(&b, ",\"tls\":");
    json_str(&b, str_of(stream_tls_text(s->stream)));
    buf_addz(&b, ",\"login\":");
    json_str(&b, s->authenticated ? s->account.name : STR(""));
    buf_addz(&b, ",\"mail\":");
    json_str(&b, s->tx.sender);
    list_head(&b, "rcpt");
    for (uint32_t i = 0; i < s->tx.rcpt_count; i++)
        if (!list_item(&b, i, s->tx.rcpt_count, s->tx.rcpts[i].address))
            break;
    buf_addz(&b, "]");
    list_head(&b, "stored");
    for (uint32_t i = 0; i < d->local_count; i++)
        if (!list_item(&b, i, d->local_count, d->users[i]))
            break;
    buf_addz(&b, "]");
    list_head(&b, "queued");
    for (uint32_t i = 0; i < d->remote_count; i++)
        if (!list_item(&b, i, d->remote_count, d->remotes[i].recipient))
            break;
    buf_printf(&b, "],\"size\":%llu}", (unsigned long long)s->in.size);
    struct str out = arena_dup(a, buf_str(&b));
    buf_free(&b);
    return out;
}

/* --- hooks of the end ------------------------------------------------------------------------- */

static struct hval rcpt_list(struct smtp_session *s, struct arena *a)
{
    struct hval list = hv_list();
    for (uint32_t i = 0; i < s->tx.rcpt_count; i++)
        hv_push(a, &list, hv_str(s->tx.rcpts[i].address));
    return list;
}

static void drop_rcpts(struct smtp_session *s, const struct hval *refused)
{
    uint32_t keep = 0;

    for (uint32_t i = 0; i < s->tx.rcpt_count; i++) {
        bool out = false;
        for (uint32_t k = 0; k < refused->v.count && !out; k++)
            out = str_eqi(hv_as_str(&refused->v.items[k], STR("")), s->tx.rcpts[i].address);
        if (!out)
            s->tx.rcpts[keep++] = s->tx.rcpts[i];
    }
    s->tx.rcpt_count = keep;
}

/* Parts as ProcessMessage sees them (spec 5.2.2). */
static void describe_parts(struct arena *a, struct str head, struct str body, struct hval *mime,
                           struct hval *attachments)
{
    const struct mime_part *root = mime_parse(a, head, body);

    for (const struct mime_part *p = root; p != NULL; p = mime_next(root, p)) {
        struct hval m = hv_map();
        struct str path = mime_path(a, p);
        struct str type_name = mime_param_text(a, &p->params, "name");
        struct str file = mime_filename(a, p);
        struct str disp_name = mime_param_text(a, &p->disposition_params, "filename");
        struct str charset = mime_param(&p->params, "charset");
        hv_put(a, &m, "Path", hv_str(path));
        hv_put(a, &m, "ContentType", hv_str(p->type));
        hv_put(a, &m, "ContentSubtype", hv_str(p->subtype));
        hv_put(a, &m, "ContentTypeFilename", hv_str(type_name.p ? type_name : STR("")));
        hv_put(a, &m, "ContentDisposition", hv_str(p->disposition));
        hv_put(a, &m, "ContentDispositionFilename", hv_str(disp_name.p ? disp_name : STR("")));
        hv_put(a, &m, "Start", hv_int((int64_t)(head.n + 2 + p->header_start)));
        hv_put(a, &m, "BodyStart", hv_int((int64_t)(head.n + 2 + p->body_start)));
        hv_put(a, &m, "End", hv_int((int64_t)(head.n + 2 + p->body_end)));
        hv_put(a, &m, "Encoding", hv_str(p->encoding));
        hv_put(a, &m, "Charset", hv_str(charset.p ? charset : STR("")));
        hv_put(a, &m, "Lines", hv_int(p->lines));
        hv_push(a, mime, m);
        if (file.p != NULL || str_eqi(p->disposition, STR("attachment"))) {
            struct hval t = hv_map();
            hv_put(a, &t, "name", hv_str(file.p ? file : STR("")));
            hv_put(a, &t, "mimetype",
                   hv_str(arena_printf(a, "%.*s/%.*s", STR_ARG(p->type), STR_ARG(p->subtype))));
            hv_put(a, &t, "size", hv_int((int64_t)(p->body_end - p->body_start)));
            hv_put(a, &t, "path", hv_str(path));
            hv_push(a, attachments, t);
        }
    }
}

struct outcome {
    struct hval header_modifiers; /* list of header lines, or nil */
    bool ignore, replaced;
};

/* ProcessMessage.  False: a reply was sent. */
static bool process_message(struct smtp_session *s, struct delivery *d, struct outcome *o)
{
    struct arena *a = d->a;
    struct err e = ERR_INIT;
    struct str head = buf_str(&s->in.head), body, said;
    struct hval mime = hv_list(), attachments = hv_list(), actions = hv_map();

    if (!hook_present(s->env, HOOK_SMTPSVR_ProcessMessage))
        return true;
    if (stage_read(s->in.body, a, &body, &e) != 0) {
        if (e.cls == ERR_LIMIT) {
            log_warn("smtp", "%.*s: too large for ProcessMessage, passed by", STR_ARG(s->tx.trace));
            return true;
        }
        smtp_fail(s, &e, "message cannot be read back");
        return false;
    }
    describe_parts(a, head, body, &mime, &attachments);
    hv_put(a, &actions, "SendToOriginalRecipients", hv_bool(true));
    hv_put(a, &actions, "Delete", hv_bool(false));
    hv_put(a, &actions, "Ignore", hv_bool(false));
    hv_put(a, &actions, "Reason", hv_str(STR("")));
    hv_put(a, &actions, "Recipients", hv_list());
    hv_put(a, &actions, "HeaderModifiers", hv_list());
    struct str subject = header_value(a, head, "Subject");
    struct hval args[] = {hv_str(s->tx.sender),
                          hv_str(subject.p ? word_decode(a, subject) : STR("")),
                          rcpt_list(s, a),
                          actions,
                          mime,
                          hv_int((int64_t)s->in.size),
                          attachments};
    struct hook_call c = end_call(d, HOOK_SMTPSVR_ProcessMessage, s->env, args, 7);
    char *whole = xmalloc(head.n + body.n + 2);
    memcpy(whole, head.p, head.n);
    memcpy(whole + head.n, "\r\n", 2);
    memcpy(whole + head.n + 2, body.p, body.n);
    c.message = str_make(whole, head.n + body.n + 2);
    enum hook_outcome r = hook_call(&c, &e);
    free(whole);
    if (r == HOOK_FAILED) {
        log_error("smtp", "%.*s: ProcessMessage failed: %s", STR_ARG(s->tx.trace), e.text);
        smtp_reply(s, "451 4.3.0 local policy failed, try again later");
        return false;
    }
    if (r != HOOK_DONE)
        return true;
    said = c.nresults > 1 ? hv_as_str(&c.results[1], STR("")) : STR("");
    if (said.n >= 3 && (said.p[0] == '4' || said.p[0] == '5') && smtp_send_script_reply(s, said))
        return false;
    if (said.n > 0)
        log_info("smtp", "%.*s: ProcessMessage: %.*s", STR_ARG(s->tx.trace), STR_ARG(said));
    const struct hval *act = c.nresults > 0 ? &c.results[0] : NULL;
    o->ignore = hv_get_bool(act, "Ignore", false);
    o->replaced = !hv_get_bool(act, "SendToOriginalRecipients", true);
    const struct hval *mods = hv_get(act, "HeaderModifiers");
    if (mods && mods->type == HV_LIST)
        o->header_modifiers = *mods;
    const struct hval *more = hv_get(act, "Recipients");
    struct smtp_rcpt none = {0};
    for (uint32_t i = 0; more && more->type == HV_LIST && i < more->v.count; i++) {
        struct str to = str_trim(hv_as_str(&more->v.items[i], STR("")));
        if (to.n > 0 && deliver_address(d, &none, to, 0, &e) != 0) {
            smtp_fail(s, &e, "recipients cannot be checked now, try again later");
            return false;
        }
    }
    return true;
}

/* Does the address stand in a To or Cc field? */
static bool in_header(struct arena *a, struct str address, const struct list_entry *entries)
{
    for (const struct list_entry *m = entries; m != NULL; m = m->next) {
        struct address one = {.local = m->local, .domain = m->domain};
        if (m->kind == LIST_MAILBOX && str_eqi(address_canonical(a, &one), address))
            return true;
    }
    return false;
}

/* MonitorBcc: the script hears of recipients that stand in no header; whom it wants monitored is
 * noted in the ledger. */
static void monitor_bcc(struct smtp_session *s, struct delivery *d)
{
    struct arena *a = d->a;
    struct str head = buf_str(&s->in.head);
    struct hval bccs = hv_list();
    struct err e = ERR_INIT;

    if (!hook_present(s->env, HOOK_SMTPSVR_MonitorBcc))
        return;
    struct list_entry *shown[2] = {NULL, NULL};
    static const char *const fields[2] = {"To", "Cc"};
    for (int i = 0; i < 2; i++) {
        struct str value = header_value(a, head, fields[i]);
        if (value.p != NULL)
            shown[i] = address_list(a, value);
    }
    for (uint32_t i = 0; i < s->tx.rcpt_count; i++) {
        struct str to = s->tx.rcpts[i].address;
        if (!in_header(a, to, shown[0]) && !in_header(a, to, shown[1]))
            hv_push(a, &bccs, hv_str(to));
    }
    if (bccs.v.count == 0)
        return;
    struct hook_call c = {.id = HOOK_SMTPSVR_MonitorBcc,
                          .env = s->env,
                          .arena = a,
                          .args = &bccs,
                          .nargs = 1,
                          .steps = s->tx.steps};
    if (hook_call(&c, &e) != HOOK_DONE || c.nresults == 0 || c.results[0].type != HV_LIST)
        return;
    for (uint32_t i = 0; i < c.results[0].v.count; i++)
        hook_steps_add(s->tx.steps, hook_info(HOOK_SMTPSVR_MonitorBcc)->name, STR(""), "monitor",
                       hv_as_str(&c.results[0].v.items[i], STR("")), 0);
}

/* Runs what stands between the end of the message and its storage.  False: a reply was sent. */
static bool end_hooks(struct smtp_session *s, struct delivery *d, struct outcome *o)
{
    struct str said;
    struct err e = ERR_INIT;

    if (!smtp_hook_reply(s, HOOK_SMTPSVR_EndMessage, NULL, 0, &said, NULL))
        return false;
    if (hook_present(s->env, HOOK_SMTPSVR_CheckRecipients)) {
        struct hval args[] = {rcpt_list(s, d->a)};
        struct hook_call c = end_call(d, HOOK_SMTPSVR_CheckRecipients, s->env, args, 1);
        enum hook_outcome r = hook_call(&c, &e);
        if (r == HOOK_FAILED) {
            smtp_reply(s, "451 4.3.0 local policy failed, try again later");
            return false;
        }
        if (r == HOOK_DONE && c.nresults > 0 && c.results[0].type == HV_LIST &&
            c.results[0].v.count > 0) {
            /* One reply stands for all recipients, so a refused one refuses the message. */
            drop_rcpts(s, &c.results[0]);
            smtp_reply(s, "550 5.7.1 some recipients are not allowed");
            return false;
        }
    }
    if (!process_message(s, d, o))
        return false;
    monitor_bcc(s, d);
    struct hval f = hv_map();
    hv_put(d->a, &f, "size", hv_int((int64_t)s->in.size));
    hv_put(d->a, &f, "max_size", hv_int((int64_t)s->max_size));
    hv_put(d->a, &f, "hops", hv_int(hops(buf_str(&s->in.head))));
    hv_put(d->a, &f, "max_hops", hv_int(setting_int("smtp.max_hops")));
    return smtp_guard(s, HOOK_GUARD_message, f);
}

static bool check_intake(struct smtp_session *s)
{
    struct smtp_intake *in = &s->in;

    if (in->too_big)
        smtp_reply(s, "552 5.3.4 Message size exceeds fixed maximum message size");
    else if (in->bare)
        smtp_reply(s, "554 5.6.0 bare CR or LF in the message is not accepted");
    else if (in->head_too_big)
        smtp_reply(s, "552 5.3.4 header section is too long");
    else if (in->line_too_long)
        smtp_reply(s, "554 5.6.0 line is too long");
    else if (in->failed)
        smtp_fail(s, &in->err, "message could not be taken, try again later");
    else if (hops(buf_str(&in->head)) > (unsigned)setting_int("smtp.max_hops"))
        smtp_reply(s, "554 5.4.6 too many hops, this message is in a loop");
    else
        return true;
    return false;
}

/* A header line that a script made; anything else is left out. */
static void add_line(struct buf *b, struct arena *a, struct str line)
{
    struct str name = str_trim(str_cut(&line, ':'));

    if (name.n == 0 || line.p == NULL || !str_ascii(name))
        return;
    for (size_t i = 0; i < name.n; i++)
        if (name.p[i] <= ' ' || name.p[i] == 127)
            return;
    build_field(b, arena_dupz(a, name), str_trim(line));
}

/* The lines that scripts and block lists ask for (spec 6 AddHeader). */
static struct str added_lines(struct delivery *d, const struct outcome *o)
{
    const struct hval *mods = &o->header_modifiers;
    struct smtp_session *s = d->s;
    bool rbl = s->rbl.header.n > 0 && !s->authenticated;
    struct buf b;

    if (!rbl && (mods->type != HV_LIST || mods->v.count == 0))
        return STR("");
    buf_init(&b, HEADER_MAX);
    if (rbl)
        add_line(&b, d->a, s->rbl.header);
    for (uint32_t i = 0; mods->type == HV_LIST && i < mods->v.count; i++)
        add_line(&b, d->a, hv_as_str(&mods->v.items[i], STR("")));
    struct str out = arena_dup(d->a, buf_str(&b));
    buf_free(&b);
    return out;
}

static int commit(struct smtp_session *s, struct delivery *d, const struct outcome *o,
                  struct err *e)
{
    struct arena *a = d->a;
    struct str head = buf_str(&s->in.head);
    struct str received = received_line(s, a), added = added_lines(d, o);
    struct deliver_head heads[2] = {{.bytes = STR("")}, {.bytes = STR("")}};
    struct str subject = header_value(a, head, "Subject");
    uint64_t id;

    if (s->authenticated || s->svc->kind == SERVICE_SUBMISSION)
        head = submission_head(s, head, a);
    struct str return_path = arena_printf(a, "Return-Path: <%.*s>\r\n", STR_ARG(s->tx.sender));
    struct str ours[2] = {
        arena_printf(a, "%.*s%.*s%.*s", STR_ARG(return_path), STR_ARG(received), STR_ARG(added)),
        arena_printf(a, "%.*s%.*s", STR_ARG(received), STR_ARG(added))};
    for (int i = 0; i < 2; i++) {
        char *p = arena_alloc(a, ours[i].n + head.n + 2);
        memcpy(p, ours[i].p, ours[i].n);
        memcpy(p + ours[i].n, head.p, head.n);
        memcpy(p + ours[i].n + head.n, "\r\n", 2);
        heads[i].bytes = str_make(p, ours[i].n + head.n + 2);
        heads[i].ours = (uint32_t)ours[i].n;
    }
    /* A variant that nobody names is not stored. */
    struct deliver_head *first = heads;
    uint32_t count = 2;
    if (d->remote_count == 0)
        count = 1;
    if (d->local_count == 0 && d->remote_count > 0) {
        first = &heads[1];
        count = 1;
        for (uint32_t i = 0; i < d->remote_count; i++)
            d->remotes[i].head = 0;
    }
    struct deliver_message m = {
        .stage = s->in.body,
        .sender = s->tx.sender,
        .env_id = s->tx.envid,
        .ret = s->tx.ret,
        .heads = first,
        .head_count = count,
        .targets = d->locals,
        .target_count = d->local_count,
        .remotes = d->remotes,
        .remote_count = d->remote_count,
        .trace = s->tx.trace,
        .ledger_inputs = ledger_inputs(s, d, a),
        .ledger_steps = hook_steps_text(s->tx.steps),
        .ledger_answers = STR(""),
        .auth_user = s->authenticated ? s->account.name : STR(""),
        .peer = str_of(stream_peer_text(s->stream)),
        .subject = subject.p ? word_decode(a, subject) : STR(""),
        .kind = s->authenticated || s->svc->kind == SERVICE_SUBMISSION ? "submission" : "smtp",
    };
    if (d->local_count + d->remote_count == 0) {
        ledger_session(s->tx.trace, m.peer, m.ledger_inputs, m.ledger_steps);
        return 0;
    }
    return deliver_commit(&m, &id, e);
}

static void after_commit(struct smtp_session *s, struct delivery *d)
{
    struct err e = ERR_INIT;

    s->messages++;
    log_info("smtp", "%.*s: from=<%.*s> size=%llu rcpts=%u local=%u remote=%u peer=%s%s%.*s",
             STR_ARG(s->tx.trace), STR_ARG(s->tx.sender), (unsigned long long)s->in.size,
             s->tx.rcpt_count, d->local_count, d->remote_count, stream_peer_text(s->stream),
             s->authenticated ? " user=" : "",
             STR_ARG(s->authenticated ? s->account.name : STR("")));
    if (hook_present(s->env, HOOK_SMTPSVR_LogRecipients)) {
        struct hval args[] = {rcpt_list(s, d->a)};
        struct hook_call c = {.id = HOOK_SMTPSVR_LogRecipients,
                              .env = s->env,
                              .arena = d->a,
                              .args = args,
                              .nargs = 1};
        hook_call(&c, &e);
    }
}

/* Mail of a client that stands in a block list, when it is to be thrown away or goes to one user
 * instead of its recipients.  False: a reply was sent. */
static bool apply_rbl(struct delivery *d, struct outcome *o)
{
    struct smtp_session *s = d->s;
    struct smtp_rcpt none = {0};
    struct err e = ERR_INIT;

    if (s->rbl.discard) {
        o->ignore = true;
    } else if (s->rbl.redirect.n > 0 && !o->ignore && !o->replaced) {
        uint32_t before = d->local_count + d->remote_count;
        if (deliver_address(d, &none, s->rbl.redirect, 0, &e) != 0) {
            smtp_fail(s, &e, "message could not be delivered, try again later");
            return false;
        }
        /* A target that has gone must not lose mail. */
        o->replaced = d->local_count + d->remote_count > before || d->discarded;
    }
    return true;
}

/* A message that killed workers is kept, but neither shown nor sent until an administrator looks.
 */
static void hold_all(struct delivery *d)
{
    log_error("smtp", "%.*s: workers died over this message twice: accepted on hold, without hooks",
              STR_ARG(d->s->tx.trace));
    for (uint32_t i = 0; i < d->local_count; i++)
        d->locals[i].flags |= FLAG_HELD;
    for (uint32_t i = 0; i < d->remote_count; i++)
        d->remotes[i].hold = true;
}

void smtp_deliver(struct smtp_session *s)
{
    struct delivery d = {.s = s, .a = arena_new(4096)};
    struct outcome o = {.header_modifiers = HV_NONE};
    struct err e = ERR_INIT;
    s->hook_deadline = loop_ns() + (uint64_t)setting_int("script.message_seconds") * 1000000000u;
    d.hash = message_hash(s);
    d.killer = shm_is_killer(d.hash);
    bool ok = check_intake(s) && (d.killer || end_hooks(s, &d, &o));

    if (ok && !s->authenticated)
        ok = apply_rbl(&d, &o);
    for (uint32_t i = 0; ok && !o.ignore && !o.replaced && i < s->tx.rcpt_count; i++)
        if (deliver_targets(&d, &s->tx.rcpts[i], &s->tx.rcpts[i], 0, &e) != 0) {
            smtp_fail(s, &e, "message could not be delivered, try again later");
            ok = false;
        }
    if (ok && o.ignore)
        d.local_count = d.remote_count = 0;
    if (ok && d.killer)
        hold_all(&d);
    if (ok && commit(s, &d, &o, &e) != 0) {
        smtp_fail(s, &e,
                  e.cls == ERR_LIMIT ? "not enough storage, try again later"
                                     : "message could not be stored, try again later");
        ok = false;
    }
    if (ok) {
        /* What stands committed is answered before anything else is done with it. */
        smtp_reply(s, "250 2.0.0 Ok: stored as %.*s", STR_ARG(s->tx.trace));
        after_commit(s, &d);
    }
    s->hook_deadline = 0;
    arena_free(&d.a);
}
