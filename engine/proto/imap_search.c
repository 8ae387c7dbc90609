/* SEARCH and UID SEARCH (RFC 3501 6.4.4): in four passes over shrinking sets, each with what the
 * one before left undecided: flags, then sizes and dates, then heads, then contents. */
#include "core/log.h"
#include "mail/headers.h"
#include "mail/structure.h"
#include "proto/imap_int.h"
#include "proto/imap_match.h"
#include "proto/imap_message.h"
#include "store/setting.h"

#include <string.h>

enum {
    CHUNK = 256,
    CHUNK_BYTES = 4 * 1024 * 1024,
    WHOLE_MAX = 512 * 1024,
    PIECE = 256 * 1024,
    CLOCK_EVERY = 64 /* messages decided by flags between two looks at the clock */
};

struct search {
    struct imap_session *s;
    struct imap_search what;
    uint32_t *open, open_n; /* undecided indexes, ascending */
    unsigned char *hit;     /* bit per index */
    bool *found;            /* of the content keys */
    uint64_t since;
    struct err e;
};

/* Notes an answer; true when it is still unknown. */
static bool undecided(struct search *q, uint32_t index, enum imap_answer x)
{
    if (x == MATCH_YES)
        q->hit[index / 8] = (unsigned char)(q->hit[index / 8] | 1u << (index % 8));
    return x == MATCH_UNKNOWN;
}

static void by_flags(struct search *q)
{
    const struct view *v = q->s->view;
    uint32_t left = 0;

    q->open = arena_alloc(q->s->a, sizeof *q->open * ((size_t)v->count + 1));
    for (uint32_t i = 0; i < v->count; i++) {
        struct imap_facts f = {.index = i};
        if (undecided(q, i, imap_match(q->what.root, v, &f)))
            q->open[left++] = i;
        if (i % CLOCK_EVERY == 0)
            imap_breathe(&q->since);
    }
    q->open_n = left;
}

static int by_refs(struct search *q)
{
    struct view_ref *refs = ARENA_ARRAY(q->s->a, struct view_ref, CHUNK);
    uint32_t left = 0;

    for (uint32_t done = 0; done < q->open_n;) {
        uint32_t k = q->open_n - done < CHUNK ? q->open_n - done : CHUNK;
        if (view_refs(q->s->view, q->open + done, k, refs, &q->e) != 0)
            return -1;
        for (uint32_t i = 0; i < k; i++) {
            uint32_t index = q->open[done + i];
            struct imap_facts f = {.index = index, .ref = &refs[i]};
            if (!refs[i].gone && undecided(q, index, imap_match(q->what.root, q->s->view, &f)))
                q->open[left++] = index;
        }
        done += k;
        imap_breathe(&q->since);
        if (task_cancelled())
            return err_set(&q->e, ERR_CANCELLED, "the client left");
    }
    q->open_n = left;
    return 0;
}

static int by_heads(struct search *q)
{
    struct view_ref *refs = ARENA_ARRAY(q->s->a, struct view_ref, CHUNK);
    uint64_t *heads = ARENA_ARRAY(q->s->a, uint64_t, CHUNK);
    struct str *bytes = ARENA_ARRAY(q->s->a, struct str, CHUNK);
    struct arena *a = arena_new(64 * 1024), *scratch = arena_new(8192);
    uint32_t left = 0;
    int rc = 0;

    for (uint32_t done = 0; done < q->open_n && rc == 0;) {
        uint32_t k = q->open_n - done < CHUNK ? q->open_n - done : CHUNK;
        rc = view_refs(q->s->view, q->open + done, k, refs, &q->e);
        for (uint32_t i = 0; i < k && rc == 0; i++)
            heads[i] = refs[i].head;
        if (rc == 0)
            rc = message_heads(heads, k, a, bytes, &q->e);
        for (uint32_t i = 0; i < k && rc == 0; i++) {
            uint32_t index = q->open[done + i];
            if (refs[i].gone || bytes[i].n == 0)
                continue;
            struct imap_facts f = {.index = index, .ref = &refs[i], .head = bytes[i], .a = scratch};
            if (undecided(q, index, imap_match(q->what.root, q->s->view, &f)))
                q->open[left++] = index;
            arena_reset(scratch);
            imap_breathe(&q->since);
        }
        arena_reset(a);
        done += k;
        if (task_cancelled())
            rc = err_set(&q->e, ERR_CANCELLED, "the client left");
    }
    arena_free(&a);
    arena_free(&scratch);
    q->open_n = left;
    return rc;
}

