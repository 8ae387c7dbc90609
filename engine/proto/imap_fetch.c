/* FETCH and UID FETCH: decides what the items need (flags only; sizes and dates; heads; part trees;
 * bodies), reads that for a chunk of messages at a time, and writes the responses.
 *
 * Memory stays bounded: a chunk holds at most CHUNK_BYTES of messages, larger ones pass through in
 * pieces, and the stream parks the task while the client does not read. */
#include "core/limits.h"
#include "core/log.h"
#include "core/loop.h"
#include "mail/date.h"
#include "mail/headers.h"
#include "mail/structure.h"
#include "proto/imap_int.h"
#include "proto/imap_message.h"
#include "store/message_tree.h"
#include "store/setting.h"

#include <string.h>

enum {
    CHUNK = 256,                   /* messages looked at together */
    CHUNK_BYTES = 2 * 1024 * 1024, /* of whole messages in memory */
    WHOLE_MAX = 256 * 1024,        /* larger messages are read in pieces */
    PIECE = BODY_PART,
    OUT_FLUSH = 32 * 1024,
    OUT_MAX = 48 * 1024 * 1024 /* one response but the literals of large messages */
};

enum { NEED_REF = 1, NEED_HEAD = 2, NEED_TREE = 4, NEED_BODY = 8 };

struct message {
    uint32_t index;
    struct view_ref ref;
    struct str whole; /* p == NULL: not in memory */
    struct str head;
    uint64_t head_size;
    struct mime_part *root;
    bool gone;
};

struct fetch {
    struct imap_session *s;
    struct imap_fetch what;
    unsigned need;
    bool seen;       /* reading sets \Seen */
    struct arena *a; /* of the chunk */
    struct buf out;
    uint64_t since;
    bool missing; /* a message was gone */
    bool broken;  /* the connection cannot go on */
    struct err e;
};

static unsigned needs(const struct imap_fetch *w)
{
    unsigned need = 0;

    if (w->items & (FETCH_DATE | FETCH_SIZE))
        need |= NEED_REF;
    if (w->items & FETCH_ENVELOPE)
        need |= NEED_REF | NEED_HEAD;
    if (w->items & (FETCH_BODY | FETCH_STRUCTURE))
        need |= NEED_REF | NEED_HEAD | NEED_TREE;
    for (const struct imap_section *s = w->sections; s; s = s->next) {
        bool head = s->path_n == 0 && s->what != SECTION_ALL && s->what != SECTION_TEXT;
        need |= NEED_REF | (head ? NEED_HEAD : NEED_BODY);
    }
    return need;
}

static void flush(struct fetch *f, size_t above)
{
    if (f->out.len > above) {
        if (stream_write(f->s->stream, buf_str(&f->out)) != 0)
            f->broken = true;
        buf_clear(&f->out);
    }
}

/* --- loading ---------------------------------------------------------------------------------- */

/* The tree of a message that is not in memory and has none stored: parsed while it passes. */
static int parse_passing(struct fetch *f, struct message *m)
{
    struct arena *scratch = arena_new(PIECE + 4096);
    struct mime_parser *p = mime_begin(f->a, m->head);
    uint64_t at = m->head_size;
    int rc = 0;

    while (at < m->ref.size && !task_cancelled()) {
        struct str piece;
        rc = message_read(m->ref.head, at, imap_piece(m->head_size, at), scratch, &piece, &f->e);
        if (rc != 0 || piece.n == 0)
            break;
        mime_feed(p, piece);
        at += piece.n;
        arena_reset(scratch);
        imap_breathe(&f->since);
    }
    m->root = mime_end(&p);
    arena_free(&scratch);
    return rc;
}

static int load_large(struct fetch *f, struct message *m, bool tree)
{
    struct message_info info;

    if (message_info(m->ref.head, f->a, &info, &f->e) != 0) {
        m->gone = f->e.cls == ERR_NOTFOUND;
        return m->gone ? 0 : -1;
    }
    m->head_size = info.head_size;
    if (!tree && !(f->need & NEED_HEAD))
        return 0;
    if (m->head.p == NULL &&
        message_read(m->ref.head, 0, info.head_size, f->a, &m->head, &f->e) != 0)
        return -1;
    if (tree) {
        m->root = structure_unpack(f->a, info.structure, m->head);
        if (m->root == NULL)
            return parse_passing(f, m);
    }
    return 0;
}

static bool wants_tree(const struct fetch *f)
{
    bool tree = f->need & NEED_TREE;
    for (const struct imap_section *s = f->what.sections; s && !tree; s = s->next)
        tree = imap_section_needs_tree(s);
    return tree;
}

