#include "mail/address.h"

#include "core/limits.h"
#include "mail/charset.h"

#include <arpa/inet.h>
#include <idn2.h>
#include <stdlib.h>
#include <string.h>

enum { LOCAL_MAX = 64, LOCAL_UTF8_MAX = 255, DOMAIN_MAX = 255, LABEL_MAX = 63 };
/* In lists: of a comment that serves as a name; of one route or of "@" signs in one address, so
 * that a line of nothing else stays linear. */
enum { COMMENT_MAX = 200, ATS_MAX = 32 };

static bool atext(char ch)
{
    unsigned char c = (unsigned char)ch;
    if (c >= 128)
        return true; /* callers without UTF-8 look for these themselves */
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           (c && strchr("!#$%&'*+-/=?^_`{|}~", c) != NULL);
}

bool domain_valid(struct str d, bool utf8)
{
    size_t label = 0;

    if (d.n == 0 || d.n > DOMAIN_MAX || d.p[0] == '.')
        return false;
    if (!str_ascii(d) && (!utf8 || !str_utf8(d)))
        return false;
    for (size_t i = 0; i < d.n; i++) {
        unsigned char c = (unsigned char)d.p[i];
        if (c == '.') {
            if (label == 0 || d.p[i - 1] == '-')
                return false;
            label = 0;
            continue;
        }
        bool ok = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                  (c == '-' && label > 0) || c == '_' || c >= 128;
        if (!ok || ++label > (utf8 ? 4 * LABEL_MAX : LABEL_MAX))
            return false;
    }
    return label > 0 && d.p[d.n - 1] != '-';
}

/* "[192.0.2.1]" or "[IPv6:2001:db8::1]". */
static bool literal_valid(struct str d)
{
    char text[64];
    unsigned char raw[16];

    if (d.n < 3 || d.n > sizeof text || d.p[0] != '[' || d.p[d.n - 1] != ']')
        return false;
    struct str in = str_make(d.p + 1, d.n - 2);
    bool six = str_startsi(in, STR("IPv6:"));
    if (six)
        in = str_from(in, 5);
    if (in.n == 0 || memchr(in.p, '\0', in.n))
        return false;
    memcpy(text, in.p, in.n);
    text[in.n] = '\0';
    return inet_pton(six ? AF_INET6 : AF_INET, text, raw) == 1;
}

/* Local part at the start of s; returns bytes used, 0 when there is none or it is malformed. */
static size_t take_local(struct arena *a, struct str s, struct str *local_r)
{
    size_t i = 0;

    if (s.n && s.p[0] == '"') {
        char *out = arena_alloc(a, str_head(s, ADDRESS_MAX).n + 1);
        size_t n = 0;
        for (i = 1; i < s.n && i < ADDRESS_MAX; i++) {
            char c = s.p[i];
            if (c == '"') {
                *local_r = (struct str){out, n};
                return i + 1;
            }
            if (c == '\\' && i + 1 < s.n)
                c = s.p[++i];
            if ((unsigned char)c < ' ' || c == 127)
                return 0;
            out[n++] = c;
        }
        return 0;
    }
    while (i < s.n && (atext(s.p[i]) || (s.p[i] == '.' && i > 0 && s.p[i - 1] != '.')))
        i++;
    if (i && s.p[i - 1] == '.')
        return 0;
    *local_r = str_head(s, i);
    return i;
}

static size_t take_domain(struct str s, bool utf8, struct str *domain_r)
{
    size_t i = 0;

    if (s.n && s.p[0] == '[') {
        ptrdiff_t end = str_chr(str_head(s, 64), ']');
        if (end < 0 || !literal_valid(str_head(s, (size_t)end + 1)))
            return 0;
        *domain_r = str_head(s, (size_t)end + 1);
        return (size_t)end + 1;
    }
    while (i < s.n && (unsigned char)s.p[i] > ' ' && s.p[i] != 127 && s.p[i] != '>' &&
           s.p[i] != ':' && s.p[i] != ',' && i <= DOMAIN_MAX)
        i++;
    *domain_r = str_head(s, i);
    return domain_valid(*domain_r, utf8) ? i : 0;
}

