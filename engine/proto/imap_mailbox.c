/* SELECT, EXAMINE, CREATE, DELETE, RENAME, SUBSCRIBE, STATUS, NAMESPACE, CLOSE, UNSELECT, CHECK,
 * ENABLE (RFC 3501 6.3, 6.4; RFC 2342, 3691, 5161, 6154, 8438). */
#include "core/log.h"
#include "proto/imap_int.h"

#include <stdio.h>
#include <string.h>

static struct str who(struct imap_session *s)
{
    return arena_printf(s->a, "IMAP4-%s-%s", s->user, stream_peer_text(s->stream));
}

static void select_mailbox(struct imap_session *s, struct imap_in *in, bool readonly)
{
    struct str name;
    struct err e = ERR_INIT;
    struct view *v = NULL;

    if (!imap_space(in) || !imap_mailbox(in, &name) || !imap_end(in))
        return;
    /* A failed SELECT leaves nothing selected (RFC 3501 6.3.1). */
    imap_deselect(s);
    if (view_open(s->account, name, readonly, &v, &e) != 0) {
        imap_fail(s, &e, e.cls == ERR_NOTFOUND ? "No such mailbox" : "Cannot open the mailbox now");
        return;
    }
    s->view = v;
    imap_watch(s);
    imap_flags_lines(s);
    imap_untagged(s, "%u EXISTS", v->count);
    imap_untagged(s, "%u RECENT", imap_recent(v));
    for (uint32_t i = 0; i < v->count; i++)
        if (!(v->flags[i] & FLAG_SEEN)) {
            imap_untagged(s, "OK [UNSEEN %u] First unseen message", i + 1);
            break;
        }
    imap_untagged(s, "OK [UIDVALIDITY %u] UIDs valid", v->uidvalidity);
    imap_untagged(s, "OK [UIDNEXT %u] Predicted next UID", v->uidnext);
    /* The state moves after the tagged line: nothing is to be announced before it. */
    imap_ok(s, "[READ-%s] %s completed", v->readonly ? "ONLY" : "WRITE",
            readonly ? "Examine" : "Select");
    s->state = IMAP_SELECTED;
}

void imap_select(struct imap_session *s, struct imap_in *in)
{
    select_mailbox(s, in, false);
}

void imap_examine(struct imap_session *s, struct imap_in *in)
{
    select_mailbox(s, in, true);
}

/* Names we would not make: empty levels, control characters, wildcards. */
static const char *name_problem(struct str name)
{
    if (name.n == 0)
        return "The mailbox name is empty";
    if (name.n > MAILBOX_NAME_MAX)
        return "The mailbox name is too long";
    if (name.p[0] == '/' || name.p[name.n - 1] == '/' || str_find(name, STR("//")) >= 0)
        return "The mailbox name has an empty level";
    for (size_t i = 0; i < name.n; i++) {
        unsigned char c = (unsigned char)name.p[i];
        if (c < ' ' || c == 127 || c == '*' || c == '%')
            return "The mailbox name has characters that are not allowed";
    }
    if (name.p[0] == '#')
        return "Mailboxes cannot be made in this namespace";
    return NULL;
}

static struct str without_slash(struct str name)
{
    if (name.n > 1 && name.p[name.n - 1] == '/')
        name.n--; /* "foo/" announces that children will follow (RFC 3501 6.3.3) */
    return name;
}

static bool creatable(struct imap_session *s, struct str name)
{
    const char *problem = name_problem(name);

    if (problem)
        imap_no(s, "[CANNOT] %s", problem);
    return problem == NULL;
}

/* " (USE (\Sent))" (RFC 6154 3). */
static bool special_use(struct imap_in *in, struct str *use_r)
{
    static const char *const uses[] = {"\\Archive", "\\Drafts", "\\Flagged", "\\Important",
                                       "\\Junk",    "\\Sent",   "\\Trash"};
    struct str name;

    *use_r = STR("");
    if (imap_at_end(in))
        return true;
    if (!imap_space(in) || !imap_char(in, '(') || !imap_word(in, "USE"))
        return imap_bad(in, "unknown CREATE parameter");
    if (!imap_space(in) || !imap_char(in, '('))
        return false;
    if (!imap_at(in, ')')) {
        const char *from = in->p;
        if (!imap_char(in, '\\') || !imap_atom(in, &name))
            return false;
        struct str whole = str_make(from, (size_t)(in->p - from));
        *use_r = STR_NONE;
        for (size_t i = 0; i < sizeof uses / sizeof *uses; i++)
            if (str_eqiz(whole, uses[i]))
                *use_r = str_of(uses[i]);
        if (imap_at(in, ' '))
            *use_r = STR_NONE; /* one use a mailbox here */
        while (in->p < in->end && *in->p != ')')
            in->p++;
    }
    return imap_char(in, ')') && imap_char(in, ')');
}