static int load_whole(struct fetch *f, struct message *v, uint32_t n, bool tree)
{
    uint64_t *heads = ARENA_ARRAY(f->a, uint64_t, n);
    struct str *bytes = ARENA_ARRAY(f->a, struct str, n);
    uint32_t *of = ARENA_ARRAY(f->a, uint32_t, n), k = 0;

    for (uint32_t i = 0; i < n; i++)
        if (!v[i].gone && v[i].ref.size <= WHOLE_MAX) {
            heads[k] = v[i].ref.head;
            of[k++] = i;
        }
    if (k && messages_read(heads, k, WHOLE_MAX, f->a, bytes, &f->e) != 0)
        return -1;
    for (uint32_t i = 0; i < k; i++) {
        struct message *m = &v[of[i]];
        if (bytes[i].p == NULL)
            continue; /* larger than its reference says: read in pieces */
        if (bytes[i].n == 0) {
            m->gone = true;
            continue;
        }
        m->whole = bytes[i];
        m->head_size = header_end(m->whole);
        m->head = str_head(m->whole, m->head_size);
        if (tree)
            m->root = mime_parse(f->a, m->head, str_from(m->whole, m->head_size));
        imap_breathe(&f->since);
    }
    for (uint32_t i = 0; i < n; i++)
        if (!v[i].gone && v[i].whole.p == NULL && load_large(f, &v[i], tree) != 0)
            return -1;
    return 0;
}

static int load_heads(struct fetch *f, struct message *v, uint32_t n)
{
    uint64_t *heads = ARENA_ARRAY(f->a, uint64_t, n);
    struct str *bytes = ARENA_ARRAY(f->a, struct str, n);
    uint32_t *of = ARENA_ARRAY(f->a, uint32_t, n), k = 0;

    for (uint32_t i = 0; i < n; i++)
        if (!v[i].gone) {
            heads[k] = v[i].ref.head;
            of[k++] = i;
        }
    if (k && message_heads(heads, k, f->a, bytes, &f->e) != 0)
        return -1;
    for (uint32_t i = 0; i < k; i++) {
        v[of[i]].head = bytes[i];
        v[of[i]].head_size = bytes[i].n;
        v[of[i]].gone = bytes[i].n == 0;
    }
    return 0;
}

static int load_trees(struct fetch *f, struct message *v, uint32_t n)
{
    uint64_t *heads = ARENA_ARRAY(f->a, uint64_t, n);
    struct message_tree *trees = ARENA_ARRAY(f->a, struct message_tree, n);
    uint32_t *of = ARENA_ARRAY(f->a, uint32_t, n), k = 0;

    for (uint32_t i = 0; i < n; i++)
        if (!v[i].gone) {
            heads[k] = v[i].ref.head;
            of[k++] = i;
        }
    if (message_trees(heads, k, f->a, trees, &f->e) != 0)
        return -1;
    for (uint32_t i = 0; i < k; i++) {
        struct message *m = &v[of[i]];
        m->head = trees[i].head;
        m->head_size = m->head.n;
        m->gone = m->head.n == 0;
        if (m->gone)
            continue;
        m->root = structure_unpack(f->a, trees[i].structure, m->head);
        if (m->root == NULL && parse_passing(f, m) != 0)
            return -1;
        imap_breathe(&f->since);
    }
    return 0;
}

static int load(struct fetch *f, struct message *v, uint32_t n)
{
    if (f->need & NEED_BODY)
        return load_whole(f, v, n, wants_tree(f));
    if (f->need & NEED_TREE)
        return load_trees(f, v, n);
    if (f->need & NEED_HEAD)
        return load_heads(f, v, n);
    return 0;
}

/* --- writing ---------------------------------------------------------------------------------- */

/* Bytes of a message that is not in memory, as they pass.  The announced count must be met: when
 * the database fails in between, only the end of the connection can tell the client. */
static void pass_through(struct fetch *f, const struct message *m, uint64_t start, uint64_t length)
{
    struct arena *scratch = arena_new(PIECE + 4096);

    while (length > 0 && !f->broken) {
        struct str piece;
        uint64_t n = imap_piece(m->head_size, start);
        if (message_read(m->ref.head, start, length < n ? length : n, scratch, &piece, &f->e) !=
                0 ||
            piece.n == 0) {
            log_warn("imap", "%s: message became unreadable within a response: %s", f->s->user,
                     f->e.text);
            f->broken = true;
            break;
        }
        flush(f, 0);
        if (stream_write(f->s->stream, piece) != 0)
            f->broken = true;
        start += piece.n;
        length -= piece.n;
        arena_reset(scratch);
    }
    arena_free(&scratch);
}