/* "@a,@b:" (RFC 5321 4.1.2: accepted and ignored). */
static bool skip_route(struct str *s)
{
    while (s->n && s->p[0] == '@') {
        struct str d;
        size_t n = take_domain(str_from(*s, 1), false, &d);
        if (n == 0)
            return false;
        *s = str_from(*s, n + 1);
        if (s->n && s->p[0] == ',') {
            *s = str_from(*s, 1);
            if (!s->n || s->p[0] != '@')
                return false;
        } else if (s->n && s->p[0] == ':') {
            *s = str_from(*s, 1);
            return true;
        } else {
            return false;
        }
    }
    return true;
}

static int take_mailbox(struct arena *a, struct str *s, unsigned flags, struct address *r,
                        struct err *e)
{
    bool utf8 = flags & PATH_UTF8;
    size_t n = take_local(a, *s, &r->local);

    if (n == 0)
        return err_set(e, ERR_SYNTAX, "malformed local part");
    struct str written = str_head(*s, n);
    *s = str_from(*s, n);
    if (!str_ascii(written) && (!utf8 || !str_utf8(written)))
        return err_set(e, ERR_SYNTAX, "address is not ASCII and SMTPUTF8 was not asked for");
    if (r->local.n > (str_ascii(r->local) ? LOCAL_MAX : LOCAL_UTF8_MAX))
        return err_set(e, ERR_LIMIT, "local part too long");
    r->domain = STR("");
    if (!s->n || s->p[0] != '@') {
        if (!(flags & PATH_NO_DOMAIN))
            return err_set(e, ERR_SYNTAX, "domain missing");
        return 0;
    }
    *s = str_from(*s, 1);
    n = take_domain(*s, utf8, &r->domain);
    if (n == 0)
        return err_set(e, ERR_SYNTAX, "malformed domain");
    *s = str_from(*s, n);
    return 0;
}

int address_path(struct arena *a, struct str s, unsigned flags, struct address *r,
                 struct str *rest_r, struct err *e)
{
    while (s.n && (s.p[0] == ' ' || s.p[0] == '\t'))
        s = str_from(s, 1);
    bool angle = s.n && s.p[0] == '<';
    if (!angle && !(flags & PATH_BARE))
        return err_set(e, ERR_SYNTAX, "expected <address>");
    struct str whole = s;
    if (angle)
        s = str_from(s, 1);
    *r = (struct address){STR(""), STR("")};
    if (angle && s.n && s.p[0] == '>') {
        if (!(flags & PATH_NULL))
            return err_set(e, ERR_SYNTAX, "empty address");
        *rest_r = str_from(s, 1);
        return 0;
    }
    if (!skip_route(&s))
        return err_set(e, ERR_SYNTAX, "malformed source route");
    if (take_mailbox(a, &s, flags, r, e) < 0)
        return -1;
    if (angle) {
        if (!s.n || s.p[0] != '>')
            return err_set(e, ERR_SYNTAX, "malformed address");
        s = str_from(s, 1);
    }
    if (s.n && s.p[0] != ' ' && s.p[0] != '\t')
        return err_set(e, ERR_SYNTAX, "unexpected text after the address");
    if (whole.n - s.n > ADDRESS_MAX)
        return err_set(e, ERR_LIMIT, "address too long");
    *rest_r = s;
    return 0;
}

int address_parse(struct arena *a, struct str s, unsigned flags, struct address *r, struct err *e)
{
    struct str rest;

    if (address_path(a, str_trim(s), flags | PATH_BARE, r, &rest, e) < 0)
        return -1;
    if (str_trim(rest).n)
        return err_set(e, ERR_SYNTAX, "unexpected text after the address");
    return 0;
}

static bool needs_quotes(struct str local)
{
    if (local.n == 0 || local.p[0] == '.' || local.p[local.n - 1] == '.')
        return true;
    for (size_t i = 0; i < local.n; i++)
        if (!atext(local.p[i]) && !(local.p[i] == '.' && local.p[i - 1] != '.'))
            return true;
    return false;
}

static struct str emit(struct arena *a, struct str local, struct str domain)
{
    char *out = arena_alloc(a, local.n * 2 + domain.n + 4);
    size_t n = 0;