static bool well_named(struct imap_session *s, const struct imap_in *in)
{
    if (in->odd_name)
        imap_no(s, "[CANNOT] The mailbox name is not in modified UTF-7");
    return !in->odd_name;
}

void imap_create(struct imap_session *s, struct imap_in *in)
{
    struct str name, use;
    struct err e = ERR_INIT;

    if (!imap_space(in) || !imap_mailbox(in, &name) || !special_use(in, &use) || !imap_end(in))
        return;
    name = without_slash(name);
    if (!well_named(s, in) || !creatable(s, name))
        return;
    if (use.p == NULL) {
        imap_no(s, "[USEATTR] This special use is not supported");
        return;
    }
    if (mailbox_create(s->account, name, use, &e) != 0)
        imap_fail(s, &e,
                  e.cls == ERR_EXISTS  ? "The mailbox exists already"
                  : e.cls == ERR_LIMIT ? "Too many mailboxes"
                                       : "Cannot create the mailbox");
    else
        imap_ok(s, "Create completed");
}

void imap_delete(struct imap_session *s, struct imap_in *in)
{
    struct str name;
    struct err e = ERR_INIT;

    if (!imap_space(in) || !imap_mailbox(in, &name) || !imap_end(in))
        return;
    name = without_slash(name);
    if (str_eqz(name, "INBOX")) {
        imap_no(s, "[CANNOT] INBOX cannot be deleted");
        return;
    }
    if (s->view) { /* deleting the selected mailbox deselects it, without a BYE for the deleter */
        struct mailbox_info m;
        if (mailbox_find(s->account, name, s->a, &m, &e) == 0 && m.id == s->view->mailbox)
            imap_deselect(s);
        e = (struct err)ERR_INIT;
    }
    if (mailbox_delete(s->account, name, &e) != 0)
        imap_fail(s, &e, e.cls == ERR_NOTFOUND ? "No such mailbox" : "Cannot delete the mailbox");
    else
        imap_ok(s, "Delete completed");
}

void imap_rename(struct imap_session *s, struct imap_in *in)
{
    struct str from, to;
    struct err e = ERR_INIT;

    if (!imap_space(in) || !imap_mailbox(in, &from) || !imap_space(in) || !imap_mailbox(in, &to) ||
        !imap_end(in))
        return;
    from = without_slash(from);
    to = without_slash(to);
    if (!well_named(s, in) || !creatable(s, to))
        return;
    if (to.n > from.n && str_starts(to, from) && to.p[from.n] == '/' && !str_eqz(from, "INBOX")) {
        imap_no(s, "[CANNOT] A mailbox cannot move below itself");
        return;
    }
    if (mailbox_rename(s->account, from, to, &e) != 0)
        imap_fail(s, &e,
                  e.cls == ERR_NOTFOUND ? "No such mailbox"
                  : e.cls == ERR_EXISTS ? "The new name exists already"
                                        : "Cannot rename the mailbox");
    else
        imap_ok(s, "Rename completed");
}

static void subscription(struct imap_session *s, struct imap_in *in, bool on)
{
    struct str name;
    struct mailbox_info m;
    struct err e = ERR_INIT;

    if (!imap_space(in) || !imap_mailbox(in, &name) || !imap_end(in))
        return;
    name = without_slash(name);
    if (name.n == 0 || name.n > MAILBOX_NAME_MAX) {
        imap_no(s, "[CANNOT] Bad mailbox name");
        return;
    }
    if ((on && mailbox_find(s->account, name, s->a, &m, &e) != 0) ||
        mailbox_subscribe(s->account, name, on, &e) != 0)
        imap_fail(s, &e, e.cls == ERR_NOTFOUND ? "No such mailbox" : "Cannot change subscriptions");
    else
        imap_ok(s, on ? "Subscribe completed" : "Unsubscribe completed");
}

void imap_subscribe(struct imap_session *s, struct imap_in *in)
{
    subscription(s, in, true);
}

void imap_unsubscribe(struct imap_session *s, struct imap_in *in)
{
    subscription(s, in, false);
}