static void put_literal(struct fetch *f, struct str s)
{
    buf_printf(&f->out, "{%zu}\r\n", s.n);
    if (s.n)
        buf_add(&f->out, s);
}

static void put_section(struct fetch *f, const struct message *m, const struct imap_section *s)
{
    flush(f, OUT_FLUSH);
    buf_add(&f->out, s->label);
    buf_addc(&f->out, ' ');
    uint64_t size = m->whole.p ? m->whole.n : m->ref.size;
    struct imap_place p = imap_section_place(s, m->root, m->head_size, size);
    if (!p.found) {
        buf_addz(&f->out, "NIL");
        return;
    }
    if (p.filter) {
        struct str head = STR_NONE;
        if (m->whole.p)
            head = str_head(str_from(m->whole, (size_t)p.start), (size_t)p.length);
        else if (p.start == 0 && m->head.p)
            head = str_head(m->head, (size_t)p.length);
        else if (message_read(m->ref.head, p.start, p.length, f->a, &head, &f->e) != 0) {
            f->broken = true;
            return;
        }
        struct str fields = imap_filter_fields(f->a, s, head);
        uint64_t start = 0, length = fields.n;
        imap_place_cut(s, &start, &length);
        put_literal(f, str_make(fields.p + start, (size_t)length));
        return;
    }
    imap_place_cut(s, &p.start, &p.length);
    if (m->whole.p) {
        put_literal(f, str_head(str_from(m->whole, (size_t)p.start), (size_t)p.length));
    } else if (p.start + p.length <= m->head.n) {
        put_literal(f, str_head(str_from(m->head, (size_t)p.start), (size_t)p.length));
    } else {
        buf_printf(&f->out, "{%llu}\r\n", (unsigned long long)p.length);
        pass_through(f, m, p.start, p.length);
    }
}

static void respond(struct fetch *f, const struct message *m, bool flags)
{
    struct buf *b = &f->out;
    const struct view *v = f->s->view;
    const char *blank = "";

    buf_printf(b, "* %u FETCH (", m->index + 1);
    if (f->what.items & FETCH_UID || f->s->by_uid) {
        buf_printf(b, "UID %u", v->uids[m->index]);
        blank = " ";
    }
    if (flags) {
        buf_printf(b, "%sFLAGS ", blank);
        imap_put_flags(b, v, m->index);
        blank = " ";
    }
    if (f->what.items & FETCH_DATE) {
        char text[DATE_TEXT];
        struct str d = date_imap_emit(text, m->ref.at, 0);
        buf_printf(b, "%sINTERNALDATE \"%.*s\"", blank, STR_ARG(d));
        blank = " ";
    }
    if (f->what.items & FETCH_SIZE) {
        buf_printf(b, "%sRFC822.SIZE %u", blank, m->ref.size);
        blank = " ";
    }
    if (f->what.items & FETCH_ENVELOPE) {
        buf_printf(b, "%sENVELOPE ", blank);
        imap_put_envelope(b, f->a, m->head);
        blank = " ";
    }
    if (f->what.items & FETCH_STRUCTURE) {
        buf_printf(b, "%sBODYSTRUCTURE ", blank);
        imap_put_structure(b, f->a, m->root, true);
        blank = " ";
    }
    if (f->what.items & FETCH_BODY) {
        buf_printf(b, "%sBODY ", blank);
        imap_put_structure(b, f->a, m->root, false);
        blank = " ";
    }
    for (const struct imap_section *s = f->what.sections; s && !f->broken; s = s->next) {
        if (*blank)
            buf_addc(b, ' ');
        put_section(f, m, s);
        blank = " ";
    }
    if (f->broken)
        return;
    buf_addz(b, ")\r\n");
    flush(f, OUT_FLUSH);
}

/* Sets \Seen on what is about to be read.  A failure is not the reader's trouble. */
static void mark_seen(struct fetch *f, const struct message *v, uint32_t n, bool *marked)
{
    struct view *view = f->s->view;
    uint32_t *index = ARENA_ARRAY(f->a, uint32_t, n), k = 0;
    struct err e = ERR_INIT;

    for (uint32_t i = 0; i < n; i++)
        if (!v[i].gone && !(view->flags[v[i].index] & FLAG_SEEN)) {
            index[k++] = v[i].index;
            marked[i] = true;
        }
    if (k &&
        view_store(view, index, k, STORE_ADD, FLAG_SEEN, NULL, 0, 0, f->a, NULL, NULL, &e) != 0) {
        log_info("imap", "%s: cannot mark as seen: %s", f->s->user, e.text);
        memset(marked, 0, n * sizeof *marked);
    }
}

