/* APPEND (RFC 3501 6.3.11, RFC 4315 3, RFC 7889): the message streams from the client into the
 * store; the connection is read only as fast as the store takes it. */
#include "core/limits.h"
#include "core/log.h"
#include "mail/date.h"
#include "mail/headers.h"
#include "net/line.h"
#include "proto/imap_int.h"
#include "store/setting.h"

#include <string.h>

struct append {
    struct imap_session *s;
    struct str mailbox;
    struct imap_flags flags;
    int64_t at;
    struct header_scan scan;
    struct buf head;
    struct stage *stage;
    struct err e;
};

/* Everything up to the literal. */
static bool prefix(struct imap_in *in, struct append *p)
{
    if (!imap_space(in) || !imap_mailbox(in, &p->mailbox) || !imap_space(in))
        return false;
    if (imap_at(in, '(') && (!imap_flag_list(in, false, &p->flags) || !imap_space(in)))
        return false;
    if (imap_at(in, '"')) {
        struct str date;
        if (!imap_string(in, &date) || !imap_space(in))
            return false;
        if (!date_imap_parse(date, &p->at))
            return imap_bad(in, "bad date and time");
    }
    return imap_at(in, '{') || imap_bad(in, "message literal expected");
}

bool imap_append_ready(struct str text)
{
    struct str tag, verb;
    struct append p = {0};
    struct arena *a = arena_new(4096);
    struct imap_in in = imap_in(a, text);

    /* When the literal is the mailbox's name, the text is cut off within the name. */
    bool ready = imap_tag(&in, &tag) && imap_space(&in) && imap_atom(&in, &verb) &&
                 str_eqiz(verb, "APPEND") && prefix(&in, &p) &&
                 memchr(in.p, '\n', (size_t)(in.end - in.p)) == NULL;
    arena_free(&a);
    return ready;
}

/* Bytes of the message: the header section is kept, the rest goes into the store. */
static int take(struct append *p, struct str bytes)
{
    if (!p->scan.done) {
        size_t n = header_scan(&p->scan, bytes);
        size_t room = HEADER_MAX - p->head.len;
        struct str part = str_head(bytes, n < room ? n : room);
        if (part.n && !buf_add(&p->head, part))
            return err_set(&p->e, ERR_LIMIT, "header too long");
        bytes = str_from(bytes, part.n);
        if (part.n < n) /* a header without end: what is beyond the limit counts as body */
            p->scan.done = true;
        if (p->scan.done)
            stage_head(p->stage, buf_str(&p->head));
    }
    return bytes.n ? stage_add(p->stage, bytes, &p->e) : 0;
}

/* Moves `left` bytes of the literal; with p NULL they are thrown away.  False: the client is gone.
 */
static bool receive(struct imap_session *s, struct append *p, uint64_t left, bool *failed)
{
    while (left > 0) {
        if (!imap_wait_input(s))
            return false;
        struct buf *in = stream_in(s->stream);
        struct str piece = str_head(buf_str(in), left < SIZE_MAX ? (size_t)left : SIZE_MAX);
        stream_freeze(s->stream, true); /* taking the bytes may park */
        if (p && !*failed && take(p, piece) != 0)
            *failed = true; /* the rest is still read: the client cannot be stopped */
        stream_freeze(s->stream, false);
        left -= piece.n;
        buf_consume(in, piece.n);
    }
    return true;
}

/* What stands behind the literal must be the line end. */
static bool rest_of_line(struct imap_session *s, bool *empty_r)
{
    struct buf *in = stream_in(s->stream);
    size_t seen = 0, used;
    struct str line;

    for (;;) {
        switch (line_get(in, IMAP_LINE_MAX, &line, &used, NULL)) {
        case LINE_OK:
            *empty_r = str_trim(line).n == 0;
            buf_consume(in, used);
            return true;
        case LINE_TOO_LONG:
            imap_bye(s, "Command line too long");
            return false;
        case LINE_MORE:
            break;
        }
        seen = in->len;
        while (in->len == seen && !stream_closed(s->stream) && !task_cancelled()) {
            s->want_input = true;
            stream_resume(s->stream);
            task_park();
        }
        s->want_input = false;
        stream_pause(s->stream);
        if (stream_closed(s->stream) || task_cancelled())
            return false;
    }
}

/* Refuses before the message: a client that waits for "+" does not send it, another one does. */
static void refuse(struct imap_session *s, const struct err *e, const char *code, const char *text)
{
    bool failed = false, empty;

    if (!s->append_sync && (!receive(s, NULL, s->append_size, &failed) || !rest_of_line(s, &empty)))
        return;
    if (e)
        imap_fail(s, e, text);
    else
        imap_no(s, "[%s] %s", code, text);
}

static void commit(struct append *p)
{
    struct imap_session *s = p->s;
    uint32_t uidvalidity, uid;

    if (!p->scan.done && p->head.len && !str_ends(buf_str(&p->head), STR("\n")))
        (void)buf_addz(&p->head, "\r\n"); /* a message that is all header, its last line cut off */
    if (!p->scan.done)
        stage_head(p->stage, buf_str(&p->head));
    if (mailbox_append(s->account, p->mailbox, p->stage, buf_str(&p->head), p->flags.system,
                       p->flags.keywords, p->flags.keyword_count, p->at, &uidvalidity, &uid,
                       &p->e) != 0) {
        if (p->e.cls == ERR_NOTFOUND)
            imap_no(s, "[TRYCREATE] No such mailbox");
        else
            imap_fail(s, &p->e,
                      p->e.cls == ERR_QUOTA ? "The quota is reached" : "Cannot append now");
        return;
    }
    if (s->view)
        s->dirty = true; /* it may be the selected one */
    imap_ok(s, "[APPENDUID %u %u] Append completed", uidvalidity, uid);
}

void imap_append(struct imap_session *s, struct imap_in *in)
{
    struct append p = {.s = s, .at = date_now(), .e = ERR_INIT};
    struct mailbox_info m;
    bool failed = false, empty = true;

    if (!prefix(in, &p))
        return;
    if (s->append_size == UINT64_MAX) { /* a literal stood there, but not the message at the end */
        imap_bad(in, "message literal expected");
        return;
    }
    if (mailbox_find(s->account, p.mailbox, s->a, &m, &p.e) != 0) {
        if (p.e.cls == ERR_NOTFOUND)
            refuse(s, NULL, "TRYCREATE", "No such mailbox");
        else
            refuse(s, &p.e, NULL, "Cannot append now");
        return;
    }
    if (!m.selectable) {
        refuse(s, NULL, "CANNOT", "This name cannot hold messages");
        return;
    }
    if (s->append_size > (uint64_t)setting_int("imap.max_append_size") ||
        s->append_size > MESSAGE_MAX) {
        refuse(s, NULL, "TOOBIG", "The message is too large");
        return;
    }
    if (s->append_size == 0) {
        refuse(s, NULL, "CANNOT", "The message is empty");
        return;
    }
    if (s->append_sync)
        stream_printf(s->stream, "+ OK\r\n");
    p.stage = stage_new();
    buf_init(&p.head, HEADER_MAX + 2);
    if (receive(s, &p, s->append_size, &failed) && rest_of_line(s, &empty)) {
        if (failed)
            imap_fail(s, &p.e, "Cannot append now");
        else if (!empty)
            imap_reject(s, "Only one message can be appended at once");
        else
            commit(&p);
    }
    stage_free(&p.stage);
    buf_free(&p.head);
}
