#include "mail/charset.h"

#include "core/limits.h"

#include <errno.h>
#include <iconv.h>
#include <locale.h>
#include <stdlib.h>
#include <string.h>
#include <wctype.h>

enum { LEFT_MAX = 16, PIECE = 4096 };

struct charset {
    iconv_t cd; /* (iconv_t)-1: no table, see `utf8` */
    bool utf8;  /* checked and repaired here */
    char left[LEFT_MAX];
    size_t left_n;
};

unsigned utf8_get(const char *p, size_t n, uint32_t *c_r)
{
    const unsigned char *s = (const unsigned char *)p;
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    unsigned need;
    uint32_t c;

    if (n == 0)
        return 0;
    if (s[0] < 0x80) {
        *c_r = s[0];
        return 1;
    }
    if (s[0] >= 0xC2 && s[0] <= 0xDF) {
        need = 2;
        c = s[0] & 0x1Fu;
    } else if ((s[0] & 0xF0) == 0xE0) {
        need = 3;
        c = s[0] & 0x0Fu;
    } else if (s[0] >= 0xF0 && s[0] <= 0xF4) {
        need = 4;
        c = s[0] & 0x07u;
    } else {
        return 0;
    }
    if (n < need)
        return 0;
    for (unsigned i = 1; i < need; i++) {
        if ((s[i] & 0xC0) != 0x80)
            return 0;
        c = c << 6 | (s[i] & 0x3Fu);
    }
    if (c < least[need] || c > 0x10FFFF || (c >= 0xD800 && c <= 0xDFFF))
        return 0;
    *c_r = c;
    return need;
}

unsigned utf8_put(uint32_t c, char out[4])
{
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    if (c < 0x800) {
        out[0] = (char)(0xC0 | c >> 6);
        out[1] = (char)(0x80 | (c & 0x3F));
        return 2;
    }
    if (c < 0x10000) {
        out[0] = (char)(0xE0 | c >> 12);
        out[1] = (char)(0x80 | (c >> 6 & 0x3F));
        out[2] = (char)(0x80 | (c & 0x3F));
        return 3;
    }
    out[0] = (char)(0xF0 | c >> 18);
    out[1] = (char)(0x80 | (c >> 12 & 0x3F));
    out[2] = (char)(0x80 | (c >> 6 & 0x3F));
    out[3] = (char)(0x80 | (c & 0x3F));
    return 4;
}

struct str utf8_clean(struct arena *a, struct str s)
{
    if (str_utf8(s))
        return s;
    char *out = arena_alloc(a, s.n * 3 + 1);
    size_t n = 0;
    for (size_t i = 0; i < s.n;) {
        uint32_t c;
        unsigned k = utf8_get(s.p + i, s.n - i, &c);
        if (k == 0) {
            memcpy(out + n, "\xEF\xBF\xBD", 3);
            n += 3;
            i++;
        } else {
            memcpy(out + n, s.p + i, k);
            n += k;
            i += k;
        }
    }
    out[n] = '\0';
    return (struct str){out, n};
}

/* Names that mail uses and iconv does not know, or that iconv reads more narrowly than senders do.
 */
static const struct {
    const char *mail, *iconv;
} aliases[] = {
    {"us-ascii", "UTF-8"},
    {"ascii", "UTF-8"},
    {"utf8", "UTF-8"},
    {"utf-8", "UTF-8"},
    {"unicode-1-1-utf-8", "UTF-8"},
    {"iso-8859-1", "WINDOWS-1252"},
    {"latin1", "WINDOWS-1252"},
    {"iso8859-1", "WINDOWS-1252"},
    {"ansi_x3.4-1968", "UTF-8"},
    {"gb2312", "GB18030"},
    {"gbk", "GB18030"},
    {"gb_2312-80", "GB18030"},
    {"ks_c_5601-1987", "CP949"},
    {"euc-kr", "CP949"},
    {"ks_c_5601", "CP949"},
    {"shift_jis", "CP932"},
    {"x-sjis", "CP932"},
    {"iso-8859-8-i", "ISO-8859-8"},
    {"iso-8859-6-i", "ISO-8859-6"},
    {"x-mac-roman", "MACINTOSH"},
    {"unicode", "UTF-16"},
    {"x-unknown", "UTF-8"},
    {"unknown-8bit", "UTF-8"},
    {"default", "UTF-8"},
    {"x-gbk", "GB18030"},
    {"tis-620", "CP874"},
    {"iso-8859-9", "WINDOWS-1254"},
};