    if (local.n == 0 && domain.n == 0)
        return STR("");
    if (needs_quotes(local)) {
        out[n++] = '"';
        for (size_t i = 0; i < local.n; i++) {
            if (local.p[i] == '"' || local.p[i] == '\\')
                out[n++] = '\\';
            out[n++] = local.p[i];
        }
        out[n++] = '"';
    } else {
        memcpy(out, local.p, local.n);
        n = local.n;
    }
    if (domain.n) {
        out[n++] = '@';
        memcpy(out + n, domain.p, domain.n);
        n += domain.n;
    }
    out[n] = '\0';
    return (struct str){out, n};
}

struct str address_emit(struct arena *a, const struct address *r)
{
    return emit(a, r->local, r->domain);
}

struct str domain_canonical(struct arena *a, struct str domain)
{
    if (str_ascii(domain))
        return arena_lower(a, domain);
    char *z = arena_dupz(a, domain);
    uint8_t *out = NULL;
    struct str r;
    if (memchr(z, 0, domain.n) == NULL &&
        idn2_lookup_u8((const uint8_t *)z, &out, IDN2_NFC_INPUT | IDN2_NONTRANSITIONAL) ==
            IDN2_OK) {
        r = arena_lower(a, str_of((const char *)out));
        idn2_free(out);
        /* The mapping turns wide letters and signs into ASCII ones, '@' and blanks among them. */
        if (domain_valid(r, false))
            return r;
    }
    return utf8_fold(a, domain);
}

struct str address_canonical(struct arena *a, const struct address *r)
{
    return emit(a, r->local, domain_canonical(a, r->domain));
}

/* --- lists ------------------------------------------------------------------------------------ */

struct lex {
    struct arena *a;
    const char *p, *end;
    struct str comment; /* the last one seen: a name in "user@host (Name)" */
};

enum { T_END, T_WORD, T_QUOTED, T_LITERAL, T_SPECIAL };
struct token {
    int kind;
    char c;          /* T_SPECIAL */
    struct str text; /* unquoted */
    bool blank;      /* blanks or a comment stood before it */
};

static struct str comment(struct lex *l)
{
    const char *from = l->p + 1;
    unsigned depth = 0;

    for (; l->p < l->end; l->p++) {
        if (*l->p == '(')
            depth++;
        else if (*l->p == ')' && --depth == 0)
            break;
        else if (*l->p == '\\' && l->p + 1 < l->end)
            l->p++;
    }
    struct str raw = str_head(str_trim(str_make(from, (size_t)(l->p - from))), COMMENT_MAX);
    if (l->p < l->end)
        l->p++;
    if (raw.n == 0)
        return STR_NONE;
    char *out = arena_alloc(l->a, raw.n);
    size_t n = 0;
    for (size_t i = 0; i < raw.n; i++) {
        char c = raw.p[i];
        if (c == '\\' && i + 1 < raw.n)
            c = raw.p[++i];
        if (c != '\r' && c != '\n' && c != '\0')
            out[n++] = c;
    }
    return str_make(out, n);
}

static struct token next(struct lex *l)
{
    struct token t = {.kind = T_END};

    for (; l->p < l->end; t.blank = true) {
        char c = *l->p;
        if (c == '(')
            l->comment = comment(l);
        else if ((unsigned char)c <= ' ' || c == 127)
            l->p++;
        else
            break;
    }
    if (l->p == l->end)
        return t;
    char c = *l->p;
    if (c == '"' || c == '[') {
        char close = c == '"' ? '"' : ']';
        t.kind = c == '"' ? T_QUOTED : T_LITERAL;
        const char *from = l->p++;
        bool escapes = false;
        while (l->p < l->end && *l->p != close) {
            bool drop = *l->p == '\\' || *l->p == '\r' || *l->p == '\n' || *l->p == '\0';
            escapes |= drop;
            l->p += *l->p == '\\' && l->p + 1 < l->end ? 2 : 1;
        }
        t.text = c == '"' ? str_make(from + 1, (size_t)(l->p - from) - 1)
                          : str_make(from, (size_t)(l->p - from));
        if (l->p < l->end) {
            l->p++;
            t.text.n += c == '[';
        }
        if (escapes) {
            char *out = arena_alloc(l->a, t.text.n + 1);
            size_t n = 0;
            for (size_t i = 0; i < t.text.n; i++) {
                char x = t.text.p[i];
                if (x == '\\' && i + 1 < t.text.n)
                    x = t.text.p[++i];
                if (x != '\r' && x != '\n' && x != '\0')
                    out[n++] = x;
            }
            t.text = str_make(out, n);
        }
        return t;
    }
    if (strchr("<>@,;:.", c)) {
        t.kind = T_SPECIAL;
        t.c = c;
        l->p++;
        return t;
    }
    const char *from = l->p;
    while (l->p < l->end && (unsigned char)*l->p > ' ' && *l->p != 127 &&
           !strchr("<>@,;:.\"(", *l->p) && (*l->p != '[' || l->p == from))
        l->p++;
    t.kind = T_WORD;
    t.text = str_make(from, (size_t)(l->p - from));
    return t;
}

