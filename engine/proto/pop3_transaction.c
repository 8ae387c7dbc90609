/* POP3: the transaction and update states.  The session works on a snapshot of UIDs: message
 * numbers stay as they are, and deleting what another client removed meanwhile is no error. */
#include "core/limits.h"
#include "core/log.h"
#include "core/loop.h"
#include "proto/pop3_int.h"
#include "store/setting.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { READ_AT_ONCE = 256 * 1024 };

/* Fills the snapshot from the INBOX; messages on hold are not shown. */
static int load(struct pop3_session *s, struct err *e)
{
    struct view *v;

    if (view_open(s->account, STR("INBOX"), true, &v, e) != 0)
        return -1;
    s->mailbox = v->mailbox;
    s->uidvalidity = v->uidvalidity;
    s->messages = xcalloc(v->count, sizeof *s->messages);
    struct view_ref *refs = xcalloc(v->count, sizeof *refs);
    uint32_t *index = xcalloc(v->count, sizeof *index);
    for (uint32_t i = 0; i < v->count; i++)
        index[i] = i;
    int rc = view_refs(v, index, v->count, refs, e);
    for (uint32_t i = 0; rc == 0 && i < v->count; i++)
        if (!(v->flags[i] & FLAG_HELD) && !refs[i].gone)
            s->messages[s->count++] =
                (struct pop3_message){v->uids[i], refs[i].size, refs[i].head, false};
    free(index);
    free(refs);
    view_close(&v);
    return rc;
}

int pop3_open_maildrop(struct pop3_session *s, const struct account *a, struct err *e)
{
    uint64_t token;

    if (pop3_lease_take(a->id, &token, e) != 0)
        return -1;
    s->account = a->id;
    s->lease = token;
    snprintf(s->name, sizeof s->name, "%.*s", STR_ARG(a->name));
    s->held_deletes = setting_bool("pop3.hold_deleted");
    if (load(s, e) != 0) {
        pop3_lease_drop(s->account, s->lease);
        s->lease = 0;
        free(s->messages);
        s->messages = NULL;
        s->count = 0;
        return -1;
    }
    pop3_start_renewing(s);
    return 0;
}

static struct pop3_message *message(struct pop3_session *s, struct str arg)
{
    uint32_t n;

    if (!str_u32(arg, &n) || n == 0 || n > s->count) {
        pop3_reply(s, "-ERR no such message, %u in mailbox", s->count);
        return NULL;
    }
    if (s->messages[n - 1].deleted) {
        pop3_reply(s, "-ERR message %u is deleted", n);
        return NULL;
    }
    return &s->messages[n - 1];
}

static void totals(struct pop3_session *s, uint32_t *count_r, uint64_t *bytes_r)
{
    *count_r = 0;
    *bytes_r = 0;
    for (uint32_t i = 0; i < s->count; i++)
        if (!s->messages[i].deleted) {
            ++*count_r;
            *bytes_r += s->messages[i].size;
        }
}

void pop3_stat(struct pop3_session *s, struct str arg)
{
    uint32_t n;
    uint64_t bytes;

    (void)arg;
    totals(s, &n, &bytes);
    pop3_reply(s, "+OK %u %llu", n, (unsigned long long)bytes);
}

void pop3_list(struct pop3_session *s, struct str arg)
{
    uint32_t n;
    uint64_t bytes;

    if (arg.n > 0) {
        struct pop3_message *m = message(s, str_trim(arg));
        if (m)
            pop3_reply(s, "+OK %u %u", (unsigned)(m - s->messages) + 1, m->size);
        return;
    }
    totals(s, &n, &bytes);
    pop3_reply(s, "+OK %u messages (%llu octets)", n, (unsigned long long)bytes);
    for (uint32_t i = 0; i < s->count; i++)
        if (!s->messages[i].deleted)
            stream_printf(s->stream, "%u %u\r\n", i + 1, s->messages[i].size);
    stream_printf(s->stream, ".\r\n");
}

void pop3_uidl(struct pop3_session *s, struct str arg)
{
    if (arg.n > 0) {
        struct pop3_message *m = message(s, str_trim(arg));
        if (m)
            pop3_reply(s, "+OK %u %08x%08x", (unsigned)(m - s->messages) + 1, s->uidvalidity,
                       m->uid);
        return;
    }
    pop3_reply(s, "+OK unique-id listing follows");
    for (uint32_t i = 0; i < s->count; i++)
        if (!s->messages[i].deleted)
            stream_printf(s->stream, "%u %08x%08x\r\n", i + 1, s->uidvalidity, s->messages[i].uid);
    stream_printf(s->stream, ".\r\n");
}

/* Message bytes go out dot-stuffed (RFC 1939 3), piece by piece. */
struct stuffing {
    bool bol; /* at the beginning of a line */
};