/* How many of the messages fit into one chunk; at least one. */
static uint32_t chunk_size(const struct fetch *f, const struct view_ref *refs, uint32_t n)
{
    uint64_t bytes = 0;
    uint32_t k = 0;

    if (!(f->need & NEED_BODY))
        return n;
    while (k < n) {
        bytes += refs[k].size <= WHOLE_MAX ? refs[k].size : 1024;
        if (k > 0 && bytes > CHUNK_BYTES)
            break;
        k++;
    }
    return k;
}

static int fetch_chunk(struct fetch *f, const uint32_t *index, const struct view_ref *refs,
                       uint32_t n)
{
    struct message *v = ARENA_ARRAY(f->a, struct message, n);
    bool *marked = ARENA_ARRAY(f->a, bool, n);

    for (uint32_t i = 0; i < n; i++) {
        v[i].index = index[i];
        if (refs) {
            v[i].ref = refs[i];
            v[i].gone = refs[i].gone;
        }
    }
    if (load(f, v, n) != 0)
        return -1;
    if (f->seen)
        mark_seen(f, v, n, marked);
    for (uint32_t i = 0; i < n && !f->broken && !task_cancelled(); i++) {
        if (v[i].gone) {
            f->missing = true;
            continue;
        }
        respond(f, &v[i], f->what.items & FETCH_FLAGS || marked[i]);
        imap_breathe(&f->since);
    }
    return 0;
}

static int fetch_all(struct fetch *f, const uint32_t *index, uint32_t n)
{
    struct view_ref *refs = f->need ? ARENA_ARRAY(f->s->a, struct view_ref, CHUNK) : NULL;

    for (uint32_t done = 0; done < n && !f->broken && !task_cancelled();) {
        uint32_t k = n - done < CHUNK ? n - done : CHUNK;
        if (refs && view_refs(f->s->view, index + done, k, refs, &f->e) != 0)
            return -1;
        for (uint32_t i = 0; i < k && !f->broken;) {
            uint32_t part = refs ? chunk_size(f, refs + i, k - i) : k - i;
            if (fetch_chunk(f, index + done + i, refs ? refs + i : NULL, part) != 0)
                return -1;
            arena_reset(f->a);
            i += part;
        }
        done += k;
    }
    return 0;
}

bool imap_messages(struct imap_session *s, struct imap_in *in, const struct imap_set *set,
                   uint32_t **index_r, uint32_t *n_r)
{
    const struct view *v = s->view;

    if (imap_set_resolve(set, s->by_uid, v->uids, v->count, s->a, index_r, n_r))
        return true;
    return imap_bad(in, "no message has that number");
}

void imap_fetch(struct imap_session *s, struct imap_in *in)
{
    struct imap_set set;
    struct fetch f = {.s = s, .e = ERR_INIT};
    uint32_t *index, n;

    if (!imap_space(in) || !imap_set(in, &set) || !imap_space(in) ||
        !imap_fetch_items(in, &f.what) || !imap_end(in) || !imap_messages(s, in, &set, &index, &n))
        return;
    f.need = needs(&f.what);
    for (const struct imap_section *x = f.what.sections; x && !s->view->readonly; x = x->next)
        f.seen |= !x->peek;
    bool counted = f.need & (NEED_HEAD | NEED_TREE | NEED_BODY) && n > 1;
    if (counted &&
        !imap_count_wait(IMAP_COUNT_FETCH, s->account, (unsigned)setting_int("imap.max_fetches"),
                         (unsigned)setting_int("imap.max_fetches_per_user"),
                         (unsigned)setting_int("imap.fetch_wait"))) {
        imap_no(s, "[LIMIT] Too many current FETCHes active");
        return;
    }
    f.a = arena_new(8192);
    buf_init(&f.out, OUT_MAX);
    int rc = fetch_all(&f, index, n);
    flush(&f, 0);
    buf_free(&f.out);
    arena_free(&f.a);
    if (counted)
        imap_count_leave(IMAP_COUNT_FETCH, s->account);
    if (f.broken) {
        s->done = true;
        s->closing = true;
        stream_finish(s->stream);
    } else if (rc != 0) {
        imap_fail(s, &f.e, "Cannot read messages now");
    } else if (f.missing && !s->by_uid) {
        imap_no(s, "[EXPUNGEISSUED] Some messages are gone");
    } else {
        imap_ok(s, "Fetch completed");
    }
}
