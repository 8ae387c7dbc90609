#include "mail/build.h"

#include "mail/address.h"
#include "mail/date.h"
#include "mail/encode.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

enum { FOLD = 78, LINE_MAX_998 = 998 };

bool build_field(struct buf *b, const char *name, struct str value)
{
    size_t col = strlen(name) + 1;
    size_t i = 0;
    bool first = true;

    value = str_trim(value);
    if (!buf_addz(b, name) || !buf_addc(b, ':'))
        return false;
    while (i < value.n) {
        /* A word with the blanks before it. */
        size_t start = i;
        while (i < value.n && (unsigned char)value.p[i] <= ' ')
            i++;
        size_t blanks = i - start;
        size_t word = i;
        while (i < value.n && (unsigned char)value.p[i] > ' ')
            i++;
        if (i == word)
            break;
        bool fold = !first && col + (blanks ? blanks : 1) + (i - word) > FOLD;
        if (fold && !buf_addz(b, "\r\n"))
            return false;
        if (fold)
            col = 0;
        if (first || blanks == 0)
            blanks = 1;
        for (size_t k = 0; k < blanks; k++)
            if (!buf_addc(b, k < i - start && value.p[start + k] == '\t' && !first ? '\t' : ' '))
                return false;
        /* A word longer than a line may be (RFC 5322 2.1.1) is cut by force. */
        size_t from = word;
        while (i - from > LINE_MAX_998 - 80) {
            if (!buf_add(b, str_make(value.p + from, LINE_MAX_998 - 80)) || !buf_addz(b, "\r\n "))
                return false;
            from += LINE_MAX_998 - 80;
        }
        if (!buf_add(b, str_make(value.p + from, i - from)))
            return false;
        col += blanks + (i - word);
        first = false;
    }
    return buf_addz(b, "\r\n");
}

bool build_text_field(struct buf *b, const char *name, struct str utf8)
{
    struct arena *a = arena_new(utf8.n * 2);
    bool ok = build_field(b, name, word_encode(a, utf8));
    arena_free(&a);
    return ok;
}

struct str build_mailbox(struct arena *a, struct str name, struct str address)
{
    if (name.n == 0)
        return address;
    struct str enc = word_encode(a, name);
    if (!str_eq(enc, name))
        return arena_printf(a, "%.*s <%.*s>", STR_ARG(enc), STR_ARG(address));
    char *out = arena_alloc(a, name.n * 2 + address.n + 8);
    size_t n = 0;
    out[n++] = '"';
    for (size_t i = 0; i < name.n; i++) {
        if (name.p[i] == '"' || name.p[i] == '\\')
            out[n++] = '\\';
        out[n++] = name.p[i];
    }
    memcpy(out + n, "\" <", 3);
    n += 3;
    if (address.n)
        memcpy(out + n, address.p, address.n);
    n += address.n;
    out[n++] = '>';
    out[n] = '\0';
    return (struct str){out, n};
}

static uint64_t random64(void)
{
    uint64_t v;
    if (getrandom(&v, sizeof v, 0) != (ssize_t)sizeof v)
        abort(); /* cannot fail for 8 bytes after boot */
    return v;
}

struct str build_random(struct arena *a)
{
    return arena_printf(a, "%016llx", (unsigned long long)random64());
}

struct str build_message_id(struct arena *a, struct str host)
{
    return arena_printf(a, "<%llx.%016llx@%.*s>", (unsigned long long)date_now(),
                        (unsigned long long)random64(), STR_ARG(host));
}

struct str build_boundary(struct arena *a)
{
    return arena_printf(a, "=_%016llx_%08llx", (unsigned long long)random64(),
                        (unsigned long long)(random64() & 0xFFFFFFFF));
}

bool build_date(struct buf *b, int64_t ms, int zone)
{
    char text[DATE_TEXT];
    return build_field(b, "Date", date_emit(text, ms, zone));
}

/* A name from the network inside our line: only what cannot be mistaken for syntax. */
static struct str safe(struct arena *a, struct str s, bool blanks)
{
    s = str_head(s, 255);
    char *out = arena_alloc(a, s.n + 1);
    size_t n = 0;
    for (size_t i = 0; i < s.n; i++) {
        unsigned char c = (unsigned char)s.p[i];
        out[n++] = (c <= ' ' && !(c == ' ' && blanks)) || c == 127 || strchr("()<>;\"\\", c)
                       ? '?'
                       : (char)c;
    }
    out[n] = '\0';
    return (struct str){out, n};
}

bool build_received(struct buf *b, const struct build_received *r)
{
    struct arena *a = arena_new(1024);
    char date[DATE_TEXT];
    struct str helo = safe(a, r->helo.n ? r->helo : STR("unknown"), false);
    struct str reverse = safe(a, r->reverse.n ? r->reverse : STR("unknown"), false);
    bool six = str_chr(r->peer, ':') >= 0;
    const char *with = r->with & WITH_UTF8 ? "UTF8SMTP" : r->with & WITH_ESMTP ? "ESMTP" : "SMTP";
    bool ext = r->with & (WITH_ESMTP | WITH_UTF8);

    bool ok = buf_printf(b, "Received: from %.*s (%.*s [%s%.*s])\r\n", STR_ARG(helo),
                         STR_ARG(reverse), six ? "IPv6:" : "", STR_ARG(r->peer)) &&
              buf_printf(b, "\tby %.*s with %s%s%s id %.*s", STR_ARG(r->host), with,
                         ext && r->with & WITH_TLS ? "S" : "",
                         ext && r->with & WITH_AUTH ? "A" : "", STR_ARG(r->trace));
    if (ok && r->tls.n)
        ok = buf_printf(b, "\r\n\t(%.*s)", STR_ARG(safe(a, r->tls, true)));
    if (ok && r->rcpt.n)
        ok = buf_printf(b, "\r\n\tfor <%.*s>", STR_ARG(safe(a, r->rcpt, false)));
    if (ok) {
        struct str d = date_emit(date, r->at, r->zone);
        ok = buf_printf(b, ";\r\n\t%.*s\r\n", STR_ARG(d));
    }
    arena_free(&a);
    return ok;
}