bool imap_status_items(struct imap_in *in, unsigned *items_r)
{
    static const struct {
        const char *name;
        unsigned bit;
    } items[] = {{"MESSAGES", STATUS_MESSAGES}, {"RECENT", STATUS_RECENT},
                 {"UIDNEXT", STATUS_UIDNEXT},   {"UIDVALIDITY", STATUS_UIDVALIDITY},
                 {"UNSEEN", STATUS_UNSEEN},     {"SIZE", STATUS_SIZE}};

    *items_r = 0;
    if (!imap_char(in, '('))
        return false;
    for (;;) {
        size_t i = 0;
        while (i < sizeof items / sizeof *items && !imap_word(in, items[i].name))
            i++;
        if (i == sizeof items / sizeof *items)
            return imap_bad(in, "unknown STATUS item");
        *items_r |= items[i].bit;
        while (imap_at(in, ' '))
            in->p++;
        if (imap_at(in, ')')) {
            in->p++;
            return true;
        }
        if (in->p[-1] != ' ')
            return imap_bad(in, "blank expected between STATUS items");
    }
}

void imap_status_line(struct imap_session *s, const struct mailbox_info *m, unsigned items)
{
    struct buf b;
    const char *blank = "";

    buf_init(&b, 16384);
    buf_addz(&b, "* STATUS ");
    imap_put_mailbox(&b, s->a, m->name);
    buf_addz(&b, " (");
    const struct {
        unsigned bit;
        const char *name;
        uint64_t value;
    } v[] = {{STATUS_MESSAGES, "MESSAGES", m->messages},
             {STATUS_RECENT, "RECENT", m->recent},
             {STATUS_UIDNEXT, "UIDNEXT", m->uidnext},
             {STATUS_UIDVALIDITY, "UIDVALIDITY", m->uidvalidity},
             {STATUS_UNSEEN, "UNSEEN", m->unseen},
             {STATUS_SIZE, "SIZE", m->bytes}};
    for (size_t i = 0; i < sizeof v / sizeof *v; i++)
        if (items & v[i].bit) {
            buf_printf(&b, "%s%s %llu", blank, v[i].name, (unsigned long long)v[i].value);
            blank = " ";
        }
    buf_addz(&b, ")\r\n");
    stream_write(s->stream, buf_str(&b));
    buf_free(&b);
}

void imap_status(struct imap_session *s, struct imap_in *in)
{
    struct str name;
    unsigned items;
    struct mailbox_info m;
    struct err e = ERR_INIT;

    if (!imap_space(in) || !imap_mailbox(in, &name) || !imap_space(in) ||
        !imap_status_items(in, &items) || !imap_end(in))
        return;
    if (mailbox_status(s->account, name, s->a, &m, &e) != 0) {
        imap_fail(s, &e, e.cls == ERR_NOTFOUND ? "No such mailbox" : "Cannot read the mailbox now");
        return;
    }
    if (!m.selectable) {
        imap_no(s, "[NONEXISTENT] This name holds no messages");
        return;
    }
    imap_status_line(s, &m, items);
    imap_ok(s, "Status completed");
}

void imap_namespace(struct imap_session *s, struct imap_in *in)
{
    if (!imap_end(in))
        return;
    imap_untagged(s, "NAMESPACE ((\"\" \"/\")) NIL NIL");
    imap_ok(s, "Namespace completed");
}

void imap_close(struct imap_session *s, struct imap_in *in)
{
    struct err e = ERR_INIT;

    if (!imap_end(in))
        return;
    bool deleted = false;
    for (uint32_t i = 0; i < s->view->count && !deleted; i++)
        deleted = s->view->flags[i] & FLAG_DELETED;
    /* Those that another session marked are in the picture only after a look. */
    if (!s->view->readonly && (deleted || s->dirty) &&
        view_expunge(s->view, NULL, 0, who(s), "expunge", &e) != 0) {
        imap_fail(s, &e, "Cannot expunge now");
        return;
    }
    imap_deselect(s);
    imap_ok(s, "Close completed");
}

void imap_unselect(struct imap_session *s, struct imap_in *in)
{
    if (!imap_end(in))
        return;
    imap_deselect(s);
    imap_ok(s, "Unselect completed");
}

void imap_check(struct imap_session *s, struct imap_in *in)
{
    if (!imap_end(in))
        return;
    s->sync_now = true;
    imap_ok(s, "Check completed");
}

/* No extension here changes the protocol without being asked in each command: nothing to enable. */
void imap_enable(struct imap_session *s, struct imap_in *in)
{
    struct str name;

    do
        if (!imap_space(in) || !imap_atom(in, &name))
            return;
    while (!imap_at_end(in));
    imap_untagged(s, "ENABLED");
    imap_ok(s, "Enable completed");
}
