/* SMTP: a complete message: what stands above it, what the ledger says of it, the group commit, and
 * the one reply.  Nothing is acknowledged before the commit. */
#include "core/json.h"
#include "core/limits.h"
#include "core/log.h"
#include "core/loop.h"
#include "core/shm.h"
#include "mail/build.h"
#include "mail/date.h"
#include "mail/encode.h"
#include "mail/headers.h"
#include "proto/smtp_delivery.h"
#include "store/mailbox.h"
#include "store/setting.h"

enum { LEDGER_TEXT_MAX = 16 * 1024 };

/* --- heads ------------------------------------------------------------------------------------ */

/* The header section as submitted by a user: Bcc removed, Date and Message-ID added (RFC 6409 8).
 */
static struct str submission_head(struct str head, struct arena *a)
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
static struct str ledger_inputs(struct smtp_session *s, const struct smtp_delivery *d,
                                struct arena *a)
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
    else if (smtp_hops(buf_str(&in->head)) > (unsigned)setting_int("smtp.max_hops"))
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
static struct str added_lines(struct smtp_delivery *d, const struct smtp_outcome *o)
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

static int commit(struct smtp_session *s, struct smtp_delivery *d, const struct smtp_outcome *o,
                  struct err *e)
{
    struct arena *a = d->a;
    struct str head = buf_str(&s->in.head);
    struct str received = received_line(s, a), added = added_lines(d, o);
    struct deliver_head heads[2] = {{.bytes = STR("")}, {.bytes = STR("")}};
    struct str subject = header_value(a, head, "Subject");
    uint64_t id;

    if (s->authenticated || s->svc->kind == SERVICE_SUBMISSION)
        head = submission_head(head, a);
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

static void after_commit(struct smtp_session *s, struct smtp_delivery *d)
{
    struct err e = ERR_INIT;

    s->messages++;
    log_info("smtp", "%.*s: from=<%.*s> size=%llu rcpts=%u local=%u remote=%u peer=%s%s%.*s",
             STR_ARG(s->tx.trace), STR_ARG(s->tx.sender), (unsigned long long)s->in.size,
             s->tx.rcpt_count, d->local_count, d->remote_count, stream_peer_text(s->stream),
             s->authenticated ? " user=" : "",
             STR_ARG(s->authenticated ? s->account.name : STR("")));
    if (hook_present(s->env, HOOK_SMTPSVR_LogRecipients)) {
        struct hval args[] = {smtp_rcpt_list(s, d->a)};
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
static bool apply_rbl(struct smtp_delivery *d, struct smtp_outcome *o)
{
    struct smtp_session *s = d->s;
    struct smtp_rcpt none = {0};
    struct err e = ERR_INIT;

    if (s->rbl.discard) {
        o->ignore = true;
    } else if (s->rbl.redirect.n > 0 && !o->ignore && !o->replaced) {
        uint32_t before = d->local_count + d->remote_count;
        if (smtp_target_address(d, &none, s->rbl.redirect, &e) != 0) {
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
static void hold_all(struct smtp_delivery *d)
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
    struct smtp_delivery d = {.s = s, .a = arena_new(4096)};
    struct smtp_outcome o = {.header_modifiers = HV_NONE};
    struct err e = ERR_INIT;
    s->hook_deadline = loop_ns() + (uint64_t)setting_int("script.message_seconds") * 1000000000u;
    d.hash = message_hash(s);
    d.killer = shm_is_killer(d.hash);
    bool ok = check_intake(s) && (d.killer || smtp_end_hooks(s, &d, &o));

    if (ok && !s->authenticated)
        ok = apply_rbl(&d, &o);
    for (uint32_t i = 0; ok && !o.ignore && !o.replaced && i < s->tx.rcpt_count; i++)
        if (smtp_target_rcpt(&d, &s->tx.rcpts[i], &e) != 0) {
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
