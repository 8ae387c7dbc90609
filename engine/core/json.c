#include "core/json.h"

/* Length of the valid UTF-8 sequence at the front, or 0. */
static size_t sequence(struct str s)
{
    for (size_t n = 1; n <= 4 && n <= s.n; n++)
        if (str_utf8(str_head(s, n)))
            return n;
    return 0;
}

bool json_str(struct buf *b, struct str s)
{
    bool ok = buf_addc(b, '"');

    for (size_t i = 0; ok && i < s.n;) {
        unsigned char c = (unsigned char)s.p[i];
        if (c == '"' || c == '\\') {
            ok = buf_addc(b, '\\') && buf_addc(b, (char)c);
            i++;
        } else if (c < 0x20 || c == 0x7f) {
            ok = buf_printf(b, "\\u%04x", c == 0 ? 0xfffd : c);
            i++;
        } else if (c < 0x80) {
            ok = buf_addc(b, (char)c);
            i++;
        } else {
            size_t n = sequence(str_from(s, i));
            ok = n ? buf_add(b, str_make(s.p + i, n)) : buf_addz(b, "\xef\xbf\xbd");
            i += n ? n : 1;
        }
    }
    return ok && buf_addc(b, '"');
}
