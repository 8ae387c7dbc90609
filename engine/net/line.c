#include "net/line.h"

enum line_result line_get(const struct buf *in, size_t max, struct str *line_r, size_t *used_r,
                          bool *bare_lf)
{
    struct str s = str_head(buf_str(in), max + 2);
    ptrdiff_t lf = str_chr(s, '\n');

    if (lf < 0) {
        /* A line of exactly `max` may be here with its CR and without its LF. */
        bool over = s.n > max + 1 || (s.n == max + 1 && s.p[max] != '\r');
        return over ? LINE_TOO_LONG : LINE_MORE;
    }
    size_t n = (size_t)lf;
    bool cr = n > 0 && s.p[n - 1] == '\r';
    if (bare_lf)
        *bare_lf = !cr;
    *used_r = n + 1;
    *line_r = str_head(s, cr ? n - 1 : n);
    return line_r->n > max ? LINE_TOO_LONG : LINE_OK;
}