/* False: nothing iconv may see.  A slash would reach iconv's options. */
static bool iconv_name(struct str name, char out[64])
{
    name = str_trim(name);
    if (name.n == 0 || name.n > 40)
        return false;
    for (size_t i = 0; i < name.n; i++) {
        char c = ascii_lower(name.p[i]);
        if (!(c >= 'a' && c <= 'z') && !ascii_digit(c) && c != '-' && c != '_' && c != '.' &&
            c != ':')
            return false;
    }
    for (size_t i = 0; i < sizeof aliases / sizeof *aliases; i++)
        if (str_eqiz(name, aliases[i].mail)) {
            memcpy(out, aliases[i].iconv, strlen(aliases[i].iconv) + 1);
            return true;
        }
    memcpy(out, name.p, name.n);
    out[name.n] = '\0';
    return true;
}

/* Opening a converter loads its table; those used last stay open.  Work threads convert too, so
 * each thread has its own. */
enum { CACHED = 6 };
static _Thread_local struct {
    char name[64];
    iconv_t cd;
    unsigned used;
} cache[CACHED];
static _Thread_local unsigned cache_clock;

static iconv_t cd_take(const char *name)
{
    for (unsigned i = 0; i < CACHED; i++)
        if (cache[i].name[0] && strcasecmp(cache[i].name, name) == 0) {
            iconv_t cd = cache[i].cd;
            cache[i].name[0] = '\0';
            iconv(cd, NULL, NULL, NULL, NULL);
            return cd;
        }
    return iconv_open("UTF-8", name);
}

static void cd_give(const char *name, iconv_t cd)
{
    unsigned oldest = 0;

    for (unsigned i = 0; i < CACHED; i++) {
        if (!cache[i].name[0]) {
            oldest = i;
            break;
        }
        if (cache[i].used < cache[oldest].used)
            oldest = i;
    }
    if (cache[oldest].name[0])
        iconv_close(cache[oldest].cd);
    memcpy(cache[oldest].name, name, strlen(name) + 1);
    cache[oldest].cd = cd;
    cache[oldest].used = ++cache_clock;
}

bool charset_known(struct str name)
{
    char n[64];

    if (!iconv_name(name, n))
        return false;
    if (strcmp(n, "UTF-8") == 0)
        return true;
    iconv_t cd = cd_take(n);
    if (cd == (iconv_t)-1)
        return false;
    cd_give(n, cd);
    return true;
}

/* Converts; *in moves.  Bad bytes become U+FFFD.  Stops at an incomplete character at the end. */
static bool convert(iconv_t cd, const char **in, size_t *left, struct buf *out)
{
    while (*left > 0) {
        char *room = buf_room(out, PIECE);
        size_t free_n = PIECE;
        if (room == NULL)
            return false;
        char *to = room;
        size_t r = iconv(cd, (char **)in, left, &to, &free_n);
        int why = errno;
        buf_added(out, PIECE - free_n);
        if (r != (size_t)-1)
            continue;
        if (why == EINVAL)
            return true;
        if (why == EILSEQ) {
            (*in)++;
            (*left)--;
            if (!buf_add(out, STR("\xEF\xBF\xBD")))
                return false;
        } else if (why != E2BIG) {
            return true;
        }
    }
    return true;
}

struct charset *charset_open(struct str name)
{
    struct charset *c = xcalloc(1, sizeof *c);
    char n[64];

    c->cd = (iconv_t)-1;
    if (!iconv_name(name, n) || strcmp(n, "UTF-8") == 0)
        c->utf8 = true;
    else if ((c->cd = iconv_open("UTF-8", n)) == (iconv_t)-1)
        c->utf8 = true;
    return c;
}

void charset_close(struct charset **cp)
{
    struct charset *c = *cp;

    *cp = NULL;
    if (c == NULL)
        return;
    if (c->cd != (iconv_t)-1)
        iconv_close(c->cd);
    free(c);
}

/* Could the bytes at the end of a piece become a character with those of the next? */
static bool may_continue(struct str s)
{
    unsigned char c = (unsigned char)s.p[0];

    if (c < 0xC2 || c > 0xF4 || s.n >= (c < 0xE0 ? 2u : c < 0xF0 ? 3u : 4u))
        return false;
    for (size_t i = 1; i < s.n; i++)
        if (((unsigned char)s.p[i] & 0xC0) != 0x80)
            return false;
    return true;
}

/* Copies UTF-8, replacing what is not; returns bytes used (an incomplete tail is left). */
static bool clean_feed(struct str s, bool last, size_t *used_r, struct buf *out)
{
    size_t i = 0, from = 0;

    while (i < s.n) {
        if ((unsigned char)s.p[i] < 0x80) {
            i++;
            continue;
        }
        uint32_t c;
        unsigned k = utf8_get(s.p + i, s.n - i, &c);
        if (k) {
            i += k;
            continue;
        }
        if (!last && may_continue(str_from(s, i)))
            break;
        if (i > from && !buf_add(out, str_make(s.p + from, i - from)))
            return false;
        if (!buf_add(out, STR("\xEF\xBF\xBD")))
            return false;
        from = ++i;
    }
    *used_r = i;
    return i == from || buf_add(out, str_make(s.p + from, i - from));
}

