/* FETCH items: macros, single items, BODY[section]<partial> (RFC 3501 6.4.5, 9). */
#include "core/limits.h"
#include "proto/imap_parse.h"

#include <string.h>

/* Items of one command: clients ask for a few, and each costs a look at the message. */
enum { SECTIONS_MAX = 200, FIELDS_MAX = 500 };

static bool atom_safe(struct str s)
{
    for (size_t i = 0; i < s.n; i++)
        if ((unsigned char)s.p[i] <= ' ' || (unsigned char)s.p[i] >= 127 ||
            strchr("(){%*\"\\]", s.p[i]))
            return false;
    return s.n > 0;
}

static bool field_names(struct imap_in *in, struct imap_section *s)
{
    if (!imap_space(in) || !imap_char(in, '('))
        return imap_bad(in, "list of field names expected");
    s->fields = ARENA_ARRAY(in->a, struct str, FIELDS_MAX);
    for (;;) {
        if (s->field_count == FIELDS_MAX)
            return imap_bad(in, "too many field names");
        if (!imap_astring(in, &s->fields[s->field_count]))
            return false;
        for (size_t i = 0; i < s->fields[s->field_count].n; i++) {
            unsigned char c = (unsigned char)s->fields[s->field_count].p[i];
            if (c < ' ' || c >= 127) /* it is echoed within the response */
                return imap_bad(in, "bad field name");
        }
        s->field_count++;
        if (imap_at(in, ')')) {
            in->p++;
            return true;
        }
        if (!imap_space(in))
            return false;
    }
}

/* Behind '[': up to and with ']'. */
static bool section_spec(struct imap_in *in, struct imap_section *s)
{
    uint32_t path[MIME_DEPTH_MAX];
    bool dot = false;

    while (in->p < in->end && ascii_digit(*in->p)) {
        if (s->path_n == MIME_DEPTH_MAX)
            return imap_bad(in, "section too deep");
        if (!imap_nz_number(in, &path[s->path_n++]))
            return false;
        dot = imap_at(in, '.');
        if (!dot)
            break;
        in->p++;
    }
    s->path = ARENA_ARRAY(in->a, uint32_t, s->path_n + 1u);
    memcpy(s->path, path, s->path_n * sizeof *path);
    if (imap_at(in, ']') && !dot) {
        s->what = SECTION_ALL;
    } else if (s->path_n && !dot) {
        return imap_bad(in, "bad section");
    } else if (imap_word(in, "HEADER.FIELDS.NOT")) {
        s->what = SECTION_FIELDS_NOT;
        if (!field_names(in, s))
            return false;
    } else if (imap_word(in, "HEADER.FIELDS")) {
        s->what = SECTION_FIELDS;
        if (!field_names(in, s))
            return false;
    } else if (imap_word(in, "HEADER")) {
        s->what = SECTION_HEADER;
    } else if (imap_word(in, "TEXT")) {
        s->what = SECTION_TEXT;
    } else if (s->path_n && imap_word(in, "MIME")) {
        s->what = SECTION_MIME;
    } else {
        return imap_bad(in, "bad section");
    }
    return imap_char(in, ']');
}

static bool partial(struct imap_in *in, struct imap_section *s)
{
    if (!imap_at(in, '<'))
        return true;
    in->p++;
    s->partial = true;
    if (!imap_number64(in, &s->offset) || !imap_char(in, '.') || !imap_number64(in, &s->length) ||
        !imap_char(in, '>'))
        return imap_bad(in, "bad partial range");
    return s->length > 0 || imap_bad(in, "partial length must not be zero");
}

static void label(struct imap_in *in, struct imap_section *s)
{
    static const char *const names[] = {"",     "HEADER", "HEADER.FIELDS", "HEADER.FIELDS.NOT",
                                        "TEXT", "MIME"};
    struct str text = STR("BODY[");

    for (unsigned i = 0; i < s->path_n; i++)
        text = arena_printf(in->a, "%.*s%s%u", STR_ARG(text), i ? "." : "", s->path[i]);
    text = arena_printf(in->a, "%.*s%s%s", STR_ARG(text), s->path_n && s->what ? "." : "",
                        names[s->what]);
    size_t total = text.n + 40;
    for (unsigned i = 0; i < s->field_count; i++)
        total += s->fields[i].n * 2 + 3;
    char *out = arena_alloc(in->a, total);
    size_t n = text.n;
    memcpy(out, text.p, text.n);
    for (unsigned i = 0; i < s->field_count; i++) {
        struct str f = s->fields[i];
        bool safe = atom_safe(f);
        out[n++] = ' ';
        if (i == 0)
            out[n++] = '(';
        if (!safe)
            out[n++] = '"';
        for (size_t k = 0; k < f.n; k++) {
            if (f.p[k] == '"' || f.p[k] == '\\')
                out[n++] = '\\';
            out[n++] = f.p[k];
        }
        if (!safe)
            out[n++] = '"';
    }
    if (s->field_count)
        out[n++] = ')';
    out[n++] = ']';
    if (s->partial) {
        struct str p = arena_printf(in->a, "<%llu>", (unsigned long long)s->offset);
        memcpy(out + n, p.p, p.n);
        n += p.n;
    }
    s->label = str_make(out, n);
}

