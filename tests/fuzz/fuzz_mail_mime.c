/* Part trees: input is a whole message; fed in pieces and whole, both must agree, and the packed
 * form must give the same tree. */
#include "core/limits.h"
#include "mail/headers.h"
#include "mail/mime.h"
#include "mail/structure.h"

#include <stdlib.h>

static void agree(const struct mime_part *x, const struct mime_part *y)
{
    for (; x && y; x = x->next, y = y->next) {
        if (x->kind != y->kind || x->body_start != y->body_start || x->body_end != y->body_end ||
            x->header_start != y->header_start || x->header_end != y->header_end ||
            x->lines != y->lines || !str_eq(x->type, y->type) || x->children != y->children)
            abort();
        agree(x->first, y->first);
    }
    if (x || y)
        abort();
}

static void check(struct arena *a, const struct mime_part *root, uint64_t size)
{
    uint32_t n = 0;

    for (const struct mime_part *p = root; p; p = mime_next(root, p)) {
        if (p->body_start > p->body_end || p->body_end > size || p->header_start > p->header_end)
            abort();
        if (p->parent &&
            (p->header_start < p->parent->body_start || p->body_end > p->parent->body_end))
            abort();
        mime_filename(a, p);
        if (++n < 50)
            mime_path(a, p);
    }
    if (n > MIME_PARTS_MAX)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct arena *a = arena_new(8192);
    struct str all = str_make(data, size);
    size_t h = header_end(all);
    struct str head = str_head(all, h), body = str_from(all, h);
    struct mime_part *root = mime_parse(a, head, body);
    struct mime_parser *p = mime_begin(a, head);

    for (size_t i = 0; i < body.n;) {
        size_t n = 1 + (i * 7 + size) % 13;
        mime_feed(p, str_head(str_from(body, i), n));
        i += n;
    }
    struct mime_part *pieces = mime_end(&p);
    check(a, root, body.n);
    agree(root, pieces);
    struct str packed = structure_pack(a, root);
    if (packed.p) {
        struct mime_part *again = structure_unpack(a, packed, head);
        if (again == NULL)
            abort();
        agree(root, again);
        check(a, again, body.n);
    }
    structure_unpack(a, all, STR("A: b\r\n\r\n"));
    arena_free(&a);
    return 0;
}
