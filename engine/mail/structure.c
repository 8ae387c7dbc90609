#include "mail/structure.h"

#include "core/buf.h"
#include "core/limits.h"
#include "mail/headers.h"

#include <string.h>

enum { VERSION = 1 };
/* Of one envelope; longer ones lose their last fields rather than the whole structure. */
enum { ENVELOPE_MAX = 32 * 1024 };

static bool put(struct buf *b, uint64_t v)
{
    do {
        unsigned char byte = (unsigned char)((v & 0x7F) | (v > 0x7F ? 0x80 : 0));
        if (!buf_addc(b, (char)byte))
            return false;
        v >>= 7;
    } while (v);
    return true;
}

static bool put_str(struct buf *b, struct str s)
{
    return put(b, s.n) && buf_add(b, s);
}

static bool put_params(struct buf *b, const struct mime_params *p)
{
    bool ok = put(b, p->n);
    for (uint32_t i = 0; i < p->n && ok; i++)
        ok = put_str(b, p->v[i].name) && put_str(b, p->v[i].value);
    return ok;
}

struct str structure_envelope_fields(struct arena *a, struct str head)
{
    static const char *const wanted[] = {"Date", "Subject", "From", "Sender",      "Reply-To",
                                         "To",   "Cc",      "Bcc",  "In-Reply-To", "Message-ID"};
    struct header_field f;
    size_t at = 0, n = 0;
    char *out = arena_alloc(a, head.n < ENVELOPE_MAX ? head.n + 1 : ENVELOPE_MAX);

    while (header_next(head, &at, &f)) {
        for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
            if (!str_eqiz(f.name, wanted[i]))
                continue;
            if (f.end - f.start < ENVELOPE_MAX - n) {
                memcpy(out + n, head.p + f.start, f.end - f.start);
                n += f.end - f.start;
            }
            break;
        }
    }
    return (struct str){out, n};
}

static bool pack_part(struct arena *a, struct buf *b, const struct mime_part *p)
{
    uint64_t base = p->parent ? p->parent->body_start : 0;
    bool ok = put(b, (uint64_t)p->kind) && put(b, p->children) && put(b, p->header_start - base) &&
              put(b, p->header_end - p->header_start) && put(b, p->body_end - p->body_start) &&
              put(b, p->lines);
    if (p->parent == NULL)
        return ok;
    ok = ok && put_str(b, p->type) && put_str(b, p->subtype) && put_params(b, &p->params) &&
         put_str(b, p->id) && put_str(b, p->description) && put_str(b, p->encoding) &&
         put_str(b, p->language) && put_str(b, p->location) && put_str(b, p->md5) &&
         put_str(b, p->disposition) && put_params(b, &p->disposition_params);
    if (p->parent->kind == MIME_MESSAGE)
        ok = ok && put_str(b, structure_envelope_fields(a, p->parent->envelope));
    return ok;
}

struct str structure_pack(struct arena *a, const struct mime_part *root)
{
    struct buf b;
    bool ok = true;

    buf_init(&b, STRUCTURE_MAX);
    ok = buf_addc(&b, VERSION);
    struct arena *scratch = arena_new(4096);
    for (const struct mime_part *p = root; p && ok; p = mime_next(root, p)) {
        ok = pack_part(scratch, &b, p);
        arena_reset(scratch);
    }
    arena_free(&scratch);
    struct str r = ok ? arena_dup(a, buf_str(&b)) : STR_NONE;
    buf_free(&b);
    return r;
}

struct reader {
    struct arena *a;
    struct str s;
    bool bad;
};

static uint64_t get(struct reader *r)
{
    uint64_t v = 0;

    for (unsigned shift = 0; shift < 64 && r->s.n; shift += 7) {
        unsigned char c = (unsigned char)r->s.p[0];
        r->s = str_from(r->s, 1);
        v |= (uint64_t)(c & 0x7F) << shift;
        if (c < 0x80)
            return v;
    }
    r->bad = true;
    return 0;
}

