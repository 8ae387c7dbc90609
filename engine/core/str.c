#include "core/str.h"

#include <strings.h>
#include <sys/random.h>

bool str_eq(struct str a, struct str b)
{
    return a.n == b.n && (a.n == 0 || memcmp(a.p, b.p, a.n) == 0);
}

bool str_eqi(struct str a, struct str b)
{
    if (a.n != b.n)
        return false;
    for (size_t i = 0; i < a.n; i++)
        if (ascii_lower(a.p[i]) != ascii_lower(b.p[i]))
            return false;
    return true;
}

bool str_eqz(struct str a, const char *z)
{
    return str_eq(a, str_of(z));
}

bool str_eqiz(struct str a, const char *z)
{
    return str_eqi(a, str_of(z));
}

bool str_starts(struct str s, struct str prefix)
{
    return s.n >= prefix.n && str_eq(str_head(s, prefix.n), prefix);
}

bool str_startsi(struct str s, struct str prefix)
{
    return s.n >= prefix.n && str_eqi(str_head(s, prefix.n), prefix);
}

bool str_ends(struct str s, struct str suffix)
{
    return s.n >= suffix.n && str_eq(str_from(s, s.n - suffix.n), suffix);
}

bool str_endsi(struct str s, struct str suffix)
{
    return s.n >= suffix.n && str_eqi(str_from(s, s.n - suffix.n), suffix);
}

int str_cmp(struct str a, struct str b)
{
    size_t n = a.n < b.n ? a.n : b.n;
    int c = n ? memcmp(a.p, b.p, n) : 0;
    if (c != 0)
        return c;
    return a.n < b.n ? -1 : a.n > b.n;
}

ptrdiff_t str_chr(struct str s, char c)
{
    const char *q = s.n ? memchr(s.p, c, s.n) : NULL;
    return q ? q - s.p : -1;
}

ptrdiff_t str_rchr(struct str s, char c)
{
    for (size_t i = s.n; i > 0; i--)
        if (s.p[i - 1] == c)
            return (ptrdiff_t)(i - 1);
    return -1;
}

ptrdiff_t str_find(struct str s, struct str needle)
{
    if (needle.n == 0)
        return 0;
    const char *q = s.n >= needle.n ? memmem(s.p, s.n, needle.p, needle.n) : NULL;
    return q ? q - s.p : -1;
}

