/* SMTP: the hooks between the final dot and the store: EndMessage, CheckRecipients, ProcessMessage,
 * MonitorBcc, and the guard. */
#include "core/limits.h"
#include "core/log.h"
#include "mail/address.h"
#include "mail/encode.h"
#include "mail/headers.h"
#include "mail/mime.h"
#include "proto/smtp_delivery.h"
#include "store/setting.h"

#include <stdlib.h>

struct hook_call smtp_end_call(struct smtp_delivery *d, enum hook_id id, struct hook_env *env,
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

unsigned smtp_hops(struct str head)
{
    struct header_field f;
    size_t at = 0;
    unsigned n = 0;

    while (header_find_next(head, STR("Received"), &at, &f))
        n++;
    return n;
}

struct hval smtp_rcpt_list(struct smtp_session *s, struct arena *a)
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

/* ProcessMessage.  False: a reply was sent. */
static bool process_message(struct smtp_session *s, struct smtp_delivery *d, struct smtp_outcome *o)
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
                          smtp_rcpt_list(s, a),
                          actions,
                          mime,
                          hv_int((int64_t)s->in.size),
                          attachments};
    struct hook_call c = smtp_end_call(d, HOOK_SMTPSVR_ProcessMessage, s->env, args, 7);
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
        if (to.n > 0 && smtp_target_address(d, &none, to, &e) != 0) {
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
static void monitor_bcc(struct smtp_session *s, struct smtp_delivery *d)
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

bool smtp_end_hooks(struct smtp_session *s, struct smtp_delivery *d, struct smtp_outcome *o)
{
    struct str said;
    struct err e = ERR_INIT;

    if (!smtp_hook_reply(s, HOOK_SMTPSVR_EndMessage, NULL, 0, &said, NULL))
        return false;
    if (hook_present(s->env, HOOK_SMTPSVR_CheckRecipients)) {
        struct hval args[] = {smtp_rcpt_list(s, d->a)};
        struct hook_call c = smtp_end_call(d, HOOK_SMTPSVR_CheckRecipients, s->env, args, 1);
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
    hv_put(d->a, &f, "hops", hv_int(smtp_hops(buf_str(&s->in.head))));
    hv_put(d->a, &f, "max_hops", hv_int(setting_int("smtp.max_hops")));
    return smtp_guard(s, HOOK_GUARD_message, f);
}
