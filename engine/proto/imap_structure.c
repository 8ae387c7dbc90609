/* BODY and BODYSTRUCTURE (RFC 3501 7.4.2). */
#include "core/limits.h"
#include "mail/headers.h"
#include "proto/imap_int.h"
#include "proto/imap_message.h"

#include <string.h>

static void put_nstring(struct buf *b, struct str s)
{
    imap_put_string(b, s.n ? s : STR_NONE);
}

static void put_params(struct buf *b, const struct mime_params *p)
{
    if (p->n == 0) {
        buf_addz(b, "NIL");
        return;
    }
    for (uint32_t i = 0; i < p->n; i++) {
        buf_addc(b, i ? ' ' : '(');
        imap_put_string(b, p->v[i].name);
        buf_addc(b, ' ');
        imap_put_string(b, p->v[i].value.p ? p->v[i].value : STR(""));
    }
    buf_addc(b, ')');
}

/* "de, en" is a list, one tag is a string. */
static void put_language(struct buf *b, struct str s)
{
    if (str_chr(s, ',') < 0) {
        put_nstring(b, s);
        return;
    }
    char sep = '(';
    while (s.p) {
        struct str tag = str_trim(str_cut(&s, ','));
        if (tag.n == 0)
            continue;
        buf_addc(b, sep);
        imap_put_string(b, tag);
        sep = ' ';
    }
    buf_addz(b, sep == '(' ? "NIL" : ")");
}

static void put_extension(struct buf *b, const struct mime_part *p)
{
    if (p->disposition.n) {
        buf_addz(b, " (");
        imap_put_string(b, p->disposition);
        buf_addc(b, ' ');
        put_params(b, &p->disposition_params);
        buf_addz(b, ") ");
    } else {
        buf_addz(b, " NIL ");
    }
    put_language(b, p->language);
    buf_addc(b, ' ');
    put_nstring(b, p->location);
}

static void put_part(struct buf *b, struct arena *a, const struct mime_part *p, bool extended);

static void put_multipart(struct buf *b, struct arena *a, const struct mime_part *p, bool extended)
{
    static const struct mime_part empty = {.type = {"text", 4}, .subtype = {"plain", 5}};

    buf_addc(b, '(');
    for (const struct mime_part *c = p->first; c; c = c->next)
        put_part(b, a, c, extended);
    if (p->first == NULL) /* the grammar wants a part */
        put_part(b, a, &empty, extended);
    buf_addc(b, ' ');
    imap_put_string(b, p->subtype);
    if (extended) {
        buf_addc(b, ' ');
        put_params(b, &p->params);
        put_extension(b, p);
    }
    buf_addc(b, ')');
}

/* Depth is bounded by MIME_DEPTH_MAX. */
static void put_part(struct buf *b, struct arena *a, const struct mime_part *p, bool extended)
{
    bool message = mime_type_is(p, "message", "rfc822");

    if (mime_type_is(p, "multipart", NULL)) {
        put_multipart(b, a, p, extended);
        return;
    }
    buf_addc(b, '(');
    if (message && p->kind != MIME_MESSAGE) { /* nested too deep: no envelope can be given */
        buf_addz(b, "\"application\" \"octet-stream\"");
    } else {
        imap_put_string(b, p->type);
        buf_addc(b, ' ');
        imap_put_string(b, p->subtype);
    }
    buf_addc(b, ' ');
    put_params(b, &p->params);
    buf_addc(b, ' ');
    put_nstring(b, p->id);
    buf_addc(b, ' ');
    put_nstring(b, p->description);
    buf_addc(b, ' ');
    imap_put_string(b, p->encoding.n ? p->encoding : STR("7bit"));
    buf_printf(b, " %llu", (unsigned long long)(p->body_end - p->body_start));
    if (p->kind == MIME_MESSAGE && p->first) {
        buf_addc(b, ' ');
        imap_put_envelope(b, a, p->envelope);
        buf_addc(b, ' ');
        put_part(b, a, p->first, extended);
        buf_printf(b, " %u", p->lines);
    } else if (mime_type_is(p, "text", NULL)) {
        buf_printf(b, " %u", p->lines);
    }
    if (extended) {
        buf_addc(b, ' ');
        put_nstring(b, p->md5);
        put_extension(b, p);
    }
    buf_addc(b, ')');
}

void imap_put_structure(struct buf *b, struct arena *a, const struct mime_part *root, bool extended)
{
    put_part(b, a, root, extended);
}

/* --- sections --------------------------------------------------------------------------------- */

bool imap_section_needs_tree(const struct imap_section *s)
{
    return s->path_n > 0;
}

static struct imap_place body_place(uint64_t head_size, uint64_t from, uint64_t to)
{
    return (struct imap_place){.found = true, .start = head_size + from, .length = to - from};
}

struct imap_place imap_section_place(const struct imap_section *s, const struct mime_part *root,
                                     uint64_t head_size, uint64_t size)
{
    bool fields = s->what == SECTION_FIELDS || s->what == SECTION_FIELDS_NOT;
    struct imap_place r = {.found = true, .filter = fields};

    if (head_size > size)
        head_size = size;
    if (s->path_n == 0) {
        r.start = s->what == SECTION_TEXT ? head_size : 0;
        r.length = s->what == SECTION_ALL    ? size
                   : s->what == SECTION_TEXT ? size - head_size
                                             : head_size;
        return r;
    }
    const struct mime_part *p =
        mime_by_path((struct mime_part *)(uintptr_t)root, s->path, s->path_n);
    if (p == NULL)
        return (struct imap_place){.found = false};
    if (s->what == SECTION_ALL)
        return body_place(head_size, p->body_start, p->body_end);
    if (s->what == SECTION_MIME) {
        if (p == root) { /* the only part of a message: its header is the message's */
            r.length = head_size;
            return r;
        }
        return body_place(head_size, p->header_start, p->header_end);
    }
    /* HEADER and TEXT are those of the message that the part is. */
    if (p->kind != MIME_MESSAGE || p->first == NULL)
        return (struct imap_place){.found = false};
    p = p->first;
    r = s->what == SECTION_TEXT ? body_place(head_size, p->body_start, p->body_end)
                                : body_place(head_size, p->header_start, p->header_end);
    r.filter = fields;
    return r;
}

uint64_t imap_piece(uint64_t head_size, uint64_t start)
{
    if (start < head_size)
        return head_size - start;
    return BODY_PART - (start - head_size) % BODY_PART;
}

void imap_place_cut(const struct imap_section *s, uint64_t *start, uint64_t *length)
{
    if (!s->partial)
        return;
    uint64_t skip = s->offset < *length ? s->offset : *length;
    *start += skip;
    *length -= skip;
    if (*length > s->length)
        *length = s->length;
}

static bool named(const struct imap_section *s, struct str name)
{
    for (unsigned i = 0; i < s->field_count; i++)
        if (str_eqi(s->fields[i], name))
            return true;
    return false;
}

struct str imap_filter_fields(struct arena *a, const struct imap_section *s, struct str head)
{
    char *out = arena_alloc(a, head.n + 4);
    struct header_field f;
    size_t at = 0, n = 0;
    bool want = s->what == SECTION_FIELDS;

    while (header_next(head, &at, &f)) {
        if ((f.name.n > 0 && named(s, f.name)) != want)
            continue;
        memcpy(out + n, head.p + f.start, f.end - f.start);
        n += f.end - f.start;
    }
    if (n && out[n - 1] != '\n') {
        out[n++] = '\r';
        out[n++] = '\n';
    }
    out[n++] = '\r';
    out[n++] = '\n';
    return str_make(out, n);
}
