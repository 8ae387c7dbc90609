/* Slices: globs, UTF-8 and numbers against slow and obvious twins; JSON is always valid UTF-8. */
#include "core/buf.h"
#include "core/json.h"
#include "core/str.h"

#include <errno.h>
#include <stdlib.h>

static bool slow_glob(struct str p, struct str t)
{
    if (p.n == 0)
        return t.n == 0;
    if (p.p[0] == '*')
        return slow_glob(str_from(p, 1), t) || (t.n > 0 && slow_glob(p, str_from(t, 1)));
    return t.n > 0 && (p.p[0] == '?' || ascii_lower(p.p[0]) == ascii_lower(t.p[0])) &&
           slow_glob(str_from(p, 1), str_from(t, 1));
}

/* Encodes each decoded character again: only the shortest form comes out as it went in. */
static bool slow_utf8(struct str s)
{
    while (s.n > 0) {
        unsigned char c = (unsigned char)s.p[0], out[4];
        size_t n = c < 0x80 ? 1 : c >> 5 == 6 ? 2 : c >> 4 == 14 ? 3 : c >> 3 == 30 ? 4 : 0;
        if (n == 0 || s.n < n)
            return false;
        unsigned long v = n == 1 ? c : c & (0xffu >> (n + 1));
        for (size_t i = 1; i < n; i++)
            v = v << 6 | ((unsigned char)s.p[i] & 0x3f);
        if (v > 0x10ffff || (v >= 0xd800 && v < 0xe000))
            return false;
        size_t want = v < 0x80 ? 1 : v < 0x800 ? 2 : v < 0x10000 ? 3 : 4;
        for (size_t i = want - 1; i > 0; i--, v >>= 6)
            out[i] = (unsigned char)(0x80 | (v & 0x3f));
        static const unsigned char lead[] = {0, 0, 0xc0, 0xe0, 0xf0};
        out[0] = (unsigned char)(lead[want == 1 ? 0 : want] | v);
        if (want != n || memcmp(out, s.p, n) != 0)
            return false;
        s = str_from(s, n);
    }
    return true;
}

static void numbers(struct str s)
{
    char z[40];
    uint64_t v;
    bool digits = s.n > 0 && s.n < sizeof z;

    for (size_t i = 0; digits && i < s.n; i++)
        digits = ascii_digit(s.p[i]);
    if (!digits) {
        if (s.n < sizeof z && str_u64(s, &v))
            abort();
        return;
    }
    memcpy(z, s.p, s.n);
    z[s.n] = '\0';
    errno = 0;
    unsigned long long want = strtoull(z, NULL, 10);
    if (str_u64(s, &v) != (errno == 0) || (errno == 0 && v != want))
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct str s = str_make(data, size), rest = s;
    struct buf b;
    size_t total = 0, parts = 0;

    if (str_utf8(s) != slow_utf8(s))
        abort();
    numbers(s);
    struct str pattern = str_cut(&rest, '\n');
    str_glob(pattern, rest);
    if (pattern.n <= 10 && rest.n <= 16 && str_glob(pattern, rest) != slow_glob(pattern, rest))
        abort();
    ptrdiff_t at = str_findi(rest, pattern);
    if (at >= 0 && !str_startsi(str_from(rest, (size_t)at), pattern))
        abort();
    for (rest = s; rest.p != NULL; parts++)
        total += str_cut(&rest, ',').n;
    if (total + parts - 1 != size && size > 0)
        abort();
    buf_init(&b, size * 6 + 2);
    if (!json_str(&b, s) || !str_utf8(buf_str(&b)))
        abort();
    buf_free(&b);
    if (str_hashi(s) == 0 && str_hash(s) == 0)
        return -1;
    return 0;
}
