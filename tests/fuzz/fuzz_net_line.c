/* Lines: however the bytes are cut into pieces, the same lines come out, none over the limit. */
#include "core/arena.h"
#include "net/line.h"

#include <stdlib.h>

enum { LINES_MAX = 4096 };

/* Returns how many lines there were; hashes of all, and whether one was too long. */
static size_t split(struct str all, size_t max, size_t piece, uint64_t *v, bool *over_r)
{
    struct buf b;
    struct str line;
    size_t used, n = 0;
    bool bare;

    *over_r = false;
    buf_init(&b, max + 2 + piece);
    for (size_t at = 0; at < all.n && !*over_r; at += piece) {
        if (!buf_add(&b, str_head(str_from(all, at), piece)))
            abort(); /* whole lines were taken out, so there is room */
        for (;;) {
            enum line_result r = line_get(&b, max, &line, &used, &bare);
            if (r == LINE_MORE)
                break;
            if (r == LINE_TOO_LONG) {
                *over_r = true;
                break;
            }
            if (line.n > max || used > b.len || used < line.n + 1 || used > line.n + 2 ||
                str_chr(line, '\n') >= 0 || bare != (used == line.n + 1))
                abort();
            if (n < LINES_MAX)
                v[n++] = str_hash(line);
            buf_consume(&b, used);
        }
    }
    buf_free(&b);
    return n;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint64_t one[LINES_MAX], other[LINES_MAX];
    bool over_one, over_other;

    if (size < 2 || size > 4000)
        return 0;
    size_t max = data[0] % 64 + 1u, piece = data[1] % 32 + 1u;
    struct str all = str_make(data + 2, size - 2);
    size_t n = split(all, max, all.n ? all.n : 1, one, &over_one);
    size_t m = split(all, max, piece, other, &over_other);
    if (n != m || over_one != over_other || memcmp(one, other, n * sizeof *one) != 0)
        abort();
    return 0;
}