/* Words and dots collected until it is known whether they are a name or a local part.  Offsets into
 * one growing text; its size is bounded by the input's. */
struct words {
    char *text;
    size_t n;
    bool any, quoted;
};

static void words_add(struct words *w, const struct token *t)
{
    struct str s = t->kind == T_SPECIAL ? str_make(&t->c, 1) : t->text;
    if (w->any && t->blank)
        w->text[w->n++] = ' ';
    if (s.n)
        memcpy(w->text + w->n, s.p, s.n);
    w->n += s.n;
    w->any = true;
    w->quoted |= t->kind == T_QUOTED;
}

static void words_clear(struct words *w)
{
    w->n = 0;
    w->any = w->quoted = false;
}

static struct str words_take(struct lex *l, struct words *w)
{
    struct str r = arena_dup(l->a, str_trim(str_make(w->text, w->n)));
    words_clear(w);
    return r;
}

/* The same as a local part: "a . b" has no blanks, but a quoted one may. */
static struct str words_local(struct lex *l, struct words *w)
{
    size_t n = 0;

    if (w->quoted)
        return words_take(l, w);
    for (size_t i = 0; i < w->n; i++)
        if (w->text[i] != ' ')
            w->text[n++] = w->text[i];
    w->n = n;
    return words_take(l, w);
}

static struct str parse_domain(struct lex *l, struct words *w)
{
    words_clear(w);
    for (;;) {
        const char *mark = l->p;
        struct token t = next(l);
        bool dot = t.kind == T_SPECIAL && t.c == '.';
        bool more = dot || t.kind == T_LITERAL || t.kind == T_WORD;
        /* "a@b c": the second word does not belong to the domain. */
        if (more && !dot && w->n && w->text[w->n - 1] != '.')
            more = false;
        if (!more) {
            l->p = mark;
            break;
        }
        t.blank = false;
        words_add(w, &t);
    }
    return words_take(l, w);
}

/* After '<': route, local part, domain, '>'. */
static void parse_angle(struct lex *l, struct words *w, struct list_entry *m)
{
    unsigned ats = 0;

    words_clear(w);
    for (;;) {
        const char *mark = l->p;
        struct token t = next(l);
        if (t.kind == T_END || (t.kind == T_SPECIAL && t.c == '>'))
            break;
        if (t.kind == T_SPECIAL && t.c == '@' && ++ats > ATS_MAX)
            continue;
        if (t.kind == T_SPECIAL && (t.c == ',' || t.c == ';' || t.c == '<')) {
            if (t.c == ',' && !w->any)
                continue; /* within a route */
            l->p = mark;
            break;
        }
        if (t.kind == T_SPECIAL && t.c == '@') {
            if (!w->any && m->local.p == NULL) { /* obsolete route */
                struct str d = parse_domain(l, w);
                m->route = m->route.p ? arena_printf(l->a, "%.*s,@%.*s", STR_ARG(m->route),
                                                     STR_ARG(str_head(d, ADDRESS_MAX)))
                                      : arena_printf(l->a, "@%.*s", STR_ARG(d));
                if (m->route.n > ADDRESS_MAX)
                    m->route = str_head(m->route, ADDRESS_MAX);
                continue;
            }
            struct str local = words_local(l, w);
            /* "<a@b@c>": all but the last part is local. */
            m->local = m->local.p ? arena_printf(l->a, "%.*s@%.*s",
                                                 STR_ARG(str_head(m->local, ADDRESS_MAX)),
                                                 STR_ARG(str_head(m->domain, ADDRESS_MAX)))
                                  : local;
            m->domain = parse_domain(l, w);
            continue;
        }
        if (t.kind == T_SPECIAL && t.c == ':')
            continue;
        words_add(w, &t);
    }
    if (m->local.p == NULL)
        m->local = words_local(l, w);
    words_clear(w);
}

