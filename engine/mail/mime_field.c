/* The header fields of a part: types, dispositions, and their parameters with the continuations and
 * character sets of RFC 2231. */
#include "mail/mime.h"

#include "core/limits.h"
#include "mail/charset.h"
#include "mail/encode.h"
#include "mail/headers.h"

#include <string.h>

static int hex_value(char c)
{
    if (ascii_digit(c))
        return c - '0';
    c = ascii_lower(c);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool token_char(char c)
{
    return (unsigned char)c > ' ' && c != 127 && !strchr("()<>@,;:\\\"/[]?=", c);
}

static void skip_blank(struct str *s)
{
    while (s->n) {
        char c = s->p[0];
        if (c == ' ' || c == '\t' || c == '\r' || c == '\n') {
            *s = str_from(*s, 1);
        } else if (c == '(') {
            unsigned depth = 0;
            size_t i = 0;
            for (; i < s->n; i++) {
                if (s->p[i] == '\\')
                    i++;
                else if (s->p[i] == '(')
                    depth++;
                else if (s->p[i] == ')' && --depth == 0)
                    break;
            }
            *s = str_from(*s, i + 1);
        } else {
            return;
        }
    }
}

static struct str take_token(struct str *s)
{
    size_t i = 0;
    skip_blank(s);
    while (i < s->n && token_char(s->p[i]))
        i++;
    struct str t = str_head(*s, i);
    *s = str_from(*s, i);
    return t;
}

static struct str take_value(struct arena *a, struct str *s)
{
    skip_blank(s);
    if (!s->n || s->p[0] != '"') {
        /* Lenient: everything up to ';' or a blank, as senders forget quotes. */
        size_t i = 0;
        while (i < s->n && s->p[i] != ';' && s->p[i] != ' ' && s->p[i] != '\t' && s->p[i] != '\r' &&
               s->p[i] != '\n')
            i++;
        struct str t = str_head(*s, i);
        *s = str_from(*s, i);
        return t;
    }
    size_t i = 1;
    while (i < s->n && s->p[i] != '"')
        i += s->p[i] == '\\' ? 2 : 1;
    if (i > s->n)
        i = s->n;
    char *out = arena_alloc(a, i + 1);
    size_t n = 0;
    for (size_t k = 1; k < i; k++) {
        char c = s->p[k];
        if (c == '\\' && k + 1 < i)
            c = s->p[++k];
        if (c != '\r' && c != '\n' && c != '\0')
            out[n++] = c;
    }
    *s = str_from(*s, i + 1);
    return (struct str){out, n};
}

enum { PARAMS_MAX = 100 };

struct section { /* name*N or name*N* */
    struct str base;
    uint32_t number;
    bool numbered, extended;
};

static struct section section_of(struct str name)
{
    struct section r = {.base = name};
    if (r.base.n && r.base.p[r.base.n - 1] == '*') {
        r.extended = true;
        r.base.n--;
    }
    ptrdiff_t star = str_rchr(r.base, '*');
    if (star > 0 && str_u32(str_from(r.base, (size_t)star + 1), &r.number)) {
        r.numbered = true;
        r.base.n = (size_t)star;
    }
    return r;
}

/* Joins name*0, name*1* ... into one (RFC 2231 3, 4.1).  At most PARAMS_MAX of them. */
static uint32_t join(struct arena *a, struct mime_param *v, uint32_t n)
{
    static const char digits[] = "0123456789ABCDEF";
    uint32_t out = 0;

    for (uint32_t i = 0; i < n; i++) {
        struct section s = section_of(v[i].name);
        if (v[i].name.p == NULL)
            continue;
        if (!s.numbered) {
            v[out++] = v[i];
            continue;
        }
        struct mime_param *piece[PARAMS_MAX] = {0};
        bool ext[PARAMS_MAX] = {0}, any_ext = false;
        size_t total = 0;
        uint32_t count = 0;
        for (uint32_t k = i; k < n; k++) {
            struct section t = section_of(v[k].name);
            if (v[k].name.p && t.numbered && t.number < PARAMS_MAX && str_eqi(t.base, s.base) &&
                !piece[t.number]) {
                piece[t.number] = &v[k];
                ext[t.number] = t.extended;
                any_ext |= t.extended;
                total += v[k].value.n * 3;
            }
        }
        char *text = arena_alloc(a, total + 1);
        size_t len = 0;
        for (; count < PARAMS_MAX && piece[count]; count++) {
            struct str p = piece[count]->value;
            for (size_t k = 0; k < p.n; k++) {
                unsigned char c = (unsigned char)p.p[k];
                /* Plain pieces between extended ones are escaped, so that the whole reads alike. */
                if (any_ext && !ext[count] && (c == '%' || c == '\'' || c >= 127 || c <= ' ')) {
                    text[len++] = '%';
                    text[len++] = digits[c >> 4];
                    text[len++] = digits[c & 15];
                } else {
                    text[len++] = (char)c;
                }
            }
        }
        struct str name =
            any_ext ? arena_printf(a, "%.*s*", STR_ARG(str_head(s.base, 100))) : s.base;
        for (uint32_t k = 0; k < PARAMS_MAX; k++)
            if (piece[k])
                piece[k]->name = STR_NONE; /* used, and those behind a gap are lost */
        if (count)
            v[out++] = (struct mime_param){name, {text, len}};
    }
    return out;
}

static struct mime_params take_params(struct arena *a, struct str s)
{
    struct mime_param v[PARAMS_MAX];
    uint32_t n = 0;

    while (n < PARAMS_MAX) {
        ptrdiff_t semi = -1;
        skip_blank(&s);
        if (s.n && s.p[0] != ';' && n == 0)
            semi = str_chr(s, ';');
        if (semi >= 0)
            s = str_from(s, (size_t)semi);
        if (!s.n)
            break;
        if (s.p[0] == ';')
            s = str_from(s, 1);
        struct str name = take_token(&s);
        skip_blank(&s);
        if (name.n && s.n && s.p[0] == '=') {
            s = str_from(s, 1);
            struct str value = take_value(a, &s);
            v[n++] = (struct mime_param){name, value};
        }
        /* Whatever does not fit is skipped up to the next ';'. */
        skip_blank(&s);
        semi = str_chr(s, ';');
        if (semi < 0)
            break;
        s = str_from(s, (size_t)semi);
    }
    n = join(a, v, n);
    struct mime_params r = {ARENA_ARRAY(a, struct mime_param, n ? n : 1), n};
    for (uint32_t i = 0; i < n; i++) {
        r.v[i].name = arena_dup(a, v[i].name);
        r.v[i].value = arena_dup(a, v[i].value);
    }
    return r;
}

struct str mime_param(const struct mime_params *p, const char *name)
{
    for (uint32_t i = 0; i < p->n; i++)
        if (str_eqiz(p->v[i].name, name))
            return p->v[i].value;
    return STR_NONE;
}

/* charset'language'text with %XX (RFC 2231 4). */
static struct str extended_text(struct arena *a, struct str v)
{
    struct str rest = v;
    struct str charset = str_cut(&rest, '\'');

    if (rest.p == NULL)
        return charset_to_utf8(a, STR_NONE, v);
    (void)str_cut(&rest, '\'');
    char *out = arena_alloc(a, rest.n + 1);
    size_t n = 0;
    for (size_t i = 0; i < rest.n; i++) {
        int hi = -1, lo = -1;
        if (rest.p[i] == '%' && i + 2 < rest.n) {
            hi = hex_value(rest.p[i + 1]);
            lo = hex_value(rest.p[i + 2]);
        }
        if (hi >= 0 && lo >= 0) {
            out[n++] = (char)(hi << 4 | lo);
            i += 2;
        } else {
            out[n++] = rest.p[i];
        }
    }
    return charset_to_utf8(a, charset, str_make(out, n));
}

struct str mime_param_text(struct arena *a, const struct mime_params *p, const char *name)
{
    size_t n = strlen(name);

    for (uint32_t i = 0; i < p->n; i++) {
        struct str have = p->v[i].name;
        if (have.n == n + 1 && have.p[n] == '*' && str_eqiz(str_head(have, n), name))
            return extended_text(a, p->v[i].value);
    }
    struct str v = mime_param(p, name);
    return v.p ? word_decode(a, v) : STR_NONE;
}

struct str mime_filename(struct arena *a, const struct mime_part *part)
{
    struct str v = mime_param_text(a, &part->disposition_params, "filename");
    return v.n ? v : mime_param_text(a, &part->params, "name");
}

bool mime_type_is(const struct mime_part *part, const char *type, const char *subtype)
{
    return str_eqiz(part->type, type) && (!subtype || str_eqiz(part->subtype, subtype));
}

static void set_type(struct arena *a, struct mime_part *part, struct str value, bool digest)
{
    struct str type = take_token(&value), subtype = STR_NONE;

    skip_blank(&value);
    if (type.n && value.n && value.p[0] == '/') {
        value = str_from(value, 1);
        subtype = take_token(&value);
    }
    if (type.n == 0 || subtype.n == 0) {
        bool text = type.n == 0 || str_eqiz(type, "text");
        part->type = digest && type.n == 0 ? STR("message")
                     : text                ? STR("text")
                                           : STR("application");
        part->subtype = digest && type.n == 0 ? STR("rfc822")
                        : text                ? STR("plain")
                                              : STR("octet-stream");
        if (type.n == 0)
            return;
    } else {
        part->type = arena_dup(a, type);
        part->subtype = arena_dup(a, subtype);
    }
    part->params = take_params(a, value);
}

void mime_fields(struct arena *a, struct mime_part *part, struct str head, bool digest)
{
    struct header_field f;
    size_t at = 0;
    bool have_type = false;
    unsigned count = 0;

    while (header_next(head, &at, &f) && count++ < HEADER_COUNT_MAX) {
        if (f.name.n < 10 || !str_startsi(f.name, STR("Content-")))
            continue;
        struct str n = str_from(f.name, 8);
        struct str *plain = str_eqiz(n, "ID")            ? &part->id
                            : str_eqiz(n, "Description") ? &part->description
                            : str_eqiz(n, "Language")    ? &part->language
                            : str_eqiz(n, "Location")    ? &part->location
                            : str_eqiz(n, "MD5")         ? &part->md5
                                                         : NULL;
        if (plain) {
            if (plain->n == 0)
                *plain = arena_dup(a, header_unfold(a, f.value));
        } else if (str_eqiz(n, "Type") && !have_type) {
            have_type = true;
            set_type(a, part, f.value, digest);
        } else if (str_eqiz(n, "Transfer-Encoding") && part->encoding.n == 0) {
            struct str v = f.value;
            part->encoding = arena_dup(a, take_token(&v));
        } else if (str_eqiz(n, "Disposition") && part->disposition.n == 0) {
            struct str v = f.value;
            part->disposition = arena_dup(a, take_token(&v));
            part->disposition_params = take_params(a, v);
        }
    }
    if (!have_type)
        set_type(a, part, STR_NONE, digest);
}
