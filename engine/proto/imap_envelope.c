#include "mail/address.h"
#include "mail/headers.h"
#include "proto/imap_int.h"
#include "proto/imap_message.h"

static void put_nstring(struct buf *b, struct str s)
{
    imap_put_string(b, s.n ? s : STR_NONE);
}

/* ((name route mailbox host) ...); groups are marked by NIL hosts (RFC 3501 7.4.2). */
static void put_list(struct buf *b, const struct list_entry *m)
{
    if (m == NULL) {
        buf_addz(b, "NIL");
        return;
    }
    buf_addc(b, '(');
    for (; m; m = m->next) {
        buf_addc(b, '(');
        if (m->kind == LIST_MAILBOX) {
            put_nstring(b, m->name);
            buf_addc(b, ' ');
            put_nstring(b, m->route);
            buf_addc(b, ' ');
            imap_put_string(b, m->local.p ? m->local : STR(""));
            buf_addc(b, ' ');
            /* NIL would say "group": an address without a domain gets a name for it. */
            imap_put_string(b, m->domain.n ? m->domain : STR(".MISSING-HOST-NAME."));
        } else if (m->kind == LIST_GROUP) {
            buf_addz(b, "NIL NIL ");
            imap_put_string(b, m->name.p ? m->name : STR(""));
            buf_addz(b, " NIL");
        } else {
            buf_addz(b, "NIL NIL NIL NIL");
        }
        buf_addc(b, ')');
    }
    buf_addc(b, ')');
}

/* Entries of a repeated field to which more are joined, and how often. */
enum { REPEATED_MAX = 100 };
enum { DATE, SUBJECT, FROM, SENDER, REPLY_TO, TO, CC, BCC, IN_REPLY_TO, MESSAGE_ID, FIELDS };

void imap_put_envelope(struct buf *b, struct arena *a, struct str head)
{
    static const char *const names[FIELDS] = {"Date",        "Subject",   "From", "Sender",
                                              "Reply-To",    "To",        "Cc",   "Bcc",
                                              "In-Reply-To", "Message-ID"};
    struct str value[FIELDS] = {{NULL, 0}};
    struct list_entry *list[FIELDS] = {NULL};
    struct header_field f;
    size_t at = 0;
    unsigned repeats = 0;

    /* One pass: a head may have thousands of fields.  The first of each name counts, but several
     * To, Cc and Bcc, though forbidden, are all shown. */
    while (header_next(head, &at, &f)) {
        for (unsigned i = 0; i < FIELDS; i++) {
            if (f.name.n == 0 || !str_eqiz(f.name, names[i]))
                continue;
            if (value[i].p == NULL) {
                value[i] = f.value;
            } else if (i == TO || i == CC || i == BCC) {
                if (list[i] == NULL)
                    list[i] = address_list(a, value[i]);
                struct list_entry **tail = &list[i];
                unsigned have = 0;
                for (; *tail; have++)
                    tail = &(*tail)->next;
                if (have < REPEATED_MAX && repeats++ < REPEATED_MAX)
                    *tail = address_list(a, f.value);
            }
            break;
        }
    }
    for (unsigned i = FROM; i <= BCC; i++)
        if (list[i] == NULL && value[i].p)
            list[i] = address_list(a, value[i]);
    buf_addc(b, '(');
    put_nstring(b, header_unfold(a, value[DATE]));
    buf_addc(b, ' ');
    imap_put_string(b, value[SUBJECT].p ? header_unfold(a, value[SUBJECT]) : STR_NONE);
    for (unsigned i = FROM; i <= BCC; i++) {
        buf_addc(b, ' ');
        const struct list_entry *m = list[i];
        if (m == NULL && (i == SENDER || i == REPLY_TO))
            m = list[FROM];
        put_list(b, m);
    }
    buf_addc(b, ' ');
    put_nstring(b, header_unfold(a, value[IN_REPLY_TO]));
    buf_addc(b, ' ');
    put_nstring(b, header_unfold(a, value[MESSAGE_ID]));
    buf_addc(b, ')');
}