ptrdiff_t str_findi(struct str s, struct str needle)
{
    if (needle.n == 0)
        return 0;
    for (size_t i = 0; i + needle.n <= s.n; i++)
        if (ascii_lower(s.p[i]) == ascii_lower(needle.p[0]) &&
            str_eqi(str_make(s.p + i, needle.n), needle))
            return (ptrdiff_t)i;
    return -1;
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

struct str str_trim(struct str s)
{
    while (s.n && is_blank(s.p[0]))
        s = str_from(s, 1);
    while (s.n && is_blank(s.p[s.n - 1]))
        s.n--;
    return s;
}

struct str str_cut(struct str *rest, char c)
{
    struct str s = *rest;
    ptrdiff_t i = str_chr(s, c);
    if (i < 0) {
        *rest = STR_NONE;
        return s;
    }
    *rest = str_from(s, (size_t)i + 1);
    return str_head(s, (size_t)i);
}

bool str_u64(struct str s, uint64_t *v_r)
{
    uint64_t v = 0;

    if (s.n == 0)
        return false;
    for (size_t i = 0; i < s.n; i++) {
        if (!ascii_digit(s.p[i]))
            return false;
        uint64_t d = (uint64_t)(s.p[i] - '0');
        if (v > (UINT64_MAX - d) / 10)
            return false;
        v = v * 10 + d;
    }
    *v_r = v;
    return true;
}

bool str_u32(struct str s, uint32_t *v_r)
{
    uint64_t v;

    if (!str_u64(s, &v) || v > UINT32_MAX)
        return false;
    *v_r = (uint32_t)v;
    return true;
}

bool str_glob(struct str pat, struct str text)
{
    size_t p = 0, t = 0, star = SIZE_MAX, mark = 0;

    while (t < text.n) {
        if (p < pat.n && pat.p[p] == '*') {
            star = p++;
            mark = t;
        } else if (p < pat.n &&
                   (pat.p[p] == '?' || ascii_lower(pat.p[p]) == ascii_lower(text.p[t]))) {
            p++;
            t++;
        } else if (star != SIZE_MAX) {
            p = star + 1;
            t = ++mark;
        } else {
            return false;
        }
    }
    while (p < pat.n && pat.p[p] == '*')
        p++;
    return p == pat.n;
}

bool str_utf8(struct str s)
{
    size_t i = 0;

    while (i < s.n) {
        unsigned char c = (unsigned char)s.p[i];
        size_t more;
        uint32_t cp, least;
        if (c < 0x80) {
            i++;
            continue;
        }
        if (c >= 0xC2 && c <= 0xDF) {
            more = 1, cp = c & 0x1F, least = 0x80;
        } else if (c >= 0xE0 && c <= 0xEF) {
            more = 2, cp = c & 0x0F, least = 0x800;
        } else if (c >= 0xF0 && c <= 0xF4) {
            more = 3, cp = c & 0x07, least = 0x10000;
        } else {
            return false;
        }
        if (s.n - i <= more)
            return false;
        for (size_t k = 1; k <= more; k++) {
            unsigned char d = (unsigned char)s.p[i + k];
            if ((d & 0xC0) != 0x80)
                return false;
            cp = cp << 6 | (d & 0x3F);
        }
        if (cp < least || cp > 0x10FFFF || (cp >= 0xD800 && cp <= 0xDFFF))
            return false;
        i += more + 1;
    }
    return true;
}

bool str_ascii(struct str s)
{
    for (size_t i = 0; i < s.n; i++)
        if (s.p[i] == 0 || (unsigned char)s.p[i] > 127)
            return false;
    return true;
}

/* SipHash-2-4 (Aumasson and Bernstein), reading bytes through a function so that the case-folding
 * variant needs no copy. */
static uint64_t rotl(uint64_t x, int b)
{
    return x << b | x >> (64 - b);
}

static void sip_round(uint64_t v[4])
{
    v[0] += v[1];
    v[2] += v[3];
    v[1] = rotl(v[1], 13) ^ v[0];
    v[3] = rotl(v[3], 16) ^ v[2];
    v[0] = rotl(v[0], 32);
    v[2] += v[1];
    v[0] += v[3];
    v[1] = rotl(v[1], 17) ^ v[2];
    v[3] = rotl(v[3], 21) ^ v[0];
    v[2] = rotl(v[2], 32);
}

static uint64_t sip_hash(struct str s, bool fold)
{
    static uint64_t key[2];
    static bool keyed;

    if (!keyed) {
        if (getrandom(key, sizeof key, 0) != (ssize_t)sizeof key)
            key[0] = (uint64_t)(uintptr_t)&keyed; /* never happens after boot; still a valid hash */
        keyed = true;
    }
    uint64_t v[4] = {key[0] ^ 0x736f6d6570736575u, key[1] ^ 0x646f72616e646f6du,
                     key[0] ^ 0x6c7967656e657261u, key[1] ^ 0x7465646279746573u};
    uint64_t m = 0;
    for (size_t i = 0; i < s.n; i++) {
        char c = fold ? ascii_lower(s.p[i]) : s.p[i];
        m |= (uint64_t)(unsigned char)c << (8 * (i & 7));
        if ((i & 7) == 7) {
            v[3] ^= m;
            sip_round(v);
            sip_round(v);
            v[0] ^= m;
            m = 0;
        }
    }
    m |= (uint64_t)s.n << 56;
    v[3] ^= m;
    sip_round(v);
    sip_round(v);
    v[0] ^= m;
    v[2] ^= 0xff;
    for (int i = 0; i < 4; i++)
        sip_round(v);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

uint64_t str_hash(struct str s)
{
    return sip_hash(s, false);
}

uint64_t str_hashi(struct str s)
{
    return sip_hash(s, true);
}