static bool feed_some(struct charset *c, struct str s, bool last, size_t *used_r, struct buf *out)
{
    if (c->utf8)
        return clean_feed(s, last, used_r, out);
    const char *in = s.p;
    size_t left = s.n;
    bool ok = convert(c->cd, &in, &left, out);
    *used_r = s.n - left;
    return ok;
}

bool charset_feed(struct charset *c, struct str bytes, bool last, struct buf *out)
{
    size_t used;

    while (c->left_n > 0 && bytes.n > 0) { /* finish the character begun before */
        c->left[c->left_n++] = bytes.p[0];
        bytes = str_from(bytes, 1);
        if (!feed_some(c, str_make(c->left, c->left_n), false, &used, out))
            return false;
        if (used == 0 && c->left_n == LEFT_MAX)
            used = 1;
        memmove(c->left, c->left + used, c->left_n - used);
        c->left_n -= used;
    }
    if (bytes.n > 0) {
        if (!feed_some(c, bytes, last, &used, out))
            return false;
        bytes = str_from(bytes, used);
        size_t n = bytes.n < LEFT_MAX - 1 ? bytes.n : LEFT_MAX - 1;
        if (n)
            memcpy(c->left, bytes.p, n);
        c->left_n = n;
    }
    if (last && c->left_n > 0) {
        c->left_n = 0;
        return buf_add(out, STR("\xEF\xBF\xBD"));
    }
    return true;
}

struct str charset_to_utf8(struct arena *a, struct str name, struct str bytes)
{
    char n[64];
    bool known = iconv_name(name, n);

    if (known && strcmp(n, "UTF-8") == 0)
        known = false;
    if (!known && str_utf8(bytes))
        return bytes;
    if (!known)
        memcpy(n, "WINDOWS-1252", 13);
    iconv_t cd = cd_take(n);
    if (cd == (iconv_t)-1)
        return str_utf8(bytes) ? bytes : charset_to_utf8(a, STR("windows-1252"), bytes);
    struct buf out;
    buf_init(&out, bytes.n * 4 + PIECE + 16);
    const char *in = bytes.p;
    size_t left = bytes.n;
    bool ok = convert(cd, &in, &left, &out);
    if (ok && left > 0)
        buf_add(&out, STR("\xEF\xBF\xBD"));
    struct str r = utf8_clean(a, arena_dup(a, buf_str(&out)));
    buf_free(&out);
    cd_give(n, cd);
    return r;
}

/* towlower() of a UTF-8 locale knows all scripts; a table spares the call for the characters of the
 * basic plane. */
static uint16_t lower[0x10000];
static bool lower_made;

static void make_lower(void)
{
    locale_t loc = newlocale(LC_CTYPE_MASK, "C.UTF-8", (locale_t)0);

    for (uint32_t c = 0; c < 0x10000; c++) {
        wint_t w = loc ? towlower_l((wint_t)c, loc) : (c < 0x80 ? towlower((wint_t)c) : c);
        lower[c] = (uint16_t)(w < 0x10000 && !(w >= 0xD800 && w <= 0xDFFF) ? w : c);
    }
    lower[0x3C2] = 0x3C3; /* final sigma searches like sigma */
    if (loc)
        freelocale(loc);
    __atomic_store_n(&lower_made, true, __ATOMIC_RELEASE);
}

size_t utf8_fold_into(struct str s, char *out)
{
    size_t n = 0;

    if (!__atomic_load_n(&lower_made, __ATOMIC_ACQUIRE))
        make_lower();
    for (size_t i = 0; i < s.n;) {
        if ((unsigned char)s.p[i] < 0x80) {
            out[n++] = ascii_lower(s.p[i++]);
            continue;
        }
        uint32_t c;
        unsigned k = utf8_get(s.p + i, s.n - i, &c);
        if (k == 0) {
            out[n++] = s.p[i++];
            continue;
        }
        char enc[4];
        unsigned w = utf8_put(c < 0x10000 ? lower[c] : c, enc);
        memcpy(out + n, enc, w);
        n += w;
        i += k;
    }
    return n;
}

struct str utf8_fold(struct arena *a, struct str s)
{
    char *out = arena_alloc(a, s.n * 2 + 1);
    size_t n = utf8_fold_into(s, out);
    out[n] = '\0';
    return (struct str){out, n};
}