static struct str get_str(struct reader *r)
{
    uint64_t n = get(r);

    if (r->bad || n > r->s.n) {
        r->bad = true;
        return STR("");
    }
    struct str v = str_head(r->s, (size_t)n);
    r->s = str_from(r->s, (size_t)n);
    return v;
}

static struct mime_params get_params(struct reader *r)
{
    uint64_t n = get(r);
    struct mime_params p = {NULL, 0};

    if (r->bad || n > r->s.n) {
        r->bad = true;
        return p;
    }
    p.v = ARENA_ARRAY(r->a, struct mime_param, (size_t)n + 1);
    while (p.n < n && !r->bad) {
        p.v[p.n].name = get_str(r);
        p.v[p.n++].value = get_str(r);
    }
    return p;
}

static struct mime_part *get_part(struct reader *r, struct mime_part *parent, uint64_t *children_r)
{
    struct mime_part *p = ARENA_NEW(r->a, struct mime_part);
    uint64_t kind = get(r);
    uint64_t base = parent ? parent->body_start : 0;

    p->parent = parent;
    *children_r = get(r);
    p->header_start = base + get(r);
    p->header_end = p->body_start = p->header_start + get(r);
    p->body_end = p->body_start + get(r);
    p->lines = (uint32_t)get(r);
    if (kind > MIME_MESSAGE || p->body_end < p->header_start ||
        (kind == MIME_MESSAGE ? *children_r != 1 : kind == MIME_LEAF && *children_r != 0))
        r->bad = true;
    p->kind = (enum mime_kind)(kind <= MIME_MESSAGE ? kind : 0);
    if (parent == NULL || r->bad)
        return p;
    p->type = get_str(r);
    p->subtype = get_str(r);
    p->params = get_params(r);
    p->id = get_str(r);
    p->description = get_str(r);
    p->encoding = get_str(r);
    p->language = get_str(r);
    p->location = get_str(r);
    p->md5 = get_str(r);
    p->disposition = get_str(r);
    p->disposition_params = get_params(r);
    if (parent->kind == MIME_MESSAGE)
        parent->envelope = get_str(r);
    return p;
}

struct mime_part *structure_unpack(struct arena *a, struct str packed, struct str head)
{
    if (packed.n < 2 || packed.p[0] != VERSION)
        return NULL;
    struct reader r = {.a = a, .s = arena_dup(a, str_from(packed, 1))};
    struct {
        struct mime_part *part, *last;
        uint64_t left; /* children still to come */
    } open[MIME_DEPTH_MAX + 2];
    uint64_t children;
    struct mime_part *root = get_part(&r, NULL, &children);
    unsigned depth = 1;
    uint32_t parts = 1;

    mime_fields(a, root, head, false);
    open[0].part = root;
    open[0].last = NULL;
    open[0].left = children;
    while (depth > 0 && !r.bad) {
        if (open[depth - 1].left == 0) {
            depth--;
            continue;
        }
        struct mime_part *up = open[depth - 1].part;
        struct mime_part *p = get_part(&r, up, &children);
        if (open[depth - 1].last)
            open[depth - 1].last->next = p;
        else
            up->first = p;
        open[depth - 1].last = p;
        open[depth - 1].left--;
        up->children++;
        if (++parts > MIME_PARTS_MAX || (children && depth >= MIME_DEPTH_MAX + 2))
            r.bad = true;
        else if (children) {
            open[depth].part = p;
            open[depth].last = NULL;
            open[depth++].left = children;
        }
    }
    if (r.bad)
        return NULL;
    /* A modifier may have changed the type in the head; then the stored tree is not of it. */
    bool multi = mime_type_is(root, "multipart", NULL);
    bool message = mime_type_is(root, "message", "rfc822");
    if ((root->kind == MIME_MULTIPART && !multi) || (root->kind == MIME_MESSAGE && !message))
        return NULL;
    return root;
}