/* --- contents */

static void scan_whole(struct search *q, struct imap_scan *scan, struct arena *a, struct str whole)
{
    size_t h = header_end(whole);
    struct str head = str_head(whole, h), body = str_from(whole, h);
    struct mime_part *root = mime_parse(a, head, body);

    imap_scan_head(scan, head);
    for (const struct mime_part *p = root; p && !imap_scan_done(scan); p = mime_next(root, p)) {
        if (p->kind == MIME_MESSAGE && p->envelope.n)
            imap_scan_inner_head(scan, p->envelope);
        if (!imap_scan_wants(p))
            continue;
        imap_scan_part(scan, p);
        struct str bytes =
            str_head(str_from(body, (size_t)p->body_start), (size_t)(p->body_end - p->body_start));
        while (bytes.n && !imap_scan_done(scan)) { /* in pieces only for the clock's sake */
            struct str piece = str_head(bytes, PIECE);
            bytes = str_from(bytes, piece.n);
            imap_scan_bytes(scan, piece, bytes.n == 0);
            imap_breathe(&q->since);
        }
    }
}

/* A message too large to be held: first its tree, then the text parts in pieces. */
static int scan_large(struct search *q, struct imap_scan *scan, struct arena *a,
                      const struct view_ref *ref)
{
    struct message_info info;
    struct str head, piece;
    struct arena *scratch = arena_new(PIECE + 4096);
    int rc = -1;

    if (message_info(ref->head, a, &info, &q->e) != 0 ||
        message_read(ref->head, 0, info.head_size, a, &head, &q->e) != 0)
        goto out;
    imap_scan_head(scan, head);
    struct mime_part *root = structure_unpack(a, info.structure, head);
    if (root == NULL) {
        struct mime_parser *p = mime_begin(a, head);
        for (uint64_t at = info.head_size; at < ref->size; at += piece.n) {
            if (message_read(ref->head, at, imap_piece(info.head_size, at), scratch, &piece,
                             &q->e) != 0 ||
                piece.n == 0)
                break;
            mime_feed(p, piece);
            arena_reset(scratch);
            imap_breathe(&q->since);
        }
        root = mime_end(&p);
    }
    rc = 0;
    for (const struct mime_part *p = root; p && rc == 0 && !imap_scan_done(scan);
         p = mime_next(root, p)) {
        if (p->kind == MIME_MESSAGE && p->envelope.n)
            imap_scan_inner_head(scan, p->envelope);
        if (!imap_scan_wants(p))
            continue;
        imap_scan_part(scan, p);
        for (uint64_t at = p->body_start; at < p->body_end && !imap_scan_done(scan);
             at += piece.n) {
            uint64_t n = imap_piece(0, at);
            if (n > p->body_end - at)
                n = p->body_end - at;
            arena_reset(scratch);
            rc = message_read(ref->head, info.head_size + at, n, scratch, &piece, &q->e);
            if (rc != 0 || piece.n == 0)
                break;
            imap_scan_bytes(scan, piece, at + piece.n >= p->body_end);
            imap_breathe(&q->since);
        }
    }
out:
    arena_free(&scratch);
    return rc;
}

static int content_chunk(struct search *q, const uint32_t *index, const struct view_ref *refs,
                         uint32_t n, struct arena *a)
{
    uint64_t *heads = ARENA_ARRAY(a, uint64_t, n);
    struct str *bytes = ARENA_ARRAY(a, struct str, n);
    struct arena *scratch = arena_new(16 * 1024);
    int rc = 0;

    for (uint32_t i = 0; i < n; i++)
        heads[i] = refs[i].head;
    if (messages_read(heads, n, WHOLE_MAX, a, bytes, &q->e) != 0)
        rc = -1;
    for (uint32_t i = 0; i < n && rc == 0 && !task_cancelled(); i++) {
        if (refs[i].gone || (bytes[i].p && bytes[i].n == 0)) /* p NULL: too large to be read here */
            continue;
        struct imap_scan *scan = imap_scan_new(&q->what, q->found);
        struct imap_facts f = {.index = index[i], .ref = &refs[i], .text = q->found, .a = scratch};
        if (bytes[i].p) {
            scan_whole(q, scan, scratch, bytes[i]);
            f.head = str_head(bytes[i], header_end(bytes[i]));
        } else {
            rc = scan_large(q, scan, scratch, &refs[i]);
            if (rc == 0)
                rc = message_heads(&refs[i].head, 1, scratch, &f.head, &q->e);
            if (rc != 0 && q->e.cls == ERR_NOTFOUND)
                rc = 0;
        }
        if (rc == 0 && f.head.p)
            undecided(q, index[i], imap_match(q->what.root, q->s->view, &f));
        imap_scan_free(&scan);
        arena_reset(scratch);
        imap_breathe(&q->since);
    }
    arena_free(&scratch);
    return rc;
}

