#include "mail/encode.h"

#include "mail/charset.h"
#include "mail/headers.h"

#include <string.h>

/* Of one encoded word; RFC 2047 2 allows 75, some senders write whole subjects. */
enum { WORD_MAX = 1000 };

static const char b64[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

static int b64_value(char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* One group of 1-3 bytes. */
static void b64_group(const unsigned char *p, size_t n, char out[4])
{
    uint32_t v = (uint32_t)p[0] << 16 | (n > 1 ? (uint32_t)p[1] << 8 : 0) | (n > 2 ? p[2] : 0u);

    out[0] = b64[v >> 18];
    out[1] = b64[v >> 12 & 63];
    out[2] = n > 1 ? b64[v >> 6 & 63] : '=';
    out[3] = n > 2 ? b64[v & 63] : '=';
}

static struct str b64_emit(struct arena *a, struct str s, bool lines)
{
    size_t groups = (s.n + 2) / 3;
    char *out = arena_alloc(a, groups * 4 + (lines ? (groups / 19 + 1) * 2 : 0) + 1);
    size_t n = 0;

    for (size_t g = 0; g < groups; g++) {
        size_t left = s.n - g * 3;
        b64_group((const unsigned char *)s.p + g * 3, left < 3 ? left : 3, out + n);
        n += 4;
        if (lines && ((g + 1) % 19 == 0 || g + 1 == groups)) {
            out[n++] = '\r';
            out[n++] = '\n';
        }
    }
    out[n] = '\0';
    return (struct str){out, n};
}

struct str base64_encode(struct arena *a, struct str s)
{
    return b64_emit(a, s, false);
}

struct str base64_encode_lines(struct arena *a, struct str s)
{
    return b64_emit(a, s, true);
}

bool base64_decode(struct arena *a, struct str s, struct str *r)
{
    if (s.n % 4 != 0)
        return false;
    char *out = arena_alloc(a, s.n / 4 * 3 + 1);
    size_t n = 0;
    for (size_t i = 0; i < s.n; i += 4) {
        bool final = i + 4 == s.n;
        unsigned pad = final && s.p[i + 3] == '=' ? (s.p[i + 2] == '=' ? 2 : 1) : 0;
        uint32_t v = 0;
        for (unsigned k = 0; k < 4; k++) {
            int d = k >= 4 - pad ? 0 : b64_value(s.p[i + k]);
            if (d < 0)
                return false;
            v = v << 6 | (uint32_t)d;
        }
        /* Bits that the padding cuts off must be zero, or two texts would mean the same. */
        if ((pad == 1 && v & 0xFF) || (pad == 2 && v & 0xFFFF))
            return false;
        out[n++] = (char)(v >> 16);
        if (pad < 2)
            out[n++] = (char)(v >> 8 & 0xFF);
        if (pad < 1)
            out[n++] = (char)(v & 0xFF);
    }
    out[n] = '\0';
    *r = (struct str){out, n};
    return true;
}

enum transfer transfer_of(struct str value)
{
    value = str_trim(value);
    if (str_eqiz(value, "base64"))
        return TRANSFER_BASE64;
    if (str_eqiz(value, "quoted-printable"))
        return TRANSFER_QP;
    return TRANSFER_NONE;
}

static size_t b64_feed(struct transfer_decoder *d, struct str in, bool last, char *out)
{
    size_t n = 0;

    for (size_t i = 0; i < in.n; i++) {
        int v = b64_value(in.p[i]);
        if (in.p[i] == '=') {
            /* Some senders join several padded pieces: what follows starts a new group. */
            if (d->n == 2)
                out[n++] = (char)(d->acc >> 4 & 0xFF);
            if (d->n == 3) {
                out[n++] = (char)(d->acc >> 10 & 0xFF);
                out[n++] = (char)(d->acc >> 2 & 0xFF);
            }
            d->n = 0;
            d->acc = 0;
            continue;
        }
        if (v < 0)
            continue;
        d->acc = d->acc << 6 | (uint32_t)v;
        if (++d->n == 4) {
            out[n++] = (char)(d->acc >> 16 & 0xFF);
            out[n++] = (char)(d->acc >> 8 & 0xFF);
            out[n++] = (char)(d->acc & 0xFF);
            d->n = 0;
            d->acc = 0;
        }
    }
    if (last && d->n >= 2) {
        uint32_t v = d->acc << (d->n == 2 ? 12 : 6);
        out[n++] = (char)(v >> 16 & 0xFF);
        if (d->n == 3)
            out[n++] = (char)(v >> 8 & 0xFF);
        d->n = 0;
    }
    return n;
}

static int hex(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Blanks at a line's end were added on the way and are dropped (RFC 2045 6.7 (3)).  At most a few
 * are remembered, so that `out` never needs more room than it has been promised. */
static size_t qp_feed(struct transfer_decoder *d, struct str in, bool last, char *out)
{
    size_t n = 0;

    for (size_t i = 0; i < in.n; i++) {
        char c = in.p[i];
        if (d->n == 0) {
            if (c == '=') {
                d->wait[0] = c;
                d->n = 1;
            } else {
                out[n++] = c;
                if (c == '\n') {
                    size_t e = n - 1;
                    bool cr = e > 0 && out[e - 1] == '\r';
                    size_t t = cr ? e - 1 : e;
                    size_t keep = t;
                    while (keep > d->blanks && (out[keep - 1] == ' ' || out[keep - 1] == '\t'))
                        keep--;
                    if (keep < t) {
                        n = keep;
                        if (cr)
                            out[n++] = '\r';
                        out[n++] = '\n';
                    }
                    d->blanks = (uint32_t)n;
                }
            }
            continue;
        }
        if (d->n == 1) {
            if (c == '\n') {
                d->n = 0;
                d->blanks = (uint32_t)n;
            } else if (hex(c) >= 0 || c == '\r' || c == ' ' || c == '\t') {
                d->wait[1] = c;
                d->n = 2;
            } else {
                out[n++] = '=';
                out[n++] = c;
                d->n = 0;
            }
            continue;
        }
        if (hex(d->wait[1]) >= 0 && hex(c) >= 0) {
            out[n++] = (char)(hex(d->wait[1]) << 4 | hex(c));
            d->blanks = (uint32_t)n; /* an encoded blank stays */
            d->n = 0;
        } else if (hex(d->wait[1]) < 0 && (c == '\n' || c == ' ' || c == '\t' || c == '\r')) {
            if (c == '\n') {
                d->n = 0;
                d->blanks = (uint32_t)n;
            }
        } else {
            out[n++] = '=';
            out[n++] = d->wait[1];
            d->n = 0;
            i--; /* look at it again: it may be an escape itself */
        }
    }
    d->blanks = 0; /* the next piece writes to another place */
    if (last && d->n) {
        if (d->n == 2 && hex(d->wait[1]) >= 0) {
            out[n++] = '=';
            out[n++] = d->wait[1];
        }
        d->n = 0;
    }
    return n;
}

size_t transfer_feed(struct transfer_decoder *d, struct str in, bool last, char *out)
{
    switch (d->kind) {
    case TRANSFER_BASE64:
        return b64_feed(d, in, last, out);
    case TRANSFER_QP:
        return qp_feed(d, in, last, out);
    case TRANSFER_NONE:
        break;
    }
    if (in.n)
        memcpy(out, in.p, in.n);
    return in.n;
}

struct str transfer_decode(struct arena *a, enum transfer kind, struct str s)
{
    if (kind == TRANSFER_NONE)
        return s;
    struct transfer_decoder d = {.kind = kind};
    char *out = arena_alloc(a, s.n + 8);
    size_t n = transfer_feed(&d, s, true, out);
    return (struct str){out, n};
}

struct str qp_encode(struct arena *a, struct str s)
{
    static const char digits[] = "0123456789ABCDEF";
    char *out = arena_alloc(a, s.n * 3 + s.n / 24 * 3 + 16);
    size_t n = 0, col = 0;

    for (size_t i = 0; i < s.n; i++) {
        unsigned char c = (unsigned char)s.p[i];
        bool crlf = c == '\r' && i + 1 < s.n && s.p[i + 1] == '\n';
        if (crlf || c == '\n') {
            out[n++] = '\r';
            out[n++] = '\n';
            i += crlf;
            col = 0;
            continue;
        }
        bool line_last = i + 1 == s.n || s.p[i + 1] == '\n' || s.p[i + 1] == '\r';
        bool plain = (c >= 33 && c <= 126 && c != '=') || ((c == ' ' || c == '\t') && !line_last);
        /* A dot or "From " at a line's start is changed by some transports. */
        if (col == 0 && (c == '.' || (c == 'F' && str_starts(str_from(s, i), STR("From ")))))
            plain = false;
        size_t w = plain ? 1 : 3;
        if (col + w > (line_last ? 76u : 75u)) {
            memcpy(out + n, "=\r\n", 3);
            n += 3;
            col = 0;
        }
        if (plain) {
            out[n++] = (char)c;
        } else {
            out[n++] = '=';
            out[n++] = digits[c >> 4];
            out[n++] = digits[c & 15];
        }
        col += w;
    }
    out[n] = '\0';
    return (struct str){out, n};
}

/* --- RFC 2047 */

struct word {
    struct str charset, text;
    bool base64;
    size_t length; /* in the source */
};

/* An encoded word at the start of s? */
static bool word_at(struct str s, struct word *w)
{
    if (s.n < 8 || s.p[0] != '=' || s.p[1] != '?')
        return false;
    struct str rest = str_from(s, 2);
    ptrdiff_t q = str_chr(str_head(rest, 64), '?');
    if (q <= 0 || (size_t)q + 2 >= rest.n || rest.p[q + 2] != '?')
        return false;
    char e = ascii_lower(rest.p[q + 1]);
    if (e != 'b' && e != 'q')
        return false;
    w->charset = str_head(rest, (size_t)q);
    ptrdiff_t star = str_chr(w->charset, '*'); /* language (RFC 2231 5) */
    if (star >= 0)
        w->charset.n = (size_t)star;
    w->base64 = e == 'b';
    rest = str_from(rest, (size_t)q + 3);
    /* Up to "?=": blanks inside are wrong but common in Q words of some senders; a line of text
     * that merely looks like a word's start ends at the next "=?". */
    for (size_t i = 0; i + 1 < rest.n; i++) {
        if (rest.p[i] == '?' && rest.p[i + 1] == '=') {
            w->text = str_head(rest, i);
            w->length = (size_t)(rest.p - s.p) + i + 2;
            return true;
        }
        if (i > WORD_MAX || rest.p[i] == '\n' ||
            (rest.p[i] == '=' && rest.p[i + 1] == '?' && i + 2 < rest.n && rest.p[i + 2] != '='))
            return false;
    }
    return false;
}

static void word_bytes(const struct word *w, struct buf *out)
{
    char *room = buf_room(out, w->text.n + 8);
    if (room == NULL)
        return;
    if (w->base64) {
        struct transfer_decoder d = {.kind = TRANSFER_BASE64};
        buf_added(out, transfer_feed(&d, w->text, true, room));
        return;
    }
    size_t n = 0;
    for (size_t i = 0; i < w->text.n; i++) {
        char c = w->text.p[i];
        if (c == '_') {
            c = ' ';
        } else if (c == '=' && i + 2 < w->text.n && hex(w->text.p[i + 1]) >= 0 &&
                   hex(w->text.p[i + 2]) >= 0) {
            c = (char)(hex(w->text.p[i + 1]) << 4 | hex(w->text.p[i + 2]));
            i += 2;
        }
        room[n++] = c;
    }
    buf_added(out, n);
}

static void flush_words(struct arena *a, struct buf *bytes, struct str charset, struct buf *out)
{
    if (bytes->len == 0)
        return;
    struct str t = charset_to_utf8(a, charset, buf_str(bytes));
    char *room = t.n ? buf_room(out, t.n) : NULL;
    if (room) {
        size_t n = 0;
        for (size_t i = 0; i < t.n; i++) /* no new lines may come out of a header value */
            if (t.p[i] != '\r' && t.p[i] != '\n' && t.p[i] != '\0')
                room[n++] = t.p[i];
        buf_added(out, n);
    }
    buf_clear(bytes);
}

static void add_text(struct buf *out, struct str s)
{
    if (s.n)
        buf_add(out, s);
}

struct str word_decode(struct arena *a, struct str raw)
{
    struct str s = header_unfold(a, raw);

    if (s.n == 0 || str_find(s, STR("=?")) < 0)
        return charset_to_utf8(a, STR_NONE, s);
    struct buf out, bytes;
    struct str charset = STR_NONE;
    buf_init(&out, s.n * 4 + 64);
    buf_init(&bytes, s.n + 64);
    size_t i = 0;
    size_t plain = 0; /* start of text not yet copied */
    bool after_word = false;
    while (i < s.n) {
        struct word w;
        if (s.p[i] != '=' || !word_at(str_from(s, i), &w)) {
            i++;
            continue;
        }
        struct str between = str_make(s.p + plain, i - plain);
        /* Blanks between two words are not text (RFC 2047 6.2). */
        if (!(after_word && str_trim(between).n == 0)) {
            flush_words(a, &bytes, charset, &out);
            add_text(&out, charset_to_utf8(a, STR_NONE, between));
        }
        if (!str_eqi(charset, w.charset))
            flush_words(a, &bytes, charset, &out);
        charset = w.charset;
        word_bytes(&w, &bytes); /* words of one charset may share a character */
        i += w.length;
        plain = i;
        after_word = true;
    }
    flush_words(a, &bytes, charset, &out);
    add_text(&out, charset_to_utf8(a, STR_NONE, str_from(s, plain)));
    struct str r = utf8_clean(a, arena_dup(a, buf_str(&out)));
    buf_free(&out);
    buf_free(&bytes);
    return r;
}

struct str word_encode(struct arena *a, struct str utf8)
{
    bool plain = str_find(utf8, STR("=?")) < 0;
    for (size_t i = 0; i < utf8.n && plain; i++)
        plain = (unsigned char)utf8.p[i] < 127 && (unsigned char)utf8.p[i] >= ' ';
    if (plain)
        return utf8;
    utf8 = utf8_clean(a, utf8);
    /* 45 bytes make 60 characters of base64; with "=?UTF-8?B?" and "?=" 72. */
    struct buf out;
    buf_init(&out, utf8.n * 4 + 64);
    for (size_t i = 0; i < utf8.n;) {
        size_t n = utf8.n - i < 45 ? utf8.n - i : 45;
        while (i + n < utf8.n && n > 1 && ((unsigned char)utf8.p[i + n] & 0xC0) == 0x80)
            n--;
        if (i)
            buf_addc(&out, ' ');
        buf_addz(&out, "=?UTF-8?B?");
        buf_add(&out, base64_encode(a, str_make(utf8.p + i, n)));
        buf_addz(&out, "?=");
        i += n;
    }
    struct str r = arena_dup(a, buf_str(&out));
    buf_free(&out);
    return r;
}

/* --- modified UTF-7: base64 with ',' for '/', no padding, between '&' and '-'. */

static int m7_value(char c)
{
    return c == ',' ? 63 : c == '/' ? -1 : b64_value(c);
}

/* The UTF-16 between & and -. */
static bool m7_shift(struct str in, char *out, size_t *n)
{
    uint32_t acc = 0, high = 0;
    unsigned bits = 0;

    for (size_t i = 0; i < in.n; i++) {
        int v = m7_value(in.p[i]);
        if (v < 0)
            return false;
        acc = acc << 6 | (uint32_t)v;
        bits += 6;
        if (bits < 16)
            continue;
        bits -= 16;
        uint32_t u = acc >> bits & 0xFFFF;
        acc &= (1u << bits) - 1;
        if (u >= 0xDC00 && u <= 0xDFFF) {
            if (!high)
                return false;
            *n += utf8_put(0x10000 + ((high - 0xD800) << 10) + (u - 0xDC00), out + *n);
            high = 0;
        } else if (high) {
            return false;
        } else if (u >= 0xD800 && u <= 0xDBFF) {
            high = u;
        } else if (u >= 0x20 && u < 0x7F) {
            return false; /* printable ASCII stands for itself */
        } else if (u == 0) {
            return false;
        } else {
            *n += utf8_put(u, out + *n);
        }
    }
    return !high && bits < 6 && acc == 0;
}

bool mutf7_decode(struct arena *a, struct str s, struct str *r)
{
    char *out = arena_alloc(a, s.n * 2 + 4);
    size_t n = 0;

    for (size_t i = 0; i < s.n; i++) {
        unsigned char c = (unsigned char)s.p[i];
        if (c < 0x20 || c >= 0x7F)
            return false;
        if (c != '&') {
            out[n++] = (char)c;
            continue;
        }
        ptrdiff_t end = str_chr(str_from(s, i + 1), '-');
        if (end < 0)
            return false;
        if (end == 0)
            out[n++] = '&';
        else if (!m7_shift(str_make(s.p + i + 1, (size_t)end), out, &n))
            return false;
        i += (size_t)end + 1;
        /* "&AAA-&BBB-" must be one shift, or a name had two spellings. */
        if (end > 0 && i + 2 < s.n && s.p[i + 1] == '&' && s.p[i + 2] != '-')
            return false;
    }
    out[n] = '\0';
    *r = (struct str){out, n};
    return true;
}

static void m7_flush(char *out, size_t *n, uint32_t *acc, unsigned *bits)
{
    if (*bits) {
        uint32_t v = *acc << (6 - *bits) & 63;
        out[(*n)++] = v == 63 ? ',' : b64[v];
    }
    out[(*n)++] = '-';
    *acc = 0;
    *bits = 0;
}

static void m7_unit(uint32_t u, char *out, size_t *n, uint32_t *acc, unsigned *bits)
{
    *acc = *acc << 16 | u;
    *bits += 16;
    while (*bits >= 6) {
        *bits -= 6;
        uint32_t v = *acc >> *bits & 63;
        out[(*n)++] = v == 63 ? ',' : b64[v];
    }
    *acc &= (1u << *bits) - 1;
}

struct str mutf7_encode(struct arena *a, struct str s)
{
    char *out = arena_alloc(a, s.n * 8 + 8);
    size_t n = 0;
    uint32_t acc = 0;
    unsigned bits = 0;
    bool shifted = false;

    for (size_t i = 0; i < s.n;) {
        uint32_t c;
        unsigned k = utf8_get(s.p + i, s.n - i, &c);
        if (k == 0) {
            c = 0xFFFD;
            k = 1;
        }
        i += k;
        if (c >= 0x20 && c < 0x7F) {
            if (shifted)
                m7_flush(out, &n, &acc, &bits);
            shifted = false;
            out[n++] = (char)c;
            if (c == '&')
                out[n++] = '-';
            continue;
        }
        if (!shifted)
            out[n++] = '&';
        shifted = true;
        if (c >= 0x10000) {
            m7_unit(0xD800 + ((c - 0x10000) >> 10), out, &n, &acc, &bits);
            m7_unit(0xDC00 + ((c - 0x10000) & 0x3FF), out, &n, &acc, &bits);
        } else {
            m7_unit(c, out, &n, &acc, &bits);
        }
    }
    if (shifted)
        m7_flush(out, &n, &acc, &bits);
    out[n] = '\0';
    return (struct str){out, n};
}
