#include "store/text.h"

#include <stdbool.h>

enum { JSON_DEPTH = 64, JSON_DIGITS = 64 };

/* Length of the valid UTF-8 sequence at p, 0 when it is bad (RFC 3629). */
static size_t sequence(const unsigned char *p, size_t left)
{
    if (p[0] < 0x80)
        return p[0] == 0 ? 0 : 1;
    if (p[0] >= 0xc2 && p[0] <= 0xdf)
        return left >= 2 && (p[1] & 0xc0) == 0x80 ? 2 : 0;
    if (p[0] >= 0xe0 && p[0] <= 0xef) {
        if (left < 3 || (p[1] & 0xc0) != 0x80 || (p[2] & 0xc0) != 0x80)
            return 0;
        if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f))
            return 0;
        return 3;
    }
    if (p[0] >= 0xf0 && p[0] <= 0xf4) {
        if (left < 4 || (p[1] & 0xc0) != 0x80 || (p[2] & 0xc0) != 0x80 || (p[3] & 0xc0) != 0x80)
            return 0;
        if ((p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] > 0x8f))
            return 0;
        return 4;
    }
    return 0;
}

struct str text_clean(struct arena *a, struct str s)
{
    const unsigned char *p = (const unsigned char *)s.p;
    size_t i = 0, n, bad = 0;

    for (i = 0; i < s.n; i += n ? n : 1) {
        n = sequence(p + i, s.n - i);
        bad += n == 0;
    }
    if (bad == 0)
        return s;
    char *out = arena_alloc(a, s.n + bad * 2 + 1);
    size_t len = 0;
    for (i = 0; i < s.n; i += n ? n : 1) {
        n = sequence(p + i, s.n - i);
        if (n > 0) {
            memcpy(out + len, p + i, n);
            len += n;
        } else if (p[i] == 0) {
            out[len++] = ' ';
        } else {
            memcpy(out + len, "\xef\xbf\xbd", 3);
            len += 3;
        }
    }
    return str_make(out, len);
}

/* --- JSON (RFC 8259), narrowed to what jsonb stores ------------------------------------------- */
struct json {
    const char *p, *end;
};

static void blank(struct json *j)
{
    while (j->p < j->end && (*j->p == ' ' || *j->p == '\t' || *j->p == '\n' || *j->p == '\r'))
        j->p++;
}

static bool hex4(struct json *j, unsigned *v_r)
{
    unsigned v = 0;

    if (j->end - j->p < 4)
        return false;
    for (int i = 0; i < 4; i++) {
        char c = ascii_lower(*j->p++);
        if (ascii_digit(c))
            v = v * 16 + (unsigned)(c - '0');
        else if (c >= 'a' && c <= 'f')
            v = v * 16 + (unsigned)(c - 'a' + 10);
        else
            return false;
    }
    *v_r = v;
    return true;
}

static bool json_string(struct json *j)
{
    unsigned v, low;

    for (j->p++; j->p < j->end; j->p++) {
        unsigned char c = (unsigned char)*j->p;
        if (c == '"') {
            j->p++;
            return true;
        }
        if (c < 0x20)
            return false;
        if (c != '\\')
            continue;
        if (++j->p >= j->end)
            return false;
        if (*j->p == 'u') {
            j->p++;
            if (!hex4(j, &v) || v == 0 || (v >= 0xdc00 && v <= 0xdfff))
                return false;
            if (v >= 0xd800 && v <= 0xdbff) {
                if (j->end - j->p < 6 || j->p[0] != '\\' || j->p[1] != 'u')
                    return false;
                j->p += 2;
                if (!hex4(j, &low) || low < 0xdc00 || low > 0xdfff)
                    return false;
            }
            j->p--;
        } else if (memchr("\"\\/bfnrt", *j->p, 8) == NULL) {
            return false;
        }
    }
    return false;
}

/* jsonb refuses numbers beyond numeric's range, so exponents and lengths are kept small. */
static bool json_number(struct json *j)
{
    const char *start = j->p;
    int digits = 0;

    if (j->p < j->end && *j->p == '-')
        j->p++;
    if (j->p >= j->end || !ascii_digit(*j->p))
        return false;
    if (*j->p == '0' && j->p + 1 < j->end && ascii_digit(j->p[1]))
        return false;
    while (j->p < j->end && ascii_digit(*j->p))
        j->p++;
    if (j->p < j->end && *j->p == '.') {
        j->p++;
        if (j->p >= j->end || !ascii_digit(*j->p))
            return false;
        while (j->p < j->end && ascii_digit(*j->p))
            j->p++;
    }
    if (j->p < j->end && (*j->p == 'e' || *j->p == 'E')) {
        j->p++;
        if (j->p < j->end && (*j->p == '+' || *j->p == '-'))
            j->p++;
        while (j->p < j->end && ascii_digit(*j->p)) {
            j->p++;
            digits++;
        }
        if (digits < 1 || digits > 3)
            return false;
    }
    return j->p - start <= JSON_DIGITS;
}

static bool json_word(struct json *j, const char *word)
{
    size_t n = strlen(word);

    if ((size_t)(j->end - j->p) < n || memcmp(j->p, word, n) != 0)
        return false;
    j->p += n;
    return true;
}

static bool json_value(struct json *j, int depth);

static bool json_list(struct json *j, bool object, int depth)
{
    char close = object ? '}' : ']';

    j->p++;
    blank(j);
    if (j->p < j->end && *j->p == close) {
        j->p++;
        return true;
    }
    for (;;) {
        blank(j);
        if (object) {
            if (j->p >= j->end || *j->p != '"' || !json_string(j))
                return false;
            blank(j);
            if (j->p >= j->end || *j->p++ != ':')
                return false;
        }
        if (!json_value(j, depth + 1))
            return false;
        blank(j);
        if (j->p >= j->end)
            return false;
        if (*j->p == close) {
            j->p++;
            return true;
        }
        if (*j->p++ != ',')
            return false;
    }
}

static bool json_value(struct json *j, int depth)
{
    blank(j);
    if (j->p >= j->end || depth > JSON_DEPTH)
        return false;
    switch (*j->p) {
    case '{':
        return json_list(j, true, depth);
    case '[':
        return json_list(j, false, depth);
    case '"':
        return json_string(j);
    case 't':
        return json_word(j, "true");
    case 'f':
        return json_word(j, "false");
    case 'n':
        return json_word(j, "null");
    default:
        return json_number(j);
    }
}

static struct str json_quote(struct arena *a, struct str s)
{
    static const char hex[] = "0123456789abcdef";
    char *out = arena_alloc(a, s.n * 6 + 2);
    size_t n = 0;

    out[n++] = '"';
    for (size_t i = 0; i < s.n; i++) {
        unsigned char c = (unsigned char)s.p[i];
        if (c == '"' || c == '\\') {
            out[n++] = '\\';
            out[n++] = (char)c;
        } else if (c < 0x20) {
            memcpy(out + n, "\\u00", 4);
            out[n + 4] = hex[c >> 4];
            out[n + 5] = hex[c & 15];
            n += 6;
        } else {
            out[n++] = (char)c;
        }
    }
    out[n++] = '"';
    return str_make(out, n);
}

struct str text_json(struct arena *a, struct str s)
{
    if (s.n == 0)
        return STR_NONE;
    struct json j = {s.p, s.p + s.n};
    if (json_value(&j, 0)) {
        blank(&j);
        if (j.p == j.end && str_utf8(s) && str_chr(s, '\0') < 0)
            return s;
    }
    return json_quote(a, text_clean(a, s));
}