static int by_contents(struct search *q)
{
    struct view_ref *refs = ARENA_ARRAY(q->s->a, struct view_ref, CHUNK);
    struct arena *a = arena_new(64 * 1024);
    int rc = 0;

    q->found = ARENA_ARRAY(q->s->a, bool, q->what.text_keys + 1);
    for (uint32_t done = 0; done < q->open_n && rc == 0;) {
        uint32_t k = q->open_n - done < CHUNK ? q->open_n - done : CHUNK;
        rc = view_refs(q->s->view, q->open + done, k, refs, &q->e);
        for (uint32_t i = 0; i < k && rc == 0;) {
            uint64_t bytes = 0;
            uint32_t part = 0;
            for (; i + part < k; part++) {
                uint32_t size = refs[i + part].size;
                bytes += size <= WHOLE_MAX ? size : 0;
                if (part > 0 && bytes > CHUNK_BYTES)
                    break;
            }
            rc = content_chunk(q, q->open + done + i, refs + i, part, a);
            arena_reset(a);
            i += part;
        }
        done += k;
        if (task_cancelled())
            rc = err_set(&q->e, ERR_CANCELLED, "the client left");
    }
    arena_free(&a);
    return rc;
}

static int run(struct search *q)
{
    by_flags(q);
    if (q->open_n && by_refs(q) != 0)
        return -1;
    if (q->open_n && by_heads(q) != 0)
        return -1;
    if (q->open_n && q->what.text_keys && by_contents(q) != 0)
        return -1;
    return 0;
}

static void respond(struct search *q)
{
    const struct view *v = q->s->view;
    struct buf b;

    buf_init(&b, 65536);
    buf_addz(&b, "* SEARCH");
    for (uint32_t i = 0; i < v->count; i++) {
        if (q->hit[i / 8] >> (i % 8) & 1)
            buf_printf(&b, " %u", q->s->by_uid ? v->uids[i] : i + 1);
        if (b.len > 32768) {
            stream_write(q->s->stream, buf_str(&b));
            buf_clear(&b);
        }
    }
    buf_addz(&b, "\r\n");
    stream_write(q->s->stream, buf_str(&b));
    buf_free(&b);
}

void imap_search(struct imap_session *s, struct imap_in *in)
{
    struct search q = {.s = s, .e = ERR_INIT};

    if (!imap_space(in) || !imap_search_keys(in, &q.what) || !imap_end(in))
        return;
    if (q.what.bad_charset) {
        imap_no(s, "[BADCHARSET (UTF-8 US-ASCII)] This character set is not supported");
        return;
    }
    if (!imap_match_prepare(q.what.root, s->view, s->a)) {
        imap_bad(in, "no message has that number");
        return;
    }
    bool counted = q.what.text_keys > 0;
    if (counted && !imap_count_wait(IMAP_COUNT_SEARCH, s->account, 0,
                                    (unsigned)setting_int("imap.max_searches_per_user"),
                                    (unsigned)setting_int("imap.search_wait"))) {
        imap_no(s, "[LIMIT] Too many concurrent searches - try again later");
        return;
    }
    q.hit = arena_zalloc(s->a, s->view->count / 8 + 1);
    int rc = run(&q);
    if (counted)
        imap_count_leave(IMAP_COUNT_SEARCH, s->account);
    if (rc != 0) {
        imap_fail(s, &q.e, "Cannot search now");
        return;
    }
    respond(&q);
    imap_ok(s, "Search completed");
}