static int write_stuffed(struct stream *st, struct stuffing *x, struct str piece)
{
    while (piece.n > 0) {
        if (x->bol && piece.p[0] == '.' && stream_write(st, STR(".")) != 0)
            return -1;
        ptrdiff_t lf = str_chr(piece, '\n');
        size_t n = lf < 0 ? piece.n : (size_t)lf + 1;
        /* Runs of lines that need nothing go out in one write. */
        while (lf >= 0 && n < piece.n && piece.p[n] != '.') {
            ptrdiff_t next = str_chr(str_from(piece, n), '\n');
            if (next < 0) {
                n = piece.n;
                lf = -1;
            } else {
                n += (size_t)next + 1;
            }
        }
        if (stream_write(st, str_head(piece, n)) != 0)
            return -1;
        x->bol = piece.p[n - 1] == '\n';
        piece = str_from(piece, n);
    }
    return 0;
}

static void end_stuffed(struct stream *st, const struct stuffing *x)
{
    stream_write(st, x->bol ? STR(".\r\n") : STR("\r\n.\r\n"));
}

/* `lines` < 0: everything; else the header section and so many lines of the body. */
static void send_message(struct pop3_session *s, const struct pop3_message *m, int64_t lines)
{
    struct stuffing x = {.bol = true};
    struct err e = ERR_INIT;
    uint64_t at = 0;
    bool in_body = false, blank = true, more = true;
    struct arena *a = arena_new(0);

    while (more) {
        struct str piece;
        if (message_read(m->head, at, READ_AT_ONCE, a, &piece, &e) != 0) {
            if (at == 0) {
                pop3_fail(s, &e, "message cannot be read");
            } else { /* half a message has gone: only breaking off tells the client */
                log_warn("pop3", "%s: message broke off: %s", stream_peer_text(s->stream), e.text);
                s->closing = true;
                stream_finish(s->stream);
            }
            arena_free(&a);
            return;
        }
        if (at == 0)
            pop3_reply(s, "+OK %u octets", m->size);
        at += piece.n;
        more = piece.n == READ_AT_ONCE;
        if (lines >= 0) {
            size_t i = 0;
            while (i < piece.n && !(in_body && lines == 0)) {
                char c = piece.p[i++];
                if (c == '\n') {
                    if (in_body)
                        lines--;
                    else if (blank)
                        in_body = true;
                    blank = true;
                } else if (c != '\r') {
                    blank = false;
                }
            }
            if (in_body && lines == 0)
                more = false;
            piece.n = i;
        }
        if (write_stuffed(s->stream, &x, piece) != 0)
            break;
        arena_reset(a);
    }
    end_stuffed(s->stream, &x);
    arena_free(&a);
}

void pop3_retr(struct pop3_session *s, struct str arg)
{
    struct pop3_message *m = message(s, str_trim(arg));
    if (m)
        send_message(s, m, -1);
}

void pop3_top(struct pop3_session *s, struct str arg)
{
    struct str rest = str_trim(arg);
    struct str number = str_cut(&rest, ' ');
    uint32_t lines;

    if (!str_u32(str_trim(rest), &lines)) {
        pop3_reply(s, "-ERR TOP message lines");
        return;
    }
    struct pop3_message *m = message(s, number);
    if (m)
        send_message(s, m, lines);
}

void pop3_dele(struct pop3_session *s, struct str arg)
{
    struct pop3_message *m = message(s, str_trim(arg));
    if (m) {
        m->deleted = true;
        pop3_reply(s, "+OK message deleted");
    }
}

void pop3_rset(struct pop3_session *s, struct str arg)
{
    (void)arg;
    for (uint32_t i = 0; i < s->count; i++)
        s->messages[i].deleted = false;
    pop3_reply(s, "+OK %u messages", s->count);
}

/* Update state (RFC 1939 6): only here are messages removed. */
static int update(struct pop3_session *s, uint32_t *removed_r, struct err *e)
{
    uint32_t *uids = xcalloc(s->count, sizeof *uids), n = 0;
    int rc = 0;

    for (uint32_t i = 0; i < s->count; i++)
        if (s->messages[i].deleted)
            uids[n++] = s->messages[i].uid;
    /* Somebody else may have the lease by now; then nothing may be removed. */
    if (n > 0 && pop3_lease_renew(s->account, s->lease, e) != 0)
        rc = -1;
    else if (n > 0 && s->held_deletes)
        rc = mailbox_hold(s->mailbox, uids, n, e);
    else if (n > 0)
        rc = mailbox_remove(s->mailbox, uids, n, str_of(s->name), "pop3 dele", e);
    free(uids);
    *removed_r = n;
    return rc;
}

void pop3_quit(struct pop3_session *s, struct str arg)
{
    struct err e = ERR_INIT;
    uint32_t removed = 0;

    (void)arg;
    int rc = s->state == POP3_TRANSACTION ? update(s, &removed, &e) : 0;
    if (s->lease != 0) { /* before the reply: the client may come back at once */
        timer_stop(s->renew);
        pop3_lease_drop(s->account, s->lease);
        s->lease = 0;
    }
    if (rc != 0)
        pop3_fail(s, &e, "some deleted messages not removed");
    else
        pop3_reply(s, "+OK %.*s POP3 server signing off", STR_ARG(setting_str("server.product")));
    if (removed > 0)
        log_info("pop3", "%s: %s removed %u messages", stream_peer_text(s->stream), s->name,
                 removed);
    pop3_close(s);
}