struct list {
    struct list_entry *first, **tail;
    uint32_t count;
    bool in_group;
};

static struct list_entry *entry(struct lex *l, struct list *r, enum list_kind kind)
{
    struct list_entry *m = ARENA_NEW(l->a, struct list_entry);
    m->kind = kind;
    *r->tail = m;
    r->tail = &m->next;
    r->count++;
    return m;
}

/* What was collected when a ',' or ';' or the end comes: an address without domain, if anything. */
static void finish_words(struct lex *l, struct list *r, struct words *w)
{
    if (!w->any)
        return;
    struct str text = words_local(l, w);
    if (text.n == 0)
        return;
    struct list_entry *m = entry(l, r, LIST_MAILBOX);
    m->local = text;
    m->domain = STR("");
    if (l->comment.n)
        m->name = l->comment;
}

struct list_entry *address_list(struct arena *a, struct str value)
{
    struct lex l = {.a = a, .p = value.p, .end = value.p + value.n};
    struct list r = {.tail = &r.first};
    struct words w = {0};
    struct list_entry *last = NULL; /* bare address waiting for a comment behind it */

    if (value.n == 0)
        return NULL;
    w.text = xmalloc(value.n * 2 + 4);
    /* Empty angles make no entry, but cost memory too. */
    for (uint32_t angles = 0; r.count < RECIPIENTS_MAX && angles < 2 * RECIPIENTS_MAX;) {
        struct token t = next(&l);
        bool special = t.kind == T_SPECIAL;
        if (last && l.comment.n && !last->name.p)
            last->name = l.comment;
        if (t.kind == T_END || (special && (t.c == ',' || t.c == ';'))) {
            finish_words(&l, &r, &w);
            last = NULL;
            l.comment = STR_NONE;
            if (special && t.c == ';' && r.in_group) {
                entry(&l, &r, LIST_GROUP_END);
                r.in_group = false;
            }
            if (t.kind == T_END)
                break;
            continue;
        }
        if (special && t.c == ':' && !r.in_group) {
            struct list_entry *m = entry(&l, &r, LIST_GROUP);
            m->name = words_take(&l, &w);
            r.in_group = true;
            l.comment = STR_NONE;
            continue;
        }
        if (special && t.c == '<') {
            struct str name = w.any ? words_take(&l, &w) : STR_NONE;
            angles++;
            struct list_entry *m = ARENA_NEW(a, struct list_entry);
            parse_angle(&l, &w, m);
            if (m->local.n || m->domain.n || name.n) {
                m->name = name.n ? name : l.comment;
                m->domain = m->domain.p ? m->domain : STR("");
                *r.tail = m;
                r.tail = &m->next;
                r.count++;
            }
            last = NULL;
            l.comment = STR_NONE;
            continue;
        }
        if (special && t.c == '@' && w.any) {
            struct list_entry *m = ARENA_NEW(a, struct list_entry);
            m->local = words_local(&l, &w);
            l.comment = STR_NONE;
            m->domain = parse_domain(&l, &w);
            *r.tail = m;
            r.tail = &m->next;
            r.count++;
            last = m;
            if (l.comment.n)
                m->name = l.comment;
            continue;
        }
        if (special && (t.c == '>' || t.c == ':' || t.c == '@'))
            continue;
        words_add(&w, &t);
    }
    if (r.in_group)
        entry(&l, &r, LIST_GROUP_END);
    free(w.text);
    return r.first;
}

struct str address_first(struct arena *a, struct str value)
{
    for (struct list_entry *m = address_list(a, value); m; m = m->next)
        if (m->kind == LIST_MAILBOX && m->local.n)
            return emit(a, m->local, m->domain);
    return STR_NONE;
}