struct collector {
    struct imap_fetch *r;
    struct imap_section **tail;
    unsigned count;
};

static struct imap_section *section(struct imap_in *in, struct collector *c)
{
    if (c->count++ == SECTIONS_MAX) {
        imap_bad(in, "too many sections");
        return NULL;
    }
    struct imap_section *s = ARENA_NEW(in->a, struct imap_section);
    *c->tail = s;
    c->tail = &s->next;
    return s;
}

static bool fixed(struct imap_in *in, struct collector *c, enum imap_what what, bool peek,
                  const char *text)
{
    struct imap_section *s = section(in, c);

    if (s == NULL)
        return false;
    s->what = what;
    s->peek = peek;
    s->label = str_of(text);
    return true;
}

static bool body(struct imap_in *in, struct collector *c, bool peek)
{
    struct imap_section *s = section(in, c);

    if (s == NULL)
        return false;
    s->peek = peek;
    if (!imap_char(in, '[') || !section_spec(in, s) || !partial(in, s))
        return false;
    label(in, s);
    return true;
}

static bool item(struct imap_in *in, struct collector *c)
{
    static const struct {
        const char *name;
        unsigned bit;
    } plain[] = {{"FLAGS", FETCH_FLAGS},
                 {"UID", FETCH_UID},
                 {"INTERNALDATE", FETCH_DATE},
                 {"ENVELOPE", FETCH_ENVELOPE},
                 {"BODYSTRUCTURE", FETCH_STRUCTURE}};

    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++)
        if (imap_word(in, plain[i].name)) {
            c->r->items |= plain[i].bit;
            return true;
        }
    if (imap_word(in, "RFC822.SIZE")) {
        c->r->items |= FETCH_SIZE;
        return true;
    }
    if (imap_word(in, "RFC822.HEADER"))
        return fixed(in, c, SECTION_HEADER, true, "RFC822.HEADER");
    if (imap_word(in, "RFC822.TEXT"))
        return fixed(in, c, SECTION_TEXT, false, "RFC822.TEXT");
    if (imap_word(in, "RFC822"))
        return fixed(in, c, SECTION_ALL, false, "RFC822");
    if (imap_word(in, "BODY.PEEK"))
        return body(in, c, true);
    if (imap_word(in, "BODY")) {
        if (imap_at(in, '['))
            return body(in, c, false);
        c->r->items |= FETCH_BODY;
        return true;
    }
    return imap_bad(in, "unknown FETCH item");
}

bool imap_fetch_items(struct imap_in *in, struct imap_fetch *r)
{
    struct collector c = {r, &r->sections, 0};

    *r = (struct imap_fetch){0, NULL};
    if (imap_word(in, "ALL")) {
        r->items = FETCH_FLAGS | FETCH_DATE | FETCH_SIZE | FETCH_ENVELOPE;
    } else if (imap_word(in, "FULL")) {
        r->items = FETCH_FLAGS | FETCH_DATE | FETCH_SIZE | FETCH_ENVELOPE | FETCH_BODY;
    } else if (imap_word(in, "FAST")) {
        r->items = FETCH_FLAGS | FETCH_DATE | FETCH_SIZE;
    } else if (imap_at(in, '(')) {
        in->p++;
        while (imap_at(in, ' '))
            in->p++;
        for (;;) {
            if (!item(in, &c))
                return false;
            while (imap_at(in, ' '))
                in->p++;
            if (imap_at(in, ')'))
                break;
            if (in->p[-1] != ' ')
                return imap_bad(in, "blank expected between FETCH items");
        }
        in->p++;
    } else if (!item(in, &c)) {
        return false;
    }
    return true;
}
