/* STORE, COPY, MOVE, EXPUNGE and their UID forms (RFC 3501 6.4; RFC 4315, 6851). */
#include "proto/imap_int.h"

#include <string.h>

static struct str who(struct imap_session *s)
{
    return arena_printf(s->a, "IMAP4-%s-%s", s->user, stream_peer_text(s->stream));
}

static bool writable(struct imap_session *s)
{
    if (s->view->readonly)
        imap_no(s, "[NOPERM] The mailbox was opened for reading only");
    return !s->view->readonly;
}

static void flags_responses(struct imap_session *s, const uint32_t *index, uint32_t n)
{
    struct buf b;
    uint64_t since = 0;

    buf_init(&b, 128 * 1024);
    for (uint32_t i = 0; i < n; i++) {
        buf_printf(&b, "* %u FETCH (", index[i] + 1);
        if (s->by_uid)
            buf_printf(&b, "UID %u ", s->view->uids[index[i]]);
        buf_addz(&b, "FLAGS ");
        imap_put_flags(&b, s->view, index[i]);
        buf_addz(&b, ")\r\n");
        if (b.len > 32768) {
            stream_write(s->stream, buf_str(&b));
            buf_clear(&b);
            imap_breathe(&since);
        }
    }
    if (b.len)
        stream_write(s->stream, buf_str(&b));
    buf_free(&b);
}

void imap_store(struct imap_session *s, struct imap_in *in)
{
    struct imap_set set;
    struct imap_flags flags;
    uint32_t *index, n;
    enum store_op op = STORE_SET;
    struct err e = ERR_INIT;

    if (!imap_space(in) || !imap_set(in, &set) || !imap_space(in))
        return;
    if (imap_at(in, '+'))
        op = STORE_ADD;
    else if (imap_at(in, '-'))
        op = STORE_REMOVE;
    if (op != STORE_SET)
        in->p++;
    bool silent = imap_word(in, "FLAGS.SILENT");
    if (!silent && !imap_word(in, "FLAGS")) {
        imap_bad(in, "FLAGS expected");
        return;
    }
    if (!imap_space(in) || !imap_flag_list(in, true, &flags) || !imap_end(in) ||
        !imap_messages(s, in, &set, &index, &n) || !writable(s))
        return;
    uint32_t keywords = s->view->keyword_count;
    if (n && view_store(s->view, index, n, op, flags.system, flags.keywords, flags.keyword_count, 0,
                        s->a, NULL, NULL, &e) != 0) {
        imap_fail(s, &e,
                  e.cls == ERR_LIMIT ? "Too many different keywords in this mailbox"
                                     : "Cannot store flags now");
        return;
    }
    if (s->view->keyword_count != keywords)
        imap_flags_lines(s); /* new names before they are used (RFC 3501 7.2.6) */
    if (!silent)
        flags_responses(s, index, n);
    imap_ok(s, "Store completed");
}

static void copy(struct imap_session *s, struct imap_in *in, bool move)
{
    struct imap_set set;
    struct str to;
    uint32_t *index, n;
    struct copied c = {0};
    struct err e = ERR_INIT;

    if (!imap_space(in) || !imap_set(in, &set) || !imap_space(in) || !imap_mailbox(in, &to) ||
        !imap_end(in) || !imap_messages(s, in, &set, &index, &n) || (move && !writable(s)))
        return;
    if (n == 0) {
        imap_ok(s, "No messages to %s", move ? "move" : "copy");
        return;
    }
    if (view_copy(s->view, index, n, to, move, s->a, &c, &e) != 0) {
        if (e.cls == ERR_NOTFOUND)
            imap_no(s, "[TRYCREATE] No such mailbox");
        else
            imap_fail(s, &e, e.cls == ERR_QUOTA ? "The quota is reached" : "Cannot copy now");
        return;
    }
    if (c.count == 0) {
        s->dirty = true;
        imap_no(s, "[EXPUNGEISSUED] The messages are gone");
        return;
    }
    struct str from = imap_set_emit(s->a, c.from, c.count),
               made = imap_set_emit(s->a, c.to, c.count);
    if (move) {
        /* Before the expunges, or the client cannot tell which messages went where (RFC 6851 4.3).
         */
        imap_untagged(s, "OK [COPYUID %u %.*s %.*s] Moved", c.uidvalidity, STR_ARG(from),
                      STR_ARG(made));
        s->dirty = true;
        imap_ok(s, "Move completed");
    } else {
        imap_ok(s, "[COPYUID %u %.*s %.*s] Copy completed", c.uidvalidity, STR_ARG(from),
                STR_ARG(made));
    }
}

void imap_copy(struct imap_session *s, struct imap_in *in)
{
    copy(s, in, false);
}

void imap_move(struct imap_session *s, struct imap_in *in)
{
    copy(s, in, true);
}

void imap_expunge(struct imap_session *s, struct imap_in *in)
{
    struct imap_set set;
    uint32_t *index = NULL, *uids = NULL, n = 0;
    struct err e = ERR_INIT;

    if (s->by_uid && (!imap_space(in) || !imap_set(in, &set)))
        return;
    if (!imap_end(in) || (s->by_uid && !imap_messages(s, in, &set, &index, &n)) || !writable(s))
        return;
    if (s->by_uid) {
        uids = ARENA_ARRAY(s->a, uint32_t, n + 1);
        for (uint32_t i = 0; i < n; i++)
            uids[i] = s->view->uids[index[i]];
    }
    if ((!s->by_uid || n > 0) && view_expunge(s->view, uids, n, who(s), "expunge", &e) != 0) {
        imap_fail(s, &e, "Cannot expunge now");
        return;
    }
    s->dirty = true;
    imap_ok(s, "Expunge completed");
}
