#include "mail/headers.h"

#include <string.h>

/* Offset behind the line that starts at `at`. */
static size_t line_end(struct str s, size_t at)
{
    const char *lf = memchr(s.p + at, '\n', s.n - at);
    return lf ? (size_t)(lf - s.p) + 1 : s.n;
}

static bool empty_line(struct str s, size_t at)
{
    return s.p[at] == '\n' || (s.p[at] == '\r' && at + 1 < s.n && s.p[at + 1] == '\n');
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t';
}

bool header_next(struct str section, size_t *at, struct header_field *f)
{
    size_t start = *at;

    if (start >= section.n || empty_line(section, start))
        return false;
    size_t end = line_end(section, start);
    while (end < section.n && is_blank(section.p[end]))
        end = line_end(section, end);
    *at = end;
    f->start = start;
    f->end = end;

    struct str all = {section.p + start, end - start};
    if (all.n && all.p[all.n - 1] == '\n')
        all.n--;
    if (all.n && all.p[all.n - 1] == '\r')
        all.n--;
    f->name = STR_NONE;
    f->value = all;
    const char *colon = memchr(all.p, ':', all.n);
    if (colon == NULL)
        return true;
    size_t n = (size_t)(colon - all.p);
    while (n > 0 && is_blank(all.p[n - 1]))
        n--;
    /* A name has no blanks (RFC 5322 3.6.8): "From x Mon: ..." of mbox files is no field. */
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)all.p[i] <= ' ' || all.p[i] == 127)
            return true;
    if (n == 0)
        return true;
    f->name = (struct str){all.p, n};
    f->value = str_from(all, (size_t)(colon - all.p) + 1);
    return true;
}

bool header_find_next(struct str section, struct str name, size_t *at, struct header_field *f)
{
    while (header_next(section, at, f))
        if (f->name.n == name.n && str_eqi(f->name, name))
            return true;
    return false;
}

bool header_find(struct str section, const char *name, struct header_field *f)
{
    size_t at = 0;
    return header_find_next(section, str_of(name), &at, f);
}

struct str header_unfold(struct arena *a, struct str raw)
{
    raw = str_trim(raw);
    if (raw.n == 0)
        return STR("");
    if (!memchr(raw.p, '\n', raw.n) && !memchr(raw.p, '\0', raw.n) && !memchr(raw.p, '\r', raw.n))
        return raw;
    char *out = arena_alloc(a, raw.n + 1);
    size_t n = 0;
    for (size_t i = 0; i < raw.n; i++)
        if (raw.p[i] != '\r' && raw.p[i] != '\n' && raw.p[i] != '\0')
            out[n++] = raw.p[i];
    out[n] = '\0';
    return (struct str){out, n};
}

struct str header_value(struct arena *a, struct str section, const char *name)
{
    struct header_field f;
    if (!header_find(section, name, &f))
        return STR_NONE;
    return header_unfold(a, f.value);
}

size_t header_end(struct str raw)
{
    struct header_scan s = {0};
    return header_scan(&s, raw);
}

enum { AT_START, AT_START_CR, INSIDE };

size_t header_scan(struct header_scan *s, struct str piece)
{
    size_t i = 0;

    while (i < piece.n && !s->done) {
        if (s->state == INSIDE) {
            const char *lf = memchr(piece.p + i, '\n', piece.n - i);
            if (lf == NULL)
                return piece.n;
            i = (size_t)(lf - piece.p) + 1;
            s->state = AT_START;
            continue;
        }
        char c = piece.p[i++];
        if (c == '\n')
            s->done = true;
        else
            s->state = c == '\r' && s->state == AT_START ? AT_START_CR : INSIDE;
    }
    return i;
}
