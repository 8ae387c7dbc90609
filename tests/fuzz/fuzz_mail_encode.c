/* Header sections, encoded words, transfer encodings, mailbox names: the first byte chooses. */
#include "mail/charset.h"
#include "mail/encode.h"
#include "mail/headers.h"

#include <stdlib.h>
#include <string.h>

static void headers(struct arena *a, struct str s)
{
    struct header_field f;
    size_t at = 0, last = 0;

    while (header_next(s, &at, &f)) {
        if (f.start != last || f.end <= f.start || f.end > s.n)
            abort();
        last = f.end;
        struct str v = word_decode(a, f.value);
        if (!str_utf8(v) || memchr(v.p ? v.p : "", '\n', v.n))
            abort();
    }
    if (header_end(s) > s.n)
        abort();
}

static void pieces(struct arena *a, enum transfer kind, struct str s)
{
    struct transfer_decoder d = {.kind = kind};
    char *out = arena_alloc(a, s.n + 64);
    size_t n = 0;

    for (size_t i = 0; i < s.n; i += 3) {
        char piece[16];
        size_t k = transfer_feed(&d, str_head(str_from(s, i), 3), false, piece);
        if (k > 11)
            abort();
        memcpy(out + n, piece, k);
        n += k;
    }
    n += transfer_feed(&d, STR(""), true, out + n);
    struct str whole = transfer_decode(a, kind, s);
    /* Blanks before a line end that came with another piece may stay in quoted-printable. */
    if (kind == TRANSFER_BASE64 && !str_eq(whole, str_make(out, n)))
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1)
        return 0;
    struct arena *a = arena_new(8192);
    struct str s = str_make(data + 1, size - 1), r, back;

    switch (data[0] % 5) {
    case 0:
        headers(a, s);
        break;
    case 1:
        pieces(a, TRANSFER_QP, s);
        if (!str_utf8(word_decode(a, word_encode(a, utf8_clean(a, s)))))
            abort();
        break;
    case 2:
        pieces(a, TRANSFER_BASE64, s);
        if (base64_decode(a, s, &r) && !str_eq(base64_encode(a, r), s))
            abort();
        break;
    case 3:
        if (mutf7_decode(a, s, &r) &&
            (!str_utf8(r) || !mutf7_decode(a, mutf7_encode(a, r), &back) || !str_eq(r, back)))
            abort();
        break;
    default: {
        struct str name = str_head(s, 10);
        struct str text = charset_to_utf8(a, name, str_from(s, 10));
        if (!str_utf8(text) || !str_utf8(utf8_fold(a, text)))
            abort();
        struct charset *c = charset_open(name);
        struct buf out;
        buf_init(&out, s.n * 8 + 8192);
        for (size_t i = 10; i < s.n; i += 5)
            charset_feed(c, str_head(str_from(s, i), 5), i + 5 >= s.n, &out);
        if (!str_utf8(buf_str(&out)))
            abort();
        buf_free(&out);
        charset_close(&c);
    }
    }
    arena_free(&a);
    return 0;
}
